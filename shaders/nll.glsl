// nll: what the negative log likelihood of a token is made of, one workgroup a row of the logits
// l[], which the includer has declared.
//
// Of each row: the largest logit, how many there are of it, the sum of e^(l - largest) over the
// others, and the logit of the token that came. The largest ones are counted, not added: then the
// sum of the rest keeps its own precision however sure the model is. The logarithm is left to
// double precision (op_loss.c), since Vulkan's is good to 2^-21 only.
#include "sum.glsl"

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

// The first three of n logits from `at` on, the same in every lane.
vec3 nll_parts(uint at, uint n)
{
    uint first = at + lane(), end = at + n;
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
    return vec3(top, n_top, exact_sum(sum - lost));
}
