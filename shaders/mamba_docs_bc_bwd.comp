#version 450
// mamba_docs_bc_bwd: dC of one (group of heads, chunk), for rows of tokens and columns of d_state:
//   dC_i = sum over heads of weight_i z_i + sum over j <= i of dG_ij B_j,  z_i = S dy_i
// where S is the state at the beginning of the chunk and the weight is exp(c). The same kernel
// computes dB, from x, the gradient of the state at the end of the chunk, the weight r dt, dG
// transposed, C, and j >= i. The gradient of c needs z . C, or z . B; each lane stores the part of
// its columns.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 2) readonly buffer Sums { float sums[]; };
layout(binding = 3) readonly buffer States { vec4 states4[]; }; // [chunk][n_head][d_state]
layout(binding = 4) readonly buffer G { vec4 g4[]; };           //   [head_dim]
layout(binding = 5) writeonly buffer Part { float part[]; };    // [chunk][n_head][d_state / 4][q]
layout(binding = 6) writeonly buffer Du { vec4 du4[]; };        // [n_tok][d_conv]
#include "mamba_docs.glsl"

// Adds the part of head k of the group.
void add_head(chunk c, uint head, uint row0, uint col0, vec4 own[ROWS], inout vec4 acc[ROWS])
{
    uint s[4], v[ROWS], hd = p.head_dim;
    vec4 z[ROWS];
    [[unroll]] for (uint e = 0; e < 4; e++)
        s[e] = (state_at(head) + (col0 + e) * hd) / 4;
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        v[i] = token(c, row0 + i) + (p.v_col + head * hd) / 4;
        z[i] = vec4(0.0);
    }
    [[dont_unroll]] for (uint k = 0; k < hd / 4; k++) {
        vec4 sk[4];
        [[unroll]] for (uint e = 0; e < 4; e++)
            sk[e] = states4[s[e] + k];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 vk = u4[v[i] + k];
            z[i] += vec4(dot(vk, sk[0]), dot(vk, sk[1]), dot(vk, sk[2]), dot(vk, sk[3]));
        }
    }
    uint to = ((i_chunk() * p.n_head + head) * (p.d_state / 4) + col0 / 4) * p.q;
    uint weight = sums_at(head, p.weight);
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        acc[i] += sums[weight + min(row0 + i, p.q - 1)] * z[i];
        if (row0 + i < c.n)
            part[to + row0 + i] = dot(z[i], own[i]);
    }
}

void main()
{
    chunk c = this_chunk();
    uint group = gl_WorkGroupID.x, row0 = tile_row(p.q), col0 = tile_col(p.q), g[ROWS];
    if (row0 >= c.n || col0 >= p.d_state)
        return;
    uint other = (p.other_col + group * p.d_state + col0) / 4;
    vec4 acc[ROWS], own[ROWS];
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        acc[i] = vec4(0.0);
        own[i] = u4[token(c, row0 + i) + (p.own_col + group * p.d_state + col0) / 4];
        g[i] = ((i_chunk() * p.n_group + group) * 2 + p.back) * p.q * p.q / 4 +
               min(row0 + i, p.q - 1) * p.q / 4;
    }
    if (!(p.back != 0 ? c.ends : c.begins))
        [[dont_unroll]] for (uint k = 0; k < per_group(); k++)
            add_head(c, group * per_group() + k, row0, col0, own, acc);
    uint k0 = p.back != 0 ? row0 / 4 : 0, end = p.back != 0 ? c.n : min(row0 + ROWS, c.n);
    [[dont_unroll]] for (uint k = k0; k < (end + 3) / 4; k++) {
        vec4 v[4];
        [[unroll]] for (uint e = 0; e < 4; e++)
            v[e] = u4[token(c, 4 * k + e) + other];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 w = g4[g[i] + k];
            [[unroll]] for (uint e = 0; e < 4; e++)
                acc[i] += w[e] * v[e];
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        if (row0 + i < c.n)
            du4[((c.first + row0 + i) * p.y_stride + p.y_col + group * p.d_state + col0) / 4] =
                acc[i];
}
