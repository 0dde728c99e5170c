/* push: the numbers each kernel takes, one struct compiled by both C and GLSL (scalar members only,
 * so that both lay it out alike). A kernel's bindings are listed at its op. */
#ifdef VULKAN
#define uint32_t uint
#endif
#include "enums.h"

/* What changes from one submission to the next. It lies in device memory; the last kernel of a
 * submission moves it on, so that the host writes nothing between tokens. */
struct step {
    uint32_t n_past;            /* position of the batch's first token */
    uint32_t i_window;              /* which of the two convolution windows holds the past */
    uint32_t seed_lo, seed_hi;
    float temp, top_p, min_p;
    uint32_t top_k;             /* 0: off */
    float repeat, presence, frequency;
    uint32_t last_n;            /* tokens that the penalties look back on */
    uint32_t allow_unused;
};

struct push_embed {
    uint32_t n_embd;
    uint32_t row_q;             /* 16-byte words from one packed row to the next */
    uint32_t row0, n_vocab;     /* rows that are bound */
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

/* y[t][r] = sum_k W[r][k] x[t][k], and what follows from it; see linear.glsl. */
struct push_linear {
    uint32_t n_in, n_out;       /* n_out: rows of W bound */
    uint32_t n_tok;
    uint32_t row_q;
    uint32_t x_stride, x_col;
    uint32_t y_stride, y_col;
    uint32_t res_stride, res_col;
    uint32_t gate_stride, gate_col;
    float eps;                  /* IN_NORM */
    float limit;                /* IN_ACT */
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
    uint32_t n_tok, per_split;  /* tokens; of them those of one split */
    uint32_t long_stride, long_col;
    uint32_t short_stride, short_col;
    uint32_t out_stride, n_row; /* n_row: rows of out, of one split or expert */
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

/* y = res + sigmoid(gate[t]) * x; the backward's y is the gradient of y. */
struct push_gate {
    uint32_t n, n_row;
    uint32_t x_stride, x_col, gate_stride, gate_col;
    uint32_t y_stride, y_col, res_stride, res_col;
    uint32_t dx_stride, dx_col, dgate_stride, dgate_col;
};

/* Units left out of x: tape.h. */
struct push_dropout {
    uint32_t n, n_row;
    uint32_t id;
    uint32_t below;             /* of 2^32: words below it leave a unit out */
    float scale;                /* of the others */
    uint32_t n_used;            /* x's row is row / n_used of y */
    uint32_t x_stride, x_col, y_stride, y_col;
};

struct push_bias { uint32_t n, n_row, y_stride, y_col; };

struct push_attn_prep {
    uint32_t n_head, n_kv_head, head_dim, n_rot;
    uint32_t n_row;             /* of the cache, a head */
    uint32_t p_stride, q_col, k_col, v_col;
    uint32_t q_step;            /* from one head's query to the next */
    float eps;
};

struct push_attn {
    uint32_t n_head, n_kv_head, head_dim;
    uint32_t n_tok;
    uint32_t n_row;                 /* of the cache, a head */
    uint32_t window;                /* RING: keys that a token sees at most */
    uint32_t n_split, split_len;    /* keys are cut in n_split runs of split_len, from the first */
    uint32_t tile;                  /* that the first of this many tokens sees */
    uint32_t merge;                 /* attn_merge follows */
    uint32_t p_stride, gate_col;    /* of the first head's gate */
    float scale;
};

/* Attention over a row of documents, forward and backward. */
struct push_attn_docs {
    uint32_t n_head, n_kv_head, head_dim;
    uint32_t n_tok;
    uint32_t window;                /* WINDOW: keys that a token sees at most */
    uint32_t p_stride, gate_col;    /* of the first head's gate */
    uint32_t d_stride, d_gate_col;  /* of its gradient */
    uint32_t head0, n_heads, more;  /* of the query heads that share a key head, those whose turn it
                                       is; 1: some have been before */
    float scale;
};

struct push_attn_prep_bwd {
    uint32_t n_head, n_kv_head, head_dim, n_rot;
    uint32_t n_tok;
    uint32_t p_stride, p_col, d_stride, d_col;  /* of the projection and of its gradient */
    uint32_t k_col, v_col, q_step;              /* behind that column */
    float eps;
};

/* Tokens that a lane walks over in the convolution of documents. */
#define CONV_TOKENS 8

struct push_delta {
    uint32_t n_k_head, n_v_head, d_state;
    uint32_t n_tok;
    uint32_t p_stride, qkv_col, z_col, b_col, a_col;
    uint32_t tiled;             /* V head j reads K head j % n_k_head; else
                                   j / (n_v_head / n_k_head) */
    float eps;
    uint32_t d_stride, d_col;   /* of the projection's gradient, from its first column on */
};

/* Numbers kept of a token of a chunk: delta_chunk.glsl. */
#define GATE_ROWS 8

struct push_delta_chunk {
    uint32_t n_k_head, n_v_head, d_state;
    uint32_t n_tok;
    uint32_t p_stride, b_col, a_col;
    uint32_t tiled;
    uint32_t chunk;             /* tokens of a chunk at most */
    uint32_t n_slot;            /* chunks that a head has room for */
    uint32_t k_head0;           /* first K head of those that are bound */
    uint32_t chunk0, n_chunk;   /* that one dispatch walks over */
    uint32_t keep;              /* the state that each chunk begins with */
    uint32_t by_slot;           /* delta_chunk_lower_bwd: T, else P */
    uint32_t d_stride, db_col, da_col;      /* of the projection's gradient */
};

struct push_delta_gate_sum { uint32_t n_tok, n_v_head, a_log_col, dt_col, a_log, dt; };

struct push_mamba {
    uint32_t n_head, head_dim, n_group, d_state;
    uint32_t n_tok;
    uint32_t p_stride, z_col, conv_col, dt_col;
    uint32_t u_stride;
    uint32_t n_part;            /* the state's columns are cut in n_part runs, whose outputs
                                   mamba_norm adds up */
    float eps;
    uint32_t tok0, n_chunk;     /* a run of chunks, from a token on */
};

/* Rows of documents. u: what the convolution makes of each token - x, B, C - and behind it the
 * gradient of the recurrence's output. */
struct push_mamba_docs {
    uint32_t n_head, head_dim, n_group, d_state;
    uint32_t n_tok, q;          /* q: tokens that a chunk has at most */
    uint32_t chunk0, n_chunk;   /* a run of chunks */
    uint32_t p_stride, p_col;   /* of the projections, and of their gradient */
    uint32_t dp_stride, dp_col;
    uint32_t u_stride;
    uint32_t own_col, other_col, v_col;     /* of u, see the kernels */
    uint32_t y_stride, y_col;
    uint32_t weight;            /* which of a token's sums weighs what the state says */
    uint32_t back;              /* 1: a token takes from those after it, not before it */
    float eps;
};

/* A token's sums, [chunk][n_head][MAMBA_SUMS][q]: c, the running sum of dt A inside its chunk, as
 * high and low words - their differences lose nothing, however far the sum has come - then dt,
 * exp(c), r = exp(c_last - c), and r dt. */
#define MAMBA_HIGH 0
#define MAMBA_LOW 1
#define MAMBA_DT 2
#define MAMBA_E 3
#define MAMBA_R 4
#define MAMBA_R_DT 5
#define MAMBA_SUMS 6

/* What the backward says of a token, [chunk][n_head][MAMBA_TERMS][q]: dy . x; what its x brings
 * through the state behind the chunk, and in all; what it adds to the gradients of A_log and
 * dt_bias; and of the chunk, in the first place of its row, what comes through from the state
 * before it to the one behind it. */
#define MAMBA_DY_X 0
#define MAMBA_LEAVES 1
#define MAMBA_X_DX 2
#define MAMBA_D_A 3
#define MAMBA_D_DT 4
#define MAMBA_THROUGH 5
#define MAMBA_TERMS 6

struct push_route {
    uint32_t n_expert, n_used, id_stride, x_stride, x_col;
    uint32_t n_group, n_group_used;     /* ROUTE_SIGMOID, as the rest */
    uint32_t renorm;
    float scale;
};

struct push_route_bwd {
    uint32_t n_tok, n_used, id_stride, dwt_stride, x_stride, x_col, dx_stride, dx_col;
    uint32_t renorm;                    /* ROUTE_SIGMOID, as the rest */
    float scale;
};

/* What is told of a recurrent head: tokens; their decays' sum, least and most; the sum of what they
 * write by (beta, of Mamba2 dt). And of its states: how many; the sum of their squares, the largest
 * magnitude. */
#define GATE_STATS 5
#define STATE_STATS 3

struct push_gate_stats { uint32_t n_tok, p_stride, decay_col, beta_col; };

/* States of n numbers: of head h and chunk from + i the number h * by_head + (from + i) * by_chunk;
 * chunk0: of the first one in the documents' table. */
struct push_state_stats { uint32_t n, by_head, by_chunk, from, chunk0, n_chunk, head0; };

struct push_moe_sort {
    uint32_t n_expert, n_used, n_tok;
    uint32_t id_stride;
    uint32_t tile;              /* entries of a tile at most */
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
    uint32_t x_stride, x_slot;  /* elements from a token's row to the next, from a slot's row to
                                   the next */
    uint32_t y_stride, y_slot, y_col;
};

struct push_advance { uint32_t n_tok; };

struct push_sample {
    uint32_t n_vocab;
    uint32_t n_ids;             /* room in the history */
    uint32_t advance;           /* 1: the submission has read one token more */
};

struct push_nll {
    uint32_t n_vocab, stride, col;
    uint32_t row0;              /* of the batch, for the first row of logits */
};

/* A row that is none, in a list of rows or of ids. */
#define NO_ROW 0xffffffffu

struct push_nll_targets {
    uint32_t n_vocab, stride, col;
    uint32_t n_row;             /* of a slice */
    uint32_t n_target;          /* of all slices */
};

struct push_gather {
    uint32_t n;
    uint32_t n_row;             /* of a slice */
    uint32_t n_list, n_x;       /* rows of all slices; that x has */
    uint32_t x_stride, x_col, y_stride, y_col;
};

struct push_next_slice { uint32_t by; };

/* A row of what is trained: n numbers of an arena of values, from `at` words of 16 bytes behind its
 * start on. Its gradient stands at the same place of another arena, its moments lie dense among
 * those of the other rows. */
struct adam_row {
    uint32_t at, n;
    uint32_t moment;            /* the first one's place */
    uint32_t gate;              /* 1: a delta of a gate */
};

/* AdamW's numbers for one update, made in double precision (adam_hyper). */
struct adam_hyper {
    float beta1, beta2, rest1, rest2;   /* rest: 1 - beta */
    float step;                 /* lr / (1 - beta1^t) */
    float root;                 /* 1 / sqrt(1 - beta2^t) */
    float eps;
    float keep, keep_gates;     /* 1 - lr * decay */
    float clip_norm;            /* 0: none */
};

/* Rows [row0, row0 + n_row) of the table that is bound; what is bound of the arenas begins `base`
 * words of 16 bytes behind their starts, of the moments with number moment0. */
struct push_adam {
    uint32_t row0, n_row;
    uint32_t per_group;         /* rows of a workgroup */
    uint32_t base, moment0;
    uint32_t to;                /* grad_norm: of the first workgroup's sum */
};

struct push_norm_sum { uint32_t n, from, to, per_group; };

struct push_gate_delta { uint32_t n; };

/* y += a x; only the tests of the GPU layer run it. */
struct push_test_axpy { uint32_t n; float a; };
