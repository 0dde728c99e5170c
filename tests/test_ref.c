/* test_ref: the reference compared with the fixtures, and with itself. No GPU.
 *
 * These tests make ref.h fit to judge kernels by. It reproduces Hugging Face's logits, hidden
 * states, cached decode and greedy text within the float32 noise of those; quantised files match
 * the same graph on their dequantised weights; a sequence gives the same bits however it is cut.
 * Single operations are tested in test_ref_ops.c.
 *
 * The fixtures needed of each of the six architectures: base/manifest.json with its .bin files,
 * model-f32, model-q8_0 and the file of 16 bits; k256/manifest.json and at least one or two models.
 * Files that only the full set has (--fixtures) are tested when they are there. */
#include "json.h"
#include "ref/ref_parts.h"
#include "ssm_in.h"
#include "variant.h"

#include <math.h>
#include <stdio.h>

/* Bounds on the NMSE of the fixtures' float32 results against this reference, in units of 1e-13.
 * The noise is theirs, not ours: the fixtures' README has the same figures for exact arithmetic.
 * Each measured value is that of the worst file. */
static const struct family_bounds {
    const char *arch;
    const char *half;                           /* type of the file whose weights take 16 bits */
    struct bound p7, p65, p300, decode, hidden; /* f32 file */
    struct bound q8_0, k256;                    /* quantised files, on dequantised weights */
    struct bound half_diff;                     /* the file of 16 bits against the f32 file, p65 */
    bool half_is_same;                          /* it gives the same bits */
    uint32_t min_k256; /* files of superblocks (k256/) that must be there */
} families[] = {
    { .arch = "qwen35",
      .half = "f16",
      .p7 = { .most = 6.0, .measured = 5.37 },
      .hidden = { .most = 5.0, .measured = 4.45 },
      .p65 = { .most = 50, .measured = 44.7 },
      .p300 = { .most = 45, .measured = 39.6 },
      .decode = { .most = 12, .measured = 10.5 },
      .q8_0 = { .most = 23, .measured = 19.9 },
      .k256 = { .most = 1.2, .measured = 1.01 },
      .half_diff = { .most = 1e-2, .measured = 1.68e-3 },
      .min_k256 = 2 },
    { .arch = "qwen35moe",
      .half = "bf16",
      .p7 = { .most = 2.1, .measured = 1.85 },
      .hidden = { .most = 1.0, .measured = 0.89 },
      .p65 = { .most = 3.6, .measured = 3.20 },
      .p300 = { .most = 5.0, .measured = 4.49 },
      .decode = { .most = 2.5, .measured = 2.16 },
      .q8_0 = { .most = 1.7, .measured = 1.48 },
      .k256 = { .most = 0.7, .measured = 0.59 },
      .half_is_same = true,
      .min_k256 = 2 },
    { .arch = "qwen3next",
      .half = "bf16",
      .p7 = { .most = 1.7, .measured = 1.49 },
      .hidden = { .most = 0.9, .measured = 0.76 },
      .p65 = { .most = 8.0, .measured = 6.91 },
      .p300 = { .most = 5.0, .measured = 4.44 },
      .decode = { .most = 1.6, .measured = 1.42 },
      .q8_0 = { .most = 1.6, .measured = 1.44 },
      .k256 = { .most = 0.6, .measured = 0.51 },
      .half_is_same = true,
      .min_k256 = 2 },
    { .arch = "nemotron_h",
      .half = "f16",
      .p7 = { .most = 1.6, .measured = 1.39 },
      .hidden = { .most = 0.85, .measured = 0.74 },
      .p65 = { .most = 2.5, .measured = 2.23 },
      .p300 = { .most = 2.4, .measured = 2.07 },
      .decode = { .most = 1.2, .measured = 0.982 },
      .q8_0 = { .most = 1.1, .measured = 0.930 },
      .k256 = { .most = 0.55, .measured = 0.463 },
      .half_diff = { .most = 1e-3, .measured = 2.5e-4 },
      .min_k256 = 1 },
    { .arch = "nemotron_h_moe",
      .half = "bf16",
      .p7 = { .most = 1.2, .measured = 1.07 },
      .hidden = { .most = 0.6, .measured = 0.51 },
      .p65 = { .most = 1.5, .measured = 1.29 },
      .p300 = { .most = 1.9, .measured = 1.65 },
      .decode = { .most = 0.72, .measured = 0.621 },
      .q8_0 = { .most = 0.75, .measured = 0.643 },
      .k256 = { .most = 0.55, .measured = 0.467 },
      .half_is_same = true,
      .min_k256 = 1 },
    { .arch = "step35",
      .half = "f16",
      .p7 = { .most = 0.8, .measured = 0.69 },
      .hidden = { .most = 0.26, .measured = 0.22 },
      .p65 = { .most = 1.6, .measured = 1.35 },
      .p300 = { .most = 2.0, .measured = 1.73 },
      .decode = { .most = 0.7, .measured = 0.591 },
      .q8_0 = { .most = 0.66, .measured = 0.566 },
      .k256 = { .most = 0.6, .measured = 0.520 },
      .half_diff = { .most = 1e-3, .measured = 1.6e-4 },
      .min_k256 = 1 },
};
#define UNIT 1e-13
/* the largest difference of any value; in the last three families 1.0e-5 */
static const struct bound max_abs = { .most = 1.2e-4, .measured = 9.3e-5 };

/* ---- helpers ---------------------------------------------------------------------------- */

static struct ref_model *ref_open(const char *dir, const char *file)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(fixture("%s/%s", dir, file), &err);
    struct ref_model *m = g ? ref_model_open(g, &err) : NULL;
    gguf_close(g);
    if (!m)
        FAIL("%s", err.msg);
    return m;
}

static struct bound in_units(struct bound b)
{
    return (struct bound){ .most = b.most * UNIT, .measured = b.measured * UNIT };
}

/* Reads ids from an empty state, in calls of the sizes listed and one of the rest. Returns
 * [n_tok, n_vocab]. */
static double *ref_read_split(const struct ref_model *m, const int32_t *ids, uint32_t n_tok,
                              const uint32_t *piece, uint32_t n_piece, double *hidden)
{
    uint64_t n_vocab = ref_model_config(m)->n_vocab;
    double *logits = ref_doubles(n_tok * n_vocab);
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
    return ref_read_split(m, ids, n_tok, NULL, 0, NULL);
}

/* Compares got with a float32 file of exactly n values. (The file is the float side of diff_f64,
 * which gives the same NMSE.) */
static void ref_check_file(const double *got, uint64_t n, struct bound bound, const char *dir,
                           const char *file)
{
    uint64_t n_bytes;
    float *want = fixture_read(&n_bytes, "%s/%s", dir, file);
    if (want && CHECK_EQ(n_bytes, n * sizeof *want)) {
        struct diff d = diff_f64(want, got, n);
        CHECK_WITHIN(file, d.nmse, in_units(bound));
        CHECK_MSG(d.max_abs <= max_abs.most, "%s/%s: value %llu is %.3g off", dir, file,
                  (unsigned long long)d.at, d.max_abs);
    }
    free(want);
}

static void ref_same_bits(const double *got, const double *want, uint64_t n)
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

/* The greedy continuation of a prompt must be `want`. No token is masked, none ends it. */
static void ref_check_greedy(const struct ref_model *m, json_t *prompt, json_t *want)
{
    uint32_t n_prompt, n_want, n_vocab = ref_model_config(m)->n_vocab;
    int32_t *ids = json_ids(prompt, &n_prompt), *expect = json_ids(want, &n_want);
    if (ids && expect) {
        double *logits = ref_doubles((uint64_t)n_prompt * n_vocab);
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
static void ref_full(const struct family_bounds *f, const char *dir, const struct ref_model *m,
                     json_t *manifest, const char *prompt, struct bound bound)
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
    double *hidden = ref_doubles(n_hidden),
           *logits = ref_read_split(m, ids, n_tok, NULL, 0, hidden);
    ref_check_file(logits, (uint64_t)n_tok * c->n_vocab, bound, dir, json_str(test, "logits/file"));
    if (json_at(test, "hidden")) {
        test_case("%s %s: hidden states", dir, prompt);
        ref_check_file(hidden, n_hidden, f->hidden, dir, json_str(test, "hidden/file"));
    }
    free(hidden);
    free(logits);
    free(ids);
}

static void ref_decode(const struct family_bounds *f, const char *dir, const struct ref_model *m,
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
        double *logits = ref_read_split(m, ids, n_tok, piece, ARRAY_LEN(piece), NULL);
        ref_check_file(logits + (uint64_t)(prefill - 1) * n_vocab,
                       (uint64_t)(n_tok - prefill + 1) * n_vocab, f->decode, dir,
                       json_str(manifest, "tests/decode/logits/file"));
        free(logits);
    }
    free(ids);
}

static void ref_splits(const char *dir, const struct ref_model *m, json_t *manifest)
{
    static const struct {
        const char *prompt;
        uint32_t n, piece[8];
    } cuts[] = {
        { "p300", 4, { 64, 100, 1, 135 } },       /* as the fixtures cut it */
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
        double *split = ref_read_split(m, ids, n_tok, cuts[i].piece, cuts[i].n, NULL);
        ref_same_bits(split, whole, (uint64_t)n_tok * ref_model_config(m)->n_vocab);
        free(whole);
        free(split);
        free(ids);
    }
}

static void ref_greedy(const char *dir, const struct ref_model *m, json_t *manifest)
{
    json_t *list = json_at(manifest, "tests/greedy");
    for (uint32_t i = 0; i < json_array_size(list); i++) {
        json_t *row = json_array_get(list, i);
        const char *prompt = json_str(row, "prompt");
        test_case("%s greedy %s", dir, prompt);
        ref_check_greedy(m, prompt_of(manifest, prompt), json_at(row, "hf_ids"));
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

/* Every weight is a bf16 number, so a bf16 file is the same model. An f16 file almost is: below
 * 2^-17 f16 has fewer bits than bf16, and 11 of the 388608 f16 weights of qwen35 lie there, 16 of
 * the 284160 of nemotron_h, 19 of the 470656 of step35. */
static void ref_half(const struct family_bounds *f, const char *dir, const struct ref_model *m,
                     json_t *manifest)
{
    uint32_t n_tok;
    char file[32];

    snprintf(file, sizeof file, "model-%s.gguf", f->half);
    test_case("%s/%s: as f32", dir, file);
    struct ref_model *half = ref_open(dir, file);
    int32_t *ids = json_ids(prompt_of(manifest, "p65"), &n_tok);
    if (half && ids) {
        uint64_t n = (uint64_t)n_tok * ref_model_config(m)->n_vocab;
        double *want = read_whole(m, ids, n_tok), *got = read_whole(half, ids, n_tok);
        if (f->half_is_same)
            ref_same_bits(got, want, n);
        else
            CHECK_WITHIN("f32 file", nmse(got, want, n), in_units(f->half_diff));
        struct bound bound = f->p65;
        bound.most += f->half_diff.most;
        ref_check_file(got, n, bound, dir, json_str(manifest, "tests/full_p65/logits/file"));
        free(want);
        free(got);
    }
    free(ids);
    ref_model_close(half);
}

/* Compares a quantised file with the f32 graph on its dequantised weights. */
static void test_dequant(const char *dir, const struct ref_model *m, json_t *prompt,
                         const char *file, struct bound bound)
{
    uint32_t n_tok;
    int32_t *ids = m ? json_ids(prompt, &n_tok) : NULL;
    if (!ids)
        return;
    double *logits = read_whole(m, ids, n_tok);
    ref_check_file(logits, (uint64_t)n_tok * ref_model_config(m)->n_vocab, bound, dir, file);
    free(logits);
    free(ids);
}

static void ref_k256(const struct family_bounds *f)
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
        struct ref_model *m = ref_open(dir, file);
        test_dequant(dir, m, prompt_of(manifest, "p24"), json_str(model, "p24/dequant_logits/file"),
                     f->k256);
        test_case("%s/%s: greedy", dir, file);
        if (CHECK(m != NULL))
            ref_check_greedy(m, prompt_of(manifest, json_str(model, "greedy/prompt")),
                             json_at(model, "greedy/dequant_ids"));
        ref_model_close(m);
    }
    test_case("%s: number of files", dir);
    CHECK_MSG(n_found >= f->min_k256, "%u files of the manifest are there, %u wanted", n_found,
              f->min_k256);
    json_decref(manifest);
}

static void ref_base(const struct family_bounds *f)
{
    char dir[32], path[64];

    snprintf(dir, sizeof dir, "%s/base", f->arch);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    test_case("%s: manifest and model-f32.gguf", dir);
    json_t *manifest = fixture_json(path);
    struct ref_model *m = ref_open(dir, "model-f32.gguf");
    if (manifest && m) {
        ref_full(f, dir, m, manifest, "p7", f->p7);
        ref_full(f, dir, m, manifest, "p65", f->p65);
        ref_full(f, dir, m, manifest, "p300", f->p300);
        ref_decode(f, dir, m, manifest);
        ref_splits(dir, m, manifest);
        ref_greedy(dir, m, manifest);
        ref_half(f, dir, m, manifest);
        test_case("%s/model-q8_0.gguf: logits on dequantised weights", dir);
        struct ref_model *q8 = ref_open(dir, "model-q8_0.gguf");
        test_dequant(dir, q8, prompt_of(manifest, "p24"),
                     json_str(manifest, "tests/q8_0_p24/dequant_logits/file"), f->q8_0);
        ref_model_close(q8);
    }
    ref_model_close(m);
    json_decref(manifest);
}

/* ---- what the fixtures do not have ------------------------------------------------------ */

/* The old layout of qwen3next, with one tensor ssm_in for q, k, v and z of a K head. */
static void ref_ssm_in(const char *file)
{
    static const int32_t ids[7] = { 47, 92, 275, 82, 294, 304, 252 };
    struct hlm_err err = { 0 };
    uint64_t n_bytes = 0;

    test_case("qwen3next/%s: the ssm_in layout gives the same bits", file);
    struct ref_model *m = ref_open("qwen3next", file);
    struct gguf_build *b = ssm_in_build(fixture("qwen3next/%s", file), &err);
    uint8_t *bytes = b ? gb_bytes(b, &n_bytes) : NULL;
    struct gguf *old = bytes ? gguf_parse(bytes, n_bytes, "ssm_in", &err) : NULL;
    struct ref_model *m_old = old ? ref_model_open(old, &err) : NULL;
    if (m && CHECK_MSG(m_old != NULL, "%s", err.msg)) {
        CHECK(gguf_tensor(old, "blk.0.ssm_in.weight") != NULL);
        CHECK(gguf_tensor(old, "blk.0.attn_qkv.weight") == NULL);
        double *want = read_whole(m, ids, 7), *got = read_whole(m_old, ids, 7);
        ref_same_bits(got, want, 7 * (uint64_t)ref_model_config(m)->n_vocab);
        free(want);
        free(got);
    }
    ref_model_close(m);
    ref_model_close(m_old);
    gguf_close(old);
    free(bytes);
    gb_free(b);
}

/* Nemotron-H files as other programs write them. A variant that is the same model gives the same
 * bits, any other something else (test_ref_ops.c tests what). */
static void test_variant(enum variant v, const char *arch)
{
    static const int32_t ids[7] = { 47, 92, 275, 82, 294, 304, 252 };
    char dir[32];
    struct hlm_err err = { 0 };
    uint64_t n_bytes = 0;

    snprintf(dir, sizeof dir, "%s/base", arch);
    test_case("%s: %s", arch, variant_name(v));
    struct ref_model *m = ref_open(dir, "model-f32.gguf");
    struct gguf_build *b = variant_build(fixture("%s/model-f32.gguf", dir), v, &err);
    uint8_t *bytes = b ? gb_bytes(b, &n_bytes) : NULL;
    struct gguf *g = bytes ? gguf_parse(bytes, n_bytes, "variant", &err) : NULL;
    struct ref_model *other = g ? ref_model_open(g, &err) : NULL;
    if (m && CHECK_MSG(other != NULL, "%s", err.msg)) {
        uint64_t n = 7 * (uint64_t)ref_model_config(m)->n_vocab;
        double *want = read_whole(m, ids, 7), *got = read_whole(other, ids, 7);
        if (v < VARIANT_BIASES)
            ref_same_bits(got, want, n);
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

/* A file without the biases of one name is another model, so each bias counts. */
static void test_each_bias(void)
{
    static const char *const part[] = { "attn_q",   "attn_k", "attn_v", "attn_output",
                                        "ffn_down", "ffn_up", "ssm_in" };
    static const int32_t ids[3] = { 47, 92, 275 };
    double *want = NULL;
    char name[64];

    test_case("nemotron_h: every bias counts");
    for (uint32_t i = 0; i <= ARRAY_LEN(part); i++) { /* i == 0: with all of them */
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

static void ref_refusals(void)
{
    int32_t ids[2] = { 0, 0 };

    test_case("ids outside the vocabulary are refused and nothing is read");
    struct ref_model *m = ref_open("qwen35/base", "model-f32.gguf");
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
        ref_base(&families[i]);
        ref_k256(&families[i]);
    }
    ref_ssm_in("base/model-f32.gguf");
    ref_ssm_in("base/model-q8_0.gguf");
    for (enum variant v = 0; v < VARIANT_COUNT; v++)
        for (uint32_t i = 0; i < ARRAY_LEN(families); i++)
            if (variant_fits(v, families[i].arch))
                test_variant(v, families[i].arch);
    test_each_bias();
    ref_refusals();
}
