/* test_layouts: files that other programs write for the families that hlm runs: other names of
 * tensors, lists where one value is usual, keys that are missing because the tensors say the same.
 * Each must give the same bits as the file in the usual layout. test_model_bad.c has the layouts
 * that are refused. */
#include "hlm_test.h"
#include "variant.h"

#include <stdio.h>
#include <stdlib.h>

enum { N_TOK = 6 };

/* The logits of a few tokens; NULL, and the case has failed. The caller frees them. */
static float *layout_logits(struct gguf_build *b, uint32_t *n_vocab)
{
    static const int32_t id[N_TOK] = { 5, 17, 300, 2, 91, 44 };
    const char *path = test_scratch("layout.gguf");
    struct hlm_err err = { 0 };
    hlm *m = CHECK_OK(gb_write(b, path, &err), err) ? hlm_test_open(path) : NULL;
    hlm_session *s =
        m ? hlm_test_session(m, (struct hlm_session_params){ .n_ctx = 16, .keep_logits = true })
          : NULL;
    float *v = NULL;
    if (s) {
        *n_vocab = hlm_get_info(m).n_vocab;
        v = test_room((uint64_t)N_TOK * *n_vocab, sizeof *v);
        CHECK_OK(hlm_session_eval(s, id, N_TOK, v, NULL, &err), err);
    }
    hlm_session_destroy(s);
    hlm_test_close(m);
    return v;
}

static void same_logits(struct gguf_build *usual, struct gguf_build *other)
{
    uint32_t n = 0, n_other = 0;
    float *want = layout_logits(usual, &n), *got = layout_logits(other, &n_other);
    if (want && got && CHECK_EQ(n_other, n))
        CHECK(!memcmp(got, want, (uint64_t)N_TOK * n * sizeof *got));
    free(want);
    free(got);
    gb_free(usual);
    gb_free(other);
}

static struct gguf_build *layout_base(const char *arch)
{
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s/base/model-f32.gguf", arch), &err);
    HLM_ASSERT(b != NULL);
    return b;
}

/* Qwen3.5 as Ollama's first converter wrote it. */
static struct gguf_build *ollama_qwen35(void)
{
    static const uint32_t kv[] = { 0, 0, 0, 1, 1 };
    struct gguf_build *b = layout_base("qwen35");
    char from[64], to[64];
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "blk.%u.ssm_dt.bias", i);
        snprintf(to, sizeof to, "blk.%u.ssm_dt", i);
        CHECK(gb_rename_tensor(b, from, to));
    }
    gb_array(b, "qwen35.rope.dimension_sections", GGUF_I32, 3, (const int32_t[]){ 2, 2, 2 });
    gb_array(b, "qwen35.attention.head_count_kv", GGUF_U32, ARRAY_LEN(kv), kv);
    gb_bool(b, "qwen35.ssm.v_head_reordered", true);
    gb_u32(b, "qwen35.vision.block_count", 12);
    gb_str(b, "qwen35.rope.scaling.type", "linear"); /* by 1: not at all */
    gb_f32(b, "qwen35.rope.scaling.factor", 1);
    gb_tensor(b, "v.blk.0.attn_q.weight", F32, 2, (const uint64_t[]){ 8, 8 }, NULL);
    gb_tensor(b, "mtp.fc.weight", F32, 2, (const uint64_t[]){ 8, 8 }, NULL);
    return b;
}

/* Nemotron 3 with a latent width: no key for it, and other names. */
static struct gguf_build *latent_nemotron(bool usual)
{
    static const char *const of[] = { "down", "up" }, *const to_of[] = { "in", "out" };
    struct hlm_err err = { 0 };
    struct gguf_build *b =
        variant_build(fixture("nemotron_h_moe/base/model-f32.gguf"), VARIANT_LATENT, &err);
    char from[64], to[64];
    uint32_t n = 0;
    HLM_ASSERT(b != NULL);
    for (uint32_t i = 0; i < 16 && !usual; i++)
        for (uint32_t k = 0; k < 2; k++) {
            snprintf(from, sizeof from, "blk.%u.ffn_latent_%s.weight", i, of[k]);
            snprintf(to, sizeof to, "blk.%u.ffn_latent_%s.weight", i, to_of[k]);
            n += gb_rename_tensor(b, from, to);
        }
    CHECK(usual || (n && gb_drop_key(b, "nemotron_h_moe.moe_latent_size")));
    return b;
}

/* Linear layers 0, 1 and 3, which is not what the default interval of 4 says. */
static struct gguf_build *odd_layers(bool says)
{
    static const char *const arch = "qwen35/base/model-f32.gguf";
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(fixture("%s", arch), &err);
    struct gguf_build *b = layout_base("qwen35");
    char name[96];
    HLM_ASSERT(g != NULL);
    for (uint32_t pass = 0; pass < 2; pass++) /* 2 becomes 3, 3 becomes 2, by way of 9 */
        for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
            const char *t = gguf_tensor_at(g, i)->name;
            bool two = !strncmp(t, "blk.2.", 6), three = !strncmp(t, "blk.3.", 6);
            if (!pass && two) {
                snprintf(name, sizeof name, "blk.9.%s", t + 6);
                CHECK(gb_rename_tensor(b, t, name));
            } else if (pass && three) {
                snprintf(name, sizeof name, "blk.2.%s", t + 6);
                CHECK(gb_rename_tensor(b, t, name));
            }
        }
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const char *t = gguf_tensor_at(g, i)->name;
        char to[96];
        snprintf(name, sizeof name, "blk.9.%s", t + 6);
        snprintf(to, sizeof to, "blk.3.%s", t + 6);
        if (!strncmp(t, "blk.2.", 6))
            CHECK(gb_rename_tensor(b, name, to));
    }
    gguf_close(g);
    CHECK(gb_drop_key(b, "qwen35.full_attention_interval"));
    if (says)
        gb_array(b, "qwen35.attention.recurrent_layers", GGUF_BOOL, 5,
                 (const bool[]){ true, true, false, true, false });
    else
        CHECK(gb_drop_key(b, "qwen35.attention.recurrent_layers"));
    return b;
}

/* Every key that is one number becomes a list of it, one for each block. */
static struct gguf_build *all_lists(const char *arch)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(fixture("%s/base/model-f32.gguf", arch), &err);
    struct gguf_build *b = layout_base(arch);
    uint32_t n_block = 0, n = 0;
    char key[64];
    snprintf(key, sizeof key, "%s.block_count", arch);
    HLM_ASSERT(g && gguf_u32(g, key, REQUIRED, &n_block, NULL));
    for (uint64_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        uint32_t many[16], size = kv->type == GGUF_BOOL ? 1 : 4;
        bool number = kv->type == GGUF_U32 || kv->type == GGUF_I32 || kv->type == GGUF_F32 ||
                      kv->type == GGUF_BOOL;
        if (!number || strncmp(kv->key, arch, strlen(arch)) || kv->key[strlen(arch)] != '.')
            continue;
        for (uint32_t k = 0; k < n_block; k++)
            memcpy((char *)many + k * size, kv->data, size);
        gb_array(b, kv->key, kv->type, n_block, many);
        n++;
    }
    CHECK(n > 10);
    gguf_close(g);
    return b;
}

static struct gguf_build *without(const char *arch, const char *key)
{
    struct gguf_build *b = layout_base(arch);
    CHECK(gb_drop_key(b, key));
    return b;
}

void test_layouts(void)
{
    static const char *const archs[] = { "qwen35", "qwen35moe", "nemotron_h_moe", "step35" };
    test_case("a device");
    if (!test_gpu())
        return;
    if (test_case("qwen35 as Ollama's converter wrote it"))
        same_logits(layout_base("qwen35"), ollama_qwen35());
    if (test_case("nemotron_h_moe: a latent width that only the tensors show, by other names"))
        same_logits(latent_nemotron(true), latent_nemotron(false));
    if (test_case("qwen35: which layers are linear, seen from the tensors"))
        same_logits(odd_layers(true), odd_layers(false));
    for (uint32_t i = 0; i < ARRAY_LEN(archs); i++)
        if (test_case("%s: a list of equal values for each number", archs[i]))
            same_logits(layout_base(archs[i]), all_lists(archs[i]));
    if (test_case("qwen35: a draft block that is not counted is no layer"))
        same_logits(layout_base("qwen35"), without("qwen35", "qwen35.nextn_predict_layers"));
    if (test_case("qwen35moe: the width of the shared expert, seen from its tensors"))
        same_logits(layout_base("qwen35moe"),
                    without("qwen35moe", "qwen35moe.expert_shared_feed_forward_length"));
}
