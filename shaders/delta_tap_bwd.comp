#version 450
// delta_tap_bwd: the backward of the convolution over documents. The input of a token was
// multiplied by the last tap for the token itself and by earlier taps for the CONV_K - 1 tokens
// after it. A lane has CONV_TOKENS tokens of a channel.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer Du { float du[]; };         // [n_tok][d_conv]
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer First { int first[]; };
layout(binding = 3) buffer Dp { float dproj[]; };
#include "delta.glsl"
#include "conv_docs.glsl"

void main()
{
    uint n = d_conv(), n_lane = gl_NumWorkGroups.x * WG;
    conv_run r = conv_run_at(gl_WorkGroupID.y * CONV_TOKENS);
    for (uint ch = gl_WorkGroupID.x * WG + lane(); ch < n; ch += n_lane) {
        float w[MAX_CONV_K], v[CONV_TOKENS + MAX_CONV_K - 1], sum[CONV_TOKENS];
        [[unroll]] for (uint j = 0; j < CONV_K; j++)
            w[j] = conv_w[ch * CONV_K + j];
        [[unroll]] for (uint i = 0; i < CONV_TOKENS + CONV_K - 1; i++)
            v[i] = du[min(r.t0 + i, p.n_tok - 1) * n + ch];
        conv_docs_bwd(r, w, v, sum);
        [[unroll]] for (uint i = 0; i < CONV_TOKENS; i++)
            if (i < r.n)
                dproj[(r.t0 + i) * p.d_stride + p.d_col + ch] += sum[i];
    }
}
