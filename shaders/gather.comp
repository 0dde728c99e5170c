#version 450
// gather: y[i] = x[rows[k]], for a slice of a longer list of rows; zeros where the list has no row.
// One workgroup per row.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_gather p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) readonly buffer Rows { uint rows[]; };
layout(binding = 2) readonly buffer Slice { uint slice[]; };
layout(binding = 3) writeonly buffer Y { vec4 y[]; };

void main()
{
    uint i = gl_WorkGroupID.x, k = slice[0] * p.n_row + i, n_q = p.n / 4;
    uint row = k < p.n_list ? rows[k] : NO_ROW;
    for (uint q = lane(); q < n_q; q += WG)
        y[i * p.y_stride / 4 + q] =
            row < p.n_x ? x[(row * p.x_stride + p.x_col) / 4 + q] : vec4(0.0);
}
