#version 450
// mamba_docs_pairs: the factors between the tokens of a chunk, for the heads of one group, which
// share C and B: F_ij = (C_i . B_j) exp(c_i - c_j) dt_j for j < i, the same plus D for j = i, and 0
// for j > i.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 2) readonly buffer S4 { vec4 sums4[]; };
layout(binding = 2) readonly buffer S1 { float sums[]; };
layout(binding = 3) readonly buffer D { float d_skip[]; };
layout(binding = 4) writeonly buffer F { vec4 f4[]; };          // [chunk][n_head][q][q]
#include "mamba_docs.glsl"

void main()
{
    chunk c = this_chunk();
    uint group = gl_WorkGroupID.x, row0 = tile_row(p.q), col0 = tile_col(p.q);
    if (c.n == 0 || row0 >= p.q || col0 >= p.q)
        return;
    uint row[ROWS], col[4];
    vec4 gram[ROWS];
    uvec4 j = uvec4(col0, col0 + 1, col0 + 2, col0 + 3);
    [[unroll]] for (uint e = 0; e < 4; e++)
        col[e] = token(c, col0 + e) + b_col(group) / 4;
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        row[i] = token(c, row0 + i) + c_col(group) / 4;
        gram[i] = vec4(0.0);
    }
    if (col0 < row0 + ROWS)
        rows_by_rows(row, col, p.d_state, gram);
    [[dont_unroll]] for (uint k = 0; k < per_group(); k++) {
        uint head = group * per_group() + k;
        uint high = sums_at(head, MAMBA_HIGH), low = sums_at(head, MAMBA_LOW);
        vec4 high_j = sums4[(high + col0) / 4], low_j = sums4[(low + col0) / 4];
        vec4 dt = sums4[(sums_at(head, MAMBA_DT) + col0) / 4];
        float skip = d_skip[head];
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            uint i = row0 + r;
            if (i < p.q) {
                vec4 v = gram[r] * exp4(sums[high + i] - high_j + (sums[low + i] - low_j)) * dt;
                v = mix(vec4(0.0), v, lessThanEqual(j, uvec4(i)));
                f4[(pair_at(head) + i * p.q + col0) / 4] =
                    v + mix(vec4(0.0), vec4(skip), equal(j, uvec4(i)));
            }
        }
    }
}
