/* test_draft: draft blocks (multi-token prediction) of every family that has one, after the trunk
 * in one cmd, compared with the double-precision run of ref_bwd.h on the same files and adapters,
 * and with trainfx's likelihoods. */
#include "model/model.h"
#include "gguf_build.h"
#include "hlm_test.h"
#include "json.h"
#include "ref/ref_bwd.h"
#include "serial.h"

#include <math.h>

enum { MAX_TOK = 128 };

struct open {
    struct gguf *file;
    struct model *m;
    struct lora_set *set;
};

static bool open_model(struct gpu *g, const char *path, const char *adapter, struct open *o)
{
    struct hlm_err err = { 0 };
    *o = (struct open){ .file = gguf_open(path, &err) };
    o->m = o->file ? model_load(g, o->file, true, &err) : NULL;
    if (o->m && adapter) {
        struct lora_file *f = lora_file_check(gguf_open(adapter, &err), 1, &o->m->base, &err);
        o->set = f ? lora_set_create(g, &o->m->base, &f, 1, false, &err) : NULL;
    }
    return CHECK_MSG(o->m && (o->set || !adapter) && model_upload(o->m, NULL, NULL, &err) &&
                         lora_set_use(o->set, g, &o->m->base, &err),
                     "%s", err.msg);
}

static void close_model(struct open *o)
{
    lora_set_destroy(o->set);
    model_unload(o->m);
    gguf_close(o->file);
}

/* Likelihoods of the next token and of the one after it, by target. */
struct nlls {
    double trunk[MAX_TOK], mtp[MAX_TOK];
};

static bool on_device(const struct open *o, const int32_t *ids, uint32_t n, struct nlls *out)
{
    struct hlm_err err = { 0 };
    struct serial s;
    bool ok = serial_open(&s, o->m, &err) &&
              serial_document(&s, ids, NULL, n, out->trunk, out->mtp, &err);
    serial_close(&s);
    return CHECK_OK(ok, err);
}

/* Likelihoods: the largest difference over the largest value. Measured against the reference. */
static const struct bound nll_off = { .most = 1e-6, .measured = 5e-7 };

static double distance(const double *got, const double *want, uint32_t n, uint32_t ahead)
{
    double top = 0, off = 0;
    for (uint32_t t = ahead; t < n; t++) {
        top = fmax(top, fabs(want[t]));
        off = fmax(off, fabs(got[t] - want[t]));
    }
    return off / top;
}

/* ---- against the reference ------------------------------------------------------------------- */

/* An adapter of rank 4 and normal numbers for every matrix of the draft block and of the layer
 * before it. */
static const char *make_adapter(const struct gguf *base, const struct model *m)
{
    static const char *const part[] = {
        "nextn.eh_proj", "attn_q",        "attn_k",         "attn_v",       "attn_output",
        "attn_gate",     "ffn_gate",      "ffn_up",         "ffn_down",     "ffn_gate_exps",
        "ffn_up_exps",   "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
    };
    enum { RANK = 4 };
    struct hlm_err err = { 0 };
    struct rng rng = { 5 };
    struct gguf_build *b = gb_new();
    gb_str(b, "general.type", "adapter");
    gb_str(b, "general.architecture", m->arch->name);
    gb_str(b, "adapter.type", "lora");
    gb_f32(b, "adapter.lora.alpha", RANK);
    for (uint32_t i = 0; i < 4 * ARRAY_LEN(part); i++) {
        char name[96];
        snprintf(name, sizeof name, "blk.%u.%s.weight", m->n_layer - i / 2 % 2, part[i / 4]);
        const struct gguf_tensor *x = gguf_tensor(base, name);
        if (!x)
            continue;
        bool is_b = i % 2;
        uint64_t dim[3] = { is_b ? RANK : x->dim[0], is_b ? x->dim[1] : RANK, x->dim[2] };
        uint64_t n = dim[0] * dim[1] * dim[2];
        float *v = test_room(n, sizeof *v);
        for (uint64_t k = 0; k < n; k++)
            v[k] = (float)(0.3 * rng_normal(&rng) / sqrt((double)dim[0]));
        snprintf(name, sizeof name, "%s.lora_%c", x->name, is_b ? 'b' : 'a');
        gb_tensor(b, name, F32, dim[2] > 1 ? 3 : 2, dim, v);
        free(v);
    }
    const char *path = test_scratch("draft-lora.gguf");
    CHECK_OK(gb_write(b, path, &err), err);
    gb_free(b);
    return path;
}

/* The slope of the reference's loss along its gradient is the gradient's length. This covers the
 * way back through the draft block into the trunk, which no fixture has for all families. */
static const struct bound slope_off = { .most = 1e-6, .measured = 1e-8 };

static void check_slope(struct ref_tune *t, const int32_t *ids, const uint8_t *mask, uint32_t n)
{
    double norm = 0, loss[2], h = 1e-4;
    ref_tune_document(t, ids, mask, n, 1, NULL, NULL);
    for (uint32_t i = 0; i < t->n_param; i++)
        for (uint64_t k = 0; k < t->param[i].n; k++)
            norm += t->param[i].grad[k] * t->param[i].grad[k];
    norm = sqrt(norm);
    for (uint32_t side = 0; side < 2; side++) {
        for (uint32_t i = 0; i < t->n_param; i++)
            for (uint64_t k = 0; k < t->param[i].n; k++)
                t->param[i].value[k] += (side ? -2 : 1) * h * t->param[i].grad[k] / norm;
        struct ref_sums s = ref_tune_document(t, ids, mask, n, 0, NULL, NULL);
        loss[side] = s.main + t->mtp_factor * s.mtp;
    }
    double slope = (loss[0] - loss[1]) / (2 * h);
    CHECK_WITHIN("slope over gradient", fabs(slope / norm - 1), slope_off);
}

static void against_reference(struct gpu *g, const char *arch)
{
    enum { N = 50 };
    char path[160];
    struct hlm_err err = { 0 };
    test_case("%s: the draft block and an adapter on it", arch);
    snprintf(path, sizeof path, "%s", fixture("%s/base/model-f32.gguf", arch));
    struct open o;
    struct gguf *file = gguf_open(path, &err);
    struct model *m = file ? model_load(g, file, true, &err) : NULL;
    if (!CHECK_OK(m != NULL, err) || !CHECK_EQ(m->n_draft, 1))
        return;
    const char *adapter = make_adapter(file, m);
    model_unload(m);
    int32_t ids[N];
    uint8_t mask[N];
    double nll[N], nll_mtp[N];
    struct rng rng = { 3 };
    if (open_model(g, path, adapter, &o)) {
        struct nlls got;
        struct ref_tune t = { 0 };
        struct ref_model *ref = ref_model_open(file, &err);
        struct gguf *a = gguf_open(adapter, &err);
        for (uint32_t i = 0; i < N; i++) {
            ids[i] = (int32_t)(rng_u64(&rng) % o.m->n_vocab);
            mask[i] = 1;
        }
        if (CHECK_OK(ref && a && ref_tune_open(&t, ref, a, false, &err), err) &&
            on_device(&o, ids, N, &got)) {
            t.mtp_factor = 1;
            ref_tune_document(&t, ids, mask, N, 0, nll, nll_mtp);
            double trunk = distance(got.trunk, nll, N, 1);
            double mtp = distance(got.mtp, nll_mtp, N, 2);
            CHECK_WITHIN("main", trunk, nll_off);
            CHECK_WITHIN("mtp", mtp, nll_off);
            check_slope(&t, ids, mask, N);
        }
        ref_tune_close(&t);
        ref_model_close(ref);
        gguf_close(a);
    }
    close_model(&o);
    gguf_close(file);
}

/* ---- against trainfx ------------------------------------------------------------------------- */

static const float *wanted(json_t *want, const uint8_t *bin, const char *kind, size_t doc)
{
    char key[64];
    snprintf(key, sizeof key, "nll/%s/%zu", kind, doc);
    json_t *t = json_object_get(json_object_get(want, "tensors"), key);
    uint64_t at = (uint64_t)json_integer_value(json_object_get(t, "offset"));
    return CHECK(t) ? (const float *)(const void *)(bin + at) : NULL;
}

static void check_document(const struct open *o, json_t *want, const uint8_t *bin, size_t i_doc,
                           const json_t *row)
{
    double trunk[MAX_TOK], mtp[MAX_TOK];
    uint32_t n = 0;
    struct nlls got;
    int32_t *of = json_ids(json_object_get(row, "ids"), &n);
    const float *w[2] = { wanted(want, bin, "main", i_doc), wanted(want, bin, "mtp", i_doc) };
    if (!CHECK(of && n > 2 && n <= MAX_TOK && w[0] && w[1]))
        return;
    for (uint32_t t = 0; t < n; t++) {
        trunk[t] = (double)w[0][t];
        mtp[t] = (double)w[1][t];
    }
    if (on_device(o, of, n, &got)) {
        double a = distance(got.trunk, trunk, n, 1), b = distance(got.mtp, mtp, n, 2);
        test_note("  document %zu", i_doc);
        CHECK_WITHIN("main", a, nll_off);
        CHECK_WITHIN("mtp", b, nll_off);
    }
    free(of);
}

static void against_trainfx(struct gpu *g, const char *adapter, const char *expected)
{
    test_case("qwen35moe-mtp: likelihoods under %s", adapter);
    char path[2][160], json[96];
    snprintf(path[0], sizeof path[0], "%s", fixture("train/qwen35moe-mtp/model.gguf"));
    snprintf(path[1], sizeof path[1], "%s", fixture("train/qwen35moe-mtp/%s", adapter));
    snprintf(json, sizeof json, "train/qwen35moe-mtp/%s.json", expected);
    uint64_t n_bin;
    uint8_t *bin = fixture_read(&n_bin, "train/qwen35moe-mtp/%s.bin", expected);
    json_t *data = fixture_json("train/qwen35moe-mtp/data.json"), *want = fixture_json(json);
    struct open o = { 0 };
    if (bin && data && want && open_model(g, path[0], path[1], &o)) {
        json_t *rows = json_object_get(data, "rows");
        for (size_t i = 0; i < json_array_size(rows); i++) /* each row is one document */
            check_document(&o, want, bin, i, json_array_get(rows, i));
    }
    close_model(&o);
    json_decref(data);
    json_decref(want);
    free(bin);
}

/* ---- there or not ---------------------------------------------------------------------------- */

/* A draft block that was not asked for, or is not in the file, is left out and costs nothing. */
static void left_out(struct gpu *g, const char *path, bool wanted_too)
{
    test_case("%s: no draft block%s", path, wanted_too ? ", though asked for" : "");
    struct hlm_err err = { 0 };
    struct gguf *file = gguf_open(fixture("%s", path), &err);
    struct model *m = file ? model_load(g, file, wanted_too, &err) : NULL;
    if (CHECK_OK(m != NULL, err)) {
        CHECK_EQ(m->n_draft, 0);
        CHECK(!m->draft);
        CHECK_EQ(m->base.n_mtp, m->n_mtp);
    }
    model_unload(m);
    gguf_close(file);
}

/* A file that counts a draft block and has none of its tensors, or only some. */
static void broken(struct gpu *g, const char *without, const char *says)
{
    test_case("a draft block without %s", without);
    struct hlm_err err = { 0 };
    char name[64];
    const char *path = test_scratch("draft-broken.gguf");
    struct gguf_build *b = gb_from(fixture("qwen35/base/model-f32.gguf"), &err);
    snprintf(name, sizeof name, "blk.4.%s", without);
    if (CHECK_OK(b && gb_drop_tensor(b, name) && gb_write(b, path, &err), err)) {
        struct gguf *file = gguf_open(path, &err);
        struct model *m = file ? model_load(g, file, true, &err) : NULL;
        if (!says && CHECK_OK(m != NULL, err))
            CHECK_EQ(m->n_draft, 0);
        if (says && CHECK(!m))
            CHECK_SAYS(err.msg, says);
        model_unload(m);
        gguf_close(file);
    }
    gb_free(b);
}

void test_draft(void)
{
    static const char *const archs[] = { "qwen35", "qwen35moe", "nemotron_h_moe", "step35" };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(archs); i++)
        against_reference(g, archs[i]);
    against_trainfx(g, "init-lora-mtp.gguf", "expected-mtp-adapter");
    against_trainfx(g, "init-lora.gguf", "expected");
    left_out(g, "qwen35/base/model-f32.gguf", false);
    left_out(g, "nemotron_h/base/model-f32.gguf", true);
    left_out(g, "qwen3next/base/model-f32.gguf", true);
    broken(g, "nextn.eh_proj.weight", NULL);
    broken(g, "nextn.enorm.weight", "draft-broken.gguf|blk.4.nextn.enorm.weight|missing");
    broken(g, "attn_k.weight", "draft-broken.gguf|blk.4.attn_k.weight|missing");
    test_case("no message of the validation layer");
    CHECK_EQ(gpu_validation_count(g), 0);
}
