/* op_linear: y = W x on packed weights, alone or with the norm before and the residual behind it.
 *
 * Owns the table of matrix kernels and the cutting of a matrix into pieces that a binding may span.
 *
 * Operands are f32, or f16 where the cmd allows that: the model's own weights rounded (those of F32
 * matrices to the sum of two), and each row of what they are multiplied with times a power of two
 * that brings it into f16's range. Sums are f32, and so is all of the products that make recurrent
 * gates or choose experts (linear.n_exact), and of adapters: their factors' products, their
 * gradients. On matrix units f16 is many times as fast; elsewhere it gains nothing, and its path is
 * there for comparison.
 *
 * Formulas: RMSNorm (Zhang and Sennrich, arXiv 1910.07467). */
#include "ops/op.h"

/* First fit wins. CPU devices have no faster memory than a load, so they take lanes as
 * tokens early. */
const struct linear_path linear_paths[] = {
    { "coop", K_linear_coop, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "tile, f16", K_linear_tile, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "cols", K_linear_cols, CPU_ONLY, 5, UINT32_MAX, false, false },
    { "tile", K_linear_tile, NOT_CPU, 9, UINT32_MAX, false, false },
    { "rows", K_linear, CPU_ONLY, 1, UINT32_MAX, false, false },
    { "rows, fused", K_linear, NOT_CPU, 1, UINT32_MAX, true, false },
};
const uint32_t n_linear_path = ARRAY_LEN(linear_paths);

const struct linear_path linear_bwd_paths[] = {
    { "coop", K_linear_coop_bwd, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "tile, f16", K_linear_tile_bwd, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "tile", K_linear_tile_bwd, NOT_CPU, 9, UINT32_MAX, false, false },
    { "cols", K_linear_cols_bwd, ANY_DEVICE, 1, UINT32_MAX, false, false },
};
const uint32_t n_linear_bwd_path = ARRAY_LEN(linear_bwd_paths);

enum { EPI_STORE, EPI_ADD, EPI_ADD_GATED }; /* shaders/linear.glsl */
enum { IN_PLAIN, IN_NORM, IN_ACT };         /* shaders/linear.comp; the kind is added */

/* Workgroup memory: what linear_tile and linear_coop ask for, the latter's widest tile. */
enum { TILE_SHARED = 32 << 10, COOP_WIDE_SHARED = 40 << 10 };

static bool is_tile(enum kernel k) { return k == K_linear_tile || k == K_linear_tile_bwd; }
static bool is_coop(enum kernel k) { return k == K_linear_coop || k == K_linear_coop_bwd; }

bool linear_f16_pays(const struct gpu_caps *caps) { return caps->coop.m && caps->kind != GPU_CPU; }

bool linear_path_runs(const struct gpu_caps *caps, const struct linear_path *path)
{
    bool many = is_tile(path->kernel) || is_coop(path->kernel);
    return (!many || caps->max_shared >= TILE_SHARED) && (!is_coop(path->kernel) || caps->coop.m);
}

static const struct linear_path *path_of(const struct linear_path *paths, uint32_t n,
                                         const struct gpu_caps *caps, uint32_t n_tok, bool f16)
{
    for (const struct linear_path *p = paths; p < paths + n; p++) {
        bool fits = p->device == ANY_DEVICE || (p->device == CPU_ONLY) == (caps->kind == GPU_CPU);
        if (fits && n_tok >= p->min_tok && n_tok <= p->max_tok && (f16 || !p->f16) &&
            linear_path_runs(caps, p))
            return p;
    }
    return &paths[n - 1]; /* no tokens: recording has failed */
}

static const struct linear_path *path_pick(struct cmd *c, uint32_t n_tok, bool f16)
{
    return path_of(linear_paths, n_linear_path, gpu_caps(cmd_gpu(c)), n_tok, f16);
}

static const struct linear_path *bwd_pick(struct cmd *c, uint32_t n_tok, bool f16)
{
    return path_of(linear_bwd_paths, n_linear_bwd_path, gpu_caps(cmd_gpu(c)), n_tok, f16);
}

/* Workgroup; rows that it owns; tokens that a lane (K_linear and coop.glsl: the workgroup) and the
 * workgroup own. */
struct tile {
    uint32_t wg, rows, toks, toks_per_group;
};

/* Of coop.glsl: lanes of a workgroup, and tokens that leave each of them 64 sums at most. */
static uint32_t coop_wg(const struct gpu_caps *caps)
{
    return min_u32(256, 8 * caps->coop.subgroup);
}
static uint32_t coop_toks(const struct gpu_caps *caps) { return max_u32(16, coop_wg(caps) / 2); }

/* Of the kernels that take tiles through workgroup memory, forward and backward. */
static struct tile shared_tile(const struct linear_path *p, const struct gpu_caps *caps,
                               uint32_t n_tok)
{
    uint32_t toks = n_tok >= 48 ? 64 : n_tok >= 24 ? 32 : 16;
    if (!is_coop(p->kernel))
        return (struct tile){ 128, 128, toks / 8, toks };
    if (n_tok >= 96 && caps->max_shared >= COOP_WIDE_SHARED)
        toks = 128;
    toks = min_u32(toks, coop_toks(caps));
    return (struct tile){ coop_wg(caps), 128, toks, toks };
}

/* What the kernels of many tokens share: constants 3 and 4 are rows and tokens of a tile, 5 is
 * linear_many.glsl's. */
static struct spec many_spec(const struct linear_path *p, const struct gpu_caps *caps,
                             struct tile t, enum dtype dtype, uint32_t how, uint32_t grouped)
{
    struct spec s = SPEC(t.wg, dtype, how, t.rows, t.toks, grouped, p->f16);
    if (is_coop(p->kernel)) {
        s.v[7] = caps->coop.m;
        s.v[8] = caps->coop.n;
        s.v[9] = caps->coop.k;
        s.v[SPEC_SUBGROUPS] = t.wg / caps->coop.subgroup;
    }
    return s;
}

/* Rows of x as halves.comp makes them; of a path that takes f32 x itself. */
static tensor operand(struct cmd *c, const struct linear_path *p, tensor x)
{
    if (!p->f16 || cmd_failed(c))
        return x;
    tensor h = cmd_scratch(c, I32, (uint32_t)align_up(x.n, 64) / 2 + 4, x.n_row);
    struct push_halves push = {
        .n = x.n, .n_row = x.n_row, .x_stride = x.stride, .x_col = x.col, .h_stride = h.stride
    };
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_halves, row_grid(1, x.n_row, 1), SPEC(wg_size(gpu_caps(cmd_gpu(c)), 128)),
                 PUSH(push), USES(READ(x), WRITE(h)));
    return h;
}

static struct tile tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                           enum dtype dtype, uint32_t n_out, uint32_t n_tok)
{
    /* A CPU device compiles every unrolled load at some cost: fewer rows of the types
     * that take many. */
    uint32_t n_grid;
    bool cpu = caps->kind == GPU_CPU, plain = dtype == F32 || dtype == F16 || dtype == BF16;
    uint32_t cpu_rows = plain || dtype_grid(dtype, &n_grid) ? 4 : 8;
    if (p->kernel != K_linear && p->kernel != K_linear_cols)
        return shared_tile(p, caps, n_tok);
    if (p->kernel == K_linear_cols) {
        uint32_t toks = n_tok > 2 * caps->subgroup ? 4 : n_tok > caps->subgroup ? 2 : 1;
        /* 32 rows; of factors that have no more, fewer */
        uint32_t wg = caps->subgroup, rows = wg < 8 ? 4 * wg : max_u32(32, wg);
        while (dtype == F32 && rows > wg && rows / 2 >= n_out)
            rows /= 2;
        return (struct tile){ wg, rows, toks, toks * wg };
    }
    uint32_t cols = n_tok >= 4 ? 4 : n_tok >= 2 ? 2 : 1;
    return (struct tile){ wg_size(caps, 64), cpu ? cpu_rows : 2, cols, cols };
}

tensor linear_rows(const linear *w, uint64_t row0, uint32_t n)
{
    return (tensor){ .arena = w->arena,
                     .offset = w->offset + row0 * w->row_q * 16,
                     .dtype = I32,
                     .n = w->row_q * 4,
                     .n_row = n,
                     .stride = w->row_q * 4 };
}

tensor linear_grid(const linear *w)
{
    uint32_t n = 0;
    if (!dtype_grid(w->dtype, &n))
        return linear_rows(w, 0, 1);
    return (tensor){
        .arena = w->arena, .offset = w->grid, .dtype = I32, .n = n, .n_row = 1, .stride = n
    };
}

/* So many rows lead from where a binding may begin to where the next one may. */
static uint32_t row_unit(const struct gpu_caps *caps, const linear *w)
{
    uint32_t row = w->row_q * 16, even = row & (0 - row);
    return caps->align > even ? caps->align / even : 1;
}

uint32_t linear_piece(const struct gpu_caps *caps, const linear *w)
{
    uint64_t fit = caps->max_range / (w->row_q * 16ull), unit = row_unit(caps, w);
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
    struct tile t = tile_of(path, caps, w->dtype, w->n_out, n_tok);
    tensor x = a->halves ? *a->halves : operand(c, path, a->x);
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
            .n_in = w->n_in,
            .n_out = n,
            .n_tok = n_tok,
            .row_q = w->row_q,
            .x_stride = x.stride,
            .x_col = x.col,
            .y_stride = a->y.stride,
            .y_col = a->y.col + row,
            .res_stride = res.stride,
            .res_col = res.col + row,
            .gate_stride = gate.stride,
            .gate_col = gate.col,
            .eps = a->eps,
            .limit = a->act ? a->act->limit : 0,
        };
        struct grid g = GRID(div_up(n, t.rows), div_up(n_tok, t.toks_per_group), 1);
        cmd_work(c, 2.0 * n * w->n_in * n_tok);
        if (path->kernel == K_linear)
            cmd_dispatch(c, K_linear, g, SPEC(t.wg, w->dtype, epi, t.rows, t.toks, in), PUSH(p),
                         USES(READ(linear_rows(w, row, n)), READ(a->x), WRITE(a->y), READ(res),
                              READ(gate), READ(norm), READ(linear_grid(w))));
        else
            cmd_dispatch(c, path->kernel, g, many_spec(path, caps, t, w->dtype, epi, 0), PUSH(p),
                         USES(READ(linear_rows(w, row, n)), READ(x), WRITE(a->y), READ(res),
                              READ(gate), READ(res), READ(res), READ(linear_grid(w))));
    }
}

/* ---- backward of a product ------------------------------------------------------------------- */

enum {
    BWD_ROWS = 16384
}; /* of W in one dispatch: an invocation walks over all of them, and
      gpu_caps.loop_budget is not far */

static struct tile bwd_tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                               uint32_t n_tok)
{
    uint32_t wg = wg_size(caps, 64);
    if (p->kernel != K_linear_cols_bwd)
        return shared_tile(p, caps, n_tok);
    uint32_t toks = n_tok > 2 * wg ? 4 : n_tok > wg ? 2 : 1;
    return (struct tile){ wg, 0, toks, toks * wg };
}

/* May four numbers of a row be loaded at once? */
static bool in_quads(tensor t) { return t.stride % 4 == 0 && t.col % 4 == 0; }

/* dX of the rows of W that are bound, which are a matrix or, with g, experts of it. */
static void bwd_dispatch(struct cmd *c, const struct linear_path *path, struct tile t,
                         const linear *w, tensor rows, tensor dy, tensor dx,
                         struct push_linear_bwd p, const struct grouping *g)
{
    /* of factors that have no more, fewer columns */
    uint32_t quads = w->dtype != F32 || w->n_in > 16 ? 8 : w->n_in > 8 ? 4 : 2;
    uint32_t cols = t.rows ? t.rows : 4 * quads, grouped = g ? 2 : 0;
    struct spec spec =
        t.rows ? many_spec(path, gpu_caps(cmd_gpu(c)), t, w->dtype, in_quads(dy), grouped)
               : SPEC(t.wg, w->dtype, in_quads(dy), quads, t.toks, grouped);
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
    HLM_ASSERT(dy.n == w->n_out && dx.n == w->n_in && dy.n_row == dx.n_row && in_quads(dx));
    uint32_t step = min_u32(linear_piece(caps, w), BWD_ROWS);
    if (step == 0)
        cmd_fail(c, "a weight row of %u bytes is longer than a binding of this device",
                 w->row_q * 16);
    for (uint32_t row = 0; step && row < w->n_out; row += step) {
        uint32_t n = min_u32(step, w->n_out - row);
        tensor part = operand(c, path, tensor_cols(dy, row, n));
        cmd_work(c, 2.0 * n * w->n_in * dy.n_row);
        bwd_dispatch(c, path, bwd_tile_of(path, caps, dy.n_row), w, linear_rows(w, row, n), part,
                     dx, (struct push_linear_bwd){ .n_out = n, .n_tok = dy.n_row }, NULL);
    }
}

void linear_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx)
{
    linear_bwd_by(c, bwd_pick(c, dy.n_row, cmd_f16(c)), w, dy, dx);
}

/* Parts of a sum over tokens that run side by side, where there are not workgroups enough without;
 * by sizes alone. */
static uint32_t outer_splits(const struct gpu_caps *caps, uint32_t n_group, uint32_t n_tok)
{
    uint32_t want = caps->kind == GPU_CPU ? 8 : 512;
    return min_u32(div_up(want, n_group), div_up(n_tok, 128));
}

/* dw: rows of w, of all experts that are bound where g is not NULL. x by token or by entry. */
static void outer_dispatch(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor dy,
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
        SPEC(wg, rows, turned, in_quads(l) | in_quads(s) << 1, split, g ? by_entry ? 2 : 1 : 0),
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
        outer_dispatch(c, &part, x, false, tensor_cols(dy, row, part.n_out),
                       tensor_rows(dw, row, part.n_out), NULL, 0, 1);
    }
}

/* Rows [row0, row0 + n) as a matrix; a binding may begin at row0. */
static linear rows_of(linear w, uint32_t row0, uint32_t n)
{
    w.offset += (uint64_t)row0 * w.row_q * 16;
    w.n_out = n;
    return w;
}

/* t[0]: x, t[1]: y, p[0]: the first matrix of a run; u: its rows that were multiplied, whether by
 * f16 operands, the first of them */
static void product_bwd(struct cmd *c, const struct tape_rec *r)
{
    linear w = rows_of(*(const linear *)r->p[0], r->u[2], r->u[0]);
    tensor dy = grad(c, r->t[1]), dx = grad(c, r->t[0]), dw = grad(c, linear_rows(&w, 0, w.n_out));
    if (dx.arena)
        linear_bwd_by(c, bwd_pick(c, dy.n_row, r->u[1]), &w, dy, dx);
    if (dw.arena)
        linear_outer(c, &w, r->t[0], dy, dw);
}

/* linear_by of rows from row0 on, on the tape; `first` is where the matrices stand that they are
 * of. */
static void product_rows(struct cmd *c, const struct linear_path *path, const struct linear_args *a,
                         const linear *first, uint32_t row0)
{
    linear_by(c, path, a);
    tape_push(c, (struct tape_rec){ product_bwd, .t = { a->x, a->y }, .p = { first },
                                    .u = { a->w->n_out, path->f16, row0 } });
}

static void product(struct cmd *c, const struct linear_path *path, const struct linear_args *a,
                    const linear *first)
{
    product_rows(c, path, a, first, 0);
}

void op_accumulate(struct cmd *c, tensor y, tensor x)
{
    if (cmd_failed(c))
        return;
    HLM_ASSERT(x.n == y.n && x.n_row == y.n_row);
    uint32_t quads = in_quads(x) && in_quads(y) && x.n % 4 == 0;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    struct push_add p = { .n = x.n,
                          .n_row = x.n_row,
                          .x_stride = x.stride,
                          .x_col = x.col,
                          .y_stride = y.stride,
                          .y_col = y.col };
    cmd_dispatch(c, K_add, row_grid(x.n / (quads ? 4 : 1), x.n_row, wg), SPEC(wg, quads), PUSH(p),
                 USES(READ(x), BOTH(y)));
}

/* y = t[0] + something: t[1] */
static void residual_bwd(struct cmd *c, const struct tape_rec *r)
{
    tensor d = grad(c, r->t[0]);
    if (d.arena)
        op_accumulate(c, d, grad(c, r->t[1]));
}

/* ---- norm ------------------------------------------------------------------------------------ */

/* t: x, w, y; f[0]: eps */
static void norm_bwd(struct cmd *c, const struct tape_rec *r)
{
    tensor x = r->t[0], dy = grad(c, r->t[2]), dx = grad(c, x);
    if (!dx.arena)
        return;
    struct push_norm_bwd p = {
        .n = x.n,
        .x_stride = x.stride,
        .x_col = x.col,
        .dy_stride = dy.stride,
        .dy_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .eps = r->f[0],
    };
    cmd_work(c, 10.0 * x.n * x.n_row);
    cmd_dispatch(c, K_norm_bwd, GRID(x.n_row, 1, 1), SPEC(wg_size(gpu_caps(cmd_gpu(c)), 128)),
                 PUSH(p), USES(READ(x), READ(r->t[1]), READ(dy), BOTH(dx)));
}

tensor op_norm(struct cmd *c, tensor x, tensor w, float eps)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor y = cmd_scratch(c, F32, x.n, x.n_row);
    struct push_norm p = {
        .n = x.n,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .eps = eps,
    };
    uint32_t wg = wg_size(caps, 128);
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_norm, GRID(x.n_row, 1, 1), SPEC(wg), PUSH(p),
                 USES(READ(x), READ(w), WRITE(y)));
    tape_push(c, (struct tape_rec){ norm_bwd, .t = { x, w, y }, .f = { eps } });
    return y;
}

/* ---- low-rank factors ------------------------------------------------------------------------ */

/* y = x with units left out, as the counter generator says for `id`; add: is added to y. Row r of y
 * is of row r / n_used of x. */
static void dropout(struct cmd *c, tensor x, uint32_t id, uint32_t n_used, tensor y, bool add)
{
    const struct dropout *d = tape_dropout(c);
    if (cmd_failed(c))
        return;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    struct push_dropout p = {
        .n = x.n,
        .n_row = y.n_row,
        .id = id,
        .below = (uint32_t)((double)d->p * 0x1p32),
        .scale = 1 / (1 - d->p),
        .n_used = n_used,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .y_col = y.col,
    };
    cmd_work(c, 30.0 * x.n * y.n_row);
    cmd_dispatch(c, K_dropout, row_grid(x.n / 4, y.n_row, wg), SPEC(wg, add), PUSH(p),
                 USES(READ(x), BOTH(y), READ(d->key)));
}

/* t: x, y; u[0]: id */
static void dropout_bwd(struct cmd *c, const struct tape_rec *r)
{
    tensor dx = grad(c, r->t[0]);
    if (dx.arena)
        dropout(c, grad(c, r->t[1]), r->u[0], 1, dx, true);
}

/* What goes into A of l instead of x; by entry with n_used. */
static tensor dropped(struct cmd *c, tensor x, const struct lora *l, uint32_t n_used)
{
    if (!tape_dropout(c))
        return x;
    tensor y = cmd_scratch(c, F32, x.n, x.n_row * n_used);
    dropout(c, x, l->id, n_used, y, false);
    return y;
}

/* ---- products -------------------------------------------------------------------------------- */

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
    cmd_dispatch(c, K_bias, row_grid(y.n, y.n_row, wg), SPEC(wg), PUSH(p),
                 USES(BOTH(y), READ(w->bias)));
}

/* Adds B (A x) of every matrix that has it to its product in y, where they stand side by side; gate
 * as in struct linear_args. An A that several share is multiplied once, B that lie together are one
 * dispatch. */
static void add_lora(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w, tensor y,
                     const tensor *gate)
{
    const struct linear_path *path = path_pick(c, x.n_row, false);
    const struct lora *had = NULL;
    tensor t = x;
    for (uint32_t i = 0, col = 0; i < n_w;) {
        const struct lora *l = w[i]->lora;
        if (!l) {
            col += w[i++]->n_out;
            continue;
        }
        if (!had || had->a.offset != l->a.offset) {
            tensor in = dropped(c, x, l, 1);
            if (tape_dropout(c))
                tape_push(c, (struct tape_rec){ dropout_bwd, .t = { x, in }, .u = { l->id } });
            t = cmd_scratch(c, F32, l->a.n_out, x.n_row);
            product(c, path, &(struct linear_args){ .x = in, .w = &l->a, .y = t }, &l->a);
        }
        const linear *first = &l->b;
        linear run = l->b;
        had = l;
        for (i++; i < n_w && w[i]->lora; i++) {
            l = w[i]->lora;
            if (l->a.offset != had->a.offset || !follows(&run, &l->b))
                break;
            run.n_out += l->b.n_out;
        }
        tensor to = tensor_cols(y, col, run.n_out);
        product(c, path,
                &(struct linear_args){ .x = t, .w = &run, .y = to, .res = &to, .gate = gate },
                first);
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

/* Whether w goes into a run whose last n_exact rows are multiplied in f32, which are the last then
 * as well; moves n_exact on. */
static bool joins(const linear *run, uint32_t *n_exact, const linear *w)
{
    bool all = w->n_exact == w->n_out;
    if (!follows(run, w) || (*n_exact && !all))
        return false;
    *n_exact = all ? *n_exact + w->n_out : w->n_exact;
    return true;
}

/* W_i h side by side, runs of matrices that lie together as one; norm as in struct linear_args, not
 * where a matrix has an adapter. */
static tensor side_by_side(struct cmd *c, const struct linear_path *path, tensor h,
                           const tensor *norm, float eps, const linear *const *w, uint32_t n_w)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n_w; i++)
        n_out += w[i]->n_out;
    tensor y = cmd_scratch(c, F32, n_out, h.n_row), halves = { 0 };
    for (uint32_t i = 0, col = 0; i < n_w;) {
        linear run = *w[i];
        uint32_t first = i++, n_exact = run.n_exact;
        while (i < n_w && (path->f16 ? joins(&run, &n_exact, w[i]) : follows(&run, w[i])))
            run.n_out += w[i++]->n_out;
        if (path->f16 && n_exact) { /* and what must go with them for the binding's sake */
            uint32_t unit = row_unit(caps, &run), all = (run.n_out - n_exact) / unit * unit;
            linear tail = rows_of(run, all, run.n_out - all);
            product_rows(c, path_pick(c, h.n_row, false),
                         &(struct linear_args){
                             .x = h, .w = &tail, .y = tensor_cols(y, col + all, tail.n_out) },
                         w[first], all);
            run.n_out = all;
        }
        if (run.n_out && path->f16 && !halves.arena)
            halves = operand(c, path, h);
        if (run.n_out)
            product(c, path,
                    &(struct linear_args){ .x = h,
                                           .halves = path->f16 ? &halves : NULL,
                                           .w = &run,
                                           .norm = norm,
                                           .eps = eps,
                                           .y = tensor_cols(y, col, run.n_out) },
                    w[first]);
        for (; first < i; col += w[first++]->n_out)
            add_bias(c, tensor_cols(y, col, w[first]->n_out), w[first]);
    }
    add_lora(c, h, w, n_w, y, NULL);
    return y;
}

tensor op_norm_linear(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                      uint32_t n_w)
{
    const struct linear_path *path = path_pick(c, x.n_row, cmd_f16(c));
    if (path->fuses && !any_lora(w, n_w) && !tape_trains(c))
        return side_by_side(c, path, x, &norm, eps, w, n_w);
    return side_by_side(c, path, op_norm(c, x, norm, eps), NULL, 0, w, n_w);
}

tensor op_linear(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w)
{
    return side_by_side(c, path_pick(c, x.n_row, cmd_f16(c)), x, NULL, 0, w, n_w);
}

/* t: x, gate, y, whose gradient goes to both */
static void gate_add_bwd(struct cmd *c, const struct tape_rec *r)
{
    tensor x = r->t[0], gate = r->t[1], dy = grad(c, r->t[2]), dx = grad(c, x);
    tensor dgate = grad(c, gate);
    if (cmd_failed(c))
        return;
    struct push_gate p = {
        .n = x.n,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .gate_stride = gate.stride,
        .gate_col = gate.col,
        .y_stride = dy.stride,
        .y_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .dgate_stride = dgate.stride,
        .dgate_col = dgate.col,
    };
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_gate_add_bwd, GRID(x.n_row, 1, 1), SPEC(wg_size(gpu_caps(cmd_gpu(c)), 128)),
                 PUSH(p), USES(READ(x), READ(gate), READ(dy), BOTH(dx), BOTH(dgate)));
}

/* res + sigmoid(gate[t]) * x[t]: a product's epilogue where it is to be undone, which needs x. */
static tensor gate_add(struct cmd *c, tensor x, tensor gate, tensor res)
{
    tensor y = cmd_scratch(c, F32, x.n, x.n_row);
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    if (cmd_failed(c))
        return y;
    struct push_gate p = {
        .n = x.n,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .gate_stride = gate.stride,
        .gate_col = gate.col,
        .y_stride = y.stride,
        .res_stride = res.stride,
        .res_col = res.col,
    };
    cmd_work(c, 2.0 * x.n * x.n_row);
    cmd_dispatch(c, K_gate_add, row_grid(x.n, x.n_row, wg), SPEC(wg), PUSH(p),
                 USES(READ(x), READ(gate), READ(res), WRITE(y)));
    tape_push(c, (struct tape_rec){ gate_add_bwd, .t = { x, gate, y } });
    return y;
}

static tensor linear_add(struct cmd *c, tensor x, const linear *w, tensor res, const tensor *gate,
                         const struct act *act)
{
    const struct linear_path *path = path_pick(c, x.n_row, cmd_f16(c));
    bool fused = act && path->fuses && !w->lora && !tape_trains(c);
    if (act && !fused)
        x = op_act(c, x, *act);
    tensor y;
    if (gate && tape_trains(c)) {
        y = gate_add(c, side_by_side(c, path, x, NULL, 0, &w, 1), *gate, res);
    } else {
        y = cmd_scratch(c, F32, w->n_out, x.n_row);
        product(c, path,
                &(struct linear_args){
                    .x = x, .w = w, .y = y, .res = &res, .gate = gate, .act = fused ? act : NULL },
                w);
        add_bias(c, y, w);
        add_lora(c, x, &w, 1, y, gate);
    }
    tape_push(c, (struct tape_rec){ residual_bwd, .t = { res, y } });
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

/* t: x, y; u[0]: kind, f[0]: limit */
static void act_bwd(struct cmd *c, const struct tape_rec *r)
{
    tensor x = r->t[0], dy = grad(c, r->t[1]), dx = grad(c, x);
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    if (!dx.arena)
        return;
    struct push_act_bwd p = {
        .n_ff = dy.n,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .dy_stride = dy.stride,
        .dy_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .limit = r->f[0],
    };
    cmd_work(c, 20.0 * dy.n * x.n_row);
    cmd_dispatch(c, K_act_bwd, row_grid(dy.n / 4, x.n_row, wg), SPEC(wg, r->u[0]), PUSH(p),
                 USES(READ(x), READ(dy), BOTH(dx)));
}

tensor op_act(struct cmd *c, tensor x, struct act act)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n_ff = x.n / act_width(act), wg = wg_size(caps, 128);
    tensor y = cmd_scratch(c, F32, n_ff, x.n_row);
    struct push_act p = {
        .n_ff = n_ff,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .limit = act.limit,
    };
    cmd_work(c, 8.0 * n_ff * x.n_row);
    cmd_dispatch(c, K_act, row_grid(n_ff / 4, x.n_row, wg), SPEC(wg, act.kind), PUSH(p),
                 USES(READ(x), WRITE(y)));
    tape_push(c, (struct tape_rec){ act_bwd, .t = { x, y }, .u = { (uint32_t)act.kind },
                                    .f = { act.limit } });
    return y;
}

/* ---- experts --------------------------------------------------------------------------------- */

uint32_t linear_group_tile(const struct gpu_caps *caps, uint32_t n_row)
{
    const struct linear_path *path = path_of(linear_paths, n_linear_path, caps, UINT32_MAX, false);
    uint32_t toks = 0;
    if (path->kernel != K_linear)
        toks = tile_of(path, caps, F32, 32, n_row).toks_per_group;
    return caps->coop.m ? min_u32(toks, coop_toks(caps)) : toks;
}

/* Of a path that takes f16: of the tile that holds what the f32 paths, for which the entries were
 * grouped, take at once. */
static struct tile grouped_tile(const struct linear_path *p, const struct gpu_caps *caps,
                                struct tile t, const struct grouping *g)
{
    return p->f16 ? shared_tile(p, caps, g->tile > 32 ? 48 : g->tile > 16 ? 24 : 9) : t;
}

/* add: the product is added to what y holds. */
static void grouped_product(struct cmd *c, const linear *w, tensor x, bool by_entry, tensor y,
                            const struct grouping *g, bool add, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = path_pick(c, UINT32_MAX, f16);
    struct tile t = grouped_tile(path, caps, tile_of(path, caps, w->dtype, w->n_out, g->n_row), g);
    x = operand(c, path, x);
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
            many_spec(path, caps, t, w->dtype, add ? EPI_ADD : EPI_STORE, by_entry ? 2 : 1),
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
    tensor in = dropped(c, x, w->lora, by_entry ? 1 : g->n_used);
    grouped_product(c, &w->lora->a, in, by_entry || tape_dropout(c), t, g, false, false);
    grouped_product(c, &w->lora->b, t, true, y, g, true, false);
}

/* dX by entry, added to dx. */
static void grouped_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx,
                        const struct grouping *g, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct linear_path *path = bwd_pick(c, UINT32_MAX, f16);
    struct tile t = grouped_tile(path, caps, bwd_tile_of(path, caps, g->n_row), g);
    dy = operand(c, path, dy);
    linear all = *w; /* an expert is the unit of a piece */
    all.n_out = w->n_expert;
    all.row_q = w->row_q * w->n_out;
    uint32_t step = linear_piece(caps, &all);
    for (uint32_t e = 0; step && e < w->n_expert; e += step) {
        uint32_t n = min_u32(step, w->n_expert - e);
        cmd_work(c, 2.0 * w->n_in * w->n_out * dy.n_row * n / w->n_expert);
        bwd_dispatch(c, path, t, w, linear_rows(&all, e, n), dy, dx,
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
        outer_dispatch(c, w, x, by_entry, dy, tensor_rows(dw, e * w->n_out, n * w->n_out), g, e, n);
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
    tensor in = dropped(c, x, l, by_entry ? 1 : g->n_used);
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
        dropout(c, into, l->id, 1, dx, true);
}
