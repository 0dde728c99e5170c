#version 450
// take_logits: copies the logits of the state slot that each segment reads.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_keep_logits p; };
layout(binding = 0) writeonly buffer Rows { float row[]; };     // [n_seg][n_vocab]
layout(binding = 1) readonly buffer Slots { float kept[]; };   // [n_slot][n_vocab]
layout(binding = 2) readonly buffer Step { segment seg[]; };

void main()
{
    uint s = gl_WorkGroupID.y, in_row = s * p.stride, in_slot = seg[s].slot_in * p.slot_stride;
    uint first = gl_WorkGroupID.x * WG + lane(), by = gl_NumWorkGroups.x * WG;
    [[dont_unroll]] for (uint i = first; i < p.n_vocab; i += by)
        row[in_row + i] = kept[in_slot + i];
}
