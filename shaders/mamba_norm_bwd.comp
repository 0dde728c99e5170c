#version 450
// mamba_norm_bwd: the backward of mamba_norm, for one (group of heads, token). With v = o silu(z),
// r = 1 / sqrt(mean(v^2) + eps), y = r v w:
//   dv = r (w dy - v r^2 mean(w dy v));  do = dv silu(z);  dz += dv o silu'(z)
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_mamba_docs p; };
layout(binding = 0) readonly buffer O { vec4 o4[]; };           // [n_tok][d_inner]
layout(binding = 1) readonly buffer P { vec4 proj4[]; };
layout(binding = 2) readonly buffer W { vec4 w4[]; };           // [d_inner]
layout(binding = 3) readonly buffer Dy { vec4 dy4[]; };         // [n_tok][d_inner]
layout(binding = 4) writeonly buffer U { vec4 u4[]; };
layout(binding = 5) buffer Dp { vec4 dp4[]; };

vec4 sigmoid4(vec4 v) { return vec4(sigmoid(v.x), sigmoid(v.y), sigmoid(v.z), sigmoid(v.w)); }

void main()
{
    uint group = gl_WorkGroupID.x, t = gl_WorkGroupID.y;
    uint d_inner = p.n_head * p.head_dim, n = d_inner / p.n_group / 4, col = group * n;
    uint o = t * d_inner / 4 + col, z = (t * p.p_stride + p.p_col) / 4 + col;
    uint dy = (t * p.y_stride + p.y_col) / 4 + col;
    float ss = 0.0, along = 0.0;
    [[dont_unroll]] for (uint i = lane(); i < n; i += WG) {
        vec4 gate = proj4[z + i], v = o4[o + i] * gate * sigmoid4(gate);
        ss += dot(v, v);
        along += dot(v, w4[col + i] * dy4[dy + i]);
    }
    float r = 1.0 / sqrt(wg_sum(ss) / float(4 * n) + p.eps);
    along = wg_sum(along) / float(4 * n) * r * r;
    uint to = (t * p.u_stride + p.v_col) / 4 + col, dz = (t * p.dp_stride + p.dp_col) / 4 + col;
    [[dont_unroll]] for (uint i = lane(); i < n; i += WG) {
        vec4 gate = proj4[z + i], s = sigmoid4(gate), out_i = o4[o + i];
        vec4 dv = r * (w4[col + i] * dy4[dy + i] - out_i * gate * s * along);
        u4[to + i] = dv * gate * s;
        dp4[dz + i] += dv * out_i * s * (1.0 + gate * (1.0 - s));
    }
}
