#version 450
// attn_docs_bwd_q: the gradient of normalised and rotated queries. Weights w are computed again
// from the scores; dw = do v', and delta comes from attn_docs_bwd:
//   ds = w (dw - delta),   dq = sum over keys of ds k / sqrt(head_dim)
// A lane owns a slice of a token's rows of HEADS query heads. Keys come one by one.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
layout(push_constant) uniform Push { push_attn_docs p; };
#include "attn_docs.glsl"

layout(binding = 0) readonly buffer Q { vec4 q[]; };            // [n_tok][n_head][head_dim]
layout(binding = 1) readonly buffer K { vec4 k[]; };            // [n_kv_head][n_tok][head_dim]
layout(binding = 2) readonly buffer V { vec4 v[]; };
layout(binding = 3) readonly buffer Stat { vec4 stat[]; };      // [n_head][n_tok]: maximum of the
                                                                // scores, 1 / sum, delta, first
layout(binding = 4) readonly buffer Do { vec4 d_o[]; };
layout(binding = 5) writeonly buffer Dq { vec4 dq[]; };

const uint N = ROUND * HEADS;
shared float part[SLICES > 1 ? 2 * N * WG : 1];

void main()
{
    uint tok0 = gl_WorkGroupID.x * ROWS, head0 = gl_WorkGroupID.y * HEADS;
    uint t = min(tok0 + owned(), p.n_tok - 1), end = min(tok0 + ROWS, p.n_tok);
    uint quads = QUADS * SLICES, kv = head0 / (p.n_head / p.n_kv_head) * p.n_tok;

    vec4 qr[HEADS * QUADS], dr[HEADS * QUADS], sum[HEADS * QUADS], st[HEADS];
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        uint at = (t * p.n_head + head0 + h) * quads;
        st[h] = stat[(head0 + h) * p.n_tok + t];
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            qr[h * QUADS + i] = q[at + quad(i)] * p.scale;
            dr[h * QUADS + i] = d_o[at + quad(i)];
            sum[h * QUADS + i] = vec4(0);
        }
    }
    uint low = first_key(t, uint(st[0].w));
    uint j0 = first_key(tok0, uint(stat[head0 * p.n_tok + tok0].w));
    for (; j0 < end; j0 += ROUND) {
        float s[2 * N];         // scores, then dw
        [[unroll]] for (uint b = 0; b < ROUND; b++) {
            uint at = (kv + min(j0 + b, end - 1)) * quads;
            ROW(k_row, k, at);
            ROW(v_row, v, at);
            [[unroll]] for (uint h = 0; h < HEADS; h++)
                s[b * HEADS + h] = s[N + b * HEADS + h] = 0.0;
            [[unroll]] for (uint i = 0; i < QUADS; i++) {
                QUAD(kr, k_row, k, at, i);
                QUAD(vr, v_row, v, at, i);
                [[unroll]] for (uint h = 0; h < HEADS; h++) {
                    s[b * HEADS + h] += dot(qr[h * QUADS + i], kr);
                    s[N + b * HEADS + h] += dot(dr[h * QUADS + i], vr);
                }
            }
        }
        ADD_SLICES(s, 2 * N)
        [[unroll]] for (uint b = 0; b < ROUND; b++) {
            uint j = j0 + b, at = (kv + min(j, end - 1)) * quads;
            bool seen = j <= t && j >= low;
            float ds[HEADS];
            ROW(row, k, at);
            [[unroll]] for (uint h = 0; h < HEADS; h++) {
                float w = weight_of(s[b * HEADS + h], st[h]);
                ds[h] = seen ? w * (s[N + b * HEADS + h] - st[h].z) : 0.0;
            }
            [[unroll]] for (uint i = 0; i < QUADS; i++) {
                QUAD(kr, row, k, at, i);
                [[unroll]] for (uint h = 0; h < HEADS; h++)
                    sum[h * QUADS + i] += ds[h] * kr;
            }
        }
    }
    if (tok0 + owned() >= p.n_tok)
        return;
    [[unroll]] for (uint h = 0; h < HEADS; h++)
        [[unroll]] for (uint i = 0; i < QUADS; i++)
            dq[(t * p.n_head + head0 + h) * quads + quad(i)] = sum[h * QUADS + i] * p.scale;
}
