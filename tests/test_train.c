/* test_train: training on the device against trainfx - the first step's loss, the likelihood of
 * every token, every gradient, the curve and the last adapter; packed, apart and quantised.
 *
 * The reference is float64 PyTorch; the bounds are those that float32 reaches here, measured values
 * beside them. Cases of tests/fixtures/train are run; with --fixtures a folder whose train/ has
 * more of them, all that are there. */
#include "json.h"
#include "train_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* At most: first loss, relative; NMSE of any gradient; a step's loss and norm, relative; NMSE of
 * what any tensor of the adapter has changed by; a token's likelihood, relative to its document's
 * largest. */
struct bounds {
    double loss, grad, curve, norm, final, nll;
};
/* Of f32. Measured: 1.1e-6. */
#define NLL 3e-6

static const struct train_case {
    const char *name, *model, *data, *expected, *adapter;
    struct bounds at_most;
    bool f16;
} cases[] = {
/* clang-format off */
#define CASE(name, quant, data, ...) \
    { name, "model" quant ".gguf", data, "expected" quant, "init-lora.gguf", \
      { __VA_ARGS__, NLL }, false }
/* clang-format on */
#define CASE_F16(name, quant, data, ...)                                                           \
    {                                                                                              \
        name, "model" quant ".gguf", data, "expected" quant, "init-lora.gguf", { __VA_ARGS__ },    \
            true                                                                                   \
    }
    CASE("qwen35", "", "data", 1e-7, 2e-10, 3e-7, 2e-5, 1e-10), /* 2e-8 3e-11 8e-8 8e-7 7e-12 */
    /* 3e-9 2e-11 8e-8 3e-6 3e-11 */
    CASE("qwen35", "-q8_0", "data", 1e-7, 2e-10, 3e-7, 5e-5, 3e-10),
    CASE("qwen3next", "", "data", 1e-7, 2e-10, 3e-7, 5e-4, 4e-10), /* 1e-9 2e-11 8e-8 4e-5 4e-11 */
    /* 3e-9 2e-12 4e-8 2e-7 2e-12 */
    CASE("nemotron_h_moe", "", "data", 1e-7, 2e-11, 3e-7, 2e-5, 3e-11),
    /* 8e-9 2e-12 2e-8 3e-7 1e-11 */
    CASE("nemotron_h_moe", "-q8_0", "data", 1e-7, 2e-11, 3e-7, 2e-5, 1e-10),
    CASE("step35", "", "data", 1e-7, 2e-11, 5e-7, 2e-5, 4e-6), /* 9e-9 2e-12 2e-7 1e-6 4e-7 */
    CASE("qwen35-packed", "", "data", 1e-7, 2e-10, 5e-7, 5e-4, 4e-6),
    CASE("qwen35-packed", "", "data-separate", 1e-7, 2e-10, 5e-7, 5e-4, 4e-6),
    CASE("nemotron_h_moe-packed", "", "data", 1e-7, 2e-10, 5e-7, 5e-4, 4e-6),
    CASE("nemotron_h_moe-packed", "", "data-separate", 1e-7, 2e-10, 5e-7, 5e-4, 4e-6),
    CASE("step35-packed", "", "data", 1e-7, 2e-10, 5e-7, 5e-4, 2e-5),
    CASE("step35-packed", "", "data-separate", 1e-7, 2e-10, 5e-7, 5e-4, 2e-5),
    /* 1e-8 4e-11 4e-7 4e-6 3e-6 */
    CASE("qwen35moe-mtp", "", "data", 1e-7, 2e-10, 1e-6, 4e-5, 1e-5),
    /* 3e-9 3e-11 9e-9 2e-7 4e-8 */
    CASE("qwen35moe-mtp-packed", "", "data", 1e-7, 2e-10, 1e-7, 4e-5, 2e-7),
    CASE("qwen35moe-mtp-packed", "", "data-separate", 1e-7, 2e-10, 1e-7, 4e-5, 2e-7),
    { "qwen35moe-mtp",
      "model.gguf",
      "data",
      "expected-mtp-adapter",
      "init-lora-mtp.gguf",
      { 1e-7, 2e-10, 3e-7, 2e-5, 2e-9, NLL },
      false }, /* 2e-8 4e-11 7e-8 1e-6 6e-10 */
    /* By f16 operands: three times what rounded weights alone cost (trainfx/README.md) of the files
     * it has that for; norms and tokens as measured. Experts chosen otherwise than in double
     * precision make the curves of the later two. */
    /* 1e-5 4e-5 8e-5 1e-3 1e-4 5e-4 */
    CASE_F16("qwen35", "", "data", 1.2e-4, 6e-5, 3e-4, 5e-3, 6e-4, 3e-3),
    /* 2e-5 7e-5 8e-5 2e-3 3e-4 7e-4 */
    CASE_F16("qwen35", "-q8_0", "data", 1e-4, 2e-4, 3e-4, 8e-3, 1e-3, 3e-3),
    /* 9e-6 5e-6 2e-3 1e-2 1e-3 3e-4 */
    CASE_F16("nemotron_h_moe", "", "data", 3e-5, 6e-5, 6e-3, 5e-2, 2.1e-3, 2e-3),
    /* 3e-5 6e-5 6e-3 5e-2 2e-3 9e-4 */
    CASE_F16("qwen35moe-mtp", "", "data", 1e-4, 2e-4, 2e-2, 0.2, 6e-3, 3e-3),
#undef CASE_F16
#undef CASE
};

/* An open case: the trainer, its rows and what must come out. */
struct run {
    struct train_run r;
    struct trainer *t;
    struct data_rows rows;
    struct hlm_train_options o;
    json_t *want;
    uint8_t *bin;
    uint64_t n_bin;
    struct hlm_err err;
};

static bool open_run(struct run *r, struct gpu *g, const struct train_case *c)
{
    char path[128];
    bool has = false;
    *r = (struct run){ 0 };
    snprintf(path, sizeof path, "train/%s/%s.json", c->name, c->expected);
    r->want = fixture_json(path);
    r->bin = fixture_read(&r->n_bin, "train/%s/%s.bin", c->name, c->expected);
    if (!r->want || !r->bin ||
        !train_run_model(&r->r, g, fixture("train/%s/%s", c->name, c->model), true) ||
        !train_run_adapter(&r->r, fixture("train/%s/%s", c->name, c->adapter)))
        return false;
    if (!data_read(fixture("train/%s/%s.json", c->name, c->data), r->r.m->n_vocab, &r->rows, &r->o,
                   &has, &r->err))
        return FAIL("%s", r->err.msg);
    struct train_params p = { .train_lora = r->o.train_lora,
                              .train_gates = r->o.train_gates,
                              .mtp_factor = r->o.mtp_factor,
                              .f16 = c->f16 };
    train_run_room(&p, &r->rows);
    bool ok = train_run_trainer(&r->r, &p);
    r->t = r->r.t;
    return ok;
}

static void close_run(struct run *r)
{
    train_run_close(&r->r);
    data_rows_free(&r->rows);
    json_decref(r->want);
    free(r->bin);
}

static const float *wanted(const struct run *r, const char *name, uint64_t n)
{
    return json_expected(r->want, r->bin, r->n_bin, name, n);
}

/* The worst NMSE of all tensors trained, got less `before` (NULL: as it is), against PREFIX/NAME
 * less before. */
static double worst(struct run *r, enum train_what what, const char *prefix, float *const *before,
                    double at_most)
{
    double most = 0;
    for (uint64_t i = 0; i < train_n_param(r->t); i++) {
        struct train_param p = train_param(r->t, i);
        char name[160];
        snprintf(name, sizeof name, "%s/%s", prefix, p.name);
        const float *want = wanted(r, name, p.n);
        float *got = mem_alloc(p.n, sizeof *got);
        double *change = mem_alloc(p.n, sizeof *change);
        if (want && got && change &&
            CHECK_MSG(train_get(r->t, what, i, got, &r->err), "%s", r->err.msg)) {
            double off = 0, all = 0;
            for (uint64_t k = 0; k < p.n; k++) {
                double from = before ? (double)before[i][k] : 0;
                off += pow((double)got[k] - (double)want[k], 2);
                all += pow((double)want[k] - from, 2);
            }
            CHECK_MSG(off <= at_most * all, "%s: nmse %.3g, at most %.3g", name, off / all,
                      at_most);
            most = fmax(most, off / all);
        }
        free(got);
        free(change);
    }
    return most;
}

/* nll of every counted target, relative to its document's largest. */
static double worst_nll(struct run *r, const struct data_row *row, const char *kind,
                        const double *nll)
{
    double most = 0;
    for (uint32_t d = 0; d < row->n_doc; d++) {
        char name[64];
        double top = 0;
        snprintf(name, sizeof name, "nll/%s/%llu", kind, (unsigned long long)row->document[d]);
        const float *want = wanted(r, name, row->doc_len[d]);
        for (uint32_t i = 0; want && i < row->doc_len[d]; i++)
            top = fmax(top, fabs((double)want[i]));
        for (uint32_t i = 0; want && i < row->doc_len[d]; i++) {
            uint32_t at = row->doc_start[d] + i;
            if (nll[at] != 0)
                most = fmax(most, fabs(nll[at] - (double)want[i]) / top);
        }
    }
    return most;
}

/* All rows; their sum, and the worst likelihood where it is asked for. */
static bool all_rows(struct run *r, uint64_t n, uint64_t step, struct train_sums *sum, double *most)
{
    bool ok = true;
    *sum = (struct train_sums){ 0 };
    for (uint32_t i = 0; ok && i < r->rows.n_row; i++) {
        const struct data_row *row = &r->rows.row[i];
        double *nll = mem_alloc(row->n, sizeof *nll), *mtp = mem_alloc(row->n, sizeof *mtp);
        HLM_ASSERT(nll && mtp);
        ok = CHECK_MSG(train_row(r->t, row, (struct row_job){ 1 / (double)n, step, i, nll, mtp },
                                 sum, &r->err),
                       "%s", r->err.msg);
        if (ok && most) {
            *most = fmax(*most, worst_nll(r, row, "main", nll));
            if (r->o.mtp_factor != 0)
                *most = fmax(*most, worst_nll(r, row, "mtp", mtp));
        }
        free(nll);
        free(mtp);
    }
    return ok;
}

static double loss_of(const struct run *r, const struct train_sums *s)
{
    return (s->main + r->o.mtp_factor * s->mtp) / (double)s->n;
}

/* Every step takes all rows, as the main runs do. */
static void run_steps(struct run *r, const struct bounds *b, float *const *before)
{
    char path[64];
    snprintf(path, sizeof path, "runs/%s/steps", r->o.run);
    json_t *steps = json_at(r->want, path);
    double curve = 0, norm_off = 0, nll = 0, loss_off = 0, grad = 0;
    if (!CHECK(json_array_size(steps) >= 5))
        return;
    for (uint32_t i = 0; i < json_array_size(steps); i++) {
        json_t *want = json_array_get(steps, i);
        uint64_t n = (uint64_t)json_integer_value(json_object_get(want, "n"));
        double want_loss = json_number_value(json_object_get(want, "loss"));
        double want_norm = json_number_value(json_object_get(want, "grad_norm")), norm;
        struct train_sums sum;
        if (!all_rows(r, n, i + 1, &sum, i ? NULL : &nll) || !CHECK_EQ(sum.n, n))
            return;
        double off = fabs(loss_of(r, &sum) / want_loss - 1);
        if (i == 0) {
            loss_off = off;
            CHECK_MSG(off <= b->loss, "loss %.12g, expected %.12g", loss_of(r, &sum), want_loss);
            CHECK_MSG(nll <= b->nll, "likelihood of a token: %.3g off, at most %.3g", nll, b->nll);
            grad = worst(r, TRAIN_GRAD, "grad", NULL, b->grad);
        }
        struct adam_update u = {
            .lr = r->o.lr,
            .beta1 = r->o.beta1,
            .beta2 = r->o.beta2,
            .eps = r->o.eps,
            .decay = r->o.weight_decay,
            .decay_gates = r->o.weight_decay_gates,
            .clip_norm = r->o.clip_norm,
            .bias_correction = r->o.bias_correction,
            .step = i + 1,
        };
        if (!CHECK_MSG(train_update(r->t, &u, &norm, &r->err), "%s", r->err.msg))
            return;
        curve = fmax(curve, off);
        norm_off = fmax(norm_off, fabs(norm / want_norm - 1));
        CHECK_MSG(off <= b->curve, "step %u: loss %.12g, expected %.12g", i + 1, loss_of(r, &sum),
                  want_loss);
        CHECK_MSG(fabs(norm / want_norm - 1) <= b->norm, "step %u: norm %.9g, expected %.9g", i + 1,
                  norm, want_norm);
    }
    snprintf(path, sizeof path, "%s/final", r->o.run);
    double final = worst(r, TRAIN_VALUE, path, before, b->final);
    test_note("  loss %.2g nll %.2g gradient %.2g curve %.2g norm %.2g final %.2g", loss_off, nll,
              grad, curve, norm_off, final);
}

static void test_case_of(struct gpu *g, const struct train_case *c)
{
    struct run r;
    test_case("train/%s/%s, %s%s", c->name, c->model, c->data, c->f16 ? ", f16" : "");
    if (open_run(&r, g, c)) {
        uint64_t n = train_n_param(r.t);
        float **before = mem_alloc(n, sizeof *before);
        HLM_ASSERT(before);
        bool ok = true;
        for (uint64_t i = 0; i < n; i++) {
            before[i] = mem_alloc(train_param(r.t, i).n, sizeof **before);
            HLM_ASSERT(before[i]);
            ok =
                ok && CHECK_MSG(train_get(r.t, TRAIN_VALUE, i, before[i], &r.err), "%s", r.err.msg);
        }
        if (ok)
            run_steps(&r, &c->at_most, before);
        for (uint64_t i = 0; i < n; i++)
            free(before[i]);
        free(before);
    }
    close_run(&r);
}

/* By f16 a quantised file differs from the others in what loads its blocks alone, and that is
 * test_ops_linear's and, forward and back, test_ops_bwd's (experts in f16): with --all. */
static bool left_out(const struct train_case *c)
{
    return c->f16 && strcmp(c->model, "model.gguf") != 0 && !test_all();
}

void test_train(void)
{
    struct gpu *g = test_gpu();
    for (uint32_t i = 0; g && i < ARRAY_LEN(cases); i++)
        if (!left_out(&cases[i]) &&
            fixture_has("train/%s/%s.bin", cases[i].name, cases[i].expected))
            test_case_of(g, &cases[i]);
}
