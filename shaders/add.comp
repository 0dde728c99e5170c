#version 450
// add: y[t][i] += x[t][i], four at a time if the rows and columns of both allow it.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_aligned) const uint ALIGNED = 0;
layout(push_constant) uniform Push { push_add p; };
layout(binding = 0) readonly buffer X4 { vec4 x4[]; };
layout(binding = 0) readonly buffer X1 { float x1[]; };
layout(binding = 1) buffer Y4 { vec4 y4[]; };
layout(binding = 1) buffer Y1 { float y1[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= (ALIGNED != 0 ? p.n / 4 : p.n))
        return;
    for (uint t = gl_WorkGroupID.y; t < p.n_row; t += gl_NumWorkGroups.y) {
        uint from = t * p.x_stride + p.x_col, to = t * p.y_stride + p.y_col;
        if (ALIGNED != 0)
            y4[to / 4 + i] += x4[from / 4 + i];
        else
            y1[to + i] += x1[from + i];
    }
}
