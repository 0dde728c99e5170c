/* test_model: whole models on the device, compared with Hugging Face's logits and with the double
 * precision run of ref.h: in one prefill, in batches of many sizes, and token by token.
 *
 * Activations are f32. There are two references because most of the difference from Hugging Face is
 * the float32 noise of the fixtures themselves. test_ref.c lists the fixtures; files that only the
 * full set has (--fixtures) are tested when they are there. -v prints what is measured. */
#include "hlm_test.h"
#include "json.h"
#include "ref/ref.h"
#include "ssm_in.h"

#include <math.h>
#include <stdio.h>

enum { N_CTX = 320, N_SPLIT = 3 };

/* Bounds on the NMSE, in units of 1e-12. Those against Hugging Face are below twice what llama.cpp
 * has (the fixtures' README). Each measured value is the worst of all the cases that its bound is
 * for. */
static const struct model_family {
    const char *arch;
    const char *half;  /* type of the file whose weights take 16 bits */
    uint32_t min_k256; /* files of superblocks (k256/) that must be there */
    struct bound p7, p65, p300, decode, hidden; /* f32 file, against Hugging Face */
    struct bound quant;          /* quantised files, against Hugging Face on dequantised weights */
    struct bound kv16, kv8;      /* f32 file, the cache in f16 and in q8_0, against Hugging Face */
    struct bound f16;            /* q8_0 file, f16 operands, as quant */
    struct bound ref, ref_quant; /* f32 and quantised files, against ref.h */
} families[] = {
    { .arch = "qwen35",
      .half = "f16",
      .p7 = { .most = 1.6, .measured = 1.02 },
      .hidden = { .most = 1.3, .measured = 0.83 },
      .p65 = { .most = 8.0, .measured = 5.5 },
      .p300 = { .most = 7.5, .measured = 4.6 },
      .decode = { .most = 2.7, .measured = 1.7 },
      .quant = { .most = 5.0, .measured = 2.8 },
      .kv16 = { .most = 1200, .measured = 840 },
      .kv8 = { .most = 7e5, .measured = 5.0e5 },
      .ref = { .most = 1.0, .measured = 0.89 },
      .ref_quant = { .most = 2.0, .measured = 1.3 },
      .f16 = { .most = 15e6, .measured = 8.9e6 },
      .min_k256 = 2 },
    { .arch = "qwen35moe",
      .half = "bf16",
      .p7 = { .most = 0.5, .measured = 0.27 },
      .hidden = { .most = 0.24, .measured = 0.14 },
      .p65 = { .most = 0.8, .measured = 0.48 },
      .p300 = { .most = 0.9, .measured = 0.59 },
      .decode = { .most = 0.5, .measured = 0.33 },
      .quant = { .most = 0.6, .measured = 0.37 },
      .kv16 = { .most = 700, .measured = 470 },
      .kv8 = { .most = 4e5, .measured = 2.9e5 },
      .ref = { .most = 0.35, .measured = 0.18 },
      .ref_quant = { .most = 0.4, .measured = 0.22 },
      .f16 = { .most = 2e6, .measured = 9.7e5 },
      .min_k256 = 2 },
    { .arch = "qwen3next",
      .half = "bf16",
      .p7 = { .most = 0.4, .measured = 0.23 },
      .hidden = { .most = 0.24, .measured = 0.13 },
      .p65 = { .most = 1.0, .measured = 0.64 },
      .p300 = { .most = 0.9, .measured = 0.56 },
      .decode = { .most = 0.45, .measured = 0.29 },
      .quant = { .most = 0.5, .measured = 0.29 },
      .kv16 = { .most = 1200, .measured = 840 },
      .kv8 = { .most = 8e5, .measured = 5.6e5 },
      .ref = { .most = 0.38, .measured = 0.25 },
      .ref_quant = { .most = 0.4, .measured = 0.19 },
      .f16 = { .most = 4e6, .measured = 2.1e6 },
      .min_k256 = 2 },
    { .arch = "nemotron_h",
      .half = "f16",
      .p7 = { .most = 0.3, .measured = 0.19 },
      .hidden = { .most = 0.2, .measured = 0.10 },
      .p65 = { .most = 0.5, .measured = 0.30 },
      .p300 = { .most = 0.5, .measured = 0.28 },
      .decode = { .most = 0.3, .measured = 0.16 },
      .quant = { .most = 0.4, .measured = 0.25 },
      .kv16 = { .most = 2000, .measured = 1500 },
      .kv8 = { .most = 13e5, .measured = 9.6e5 },
      .ref = { .most = 0.15, .measured = 0.08 },
      .ref_quant = { .most = 0.4, .measured = 0.21 },
      .f16 = { .most = 15e5, .measured = 6.9e5 },
      .min_k256 = 1 },
    { .arch = "nemotron_h_moe",
      .half = "bf16",
      .p7 = { .most = 0.3, .measured = 0.16 },
      .hidden = { .most = 0.2, .measured = 0.09 },
      .p65 = { .most = 0.3, .measured = 0.19 },
      .p300 = { .most = 0.4, .measured = 0.22 },
      .decode = { .most = 0.2, .measured = 0.12 },
      .quant = { .most = 0.3, .measured = 0.13 },
      .kv16 = { .most = 1500, .measured = 910 },
      .kv8 = { .most = 7e5, .measured = 5.2e5 },
      .ref = { .most = 0.15, .measured = 0.09 },
      .ref_quant = { .most = 0.2, .measured = 0.07 },
      .f16 = { .most = 1e6, .measured = 4.1e5 },
      .min_k256 = 1 },
    { .arch = "step35",
      .half = "f16",
      .p7 = { .most = 0.2, .measured = 0.11 },
      .hidden = { .most = 0.1, .measured = 0.04 },
      .p65 = { .most = 0.3, .measured = 0.18 },
      .p300 = { .most = 0.4, .measured = 0.22 },
      .decode = { .most = 0.2, .measured = 0.10 },
      .quant = { .most = 0.4, .measured = 0.26 },
      .kv16 = { .most = 9000, .measured = 7400 },
      .kv8 = { .most = 7e6, .measured = 5.3e6 },
      .ref = { .most = 0.12, .measured = 0.06 },
      .ref_quant = { .most = 0.4, .measured = 0.22 },
      .f16 = { .most = 8e5, .measured = 3.3e5 },
      .min_k256 = 1 },
};
#define UNIT 1e-12
#define MAX_ABS 1e-3 /* of any single value */

/* A file under test, open in the engine and in the reference. */
struct subject {
    const struct model_family *f;
    char dir[32];
    json_t *manifest;
    hlm *m;
    hlm_session *s;
    struct ref_model *ref;
    uint32_t n_vocab, n_embd, n_layer;
    bool f16; /* compute with f16 operands */
};

/* ---- helpers ---------------------------------------------------------------------------- */

static struct bound in_units(struct bound b)
{
    return (struct bound){ .most = b.most * UNIT, .measured = b.measured * UNIT };
}

static void model_check(const char *what, struct diff d, struct bound bound)
{
    CHECK_WITHIN(what, d.nmse, in_units(bound));
    CHECK_MSG(d.max_abs <= MAX_ABS, "%s: value %llu is %.3g off", what, (unsigned long long)d.at,
              d.max_abs);
}

/* Opens the file in the engine and in the reference. */
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

static int32_t *prompt_ids(const struct subject *t, const char *name, uint32_t *n)
{
    return json_ids(json_object_get(json_at(t->manifest, "prompts"), name), n);
}

/* Reads the tokens from an empty timeline, in calls of the sizes listed and one of the rest.
 * Returns [n, n_vocab]. */
static float *model_read(const struct subject *t, hlm_session *s, const int32_t *id, uint32_t n,
                         const uint32_t *piece, uint32_t n_piece, float *hidden)
{
    struct hlm_err err = { 0 };
    float *logits = test_room((uint64_t)n * t->n_vocab, sizeof *logits);
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
    double *logits = test_room((uint64_t)n * t->n_vocab, sizeof *logits);
    struct ref_state *s = ref_state_create(t->ref);
    CHECK(ref_forward(t->ref, s, id, n, logits, hidden));
    ref_state_destroy(s);
    return logits;
}

/* Compares got with a float32 file of exactly n values. */
static void model_check_file(const struct subject *t, const float *got, uint64_t n,
                             struct bound bound, const char *file)
{
    uint64_t n_bytes;
    float *want = fixture_read(&n_bytes, "%s/%s", t->dir, file);
    if (want && CHECK_EQ(n_bytes, n * sizeof *want))
        model_check(file, diff_f32(got, want, n), bound);
    free(want);
}

/* ---- f32 files -------------------------------------------------------------------------- */

static void model_full(const struct subject *t, const char *name, struct bound bound)
{
    uint32_t n;
    char path[64];
    test_case("%s %s: logits of one prefill", t->dir, name);
    int32_t *id = prompt_ids(t, name, &n);
    if (!id)
        return;
    snprintf(path, sizeof path, "tests/full_%s", name);
    json_t *test = json_at(t->manifest, path);
    uint64_t n_logit = (uint64_t)n * t->n_vocab,
             n_hidden = (uint64_t)(t->n_layer + 2) * n * t->n_embd;
    bool hidden = json_at(test, "hidden");
    float *h = hidden ? test_room(n_hidden, sizeof *h) : NULL;
    double *ref_h = hidden ? test_room(n_hidden, sizeof *ref_h) : NULL;
    float *got = model_read(t, t->s, id, n, NULL, 0, h);
    double *want = ref_read(t, id, n, ref_h);
    model_check_file(t, got, n_logit, bound, json_str(test, "logits/file"));
    model_check("double precision", diff_f64(got, want, n_logit), t->f->ref);
    if (hidden) {
        test_case("%s %s: hidden states", t->dir, name);
        model_check_file(t, h, n_hidden, t->f->hidden, json_str(test, "hidden/file"));
        model_check("double precision", diff_f64(h, ref_h, n_hidden), t->f->ref);
    }
    free(h);
    free(ref_h);
    free(got);
    free(want);
    free(id);
}

static void model_decode(const struct subject *t)
{
    uint32_t n, piece[64];
    test_case("%s decode: prefill, then single tokens", t->dir);
    int32_t *id = prompt_ids(t, "decode", &n);
    uint32_t prefill = (uint32_t)json_integer_value(json_at(t->manifest, "tests/decode/prefill"));
    if (id && CHECK(prefill > 0 && prefill < n && n - prefill < ARRAY_LEN(piece))) {
        piece[0] = prefill;
        for (uint32_t i = 1; i < ARRAY_LEN(piece); i++)
            piece[i] = 1;
        uint64_t skip = (uint64_t)(prefill - 1) * t->n_vocab,
                 n_logit = (uint64_t)n * t->n_vocab - skip;
        float *got = model_read(t, t->s, id, n, piece, ARRAY_LEN(piece), NULL);
        double *want = ref_read(t, id, n, NULL);
        model_check_file(t, got + skip, n_logit, t->f->decode,
                         json_str(t->manifest, "tests/decode/logits/file"));
        model_check("double precision", diff_f64(got + skip, want + skip, n_logit), t->f->ref);
        free(got);
        free(want);
    }
    free(id);
}

/* Sizes of 1, of a few, of up to 64 and of up to 200, in random order. */
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

/* Pieces whose bit in `skip` is set are read without logits, as hlm_session_sync reads a prompt.
 * The last piece never is, so its logits show what all pieces before it left in the caches. */
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

static void model_splits(const struct subject *t)
{
    /* what random sizes may miss: chunk borders, pieces shorter than the convolution window */
    static const struct {
        uint32_t n, piece[8];
    } fixed[] = {
        { 4, { 64, 100, 1, 135 } },
        { 8, { 1, 1, 1, 2, 2, 3, 3, 128 } },
    };
    uint32_t n;
    int32_t *id = prompt_ids(t, "p300", &n);
    if (!id)
        return;
    uint64_t n_logit = (uint64_t)n * t->n_vocab;
    double *ref = ref_read(t, id, n, NULL);
    float *whole = model_read(t, t->s, id, n, NULL, 0, NULL);
    for (uint32_t i = 0; i < ARRAY_LEN(fixed) + N_SPLIT; i++) {
        uint32_t piece[320], n_piece;
        uint64_t seed = 1000 + i, skip = 0;
        float *got = test_room(n_logit, sizeof *got);
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
        model_check_file(t, got, n_logit, t->f->p300,
                         json_str(t->manifest, "tests/full_p300/logits/file"));
        model_check("double precision", diff_f64(got, ref, n_logit), t->f->ref);
        free(got);
    }
    free(whole);
    free(ref);
    free(id);
}

/* hlm_session_next must continue the prompt with `want`. No token is masked, none ends it. */
static void model_check_greedy(const struct subject *t, const char *name, json_t *want)
{
    struct hlm_sampling greedy = { .repeat_penalty = 1, .allow_unused = true };
    struct hlm_err err = { 0 };
    uint32_t n, n_want = 0;
    int32_t *id = prompt_ids(t, name, &n), *expect = json_ids(want, &n_want), got;
    if (id && expect && CHECK_OK(hlm_session_sync(t->s, id, n, NULL, 0, NULL, NULL, &err), err))
        for (uint32_t i = 0; i < n_want; i++)
            if (!CHECK_OK(hlm_session_next(t->s, &greedy, &got, &err), err) ||
                !CHECK_MSG(got == expect[i], "step %u: %d, expected %d", i, got, expect[i]))
                break;
    free(id);
    free(expect);
}

static void model_greedy(const struct subject *t)
{
    json_t *list = json_at(t->manifest, "tests/greedy");
    for (uint32_t i = 0; i < json_array_size(list); i++) {
        json_t *row = json_array_get(list, i);
        test_case("%s greedy %s", t->dir, json_str(row, "prompt"));
        model_check_greedy(t, json_str(row, "prompt"), json_at(row, "hf_ids"));
    }
}

/* With a batch of 8, the ring of a sliding-window layer has room for its window and little more:
 * 300 tokens wrap round it many times, in pieces and one by one. */
static void test_small_batch(const struct subject *t)
{
    uint32_t n, piece[40];
    test_case("%s p300: a batch of 8, the second half token by token", t->dir);
    int32_t *id = prompt_ids(t, "p300", &n);
    hlm_session *s = hlm_test_session(
        t->m, (struct hlm_session_params){
                  .n_ctx = N_CTX, .n_batch = 8, .kv = HLM_KV_F32, .keep_logits = true });
    if (id && s) {
        float *got = test_room((uint64_t)n * t->n_vocab, sizeof *got);
        for (uint32_t i = 0; i < ARRAY_LEN(piece); i++)
            piece[i] = 1 + 4 * i % 11; /* 1 to 11: some are more than a batch */
        struct hlm_err err = { 0 };
        for (uint32_t at = 0, i = 0, take; at < n; at += take, i++) {
            take = at < n / 2 ? min_u32(piece[i % ARRAY_LEN(piece)], n - at) : 1;
            if (!CHECK_OK(
                    hlm_session_eval(s, id + at, take, got + (uint64_t)at * t->n_vocab, NULL, &err),
                    err))
                break;
        }
        model_check_file(t, got, (uint64_t)n * t->n_vocab, t->f->p300,
                         json_str(t->manifest, "tests/full_p300/logits/file"));
        free(got);
    }
    hlm_session_destroy(s);
    free(id);
}

/* The error of a cache of a shorter type (f16 costs llama.cpp 5e-10 to 8e-10). MAX_ABS does not
 * hold for single logits here. */
static void test_kv(const struct subject *t, enum hlm_kv kv, const char *name, struct bound bound)
{
    uint32_t n;
    uint64_t n_bytes;
    test_case("%s p300: %s cache", t->dir, name);
    int32_t *id = prompt_ids(t, "p300", &n);
    float *want = fixture_read(&n_bytes, "%s/%s", t->dir,
                               json_str(t->manifest, "tests/full_p300/logits/file"));
    hlm_session *s = hlm_test_session(
        t->m, (struct hlm_session_params){ .n_ctx = N_CTX, .kv = kv, .keep_logits = true });
    if (id && s && want && CHECK_EQ(n_bytes, (uint64_t)n * t->n_vocab * sizeof *want)) {
        float *got = model_read(t, s, id, n, NULL, 0, NULL);
        struct diff d = diff_f32(got, want, (uint64_t)n * t->n_vocab);
        CHECK_WITHIN(name, d.nmse, in_units(bound));
        free(got);
    }
    hlm_session_destroy(s);
    free(want);
    free(id);
}

/* ---- other files ------------------------------------------------------------------------ */

/* Compares one prefill with a file and with the reference on the same weights. */
static void check_prefill(const struct subject *t, const char *name, struct bound bound,
                          struct bound ref_bound, const char *file)
{
    uint32_t n;
    int32_t *id = prompt_ids(t, name, &n);
    if (!id)
        return;
    uint64_t n_logit = (uint64_t)n * t->n_vocab;
    float *got = model_read(t, t->s, id, n, NULL, 0, NULL);
    double *want = ref_read(t, id, n, NULL);
    model_check_file(t, got, n_logit, bound, file);
    model_check("double precision", diff_f64(got, want, n_logit), ref_bound);
    free(got);
    free(want);
    free(id);
}

static void model_half(struct subject *t)
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

/* The error of f16 operands. */
static void test_f16(struct subject *t)
{
    uint32_t n;
    uint64_t n_bytes;
    test_case("%s/model-q8_0.gguf: f16 operands", t->dir);
    int32_t *id = prompt_ids(t, "p24", &n);
    float *want = fixture_read(&n_bytes, "%s/%s", t->dir,
                               json_str(t->manifest, "tests/q8_0_p24/dequant_logits/file"));
    t->f16 = true;
    if (id && want && subject_open(t, fixture("%s/model-q8_0.gguf", t->dir)) &&
        CHECK_EQ(n_bytes, (uint64_t)n * t->n_vocab * sizeof *want)) {
        float *got = model_read(t, t->s, id, n, NULL, 0, NULL);
        struct diff d = diff_f32(got, want, (uint64_t)n * t->n_vocab);
        CHECK_WITHIN("f16 operands", d.nmse, in_units(t->f->f16));
        CHECK_MSG(d.nmse > in_units(t->f->quant).most, "nmse %.3g: operands are f32", d.nmse);
        free(got);
    }
    subject_close(t);
    t->f16 = false;
    free(want);
    free(id);
}

static void model_base(const struct model_family *f)
{
    struct subject t = { .f = f };
    char path[64];
    snprintf(t.dir, sizeof t.dir, "%s/base", f->arch);
    test_case("%s: manifest and model-f32.gguf", t.dir);
    snprintf(path, sizeof path, "%s/manifest.json", t.dir);
    t.manifest = fixture_json(path);
    if (t.manifest && subject_open(&t, fixture("%s/model-f32.gguf", t.dir))) {
        model_full(&t, "p7", f->p7);
        model_full(&t, "p65", f->p65);
        model_full(&t, "p300", f->p300);
        model_decode(&t);
        model_splits(&t);
        model_greedy(&t);
        test_small_batch(&t);
        test_kv(&t, HLM_KV_F16, "f16", f->kv16);
        test_kv(&t, HLM_KV_Q8_0, "q8_0", f->kv8);
    }
    subject_close(&t);
    if (t.manifest) {
        model_half(&t);
        test_q8_0(&t);
        test_f16(&t);
    }
    json_decref(t.manifest);
}

static void model_k256(const struct model_family *f)
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
            /* Decoding costs kernels of its own. The first file of a family has them all; of the
             * other types, test_ops_linear holds products with one token. */
            if (n_found == 1 || test_all()) {
                test_case("%s/%s: greedy", t.dir, file);
                model_check_greedy(&t, json_str(model, "greedy/prompt"),
                                   json_at(model, "greedy/dequant_ids"));
            }
        }
        subject_close(&t);
    }
    test_case("%s: number of files", t.dir);
    CHECK_MSG(n_found >= f->min_k256, "%u files of the manifest are there, %u wanted", n_found,
              f->min_k256);
    json_decref(t.manifest);
}

/* ---- files written here ----------------------------------------------------------------- */

/* Logits of n made-up tokens, at most 65, read as `first` tokens, one, one, and the rest. NULL when
 * the file does not open. */
static float *model_logits(const char *path, uint32_t n, uint32_t first, uint32_t *n_vocab)
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
            logits = model_read(&t, t.s, id, n, (uint32_t[]){ first, 1, 1 }, 3, NULL);
    }
    subject_close(&t);
    return logits;
}

static void model_same_bits(const float *got, const float *want, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (!memcmp(&got[i], &want[i], sizeof *got))
            continue;
        FAIL("value %llu is %.9g, expected the same bits as %.9g", (unsigned long long)i,
             (double)got[i], (double)want[i]);
        return;
    }
}

/* The old layout of qwen3next, with one tensor for q, k, v and z, is the same model. */
static void model_ssm_in(const char *file, uint32_t n, uint32_t first)
{
    struct hlm_err err = { 0 };
    char path[128];
    uint32_t n_vocab = 0;
    test_case("qwen3next/%s: the ssm_in layout gives the same bits", file);
    snprintf(path, sizeof path, "%s/ssm_in.gguf", test_tmp());
    struct gguf_build *b = ssm_in_build(fixture("qwen3next/%s", file), &err);
    if (CHECK_OK(b && gb_write(b, path, &err), err)) {
        float *want = model_logits(fixture("qwen3next/%s", file), n, first, &n_vocab),
              *got = model_logits(path, n, first, &n_vocab);
        if (want && got)
            model_same_bits(got, want, (uint64_t)n * n_vocab);
        free(want);
        free(got);
    }
    gb_free(b);
}

struct warning {
    const char *about; /* a warning that names this is kept */
    char kept[512];
};

static void keep_warning(void *user, enum hlm_log_level level, const char *msg)
{
    struct warning *w = user;
    if (level == HLM_LOG_WARN && strstr(msg, w->about))
        snprintf(w->kept, sizeof w->kept, "%s", msg);
}

/* Gates belong in F32. A file that has them in half precision works, with a warning. */
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
        CHECK_SAYS(w.kept, path);
        CHECK_SAYS(w.kept, "blk.0.ssm_a|F16");
        t.manifest = fixture_json("qwen35/base/manifest.json");
        uint32_t n = 0;
        int32_t *id = open ? prompt_ids(&t, "p65", &n) : NULL;
        if (id) {
            float *got = model_read(&t, t.s, id, n, NULL, 0, NULL);
            double *want = ref_read(&t, id, n, NULL);
            model_check("double precision", diff_f64(got, want, (uint64_t)n * t.n_vocab), t.f->ref);
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
        model_base(&families[i]);
        model_k256(&families[i]);
    }
    model_ssm_in("base/model-f32.gguf", 65, 60);
    model_ssm_in("k256/model-q4_k_m.gguf", 24, 22); /* shapes that are compiled by now */
    test_gates();
}
