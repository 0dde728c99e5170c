#version 450
// mamba_docs_out: the outputs of one (head, chunk), for rows of tokens and columns of head_dim:
//   y_i = weight_i own_i S + sum over j of F_ij v_j
// In the forward, own is C, S the state at the beginning of the chunk, the weight exp(c), v is x,
// and j <= i. In the backward the same kernel computes dx: v is dy, own is B, S the gradient of the
// state at the end of the chunk, the weight r dt, F is transposed, and j >= i.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 2) readonly buffer Sums { float sums[]; };
layout(binding = 3) readonly buffer F { vec4 f4[]; };           // [chunk][n_head][q][q]
layout(binding = 4) readonly buffer States { vec4 states4[]; }; // [chunk][n_head][d_state]
layout(binding = 5) writeonly buffer Y { vec4 y4[]; };          //   [head_dim]
#include "mamba_docs.glsl"

void add_state(chunk c, uint head, uint row0, uint col0, inout vec4 acc[ROWS])
{
    uint own[ROWS], s = (state_at(head) + col0) / 4, hd = p.head_dim / 4;
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        own[i] = token(c, row0 + i) + (p.own_col + head / per_group() * p.d_state) / 4;
    [[dont_unroll]] for (uint k = 0; k < p.d_state / 4; k++) {
        vec4 v[4];
        [[unroll]] for (uint e = 0; e < 4; e++)
            v[e] = states4[s + (4 * k + e) * hd];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 o = u4[own[i] + k];
            [[unroll]] for (uint e = 0; e < 4; e++)
                acc[i] += o[e] * v[e];
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        acc[i] *= sums[sums_at(head, p.weight) + min(row0 + i, p.q - 1)];
}

void main()
{
    chunk c = this_chunk();
    uint head = gl_WorkGroupID.x, hd = p.head_dim, row0 = tile_row(p.q), col0 = tile_col(p.q);
    if (row0 >= c.n || col0 >= hd)
        return;
    uint f[ROWS], col = (p.v_col + head * hd + col0) / 4;
    vec4 acc[ROWS];
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        f[i] = (pair_at(head) + min(row0 + i, p.q - 1) * p.q) / 4;
        acc[i] = vec4(0.0);
    }
    if (!(p.back != 0 ? c.ends : c.begins))
        add_state(c, head, row0, col0, acc);
    uint k0 = p.back != 0 ? row0 / 4 : 0, end = p.back != 0 ? c.n : min(row0 + ROWS, c.n);
    [[dont_unroll]] for (uint k = k0; k < (end + 3) / 4; k++) {
        vec4 v[4];
        [[unroll]] for (uint e = 0; e < 4; e++)
            v[e] = u4[token(c, 4 * k + e) + col];
        [[unroll]] for (uint i = 0; i < ROWS; i++) {
            vec4 w = f4[f[i] + k];
            [[unroll]] for (uint e = 0; e < 4; e++)
                acc[i] += w[e] * v[e];
        }
    }
    [[unroll]] for (uint i = 0; i < ROWS; i++)
        if (row0 + i < c.n)
            y4[((c.first + row0 + i) * p.y_stride + p.y_col + head * hd + col0) / 4] = acc[i];
}
