#version 450
// linear_tile_bwd: dX through workgroup memory, for GPUs of any subgroup size; see linear_tile. A
// workgroup of 128 owns 128 columns of x by 8 TOKS tokens, and a lane 8 by TOKS of them. A step
// stages 32 rows of W; each lane unpacks one block of a row.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define CODEBOOK_BINDING 3
#define ENTRIES_BINDING 4
#define TAKES_HALVES
#include "linear_bwd.glsl"
#include "linear_many.glsl"

layout(constant_id = SPEC_toks) const uint TOKS = 8;
const uint COLS = 128, PAD = 1;
shared float tile_w[32][COLS + PAD];
shared float tile_dy[32][TOKS * 8 + PAD];

void main()
{
    owned o;
    if (!own_tokens(TOKS * 8, o))
        return;
    uint col0 = gl_WorkGroupID.x * COLS, n_block = (p.n_in + 31) / 32;
    uint i = lane() % 16, j = lane() / 16, own_r = lane() / 4, own_b = lane() % 4;
    float acc[8 * TOKS];
    [[unroll]] for (uint a = 0; a < 8 * TOKS; a++)
        acc[a] = 0.0;

    for (uint r = 0; r < p.n_out; r += 32) {
        vec4 w[8];
        weight_block((o.w_row + min(r + own_r, p.n_out - 1)) * p.row_q, n_block,
                     min(col0 / 32 + own_b, n_block - 1), w);
        if (HALVES != 0)
            [[unroll]] for (uint g = 0; g < 8; g++)
                w[g] = half_sum(w[g]);
        [[unroll]] for (uint g = 0; g < 8; g++)
            [[unroll]] for (uint e = 0; e < 4; e++)
                tile_w[own_r][32 * own_b + 4 * g + e] = w[g][e];
        for (uint g = lane(); g < TOKS * 64; g += 128) {
            uint t = g / 8, k = g % 8 * 4;
            vec4 v = vec4(0);
            if (r + k < p.n_out)
                v = load_dy(y_row(o, min(t, o.n - 1)), r + k);
            [[unroll]] for (uint e = 0; e < 4; e++)
                tile_dy[k + e][t] = v[e];
        }
        barrier();
        for (uint k = 0; k < 32; k++) {
            float wr[8], dr[TOKS];
            [[unroll]] for (uint a = 0; a < 8; a++)
                wr[a] = tile_w[k][i + 16 * a];
            [[unroll]] for (uint c = 0; c < TOKS; c++)
                dr[c] = tile_dy[k][j + 8 * c];
            [[unroll]] for (uint a = 0; a < 8; a++)
                [[unroll]] for (uint c = 0; c < TOKS; c++)
                    acc[a * TOKS + c] += wr[a] * dr[c];
        }
        barrier();
    }
    [[unroll]] for (uint c = 0; c < TOKS; c++) {
        uint t = j + 8 * c, row = y_row(o, min(t, o.n - 1));
        uint to = row * p.dx_stride + p.dx_col + col0 + i;
        float by = dx_scale(row);
        [[unroll]] for (uint a = 0; a < 8; a++)
            if (col0 + i + 16 * a < p.n_in && t < o.n)
                dx1[to + 16 * a] += acc[a * TOKS + c] * by;
    }
}
