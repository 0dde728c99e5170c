/* tensor: a view of rows in an arena, passed by value. It owns nothing and is never freed.
 *
 * Names of dimensions used throughout:
 *   n_tok    tokens of the batch            n_embd   width of the residual stream
 *   n_vocab  rows of the output matrix      n_head, n_kv_head, head_dim   attention
 *   n_rot    rotated dimensions of a head   n_k_head, n_v_head, d_state   linear attention
 *                                                                         (nk, nv, S)
 *   d_conv   convolution channels (cd)      conv_k   convolution width (K)
 *   n_expert, n_used                        n_ff     width of an MLP or of one expert
 *   n_ctx    positions a cache holds        n_past   positions already in it */
#pragma once
#include "base/dtype.h"

struct arena;

typedef struct tensor {
    struct arena *arena;
    uint64_t offset;  /* bytes from the arena's start to column 0 of the first row */
    enum dtype dtype; /* F32, F16, I32, or Q8_0 in caches; packed weights have a struct of their own
                         (op.h: linear) */
    uint32_t n, n_row; /* elements of each row in this view; number of rows */
    uint32_t stride;   /* elements from one row to the next */
    uint32_t col; /* the first element of each row in this view, which kernels get as a number */
} tensor;

/* For Q8_0, only of the quants. */
static inline uint32_t tensor_elem_bytes(tensor t)
{
    return t.dtype == Q8_0 ? 1 : t.dtype == F16 ? 2 : 4;
}

/* Bytes from one row to the next. A row of Q8_0 consists of its quants (stride is a multiple of 4),
 * one f16 for every 32 of them, and padding to a whole word: see kv.glsl. */
static inline uint64_t tensor_row_bytes(tensor t)
{
    uint64_t scales = t.dtype == Q8_0 ? ((uint64_t)t.stride + 63) / 64 * 4 : 0;
    return (uint64_t)t.stride * tensor_elem_bytes(t) + scales;
}

/* Bytes from offset to the end of the last row. */
static inline uint64_t tensor_bytes(tensor t) { return tensor_row_bytes(t) * t.n_row; }

/* Columns [col, col + n) of every row. */
static inline tensor tensor_cols(tensor t, uint32_t col, uint32_t n)
{
    t.col += col;
    t.n = n;
    return t;
}

/* Rows [row, row + n_row). */
static inline tensor tensor_rows(tensor t, uint32_t row, uint32_t n_row)
{
    t.offset += row * tensor_row_bytes(t);
    t.n_row = n_row;
    return t;
}
