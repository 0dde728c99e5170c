// common: extensions, the workgroup, reductions over it, and accurate exp and log. Vulkan promises
// little accuracy for exp, log, sin and cos, and drivers differ, so those on which the model's
// numbers depend are written out here and in rope.glsl.
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_control_flow_attributes : require

// SPEC_name: the id of a specialization constant.
#define CONSTANT(id, name) const int SPEC_##name = id;
#include "spec.def"
#undef CONSTANT

layout(local_size_x_id = SPEC_wg) in;
#define WG gl_WorkGroupSize.x

// 1: the workgroup is known to be one subgroup; set by cmd_dispatch. A shader without a barrier in
// its reductions starts several times faster on a CPU device.
layout(constant_id = SPEC_one_subgroup) const uint ONE_SUBGROUP = 0;

#include "push.h"

uint lane() { return gl_LocalInvocationIndex; }

shared float wg_tmp[WG];

// Sum of v over the workgroup, the same in every lane. Call it in uniform control flow.
// Works for any subgroup size and any mapping of lanes to subgroups.
float wg_sum(float v)
{
    v = subgroupAdd(v);
    if (ONE_SUBGROUP != 0)
        return v;
    if (subgroupElect())
        wg_tmp[gl_SubgroupID] = v;
    barrier();
    v = 0.0;
    for (uint i = 0; i < gl_NumSubgroups; i++)
        v += wg_tmp[i];
    barrier();
    return v;
}

float wg_max(float v)
{
    v = subgroupMax(v);
    if (ONE_SUBGROUP != 0)
        return v;
    if (subgroupElect())
        wg_tmp[gl_SubgroupID] = v;
    barrier();
    v = wg_tmp[0];
    for (uint i = 1; i < gl_NumSubgroups; i++)
        v = max(v, wg_tmp[i]);
    barrier();
    return v;
}

// e^x to about one unit in the last place; 0 below -87. The argument is reduced by ln 2 in two
// parts, whose products with the exponent are not rounded (Cody and Waite). The polynomial has
// degree 6 (Cephes' expf).
float exp1(float x)
{
    x = min(x, 88.0);
    float n = round(x * 1.44269504);
    float r = (x - n * 0.693359375) - n * -2.12194440e-4;
    float p = 1.9875691500e-4;
    p = p * r + 1.3981999507e-3;
    p = p * r + 8.3334519073e-3;
    p = p * r + 4.1665795894e-2;
    p = p * r + 1.6666665459e-1;
    p = p * r + 5.0000001201e-1;
    p = p * (r * r) + r + 1.0;
    return x < -87.0 ? 0.0 : p * uintBitsToFloat(uint(int(n) + 127) << 23);
}

float sigmoid(float x) { return 1.0 / (1.0 + exp1(-x)); }
float silu(float x) { return x / (1.0 + exp1(-x)); }
float silu_bwd(float x) { float s = sigmoid(x); return s + x * s * sigmoid(-x); }

// log(1 + e^x). With u = e^-|x| in (0, 1]: log1p(u) = 2 atanh(u / (2 + u)), argument at most 1/3.
float softplus(float x)
{
    float u = exp1(-abs(x)), s = u / (2.0 + u), q = s * s;
    float t = 1.0 / 15.0;
    t = t * q + 1.0 / 13.0;
    t = t * q + 1.0 / 11.0;
    t = t * q + 1.0 / 9.0;
    t = t * q + 1.0 / 7.0;
    t = t * q + 1.0 / 5.0;
    t = t * q + 1.0 / 3.0;
    return max(x, 0.0) + 2.0 * (s + s * q * t);
}
