#version 450
// dropout: y[r][i] = x[r / n_used][i] * scale, or 0 for units that are left out. With ADD the
// result is added to y; this is the backward, since gradients have the same mask.
//
// A counter-based generator decides which units are left out: Philox4x32 with 10 rounds (Salmon,
// Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, 2011). Its key is the seed.
// Its counter is the number of the group of four elements, the id of the factors, the step and the
// row.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(constant_id = SPEC_add) const uint ADD = 0;
layout(push_constant) uniform Push { push_dropout p; };
layout(binding = 0) readonly buffer X { vec4 x[]; };
layout(binding = 1) buffer Y { vec4 y[]; };
layout(binding = 2) readonly buffer Key { uint key[]; };        // seed low, high, step, row

uvec4 philox(uvec4 v, uvec2 k)
{
    [[dont_unroll]] for (uint i = 0; i < 10; i++) {
        uint hi0, lo0, hi1, lo1;
        umulExtended(0xD2511F53u, v.x, hi0, lo0);
        umulExtended(0xCD9E8D57u, v.z, hi1, lo1);
        v = uvec4(hi1 ^ v.y ^ k.x, lo1, hi0 ^ v.w ^ k.y, lo0);
        k += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return v;
}

void main()
{
    uint quads = p.n / 4, i = gl_GlobalInvocationID.x;
    if (i >= quads)
        return;
    for (uint r = gl_WorkGroupID.y; r < p.n_row; r += gl_NumWorkGroups.y) {
        uvec4 u = philox(uvec4(r * quads + i, p.id, key[2], key[3]), uvec2(key[0], key[1]));
        vec4 v = x[(r / p.n_used * p.x_stride + p.x_col) / 4 + i] * p.scale;
        uint to = (r * p.y_stride + p.y_col) / 4 + i;
        v = vec4(u.x < p.below ? 0.0 : v.x, u.y < p.below ? 0.0 : v.y, u.z < p.below ? 0.0 : v.z,
                 u.w < p.below ? 0.0 : v.w);
        if (ADD != 0)
            v += y[to];
        y[to] = v;
    }
}
