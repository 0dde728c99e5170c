#version 450
// norm: y[t] = x[t] * w / sqrt(mean(x[t]^2) + eps). One workgroup per row.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_norm p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) readonly buffer W { vec4 w[]; };
layout(binding = 2) writeonly buffer Y { vec4 y[]; };

void main()
{
    uint at = (gl_WorkGroupID.x * p.x_stride + p.x_col) / 4, to = gl_WorkGroupID.x * p.y_stride / 4;
    float ss = 0.0;
    for (uint i = lane(); i < p.n / 4; i += WG)
        ss += dot(x[at + i], x[at + i]);
    float r = 1.0 / sqrt(wg_sum(ss) / float(p.n) + p.eps);
    for (uint i = lane(); i < p.n / 4; i += WG)
        y[to + i] = x[at + i] * r * w[i];
}
