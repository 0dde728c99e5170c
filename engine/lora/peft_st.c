/* peft_st: writes safetensors files of F32 tensors. The format is the length of a JSON object in 8
 * bytes, then the object, which maps names to dtype, shape and offsets, then the tensors' bytes
 * without gaps. */
#include "lora/peft_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t st_row_bytes(const struct st_tensor *t)
{
    return t->shape[t->n_dim - 1] * sizeof(float);
}

static uint64_t st_n_row(const struct st_tensor *t) { return t->n_dim > 1 ? t->shape[0] : 1; }

/* The entry of a tensor. */
static json_t *st_entry(const struct st_tensor *t, uint64_t at)
{
    json_t *shape = json_array();
    for (uint32_t k = 0; k < t->n_dim; k++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[k]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                     (json_int_t)at, (json_int_t)(at + st_n_row(t) * st_row_bytes(t)));
}

/* The object, padded with blanks to a multiple of 8 bytes; the caller frees it. */
static char *st_header(const struct st *s, uint64_t *n)
{
    json_t *all = json_object();
    uint64_t at = 0;
    bool ok = all && json_object_set(all, "__metadata__", s->metadata) == 0;
    for (uint64_t i = 0; ok && i < s->n; i++) {
        struct st_tensor t;
        s->tensor(s->user, i, &t);
        ok = json_object_set_new(all, t.name, st_entry(&t, at)) == 0;
        at += st_n_row(&t) * st_row_bytes(&t);
    }
    char *text = ok ? json_dumps(all, JSON_COMPACT) : NULL, *filled = NULL;
    json_decref(all);
    if (text) {
        size_t len = strlen(text);
        *n = align_up(len, 8);
        if ((filled = mem_alloc(*n + 1, 1))) {
            memset(filled, ' ', *n);
            memcpy(filled, text, len);
        }
    }
    free(text);
    return filled;
}

static bool st_put_rows(struct file_out *out, const struct st *s, float *room, uint64_t hash[2],
                        struct hlm_err *err)
{
    struct sum *sum = sum_begin(err);
    bool ok = sum != NULL;
    for (uint64_t i = 0; ok && i < s->n; i++) {
        struct st_tensor t;
        s->tensor(s->user, i, &t);
        for (uint64_t r = 0; ok && r < st_n_row(&t); r++) {
            ok = s->row(s->user, i, r, room);
            if (!ok)
                break;
            sum_add(sum, room, st_row_bytes(&t));
            ok = file_out_put(out, room, st_row_bytes(&t), err);
        }
    }
    if (sum)
        sum_end(sum, hash);
    return ok;
}

/* ---- reading back ---------------------------------------------------------------------------- */

/* Checks the entry of every tensor, and that each begins where the one before it ends. */
static bool check_header(const json_t *all, const struct st *s, uint64_t *at)
{
    bool ok = json_object_size(all) == s->n + 1;
    *at = 0;
    for (uint64_t i = 0; ok && i < s->n; i++) {
        struct st_tensor t;
        s->tensor(s->user, i, &t);
        json_t *want = st_entry(&t, *at);
        ok = json_equal(json_object_get(all, t.name), want);
        json_decref(want);
        *at += st_n_row(&t) * st_row_bytes(&t);
    }
    return ok;
}

static bool same_bytes(const struct file_in *f, uint64_t from, const uint64_t want[2],
                       struct hlm_err *err)
{
    uint8_t buf[1 << 14];
    uint64_t hash[2] = { 0 };
    struct sum *sum = sum_begin(err);
    bool ok = sum != NULL;
    for (uint64_t at = from; ok && at < f->bytes; at += sizeof buf) {
        uint64_t n = min_u64(sizeof buf, f->bytes - at);
        ok = file_in_read(f, at, buf, n, err);
        sum_add(sum, buf, ok ? n : 0);
    }
    if (sum)
        sum_end(sum, hash);
    return ok && !memcmp(hash, want, sizeof hash);
}

static bool check_st(const char *tmp, const char *path, const struct st *s, const uint64_t hash[2],
                     struct hlm_err *err)
{
    struct file_in f;
    uint64_t n = 0, bytes = 0;
    if (!file_in_open(&f, tmp, err))
        return false;
    bool ok = file_in_read(&f, 0, &n, sizeof n, err) && n <= f.bytes - sizeof n;
    char *text = ok ? mem_alloc(n + 1, 1) : NULL;
    ok = text && file_in_read(&f, sizeof n, text, n, err);
    json_t *all = ok ? json_loadb(text, n, 0, NULL) : NULL;
    ok = all && check_header(all, s, &bytes) && f.bytes == sizeof n + n + bytes &&
         same_bytes(&f, sizeof n + n, hash, err);
    json_decref(all);
    free(text);
    file_in_close(&f);
    return ok || fail_system(err, "%.300s: read back, it differs from what was written", path);
}

bool st_write(const char *path, const struct st *s, float *room, struct hlm_err *err)
{
    uint64_t n = 0, hash[2] = { 0 };
    char *text = st_header(s, &n);
    struct file_out *out = text ? file_out_begin(path, err) : NULL;
    if (!text)
        fail_memory(err, "%.300s: no memory to write it", path);
    const char *tmp = NULL;
    bool ok = out && file_out_put(out, &n, sizeof n, err) && file_out_put(out, text, n, err) &&
              st_put_rows(out, s, room, hash, err) && (tmp = file_out_flush(out, err)) != NULL &&
              check_st(tmp, path, s, hash, err);
    free(text);
    if (ok)
        return file_out_end(out, err);
    file_out_drop(out);
    return false;
}
