/* ref_parts: shared by the files of the reference: memory, columns of rows, one query of attention,
 * the parts of a mixture of experts, the beginnings of documents and chunks.
 *
 * Read ref.h first. */
#pragma once
#include "ref/ref.h"

/* n zeros; the caller frees. */
double *ref_doubles(uint64_t n);
double ref_dot(const double *a, const double *b, uint64_t n);
/* y [n_row, n] += bias [n], which may be NULL. */
void ref_add_bias(const float *bias, uint32_t n, uint32_t n_row, double *y);

/* Columns from .. from + n of rows [n_row, width], copied to y [n_row, n] or to memory that the
 * caller frees; and added back to the rows. */
void ref_put_columns(const double *rows, uint64_t width, uint64_t from, uint64_t n, uint64_t n_row,
                     double *y);
double *ref_columns(const double *rows, uint64_t width, uint64_t from, uint64_t n, uint64_t n_row);
void ref_add_columns(const double *y, uint64_t width, uint64_t from, uint64_t n, uint64_t n_row,
                     double *rows);

/* One query of one head against n_key keys; k and v begin at its first key, stride between keys.
 * ref_attend() leaves p = softmax(q k^T / sqrt(dim)) and y = p v. */
struct ref_query {
    const double *q, *k, *v;
    uint64_t stride;
    uint32_t n_key, dim;
    double *p; /* room for n_key */
};
void ref_attend(const struct ref_query *a, double *y);

/* The K head that V head j reads, and its gates at token t (ref_delta()). */
uint64_t ref_k_head(const struct ref_delta *d, uint64_t j);
void ref_delta_gate(const struct ref_delta *d, uint64_t t, uint64_t j, double *beta, double *g);

/* The width of the input of m's experts: of the latent or of the token itself. Then one expert, and
 * the shared one. */
uint32_t ref_moe_width(const struct ref_moe *m);
struct ref_ffn ref_moe_expert(const struct ref_moe *m, uint64_t e);
struct ref_ffn ref_moe_shared(const struct ref_moe *m);
/* Chooses as the router of m does: id and weight [n_used], from logits [n_expert]. */
void ref_moe_choose(const struct ref_moe *m, const double *logits, uint32_t *id, double *weight);

/* Sets s to the state before token t, n numbers: zero where a document begins; `past` at the first
 * token of a sequence (first NULL), or zero if that is NULL. Elsewhere s is unchanged, as the token
 * before left it. */
void ref_start_state(const uint32_t *first, uint64_t t, const double *past, uint64_t n, double *s);
/* Tokens of the chunk at t: up to the chunk's length, the next document or the end. */
uint64_t ref_chunk_length(const uint32_t *first, uint64_t n_tok, uint64_t chunk, uint64_t t);
