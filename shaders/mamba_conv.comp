#version 450
// mamba_conv: the inputs of the scan for each token: the convolution over x, B and C with bias and
// SiLU, and the gates of each head, which follow like further channels. One workgroup for (CHANNELS
// of them; TOKS tokens). A lane walks over the tokens of a channel and loads each input once. The
// last workgroup of a channel updates the window.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(constant_id = SPEC_channels) const uint CHANNELS = 64;
layout(constant_id = SPEC_toks) const uint TOKS = 16;
layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer Bias { float conv_b[]; };
layout(binding = 3) buffer Window { float window[]; };
layout(binding = 4) readonly buffer Step { segment seg[]; };
layout(binding = 5) readonly buffer A { float ssm_a[]; };
layout(binding = 6) readonly buffer Dt { float dt_bias[]; };
layout(binding = 7) writeonly buffer U { float u[]; };          // [n_tok][d_conv + 2 n_head]
#include "mamba.glsl"

void gates(uint head, uint t0, uint t1)
{
    float a = ssm_a[head], bias = dt_bias[head];
    [[dont_unroll]] for (uint t = t0; t < t1; t++) {
        mamba_gates g = mamba_gate(a, bias, proj[t * p.p_stride + p.dt_col + head]);
        uint at = t * p.u_stride + d_conv() + head;
        u[at] = g.dt;
        u[at + p.n_head] = g.decay;
    }
}

void convolve(uint ch, uint t0, uint t1)
{
    float w[CONV_K], x[CONV_K];             // inputs, the newest last
    uint slot = seg[0].slot_in;
    [[unroll]] for (uint j = 0; j < CONV_K; j++) {
        w[j] = conv_w[ch * CONV_K + j];
        x[j] = j == 0 ? 0.0 : conv_in(slot, int(t0 + j) - int(CONV_K), ch);
    }
    [[dont_unroll]] for (uint t = t0; t < t1; t++) {
        float v = conv_b[ch];
        [[unroll]] for (uint j = 0; j < CONV_K; j++) {
            x[j] = j + 1 < CONV_K ? x[min(j + 1, CONV_K - 1)]
                                  : proj[t * p.p_stride + conv_col() + ch];
            v += w[j] * x[j];
        }
        u[t * p.u_stride + ch] = silu(v);
    }
    if (t1 == p.n_tok)
        keep_window(slot, seg[0].slot_out, ch);
}

void main()
{
    uint first = gl_WorkGroupID.x * CHANNELS, t0 = gl_WorkGroupID.y * TOKS;
    uint end = min(first + CHANNELS, d_conv() + p.n_head), t1 = min(t0 + TOKS, p.n_tok);
    for (uint ch = first + lane(); ch < end; ch += WG) {
        if (ch < d_conv())
            convolve(ch, t0, t1);
        else
            gates(ch - d_conv(), t0, t1);
    }
}
