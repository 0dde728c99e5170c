/* op: what a layer is made of. Each op is as coarse as the best fusion (norm with the projections
 * that read it, a whole linear-attention mixer, a whole mixture of experts) and picks its
 * dispatches by batch size and device from a table of paths; models know nothing of that. The plain
 * path of every op stays.
 *
 * An op returns its output, which lives in the cmd's scratch until the half it was made in begins
 * again. Activations are f32. Errors stick to the cmd. */
#pragma once
#include "ops/tape.h"

/* Packed rows of one weight matrix (pack.h), or of n_expert of them one behind the other. */
typedef struct linear {
    struct arena *arena;
    uint64_t offset;
    enum dtype dtype;
    uint32_t n_in, n_out, n_expert;
    uint32_t row_q;          /* 16-byte words of a packed row */
    uint32_t n_f32_rows;     /* so many of the last rows are multiplied in f32 whatever
                             the cmd allows: they make recurrent gates, or choose
                             experts. Side by side with others they come last */
    tensor bias;             /* [n_out] added to the product; arena NULL: none */
    uint64_t codebook;       /* bytes from the arena's start to the type's codebook
                            (dtype_codebook); of no meaning where it has none */
    const struct lora *lora; /* what adapters add to the product; NULL: nothing */
} linear;

/* Low-rank factors: y += B (A x). Both F32, with as many experts as the matrix; A has as many rows
 * as B has columns, a multiple of 4. Matrices multiplied together may share A. */
struct lora {
    linear a, b;
    uint32_t id; /* of A, among all of the set: which units are left out of
                    what goes into it (tape.h) */
};

/* What a feed-forward does between its matrices. */
struct act {
    enum act_kind kind; /* enums.h */
    float limit;        /* 0: none */
};
/* Columns of what goes in for one that comes out. */
static inline uint32_t act_width(struct act a) { return a.kind == ACT_SWIGLU ? 2 : 1; }

/* A row of documents, for training: none sees another, and each begins with nothing before it -
 * neither keys nor window nor state. Padding is a document of its own. */
struct docs {
    tensor first;            /* I32 [1][n_tok]: of a token, its document's first; so t -
                                first[t] is its position */
    uint32_t chunk, n_chunk; /* recurrences work in chunks of at most so many tokens, a
                                multiple of 16 up to 64; there are n_chunk at most */
    tensor chunks;           /* I32 [n_chunk][4]: first token; tokens, 0: not in use; 1:
                                begins a document; 1: ends one */
    tensor real;             /* I32 [1][n_tok]: 0 for padding, which statistics leave
                                out; arena NULL: nobody asks for any */
};

/* What every op of one submission shares. */
struct batch {
    uint32_t n_tok;
    tensor step;             /* struct step of push.h */
    tensor ids;              /* I32 [1, n_ctx + 1]: the history by position */
    const struct docs *docs; /* NULL: tokens follow what the caches hold. Else there are
                                no caches, and the batch is a row of its own */
    bool stats;              /* recurrent layers that have a place for it tell of their
                                gates and, of documents, of their states */
};

/* Lanes of a workgroup: a CPU device runs a workgroup's subgroups one after the other, so one is
 * all it gets. */
static inline uint32_t wg_size(const struct gpu_caps *caps, uint32_t on_gpu)
{
    return caps->kind == GPU_CPU ? caps->subgroup : on_gpu;
}

/* n invocations for each of n_row rows. A dimension may have no more than 65535 workgroups, so rows
 * have one of their own, and kernels go on to row + gl_NumWorkGroups.y. */
static inline struct grid row_grid(uint32_t n, uint32_t n_row, uint32_t wg)
{
    return GRID(div_up(n, wg), min_u32(n_row, 32768), 1);
}

/* ---- op_stats.c ---- */

/* Where a recurrent layer's heads tell of themselves (push.h); arenas NULL: nobody asks. */
struct gate_stats {
    tensor gates; /* F32 [n_head][GATE_STATS] */
    tensor state; /* F32 [n_head][STATE_STATS] */
};
/* Of the batch's gates, from the joint projection p: of Gated DeltaNet the columns of a and of b
 * from these on, of Mamba2 (beta_col NO_BETA) that of dt. */
#define NO_BETA UINT32_MAX
void op_gate_stats(struct cmd *c, tensor p, uint32_t decay_col, uint32_t beta_col, tensor ssm_a,
                   tensor dt_bias, const struct batch *b, tensor to);
/* Of states of n numbers, a multiple of 4: one for each of n_head heads; of documents (docs not
 * NULL) those that chunks [chunk0, chunk0 + n_chunk) begin with where they are no document's first,
 * as push_state_stats says where they stand. add: to what is there of these heads. */
struct state_stats {
    tensor states;
    uint32_t n, n_head;
    const struct docs *docs;
    uint32_t by_head, by_chunk, from, chunk0, n_chunk, head0;
    bool add;
    tensor to; /* of all heads */
};
void op_state_stats(struct cmd *c, const struct state_stats *s);

/* What a recurrent layer (Gated DeltaNet, Mamba2) keeps of the tokens before a batch. */
struct recurrent {
    tensor window; /* F32 [2][conv_k - 1][d_conv]: two copies of the convolution's last inputs,
                      one of which is current (push.h: struct step) */
    tensor state;  /* F32 [n_head][n_row][n]: Gated DeltaNet [n_v_head][d_state][d_state], Mamba2
                      [n_head][d_state][head_dim] */
    struct gate_stats stats;
};

/* ---- op_linear.c ---- */

/* A way to compute y = W x; tests visit every row that the device can run. */
struct linear_path {
    const char *name;
    enum kernel kernel;
    enum { ANY_DEVICE, CPU_ONLY, NOT_CPU } device;
    uint32_t min_tok, max_tok;
    bool fuses; /* can normalise or activate x on the way in */
    bool f16;   /* operands are f16, each row of x or dy scaled for that;
                   sums are f32. Taken only where the cmd allows it
                   (cmd_set_f16) */
};
extern const struct linear_path linear_paths[];
extern const uint32_t n_linear_path;
/* Do f16 operands make many tokens' products faster? On matrix units, but a software device's. */
bool linear_f16_pays(const struct gpu_caps *caps);
/* Can the device run it? */
bool linear_path_runs(const struct gpu_caps *caps, const struct linear_path *path);

struct linear_args {
    tensor x; /* [n_tok][n_in]; with act act_width times as wide */
    const linear *w;
    tensor y;           /* [n_tok][n_out]; col and stride apply */
    const tensor *norm; /* [n_in]: x is normalised first; only on a path that can */
    float eps;
    const struct act *act; /* x goes through it first; only on a path that can */
    const tensor *res;     /* [n_tok][n_out] is added */
    const tensor *gate;    /* [n_tok][1]: the product is multiplied by its sigmoid
                              before that */
    const tensor *halves;  /* of x, where several products share them; NULL: made for
                              a path that takes them */
};
void linear_by(struct cmd *c, const struct linear_path *path, const struct linear_args *a);
/* Rows [row0, row0 + n) of w as plain words, for binding. */
tensor linear_rows(const linear *w, uint64_t row0, uint32_t n);
/* The rows of a slab: the most that a binding of the device can address such that the next slab
 * begins where a binding may begin. 0: not even one row fits. */
uint32_t linear_slab_rows(const struct gpu_caps *caps, const linear *w);
/* The codebook of w's type as words, for the binding that weight.glsl calls CODEBOOK_BINDING;
 * something that may be bound there where it has none. */
tensor linear_codebook(const linear *w);

/* ---- op_linear_bwd.c ---- */

/* Ways to compute dx += W^T dy, [n_tok][n_in] from [n_tok][n_out]; both may be views by columns. */
extern const struct linear_path linear_bwd_paths[];
extern const uint32_t n_linear_bwd_path;
void linear_bwd_by(struct cmd *c, const struct linear_path *path, const linear *w, tensor dy,
                   tensor dx);
void linear_bwd(struct cmd *c, const linear *w, tensor dy, tensor dx);
/* The gradient of weights in F32, dw[o][k] += sum_t dy[t][o] x[t][k]; dw lies as linear_rows. */
void linear_outer(struct cmd *c, const linear *w, tensor x, tensor dy, tensor dw);

/* ---- op_norm.c ---- */

/* y = rms(x) * w, rows of x. */
tensor op_norm(struct cmd *c, tensor x, tensor w, float eps);
/* The activation of x, [n_tok][x.n / act_width]; gates stand in the left half of x. */
tensor op_act(struct cmd *c, tensor x, struct act act);

/* ---- op_product.c ---- */

/* y += x, of the same size; for the gradient of what goes on beside an op. */
void op_accumulate(struct cmd *c, tensor y, tensor x);
/* All of W_i rms(x), side by side: [n_tok][sum of n_out], the stride rounded up to 4. Matrices of
 * one type that lie one behind the other in memory are one dispatch. */
tensor op_norm_linear(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                      uint32_t n_w);
/* The same without a norm. */
tensor op_linear(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w);
/* res + W x */
tensor op_linear_add(struct cmd *c, tensor x, const linear *w, tensor res);
/* res + W op_act(x); where gate is not NULL, the product times sigmoid(gate[t]), gate [n_tok][1].
 */
tensor op_act_linear_add(struct cmd *c, tensor x, struct act act, const linear *w, tensor res,
                         const tensor *gate);
/* clang-format off */
#define LINEARS(...) (const linear *const[]){ __VA_ARGS__ }, \
                     (uint32_t)(sizeof((const linear *const[]){ __VA_ARGS__ }) / \
                                sizeof(const linear *))
/* clang-format on */

/* ---- op_grouped.c ---- */

/* The entries of a batch by expert, as moe_sort leaves them; n_row: rows that an expert has
 * on average; tile: entries of a tile at most. */
struct grouping {
    tensor entries, tiles;
    uint32_t n_used, n_row, max_tile, tile;
};
/* A product of every entry with its expert. */
struct grouped_args {
    const linear *w;
    tensor x;      /* [n_tok][n_in]; with by_entry [entries][n_in] */
    bool by_entry; /* each entry has a row of its own, else those of a token share its row */
    const struct grouping *g;
};
/* y[e] = W_expert(e) x[e] for all entries e = token * n_used + slot. y: [entries][n_out] */
void linear_grouped(struct cmd *c, struct grouped_args a, tensor y);
/* Its backward, from the gradient dy of y. Adds the gradient of every entry's x to dx,
 * [entries][n_in] (arena NULL: it is not wanted), and to the gradients of the experts' factors,
 * where these are trained. */
void linear_grouped_bwd(struct cmd *c, struct grouped_args a, tensor dy, tensor dx);
/* Entries that a tile may have; 0 where no kernel of this device takes tiles. */
uint32_t linear_group_tile(const struct gpu_caps *caps, uint32_t n_row);

/* ---- op_embed.c ---- */

/* Rows of w for the batch's ids: [n_tok][n_in]. */
tensor op_embed(struct cmd *c, const linear *w, const struct batch *b);
/* Rows of x and y in one. */
tensor op_beside(struct cmd *c, tensor x, tensor y);
/* The batch has been read: moves the step on. Last of a submission that does not sample. */
void op_advance(struct cmd *c, const struct batch *b);

/* ---- op_sample.c ---- */

struct sampler {
    tensor unused;      /* I32 bit set, one bit a vocabulary entry */
    tensor work, count; /* [n_vocab] scratch that outlives the cmd; count starts as
                           zeros */
    tensor chosen;      /* I32 [1], host memory: the id */
};
/* Samples from logits [1][n_vocab] as the step says, appends to ids, moves the step on by
 * `advance` tokens. */
void op_sample(struct cmd *c, tensor logits, const struct sampler *s, const struct batch *b,
               uint32_t advance);

/* ---- op_loss.c ---- */

/* For rows of logits, the first of them of the batch's token row0: rows from row0 of parts
 * [n_tok][NLL_PARTS] get what the negative log likelihood of the token that follows - the history
 * holds it - is made of, over the whole vocabulary. */
enum { NLL_PARTS = 4 };
void op_nll(struct cmd *c, tensor logits, tensor parts, const struct batch *b, uint32_t row0);
/* It, in natural units: no finite number where the logits are not. */
double nll_from(const float parts[NLL_PARTS]);

/* Only tokens that count have logits, and not all of them at once: a cmd that is submitted over and
 * over does `n` of them each time. slice: I32 [4], whose word 0 says which; lists of all slices
 * are I32 [1][N], where NO_ROW (push.h) stands for none, as does everything behind N. */
/* y[i] = x[rows[i]], zeros where there is none. No row stands twice in the list. While the tape
 * runs x has a gradient by grad_is, or none. */
tensor op_gather(struct cmd *c, tensor x, tensor rows, uint32_t n, tensor slice);
/* As op_nll, for the slice's rows of logits and targets of their own; parts [N][NLL_PARTS] is left
 * alone where there is none. While the tape runs logits become their own gradient, times weight
 * (F32, one number). */
void op_nll_targets(struct cmd *c, tensor logits, tensor targets, tensor slice, tensor parts,
                    tensor weight);
/* Last of such a cmd: the next submission does the next slice. */
void op_next_slice(struct cmd *c, tensor slice);

/* ---- op_adam.c ---- */

/* Rows of what is trained, in any order: as many as bindings reach are one dispatch. rows, scale:
 * I32 [n_row][4] and F32 [1][n_row] on the device; row: the former on the host, while it is
 * recorded. What stands on the device, in rows of arena values, is scale times what is saved;
 * gradients stand in arena grads and are with respect to what stands on the device, norm and
 * moments with respect to what is saved. m, v: F32 [1][numbers of all rows], zero at first. */
struct adam_part {
    const struct adam_row *row; /* push.h */
    uint32_t n_row;
    tensor rows, scale;
    struct arena *values, *grads;
    tensor m, v;
};
/* norm: F32 [4]: the gradient's norm before clipping, what clipping multiplied it by, 1 where the
 * norm is finite. hyper: struct adam_hyper of push.h as F32 words. */
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
/* The norm of everything, in norm. */
void op_grad_norm(struct cmd *c, const struct adam *a);
/* Behind that: one update, after which gradients are zero. A norm that is not finite changes
 * nothing. */
void op_adam(struct cmd *c, const struct adam *a);
/* to = base with delta added: to its logarithm where the gate is a decay. One row each. */
void op_gate_delta(struct cmd *c, tensor base, tensor delta, bool decay, tensor to);

/* ---- op_attention.c ---- */

/* [n_kv_head][rows][head_dim]; F16, F32, or Q8_0 as tensor.h has it. A position has the row of its
 * number; with a window, of its number modulo the rows, which are enough for the window of a
 * batch's first token and the batch behind it, or for the context. */
struct kv_layer {
    tensor k, v;
};

struct attention {
    uint32_t n_head, n_kv_head, head_dim;
    uint32_t n_rot;  /* 0: no rotary, and no turn */
    uint32_t window; /* 0: a token sees every key; else the newest `window`, its
                        own among them */
    enum attention_gate gate;
    bool norm;             /* queries and keys are normed; else no q_norm, k_norm */
    tensor q_norm, k_norm; /* [head_dim] */
    tensor turn;           /* I32 [n_rot]: rope.glsl */
    float eps;
};
/* Over a cache: lanes are keys; lanes are tokens (head_dim up to 128). Over a row of documents: a
 * workgroup is one subgroup, whose lanes hold much; it has many lanes, which hold little (GPUs). */
enum attention_path { ATTENTION_PLAIN, ATTENTION_COLS, ATTENTION_DOCS, ATTENTION_DOCS_WIDE };
tensor attention_by(struct cmd *c, enum attention_path path, tensor p, const struct attention *a,
                    const struct kv_layer *kv, const struct batch *b);
/* Causal attention; appends to the cache. Rows of p: q, k, v, and for GATE_HEAD one gate a head
 * behind them; for GATE_ELEM q and gate are interleaved by head, as Qwen's projections give them.
 * Over a row of documents kv is not used, and there is a backward. Returns
 * [n_tok][n_head * head_dim]. */
tensor op_attention(struct cmd *c, tensor p, const struct attention *a, const struct kv_layer *kv,
                    const struct batch *b);
/* Fills turn (n_rot/2 pairs of words) for theta: fractions of a turn per position in units of
 * 2^-64, high word first, from the frequencies rounded to f32 as the models' own code has them.
 * factor: NULL, or n_rot/2 numbers that the frequencies are divided by before that. */
void rope_turns(double theta, uint32_t n_rot, const float *factor, uint32_t *turn);

/* ---- op_delta.c ---- */

struct delta {
    uint32_t n_k_head, n_v_head, d_state, conv_k;
    bool tiled;                        /* V head j belongs to K head j % n_k_head, else
                                          j / (n_v_head / n_k_head) */
    tensor conv, ssm_a, dt_bias, norm; /* [d_conv][conv_k] [n_v_head] [n_v_head] [d_state] */
    float eps;
};
/* three dispatches for any n_tok, token by token; one, for one token; four for any n_tok, in chunks
 * of 32 tokens or of 64, the latter with workgroups of several subgroups on CPU devices too */
enum delta_path { DELTA_PLAIN, DELTA_STEP, DELTA_CHUNK, DELTA_CHUNK_WIDE };
tensor delta_by(struct cmd *c, enum delta_path path, tensor p, const struct delta *d,
                const struct recurrent *s, const struct batch *b);
/* Gated DeltaNet (Yang et al., arXiv 2412.06464); p: [n_tok] rows of q k v, z, b, a.
 * Convolution, l2 norms, gates, recurrence and gated norm; moves window and state on. Documents
 * always go in their chunks and have a backward: gradients of p, and of ssm_a (that of A_log) and
 * dt_bias where these are trained.
 * Returns [n_tok][n_v_head * d_state]. */
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
/* three dispatches for any n_tok; two, for one token: a lane has whole rows of a head's state, or
 * many lanes share each row (GPUs); chunks of tokens side by side, for any n_tok (GPUs) */
enum mamba_path { MAMBA_PLAIN, MAMBA_STEP, MAMBA_STEP_WIDE, MAMBA_CHUNK };
tensor mamba_by(struct cmd *c, enum mamba_path path, tensor p, const struct mamba *m,
                const struct recurrent *s, const struct batch *b);
/* Mamba2 (Dao and Gu, arXiv 2405.21060); p: [n_tok] rows of z, x B C, dt. Convolution, gates,
 * recurrence, gate and then grouped norm; moves window and state on. A row of documents has its
 * backward, and wants heads of a multiple of 4. Returns [n_tok][n_head * head_dim]. */
tensor op_mamba(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                const struct batch *b);

/* ---- op_ffn.c, op_moe.c ---- */

struct ffn {
    struct act act;
    linear gate, up, down; /* gate: only with SwiGLU, and right before up */
};
/* x + down(act(gate h, up h)), h = rms(x) */
tensor op_ffn(struct cmd *c, tensor x, tensor norm, float eps, const struct ffn *f);

struct moe {
    uint32_t n_expert, n_used, n_ff;
    enum route route;
    /* the rest of the router is for ROUTE_SIGMOID alone; softmax weights always sum to 1 */
    tensor bias;                    /* [n_expert] added for the choice, not to the weights */
    uint32_t n_group, n_group_used; /* experts are chosen from the best groups; 1: no groups */
    bool renorm;                    /* weights are divided by their sum */
    float scale;                    /* and then multiplied by this */
    linear router;                  /* [n_expert] rows; the shared expert's gate is the row
                                       behind it */
    linear shared_gate;             /* n_in 0: the shared expert has none */
    linear latent_down, latent_up;  /* the routed experts work in this width; n_in 0: in
                                       that of x */
    struct act act, sh_act;
    linear gate_up, gate, up, down; /* routed: gate_up when gate and up have one type (gate rows
                                       first), else both; up alone where act has no gate */
    linear sh_gate, sh_up, sh_down; /* shared expert; n_in 0: none, or no gate */
};
/* load: I32 [1][n_expert], how often each was chosen so far: counted where it is there (arena not
 * NULL) and the choice is made, not where it is held. */
struct moe_layer {
    tensor load;
};
/* weights read once a token; once a tile of tokens, and this one has a backward */
enum moe_path { MOE_PLAIN, MOE_GROUPED };
tensor moe_by(struct cmd *c, enum moe_path path, tensor x, tensor norm, float eps,
              const struct moe *m, const struct moe_layer *s, const struct batch *b);
/* x + sum over the chosen experts + [sigmoid(shared_gate h)] shared(h), h = rms(x). Routers:
 * softmax (Qwen3), or sigmoid with a bias for the choice (DeepSeek-V3, arXiv 2412.19437). */
tensor op_moe(struct cmd *c, tensor x, tensor norm, float eps, const struct moe *m,
              const struct moe_layer *s, const struct batch *b);
