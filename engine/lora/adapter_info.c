/* adapter_info: hlm_adapter_read(): what an adapter file says about itself, and its tensors by
 * kind.
 *
 * It works without the model, so it checks only what the file alone shows. */
#include "lora/lora.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has_tail(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && !strcmp(s + n - m, tail);
}

/* The name without its last n_tail bytes, and with N instead of the number of the layer. */
static void adapter_kind_name(char out[64], const char *name, size_t n_tail)
{
    size_t n = strlen(name) - n_tail, at = 0, k = 0;
    if (!strncmp(name, "blk.", 4)) {
        at = 4 + strspn(name + 4, "0123456789");
        k = (size_t)snprintf(out, 64, "blk.N");
    }
    snprintf(out + k, 64 - k, "%.*s", (int)(n - at), name + at);
}

static void copy_dims(uint64_t out[4], const struct gguf_tensor *t)
{
    for (uint32_t i = 0; i < 4; i++)
        out[i] = t && i < t->n_dim ? t->dim[i] : 0;
}

/* Counts a pair of factors, or one tensor (b NULL), under its kind. */
static void count_kind(struct hlm_adapter_info *d, const struct gguf_tensor *a,
                       const struct gguf_tensor *b, size_t n_tail)
{
    struct hlm_adapter_kind own = { 0 }, *k = d->kind;
    adapter_kind_name(own.name, a->name, n_tail);
    snprintf(own.type_a, sizeof own.type_a, "%s", dtype_info(a->type)->name);
    snprintf(own.type_b, sizeof own.type_b, "%s", b ? dtype_info(b->type)->name : "");
    copy_dims(own.a, a);
    copy_dims(own.b, b);
    while (k < d->kind + d->n_kind &&
           (strcmp(k->name, own.name) || strcmp(k->type_a, own.type_a) ||
            strcmp(k->type_b, own.type_b) || memcmp(k->a, own.a, sizeof own.a) ||
            memcmp(k->b, own.b, sizeof own.b)))
        k++;
    if (k == d->kind + d->n_kind) {
        d->n_kind++;
        *k = own;
    }
    k->n++;
    k->bytes += a->n_bytes + (b ? b->n_bytes : 0);
    d->n_param += a->n_elem + (b ? b->n_elem : 0);
    d->bytes += a->n_bytes + (b ? b->n_bytes : 0);
}

static bool read_pair(struct hlm_adapter_info *d, const struct gguf *g, const struct gguf_tensor *t,
                      struct hlm_err *err)
{
    char name[128];
    size_t n = strlen(t->name) - strlen(".lora_a");
    bool is_a = has_tail(t->name, ".lora_a");
    snprintf(name, sizeof name, "%.*s%s", (int)n, t->name, is_a ? ".lora_b" : ".lora_a");
    const struct gguf_tensor *b = gguf_tensor(g, name);
    if (!b)
        return fail(err, "%s: tensor %s has no partner %s", gguf_path(g), t->name, name);
    if (!is_a)
        return true;
    if (t->dim[1] != b->dim[0])
        return fail(err, "%s: %s has rank %llu, %s rank %llu", gguf_path(g), t->name,
                    (unsigned long long)t->dim[1], name, (unsigned long long)b->dim[0]);
    d->rank_min = d->n_matrix ? min_u64(d->rank_min, t->dim[1]) : t->dim[1];
    d->rank_max = max_u64(d->rank_max, t->dim[1]);
    d->n_matrix++;
    count_kind(d, t, b, strlen(".lora_a"));
    return true;
}

static bool read_adapter_tensors(struct hlm_adapter_info *d, const struct gguf *g,
                                 struct hlm_err *err)
{
    uint64_t n = gguf_n_tensor(g);
    if (!(d->kind = mem_alloc(n + 1, sizeof *d->kind)))
        return fail_memory(err, "%s: out of memory", gguf_path(g));
    for (uint64_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (has_tail(t->name, ".lora_a") || has_tail(t->name, ".lora_b")) {
            if (!read_pair(d, g, t, err))
                return false;
        } else if (has_tail(t->name, ".delta")) {
            d->n_gate++;
            count_kind(d, t, NULL, 0);
        } else if (has_tail(t->name, "_norm.weight")) {
            d->n_norm++;
            count_kind(d, t, NULL, 0);
        } else {
            return fail(err,
                        "%s: tensor %s: expected a name that ends in .lora_a, .lora_b or .delta",
                        gguf_path(g), t->name);
        }
    }
    return n > 0 || fail(err, "%s: it has no tensors", gguf_path(g));
}

static bool key_is(const struct gguf *g, const char *key, const char *want, struct hlm_err *err)
{
    struct hlm_str s = { 0 };
    if (!gguf_str(g, key, REQUIRED, &s, err))
        return false;
    return (s.n == strlen(want) && !memcmp(s.p, want, s.n)) ||
           fail(err, "%s: %s is \"%.*s\", expected \"%s\"", gguf_path(g), key,
                (int)min_u64(s.n, 60), s.p, want);
}

/* A text from the file, in one line and cut to fit; empty when the file has none. */
static void copy_key(const struct gguf *g, const char *key, char *out, size_t size)
{
    struct hlm_str s = { 0 };
    if (!gguf_kv(g, key) || !gguf_str(g, key, OPTIONAL, &s, NULL))
        return;
    snprintf(out, size, "%.*s", (int)min_u64(s.n, size - 1), s.n ? s.p : "");
    one_line(out);
}

_Static_assert(N_LORA_PAST <= ARRAY_LEN(((struct hlm_adapter_info *)0)->past),
               "hlm.h has room for all of them");

static void copy_past(const struct gguf *g, struct hlm_adapter_info *d)
{
    for (uint32_t i = 0; i < N_LORA_PAST; i++) {
        const char *key = lora_past_key((enum lora_past)i);
        struct hlm_adapter_past *p = &d->past[d->n_past];
        copy_key(g, key, p->text, sizeof p->text);
        snprintf(p->key, sizeof p->key, "%s", key + strlen("hlm."));
        d->n_past += p->text[0] != 0;
    }
}

bool hlm_adapter_read(const char *path, struct hlm_adapter_info *out, struct hlm_err *err)
{
    struct hlm_adapter_info d = { 0 };
    struct hlm_str arch;
    api_begin(NULL, err);
    *out = d;
    struct gguf *g = gguf_open(path, err);
    bool ok = g && key_is(g, "general.type", "adapter", err) &&
              gguf_str(g, "general.architecture", REQUIRED, &arch, err) &&
              key_is(g, "adapter.type", "lora", err) &&
              gguf_f32(g, "adapter.lora.alpha", REQUIRED, &d.alpha, err) &&
              read_adapter_tensors(&d, g, err);
    if (ok) {
        copy_key(g, "general.name", d.name, sizeof d.name);
        copy_key(g, "general.architecture", d.arch, sizeof d.arch);
        copy_key(g, "general.base_model.0.name", d.base_name, sizeof d.base_name);
        copy_key(g, "general.base_model.0.repo_url", d.base_repo, sizeof d.base_repo);
        copy_past(g, &d);
        d.file_bytes = gguf_file_bytes(g);
        *out = d;
    } else {
        hlm_adapter_info_free(&d);
    }
    gguf_close(g);
    return ok;
}

void hlm_adapter_info_free(struct hlm_adapter_info *info)
{
    if (!info)
        return;
    free(info->kind);
    *info = (struct hlm_adapter_info){ 0 };
}
