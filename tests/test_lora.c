/* test_lora: adapters beside the weights, compared with PyTorch's losses and with the same adapter
 * merged into the weights in double precision; and which adapters are refused.
 *
 * tests/fixtures/train has some of the training fixtures unchanged (their losses are float64); the
 * others are tested where --fixtures has them. Logits are compared with ref.h on a file of merged
 * weights, from one prefill and from pieces and single tokens. -v prints what is measured. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "json.h"
#include "ref/ref.h"
#include "ssm_in.h"

#include <math.h>
#include <stdio.h>

enum { N_TOK = 72, MAX_ADAPTER = 3 };

static const struct bound loss_off = { .most = 2e-7,
                                       .measured = 4.1e-8 }; /* of a document, relative */
static const struct bound logits_off = { .most = 2e-12, .measured = 7.4e-13 }; /* NMSE */

/* ---- helpers ---------------------------------------------------------------------------- */

/* Reads the tokens from an empty timeline, in calls of the sizes listed and one of the rest.
 * Returns [n][n_vocab]. */
static float *read_logits(hlm *m, const int32_t *id, uint32_t n, const uint32_t *piece,
                          uint32_t n_piece)
{
    struct hlm_err err = { 0 };
    uint64_t n_vocab = hlm_get_info(m).n_vocab;
    float *logits = test_room(n * n_vocab, sizeof *logits);
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){ .n_ctx = n, .kv = HLM_KV_F32, .keep_logits = true });
    for (uint32_t i = 0, at = 0, take; s && at < n; i++, at += take) {
        take = i < n_piece ? min_u32(piece[i], n - at) : n - at;
        if (!CHECK_OK(hlm_session_eval(s, id + at, take, logits + at * n_vocab, NULL, &err), err))
            break;
    }
    hlm_session_destroy(s);
    return logits;
}

static void made_up(int32_t *id, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < N_TOK; i++)
        id[i] = (int32_t)((i * 37 + 11) % n_vocab);
}

static bool same_bits(const float *a, const float *b, uint64_t n)
{
    return a && b && !memcmp(a, b, n * sizeof *a);
}

/* ---- adapters made here ----------------------------------------------------------------- */

struct lora_made {
    const char *name;
    uint32_t rank;
    enum dtype type;
    float alpha;
    uint64_t seed;
    bool deltas;
    const char *only; /* a part of the names of tensors; NULL: all matrices */
};

static void add_factors(struct gguf_build *b, const struct gguf_tensor *x,
                        const struct lora_made *how, struct rng *rng)
{
    char name[96];
    uint64_t r = how->rank, n_e = x->dim[2], n_a = x->dim[0] * r * n_e, n_b = r * x->dim[1] * n_e;
    double ss = 0, scale = how->alpha != 0 ? (double)how->alpha / (double)r : 1;
    float *v = test_floats(x), *to = test_room(max_u64(n_a, n_b), sizeof *to);
    uint16_t *half = test_room(max_u64(n_a, n_b), sizeof *half);
    for (uint64_t i = 0; i < x->n_elem; i++)
        ss += (double)v[i] * (double)v[i];
    /* so that elements of the product are about 0.3 of those of the matrix */
    double gain[2] = { 1, 0.3 * sqrt(ss / (double)x->n_elem) / sqrt((double)r) / scale };
    for (uint32_t k = 0; k < 2; k++) {
        uint64_t n = k ? n_b : n_a;
        uint64_t dim[3] = { k ? r : x->dim[0], k ? x->dim[1] : r, n_e };
        for (uint64_t i = 0; i < n; i++) {
            to[i] = (float)(gain[k] * rng_normal(rng));
            half[i] = f32_to_f16(to[i]);
        }
        snprintf(name, sizeof name, "%s.lora_%c", x->name, k ? 'b' : 'a');
        gb_tensor(b, name, how->type, n_e > 1 ? 3 : 2, dim,
                  how->type == F16 ? (void *)half : (void *)to);
    }
    free(v);
    free(to);
    free(half);
}

/* An adapter for everything that takes one. */
static struct gguf_build *make_adapter(const struct gguf *base, const struct lora_made *how)
{
    static const char *const not [] = { "_norm.weight", "token_embd.weight", "ssm_conv1d.weight",
                                        "rope_freqs.weight" };
    static const char *const gate[] = { ".ssm_a", ".ssm_dt.bias", ".ssm_d" };
    struct gguf_build *b = gb_new();
    struct rng rng = { how->seed };
    struct hlm_str arch = { 0 };
    char text[64];
    gguf_str(base, "general.architecture", REQUIRED, &arch, NULL);
    snprintf(text, sizeof text, "%.*s", (int)arch.n, arch.p);
    gb_str(b, "general.type", "adapter");
    gb_str(b, "general.architecture", text);
    gb_str(b, "adapter.type", "lora");
    gb_f32(b, "adapter.lora.alpha", how->alpha);
    for (uint64_t i = 0; i < gguf_n_tensor(base); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(base, i);
        bool takes = test_has_tail(x->name, ".weight") && !strstr(x->name, ".nextn.");
        for (uint32_t k = 0; k < ARRAY_LEN(not ); k++)
            takes = takes && !test_has_tail(x->name, not [k]) && strcmp(x->name, not [k]) != 0;
        if (how->only && !strstr(x->name, how->only))
            continue;
        if (takes)
            add_factors(b, x, how, &rng);
        for (uint32_t k = 0; how->deltas && k < ARRAY_LEN(gate); k++)
            if (test_has_tail(x->name, gate[k])) {
                char name[96];
                float *d = test_room(x->n_elem, sizeof *d);
                for (uint64_t j = 0; j < x->n_elem; j++)
                    d[j] = (float)(0.4 * rng_normal(&rng));
                snprintf(name, sizeof name, "%s.delta", x->name);
                gb_tensor(b, name, F32, 1, &x->n_elem, d);
                free(d);
            }
    }
    return b;
}

static const char *write_adapter(const struct gguf *base, const struct lora_made *how)
{
    struct hlm_err err = { 0 };
    const char *path = test_scratch(how->name);
    struct gguf_build *b = make_adapter(base, how);
    CHECK_OK(gb_write(b, path, &err), err);
    gb_free(b);
    return path;
}

/* ---- merged in double ------------------------------------------------------------------- */

/* w += alpha / r * factor * B A, expert by expert. */
static void merge_pair(double *w, const struct gguf_tensor *x, const struct gguf *g, double factor)
{
    char name[96];
    snprintf(name, sizeof name, "%s.lora_a", x->name);
    const struct gguf_tensor *a = gguf_tensor(g, name);
    snprintf(name, sizeof name, "%s.lora_b", x->name);
    const struct gguf_tensor *b = gguf_tensor(g, name);
    float alpha = 0;
    if (!a || !b)
        return;
    gguf_f32(g, "adapter.lora.alpha", REQUIRED, &alpha, NULL);
    uint64_t n_in = x->dim[0], n_out = x->dim[1], r = b->dim[0];
    double scale = alpha != 0 ? (double)alpha / (double)r * factor : factor;
    float *va = test_floats(a), *vb = test_floats(b);
    for (uint64_t e = 0; e < x->dim[2]; e++)
        for (uint64_t o = 0; o < n_out; o++)
            for (uint64_t k = 0; k < r; k++)
                for (uint64_t i = 0; i < n_in; i++)
                    w[(e * n_out + o) * n_in + i] += scale * (double)vb[(e * n_out + o) * r + k] *
                                                     (double)va[(e * r + k) * n_in + i];
    free(va);
    free(vb);
}

static void sum_deltas(double *sum, const struct gguf_tensor *x, const struct gguf *g,
                       double factor)
{
    char name[96];
    snprintf(name, sizeof name, "%s.delta", x->name);
    const struct gguf_tensor *d = gguf_tensor(g, name);
    float *v = d ? test_floats(d) : NULL;
    for (uint64_t i = 0; v && i < d->n_elem; i++)
        sum[i] += factor * (double)v[i];
    free(v);
}

/* The model file at path with all weights in F32 and the adapters merged, opened by the
 * reference. */
static struct ref_model *open_merged(const char *path, const struct hlm_lora *l, uint32_t n,
                                     struct hlm_err *err)
{
    const char *to = test_scratch("merged.gguf");
    struct gguf *base = gguf_open(path, err), *g[MAX_ADAPTER] = { 0 };
    struct gguf_build *b = base ? gb_from(path, err) : NULL;
    bool ok = b != NULL;
    for (uint32_t k = 0; ok && k < n; k++)
        ok = (g[k] = gguf_open(l[k].path, err)) != NULL;
    for (uint64_t i = 0; ok && i < gguf_n_tensor(base); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(base, i);
        float *v = test_floats(x);
        double *w = test_room(x->n_elem, sizeof *w), *sum = test_room(x->n_elem, sizeof *sum);
        for (uint64_t j = 0; j < x->n_elem; j++)
            w[j] = (double)v[j];
        for (uint32_t k = 0; k < n; k++) {
            merge_pair(w, x, g[k], (double)l[k].scale);
            sum_deltas(sum, x, g[k], (double)l[k].scale);
        }
        for (uint64_t j = 0; j < x->n_elem; j++)
            v[j] = (float)(test_has_tail(x->name, ".ssm_a") ? w[j] * exp(sum[j]) : w[j] + sum[j]);
        gb_tensor(b, x->name, F32, x->n_dim, x->dim, v);
        free(v);
        free(w);
        free(sum);
    }
    ok = ok && gb_write(b, to, err);
    for (uint32_t k = 0; k < n; k++)
        gguf_close(g[k]);
    gguf_close(base);
    gb_free(b);
    struct gguf *merged = ok ? gguf_open(to, err) : NULL;
    struct ref_model *ref = merged ? ref_model_open(merged, err) : NULL;
    gguf_close(merged);
    return ref;
}

/* Compares the logits of the model with these adapters active with those of merged weights. */
static void check_merged(hlm *m, const struct hlm_lora *l, uint32_t n)
{
    static const uint32_t piece[] = { 40, 1, 1, 9, 2, 1, 1 };
    struct hlm_err err = { 0 };
    int32_t id[N_TOK];
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    uint64_t n_logit = (uint64_t)N_TOK * n_vocab;
    struct ref_model *ref = open_merged(hlm_get_info(m).path, l, n, &err);
    if (!CHECK_OK(ref != NULL, err) || !CHECK_OK(hlm_set_lora(m, l, n, &err), err)) {
        ref_model_close(ref);
        return;
    }
    made_up(id, n_vocab);
    double *want = test_room(n_logit, sizeof *want);
    struct ref_state *s = ref_state_create(ref);
    CHECK(ref_forward(ref, s, id, N_TOK, want, NULL));
    for (uint32_t k = 0; k < 2; k++) {
        float *got = read_logits(m, id, N_TOK, piece, k ? ARRAY_LEN(piece) : 0);
        struct diff d = diff_f64(got, want, n_logit);
        CHECK_WITHIN(k ? "pieces" : "one prefill", d.nmse, logits_off);
        free(got);
    }
    ref_state_destroy(s);
    ref_model_close(ref);
    free(want);
}

/* ---- PyTorch's losses ------------------------------------------------------------------- */

/* The sum of negative log likelihoods of one document's counted tokens; mask NULL: of all
 * targets. */
static double document_loss(hlm *m, const int32_t *id, uint32_t n, const json_t *mask)
{
    struct hlm_err err = { 0 };
    double sum = 0, *nll = test_room(n, sizeof *nll);
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){ .n_ctx = n, .kv = HLM_KV_F32, .keep_nll = true });
    if (s)
        CHECK_OK(hlm_session_nll(s, id, n, nll, &err), err);
    for (uint32_t i = 1; i < n; i++)
        if (!mask || json_integer_value(json_array_get(mask, i)))
            sum += nll[i - 1];
    hlm_session_destroy(s);
    free(nll);
    return sum;
}

static void check_loss(const char *what, double got, double want)
{
    double off = fabs(got - want) / fabs(want);
    CHECK_WITHIN(what, off, loss_off);
}

/* Documents with the initial adapter: nll/main/D of all targets, and of the counted ones. */
static void test_losses(hlm *m, const char *dir, const char *kind, json_t *data)
{
    char path[96], name[32];
    uint64_t n_bytes;
    snprintf(path, sizeof path, "train/%s/expected%s.json", dir, kind);
    json_t *expected = fixture_json(path);
    uint8_t *bin = fixture_read(&n_bytes, "train/%s/expected%s.bin", dir, kind);
    json_t *rows = json_at(data, "rows"), *tensors = json_at(expected, "tensors");
    for (uint32_t r = 0; bin && r < json_array_size(rows); r++) {
        json_t *row = json_array_get(rows, r);
        snprintf(name, sizeof name, "nll/main/%u", r);
        json_t *at = json_object_get(tensors, name);
        uint32_t n = 0;
        uint64_t offset = (uint64_t)json_integer_value(json_object_get(at, "offset"));
        int32_t *id = json_ids(json_at(row, "ids"), &n);
        double want = 0;
        if (!CHECK(at && id && offset + 4ull * n <= n_bytes &&
                   json_array_size(json_at(row, "doc_starts")) == 1)) {
            free(id);
            break;
        }
        for (uint32_t i = 0; i < n; i++) {
            float v;
            memcpy(&v, bin + offset + 4ull * i, sizeof v);
            want += (double)v;
        }
        check_loss(name, document_loss(m, id, n, NULL), want);
        free(id);
    }
    free(bin);
    json_decref(expected);
}

/* The result of 20 training steps, gates included, as an adapter file: its loss over all training
 * rows. */
static const char *write_final(const char *dir, json_t *expected, const char *run)
{
    struct hlm_err err = { 0 };
    uint64_t n_bytes;
    const char *path = test_scratch("final.gguf"), *name;
    char prefix[32], init[96];
    json_t *t;
    snprintf(init, sizeof init, "train/%s/init-lora.gguf", dir);
    snprintf(prefix, sizeof prefix, "%s/final/", run);
    struct gguf_build *b = gb_from(fixture("%s", init), &err);
    uint8_t *bin = fixture_read(&n_bytes, "train/%s/expected.bin", dir);
    json_object_foreach(json_at(expected, "tensors"), name, t)
    {
        json_t *shape = json_at(t, "shape");
        uint64_t dim[4] = { 1, 1, 1, 1 };
        size_t n_dim = json_array_size(shape);
        uint64_t offset = (uint64_t)json_integer_value(json_at(t, "offset"));
        if (strncmp(name, prefix, strlen(prefix)) != 0 || !b || !bin || n_dim > 4)
            continue;
        for (size_t i = 0; i < n_dim; i++)
            dim[n_dim - 1 - i] = (uint64_t)json_integer_value(json_array_get(shape, i));
        if (CHECK(offset + 4 * dim[0] * dim[1] * dim[2] * dim[3] <= n_bytes))
            gb_tensor(b, name + strlen(prefix), F32, (uint32_t)n_dim, dim, bin + offset);
    }
    CHECK_OK(b && gb_write(b, path, &err), err);
    gb_free(b);
    free(bin);
    return path;
}

static void test_final(hlm *m, const char *dir, json_t *data, const char *run)
{
    struct hlm_err err = { 0 };
    char path[96];
    double sum = 0;
    test_case("%s: the loss after training%s", dir,
              !strcmp(run, "gates") ? ", with gate deltas" : "");
    snprintf(path, sizeof path, "train/%s/expected.json", dir);
    json_t *expected = fixture_json(path), *rows = json_at(data, "rows");
    snprintf(path, sizeof path, "runs/%s/after", run);
    json_t *after = json_at(expected, path);
    struct hlm_lora l = { write_final(dir, expected, run), 1 };
    if (CHECK(after) && CHECK_OK(hlm_set_lora(m, &l, 1, &err), err)) {
        for (uint32_t r = 0; r < json_array_size(rows); r++) {
            json_t *row = json_array_get(rows, r);
            uint32_t n = 0;
            int32_t *id = json_ids(json_at(row, "ids"), &n);
            sum += id ? document_loss(m, id, n, json_at(row, "target_mask")) : 0;
            free(id);
        }
        check_loss("loss", sum / (double)json_integer_value(json_at(after, "n")),
                   json_real_value(json_at(after, "loss_main")));
    }
    json_decref(expected);
}

/* ---- cases ------------------------------------------------------------------------------ */

static const struct train {
    const char *dir, *model, *kind, *run;
} trains[] = {
    { "qwen35", "model.gguf", "", "gates" },
    { "qwen35", "model-q8_0.gguf", "-q8_0", NULL },
    { "qwen3next", "model.gguf", "", "gates" },
    { "nemotron_h_moe", "model.gguf", "", "gates" },
    { "nemotron_h_moe", "model-q8_0.gguf", "-q8_0", NULL },
    { "step35", "model.gguf", "", "lora" },
    { "qwen35moe-mtp", "model.gguf", "", "gates" },
};

static void test_train(const struct train *c)
{
    struct hlm_err err = { 0 };
    char path[96];
    test_case("%s/%s: losses with the initial adapter", c->dir, c->model);
    snprintf(path, sizeof path, "train/%s/init-lora.gguf", c->dir);
    struct hlm_lora l = { fixture("%s", path), 1 };
    snprintf(path, sizeof path, "train/%s/data.json", c->dir);
    json_t *data = fixture_json(path);
    hlm *m = hlm_test_open(fixture("train/%s/%s", c->dir, c->model));
    if (m && data && CHECK_OK(hlm_set_lora(m, &l, 1, &err), err)) {
        test_losses(m, c->dir, c->kind, data);
        test_case("%s/%s: the initial adapter, merged", c->dir, c->model);
        check_merged(m, &l, 1);
        if (c->run)
            test_final(m, c->dir, data, c->run);
    }
    json_decref(data);
    hlm_test_close(m);
}

/* An adapter on every matrix of a model, and gates; two adapters together; another adapter instead;
 * no adapter, which gives the first bits again. */
static void test_everything(const char *file)
{
    static const struct lora_made first = { .name = "first.gguf",
                                            .rank = 4,
                                            .type = F32,
                                            .alpha = 8,
                                            .seed = 1,
                                            .deltas = true },
                                  second = { .name = "second.gguf",
                                             .rank = 3,
                                             .type = F16,
                                             .alpha = 0,
                                             .seed = 2,
                                             .deltas = true },
                                  part = { .name = "part.gguf",
                                           .rank = 7,
                                           .type = F32,
                                           .alpha = 5,
                                           .seed = 3,
                                           .only = "ffn_" };
    struct hlm_err err = { 0 };
    int32_t id[N_TOK];
    test_case("%s: an adapter on every matrix and gate", file);
    hlm *m = hlm_test_open(fixture("%s", file));
    if (!m)
        return;
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    uint64_t n_logit = (uint64_t)N_TOK * n_vocab;
    made_up(id, n_vocab);
    float *before = read_logits(m, id, N_TOK, NULL, 0);
    struct hlm_lora l[] = {
        { write_adapter(hlm_test_file(m), &first), 1 },
        { write_adapter(hlm_test_file(m), &second), -0.5f },
        { write_adapter(hlm_test_file(m), &part), 0.75f },
    };
    check_merged(m, l, 1);
    float *with = read_logits(m, id, N_TOK, NULL, 0);
    test_case("%s: three adapters with factors", file);
    check_merged(m, l, 3);
    test_case("%s: swapped and dropped", file);
    CHECK_OK(hlm_set_lora(m, l, 1, &err), err);
    float *again = read_logits(m, id, N_TOK, NULL, 0);
    CHECK_OK(hlm_set_lora(m, NULL, 0, &err), err);
    float *after = read_logits(m, id, N_TOK, NULL, 0);
    CHECK_MSG(same_bits(again, with, n_logit), "the first adapter gives other bits than before");
    CHECK_MSG(same_bits(after, before, n_logit), "without adapters the bits are other than before");
    CHECK_MSG(!same_bits(with, before, n_logit), "the adapter does nothing");
    free(before);
    free(with);
    free(again);
    free(after);
    hlm_test_close(m);
}

/* The next n tokens of a session. */
static bool decide(hlm_session *s, int32_t *id, uint32_t n)
{
    struct hlm_sampling greedy = { .repeat_penalty = 1, .allow_unused = true };
    struct hlm_err err = { 0 };
    for (uint32_t i = 0; i < n; i++)
        if (!CHECK_OK(hlm_session_next(s, &greedy, &id[i], &err), err))
            return false;
    return true;
}

/* State belongs to the adapters it was made with. A saved session continues under the same adapters
 * with the same factors, and is refused under any others. */
static void test_saved_session(void)
{
    static const struct lora_made how = {
        .name = "saved.gguf", .rank = 4, .type = F32, .alpha = 8, .seed = 6, .deltas = true
    };
    struct hlm_err err = { 0 };
    int32_t id[N_TOK], want[12], got[12];
    const char *path = test_scratch("session");
    test_case("a saved session belongs to its adapters");
    hlm *m = hlm_test_open(fixture("train/qwen35/model.gguf"));
    if (!m)
        return;
    made_up(id, hlm_get_info(m).n_vocab);
    struct hlm_lora l = { write_adapter(hlm_test_file(m), &how), 0.5f };
    const struct hlm_lora other = { l.path, 0.25f };
    /* clang-format off */
    const struct { const struct hlm_lora *l; uint32_t n; const char *says; } rows[] = {
        { &l, 1, NULL }, { NULL, 0, "session|with adapters|none" },
        { &other, 1, "session|with adapters|others" }, { &l, 1, NULL },
    };
    /* clang-format on */
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        err = (struct hlm_err){ 0 };
        if (!CHECK_OK(hlm_set_lora(m, rows[i].l, rows[i].n, &err), err))
            break;
        hlm_session *s = hlm_test_session(m, (struct hlm_session_params){ .n_ctx = 2 * N_TOK });
        if (!s)
            break;
        if (i == 0 && CHECK_OK(hlm_session_sync(s, id, N_TOK, NULL, 0, NULL, NULL, &err), err) &&
            CHECK_OK(hlm_session_save(s, path, NULL, 0, &err), err)) {
            decide(s, want, ARRAY_LEN(want));
        } else if (i > 0) {
            bool ok = hlm_session_load(s, path, NULL, NULL, &err);
            CHECK_MSG(ok == !rows[i].says, "row %u: %s", i, err.msg);
            if (rows[i].says)
                CHECK_SAYS(err.msg, rows[i].says);
            if (ok && decide(s, got, ARRAY_LEN(got)))
                CHECK(!memcmp(got, want, sizeof got));
        }
        hlm_session_destroy(s);
    }
    hlm_test_close(m);
}

/* ---- adapters that cannot be set ------------------------------------------------------------- */

/* What is in force: where the matrices point, and the gates on the device. */
struct force {
    const struct lora **lora; /* [n_matrix] */
    float *gate;
    uint64_t n_gate;
};

static bool force_read(hlm *m, struct force *f)
{
    const struct lora_base *b = &m->model->base;
    struct hlm_err err = { 0 };
    uint64_t at = 0;
    *f = (struct force){ .lora = test_room(b->n_matrix, sizeof *f->lora) };
    for (uint64_t i = 0; i < b->n_matrix; i++)
        f->lora[i] = b->matrix[i].w->lora;
    for (uint64_t i = 0; i < b->n_gate; i++)
        f->n_gate += b->gate[i].t->n_elem;
    f->gate = test_room(f->n_gate, sizeof *f->gate);
    for (uint64_t i = 0; i < b->n_gate; at += b->gate[i++].t->n_elem)
        if (!CHECK_OK(gpu_read(m->gpu, b->gate[i].at, 0, f->gate + at,
                               b->gate[i].t->n_elem * sizeof *f->gate, &err),
                      err))
            return false;
    return true;
}

static void force_free(struct force *f)
{
    free(f->lora);
    free(f->gate);
}

/* Each host allocation of hlm_set_lora fails once. */
static void test_cannot_be_set(void)
{
    static const struct lora_made one = {
        .name = "one.gguf", .rank = 4, .type = F32, .alpha = 8, .seed = 6, .deltas = true
    };
    static const struct lora_made two = {
        .name = "two.gguf", .rank = 8, .type = F32, .alpha = 8, .seed = 7, .deltas = true
    };
    struct hlm_err err = { 0 };
    test_case("adapters that cannot be set leave those before in force");
    hlm *m = hlm_test_open(fixture("train/qwen35/model.gguf"));
    if (!m)
        return;
    struct hlm_lora a = { write_adapter(hlm_test_file(m), &one), 1 },
                    b = { write_adapter(hlm_test_file(m), &two), 1 };
    struct force before, now;
    CHECK_OK(hlm_set_lora(m, &a, 1, &err), err);
    bool ok = force_read(m, &before), done = false;
    uint64_t n = 0;
    while (ok && !done) {
        mem_test_fail(++n);
        done = hlm_set_lora(m, &b, 1, &err);
        mem_test_fail(0);
        ok = done || force_read(m, &now);
        if (ok && !done) {
            ok = CHECK_MSG(
                     !memcmp(now.lora, before.lora, m->model->base.n_matrix * sizeof *now.lora),
                     "allocation %llu: the matrices", (unsigned long long)n) &&
                 CHECK_MSG(!memcmp(now.gate, before.gate, now.n_gate * sizeof *now.gate),
                           "allocation %llu: the gates", (unsigned long long)n);
            force_free(&now);
        }
    }
    CHECK_MSG(n > 10, "%llu allocations", (unsigned long long)n);
    force_free(&before);
    hlm_test_close(m);
}

/* ---- what is refused -------------------------------------------------------------------- */

enum lora_edit {
    SET_STR, /* key, text */
    SET_F32, /* key, value */
    DROP_KEY,
    TOKENS, /* adapter.alora.invocation_tokens */
    DROP,   /* tensor */
    RENAME, /* tensor, text */
    SHAPE,  /* tensor, dim */
    TYPE,   /* tensor, value */
    VALUE,  /* tensor: its third value */
    ADD,    /* a pair of rank dim[1] for tensor, or a vector of dim[0] where that is not 0 */
    FACTOR, /* the file unchanged */
};

/* One edit of a sound adapter, or of its factor, and the parts of the refusal besides the file. */
static const struct bad {
    enum lora_edit edit;
    const char *name;
    double value;
    const char *text;
    uint64_t dim[3];
    const char *says;
} bads[] = {
/* clang-format off */
#define ROW(edit_, name_, ...) { .edit = edit_, .name = name_, __VA_ARGS__ }
#define SAYS(parts) .says = parts
#define QA "blk.3.attn_q.weight.lora_a"
#define QB "blk.3.attn_q.weight.lora_b"
    ROW(SET_STR, "general.type", .text = "model", SAYS("general.type|model|adapter")),
    ROW(DROP_KEY, "general.type", SAYS("general.type|missing")),
    ROW(SET_STR, "general.architecture", .text = "qwen3next",
        SAYS("general.architecture|qwen3next|qwen35")),
    ROW(DROP_KEY, "general.architecture", SAYS("general.architecture|missing")),
    ROW(SET_STR, "adapter.type", .text = "control_vector",
        SAYS("adapter.type|control_vector|lora")),
    ROW(DROP_KEY, "adapter.lora.alpha", SAYS("adapter.lora.alpha|missing")),
    ROW(SET_STR, "adapter.lora.alpha", .text = "8", SAYS("adapter.lora.alpha|string")),
    ROW(SET_F32, "adapter.lora.alpha", .value = NAN, SAYS("adapter.lora.alpha|nan|finite")),
    ROW(TOKENS, NULL, SAYS("adapter.alora.invocation_tokens|not supported")),
    ROW(RENAME, QA, .text = "blk.3.attn_q.weight", SAYS("blk.3.attn_q.weight|.lora_a")),
    ROW(RENAME, QA, .text = "blk.7.attn_q.weight.lora_a",
        SAYS("blk.7.attn_q.weight.lora_a|no blk.7.attn_q.weight|model.gguf")),
    ROW(RENAME, QA, .text = ".lora_a", SAYS("tensor .lora_a")),
    ROW(RENAME, QA, .text = "blk.0.attn_q.weight.lora_a",
        SAYS("no blk.0.attn_q.weight|model.gguf")),
    ROW(DROP, QA, SAYS(QB "|no partner " QA)),
    ROW(DROP, QB, SAYS(QA "|no partner " QB)),
    ROW(SHAPE, QA, .dim = { 60, 4, 1 }, SAYS(QA "|60 x 4|64")),
    ROW(SHAPE, QA, .dim = { 64, 4, 2 }, SAYS(QA "|64 x 4 x 2|64")),
    ROW(SHAPE, QB, .dim = { 4, 100, 1 }, SAYS(QB "|4 x 100|RANK")),
    ROW(SHAPE, QA, .dim = { 64, 3, 1 }, SAYS(QA "|rank 3|" QB "|rank 4")),
    ROW(ADD, "output.weight", .dim = { 0, 5000 }, SAYS("output.weight.lora_a|rank 5000|1|4096")),
    ROW(TYPE, QA, .value = I32, SAYS(QA "|type|I32")),
    ROW(VALUE, QB, .value = NAN, SAYS(QB "|value 2|nan|finite")),
    ROW(VALUE, QA, .value = INFINITY, SAYS(QA "|value 2|inf|finite")),
    ROW(ADD, "blk.0.attn_norm.weight", .dim = { 0, 4 },
        SAYS("blk.0.attn_norm.weight.lora_a|not a matrix")),
    ROW(ADD, "blk.0.ssm_conv1d.weight", .dim = { 0, 4 },
        SAYS("blk.0.ssm_conv1d.weight.lora_a|not a matrix")),
    ROW(ADD, "blk.0.ssm_a", .dim = { 0, 4 }, SAYS("blk.0.ssm_a.lora_a|not a matrix")),
    ROW(ADD, "token_embd.weight", .dim = { 0, 4 }, SAYS("token_embd.weight|embedding")),
    ROW(ADD, "blk.0.ssm_a.delta", .dim = { 5 }, SAYS("blk.0.ssm_a.delta|5|6")),
    ROW(ADD, "blk.0.ssm_norm.weight.delta", .dim = { 16 },
        SAYS("blk.0.ssm_norm.weight.delta|not a gate")),
    ROW(ADD, "blk.3.ssm_a.delta", .dim = { 6 },
        SAYS("blk.3.ssm_a.delta|no blk.3.ssm_a|model.gguf")),
    ROW(FACTOR, NULL, .value = NAN, SAYS("factor|nan")),
    ROW(FACTOR, NULL, .value = -INFINITY, SAYS("factor|-inf")),
    ROW(FACTOR, NULL, .value = 3e38, SAYS("alpha 8|rank 4|3e+38|inf|finite")),
#undef QA
#undef QB
#undef ROW
#undef SAYS
    /* clang-format on */
};

static void edit(struct gguf_build *b, const struct gguf *g, const struct gguf *base,
                 const struct bad *e)
{
    const struct gguf_tensor *t = e->name ? gguf_tensor(g, e->name) : NULL;
    const struct gguf_tensor *x = e->name ? gguf_tensor(base, e->name) : NULL;
    char name[96];
    float v = (float)e->value;
    if (e->edit == SET_STR)
        gb_str(b, e->name, e->text);
    else if (e->edit == SET_F32)
        gb_f32(b, e->name, v);
    else if (e->edit == DROP_KEY)
        CHECK(gb_drop_key(b, e->name));
    else if (e->edit == TOKENS)
        gb_array(b, "adapter.alora.invocation_tokens", GGUF_U32, 2, (uint32_t[]){ 1, 2 });
    else if (e->edit == DROP)
        CHECK(gb_drop_tensor(b, e->name));
    else if (e->edit == RENAME)
        CHECK(gb_rename_tensor(b, e->name, e->text));
    else if (e->edit == SHAPE)
        CHECK(gb_reshape(b, e->name, e->dim[2] > 1 ? 3 : 2, e->dim));
    else if (e->edit == TYPE)
        CHECK(gb_retype(b, e->name, (enum dtype)e->value));
    else if (e->edit == VALUE && CHECK(t)) {
        float *all = test_floats(t);
        all[2] = v;
        gb_tensor(b, t->name, F32, t->n_dim, t->dim, all);
        free(all);
    } else if (e->edit == ADD && e->dim[0]) {
        gb_tensor(b, e->name, F32, 1, e->dim, NULL);
    } else if (e->edit == ADD && CHECK(x)) {
        snprintf(name, sizeof name, "%s.lora_a", x->name);
        gb_tensor(b, name, F32, 2, (uint64_t[]){ x->dim[0], e->dim[1] }, NULL);
        snprintf(name, sizeof name, "%s.lora_b", x->name);
        gb_tensor(b, name, F32, 2, (uint64_t[]){ e->dim[1], x->dim[1] }, NULL);
    }
}

/* The adapter is refused and the message names its file; what was in force stays. */
static void lora_refused(hlm *m, const struct hlm_lora *l, const char *says)
{
    struct hlm_err err = { 0 };
    CHECK_REFUSED(hlm_set_lora(m, l, 1, &err), err, says);
    CHECK_SAYS(err.msg, l->path);
}

static void test_refused(void)
{
    static const struct lora_made whole = {
        .name = "whole.gguf", .rank = 4, .type = F32, .alpha = 8, .seed = 1, .deltas = true
    };
    struct hlm_err err = { 0 };
    int32_t id[N_TOK];
    test_case("train/qwen35: a sound adapter to edit");
    hlm *m = hlm_test_open(fixture("train/qwen35/model.gguf"));
    if (!m)
        return;
    uint64_t n_logit = (uint64_t)N_TOK * hlm_get_info(m).n_vocab;
    made_up(id, hlm_get_info(m).n_vocab);
    const char *sound = write_adapter(hlm_test_file(m), &whole), *path = test_scratch("bad.gguf");
    CHECK_OK(hlm_set_lora(m, &(struct hlm_lora){ sound, 1 }, 1, &err), err);
    float *before = read_logits(m, id, N_TOK, NULL, 0);
    struct gguf *g = gguf_open(sound, &err);
    for (uint32_t i = 0; i < ARRAY_LEN(bads) && g; i++) {
        const struct bad *e = &bads[i];
        float factor = e->edit == FACTOR ? (float)e->value : 1;
        test_case("refused: %s %s", e->name ? e->name : "", e->text ? e->text : e->says);
        struct gguf_build *b = gb_from(sound, &err);
        edit(b, g, hlm_test_file(m), e);
        CHECK_OK(gb_write(b, path, &err), err);
        lora_refused(m, &(struct hlm_lora){ path, factor }, e->says);
        gb_free(b);
    }
    gguf_close(g);

    test_case("refused: an adapter of another model of the family");
    struct gguf *base = gguf_open(fixture("qwen35/base/model-f32.gguf"), &err);
    if (CHECK_OK(base != NULL, err))
        lora_refused(m, &(struct hlm_lora){ write_adapter(base, &whole), 1 },
                     "whole.gguf|expected|model.gguf");
    gguf_close(base);
    test_case("refused: no file, no GGUF, no tensor");
    lora_refused(m, &(struct hlm_lora){ "/nowhere/a.gguf", 1 }, "No such file");
    CHECK_OK(file_write_atomic(path, "GGML", 4, &err), err);
    lora_refused(m, &(struct hlm_lora){ path, 1 }, "header");
    struct gguf_build *b =
        make_adapter(hlm_test_file(m), &(struct lora_made){ .rank = 1, .only = "nothing" });
    CHECK_OK(gb_write(b, path, &err), err);
    lora_refused(m, &(struct hlm_lora){ path, 1 }, "no tensors");
    gb_free(b);
    test_case("refused: while a session is alive");
    hlm_session *s = hlm_test_session(m, (struct hlm_session_params){ .n_ctx = 8 });
    CHECK_REFUSED(hlm_set_lora(m, NULL, 0, &err), err, "session");
    hlm_session_destroy(s);

    test_case("after all that the first adapter is still in force");
    float *after = read_logits(m, id, N_TOK, NULL, 0);
    CHECK(same_bits(after, before, n_logit));
    free(before);
    free(after);
    hlm_test_close(m);
}

struct heard {
    uint32_t n;
    char last[512];
};

static void hear(void *user, enum hlm_log_level level, const char *msg)
{
    struct heard *h = user;
    if (level == HLM_LOG_WARN) {
        h->n++;
        snprintf(h->last, sizeof h->last, "%s", msg);
    }
}

/* Draft blocks and norms are left out with a warning each, and change nothing. */
static void test_left_out(const char *model)
{
    struct hlm_err err = { 0 };
    struct heard h = { 0 };
    char draft[32];
    int32_t id[N_TOK];
    const char *path = test_scratch("left_out.gguf");
    test_case("%s: draft blocks and norms are left out", model);
    hlm *m = hlm_test_open(model);
    if (!m)
        return;
    uint64_t n_logit = (uint64_t)N_TOK * hlm_get_info(m).n_vocab;
    made_up(id, hlm_get_info(m).n_vocab);
    CHECK(hlm_get_info(m).has_mtp);
    snprintf(draft, sizeof draft, "blk.%u.attn_", hlm_get_info(m).n_layer);
    float *before = read_logits(m, id, N_TOK, NULL, 0);
    struct lora_made how = {
        .name = "", .rank = 4, .type = F32, .alpha = 8, .seed = 1, .only = draft
    };
    struct gguf_build *b = make_adapter(hlm_test_file(m), &how);
    CHECK_OK(gb_write(b, path, &err), err);
    test_log(hear, &h);
    CHECK_OK(hlm_set_lora(m, &(struct hlm_lora){ path, 1 }, 1, &err), err);
    test_log(NULL, NULL);
    CHECK_EQ(h.n, 1);
    CHECK_SAYS(h.last, path);
    CHECK_SAYS(h.last, "draft");
    gb_tensor(b, "blk.0.attn_norm.weight", F32, 1, (uint64_t[]){ 8 }, NULL);
    CHECK_OK(gb_write(b, path, &err), err);
    test_log(hear, &h);
    CHECK_OK(hlm_set_lora(m, &(struct hlm_lora){ path, 1 }, 1, &err), err);
    test_log(NULL, NULL);
    CHECK_MSG(h.n == 3, "%u warnings: %s", h.n - 1, h.last);
    float *after = read_logits(m, id, N_TOK, NULL, 0);
    CHECK(same_bits(after, before, n_logit));
    gb_free(b);
    free(before);
    free(after);
    hlm_test_close(m);
}

/* Also in a Nemotron-H file that does not count its draft block. */
static void test_left_out_uncounted(void)
{
    struct hlm_err err = { 0 };
    char path[256];
    struct gguf_build *b = gb_from(fixture("nemotron_h_moe/base/model-f32.gguf"), &err);
    snprintf(path, sizeof path, "%s", test_scratch("uncounted.gguf"));
    if (CHECK_OK(b != NULL, err) && CHECK(gb_drop_key(b, "nemotron_h_moe.nextn_predict_layers")) &&
        CHECK_OK(gb_write(b, path, &err), err))
        test_left_out(path);
    gb_free(b);
}

/* The old layout of qwen3next: q, k, v and z in one tensor, interleaved by K head; on a quantised
 * base. */
static void test_interleaved(void)
{
    static const struct lora_made how = { .name = "in.gguf",
                                          .rank = 5,
                                          .type = F16,
                                          .alpha = 8,
                                          .seed = 4,
                                          .deltas = true,
                                          .only = "blk." };
    struct hlm_err err = { 0 };
    const char *path = test_scratch("ssm_in.gguf");
    test_case("qwen3next/k256/model-q4_k_m.gguf with ssm_in, experts and all");
    struct gguf_build *b = ssm_in_build(fixture("qwen3next/k256/model-q4_k_m.gguf"), &err);
    hlm *m = CHECK_OK(b && gb_write(b, path, &err), err) ? hlm_test_open(path) : NULL;
    if (m)
        check_merged(m, &(struct hlm_lora){ write_adapter(hlm_test_file(m), &how), 0.5f }, 1);
    hlm_test_close(m);
    gb_free(b);
}

void test_lora(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(trains); i++)
        test_train(&trains[i]);
    test_everything("train/qwen35/model.gguf");
    test_everything("train/qwen3next/model.gguf");
    test_everything("train/nemotron_h_moe/model.gguf");
    test_everything("train/step35/model.gguf");
    test_interleaved();
    test_saved_session();
    test_cannot_be_set();
    test_refused();
    test_left_out(fixture("qwen35/base/model-f32.gguf"));
    test_left_out_uncounted();
}
