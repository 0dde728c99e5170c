#version 450
// moe_sum: y[t] = sum over slots, in their order, of weight[t][slot] * x[t * n_used + slot]. EVEN:
// without the weights. ADD: plus res[t].
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_add) const uint ADD = 0;
layout(constant_id = SPEC_even) const uint EVEN = 0;
layout(push_constant) uniform Push { push_moe_sum p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) readonly buffer Wt { float wt[]; };
layout(binding = 2) readonly buffer Res { vec4 res[]; };
layout(binding = 3) writeonly buffer Y { vec4 y[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.n / 4)
        return;
    for (uint t = gl_WorkGroupID.y; t < p.n_tok; t += gl_NumWorkGroups.y) {
        vec4 sum = vec4(0);
        for (uint s = 0; s < p.n_used; s++) {
            float by = EVEN != 0 ? 1.0 : wt[t * p.wt_stride + s];
            sum += by * x[(t * p.n_used + s) * p.x_stride / 4 + i];
        }
        if (ADD != 0)
            sum += res[t * p.res_stride / 4 + i];
        y[t * p.y_stride / 4 + i] = sum;
    }
}
