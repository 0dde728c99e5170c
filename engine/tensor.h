/* tensor: a view of rows in an arena, by value. It owns nothing and is never freed.
 *
 * Names of dimensions used throughout:
 *   n_tok    tokens of the batch            n_embd   width of the residual stream
 *   n_vocab  rows of the head               n_head, n_kv_head, head_dim   attention
 *   n_rot    rotated dimensions of a head   n_k_head, n_v_head, d_state   linear attention
 *                                                                         (nk, nv, S)
 *   d_conv   convolution channels (cd)      conv_k   convolution width (K)
 *   n_expert, n_used                        n_ff     width of an MLP or of one expert
 *   n_ctx    positions a cache holds        n_past   positions already in it */
#pragma once
#include "dtype.h"

struct arena;

typedef struct tensor {
    struct arena *arena;
    uint64_t offset;        /* bytes from the arena's start to row 0, column 0 of the rows viewed */
    enum dtype dtype;       /* F32, F16 or I32; packed weights have their own struct
                               (op.h: linear) */
    uint32_t n, n_row;      /* elements of a row that are viewed, rows */
    uint32_t stride;        /* elements from one row to the next */
    uint32_t col;           /* first element viewed in each row; kernels get it as a number */
} tensor;

static inline uint32_t tensor_elem_bytes(tensor t) { return t.dtype == F16 ? 2 : 4; }

/* Bytes from offset to the end of the last row. */
static inline uint64_t tensor_bytes(tensor t)
{
    return (uint64_t)t.stride * t.n_row * tensor_elem_bytes(t);
}

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
    t.offset += (uint64_t)row * t.stride * tensor_elem_bytes(t);
    t.n_row = n_row;
    return t;
}
