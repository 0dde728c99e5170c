/* op_linear_bwd: the backward of a product: dx += W^T dy on packed weights, and the outer products
 * that are the gradient of weights in F32. */
#include "ops/op_linear_parts.h"

const struct linear_path linear_bwd_paths[] = {
    { "coop", K_linear_coop_bwd, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "tile, f16", K_linear_tile_bwd, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "tile", K_linear_tile_bwd, NOT_CPU, 9, UINT32_MAX, false, false },
    { "cols", K_linear_cols_bwd, ANY_DEVICE, 1, UINT32_MAX, false, false },
};
const uint32_t n_linear_bwd_path = ARRAY_LEN(linear_bwd_paths);

const struct linear_path *linear_bwd_pick(struct cmd *c, uint32_t n_tok, bool f16)
{
    return linear_path_of(linear_bwd_paths, n_linear_bwd_path, gpu_caps(cmd_gpu(c)), n_tok, f16);
}

/* Rows of W in one dispatch at most: an invocation walks over all of them, and
 * gpu_caps.loop_budget is not far. */
enum { BWD_ROWS = 16384 };

struct linear_tile linear_bwd_tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                                      uint32_t n_tok)
{
    uint32_t wg = wg_size(caps, 64);
    if (p->kernel != K_linear_cols_bwd)
        return linear_shared_tile(p, caps, n_tok);
    uint32_t toks = n_tok > 2 * wg ? 4 : n_tok > wg ? 2 : 1;
    return (struct linear_tile){ wg, 0, toks, toks * wg };
}

/* dX of the rows of W that are bound, which are a matrix or, with g, experts of it. */
void linear_bwd_dispatch(struct cmd *c, const struct linear_path *path, struct linear_tile t,
                         const linear *w, tensor rows, tensor dy, tensor dx,
                         struct push_linear_bwd p, const struct grouping *g)
{
    /* of factors that have no more, fewer columns */
    uint32_t quads = w->dtype != F32 || w->n_in > 16 ? 8 : w->n_in > 8 ? 4 : 2;
    uint32_t cols = t.rows ? t.rows : 4 * quads, grouped = g ? 2 : 0;
    struct spec spec = t.rows ? linear_many_spec(path, gpu_caps(cmd_gpu(c)), t, w->dtype,
                                                 tensor_in_quads(dy), grouped)
                              : SPEC(t.wg, w->dtype, tensor_in_quads(dy), quads, t.toks, grouped);
    uint32_t n_y = g ? g->max_tile : div_up(p.n_tok, t.toks_per_group);
    p.n_in = w->n_in;
    p.row_q = w->row_q;
    p.dy_stride = dy.stride;
    p.dy_col = dy.col;
    p.dx_stride = dx.stride;
    p.dx_col = dx.col;
    cmd_dispatch(c, path->kernel, GRID(div_up(w->n_in, cols), n_y, 1), spec, PUSH(p),
                 USES(READ(rows), READ(dy), BOTH(dx), READ(linear_grid(w)),
                      READ(g ? g->entries : dy), READ(g ? g->tiles : dy)));
}

void linear_bwd_by(struct cmd *c, const struct linear_path *path, const linear *w, tensor dy,
                   tensor dx)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    if (cmd_failed(c))
        return;
    HLM_ASSERT(dy.n == w->n_out && dx.n == w->n_in && dy.n_row == dx.n_row && tensor_in_quads(dx));
    uint32_t step = min_u32(linear_piece(caps, w), BWD_ROWS);
    if (step == 0)
        cmd_fail(c, "a weight row of %u bytes is longer than a binding of this device",
                 w->row_q * 16);
    for (uint32_t row = 0; step && row < w->n_out; row += step) {
        uint32_t n = min_u32(step, w->n_out - row);
        tensor part = linear_operand(c, path, tensor_cols(dy, row, n));
        cmd_work(c, 2.0 * n * w->n_in * dy.n_row);
        linear_bwd_dispatch(c, path, linear_bwd_tile_of(path, caps, dy.n_row), w,
                            linear_rows(w, row, n), part, dx,
                            (struct push_linear_bwd){ .n_out = n, .n_tok = dy.n_row }, NULL);
    }
}

void linear_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx)
{
    linear_bwd_by(c, linear_bwd_pick(c, dy.n_row, cmd_f16(c)), w, dy, dx);
}

/* Parts of a sum over tokens that run side by side, where there are not workgroups enough without;
 * by sizes alone. */
static uint32_t outer_splits(const struct gpu_caps *caps, uint32_t n_group, uint32_t n_tok)
{
    uint32_t want = caps->kind == GPU_CPU ? 8 : 512;
    return min_u32(div_up(want, n_group), div_up(n_tok, 128));
}

/* dw: rows of w, of all experts that are bound where g is not NULL. x by token or by entry. */
void linear_outer_dispatch(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor dy,
                           tensor dw, const struct grouping *g, uint32_t expert0, uint32_t n_expert)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    bool turned = w->n_out > w->n_in && !(g && !by_entry); /* dy is the long side */
    tensor l = turned ? dy : x, s = turned ? x : dy, to = dw;
    uint32_t n_short = turned ? w->n_in : w->n_out, n_long = turned ? w->n_out : w->n_in;
    uint32_t rows = min_u32(16, (uint32_t)align_up(n_short, 4)), wg = wg_size(caps, 64);
    struct grid grid = GRID(div_up(n_long, 4 * wg), div_up(n_short, rows), 1);
    uint32_t n_split = g ? n_expert : outer_splits(caps, grid.x * grid.y, dy.n_row);
    bool split = !g && n_split > 1;
    struct push_outer p = {
        .n_long = n_long,
        .n_short = n_short,
        .n_tok = dy.n_row,
        .per_split = div_up(dy.n_row, n_split),
        .long_stride = l.stride,
        .long_col = l.col,
        .short_stride = s.stride,
        .short_col = s.col,
        .n_row = w->n_out,
        .n_used = g ? g->n_used : 1,
        .expert0 = expert0,
    };
    grid.z = n_split;
    if (split)
        to = cmd_scratch(c, F32, w->n_in, w->n_out * n_split);
    if (cmd_failed(c))
        return;
    p.out_stride = to.stride;
    cmd_work(c, 2.0 * w->n_in * w->n_out * dy.n_row);
    cmd_dispatch(
        c, K_outer, grid,
        SPEC(wg, rows, turned, tensor_in_quads(l) | tensor_in_quads(s) << 1, split,
             g ? by_entry ? 2 : 1 : 0),
        PUSH(p),
        USES(READ(l), READ(s), BOTH(to), READ(g ? g->entries : s), READ(g ? g->tiles : s)));
    if (!split)
        return;
    struct push_outer_sum sum = { .n = w->n_in,
                                  .n_row = w->n_out,
                                  .n_split = n_split,
                                  .part_stride = to.stride,
                                  .out_stride = dw.stride };
    cmd_dispatch(c, K_outer_sum, row_grid(w->n_in, w->n_out, wg), SPEC(wg), PUSH(sum),
                 USES(READ(to), BOTH(dw)));
}

void linear_outer(struct cmd *c, const linear *w, tensor x, tensor dy, tensor dw)
{
    if (cmd_failed(c))
        return;
    HLM_ASSERT(x.n == w->n_in && dy.n == w->n_out && x.n_row == dy.n_row);
    linear part = *w;
    uint32_t step = linear_piece(gpu_caps(cmd_gpu(c)), w);
    if (step == 0)
        cmd_fail(c, "a weight row of %u bytes is longer than a binding of this device",
                 w->row_q * 16);
    for (uint32_t row = 0; step && row < w->n_out; row += step) {
        part.n_out = min_u32(step, w->n_out - row);
        linear_outer_dispatch(c, &part, x, false, tensor_cols(dy, row, part.n_out),
                              tensor_rows(dw, row, part.n_out), NULL, 0, 1);
    }
}
