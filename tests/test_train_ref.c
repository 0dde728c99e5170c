/* test_train_ref: training on the device against the double-precision reference, on the same files,
 * adapters and gates - what trainfx has no case for: the loss of every draft block, one behind the
 * other, and every gradient of theirs; the serial recurrences under all adapters that a family can
 * have. Of Step and of Qwen's experts a file with more draft blocks than one.
 *
 * Documents of a few tokens stand side by side in one row: where the targets of a depth end, and
 * where they end too soon. */
#include "train/train_parts.h"
#include "drafts.h"
#include "hlm_test.h"
#include "ref/ref_bwd.h"
#include "train_run.h"

#include <math.h>
#include <stdlib.h>

/* At most: NMSE of any parameter's gradient, of all likelihoods of a depth, and relative difference
 * between a sum of losses and the reference's. */
#define GRAD 2e-10 /* 3.8e-11 */
#define NLLS 1e-12 /* 8.8e-14 */
#define LOSS 2e-7  /* 4.4e-8 */
/* Relative difference between the reference's gradient and its loss's slope along it. */
#define SLOPE 2e-7 /* 2.7e-8 */

enum { MAX_DEPTH = 3 };

static const struct family {
    const char *path;
    bool gates;
    uint32_t n_draft; /* draft blocks: made of its one where there are more */
} families[] = {
    { "qwen35/base/model-f32.gguf", true, 1 },
    { "train/qwen35moe-mtp/model.gguf", true, 2 },
    { "qwen3next/base/model-f32.gguf", true, 0 },
    { "nemotron_h/base/model-f32.gguf", true, 0 },
    { "nemotron_h_moe/base/model-f32.gguf", true, 1 },
    { "step35/base/model-f32.gguf", false, 3 },
};

static const double factor = 0.3, weight = 0.01;

/* A family's trainer, and the reference with the same numbers. */
struct pair {
    struct train_run r;
    struct ref_model *model;
    struct ref_tune ref;
    struct data_set docs;
    struct data_rows rows;      /* one */
    double *nll[1 + MAX_DEPTH]; /* the reference's: the main one, then each depth's */
    double sum[1 + MAX_DEPTH];
};

static bool pair_open(struct pair *p, struct gpu *g, const struct family *f)
{
    /* chunks of 16: 1, 2, C - 1, C, C + 1 and 3 C + 5 tokens, of 32 the last of these, and what the
     * targets of some depths just do or do not fit into */
    static const uint32_t len[] = { 3, 1, 4, 2, 5, 15, 16, 17, 53, 101, 6 };
    enum { ROW = 225 };
    struct hlm_err *err = &p->r.err;
    const char *path = drafts_file(f->path, f->n_draft);
    *p = (struct pair){ 0 };
    if (!path || !train_run_model(&p->r, g, path, true) ||
        !train_run_fresh(&p->r, "blk.*.weight") || !CHECK_EQ(p->r.m->n_draft, f->n_draft))
        return false;
    train_run_documents(&p->docs, len, ARRAY_LEN(len), p->r.m->n_vocab);
    p->model = ref_model_open(p->r.file, err);
    return CHECK_OK(p->model && data_pack(&p->rows, &p->docs, NULL, ROW, 0, err), *err) &&
           CHECK_EQ(p->rows.n_row, 1) && CHECK_EQ(ref_model_config(p->model)->n_mtp, f->n_draft);
}

static void pair_close(struct pair *p)
{
    for (uint32_t i = 0; i <= MAX_DEPTH; i++)
        free(p->nll[i]);
    ref_tune_close(&p->ref);
    ref_model_close(p->model);
    data_rows_free(&p->rows);
    data_set_free(&p->docs);
    train_run_close(&p->r);
}

static bool pair_trainer(struct pair *p, const struct family *f, uint32_t chunk)
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

static struct ref_param *ref_param(struct pair *p, const char *name)
{
    for (uint32_t i = 0; i < p->ref.n_param; i++)
        if (!strcmp(p->ref.param[i].name, name))
            return &p->ref.param[i];
    return NULL;
}

/* The trainer's values, all of them and no other. */
static bool take_values(struct pair *p)
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

/* An adapter and gates as the trainer has them. */
static bool open_reference(struct pair *p, const struct family *f)
{
    struct hlm_err *err = &p->r.err;
    struct gguf *a = gguf_parse(p->r.fresh, p->r.n_fresh, "fresh adapter", err);
    bool ok =
        CHECK_OK(a && ref_tune_open(&p->ref, p->model, a, f->gates, err), *err) && take_values(p);
    gguf_close(a);
    p->ref.mtp_factor = f->n_draft ? factor : 0;
    return ok;
}

static bool in_block(const struct ref_param *p, uint32_t i_block)
{
    char prefix[24];
    int n = snprintf(prefix, sizeof prefix, "blk.%u.", i_block);
    return !strncmp(p->name, prefix, (size_t)n);
}

/* Slope and gradient of one document's loss along the gradient in one block; left as it was. */
static double slope_off(struct ref_tune *t, const struct data_set *s, uint32_t i_doc,
                        uint32_t i_block)
{
    const struct data_doc *d = &s->doc[i_doc];
    double norm = 0, loss[2], h = 1e-5;
    for (uint32_t i = 0; i < t->n_param; i++)
        for (uint64_t k = 0; in_block(&t->param[i], i_block) && k < t->param[i].n; k++)
            norm += t->param[i].grad[k] * t->param[i].grad[k];
    norm = sqrt(norm);
    for (uint32_t side = 0; side < 3; side++) { /* there, to the other side, back */
        for (uint32_t i = 0; i < t->n_param; i++)
            for (uint64_t k = 0; in_block(&t->param[i], i_block) && k < t->param[i].n; k++)
                t->param[i].value[k] += (side == 1 ? -2 : 1) * h * t->param[i].grad[k] / norm;
        struct ref_sums sum = { 0 };
        if (side < 2) {
            sum = ref_tune_document(t, s->ids + d->at, s->mask + d->at, d->n, 0, NULL, NULL);
            loss[side] = sum.main + t->mtp_factor * sum.mtp;
        }
    }
    return fabs((loss[0] - loss[1]) / (2 * h) / norm - 1);
}

/* The reference's own gradients, block by block; left at zero. Gates are rounded to float with
 * their deltas, so those stay out of this. */
static void check_slopes(struct pair *p)
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
        double off = slope_off(&t, &p->docs, DOC, i);
        CHECK_MSG(off <= SLOPE, "block %u: slope and gradient differ by %.3g", i, off);
        most = fmax(most, off);
    }
    test_note("  reference: slopes off by %.2g at most", most);
    for (uint32_t i = 0; i < t.n_param; i++)
        memset(t.param[i].grad, 0, t.param[i].n * sizeof *t.param[i].grad);
}

/* Every document alone, gradients too. Depth k counts targets from its token k + 2 on. */
static void run_reference(struct pair *p, const struct family *f)
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
                  "document %u: %.15g, of its depths "
                  "%.15g",
                  i, sum.mtp, mean);
        free(mtp);
    }
}

/* ---- the device ------------------------------------------------------------------------------ */

/* Likelihoods of one loss of the row that has just been run, by document and target. */
static bool loss_nll(struct pair *p, uint32_t i, double *nll)
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

static void check_device(struct pair *p, const struct family *f, uint32_t chunk)
{
    struct train_sums sums = { 0 };
    double nll_most = 0, loss_most = 0, grad_most = 0, mtp = 0;
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
        CHECK_MSG(off <= NLLS * all && all > 0, "loss %u: nmse %.3g of likelihoods", k, off / all);
        CHECK_MSG(fabs(sum / p->sum[k] - 1) <= LOSS, "loss %u: %.12g, expected %.12g", k, sum,
                  p->sum[k]);
        nll_most = fmax(nll_most, off / all);
        loss_most = fmax(loss_most, fabs(sum / p->sum[k] - 1));
        mtp += k ? p->sum[k] / f->n_draft : 0;
        free(nll);
    }
    CHECK_MSG(fabs(sums.mtp - mtp) <= LOSS * mtp, "draft blocks: %.12g, expected %.12g", sums.mtp,
              mtp);
    for (uint64_t i = 0; i < train_n_param(p->r.t); i++) {
        struct train_param of = train_param(p->r.t, i);
        float *grad = test_room(of.n, sizeof *grad);
        if (CHECK_OK(train_get(p->r.t, TRAIN_GRAD, i, grad, &p->r.err), p->r.err)) {
            double nmse = diff_f64(grad, ref_param(p, of.name)->grad, of.n).nmse;
            CHECK_MSG(nmse <= GRAD, "%s: gradient's nmse %.3g, at most %.3g", of.name, nmse, GRAD);
            grad_most = fmax(grad_most, nmse);
        }
        free(grad);
    }
    test_note("  chunks of %u: loss %.2g, likelihoods %.2g, gradients %.2g", chunk, loss_most,
              nll_most, grad_most);
}

static void test_family(struct gpu *g, const struct family *f)
{
    static const uint32_t chunks[] = { 16, 1, 32, 48, 64 };
    struct pair p;
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
        test_family(g, &families[i]);
}
