/* test_types: one whole model for each tensor type that needs rows of 64 or more - a fixture whose
 * matrices are replaced by random blocks of the type - compared with the double-precision run of
 * ref.h; and NVFP4's scales.
 *
 * The prompt is short, but each model uses every matrix kernel that lavapipe takes: nine tokens at
 * once (many tokens, experts grouped), then one (few tokens, experts apart). test_dtype.c tests
 * what blocks mean, test_ops_linear.c other shapes. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define BASE "qwen35moe/k256/model-q4_k_m.gguf"
enum { N_TOK = 10, N_FIRST = 9 };

/* NMSE of the logits, against the reference; measured with IQ2_XS. */
static const struct bound logits_off = { .most = 3e-12, .measured = 1.7e-12 };

static const enum dtype types[] = { Q2_K,    Q3_K,  IQ4_XS, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S,
                                    IQ3_XXS, IQ3_S, TQ1_0,  TQ2_0, NVFP4, Q1_0,    Q2_0 };

/* Scales of NVFP4 matrices; one for each expert where n is 4. */
static const struct sidecar {
    const char *of;
    uint32_t n;
    float v[4];
} sidecars[] = {
    { "output", 1, { 1.7f } },
    { "blk.0.attn_qkv", 1, { 0.3f } },
    { "blk.0.ffn_gate_exps", 4, { 0.5f, -1.3f, 2, 0.9f } },
    { "blk.1.ffn_up_exps", 1, { 1.1f } },
};

static const struct sidecar *sidecar_of(const char *name)
{
    for (uint32_t i = 0; i < ARRAY_LEN(sidecars); i++) {
        size_t n = strlen(sidecars[i].of);
        if (!strncmp(name, sidecars[i].of, n) && !strcmp(name + n, ".weight"))
            return &sidecars[i];
    }
    return NULL;
}

/* May this matrix have the type? */
static bool may_have_type(const struct gguf_tensor *t, enum dtype type)
{
    return t->n_dim > 1 && t->type != F32 && t->dim[0] % dtype_info(type)->block_len == 0;
}

/* Builds the fixture with random blocks of the type wherever they fit, and the same with their
 * values as F32, times their scales. Returns the number of such matrices. */
static uint32_t types_build(const struct gguf *base, enum dtype type, struct gguf_build *b,
                            struct gguf_build *plain)
{
    const struct dtype_info *info = dtype_info(type);
    struct rng rng = { OPS_SEED };
    uint32_t n = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(base); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(base, i);
        const struct sidecar *s = type == NVFP4 ? sidecar_of(t->name) : NULL;
        if (!may_have_type(t, type))
            continue;
        uint64_t n_block = t->n_elem / info->block_len, each = t->dim[0] * t->dim[1];
        uint8_t *block = mem_alloc(n_block, info->block_bytes);
        float *v = mem_alloc(t->n_elem, sizeof *v);
        HLM_ASSERT(block && v);
        for (uint64_t k = 0; k < n_block; k++)
            random_block(&rng, type, 1 / sqrt((double)t->dim[0]), false,
                         block + k * info->block_bytes);
        dtype_to_f32(type, block, t->n_elem, v);
        for (uint64_t k = 0; s && k < t->n_elem; k++)
            v[k] *= s->v[s->n > 1 ? k / each : 0];
        gb_tensor(b, t->name, type, t->n_dim, t->dim, block);
        gb_tensor(plain, t->name, F32, t->n_dim, t->dim, v);
        free(block);
        free(v);
        n++;
    }
    return n;
}

static void add_sidecars(struct gguf_build *b)
{
    char name[64];
    for (uint32_t i = 0; i < ARRAY_LEN(sidecars); i++) {
        const struct sidecar *s = &sidecars[i];
        snprintf(name, sizeof name, "%s.scale", s->of);
        gb_tensor(b, name, F32, 1, (const uint64_t[]){ s->n }, s->v);
        snprintf(name, sizeof name, "%s.input_scale", s->of);
        gb_tensor(b, name, F32, 1, (const uint64_t[]){ 1 }, &(float){ 3 });
    }
}

/* ---- whole models ----------------------------------------------------------------------- */

static void note_warning(void *user, enum hlm_log_level level, const char *msg)
{
    if (level == HLM_LOG_WARN)
        snprintf(user, 256, "%s", msg);
}

static void run_engine(const char *path, const int32_t *id, float *logits, uint32_t n_vocab)
{
    struct hlm_err err = { 0 };
    char warning[256] = "";
    test_log(note_warning, warning);
    hlm *m = hlm_test_open(path);
    test_log(NULL, NULL);
    CHECK_MSG(!warning[0], "a warning: %s", warning);
    if (!m)
        return;
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){
               .n_ctx = N_TOK, .n_batch = N_FIRST, .kv = HLM_KV_F32, .keep_logits = true });
    if (s) {
        CHECK_OK(hlm_session_eval(s, id, N_FIRST, logits, NULL, &err), err);
        CHECK_OK(hlm_session_eval(s, id + N_FIRST, N_TOK - N_FIRST, logits + N_FIRST * n_vocab,
                                  NULL, &err),
                 err);
    }
    hlm_session_destroy(s);
    hlm_test_close(m);
}

static void test_type(const struct gguf *base, enum dtype type)
{
    struct hlm_err err = { 0 };
    char path[128], plain_path[128];
    int32_t id[N_TOK];
    snprintf(path, sizeof path, "%s/type.gguf", test_tmp());
    snprintf(plain_path, sizeof plain_path, "%s/plain.gguf", test_tmp());
    test_case("a model of %s: logits on dequantised weights", dtype_info(type)->name);
    struct gguf_build *b = gb_from(gguf_path(base), &err), *plain = gb_from(gguf_path(base), &err);
    if (!CHECK_OK(b && plain, err))
        return;
    CHECK(types_build(base, type, b, plain) >= 10);
    if (type == NVFP4)
        add_sidecars(b);
    CHECK_OK(gb_write(b, path, &err) && gb_write(plain, plain_path, &err), err);
    struct gguf *g = gguf_open(plain_path, &err);
    struct ref_model *ref = g ? ref_model_open(g, &err) : NULL;
    if (CHECK_OK(ref != NULL, err)) {
        uint32_t n_vocab = ref_model_config(ref)->n_vocab;
        float *got = mem_alloc(N_TOK * n_vocab, sizeof *got);
        double *want = mem_alloc(N_TOK * n_vocab, sizeof *want);
        struct ref_state *s = ref_state_create(ref);
        for (uint32_t i = 0; i < N_TOK; i++)
            id[i] = (int32_t)((i * 37 + 11) % n_vocab);
        HLM_ASSERT(got && want);
        run_engine(path, id, got, n_vocab);
        CHECK(ref_forward(ref, s, id, N_TOK, want, NULL));
        struct diff d = diff_f64(got, want, (uint64_t)N_TOK * n_vocab);
        CHECK_WITHIN("nmse", d.nmse, logits_off);
        ref_state_destroy(s);
        free(got);
        free(want);
    }
    ref_model_close(ref);
    gguf_close(g);
    gb_free(b);
    gb_free(plain);
}

/* ---- refusals --------------------------------------------------------------------------- */

/* A scale that is refused, and the parts of the refusal. */
static void test_sidecar(const struct gguf *base, enum dtype beside, enum dtype type, uint64_t n,
                         float v, const char *says)
{
    struct hlm_err err = { 0 };
    char path[128];
    float values[4] = { 1, v, 1, 1 };
    const struct gguf_tensor *t = gguf_tensor(base, "blk.1.ffn_up_exps.weight");
    snprintf(path, sizeof path, "%s/sidecar.gguf", test_tmp());
    test_case("a scale refused: %s", says);
    struct gguf_build *b = gb_from(gguf_path(base), &err);
    if (!CHECK_OK(b && t, err))
        return;
    if (beside == NVFP4)
        gb_tensor(b, t->name, NVFP4, t->n_dim, t->dim, NULL);
    gb_tensor(b, "blk.1.ffn_up_exps.scale", type, 1, &n, type == F32 ? values : NULL);
    CHECK_OK(gb_write(b, path, &err), err);
    CHECK_REFUSED(hlm_test_try(path, &err), err, path);
    CHECK_SAYS(err.msg, says);
    gb_free(b);
}

void test_types(void)
{
    struct hlm_err err = { 0 };
    test_case("a device");
    if (!test_gpu())
        return;
    struct gguf *base = gguf_open(fixture(BASE), &err);
    if (!CHECK_OK(base != NULL, err))
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(types); i++)
        test_type(base, types[i]);
#define SCALE "blk.1.ffn_up_exps.scale"
#define MATRIX "blk.1.ffn_up_exps.weight"
    test_sidecar(base, Q4_K, F32, 1, 1, SCALE "|" MATRIX "|Q4_K|NVFP4");
    test_sidecar(base, NVFP4, F32, 3, 1, SCALE "|F32|3|" MATRIX "|F32|1");
    test_sidecar(base, NVFP4, F16, 4, 1, SCALE "|F16|4|" MATRIX "|F32|1");
    test_sidecar(base, NVFP4, F32, 4, INFINITY, SCALE "[1]|inf|" MATRIX "|finite");
#undef SCALE
#undef MATRIX
    gguf_close(base);
}
