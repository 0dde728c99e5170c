#version 450
// delta_chunk_lower_bwd: the transpose of a lower triangular matrix of a chunk times rows: P' dO,
// and dR = T' dV', the gradient of b (V - exp(G) K M). From dR it also computes the gradient of the
// values, b dR, and the part of the write strengths' gradient that comes from the values.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer S { vec4 s4[]; };       // [slot][n][chunk][chunk]
layout(binding = 1) readonly buffer X { vec4 x4[]; };       // [n_tok][n_v_head * d_state], by_slot:
                                                            // [slot][chunk][d_state]
layout(binding = 2) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 3) writeonly buffer Y { vec4 y4[]; };      // [slot][chunk][d_state]
layout(binding = 4) readonly buffer U { vec4 u4[]; };       // [n_tok][d_conv]: q, k, v heads
layout(binding = 5) readonly buffer G { float gates[]; };   // [slot][GATE_ROWS][chunk]
layout(binding = 6) writeonly buffer Du { vec4 du4[]; };    // as u
layout(binding = 7) writeonly buffer Parts { float parts[]; };  // delta_chunk_gate_bwd
#include "delta_chunk.glsl"

void main()
{
    uint v = gl_WorkGroupID.x, head = v_head_of(v), d4 = p.d_state / 4, c4 = p.chunk / 4;
    doc_chunk dc = doc_chunk_from(chunks[gl_WorkGroupID.y]);
    uint slot = slot_of(v, gl_WorkGroupID.y);
    uint x_at = p.by_slot != 0 ? slot * p.chunk * d4 : (dc.t0 * p.n_v_head + head) * d4;
    uint x_row = p.by_slot != 0 ? d4 : p.n_v_head * d4;
    uint s_at = (p.by_slot != 0 ? 2 : 1) * slot * p.chunk * c4;

    for (uint tile = lane(); tile < (dc.n + 7) / 8 * d4; tile += WG) {
        uint j0 = tile / d4 * 8, x = tile % d4;
        vec4 sum[8];
        [[unroll]] for (uint e = 0; e < 8; e++)
            sum[e] = vec4(0);
        [[dont_unroll]] for (uint i = j0; i < dc.n; i++) {
            vec4 row = x4[x_at + i * x_row + x], s = s4[s_at + i * c4 + j0 / 4];
            [[unroll]] for (uint e = 0; e < 4; e++)
                sum[e] += s[e] * row;
            if (i < j0 + 4)
                continue;
            s = s4[s_at + i * c4 + j0 / 4 + 1];
            [[unroll]] for (uint e = 0; e < 4; e++)
                sum[4 + e] += s[e] * row;
        }
        [[unroll]] for (uint e = 0; e < 8; e++) {
            uint j = j0 + e;
            if (j >= dc.n)
                break;
            y4[(slot * p.chunk + j) * d4 + x] = sum[e];
            if (p.by_slot != 0) {
                uint at = (dc.t0 + j) * u_row4() + v4_of(v) + x;
                vec4 d_v = gates[gates_of(slot) + BETA * p.chunk + j] * sum[e];
                du4[at] = d_v;
                parts[((slot * 4 + 3) * p.chunk + j) * d4 + x] = dot(d_v, u4[at]);
            }
        }
    }
}
