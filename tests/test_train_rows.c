/* test_train_rows: what must hold for training whatever a reference says - a row of many documents
 * is those documents alone, whatever stands beside them and however long a chunk is; and the
 * gradient is the loss's slope. One model of each family. */
#include "json.h"
#include "train_run.h"

#include <math.h>
#include <stdio.h>

/* NMSE between a packed row and its documents apart, of all gradients together: at most, measured
 * up to 1.5e-13; between chunks of 64 and others, up to 9.8e-12. Relative difference between slope
 * and gradient, up to 1.4e-3. */
#define APART  1e-12
#define CHUNKS 5e-11
#define SLOPE  1e-2

static const struct family { const char *path; bool gates; double mtp; } families[] = {
    { "qwen35/base/model-f32.gguf", true, 0 },
    { "train/qwen35moe-mtp/model.gguf", true, 0.3 },
    { "qwen3next/base/model-f32.gguf", true, 0 },
    { "nemotron_h/base/model-f32.gguf", true, 0 },
    { "nemotron_h_moe/base/model-f32.gguf", true, 0 },
    { "step35/base/model-f32.gguf", false, 0 },
};

static bool open_family(struct train_run *r, struct gpu *g, const struct family *f)
{
    return train_run_model(r, g, fixture("%s", f->path), f->mtp != 0) &&
           train_run_fresh(r, "blk.*.weight");
}

/* Documents of these lengths, with ids of their own that do not depend on what is beside them. */
static void made_up(struct data_set *s, const uint32_t *len, uint32_t n, uint32_t n_vocab)
{
    *s = (struct data_set){ 0 };
    for (uint32_t i = 0; i < n; i++)
        s->n_id += len[i];
    s->ids = mem_alloc(s->n_id, sizeof *s->ids);
    s->mask = mem_alloc(s->n_id, 1);
    s->doc = mem_alloc(n, sizeof *s->doc);
    HLM_ASSERT(s->ids && s->mask && s->doc);
    s->n_doc = n;
    for (uint32_t i = 0, at = 0; i < n; at += len[i++]) {
        struct rng rng = { 100 + i };
        s->doc[i] = (struct data_doc){ .at = at, .n = len[i], .line = i };
        for (uint32_t k = 0; k < len[i]; k++) {
            s->ids[at + k] = (int32_t)(rng_u64(&rng) % n_vocab);
            s->mask[at + k] = k > 0 && rng_u64(&rng) % 4 != 0;
            s->doc[i].n_counted += s->mask[at + k];
        }
        s->n_counted += s->doc[i].n_counted;
    }
}

struct rows_run {
    struct data_rows rows;
    double *nll;                        /* of all documents, by document and token */
    float *grad;
    uint64_t n_grad;
    struct train_sums sums;
};

static void rows_run_free(struct rows_run *o)
{
    data_rows_free(&o->rows);
    free(o->nll);
    free(o->grad);
}

/* All rows, forward and back, with chunks of so many tokens. */
static bool run_rows(struct train_run *r, const struct family *f, const struct data_set *s,
                     const uint32_t *order, uint32_t row_length, uint32_t chunk,
                     struct rows_run *o)
{
    struct train_params p = { .train_lora = true, .train_gates = f->gates, .mtp_factor = f->mtp,
                              .chunk = chunk };
    *o = (struct rows_run){ .nll = mem_alloc(s->n_id, sizeof *o->nll) };
    if (!CHECK_MSG(data_pack(&o->rows, s, order, row_length, 0, &r->err), "%s", r->err.msg))
        return false;
    train_run_room(&p, &o->rows);
    if (!train_run_trainer(r, &p))
        return false;
    train_run_stir(r, 7, 0.05f);
    bool ok = true;
    for (uint32_t i = 0; ok && i < o->rows.n_row; i++) {
        const struct data_row *row = &o->rows.row[i];
        double *nll = mem_alloc(row->n, sizeof *nll), *mtp = mem_alloc(row->n, sizeof *mtp);
        HLM_ASSERT(nll && mtp && o->nll);
        ok = CHECK_MSG(train_row(r->t, row, 0.01, 1, i, &o->sums, nll, mtp, &r->err), "%s",
                       r->err.msg);
        for (uint32_t d = 0; d < row->n_doc; d++)
            memcpy(o->nll + s->doc[row->document[d]].at, nll + row->doc_start[d],
                   row->doc_len[d] * sizeof *nll);
        free(nll);
        free(mtp);
    }
    o->grad = train_run_all(r, TRAIN_GRAD, &o->n_grad);
    train_destroy(r->t);
    r->t = NULL;
    return ok;
}

/* The worst NMSE of a parameter's gradient. */
static double apart(const struct rows_run *a, const struct rows_run *b)
{
    struct diff d = diff_f32(a->grad, b->grad, a->n_grad);
    return d.nmse;
}

static void test_packed(struct gpu *g, const struct family *f)
{
    /* a chunk is 64; and then some, to be packed in 653 slots */
    static const uint32_t len[] = { 1, 2, 63, 64, 65, 197, 129, 3, 128 };
    static const uint32_t other[] = { 5, 8, 1, 7, 0, 4, 3, 6, 2 };
    enum { ROW = 660 };
    struct train_run r;
    struct data_set s;
    test_case("%s: a row of documents, and the documents apart", f->path);
    bool ok = open_family(&r, g, f);
    if (ok) {
        struct rows_run packed, alone, moved, chunked;
        made_up(&s, len, ARRAY_LEN(len), r.m->n_vocab);
        ok = run_rows(&r, f, &s, NULL, ROW, 64, &packed);
        ok = run_rows(&r, f, &s, NULL, 0, 64, &alone) && ok;
        ok = run_rows(&r, f, &s, other, ROW, 64, &moved) && ok;
        double off = ok ? apart(&alone, &packed) : 1, chunk_off = 0;
        CHECK_MSG(off <= APART, "gradients: nmse %.3g", off);
        CHECK_MSG(ok && !memcmp(packed.nll, alone.nll, s.n_id * sizeof *packed.nll),
                  "apart, some token's loss has other bits");
        CHECK_MSG(ok && !memcmp(packed.nll, moved.nll, s.n_id * sizeof *packed.nll),
                  "among other neighbours, some token's loss has other bits");
        for (uint32_t chunk = 16; ok && chunk < 64; chunk *= 2) {
            if (run_rows(&r, f, &s, NULL, ROW, chunk, &chunked))
                chunk_off = fmax(chunk_off, apart(&chunked, &packed));
            rows_run_free(&chunked);
        }
        CHECK_MSG(chunk_off <= CHUNKS, "chunks of another length: nmse %.3g", chunk_off);
        log_msg(LOG_INFO, "  apart %.2g, other chunks %.2g", off, chunk_off);
        rows_run_free(&packed);
        rows_run_free(&alone);
        rows_run_free(&moved);
        data_set_free(&s);
    }
    train_run_close(&r);
}

/* ---- slopes ---------------------------------------------------------------------------------- */

/* Parameters by what they are part of. */
static const char *const groups[] = { "attn_", "ssm_", "ffn_", "_exps", ".delta" };
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
    ok = ok && train_eval(r->t, row, &sums, NULL, NULL, &r->err);
    return CHECK_MSG(ok, "%s", r->err.msg) ? sums.main + mtp * sums.mtp : NAN;
}

/* One direction u*g/|g| of a group, u uniform in 0..2: the best step's relative difference. */
static double slope_off(struct train_run *r, const struct data_row *row, double mtp,
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

static void test_slope(struct gpu *g, const struct family *f)
{
    static const uint32_t len[] = { 40, 23, 33 };
    struct train_run r;
    struct data_set s = { 0 };
    struct data_rows rows = { 0 };
    test_case("%s: slopes of the loss along the gradient", f->path);
    if (open_family(&r, g, f)) {
        made_up(&s, len, ARRAY_LEN(len), r.m->n_vocab);
        struct train_params p = { .train_lora = true, .train_gates = f->gates, .hold = true,
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
            CHECK_MSG(train_row(r.t, &rows.row[0], 1, 1, 0, &sums, NULL, NULL, &r.err), "%s",
                      r.err.msg);
            float *value = train_run_all(&r, TRAIN_VALUE, &n);
            float *grad = train_run_all(&r, TRAIN_GRAD, &m);
            for (uint32_t k = 0; k < ARRAY_LEN(groups); k++)
                for (uint32_t i = 0; i < 5; i++) {
                    double off = slope_off(&r, &rows.row[0], f->mtp, k, value, grad, n,
                                           &rng);
                    CHECK_MSG(off <= SLOPE, "%s: slope and gradient differ by %.3g", groups[k],
                              off);
                    most = fmax(most, off);
                }
            log_msg(LOG_INFO, "  off by %.2g at most", most);
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
