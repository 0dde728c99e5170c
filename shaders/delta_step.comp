#version 450
// delta_step: delta_conv, delta_scan and delta_norm for one token in one dispatch. A workgroup owns
// a V head. V heads that share a K head each compute the convolution of its q and k; only the first
// of them updates the convolution window.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_d_state) const uint D_STATE = 4;
layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(push_constant) uniform Push { push_delta p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer W { float conv_w[]; };
layout(binding = 2) buffer Window { float window[]; };
layout(binding = 3) readonly buffer Step { step st; };
layout(binding = 4) readonly buffer A { float ssm_a[]; };
layout(binding = 5) readonly buffer Dt { float dt_bias[]; };
layout(binding = 6) buffer State { float state[]; };            // [n_v_head][d_state k][d_state v]
layout(binding = 7) readonly buffer Nw { float norm_w[]; };
layout(binding = 8) writeonly buffer Y { float y[]; };          // [n_v_head * d_state]
#include "delta.glsl"
#include "conv.glsl"

shared float q_row[D_STATE], k_row[D_STATE], o[D_STATE];

void main()
{
    uint head = gl_WorkGroupID.x, kh = k_head_of(head), i_window = st.i_window;
    uint q_ch = kh * D_STATE, k_ch = (p.n_k_head + kh) * D_STATE;
    uint v_ch = (2 * p.n_k_head + head) * D_STATE;
    bool first = p.tiled != 0 ? head < p.n_k_head : head % (p.n_v_head / p.n_k_head) == 0;

    float qq = 0.0, kk = 0.0;
    for (uint i = lane(); i < D_STATE; i += WG) {
        float q = conv_silu(i_window, 0, q_ch + i), k = conv_silu(i_window, 0, k_ch + i);
        q_row[i] = q;
        k_row[i] = k;
        qq += q * q;
        kk += k * k;
        if (first) {
            keep_window(i_window, q_ch + i);
            keep_window(i_window, k_ch + i);
        }
        keep_window(i_window, v_ch + i);
    }
    float q_scale = 1.0 / sqrt(wg_sum(qq) + 1e-6) / sqrt(float(D_STATE));
    float k_scale = 1.0 / sqrt(wg_sum(kk) + 1e-6);
    barrier();
    for (uint i = lane(); i < D_STATE; i += WG) {
        q_row[i] *= q_scale;
        k_row[i] *= k_scale;
    }
    barrier();

    float decay = delta_decay(ssm_a[head], dt_bias[head], proj[p.a_col + head]);
    float beta = delta_beta(proj[p.b_col + head]);
    float oo = 0.0;
    for (uint col = lane(); col < D_STATE; col += WG) {
        uint at = head * D_STATE * D_STATE + col;
        float v = conv_silu(i_window, 0, v_ch + col), read = 0.0, out_v = 0.0;
        // The column is read twice: keeping it in D_STATE registers would leave a GPU few lanes.
        [[dont_unroll]] for (uint i = 0; i < D_STATE; i++)
            read += decay * state[at + i * D_STATE] * k_row[i];
        float d = beta * (v - read);
        [[dont_unroll]] for (uint i = 0; i < D_STATE; i++) {
            float m = decay * state[at + i * D_STATE] + k_row[i] * d;
            state[at + i * D_STATE] = m;
            out_v += m * q_row[i];
        }
        o[col] = out_v;
        oo += out_v * out_v;
    }
    float r = 1.0 / sqrt(wg_sum(oo) / float(D_STATE) + p.eps);
    for (uint i = lane(); i < D_STATE; i += WG)     // each lane reads back its own columns
        y[head * D_STATE + i] = o[i] * r * norm_w[i] * silu(proj[p.z_col + head * D_STATE + i]);
}
