#version 450
// delta_chunk_gate_bwd: the gradients of write strengths and log decays. X = dP . P + dA . A. q, k
// and r are the products of queries, of keys, and of keys a second time, with the gradients that
// they get through the states (delta_chunk_state_bwd):
//   dg_t = sum_{i >= t, j < t} X_ij + sum_{i >= t} (q_i - k_i) + sum_{j < t} r_j
//          + exp(G_end) <M, M^>
// This is the sum over everything in a chunk that depends on the decay of token t. It adds nothing
// that would have to be subtracted again. One workgroup for (V head, chunk).
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_chunk) const uint CHUNK = 16;
layout(push_constant) uniform Push { push_delta_chunk p; };
layout(binding = 0) readonly buffer Parts { float parts[]; };   // [slot][q, k, r, b dR V][chunk]
                                                                // [d_state / 4]
layout(binding = 1) readonly buffer Pm { float pm[]; };     // [slot][chunk][chunk]
layout(binding = 2) readonly buffer Ta { float ta[]; };     // [slot][T, A][chunk][chunk]
layout(binding = 3) readonly buffer G { float gates[]; };   // [slot][GATE_ROWS][chunk]
layout(binding = 4) readonly buffer Chunks { ivec4 chunks[]; };
layout(binding = 5) readonly buffer M { vec4 m4[]; };       // [slot][d_state k][d_state v]
layout(binding = 6) readonly buffer Dm { vec4 dm4[]; };     // the same: M^
layout(binding = 7) readonly buffer P { float proj[]; };
layout(binding = 8) readonly buffer A { float ssm_a[]; };
layout(binding = 9) readonly buffer Dt { float dt_bias[]; };
layout(binding = 10) buffer Dp { float dproj[]; };
layout(binding = 11) writeonly buffer Sums { float sums[]; };   // [dt_bias, A_log][n_v_head][n_tok]
#include "delta_chunk.glsl"

const uint LD = CHUNK + 1;
shared float before[CHUNK * LD];    // [i][t]: sum_{j < t} X_ij
shared float here[CHUNK], after[CHUNK];    // q - k, r

float part(uint slot, uint which, uint i)
{
    uint n = p.d_state / 4, at = ((slot * 4 + which) * CHUNK + i) * n;
    float sum = 0.0;
    [[dont_unroll]] for (uint x = 0; x < n; x++)
        sum += parts[at + x];
    return sum;
}

void main()
{
    uint v = gl_WorkGroupID.x, head = v_head_of(v), slot = slot_of(v, gl_WorkGroupID.y);
    doc_chunk dc = doc_chunk_from(chunks[gl_WorkGroupID.y]);
    uint m4_n = p.d_state * p.d_state / 4, a_at = (slot * 2 + 1) * CHUNK * CHUNK;

    float mm = 0.0;
    [[dont_unroll]] for (uint i = lane(); i < m4_n && !dc.begins && !dc.ends && dc.n != 0; i += WG)
        mm += dot(m4[slot * m4_n + i], dm4[slot * m4_n + i]);
    mm = wg_sum(mm) * gates[gates_of(slot) + EXP_G * CHUNK + CHUNK - 1];

    for (uint i = lane(); i < dc.n; i += WG) {
        float key = part(slot, 1, i), x = 0.0, aa = 0.0;
        here[i] = part(slot, 0, i) - key;
        after[i] = part(slot, 2, i);
        [[dont_unroll]] for (uint j = 0; j <= i; j++) {
            float a = ta[a_at + i * CHUNK + j];
            before[i * LD + j] = x;
            x += pm[(slot * CHUNK + i) * CHUNK + j] + a;
            aa += a;
        }
        uint t = dc.t0 + i;
        dproj[t * p.d_stride + p.db_col + head] +=
            delta_beta_bwd(proj[t * p.p_stride + p.b_col + head], part(slot, 3, i) - key + aa);
    }
    barrier();
    for (uint i = lane(); i < dc.n; i += WG) {
        float dg = dc.begins || dc.ends ? 0.0 : mm;
        [[dont_unroll]] for (uint j = 0; j < dc.n; j++)
            dg += j < i ? after[j] : here[j] + before[j * LD + i];
        uint t = dc.t0 + i;
        float a = proj[t * p.p_stride + p.a_col + head], bias = dt_bias[head];
        float da = delta_log_decay_bwd(ssm_a[head], bias, a, dg);
        dproj[t * p.d_stride + p.da_col + head] += da;
        sums[head * p.n_tok + t] = da;
        sums[(p.n_v_head + head) * p.n_tok + t] = dg * delta_log_decay(ssm_a[head], bias, a);
    }
}
