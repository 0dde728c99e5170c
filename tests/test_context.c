/* test_context: several sequences in one context. Seeded schedules start, read, decode, fork, edit
 * and end sequences in any order; afterwards each sequence is run alone, with the same calls, and
 * must have got the same ids and the same bits of logits. The models are small and random;
 * test_model tests the numbers. */
#include "hlm_test.h"
#include "hlm_test_hooks.h"
#include "hlm_train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_CTX = 72, N_BATCH = 16, MAX_ID = 24, MAX_CALL = 64, N_TRACE = 32 };

#define LARGE_BATCH_OFF 1e-10 /* NMSE of logits */

/* One call on a sequence, and what it gave. */
struct call {
    enum { SYNC, READ, NEXT, FORK } kind;
    uint32_t n, snap, how; /* ids; a place for a snapshot, 0: none; one of the samplings */
    bool more;
    int32_t id[MAX_ID + N_CTX];
    int32_t got;
    uint64_t logits; /* a hash of the bits; 0: there are none */
};

/* All calls on a sequence, those before it was forked included. */
struct trace {
    hlm_session *s; /* NULL: it has ended */
    uint32_t n;
    struct call call[MAX_CALL];
};

static struct {
    hlm *m;
    hlm_context *many, *alone;
    struct trace trace[N_TRACE];
    uint32_t n_trace, n_token, n_batch, most;
    struct rng rng;
} t;

static const struct hlm_sampling hows[] = {
    { .repeat_penalty = 1 },
    { .temp = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repeat_penalty = 1, .seed = 5 },
    { .temp = 1.2f, .top_p = 1, .repeat_penalty = 1.3f, .repeat_last_n = 8, .seed = 9 },
    { .temp = 0.5f, .top_p = 0.7f, .repeat_penalty = 1, .bias = { { 7, -INFINITY } }, .n_bias = 1 },
};

static uint32_t pick(uint32_t n) { return (uint32_t)(rng_u64(&t.rng) % n); }

/* A number of tokens up to about `most`, one of a few, since each needs a recording of its own. */
static uint32_t few(uint32_t most) { return 5 + 6 * pick(max_u32(1, most / 6)); }

static void random_ids(int32_t *id, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        id[i] = (int32_t)pick(600);
}

/* A hash of the logits that a session would sample from. */
static uint64_t logits_of(const hlm_session *s)
{
    static float row[1 << 12];
    struct hlm_err err = { 0 };
    uint64_t h = 14695981039346656037u, bytes = 4ull * s->m->model->n_vocab;
    if (!s->has_logits)
        return 0;
    HLM_ASSERT(bytes <= sizeof row);
    if (!CHECK_OK(
            gpu_read(s->m->gpu, tensor_rows(s->x->logits, session_slot(s), 1), 0, row, bytes, &err),
            err))
        return 0;
    for (uint64_t i = 0; i < bytes; i++)
        h = (h ^ ((const uint8_t *)row)[i]) * 1099511628211u;
    return h;
}

/* ---- a schedule ------------------------------------------------------------------------------ */

static struct call *add_call(struct trace *r, int kind)
{
    HLM_ASSERT(r->n < MAX_CALL);
    struct call *c = &r->call[r->n++];
    *c = (struct call){ .kind = kind, .got = -1 };
    return c;
}

static bool has_room(const struct trace *r, uint32_t n)
{
    return r->s && r->n + 1 < MAX_CALL && hlm_session_n_past(r->s) + n + 1 < N_CTX;
}

/* A prompt, or an edit: ids that agree with those that are cached up to a random place. */
static void sync_one(struct trace *r)
{
    struct hlm_err err = { 0 };
    struct call *c = add_call(r, SYNC);
    uint32_t same = pick(hlm_session_n_past(r->s) + 1);
    memcpy(c->id, hlm_session_ids(r->s), same * sizeof *c->id);
    c->n = min_u32(few(same + MAX_ID), N_CTX - 4);
    if (c->n > same)
        random_ids(c->id + same, c->n - same);
    c->snap = pick(2) ? few(c->n) : 0;
    CHECK_OK(hlm_session_sync(r->s, c->id, c->n, &c->snap, c->snap > 0, NULL, NULL, &err), err);
    c->logits = logits_of(r->s);
}

static void start_one(void)
{
    struct hlm_err err = { 0 };
    if (t.n_trace == N_TRACE)
        return;
    hlm_session *s = hlm_context_open(t.many, &err);
    if (!s) {
        CHECK_EQ(err.kind, HLM_ERR_FULL);
        return;
    }
    struct trace *r = &t.trace[t.n_trace++];
    r->s = s;
    r->n = 0;
    sync_one(r);
}

static void fork_one(struct trace *r)
{
    struct hlm_err err = { 0 };
    if (t.n_trace == N_TRACE || !has_room(r, 0))
        return;
    hlm_session *s = hlm_session_fork(r->s, &err);
    if (!s) {
        CHECK_EQ(err.kind, HLM_ERR_FULL);
        return;
    }
    struct trace *f = &t.trace[t.n_trace++];
    *f = *r;
    f->s = s;
    add_call(f, FORK)->logits = logits_of(s);
}

/* The sequences that may take n tokens more, in a random order, at most 16 of them. */
static uint32_t choose(struct trace **to, uint32_t n)
{
    uint32_t n_to = 0;
    for (uint32_t i = 0; i < t.n_trace && n_to < 16; i++)
        if (has_room(&t.trace[i], n) && pick(4))
            to[n_to++] = &t.trace[i];
    for (uint32_t i = n_to; i > 1; i--) {
        uint32_t k = pick(i);
        struct trace *other = to[k];
        to[k] = to[i - 1];
        to[i - 1] = other;
    }
    return n_to;
}

static void read_some(void)
{
    struct hlm_err err = { 0 };
    struct trace *who[16];
    struct hlm_piece piece[16];
    uint32_t n = choose(who, MAX_ID);
    n = min_u32(n, 3);
    for (uint32_t i = 0; i < n; i++) {
        struct call *c = add_call(who[i], READ);
        c->n = few(MAX_ID);
        c->more = !pick(4);
        random_ids(c->id, c->n);
        piece[i] = (struct hlm_piece){ who[i]->s, c->id, c->n, c->more };
    }
    if (!n)
        return;
    CHECK_OK(hlm_read(piece, n, &err), err);
    for (uint32_t i = 0; i < n; i++)
        who[i]->call[who[i]->n - 1].logits = logits_of(who[i]->s);
}

static bool can_decode(const struct trace *r)
{
    return r->s->has_logits || r->s->n_known > r->s->n_past;
}

static void decode_some(void)
{
    struct hlm_err err = { 0 };
    struct trace *who[16], *all[16];
    struct hlm_next row[16];
    uint32_t n = 0, n_all = choose(all, 1);
    for (uint32_t i = 0; i < n_all; i++)
        if (can_decode(all[i]))
            who[n++] = all[i];
    for (uint32_t i = 0; i < n; i++) {
        struct call *c = add_call(who[i], NEXT);
        c->how = who[i]->call[0].n % ARRAY_LEN(hows);
        row[i] = (struct hlm_next){ who[i]->s, &hows[c->how], 0 };
    }
    if (!n)
        return;
    CHECK_OK(hlm_decode(row, n, &err), err);
    t.n_token += n;
    t.n_batch++;
    t.most = max_u32(t.most, n);
    for (uint32_t i = 0; i < n; i++) {
        struct call *c = &who[i]->call[who[i]->n - 1];
        c->got = row[i].id;
        c->logits = logits_of(who[i]->s);
    }
}

static void end_one(struct trace *r)
{
    hlm_session_destroy(r->s);
    r->s = NULL;
}

static void run_schedule(uint32_t n_start, uint32_t n_round)
{
    t.n_trace = 0;
    for (uint32_t i = 0; i < n_start; i++)
        start_one();
    for (uint32_t i = 0; i < n_round; i++) {
        struct trace *r = &t.trace[pick(t.n_trace)];
        uint32_t what = pick(12);
        if (what < 3)
            start_one();
        else if (what == 3)
            fork_one(r);
        else if (what == 4)
            read_some();
        else if (what == 5 && r->s && has_room(r, 0))
            sync_one(r);
        else if (what == 6 && r->s && t.n_trace > 3)
            end_one(r);
        else
            decode_some();
    }
    decode_some();
    for (uint32_t i = 0; i < t.n_trace; i++)
        if (t.trace[i].s)
            end_one(&t.trace[i]);
}

/* ---- each sequence alone --------------------------------------------------------------------- */

static hlm_session *again(hlm_session *s, const struct call *c, int32_t *got)
{
    struct hlm_err err = { 0 };
    const struct hlm_piece piece = { s, c->id, c->n, c->more };
    hlm_session *f = NULL;
    *got = -1;
    if (c->kind == SYNC)
        CHECK_OK(hlm_session_sync(s, c->id, c->n, &c->snap, c->snap > 0, NULL, NULL, &err), err);
    else if (c->kind == READ)
        CHECK_OK(hlm_read(&piece, 1, &err), err);
    else if (c->kind == NEXT)
        CHECK_OK(hlm_session_next(s, &hows[c->how], got, &err), err);
    else if (CHECK_OK((f = hlm_session_fork(s, &err)), err))
        hlm_session_destroy(s);
    return f ? f : s;
}

static bool same_alone(const struct trace *r, uint32_t which)
{
    struct hlm_err err = { 0 };
    hlm_session *s = hlm_context_open(t.alone, &err);
    bool same = CHECK_OK(s, err);
    for (uint32_t i = 0; same && i < r->n; i++) {
        const struct call *c = &r->call[i];
        int32_t got;
        s = again(s, c, &got);
        same = CHECK_MSG(got == c->got, "sequence %u, call %u (%u): id %d alone, %d beside others",
                         which, i, c->kind, got, c->got) &&
               CHECK_MSG(logits_of(s) == c->logits,
                         "sequence %u, call %u (%u): other bits of logits than alone", which, i,
                         c->kind);
    }
    hlm_session_destroy(s);
    return same;
}

static hlm_context *open_context(uint32_t n_seq, enum hlm_kv kv)
{
    struct hlm_err err = { 0 };
    const struct hlm_session_params p = {
        .n_ctx = N_CTX, .n_batch = N_BATCH, .kv = kv, .snapshot_budget = n_seq << 22, .n_seq = n_seq
    };
    hlm_context *x = hlm_context_create(t.m, &p, &err);
    CHECK_OK(x, err);
    return x;
}

/* Without the validation layer, which takes half the time. */
static hlm *open_bare(const char *path)
{
    struct hlm_err err = { 0 };
    const struct hlm_params p = {
        .model = path, .cache_dir = "build/cache", .f32_only = true, .log = test_sink()
    };
    hlm *m = hlm_open(&p, &err);
    CHECK_OK(m, err);
    return m;
}

static void test_schedules(const char *model, enum hlm_kv kv, bool validate, uint32_t n_schedule)
{
    const char *path = fixture("%s/base/model-f32.gguf", model);
    if (!test_case("%s: %u schedules, each sequence as alone%s", model, n_schedule,
                   validate ? ", validated" : ""))
        return;
    t.n_token = t.n_batch = t.most = 0;
    t.rng = (struct rng){ 77 + validate };
    t.many = t.alone = NULL;
    if ((t.m = validate ? hlm_test_open(path) : open_bare(path))) {
        t.many = open_context(16, kv);
        t.alone = open_context(2, kv);
        bool same = t.many && t.alone;
        for (uint32_t i = 0; same && i < n_schedule; i++) {
            t.many->goes_ahead = i % 2; /* as on a GPU */
            run_schedule(i % 10 ? 1 : 14, i % 10 ? 2 + pick(8) : 3);
            for (uint32_t k = 0; same && k < t.n_trace; k++)
                same = same_alone(&t.trace[k], k);
            if (!same)
                test_note("  in schedule %u", i);
        }
        struct gpu_counts n = gpu_counts(t.m->gpu);
        test_note("  %u tokens in %u batches, of up to %u; %llu lists recorded, %llu submissions",
                  t.n_token, t.n_batch, t.most, (unsigned long long)n.n_record,
                  (unsigned long long)n.n_submit);
        CHECK(t.most >= 8 && 2 * t.n_token > 3 * t.n_batch);
    }
    hlm_context_destroy(t.many);
    hlm_context_destroy(t.alone);
    hlm_test_close(t.m);
}

/* Scratch memory has the size that the largest batches need, so a smaller one must never need more:
 * whatever its kernels, it is recorded after the memory is committed. */
static void test_scratch_room(const char *model)
{
    const struct hlm_session_params p = { .n_ctx = 4100, .n_batch = 4096, .n_seq = 16 };
    struct hlm_err err = { 0 };
    if (!test_case("%s: fewer tokens never need more scratch memory", model))
        return;
    t.many = NULL;
    if ((t.m = open_bare(fixture("%s/base/model-f32.gguf", model))) &&
        CHECK_OK((t.many = hlm_context_create(t.m, &p, &err)), err))
        for (uint32_t n = 1; n <= 4096; n += n < 20 ? 1 : n < 600 ? 45 : 900)
            for (uint32_t kind = REC_READ; kind <= REC_NEXT; kind++) {
                const struct recording_key key = { .kind = kind, .n_tok = n };
                if (kind == REC_READ || kind == REC_READ_LAST || (kind == REC_NEXT && n <= 16))
                    CHECK_MSG(recordings_lay_out(&t.many->recordings, key, &err), "%u tokens: %s",
                              n, err.msg);
            }
    hlm_context_destroy(t.many);
    hlm_test_close(t.m);
}

/* A batch of thousands of tokens gives what small ones give. */
static void test_large_batch(const char *model)
{
    enum { N = 1100 };
    static const uint32_t n_batch[2] = { 4096, 256 };
    struct hlm_err err = { 0 };
    float *logits[2] = { NULL };
    if (!test_case("%s: %d tokens in one batch", model, N) ||
        !(t.m = open_bare(fixture("%s/base/model-f32.gguf", model))))
        return;
    uint32_t n_vocab = t.m->model->n_vocab;
    int32_t *id = test_room(N, sizeof *id);
    t.rng = (struct rng){ 4 };
    random_ids(id, N);
    for (uint32_t i = 0; i < 2; i++) {
        const struct hlm_session_params p = { .n_ctx = N, .n_batch = n_batch[i] };
        hlm_session *s = hlm_test_session(t.m, p);
        logits[i] = test_room(n_vocab, sizeof **logits);
        if (s && CHECK_OK(hlm_session_sync(s, id, N, NULL, 0, NULL, NULL, &err), err))
            CHECK_OK(gpu_read(t.m->gpu, tensor_rows(s->x->logits, session_slot(s), 1), 0, logits[i],
                              4ull * n_vocab, &err),
                     err);
        hlm_session_destroy(s);
    }
    double off = 0, all = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        off += pow((double)logits[0][i] - (double)logits[1][i], 2);
        all += pow((double)logits[1][i], 2);
    }
    test_note("  nmse %.2g", off / all);
    CHECK(off <= all * LARGE_BATCH_OFF && all > 0);
    free(id);
    free(logits[0]);
    free(logits[1]);
    hlm_test_close(t.m);
}

/* ---- steps ahead ----------------------------------------------------------------------------- */

/* Answers with changes in between: of sampling, of the text, and of the sessions that step
 * together. Returns how many ids it has written. */
static uint32_t run_changes(hlm_session *const s[2], bool ahead, int32_t *id)
{
    struct hlm_err err = { 0 };
    int32_t prompt[2][10];
    uint32_t n = 0;
    t.rng = (struct rng){ 21 };
    s[0]->x->goes_ahead = ahead;
    for (uint32_t i = 0; i < 2; i++) {
        random_ids(prompt[i], 10);
        CHECK_OK(hlm_session_sync(s[i], prompt[i], 10, NULL, 0, NULL, NULL, &err), err);
    }
    for (uint32_t i = 0; i < 24; i++) {
        struct hlm_next row[2] = { { s[0], &hows[i / 5 % 4], 0 }, { s[1], &hows[1], 0 } };
        if (i % 6 == 4) { /* one alone, so that the other waits */
            CHECK_OK(hlm_session_next(s[i / 6 % 2], &hows[2], &id[n++], &err), err);
            continue;
        }
        if (i == 14) /* the text changes */
            CHECK_OK(hlm_session_sync(s[0], prompt[1], 7, NULL, 0, NULL, NULL, &err), err);
        CHECK_OK(hlm_decode(row, 2, &err), err);
        id[n++] = row[0].id;
        id[n++] = row[1].id;
    }
    return n;
}

static void test_ahead(void)
{
    struct hlm_err err = { 0 };
    hlm_session *s[2] = { hlm_context_open(t.many, &err), hlm_context_open(t.many, &err) };
    int32_t id[2][64];
    test_case("context: steps ahead give the same tokens");
    if (!CHECK_OK(s[0] && s[1], err))
        return;
    uint32_t n = run_changes(s, false, id[0]);
    CHECK_EQ(run_changes(s, true, id[1]), n);
    CHECK(!memcmp(id[0], id[1], n * sizeof **id));

    test_case("context: a step ahead is at work when a token is returned, and is the next one");
    uint64_t was = gpu_submitted(t.m->gpu);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_OK(hlm_session_next(s[0], &hows[0], &id[0][i], &err), err);
    CHECK_EQ(gpu_submitted(t.m->gpu), was + 4);

    test_case("context: no step ahead where the context ends");
    for (bool full = false; !full;)
        if (!hlm_session_next(s[0], &hows[0], id[0], &err))
            full = CHECK_EQ(err.kind, HLM_ERR_FULL);
    CHECK_EQ(hlm_session_n_past(s[0]), N_CTX);
    CHECK_EQ(t.many->ahead.n, 0);
    t.many->goes_ahead = false;
    hlm_session_destroy(s[0]);
    hlm_session_destroy(s[1]);
}

/* Calls of the driver fail, waits among them, while a step is ahead. The tokens are those of a
 * session without failures, after a sync where it is asked for. */
static void test_failed_waits(void)
{
    enum { N_TEXT = 12, N_NEXT = 12 };
    struct hlm_err err = { 0 };
    int32_t id[2][N_TEXT + N_NEXT], n_fault = 0;
    if (!test_case("context: calls of the driver fail while a step is ahead"))
        return;
    for (uint32_t pass = 0; pass < 2; pass++) {
        hlm_session *s = hlm_context_open(t.many, &err);
        t.rng = (struct rng){ 8 };
        random_ids(id[pass], N_TEXT);
        t.many->goes_ahead = pass;
        if (!CHECK_OK(s, err) ||
            !CHECK_OK(hlm_session_sync(s, id[pass], N_TEXT, NULL, 0, NULL, NULL, &err), err))
            break;
        for (uint32_t i = N_TEXT; i < N_TEXT + N_NEXT; i++)
            for (uint32_t nth = 1 + i % 4;; nth++) { /* which call: a wait, too */
                if (pass)
                    gpu_test_fail(nth);
                bool ok = hlm_session_next(s, &hows[2], &id[pass][i], &err);
                n_fault += gpu_test_fail(0) == 0 && pass;
                if (ok)
                    break;
                CHECK_EQ(err.kind, HLM_ERR_MEMORY);
                if (s->unclear)
                    CHECK_OK(hlm_session_sync(s, id[pass], i, NULL, 0, NULL, NULL, &err), err);
            }
        hlm_session_destroy(s);
    }
    t.many->goes_ahead = false;
    test_note("  %d calls failed", n_fault);
    CHECK(n_fault > 3);
    CHECK(!memcmp(id[0], id[1], sizeof id[0]));
}

/* A context that was made beside a training, and a session that is opened in it afterwards. */
static void test_after_training(void)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = hlm_tune_defaults();
    int32_t id[10], got[2] = { -1, -2 };
    if (!test_case("context: a session opened after a training"))
        return;
    p.data = fixture("train/qwen35/data.jsonl");
    p.targets = "attn";
    p.read.max_seq = 128;
    p.train.steps = 1;
    t.rng = (struct rng){ 5 };
    random_ids(id, ARRAY_LEN(id));
    hlm_tune *u = hlm_tune_open(t.m, &p, &err);
    if (!CHECK_OK(u && hlm_tune_begin(u, NULL, &err), err))
        return;
    t.alone = open_context(1, HLM_KV_F16);
    for (uint32_t pass = 0; pass < 2 && t.alone; pass++) {
        hlm_session *s = hlm_context_open(t.alone, &err);
        if (CHECK_OK(s, err) &&
            CHECK_OK(hlm_session_sync(s, id, 10, NULL, 0, NULL, NULL, &err), err))
            CHECK_OK(hlm_session_next(s, &hows[0], &got[pass], &err), err);
        hlm_session_destroy(s);
        hlm_tune_close(u); /* with its adapter, which the first pass has used */
        u = NULL;
    }
    CHECK_EQ(got[0], got[1]); /* the adapter was new: it adds nothing */
    hlm_tune_close(u);
    hlm_context_destroy(t.alone);
}

/* ---- refusals and failures ------------------------------------------------------------------- */

/* Four sequences with prompts of their own. */
static bool open_four(hlm_context *x, hlm_session *s[4])
{
    struct hlm_err err = { 0 };
    int32_t id[12];
    t.rng = (struct rng){ 3 };
    for (uint32_t i = 0; i < 4; i++) {
        random_ids(id, ARRAY_LEN(id));
        if (!CHECK_OK((s[i] = hlm_context_open(x, &err)), err) ||
            !CHECK_OK(hlm_session_sync(s[i], id, 8 + i, NULL, 0, NULL, NULL, &err), err))
            return false;
    }
    return true;
}

static void rows_of(hlm_session *const s[4], struct hlm_next row[4])
{
    for (uint32_t i = 0; i < 4; i++)
        row[i] = (struct hlm_next){ s[i], &hows[i], 0 };
}

static void test_refusals(void)
{
    struct hlm_err err = { 0 };
    hlm_session *s[4] = { 0 }, *other;
    struct hlm_next row[20];
    if (!test_case("context: what is refused"))
        return;
    const struct hlm_session_params many = { .n_ctx = N_CTX, .n_seq = 17 };
    CHECK_REFUSED(hlm_context_create(t.m, &many, &err), err, "17 sequences");
    if (!open_four(t.many, s))
        return;
    CHECK_REFUSED(hlm_context_open(t.many, &err), err, "4 sequences");
    CHECK_EQ(err.kind, HLM_ERR_FULL);
    CHECK_REFUSED(hlm_session_fork(s[0], &err), err, "4 sequences");
    rows_of(s, row);
    CHECK_REFUSED(hlm_decode(row, 0, &err), err, "0 sessions");
    CHECK_REFUSED(hlm_decode(row, 17, &err), err, "17 sessions");
    row[2].session = s[0];
    CHECK_REFUSED(hlm_decode(row, 4, &err), err, "sessions 0 and 2 are the same");
    if (CHECK_OK((other = hlm_context_open(t.alone, &err)), err)) {
        row[2].session = other;
        CHECK_REFUSED(hlm_decode(row, 4, &err), err, "another context");
        hlm_session_destroy(other);
    }
    row[2].session = s[2];
    hlm_session_reset(s[2]);
    CHECK_REFUSED(hlm_decode(row, 4, &err), err, "session 2: there are no logits");
    CHECK_EQ(hlm_session_n_past(s[0]), 8);
    hlm_session_destroy(s[2]);
    CHECK_REFUSED(hlm_decode(row, 4, &err), err, "session 2 has been destroyed");
    const struct hlm_piece piece = { s[0], (const int32_t[]){ 100000 }, 1, false };
    CHECK_REFUSED(hlm_read(&piece, 1, &err), err, "100000");
    for (uint32_t i = 0; i < 4; i++)
        if (i != 2)
            hlm_session_destroy(s[i]);
}

/* Four tokens of each sequence. fail: allocation after allocation fails in between, until none is
 * left; after each failure the sessions are where they were. Returns how many failed. */
static uint32_t decode_four(hlm_session *const s[4], bool fail, int32_t got[4][4])
{
    struct hlm_err err = { 0 };
    struct hlm_next row[4];
    uint32_t n_fault = 0;
    for (uint32_t i = 0, nth = 1; i < 4;) {
        uint32_t past = hlm_session_n_past(s[3]);
        rows_of(s, row);
        if (fail)
            hlm_test_fail(nth++);
        bool done = hlm_decode(row, 4, &err);
        n_fault += hlm_test_fail(0) == 0 && fail;
        for (uint32_t k = 0; done && k < 4; k++)
            got[i][k] = row[k].id;
        if (done) {
            i++;
            nth = 1;
        } else if (!CHECK_EQ(err.kind, HLM_ERR_MEMORY) ||
                   !CHECK_EQ(hlm_session_n_past(s[3]), past)) {
            break;
        }
    }
    return n_fault;
}

/* The recordings are made in the first pass, so that there is something to fail. */
static void test_memory(void)
{
    hlm_session *s[4];
    int32_t got[2][4][4] = { 0 };
    if (!test_case("context: every allocation of a batched step fails once"))
        return;
    for (uint32_t pass = 0; pass < 2 && open_four(t.many, s); pass++) {
        uint32_t n_fault = decode_four(s, !pass, got[pass]);
        test_note("  %u allocations failed", n_fault);
        CHECK(pass ? n_fault == 0 : n_fault > 5);
        for (uint32_t i = 0; i < 4; i++)
            hlm_session_destroy(s[i]);
    }
    CHECK(!memcmp(got[0], got[1], sizeof got[0]));
}

void test_context(void)
{
    static const struct {
        const char *model;
        enum hlm_kv kv;
    } rows[] = {
        { "qwen35", HLM_KV_F32 },         { "qwen35moe", HLM_KV_F16 },
        { "qwen3next", HLM_KV_Q8_0 },     { "nemotron_h", HLM_KV_F16 },
        { "nemotron_h_moe", HLM_KV_F32 }, { "step35", HLM_KV_F16 },
    };
    test_case("a device");
    if (!test_gpu())
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        for (uint32_t validate = 0; validate < 2; validate++)
            test_schedules(rows[i].model, rows[i].kv, validate, validate ? 4 : 30);
    for (uint32_t i = 1; i < ARRAY_LEN(rows); i += 2) /* one of each recurrence, one of windows */
        test_scratch_room(rows[i].model);
    test_large_batch("qwen35moe");
    if ((t.m = hlm_test_open(fixture("qwen35/base/model-f32.gguf")))) {
        t.many = open_context(4, HLM_KV_F16);
        t.alone = open_context(1, HLM_KV_F16);
        if (t.many && t.alone) {
            test_memory();
            test_ahead();
            test_failed_waits();
            test_refusals();
        }
        hlm_context_destroy(t.many);
        hlm_context_destroy(t.alone);
        test_after_training();
    }
    hlm_test_close(t.m);
}
