/* test_model_bad: files that are sound containers and no models - refused with one line that says
 * which file, which key or tensor, what was found and what was expected; and real files with bytes
 * flipped, which open or do not, and never end the process.
 *
 * Guards the binder (model/model.c) and the keys of models/<arch>.c; what is wrong with containers
 * is test_gguf.c's. */
#include "gguf_build.h"
#include "hlm_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- what is broken --------------------------------------------------------------------- */

enum base { DENSE, MOE, NEXT, NEMO, NEMO_MOE, STEP };
static const char *const base_file[] = {
    [DENSE] = "qwen35/base/model-f32.gguf",
    [MOE] = "qwen35moe/base/model-f32.gguf",
    [NEXT] = "qwen3next/base/model-f32.gguf",
    [NEMO] = "nemotron_h/base/model-f32.gguf",
    [NEMO_MOE] = "nemotron_h_moe/base/model-f32.gguf",
    [STEP] = "step35/base/model-f32.gguf",
};

enum edit {
    DROP_KEY,
    SET_U32,
    SET_F32,
    SET_STR,
    SET_BOOL,
    SET_U32S,
    DROP_TENSOR,
    SHAPE,
    RETYPE,
    RENAME,
};

/* One edit of a sound file, and what the refusal must say. A name with a dot in front is a key of
 * the architecture. */
static const struct row {
    enum base base;
    enum edit edit;
    const char *name;
    double value;     /* of a key; a type */
    const char *text; /* of a key; a tensor's new name */
    uint64_t dim[3];  /* dim[0]: also how many times the value */
    const char *say[3];
} rows[] = {
/* clang-format off */
#define ROW(base_, edit_, name_, ...) { .base = base_, .edit = edit_, .name = name_, __VA_ARGS__ }
#define SAY(...) .say = { __VA_ARGS__ }
    /* general */
    ROW(DENSE, DROP_KEY, "general.architecture", SAY("general.architecture", "missing")),
    ROW(DENSE, SET_U32, "general.architecture", .value = 3,
        SAY("general.architecture", "is u32", "expected string")),
    ROW(DENSE, SET_STR, "general.architecture", .text = "llama",
        SAY("\"llama\"", "not supported", "qwen3next, qwen35")),
    ROW(DENSE, SET_STR, "general.architecture", .text = "", SAY("\"\"", "not supported")),
    ROW(DENSE, SET_STR, "general.architecture", .text = "qwen3next",
        SAY("qwen3next.block_count", "missing")),
    ROW(DENSE, DROP_KEY, ".block_count", SAY("qwen35.block_count", "missing")),
    ROW(DENSE, SET_STR, ".block_count", .text = "5", SAY("qwen35.block_count")),
    ROW(DENSE, SET_U32, ".block_count", SAY("qwen35.block_count is 0", "expected 1")),
    ROW(DENSE, SET_U32, ".block_count", .value = 4e9,
        SAY("qwen35.block_count is 4000000000", "512")),
    ROW(NEXT, SET_U32, ".block_count", .value = 5, SAY("recurrent_layers", "has 4", "expected 5")),
    ROW(DENSE, SET_U32, ".nextn_predict_layers", .value = 5,
        SAY("nextn_predict_layers is 5", "expected 0 to 4")),
    ROW(DENSE, SET_U32, ".nextn_predict_layers", .value = 4e9,
        SAY("nextn_predict_layers is 4000000000", "0 to 4")),
    ROW(DENSE, DROP_KEY, ".embedding_length", SAY("qwen35.embedding_length", "missing")),
    ROW(DENSE, SET_U32, ".embedding_length", .value = 66,
        SAY("embedding_length is 66", "multiple of 4")),
    ROW(DENSE, SET_U32, ".embedding_length", .value = 68,
        SAY("token_embd.weight is 64 x 640", "needs 68")),
    ROW(DENSE, SET_U32, ".embedding_length", SAY("embedding_length is 0")),
    ROW(DENSE, SET_F32, ".embedding_length", .value = 64, SAY("qwen35.embedding_length")),
    ROW(DENSE, SET_U32, ".context_length", SAY("context_length is 0", "expected 1")),
    ROW(DENSE, DROP_KEY, ".context_length", SAY("qwen35.context_length", "missing")),
    ROW(DENSE, SET_U32, ".vocab_size", .value = 639,
        SAY("token_embd.weight is 64 x 640", "64 x 639")),
    ROW(DENSE, SET_U32, ".vocab_size", SAY("vocab_size is 0")),
    ROW(DENSE, DROP_KEY, ".attention.layer_norm_rms_epsilon",
        SAY("layer_norm_rms_epsilon", "missing")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", SAY("epsilon is 0", "positive")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", .value = -1,
        SAY("epsilon is -1", "positive")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", .value = NAN,
        SAY("epsilon is", "nan", "positive")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", .value = INFINITY,
        SAY("epsilon is inf", "positive")),
    ROW(DENSE, SET_STR, ".rope.scaling.type", .text = "yarn",
        SAY("qwen35.rope.scaling.type", "\"yarn\"", "not supported")),
    ROW(DENSE, SET_U32, ".rope.scaling.type", .value = 1, SAY("qwen35.rope.scaling.type")),
    ROW(DENSE, SET_U32, "prism.hadamard.block", .value = 1,
        SAY("prism.hadamard.block", "Hadamard")),
    /* attention */
    ROW(DENSE, DROP_KEY, ".attention.head_count", SAY("attention.head_count", "missing")),
    ROW(DENSE, SET_U32, ".attention.head_count", SAY("attention.head_count is 0", "expected 1")),
    ROW(DENSE, SET_U32, ".attention.head_count", .value = 5,
        SAY("attn_q.weight is 64 x 384", "64 x 480")),
    ROW(DENSE, SET_U32, ".attention.head_count_kv", .value = 3,
        SAY("4 query heads", "3 key heads", "multiple")),
    ROW(DENSE, SET_U32, ".attention.head_count_kv", .value = 5,
        SAY("head_count_kv is 5", "expected 1 to 4")),
    ROW(DENSE, SET_U32, ".attention.head_count_kv", SAY("head_count_kv is 0", "expected 1 to 4")),
    ROW(DENSE, SET_U32S, ".attention.head_count_kv", .value = 1, .dim = { 3 },
        SAY("head_count_kv", "not 5 integers")),
    ROW(DENSE, SET_U32, ".attention.key_length", .value = 50,
        SAY("value_length is 48", "expected 50")),
    ROW(DENSE, SET_U32, ".attention.key_length", .value = 4096, SAY("key_length is 4096", "512")),
    ROW(DENSE, SET_U32, ".attention.value_length", .value = 32, SAY("value_length is 32", "48")),
    ROW(DENSE, SET_U32, ".rope.dimension_count", .value = 13, SAY("13 rotated", "even")),
    ROW(DENSE, SET_U32, ".rope.dimension_count", .value = 64,
        SAY("dimension_count is 64", "expected 2 to 48")),
    ROW(DENSE, SET_F32, ".rope.freq_base", .value = -2, SAY("rope.freq_base is -2", "above 1")),
    ROW(DENSE, SET_F32, ".rope.freq_base", .value = NAN, SAY("rope.freq_base", "nan")),
    /* linear attention */
    ROW(DENSE, DROP_KEY, ".ssm.conv_kernel", SAY("ssm.conv_kernel", "missing")),
    ROW(DENSE, SET_U32, ".ssm.conv_kernel", .value = 1, SAY("ssm.conv_kernel is 1", "expected 2")),
    ROW(DENSE, SET_U32, ".ssm.conv_kernel", .value = 3,
        SAY("ssm_conv1d.weight is 4 x", "needs 3 x")),
    ROW(DENSE, SET_U32, ".ssm.state_size", .value = 512, SAY("ssm.state_size is 512", "256")),
    ROW(DENSE, SET_U32, ".ssm.state_size", .value = 31, SAY("of 31", "do not fit together")),
    ROW(DENSE, SET_U32, ".ssm.group_count", SAY("ssm.group_count is 0", "expected 1")),
    ROW(DENSE, SET_U32, ".ssm.group_count", .value = 3,
        SAY("4 value heads", "3 key heads", "do not fit")),
    ROW(DENSE, SET_U32, ".ssm.time_step_rank", .value = 6,
        SAY("6 value heads", "do not fit together")),
    ROW(DENSE, SET_U32, ".ssm.inner_size", .value = 127,
        SAY("inner size of 127", "do not fit together")),
    ROW(DENSE, SET_U32, ".full_attention_interval",
        SAY("full_attention_interval is 0", "expected 1")),
    ROW(DENSE, SET_U32S, ".attention.recurrent_layers", .value = 1, .dim = { 3 },
        SAY("recurrent_layers", "has 3", "expected 5")),
    ROW(DENSE, SET_BOOL, ".attention.recurrent_layers", .value = 1,
        SAY("blk.3.attn_qkv.weight", "missing")),
    ROW(DENSE, SET_U32, "ssm.v_head_reordered", .value = 1,
        SAY("ssm.v_head_reordered", "not a bool")),
    /* feed-forward */
    ROW(DENSE, DROP_KEY, ".feed_forward_length", SAY("feed_forward_length is 0", "expected 4")),
    ROW(DENSE, SET_U32, ".feed_forward_length", .value = 128,
        SAY("ffn_gate.weight is 64 x 160", "64 x 128")),
    ROW(MOE, SET_U32, ".expert_used_count", .value = 6,
        SAY("expert_used_count is 6", "expected 1 to 5")),
    ROW(MOE, SET_U32, ".expert_used_count", SAY("expert_used_count is 0", "expected 1 to 5")),
    ROW(MOE, DROP_KEY, ".expert_count",
        SAY("blk.0 has a router", "qwen35moe.expert_count is 0 or missing")),
    ROW(MOE, SET_U32, ".expert_count", .value = 4, SAY("_exps.weight", "needs")),
    ROW(MOE, SET_U32, ".expert_count", .value = 100000, SAY("expert_count is 100000", "512")),
    ROW(MOE, DROP_KEY, ".expert_feed_forward_length", SAY("expert_feed_forward_length is 0")),
    ROW(MOE, SET_U32, ".expert_feed_forward_length", .value = 16, SAY("_exps.weight", "needs")),
    ROW(MOE, SET_U32, ".expert_feed_forward_length", .value = 30,
        SAY("expert_feed_forward_length is 30", "multiple of 4")),
    ROW(MOE, SET_U32, ".expert_shared_feed_forward_length", SAY("shared_feed_forward_length is 0")),
    ROW(NEXT, SET_U32, ".expert_shared_feed_forward_length", .value = 60,
        SAY("shexp.weight", "needs")),
    /* tensors */
    ROW(DENSE, DROP_TENSOR, "token_embd.weight", SAY("tensor token_embd.weight is missing")),
    ROW(DENSE, DROP_TENSOR, "output_norm.weight", SAY("tensor output_norm.weight is missing")),
    ROW(DENSE, DROP_TENSOR, "blk.3.attn_q_norm.weight",
        SAY("tensor blk.3.attn_q_norm.weight is missing")),
    ROW(DENSE, DROP_TENSOR, "blk.2.ssm_a", SAY("tensor blk.2.ssm_a is missing")),
    ROW(DENSE, RENAME, "blk.0.ssm_dt.bias", .text = "blk.0.ssm_dt.weight",
        SAY("tensor blk.0.ssm_dt.bias is missing")),
    ROW(MOE, DROP_TENSOR, "blk.1.ffn_gate_inp.weight",
        SAY("tensor blk.1.ffn_gate_inp.weight is missing")),
    ROW(MOE, DROP_TENSOR, "blk.1.ffn_up_exps.weight", SAY("blk.1.ffn_up_exps.weight is missing")),
    ROW(MOE, DROP_TENSOR, "blk.3.ffn_gate_inp_shexp.weight",
        SAY("blk.3.ffn_gate_inp_shexp.weight is missing")),
    ROW(NEXT, DROP_TENSOR, "blk.0.ssm_ba.weight", SAY("tensor blk.0.ssm_beta.weight is missing")),
    ROW(NEXT, DROP_TENSOR, "blk.0.attn_gate.weight",
        SAY("tensor blk.0.attn_gate.weight is missing")),
    ROW(NEXT, RENAME, "blk.0.attn_qkv.weight", .text = "blk.0.ssm_in.weight",
        SAY("blk.0.ssm_in.weight is 64 x", "needs 64 x")),
    ROW(DENSE, SHAPE, "blk.0.ffn_up.weight", .dim = { 160, 64 },
        SAY("blk.0.ffn_up.weight is 160 x 64", "needs 64 x 160")),
    ROW(DENSE, SHAPE, "blk.0.ffn_up.weight", .dim = { 64, 159 },
        SAY("blk.0.ffn_up.weight is 64 x 159", "needs 64 x 160")),
    ROW(DENSE, SHAPE, "blk.0.ssm_a", .dim = { 1 }, SAY("blk.0.ssm_a is 1 x 1", "needs 4 x 1")),
    ROW(DENSE, SHAPE, "output_norm.weight", .dim = { 64, 2 },
        SAY("output_norm.weight is 64 x 2", "needs 64 x 1")),
    ROW(MOE, SHAPE, "output.weight", .dim = { 64, 639 },
        SAY("output.weight is 64 x 639", "needs 64 x 640")),
    ROW(DENSE, RETYPE, "blk.0.attn_qkv.weight", .value = I32,
        SAY("blk.0.attn_qkv.weight", "type I32")),
    ROW(DENSE, RETYPE, "blk.0.attn_norm.weight", .value = F64,
        SAY("blk.0.attn_norm.weight", "type F64")),
    ROW(DENSE, RETYPE, "token_embd.weight", .value = I8, SAY("token_embd.weight", "type I8")),
    /* nemotron_h */
    ROW(NEMO, DROP_KEY, ".attention.head_count_kv", SAY("head_count_kv", "missing")),
    ROW(NEMO, SET_U32S, ".attention.head_count_kv", .value = 1, .dim = { 5 },
        SAY("head_count_kv", "has 5 elements", "expected 6")),
    ROW(NEMO, SET_U32S, ".attention.head_count_kv", .value = 1, .dim = { 6 },
        SAY("block 1", "feed-forward width", "draft block")),
    ROW(NEMO, SET_U32, ".attention.head_count", .value = 0, SAY("head_count is 0", "expected 1")),
    ROW(NEMO, SET_U32, ".attention.head_count", .value = 6,
        SAY("blk.3.attn_q.weight is 64 x 160", "needs 64 x 192")),
    ROW(NEMO, DROP_KEY, ".feed_forward_length", SAY("feed_forward_length", "missing")),
    ROW(NEMO, SET_U32S, ".feed_forward_length", .value = 4, .dim = { 6 }, SAY("block 3")),
    ROW(NEMO, SET_U32, ".attention.key_length", .value = 30, SAY("value_length is 32")),
    ROW(NEMO, SET_U32, ".ssm.conv_kernel", .value = 1, SAY("conv_kernel is 1", "expected 2 to 8")),
    ROW(NEMO, SET_U32, ".ssm.state_size", .value = 1000, SAY("state_size is 1000", "256")),
    ROW(NEMO, SET_U32, ".ssm.state_size", .value = 64, SAY("blk.0.ssm_in.weight", "needs 64 x")),
    ROW(NEMO, SET_U32, ".ssm.group_count", .value = 3,
        SAY("8 Mamba heads in 3 groups", "do not fit together")),
    ROW(NEMO, SET_U32, ".ssm.time_step_rank", .value = 7, SAY("7 Mamba heads", "do not fit")),
    ROW(NEMO, SET_U32, ".ssm.time_step_rank", SAY("time_step_rank is 0")),
    ROW(NEMO, SET_U32, ".ssm.inner_size", .value = 200, SAY("size of 200", "do not fit")),
    ROW(NEMO, DROP_TENSOR, "blk.0.ssm_d", SAY("tensor blk.0.ssm_d is missing")),
    ROW(NEMO, DROP_TENSOR, "blk.0.ssm_conv1d.bias", SAY("blk.0.ssm_conv1d.bias is missing")),
    ROW(NEMO, SHAPE, "blk.0.ssm_a", .dim = { 2, 4 }, SAY("blk.0.ssm_a is 2 x 4", "needs 8 x 1")),
    ROW(NEMO, SHAPE, "blk.2.ssm_norm.weight", .dim = { 192, 1 },
        SAY("blk.2.ssm_norm.weight is 192 x 1", "needs 96 x 2")),
    ROW(NEMO, DROP_TENSOR, "blk.1.ffn_up.weight", SAY("tensor blk.1.ffn_up.weight is missing")),
    ROW(NEMO, DROP_KEY, "general.architecture", SAY("general.architecture", "missing")),
    ROW(NEMO_MOE, DROP_KEY, ".expert_count", SAY("expert_count", "missing")),
    ROW(NEMO_MOE, SET_U32, ".expert_used_count", .value = 7,
        SAY("expert_used_count is 7", "expected 1 to 6")),
    ROW(NEMO_MOE, SET_U32, ".expert_gating_func", .value = 1,
        SAY("expert_gating_func is 1", "expected 2")),
    ROW(NEMO_MOE, SET_U32, ".expert_group_count", .value = 4,
        SAY("of 6 experts from 1 of 4 groups", "do not fit together")),
    ROW(NEMO_MOE, SET_U32, ".expert_group_used_count", .value = 2,
        SAY("expert_group_used_count is 2", "expected 1 to 1")),
    ROW(NEMO_MOE, SET_U32, ".moe_latent_size", .value = 32,
        SAY("blk.1.ffn_up_exps.weight is 64 x 192", "needs 32 x 192")),
    ROW(NEMO_MOE, SET_U32, ".moe_latent_size", .value = 30,
        SAY("moe_latent_size is 30", "multiple of 4")),
    ROW(NEMO_MOE, SET_F32, ".expert_weights_scale", .value = NAN,
        SAY("nemotron_h_moe.expert_weights_scale is", "nan", "finite")),
    ROW(NEMO_MOE, DROP_TENSOR, "blk.1.exp_probs_b.bias",
        SAY("tensor blk.1.exp_probs_b.bias is missing")),
    ROW(NEMO_MOE, SET_U32, ".expert_shared_feed_forward_length", .value = 64,
        SAY("blk.1.ffn_up_shexp.weight is 64 x 96", "needs 64 x 64")),
    ROW(NEMO_MOE, SET_STR, "general.architecture", .text = "nemotron_h",
        SAY("nemotron_h.block_count", "missing")),
    /* step35 */
    ROW(STEP, DROP_KEY, ".attention.sliding_window", SAY("sliding_window", "missing")),
    ROW(STEP, SET_U32, ".attention.sliding_window", SAY("sliding_window is 0", "expected 1")),
    ROW(STEP, DROP_KEY, ".attention.sliding_window_pattern", SAY("window_pattern", "missing")),
    ROW(STEP, SET_U32S, ".attention.sliding_window_pattern", .value = 1, .dim = { 4 },
        SAY("sliding_window_pattern", "has 4 elements", "expected 5")),
    ROW(STEP, SET_U32S, ".attention.head_count", .value = 4, .dim = { 5 },
        SAY("blk.1.attn_q.weight is 64 x 192", "needs 64 x 128")),
    ROW(STEP, SET_U32S, ".attention.head_count_kv", .value = 3, .dim = { 5 },
        SAY("block 0", "4 query heads", "3 key heads")),
    ROW(STEP, SET_U32S, ".attention.head_count_kv", .value = 0, .dim = { 5 },
        SAY("head_count_kv is 0")),
    ROW(STEP, SET_U32, ".attention.key_length", .value = 16, SAY("value_length is 32", "16")),
    ROW(STEP, SET_F32, ".rope.freq_base_swa", .value = 0.5, SAY("freq_base_swa 0.5", "above 1")),
    ROW(STEP, SET_F32, ".rope.freq_base", .value = NAN, SAY("freq_base is", "nan")),
    ROW(STEP, SHAPE, "rope_freqs.weight", .dim = { 8 },
        SAY("rope_freqs.weight is 8 x 1", "needs 16 x 1")),
    ROW(STEP, SHAPE, "blk.1.attn_gate.weight", .dim = { 64, 4 },
        SAY("blk.1.attn_gate.weight is 64 x 4", "needs 64 x 6")),
    ROW(STEP, SET_F32, ".swiglu_clamp_exp", .value = -1,
        SAY("limits of block 0 are -1", "below 0")),
    ROW(STEP, SET_F32, ".swiglu_clamp_shexp", .value = INFINITY,
        SAY("swiglu_clamp_shexp[0] is inf", "finite")),
    ROW(STEP, SET_U32, ".swiglu_clamp_exp", .value = 1, SAY("swiglu_clamp_exp", "f32 or f64")),
    ROW(STEP, SET_U32, ".leading_dense_block_count", .value = 1,
        SAY("blk.1.ffn_gate_inp.weight is missing", "1 leading dense")),
    ROW(STEP, SET_U32, ".moe_every_n_layers", .value = 2,
        SAY("moe_every_n_layers is 2", "expected 1 to 1")),
    ROW(STEP, SET_F32, ".expert_weights_scale", .value = INFINITY,
        SAY("step35.expert_weights_scale is inf", "finite")),
    ROW(STEP, SET_U32, ".expert_used_count", SAY("expert_used_count is 0")),
    ROW(STEP, DROP_TENSOR, "blk.3.ffn_gate_shexp.weight",
        SAY("tensor blk.3.ffn_gate_shexp.weight is missing")),
    ROW(STEP, DROP_TENSOR, "blk.0.ffn_norm.weight", SAY("tensor blk.0.ffn_norm.weight is missing")),
    ROW(STEP, DROP_KEY, ".feed_forward_length", SAY("feed_forward_length is 0")),
    /* clang-format on */
};

static bool apply(struct gguf_build *b, const struct row *r, const char *arch)
{
    char key[128];
    uint32_t many[8] = { 0 }, n_dim = 0;
    snprintf(key, sizeof key, "%s%s", r->name[0] == '.' ? arch : "", r->name);
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

static bool is_one_line(const char *path, const struct hlm_err *err)
{
    return CHECK(err->kind) &&
           CHECK_MSG(!strchr(err->msg, '\n'), "more than a line: %s", err->msg) &&
           CHECK_MSG(!strncmp(err->msg, path, strlen(path)), "\"%s\" does not begin with the file",
                     err->msg);
}

static void check_refused(const char *path, const char *const *say, uint32_t n_say)
{
    struct hlm_err err = { 0 };
    hlm *m = hlm_test_try(path, &err);
    if (CHECK_MSG(!m, "it opened") && is_one_line(path, &err))
        for (uint32_t i = 0; i < n_say && say[i]; i++)
            CHECK_MSG(strstr(err.msg, say[i]), "\"%s\" does not say \"%s\"", err.msg, say[i]);
    hlm_close(m);
}

/* A matrix of one row is no vector, of which columns will do: its rows are multiplied by. */
static void test_column(const char *path)
{
    static const char *const say[] = { "token_embd.weight is 1 x 64", "needs 64 x 1" };
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s", base_file[DENSE]), &err);
    test_case("a matrix of one row that stands as a column");
    if (!CHECK_OK(b != NULL, err))
        return;
    gb_u32(b, "qwen35.vocab_size", 1);
    if (CHECK(gb_reshape(b, "token_embd.weight", 2, (uint64_t[]){ 1, 64 })) &&
        CHECK_OK(gb_write(b, path, &err), err))
        check_refused(path, say, ARRAY_LEN(say));
    gb_free(b);
}

static void test_row(const struct row *r, const char *path)
{
    static const char *const arch[] = { "qwen35",     "qwen35moe",      "qwen3next",
                                        "nemotron_h", "nemotron_h_moe", "step35" };
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s", base_file[r->base]), &err);
    if (CHECK_OK(b != NULL, err) &&
        CHECK_MSG(apply(b, r, arch[r->base]), "the edit found nothing to edit") &&
        CHECK_OK(gb_write(b, path, &err), err))
        check_refused(path, r->say, ARRAY_LEN(r->say));
    gb_free(b);
}

/* ---- flipped bytes ---------------------------------------------------------------------- */

/* Where the parts of a file begin that are worth flipping: the model's keys, the tensor directory,
 * the data. The tokenizer's lists, most of the header, lie between the first two. */
struct parts {
    uint64_t tokenizer, directory, data, end;
};

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
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_parse(bytes, n, "fixture", &err);
    if (!CHECK_OK(g != NULL, err))
        return false;
    *p = (struct parts){ find(bytes, n, "tokenizer.ggml."),
                         find(bytes, n, gguf_tensor_at(g, 0)->name), n, n };
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        p->data = min_u64(p->data, (uint64_t)(gguf_tensor_at(g, i)->data - bytes));
    gguf_close(g);
    return CHECK(p->tokenizer < p->directory && p->directory < p->data && p->data < n);
}

/* One byte to anything, or one bit: anywhere before the data, in the keys, in the directory. */
static void flip(struct rng *r, uint8_t *bytes, const struct parts *p)
{
    uint64_t part = rng_u64(r) % 4, at = rng_u64(r) % p->data;
    if (part == 2)
        at = rng_u64(r) % p->tokenizer;
    else if (part == 3)
        at = p->directory + rng_u64(r) % (p->data - p->directory);
    if (rng_u64(r) & 1)
        bytes[at] ^= (uint8_t)(1u << rng_u64(r) % 8);
    else
        bytes[at] = (uint8_t)rng_u64(r);
}

/* A token through what has opened: any numbers may come out. */
static void run_one_token(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_sampling greedy = { .repeat_penalty = 1 };
    int32_t id = 0;
    hlm_session *s =
        hlm_session_create(m,
                           &(struct hlm_session_params){
                               .n_ctx = 4, .n_batch = 1, .snapshot_budget = HLM_SNAPSHOT_NONE },
                           &err);
    if (!CHECK_OK(s != NULL, err))
        return;
    CHECK_OK(hlm_session_sync(s, &id, 1, NULL, 0, NULL, NULL, &err), err);
    CHECK_OK(hlm_session_next(s, &greedy, &id, &err), err);
    CHECK(id >= 0 && (uint32_t)id < hlm_get_info(m).n_vocab);
    hlm_session_destroy(s);
}

/* Warnings and errors are what is asked for here: not worth a line each, but for the layer's. */
static void drop_message(void *user, enum hlm_log_level level, const char *msg)
{
    (void)user;
    if (level == HLM_LOG_ERROR && strstr(msg, "validation"))
        FAIL("%s", msg);
}

static void test_flips(const char *file, uint32_t n_flip, uint64_t seed, const char *path)
{
    uint64_t n;
    struct parts p;
    uint32_t n_open = 0;
    struct rng r = { seed };
    uint8_t *good = fixture_read(&n, "%s", file), *bytes = good ? mem_alloc(n, 1) : NULL;
    test_case("%s: %u times with bytes flipped, seed %llu", file, n_flip, (unsigned long long)seed);
    test_log(drop_message, NULL);
    for (uint32_t i = 0; bytes && find_parts(good, n, &p) && i < n_flip; i++) {
        struct hlm_err err = { 0 };
        memcpy(bytes, good, n);
        flip(&r, bytes, &p);
        if (!CHECK_OK(file_write_atomic(path, bytes, n, &err), err))
            break;
        hlm *m = hlm_test_try(path, &err);
        if (m) {
            n_open++;
            run_one_token(m);
            CHECK_MSG(hlm_get_info(m).n_validation == 0,
                      "file %u: messages of the validation layer", i);
        } else {
            is_one_line(path, &err);
        }
        hlm_close(m);
    }
    test_log(NULL, NULL);
    test_note("  %u of %u opened", n_open, n_flip);
    CHECK(n_open > 0 && n_open < n_flip);
    free(bytes);
    free(good);
}

void test_model_bad(void)
{
    char path[128];
    test_case("a device");
    if (!test_gpu())
        return;
    snprintf(path, sizeof path, "%s/bad.gguf", test_tmp());
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("row %u: %s", i, rows[i].name);
        test_row(&rows[i], path);
    }
    test_column(path);
    test_flips("qwen35/base/model-f16.gguf", 140, 1, path);
    test_flips("qwen35moe/k256/model-q4_k_m.gguf", 60, 2, path);
    test_flips("nemotron_h_moe/base/model-q8_0.gguf", 60, 3, path);
    test_flips("step35/base/model-q8_0.gguf", 60, 4, path);
}
