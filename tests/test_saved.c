/* test_saved: saved sessions. A restored session goes on with the same bits, no damaged or foreign
 * file is loaded, and a full disk leaves the old file. */
#define _POSIX_C_SOURCE 200809L
#include "hlm_test.h"
#include "saved_tiny.h"
#include "session/open.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- the file alone --------------------------------------------------------------------- */

static bool opens(const struct tiny_bytes *b, const struct saved_want *w, struct hlm_err *err)
{
    struct saved s;
    *err = (struct hlm_err){ 0 };
    bool ok =
        saved_open(&s, &(struct file_in){ .path = "x.hlm", .mem = b->p, .bytes = b->n }, w, err);
    if (ok) {
        CHECK(s.head.n_past <= w->n_ctx && s.head.n_known <= s.head.n_past + 1);
        for (uint32_t i = 0; i < s.head.n_known; i++)
            CHECK(s.id[i] >= 0 && (uint32_t)s.id[i] < w->n_vocab);
        CHECK_EQ(s.note[s.head.n_note], 0);
    } else {
        CHECK_SAYS(err->msg, "x.hlm");
    }
    saved_finish(&s);
    return ok;
}

static void test_foreign(void)
{
    static const struct {
        const char *says;
        uint32_t at, value; /* one word of the head */
    } rows[] = {
        { "hlmstate", offsetof(struct saved_head, magic), 0x6d6d6d6d },
        { "version|7|2", offsetof(struct saved_head, version), 7 },
        { "another file|tiny model (tiny)", offsetof(struct saved_head, model_hash), 9 },
        { "tiny model (xiny)|tiny model (tiny)", offsetof(struct saved_head, arch),
          'x' | 'i' << 8 | 'n' << 16 | 'y' << 24 },
        { "with adapters|none", offsetof(struct saved_head, lora_hash), 9 },
        { "keys and values|q8_0|f16", offsetof(struct saved_head, kv_type), HLM_KV_Q8_0 },
        { "keys and values|unknown", offsetof(struct saved_head, kv_type), 77 },
        { "3 layers|16|2|16", offsetof(struct saved_head, n_layer), 3 },
        { "bytes|cut short", offsetof(struct saved_head, file_bytes), 12 },
        { "damaged|70|23", offsetof(struct saved_head, n_past), 70 },
        { "damaged", offsetof(struct saved_head, n_known), 24 },
        { "damaged", offsetof(struct saved_head, has_logits), 2 },
        { "damaged", offsetof(struct saved_head, n_snap), 257 },
        { "damaged", offsetof(struct saved_head, n_note), 100000 },
        { "another version", offsetof(struct saved_head, n_snap), 3 },
        { "token 0|16|0|15", sizeof(struct saved_head), 16 },
        { "token 0|-1|0|15", sizeof(struct saved_head), UINT32_MAX },
        { "snapshot 0|0|1|22", sizeof(struct saved_head) + 4 * 23 + 4, 0 },
        { "snapshot 0|23|1|22", sizeof(struct saved_head) + 4 * 23 + 4, 23 },
        { "snapshot 1|10|12|22", sizeof(struct saved_head) + 4 * 23 + 4, 11 },
    };
    struct hlm_err err;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("saved file: refused: %s", rows[i].says);
        struct tiny_bytes b = tiny_file(22, "note");
        memcpy(b.p + rows[i].at, &rows[i].value, 4);
        if (rows[i].at == offsetof(struct saved_head, arch))
            b.p[offsetof(struct saved_head, model_hash)] = 9;
        tiny_seal(&b);
        CHECK_REFUSED(opens(&b, &tiny_want, &err), err, rows[i].says);
    }
    test_case("saved file: more tokens than the context");
    struct tiny_bytes b = tiny_file(22, "note");
    struct saved_want w = tiny_want;
    w.n_ctx = 21;
    CHECK_REFUSED(opens(&b, &w, &err), err, "22 tokens|21");
    w.n_ctx = 22;
    CHECK(opens(&b, &w, &err));
    test_case("saved file: adapters in use, others in the file");
    w.lora_hash[0] = 1;
    CHECK_REFUSED(opens(&b, &w, &err), err, "no adapters|some");
}

void test_saved_file(void)
{
    struct hlm_err err;
    struct rng r = { 99 };
    test_case("saved file: what is right is taken");
    for (uint32_t n = 0; n <= 64; n += 8) {
        struct tiny_bytes b = tiny_file(n, n % 16 ? "" : "a note");
        CHECK_MSG(opens(&b, &tiny_want, &err), "%s", err.msg);
    }
    test_foreign();

    test_case("saved file: any byte changed");
    struct tiny_bytes b = tiny_file(22, "note");
    for (uint64_t i = 0; i < b.n; i++)
        for (uint32_t bit = 0; bit < 8; bit += 3) {
            b.p[i] ^= (uint8_t)(1u << bit);
            CHECK_MSG(!opens(&b, &tiny_want, &err), "byte %llu changed", (unsigned long long)i);
            b.p[i] ^= (uint8_t)(1u << bit);
        }
    test_case("saved file: cut short anywhere, or longer");
    uint64_t n = b.n;
    for (b.n = 0; b.n < n; b.n++)
        CHECK_MSG(!opens(&b, &tiny_want, &err), "cut to %llu bytes", (unsigned long long)b.n);
    b.n = n + 1;
    CHECK(!opens(&b, &tiny_want, &err));

    test_case("saved file: anything with a right checksum ends in a line or fits");
    for (uint32_t i = 0; i < 20000; i++) {
        b = tiny_file((uint32_t)(rng_u64(&r) % 30), "note");
        for (uint32_t k = 0; k <= i % 3; k++) {
            uint64_t at = 24 + rng_u64(&r) % (b.n - 40);
            b.p[at] = (uint8_t)(rng_u64(&r) >> (rng_u64(&r) % 2 ? 0 : 6));
        }
        tiny_seal(&b);
        opens(&b, &tiny_want, &err);
    }
}

/* ---- sessions --------------------------------------------------------------------------- */

enum { N_CTX = 96, N_ID = 90 };

static struct {
    hlm *m;
    hlm_session *s;
    uint32_t n_vocab;
    int32_t id[N_ID];
    char dir[256], path[300];
} t;

static const struct hlm_session_params usual = {
    .n_ctx = N_CTX,
    .n_batch = 32,
    .kv = HLM_KV_F32,
    .keep_logits = true,
    .snapshot_budget = 1 << 20,
};

/* Reads one more token and returns the logits. */
static float *read_one(hlm_session *s, int32_t id)
{
    static float row[2][1024];
    static uint32_t i;
    struct hlm_err err = { 0 };
    float *to = row[i++ % 2];
    return CHECK_OK(hlm_session_eval(s, &id, 1, to, NULL, &err), err) ? to : NULL;
}

/* 40 tokens are read and `made` more sampled; the last of those is unread. */
static bool fill(hlm_session *s, uint32_t made)
{
    const struct hlm_sampling greedy = { .repeat_penalty = 1 };
    static const uint32_t snap[] = { 9, 20, 33, 40 };
    struct hlm_err err = { 0 };
    int32_t id;
    hlm_session_reset(s);
    bool ok = CHECK_OK(hlm_session_sync(s, t.id, 40, snap, ARRAY_LEN(snap), NULL, NULL, &err), err);
    for (uint32_t i = 0; ok && i < made; i++)
        ok = CHECK_OK(hlm_session_next(s, &greedy, &id, &err), err);
    return ok;
}

/* A history that differs at token 35 continues from a snapshot, if there was room for one. */
static void check_differing(hlm_session *s, uint32_t n_from)
{
    struct hlm_err err = { 0 };
    int32_t id[N_ID];
    memcpy(id, t.id, sizeof id);
    id[35]++;
    CHECK_OK(hlm_session_sync(s, id, 50, NULL, 0, NULL, NULL, &err), err);
    CHECK_EQ(hlm_session_found(s).n_from, n_from);
}

static void test_round_trip(const char *model, enum hlm_kv kv, uint32_t made)
{
    const struct hlm_sampling warm = {
        .temp = 1, .repeat_penalty = 1.1f, .repeat_last_n = 64, .seed = 4
    };
    struct hlm_session_params params = usual;
    struct hlm_err err = { 0 };
    params.kv = kv;
    test_case("%s, --kv %d: saved with %u tokens made, goes on in another process", model, kv,
              made);
    hlm *a = hlm_test_open(fixture("%s", model)), *b = NULL;
    hlm_session *s = a ? hlm_test_session(a, params) : NULL, *to = NULL;
    uint32_t n_vocab = a ? hlm_get_info(a).n_vocab : 0;
    int32_t first[4], again[4];
    float want[1024];
    if (!s || !fill(s, made) || !CHECK(n_vocab <= 1024))
        goto out;
    CHECK_OK(hlm_session_save(s, t.path, "a\0b", 3, &err), err);
    uint32_t n_past = hlm_session_n_past(s);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_OK(hlm_session_next(s, &warm, &first[i], &err), err);
    float *got = read_one(s, 7);
    if (got)
        memcpy(want, got, n_vocab * sizeof *want);
    hlm_session_destroy(s);
    s = NULL;
    hlm_test_close(a);
    a = NULL;

    b = hlm_test_open(fixture("%s", model));
    for (uint32_t other = 0; b && other < 3; other++) {
        void *note = NULL;
        uint64_t n_note = 0;
        params.n_ctx = other == 1 ? 2 * N_CTX : N_CTX;
        params.n_batch = other == 1 ? 48 : 32;
        params.snapshot_budget = other == 2 ? 0 : usual.snapshot_budget;
        to = hlm_test_session(b, params);
        if (!to || !CHECK_OK(hlm_session_load(to, t.path, &note, &n_note, &err), err))
            goto out;
        CHECK(n_note == 3 && !memcmp(note, "a\0b", 4));
        free(note);
        CHECK_EQ(hlm_session_n_past(to), n_past);
        for (uint32_t i = 0; i < 4; i++)
            CHECK_OK(hlm_session_next(to, &warm, &again[i], &err), err);
        CHECK(!memcmp(first, again, sizeof first));
        got = read_one(to, 7);
        CHECK(got && !memcmp(got, want, n_vocab * sizeof *want));
        check_differing(to, other == 2 ? 0 : 33);
        hlm_session_destroy(to);
        to = NULL;
    }
out:
    hlm_session_destroy(s);
    hlm_session_destroy(to);
    hlm_test_close(a);
    hlm_test_close(b);
}

/* The session is as fill(t.s, 0) left it. */
static bool is_as_before(const char *what)
{
    return CHECK_MSG(hlm_session_n_past(t.s) == 40 &&
                         !memcmp(hlm_session_ids(t.s), t.id, 40 * sizeof *t.id) &&
                         hlm_session_stats(t.s).n_snapshot == 4,
                     "%s: the session has changed", what);
}

static void load_refuses(hlm_session *s, const char *what, const char *says)
{
    struct hlm_err err = { 0 };
    void *note = NULL;
    uint64_t n;
    if (!CHECK_REFUSED(hlm_session_load(s, t.path, &note, &n, &err), err, says) ||
        !CHECK_SAYS(err.msg, t.path) || !CHECK(!note))
        FAIL("%s", what);
}

static void test_damage(void)
{
    struct hlm_err err = { 0 };
    uint64_t n = 0;
    char what[64];
    test_case("a damaged file is refused, and the session goes on as it was");
    if (!fill(t.s, 0) || !CHECK_OK(hlm_session_save(t.s, t.path, "", 0, &err), err))
        return;
    uint8_t *file = (uint8_t *)file_read(t.path, 1 << 28, &n, &err);
    if (!CHECK_OK(file, err))
        return;
    for (uint32_t i = 0; i < 60; i++) {
        uint64_t at = i < 20 ? 10ull * i : n * (i - 20) / 40;
        uint64_t len = i % 4 ? n : at;
        file[at] ^= 0x10;
        snprintf(what, sizeof what, "byte %llu of %llu", (unsigned long long)at,
                 (unsigned long long)len);
        CHECK_OK(file_write_atomic(t.path, file, len, &err), err);
        load_refuses(t.s, what, "");
        is_as_before(what);
        file[at] ^= 0x10;
    }
    int32_t id;
    const struct hlm_sampling greedy = { .repeat_penalty = 1 };
    CHECK_OK(hlm_session_next(t.s, &greedy, &id, &err), err);
    CHECK_OK(file_write_atomic(t.path, file, n, &err), err);
    CHECK_OK(hlm_session_load(t.s, t.path, NULL, NULL, &err), err);
    int32_t again;
    CHECK_OK(hlm_session_next(t.s, &greedy, &again, &err), err);
    CHECK_EQ(id, again);
    free(file);
    test_case("no file, a folder");
    char good[300];
    memcpy(good, t.path, sizeof good);
    snprintf(t.path, sizeof t.path, "%s/none", t.dir);
    load_refuses(t.s, "none", strerror(ENOENT));
    memcpy(t.path, t.dir, sizeof t.dir);
    load_refuses(t.s, "folder", "ordinary file");
    memcpy(t.path, good, sizeof good);
}

static void test_others(void)
{
    struct hlm_session_params params = usual;
    struct hlm_err err = { 0 };
    test_case("a file of another cache, context, adapter set or model is refused");
    if (!fill(t.s, 3) || !CHECK_OK(hlm_session_save(t.s, t.path, NULL, 0, &err), err))
        return;
    params.kv = HLM_KV_F16;
    hlm_session *s = hlm_test_session(t.m, params);
    if (s)
        load_refuses(s, "kv", "keys and values|f32|f16");
    hlm_session_destroy(s);
    params = usual;
    params.n_ctx = 41;
    if ((s = hlm_test_session(t.m, params)))
        load_refuses(s, "context", "42 tokens|41");
    hlm_session_destroy(s);
    t.m->adapters.hash.hi = 5;
    load_refuses(t.s, "adapters", "no adapters|some");
    t.m->adapters.hash.hi = 0;
    hlm *m = hlm_test_open(fixture("qwen35/base/model-f16.gguf"));
    if (m && (s = hlm_test_session(m, usual))) {
        load_refuses(s, "model", "saved with");
        hlm_session_destroy(s);
    }
    hlm_test_close(m);
}

static uint32_t n_files(void)
{
    uint32_t n = 0;
    DIR *d = opendir(t.dir);
    CHECK(d != NULL);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void test_faults(void)
{
    struct hlm_err err = { 0 };
    uint64_t n_old = 0, n = 0;
    test_case("a full disk at any call: the old file stays, nothing beside it, one line");
    if (!fill(t.s, 0) || !CHECK_OK(hlm_session_save(t.s, t.path, "old", 3, &err), err))
        return;
    char *old = file_read(t.path, 1 << 28, &n_old, &err);
    fill(t.s, 6);
    uint32_t n_fault = 0;
    for (uint32_t nth = 1; old; nth++) {
        err = (struct hlm_err){ 0 };
        file_test_fault(nth, nth % 2);
        bool saved = hlm_session_save(t.s, t.path, "new", 3, &err);
        bool reached = !file_test_left();
        file_test_fault(0, false);
        if (saved && !CHECK(!reached))
            break;
        CHECK_EQ(n_files(), 1);
        char *now = file_read(t.path, 1 << 28, &n, &(struct hlm_err){ 0 });
        bool same = now && n == n_old && !memcmp(now, old, n);
        free(now);
        CHECK_EQ(hlm_session_n_past(t.s), 45);
        if (saved) {
            CHECK_MSG(!same, "the new file is the old one");
            break;
        }
        n_fault++;
        CHECK_MSG(same, "call %u: the old file has changed", nth);
        CHECK_SAYS(err.msg, t.path);
        CHECK_SAYS(err.msg, strerror(ENOSPC));
    }
    test_note("  %u calls, each failed once", n_fault);
    CHECK(n_fault >= 6); /* open, two writes, sync, close, rename */
    free(old);
    CHECK_OK(hlm_session_load(t.s, t.path, NULL, NULL, &err), err);

    test_case("a folder that is not there, and one that may not be written");
    char good[300];
    memcpy(good, t.path, sizeof good);
    snprintf(t.path, sizeof t.path, "%s/none/x", t.dir);
    CHECK_REFUSED(hlm_session_save(t.s, t.path, NULL, 0, &err), err, strerror(ENOENT));
    memcpy(t.path, good, sizeof good);
}

/* A snapshot is one range of memory. */
static void test_wide_state(void)
{
    const struct layer_shape shape = {
        .recurrent = { .n_head = 5, .n_row = 64, .n = 64, .d_conv = 64, .conv_k = 4 }
    };
    struct hlm_err err = { 0 };
    struct snapshots k = { 0 };
    struct kv kv = { 0 };
    test_case("a state of more than one buffer is refused");
    struct gpu *g = gpu_open(&(struct gpu_params){ .test_max_alloc = 65536 }, &err);
    if (CHECK_OK(g && kv_init(&kv, g, &(struct kv_params){ 1, &shape, 8, 8, 1, 2, F16 }, &err),
                 err)) {
        tensor logits = arena_tensor(kv.state, F32, 1024, 2);
        CHECK_REFUSED(snapshots_init(&k, g, &kv, 0, logits, 0, &err), err, "largest buffer");
        snapshots_finish(&k);
    }
    kv_finish(&kv);
    gpu_close(g);
}

void test_saved(void)
{
    static const struct {
        const char *model;
        enum hlm_kv kv;
        uint32_t made;
    } rows[] = {
        { "qwen35/base/model-f32.gguf", HLM_KV_F32, 0 },
        { "qwen35moe/base/model-f32.gguf", HLM_KV_Q8_0, 5 },
        { "qwen3next/base/model-f32.gguf", HLM_KV_F16, 5 },
        { "nemotron_h_moe/base/model-f32.gguf", HLM_KV_F16, 5 },
        { "step35/base/model-f32.gguf", HLM_KV_F32, 40 }, /* more than its rings hold */
    };
    struct rng r = { 12 };
    test_case("a device");
    if (!test_gpu())
        return;
    test_wide_state();
    snprintf(t.dir, sizeof t.dir, "%.200s/saved", test_tmp());
    snprintf(t.path, sizeof t.path, "%s/x.hlm", t.dir);
    mkdir(t.dir, 0700);
    for (uint32_t i = 0; i < N_ID; i++)
        t.id[i] = (int32_t)(rng_u64(&r) % 600);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        test_round_trip(rows[i].model, rows[i].kv, rows[i].made);
    t.m = hlm_test_open(fixture("%s", rows[0].model));
    if (t.m && (t.s = hlm_test_session(t.m, usual))) {
        test_damage();
        test_others();
        test_faults();
    }
    test_case("no message of the validation layer");
    hlm_session_destroy(t.s);
    hlm_test_close(t.m);
}
