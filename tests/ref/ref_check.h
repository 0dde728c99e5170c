/* ref_check: shared by the tests of ref_bwd.h: random inputs, a packed row, and the comparison with
 * central differences. rc_free() frees the memory of a case. */
#pragma once
#include "ref/ref_bwd.h"
#include "ref/ref_parts.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define START 0.75 /* the value of gradients before a backward */

/* A row of three documents: of 5, 1 and 8 tokens. */
enum { RC_TOK = 14 };
extern const uint32_t rc_first[RC_TOK];
uint32_t rc_doc_length(uint32_t t); /* of the document that starts at t */

/* rc_free() frees these. Values are multiples of 2^-12, so that they, and their neighbours at the
 * steps of a difference, are floats without rounding. */
double *rc_normals(struct rng *r, uint64_t n);
float *rc_floats(struct rng *r, uint64_t n);
double *rc_start(uint64_t n);
void rc_free(void);

/* sum(dy . y); frees y. */
double rc_weigh(const double *dy, double *y, uint64_t n);

/* Compares grad - START with the differences of f along x (rc_check_float: a float array), element
 * by element, at most 150 of them. |difference| is at most 1e-9 of |gradient|. */
typedef double rc_loss(const void *ctx);
void rc_check(const char *what, rc_loss *f, const void *ctx, double *x, uint64_t n,
              const double *grad);
void rc_check_float(const char *what, rc_loss *f, const void *ctx, float *x, uint64_t n,
                    const double *grad);
