/* session: reading tokens into the caches and taking tokens out of the model.
 *
 * For each way of using the model - n tokens with or without logits, one token with sampling,
 * sampling alone - a session has a recording (gpu/recording.h), made when it is first needed. What
 * differs between submissions (position, ids, sampling parameters) is in device memory, and the
 * last kernel of each recording advances it, so that between two tokens the host writes nothing. */
#include "session/session.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- recordings ------------------------------------------------------------------------------ */

/* Head and likelihoods for the rows of x, a slice at a time: with a large vocabulary, all logits of
 * a batch would take half a gigabyte. x is copied first, because every head takes the other block
 * scratch. */
static void record_nll(hlm_session *s, struct cmd *c, tensor x, const struct batch *b)
{
    cmd_copy(c, s->nll_rows, x, 4ull * x.n * b->n_tok);
    for (uint32_t at = 0; at < b->n_tok; at += s->n_nll) {
        uint32_t n = min_u32(s->n_nll, b->n_tok - at);
        tensor slice = cmd_scratch(c, F32, x.n, n);
        cmd_copy(c, slice, tensor_rows(s->nll_rows, at, n), 4ull * x.n * n);
        op_nll(c, model_head(c, s->m->model, slice, NULL), s->nll_parts, b, at);
    }
}

static void record_session(void *user, struct cmd *c, struct recording_key key, uint32_t slot)
{
    hlm_session *s = user;
    const struct model *m = s->m->model;
    enum session_recording kind = key.kind;
    struct batch b = {
        .n_tok = key.n_tok, .step = s->step, .ids = s->ids, .stats = kind != REC_NEXT
    };
    (void)slot;
    cmd_set_f16(c, s->m->f16);
    if (kind == REC_SAMPLE) {
        op_sample(c, s->logits, &s->sampler, &b, 0);
        return;
    }
    bool hidden = kind == REC_EVAL_HIDDEN, all = kind == REC_EVAL || hidden;
    uint32_t n_row = hidden ? b.n_tok * (m->n_layer + 1) : 0; /* before the final norm */
    tensor rows = tensor_rows(s->hidden, 0, n_row);
    tensor norm = hidden ? tensor_rows(s->hidden, n_row, b.n_tok) : s->hidden;
    tensor x = model_forward(c, m, &s->kv, &b, hidden ? &rows : NULL);
    if (all) {
        tensor y = model_head(c, m, x, hidden ? &norm : NULL);
        cmd_copy(c, s->all_logits, y, 4ull * y.stride * b.n_tok);
        cmd_copy(c, s->logits, tensor_rows(y, b.n_tok - 1, 1), 4ull * m->n_vocab);
    } else if (kind == REC_NLL) {
        record_nll(s, c, x, &b);
    } else if (kind != REC_READ) {
        tensor last = x;
        if (b.n_tok > 1) { /* a binding may not begin at any row: copy the last one to the start */
            last = cmd_scratch(c, F32, x.n, 1);
            cmd_copy(c, last, tensor_rows(x, b.n_tok - 1, 1), 4ull * x.n);
        }
        cmd_copy(c, s->logits, model_head(c, m, last, NULL), 4ull * m->n_vocab);
    }
    if (kind == REC_NEXT || kind == REC_NEXT_STATS)
        op_sample(c, s->logits, &s->sampler, &b, 1);
    else
        op_advance(c, &b);
}

void session_init_recordings(hlm_session *s)
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
    s->recordings = (struct recordings){ .gpu = s->m->gpu,
                                         .scratch = s->scratch,
                                         .name = names,
                                         .n = MAX_SESSION_RECORDING,
                                         .record = record_session,
                                         .user = s };
}

static struct recording_key session_key(enum session_recording kind, uint32_t n_tok)
{
    return (struct recording_key){ .kind = kind, .n_tok = n_tok };
}

/* Answers report their gates from time to time. */
static bool reports_gates(const hlm_session *s)
{
    return s->layers.has_gates && count_watched(s->m);
}

bool session_lay_out_recordings(hlm_session *s, struct hlm_err *err)
{
    const struct {
        bool wanted;
        struct recording_key key;
    } rows[] = {
        { true, session_key(REC_READ_LAST, s->n_batch) },
        { true, session_key(REC_NEXT, 1) },
        { s->n_batch >= 8, session_key(REC_READ_LAST, 8) }, /* other kernels than a large batch */
        { s->n_eval > 0, session_key(REC_EVAL, s->n_eval) },
        { s->keep_hidden, session_key(REC_EVAL_HIDDEN, s->n_eval) },
        { s->n_nll > 0, session_key(REC_NLL, s->n_batch) },
        { reports_gates(s), session_key(REC_NEXT_STATS, 1) },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].wanted && !recordings_lay_out(&s->recordings, rows[i].key, err))
            return false;
    return true;
}

bool session_ready(hlm_session *s, struct hlm_err *err)
{
    return recordings_get(&s->recordings, session_key(REC_NEXT, 1), err) &&
           (!reports_gates(s) ||
            recordings_get(&s->recordings, session_key(REC_NEXT_STATS, 1), err));
}

/* Takes up what is wanted by now. Work goes on without statistics for which there is no room. */
static void follow_watch(hlm_session *s)
{
    struct hlm_err why = { 0 };
    count_follow(s->m);
    bool wanted = s->m->counting.layers, are = s->layers.place != NULL;
    if (!wanted)
        s->layers_off = s->stats_off = false;
    if (wanted == are || (wanted && s->layers_off) || (are && !s->layers.own))
        return;
    s->layers_off = !session_show_layers(s, wanted, &why);
    if (s->layers_off)
        log_msg(HLM_LOG_WARN, "no statistics of layers: %s", why.msg);
}

static struct cmd *get_recording(hlm_session *s, enum session_recording kind, uint32_t n_tok,
                                 struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    struct recording_key key = session_key(kind, n_tok);
    struct cmd *c = recordings_get(&s->recordings, key, &why);
    if (!c && s->layers.own) { /* perhaps they are what there was no room for */
        log_msg(HLM_LOG_WARN, "no statistics of layers: %s", why.msg);
        s->layers_off = true;
        return session_show_layers(s, false, err) ? recordings_get(&s->recordings, key, err) : NULL;
    }
    if (!c)
        fail_from(err, &why, "");
    return c;
}

/* The recording of one token and the token after it. Statistics never end an answer: if their
 * recording had to make room for another one and cannot be made again, decoding goes on without
 * them. */
static struct cmd *get_next(hlm_session *s, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    if (reports_gates(s) && !s->stats_off && count_due(s->m)) {
        struct cmd *c = recordings_get(&s->recordings, session_key(REC_NEXT_STATS, 1), &why);
        if (c)
            return c;
        s->stats_off = true;
        log_msg(HLM_LOG_WARN, "answers no longer report their gates: %s", why.msg);
    }
    return get_recording(s, REC_NEXT, 1, err);
}

/* ---- what it is ------------------------------------------------------------------------------ */

uint32_t hlm_session_n_ctx(const hlm_session *s) { return s->n_ctx; }
uint32_t hlm_session_n_past(const hlm_session *s) { return s->n_past; }
const int32_t *hlm_session_ids(const hlm_session *s) { return s->id; }

struct hlm_stats hlm_session_stats(const hlm_session *s)
{
    struct hlm_stats st = s->stats;
    struct gpu_counts n = gpu_counts(s->m->gpu);
    st.n_submit = n.n_submit;
    st.n_record = n.n_record;
    st.n_pipeline = n.n_pipeline;
    st.snapshot_max = s->snaps.n_slot;
    st.n_evicted = s->snaps.n_evicted;
    st.n_snapshot = snapshots_held(&s->snaps);
    return st;
}

/* ---- the position ---------------------------------------------------------------------------- */

bool session_place(hlm_session *s, struct hlm_err *err)
{
    uint32_t at[2] = { s->n_past, s->i_window };
    return gpu_write(s->m->gpu, s->step, 0, at, sizeof at, err);
}

/* The kernel takes what it finds. */
static bool check_bias(const hlm_session *s, const struct hlm_sampling *p, struct hlm_err *err)
{
    uint32_t n_vocab = s->m->model->n_vocab;
    if (p->n_bias > HLM_MAX_BIAS)
        return fail(err, "%u biases of logits, expected at most %u", p->n_bias, HLM_MAX_BIAS);
    for (uint32_t i = 0; i < p->n_bias; i++) {
        const struct hlm_bias *b = &p->bias[i];
        if (b->id < 0 || (uint32_t)b->id >= n_vocab)
            return fail(err, "the bias of token %d: the model has tokens 0 to %u", b->id,
                        n_vocab - 1);
        if (!(b->by < INFINITY))
            return fail(err, "the bias of token %d is %g, expected a number or minus infinity",
                        b->id, (double)b->by);
    }
    return true;
}

static bool write_bias(hlm_session *s, const struct hlm_sampling *p, struct hlm_err *err)
{
    static_assert((int)MAX_BIAS >= (int)HLM_MAX_BIAS, "the buffer has room for all of them");
    uint32_t word[1 + 2 * MAX_BIAS] = { p->n_bias };
    if (s->sampling_set && p->n_bias == s->sampling.n_bias &&
        !memcmp(p->bias, s->sampling.bias, sizeof p->bias))
        return true;
    for (uint32_t i = 0; i < p->n_bias; i++) {
        float by = p->bias[i].by > -FLT_MAX ? p->bias[i].by : -FLT_MAX; /* below every threshold */
        word[1 + 2 * i] = (uint32_t)p->bias[i].id;
        memcpy(&word[2 + 2 * i], &by, 4);
    }
    return gpu_write(s->m->gpu, s->sampler.bias, 0, word, sizeof word, err);
}

static bool write_sampling(hlm_session *s, const struct hlm_sampling *p, struct hlm_err *err)
{
    if (s->sampling_set && !memcmp(p, &s->sampling, sizeof *p))
        return true;
    if (!check_bias(s, p, err) || !write_bias(s, p, err))
        return false;
    struct step st = {
        .n_past = s->n_past,
        .i_window = s->i_window,
        .seed_lo = (uint32_t)p->seed,
        .seed_hi = (uint32_t)(p->seed >> 32),
        .temp = p->temp < 1e-5f || isnan(p->temp) ? 0.0f : p->temp,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k > 0 ? (uint32_t)p->top_k : 0,
        .repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1.0f,
        .presence = p->presence_penalty,
        .frequency = p->frequency_penalty,
        .last_n = p->repeat_last_n < 0 ? s->n_ctx : (uint32_t)p->repeat_last_n,
        .allow_unused = p->allow_unused,
    };
    s->sampling_set = false;
    if (!gpu_write(s->m->gpu, s->step, 0, &st, sizeof st, err))
        return false;
    s->sampling = *p;
    s->sampling_set = true;
    return true;
}

bool session_clear(hlm_session *s, struct hlm_err *err)
{
    struct cmd *c = cmd_create(s->m->gpu, "clear", s->scratch, err);
    bool ok = c != NULL;
    if (ok && s->snaps.state_bytes) {
        cmd_fill(c, s->snaps.state, s->snaps.state_bytes, 0);
        ok = cmd_end(c, err) && cmd_submit(c, err);
    }
    cmd_destroy(c);
    s->n_past = s->n_known = s->i_window = 0;
    s->has_logits = false;
    s->unclear = !ok || !session_place(s, err);
    return !s->unclear;
}

void session_forget(hlm_session *s)
{
    snapshots_cut(&s->snaps, 0);
    s->n_row = 0;
    s->n_known = s->n_past;
    s->has_logits = false;
    s->unclear |= s->n_past > 0;
}

/* Everything that is cached counts as unread where training has changed the model since. At the end
 * of a training its adapter goes, and the recordings that use it. */
static void forget_old(hlm_session *s)
{
    if (s->n_change == s->m->n_change)
        return;
    s->n_change = s->m->n_change;
    if (!s->m->tune)
        recordings_finish(&s->recordings);
    session_forget(s);
}

bool session_current(hlm_session *s, struct hlm_err *err)
{
    if (s->n_past == 0)
        forget_old(s);
    return s->n_change == s->m->n_change ||
           fail_as(err, HLM_ERR_STATE,
                   "the model was trained after this session has read its tokens: only a new sync "
                   "can go on from here");
}

void hlm_session_reset(hlm_session *s)
{
    struct hlm_err err = { 0 };
    log_to(&s->m->log);
    forget_old(s);
    snapshots_cut(&s->snaps, 0);
    s->n_row = 0;
    if (!session_clear(s, &err))
        log_msg(HLM_LOG_ERROR, "%s", err.msg); /* the device is lost: the next call says so again */
}

/* Sets the id at a position. If it was another id, the keys and values from there on are those of
 * another text, and so are the snapshots of longer prefixes. */
static void set_id(hlm_session *s, uint32_t at, int32_t id)
{
    if (at < s->n_row && s->id[at] != id) {
        s->n_row = at;
        snapshots_cut(&s->snaps, at);
    }
    s->id[at] = id;
}

/* After a failure: a part of a submission may have run, or all of it without returning its token.
 * The next sync goes back to a snapshot or to the start. Always false. */
static bool lose_position(hlm_session *s)
{
    s->unclear = true;
    s->has_logits = false;
    s->n_known = s->n_past;
    s->n_row = min_u32(s->n_row, s->n_past);
    snapshots_cut(&s->snaps, s->n_past);
    return false;
}

static bool keep_snapshot(hlm_session *s, struct hlm_err *err)
{
    return !snapshots_wanted(&s->snaps, s->n_past, s->has_logits) ||
           snapshots_keep(&s->snaps, s->n_past, s->i_window, s->has_logits, s->scratch, err);
}

static bool restore_snapshot(hlm_session *s, const struct snapshot *from, struct hlm_err *err)
{
    s->unclear = true;
    s->has_logits = false;
    if (!snapshots_restore(&s->snaps, from, s->scratch, err))
        return false;
    s->n_past = s->n_known = from->n_past;
    s->i_window = from->i_window;
    s->has_logits = from->has_logits;
    s->unclear = !session_place(s, err);
    return !s->unclear;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool check_token_ids(const hlm_session *s, const int32_t *id, uint32_t n,
                            struct hlm_err *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (id[i] < 0 || (uint32_t)id[i] >= s->m->model->n_vocab)
            return fail(err, "token %u is %d, expected 0 to %u", i, id[i],
                        s->m->model->n_vocab - 1);
    return true;
}

/* Reads one batch: n tokens after those that are cached. */
static bool read_batch(hlm_session *s, const int32_t *id, uint32_t n, enum session_recording kind,
                       struct hlm_err *err)
{
    if (s->unclear)
        return fail_as(err, HLM_ERR_STATE,
                       "an earlier call failed part-way: only a new sync can go on from here");
    follow_watch(s);
    struct cmd *c = get_recording(s, kind, n, err);
    if (!c)
        return false;
    if (!gpu_write(s->m->gpu, s->ids, 4ull * s->n_past, id, 4ull * n, err) || !cmd_submit(c, err))
        return lose_position(s);
    for (uint32_t i = 0; i < n; i++)
        set_id(s, s->n_past + i, id[i]);
    uint32_t end = s->n_past + n;
    uint32_t old = s->n_past < s->n_row ? min_u32(s->n_row, end) - s->n_past : 0;
    s->stats.n_reread += old;
    s->stats.n_read += n - old;
    s->n_past = s->n_known = end;
    s->n_row = max_u32(s->n_row, end);
    s->i_window ^= 1;
    s->has_logits = kind != REC_READ && kind != REC_NLL;
    return true;
}

/* Goes to the longest state that id[0 .. n) continues: the present one, a snapshot, or the start.
 */
static bool go_back(hlm_session *s, const int32_t *id, uint32_t n, struct hlm_err *err)
{
    uint32_t same = 0, here = s->n_past;
    while (same < n && same < s->n_row && id[same] == s->id[same])
        same++;
    s->found = (struct hlm_found){ .n_cached = s->n_row, .n_same = same };
    bool stays = here <= same && (here < n || s->has_logits) && !s->unclear;
    /* id is a prefix of what is cached, so that the state after it is lost but nothing is
     * overwritten yet. It is kept if a slot is empty. It evicts no snapshot: it is rarely needed
     * again, and void once another token is read. */
    if (same == n && here > n && !s->unclear && snapshots_free(&s->snaps)) {
        snapshots_aim(&s->snaps, here, here, &here, 1);
        if (!keep_snapshot(s, err))
            return false;
    }
    if (same < n && same < s->n_row) { /* what comes after will be overwritten */
        s->n_row = same;
        snapshots_cut(&s->snaps, same);
    }
    const struct snapshot *best = snapshots_best(&s->snaps, same, n);
    bool ok = true;
    if (best && (!stays || best->n_past > here))
        ok = restore_snapshot(s, best, err);
    else if (!stays)
        ok = session_clear(s, err);
    s->found.n_from = s->n_past;
    s->found.n_evicted = snapshots_evicted(&s->snaps, s->n_past, same);
    return ok;
}

/* More tokens than there are positions. Always false. */
static bool full(const hlm_session *s, uint64_t need, struct hlm_err *err)
{
    struct hlm_err size = { .need = need, .have = s->n_ctx };
    if (s->n_past == s->n_ctx)
        return fail_size(err, HLM_ERR_FULL, &size, "the context of %u positions is full", s->n_ctx);
    return fail_size(err, HLM_ERR_FULL, &size, "%llu tokens do not fit a context of %u",
                     (unsigned long long)need, s->n_ctx);
}

/* Says how far reading is. False: it is to stop, and err says so. */
static bool report(const hlm_session *s, hlm_progress progress, void *user, uint64_t done,
                   uint64_t total, struct hlm_err *err)
{
    bool on = !progress || progress(user, done, total);
    log_to(&s->m->log);
    return on || fail_stopped(err);
}

bool hlm_session_sync(hlm_session *s, const int32_t *id, uint32_t n, const uint32_t *snap,
                      uint32_t n_snap, hlm_progress progress, void *user, struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    if (n == 0)
        return fail(err, "there are no tokens to read, expected at least one");
    if (n > s->n_ctx)
        return full(s, n, err);
    if (!check_token_ids(s, id, n, err))
        return false;
    double t0 = now_s();
    forget_old(s);
    if (!go_back(s, id, n, err))
        return false;
    s->n_known = s->n_past; /* a token that was returned and not read is dropped */
    s->stats.n_reused += s->n_past;
    snapshots_aim(&s->snaps, s->n_past, n, snap, n_snap);

    uint32_t from = s->n_past;
    count_read(s, 0, n - from);
    bool ok = keep_snapshot(s, err) && (from == n || report(s, progress, user, 0, n - from, err));
    while (ok && s->n_past < n) {
        uint32_t stop = snapshots_stop(&s->snaps, s->n_past, n);
        uint32_t take = min_u32(s->n_batch, stop - s->n_past);
        bool last = s->n_past + take == n;
        ok = read_batch(s, id + s->n_past, take, last ? REC_READ_LAST : REC_READ, err) &&
             keep_snapshot(s, err);
        if (ok && progress)
            ok = gpu_wait(s->m->gpu, err) &&
                 report(s, progress, user, s->n_past - from, n - from, err);
        count_read(s, s->n_past - from, n - from);
    }
    ok = gpu_wait(s->m->gpu, err) && ok;
    s->stats.read_s += now_s() - t0;
    count_read(s, s->n_past - from, n - from);
    return ok;
}

struct hlm_found hlm_session_found(const hlm_session *s) { return s->found; }

bool session_read_rows(hlm_session *s, const int32_t *id, uint32_t n, float *logits, float *hidden,
                       struct hlm_err *err)
{
    const struct model *m = s->m->model;
    double t0 = now_s();
    uint32_t stride = s->all_logits.stride;
    count_read(s, 0, n);
    for (uint32_t done = 0, take; done < n; done += take) {
        enum session_recording kind = hidden                   ? REC_EVAL_HIDDEN
                                      : logits                 ? REC_EVAL
                                      : n - done <= s->n_batch ? REC_READ_LAST
                                                               : REC_READ;
        take = min_u32(hidden || logits ? s->n_eval : s->n_batch, n - done);
        if (!read_batch(s, id + done, take, kind, err))
            return false;
        for (uint32_t t = 0; logits && t < take; t++)
            if (!gpu_read(s->m->gpu, s->all_logits, 4ull * t * stride,
                          logits + (uint64_t)(done + t) * m->n_vocab, 4ull * m->n_vocab, err))
                return false;
        uint64_t row = 4ull * m->n_embd;
        for (uint32_t l = 0; hidden && l < m->n_layer + 2; l++)
            if (!gpu_read(s->m->gpu, s->hidden, row * l * take,
                          hidden + ((uint64_t)l * n + done) * m->n_embd, row * take, err))
                return false;
        count_read(s, done + take, n);
    }
    bool ok = gpu_wait(s->m->gpu, err);
    s->stats.read_s += now_s() - t0;
    count_read(s, n, n);
    return ok;
}

bool session_finite_logits(const hlm_session *s, const float *logits)
{
    uint32_t n = s->m->model->n_vocab;
    if (all_finite(logits, n))
        return true;
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(logits[i]) && !(s->m->unused[i / 32] >> i % 32 & 1))
            return false;
    return true;
}

bool hlm_session_eval(hlm_session *s, const int32_t *id, uint32_t n, float *logits, float *hidden,
                      struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    if (!session_current(s, err))
        return false;
    if (n > s->n_ctx - s->n_past)
        return full(s, (uint64_t)s->n_past + n, err);
    if (!check_token_ids(s, id, n, err))
        return false;
    if ((logits && !s->keep_logits) || (hidden && !s->keep_hidden))
        return fail_as(err, HLM_ERR_STATE, "this session was created without %s",
                       hidden && !s->keep_hidden ? "keep_hidden" : "keep_logits");
    if (!session_read_rows(s, id, n, logits, hidden, err))
        return false;
    const struct model *m = s->m->model;
    bool ok = !hidden || all_finite(hidden, (uint64_t)(m->n_layer + 2) * n * m->n_embd);
    for (uint32_t t = 0; ok && logits && t < n; t++)
        ok = session_finite_logits(s, logits + (uint64_t)t * m->n_vocab);
    return ok || session_not_finite(s, err);
}

bool hlm_session_nll(hlm_session *s, const int32_t *id, uint32_t n, double *nll,
                     struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    if (n < 2)
        return fail(err, "likelihoods of %u tokens, expected at least 2", n);
    if (!session_current(s, err))
        return false;
    if (n - 1 > s->n_ctx - s->n_past)
        return full(s, (uint64_t)s->n_past + n - 1, err);
    if (!check_token_ids(s, id, n, err))
        return false;
    if (!s->n_nll)
        return fail_as(err, HLM_ERR_STATE, "this session was created without keep_nll");
    double t0 = now_s();
    count_read(s, 0, n - 1);
    for (uint32_t done = 0, take; done < n - 1; done += take) {
        float parts[MAX_BATCH * NLL_PARTS];
        take = min_u32(s->n_batch, n - 1 - done);
        uint64_t next = 4ull * (s->n_past + take); /* the id after the last row is in no batch */
        if (!gpu_write(s->m->gpu, s->ids, next, id + done + take, 4, err) ||
            !read_batch(s, id + done, take, REC_NLL, err) ||
            !gpu_read(s->m->gpu, s->nll_parts, 0, parts, 4ull * NLL_PARTS * take, err))
            return false;
        for (uint32_t i = 0; i < take; i++) {
            nll[done + i] = nll_from(parts + NLL_PARTS * i);
            if (!isfinite(nll[done + i]))
                return session_not_finite(s, err);
        }
        count_read(s, done + take, n - 1);
    }
    s->stats.read_s += now_s() - t0;
    count_read(s, n - 1, n - 1);
    return true;
}

bool hlm_session_next(hlm_session *s, const struct hlm_sampling *sampling, int32_t *id,
                      struct hlm_err *err)
{
    api_begin(&s->m->log, err);
    if (!session_current(s, err))
        return false;
    bool unread = s->n_known > s->n_past;
    if (!unread && !s->has_logits)
        return fail_as(err, HLM_ERR_STATE,
                       "there are no logits to sample from: nothing has been read");
    if (unread && s->n_past == s->n_ctx)
        return full(s, s->n_ctx + 1ull, err);
    double t0 = now_s();
    follow_watch(s);
    struct cmd *c = unread ? get_next(s, err) : get_recording(s, REC_SAMPLE, 1, err);
    if (!c || !write_sampling(s, sampling, err))
        return false;
    if (!cmd_submit(c, err) || !gpu_wait(s->m->gpu, err))
        return lose_position(s);
    if (unread) {
        s->n_past++;
        s->i_window ^= 1;
        s->n_row = max_u32(s->n_row, s->n_past);
    }
    int32_t *chosen = arena_map(s->host, s->sampler.chosen.offset);
    if (chosen[1]) {
        chosen[1] = 0;
        return session_not_finite(s, err);
    }
    *id = chosen[0];
    set_id(s, s->n_past, *id);
    s->n_known = s->n_past + 1;
    s->has_logits = true;
    s->stats.n_gen++;
    s->stats.gen_s += now_s() - t0;
    count_gen(s);
    return true;
}
