#version 450
// norm_sum: sums of sums, per_group of them in each workgroup. The last sum gives the norm and the
// factor by which clipping multiplies gradients.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "sum.glsl"

layout(constant_id = SPEC_last) const uint LAST = 0;

layout(push_constant) uniform Push { push_norm_sum p; };
layout(binding = 0) buffer Sums { float sums[]; };
layout(binding = 1) readonly buffer Hyper { adam_hyper h; };
layout(binding = 2) writeonly buffer Norm { float norm[]; };

void main()
{
    float sum = 0.0, lost = 0.0;
    uint first = gl_WorkGroupID.x * p.per_group, end = min(first + p.per_group, p.n);
    for (uint i = first + lane(); i < end; i += WG)
        add(sum, lost, sums[p.from + i]);
    sum = exact_sum(sum - lost);
    if (lane() != 0)
        return;
    if (LAST == 0) {
        sums[p.to + gl_WorkGroupID.x] = sum;
        return;
    }
    float v = sqrt(sum);
    bool finite = (floatBitsToUint(sum) & 0x7f800000u) != 0x7f800000u;
    norm[0] = v;
    norm[1] = h.clip_norm > 0.0 ? min(1.0, h.clip_norm / (v + 1e-6)) : 1.0;
    norm[2] = finite ? 1.0 : 0.0;
}
