/* test_ops_train: what training adds around the layers - rows picked for the head, likelihoods with
 * their gradient, the norm of all gradients, AdamW, gates from their deltas - and what draft blocks
 * need.
 *
 * Likelihoods are compared with sums in long double, row by row; updates with the reference's
 * (ref_bwd.h), from given gradients, in arenas of which no other byte may change. */
#include "ops_nll.h"
#include "ops_train.h"
#include "ref/ref_bwd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* NMSE: the same values; gradients of logits; values, the change of them (which is small beside
 * them) and moments after an update. */
static const struct bound same_off = { .most = 1e-30 };
static const struct bound gradient_off = { .most = 1e-13 };
static const struct bound value_off = { .most = 3e-14 };
static const struct bound change_off = { .most = 3e-9 };
static const struct bound moment_off = { .most = 1e-13 };
/* Relative: a likelihood, and the norm of all gradients. */
static const struct bound nll_off = { .most = 2e-7 };
static const struct bound norm_off = { .most = 3e-7 };

enum { NONE = -1 };

/* A tape that keeps nothing and trains nothing: the test places the gradients. */
static struct tape *tape_for(struct rig *r)
{
    struct tape *t = tape_create(NULL, &(struct dropout){ 0 }, &r->err);
    HLM_ASSERT(t);
    tape_attach(r->c, t);
    return t;
}

/* ---- gather ------------------------------------------------------------------------------ */

/* Rows of x in slices of n_row, out of a list of n_list. The gradient of each slice is added to
 * that of x, which is not zero before. */
static void gather_case(struct gpu *g, uint32_t n, uint32_t n_x, uint32_t n_list, uint32_t n_row)
{
    if (!test_case("gather, %u columns, %u of %u rows, %u at a time", n, n_list, n_x, n_row))
        return;
    struct rig r = rig_open(g, "gather");
    struct tape *tape = tape_for(&r);
    uint32_t n_slice = n_list / n_row + 1;
    int32_t *list = rig_alloc(&r, n_list, sizeof *list), word[4] = { 0, 5, 6, 7 };
    float *x = rig_normal(&r, (uint64_t)n_x * n, 1), *dx = rig_normal(&r, (uint64_t)n_x * n, 1);
    double *want = rig_alloc(&r, (uint64_t)n_slice * n_row * n, sizeof *want);
    double *dwant = rig_doubles(&r, dx, (uint64_t)n_x * n);
    for (uint32_t i = 0; i < n_list; i++)
        list[i] = i % 5 == 3 ? NONE : (int32_t)((i * 7 + 2) % n_x); /* n_x is no multiple */
    tensor at = rig_strided(&r, x, n, n_x), rows = rig_words(&r, list, n_list);
    tensor grad_at = rig_strided(&r, dx, n, n_x), slice = rig_words(&r, word, 4);
    rig_writes(&r, grad_at);
    rig_writes(&r, tensor_cols(slice, 0, 1));
    tensor x0 = at, dx0 = grad_at, y[64];
    x0.col = dx0.col = 0; /* gradients are requested as bases */
    x0.n = dx0.n = at.stride;
    HLM_ASSERT(n_slice <= ARRAY_LEN(y));
    for (uint32_t k = 0; k < n_slice; k++) {
        float *v = rig_normal(&r, (uint64_t)n_row * n, 1);
        tape_begin(r.c, x0, dx0);
        y[k] = op_gather(r.c, at, rows, n_row, slice);
        tape_back(r.c, y[k], rig_dense(&r, v, n, n_row));
        op_next_slice(r.c, slice);
        for (uint64_t i = 0; i < n_row; i++) {
            uint64_t of = (uint64_t)k * n_row + i;
            uint64_t row = of < n_list && list[of] != NONE ? (uint64_t)list[of] : UINT64_MAX;
            for (uint64_t j = 0; j < n && row != UINT64_MAX; j++) {
                want[of * n + j] = (double)x[row * n + j];
                dwant[row * n + j] += (double)v[i * n + j];
            }
        }
    }
    if (rig_run(&r)) {
        for (uint32_t k = 0; k < n_slice; k++)
            rig_near(&r, "rows", y[k], want + (uint64_t)k * n_row * n, same_off.most);
        rig_near(&r, "gradient", grad_at, dwant, 0);
        uint32_t now;
        memcpy(&now, r.back + slice.offset, 4);
        CHECK_EQ(now, n_slice);
    }
    rig_close(&r);
    tape_destroy(tape);
}

/* ---- likelihoods ------------------------------------------------------------------------- */

/* Rows of logits of the second of two slices; some have no target. */
static void nll_case(struct gpu *g, uint32_t n_vocab, uint32_t n_row, enum logits_kind kind,
                     bool back)
{
    if (!test_case("nll by targets, vocabulary %u, %u rows, %s%s", n_vocab, n_row,
                   logits_kinds[kind], back ? ", gradient" : ""))
        return;
    struct rig r = rig_open(g, "nll targets");
    struct tape *tape = tape_for(&r);
    uint32_t n_target = 2 * n_row - 1, first = n_row; /* the last row is after the end */
    float *l = rig_alloc(&r, (uint64_t)n_row * n_vocab, sizeof *l), weight = 0.37f;
    int32_t *target = rig_alloc(&r, n_target, sizeof *target), word[4] = { 1, 0, 0, 0 };
    for (uint32_t t = 0; t < n_row; t++) {
        uint32_t at = (uint32_t)(rng_u64(&r.rng) % n_vocab), id = t % 2 ? at : at + 2 * t;
        logits_fill(&r, kind, n_vocab, at, l + (uint64_t)t * n_vocab);
        while (l[(uint64_t)t * n_vocab + id % n_vocab] < -1e29f)
            id++;
        if (first + t < n_target)
            target[first + t] = t % 4 == 2 ? NONE : (int32_t)(id % n_vocab);
    }
    tensor logits = rig_view(&r, F32, n_vocab, n_row, (uint32_t)align_up(n_vocab, 4) + 4, 0);
    rig_put(&r, logits, l);
    tensor of_all = rig_words(&r, target, n_target), slice = rig_words(&r, word, 4);
    tensor parts = rig_view(&r, F32, NLL_PARTS, n_target, NLL_PARTS, 0);
    tensor at_weight = rig_dense(&r, &weight, 1, 1);
    for (uint32_t t = 0; first + t < n_target; t++)
        if (target[first + t] != NONE)
            rig_writes_rows(&r, parts, first + t, 1);
    if (back) {
        rig_writes(&r, logits);
        tape_begin(r.c, logits, (tensor){ 0 });
    }
    op_nll_targets(r.c, logits, of_all, slice, parts, at_weight);
    if (back) {
        CHECK(grad(r.c, logits).offset == logits.offset);
        tape_back(r.c, logits, logits);
    }
    double *d = rig_alloc(&r, n_vocab, sizeof *d);
    if (rig_run(&r)) {
        const float *got = rig_get(&r, parts), *grads = rig_get(&r, logits);
        for (uint32_t t = 0; t < n_row; t++) {
            const float *row = l + (uint64_t)t * n_vocab, *dl = grads + (uint64_t)t * n_vocab;
            if (first + t >= n_target || target[first + t] == NONE) {
                for (uint32_t i = 0; back && i < n_vocab; i++)
                    if (!CHECK_MSG(dl[i] == 0, "row %u without a target: %g", t, (double)dl[i]))
                        break;
                continue;
            }
            double want = logits_nll(row, n_vocab, (uint32_t)target[first + t], (double)weight, d);
            double nll = nll_from(got + (uint64_t)NLL_PARTS * (first + t));
            CHECK_MSG(fabs(nll - want) <= nll_off.most * want, "row %u: %.17g, expected %.17g", t,
                      nll, want);
            if (back)
                rig_near_values(&r, logits_kinds[kind], dl, d, n_vocab, 1, gradient_off.most);
        }
    }
    rig_close(&r);
    tape_destroy(tape);
}

/* A logit that is not a number leaves no finite gradient in its row, and changes no other. */
static void test_no_number(struct gpu *g)
{
    static const float odd[] = { NAN, INFINITY };
    for (uint32_t k = 0; k < ARRAY_LEN(odd); k++) {
        if (!test_case("nll by targets: a logit of %g", (double)odd[k]))
            continue;
        struct rig r = rig_open(g, "nll targets");
        struct tape *tape = tape_for(&r);
        int32_t target[3] = { 5, 5, 5 }, word[4] = { 0 };
        float *l = rig_normal(&r, 3 * 77, 2), weight = 1;
        l[77 + 50] = odd[k];
        tensor logits = rig_dense(&r, l, 77, 3);
        tensor parts = rig_view(&r, F32, NLL_PARTS, 3, NLL_PARTS, 0);
        rig_writes(&r, parts);
        rig_writes(&r, logits);
        tape_begin(r.c, logits, (tensor){ 0 });
        op_nll_targets(r.c, logits, rig_words(&r, target, 3), rig_words(&r, word, 4), parts,
                       rig_dense(&r, &weight, 1, 1));
        tape_back(r.c, logits, logits);
        if (rig_run(&r)) {
            const float *d = rig_get(&r, logits), *got = rig_get(&r, parts);
            for (uint32_t t = 0; t < 3; t++) {
                double sum = 0;
                for (uint32_t i = 0; i < 77; i++)
                    sum += fabs((double)d[77 * t + i]);
                CHECK_MSG(isfinite(sum) == (t != 1), "row %u has a gradient of %g", t, sum);
                CHECK_EQ(isfinite(nll_from(got + NLL_PARTS * t)), t != 1);
            }
        }
        rig_close(&r);
        tape_destroy(tape);
    }
}

/* ---- updates ----------------------------------------------------------------------------- */

/* What is trained, as the device and as the reference have it. */
struct part {
    struct arena *values, *grads;
    struct adam_row *row;
    float *scale, *value, *grad; /* images of the arenas */
    uint32_t n_row, n_word, n_moment;
    tensor rows, scales, m, v;
};

/* Rows of numbers with gaps between them; every other pair of rows is swapped. */
static struct part part_make(struct rig *r, uint32_t n_row, uint32_t longest, bool gates)
{
    struct part p = { .n_row = n_row, .n_word = 64 };
    p.values = arena_create(r->g, "values", MEM_DEVICE, &r->err);
    p.grads = arena_create(r->g, "gradients", MEM_DEVICE, &r->err);
    p.row = rig_alloc(r, n_row, sizeof *p.row);
    p.scale = rig_alloc(r, n_row, sizeof *p.scale);
    HLM_ASSERT(p.values && p.grads);
    for (uint32_t i = 0; i < n_row; i++) {
        uint32_t n = i % 7 == 0 ? longest : 1 + (uint32_t)(rng_u64(&r->rng) % 9);
        p.row[i] =
            (struct adam_row){ .at = p.n_word / 4, .n = n, .moment = p.n_moment, .gate = gates };
        p.scale[i] = gates ? 1 : i % 3 == 1 ? 0.75f : 2;
        p.n_word = (uint32_t)align_up(p.n_word + n + i % 8, 4);
        p.n_moment += n;
        if (i % 4 == 3 && p.row[i].n == p.row[i - 1].n) {
            uint32_t at = p.row[i].at;
            p.row[i].at = p.row[i - 1].at;
            p.row[i - 1].at = at;
        }
    }
    p.n_word += 64;
    p.value = rig_normal(r, p.n_word, 1);
    p.grad = rig_alloc(r, p.n_word, sizeof *p.grad);
    for (uint32_t k = 0; k < 2; k++)
        arena_take(k ? p.grads : p.values, 4ull * p.n_word, 0);
    p.rows = rig_view(r, I32, 4, n_row, 4, 0);
    rig_put_words(r, p.rows, p.row);
    p.scales = rig_dense(r, p.scale, n_row, 1);
    float *zero = rig_alloc(r, p.n_moment, sizeof *zero);
    p.m = rig_dense(r, zero, p.n_moment, 1);
    p.v = rig_dense(r, zero, p.n_moment, 1);
    rig_writes(r, p.m);
    rig_writes(r, p.v);
    return p;
}

static float *row_at(float *image, const struct adam_row *row) { return image + 4ull * row->at; }

static tensor all_of(struct arena *a, uint32_t n)
{
    return (tensor){ .arena = a, .dtype = F32, .n = n, .n_row = 1, .stride = n };
}

/* The same rows for the reference: values and gradients of what is saved. */
static void part_params(struct rig *r, struct part *p, struct ref_tune *t)
{
    for (uint32_t i = 0; i < p->n_row; i++) {
        struct ref_param *to = &t->param[t->n_param++];
        uint32_t n = p->row[i].n;
        double *v = rig_alloc(r, 4ull * n, sizeof *v);
        to->n = n;
        to->rank = !p->row[i].gate;
        to->value = v, to->grad = v + n, to->m = v + 2 * n, to->v = v + 3 * n;
        for (uint32_t k = 0; k < n; k++)
            v[k] = (double)row_at(p->value, &p->row[i])[k] / (double)p->scale[i];
    }
}

/* New gradients on both sides; the gaps between rows are NaN. */
static bool part_gradients(struct rig *r, struct part *p, struct ref_param *to, double scale)
{
    for (uint32_t i = 0; i < p->n_word; i++)
        p->grad[i] = NAN;
    for (uint32_t i = 0; i < p->n_row; i++)
        for (uint32_t k = 0; k < p->row[i].n; k++) {
            float v = (float)(scale * rng_normal(&r->rng) * exp(2 * rng_normal(&r->rng)));
            row_at(p->grad, &p->row[i])[k] = v;
            to[i].grad[k] = (double)v * (double)p->scale[i];
        }
    return gpu_write(r->g, all_of(p->grads, p->n_word), 0, p->grad, 4ull * p->n_word, &r->err);
}

/* Reads all arenas back. Rows are copied to lists and reset in the images, so that everything else
 * can be compared. */
static bool part_read(struct rig *r, struct part *p, float *values, bool kept)
{
    uint64_t bytes = 4ull * p->n_word, at = 0;
    float *v = rig_alloc(r, p->n_word, 4), *g = rig_alloc(r, p->n_word, 4);
    if (!CHECK(gpu_read(r->g, all_of(p->values, p->n_word), 0, v, bytes, &r->err) &&
               gpu_read(r->g, all_of(p->grads, p->n_word), 0, g, bytes, &r->err)))
        return false;
    for (uint32_t i = 0; i < p->n_row && !kept; i++) {
        uint64_t n = p->row[i].n;
        float *row = row_at(v, &p->row[i]), *grad_row = row_at(g, &p->row[i]);
        memcpy(values + at, row, 4 * n);
        memcpy(row, row_at(p->value, &p->row[i]), 4 * n);
        for (uint32_t k = 0; k < n; k++)
            if (!CHECK_MSG(grad_row[k] == 0, "a gradient is %g after an update",
                           (double)grad_row[k]))
                return false;
        memcpy(grad_row, row_at(p->grad, &p->row[i]), 4 * n);
        at += n;
    }
    return CHECK(!memcmp(v, p->value, bytes)) && CHECK(!memcmp(g, p->grad, bytes));
}

/* Values, changes since the start and moments equal the reference's. */
static void part_check(struct rig *r, struct part *p, const struct ref_param *ref)
{
    float *values = rig_alloc(r, p->n_moment, 4), *change = rig_alloc(r, p->n_moment, 4);
    double *want = rig_alloc(r, 4ull * p->n_moment, sizeof *want);
    double *want_change = want + p->n_moment, *m = want_change + p->n_moment, *v = m + p->n_moment;
    if (!part_read(r, p, values, false))
        return;
    for (uint32_t i = 0, at = 0; i < p->n_row; i++)
        for (uint32_t k = 0; k < p->row[i].n; k++, at++) {
            float was = row_at(p->value, &p->row[i])[k];
            want[at] = ref[i].value[k] * (double)p->scale[i];
            want_change[at] = want[at] - (double)was;
            change[at] = values[at] - was;
            m[at] = ref[i].m[k];
            v[at] = ref[i].v[k];
        }
    rig_near_values(r, "values", values, want, p->n_moment, 1, value_off.most);
    rig_near_values(r, "changes", change, want_change, p->n_moment, 1, change_off.most);
    rig_near(r, "first moments", p->m, m, moment_off.most);
    rig_near(r, "second moments", p->v, v, moment_off.most);
}

struct adam_case {
    const char *name;
    struct adam_update u;
    uint32_t n_row, longest;
};

/* Runs the cmd once more, on its own result. */
static bool run_again(struct rig *r)
{
    tensor all = { .arena = r->mem, .dtype = I32, .n = 4, .n_row = 1, .stride = 4 };
    return CHECK(cmd_submit(r->c, &r->err) && gpu_wait(r->g, &r->err) &&
                 gpu_read(r->g, all, 0, r->back, r->n_image, &r->err));
}

/* The cmd and what it works on. */
struct adam_rig {
    struct rig r;
    struct part part[2]; /* factors, and gates in arenas of their own */
    struct adam_part of[2];
    struct adam adam;
    struct ref_tune ref;
};

static bool adam_open(struct gpu *g, struct adam_rig *a, uint32_t n_row, uint32_t longest)
{
    enum { N_GATE = 5 };
    struct rig *r = &a->r;
    *a = (struct adam_rig){ .r = rig_open(g, "adam") };
    a->part[0] = part_make(r, n_row, longest, false);
    a->part[1] = part_make(r, N_GATE, 24, true);
    a->ref.param = rig_alloc(r, n_row + N_GATE, sizeof *a->ref.param);
    a->adam = (struct adam){ a->of, 2, rig_view(r, F32, 4, 1, 4, 0),
                             rig_view(r, F32, sizeof(struct adam_hyper) / 4, 1,
                                      sizeof(struct adam_hyper) / 4, 0) };
    rig_writes(r, tensor_cols(a->adam.norm, 0, 3));
    rig_writes(r, a->adam.hyper);
    bool ok = true;
    for (uint32_t k = 0; ok && k < 2; k++) {
        struct part *p = &a->part[k];
        part_params(r, p, &a->ref);
        a->of[k] = (struct adam_part){ .row = p->row,
                                       .n_row = p->n_row,
                                       .rows = p->rows,
                                       .scale = p->scales,
                                       .values = p->values,
                                       .grads = p->grads,
                                       .m = p->m,
                                       .v = p->v };
        ok = arena_commit(p->values, &r->err) && arena_commit(p->grads, &r->err) &&
             gpu_write(g, all_of(p->values, p->n_word), 0, p->value, 4ull * p->n_word, &r->err);
    }
    op_grad_norm(r->c, &a->adam);
    op_adam(r->c, &a->adam);
    return CHECK_MSG(ok, "%s", r->err.msg);
}

static void adam_close(struct adam_rig *a)
{
    rig_close(&a->r);
    for (uint32_t k = 0; k < 2; k++) {
        arena_destroy(a->part[k].values);
        arena_destroy(a->part[k].grads);
    }
}

/* One update, the first with everything that the rig was given. */
static bool adam_step(struct adam_rig *a, const struct adam_update *u)
{
    struct rig *r = &a->r;
    struct adam_hyper hyper;
    adam_hyper(u, &hyper);
    memcpy(r->image + a->adam.hyper.offset, &hyper, sizeof hyper);
    if (u->step == 1)
        return rig_run(r);
    return CHECK(gpu_write(r->g, a->adam.hyper, 0, &hyper, sizeof hyper, &r->err)) && run_again(r);
}

static void adam_run(struct gpu *g, const struct adam_case *of)
{
    if (!test_case("adam, %u rows of up to %u, %s", of->n_row, of->longest, of->name))
        return;
    struct adam_rig a;
    struct adam_update u = of->u;
    bool ok = adam_open(g, &a, of->n_row, of->longest);
    for (u.step = 1; ok && u.step <= 3; u.step++) {
        struct ref_adamw want = {
            u.lr, u.beta1, u.beta2, u.eps, u.decay, u.decay_gates, u.clip_norm
        };
        for (uint32_t k = 0; k < 2; k++) /* the second step is always clipped */
            ok = ok && part_gradients(&a.r, &a.part[k], a.ref.param + k * of->n_row,
                                      u.step == 2 ? 40 : 1);
        ok = ok && adam_step(&a, &u);
        /* far from the start no correction is left */
        double norm =
            ref_tune_update(&a.ref, &want, u.bias_correction ? (uint32_t)u.step : 1000000);
        const float *got = ok ? rig_get(&a.r, tensor_cols(a.adam.norm, 0, 3)) : NULL;
        if (got && CHECK_MSG(fabs((double)got[0] - norm) <= norm_off.most * norm,
                             "norm %.9g, expected %.9g", (double)got[0], norm))
            CHECK(got[2] == 1);
    }
    for (uint32_t k = 0; ok && k < 2; k++)
        part_check(&a.r, &a.part[k], a.ref.param + k * of->n_row);
    adam_close(&a);
}

/* Gradients that are not finite leave everything unchanged, including themselves. */
static void adam_refuses(struct gpu *g, float bad)
{
    if (!test_case("adam: a gradient of %g", (double)bad))
        return;
    struct adam_rig a;
    struct adam_update u = { .lr = 0.1,
                             .beta1 = 0.9,
                             .beta2 = 0.99,
                             .eps = 1e-8,
                             .decay = 0.1,
                             .bias_correction = true,
                             .step = 1 };
    bool ok = adam_open(g, &a, 20, 40);
    for (uint32_t k = 0; ok && k < 2; k++) {
        struct part *p = &a.part[k];
        ok = part_gradients(&a.r, p, a.ref.param + 20 * k, 1);
        row_at(p->grad, &p->row[2])[0] = k ? bad : 1;
        ok = ok && CHECK(gpu_write(g, all_of(p->grads, p->n_word), 0, p->grad, 4ull * p->n_word,
                                   &a.r.err));
    }
    if (ok && adam_step(&a, &u)) {
        CHECK(rig_get(&a.r, tensor_cols(a.adam.norm, 0, 3))[2] == 0);
        for (uint32_t k = 0; k < 2; k++) {
            const float *m = rig_get(&a.r, a.part[k].m);
            part_read(&a.r, &a.part[k], NULL, true);
            for (uint32_t i = 0; i < a.part[k].n_moment; i++)
                if (!CHECK(m[i] == 0))
                    break;
        }
    }
    adam_close(&a);
}

/* ---- gates ------------------------------------------------------------------------------- */

static void gate_case(struct gpu *g, uint32_t n, bool decay)
{
    if (!test_case("a gate of %u from its deltas%s", n, decay ? ", a decay" : ""))
        return;
    struct rig r = rig_open(g, "gate_delta");
    float *base = rig_normal(&r, n, 1), *delta = rig_normal(&r, n, 1.5);
    double *want = rig_alloc(&r, n, sizeof *want);
    for (uint32_t i = 0; i < n; i++)
        want[i] =
            decay ? (double)base[i] * exp((double)delta[i]) : (double)base[i] + (double)delta[i];
    tensor to = rig_view(&r, F32, n, 1, n, 0);
    rig_writes(&r, to);
    op_gate_delta(r.c, rig_dense(&r, base, n, 1), rig_dense(&r, delta, n, 1), decay, to);
    if (rig_run(&r))
        rig_near(&r, decay ? "decay" : "sum", to, want, value_off.most);
    rig_close(&r);
}

/* ---- beside ------------------------------------------------------------------------------ */

static void beside_case(struct gpu *g, uint32_t n_x, uint32_t n_y, uint32_t n_row)
{
    if (!test_case("%u and %u columns beside each other, %u rows", n_x, n_y, n_row))
        return;
    struct rig r = rig_open_train(g, "beside", NULL);
    uint32_t n = n_x + n_y;
    const float *x = rig_normal(&r, (uint64_t)n_x * n_row, 1);
    const float *y = rig_normal(&r, (uint64_t)n_y * n_row, 1);
    double *want = rig_alloc(&r, (uint64_t)n * n_row, sizeof *want);
    tensor x_t = rig_dense(&r, x, n_x, n_row), y_t = rig_dense(&r, y, n_y, n_row);
    struct grads dx = rig_grad(&r, x_t), dy = rig_grad(&r, y_t);
    tensor both = op_beside(r.c, x_t, y_t);
    const double *d = rig_back(&r, both);
    for (uint32_t t = 0; t < n_row; t++)
        for (uint32_t i = 0; i < n; i++) {
            bool in_x = i < n_x;
            uint32_t at = in_x ? t * n_x + i : t * n_y + i - n_x;
            want[t * n + i] = (double)(in_x ? x : y)[at];
            (in_x ? dx : dy).want[at] += d[t * n + i];
        }
    if (rig_run(&r)) {
        rig_near(&r, "both", both, want, same_off.most);
        rig_near_grad(&r, "dx", &dx, 0);
        rig_near_grad(&r, "dy", &dy, 0);
    }
    rig_close(&r);
}

/* ---- rows -------------------------------------------------------------------------------- */

static const struct adam_update plain = {
    .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .bias_correction = true
};
static const struct adam_update all = { .lr = 3e-3,
                                        .beta1 = 0.8,
                                        .beta2 = 0.95,
                                        .eps = 1e-6,
                                        .decay = 0.1,
                                        .decay_gates = 0.3,
                                        .clip_norm = 15,
                                        .bias_correction = true };
static const struct adam_update bare = {
    .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-3, .decay = 0.1
};

static void test_adam(struct gpu *g)
{
    const struct adam_case cases[] = {
        { "plain", plain, 1, 1 },
        { "plain", plain, 33, 130 },
        { "decay and clipping", all, 200, 1000 },
        { "no correction of bias", bare, 61, 64 },
        { "many", all, 70000, 5 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++)
        adam_run(g, &cases[i]);
    adam_refuses(g, NAN);
    adam_refuses(g, INFINITY);
    adam_refuses(g, 3e30f); /* its square is not finite */
    struct gpu *small = ops_open_small(16384);
    if (small)
        adam_run(small, &(struct adam_case){ "pieces", all, 3000, 150 });
    if (small)
        CHECK_EQ(gpu_validation_count(small), 0);
    gpu_close(small);
}

void test_ops_train(void)
{
    static const struct {
        uint32_t n_vocab, n_row;
    } rows[] = {
        { 1, 2 },    { 2, 3 },     { 33, 9 },     { 408, 20 },
        { 1024, 5 }, { 32000, 3 }, { 151936, 3 }, { 262144, 2 },
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    gather_case(g, 4, 3, 2, 4);
    gather_case(g, 68, 23, 11, 4);
    gather_case(g, 516, 40, 32, 8);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        for (enum logits_kind k = LOGITS_PLAIN; k <= LOGITS_HOLES; k++)
            if (rows[i].n_vocab < 30000 || k == LOGITS_SURE)
                nll_case(g, rows[i].n_vocab, rows[i].n_row, k, i != 2);
    test_no_number(g);
    test_adam(g);
    gate_case(g, 1, true);
    gate_case(g, 48, true);
    gate_case(g, 67, false);
    beside_case(g, 4, 4, 3);
    beside_case(g, 64, 68, 9);
    ops_report(g);
}
