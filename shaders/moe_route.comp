#version 450
// moe_route: softmax over all experts, the n_used largest (the lower index on a tie), weights
// divided by their sum - which is the softmax over the chosen logits alone. One workgroup a token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_route p; };
layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) writeonly buffer Id { uint id[]; };         // [n_tok][id_stride]
layout(binding = 2) writeonly buffer Wt { float wt[]; };        // [n_tok][id_stride]

const uint MAX_EXPERT = 512, MAX_USED = 64;
shared float left[MAX_EXPERT];
shared uint chosen[MAX_USED];
shared float logit[MAX_USED];

void main()
{
    uint t = gl_WorkGroupID.x, at = t * p.x_stride + p.x_col;
    for (uint e = lane(); e < p.n_expert; e += WG)
        left[e] = x[at + e];
    barrier();
    for (uint s = 0; s < p.n_used; s++) {
        float best = uintBitsToFloat(0xff800000u);
        for (uint e = lane(); e < p.n_expert; e += WG)
            best = max(best, left[e]);
        best = wg_max(best);
        // of the experts that reach the maximum, the first: the largest of -index, exact in f32
        float first = -float(MAX_EXPERT);
        for (uint e = lane(); e < p.n_expert; e += WG)
            if (left[e] == best)
                first = max(first, -float(e));
        uint e = min(uint(-wg_max(first)), p.n_expert - 1);
        if (lane() == 0) {
            chosen[s] = e;
            logit[s] = best;
            left[e] = uintBitsToFloat(0xff800000u);
        }
        barrier();
    }
    float sum = 0.0;
    for (uint s = 0; s < p.n_used; s++)
        sum += exp1(logit[s] - logit[0]);
    for (uint s = lane(); s < p.n_used; s += WG) {
        id[t * p.id_stride + s] = chosen[s];
        wt[t * p.id_stride + s] = exp1(logit[s] - logit[0]) / sum;
    }
}
