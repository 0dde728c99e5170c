#version 450
// next_piece: the piece has been done; the same cmd does the next one when it runs again.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_next_piece p; };
layout(binding = 0) buffer Piece { uint piece[]; };

void main()
{
    if (lane() == 0)
        piece[0] += p.by;
}
