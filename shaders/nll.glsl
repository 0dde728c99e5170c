// nll: the numbers that give the negative log likelihood of a token, one workgroup per row of the
// logits l[], which the includer has declared.
//
// They are the largest logit, how many logits are equal to it, the sum of e^(l - largest) over the
// others, and the logit of the target. The largest ones are counted and not added, so that the sum
// of the rest keeps its precision even if the model is very sure. The logarithm is taken on the
// host in double precision (op_loss.c), since Vulkan promises an error of only 2^-21.
#include "sum.glsl"

// e^(v - top), corrected by what the subtraction rounds away (Knuth's TwoSum): the logits of a
// model that is sure lie far apart.
float share(float v, float top)
{
    precise float d = v - top;
    precise float part_of_d = d - v;
    precise float left = v - (d - part_of_d);
    precise float gone = left - (top + part_of_d);
    float e = exp1(d);
    return d < -87.0 ? 0.0 : e + e * gone;      // also for -inf, where gone is a NaN
}

// The first three numbers for n logits from `at` on, the same in every lane.
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
            bad = true;                 // a NaN: the whole row counts as NaN
    }
    n_top = wg_sum(bad ? uintBitsToFloat(0x7fc00000u) : n_top);
    return vec3(top, n_top, exact_sum(sum - lost));
}
