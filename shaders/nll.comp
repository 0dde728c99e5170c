#version 450
// nll: the parts of nll.glsl for rows of logits and the token that follows in the history of the
// batch, which is one segment.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_nll p; };
layout(binding = 0) readonly buffer Logits { float l[]; };
layout(binding = 1) readonly buffer Step { segment seg[]; };
layout(binding = 2) readonly buffer Ids { uint ids[]; };
layout(binding = 3) writeonly buffer Out { vec4 o[]; };

#include "nll.glsl"

void main()
{
    uint row = gl_WorkGroupID.x, at = row * p.stride + p.col;
    vec3 parts = nll_parts(at, p.n_vocab);
    if (lane() == 0) {
        uint id = ids[seg[0].seq * p.n_ids + seg[0].pos + p.row0 + row + 1];
        o[p.row0 + row] = vec4(parts, l[at + min(id, p.n_vocab - 1)]);
    }
}
