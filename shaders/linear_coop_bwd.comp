#version 450
// linear_coop_bwd: dX on matrix units; linear_tile_bwd is the same without them. A workgroup owns
// ROWS columns of x, which are rows of the transpose of W, and stages DEPTH rows of W at a time.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define CODEBOOK_BINDING 3
#define ENTRIES_BINDING 4
#define TAKES_HALVES
#include "linear_bwd.glsl"
#include "linear_many.glsl"
#define A_TURNED
#include "coop.glsl"

owned o;

void coop_store(uint m, uint n, float v)
{
    uint k = gl_WorkGroupID.x * ROWS + m;
    if (k < p.n_in && n < o.n) {
        uint row = y_row(o, n);
        dx1[row * p.dx_stride + p.dx_col + k] += v * dx_scale(row);
    }
}

void main()
{
    if (!own_tokens(TOKS, o))
        return;
    const uint BLOCKS = ROWS / 32;
    uint block0 = gl_WorkGroupID.x * BLOCKS, n_block = (p.n_in + 31) / 32;
    coop_clear();
    for (uint step = 0; step < (p.n_out + DEPTH - 1) / DEPTH * HALF_PARTS; step++) {
        uint r = step / HALF_PARTS * DEPTH, part = step % HALF_PARTS;
        for (uint i = lane(); i < DEPTH * BLOCKS; i += WG) {
            uint row = o.w_row + min(r + i / BLOCKS, p.n_out - 1);
            vec4 w[8];
            weight_block(row * p.row_q, n_block, min(block0 + i % BLOCKS, n_block - 1), w);
            stage_block(i / BLOCKS * A_STRIDE + i % BLOCKS * 4, w, part);
        }
        for (uint i = lane(); part == 0 && i < TOKS * (DEPTH / 8); i += WG) {
            uint t = i / (DEPTH / 8), q = i % (DEPTH / 8);
            b_tile[t * B_STRIDE + q] = half8(y_row(o, min(t, o.n - 1)) * p.dy_stride, r + 8 * q);
        }
        barrier();
        coop_step();
        barrier();
    }
    coop_finish();
}
