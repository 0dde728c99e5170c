#version 450
// linear_coop: matrix times many vectors on matrix units; linear_tile is the same without them. A
// workgroup owns ROWS rows of W and stages two 32-element blocks of each at a time.
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define ENTRIES_BINDING 5
#define CODEBOOK_BINDING 7
#define TAKES_HALVES
#include "linear.glsl"
#include "linear_many.glsl"
#include "coop.glsl"

owned o;

void coop_store(uint m, uint n, float v)
{
    uint r = gl_WorkGroupID.x * ROWS + m;
    if (r < p.n_out && n < o.n) {
        uint to = y_row(o, n);
        store_y(to, r, v * y_scale(x_row(o, n), to));
    }
}

void main()
{
    if (!own_tokens(TOKS, o))
        return;
    uint row0 = gl_WorkGroupID.x * ROWS, n_block = (p.n_in + 31) / 32;
    coop_clear();
    for (uint step = 0; step < (n_block + 1) / 2 * HALF_PARTS; step++) {
        uint b = step / HALF_PARTS * 2, part = step % HALF_PARTS;
        for (uint i = lane(); i < 2 * ROWS; i += WG) {
            uint row = o.w_row + min(row0 + i / 2, p.n_out - 1);
            vec4 w[8];
            if (b + i % 2 < n_block)
                weight_block(row * p.row_q, n_block, b + i % 2, w);
            else
                [[unroll]] for (uint g = 0; g < 8; g++)
                    w[g] = vec4(0);
            stage_block(i / 2 * A_STRIDE + i % 2 * 4, w, part);
        }
        for (uint i = lane(); part == 0 && i < TOKS * (DEPTH / 8); i += WG) {
            uint t = i / (DEPTH / 8), q = i % (DEPTH / 8);
            b_tile[t * B_STRIDE + q] = half8(x_row(o, min(t, o.n - 1)) * p.x_stride,
                                             32 * b + 8 * q);
        }
        barrier();
        coop_step();
        barrier();
    }
    coop_finish();
}
