#version 450
// mamba_docs_pairs_bwd: the factors between the tokens of a chunk in the backward, for the heads of
// one group. For j <= i, with G_ij = C_i . B_j, L_ij = exp(c_i - c_j), N_ij = dy_i . x_j:
//   F_ij: as in the forward, but transposed; the factors of dy in dx
//   M_ij = N G L, transposed: the flow from j to i, from which c and dt get their gradients
//   dG_ij = sum over the heads of N L dt_j, and its transpose: the factors of B in dC, of C in dB
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 2) readonly buffer S4 { vec4 sums4[]; };
layout(binding = 2) readonly buffer S1 { float sums[]; };
layout(binding = 3) readonly buffer D { float d_skip[]; };
layout(binding = 4) writeonly buffer F { vec4 f4[]; };          // [chunk][n_head][q][q]
layout(binding = 5) writeonly buffer M { vec4 m4[]; };          // [chunk][n_head][q + 1][q]
layout(binding = 6) writeonly buffer G { vec4 g4[]; };          // [chunk][n_group][2][q][q]
layout(binding = 7) writeonly buffer Terms { float terms[]; };
#include "mamba_docs.glsl"

uint row0, col0;
uvec4 i_col;

// F, M and N . L . dt of one head for row j, from the product N.
vec4 head_row(chunk c, uint head, uint j, vec4 gram, vec4 n, vec4 high_i, vec4 low_i)
{
    float dt = sums[sums_at(head, MAMBA_DT) + j], skip = d_skip[head];
    vec4 past = high_i - sums[sums_at(head, MAMBA_HIGH) + j] +
                (low_i - sums[sums_at(head, MAMBA_LOW) + j]);
    bvec4 after = greaterThanEqual(i_col, uvec4(j)), inside = lessThan(i_col, uvec4(c.n));
    bvec4 live = bvec4(after.x && inside.x, after.y && inside.y, after.z && inside.z,
                       after.w && inside.w);
    vec4 l = mix(vec4(0.0), exp4(past), live), f = mix(vec4(0.0), gram * l, live);
    uint m = pair_at(head) + (i_chunk() * p.n_head + head) * p.q;
    f4[(pair_at(head) + j * p.q + col0) / 4] =
        f * dt + mix(vec4(0.0), vec4(skip), equal(i_col, uvec4(j)));
    m4[(m + j * p.q + col0) / 4] = n * f;
    [[unroll]] for (uint e = 0; e < 4; e++)
        if (i_col[e] == j)
            terms[terms_at(head, MAMBA_DY_X) + j] = j < c.n ? n[e] : 0.0;
    return n * l * dt;
}

void main()
{
    chunk c = this_chunk();
    uint group = gl_WorkGroupID.x, row[ROWS], col[4], x[ROWS], dy[4];
    row0 = tile_row(p.q);
    col0 = tile_col(p.q);
    if (c.n == 0 || row0 >= p.q || col0 >= p.q)
        return;
    bool any = col0 + 4 > row0;
    vec4 gram[ROWS], dg[ROWS];
    i_col = uvec4(col0, col0 + 1, col0 + 2, col0 + 3);
    [[unroll]] for (uint e = 0; e < 4; e++) {
        col[e] = token(c, col0 + e) + c_col(group) / 4;
        dy[e] = token(c, col0 + e) + (p.v_col + group * per_group() * p.head_dim) / 4;
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        row[r] = token(c, row0 + r) + b_col(group) / 4;
        x[r] = token(c, row0 + r) + group * per_group() * p.head_dim / 4;
        gram[r] = dg[r] = vec4(0.0);
    }
    if (any)
        rows_by_rows(row, col, p.d_state, gram);
    [[dont_unroll]] for (uint k = 0; k < per_group(); k++) {
        uint head = group * per_group() + k;
        vec4 n[ROWS], high = sums4[(sums_at(head, MAMBA_HIGH) + col0) / 4];
        vec4 low = sums4[(sums_at(head, MAMBA_LOW) + col0) / 4];
        [[unroll]] for (uint r = 0; r < ROWS; r++)
            n[r] = vec4(0.0);
        if (any)
            rows_by_rows(x, dy, p.head_dim, n);
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            if (row0 + r < p.q)
                dg[r] += head_row(c, head, row0 + r, gram[r], n[r], high, low);
            x[r] += p.head_dim / 4;
        }
        [[unroll]] for (uint e = 0; e < 4; e++)
            dy[e] += p.head_dim / 4;
    }
    uint g = (i_chunk() * p.n_group + group) * 2 * p.q * p.q;
    [[unroll]] for (uint r = 0; r < ROWS; r++)
        if (row0 + r < p.q)
            g4[(g + p.q * p.q + (row0 + r) * p.q + col0) / 4] = dg[r];
    [[unroll]] for (uint r = 0; r < ROWS; r += 4)
        [[unroll]] for (uint e = 0; e < 4; e++)
            if (row0 + r < p.q)
                g4[(g + (col0 + e) * p.q + row0 + r) / 4] =
                    vec4(dg[r][e], dg[r + 1][e], dg[r + 2][e], dg[r + 3][e]);
}
