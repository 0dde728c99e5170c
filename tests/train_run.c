/* train_run: see train_run.h. */
#include "train_run.h"

#include "lora/lora_make.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool train_run_model(struct train_run *r, struct gpu *g, const char *path, bool draft)
{
    struct hlm_err *err = &r->err;
    *r = (struct train_run){ 0 };
    r->file = gguf_open(path, err);
    r->m = r->file ? model_load(g, r->file, draft, err) : NULL;
    return CHECK_MSG(r->m && model_upload(r->m, NULL, NULL, err), "%s", err->msg);
}

static bool use(struct train_run *r, struct gguf *a)
{
    struct hlm_err *err = &r->err;
    struct gpu *g = r->m->gpu;
    struct lora_file *f = lora_file_check(a, 1, &r->m->base, err);
    r->set = f ? lora_set_create(g, &r->m->base, &f, 1, true, err) : NULL;
    return CHECK_MSG(r->set && lora_set_use(r->set, g, &r->m->base, err), "%s", err->msg);
}

bool train_run_adapter(struct train_run *r, const char *path)
{
    return use(r, gguf_open(path, &r->err));
}

bool train_run_fresh(struct train_run *r, const char *targets)
{
    struct hlm_err *err = &r->err;
    struct lora_targets t = { 0 };
    struct lora_fresh how = { .rank = 4, .alpha = 8, .seed = 5 };
    if (lora_find_targets(&r->m->base, targets, &t, err))
        r->fresh = lora_make(&r->m->base, &t, &how, &r->n_fresh, err);
    free(t.t);
    return CHECK_MSG(r->fresh != NULL, "%s", err->msg) &&
           use(r, gguf_parse(r->fresh, r->n_fresh, "fresh adapter", err));
}

bool train_run_trainer(struct train_run *r, const struct train_params *p)
{
    train_destroy(r->t);
    r->t = train_create(r->m->gpu, r->m, r->set, p, &r->err);
    return CHECK_MSG(r->t && train_commit(r->t, &r->err), "%s", r->err.msg);
}

void train_run_close(struct train_run *r)
{
    struct hlm_err none = { 0 };
    train_destroy(r->t);
    if (r->m)
        lora_set_use(NULL, r->m->gpu, &r->m->base, &none);
    lora_set_destroy(r->set);
    free(r->fresh);
    model_unload(r->m);
    gguf_close(r->file);
}

void train_run_stir(struct train_run *r, uint64_t seed, float most)
{
    struct rng rng = { seed };
    for (uint64_t i = 0; i < train_n_param(r->t); i++) {
        struct train_param p = train_param(r->t, i);
        const char *tail = strrchr(p.name, '.');
        if (!strcmp(tail, ".lora_a"))
            continue;
        float *v = mem_alloc(p.n, sizeof *v);
        HLM_ASSERT(v);
        for (uint64_t k = 0; k < p.n; k++)
            v[k] = most * (2 * (float)rng_unit(&rng) - 1);
        CHECK_MSG(train_put(r->t, TRAIN_VALUE, i, v, &r->err), "%s", r->err.msg);
        free(v);
    }
}

void train_run_documents(struct data_set *s, const uint32_t *len, uint32_t n, uint32_t n_vocab)
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

void train_run_room(struct train_params *p, const struct data_rows *rows)
{
    for (uint32_t i = 0; i < rows->n_row; i++) {
        p->max_tok = max_u32(p->max_tok, rows->row[i].n);
        p->max_doc = max_u32(p->max_doc, rows->row[i].n_doc);
    }
}

float *train_run_all(struct train_run *r, enum train_what what, uint64_t *n)
{
    uint64_t at = 0;
    *n = 0;
    for (uint64_t i = 0; i < train_n_param(r->t); i++)
        *n += train_param(r->t, i).n;
    float *v = mem_alloc(*n + 1, sizeof *v);
    HLM_ASSERT(v);
    for (uint64_t i = 0; i < train_n_param(r->t); at += train_param(r->t, i++).n)
        CHECK_MSG(train_get(r->t, what, i, v + at, &r->err), "%s", r->err.msg);
    return v;
}

double train_run_worst(struct train_run *r, const float *got, const float *want, const char **name)
{
    double worst = 0;
    *name = "none";
    for (uint64_t i = 0, at = 0; i < train_n_param(r->t); at += train_param(r->t, i++).n) {
        struct train_param p = train_param(r->t, i);
        double nmse = diff_f32(got + at, want + at, p.n).nmse;
        if (nmse > worst || isnan(nmse)) {
            worst = isnan(nmse) ? INFINITY : nmse;
            *name = p.name;
        }
    }
    return worst;
}
