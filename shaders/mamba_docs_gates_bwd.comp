#version 450
// mamba_docs_gates_bwd: the gradients of A_log, dt_bias and D of one head, over the tokens of a run
// of chunks.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer Terms { vec4 terms4[]; };
layout(binding = 2) buffer DA { float d_a[]; };                 // [n_head], as the others
layout(binding = 3) buffer DDt { float d_dt[]; };
layout(binding = 4) buffer DD { float d_d[]; };

void main()
{
    uint head = gl_WorkGroupID.x, q4 = p.q / 4;
    vec4 a = vec4(0.0), dt = vec4(0.0), d = vec4(0.0);
    [[dont_unroll]] for (uint i = lane(); i < p.n_chunk * q4; i += WG) {
        uint chunk = i / q4, at = (chunk * p.n_head + head) * MAMBA_TERMS * q4 + i % q4;
        if (chunks[p.chunk0 + chunk].y != 0) {
            a += terms4[at + MAMBA_D_A * q4];
            dt += terms4[at + MAMBA_D_DT * q4];
            d += terms4[at + MAMBA_DY_X * q4];
        }
    }
    float sum_a = wg_sum(dot(a, vec4(1.0))), sum_dt = wg_sum(dot(dt, vec4(1.0)));
    float sum_d = wg_sum(dot(d, vec4(1.0)));
    if (lane() == 0) {
        d_a[head] += sum_a;
        d_dt[head] += sum_dt;
        d_d[head] += sum_d;
    }
}
