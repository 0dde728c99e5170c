#version 450
// mamba_docs_dt_bwd: the gradient of dt: x . dX / dt, plus A times the flow that crosses the token.
// It goes through the softplus to the projections. The kernel also stores what each token adds to
// the gates' gradients. A lane has four tokens of a head.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer Chunks { uvec4 chunks[]; };
layout(binding = 1) readonly buffer Sums { vec4 sums4[]; };
layout(binding = 2) readonly buffer M { vec4 m4[]; };           // [chunk][n_head][q + 1][q]
layout(binding = 3) readonly buffer P { float proj[]; };
layout(binding = 4) readonly buffer A { float ssm_a[]; };
layout(binding = 5) readonly buffer Dt { float dt_bias[]; };
layout(binding = 6) buffer Terms { vec4 terms4[]; };
layout(binding = 7) buffer Dp { float dp[]; };

void main()
{
    uint id = gl_WorkGroupID.x * WG + lane(), q4 = p.q / 4, head = id / q4, i4 = id % q4;
    uint chunk = gl_WorkGroupID.y, of = chunk * p.n_head + head;
    uvec4 c = chunks[p.chunk0 + chunk];
    if (head >= p.n_head || c.y == 0)
        return;
    uint m = of * (p.q + 1) * q4 + i4, term = of * MAMBA_TERMS * q4 + i4;
    uvec4 i = uvec4(4 * i4, 4 * i4 + 1, 4 * i4 + 2, 4 * i4 + 3);
    float a = ssm_a[head], bias = dt_bias[head];
    vec4 crosses = vec4(0.0), raw = vec4(0.0), d_raw = vec4(0.0), d_a = vec4(0.0);
    if (4 * i4 < c.y) {
        crosses = m4[m + p.q * q4];
        [[dont_unroll]] for (uint j = 0; j < min(4 * i4 + 3, c.y); j++)
            crosses += mix(vec4(0.0), m4[m + j * q4], greaterThan(i, uvec4(j)));
        vec4 d_dt = terms4[term + MAMBA_X_DX * q4] + a * crosses;
        uint dt_col = 2 * (p.n_head * p.head_dim + p.n_group * p.d_state) + head;
        [[unroll]] for (uint e = 0; e < 4; e++) {
            uint t = c.x + min(i[e], c.y - 1);
            float v = proj[t * p.p_stride + p.p_col + dt_col];
            if (i[e] < c.y) {
                d_raw[e] = d_dt[e] * sigmoid(v + bias);
                d_a[e] = crosses[e];
                dp[t * p.dp_stride + p.dp_col + dt_col] += d_raw[e];
            }
        }
        d_a *= a * sums4[(of * MAMBA_SUMS + MAMBA_DT) * q4 + i4];
    }
    terms4[term + MAMBA_D_A * q4] = d_a;
    terms4[term + MAMBA_D_DT * q4] = d_raw;
}
