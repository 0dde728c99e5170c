#version 450
// delta_chunk_pair_bwd: the gradients of the matrices whose entries are pairs of tokens,
//   dP = lower (dO V'');  dA = -strictly lower (dR V'')
// where V'' is V' transposed. dP . P and dA . A replace P and A. dP . D and b dA . D, which the
// gradients of queries and keys need, are summed over the V heads of a K head, in their order. One
// workgroup for (K head, chunk), with tiles of four by four tokens.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer Uw { vec4 uw4[]; };     // [slot][V', W][chunk][d_state]
layout(binding = 1) buffer Pm { vec4 pm4[]; };              // [slot][chunk][chunk]
layout(binding = 2) buffer Ta { vec4 ta4[]; };              // [slot][T, A][chunk][chunk]
layout(binding = 3) readonly buffer G { float gates[]; };   // [slot][GATE_ROWS][chunk]
layout(binding = 4) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 5) readonly buffer Do { vec4 do4[]; };     // [n_tok][n_v_head * d_state]
layout(binding = 6) readonly buffer Dr { vec4 dr4[]; };     // [slot][chunk][d_state]
layout(binding = 7) writeonly buffer Pair { vec4 pair4[]; };    // [K head and chunk][dP . D, b dA
                                                            // . D][chunk][chunk]
#include "delta_chunk.glsl"

void main()
{
    doc_chunk dc = doc_chunk_from(chunks[gl_WorkGroupID.y]);
    uint d4 = p.d_state / 4, c4 = p.chunk / 4, n4 = (dc.n + 3) / 4, last = dc.n - 1;
    uint v0 = gl_WorkGroupID.x * n_shared();
    uint pair_at = slot_of(gl_WorkGroupID.x, gl_WorkGroupID.y) * 2 * p.chunk * c4;

    for (uint tile = lane(); tile < n4 * (n4 + 1) / 2; tile += WG) {
        uvec2 at = lower_tile(tile);
        uint i0 = at.x * 4, j0 = at.y * 4;
        vec4 pd[4] = vec4[](vec4(0), vec4(0), vec4(0), vec4(0)), ad[4] = pd;
        [[dont_unroll]] for (uint v = v0; v < v0 + n_shared(); v++) {
            uint slot = slot_of(v, gl_WorkGroupID.y), g_at = gates_of(slot);
            uint do_at = (dc.t0 * p.n_v_head + v_head_of(v)) * d4, vn_at = slot * 2 * p.chunk * d4;
            vec4 dp[4] = vec4[](vec4(0), vec4(0), vec4(0), vec4(0)), da[4] = dp;
            [[dont_unroll]] for (uint y = 0; y < d4; y++) {
                vec4 vn[4];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    vn[e] = uw4[vn_at + min(j0 + e, last) * d4 + y];
                [[unroll]] for (uint r = 0; r < 4; r++) {
                    uint i = min(i0 + r, last);
                    vec4 d_o = do4[do_at + i * p.n_v_head * d4 + y];
                    vec4 d_r = dr4[(slot * p.chunk + i) * d4 + y];
                    [[unroll]] for (uint e = 0; e < 4; e++) {
                        dp[r][e] += dot(d_o, vn[e]);
                        da[r][e] -= dot(d_r, vn[e]);
                    }
                }
            }
            vec4 hi = vec4(0), lo = hi;
            [[unroll]] for (uint e = 0; e < 4; e++) {
                hi[e] = gates[g_at + G_HI * p.chunk + min(j0 + e, last)];
                lo[e] = gates[g_at + G_LO * p.chunk + min(j0 + e, last)];
            }
            [[unroll]] for (uint r = 0; r < 4; r++) {
                uint i = min(i0 + r, last);
                float i_hi = gates[g_at + G_HI * p.chunk + i];
                float i_lo = gates[g_at + G_LO * p.chunk + i];
                float b = gates[g_at + BETA * p.chunk + i];
                [[unroll]] for (uint e = 0; e < 4; e++) {
                    precise float d_hi = i_hi - hi[e], d_lo = i_lo - lo[e];
                    float d = exp1(d_hi + d_lo);
                    dp[r][e] = j0 + e <= i ? dp[r][e] : 0.0;
                    da[r][e] = j0 + e < i ? da[r][e] : 0.0;
                    pd[r][e] += j0 + e <= i ? dp[r][e] * d : 0.0;
                    ad[r][e] += j0 + e < i ? b * da[r][e] * d : 0.0;
                }
                uint p_at = (slot * p.chunk + i0 + r) * c4 + j0 / 4;
                uint a_at = ((slot * 2 + 1) * p.chunk + i0 + r) * c4 + j0 / 4;
                pm4[p_at] *= dp[r];
                ta4[a_at] *= da[r];
            }
        }
        [[unroll]] for (uint r = 0; r < 4; r++) {
            uint to = pair_at + (i0 + r) * c4 + j0 / 4;
            pair4[to] = pd[r];
            pair4[to + p.chunk * c4] = ad[r];
        }
    }
}
