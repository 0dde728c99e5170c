#version 450
// mamba_docs_state: what the tokens of one chunk add to the state of a head, for rows of d_state
// and columns of head_dim: the sum over j of weight_j own_j (outer) v_j. In the forward own is B, v
// is x and the weight r dt. In the backward, which walks from the end, they are C, dy and exp(c).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 2) readonly buffer Sums { vec4 sums4[]; };
layout(binding = 3) writeonly buffer States { vec4 states4[]; };    // [chunk][n_head][d_state]
#include "mamba_docs.glsl"                                          //   [head_dim]

void main()
{
    chunk c = this_chunk();
    uint head = gl_WorkGroupID.x, hd = p.head_dim, ds = p.d_state;
    uint row0 = tile_row(ds), col0 = tile_col(ds), own[ROWS / 4];
    if (c.n == 0 || row0 >= ds || col0 >= hd)
        return;
    uint v = (p.v_col + head * hd + col0) / 4, weight = sums_at(head, p.weight) / 4;
    vec4 acc[ROWS];
    [[unroll]] for (uint i = 0; i < ROWS / 4; i++)
        own[i] = (p.own_col + head / per_group() * ds + min(row0 + 4 * i, ds - 4)) / 4;
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        acc[i] = vec4(0.0);
    [[dont_unroll]] for (uint k = 0; k < c.n; k += 4) {
        vec4 w = sums4[weight + k / 4];
        [[unroll]] for (uint e = 0; e < 4; e++) {
            uint t = token(c, k + e);
            vec4 vk = u4[t + v] * (k + e < c.n ? w[e] : 0.0);
            [[unroll]] for (uint i = 0; i < ROWS; i += 4) {
                vec4 o = u4[t + own[i / 4]];
                [[unroll]] for (uint j = 0; j < 4; j++)
                    acc[i + j] += o[j] * vk;
            }
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        if (row0 + i < ds)
            states4[(state_at(head) + (row0 + i) * hd + col0) / 4] = acc[i];
}
