/* model_keys: reads and checks the metadata of an architecture. See arch.h. */
#include "model/binder.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 256 };

const char *model_key(const struct binder *b, const char *key, char *buf, size_t n)
{
    snprintf(buf, n, "%s.%s", b->prefix, key);
    return buf;
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

/* ---- one value ------------------------------------------------------------------------------- */

bool model_has_key(struct binder *b, const char *key)
{
    char k[KEY_BYTES];
    return gguf_kv(b->m->file, model_key(b, key, k, sizeof k)) != NULL;
}

bool model_u32(struct binder *b, const char *key, enum gguf_need need, uint32_t *v)
{
    char k[KEY_BYTES];
    return gguf_u32(b->m->file, model_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_f32(struct binder *b, const char *key, enum gguf_need need, float *v)
{
    char k[KEY_BYTES];
    return gguf_f32(b->m->file, model_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_bool(struct binder *b, const char *key, enum gguf_need need, bool *v)
{
    char k[KEY_BYTES];
    return gguf_bool(b->m->file, model_key(b, key, k, sizeof k), need, v, b->err);
}

/* ---- a value for each block ------------------------------------------------------------------ */

/* Copies the value of every block to new memory, one after the other. NULL: no memory. */
static void *gather_blocks(struct binder *b, const void *v, uint64_t stride, uint64_t size)
{
    uint32_t n = model_n_block(b->m);
    char *dense = mem_alloc(n, size);
    for (uint32_t i = 0; dense && i < n; i++)
        memcpy(dense + i * size, (const char *)v + i * stride, size);
    if (!dense)
        fail_memory(b->err, "out of memory: a key of %u blocks", n);
    return dense;
}

/* Copies the values back to the blocks and frees the memory. */
static bool scatter_blocks(struct binder *b, void *dense, void *v, uint64_t stride, uint64_t size)
{
    for (uint32_t i = 0; i < model_n_block(b->m); i++)
        memcpy((char *)v + i * stride, (char *)dense + i * size, size);
    free(dense);
    return true;
}

bool model_u32s(struct binder *b, const char *key, enum gguf_need need, uint32_t *v,
                uint64_t stride)
{
    char k[KEY_BYTES];
    uint32_t *each = gather_blocks(b, v, stride, sizeof *v);
    if (each && gguf_u32_each(b->m->file, model_key(b, key, k, sizeof k), need, each,
                              model_n_block(b->m), b->err))
        return scatter_blocks(b, each, v, stride, sizeof *v);
    free(each);
    return false;
}

bool model_f32s(struct binder *b, const char *key, enum gguf_need need, float *v, uint64_t stride)
{
    char k[KEY_BYTES];
    uint32_t n = model_n_block(b->m);
    float *each = gather_blocks(b, v, stride, sizeof *v);
    bool ok =
        each && gguf_f32_each(b->m->file, model_key(b, key, k, sizeof k), need, each, n, b->err);
    for (uint32_t i = 0; ok && i < n; i++)
        if (!isfinite(each[i]))
            ok = model_refuse(b, "%s[%u] is %g, expected a finite number", k, i, each[i]);
    if (ok)
        return scatter_blocks(b, each, v, stride, sizeof *v);
    free(each);
    return false;
}

bool model_bools(struct binder *b, const char *key, enum gguf_need need, bool *v, uint64_t stride)
{
    char k[KEY_BYTES];
    uint32_t n = model_n_block(b->m);
    const struct gguf_kv *kv = gguf_kv(b->m->file, model_key(b, key, k, sizeof k));
    if (kv && kv->elem != GGUF_BOOL) {
        uint32_t *number = mem_alloc(n, sizeof *number);
        bool ok = number ? model_u32s(b, key, need, number, sizeof *number)
                         : fail_memory(b->err, "out of memory: a key of %u blocks", n);
        for (uint32_t i = 0; ok && i < n; i++)
            *(bool *)((char *)v + i * stride) = number[i] != 0;
        free(number);
        return ok;
    }
    bool *each = gather_blocks(b, v, stride, sizeof *v);
    if (each && gguf_bool_each(b->m->file, k, need, each, n, b->err))
        return scatter_blocks(b, each, v, stride, sizeof *v);
    free(each);
    return false;
}

/* ---- checks ---------------------------------------------------------------------------------- */

bool model_range(struct binder *b, const char *key, uint32_t v, uint32_t min, uint32_t max)
{
    return (v >= min && v <= max) ||
           model_refuse(b, "%s.%s is %u, expected %u to %u", b->prefix, key, v, min, max);
}

bool model_width(struct binder *b, const char *key, uint32_t v)
{
    return model_range(b, key, v, 4, 1u << 20) &&
           (v % 4 == 0 ||
            model_refuse(b, "%s.%s is %u, expected a multiple of 4", b->prefix, key, v));
}

bool model_width_or_none(struct binder *b, const char *key, const char *rows, uint32_t *v)
{
    const struct gguf_tensor *t = NULL;
    char name[128] = "";
    for (uint32_t i = 0; !t && i < model_n_block(b->m); i++)
        t = gguf_tensor(b->m->file, model_tensor_name(rows, i, name, sizeof name));
    if (t && !model_has_key(b, key))
        *v = (uint32_t)min_u64(t->dim[1], UINT32_MAX);
    else if (!model_u32(b, key, OPTIONAL, v))
        return false;
    if (t && !*v)
        return model_refuse(b, "%s.%s is 0, expected 4 to %u, as there is a tensor %s", b->prefix,
                            key, 1u << 20, name);
    return !*v || model_width(b, key, *v);
}

/* ---- keys that several architectures share --------------------------------------------------- */

bool model_head_dim(struct binder *b, enum gguf_need need, uint32_t *head_dim)
{
    if (!model_u32(b, "attention.key_length", need, head_dim) ||
        !model_range(b, "attention.key_length", *head_dim, 4, MAX_HEAD_DIM))
        return false;
    uint32_t n_value = *head_dim;
    return model_u32(b, "attention.value_length", OPTIONAL, &n_value) &&
           model_range(b, "attention.value_length", n_value, *head_dim, *head_dim) &&
           (*head_dim % 4 == 0 ||
            model_refuse(b, "heads have dimension %u, expected a multiple of 4", *head_dim));
}

bool model_kv_heads(struct binder *b, uint32_t i_block, uint32_t n_head, uint32_t n_kv_head)
{
    return model_range(b, "attention.head_count_kv", n_kv_head, 1, n_head) &&
           (n_head % n_kv_head == 0 ||
            model_refuse(b, "block %u has %u query heads for %u key heads, expected a multiple",
                         i_block, n_head, n_kv_head));
}

bool model_rope_base(struct binder *b, const char *key, float *theta)
{
    *theta = 10000.0f;
    return model_f32(b, key, OPTIONAL, theta) &&
           ((*theta > 1 && isfinite(*theta)) ||
            model_refuse(b, "%s.%s is %g, expected a number above 1", b->prefix, key, *theta));
}

bool model_ssm(struct binder *b, uint32_t max_head, struct ssm_keys *k)
{
    return model_u32(b, "ssm.conv_kernel", REQUIRED, &k->conv_k) &&
           model_range(b, "ssm.conv_kernel", k->conv_k, 2, 8) &&
           model_u32(b, "ssm.state_size", REQUIRED, &k->d_state) &&
           model_range(b, "ssm.state_size", k->d_state, 4, 256) &&
           model_u32(b, "ssm.group_count", REQUIRED, &k->n_group) &&
           model_range(b, "ssm.group_count", k->n_group, 1, 1024) &&
           model_u32(b, "ssm.time_step_rank", REQUIRED, &k->n_head) &&
           model_range(b, "ssm.time_step_rank", k->n_head, 1, max_head) &&
           model_u32(b, "ssm.inner_size", REQUIRED, &k->inner) &&
           model_range(b, "ssm.inner_size", k->inner, 4, 1u << 20);
}

/* A factor that is missing or 0 means 1. */
static bool expert_scale(struct binder *b, float *scale)
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

bool model_sigmoid_router(struct binder *b, uint32_t n_used, struct moe *m)
{
    uint32_t gating = 2; /* the number of sigmoid in GGUF */
    m->route = ROUTE_SIGMOID;
    m->renorm = true;
    if (!model_u32(b, "expert_gating_func", OPTIONAL, &gating) ||
        !model_range(b, "expert_gating_func", gating, 2, 2) ||
        !model_bool(b, "expert_weights_norm", OPTIONAL, &m->renorm) ||
        !expert_scale(b, &m->scale) || !model_u32(b, "expert_group_count", OPTIONAL, &m->n_group) ||
        !model_u32(b, "expert_group_used_count", OPTIONAL, &m->n_group_used))
        return false;
    m->n_group = max_u32(m->n_group, 1); /* without groups there is one */
    m->n_group_used = max_u32(m->n_group_used, 1);
    if (!model_range(b, "expert_group_count", m->n_group, 1, 64) ||
        !model_range(b, "expert_group_used_count", m->n_group_used, 1, m->n_group))
        return false;
    return (m->n_expert % m->n_group == 0 &&
            n_used <= m->n_expert / m->n_group * m->n_group_used) ||
           model_refuse(b, "%u of %u experts from %u of %u groups do not fit together", n_used,
                        m->n_expert, m->n_group_used, m->n_group);
}
