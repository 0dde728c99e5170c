/* test_ref: the reference against the fixtures, and against itself. No GPU.
 *
 * What holds here makes ref.h fit to judge kernels by: Hugging Face's logits, hidden states, cached
 * decode and greedy text within that reference's own float32 noise; quantised files against the
 * same graph on their dequantised weights; the same bits however a sequence is cut. The operations
 * alone are test_ref_ops.c's.
 *
 * Expected in tests/fixtures, of each of the six architectures: base/manifest.json with its .bin
 * files, model-f32, model-q8_0 and the half-precision file; k256/manifest.json and one or two
 * models at least. Files that are only in the full set (--fixtures) are tested when they are
 * there. */
#include "json.h"
#include "ref/ref.h"
#include "ssm_in.h"
#include "variant.h"

#include <math.h>
#include <stdio.h>

/* NMSE of the fixtures' float32 results against this reference, in units of 1e-13: their noise, not
 * ours (the fixtures' README has the same figures for exact arithmetic). Measured, the worst file
 * of a column:
 *     qwen35          5.37  4.45  44.7  39.6  10.5   19.9   1.01   1.68e-3
 *     qwen35moe       1.85  0.89  3.20  4.49  2.16   1.48   0.59   0
 *     qwen3next       1.49  0.76  6.91  4.44  1.42   1.44   0.51   0
 *     nemotron_h      1.39  0.74  2.23  2.07  0.982  0.930  0.463  2.5e-4
 *     nemotron_h_moe  1.07  0.51  1.29  1.65  0.621  0.643  0.467  0
 *     step35          0.69  0.22  1.35  1.73  0.591  0.566  0.520  1.6e-4
 * and the largest difference of any value 9.3e-5 (1.0e-5 in the last three). */
// clang-format off
static const struct family {
    const char *arch, *half;
    double p7, hidden, p65, p300, decode, q8_0, k256;
    double half_diff;   /* the half-precision file against f32, p65; 0: the same bits */
    uint32_t min_k256;  /* quantised files at least */
} families[] = {
    { "qwen35",         "f16",  6.0, 5.0,  50,  45,  12,   23,   1.2,  1e-2, 2 },
    { "qwen35moe",      "bf16", 2.1, 1.0,  3.6, 5.0, 2.5,  1.7,  0.7,  0,    2 },
    { "qwen3next",      "bf16", 1.7, 0.9,  8.0, 5.0, 1.6,  1.6,  0.6,  0,    2 },
    { "nemotron_h",     "f16",  1.6, 0.85, 2.5, 2.4, 1.2,  1.1,  0.55, 1e-3, 1 },
    { "nemotron_h_moe", "bf16", 1.2, 0.6,  1.5, 1.9, 0.72, 0.75, 0.55, 0,    1 },
    { "step35",         "f16",  0.8, 0.26, 1.6, 2.0, 0.7,  0.66, 0.6,  1e-3, 1 },
};
// clang-format on
#define UNIT 1e-13
#define MAX_ABS 1.2e-4

/* ---- helpers ---------------------------------------------------------------------------- */

static struct ref_model *open_model(const char *dir, const char *file)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(fixture("%s/%s", dir, file), &err);
    struct ref_model *m = g ? ref_model_open(g, &err) : NULL;
    gguf_close(g);
    if (!m)
        FAIL("%s", err.msg);
    return m;
}

static double *doubles(uint64_t n)
{
    double *p = mem_alloc(n, sizeof *p);
    HLM_ASSERT(p != NULL);
    return p;
}

/* Reads ids from an empty state in pieces: the sizes listed, then the rest at once.
 * Gives [n_tok, n_vocab]. */
static double *read_split(const struct ref_model *m, const int32_t *ids, uint32_t n_tok,
                          const uint32_t *piece, uint32_t n_piece, double *hidden)
{
    uint64_t n_vocab = ref_model_config(m)->n_vocab;
    double *logits = doubles(n_tok * n_vocab);
    struct ref_state *s = ref_state_create(m);

    for (uint32_t i = 0, at = 0, n; at < n_tok; i++, at += n) {
        n = i < n_piece ? min_u32(piece[i], n_tok - at) : n_tok - at;
        CHECK(ref_forward(m, s, ids + at, n, logits + at * n_vocab, hidden));
    }
    CHECK_EQ(ref_state_pos(s), n_tok);
    ref_state_destroy(s);
    return logits;
}

static double *read_whole(const struct ref_model *m, const int32_t *ids, uint32_t n_tok)
{
    return read_split(m, ids, n_tok, NULL, 0, NULL);
}

/* Compares with a float32 file of exactly n values; bound in UNIT. (The file is diff_f64's float
 * side; the NMSE is the same.) */
static void check_file(const double *got, uint64_t n, double bound, const char *dir,
                       const char *file)
{
    uint64_t n_bytes;
    float *want = fixture_read(&n_bytes, "%s/%s", dir, file);
    if (want && CHECK_EQ(n_bytes, n * sizeof *want)) {
        struct diff d = diff_f64(want, got, n);
        CHECK_MSG(d.nmse <= bound * UNIT && d.max_abs <= MAX_ABS,
                  "%s/%s: nmse %.3g (at most %.3g), %.3g off at %llu", dir, file, d.nmse,
                  bound * UNIT, d.max_abs, (unsigned long long)d.at);
    }
    free(want);
}

static void check_same_bits(const double *got, const double *want, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (!memcmp(&got[i], &want[i], sizeof *got))
            continue;
        FAIL("value %llu is %.17g, expected the same bits as %.17g", (unsigned long long)i, got[i],
             want[i]);
        return;
    }
}

static int32_t argmax(const double *x, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

/* Greedy continuation of a prompt must be `want`. Nothing is masked, nothing ends it. */
static void check_greedy(const struct ref_model *m, json_t *prompt, json_t *want)
{
    uint32_t n_prompt, n_want, n_vocab = ref_model_config(m)->n_vocab;
    int32_t *ids = json_ids(prompt, &n_prompt), *expect = json_ids(want, &n_want);
    if (ids && expect) {
        double *logits = doubles((uint64_t)n_prompt * n_vocab);
        struct ref_state *s = ref_state_create(m);
        CHECK(ref_forward(m, s, ids, n_prompt, logits, NULL));
        int32_t id = argmax(logits + (uint64_t)(n_prompt - 1) * n_vocab, n_vocab);
        for (uint32_t i = 0; i < n_want; i++) {
            if (!CHECK_MSG(id == expect[i], "step %u: %d, expected %d", i, id, expect[i]))
                break;
            CHECK(ref_forward(m, s, &id, 1, logits, NULL));
            id = argmax(logits, n_vocab);
        }
        ref_state_destroy(s);
        free(logits);
    }
    free(ids);
    free(expect);
}

static json_t *prompt_of(json_t *manifest, const char *name)
{
    return json_object_get(json_at(manifest, "prompts"), name);
}

/* ---- against the fixtures --------------------------------------------------------------- */

/* full_<prompt>: one prefill, logits and, where the fixture has them, hidden states. */
static void test_full(const struct family *f, const char *dir, const struct ref_model *m,
                      json_t *manifest, const char *prompt, double bound)
{
    const struct ref_config *c = ref_model_config(m);
    uint32_t n_tok;
    char path[64];

    test_case("%s %s: logits of one prefill", dir, prompt);
    int32_t *ids = json_ids(prompt_of(manifest, prompt), &n_tok);
    if (!ids)
        return;
    snprintf(path, sizeof path, "tests/full_%s", prompt);
    json_t *test = json_at(manifest, path);
    uint64_t n_hidden = (uint64_t)(c->n_layer + 2) * n_tok * c->n_embd;
    double *hidden = doubles(n_hidden), *logits = read_split(m, ids, n_tok, NULL, 0, hidden);
    check_file(logits, (uint64_t)n_tok * c->n_vocab, bound, dir, json_str(test, "logits/file"));
    if (json_at(test, "hidden")) {
        test_case("%s %s: hidden states", dir, prompt);
        check_file(hidden, n_hidden, f->hidden, dir, json_str(test, "hidden/file"));
    }
    free(hidden);
    free(logits);
    free(ids);
}

static void test_decode(const struct family *f, const char *dir, const struct ref_model *m,
                        json_t *manifest)
{
    uint32_t n_tok, n_vocab = ref_model_config(m)->n_vocab, piece[64];

    test_case("%s decode: prefill, then single tokens", dir);
    int32_t *ids = json_ids(prompt_of(manifest, "decode"), &n_tok);
    uint32_t prefill = (uint32_t)json_integer_value(json_at(manifest, "tests/decode/prefill"));
    if (ids && CHECK(prefill > 0 && prefill < n_tok && n_tok - prefill < ARRAY_LEN(piece))) {
        piece[0] = prefill;
        for (uint32_t i = 1; i < ARRAY_LEN(piece); i++)
            piece[i] = 1;
        double *logits = read_split(m, ids, n_tok, piece, ARRAY_LEN(piece), NULL);
        check_file(logits + (uint64_t)(prefill - 1) * n_vocab,
                   (uint64_t)(n_tok - prefill + 1) * n_vocab, f->decode, dir,
                   json_str(manifest, "tests/decode/logits/file"));
        free(logits);
    }
    free(ids);
}

static void test_splits(const char *dir, const struct ref_model *m, json_t *manifest)
{
    static const struct {
        const char *prompt;
        uint32_t n, piece[8];
    } cuts[] = {
        { "p300", 4, { 64, 100, 1, 135 } },       /* the fixtures' own */
        { "p65", 8, { 1, 1, 1, 1, 2, 2, 3, 3 } }, /* shorter than the convolution window */
        { "p65", 2, { 64, 1 } },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(cuts); i++) {
        uint32_t n_tok;
        test_case("%s %s in pieces of %u, %u, ...: the same bits", dir, cuts[i].prompt,
                  cuts[i].piece[0], cuts[i].piece[1]);
        int32_t *ids = json_ids(prompt_of(manifest, cuts[i].prompt), &n_tok);
        if (!ids)
            return;
        double *whole = read_whole(m, ids, n_tok);
        double *split = read_split(m, ids, n_tok, cuts[i].piece, cuts[i].n, NULL);
        check_same_bits(split, whole, (uint64_t)n_tok * ref_model_config(m)->n_vocab);
        free(whole);
        free(split);
        free(ids);
    }
}

static void test_greedy(const char *dir, const struct ref_model *m, json_t *manifest)
{
    json_t *list = json_at(manifest, "tests/greedy");
    for (uint32_t i = 0; i < json_array_size(list); i++) {
        json_t *row = json_array_get(list, i);
        const char *prompt = json_str(row, "prompt");
        test_case("%s greedy %s", dir, prompt);
        check_greedy(m, prompt_of(manifest, prompt), json_at(row, "hf_ids"));
    }
}

static double nmse(const double *got, const double *want, uint64_t n)
{
    double error = 0, power = 0;
    for (uint64_t i = 0; i < n; i++) {
        error += (got[i] - want[i]) * (got[i] - want[i]);
        power += want[i] * want[i];
    }
    return error / power;
}

/* Every weight is a bf16 number, so a bf16 file is the same model. An f16 file is not quite: of
 * qwen35's 388608 weights in f16 11 lie below 2^-17, where f16 has fewer bits than bf16, of
 * nemotron_h's 284160 16, of step35's 470656 19. */
static void test_half(const struct family *f, const char *dir, const struct ref_model *m,
                      json_t *manifest)
{
    uint32_t n_tok;
    char file[32];

    snprintf(file, sizeof file, "model-%s.gguf", f->half);
    test_case("%s/%s: as f32", dir, file);
    struct ref_model *half = open_model(dir, file);
    int32_t *ids = json_ids(prompt_of(manifest, "p65"), &n_tok);
    if (half && ids) {
        uint64_t n = (uint64_t)n_tok * ref_model_config(m)->n_vocab;
        double *want = read_whole(m, ids, n_tok), *got = read_whole(half, ids, n_tok);
        if (f->half_diff == 0)
            check_same_bits(got, want, n);
        double d = nmse(got, want, n);
        CHECK_MSG(d <= f->half_diff * UNIT, "nmse %.3g, at most %.3g", d, f->half_diff * UNIT);
        check_file(got, n, f->p65 + f->half_diff, dir,
                   json_str(manifest, "tests/full_p65/logits/file"));
        free(want);
        free(got);
    }
    free(ids);
    ref_model_close(half);
}

/* A quantised file against the f32 graph on its dequantised weights. */
static void test_dequant(const char *dir, const struct ref_model *m, json_t *prompt,
                         const char *file, double bound)
{
    uint32_t n_tok;
    int32_t *ids = m ? json_ids(prompt, &n_tok) : NULL;
    if (!ids)
        return;
    double *logits = read_whole(m, ids, n_tok);
    check_file(logits, (uint64_t)n_tok * ref_model_config(m)->n_vocab, bound, dir, file);
    free(logits);
    free(ids);
}

static void test_k256(const struct family *f)
{
    char dir[32], path[64];
    uint32_t n_found = 0;
    const char *file;
    json_t *model;

    snprintf(dir, sizeof dir, "%s/k256", f->arch);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    test_case("%s: manifest", dir);
    json_t *manifest = fixture_json(path), *models = json_at(manifest, "models");
    json_object_foreach(models, file, model)
    {
        if (!fixture_has("%s/%s", dir, file))
            continue;
        n_found++;
        test_case("%s/%s: logits on dequantised weights", dir, file);
        struct ref_model *m = open_model(dir, file);
        test_dequant(dir, m, prompt_of(manifest, "p24"), json_str(model, "p24/dequant_logits/file"),
                     f->k256);
        test_case("%s/%s: greedy", dir, file);
        if (CHECK(m != NULL))
            check_greedy(m, prompt_of(manifest, json_str(model, "greedy/prompt")),
                         json_at(model, "greedy/dequant_ids"));
        ref_model_close(m);
    }
    test_case("%s: number of files", dir);
    CHECK_MSG(n_found >= f->min_k256, "%u files of the manifest are there, %u wanted", n_found,
              f->min_k256);
    json_decref(manifest);
}

static void test_base(const struct family *f)
{
    char dir[32], path[64];

    snprintf(dir, sizeof dir, "%s/base", f->arch);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    test_case("%s: manifest and model-f32.gguf", dir);
    json_t *manifest = fixture_json(path);
    struct ref_model *m = open_model(dir, "model-f32.gguf");
    if (manifest && m) {
        test_full(f, dir, m, manifest, "p7", f->p7);
        test_full(f, dir, m, manifest, "p65", f->p65);
        test_full(f, dir, m, manifest, "p300", f->p300);
        test_decode(f, dir, m, manifest);
        test_splits(dir, m, manifest);
        test_greedy(dir, m, manifest);
        test_half(f, dir, m, manifest);
        test_case("%s/model-q8_0.gguf: logits on dequantised weights", dir);
        struct ref_model *q8 = open_model(dir, "model-q8_0.gguf");
        test_dequant(dir, q8, prompt_of(manifest, "p24"),
                     json_str(manifest, "tests/q8_0_p24/dequant_logits/file"), f->q8_0);
        ref_model_close(q8);
    }
    ref_model_close(m);
    json_decref(manifest);
}

/* ---- what the fixtures do not have ------------------------------------------------------ */

/* The old layout of qwen3next: one tensor ssm_in for q, k, v and z of a K head. */
static void test_ssm_in(const char *file)
{
    static const int32_t ids[7] = { 47, 92, 275, 82, 294, 304, 252 };
    struct hlm_err err = { 0 };
    uint64_t n_bytes = 0;

    test_case("qwen3next/%s: the ssm_in layout gives the same bits", file);
    struct ref_model *m = open_model("qwen3next", file);
    struct gguf_build *b = ssm_in_build(fixture("qwen3next/%s", file), &err);
    uint8_t *bytes = b ? gb_bytes(b, &n_bytes) : NULL;
    struct gguf *old = bytes ? gguf_parse(bytes, n_bytes, "ssm_in", &err) : NULL;
    struct ref_model *m_old = old ? ref_model_open(old, &err) : NULL;
    if (m && CHECK_MSG(m_old != NULL, "%s", err.msg)) {
        CHECK(gguf_tensor(old, "blk.0.ssm_in.weight") != NULL);
        CHECK(gguf_tensor(old, "blk.0.attn_qkv.weight") == NULL);
        double *want = read_whole(m, ids, 7), *got = read_whole(m_old, ids, 7);
        check_same_bits(got, want, 7 * (uint64_t)ref_model_config(m)->n_vocab);
        free(want);
        free(got);
    }
    ref_model_close(m);
    ref_model_close(m_old);
    gguf_close(old);
    free(bytes);
    gb_free(b);
}

/* nemotron_h files as others write them: those that are the same model give the same bits, the
 * others something else. (What that is has its cases in test_ref_ops.c.) */
static void test_variant(enum variant v, const char *arch)
{
    static const int32_t ids[7] = { 47, 92, 275, 82, 294, 304, 252 };
    char dir[32];
    struct hlm_err err = { 0 };
    uint64_t n_bytes = 0;

    snprintf(dir, sizeof dir, "%s/base", arch);
    test_case("%s: %s", arch, variant_name(v));
    struct ref_model *m = open_model(dir, "model-f32.gguf");
    struct gguf_build *b = variant_build(fixture("%s/model-f32.gguf", dir), v, &err);
    uint8_t *bytes = b ? gb_bytes(b, &n_bytes) : NULL;
    struct gguf *g = bytes ? gguf_parse(bytes, n_bytes, "variant", &err) : NULL;
    struct ref_model *other = g ? ref_model_open(g, &err) : NULL;
    if (m && CHECK_MSG(other != NULL, "%s", err.msg)) {
        uint64_t n = 7 * (uint64_t)ref_model_config(m)->n_vocab;
        double *want = read_whole(m, ids, 7), *got = read_whole(other, ids, 7);
        if (v < VARIANT_BIASES)
            check_same_bits(got, want, n);
        else
            CHECK(nmse(got, want, n) > 1e-3);
        free(want);
        free(got);
    }
    ref_model_close(m);
    ref_model_close(other);
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

/* With all biases but those of one name, a file is another model: each of them counts. */
static void test_each_bias(void)
{
    static const char *const part[] = { "attn_q",   "attn_k", "attn_v", "attn_output",
                                        "ffn_down", "ffn_up", "ssm_in" };
    static const int32_t ids[3] = { 47, 92, 275 };
    double *want = NULL;
    char name[64];

    test_case("nemotron_h: every bias counts");
    for (uint32_t i = 0; i <= ARRAY_LEN(part); i++) { /* first with all of them */
        const char *without = i ? part[i - 1] : NULL;
        struct hlm_err err = { 0 };
        uint64_t n_bytes = 0;
        struct gguf_build *b =
            variant_build(fixture("nemotron_h/base/model-f32.gguf"), VARIANT_BIASES, &err);
        bool found = !without;
        for (uint32_t k = 0; b && without && k < 6; k++) {
            snprintf(name, sizeof name, "blk.%u.%s.bias", k, without);
            found |= gb_drop_tensor(b, name);
        }
        CHECK_MSG(found, "no %s.bias", without ? without : "");
        uint8_t *bytes = b ? gb_bytes(b, &n_bytes) : NULL;
        struct gguf *g = bytes ? gguf_parse(bytes, n_bytes, "biases", &err) : NULL;
        struct ref_model *m = g ? ref_model_open(g, &err) : NULL;
        if (CHECK_MSG(m != NULL, "%s", err.msg)) {
            uint64_t n = 3 * (uint64_t)ref_model_config(m)->n_vocab;
            double *got = read_whole(m, ids, 3);
            if (!without)
                want = got;
            else
                CHECK_MSG(want && memcmp(got, want, n * sizeof *got), "%s.bias changes nothing",
                          without);
            if (got != want)
                free(got);
        }
        ref_model_close(m);
        gguf_close(g);
        free(bytes);
        gb_free(b);
    }
    free(want);
}

static void test_refusals(void)
{
    int32_t ids[2] = { 0, 0 };

    test_case("ids outside the vocabulary are refused and nothing is read");
    struct ref_model *m = open_model("qwen35/base", "model-f32.gguf");
    if (!m)
        return;
    struct ref_state *s = ref_state_create(m);
    ids[1] = -1;
    CHECK(!ref_forward(m, s, ids, 2, NULL, NULL));
    ids[1] = (int32_t)ref_model_config(m)->n_vocab;
    CHECK(!ref_forward(m, s, ids, 2, NULL, NULL));
    CHECK_EQ(ref_state_pos(s), 0);
    ref_state_destroy(s);
    ref_model_close(m);
}

void test_ref(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(families); i++) {
        test_base(&families[i]);
        test_k256(&families[i]);
    }
    test_ssm_in("base/model-f32.gguf");
    test_ssm_in("base/model-q8_0.gguf");
    for (enum variant v = 0; v < VARIANT_COUNT; v++)
        for (uint32_t i = 0; i < ARRAY_LEN(families); i++)
            if (variant_fits(v, families[i].arch))
                test_variant(v, families[i].arch);
    test_each_bias();
    test_refusals();
}
