#version 450
// embed: y[t] = row ids[n_past + t] of the embedding matrix. Rows [row0, row0 + n_vocab) of the
// matrix are bound; tokens of other rows are left to the dispatch that binds those. One workgroup
// per token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define WEIGHT_BINDING 0
#define CODEBOOK_BINDING 4
#include "weight.glsl"

layout(push_constant) uniform Push { push_embed p; };
layout(binding = 1) readonly buffer Ids { uint ids[]; };
layout(binding = 2) readonly buffer Step { step st; };
layout(binding = 3) writeonly buffer Y { vec4 y[]; };

void main()
{
    uint t = gl_WorkGroupID.x, id = ids[st.n_past + t] - p.row0, n_block = (p.n_embd + 31) / 32;
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
