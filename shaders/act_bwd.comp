#version 450
// act_bwd: the backward of act. A clamp stops the gradient where it cuts, but not at its limit
// itself.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "act.glsl"

layout(constant_id = SPEC_act) const uint ACT = ACT_SWIGLU;
layout(push_constant) uniform Push { push_act_bwd p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) readonly buffer Dy { vec4 dy[]; };
layout(binding = 2) buffer Dx { vec4 dx[]; };

void main()
{
    uint quads = p.n_ff / 4, i = gl_GlobalInvocationID.x;
    if (i >= quads)
        return;
    for (uint t = gl_WorkGroupID.y; t < p.n_row; t += gl_NumWorkGroups.y) {
        uint from = (t * p.x_stride + p.x_col) / 4 + i, to = (t * p.dx_stride + p.dx_col) / 4 + i;
        vec4 g = dy[(t * p.dy_stride + p.dy_col) / 4 + i];
        if (ACT == ACT_SWIGLU) {
            vec4 d_gate, d_up;
            act_swiglu_bwd(x[from], x[from + quads], p.limit, g, d_gate, d_up);
            dx[to] += d_gate;
            dx[to + quads] += d_up;
        } else {
            dx[to] += 2.0 * max(x[from], 0.0) * g;
        }
    }
}
