#version 450
// moe_linear: y[t][slot] = W[expert(t, slot)] x[t] for the routed experts of each token.
// OUT_SLOTS_ADD: added to y. OUT_SUM: weighted and summed over the slots. OUT_SUM_ADD: this sum,
// added to res. OUT_ACT: the activation of the product; with SwiGLU the upper half of an expert's
// rows makes gates, and y has half as many columns.
//
// A workgroup owns ROWS rows. Its lanes share the 32-element blocks of all slots that it sums.
// Experts that are not bound contribute nothing, so a matrix larger than a binding takes several
// dispatches, one after the other.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define WEIGHT_BINDING 0
#define CODEBOOK_BINDING 6
#include "weight.glsl"
#include "act.glsl"

layout(constant_id = SPEC_out) const uint OUT = OUT_SLOTS;
const bool SUMS = OUT == OUT_SUM || OUT == OUT_SUM_ADD;
layout(constant_id = SPEC_act) const uint ACT = 0;
layout(constant_id = SPEC_rows) const uint ROWS = 1;
const bool PAIRS = OUT == OUT_ACT && ACT == ACT_SWIGLU;
layout(push_constant) uniform Push { push_expert p; };
layout(set = 0, binding = 1) readonly buffer X { vec4 x[]; };
layout(set = 0, binding = 2) buffer Y { float y[]; };
layout(set = 0, binding = 3) readonly buffer Id { uint id[]; };
layout(set = 0, binding = 4) readonly buffer Wt { float wt[]; };
layout(set = 0, binding = 5) readonly buffer Res { float res[]; };      // [n_tok][n_out]

// The r-th row of the workgroup whose first is row0.
uint row_of(uint row0, uint r)
{
    return PAIRS ? (r & 1u) * (p.n_out / 2) + row0 / 2 + r / 2 : row0 + r;
}

// What is stored of the products a and, with PAIRS, of b, which a gates.
float result(uint t, uint to, uint row, float a, float b)
{
    if (PAIRS)
        return act_swiglu(vec4(a), vec4(b), p.limit).x;
    if (OUT == OUT_ACT)
        return act_relu2(vec4(a)).x;
    return OUT == OUT_SUM_ADD ? res[t * p.n_out + row] + a : OUT == OUT_SLOTS_ADD ? y[to] + a : a;
}

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, t = gl_WorkGroupID.z, n_block = (p.n_in + 31) / 32;
    uint slot0 = SUMS ? 0 : gl_WorkGroupID.y, n_slot = SUMS ? p.n_used : 1;
    if (!SUMS && id[t * p.id_stride + slot0] - p.expert0 >= p.n_expert)
        return;
    float acc[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        acc[r] = 0.0;
    for (uint i = lane(); i < n_slot * n_block; i += WG) {
        uint s = slot0 + i / n_block, b = i % n_block, e = id[t * p.id_stride + s] - p.expert0;
        if (e >= p.n_expert)
            continue;
        float part = SUMS ? wt[t * p.id_stride + s] : 1.0;
        vec4 v[8];
        vec2 v_sum = vec2(0.0);
        [[unroll]] for (uint j = 0; j < 8; j++) {
            v[j] = x[(t * p.x_stride + s * p.x_slot + clamp_in(32 * b + 4 * j, p.n_in)) / 4];
            if (HAS_MIN)
                v_sum += j < 4 ? vec2(dot(v[j], vec4(1)), 0) : vec2(0, dot(v[j], vec4(1)));
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            uint row = e * p.n_out + min(row_of(row0, r), p.n_out - 1);
            quants w = weight_quants(row * p.row_q, n_block, b);
            acc[r] += part * WEIGHT_DOT(w, v, 0, v_sum);
        }
    }
    float sum[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        sum[r] = wg_sum(acc[r]);
    const uint step = PAIRS ? 2 : 1;
    [[unroll]] for (uint r = 0; r < ROWS; r += step) {
        uint row = row_of(row0, r), to = t * p.y_stride + slot0 * p.y_slot + p.y_col + row;
        if (lane() == 0 && row < p.n_out / step)
            y[to] = result(t, to, row, sum[r], sum[min(r + 1, ROWS - 1)]);
    }
}
