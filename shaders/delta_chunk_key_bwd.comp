#version 450
// delta_chunk_key_bwd: adds the gradients that queries and keys get from the other tokens of their
// chunk to those that came through the states. With X = dP . D and Z = b dA . D:
//   dQ += X K;  dK += X' Q + Z K + Z' K
// One workgroup for (K head, chunk). A lane has four tokens and four columns.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer U { vec4 u4[]; };       // [n_tok][d_conv]: q, k, v heads
layout(binding = 1) readonly buffer Pair { vec4 pair4[]; }; // [K head and chunk][X, Z][chunk]
                                                            // [chunk]
layout(binding = 2) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 3) buffer Du { vec4 du4[]; };              // as u
#include "delta_chunk.glsl"

void main()
{
    doc_chunk dc = doc_chunk_from(chunks[gl_WorkGroupID.y]);
    uint d4 = p.d_state / 4, c4 = p.chunk / 4, row4 = u_row4();
    uint v = gl_WorkGroupID.x * n_shared();
    uint x_at = slot_of(gl_WorkGroupID.x, gl_WorkGroupID.y) * 2 * p.chunk * c4;
    uint z_at = x_at + p.chunk * c4;
    uint q4 = dc.t0 * row4 + q4_of(v), k4 = dc.t0 * row4 + k4_of(v);

    for (uint tile = lane(); tile < (dc.n + 3) / 4 * d4; tile += WG) {
        uint i0 = tile / d4 * 4, x = tile % d4;
        vec4 dq[4] = vec4[](vec4(0), vec4(0), vec4(0), vec4(0)), dk[4] = dq;
        // The four tokens and those before them: whole rows of X and Z; columns past them are 0.
        [[dont_unroll]] for (uint j = 0; j <= i0 / 4; j++) {
            vec4 k[4];
            [[unroll]] for (uint e = 0; e < 4; e++)
                k[e] = u4[k4 + min(4 * j + e, dc.n - 1) * row4 + x];
            [[unroll]] for (uint r = 0; r < 4; r++) {
                vec4 xr = pair4[x_at + (i0 + r) * c4 + j], zr = pair4[z_at + (i0 + r) * c4 + j];
                [[unroll]] for (uint e = 0; e < 4; e++) {
                    dq[r] += xr[e] * k[e];
                    dk[r] += zr[e] * k[e];
                }
            }
        }
        // The four tokens and those after them: columns of X and Z.
        [[dont_unroll]] for (uint i = i0; i < dc.n; i++) {
            vec4 xc = pair4[x_at + i * c4 + i0 / 4], zc = pair4[z_at + i * c4 + i0 / 4];
            vec4 q = u4[q4 + i * row4 + x], k = u4[k4 + i * row4 + x];
            [[unroll]] for (uint r = 0; r < 4; r++)
                dk[r] += xc[r] * q + zc[r] * k;
        }
        [[unroll]] for (uint r = 0; r < 4; r++)
            if (i0 + r < dc.n) {
                du4[q4 + (i0 + r) * row4 + x] += dq[r];
                du4[k4 + (i0 + r) * row4 + x] += dk[r];
            }
    }
}
