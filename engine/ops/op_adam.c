/* op_adam: updates from gradients: the norm over everything that is trained, AdamW (Loshchilov and
 * Hutter, arXiv 1711.05101) in PyTorch's form, and gates from their deltas.
 *
 * Values and gradients are rows of two arenas, with gaps between them. A table on the device says
 * where they are. A copy on the host shows which rows one dispatch can reach: a binding cannot be
 * longer than the device allows, nor lie in two buffers of an arena. */
#include "ops/op.h"

#include <math.h>

enum { PER_GROUP = 16, PER_SUM = 4096, GRID_X = 32768 };

void adam_hyper(const struct adam_update *u, struct adam_hyper *h)
{
    double t = (double)u->step;
    double fix1 = u->bias_correction ? 1 - pow(u->beta1, t) : 1;
    double fix2 = u->bias_correction ? 1 - pow(u->beta2, t) : 1;
    *h = (struct adam_hyper){
        .beta1 = (float)u->beta1,
        .beta2 = (float)u->beta2,
        .rest1 = (float)(1 - u->beta1),
        .rest2 = (float)(1 - u->beta2),
        .step = (float)(u->lr / fix1),
        .root = (float)(1 / sqrt(fix2)),
        .eps = (float)u->eps,
        .keep = (float)(1 - u->lr * u->decay),
        .keep_gates = (float)(1 - u->lr * u->decay_gates),
        .clip_norm = (float)u->clip_norm,
    };
}

/* ---- runs of rows ---------------------------------------------------------------------------- */

/* Bytes [first, end) of a tensor or an arena, for binding. */
struct adam_span {
    uint64_t first, end;
};

/* Extends a to include b, if a binding can hold both. */
static bool join_spans(const struct gpu_caps *caps, struct adam_span *a, struct adam_span b)
{
    struct adam_span both = { min_u64(a->first, b.first), max_u64(a->end, b.end) };
    uint64_t first = both.first / caps->align * caps->align, end = align_up(both.end, 16);
    if (end - first > caps->max_range || first / caps->max_alloc != (end - 1) / caps->max_alloc)
        return false;
    *a = both;
    return true;
}

static tensor bind_span(const struct gpu_caps *caps, tensor all, struct adam_span s)
{
    uint64_t first = s.first / caps->align * caps->align;
    uint32_t n = (uint32_t)((s.end - first) / 4);
    return (tensor){ .arena = all.arena,
                     .offset = all.offset + first,
                     .dtype = F32,
                     .n = n,
                     .n_row = 1,
                     .stride = n };
}

/* The rows of a part that one dispatch reaches. values counts bytes from the arena's start; table
 * and moments count from the start of their tensors. */
struct adam_run {
    uint32_t row0, n_row, longest;
    struct adam_span values, moments;
};

static struct adam_span value_span(const struct adam_row *r)
{
    return (struct adam_span){ 16ull * r->at, 16ull * r->at + 4ull * r->n };
}

static struct adam_span moment_span(const struct adam_row *r)
{
    return (struct adam_span){ 4ull * r->moment, 4ull * r->moment + 4ull * r->n };
}

static struct adam_run run_from(const struct gpu_caps *caps, const struct adam_part *part,
                                uint32_t row0)
{
    const struct adam_row *row = part->row;
    uint64_t fit = caps->max_range / sizeof *row -
                   caps->align / 4; /* the most rows of the table in a binding */
    struct adam_run r = { .row0 = row0,
                          .n_row = 1,
                          .longest = row[row0].n,
                          .values = value_span(&row[row0]),
                          .moments = moment_span(&row[row0]) };
    for (uint32_t i = row0 + 1; i < part->n_row && r.n_row < fit; i++) {
        struct adam_run more = r;
        if (!join_spans(caps, &more.values, value_span(&row[i])) ||
            !join_spans(caps, &more.moments, moment_span(&row[i])))
            break;
        r = more;
        r.longest = max_u32(r.longest, row[i].n);
        r.n_row++;
    }
    return r;
}

static uint32_t per_group(const struct gpu_caps *caps, const struct adam_run *r, uint32_t wg)
{
    uint32_t n = PER_GROUP;
    while (caps->loop_budget && n > 1 && (uint64_t)n * (div_up(r->longest, wg) + 1) > 50000)
        n /= 2;
    return n;
}

/* The arguments of a dispatch over a run. */
struct reach {
    struct push_adam p;
    struct grid grid;
    uint32_t n_group;
    tensor rows, scale;
};

static struct reach reach_of(const struct gpu_caps *caps, const struct adam_part *part,
                             const struct adam_run *r, uint32_t wg)
{
    uint32_t unit = max_u32(caps->align / 4, 1), first = r->row0 / unit * unit;
    uint32_t end = r->row0 + r->n_row, each = per_group(caps, r, wg);
    uint32_t n = div_up(r->n_row, each);
    return (struct reach){
        .p = { .row0 = r->row0 - first,
               .n_row = r->n_row,
               .per_group = each,
               .base = (uint32_t)(r->values.first / caps->align * caps->align / 16),
               .moment0 = (uint32_t)(r->moments.first / caps->align * caps->align / 4) },
        .grid = GRID(min_u32(n, GRID_X), div_up(n, GRID_X), 1),
        .n_group = n,
        .rows = bind_span(caps, part->rows, (struct adam_span){ 16ull * first, 16ull * end }),
        .scale = bind_span(caps, part->scale, (struct adam_span){ 4ull * first, 4ull * end }),
    };
}

static tensor whole_arena(struct arena *a) { return (tensor){ .arena = a }; }

/* ---- the norm -------------------------------------------------------------------------------- */

static uint32_t n_sums(const struct gpu_caps *caps, const struct adam *a, uint32_t wg)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < a->n_part; k++)
        for (uint32_t row = 0; row < a->part[k].n_row;) {
            struct adam_run r = run_from(caps, &a->part[k], row);
            struct grid g = reach_of(caps, &a->part[k], &r, wg).grid;
            n += g.x * g.y;
            row += r.n_row;
        }
    return n;
}

/* Adds up the first n of `sums`, writing partial sums after them, until one is left. */
static void sum_up(struct cmd *c, const struct adam *a, tensor sums, uint32_t n)
{
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    for (uint32_t from = 0, n_out; n; from += n, n = n_out > 1 ? n_out : 0) {
        n_out = div_up(n, PER_SUM);
        struct push_norm_sum p = { .n = n, .from = from, .to = from + n, .per_group = PER_SUM };
        cmd_dispatch(c, K_norm_sum, GRID(n_out, 1, 1), SPEC(.wg = wg, .last = n_out == 1), PUSH(p),
                     USES(BOTH(sums), READ(a->hyper), WRITE(a->norm)));
    }
}

void op_grad_norm(struct cmd *c, const struct adam *a)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t wg = wg_size(caps, 128), n = n_sums(caps, a, wg), at = 0;
    tensor sums = cmd_scratch(c, F32, n + div_up(n, PER_SUM) + div_up(n, PER_SUM * PER_SUM) + 1, 1);
    for (uint32_t k = 0; k < a->n_part; k++)
        for (uint32_t row = 0; row < a->part[k].n_row;) {
            const struct adam_part *part = &a->part[k];
            struct adam_run r = run_from(caps, part, row);
            struct reach to = reach_of(caps, part, &r, wg);
            to.p.to = at;
            cmd_work(c, 2.0 * (double)(r.moments.end - r.moments.first) / 4);
            cmd_dispatch(c, K_grad_norm, to.grid, SPEC(.wg = wg), PUSH(to.p),
                         USES(READ(to.rows), READ(to.scale),
                              READ(bind_span(caps, whole_arena(part->grads), r.values)),
                              WRITE(sums)));
            at += to.grid.x * to.grid.y;
            row += r.n_row;
        }
    sum_up(c, a, sums, n);
}

/* ---- the update ------------------------------------------------------------------------------ */

void op_adam(struct cmd *c, const struct adam *a)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t wg = wg_size(caps, 128);
    for (uint32_t k = 0; k < a->n_part; k++)
        for (uint32_t row = 0; row < a->part[k].n_row;) {
            const struct adam_part *part = &a->part[k];
            struct adam_run r = run_from(caps, part, row);
            struct reach to = reach_of(caps, part, &r, wg);
            cmd_work(c, 16.0 * (double)(r.moments.end - r.moments.first) / 4);
            cmd_dispatch(c, K_adam, to.grid, SPEC(.wg = wg), PUSH(to.p),
                         USES(READ(to.rows), READ(to.scale),
                              BOTH(bind_span(caps, whole_arena(part->grads), r.values)),
                              BOTH(bind_span(caps, whole_arena(part->values), r.values)),
                              BOTH(bind_span(caps, part->m, r.moments)),
                              BOTH(bind_span(caps, part->v, r.moments)), READ(a->hyper),
                              READ(a->norm)));
            row += r.n_row;
        }
}

void op_gate_delta(struct cmd *c, tensor base, tensor delta, bool decay, tensor to)
{
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 64);
    struct push_gate_delta p = { .n = base.n };
    cmd_dispatch(c, K_gate_delta, GRID(div_up(base.n, wg), 1, 1), SPEC(.wg = wg, .decay = decay),
                 PUSH(p), USES(READ(base), READ(delta), WRITE(to)));
}
