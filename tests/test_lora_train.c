/* test_lora_train: adapters that are trained: where each of their numbers is, compared with the
 * stacks on the device; which matrices a target means; fresh adapters; adapters written to files.
 *
 * Of the models only names and shapes are loaded, for every family. */
#include "session/session.h"
#include "lora/lora_make.h"
#include "gguf_build.h"
#include "hlm_test.h"
#include "ssm_in.h"

#include <math.h>
#include <stdlib.h>

/* A base model, and an adapter for it in memory. */
struct adapter_rig {
    struct gguf *file;
    struct model *model;
    uint8_t *bytes;
    uint64_t n_bytes;
};

static bool adapter_rig_open(struct adapter_rig *r, const char *path, bool draft)
{
    struct hlm_err err = { 0 };
    struct gpu *g = test_gpu();
    *r = (struct adapter_rig){ .file = g ? gguf_open(path, &err) : NULL };
    r->model = r->file ? model_load(g, r->file, draft, &err) : NULL;
    return CHECK_OK(r->model != NULL, err);
}

static void adapter_rig_close(struct adapter_rig *r)
{
    free(r->bytes);
    model_unload(r->model);
    gguf_close(r->file);
}

/* A fresh adapter for `words` with all numbers random, those of B too. */
static bool rig_make(struct adapter_rig *r, const char *words, uint32_t rank)
{
    struct hlm_err err = { 0 };
    struct rng rng = { 5 };
    struct lora_targets t;
    struct lora_fresh how = { .rank = rank, .alpha = 8, .seed = 1 };
    if (!CHECK_OK(lora_find_targets(&r->model->base, words, &t, &err), err))
        return false;
    free(r->bytes);
    r->bytes = lora_make(&r->model->base, &t, &how, &r->n_bytes, &err);
    free(t.t);
    struct gguf *g = r->bytes ? gguf_parse(r->bytes, r->n_bytes, "made.gguf", &err) : NULL;
    for (uint64_t i = 0; g && i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *x = gguf_tensor_at(g, i);
        float *v = (float *)(void *)(r->bytes + (x->data - r->bytes));
        for (uint64_t k = 0; k < x->n_elem; k++)
            v[k] = (float)rng_normal(&rng);
    }
    bool ok = CHECK_OK(g != NULL, err);
    gguf_close(g);
    return ok;
}

static struct lora_set *rig_set(struct adapter_rig *r, bool train)
{
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_parse(r->bytes, r->n_bytes, "made.gguf", &err);
    struct lora_file *f = lora_file_check(g, 1, &r->model->base, &err);
    struct lora_set *s = f ? lora_set_create(NULL, &r->model->base, &f, 1, train, &err) : NULL;
    CHECK_OK(s != NULL, err);
    return s;
}

/* ---- where numbers stand ---------------------------------------------------------------- */

/* The content of the device's arena as made from the stacks, and as made from the parameters. */
struct mirror {
    float *v;
    uint8_t *seen;
    uint64_t n;
};

static struct mirror mirror_new(uint64_t n)
{
    return (struct mirror){ test_room(n, sizeof(float)), test_room(n, 1), n };
}

static void mirror_free(struct mirror *m)
{
    free(m->v);
    free(m->seen);
}

/* With the set, the struct lora of each matrix comes into force. */
static void from_stacks(const struct lora_set *s, const struct lora_base *b, struct mirror *m)
{
    for (uint64_t i = 0; i < b->n_matrix; i++) {
        const struct lora *l = b->matrix[i].w->lora;
        for (uint32_t k = 0; l && k < 2; k++) {
            const linear *w = k ? &l->b : &l->a;
            for (uint64_t r = 0; r < (uint64_t)w->n_out * w->n_expert; r++) {
                uint64_t at = (w->offset + 16ull * w->row_q * r) / sizeof(float);
                if (CHECK(at + w->n_in <= m->n))
                    (k ? lora_row_b : lora_row_a)(s, i, r, m->v + at);
            }
        }
    }
}

static void from_params(const struct lora_set *s, const struct gguf *g, struct mirror *m)
{
    uint64_t n_number = 0, n_file = 0;
    for (uint64_t i = 0; i < lora_n_param(s); i++) {
        struct lora_param p = lora_param(s, i);
        const struct gguf_tensor *t = gguf_tensor(g, p.name);
        if (!CHECK(t && t->n_elem == p.n * p.n_row && p.dim[0] == t->dim[0] &&
                   p.dim[1] == t->dim[1] && p.dim[2] == t->dim[2] && p.n_dim == t->n_dim))
            return;
        float *v = test_floats(t);
        for (uint64_t r = 0; r < p.n_row; r++) {
            uint64_t at = lora_param_at(s, i, r) / sizeof(float);
            CHECK(lora_param_at(s, i, r) % 16 == 0);
            for (uint32_t k = 0; k < p.n && CHECK(at + p.n <= m->n); k++) {
                CHECK_MSG(!m->seen[at + k]++, "%s: row %llu stands where another does", p.name,
                          (unsigned long long)r);
                m->v[at + k] = p.scale * v[r * p.n + k];
            }
        }
        free(v);
        n_number += t->n_elem;
    }
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++)
        n_file += gguf_tensor_at(g, i)->n_elem;
    CHECK_EQ(n_number, n_file);
}

/* Stacks that are shared in another way have the same products: B A of some rows, in double. */
static void same_product(const struct lora_set *x, const struct lora_set *y,
                         const struct lora_base *b)
{
    const struct lora_set *set[2] = { x, y };
    for (uint64_t i = 0; i < b->n_matrix; i++) {
        const linear *w = b->matrix[i].w;
        uint64_t n_row = (uint64_t)w->n_out * w->n_expert;
        double all = 0; /* rows of a stack that have no adapter */
        if (!CHECK(!lora_rank(x, i) == !lora_rank(y, i)) || !lora_rank(x, i))
            continue;
        for (uint64_t r = 0; r < n_row; r += 1 + n_row / 7) {
            double *d[2], most = 0, off = 0;
            for (uint32_t k = 0; k < 2; k++) {
                uint32_t rank = lora_rank(set[k], i);
                float *a = test_room(w->n_in, sizeof *a), *bs = test_room(rank, sizeof *bs);
                d[k] = test_room(w->n_in, sizeof *d[k]);
                lora_row_b(set[k], i, r, bs);
                for (uint32_t j = 0; j < rank; j++) {
                    lora_row_a(set[k], i, r / w->n_out * rank + j, a);
                    for (uint32_t c = 0; c < w->n_in; c++)
                        d[k][c] += (double)bs[j] * (double)a[c];
                }
                free(a);
                free(bs);
            }
            for (uint32_t c = 0; c < w->n_in; c++) {
                most = fmax(most, fabs(d[0][c]));
                off = fmax(off, fabs(d[0][c] - d[1][c]));
            }
            CHECK_MSG(off <= 1e-12 * most, "matrix %llu row %llu: %g off of %g",
                      (unsigned long long)i, (unsigned long long)r, off, most);
            all += most;
            free(d[0]);
            free(d[1]);
        }
        CHECK(all > 0);
    }
}

/* Every A has one id, and no other A has it. */
static void check_ids(const struct lora_base *b)
{
    for (uint64_t i = 0; i < b->n_matrix; i++)
        for (uint64_t k = 0; k < i; k++) {
            const struct lora *x = b->matrix[i].w->lora, *y = b->matrix[k].w->lora;
            CHECK(!x || !y || (x->id == y->id) == (x->a.offset == y->a.offset));
        }
}

static void test_places(const char *path, const char *words, uint32_t rank, bool draft)
{
    struct adapter_rig r;
    struct hlm_err err = { 0 };
    test_case("%s: every number in one place, rank %u", path, rank);
    if (!adapter_rig_open(&r, path, draft) || !rig_make(&r, words, rank)) {
        adapter_rig_close(&r);
        return;
    }
    struct lora_base *b = &r.model->base;
    struct lora_set *train = rig_set(&r, true), *plain = rig_set(&r, false);
    struct gguf *g = gguf_parse(r.bytes, r.n_bytes, "made.gguf", &err);
    if (train && plain && g) {
        struct lora_base bare = *b; /* gates are left alone */
        bare.n_gate = 0;
        CHECK_OK(lora_set_use(train, test_gpu(), &bare, &err), err);
        uint64_t n = 0;
        for (uint64_t i = 0; i < b->n_matrix; i++) {
            const struct lora *l = b->matrix[i].w->lora;
            CHECK(!l == !lora_rank(train, i));
            if (l)
                n = max_u64(n, (l->b.offset + 16ull * l->b.row_q * l->b.n_out * l->b.n_expert) / 4);
        }
        struct mirror want = mirror_new(n), got = mirror_new(n);
        from_stacks(train, b, &want);
        from_params(train, g, &got);
        struct diff d = diff_f32(got.v, want.v, n);
        CHECK_MSG(!memcmp(got.v, want.v, n * sizeof(float)), "%g off at %llu of %llu", d.max_abs,
                  (unsigned long long)d.at, (unsigned long long)n);
        same_product(train, plain, b);
        check_ids(b);
        mirror_free(&want);
        mirror_free(&got);
        lora_set_use(NULL, test_gpu(), &bare, &err);
    }
    gguf_close(g);
    lora_set_destroy(train);
    lora_set_destroy(plain);
    adapter_rig_close(&r);
}

/* The old layout of the same model has the same groups of matrices: none joins the group of
 * matrices that another op multiplies, with which an adapter on it would share a stack. */
static void check_groups(const char *path, const char *old)
{
    struct adapter_rig a = { 0 }, b = { 0 };
    test_case("qwen3next with ssm_in: groups of matrices");
    if (adapter_rig_open(&a, path, false) && adapter_rig_open(&b, old, false)) {
        const struct lora_base *x = &a.model->base, *y = &b.model->base;
        CHECK_EQ(x->n_matrix, y->n_matrix);
        for (uint64_t i = 0; i < min_u64(x->n_matrix, y->n_matrix); i++)
            CHECK_MSG(x->matrix[i].beside == y->matrix[i].beside, "matrix %llu",
                      (unsigned long long)i);
    }
    adapter_rig_close(&a);
    adapter_rig_close(&b);
}

static void test_all_places(void)
{
    const char *in = test_scratch("places_ssm_in.gguf");
    struct hlm_err err = { 0 };
    test_places(fixture("train/qwen35/model.gguf"), "*", 5, false);
    test_places(fixture("train/qwen35moe-mtp/model.gguf"), "*", 4, false);
    test_places(fixture("train/qwen35moe-mtp/model.gguf"), "attn,mtp", 4, true);
    test_places(fixture("nemotron_h_moe/base/model-f32.gguf"), "*", 2, true);
    test_places(fixture("step35/base/model-f32.gguf"), "mtp,ffn", 3, true);
    test_places(fixture("train/qwen3next/model.gguf"), "*", 3, false);
    test_places(fixture("train/qwen3next/model.gguf"), "blk.*.ssm_ba.weight", 70, false);
    test_places(fixture("train/nemotron_h_moe/model.gguf"), "*", 6, false);
    test_places(fixture("train/step35/model.gguf"), "*", 1, false);
    test_places(fixture("train/step35/model.gguf"), "blk.?.ffn_up_exps.weight,attn_v", 16, false);
    const char *model = fixture("qwen3next/k256/model-q4_k_m.gguf");
    struct gguf_build *b = ssm_in_build(model, &err);
    test_case("qwen3next with ssm_in");
    if (CHECK_OK(b && gb_write(b, in, &err), err)) {
        test_places(in, "linear,experts", 2, false);
        check_groups(model, in);
    }
    gb_free(b);
}

/* ---- in force --------------------------------------------------------------------------- */

static float *logits_of(hlm *m, uint32_t n_tok)
{
    struct hlm_err err = { 0 };
    int32_t id[64];
    uint64_t n_vocab = hlm_get_info(m).n_vocab;
    for (uint32_t i = 0; i < n_tok; i++)
        id[i] = (int32_t)((i * 29 + 3) % n_vocab);
    float *logits = test_room(n_tok * n_vocab, sizeof *logits);
    hlm_session *s = hlm_test_session(
        m, (struct hlm_session_params){ .n_ctx = n_tok, .kv = HLM_KV_F32, .keep_logits = true });
    if (s)
        CHECK_OK(hlm_session_eval(s, id, n_tok, logits, NULL, &err), err);
    hlm_session_destroy(s);
    return logits;
}

static struct lora_set *use(hlm *m, const char *path, bool train)
{
    struct hlm_err err = { 0 };
    struct lora_base *b = &m->model->base;
    struct lora_file *f = lora_file_check(gguf_open(path, &err), 1, b, &err);
    struct lora_set *s = f ? lora_set_create(m->gpu, b, &f, 1, train, &err) : NULL;
    if (CHECK_OK(s && lora_set_use(s, m->gpu, b, &err), err))
        return s;
    lora_set_destroy(s);
    return NULL;
}

/* The last row of every parameter lies on the device as the file has it, times its scale. */
static void check_rows(hlm *m, struct lora_set *s, const char *path)
{
    struct hlm_err err = { 0 };
    struct gguf *file = gguf_open(path, &err);
    for (uint64_t i = 0; file && i < lora_n_param(s); i++) {
        struct lora_param p = lora_param(s, i);
        float *v = test_floats(gguf_tensor(file, p.name)), on[512];
        uint64_t row = p.n_row - 1;
        tensor at = { .arena = lora_arena(s),
                      .offset = lora_param_at(s, i, row),
                      .dtype = F32,
                      .n = p.n,
                      .n_row = 1,
                      .stride = p.n };
        CHECK(p.n <= 512 && gpu_read(m->gpu, at, 0, on, p.n * sizeof *on, &err));
        for (uint32_t k = 0; k < p.n; k++)
            CHECK(on[k] == p.scale * v[row * p.n + k]);
        free(v);
    }
    gguf_close(file);
}

/* A set for training computes what the plain set does, and leaves gates to the trainer. The device
 * holds what the parameters say. */
static void test_in_force(const char *dir)
{
    enum { N_TOK = 40 };
    struct hlm_err err = { 0 };
    const char *with = test_scratch("deltas.gguf");
    char init[96], model[96];
    test_case("%s: a set for training in force", dir);
    snprintf(init, sizeof init, "train/%s/init-lora.gguf", dir);
    snprintf(model, sizeof model, "train/%s/model.gguf", dir);
    hlm *m = hlm_test_open(fixture("%s", model));
    struct gguf_build *build = gb_from(fixture("%s", init), &err);
    if (!m || !CHECK_OK(build != NULL, err)) {
        gb_free(build);
        hlm_test_close(m);
        return;
    }
    struct lora_base *b = &m->model->base;
    const struct gguf_tensor *gate = b->gate[1].t;
    float *shift = test_room(gate->n_elem, sizeof *shift), *got;
    char name[96];
    for (uint64_t i = 0; i < gate->n_elem; i++)
        shift[i] = 0.25f * (float)(i + 1);
    snprintf(name, sizeof name, "%s.delta", gate->name);
    gb_tensor(build, name, F32, 1, &gate->n_elem, shift);
    CHECK_OK(gb_write(build, with, &err), err);
    gb_free(build);
    uint64_t n = (uint64_t)N_TOK * hlm_get_info(m).n_vocab;

    struct lora_set *s = use(m, with, false);
    float *moved = logits_of(m, N_TOK);
    CHECK(lora_set_use(NULL, m->gpu, b, &err));
    lora_set_destroy(s);
    s = use(m, fixture("%s", init), false);
    float *want = logits_of(m, N_TOK);
    lora_set_use(NULL, m->gpu, b, &err);
    lora_set_destroy(s);
    if ((s = use(m, with, true)) != NULL) {
        got = logits_of(m, N_TOK);
        struct diff d = diff_f32(got, want, n), far = diff_f32(moved, want, n);
        test_note("  nmse %.3g; with the gates moved %.3g", d.nmse, far.nmse);
        CHECK_MSG(d.nmse <= 2e-13 && far.nmse > 1e-6, "nmse %.3g; with the gates moved %.3g",
                  d.nmse, far.nmse);
        free(got);
        float delta[64];
        CHECK(gate->n_elem <= 64 && lora_gate_delta(s, gate, delta) &&
              !memcmp(delta, shift, gate->n_elem * sizeof *delta));
        CHECK(!lora_gate_delta(s, b->gate[0].t, delta) && delta[0] == 0);
        check_rows(m, s, with);
        lora_set_use(NULL, m->gpu, b, &err);
        lora_set_destroy(s);
    }
    free(moved);
    free(want);
    free(shift);
    hlm_test_close(m);
}

/* Two adapters, or one with a factor, cannot be trained. */
static void test_refused(void)
{
    struct hlm_err err = { 0 };
    struct adapter_rig r;
    test_case("sets for training: one adapter, no factor");
    if (!adapter_rig_open(&r, fixture("train/qwen35/model.gguf"), false) ||
        !rig_make(&r, "attn", 4)) {
        adapter_rig_close(&r);
        return;
    }
    for (uint32_t n = 1; n <= 2; n++) {
        struct lora_file *f[2];
        for (uint32_t k = 0; k < n; k++)
            f[k] = lora_file_check(gguf_parse(r.bytes, r.n_bytes, "made.gguf", &err),
                                   n == 1 ? 0.5f : 1, &r.model->base, &err);
        CHECK_REFUSED(lora_set_create(NULL, &r.model->base, f, n, true, &err), err,
                      n == 1 ? "made.gguf|factor|0.5" : "2 adapters");
    }
    adapter_rig_close(&r);
}

/* ---- targets ---------------------------------------------------------------------------- */

static const struct words {
    const char *model, *words;
    uint64_t n;       /* how many matrices; 0: the words are refused */
    const char *says; /* in the refusal */
    bool draft;       /* the model is loaded with its draft blocks */
} words[] = {
    /* qwen35 has 4 layers, 3 of them linear attention */
    { "qwen35", "attn", .n = 4 },
    { "qwen35", "linear", .n = 15 },
    { "qwen35", "ffn", .n = 12 },
    { "qwen35", NULL, .n = 31 },
    { "qwen35", "attn,linear,ffn", .n = 31 },
    { "qwen35", "attn_q,attn,attn_gate", .n = 7 },
    { "qwen35", "blk.?.ffn_*.weight", .n = 12 },
    { "qwen35", "output.weight", .n = 1 },
    { "qwen35", "*", .n = 32 },
    { "qwen35", "experts",
      .says = "experts|no matrix|attn|attn_q attn_k attn_v attn_output|linear|attn_qkv attn_gate "
              "ssm_alpha ssm_beta ssm_out|ffn|ffn_gate ffn_up" },
    { "qwen35", "attn,blk.9.*", .says = "blk.9.*" },
    { "qwen35", "token_embd.weight", .says = "token_embd.weight" },
    { "qwen35", "blk.0.attn_norm.weight", .says = "blk.0.attn_norm.weight|no matrix" },
    { "qwen35", "attn,,ffn", .says = "attn,,ffn|empty" },
    { "qwen35", "", .says = "empty" },
    { "qwen3next", "linear", .n = 8 },
    { "qwen3next", "ssm_ba", .n = 2 },
    { "qwen3next", "experts,router,shared", .n = 32 },
    { "nemotron_h_moe", "linear", .n = 4 },
    { "nemotron_h_moe", "attn,shared", .n = 8 },
    { "nemotron_h_moe", NULL, .n = 12 },
    { "step35", "attn", .n = 20 },
    { "step35", "linear", .says = "linear|attn|attn_q attn_k attn_v attn_output attn_gate" },
    { "step35", "ffn", .n = 6 },
    { "qwen35moe-mtp", "attn", .n = 4, .draft = true },
    { "qwen35moe-mtp", "mtp", .n = 11, .draft = true },
    { "qwen35moe-mtp", "router,mtp", .n = 19, .draft = true },
    { "qwen35moe-mtp", "mtp", .says = "mtp|router|ffn_gate_inp" },
};

static void test_words(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(words); i++) {
        const struct words *w = &words[i];
        struct hlm_err err = { 0 };
        struct adapter_rig r;
        struct lora_targets t;
        char path[96];
        test_case("%s: targets %s", w->model, w->words ? w->words : "(usual)");
        snprintf(path, sizeof path, "train/%s/model.gguf", w->model);
        if (adapter_rig_open(&r, fixture("%s", path), w->draft)) {
            bool ok = lora_find_targets(&r.model->base, w->words, &t, &err);
            CHECK_MSG(ok == (w->n > 0) && (!ok || t.n == w->n), "%llu, expected %llu: %s",
                      ok ? (unsigned long long)t.n : 0ull, (unsigned long long)w->n, err.msg);
            if (w->says)
                CHECK_SAYS(err.msg, w->says);
            for (uint64_t k = 1; ok && k < t.n; k++)
                CHECK(t.t[k - 1]->index < t.t[k]->index);
            if (ok)
                free(t.t);
        }
        adapter_rig_close(&r);
    }
}

/* ---- fresh ones ------------------------------------------------------------------------- */

static struct gguf *fresh(struct adapter_rig *r, const char *w, const struct lora_fresh *how,
                          uint8_t **bytes)
{
    struct hlm_err err = { 0 };
    struct lora_targets t;
    struct gguf *g = NULL;
    uint64_t n = 0;
    *bytes = NULL;
    if (CHECK_OK(lora_find_targets(&r->model->base, w, &t, &err), err)) {
        *bytes = lora_make(&r->model->base, &t, how, &n, &err);
        g = *bytes ? gguf_parse(*bytes, n, "fresh.gguf", &err) : NULL;
        CHECK_OK(g != NULL, err);
        free(t.t);
    }
    return g;
}

/* A is uniform within 1 / sqrt(n_in), with the mean and variance of that range; B is zero. */
static void check_start(const struct gguf *g)
{
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        float *v = test_floats(t);
        double sum = 0, sq = 0, most = 0, n = (double)t->n_elem;
        double bound = 1 / sqrt((double)t->dim[0]);
        for (uint64_t k = 0; k < t->n_elem; k++) {
            sum += (double)v[k] / bound;
            sq += (double)v[k] / bound * (double)v[k] / bound;
            most = fmax(most, fabs((double)v[k]) / bound);
        }
        free(v);
        if (test_has_tail(t->name, ".lora_b"))
            CHECK(most == 0);
        else
            CHECK_MSG(most <= 1 && most > 0.97 && fabs(sum / n) < 4 * sqrt(1 / (3 * n)) &&
                          fabs(sq / n - 1 / 3.0) < 4 * sqrt(4 / (45 * n)),
                      "%s: mean %g, mean square %g, largest %g", t->name, sum / n, sq / n, most);
    }
}

static void test_fresh(void)
{
    struct adapter_rig r;
    struct hlm_err err = { 0 };
    struct lora_fresh how = { .rank = 8, .alpha = 12, .seed = 3 }, rs = how, other = how;
    uint8_t *bytes[4];
    float alpha = 0;
    test_case("fresh adapters");
    if (!adapter_rig_open(&r, fixture("train/qwen35moe-mtp/model.gguf"), false)) {
        adapter_rig_close(&r);
        return;
    }
    rs.rslora = true;
    other.seed = 4;
    struct gguf *g[] = { fresh(&r, "attn,experts", &how, &bytes[0]),
                         fresh(&r, "attn", &rs, &bytes[1]), fresh(&r, "attn", &other, &bytes[2]) };
    if (g[0] && g[1] && g[2]) {
        check_start(g[0]);
        gguf_f32(g[0], "adapter.lora.alpha", REQUIRED, &alpha, &err);
        CHECK(alpha == 12);
        gguf_f32(g[1], "adapter.lora.alpha", REQUIRED, &alpha, &err);
        CHECK(fabs((double)alpha - 12 * sqrt(8)) < 1e-5);
        const char *name = "blk.3.attn_k.weight.lora_a";
        const struct gguf_tensor *x = gguf_tensor(g[0], name), *y = gguf_tensor(g[1], name),
                                 *z = gguf_tensor(g[2], name);
        if (CHECK(x && y && z)) {
            CHECK(!memcmp(x->data, y->data, x->n_bytes)); /* whatever the other targets are */
            CHECK(memcmp(x->data, z->data, x->n_bytes) != 0);
            y = gguf_tensor(g[0], "blk.3.attn_v.weight.lora_a");
            CHECK(y && memcmp(x->data, y->data, x->n_bytes) != 0);
        }
    }
    struct lora_file *f = lora_file_check(g[0], 1, &r.model->base, &err);
    CHECK_OK(f != NULL, err);
    lora_file_close(f);
    gguf_close(g[1]);
    gguf_close(g[2]);
    for (uint32_t i = 0; i < 3; i++)
        free(bytes[i]);

    static const struct {
        struct lora_fresh how;
        const char *says;
    } bads[] = {
        { { .rank = 0, .alpha = 1 }, "rank|0|1|4096" },
        { { .rank = 4097, .alpha = 1 }, "rank|4097|1|4096" },
        { { .rank = 4, .alpha = 0 }, "alpha|0" },
        { { .rank = 4, .alpha = NAN }, "alpha|nan" },
    };
    struct lora_targets t = { 0 };
    uint64_t n;
    for (uint32_t i = 0; i < ARRAY_LEN(bads); i++) {
        CHECK_REFUSED(lora_make(&r.model->base, &t, &bads[i].how, &n, &err), err, bads[i].says);
    }
    adapter_rig_close(&r);
}

/* ---- written ---------------------------------------------------------------------------- */

struct source {
    const struct gguf *g;
    bool fails;
};

static bool values_of(void *user, uint64_t i, float *to, struct hlm_err *err)
{
    const struct source *s = user;
    const struct gguf_tensor *t = gguf_tensor_at(s->g, i);
    dtype_to_f32(t->type, t->data, t->n_elem, to);
    return !(s->fails && i == 3) || fail(err, "the device is lost");
}

/* A written adapter equals its source. Where writing fails, the old file stays and nothing else is
 * left. */
static void test_write(void)
{
    struct hlm_err err = { 0 };
    const char *path = test_scratch("written.gguf");
    struct lora_tensor list[256];
    test_case("an adapter written");
    struct gguf *g = gguf_open(fixture("train/qwen35moe-mtp/init-lora.gguf"), &err), *got;
    if (!CHECK_OK(g && gguf_n_tensor(g) <= ARRAY_LEN(list), err))
        return;
    struct source source = { g, false };
    struct lora_write w = { .arch = "qwen35moe",
                            .alpha = 8,
                            .tensor = list,
                            .n_tensor = gguf_n_tensor(g),
                            .values = values_of,
                            .user = &source };
    for (uint64_t i = 0; i < w.n_tensor; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        list[i] = (struct lora_tensor){
            t->name, { (uint32_t)t->dim[0], (uint32_t)t->dim[1], (uint32_t)t->dim[2] }, t->n_dim
        };
    }
    CHECK_OK(lora_write(path, &w, &err), err);
    if (CHECK_OK((got = gguf_open(path, &err)) != NULL, err)) {
        CHECK_EQ(gguf_n_tensor(got), w.n_tensor);
        for (uint64_t i = 0; i < w.n_tensor; i++) {
            const struct gguf_tensor *a = gguf_tensor_at(g, i), *b = gguf_tensor_at(got, i);
            CHECK(!strcmp(a->name, b->name) && a->n_dim == b->n_dim && b->type == F32 &&
                  !memcmp(a->dim, b->dim, sizeof a->dim) && !memcmp(a->data, b->data, a->n_bytes));
        }
        gguf_close(got);
    }
    uint64_t n_before = 0, n_after = 0;
    char *before = file_read(path, 1 << 24, &n_before, &err), *after;
    for (uint32_t nth = 1, left = 0; !left; nth++) {
        file_test_fault(nth, nth % 2);
        bool ok = lora_write(path, &w, &err);
        left = file_test_left();
        file_test_fault(0, false);
        CHECK_MSG(ok == (left > 0), "with the disk full at call %u", nth);
    }
    source.fails = true;
    CHECK_REFUSED(lora_write(path, &w, &err), err, "the device is lost");
    after = file_read(path, 1 << 24, &n_after, &err);
    CHECK(before && after && n_before == n_after && !memcmp(before, after, n_before));
    free(before);
    free(after);
    gguf_close(g);
}

void test_lora_train(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    test_all_places();
    test_in_force("qwen3next");
    test_in_force("nemotron_h_moe");
    test_refused();
    test_words();
    test_fresh();
    test_write();
}
