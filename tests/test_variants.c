/* test_variants: models as no fixture has them - older files with biases, a latent width for the
 * experts, groups of experts, keys that are missing or are lists - each a fixture edited here,
 * against the double-precision run of ref.h on the same file. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "ref.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_TOK = 40, N_CTX = 64 };

/* A tensor of random numbers; the shape of the one there before does not matter. */
static void put(struct gguf_build *b, struct rng *r, const char *name, double scale, uint64_t d0,
                uint64_t d1, uint64_t d2)
{
    const uint64_t dim[3] = { d0, d1, d2 };
    uint64_t n = d0 * d1 * d2;
    float *v = mem_alloc(n, sizeof *v);
    HLM_ASSERT(v);
    for (uint64_t i = 0; i < n; i++)
        v[i] = (float)(rng_normal(r) * scale);
    gb_tensor(b, name, F32, d2 > 1 ? 3 : d1 > 1 ? 2 : 1, dim, v);
    free(v);
}

static void biases(struct gguf_build *b, struct rng *r)
{
    put(b, r, "blk.0.ssm_in.bias", 0.5, 520, 1, 1);
    put(b, r, "blk.1.ffn_up.bias", 0.5, 160, 1, 1);
    put(b, r, "blk.1.ffn_down.bias", 0.5, 64, 1, 1);
    put(b, r, "blk.3.attn_q.bias", 0.5, 160, 1, 1);
    put(b, r, "blk.3.attn_k.bias", 0.5, 32, 1, 1);
    put(b, r, "blk.3.attn_v.bias", 0.5, 32, 1, 1);
    put(b, r, "blk.3.attn_output.bias", 0.5, 64, 1, 1);
}

static void latent(struct gguf_build *b, struct rng *r)
{
    char name[64];
    gb_u32(b, "nemotron_h_moe.moe_latent_size", 36);
    for (uint32_t i = 1; i < 6; i += i == 1 ? 3 : 1) {  /* 1, 4, and the draft block 5 */
        snprintf(name, sizeof name, "blk.%u.ffn_up_exps.weight", i);
        put(b, r, name, 0.2, 36, 32, 6);
        snprintf(name, sizeof name, "blk.%u.ffn_down_exps.weight", i);
        put(b, r, name, 0.2, 32, 36, 6);
        snprintf(name, sizeof name, "blk.%u.ffn_latent_down.weight", i);
        put(b, r, name, 0.2, 64, 36, 1);
        snprintf(name, sizeof name, "blk.%u.ffn_latent_up.weight", i);
        put(b, r, name, 0.2, 36, 64, 1);
    }
}

static void groups(struct gguf_build *b, struct rng *r)
{
    static const uint32_t used[6] = { 0, 3, 0, 0, 2, 2 }, ff[6] = { 0, 32, 0, 0, 32, 32 };
    (void)r;
    gb_u32(b, "nemotron_h_moe.expert_group_count", 3);
    gb_u32(b, "nemotron_h_moe.expert_group_used_count", 2);
    gb_array(b, "nemotron_h_moe.expert_used_count", GGUF_U32, 6, used);
    gb_array(b, "nemotron_h_moe.expert_feed_forward_length", GGUF_U32, 6, ff);
    gb_bool(b, "nemotron_h_moe.expert_weights_norm", false);
}

/* The draft block tells itself; one of the two keys for eps is enough. */
static void few_keys(struct gguf_build *b, struct rng *r)
{
    (void)r;
    CHECK(gb_drop_key(b, "nemotron_h_moe.nextn_predict_layers"));
    CHECK(gb_drop_key(b, "nemotron_h_moe.attention.layer_norm_rms_epsilon"));
    CHECK(gb_drop_key(b, "nemotron_h_moe.expert_weights_scale"));
}

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

/* NMSE against the reference in units of 1e-12, all measured below 0.3. */
#define BOUND 0.5e-12

static const struct variant {
    const char *what, *file;
    void (*edit)(struct gguf_build *b, struct rng *r);
} variants[] = {
    { "biases", "nemotron_h/base/model-f32.gguf", biases },
    { "latent experts", "nemotron_h_moe/base/model-f32.gguf", latent },
    { "expert groups, lists by block", "nemotron_h_moe/base/model-f32.gguf", groups },
    { "keys left out", "nemotron_h_moe/base/model-f32.gguf", few_keys },
    { "no frequency factors, no limits", "step35/base/model-f32.gguf", plain_rope },
    { "experts of two types", "step35/base/model-f32.gguf", mixed_experts },
};

static void compare(hlm *m)
{
    struct err err = { 0 };
    struct rng r = { 7 };
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    int32_t id[N_TOK];
    for (uint32_t i = 0; i < N_TOK; i++)
        id[i] = (int32_t)(rng_u64(&r) % n_vocab);
    float *got = mem_alloc((uint64_t)N_TOK * n_vocab, sizeof *got);
    double *want = mem_alloc((uint64_t)N_TOK * n_vocab, sizeof *want);
    struct ref_model *ref = ref_model_open(hlm_file(m), &err);
    struct ref_state *state = ref ? ref_state_create(ref) : NULL;
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){ .n_ctx = N_CTX, .kv = HLM_KV_F32, .keep_logits = true });
    HLM_ASSERT(got && want);
    if (CHECK_OK(state != NULL, err) && s && CHECK(ref_forward(ref, state, id, N_TOK, want, NULL)) &&
        CHECK_OK(hlm_session_eval(s, id, N_TOK - 4, got, NULL, &err), err)) {
        for (uint32_t i = N_TOK - 4; i < N_TOK; i++)
            CHECK_OK(hlm_session_eval(s, id + i, 1, got + (uint64_t)i * n_vocab, NULL, &err), err);
        struct diff d = diff_f64(got, want, (uint64_t)N_TOK * n_vocab);
        log_msg(LOG_INFO, "  nmse %.3g", d.nmse);
        CHECK_MSG(d.nmse <= BOUND, "nmse %.3g, at most %.3g", d.nmse, BOUND);
    }
    hlm_session_destroy(s);
    ref_state_destroy(state);
    ref_model_close(ref);
    free(got);
    free(want);
}

void test_variants(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/variant.gguf", test_tmp());
    for (uint32_t i = 0; i < ARRAY_LEN(variants); i++) {
        const struct variant *v = &variants[i];
        struct err err = { 0 };
        struct rng r = { 100 + i };
        test_case("%s: %s", v->file, v->what);
        if (!test_gpu())
            return;
        struct gguf_build *b = gb_from(fixture("%s", v->file), &err);
        if (CHECK_OK(b != NULL, err)) {
            v->edit(b, &r);
            hlm *m = CHECK_OK(gb_write(b, path, &err), err) ? hlm_test_open(path) : NULL;
            if (m)
                compare(m);
            hlm_test_close(m);
        }
        gb_free(b);
    }
}
