// linear_bwd: shared by the kernels of dX. dx[t][k] += sum_o W[o][k] dy[t][o]: the sum is over W's
// rows, so blocks of a row, which lie along k, are unpacked as in the forward. Include after
// defining ENTRIES_BINDING and CODEBOOK_BINDING.
#define WEIGHT_BINDING 0
#define HALVES_BINDING 1
#include "weight.glsl"
#include "halves.glsl"

layout(constant_id = SPEC_aligned) const uint ALIGNED = 0;  // rows and column of dy: multiples of 4

// 1: operands are f16, and rows of dy have the layout of halves.glsl. Only for kernels that define
// TAKES_HALVES.
#ifdef TAKES_HALVES
layout(constant_id = SPEC_halves) const uint HALVES = 0;
#else
const uint HALVES = 0;
#endif

layout(push_constant) uniform Push { push_linear_bwd p; };
layout(set = 0, binding = 1) readonly restrict buffer Dy4 { vec4 dy4[]; };
layout(set = 0, binding = 1) readonly restrict buffer Dy1 { float dy1[]; };
layout(set = 0, binding = 2) restrict buffer Dx4 { vec4 dx4[]; };
layout(set = 0, binding = 2) restrict buffer Dx1 { float dx1[]; };

// dy[t][r .. r+3], r < n_out a multiple of 4; zero past the end.
vec4 load_dy(uint t, uint r)
{
    if (HALVES != 0)
        return half4(t * p.dy_stride, r);
    uint at = t * p.dy_stride + p.dy_col + r, n = p.n_out - r;
    vec4 v;
    if (ALIGNED != 0)
        v = dy4[at / 4];
    else
        v = vec4(dy1[at], dy1[at + min(1u, n - 1)], dy1[at + min(2u, n - 1)],
                 dy1[at + min(3u, n - 1)]);
    return vec4(v.x, n > 1 ? v.y : 0.0, n > 2 ? v.z : 0.0, n > 3 ? v.w : 0.0);
}

// The factor for products of row t of dy.
float dx_scale(uint t)
{
    return HALVES != 0 ? half_scale(t * p.dy_stride, p.n_out) / HALF_FACTOR : 1.0;
}
