#version 450
// delta_norm: y = rms(o) * w * silu(z) for one (V head, token). Norm first, then gate.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer O { float o[]; };           // [n_tok][n_v_head * d_state]
layout(binding = 1) readonly buffer P { float proj[]; };
layout(binding = 2) readonly buffer W { float w[]; };           // [d_state], shared by all heads
layout(binding = 3) writeonly buffer Y { float y[]; };

void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    uint n = p.d_state, at = (t * p.n_v_head + head) * n;
    float ss = 0.0;
    for (uint i = lane(); i < n; i += WG)
        ss += o[at + i] * o[at + i];
    float r = 1.0 / sqrt(wg_sum(ss) / float(n) + p.eps);
    for (uint i = lane(); i < n; i += WG)
        y[at + i] = o[at + i] * r * w[i] * silu(proj[t * p.p_stride + p.z_col + head * n + i]);
}
