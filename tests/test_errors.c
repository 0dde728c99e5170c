/* test_errors: every kind of error, provoked through the public calls, with its numbers; an err
 * that is used again; messages that go to the sink of their own object. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "hlm_test_hooks.h"
#include "hlm_train.h"

#include <stdio.h>
#include <stdlib.h>

#define TINY "train/qwen35/"
#define TINY_FACTOR "blk.0.attn_qkv.weight.lora_a"
#define DATA "tests/fixtures/" TINY "data.jsonl"

enum { N_CTX = 64, N_PROMPT = 12 };
static const int32_t prompt[N_PROMPT + 1] = { 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17 };
static const struct hlm_session_params small = {
    .n_ctx = N_CTX, .n_batch = 16, .kv = HLM_KV_F32, .snapshot_budget = HLM_SNAPSHOT_NONE
};
static const struct hlm_sampling greedy = { .temp = 0, .repeat_penalty = 1 };

/* The call has failed with this kind, in one line. */
static bool is_kind(bool ok, const struct hlm_err *err, enum hlm_error kind)
{
    return CHECK(!ok) &&
           CHECK_MSG(err->kind == kind, "%s, expected %s: %s", hlm_error_name(err->kind),
                     hlm_error_name(kind), err->msg) &&
           CHECK_MSG(err->msg[0] && !strchr(err->msg, '\n'), "\"%s\"", err->msg);
}

static bool is_size(const struct hlm_err *err, uint64_t need, uint64_t have)
{
    return CHECK_EQ(err->need, need) && CHECK_EQ(err->have, have);
}

static bool stop(void *user, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    return false;
}

/* Progress as it is to be: from 0 to the total, and never back. */
struct rising {
    uint64_t n_call, done, total, stop_at; /* stop_at: a call, from 1; 0: none */
    bool ok;
};

static bool rises(void *user, uint64_t done, uint64_t total)
{
    struct rising *r = user;
    r->ok = r->n_call ? r->ok && done > r->done && done <= total && total == r->total
                      : done == 0 && total > 0;
    r->done = done;
    r->total = total;
    return ++r->n_call != r->stop_at;
}

/* Calls with .user = &r: once to the end, then stopped by the first and by the last call. */
#define CHECK_RISING(r, call)                                                                      \
    do {                                                                                           \
        (r) = (struct rising){ 0 };                                                                \
        CHECK_MSG((call), "%s", err.msg);                                                          \
        uint64_t n_ = (r).n_call;                                                                  \
        CHECK_MSG((r).ok &&n_ > 1 && (r).done == (r).total, "%llu calls, to %llu of %llu",         \
                  (unsigned long long)n_, (unsigned long long)(r).done,                            \
                  (unsigned long long)(r).total);                                                  \
        for (int last_ = 0; last_ < 2; last_++) {                                                  \
            (r) = (struct rising){ .stop_at = last_ ? n_ : 1 };                                    \
            is_kind((call), &err, HLM_ERR_STOPPED);                                                \
            CHECK_EQ((r).n_call, last_ ? n_ : 1);                                                  \
        }                                                                                          \
    } while (0)

static hlm *open_model(struct hlm_params params)
{
    struct hlm_err err = { 0 };
    params.model = fixture(TINY "model.gguf");
    hlm *m = hlm_test_try_as(params, &err);
    CHECK_MSG(m, "%s", err.msg);
    return m;
}

static struct hlm_tune_params tiny_run(void)
{
    struct hlm_tune_params p = hlm_tune_defaults();
    p.data = DATA;
    p.targets = "attn";
    p.read.max_seq = 96;
    p.read.valid = 0.25;
    p.no_pack = true;
    p.train.rank = 3;
    p.train.steps = 4;
    return p;
}

/* ---- without a device ------------------------------------------------------------------------ */

static void test_names(void)
{
    test_case("every kind has a name of its own, and so has the library's version");
    for (int i = HLM_OK; i <= HLM_ERR_STATE; i++)
        for (int k = HLM_OK; k < i; k++)
            CHECK(strcmp(hlm_error_name((enum hlm_error)i), hlm_error_name((enum hlm_error)k)));
    CHECK_STR(hlm_error_name((enum hlm_error)99), "unknown");
    CHECK_STR(hlm_version(), HLM_VERSION);
}

static bool merge(const char *out, const char *type, const char *model, hlm_progress progress,
                  struct hlm_err *err)
{
    struct hlm_lora l = { fixture(TINY "init-lora.gguf"), 1 };
    struct hlm_merge_params p = {
        .model = model, .out = out, .lora = &l, .n_lora = 1, .type = type, .progress = progress
    };
    return hlm_merge(&p, NULL, err);
}

static bool export(const char *out, hlm_progress progress, struct hlm_err *err)
{
    struct hlm_peft_params p = { .model = fixture(TINY "model.gguf"),
                                 .adapter = fixture(TINY "init-lora.gguf"),
                                 .out = out,
                                 .progress = progress };
    return hlm_peft_export(&p, NULL, err);
}

/* Texts of files reach terminals by way of errors, messages, and the names that calls return. */
#define ESCAPES "a\x1b]0;t\x07\n\x7f\xc2\x9b\x9b\u202e\u2029\xc3(\u00e4\u65e5"
#define Q "?" /* one by one: two in a row may begin a trigraph */
#define ESCAPED "a" Q "]0;t" Q Q Q Q Q Q Q Q Q Q Q Q Q "(\u00e4\u65e5"

static void keep_log(void *user, enum hlm_log_level level, const char *msg)
{
    (void)level;
    snprintf(user, 200, "%s", msg);
}

static void test_escapes(void)
{
    struct hlm_err err = { 0 };
    char logged[200] = "";
    test_case("text of a file is fit for a terminal in errors and messages");
    fail(&err, "%s|", ESCAPES);
    CHECK_STR(err.msg, ESCAPED "|");
    struct hlm_log was = log_get();
    log_to(&(struct hlm_log){ .fn = keep_log, .user = logged });
    log_msg(HLM_LOG_WARN, "%s|", ESCAPES);
    log_to(&was);
    CHECK_STR(logged, ESCAPED "|");

    test_case("a file whose names hold control characters");
    struct gguf_build *b = gb_new();
    uint64_t n;
    gb_tensor(b, "blk.0.\x1b[31m", F32, 1, (const uint64_t[]){ 4 }, NULL);
    uint8_t *bytes = gb_bytes(b, &n);
    struct gguf *g = NULL;
    CHECK_REFUSED((g = gguf_parse(bytes, n, "names.gguf", &err)) != NULL, err,
                  "names.gguf|blk.0.?[31m|control character 0x1b");
    gguf_close(g);
    gb_free(b);
    free(bytes);
}

static void test_files(void)
{
    struct hlm_err err;
    struct hlm_adapter_info info;
    const char *model = fixture(TINY "model.gguf"), *out = test_scratch("merged.gguf");
    test_case("system: a file that is not there, a folder that is not there to write into");
    is_kind(hlm_adapter_read("nowhere/x.gguf", &info, &err), &err, HLM_ERR_SYSTEM);
    is_kind(hlm_vocab_open("nowhere/x.gguf", NULL, &err), &err, HLM_ERR_SYSTEM);
    is_kind(merge("nowhere/x.gguf", NULL, model, NULL, &err), &err, HLM_ERR_SYSTEM);
    is_kind(export("nowhere/x/y", NULL, &err), &err, HLM_ERR_SYSTEM);

    test_case("input: a file of another kind, a type that there is not, no adapter");
    is_kind(hlm_adapter_read(model, &info, &err), &err, HLM_ERR_INPUT);
    CHECK(!info.kind && !info.n_kind);
    is_kind(hlm_vocab_open(DATA, NULL, &err), &err, HLM_ERR_INPUT);
    is_kind(merge(out, "Q9_Z", model, NULL, &err), &err, HLM_ERR_INPUT);
    is_kind(hlm_merge(&(struct hlm_merge_params){ .model = model, .out = out }, NULL, &err), &err,
            HLM_ERR_INPUT);

    test_case("unsupported: a type that hlm does not write");
    is_kind(merge(out, "IQ2_S", model, NULL, &err), &err, HLM_ERR_UNSUPPORTED);

    test_case("stopped: by the callback of a merge and of an export");
    is_kind(merge(out, NULL, model, stop, &err), &err, HLM_ERR_STOPPED);
    is_kind(export(test_scratch("exported"), stop, &err), &err, HLM_ERR_STOPPED);
    CHECK_MSG(!fixture_has("../../%s", out), "%s is there", out);
}

/* A copy of a fixture at `out`, in which a tensor has another type, known to hlm or not. */
static bool retype(const char *from, const char *name, uint32_t type, const char *out)
{
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s", from), &err);
    uint64_t n = 0, at = 0, n_name = strlen(name);
    if (!CHECK_OK(b != NULL, err))
        return false;
    const struct dtype_info *info = dtype_info(type);
    bool ok = !info || CHECK(gb_retype(b, name, (enum dtype)type));
    uint8_t *bytes = gb_bytes(b, &n);
    gb_free(b);
    while (at + n_name < n && memcmp(bytes + at, name, n_name) != 0)
        at++;
    uint32_t n_dim = 0;
    at += n_name; /* after the name: the number of dimensions, dimensions of 8 bytes, the type */
    ok = ok && CHECK(at + 4 < n);
    if (ok) {
        memcpy(&n_dim, bytes + at, 4);
        memcpy(bytes + at + 4 + 8 * (uint64_t)n_dim, &type, 4);
    }
    FILE *f = ok ? fopen(out, "wb") : NULL;
    ok = CHECK(f) && CHECK(fwrite(bytes, 1, n, f) == n);
    ok = (!f || CHECK(fclose(f) == 0)) && ok;
    free(bytes);
    return ok;
}

/* Ids of types: one that hlm can read but not compute with, and one that is newer than hlm. */
enum { KNOWN_TYPE = I32, NEWER_TYPE = 99 };

static void test_types(void)
{
    struct hlm_err err;
    struct hlm_adapter_info info;
    const char *other = test_scratch("types.gguf"), *out = test_scratch("merged.gguf");
    struct hlm_lora l = { other, 1 };
    struct hlm_merge_params p = {
        .model = fixture(TINY "model.gguf"), .out = out, .lora = &l, .n_lora = 1
    };
    test_case("unsupported: a tensor of a type that hlm does not know, in a model and an adapter");
    if (retype(TINY "model.gguf", "output_norm.weight", NEWER_TYPE, other)) {
        is_kind(hlm_vocab_open(other, NULL, &err), &err, HLM_ERR_UNSUPPORTED);
        CHECK_SAYS(err.msg, "types.gguf|output_norm.weight|type 99");
        is_kind(merge(out, NULL, other, NULL, &err), &err, HLM_ERR_UNSUPPORTED);
    }
    if (retype(TINY "init-lora.gguf", TINY_FACTOR, NEWER_TYPE, other))
        is_kind(hlm_adapter_read(other, &info, &err), &err, HLM_ERR_UNSUPPORTED);
    test_case("unsupported: a tensor of a type that hlm cannot compute with, in an adapter");
    if (retype(TINY "init-lora.gguf", TINY_FACTOR, KNOWN_TYPE, other)) {
        is_kind(hlm_merge(&p, NULL, &err), &err, HLM_ERR_UNSUPPORTED);
        CHECK_SAYS(err.msg, "types.gguf|" TINY_FACTOR "|type I32");
    }
}

static void test_progress_host(void)
{
    struct hlm_err err;
    struct rising r;
    struct hlm_lora l = { fixture(TINY "init-lora.gguf"), 1 };
    struct hlm_merge_params m = { .model = fixture(TINY "model.gguf"),
                                  .out = test_scratch("rising.gguf"),
                                  .lora = &l,
                                  .n_lora = 1,
                                  .progress = rises,
                                  .user = &r };
    struct hlm_peft_params p = { .model = m.model,
                                 .adapter = l.path,
                                 .out = test_scratch("rising"),
                                 .progress = rises,
                                 .user = &r };
    test_case("progress of a merge: from 0 to the total, and any call may stop it");
    CHECK_RISING(r, hlm_merge(&m, NULL, &err));
    test_case("progress of an export likewise");
    CHECK_RISING(
        r, (p.out = r.stop_at ? test_scratch("stopped") : p.out, hlm_peft_export(&p, NULL, &err)));
}

/* Every allocation of a call fails in its turn: the kind is memory until the call succeeds. */
#define WALK_MEMORY(what, call, undo)                                                              \
    do {                                                                                           \
        bool done_ = false;                                                                        \
        for (uint64_t n_ = 1, k_ = 0; !done_ && k_ < 400; k_++, n_ += n_ < 40 ? 1 : 1 + n_ / 8) {  \
            hlm_test_fail(n_);                                                                     \
            bool ok_ = (call) != 0;                                                                \
            done_ = hlm_test_fail(0) > 0;                                                          \
            if (!ok_ &&                                                                            \
                !CHECK_MSG(err.kind == HLM_ERR_MEMORY, "%s, allocation %llu: %s: %s", what,        \
                           (unsigned long long)n_, hlm_error_name(err.kind), err.msg))             \
                break;                                                                             \
            CHECK_MSG(ok_ || !done_, "%s: %s", what, err.msg);                                     \
            if (ok_)                                                                               \
                undo;                                                                              \
        }                                                                                          \
        CHECK_MSG(done_, "%s: never done", what);                                                  \
    } while (0)

static void test_memory_host(void)
{
    struct hlm_err err = { 0 };
    struct hlm_adapter_info info;
    struct hlm_tune_params p = tiny_run();
    const char *model = fixture(TINY "model.gguf"), *lora = fixture(TINY "init-lora.gguf");
    const char *rows = test_scratch("rows.json");
    hlm_vocab *v = NULL;
    p.read.skip_bad = true; /* a line for which memory was missing is not malformed */
    test_case("memory: at every allocation of calls that need no device");
    WALK_MEMORY("adapter", hlm_adapter_read(lora, &info, &err), hlm_adapter_info_free(&info));
    WALK_MEMORY("vocabulary", (v = hlm_vocab_open(model, NULL, &err)), hlm_vocab_close(v));
    WALK_MEMORY("rows", hlm_tune_dump_rows(model, &p, rows, NULL, NULL, &err), (void)0);
}

/* Sizes that stand side by side in a message are in the units in which people compare them. */
static void test_sizes(void)
{
    static const struct {
        uint64_t bytes;
        const char *want;
    } row[] = {
        { 16, "16 bytes" },          { 1023, "1023 bytes" },       { 1024, "1.0 KiB" },
        { 180224, "176.0 KiB" },     { 4521779, "4.3 MiB" },       { 8u << 20, "8.0 MiB" },
        { 22840853650, "21.3 GiB" }, { 1ull << 42, "4096.0 GiB" },
    };
    char text[32];
    test_case("sizes in messages");
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++)
        CHECK_STR(bytes_text(text, row[i].bytes), row[i].want);
}

void test_errors_host(void)
{
    test_sizes();
    test_names();
    test_escapes();
    test_files();
    test_progress_host();
    test_types();
    test_memory_host();
}

/* ---- opening --------------------------------------------------------------------------------- */

static void test_open(void)
{
    struct hlm_err err;
    struct hlm_device list[4];
    const char *other = test_scratch("other.gguf");
    test_case("opening: no file, no such device, another architecture, other types, stopped");
    is_kind(hlm_test_try_as((struct hlm_params){ 0 }, &err), &err, HLM_ERR_INPUT);
    is_kind(hlm_test_try("nowhere/x.gguf", &err), &err, HLM_ERR_SYSTEM);
    struct hlm_params params = { .model = fixture(TINY "model.gguf"), .device = "no such device" };
    is_kind(hlm_test_try_as(params, &err), &err, HLM_ERR_INPUT);
    struct gguf_build *b = gb_from(fixture(TINY "model.gguf"), &err);
    if (CHECK(b)) {
        gb_str(b, "general.name", ESCAPES);
        CHECK_OK(gb_write(b, other, &err), err);
        hlm *m = hlm_test_try_as((struct hlm_params){ .model = other, .dry = true }, &err);
        if (CHECK_OK(m != NULL, err))
            CHECK_STR(hlm_get_info(m).name, ESCAPED);
        hlm_close(m);
        gb_str(b, "general.architecture", "gpt99");
        CHECK_OK(gb_write(b, other, &err), err);
        is_kind(hlm_test_try(other, &err), &err, HLM_ERR_UNSUPPORTED);
    }
    gb_free(b);
    static const char *const changed[] = { "output_norm.weight", "blk.0.ffn_up.weight" };
    for (uint32_t i = 0; i < ARRAY_LEN(changed); i++)
        if (retype(TINY "model.gguf", changed[i], KNOWN_TYPE, other)) {
            is_kind(hlm_test_try(other, &err), &err, HLM_ERR_UNSUPPORTED);
            CHECK_MSG(test_has(err.msg, changed[i]) && test_has(err.msg, "type I32"), "%s",
                      err.msg);
        }
    params = (struct hlm_params){ .model = fixture(TINY "model.gguf"), .progress = stop };
    is_kind(hlm_test_try_as(params, &err), &err, HLM_ERR_STOPPED);
    int n = hlm_devices(list, 4, &err);
    CHECK_MSG(n > 0 && !err.kind && list[0].name[0] && list[0].kind, "%d devices: %s", n, err.msg);
}

static void test_load(void)
{
    struct hlm_err err;
    struct rising r;
    hlm *m = NULL;
    struct hlm_session_params params = small;
    struct hlm_params p = { .model = fixture(TINY "model.gguf"),
                            .progress = rises,
                            .progress_user = &r };
    test_case("progress of opening: from 0 to the total, and any call may stop it");
    CHECK_RISING(r, (m = hlm_open(&p, &err), hlm_close(m), m != NULL));

    test_case("state: a model that could not be loaded can only be closed");
    p.dry = true;
    r = (struct rising){ .stop_at = 2 };
    m = hlm_open(&p, &err);
    if (CHECK_MSG(m, "%s", err.msg)) {
        is_kind(hlm_load(m, &err), &err, HLM_ERR_STOPPED);
        is_kind(hlm_load(m, &err), &err, HLM_ERR_STATE);
        CHECK_MSG(strstr(err.msg, p.model), "%s", err.msg);
        hlm_session *s = hlm_session_create(m, &params, &err);
        CHECK(!s || !hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, NULL, NULL, &err));
        hlm_session_destroy(s);
    }
    hlm_close(m);
}

/* ---- what does not fit ----------------------------------------------------------------------- */

static bool session_fits(uint64_t memory, uint32_t n_ctx, struct hlm_err *err)
{
    struct hlm_session_params params = small;
    params.n_ctx = n_ctx;
    hlm *m = open_model((struct hlm_params){ .memory = memory, .dry = true });
    hlm_session *s = m ? hlm_session_create(m, &params, err) : NULL;
    hlm_session_destroy(s);
    hlm_test_close(m);
    return s != NULL;
}

static void test_session_size(void)
{
    struct hlm_err err;
    struct hlm_plan plan;
    test_case("won't fit: a session says what it needs, what there is and what would fit");
    hlm *m = open_model((struct hlm_params){ .dry = true });
    struct hlm_session_params params = small;
    params.n_ctx = 3000;
    bool ok = m && CHECK_OK(hlm_session_plan(m, &params, &plan, &err), err);
    hlm_test_close(m);
    if (!ok)
        return;
    uint64_t memory = plan.device_bytes - 1;
    if (is_kind(session_fits(memory, 3000, &err), &err, HLM_ERR_WONT_FIT) &&
        is_size(&err, plan.device_bytes, memory)) {
        uint32_t fits = (uint32_t)err.fits;
        CHECK_MSG(fits > 2000 && fits < 3000, "%u", fits);
        CHECK_MSG(session_fits(memory, fits, &err), "%u: %s", fits, err.msg);
        is_kind(session_fits(memory, fits + 1, &err), &err, HLM_ERR_WONT_FIT);
    }

    test_case("won't fit: a limit of the device is said likewise");
    bool all = session_fits(1ull << 50, 1 << 24, &err);
    if (!all && is_kind(all, &err, HLM_ERR_WONT_FIT)) {
        uint32_t fits = (uint32_t)err.fits;
        CHECK_MSG(fits > 3000 && fits < 1 << 24 && err.need > err.have, "%u: %s", fits, err.msg);
        CHECK_MSG(session_fits(1ull << 50, fits, &err), "%u: %s", fits, err.msg);
        CHECK(!session_fits(1ull << 50, fits + 1, &err));
    }
    is_kind(session_fits(0, (1 << 24) + 1, &err), &err, HLM_ERR_INPUT);
    hlm *any = open_model((struct hlm_params){ .dry = true });
    struct hlm_session_params bad = small;
    bad.kv = (enum hlm_kv)9;
    is_kind(any && hlm_session_create(any, &bad, &err), &err, HLM_ERR_INPUT);
    is_kind(any && hlm_session_plan(any, &bad, &plan, &err), &err, HLM_ERR_INPUT);
    is_kind(any && hlm_session_fit(any, &bad, &plan.n_ctx, &err), &err, HLM_ERR_INPUT);
    hlm_test_close(any);
}

/* A file of one text, of more tokens than any run here takes. */
static const char *one_long_text(void)
{
    const char *path = test_scratch("long.jsonl");
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL) || !f)
        return path;
    fputs("{\"text\": \"", f);
    for (uint32_t i = 0; i < 1000; i++)
        fprintf(f, "%u ", i);
    fputs("\"}\n", f);
    CHECK(fclose(f) == 0);
    return path;
}

static bool run_fits(uint64_t memory, uint32_t max_seq, uint64_t *need, struct hlm_err *err)
{
    struct hlm_tune_params p = tiny_run();
    p.data = one_long_text();
    p.read.max_seq = max_seq; /* one row, of as many tokens */
    p.read.valid = 0;
    p.no_pack = false;
    hlm *m = open_model((struct hlm_params){ .memory = memory, .dry = true });
    hlm_tune *t = m ? hlm_tune_open(m, &p, err) : NULL;
    if (t)
        *need = hlm_tune_plan(t).device_bytes;
    hlm_tune_close(t);
    hlm_test_close(m);
    return t != NULL;
}

static void test_run_size(void)
{
    struct hlm_err err;
    uint64_t need = 0, own;
    test_case("won't fit: a run says how long its rows may be");
    if (!CHECK_MSG(run_fits(0, 512, &need, &err), "%s", err.msg) ||
        !is_kind(run_fits(need - 1, 512, &own, &err), &err, HLM_ERR_WONT_FIT) ||
        !is_size(&err, need, need - 1))
        return;
    uint32_t fits = (uint32_t)err.fits;
    CHECK_MSG(fits >= 256 && fits < 512 && fits % 64 == 0, "%u", fits);
    CHECK_MSG(run_fits(need - 1, fits, &own, &err), "%u: %s", fits, err.msg);
    CHECK(!run_fits(need - 1, fits + 64, &own, &err));
    CHECK(!run_fits(need / 8, 512, &own, &err) && !err.fits);
}

/* ---- sessions -------------------------------------------------------------------------------- */

static void test_full(hlm *m)
{
    struct hlm_err err;
    struct hlm_session_params longer = small;
    int32_t id[N_CTX + 1] = { 1, 2, 3 }, next;
    const char *path = test_scratch("long.hlm");
    test_case("full: how many tokens are needed, how many there is room for");
    longer.n_ctx = N_CTX + 1;
    hlm_session *s = hlm_test_session(m, small), *l = hlm_test_session(m, longer);
    if (s && l) {
        is_kind(hlm_session_sync(s, id, N_CTX + 1, NULL, 0, NULL, NULL, &err), &err, HLM_ERR_FULL);
        is_size(&err, N_CTX + 1, N_CTX);
        CHECK_OK(hlm_session_sync(s, id, N_CTX - 1, NULL, 0, NULL, NULL, &err), err);
        is_kind(hlm_session_eval(s, id, 2, NULL, NULL, &err), &err, HLM_ERR_FULL);
        is_size(&err, N_CTX + 1, N_CTX);
        CHECK_OK(hlm_session_next(s, &greedy, &next, &err), err);
        CHECK_OK(hlm_session_next(s, &greedy, &next, &err), err);
        is_kind(hlm_session_next(s, &greedy, &next, &err), &err, HLM_ERR_FULL);
        is_size(&err, N_CTX + 1, N_CTX);
        CHECK_OK(hlm_session_sync(l, id, N_CTX + 1, NULL, 0, NULL, NULL, &err), err);
        CHECK_OK(hlm_session_save(l, path, NULL, 0, &err), err);
        is_kind(hlm_session_load(s, path, NULL, NULL, &err), &err, HLM_ERR_FULL);
        is_size(&err, N_CTX + 1, N_CTX);
        is_kind(hlm_session_sync(s, id, 0, NULL, 0, NULL, NULL, &err), &err, HLM_ERR_INPUT);
        id[1] = -1;
        is_kind(hlm_session_sync(s, id, 2, NULL, 0, NULL, NULL, &err), &err, HLM_ERR_INPUT);
    }
    hlm_session_destroy(s);
    hlm_session_destroy(l);
}

static void test_state(hlm *m)
{
    struct hlm_err err;
    struct hlm_lora l = { fixture(TINY "init-lora.gguf"), 1 };
    struct hlm_tune_params p = tiny_run();
    struct hlm_tune_step step;
    struct hlm_tune_loss loss;
    float logits[1];
    double nll[1];
    int32_t next;
    bool found;
    test_case("state: what is in use, what was not asked for, what is not there yet");
    hlm_session *s = hlm_test_session(m, small);
    if (!s)
        return;
    is_kind(hlm_session_next(s, &greedy, &next, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_session_eval(s, prompt, 1, logits, NULL, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_session_eval(s, prompt, 1, NULL, logits, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_session_nll(s, prompt, 2, nll, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_set_lora(m, &l, 1, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_open(m, &p, &err), &err, HLM_ERR_STATE);
    CHECK_OK(hlm_check_lora(m, &l, 1, &err), err);
    hlm_session_destroy(s);
    hlm_tune *t = hlm_tune_open(m, &p, &err);
    if (!CHECK_MSG(t, "%s", err.msg))
        return;
    is_kind(hlm_tune_open(m, &p, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_set_lora(m, NULL, 0, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_do_step(t, &step, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_validate(t, HLM_TUNE_VALID, &loss, NULL, NULL, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_save(t, test_scratch("early"), 1, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_write(t, test_scratch("early.gguf"), &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_take_best(t, test_scratch("early"), &found, &err), &err, HLM_ERR_STATE);
    CHECK_OK(hlm_tune_begin(t, NULL, &err), err);
    is_kind(hlm_tune_begin(t, NULL, &err), &err, HLM_ERR_STATE);
    is_kind(hlm_tune_validate(t, HLM_TUNE_VALID, &loss, stop, NULL, &err), &err, HLM_ERR_STOPPED);
    is_kind(hlm_tune_write(t, "nowhere/x.gguf", &err), &err, HLM_ERR_SYSTEM);
    hlm_tune_close(t);
}

static void test_stop(hlm *m)
{
    struct hlm_err err;
    test_case("stopped and system: a session that reads, one that is saved");
    hlm_session *s = hlm_test_session(m, small);
    if (s) {
        is_kind(hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, stop, NULL, &err), &err,
                HLM_ERR_STOPPED);
        CHECK_OK(hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, NULL, NULL, &err), err);
        is_kind(hlm_session_save(s, "nowhere/x.hlm", NULL, 0, &err), &err, HLM_ERR_SYSTEM);
        is_kind(hlm_session_load(s, "nowhere/x.hlm", NULL, NULL, &err), &err, HLM_ERR_SYSTEM);
        is_kind(hlm_session_load(s, DATA, NULL, NULL, &err), &err, HLM_ERR_INPUT);
        CHECK_EQ(hlm_session_n_past(s), N_PROMPT);
    }
    hlm_session_destroy(s);
}

/* ---- memory and the device ------------------------------------------------------------------- */

static void test_memory(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_lora l = { fixture(TINY "init-lora.gguf"), 1 };
    struct hlm_tune_params p = tiny_run();
    struct hlm_plan plan;
    uint32_t n_ctx;
    struct hlm_params params = { .model = fixture(TINY "model.gguf"), .dry = true };
    hlm_session *s = NULL;
    hlm_tune *t = NULL;
    hlm *other = NULL;
    test_case("memory: at every allocation of a session, its plan, adapters and a run");
    WALK_MEMORY("a session", (s = hlm_session_create(m, &small, &err)), hlm_session_destroy(s));
    WALK_MEMORY("a plan", hlm_session_plan(m, &small, &plan, &err), (void)0);
    WALK_MEMORY("a search", hlm_session_fit(m, &small, &n_ctx, &err), (void)0);
    WALK_MEMORY("adapters", hlm_set_lora(m, &l, 1, &err), (void)0);
    WALK_MEMORY("a model", (other = hlm_open(&params, &err)), hlm_close(other));
    WALK_MEMORY("a run", (t = hlm_tune_open(m, &p, &err)), hlm_tune_close(t));
}

static void test_lost(void)
{
    struct hlm_err err;
    int32_t next;
    test_case("device lost: it stays so, and everything can be closed");
    hlm *m = open_model((struct hlm_params){ 0 });
    hlm_session *s = m ? hlm_test_session(m, small) : NULL;
    if (s) {
        CHECK(hlm_ok(m));
        hlm_test_lose(1);
        bool ok = hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, NULL, NULL, &err);
        hlm_test_lose(0);
        is_kind(ok, &err, HLM_ERR_DEVICE_LOST);
        CHECK(!hlm_ok(m));
        is_kind(hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, NULL, NULL, &err), &err,
                HLM_ERR_DEVICE_LOST);
        is_kind(hlm_session_create(m, &small, &err), &err, HLM_ERR_DEVICE_LOST);
        is_kind(hlm_session_save(s, test_scratch("lost.hlm"), NULL, 0, &err), &err,
                HLM_ERR_DEVICE_LOST);
        CHECK(!hlm_session_next(s, &greedy, &next, &err));
    }
    hlm_session_destroy(s);
    hlm_close(m);
}

/* ---- an err that is used again --------------------------------------------------------------- */

static const struct hlm_err old = {
    .kind = HLM_ERR_FULL, .need = 7, .have = 8, .fits = 9, .msg = "of a call before"
};

/* err says nothing of an earlier call: it is empty after a success. */
static void is_clear(const char *call, bool ok, const struct hlm_err *err)
{
    bool empty = !err->kind && !err->need && !err->have && !err->fits && !err->msg[0];
    CHECK_MSG(ok ? empty : err->kind && strcmp(err->msg, old.msg) && err->need != old.need,
              "%s: %d, \"%s\"", call, ok, err->msg);
}

#define CLEARS(call) is_clear(#call, (err = old, (call) != 0), &err)

static void test_clear(hlm *m)
{
    struct hlm_err err;
    struct hlm_device list[4];
    struct hlm_adapter_info info = { 0 };
    struct hlm_lora l = { fixture(TINY "init-lora.gguf"), 1 };
    struct hlm_tune_params p = tiny_run();
    struct hlm_train_options options;
    struct hlm_tune_step step;
    struct hlm_tune_loss loss;
    struct hlm_plan plan;
    const char *path = test_scratch("clear.hlm"), *folder = test_scratch("clear");
    uint32_t n;
    int32_t id;
    double row_s;
    bool found;
    hlm_session *s = NULL;
    hlm_tune *t = NULL;
    test_case("every call clears its err");
    CLEARS(hlm_devices(list, 4, &err) > 0);
    CLEARS(hlm_load(m, &err));
    CLEARS(hlm_get_vocab(m, &err));
    CLEARS(hlm_check_lora(m, &l, 1, &err));
    CLEARS(hlm_set_lora(m, &l, 1, &err));
    CLEARS(hlm_set_lora(m, &(struct hlm_lora){ DATA, 1 }, 1, &err));
    CLEARS(hlm_set_lora(m, NULL, 0, &err));
    CLEARS(hlm_adapter_read(l.path, &info, &err));
    hlm_adapter_info_free(&info);
    CLEARS(hlm_session_plan(m, &small, &plan, &err));
    CLEARS(hlm_session_fit(m, &small, &n, &err));
    CLEARS((s = hlm_session_create(m, &small, &err)));
    CLEARS(hlm_session_next(s, &greedy, &id, &err));
    CLEARS(hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, NULL, NULL, &err));
    CLEARS(hlm_session_eval(s, prompt, 2, NULL, NULL, &err));
    CLEARS(hlm_session_nll(s, prompt, 1, NULL, &err));
    CLEARS(hlm_session_next(s, &greedy, &id, &err));
    CLEARS(hlm_session_save(s, path, NULL, 0, &err));
    CLEARS(hlm_session_peek(s, path, NULL, NULL, &err));
    CLEARS(hlm_session_load(s, path, NULL, NULL, &err));
    hlm_session_destroy(s);
    CLEARS(hlm_tune_options(fixture(TINY "data-sched.json"), &options, &err));
    CLEARS((t = hlm_tune_open(m, &p, &err)));
    CLEARS(hlm_tune_write(t, path, &err));
    CLEARS(hlm_tune_begin(t, NULL, &err));
    CLEARS(hlm_tune_do_step(t, &step, &err));
    CLEARS(hlm_tune_validate(t, HLM_TUNE_VALID, &loss, NULL, NULL, &err));
    CLEARS(hlm_tune_save(t, folder, 1, &err));
    CLEARS(hlm_tune_take_best(t, folder, &found, &err));
    CLEARS(hlm_tune_measure(t, &row_s, &err));
    hlm_tune_close(t);
}

/* ---- closing in the wrong order -------------------------------------------------------------- */

/* The newest error of a sink. */
static void keep_error(void *user, enum hlm_log_level level, const char *msg)
{
    if (level == HLM_LOG_ERROR)
        snprintf(user, 256, "%s", msg);
}

/* Freeing the model under them would end the process at their next call, or at none. */
static void test_close_early(void)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = tiny_run();
    char msg[256] = "";
    struct hlm_params params = { .model = fixture(TINY "model.gguf"), .cache_dir = "build/cache" };
    params.log = (struct hlm_log){ keep_error, msg };
    params.dry = true;
    test_case("a model is not closed while a session or a run of it is alive");
    hlm *m = hlm_open(&params, &err);
    if (!CHECK_MSG(m, "%s", err.msg))
        return;
    hlm_session *s = hlm_session_create(m, &small, &err);
    CHECK_MSG(s, "%s", err.msg);
    hlm_close(m);
    CHECK_SAYS(msg, "model.gguf|not closed|session");
    CHECK_EQ(hlm_session_n_ctx(s), N_CTX);
    hlm_session_destroy(s);
    hlm_tune *t = hlm_tune_open(m, &p, &err);
    CHECK_MSG(t, "%s", err.msg);
    hlm_close(m);
    CHECK_SAYS(msg, "model.gguf|not closed|training run");
    hlm_tune_close(t);
    msg[0] = 0;
    hlm_close(m);
    CHECK_STR(msg, "");
}

/* ---- whose messages they are ----------------------------------------------------------------- */

struct message_count {
    uint32_t n;
};

static void count_message(void *user, enum hlm_log_level level, const char *msg)
{
    (void)level, (void)msg;
    ((struct message_count *)user)->n++;
}

struct other {
    hlm *m;
    uint32_t n_call;
};

/* A callback may use another model. */
static bool use_other(void *user, uint64_t done, uint64_t total)
{
    struct other *o = user;
    (void)done, (void)total;
    hlm_idle(o->m);
    o->n_call++;
    return true;
}

static void test_sinks(void)
{
    struct message_count a = { 0 }, b = { 0 };
    struct hlm_err err;
    struct hlm_session_params tight = small;
    test_case("messages go to the sink of their own model");
    struct hlm_params params = { .model = fixture(TINY "model.gguf"), .cache_dir = "build/cache" };
    params.log = (struct hlm_log){ count_message, &a };
    hlm *first = hlm_open(&params, &err);
    CHECK_MSG(first && a.n > 0 && !b.n, "%u and %u messages", a.n, b.n);
    params.log.user = &b;
    uint32_t n = a.n;
    hlm *second = hlm_open(&params, &err);
    CHECK_MSG(second && a.n == n && b.n > 0, "%u and %u messages", a.n, b.n);
    tight.snapshot_budget = 1; /* too little for one snapshot, which causes a message */
    n = b.n;
    hlm_session *s = first ? hlm_session_create(first, &tight, &err) : NULL;
    CHECK_MSG(s && b.n == n, "%u messages, expected %u", b.n, n);
    struct other o = { second, 0 };
    n = a.n;
    if (s && second) {
        CHECK_OK(hlm_session_sync(s, prompt, N_PROMPT, NULL, 0, use_other, &o, &err), err);
        CHECK(o.n_call > 0);
        uint32_t n_b = b.n;
        hlm_session_destroy(hlm_session_create(first, &tight, &err));
        CHECK_MSG(a.n > n && b.n == n_b, "%u and %u messages", a.n, b.n);
    }
    hlm_session_destroy(s);
    hlm_close(first);
    hlm_close(second);
}

void test_errors(void)
{
    test_open();
    test_load();
    test_session_size();
    test_run_size();
    hlm *m = open_model((struct hlm_params){ 0 });
    if (m) {
        test_full(m);
        test_state(m);
        test_stop(m);
        test_clear(m);
        test_memory(m);
    }
    hlm_test_close(m);
    test_lost();
    test_close_early();
    test_sinks();
}
