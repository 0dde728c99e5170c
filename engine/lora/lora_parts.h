/* lora_parts: what lora.c (reads adapters), lora_set.c (puts them together), lora_train.c (tells
 * where their numbers stand) and lora_make.c (makes them) share. */
#pragma once
#include "lora/lora.h"

#include <string.h>

#define DECAY ".ssm_a" /* -exp(A_log): what is added goes to A_log */

/* Of one adapter: factors beside one tensor, or what is added to a gate. */
struct pair {
    const struct gguf_tensor *x, *a, *b;
    uint32_t rank;
    float scale;
};
struct shift {
    const struct gguf_tensor *x, *d;
    float scale;
};

struct lora_file {
    struct gguf *g;
    float scale;
    struct pair *pair;
    struct shift *shift;
    uint64_t n_pair, n_shift;
    struct lora_hash hash;
};

/* A pair in a stack: from this column of B, row of A; a multiple of 4. */
struct stacked {
    const struct pair *p;
    uint32_t col;
};

/* What reaches a matrix. Matrices that share a stack of A stand one after the other; a pair that
 * reaches several of them stands in it once. */
struct stack {
    uint64_t first, n;           /* the matrices that share */
    uint64_t stacked, n_stacked; /* and the pairs stacked for them all */
    uint32_t rank;               /* of the stack */
    bool reached;
    struct lora lora;
};

/* Rows of a pair's B: [row0, row0 + n) are rows [at, at + n) of a matrix. */
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
    struct stack *stack; /* by matrix */
    struct arena *arena; /* NULL: there is no device */
    uint64_t taken;      /* then: bytes that would be */
    struct lora_hash hash;
    /* for training: of pair k the column, and b_rows [first[k], first[k + 1]) by row0 */
    uint32_t *col;
    uint64_t *first;
    struct b_rows *b_rows;
};
/* Finds the last three. */
bool lora_train_index(struct lora_set *s, struct hlm_err *err);

/* What an adapter on a tensor of the base would meet. */
enum meets { NOT_A_MATRIX, IN_A_MATRIX, ODD_EXPERTS, A_GATE };
/* That by tensor; NULL without memory. */
uint8_t *lora_base_uses(const struct lora_base *b);

enum { MAX_RANK = 4096 };

static inline bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && !strcmp(s + n - m, tail);
}

/* Room for one more element of an array that doubles. */
static inline bool room(void *array, uint64_t n, uint64_t *cap, uint64_t size)
{
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    if (n < *cap)
        return true;
    uint64_t more = *cap ? 2 * *cap : 64;
    if (!(grown = mem_grow(old, more, size)))
        return false;
    memcpy(array, &grown, sizeof grown);
    *cap = more;
    return true;
}
