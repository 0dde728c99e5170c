/* op: the operations that layers are made of. An op is the largest unit that can be fused: a norm
 * with the projections that read it, a whole linear-attention mixer, a whole mixture of experts. It
 * picks the dispatches that suit the batch size and the device from a table of paths, which models
 * do not see. Every op has a plain path, which is the reference for the others.
 *
 * An op returns its output, a tensor in the cmd's scratch. The tensor stays until the block scratch
 * in which it was made is emptied (gpu.h). Activations are f32. Errors stick to the cmd. */
#pragma once
#include "ops/tape.h"

/* The packed rows (pack.h) of one weight matrix, or of n_expert matrices that lie one after
 * another. */
typedef struct linear {
    struct arena *arena;
    uint64_t offset;
    enum dtype dtype;
    uint32_t n_in, n_out, n_expert;
    uint32_t row_q; /* 16-byte words of a packed row */
    /* This many rows at the end always take f32 operands, because they make recurrent gates or
     * choose experts. A matrix with such rows comes last among those that are multiplied side by
     * side. */
    uint32_t n_f32_rows;
    tensor bias;       /* [n_out], added to the product; arena NULL: there is none */
    uint64_t codebook; /* where the type's codebook (dtype_codebook) is, in bytes from the arena's
                          start; unused if the type has none */
    const struct lora *lora; /* what adapters add to the product; NULL: nothing */
} linear;

/* Low-rank factors of a matrix: y += B (A x). Both are F32 and have as many experts as the matrix.
 * The rank, which is the number of rows of A and of columns of B, is a multiple of 4. Matrices that
 * are multiplied together may share A. */
struct lora {
    linear a, b;
    uint32_t id; /* the number of A in its set of adapters, which picks the units that dropout
                    leaves out of A's input (tape.h) */
};

/* The activation between the matrices of a feed-forward network. */
struct act {
    enum act_kind kind; /* enums.h */
    float limit;        /* 0: none */
};
/* The number of input columns for each output column. */
static inline uint32_t act_width(struct act a) { return a.kind == ACT_SWIGLU ? 2 : 1; }

/* The documents of a training row. No document sees another: each begins without keys, window and
 * state. Padding is a separate document. */
struct docs {
    tensor first; /* I32 [1][n_tok]: the first token of each token's document, so that the position
                     of token t is t - first[t] */
    uint32_t chunk, n_chunk; /* recurrences work in at most n_chunk chunks of at most `chunk`
                                tokens, a multiple of 16 up to 64 */
    /* I32 [n_chunk][4]: the chunk's first token; how many tokens it has, 0 if it is not in use; 1
     * if it begins a document; 1 if it ends one. */
    tensor chunks;
    tensor real; /* I32 [1][n_tok]: 0 for padding, which statistics do not count; arena NULL: no
                    statistics are wanted */
};

/* Shared by all ops of one submission. Its tokens are one segment, or n_seg segments of one token
 * each (push.h). Segments of one token are decoded: each gets the bits that it gets alone, whatever
 * the others are, if the cmd is set to that (cmd_set_each). */
struct batch {
    uint32_t n_tok, n_seg;
    tensor step;             /* struct segment of push.h for each of n_seg segments */
    tensor ids;              /* I32 [n_seq][n_ctx + 1]: the ids of each sequence, by position */
    const struct docs *docs; /* NULL: the tokens continue what the caches hold. Otherwise there are
                                no caches, and the batch is one training row, in one segment */
    bool stats; /* recurrent layers with room for statistics (struct gate_stats) write those of
                   their gates and, for a training row, those of their states */
};

/* Every token is decoded in a segment of its own. */
static inline bool batch_decodes(const struct batch *b) { return b->n_seg == b->n_tok; }

/* The lanes of a workgroup. A CPU device runs the subgroups of a workgroup one after another, so
 * its workgroups have only one. */
static inline uint32_t wg_size(const struct gpu_caps *caps, uint32_t on_gpu)
{
    return caps->kind == GPU_CPU ? caps->subgroup : on_gpu;
}

/* n invocations for each of n_row rows, which are dimension y of the grid. A dimension has at most
 * 65535 workgroups, so kernels go on from a row to row + gl_NumWorkGroups.y. */
static inline struct grid row_grid(uint32_t n, uint32_t n_row, uint32_t wg)
{
    return GRID(div_up(n, wg), min_u32(n_row, 32768), 1);
}

/* ---- op_stats.c ---- */

/* Where to write statistics of a recurrent layer's heads (push.h); arena NULL: not wanted. */
struct gate_stats {
    tensor gates; /* F32 [n_head][GATE_STATS] */
    tensor state; /* F32 [n_head][STATE_STATS] */
};
/* What gates are computed from: columns of the joint projection p, and two vectors. For Gated
 * DeltaNet the columns of a begin at decay_col and those of b at beta_col; for Mamba2, which has no
 * b (NO_BETA), the columns of dt begin at decay_col. */
#define NO_BETA UINT32_MAX
struct gate_input {
    tensor p, ssm_a, dt_bias;
    uint32_t decay_col, beta_col;
};
/* Writes the statistics of the batch's gates. */
void op_gate_stats(struct cmd *c, const struct gate_input *in, const struct batch *b, tensor to);
/* Statistics of states of n numbers each, a multiple of 4. Without docs there is one state for each
 * of n_head heads, in the slot that the first segment of the next batch reads. With docs they are
 * the states with which chunks [chunk0, chunk0 + n_chunk) begin, except chunks that begin a
 * document; push_state_stats (push.h) says where they lie. add: the result is added to what `to`
 * holds for these heads. */
struct state_stats {
    tensor states, step; /* step: the step buffer, not with docs */
    uint32_t n, n_head;
    const struct docs *docs;
    uint32_t by_head, by_chunk, from, chunk0, n_chunk, head0;
    bool add;
    tensor to; /* [n_head of the layer][STATE_STATS] */
};
void op_state_stats(struct cmd *c, const struct state_stats *s);

/* What a recurrent layer (Gated DeltaNet, Mamba2) remembers of earlier batches. */
struct recurrent {
    /* In state slots (push.h: struct segment): a batch reads one and writes another. */
    tensor window; /* F32 [n_slot][conv_k - 1][d_conv]: the convolution's last inputs */
    tensor state;  /* F32 [n_slot][n_head][n_row][n]: Gated DeltaNet [n_v_head][d_state][d_state],
                      Mamba2 [n_head][d_state][head_dim] */
    struct gate_stats stats;
};

/* ---- op_linear.c ---- */

/* A way to compute y = W x. Tests visit every one that the device can run. */
struct linear_path {
    const char *name;
    enum kernel kernel;
    enum { ANY_DEVICE, CPU_ONLY, NOT_CPU } device;
    uint32_t min_tok, max_tok;
    bool fuses; /* it can apply a norm to x as it reads it, and an activation to the product */
    bool f16; /* operands are f16, each row of x or dy scaled to fit; sums are f32. Taken only when
                 the cmd allows it (cmd_set_f16) */
};
extern const struct linear_path linear_paths[];
extern const uint32_t n_linear_path;
/* True if f16 operands make the products of many tokens faster: on a device with matrix units that
 * is not a software device. */
bool linear_f16_pays(const struct gpu_caps *caps);
/* True if the device can run the path. */
bool linear_path_runs(const struct gpu_caps *caps, const struct linear_path *path);

struct linear_args {
    tensor x; /* [n_tok][n_in] */
    const linear *w;
    tensor y;           /* [n_tok][n_out], with act n_out / act_width; col and stride apply */
    const tensor *norm; /* [n_in]: x is normalised first; only with a path that fuses */
    float eps;
    const struct act *act; /* applied to the product; only with a path that fuses, without res, and
                              where one binding holds w */
    const tensor *res;     /* [n_tok][n_out]: added to the product */
    const tensor *gate;    /* [n_tok][1]: its sigmoid multiplies the product before res is added */
    const tensor
        *halves; /* x in f16, shared by several products; NULL: made here if the path needs it */
};
void linear_by(struct cmd *c, const struct linear_path *path, const struct linear_args *a);
/* Rows [row0, row0 + n) of w as plain words, for binding. */
tensor linear_rows(const linear *w, uint64_t row0, uint32_t n);
/* The number of rows of a slab: the most that a binding can address, and so that the next slab
 * begins where a binding may begin. 0: not even one row fits. */
uint32_t linear_slab_rows(const struct gpu_caps *caps, const linear *w);
/* The codebook of w's type as words, for the binding that weight.glsl calls CODEBOOK_BINDING. For a
 * type without one, any tensor that may be bound there. */
tensor linear_codebook(const linear *w);

/* ---- op_linear_bwd.c ---- */

/* The ways to compute dx += W^T dy, [n_tok][n_in] from [n_tok][n_out]. Both may be views of
 * columns. */
extern const struct linear_path linear_bwd_paths[];
extern const uint32_t n_linear_bwd_path;
void linear_bwd_by(struct cmd *c, const struct linear_path *path, const linear *w, tensor dy,
                   tensor dx);
void linear_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx);
/* The gradient of F32 weights: dw[o][k] += sum_t dy[t][o] x[t][k]. dw is laid out as linear_rows.
 */
void linear_outer(struct cmd *c, const linear *w, tensor x, tensor dy, tensor dw);

/* ---- op_norm.c ---- */

/* y = rms(x) * w, for each row of x. */
tensor op_norm(struct cmd *c, tensor x, tensor w, float eps);
/* The activation of x, [n_tok][x.n / act_width]. Gates are the first half of x's columns. */
tensor op_act(struct cmd *c, tensor x, struct act act);

/* ---- op_product.c ---- */

/* y += x, of the same size. Adds the gradient of a value that bypasses an op, as residuals do. */
void op_accumulate(struct cmd *c, tensor y, tensor x);
/* All W_i rms(x) side by side: [n_tok][sum of n_out], with the stride rounded up to 4. Consecutive
 * matrices in memory that have one type share one dispatch. */
tensor op_norm_linear(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                      uint32_t n_w);
/* The same without a norm. */
tensor op_linear(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w);
/* The activation of all W_i rms(x) side by side, or of all W_i x: with SwiGLU of two matrices, that
 * of the gates first. */
tensor op_norm_linear_act(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                          uint32_t n_w, struct act act);
tensor op_linear_act(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w, struct act act);
/* res + W x */
tensor op_linear_add(struct cmd *c, tensor x, const linear *w, tensor res);
/* res + sigmoid(gate[t]) W x. gate: [n_tok][1] */
tensor op_linear_add_gated(struct cmd *c, tensor x, const linear *w, tensor res, tensor gate);
/* clang-format off */
#define LINEARS(...) (const linear *const[]){ __VA_ARGS__ }, \
                     (uint32_t)(sizeof((const linear *const[]){ __VA_ARGS__ }) / \
                                sizeof(const linear *))
/* clang-format on */

/* ---- op_grouped.c ---- */

/* The entries of a batch sorted by expert, as the kernel moe_sort leaves them. An entry is a token
 * with one of its n_used experts. n_row: the entries that an expert has on average; tile: the most
 * entries of a tile; max_tile: the most tiles. */
struct grouping {
    tensor entries, tiles;
    uint32_t n_used, n_row, max_tile, tile;
};
/* A product of every entry with its expert. */
struct grouped_args {
    const linear *w;
    tensor x;      /* [n_tok][n_in]; with by_entry [entries][n_in] */
    bool by_entry; /* x has a row for each entry, else one for each token */
    const struct grouping *g;
};
/* y[e] = W_expert(e) x[e] for all entries e = token * n_used + slot. y: [entries][n_out] */
void linear_grouped(struct cmd *c, struct grouped_args a, tensor y);
/* Its backward, from the gradient dy of y. Adds the gradient of every entry's x to dx,
 * [entries][n_in] (arena NULL: not wanted), and adds to the gradients of the experts' factors that
 * are trained. */
void linear_grouped_bwd(struct cmd *c, struct grouped_args a, tensor dy, tensor dx);
/* The most entries that a tile may have; 0: the device cannot run the kernels for tiles. */
uint32_t linear_group_tile(const struct gpu_caps *caps, uint32_t n_row);

/* ---- op_embed.c ---- */

/* The rows of w for the batch's ids: [n_tok][n_in]. */
tensor op_embed(struct cmd *c, const linear *w, const struct batch *b);
/* Each row of x with the same row of y after it: [n_tok][x.n + y.n]. */
tensor op_beside(struct cmd *c, tensor x, tensor y);
/* Advances the step buffer past the batch. The last op of a submission that does not sample. */
void op_advance(struct cmd *c, const struct batch *b);
/* The logits of the last token of each segment belong to the state slot that the batch writes:
 * copies rows of logits, [n_seg][n_vocab], there. slots: F32 [n_slot][n_vocab] */
void op_keep_logits(struct cmd *c, tensor logits, tensor slots, const struct batch *b);
/* The logits of the slots that the next batch reads: [n_seg][n_vocab]. */
tensor op_kept_logits(struct cmd *c, tensor slots, const struct batch *b);

/* ---- op_sample.c ---- */

enum { MAX_BIAS = 64 };
struct sampler {
    tensor unused;      /* I32 bit set: one bit per vocabulary entry */
    tensor work, count; /* [n_vocab], outside the cmd's scratch; count is zero at first */
    tensor bias;   /* I32 [1 + 2 MAX_BIAS]: how many; an id and the bits of what is added, each */
    tensor chosen; /* I32 [n_seg][2 turns][2], host memory: the id; then 1 when a logit is not
                      finite, which the host makes 0 again */
};
/* Samples an id from logits [1][n_vocab] with the settings of the step buffer, appends it to ids,
 * and moves the position in the step buffer on by `advance`. */
void op_sample(struct cmd *c, tensor logits, const struct sampler *s, const struct batch *b,
               uint32_t advance);

/* ---- op_loss.c ---- */

/* The negative log likelihoods of tokens in the history, over the whole vocabulary. Row i of logits
 * belongs to token row0 + i of the batch. Row row0 + i of parts, [n_tok][NLL_PARTS], gets the
 * numbers from which nll_from computes the likelihood of the token after it. */
enum { NLL_PARTS = 4 };
void op_nll(struct cmd *c, tensor logits, tensor parts, const struct batch *b, uint32_t row0);
/* In natural units; not finite if the logits are not. */
double nll_from(const float parts[NLL_PARTS]);

/* In training only counted tokens have logits, and not all of them at the same time. A cmd that is
 * submitted repeatedly computes one slice of them, n rows, each time. slice: I32 [4]; its word 0 is
 * the number of the slice. The lists of rows and targets are I32 [1][N] for all slices together.
 * NO_ROW (push.h) in a list, or a place past its end, means no row. */
/* y[i] = x[rows[i]] for the rows of the slice, zeros where there is no row. The list must not have
 * a row twice. While the tape runs, x either has a gradient set by grad_is or needs none. */
tensor op_gather(struct cmd *c, tensor x, tensor rows, uint32_t n, tensor slice);
/* Like op_nll, for the slice's rows of logits, each with a target from the list. Rows of parts
 * [N][NLL_PARTS] without a target are not written. While the tape runs, the logits are overwritten
 * by their own gradient times weight (F32, one number). */
void op_nll_targets(struct cmd *c, tensor logits, tensor targets, tensor slice, tensor parts,
                    tensor weight);
/* The last op of such a cmd: the next submission computes the next slice. */
void op_next_slice(struct cmd *c, tensor slice);

/* ---- op_adam.c ---- */

/* Rows of trained numbers, in any order. Neighbouring rows that bindings can address together share
 * a dispatch. rows, scale: I32 [n_row][4] and F32 [1][n_row] on the device; row: the same as rows
 * on the host, needed while recording. The numbers on the device, in arena values, are scale times
 * those that are saved. The gradients, in arena grads, are with respect to the numbers on the
 * device; norm and moments are with respect to the numbers that are saved. m, v: F32 [1][numbers of
 * all rows], zero at first. */
struct adam_part {
    const struct adam_row *row; /* push.h */
    uint32_t n_row;
    tensor rows, scale;
    struct arena *values, *grads;
    tensor m, v;
};
/* norm: F32 [4]: the gradient's norm before clipping; the factor of clipping; 1 if the norm is
 * finite. hyper: struct adam_hyper of push.h as F32 words. */
struct adam {
    const struct adam_part *part;
    uint32_t n_part;
    tensor norm, hyper;
};
struct adam_update {
    double lr, beta1, beta2, eps;
    double decay, decay_gates;
    double clip_norm; /* 0: none */
    bool bias_correction;
    uint64_t step; /* from 1 */
};
void adam_hyper(const struct adam_update *u, struct adam_hyper *h);
/* Writes a->norm, over all parts. */
void op_grad_norm(struct cmd *c, const struct adam *a);
/* One update, after op_grad_norm. The gradients are zero afterwards. If the norm is not finite,
 * nothing changes. */
void op_adam(struct cmd *c, const struct adam *a);
/* to = base + delta; if the gate is a decay, delta is added to its logarithm. One row each. */
void op_gate_delta(struct cmd *c, tensor base, tensor delta, bool decay, tensor to);

/* ---- op_attention.c ---- */

/* The cache of an attention layer: [n_seq][n_kv_head][n_row][head_dim] in F16, F32, or Q8_0 (laid
 * out as tensor.h says). Position p has row p. With a sliding window it has row p modulo n_row;
 * these rows suffice for the window of a batch's first token and the whole batch after it, or for
 * the context if that is shorter. */
struct kv_layer {
    tensor k, v;
    uint32_t n_row; /* rows of a head */
};

struct attention {
    uint32_t n_head, n_kv_head, head_dim;
    uint32_t n_rot;  /* 0: no rotary embedding; turn is not used */
    uint32_t window; /* a token sees this many of the newest keys, its own included; 0: all keys */
    enum attention_gate gate;
    bool norm; /* normalises queries and keys; otherwise q_norm and k_norm are not used */
    tensor q_norm, k_norm; /* [head_dim] */
    tensor turn;           /* I32 [n_rot], from rope_turns */
    float eps;
};
/* ATTENTION_PLAIN and ATTENTION_COLS read a cache: the lanes of a workgroup are keys, or tokens
 * (head_dim up to 128). ATTENTION_DOCS and ATTENTION_DOCS_WIDE work on a training row: a workgroup
 * is one subgroup whose lanes have many numbers each, or many lanes with few numbers (GPUs). */
enum attention_path { ATTENTION_PLAIN, ATTENTION_COLS, ATTENTION_DOCS, ATTENTION_DOCS_WIDE };
tensor attention_by(struct cmd *c, enum attention_path path, tensor p, const struct attention *a,
                    const struct kv_layer *kv, const struct batch *b);
/* Causal attention. Appends to the cache. A row of p has q, k, v. With GATE_HEAD one gate per head
 * follows them; with GATE_ELEM, q and gate alternate by head, as in Qwen's projections. On a
 * training row kv is not used, and there is a backward. Returns [n_tok][n_head * head_dim]. */
tensor op_attention(struct cmd *c, tensor p, const struct attention *a, const struct kv_layer *kv,
                    const struct batch *b);
/* Fills turn, n_rot/2 pairs of words, for theta: the fraction of a turn per position in units of
 * 2^-64, high word first, from frequencies rounded to f32 as in the models' own code. factor: NULL,
 * or n_rot/2 divisors of the frequencies, applied before rounding. */
void rope_turns(double theta, uint32_t n_rot, const float *factor, uint32_t *turn);

/* ---- op_delta.c ---- */

struct delta {
    uint32_t n_k_head, n_v_head, d_state, conv_k;
    bool tiled; /* V head j belongs to K head j % n_k_head; otherwise to K head j / (n_v_head /
                   n_k_head) */
    tensor conv, ssm_a, dt_bias, norm; /* [d_conv][conv_k] [n_v_head] [n_v_head] [d_state] */
    float eps;
};
/* DELTA_PLAIN: any number of tokens, token by token, in three dispatches. DELTA_STEP: segments of
 * one token, in one dispatch; wide: with many lanes for a column of the state, which GPUs take.
 * DELTA_CHUNK: any number, in chunks of 32 tokens, in four dispatches; wide: chunks of 64, with
 * workgroups of several subgroups even on CPU devices. */
enum delta_path { DELTA_PLAIN, DELTA_STEP, DELTA_STEP_WIDE, DELTA_CHUNK, DELTA_CHUNK_WIDE };
tensor delta_by(struct cmd *c, enum delta_path path, tensor p, const struct delta *d,
                const struct recurrent *s, const struct batch *b);
/* Gated DeltaNet (Yang et al., arXiv 2412.06464): convolution, l2 norms, gates, recurrence and
 * gated norm. A row of p has q k v, z, b, a. Updates window and state. A training row is always
 * computed in the chunks of its documents, and has a backward: the gradients of p, and those of
 * A_log (stored as that of ssm_a) and dt_bias if they are trained. Returns [n_tok][n_v_head *
 * d_state]. */
tensor op_delta(struct cmd *c, tensor p, const struct delta *d, const struct recurrent *s,
                const struct batch *b);

/* ---- op_mamba.c ---- */

struct mamba {
    uint32_t n_head, head_dim, n_group, d_state, conv_k; /* d_state and n_head * head_dim are
                                                            multiples of 4 */
    tensor conv, conv_bias;         /* [d_conv][conv_k] [d_conv], d_conv = n_head * head_dim +
                                       2 n_group * d_state */
    tensor ssm_a, dt_bias, d, norm; /* [n_head] [n_head] [n_head] [n_head * head_dim] */
    float eps;
};
/* MAMBA_PLAIN: any number of tokens in three dispatches. MAMBA_STEP and MAMBA_STEP_WIDE: segments
 * of one token in two dispatches; a lane has whole rows of a head's state, or many lanes share each
 * row (GPUs). MAMBA_CHUNK: any number of tokens, in chunks that are computed in parallel (GPUs). */
enum mamba_path { MAMBA_PLAIN, MAMBA_STEP, MAMBA_STEP_WIDE, MAMBA_CHUNK };
tensor mamba_by(struct cmd *c, enum mamba_path path, tensor p, const struct mamba *m,
                const struct recurrent *s, const struct batch *b);
/* Mamba2 (Dao and Gu, arXiv 2405.21060): convolution, gates, recurrence, then gate and grouped
 * norm. A row of p has z, x B C, dt. Updates window and state. A training row has a backward;
 * its head_dim must be a multiple of 4. Returns [n_tok][n_head * head_dim]. */
tensor op_mamba(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                const struct batch *b);

/* ---- op_ffn.c, op_moe.c ---- */

struct ffn {
    struct act act;
    linear gate, up, down; /* gate: only with SwiGLU; directly before up in memory */
};
/* x + down(act(gate h, up h)), h = rms(x) */
tensor op_ffn(struct cmd *c, tensor x, tensor norm, float eps, const struct ffn *f);

struct moe {
    uint32_t n_expert, n_used, n_ff;
    enum route route;
    /* bias to scale are for ROUTE_SIGMOID only; softmax weights always sum to 1 */
    tensor bias; /* [n_expert]: added for the choice of experts, but not to their weights */
    uint32_t n_group,
        n_group_used;   /* experts come from the best n_group_used groups; 1: no groups */
    bool renorm;        /* weights are divided by their sum */
    float scale;        /* and then multiplied by this */
    linear router;      /* n_expert rows; the row after it is the shared expert's gate */
    linear shared_gate; /* n_in 0: the shared expert has no gate */
    linear latent_down, latent_up; /* the routed experts work in the width between these two; n_in
                                      0: in the width of x */
    struct act act, sh_act;
    linear gate_up, gate, up, down; /* routed experts: gate_up if gate and up have one type (gate
                                       rows first), otherwise both; only up if act has no gate */
    linear sh_gate, sh_up,
        sh_down; /* the shared expert; n_in 0: it has no such matrix, or does not exist */
};
/* load: I32 [1][n_expert], how often each expert has been chosen so far; arena NULL: not counted. A
 * choice that is repeated in a recomputation (tape_keep) counts once. */
struct moe_layer {
    tensor load;
};
/* MOE_PLAIN reads an expert's weights once per token. MOE_GROUPED reads them once per tile of
 * tokens, and has a backward. */
enum moe_path { MOE_PLAIN, MOE_GROUPED };
/* The input of a layer's second half, and the RMS norm that is taken of it. */
struct normed {
    tensor x, w;
    float eps;
};
tensor moe_by(struct cmd *c, enum moe_path path, struct normed in, const struct moe *m,
              const struct moe_layer *s, const struct batch *b);
/* x + the weighted sum of the chosen experts + [sigmoid(shared_gate h)] shared(h), where h =
 * rms(x). The router is softmax (Qwen3), or sigmoid with a bias for the choice (DeepSeek-V3, arXiv
 * 2412.19437). */
tensor op_moe(struct cmd *c, struct normed in, const struct moe *m, const struct moe_layer *s,
              const struct batch *b);
