/* gguf_out: writes GGUF files. See file.h. */
#include "file/gguf_parts.h"

#include <string.h>

uint64_t gguf_kv_bytes(const struct gguf_kv *kv)
{
    if (kv->elem != GGUF_STRING)
        return kv->n * gguf_types[kv->elem].bytes;
    if (kv->type == GGUF_STRING)
        return kv->n;
    struct gguf_str_iter it = { kv->data, kv->n };
    struct hlm_str s;
    while (gguf_next_str(&it, &s))
        ;
    return (uint64_t)(it.p - kv->data);
}

bool gguf_out_bytes(struct gguf_out *o, const void *p, uint64_t n)
{
    o->failed = o->failed || !o->put(o->user, p, n, o->err);
    o->at += n;
    return !o->failed;
}

static void gguf_put_u32(struct gguf_out *o, uint32_t v) { gguf_out_bytes(o, &v, sizeof v); }

static void gguf_put_u64(struct gguf_out *o, uint64_t v) { gguf_out_bytes(o, &v, sizeof v); }

static void gguf_put_str(struct gguf_out *o, const char *s)
{
    gguf_put_u64(o, strlen(s));
    gguf_out_bytes(o, s, strlen(s));
}

void gguf_out_begin(struct gguf_out *o, uint64_t n_tensor, uint64_t n_kv)
{
    gguf_out_bytes(o, "GGUF", 4);
    gguf_put_u32(o, 3);
    gguf_put_u64(o, n_tensor);
    gguf_put_u64(o, n_kv);
}

void gguf_out_kv(struct gguf_out *o, const struct gguf_kv *kv)
{
    gguf_put_str(o, kv->key);
    gguf_put_u32(o, (uint32_t)kv->type);
    if (kv->type == GGUF_ARRAY)
        gguf_put_u32(o, (uint32_t)kv->elem);
    if (kv->type == GGUF_ARRAY || kv->type == GGUF_STRING)
        gguf_put_u64(o, kv->n);
    gguf_out_bytes(o, kv->data, gguf_kv_bytes(kv));
}

void gguf_out_str(struct gguf_out *o, const char *key, const char *value)
{
    gguf_out_kv(o, &(struct gguf_kv){ key, GGUF_STRING, GGUF_STRING, strlen(value),
                                      (const uint8_t *)value });
}

void gguf_out_f32(struct gguf_out *o, const char *key, float value)
{
    gguf_out_kv(o, &(struct gguf_kv){ key, GGUF_F32, GGUF_F32, 1, (const uint8_t *)&value });
}

void gguf_out_tensor(struct gguf_out *o, const char *name, enum dtype type, uint32_t n_dim,
                     const uint64_t *dim)
{
    uint64_t n_elem = 1, n_bytes = 0;
    gguf_put_str(o, name);
    gguf_put_u32(o, n_dim);
    for (uint32_t k = 0; k < n_dim; k++) {
        gguf_put_u64(o, dim[k]);
        n_elem *= dim[k];
    }
    bool fits = dtype_bytes(type, n_elem, &n_bytes);
    HLM_ASSERT(fits);
    gguf_put_u32(o, (uint32_t)type);
    gguf_put_u64(o, o->offset);
    o->offset = align_up(o->offset + n_bytes, o->alignment);
}

bool gguf_out_pad(struct gguf_out *o)
{
    static const uint8_t zero[64];
    for (uint64_t n = align_up(o->at, o->alignment) - o->at; n;) {
        uint64_t k = min_u64(n, sizeof zero);
        gguf_out_bytes(o, zero, k);
        n -= k;
    }
    return !o->failed;
}

bool gguf_out_to_file(void *user, const void *bytes, uint64_t n, struct hlm_err *err)
{
    return file_out_put(user, bytes, n, err);
}
