/* op_grouped: the products of a mixture's experts, each with the tokens that chose it, forward and
 * backward, with the experts' adapters. */
#include "ops/op_linear_parts.h"

uint32_t linear_group_tile(const struct gpu_caps *caps, uint32_t n_row)
{
    const struct linear_path *path =
        linear_path_of(linear_paths, n_linear_path, caps, UINT32_MAX, false);
    uint32_t toks = 0;
    if (path->kernel != K_linear)
        toks = linear_tile_of(path, caps, F32, 32, n_row).toks_per_group;
    return caps->coop.m ? min_u32(toks, linear_coop_toks(caps)) : toks;
}

/* Of a path that takes f16: of the tile that holds what the f32 paths, for which the entries were
 * grouped, take at once. */
static struct linear_tile grouped_tile(const struct linear_path *p, const struct gpu_caps *caps,
                                       struct linear_tile t, const struct grouping *g)
{
    return p->f16 ? linear_shared_tile(p, caps, g->tile > 32 ? 48 : g->tile > 16 ? 24 : 9) : t;
}

/* add: the product is added to what y holds. */
static void grouped_product(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor y,
                            const struct grouping *g, bool add, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = linear_pick(c, UINT32_MAX, f16);
    struct linear_tile t =
        grouped_tile(path, caps, linear_tile_of(path, caps, w->dtype, w->n_out, g->n_row), g);
    x = linear_operand(c, path, x);
    linear all = *w; /* an expert is the unit of a piece */
    all.n_out = w->n_expert;
    all.row_q = w->row_q * w->n_out;
    uint32_t step = linear_piece(caps, &all);
    for (uint32_t e = 0; step && e < w->n_expert; e += step) {
        uint32_t n = min_u32(step, w->n_expert - e);
        struct push_linear p = {
            .n_in = w->n_in,
            .n_out = w->n_out,
            .n_tok = y.n_row,
            .row_q = w->row_q,
            .x_stride = x.stride,
            .x_col = x.col,
            .y_stride = y.stride,
            .y_col = y.col,
            .res_stride = y.stride,
            .res_col = y.col,
            .n_used = g->n_used,
            .expert0 = e,
            .n_expert = n,
        };
        tensor rows = linear_rows(&all, e, n);
        struct grid grid = GRID(div_up(w->n_out, t.rows), g->max_tile, 1);
        cmd_work(c, 2.0 * w->n_in * w->n_out * y.n_row * n / w->n_expert);
        cmd_dispatch(
            c, path->kernel, grid,
            linear_many_spec(path, caps, t, w->dtype, add ? EPI_ADD : EPI_STORE, by_entry ? 2 : 1),
            PUSH(p),
            USES(READ(rows), READ(x), WRITE(y), READ(add ? y : x), READ(x), READ(g->entries),
                 READ(g->tiles), READ(linear_grid(w))));
    }
    if (!step)
        cmd_fail(c, "an expert of %u bytes is larger than a binding of this device",
                 all.row_q * 16);
}

void linear_grouped(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor y,
                    const struct grouping *g)
{
    grouped_product(c, w, x, by_entry, y, g, false, cmd_f16(c));
    if (!w->lora)
        return;
    tensor t = cmd_scratch(c, F32, w->lora->a.n_out, y.n_row);
    tensor in = linear_dropped(c, x, w->lora, by_entry ? 1 : g->n_used);
    grouped_product(c, &w->lora->a, in, by_entry || tape_dropout(c), t, g, false, false);
    grouped_product(c, &w->lora->b, t, true, y, g, true, false);
}

/* dX by entry, added to dx. */
static void grouped_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx,
                        const struct grouping *g, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = linear_bwd_pick(c, UINT32_MAX, f16);
    struct linear_tile t = grouped_tile(path, caps, linear_bwd_tile_of(path, caps, g->n_row), g);
    dy = linear_operand(c, path, dy);
    linear all = *w; /* an expert is the unit of a piece */
    all.n_out = w->n_expert;
    all.row_q = w->row_q * w->n_out;
    uint32_t step = linear_piece(caps, &all);
    for (uint32_t e = 0; step && e < w->n_expert; e += step) {
        uint32_t n = min_u32(step, w->n_expert - e);
        cmd_work(c, 2.0 * w->n_in * w->n_out * dy.n_row * n / w->n_expert);
        linear_bwd_dispatch(c, path, t, w, linear_rows(&all, e, n), dy, dx,
                            (struct push_linear_bwd){ .n_out = w->n_out,
                                                      .n_tok = dy.n_row,
                                                      .n_used = g->n_used,
                                                      .expert0 = e,
                                                      .n_expert = n },
                            g);
    }
    if (!step)
        cmd_fail(c, "an expert of %u bytes is larger than a binding of this device",
                 all.row_q * 16);
}

static void grouped_outer(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor dy,
                          const struct grouping *g)
{
    tensor dw = grad(c, linear_rows(w, 0, w->n_out * w->n_expert));
    linear all = *w;
    all.n_out = w->n_expert;
    all.row_q = w->row_q * w->n_out;
    uint32_t step = linear_piece(gpu_caps(cmd_gpu(c)), &all);
    for (uint32_t e = 0; dw.arena && step && e < w->n_expert; e += step) {
        uint32_t n = min_u32(step, w->n_expert - e);
        linear_outer_dispatch(c, w, x, by_entry, dy, tensor_rows(dw, e * w->n_out, n * w->n_out), g,
                              e, n);
    }
}

void linear_grouped_bwd(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor dy,
                        tensor dx, const struct grouping *g)
{
    const struct lora *l = w->lora;
    if (cmd_failed(c))
        return;
    if (dx.arena)
        grouped_bwd(c, w, dy, dx, g, cmd_f16(c));
    if (!l)
        return;
    tensor t = cmd_scratch(c, F32, l->a.n_out, dy.n_row), dt = grad(c, t), into = dx;
    tensor in = linear_dropped(c, x, l, by_entry ? 1 : g->n_used);
    bool in_by_entry = by_entry || tape_dropout(c);
    grouped_product(c, &l->a, in, in_by_entry, t, g, false, false);
    grouped_bwd(c, &l->b, dy, dt, g, false);
    grouped_outer(c, &l->b, t, true, dy, g);
    grouped_outer(c, &l->a, in, in_by_entry, dt, g);
    if (!dx.arena || cmd_failed(c))
        return;
    if (tape_dropout(c))
        into = grad(c, in);
    grouped_bwd(c, &l->a, dt, into, g, false);
    if (tape_dropout(c))
        linear_dropout(c, into, l->id, 1, dx, true);
}
