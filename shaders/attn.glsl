// attn: which keys a token sees, and how the attention kernels store a head: divided by the sum and
// gated or, if attn_merge follows, undivided with its maximum and sum after it. Include after
// declaring p, proj, proj1, seg and y. A kernel whose heads are always merged defines
// ALWAYS_MERGED.
layout(constant_id = SPEC_ring) const uint RING = 0;  // 1: a token sees p.window keys; in a ring
#include "segments.glsl"

const float NEVER = -1e30;      // finite, so that the difference of two of these is not a NaN

// The first row of the cache for query head h of token t.
uint cache_of(uint t, uint h)
{
    uint seq = seg[segment_of(t, p.n_seg)].seq;
    return (seq * p.n_kv_head + h / (p.n_head / p.n_kv_head)) * p.n_row;
}

uint first_key(uint pos) { return RING != 0 && pos >= p.window ? pos + 1 - p.window : 0; }

// The row of key first + i in a head's cache, where row = row_of(first) and i < p.n_row.
uint row_of(uint key) { return RING != 0 ? key % p.n_row : key; }
uint row_on(uint row, uint i)
{
    uint r = row + i;
    return RING != 0 && r >= p.n_row ? r - p.n_row : r;
}

#ifndef ALWAYS_MERGED
layout(constant_id = SPEC_gate) const uint GATE = GATE_NONE;

vec4 gated(uint t, uint h, uint i, vec4 v)
{
    if (GATE == GATE_ELEM) {
        vec4 g = proj[(t * p.p_stride + p.gate_col + 2 * h * p.head_dim) / 4 + i];
        v *= vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
    } else if (GATE == GATE_HEAD) {
        v *= sigmoid(proj1[t * p.p_stride + p.gate_col + h]);
    }
    return v;
}

void store_done(uint t, uint h, uint i, vec4 o, float l)    // quad i
{
    y[(t * p.n_head + h) * p.head_dim / 4 + i] = gated(t, h, i, o / l);
}
#endif

uint run_at(uint t, uint h, uint run)
{
    return ((t * p.n_head + h) * p.n_split + run) * (p.head_dim / 4 + 1);
}

void store_part(uint t, uint h, uint run, uint i, vec4 o) { y[run_at(t, h, run) + i] = o; }

void store_run(uint t, uint h, uint run, float m, float l)
{
    y[run_at(t, h, run) + p.head_dim / 4] = vec4(m, l, 0, 0);
}
