/* test_ops_bwd: the backward of products - matrices of all types, alone and side by side, with
 * low-rank factors, dropout and gates - of norms and of activations. */
#include "ops_train.h"
#include "ref/ref_bwd.h"

#include <stdio.h>
#include <string.h>

#define EPS 1e-6f

/* NMSE of gradients: of one product; of a chain of two, as through an adapter, and of norms; of a
 * residual, which is only added. */
static const struct bound product_off = { .most = 1e-13 };
static const struct bound chain_off = { .most = 1e-12 };
static const struct bound residual_off = { .most = 1e-14 };

/* ---- dX and outer products, as the ops call them --------------------------------------------- */

struct product_shape {
    enum dtype dtype;
    uint32_t n_in, n_out, n_tok;
};

static const char *shape_text(char text[64], struct product_shape s)
{
    snprintf(text, 64, "%s %u x %u, %u tokens", dtype_info(s.dtype)->name, s.n_in, s.n_out,
             s.n_tok);
    return text;
}

struct pending_grads {
    struct grads dx;
    struct product_shape s;
};

/* Records dX for a shape. Where a number is odd, the rows and columns of dy allow no wide loads. */
static struct pending_grads record(struct rig *r, const struct linear_path *path,
                                   struct product_shape s, bool odd)
{
    struct weight w = rig_weight(r, s.dtype, s.n_in, s.n_out, 1, 1, false);
    const float *v = rig_normal(r, (uint64_t)s.n_out * s.n_tok, 1);
    tensor dy = rig_view(r, F32, s.n_out, s.n_tok, (uint32_t)align_up(s.n_out, 4) + (odd ? 7 : 4),
                         odd ? 3 : 4);
    tensor x = rig_view(r, F32, s.n_in, s.n_tok, s.n_in + 12, 8);
    struct pending_grads p = { rig_grad(r, x), s };
    rig_put(r, dy, v);
    linear_bwd_by(r->c, path, &w.w, dy, p.dx.t);
    if (path->f16) {
        w = rig_f16_weight(r, w);
        v = rig_f16_rows(r, v, s.n_out, s.n_tok);
    }
    ref_linear_bwd(w.v, s.n_in, s.n_out, NULL, NULL, s.n_tok,
                   rig_doubles(r, v, (uint64_t)s.n_out * s.n_tok), p.dx.want);
    return p;
}

/* Tiles are 1, 2 or 4 subgroups, or 16, 32 or 64 tokens, by 8, 16, 32 or 128 columns. */
static void bwd_shapes(struct gpu *g, const struct linear_path *path)
{
    static const uint32_t toks[] = { 1, 7, 9, 33, 65 }, outs[] = { 1, 4, 5, 33 };
    static const uint32_t ins[] = { 4, 12, 36, 132 };
    struct pending_grads p[ARRAY_LEN(toks) * ARRAY_LEN(outs) * ARRAY_LEN(ins)];
    uint32_t n = 0;
    if (!test_case("dX by %s, F32, %zu shapes", path->name, ARRAY_LEN(p)))
        return;
    struct rig r = rig_open_train(g, "linear_bwd", NULL);
    for (uint32_t t = 0; t < ARRAY_LEN(toks); t++)
        for (uint32_t o = 0; o < ARRAY_LEN(outs); o++)
            for (uint32_t i = 0; i < ARRAY_LEN(ins); i++, n++)
                p[n] = record(&r, path, (struct product_shape){ F32, ins[i], outs[o], toks[t] },
                              t == 2);
    bool good = rig_run(&r);
    char text[64];
    for (uint32_t i = 0; good && i < n; i++)
        good = rig_near_grad(&r, path->name, &p[i].dx, product_off.most) ||
               FAIL("that was %s", shape_text(text, p[i].s));
    rig_close(&r);
}

/* As in test_ops_linear. */
static bool takes(struct gpu *g, const struct linear_path *path)
{
    return linear_path_runs(gpu_caps(g), path) &&
           !(path->kernel == K_linear_tile_bwd && ops_brief_skips(K_linear_tile_bwd));
}

static void bwd_types(struct gpu *g, const struct linear_path *path)
{
    static const enum dtype types[] = { Q4_K, IQ3_S, F16, Q8_0, Q2_K };
    bool few = test_brief() || path->kernel == K_linear_tile_bwd;
    uint32_t n = few ? 2 : ARRAY_LEN(types); /* the same loader */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_in = max_u32(dtype_info(types[i])->block_len, 32);
        if (!test_case("dX by %s, %s", path->name, dtype_info(types[i])->name))
            continue;
        struct rig r = rig_open_train(g, "linear_bwd", NULL);
        struct pending_grads p =
            record(&r, path, (struct product_shape){ types[i], 2 * n_in, 13, 5 }, false);
        char what[64];
        snprintf(what, sizeof what, "%s, %s", path->name, dtype_info(types[i])->name);
        if (rig_run(&r))
            rig_near_grad(&r, what, &p.dx, product_off.most);
        rig_close(&r);
    }
}

/* The gradient of the matrix itself; either side may be the long one. */
static void outer_shapes(struct gpu *g)
{
    static const struct product_shape shapes[] = {
        { F32, 4, 1, 1 },     { F32, 36, 4, 7 },   { F32, 8, 33, 300 },
        { F32, 132, 20, 65 }, { F32, 20, 129, 9 }, { F32, 12, 12, 33 },
    };
    struct grads dw[ARRAY_LEN(shapes)];
    if (!test_case("outer products, %zu shapes", ARRAY_LEN(shapes)))
        return;
    struct rig r = rig_open_train(g, "outer", NULL);
    for (uint32_t i = 0; i < ARRAY_LEN(shapes); i++) {
        struct product_shape s = shapes[i];
        struct weight w = rig_weight(&r, F32, s.n_in, s.n_out, 1, 1, false);
        const float *x = rig_normal(&r, (uint64_t)s.n_in * s.n_tok, 1);
        const float *dy = rig_normal(&r, (uint64_t)s.n_out * s.n_tok, 1);
        tensor dy_t = rig_view(&r, F32, s.n_out, s.n_tok, s.n_out + 3, i % 3);
        rig_put(&r, dy_t, dy);
        dw[i] = rig_grad_factor(&r, &w.w);
        linear_outer(r.c, &w.w, rig_strided(&r, x, s.n_in, s.n_tok), dy_t, dw[i].t);
        for (uint64_t t = 0; t < s.n_tok; t++)
            for (uint64_t o = 0; o < s.n_out; o++)
                for (uint64_t k = 0; k < s.n_in; k++)
                    dw[i].want[o * s.n_in + k] +=
                        (double)dy[t * s.n_out + o] * (double)x[t * s.n_in + k];
    }
    bool good = rig_run(&r);
    char text[64];
    for (uint32_t i = 0; good && i < ARRAY_LEN(shapes); i++)
        good = rig_near_grad(&r, "outer", &dw[i], product_off.most) ||
               FAIL("that was %s", shape_text(text, shapes[i]));
    rig_close(&r);
}

/* Equal rows give equal results, to the last bit, wherever they are in a batch. */
static void places(struct gpu *g, enum dtype dtype)
{
    enum { N_IN = 64, N_OUT = 37, N_TOK = 45 };
    if (!test_case("a row's place in the batch, %s", dtype_info(dtype)->name))
        return;
    struct rig r = rig_open(g, "linear_bwd");
    struct weight w = rig_weight(&r, dtype, N_IN, N_OUT, 1, 1, false);
    float *v[3] = { rig_normal(&r, N_IN * N_TOK, 1), rig_normal(&r, N_OUT * N_TOK, 1),
                    rig_normal(&r, N_IN * N_TOK, 1) };
    const uint32_t n[3] = { N_IN, N_OUT, N_IN };
    for (uint32_t i = 0; i < 3; i++) /* the last row equals the first, and so on */
        for (uint32_t t = 0; t < N_TOK / 2; t++)
            memcpy(v[i] + (N_TOK - 1 - t) * n[i], v[i] + t * n[i], 4 * n[i]);
    tensor x = rig_strided(&r, v[0], N_IN, N_TOK), dy = rig_strided(&r, v[1], N_OUT, N_TOK);
    tensor dx = rig_strided(&r, v[2], N_IN, N_TOK);
    rig_writes(&r, dx);
    tensor y = op_linear(r.c, x, LINEARS(&w.w));
    linear_bwd(r.c, &w.w, dy, dx);
    if (rig_run(&r)) {
        const float *got[2] = { rig_get(&r, y), rig_get(&r, dx) };
        for (uint32_t i = 0; i < 2; i++)
            for (uint32_t t = 0, k = n[1 + i]; t < N_TOK / 2; t++)
                CHECK_MSG(memcmp(got[i] + t * k, got[i] + (N_TOK - 1 - t) * k, 4 * k) == 0,
                          "%s: rows %u and %u differ", i ? "dx" : "y", t, N_TOK - 1 - t);
    }
    rig_close(&r);
}

/* 129 rows of 256 f32 where a binding spans 16 of them. */
static void pieces(void)
{
    struct gpu *g = ops_open_small(16384);
    if (!g)
        return;
    test_case("back in pieces");
    struct rig r = rig_open_train(g, "back in pieces", NULL);
    struct pending_grads p[8];
    HLM_ASSERT(n_linear_bwd_path <= ARRAY_LEN(p));
    for (uint32_t i = 0; i < n_linear_bwd_path; i++)
        if (takes(g, &linear_bwd_paths[i]))
            p[i] =
                record(&r, &linear_bwd_paths[i], (struct product_shape){ F32, 256, 129, 5 }, false);
    struct weight w = rig_weight(&r, F32, 256, 129, 1, 1, false);
    const float *x = rig_normal(&r, 256 * 5, 1), *dy = rig_normal(&r, 129 * 5, 1);
    struct grads dw = rig_grad_factor(&r, &w.w);
    CHECK(linear_slab_rows(gpu_caps(g), &w.w) < 129);
    linear_outer(r.c, &w.w, rig_strided(&r, x, 256, 5), rig_strided(&r, dy, 129, 5), dw.t);
    for (uint32_t i = 0; i < 5 * 129 * 256; i++)
        dw.want[i % (129 * 256)] +=
            (double)dy[i / 256] * (double)x[i / (129 * 256) * 256 + i % 256];
    if (rig_run(&r)) {
        for (uint32_t i = 0; i < n_linear_bwd_path; i++)
            if (takes(g, &linear_bwd_paths[i]))
                rig_near_grad(&r, linear_bwd_paths[i].name, &p[i].dx, product_off.most);
        rig_near_grad(&r, "outer", &dw, product_off.most);
    }
    rig_close(&r);
    ops_report(g);
    gpu_close(g);
}

/* ---- ops ------------------------------------------------------------------------------------- */

static void norm_case(struct gpu *g, uint32_t n, uint32_t n_row)
{
    if (!test_case("norm back, %u x %u", n, n_row))
        return;
    struct rig r = rig_open_train(g, "norm_bwd", NULL);
    float *x_v = rig_normal(&r, (uint64_t)n * n_row, 1), *w_v = rig_normal(&r, n, 1);
    for (uint32_t i = 0; i < n && n_row > 1; i++)
        x_v[n + i] *= 1e-3f;
    tensor x = rig_strided(&r, x_v, n, n_row);
    struct grads dx = rig_grad(&r, x);
    double *dy = rig_back(&r, op_norm(r.c, x, rig_dense(&r, w_v, n, 1), EPS));
    ref_rmsnorm_bwd(rig_doubles(&r, x_v, (uint64_t)n * n_row), w_v, n, n_row, (double)EPS, dy,
                    dx.want);
    if (rig_run(&r))
        rig_near_grad(&r, "norm", &dx, chain_off.most);
    rig_close(&r);
}

static void act_case(struct gpu *g, struct act act, const char *what, uint32_t n, uint32_t n_tok)
{
    uint32_t width = act_width(act);
    if (!test_case("%s back, %u x %u", what, n, n_tok))
        return;
    struct rig r = rig_open_train(g, "act_bwd", NULL);
    float *v = rig_normal(&r, (uint64_t)width * n * n_tok, 2);
    tensor x = rig_view(&r, F32, width * n, n_tok, width * n + 8, 4);
    rig_put(&r, x, v);
    struct grads dx = rig_grad(&r, x);
    double *dy = rig_back(&r, op_act(r.c, x, act));
    double *in = rig_doubles(&r, v, (uint64_t)width * n * n_tok);
    for (uint32_t t = 0; t < n_tok; t++) {
        uint32_t at = t * width * n;
        if (act.kind == ACT_SWIGLU)
            ref_swiglu_limit_bwd(in + at, in + at + n, n, (double)act.limit, dy + t * n,
                                 dx.want + at, dx.want + at + n);
        else
            ref_relu2_bwd(in + at, n, dy + t * n, dx.want + at);
    }
    if (rig_run(&r))
        rig_near_grad(&r, what, &dx, product_off.most);
    rig_close(&r);
}

/* ---- test program's own generator ------------------------------------------------------------ */

/* Philox4x32-10: Salmon et al., 2011. */
static void philox(uint32_t v[4], uint32_t k0, uint32_t k1)
{
    for (int i = 0; i < 10; i++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = 0xD2511F53ull * v[0], b = 0xCD9E8D57ull * v[2];
        uint32_t next[4] = { (uint32_t)(b >> 32) ^ v[1] ^ k0, (uint32_t)b,
                             (uint32_t)(a >> 32) ^ v[3] ^ k1, (uint32_t)a };
        memcpy(v, next, sizeof next);
    }
}

/* The factor of an element under dropout. */
static double unit(const struct rig_dropout *d, uint32_t id, uint64_t i)
{
    uint32_t v[4] = { (uint32_t)(i / 4), id, d->key[2], d->key[3] };
    if (d->p == 0)
        return 1;
    philox(v, d->key[0], d->key[1]);
    return v[i % 4] < (uint32_t)((double)d->p * 0x1p32) ? 0 : (double)(1 / (1 - d->p));
}

static void philox_known(void)
{
    static const uint32_t want[2][4] = {
        /* Random123's own test vectors: zeros, and all ones */
        { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
    };
    test_case("the counter generator's known answers");
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t c = 0 - i, v[4] = { c, c, c, c };
        philox(v, c, c);
        CHECK(memcmp(v, want[i], sizeof v) == 0);
    }
}

/* ---- products with all that belongs to them -------------------------------------------------- */

/* y += (W + B A D) x of one matrix and back; D is what dropout leaves of x. dy and y are rows of
 * n_y, from column col. row0 is the number of the first row in the stream of dropout. */
struct beside {
    const struct weight *w;
    uint32_t col, n_y, n_tok, row0;
    const struct rig_dropout *d;
};

static void reference(struct rig *r, const struct beside *b, const double *x, double *y,
                      const double *dy, double *dx, double *da, double *db)
{
    const struct weight *w = b->w;
    const linear *l = &w->w;
    uint32_t n_in = l->n_in, n_out = l->n_out, rank = l->lora ? l->lora->a.n_out : 0;
    double *in = rig_doubles(r, NULL, n_in), *din = rig_doubles(r, NULL, n_in);
    struct ref_lora f = { .rank = rank,
                          .scale = 1,
                          .da = da,
                          .db = db,
                          .a = rig_doubles(r, w->lora_a, (uint64_t)rank * n_in),
                          .b = rig_doubles(r, w->lora_b, (uint64_t)n_out * rank) };
    double *sum = rig_doubles(r, NULL, n_out);
    float *none = rig_alloc(r, (uint64_t)n_in * n_out, sizeof *none);
    for (uint32_t t = 0; t < b->n_tok; t++) {
        const double *xt = x + (uint64_t)t * n_in, *dyt = dy + (uint64_t)t * b->n_y + b->col;
        double *dxt = dx + (uint64_t)t * n_in, *yt = y + (uint64_t)t * b->n_y + b->col;
        ref_linear(rank ? w->base : w->v, n_in, n_out, xt, 1, sum);
        for (uint32_t o = 0; o < n_out; o++)
            yt[o] += sum[o];
        ref_linear_bwd(rank ? w->base : w->v, n_in, n_out, NULL, xt, 1, dyt, dxt);
        if (!rank)
            continue;
        for (uint32_t k = 0; k < n_in; k++) {
            in[k] = xt[k] * unit(b->d, l->lora->id, (uint64_t)(b->row0 + t) * n_in + k);
            din[k] = 0;
        }
        ref_linear_lora(none, n_in, n_out, &f, in, 1, sum);
        for (uint32_t o = 0; o < n_out; o++)
            yt[o] += sum[o];
        ref_linear_bwd(none, n_in, n_out, &f, in, 1, dyt, din);
        for (uint32_t k = 0; k < n_in; k++)
            dxt[k] += din[k] * unit(b->d, l->lora->id, (uint64_t)(b->row0 + t) * n_in + k);
    }
}

/* Four matrices after a norm: two of one type that lie together and have a pair of factors each,
 * one with a bias that shares the second's A, one with nothing. frozen: x has no gradient. */
static void side_by_side_case(struct gpu *g, uint32_t n_tok, float p, bool frozen)
{
    enum { N_IN = 64, N_W = 4, N_Y = 5 + 8 + 7 + 3 };
    static const uint32_t n_out[N_W] = { 5, 8, 7, 3 };
    const struct rig_dropout d = { p, { 7, 9, 3, 1 } };
    if (!test_case("products side by side and back, %u tokens, dropout %g%s", n_tok, (double)p,
                   frozen ? ", input frozen" : ""))
        return;
    struct rig r = rig_open_train(g, "op_linear_bwd", &d);
    struct weight w[N_W] = {
        rig_weight(&r, Q8_0, N_IN, n_out[0], 1, 1, false),
        rig_weight(&r, Q8_0, N_IN, n_out[1], 1, 1, true),
        rig_weight(&r, F16, N_IN, n_out[2], 1, 1, false),
        rig_weight(&r, F32, N_IN, n_out[3], 1, 1, false),
    };
    w[0] = rig_lora(&r, w[0], 4, NULL);
    w[1] = rig_lora(&r, w[1], 8, NULL);
    w[2] = rig_lora(&r, w[2], 8, &w[1]);
    float *x_v = rig_normal(&r, n_tok * N_IN, 1), *norm_v = rig_normal(&r, N_IN, 1);
    tensor x = rig_strided(&r, x_v, N_IN, n_tok), norm = rig_dense(&r, norm_v, N_IN, 1);
    struct grads dx = { .want = rig_doubles(&r, NULL, n_tok * N_IN) };
    if (!frozen)
        dx = rig_grad(&r, x);
    linear both = w[1].w.lora->b; /* one run of rows */
    both.n_out += w[2].w.lora->b.n_out;
    struct grads da[2] = { rig_grad_factor(&r, &w[0].w.lora->a),
                           rig_grad_factor(&r, &w[1].w.lora->a) };
    struct grads db[2] = { rig_grad_factor(&r, &w[0].w.lora->b), rig_grad_factor(&r, &both) };
    tensor y = op_norm_linear(r.c, x, norm, EPS, LINEARS(&w[0].w, &w[1].w, &w[2].w, &w[3].w));
    double *dy = rig_back(&r, y), *want = rig_doubles(&r, NULL, (uint64_t)n_tok * N_Y);
    double *h = rig_doubles(&r, x_v, n_tok * N_IN), *dh = rig_doubles(&r, NULL, n_tok * N_IN);
    ref_rmsnorm(h, norm_v, N_IN, n_tok, (double)EPS, h);
    for (uint32_t i = 0, col = 0; i < N_W; col += n_out[i++]) {
        struct beside b = { &w[i], col, N_Y, n_tok, 0, &d };
        reference(&r, &b, h, want, dy, dh, i < 2 ? da[i].want : da[1].want,
                  i == 0 ? db[0].want : db[1].want + (i == 2 ? 8 * n_out[1] : 0));
    }
    ref_rmsnorm_bwd(rig_doubles(&r, x_v, n_tok * N_IN), norm_v, N_IN, n_tok, (double)EPS, dh,
                    dx.want);
    if (rig_run(&r) && rig_near(&r, "y", y, want, chain_off.most)) {
        if (!frozen)
            rig_near_grad(&r, "dx", &dx, chain_off.most);
        for (uint32_t i = 0; i < 2; i++) {
            rig_near_grad(&r, "dA", &da[i], chain_off.most);
            rig_near_grad(&r, "dB", &db[i], chain_off.most);
        }
    }
    rig_close(&r);
}

/* res + W act(x) with factors, from and to views by columns; gated: times the sigmoid of a gate. */
static void add_case(struct gpu *g, bool gated)
{
    enum { N_IN = 36, N_OUT = 20, N_TOK = 7 };
    const struct rig_dropout d = { 0.5f, { 1, 2, 3, 4 } };
    if (!test_case("linear_add back, %s", gated ? "gated" : "plain"))
        return;
    struct rig r = rig_open_train(g, gated ? "gated_add_bwd" : "linear_add_bwd", &d);
    struct weight w = rig_lora(&r, rig_weight(&r, F32, N_IN, N_OUT, 1, 1, false), 4, NULL);
    float *x_v = rig_normal(&r, N_IN * N_TOK, 1), *res_v = rig_normal(&r, N_OUT * N_TOK, 1);
    float *gate_v = rig_normal(&r, N_TOK, 1);
    tensor x = rig_strided(&r, x_v, N_IN, N_TOK), res = rig_strided(&r, res_v, N_OUT, N_TOK);
    tensor gate = rig_view(&r, F32, 1, N_TOK, 13, 5);
    rig_put(&r, gate, gate_v);
    struct grads dx = rig_grad(&r, x), dres = rig_grad(&r, res), dgate = rig_grad(&r, gate);
    struct grads da = rig_grad_factor(&r, &w.w.lora->a), db = rig_grad_factor(&r, &w.w.lora->b);
    tensor y = gated ? op_linear_add_gated(r.c, op_act(r.c, x, (struct act){ ACT_RELU2, 0 }), &w.w,
                                           res, gate)
                     : op_linear_add(r.c, x, &w.w, res);
    double *dy = rig_back(&r, y), *in = rig_doubles(&r, x_v, N_IN * N_TOK);
    double *x_d = rig_doubles(&r, x_v, N_IN * N_TOK), *din = rig_doubles(&r, NULL, N_IN * N_TOK);
    double *z = rig_doubles(&r, NULL, N_OUT * N_TOK), *dz = rig_doubles(&r, NULL, N_OUT * N_TOK);
    double *want = rig_doubles(&r, res_v, N_OUT * N_TOK);
    for (uint32_t i = 0; gated && i < N_IN * N_TOK; i++)
        in[i] = ref_relu2(in[i]);
    const struct beside b = { &w, 0, N_OUT, N_TOK, 0, &d };
    for (uint32_t i = 0; i < N_OUT * N_TOK; i++) {
        double s = gated ? ref_sigmoid((double)gate_v[i / N_OUT]) : 1;
        dz[i] = s * dy[i];
        dres.want[i] += dy[i];
    }
    reference(&r, &b, in, z, dz, gated ? din : dx.want, da.want, db.want);
    for (uint32_t i = 0; i < N_OUT * N_TOK; i++) {
        double s = gated ? ref_sigmoid((double)gate_v[i / N_OUT]) : 1;
        want[i] += s * z[i];
        dgate.want[i / N_OUT] += s * (1 - s) * dy[i] * z[i];
    }
    if (gated)
        ref_relu2_bwd(x_d, N_IN * N_TOK, din, dx.want);
    if (rig_run(&r) && rig_near(&r, "y", y, want, product_off.most)) {
        rig_near_grad(&r, "dx", &dx, product_off.most);
        rig_near_grad(&r, "dres", &dres, residual_off.most);
        rig_near_grad(&r, "dgate", &dgate, product_off.most);
        rig_near_grad(&r, "dA", &da, chain_off.most);
        rig_near_grad(&r, "dB", &db, chain_off.most);
    }
    rig_close(&r);
}

/* ---- experts --------------------------------------------------------------------------------- */

enum { N_EXPERT = 5, N_USED = 2 };

/* Entries by expert and their tiles, as moe_sort makes them. Expert 2 has none. */
static struct grouping group(struct rig *r, uint32_t n_tok, uint32_t *expert)
{
    uint32_t n = n_tok * N_USED, at = 0, n_tile = 0;
    uint32_t tile = linear_group_tile(gpu_caps(r->g), n / N_EXPERT);
    uint32_t *entries = rig_alloc(r, n, 4), *tiles = rig_alloc(r, 1 + 3 * (n + 1), 4);
    for (uint32_t e = 0; e < n; e++) {
        expert[e] = e * e % 7 % N_EXPERT;
        if (expert[e] == 2)
            expert[e] = 3;
    }
    for (uint32_t x = 0; x < N_EXPERT; x++)
        for (uint32_t e = 0, in_tile = tile; e < n; e++) {
            if (expert[e] != x)
                continue;
            if (in_tile == tile) {
                in_tile = 0;
                tiles[1 + 3 * n_tile] = x;
                tiles[2 + 3 * n_tile++] = at;
            }
            tiles[3 * n_tile] = ++in_tile;
            entries[at++] = e;
        }
    tiles[0] = n_tile;
    return (struct grouping){ .entries = rig_words(r, entries, n),
                              .tiles = rig_words(r, tiles, 1 + 3 * (n + 1)),
                              .n_used = N_USED,
                              .n_row = n / N_EXPERT,
                              .max_tile = n / tile + N_EXPERT,
                              .tile = tile };
}

/* One expert's matrix and factors out of the stacks. */
static struct weight of_expert(struct rig *r, const struct weight *w, uint32_t e)
{
    struct weight one = *w;
    struct lora *l = rig_alloc(r, 1, sizeof *l);
    uint64_t rank = w->w.lora->a.n_out;
    *l = *w->w.lora;
    one.w.lora = l;
    one.base += (uint64_t)e * w->w.n_out * w->w.n_in;
    one.lora_a += e * rank * w->w.n_in;
    one.lora_b += e * rank * w->w.n_out;
    return one;
}

static void grouped_case(struct gpu *g, enum dtype dtype, uint32_t n_tok, bool by_entry, float p)
{
    enum { N_IN = 64, N_OUT = 20, RANK = 8 };
    const struct rig_dropout d = { p, { 5, 6, 7, 8 } };
    if (!test_case("experts back, %s, %u tokens, x by %s, dropout %g", dtype_info(dtype)->name,
                   n_tok, by_entry ? "entry" : "token", (double)p))
        return;
    struct rig r = rig_open_train(g, "linear_grouped_bwd", &d);
    uint32_t n = n_tok * N_USED, n_x = by_entry ? n : n_tok, *expert = rig_alloc(&r, n, 4);
    struct weight w = rig_weight(&r, dtype, N_IN, N_OUT, N_EXPERT, 1, false);
    w = rig_lora(&r, w, RANK, NULL);
    struct grouping gr = group(&r, n_tok, expert);
    float *x_v = rig_normal(&r, (uint64_t)N_IN * n_x, 1);
    float *dy_v = rig_normal(&r, (uint64_t)N_OUT * n, 1);
    tensor x = rig_strided(&r, x_v, N_IN, n_x);
    tensor dy = rig_view(&r, F32, N_OUT, n, N_OUT + 9, 2);
    tensor y = rig_view(&r, F32, N_OUT, n, N_OUT + 9, 2);
    rig_put(&r, dy, dy_v);
    rig_writes(&r, y);
    struct grads dx = rig_grad(&r, rig_view(&r, F32, N_IN, n, N_IN + 4, 4));
    struct grads da = rig_grad_factor(&r, &w.w.lora->a), db = rig_grad_factor(&r, &w.w.lora->b);
    const struct grouped_args args = { &w.w, x, by_entry, &gr };
    linear_grouped(r.c, args, y);
    linear_grouped_bwd(r.c, args, dy, dx.t);
    double *x_d = rig_doubles(&r, x_v, (uint64_t)N_IN * n_x);
    double *dy_d = rig_doubles(&r, dy_v, (uint64_t)N_OUT * n);
    double *want = rig_doubles(&r, NULL, (uint64_t)N_OUT * n);
    for (uint32_t e = 0; e < n; e++) {
        struct weight one = of_expert(&r, &w, expert[e]);
        const struct beside b = { &one, 0, N_OUT, 1, e, &d };
        reference(&r, &b, x_d + (by_entry ? e : e / N_USED) * N_IN, want + e * N_OUT,
                  dy_d + e * N_OUT, dx.want + e * N_IN, da.want + expert[e] * RANK * N_IN,
                  db.want + expert[e] * N_OUT * RANK);
    }
    if (rig_run(&r) && rig_near(&r, "y", y, want, chain_off.most)) {
        rig_near_grad(&r, "dx", &dx, chain_off.most);
        rig_near_grad(&r, "dA", &da, chain_off.most);
        rig_near_grad(&r, "dB", &db, chain_off.most);
    }
    rig_close(&r);
}

/* With f16 operands, without factors, which take f32. */
static void grouped_f16_case(struct gpu *g, uint32_t n_tok, bool by_entry)
{
    enum { N_IN = 96, N_OUT = 84 };
    if (!test_case("experts in f16, %u tokens, x by %s", n_tok, by_entry ? "entry" : "token"))
        return;
    struct rig r = rig_open_train(g, "linear_grouped f16", NULL);
    uint32_t n = n_tok * N_USED, n_x = by_entry ? n : n_tok, *expert = rig_alloc(&r, n, 4);
    struct weight w = rig_weight(&r, Q8_0, N_IN, N_OUT, N_EXPERT, 1, false);
    struct grouping gr = group(&r, n_tok, expert);
    float *x_v = rig_normal(&r, (uint64_t)N_IN * n_x, 1e-9); /* f16 has nothing below 6e-8 */
    float *dy_v = rig_normal(&r, (uint64_t)N_OUT * n, 1e6);  /* or above 65504 */
    tensor x = rig_strided(&r, x_v, N_IN, n_x), dy = rig_strided(&r, dy_v, N_OUT, n);
    tensor y = rig_view(&r, F32, N_OUT, n, N_OUT + 9, 2);
    rig_writes(&r, y);
    struct grads dx = rig_grad(&r, rig_view(&r, F32, N_IN, n, N_IN + 4, 4));
    cmd_set_f16(r.c, true);
    const struct grouped_args args = { &w.w, x, by_entry, &gr };
    linear_grouped(r.c, args, y);
    linear_grouped_bwd(r.c, args, dy, dx.t);
    w = rig_f16_weight(&r, w);
    double *x_d = rig_doubles(&r, rig_f16_rows(&r, x_v, N_IN, n_x), (uint64_t)N_IN * n_x);
    double *dy_d = rig_doubles(&r, rig_f16_rows(&r, dy_v, N_OUT, n), (uint64_t)N_OUT * n);
    double *want = rig_doubles(&r, NULL, (uint64_t)N_OUT * n);
    for (uint32_t e = 0; e < n; e++) {
        const float *of = w.v + (uint64_t)expert[e] * N_OUT * N_IN;
        const double *from = x_d + (uint64_t)(by_entry ? e : e / N_USED) * N_IN;
        ref_linear(of, N_IN, N_OUT, from, 1, want + (uint64_t)e * N_OUT);
        ref_linear_bwd(of, N_IN, N_OUT, NULL, NULL, 1, dy_d + (uint64_t)e * N_OUT,
                       dx.want + (uint64_t)e * N_IN);
    }
    if (rig_run(&r) && rig_near(&r, "y", y, want, chain_off.most))
        rig_near_grad(&r, "dx", &dx, chain_off.most);
    rig_close(&r);
}

void test_ops_bwd(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    philox_known();
    for (uint32_t i = 0; i < n_linear_bwd_path; i++) {
        if (!takes(g, &linear_bwd_paths[i]))
            continue;
        bwd_shapes(g, &linear_bwd_paths[i]);
        bwd_types(g, &linear_bwd_paths[i]);
    }
    outer_shapes(g);
    places(g, F32);
    places(g, Q8_0);
    norm_case(g, 4, 1);
    norm_case(g, 516, 5);
    act_case(g, (struct act){ ACT_SWIGLU, 0 }, "swiglu", 36, 7);
    act_case(g, (struct act){ ACT_SWIGLU, 0.4f }, "swiglu with a limit", 36, 7);
    act_case(g, (struct act){ ACT_RELU2, 0 }, "relu2", 36, 7);
    act_case(g, (struct act){ ACT_RELU2, 0 }, "relu2", 4, 32771); /* row_grid goes round */
    side_by_side_case(g, 7, 0, false);
    side_by_side_case(g, 9, 0.25f, false);
    side_by_side_case(g, 9, 0.25f, true);
    add_case(g, false);
    add_case(g, true);
    grouped_case(g, F32, 33, false, 0);
    grouped_case(g, Q8_0, 33, true, 0.5f);
    grouped_case(g, Q8_0, 5, false, 0.5f);
    grouped_f16_case(g, 5, false);
    if (!ops_brief_skips(K_linear_tile) || !ops_brief_skips(K_linear_tile_bwd)) {
        grouped_f16_case(g, 33, true);
        grouped_f16_case(g, 170, false);
    }
    ops_report(g);
    pieces();
}
