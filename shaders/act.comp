#version 450
// act: an activation as a separate dispatch: y[t][i] from x[t][i] and, with SwiGLU, x[t][n_ff + i].
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "act.glsl"

layout(constant_id = SPEC_act) const uint ACT = ACT_SWIGLU;
layout(push_constant) uniform Push { push_act p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) writeonly buffer Y { vec4 y[]; };

void main()
{
    uint quads = p.n_ff / 4, i = gl_GlobalInvocationID.x;
    if (i >= quads)
        return;
    for (uint t = gl_WorkGroupID.y; t < p.n_row; t += gl_NumWorkGroups.y) {
        uint from = (t * p.x_stride + p.x_col) / 4 + i;
        vec4 v = x[from];
        if (ACT == ACT_SWIGLU)
            v = act_swiglu(v, x[from + quads], p.limit);
        else
            v = act_relu2(v);
        y[t * p.y_stride / 4 + i] = v;
    }
}
