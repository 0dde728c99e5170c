#version 450
// mamba_norm: y = rms(o * silu(z)) * w for one (group of heads, token), where o is the sum of its
// parts. The gate comes before the norm, which is over all heads of the group together.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer O { float o[]; };           // [n_part][n_tok][d_inner]
layout(binding = 1) readonly buffer P { float proj[]; };
layout(binding = 2) readonly buffer W { float w[]; };           // [d_inner]
layout(binding = 3) buffer Y { float y[]; };                    // [n_tok][d_inner]

void main()
{
    uint group = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    uint d_inner = p.n_head * p.head_dim, n = d_inner / p.n_group, at = t * d_inner + group * n;
    float ss = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        float v = o[at + i];
        [[dont_unroll]] for (uint part = 1; part < p.n_part; part++)
            v += o[part * p.n_tok * d_inner + at + i];
        v *= silu(proj[t * p.p_stride + p.z_col + group * n + i]);
        y[at + i] = v;
        ss += v * v;
    }
    float r = 1.0 / sqrt(wg_sum(ss) / float(n) + p.eps);
    for (uint i = lane(); i < n; i += WG)       // each lane reads back what it wrote
        y[at + i] *= r * w[group * n + i];
}
