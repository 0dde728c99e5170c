/* train_parts: shared by train.c (passes) and train_update.c (parameters and AdamW). */
#pragma once
#include "train/train.h"

#include "gpu/recording.h"

enum pass_kind { PASS_FIRST, PASS_AGAIN, PASS_EVAL, PASS_BACK, PASS_HEAD, PASS_HEAD_EVAL };
enum { MAX_LOSS = 9 };

/* The tables of a recorded pass, cut to its row length. Its tape points here. */
struct train_pass {
    enum pass_kind kind;
    uint32_t n_tok;
    struct docs docs;
    struct batch batch;
};

/* The loss on targets `ahead` tokens later. Only slots whose target counts have logits. */
struct loss {
    uint32_t ahead, n;
    tensor x, dx;         /* the hidden states before the norm and the head, and their gradient */
    tensor step;          /* its n_past is the first id that the draft block embeds */
    tensor rows, targets; /* [n]: the slots that count, and what they must predict */
    tensor slice;         /* which of the slots have logits now (op_gather) */
    tensor weight, parts;
};

struct trainer {
    struct gpu *gpu;
    struct model *m;
    struct lora_set *set;
    struct train_params p;
    uint32_t max_tok;
    uint32_t chunk;      /* tokens of a chunk; docs.chunk is the room that kernels have for one */
    uint32_t slice_rows; /* slots whose logits exist at one time */
    uint32_t lowest;     /* the first layer with something to train */

    struct arena *tables, *inputs, *scratch;
    tensor ids;
    struct docs docs;
    struct dropout dropout;
    struct loss loss[MAX_LOSS]; /* the main loss, then one for each draft block */
    uint32_t n_loss;
    uint8_t *host; /* [host_bytes] the tables on the host, at the same offsets */
    uint64_t host_bytes;
    float *parts;
    struct kv_stats stats;
    struct layer_cache *stats_at; /* [layers, draft blocks]: room for the stats; NULL: none */
    bool stats_refused;           /* there was no room to record with them */
    tensor *input;                /* [n_layer + 1]: of each layer, then the output of the last */
    tensor d_input[2];            /* d_input[i % 2] belongs to layer i */

    struct tape *tape;
    struct recordings recordings;          /* kind: enum pass_kind; index: the loss of a head */
    struct train_pass pass[MAX_RECORDING]; /* by the recording's slot */
    bool chosen;                           /* experts are chosen, for params.keep_experts */

    struct updates *u; /* train_update.c */
};

/* To be called in this order. They take memory for gradients, moments and tables of rows; add the
 * trained tensors to the tape; record the update; and allocate. */
bool updates_init(struct trainer *t, struct hlm_err *err);
bool updates_tape(struct trainer *t, struct hlm_err *err);
bool updates_record(struct trainer *t, struct hlm_err *err);
bool updates_commit(struct trainer *t, struct hlm_err *err);
void updates_finish(struct trainer *t); /* takes a half-made one */
