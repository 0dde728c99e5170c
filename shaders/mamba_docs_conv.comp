#version 450
// mamba_docs_conv: the convolution over x, B and C with bias and SiLU, which begins with zeros in
// each document. One workgroup for (CHANNELS of them; TOKS tokens). A lane walks over the tokens of
// four channels and loads each input once.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 4) writeonly buffer U4 { vec4 u4[]; };         // [n_tok]: x, B, C
#include "mamba_docs_conv.glsl"

void convolve(uint ch, uint t0, uint t1)
{
    vec4 w[CONV_K], x[CONV_K], bias = conv_b4[ch / 4];
    taps(ch, w);
    inputs_before(ch, t0, x);
    [[dont_unroll]] for (uint t = t0; t < t1; t++)
        u4[(t * p.u_stride + ch) / 4] = silu4(next_input(ch, t, bias, w, x));
}

void main()
{
    uint first = gl_WorkGroupID.x * CHANNELS, t0 = gl_WorkGroupID.y * TOKS;
    uint end = min(first + CHANNELS, d_conv()), t1 = min(t0 + TOKS, p.n_tok);
    for (uint ch = first + 4 * lane(); ch < end; ch += 4 * WG)
        convolve(ch, t0, t1);
}
