#version 450
// delta_chunk_state_bwd: the gradients that queries and keys get through the states. M is the state
// before a chunk, M^ the gradient of the state after it:
//   dQ = exp(G) (dO M');  dK = exp(G_end - G) (V' M^') - b exp(G) (dR M')
// They are summed over the V heads of a K head, in their order. For the gates it also stores the
// products of these with the queries and keys themselves, as sums over four columns each. One
// workgroup for (K head, chunk, 8 tokens).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer U { vec4 u4[]; };       // [n_tok][d_conv]: q, k, v heads
layout(binding = 1) readonly buffer Uw { vec4 uw4[]; };     // [slot][V', W][chunk][d_state]
layout(binding = 2) readonly buffer G { float gates[]; };   // [slot][GATE_ROWS][chunk]
layout(binding = 3) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 4) readonly buffer Do { vec4 do4[]; };     // [n_tok][n_v_head * d_state]
layout(binding = 5) readonly buffer Dr { vec4 dr4[]; };     // [slot][chunk][d_state]
layout(binding = 6) readonly buffer M { vec4 m4[]; };       // [slot][d_state k][d_state v]
layout(binding = 7) readonly buffer Dm { vec4 dm4[]; };     // the same: M^
layout(binding = 8) writeonly buffer Du { vec4 du4[]; };    // as u
layout(binding = 9) writeonly buffer Parts { float parts[]; };  // delta_chunk_gate_bwd
#include "delta_chunk.glsl"

const uint TOKENS = 8;

void main()
{
    doc_chunk dc = doc_chunk_from(chunks[gl_WorkGroupID.y]);
    uint first_row = gl_WorkGroupID.z * TOKENS, d4 = p.d_state / 4, row4 = u_row4();
    if (first_row >= dc.n)
        return;
    uint last = dc.n - 1, n_tile = (min(dc.n - first_row, TOKENS) + 3) / 4 * d4;
    uint v0 = gl_WorkGroupID.x * n_shared();
    uint q4 = dc.t0 * row4 + q4_of(v0), k4 = dc.t0 * row4 + k4_of(v0);

    for (uint tile = lane(); tile < n_tile; tile += WG) {
        uint i0 = first_row + tile / d4 * 4, x = tile % d4;
        vec4 dq[4] = vec4[](vec4(0), vec4(0), vec4(0), vec4(0)), dk[4] = dq;
        [[dont_unroll]] for (uint v = v0; v < v0 + n_shared(); v++) {
            uint slot = slot_of(v, gl_WorkGroupID.y), g_at = gates_of(slot);
            uint m_at = (slot * p.d_state + 4 * x) * d4;
            uint do_at = (dc.t0 * p.n_v_head + v_head_of(v)) * d4, vn_at = slot * 2 * p.chunk * d4;
            vec4 o_m[4] = vec4[](vec4(0), vec4(0), vec4(0), vec4(0)), r_m[4] = o_m, v_m[4] = o_m;
            [[dont_unroll]] for (uint y = 0; y < d4 && !dc.begins; y++) {
                vec4 m[4];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    m[e] = m4[m_at + e * d4 + y];
                [[unroll]] for (uint r = 0; r < 4; r++) {
                    uint i = min(i0 + r, last);
                    vec4 d_o = do4[do_at + i * p.n_v_head * d4 + y];
                    vec4 d_r = dr4[(slot * p.chunk + i) * d4 + y];
                    [[unroll]] for (uint e = 0; e < 4; e++) {
                        o_m[r][e] += dot(d_o, m[e]);
                        r_m[r][e] += dot(d_r, m[e]);
                    }
                }
            }
            [[dont_unroll]] for (uint y = 0; y < d4 && !dc.ends; y++) {
                vec4 m[4];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    m[e] = dm4[m_at + e * d4 + y];
                [[unroll]] for (uint r = 0; r < 4; r++) {
                    vec4 v_new = uw4[vn_at + min(i0 + r, last) * d4 + y];
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        v_m[r][e] += dot(v_new, m[e]);
                }
            }
            [[unroll]] for (uint r = 0; r < 4; r++) {
                uint i = min(i0 + r, last);
                vec4 q = u4[q4 + i * row4 + x], k = u4[k4 + i * row4 + x];
                float e = gates[g_at + EXP_G * p.chunk + i];
                o_m[r] *= e;
                r_m[r] *= e * gates[g_at + BETA * p.chunk + i];
                v_m[r] *= gates[g_at + EXP_REST * p.chunk + i];
                dq[r] += o_m[r];
                dk[r] += v_m[r] - r_m[r];
                if (i0 + r <= last) {
                    parts[((slot * 4 + 0) * p.chunk + i) * d4 + x] = dot(o_m[r], q);
                    parts[((slot * 4 + 1) * p.chunk + i) * d4 + x] = dot(r_m[r], k);
                    parts[((slot * 4 + 2) * p.chunk + i) * d4 + x] = dot(v_m[r], k);
                }
            }
        }
        [[unroll]] for (uint r = 0; r < 4; r++)
            if (i0 + r <= last) {
                du4[q4 + (i0 + r) * row4 + x] = dq[r];
                du4[k4 + (i0 + r) * row4 + x] = dk[r];
            }
    }
}
