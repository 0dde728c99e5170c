#version 450
// mamba_docs_cross_bwd: replaces M_ij, the flow from token j to token i, by the flow from j to all
// tokens from i on and out of the chunk. This is everything from j that the decay at i affects. The
// state at the beginning of the chunk is one more j. Only pairs that cross i are summed:
// differences of sums over all pairs would lose what is left of a head that forgets fast. A lane
// has one j of a head.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer Sums { float sums[]; };
layout(binding = 2) buffer M { vec4 m4[]; };                    // [chunk][n_head][q + 1][q]
layout(binding = 3) buffer Terms { float terms[]; };

void main()
{
    uint id = gl_WorkGroupID.x * WG + lane(), head = id / (p.q + 1), j = id % (p.q + 1);
    uint chunk = gl_WorkGroupID.y, of = chunk * p.n_head + head;
    uvec4 c = chunks[p.chunk0 + chunk];
    if (head >= p.n_head || (j >= c.y && j != p.q) || c.y == 0)
        return;
    bool state = j == p.q;
    uint term = of * MAMBA_TERMS * p.q, row = (of * (p.q + 1) + j) * p.q / 4;
    float run = 0.0, out_of = terms[term + (state ? MAMBA_THROUGH * p.q : MAMBA_LEAVES * p.q + j)];
    float dt = state ? 1.0 : sums[(of * MAMBA_SUMS + MAMBA_DT) * p.q + min(j, p.q - 1)];
    [[dont_unroll]] for (uint i = (c.y + 3) / 4; i-- > (state ? 0 : j / 4);) {
        vec4 v = m4[row + i];
        v.w += run;
        v.z += v.w;
        v.y += v.z;
        v.x += v.y;
        run = v.x;
        m4[row + i] = (v + out_of) * dt;
    }
    if (!state)
        terms[term + MAMBA_X_DX * p.q + j] = run + out_of;
}
