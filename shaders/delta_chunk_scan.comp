#version 450
// delta_chunk_scan: the chunked Gated DeltaNet's walk over the chunks, from what delta_chunk made
// of each. A workgroup owns COLS columns of a V head's state M and keeps them in shared memory:
//   V' = U - W M;  O = exp(G) (Q M) + P V';  M = exp(G_end) M + K' (exp(G_end - G) V')
// A lane owns four columns; lanes of the same columns share the rows. The state is f32, in place.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = 1) const uint D_STATE = 4;
layout(constant_id = 2) const uint CHUNK = 4;
layout(constant_id = 3) const uint COLS = 4;                // a quarter of it divides WG
layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };      // [n_tok][d_conv]: q, k, v heads
layout(binding = 1) readonly buffer Uw { vec4 uw4[]; };     // [chunk][head][U, W][CHUNK][D_STATE]
layout(binding = 2) readonly buffer Pm { vec4 pm4[]; };     // [chunk][head][CHUNK][CHUNK]
layout(binding = 3) readonly buffer G { float gates[]; };   // [chunk][head][exp G, exp(G_end - G)]
layout(binding = 4) buffer State { vec4 state4[]; };        // [n_v_head][d_state k][d_state v]
layout(binding = 5) writeonly buffer O { vec4 o4[]; };      // [n_tok][n_v_head * d_state]

const uint NC = COLS / 4, D4 = D_STATE / 4;
shared vec4 m[D_STATE * NC], vn[CHUNK * NC], qm[CHUNK * NC];

void main()
{
    uint head = gl_WorkGroupID.x, c = lane() % NC, row0 = lane() / NC, n_row = WG / NC;
    uint k_head = p.tiled != 0 ? head % p.n_k_head : head / (p.n_v_head / p.n_k_head);
    uint row4 = (2 * p.n_k_head + p.n_v_head) * D4, col = gl_WorkGroupID.y * NC + c;
    bool live = col < D4;
    col = min(col, D4 - 1);
    uint state_at = head * D_STATE * D4 + col;

    // Every lane keeps to rows 4 i .. 4 i + 3 of M here, below where it moves on, and at the end.
    for (uint i = row0; i < D4; i += n_row)
        [[unroll]] for (uint e = 0; e < 4; e++)
            m[(4 * i + e) * NC + c] = state4[state_at + (4 * i + e) * D4];

    for (uint chunk = p.chunk0; chunk < p.chunk0 + p.n_chunk; chunk++) {
        uint slot = chunk * p.n_v_head + head, t0 = chunk * CHUNK;
        uint last = min(CHUNK, p.n_tok - t0) - 1;
        uint q4 = t0 * row4 + k_head * D4, k4 = q4 + p.n_k_head * D4;
        uint u_at = slot * 2 * CHUNK * D4, w_at = u_at + CHUNK * D4, g_at = slot * 2 * CHUNK;
        barrier();

        for (uint r = row0; r < CHUNK; r += n_row) {
            vec4 wm = vec4(0), acc = vec4(0);
            uint q_row = q4 + min(r, last) * row4, w_row = w_at + r * D4;
            [[dont_unroll]] for (uint i = 0; i < D4; i++) {
                vec4 w = uw4[w_row + i], q = u4[q_row + i];
                [[unroll]] for (uint e = 0; e < 4; e++) {
                    vec4 mi = m[(4 * i + e) * NC + c];
                    wm += w[e] * mi;
                    acc += q[e] * mi;
                }
            }
            vn[r * NC + c] = uw4[u_at + r * D4 + col] - wm;
            qm[r * NC + c] = acc * gates[g_at + r];
        }
        barrier();

        for (uint r = row0; r <= last; r += n_row) {
            vec4 acc = qm[r * NC + c];
            [[dont_unroll]] for (uint j = 0; j <= r / 4; j++) {
                vec4 pr = pm4[(slot * CHUNK + r) * (CHUNK / 4) + j];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    acc += pr[e] * vn[(4 * j + e) * NC + c];
            }
            if (live)
                o4[((t0 + r) * p.n_v_head + head) * D4 + col] = acc;
        }

        float decay = gates[g_at + CHUNK - 1];
        for (uint i = row0; i < D4; i += n_row) {
            vec4 acc[4];
            [[unroll]] for (uint e = 0; e < 4; e++)
                acc[e] = decay * m[(4 * i + e) * NC + c];
            [[dont_unroll]] for (uint j = 0; j <= last; j++) {
                vec4 k = u4[k4 + j * row4 + i], v = vn[j * NC + c] * gates[g_at + CHUNK + j];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    acc[e] += k[e] * v;
            }
            [[unroll]] for (uint e = 0; e < 4; e++)
                m[(4 * i + e) * NC + c] = acc[e];
        }
    }

    if (live)
        for (uint i = row0; i < D4; i += n_row)
            [[unroll]] for (uint e = 0; e < 4; e++)
                state4[state_at + (4 * i + e) * D4] = m[(4 * i + e) * NC + c];
}
