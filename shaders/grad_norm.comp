#version 450
// grad_norm: sums of squares of gradients, one sum per workgroup. Gradients are with respect to the
// numbers that are saved; those on the device are scale times as large.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "adam.glsl"
#include "sum.glsl"

layout(binding = 2) readonly buffer Grads { float grads[]; };
layout(binding = 3) writeonly buffer Sums { float sums[]; };

void main()
{
    float sum = 0.0, lost = 0.0;
    walk w = walk_begin();
    for (uint row = w.row; row < w.end; row += w.by) {
        adam_row r = rows[row];
        float s = scale[row];
        uint at = value_at(r);
        for (uint i = w.lane; i < r.n; i += w.width) {
            float g = s * grads[at + i];
            add(sum, lost, g * g);
        }
    }
    sum = exact_sum(sum - lost);
    if (lane() == 0)
        sums[p.to + group()] = sum;
}
