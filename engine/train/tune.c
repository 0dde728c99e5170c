/* tune: opening a training run - its data, what it trains, and what that costs. See hlm_train.h.
 * Its rows and rates are in tune_rows.c, its steps in tune_run.c, checkpoints in tune_saved.c, the
 * device's part in train.h. */
#include "train/tune.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hlm_tune_params hlm_tune_defaults(void)
{
    struct hlm_tune_params p = {
        .read = { .max_seq = 2048, .valid = -1 },
        .train = data_options_default(),
        .warmup = 0.03,
    };
    p.train.steps = 0;
    p.train.shuffle = true;
    p.train.batch_rows = 0;
    p.train.lr = p.train.peak = p.train.final = -1;
    p.train.schedule = HLM_COSINE;
    p.train.clip_norm = 1;
    return p;
}

bool hlm_tune_options(const char *ids_json, struct hlm_train_options *o, struct hlm_err *err)
{
    struct data_rows rows;
    struct hlm_train_options own;
    bool has;
    api_begin(NULL, err);
    if (!data_read(ids_json, UINT32_MAX / 2, &rows, &own, &has, err))
        return false;
    data_rows_free(&rows);
    if (has) {
        *o = own;
        o->total_steps = o->total_steps ? o->total_steps : o->steps;
    }
    return true;
}

/* ---- data --------------------------------------------------------------------- */

bool tune_reading(const struct hlm_tune_params *p, const struct hlm_vocab *v,
                  struct data_params *how, struct hlm_err *err)
{
    const struct hlm_data_params *r = &p->read;
    *how = (struct data_params){
        .tok = v->tok,
        .max_seq = r->max_seq,
        .valid = r->valid,
        .seed = p->seed,
        .loss_all = r->loss_all,
        .turns_each = r->turns_each,
        .raw_completion = r->raw_completion,
        .no_eos = r->no_eos,
        .skip_bad = r->skip_bad,
    };
    if (!v->tok)
        return fail_from(err, &v->tok_err, "");
    if (!vocab_format(v, r->format, &how->format, err))
        return false;
    how->eos = data_eos(v->file, v->tok);
    if (!r->format && !v->known)
        log_msg(HLM_LOG_WARN, "%s: its chat template is of a kind that hlm does not know: using %s",
                gguf_path(v->file), how->format.name);
    return true;
}

bool tune_files(const struct hlm_tune_params *p, struct tune_files *f, struct hlm_err *err)
{
    uint32_t most = max_u32(p->n_data_more, p->n_data_valid);
    if (most > TUNE_MAX_FILES)
        return fail(err, "%u files of data, expected at most %d", most, TUNE_MAX_FILES);
    f->train[0] = p->data;
    for (uint32_t i = 0; i < p->n_data_more; i++)
        f->train[1 + i] = p->data_more[i];
    f->files = (struct data_files){ .train = f->train,
                                    .n_train = 1 + p->n_data_more,
                                    .valid = p->data_valid,
                                    .n_valid = p->n_data_valid };
    return true;
}

static bool read_documents(hlm_tune *t, struct hlm_err *err)
{
    hlm *m = t->m;
    struct data_params how;
    struct tune_files f;
    if (!tune_reading(&t->p, m->vocab, &how, err) || !tune_files(&t->p, &f, err) ||
        !data_load(&t->data, &f.files, &how, err))
        return false;
    if (!t->data.train.n_counted)
        return fail(err, "%.300s: no token counts: there is nothing to learn", t->p.data);
    uint32_t length = t->p.no_pack ? 0 : how.max_seq;
    int32_t pad = data_pad(m->file, how.tok);
    const struct tune_size size = { .n_doc = t->data.train.n_doc,
                                    .n_tok = t->data.train.n_id,
                                    .n_counted = t->data.train.n_counted,
                                    .max_seq = length,
                                    .n_embd = m->model->n_embd };
    tune_choose(&size, &t->o, &t->p.epochs, &t->chosen);
    t->stream = (struct stream){ .set = &t->data.train,
                                 .row_length = length,
                                 .want_rows = t->chosen.want_rows,
                                 .pad_id = pad,
                                 .seed = t->p.seed,
                                 .shuffle = t->o.shuffle };
    return tune_pack(&t->valid, &t->data.valid, length, 0, pad, err) &&
           tune_pack(&t->test, &t->data.test, length, 0, pad, err);
}

static bool read_fixed_rows(hlm_tune *t, struct hlm_err *err)
{
    struct hlm_train_options own;
    bool has;
    if (!data_read(t->p.ids_json, t->m->model->n_vocab, &t->fixed, &own, &has, err))
        return false;
    if (!t->fixed.n_counted)
        return fail(err, "%.300s: no token counts: there is nothing to learn", t->p.ids_json);
    tune_choose(&(struct tune_size){ .n_doc = 0 }, &t->o, &t->p.epochs, &t->chosen);
    t->stream = (struct stream){ .fixed = &t->fixed,
                                 .row_length = t->fixed.row_length,
                                 .seed = t->p.seed,
                                 .shuffle = t->o.shuffle };
    return true;
}

static void sum_rows(struct sum *s, const struct data_rows *r)
{
    sum_add(s, &r->n_row, sizeof r->n_row);
    for (uint32_t i = 0; i < r->n_row; i++) {
        const struct data_row *row = &r->row[i];
        sum_add(s, &row->n, sizeof row->n);
        sum_add(s, row->ids, row->n * sizeof *row->ids);
        sum_add(s, row->mask, row->n);
        sum_add(s, row->doc, row->n * sizeof *row->doc);
    }
}

/* Hashes the first pass, which decides the run's numbers, and the validation rows, which decide an
 * early end. */
static bool hash_data(hlm_tune *t, struct hlm_err *err)
{
    struct sum *s = sum_begin(err);
    const struct data_rows *first = s ? stream_first(&t->stream, err) : NULL;
    if (first) {
        sum_rows(s, first);
        sum_rows(s, &t->valid);
    }
    if (s)
        sum_end(s, t->data_hash);
    return first != NULL;
}

/* Warns of documents longer than any that the model was trained on. */
static void warn_of_length(const hlm_tune *t)
{
    uint32_t longest = 0, known = t->m->model->n_ctx_train;
    const struct data_rows *first = t->p.data ? NULL : &t->fixed;
    for (uint32_t i = 0; t->p.data && i < t->data.train.n_doc; i++)
        longest = max_u32(longest, t->data.train.doc[i].n);
    for (uint32_t i = 0; first && i < first->n_row; i++)
        for (uint32_t k = 0; k < first->row[i].n_doc; k++)
            longest = max_u32(longest, first->row[i].doc_len[k]);
    if (longest > known)
        log_msg(HLM_LOG_WARN, "the longest document has %u tokens, the model was trained for %u",
                longest, known);
}

enum { MAX_STEP_ROWS = 1 << 20 };

/* Works out the steps, the schedule, and how large rows become. */
static bool make_schedule(hlm_tune *t, struct hlm_err *err)
{
    const struct data_rows *first = stream_first(&t->stream, err);
    struct hlm_train_options *o = &t->o;
    if (!first)
        return false;
    uint64_t step_rows = (uint64_t)o->batch_rows * o->accumulation;
    if (!step_rows || step_rows > MAX_STEP_ROWS)
        return fail(err, "a step of %u times %u rows, expected 1 to %d rows", o->accumulation,
                    o->batch_rows, MAX_STEP_ROWS);
    tune_schedule(o, t->p.epochs, t->p.warmup, first->n_row);
    uint64_t n_row = step_rows * o->steps;
    if (!stream_extent(&t->stream, n_row, &t->extent, err))
        return false;
    warn_of_length(t);
    const struct data_rows *more[] = { &t->valid, &t->test };
    for (uint32_t k = 0; k < ARRAY_LEN(more); k++)
        for (uint32_t i = 0; i < more[k]->n_row; i++) {
            t->extent.max_tok = max_u32(t->extent.max_tok, data_row_used(&more[k]->row[i]));
            t->extent.max_doc = max_u32(t->extent.max_doc, more[k]->row[i].n_doc);
        }
    return true;
}

/* ---- the adapter ------------------------------------------------------------------------- */

/* Appends to a the targets of b that it does not have. */
static bool add_targets(struct lora_targets *a, const struct lora_targets *b, struct hlm_err *err)
{
    const struct gguf_tensor **more = mem_grow(a->t, a->n + b->n + 1, sizeof *more);
    if (!more)
        return fail_memory(err, "out of memory: a list of %" PRIu64 " targets", a->n + b->n);
    a->t = more;
    for (uint64_t i = 0, k; i < b->n; i++) {
        for (k = 0; k < a->n && a->t[k] != b->t[i]; k++)
            ;
        if (k == a->n)
            a->t[a->n++] = b->t[i];
    }
    return true;
}

/* A fresh adapter, in memory that t->fresh owns. */
static struct gguf *fresh_adapter(hlm_tune *t, uint32_t rank, const char *targets,
                                  struct hlm_err *err)
{
    const struct lora_base *base = &t->m->model->base;
    struct lora_fresh how = {
        .rank = rank, .alpha = (float)t->o.alpha, .rslora = t->o.rslora, .seed = t->p.seed
    };
    struct lora_targets list = { 0 }, more = { 0 };
    uint64_t n = 0;
    free(t->fresh);
    t->fresh = NULL;
    if (lora_find_targets(base, targets, &list, err) &&
        (!t->p.target_mtp || lora_find_targets(base, "mtp", &more, err)) &&
        add_targets(&list, &more, err))
        t->fresh = lora_make(base, &list, &how, &n, err);
    free(list.t);
    free(more.t);
    return t->fresh ? gguf_parse(t->fresh, n, "the new adapter", err) : NULL;
}

/* The adapter that training begins with. NULL with a reason. */
static struct lora_file *first_adapter(hlm_tune *t, uint32_t rank, const char *targets,
                                       struct hlm_err *err)
{
    struct gguf *g =
        t->p.init_lora ? gguf_open(t->p.init_lora, err) : fresh_adapter(t, rank, targets, err);
    t->rslora = t->p.init_lora ? g && lora_is_rslora(g) : t->o.rslora;
    if (g && !gguf_f32(g, "adapter.lora.alpha", REQUIRED, &t->alpha, err)) {
        gguf_close(g);
        g = NULL;
    }
    struct lora_file *f = lora_file_check(g, 1, &t->m->model->base, err);
    if (f && t->p.init_lora && !t->warned)
        adapters_warn_of_base(t->m, f);
    t->warned = true; /* it is read again, where less than all of it might fit */
    return f;
}

/* Puts the adapter in force in place of the one before; on a dry gpu nothing is brought to the
 * device. */
static bool set_trained_adapter(hlm_tune *t, uint32_t rank, const char *targets,
                                struct hlm_err *err)
{
    if (!adapters_clear(t->m, err)) /* first, since both together may not fit */
        return false;
    if (!t->o.train_lora && !t->p.init_lora)
        return true;
    struct lora_file *file = first_adapter(t, rank, targets, err);
    return file && adapters_set(t->m, &file, 1, true, err);
}

/* How many documents a row of max_tok slots can have. Documents that are longer are cut. */
static uint32_t most_documents(const hlm_tune *t, uint32_t max_tok)
{
    const struct data_set *set[] = { &t->data.train, &t->data.valid, &t->data.test };
    uint32_t shortest = t->p.data ? max_tok : 1;
    for (uint32_t k = 0; k < ARRAY_LEN(set); k++)
        for (uint32_t i = 0; i < set[k]->n_doc; i++)
            shortest = min_u32(shortest, set[k]->doc[i].n);
    return min_u32(t->extent.max_doc, max_tok / max_u32(shortest, 1));
}

struct train_params tune_train_params(const hlm_tune *t, uint32_t max_tok)
{
    return (struct train_params){
        .max_tok = max_tok,
        .max_doc = most_documents(t, max_tok),
        .train_lora = t->o.train_lora,
        .train_gates = t->o.train_gates,
        .mtp_factor = t->o.mtp_factor,
        .dropout = t->o.lora_dropout,
        .seed = t->p.seed,
        .f16 = t->f16,
        .layers = t->m->counting.layers,
    };
}

static struct trainer *make_trainer(hlm_tune *t, uint32_t max_tok, struct hlm_err *err)
{
    struct train_params p = tune_train_params(t, max_tok);
    return train_create(t->m->gpu, t->m->model, t->m->adapters.set, &p, err);
}

/* The tensor X of a parameter X.lora_a, X.lora_b or X.delta. */
static const struct gguf_tensor *param_base(const hlm_tune *t, const char *param)
{
    char name[64];
    const char *tail = strrchr(param, '.');
    snprintf(name, sizeof name, "%.*s", (int)(tail - param), param);
    return gguf_tensor(t->m->file, name);
}

/* Lists what the trainer trains. The lists live as long as the run. */
static bool list_params(hlm_tune *t, const struct trainer *trainer, struct hlm_err *err)
{
    uint64_t n = train_n_param(trainer);
    free(t->param);
    free(t->target);
    t->n_target = t->n_gate = t->n_number = 0;
    t->n_param = (uint32_t)n;
    t->param = mem_alloc(n, sizeof *t->param);
    t->target = mem_alloc(n, sizeof *t->target);
    if (!t->param || !t->target)
        return fail_memory(err, "out of memory: %" PRIu64 " trained tensors", n);
    for (uint64_t i = 0; i < n; i++) {
        struct train_param p = train_param(trainer, i);
        const struct gguf_tensor *x = param_base(t, p.name);
        snprintf(t->param[i].name, sizeof t->param[i].name, "%s", p.name);
        t->param[i].n = p.n;
        if (p.is_gate ? !t->o.train_gates : !t->o.train_lora)
            continue; /* the adapter changes it, but it is not trained */
        t->n_number += p.n;
        t->n_gate += p.is_gate;
        if (p.is_gate || !strcmp(strrchr(p.name, '.'), ".lora_a"))
            t->target[t->n_target++] = (struct hlm_tune_target){
                .name = x ? x->name : t->param[i].name,
                .n_in = p.dim[0],
                .n_out = x && !p.is_gate ? x->dim[1] : 1,
                .n_expert = x && !p.is_gate ? x->dim[2] : 1,
                .rank = p.is_gate ? 0 : p.dim[1],
            };
    }
    return true;
}

/* ---- what it costs --------------------------------------------------------------------------- */

/* Lays everything out for rows of max_tok slots, on a dry gpu. */
static bool dry_training(hlm_tune *t, uint32_t max_tok, bool list, struct hlm_plan *plan,
                         struct hlm_err *err)
{
    const struct hlm_session_params *sp = t->p.sample;
    struct trainer *trainer = make_trainer(t, max_tok, err);
    bool ok = trainer && (!list || list_params(t, trainer, err)) && train_commit(trainer, err);
    uint32_t n_ctx = ok && sp ? plan_ctx(t->m, sp, err) : 0;
    hlm_context *x = n_ctx ? context_lay_out(t->m, sp, n_ctx, err) : NULL;
    ok = ok && (!sp || (x && context_commit(x, err)));
    if (ok)
        *plan = plan_of(t->m, max_tok, 0);
    context_destroy(x);
    train_destroy(trainer);
    return ok;
}

static bool training_fits(hlm_tune *t, uint32_t max_tok, uint32_t rank, const char *targets)
{
    struct hlm_plan plan;
    struct hlm_err why = { 0 };
    bool same = rank == t->o.rank && targets == t->p.targets;
    return (same || set_trained_adapter(t, rank, targets, &why)) &&
           dry_training(t, max_tok, false, &plan, &why) && plan.fits;
}

/* The longest rows that fit with this adapter, a multiple of 64; 0: none fit. */
static uint32_t longest_rows(hlm_tune *t, uint32_t rank, const char *targets)
{
    uint32_t fits = 0, too_long = div_up(t->extent.max_tok, 64);
    if (!training_fits(t, 64, rank, targets))
        return 0;
    for (fits = 1; too_long - fits > 1;) {
        uint32_t n = fits + (too_long - fits) / 2;
        *(training_fits(t, 64 * n, rank, targets) ? &fits : &too_long) = n;
    }
    return 64 * fits;
}

/* What would fit where shorter rows do not help: a smaller rank, else fewer targets. */
static const char *training_that_fits(hlm_tune *t, char out[128])
{
    bool may_cut = t->p.data && t->extent.max_tok > 64, fresh = !t->p.init_lora && t->o.train_lora;
    uint32_t most = t->o.rank, tok = t->extent.max_tok, n;
    for (uint32_t rank = most / 2; fresh && rank; rank /= 2)
        if (training_fits(t, tok, rank, t->p.targets)) {
            snprintf(out, 128, "a rank of %u would fit", rank);
            return out;
        }
    if (!fresh || (t->p.targets && !strcmp(t->p.targets, "attn")))
        return "a smaller model would";
    if (training_fits(t, tok, most, "attn"))
        return "fewer targets (attn) would fit";
    if (may_cut && (n = longest_rows(t, most, "attn")))
        snprintf(out, 128, "the targets attn on rows of %u tokens would fit", n);
    else if (training_fits(t, may_cut ? 64 : tok, 1, "attn"))
        snprintf(out, 128, "the targets attn with a rank of 1%s would fit",
                 may_cut ? " on rows of 64 tokens" : "");
    else
        return "a smaller model would";
    return out;
}

static bool refuse_training(hlm_tune *t, struct hlm_err *err)
{
    char all[32], may[32], parts[256], would[128];
    struct hlm_plan plan = t->plan;
    struct hlm_err size = { .need = plan.device_bytes, .have = plan.memory };
    if (t->p.data && t->extent.max_tok > 64)
        size.fits = longest_rows(t, t->o.rank, t->p.targets);
    return fail_size(err, HLM_ERR_WONT_FIT, &size,
                     "out of memory: training on rows of %u tokens needs %s (%s), of %s %s may be "
                     "used%s%s",
                     t->extent.max_tok, bytes_text(all, plan.device_bytes),
                     plan_parts(&plan, parts), gpu_caps(t->m->gpu)->name,
                     bytes_text(may, plan.memory), size.fits ? "" : ": ",
                     size.fits ? "" : training_that_fits(t, would));
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool check_options(const hlm_tune *t, struct hlm_err *err)
{
    const struct hlm_train_options *o = &t->o;
    if (!t->p.data == !t->p.ids_json)
        return fail(err, "one of data and rows of ids is needed to learn from");
    if (!t->p.data && t->p.n_data_more + t->p.n_data_valid)
        return fail(err, "%.300s: rows of ids cannot be combined with other files of data",
                    t->p.ids_json);
    if (!o->train_lora && !o->train_gates)
        return fail(err, "nothing is to be trained: neither an adapter nor gates");
    if (o->train_gates && !t->m->model->base.n_gate)
        return fail(err, "%.300s: has no recurrent gates that could be trained", t->m->path);
    if (o->mtp_factor != 0 && !t->m->model->n_draft)
        return fail(err, "%.300s: %s: expected mtp_factor to be 0", t->m->path,
                    t->m->model->n_mtp ? "its draft (MTP) blocks were left out"
                                       : "it has no draft (MTP) block");
    return true;
}

static bool own_text(char **own, const char **text, struct hlm_err *err)
{
    if (!*text)
        return true;
    *own = mem_text(*text, strlen(*text));
    *text = *own;
    return *own || fail_memory(err, "out of memory for the parameters of a run");
}

static bool own_list(char **own, const char *const **list, uint32_t n, struct hlm_err *err)
{
    if (n > TUNE_MAX_FILES)
        return fail(err, "%u files of data, expected at most %d", n, TUNE_MAX_FILES);
    for (uint32_t i = 0; i < n; i++)
        if (!(own[i] = mem_text((*list)[i], strlen((*list)[i]))))
            return fail_memory(err, "out of memory for the parameters of a run");
    *list = (const char *const *)own;
    return true;
}

/* The caller's texts need not live as long as the run. */
static bool own_params(hlm_tune *t, const struct hlm_tune_params *p, struct hlm_err *err)
{
    t->p = *p;
    t->o = p->train;
    if (p->sample) {
        t->own.sample = *p->sample;
        t->p.sample = &t->own.sample;
    }
    return own_text(&t->own.data, &t->p.data, err) &&
           own_text(&t->own.ids_json, &t->p.ids_json, err) &&
           own_text(&t->own.init_lora, &t->p.init_lora, err) &&
           own_text(&t->own.targets, &t->p.targets, err) &&
           own_text(&t->own.resume, &t->p.resume, err) && own_text(&t->own.note, &t->p.note, err) &&
           own_text(&t->own.format, &t->p.read.format, err) &&
           own_list(t->own.more, &t->p.data_more, p->n_data_more, err) &&
           own_list(t->own.valid, &t->p.data_valid, p->n_data_valid, err);
}

/* What is to be trained, and that it fits. */
static bool choose_targets(hlm_tune *t, struct hlm_err *err)
{
    hlm *m = t->m;
    bool was = gpu_dry(m->gpu, true);
    bool ok = set_trained_adapter(t, t->o.rank, t->p.targets, err) &&
              dry_training(t, t->extent.max_tok, true, &t->plan, err) &&
              (t->plan.fits || refuse_training(t, err));
    gpu_dry(m->gpu, was);
    return ok && (was || adapters_upload(m, err));
}

hlm_tune *hlm_tune_open(hlm *m, const struct hlm_tune_params *p, struct hlm_err *err)
{
    api_begin(&m->log, err);
    if (m->n_session || m->tune) {
        fail_as(err, HLM_ERR_STATE,
                "training cannot begin while a session or another training is alive");
        return NULL;
    }
    hlm_tune *t = mem_alloc(1, sizeof *t);
    if (!t) {
        fail_memory(err, "out of memory: a training run");
        return NULL;
    }
    t->m = m;
    m->tune = t;
    t->f16 = p->precision == HLM_PRECISION_F16;
    if (p->precision == HLM_PRECISION_AUTO)
        t->f16 = !p->ids_json && linear_f16_pays(gpu_caps(m->gpu));
    t->alpha = (float)p->train.alpha;
    t->position.best_loss = t->position.valid_loss = INFINITY;
    bool ok = own_params(t, p, err) && check_options(t, err) &&
              (p->data ? read_documents(t, err) : read_fixed_rows(t, err)) && hash_data(t, err) &&
              make_schedule(t, err) && tune_count_sets(t, err) && choose_targets(t, err) &&
              (!p->resume || tune_find(t, err));
    if (!ok) {
        hlm_tune_close(t);
        return NULL;
    }
    return t;
}

void hlm_tune_close(hlm_tune *t)
{
    struct hlm_err err = { 0 };
    if (!t)
        return;
    hlm *m = t->m;
    log_to(&m->log);
    if (t->trainer)
        count_leave(m, train_stats(t->trainer));
    train_destroy(t->trainer);
    if (!adapters_clear(m, &err))
        log_msg(HLM_LOG_ERROR, "%s", err.msg);
    stream_finish(&t->stream);
    data_rows_free(&t->fixed);
    data_rows_free(&t->valid);
    data_rows_free(&t->test);
    data_free(&t->data);
    free(t->param);
    free(t->target);
    free(t->from);
    free(t->fresh);
    free(t->grads);
    for (uint32_t i = 0; i < ARRAY_LEN(t->doc_tok); i++)
        free(t->doc_tok[i]);
    char *own[] = { t->own.data,   t->own.ids_json, t->own.init_lora, t->own.targets,
                    t->own.resume, t->own.format,   t->own.note };
    for (uint32_t i = 0; i < ARRAY_LEN(own); i++)
        free(own[i]);
    for (uint32_t i = 0; i < TUNE_MAX_FILES; i++) {
        free(t->own.more[i]);
        free(t->own.valid[i]);
    }
    m->tune = NULL;
    free(t);
}
