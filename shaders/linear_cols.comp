#version 450
// linear_cols: matrix times many vectors where workgroup memory is no faster than a load (CPU
// devices). A lane owns TOKS tokens and the workgroup ROWS rows: weights are uniform loads,
// unpacked once for all lanes and tokens, and no lane talks to another.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "linear.glsl"
#include "linear_many.glsl"

layout(constant_id = 3) const uint ROWS = 1;
layout(constant_id = 4) const uint TOKS = 1;

void main()
{
    owned o;
    if (!own_tokens(WG * TOKS, o))
        return;
    uint row0 = gl_WorkGroupID.x * ROWS, n_block = (p.n_in + 31) / 32, from[TOKS];
    [[unroll]] for (uint c = 0; c < TOKS; c++)
        from[c] = x_row(o, min(lane() + c * WG, o.n - 1));
    float acc[ROWS * TOKS];
    [[unroll]] for (uint i = 0; i < ROWS * TOKS; i++)
        acc[i] = 0.0;

    for (uint b = 0; b < n_block; b++) {
        vec4 v[TOKS * 8];
        float v_sum[TOKS];
        [[unroll]] for (uint c = 0; c < TOKS; c++) {
            v_sum[c] = 0.0;
            [[unroll]] for (uint i = 0; i < 8; i++) {
                v[c * 8 + i] = load_x(from[c], 32 * b + 4 * i);
                if (HAS_MIN)
                    v_sum[c] += sum4(v[c * 8 + i]);
            }
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            quants w = weight_quants((o.w_row + min(row0 + r, p.n_out - 1)) * p.row_q, n_block, b);
            [[unroll]] for (uint c = 0; c < TOKS; c++)
                acc[r * TOKS + c] += WEIGHT_DOT(w, v, c * 8, v_sum[c]);
        }
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint j = lane() + c * WG, to = y_row(o, min(j, o.n - 1));
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (row0 + r < p.n_out && j < o.n)
                store_y(to, row0 + r, acc[r * TOKS + c]);
    }
}
