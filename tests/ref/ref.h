/* ref: the reference in double precision: operations, and whole models from a GGUF.
 *
 * It was written from the specification (models/README.md; quoted words are names of its sections
 * and traps), for clarity: plain loops, a fixed order of summation, nothing shared with the engine
 * but the file reader. Weights are rows of floats; everything computed is a double. The order of
 * summation never depends on how a sequence is cut, so any split gives the same bits.
 *
 * Arrays are row-major with the last index fastest; [a, b] is a rows of b. Running out of memory is
 * an assertion. Read ref_ops.c first, then ref_model.c. */
#pragma once
#include "file/file.h"

/* ---- operations ------------------------------------------------------------------------- */

double ref_sigmoid(double x);
double ref_silu(double x);
double ref_softplus(double x); /* log(1 + e^x); above 20 x itself, as in the models' training */
double ref_relu2(double x);    /* max(x, 0)^2 */

/* y = W x. w [n_out, n_in], x [n_tok, n_in], y [n_tok, n_out]. */
void ref_linear(const float *w, uint32_t n_in, uint32_t n_out, const double *x, uint32_t n_tok,
                double *y);

/* y = x / sqrt(mean(x^2) + eps) * w ("Shared operations"), row by row. x, y [n_row, dim], w [dim].
 * y may be x. */
void ref_rmsnorm(const double *x, const float *w, uint32_t dim, uint32_t n_row, double eps,
                 double *y);

/* x = x / sqrt(sum(x^2) + 1e-6) * scale (trap "two epsilons"), row by row, in place. x [n_row,
 * dim]. */
void ref_l2norm(double *x, uint32_t dim, uint32_t n_row, double scale);

/* Inverse frequencies: theta^(-2i/n_rot) in double, divided by factor[i] (NULL: no factors),
 * rounded to float ("Shared operations"). */
void ref_rope_freq(double theta, uint32_t n_rot, const float *factor /* [n_rot / 2] */,
                   float *freq /* [n_rot / 2] */);

/* Rotates the first n_rot of head_dim dimensions, pairs (i, i + n_rot / 2), by the angles
 * pos * freq[i] ("Shared operations"): the heads of one token, in place. x [n_head, head_dim]. */
void ref_rope(const float *freq, uint32_t n_rot, uint32_t pos, uint32_t n_head, uint32_t head_dim,
              double *x);

/* softmax(q k^T / sqrt(head_dim)) v over the keys 0 .. n_past + t for token t, or the newest of
 * them, times the sigmoid of a gate ("Shared operations", "Qwen blocks", "Step blocks"). Query head
 * h reads KV head h / (n_head / n_kv_head). */
struct ref_attention {
    uint32_t n_tok, n_past, n_head, n_kv_head, head_dim;
    const double *q;     /* [n_tok, n_head, head_dim], normed and rotated */
    const double *k, *v; /* [n_past + n_tok, n_kv_head, head_dim] */
    const double *gate;  /* [n_tok, n_head, head_dim] before the sigmoid, or NULL: no gate */
    uint32_t window; /* the newest keys that a token sees, itself included (trap "window includes
                        the token"); 0: all */
    const double *head_gate; /* [n_tok, n_head], one gate a head before the sigmoid, or NULL */
};
void ref_attention(const struct ref_attention *a, double *y /* [n_tok, n_head, head_dim] */);

/* Causal depthwise convolution, then SiLU; the last tap is the current token (traps "what the
 * convolution covers", "convolution window"). */
struct ref_conv {
    uint32_t n_tok, n_ch, conv_k;
    const float *w;    /* [n_ch, conv_k] */
    const double *x;   /* [n_tok, n_ch] */
    double *window;    /* [conv_k - 1, n_ch] the inputs before x, oldest first; updated for the next
                        * call. Zero at the start of a sequence. */
    const float *bias; /* [n_ch], or NULL: none */
};
void ref_conv_silu(const struct ref_conv *c, double *y /* [n_tok, n_ch] */);

/* The "Gated DeltaNet" between convolution and gated norm: l2 norm of q and k, the gates
 * beta = sigmoid(b) and g = ssm_a * softplus(a + dt_bias), and the recurrence per V head
 *     M = e^g M;  M += k (x) beta (v - M^T k);  o = M^T q
 * V head j reads K head j % n_k_head where tiled (qwen35, qwen35moe), j / (n_v_head / n_k_head)
 * where grouped (qwen3next) (traps "delta rule order", "tiled V heads"). */
struct ref_delta {
    uint32_t n_tok, n_k_head, n_v_head, d_state; /* d_state: width of a K head and of a V head */
    bool tiled;
    const double *qkv;   /* [n_tok, (2 n_k_head + n_v_head) * d_state]: all q, all k, all v */
    const double *b, *a; /* [n_tok, n_v_head] */
    const float *ssm_a, *dt_bias; /* [n_v_head]; ssm_a: trap "stored decay" */
    double *state; /* [n_v_head, d_state of k, d_state of v], read and updated; zero at the start */
};
void ref_delta(const struct ref_delta *d, double *o /* [n_tok, n_v_head, d_state] */);
/* The same in chunks ("DeltaNet in chunks"), as prefill and training kernels compute it. */
void ref_delta_chunked(const struct ref_delta *d, uint32_t chunk, double *o);

/* Only the gates. b, a, beta, g [n_tok, n_v_head]; g <= 0 is the logarithm of the decay. */
void ref_delta_gates(const struct ref_delta *d, double *beta, double *g);

/* o = rmsnorm(o, w) * silu(z), norm first (trap "norm and gate order"), in place. o, z [n_row,
 * dim], w [dim]. */
void ref_gated_norm(double *o, const double *z, const float *w, uint32_t dim, uint32_t n_row,
                    double eps);

/* "Mamba2" between convolution and gated norm, per head h of group h / (n_head / n_group):
 *     dt = softplus(dt + dt_bias);  S = e^(dt ssm_a) S + dt x (x) B;  y = S C + d x
 * dt is not clamped from below ("Where sources disagree"). */
struct ref_mamba {
    uint32_t n_tok, n_head, head_dim, n_group, d_state;
    const double *xbc; /* [n_tok, n_head * head_dim + 2 n_group * d_state]: all x, all B, all C */
    const double *dt;  /* [n_tok, n_head], raw */
    const float *ssm_a, *dt_bias, *d; /* [n_head]; ssm_a: trap "stored decay" */
    double *state; /* [n_head, head_dim, d_state], read and updated; zero at the start */
};
void ref_mamba(const struct ref_mamba *m, double *y /* [n_tok, n_head, head_dim] */);
/* The same in chunks ("Mamba2 in chunks"), as prefill and training kernels compute it. */
void ref_mamba_chunked(const struct ref_mamba *m, uint32_t chunk, double *y);

/* y = rms_group(y * silu(z)) * w, gate first, with a mean for each group (trap "norm and gate
 * order"), in place. y, z [n_tok, n_group, group_dim], w [n_group, group_dim]. */
void ref_mamba_norm(double *y, const double *z, const float *w, uint32_t n_tok, uint32_t n_group,
                    uint32_t group_dim, double eps);

/* y = silu(gate) * up. y may be gate or up. */
void ref_swiglu(const double *gate, const double *up, uint64_t n, double *y);
/* y = min(silu(gate), limit) * clamp(up, -limit, limit); limit 0: no clamp (trap "one-sided
 * clamp"). y may be gate or up. */
void ref_swiglu_limit(const double *gate, const double *up, uint64_t n, double limit, double *y);

/* y = down( silu(gate x) * (up x) ), or down( relu2(up x) ) without a gate matrix ("Shared
 * operations"). y [n_tok, n_embd]. */
struct ref_ffn {
    uint32_t n_embd, n_ff;
    const float *gate, *up, *down;    /* [n_ff, n_embd] twice, [n_embd, n_ff]; gate may be NULL */
    double limit;                     /* of SwiGLU; 0: none */
    const float *up_bias, *down_bias; /* [n_ff], [n_embd]; NULL: none */
};
void ref_ffn(const struct ref_ffn *f, const double *x, uint32_t n_tok, double *y);

/* p = softmax(logits). Chooses the n_used largest, the largest first, the lower index of equals.
 * Their weights are p divided by the sum of the chosen p ("Softmax router"). One token. */
void ref_moe_route(const double *logits, uint32_t n_expert, uint32_t n_used, uint32_t *id,
                   double *weight);

/* s = sigmoid(logits). Chooses the n_used largest of s + bias (bias NULL: of s), the largest first,
 * the lower index of equals. Their weights are s, divided by the sum of the chosen s + 1e-20 if
 * norm, times scale (trap "selection bias"). With n_group > 1 only the experts of the n_group_used
 * best groups can be chosen: the groups with the largest sum of their two largest s + bias, the
 * lower group of equals. One token. n_expert is a multiple of n_group, and n_used is at most the
 * number of experts in n_group_used groups. */
void ref_moe_route_sigmoid(const double *logits, const float *bias, uint32_t n_expert,
                           uint32_t n_used, uint32_t n_group, uint32_t n_group_used, bool norm,
                           double scale, uint32_t *id, double *weight);

/* y = sum_k w_k ffn_k(x) + sigmoid(shared_router . x) ffn_shared(x) ("Softmax router"). Without
 * shared_router the second term has no gate ("Sigmoid router"). With a latent the experts work on
 * latent_down x, and latent_up takes their sum; the router and the shared expert still work on x
 * (trap "shared expert"). y [n_tok, n_embd]. */
struct ref_moe {
    uint32_t n_embd, n_expert, n_used, n_ff, n_ff_shared;
    const float *router; /* [n_expert, n_embd] */
    /* gate and up [n_expert, n_ff, n_in], down [n_expert, n_in, n_ff]; n_in is n_latent, or n_embd
     * without a latent. Without gate (NULL) the experts and the shared expert are relu2. */
    const float *gate, *up, *down;
    const float *shared_router;                         /* [n_embd], or NULL */
    const float *shared_gate, *shared_up, *shared_down; /* shared_up NULL: no shared expert */
    double limit, shared_limit;                         /* of SwiGLU; 0: none */
    uint32_t n_latent;                                  /* 0: none */
    const float *latent_down, *latent_up;               /* [n_latent, n_embd], [n_embd, n_latent] */
    bool sigmoid; /* ref_moe_route_sigmoid() with the next fields; else ref_moe_route() */
    const float *router_bias; /* [n_expert], or NULL */
    uint32_t n_group, n_group_used;
    bool norm;
    double scale;
    uint64_t *load; /* [n_expert]: counts how often each expert is chosen; NULL: not wanted */
};
void ref_moe(const struct ref_moe *m, const double *x, uint32_t n_tok, double *y);

/* ---- whole models ----------------------------------------------------------------------- */

struct ref_config {
    char arch[32];    /* qwen35, qwen35moe, qwen3next, nemotron_h, nemotron_h_moe, step35 */
    uint32_t n_layer; /* without MTP blocks */
    uint32_t n_mtp;   /* MTP blocks after them, one for each depth; 0 where the file has none */
    uint32_t n_embd, n_vocab, head_dim;
    /* Delta net: groups are K heads, the others V heads. Mamba2: groups of B and C, Mamba heads. */
    uint32_t conv_k, d_state, n_group, n_ssm_head, ssm_dim;
    bool tiled;
    uint32_t n_expert, n_ff_shared, n_latent;
    bool sigmoid, norm; /* the router; the next fields belong to the sigmoid router */
    uint32_t router_group, router_group_used;
    float scale, eps;
};

struct ref_model; /* weights as floats; immutable, copied out of the file */
struct ref_state; /* one sequence: position, keys, values, convolution windows, recurrent states */

/* Loads the trunk, and the MTP blocks for ref_bwd.h. NULL with a reason when a key or a tensor is
 * missing, when a tensor has the wrong shape, or when dtype.h cannot convert its type. g may be
 * closed afterwards. */
struct ref_model *ref_model_open(const struct gguf *g, struct hlm_err *err);
void ref_model_close(struct ref_model *m); /* takes NULL */
const struct ref_config *ref_model_config(const struct ref_model *m);

/* An empty sequence; m must outlive it. */
struct ref_state *ref_state_create(const struct ref_model *m);
void ref_state_destroy(struct ref_state *s);       /* takes NULL */
uint32_t ref_state_pos(const struct ref_state *s); /* tokens read so far */

/* The stats of a layer. Every ref_forward() of a watched state adds to them. */
struct ref_stats {
    uint64_t *load; /* [n_expert]; NULL: not wanted */
    /* Of the gates of all tokens and heads: their number, the sums of decay and write strength (for
     * Mamba2: dt), the least and the largest decay. */
    double n, decays, writes, least, most;
    /* Of the state after the last token: the number of its numbers, their sum of squares, the
     * largest. */
    double n_state, squares, peak;
};
void ref_state_watch(struct ref_state *s, struct ref_stats *stats /* [n_layer], or NULL */);

/* Reads n_tok more tokens. logits is [n_tok, n_vocab]. hidden is [n_layer + 2, n_tok, n_embd]: the
 * embeddings, the residual after each layer, and the rows after the closing norm. Both may be NULL.
 * False when an id is outside the vocabulary; then nothing has been read. */
bool ref_forward(const struct ref_model *m, struct ref_state *s, const int32_t *ids, uint32_t n_tok,
                 double *logits, double *hidden);
