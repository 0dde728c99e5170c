#version 450
// delta_chunk: what the chunked Gated DeltaNet computes of each chunk without its state (names as
// in Yang et al., arXiv 2412.06464). G is the sum of log decays up to and with a token; D_ij =
// exp(G_i - G_j) for j <= i; b are the write strengths:
//   A = strictly lower (b K K') . D    T = (I + A)^-1    U = T (b V)    W = T (b exp(G) K)
//   P = lower (Q K') . D
// One workgroup for (V head, chunk). Tokens past the end of a chunk have b = 0 and decay 1, and
// where their vectors are read, those of the last token are used. The matrices have as many rows as
// there are tokens, rounded up to 4. The part above the tiles on the diagonal is never written.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_d_state) const uint D_STATE = 4;
layout(constant_id = SPEC_chunk) const uint CHUNK = 8;      // a multiple of 8
layout(constant_id = SPEC_docs) const uint DOCS = 0;        // chunks of documents; T and A are kept
layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer U4 { vec4 u4[]; };      // [n_tok][d_conv]: q, k, v heads
layout(binding = 1) readonly buffer P { float proj[]; };
layout(binding = 2) readonly buffer A { float ssm_a[]; };
layout(binding = 3) readonly buffer Dt { float dt_bias[]; };
layout(binding = 4) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 5) writeonly buffer Uw { vec4 uw4[]; };    // [slot][U, W][CHUNK][D_STATE]
layout(binding = 6) writeonly buffer Pm { vec4 pm4[]; };    // [slot][CHUNK][CHUNK]
layout(binding = 7) writeonly buffer G { float gates[]; };  // [slot][GATE_ROWS][CHUNK]
layout(binding = 8) writeonly buffer Ta { vec4 ta4[]; };    // [slot][T, A][CHUNK][CHUNK]
#include "delta_chunk.glsl"

const uint LD = CHUNK + 1;          // keeps lanes that walk down a column out of one memory bank
shared float tri[CHUNK * LD];       // A below the diagonal; the transpose of T on and above it
shared float g_hi[CHUNK], g_lo[CHUNK], g_exp[CHUNK], beta[CHUNK];

// exp(G_i - G_j)
float decay_between(uint i, uint j)
{
    precise float hi = g_hi[i] - g_hi[j], lo = g_lo[i] - g_lo[j];
    return exp1(hi + lo);
}

void main()
{
    uint v = gl_WorkGroupID.x, chunk = gl_WorkGroupID.y, head = v_head_of(v);
    uint slot = slot_of(v, chunk), t0 = chunk * CHUNK, n = min(CHUNK, p.n_tok - t0);
    if (DOCS != 0) {
        t0 = chunks[chunk].x;
        n = chunks[chunk].y;
        if (n == 0)
            return;
    }
    uint last = n - 1, n4 = (n + 3) / 4 * 4, d4 = D_STATE / 4, row4 = u_row4(), first4 = t0 * row4;
    uint q4 = first4 + q4_of(v), k4 = first4 + k4_of(v), v4 = first4 + v4_of(v);

    for (uint i = lane(); i < CHUNK; i += WG) {
        uint at = (t0 + min(i, last)) * p.p_stride + head;
        float g = delta_log_decay(ssm_a[head], dt_bias[head], proj[at + p.a_col]);
        tri[i] = i <= last ? g : 0.0;
        beta[i] = i <= last ? delta_beta(proj[at + p.b_col]) : 0.0;
    }
    barrier();
    for (uint i = lane(); i < CHUNK; i += WG) {
        precise float hi = 0.0, lo = 0.0;
        for (uint j = 0; j <= i; j++) {
            precise float sum = hi + tri[j], back = sum - hi;
            lo += (hi - (sum - back)) + (tri[j] - back);
            hi = sum;
        }
        g_hi[i] = hi;
        g_lo[i] = lo;
        g_exp[i] = exp1(hi + lo);
    }
    barrier();
    for (uint i = lane(); i < CHUNK; i += WG) {
        uint at = gates_of(slot) + i;
        gates[at + EXP_G * CHUNK] = g_exp[i];
        gates[at + EXP_REST * CHUNK] = decay_between(CHUNK - 1, i);
        gates[at + BETA * CHUNK] = beta[i];
        gates[at + G_HI * CHUNK] = g_hi[i];
        gates[at + G_LO * CHUNK] = g_lo[i];
    }

    // Tiles of four rows and four columns.
    for (uint tile = lane(); tile < n4 / 4 * (n4 / 4 + 1) / 2; tile += WG) {
        uvec2 at = lower_tile(tile);
        uint i0 = at.x * 4, j0 = at.y * 4;
        vec4 kk[4] = vec4[](vec4(0), vec4(0), vec4(0), vec4(0)), qk[4] = kk;
        [[dont_unroll]] for (uint x = 0; x < d4; x++) {
            vec4 k[4];
            [[unroll]] for (uint c = 0; c < 4; c++)
                k[c] = u4[k4 + min(j0 + c, last) * row4 + x];
            [[unroll]] for (uint r = 0; r < 4; r++) {
                uint row = min(i0 + r, last) * row4 + x;
                vec4 ki = u4[k4 + row], qi = u4[q4 + row];
                [[unroll]] for (uint c = 0; c < 4; c++) {
                    kk[r][c] += dot(ki, k[c]);
                    qk[r][c] += dot(qi, k[c]);
                }
            }
        }
        [[unroll]] for (uint r = 0; r < 4; r++) {
            vec4 out4 = vec4(0);
            [[unroll]] for (uint c = 0; c < 4; c++)
                if (j0 + c <= i0 + r) {
                    float d = decay_between(i0 + r, j0 + c);
                    out4[c] = qk[r][c] * d;
                    if (j0 + c < i0 + r)
                        tri[(i0 + r) * LD + j0 + c] = beta[i0 + r] * kk[r][c] * d;
                }
            pm4[((slot * CHUNK + i0 + r) * CHUNK + j0) / 4] = out4;
        }
    }
    barrier();
    // T by substitution: a lane computes four columns, four rows at a time. It reads the part below
    // the diagonal and the rows that it has written.
    for (uint c0 = 4 * lane(); c0 < n4; c0 += 4 * WG)
        for (uint i0 = c0; i0 < n4; i0 += 4) {
            vec4 t[4];
            [[unroll]] for (uint r = 0; r < 4; r++)
                t[r] = i0 > c0 ? vec4(0) : vec4(r == 0, r == 1, r == 2, r == 3);
            [[dont_unroll]] for (uint j = c0; j < i0; j++) {
                vec4 above = vec4(0);
                [[unroll]] for (uint e = 0; e < 4; e++)
                    if (c0 + e <= j)
                        above[e] = tri[(c0 + e) * LD + j];
                [[unroll]] for (uint r = 0; r < 4; r++)
                    t[r] -= tri[(i0 + r) * LD + j] * above;
            }
            [[unroll]] for (uint r = 0; r < 4; r++) {
                [[unroll]] for (uint s = 0; s < r; s++)
                    t[r] -= tri[(i0 + r) * LD + i0 + s] * t[s];
                [[unroll]] for (uint e = 0; e < 4; e++)
                    if (c0 + e <= i0 + r)
                        tri[(c0 + e) * LD + i0 + r] = t[r][e];
            }
        }
    barrier();
    for (uint at = lane(); DOCS != 0 && at < CHUNK * CHUNK / 4; at += WG) {
        uint i = at / (CHUNK / 4), j0 = at % (CHUNK / 4) * 4;
        vec4 t = vec4(0), a = vec4(0);
        [[unroll]] for (uint e = 0; e < 4; e++) {
            uint j = j0 + e;
            if (j <= i)
                t[e] = tri[j * LD + i];
            if (j < i)
                a[e] = tri[i * LD + j];
        }
        if (j0 <= i && i < n4) {
            ta4[slot * 2 * CHUNK * (CHUNK / 4) + at] = t;
            ta4[(slot * 2 + 1) * CHUNK * (CHUNK / 4) + at] = a;
        }
    }
    // Eight rows of U and of W, four columns each. Rows after the last may be among them.
    for (uint tile = lane(); tile < (n + 7) / 8 * d4; tile += WG) {
        uint i0 = tile / d4 * 8, x = tile % d4;
        vec4 su[8], sw[8];
        [[unroll]] for (uint r = 0; r < 8; r++)
            su[r] = sw[r] = vec4(0);
        [[dont_unroll]] for (uint j = 0; j < min(i0 + 8, n); j++) {
            uint at = j * row4 + x;
            vec4 v = u4[v4 + at] * beta[j], k = u4[k4 + at] * (beta[j] * g_exp[j]);
            [[unroll]] for (uint r = 0; r < 8; r++) {
                float t = j <= i0 + r ? tri[j * LD + i0 + r] : 0.0;
                su[r] += t * v;
                sw[r] += t * k;
            }
        }
        [[unroll]] for (uint r = 0; r < 8; r++) {
            uw4[(slot * 2 * CHUNK + i0 + r) * d4 + x] = su[r];
            uw4[((slot * 2 + 1) * CHUNK + i0 + r) * d4 + x] = sw[r];
        }
    }
}
