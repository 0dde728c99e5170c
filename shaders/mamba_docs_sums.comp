#version 450
// mamba_docs_sums: the weights of a chunk's tokens, for every head (MAMBA_SUMS of push.h). Tokens
// past the end of the chunk have dt = 0, so that they change nothing. A lane has a head.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer P { float proj[]; };
layout(binding = 2) readonly buffer A { float ssm_a[]; };
layout(binding = 3) readonly buffer Dt { float dt_bias[]; };
layout(binding = 4) buffer Sums { float sums[]; };

void main()
{
    uint head = gl_WorkGroupID.x * WG + lane(), chunk = gl_WorkGroupID.y;
    uvec4 c = chunks[p.chunk0 + chunk];
    if (head >= p.n_head || c.y == 0)
        return;
    uint at = (chunk * p.n_head + head) * MAMBA_SUMS * p.q;
    uint dt_col = p.p_col + 2 * (p.n_head * p.head_dim + p.n_group * p.d_state) + head;
    float a = ssm_a[head], bias = dt_bias[head], high = 0.0, low = 0.0;
    [[dont_unroll]] for (uint i = 0; i < p.q; i++) {
        float dt = 0.0;
        if (i < c.y)
            dt = mamba_gate(a, bias, proj[(c.x + i) * p.p_stride + dt_col]).dt;
        precise float g = a * dt;           // Knuth's sum of two numbers: the low word gets what
        precise float t = high + g;         // the high one loses
        precise float part = t - high;
        precise float rest = (high - (t - part)) + (g - part);
        high = t;
        low += rest;
        sums[at + MAMBA_HIGH * p.q + i] = high;
        sums[at + MAMBA_LOW * p.q + i] = low;
        sums[at + MAMBA_DT * p.q + i] = dt;
        sums[at + MAMBA_E * p.q + i] = exp1(high + low);
    }
    [[dont_unroll]] for (uint i = 0; i < p.q; i++) {        // a lane reads back what it wrote
        float past = high - sums[at + MAMBA_HIGH * p.q + i] +
                     (low - sums[at + MAMBA_LOW * p.q + i]);
        float r = exp1(past);
        sums[at + MAMBA_R * p.q + i] = r;
        sums[at + MAMBA_R_DT * p.q + i] = r * sums[at + MAMBA_DT * p.q + i];
    }
}
