/* lora_train: where the numbers of a set for training are on the device; see lora.h. */
#include "lora/lora_parts.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- the index ------------------------------------------------------------------------------- */

static int by_row(const void *a, const void *b)
{
    const struct b_rows *x = a, *y = b;
    return (x->row0 > y->row0) - (x->row0 < y->row0);
}

/* Checks that each row of a pair's tensor is in exactly one matrix. */
static bool check_b_rows(const struct lora_set *s, const struct lora_pair *p,
                         const struct b_rows *c, uint64_t n, struct hlm_err *err)
{
    uint64_t row = 0;
    bool ok = n > 0;
    for (uint64_t k = 0; ok && k < n; row += c[k++].n)
        ok = c[k].row0 == row && (p->x->dim[2] > 1 || s->b->matrix[c[k].matrix].w->n_expert <= 1);
    return (ok && row == p->x->dim[1] * p->x->dim[2]) ||
           fail(err, "%.300s: %s cannot be trained: a row of %s is in no matrix or in several",
                gguf_path(s->file[0]->g), p->a->name, p->x->name);
}

/* Counts the rows of each pair into first[], or lists them. pair_of: for each tensor of the base, 1
 * + its pair; 0: none. */
static void gather_rows(struct lora_set *s, const uint64_t *pair_of, bool count)
{
    const struct lora_base *b = s->b;
    for (uint64_t i = 0; i < b->n_matrix; i++) {
        const struct base_matrix *m = &b->matrix[i];
        for (uint64_t r = m->rows; r < m->rows + m->n_rows; r++) {
            const struct base_rows *from = &b->rows[r];
            uint64_t k = pair_of[from->t->index];
            if (k && count)
                s->first[k]++;
            else if (k)
                s->b_rows[s->first[k - 1]++] = (struct b_rows){ from->row0, from->n, from->at, i };
        }
    }
}

bool lora_train_index(struct lora_set *s, struct hlm_err *err)
{
    const struct lora_file *f = s->file[0];
    uint64_t n = f->n_pair, *pair_of = mem_alloc(gguf_n_tensor(s->b->file) + 1, sizeof *pair_of);
    s->col = mem_alloc(n + 1, sizeof *s->col);
    s->first = mem_alloc(n + 1, sizeof *s->first);
    bool ok = pair_of && s->col && s->first;
    for (uint64_t k = 0; ok && k < n; k++)
        pair_of[f->pair[k].x->index] = k + 1;
    for (uint64_t u = 0; ok && u < s->n_stacked; u++)
        s->col[s->stacked[u].p - f->pair] = s->stacked[u].col;
    if (ok) {
        gather_rows(s, pair_of, true);
        for (uint64_t k = 0; k < n; k++)
            s->first[k + 1] += s->first[k];
        ok = (s->b_rows = mem_alloc(s->first[n] + 1, sizeof *s->b_rows)) != NULL;
    }
    if (ok) {
        gather_rows(s, pair_of, false); /* which leaves in first[k] what belongs in first[k + 1] */
        memmove(s->first + 1, s->first, n * sizeof *s->first);
        s->first[0] = 0;
    }
    free(pair_of);
    if (!ok)
        return fail_memory(err, "out of memory: an adapter of %" PRIu64 " matrices", n);
    for (uint64_t k = 0; ok && k < n; k++) {
        uint64_t n_rows = s->first[k + 1] - s->first[k];
        qsort(s->b_rows + s->first[k], n_rows, sizeof *s->b_rows, by_row);
        ok = check_b_rows(s, &f->pair[k], s->b_rows + s->first[k], n_rows, err);
    }
    return ok;
}

/* ---- access ---------------------------------------------------------------------------------- */

uint64_t lora_n_param(const struct lora_set *s) { return 2 * s->file[0]->n_pair; }

struct lora_param lora_param(const struct lora_set *s, uint64_t i)
{
    const struct lora_pair *p = &s->file[0]->pair[i / 2];
    const struct gguf_tensor *t = i % 2 ? p->b : p->a;
    struct lora_param out = { .name = t->name,
                              .n = (uint32_t)t->dim[0],
                              .n_row = t->dim[1] * t->dim[2],
                              .scale = i % 2 ? p->scale : 1,
                              .n_dim = t->dim[2] > 1 ? 3 : 2 };
    for (uint32_t k = 0; k < 3; k++)
        out.dim[k] = (uint32_t)t->dim[k];
    return out;
}

/* The range of rows of pair k that has `row`. */
static const struct b_rows *b_rows_at(const struct lora_set *s, uint64_t k, uint64_t row)
{
    uint64_t lo = s->first[k], hi = s->first[k + 1];
    while (hi - lo > 1) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (s->b_rows[mid].row0 <= row)
            lo = mid;
        else
            hi = mid;
    }
    return &s->b_rows[lo];
}

uint64_t lora_param_at(const struct lora_set *s, uint64_t i, uint64_t row)
{
    const struct lora_pair *p = &s->file[0]->pair[i / 2];
    bool is_b = i % 2;
    const struct b_rows *c = b_rows_at(s, i / 2, is_b ? row : 0);
    const struct lora_stack *k = &s->stack[c->matrix];
    const linear *w = is_b ? &k->lora.b : &k->lora.a;
    uint64_t col = s->col[i / 2];
    if (is_b)
        return w->offset + 16ull * w->row_q * (row - c->row0 + c->at) + col * sizeof(float);
    return w->offset + 16ull * w->row_q * (row / p->rank * k->rank + col + row % p->rank);
}

struct arena *lora_arena(const struct lora_set *s) { return s->arena; }

bool lora_gate_delta(const struct lora_set *s, const struct gguf_tensor *gate, float *delta)
{
    const struct lora_file *f = s->file[0];
    memset(delta, 0, gate->n_elem * sizeof *delta);
    for (uint64_t i = 0; i < f->n_delta; i++) {
        if (f->delta[i].x != gate)
            continue;
        dtype_to_f32(f->delta[i].d->type, f->delta[i].d->data, gate->n_elem, delta);
        return true;
    }
    return false;
}
