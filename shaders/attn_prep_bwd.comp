#version 450
// attn_prep_bwd: adds the gradients of queries, keys and values to the gradient of the projection.
// It undoes the rotation, then applies the backward of the norm,
//   y = x r w, r = 1 / rms(x):   dx = r (w dy - x r^2 / n sum(x w dy))
// Workgroups as in attn_prep.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "rope.glsl"

layout(constant_id = SPEC_norm) const uint NORM = 0;
layout(push_constant) uniform Push { push_attn_prep_bwd p; };
layout(binding = 0) readonly buffer P { vec4 proj[]; };
layout(binding = 1) readonly buffer Qn { vec4 q_norm[]; };
layout(binding = 2) readonly buffer Kn { vec4 k_norm[]; };
layout(binding = 3) readonly buffer Turn { uvec2 turn[]; };
layout(binding = 4) readonly buffer First { uint first[]; };
layout(binding = 5) readonly buffer Dq { vec4 dq[]; };          // [n_tok][n_head][head_dim]
layout(binding = 5) readonly buffer Dq1 { float dq1[]; };
layout(binding = 6) readonly buffer Dk { vec4 dk[]; };          // [n_kv_head][n_tok][head_dim]
layout(binding = 6) readonly buffer Dk1 { float dk1[]; };
layout(binding = 7) readonly buffer Dv { vec4 dv[]; };
layout(binding = 8) buffer Dp { vec4 dproj[]; };

// Element i of the row that begins at `at`, with the rotation undone.
float back(bool is_q, uint at, uint i, uint pos)
{
    uint h = p.n_rot / 2, other = i < h ? i + h : i - h;
    float c, s, a = is_q ? dq1[at + i] : dk1[at + i];
    if (i >= p.n_rot)
        return a;
    float b = is_q ? dq1[at + other] : dk1[at + other];
    rope_cos_sin(pos, turn[i < h ? i : i - h], c, s);
    return i < h ? a * c + b * s : a * c - b * s;
}

// The same for the four elements of a quad.
vec4 back4(bool is_q, uint at, uint i, uint pos)
{
    vec4 d;
    if (4 * i >= p.n_rot) {
        if (is_q)
            d = dq[at + i];
        else
            d = dk[at + i];
    } else {
        [[unroll]] for (uint e = 0; e < 4; e++)
            d[e] = back(is_q, 4 * at, 4 * i + e, pos);
    }
    return d;
}

void main()
{
    uint slot = gl_WorkGroupID.x, t = gl_WorkGroupID.y, quads = p.head_dim / 4;
    bool is_q = slot < p.n_head, is_v = slot >= p.n_head + p.n_kv_head;
    uint kv_head = is_v ? slot - p.n_head - p.n_kv_head : slot - p.n_head;
    uint col = is_q ? slot * p.q_step : (is_v ? p.v_col : p.k_col) + kv_head * p.head_dim;
    uint x_at = (t * p.p_stride + p.p_col + col) / 4, to = (t * p.d_stride + p.d_col + col) / 4;
    uint at = (is_q ? t * p.n_head + slot : kv_head * p.n_tok + t) * quads, pos = t - first[t];

    if (is_v) {
        for (uint i = lane(); i < quads; i += WG)
            dproj[to + i] += dv[at + i];
        return;
    }
    float ss = 0.0, along = 0.0, r = 1.0;
    if (NORM != 0) {
        for (uint i = lane(); i < quads; i += WG) {
            vec4 x = proj[x_at + i], d = back4(is_q, at, i, pos);
            if (is_q)
                d *= q_norm[i];
            else
                d *= k_norm[i];
            ss += dot(x, x);
            along += dot(x, d);
        }
        r = 1.0 / sqrt(wg_sum(ss) / float(p.head_dim) + p.eps);
        along = wg_sum(along) * r * r / float(p.head_dim);
    }
    for (uint i = lane(); i < quads; i += WG) {
        vec4 d = back4(is_q, at, i, pos);
        if (NORM != 0) {
            if (is_q)
                d *= q_norm[i];
            else
                d *= k_norm[i];
            d = r * (d - proj[x_at + i] * along);
        }
        dproj[to + i] += d;
    }
}
