#version 450
// moe_route: the n_used best experts of each token (the lower index on a tie) and their weights.
// ROUTE_SOFTMAX: chooses by logit; the weights are the softmax over the chosen logits.
// ROUTE_SIGMOID: chooses by sigmoid plus bias, within the best groups of experts if there are
// groups (a group is as good as its two best experts together); weights do not include the bias.
// ROUTED: the experts are already chosen and only get their weights. COUNT: counts the choices; for
// a row of documents (DOCS), without tokens of padding. One workgroup per token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_route) const uint ROUTE = ROUTE_SOFTMAX;
layout(constant_id = SPEC_routed) const uint ROUTED = 0;
layout(constant_id = SPEC_count) const uint COUNT = 0;
layout(constant_id = SPEC_docs) const uint DOCS = 0;
layout(push_constant) uniform Push { push_route p; };
layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) buffer Id { uint id[]; };                   // [n_tok][id_stride]
layout(binding = 2) writeonly buffer Wt { float wt[]; };        // [n_tok][id_stride]
layout(binding = 3) readonly buffer Bias { float bias[]; };     // [n_expert], only ROUTE_SIGMOID
layout(binding = 4) buffer Load { uint load[]; };               // [n_expert], only COUNT
layout(binding = 5) readonly buffer Real { uint real[]; };      // [n_tok], only DOCS

const uint MAX_EXPERT = 512, MAX_USED = 64, MAX_GROUP = 64;
#define NEVER uintBitsToFloat(0xff800000u)      // minus infinity
shared float left[MAX_EXPERT];
shared uint chosen[MAX_USED];
shared float weight[MAX_USED];  // softmax: the logit
shared float group[MAX_GROUP];

void keep_best_groups()
{
    uint size = p.n_expert / p.n_group;
    for (uint g = lane(); g < p.n_group; g += WG) {
        float a = left[g * size], b = NEVER;
        for (uint i = 1; i < size; i++) {
            float v = left[g * size + i];
            b = max(b, min(a, v));
            a = max(a, v);
        }
        group[g] = size > 1 ? a + b : a;
    }
    barrier();
    for (uint g = lane(); g < p.n_group; g += WG) {
        uint better = 0;
        for (uint o = 0; o < p.n_group; o++)
            if (group[o] > group[g] || (group[o] == group[g] && o < g))
                better++;
        for (uint i = 0; better >= p.n_group_used && i < size; i++)
            left[g * size + i] = NEVER;
    }
    barrier();
}

void choose(uint at)
{
    for (uint e = lane(); e < p.n_expert; e += WG)
        left[e] = ROUTE == ROUTE_SIGMOID ? sigmoid(x[at + e]) + bias[e] : x[at + e];
    barrier();
    if (ROUTE == ROUTE_SIGMOID && p.n_group > 1)
        keep_best_groups();
    for (uint s = 0; s < p.n_used; s++) {
        float best = NEVER;
        for (uint e = lane(); e < p.n_expert; e += WG)
            best = max(best, left[e]);
        best = wg_max(best);
        // the first of the experts with the maximum: the largest -index, which f32 does not round
        float first = -float(MAX_EXPERT);
        for (uint e = lane(); e < p.n_expert; e += WG)
            if (left[e] == best)
                first = max(first, -float(e));
        uint e = min(uint(-wg_max(first)), p.n_expert - 1);
        if (lane() == 0) {
            chosen[s] = e;
            weight[s] = ROUTE == ROUTE_SIGMOID ? sigmoid(x[at + e]) : best;
            left[e] = NEVER;
        }
        barrier();
    }
}

void main()
{
    uint t = gl_WorkGroupID.x, at = t * p.x_stride + p.x_col, to = t * p.id_stride;
    if (ROUTED != 0) {
        for (uint s = lane(); s < p.n_used; s += WG) {
            float v = x[at + id[to + s]];
            weight[s] = ROUTE == ROUTE_SIGMOID ? sigmoid(v) : v;
        }
        barrier();
    } else {
        choose(at);
    }
    float sum = 0.0, by = 1.0, top = weight[0];
    for (uint s = 1; s < p.n_used; s++)
        top = max(top, weight[s]);      // with ROUTED, not always that of slot 0
    for (uint s = 0; s < p.n_used; s++)
        sum += ROUTE == ROUTE_SIGMOID ? weight[s] : exp1(weight[s] - top);
    if (ROUTE == ROUTE_SIGMOID)
        by = p.renorm != 0 ? p.scale / (sum + 1e-20) : p.scale;
    bool counts = COUNT != 0 && (DOCS == 0 || real[t] != 0);
    for (uint s = lane(); s < p.n_used; s += WG) {
        if (ROUTED == 0)
            id[to + s] = chosen[s];
        if (counts)
            atomicAdd(load[chosen[s]], 1u);
        wt[to + s] = ROUTE == ROUTE_SIGMOID ? weight[s] * by : exp1(weight[s] - top) / sum;
    }
}
