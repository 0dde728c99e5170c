/* tune_info: hlm-tune info - what an adapter file says of itself, and its tensors by kind, a kind
 * being a name without the number of its layer. The model it is for is not needed: what fits
 * together within the file is checked, what only a model can tell is not. */
#include "common.h"
#include "common_flags.h"
#include "tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct program program = {
    .name = "hlm-tune",
    .usage = "info ADAPTER.gguf [flags]; --help lists them",
    .about = "What a LoRA adapter is: its keys, its matrices by kind with shapes and counts, its\n"
             "gate deltas, its size.",
};

struct kind {
    char name[64];                   /* "blk.N.attn_q.weight" */
    const struct gguf_tensor *a, *b; /* of the first; b NULL: what is added to a gate */
    uint32_t n;
    uint64_t bytes;
};

struct adapter {
    struct gguf *g;
    float alpha;
    struct kind *kind; /* [as many as tensors] */
    uint32_t n_kind;
    uint64_t n_matrix, n_gate, n_norm, n_param, bytes, rank_min, rank_max;
};

static bool has_tail(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && !strcmp(s + n - m, tail);
}

/* The name without its tail, digits of the layer as N. */
static void kind_name(char out[64], const char *name, size_t n_tail)
{
    size_t n = strlen(name) - n_tail, at = 0, k = 0;
    if (!strncmp(name, "blk.", 4)) {
        at = 4 + strspn(name + 4, "0123456789");
        k = (size_t)snprintf(out, 64, "blk.N");
    }
    snprintf(out + k, 64 - k, "%.*s", (int)(n - at), name + at);
}

static bool same_shape(const struct gguf_tensor *x, const struct gguf_tensor *y)
{
    return (!x && !y) || (x && y && x->type == y->type && !memcmp(x->dim, y->dim, sizeof x->dim));
}

static void count(struct adapter *d, const struct gguf_tensor *a, const struct gguf_tensor *b,
                  size_t n_tail)
{
    char name[64];
    kind_name(name, a->name, n_tail);
    struct kind *k = d->kind;
    while (k < d->kind + d->n_kind &&
           (strcmp(k->name, name) || !same_shape(k->a, a) || !same_shape(k->b, b)))
        k++;
    if (k == d->kind + d->n_kind) {
        d->n_kind++;
        *k = (struct kind){ .a = a, .b = b };
        memcpy(k->name, name, sizeof name);
    }
    k->n++;
    k->bytes += a->n_bytes + (b ? b->n_bytes : 0);
    d->n_param += a->n_elem + (b ? b->n_elem : 0);
    d->bytes += a->n_bytes + (b ? b->n_bytes : 0);
}

static bool read_pair(struct adapter *d, const struct gguf_tensor *t, struct hlm_err *err)
{
    char name[128];
    size_t n = strlen(t->name) - strlen(".lora_a");
    bool is_a = has_tail(t->name, ".lora_a");
    snprintf(name, sizeof name, "%.*s%s", (int)n, t->name, is_a ? ".lora_b" : ".lora_a");
    const struct gguf_tensor *b = gguf_tensor(d->g, name);
    if (!b)
        return fail(err, "%s: tensor %s has no %s beside it", gguf_path(d->g), t->name, name);
    if (!is_a)
        return true;
    if (t->dim[1] != b->dim[0])
        return fail(err, "%s: %s has rank %llu, %s rank %llu", gguf_path(d->g), t->name,
                    (unsigned long long)t->dim[1], name, (unsigned long long)b->dim[0]);
    d->rank_min = d->n_matrix ? min_u64(d->rank_min, t->dim[1]) : t->dim[1];
    d->rank_max = max_u64(d->rank_max, t->dim[1]);
    d->n_matrix++;
    count(d, t, b, strlen(".lora_a"));
    return true;
}

static bool read_tensors(struct adapter *d, struct hlm_err *err)
{
    uint64_t n = gguf_n_tensor(d->g);
    if (!(d->kind = mem_alloc(n + 1, sizeof *d->kind)))
        return fail(err, "%s: out of memory", gguf_path(d->g));
    for (uint64_t i = 0; i < n; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(d->g, i);
        if (has_tail(t->name, ".lora_a") || has_tail(t->name, ".lora_b")) {
            if (!read_pair(d, t, err))
                return false;
        } else if (has_tail(t->name, ".delta")) {
            d->n_gate++;
            count(d, t, NULL, 0);
        } else if (has_tail(t->name, "_norm.weight")) {
            d->n_norm++;
            count(d, t, NULL, 0);
        } else {
            return fail(err,
                        "%s: tensor %s: expected a name that ends in .lora_a, .lora_b or "
                        ".delta",
                        gguf_path(d->g), t->name);
        }
    }
    return n > 0 || fail(err, "%s: there is no tensor in it", gguf_path(d->g));
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

/* Text of a file, fit for a line. */
static void print_key(const struct gguf *g, const char *label, const char *key)
{
    struct hlm_str s = { 0 };
    if (!gguf_kv(g, key) || !gguf_str(g, key, OPTIONAL, &s, NULL) || !s.n)
        return;
    printf("%-12s ", label);
    for (uint64_t i = 0; i < min_u64(s.n, 200); i++)
        putchar((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f ? '?' : s.p[i]);
    putchar('\n');
}

static void print_shape(const struct gguf_tensor *t)
{
    for (uint32_t i = 0; i < t->n_dim; i++)
        printf("%s%llu", i ? " x " : "", (unsigned long long)t->dim[i]);
    printf(" %s", dtype_info(t->type)->name);
}

static void print_all(const struct adapter *d)
{
    const struct gguf *g = d->g;
    print_key(g, "name", "general.name");
    print_key(g, "architecture", "general.architecture");
    print_key(g, "base model", "general.base_model.0.name");
    print_key(g, "base repo", "general.base_model.0.repo_url");
    printf("%-12s %g", "alpha", (double)d->alpha);
    if (d->n_matrix && d->rank_min == d->rank_max)
        printf(", rank %llu, factor %g", (unsigned long long)d->rank_min,
               d->alpha != 0 ? (double)d->alpha / (double)d->rank_min : 1.0);
    else if (d->n_matrix)
        printf(", ranks %llu to %llu", (unsigned long long)d->rank_min,
               (unsigned long long)d->rank_max);
    printf("\n%-12s %llu matrices, %llu gates", "tensors", (unsigned long long)d->n_matrix,
           (unsigned long long)d->n_gate);
    if (d->n_norm)
        printf(", %llu norm vectors (hlm leaves them out)", (unsigned long long)d->n_norm);
    printf("\n%-12s %llu numbers, %s; the file %s\n", "size", (unsigned long long)d->n_param,
           num_bytes(d->bytes).s, num_bytes(gguf_file_bytes(g)).s);
    for (const struct kind *k = d->kind; k < d->kind + d->n_kind; k++) {
        printf("  %4u  %-36s %s", k->n, k->name, k->b ? "A " : "");
        print_shape(k->a);
        if (k->b) {
            printf(", B ");
            print_shape(k->b);
        }
        printf("  %s\n", num_bytes(k->bytes).s);
    }
    if (d->n_gate)
        puts("Gate deltas are hlm's own: llama.cpp refuses the file; hlm-tune merge --gates-only "
             "makes\na pair that it loads.");
}

static bool info(const char *path, struct hlm_err *err)
{
    struct adapter d = { .g = gguf_open(path, err) };
    struct hlm_str arch;
    bool ok = d.g && key_is(d.g, "general.type", "adapter", err) &&
              gguf_str(d.g, "general.architecture", REQUIRED, &arch, err) &&
              key_is(d.g, "adapter.type", "lora", err) &&
              gguf_f32(d.g, "adapter.lora.alpha", REQUIRED, &d.alpha, err) && read_tensors(&d, err);
    if (ok) {
        print_all(&d);
        ui_event("adapter", "{s:s, s:f, s:i, s:i, s:I}", "path", path, "alpha", (double)d.alpha,
                 "n_matrix", (int)d.n_matrix, "n_gate", (int)d.n_gate, "bytes", (long long)d.bytes);
    }
    free(d.kind);
    gguf_close(d.g);
    return ok;
}

int tune_info(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    const char *path = NULL;
    int rc;
    if (argc > 1 && argv[1][0] != '-') {
        path = argv[1];
        argc--;
        argv++;
    }
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    if (!path)
        return ui_end(usage_error(&program, "no adapter: hlm-tune info ADAPTER.gguf"));
    bool ok = info(path, &err);
    if (err.kind)
        ui_error("%s", err.msg);
    return ui_end(ok ? RC_OK : RC_FAILED);
}
