#version 450
// attn_docs: softmax(q k' / sqrt(head_dim)) v over the keys of a token's own document, causal,
// perhaps in a window. The result is divided and gated. It also stores what the backward needs to
// compute the weights again. A lane owns a slice of a token's rows of HEADS query heads. The
// softmax is online, key by key, in f32.
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
layout(push_constant) uniform Push { push_attn_docs p; };
#include "attn_docs.glsl"

layout(constant_id = SPEC_gate) const uint GATE = GATE_NONE;
layout(binding = 0) readonly buffer Q { vec4 q[]; };            // [n_tok][n_head][head_dim]
layout(binding = 1) readonly buffer K { vec4 k[]; };            // [n_kv_head][n_tok][head_dim]
layout(binding = 2) readonly buffer V { vec4 v[]; };
layout(binding = 3) readonly buffer First { uint first[]; };
layout(binding = 4) readonly buffer P { vec4 proj[]; };
layout(binding = 4) readonly buffer P1 { float proj1[]; };
layout(binding = 5) writeonly buffer Y { vec4 y[]; };
layout(binding = 6) writeonly buffer Stat { vec4 stat[]; };     // [n_head][n_tok]: maximum of the
                                                                // scores, 1 / sum of the weights
const float NEVER = -1e30;      // finite, so that the difference of two of these is not a NaN
shared float part[SLICES > 1 ? ROUND * HEADS * WG : 1];

void main()
{
    uint tok0 = gl_WorkGroupID.x * ROWS, head0 = gl_WorkGroupID.y * HEADS;
    uint t = min(tok0 + owned(), p.n_tok - 1), end = min(tok0 + ROWS, p.n_tok);
    uint low = first_key(t, first[t]), quads = QUADS * SLICES;
    uint kv = head0 / (p.n_head / p.n_kv_head) * p.n_tok;

    vec4 qr[HEADS * QUADS], o[HEADS * QUADS];
    float m[HEADS], l[HEADS];
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        m[h] = NEVER;
        l[h] = 0.0;
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            qr[h * QUADS + i] = q[(t * p.n_head + head0 + h) * quads + quad(i)] * p.scale;
            o[h * QUADS + i] = vec4(0);
        }
    }
    for (uint j0 = first_key(tok0, first[tok0]); j0 < end; j0 += ROUND) {
        float s[ROUND * HEADS];
        [[unroll]] for (uint b = 0; b < ROUND; b++) {
            uint at = (kv + min(j0 + b, end - 1)) * quads;
            ROW(row, k, at);
            [[unroll]] for (uint h = 0; h < HEADS; h++)
                s[b * HEADS + h] = 0.0;
            [[unroll]] for (uint i = 0; i < QUADS; i++) {
                QUAD(kr, row, k, at, i);
                [[unroll]] for (uint h = 0; h < HEADS; h++)
                    s[b * HEADS + h] += dot(qr[h * QUADS + i], kr);
            }
        }
        ADD_SLICES(s, ROUND * HEADS)
        [[unroll]] for (uint b = 0; b < ROUND; b++) {
            uint j = j0 + b, at = (kv + min(j, end - 1)) * quads;
            bool seen = j <= t && j >= low;
            float old[HEADS], e[HEADS];
            ROW(row, v, at);
            [[unroll]] for (uint h = 0; h < HEADS; h++) {
                float m_new = seen ? max(m[h], s[b * HEADS + h]) : m[h];
                old[h] = exp1(m[h] - m_new);
                e[h] = seen ? exp1(s[b * HEADS + h] - m_new) : 0.0;
                l[h] = l[h] * old[h] + e[h];
                m[h] = m_new;
            }
            [[unroll]] for (uint i = 0; i < QUADS; i++) {
                QUAD(vr, row, v, at, i);
                [[unroll]] for (uint h = 0; h < HEADS; h++)
                    o[h * QUADS + i] = o[h * QUADS + i] * old[h] + vr * e[h];
            }
        }
    }
    if (tok0 + owned() >= p.n_tok)
        return;
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        uint head = head0 + h;
        float by = 1.0 / l[h];
        if (slice() == 0)
            stat[head * p.n_tok + t] = vec4(m[h], by, 0, 0);
        if (GATE == GATE_HEAD)
            by *= sigmoid(proj1[t * p.p_stride + p.gate_col + head]);
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            vec4 out4 = o[h * QUADS + i] * by;
            if (GATE == GATE_ELEM) {
                vec4 g = proj[(t * p.p_stride + p.gate_col) / 4 + 2 * head * quads + quad(i)];
                out4 *= vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
            }
            y[(t * p.n_head + head) * quads + quad(i)] = out4;
        }
    }
}
