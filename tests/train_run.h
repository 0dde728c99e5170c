/* train_run: a trainer with its model, its adapter and rows of documents, for tests. */
#pragma once
#include "../engine/train.h"
#include "test.h"

struct train_run {
    struct gguf *file;
    struct model *m;
    struct lora_set *set;
    struct trainer *t;
    uint8_t *fresh;             /* an adapter in memory; NULL: it came from a file */
    struct err err;
};

/* A model on the device, with its draft blocks or without. False, and the open case failed. */
bool train_run_model(struct train_run *r, struct gpu *g, const char *path, bool draft);
/* Its adapter: a file, or one made for targets (lora_make.h) of rank 4. */
bool train_run_adapter(struct train_run *r, const char *path);
bool train_run_fresh(struct train_run *r, const char *targets);
bool train_run_trainer(struct train_run *r, const struct train_params *p);
void train_run_close(struct train_run *r);      /* takes one half opened */

/* Values that make every gradient one: B and deltas uniform within `most`. */
void train_run_stir(struct train_run *r, uint64_t seed, float most);
/* Room of a trainer for these rows. */
void train_run_room(struct train_params *p, const struct data_rows *rows);
/* All gradients one behind the other, in fresh memory, and their number. */
float *train_run_all(struct train_run *r, enum train_what what, uint64_t *n);
