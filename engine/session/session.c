/* session: reading tokens into the caches and taking tokens out of the model, for one sequence; and
 * for several of a context at once. */
#include "session/session.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what it is ------------------------------------------------------------------------------ */

uint32_t hlm_session_n_ctx(const hlm_session *s) { return s->x->n_ctx; }
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

/* ---- opening and closing ----------------------------------------------------------------------
 */

bool session_open(hlm_session *s, struct hlm_err *err)
{
    const hlm_context *x = s->x;
    struct hlm_stats *st = &s->stats;
    if (s->used && !session_clear(s, err)) /* memory is zero at first */
        return false;
    s->open = s->used = true;
    s->n_row = 0;
    s->sampling_set = false;
    s->n_change = s->m->n_change;
    s->found = (struct hlm_found){ 0 };
    snapshots_cut(&s->snaps, 0);
    s->snaps.n_evicted = 0;
    s->counted = *st = (struct hlm_stats){ 0 };
    st->weight_bytes = arena_cost(s->m->model->weights);
    st->adapter_bytes = lora_set_bytes(s->m->adapters.set);
    st->kv_bytes = arena_cost(x->kv.kv);
    st->state_bytes = arena_cost(x->kv.state);
    st->scratch_bytes = arena_cost(x->scratch);
    for (uint32_t i = 0; i < x->n_seq; i++)
        st->snapshot_bytes += arena_cost(x->seq[i].snaps.arena);
    st->other_bytes = arena_cost(x->io) + arena_cost(x->host);
    return true;
}

void session_close(hlm_session *s)
{
    if (!s->open)
        return;
    count_end(s);
    s->open = false;
}

/* ---- the position ---------------------------------------------------------------------------- */

struct segment session_segment(const hlm_session *s)
{
    struct segment g = s->sampler;
    g.pos = s->n_past;
    g.seq = s->seq;
    g.slot_in = session_slot(s);
    g.slot_out = session_spare_slot(s);
    return g;
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

static bool check_penalties(const struct hlm_sampling *p, struct hlm_err *err)
{
    const struct {
        const char *name;
        float v;
    } rows[] = { { "repeat", p->repeat_penalty },
                 { "presence", p->presence_penalty },
                 { "frequency", p->frequency_penalty } };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        if (!isfinite(rows[i].v))
            return fail(err, "the %s penalty is %g, expected a finite number", rows[i].name,
                        (double)rows[i].v);
    return true;
}

static void bias_row(const struct hlm_sampling *p, uint32_t row[1 + 2 * MAX_BIAS])
{
    static_assert((int)MAX_BIAS >= (int)HLM_MAX_BIAS, "the buffer has room for all of them");
    memset(row, 0, (1 + 2 * MAX_BIAS) * sizeof *row);
    row[0] = p->n_bias;
    for (uint32_t i = 0; i < p->n_bias; i++) {
        float by = p->bias[i].by > -FLT_MAX ? p->bias[i].by : -FLT_MAX; /* below every threshold */
        row[1 + 2 * i] = (uint32_t)p->bias[i].id;
        memcpy(&row[2 + 2 * i], &by, 4);
    }
}

bool session_set_sampling(hlm_session *s, const struct hlm_sampling *p, struct hlm_err *err)
{
    if (s->sampling_set && !memcmp(p, &s->sampling, sizeof *p))
        return true;
    if (!check_bias(s, p, err) || !check_penalties(p, err))
        return false;
    bias_row(p, s->bias);
    s->sampler = (struct segment){
        .seed_lo = (uint32_t)p->seed,
        .seed_hi = (uint32_t)(p->seed >> 32),
        .temp = p->temp < 1e-5f || isnan(p->temp) ? 0.0f : p->temp,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k > 0 ? (uint32_t)p->top_k : 0,
        .repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1.0f,
        .presence = p->presence_penalty,
        .frequency = p->frequency_penalty,
        .last_n = p->repeat_last_n < 0 ? s->x->n_ctx : (uint32_t)p->repeat_last_n,
        .allow_unused = p->allow_unused,
    };
    s->sampling = *p;
    s->sampling_set = true;
    return true;
}

bool session_clear(hlm_session *s, struct hlm_err *err)
{
    const struct kv *kv = &s->x->kv;
    struct cmd *c = cmd_create(s->m->gpu, "clear", s->x->scratch, err);
    struct kv_part part;
    bool any = false, ok = c != NULL;
    context_drop_ahead(s->x);
    for (uint32_t at = 0; ok && kv_next_part(kv, s->seq, session_slot(s), &at, &part);)
        if (!part.ring) {
            cmd_fill(c, kv_part_tensor(&part), part.bytes, 0);
            any = true;
        }
    ok = ok && (!any || (cmd_end(c, err) && cmd_submit(c, err)));
    cmd_destroy(c);
    s->n_past = s->n_known = 0;
    s->has_logits = false;
    s->unclear = !ok;
    return ok;
}

void session_forget(hlm_session *s)
{
    snapshots_cut(&s->snaps, 0);
    s->n_row = 0;
    s->n_known = s->n_past;
    s->has_logits = false;
    s->unclear |= s->n_past > 0;
}

/* Everything that is cached counts as unread where training has changed the model since. */
static void forget_old(hlm_session *s)
{
    if (s->n_change == s->m->n_change)
        return;
    s->n_change = s->m->n_change;
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

void session_set_id(hlm_session *s, uint32_t at, int32_t id)
{
    if (at < s->n_row && s->id[at] != id) {
        s->n_row = at;
        snapshots_cut(&s->snaps, at);
    }
    s->id[at] = id;
}

bool session_keep_position(hlm_session *s)
{
    s->n_row = min_u32(s->n_row, s->n_past);
    snapshots_cut(&s->snaps, s->n_past);
    return false;
}

static bool keep_snapshot(hlm_session *s, struct hlm_err *err)
{
    return !snapshots_wanted(&s->snaps, s->n_past, s->has_logits) ||
           snapshots_keep(&s->snaps, s->n_past, session_slot(s), s->has_logits, s->x->scratch, err);
}

/* Rings of sliding windows have one copy only: after a failure it is not known what they hold. */
static bool restore_snapshot(hlm_session *s, const struct snapshot *from, struct hlm_err *err)
{
    s->unclear = true;
    context_drop_ahead(s->x);
    /* On the device a token that was chosen ahead may stand after those that have been read. */
    if (from->n_past > s->n_past &&
        !gpu_write(s->m->gpu, s->x->ids, 4 * session_id_at(s, s->n_past), s->id + s->n_past,
                   4ull * (from->n_past - s->n_past), err))
        return false;
    if (!snapshots_restore(&s->snaps, from, session_spare_slot(s), s->x->scratch, err))
        return false;
    s->slot ^= 1;
    s->n_past = s->n_known = from->n_past;
    s->has_logits = from->has_logits;
    s->unclear = false;
    return true;
}

bool session_full(const hlm_session *s, uint64_t need, struct hlm_err *err)
{
    struct hlm_err size = { .need = need, .have = s->x->n_ctx };
    if (s->n_past == s->x->n_ctx)
        return fail_size(err, HLM_ERR_FULL, &size, "the context of %u positions is full",
                         s->x->n_ctx);
    return fail_size(err, HLM_ERR_FULL, &size, "%llu tokens do not fit a context of %u",
                     (unsigned long long)need, s->x->n_ctx);
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
static bool read_batch(hlm_session *s, const int32_t *id, uint32_t n, enum context_recording kind,
                       struct hlm_err *err)
{
    hlm_context *x = s->x;
    if (s->unclear)
        return fail_as(err, HLM_ERR_STATE,
                       "an earlier call failed part-way: only a new sync can go on from here");
    context_follow_watch(x);
    struct cmd *c = context_recording(x, kind, n, err);
    if (!c)
        return false;
    if (!gpu_write(x->m->gpu, x->ids, 4 * session_id_at(s, s->n_past), id, 4ull * n, err) ||
        !context_submit(x, c, &s, 1, n, true, err)) {
        s->n_known = s->n_past; /* the id that was to be read next may be overwritten */
        return session_keep_position(s);
    }
    for (uint32_t i = 0; i < n; i++)
        session_set_id(s, s->n_past + i, id[i]);
    s->slot ^= 1;
    uint32_t end = s->n_past + n;
    uint32_t old = s->n_past < s->n_row ? min_u32(s->n_row, end) - s->n_past : 0;
    s->stats.n_reread += old;
    s->stats.n_read += n - old;
    s->n_past = s->n_known = end;
    s->n_row = max_u32(s->n_row, end);
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
    if (n > s->x->n_ctx)
        return session_full(s, n, err);
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
        uint32_t take = min_u32(s->x->n_batch, stop - s->n_past);
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
    uint32_t stride = s->x->all_logits.stride;
    count_read(s, 0, n);
    for (uint32_t done = 0, take; done < n; done += take) {
        enum context_recording kind = hidden                      ? REC_EVAL_HIDDEN
                                      : logits                    ? REC_EVAL
                                      : n - done <= s->x->n_batch ? REC_READ_LAST
                                                                  : REC_READ;
        take = min_u32(hidden || logits ? s->x->n_eval : s->x->n_batch, n - done);
        if (!read_batch(s, id + done, take, kind, err))
            return false;
        for (uint32_t t = 0; logits && t < take; t++)
            if (!gpu_read(s->m->gpu, s->x->all_logits, 4ull * t * stride,
                          logits + (uint64_t)(done + t) * m->n_vocab, 4ull * m->n_vocab, err))
                return false;
        uint64_t row = 4ull * m->n_embd;
        for (uint32_t l = 0; hidden && l < m->n_layer + 2; l++)
            if (!gpu_read(s->m->gpu, s->x->hidden, row * l * take,
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
    if (n > s->x->n_ctx - s->n_past)
        return session_full(s, (uint64_t)s->n_past + n, err);
    if (!check_token_ids(s, id, n, err))
        return false;
    if ((logits && !s->x->keep_logits) || (hidden && !s->x->keep_hidden))
        return fail_as(err, HLM_ERR_STATE, "this session was created without %s",
                       hidden && !s->x->keep_hidden ? "keep_hidden" : "keep_logits");
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
    if (n - 1 > s->x->n_ctx - s->n_past)
        return session_full(s, (uint64_t)s->n_past + n - 1, err);
    if (!check_token_ids(s, id, n, err))
        return false;
    if (!s->x->n_nll)
        return fail_as(err, HLM_ERR_STATE, "this session was created without keep_nll");
    double t0 = now_s();
    count_read(s, 0, n - 1);
    for (uint32_t done = 0, take; done < n - 1; done += take) {
        float parts[MAX_BATCH * NLL_PARTS];
        take = min_u32(s->x->n_batch, n - 1 - done);
        uint64_t next =
            4 * session_id_at(s, s->n_past + take); /* the id after the last row is in no batch */
        if (!gpu_write(s->m->gpu, s->x->ids, next, id + done + take, 4, err) ||
            !read_batch(s, id + done, take, REC_NLL, err) ||
            !gpu_read(s->m->gpu, s->x->nll_parts, 0, parts, 4ull * NLL_PARTS * take, err))
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

/* ---- several sequences ----------------------------------------------------------------------- */

static bool check_piece(const struct hlm_piece *p, struct hlm_err *err)
{
    hlm_session *s = p->session;
    if (!session_current(s, err) || !check_token_ids(s, p->id, p->n, err))
        return false;
    return p->n <= s->x->n_ctx - s->n_past || session_full(s, (uint64_t)s->n_past + p->n, err);
}

bool hlm_read(const struct hlm_piece *piece, uint32_t n, struct hlm_err *err)
{
    hlm_session *s[MAX_SEGMENT];
    if (!sessions_count(n, err))
        return false;
    api_begin(&piece[0].session->m->log, err);
    for (uint32_t i = 0; i < n; i++)
        s[i] = piece[i].session;
    if (!sessions_together(s, n, err))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!check_piece(&piece[i], err))
            return false;
    bool ok = true;
    for (uint32_t i = 0; ok && i < n; i++) {
        const struct hlm_piece *p = &piece[i];
        double t0 = now_s();
        count_read(s[i], 0, p->n);
        for (uint32_t done = 0, take; ok && done < p->n; done += take) {
            take = min_u32(s[i]->x->n_batch, p->n - done);
            bool last = done + take == p->n && !p->more;
            ok = read_batch(s[i], p->id + done, take, last ? REC_READ_LAST : REC_READ, err);
        }
        ok = (i + 1 < n || gpu_wait(s[i]->m->gpu, err)) && ok;
        s[i]->stats.read_s += now_s() - t0;
        count_read(s[i], p->n, p->n);
    }
    return ok;
}
