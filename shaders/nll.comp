#version 450
// nll: what the negative log likelihood of a token is made of, one workgroup a row of logits.
//
// Of each row: the largest logit, how many there are of it, the sum of e^(l - largest) over the
// others, and the logit of the token that came. The largest ones are counted, not added: then the
// sum of the rest keeps its own precision however sure the model is. The logarithm is left to
// double precision (op_loss.c), since Vulkan's is good to 2^-21 only.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_nll p; };
layout(binding = 0) readonly buffer Logits { float l[]; };
layout(binding = 1) readonly buffer Step { step st; };
layout(binding = 2) readonly buffer Ids { uint ids[]; };
layout(binding = 3) writeonly buffer Out { vec4 o[]; };

shared float part[WG];

// Adds v to a sum whose rounding errors are carried along in lost (Kahan).
void add(inout float sum, inout float lost, float v)
{
    precise float w = v - lost;
    precise float t = sum + w;
    precise float gone = t - sum;
    precise float rest = gone - w;
    lost = rest;
    sum = t;
}

// e^(v - top), with what the subtraction rounds away (Knuth's TwoSum): logits of a sure model lie
// far apart.
float share(float v, float top)
{
    precise float d = v - top;
    precise float part_of_d = d - v;
    precise float left = v - (d - part_of_d);
    precise float gone = left - (top + part_of_d);
    float e = exp1(d);
    return d < -87.0 ? 0.0 : e + e * gone;      // also of -inf, whose gone is no number
}

// Sum over the workgroup of positive numbers, to a few roundings: subgroups add as trees, and
// their sums are added with what each addition loses. The same in every lane.
float exact_sum(float v)
{
    v = subgroupAdd(v);
    if (ONE_SUBGROUP != 0)
        return v;
    if (subgroupElect())
        part[gl_SubgroupID] = v;
    barrier();
    float sum = 0.0, lost = 0.0;
    for (uint i = 0; i < gl_NumSubgroups; i++)
        add(sum, lost, part[i]);
    barrier();
    return sum;
}

void main()
{
    uint row = gl_WorkGroupID.x, at = row * p.stride + p.col;
    uint first = at + lane(), end = at + p.n_vocab;
    float top = l[at];
    for (uint i = first; i < end; i += WG)
        top = max(top, l[i]);
    top = wg_max(top);

    float sum = 0.0, lost = 0.0, n_top = 0.0;
    bool bad = false;
    for (uint i = first; i < end; i += WG) {
        float v = l[i];
        if (v == top)
            n_top += 1.0;
        else if (v < top)
            add(sum, lost, share(v, top));
        else
            bad = true;                 // NaN, here or in all of the row
    }
    n_top = wg_sum(bad ? uintBitsToFloat(0x7fc00000u) : n_top);
    sum = exact_sum(sum - lost);
    if (lane() == 0) {
        uint id = ids[st.n_past + p.row0 + row + 1];
        o[p.row0 + row] = vec4(top, n_top, sum, l[at + min(id, p.n_vocab - 1)]);
    }
}
