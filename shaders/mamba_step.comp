#version 450
// mamba_step: mamba_conv and mamba_scan for one token in one dispatch. A workgroup owns rows of a
// head, LANES of them at a time, each by WG / LANES lanes that share its columns out. Heads of a
// group each convolve its B and C anew, and the first of them moves their window on.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = 1) const uint D_STATE = 4;
layout(constant_id = 2) const uint CONV_K = 4;
layout(constant_id = 3) const uint LANES = 1;
layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer Bias { float conv_b[]; };
layout(binding = 3) buffer Window { float window[]; };
layout(binding = 4) readonly buffer Step { step st; };
layout(binding = 5) readonly buffer A { float ssm_a[]; };
layout(binding = 6) readonly buffer Dt { float dt_bias[]; };
layout(binding = 7) readonly buffer D { float d_skip[]; };
layout(binding = 8) buffer State { float state[]; };            // [n_head][d_state][head_dim]
layout(binding = 9) writeonly buffer O { float o[]; };          // [d_inner]
#include "mamba.glsl"

shared vec4 bc[D_STATE / 2];                    // B, then C
shared float sums[WG];

void main()
{
    uint head = gl_WorkGroupID.x, hd = p.head_dim, flip = st.flip;
    uint per_group = p.n_head / p.n_group, group = head / per_group;
    bool first = gl_WorkGroupID.y == 0 && head % per_group == 0;
    uint b_ch = d_inner() + group * D_STATE, c_ch = b_ch + p.n_group * D_STATE;

    for (uint i = lane(); i < D_STATE / 2; i += WG) {
        uint ch = i < D_STATE / 4 ? b_ch + 4 * i : c_ch + 4 * i - D_STATE;
        vec4 v;
        [[unroll]] for (uint e = 0; e < 4; e++)
            v[e] = conv_silu(flip, 0, ch + e);
        bc[i] = v;
        if (first)
            [[unroll]] for (uint e = 0; e < 4; e++)
                keep_window(flip, ch + e);
    }
    barrier();

    mamba_gates g = mamba_gate(ssm_a[head], dt_bias[head], proj[p.dt_col + head]);
    uint part = lane() / LANES;
    for (uint row0 = gl_WorkGroupID.y * LANES; row0 < hd; row0 += gl_NumWorkGroups.y * LANES) {
        uint row = row0 + lane() % LANES, ch = head * hd + min(row, hd - 1);
        uint at = head * D_STATE * hd + min(row, hd - 1);
        bool live = row < hd;
        float v = conv_silu(flip, 0, ch), x = g.dt * v, y = part == 0 ? d_skip[head] * v : 0.0;
        // Four loads before four stores: a driver cannot know that they do not meet.
        [[dont_unroll]] for (uint i = part; i < D_STATE / 4; i += WG / LANES) {
            vec4 m;
            [[unroll]] for (uint e = 0; e < 4; e++)
                m[e] = state[at + (4 * i + e) * hd];
            m = m * g.decay + bc[i] * x;
            if (live)
                [[unroll]] for (uint e = 0; e < 4; e++)
                    state[at + (4 * i + e) * hd] = m[e];
            y += dot(m, bc[D_STATE / 4 + i]);
        }
        if (WG != LANES) {
            sums[lane()] = y;
            barrier();
            for (uint i = LANES + lane(); i < WG && part == 0; i += LANES)
                y += sums[i];
            barrier();
        }
        if (live && part == 0) {
            keep_window(flip, ch);
            o[ch] = y;
        }
    }
}
