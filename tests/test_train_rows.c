/* test_train_rows: properties of training that need no reference. A training row of many documents
 * gives the results of those documents alone, whatever stands beside them and however long a chunk
 * is; the chunked recurrences give those of the serial ones; the gradient is the slope of the loss.
 * One model of each family, with its draft blocks. */
#include "drafts.h"
#include "hlm_test.h"
#include "serial.h"
#include "train_run.h"

#include <math.h>
#include <stdlib.h>

/* The serial form of training is chunks of one token. */
/* NMSE of any parameter's gradient: of a packed row against its documents apart; of chunks of any
 * length against the serial form. */
static const struct bound apart_off = { .most = 4e-12, .measured = 3.9e-13 };
static const struct bound chunks_off = { .most = 2e-10, .measured = 5.2e-11 };
/* NMSE of all likelihoods: of chunks and of the serial kernels against the serial form. */
static const struct bound nll_off = { .most = 1e-12, .measured = 8.7e-14 };
/* Relative difference between slope and gradient. */
static const struct bound slope_bound = { .most = 1e-2, .measured = 5.5e-4 };

static const struct train_rows_family {
    const char *path;
    bool recurrent; /* it has chunks, and gates to train */
    double mtp;
    uint32_t n_draft; /* draft blocks; more than one are made of the file's one (drafts.h) */
} families[] = {
    { "qwen35/base/model-f32.gguf", true, 0.3, 1 },
    { "train/qwen35moe-mtp/model.gguf", true, 0.3, 1 },
    { "qwen3next/base/model-f32.gguf", true, 0, 0 },
    { "nemotron_h/base/model-f32.gguf", true, 0, 0 },
    { "nemotron_h_moe/base/model-f32.gguf", true, 0.3, 1 },
    { "step35/base/model-f32.gguf", false, 0.3, 3 },
};

static bool open_family(struct train_run *r, struct gpu *g, const struct train_rows_family *f)
{
    const char *path = drafts_file(f->path, f->n_draft);
    return path && train_run_model(r, g, path, f->mtp != 0) && train_run_fresh(r, "blk.*.weight");
}

/* The likelihoods of all documents and those of the draft blocks, by document and token. */
struct rows_run {
    struct data_rows rows;
    double *nll, *mtp;
    float *grad;
    uint64_t n_grad;
    struct train_sums sums;
};

static void rows_run_free(struct rows_run *o)
{
    data_rows_free(&o->rows);
    free(o->nll);
    free(o->mtp);
    free(o->grad);
}

/* Runs all training rows forward and back, in chunks of so many tokens. */
static bool train_run_rows(struct train_run *r, const struct train_rows_family *f,
                           const struct data_set *s, const uint32_t *order, uint32_t row_length,
                           uint32_t chunk, struct rows_run *o)
{
    struct train_params p = {
        .train_lora = true, .train_gates = f->recurrent, .mtp_factor = f->mtp, .chunk = chunk
    };
    *o = (struct rows_run){ .nll = test_room(s->n_id, sizeof *o->nll),
                            .mtp = test_room(s->n_id, sizeof *o->mtp) };
    if (!CHECK_OK(data_pack(&o->rows, s, order, row_length, 0, &r->err), r->err))
        return false;
    train_run_room(&p, &o->rows);
    if (!train_run_trainer(r, &p))
        return false;
    train_run_stir(r, 7, 0.05f);
    bool ok = true;
    for (uint32_t i = 0; ok && i < o->rows.n_row; i++) {
        const struct data_row *row = &o->rows.row[i];
        double *nll = test_room(row->n, sizeof *nll), *mtp = test_room(row->n, sizeof *mtp);
        ok = CHECK_OK(
            train_row(r->t, row, (struct row_job){ 0.01, 1, i, nll, mtp }, &o->sums, &r->err),
            r->err);
        for (uint32_t d = 0; d < row->n_doc; d++) {
            uint64_t at = s->doc[row->document[d]].at, n = row->doc_len[d] * sizeof *nll;
            memcpy(o->nll + at, nll + row->doc_start[d], n);
            memcpy(o->mtp + at, mtp + row->doc_start[d], n);
        }
        free(nll);
        free(mtp);
    }
    o->grad = train_run_all(r, TRAIN_GRAD, &o->n_grad);
    return ok;
}

static double nmse_f64(const double *got, const double *want, uint64_t n)
{
    double off = 0, all = 0;
    for (uint64_t i = 0; i < n; i++) {
        off += pow(got[i] - want[i], 2);
        all += pow(want[i], 2);
    }
    return off == 0 ? 0 : off / all;
}

/* The difference between the likelihoods of two runs, including those of the draft blocks. */
static double nlls_off(const struct rows_run *a, const struct rows_run *b, uint64_t n)
{
    return test_worse(nmse_f64(a->nll, b->nll, n), nmse_f64(a->mtp, b->mtp, n));
}

static bool same_nlls(const struct rows_run *a, const struct rows_run *b, uint64_t n)
{
    return !memcmp(a->nll, b->nll, n * sizeof *a->nll) &&
           !memcmp(a->mtp, b->mtp, n * sizeof *a->mtp);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Runs all documents with the kernels that decode, under the adapter and gates in force. */
static bool run_serial(struct train_run *r, const struct data_set *s, struct rows_run *o)
{
    struct serial run;
    bool ok = serial_open(&run, r->m, &r->err);
    *o = (struct rows_run){ .nll = test_room(s->n_id, sizeof *o->nll),
                            .mtp = test_room(s->n_id, sizeof *o->mtp) };
    for (uint32_t i = 0; ok && i < s->n_doc; i++) {
        uint64_t at = s->doc[i].at;
        ok = serial_document(&run, s->ids + at, s->mask + at, s->doc[i].n, o->nll + at, o->mtp + at,
                             &r->err);
    }
    serial_close(&run);
    return CHECK_OK(ok, r->err);
}

/* Compares the gradients of two runs, parameter by parameter. */
static void check_grads(struct train_run *r, const struct rows_run *a, const struct rows_run *b,
                        const char *what, struct bound bound)
{
    const char *name;
    char text[200];
    double off = train_run_worst(r, a->grad, b->grad, &name);
    snprintf(text, sizeof text, "%s: gradient of %s", what, name);
    CHECK_WITHIN(text, off, bound);
}

/* Compares a packed row in chunks of so many tokens with the serial form and, for lengths that
 * training uses, with the documents apart and among other neighbours. */
static bool test_chunk(struct train_run *r, const struct train_rows_family *f,
                       const struct data_set *s, uint32_t row_length, uint32_t chunk,
                       const struct rows_run *serial)
{
    struct rows_run packed, other;
    uint32_t order[32];
    char what[48];
    HLM_ASSERT(s->n_doc <= ARRAY_LEN(order));
    bool ok = train_run_rows(r, f, s, NULL, row_length, chunk, &packed);
    if (ok) {
        CHECK((packed.sums.mtp > 0) == (f->mtp > 0));
        snprintf(what, sizeof what, "chunks of %u, serial form", chunk);
        check_grads(r, &packed, serial, what, chunks_off);
        CHECK_WITHIN("likelihoods", nlls_off(&packed, serial, s->n_id), nll_off);
    }
    if (ok && chunk % 32 == 0 && chunk != 48) {
        snprintf(what, sizeof what, "chunks of %u, documents apart", chunk);
        ok = train_run_rows(r, f, s, NULL, 0, chunk, &other);
        if (ok)
            check_grads(r, &other, &packed, what, apart_off);
        CHECK_MSG(ok && same_nlls(&packed, &other, s->n_id), "%s: some loss has other bits", what);
        rows_run_free(&other);
    }
    if (ok && chunk == 64) {
        for (uint32_t i = 0; i < s->n_doc; i++)
            order[i] = (7 * i + 5) % s->n_doc;
        ok = train_run_rows(r, f, s, order, row_length, chunk, &other);
        CHECK_MSG(ok && same_nlls(&packed, &other, s->n_id),
                  "among other neighbours, some token's loss has other bits");
        rows_run_free(&other);
    }
    rows_run_free(&packed);
    return ok;
}

static void test_packed(struct gpu *g, const struct train_rows_family *f)
{
    /* 1, 2, C - 1, C, C + 1 and 3 C + 5 tokens, for each length C of a chunk that there is */
    static const uint32_t chunks[] = { 64, 48, 32, 16 };
    static const uint32_t len[] = { 1,   2,  15, 16, 17,  53, 31, 32, 33,
                                    101, 47, 48, 49, 149, 63, 64, 65, 197 };
    enum { ROW = 990 }; /* 983 tokens, and padding */
    struct train_run r;
    struct data_set s;
    test_case("%s: a row of documents, the documents apart, chunks of any length", f->path);
    if (open_family(&r, g, f)) {
        struct rows_run serial, kernels;
        double kernels_off = 1;
        train_run_documents(&s, len, ARRAY_LEN(len), r.m->n_vocab);
        bool ok = train_run_rows(&r, f, &s, NULL, ROW, 1, &serial);
        if (ok && run_serial(&r, &s, &kernels)) {
            kernels_off = nmse_f64(kernels.nll, serial.nll, s.n_id);
            if (r.m->n_draft == 1) /* the trainer reports the mean of several */
                kernels_off = test_worse(kernels_off, nmse_f64(kernels.mtp, serial.mtp, s.n_id));
            rows_run_free(&kernels);
        }
        CHECK_WITHIN("likelihoods of the serial kernels", kernels_off, nll_off);
        /* an ordinary run has every length for one family of either recurrence */
        bool every = test_all() || strstr(f->path, "qwen35/") || strstr(f->path, "nemotron_h/");
        for (uint32_t i = 0; ok && i < (f->recurrent ? ARRAY_LEN(chunks) : 1); i += every ? 1 : 3)
            ok = test_chunk(&r, f, &s, ROW, chunks[i], &serial);
        rows_run_free(&serial);
        data_set_free(&s);
    }
    train_run_close(&r);
}

/* ---- slopes ---------------------------------------------------------------------------------- */

/* The groups of parameters, by a part of their names. */
static const char *const groups[] = { "attn_", "ssm_", "ffn_", "_exps", ".delta", "nextn." };
static bool in_group(const char *name, uint32_t group)
{
    if (group == 2 && strstr(name, "_exps"))
        return false;
    if (group == 1 && strstr(name, ".delta"))
        return false;
    return strstr(name, groups[group]) != NULL;
}

/* The loss with every value moved by h * v. */
static double loss_at(struct train_run *r, const struct data_row *row, double mtp,
                      const float *value, const float *v, double h)
{
    struct train_sums sums = { 0 };
    uint64_t at = 0;
    bool ok = true;
    for (uint64_t i = 0; ok && i < train_n_param(r->t); i++) {
        uint64_t n = train_param(r->t, i).n;
        float *moved = mem_alloc(n, sizeof *moved);
        HLM_ASSERT(moved);
        for (uint64_t k = 0; k < n; k++)
            moved[k] = (float)((double)value[at + k] + h * (double)v[at + k]);
        ok = train_put(r->t, TRAIN_VALUE, i, moved, &r->err);
        free(moved);
        at += n;
    }
    ok = ok && train_eval(r->t, row, &sums, &r->err);
    return CHECK_MSG(ok, "%s", r->err.msg) ? sums.main + mtp * sums.mtp : NAN;
}

/* The relative difference between slope and gradient along u*g/|g| of a group, with u uniform in
 * 0..2, at the step length that suits it best. */
static double train_slope_off(struct train_run *r, const struct data_row *row, double mtp,
                              uint32_t group, const float *value, const float *grad, uint64_t n,
                              struct rng *rng)
{
    float *v = mem_alloc(n, sizeof *v);
    double norm = 0, want = 0, best = INFINITY;
    uint64_t at = 0;
    HLM_ASSERT(v);
    for (uint64_t i = 0; i < train_n_param(r->t); at += train_param(r->t, i++).n)
        if (in_group(train_param(r->t, i).name, group))
            for (uint64_t k = at; k < at + train_param(r->t, i).n; k++) {
                v[k] = grad[k];
                norm += (double)grad[k] * (double)grad[k];
            }
    for (uint64_t k = 0; k < n && norm > 0; k++) {
        v[k] = (float)(2 * rng_unit(rng) * (double)v[k] / sqrt(norm));
        want += (double)v[k] * (double)grad[k];
    }
    for (double h = 1e-1; norm > 0 && h > 5e-4; h /= 10) {
        double up = loss_at(r, row, mtp, value, v, h), down = loss_at(r, row, mtp, value, v, -h);
        best = fmin(best, fabs((up - down) / (2 * h * want) - 1));
    }
    free(v);
    return norm > 0 ? best : 0;
}

static void test_slope(struct gpu *g, const struct train_rows_family *f)
{
    static const uint32_t len[] = { 40, 23, 33 };
    struct train_run r;
    struct data_set s = { 0 };
    struct data_rows rows = { 0 };
    test_case("%s: slopes of the loss along the gradient", f->path);
    if (open_family(&r, g, f)) {
        train_run_documents(&s, len, ARRAY_LEN(len), r.m->n_vocab);
        struct train_params p = { .train_lora = true,
                                  .train_gates = f->recurrent,
                                  .keep_experts = true,
                                  .mtp_factor = f->mtp };
        bool ok = CHECK(data_pack(&rows, &s, NULL, 96, 0, &r.err));
        train_run_room(&p, &rows);
        ok = ok && train_run_trainer(&r, &p);
        if (ok) {
            struct train_sums sums = { 0 };
            struct rng rng = { 3 };
            uint64_t n, m;
            double most = 0;
            train_run_stir(&r, 11, 0.05f);
            CHECK_MSG(train_row(r.t, &rows.row[0], (struct row_job){ .weight = 1, .step = 1 },
                                &sums, &r.err),
                      "%s", r.err.msg);
            float *value = train_run_all(&r, TRAIN_VALUE, &n);
            float *grad = train_run_all(&r, TRAIN_GRAD, &m);
            for (uint32_t k = 0; k < ARRAY_LEN(groups); k++)
                for (uint32_t i = 0; i < 3; i++) {
                    double off = train_slope_off(&r, &rows.row[0], f->mtp, k, value, grad, n, &rng);
                    CHECK_MSG(off <= slope_bound.most, "%s: slope and gradient differ by %.3g",
                              groups[k], off);
                    most = test_worse(most, off);
                }
            CHECK_WITHIN("slope", most, slope_bound);
            free(value);
            free(grad);
        }
    }
    train_run_close(&r);
    data_rows_free(&rows);
    data_set_free(&s);
}

void test_train_rows(void)
{
    struct gpu *g = test_gpu();
    for (uint32_t i = 0; g && i < ARRAY_LEN(families); i++) {
        test_packed(g, &families[i]);
        test_slope(g, &families[i]);
    }
}
