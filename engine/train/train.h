/* train: the device's part of a training run - from rows of documents to gradients, from gradients
 * to new factors.
 *
 * A trainer owns the gradients, AdamW's moments, the activations that are kept between passes, and
 * the recorded passes. It trains the factors of a lora_set that was made for training, in place,
 * and the recurrent gates. One training row takes: a forward pass that keeps the input of every
 * layer, the loss on the tokens that count, then, layer by layer from the last, the layer's forward
 * again with the tape on and its backward. Data, schedules and files are not the trainer's
 * (tune.c).
 *
 * The same rows on the same device give the same bits, however a watchdog makes the work be cut. */
#pragma once
#include "train/data.h"
#include "model/kv_stats.h"
#include "model/model.h"

struct trainer;

struct train_params {
    uint32_t max_tok; /* slots of the longest row */
    uint32_t max_doc; /* documents of a row at most, not counting padding */
    bool train_lora, train_gates;
    double mtp_factor; /* of the mean of the draft blocks' losses; 0: they are not trained. The
                          model must have been loaded with its draft blocks */
    double dropout;    /* on what is multiplied by A, while gradients are computed; 0: none */
    uint64_t seed;     /* of the dropout */
    uint32_t chunk;    /* tokens of a chunk of the recurrences, 64 at most; 0: chosen for the
                          device; 1: the serial form, in which a token meets those before it in
                          the state alone */
    bool f16;          /* the model's products take f16 operands (op_linear.c); what is trained
                          is f32 in any case */
    bool hold;         /* experts are chosen in the first pass over a row and kept from then on;
                          one row, no dropout. For central differences */
    bool layers;       /* train_row gathers statistics of experts, gates and states */
};

/* set: in force (lora_set_use) and made for training; NULL only when gates alone are trained.
 * Nothing is allocated before train_commit, but the arenas are part of gpu_plan() from here on.
 * NULL with a reason. */
struct trainer *train_create(struct gpu *g, struct model *m, struct lora_set *set,
                             const struct train_params *p, struct hlm_err *err);
bool train_commit(struct trainer *t, struct hlm_err *err);
void train_destroy(struct trainer *t); /* takes NULL; gates stay as they were trained */

/* Sums over the counted targets of all rows that were run. */
struct train_sums {
    double main, mtp; /* negative log likelihoods; mtp: mean over the draft blocks */
    uint64_t n;       /* targets of the main loss */
};
/* How a row is run. */
struct row_job {
    double weight; /* a factor on its gradient */
    uint64_t step; /* with i_row: what its dropout depends on */
    uint32_t i_row;
    double *nll, *nll_mtp; /* receive [row->n] losses of its own: of a target that counts, else 0;
                              NULL: not wanted */
};
/* Adds weight * (main + mtp_factor * mtp) of the row's gradient to the gradients, and the row's
 * losses to *sums. False: the device is lost, there is no memory, or a loss is not finite; the
 * message then names the first block whose output is not. */
bool train_row(struct trainer *t, const struct data_row *row, struct row_job job,
               struct train_sums *sums, struct hlm_err *err);
/* The losses alone, without dropout. */
bool train_eval(struct trainer *t, const struct data_row *row, struct train_sums *sums,
                struct hlm_err *err);

/* The statistics of layers; all.arena is NULL without params.layers. */
struct kv_stats *train_stats(struct trainer *t);
/* Writes to most[n], for each layer, the largest magnitude of the deltas of its gates; 0 if it has
 * none. Waits. */
bool train_gate_deltas(struct trainer *t, float *most, uint32_t n, struct hlm_err *err);

/* One update from the gradients (op_adam), which are then zeroed. *norm: of the gradients before
 * clipping. If it is not finite nothing is updated, and the call fails. */
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
 * device. TRAIN_DEVICE is the value as the device has it. Going on with a run takes that, since
 * dividing by the scale and multiplying again need not give the same bits. A parameter that is not
 * trained has zero gradients and moments. */
enum train_what { TRAIN_VALUE, TRAIN_GRAD, TRAIN_M, TRAIN_V, TRAIN_DEVICE };
/* Both wait. What was read as TRAIN_DEVICE, TRAIN_M or TRAIN_V is restored to the bit. */
bool train_get(struct trainer *t, enum train_what what, uint64_t i, float *to, struct hlm_err *err);
bool train_put(struct trainer *t, enum train_what what, uint64_t i, const float *from,
               struct hlm_err *err);
