/* test_model_bad: files that are sound containers and no models - refused with one line that says
 * which file, which key or tensor, what was found and what was expected; and real files with bytes
 * flipped, which open or do not, and never end the process.
 *
 * Guards the binder (engine/model.c) and the keys of models/qwen35.c; what is wrong with containers
 * is test_gguf.c's. */
#include "gguf_build.h"
#include "hlm_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_FLIP = 200 };

/* ---- what is broken --------------------------------------------------------------------- */

enum base { DENSE, MOE, NEXT };
static const char *const base_file[] = {
    [DENSE] = "qwen35/base/model-f32.gguf",
    [MOE] = "qwen35moe/base/model-f32.gguf",
    [NEXT] = "qwen3next/base/model-f32.gguf",
};

enum edit {
    DROP_KEY, SET_U32, SET_F32, SET_STR, SET_BOOL, SET_U32S,     /* SET_U32S: n times the value */
    DROP_TENSOR, SHAPE, RETYPE, RENAME,
};

/* One edit of a sound file, and what the refusal must say: three parts. %s in a key: the
 * architecture. */
static const struct row {
    enum base base;
    enum edit edit;
    const char *name;
    double value;               /* of a key; a type */
    const char *text;           /* of a key; a tensor's new name */
    uint64_t dim[3];
    const char *say[3];
} rows[] = {
    /* clang-format off */
    /* general */
    { DENSE, DROP_KEY, "general.architecture", 0, NULL, { 0 }, { "general.architecture", "missing" } },
    { DENSE, SET_U32, "general.architecture", 3, NULL, { 0 }, { "general.architecture", "is u32", "expected string" } },
    { DENSE, SET_STR, "general.architecture", 0, "llama", { 0 }, { "\"llama\"", "not supported", "qwen3next, qwen35" } },
    { DENSE, SET_STR, "general.architecture", 0, "", { 0 }, { "\"\"", "not supported" } },
    { DENSE, SET_STR, "general.architecture", 0, "qwen3next", { 0 }, { "qwen3next.block_count", "missing" } },
    { DENSE, DROP_KEY, "%s.block_count", 0, NULL, { 0 }, { "qwen35.block_count", "missing" } },
    { DENSE, SET_STR, "%s.block_count", 0, "5", { 0 }, { "qwen35.block_count" } },
    { DENSE, SET_U32, "%s.block_count", 0, NULL, { 0 }, { "qwen35.block_count is 0", "expected 1" } },
    { DENSE, SET_U32, "%s.block_count", 4e9, NULL, { 0 }, { "qwen35.block_count is 4000000000", "512" } },
    { NEXT, SET_U32, "%s.block_count", 5, NULL, { 0 }, { "recurrent_layers", "has 4", "expected 5" } },
    { DENSE, SET_U32, "%s.nextn_predict_layers", 5, NULL, { 0 }, { "nextn_predict_layers is 5", "expected 0 to 4" } },
    { DENSE, SET_U32, "%s.nextn_predict_layers", 4e9, NULL, { 0 }, { "nextn_predict_layers is 4000000000", "0 to 4" } },
    { DENSE, DROP_KEY, "%s.embedding_length", 0, NULL, { 0 }, { "qwen35.embedding_length", "missing" } },
    { DENSE, SET_U32, "%s.embedding_length", 66, NULL, { 0 }, { "embedding_length is 66", "multiple of 4" } },
    { DENSE, SET_U32, "%s.embedding_length", 68, NULL, { 0 }, { "token_embd.weight is 64 x 640", "needs 68" } },
    { DENSE, SET_U32, "%s.embedding_length", 0, NULL, { 0 }, { "embedding_length is 0" } },
    { DENSE, SET_F32, "%s.embedding_length", 64, NULL, { 0 }, { "qwen35.embedding_length" } },
    { DENSE, SET_U32, "%s.context_length", 0, NULL, { 0 }, { "context_length is 0", "expected 1" } },
    { DENSE, DROP_KEY, "%s.context_length", 0, NULL, { 0 }, { "qwen35.context_length", "missing" } },
    { DENSE, SET_U32, "%s.vocab_size", 639, NULL, { 0 }, { "token_embd.weight is 64 x 640", "64 x 639" } },
    { DENSE, SET_U32, "%s.vocab_size", 0, NULL, { 0 }, { "vocab_size is 0" } },
    { DENSE, DROP_KEY, "%s.attention.layer_norm_rms_epsilon", 0, NULL, { 0 }, { "layer_norm_rms_epsilon", "missing" } },
    { DENSE, SET_F32, "%s.attention.layer_norm_rms_epsilon", 0, NULL, { 0 }, { "epsilon is 0", "positive" } },
    { DENSE, SET_F32, "%s.attention.layer_norm_rms_epsilon", -1, NULL, { 0 }, { "epsilon is -1", "positive" } },
    { DENSE, SET_F32, "%s.attention.layer_norm_rms_epsilon", NAN, NULL, { 0 }, { "epsilon is", "nan", "positive" } },
    { DENSE, SET_F32, "%s.attention.layer_norm_rms_epsilon", INFINITY, NULL, { 0 }, { "epsilon is inf", "positive" } },
    { DENSE, SET_STR, "%s.rope.scaling.type", 0, "yarn", { 0 }, { "qwen35.rope.scaling.type", "\"yarn\"", "not supported" } },
    { DENSE, SET_U32, "%s.rope.scaling.type", 1, NULL, { 0 }, { "qwen35.rope.scaling.type" } },
    { DENSE, SET_U32, "prism.hadamard.block", 1, NULL, { 0 }, { "prism.hadamard.block", "Hadamard" } },
    /* attention */
    { DENSE, DROP_KEY, "%s.attention.head_count", 0, NULL, { 0 }, { "attention.head_count", "missing" } },
    { DENSE, SET_U32, "%s.attention.head_count", 0, NULL, { 0 }, { "attention.head_count is 0", "expected 1" } },
    { DENSE, SET_U32, "%s.attention.head_count", 5, NULL, { 0 }, { "attn_q.weight is 64 x 384", "64 x 480" } },
    { DENSE, SET_U32, "%s.attention.head_count_kv", 3, NULL, { 0 }, { "4 query heads", "3 key heads", "multiple" } },
    { DENSE, SET_U32, "%s.attention.head_count_kv", 5, NULL, { 0 }, { "head_count_kv is 5", "expected 1 to 4" } },
    { DENSE, SET_U32, "%s.attention.head_count_kv", 0, NULL, { 0 }, { "head_count_kv is 0", "expected 1 to 4" } },
    { DENSE, SET_U32S, "%s.attention.head_count_kv", 1, NULL, { 3 }, { "head_count_kv", "not 5 integers" } },
    { DENSE, SET_U32, "%s.attention.key_length", 50, NULL, { 0 }, { "value_length is 48", "expected 50" } },
    { DENSE, SET_U32, "%s.attention.key_length", 4096, NULL, { 0 }, { "key_length is 4096", "512" } },
    { DENSE, SET_U32, "%s.attention.value_length", 32, NULL, { 0 }, { "value_length is 32", "48" } },
    { DENSE, SET_U32, "%s.rope.dimension_count", 13, NULL, { 0 }, { "13 rotated", "even" } },
    { DENSE, SET_U32, "%s.rope.dimension_count", 64, NULL, { 0 }, { "dimension_count is 64", "expected 2 to 48" } },
    { DENSE, SET_F32, "%s.rope.freq_base", -2, NULL, { 0 }, { "rope.freq_base is -2", "above 1" } },
    { DENSE, SET_F32, "%s.rope.freq_base", NAN, NULL, { 0 }, { "rope.freq_base", "nan" } },
    /* linear attention */
    { DENSE, DROP_KEY, "%s.ssm.conv_kernel", 0, NULL, { 0 }, { "ssm.conv_kernel", "missing" } },
    { DENSE, SET_U32, "%s.ssm.conv_kernel", 1, NULL, { 0 }, { "ssm.conv_kernel is 1", "expected 2" } },
    { DENSE, SET_U32, "%s.ssm.conv_kernel", 3, NULL, { 0 }, { "ssm_conv1d.weight is 4 x", "needs 3 x" } },
    { DENSE, SET_U32, "%s.ssm.state_size", 512, NULL, { 0 }, { "ssm.state_size is 512", "256" } },
    { DENSE, SET_U32, "%s.ssm.state_size", 31, NULL, { 0 }, { "of 31", "do not fit together" } },
    { DENSE, SET_U32, "%s.ssm.group_count", 0, NULL, { 0 }, { "ssm.group_count is 0", "expected 1" } },
    { DENSE, SET_U32, "%s.ssm.group_count", 3, NULL, { 0 }, { "4 value heads", "3 key heads", "do not fit" } },
    { DENSE, SET_U32, "%s.ssm.time_step_rank", 6, NULL, { 0 }, { "6 value heads", "do not fit together" } },
    { DENSE, SET_U32, "%s.ssm.inner_size", 127, NULL, { 0 }, { "inner size of 127", "do not fit together" } },
    { DENSE, SET_U32, "%s.full_attention_interval", 0, NULL, { 0 }, { "full_attention_interval is 0", "expected 1" } },
    { DENSE, SET_U32S, "%s.attention.recurrent_layers", 1, NULL, { 5 }, { "recurrent_layers", "expected" } },
    { DENSE, SET_BOOL, "%s.attention.recurrent_layers", 1, NULL, { 0 }, { "blk.3.attn_qkv.weight", "missing" } },
    { DENSE, SET_U32, "ssm.v_head_reordered", 1, NULL, { 0 }, { "ssm.v_head_reordered", "not a bool" } },
    /* feed-forward */
    { DENSE, DROP_KEY, "%s.feed_forward_length", 0, NULL, { 0 }, { "feed_forward_length is 0", "expected 4" } },
    { DENSE, SET_U32, "%s.feed_forward_length", 128, NULL, { 0 }, { "ffn_gate.weight is 64 x 160", "64 x 128" } },
    { MOE, SET_U32, "%s.expert_used_count", 6, NULL, { 0 }, { "expert_used_count is 6", "expected 1 to 5" } },
    { MOE, SET_U32, "%s.expert_used_count", 0, NULL, { 0 }, { "expert_used_count is 0", "expected 1 to 5" } },
    { MOE, DROP_KEY, "%s.expert_count", 0, NULL, { 0 }, { "blk.0 has a router", "qwen35moe.expert_count is 0 or missing" } },
    { MOE, SET_U32, "%s.expert_count", 4, NULL, { 0 }, { "_exps.weight", "needs" } },
    { MOE, SET_U32, "%s.expert_count", 100000, NULL, { 0 }, { "expert_count is 100000", "512" } },
    { MOE, DROP_KEY, "%s.expert_feed_forward_length", 0, NULL, { 0 }, { "expert_feed_forward_length is 0" } },
    { MOE, SET_U32, "%s.expert_feed_forward_length", 16, NULL, { 0 }, { "_exps.weight", "needs" } },
    { MOE, SET_U32, "%s.expert_shared_feed_forward_length", 0, NULL, { 0 }, { "shared_feed_forward_length is 0" } },
    { NEXT, SET_U32, "%s.expert_shared_feed_forward_length", 60, NULL, { 0 }, { "shexp.weight", "needs" } },
    /* tensors */
    { DENSE, DROP_TENSOR, "token_embd.weight", 0, NULL, { 0 }, { "tensor token_embd.weight is missing" } },
    { DENSE, DROP_TENSOR, "output_norm.weight", 0, NULL, { 0 }, { "tensor output_norm.weight is missing" } },
    { DENSE, DROP_TENSOR, "blk.3.attn_q_norm.weight", 0, NULL, { 0 }, { "tensor blk.3.attn_q_norm.weight is missing" } },
    { DENSE, DROP_TENSOR, "blk.2.ssm_a", 0, NULL, { 0 }, { "tensor blk.2.ssm_a is missing" } },
    { DENSE, RENAME, "blk.0.ssm_dt.bias", 0, "blk.0.ssm_dt.weight", { 0 }, { "tensor blk.0.ssm_dt.bias is missing" } },
    { MOE, DROP_TENSOR, "blk.1.ffn_gate_inp.weight", 0, NULL, { 0 }, { "tensor blk.1.ffn_gate_inp.weight is missing" } },
    { MOE, DROP_TENSOR, "blk.1.ffn_up_exps.weight", 0, NULL, { 0 }, { "blk.1.ffn_up_exps.weight is missing" } },
    { MOE, DROP_TENSOR, "blk.3.ffn_gate_inp_shexp.weight", 0, NULL, { 0 }, { "blk.3.ffn_gate_inp_shexp.weight is missing" } },
    { NEXT, DROP_TENSOR, "blk.0.ssm_ba.weight", 0, NULL, { 0 }, { "tensor blk.0.ssm_beta.weight is missing" } },
    { NEXT, DROP_TENSOR, "blk.0.attn_gate.weight", 0, NULL, { 0 }, { "tensor blk.0.attn_gate.weight is missing" } },
    { NEXT, RENAME, "blk.0.attn_qkv.weight", 0, "blk.0.ssm_in.weight", { 0 }, { "blk.0.ssm_in.weight is 64 x", "needs 64 x" } },
    { DENSE, SHAPE, "blk.0.ffn_up.weight", 0, NULL, { 160, 64 }, { "blk.0.ffn_up.weight is 160 x 64", "needs 64 x 160" } },
    { DENSE, SHAPE, "blk.0.ffn_up.weight", 0, NULL, { 64, 159 }, { "blk.0.ffn_up.weight is 64 x 159", "needs 64 x 160" } },
    { DENSE, SHAPE, "blk.0.ssm_a", 0, NULL, { 1 }, { "blk.0.ssm_a is 1 x 1", "needs 4 x 1" } },
    { DENSE, SHAPE, "output_norm.weight", 0, NULL, { 64, 2 }, { "output_norm.weight is 64 x 2", "needs 64 x 1" } },
    { MOE, SHAPE, "output.weight", 0, NULL, { 64, 639 }, { "output.weight is 64 x 639", "needs 64 x 640" } },
    { DENSE, RETYPE, "blk.0.attn_qkv.weight", I32, NULL, { 0 }, { "blk.0.attn_qkv.weight", "type I32" } },
    { DENSE, RETYPE, "blk.0.attn_norm.weight", F64, NULL, { 0 }, { "blk.0.attn_norm.weight", "type F64" } },
    { DENSE, RETYPE, "token_embd.weight", I8, NULL, { 0 }, { "token_embd.weight", "type I8" } },
    /* clang-format on */
};

static bool apply(struct gguf_build *b, const struct row *r, const char *arch)
{
    char key[128];
    uint32_t many[8] = { 0 }, n_dim = 0;
    snprintf(key, sizeof key, r->name, arch);   /* the only conversion there is is %s */
    while (n_dim < 3 && r->dim[n_dim])
        n_dim++;
    switch (r->edit) {
    case DROP_KEY: return gb_drop_key(b, key);
    case SET_U32: gb_u32(b, key, (uint32_t)r->value); return true;
    case SET_F32: gb_f32(b, key, (float)r->value); return true;
    case SET_STR: gb_str(b, key, r->text); return true;
    case SET_BOOL: gb_bool(b, key, r->value != 0); return true;
    case SET_U32S:
        for (uint32_t i = 0; i < r->dim[0]; i++)
            many[i] = (uint32_t)r->value;
        gb_array(b, key, GGUF_U32, r->dim[0], many);
        return true;
    case DROP_TENSOR: return gb_drop_tensor(b, key);
    case SHAPE: return gb_reshape(b, key, n_dim, r->dim);
    case RETYPE: return gb_retype(b, key, (enum dtype)r->value);
    case RENAME: return gb_rename_tensor(b, key, r->text);
    }
    return false;
}

static bool one_line(const char *path, const struct err *err)
{
    return CHECK(err->set) && CHECK_MSG(!strchr(err->msg, '\n'), "more than a line: %s", err->msg) &&
           CHECK_MSG(!strncmp(err->msg, path, strlen(path)), "\"%s\" does not begin with the file", err->msg);
}

static void test_row(const struct row *r, const char *path)
{
    static const char *const arch[] = { "qwen35", "qwen35moe", "qwen3next" };
    struct err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s", base_file[r->base]), &err);
    if (CHECK_OK(b != NULL, err) && CHECK_MSG(apply(b, r, arch[r->base]), "the edit found nothing to edit") &&
        CHECK_OK(gb_write(b, path, &err), err)) {
        hlm *m = hlm_test_try(path, &err);
        if (CHECK_MSG(!m, "it opened") && one_line(path, &err))
            for (uint32_t i = 0; i < ARRAY_LEN(r->say) && r->say[i]; i++)
                CHECK_MSG(strstr(err.msg, r->say[i]), "\"%s\" does not say \"%s\"", err.msg, r->say[i]);
        hlm_close(m);
    }
    gb_free(b);
}

/* ---- flipped bytes ---------------------------------------------------------------------- */

/* Where the parts of a file begin that are worth flipping: the model's keys, the tensor directory,
 * the data. The tokenizer's lists, most of the header, lie between the first two. */
struct parts { uint64_t tokenizer, directory, data, end; };

static uint64_t find(const uint8_t *p, uint64_t n, const char *what)
{
    uint64_t len = strlen(what);
    for (uint64_t i = 0; i + len <= n; i++)
        if (!memcmp(p + i, what, len))
            return i;
    return n;
}

static bool find_parts(const uint8_t *bytes, uint64_t n, struct parts *p)
{
    struct err err = { 0 };
    struct gguf *g = gguf_parse(bytes, n, "fixture", &err);
    if (!CHECK_OK(g != NULL, err))
        return false;
    *p = (struct parts){ find(bytes, n, "tokenizer.ggml."), find(bytes, n, gguf_tensor_at(g, 0)->name), n, n };
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        p->data = min_u64(p->data, (uint64_t)(gguf_tensor_at(g, i)->data - bytes));
    gguf_close(g);
    return CHECK(p->tokenizer < p->directory && p->directory < p->data && p->data < n);
}

/* One byte to anything, or one bit: in the keys, in the directory, anywhere before the data. */
static void flip(struct rng *r, uint8_t *bytes, const struct parts *p)
{
    uint64_t part = rng_u64(r) % 4, at;
    if (part == 0)
        at = rng_u64(r) % p->data;
    else if (part == 1)
        at = rng_u64(r) % p->tokenizer;
    else
        at = p->directory + rng_u64(r) % (p->data - p->directory);
    if (rng_u64(r) & 1)
        bytes[at] ^= (uint8_t)(1u << rng_u64(r) % 8);
    else
        bytes[at] = (uint8_t)rng_u64(r);
}

/* A token through what has opened: any numbers may come out. */
static void run_one_token(hlm *m)
{
    struct err err = { 0 };
    struct hlm_sampling greedy = { .repeat_penalty = 1 };
    int32_t id = 0;
    hlm_session *s = hlm_session_create(m, &(struct hlm_session_params){ .n_ctx = 4, .n_batch = 1 }, &err);
    if (!CHECK_OK(s != NULL, err))
        return;
    CHECK_OK(hlm_session_sync(s, &id, 1, 0, NULL, NULL, &err), err);
    CHECK_OK(hlm_session_next(s, &greedy, &id, &err), err);
    CHECK(id >= 0 && (uint32_t)id < hlm_get_info(m).n_vocab);
    hlm_session_destroy(s);
}

static void test_flips(const char *file, uint64_t seed, const char *path)
{
    uint64_t n;
    struct parts p;
    uint32_t n_open = 0;
    struct rng r = { seed };
    uint8_t *good = fixture_read(&n, "%s", file), *bytes = good ? mem_alloc(n, 1) : NULL;
    test_case("%s: %u times with bytes flipped, seed %llu", file, N_FLIP / 2, (unsigned long long)seed);
    for (uint32_t i = 0; bytes && find_parts(good, n, &p) && i < N_FLIP / 2; i++) {
        struct err err = { 0 };
        memcpy(bytes, good, n);
        for (uint64_t k = 1 + rng_u64(&r) % 2; k > 0; k--)
            flip(&r, bytes, &p);
        if (!CHECK_OK(file_write_atomic(path, bytes, n, &err), err))
            break;
        hlm *m = hlm_test_try(path, &err);
        if (m) {
            n_open++;
            run_one_token(m);
            CHECK_MSG(hlm_get_info(m).n_validation == 0, "file %u: messages of the validation layer", i);
        } else {
            one_line(path, &err);
        }
        hlm_close(m);
    }
    log_msg(LOG_INFO, "  %u of %u opened", n_open, N_FLIP / 2);
    CHECK(n_open > 0 && n_open < N_FLIP / 2);
    free(bytes);
    free(good);
}

/* Errors of the engine are what is asked for here: they are not worth a line each. */
static void drop_message(void *user, enum log_level level, const char *msg)
{
    if (level == LOG_ERROR && strstr(msg, "validation"))
        FAIL("%s: %s", (const char *)user, msg);
}

void test_model_bad(void)
{
    char path[128];
    test_case("a device");
    if (!test_gpu())
        return;
    snprintf(path, sizeof path, "%s/bad.gguf", test_tmp());
    test_log(drop_message, path);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("row %u: %s", i, rows[i].name);
        test_row(&rows[i], path);
    }
    test_flips("qwen35/base/model-f16.gguf", 1, path);
    test_flips("qwen35moe/k256/model-q4_k_m.gguf", 2, path);
    test_log(NULL, NULL);
}
