#version 450
// linear_cols: matrix times many vectors where workgroup memory is no faster than a load (CPU devices).
// A lane owns TOKS tokens and the workgroup ROWS rows: weights are uniform loads, unpacked once for all lanes
// and tokens, and no lane talks to another.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "linear.glsl"

layout(constant_id = 3) const uint ROWS = 1;
layout(constant_id = 4) const uint TOKS = 1;

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, n_block = (p.n_in + 31) / 32;
    uint tok0 = gl_WorkGroupID.y * WG * TOKS + lane();
    float acc[ROWS * TOKS];
    [[unroll]] for (uint i = 0; i < ROWS * TOKS; i++)
        acc[i] = 0.0;

    for (uint b = 0; b < n_block; b++) {
        vec4 v[TOKS * 8];
        [[unroll]] for (uint c = 0; c < TOKS; c++)
            [[unroll]] for (uint i = 0; i < 8; i++)
                v[c * 8 + i] = load_x(min(tok0 + c * WG, p.n_tok - 1), 32 * b + 4 * i);
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            vec4 w[8];
            weight_block(min(row0 + r, p.n_out - 1) * p.row_q, n_block, b, w);
            [[unroll]] for (uint c = 0; c < TOKS; c++)
                [[unroll]] for (uint i = 0; i < 8; i++)
                    acc[r * TOKS + c] += dot(w[i], v[c * 8 + i]);
        }
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        [[unroll]] for (uint c = 0; c < TOKS; c++)
            if (row0 + r < p.n_out && tok0 + c * WG < p.n_tok)
                store_y(tok0 + c * WG, row0 + r, acc[r * TOKS + c]);
}
