#version 450
// mamba_chunk_out: the outputs of one (head, chunk), for rows of tokens and columns of head_dim:
//   y_i = exp(c_i) C_i S + sum over j <= i of (C_i B_j) exp(c_i - c_j) dt_j x_j + D x_i
// where S is the state at the beginning of the chunk. The factors of x_j, with D, are computed in
// workgroup memory, because every lane of a row needs them all.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };
layout(binding = 0) readonly buffer U1 { float u[]; };
layout(binding = 1) readonly buffer Gram { float gram[]; };     // [chunk][n_group][Q][Q]
layout(binding = 2) readonly buffer Sums { float sums[]; };
layout(binding = 3) readonly buffer States { float states[]; }; // [chunk][n_head][d_state]
layout(binding = 4) readonly buffer D { float d_skip[]; };      //   [head_dim]
layout(binding = 5) writeonly buffer O { float o[]; };          // [n_tok][d_inner]
#include "chunk.glsl"

shared vec4 factor[TILE * Q / 4];       // [TILE][Q]

void factors(uint head, uint group, uint first, uint n)
{
    uint from = (chunk() * p.n_group + group) * Q * Q, at = sums_at(head);
    float skip = d_skip[head];
    [[dont_unroll]] for (uint f = lane(); f < TILE * Q / 4; f += WG) {
        uint i = min(first + f / (Q / 4), Q - 1);
        vec4 v = vec4(0.0);
        [[unroll]] for (uint e = 0; e < 4; e++) {
            uint j = f % (Q / 4) * 4 + e;
            if (j <= i && j < n) {
                float past = sums[at + i] - sums[at + j] + (sums[at + Q + i] - sums[at + Q + j]);
                v[e] = gram[from + i * Q + j] * exp1(past) * sums[at + 2 * Q + j];
            }
            if (j == i)
                v[e] += skip;
        }
        factor[f] = v;
    }
}

void main()
{
    uint head = gl_WorkGroupID.x, hd = p.head_dim, group = head / (p.n_head / p.n_group);
    uint first = tile_row(Q), n = min(Q, p.n_tok - p.tok0 - chunk() * Q);
    if (first >= n)
        return;
    factors(head, group, first, n);
    barrier();

    uint of = lane_row(), row0 = first + of, col0 = tile_col(Q) + lane() % LANES;
    uint s = (chunk() * p.n_head + head) * p.d_state * hd, x = head * hd, col[COLS], c[ROWS];
    float acc[ROWS * COLS];
    [[unroll]] for (uint j = 0; j < COLS; j++)
        col[j] = min(col0 + j * LANES, hd - 1);
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        c[i] = (token(row0 + i) * p.u_stride + c_col(group)) / 4;
        [[unroll]] for (uint j = 0; j < COLS; j++)
            acc[i * COLS + j] = 0.0;
    }
    [[dont_unroll]] for (uint k = 0; k < p.d_state / 4; k++) {
        vec4 sk[COLS];
        [[unroll]] for (uint j = 0; j < COLS; j++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                sk[j][e] = states[s + (4 * k + e) * hd + col[j]];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 ck = u4[c[i] + k];
            [[unroll]] for (uint j = 0; j < COLS; j++)
                acc[i * COLS + j] += dot(ck, sk[j]);
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        uint at = sums_at(head) + min(row0 + i, Q - 1);
        float decay = exp1(sums[at] + sums[at + Q]);
        [[unroll]] for (uint j = 0; j < COLS; j++)
            acc[i * COLS + j] *= decay;
    }
    uint end = min(first + TILE, n);            // factors past it are zero
    [[dont_unroll]] for (uint k = 0; k < (end + 3) / 4; k++) {
        vec4 xk[COLS];
        [[unroll]] for (uint j = 0; j < COLS; j++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                xk[j][e] = u[token(4 * k + e) * p.u_stride + x + col[j]];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 f = factor[(of + i) * (Q / 4) + k];
            [[unroll]] for (uint j = 0; j < COLS; j++)
                acc[i * COLS + j] += dot(f, xk[j]);
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        [[unroll]] for (uint j = 0; j < COLS; j++)
            if (row0 + i < n && col0 + j * LANES < hd)
                o[(p.tok0 + chunk() * Q + row0 + i) * d_inner() + x + col[j]] = acc[i * COLS + j];
}
