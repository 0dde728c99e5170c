#version 450
// delta_conv: the convolution over q, k and v with SiLU, then the l2 norm of q and k heads (x /
// sqrt(sum x^2 + 1e-6); q also by 1/sqrt(d_state)). One workgroup for (head of q, k or v; token).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) buffer Window { float window[]; };
layout(binding = 3) readonly buffer Step { segment seg[]; };
layout(binding = 4) writeonly buffer U { float u[]; };          // [n_tok][d_conv]
#include "delta.glsl"
#include "conv.glsl"

const uint MAX_STATE = 256;
shared float row[MAX_STATE];

void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y, n = p.d_state, from = seg[0].slot_in;
    float ss = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        float v = conv_silu(from, t, head * n + i);
        ss += v * v;
        row[i] = v;
    }
    ss = wg_sum(ss);
    float scale = 1.0;
    if (head < 2 * p.n_k_head)
        scale = 1.0 / sqrt(ss + 1e-6);
    if (head < p.n_k_head)
        scale /= sqrt(float(n));
    for (uint i = lane(); i < n; i += WG)
        u[t * d_conv() + head * n + i] = row[i] * scale;
    if (t + 1 == p.n_tok)
        for (uint i = lane(); i < n; i += WG)
            keep_window(from, seg[0].slot_out, head * n + i);
}
