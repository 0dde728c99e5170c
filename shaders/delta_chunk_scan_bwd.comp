#version 450
// delta_chunk_scan_bwd: the gradient of the state from chunk to chunk, from the last to the first.
// M^ is the gradient of the state after a chunk (models/README.md, "DeltaNet backward"):
//   dV' = P' dO + exp(G_end - G) K M^;  dM = exp(G_end) M^ + (exp(G) Q)' dO - W' dV'
// dV' replaces P' dO. The state after the last chunk of a document has no gradient. Workgroups and
// lanes as in delta_chunk_scan.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_d_state) const uint D_STATE = 4;
layout(constant_id = SPEC_chunk) const uint CHUNK = 4;
layout(constant_id = SPEC_cols) const uint COLS = 4;
layout(constant_id = SPEC_rows) const uint ROWS = 1;
layout(constant_id = SPEC_fours) const uint FOURS = 1;
layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };      // [n_tok][d_conv]: q, k, v heads
layout(binding = 1) readonly buffer Uw { vec4 uw4[]; };     // [slot][V', W][CHUNK][D_STATE]
layout(binding = 2) readonly buffer G { float gates[]; };   // [slot][GATE_ROWS][CHUNK]
layout(binding = 3) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 4) readonly buffer Do { vec4 do4[]; };     // [n_tok][n_v_head * d_state]
layout(binding = 5) buffer Dv { vec4 dv4[]; };              // [slot][CHUNK][D_STATE]
layout(binding = 6) buffer State { vec4 state4[]; };        // [n_v_head][d_state k][d_state v]
layout(binding = 7) writeonly buffer M { vec4 m4[]; };      // [slot][d_state k][d_state v]: M^
#include "delta_chunk.glsl"

const uint NC = COLS / 4, D4 = D_STATE / 4;
shared vec4 m[D_STATE * NC], dv[CHUNK * NC], qd[CHUNK * NC];

void main()
{
    uint v = gl_WorkGroupID.x, head = v_head_of(v);
    uint c = lane() % NC, row0 = lane() / NC, n_row = WG / NC;
    uint row4 = u_row4(), col = gl_WorkGroupID.y * NC + c;
    bool live = col < D4;
    col = min(col, D4 - 1);
    uint state_at = head * D_STATE * D4 + col;

    for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS)
        [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
            m[(4 * i + e) * NC + c] = state4[state_at + (4 * i + e) * D4];

    for (uint chunk = p.chunk0 + p.n_chunk; chunk-- > p.chunk0;) {
        doc_chunk dc = doc_chunk_from(chunks[chunk]);
        if (dc.n == 0)
            continue;
        uint slot = slot_of(v, chunk), last = dc.n - 1, g_at = gates_of(slot);
        for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS)
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++) {
                uint at = (4 * i + e) * NC + c;
                if (dc.ends)
                    m[at] = vec4(0);
                if (live)
                    m4[(slot * D_STATE + 4 * i + e) * D4 + col] = m[at];
            }
        uint q4 = dc.t0 * row4 + q4_of(v), k4 = dc.t0 * row4 + k4_of(v);
        uint w_at = (slot * 2 + 1) * CHUNK * D4;
        barrier();

        for (uint r = row0 * ROWS; r <= last; r += n_row * ROWS) {
            vec4 acc[ROWS];
            [[unroll]] for (uint k = 0; k < ROWS; k++)
                acc[k] = vec4(0);
            [[dont_unroll]] for (uint i = 0; i < D4; i++) {
                vec4 mi[4];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    mi[e] = m[(4 * i + e) * NC + c];
                [[unroll]] for (uint k = 0; k < ROWS; k++) {
                    vec4 key = u4[k4 + min(r + k, last) * row4 + i];
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        acc[k] += key[e] * mi[e];
                }
            }
            [[unroll]] for (uint k = 0; k < ROWS; k++) {
                uint row = min(r + k, last), at = (slot * CHUNK + row) * D4 + col;
                if (r + k > last)
                    continue;
                vec4 x = dv4[at] + gates[g_at + EXP_REST * CHUNK + row] * acc[k];
                if (live)
                    dv4[at] = x;
                dv[row * NC + c] = x;
                qd[row * NC + c] = gates[g_at + EXP_G * CHUNK + row] *
                                   do4[((dc.t0 + row) * p.n_v_head + head) * D4 + col];
            }
        }
        barrier();

        float decay = gates[g_at + EXP_G * CHUNK + CHUNK - 1];
        for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS) {
            vec4 acc[4 * FOURS];
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                acc[e] = decay * m[(4 * i + e) * NC + c];
            [[dont_unroll]] for (uint j = 0; j <= last; j++) {
                vec4 d_o = qd[j * NC + c], d_v = dv[j * NC + c];
                [[unroll]] for (uint f = 0; f < FOURS; f++) {
                    vec4 q = u4[q4 + j * row4 + i + f], w = uw4[w_at + j * D4 + i + f];
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        acc[4 * f + e] += q[e] * d_o - w[e] * d_v;
                }
            }
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                m[(4 * i + e) * NC + c] = acc[e];
        }
    }

    if (live)
        for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS)
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                state4[state_at + (4 * i + e) * D4] = m[(4 * i + e) * NC + c];
}
