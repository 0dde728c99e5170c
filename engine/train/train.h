/* train: the device's part of a training run - from rows of documents to gradients, from gradients
 * to new factors.
 *
 * A trainer owns the gradients, AdamW's moments, the activations kept between the passes and the
 * recorded passes themselves. What is trained are the factors of a lora_set that was made for
 * training, where they stand, and with them the recurrent gates. A row is one pass: forward with
 * the input of every layer kept, the loss on the tokens that count, then layer by layer forward
 * again with the tape on and back. Data, schedules and files are others' (tune.c).
 *
 * Same rows, same device: the same bits, whatever the cutting by time. */
#pragma once
#include "train/data.h"
#include "model/kv_stats.h"
#include "model/model.h"

struct trainer;

struct train_params {
    uint32_t max_tok; /* slots of the longest row */
    uint32_t max_doc; /* documents of a row at most, padding not counted */
    bool train_lora, train_gates;
    double mtp_factor; /* of the mean of the draft blocks' losses; 0: none. The model must
                          have been loaded with them */
    double dropout;    /* on what goes into A, while gradients are made; 0: none */
    uint64_t seed;     /* of the dropout */
    uint32_t chunk;    /* tokens of the recurrences' chunks, 64 at most; 0: chosen. 1: a
                          token meets those before it in the state alone, which is the
                          serial form */
    bool f16;          /* the model's products take f16 operands (op_linear.c); what is
                          trained is f32 in any case */
    bool hold;         /* experts are chosen by the first pass over a row and held from
                          then on, one row without dropout: for central differences */
    bool layers;       /* first passes of train_row tell of experts, gates and states */
};

/* set: in force (lora_set_use), made for training; NULL only with gates alone. Nothing is allocated
 * before train_commit; what is taken stands in gpu_plan() from here on. NULL with a reason. */
struct trainer *train_create(struct gpu *g, struct model *m, struct lora_set *set,
                             const struct train_params *p, struct hlm_err *err);
bool train_commit(struct trainer *t, struct hlm_err *err);
void train_destroy(struct trainer *t); /* takes NULL; gates stay as trained */

/* Sums over the counted targets of what was run: n is that of the main loss; mtp is a mean over the
 * draft blocks. */
struct train_sums {
    double main, mtp;
    uint64_t n;
};
/* Adds weight * (main + mtp_factor * mtp) of the row's gradient to the gradients, and to *sums.
 * step and i_row key the dropout. nll, nll_mtp: NULL, or [row->n] of each target that counts, else
 * 0. False: the device is lost, or memory. */
bool train_row(struct trainer *t, const struct data_row *row, double weight, uint64_t step,
               uint32_t i_row, struct train_sums *sums, double *nll, double *nll_mtp,
               struct hlm_err *err);
/* The same without gradients and without dropout. */
bool train_eval(struct trainer *t, const struct data_row *row, struct train_sums *sums, double *nll,
                double *nll_mtp, struct hlm_err *err);

/* What they told; its all.arena is NULL where nobody asked. */
struct kv_stats *train_layers(struct trainer *t);
/* The largest magnitude of the deltas that the gates of each of n layers have; 0 without. Waits. */
bool train_gate_deltas(struct trainer *t, float *most, uint32_t n, struct hlm_err *err);

/* One update from the gradients (op_adam), which are zeroed then; *norm: theirs before clipping. A
 * norm that is not finite changes nothing and fails. */
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
/* Values and gradients as the adapter's file has them, without the scale that B stand under on the
 * device; values as they stand there, for going on bit by bit (a quotient by the scale need not
 * come back as what it was); moments. What is not trained has no gradient and no moments: zeros. */
enum train_what { TRAIN_VALUE, TRAIN_GRAD, TRAIN_M, TRAIN_V, TRAIN_DEVICE };
/* Waits. */
bool train_get(struct trainer *t, enum train_what what, uint64_t i, float *to, struct hlm_err *err);
/* What TRAIN_DEVICE, TRAIN_M and TRAIN_V have got comes back in the same bits. */
bool train_put(struct trainer *t, enum train_what what, uint64_t i, const float *from,
               struct hlm_err *err);
