// linear: shared by the matrix kernels: bindings, loads of x, and the epilogue of a product.
// y[t][r] = sum_k W[r][k] x[t][k]. Include after defining CODEBOOK_BINDING.
#define WEIGHT_BINDING 0
#define HALVES_BINDING 1
#include "weight.glsl"
#include "halves.glsl"

layout(constant_id = SPEC_epi) const uint EPI = EPI_STORE;

// 1: operands are f16, and rows of x have the layout of halves.glsl. Only for kernels that define
// TAKES_HALVES.
#ifdef TAKES_HALVES
layout(constant_id = SPEC_halves) const uint HALVES = 0;
#else
const uint HALVES = 0;
#endif

layout(push_constant) uniform Push { push_linear p; };
layout(set = 0, binding = 1) readonly restrict buffer X { vec4 x[]; };
layout(set = 0, binding = 2) restrict buffer Y { float y[]; };
layout(set = 0, binding = 3) readonly buffer Res { float res[]; };
layout(set = 0, binding = 4) readonly buffer Gate { float gate[]; };

// x[t][k .. k+3]; zero past the end of the row, which packed weights pad.
vec4 load_x(uint t, uint k)
{
    if (HALVES != 0)
        return half4(t * p.x_stride, k);
    return k < p.n_in ? x[(t * p.x_stride + p.x_col + k) / 4] : vec4(0);
}

// The factor for products of row `from` of x, which go to row t of y: computed once per token and
// not per element.
float y_scale(uint from, uint t)
{
    float by = 1.0;
    if (EPI == EPI_ADD_GATED)
        by = sigmoid(gate[t * p.gate_stride + p.gate_col]);
    if (HALVES != 0)
        by *= half_scale(from * p.x_stride, p.n_in) / HALF_FACTOR;
    return by;
}

void store_y(uint t, uint r, float v)
{
    if (EPI == EPI_ADD || EPI == EPI_ADD_GATED)
        v += res[t * p.res_stride + p.res_col + r];
    y[t * p.y_stride + p.y_col + r] = v;
}

float sum4(vec4 v) { return v.x + v.y + v.z + v.w; }
