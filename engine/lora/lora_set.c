/* lora_set: sets of adapters that are active together; see lora.h. */
#include "lora/lora_parts.h"

#include "ops/pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <xxhash.h>

/* Matrices that are multiplied together share a stack of A up to this many rows: in a longer one
 * the zeros in B cost more than the dispatches that sharing saves. */
enum { MAX_SHARED = 64 };

/* ---- stacks ---------------------------------------------------------------------------------- */

uint32_t lora_rank(const struct lora_set *s, uint64_t i)
{
    return s->stack[i].reached ? s->stack[i].rank : 0;
}

/* A tensor of the base, while stacks are made. */
struct tensor_mark {
    uint64_t stack; /* 1 + the first matrix of the last stack that took its pairs; 0: none yet */
    bool paired;    /* an adapter has a pair for it */
};

static bool add_stacked(struct lora_set *s, const struct lora_pair *p, uint32_t *col)
{
    if (!mem_reserve(&s->stacked, s->n_stacked + 1, &s->cap_stacked, sizeof *s->stacked))
        return false;
    s->stacked[s->n_stacked++] = (struct stacked){ p, *col };
    *col += (uint32_t)align_up(p->rank, 4);
    return true;
}

/* Adds the pairs of matrix i to the stack that begins with matrix `first`, from column *col on.
 * These are the pairs of all tensors from which the matrix has rows, unless the stack has them
 * already. */
static bool stack_matrix(struct lora_set *s, uint64_t first, uint64_t i, struct tensor_mark *mark,
                         uint32_t *col)
{
    const struct base_matrix *m = &s->b->matrix[i];
    bool ok = true;
    for (uint64_t r = m->rows; ok && r < m->rows + m->n_rows; r++) {
        const struct gguf_tensor *x = s->b->rows[r].t;
        struct tensor_mark *k = &mark[x->index];
        if (!k->paired)
            continue;
        s->stack[i].reached = true;
        if (k->stack == first + 1)
            continue;
        HLM_ASSERT(!s->train || !k->stack); /* else its A would be in two places */
        k->stack = first + 1;
        for (uint32_t f = 0; f < s->n_file; f++)
            for (uint64_t u = 0; ok && u < s->file[f]->n_pair; u++)
                if (s->file[f]->pair[u].x == x)
                    ok = add_stacked(s, &s->file[f]->pair[u], col);
    }
    return ok;
}

/* True if a pair of the stack that begins with matrix `first` also changes matrix i. */
static bool reaches(const struct lora_set *s, uint64_t first, uint64_t i,
                    const struct tensor_mark *mark)
{
    const struct base_matrix *m = &s->b->matrix[i];
    for (uint64_t r = m->rows; r < m->rows + m->n_rows; r++) {
        const struct tensor_mark *k = &mark[s->b->rows[r].t->index];
        if (k->paired && k->stack == first + 1)
            return true;
    }
    return false;
}

/* True if matrix `end` shares the stack that begins with matrix i. In a set for training it does so
 * only if it must: columns of B that belong to other pairs are zero, but would get gradients. */
static bool may_share(const struct lora_set *s, uint64_t i, uint64_t end,
                      const struct tensor_mark *mark)
{
    const linear *w = s->b->matrix[i].w, *v = s->b->matrix[end].w;
    if (s->train)
        return reaches(s, i, end, mark);
    return s->b->matrix[end].beside && w->n_in == v->n_in && w->n_expert <= 1 && v->n_expert <= 1;
}

/* Makes the stack that begins with matrix i. *end: the first matrix after it. */
static bool make_stack(struct lora_set *s, uint64_t i, struct tensor_mark *mark, uint64_t *end)
{
    uint64_t stacked = s->n_stacked;
    uint32_t rank = 0;
    bool ok = stack_matrix(s, i, i, mark, &rank);
    for (*end = i + 1; ok && *end < s->b->n_matrix && may_share(s, i, *end, mark); ++*end) {
        uint32_t with = rank;
        uint64_t n_stacked = s->n_stacked;
        ok = stack_matrix(s, i, *end, mark, &with);
        if (!s->train && with > MAX_SHARED) { /* that matrix begins a new stack */
            s->n_stacked = n_stacked;
            break;
        }
        rank = with;
    }
    for (uint64_t k = i; k < *end; k++)
        s->stack[k] = (struct lora_stack){ .first = i,
                                           .n = *end - i,
                                           .stacked = stacked,
                                           .n_stacked = s->n_stacked - stacked,
                                           .rank = rank,
                                           .reached = s->stack[k].reached };
    return ok;
}

static bool stack_all(struct lora_set *s)
{
    const struct lora_base *b = s->b;
    struct tensor_mark *mark = mem_alloc(gguf_n_tensor(b->file) + 1, sizeof *mark);
    s->stack = mem_alloc(b->n_matrix + 1, sizeof *s->stack);
    bool ok = mark && s->stack;
    for (uint32_t f = 0; ok && f < s->n_file; f++)
        for (uint64_t u = 0; u < s->file[f]->n_pair; u++)
            mark[s->file[f]->pair[u].x->index].paired = true;
    for (uint64_t i = 0, end; ok && i < b->n_matrix; i = end)
        ok = make_stack(s, i, mark, &end);
    free(mark);
    return ok;
}

void lora_row_a(const struct lora_set *s, uint64_t i, uint64_t r, float *out)
{
    const struct lora_stack *k = &s->stack[i];
    const linear *w = s->b->matrix[i].w;
    uint64_t e = r / k->rank, row = r % k->rank, row_bytes = 0;
    memset(out, 0, w->n_in * sizeof *out);
    for (uint64_t u = k->stacked; u < k->stacked + k->n_stacked; u++) {
        const struct lora_pair *p = s->stacked[u].p;
        if (row < s->stacked[u].col || row - s->stacked[u].col >= p->rank)
            continue;
        dtype_bytes(p->a->type, w->n_in, &row_bytes);
        uint64_t from = (p->x->dim[2] == 1 ? 0 : e) * p->rank + row - s->stacked[u].col;
        dtype_to_f32(p->a->type, p->a->data + from * row_bytes, w->n_in, out);
    }
}

/* The range of rows of the file that has row r of a matrix. */
static const struct base_rows *rows_at(const struct lora_base *b, const struct base_matrix *m,
                                       uint64_t r)
{
    uint64_t lo = m->rows, hi = m->rows + m->n_rows;
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (b->rows[mid].at <= r)
            lo = mid;
        else
            hi = mid;
    }
    return &b->rows[lo];
}

void lora_row_b(const struct lora_set *s, uint64_t i, uint64_t r, float *out)
{
    const struct lora_stack *k = &s->stack[i];
    const struct base_rows *from = rows_at(s->b, &s->b->matrix[i], r);
    uint64_t row_bytes = 0;
    memset(out, 0, k->rank * sizeof *out);
    for (uint64_t u = k->stacked; u < k->stacked + k->n_stacked; u++) {
        const struct lora_pair *p = s->stacked[u].p;
        float *to = out + s->stacked[u].col;
        if (p->x != from->t)
            continue;
        dtype_bytes(p->b->type, p->rank, &row_bytes);
        dtype_to_f32(p->b->type, p->b->data + (from->row0 + r - from->at) * row_bytes, p->rank, to);
        for (uint32_t j = 0; j < p->rank; j++)
            to[j] *= p->scale;
    }
}

/* ---- on the device --------------------------------------------------------------------------- */

static linear take_factors(struct lora_set *s, uint32_t n_in, uint32_t n_out, uint32_t n_expert,
                           bool joins)
{
    linear w = { .arena = s->arena,
                 .dtype = F32,
                 .n_in = n_in,
                 .n_out = n_out,
                 .n_expert = n_expert,
                 .row_q = (uint32_t)(pack_row_bytes(F32, n_in) / 16) };
    uint64_t bytes = 16ull * w.row_q * n_out * n_expert;
    w.offset = s->arena ? arena_take(s->arena, bytes, joins ? 16 : 0) : s->taken;
    s->taken += bytes;
    return w;
}

/* Matrices that share A have their B one after the other, so that these are one dispatch too.
 * Otherwise, and always in a set for training, B begins where a binding may begin. */
static void place_stacks(struct lora_set *s)
{
    const struct base_matrix *m = s->b->matrix;
    for (uint64_t i = 0; i < s->b->n_matrix; i++) {
        struct lora_stack *k = &s->stack[i];
        if (k->first != i || !k->n_stacked)
            continue;
        linear a = take_factors(s, m[i].w->n_in, k->rank, m[i].w->n_expert, false);
        for (uint64_t j = i; j < i + k->n; j++) {
            const linear *w = m[j].w;
            bool joins = j > i && s->stack[j - 1].reached && !s->train;
            if (s->stack[j].reached)
                s->stack[j].lora = (struct lora){
                    .a = a,
                    .b = take_factors(s, k->rank, w->n_out, w->n_expert, joins),
                    .id = (uint32_t)i,
                };
        }
    }
}

static bool upload_factors(struct lora_set *s, struct gpu *g, uint64_t i, const linear *w,
                           void (*row)(const struct lora_set *, uint64_t, uint64_t, float *),
                           struct hlm_err *err)
{
    uint64_t bytes = 16ull * w->row_q, n = (uint64_t)w->n_out * w->n_expert;
    uint64_t fit = gpu_stage_max(g) / bytes;
    if (!fit)
        return fail_as(err, HLM_ERR_UNSUPPORTED,
                       "a row of an adapter, %u numbers, needs more than the upload buffer",
                       w->n_in);
    for (uint64_t r = 0; r < n; r += fit) {
        uint64_t take_n = min_u64(fit, n - r);
        float *to = gpu_stage(g, s->arena, w->offset + r * bytes, take_n * bytes, err);
        if (!to)
            return false;
        memset(to, 0, take_n * bytes);
        for (uint64_t k = 0; k < take_n; k++)
            row(s, i, r + k, to + k * bytes / sizeof *to);
    }
    return true;
}

bool lora_set_upload(struct lora_set *s, struct gpu *g, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    if (!arena_commit(s->arena, &why))
        return fail_size(err, why.kind, &why, "%s; fewer or smaller adapters need less", why.msg);
    if (gpu_is_dry(g))
        return true;
    for (uint64_t i = 0; i < s->b->n_matrix; i++) {
        const struct lora_stack *k = &s->stack[i];
        if (k->first == i && k->n_stacked)
            for (uint64_t j = i, done = 0; j < i + k->n; j++)
                if (s->stack[j].reached &&
                    ((!done++ && !upload_factors(s, g, i, &s->stack[j].lora.a, lora_row_a, err)) ||
                     !upload_factors(s, g, j, &s->stack[j].lora.b, lora_row_b, err)))
                    return false;
    }
    return gpu_stage_end(g, err);
}

static struct lora_hash hash_set(const struct lora_set *s)
{
    struct lora_hash h = { 0 };
    for (uint32_t i = 0; i < s->n_file; i++) {
        const struct lora_file *f = s->file[i];
        uint64_t w[5] = { h.lo, h.hi, f->hash.lo, f->hash.hi, 0 };
        memcpy(&w[4], &f->scale, sizeof f->scale);
        XXH128_hash_t x = XXH3_128bits(w, sizeof w);
        h = (struct lora_hash){ x.low64, x.high64 };
    }
    return h;
}

/* A set for training is one adapter with a factor of 1. */
static bool check_train(const struct lora_set *s, struct hlm_err *err)
{
    if (!s->train)
        return true;
    if (s->n_file != 1)
        return fail(err, "%u adapters to train, expected one", s->n_file);
    return s->file[0]->scale == 1 ||
           fail(err, "%.300s: a factor of %g, expected none on an adapter that is trained",
                gguf_path(s->file[0]->g), (double)s->file[0]->scale);
}

struct lora_set *lora_set_create(struct gpu *g, const struct lora_base *b, struct lora_file **file,
                                 uint32_t n, bool train, struct hlm_err *err)
{
    struct lora_set *s = mem_alloc(1, sizeof *s);
    struct lora_file **own = mem_alloc(n + 1u, sizeof *own);
    if (s && own) {
        *s = (struct lora_set){ .b = b, .file = own, .n_file = n, .train = train };
        memcpy(own, file, n * sizeof *own);
    } else {
        for (uint32_t i = 0; i < n; i++)
            lora_file_close(file[i]);
        free(own);
        free(s);
        fail_memory(err, "out of memory: %u adapters", n);
        return NULL;
    }
    bool ok =
        check_train(s, err) && (stack_all(s) || fail_memory(err, "out of memory: %u adapters", n));
    if (ok && g)
        ok = (s->arena = arena_create(g, "adapters", MEM_DEVICE, err)) != NULL;
    if (ok)
        place_stacks(s);
    ok = ok && (!train || lora_train_index(s, err)) && (!g || lora_set_upload(s, g, err));
    s->hash = hash_set(s);
    if (!ok) {
        lora_set_destroy(s);
        return NULL;
    }
    return s;
}

/* The values of a gate with all deltas added; a decay gets them added to its logarithm. False: no
 * adapter has a delta for it. */
static bool gate_values(const struct lora_set *s, const struct base_gate *gate, float *v,
                        double *sum)
{
    bool any = false;
    uint64_t n = gate->t->n_elem;
    memset(sum, 0, n * sizeof *sum);
    for (uint32_t k = 0; s && k < s->n_file; k++)
        for (uint64_t i = 0; i < s->file[k]->n_delta; i++) {
            const struct lora_delta *d = &s->file[k]->delta[i];
            if (d->x != gate->t)
                continue;
            dtype_to_f32(d->d->type, d->d->data, n, v);
            for (uint64_t j = 0; j < n; j++)
                sum[j] += (double)v[j] * (double)d->scale;
            any = true;
        }
    dtype_to_f32(gate->t->type, gate->t->data, n, v);
    bool decay = ends_with(gate->t->name, DECAY);
    for (uint64_t j = 0; any && j < n; j++)
        v[j] = (float)(decay ? (double)v[j] * exp(sum[j]) : (double)v[j] + sum[j]);
    return any;
}

static bool use_gates(const struct lora_set *s, struct gpu *g, struct lora_base *b,
                      struct hlm_err *err)
{
    for (uint64_t i = 0; i < b->n_gate; i++) {
        struct base_gate *gate = &b->gate[i];
        uint64_t n = gate->t->n_elem;
        float *v = mem_alloc(n, sizeof *v);
        double *sum = mem_alloc(n, sizeof *sum);
        bool ok = (v && sum) || fail_memory(err, "out of memory: a gate of %" PRIu64 " values", n);
        bool any = ok && gate_values(s, gate, v, sum);
        if (ok && (any || gate->moved)) {
            gate->moved = true; /* also when the write fails part-way */
            ok = gpu_write(g, gate->at, 0, v, n * sizeof *v, err);
        }
        if (ok)
            gate->moved = any;
        free(v);
        free(sum);
        if (!ok)
            return false;
    }
    return true;
}

bool lora_set_use(const struct lora_set *s, struct gpu *g, struct lora_base *b, struct hlm_err *err)
{
    bool ok = use_gates(s && !s->train ? s : NULL, g, b, err);
    for (uint64_t i = 0; i < b->n_matrix; i++)
        b->matrix[i].w->lora = ok && s && s->stack[i].reached ? &s->stack[i].lora : NULL;
    return ok;
}

void lora_set_destroy(struct lora_set *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_file; i++)
        lora_file_close(s->file[i]);
    arena_destroy(s->arena);
    free(s->file);
    free(s->stacked);
    free(s->stack);
    free(s->col);
    free(s->first);
    free(s->b_rows);
    free(s);
}

uint64_t lora_set_bytes(const struct lora_set *s)
{
    return s && s->arena ? arena_cost(s->arena) : 0;
}

struct lora_hash lora_set_hash(const struct lora_set *s)
{
    return s ? s->hash : (struct lora_hash){ 0 };
}
