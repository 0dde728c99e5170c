#version 450
// bias: y[t][i] += b[i].
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_bias p; };
layout(binding = 0) buffer Y { float y[]; };
layout(binding = 1) readonly buffer B { float b[]; };

void main()
{
    uint at = gl_GlobalInvocationID.x;
    if (at < p.n * p.n_row)
        y[at / p.n * p.y_stride + p.y_col + at % p.n] += b[at % p.n];
}
