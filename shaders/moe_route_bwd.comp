#version 450
// moe_route_bwd: adds to the gradient of the chosen experts' logits, from that of their weights.
// The choice is constant, so other logits have no gradient. ROUTE_SOFTMAX, over the chosen: dx_i +=
// w_i (dw_i - sum w dw). ROUTE_SIGMOID, w_i = by s_i, where by = scale / sum s with renorm, else
// scale: dx_i += by s_i' (dw_i - sum(s dw) / sum s), without the second term unless renorm. A lane
// has a token.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_route) const uint ROUTE = ROUTE_SOFTMAX;
layout(push_constant) uniform Push { push_route_bwd p; };
layout(binding = 0) readonly buffer X { float x[]; };
layout(binding = 1) readonly buffer Id { uint id[]; };      // [n_tok][id_stride]
layout(binding = 2) readonly buffer Wt { float wt[]; };     // as id
layout(binding = 3) readonly buffer DWt { float dwt[]; };   // [n_tok][dwt_stride]
layout(binding = 4) buffer DX { float dx[]; };

void main()
{
    uint t = gl_GlobalInvocationID.x;
    if (t >= p.n_tok)
        return;
    uint at = t * p.x_stride + p.x_col, to = t * p.dx_stride + p.dx_col;
    uint from = t * p.id_stride, d = t * p.dwt_stride;
    float sum = 1e-20, along = 0.0;
    [[dont_unroll]] for (uint s = 0; s < p.n_used; s++) {
        float w = ROUTE == ROUTE_SIGMOID ? sigmoid(x[at + id[from + s]]) : wt[from + s];
        sum += w;
        along += w * dwt[d + s];
    }
    float by = 1.0, mean = along;
    if (ROUTE == ROUTE_SIGMOID) {
        by = p.renorm != 0 ? p.scale / sum : p.scale;
        mean = p.renorm != 0 ? along / sum : 0.0;
    }
    [[dont_unroll]] for (uint s = 0; s < p.n_used; s++) {
        uint e = id[from + s];
        float v = x[at + e], w = wt[from + s];
        if (ROUTE == ROUTE_SIGMOID)
            w = sigmoid(v) * sigmoid(-v);       // 1 - sigmoid(v) would cancel
        dx[to + e] += by * w * (dwt[d + s] - mean);
    }
}
