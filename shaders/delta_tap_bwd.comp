#version 450
// delta_tap_bwd: the backward of the convolution itself over documents: a token's input has reached
// the CONV_K - 1 tokens behind it, by the taps from the last on. A lane has a channel of a token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer Du { float du[]; };         // [n_tok][d_conv]
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer First { int first[]; };
layout(binding = 3) buffer Dp { float dproj[]; };

void main()
{
    uint n = (2 * p.n_k_head + p.n_v_head) * p.d_state, t = gl_WorkGroupID.y;
    uint n_lane = gl_NumWorkGroups.x * WG, n_tap = 1;
    while (n_tap < CONV_K && t + n_tap < p.n_tok && first[t + n_tap] <= int(t))
        n_tap++;
    for (uint ch = gl_WorkGroupID.x * WG + lane(); ch < n; ch += n_lane) {
        float sum = 0.0;
        for (uint j = 0; j < n_tap; j++)
            sum += conv_w[ch * CONV_K + CONV_K - 1 - j] * du[(t + j) * n + ch];
        dproj[t * p.d_stride + p.d_col + ch] += sum;
    }
}
