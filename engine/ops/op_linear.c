/* op_linear: y = W x on packed weights: the ways to compute it, the sizes of their tiles, and the
 * forward product.
 *
 * Operands are f32, or f16 if the cmd allows it (cmd_set_f16). For f16 the model's weights are
 * rounded (a weight of an F32 matrix to the sum of two f16 numbers), and each row of x is
 * multiplied by a power of two that brings it into the range of f16. Sums are always f32. Some
 * products take only f32 operands: those that make recurrent gates or choose experts
 * (linear.n_f32_rows), those with the factors of adapters, and those for the gradients of factors.
 * With matrix units f16 is many times as fast. On other devices it gains nothing and only serves
 * tests. */
#include "ops/op_linear_parts.h"

/* The first path that fits is taken; "each" fits no number of tokens, but takes the place of "rows"
 * where each token must have the bits that it has alone (linear_pick). On a CPU device workgroup
 * memory is not faster than other memory, so its lanes are tokens ("cols") even when there are few
 * of them. */
const struct linear_path linear_paths[] = {
    { "coop", K_linear_coop, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "tile, f16", K_linear_tile, ANY_DEVICE, 9, UINT32_MAX, false, true },
    { "cols", K_linear_cols, CPU_ONLY, 5, UINT32_MAX, false, false },
    { "tile", K_linear_tile, NOT_CPU, 9, UINT32_MAX, false, false },
    { "each", K_linear_each, CPU_ONLY, 1, 0, false, false },
    { "rows", K_linear, CPU_ONLY, 1, UINT32_MAX, false, false },
    { "rows, fused", K_linear, NOT_CPU, 1, UINT32_MAX, true, false },
};
const uint32_t n_linear_path = ARRAY_LEN(linear_paths);

/* Bytes of workgroup memory that linear_tile and linear_coop need, and that the widest tile of
 * linear_coop needs. */
enum { TILE_SHARED = 32 << 10, COOP_WIDE_SHARED = 40 << 10 };

static bool is_tile(enum kernel k) { return k == K_linear_tile || k == K_linear_tile_bwd; }
static bool is_coop(enum kernel k) { return k == K_linear_coop || k == K_linear_coop_bwd; }

bool linear_f16_pays(const struct gpu_caps *caps) { return caps->coop.m && caps->kind != GPU_CPU; }

bool linear_path_runs(const struct gpu_caps *caps, const struct linear_path *path)
{
    bool many = is_tile(path->kernel) || is_coop(path->kernel);
    if (path->kernel == K_linear_each && caps->kind != GPU_CPU) /* it needs whole subgroups */
        return false;
    return (!many || caps->max_shared >= TILE_SHARED) && (!is_coop(path->kernel) || caps->coop.m);
}

const struct linear_path *linear_path_of(const struct linear_path *paths, uint32_t n,
                                         const struct gpu_caps *caps, uint32_t n_tok, bool f16)
{
    for (const struct linear_path *p = paths; p < paths + n; p++) {
        bool fits = p->device == ANY_DEVICE || (p->device == CPU_ONLY) == (caps->kind == GPU_CPU);
        if (fits && n_tok >= p->min_tok && n_tok <= p->max_tok && (f16 || !p->f16) &&
            linear_path_runs(caps, p))
            return p;
    }
    return &paths[n - 1]; /* only after recording has failed, when there are no tokens */
}

const struct linear_path *linear_pick(struct cmd *c, uint32_t n_tok, bool f16)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    if (!cmd_each(c))
        return linear_path_of(linear_paths, n_linear_path, caps, n_tok, f16);
    const struct linear_path *one = linear_path_of(linear_paths, n_linear_path, caps, 1, f16);
    for (const struct linear_path *p = linear_paths; p < one && n_tok > 1; p++)
        if (p->kernel == K_linear_each && linear_path_runs(caps, p))
            return p;
    return one;
}

/* For coop.glsl: the lanes of a workgroup, and the most tokens with which each lane has at most 64
 * sums. */
static uint32_t coop_wg(const struct gpu_caps *caps)
{
    return min_u32(256, 8 * caps->coop.subgroup);
}
uint32_t linear_coop_toks(const struct gpu_caps *caps) { return max_u32(16, coop_wg(caps) / 2); }

/* For the kernels that read tiles through workgroup memory, forward and backward. */
struct linear_tile linear_shared_tile(const struct linear_path *p, const struct gpu_caps *caps,
                                      uint32_t n_tok)
{
    uint32_t toks = n_tok >= 48 ? 64 : n_tok >= 24 ? 32 : 16;
    if (!is_coop(p->kernel))
        return (struct linear_tile){ 128, 128, toks / 8, toks };
    if (n_tok >= 96 && caps->max_shared >= COOP_WIDE_SHARED)
        toks = 128;
    toks = min_u32(toks, linear_coop_toks(caps));
    return (struct linear_tile){ coop_wg(caps), 128, toks, toks };
}

struct spec linear_many_spec(const struct linear_path *p, const struct gpu_caps *caps,
                             struct linear_tile t, enum dtype dtype, enum grouped_by grouped)
{
    struct spec s =
        SPEC(.wg = t.wg, .w_type = dtype, .toks = t.toks, .grouped = grouped, .halves = p->f16);
    if (!is_tile(p->kernel)) /* tiles have their own constant for rows */
        s.rows = t.rows;
    if (is_coop(p->kernel)) {
        s.fm = caps->coop.m;
        s.fn = caps->coop.n;
        s.fk = caps->coop.k;
        s.subgroups = t.wg / caps->coop.subgroup;
    }
    return s;
}

/* The rows of x in f16, made by the kernel `halves`; x itself for a path with f32 operands. */
tensor linear_operand(struct cmd *c, const struct linear_path *p, tensor x)
{
    if (!p->f16 || cmd_failed(c))
        return x;
    tensor h = cmd_scratch(c, I32, (uint32_t)align_up(x.n, 64) / 2 + 4, x.n_row);
    struct push_halves push = {
        .n = x.n, .n_row = x.n_row, .x_stride = x.stride, .x_col = x.col, .h_stride = h.stride
    };
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_halves, row_grid(1, x.n_row, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 128)), PUSH(push),
                 USES(READ(x), WRITE(h)));
    return h;
}

struct linear_tile linear_tile_of(const struct linear_path *p, const struct gpu_caps *caps,
                                  enum dtype dtype, uint32_t n_out, uint32_t n_tok)
{
    /* On a CPU device every unrolled load takes time to compile, so types with many loads get fewer
     * rows. */
    uint32_t n_word;
    bool cpu = caps->kind == GPU_CPU, plain = dtype == F32 || dtype == F16 || dtype == BF16;
    uint32_t cpu_rows = plain || dtype_codebook(dtype, &n_word) ? 4 : 8;
    if (is_tile(p->kernel) || is_coop(p->kernel))
        return linear_shared_tile(p, caps, n_tok);
    if (p->kernel == K_linear_each) {
        uint32_t wg = caps->subgroup, lanes = 1;
        while (lanes < min_u32(n_tok, wg))
            lanes *= 2;
        /* the more, the more seldom x is read; a lane has at most 64 sums */
        uint32_t toks = n_tok > lanes ? 2 : 1, rows = 8 / toks * wg;
        while (rows > wg && rows / 2 >= n_out)
            rows /= 2;
        return (struct linear_tile){ wg, rows, toks, toks * lanes };
    }
    if (p->kernel == K_linear_cols) {
        uint32_t toks = n_tok > 2 * caps->subgroup ? 4 : n_tok > caps->subgroup ? 2 : 1;
        /* 32 rows; fewer for factors that have fewer */
        uint32_t wg = caps->subgroup, rows = wg < 8 ? 4 * wg : max_u32(32, wg);
        while (dtype == F32 && rows > wg && rows / 2 >= n_out)
            rows /= 2;
        return (struct linear_tile){ wg, rows, toks, toks * wg };
    }
    uint32_t cols = n_tok > 4 && !cpu ? 8 : n_tok >= 4 ? 4 : n_tok >= 2 ? 2 : 1;
    return (struct linear_tile){ wg_size(caps, 64), cpu ? cpu_rows : 2, cols, cols };
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

tensor linear_codebook(const linear *w)
{
    uint32_t n = 0;
    if (!dtype_codebook(w->dtype, &n))
        return linear_rows(w, 0, 1);
    return (tensor){
        .arena = w->arena, .offset = w->codebook, .dtype = I32, .n = n, .n_row = 1, .stride = n
    };
}

/* The distance between rows at which a binding may begin. */
uint32_t linear_row_unit(const struct gpu_caps *caps, const linear *w)
{
    uint32_t row = w->row_q * 16, even = row & (0 - row);
    return caps->align > even ? caps->align / even : 1;
}

uint32_t linear_slab_rows(const struct gpu_caps *caps, const linear *w)
{
    uint64_t fit = caps->max_range / (w->row_q * 16ull), unit = linear_row_unit(caps, w);
    return fit >= w->n_out ? w->n_out : (uint32_t)(fit / unit * unit);
}

struct slab slabs_of_rows(struct cmd *c, const linear *w, uint32_t max_rows)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    struct slab s = { .units = *w, .step = min_u32(linear_slab_rows(caps, w), max_rows) };
    if (!s.step)
        cmd_fail(c, "a weight row of %u bytes is longer than a binding of %s (%llu bytes)",
                 w->row_q * 16, caps->name, (unsigned long long)caps->max_range);
    return s;
}

struct slab slabs_of_experts(struct cmd *c, const linear *w)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    struct slab s = { .units = *w };
    s.units.n_out = w->n_expert;
    s.units.row_q = w->row_q * w->n_out;
    s.step = linear_slab_rows(caps, &s.units);
    if (!s.step)
        cmd_fail(c, "an expert of %u bytes is larger than a binding of %s (%llu bytes)",
                 s.units.row_q * 16, caps->name, (unsigned long long)caps->max_range);
    return s;
}

bool slab_next(struct slab *s)
{
    s->first += s->n;
    if (!s->step || s->first >= s->units.n_out)
        return false;
    s->n = min_u32(s->step, s->units.n_out - s->first);
    s->rows = linear_rows(&s->units, s->first, s->n);
    return true;
}

/* For two tokens and long rows linear.comp is faster, with the same bits. */
static const struct linear_path *each_or_rows(const struct gpu_caps *caps,
                                              const struct linear_path *path, const linear *w,
                                              uint32_t n_tok)
{
    bool rows = path->kernel == K_linear_each && n_tok <= 2 && w->n_in > 512;
    return rows ? linear_path_of(linear_paths, n_linear_path, caps, 1, false) : path;
}

void linear_by(struct cmd *c, const struct linear_path *path, const struct linear_args *a)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const linear *w = a->w;
    uint32_t n_tok = a->x.n_row;
    if (cmd_failed(c))
        return;
    uint32_t width = a->act ? act_width(*a->act) : 1;
    path = each_or_rows(caps, path, w, n_tok);
    HLM_ASSERT(a->x.n == w->n_in && a->y.n * width == w->n_out && a->y.n_row == n_tok);
    HLM_ASSERT(path->fuses || (!a->norm && !a->act));
    HLM_ASSERT(!a->act || (!a->res && !a->gate && linear_slab_rows(caps, w) == w->n_out));
    struct linear_tile t = linear_tile_of(path, caps, w->dtype, w->n_out, n_tok);
    tensor x = a->halves ? *a->halves : linear_operand(c, path, a->x);
    tensor res = a->res ? *a->res : a->x, gate = a->gate ? *a->gate : a->x;
    tensor norm = a->norm ? *a->norm : a->x;
    uint32_t in = a->norm ? IN_NORM : IN_PLAIN;
    struct spec spec = path->kernel == K_linear
                           ? SPEC(.wg = t.wg, .w_type = w->dtype, .rows = t.rows, .cols = t.toks,
                                  .in = in, .lanes = caps->kind == GPU_CPU ? t.wg : 0)
                       : path->kernel == K_linear_each
                           ? SPEC(.wg = t.wg, .w_type = w->dtype, .rows = t.rows, .toks = t.toks,
                                  .lanes = t.toks_per_group / t.toks)
                           : linear_many_spec(path, caps, t, w->dtype, GROUPED_NOT);
    spec.epi = a->act    ? EPI_ACT + (uint32_t)a->act->kind
               : a->gate ? EPI_ADD_GATED
               : a->res  ? EPI_ADD
                         : EPI_STORE;

    for (struct slab s = slabs_of_rows(c, w, UINT32_MAX); slab_next(&s);) {
        struct push_linear p = {
            .n_in = w->n_in,
            .n_out = s.n,
            .n_tok = n_tok,
            .row_q = w->row_q,
            .x_stride = x.stride,
            .x_col = x.col,
            .y_stride = a->y.stride,
            .y_col = a->y.col + s.first,
            .res_stride = res.stride,
            .res_col = res.col + s.first,
            .gate_stride = gate.stride,
            .gate_col = gate.col,
            .eps = a->eps,
            .limit = a->act ? a->act->limit : 0,
        };
        struct grid g = GRID(div_up(s.n, t.rows), div_up(n_tok, t.toks_per_group), 1);
        cmd_work(c, 2.0 * s.n * w->n_in * n_tok);
        if (path->kernel == K_linear)
            cmd_dispatch(c, K_linear, g, spec, PUSH(p),
                         USES(READ(s.rows), READ(a->x), WRITE(a->y), READ(res), READ(gate),
                              READ(norm), READ(linear_codebook(w))));
        else if (path->kernel == K_linear_each)
            cmd_dispatch(c, K_linear_each, g, spec, PUSH(p),
                         USES(READ(s.rows), READ(x), WRITE(a->y), READ(res), READ(gate),
                              READ(linear_codebook(w))));
        else
            cmd_dispatch(c, path->kernel, g, spec, PUSH(p),
                         USES(READ(s.rows), READ(x), WRITE(a->y), READ(res), READ(gate), READ(res),
                              READ(res), READ(linear_codebook(w))));
    }
}
