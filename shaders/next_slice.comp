#version 450
// next_slice: moves the slice on, so that the same cmd computes the next one when it runs again.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_next_slice p; };
layout(binding = 0) buffer Slice { uint slice[]; };

void main()
{
    if (lane() == 0)
        slice[0] += p.by;
}
