/* saved_tiny: saved sessions of a few hundred bytes, for a model that does not exist, to test
 * saved_open without a device. */
#pragma once
#include "session/saved.h"

#include <string.h>

static inline uint64_t tiny_state(const void *user, uint32_t n_past)
{
    (void)user;
    return 32 + 4 * min_u32(n_past, 8);
}

static inline uint64_t tiny_kv(const void *user, uint32_t n_past)
{
    (void)user;
    return 8ull * n_past;
}

static const struct saved_want tiny_want = {
    .arch = "tiny",
    .name = "tiny model",
    .model_hash = { 1, 2 },
    .n_layer = 2,
    .n_vocab = 16,
    .n_ctx = 64,
    .kv_type = HLM_KV_F16,
    .state_bytes = tiny_state,
    .kv_bytes = tiny_kv,
};

struct tiny_bytes {
    uint8_t p[4096];
    uint64_t n;
};

static inline void tiny_put(struct tiny_bytes *b, const void *p, uint64_t n)
{
    HLM_ASSERT(b->n + n <= sizeof b->p);
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

static inline void tiny_any(struct tiny_bytes *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        tiny_put(b, &(uint8_t){ (uint8_t)(b->n * 7 + 1) }, 1);
}

/* Corrects the checksum. */
static inline void tiny_seal(struct tiny_bytes *b)
{
    uint64_t sum[2];
    struct sum *s = sum_begin(NULL);
    HLM_ASSERT(s && b->n >= sizeof sum);
    sum_add(s, b->p, b->n - sizeof sum);
    sum_end(s, sum);
    memcpy(b->p + b->n - sizeof sum, sum, sizeof sum);
}

/* A file with n_past tokens, one more that is not read yet, and a snapshot at every 5th. */
static inline struct tiny_bytes tiny_file(uint32_t n_past, const char *note)
{
    struct tiny_bytes b = { .n = 0 };
    struct saved_head h = { .version = SAVED_VERSION,
                            .model_hash = { 1, 2 },
                            .n_layer = 2,
                            .n_vocab = 16,
                            .n_past = n_past,
                            .n_known = n_past + 1,
                            .has_logits = n_past > 0,
                            .n_snap = n_past / 5,
                            .n_note = strlen(note),
                            .arch = "tiny",
                            .name = "tiny model" };
    memcpy(h.magic, "hlmstate", sizeof h.magic);
    tiny_put(&b, &h, sizeof h);
    for (uint32_t i = 0; i <= n_past; i++)
        tiny_put(&b, &(int32_t){ (int32_t)(i % 16) }, 4);
    tiny_put(&b, note, strlen(note));
    for (uint32_t i = 1; i <= n_past / 5; i++)
        tiny_put(&b, &(struct saved_snap){ .n_past = 5 * i, .has_logits = i & 1 },
                 sizeof(struct saved_snap));
    tiny_any(&b, n_past ? 64 : 0);
    tiny_any(&b, tiny_state(NULL, n_past) + tiny_kv(NULL, n_past));
    for (uint32_t i = 1; i <= n_past / 5; i++)
        tiny_any(&b, tiny_state(NULL, 5 * i) + (i & 1 ? 64 : 0));
    tiny_any(&b, 16);
    h.file_bytes = b.n;
    memcpy(b.p, &h, sizeof h);
    tiny_seal(&b);
    return b;
}
