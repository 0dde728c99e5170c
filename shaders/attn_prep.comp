#version 450
// attn_prep: normalises queries and keys per head and rotates them, if the layer does that, and
// writes keys and values to the cache. One workgroup for (head slot, token). Slots are the query
// heads, then the key heads, then the value heads. Rotation pairs element i with i + n_rot/2 (NeoX)
// and does not change elements from n_rot on.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "rope.glsl"
#define KV_WRITE
#define K_BINDING 6
#define V_BINDING 7
#include "kv.glsl"

layout(constant_id = SPEC_norm) const uint NORM = 0;
layout(constant_id = SPEC_ring) const uint RING = 0;  // position pos is in row pos % n_row
layout(constant_id = SPEC_docs) const uint DOCS = 0;  // a row of documents; token t is in row t
layout(push_constant) uniform Push { push_attn_prep p; };
layout(binding = 0) readonly buffer P { vec4 proj[]; };
layout(binding = 1) readonly buffer Qn { vec4 q_norm[]; };
layout(binding = 2) readonly buffer Kn { vec4 k_norm[]; };
layout(binding = 3) readonly buffer Turn { uvec2 turn[]; };   // n_rot/2 frequencies, see rope.glsl
layout(binding = 4) readonly buffer Step { segment seg[]; };
layout(binding = 4) readonly buffer First { uint first[]; };  // the same binding, with DOCS
layout(binding = 5) writeonly buffer Q { vec4 q_out[]; };     // [n_tok][n_head][head_dim]
#include "segments.glsl"

shared float row[MAX_HEAD];

float rotated(uint i, uint pos)
{
    uint h = p.n_rot / 2;
    if (i >= p.n_rot)
        return row[i];
    float c, s;
    rope_cos_sin(pos, turn[i < h ? i : i - h], c, s);
    return i < h ? row[i] * c - row[i + h] * s : row[i] * c + row[i - h] * s;
}

vec4 rotated4(uint i, uint pos)
{
    return vec4(rotated(4 * i, pos), rotated(4 * i + 1, pos), rotated(4 * i + 2, pos),
                rotated(4 * i + 3, pos));
}

uint row_of(uint t, uint pos) { return DOCS != 0 ? t : RING != 0 ? pos % p.n_row : pos; }

void main()
{
    uint slot = gl_WorkGroupID.x, t = gl_WorkGroupID.y, quads = p.head_dim / 4;
    uint pos = 0, seq = 0;
    if (DOCS != 0) {
        pos = t - first[t];
    } else {
        pos = pos_of(t, p.n_seg);
        seq = seg[segment_of(t, p.n_seg)].seq;
    }
    bool is_q = slot < p.n_head, is_v = slot >= p.n_head + p.n_kv_head;
    uint kv_head = is_v ? slot - p.n_head - p.n_kv_head : slot - p.n_head;
    uint col = is_q ? p.q_col + slot * p.q_step
                    : (is_v ? p.v_col : p.k_col) + kv_head * p.head_dim;
    uint at = (t * p.p_stride + col) / 4;
    uint cache = kv_at((seq * p.n_kv_head + kv_head) * p.n_row + row_of(t, pos), quads);

    if (is_v) {
        for (uint i = lane(); i < quads; i += WG)
            if (KV_TYPE == Q8_0)
                q8_row[i] = proj[at + i];
            else
                store_v(cache, i, proj[at + i]);
        if (KV_TYPE == Q8_0)
            store_q8(true, cache, quads);
        return;
    }
    float r = 1.0;
    if (NORM != 0) {
        float ss = 0.0;
        for (uint i = lane(); i < quads; i += WG)
            ss += dot(proj[at + i], proj[at + i]);
        r = 1.0 / sqrt(wg_sum(ss) / float(p.head_dim) + p.eps);
    }
    for (uint i = lane(); i < quads; i += WG) {
        vec4 v = proj[at + i];
        if (NORM != 0)
            v = v * r * (is_q ? q_norm[i] : k_norm[i]);
        [[unroll]] for (uint e = 0; e < 4; e++)
            row[4 * i + e] = v[e];
    }
    barrier();
    for (uint i = lane(); i < quads; i += WG) {
        vec4 v = rotated4(i, pos);
        if (is_q)
            q_out[(t * p.n_head + slot) * quads + i] = v;
        else if (KV_TYPE == Q8_0)
            q8_row[i] = v;
        else
            store_k(cache, i, v);
    }
    if (KV_TYPE == Q8_0 && !is_q)
        store_q8(false, cache, quads);
}
