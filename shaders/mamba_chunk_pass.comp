#version 450
// mamba_chunk_pass: the state from chunk to chunk, S = exp(c_last) S + what the chunk adds. The
// state at the beginning of a chunk replaces what the chunk adds.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_q) const uint Q = 64;
layout(push_constant) uniform Push { push_mamba p; };
layout(binding = 0) readonly buffer Sums { float sums[]; };     // chunk.glsl
layout(binding = 1) buffer States { float states[]; };          // [n_chunk][n_head][n]
layout(binding = 2) buffer State { float state[]; };            // [n_slot][n_head][n]
layout(binding = 3) readonly buffer Step { segment seg[]; };

void main()
{
    uint i = gl_WorkGroupID.x * WG + lane(), head = gl_WorkGroupID.y, n = p.d_state * p.head_dim;
    if (i >= n)
        return;
    uint from = p.tok0 == 0 ? seg[0].slot_in : seg[0].slot_out, to = seg[0].slot_out;
    float s = state[(from * p.n_head + head) * n + i];
    [[dont_unroll]] for (uint k = 0; k < p.n_chunk; k++) {
        uint last = (k * p.n_head + head) * 3 * Q + Q - 1, at = (k * p.n_head + head) * n + i;
        float add = states[at];
        states[at] = s;
        s = s * exp1(sums[last] + sums[last + Q]) + add;
    }
    state[(to * p.n_head + head) * n + i] = s;
}
