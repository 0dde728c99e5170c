// linear: what the three matrix kernels share - bindings, loads of x, and what happens to a product
// before it is stored. y[t][r] = sum_k W[r][k] x[t][k]. Include after defining GRID_BINDING.
#define WEIGHT_BINDING 0
#include "weight.glsl"

layout(constant_id = 2) const uint EPI = 0;
const uint EPI_STORE = 0;       // y = product
const uint EPI_ADD = 1;         // y = res + product
const uint EPI_ADD_GATED = 2;   // y = res + product * sigmoid(gate[t])

layout(push_constant) uniform Push { push_linear p; };
layout(set = 0, binding = 1) readonly restrict buffer X { vec4 x[]; };
layout(set = 0, binding = 2) restrict buffer Y { float y[]; };
layout(set = 0, binding = 3) readonly buffer Res { float res[]; };
layout(set = 0, binding = 4) readonly buffer Gate { float gate[]; };

// x[t][k .. k+3]; zero past the end of the row, which packed weights pad.
vec4 load_x(uint t, uint k) { return k < p.n_in ? x[(t * p.x_stride + p.x_col + k) / 4] : vec4(0); }

// What token t's products are multiplied by: once a token, not once an element.
float y_scale(uint t)
{
    return EPI == EPI_ADD_GATED ? sigmoid(gate[t * p.gate_stride + p.gate_col]) : 1.0;
}

void store_y(uint t, uint r, float v)
{
    if (EPI != EPI_STORE)
        v += res[t * p.res_stride + p.res_col + r];
    y[t * p.y_stride + p.y_col + r] = v;
}

float sum4(vec4 v) { return v.x + v.y + v.z + v.w; }
