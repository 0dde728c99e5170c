#version 450
// delta_gate_sum_bwd: the gradients of A_log and dt_bias, which are sums over all tokens. One
// workgroup for a V head.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta_gate_sum p; };
layout(binding = 0) readonly buffer Sums { float sums[]; };     // [dt_bias, A_log][n_v_head][n_tok]
layout(binding = 1) buffer Da { float da_log[]; };              // only with a_log
layout(binding = 2) buffer Dt { float ddt_bias[]; };            // only with dt

float sum(uint at)
{
    precise float hi = 0.0, lo = 0.0;
    [[dont_unroll]] for (uint t = lane(); t < p.n_tok; t += WG) {
        precise float x = sums[at + t], to = hi + x, back = to - hi;
        lo += (hi - (to - back)) + (x - back);
        hi = to;
    }
    return wg_sum(hi) + wg_sum(lo);
}

void main()
{
    uint head = gl_WorkGroupID.x;
    float dt = sum(head * p.n_tok), a_log = sum((p.n_v_head + head) * p.n_tok);
    if (lane() == 0 && p.dt != 0)
        ddt_bias[p.dt_col + head] += dt;
    if (lane() == 0 && p.a_log != 0)
        da_log[p.a_log_col + head] += a_log;
}
