/* train: gradients of rows of documents. See train.h; updates are in train_update.c.
 *
 * Padding at the end of a row is computed only up to a multiple of 32 slots, and a pass is recorded
 * once for each such length. What differs from row to row (ids, documents, chunks, targets) is in
 * one block of tables that the host writes before the pass. The head is a separate pass. It
 * computes one slice of the logits, and is submitted once for each slice that the counted tokens
 * fill. */
#include "train/train_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_STEP = 32 };                         /* row lengths are rounded up to this */
static const uint64_t SLICE_BYTES = 256u << 20; /* the most bytes of a slice of logits */

/* ---- tables ---------------------------------------------------------------------------------- */

/* A table of the block: its tensor, and its words on the host. */
static tensor take_table(struct trainer *t, uint32_t n, uint32_t n_row)
{
    return arena_tensor(t->tables, I32, n, n_row);
}

static uint32_t *table_words(struct trainer *t, tensor of)
{
    return (uint32_t *)(t->host + of.offset);
}

/* Takes room for statistics: in the tables, or, once these are allocated, in memory of its own. */
static bool take_stats(struct trainer *t, bool own, struct hlm_err *err)
{
    uint32_t n = t->m->n_layer + t->n_loss - 1;
    struct layer_shape *shape = mem_alloc(n, sizeof *shape);
    t->stats_at = mem_alloc(n, sizeof *t->stats_at);
    for (uint32_t i = 0; shape && i < n; i++)
        shape[i] = t->m->arch->shape(t->m, i);
    const struct kv_layers layers = { n, shape, t->stats_at };
    bool ok = shape && t->stats_at &&
              (own ? kv_stats_open(&t->stats, t->gpu, &layers, (tensor){ 0 }, NULL, err)
                   : kv_stats_init(&t->stats, t->gpu, t->tables, &layers, err));
    free(shape);
    return ok || fail_memory(err, "out of memory: %u layers", n);
}

static void leave_stats(struct trainer *t)
{
    kv_stats_finish(&t->stats);
    free(t->stats_at);
    t->stats_at = NULL;
}

bool train_tells_layers(const struct trainer *t) { return t->stats_at != NULL; }

bool train_tell_layers(struct trainer *t, bool on, struct hlm_err *err)
{
    recordings_finish(&t->recordings);
    if (on && take_stats(t, true, err))
        return true;
    leave_stats(t);
    return !on;
}

static bool take_tables(struct trainer *t, struct hlm_err *err)
{
    uint32_t n = t->max_tok, n_row = (uint32_t)align_up(n, t->slice_rows);
    uint32_t n_chunk = div_up(n, t->chunk) + t->p.max_doc + 1;
    t->tables = arena_create(t->gpu, "rows", MEM_DEVICE, err);
    if (!t->tables)
        return false;
    t->ids = take_table(t, n + t->n_loss, 1);
    t->docs = (struct docs){ .first = take_table(t, n, 1),
                             .chunk = (uint32_t)align_up(t->chunk, 16),
                             .n_chunk = n_chunk,
                             .chunks = take_table(t, 4, n_chunk) };
    t->docs.real = take_table(t, n, 1);
    t->dropout.key = take_table(t, 4, 1);
    for (uint32_t i = 0; i < t->n_loss; i++) {
        struct loss *l = &t->loss[i];
        l->step = take_table(t, sizeof(struct segment) / 4, 1);
        l->rows = take_table(t, n_row, 1);
        l->targets = take_table(t, n_row, 1);
        l->slice = take_table(t, 4, 1);
        l->weight = take_table(t, 4, 1);
        l->weight.dtype = F32;
    }
    t->host_bytes = arena_bytes(t->tables);
    for (uint32_t i = 0; i < t->n_loss; i++)
        t->loss[i].parts = arena_tensor(t->tables, F32, NLL_PARTS, n_row);
    t->parts = mem_alloc((uint64_t)NLL_PARTS * n_row, sizeof *t->parts);
    t->host = mem_alloc(t->host_bytes, 1);
    if (!t->host || !t->parts)
        return fail_memory(err, "out of memory: rows of %u tokens", n);
    return !t->p.layers || take_stats(t, false, err);
}

/* Takes memory for the inputs of layers, for two gradients of inputs that layers use in turn, and
 * for the inputs of losses. */
static bool take_inputs(struct trainer *t, struct hlm_err *err)
{
    uint32_t d = t->m->n_embd, n = t->max_tok, n_layer = t->m->n_layer;
    t->inputs = arena_create(t->gpu, "layer inputs", MEM_DEVICE, err);
    t->input = mem_alloc(n_layer + 1u, sizeof *t->input);
    if (!t->inputs || !t->input)
        return fail_memory(err, "out of memory: %u layers", n_layer);
    for (uint32_t i = 0; i <= n_layer; i++)
        t->input[i] = arena_tensor(t->inputs, F32, d, n);
    for (uint32_t i = 0; i < 2; i++)
        t->d_input[i] = arena_tensor(t->inputs, F32, d, n);
    t->loss[0].x = t->input[n_layer];
    t->loss[0].dx = t->d_input[n_layer % 2];
    for (uint32_t i = 1; i < t->n_loss; i++) {
        t->loss[i].x = arena_tensor(t->inputs, F32, d, n);
        t->loss[i].dx = arena_tensor(t->inputs, F32, d, n);
    }
    return true;
}

/* Slots that round the length up to n_tok belong to the padding, which is a separate document. */
static void write_documents(struct trainer *t, const struct data_row *row, uint32_t n_tok)
{
    uint32_t *ids = table_words(t, t->ids), *first = table_words(t, t->docs.first);
    uint32_t *chunk = table_words(t, t->docs.chunks), n_chunk = 0;
    uint32_t *real = table_words(t, t->docs.real);
    for (uint32_t i = 0; i < n_tok; i++)
        ids[i] = i < row->n ? (uint32_t)row->ids[i] : 0;
    for (uint32_t i = 0; i < t->n_loss; i++)
        ids[n_tok + i] = 0;
    for (uint32_t i = 0, end; i < n_tok; i = end) {
        int32_t doc = i < row->n ? row->doc[i] : -1;
        for (end = i + 1; end < n_tok && (end < row->n ? row->doc[end] : -1) == doc; end++) {
        }
        for (uint32_t at = i; at < end; at += t->chunk, n_chunk++) {
            uint32_t n = min_u32(t->chunk, end - at);
            memcpy(chunk + 4 * n_chunk, (uint32_t[]){ at, n, at == i, at + n == end }, 16);
        }
        for (uint32_t k = i; k < end; k++)
            first[k] = i;
        for (uint32_t k = i; k < end; k++)
            real[k] = doc >= 0;
    }
    HLM_ASSERT(n_chunk <= t->docs.n_chunk);
    memset(chunk + 4 * n_chunk, 0, 16 * (size_t)(t->docs.n_chunk - n_chunk));
}

/* The token that slot i of a row must predict, `ahead` tokens later; -1: it does not count. */
static int32_t target_of(const struct data_row *row, uint32_t i, uint32_t ahead)
{
    uint32_t at = i + ahead;
    bool counts = at < row->n && row->mask[at] && row->doc[at] >= 0 && row->doc[at] == row->doc[i];
    return counts ? row->ids[at] : -1;
}

static void write_targets(struct trainer *t, const struct data_row *row, struct loss *l,
                          double weight)
{
    uint32_t *rows = table_words(t, l->rows), *targets = table_words(t, l->targets);
    float w = (float)weight;
    l->n = 0;
    for (uint32_t i = 0; i < row->n; i++)
        if (target_of(row, i, l->ahead) >= 0) {
            rows[l->n] = i;
            targets[l->n++] = (uint32_t)target_of(row, i, l->ahead);
        }
    for (uint32_t i = l->n; i < l->rows.n; i++)
        rows[i] = targets[i] = NO_ROW;
    table_words(t, l->step)[0] = l->ahead - 1; /* pos of struct segment; the rest is zero */
    memset(table_words(t, l->slice), 0, 16);
    memcpy(table_words(t, l->weight), &w, 4);
}

/* ---- passes ---------------------------------------------------------------------------------- */

static tensor first_rows(tensor t, uint32_t n) { return tensor_rows(t, 0, n); }

/* Later layers read nothing from the block scratch of a layer, so all use the same one. */
static void restart_block_scratch(struct cmd *c)
{
    cmd_begin_block(c);
    cmd_begin_block(c);
}

/* The cache of layer i. Training has no caches; in the first pass over a row this has only room for
 * the layer's statistics. */
static struct layer_cache stats_cache(const struct trainer *t, const struct train_pass *p,
                                      uint32_t i)
{
    return t->stats_at && p->kind == PASS_FIRST ? t->stats_at[i] : (struct layer_cache){ 0 };
}

static tensor run_block(struct cmd *c, struct trainer *t, const struct train_pass *p, uint32_t i)
{
    struct layer_cache stats = stats_cache(t, p, i);
    return t->m->arch->block(c, t->m, i, &stats, &p->batch, first_rows(t->input[i], p->n_tok));
}

/* The input of loss i > 0: draft block i - 1, applied to the input of the loss before. */
static tensor run_draft(struct cmd *c, struct trainer *t, const struct train_pass *p, uint32_t i)
{
    const struct model *m = t->m;
    struct layer_cache stats = stats_cache(t, p, m->n_layer + i - 1);
    struct batch ahead = p->batch;
    ahead.step = t->loss[i].step;
    tensor h = first_rows(t->loss[i - 1].x, p->n_tok);
    if (!m->arch->draft_raw)
        h = op_norm(c, h, i > 1 ? m->draft[i - 2].norm : m->output_norm, m->eps);
    tensor e = op_embed(c, m->draft[i - 1].token_embd, &ahead);
    return model_draft(c, m, i - 1, &stats, &p->batch, (struct draft_input){ h, e });
}

static void begin_layer(struct cmd *c, uint32_t i, bool again)
{
    restart_block_scratch(c);
    cmd_set_layer(c, i);
    tape_layer(c, i, again);
}

static void record_first(struct cmd *c, struct trainer *t, const struct train_pass *p, bool again)
{
    const struct model *m = t->m;
    tensor x = op_embed(c, &m->token_embd, &p->batch);
    for (uint32_t i = 0; i <= m->n_layer && !cmd_failed(c); i++) {
        cmd_copy(c, t->input[i], x, tensor_bytes(x));
        if (i == m->n_layer)
            break;
        begin_layer(c, i, again);
        x = run_block(c, t, p, i);
    }
    for (uint32_t i = 0; i < t->n_loss; i++) {
        if (i) {
            begin_layer(c, m->n_layer + i - 1, again);
            x = run_draft(c, t, p, i);
            cmd_copy(c, t->loss[i].x, x, tensor_bytes(x));
        }
        cmd_fill(c, t->loss[i].dx, tensor_bytes(t->loss[i].dx), 0);
    }
}

/* Records the backward from the last draft block to the lowest layer with something to train. */
static void record_back(struct cmd *c, struct trainer *t, const struct train_pass *p)
{
    for (uint32_t i = t->n_loss; i-- > 1 && !cmd_failed(c);) {
        begin_layer(c, t->m->n_layer + i - 1, true);
        tape_begin(c, first_rows(t->loss[i - 1].x, p->n_tok),
                   first_rows(t->loss[i - 1].dx, p->n_tok));
        tape_back(c, run_draft(c, t, p, i), first_rows(t->loss[i].dx, p->n_tok));
    }
    for (uint32_t i = t->m->n_layer; i-- > t->lowest && !cmd_failed(c);) {
        tensor dy = first_rows(t->d_input[(i + 1) % 2], p->n_tok), dx = { 0 };
        if (i > t->lowest) {
            dx = first_rows(t->d_input[i % 2], p->n_tok);
            cmd_fill(c, dx, tensor_bytes(dx), 0);
        }
        begin_layer(c, i, true);
        tape_begin(c, first_rows(t->input[i], p->n_tok), dx);
        tape_back(c, run_block(c, t, p, i), dy);
    }
}

/* Records the loss of one slice of the counted tokens of loss i. */
static void record_head(struct cmd *c, struct trainer *t, uint32_t i, bool back)
{
    const struct model *m = t->m;
    const struct loss *l = &t->loss[i];
    if (back)
        tape_begin(c, l->x, l->dx);
    tensor h = op_gather(c, l->x, l->rows, t->slice_rows, l->slice);
    h = op_norm(c, h, i ? m->draft[i - 1].norm : m->output_norm, m->eps);
    tensor logits = op_linear(c, h, LINEARS(i ? m->draft[i - 1].output : &m->output));
    op_nll_targets(c, logits, l->targets, l->slice, l->parts, l->weight);
    if (back)
        tape_back(c, logits, grad(c, logits));
    op_next_slice(c, l->slice);
}

static void record_pass(void *user, struct cmd *c, struct recording_key key, uint32_t slot)
{
    struct trainer *t = user;
    struct train_pass *p = &t->pass[slot];
    *p = (struct train_pass){ .kind = key.kind, .n_tok = key.n_tok, .docs = t->docs };
    p->batch = (struct batch){ .n_tok = p->n_tok,
                               .n_seg = 1,
                               .step = t->loss[0].step,
                               .ids = t->ids,
                               .docs = &p->docs,
                               .stats = true };
    p->docs.first.n = p->docs.real.n = p->n_tok;
    p->docs.n_chunk = div_up(p->n_tok, t->chunk) + min_u32(t->p.max_doc + 1, p->n_tok);
    p->docs.n_chunk = min_u32(p->docs.n_chunk, t->docs.n_chunk);
    p->docs.chunks.n_row = p->docs.n_chunk;
    tape_attach(c, t->tape);
    cmd_set_f16(c, t->p.f16);
    tape_drops(c, p->kind != PASS_EVAL && p->kind != PASS_HEAD_EVAL);
    restart_block_scratch(c);
    if (p->kind == PASS_BACK)
        record_back(c, t, p);
    else if (p->kind == PASS_HEAD || p->kind == PASS_HEAD_EVAL)
        record_head(c, t, key.index, p->kind == PASS_HEAD);
    else
        record_first(c, t, p, p->kind == PASS_AGAIN);
}

static const char *const pass_names[] = {
    [PASS_FIRST] = "first pass",
    [PASS_AGAIN] = "first pass, experts kept",
    [PASS_EVAL] = "validation pass",
    [PASS_BACK] = "backward pass",
    [PASS_HEAD] = "loss",
    [PASS_HEAD_EVAL] = "validation loss",
};

static struct recording_key pass_key(enum pass_kind kind, uint32_t n_tok, uint32_t loss)
{
    return (struct recording_key){ .kind = kind, .n_tok = n_tok, .index = loss };
}

/* Records the passes of the longest row, so that the scratch arena becomes as large as any row
 * needs. */
static bool lay_out_passes(struct trainer *t, struct hlm_err *err)
{
    struct recordings *r = &t->recordings;
    bool ok = recordings_lay_out(r, pass_key(PASS_FIRST, t->max_tok, 0), err) &&
              recordings_lay_out(r, pass_key(PASS_BACK, t->max_tok, 0), err);
    for (uint32_t i = 0; ok && i < t->n_loss; i++)
        ok = recordings_lay_out(r, pass_key(PASS_HEAD, 0, i), err);
    return ok && updates_record(t, err);
}

/* ---- a row ----------------------------------------------------------------------------------- */

static bool run_pass(struct trainer *t, enum pass_kind kind, uint32_t n_tok, uint32_t loss,
                     struct hlm_err *err)
{
    const struct recording_key key = pass_key(kind, n_tok, loss);
    struct hlm_err why = { 0 };
    struct cmd *c = recordings_get(&t->recordings, key, &why);
    if (!c && t->stats.own) { /* perhaps they are what there was no room for */
        log_msg(HLM_LOG_WARN, "no statistics of layers: %s", why.msg);
        t->stats_refused = true;
        train_tell_layers(t, false, NULL);
        c = recordings_get(&t->recordings, key, err);
    } else if (!c) {
        fail_from(err, &why, "");
    }
    return c && cmd_submit(c, err);
}

/* Reads back the losses of all slices, and sums them in double and in order. */
static bool read_loss(struct trainer *t, const struct loss *l, double share, double *sum,
                      double *nll, struct hlm_err *err)
{
    const uint32_t *rows = table_words(t, l->rows);
    if (l->n && !gpu_read(t->gpu, l->parts, 0, t->parts, 4ull * NLL_PARTS * l->n, err))
        return false;
    for (uint32_t k = 0; k < l->n; k++) {
        double v = nll_from(t->parts + (size_t)NLL_PARTS * k);
        *sum += share * v;
        if (nll)
            nll[rows[k] + l->ahead] += share * v;
    }
    return true;
}

/* Writes the row's tables to the device. *any false: no token of the row counts, so nothing has to
 * be run. */
static bool write_row(struct trainer *t, const struct data_row *row, double weight, uint32_t n_tok,
                      bool *any, struct hlm_err *err)
{
    uint32_t n_word = (uint32_t)(t->host_bytes / 4);
    tensor all = { .arena = t->tables, .dtype = I32, .n = n_word, .n_row = 1, .stride = n_word };
    HLM_ASSERT(data_row_used(row) <= t->max_tok && row->n_doc <= t->p.max_doc);
    write_documents(t, row, n_tok);
    *any = false;
    for (uint32_t i = 0; i < t->n_loss; i++) {
        struct loss *l = &t->loss[i];
        write_targets(t, row, l, i ? weight * t->p.mtp_factor / (t->n_loss - 1) : weight);
        *any = *any || l->n;
    }
    return !*any || gpu_write(t->gpu, all, 0, t->host, t->host_bytes, err);
}

/* After a row whose loss is not finite: which block is the first whose output is not. Always
 * false. */
static bool not_finite(struct trainer *t, uint32_t n_row, struct hlm_err *err)
{
    const struct model *m = t->m;
    uint64_t n = (uint64_t)n_row * m->n_embd;
    float *v = mem_alloc(n, sizeof *v);
    char what[64] = "the last norm or the output matrix";
    bool found = false;
    if (!v)
        return fail(err, "the loss is not finite; there is no memory to find the block");
    for (uint32_t i = 0; !found && i < m->n_layer + t->n_loss; i++) {
        tensor x = i <= m->n_layer ? t->input[i] : t->loss[i - m->n_layer].x;
        if (!gpu_read(t->gpu, x, 0, v, 4 * n, err))
            break;
        found = !all_finite(v, n);
        if (found && i)
            snprintf(what, sizeof what, "block %u", i - 1);
        else if (found)
            snprintf(what, sizeof what, "token_embd.weight");
    }
    free(v);
    return fail(err,
                "the loss is not finite, and %s is the first whose output is not: training "
                "diverged (try a lower learning rate), or %s is damaged",
                what, gguf_path(m->file));
}

static bool run_row(struct trainer *t, const struct data_row *row, bool back, struct row_job job,
                    struct train_sums *sums, struct hlm_err *err)
{
    uint32_t n_tok = (uint32_t)align_up(max_u32(data_row_used(row), 1), ROW_STEP);
    bool any;
    n_tok = min_u32(n_tok, t->max_tok);
    if (job.nll)
        memset(job.nll, 0, row->n * sizeof *job.nll);
    if (job.nll_mtp)
        memset(job.nll_mtp, 0, row->n * sizeof *job.nll_mtp);
    if (!write_row(t, row, job.weight, n_tok, &any, err))
        return false;
    if (!any)
        return true;
    enum pass_kind first = !back ? PASS_EVAL : PASS_FIRST;
    if (t->p.keep_experts && t->chosen)
        first = PASS_AGAIN;
    if (!run_pass(t, first, n_tok, 0, err))
        return false;
    t->chosen = true;
    for (uint32_t i = 0; i < t->n_loss; i++)
        for (uint32_t k = 0; k < t->loss[i].n; k += t->slice_rows)
            if (!run_pass(t, back ? PASS_HEAD : PASS_HEAD_EVAL, 0, i, err))
                return false;
    if (back && !run_pass(t, PASS_BACK, n_tok, 0, err))
        return false;
    for (uint32_t i = 0; i < t->n_loss; i++)
        if (!read_loss(t, &t->loss[i], i ? 1.0 / (t->n_loss - 1) : 1, i ? &sums->mtp : &sums->main,
                       i ? job.nll_mtp : job.nll, err))
            return false;
    sums->n += t->loss[0].n;
    return gpu_wait(t->gpu, err) && ((isfinite(sums->main) && isfinite(sums->mtp)) ||
                                     not_finite(t, data_row_used(row), err));
}

bool train_row(struct trainer *t, const struct data_row *row, struct row_job job,
               struct train_sums *sums, struct hlm_err *err)
{
    uint32_t key[4] = { (uint32_t)t->p.seed, (uint32_t)(t->p.seed >> 32), (uint32_t)job.step,
                        job.i_row };
    memcpy(table_words(t, t->dropout.key), key, sizeof key);
    return run_row(t, row, true, job, sums, err);
}

bool train_eval(struct trainer *t, const struct data_row *row, struct train_sums *sums,
                struct hlm_err *err)
{
    return run_row(t, row, false, (struct row_job){ 0 }, sums, err);
}

struct kv_stats *train_stats(struct trainer *t) { return &t->stats; }
bool train_refused_layers(const struct trainer *t) { return t->stats_refused; }

/* ---- creating and destroying ----------------------------------------------------------------- */

struct trainer *train_create(struct gpu *g, struct model *m, struct lora_set *set,
                             const struct train_params *p, struct hlm_err *err)
{
    struct trainer *t = mem_alloc(1, sizeof *t);
    if (!t) {
        fail_memory(err, "out of memory: a trainer");
        return NULL;
    }
    HLM_ASSERT(p->chunk <= 64);
    t->gpu = g;
    t->m = m;
    t->set = set;
    t->p = *p;
    /* on CPU devices the products of a larger chunk cost more than is saved by fewer states */
    t->chunk = p->chunk ? p->chunk : gpu_caps(g)->kind == GPU_CPU ? 32 : 64;
    t->max_tok = max_u32(p->max_tok, 1);
    t->slice_rows = max_u32(1, min_u32(t->max_tok, (uint32_t)(SLICE_BYTES / (4 * m->n_vocab))));
    t->n_loss = 1 + (p->mtp_factor != 0 ? m->n_draft : 0);
    for (uint32_t i = 0; i < MAX_LOSS; i++)
        t->loss[i].ahead = i + 1;
    t->dropout.p = (float)p->dropout;
    bool ok = t->n_loss <= MAX_LOSS ||
              fail_as(err, HLM_ERR_UNSUPPORTED, "%s: %u draft blocks, at most %u can be trained",
                      gguf_path(m->file), m->n_draft, MAX_LOSS - 1);
    t->n_loss = min_u32(t->n_loss, MAX_LOSS);
    ok = ok && take_tables(t, err) && take_inputs(t, err) && updates_init(t, err);
    if (ok)
        t->scratch = arena_create(g, "scratch", MEM_DEVICE, err);
    t->recordings = (struct recordings){ .gpu = g,
                                         .scratch = t->scratch,
                                         .name = pass_names,
                                         .n = MAX_RECORDING,
                                         .record = record_pass,
                                         .user = t };
    ok = ok && t->scratch && (t->tape = tape_create(t->inputs, &t->dropout, err)) &&
         updates_tape(t, err) && lay_out_passes(t, err);
    if (!ok) {
        fail_memory(err, "out of memory: a trainer");
        train_destroy(t);
        return NULL;
    }
    return t;
}

bool train_commit(struct trainer *t, struct hlm_err *err)
{
    return model_commit(t->tables, "shorter rows need less", err) &&
           model_commit(t->inputs, "shorter rows need less", err) &&
           model_commit(t->scratch, "shorter rows need less", err) && updates_commit(t, err);
}

void train_destroy(struct trainer *t)
{
    if (!t)
        return;
    recordings_finish(&t->recordings);
    updates_finish(t);
    leave_stats(t);
    tape_destroy(t->tape);
    arena_destroy(t->tables);
    arena_destroy(t->inputs);
    arena_destroy(t->scratch);
    free(t->input);
    free(t->host);
    free(t->parts);
    free(t);
}
