#version 450
// delta_conv_bwd: the backward of delta_conv over documents up to the convolution: through the l2
// norm of q and k heads and the SiLU, in place. One workgroup for (head of q, k or v; token).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer First { int first[]; };
layout(binding = 3) buffer Du { float du[]; };                  // [n_tok][d_conv]
#include "delta.glsl"
#include "conv_docs.glsl"

const uint MAX_STATE = 256;
shared float row[MAX_STATE];

void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y, n = p.d_state;
    uint at = t * d_conv() + head * n;
    float xx = 0.0, xg = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        float c = conv_docs(t, head * n + i), x = silu(c);
        xx += x * x;
        xg += x * du[at + i];
        row[i] = c;
    }
    xx = wg_sum(xx) + 1e-6;
    xg = wg_sum(xg) / xx;
    float scale = 1.0 / sqrt(xx);
    if (head < p.n_k_head)
        scale /= sqrt(float(n));
    if (head >= 2 * p.n_k_head) {
        scale = 1.0;
        xg = 0.0;
    }
    for (uint i = lane(); i < n; i += WG)
        du[at + i] = scale * (du[at + i] - silu(row[i]) * xg) * silu_bwd(row[i]);
}
