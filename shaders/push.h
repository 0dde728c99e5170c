/* push: the numbers that each kernel takes, as structs that C and GLSL both compile. They have only
 * scalar members, so that both use the same layout. A kernel's bindings are listed at its op. */
#ifdef VULKAN
#define uint32_t uint
#endif
#include "enums.h"

/* A segment: tokens of one sequence in a batch. A batch is one segment of any number of tokens, or
 * up to MAX_SEGMENT segments of one token each, so that token t belongs to segment t.
 *
 * The segments of a batch are the step buffer: what changes from one submission to the next. It
 * lies in device memory; the last kernel of a submission advances it, so that the host writes
 * nothing between tokens. */
#define MAX_SEGMENT 16
struct segment {
    uint32_t pos;               /* position of the first token in its sequence */
    uint32_t seq;               /* the sequence: which history, keys and values */
    uint32_t slot_in, slot_out; /* the state slots that the recurrent layers read and write; never
                                   the same one. The logits of the last token belong to slot_out */
    uint32_t turn;              /* 0 and 1 in turn, from step to step: where the sampler puts the
                                   token, so that the host can read that of the step before */
    uint32_t seed_lo, seed_hi;  /* this and the rest: how to sample the next token */
    float temp, top_p, min_p;
    uint32_t top_k;             /* 0: off */
    float repeat, presence, frequency;
    uint32_t last_n;            /* the number of newest tokens that penalties apply to */
    uint32_t allow_unused;
};

struct push_embed {
    uint32_t n_embd;
    uint32_t row_q;             /* 16-byte words from one packed row to the next */
    uint32_t row0, n_vocab;     /* rows that are bound */
    uint32_t n_seg, n_ids;      /* n_ids: the room of a sequence's history */
};

struct push_norm {
    uint32_t n;
    uint32_t x_stride, x_col, y_stride;
    float eps;
};

struct push_norm_bwd {
    uint32_t n;
    uint32_t x_stride, x_col, dy_stride, dy_col, dx_stride, dx_col;
    float eps;
};

/* y[t][r] = sum_k W[r][k] x[t][k], with an epilogue; see linear.glsl. */
struct push_linear {
    uint32_t n_in, n_out;       /* n_out: rows of W bound */
    uint32_t n_tok;
    uint32_t row_q;
    uint32_t x_stride, x_col;
    uint32_t y_stride, y_col;
    uint32_t res_stride, res_col;
    uint32_t gate_stride, gate_col;
    float eps;                  /* IN_NORM */
    float limit;                /* EPI_ACT */
    uint32_t n_used;            /* GROUPED */
    uint32_t expert0, n_expert; /* GROUPED: experts that are bound */
};

/* Rows of x as f16 operands; see halves.glsl. */
struct push_halves {
    uint32_t n, n_row;
    uint32_t x_stride, x_col;
    uint32_t h_stride;          /* words */
};

/* dx[t][k] += sum_o W[o][k] dy[t][o]; see linear_bwd.glsl. */
struct push_linear_bwd {
    uint32_t n_in, n_out;       /* n_out: rows of W bound */
    uint32_t n_tok;
    uint32_t row_q;
    uint32_t dy_stride, dy_col;
    uint32_t dx_stride, dx_col;
    uint32_t n_used;            /* GROUPED */
    uint32_t expert0, n_expert; /* GROUPED: experts that are bound */
};

/* out[s][l] += sum_t S[t][s] L[t][l]; see outer.comp. */
struct push_outer {
    uint32_t n_long, n_short;
    uint32_t n_tok, per_split;  /* all tokens; those of one part */
    uint32_t long_stride, long_col;
    uint32_t short_stride, short_col;
    uint32_t out_stride, n_row; /* n_row: rows of out, for one part or expert */
    uint32_t n_used, expert0;   /* GROUPED */
};

struct push_outer_sum { uint32_t n, n_row, n_split, part_stride, out_stride; };

struct push_act {
    uint32_t n_ff, n_row, x_stride, x_col, y_stride;
    float limit;
};

struct push_act_bwd {
    uint32_t n_ff, n_row, x_stride, x_col, dy_stride, dy_col, dx_stride, dx_col;
    float limit;
};

/* y += x, row by row. */
struct push_add { uint32_t n, n_row, x_stride, x_col, y_stride, y_col; };

/* y = res + sigmoid(gate[t]) * x. In the backward y means the gradient of y. */
struct push_gate {
    uint32_t n, n_row;
    uint32_t x_stride, x_col, gate_stride, gate_col;
    uint32_t y_stride, y_col, res_stride, res_col;
    uint32_t dx_stride, dx_col, dgate_stride, dgate_col;
};

/* Dropout: tape.h. */
struct push_dropout {
    uint32_t n, n_row;
    uint32_t id;
    uint32_t below;             /* a random word below this leaves a unit out */
    float scale;                /* multiplies the other units */
    uint32_t n_used;            /* row r of y is made from row r / n_used of x */
    uint32_t x_stride, x_col, y_stride, y_col;
};

struct push_bias { uint32_t n, n_row, y_stride, y_col; };

struct push_attn_prep {
    uint32_t n_head, n_kv_head, head_dim, n_rot;
    uint32_t n_seg;
    uint32_t n_row;             /* rows of a head's cache */
    uint32_t p_stride, q_col, k_col, v_col;
    uint32_t q_step;            /* from one head's query to the next */
    float eps;
};

struct push_attn {
    uint32_t n_head, n_kv_head, head_dim;
    uint32_t n_tok, n_seg;
    uint32_t n_row;                 /* rows of a head's cache */
    uint32_t window;                /* RING: the most keys that a token sees */
    uint32_t n_split, split_len;    /* keys are divided into n_split runs of split_len, from the */
    uint32_t tile;                  /* first that the first of `tile` tokens sees */
    uint32_t merge;                 /* attn_merge follows */
    uint32_t p_stride, gate_col;    /* of the first head's gate */
    float scale;
};

/* Attention over a row of documents, forward and backward. */
struct push_attn_docs {
    uint32_t n_head, n_kv_head, head_dim;
    uint32_t n_tok;
    uint32_t window;                /* WINDOW: the most keys that a token sees */
    uint32_t p_stride, gate_col;    /* of the first head's gate */
    uint32_t d_stride, d_gate_col;  /* of its gradient */
    uint32_t head0, n_heads, more;  /* the query heads of this dispatch, among those that share a
                                       key head; more: 1 if there were some before */
    float scale;
};

struct push_attn_prep_bwd {
    uint32_t n_head, n_kv_head, head_dim, n_rot;
    uint32_t n_tok;
    uint32_t p_stride, p_col, d_stride, d_col;  /* of the projection and of its gradient */
    uint32_t k_col, v_col, q_step;              /* counted from that column */
    float eps;
};

/* Tokens that a lane walks over in the convolution of documents. */
#define CONV_TOKENS 8

struct push_delta {
    uint32_t n_k_head, n_v_head, d_state;
    uint32_t n_tok;
    uint32_t p_stride, qkv_col, z_col, b_col, a_col;
    uint32_t tiled;             /* 1: V head j reads K head j % n_k_head; 0: K head
                                   j / (n_v_head / n_k_head) */
    float eps;
    uint32_t d_stride, d_col;   /* of the projection's gradient; d_col is its first column */
};

/* The numbers stored for each token of a chunk: delta_chunk.glsl. */
#define GATE_ROWS 8

struct push_delta_chunk {
    uint32_t n_k_head, n_v_head, d_state;
    uint32_t n_tok;
    uint32_t p_stride, b_col, a_col;
    uint32_t tiled;
    uint32_t chunk;             /* the most tokens of a chunk */
    uint32_t n_slot;            /* the most chunks of a head */
    uint32_t k_head0;           /* the first K head that is bound */
    uint32_t chunk0, n_chunk;   /* the chunks of this dispatch */
    uint32_t keep;              /* 1: stores the state with which each chunk begins */
    uint32_t by_slot;           /* delta_chunk_lower_bwd: 1: T; 0: P */
    uint32_t d_stride, db_col, da_col;      /* of the projection's gradient */
};

struct push_delta_gate_sum { uint32_t n_tok, n_v_head, a_log_col, dt_col, a_log, dt; };

struct push_mamba {
    uint32_t n_head, head_dim, n_group, d_state;
    uint32_t n_tok;
    uint32_t p_stride, z_col, conv_col, dt_col;
    uint32_t u_stride;
    uint32_t n_part;            /* the state's columns are divided into n_part parts, whose
                                   outputs mamba_norm adds up */
    float eps;
    uint32_t tok0, n_chunk;     /* a run of chunks that begins at token tok0 */
};

/* Rows of documents. A row of u has the output of the convolution for a token (x, B, C), then the
 * gradient of the recurrence's output. */
struct push_mamba_docs {
    uint32_t n_head, head_dim, n_group, d_state;
    uint32_t n_tok, q;          /* q: the most tokens of a chunk */
    uint32_t chunk0, n_chunk;   /* a run of chunks */
    uint32_t p_stride, p_col;   /* of the projections; then of their gradient */
    uint32_t dp_stride, dp_col;
    uint32_t u_stride;
    uint32_t own_col, other_col, v_col;     /* columns of u: see the kernels */
    uint32_t y_stride, y_col;
    uint32_t weight;            /* the sum of a token that is the factor of the state */
    uint32_t back;              /* 1: a token reads those after it, not those before it */
    float eps;
};

/* The sums of a token, [chunk][n_head][MAMBA_SUMS][q]: c, the running sum of dt A inside its chunk,
 * as a high and a low word, so that differences of long sums keep their precision; then dt, exp(c),
 * r = exp(c_last - c), and r dt. */
#define MAMBA_HIGH 0
#define MAMBA_LOW 1
#define MAMBA_DT 2
#define MAMBA_E 3
#define MAMBA_R 4
#define MAMBA_R_DT 5
#define MAMBA_SUMS 6

/* The terms of a token in the backward, [chunk][n_head][MAMBA_TERMS][q]: dy . x; the product of its
 * x with the gradient that comes through the state after the chunk, then with the whole gradient;
 * what the token adds to the gradients of A_log and of dt_bias. The last row has one number for the
 * chunk: what passes from the state before it to the state after it. */
#define MAMBA_DY_X 0
#define MAMBA_LEAVES 1
#define MAMBA_X_DX 2
#define MAMBA_D_A 3
#define MAMBA_D_DT 4
#define MAMBA_THROUGH 5
#define MAMBA_TERMS 6

struct push_route {
    uint32_t n_expert, n_used, id_stride, x_stride, x_col;
    uint32_t n_group, n_group_used;     /* these and the rest: ROUTE_SIGMOID */
    uint32_t renorm;
    float scale;
};

struct push_route_bwd {
    uint32_t n_tok, n_used, id_stride, dwt_stride, x_stride, x_col, dx_stride, dx_col;
    uint32_t renorm;                    /* this and the rest: ROUTE_SIGMOID */
    float scale;
};

/* Statistics of a recurrent head. Of its gates: the number of tokens; the sum, the least and the
 * largest of their decays; the sum of their write strengths (beta; for Mamba2 dt). Of its states:
 * their number, the sum of squares, the largest magnitude. */
#define GATE_STATS 5
#define STATE_STATS 3

struct push_gate_stats { uint32_t n_tok, p_stride, decay_col, beta_col; };

/* States of n numbers. The state of head h and chunk from + i has the index
 * h * by_head + (from + i) * by_chunk. chunk0: the index of the first chunk in the documents'
 * table. */
struct push_state_stats { uint32_t n, by_head, by_chunk, from, chunk0, n_chunk, head0; };

struct push_moe_sort {
    uint32_t n_expert, n_used, n_tok;
    uint32_t id_stride;
    uint32_t tile;              /* the most entries of a tile */
    uint32_t chunk;             /* entries that a workgroup places */
};

struct push_moe_sum {
    uint32_t n, n_tok, n_used;
    uint32_t wt_stride, x_stride, res_stride, y_stride;
    uint32_t dwt_stride;        /* moe_sum_bwd */
};

struct push_expert {
    uint32_t n_in, n_out;       /* rows of one expert */
    uint32_t n_used, id_stride;
    uint32_t expert0, n_expert; /* experts that are bound */
    uint32_t row_q;
    uint32_t x_stride, x_slot;  /* elements from one token's row to the next; from one slot's row
                                   to the next */
    uint32_t y_stride, y_slot, y_col;
    float limit;                /* OUT_ACT */
};

struct push_advance { uint32_t n_tok, n_seg; };     /* n_tok: of each segment */

/* Logits of the last token of each segment, in a batch and in its state slot. */
struct push_keep_logits { uint32_t n_vocab, stride, slot_stride; };

struct push_sample {
    uint32_t n_vocab, stride;
    uint32_t n_ids;             /* the room of a sequence's history */
    uint32_t advance;           /* 1: the submission has read one more token */
    uint32_t block, n_block;    /* entries of a block; blocks, 512 at most */
    uint32_t bias_words, blocks_stride;     /* of a segment */
};

struct push_nll {
    uint32_t n_vocab, stride, col;
    uint32_t row0;              /* the token of the batch that the first row of logits is for */
    uint32_t n_ids;
};

/* Means no row, in a list of rows or of ids. */
#define NO_ROW 0xffffffffu

struct push_nll_targets {
    uint32_t n_vocab, stride, col;
    uint32_t n_row;             /* of a slice */
    uint32_t n_target;          /* of all slices */
};

struct push_gather {
    uint32_t n;
    uint32_t n_row;             /* of a slice */
    uint32_t n_list, n_x;       /* rows of all slices; rows of x */
    uint32_t x_stride, x_col, y_stride, y_col;
};

struct push_next_slice { uint32_t by; };

/* A row of trained numbers: n numbers in the arena of values, from `at` 16-byte words after its
 * beginning. The gradient is at the same place of another arena. The moments of all rows lie one
 * after another, without gaps. */
struct adam_row {
    uint32_t at, n;
    uint32_t moment;            /* the index of its first moment */
    uint32_t gate;              /* 1: a delta of a gate */
};

/* AdamW's numbers for one update, computed in double precision (adam_hyper). */
struct adam_hyper {
    float beta1, beta2, rest1, rest2;   /* rest: 1 - beta */
    float step;                 /* lr / (1 - beta1^t) */
    float root;                 /* 1 / sqrt(1 - beta2^t) */
    float eps;
    float keep, keep_gates;     /* 1 - lr * decay */
    float clip_norm;            /* 0: none */
};

/* Rows [row0, row0 + n_row) of the bound table. The bindings of the arenas begin `base` 16-byte
 * words after the arenas' beginnings; those of the moments with number moment0. */
struct push_adam {
    uint32_t row0, n_row;
    uint32_t per_group;         /* rows of a workgroup */
    uint32_t base, moment0;
    uint32_t to;                /* grad_norm: the place of the first workgroup's sum */
};

struct push_norm_sum { uint32_t n, from, to, per_group; };

struct push_gate_delta { uint32_t n; };

/* y += a x. Only the tests of the GPU layer run it. */
struct push_test_axpy { uint32_t n; float a; };
