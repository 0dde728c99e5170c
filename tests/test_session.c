/* test_session: one timeline: what is read again and what is not, the snapshot, sampling, limits,
 * and how many submissions a token costs. The model is small and random; test_model tests the
 * numbers. */
#include "hlm_test.h"
#include "json.h"

#include <stdio.h>

enum { N_CTX = 64, N_BATCH = 16, N_ID = 80 };

static struct {
    hlm *m;
    hlm_session *s, *fresh; /* fresh: reads everything anew, for comparison */
    uint32_t n_vocab;
    int32_t id[N_ID]; /* a history; others differ from it at the end */
} t;

static const struct hlm_sampling greedy = { .repeat_penalty = 1 };

/* ---- helpers ---------------------------------------------------------------------------- */

static bool sync_to(const int32_t *id, uint32_t n, uint32_t n_snap)
{
    struct hlm_err err = { 0 };
    return CHECK_OK(hlm_session_sync(t.s, id, n, &n_snap, 1, NULL, NULL, &err), err) &&
           CHECK_EQ(hlm_session_n_past(t.s), n) &&
           CHECK(!memcmp(hlm_session_ids(t.s), id, n * sizeof *id));
}

/* t.id with another text from `at` on. */
static void branch(int32_t *to, uint32_t at, uint32_t salt)
{
    memcpy(to, t.id, sizeof t.id);
    for (uint32_t i = at; i < N_ID; i++)
        to[i] = (int32_t)(((uint32_t)t.id[i] + salt) % 600);
}

/* Reads one more token and returns its logits; NULL after a failure. */
static float *read_one(hlm_session *s, int32_t id)
{
    static float row[2][1024];
    float *to = row[s == t.s];
    struct hlm_err err = { 0 };
    return CHECK_OK(hlm_session_eval(s, &id, 1, to, NULL, &err), err) ? to : NULL;
}

static bool generate(const struct hlm_sampling *how, int32_t *id, uint32_t n)
{
    struct hlm_err err = { 0 };
    for (uint32_t i = 0; i < n; i++)
        if (!CHECK_OK(hlm_session_next(t.s, how, &id[i], &err), err))
            return false;
    return true;
}

/* The counts since the last call. */
static void check_counts(uint64_t read, uint64_t reused, uint64_t reread, uint64_t gen)
{
    static struct hlm_stats was;
    struct hlm_stats now = hlm_session_stats(t.s);
    if (read != UINT64_MAX) {
        CHECK_EQ(now.n_read - was.n_read, read);
        CHECK_EQ(now.n_reused - was.n_reused, reused);
        CHECK_EQ(now.n_reread - was.n_reread, reread);
        CHECK_EQ(now.n_gen - was.n_gen, gen);
    }
    was = now;
}

static void start(void)
{
    hlm_session_reset(t.s);
    check_counts(UINT64_MAX, 0, 0, 0);
}

/* The logits after one more token are bit for bit those of a timeline that read the same pieces
 * (the sizes of hlm_session_sync calls; 0 ends them) and nothing else. */
static void check_as_fresh(const int32_t *id, const uint32_t *end)
{
    struct hlm_err err = { 0 };
    uint32_t n = 0;
    hlm_session_reset(t.fresh);
    for (; *end; n = *end++)
        if (!CHECK_OK(hlm_session_sync(t.fresh, id, *end, NULL, 0, NULL, NULL, &err), err))
            return;
    const float *want = read_one(t.fresh, id[n]), *got = read_one(t.s, id[n]);
    CHECK(want && got && !memcmp(got, want, t.n_vocab * sizeof *got));
}
#define AS_FRESH(id, ...) check_as_fresh(id, (const uint32_t[]){ __VA_ARGS__, 0 })

/* ---- what is read again ----------------------------------------------------------------- */

static void test_reuse(void)
{
    int32_t other[N_ID];
    test_case("sync: what is cached is not read again");
    start();
    sync_to(t.id, 40, 0);
    check_counts(40, 0, 0, 0);
    sync_to(t.id, 40, 0);
    check_counts(0, 40, 0, 0);
    sync_to(t.id, 50, 0);
    check_counts(10, 40, 0, 0);
    AS_FRESH(t.id, 40, 50);
    check_counts(1, 0, 0, 0);

    test_case("sync: another text without a snapshot is read from the start");
    branch(other, 30, 7);
    sync_to(other, 45, 0);
    check_counts(15, 0, 30, 0);
    AS_FRESH(other, 45);

    test_case("sync: a part of what is cached is read from the start");
    start();
    sync_to(t.id, 40, 0);
    sync_to(t.id, 20, 0);
    check_counts(40, 0, 20, 0);
    AS_FRESH(t.id, 20);

    test_case("reset: nothing is cached, nothing counts as read again");
    hlm_session_reset(t.s);
    CHECK_EQ(hlm_session_n_past(t.s), 0);
    check_counts(UINT64_MAX, 0, 0, 0);
    sync_to(t.id, 20, 0);
    check_counts(20, 0, 0, 0);
    AS_FRESH(t.id, 20);
}

static void test_snapshot(void)
{
    int32_t other[N_ID];
    test_case("snapshot: restored where it lies in the common prefix");
    branch(other, 30, 7);
    start();
    sync_to(t.id, 40, 25);
    check_counts(40, 0, 0, 0);
    sync_to(other, 45, 0);
    check_counts(15, 25, 5, 0);
    AS_FRESH(other, 25, 45);

    test_case("snapshot: stays for a second time");
    sync_to(t.id, 33, 0);
    check_counts(1 + 3, 25, 5, 0); /* the 1: AS_FRESH above; 30 tokens are common */
    AS_FRESH(t.id, 25, 33);

    test_case("snapshot: at the start of a piece and inside one, the same");
    for (uint32_t at = 1; at <= 33; at += 8) {
        start();
        sync_to(t.id, 40, at);
        sync_to(other, 36, 0);
        check_counts(40 + 6, min_u32(at, 30) * (at <= 30), at <= 30 ? 30 - at : 30, 0);
        if (at <= 30)
            AS_FRESH(other, at, 36);
        else
            AS_FRESH(other, 36);
    }

    test_case("snapshot: void once the text before it has changed");
    start();
    sync_to(t.id, 40, 25);
    branch(other, 10, 7);
    sync_to(other, 30, 0);
    check_counts(40 + 20, 0, 10, 0);
    sync_to(t.id, 40, 0);
    check_counts(30, 0, 10, 0);
    AS_FRESH(t.id, 40);

    test_case("snapshot: reset drops it");
    sync_to(t.id, 41, 30);
    start();
    sync_to(t.id, 20, 0);
    sync_to(t.id, 35, 0);
    branch(other, 33, 7);
    sync_to(other, 40, 0);
    check_counts(35 + 7, 20, 33, 0);
}

/* A second answer to the same question, and a turn whose answer the template rewrote. */
static void test_turns(void)
{
    struct hlm_sampling warm = { .temp = 1, .repeat_penalty = 1, .seed = 3 };
    int32_t first[8], again[8], other[N_ID];
    test_case("snapshot at the end of the prompt: an answer made anew reads nothing");
    start();
    sync_to(t.id, 20, 20);
    generate(&warm, first, 8);
    CHECK_EQ(hlm_session_n_past(t.s), 27);
    check_counts(20, 0, 0, 8);
    sync_to(t.id, 20, 20);
    generate(&warm, again, 8);
    check_counts(0, 20, 0, 8);
    CHECK(!memcmp(first, again, sizeof first));

    test_case("the next turn goes on where it stands, and reads the last token of the answer");
    memcpy(other, t.id, sizeof other);
    memcpy(other + 20, again, sizeof again);
    sync_to(other, 32, 32);
    check_counts(5, 27, 0, 0);

    test_case("the next turn rewrites the answer: only that and what follows is read");
    start();
    sync_to(t.id, 20, 20);
    generate(&warm, first, 8);
    memcpy(other + 20, first, 3 * sizeof *first);
    for (uint32_t i = 23; i < N_ID; i++)
        other[i] = (first[(i - 20) % 8] + 1) % 600;
    sync_to(other, 30, 30);
    check_counts(20 + 7, 20, 3, 8);
    AS_FRESH(other, 20, 30);
}

/* Any sequence of calls leaves the timeline as if its ids had been read at once. NMSE of logits. */
static const struct bound timeline_off = { .most = 5e-11 };

static void test_random_calls(void)
{
    struct rng r = { 20240607 };
    struct hlm_err err = { 0 };
    static float all[N_CTX * 1024];
    for (uint32_t step = 0; step < 40; step++) {
        int32_t id[N_ID], made;
        uint32_t n = 1 + (uint32_t)(rng_u64(&r) % (N_CTX - 8)),
                 at = (uint32_t)(rng_u64(&r) % N_CTX);
        uint32_t snap = (uint32_t)(rng_u64(&r) % N_CTX), n_gen = (uint32_t)(rng_u64(&r) % 4);
        test_case("random calls, seed 20240607, step %u: %u ids, other from %u, snapshot at %u",
                  step, n, at, snap);
        branch(id, at, (uint32_t)(rng_u64(&r) % 3));
        sync_to(id, n, snap);
        for (uint32_t i = 0; i < n_gen; i++) {
            struct hlm_sampling warm = { .temp = 1, .repeat_penalty = 1, .seed = step };
            CHECK_OK(hlm_session_next(t.s, &warm, &made, &err), err);
        }
        if (rng_u64(&r) % 8 == 0)
            hlm_session_reset(t.s);
        uint32_t n_past = hlm_session_n_past(t.s);
        memcpy(id, hlm_session_ids(t.s), n_past * sizeof *id);
        id[n_past] = 5;
        const float *got = read_one(t.s, 5);
        hlm_session_reset(t.fresh);
        CHECK_OK(hlm_session_eval(t.fresh, id, n_past + 1, all, NULL, &err), err);
        struct diff d =
            got ? diff_f32(got, all + (uint64_t)n_past * t.n_vocab, t.n_vocab) : (struct diff){ 0 };
        CHECK_WITHIN("nmse", d.nmse, timeline_off);
    }
}

/* ---- limits ----------------------------------------------------------------------------- */

static void test_limits(void)
{
    struct hlm_err err = { 0 };
    int32_t bad[2] = { 1, (int32_t)t.n_vocab }, id;
    test_case("context: 64 positions and not one more");
    start();
    CHECK_REFUSED(hlm_session_sync(t.s, t.id, N_CTX + 1, NULL, 0, NULL, NULL, &err), err, "64");
    CHECK_REFUSED(hlm_session_sync(t.s, t.id, 0, NULL, 0, NULL, NULL, &err), err, "at least one");
    CHECK_EQ(hlm_session_n_past(t.s), 0);
    sync_to(t.id, N_CTX, 0);
    CHECK_REFUSED(hlm_session_eval(t.s, t.id, 1, NULL, NULL, &err), err, "64|full");
    CHECK_OK(hlm_session_next(t.s, &greedy, &id, &err), err); /* its logits are there already */
    CHECK_REFUSED(hlm_session_next(t.s, &greedy, &id, &err), err, "64|full");
    CHECK_EQ(hlm_session_n_past(t.s), N_CTX);
    sync_to(t.id, 30, 0);
    AS_FRESH(t.id, 30);

    test_case("nothing read: nothing to sample from");
    start();
    CHECK_REFUSED(hlm_session_next(t.s, &greedy, &id, &err), err, "nothing|read");

    test_case("ids outside the vocabulary are refused, and nothing is read");
    sync_to(t.id, 10, 0);
    CHECK_REFUSED(hlm_session_sync(t.s, bad, 2, NULL, 0, NULL, NULL, &err), err, "token 1|640");
    CHECK_REFUSED(hlm_session_eval(t.s, bad, 2, NULL, NULL, &err), err, "token 1|640");
    bad[1] = -1;
    CHECK_REFUSED(hlm_session_eval(t.s, bad, 2, NULL, NULL, &err), err, "token 1|-1");
    CHECK_EQ(hlm_session_n_past(t.s), 10);
    AS_FRESH(t.id, 10);
}

struct stop {
    uint32_t n_call, stop_at;
    uint64_t done, total;
};

static bool on_progress(void *user, uint64_t done, uint64_t total)
{
    struct stop *s = user;
    if (s->n_call == 0)
        CHECK(done == 0 && total > 0);
    else
        CHECK(done > s->done && done <= total && total == s->total);
    s->done = done;
    s->total = total;
    return ++s->n_call != s->stop_at;
}

static void test_progress(void)
{
    struct hlm_err err = { 0 };
    struct stop all = { 0 }, none = { 0 }, first = { .stop_at = 1 }, third = { .stop_at = 3 },
                last = { .stop_at = 4 };
    test_case("progress: reported before and after every piece, to the end");
    start();
    CHECK_OK(hlm_session_sync(t.s, t.id, 40, NULL, 0, on_progress, &all, &err), err);
    CHECK_EQ(all.n_call, 4);
    CHECK_EQ(all.done, 40);
    CHECK_EQ(all.total, 40);
    CHECK_OK(hlm_session_sync(t.s, t.id, 40, NULL, 0, on_progress, &none, &err), err);
    CHECK_EQ(none.n_call, 0);

    test_case("progress: stops; what was read stays, and is not read again");
    start();
    CHECK(!hlm_session_sync(t.s, t.id, 40, NULL, 0, on_progress, &first, &err));
    CHECK_EQ(hlm_session_n_past(t.s), 0);
    CHECK(!hlm_session_sync(t.s, t.id, 40, NULL, 0, on_progress, &third, &err));
    CHECK_EQ(err.kind, HLM_ERR_STOPPED);
    CHECK_EQ(hlm_session_n_past(t.s), 2 * N_BATCH);
    sync_to(t.id, 40, 0);
    check_counts(40, 2 * N_BATCH, 0, 0);
    AS_FRESH(t.id, 2 * N_BATCH, 40);

    test_case("progress: a no after the last piece stops too, and all has been read");
    start();
    CHECK(!hlm_session_sync(t.s, t.id, 40, NULL, 0, on_progress, &last, &err));
    CHECK_EQ(err.kind, HLM_ERR_STOPPED);
    CHECK_EQ(hlm_session_n_past(t.s), 40);
    sync_to(t.id, 40, 0);
    check_counts(40, 40, 0, 0);
    AS_FRESH(t.id, 40);
}

/* ---- sampling --------------------------------------------------------------------------- */

static void test_sampling(void)
{
    struct hlm_sampling how = { .temp = 1.5f, .top_p = 1, .repeat_penalty = 1, .seed = 1 };
    int32_t a[20], b[20];
    test_case("same seed, same ids; another seed, others");
    start();
    sync_to(t.id, 12, 12);
    generate(&how, a, 20);
    sync_to(t.id, 12, 12);
    generate(&how, b, 20);
    CHECK(!memcmp(a, b, sizeof a));
    how.seed = 1ull << 32; /* the upper half of a seed counts too */
    sync_to(t.id, 12, 12);
    generate(&how, b, 20);
    CHECK(memcmp(a, b, sizeof a));

    test_case("unused vocabulary entries are not sampled unless they may be");
    uint32_t n_unused = 0;
    how.temp = 50; /* nearly uniform: 20 of 640 entries are unused */
    for (uint32_t round = 0; round < 8; round++) {
        how.seed = round;
        how.allow_unused = round >= 4;
        sync_to(t.id, 12, 12);
        generate(&how, a, 20);
        for (uint32_t i = 0; i < 20; i++)
            if (tok_is_unused(hlm_test_tok(t.m), a[i])) {
                CHECK(how.allow_unused);
                n_unused++;
            }
    }
    CHECK(n_unused > 0);
}

/* Guards against a token from before the sync being read after it. */
static void test_unread(void)
{
    int32_t a[2], b[2];
    test_case("sync: a token that was sampled and not read is forgotten");
    start();
    sync_to(t.id, 12, 0);
    generate(&greedy, a, 2);
    start();
    sync_to(t.id, 12, 0);
    generate(&greedy, b, 1);
    sync_to(t.id, 12, 0);
    generate(&greedy, b, 2);
    CHECK(!memcmp(a, b, sizeof a));
}

static void test_greedy(void)
{
    struct hlm_err err = { 0 };
    struct hlm_sampling how = greedy;
    int32_t id[N_ID];
    static float all[N_CTX * 1024];
    test_case("greedy is the largest logit of eval");
    how.allow_unused = true;
    start();
    sync_to(t.id, 12, 0);
    memcpy(id, t.id, sizeof id);
    generate(&how, id + 12, 30);
    hlm_session_reset(t.fresh);
    CHECK_OK(hlm_session_eval(t.fresh, id, 42, all, NULL, &err), err);
    for (uint32_t i = 12; i < 42; i++) {
        const float *row = all + (uint64_t)(i - 1) * t.n_vocab;
        uint32_t best = 0;
        for (uint32_t k = 1; k < t.n_vocab; k++)
            if (row[k] > row[best])
                best = k;
        CHECK_MSG(id[i] == (int32_t)best, "position %u: %d, the largest is %u", i, id[i], best);
    }
}

/* A token costs one submission and no recording. If any path added to either, the host would limit
 * decoding on a GPU. */
static void test_submissions(void)
{
    struct hlm_sampling warm = { .temp = 0.8f,
                                 .top_k = 40,
                                 .top_p = 0.95f,
                                 .min_p = 0.05f,
                                 .repeat_penalty = 1.1f,
                                 .repeat_last_n = 64 };
    int32_t id[20];
    test_case("a token is one submission; nothing is recorded");
    start();
    sync_to(t.id, 12, 12);
    generate(&warm, id, 2);
    struct hlm_stats before = hlm_session_stats(t.s);
    generate(&warm, id, 20);
    struct hlm_stats after = hlm_session_stats(t.s);
    CHECK_EQ(after.n_submit - before.n_submit, 20);
    CHECK_EQ(after.n_record - before.n_record, 0);
    CHECK_EQ(after.n_pipeline - before.n_pipeline, 0);
}

void test_session(void)
{
    struct rng r = { 11 };
    test_case("a device");
    if (!test_gpu())
        return;
    t.m = hlm_test_open(fixture("qwen35/base/model-f32.gguf"));
    if (!t.m)
        return;
    t.n_vocab = hlm_get_info(t.m).n_vocab;
    for (uint32_t i = 0; i < N_ID; i++)
        t.id[i] = (int32_t)(rng_u64(&r) % 600);
    struct hlm_session_params params = {
        .n_ctx = N_CTX,
        .n_batch = N_BATCH,
        .kv = HLM_KV_F32,
        .keep_logits = true,
        .snapshot_budget = TEST_BUDGET_DEFAULT,
    };
    t.s = hlm_test_session(t.m, params);
    t.fresh = hlm_test_session(t.m, params);
    if (t.s && t.fresh && CHECK(t.n_vocab <= 1024)) {
        CHECK_EQ(hlm_session_n_ctx(t.s), N_CTX);
        test_reuse();
        test_snapshot();
        test_turns();
        test_random_calls();
        test_limits();
        test_progress();
        test_sampling();
        test_unread();
        test_greedy();
        test_submissions();
    }
    test_case("no message of the validation layer");
    hlm_session_destroy(t.s);
    hlm_session_destroy(t.fresh);
    hlm_test_close(t.m);
}
