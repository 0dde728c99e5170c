/* gguf_hash: checksums of streams, and the fingerprint of a GGUF file. The fingerprint covers only
 * both ends of each tensor, so that a file of 20 GB need not be read. A model that was requantised
 * or retrained differs there too. */
#include "file/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* ---- checksums ------------------------------------------------------------------------------- */

struct sum *sum_begin(struct hlm_err *err)
{
    XXH3_state_t *x = XXH3_createState();
    if (!x || XXH3_128bits_reset(x) != XXH_OK) {
        XXH3_freeState(x);
        fail_memory(err, "out of memory for a checksum");
        return NULL;
    }
    return (struct sum *)x;
}

void sum_add(struct sum *s, const void *p, uint64_t n)
{
    if (n)
        XXH3_128bits_update((XXH3_state_t *)s, p, (size_t)n);
}

void sum_end(struct sum *s, uint64_t hash[2])
{
    XXH128_hash_t h = XXH3_128bits_digest((XXH3_state_t *)s);
    hash[0] = h.low64;
    hash[1] = h.high64;
    XXH3_freeState((XXH3_state_t *)s);
}

/* ---- fingerprint ----------------------------------------------------------------------------- */

enum { END_BYTES = 4096 };

/* Adds the length first, so that two strings and their concatenation differ. */
static void add_bytes(struct sum *s, const void *p, uint64_t n)
{
    sum_add(s, &n, sizeof n);
    sum_add(s, p, n);
}

static void add_kv(struct sum *s, const struct gguf_kv *kv)
{
    uint64_t type[3] = { kv->type, kv->elem, kv->n };
    add_bytes(s, kv->key, strlen(kv->key));
    sum_add(s, type, sizeof type);
    if (kv->type == GGUF_ARRAY && kv->elem == GGUF_STRING) {
        struct gguf_str_iter it = { kv->data, kv->n };
        for (struct hlm_str v; gguf_next_str(&it, &v);)
            add_bytes(s, v.p, v.n);
    } else {
        sum_add(s, kv->data, gguf_kv_bytes(kv));
    }
}

static void add_tensor(struct sum *s, const struct gguf_tensor *t)
{
    uint64_t shape[6] = { t->type, t->n_bytes, t->dim[0], t->dim[1], t->dim[2], t->dim[3] };
    uint64_t n = min_u64(t->n_bytes, END_BYTES);
    add_bytes(s, t->name, strlen(t->name));
    sum_add(s, shape, sizeof shape);
    sum_add(s, t->data, n);
    sum_add(s, t->data + (t->n_bytes - n), n);
}

bool gguf_hash(const struct gguf *g, uint64_t hash[2], struct hlm_err *err)
{
    struct sum *s = sum_begin(err);
    if (!s)
        return false;
    uint64_t n[3] = { gguf_file_bytes(g), gguf_n_kv(g), gguf_n_tensor(g) };
    sum_add(s, n, sizeof n);
    for (uint64_t i = 0; i < n[1]; i++)
        add_kv(s, gguf_kv_at(g, i));
    for (uint64_t i = 0; i < n[2]; i++)
        add_tensor(s, gguf_tensor_at(g, i));
    sum_end(s, hash);
    return true;
}

struct hash_text hash_text(const uint64_t hash[2])
{
    struct hash_text t;
    snprintf(t.s, sizeof t.s, "%016" PRIx64 "%016" PRIx64, hash[0], hash[1]);
    return t;
}
