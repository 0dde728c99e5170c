/* test_model: whole models on the device - against Hugging Face's logits, against the double
 * precision run of ref.h, in one prefill, in pieces, token by token.
 *
 * All of it with activations in f32. What is measured is in the tables, the bound beside it; both
 * references have their say, since the fixtures' own float32 noise is most of the first figure.
 * Expected in tests/fixtures as test_ref.c lists; files that only the full set has (--fixtures) are
 * tested when they are there. -v prints what was measured. */
#include "hlm_test.h"
#include "json.h"
#include "ref/ref.h"
#include "ssm_in.h"

#include <math.h>
#include <stdio.h>

enum { N_CTX = 320, N_SPLIT = 3 };

/* NMSE in units of 1e-12: against Hugging Face, below twice llama.cpp's (the fixtures' README) -
 * with a cache in halves and in 8 bits, too - and against ref.h, of f32 files and of quantised, and
 * of the latter with f16 operands against the former's authority.
 * Measured on lavapipe, the worst of its row:
 *     qwen35          1.02  0.83  5.5   4.6   1.7   2.8   840   5.0e5  0.89  1.3   8.9e6
 *     qwen35moe       0.27  0.14  0.48  0.59  0.33  0.37  470   2.9e5  0.18  0.22  9.7e5
 *     qwen3next       0.23  0.13  0.64  0.56  0.29  0.29  840   5.6e5  0.25  0.19  2.1e6
 *     nemotron_h      0.19  0.10  0.30  0.28  0.16  0.25  1500  9.6e5  0.08  0.21  6.9e5
 *     nemotron_h_moe  0.16  0.09  0.19  0.22  0.12  0.13  910   5.2e5  0.09  0.07  4.1e5
 *     step35          0.11  0.04  0.18  0.22  0.10  0.26  7400  5.3e6  0.06  0.22  3.3e5 */
// clang-format off
static const struct family {
    const char *arch, *half;
    double p7, hidden, p65, p300, decode, quant, kv16, kv8;
    double ref, ref_quant, f16;
    uint32_t min_k256;          /* files of superblocks that must be there */
} families[] = {
    { "qwen35",         "f16",  1.6, 1.3,  8.0, 7.5, 2.7,  5.0, 1200, 7e5, 1.0,  2.0, 15e6, 2 },
    { "qwen35moe",      "bf16", 0.5, 0.24, 0.8, 0.9, 0.5,  0.6,  700, 4e5, 0.35, 0.4, 2e6, 2 },
    { "qwen3next",      "bf16", 0.4, 0.24, 1.0, 0.9, 0.45, 0.5, 1200, 8e5, 0.38, 0.4, 4e6, 2 },
    { "nemotron_h",     "f16",  0.3, 0.2,  0.5, 0.5, 0.3,  0.4, 2000, 13e5, 0.15, 0.4, 15e5, 1 },
    { "nemotron_h_moe", "bf16", 0.3, 0.2,  0.3, 0.4, 0.2,  0.3, 1500, 7e5, 0.15, 0.2, 1e6, 1 },
    { "step35",         "f16",  0.2, 0.1,  0.3, 0.4, 0.2,  0.4, 9000, 7e6, 0.12, 0.4, 8e5, 1 },
};
// clang-format on
#define MAX_ABS 1e-3

/* A file under test, with what the engine and the reference made of it. */
struct subject {
    const struct family *f;
    char dir[32];
    json_t *manifest;
    hlm *m;
    hlm_session *s;
    struct ref_model *ref;
    uint32_t n_vocab, n_embd, n_layer;
    bool f16; /* by f16 operands */
};

/* ---- helpers ---------------------------------------------------------------------------- */

static void *room(uint64_t n, uint64_t size)
{
    void *p = mem_alloc(n, size);
    HLM_ASSERT(p != NULL);
    return p;
}

static void measured(const char *what, struct diff d)
{
    test_note("  %s: nmse %.3g, max %.3g", what, d.nmse, d.max_abs);
}

static void check_diff(const char *what, struct diff d, double bound)
{
    measured(what, d);
    bound *= 1e-12;
    CHECK_MSG(d.nmse <= bound && d.max_abs <= MAX_ABS,
              "%s: nmse %.3g (at most %.3g), %.3g off at %llu", what, d.nmse, bound, d.max_abs,
              (unsigned long long)d.at);
}

/* Opens the file for the engine and for the reference. */
static bool subject_open(struct subject *t, const char *path)
{
    struct hlm_err err = { 0 };
    t->m = hlm_test_try_as((struct hlm_params){ .model = path, .f16 = t->f16 }, &err);
    if (!CHECK_OK(t->m != NULL, err))
        return false;
    struct hlm_info info = hlm_get_info(t->m);
    t->n_vocab = info.n_vocab;
    t->n_embd = info.n_embd;
    t->n_layer = info.n_layer;
    t->s = hlm_test_session(
        t->m, (struct hlm_session_params){
                  .n_ctx = N_CTX, .kv = HLM_KV_F32, .keep_logits = true, .keep_hidden = true });
    t->ref = ref_model_open(hlm_test_file(t->m), &err);
    return t->s && CHECK_OK(t->ref != NULL, err);
}

static void subject_close(struct subject *t)
{
    hlm_session_destroy(t->s);
    hlm_test_close(t->m);
    ref_model_close(t->ref);
    t->s = NULL;
    t->m = NULL;
    t->ref = NULL;
}

static int32_t *prompt(const struct subject *t, const char *name, uint32_t *n)
{
    return json_ids(json_object_get(json_at(t->manifest, "prompts"), name), n);
}

/* From an empty timeline, in pieces: sizes as listed, then the rest at once. [n, n_vocab]. */
static float *read_split(const struct subject *t, hlm_session *s, const int32_t *id, uint32_t n,
                         const uint32_t *piece, uint32_t n_piece, float *hidden)
{
    struct hlm_err err = { 0 };
    float *logits = room((uint64_t)n * t->n_vocab, sizeof *logits);
    hlm_session_reset(s);
    for (uint32_t i = 0, at = 0, take; at < n; i++, at += take) {
        take = i < n_piece ? min_u32(piece[i], n - at) : n - at;
        if (!CHECK_OK(hlm_session_eval(s, id + at, take, logits + (uint64_t)at * t->n_vocab, hidden,
                                       &err),
                      err))
            break;
    }
    return logits;
}

static double *ref_read(const struct subject *t, const int32_t *id, uint32_t n, double *hidden)
{
    double *logits = room((uint64_t)n * t->n_vocab, sizeof *logits);
    struct ref_state *s = ref_state_create(t->ref);
    CHECK(ref_forward(t->ref, s, id, n, logits, hidden));
    ref_state_destroy(s);
    return logits;
}

/* Against a float32 file of exactly n values. */
static void check_file(const struct subject *t, const float *got, uint64_t n, double bound,
                       const char *file)
{
    uint64_t n_bytes;
    float *want = fixture_read(&n_bytes, "%s/%s", t->dir, file);
    if (want && CHECK_EQ(n_bytes, n * sizeof *want))
        check_diff(file, diff_f32(got, want, n), bound);
    free(want);
}

/* ---- f32 files -------------------------------------------------------------------------- */

static void test_full(const struct subject *t, const char *name, double bound)
{
    uint32_t n;
    char path[64];
    test_case("%s %s: logits of one prefill", t->dir, name);
    int32_t *id = prompt(t, name, &n);
    if (!id)
        return;
    snprintf(path, sizeof path, "tests/full_%s", name);
    json_t *test = json_at(t->manifest, path);
    uint64_t n_logit = (uint64_t)n * t->n_vocab,
             n_hidden = (uint64_t)(t->n_layer + 2) * n * t->n_embd;
    bool hidden = json_at(test, "hidden");
    float *h = hidden ? room(n_hidden, sizeof *h) : NULL;
    double *ref_h = hidden ? room(n_hidden, sizeof *ref_h) : NULL;
    float *got = read_split(t, t->s, id, n, NULL, 0, h);
    double *want = ref_read(t, id, n, ref_h);
    check_file(t, got, n_logit, bound, json_str(test, "logits/file"));
    check_diff("double precision", diff_f64(got, want, n_logit), t->f->ref);
    if (hidden) {
        test_case("%s %s: hidden states", t->dir, name);
        check_file(t, h, n_hidden, t->f->hidden, json_str(test, "hidden/file"));
        check_diff("double precision", diff_f64(h, ref_h, n_hidden), t->f->ref);
    }
    free(h);
    free(ref_h);
    free(got);
    free(want);
    free(id);
}

static void test_decode(const struct subject *t)
{
    uint32_t n, piece[64];
    test_case("%s decode: prefill, then single tokens", t->dir);
    int32_t *id = prompt(t, "decode", &n);
    uint32_t prefill = (uint32_t)json_integer_value(json_at(t->manifest, "tests/decode/prefill"));
    if (id && CHECK(prefill > 0 && prefill < n && n - prefill < ARRAY_LEN(piece))) {
        piece[0] = prefill;
        for (uint32_t i = 1; i < ARRAY_LEN(piece); i++)
            piece[i] = 1;
        uint64_t skip = (uint64_t)(prefill - 1) * t->n_vocab,
                 n_logit = (uint64_t)n * t->n_vocab - skip;
        float *got = read_split(t, t->s, id, n, piece, ARRAY_LEN(piece), NULL);
        double *want = ref_read(t, id, n, NULL);
        check_file(t, got + skip, n_logit, t->f->decode,
                   json_str(t->manifest, "tests/decode/logits/file"));
        check_diff("double precision", diff_f64(got + skip, want + skip, n_logit), t->f->ref);
        free(got);
        free(want);
    }
    free(id);
}

/* Pieces of 1, of a few, of up to 64, of up to 200, in no order. */
static uint32_t draw_pieces(struct rng *r, uint32_t n, uint32_t *piece, uint32_t cap)
{
    static const uint32_t most[] = { 1, 1, 7, 64, 200 };
    uint32_t n_piece = 0;
    for (uint32_t at = 0; at < n && n_piece < cap; at += piece[n_piece++]) {
        uint32_t below = most[rng_u64(r) % ARRAY_LEN(most)];
        piece[n_piece] = min_u32(1 + (uint32_t)(rng_u64(r) % below), n - at);
    }
    return n_piece;
}

/* Every other piece goes in without logits, as a prompt is read by hlm_session_sync; the last one
 * never, so that its logits tell of all before. */
static void read_mixed(const struct subject *t, const int32_t *id, uint32_t n,
                       const uint32_t *piece, uint32_t n_piece, uint64_t skip, float *got,
                       const float *whole)
{
    struct hlm_err err = { 0 };
    hlm_session_reset(t->s);
    for (uint32_t i = 0, at = 0, take; at < n; i++, at += take) {
        take = i < n_piece ? min_u32(piece[i], n - at) : n - at;
        uint64_t from = (uint64_t)at * t->n_vocab, n_logit = (uint64_t)take * t->n_vocab;
        bool silent = (skip >> i % 64 & 1) && at + take < n;
        bool ok = silent ? hlm_session_sync(t->s, id, at + take, NULL, 0, NULL, NULL, &err)
                         : hlm_session_eval(t->s, id + at, take, got + from, NULL, &err);
        if (silent)
            memcpy(got + from, whole + from, n_logit * sizeof *got);
        if (!CHECK_OK(ok, err))
            return;
    }
}

static void test_splits(const struct subject *t)
{
    /* what random ones may miss: chunk borders, pieces below the convolution window */
    static const struct {
        uint32_t n, piece[8];
    } fixed[] = {
        { 4, { 64, 100, 1, 135 } },
        { 8, { 1, 1, 1, 2, 2, 3, 3, 128 } },
    };
    uint32_t n;
    int32_t *id = prompt(t, "p300", &n);
    if (!id)
        return;
    uint64_t n_logit = (uint64_t)n * t->n_vocab;
    double *ref = ref_read(t, id, n, NULL);
    float *whole = read_split(t, t->s, id, n, NULL, 0, NULL);
    for (uint32_t i = 0; i < ARRAY_LEN(fixed) + N_SPLIT; i++) {
        uint32_t piece[320], n_piece;
        uint64_t seed = 1000 + i, skip = 0;
        float *got = room(n_logit, sizeof *got);
        struct rng r = { seed };
        if (i < ARRAY_LEN(fixed)) {
            memcpy(piece, fixed[i].piece, sizeof fixed[i].piece);
            n_piece = fixed[i].n;
            test_case("%s p300 in pieces of %u, %u, %u, ...", t->dir, piece[0], piece[1], piece[2]);
        } else {
            n_piece = draw_pieces(&r, n, piece, ARRAY_LEN(piece));
            skip = rng_u64(&r);
            test_case("%s p300 in %u random pieces, seed %llu", t->dir, n_piece,
                      (unsigned long long)seed);
        }
        read_mixed(t, id, n, piece, n_piece, skip, got, whole);
        check_file(t, got, n_logit, t->f->p300,
                   json_str(t->manifest, "tests/full_p300/logits/file"));
        check_diff("double precision", diff_f64(got, ref, n_logit), t->f->ref);
        free(got);
    }
    free(whole);
    free(ref);
    free(id);
}

/* The continuation that hlm_session_next gives must be `want`. Nothing is masked, nothing ends it.
 */
static void check_greedy(const struct subject *t, const char *name, json_t *want)
{
    struct hlm_sampling greedy = { .repeat_penalty = 1, .allow_unused = true };
    struct hlm_err err = { 0 };
    uint32_t n, n_want = 0;
    int32_t *id = prompt(t, name, &n), *expect = json_ids(want, &n_want), got;
    if (id && expect && CHECK_OK(hlm_session_sync(t->s, id, n, NULL, 0, NULL, NULL, &err), err))
        for (uint32_t i = 0; i < n_want; i++)
            if (!CHECK_OK(hlm_session_next(t->s, &greedy, &got, &err), err) ||
                !CHECK_MSG(got == expect[i], "step %u: %d, expected %d", i, got, expect[i]))
                break;
    free(id);
    free(expect);
}

static void test_greedy(const struct subject *t)
{
    json_t *list = json_at(t->manifest, "tests/greedy");
    for (uint32_t i = 0; i < json_array_size(list); i++) {
        json_t *row = json_array_get(list, i);
        test_case("%s greedy %s", t->dir, json_str(row, "prompt"));
        check_greedy(t, json_str(row, "prompt"), json_at(row, "hf_ids"));
    }
}

/* A batch of 8 leaves a sliding layer room for its window and little more: 300 tokens go round such
 * a ring many times, in pieces and one by one. */
static void test_small_batch(const struct subject *t)
{
    uint32_t n, piece[40];
    test_case("%s p300: a batch of 8, the second half token by token", t->dir);
    int32_t *id = prompt(t, "p300", &n);
    hlm_session *s = hlm_test_session(
        t->m, (struct hlm_session_params){
                  .n_ctx = N_CTX, .n_batch = 8, .kv = HLM_KV_F32, .keep_logits = true });
    if (id && s) {
        float *got = room((uint64_t)n * t->n_vocab, sizeof *got);
        for (uint32_t i = 0; i < ARRAY_LEN(piece); i++)
            piece[i] = 1 + 4 * i % 11; /* 1 to 11: more than a batch, too */
        struct hlm_err err = { 0 };
        for (uint32_t at = 0, i = 0, take; at < n; at += take, i++) {
            take = at < n / 2 ? min_u32(piece[i % ARRAY_LEN(piece)], n - at) : 1;
            if (!CHECK_OK(
                    hlm_session_eval(s, id + at, take, got + (uint64_t)at * t->n_vocab, NULL, &err),
                    err))
                break;
        }
        check_file(t, got, (uint64_t)n * t->n_vocab, t->f->p300,
                   json_str(t->manifest, "tests/full_p300/logits/file"));
        free(got);
    }
    hlm_session_destroy(s);
    free(id);
}

/* What a shorter cache type costs (an f16 one costs llama.cpp 5e-10 to 8e-10); single logits may be
 * further off than f32 noise takes them. */
static void test_kv(const struct subject *t, enum hlm_kv kv, const char *name, double bound)
{
    uint32_t n;
    uint64_t n_bytes;
    test_case("%s p300: %s cache", t->dir, name);
    int32_t *id = prompt(t, "p300", &n);
    float *want = fixture_read(&n_bytes, "%s/%s", t->dir,
                               json_str(t->manifest, "tests/full_p300/logits/file"));
    hlm_session *s = hlm_test_session(
        t->m, (struct hlm_session_params){ .n_ctx = N_CTX, .kv = kv, .keep_logits = true });
    if (id && s && want && CHECK_EQ(n_bytes, (uint64_t)n * t->n_vocab * sizeof *want)) {
        float *got = read_split(t, s, id, n, NULL, 0, NULL);
        struct diff d = diff_f32(got, want, (uint64_t)n * t->n_vocab);
        measured(name, d);
        CHECK_MSG(d.nmse <= bound * 1e-12, "nmse %.3g (at most %.3g)", d.nmse, bound * 1e-12);
        free(got);
    }
    hlm_session_destroy(s);
    free(want);
    free(id);
}

/* ---- other files ------------------------------------------------------------------------ */

/* One prefill against a file and against the reference on the same weights. */
static void check_prefill(const struct subject *t, const char *name, double bound, double ref_bound,
                          const char *file)
{
    uint32_t n;
    int32_t *id = prompt(t, name, &n);
    if (!id)
        return;
    uint64_t n_logit = (uint64_t)n * t->n_vocab;
    float *got = read_split(t, t->s, id, n, NULL, 0, NULL);
    double *want = ref_read(t, id, n, NULL);
    check_file(t, got, n_logit, bound, file);
    check_diff("double precision", diff_f64(got, want, n_logit), ref_bound);
    free(got);
    free(want);
    free(id);
}

static void test_half(struct subject *t)
{
    test_case("%s/model-%s.gguf: as f32", t->dir, t->f->half);
    if (subject_open(t, fixture("%s/model-%s.gguf", t->dir, t->f->half)))
        check_prefill(t, "p65", t->f->p65, t->f->ref,
                      json_str(t->manifest, "tests/full_p65/logits/file"));
    subject_close(t);
}

static void test_q8_0(struct subject *t)
{
    test_case("%s/model-q8_0.gguf: logits on dequantised weights", t->dir);
    if (subject_open(t, fixture("%s/model-q8_0.gguf", t->dir)))
        check_prefill(t, "p24", t->f->quant, t->f->ref_quant,
                      json_str(t->manifest, "tests/q8_0_p24/dequant_logits/file"));
    subject_close(t);
}

/* What f16 operands cost. */
static void test_f16(struct subject *t)
{
    uint32_t n;
    uint64_t n_bytes;
    test_case("%s/model-q8_0.gguf: f16 operands", t->dir);
    int32_t *id = prompt(t, "p24", &n);
    float *want = fixture_read(&n_bytes, "%s/%s", t->dir,
                               json_str(t->manifest, "tests/q8_0_p24/dequant_logits/file"));
    t->f16 = true;
    if (id && want && subject_open(t, fixture("%s/model-q8_0.gguf", t->dir)) &&
        CHECK_EQ(n_bytes, (uint64_t)n * t->n_vocab * sizeof *want)) {
        float *got = read_split(t, t->s, id, n, NULL, 0, NULL);
        struct diff d = diff_f32(got, want, (uint64_t)n * t->n_vocab);
        measured("f16 operands", d);
        CHECK_MSG(d.nmse <= t->f->f16 * 1e-12, "nmse %.3g (at most %.3g)", d.nmse,
                  t->f->f16 * 1e-12);
        CHECK_MSG(d.nmse > t->f->quant * 1e-12, "nmse %.3g: operands are f32", d.nmse);
        free(got);
    }
    subject_close(t);
    t->f16 = false;
    free(want);
    free(id);
}

static void test_base(const struct family *f)
{
    struct subject t = { .f = f };
    char path[64];
    snprintf(t.dir, sizeof t.dir, "%s/base", f->arch);
    test_case("%s: manifest and model-f32.gguf", t.dir);
    snprintf(path, sizeof path, "%s/manifest.json", t.dir);
    t.manifest = fixture_json(path);
    if (t.manifest && subject_open(&t, fixture("%s/model-f32.gguf", t.dir))) {
        test_full(&t, "p7", f->p7);
        test_full(&t, "p65", f->p65);
        test_full(&t, "p300", f->p300);
        test_decode(&t);
        test_splits(&t);
        test_greedy(&t);
        test_small_batch(&t);
        test_kv(&t, HLM_KV_F16, "f16", f->kv16);
        test_kv(&t, HLM_KV_Q8_0, "q8_0", f->kv8);
    }
    subject_close(&t);
    if (t.manifest) {
        test_half(&t);
        test_q8_0(&t);
        test_f16(&t);
    }
    json_decref(t.manifest);
}

static void test_k256(const struct family *f)
{
    struct subject t = { .f = f };
    char path[64];
    uint32_t n_found = 0;
    const char *file;
    json_t *model;

    snprintf(t.dir, sizeof t.dir, "%s/k256", f->arch);
    snprintf(path, sizeof path, "%s/manifest.json", t.dir);
    test_case("%s: manifest", t.dir);
    t.manifest = fixture_json(path);
    json_t *models = json_at(t.manifest, "models");
    json_object_foreach(models, file, model)
    {
        if (!fixture_has("%s/%s", t.dir, file))
            continue;
        n_found++;
        test_case("%s/%s: logits on dequantised weights", t.dir, file);
        if (subject_open(&t, fixture("%s/%s", t.dir, file))) {
            check_prefill(&t, "p24", f->quant, f->ref_quant,
                          json_str(model, "p24/dequant_logits/file"));
            test_case("%s/%s: greedy", t.dir, file);
            check_greedy(&t, json_str(model, "greedy/prompt"),
                         json_at(model, "greedy/dequant_ids"));
        }
        subject_close(&t);
    }
    test_case("%s: number of files", t.dir);
    CHECK_MSG(n_found >= f->min_k256, "%u files of the manifest are there, %u wanted", n_found,
              f->min_k256);
    json_decref(t.manifest);
}

/* ---- files written here ----------------------------------------------------------------- */

/* Logits of a prompt of n made-up tokens, at most 65: the first so many, one, one, and the others.
 * NULL when the file does not open. */
static float *logits_of(const char *path, uint32_t n, uint32_t first, uint32_t *n_vocab)
{
    struct subject t = { 0 };
    int32_t id[65];
    float *logits = NULL;
    HLM_ASSERT(n <= ARRAY_LEN(id));
    t.m = hlm_test_open(path);
    if (t.m) {
        *n_vocab = t.n_vocab = hlm_get_info(t.m).n_vocab;
        for (uint32_t i = 0; i < n; i++)
            id[i] = (int32_t)((i * 37 + 11) % t.n_vocab);
        t.s = hlm_test_session(t.m, (struct hlm_session_params){ .n_ctx = n, .keep_logits = true });
        if (t.s)
            logits = read_split(&t, t.s, id, n, (uint32_t[]){ first, 1, 1 }, 3, NULL);
    }
    subject_close(&t);
    return logits;
}

static void check_same_bits(const float *got, const float *want, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (!memcmp(&got[i], &want[i], sizeof *got))
            continue;
        FAIL("value %llu is %.9g, expected the same bits as %.9g", (unsigned long long)i,
             (double)got[i], (double)want[i]);
        return;
    }
}

/* The old layout of qwen3next (one tensor for q, k, v and z) is the same model. */
static void test_ssm_in(const char *file, uint32_t n, uint32_t first)
{
    struct hlm_err err = { 0 };
    char path[128];
    uint32_t n_vocab = 0;
    test_case("qwen3next/%s: the ssm_in layout gives the same bits", file);
    snprintf(path, sizeof path, "%s/ssm_in.gguf", test_tmp());
    struct gguf_build *b = ssm_in_build(fixture("qwen3next/%s", file), &err);
    if (CHECK_OK(b && gb_write(b, path, &err), err)) {
        float *want = logits_of(fixture("qwen3next/%s", file), n, first, &n_vocab),
              *got = logits_of(path, n, first, &n_vocab);
        if (want && got)
            check_same_bits(got, want, (uint64_t)n * n_vocab);
        free(want);
        free(got);
    }
    gb_free(b);
}

struct warning {
    const char *about; /* what it must name */
    char kept[512];
};

static void keep_warning(void *user, enum hlm_log_level level, const char *msg)
{
    struct warning *w = user;
    if (level == HLM_LOG_WARN && strstr(msg, w->about))
        snprintf(w->kept, sizeof w->kept, "%s", msg);
}

/* Gates belong in F32; a file that has them in half precision works, with a word about it. */
static void test_gates(void)
{
    struct subject t = { .f = &families[0], .dir = "qwen35/base" };
    struct warning w = { .about = "blk.0.ssm_a " };
    struct hlm_err err = { 0 };
    char path[128];
    uint16_t half[256];
    test_case("%s: gates stored as F16", t.dir);
    snprintf(path, sizeof path, "%s/gates.gguf", test_tmp());
    struct gguf *g = gguf_open(fixture("%s/model-f32.gguf", t.dir), &err);
    struct gguf_build *b = g ? gb_from(gguf_path(g), &err) : NULL;
    const struct gguf_tensor *a = g ? gguf_tensor(g, "blk.0.ssm_a") : NULL;
    if (CHECK_OK(b && a && a->type == F32 && a->n_elem <= ARRAY_LEN(half), err)) {
        for (uint64_t i = 0; i < a->n_elem; i++) {
            float v;
            memcpy(&v, a->data + 4 * i, 4);
            half[i] = f32_to_f16(v);
        }
        gb_tensor(b, a->name, F16, a->n_dim, a->dim, half);
        CHECK_OK(gb_write(b, path, &err), err);
        test_log(keep_warning, &w);
        bool open = subject_open(&t, path);
        test_log(NULL, NULL);
        CHECK_MSG(strstr(w.kept, path) && strstr(w.kept, "F16"), "the warning is \"%s\"", w.kept);
        t.manifest = fixture_json("qwen35/base/manifest.json");
        uint32_t n = 0;
        int32_t *id = open ? prompt(&t, "p65", &n) : NULL;
        if (id) {
            float *got = read_split(&t, t.s, id, n, NULL, 0, NULL);
            double *want = ref_read(&t, id, n, NULL);
            check_diff("double precision", diff_f64(got, want, (uint64_t)n * t.n_vocab), t.f->ref);
            free(got);
            free(want);
        }
        free(id);
        json_decref(t.manifest);
    }
    subject_close(&t);
    gb_free(b);
    gguf_close(g);
}

void test_model(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(families); i++) {
        test_base(&families[i]);
        test_k256(&families[i]);
    }
    test_ssm_in("base/model-f32.gguf", 65, 60);
    test_ssm_in("k256/model-q4_k_m.gguf", 24, 22); /* shapes that are compiled by now */
    test_gates();
}
