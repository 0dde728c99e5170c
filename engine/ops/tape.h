/* tape: the ops of a block in the order in which they were recorded, to be undone in reverse.
 *
 * A cmd that trains has a tape from its beginning; the ops then take paths that have a backward and
 * choose them by sizes alone, so that a block that is run again makes the same bits. While the tape
 * runs (tape_begin), every op pushes one record: its backward and the tensors of its forward, all
 * of which still stand in the scratch. tape_back calls them in reverse. There is no graph: what is
 * read by several ops gets the sum of what they add to its gradient, in that fixed order.
 *
 * Backward accumulates: every record adds to gradients, and grad() zeroes one when it is first
 * asked for. Base weights are frozen: they have none. */
#pragma once
#include "gpu/gpu.h"

struct tape_rec {
    void (*bwd)(struct cmd *c, const struct tape_rec *r);
    tensor t[12];
    const void *p[4]; /* what outlives the recording: an op's part of the model */
    uint32_t u[8];
    float f[4];
};

/* Units are left out of what goes into a low-rank pair (not out of the base's product) with
 * probability p, the others are multiplied by 1 / (1 - p). Which, says a counter generator. */
struct dropout {
    float p;    /* 0: none, and no key */
    tensor key; /* I32 [4]: seed low, high, step, row */
};

struct tape;
/* kept: an arena for what a recompute must not decide again (tape_keep); may be uncommitted, and is
 * taken from while something is recorded that asks for more. */
struct tape *tape_create(struct arena *kept, const struct dropout *d, struct hlm_err *err);
void tape_destroy(struct tape *t); /* takes NULL */
/* Everything in arena `of` is trained: the gradient of what stands at an offset there stands at the
 * same one in arena `to`. Those of single vectors elsewhere: at, to. */
void tape_train(struct tape *t, struct arena *of, struct arena *to);
bool tape_train_vector(struct tape *t, tensor at, tensor to, struct hlm_err *err);

/* Before anything is recorded. */
void tape_attach(struct cmd *c, struct tape *t);
/* Does the cmd train? Also where nothing is undone, as in a first pass or a validation. */
bool tape_trains(const struct cmd *c);
/* Are units left out in what is recorded from here on? At first they are. */
void tape_drops(struct cmd *c, bool on);
/* NULL: no units are left out. */
const struct dropout *tape_dropout(const struct cmd *c);

/* From here on ops are recorded on the tape; gradients that there were are forgotten. x: what they
 * begin with, dx: its gradient, which what they give is added to; its arena NULL: not wanted. */
void tape_begin(struct cmd *c, tensor x, tensor dx);
/* A no-op where nothing is recorded. Is anything? */
void tape_push(struct cmd *c, struct tape_rec r);
bool tape_runs(const struct cmd *c);
/* Ends the tape's recording and undoes it, from y's gradient dy. */
void tape_back(struct cmd *c, tensor y, tensor dy);

/* The gradient of t: same rows, same columns. What is viewed by columns has one gradient with its
 * base, views of rows are strangers to each other. Its arena is NULL where t is frozen: nothing is
 * to be computed then. */
tensor grad(struct cmd *c, tensor t);
/* The gradient of t stands at dt, from now on. */
void grad_is(struct cmd *c, tensor t, tensor dt);

/* For choices of layer i_layer (set before its block) that must be the same when it is run again:
 * I32 [n_row][n]. Returns true where they have been made and stand there. False: *t is to be
 * written; where the cmd does not train it is scratch. */
void tape_layer(struct cmd *c, uint32_t i_layer, bool held);
bool tape_keep(struct cmd *c, uint32_t n, uint32_t n_row, tensor *t);
