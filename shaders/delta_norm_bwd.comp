#version 450
// delta_norm_bwd: the gradients of o and z from that of y = rms(o) * w * silu(z), for one (V head,
// token).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer O { float o[]; };           // [n_tok][n_v_head * d_state]
layout(binding = 1) readonly buffer P { float proj[]; };
layout(binding = 2) readonly buffer W { float w[]; };           // [d_state], shared by all heads
layout(binding = 3) readonly buffer Dy { float dy[]; };
layout(binding = 4) writeonly buffer Do { float d_o[]; };
layout(binding = 5) buffer Dp { float dproj[]; };

void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    uint n = p.d_state, at = (t * p.n_v_head + head) * n;
    uint z_at = t * p.p_stride + p.z_col + head * n;
    uint dz_at = t * p.d_stride + p.d_col + (p.z_col - p.qkv_col) + head * n;
    float ss = 0.0, og = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        ss += o[at + i] * o[at + i];
        og += o[at + i] * (dy[at + i] * w[i] * silu(proj[z_at + i]));
    }
    float r = 1.0 / sqrt(wg_sum(ss) / float(n) + p.eps);
    og = wg_sum(og) / float(n) * r * r;
    for (uint i = lane(); i < n; i += WG) {
        float z = proj[z_at + i], g = dy[at + i] * w[i];
        d_o[at + i] = r * (g * silu(z) - o[at + i] * og);
        dproj[dz_at + i] += g * o[at + i] * r * silu_bwd(z);
    }
}
