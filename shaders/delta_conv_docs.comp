#version 450
// delta_conv_docs: delta_conv over a row of documents. One workgroup for (head of q, k or v;
// CONV_TOKENS tokens).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer First { int first[]; };
layout(binding = 3) buffer U { float u[]; };                    // [n_tok][d_conv]
#include "delta.glsl"
#include "conv_docs.glsl"
#include "delta_conv_docs.glsl"

void main()
{
    uint head = gl_WorkGroupID.x, n = p.d_state, n_row = d_conv();
    conv_run r = conv_run_at(gl_WorkGroupID.y * CONV_TOKENS);
    uint at = r.t0 * n_row + head * n;
    float ss[CONV_TOKENS];
    [[unroll]] for (uint t = 0; t < CONV_TOKENS; t++)
        ss[t] = 0.0;
    for (uint i = lane(); i < n; i += WG) {
        float sum[CONV_TOKENS];
        conv_sums(r, head * n + i, sum);
        [[unroll]] for (uint t = 0; t < CONV_TOKENS; t++) {
            float v = silu(sum[t]);
            ss[t] += v * v;
            if (t < r.n)
                u[at + t * n_row + i] = v;
        }
    }
    if (head >= 2 * p.n_k_head)
        return;
    [[unroll]] for (uint t = 0; t < CONV_TOKENS; t++) {
        float scale = l2_scale(head, wg_sum(ss[t]) + 1e-6);
        for (uint i = lane(); i < n && t < r.n; i += WG)        // elements of the same lane
            u[at + t * n_row + i] *= scale;
    }
}
