/* op_linear_bwd: the backward of a product: dx += W^T dy on packed weights, and the outer products
 * that are the gradient of F32 weights. */
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

/* The most rows of W in one dispatch. An invocation loops over all of them and must stay below the
 * limit of gpu_caps.loop_budget. */
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

void linear_bwd_dispatch(struct cmd *c, const struct linear_bwd_args *a)
{
    const linear *w = a->w;
    const struct grouping *g = a->g;
    struct linear_tile t = a->tile;
    tensor dy = a->dy, dx = a->dx;
    /* Factors of few columns take smaller tiles. */
    uint32_t quads = w->dtype != F32 || w->n_in > 16 ? 8 : w->n_in > 8 ? 4 : 2;
    uint32_t cols = t.rows ? t.rows : 4 * quads;
    enum grouped_by grouped = g ? GROUPED_ENTRY : GROUPED_NOT;
    struct spec spec = t.rows
                           ? linear_many_spec(a->path, gpu_caps(cmd_gpu(c)), t, w->dtype, grouped)
                           : SPEC(.wg = t.wg, .w_type = w->dtype, .quads = quads, .toks = t.toks,
                                  .grouped = grouped);
    spec.aligned = tensor_in_quads(dy);
    struct push_linear_bwd p = {
        .n_in = w->n_in,
        .n_out = g ? w->n_out : a->slab->n,
        .n_tok = dy.n_row,
        .row_q = w->row_q,
        .dy_stride = dy.stride,
        .dy_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
    };
    if (g) {
        p.n_used = g->n_used;
        p.expert0 = a->slab->first;
        p.n_expert = a->slab->n;
    }
    uint32_t n_y = g ? g->max_tile : div_up(p.n_tok, t.toks_per_group);
    cmd_dispatch(c, a->path->kernel, GRID(div_up(w->n_in, cols), n_y, 1), spec, PUSH(p),
                 USES(READ(a->slab->rows), READ(dy), BOTH(dx), READ(linear_codebook(w)),
                      READ(g ? g->entries : dy), READ(g ? g->tiles : dy)));
}

void linear_bwd_by(struct cmd *c, const struct linear_path *path, const linear *w, tensor dy,
                   tensor dx)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    if (cmd_failed(c))
        return;
    HLM_ASSERT(dy.n == w->n_out && dx.n == w->n_in && dy.n_row == dx.n_row && tensor_in_quads(dx));
    struct linear_bwd_args a = {
        .path = path, .tile = linear_bwd_tile_of(path, caps, dy.n_row), .w = w, .dx = dx
    };
    for (struct slab s = slabs_of_rows(c, w, BWD_ROWS); slab_next(&s);) {
        a.slab = &s;
        a.dy = linear_operand(c, path, tensor_cols(dy, s.first, s.n));
        cmd_work(c, 2.0 * s.n * w->n_in * dy.n_row);
        linear_bwd_dispatch(c, &a);
    }
}

void linear_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx)
{
    linear_bwd_by(c, linear_bwd_pick(c, dy.n_row, cmd_f16(c)), w, dy, dx);
}

/* The number of parts, computed in parallel, into which the sum over tokens is divided when there
 * would be too few workgroups. The same sizes give the same parts, and so the same bits. */
static uint32_t outer_splits(const struct gpu_caps *caps, uint32_t n_group, uint32_t n_tok)
{
    uint32_t want = caps->kind == GPU_CPU ? 8 : 512;
    return min_u32(div_up(want, n_group), div_up(n_tok, 128));
}

void linear_outer_dispatch(struct cmd *c, const struct linear_outer_args *a)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const linear *w = a->w;
    const struct grouping *g = a->g;
    bool turned = w->n_out > w->n_in && !(g && !a->by_entry); /* dy has the longer rows */
    tensor dy = a->dy, l = turned ? dy : a->x, s = turned ? a->x : dy, to = a->dw;
    uint32_t n_short = turned ? w->n_in : w->n_out, n_long = turned ? w->n_out : w->n_in;
    uint32_t rows = min_u32(16, (uint32_t)align_up(n_short, 4)), wg = wg_size(caps, 64);
    struct grid grid = GRID(div_up(n_long, 4 * wg), div_up(n_short, rows), 1);
    uint32_t n_split = g ? a->n_expert : outer_splits(caps, grid.x * grid.y, dy.n_row);
    bool split = !g && n_split > 1;
    enum grouped_by grouped = !g ? GROUPED_NOT : a->by_entry ? GROUPED_ENTRY : GROUPED_TOKEN;
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
        .expert0 = a->expert0,
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
        SPEC(.wg = wg, .rows = rows, .turned = turned, .split = split, .grouped = grouped,
             .aligned = tensor_in_quads(l) | tensor_in_quads(s) << 1),
        PUSH(p),
        USES(READ(l), READ(s), BOTH(to), READ(g ? g->entries : s), READ(g ? g->tiles : s)));
    if (!split)
        return;
    struct push_outer_sum sum = { .n = w->n_in,
                                  .n_row = w->n_out,
                                  .n_split = n_split,
                                  .part_stride = to.stride,
                                  .out_stride = a->dw.stride };
    cmd_dispatch(c, K_outer_sum, row_grid(w->n_in, w->n_out, wg), SPEC(.wg = wg), PUSH(sum),
                 USES(READ(to), BOTH(a->dw)));
}

void linear_outer(struct cmd *c, const linear *w, tensor x, tensor dy, tensor dw)
{
    if (cmd_failed(c))
        return;
    HLM_ASSERT(x.n == w->n_in && dy.n == w->n_out && x.n_row == dy.n_row);
    linear part = *w;
    for (struct slab s = slabs_of_rows(c, w, UINT32_MAX); slab_next(&s);) {
        part.n_out = s.n;
        linear_outer_dispatch(c,
                              &(struct linear_outer_args){ .w = &part,
                                                           .x = x,
                                                           .dy = tensor_cols(dy, s.first, s.n),
                                                           .dw = tensor_rows(dw, s.first, s.n) });
    }
}
