#version 450
// linear_each: a matrix times a few vectors, for CPU devices. Each product has the bits that
// linear.comp gives it: the sum for a lane of linear.comp is made of the same blocks in the same
// order, and the sums for lanes are added as a subgroup adds them there.
//
// LANES lanes have one token each, or TOKS of them, and the subgroup has WG / LANES such groups,
// which share the workgroup's ROWS rows. A lane unpacks the weights of ROWS / WG rows and passes
// them to the lanes that own these rows.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define CODEBOOK_BINDING 5
#include "linear.glsl"
#include "linear_sum.glsl"

layout(constant_id = SPEC_rows) const uint ROWS = 1;  // a multiple of WG
layout(constant_id = SPEC_lanes) const uint LANES = 1; // divides WG
layout(constant_id = SPEC_toks) const uint TOKS = 1;
const uint GROUPS = WG / LANES;
const uint OWN = ROWS / WG;         // rows that a lane unpacks
const uint SUMS = ROWS / GROUPS;    // rows that a lane sums

uint row_at(uint r) { return min(r, p.n_out - 1) * p.row_q; }

// The lane that unpacks the r-th row of this lane's group.
uint owner(uint r) { return r % LANES * GROUPS + lane() / LANES; }

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, tok0 = gl_WorkGroupID.y * LANES * TOKS;
    uint n_block = (p.n_in + 31) / 32, from[TOKS], w_row[OWN];
    [[unroll]] for (uint c = 0; c < TOKS; c++)
        from[c] = min(tok0 + lane() % LANES + c * LANES, p.n_tok - 1);
    [[unroll]] for (uint k = 0; k < OWN; k++)
        w_row[k] = row_at(row0 + k * WG + lane());
    float sum[SUMS * TOKS];
    [[unroll]] for (uint i = 0; i < SUMS * TOKS; i++)
        sum[i] = 0.0;

    [[dont_unroll]] for (uint first = 0; first < min(WG, n_block); first++) {
        float acc[SUMS * TOKS];
        [[unroll]] for (uint i = 0; i < SUMS * TOKS; i++)
            acc[i] = 0.0;
        [[dont_unroll]] for (uint b = first; b < n_block; b += WG) {
            uint n_quad = min(8u, (p.n_in - 32 * b + 3) / 4);
            uvec2 high[OWN];
            scales sc[OWN];
            vec2 v_sum[TOKS];
            float lo[SUMS * TOKS], hi[SUMS * TOKS];
            [[unroll]] for (uint k = 0; k < OWN; k++) {
                high[k] = weight_high(w_row[k], n_block, b);
                sc[k] = weight_scales(w_row[k], n_block, b);
            }
            [[unroll]] for (uint c = 0; c < TOKS; c++)
                v_sum[c] = vec2(0.0);
            [[unroll]] for (uint i = 0; i < SUMS * TOKS; i++)
                hi[i] = 0.0;
            [[dont_unroll]] for (uint upper = 0; upper < 2; upper++) {
                [[unroll]] for (uint i = 0; i < SUMS * TOKS; i++) {
                    lo[i] = hi[i];
                    hi[i] = 0.0;
                }
                [[dont_unroll]] for (uint g = 4 * upper; g < min(4 * upper + 4, n_quad); g++) {
                    vec4 v[TOKS], own[OWN];
                    [[unroll]] for (uint c = 0; c < TOKS; c++) {
                        v[c] = x[(from[c] * p.x_stride + p.x_col + 32 * b + 4 * g) / 4];
                        if (HAS_MIN)
                            v_sum[c] += upper == 0 ? vec2(sum4(v[c]), 0) : vec2(0, sum4(v[c]));
                    }
                    [[unroll]] for (uint k = 0; k < OWN; k++)
                        own[k] = weight_quad(w_row[k], high[k], b, g);
                    [[unroll]] for (uint r = 0; r < SUMS; r++) {
                        vec4 q = subgroupShuffle(own[r / LANES], owner(r));
                        [[unroll]] for (uint c = 0; c < TOKS; c++)
                            hi[r * TOKS + c] += dot(q, v[c]);
                    }
                }
            }
            [[unroll]] for (uint r = 0; r < SUMS; r++) {
                vec2 d = vec2(1.0), m = vec2(0.0);
                if (W_TYPE != F32 && W_TYPE != F16 && W_TYPE != BF16)
                    d = subgroupShuffle(sc[r / LANES].d, owner(r));
                if (HAS_MIN)
                    m = subgroupShuffle(sc[r / LANES].m, owner(r));
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[r * TOKS + c] = add_block(acc[r * TOKS + c], d, m, lo[r * TOKS + c],
                                                  hi[r * TOKS + c], v_sum[c]);
            }
        }
        [[unroll]] for (uint i = 0; i < SUMS * TOKS; i++)
            sum[i] += acc[i];
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint t = tok0 + lane() % LANES + c * LANES;
        float by = y_scale(from[c], from[c]);
        [[unroll]] for (uint r = 0; r < SUMS; r++) {
            uint row = row0 + r * GROUPS + lane() / LANES;
            if (row < p.n_out && t < p.n_tok)
                store_y(t, row, sum[r * TOKS + c] * by);
        }
    }
}
