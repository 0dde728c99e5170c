/* op_grouped: the products of experts with the tokens that chose them, forward and backward, with
 * the adapters of the experts. */
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

/* The tile of path p. Entries were grouped for the tile t of the f32 paths; a path with f16
 * operands gets its smallest tile with room for as many tokens. */
static struct linear_tile grouped_tile(const struct linear_path *p, const struct gpu_caps *caps,
                                       struct linear_tile t, const struct grouping *g)
{
    return p->f16 ? linear_shared_tile(p, caps, g->tile > 32 ? 48 : g->tile > 16 ? 24 : 9) : t;
}

/* y[e] = W_expert(e) x[e]; with add, the product is added to y. */
static void grouped_product(struct cmd *c, struct grouped_args a, tensor y, bool add, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = linear_pick(c, UINT32_MAX, f16);
    const linear *w = a.w;
    const struct grouping *g = a.g;
    struct linear_tile t =
        grouped_tile(path, caps, linear_tile_of(path, caps, w->dtype, w->n_out, g->n_row), g);
    tensor x = linear_operand(c, path, a.x);
    struct spec spec =
        linear_many_spec(path, caps, t, w->dtype, a.by_entry ? GROUPED_ENTRY : GROUPED_TOKEN);
    spec.epi = add ? EPI_ADD : EPI_STORE;
    for (struct slab s = slabs_of_experts(c, w); slab_next(&s);) {
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
            .expert0 = s.first,
            .n_expert = s.n,
        };
        struct grid grid = GRID(div_up(w->n_out, t.rows), g->max_tile, 1);
        cmd_work(c, 2.0 * w->n_in * w->n_out * y.n_row * s.n / w->n_expert);
        cmd_dispatch(c, path->kernel, grid, spec, PUSH(p),
                     USES(READ(s.rows), READ(x), WRITE(y), READ(add ? y : x), READ(x),
                          READ(g->entries), READ(g->tiles), READ(linear_codebook(w))));
    }
}

void linear_grouped(struct cmd *c, struct grouped_args a, tensor y)
{
    const struct lora *l = a.w->lora;
    grouped_product(c, a, y, false, cmd_f16(c));
    if (!l)
        return;
    tensor t = cmd_scratch(c, F32, l->a.n_out, y.n_row);
    tensor in = linear_dropped(c, a.x, l, a.by_entry ? 1 : a.g->n_used);
    struct grouped_args down = { &l->a, in, a.by_entry || tape_dropout(c), a.g };
    struct grouped_args up = { &l->b, t, true, a.g };
    grouped_product(c, down, t, false, false);
    grouped_product(c, up, y, true, false);
}

/* Adds the gradient of every entry's x to dx. */
static void grouped_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx,
                        const struct grouping *g, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = linear_bwd_pick(c, UINT32_MAX, f16);
    struct linear_bwd_args a = {
        .path = path,
        .tile = grouped_tile(path, caps, linear_bwd_tile_of(path, caps, g->n_row), g),
        .w = w,
        .dy = linear_operand(c, path, dy),
        .dx = dx,
        .g = g,
    };
    for (struct slab s = slabs_of_experts(c, w); slab_next(&s);) {
        a.slab = &s;
        cmd_work(c, 2.0 * w->n_in * w->n_out * dy.n_row * s.n / w->n_expert);
        linear_bwd_dispatch(c, &a);
    }
}

/* Adds to the gradient of a.w, if a.w is trained. */
static void grouped_outer(struct cmd *c, struct grouped_args a, tensor dy)
{
    const linear *w = a.w;
    tensor dw = grad(c, linear_rows(w, 0, w->n_out * w->n_expert));
    if (!dw.arena)
        return;
    for (struct slab s = slabs_of_experts(c, w); slab_next(&s);)
        linear_outer_dispatch(c, &(struct linear_outer_args){
                                     .w = w,
                                     .x = a.x,
                                     .dy = dy,
                                     .dw = tensor_rows(dw, s.first * w->n_out, s.n * w->n_out),
                                     .g = a.g,
                                     .by_entry = a.by_entry,
                                     .expert0 = s.first,
                                     .n_expert = s.n,
                                 });
}

void linear_grouped_bwd(struct cmd *c, struct grouped_args a, tensor dy, tensor dx)
{
    const struct lora *l = a.w->lora;
    const struct grouping *g = a.g;
    if (cmd_failed(c))
        return;
    if (dx.arena)
        grouped_bwd(c, a.w, dy, dx, g, cmd_f16(c));
    if (!l)
        return;
    tensor t = cmd_scratch(c, F32, l->a.n_out, dy.n_row), dt = grad(c, t), into = dx;
    tensor in = linear_dropped(c, a.x, l, a.by_entry ? 1 : g->n_used);
    struct grouped_args down = { &l->a, in, a.by_entry || tape_dropout(c), g };
    struct grouped_args up = { &l->b, t, true, g };
    grouped_product(c, down, t, false, false);
    grouped_bwd(c, &l->b, dy, dt, g, false);
    grouped_outer(c, up, dy);
    grouped_outer(c, down, dt);
    if (!dx.arena || cmd_failed(c))
        return;
    if (tape_dropout(c))
        into = grad(c, in);
    grouped_bwd(c, &l->a, dt, into, g, false);
    if (tape_dropout(c))
        linear_dropout(c, into, l->id, 1, dx, true);
}
