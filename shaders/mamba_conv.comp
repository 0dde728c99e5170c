#version 450
// mamba_conv: the convolution over x, B and C with bias and SiLU. One workgroup for (CHANNELS of
// them; TOKS tokens): a lane walks the tokens of a channel and loads each input once. The last
// workgroup of a channel moves the window on.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint CONV_K = 4;
layout(constant_id = 2) const uint CHANNELS = 64;
layout(constant_id = 3) const uint TOKS = 16;
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
    uint first = gl_WorkGroupID.x * CHANNELS, t0 = gl_WorkGroupID.y * TOKS, flip = st.flip;
    uint end = min(first + CHANNELS, d_conv()), t1 = min(t0 + TOKS, p.n_tok);
    for (uint ch = first + lane(); ch < end; ch += WG) {
        float w[CONV_K], x[CONV_K];         // inputs, the newest last
        [[unroll]] for (uint j = 0; j < CONV_K; j++) {
            w[j] = conv_w[ch * CONV_K + j];
            x[j] = j == 0 ? 0.0 : conv_in(flip, int(t0 + j) - int(CONV_K), ch);
        }
        [[dont_unroll]] for (uint t = t0; t < t1; t++) {
            float v = conv_b[ch];
            [[unroll]] for (uint j = 0; j < CONV_K; j++) {
                x[j] = j + 1 < CONV_K ? x[min(j + 1, CONV_K - 1)]
                                      : proj[t * p.p_stride + conv_col() + ch];
                v += w[j] * x[j];
            }
            u[t * d_conv() + ch] = silu(v);
        }
        if (t1 == p.n_tok)
            keep_window(flip, ch);
    }
}
