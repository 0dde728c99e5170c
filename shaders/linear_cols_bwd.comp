#version 450
// linear_cols_bwd: dX without workgroup memory, the backward of linear_cols and the plain one. A
// lane owns TOKS tokens and the workgroup QUADS times 4 columns of x, within one block of W's rows.
// Of every row each lane unpacks a quad and passes it to all other lanes.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define CODEBOOK_BINDING 3
#define ENTRIES_BINDING 4
#include "linear_bwd.glsl"
#include "linear_many.glsl"

layout(constant_id = SPEC_quads) const uint QUADS = 8;  // 8, or fewer of F32
layout(constant_id = SPEC_toks) const uint TOKS = 1;
const uint OWN = WG < 8 ? 8 / WG : 1;

void main()
{
    owned o;
    if (!own_tokens(WG * TOKS, o))
        return;
    uint n_block = (p.n_in + 31) / 32, first = gl_WorkGroupID.x * QUADS, b = first / 8;
    uint row[TOKS];
    [[unroll]] for (uint c = 0; c < TOKS; c++)
        row[c] = y_row(o, min(lane() + c * WG, o.n - 1));
    vec4 acc[TOKS * QUADS];
    [[unroll]] for (uint i = 0; i < TOKS * QUADS; i++)
        acc[i] = vec4(0);

    // Four rows unrolled: a value carried around a loop costs a blend in each round.
    [[dont_unroll]] for (uint r = 0; r < p.n_out; r += 4) {
        vec4 d[TOKS];
        [[unroll]] for (uint c = 0; c < TOKS; c++)
            d[c] = load_dy(row[c], r);
        [[unroll]] for (uint e = 0; e < 4; e++) {
            uint w_row = (o.w_row + min(r + e, p.n_out - 1)) * p.row_q;
            vec4 own[OWN], w;
            [[unroll]] for (uint k = 0; k < OWN; k++)
                own[k] = weight4(w_row, n_block, b, (first + lane() + k * WG) % 8);
            [[unroll]] for (uint g = 0; g < QUADS; g++) {
                if (ONE_SUBGROUP == 0)
                    w = weight4(w_row, n_block, b, (first + g) % 8);
                else
                    w = subgroupShuffle(own[WG < 8 ? g / WG : 0], WG < 8 ? g % WG : g);
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[c * QUADS + g] += w * d[c][e];
            }
        }
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint at = (row[c] * p.dx_stride + p.dx_col) / 4 + first;
        if (lane() + c * WG < o.n)
            [[unroll]] for (uint g = 0; g < QUADS; g++)
                if ((first + g) * 4 < p.n_in)
                    dx4[at + g] += acc[c * QUADS + g];
    }
}
