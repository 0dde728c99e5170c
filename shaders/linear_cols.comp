#version 450
// linear_cols: matrix times many vectors where workgroup memory is no faster than a load and a
// shuffle is one instruction (CPU devices). A lane owns TOKS tokens and the workgroup ROWS rows;
// for a step of four columns each lane unpacks the weights of its own rows, ROWS / WG, and hands
// them to all others.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define ENTRIES_BINDING 5
#define GRID_BINDING 7
#include "linear.glsl"
#include "linear_many.glsl"

layout(constant_id = 3) const uint ROWS = 1;        // a multiple of WG
layout(constant_id = 4) const uint TOKS = 1;
const uint OWN = ROWS / WG;

void main()
{
    owned o;
    if (!own_tokens(WG * TOKS, o))
        return;
    uint row0 = gl_WorkGroupID.x * ROWS, n_block = (p.n_in + 31) / 32, from[TOKS], w_row[OWN];
    [[unroll]] for (uint c = 0; c < TOKS; c++)
        from[c] = x_row(o, min(lane() + c * WG, o.n - 1));
    [[unroll]] for (uint k = 0; k < OWN; k++)
        w_row[k] = (o.w_row + min(row0 + lane() + k * WG, p.n_out - 1)) * p.row_q;
    float acc[ROWS * TOKS];
    [[unroll]] for (uint i = 0; i < ROWS * TOKS; i++)
        acc[i] = 0.0;

    for (uint b = 0; b < n_block; b++) {
        uvec2 high[OWN];
        scales sc[OWN];
        [[unroll]] for (uint k = 0; k < OWN; k++) {
            high[k] = weight_high(w_row[k], n_block, b);
            sc[k] = weight_scales(w_row[k], n_block, b);
        }
        uint n_quad = min(8u, (p.n_in - 32 * b + 3) / 4);
        [[dont_unroll]] for (uint g = 0; g < n_quad; g++) {
            vec4 v[TOKS], own[OWN];
            [[unroll]] for (uint c = 0; c < TOKS; c++)
                v[c] = load_x(from[c], 32 * b + 4 * g);
            [[unroll]] for (uint k = 0; k < OWN; k++) {
                own[k] = weight_quad(w_row[k], high[k], b, g) * (g < 4 ? sc[k].d.x : sc[k].d.y);
                if (HAS_MIN)
                    own[k] += g < 4 ? sc[k].m.x : sc[k].m.y;
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                vec4 q;
                if (ONE_SUBGROUP != 0)
                    q = subgroupShuffle(own[r / WG], r % WG);
                else
                    q = weight4((o.w_row + min(row0 + r, p.n_out - 1)) * p.row_q, n_block, b, g);
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[r * TOKS + c] += dot(q, v[c]);
            }
        }
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint j = lane() + c * WG, to = y_row(o, min(j, o.n - 1));
        float by = y_scale(to);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (row0 + r < p.n_out && j < o.n)
                store_y(to, row0 + r, acc[r * TOKS + c] * by);
    }
}
