/* peft_st_in: reads safetensors files, which are not trusted. See peft_st.c for the format. */
#include "lora/peft_parts.h"

#include <inttypes.h>
#include <stdlib.h>

enum { MAX_HEADER = 100 << 20 }; /* as the format's own library has it */

bool st_open(struct st_in *s, const char *path, struct hlm_err *err)
{
    uint64_t n = 0;
    json_error_t e;
    *s = (struct st_in){ .path = path, .f = { .fd = -1 } };
    if (!file_in_open(&s->f, path, err))
        return false;
    if (s->f.bytes < sizeof n || !file_in_read(&s->f, 0, &n, sizeof n, err))
        return fail(err, "%.300s: %" PRIu64 " bytes, expected a safetensors file", path,
                    s->f.bytes);
    if (n > MAX_HEADER || n > s->f.bytes - sizeof n)
        return fail(err, "%.300s: its header has %" PRIu64 " bytes, the file %" PRIu64, path, n,
                    s->f.bytes);
    char *text = mem_alloc(n + 1, 1);
    if (!text)
        return fail_memory(err, "%.300s: no memory to read it", path);
    bool ok = file_in_read(&s->f, sizeof n, text, n, err);
    s->head = ok ? json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &e) : NULL;
    free(text);
    s->data = sizeof n + n;
    if (ok && !json_is_object(s->head))
        ok = s->head ? fail(err, "%.300s: its header is no JSON object", path)
                     : fail(err, "%.300s: its header: %s", path, e.text);
    return ok;
}

void st_close(struct st_in *s)
{
    file_in_close(&s->f);
    json_decref(s->head);
    *s = (struct st_in){ .f = { .fd = -1 } };
}

static bool type_of(const char *name, enum dtype *type, uint64_t *bytes)
{
    static const struct {
        const char *name;
        enum dtype type;
        uint64_t bytes;
    } row[] = { { "F32", F32, 4 }, { "F16", F16, 2 }, { "BF16", BF16, 2 } };
    for (uint32_t i = 0; name && i < ARRAY_LEN(row); i++)
        if (!strcmp(name, row[i].name)) {
            *type = row[i].type;
            *bytes = row[i].bytes;
            return true;
        }
    return false;
}

bool st_find(const struct st_in *s, const char *name, struct st_found *t, struct hlm_err *err)
{
    const json_t *v = json_object_get(s->head, name), *dim = json_object_get(v, "shape"),
                 *at = json_object_get(v, "data_offsets");
    const char *type = json_string_value(json_object_get(v, "dtype"));
    uint64_t each = 0, n = 0, bytes = 0;
    if (!type_of(type, &t->type, &each))
        return fail(err, "%.300s: %s is of type %s, expected F32, F16 or BF16", s->path, name,
                    type ? show_text(type, strlen(type), 20).s : "no type");
    if (json_array_size(dim) != 2)
        return fail(err, "%.300s: %s has %zu dimensions, expected 2", s->path, name,
                    json_array_size(dim));
    for (uint32_t i = 0; i < 2; i++) {
        json_int_t d = json_integer_value(json_array_get(dim, i));
        if (d < 1 || d > UINT32_MAX)
            return fail(err, "%.300s: %s: expected dimensions of 1 to 4294967295", s->path, name);
        t->shape[i] = (uint64_t)d;
    }
    json_int_t from = json_integer_value(json_array_get(at, 0)),
               to = json_integer_value(json_array_get(at, 1));
    if (!size_mul(t->shape[0], t->shape[1], &n) || !size_mul(n, each, &bytes) || from < 0 ||
        to < from || (uint64_t)to > s->f.bytes - s->data || (uint64_t)(to - from) != bytes)
        return fail(err, "%.300s: %s: its bytes %lld to %lld do not fit its shape and the file",
                    s->path, name, (long long)from, (long long)to);
    t->at = s->data + (uint64_t)from;
    t->n = n;
    t->bytes = bytes;
    return true;
}

bool st_read(const struct st_in *s, const struct st_found *t, float *to, struct hlm_err *err)
{
    void *raw = mem_alloc(t->bytes, 1);
    bool ok = raw ? file_in_read(&s->f, t->at, raw, t->bytes, err)
                  : fail_memory(err, "%.300s: no memory to read it", s->path);
    if (ok)
        dtype_to_f32(t->type, raw, t->n, to);
    free(raw);
    return ok;
}
