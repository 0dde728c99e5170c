/* test_faults: every allocation of the host and every request to the driver fails once, and the
 * device is lost at every submission and wait. Each failure is reported in one line, nothing is
 * leaked or left running, and whatever can continue does: the next call gives what it would have
 * given.
 *
 * A walk makes the 1st, 2nd, 3rd ... allocation fail, until a round has fewer than that. The model
 * has one layer, so that a round is short. test_fault_host needs no device and runs under the
 * sanitizers, which find leaks. */
#define _POSIX_C_SOURCE 200809L
#include "gpu/gpu.h"
#include "gguf_build.h"
#include "hlm_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- messages -------------------------------------------------------------------------------- */

static uint32_t n_validation;

static void on_message(void *user, enum hlm_log_level level, const char *msg)
{
    (void)user;
    if (level == HLM_LOG_ERROR && strstr(msg, "validation")) {
        n_validation++;
        FAIL("%s", msg);
    }
}

/* There is a reason in one line, and it says these parts. */
static void has_reason(const char *what, uint64_t n, const struct hlm_err *err, const char *says)
{
    if (!err->kind)
        FAIL("%s %llu: failed without a reason", what, (unsigned long long)n);
    else if (strchr(err->msg, '\n') || !test_has(err->msg, says))
        FAIL("%s %llu: \"%s\" does not say %s", what, (unsigned long long)n, err->msg, says);
}

/* Every one up to `each`, then every seventh. */
static uint64_t next_step(uint64_t n, uint64_t each) { return n < each ? n + 1 : n + 7; }

/* ---- without a device ------------------------------------------------------------------------ */

/* A file, its tokenizer, a text, and a chat prompt with tools. */
static bool read_and_write(const char *path, struct hlm_err *err)
{
    static const char text[] = "Hello, W\xc3\xb6rld 123\n\n<|im_end|>";
    static const char talk[] =
        "{\"tools\":[{\"name\":\"f\"}],\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},"
        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"name\":\"f\",\"arguments\":"
        "\"{}\"},{\"name\":\"g\"}]},{\"role\":\"tool\",\"content\":\"x\",\"name\":\"f\"}]}";
    struct json_t *tools = NULL;
    uint32_t n = 0;
    struct chat_format format;
    struct chat_prompt prompt = { 0 };
    struct hlm_ids ids = { 0 };
    struct gguf *g = gguf_open(path, err);
    struct tok *t = g ? tok_create(g, err) : NULL;
    bool ok = t && tok_encode_text(t, text, sizeof text - 1, true, &ids, err);
    chat_by_name("qwen3", g, &format);
    struct chat_msg *msg = ok ? chat_from_json((struct hlm_str){ talk, sizeof talk - 1 }, &format,
                                               "talk", &n, &tools, err)
                              : NULL;
    struct chat_input in = { .msg = msg, .n = n, .tools = tools };
    ok = msg && chat_render(&format, &in, true, true, &prompt, err);
    chat_prompt_free(&prompt);
    chat_free(msg, n, tools);
    hlm_ids_free(&ids);
    tok_destroy(t);
    gguf_close(g);
    return ok;
}

static void walk_host(const char *what, uint64_t (*arm)(uint64_t))
{
    const char *path = fixture("tokenizer/qwen35/vocab.gguf");
    test_case("%s: a file, a tokenizer, a prompt", what);
    uint64_t n = 1, n_failed = 0;
    for (bool more = true; more; n = next_step(n, 300)) {
        struct hlm_err err = { 0 };
        arm(n);
        bool ok = read_and_write(path, &err);
        more = arm(0) == 0;
        n_failed += !ok;
        if (!ok)
            has_reason("allocation", n, &err, "memory");
        CHECK_MSG(more || ok, "%s", err.msg);
    }
    CHECK(n_failed > 20);
    test_note("  %llu allocations, %llu were missed", (unsigned long long)n,
              (unsigned long long)n_failed);
}

void test_fault_host(void)
{
    walk_host("a host allocation", mem_test_fail);
    walk_host("all host allocations from one on", mem_test_fail_from);
}

/* ---- with one -------------------------------------------------------------------------------- */

static struct {
    char path[128];
    hlm *m;
    hlm_session *s;
    int32_t want[2]; /* the tokens expected */
} t;

static const int32_t prompt[4] = { 5, 250, 17, 3 };
enum { MAX_LENGTHS = 18 }; /* more than the recordings that a session keeps */
static const struct hlm_sampling greedy = { .repeat_penalty = 1 };

/* A file with the first layer of a fixture, and its vocabulary. */
static bool make_small(void)
{
    struct hlm_err err = { 0 };
    snprintf(t.path, sizeof t.path, "%s/small.gguf", test_tmp());
    struct gguf_build *b = gb_from(fixture("qwen35/base/model-f16.gguf"), &err);
    if (!CHECK_MSG(b != NULL, "%s", err.msg))
        return false;
    gb_u32(b, "qwen35.block_count", 1);
    gb_u32(b, "qwen35.nextn_predict_layers", 0);
    gb_drop_key(b, "qwen35.attention.recurrent_layers");
    bool ok = CHECK_OK(gb_write(b, t.path, &err), err);
    gb_free(b);
    return ok;
}

static bool open_model(struct hlm_err *err)
{
    t.m = hlm_test_try(t.path, err);
    return t.m != NULL;
}

static bool open_session(struct hlm_err *err)
{
    static const struct hlm_session_params params = { .n_ctx = 16,
                                                      .n_batch = 1,
                                                      .snapshot_budget = 1 << 20 };
    t.s = hlm_session_create(t.m, &params, err);
    return t.s != NULL;
}

/* Reads the prompt, takes a snapshot on the way, and generates two tokens. */
static bool talk(int32_t *got, struct hlm_err *err)
{
    for (uint32_t i = 0; i < 2; i++)
        got[i] = -1;
    return hlm_session_sync(t.s, prompt, ARRAY_LEN(prompt), &(uint32_t){ 2 }, 1, NULL, NULL, err) &&
           hlm_session_next(t.s, &greedy, &got[0], err) &&
           hlm_session_next(t.s, &greedy, &got[1], err);
}

static void close_all(void)
{
    hlm_session_destroy(t.s);
    t.s = NULL;
    hlm_close(t.m);
    t.m = NULL;
}

static bool all(struct hlm_err *err)
{
    int32_t got[2];
    bool ok = open_model(err) && open_session(err) && talk(got, err);
    if (ok)
        CHECK(!memcmp(got, t.want, sizeof got));
    close_all();
    return ok;
}

enum phase { OPEN, SESSION, TALK, SAVE };
static const char *const phase_name[] = { "opening", "making a session", "reading and answering",
                                          "saving and loading" };

/* Loading restores what the file holds: the second token comes again. */
static bool save_and_load(struct hlm_err *err)
{
    char path[160];
    int32_t got = -1;
    snprintf(path, sizeof path, "%s.saved", t.path);
    bool ok = hlm_session_save(t.s, path, "note", 4, err) &&
              hlm_session_load(t.s, path, NULL, NULL, err) &&
              hlm_session_next(t.s, &greedy, &got, err);
    if (ok)
        CHECK_EQ(got, t.want[0]);
    return ok;
}

/* Runs one phase with the n-th request failing. What it needs was made before; the next try
 * works. */
static bool round_of(enum phase phase, struct hlm_err *err)
{
    int32_t got[2];
    bool ok = phase == OPEN      ? open_model(err)
              : phase == SESSION ? open_session(err)
              : phase == TALK    ? talk(got, err)
                                 : save_and_load(err);
    if (ok && phase == TALK)
        CHECK(!memcmp(got, t.want, sizeof got));
    return ok;
}

static void after(enum phase phase, bool ok, uint64_t base)
{
    struct hlm_err err = { 0 };
    int32_t got[2];
    if (phase == OPEN) {
        CHECK(ok == (t.m != NULL));
        hlm_close(t.m);
        t.m = NULL;
    } else if (phase == SESSION) {
        hlm_session_destroy(t.s);
        t.s = NULL;
        CHECK_EQ(hlm_allocated(t.m), base);
    } else if (CHECK_OK(talk(got, &err), err)) { /* the same session continues */
        CHECK(!memcmp(got, t.want, sizeof got));
    }
}

static void walk(enum phase phase, const char *what, uint64_t (*arm)(uint64_t), uint64_t each,
                 const char *word)
{
    uint64_t n = 1, n_failed = 0, base = 0;
    struct hlm_err err = { 0 };
    test_case("%s: %s", what, phase_name[phase]);
    if ((phase > OPEN && !CHECK_OK(open_model(&err), err)) ||
        (phase > SESSION && !CHECK_OK(open_session(&err), err)))
        goto out;
    base = phase == SESSION ? hlm_allocated(t.m) : 0;
    for (bool more = true; more && n < 20000; n = next_step(n, each)) {
        err = (struct hlm_err){ 0 };
        if (phase >= TALK)
            hlm_session_reset(t.s);
        if (phase == SAVE)
            CHECK_OK(hlm_session_sync(t.s, prompt, ARRAY_LEN(prompt), NULL, 0, NULL, NULL, &err),
                     err);
        arm(n);
        bool ok = round_of(phase, &err);
        more = arm(0) == 0;
        n_failed += !ok;
        if (!ok)
            has_reason(what, n, &err, word);
        CHECK_MSG(more || ok, "%s", err.msg);
        after(phase, ok, base);
    }
    test_note("  %s while %s: %llu, %llu failed", what, phase_name[phase],
              (unsigned long long)n - 1, (unsigned long long)n_failed);
    CHECK(n_failed > 0 && n < 20000);
out:
    close_all();
}

static void walk_lost(void)
{
    static const char *const plans[] = { "read",     "next token", "clear",   "copy",
                                         "snapshot", "sample",     "clearing" };
    uint64_t n = 1;
    test_case("a device lost at every submission and wait");
    for (bool more = true; more; n++) {
        struct hlm_err err = { 0 };
        int32_t got[2];
        gpu_test_lose(n);
        bool ok = open_model(&err) && open_session(&err) && talk(got, &err);
        more = gpu_test_lose(0) == 0;
        CHECK_EQ(ok, !more);
        if (!ok) {
            bool named = false;
            has_reason("submission", n, &err, "lost");
            for (uint32_t i = 0; i < ARRAY_LEN(plans); i++)
                named |= test_has(err.msg, plans[i]);
            CHECK_MSG(named, "%s", err.msg);
            /* it stays lost, and reports the same */
            struct hlm_err again = { 0 };
            if (t.s) {
                CHECK(!talk(got, &again));
                CHECK_STR(again.msg, err.msg);
                hlm_session_reset(t.s);
            }
        }
        close_all();
    }
    test_note("  %llu submissions and waits", (unsigned long long)n - 2);
    struct hlm_err err = { 0 };
    CHECK(n > 8);
    CHECK_OK(all(&err), err);
}

static void look_on(void *user, const hlm *m, const struct hlm_counters *c)
{
    (void)user;
    (void)m;
    (void)c;
}

/* Generates three tokens of an answer that is watched. The recording that reports gates has made
 * room for the recordings of other lengths; it is due again with the last token, where the first
 * request to arm fails. */
static void answer_watched(const char *what, uint64_t (*arm)(uint64_t), int32_t *got)
{
    const struct hlm_session_params params = { .n_ctx = 24, .n_batch = 20 };
    const struct hlm_params with = { .model = t.path, .layers = true, .watch = look_on };
    int32_t ids[20];
    struct hlm_err err = { 0 };
    test_case("a watched answer, %s", what);
    for (uint32_t i = 0; i < ARRAY_LEN(ids); i++)
        ids[i] = prompt[i % ARRAY_LEN(prompt)];
    t.m = hlm_test_try_as(with, &err);
    t.s = CHECK_MSG(t.m, "%s", err.msg) ? hlm_test_session(t.m, params) : NULL;
    for (uint32_t n = MAX_LENGTHS; t.s && n > 0; n--) {
        hlm_session_reset(t.s);
        CHECK_OK(hlm_session_sync(t.s, ids, n + 2, NULL, 0, NULL, NULL, &err), err);
    }
    for (uint32_t i = 0; t.s && i < 3; i++) {
        hlm_idle(t.m); /* watches; no look is due for a while */
        if (i == 2) {
            nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
            if (arm)
                arm(1);
        }
        CHECK_OK(hlm_session_next(t.s, &greedy, &got[i], &err), err);
        CHECK(i < 2 || !arm || arm(0) == 0);
    }
    close_all();
}

static void test_watched(void)
{
    int32_t want[3] = { -1, -1, -1 }, got[3];
    answer_watched("nothing failing", NULL, want);
    answer_watched("a host allocation failing", mem_test_fail, got);
    CHECK(!memcmp(got, want, sizeof got));
    answer_watched("all host allocations failing", mem_test_fail_from, got);
    CHECK(!memcmp(got, want, sizeof got));
    answer_watched("a call of the driver failing", gpu_test_fail, got);
    CHECK(!memcmp(got, want, sizeof got));
}

void test_faults(void)
{
    struct hlm_err err = { 0 };
    test_case("a device");
    if (!test_gpu() || !make_small() || !CHECK_OK(open_model(&err), err) ||
        !CHECK_OK(open_session(&err), err) || !CHECK_OK(talk(t.want, &err), err)) {
        close_all();
        return;
    }
    close_all();
    test_log(on_message, NULL);
    test_watched();
    for (enum phase p = OPEN; p <= SAVE; p++)
        walk(p, "host allocation", mem_test_fail, p == OPEN ? 100 : 300, "memory");
    for (enum phase p = OPEN; p <= SAVE; p++)
        walk(p, "host allocations from", mem_test_fail_from, 100, "memory");
    for (enum phase p = OPEN; p <= SAVE; p++)
        walk(p, "call of the driver", gpu_test_fail, 300, "memory");
    walk_lost();
    gpu_test_staging(true);
    walk(TALK, "staged: host allocation", mem_test_fail, 300, "memory");
    walk(TALK, "staged: call of the driver", gpu_test_fail, 300, "memory");
    walk_lost();
    gpu_test_staging(false);
    test_log(NULL, NULL);
    CHECK_EQ(n_validation, 0);
}
