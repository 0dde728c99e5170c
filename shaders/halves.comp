#version 450
// halves: rows of numbers as f16 operands, for the kernels that take them (linear_tile, linear_coop
// and their backward). Each row is multiplied by the power of two that brings its largest number to
// between 2^14 and 2^15. Otherwise small gradients would become 0 in f16 and large activations
// infinite; a power of two causes no rounding. The factor that undoes it is stored after the row.
// Rows are padded with zeros.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "halves.glsl"

layout(push_constant) uniform Push { push_halves p; };
layout(set = 0, binding = 0) readonly restrict buffer X { float x[]; };
layout(set = 0, binding = 1) writeonly restrict buffer H { uint h[]; };

void main()
{
    for (uint row = gl_WorkGroupID.y; row < p.n_row; row += gl_NumWorkGroups.y) {
        uint from = row * p.x_stride + p.x_col, to = row * p.h_stride, n = halves_words(p.n);
        float top = 0.0;
        for (uint i = lane(); i < p.n; i += WG)
            top = max(top, abs(x[from + i]));
        top = wg_max(top);
        // The exponent is limited so that both powers are normal numbers. For a row of zeros any
        // exponent will do; a row that is not finite is lost in any case.
        uint e = clamp(floatBitsToUint(top) >> 23, 15u, 254u);
        float by = uintBitsToFloat((268u - e) << 23);
        for (uint i = lane(); i < n; i += WG) {
            uint k = 2 * i;
            vec2 v = vec2(k < p.n ? x[from + k] : 0.0, k + 1 < p.n ? x[from + k + 1] : 0.0);
            h[to + i] = packHalf2x16(v * by);
        }
        if (lane() == 0)
            h[to + n] = (e - 14u) << 23;
    }
}
