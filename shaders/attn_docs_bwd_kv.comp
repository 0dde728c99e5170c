#version 450
// attn_docs_bwd_kv: gradients of keys, normed and rotated as they are, and of values:
//   dk = sum over queries of ds q / sqrt(head_dim),   dv = sum over queries of w do
// with w and ds as in attn_docs_bwd_q. A lane owns a slice of a key's and a value's row; of the
// query heads that share them those from p.head0 on come one after the other, the tokens that see
// the key one by one. Further heads, p.more, are added to what stands there.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
layout(push_constant) uniform Push { push_attn_docs p; };
#include "attn_docs.glsl"

layout(binding = 0) readonly buffer Q { vec4 q[]; };            // [n_tok][n_head][head_dim]
layout(binding = 1) readonly buffer K { vec4 k[]; };            // [n_kv_head][n_tok][head_dim]
layout(binding = 2) readonly buffer V { vec4 v[]; };
layout(binding = 3) readonly buffer Stat { vec4 stat[]; };      // [n_head][n_tok]: maximum of the
                                                                // scores, 1 / sum, delta, first
layout(binding = 4) readonly buffer Do { vec4 d_o[]; };
layout(binding = 5) buffer Dk { vec4 dk[]; };
layout(binding = 6) buffer Dv { vec4 dv[]; };

shared float part[SLICES > 1 ? 2 * ROUND * WG : 1];

void main()
{
    uint key0 = gl_WorkGroupID.x * ROWS, kv = gl_WorkGroupID.y, quads = QUADS * SLICES;
    uint j = min(key0 + owned(), p.n_tok - 1), last = min(key0 + ROWS, p.n_tok) - 1;
    uint at = (kv * p.n_tok + j) * quads, head0 = kv * (p.n_head / p.n_kv_head) + p.head0;

    vec4 kr[QUADS], vr[QUADS], k_sum[QUADS], v_sum[QUADS];
    [[unroll]] for (uint i = 0; i < QUADS; i++) {
        kr[i] = k[at + quad(i)];
        vr[i] = v[at + quad(i)];
        k_sum[i] = v_sum[i] = vec4(0);
        if (p.more != 0) {
            k_sum[i] = dk[at + quad(i)];
            v_sum[i] = dv[at + quad(i)];
        }
    }
    [[dont_unroll]] for (uint head = head0; head < head0 + p.n_heads; head++) {
        for (uint t0 = key0; t0 < p.n_tok; t0 += ROUND) {
            float s[2 * ROUND];         // scores, then dw
            vec4 st[ROUND];
            [[unroll]] for (uint b = 0; b < ROUND; b++) {
                uint t = min(t0 + b, p.n_tok - 1), q_at = (t * p.n_head + head) * quads;
                st[b] = stat[head * p.n_tok + t];
                s[b] = s[ROUND + b] = 0.0;
                [[unroll]] for (uint i = 0; i < QUADS; i++) {
                    s[b] += dot(q[q_at + quad(i)] * p.scale, kr[i]);
                    s[ROUND + b] += dot(d_o[q_at + quad(i)], vr[i]);
                }
            }
            // Nobody from here on sees a key of this workgroup.
            if (first_key(t0, uint(st[0].w)) > last)
                break;
            ADD_SLICES(s, 2 * ROUND)
            [[unroll]] for (uint b = 0; b < ROUND; b++) {
                uint t = t0 + b, q_at = (min(t, p.n_tok - 1) * p.n_head + head) * quads;
                bool seen = t < p.n_tok && j <= t && j >= first_key(t, uint(st[b].w));
                float w = seen ? weight_of(s[b], st[b]) : 0.0;
                float ds = w * (s[ROUND + b] - st[b].z);
                [[unroll]] for (uint i = 0; i < QUADS; i++) {
                    k_sum[i] += ds * (q[q_at + quad(i)] * p.scale);
                    v_sum[i] += w * d_o[q_at + quad(i)];
                }
            }
        }
    }
    if (key0 + owned() >= p.n_tok)
        return;
    [[unroll]] for (uint i = 0; i < QUADS; i++) {
        dk[at + quad(i)] = k_sum[i];
        dv[at + quad(i)] = v_sum[i];
    }
}
