/* lora_parts: shared by lora.c (reads adapters), lora_set.c (makes sets of them), lora_train.c
 * (finds their numbers on the device), lora_make.c (makes and writes adapters), merge.c and
 * peft*.c. */
#pragma once
#include "lora/lora.h"

#include <string.h>

/* The end of the name of a decay gate. The tensor is -exp(A_log); deltas are added to A_log. */
#define DECAY ".ssm_a"

/* What one adapter has for a tensor x of the base: a pair of factors, or the delta d of a gate. */
struct lora_pair {
    const struct gguf_tensor *x, *a, *b;
    uint32_t rank;
    float scale;
};
struct lora_delta {
    const struct gguf_tensor *x, *d;
    float scale;
};

struct lora_file {
    struct gguf *g;
    float scale;
    struct lora_pair *pair;
    struct lora_delta *delta;
    uint64_t n_pair, n_delta;
    struct lora_hash hash;
};

/* A pair within a stack: it begins at column col of B and row col of A, a multiple of 4. */
struct stacked {
    const struct lora_pair *p;
    uint32_t col;
};

/* What adapters add to a matrix. Consecutive matrices may share a stack of A; it has a pair only
 * once, even if the pair changes several of them. */
struct lora_stack {
    uint64_t first, n;           /* the matrices that share the stack */
    uint64_t stacked, n_stacked; /* the pairs of all of them */
    uint32_t rank;               /* of the stack */
    bool reached;                /* an adapter changes this matrix */
    struct lora lora;
};

/* Rows [row0, row0 + n) of a pair's B are rows [at, at + n) of a matrix. */
struct b_rows {
    uint64_t row0, n, at, matrix;
};

struct lora_set {
    const struct lora_base *b;
    struct lora_file **file;
    uint32_t n_file;
    bool train;
    struct stacked *stacked;
    uint64_t n_stacked, cap_stacked;
    struct lora_stack *stack; /* by matrix */
    struct arena *arena;      /* NULL: there is no device */
    uint64_t taken;           /* bytes taken, also without a device */
    struct lora_hash hash;
    /* for training: pair k begins at col[k] of its stack; its rows are b_rows[first[k] ..
     * first[k + 1]), sorted by row0 */
    uint32_t *col;
    uint64_t *first;
    struct b_rows *b_rows;
};
/* Fills col, first and b_rows. */
bool lora_train_index(struct lora_set *s, struct hlm_err *err);

/* The role of a tensor of the base for adapters. */
enum meets { NOT_A_MATRIX, IN_A_MATRIX, ODD_EXPERTS, A_GATE };
/* An enum meets for each tensor of the file; the caller frees it. NULL without memory. */
uint8_t *lora_base_uses(const struct lora_base *b);

enum { MAX_RANK = 4096 };

static inline bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && !strcmp(s + n - m, tail);
}
