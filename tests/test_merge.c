/* test_merge: adapters merged into files. The sums are those of double precision, everything else
 * is unchanged, bad input is refused, and an interrupted merge leaves nothing behind. The adapters
 * are those of the training fixtures and some made here. */
#define _POSIX_C_SOURCE 200809L
#include "gguf_build.h"
#include "hlm_test.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

/* NMSE of the logits of a merged F32 file, against base and adapter. */
static const struct bound logits_off = { .most = 1e-12, .measured = 3.4e-13 };

enum { MAX_MERGED = 256, N_TOK = 24 };

static struct gguf *open_file(const char *path)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(path, &err);
    CHECK_OK(g != NULL, err);
    return g;
}

/* ---- adapters made here ---------------------------------------------------------------------- */

struct merge_adapter {
    uint32_t rank;
    enum dtype type;
    float alpha;
    double size; /* of the numbers of B */
    bool deltas;
    uint32_t multiple; /* only matrices whose rows are a multiple of this; 0: all */
};

/* Writes an adapter for every matrix of the file, including draft blocks and experts. */
static void make_adapter(const char *base, const struct merge_adapter *how, const char *to)
{
    static const char *const not [] = { "_norm.weight", "token_embd.weight", "ssm_conv1d.weight" };
    struct hlm_err err = { 0 };
    struct gguf *g = open_file(base);
    struct gguf_build *b = gb_new();
    struct rng rng = { 5 };
    struct hlm_str arch = { 0 };
    char text[96];
    if (!g)
        return;
    gguf_str(g, "general.architecture", REQUIRED, &arch, NULL);
    snprintf(text, sizeof text, "%.*s", (int)arch.n, arch.p);
    gb_str(b, "general.type", "adapter");
    gb_str(b, "general.architecture", text);
    gb_str(b, "adapter.type", "lora");
    gb_f32(b, "adapter.lora.alpha", how->alpha);
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(g, i);
        bool takes = test_has_tail(x->name, ".weight") && x->n_dim > 1, gate = false;
        takes = takes && (!how->multiple || x->dim[0] % how->multiple == 0);
        for (uint32_t k = 0; k < ARRAY_LEN(not ); k++)
            takes = takes && !test_has_tail(x->name, not [k]) && strcmp(x->name, not [k]) != 0;
        gate = test_has_tail(x->name, ".ssm_a") || test_has_tail(x->name, ".ssm_dt.bias") ||
               test_has_tail(x->name, ".ssm_d");
        for (int k = 0; takes && k < 2; k++) {
            uint64_t dim[3] = { k ? how->rank : x->dim[0], k ? x->dim[1] : how->rank, x->dim[2] };
            uint64_t n = dim[0] * dim[1] * dim[2];
            float *v = test_room(n, sizeof *v);
            uint16_t *h = test_room(n, sizeof *h);
            for (uint64_t j = 0; j < n; j++) {
                v[j] = (float)((k ? how->size : 1) * rng_normal(&rng));
                h[j] = f32_to_f16(v[j]);
            }
            snprintf(text, sizeof text, "%s.lora_%c", x->name, k ? 'b' : 'a');
            gb_tensor(b, text, how->type, dim[2] > 1 ? 3 : 2, dim,
                      how->type == F16 ? (void *)h : (void *)v);
            free(v);
            free(h);
        }
        if (gate && how->deltas) {
            float *v = test_room(x->n_elem, sizeof *v);
            for (uint64_t j = 0; j < x->n_elem; j++)
                v[j] = (float)(0.3 * rng_normal(&rng));
            snprintf(text, sizeof text, "%s.delta", x->name);
            gb_tensor(b, text, F32, 1, &x->n_elem, v);
            free(v);
        }
    }
    CHECK_OK(gb_write(b, to, &err), err);
    gb_free(b);
    gguf_close(g);
}

/* ---- merging --------------------------------------------------------------------------------- */

static struct {
    char name[MAX_MERGED][64];
    struct hlm_merged t[MAX_MERGED];
    uint32_t n;
    uint64_t stop_at; /* the progress at which to stop; 0: never */
} merged;

static void on_merged(void *user, const struct hlm_merged *t)
{
    (void)user;
    if (merged.n < MAX_MERGED) {
        merged.t[merged.n] = *t;
        snprintf(merged.name[merged.n++], 64, "%s", t->name);
    }
}

static bool on_progress(void *user, uint64_t done, uint64_t total)
{
    (void)user;
    CHECK_MSG(done <= total, "%llu of %llu", (unsigned long long)done, (unsigned long long)total);
    return !merged.stop_at || done < merged.stop_at;
}

static bool merge_n(const char *model, const struct hlm_lora *a, uint32_t n, const char *out,
                    const char *type, const char *gates, struct hlm_err *err)
{
    struct hlm_merge_sum sum;
    merged.n = 0;
    return hlm_merge(&(struct hlm_merge_params){ .model = model,
                                                 .out = out,
                                                 .lora = a,
                                                 .n_lora = n,
                                                 .type = type,
                                                 .gates_only = gates,
                                                 .progress = on_progress,
                                                 .merged = on_merged },
                     &sum, err);
}

static bool merge(const char *model, const char *adapter, float scale, const char *out,
                  const char *type, struct hlm_err *err)
{
    return merge_n(model, &(struct hlm_lora){ adapter, scale }, 1, out, type, NULL, err);
}

/* ---- in double ------------------------------------------------------------------------------- */

/* W plus the sum of scale * B A, and gates with their deltas. False: no adapter changes the
 * tensor. */
static bool in_double(const struct gguf_tensor *x, struct gguf *const *g, const float *scale,
                      uint32_t n, double *w)
{
    char name[96];
    bool any = false;
    double *sum = test_room(x->n_elem, sizeof *sum);
    float *v = test_floats(x);
    for (uint64_t i = 0; i < x->n_elem; i++)
        w[i] = (double)v[i];
    free(v);
    for (uint32_t l = 0; l < n; l++) {
        float alpha = 0;
        gguf_f32(g[l], "adapter.lora.alpha", REQUIRED, &alpha, NULL);
        snprintf(name, sizeof name, "%s.lora_a", x->name);
        const struct gguf_tensor *a = gguf_tensor(g[l], name);
        snprintf(name, sizeof name, "%s.lora_b", x->name);
        const struct gguf_tensor *b = gguf_tensor(g[l], name);
        snprintf(name, sizeof name, "%s.delta", x->name);
        const struct gguf_tensor *d = gguf_tensor(g[l], name);
        float *va = a ? test_floats(a) : NULL, *vb = b ? test_floats(b) : NULL;
        float *vd = d ? test_floats(d) : NULL;
        uint64_t r = b ? b->dim[0] : 0;
        double s = (alpha != 0 && r ? (double)alpha / (double)r : 1) * (double)scale[l];
        any = any || a || d;
        for (uint64_t o = 0; a && b && o < x->dim[1] * x->dim[2]; o++)
            for (uint64_t k = 0; k < r; k++)
                for (uint64_t i = 0; i < x->dim[0]; i++)
                    w[o * x->dim[0] + i] += s * (double)vb[o * r + k] *
                                            (double)va[(o / x->dim[1] * r + k) * x->dim[0] + i];
        for (uint64_t i = 0; d && i < x->n_elem; i++)
            sum[i] += (double)scale[l] * (double)vd[i];
        free(va);
        free(vb);
        free(vd);
    }
    for (uint64_t i = 0; i < x->n_elem; i++)
        w[i] = test_has_tail(x->name, ".ssm_a") ? w[i] * exp(sum[i]) : w[i] + sum[i];
    free(sum);
    return any;
}

static void same_keys(const struct gguf *a, const struct gguf *b)
{
    CHECK_EQ(gguf_n_kv(a), gguf_n_kv(b));
    for (uint64_t i = 0; i < min_u64(gguf_n_kv(a), gguf_n_kv(b)); i++) {
        const struct gguf_kv *x = gguf_kv_at(a, i), *y = gguf_kv_at(b, i);
        CHECK_STR(y->key, x->key);
        if (!CHECK_MSG(x->type == y->type && x->elem == y->elem && x->n == y->n, "key %s", x->key))
            continue;
        if (x->type == GGUF_STRING)
            CHECK_MSG(!memcmp(x->data, y->data, x->n), "key %s", x->key);
        if (x->type != GGUF_ARRAY || x->elem != GGUF_STRING)
            continue;
        struct gguf_str_iter p = { x->data, x->n }, q = { y->data, y->n };
        struct hlm_str s, t;
        while (gguf_next_str(&p, &s) && CHECK(gguf_next_str(&q, &t)))
            if (!CHECK_MSG(s.n == t.n && !memcmp(s.p, t.p, s.n), "key %s", x->key))
                break;
    }
}

/* out is base with the adapters merged; F32 tensors are exact to one rounding. */
static void check_out(const char *base, const char *out, const struct hlm_lora *l, uint32_t n)
{
    struct gguf *a = open_file(base), *b = open_file(out), *g[4] = { 0 };
    float scale[4];
    uint32_t n_touched = 0;
    for (uint32_t i = 0; i < n; i++) {
        g[i] = open_file(l[i].path);
        scale[i] = l[i].scale;
    }
    if (!a || !b || !g[n - 1])
        return;
    same_keys(a, b);
    CHECK_EQ(gguf_n_tensor(a), gguf_n_tensor(b));
    for (uint64_t i = 0; i < gguf_n_tensor(a); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(a, i), *y = gguf_tensor_at(b, i);
        double *w = test_room(x->n_elem, sizeof *w);
        CHECK_STR(y->name, x->name);
        CHECK(!memcmp(x->dim, y->dim, sizeof x->dim) && x->n_dim == y->n_dim);
        if (!in_double(x, g, scale, n, w)) {
            CHECK_MSG(x->type == y->type && !memcmp(x->data, y->data, x->n_bytes), "%s changed",
                      x->name);
        } else {
            float *v = test_floats(y);
            n_touched++;
            for (uint64_t k = 0; y->type == F32 && k < x->n_elem; k++)
                if (!CHECK_MSG(fabs((double)v[k] - w[k]) <= fabs(w[k]) * 0x1p-24 * 1.000001 + 1e-40,
                               "%s: %.9g at %llu, expected %.9g", x->name, (double)v[k],
                               (unsigned long long)k, w[k]))
                    break;
            free(v);
        }
        free(w);
    }
    CHECK_EQ(n_touched, merged.n);
    for (uint32_t i = 0; i < n; i++)
        gguf_close(g[i]);
    gguf_close(a);
    gguf_close(b);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void test_fixture(const char *dir)
{
    struct hlm_err err = { 0 };
    const char *out = test_scratch("out.gguf"), *made = test_scratch("made.gguf");
    const char *base = fixture("train/%s/model.gguf", dir);
    struct hlm_lora l[2] = { { fixture("train/%s/init-lora.gguf", dir), 1 }, { made, 0.5f } };
    test_case("train/%s in F32", dir);
    CHECK_OK(merge_n(base, l, 1, out, NULL, NULL, &err), err);
    check_out(base, out, l, 1);
    test_case("train/%s with another adapter on everything, gates too", dir);
    make_adapter(
        base,
        &(struct merge_adapter){ .rank = 5, .type = F16, .alpha = 8, .size = 0.02, .deltas = true },
        made);
    CHECK_OK(merge_n(base, l, 2, out, NULL, NULL, &err), err);
    check_out(base, out, l, 2);
    for (uint32_t i = 0; i < merged.n; i++)
        CHECK_MSG(fabs(merged.t[i].kept - 1) < 1e-4 && merged.t[i].noise < 1e-4,
                  "%s: kept %g noise %g", merged.name[i], merged.t[i].kept, merged.t[i].noise);
}

/* A quantised base, an adapter, and the mean noise that is reported. */
struct quantised {
    const char *base;
    double size, noise_least, noise_most;
    bool lost; /* the adapter is too small to move any number */
};

/* Checks the reported figures, and that as much of the adapter arrives as can. */
static void test_quantised(const struct quantised *q)
{
    struct hlm_err err = { 0 };
    const char *out = test_scratch("out.gguf"), *made = test_scratch("made.gguf");
    struct hlm_lora l = { made, 1 };
    uint32_t n = 0;
    double kept = 0, noise = 0;
    const char *base = fixture("%s", q->base);
    test_case("%s, an adapter of size %g", q->base, q->size);
    make_adapter(
        base, &(struct merge_adapter){ .rank = 4, .type = F32, .alpha = 4, .size = q->size }, made);
    CHECK_OK(merge_n(base, &l, 1, out, NULL, NULL, &err), err);
    check_out(base, out, &l, 1);
    for (uint32_t i = 0; i < merged.n; i++) {
        CHECK(merged.t[i].from == merged.t[i].to);
        if (!strcmp(merged.t[i].from, "F32"))
            continue;
        n++;
        kept += merged.t[i].kept;
        noise += merged.t[i].noise;
        test_note("  %s %s: size %.3g kept %.4f noise %.3g", merged.name[i], merged.t[i].from,
                  merged.t[i].size, merged.t[i].kept, merged.t[i].noise);
    }
    if (!CHECK(n > 0))
        return;
    CHECK_MSG(noise / n >= q->noise_least && noise / n <= q->noise_most,
              "noise %.3g, expected %g to %g", noise / n, q->noise_least, q->noise_most);
    CHECK_MSG(fabs(kept / n - (q->lost ? 0 : 1)) < 0.02, "kept %.4f", kept / n);
}

/* Both files have the same tensors, byte for byte; their layout may differ. */
static void same_tensors(const char *p, const char *q)
{
    struct gguf *a = open_file(p), *b = open_file(q);
    for (uint64_t i = 0; a && b && i < gguf_n_tensor(a); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(a, i), *y = gguf_tensor(b, x->name);
        CHECK_MSG(y && x->type == y->type && x->n_bytes == y->n_bytes &&
                      !memcmp(x->data, y->data, x->n_bytes),
                  "%s differs", x->name);
    }
    CHECK_EQ(a ? gguf_n_tensor(a) : 0, b ? gguf_n_tensor(b) : 0);
    gguf_close(a);
    gguf_close(b);
}

static void test_nothing(const char *base)
{
    struct hlm_err err = { 0 };
    const char *out = test_scratch("out.gguf"), *made = test_scratch("made.gguf");
    test_case("%s: B of zeros changes no byte", base);
    make_adapter(base, &(struct merge_adapter){ .rank = 4, .type = F32, .alpha = 4, .size = 0 },
                 made);
    CHECK_OK(merge(base, made, 1, out, NULL, &err), err);
    same_tensors(base, out);
}

static void test_types(void)
{
    static const struct {
        const char *type;
        double most; /* relative error: the root of the NMSE */
    } types[] = {
        { .type = "f16", .most = 2.5e-4 },   { .type = "bf16", .most = 2e-3 },
        { .type = "Q8_0", .most = 0.006 },   { .type = "q4_0", .most = 0.09 },
        { .type = "Q4_1", .most = 0.08 },    { .type = "Q5_0", .most = 0.045 },
        { .type = "Q5_1", .most = 0.04 },    { .type = "Q2_K", .most = 0.3 },
        { .type = "Q3_K", .most = 0.155 },   { .type = "Q4_K", .most = 0.074 },
        { .type = "Q5_K", .most = 0.038 },   { .type = "Q6_K", .most = 0.019 },
        { .type = "IQ4_NL", .most = 0.078 }, { .type = "IQ4_XS", .most = 0.079 },
        { .type = "MXFP4", .most = 0.117 },  { .type = "F32", .most = 1e-7 },
    };
    struct hlm_err err = { 0 };
    const char *out = test_scratch("out.gguf"), *made = test_scratch("made.gguf");
    const char *base = fixture("qwen3next/k256/model-q4_k_m.gguf");
    make_adapter(base,
                 &(struct merge_adapter){
                     .rank = 2, .type = F32, .alpha = 2, .size = 0.05, .multiple = 256 },
                 made);
    for (uint32_t i = 0; i < ARRAY_LEN(types); i++) {
        test_case("--merge-type %s: one matrix in that type, error against the sum", types[i].type);
        CHECK_OK(merge(base, made, 1, out, types[i].type, &err), err);
        for (uint32_t k = 0; k < merged.n; k++) {
            double off = merged.t[k].noise * merged.t[k].size /
                         sqrt(1 + merged.t[k].size * merged.t[k].size);
            if (!CHECK_MSG(!strcasecmp(merged.t[k].to, types[i].type) && off <= types[i].most,
                           "%s: %s, %.4f off", merged.name[k], merged.t[k].to, off))
                break;
        }
        struct gguf *g = open_file(out);
        for (uint32_t k = 0; g && k < merged.n; k++)
            CHECK_STR(dtype_info(gguf_tensor(g, merged.name[k])->type)->name, merged.t[k].to);
        gguf_close(g);
    }
}

static void test_gates_only(void)
{
    struct hlm_err err = { 0 };
    const char *base = fixture("train/nemotron_h_moe/model.gguf");
    const char *all = test_scratch("made.gguf"), *out = test_scratch("gates.gguf");
    const char *rest = test_scratch("rest.gguf"), *both = test_scratch("both.gguf");
    const char *plain = test_scratch("plain.gguf");
    struct hlm_lora l = { all, 1 };
    test_case("gates only, and the adapter without them");
    make_adapter(
        base,
        &(struct merge_adapter){ .rank = 3, .type = F32, .alpha = 6, .size = 0.02, .deltas = true },
        all);
    CHECK_OK(merge_n(base, &l, 1, out, NULL, rest, &err), err);
    for (uint32_t i = 0; i < merged.n; i++)
        CHECK_MSG(merged.t[i].gate, "%s is no gate", merged.name[i]);
    struct gguf *a = open_file(base), *b = open_file(out), *g = open_file(all),
                *r = open_file(rest);
    uint64_t n_same = 0, n_delta = 0;
    for (uint64_t i = 0; a && b && i < gguf_n_tensor(a); i++)
        n_same += !memcmp(gguf_tensor_at(a, i)->data, gguf_tensor_at(b, i)->data,
                          gguf_tensor_at(a, i)->n_bytes);
    for (uint64_t i = 0; g && r && i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(g, i), *y = gguf_tensor(r, x->name);
        bool delta = test_has_tail(x->name, ".delta");
        n_delta += delta;
        CHECK_MSG(delta ? !y : y && !memcmp(x->data, y->data, x->n_bytes), "%s", x->name);
    }
    CHECK(n_delta > 0 && n_same + n_delta == gguf_n_tensor(a));
    same_keys(g, r);
    same_keys(a, b);
    gguf_close(a);
    gguf_close(b);
    gguf_close(g);
    gguf_close(r);
    test_case("... which merged into it is the whole");
    CHECK_OK(merge(out, rest, 1, both, NULL, &err), err);
    CHECK_OK(merge(base, all, 1, plain, NULL, &err), err);
    same_tensors(both, plain);
    test_case("gates only of an adapter without gates, or with nothing else");
    l.path = rest;
    CHECK_REFUSED(merge_n(base, &l, 1, out, NULL, test_scratch("x.gguf"), &err), err, "no gate");
    err = (struct hlm_err){ 0 };
    struct gguf_build *only = gb_from(all, &err);
    g = open_file(all);
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        if (!test_has_tail(gguf_tensor_at(g, i)->name, ".delta"))
            gb_drop_tensor(only, gguf_tensor_at(g, i)->name);
    CHECK_OK(gb_write(only, rest, &err), err);
    gb_free(only);
    gguf_close(g);
    CHECK_REFUSED(merge_n(base, &l, 1, out, NULL, test_scratch("x.gguf"), &err), err,
                  "only gate deltas");
}

static void test_parts(void)
{
    struct hlm_err err = { 0 };
    const char *base = fixture("train/step35/model.gguf"), *out = test_scratch("out.gguf");
    const char *lora = fixture("train/step35/init-lora.gguf"), *whole = test_scratch("whole.gguf");
    const char *name[2] = { test_scratch("p-00001-of-00002.gguf"),
                            test_scratch("p-00002-of-00002.gguf") };
    test_case("a model in two files becomes one");
    struct gguf_build *b = gb_from(base, &err);
    for (uint32_t i = 0; b && i < 2; i++) {
        struct gguf_build *shard = gb_shard(b, i, 2);
        CHECK_OK(gb_write(shard, name[i], &err), err);
        gb_free(shard);
    }
    gb_free(b);
    CHECK_OK(merge(name[0], lora, 1, out, NULL, &err), err);
    CHECK_OK(merge(base, lora, 1, whole, NULL, &err), err);
    same_tensors(whole, out);
}

static uint32_t n_files(void)
{
    uint32_t n = 0;
    DIR *d = opendir(test_tmp());
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

/* The merge is refused; nothing is written and the old file stays. */
static void merge_refused(const char *model, const char *adapter, const char *out, const char *type,
                          const char *says)
{
    struct hlm_err err = { 0 };
    uint32_t before = n_files();
    CHECK_REFUSED(merge(model, adapter, 1, out, type, &err), err, says);
    CHECK_EQ(n_files(), before);
}

static void test_refused(void)
{
    struct hlm_err err = { 0 };
    const char *base = fixture("train/qwen35/model.gguf"), *out = test_scratch("none.gguf");
    const char *lora = fixture("train/qwen35/init-lora.gguf"), *bad = test_scratch("bad.gguf");
    test_case("refused: adapters and types");
    merge_refused(base, fixture("train/step35/init-lora.gguf"), out, NULL,
                  "init-lora.gguf|step35|qwen35");
    merge_refused(fixture("qwen35/base/model-f32.gguf"), lora, out, NULL,
                  "init-lora.gguf|expected");
    merge_refused(base, "/nowhere/a.gguf", out, NULL, "/nowhere/a.gguf|No such file");
    merge_refused("/nowhere/m.gguf", lora, out, NULL, "/nowhere/m.gguf|No such file");
    merge_refused(base, lora, out, "IQ1_S", "cannot write|IQ1_S");
    merge_refused(base, lora, out, "Q9", "Q9");
    merge_refused(base, lora, out, "Q4_K", "blk.0|256");
    merge_refused(base, lora, base, NULL, "train/qwen35/model.gguf|of its own");
    merge_refused(base, lora, lora, NULL, "train/qwen35/init-lora.gguf|of its own");
    merge_refused(base, lora, "/dev/null", NULL, "/dev/null|ordinary file");
    merge_refused(base, lora, "/nowhere/out.gguf", NULL, "/nowhere/out.gguf|cannot write");

    test_case("refused: a shape, and a type that is not written, unless --merge-type");
    struct gguf_build *b = gb_from(lora, &err);
    CHECK(gb_reshape(b, "blk.0.ffn_up.weight.lora_b", 2, (uint64_t[]){ 4, 95 }));
    CHECK_OK(gb_write(b, bad, &err), err);
    gb_free(b);
    merge_refused(base, bad, out, NULL, "blk.0.ffn_up.weight.lora_b|4 x 95");
    const char *big = fixture("qwen3next/k256/model-q4_k_m.gguf"), *iq = test_scratch("iq.gguf");
    make_adapter(big,
                 &(struct merge_adapter){
                     .rank = 2, .type = F32, .alpha = 2, .size = 0.05, .multiple = 256 },
                 bad);
    b = gb_from(big, &err);
    CHECK(gb_retype(b, "blk.1.attn_q.weight", IQ2_S));
    CHECK_OK(gb_write(b, iq, &err), err);
    gb_free(b);
    merge_refused(iq, bad, out, NULL, "blk.1.attn_q.weight|IQ2_S|another type");

    test_case("numbers that do not fit the type");
    make_adapter(big, &(struct merge_adapter){ .rank = 2, .type = F32, .alpha = 2, .size = 1e8 },
                 bad);
    merge_refused(big, bad, out, "Q8_0", "output.weight|row 0|Q8_0");
}

static void test_left(void)
{
    struct hlm_err err = { 0 };
    const char *base = fixture("train/qwen35/model.gguf"), *out = test_scratch("stand.gguf");
    const char *lora = fixture("train/qwen35/init-lora.gguf");
    CHECK_OK(file_write_atomic(out, "old", 3, &err), err);
    uint32_t before = n_files();
    test_case("stopped: nothing is left, the old file stands");
    for (uint64_t at = 1; at < 2000000; at += 450000) {
        merged.stop_at = at;
        bool ok = merge(base, lora, 1, out, NULL, &err);
        CHECK_MSG(!ok && err.kind == HLM_ERR_STOPPED, "stopped at %llu: %s", (unsigned long long)at,
                  err.msg);
        CHECK_EQ(n_files(), before);
    }
    merged.stop_at = 0;
    test_case("the disk is full: one line, nothing is left");
    uint32_t i = 1;
    for (bool done = false; !done && i < 40; i++) {
        file_test_fault(i, i % 2);
        err = (struct hlm_err){ 0 };
        done = merge(base, lora, 1, out, NULL, &err);
        CHECK_MSG(done == (file_test_left() > 0), "call %u: %s", i, err.msg);
        if (!done)
            CHECK_SAYS(err.msg, "stand.gguf|No space");
        CHECK_EQ(n_files(), before);
        uint64_t n = 0;
        char *text = file_read(out, 1 << 24, &n, NULL);
        CHECK(text && (done ? n > 900000 : n == 3));
        free(text);
    }
    file_test_fault(0, false);
    CHECK_MSG(i > 6, "%u calls", i);
    test_case("out of memory, allocation by allocation");
    const char *small = fixture("train/qwen35/model-q8_0.gguf");
    uint64_t n = 1;
    for (bool done = false; !done && n < 4000; n += n < 60 ? 1 : 37) {
        mem_test_fail(n);
        err = (struct hlm_err){ 0 };
        done = merge(small, lora, 1, out, NULL, &err);
        bool reached = mem_test_fail(0) == 0;
        CHECK_MSG(done == !reached && (done || err.kind), "allocation %llu: %s",
                  (unsigned long long)n, err.msg);
        CHECK_EQ(n_files(), before);
    }
    CHECK(n < 4000);
}

void test_merge(void)
{
    static const char *const dirs[] = { "qwen35", "qwen3next", "nemotron_h_moe", "step35" };
    static const struct quantised quantised[] = {
        { .base = "train/qwen35/model-q8_0.gguf",
          .size = 0.02,
          .noise_least = 0.001,
          .noise_most = 0.2 },
        { .base = "train/nemotron_h_moe/model-q8_0.gguf",
          .size = 0.02,
          .noise_least = 0.001,
          .noise_most = 0.2 },
        { .base = "train/qwen35/model-q8_0.gguf",
          .size = 1e-6,
          .noise_least = 0.999,
          .noise_most = 1.001,
          .lost = true },
        { .base = "qwen3next/k256/model-q4_k_m.gguf",
          .size = 0.2,
          .noise_least = 0.001,
          .noise_most = 0.3 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(dirs); i++)
        test_fixture(dirs[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(quantised); i++)
        test_quantised(&quantised[i]);
    test_nothing(fixture("train/qwen35/model-q8_0.gguf"));
    test_nothing(fixture("qwen3next/k256/model-q4_k_m.gguf"));
    test_types();
    test_gates_only();
    test_parts();
    test_refused();
    test_left();
}

/* ---- on a device ----------------------------------------------------------------------------- */

static float *logits_of(const char *model, const char *adapter)
{
    struct hlm_err err = { 0 };
    int32_t id[N_TOK];
    hlm *m = hlm_test_open(model);
    if (!m)
        return NULL;
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    float *logits = test_room((uint64_t)N_TOK * n_vocab, sizeof *logits);
    for (uint32_t i = 0; i < N_TOK; i++)
        id[i] = (int32_t)((i * 37 + 11) % n_vocab);
    if (adapter)
        CHECK_OK(hlm_set_lora(m, &(struct hlm_lora){ adapter, 1 }, 1, &err), err);
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){ .n_ctx = N_TOK, .kv = HLM_KV_F32, .keep_logits = true });
    CHECK_OK(s && hlm_session_eval(s, id, N_TOK, logits, NULL, &err), err);
    hlm_session_destroy(s);
    hlm_test_close(m);
    return logits;
}

void test_merged_model(void)
{
    struct hlm_err err = { 0 };
    const char *base = fixture("train/nemotron_h_moe/model.gguf");
    const char *made = test_scratch("made.gguf"), *out = test_scratch("merged.gguf");
    test_case("train/nemotron_h_moe: logits merged and beside");
    if (!test_gpu())
        return;
    make_adapter(
        base,
        &(struct merge_adapter){ .rank = 4, .type = F32, .alpha = 8, .size = 0.02, .deltas = true },
        made);
    struct hlm_lora l = { made, 1 };
    CHECK_OK(merge_n(base, &l, 1, out, NULL, NULL, &err), err);
    float *want = logits_of(base, made), *got = logits_of(out, NULL), *bare = logits_of(base, NULL);
    struct gguf *g = open_file(base);
    uint64_t n = g ? gguf_tensor(g, "token_embd.weight")->dim[1] * N_TOK : 0;
    gguf_close(g);
    if (want && got && bare) {
        double off = diff_f32(got, want, n).nmse, change = diff_f32(bare, want, n).nmse;
        CHECK_WITHIN("nmse", off, logits_off);
        CHECK_MSG(change > 1e-3, "the adapter changes nothing: %.3g", change);
    }
    free(want);
    free(got);
    free(bare);
}
