#version 450
// embed: y[t] = the row of the embedding matrix for the id of token t. Rows [row0, row0 + n_vocab)
// of the matrix are bound; tokens of other rows are left to the dispatch that binds those. One
// workgroup per token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define WEIGHT_BINDING 0
#define CODEBOOK_BINDING 4
#include "weight.glsl"

layout(push_constant) uniform Push { push_embed p; };
layout(binding = 1) readonly buffer Ids { uint ids[]; };     // [n_seq][n_ids]
layout(binding = 2) readonly buffer Step { segment seg[]; };
layout(binding = 3) writeonly buffer Y { vec4 y[]; };
#include "segments.glsl"

void main()
{
    uint t = gl_WorkGroupID.x, s = segment_of(t, p.n_seg), n_block = (p.n_embd + 31) / 32;
    uint id = ids[seg[s].seq * p.n_ids + pos_of(t, p.n_seg)] - p.row0;
    if (id >= p.n_vocab)
        return;
    for (uint b = lane(); b < n_block; b += WG) {
        vec4 w[8];
        weight_block(id * p.row_q, n_block, b, w);
        [[unroll]] for (uint i = 0; i < 8; i++)
            if (32 * b + 4 * i < p.n_embd)
                y[(t * p.n_embd + 32 * b + 4 * i) / 4] = w[i];
    }
}
