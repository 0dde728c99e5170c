/* context: recordings and their submission.
 *
 * For each way of using the model - n tokens of a sequence with or without logits, one token of
 * each of n sequences with sampling, sampling alone - a context has a recording (gpu/recording.h),
 * made when it is first needed. Which sequences a batch is of, where they stand, and how they
 * sample is in device memory, in the step buffer (push.h). The last kernel of each recording
 * advances that, so that between two tokens of the same sequences the host writes nothing. */
#include "session/session.h"

#include <assert.h>
#include <string.h>

/* ---- recordings ------------------------------------------------------------------------------ */

/* Head and likelihoods for the rows of x, a slice at a time: with a large vocabulary, all logits of
 * a batch would take half a gigabyte. x is copied first, because every head takes the other block
 * scratch. */
static void record_nll(hlm_context *x, struct cmd *c, tensor y, const struct batch *b)
{
    cmd_copy(c, x->nll_rows, y, 4ull * y.n * b->n_tok);
    for (uint32_t at = 0; at < b->n_tok; at += x->n_nll) {
        uint32_t n = min_u32(x->n_nll, b->n_tok - at);
        tensor slice = cmd_scratch(c, F32, y.n, n);
        cmd_copy(c, slice, tensor_rows(x->nll_rows, at, n), 4ull * y.n * n);
        op_nll(c, model_head(c, x->m->model, slice, NULL), x->nll_parts, b, at);
    }
}

/* Row i of y at the beginning of a tensor: a binding may not begin at any row. */
static tensor row_alone(struct cmd *c, tensor y, uint32_t i)
{
    if (y.n_row == 1)
        return y;
    tensor row = cmd_scratch(c, F32, y.n, 1);
    cmd_copy(c, row, tensor_rows(y, i, 1), 4ull * y.n);
    return row;
}

/* What follows the last block of a batch. */
static void record_end(hlm_context *x, struct cmd *c, enum context_recording kind, tensor y,
                       const struct batch *b)
{
    const struct model *m = x->m->model;
    uint32_t last = b->n_tok - 1;
    if (kind == REC_EVAL || kind == REC_EVAL_HIDDEN) {
        tensor norm = tensor_rows(x->hidden, b->n_tok * (m->n_layer + 1), b->n_tok);
        y = model_head(c, m, y, kind == REC_EVAL ? NULL : &norm);
        cmd_copy(c, x->all_logits, y, 4ull * y.stride * b->n_tok);
        op_keep_logits(c, row_alone(c, y, last), x->logits, b);
    } else if (kind == REC_NLL) {
        record_nll(x, c, y, b);
    } else if (kind == REC_READ_LAST) {
        op_keep_logits(c, model_head(c, m, row_alone(c, y, last), NULL), x->logits, b);
    } else if (kind == REC_NEXT || kind == REC_NEXT_STATS) {
        y = model_head(c, m, y, NULL);
        op_keep_logits(c, y, x->logits, b);
        op_sample(c, y, &x->sampler, b, 1);
        return;
    }
    op_advance(c, b);
}

static void record_context(void *user, struct cmd *c, struct recording_key key, uint32_t slot)
{
    hlm_context *x = user;
    const struct model *m = x->m->model;
    enum context_recording kind = key.kind;
    bool decodes = kind == REC_NEXT || kind == REC_NEXT_STATS;
    struct batch b = { .n_tok = key.n_tok,
                       .n_seg = decodes ? key.n_tok : 1,
                       .step = x->step,
                       .ids = x->ids,
                       .stats = kind != REC_NEXT };
    (void)slot;
    cmd_set_f16(c, x->m->f16);
    cmd_set_each(c, decodes);
    if (kind == REC_SAMPLE) {
        op_sample(c, op_kept_logits(c, x->logits, &b), &x->sampler, &b, 0);
        return;
    }
    bool hidden = kind == REC_EVAL_HIDDEN;
    tensor rows = tensor_rows(x->hidden, 0, hidden ? b.n_tok * (m->n_layer + 1) : 0);
    record_end(x, c, kind, model_forward(c, m, &x->kv, &b, hidden ? &rows : NULL), &b);
}

void context_init_recordings(hlm_context *x)
{
    static const char *const names[] = {
        [REC_READ] = "read",
        [REC_READ_LAST] = "read, last logits",
        [REC_EVAL] = "eval",
        [REC_EVAL_HIDDEN] = "eval with hidden states",
        [REC_NLL] = "likelihoods",
        [REC_NEXT] = "next token",
        [REC_NEXT_STATS] = "next token, gates reported",
        [REC_SAMPLE] = "sample",
    };
    enum { MAX_OTHERS = 15 }; /* reading in batches of many sizes */
    static_assert(MAX_OTHERS + MAX_SEGMENT <= MAX_RECORDING, "there is room for all of them");
    x->recordings = (struct recordings){ .gpu = x->m->gpu,
                                         .scratch = x->scratch,
                                         .name = names,
                                         .n = MAX_OTHERS + x->n_seq,
                                         .record = record_context,
                                         .user = x };
}

static struct recording_key context_key(enum context_recording kind, uint32_t n_tok)
{
    return (struct recording_key){ .kind = kind, .n_tok = n_tok };
}

/* Answers report their gates from time to time. */
static bool reports_gates(const hlm_context *x)
{
    return x->layers.has_gates && count_watched(x->m);
}

bool context_lay_out_recordings(hlm_context *x, struct hlm_err *err)
{
    const struct {
        bool wanted;
        struct recording_key key;
    } rows[] = {
        { true, context_key(REC_READ_LAST, x->n_batch) },
        { true, context_key(REC_NEXT, 1) },
        { x->n_seq > 1, context_key(REC_NEXT, x->n_seq) },
        { x->n_batch >= 8, context_key(REC_READ_LAST, 8) }, /* other kernels than a large batch */
        { x->n_eval > 0, context_key(REC_EVAL, x->n_eval) },
        { x->keep_hidden, context_key(REC_EVAL_HIDDEN, x->n_eval) },
        { x->n_nll > 0, context_key(REC_NLL, x->n_batch) },
        { reports_gates(x), context_key(REC_NEXT_STATS, 1) },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].wanted && !recordings_lay_out(&x->recordings, rows[i].key, err))
            return false;
    return true;
}

bool context_ready(hlm_context *x, struct hlm_err *err)
{
    return recordings_get(&x->recordings, context_key(REC_NEXT, 1), err) &&
           (!reports_gates(x) ||
            recordings_get(&x->recordings, context_key(REC_NEXT_STATS, 1), err));
}

void context_follow_watch(hlm_context *x)
{
    struct hlm_err why = { 0 };
    count_follow(x->m);
    bool wanted = x->m->counting.layers, are = x->layers.place != NULL;
    if (!wanted)
        x->layers_off = x->stats_off = false;
    if (wanted == are || (wanted && x->layers_off) || (are && !x->layers.own))
        return;
    x->layers_off = !context_show_layers(x, wanted, &why);
    if (x->layers_off)
        log_msg(HLM_LOG_WARN, "no statistics of layers: %s", why.msg);
}

static struct cmd *get_recording(hlm_context *x, enum context_recording kind, uint32_t n_tok,
                                 struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    struct recording_key key = context_key(kind, n_tok);
    struct cmd *c = recordings_get(&x->recordings, key, &why);
    if (!c && x->layers.own) { /* perhaps they are what there was no room for */
        log_msg(HLM_LOG_WARN, "no statistics of layers: %s", why.msg);
        x->layers_off = true;
        return context_show_layers(x, false, err) ? recordings_get(&x->recordings, key, err) : NULL;
    }
    if (!c)
        fail_from(err, &why, "");
    return c;
}

/* The recording of one token of each of n sequences, and the token after it. Statistics never end
 * an answer: if their recording had to make room for another one and cannot be made again, decoding
 * goes on without them. Gates are those of a single sequence. */
static struct cmd *get_next(hlm_context *x, uint32_t n, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    if (n == 1 && reports_gates(x) && !x->stats_off && count_due(x->m)) {
        struct cmd *c = recordings_get(&x->recordings, context_key(REC_NEXT_STATS, 1), &why);
        if (c)
            return c;
        x->stats_off = true;
        log_msg(HLM_LOG_WARN, "answers no longer report their gates: %s", why.msg);
    }
    return get_recording(x, REC_NEXT, n, err);
}

/* At the end of a training its adapter goes, and the recordings that use it. */
static void drop_old_recordings(hlm_context *x)
{
    if (x->n_change == x->m->n_change)
        return;
    x->n_change = x->m->n_change;
    if (x->m->tune)
        return;
    context_drop_ahead(x);
    recordings_finish(&x->recordings);
}

struct cmd *context_recording(hlm_context *x, enum context_recording kind, uint32_t n,
                              struct hlm_err *err)
{
    drop_old_recordings(x);
    return kind == REC_NEXT ? get_next(x, n, err) : get_recording(x, kind, n, err);
}

/* ---- submission ------------------------------------------------------------------------------ */

/* Writes rows [0, n) of a device buffer if they differ from the copy that the host has of the first
 * *n_same rows. */
static bool write_rows(hlm_context *x, tensor to, const void *want, void *have, uint32_t *n_have,
                       uint32_t n, struct hlm_err *err)
{
    uint64_t row = tensor_row_bytes(to), bytes = row * n;
    if (n <= *n_have && !memcmp(want, have, bytes))
        return true;
    *n_have = 0;
    if (!gpu_write(x->m->gpu, to, 0, want, bytes, err))
        return false;
    memcpy(have, want, bytes);
    *n_have = n;
    return true;
}

static bool place_segments(hlm_context *x, hlm_session *const *s, uint32_t n, struct hlm_err *err)
{
    struct segment want[MAX_SEGMENT];
    for (uint32_t i = 0; i < n; i++) {
        want[i] = session_segment(s[i]);
        want[i].turn = x->n_seg ? x->seg[0].turn : 0; /* all rows take turns together */
    }
    return write_rows(x, x->step, want, x->seg, &x->n_seg, n, err);
}

static bool place_biases(hlm_context *x, hlm_session *const *s, uint32_t n, struct hlm_err *err)
{
    uint32_t want[MAX_SEGMENT][ARRAY_LEN(x->bias[0])];
    for (uint32_t i = 0; i < n; i++)
        memcpy(want[i], s[i]->bias, sizeof want[i]);
    return write_rows(x, x->sampler.bias, want, x->bias, &x->n_bias, n, err);
}

/* A submission that failed may have counted tokens and not taken the counts back. */
static bool clear_counts(hlm_context *x, struct hlm_err *err)
{
    if (!x->counts_unclear)
        return true;
    struct cmd *c = cmd_create(x->m->gpu, "clear counts", x->scratch, err);
    if (c)
        cmd_fill(c, x->sampler.count, tensor_bytes(x->sampler.count), 0);
    bool ok = c && cmd_end(c, err) && cmd_submit(c, err);
    cmd_destroy(c);
    x->counts_unclear = !ok;
    return ok;
}

static bool clear_flags(hlm_context *x, struct hlm_err *err)
{
    if (!x->flags_unclear)
        return true;
    if (!gpu_wait(x->m->gpu, err))
        return false;
    memset(arena_map(x->host, x->sampler.chosen.offset), 0, tensor_bytes(x->sampler.chosen));
    x->flags_unclear = false;
    return true;
}

/* After a failure it is not known how far the device has come. */
static bool submit_or_forget(hlm_context *x, struct cmd *c, struct hlm_err *err)
{
    if (cmd_submit(c, err))
        return true;
    x->n_seg = 0;
    x->counts_unclear = x->flags_unclear = true;
    return false;
}

/* What the device makes of a segment. */
static void advance_segment(struct segment *g, uint32_t n_tok)
{
    uint32_t slot = g->slot_in;
    g->pos += n_tok;
    g->slot_in = g->slot_out;
    g->slot_out = slot;
}

static void advance_segments(hlm_context *x, uint32_t n, uint32_t n_tok)
{
    for (uint32_t i = 0; i < n; i++)
        advance_segment(&x->seg[i], n_tok);
}

static void turn_segments(hlm_context *x, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x->seg[i].turn ^= 1;
}

bool context_submit(hlm_context *x, struct cmd *c, hlm_session *const *s, uint32_t n,
                    uint32_t n_tok, bool moves, struct hlm_err *err)
{
    context_drop_ahead(x);
    if (!clear_counts(x, err) || !clear_flags(x, err) || !place_segments(x, s, n, err) ||
        !place_biases(x, s, n, err) || !submit_or_forget(x, c, err))
        return false;
    if (moves)
        advance_segments(x, n, n_tok);
    return true;
}

/* ---- steps, and steps ahead ------------------------------------------------------------------ */

void context_drop_ahead(hlm_context *x)
{
    x->flags_unclear |= x->ahead.n > 0;
    x->ahead.n = 0;
}

/* Has this step been submitted ahead? It has if the device went on from where these sessions are,
 * with their sampling. */
static bool is_ahead(const hlm_context *x, hlm_session *const *s, uint32_t n)
{
    if (!x->ahead.n || x->ahead.n != n || x->n_seg < n || x->n_bias < n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        struct segment g = session_segment(s[i]);
        advance_segment(&g, 1);
        g.turn = x->seg[i].turn;
        if (x->ahead.s[i] != s[i] || memcmp(&g, &x->seg[i], sizeof g) != 0 ||
            memcmp(s[i]->bias, x->bias[i], sizeof x->bias[i]) != 0)
            return false;
    }
    return true;
}

/* Submits the step after the one that is at work. It is only a guess that somebody will want it, so
 * a failure is no error: the device is lost, which the next call reports, or memory is short. */
static void go_ahead(hlm_context *x, hlm_session *const *s, uint32_t n)
{
    struct hlm_err why = { 0 };
    for (uint32_t i = 0; i < n; i++)
        if (x->seg[i].pos >= x->n_ctx)
            return;
    struct cmd *c = context_recording(x, REC_NEXT, n, &why);
    if (!c || !submit_or_forget(x, c, &why))
        return;
    advance_segments(x, n, 1);
    turn_segments(x, n);
    memcpy(x->ahead.s, s, n * sizeof *s);
    x->ahead.n = n;
    x->ahead.submission = gpu_submitted(x->m->gpu);
}

bool context_submit_step(hlm_context *x, hlm_session *const *s, uint32_t n, bool reads,
                         struct context_step *step, struct hlm_err *err)
{
    if (reads && is_ahead(x, s, n)) {
        *step = (struct context_step){ x->ahead.submission, x->seg[0].turn ^ 1 };
        x->ahead.n = 0;
    } else {
        struct cmd *c = context_recording(x, reads ? REC_NEXT : REC_SAMPLE, n, err);
        if (!c || !context_submit(x, c, s, n, 1, reads, err))
            return false;
        *step = (struct context_step){ gpu_submitted(x->m->gpu), x->seg[0].turn };
        turn_segments(x, n);
    }
    if (x->goes_ahead)
        go_ahead(x, s, n);
    return true;
}

/* ---- sequences ------------------------------------------------------------------------------- */

hlm_session *context_free_session(hlm_context *x)
{
    for (uint32_t i = 0; i < x->n_seq; i++)
        if (!x->seq[i].open)
            return &x->seq[i];
    return NULL;
}

/* Keys and values of the first n_past positions, head by head. */
static void copy_rows(struct cmd *c, const struct kv *kv, tensor t, uint32_t head_rows,
                      const hlm_session *to, const hlm_session *from)
{
    uint32_t n_head = t.n_row / (kv->n_seq * head_rows);
    uint64_t row = tensor_row_bytes(t);
    for (uint32_t h = 0; h < n_head; h++) {
        tensor a = t, b = t;
        a.offset += row * head_rows * ((uint64_t)from->seq * n_head + h);
        b.offset += row * head_rows * ((uint64_t)to->seq * n_head + h);
        cmd_copy(c, b, a, row * from->n_past);
    }
}

/* All that the context holds of a sequence. */
static void copy_sequence(struct cmd *c, const hlm_session *to, const hlm_session *from)
{
    const hlm_context *x = from->x;
    struct kv_part a, b;
    uint32_t at_a = 0, at_b = 0;
    while (kv_next_part(&x->kv, from->seq, session_slot(from), &at_a, &a) &&
           kv_next_part(&x->kv, to->seq, session_slot(to), &at_b, &b))
        cmd_copy(c, kv_part_tensor(&b), kv_part_tensor(&a), a.bytes);
    for (uint32_t i = 0; i < x->kv.n_layer; i++) {
        const struct kv_layer *l = &x->kv.layer[i].kv;
        if (l->k.arena == x->kv.kv) {
            copy_rows(c, &x->kv, l->k, l->n_row, to, from);
            copy_rows(c, &x->kv, l->v, l->n_row, to, from);
        }
    }
    cmd_copy(c, tensor_rows(x->logits, session_slot(to), 1),
             tensor_rows(x->logits, session_slot(from), 1), tensor_row_bytes(x->logits));
    tensor ids_a = x->ids, ids_b = x->ids;
    ids_a.offset += 4 * session_id_at(from, 0);
    ids_b.offset += 4 * session_id_at(to, 0);
    cmd_copy(c, ids_b, ids_a, 4ull * from->n_known);
}

hlm_session *hlm_session_fork(hlm_session *from, struct hlm_err *err)
{
    hlm_session *s = hlm_context_open(from->x, err);
    if (!s)
        return NULL;
    bool ok = session_current(from, err);
    if (ok && from->unclear)
        ok = fail_as(err, HLM_ERR_STATE, "an earlier call failed part-way: no sound state is left");
    struct cmd *c = ok ? cmd_create(s->m->gpu, "fork", s->x->scratch, err) : NULL;
    if (c)
        copy_sequence(c, s, from);
    ok = c && cmd_end(c, err) && cmd_submit(c, err);
    cmd_destroy(c);
    if (!ok) {
        session_close(s);
        return NULL;
    }
    memcpy(s->id, from->id, from->n_known * sizeof *s->id);
    s->n_past = s->n_row = from->n_past;
    s->n_known = from->n_known;
    s->has_logits = from->has_logits;
    return s;
}
