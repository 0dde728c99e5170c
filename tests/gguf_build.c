/* gguf_build: see gguf_build.h. */
#include "gguf_build.h"

#include <stdlib.h>
#include <string.h>

struct bytes {
    uint8_t *p;
    uint64_t n, room;
};

struct item { /* a key or a tensor */
    char *name;
    uint32_t n_dim, type; /* the type of the tensor, or of the key's value */
    uint64_t dim[4];
    struct bytes data; /* as in the file; a key's value without its type */
};

struct items {
    struct item *at;
    uint64_t n;
};

struct gguf_build {
    uint32_t version;
    struct items key, tensor;
};

static void put(struct bytes *b, const void *p, uint64_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n);
        b->p = mem_grow(b->p, b->room, 1);
        HLM_ASSERT(b->p);
    }
    if (p && n)
        memcpy(b->p + b->n, p, n);
    else if (n)
        memset(b->p + b->n, 0, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t v) { put(b, &v, 4); }
static void put_u64(struct bytes *b, uint64_t v) { put(b, &v, 8); }

static void put_str(struct bytes *b, const char *p, uint64_t n)
{
    put_u64(b, n);
    put(b, p, n);
}

static char *copy_str(const char *s)
{
    char *copy = mem_alloc(strlen(s) + 1, 1);
    HLM_ASSERT(copy);
    return strcpy(copy, s);
}

static struct item *find(const struct items *list, const char *name)
{
    for (uint64_t i = 0; i < list->n; i++)
        if (!strcmp(list->at[i].name, name))
            return &list->at[i];
    return NULL;
}

/* The item of that name; it is made without data if there is none. */
static struct item *set(struct items *list, const char *name)
{
    struct item *it = find(list, name);
    if (!it) {
        list->at = mem_grow(list->at, list->n + 1, sizeof *list->at);
        HLM_ASSERT(list->at);
        it = &list->at[list->n++];
        *it = (struct item){ .name = copy_str(name) };
    }
    it->data.n = 0;
    return it;
}

static bool drop(struct items *list, const char *name)
{
    struct item *it = find(list, name);
    if (!it)
        return false;
    free(it->name);
    free(it->data.p);
    memmove(it, it + 1, (size_t)(list->at + list->n - (it + 1)) * sizeof *it);
    list->n--;
    return true;
}

static void set_str(struct gguf_build *b, const char *key, struct hlm_str value)
{
    struct item *it = set(&b->key, key);
    it->type = GGUF_STRING;
    put_str(&it->data, value.p, value.n);
}

struct gguf_build *gb_new(void)
{
    struct gguf_build *b = mem_alloc(1, sizeof *b);
    HLM_ASSERT(b);
    b->version = 3;
    return b;
}

struct gguf_build *gb_from(const char *path, struct hlm_err *err)
{
    struct gguf *g = gguf_open(path, err);
    if (!g)
        return NULL;
    struct gguf_build *b = gb_new();
    for (uint64_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        struct hlm_str value = { (const char *)kv->data, kv->n };
        if (kv->type == GGUF_STRING) {
            set_str(b, kv->key, value);
        } else if (kv->type == GGUF_ARRAY && kv->elem == GGUF_STRING) {
            struct hlm_str *s = mem_alloc(kv->n, sizeof *s);
            HLM_ASSERT(s);
            struct gguf_str_iter in = { kv->data, kv->n };
            for (uint64_t k = 0; gguf_next_str(&in, &s[k]); k++)
                ;
            gb_strs(b, kv->key, kv->n, s);
            free(s);
        } else if (kv->type == GGUF_ARRAY) {
            gb_array(b, kv->key, kv->elem, kv->n, kv->data);
        } else {
            gb_scalar(b, kv->key, kv->type, kv->data);
        }
    }
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        gb_tensor(b, t->name, t->type, t->n_dim, t->dim, t->data);
    }
    gguf_close(g);
    return b;
}

void gb_free(struct gguf_build *b)
{
    if (!b)
        return;
    while (b->key.n)
        drop(&b->key, b->key.at[b->key.n - 1].name);
    while (b->tensor.n)
        drop(&b->tensor, b->tensor.at[b->tensor.n - 1].name);
    free(b->key.at);
    free(b->tensor.at);
    free(b);
}

void gb_version(struct gguf_build *b, uint32_t version) { b->version = version; }

static uint64_t type_bytes(enum gguf_type type)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_I8:
    case GGUF_BOOL: return 1;
    case GGUF_U16:
    case GGUF_I16: return 2;
    case GGUF_U32:
    case GGUF_I32:
    case GGUF_F32: return 4;
    case GGUF_U64:
    case GGUF_I64:
    case GGUF_F64: return 8;
    default: break;
    }
    HLM_ASSERT(type < GGUF_TYPE_COUNT && type != GGUF_STRING && type != GGUF_ARRAY);
    return 0;
}

void gb_scalar(struct gguf_build *b, const char *key, enum gguf_type type, const void *value)
{
    struct item *it = set(&b->key, key);
    it->type = type;
    put(&it->data, value, type_bytes(type));
}

void gb_array(struct gguf_build *b, const char *key, enum gguf_type elem, uint64_t n,
              const void *values)
{
    struct item *it = set(&b->key, key);
    it->type = GGUF_ARRAY;
    put_u32(&it->data, elem);
    put_u64(&it->data, n);
    put(&it->data, values, n * type_bytes(elem));
}

void gb_str(struct gguf_build *b, const char *key, const char *value)
{
    set_str(b, key, (struct hlm_str){ value, strlen(value) });
}

void gb_strs(struct gguf_build *b, const char *key, uint64_t n, const struct hlm_str *values)
{
    struct item *it = set(&b->key, key);
    it->type = GGUF_ARRAY;
    put_u32(&it->data, GGUF_STRING);
    put_u64(&it->data, n);
    for (uint64_t i = 0; i < n; i++)
        put_str(&it->data, values[i].p, values[i].n);
}

void gb_u32(struct gguf_build *b, const char *key, uint32_t value)
{
    gb_scalar(b, key, GGUF_U32, &value);
}

void gb_f32(struct gguf_build *b, const char *key, float value)
{
    gb_scalar(b, key, GGUF_F32, &value);
}

void gb_bool(struct gguf_build *b, const char *key, bool value)
{
    gb_scalar(b, key, GGUF_BOOL, &(uint8_t){ value });
}

bool gb_drop_key(struct gguf_build *b, const char *key) { return drop(&b->key, key); }

/* Gives a tensor its shape and type, and its data the size that they need. */
static void shape(struct item *it, enum dtype type, uint32_t n_dim, const uint64_t *dim)
{
    uint64_t n_elem = 1, n_bytes;
    it->type = type;
    it->n_dim = n_dim;
    for (uint32_t i = 0; i < 4; i++) {
        it->dim[i] = i < n_dim ? dim[i] : 1;
        n_elem *= it->dim[i];
    }
    HLM_ASSERT(dtype_bytes(type, n_elem, &n_bytes));
    if (it->data.n < n_bytes)
        put(&it->data, NULL, n_bytes - it->data.n);
    it->data.n = n_bytes;
}

void gb_tensor(struct gguf_build *b, const char *name, enum dtype type, uint32_t n_dim,
               const uint64_t *dim, const void *data)
{
    struct item *it = set(&b->tensor, name);
    shape(it, type, n_dim, dim);
    if (data)
        memcpy(it->data.p, data, it->data.n);
}

bool gb_reshape(struct gguf_build *b, const char *name, uint32_t n_dim, const uint64_t *dim)
{
    struct item *it = find(&b->tensor, name);
    if (it)
        shape(it, (enum dtype)it->type, n_dim, dim);
    return it;
}

bool gb_retype(struct gguf_build *b, const char *name, enum dtype type)
{
    struct item *it = find(&b->tensor, name);
    if (it)
        shape(it, type, it->n_dim, (uint64_t[4]){ it->dim[0], it->dim[1], it->dim[2], it->dim[3] });
    return it;
}

bool gb_rename_tensor(struct gguf_build *b, const char *name, const char *to)
{
    struct item *it = find(&b->tensor, name);
    if (it) {
        free(it->name);
        it->name = copy_str(to);
    }
    return it;
}

bool gb_drop_tensor(struct gguf_build *b, const char *name) { return drop(&b->tensor, name); }

uint8_t *gb_bytes(const struct gguf_build *b, uint64_t *n)
{
    struct bytes out = { 0 };
    uint32_t alignment = 32;
    uint64_t offset = 0;
    const struct item *it = find(&b->key, "general.alignment");
    if (it && it->type == GGUF_U32)
        memcpy(&alignment, it->data.p, 4);
    put(&out, "GGUF", 4);
    put_u32(&out, b->version);
    put_u64(&out, b->tensor.n);
    put_u64(&out, b->key.n);
    for (uint64_t i = 0; i < b->key.n; i++) {
        it = &b->key.at[i];
        put_str(&out, it->name, strlen(it->name));
        put_u32(&out, it->type);
        put(&out, it->data.p, it->data.n);
    }
    for (uint64_t i = 0; i < b->tensor.n; i++) {
        it = &b->tensor.at[i];
        put_str(&out, it->name, strlen(it->name));
        put_u32(&out, it->n_dim);
        put(&out, it->dim, 8 * it->n_dim);
        put_u32(&out, it->type);
        put_u64(&out, offset);
        offset += align_up(it->data.n, alignment);
    }
    for (uint64_t i = 0; i < b->tensor.n; i++) {
        it = &b->tensor.at[i];
        put(&out, NULL, align_up(out.n, alignment) - out.n);
        put(&out, it->data.p, it->data.n);
    }
    *n = out.n;
    return out.p;
}

bool gb_write(const struct gguf_build *b, const char *path, struct hlm_err *err)
{
    uint64_t n;
    uint8_t *bytes = gb_bytes(b, &n);
    bool ok = file_write_atomic(path, bytes, n, err);
    free(bytes);
    return ok;
}

struct gguf_build *gb_shard(const struct gguf_build *b, uint32_t i, uint32_t n)
{
    struct gguf_build *shard = gb_new();
    shard->version = b->version;
    for (uint64_t k = 0; !i && k < b->key.n; k++) {
        const struct item *from = &b->key.at[k];
        struct item *to = set(&shard->key, from->name);
        to->type = from->type;
        put(&to->data, from->data.p, from->data.n);
    }
    for (uint64_t k = b->tensor.n * i / n; k < b->tensor.n * (i + 1) / n; k++) {
        const struct item *t = &b->tensor.at[k];
        gb_tensor(shard, t->name, (enum dtype)t->type, t->n_dim, t->dim, t->data.p);
    }
    gb_scalar(shard, "split.no", GGUF_U16, &(uint16_t){ (uint16_t)i });
    gb_scalar(shard, "split.count", GGUF_U16, &(uint16_t){ (uint16_t)n });
    gb_scalar(shard, "split.tensors.count", GGUF_I32, &(int32_t){ (int32_t)b->tensor.n });
    return shard;
}

static uint64_t sum_of(const void *p, uint64_t n)
{
    const uint8_t *b = p;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += b[i];
    return sum;
}

static uint64_t touch_kv(const struct gguf *g, const struct gguf_kv *kv)
{
    uint64_t sum = sum_of(kv->key, strlen(kv->key));
    struct hlm_str s = { 0 };
    struct gguf_str_iter it = { kv->data, kv->n };
    if (kv->elem == GGUF_STRING && kv->type == GGUF_ARRAY)
        while (gguf_next_str(&it, &s))
            sum += sum_of(s.p, s.n);
    else
        sum += sum_of(kv->data, kv->n * (kv->elem == GGUF_STRING ? 1 : type_bytes(kv->elem)));

    uint32_t u[16] = { 0 };
    bool flag[16] = { 0 };
    float f = 0;
    uint64_t n = min_u64(kv->n, 16);
    sum += gguf_u32(g, kv->key, REQUIRED, u, NULL) + gguf_f32(g, kv->key, REQUIRED, &f, NULL) +
           gguf_bool(g, kv->key, REQUIRED, flag, NULL) + gguf_str(g, kv->key, REQUIRED, &s, NULL) +
           gguf_u32_each(g, kv->key, OPTIONAL, u, n, NULL) +
           gguf_bool_each(g, kv->key, OPTIONAL, flag, n, NULL);
    return sum + u[0] + flag[0] + (f > 0) + sum_of(s.p, s.n);
}

static uint64_t touch_tensor(const struct gguf_tensor *t)
{
    const struct dtype_info *info = dtype_info(t->type);
    uint64_t sum = sum_of(t->name, strlen(t->name)) + t->data[0] + t->data[t->n_bytes - 1];
    float block[256];
    if (info->to_f32) {
        dtype_to_f32(t->type, t->data, info->block_len, block);
        sum += block[0] > 0;
        dtype_to_f32(t->type, t->data + t->n_bytes - info->block_bytes, info->block_len, block);
        sum += block[info->block_len - 1] > 0;
    }
    return sum;
}

uint64_t gguf_touch(const struct gguf *g)
{
    uint64_t sum = strlen(gguf_path(g)) + gguf_file_bytes(g);
    for (uint64_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        HLM_ASSERT(gguf_kv(g, kv->key) == kv);
        sum += touch_kv(g, kv);
    }
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        HLM_ASSERT(gguf_tensor(g, t->name) == t);
        sum += touch_tensor(t);
    }
    return sum;
}
