#version 450
// attn_cols: attn for prompts on CPU devices. A lane owns a token, for HEADS query heads that share
// a key head. So keys and values are uniform loads that serve WG * HEADS rows, and lanes exchange
// nothing. The batch is one segment.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define K_BINDING 1
#define V_BINDING 2
#include "kv.glsl"

layout(constant_id = SPEC_quads) const uint QUADS = 1;  // head_dim / 4
layout(constant_id = SPEC_heads) const uint HEADS = 1;
layout(push_constant) uniform Push { push_attn p; };
layout(binding = 0) readonly buffer Q { vec4 q[]; };
layout(binding = 3) readonly buffer Step { segment seg[]; };
layout(binding = 4) readonly buffer P { vec4 proj[]; };
layout(binding = 4) readonly buffer P1 { float proj1[]; };
layout(binding = 5) writeonly buffer Out { vec4 y[]; };
#define ALWAYS_MERGED
#include "attn.glsl"

void main()
{
    uint head0 = gl_WorkGroupID.x * HEADS, tok0 = gl_WorkGroupID.y * WG, run = gl_WorkGroupID.z;
    uint t = min(tok0 + lane(), p.n_tok - 1), n_past = seg[0].pos, pos = n_past + t;
    uint low = first_key(pos), first = first_key(n_past + tok0) + run * p.split_len;
    uint end = min(n_past + min(tok0 + WG, p.n_tok), first + p.split_len);
    uint kv = cache_of(t, head0);

    vec4 qr[HEADS * QUADS], o[HEADS * QUADS];
    float m[HEADS], l[HEADS];
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        m[h] = NEVER;
        l[h] = 0.0;
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            qr[h * QUADS + i] = q[(t * p.n_head + head0 + h) * QUADS + i] * p.scale;
            o[h * QUADS + i] = vec4(0);
        }
    }
    uint row = row_of(first);
    for (uint j = first; j < end; j++) {
        uint at = kv_at(kv + row, QUADS);
        bool seen = j <= pos && j >= low;
        float s[HEADS], old[HEADS];
        [[unroll]] for (uint h = 0; h < HEADS; h++)
            s[h] = 0.0;
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            vec4 k = load_k(at, i, QUADS);
            [[unroll]] for (uint h = 0; h < HEADS; h++)
                s[h] += dot(qr[h * QUADS + i], k);
        }
        [[unroll]] for (uint h = 0; h < HEADS; h++) {
            float m_new = seen ? max(m[h], s[h]) : m[h];
            old[h] = exp1(m[h] - m_new);
            s[h] = seen ? exp1(s[h] - m_new) : 0.0;
            l[h] = l[h] * old[h] + s[h];
            m[h] = m_new;
        }
        [[unroll]] for (uint i = 0; i < QUADS; i++) {
            vec4 v = load_v(at, i, QUADS);
            [[unroll]] for (uint h = 0; h < HEADS; h++)
                o[h * QUADS + i] = o[h * QUADS + i] * old[h] + v * s[h];
        }
        row = row_on(row, 1);
    }
    if (tok0 + lane() >= p.n_tok)
        return;
    [[unroll]] for (uint h = 0; h < HEADS; h++) {
        [[unroll]] for (uint i = 0; i < QUADS; i++)
            store_part(t, head0 + h, run, i, o[h * QUADS + i]);
        store_run(t, head0 + h, run, m[h], l[h]);
    }
}
