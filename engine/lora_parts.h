/* lora_parts: what lora.c (reads adapters) and lora_set.c (puts them together) share. */
#pragma once
#include "lora.h"

#include <string.h>

#define DECAY ".ssm_a"                  /* -exp(A_log): what is added goes to A_log */

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
