#version 450
// attn_docs_bwd_kv: the gradients of normalised and rotated keys, and of values:
//   dk = sum over queries of ds q / sqrt(head_dim),   dv = sum over queries of w do
// with w and ds as in attn_docs_bwd_q. A lane owns slices of KEYS keys and their values. It goes
// through p.n_heads of the query heads that share them, from p.head0 on, one after the other, and
// through their tokens one by one. With p.more the results are added to those of earlier heads.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
layout(push_constant) uniform Push { push_attn_docs p; };
#include "attn_docs.glsl"

layout(constant_id = SPEC_keys) const uint KEYS = 1;  // keys of a lane, ROWS apart
layout(binding = 0) readonly buffer Q { vec4 q[]; };            // [n_tok][n_head][head_dim]
layout(binding = 1) readonly buffer K { vec4 k[]; };            // [n_kv_head][n_tok][head_dim]
layout(binding = 2) readonly buffer V { vec4 v[]; };
layout(binding = 3) readonly buffer Stat { vec4 stat[]; };      // [n_head][n_tok]: maximum of the
                                                                // scores, 1 / sum, delta, first
layout(binding = 4) readonly buffer Do { vec4 d_o[]; };
layout(binding = 5) buffer Dk { vec4 dk[]; };
layout(binding = 6) buffer Dv { vec4 dv[]; };

const uint N = ROUND * KEYS;
shared float part[SLICES > 1 ? 2 * N * WG : 1];

void main()
{
    uint key0 = gl_WorkGroupID.x * ROWS * KEYS, kv = gl_WorkGroupID.y, quads = QUADS * SLICES;
    uint last = min(key0 + ROWS * KEYS, p.n_tok) - 1, at[KEYS];
    uint head0 = kv * (p.n_head / p.n_kv_head) + p.head0;

    vec4 kr[KEYS * QUADS], vr[KEYS * QUADS], k_sum[KEYS * QUADS], v_sum[KEYS * QUADS];
    [[unroll]] for (uint o = 0; o < KEYS; o++) {
        at[o] = (kv * p.n_tok + min(key0 + o * ROWS + owned(), p.n_tok - 1)) * quads;
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            uint r = o * QUADS + i;
            kr[r] = k[at[o] + quad(i)];
            vr[r] = v[at[o] + quad(i)];
            k_sum[r] = v_sum[r] = vec4(0);
            if (p.more != 0) {
                k_sum[r] = dk[at[o] + quad(i)];
                v_sum[r] = dv[at[o] + quad(i)];
            }
        }
    }
    [[dont_unroll]] for (uint head = head0; head < head0 + p.n_heads; head++) {
        for (uint t0 = key0; t0 < p.n_tok; t0 += ROUND) {
            float s[2 * N];             // scores, then dw
            vec4 st[ROUND];
            [[unroll]] for (uint b = 0; b < ROUND; b++) {
                uint t = min(t0 + b, p.n_tok - 1), q_at = (t * p.n_head + head) * quads;
                st[b] = stat[head * p.n_tok + t];
                ROW(q_row, q, q_at);
                ROW(d_row, d_o, q_at);
                [[unroll]] for (uint o = 0; o < KEYS; o++)
                    s[b * KEYS + o] = s[N + b * KEYS + o] = 0.0;
                [[unroll]] for (uint i = 0; i < QUADS; i++) {
                    QUAD(qr, q_row, q, q_at, i);
                    QUAD(dr, d_row, d_o, q_at, i);
                    qr *= p.scale;
                    [[unroll]] for (uint o = 0; o < KEYS; o++) {
                        s[b * KEYS + o] += dot(qr, kr[o * QUADS + i]);
                        s[N + b * KEYS + o] += dot(dr, vr[o * QUADS + i]);
                    }
                }
            }
            // No later token sees a key of this workgroup.
            if (first_key(t0, uint(st[0].w)) > last)
                break;
            ADD_SLICES(s, 2 * N)
            [[unroll]] for (uint b = 0; b < ROUND; b++) {
                uint t = t0 + b, q_at = (min(t, p.n_tok - 1) * p.n_head + head) * quads;
                uint low = first_key(t, uint(st[b].w));
                float w[KEYS], ds[KEYS];
                [[unroll]] for (uint o = 0; o < KEYS; o++) {
                    uint j = key0 + o * ROWS + owned();
                    bool seen = t < p.n_tok && j <= t && j >= low;
                    w[o] = seen ? weight_of(s[b * KEYS + o], st[b]) : 0.0;
                    ds[o] = w[o] * (s[N + b * KEYS + o] - st[b].z) * p.scale;
                }
                ROW(q_row, q, q_at);
                ROW(d_row, d_o, q_at);
                [[unroll]] for (uint i = 0; i < QUADS; i++) {
                    QUAD(qr, q_row, q, q_at, i);
                    QUAD(dr, d_row, d_o, q_at, i);
                    [[unroll]] for (uint o = 0; o < KEYS; o++) {
                        k_sum[o * QUADS + i] += ds[o] * qr;
                        v_sum[o * QUADS + i] += w[o] * dr;
                    }
                }
            }
        }
    }
    [[unroll]] for (uint o = 0; o < KEYS; o++)
        if (key0 + o * ROWS + owned() < p.n_tok)
            [[unroll]] for (uint i = 0; i < QUADS; i++) {
                dk[at[o] + quad(i)] = k_sum[o * QUADS + i];
                dv[at[o] + quad(i)] = v_sum[o * QUADS + i];
            }
}
