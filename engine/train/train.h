/* train: the device's part of a training run: computes gradients of rows of documents, and updates
 * factors.
 *
 * A trainer owns the gradients, AdamW's moments, the activations that are kept between passes, and
 * the recorded passes. It trains, in place, the factors of a lora_set made for training, and the
 * recurrent gates. A training row takes these steps: a forward pass that keeps the input of every
 * layer; the loss on the counted tokens; then, layer by layer from the last, the layer's forward
 * again with the tape on, and its backward. tune.c has the data, the schedule and the files.
 *
 * The same rows on the same device give the same bits, in however many submissions they are run. */
#pragma once
#include "train/data.h"
#include "model/kv_stats.h"
#include "model/model.h"

struct trainer;

struct train_params {
    uint32_t max_tok; /* slots of the longest row */
    uint32_t max_doc; /* the most documents of a row, not counting padding */
    bool train_lora, train_gates;
    double mtp_factor; /* on the mean of the draft blocks' losses; 0: they are not trained. Others
                          need a model loaded with its draft blocks */
    double dropout;    /* of the inputs of A, while gradients are computed; 0: none */
    uint64_t seed;     /* of the dropout */
    uint32_t chunk;    /* tokens of a chunk of the recurrences, at most 64; 0: chosen for the
                          device; 1: the serial form, in which tokens see earlier ones only
                          through the state */
    bool f16;          /* the model's products take f16 operands (op_linear.c); trained numbers
                          are always f32 */
    bool keep_experts; /* for central differences, with one row and no dropout: experts are chosen
                          only in the first pass over the row */
    bool layers;       /* train_row collects statistics of experts, gates and states */
};

/* set: in force (lora_set_use) and made for training; may be NULL when only gates are trained.
 * Nothing is allocated before train_commit, but gpu_plan() counts the arenas from now on. NULL with
 * a reason. */
struct trainer *train_create(struct gpu *g, struct model *m, struct lora_set *set,
                             const struct train_params *p, struct hlm_err *err);
bool train_commit(struct trainer *t, struct hlm_err *err);
void train_destroy(struct trainer *t); /* takes NULL; gates keep their trained values */

/* Sums over the counted targets of all rows that were run. */
struct train_sums {
    double main, mtp; /* negative log likelihoods; mtp: mean over the draft blocks */
    uint64_t n;       /* targets of the main loss */
};
/* How to run a row. */
struct row_job {
    double weight; /* a factor on its gradient */
    uint64_t step; /* with i_row: what its dropout depends on */
    uint32_t i_row;
    double *nll, *nll_mtp; /* [row->n]: get the loss of each counted target, 0 for the others;
                              NULL: not wanted */
};
/* Adds weight * (main + mtp_factor * mtp) of the row's gradient to the gradients, and the row's
 * losses to *sums. False: the device is lost, there is no memory, or a loss is not finite; the
 * message then names the first block whose output is not. */
bool train_row(struct trainer *t, const struct data_row *row, struct row_job job,
               struct train_sums *sums, struct hlm_err *err);
/* Only the losses, without dropout. */
bool train_eval(struct trainer *t, const struct data_row *row, struct train_sums *sums,
                struct hlm_err *err);

/* The statistics of layers; all.arena is NULL while there are none. */
struct kv_stats *train_stats(struct trainer *t);
/* Statistics of layers of a trainer that was made without them, from the next row on; also drops
 * all recordings. False, with a reason: there is no memory, and there are none. */
bool train_tell_layers(struct trainer *t, bool on, struct hlm_err *err);
bool train_tells_layers(const struct trainer *t);
/* A row had no room to be recorded with them: since then there are none. */
bool train_refused_layers(const struct trainer *t);
/* Writes to most[n], for each layer, the largest magnitude of the deltas of its gates; 0 if it has
 * none. Waits for the device. */
bool train_gate_deltas(struct trainer *t, float *most, uint32_t n, struct hlm_err *err);

/* One update from the gradients (op_adam), which are then zeroed. *norm: the norm of the gradients
 * before clipping. If it is not finite nothing is updated, and the call fails. */
bool train_update(struct trainer *t, const struct adam_update *u, double *norm,
                  struct hlm_err *err);

/* What is trained, in the adapter's order: X.lora_a and X.lora_b in pairs, then deltas of gates. */
struct train_param {
    const char *name;       /* as in the adapter's file */
    uint64_t n;             /* numbers */
    uint32_t dim[3], n_dim; /* fastest first */
    bool is_gate;
};
uint64_t train_n_param(const struct trainer *t);
struct train_param train_param(const struct trainer *t, uint64_t i);
/* TRAIN_VALUE and TRAIN_GRAD are as in the adapter's file: without the scale that B has on the
 * device. TRAIN_DEVICE is the value on the device. A checkpoint needs that, because dividing by the
 * scale and multiplying again can give other bits. A parameter that is not trained has zero
 * gradients and moments. */
enum train_what { TRAIN_VALUE, TRAIN_GRAD, TRAIN_M, TRAIN_V, TRAIN_DEVICE };
/* Both wait for the device. TRAIN_DEVICE, TRAIN_M and TRAIN_V are restored to the bit. */
bool train_get(struct trainer *t, enum train_what what, uint64_t i, float *to, struct hlm_err *err);
bool train_put(struct trainer *t, enum train_what what, uint64_t i, const float *from,
               struct hlm_err *err);
