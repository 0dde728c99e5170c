/* train_parts: what train.c (passes) and train_update.c (parameters and AdamW) share. */
#pragma once
#include "train/train.h"

#include "gpu/recording.h"

enum pass_kind { PASS_FIRST, PASS_HELD, PASS_EVAL, PASS_BACK, PASS_HEAD, PASS_HEAD_EVAL };
enum { MAX_LOSS = 9 };

/* The rows that a recorded pass works on, for its row length. Its tape points here. */
struct train_pass {
    enum pass_kind kind;
    uint32_t n_tok;
    struct docs docs;
    struct batch batch;
};

/* Targets `ahead` tokens on, compacted: [k] the slot and what it must foresee. x: the hidden states
 * before its norm and head. step: where in the ids the embeddings behind its slots begin. */
struct loss {
    uint32_t ahead, n;
    tensor x, dx, step, rows, targets, slice, weight, parts;
};

struct trainer {
    struct gpu *gpu;
    struct model *m;
    struct lora_set *set;
    struct train_params p;
    uint32_t max_tok, chunk, slice_rows; /* docs.chunk is the room that kernels have for one */
    uint32_t lowest;                     /* layer with something to train */

    struct arena *tables, *inputs, *scratch;
    tensor ids;
    struct docs docs;
    struct dropout dropout;
    struct loss loss[MAX_LOSS]; /* the main one, then one a draft depth */
    uint32_t n_loss;
    uint8_t *host; /* the tables, by offset */
    uint64_t host_bytes;
    float *parts;
    struct kv_stats layers;
    struct layer_cache *tells; /* where layers and draft blocks tell; NULL: nobody asks */
    tensor *input;             /* [n_layer + 1] of layers, then what the last one gave */
    tensor d_input[2];         /* of layer i: [i % 2] */

    struct tape *tape;
    struct recordings recordings;          /* kind: enum pass_kind; index: the loss of a head */
    struct train_pass pass[MAX_RECORDING]; /* by the recording's slot */
    bool chosen;                           /* experts, for params.hold */

    struct updates *u; /* train_update.c */
};

/* Takes gradients, moments and tables of rows; then tells the tape what is trained; records the
 * update; allocates. */
bool updates_init(struct trainer *t, struct hlm_err *err);
bool updates_tape(struct trainer *t, struct hlm_err *err);
bool updates_record(struct trainer *t, struct hlm_err *err);
bool updates_commit(struct trainer *t, struct hlm_err *err);
void updates_finish(struct trainer *t); /* takes one half made */
