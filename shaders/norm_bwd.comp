#version 450
// norm_bwd: with r = 1 / sqrt(mean(x^2) + eps), dx += r (w dy - x r^2 mean(x w dy)). One workgroup
// per row.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_norm_bwd p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) readonly buffer W { vec4 w[]; };
layout(binding = 2) readonly buffer Dy { vec4 dy[]; };
layout(binding = 3) buffer Dx { vec4 dx[]; };

void main()
{
    uint t = gl_WorkGroupID.x, at = (t * p.x_stride + p.x_col) / 4;
    uint from = (t * p.dy_stride + p.dy_col) / 4, to = (t * p.dx_stride + p.dx_col) / 4;
    float ss = 0.0, xg = 0.0;
    for (uint i = lane(); i < p.n / 4; i += WG) {
        vec4 v = x[at + i];
        ss += dot(v, v);
        xg += dot(v, w[i] * dy[from + i]);
    }
    float r = 1.0 / sqrt(wg_sum(ss) / float(p.n) + p.eps);
    float along = r * r * (wg_sum(xg) / float(p.n));
    for (uint i = lane(); i < p.n / 4; i += WG)
        dx[to + i] += r * (w[i] * dy[from + i] - x[at + i] * along);
}
