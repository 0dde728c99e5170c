/* test_variants: models that no fixture has, compared with the double-precision run of ref.h on the
 * same file: the variants of Nemotron-H (variant.h: biases, a latent width for the experts, groups
 * of experts, keys that are missing or are lists), and some of Step-3.5. */
#include "hlm_test.h"
#include "ref/ref.h"
#include "variant.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_TOK = 40, N_CTX = 64 };

static void plain_rope(struct gguf_build *b, struct rng *r)
{
    (void)r;
    CHECK(gb_drop_tensor(b, "rope_freqs.weight"));
    CHECK(gb_drop_key(b, "step35.swiglu_clamp_exp"));
    CHECK(gb_drop_key(b, "step35.expert_gating_func"));
    gb_bool(b, "step35.expert_weights_norm", false);
}

/* Gate and up experts of two types stay two matrices. */
static void mixed_experts(struct gguf_build *b, struct rng *r)
{
    uint16_t half[64 * 32 * 6];
    for (uint32_t i = 0; i < ARRAY_LEN(half); i++)
        half[i] = f32_to_f16((float)(rng_normal(r) * 0.2));
    gb_tensor(b, "blk.2.ffn_gate_exps.weight", F16, 3, (const uint64_t[]){ 64, 32, 6 }, half);
}

/* How the reference must have the V heads. */
enum v_order { NO_ORDER, ORDER_GROUPED, ORDER_TILED };

/* NMSE of the logits, against the reference; that of Qwen is larger. */
static const struct bound logits_off = { .most = 2e-13, .measured = 1.2e-13 };
static const struct bound order_off = { .most = 1.2e-12, .measured = 7.9e-13 };

static void variant_compare(hlm *m, enum v_order order)
{
    struct hlm_err err = { 0 };
    struct rng r = { 7 };
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    int32_t id[N_TOK];
    for (uint32_t i = 0; i < N_TOK; i++)
        id[i] = (int32_t)(rng_u64(&r) % n_vocab);
    float *got = mem_alloc((uint64_t)N_TOK * n_vocab, sizeof *got);
    double *want = mem_alloc((uint64_t)N_TOK * n_vocab, sizeof *want);
    struct ref_model *ref = ref_model_open(hlm_test_file(m), &err);
    struct ref_state *state = ref ? ref_state_create(ref) : NULL;
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){ .n_ctx = N_CTX, .kv = HLM_KV_F32, .keep_logits = true });
    HLM_ASSERT(got && want);
    CHECK(!ref || !order || ref_model_config(ref)->tiled == (order == ORDER_TILED));
    if (CHECK_OK(state != NULL, err) && s &&
        CHECK(ref_forward(ref, state, id, N_TOK, want, NULL)) &&
        CHECK_OK(hlm_session_eval(s, id, N_TOK - 4, got, NULL, &err), err)) {
        for (uint32_t i = N_TOK - 4; i < N_TOK; i++)
            CHECK_OK(hlm_session_eval(s, id + i, 1, got + (uint64_t)i * n_vocab, NULL, &err), err);
        struct diff d = diff_f64(got, want, (uint64_t)N_TOK * n_vocab);
        CHECK_WITHIN("nmse", d.nmse, order ? order_off : logits_off);
    }
    hlm_session_destroy(s);
    ref_state_destroy(state);
    ref_model_close(ref);
    free(got);
    free(want);
}

static void variant_run(struct gguf_build *b, const struct hlm_err *why, enum v_order order)
{
    char path[128];
    struct hlm_err err = { 0 };
    snprintf(path, sizeof path, "%s/variant.gguf", test_tmp());
    if (!CHECK_OK(b != NULL, *why))
        return;
    hlm *m = CHECK_OK(gb_write(b, path, &err), err) ? hlm_test_open(path) : NULL;
    if (m)
        variant_compare(m, order);
    hlm_test_close(m);
    gb_free(b);
}

/* The order of V heads that a file asks for, whatever its architecture has. A file with another
 * order is another model, so that one of two programs that overlooks the key differs. */
static void test_head_order(void)
{
    static const struct {
        const char *arch;
        bool tiled;
    } rows[] = { { "qwen35", false }, { "qwen3next", true } };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct hlm_err err = { 0 };
        char key[64];
        test_case("%s: its V heads are %s", rows[i].arch, rows[i].tiled ? "tiled" : "grouped");
        struct gguf_build *b = gb_from(fixture("%s/base/model-f32.gguf", rows[i].arch), &err);
        snprintf(key, sizeof key, "%s.ssm.v_head_reordered", rows[i].arch);
        if (b)
            gb_bool(b, key, rows[i].tiled);
        variant_run(b, &err, rows[i].tiled ? ORDER_TILED : ORDER_GROUPED);
    }
}

void test_variants(void)
{
    static const char *const archs[] = { "nemotron_h", "nemotron_h_moe" };
    static const struct {
        const char *what;
        void (*edit)(struct gguf_build *, struct rng *);
    } step[] = {
        { "no frequency factors, no limits", plain_rope },
        { "experts of two types", mixed_experts },
    };
    test_case("a device");
    if (!test_gpu())
        return;
    test_head_order();
    for (uint32_t a = 0; a < ARRAY_LEN(archs); a++)
        for (enum variant v = 0; v < VARIANT_COUNT; v++) {
            struct hlm_err err = { 0 };
            if (!variant_fits(v, archs[a]))
                continue;
            test_case("%s: %s", archs[a], variant_name(v));
            variant_run(variant_build(fixture("%s/base/model-f32.gguf", archs[a]), v, &err), &err,
                        NO_ORDER);
        }
    for (uint32_t i = 0; i < ARRAY_LEN(step); i++) {
        struct hlm_err err = { 0 };
        struct rng r = { 100 + i };
        test_case("step35: %s", step[i].what);
        struct gguf_build *b = gb_from(fixture("step35/base/model-f32.gguf"), &err);
        if (b)
            step[i].edit(b, &r);
        variant_run(b, &err, NO_ORDER);
    }
}
