#version 450
// state_stats: STATE_STATS of push.h for the states of a recurrent head. One workgroup per head.
// Without DOCS: the states that the first segment of the next batch reads.
// DOCS: the states with which chunks of documents begin, except the zeros at the beginning of a
// document and states after padding. ADD: added to the statistics that are there.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_docs) const uint DOCS = 0;
layout(constant_id = SPEC_add) const uint ADD = 0;
layout(push_constant) uniform Push { push_state_stats p; };
layout(binding = 0) readonly buffer State { vec4 state4[]; };
layout(binding = 1) readonly buffer Chunks { uvec4 chunks[]; }; // only DOCS
layout(binding = 1) readonly buffer Step { segment seg[]; };    // the same binding, without DOCS
layout(binding = 2) readonly buffer Real { uint real[]; };      // [n_tok], only DOCS
layout(binding = 3) buffer Out { float stats[]; };               // [n_head][STATE_STATS]

void main()
{
    uint head = gl_WorkGroupID.x, to = (p.head0 + head) * STATE_STATS, n4 = p.n / 4;
    float n = 0.0, squares = 0.0, most = 0.0;
    [[dont_unroll]] for (uint i = 0; i < p.n_chunk; i++) {
        if (DOCS != 0) {
            uvec4 c = chunks[p.chunk0 + i];
            if (c.y == 0 || c.z != 0 || real[c.x] == 0)
                continue;
        }
        uint at = (head * p.by_head + (p.from + i) * p.by_chunk) * n4;
        if (DOCS == 0)
            at += seg[0].slot_in * gl_NumWorkGroups.x * n4;
        [[dont_unroll]] for (uint k = lane(); k < n4; k += WG) {
            vec4 v = abs(state4[at + k]);
            squares += dot(v, v);
            most = max(most, max(max(v.x, v.y), max(v.z, v.w)));
        }
        n += 1.0;
    }
    squares = wg_sum(squares);
    most = wg_max(most);
    if (lane() != 0)
        return;
    stats[to] = (ADD != 0 ? stats[to] : 0.0) + n;
    stats[to + 1] = (ADD != 0 ? stats[to + 1] : 0.0) + squares;
    stats[to + 2] = max(ADD != 0 ? stats[to + 2] : 0.0, most);
}
