#version 450
// gate_delta: a gate with its trained delta added; for a decay, -exp(A_log), the delta is added to
// A_log.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_decay) const uint DECAY = 0;

layout(push_constant) uniform Push { push_gate_delta p; };
layout(binding = 0) readonly buffer Base { float base[]; };
layout(binding = 1) readonly buffer Delta { float delta[]; };
layout(binding = 2) writeonly buffer To { float to[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.n)
        return;
    if (DECAY != 0)
        to[i] = base[i] * exp1(delta[i]);
    else
        to[i] = base[i] + delta[i];
}
