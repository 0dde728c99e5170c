/* tune_info: reports the data, the targets and the progress of a run, and writes rows to a file.
 * See hlm_train.h. */
#include "train/tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sets and rows --------------------------------------------------------------------------- */

static const struct data_set *documents(const hlm_tune *t, enum hlm_tune_set set)
{
    const struct data_set *all[] = { [HLM_TUNE_TRAIN] = &t->data.train,
                                     [HLM_TUNE_VALID] = &t->data.valid,
                                     [HLM_TUNE_TEST] = &t->data.test };
    return all[set];
}

static uint64_t count_padding(const struct data_rows *r)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < r->n_row; i++)
        n += r->row[i].padding;
    return n;
}

static bool list_lengths(hlm_tune *t, enum hlm_tune_set set, struct hlm_err *err)
{
    const struct data_set *s = documents(t, set);
    uint32_t *n = mem_alloc(s->n_doc, sizeof *n);
    if (!n)
        return fail_memory(err, "out of memory: lengths of %u documents", s->n_doc);
    for (uint32_t i = 0; i < s->n_doc; i++)
        n[i] = s->doc[i].n;
    t->doc_tok[set] = n;
    return true;
}

bool tune_count_sets(hlm_tune *t, struct hlm_err *err)
{
    const struct data_rows *first = stream_first(&t->stream, err);
    if (!first)
        return false;
    t->n_row = first->n_row;
    t->n_padding = count_padding(first);
    bool ok = true;
    for (int i = HLM_TUNE_TRAIN; ok && t->p.data && i <= HLM_TUNE_TEST; i++)
        ok = list_lengths(t, (enum hlm_tune_set)i, err);
    return ok;
}

/* Rows of ids only have the lengths of their documents. */
static struct hlm_set_info fixed_info(const hlm_tune *t)
{
    const struct data_rows *r = &t->fixed;
    struct hlm_set_info s = { .n_counted = r->n_counted };
    for (uint32_t i = 0; i < r->n_row; i++) {
        s.n_tok += r->row[i].n - r->row[i].padding;
        s.n_doc += r->row[i].n_doc;
        for (uint32_t k = 0; k < r->row[i].n_doc; k++)
            s.longest = max_u64(s.longest, r->row[i].doc_len[k]);
    }
    return s;
}

struct hlm_set_info hlm_tune_set_info(hlm_tune *t, enum hlm_tune_set set)
{
    if ((unsigned)set > HLM_TUNE_TEST)
        return (struct hlm_set_info){ 0 };
    const struct data_set *d = documents(t, set);
    const struct data_rows *rows = set == HLM_TUNE_VALID  ? &t->valid
                                   : set == HLM_TUNE_TEST ? &t->test
                                   : t->p.ids_json        ? &t->fixed
                                                          : &t->stream.rows;
    struct hlm_set_info s = {
        .n_doc = d->n_doc,
        .n_tok = d->n_id,
        .n_counted = d->n_counted,
        .n_cut = d->counts.n_cut,
        .n_tok_cut = d->counts.n_ids_cut,
        .n_dropped = d->counts.n_dropped,
        .n_bad = d->counts.n_bad,
        .longest = d->counts.longest,
        .n_answer = d->counts.n_answer,
        .n_unsaid = d->counts.n_unsaid,
        .doc_tok = t->doc_tok[set],
    };
    log_to(&t->m->log);
    for (uint32_t i = 0; i < d->n_doc; i++) /* cuts of a whole file are counted in train */
        s.longest = max_u64(s.longest, d->doc[i].n);
    if (t->p.ids_json && set == HLM_TUNE_TRAIN)
        s = fixed_info(t);
    s.n_row = set == HLM_TUNE_TRAIN ? t->n_row : rows->n_row;
    s.n_padding = set == HLM_TUNE_TRAIN ? t->n_padding : count_padding(rows);
    s.row_length = rows->row_length;
    s.packed = rows->packed;
    return s;
}

bool hlm_tune_row(hlm_tune *t, uint64_t i, struct hlm_row *out)
{
    struct cursor c = { .i_row = (uint32_t)i };
    log_to(&t->m->log);
    const struct data_row *r = !t->begun && i < t->n_row ? stream_row(&t->stream, &c, NULL) : NULL;
    if (!r)
        return false;
    *out = (struct hlm_row){
        .n = r->n, .padding = r->padding, .ids = r->ids, .doc = r->doc, .mask = r->mask
    };
    return true;
}

/* ---- the run --------------------------------------------------------------------------------- */

struct hlm_tune_info hlm_tune_get_info(hlm_tune *t)
{
    return (struct hlm_tune_info){
        .train = &t->o,
        .from_ids = t->p.ids_json != NULL,
        .f16 = t->f16,
        .max_tok = t->extent.max_tok,
        .max_doc = t->extent.max_doc,
        .n_run_row = t->extent.n_row,
        .epochs = t->p.epochs,
        .chose_epochs = t->chosen.epochs,
        .chose_batch_rows = t->chosen.batch_rows,
        .chose_lr = t->chosen.lr,
        .target = t->target,
        .n_target = t->n_target,
        .n_number = t->n_number,
        .n_gate = t->n_gate,
        .step = t->position.step,
        .best_loss = t->position.best_loss,
        .best_step = t->position.best_step,
        .valid_loss = t->position.valid_loss,
        .valid_step = t->position.valid_step,
        .n_worse = t->position.n_worse,
        .n_tok = t->position.n_tok,
        .took_s = t->position.took_s,
    };
}

struct hlm_plan hlm_tune_plan(const hlm_tune *t) { return t->plan; }

/* ---- rows as a file -------------------------------------------------------------------------- */

/* The file's name without folder and ending. */
static void case_name(char out[64], const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    snprintf(out, 64, "%.*s", (int)strcspn(name, "."), name);
}

static bool width_of(const struct gguf *g, uint32_t *n_embd, struct hlm_err *err)
{
    struct hlm_str arch;
    char key[80];
    if (!gguf_str(g, "general.architecture", REQUIRED, &arch, err))
        return false;
    snprintf(key, sizeof key, "%.*s.embedding_length", (int)min_u64(arch.n, 40), arch.p);
    return gguf_u32(g, key, REQUIRED, n_embd, err) &&
           (*n_embd || fail(err, "%.300s: %s is 0", gguf_path(g), key));
}

static bool dump(const struct hlm_vocab *v, const struct hlm_tune_params *p, const char *path,
                 struct hlm_dump_sum *sum, struct hlm_err *err)
{
    struct hlm_train_options o = p->train;
    struct data_params how;
    struct data d = { 0 };
    struct data_rows rows = { 0 };
    char name[64];
    if (!tune_reading(p, v, &how, err))
        return false;
    uint32_t n_embd, length = p->no_pack ? 0 : how.max_seq;
    double epochs = p->epochs;
    struct tune_chosen chosen;
    struct tune_files f;
    if (!width_of(v->file, &n_embd, err) || !tune_files(p, &f, err) ||
        !data_load(&d, &f.files, &how, err))
        return false;
    const struct tune_size size = { .n_doc = d.train.n_doc,
                                    .n_tok = d.train.n_id,
                                    .n_counted = d.train.n_counted,
                                    .max_seq = length,
                                    .n_embd = n_embd };
    tune_choose(&size, &o, &epochs, &chosen);
    bool ok = tune_pack(&rows, &d.train, length, chosen.want_rows, data_pad(v->file, v->tok), err);
    if (ok) {
        o.shuffle = false;
        tune_schedule(&o, epochs, p->warmup, rows.n_row);
        case_name(name, p->data);
        ok = data_dump(path, &rows, &o, name, "jsonl", err);
    }
    const struct data_counts *c = &d.train.counts;
    *sum = (struct hlm_dump_sum){ rows.n_row, d.train.n_doc, rows.n_counted, c->n_answer,
                                  c->n_unsaid };
    data_rows_free(&rows);
    data_free(&d);
    return ok;
}

bool hlm_tune_dump_rows(const char *model, const struct hlm_tune_params *p, const char *path,
                        const struct hlm_log *log, struct hlm_dump_sum *out, struct hlm_err *err)
{
    struct hlm_dump_sum sum = { 0 };
    api_begin(log, err);
    if (!p->data)
        return fail(err, "%.300s: there are no documents to write rows of", path);
    struct gguf *g = gguf_open(model, err);
    struct hlm_vocab *v = g ? vocab_of(g, log, err) : NULL;
    bool ok = v && dump(v, p, path, &sum, err);
    hlm_vocab_close(v);
    gguf_close(g);
    if (ok && out)
        *out = sum;
    return ok;
}
