#version 450
// bias: y[t][i] += b[i].
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_bias p; };
layout(binding = 0) buffer Y { float y[]; };
layout(binding = 1) readonly buffer B { float b[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.n)
        return;
    for (uint t = gl_WorkGroupID.y; t < p.n_row; t += gl_NumWorkGroups.y)
        y[t * p.y_stride + p.y_col + i] += b[i];
}
