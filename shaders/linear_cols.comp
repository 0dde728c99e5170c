#version 450
// linear_cols: matrix times many vectors where workgroup memory is no faster than a load (CPU
// devices). A lane owns TOKS tokens and the workgroup ROWS rows: weights are uniform loads,
// unpacked once for all lanes and tokens, and no lane talks to another.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define ENTRIES_BINDING 5
#define GRID_BINDING 7
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

    uint w_row[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        w_row[r] = (o.w_row + min(row0 + r, p.n_out - 1)) * p.row_q;

    for (uint b = 0; b < n_block; b++) {
        float v_sum[TOKS];
        uvec2 high[ROWS];
        scales sc[ROWS];
        [[unroll]] for (uint c = 0; c < TOKS; c++)
            v_sum[c] = 0.0;
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            high[r] = weight_high(w_row[r], n_block, b);
            sc[r] = weight_scales(w_row[r], n_block, b);
        }
        // These stay loops: a block unrolled runs no faster and compiles eight times as long.
        [[dont_unroll]] for (uint upper = 0; upper < 2; upper++) {
            float part[ROWS * TOKS];
            if (MIN_HALVES)
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    v_sum[c] = 0.0;
            [[unroll]] for (uint i = 0; i < ROWS * TOKS; i++)
                part[i] = 0.0;
            [[dont_unroll]] for (uint g = 4 * upper; g < 4 * upper + 4; g++) {
                vec4 v[TOKS];
                [[unroll]] for (uint c = 0; c < TOKS; c++) {
                    v[c] = load_x(from[c], 32 * b + 4 * g);
                    if (HAS_MIN)
                        v_sum[c] += sum4(v[c]);
                }
                [[unroll]] for (uint r = 0; r < ROWS; r++) {
                    vec4 q = weight_quad(w_row[r], high[r], b, g);
                    [[unroll]] for (uint c = 0; c < TOKS; c++)
                        part[r * TOKS + c] += dot(q, v[c]);
                }
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                [[unroll]] for (uint c = 0; c < TOKS; c++) {
                    acc[r * TOKS + c] += (upper == 0 ? sc[r].d.x : sc[r].d.y) * part[r * TOKS + c];
                    if (MIN_HALVES)
                        acc[r * TOKS + c] += (upper == 0 ? sc[r].m.x : sc[r].m.y) * v_sum[c];
                }
        }
        if (HAS_MIN && !MIN_HALVES)
            [[unroll]] for (uint r = 0; r < ROWS; r++)
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[r * TOKS + c] += sc[r].m.x * v_sum[c];
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint j = lane() + c * WG, to = y_row(o, min(j, o.n - 1));
        float by = y_scale(to);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (row0 + r < p.n_out && j < o.n)
                store_y(to, row0 + r, acc[r * TOKS + c] * by);
    }
}
