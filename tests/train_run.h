/* train_run: a trainer with its model, its adapter and training rows, for tests. */
#pragma once
#include "train/train.h"
#include "test.h"

struct train_run {
    struct gguf *file;
    struct model *m;
    struct lora_set *set;
    struct trainer *t;
    uint8_t *fresh; /* an adapter in memory; NULL: it is from a file */
    uint64_t n_fresh;
    struct hlm_err err;
};

/* Loads a model to the device, with or without its draft blocks. False: the case has failed. */
bool train_run_model(struct train_run *r, struct gpu *g, const char *path, bool draft);
/* Sets its adapter: from a file, or a new one of rank 4 for targets (lora_make.h). */
bool train_run_adapter(struct train_run *r, const char *path);
bool train_run_fresh(struct train_run *r, const char *targets);
/* Replaces the trainer by a new one. */
bool train_run_trainer(struct train_run *r, const struct train_params *p);
void train_run_close(struct train_run *r); /* takes one that is half open */

/* Sets values for which no gradient is zero: B and deltas are uniform within `most`. */
void train_run_stir(struct train_run *r, uint64_t seed, float most);
/* Documents of these lengths. The ids and counted targets of a document do not depend on the
 * others. Free them with data_set_free(). */
void train_run_documents(struct data_set *s, const uint32_t *len, uint32_t n, uint32_t n_vocab);
/* Sets the sizes that a trainer needs for these training rows. */
void train_run_room(struct train_params *p, const struct data_rows *rows);
/* All gradients (or values) in one list in new memory, and its length. */
float *train_run_all(struct train_run *r, enum train_what what, uint64_t *n);
/* Compares two such lists of one trainer: the worst NMSE of a parameter, and its name. */
double train_run_worst(struct train_run *r, const float *got, const float *want, const char **name);
