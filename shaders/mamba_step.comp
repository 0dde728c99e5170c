#version 450
// mamba_step: mamba_conv and mamba_scan for a token of each segment, in one dispatch. A workgroup
// owns rows of a head, LANES of them at a time; WG / LANES lanes share the columns of each. The
// heads of a group each compute the convolution of its B and C; only the first of them updates
// their window.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(constant_id = SPEC_lanes) const uint LANES = 1;
layout(constant_id = SPEC_fours) const uint FOURS = 1;  // loads of four columns in a round
layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) readonly buffer Bias { float conv_b[]; };
layout(binding = 3) buffer Window { float window[]; };
layout(binding = 4) readonly buffer Step { segment seg[]; };
layout(binding = 5) readonly buffer A { float ssm_a[]; };
layout(binding = 6) readonly buffer Dt { float dt_bias[]; };
layout(binding = 7) readonly buffer D { float d_skip[]; };
layout(binding = 8) buffer State { float state[]; };            // [n_slot][n_head][d_state]
                                                                // [head_dim]
layout(binding = 9) writeonly buffer O { float o[]; };          // [n_seg][d_inner]
#include "mamba.glsl"

const uint MAX_DIM = 256;                       // d_state, head_dim
shared float u[3 * MAX_DIM];                    // B, C, x of this workgroup's rows
shared float sums[WG];

// The workgroups of a head share its rows, or one takes them all.
void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.z, hd = p.head_dim, ds = p.d_state;
    uint slot_in = seg[t].slot_in, slot_out = seg[t].slot_out;
    uint per_group = p.n_head / p.n_group, group = head / per_group;
    uint row0 = gl_WorkGroupID.y * LANES;
    uint n_row = gl_NumWorkGroups.y == 1 ? hd : min(LANES, hd - row0);
    bool first = row0 == 0 && head % per_group == 0;

    for (uint i = lane(); i < 2 * ds + n_row; i += WG) {
        uint ch = i < ds       ? d_inner() + group * ds + i
                  : i < 2 * ds ? d_inner() + (p.n_group + group) * ds + i - ds
                               : head * hd + row0 + i - 2 * ds;
        conv_inputs x;
        conv_load(slot_in, t, ch, x);
        u[i] = conv_sum(x, ch);
        if (first || i >= 2 * ds)
            conv_keep(slot_out, x, ch);
    }
    barrier();

    mamba_gates g = mamba_gate(ssm_a[head], dt_bias[head], proj[t * p.p_stride + p.dt_col + head]);
    uint part = lane() / LANES;
    for (uint r = lane() % LANES; r < (n_row + LANES - 1) / LANES * LANES; r += LANES) {
        bool live = r < n_row;
        uint row = min(r, n_row - 1), n = ds * hd;
        uint at = (slot_in * p.n_head + head) * n + row0 + row;
        uint to = (slot_out * p.n_head + head) * n + row0 + row;
        float v = u[2 * ds + row], x = g.dt * v, y = part == 0 ? d_skip[head] * v : 0.0;
        // All loads of a round before its stores: a driver cannot know that they do not overlap.
        const uint next = 4 * (WG / LANES);
        [[dont_unroll]] for (uint from = 4 * part; from < ds; from += FOURS * next) {
            vec4 m[FOURS];
            [[unroll]] for (uint f = 0; f < FOURS; f++)
                [[unroll]] for (uint e = 0; e < 4; e++)
                    m[f][e] = state[at + (min(from + f * next, ds - 4) + e) * hd];
            [[unroll]] for (uint f = 0; f < FOURS; f++) {
                uint i = from + f * next, c = ds + i;
                if (i >= ds)
                    break;
                m[f] = m[f] * g.decay + vec4(u[i], u[i + 1], u[i + 2], u[i + 3]) * x;
                if (live)
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        state[to + (i + e) * hd] = m[f][e];
                y += dot(m[f], vec4(u[c], u[c + 1], u[c + 2], u[c + 3]));
            }
        }
        if (WG != LANES) {
            sums[lane()] = y;
            barrier();
            for (uint i = LANES + lane(); i < WG && part == 0; i += LANES)
                y += sums[i];
            barrier();
        }
        if (live && part == 0)
            o[(t * p.n_head + head) * hd + row0 + row] = y;
    }
}
