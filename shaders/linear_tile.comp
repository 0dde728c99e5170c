#version 450
// linear_tile: matrix times many vectors through workgroup memory, for GPUs of any subgroup size. A
// workgroup of 128 owns 128 rows by 8 TOKS tokens and a lane 8 by TOKS of them; a step stages one
// 32-element block of each row. Lane (i, j) owns rows i + 16 a and tokens j + 8 c, so that
// neighbours read neighbouring words.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define ENTRIES_BINDING 5
#define CODEBOOK_BINDING 7
#define TAKES_HALVES
#include "linear.glsl"
#include "linear_many.glsl"

layout(constant_id = SPEC_toks) const uint TOKS = 8;
const uint ROWS = 128, PAD = 1;
shared float tile_w[32][ROWS + PAD];
shared float tile_x[32][TOKS * 8 + PAD];

void main()
{
    owned o;
    if (!own_tokens(TOKS * 8, o))
        return;
    uint row0 = gl_WorkGroupID.x * ROWS, n_block = (p.n_in + 31) / 32;
    uint i = lane() % 16, j = lane() / 16;
    float acc[8 * TOKS];
    [[unroll]] for (uint a = 0; a < 8 * TOKS; a++)
        acc[a] = 0.0;

    for (uint b = 0; b < n_block; b++) {
        vec4 w[8];
        weight_block((o.w_row + min(row0 + lane(), p.n_out - 1)) * p.row_q, n_block, b, w);
        if (HALVES != 0)
            [[unroll]] for (uint g = 0; g < 8; g++)
                w[g] = half_sum(w[g]);
        [[unroll]] for (uint g = 0; g < 8; g++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                tile_w[4 * g + e][lane()] = w[g][e];
        for (uint g = lane(); g < TOKS * 64; g += 128) {
            uint t = g / 8, k = g % 8 * 4;
            vec4 v = load_x(x_row(o, min(t, o.n - 1)), 32 * b + k);
            [[unroll]] for (uint e = 0; e < 4; e++)
                tile_x[k + e][t] = v[e];
        }
        barrier();
        for (uint k = 0; k < 32; k++) {
            float wr[8], xr[TOKS];
            [[unroll]] for (uint a = 0; a < 8; a++)
                wr[a] = tile_w[k][i + 16 * a];
            [[unroll]] for (uint c = 0; c < TOKS; c++)
                xr[c] = tile_x[k][j + 8 * c];
            [[unroll]] for (uint a = 0; a < 8; a++)
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[a * TOKS + c] += wr[a] * xr[c];
        }
        barrier();
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint t = j + 8 * c, own = min(t, o.n - 1), to = y_row(o, own);
        float by = y_scale(x_row(o, own), to);
        [[unroll]] for (uint a = 0; a < 8; a++)
            if (row0 + i + 16 * a < p.n_out && t < o.n)
                store_y(to, row0 + i + 16 * a, acc[a * TOKS + c] * by);
    }
}
