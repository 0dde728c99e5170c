#version 450
// attn: softmax(q k' / sqrt(head_dim)) v over the cache, causal, for one (head, token, run of
// keys). A lane takes one key for the scores, and a slice of the head for the values, with ROUND
// loads at a time. The softmax is online, in f32. With one run this kernel divides and gates the
// result; with several, attn_merge does.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define K_BINDING 1
#define V_BINDING 2
#include "kv.glsl"

// quads of the head per lane, ceil(head_dim / 4 / WG)
layout(constant_id = SPEC_quads) const uint QUADS = 1;
layout(push_constant) uniform Push { push_attn p; };
layout(binding = 0) readonly buffer Q { vec4 q[]; };
layout(binding = 3) readonly buffer Step { segment seg[]; };
layout(binding = 4) readonly buffer P { vec4 proj[]; };
layout(binding = 4) readonly buffer P1 { float proj1[]; };
layout(binding = 5) writeonly buffer Out { vec4 y[]; };
#include "attn.glsl"

const uint MAX_HEAD = 512, ROUND = WG < 8 ? WG : 8;
shared vec4 q_row[MAX_HEAD / 4 + ROUND - 1];        // zeros after the head
shared float weight[WG];

void main()
{
    uint h = gl_WorkGroupID.x, t = gl_WorkGroupID.y, run = gl_WorkGroupID.z, quads = p.head_dim / 4;
    uint pos = pos_of(t, p.n_seg), first = first_key(pos) + run * p.split_len;
    uint end = min(pos + 1, first + p.split_len);
    uint kv = cache_of(t, h);

    for (uint i = lane(); i < quads + ROUND - 1; i += WG)
        q_row[i] = i < quads ? q[(t * p.n_head + h) * quads + i] * p.scale : vec4(0);
    barrier();

    float m = NEVER, l = 0.0;
    vec4 o[QUADS];
    [[unroll]] for (uint i = 0; i < QUADS; i++)
        o[i] = vec4(0);
    for (uint j0 = first; j0 < end; j0 += WG) {
        uint j = j0 + lane(), row = row_of(j0);
        float s = NEVER;
        if (j < end) {
            uint at = kv_at(kv + row_on(row, lane()), quads);
            s = 0.0;
            [[dont_unroll]] for (uint i = 0; i < quads; i += ROUND) {
                vec4 k[ROUND];
                [[unroll]] for (uint e = 0; e < ROUND; e++)
                    k[e] = load_k(at, min(i + e, quads - 1), quads);
                [[unroll]] for (uint e = 0; e < ROUND; e++)
                    s += dot(q_row[i + e], k[e]);
            }
        }
        float m_new = max(m, wg_max(s)), old = exp1(m - m_new);
        float e = j < end ? exp1(s - m_new) : 0.0;
        weight[lane()] = e;
        l = l * old + wg_sum(e);
        m = m_new;
        barrier();
        [[unroll]] for (uint i = 0; i < QUADS; i++)
            o[i] *= old;
        uint n_key = min(WG, end - j0);     // the weights of later ones are zero
        [[dont_unroll]] for (uint jj = 0; jj < n_key; jj += ROUND)
            [[unroll]] for (uint i = 0; i < QUADS; i++) {
                uint quad = min(lane() + i * WG, quads - 1);
                vec4 v[ROUND];
                [[unroll]] for (uint e = 0; e < ROUND; e++)
                    v[e] = load_v(kv_at(kv + row_on(row, min(jj + e, n_key - 1)), quads), quad,
                                  quads);
                [[unroll]] for (uint e = 0; e < ROUND; e++)
                    o[i] += weight[jj + e] * v[e];
            }
        barrier();
    }

    [[unroll]] for (uint i = 0; i < QUADS; i++) {
        uint d = lane() + i * WG;
        if (d < quads && p.merge != 0)
            store_part(t, h, run, d, o[i]);
        else if (d < quads)
            store_done(t, h, d, o[i], l);
    }
    if (lane() == 0 && p.merge != 0)
        store_run(t, h, run, m, l);
}
