#version 450
// mamba_chunk_state: what the tokens of one chunk add to the state of a head, for rows of d_state
// and columns of head_dim: the sum over them of B_j dt_j exp(c_last - c_j) x_j.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };
layout(binding = 0) readonly buffer U1 { float u[]; };
layout(binding = 1) readonly buffer Sums { float sums[]; };
layout(binding = 2) writeonly buffer States { float states[]; };    // [chunk][n_head][d_state]
#include "chunk.glsl"                                               //   [head_dim]

shared float weight[Q];

void main()
{
    uint head = gl_WorkGroupID.x, hd = p.head_dim, ds = p.d_state, at = sums_at(head);
    for (uint i = lane(); i < Q; i += WG) {
        float past = sums[at + Q - 1] - sums[at + i] + (sums[at + 2 * Q - 1] - sums[at + Q + i]);
        weight[i] = sums[at + 2 * Q + i] * exp1(past);
    }
    barrier();

    uint row0 = tile_row(ds) + lane_row(), col0 = tile_col(ds) + lane() % LANES;
    uint b[ROWS / 4], x[COLS];
    vec4 acc[ROWS / 4 * COLS];
    [[unroll]] for (uint j = 0; j < COLS; j++)
        x[j] = head * hd + min(col0 + j * LANES, hd - 1);
    [[unroll]] for (uint i = 0; i < ROWS / 4; i++) {
        b[i] = (b_col(head / (p.n_head / p.n_group)) + min(row0 + 4 * i, ds - 4)) / 4;
        [[unroll]] for (uint j = 0; j < COLS; j++)
            acc[i * COLS + j] = vec4(0.0);
    }
    uint n = min(Q, p.n_tok - p.tok0 - chunk() * Q);
    [[dont_unroll]] for (uint k = 0; k < n; k++) {
        uint t = (p.tok0 + chunk() * Q + k) * p.u_stride;
        float xk[COLS];
        [[unroll]] for (uint j = 0; j < COLS; j++)
            xk[j] = u[t + x[j]] * weight[k];
        [[unroll]] for (uint i = 0; i < ROWS / 4; i++) {
            vec4 bk = u4[t / 4 + b[i]];
            [[unroll]] for (uint j = 0; j < COLS; j++)
                acc[i * COLS + j] += bk * xk[j];
        }
    }
    uint to = (chunk() * p.n_head + head) * ds * hd;
    [[unroll]] for (uint i = 0; i < ROWS / 4; i++)
        [[unroll]] for (uint j = 0; j < COLS; j++)
            if (row0 + 4 * i < ds && col0 + j * LANES < hd)
                [[unroll]] for (uint e = 0; e < 4; e++)
                    states[to + (row0 + 4 * i + e) * hd + col0 + j * LANES] =
                        acc[i * COLS + j][e];
}
