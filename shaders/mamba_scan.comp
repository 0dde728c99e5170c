#version 450
// mamba_scan: the Mamba2 recurrence, token by token (the serial form, for decode and as the
// reference):
//   s = decay s + dt x (outer) B;  y = s C + D x
// A lane owns ROWS rows of a head's head_dim and, in their state, one part of PART columns, which
// it keeps in registers. Rows are independent, so several workgroups may share a head. mamba_norm
// adds up the outputs of the parts. The state is f32. head_dim is its fast
// index, so that neighbouring lanes read neighbouring words.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_part) const uint PART = 4;
layout(constant_id = SPEC_rows) const uint ROWS = 1;
layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };          // [n_tok]: x, B, C, dt, decay
layout(binding = 0) readonly buffer U1 { float u[]; };
layout(binding = 1) readonly buffer D { float d_skip[]; };
layout(binding = 2) buffer State { float state[]; };            // [n_slot][n_head][d_state]
                                                                // [head_dim]
layout(binding = 3) writeonly buffer O { float o[]; };          // [n_part][n_tok][d_inner]
layout(binding = 4) readonly buffer Step { segment seg[]; };

void main()
{
    uint head = gl_WorkGroupID.x, part = gl_WorkGroupID.z, hd = p.head_dim;
    uint row0 = gl_WorkGroupID.y * WG * ROWS + lane();
    uint d_inner = p.n_head * hd, d_conv = d_inner + 2 * p.n_group * p.d_state;
    uint b_col = d_inner + head / (p.n_head / p.n_group) * p.d_state + part * PART;
    uint slot_n = p.n_head * p.d_state * hd, in_slot = (head * p.d_state + part * PART) * hd;
    uint first = seg[0].slot_in * slot_n + in_slot, to = seg[0].slot_out * slot_n + in_slot;
    float skip = part == 0 ? d_skip[head] : 0.0;

    uint row[ROWS];
    vec4 m[ROWS * PART / 4];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        row[r] = min(row0 + r * WG, hd - 1);
        [[unroll]] for (uint i = 0; i < PART / 4; i++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                m[r * PART / 4 + i][e] = state[first + (4 * i + e) * hd + row[r]];
    }
    for (uint t = 0; t < p.n_tok; t++) {
        uint at = t * p.u_stride, b = (at + b_col) / 4, c = b + p.n_group * p.d_state / 4;
        float dt = u[at + d_conv + head], decay = u[at + d_conv + p.n_head + head];
        float x[ROWS], y[ROWS];
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            float v = u[at + head * hd + row[r]];
            x[r] = dt * v;
            y[r] = skip * v;
        }
        [[unroll]] for (uint i = 0; i < PART / 4; i++) {
            vec4 bi = u4[b + i], ci = u4[c + i];
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                vec4 v = m[r * PART / 4 + i] * decay + bi * x[r];
                y[r] += dot(v, ci);
                m[r * PART / 4 + i] = v;
            }
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            if (row0 + r * WG < hd)
                o[(part * p.n_tok + t) * d_inner + head * hd + row[r]] = y[r];
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        if (row0 + r * WG < hd)
            [[unroll]] for (uint i = 0; i < PART / 4; i++)
                [[unroll]] for (uint e = 0; e < 4; e++)
                    state[to + (4 * i + e) * hd + row[r]] = m[r * PART / 4 + i][e];
}
