#version 450
// moe_linear: y[t][slot] = W[expert(t, slot)] x[t] for the routed experts of each token.
// OUT_SLOTS_ADD: added to y. OUT_SUM: weighted and summed over the slots. OUT_SUM_ADD: this sum,
// added to res. A workgroup owns ROWS rows. Experts that are not bound contribute nothing, so a
// matrix larger than a binding takes several dispatches, one after the other.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define WEIGHT_BINDING 0
#define CODEBOOK_BINDING 6
#include "weight.glsl"

layout(constant_id = SPEC_out) const uint OUT = OUT_SLOTS;
const bool SUMS = OUT == OUT_SUM || OUT == OUT_SUM_ADD;
layout(constant_id = SPEC_rows) const uint ROWS = 1;
layout(push_constant) uniform Push { push_expert p; };
layout(set = 0, binding = 1) readonly buffer X { vec4 x[]; };
layout(set = 0, binding = 2) buffer Y { float y[]; };
layout(set = 0, binding = 3) readonly buffer Id { uint id[]; };
layout(set = 0, binding = 4) readonly buffer Wt { float wt[]; };
layout(set = 0, binding = 5) readonly buffer Res { float res[]; };      // [n_tok][n_out]

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, t = gl_WorkGroupID.z, n_block = (p.n_in + 31) / 32;
    uint slot0 = SUMS ? 0 : gl_WorkGroupID.y, slot1 = SUMS ? p.n_used : slot0 + 1;
    float acc[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        acc[r] = 0.0;
    for (uint s = slot0; s < slot1; s++) {
        uint e = id[t * p.id_stride + s] - p.expert0;
        if (e >= p.n_expert) {
            if (!SUMS)
                return;
            continue;
        }
        uint first = e * p.n_out;
        float part = SUMS ? wt[t * p.id_stride + s] : 1.0;
        for (uint b = lane(); b < n_block; b += WG) {
            vec4 v[8];
            [[unroll]] for (uint i = 0; i < 8; i++) {
                uint k = 32 * b + 4 * i;
                v[i] = k < p.n_in ? x[(t * p.x_stride + s * p.x_slot + k) / 4] * part : vec4(0);
            }
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                vec4 w[8];
                weight_block((first + min(row0 + r, p.n_out - 1)) * p.row_q, n_block, b, w);
                [[unroll]] for (uint i = 0; i < 8; i++)
                    acc[r] += dot(w[i], v[i]);
            }
        }
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        float sum = wg_sum(acc[r]);
        uint row = row0 + r;
        uint to = t * p.y_stride + slot0 * p.y_slot + p.y_col + row;
        if (lane() == 0 && row < p.n_out)
            y[to] = OUT == OUT_SUM_ADD ? res[t * p.n_out + row] + sum :
                    OUT == OUT_SLOTS_ADD ? y[to] + sum : sum;
    }
}
