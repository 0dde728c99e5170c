/* op_linear: y = W x on packed weights, alone or with the norm before and the residual behind it.
 *
 * Owns the table of matrix kernels and the cutting of a matrix into pieces that a binding may span.
 * Formulas: RMSNorm (Zhang and Sennrich, arXiv 1910.07467). */
#include "op.h"

/* First fit wins. CPU devices have no faster memory than a load, so they take lanes as
 * tokens early. */
const struct linear_path linear_paths[] = {
    { "cols", K_linear_cols, CPU_ONLY, 5, UINT32_MAX, false },
    { "tile", K_linear_tile, NOT_CPU, 9, UINT32_MAX, false },
    { "rows", K_linear, CPU_ONLY, 1, UINT32_MAX, false },
    { "rows, fused", K_linear, NOT_CPU, 1, UINT32_MAX, true },
};
const uint32_t n_linear_path = ARRAY_LEN(linear_paths);

enum { EPI_STORE, EPI_ADD, EPI_ADD_GATED };     /* shaders/linear.glsl */
enum { IN_PLAIN, IN_NORM, IN_ACT };             /* shaders/linear.comp; the kind is added */

enum { TILE_SHARED = 32 << 10 };            /* workgroup memory that linear_tile asks for */

static const struct linear_path *path_pick(const struct gpu_caps *caps, uint32_t n_tok)
{
    for (uint32_t i = 0; i < n_linear_path; i++) {
        const struct linear_path *p = &linear_paths[i];
        bool fits = p->device == ANY_DEVICE || (p->device == CPU_ONLY) == (caps->kind == GPU_CPU);
        if (p->kernel == K_linear_tile && caps->max_shared < TILE_SHARED)
            continue;
        if (fits && n_tok >= p->min_tok && n_tok <= p->max_tok)
            return p;
    }
    return &linear_paths[n_linear_path - 1];     /* no tokens: recording has failed */
}

/* Workgroup; rows that it owns; tokens that a lane (K_linear: the workgroup) and the
 * workgroup own. */
struct tile { uint32_t wg, rows, toks, toks_per_group; };

static struct tile tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                           enum dtype dtype, uint32_t n_tok)
{
    /* A CPU device compiles every unrolled load at some cost: fewer rows of the types
     * that take many. */
    uint32_t n_grid;
    bool cpu = caps->kind == GPU_CPU, plain = dtype == F32 || dtype == F16 || dtype == BF16;
    uint32_t cpu_rows = plain || dtype_grid(dtype, &n_grid) ? 4 : 8;
    if (p->kernel == K_linear_tile) {
        uint32_t toks = n_tok >= 48 ? 8 : n_tok >= 24 ? 4 : 2;
        return (struct tile){ 128, 128, toks, 8 * toks };
    }
    if (p->kernel == K_linear_cols) {
        uint32_t toks = n_tok > 2 * caps->subgroup ? 4 : n_tok > caps->subgroup ? 2 : 1;
        return (struct tile){ caps->subgroup, cpu_rows, toks, toks * caps->subgroup };
    }
    uint32_t cols = n_tok >= 4 ? 4 : n_tok >= 2 ? 2 : 1;
    return (struct tile){ wg_size(caps, 64), cpu ? cpu_rows : 2, cols, cols };
}

tensor linear_rows(const linear *w, uint64_t row0, uint32_t n)
{
    return (tensor){ .arena = w->arena, .offset = w->offset + row0 * w->row_q * 16, .dtype = I32,
                     .n = w->row_q * 4, .n_row = n, .stride = w->row_q * 4 };
}

tensor linear_grid(const linear *w)
{
    uint32_t n = 0;
    if (!dtype_grid(w->dtype, &n))
        return linear_rows(w, 0, 1);
    return (tensor){ .arena = w->arena, .offset = w->grid, .dtype = I32, .n = n, .n_row = 1,
                     .stride = n };
}

uint32_t linear_piece(const struct gpu_caps *caps, const linear *w)
{
    /* a piece is as many rows as bring the next one to where a binding may begin */
    uint64_t row = w->row_q * 16ull, even = row & (0 - row), fit = caps->max_range / row;
    uint64_t unit = caps->align > even ? caps->align / even : 1;
    return fit >= w->n_out ? w->n_out : (uint32_t)(fit / unit * unit);
}

void linear_by(struct cmd *c, const struct linear_path *path, const struct linear_args *a)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const linear *w = a->w;
    uint32_t n_tok = a->x.n_row;
    if (cmd_failed(c))
        return;
    HLM_ASSERT(a->x.n == (a->act ? act_width(*a->act) : 1) * w->n_in && a->y.n == w->n_out &&
               a->y.n_row == n_tok);
    HLM_ASSERT(path->fuses || (!a->norm && !a->act));
    struct tile t = tile_of(path, caps, w->dtype, n_tok);
    tensor res = a->res ? *a->res : a->x, gate = a->gate ? *a->gate : a->x;
    tensor norm = a->norm ? *a->norm : a->x;
    uint32_t in = a->norm ? IN_NORM : a->act ? IN_ACT + (uint32_t)a->act->kind : IN_PLAIN;
    uint32_t epi = a->gate ? EPI_ADD_GATED : a->res ? EPI_ADD : EPI_STORE;

    uint32_t step = linear_piece(caps, w);
    if (step == 0) {
        cmd_fail(c, "a weight row of %u bytes is longer than a binding of this device (%llu bytes)",
                 w->row_q * 16, (unsigned long long)caps->max_range);
        return;
    }
    for (uint32_t row = 0; row < w->n_out; row += step) {
        uint32_t n = min_u32(step, w->n_out - row);
        struct push_linear p = {
            .n_in = w->n_in, .n_out = n, .n_tok = n_tok, .row_q = w->row_q,
            .x_stride = a->x.stride, .x_col = a->x.col,
            .y_stride = a->y.stride, .y_col = a->y.col + row,
            .res_stride = res.stride, .res_col = res.col + row,
            .gate_stride = gate.stride, .gate_col = gate.col, .eps = a->eps,
            .limit = a->act ? a->act->limit : 0,
        };
        struct grid g = GRID(div_up(n, t.rows), div_up(n_tok, t.toks_per_group), 1);
        cmd_work(c, 2.0 * n * w->n_in * n_tok);
        if (path->kernel == K_linear)
            cmd_dispatch(c, K_linear, g, SPEC(t.wg, w->dtype, epi, t.rows, t.toks, in), PUSH(p),
                         USES(READ(linear_rows(w, row, n)), READ(a->x), WRITE(a->y), READ(res),
                              READ(gate), READ(norm), READ(linear_grid(w))));
        else
            cmd_dispatch(c, path->kernel, g, SPEC(t.wg, w->dtype, epi, t.rows, t.toks), PUSH(p),
                         USES(READ(linear_rows(w, row, n)), READ(a->x), WRITE(a->y), READ(res),
                              READ(gate), READ(res), READ(res), READ(linear_grid(w))));
    }
}

tensor op_norm(struct cmd *c, tensor x, tensor w, float eps)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor y = cmd_scratch(c, F32, x.n, x.n_row);
    struct push_norm p = {
        .n = x.n, .x_stride = x.stride, .x_col = x.col, .y_stride = y.stride, .eps = eps,
    };
    uint32_t wg = wg_size(caps, 128);
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_norm, GRID(x.n_row, 1, 1), SPEC(wg), PUSH(p),
                 USES(READ(x), READ(w), WRITE(y)));
    return y;
}

/* Does b begin where a ends, as rows of one matrix? */
static bool follows(const linear *a, const linear *b)
{
    return a->arena == b->arena && a->dtype == b->dtype && a->n_in == b->n_in &&
           a->offset + (uint64_t)a->n_out * a->row_q * 16 == b->offset;
}

/* A pass of its own: only older Nemotron-H files have biases. */
static void add_bias(struct cmd *c, tensor y, const linear *w)
{
    if (!w->bias.arena || cmd_failed(c))
        return;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    struct push_bias p = { .n = y.n, .n_row = y.n_row, .y_stride = y.stride, .y_col = y.col };
    cmd_dispatch(c, K_bias, GRID(div_up(y.n * y.n_row, wg), 1, 1), SPEC(wg), PUSH(p),
                 USES(BOTH(y), READ(w->bias)));
}

/* Adds B (A x) of every matrix that has it to its product in y, where they stand side by side; gate
 * as in struct linear_args. An A that several share is multiplied once, B that lie together are one
 * dispatch. */
static void add_lora(struct cmd *c, const struct linear_path *path, tensor x,
                     const linear *const *w, uint32_t n_w, tensor y, const tensor *gate)
{
    const struct lora *had = NULL;
    tensor t = x;
    for (uint32_t i = 0, col = 0; i < n_w;) {
        const struct lora *l = w[i]->lora;
        if (!l) {
            col += w[i++]->n_out;
            continue;
        }
        if (!had || had->a.offset != l->a.offset) {
            t = cmd_scratch(c, F32, l->a.n_out, x.n_row);
            linear_by(c, path, &(struct linear_args){ .x = x, .w = &l->a, .y = t });
        }
        had = l;
        linear run = l->b;
        for (i++; i < n_w && w[i]->lora; i++) {
            l = w[i]->lora;
            if (l->a.offset != had->a.offset || !follows(&run, &l->b))
                break;
            run.n_out += l->b.n_out;
        }
        tensor to = tensor_cols(y, col, run.n_out);
        linear_by(c, path, &(struct linear_args){ .x = t, .w = &run, .y = to, .res = &to,
                                                  .gate = gate });
        col += run.n_out;
    }
}

static bool any_lora(const linear *const *w, uint32_t n_w)
{
    for (uint32_t i = 0; i < n_w; i++)
        if (w[i]->lora)
            return true;
    return false;
}

/* W_i h side by side, runs of matrices that lie together as one; norm as in struct linear_args, not
 * where a matrix has an adapter. */
static tensor side_by_side(struct cmd *c, const struct linear_path *path, tensor h,
                           const tensor *norm, float eps, const linear *const *w, uint32_t n_w)
{
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n_w; i++)
        n_out += w[i]->n_out;
    tensor y = cmd_scratch(c, F32, n_out, h.n_row);
    for (uint32_t i = 0, col = 0; i < n_w;) {
        linear run = *w[i];
        uint32_t first = i++;
        while (i < n_w && follows(&run, w[i]))
            run.n_out += w[i++]->n_out;
        linear_by(c, path, &(struct linear_args){ .x = h, .w = &run, .norm = norm, .eps = eps,
                                                  .y = tensor_cols(y, col, run.n_out) });
        for (; first < i; col += w[first++]->n_out)
            add_bias(c, tensor_cols(y, col, w[first]->n_out), w[first]);
    }
    add_lora(c, path, h, w, n_w, y, NULL);
    return y;
}

tensor op_norm_linear(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                      uint32_t n_w)
{
    const struct linear_path *path = path_pick(gpu_caps(cmd_gpu(c)), x.n_row);
    if (path->fuses && !any_lora(w, n_w))
        return side_by_side(c, path, x, &norm, eps, w, n_w);
    return side_by_side(c, path, op_norm(c, x, norm, eps), NULL, 0, w, n_w);
}

tensor op_linear(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w)
{
    return side_by_side(c, path_pick(gpu_caps(cmd_gpu(c)), x.n_row), x, NULL, 0, w, n_w);
}

static tensor linear_add(struct cmd *c, tensor x, const linear *w, tensor res, const tensor *gate,
                         const struct act *act)
{
    const struct linear_path *path = path_pick(gpu_caps(cmd_gpu(c)), x.n_row);
    bool fused = act && path->fuses && !w->lora;
    if (act && !fused)
        x = op_act(c, x, *act);
    tensor y = cmd_scratch(c, F32, w->n_out, x.n_row);
    linear_by(c, path, &(struct linear_args){ .x = x, .w = w, .y = y, .res = &res, .gate = gate,
                                              .act = fused ? act : NULL });
    add_bias(c, y, w);
    add_lora(c, path, x, &w, 1, y, gate);
    return y;
}

tensor op_linear_add(struct cmd *c, tensor x, const linear *w, tensor res)
{
    return linear_add(c, x, w, res, NULL, NULL);
}

tensor op_act_linear_add(struct cmd *c, tensor x, struct act act, const linear *w, tensor res,
                         const tensor *gate)
{
    return linear_add(c, x, w, res, gate, &act);
}

tensor op_act(struct cmd *c, tensor x, struct act act)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n_ff = x.n / act_width(act), wg = wg_size(caps, 128);
    tensor y = cmd_scratch(c, F32, n_ff, x.n_row);
    struct push_act p = {
        .n_ff = n_ff, .n_row = x.n_row, .x_stride = x.stride, .x_col = x.col,
        .y_stride = y.stride, .limit = act.limit,
    };
    cmd_work(c, 8.0 * n_ff * x.n_row);
    cmd_dispatch(c, K_act, GRID(div_up(n_ff / 4 * x.n_row, wg), 1, 1), SPEC(wg, act.kind), PUSH(p),
                 USES(READ(x), WRITE(y)));
    return y;
}

/* ---- experts --------------------------------------------------------------------------------- */

uint32_t linear_group_tile(const struct gpu_caps *caps, uint32_t n_row)
{
    const struct linear_path *path = path_pick(caps, UINT32_MAX);
    return path->kernel == K_linear ? 0 : tile_of(path, caps, F32, n_row).toks_per_group;
}

/* add: the product is added to what y holds. */
static void grouped_product(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor y,
                            const struct grouping *g, bool add)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = path_pick(caps, UINT32_MAX);
    struct tile t = tile_of(path, caps, w->dtype, g->n_row);
    linear all = *w;                    /* an expert is the unit of a piece */
    all.n_out = w->n_expert;
    all.row_q = w->row_q * w->n_out;
    uint32_t step = linear_piece(caps, &all);
    for (uint32_t e = 0; step && e < w->n_expert; e += step) {
        uint32_t n = min_u32(step, w->n_expert - e);
        struct push_linear p = {
            .n_in = w->n_in, .n_out = w->n_out, .n_tok = y.n_row, .row_q = w->row_q,
            .x_stride = x.stride, .x_col = x.col, .y_stride = y.stride, .y_col = y.col,
            .res_stride = y.stride, .res_col = y.col, .n_used = g->n_used, .expert0 = e,
            .n_expert = n,
        };
        tensor rows = linear_rows(&all, e, n);
        struct grid grid = GRID(div_up(w->n_out, t.rows), g->max_tile, 1);
        cmd_work(c, 2.0 * w->n_in * w->n_out * y.n_row * n / w->n_expert);
        cmd_dispatch(c, path->kernel, grid,
                     SPEC(t.wg, w->dtype, add ? EPI_ADD : EPI_STORE, t.rows, t.toks,
                          by_entry ? 2 : 1), PUSH(p),
                     USES(READ(rows), READ(x), WRITE(y), READ(add ? y : x), READ(x),
                          READ(g->entries), READ(g->tiles), READ(linear_grid(w))));
    }
    if (!step)
        cmd_fail(c, "an expert of %u bytes is larger than a binding of this device",
                 all.row_q * 16);
}

void linear_grouped(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor y,
                    const struct grouping *g)
{
    grouped_product(c, w, x, by_entry, y, g, false);
    if (!w->lora)
        return;
    tensor t = cmd_scratch(c, F32, w->lora->a.n_out, y.n_row);
    grouped_product(c, &w->lora->a, x, by_entry, t, g, false);
    grouped_product(c, &w->lora->b, t, true, y, g, true);
}
