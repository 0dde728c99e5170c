/* tune_run: the steps and validations of a run. See hlm_train.h. */
#include "train/tune.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool hlm_tune_begin(hlm_tune *t, const char **resumed, struct hlm_err *err)
{
    hlm *m = t->m;
    struct train_params p = tune_train_params(t, t->extent.max_tok);
    api_begin(&m->log, err);
    if (t->trainer)
        return fail_as(err, HLM_ERR_STATE, "this training run has already begun");
    if (!model_bring(m, err))
        return false;
    t->trainer = train_create(m->gpu, m->model, m->adapters.set, &p, err);
    if (resumed)
        *resumed = t->from;
    bool ok = t->trainer && train_commit(t->trainer, err) && (!t->from || tune_resume(t, err));
    count_begin(t->m, &t->plan, t->o.clip_norm);
    t->begun = ok;
    return ok;
}

bool tune_begun(const hlm_tune *t, struct hlm_err *err)
{
    return t->begun || fail_as(err, HLM_ERR_STATE, "this training run has not begun");
}

void hlm_tune_dump_grads(hlm_tune *t, const char *path)
{
    free(t->grads);
    t->grads = path ? mem_text(path, strlen(path)) : NULL;
    t->grads_lost = path && !t->grads;
}

/* ---- a step ---------------------------------------------------------------------------------- */

static uint32_t rows_of_step(const hlm_tune *t) { return t->o.batch_rows * t->o.accumulation; }

bool tune_sound(const hlm_tune *t, struct hlm_err *err)
{
    return tune_begun(t, err) &&
           (!t->unclear || fail_as(err, HLM_ERR_STATE,
                                   "an earlier call failed part-way: only checkpoints are valid"));
}

bool tune_may_step(const hlm_tune *t, struct hlm_err *err)
{
    return tune_sound(t, err) &&
           (!t->taken || fail_as(err, HLM_ERR_STATE,
                                 "this run has gone back to its best values: no step can follow"));
}

/* Counts the targets and the tokens of the rows of a step, from c on. c moves past them. */
static bool count_step_rows(hlm_tune *t, struct cursor *c, uint64_t *n, uint64_t *n_tok,
                            struct hlm_err *err)
{
    *n = *n_tok = 0;
    for (uint32_t i = 0; i < rows_of_step(t); i++, c->i_row++) {
        const struct data_row *row = stream_row(&t->stream, c, err);
        if (!row)
            return false;
        *n += row->n_counted;
        *n_tok += row->n - row->padding;
    }
    return true;
}

/* Finds the rows [*from, *to) of the next step. Rows without a counted token make no step and are
 * skipped. */
static bool find_step_rows(hlm_tune *t, struct cursor *from, struct cursor *to, uint64_t *n,
                           uint64_t *n_tok, struct hlm_err *err)
{
    for (*n = 0; !*n; *from = *to) {
        if (!stream_row(&t->stream, from, err))
            return false;
        *to = *from;
        if (!count_step_rows(t, to, n, n_tok, err))
            return false;
        if (*n)
            return true;
    }
    return true;
}

static bool gate_deltas(void *user, float *most, uint32_t n, struct hlm_err *err)
{
    return train_gate_deltas(user, most, n, err);
}

/* What the counters show of the layers during this run. */
static struct layer_source layers_of(const hlm_tune *t)
{
    return (struct layer_source){ .stats = train_stats(t->trainer),
                                  .gate_deltas = gate_deltas,
                                  .user = t->trainer };
}

static bool fail_step(uint64_t step, const struct hlm_err *why, struct hlm_err *err)
{
    char where[40];
    snprintf(where, sizeof where, "step %" PRIu64 ": ", step);
    return fail_from(err, why, where);
}

/* Takes up what is wanted by now. Work goes on without statistics for which there is no room. */
static void follow_watch(hlm_tune *t)
{
    hlm *m = t->m;
    struct hlm_err why = { 0 };
    count_follow(m);
    bool wanted = m->counting.layers;
    if (!wanted)
        t->layers_off = false;
    if (train_refused_layers(t->trainer) || t->layers_off ||
        wanted == train_tells_layers(t->trainer))
        return;
    if (!wanted)
        count_leave(m, train_stats(t->trainer));
    t->layers_off = !train_tell_layers(t->trainer, wanted, &why);
    if (t->layers_off)
        log_msg(HLM_LOG_WARN, "no statistics of layers: %s", why.msg);
}

static bool run_step_rows(hlm_tune *t, struct cursor c, uint64_t n, uint64_t step,
                          struct train_sums *sums, struct hlm_err *err)
{
    const struct layer_source layers = layers_of(t);
    for (uint32_t i = 0; i < rows_of_step(t); i++, c.i_row++) {
        const struct data_row *row = stream_row(&t->stream, &c, err);
        const struct row_job job = { .weight = 1.0 / (double)n, .step = step, .i_row = i };
        struct hlm_err why = { 0 };
        if (!row)
            return false;
        follow_watch(t);
        if (row->n_counted && !train_row(t->trainer, row, job, sums, &why))
            return fail_step(step, &why, err);
        count_train(t->m, &layers, HLM_TRAINING, i + 1, rows_of_step(t));
    }
    HLM_ASSERT(sums->n == n);
    return true;
}

static bool update_params(hlm_tune *t, uint64_t step, double lr, double *norm, struct hlm_err *err)
{
    follow_watch(t);
    const struct hlm_train_options *o = &t->o;
    struct adam_update u = {
        .lr = lr,
        .beta1 = o->beta1,
        .beta2 = o->beta2,
        .eps = o->eps,
        .decay = o->weight_decay,
        .decay_gates = o->weight_decay_gates,
        .clip_norm = o->clip_norm,
        .bias_correction = o->bias_correction,
        .step = step,
    };
    t->m->n_change++;
    return train_update(t->trainer, &u, norm, err);
}

bool hlm_tune_do_step(hlm_tune *t, struct hlm_tune_step *out, struct hlm_err *err)
{
    struct tune_position *p = &t->position;
    struct cursor from = { p->epoch, (uint32_t)p->i_row }, to = from;
    struct train_sums sums = { 0 };
    uint64_t n, n_tok, step = p->step + 1;
    double t0 = now_s(), lr = hlm_tune_rate(&t->o, step), norm = 0;
    api_begin(&t->m->log, err);
    if (t->grads_lost)
        return fail_memory(err, "out of memory for the name of the file of gradients");
    if (!tune_may_step(t, err) || !find_step_rows(t, &from, &to, &n, &n_tok, err))
        return false;
    t->unclear = true;
    if (!run_step_rows(t, from, n, step, &sums, err) ||
        (step == 1 && t->grads && !tune_write(t, TRAIN_GRAD, t->grads, err)) ||
        !update_params(t, step, lr, &norm, err))
        return false;
    t->unclear = false;
    p->step = step;
    p->epoch = to.epoch;
    p->i_row = to.i_row;
    p->n_counted += n;
    p->n_tok += n_tok;
    double took = now_s() - t0;
    p->took_s += took;
    *out = (struct hlm_tune_step){
        .step = step,
        .loss_main = sums.main / (double)n,
        .loss_mtp = sums.mtp / (double)n,
        .lr = lr,
        .grad_norm = norm,
        .has_mtp = t->o.mtp_factor != 0,
        .n = n,
        .n_tok = n_tok,
        .epoch = from.epoch,
        .took_s = took,
    };
    out->loss = out->loss_main + t->o.mtp_factor * out->loss_mtp;
    p->loss = out->loss;
    count_step(t->m, out, t->o.steps);
    return true;
}

bool hlm_tune_measure(hlm_tune *t, double *row_s, struct hlm_err *err)
{
    struct cursor c = { 0 };
    const struct data_row *row = NULL;
    struct train_sums sums = { 0 };
    api_begin(&t->m->log, err);
    if (!tune_may_step(t, err))
        return false;
    for (row = stream_row(&t->stream, &c, err); row && !row->n_counted; c.i_row++)
        row = stream_row(&t->stream, &c, err);
    t->unclear = true;
    for (uint32_t i = 0; i < 2; i++) {
        double t0 = now_s();
        if (!row || !train_row(t->trainer, row, (struct row_job){ .weight = 1 }, &sums, err))
            return false;
        *row_s = now_s() - t0;
    }
    return true;
}

/* ---- validation ------------------------------------------------------------------------------ */

static void note_validation(struct tune_position *p, double loss)
{
    p->valid_step = p->step;
    p->valid_loss = loss;
    if (loss < p->best_loss) {
        p->best_loss = loss;
        p->best_step = p->step;
        p->n_worse = 0;
    } else {
        p->n_worse++;
    }
}

/* The rows of a set in the order of the first pass. NULL with a reason. */
static const struct data_rows *rows_of_set(hlm_tune *t, enum hlm_tune_set set, struct hlm_err *err)
{
    switch (set) {
    case HLM_TUNE_TRAIN: return stream_first(&t->stream, err);
    case HLM_TUNE_VALID: return &t->valid;
    case HLM_TUNE_TEST: return &t->test;
    }
    fail(err, "a set of number %u, expected 0 to %u", (unsigned)set, (unsigned)HLM_TUNE_TEST);
    return NULL;
}

/* Sums the loss of these rows. */
static bool validate_rows(hlm_tune *t, const struct data_rows *rows, struct train_sums *sums,
                          hlm_progress progress, void *user, struct hlm_err *err)
{
    const struct layer_source layers = layers_of(t);
    for (uint32_t i = 0; i <= rows->n_row; i++) {
        bool on = !progress || progress(user, i, rows->n_row);
        log_to(&t->m->log);
        if (!on)
            return fail_stopped(err);
        if (i == rows->n_row)
            break;
        if (rows->row[i].n_counted && !train_eval(t->trainer, &rows->row[i], sums, err))
            return false;
        count_train(t->m, &layers, HLM_VALIDATING, i + 1, rows->n_row);
    }
    return true;
}

bool hlm_tune_validate(hlm_tune *t, enum hlm_tune_set set, struct hlm_tune_loss *out,
                       hlm_progress progress, void *user, struct hlm_err *err)
{
    struct train_sums sums = { 0 };
    api_begin(&t->m->log, err);
    const struct data_rows *rows = tune_sound(t, err) ? rows_of_set(t, set, err) : NULL;
    if (!rows)
        return false;
    if (!rows->n_counted)
        return fail(err, "nothing to validate: no token counts");
    if (!validate_rows(t, rows, &sums, progress, user, err))
        return false;
    *out = (struct hlm_tune_loss){ .main = sums.main / (double)sums.n,
                                   .mtp = sums.mtp / (double)sums.n,
                                   .n = sums.n };
    if (set == HLM_TUNE_VALID) {
        note_validation(&t->position, out->main);
        count_valid(t->m, out->main, t->position.best_loss, t->position.best_step);
    }
    return true;
}
