#version 450
// gate_stats: GATE_STATS of push.h for the tokens of a batch. One workgroup per recurrent head.
// DOCS: for a row of documents, without the tokens of padding.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "gate.glsl"

layout(constant_id = SPEC_mamba) const uint MAMBA = 0;
layout(constant_id = SPEC_docs) const uint DOCS = 0;
layout(push_constant) uniform Push { push_gate_stats p; };
layout(binding = 0) readonly buffer P { float proj[]; };
layout(binding = 1) readonly buffer A { float ssm_a[]; };
layout(binding = 2) readonly buffer Dt { float dt_bias[]; };
layout(binding = 3) readonly buffer Real { uint real[]; };      // [n_tok], only DOCS
layout(binding = 4) writeonly buffer Out { float stats[]; };     // [n_head][GATE_STATS]

const float FAR = 3e38;

void main()
{
    uint head = gl_WorkGroupID.x, to = head * GATE_STATS;
    float a = ssm_a[head], bias = dt_bias[head];
    float n = 0.0, decays = 0.0, writes = 0.0, least = FAR, most = -FAR;
    [[dont_unroll]] for (uint t = lane(); t < p.n_tok; t += WG) {
        if (DOCS != 0 && real[t] == 0)
            continue;
        float x = proj[t * p.p_stride + p.decay_col + head];
        mamba_gates g = mamba_gate(a, bias, x);
        float decay = MAMBA != 0 ? g.decay : delta_decay(a, bias, x);
        n += 1.0;
        decays += decay;
        least = min(least, decay);
        most = max(most, decay);
        writes += MAMBA != 0 ? g.dt : delta_beta(proj[t * p.p_stride + p.beta_col + head]);
    }
    n = wg_sum(n);
    decays = wg_sum(decays);
    least = -wg_max(-least);
    most = wg_max(most);
    writes = wg_sum(writes);
    if (lane() != 0)
        return;
    stats[to] = n;
    stats[to + 1] = decays;
    stats[to + 2] = least;
    stats[to + 3] = most;
    stats[to + 4] = writes;
}
