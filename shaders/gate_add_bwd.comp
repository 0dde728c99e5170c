#version 450
// gate_add_bwd: with s = sigmoid(gate[t]), dx[t] += s dy[t] and dgate[t] += s (1 - s) dy[t] . x[t].
// One workgroup per row.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_gate p; };
layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer Gate { float gate[]; };
layout(binding = 2) readonly buffer Dy { float dy[]; };
layout(binding = 3) buffer Dx { float dx[]; };
layout(binding = 4) buffer Dgate { float dgate[]; };

void main()
{
    uint t = gl_WorkGroupID.x, at = t * p.x_stride + p.x_col, from = t * p.y_stride + p.y_col;
    uint to = t * p.dx_stride + p.dx_col;
    float s = sigmoid(gate[t * p.gate_stride + p.gate_col]), sum = 0.0;
    for (uint i = lane(); i < p.n; i += WG) {
        sum += x[at + i] * dy[from + i];
        dx[to + i] += s * dy[from + i];
    }
    sum = wg_sum(sum);
    if (lane() == 0)
        dgate[t * p.dgate_stride + p.dgate_col] += s * (1.0 - s) * sum;
}
