#version 450
// gate_add: y[t] = res[t] + sigmoid(gate[t]) * x[t].
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_gate p; };
layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer Gate { float gate[]; };
layout(binding = 2) readonly buffer Res { float res[]; };
layout(binding = 3) writeonly buffer Y { float y[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.n)
        return;
    for (uint t = gl_WorkGroupID.y; t < p.n_row; t += gl_NumWorkGroups.y)
        y[t * p.y_stride + p.y_col + i] = res[t * p.res_stride + p.res_col + i] +
            sigmoid(gate[t * p.gate_stride + p.gate_col]) * x[t * p.x_stride + p.x_col + i];
}
