/* test_train_ref: training on the device compared with the double-precision reference, on the same
 * files, adapters and gates. This covers what trainfx has no case for: the loss and every gradient
 * of a chain of draft blocks (Step and Qwen's experts in files with more than one), and the serial
 * recurrences under all adapters that a family can have.
 *
 * Short documents stand side by side in one training row, some of them too short for the targets of
 * some depths. */
#include "train/train_parts.h"
#include "drafts.h"
#include "hlm_test.h"
#include "ref/ref_bwd.h"
#include "train_run.h"

#include <math.h>
#include <stdlib.h>

/* NMSE of any parameter's gradient; NMSE of all likelihoods of a depth; relative difference of a
 * sum of losses from the reference's. */
static const struct bound grad_off = { .most = 2e-10, .measured = 3.8e-11 };
static const struct bound nll_off = { .most = 1e-12, .measured = 8.8e-14 };
static const struct bound loss_off = { .most = 2e-7, .measured = 4.4e-8 };
/* Relative difference between the reference's gradient and the slope of its loss along it. */
static const struct bound slope_bound = { .most = 2e-7, .measured = 2.7e-8 };

enum { MAX_DEPTH = 3 };

static const struct train_ref_family {
    const char *path;
    bool gates;
    uint32_t n_draft; /* draft blocks; more than one are made of the file's one (drafts.h) */
} families[] = {
    { "qwen35/base/model-f32.gguf", true, 1 },
    { "train/qwen35moe-mtp/model.gguf", true, 2 },
    { "qwen3next/base/model-f32.gguf", true, 0 },
    { "nemotron_h/base/model-f32.gguf", true, 0 },
    { "nemotron_h_moe/base/model-f32.gguf", true, 1 },
    { "step35/base/model-f32.gguf", false, 3 },
};

static const double factor = 0.3, weight = 0.01;

/* The trainer of a family, and the reference with the same numbers. */
struct trainers {
    struct train_run r;
    struct ref_model *model;
    struct ref_tune ref;
    struct data_set docs;
    struct data_rows rows;      /* a single one */
    double *nll[1 + MAX_DEPTH]; /* the reference's: of the main loss, then of each depth */
    double sum[1 + MAX_DEPTH];
};

static bool pair_open(struct trainers *p, struct gpu *g, const struct train_ref_family *f)
{
    /* for chunks of C = 16: 1, 2, C - 1, C, C + 1 and 3 C + 5 tokens; for 32: 3 C + 5; and lengths
     * that the targets of some depths just do or do not fit into */
    static const uint32_t len[] = { 3, 1, 4, 2, 5, 15, 16, 17, 53, 101, 6 };
    enum { ROW = 225 };
    struct hlm_err *err = &p->r.err;
    const char *path = drafts_file(f->path, f->n_draft);
    *p = (struct trainers){ 0 };
    if (!path || !train_run_model(&p->r, g, path, true) ||
        !train_run_fresh(&p->r, "blk.*.weight") || !CHECK_EQ(p->r.m->n_draft, f->n_draft))
        return false;
    train_run_documents(&p->docs, len, ARRAY_LEN(len), p->r.m->n_vocab);
    p->model = ref_model_open(p->r.file, err);
    return CHECK_OK(p->model && data_pack(&p->rows, &p->docs, NULL, ROW, 0, err), *err) &&
           CHECK_EQ(p->rows.n_row, 1) && CHECK_EQ(ref_model_config(p->model)->n_mtp, f->n_draft);
}

static void pair_close(struct trainers *p)
{
    for (uint32_t i = 0; i <= MAX_DEPTH; i++)
        free(p->nll[i]);
    ref_tune_close(&p->ref);
    ref_model_close(p->model);
    data_rows_free(&p->rows);
    data_set_free(&p->docs);
    train_run_close(&p->r);
}

static bool pair_trainer(struct trainers *p, const struct train_ref_family *f, uint32_t chunk)
{
    struct train_params how = { .train_lora = true,
                                .train_gates = f->gates,
                                .chunk = chunk,
                                .mtp_factor = f->n_draft ? factor : 0 };
    train_run_room(&how, &p->rows);
    if (!train_run_trainer(&p->r, &how))
        return false;
    train_run_stir(&p->r, 7, 0.05f);
    return true;
}

/* ---- the reference --------------------------------------------------------------------------- */

static struct ref_param *ref_param(struct trainers *p, const char *name)
{
    for (uint32_t i = 0; i < p->ref.n_param; i++)
        if (!strcmp(p->ref.param[i].name, name))
            return &p->ref.param[i];
    return NULL;
}

/* Gives the reference the trainer's values: all of them, and nothing else. */
static bool take_values(struct trainers *p)
{
    bool ok = CHECK_EQ(p->ref.n_param, train_n_param(p->r.t));
    for (uint64_t i = 0; ok && i < train_n_param(p->r.t); i++) {
        struct train_param of = train_param(p->r.t, i);
        struct ref_param *to = ref_param(p, of.name);
        float *v = test_room(of.n, sizeof *v);
        ok = CHECK_MSG(to && to->n == of.n, "%s is not the reference's", of.name) &&
             CHECK_OK(train_get(p->r.t, TRAIN_VALUE, i, v, &p->r.err), p->r.err);
        for (uint64_t k = 0; ok && k < of.n; k++)
            to->value[k] = (double)v[k];
        free(v);
    }
    return ok;
}

/* Opens the reference with the adapter and gates of the trainer. */
static bool open_reference(struct trainers *p, const struct train_ref_family *f)
{
    struct hlm_err *err = &p->r.err;
    struct gguf *a = gguf_parse(p->r.fresh, p->r.n_fresh, "fresh adapter", err);
    bool ok =
        CHECK_OK(a && ref_tune_open(&p->ref, p->model, a, f->gates, err), *err) && take_values(p);
    gguf_close(a);
    p->ref.mtp_factor = f->n_draft ? factor : 0;
    return ok;
}

static bool param_in_block(const struct ref_param *p, uint32_t i_block)
{
    char prefix[24];
    int n = snprintf(prefix, sizeof prefix, "blk.%u.", i_block);
    return !strncmp(p->name, prefix, (size_t)n);
}

/* The relative difference between the slope of one document's loss along its gradient in one block,
 * and that gradient. Leaves the values as they were. */
static double ref_slope_off(struct ref_tune *t, const struct data_set *s, uint32_t i_doc,
                            uint32_t i_block)
{
    const struct data_doc *d = &s->doc[i_doc];
    double norm = 0, loss[2], h = 1e-5;
    for (uint32_t i = 0; i < t->n_param; i++)
        for (uint64_t k = 0; param_in_block(&t->param[i], i_block) && k < t->param[i].n; k++)
            norm += t->param[i].grad[k] * t->param[i].grad[k];
    norm = sqrt(norm);
    for (uint32_t side = 0; side < 3; side++) { /* forward, backward, and back to the start */
        for (uint32_t i = 0; i < t->n_param; i++)
            for (uint64_t k = 0; param_in_block(&t->param[i], i_block) && k < t->param[i].n; k++)
                t->param[i].value[k] += (side == 1 ? -2 : 1) * h * t->param[i].grad[k] / norm;
        struct ref_sums sum = { 0 };
        if (side < 2) {
            sum = ref_tune_document(t, s->ids + d->at, s->mask + d->at, d->n, 0, NULL, NULL);
            loss[side] = sum.main + t->mtp_factor * sum.mtp;
        }
    }
    return fabs((loss[0] - loss[1]) / (2 * h) / norm - 1);
}

/* Checks the reference's own gradients block by block, and leaves them at zero. Gates are left out:
 * they are rounded to float with their deltas. */
static void check_slopes(struct trainers *p)
{
    enum { DOC = 5 }; /* of 15 tokens */
    const struct ref_config *c = ref_model_config(p->model);
    const struct data_doc *d = &p->docs.doc[DOC];
    struct ref_tune t = p->ref;
    double most = 0;
    t.n_param = 0;
    while (t.n_param < p->ref.n_param && t.param[t.n_param].rank)
        t.n_param++;
    ref_tune_document(&t, p->docs.ids + d->at, p->docs.mask + d->at, d->n, 1, NULL, NULL);
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        most = test_worse(most, ref_slope_off(&t, &p->docs, DOC, i));
    }
    CHECK_WITHIN("slope of the reference", most, slope_bound);
    for (uint32_t i = 0; i < t.n_param; i++)
        memset(t.param[i].grad, 0, t.param[i].n * sizeof *t.param[i].grad);
}

/* Runs the reference over every document alone, with gradients. Depth k counts targets from token
 * k + 2 on. */
static void run_reference(struct trainers *p, const struct train_ref_family *f)
{
    for (uint32_t k = 0; k <= f->n_draft; k++)
        p->nll[k] = test_room(p->docs.n_id, sizeof *p->nll[k]);
    for (uint32_t i = 0; i < p->docs.n_doc; i++) {
        const struct data_doc *d = &p->docs.doc[i];
        double *mtp = test_room((uint64_t)f->n_draft * d->n, sizeof *mtp), mean = 0;
        struct ref_sums sum = ref_tune_document(&p->ref, p->docs.ids + d->at, p->docs.mask + d->at,
                                                d->n, weight, p->nll[0] + d->at, mtp);
        p->sum[0] += sum.main;
        for (uint32_t k = 0; k < f->n_draft; k++) {
            memcpy(p->nll[1 + k] + d->at, mtp + (uint64_t)k * d->n, d->n * sizeof *mtp);
            for (uint32_t t = 0; t < d->n; t++) {
                double v = mtp[(uint64_t)k * d->n + t];
                CHECK_MSG((v != 0) == (t >= k + 2 && p->docs.mask[d->at + t]),
                          "document %u: depth %u, target %u counts or not", i, k + 1, t);
                p->sum[1 + k] += v;
                mean += v / f->n_draft;
            }
        }
        CHECK_MSG(fabs(sum.mtp - mean) <= 1e-12 * fabs(mean),
                  "document %u: %.15g, the mean of its depths is %.15g", i, sum.mtp, mean);
        free(mtp);
    }
}

/* ---- the device ------------------------------------------------------------------------------ */

/* The likelihoods of one loss of the training row that has just been run, by document and target.
 */
static bool loss_nll(struct trainers *p, uint32_t i, double *nll)
{
    struct trainer *t = p->r.t;
    const struct loss *l = &t->loss[i];
    const uint32_t *rows = (const uint32_t *)(const void *)(t->host + l->rows.offset);
    float *parts = test_room((uint64_t)NLL_PARTS * l->n, sizeof *parts);
    const struct data_row *row = &p->rows.row[0];
    bool ok =
        !l->n || CHECK_OK(gpu_read(t->gpu, l->parts, 0, parts, 4ull * NLL_PARTS * l->n, &p->r.err),
                          p->r.err);
    for (uint32_t k = 0; ok && k < l->n; k++) {
        uint32_t d = (uint32_t)row->doc[rows[k]], at = rows[k] + l->ahead - row->doc_start[d];
        ok = CHECK(at < row->doc_len[d]);
        if (ok)
            nll[p->docs.doc[row->document[d]].at + at] = nll_from(parts + NLL_PARTS * k);
    }
    free(parts);
    return ok;
}

static void check_device(struct trainers *p, const struct train_ref_family *f, uint32_t chunk)
{
    struct train_sums sums = { 0 };
    double nll_most = 0, loss_most = 0, grad_most = 0, mtp = 0;
    char grad_name[160] = "gradients";
    test_note("  chunks of %u", chunk);
    uint64_t n_id = p->docs.n_id;
    if (!CHECK_OK(train_row(p->r.t, &p->rows.row[0],
                            (struct row_job){ .weight = weight, .step = 1 }, &sums, &p->r.err),
                  p->r.err) ||
        !CHECK_EQ(sums.n, p->docs.n_counted))
        return;
    for (uint32_t k = 0; k <= f->n_draft; k++) {
        double *nll = test_room(n_id, sizeof *nll), off = 0, all = 0, sum = 0;
        if (loss_nll(p, k, nll))
            for (uint64_t i = 0; i < n_id; i++) {
                CHECK_MSG((nll[i] != 0) == (p->nll[k][i] != 0), "loss %u: token %llu counts or not",
                          k, (unsigned long long)i);
                off += pow(nll[i] - p->nll[k][i], 2);
                all += pow(p->nll[k][i], 2);
                sum += nll[i];
            }
        CHECK(all > 0);
        nll_most = test_worse(nll_most, off / all);
        loss_most = test_worse(loss_most, fabs(sum / p->sum[k] - 1));
        mtp += k ? p->sum[k] / f->n_draft : 0;
        free(nll);
    }
    CHECK_WITHIN("likelihoods", nll_most, nll_off);
    CHECK_WITHIN("loss", loss_most, loss_off);
    CHECK_MSG(fabs(sums.mtp - mtp) <= loss_off.most * mtp, "draft blocks: %.12g, expected %.12g",
              sums.mtp, mtp);
    for (uint64_t i = 0; i < train_n_param(p->r.t); i++) {
        struct train_param of = train_param(p->r.t, i);
        float *grad = test_room(of.n, sizeof *grad);
        if (CHECK_OK(train_get(p->r.t, TRAIN_GRAD, i, grad, &p->r.err), p->r.err)) {
            double nmse = diff_f64(grad, ref_param(p, of.name)->grad, of.n).nmse;
            if (!(nmse <= grad_most))
                snprintf(grad_name, sizeof grad_name, "gradient of %s", of.name);
            grad_most = test_worse(grad_most, nmse);
        }
        free(grad);
    }
    CHECK_WITHIN(grad_name, grad_most, grad_off);
}

static void train_ref_family(struct gpu *g, const struct train_ref_family *f)
{
    static const uint32_t chunks[] = { 16, 1, 32, 48, 64 };
    struct trainers p;
    test_case("%s with %u draft blocks: against double precision", f->path, f->n_draft);
    if (pair_open(&p, g, f) && pair_trainer(&p, f, chunks[0]) && open_reference(&p, f)) {
        check_slopes(&p);
        run_reference(&p, f);
        check_device(&p, f, chunks[0]);
        for (uint32_t i = 1; f->gates && i < ARRAY_LEN(chunks); i++)
            if (pair_trainer(&p, f, chunks[i]))
                check_device(&p, f, chunks[i]);
    }
    pair_close(&p);
}

void test_train_ref(void)
{
    struct gpu *g = test_gpu();
    for (uint32_t i = 0; g && i < ARRAY_LEN(families); i++)
        train_ref_family(g, &families[i]);
}
