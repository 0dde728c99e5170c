/* ref_model: the structs of the reference's whole models. ref_load.c and the ref_load_*.c files
 * read keys and tensors into them; ref_model.c runs them and does not know the architecture.
 *
 * Quoted words are sections of models/README.md. Read ref.h first, then ref_model.c. */
#pragma once
#include "ref/ref_parts.h"

/* The lists of weights: field, name inside the block, dimensions in GGUF's order (fastest first;
 * those of 1 do not count). A loader expands the lists that it needs, with c the config and l the
 * layer. */
// clang-format off
#define WEIGHTS_ATTENTION(W)                                                                    \
    W(wk,            "attn_k.weight",             c->n_embd, c->head_dim * l->n_kv_head, 1)     \
    W(wv,            "attn_v.weight",             c->n_embd, c->head_dim * l->n_kv_head, 1)     \
    W(wo,            "attn_output.weight",        c->head_dim * l->n_head, c->n_embd, 1)
#define WEIGHTS_QUERY(W)                                                                        \
    W(wq,            "attn_q.weight",             c->n_embd, c->head_dim * l->n_head, 1)
#define WEIGHTS_QUERY_GATED(W) /* for each head the rows of the query, then of its gate */      \
    W(wq_gated,      "attn_q.weight",             c->n_embd, 2 * c->head_dim * l->n_head, 1)
#define WEIGHTS_HEAD_GATE(W)                                                                    \
    W(head_gate,     "attn_gate.weight",          c->n_embd, l->n_head, 1)
#define WEIGHTS_QK_NORM(W)                                                                      \
    W(q_norm,        "attn_q_norm.weight",        c->head_dim, 1, 1)                            \
    W(k_norm,        "attn_k_norm.weight",        c->head_dim, 1, 1)
#define WEIGHTS_SSM(W)                                                                          \
    W(conv,          "ssm_conv1d.weight",         c->conv_k, ref_conv_width(c), 1)              \
    W(dt_bias,       "ssm_dt.bias",               c->n_ssm_head, 1, 1)                          \
    W(ssm_a,         "ssm_a",                     c->n_ssm_head, 1, 1)                          \
    W(ssm_out,       "ssm_out.weight",            ref_inner(c), c->n_embd, 1)
#define WEIGHTS_DELTA(W)                                                                        \
    W(delta_norm,    "ssm_norm.weight",           c->ssm_dim, 1, 1)
#define WEIGHTS_DELTA_IN(W)                                                                     \
    W(wqkv,          "attn_qkv.weight",           c->n_embd, ref_conv_width(c), 1)              \
    W(wz,            "attn_gate.weight",          c->n_embd, ref_inner(c), 1)
#define WEIGHTS_DELTA_GATES(W)                                                                  \
    W(wb,            "ssm_beta.weight",           c->n_embd, c->n_ssm_head, 1)                  \
    W(wa,            "ssm_alpha.weight",          c->n_embd, c->n_ssm_head, 1)
#define WEIGHTS_MAMBA(W) /* rows of ssm_in: z, x, B, C, dt */                                   \
    W(ssm_in,        "ssm_in.weight",             c->n_embd, ref_mamba_in(c), 1)                \
    W(ssm_d,         "ssm_d",                     c->n_ssm_head, 1, 1)                          \
    W(group_norm,    "ssm_norm.weight",           ref_inner(c) / c->n_group, c->n_group, 1)
#define WEIGHTS_DENSE(W)                                                                        \
    W(up,            "ffn_up.weight",             c->n_embd, l->n_ff, 1)                        \
    W(down,          "ffn_down.weight",           l->n_ff, c->n_embd, 1)
#define WEIGHTS_DENSE_GATE(W)                                                                   \
    W(gate,          "ffn_gate.weight",           c->n_embd, l->n_ff, 1)
#define WEIGHTS_MOE(W)                                                                          \
    W(router,        "ffn_gate_inp.weight",       c->n_embd, c->n_expert, 1)                    \
    W(up_exps,       "ffn_up_exps.weight",        ref_expert_in(c), l->n_ff_expert, c->n_expert) \
    W(down_exps,     "ffn_down_exps.weight",      l->n_ff_expert, ref_expert_in(c), c->n_expert)
#define WEIGHTS_MOE_GATE(W)                                                                     \
    W(gate_exps,     "ffn_gate_exps.weight",      ref_expert_in(c), l->n_ff_expert, c->n_expert)
#define WEIGHTS_LATENT(W)                                                                       \
    W(latent_down,   "ffn_latent_down.weight",    c->n_embd, c->n_latent, 1)                    \
    W(latent_up,     "ffn_latent_up.weight",      c->n_latent, c->n_embd, 1)
#define WEIGHTS_SHARED(W)                                                                       \
    W(shared_up,     "ffn_up_shexp.weight",       c->n_embd, c->n_ff_shared, 1)                 \
    W(shared_down,   "ffn_down_shexp.weight",     c->n_ff_shared, c->n_embd, 1)
#define WEIGHTS_SHARED_GATE(W)                                                                  \
    W(shared_gate,   "ffn_gate_shexp.weight",     c->n_embd, c->n_ff_shared, 1)
#define WEIGHTS_SHARED_ROUTER(W)                                                                \
    W(shared_router, "ffn_gate_inp_shexp.weight", c->n_embd, 1, 1)
/* Biases are added where a file has them ("Nemotron tensors"). */
#define BIASES_ATTENTION(W)                                                                     \
    W(q_bias,        "attn_q.bias",               c->head_dim * l->n_head, 1, 1)                \
    W(k_bias,        "attn_k.bias",               c->head_dim * l->n_kv_head, 1, 1)             \
    W(v_bias,        "attn_v.bias",               c->head_dim * l->n_kv_head, 1, 1)             \
    W(o_bias,        "attn_output.bias",          c->n_embd, 1, 1)
#define BIASES_MAMBA(W)                                                                         \
    W(conv_bias,     "ssm_conv1d.bias",           ref_conv_width(c), 1, 1)                      \
    W(in_bias,       "ssm_in.bias",               ref_mamba_in(c), 1, 1)                        \
    W(out_bias,      "ssm_out.bias",              c->n_embd, 1, 1)
#define BIASES_DENSE(W)                                                                         \
    W(up_bias,       "ffn_up.bias",               l->n_ff, 1, 1)                                \
    W(down_bias,     "ffn_down.bias",             c->n_embd, 1, 1)
#define BIASES_MOE(W)                                                                           \
    W(router_bias,   "exp_probs_b.bias",          c->n_expert, 1, 1)

/* One block: h += mixer(rms(h, attn_norm)), then h += ffn(rms(h, ffn_norm)). A block of Nemotron-H
 * has only one of the two. Weights that a block does not have are NULL. */
struct ref_layer {
    enum { MIXER_NONE, MIXER_ATTENTION, MIXER_DELTA, MIXER_MAMBA } mixer;
    enum { FFN_NONE, FFN_DENSE, FFN_MOE } ffn;
    uint32_t n_head, n_kv_head, n_ff, n_ff_expert, n_used;
    uint32_t window;             /* of attention; 0: all keys */
    uint32_t n_rot;              /* 0: no rotation */
    float *rope_freq;            /* [n_rot / 2] */
    float limit, shared_limit;   /* of SwiGLU; shared_limit also of the dense MLP; 0: none */
    float *attn_norm, *ffn_norm; /* [n_embd] */
#define W(field, ...) float *field;
    WEIGHTS_ATTENTION(W) WEIGHTS_QUERY(W) WEIGHTS_QUERY_GATED(W) WEIGHTS_HEAD_GATE(W)
    WEIGHTS_QK_NORM(W)
    WEIGHTS_SSM(W) WEIGHTS_DELTA(W) WEIGHTS_DELTA_IN(W) WEIGHTS_DELTA_GATES(W) WEIGHTS_MAMBA(W)
    WEIGHTS_DENSE(W) WEIGHTS_DENSE_GATE(W)
    WEIGHTS_MOE(W) WEIGHTS_MOE_GATE(W) WEIGHTS_LATENT(W)
    WEIGHTS_SHARED(W) WEIGHTS_SHARED_GATE(W) WEIGHTS_SHARED_ROUTER(W)
    BIASES_ATTENTION(W) BIASES_MAMBA(W) BIASES_DENSE(W) BIASES_MOE(W)
#undef W
};
// clang-format on

/* The parts of an MTP block outside its layer ("Draft blocks"). */
/* clang-format off */
#define WEIGHTS_MTP(W)                                                                          \
    W(eh_proj,       "nextn.eh_proj.weight",      2 * c->n_embd, c->n_embd, 1)                  \
    W(enorm,         "nextn.enorm.weight",        c->n_embd, 1, 1)                              \
    W(hnorm,         "nextn.hnorm.weight",        c->n_embd, 1, 1)
/* clang-format on */

struct ref_mtp {
    float *eh_proj, *enorm, *hnorm;
    float *head_norm, *output; /* the model's, or its own */
};

struct ref_model {
    struct ref_config c;
    struct ref_layer *layer; /* [n_layer + n_mtp] */
    struct ref_mtp *mtp;     /* [n_mtp] */
    bool mtp_raw; /* a depth reads rows before the closing norm ("Draft blocks"), else after it */
    float *token_embd, *output_norm, *output;
    void **owned; /* every float array above, once */
    uint64_t n_owned;
};

/* Widths: of all V heads or Mamba heads; of the convolution, which adds q and k, or B and C, of
 * every group; of the rows of ssm_in of Mamba2; of the input of experts. */
static inline uint32_t ref_inner(const struct ref_config *c) { return c->n_ssm_head * c->ssm_dim; }
static inline uint32_t ref_conv_width(const struct ref_config *c)
{
    return ref_inner(c) + 2 * c->n_group * c->d_state;
}
static inline uint32_t ref_mamba_in(const struct ref_config *c)
{
    return ref_inner(c) + ref_conv_width(c) + c->n_ssm_head;
}
static inline uint32_t ref_expert_in(const struct ref_config *c)
{
    return c->n_latent ? c->n_latent : c->n_embd;
}

/* Fill the arguments of an operation with the layer's sizes and weights. The caller adds the
 * inputs, the state and the past. */
struct ref_attention ref_layer_attention(const struct ref_config *c, const struct ref_layer *l);
struct ref_conv ref_layer_conv(const struct ref_config *c, const struct ref_layer *l);
struct ref_delta ref_layer_delta(const struct ref_config *c, const struct ref_layer *l);
struct ref_mamba ref_layer_mamba(const struct ref_config *c, const struct ref_layer *l);
struct ref_ffn ref_layer_ffn(const struct ref_config *c, const struct ref_layer *l);
struct ref_moe ref_layer_moe(const struct ref_config *c, const struct ref_layer *l);

/* h [n_tok, n_embd]: the embeddings of ids, which are inside the vocabulary. */
void ref_embed(const struct ref_model *m, const int32_t *ids, uint32_t n_tok, double *h);
/* q or k of attention, x [n_tok, n_head, head_dim], in place: the norm of each head unless norm is
 * NULL, then the rotation of the layer. The first token is at pos. */
struct ref_heads {
    const float *norm; /* [head_dim] */
    uint32_t n_head, n_tok, pos;
};
void ref_norm_rotate(const struct ref_config *c, const struct ref_layer *l,
                     const struct ref_heads *of, double *x);

/* ---- loading ---------------------------------------------------------------------------- */

struct ref_loader {
    const struct gguf *g;
    struct ref_model *m;
    struct hlm_err *err;
    uint32_t n_block; /* with MTP blocks: the length of per-layer arrays */
    char key[96], name[96];
};

/* The loader of an architecture: reads the keys of the model and the kinds of its layers, then the
 * tensors of a layer. */
struct ref_family {
    const char *arch;
    bool (*keys)(struct ref_loader *ld);
    bool (*layer)(struct ref_loader *ld, uint32_t i_layer);
};
bool ref_qwen_keys(struct ref_loader *ld);
bool ref_qwen_layer(struct ref_loader *ld, uint32_t i_layer);
bool ref_nemotron_keys(struct ref_loader *ld);
bool ref_nemotron_layer(struct ref_loader *ld, uint32_t i_layer);
bool ref_step_keys(struct ref_loader *ld);
bool ref_step_layer(struct ref_loader *ld, uint32_t i_layer);

/* Sets n_mtp; it is 0 if the file declares MTP blocks but does not have them. */
void ref_find_mtp(struct ref_loader *ld);
/* Writes the key, with the architecture in front, to ld->key. */
const char *ref_key(struct ref_loader *ld, const char *name);
bool ref_key_u32(struct ref_loader *ld, const char *name, enum gguf_need need, uint32_t *v);
bool ref_key_f32(struct ref_loader *ld, const char *name, enum gguf_need need, float *v);
/* A key that is a scalar for all blocks or an array of n_block, in memory that the model owns.
 * Without the key every entry is `absent`. NULL with a reason. */
uint32_t *ref_key_u32_each(struct ref_loader *ld, const char *name, enum gguf_need need,
                           uint32_t absent);
float *ref_key_f32_each(struct ref_loader *ld, const char *name, float absent);
bool *ref_key_bool_each(struct ref_loader *ld, const char *name, enum gguf_need need);

/* Keys that several architectures share: head_dim (default n_embd / n_head; V heads of another size
 * are refused); rope scaling, which is refused; the ssm keys, with ssm_dim = inner_size /
 * n_ssm_head; the counts of experts and the width of the shared expert; the keys of the sigmoid
 * router ("Sigmoid router"). */
bool ref_read_head_dim(struct ref_loader *ld, uint32_t n_head);
bool ref_read_rope_scaling(struct ref_loader *ld);
bool ref_read_ssm(struct ref_loader *ld);
bool ref_read_experts(struct ref_loader *ld);
bool ref_read_sigmoid_router(struct ref_loader *ld);
/* Checks the heads of a layer; sets its rotation, of n_rot dimensions of head_dim. */
bool ref_check_heads(struct ref_loader *ld, uint32_t i_layer);
bool ref_set_rope(struct ref_loader *ld, uint32_t i_layer, uint32_t n_rot, float theta,
                  const float *factor);

float *ref_take(struct ref_model *m, uint64_t n); /* memory that the model owns */
const char *ref_in_block(struct ref_loader *ld, uint32_t i_layer, const char *name);
bool ref_has(struct ref_loader *ld, uint32_t i_layer, const char *name);
/* A tensor as floats: d0 is the length of a row, d1 counts rows, d2 experts. A missing tensor is an
 * error, unless OPTIONAL; *out is then unchanged. */
bool ref_load(struct ref_loader *ld, const char *name, enum gguf_need need, uint64_t d0,
              uint64_t d1, uint64_t d2, float **out);
