/* tape: the ops of a block in the order of recording. Their backward runs in reverse order.
 *
 * A cmd that trains has a tape from the start. The ops then take paths that have a backward, and
 * choose them by size alone, so that a block that is run again gives the same bits. While the tape
 * runs (tape_begin), every op pushes one record: its backward function, and the op's own struct
 * with the tensors of its forward, which are all still in scratch. tape_back calls the backward
 * functions in reverse. There is no graph: the gradient of a tensor that several ops read is the
 * sum of what they add to it, in that fixed order.
 *
 * Backward accumulates. Every record adds to gradients, and grad() zeroes a gradient when it is
 * first asked for. Base weights are frozen and have no gradients. */
#pragma once
#include "gpu/gpu.h"

/* rec: the op's record, aligned as malloc's memory is. */
typedef void tape_bwd(struct cmd *c, const void *rec);

/* Dropout on the input of low-rank factors, not on that of the base's matrices: each unit is left
 * out with probability p, and the others are multiplied by 1 / (1 - p). A counter-based generator
 * decides which. */
struct dropout {
    float p;    /* 0: no dropout; key is not used */
    tensor key; /* I32 [4]: seed low, high, step, row */
};

struct tape;
/* kept: the arena for choices that a recomputation must repeat (tape_keep). It may be uncommitted;
 * recording takes from it as needed. */
struct tape *tape_create(struct arena *kept, const struct dropout *d, struct hlm_err *err);
void tape_destroy(struct tape *t); /* takes NULL */
/* Everything in arena `of` is trained, and its gradient is at the same offset in arena `to`.
 * tape_train_vector adds a single vector `at` outside that arena, with its gradient `to`. */
void tape_train(struct tape *t, struct arena *of, struct arena *to);
bool tape_train_vector(struct tape *t, tensor at, tensor to, struct hlm_err *err);

/* Gives the cmd its tape, before anything is recorded. */
void tape_attach(struct cmd *c, struct tape *t);
/* True if the cmd belongs to training, also for passes without a backward (the first pass and
 * validation). */
bool tape_trains(const struct cmd *c);
/* Turns dropout on or off for what is recorded from now on. It is on at first. */
void tape_drops(struct cmd *c, bool on);
/* The dropout in force; NULL: none. */
const struct dropout *tape_dropout(const struct cmd *c);

/* From now on ops push records; earlier gradients are forgotten. x is the input of these ops; its
 * gradient is added to dx (arena NULL: not wanted). */
void tape_begin(struct cmd *c, tensor x, tensor dx);
/* Copies a record of `size` bytes. What it points to must outlive the tape's run, as the parts of a
 * model do. Does nothing unless the tape runs. */
void tape_push(struct cmd *c, tape_bwd *bwd, const void *rec, size_t size);
bool tape_runs(const struct cmd *c);
/* Stops the tape and records the backward of its ops, from the gradient dy of their output y. */
void tape_back(struct cmd *c, tensor y, tensor dy);

/* The gradient of t, with the same rows and columns. Views of columns share the gradient of the
 * tensor that they view; views of different rows have gradients of their own. The arena of the
 * result is NULL if t is frozen, and nothing must be computed then. */
tensor grad(struct cmd *c, tensor t);
/* Makes dt the gradient of t. */
void grad_is(struct cmd *c, tensor t, tensor dt);

/* For choices, I32 [n_row][n], that must be the same when a layer is run again. tape_layer says
 * which layer is recorded next, and whether it is run again. tape_keep sets *t. It returns true if
 * *t has the choices already; if false, the op must write them there. *t is scratch if the cmd does
 * not train. */
void tape_layer(struct cmd *c, uint32_t i_layer, bool again);
bool tape_keep(struct cmd *c, uint32_t n, uint32_t n_row, tensor *t);
