/* train_run: a trainer with its model, its adapter and rows of documents, for tests. */
#pragma once
#include "train/train.h"
#include "test.h"

struct train_run {
    struct gguf *file;
    struct model *m;
    struct lora_set *set;
    struct trainer *t;
    uint8_t *fresh; /* an adapter in memory; NULL: it came from a file */
    uint64_t n_fresh;
    struct hlm_err err;
};

/* A model on the device, with its draft blocks or without. False, and the open case failed. */
bool train_run_model(struct train_run *r, struct gpu *g, const char *path, bool draft);
/* Its adapter: a file, or one made for targets (lora_make.h) of rank 4. */
bool train_run_adapter(struct train_run *r, const char *path);
bool train_run_fresh(struct train_run *r, const char *targets);
/* In place of the one before. */
bool train_run_trainer(struct train_run *r, const struct train_params *p);
void train_run_close(struct train_run *r); /* takes one half opened */

/* Values that make every gradient one: B and deltas uniform within `most`. */
void train_run_stir(struct train_run *r, uint64_t seed, float most);
/* Documents of these lengths, of ids and counted targets that do not depend on what is beside them;
 * data_set_free(). */
void train_run_documents(struct data_set *s, const uint32_t *len, uint32_t n, uint32_t n_vocab);
/* Room of a trainer for these rows. */
void train_run_room(struct train_params *p, const struct data_rows *rows);
/* All gradients one behind the other, in fresh memory, and their number. */
float *train_run_all(struct train_run *r, enum train_what what, uint64_t *n);
/* Such a list against another of the same trainer: the worst NMSE of a parameter's, and whose. */
double train_run_worst(struct train_run *r, const float *got, const float *want, const char **name);
