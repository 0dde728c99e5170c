/* gguf_values: typed readers of metadata. See file.h. */
#include "file/gguf_parts.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

const struct gguf_type_info gguf_types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = { "u8", 1 },       [GGUF_I8] = { "i8", 1 },     [GGUF_U16] = { "u16", 2 },
    [GGUF_I16] = { "i16", 2 },     [GGUF_U32] = { "u32", 4 },   [GGUF_I32] = { "i32", 4 },
    [GGUF_U64] = { "u64", 8 },     [GGUF_I64] = { "i64", 8 },   [GGUF_F32] = { "f32", 4 },
    [GGUF_F64] = { "f64", 8 },     [GGUF_BOOL] = { "bool", 1 }, [GGUF_STRING] = { "string", 0 },
    [GGUF_ARRAY] = { "array", 0 },
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they are");

uint64_t gguf_number(const uint8_t *p, uint32_t n_bytes)
{
    uint64_t v = 0;
    memcpy(&v, p, n_bytes);
    return v;
}

/* A key that a caller wants. kv NULL: there is nothing to read, which is an error unless ok. */
struct wanted_key {
    const struct gguf_kv *kv;
    bool ok;
    struct gguf_place at;
};

#define ONE_VALUE UINT64_MAX /* for array_len: an array must hold equal values */

/* A list of equal values where one is expected: some converters write a value for each block. */
static bool all_equal(const struct gguf_kv *kv)
{
    uint64_t bytes = gguf_types[kv->elem].bytes;
    for (uint64_t i = 1; bytes && i < kv->n; i++)
        if (memcmp(kv->data, kv->data + i * bytes, (size_t)bytes))
            return false;
    return bytes && kv->n;
}

static struct wanted_key want_key(const struct gguf *g, const char *key, enum gguf_need need,
                                  uint64_t array_len, struct hlm_err *err)
{
    struct wanted_key w = { gguf_kv(g, key),
                            true,
                            { .g = g, .err = err, .kind = "key", .name = { key, strlen(key) } } };
    if (!w.kv && need == REQUIRED)
        w.ok = gguf_bad(&w.at, "is missing, expected in this file");
    else if (w.kv && w.kv->type == GGUF_ARRAY && array_len == ONE_VALUE && !all_equal(w.kv))
        w.ok = gguf_bad(&w.at, "is an %sarray of %s%s, expected one value", w.kv->n ? "" : "empty ",
                        gguf_types[w.kv->elem].name,
                        w.kv->n && w.kv->elem != GGUF_STRING ? " that are not all equal" : "");
    else if (w.kv && w.kv->type == GGUF_ARRAY && array_len != ONE_VALUE && w.kv->n != array_len)
        w.ok = gguf_bad(&w.at, "has %" PRIu64 " elements, expected %" PRIu64, w.kv->n, array_len);
    if (!w.ok)
        w.kv = NULL;
    return w;
}

static bool wrong_value_type(const struct wanted_key *w, const char *expected)
{
    return gguf_bad(&w->at, "is %s%s, expected %s", w->kv->type == GGUF_ARRAY ? "an array of " : "",
                    gguf_types[w->kv->elem].name, expected);
}

/* Value i of the key; a scalar has this value for every i. */
static const uint8_t *value_at(const struct wanted_key *w, uint64_t i)
{
    return w->kv->data + (w->kv->type == GGUF_ARRAY ? i * gguf_types[w->kv->elem].bytes : 0);
}

static bool u32_at(const struct wanted_key *w, uint64_t i, uint32_t *v)
{
    enum gguf_type t = w->kv->elem;
    bool is_signed = t == GGUF_I8 || t == GGUF_I16 || t == GGUF_I32 || t == GGUF_I64;
    if (!is_signed && t != GGUF_U8 && t != GGUF_U16 && t != GGUF_U32 && t != GGUF_U64)
        return wrong_value_type(w, "an integer");
    uint64_t u = gguf_number(value_at(w, i), gguf_types[t].bytes),
             sign = 1ull << (8 * gguf_types[t].bytes - 1);
    if (is_signed && u & sign)
        return gguf_bad(&w->at, "is -%" PRIu64 ", expected 0 to %u", sign - (u & (sign - 1)),
                        UINT32_MAX);
    if (u > UINT32_MAX)
        return gguf_bad(&w->at, "is %" PRIu64 ", expected 0 to %u", u, UINT32_MAX);
    *v = (uint32_t)u;
    return true;
}

static bool bool_at(const struct wanted_key *w, uint64_t i, bool *v)
{
    if (w->kv->elem != GGUF_BOOL)
        return wrong_value_type(w, "bool");
    *v = *value_at(w, i);
    return true;
}

static bool f32_at(const struct wanted_key *w, uint64_t i, float *v)
{
    enum gguf_type t = w->kv->elem;
    if (t != GGUF_F32 && t != GGUF_F64)
        return wrong_value_type(w, "f32 or f64");
    uint64_t bits = gguf_number(value_at(w, i), gguf_types[t].bytes);
    if (t == GGUF_F32) {
        uint32_t u = (uint32_t)bits;
        memcpy(v, &u, 4);
        return true;
    }
    double d;
    memcpy(&d, &bits, 8);
    if (isfinite(d) && fabs(d) > FLT_MAX)
        return gguf_bad(&w->at, "is %g, expected at most %g", d, (double)FLT_MAX);
    *v = (float)d;
    return true;
}

bool gguf_u32(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
              struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, ONE_VALUE, err);
    return w.kv ? u32_at(&w, 0, v) : w.ok;
}

bool gguf_u32_each(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
                   uint64_t n, struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, n, err);
    for (uint64_t i = 0; w.kv && w.ok && i < n; i++)
        w.ok = u32_at(&w, i, &v[i]);
    return w.ok;
}

bool gguf_bool(const struct gguf *g, const char *key, enum gguf_need need, bool *v,
               struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, ONE_VALUE, err);
    return w.kv ? bool_at(&w, 0, v) : w.ok;
}

bool gguf_bool_each(const struct gguf *g, const char *key, enum gguf_need need, bool *v, uint64_t n,
                    struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, n, err);
    for (uint64_t i = 0; w.kv && w.ok && i < n; i++)
        w.ok = bool_at(&w, i, &v[i]);
    return w.ok;
}

bool gguf_f32(const struct gguf *g, const char *key, enum gguf_need need, float *v,
              struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, ONE_VALUE, err);
    return w.kv ? f32_at(&w, 0, v) : w.ok;
}

bool gguf_f32_each(const struct gguf *g, const char *key, enum gguf_need need, float *v, uint64_t n,
                   struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, n, err);
    for (uint64_t i = 0; w.kv && w.ok && i < n; i++)
        w.ok = f32_at(&w, i, &v[i]);
    return w.ok;
}

bool gguf_str(const struct gguf *g, const char *key, enum gguf_need need, struct hlm_str *v,
              struct hlm_err *err)
{
    struct wanted_key w = want_key(g, key, need, ONE_VALUE, err);
    if (!w.kv)
        return w.ok;
    if (w.kv->type != GGUF_STRING)
        return wrong_value_type(&w, "string");
    *v = (struct hlm_str){ (const char *)w.kv->data, w.kv->n };
    return true;
}
