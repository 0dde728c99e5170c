#version 450
// mamba_docs_pass: the state from chunk to chunk, S = exp(c_last) S + what the chunk adds, from
// zero at the beginning of a document. The state at the beginning of a chunk replaces what the
// chunk adds; in the backward, the gradient of the state at its end does.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer Sums { float sums[]; };
layout(binding = 2) buffer States { vec4 states4[]; };          // [n_chunk][n_head][n]
layout(binding = 3) buffer Carry { vec4 carry4[]; };            // [n_head][n], from run to run

void main()
{
    uint i = gl_WorkGroupID.x * WG + lane(), head = gl_WorkGroupID.y;
    uint n = p.d_state * p.head_dim / 4;
    if (i >= n)
        return;
    vec4 s = carry4[head * n + i];
    [[dont_unroll]] for (uint k = 0; k < p.n_chunk; k++) {
        uint chunk = p.back != 0 ? p.n_chunk - 1 - k : k, of = chunk * p.n_head + head;
        uvec4 c = chunks[p.chunk0 + chunk];
        if (c.y == 0)
            continue;
        if ((p.back != 0 ? c.w : c.z) != 0)
            s = vec4(0.0);
        vec4 add = states4[of * n + i];
        states4[of * n + i] = s;
        s = s * sums[(of * MAMBA_SUMS + MAMBA_E) * p.q + p.q - 1] + add;
    }
    carry4[head * n + i] = s;
}
