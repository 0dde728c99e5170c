/* model_keys: reading and checking the metadata of an architecture; see arch.h. */
#include "model/binder.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *model_key(const struct binder *b, const char *key, char *buf, size_t n)
{
    snprintf(buf, n, "%s.%s", b->prefix, key);
    return buf;
}

bool model_u32(struct binder *b, const char *key, enum gguf_need need, uint32_t *v)
{
    char k[256];
    return gguf_u32(b->m->file, model_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_f32(struct binder *b, const char *key, enum gguf_need need, float *v)
{
    char k[256];
    return gguf_f32(b->m->file, model_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_bools(struct binder *b, const char *key, enum gguf_need need, bool *v, uint64_t n)
{
    char k[256];
    const struct gguf_kv *kv = gguf_kv(b->m->file, model_key(b, key, k, sizeof k));
    uint32_t *each = kv && kv->elem != GGUF_BOOL ? mem_alloc(n, sizeof *each) : NULL;
    if (!each)
        return gguf_bool_each(b->m->file, k, need, v, n, b->err);
    /* some converters write integers */
    bool ok = gguf_u32_each(b->m->file, k, need, each, n, b->err);
    for (uint64_t i = 0; ok && i < n; i++)
        v[i] = each[i] != 0;
    free(each);
    return ok;
}

bool model_range(struct binder *b, const char *key, uint32_t v, uint32_t min, uint32_t max)
{
    if (v >= min && v <= max)
        return true;
    return fail(b->err, "%s: %s.%s is %u, expected %u to %u", gguf_path(b->m->file), b->prefix, key,
                v, min, max);
}

bool model_width(struct binder *b, const char *key, uint32_t v)
{
    if (!model_range(b, key, v, 4, 1u << 20))
        return false;
    return v % 4 == 0 ||
           model_refuse(b, "%s.%s is %u, expected a multiple of 4", b->prefix, key, v);
}

bool model_groups(struct binder *b, uint32_t n_expert, uint32_t n_used, uint32_t *n_group,
                  uint32_t *n_group_used)
{
    *n_group = max_u32(*n_group, 1);
    *n_group_used = max_u32(*n_group_used, 1);
    if (!model_range(b, "expert_group_count", *n_group, 1, 64) ||
        !model_range(b, "expert_group_used_count", *n_group_used, 1, *n_group))
        return false;
    return (n_expert % *n_group == 0 && n_used <= n_expert / *n_group * *n_group_used) ||
           model_refuse(b, "%u of %u experts from %u of %u groups do not fit together", n_used,
                        n_expert, *n_group_used, *n_group);
}

bool model_expert_scale(struct binder *b, float *scale)
{
    *scale = 0;
    if (!model_f32(b, "expert_weights_scale", OPTIONAL, scale))
        return false;
    if (!isfinite(*scale))
        return model_refuse(b, "%s.expert_weights_scale is %g, expected a finite number", b->prefix,
                            (double)*scale);
    *scale = *scale == 0 ? 1 : *scale;
    return true;
}

bool model_bool(struct binder *b, const char *key, enum gguf_need need, bool *v)
{
    char k[256];
    return gguf_bool(b->m->file, model_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_u32s(struct binder *b, const char *key, enum gguf_need need, uint32_t *v)
{
    char k[256];
    return gguf_u32_each(b->m->file, model_key(b, key, k, sizeof k), need, v,
                         b->m->n_layer + b->m->n_mtp, b->err);
}

bool model_f32s(struct binder *b, const char *key, enum gguf_need need, float *v)
{
    char k[256];
    uint32_t n = b->m->n_layer + b->m->n_mtp;
    if (!gguf_f32_each(b->m->file, model_key(b, key, k, sizeof k), need, v, n, b->err))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return model_refuse(b, "%s[%u] is %g, expected a finite number", k, i, v[i]);
    return true;
}

bool model_refuse(struct binder *b, const char *fmt, ...)
{
    char msg[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return fail(b->err, "%s: %s", gguf_path(b->m->file), msg);
}
