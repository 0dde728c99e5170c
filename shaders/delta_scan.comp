#version 450
// delta_scan: the Gated DeltaNet recurrence, token by token (the serial form, for decode and as the
// reference). A lane owns one column of a V head's state M [d_state][d_state] and keeps it in
// registers:
//   M = decay M;  d = beta (v - M'k);  M = M + k d';  o = M'q
// Columns are independent, so several workgroups may share a head. The state is f32.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_d_state) const uint D_STATE = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };          // [n_tok][d_conv]: q heads,
                                                                // k heads, v heads
layout(binding = 0) readonly buffer U1 { float u[]; };
layout(binding = 1) readonly buffer P { float proj[]; };
layout(binding = 2) readonly buffer A { float ssm_a[]; };
layout(binding = 3) readonly buffer Dt { float dt_bias[]; };
layout(binding = 4) buffer State { float state[]; };            // [n_slot][n_v_head][d_state k]
                                                                // [d_state v]
layout(binding = 5) writeonly buffer O { float o[]; };          // [n_tok][n_v_head * d_state]
layout(binding = 6) readonly buffer Step { segment seg[]; };

void main()
{
    uint head = gl_WorkGroupID.x, col = gl_WorkGroupID.y * WG + lane();
    uint k_head = p.tiled != 0 ? head % p.n_k_head : head / (p.n_v_head / p.n_k_head);
    uint d_conv = (2 * p.n_k_head + p.n_v_head) * D_STATE;
    bool live = col < D_STATE;
    uint c = min(col, D_STATE - 1), n = D_STATE * D_STATE;
    uint at = (seg[0].slot_in * p.n_v_head + head) * n + c;
    uint to = (seg[0].slot_out * p.n_v_head + head) * n + c;

    vec4 m[D_STATE / 4];
    [[unroll]] for (uint i = 0; i < D_STATE / 4; i++)
        m[i] = vec4(state[at + 4 * i * D_STATE], state[at + (4 * i + 1) * D_STATE],
                    state[at + (4 * i + 2) * D_STATE], state[at + (4 * i + 3) * D_STATE]);

    for (uint t = 0; t < p.n_tok; t++) {
        uint q = (t * d_conv + k_head * D_STATE) / 4, k = q + p.n_k_head * D_STATE / 4;
        float v = u[t * d_conv + (2 * p.n_k_head + head) * D_STATE + c];
        float decay = delta_decay(ssm_a[head], dt_bias[head],
                                  proj[t * p.p_stride + p.a_col + head]);
        float beta = delta_beta(proj[t * p.p_stride + p.b_col + head]);
        float read = 0.0;
        [[unroll]] for (uint i = 0; i < D_STATE / 4; i++) {
            m[i] *= decay;
            read += dot(m[i], u4[k + i]);
        }
        float d = beta * (v - read), y = 0.0;
        [[unroll]] for (uint i = 0; i < D_STATE / 4; i++) {
            m[i] += u4[k + i] * d;
            y += dot(m[i], u4[q + i]);
        }
        if (live)
            o[(t * p.n_v_head + head) * D_STATE + c] = y;
    }
    if (live)
        [[unroll]] for (uint i = 0; i < D_STATE / 4; i++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                state[to + (4 * i + e) * D_STATE] = m[i][e];
}
