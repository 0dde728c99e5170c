#version 450
// mamba_conv: the convolution over x, B and C with bias and SiLU. One workgroup for (CHANNELS of
// them; token); that of the last token moves the window on.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint CONV_K = 4;
layout(constant_id = 2) const uint CHANNELS = 64;
layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer Bias { float conv_b[]; };
layout(binding = 3) buffer Window { float window[]; };
layout(binding = 4) readonly buffer Step { step st; };
layout(binding = 5) writeonly buffer U { float u[]; };          // [n_tok][d_conv]
#include "mamba.glsl"

void main()
{
    uint first = gl_WorkGroupID.x * CHANNELS, t = gl_WorkGroupID.y, flip = st.flip;
    uint end = min(first + CHANNELS, d_conv());
    for (uint ch = first + lane(); ch < end; ch += WG) {
        u[t * d_conv() + ch] = conv_silu(flip, t, ch);
        if (t + 1 == p.n_tok)
            keep_window(flip, ch);
    }
}
