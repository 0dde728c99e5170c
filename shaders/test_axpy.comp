#version 450
// test_axpy: y[i] = a x[i] + y[i] + BIAS, for the tests of the GPU layer: the result shows in which
// order and over which ranges dispatches ran.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_bias) const uint BIAS = 0;
layout(push_constant) uniform Push { push_test_axpy p; };
layout(binding = 0) buffer Y { float y[]; };
layout(binding = 1) readonly buffer X { float x[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i < p.n)
        y[i] = p.a * x[i] + y[i] + float(BIAS);
}
