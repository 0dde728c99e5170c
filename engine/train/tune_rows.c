/* tune_rows: the rows of a run in their order, and its learning rates. See tune.h. */
#include "train/tune.h"

#include <math.h>
#include <stdlib.h>

/* ---- rates ----------------------------------------------------------------------------------- */

double hlm_tune_rate(const struct hlm_train_options *o, uint64_t step)
{
    double k = (double)step - 1, w = o->warmup_steps, n = (double)o->total_steps - w;
    if (o->warmup_steps && k <= w)
        return o->warmup_from + (o->peak - o->warmup_from) * k / w;
    if (o->schedule == HLM_CONSTANT)
        return o->peak;
    double at = n > 0 ? fmin((k - w) / n, 1) : 1; /* a run that is longer stays at the last rate */
    double share = o->schedule == HLM_COSINE ? (1 + cos(acos(-1.0) * at)) / 2 : 1 - at;
    return o->final + (o->peak - o->final) * share;
}

void tune_schedule(struct hlm_train_options *o, double epochs, double warmup, uint64_t n_row)
{
    double rows = epochs * (double)n_row, per = (double)o->batch_rows * o->accumulation;
    if (!o->steps)
        o->steps = (uint32_t)fmin(fmax(ceil(rows / per - 1e-9), 1), UINT32_MAX / 2);
    if (o->total_steps) /* the schedule is the caller's */
        return;
    o->total_steps = o->steps;
    o->warmup_steps = (uint32_t)ceil(warmup * o->steps - 1e-9);
    if (o->warmup_steps >= o->steps)
        o->warmup_steps = o->steps - 1;
    /* The warm-up begins one part above zero, so that the first step trains too. */
    o->warmup_from = o->peak / (o->warmup_steps + 1.0);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static bool pack(struct data_rows *r, const struct data_set *s, const uint32_t *order,
                 const struct stream *how, struct hlm_err *err)
{
    uint32_t length = how->row_length;
    if (length)
        length = data_row_length(s, order, length, how->want_rows);
    return data_pack(r, s, order, length, how->pad_id, err);
}

bool tune_pack(struct data_rows *r, const struct data_set *s, uint32_t row_length,
               uint32_t want_rows, int32_t pad_id, struct hlm_err *err)
{
    const struct stream how = { .row_length = row_length,
                                .want_rows = want_rows,
                                .pad_id = pad_id };
    return !s->n_doc || pack(r, s, NULL, &how, err);
}

static const struct data_rows *rows_of_pass(const struct stream *s)
{
    return s->set ? &s->rows : s->fixed;
}

static bool load_pass(struct stream *s, uint64_t epoch, struct hlm_err *err)
{
    uint32_t n = s->set ? s->set->n_doc : s->fixed->n_row;
    if (s->ready && s->epoch == epoch)
        return true;
    if (s->shuffle && !s->order && !(s->order = mem_alloc(n, sizeof *s->order)))
        return fail_memory(err, "no memory for the order of %u rows", n);
    if (s->shuffle)
        data_shuffle(s->order, n, s->seed, epoch);
    s->ready = false;
    if (s->set) {
        data_rows_free(&s->rows);
        if (!pack(&s->rows, s->set, s->order, s, err))
            return false;
    }
    s->epoch = epoch;
    s->ready = true;
    return true;
}

const struct data_row *stream_row(struct stream *s, struct cursor *c, struct hlm_err *err)
{
    if (!load_pass(s, c->epoch, err))
        return NULL;
    if (c->i_row >= rows_of_pass(s)->n_row) {
        *c = (struct cursor){ c->epoch + 1, 0 };
        if (!load_pass(s, c->epoch, err))
            return NULL;
    }
    return &rows_of_pass(s)->row[s->order && !s->set ? s->order[c->i_row] : c->i_row];
}

const struct data_rows *stream_first(struct stream *s, struct hlm_err *err)
{
    return load_pass(s, 0, err) ? rows_of_pass(s) : NULL;
}

bool stream_extent(struct stream *s, uint64_t n_row, struct extent *e, struct hlm_err *err)
{
    struct cursor c = { 0 };
    *e = (struct extent){ .n_row = n_row };
    if (!s->set) /* every pass has the same rows */
        n_row = min_u64(n_row, s->fixed->n_row);
    for (; n_row; n_row--, c.i_row++) {
        const struct data_row *r = stream_row(s, &c, err);
        if (!r)
            return false;
        e->max_tok = max_u32(e->max_tok, data_row_used(r));
        e->max_doc = max_u32(e->max_doc, r->n_doc);
    }
    return true;
}

void stream_finish(struct stream *s)
{
    data_rows_free(&s->rows);
    free(s->order);
    *s = (struct stream){ 0 };
}
