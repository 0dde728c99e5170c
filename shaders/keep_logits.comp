#version 450
// keep_logits: copies the logits of each segment to the state slot that the batch writes.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_keep_logits p; };
layout(binding = 0) readonly buffer Rows { float row[]; };     // [n_seg][n_vocab]
layout(binding = 1) writeonly buffer Slots { float kept[]; };   // [n_slot][n_vocab]
layout(binding = 2) readonly buffer Step { segment seg[]; };

void main()
{
    uint s = gl_WorkGroupID.y, in_row = s * p.stride, in_slot = seg[s].slot_out * p.slot_stride;
    uint first = gl_WorkGroupID.x * WG + lane(), by = gl_NumWorkGroups.x * WG;
    [[dont_unroll]] for (uint i = first; i < p.n_vocab; i += by)
        kept[in_slot + i] = row[in_row + i];
}
