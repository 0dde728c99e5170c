#version 450
// moe_sum_bwd: the backward of y[t] = sum over slots of weight[t][slot] * x[t * n_used + slot] plus
// res[t]. Adds to the gradient of the weights and, with ADD, to that of res. The gradient of x
// replaces x, which is not needed again; a second tensor of entries would take most of a long row's
// memory. A workgroup has an entry.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_add) const uint ADD = 0;
layout(push_constant) uniform Push { push_moe_sum p; };     // y: dy; res: dres
layout(binding = 0) buffer X { vec4 x[]; };
layout(binding = 1) readonly buffer Wt { float wt[]; };
layout(binding = 2) readonly buffer DY { vec4 dy[]; };
layout(binding = 3) buffer DWt { float dwt[]; };
layout(binding = 4) buffer DRes { vec4 dres[]; };

void main()
{
    uint t = gl_WorkGroupID.x, s = gl_WorkGroupID.y, quads = p.n / 4;
    uint at = (t * p.n_used + s) * p.x_stride / 4, from = t * p.y_stride / 4;
    float by = wt[t * p.wt_stride + s], along = 0.0;
    for (uint i = lane(); i < quads; i += WG) {
        vec4 d = dy[from + i];
        along += dot(x[at + i], d);
        x[at + i] = by * d;
        if (ADD != 0 && s == 0)
            dres[t * p.res_stride / 4 + i] += d;
    }
    along = wg_sum(along);
    if (lane() == 0)
        dwt[t * p.dwt_stride + s] += along;
}
