#version 450
// delta_conv: the short causal convolution over q, k and v with SiLU, then the l2 norm of q and k heads
// (x / sqrt(sum x^2 + 1e-6); q also by 1/sqrt(d_state)). One workgroup for (head of q, k or v; token).
//
// The window keeps the last CONV_K - 1 inputs before the batch. There are two of them: a batch reads the one
// that step.flip names and the last token's workgroups write the other, so that nobody overwrites what a
// neighbour still reads.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float w[]; };           // [d_conv][CONV_K], the last tap is the token itself
layout(binding = 2) buffer Window { float window[]; };          // [2][CONV_K - 1][d_conv]
layout(binding = 3) readonly buffer Step { step st; };
layout(binding = 4) writeonly buffer U { float u[]; };          // [n_tok][d_conv]

const uint MAX_STATE = 256;
shared float row[MAX_STATE];

float past(uint flip, int t, uint ch, uint d_conv)     // input of token t of this batch; below 0: before it
{
    if (t >= 0)
        return proj[uint(t) * p.p_stride + p.qkv_col + ch];
    return window[(flip * (CONV_K - 1) + uint(t + int(CONV_K) - 1)) * d_conv + ch];
}

void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y, n = p.d_state;
    uint d_conv = (2 * p.n_k_head + p.n_v_head) * n, flip = st.flip;
    float ss = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        uint ch = head * n + i;
        float v = 0.0;
        [[unroll]] for (uint j = 0; j < CONV_K; j++)
            v += w[ch * CONV_K + j] * past(flip, int(t + j) - int(CONV_K - 1), ch, d_conv);
        v = silu(v);
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
        u[t * d_conv + head * n + i] = row[i] * scale;

    if (t + 1 == p.n_tok)
        for (uint i = lane(); i < n; i += WG)
            [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
                window[((1 - flip) * (CONV_K - 1) + j) * d_conv + head * n + i] =
                    past(flip, int(p.n_tok + j) - int(CONV_K - 1), head * n + i, d_conv);
}
