/* test_ops_moe_bwd: op_moe in training: its gradients with and without adapters, and experts whose
 * choice is kept. */
#include "ops_moe.h"
#include "ops_train.h"
#include "ref/ref_bwd.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* NMSE of results that are sums, and of results that are only scaled or copied. */
static const struct bound sum_off = { .most = 1e-13 };
static const struct bound copy_off = { .most = 1e-14 };

/* ---- the router's kernels -------------------------------------------------------------------- */

struct route_row {
    uint32_t n_expert, n_used, n_tok;
    bool sigmoid, raw;
};

/* Distinct experts for every token, in no order of their logits. */
static uint32_t *held_ids(struct rig *r, uint32_t n_expert, uint32_t n_used, uint32_t n_tok,
                          uint32_t stride)
{
    uint32_t *id = rig_alloc(r, (uint64_t)stride * n_tok, sizeof *id);
    for (uint32_t t = 0; t < n_tok; t++)
        for (uint32_t s = 0; s < n_used; s++)
            id[t * stride + s] = (7 * t + 3 * s + 1) % n_expert;
    return id;
}

static void ref_weights(const struct route_row *c, const double *x, const uint32_t *id, double *wt)
{
    double sum = c->sigmoid ? 1e-20 : 0;
    for (uint32_t s = 0; s < c->n_used; s++)
        sum += wt[s] = c->sigmoid ? ref_sigmoid(x[id[s]]) : exp(x[id[s]]);
    for (uint32_t s = 0; s < c->n_used; s++)
        wt[s] *= !c->sigmoid ? 1 / sum : c->raw ? 2.5 : 2.5 / sum;
}

/* Of one token: the weights of its experts, and what the gradient d of these adds to that of the
 * logits x. */
static void ref_route(const struct route_row *c, const double *x, const uint32_t *id, double *wt,
                      const double *d, double *dx)
{
    ref_weights(c, x, id, wt);
    if (c->sigmoid)
        ref_moe_route_sigmoid_bwd(x, id, c->n_used, !c->raw, 2.5, d, dx);
    else
        ref_moe_route_bwd(wt, id, c->n_used, d, dx);
}

static void route_case(struct gpu *g, const struct route_row *c)
{
    if (!test_case("route %u of %u, %u tokens%s%s", c->n_used, c->n_expert, c->n_tok,
                   c->sigmoid ? ", sigmoid" : "", c->raw ? ", raw" : ""))
        return;
    struct rig r = rig_open(g, "moe_route_bwd");
    uint32_t wide = c->n_expert + 5, stride = (uint32_t)align_up(c->n_used, 4);
    uint64_t n = (uint64_t)c->n_expert * c->n_tok, n_wt = (uint64_t)c->n_used * c->n_tok;
    float *x_v = rig_normal(&r, n, 2), *dx_v = rig_normal(&r, n, 0.3);
    float *dwt_v = rig_normal(&r, n_wt, 1);
    uint32_t *id_v = held_ids(&r, c->n_expert, c->n_used, c->n_tok, stride);
    tensor x = rig_view(&r, F32, c->n_expert, c->n_tok, wide, 3);
    tensor dx = rig_view(&r, F32, c->n_expert, c->n_tok, wide + 4, 2);
    tensor dwt = rig_view(&r, F32, c->n_used, c->n_tok, stride + 4, 0);
    tensor id = rig_words(&r, id_v, stride * c->n_tok);
    tensor wt = cmd_scratch(r.c, F32, c->n_used, c->n_tok);
    rig_put(&r, x, x_v);
    rig_put(&r, dx, dx_v);
    rig_put(&r, dwt, dwt_v);
    rig_writes(&r, dx);
    struct push_route p = { .n_expert = c->n_expert,
                            .n_used = c->n_used,
                            .id_stride = stride,
                            .x_stride = x.stride,
                            .x_col = x.col,
                            .n_group = 1,
                            .n_group_used = 1,
                            .renorm = !c->raw,
                            .scale = 2.5f };
    uint32_t wg = wg_size(gpu_caps(g), 64);
    cmd_dispatch(r.c, K_moe_route, GRID(c->n_tok, 1, 1),
                 SPEC(.wg = wg, .route = c->sigmoid, .routed = 1), PUSH(p),
                 USES(READ(x), BOTH(id), WRITE(wt), READ(x), BOTH(id), READ(x)));
    struct push_route_bwd b = {
        .n_tok = c->n_tok,
        .n_used = c->n_used,
        .id_stride = stride,
        .dwt_stride = dwt.stride,
        .x_stride = x.stride,
        .x_col = x.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .renorm = !c->raw,
        .scale = 2.5f,
    };
    cmd_dispatch(r.c, K_moe_route_bwd, GRID(div_up(c->n_tok, wg), 1, 1),
                 SPEC(.wg = wg, .route = c->sigmoid), PUSH(b),
                 USES(READ(x), READ(id), READ(wt), READ(dwt), BOTH(dx)));

    double *logits = rig_doubles(&r, x_v, n), *want = rig_doubles(&r, dx_v, n);
    double *want_wt = rig_doubles(&r, NULL, n_wt), *d = rig_doubles(&r, dwt_v, n_wt);
    for (uint32_t t = 0; t < c->n_tok; t++)
        ref_route(c, logits + t * c->n_expert, id_v + t * stride, want_wt + t * c->n_used,
                  d + t * c->n_used, want + t * c->n_expert);
    if (rig_run(&r)) {
        rig_near(&r, "weights", wt, want_wt, sum_off.most);
        rig_near(&r, "dlogits", dx, want, sum_off.most);
    }
    rig_close(&r);
}

/* ---- sums over slots ------------------------------------------------------------------------- */

struct sum_row {
    uint32_t n, n_used, n_tok;
    bool add;
};

/* Rows of one stride, as ops have them. */
static tensor rows(struct rig *r, const float *v, uint32_t n, uint32_t n_row)
{
    tensor t = rig_view(r, F32, n, n_row, (uint32_t)align_up(n, 4) + 8, 0);
    rig_put(r, t, v);
    return t;
}

static void sum_bwd_case(struct gpu *g, const struct sum_row *c)
{
    if (!test_case("sum of %u slots, %u wide, %u tokens%s", c->n_used, c->n, c->n_tok,
                   c->add ? ", onto a residual" : ""))
        return;
    struct rig r = rig_open(g, "moe_sum_bwd");
    uint32_t n_entry = c->n_tok * c->n_used;
    uint64_t n_x = (uint64_t)n_entry * c->n, n_y = (uint64_t)c->n_tok * c->n;
    float *x_v = rig_normal(&r, n_x, 1), *wt_v = rig_normal(&r, n_entry, 1);
    float *dy_v = rig_normal(&r, n_y, 1), *dwt_v = rig_normal(&r, n_entry, 1);
    float *dres_v = rig_normal(&r, n_y, 1), *even_v = rig_normal(&r, n_y, 1);
    tensor x = rows(&r, x_v, c->n, n_entry), wt = rows(&r, wt_v, c->n_used, c->n_tok);
    tensor dy = rows(&r, dy_v, c->n, c->n_tok), dwt = rows(&r, dwt_v, c->n_used, c->n_tok);
    tensor dres = rows(&r, dres_v, c->n, c->n_tok), even = rows(&r, even_v, c->n, c->n_tok);
    rig_writes(&r, x);
    rig_writes(&r, dwt);
    rig_writes(&r, even);
    if (c->add)
        rig_writes(&r, dres);
    uint32_t wg = wg_size(gpu_caps(g), 128);
    struct push_moe_sum p = { .n = c->n,
                              .n_tok = c->n_tok,
                              .n_used = c->n_used,
                              .wt_stride = wt.stride,
                              .x_stride = x.stride,
                              .res_stride = dres.stride,
                              .y_stride = dy.stride,
                              .dwt_stride = dwt.stride };
    cmd_dispatch(r.c, K_moe_sum_bwd, GRID(c->n_tok, c->n_used, 1), SPEC(.wg = wg, .add = c->add),
                 PUSH(p), USES(BOTH(x), READ(wt), READ(dy), BOTH(dwt), BOTH(dres)));
    /* after an expert's input: the rows of a token are summed onto a gradient */
    cmd_dispatch(r.c, K_moe_sum, GRID(div_up(c->n / 4 * c->n_tok, wg), 1, 1),
                 SPEC(.wg = wg, .add = 1, .even = 1), PUSH(p),
                 USES(READ(x), READ(wt), READ(even), WRITE(even)));

    double *dx = rig_doubles(&r, NULL, n_x), *want_dwt = rig_doubles(&r, dwt_v, n_entry);
    double *want_dres = rig_doubles(&r, dres_v, n_y), *sum = rig_doubles(&r, even_v, n_y);
    for (uint64_t e = 0; e < n_entry; e++)
        for (uint32_t i = 0; i < c->n; i++) {
            uint64_t at = e / c->n_used * c->n + i;
            want_dwt[e] += (double)x_v[e * c->n + i] * (double)dy_v[at];
            dx[e * c->n + i] = (double)wt_v[e] * (double)dy_v[at];
            sum[at] += dx[e * c->n + i];
        }
    for (uint64_t i = 0; c->add && i < n_y; i++)
        want_dres[i] += (double)dy_v[i];
    if (rig_run(&r)) {
        rig_near(&r, "dx", x, dx, copy_off.most);
        rig_near(&r, "dweights", dwt, want_dwt, sum_off.most);
        rig_near(&r, "dres", dres, want_dres, copy_off.most);
        rig_near(&r, "onto", even, sum, sum_off.most);
    }
    rig_close(&r);
}

/* ---- the whole op ---------------------------------------------------------------------------- */

/* NMSE of any result; measured for dA of the gate matrix. */
static const struct bound moe_off = { .most = 5e-13, .measured = 2.6e-13 };

/* The gradients of adapters on gate and up, joint or apart, and on down, compared with the
 * reference's. Of joint ones the reference has B in two parts. */
struct adapted {
    struct grads a[3], b[3];
    struct ref_moe_lora ref;
    bool joint;
};

/* Copies rows [first, first + n) of each expert of m [n_expert][n_out][rank] to a matrix of their
 * own, or back. */
static void move_rows(double *m, double *part, const linear *b, uint32_t first, uint32_t n,
                      bool back)
{
    for (uint64_t e = 0; e < b->n_expert; e++) {
        double *x = m + (e * b->n_out + first) * b->n_in, *y = part + e * n * b->n_in;
        memcpy(back ? x : y, back ? y : x, (uint64_t)n * b->n_in * sizeof *x);
    }
}

static struct ref_lora ref_part(struct rig *r, const struct weight *w, struct grads *a,
                                struct grads *b, uint32_t first, uint32_t n)
{
    const linear *lb = &w->w.lora->b;
    uint64_t n_part = (uint64_t)lb->n_expert * n * lb->n_in;
    uint64_t n_a = (uint64_t)w->w.n_expert * lb->n_in * w->w.n_in;
    uint64_t n_b = (uint64_t)lb->n_expert * lb->n_out * lb->n_in;
    double *v = rig_doubles(r, NULL, n_part), *d = rig_doubles(r, NULL, n_part);
    move_rows(rig_doubles(r, w->lora_b, n_b), v, lb, first, n, false);
    move_rows(b->want, d, lb, first, n, false);
    return (struct ref_lora){ .rank = lb->n_in,
                              .scale = 1,
                              .a = rig_doubles(r, w->lora_a, n_a),
                              .b = v,
                              .da = a->want,
                              .db = d };
}

static struct adapted adapted(struct rig *r, const struct moe_pair *p)
{
    const struct weight *w[] = { &p->gate, &p->up, &p->down };
    struct adapted a = { .joint = p->m.gate_up.n_in };
    struct ref_lora *ref[] = { &a.ref.experts.gate, &a.ref.experts.up, &a.ref.experts.down };
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t at = a.joint && i == 1 ? 0 : i, n = w[i]->w.n_out;
        if (!w[i]->w.lora || (i == 0 && p->m.act.kind == ACT_RELU2))
            continue;
        if (at == i) {
            a.a[i] = rig_grad_factor(r, &w[i]->w.lora->a);
            a.b[i] = rig_grad_factor(r, &w[i]->w.lora->b);
        }
        if (a.joint && i < 2)
            n /= 2;
        *ref[i] = ref_part(r, w[i], &a.a[at], &a.b[at], i != at ? n : 0, n);
    }
    return a;
}

static void near_adapted(struct rig *r, const struct moe_pair *p, struct adapted *a)
{
    static const char *const name[][2] = { { "dA of gate", "dB of gate" },
                                           { "dA of up", "dB of up" },
                                           { "dA of down", "dB of down" } };
    const struct weight *w[] = { &p->gate, &p->up, &p->down };
    struct ref_lora *ref[] = { &a->ref.experts.gate, &a->ref.experts.up, &a->ref.experts.down };
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t at = a->joint && i == 1 ? 0 : i, n = w[i]->w.n_out;
        if (!ref[i]->rank)
            continue;
        if (a->joint && i < 2)
            n /= 2;
        move_rows(a->b[at].want, ref[i]->db, &w[i]->w.lora->b, i != at ? n : 0, n, true);
    }
    for (uint32_t i = 0; i < 3; i++)
        if (a->a[i].t.arena) {
            rig_near_grad(r, name[i][0], &a->a[i], moe_off.most);
            rig_near_grad(r, name[i][1], &a->b[i], moe_off.most);
        }
}

/* As in the first pass over a training row: nothing is recorded, and the chosen experts are kept
 * for the second pass. */
static tensor first_pass(struct rig *r, tensor x, tensor norm, const struct moe *m)
{
    if (tape_runs(r->c))
        tape_back(r->c, x, x); /* belongs to no op */
    tape_layer(r->c, 0, false);
    tensor y = op_moe(r->c, (struct normed){ x, norm, MOE_EPS }, m, &(struct moe_layer){ 0 }, NULL);
    tape_layer(r->c, 0, true);
    tape_begin(r->c, (tensor){ 0 }, (tensor){ 0 });
    return y;
}

static void whole_case(struct gpu *g, const struct moe_row *c)
{
    uint64_t n = (uint64_t)c->n_tok * c->n_embd;
    char text[200];
    if (!test_case("moe backward %s%s", moe_text(c, text), c->frozen ? ", frozen input" : ""))
        return;
    struct rig r = rig_open_train(g, "moe_bwd", NULL);
    struct moe_pair pair = moe_make(&r, c, false);
    float *x_v = rig_normal(&r, n, 1), *norm_v = rig_normal(&r, c->n_embd, 1);
    tensor x = rig_dense(&r, x_v, c->n_embd, c->n_tok), norm = rig_dense(&r, norm_v, c->n_embd, 1);
    /* the choice of a first pass is kept, even where the device's own would be another */
    tensor first = first_pass(&r, x, norm, &pair.m);
    if (c->sigmoid)
        pair.m.bias = rig_dense(&r, rig_normal(&r, c->n_expert, 2), c->n_expert, 1);
    struct grads dx = { 0 };
    if (!c->frozen)
        dx = rig_grad(&r, x);
    struct adapted a = adapted(&r, &pair);
    tensor y =
        op_moe(r.c, (struct normed){ x, norm, MOE_EPS }, &pair.m, &(struct moe_layer){ 0 }, NULL);
    double *dy = rig_back(&r, y);

    double *xd = rig_doubles(&r, x_v, n), *h = rig_doubles(&r, x_v, n);
    double *want = rig_doubles(&r, NULL, n), *dh = rig_doubles(&r, NULL, n);
    ref_rmsnorm(h, norm_v, c->n_embd, c->n_tok, (double)MOE_EPS, h);
    ref_moe_lora(&pair.ref, &a.ref, h, c->n_tok, want);
    ref_moe_bwd(&pair.ref, &a.ref, h, c->n_tok, dy, dh);
    for (uint64_t i = 0; i < n; i++)
        want[i] += xd[i];
    if (!c->frozen) {
        ref_rmsnorm_bwd(xd, norm_v, c->n_embd, c->n_tok, (double)MOE_EPS, dh, dx.want);
        for (uint64_t i = 0; i < n; i++)
            dx.want[i] += dy[i];
    }
    if (rig_run(&r)) {
        rig_near(&r, "y", y, want, moe_off.most);
        CHECK(memcmp(rig_get(&r, first), rig_get(&r, y), 4 * n) == 0);
        if (!c->frozen)
            rig_near_grad(&r, "dx", &dx, moe_off.most);
        near_adapted(&r, &pair, &a);
    }
    rig_close(&r);
}
/* Forward and back; dx starts as zeros. */
static tensor run_among(struct rig *r, const struct moe *m, tensor norm, const float *x_v,
                        const float *dy_v, uint32_t n_tok, tensor *dx)
{
    tensor x = rig_dense(r, x_v, norm.n, n_tok), dy = rig_dense(r, dy_v, norm.n, n_tok);
    *dx = rig_dense(r, rig_normal(r, (uint64_t)n_tok * norm.n, 0), norm.n, n_tok);
    rig_writes(r, *dx);
    first_pass(r, x, norm, m);
    grad_is(r->c, x, *dx);
    tensor y = op_moe(r->c, (struct normed){ x, norm, MOE_EPS }, m, &(struct moe_layer){ 0 }, NULL);
    tape_back(r->c, y, dy);
    return y;
}

/* Tokens and their gradients have the same bits among other tokens, and elsewhere in a longer
 * batch. */
static void neighbours_case(struct gpu *g, const struct moe_row *c, uint32_t n_more)
{
    uint32_t n_tok = c->n_tok + n_more, w = c->n_embd;
    char text[200];
    if (!test_case("moe among %u others: %s", n_more, moe_text(c, text)))
        return;
    struct rig r = rig_open_train(g, "moe_bwd", NULL);
    struct moe_pair pair = moe_make(&r, c, false);
    float *x = rig_normal(&r, (uint64_t)n_tok * w, 1), *dy = rig_normal(&r, (uint64_t)n_tok * w, 1);
    float *far_x = rig_alloc(&r, (uint64_t)n_tok * w, 4);
    float *far_dy = rig_alloc(&r, (uint64_t)n_tok * w, 4);
    for (uint32_t i = 0; i < n_tok; i++) { /* in reverse: the others come first */
        memcpy(far_x + i * w, x + (n_tok - 1 - i) * w, 4ull * w);
        memcpy(far_dy + i * w, dy + (n_tok - 1 - i) * w, 4ull * w);
    }
    tensor norm = rig_dense(&r, rig_normal(&r, w, 1), w, 1), near_dx, far_dx;
    tensor far_y = run_among(&r, &pair.m, norm, far_x, far_dy, n_tok, &far_dx);
    tensor near_y = run_among(&r, &pair.m, norm, x, dy, c->n_tok, &near_dx);
    if (rig_run(&r)) {
        const float *y[] = { rig_get(&r, near_y), rig_get(&r, far_y) };
        const float *dx[] = { rig_get(&r, near_dx), rig_get(&r, far_dx) };
        for (uint32_t i = 0; i < c->n_tok; i++) {
            uint32_t at = i * w, far = (n_tok - 1 - i) * w;
            CHECK_MSG(memcmp(y[0] + at, y[1] + far, 4ull * w) == 0, "token %u: y", i);
            CHECK_MSG(memcmp(dx[0] + at, dx[1] + far, 4ull * w) == 0, "token %u: dx", i);
        }
    }
    rig_close(&r);
}

/* A device that has no kernel for tiles of entries. */
static void refused_case(void)
{
    struct gpu *g = ops_open_small(1 << 20);
    if (!g)
        return;
    test_case("training without room for tiles");
    struct rig r = rig_open_train(g, "moe_bwd", NULL);
    struct gpu_caps *caps = (struct gpu_caps *)gpu_caps(g);
    float v[32] = { 0 };
    tensor x = rig_dense(&r, v, 32, 1);
    caps->kind = GPU_OTHER;
    caps->max_shared = 16 << 10;
    tensor y = op_moe(r.c, (struct normed){ x, x, MOE_EPS },
                      &(struct moe){ .n_expert = 4, .n_used = 2, .n_ff = 32 },
                      &(struct moe_layer){ 0 }, NULL);
    tape_back(r.c, y, x); /* finds nothing to undo, and no shape of y */
    CHECK_REFUSED(cmd_check(r.c, &r.err), r.err, "training|experts");
    rig_close(&r);
    gpu_close(g);
}

void test_ops_moe_bwd(void)
{
    static const struct route_row route[] = {
        { 5, 2, 1, false, false },   { 128, 8, 17, false, false }, { 5, 3, 7, true, false },
        { 128, 6, 17, true, false }, { 9, 3, 7, true, true },      { 7, 1, 3, false, false },
    };
    static const struct sum_row sum[] = {
        { 4, 1, 1, true },
        { 68, 3, 7, false },
        { 260, 8, 5, true },
        { 32, 10, 17, true },
    };
    static const struct moe_row moe[] = {
        { 5, 2, 64, 36, 64, 7, F32, F32, F32, F32, .rank = 4 },
        { 5, 2, 64, 36, 64, 1, F32, F32, F32, F32, .rank = 4 },
        { 4, 2, 64, 32, 32, 9, Q8_0, F32, Q8_0, F32, .rank = 4 }, /* gate and up apart */
        { 4, 2, 36, 32, 0, 9, F32, F32, F32, F32, .rank = 0 },
        { 6, 2, 64, 32, 96, 7, F32, F32, F32, F32, .sigmoid = true, .act = RELU2, .rank = 4 },
        { 6, 3, 36, 32, 64, 5, F32, F32, F32, F32, .sigmoid = true, .raw = true, .act = CUT,
          .rank = 4, .frozen = true },
        { 24, 6, 64, 32, 64, 7, F32, F32, F32, F32, .sigmoid = true, .n_group = 6,
          .n_group_used = 2, .act = CUT, .rank = 4 },
        { 9, 3, 64, 36, 32, 7, F32, F32, F32, F32, .sigmoid = true, .n_latent = 20, .act = RELU2,
          .rank = 4 },
        { 4, 2, 32, 32, 32, 65, F32, F32, F32, F32, .rank = 4 }, /* several tiles */
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(route); i++)
        route_case(g, &route[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(sum); i++)
        sum_bwd_case(g, &sum[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(moe); i++)
        whole_case(g, &moe[i]);
    /* every token goes to the first expert and none to the last, around the size of a tile */
    uint32_t tile = linear_group_tile(gpu_caps(g), 1);
    for (uint32_t n_tok = tile - 1; tile && n_tok <= tile + 1; n_tok++)
        whole_case(g, &(struct moe_row){ 4, 2, 32, 32, 32, n_tok, F32, F32, F32, F32,
                                         .sigmoid = true, .act = RELU2, .rank = 4, .pull = 9 });
    neighbours_case(g, &(struct moe_row){ 5, 2, 64, 36, 64, 7, F32, F32, F32, F32, .rank = 4 }, 90);
    refused_case();
    ops_report(g);
}
