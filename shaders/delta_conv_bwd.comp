#version 450
// delta_conv_bwd: the backward of delta_conv_docs, in place, through the l2 norm of q and k heads
// and the SiLU, but not through the convolution. One workgroup for (head of q, k or v; CONV_TOKENS
// tokens).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer First { int first[]; };
layout(binding = 3) buffer Du { float du[]; };                  // [n_tok][d_conv]
#include "delta.glsl"
#include "conv_docs.glsl"
#include "delta_conv_docs.glsl"

const uint MAX_STATE = 256;
shared float row[CONV_TOKENS * MAX_STATE];

void main()
{
    uint head = gl_WorkGroupID.x, n = p.d_state, n_row = d_conv();
    bool normed = head < 2 * p.n_k_head;
    conv_run r = conv_run_at(gl_WorkGroupID.y * CONV_TOKENS);
    uint at = r.t0 * n_row + head * n;
    float xx[CONV_TOKENS], xg[CONV_TOKENS];
    [[unroll]] for (uint t = 0; t < CONV_TOKENS; t++)
        xx[t] = xg[t] = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        float sum[CONV_TOKENS];
        conv_sums(r, head * n + i, sum);
        [[unroll]] for (uint t = 0; t < CONV_TOKENS; t++) {
            if (t >= r.n)
                break;
            float x = silu(sum[t]), g = du[at + t * n_row + i];
            xx[t] += x * x;
            xg[t] += x * g;
            row[t * MAX_STATE + i] = sum[t];
            if (!normed)
                du[at + t * n_row + i] = g * silu_bwd(sum[t]);
        }
    }
    if (!normed)
        return;
    [[unroll]] for (uint t = 0; t < CONV_TOKENS; t++) {
        float all = wg_sum(xx[t]) + 1e-6, along = wg_sum(xg[t]) / all;
        float scale = l2_scale(head, all);
        for (uint i = lane(); i < n && t < r.n; i += WG) {      // elements of the same lane
            float c = row[t * MAX_STATE + i];
            float g = du[at + t * n_row + i];
            du[at + t * n_row + i] = scale * (g - silu(c) * along) * silu_bwd(c);
        }
    }
}
