#version 450
// swiglu: y[t][i] = silu(x[t][i]) * x[t][n_ff + i].
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_swiglu p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) writeonly buffer Y { vec4 y[]; };

void main()
{
    uint quads = p.n_ff / 4, at = gl_GlobalInvocationID.x;
    if (at >= quads * p.n_row)
        return;
    uint t = at / quads, i = at % quads;
    vec4 g = x[t * p.x_stride / 4 + i], u = x[(t * p.x_stride + p.n_ff) / 4 + i];
    y[t * p.y_stride / 4 + i] = vec4(silu(g.x), silu(g.y), silu(g.z), silu(g.w)) * u;
}
