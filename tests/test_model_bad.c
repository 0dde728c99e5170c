/* test_model_bad: sound GGUF files that are not models are refused with one line that says which
 * file, which key or tensor, what was found and what was expected. Real files with bytes flipped
 * open or do not, and never end the process.
 *
 * Guards the binder (model/model_bind.c) and the keys of models/<arch>.c; test_gguf.c tests broken
 * containers. */
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

enum model_edit {
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

/* One edit of a sound file, and the parts that the refusal must say (CHECK_SAYS). A name that
 * begins with a dot is a key of the architecture. */
static const struct bad_model {
    enum base base;
    enum model_edit edit;
    const char *name;
    double value;     /* the key's number; RETYPE: the type */
    const char *text; /* the key's text; RENAME: the tensor's new name */
    uint64_t dim[3];  /* SHAPE: the shape; SET_U32S: dim[0] elements, each of them value */
    const char *says;
} rows[] = {
/* clang-format off */
#define ROW(base_, edit_, name_, ...) { .base = base_, .edit = edit_, .name = name_, __VA_ARGS__ }
#define SAYS(parts) .says = parts
    /* general */
    ROW(DENSE, DROP_KEY, "general.architecture", SAYS("general.architecture|missing")),
    ROW(DENSE, SET_U32, "general.architecture", .value = 3,
        SAYS("general.architecture|u32|string")),
    ROW(DENSE, SET_STR, "general.architecture", .text = "llama",
        SAYS("architecture|\"llama\"|not supported|qwen3next|qwen35|step35")),
    ROW(DENSE, SET_STR, "general.architecture", .text = "",
        SAYS("architecture|\"\"|not supported|qwen3next|qwen35|step35")),
    ROW(DENSE, SET_STR, "general.architecture", .text = "qwen3next",
        SAYS("qwen3next.block_count|missing")),
    ROW(DENSE, DROP_KEY, ".block_count", SAYS("qwen35.block_count|missing")),
    ROW(DENSE, SET_STR, ".block_count", .text = "5", SAYS("qwen35.block_count|string|integer")),
    ROW(DENSE, SET_U32, ".block_count", SAYS("qwen35.block_count|0|1|512")),
    ROW(DENSE, SET_U32, ".block_count", .value = 4e9, SAYS("qwen35.block_count|4000000000|1|512")),
    ROW(NEXT, SET_U32, ".block_count", .value = 5,
        SAYS("qwen3next.attention.recurrent_layers|4 elements|5")),
    ROW(DENSE, SET_U32, ".nextn_predict_layers", .value = 5,
        SAYS("qwen35.nextn_predict_layers|5|0|4")),
    ROW(DENSE, SET_U32, ".nextn_predict_layers", .value = 4e9,
        SAYS("qwen35.nextn_predict_layers|4000000000|0|4")),
    ROW(DENSE, SET_U32, ".nextn_predict_layers", .value = 0,
        SAYS("qwen35.nextn_predict_layers|0|5 blocks|block 4|draft block|blk.4.nextn")),
    ROW(DENSE, SET_U32, ".nextn_predict_layers", .value = 2,
        SAYS("qwen35.nextn_predict_layers|2|block 3|layer|blk.3.nextn.eh_proj.weight")),
    ROW(DENSE, DROP_KEY, ".embedding_length", SAYS("qwen35.embedding_length|missing")),
    ROW(DENSE, SET_U32, ".embedding_length", .value = 66,
        SAYS("qwen35.embedding_length|66|multiple|4")),
    ROW(DENSE, SET_U32, ".embedding_length", .value = 68,
        SAYS("token_embd.weight|64 x 640|68 x 640")),
    ROW(DENSE, SET_U32, ".embedding_length", SAYS("qwen35.embedding_length|0|4|262144")),
    ROW(DENSE, SET_F32, ".embedding_length", .value = 64,
        SAYS("qwen35.embedding_length|f32|integer")),
    ROW(DENSE, SET_U32, ".context_length", SAYS("qwen35.context_length|0|1|268435456")),
    ROW(DENSE, DROP_KEY, ".context_length", SAYS("qwen35.context_length|missing")),
    ROW(DENSE, SET_U32, ".vocab_size", .value = 639, SAYS("token_embd.weight|64 x 640|64 x 639")),
    ROW(DENSE, SET_U32, ".vocab_size", SAYS("qwen35.vocab_size|0|1|16777216")),
    ROW(DENSE, DROP_KEY, ".attention.layer_norm_rms_epsilon",
        SAYS("qwen35.attention.layer_norm_rms_epsilon|missing")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon",
        SAYS("qwen35.attention.layer_norm_rms_epsilon|0|positive")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", .value = -1,
        SAYS("qwen35.attention.layer_norm_rms_epsilon|-1|positive")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", .value = NAN,
        SAYS("qwen35.attention.layer_norm_rms_epsilon|nan|positive")),
    ROW(DENSE, SET_F32, ".attention.layer_norm_rms_epsilon", .value = INFINITY,
        SAYS("qwen35.attention.layer_norm_rms_epsilon|inf|positive")),
    ROW(DENSE, SET_STR, ".rope.scaling.type", .text = "yarn",
        SAYS("qwen35.rope.scaling.type|yarn|not supported")),
    ROW(DENSE, SET_F32, ".rope.scaling.factor", .value = 2,
        SAYS("qwen35.rope.scaling.type|none|factor of 2|not supported")),
    ROW(DENSE, SET_U32, ".rope.scaling.type", .value = 1,
        SAYS("qwen35.rope.scaling.type|u32|string")),
    ROW(DENSE, SET_U32, "prism.hadamard.block", .value = 1, SAYS("prism.hadamard.block|Hadamard")),
    /* attention */
    ROW(DENSE, DROP_KEY, ".attention.head_count", SAYS("qwen35.attention.head_count|missing")),
    ROW(DENSE, SET_U32, ".attention.head_count", SAYS("qwen35.attention.head_count|0|1|1024")),
    ROW(DENSE, SET_U32, ".attention.head_count", .value = 5,
        SAYS("blk.3.attn_q.weight|64 x 384|64 x 480")),
    ROW(DENSE, SET_U32, ".attention.head_count_kv", .value = 3,
        SAYS("4 query heads|3 key heads|multiple")),
    ROW(DENSE, SET_U32, ".attention.head_count_kv", .value = 5,
        SAYS("qwen35.attention.head_count_kv|5|1|4")),
    ROW(DENSE, SET_U32, ".attention.head_count_kv", SAYS("qwen35.attention.head_count_kv|0|1|4")),
    ROW(DENSE, SET_U32S, ".attention.head_count_kv", .value = 1, .dim = { 3 },
        SAYS("qwen35.attention.head_count_kv|3 elements|5")),
    ROW(DENSE, SET_U32, ".attention.key_length", .value = 50,
        SAYS("qwen35.attention.value_length|48|50")),
    ROW(DENSE, SET_U32, ".attention.key_length", .value = 4096,
        SAYS("qwen35.attention.key_length|4096|4|512")),
    ROW(DENSE, SET_U32, ".attention.value_length", .value = 32,
        SAYS("qwen35.attention.value_length|32|48")),
    ROW(DENSE, SET_U32, ".rope.dimension_count", .value = 13, SAYS("13 rotated|even")),
    ROW(DENSE, SET_U32, ".rope.dimension_count", .value = 64,
        SAYS("qwen35.rope.dimension_count|64|2|48")),
    ROW(DENSE, SET_F32, ".rope.freq_base", .value = -2, SAYS("qwen35.rope.freq_base|-2|above 1")),
    ROW(DENSE, SET_F32, ".rope.freq_base", .value = NAN, SAYS("qwen35.rope.freq_base|nan|above 1")),
    /* linear attention */
    ROW(DENSE, DROP_KEY, ".ssm.conv_kernel", SAYS("qwen35.ssm.conv_kernel|missing")),
    ROW(DENSE, SET_U32, ".ssm.conv_kernel", .value = 1, SAYS("qwen35.ssm.conv_kernel|1|2|8")),
    ROW(DENSE, SET_U32, ".ssm.conv_kernel", .value = 3,
        SAYS("blk.0.ssm_conv1d.weight|4 x 256|3 x 256")),
    ROW(DENSE, SET_U32, ".ssm.state_size", .value = 512, SAYS("qwen35.ssm.state_size|512|4|256")),
    ROW(DENSE, SET_U32, ".ssm.state_size", .value = 31,
        SAYS("4 value heads|31|2 key heads|inner size|128")),
    ROW(DENSE, SET_U32, ".ssm.group_count", SAYS("qwen35.ssm.group_count|0|1|1024")),
    ROW(DENSE, SET_U32, ".ssm.group_count", .value = 3,
        SAYS("4 value heads|32|3 key heads|inner size|128")),
    ROW(DENSE, SET_U32, ".ssm.time_step_rank", .value = 6,
        SAYS("6 value heads|32|2 key heads|inner size|128")),
    ROW(DENSE, SET_U32, ".ssm.inner_size", .value = 127,
        SAYS("4 value heads|32|2 key heads|inner size|127")),
    ROW(DENSE, SET_U32, ".full_attention_interval", SAYS("qwen35.full_attention_interval|0|1|512")),
    ROW(DENSE, SET_U32S, ".attention.recurrent_layers", .value = 1, .dim = { 3 },
        SAYS("qwen35.attention.recurrent_layers|3 elements|5")),
    ROW(DENSE, SET_BOOL, ".attention.recurrent_layers", .value = 1,
        SAYS("blk.3.attn_qkv.weight|missing")),
    ROW(DENSE, SET_U32, ".ssm.v_head_reordered", .value = 1,
        SAYS("qwen35.ssm.v_head_reordered|u32|bool")),
    /* feed-forward */
    ROW(DENSE, DROP_KEY, ".feed_forward_length", SAYS("qwen35.feed_forward_length|0|4|1048576")),
    ROW(DENSE, SET_U32, ".feed_forward_length", .value = 128,
        SAYS("blk.0.ffn_gate.weight|64 x 160|64 x 128")),
    ROW(MOE, SET_U32, ".expert_used_count", .value = 6, SAYS("qwen35moe.expert_used_count|6|1|5")),
    ROW(MOE, SET_U32, ".expert_used_count", SAYS("qwen35moe.expert_used_count|0|1|5")),
    ROW(MOE, DROP_KEY, ".expert_count", SAYS("blk.0|router|qwen35moe.expert_count|missing")),
    ROW(MOE, SET_U32, ".expert_count", .value = 4,
        SAYS("blk.0.ffn_gate_exps.weight|64 x 160|64 x 128")),
    ROW(MOE, SET_U32, ".expert_count", .value = 100000,
        SAYS("qwen35moe.expert_count|100000|1|512")),
    ROW(MOE, DROP_KEY, ".expert_feed_forward_length",
        SAYS("qwen35moe.expert_feed_forward_length|0|4|1048576")),
    ROW(MOE, SET_U32, ".expert_feed_forward_length", .value = 16,
        SAYS("blk.0.ffn_gate_exps.weight|64 x 160|64 x 80")),
    ROW(MOE, SET_U32, ".expert_feed_forward_length", .value = 30,
        SAYS("qwen35moe.expert_feed_forward_length|30|multiple|4")),
    ROW(MOE, SET_U32, ".expert_shared_feed_forward_length",
        SAYS("qwen35moe.expert_shared_feed_forward_length|0|4|1048576")),
    ROW(NEXT, SET_U32, ".expert_shared_feed_forward_length", .value = 60,
        SAYS("blk.0.ffn_gate_shexp.weight|64 x 64|64 x 60")),
    /* tensors */
    ROW(DENSE, DROP_TENSOR, "token_embd.weight", SAYS("token_embd.weight|missing")),
    ROW(DENSE, DROP_TENSOR, "output_norm.weight", SAYS("output_norm.weight|missing")),
    ROW(DENSE, DROP_TENSOR, "blk.3.attn_q_norm.weight", SAYS("blk.3.attn_q_norm.weight|missing")),
    ROW(DENSE, DROP_TENSOR, "blk.2.ssm_a", SAYS("blk.2.ssm_a|missing")),
    ROW(DENSE, RENAME, "blk.0.ssm_dt.bias", .text = "blk.0.ssm_dt.weight",
        SAYS("blk.0.ssm_dt.bias|missing")),
    ROW(MOE, DROP_TENSOR, "blk.1.ffn_gate_inp.weight",
        SAYS("blk.1.ffn_gate_inp.weight|missing|dense|qwen35moe.feed_forward_length")),
    ROW(MOE, DROP_TENSOR, "blk.1.ffn_up_exps.weight", SAYS("blk.1.ffn_up_exps.weight|missing")),
    ROW(MOE, DROP_TENSOR, "blk.3.ffn_gate_inp_shexp.weight",
        SAYS("blk.3.ffn_gate_inp_shexp.weight|missing")),
    ROW(NEXT, DROP_TENSOR, "blk.0.ssm_ba.weight", SAYS("blk.0.ssm_beta.weight|missing")),
    ROW(NEXT, DROP_TENSOR, "blk.0.attn_gate.weight", SAYS("blk.0.attn_gate.weight|missing")),
    ROW(NEXT, RENAME, "blk.0.attn_qkv.weight", .text = "blk.0.ssm_in.weight",
        SAYS("blk.0.ssm_in.weight|64 x 160|64 x 256")),
    ROW(DENSE, RENAME, "blk.0.ssm_beta.weight", .text = "blk.0.ssm_ba.weight",
        SAYS("blk.0.ssm_ba.weight|qwen3next only|ssm_beta.weight|ssm_alpha.weight")),
    ROW(MOE, RENAME, "blk.0.attn_qkv.weight", .text = "blk.0.ssm_in.weight",
        SAYS("blk.0.ssm_in.weight|qwen3next only|attn_qkv.weight|attn_gate.weight")),
    ROW(DENSE, SHAPE, "blk.0.ffn_up.weight", .dim = { 160, 64 },
        SAYS("blk.0.ffn_up.weight|160 x 64|64 x 160")),
    ROW(DENSE, SHAPE, "blk.0.ffn_up.weight", .dim = { 64, 159 },
        SAYS("blk.0.ffn_up.weight|64 x 159|64 x 160")),
    ROW(DENSE, SHAPE, "blk.0.ssm_a", .dim = { 1 }, SAYS("blk.0.ssm_a|1 x 1|4 x 1")),
    ROW(DENSE, SHAPE, "output_norm.weight", .dim = { 64, 2 },
        SAYS("output_norm.weight|64 x 2|64 x 1")),
    ROW(MOE, SHAPE, "output.weight", .dim = { 64, 639 }, SAYS("output.weight|64 x 639|64 x 640")),
    ROW(DENSE, RETYPE, "blk.0.attn_qkv.weight", .value = I32,
        SAYS("blk.0.attn_qkv.weight|type|I32")),
    ROW(DENSE, RETYPE, "blk.0.attn_norm.weight", .value = F64,
        SAYS("blk.0.attn_norm.weight|type|F64")),
    ROW(DENSE, RETYPE, "token_embd.weight", .value = I8, SAYS("token_embd.weight|type|I8")),
    /* nemotron_h */
    ROW(NEMO, DROP_KEY, ".attention.head_count_kv",
        SAYS("nemotron_h.attention.head_count_kv|missing")),
    ROW(NEMO, SET_U32S, ".attention.head_count_kv", .value = 1, .dim = { 5 },
        SAYS("nemotron_h.attention.head_count_kv|5 elements|6")),
    ROW(NEMO, SET_U32S, ".attention.head_count_kv", .value = 1, .dim = { 6 },
        SAYS("block 1|key heads|feed-forward|draft block")),
    ROW(NEMO, SET_U32, ".attention.head_count", .value = 0,
        SAYS("nemotron_h.attention.head_count|0|1|1024")),
    ROW(NEMO, SET_U32, ".attention.head_count", .value = 6,
        SAYS("blk.3.attn_q.weight|64 x 160|64 x 192")),
    ROW(NEMO, DROP_KEY, ".feed_forward_length", SAYS("nemotron_h.feed_forward_length|missing")),
    ROW(NEMO, SET_U32S, ".feed_forward_length", .value = 4, .dim = { 6 },
        SAYS("block 3|key heads|feed-forward|draft block")),
    ROW(NEMO, SET_U32, ".attention.key_length", .value = 30,
        SAYS("nemotron_h.attention.value_length|32|30")),
    ROW(NEMO, SET_U32, ".ssm.conv_kernel", .value = 1, SAYS("nemotron_h.ssm.conv_kernel|1|2|8")),
    ROW(NEMO, SET_U32, ".ssm.state_size", .value = 1000,
        SAYS("nemotron_h.ssm.state_size|1000|4|256")),
    ROW(NEMO, SET_U32, ".ssm.state_size", .value = 64,
        SAYS("blk.0.ssm_in.weight|64 x 520|64 x 648")),
    ROW(NEMO, SET_U32, ".ssm.group_count", .value = 3,
        SAYS("8 Mamba heads|3 groups|32|inner size|192")),
    ROW(NEMO, SET_U32, ".ssm.time_step_rank", .value = 7,
        SAYS("7 Mamba heads|2 groups|32|inner size|192")),
    ROW(NEMO, SET_U32, ".ssm.time_step_rank", SAYS("nemotron_h.ssm.time_step_rank|0|1|4096")),
    ROW(NEMO, SET_U32, ".ssm.inner_size", .value = 200,
        SAYS("8 Mamba heads|2 groups|32|inner size|200")),
    ROW(NEMO, DROP_TENSOR, "blk.0.ssm_d", SAYS("blk.0.ssm_d|missing")),
    ROW(NEMO, DROP_TENSOR, "blk.0.ssm_conv1d.bias", SAYS("blk.0.ssm_conv1d.bias|missing")),
    ROW(NEMO, SHAPE, "blk.0.ssm_a", .dim = { 2, 4 }, SAYS("blk.0.ssm_a|2 x 4|8 x 1")),
    ROW(NEMO, SHAPE, "blk.2.ssm_norm.weight", .dim = { 192, 1 },
        SAYS("blk.2.ssm_norm.weight|192 x 1|96 x 2")),
    ROW(NEMO, DROP_TENSOR, "blk.1.ffn_up.weight", SAYS("blk.1.ffn_up.weight|missing")),
    ROW(NEMO, DROP_KEY, "general.architecture", SAYS("general.architecture|missing")),
    ROW(NEMO_MOE, DROP_KEY, ".expert_count", SAYS("nemotron_h_moe.expert_count|missing")),
    ROW(NEMO_MOE, SET_U32, ".expert_used_count", .value = 7,
        SAYS("nemotron_h_moe.expert_used_count|7|1|6")),
    ROW(NEMO_MOE, SET_U32, ".expert_gating_func", .value = 1,
        SAYS("nemotron_h_moe.expert_gating_func|1|2")),
    ROW(NEMO_MOE, SET_U32, ".expert_group_count", .value = 4, SAYS("2|6 experts|1|4 groups")),
    ROW(NEMO_MOE, SET_U32, ".expert_group_used_count", .value = 2,
        SAYS("nemotron_h_moe.expert_group_used_count|2|1")),
    ROW(NEMO_MOE, SET_U32, ".moe_latent_size", .value = 32,
        SAYS("blk.1.ffn_up_exps.weight|64 x 192|32 x 192")),
    ROW(NEMO_MOE, SET_U32, ".moe_latent_size", .value = 30,
        SAYS("nemotron_h_moe.moe_latent_size|30|multiple|4")),
    ROW(NEMO_MOE, SET_F32, ".expert_weights_scale", .value = NAN,
        SAYS("nemotron_h_moe.expert_weights_scale|nan|finite")),
    ROW(NEMO_MOE, DROP_TENSOR, "blk.1.exp_probs_b.bias", SAYS("blk.1.exp_probs_b.bias|missing")),
    ROW(NEMO_MOE, SET_U32, ".expert_shared_feed_forward_length", .value = 64,
        SAYS("blk.1.ffn_up_shexp.weight|64 x 96|64 x 64")),
    ROW(NEMO_MOE, SET_U32, ".expert_shared_feed_forward_length",
        SAYS("nemotron_h_moe.expert_shared_feed_forward_length|0|4|blk.1.ffn_up_shexp.weight")),
    ROW(NEMO_MOE, SET_STR, "general.architecture", .text = "nemotron_h",
        SAYS("nemotron_h.block_count|missing")),
    /* step35 */
    ROW(STEP, DROP_KEY, ".attention.sliding_window",
        SAYS("step35.attention.sliding_window|missing")),
    ROW(STEP, SET_U32, ".attention.sliding_window",
        SAYS("step35.attention.sliding_window|0|1|1048576")),
    ROW(STEP, DROP_KEY, ".attention.sliding_window_pattern",
        SAYS("step35.attention.sliding_window_pattern|missing")),
    ROW(STEP, SET_U32S, ".attention.sliding_window_pattern", .value = 1, .dim = { 4 },
        SAYS("step35.attention.sliding_window_pattern|4 elements|5")),
    ROW(STEP, SET_U32S, ".attention.head_count", .value = 4, .dim = { 5 },
        SAYS("blk.1.attn_q.weight|64 x 192|64 x 128")),
    ROW(STEP, SET_U32S, ".attention.head_count_kv", .value = 3, .dim = { 5 },
        SAYS("block 0|4 query heads|3 key heads|multiple")),
    ROW(STEP, SET_U32S, ".attention.head_count_kv", .value = 0, .dim = { 5 },
        SAYS("step35.attention.head_count_kv|0|1|4")),
    ROW(STEP, SET_U32, ".attention.key_length", .value = 16,
        SAYS("step35.attention.value_length|32|16")),
    ROW(STEP, SET_F32, ".rope.freq_base_swa", .value = 0.5,
        SAYS("step35.rope.freq_base_swa|0.5|above 1")),
    ROW(STEP, SET_F32, ".rope.freq_base", .value = NAN,
        SAYS("step35.rope.freq_base|nan|above 1")),
    ROW(STEP, SHAPE, "rope_freqs.weight", .dim = { 8 }, SAYS("rope_freqs.weight|8 x 1|16 x 1")),
    ROW(STEP, SHAPE, "blk.1.attn_gate.weight", .dim = { 64, 4 },
        SAYS("blk.1.attn_gate.weight|64 x 4|64 x 6")),
    ROW(STEP, SET_F32, ".swiglu_clamp_exp", .value = -1, SAYS("SwiGLU|block 0|-1|below 0")),
    ROW(STEP, SET_F32, ".swiglu_clamp_shexp", .value = INFINITY,
        SAYS("step35.swiglu_clamp_shexp[0]|inf|finite")),
    ROW(STEP, SET_U32, ".swiglu_clamp_exp", .value = 1,
        SAYS("step35.swiglu_clamp_exp|u32|f32|f64")),
    ROW(STEP, SET_U32, ".leading_dense_block_count", .value = 1,
        SAYS("blk.1.ffn_gate_inp.weight|missing|1 leading dense")),
    ROW(STEP, SET_U32, ".moe_every_n_layers", .value = 2, SAYS("step35.moe_every_n_layers|2|1")),
    ROW(STEP, SET_F32, ".expert_weights_scale", .value = INFINITY,
        SAYS("step35.expert_weights_scale|inf|finite")),
    ROW(STEP, SET_U32, ".expert_used_count", SAYS("step35.expert_used_count|0|1|6")),
    ROW(STEP, DROP_TENSOR, "blk.3.ffn_gate_shexp.weight",
        SAYS("blk.3.ffn_gate_shexp.weight|missing")),
    ROW(STEP, DROP_TENSOR, "blk.0.ffn_norm.weight", SAYS("blk.0.ffn_norm.weight|missing")),
    ROW(STEP, DROP_KEY, ".feed_forward_length", SAYS("step35.feed_forward_length|0|4|1048576")),
    /* clang-format on */
};

static bool apply(struct gguf_build *b, const struct bad_model *r, const char *arch)
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

static void check_refused(const char *path, const char *says)
{
    struct hlm_err err = { 0 };
    hlm *m = hlm_test_try(path, &err);
    if (CHECK_MSG(!m, "it opened") && is_one_line(path, &err))
        CHECK_SAYS(err.msg, says);
    hlm_close(m);
}

/* A vector may be stored as a column; a matrix of one row may not, since its rows are multiplied.
 */
static void test_column(const char *path)
{
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s", base_file[DENSE]), &err);
    test_case("a matrix of one row, stored as a column");
    if (!CHECK_OK(b != NULL, err))
        return;
    gb_u32(b, "qwen35.vocab_size", 1);
    if (CHECK(gb_reshape(b, "token_embd.weight", 2, (uint64_t[]){ 1, 64 })) &&
        CHECK_OK(gb_write(b, path, &err), err))
        check_refused(path, "token_embd.weight|1 x 64|64 x 1");
    gb_free(b);
}

static void test_row(const struct bad_model *r, const char *path)
{
    static const char *const arch[] = { "qwen35",     "qwen35moe",      "qwen3next",
                                        "nemotron_h", "nemotron_h_moe", "step35" };
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("%s", base_file[r->base]), &err);
    if (CHECK_OK(b != NULL, err) &&
        CHECK_MSG(apply(b, r, arch[r->base]), "the edit found nothing to edit") &&
        CHECK_OK(gb_write(b, path, &err), err))
        check_refused(path, r->says);
    gb_free(b);
}

/* ---- flipped bytes ---------------------------------------------------------------------- */

/* Where the parts of a file that are worth flipping begin: the model's keys, the tensor directory,
 * the data. The tokenizer's lists, most of the header, are between the first two. */
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

/* Sets one byte to anything, or flips one bit: anywhere before the data, in the keys, or in the
 * directory. */
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

/* Runs a token through a model that opened. Any numbers may come out. */
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
    if (!hlm_session_next(s, &greedy, &id, &err))
        CHECK_SAYS(err.msg, "not finite|first");
    CHECK(id >= 0 && (uint32_t)id < hlm_get_info(m).n_vocab);
    hlm_session_destroy(s);
}

/* These tests provoke warnings and errors, so they are dropped, except those of the validation
 * layer. */
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
        if (test_case("row %u: %s", i, rows[i].name))
            test_row(&rows[i], path);
    }
    test_column(path);
    test_flips("qwen35/base/model-f16.gguf", 30, 1, path);
    test_flips("qwen35moe/k256/model-q4_k_m.gguf", 15, 2, path);
    test_flips("nemotron_h_moe/base/model-q8_0.gguf", 15, 3, path);
    test_flips("step35/base/model-q8_0.gguf", 15, 4, path);
}
