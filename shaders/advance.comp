#version 450
// advance: moves the step buffer past a batch: the next batch begins after it, reads the states
// that this one wrote, and writes the others.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_advance p; };
layout(binding = 0) buffer Step { segment seg[]; };

void main()
{
    for (uint s = lane(); s < p.n_seg; s += WG) {
        uint slot = seg[s].slot_in;
        seg[s].pos += p.n_tok;
        seg[s].slot_in = seg[s].slot_out;
        seg[s].slot_out = slot;
    }
}
