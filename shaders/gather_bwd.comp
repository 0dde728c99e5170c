#version 450
// gather_bwd: dx[rows[k]] += dy[i] for the rows that gather read. The list must not have a row
// twice.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_gather p; };
layout(binding = 0) buffer X { vec4 dx[]; };
layout(binding = 1) readonly buffer Rows { uint rows[]; };
layout(binding = 2) readonly buffer Slice { uint slice[]; };
layout(binding = 3) readonly buffer Y { vec4 dy[]; };

void main()
{
    uint i = gl_WorkGroupID.x, k = slice[0] * p.n_row + i, n_q = p.n / 4;
    uint row = k < p.n_list ? rows[k] : NO_ROW;
    if (row >= p.n_x)
        return;
    for (uint q = lane(); q < n_q; q += WG)
        dx[(row * p.x_stride + p.x_col) / 4 + q] += dy[(i * p.y_stride + p.y_col) / 4 + q];
}
