#version 450
// mamba_docs_edge_bwd: the flow between the tokens of one (head, chunk) and the states before and
// after it: what each token reads of the state before (row q of M, as if that state were a token),
// what each adds to the state after, and what passes through from one to the other, exp(c_last) <S,
// dS>.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer Sums { float sums[]; };
layout(binding = 2) readonly buffer States { vec4 states4[]; };     // [chunk][n_head][n]
layout(binding = 3) readonly buffer Dstates { vec4 dstates4[]; };
layout(binding = 4) readonly buffer PartC { float part_c[]; };  // [chunk][n_head][d_state / 4][q]
layout(binding = 5) readonly buffer PartB { float part_b[]; };
layout(binding = 6) writeonly buffer M { float m[]; };          // [chunk][n_head][q + 1][q]
layout(binding = 7) writeonly buffer Terms { float terms[]; };

void main()
{
    uint head = gl_WorkGroupID.x, chunk = gl_WorkGroupID.y, of = chunk * p.n_head + head;
    uvec4 c = chunks[p.chunk0 + chunk];
    uint n = p.d_state * p.head_dim / 4, sum = of * MAMBA_SUMS * p.q;
    uint term = of * MAMBA_TERMS * p.q, part = of * (p.d_state / 4) * p.q;
    if (c.y == 0)
        return;
    float both = 0.0;
    if (c.z == 0 && c.w == 0)
        [[dont_unroll]] for (uint i = lane(); i < n; i += WG)
            both += dot(states4[of * n + i], dstates4[of * n + i]);
    both = wg_sum(both);
    [[dont_unroll]] for (uint i = lane(); i < p.q; i += WG) {
        float reads = 0.0, leaves = 0.0;
        [[dont_unroll]] for (uint k = 0; k < p.d_state / 4 && i < c.y; k++) {
            if (c.z == 0)
                reads += part_c[part + k * p.q + i];
            if (c.w == 0)
                leaves += part_b[part + k * p.q + i];
        }
        m[(of * (p.q + 1) + p.q) * p.q + i] = reads * sums[sum + MAMBA_E * p.q + i];
        terms[term + MAMBA_LEAVES * p.q + i] = leaves * sums[sum + MAMBA_R * p.q + i];
        if (i == 0)
            terms[term + MAMBA_THROUGH * p.q] = both * sums[sum + MAMBA_E * p.q + p.q - 1];
    }
}
