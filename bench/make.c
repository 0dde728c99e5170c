/* make: hlm-bench make - a model file of real size with random weights, to measure where no real
 * one can be had.
 *
 * Shapes are the published ones of Qwen3.5, Qwen3-Next, Nemotron 3 and Step-3.5. Weights have the
 * spread of a freshly initialised network, so that nothing overflows and every expert gets its
 * share; what such a model says is noise. The vocabulary is a working byte-level one: bytes, then
 * letters merged to two, three and four, then the special tokens. */
#define _FILE_OFFSET_BITS 64
#include "make.h"

#include "ui/common.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct model_shape {
    const char *name, *arch;
    uint32_t n_layer, d, n_head, n_kv, head_dim, n_k, n_v, d_state, ff;
    uint32_t n_expert, n_used, ff_exp, ff_shared, n_vocab;
    bool tied;
    const char *pattern; /* nemotron_h_moe: M Mamba2, * attention, E experts; n_v
                            heads of m_head in n_k groups */
    uint32_t m_head;
    uint32_t n_head_sliding, window, n_dense; /* step35: full attention first of four layers */
};

/* qwen: every fourth layer is attention, a quarter of each head is rotated. */
/* clang-format off */
static const struct model_shape shapes[] = {
    { "qwen35-tiny", "qwen35",
      4, 256, 4, 2, 64, 2, 4, 32, 512, 0, 0, 0, 0, 4096, .tied = true },
    { "qwen35moe-tiny", "qwen35moe",
      4, 256, 4, 2, 64, 2, 4, 32, 0, 16, 4, 256, 256, 4096, .tied = 0 },
    { "qwen3next-tiny", "qwen3next",
      4, 256, 4, 2, 64, 2, 4, 32, 0, 16, 4, 256, 256, 4096, .tied = 0 },
    { "qwen35-0.8b", "qwen35",
      24, 1024, 8, 2, 256, 16, 16, 128, 3584, 0, 0, 0, 0, 248320, .tied = true },
    { "qwen35-2b", "qwen35",
      24, 2048, 8, 2, 256, 16, 16, 128, 6144, 0, 0, 0, 0, 248320, .tied = true },
    { "qwen35-4b", "qwen35",
      32, 2560, 16, 4, 256, 16, 32, 128, 9216, 0, 0, 0, 0, 248320, .tied = true },
    { "qwen35-9b", "qwen35",
      32, 4096, 16, 4, 256, 16, 32, 128, 12288, 0, 0, 0, 0, 248320, .tied = 0 },
    { "qwen35-27b", "qwen35",
      64, 5120, 24, 4, 256, 16, 48, 128, 17408, 0, 0, 0, 0, 248320, .tied = 0 },
    { "qwen35moe-35b-a3b", "qwen35moe",
      40, 2048, 16, 2, 256, 16, 32, 128, 0, 256, 8, 512, 512, 248320,
      .tied = 0 },
    { "qwen3next-80b-a3b", "qwen3next",
      48, 2048, 16, 2, 256, 16, 32, 128, 0, 512, 10, 512, 512, 151936,
      .tied = 0 },
    { "nemotron_h_moe-tiny", "nemotron_h_moe",
      6, 256, 4, 2, 64, 2, 8, 64, 0, 16, 4, 256, 256, 4096, false,
      .pattern = "MEM*ME", .m_head = 64 },
    { "nemotron_h_moe-30b-a3b", "nemotron_h_moe",
      52, 2688, 32, 2, 128, 8, 64, 128, 0, 128, 6, 1856, 3712, 131072,
      false, .pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", .m_head = 64 },
    { "step35-tiny", "step35",
      6, 256, 4, 2, 64, 0, 0, 0, 512, 16, 4, 256, 256, 4096, false,
      .n_head_sliding = 6, .window = 128, .n_dense = 2 },
    { "step35-flash", "step35",
      45, 4096, 64, 8, 128, 0, 0, 0, 11264, 288, 8, 1280, 1280, 128896,
      false, .n_head_sliding = 96, .window = 512, .n_dense = 3 },
};
/* clang-format on */

static bool is_nemotron(const struct model_shape *s) { return s->pattern != NULL; }
static bool is_step(const struct model_shape *s) { return s->window != 0; }
static bool slides(uint32_t i) { return i % 4 != 0; }

/* GGUF's ids; blocks of n elements in n_bytes. */
enum type { F32 = 0, F16 = 1, Q5_0 = 6, Q8_0 = 8, Q4_K = 12, Q6_K = 14 };
static const struct {
    uint32_t n, n_bytes;
} block_of[] = {
    [F32] = { 1, 4 },    [F16] = { 1, 2 },      [Q5_0] = { 32, 22 },
    [Q8_0] = { 32, 34 }, [Q4_K] = { 256, 144 }, [Q6_K] = { 256, 210 },
};

/* Normal with a spread; near 1; -A of the decay; bias of the step. */
enum fill { WEIGHT, ONES, GATE_A, GATE_DT };

struct made_tensor {
    char name[64];
    enum type type;
    enum fill fill;
    uint32_t n_dim;
    uint64_t dim[3], n_bytes;
    double spread;
};

static struct {
    FILE *f;
    const char *path;
    char part[4096];
    const struct model_shape *shape;
    int type; /* 0: Q4_K and Q6_K as in Q4_K_M files; Q8_0; F16 */
    struct made_tensor *tensor;
    uint64_t n_tensor, n_key, n_byte;
    bool counting; /* keys are counted, not written */
    uint64_t rng;
    uint64_t n_all; /* bytes of all tensors */
    struct bar bar;
} g = { .rng = 1, .bar = { .what = "writing", .bytes = true, .lines = true } };

static _Noreturn void die(const char *fmt, ...)
{
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (g.f) {
        fclose(g.f);
        remove(g.part);
    }
    ui_error("%s", msg);
    exit(ui_end(ui_interrupted() ? RC_INTERRUPTED : RC_FAILED));
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* The machine is little-endian, as GGUF is. */
static void put(const void *p, uint64_t n)
{
    if (g.counting)
        return;
    if (fwrite(p, 1, (size_t)n, g.f) != n)
        die("%s: cannot write", g.part);
    g.n_byte += n;
}

static void put_u32(uint32_t v) { put(&v, 4); }
static void put_u64(uint64_t v) { put(&v, 8); }

static void put_str(const char *s)
{
    put_u64(strlen(s));
    put(s, strlen(s));
}

static uint64_t rng_u64(void) /* splitmix64 */
{
    uint64_t z = g.rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double rng_unit(void) { return (double)(rng_u64() >> 11) * 0x1p-53; }

static double rng_normal(void) /* near enough: no tail past 3.5 */
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += rng_unit();
    return sum;
}

static void rng_bytes(uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        uint64_t v = rng_u64();
        memcpy(p + i, &v, n - i < 8 ? n - i : 8);
    }
}

static uint16_t to_f16(double v) /* finite, in range */
{
    uint16_t sign = v < 0 ? 0x8000 : 0;
    int e;
    double m = frexp(fabs(v), &e); /* m in [0.5, 1) */
    if (m == 0)
        return sign;
    if (e < -13) /* subnormal */
        return (uint16_t)(sign | (uint16_t)lrint(ldexp(m, e + 24)));
    return (uint16_t)(sign + (uint16_t)((e + 13) << 10) + (uint16_t)lrint(ldexp(m, 11)));
}

/* ---- keys ----------------------------------------------------------------------------------- */

enum { KEY_U32 = 4, KEY_I32 = 5, KEY_F32 = 6, KEY_BOOL = 7, KEY_STRING = 8, KEY_ARRAY = 9 };

/* A name that begins with a dot is the architecture's own. */
static void put_key(const char *name, uint32_t type)
{
    char full[128];
    snprintf(full, sizeof full, "%s%s", name[0] == '.' ? g.shape->arch : "", name);
    put_str(full);
    put_u32(type);
    g.n_key += g.counting;
}

static void key_u32(const char *name, uint32_t v)
{
    put_key(name, KEY_U32);
    put_u32(v);
}

static void key_f32(const char *name, float v)
{
    put_key(name, KEY_F32);
    put(&v, 4);
}

static void key_str(const char *name, const char *s)
{
    put_key(name, KEY_STRING);
    put_str(s);
}

static void key_array(const char *name, uint32_t type, uint64_t n)
{
    put_key(name, KEY_ARRAY);
    put_u32(type);
    put_u64(n);
}

/* ---- vocabulary ----------------------------------------------------------------------------- */

static const char *const special[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
enum { N_SPECIAL = 3, N_PAIR = 26 * 26, N_TRIPLE = 26 * N_PAIR };

/* A byte as the character that stands for it in byte-level vocabularies, in UTF-8. */
static void byte_text(uint32_t byte, char out[8])
{
    uint32_t c = 256, b;
    bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    for (b = 0; b < byte; b++)
        c += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    c = plain ? byte : c;
    if (c < 128)
        snprintf(out, 8, "%c", (int)c);
    else
        snprintf(out, 8, "%c%c", (int)(0xc0 | c >> 6), (int)(0x80 | (c & 63)));
}

/* Merge number i: "a" + "b", then "ab" + "c", then "ab" + "cd". */
static void merge_text(uint32_t i, char left[4], char right[4])
{
    bool pair = i < N_PAIR, quad = i >= N_PAIR + N_TRIPLE;
    uint32_t of = pair ? i : quad ? i - N_PAIR - N_TRIPLE : i - N_PAIR;
    uint32_t n_right = quad ? N_PAIR : 26, l = of / n_right, r = of % n_right;
    char first[2] = { (char)('a' + l / 26 % 26), 0 };
    snprintf(left, 4, "%s%c", pair ? "" : first, (int)('a' + l % 26));
    first[0] = (char)('a' + r / 26);
    snprintf(right, 4, "%s%c", quad ? first : "", (int)('a' + r % 26));
}

static void put_tokenizer(void)
{
    uint32_t n = g.shape->n_vocab, n_merge = n - 256 - N_SPECIAL;
    char a[8], b[8], text[20];
    key_str("tokenizer.ggml.model", "gpt2");
    key_str("tokenizer.ggml.pre", strcmp(g.shape->arch, "qwen3next") ? "qwen35" : "qwen2");
    key_array("tokenizer.ggml.tokens", KEY_STRING, n);
    for (uint32_t i = 0; !g.counting && i < n; i++) {
        if (i < 256) {
            byte_text(i, text);
        } else if (i < 256 + n_merge) {
            merge_text(i - 256, a, b);
            snprintf(text, sizeof text, "%s%s", a, b);
        } else {
            snprintf(text, sizeof text, "%s", special[i - 256 - n_merge]);
        }
        put_str(text);
    }
    key_array("tokenizer.ggml.token_type", KEY_I32, n);
    for (uint32_t i = 0; i < n; i++)
        put_u32(i < n - N_SPECIAL ? 1 : 3); /* normal, control */
    key_array("tokenizer.ggml.merges", KEY_STRING, n_merge);
    for (uint32_t i = 0; !g.counting && i < n_merge; i++) {
        merge_text(i, a, b);
        snprintf(text, sizeof text, "%s %s", a, b);
        put_str(text);
    }
    key_u32("tokenizer.ggml.bos_token_id", n - N_SPECIAL);
    key_u32("tokenizer.ggml.eos_token_id", n - 1);
    key_u32("tokenizer.ggml.padding_token_id", n - N_SPECIAL);
    put_key("tokenizer.ggml.add_bos_token", KEY_BOOL);
    put("", 1);
    key_str("tokenizer.chat_template",
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
            "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|im_start|>assistant\n' }}{% endif %}");
}

static void put_qwen_keys(void)
{
    const struct model_shape *s = g.shape;
    if (s->ff)
        key_u32(".feed_forward_length", s->ff);
    key_u32(".attention.head_count", s->n_head);
    key_u32(".attention.head_count_kv", s->n_kv);
    key_f32(".rope.freq_base", 1e7f);
    key_u32(".rope.dimension_count", s->head_dim / 4);
    if (strcmp(s->arch, "qwen3next")) {
        uint32_t pairs = s->head_dim / 8, part = (pairs + 2) / 3;
        key_array(".rope.dimension_sections", KEY_I32, 4);
        put_u32(part);
        put_u32(part);
        put_u32(pairs - 2 * part);
        put_u32(0);
    }
    key_u32(".ssm.conv_kernel", 4);
    key_u32(".ssm.state_size", s->d_state);
    key_u32(".ssm.group_count", s->n_k);
    key_u32(".ssm.time_step_rank", s->n_v);
    key_u32(".ssm.inner_size", s->n_v * s->d_state);
    key_u32(".full_attention_interval", 4);
}

/* One number a block: what it is where the block is of that kind, else 0. */
static void key_by_block(const char *name, char kind, uint32_t v)
{
    key_array(name, KEY_I32, g.shape->n_layer);
    for (uint32_t i = 0; i < g.shape->n_layer; i++)
        put_u32(g.shape->pattern[i] == kind ? v : 0);
}

static void put_nemotron_keys(void)
{
    const struct model_shape *s = g.shape;
    key_f32(".attention.layer_norm_epsilon", 1e-5f); /* llama.cpp reads this one */
    key_by_block(".feed_forward_length", 'E', s->ff_exp);
    key_u32(".attention.head_count", s->n_head);
    key_by_block(".attention.head_count_kv", '*', s->n_kv);
    key_u32(".ssm.conv_kernel", 4);
    key_u32(".ssm.state_size", s->d_state);
    key_u32(".ssm.group_count", s->n_k);
    key_u32(".ssm.time_step_rank", s->n_v);
    key_u32(".ssm.inner_size", s->n_v * s->m_head);
    key_f32(".expert_weights_scale", 2.5f);
    put_key(".expert_weights_norm", KEY_BOOL);
    put("\1", 1);
}

static void put_step_keys(void)
{
    const struct model_shape *s = g.shape;
    key_u32(".feed_forward_length", s->ff);
    key_array(".attention.head_count", KEY_I32, s->n_layer);
    for (uint32_t i = 0; i < s->n_layer; i++)
        put_u32(slides(i) ? s->n_head_sliding : s->n_head);
    key_array(".attention.head_count_kv", KEY_I32, s->n_layer);
    for (uint32_t i = 0; i < s->n_layer; i++)
        put_u32(s->n_kv);
    key_u32(".attention.sliding_window", s->window);
    key_array(".attention.sliding_window_pattern", KEY_BOOL, s->n_layer);
    for (uint32_t i = 0; i < s->n_layer; i++)
        put(slides(i) ? "\1" : "", 1);
    key_f32(".rope.freq_base", 5e6f);
    key_f32(".rope.freq_base_swa", 1e4f);
    key_u32(".leading_dense_block_count", s->n_dense);
    key_u32(".expert_gating_func", 2);
    key_f32(".expert_weights_scale", 3.0f);
    put_key(".expert_weights_norm", KEY_BOOL);
    put("\1", 1);
}

static void put_keys(void)
{
    const struct model_shape *s = g.shape;
    char name[64];
    snprintf(name, sizeof name, "random %s %s", s->arch, s->name);
    key_str("general.architecture", s->arch);
    key_str("general.type", "model");
    key_str("general.name", name);
    key_u32("general.file_type", g.type == Q8_0 ? 7 : g.type == F16 ? 1 : 15);
    key_u32("general.quantization_version", 2);
    key_u32(".block_count", s->n_layer);
    key_u32(".context_length", 262144);
    key_u32(".embedding_length", s->d);
    key_u32(".attention.key_length", s->head_dim);
    key_u32(".attention.value_length", s->head_dim);
    key_f32(".attention.layer_norm_rms_epsilon", is_nemotron(s) || is_step(s) ? 1e-5f : 1e-6f);
    if (s->n_expert) {
        key_u32(".expert_count", s->n_expert);
        key_u32(".expert_used_count", s->n_used);
        key_u32(".expert_feed_forward_length", s->ff_exp);
        key_u32(".expert_shared_feed_forward_length", s->ff_shared);
    }
    if (is_nemotron(s))
        put_nemotron_keys();
    else if (is_step(s))
        put_step_keys();
    else
        put_qwen_keys();
    put_tokenizer();
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* F32 where every converter has it; else what was asked for, or what fits where that does not. */
static struct made_tensor *add(enum type type, uint64_t n_in, uint64_t n_out, uint64_t n_expert,
                               const char *fmt, ...)
{
    struct made_tensor *grown = realloc(g.tensor, (g.n_tensor + 1) * sizeof *grown);
    if (!grown)
        die("out of memory");
    g.tensor = grown;
    struct made_tensor *t = &grown[g.n_tensor++];
    va_list ap;
    va_start(ap, fmt);
    *t = (struct made_tensor){
        .n_dim = n_expert ? 3
                 : n_out  ? 2
                          : 1,
        .dim = { n_in, n_out ? n_out : 1, n_expert ? n_expert : 1 },
        .spread = 1 / sqrt((double)n_in),
    };
    vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
    if (type != F32 && g.type)
        type = (enum type)g.type;
    if (n_in % block_of[type].n) /* as llama.cpp's quantiser falls back */
        type = n_in % 32 ? F16 : type == Q4_K ? Q5_0 : Q8_0;
    t->type = type;
    t->n_bytes = n_in / block_of[type].n * block_of[type].n_bytes * t->dim[1] * t->dim[2];
    return t;
}

static void add_norm(uint64_t n, const char *fmt, uint32_t i)
{
    add(F32, n, 0, 0, fmt, i)->fill = ONES;
}

static void add_delta(uint32_t i)
{
    const struct model_shape *s = g.shape;
    uint64_t kd = s->n_k * s->d_state, vd = s->n_v * s->d_state;
    add(Q4_K, s->d, 2 * kd + vd, 0, "blk.%u.attn_qkv.weight", i);
    add(Q4_K, s->d, vd, 0, "blk.%u.attn_gate.weight", i);
    if (!strcmp(s->arch, "qwen3next")) {
        add(Q8_0, s->d, 2 * s->n_v, 0, "blk.%u.ssm_ba.weight", i);
    } else {
        add(Q8_0, s->d, s->n_v, 0, "blk.%u.ssm_beta.weight", i);
        add(Q8_0, s->d, s->n_v, 0, "blk.%u.ssm_alpha.weight", i);
    }
    add(F32, 4, 2 * kd + vd, 0, "blk.%u.ssm_conv1d.weight", i);
    add(F32, s->n_v, 0, 0, "blk.%u.ssm_a", i)->fill = GATE_A;
    add(F32, s->n_v, 0, 0, "blk.%u.ssm_dt.bias", i)->fill = GATE_DT;
    add_norm(s->d_state, "blk.%u.ssm_norm.weight", i);
    add(Q4_K, vd, s->d, 0, "blk.%u.ssm_out.weight", i);
}

/* Q4_K_M gives some layers' value and down projections more bits. */
static enum type more_bits(uint32_t i)
{
    uint32_t n = g.shape->n_layer;
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2 ? Q6_K : Q4_K;
}

static void add_attention(uint32_t i)
{
    const struct model_shape *s = g.shape;
    add(Q4_K, s->d, 2 * s->head_dim * s->n_head, 0, "blk.%u.attn_q.weight", i);
    add(Q4_K, s->d, s->head_dim * s->n_kv, 0, "blk.%u.attn_k.weight", i);
    add(more_bits(i), s->d, s->head_dim * s->n_kv, 0, "blk.%u.attn_v.weight", i);
    add_norm(s->head_dim, "blk.%u.attn_q_norm.weight", i);
    add_norm(s->head_dim, "blk.%u.attn_k_norm.weight", i);
    add(Q4_K, s->head_dim * s->n_head, s->d, 0, "blk.%u.attn_output.weight", i);
}

static void add_moe(uint32_t i)
{
    const struct model_shape *s = g.shape;
    add(F32, s->d, s->n_expert, 0, "blk.%u.ffn_gate_inp.weight", i);
    add(Q4_K, s->d, s->ff_exp, s->n_expert, "blk.%u.ffn_gate_exps.weight", i);
    add(Q4_K, s->d, s->ff_exp, s->n_expert, "blk.%u.ffn_up_exps.weight", i);
    add(more_bits(i), s->ff_exp, s->d, s->n_expert, "blk.%u.ffn_down_exps.weight", i);
    add(F32, s->d, 0, 0, "blk.%u.ffn_gate_inp_shexp.weight", i);
    add(Q4_K, s->d, s->ff_shared, 0, "blk.%u.ffn_gate_shexp.weight", i);
    add(Q4_K, s->d, s->ff_shared, 0, "blk.%u.ffn_up_shexp.weight", i);
    add(more_bits(i), s->ff_shared, s->d, 0, "blk.%u.ffn_down_shexp.weight", i);
}

static void add_mamba(uint32_t i)
{
    const struct model_shape *s = g.shape;
    uint64_t inner = (uint64_t)s->n_v * s->m_head, conv = inner + 2 * s->n_k * s->d_state;
    add(Q4_K, s->d, inner + conv + s->n_v, 0, "blk.%u.ssm_in.weight", i);
    add(F32, 4, conv, 0, "blk.%u.ssm_conv1d.weight", i);
    add(F32, conv, 0, 0, "blk.%u.ssm_conv1d.bias", i);
    add(F32, s->n_v, 0, 0, "blk.%u.ssm_dt.bias", i)->fill = GATE_DT;
    add(F32, 1, s->n_v, 0, "blk.%u.ssm_a", i)->fill = GATE_A;
    add(F32, 1, s->n_v, 0, "blk.%u.ssm_d", i)->fill = ONES;
    add(F32, inner / s->n_k, s->n_k, 0, "blk.%u.ssm_norm.weight", i)->fill = ONES;
    add(Q4_K, inner, s->d, 0, "blk.%u.ssm_out.weight", i);
}

/* Attention of Nemotron and Step: no gate in the queries. */
static void add_plain_attention(uint32_t i, uint32_t n_head)
{
    const struct model_shape *s = g.shape;
    add(Q4_K, s->d, s->head_dim * n_head, 0, "blk.%u.attn_q.weight", i);
    add(Q4_K, s->d, s->head_dim * s->n_kv, 0, "blk.%u.attn_k.weight", i);
    add(more_bits(i), s->d, s->head_dim * s->n_kv, 0, "blk.%u.attn_v.weight", i);
    add(Q4_K, s->head_dim * n_head, s->d, 0, "blk.%u.attn_output.weight", i);
}

/* Experts with a sigmoid router; gates only where the activation has them. */
static void add_biased_moe(uint32_t i, bool gates)
{
    const struct model_shape *s = g.shape;
    add(F32, s->d, s->n_expert, 0, "blk.%u.ffn_gate_inp.weight", i);
    add(F32, s->n_expert, 0, 0, "blk.%u.exp_probs_b.bias", i)->spread = 0.01;
    if (gates) {
        add(Q4_K, s->d, s->ff_exp, s->n_expert, "blk.%u.ffn_gate_exps.weight", i);
        add(Q4_K, s->d, s->ff_shared, 0, "blk.%u.ffn_gate_shexp.weight", i);
    }
    add(Q4_K, s->d, s->ff_exp, s->n_expert, "blk.%u.ffn_up_exps.weight", i);
    add(more_bits(i), s->ff_exp, s->d, s->n_expert, "blk.%u.ffn_down_exps.weight", i);
    add(Q4_K, s->d, s->ff_shared, 0, "blk.%u.ffn_up_shexp.weight", i);
    add(more_bits(i), s->ff_shared, s->d, 0, "blk.%u.ffn_down_shexp.weight", i);
}

static void add_dense(uint32_t i)
{
    const struct model_shape *s = g.shape;
    add(Q4_K, s->d, s->ff, 0, "blk.%u.ffn_gate.weight", i);
    add(Q4_K, s->d, s->ff, 0, "blk.%u.ffn_up.weight", i);
    add(more_bits(i), s->ff, s->d, 0, "blk.%u.ffn_down.weight", i);
}

static void add_qwen_layer(uint32_t i)
{
    if ((i + 1) % 4)
        add_delta(i);
    else
        add_attention(i);
    add_norm(g.shape->d, "blk.%u.post_attention_norm.weight", i);
    if (g.shape->n_expert)
        add_moe(i);
    else
        add_dense(i);
}

static void add_nemotron_layer(uint32_t i)
{
    char kind = g.shape->pattern[i];
    if (kind == 'M')
        add_mamba(i);
    else if (kind == '*')
        add_plain_attention(i, g.shape->n_head);
    else
        add_biased_moe(i, false);
}

static void add_step_layer(uint32_t i)
{
    const struct model_shape *s = g.shape;
    uint32_t n_head = slides(i) ? s->n_head_sliding : s->n_head;
    add_plain_attention(i, n_head);
    add_norm(s->head_dim, "blk.%u.attn_q_norm.weight", i);
    add_norm(s->head_dim, "blk.%u.attn_k_norm.weight", i);
    add(Q4_K, s->d, n_head, 0, "blk.%u.attn_gate.weight", i);
    add_norm(s->d, "blk.%u.ffn_norm.weight", i);
    if (i < s->n_dense)
        add_dense(i);
    else
        add_biased_moe(i, true);
}

static void add_tensors(void)
{
    const struct model_shape *s = g.shape;
    add(s->tied ? Q6_K : Q4_K, s->d, s->n_vocab, 0, "token_embd.weight");
    add(F32, s->d, 0, 0, "output_norm.weight")->fill = ONES;
    if (!s->tied)
        add(Q6_K, s->d, s->n_vocab, 0, "output.weight");
    for (uint32_t i = 0; i < s->n_layer; i++) {
        add_norm(s->d, "blk.%u.attn_norm.weight", i);
        if (is_nemotron(s))
            add_nemotron_layer(i);
        else if (is_step(s))
            add_step_layer(i);
        else
            add_qwen_layer(i);
    }
}

/* ---- weights -------------------------------------------------------------------------------- */

static float value(const struct made_tensor *t)
{
    switch (t->fill) {
    case ONES: return (float)(1 + 0.05 * rng_normal());
    case GATE_A: return (float)-(0.01 + 15.99 * rng_unit());
    /* softplus of it is a step from 0.001 to 0.1 */
    case GATE_DT: return (float)log(expm1(exp(log(1e-3) + rng_unit() * log(1e2))));
    case WEIGHT: break;
    }
    return (float)(t->spread * rng_normal());
}

static void pack_scales(const uint8_t s[8], uint8_t sc[12]) /* of Q4_K; minima like scales */
{
    for (int i = 0; i < 4; i++) {
        sc[i] = sc[i + 4] = (uint8_t)(s[i] | (s[i + 4] >> 4) << 6);
        sc[i + 8] = (uint8_t)((s[i + 4] & 15) | (s[i + 4] & 15) << 4);
    }
}

/* Random numbers in every place; d such that the values have the spread. */
static void make_block(const struct made_tensor *t, uint8_t *b)
{
    uint16_t d, m;
    float f;
    uint8_t scale[16];
    switch (t->type) {
    case F32:
        f = value(t);
        memcpy(b, &f, 4);
        break;
    case F16:
        d = to_f16((double)value(t));
        memcpy(b, &d, 2);
        break;
    case Q5_0: /* uniform over 32: 9.23 */
        d = to_f16(t->spread / 9.23);
        memcpy(b, &d, 2);
        rng_bytes(b + 2, 20);
        break;
    case Q8_0: /* uniform over 256: 73.9 */
        d = to_f16(t->spread / 73.9);
        memcpy(b, &d, 2);
        rng_bytes(b + 2, 32);
        break;
    case Q4_K: /* uniform over 16: 4.61; minimum 7.5 times scale: mean 0 */
        d = to_f16(t->spread / (4.61 * 48));
        m = to_f16(t->spread / (4.61 * 48) * 7.5);
        memcpy(b, &d, 2);
        memcpy(b + 2, &m, 2);
        rng_bytes(scale, 8);
        for (int i = 0; i < 8; i++)
            scale[i] = 32 | (scale[i] & 31);
        pack_scales(scale, b + 4);
        rng_bytes(b + 16, 128);
        break;
    case Q6_K: /* uniform over 64: 18.5 */
        d = to_f16(t->spread / (18.5 * 80));
        rng_bytes(b, 208);
        for (int i = 0; i < 16; i++) /* scales of 64 to 95, both signs */
            b[192 + i] = (uint8_t)((b[192 + i] & 128 ? -1 : 1) * (64 | (b[192 + i] & 31)));
        memcpy(b + 208, &d, 2);
        break;
    }
}

static void put_tensor(const struct made_tensor *t)
{
    static uint8_t buf[1 << 16];
    uint32_t n = block_of[t->type].n_bytes;
    for (uint64_t at = 0; at < t->n_bytes;) {
        uint32_t fill = 0;
        for (; fill + n <= sizeof buf && at < t->n_bytes; fill += n, at += n)
            make_block(t, buf + fill);
        put(buf, fill);
        if (!bar_progress(&g.bar, ui_min_u64(g.n_byte, g.n_all), g.n_all))
            die("stopped: %s is not written", g.path);
    }
}

static uint64_t aligned(uint64_t n) { return (n + 31) / 32 * 32; }

static void put_padding(void)
{
    static const uint8_t zero[32];
    put(zero, aligned(g.n_byte) - g.n_byte);
}

static void put_file(void)
{
    uint64_t offset = 0;
    g.counting = true;
    put_keys();
    g.counting = false;
    put("GGUF", 4);
    put_u32(3);
    put_u64(g.n_tensor);
    put_u64(g.n_key);
    put_keys();
    for (struct made_tensor *t = g.tensor; t < g.tensor + g.n_tensor; t++) {
        put_str(t->name);
        put_u32(t->n_dim);
        put(t->dim, 8 * t->n_dim);
        put_u32(t->type);
        put_u64(offset);
        offset += aligned(t->n_bytes);
    }
    put_padding();
    for (struct made_tensor *t = g.tensor; t < g.tensor + g.n_tensor; t++) {
        put_tensor(t);
        put_padding();
    }
}

#define USAGE "make ARCH-SIZE TYPE OUT.gguf [SEED] [--force]"
#define ABOUT                                                                                      \
    "Writes a model with random weights and true dimensions, for measuring speed.\n"               \
    "An earlier model there is replaced; with --force any file is.\n"                              \
    "TYPE: q4_k_m q8_0 f16. ARCH-SIZE:\n"

static int usage(void)
{
    fputs("usage: hlm-bench " USAGE "\n" ABOUT, stdout);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        printf("  %-22s  %2u layers, width %u\n", shapes[i].name, shapes[i].n_layer, shapes[i].d);
    return RC_OK;
}

/* A word that is none of the list: which it may be, and which there are. */
static int unknown(const char *what, const char *word, const char *const *list)
{
    const char *near = ui_nearest(word, list);
    char all[512] = "";
    for (size_t i = 0, n = 0; list[i] && n < sizeof all; i++)
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", list[i]);
    ui_look("hlm-bench");
    ui_wrong("make: unknown %s '%s'%s%s; known are %s", what, word,
             near ? ", perhaps you mean " : "", near ? near : "", all);
    fputs("usage: hlm-bench " USAGE "\n", stderr);
    return RC_USAGE;
}

/* What the words say is to be made. RC_OK, or it is said what is wrong. */
static int read_words(char **argv)
{
    static const char *const types[] = { "q4_k_m", "q8_0", "f16", NULL };
    static const int ids[] = { 0, Q8_0, F16 };
    const char *names[sizeof shapes / sizeof *shapes + 1] = { NULL };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        names[i] = shapes[i].name;
        if (!strcmp(argv[1], shapes[i].name))
            g.shape = &shapes[i];
    }
    if (!g.shape)
        return unknown("ARCH-SIZE", argv[1], names);
    g.type = -1;
    for (size_t i = 0; types[i]; i++)
        if (!strcmp(argv[2], types[i]))
            g.type = ids[i];
    return g.type < 0 ? unknown("TYPE", argv[2], types) : RC_OK;
}

/* The same as lines of fields, for man pages and completions (tools/docs.sh). */
static int print_table(void)
{
    puts("usage\t" USAGE);
    for (const char *line = ABOUT; *line; line += strcspn(line, "\n") + 1)
        printf("about\t%.*s\n", (int)strcspn(line, "\n"), line);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        printf("about\t  %s: %u layers, width %u\nword\t%s\n", shapes[i].name, shapes[i].n_layer,
               shapes[i].d, shapes[i].name);
    return 0;
}

int bench_make(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--print-flags"))
        return print_table();
    if (argc == 2 && !strcmp(argv[1], "--help"))
        return usage();
    if (argc > 1 && !strcmp(argv[argc - 1], "--force")) {
        ui.force = true;
        argc--;
    }
    if (argc < 4 || argc > 5) {
        fputs("hlm-bench: make takes three or four words; --help explains them\nusage: "
              "hlm-bench " USAGE "\n",
              stderr);
        return RC_USAGE;
    }
    int rc = read_words(argv);
    if (rc != RC_OK)
        return rc;
    if (!ui_start("hlm-bench"))
        return RC_FAILED;
    g.path = argv[3];
    g.rng = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
    if (!ui_may_write(g.path, FILE_MODEL))
        return ui_end(RC_USAGE);
    int n = snprintf(g.part, sizeof g.part, "%s.part", g.path);
    if (n < 0 || n >= (int)sizeof g.part || !(g.f = fopen(g.part, "wb")))
        die("%s.part: cannot be made", g.path);
    ui_unfinished(g.part, true);
    add_tensors();
    for (uint64_t i = 0; i < g.n_tensor; i++)
        g.n_all += g.tensor[i].n_bytes;
    put_file();
    bar_clear();
    int bad = ferror(g.f);
    bad |= fclose(g.f);
    g.f = NULL;
    if (bad || rename(g.part, g.path) != 0) {
        remove(g.part);
        die("%s: cannot be written", g.path);
    }
    uint64_t n_param = 0;
    for (uint64_t i = 0; i < g.n_tensor; i++)
        n_param += g.tensor[i].dim[0] * g.tensor[i].dim[1] * g.tensor[i].dim[2];
    printf("%s: %s, %s weights\n", g.path, num_bytes(g.n_byte).s, num_short(n_param).s);
    free(g.tensor);
    return ui_end(RC_OK);
}
