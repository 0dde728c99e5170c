/* ops_nll: rows of logits of every kind that a model can give, and their likelihoods in long
 * double, for the tests of the losses. */
#pragma once
#include "ops.h"

enum logits_kind {
    LOGITS_PLAIN, /* normal numbers */
    LOGITS_SURE,  /* one logit far above the others */
    LOGITS_TIES,  /* few different values, so that the largest one occurs often */
    LOGITS_HOLES, /* half of the vocabulary at -1e30 or -inf */
    LOGITS_LARGE, /* around 3e4: the largest must be subtracted first */
    LOGITS_EQUAL, /* all the same */
    N_LOGITS_KIND
};
extern const char *const logits_kinds[N_LOGITS_KIND]; /* their names */

/* A row of n. `first` is the logit that LOGITS_SURE raises, and the first of the holes. */
void logits_fill(struct rig *r, enum logits_kind kind, uint32_t n, uint32_t first, float *row);
/* -log p of id. d [n], unless NULL: weight * (softmax - onehot), without cancellation at id. */
double logits_nll(const float *row, uint32_t n, uint32_t id, double weight, double *d);
