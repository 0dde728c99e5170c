/* ref_bwd: the backward of the reference in double precision: of each operation, and of whole
 * models with adapters.
 *
 * Every forward of ref.h has its backward here. It takes the same arguments, then the gradient of
 * the output (dy, dout) and the gradients of the inputs. A backward ADDS to every gradient that it
 * computes, so the caller zeroes them once. Base weights are frozen and have no gradient.
 * Activations, the A and B of LoRA, and the recurrent gates (A_log, dt_bias, D) have one. States
 * and windows, which a forward changes, are only read here: they are those before the first token.
 *
 * Documents: first[n_tok] has, for each token of a packed row, the index of its document's first
 * token. No token sees another document. first NULL means one sequence, with the past (state,
 * window, n_past) that is in the struct; with first there is no past.
 *
 * The formulas of the chunked recurrences are in models/README.md, "DeltaNet backward" and "Mamba2
 * backward"; the others are derived in the code. Read ref.h first. test_ref_bwd.c checks everything
 * against central differences of the forward. Files: ref_bwd.c, ref_bwd_ffn.c (MLP, experts),
 * ref_bwd_delta.c, ref_bwd_mamba.c, ref_train.c. */
#pragma once
#include "ref/ref.h"

/* ---- linear, norms, rotation, loss ------------------------------------------------------ */

double ref_silu_bwd(double x);     /* d silu(x) / dx */
double ref_softplus_bwd(double x); /* d softplus(x) / dx; changes at 20, as the forward does */

/* An adapter: y += scale * B (A x). In all four arrays experts follow one another. da and db get
 * gradients added; NULL: not wanted. rank 0: no adapter. */
struct ref_lora {
    uint32_t rank;
    double scale;        /* alpha / rank */
    const double *a, *b; /* [rank, n_in], [n_out, rank] */
    double *da, *db;
};

/* y = W x + scale * B (A x); l NULL: none. w [n_out, n_in], x [n_tok, n_in], y [n_tok, n_out]. */
void ref_linear_lora(const float *w, uint32_t n_in, uint32_t n_out, const struct ref_lora *l,
                     const double *x, uint32_t n_tok, double *y);
/* dx += W^T dy + scale A^T B^T dy;  dA += scale (B^T dy) x^T;  dB += scale dy (A x)^T.
 * dx may be NULL. */
void ref_linear_bwd(const float *w, uint32_t n_in, uint32_t n_out, const struct ref_lora *l,
                    const double *x, uint32_t n_tok, const double *dy, double *dx);

/* x [n_row, dim] is the input of the norm. Also for the norms of heads. */
void ref_rmsnorm_bwd(const double *x, const float *w, uint32_t dim, uint32_t n_row, double eps,
                     const double *dy, double *dx);
void ref_l2norm_bwd(const double *x, uint32_t dim, uint32_t n_row, double scale, const double *dy,
                    double *dx);

/* The inverse rotation, in place: the gradient of its output becomes that of its input.
 * dx [n_head, head_dim]. */
void ref_rope_bwd(const float *freq, uint32_t n_rot, uint32_t pos, uint32_t n_head,
                  uint32_t head_dim, double *dx);

/* o, z [n_row, dim] are the inputs of the forward. dz NULL: not wanted. */
void ref_gated_norm_bwd(const double *o, const double *z, const float *w, uint32_t dim,
                        uint32_t n_row, double eps, const double *dy, double *d_o, double *dz);
void ref_mamba_norm_bwd(const double *y, const double *z, const float *w, uint32_t n_tok,
                        uint32_t n_group, uint32_t group_dim, double eps, const double *dout,
                        double *dy, double *dz);

/* Cross-entropy over all n_vocab rows. target [n_tok]: the id that row t should give; -1: the row
 * does not count. nll [n_tok], 0 in rows that do not count, or NULL. dlogits += scale * (softmax -
 * onehot) in rows that count, or NULL. Returns the sum of nll. */
double ref_nll(const double *logits, const int32_t *target, uint32_t n_tok, uint32_t n_vocab,
               double scale, double *nll, double *dlogits);

/* ---- attention and convolution ---------------------------------------------------------- */

/* Each may be NULL. dk, dv [n_past + n_tok, n_kv_head, head_dim] are gradients of the rotated,
 * normed inputs that ref_attention() takes. */
struct ref_attention_grad {
    double *dq, *dk, *dv, *dgate, *dhead_gate;
};
/* With first, n_past is 0. */
void ref_attention_bwd(const struct ref_attention *a, const uint32_t *first, const double *dy,
                       const struct ref_attention_grad *g);

/* dwindow [conv_k - 1, n_ch]: the gradient of the inputs before x; NULL: not wanted. */
void ref_conv_silu_bwd(const struct ref_conv *c, const uint32_t *first, const double *dy,
                       double *dx, double *dwindow);

/* ---- recurrences ------------------------------------------------------------------------ */

/* Gradients of ref_delta(). d->state is the state before the first token, NULL: zero. */
struct ref_delta_grad {
    double *dqkv;     /* as qkv: before the l2 norms, summed over the V heads of a K head */
    double *db, *da;  /* [n_tok, n_v_head], before sigmoid and softplus */
    double *da_log;   /* [n_v_head]: ssm_a = -exp(A_log) */
    double *ddt_bias; /* [n_v_head] */
    double *dstate;   /* as state: before the call the gradient of the state after the last token,
                         afterwards that of the state before the first; NULL: none. Only without
                         documents. */
};
void ref_delta_bwd(const struct ref_delta *d, const uint32_t *first, const double *dout,
                   const struct ref_delta_grad *g);
/* In chunks ("DeltaNet in chunks"); a document starts a new chunk. */
void ref_delta_chunked_bwd(const struct ref_delta *d, const uint32_t *first, uint32_t chunk,
                           const double *dout, const struct ref_delta_grad *g);

/* Gradients of ref_mamba(), likewise. */
struct ref_mamba_grad {
    double *dxbc;                   /* as xbc; B and C summed over the heads of a group */
    double *ddt;                    /* [n_tok, n_head], before the softplus */
    double *da_log, *ddt_bias, *dd; /* [n_head] */
    double *dstate;                 /* as above, [n_head, head_dim, d_state] */
};
void ref_mamba_bwd(const struct ref_mamba *m, const uint32_t *first, const double *dout,
                   const struct ref_mamba_grad *g);
void ref_mamba_chunked_bwd(const struct ref_mamba *m, const uint32_t *first, uint32_t chunk,
                           const double *dout, const struct ref_mamba_grad *g);

/* ---- feed-forward ----------------------------------------------------------------------- */

/* The gradient is zero where a clamp cuts ("Step blocks"); limit 0: no clamp. */
void ref_swiglu_limit_bwd(const double *gate, const double *up, uint64_t n, double limit,
                          const double *dy, double *dgate, double *dup);
void ref_relu2_bwd(const double *x, uint64_t n, const double *dy, double *dx);

struct ref_ffn_lora {
    struct ref_lora gate, up, down;
};
/* ref_ffn() with adapters, and its backward; lora NULL: none. */
void ref_ffn_lora(const struct ref_ffn *f, const struct ref_ffn_lora *lora, const double *x,
                  uint32_t n_tok, double *y);
void ref_ffn_bwd(const struct ref_ffn *f, const struct ref_ffn_lora *lora, const double *x,
                 uint32_t n_tok, const double *dy, double *dx);

/* dlogits of one token from the gradient of its chosen experts' weights. The choice is constant;
 * the renormalisation is not. id, weight, dweight [n_used]; dlogits [n_expert]. */
void ref_moe_route_bwd(const double *weight, const uint32_t *id, uint32_t n_used,
                       const double *dweight, double *dlogits);
void ref_moe_route_sigmoid_bwd(const double *logits, const uint32_t *id, uint32_t n_used, bool norm,
                               double scale, const double *dweight, double *dlogits);

/* experts: stacked, [n_expert, ...] in each array. */
struct ref_moe_lora {
    struct ref_ffn_lora experts, shared;
    struct ref_lora latent_down, latent_up, router, shared_router;
};
void ref_moe_lora(const struct ref_moe *m, const struct ref_moe_lora *lora, const double *x,
                  uint32_t n_tok, double *y);
void ref_moe_bwd(const struct ref_moe *m, const struct ref_moe_lora *lora, const double *x,
                 uint32_t n_tok, const double *dy, double *dx);

/* ---- whole models ----------------------------------------------------------------------- */

/* A trained parameter. They have the adapter's order: X.lora_a and X.lora_b in pairs, then deltas
 * of gates. */
struct ref_param {
    char name[96];
    uint64_t n;
    uint32_t rank;        /* of the pair; 0: a gate */
    double *value, *grad; /* [n], in GGUF's order; gradients are added to grad */
    double *m, *v;        /* [n], of AdamW */
};
struct ref_tune {
    const struct ref_model *m; /* must outlive it */
    double alpha, mtp_factor;  /* mtp_factor is set by the caller; 0: no MTP loss */
    uint32_t chunk; /* chunk length in the backward of the recurrences; 0: token by token */
    struct ref_param *param;
    uint32_t n_param;
};
/* Takes A and B of every pair of the adapter. gates: also a zero delta for each ssm_a, ssm_dt.bias
 * and ssm_d of the model (tests/fixtures/train/README.md). False with a reason when the adapter
 * does not fit the model; ref_tune_close() must be called in either case. */
bool ref_tune_open(struct ref_tune *t, const struct ref_model *m, const struct gguf *adapter,
                   bool gates, struct hlm_err *err);
void ref_tune_close(struct ref_tune *t);
struct ref_sums {
    double main; /* sum of nll over the counted targets */
    double mtp;  /* the mean of such sums over the depths */
};
/* One document from zero state, forward. nll [n_tok], by the index of the target, or NULL: token i
 * from 1 on counts if mask[i] is not 0, and is predicted from i - 1. nll_mtp [n_mtp, n_tok] is the
 * same for MTP blocks, if mtp_factor is not 0; depth k counts from i = k + 2 on. MTP block k
 * predicts token i from token i - 1 and from the hidden state of token i - k - 2, which comes from
 * the block before it or from the trunk (models/README.md, "Draft loss").
 *
 * Then backward, unless weight is 0: the gradient of weight * (main + mtp_factor * mtp) is added to
 * every param. Deltas are rounded to float together with the values that they change. */
struct ref_sums ref_tune_document(const struct ref_tune *t, const int32_t *ids, const uint8_t *mask,
                                  uint32_t n_tok, double weight, double *nll, double *nll_mtp);

struct ref_adamw {
    double lr, beta1, beta2, eps;
    double decay, decay_gates; /* of adapters, of gates */
    double clip_norm;          /* 0: none */
};
/* One update of every param from its gradient; then the gradients are zeroed. step counts from 1.
 * Returns the norm of the gradient before clipping. */
double ref_tune_update(struct ref_tune *t, const struct ref_adamw *o, uint32_t step);
