#version 450
// mamba_chunk_gram: C B^T of one (group of heads, chunk), which the heads of the group share. It
// also computes the running sums of dt A of every head, which the other kernels need.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };
layout(binding = 0) readonly buffer U1 { float u[]; };
layout(binding = 1) readonly buffer A { float ssm_a[]; };
layout(binding = 2) writeonly buffer Gram { float gram[]; };    // [chunk][n_group][Q][Q]
layout(binding = 3) writeonly buffer Sums { float sums[]; };
#include "chunk.glsl"

// Knuth's sum of two numbers: the low word gets what the high word loses.
void sum_head(uint head)
{
    float a = ssm_a[head], high = 0.0, low = 0.0;
    uint at = sums_at(head);
    [[dont_unroll]] for (uint i = 0; i < Q; i += 4) {       // four loads before the stores
        float dt[4];
        [[unroll]] for (uint e = 0; e < 4; e++) {
            float v = u[token(i + e) * p.u_stride + dt_col() + head];
            dt[e] = p.tok0 + chunk() * Q + i + e < p.n_tok ? v : 0.0;
        }
        [[unroll]] for (uint e = 0; e < 4; e++) {
            precise float g = a * dt[e];
            precise float t = high + g;
            precise float part = t - high;
            precise float rest = (high - (t - part)) + (g - part);
            high = t;
            low += rest;
            sums[at + i + e] = high;
            sums[at + Q + i + e] = low;
            sums[at + 2 * Q + i + e] = dt[e];
        }
    }
}

void main()
{
    uint group = gl_WorkGroupID.x, per_group = p.n_head / p.n_group;
    uint row0 = tile_row(Q) + lane_row(), col0 = tile_col(Q) + lane() % LANES;
    if (gl_WorkGroupID.z == 0)
        for (uint i = lane(); i < per_group; i += WG)
            sum_head(group * per_group + i);
    if (tile_col(Q) >= tile_row(Q) + TILE)      // all of it above the diagonal
        return;

    uint b[COLS], c[ROWS];
    float acc[ROWS * COLS];
    [[unroll]] for (uint j = 0; j < COLS; j++)
        b[j] = (token(col0 + j * LANES) * p.u_stride + b_col(group)) / 4;
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        c[i] = (token(row0 + i) * p.u_stride + c_col(group)) / 4;
        [[unroll]] for (uint j = 0; j < COLS; j++)
            acc[i * COLS + j] = 0.0;
    }
    [[dont_unroll]] for (uint k = 0; k < p.d_state / 4; k++) {
        vec4 bk[COLS];
        [[unroll]] for (uint j = 0; j < COLS; j++)
            bk[j] = u4[b[j] + k];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 ck = u4[c[i] + k];
            [[unroll]] for (uint j = 0; j < COLS; j++)
                acc[i * COLS + j] += dot(ck, bk[j]);
        }
    }
    uint at = (chunk() * p.n_group + group) * Q * Q;
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        [[unroll]] for (uint j = 0; j < COLS; j++)
            if (row0 + i < Q && col0 + j * LANES < Q)
                gram[at + (row0 + i) * Q + col0 + j * LANES] = acc[i * COLS + j];
}
