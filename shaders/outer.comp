#version 450
// outer: what products add to the gradient of their weights: out[s][l] += sum_t S[t][s] L[t][l], or
// with TURNED the same to out[l][s]. A workgroup owns ROWS of the short side, and a lane four of
// the long one. Tokens come in their order, four at a time; on a CPU device each lane loads a quad
// of their short rows and passes it to all other lanes. SPLIT: the tokens are divided into parts;
// each part stores its sums in the layout of out, and outer_sum adds them up.
//
// GROUPED: gl_WorkGroupID.z is an expert, and t goes through its entries as moe_sort lists them. S
// has a row for each entry; L has one for each token (GROUPED_TOKEN) or entry (GROUPED_ENTRY).
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"

layout(constant_id = SPEC_rows) const uint ROWS = 4;        // a multiple of 4
layout(constant_id = SPEC_turned) const uint TURNED = 0;
layout(constant_id = SPEC_aligned) const uint ALIGNED = 0;  // rows begin at multiples of 4: of L
                                                            // (bit 0), of S (bit 1)
layout(constant_id = SPEC_split) const uint SPLIT = 0;
layout(constant_id = SPEC_grouped) const uint GROUPED = GROUPED_NOT;
const uint OWN = (ROWS + WG - 1) / WG;      // quads of four tokens' short rows that a lane loads

layout(push_constant) uniform Push { push_outer p; };
layout(set = 0, binding = 0) readonly restrict buffer Long4 { vec4 long4[]; };
layout(set = 0, binding = 0) readonly restrict buffer Long1 { float long1[]; };
layout(set = 0, binding = 1) readonly restrict buffer Short4 { vec4 short4[]; };
layout(set = 0, binding = 1) readonly restrict buffer Short1 { float short1[]; };
layout(set = 0, binding = 2) restrict buffer Sums { float sums[]; };
layout(set = 0, binding = 3) readonly buffer Entries { uint entries[]; };
layout(set = 0, binding = 4) readonly buffer Tiles { uint tiles[]; };   // linear_many.glsl

// Four numbers of a row of n. Those past its end are never stored.
vec4 load_long(uint t, uint l)
{
    uint at = t * p.long_stride + p.long_col, top = p.n_long - 1;
    if ((ALIGNED & 1u) != 0u)
        return long4[(at + min(l, top)) / 4];
    return vec4(long1[at + min(l, top)], long1[at + min(l + 1, top)],
                long1[at + min(l + 2, top)], long1[at + min(l + 3, top)]);
}
vec4 load_short(uint t, uint s)
{
    uint at = t * p.short_stride + p.short_col, top = p.n_short - 1;
    if ((ALIGNED & 2u) != 0u)
        return short4[(at + min(s, top)) / 4];
    return vec4(short1[at + min(s, top)], short1[at + min(s + 1, top)],
                short1[at + min(s + 2, top)], short1[at + min(s + 3, top)]);
}

// The first tile of expert e, or of the next one that has any.
uint tile_of(uint e)
{
    uint lo = 0, hi = tiles[0];
    while (lo < hi) {
        uint mid = (lo + hi) / 2;
        if (tiles[1 + 3 * mid] < e)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

uint row_of(uint i) { return GROUPED == GROUPED_NOT ? i : entries[i]; }

void main()
{
    uint l = (gl_WorkGroupID.x * WG + lane()) * 4, s0 = gl_WorkGroupID.y * ROWS;
    uint part = gl_WorkGroupID.z, first = part * p.per_split;
    uint end = min(first + p.per_split, p.n_tok);
    if (GROUPED != GROUPED_NOT) {
        uint i = tile_of(p.expert0 + part), past = tile_of(p.expert0 + part + 1);
        if (i == past)
            return;
        first = tiles[2 + 3 * i];
        end = tiles[2 + 3 * (past - 1)] + tiles[3 + 3 * (past - 1)];
    }
    vec4 acc[ROWS];
    [[unroll]] for (uint s = 0; s < ROWS; s++)
        acc[s] = vec4(0);
    [[dont_unroll]] for (uint i = first; i < end; i += 4) {
        vec4 own[OWN];
        [[unroll]] for (uint k = 0; k < OWN; k++) {
            uint slot = (lane() + k * WG) % ROWS;
            own[k] = load_short(row_of(min(i + slot / (ROWS / 4), end - 1)),
                                s0 + slot % (ROWS / 4) * 4);
        }
        [[unroll]] for (uint u = 0; u < 4; u++) {
            uint t = row_of(min(i + u, end - 1));
            vec4 v = load_long(GROUPED == GROUPED_TOKEN ? t / p.n_used : t, l), q;
            v = i + u < end ? v : vec4(0);
            [[unroll]] for (uint s = 0; s < ROWS / 4; s++) {
                uint slot = u * ROWS / 4 + s;
                if (ONE_SUBGROUP != 0)
                    q = subgroupShuffle(own[slot / WG], slot % WG);
                else
                    q = load_short(t, s0 + 4 * s);
                [[unroll]] for (uint e = 0; e < 4; e++)
                    acc[4 * s + e] += q[e] * v;
            }
        }
    }
    uint to = part * p.n_row * p.out_stride;
    [[unroll]] for (uint s = 0; s < ROWS; s++)
        [[unroll]] for (uint e = 0; e < 4; e++)
            if (s0 + s < p.n_short && l + e < p.n_long) {
                uint at = to + (TURNED != 0 ? (l + e) * p.out_stride + s0 + s
                                            : (s0 + s) * p.out_stride + l + e);
                sums[at] = SPLIT != 0 ? acc[s][e] : sums[at] + acc[s][e];
            }
}
