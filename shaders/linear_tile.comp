#version 450
// linear_tile: matrix times many vectors through workgroup memory, for GPUs of any subgroup size. A workgroup
// of 128 owns 128 rows by 64 tokens and a lane 8 by 8 of them; a step stages one 32-element block of each row.
// Lane (i, j) owns rows i + 16 a and tokens j + 8 c, so that neighbours read neighbouring words.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "linear.glsl"

const uint ROWS = 128, TOKS = 64, PAD = 1;
shared float tile_w[32][ROWS + PAD];
shared float tile_x[32][TOKS + PAD];

void main()
{
    uint row0 = gl_WorkGroupID.x * ROWS, tok0 = gl_WorkGroupID.y * TOKS, n_block = (p.n_in + 31) / 32;
    uint i = lane() % 16, j = lane() / 16;
    float acc[8][8];
    [[unroll]] for (uint a = 0; a < 8; a++)
        [[unroll]] for (uint c = 0; c < 8; c++)
            acc[a][c] = 0.0;

    for (uint b = 0; b < n_block; b++) {
        vec4 w[8];
        weight_block(min(row0 + lane(), p.n_out - 1) * p.row_q, n_block, b, w);
        [[unroll]] for (uint g = 0; g < 8; g++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                tile_w[4 * g + e][lane()] = w[g][e];
        for (uint g = lane(); g < TOKS * 8; g += 128) {
            uint t = g / 8, k = g % 8 * 4;
            vec4 v = load_x(min(tok0 + t, p.n_tok - 1), 32 * b + k);
            [[unroll]] for (uint e = 0; e < 4; e++)
                tile_x[k + e][t] = v[e];
        }
        barrier();
        for (uint k = 0; k < 32; k++) {
            float wr[8], xr[8];
            [[unroll]] for (uint a = 0; a < 8; a++)
                wr[a] = tile_w[k][i + 16 * a];
            [[unroll]] for (uint c = 0; c < 8; c++)
                xr[c] = tile_x[k][j + 8 * c];
            [[unroll]] for (uint a = 0; a < 8; a++)
                [[unroll]] for (uint c = 0; c < 8; c++)
                    acc[a][c] += wr[a] * xr[c];
        }
        barrier();
    }
    [[unroll]] for (uint a = 0; a < 8; a++)
        [[unroll]] for (uint c = 0; c < 8; c++) {
            uint r = row0 + i + 16 * a, t = tok0 + j + 8 * c;
            if (r < p.n_out && t < p.n_tok)
                store_y(t, r, acc[a][c]);
        }
}
