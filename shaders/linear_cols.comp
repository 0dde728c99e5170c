#version 450
// linear_cols: matrix times many vectors, for CPU devices, where workgroup memory is not faster
// than other memory and a shuffle is one instruction. A lane owns TOKS tokens and the workgroup
// ROWS rows. For each step of four columns a lane unpacks the weights of its ROWS / WG rows and
// passes them to all other lanes.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define ENTRIES_BINDING 5
#define CODEBOOK_BINDING 7
#include "linear.glsl"
#include "linear_many.glsl"

layout(constant_id = SPEC_rows) const uint ROWS = 1;  // a multiple of WG
layout(constant_id = SPEC_toks) const uint TOKS = 1;
const uint OWN = ROWS / WG;

uint row_of(owned o, uint r) { return (o.w_row + min(r, p.n_out - 1)) * p.row_q; }

// A value for row r in all lanes: from the lane that has it, or read by all.
float scale_of(scales sc[OWN], uint r, uint w_row, uint n_block, uint b, bool upper, bool is_min)
{
    if (!is_min && (W_TYPE == F32 || W_TYPE == F16 || W_TYPE == BF16))
        return 1.0;
    if (ONE_SUBGROUP == 0) {
        scales s = weight_scales(w_row, n_block, b);
        return is_min ? (upper ? s.m.y : s.m.x) : upper ? s.d.y : s.d.x;
    }
    scales s = sc[r / WG];
    return subgroupShuffle(is_min ? (upper ? s.m.y : s.m.x) : upper ? s.d.y : s.d.x, r % WG);
}

void main()
{
    owned o;
    if (!own_tokens(WG * TOKS, o))
        return;
    uint row0 = gl_WorkGroupID.x * ROWS, n_block = (p.n_in + 31) / 32, from[TOKS], w_row[OWN];
    [[unroll]] for (uint c = 0; c < TOKS; c++)
        from[c] = x_row(o, min(lane() + c * WG, o.n - 1));
    [[unroll]] for (uint k = 0; k < OWN; k++)
        w_row[k] = row_of(o, row0 + lane() + k * WG);
    float acc[ROWS * TOKS];
    [[unroll]] for (uint i = 0; i < ROWS * TOKS; i++)
        acc[i] = 0.0;

    for (uint b = 0; b < n_block; b++) {
        uint n_quad = min(8u, (p.n_in - 32 * b + 3) / 4);
        uvec2 high[OWN];
        scales sc[OWN];
        float v_sum[TOKS];
        [[unroll]] for (uint k = 0; k < OWN; k++) {
            high[k] = weight_high(w_row[k], n_block, b);
            sc[k] = weight_scales(w_row[k], n_block, b);
        }
        [[unroll]] for (uint c = 0; c < TOKS; c++)
            v_sum[c] = 0.0;
        // These stay loops: unrolled they would be no faster and take eight times as long to
        // compile.
        [[dont_unroll]] for (uint upper = 0; upper < 2; upper++) {
            float part[ROWS * TOKS];
            if (MIN_HALVES)
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    v_sum[c] = 0.0;
            [[unroll]] for (uint i = 0; i < ROWS * TOKS; i++)
                part[i] = 0.0;
            [[dont_unroll]] for (uint g = 4 * upper; g < min(4 * upper + 4, n_quad); g++) {
                vec4 v[TOKS], own[OWN];
                [[unroll]] for (uint c = 0; c < TOKS; c++) {
                    v[c] = load_x(from[c], 32 * b + 4 * g);
                    if (HAS_MIN)
                        v_sum[c] += sum4(v[c]);
                }
                [[unroll]] for (uint k = 0; k < OWN; k++)
                    own[k] = weight_quad(w_row[k], high[k], b, g);
                [[unroll]] for (uint r = 0; r < ROWS; r++) {
                    vec4 q;
                    if (ONE_SUBGROUP != 0)
                        q = subgroupShuffle(own[r / WG], r % WG);
                    else
                        q = weight_quad(row_of(o, row0 + r), weight_high(row_of(o, row0 + r),
                                                                         n_block, b), b, g);
                    [[unroll]] for (uint c = 0; c < TOKS; c++)
                        part[r * TOKS + c] += dot(q, v[c]);
                }
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                uint row = row_of(o, row0 + r);
                float d = scale_of(sc, r, row, n_block, b, upper != 0, false), m = 0.0;
                if (MIN_HALVES)
                    m = scale_of(sc, r, row, n_block, b, upper != 0, true);
                [[unroll]] for (uint c = 0; c < TOKS; c++) {
                    acc[r * TOKS + c] += d * part[r * TOKS + c];
                    if (MIN_HALVES)
                        acc[r * TOKS + c] += m * v_sum[c];
                }
            }
        }
        if (HAS_MIN && !MIN_HALVES)
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                float m = scale_of(sc, r, row_of(o, row0 + r), n_block, b, false, true);
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[r * TOKS + c] += m * v_sum[c];
            }
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint j = lane() + c * WG, to = y_row(o, min(j, o.n - 1));
        float by = y_scale(from[c], to);
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (row0 + r < p.n_out && j < o.n)
                store_y(to, row0 + r, acc[r * TOKS + c] * by);
    }
}
