#version 450
// delta_chunk_scan: the walk of the chunked Gated DeltaNet over the chunks, from what delta_chunk
// computed of each. A workgroup owns COLS columns of a V head's state M and keeps them in shared
// memory:
//   V' = U - W M;  O = exp(G) (Q M) + P V';  M = exp(G_end) M + K' (exp(G_end - G) V')
// A lane owns four columns; lanes of the same columns share the rows. The state is f32.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_d_state) const uint D_STATE = 4;
layout(constant_id = SPEC_chunk) const uint CHUNK = 4;
layout(constant_id = SPEC_cols) const uint COLS = 4;    // COLS / 4 divides WG
layout(constant_id = SPEC_rows) const uint ROWS = 1;    // rows of a chunk that a lane computes at
                                                        // a time, at most 4; of P, whole fours
layout(constant_id = SPEC_fours) const uint FOURS = 1;  // the same of M, in fours of rows
layout(constant_id = SPEC_docs) const uint DOCS = 0;    // chunks of documents; V' replaces U
layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };      // [n_tok][d_conv]: q, k, v heads
layout(binding = 1) buffer Uw { vec4 uw4[]; };              // [slot][U, W][CHUNK][D_STATE]
layout(binding = 2) readonly buffer Pm { vec4 pm4[]; };     // [slot][CHUNK][CHUNK]
layout(binding = 3) readonly buffer G { float gates[]; };   // [slot][GATE_ROWS][CHUNK]
layout(binding = 4) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 5) buffer State { vec4 state4[]; };        // [n_slot][n_v_head][d_state k]
                                                            // [d_state v]; DOCS: one slot
layout(binding = 6) writeonly buffer O { vec4 o4[]; };      // [n_tok][n_v_head * d_state]
layout(binding = 7) writeonly buffer M { vec4 m4[]; };      // [slot][d_state k][d_state v]
layout(binding = 8) readonly buffer Step { segment seg[]; };    // not with DOCS
#include "delta_chunk.glsl"

const uint NC = COLS / 4, D4 = D_STATE / 4;
shared vec4 m[D_STATE * NC], vn[CHUNK * NC], qm[CHUNK * NC];

void main()
{
    uint v_head = gl_WorkGroupID.x, head = v_head_of(v_head);
    uint c = lane() % NC, row0 = lane() / NC, n_row = WG / NC;
    uint row4 = u_row4(), col = gl_WorkGroupID.y * NC + c;
    bool live = col < D4;
    col = min(col, D4 - 1);
    uint state_at = head * D_STATE * D4 + col, state_to = state_at;
    if (DOCS == 0) {        // the first dispatch of a batch takes the state from the slot before it
        uint slot = p.chunk0 == 0 ? seg[0].slot_in : seg[0].slot_out;
        state_at += slot * p.n_v_head * D_STATE * D4;
        state_to += seg[0].slot_out * p.n_v_head * D_STATE * D4;
    }

    // Each lane reads and writes only rows 4 i .. 4 (i + FOURS) - 1 of M: here, where the state is
    // updated, and at the end.
    for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS)
        [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
            m[(4 * i + e) * NC + c] = state4[state_at + (4 * i + e) * D4];

    for (uint chunk = p.chunk0; chunk < p.chunk0 + p.n_chunk; chunk++) {
        uint slot = slot_of(v_head, chunk), t0 = chunk * CHUNK, n = min(CHUNK, p.n_tok - t0);
        if (DOCS != 0) {
            t0 = chunks[chunk].x;
            n = chunks[chunk].y;
            if (n == 0)
                break;              // and so are all later ones
            for (uint i = row0 * FOURS; i < D4 && chunks[chunk].z != 0; i += n_row * FOURS)
                [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                    m[(4 * i + e) * NC + c] = vec4(0);
            for (uint i = row0 * FOURS; i < D4 && live && p.keep != 0; i += n_row * FOURS)
                [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                    m4[(slot * D_STATE + 4 * i + e) * D4 + col] = m[(4 * i + e) * NC + c];
        }
        uint last = n - 1, n4 = (n + 3) / 4 * 4;
        uint q4 = t0 * row4 + q4_of(v_head), k4 = t0 * row4 + k4_of(v_head);
        uint u_at = slot * 2 * CHUNK * D4, w_at = u_at + CHUNK * D4, g_at = gates_of(slot);
        barrier();

        for (uint r = row0 * ROWS; r < n4; r += n_row * ROWS) {
            vec4 wm[ROWS], acc[ROWS];
            [[unroll]] for (uint k = 0; k < ROWS; k++)
                wm[k] = acc[k] = vec4(0);
            [[dont_unroll]] for (uint i = 0; i < D4; i++) {
                vec4 mi[4];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    mi[e] = m[(4 * i + e) * NC + c];
                [[unroll]] for (uint k = 0; k < ROWS; k++) {
                    vec4 w = uw4[w_at + (r + k) * D4 + i];
                    vec4 q = u4[q4 + min(r + k, last) * row4 + i];
                    [[unroll]] for (uint e = 0; e < 4; e++) {
                        wm[k] += w[e] * mi[e];
                        acc[k] += q[e] * mi[e];
                    }
                }
            }
            [[unroll]] for (uint k = 0; k < ROWS; k++) {
                uint at = u_at + (r + k) * D4 + col;
                vec4 v = uw4[at] - wm[k];
                if (DOCS != 0 && live)
                    uw4[at] = v;
                vn[(r + k) * NC + c] = v;
                qm[(r + k) * NC + c] = acc[k] * gates[g_at + EXP_G * CHUNK + r + k];
            }
        }
        barrier();

        for (uint r = row0 * ROWS; r <= last; r += n_row * ROWS) {
            vec4 acc[ROWS];
            [[unroll]] for (uint k = 0; k < ROWS; k++)
                acc[k] = qm[(r + k) * NC + c];
            [[dont_unroll]] for (uint j = 0; j <= r / 4; j++) {
                vec4 vj[4];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    vj[e] = vn[(4 * j + e) * NC + c];
                [[unroll]] for (uint k = 0; k < ROWS; k++) {
                    vec4 pr = pm4[(slot * CHUNK + r + k) * (CHUNK / 4) + j];
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        acc[k] += pr[e] * vj[e];
                }
            }
            [[unroll]] for (uint k = 0; k < ROWS; k++) {
                if (live && r + k <= last)
                    o4[((t0 + r + k) * p.n_v_head + head) * D4 + col] = acc[k];
                qm[(r + k) * NC + c] = vn[(r + k) * NC + c] *
                                       gates[g_at + EXP_REST * CHUNK + r + k];
            }
        }
        barrier();

        float decay = gates[g_at + EXP_G * CHUNK + CHUNK - 1];
        for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS) {
            vec4 acc[4 * FOURS];
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                acc[e] = decay * m[(4 * i + e) * NC + c];
            [[dont_unroll]] for (uint j = 0; j <= last; j++) {
                vec4 v = qm[j * NC + c];
                [[unroll]] for (uint f = 0; f < FOURS; f++) {
                    vec4 k = u4[k4 + j * row4 + i + f];
                    [[unroll]] for (uint e = 0; e < 4; e++)
                        acc[4 * f + e] += k[e] * v;
                }
            }
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                m[(4 * i + e) * NC + c] = acc[e];
        }
    }

    if (live)
        for (uint i = row0 * FOURS; i < D4; i += n_row * FOURS)
            [[unroll]] for (uint e = 0; e < 4 * FOURS; e++)
                state4[state_to + (4 * i + e) * D4] = m[(4 * i + e) * NC + c];
}
