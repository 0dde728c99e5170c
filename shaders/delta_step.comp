#version 450
// delta_step: delta_conv, delta_scan and delta_norm for a token of each segment, in one dispatch. A
// workgroup owns a V head of a segment. V heads that share a K head each compute the convolution of
// its q and k; only the first of them updates the convolution window.
//
// The state is all that costs time. LANES lanes share a column of it. Each of them loads its rows
// at once, before anything else, and keeps them in registers, so that the whole state of a head is
// on its way at the same time. With LANES 1 a lane walks over its columns twice.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_d_state) const uint D_STATE = 4;
layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(constant_id = SPEC_lanes) const uint LANES = 1;          // more: WG is LANES * D_STATE
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) buffer Window { float window[]; };
layout(binding = 3) readonly buffer Step { segment seg[]; };
layout(binding = 4) readonly buffer A { float ssm_a[]; };
layout(binding = 5) readonly buffer Dt { float dt_bias[]; };
layout(binding = 6) buffer State { float state[]; };            // [n_slot][n_v_head][d_state k]
                                                                // [d_state v]
layout(binding = 7) readonly buffer Nw { float norm_w[]; };
layout(binding = 8) writeonly buffer Y { float y[]; };          // [n_seg][n_v_head * d_state]
#include "delta.glsl"
#include "conv.glsl"

const uint ROWS = LANES > 1 ? D_STATE / LANES : 1;              // of a lane
shared float q_row[D_STATE], k_row[D_STATE], v_row[D_STATE], o[D_STATE];
shared float part[WG];

// The sum of what the lanes of column col have, in the order of their rows.
float column_sum(uint col, float v)
{
    part[lane()] = v;
    barrier();
    v = part[col];
    [[unroll]] for (uint i = 1; i < LANES; i++)
        v += part[i * D_STATE + col];
    barrier();
    return v;
}

// q, k and v of the head, each row in shared memory; q and k normalised.
void convolve(uint t, uint head)
{
    uint kh = k_head_of(head), from = seg[t].slot_in, to = seg[t].slot_out;
    uint q_ch = kh * D_STATE, k_ch = (p.n_k_head + kh) * D_STATE;
    uint v_ch = (2 * p.n_k_head + head) * D_STATE;
    bool first = p.tiled != 0 ? head < p.n_k_head : head % (p.n_v_head / p.n_k_head) == 0;
    float qq = 0.0, kk = 0.0;
    for (uint i = lane(); i < D_STATE; i += WG) {
        conv_inputs q_in, k_in, v_in;
        conv_load(from, t, q_ch + i, q_in);
        conv_load(from, t, k_ch + i, k_in);
        conv_load(from, t, v_ch + i, v_in);
        float q = conv_sum(q_in, q_ch + i), k = conv_sum(k_in, k_ch + i);
        q_row[i] = q;
        k_row[i] = k;
        v_row[i] = conv_sum(v_in, v_ch + i);
        qq += q * q;
        kk += k * k;
        if (first) {
            conv_keep(to, q_in, q_ch + i);
            conv_keep(to, k_in, k_ch + i);
        }
        conv_keep(to, v_in, v_ch + i);
    }
    float q_scale = 1.0 / sqrt(wg_sum(qq) + 1e-6) / sqrt(float(D_STATE));
    float k_scale = 1.0 / sqrt(wg_sum(kk) + 1e-6);
    barrier();
    for (uint i = lane(); i < D_STATE; i += WG) {
        q_row[i] *= q_scale;
        k_row[i] *= k_scale;
    }
    barrier();
}

// The new state of column col, and its product with q, both by one lane. from, to: the column's
// first number before and after.
float step_column(uint from, uint to, uint col, float decay, float beta)
{
    float read = 0.0, y = 0.0;
    [[dont_unroll]] for (uint i = 0; i < D_STATE; i++)
        read += decay * state[from + i * D_STATE] * k_row[i];
    float d = beta * (v_row[col] - read);
    [[dont_unroll]] for (uint i = 0; i < D_STATE; i++) {
        float m = decay * state[from + i * D_STATE] + k_row[i] * d;
        state[to + i * D_STATE] = m;
        y += m * q_row[i];
    }
    return y;
}

void main()
{
    uint head = gl_WorkGroupID.x, t = gl_WorkGroupID.y, p_at = t * p.p_stride;
    uint col = lane() % D_STATE, row0 = lane() / D_STATE * ROWS, n = D_STATE * D_STATE;
    uint from = (seg[t].slot_in * p.n_v_head + head) * n;
    uint to = (seg[t].slot_out * p.n_v_head + head) * n, at = row0 * D_STATE + col;
    float m[ROWS], oo = 0.0;
    if (LANES > 1)
        [[unroll]] for (uint i = 0; i < ROWS; i++)
            m[i] = state[from + at + i * D_STATE];
    float decay = delta_decay(ssm_a[head], dt_bias[head], proj[p_at + p.a_col + head]);
    float beta = delta_beta(proj[p_at + p.b_col + head]);
    convolve(t, head);

    if (LANES > 1) {
        float read = 0.0, y_part = 0.0;
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            m[i] *= decay;
            read += m[i] * k_row[row0 + i];
        }
        float d = beta * (v_row[col] - column_sum(col, read));
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            m[i] += k_row[row0 + i] * d;
            state[to + at + i * D_STATE] = m[i];
            y_part += m[i] * q_row[row0 + i];
        }
        float sum = column_sum(col, y_part);
        if (row0 == 0) {
            o[col] = sum;
            oo = sum * sum;
        }
    } else {
        [[dont_unroll]] for (uint c = lane(); c < D_STATE; c += WG) {
            o[c] = step_column(from + c, to + c, c, decay, beta);
            oo += o[c] * o[c];
        }
    }
    float r = 1.0 / sqrt(wg_sum(oo) / float(D_STATE) + p.eps);
    for (uint i = lane(); i < D_STATE; i += WG)     // each lane reads back its own columns
        y[(t * p.n_v_head + head) * D_STATE + i] =
            o[i] * r * norm_w[i] * silu(proj[p_at + p.z_col + head * D_STATE + i]);
}
