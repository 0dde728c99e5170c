#version 450
// outer_sum: out[r][i] += the sums of all splits of outer, in their order.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(push_constant) uniform Push { push_outer_sum p; };
layout(binding = 0) readonly buffer Part { float part[]; };     // [n_split][n_row][part_stride]
layout(binding = 1) buffer Sums { float sums[]; };

void main()
{
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.n)
        return;
    for (uint r = gl_WorkGroupID.y; r < p.n_row; r += gl_NumWorkGroups.y) {
        float sum = 0.0;
        for (uint s = 0; s < p.n_split; s++)
            sum += part[(s * p.n_row + r) * p.part_stride + i];
        sums[r * p.out_stride + i] += sum;
    }
}
