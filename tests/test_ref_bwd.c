/* test_ref_bwd: every backward of ref_bwd.h compared with central differences of its forward, in
 * double. No GPU, no files.
 *
 * The loss is sum(dy . y) with a random dy, and y from ref_ops.c. Differences are of five points,
 * (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h with h = 2^-13: truncation and rounding are both near
 * 1e-11. Gradients start at START, so that overwriting instead of adding is caught. Packed rows are
 * compared with the forward of each document alone. Recurrences: test_ref_bwd_ssm.c. */
#include "ref/ref_check.h"

#include <math.h>

/* ---- linear, norms, rotation, loss ------------------------------------------------------ */

struct linear_case {
    float *w;
    struct ref_lora l;
    uint32_t n_in, n_out, n_tok;
    double *x, *dy;
};
static double linear_loss(const void *ctx)
{
    const struct linear_case *c = ctx;
    uint64_t n = (uint64_t)c->n_tok * c->n_out;
    double *y = ref_doubles(n);
    ref_linear_lora(c->w, c->n_in, c->n_out, &c->l, c->x, c->n_tok, y);
    return rc_weigh(c->dy, y, n);
}

static void test_linear(uint32_t n_in, uint32_t n_out, uint32_t n_tok, uint32_t rank)
{
    struct rng r = { 11 };
    double *a = rc_normals(&r, rank * n_in), *b = rc_normals(&r, rank * n_out);
    double *da = rc_start(rank * n_in), *db = rc_start(rank * n_out), *dx = rc_start(n_tok * n_in);
    struct linear_case c = { .w = rc_floats(&r, n_in * n_out),
                             .n_in = n_in,
                             .n_out = n_out,
                             .n_tok = n_tok,
                             .l = { rank, 1.75, a, b, da, db },
                             .x = rc_normals(&r, n_tok * n_in),
                             .dy = rc_normals(&r, n_tok * n_out) };

    test_case("linear %u to %u, %u tokens, rank %u (seed 11)", n_in, n_out, n_tok, rank);
    ref_linear_bwd(c.w, n_in, n_out, &c.l, c.x, n_tok, c.dy, dx);
    rc_check("dx", linear_loss, &c, c.x, n_tok * n_in, dx);
    rc_check("dA", linear_loss, &c, a, rank * n_in, da);
    rc_check("dB", linear_loss, &c, b, rank * n_out, db);
    rc_free();
}

/* With an adapter the forward is that of W + scale B A. */
static void test_lora_forward(void)
{
    enum { N_IN = 6, N_OUT = 5, RANK = 2, N_TOK = 3 };
    struct rng r = { 12 };
    float *w = rc_floats(&r, N_IN * N_OUT);
    double *a = rc_normals(&r, RANK * N_IN), *b = rc_normals(&r, RANK * N_OUT);
    double *x = rc_normals(&r, N_TOK * N_IN), *y = ref_doubles(N_TOK * N_OUT), worst = 0;
    struct ref_lora l = { .rank = RANK, .scale = 0.5, .a = a, .b = b };

    test_case("linear with an adapter is W + scale B A (seed 12)");
    ref_linear_lora(w, N_IN, N_OUT, &l, x, N_TOK, y);
    for (uint32_t t = 0; t < N_TOK; t++) {
        for (uint32_t o = 0; o < N_OUT; o++) {
            double sum = 0;
            for (uint32_t i = 0; i < N_IN; i++) {
                double m = (double)w[o * N_IN + i];
                for (uint32_t k = 0; k < RANK; k++)
                    m += 0.5 * b[o * RANK + k] * a[k * N_IN + i];
                sum += m * x[t * N_IN + i];
            }
            worst = fmax(worst, fabs(sum - y[t * N_OUT + o]));
        }
    }
    CHECK_MSG(worst < 1e-13, "%.3g apart", worst);
    free(y);
    rc_free();
}

/* One struct for all norms; z NULL where there is none. */
struct norm_case {
    enum { RMS, L2, GATED, GROUPED } kind;
    uint32_t dim, n_row;
    double *x, *z, *dy;
    float *w;
};
enum { N_GROUP = 3 };
static double norm_loss(const void *ctx)
{
    const struct norm_case *c = ctx;
    uint64_t n = (uint64_t)c->dim * c->n_row;
    double *y = ref_doubles(n);
    memcpy(y, c->x, n * sizeof *y);
    if (c->kind == RMS)
        ref_rmsnorm(c->x, c->w, c->dim, c->n_row, 1e-3, y);
    else if (c->kind == L2)
        ref_l2norm(y, c->dim, c->n_row, 0.25);
    else if (c->kind == GATED)
        ref_gated_norm(y, c->z, c->w, c->dim, c->n_row, 1e-3);
    else
        ref_mamba_norm(y, c->z, c->w, c->n_row / N_GROUP, N_GROUP, c->dim, 1e-3);
    return rc_weigh(c->dy, y, n);
}

static void test_norm(int kind, uint32_t dim, const char *name)
{
    uint32_t n_row = 2 * N_GROUP;
    uint64_t n = (uint64_t)dim * n_row;
    struct rng r = { 13 };
    struct norm_case c = { .kind = kind,
                           .dim = dim,
                           .n_row = n_row,
                           .x = rc_normals(&r, n),
                           .z = rc_normals(&r, n),
                           .dy = rc_normals(&r, n),
                           .w = rc_floats(&r, (uint64_t)dim * N_GROUP) };
    double *dx = rc_start(n), *dz = rc_start(n);

    test_case("%s of %u (seed 13)", name, dim);
    if (kind == RMS)
        ref_rmsnorm_bwd(c.x, c.w, dim, n_row, 1e-3, c.dy, dx);
    else if (kind == L2)
        ref_l2norm_bwd(c.x, dim, n_row, 0.25, c.dy, dx);
    else if (kind == GATED)
        ref_gated_norm_bwd(c.x, c.z, c.w, dim, n_row, 1e-3, c.dy, dx, dz);
    else
        ref_mamba_norm_bwd(c.x, c.z, c.w, n_row / N_GROUP, N_GROUP, dim, 1e-3, c.dy, dx, dz);
    rc_check("dx", norm_loss, &c, c.x, n, dx);
    if (kind >= GATED)
        rc_check("dz", norm_loss, &c, c.z, n, dz);
    rc_free();
}

enum { ROT = 6, ROPE_DIM = 9, ROPE_HEADS = 2, ROPE_N = ROPE_HEADS * ROPE_DIM };
struct rope_case {
    float freq[ROT / 2];
    double *x, *dy;
};
static double rope_loss(const void *ctx)
{
    const struct rope_case *c = ctx;
    double *y = ref_doubles(ROPE_N);
    memcpy(y, c->x, ROPE_N * sizeof *y);
    ref_rope(c->freq, ROT, 77, ROPE_HEADS, ROPE_DIM, y);
    return rc_weigh(c->dy, y, ROPE_N);
}

static void test_rope(void)
{
    struct rng r = { 14 };
    struct rope_case c = { .x = rc_normals(&r, ROPE_N), .dy = rc_normals(&r, ROPE_N) };
    double *dx = rc_start(ROPE_N);

    test_case("rotation of %u of %u dimensions (seed 14)", ROT, ROPE_DIM);
    ref_rope_freq(100, ROT, NULL, c.freq);
    memcpy(dx, c.dy, ROPE_N * sizeof *dx); /* in place, not added to */
    ref_rope_bwd(c.freq, ROT, 77, ROPE_HEADS, ROPE_DIM, dx);
    for (uint32_t i = 0; i < ROPE_N; i++)
        dx[i] += START;
    rc_check("dx", rope_loss, &c, c.x, ROPE_N, dx);
    rc_free();
}

enum { NLL_TOK = 4, NLL_VOCAB = 7 };
struct nll_case {
    double *logits;
    int32_t target[NLL_TOK];
};
static double nll_loss(const void *ctx)
{
    const struct nll_case *c = ctx;
    return 0.3 * ref_nll(c->logits, c->target, NLL_TOK, NLL_VOCAB, 0, NULL, NULL);
}

static void test_nll(void)
{
    struct rng r = { 15 };
    struct nll_case c = { rc_normals(&r, NLL_TOK * NLL_VOCAB), { 0, -1, 6, 3 } };
    double *d = rc_start(NLL_TOK * NLL_VOCAB), nll[NLL_TOK], want = 0;

    test_case("cross-entropy with a row that does not count (seed 15)");
    double sum = ref_nll(c.logits, c.target, NLL_TOK, NLL_VOCAB, 0.3, nll, d);
    rc_check("dlogits", nll_loss, &c, c.logits, NLL_TOK * NLL_VOCAB, d);
    for (uint32_t t = 0; t < NLL_TOK; t++) {
        double all = 0;
        for (uint32_t i = 0; i < NLL_VOCAB; i++)
            all += exp(c.logits[t * NLL_VOCAB + i]);
        double one = c.target[t] < 0 ? 0 : -log(exp(c.logits[t * NLL_VOCAB + c.target[t]]) / all);
        CHECK_MSG(fabs(nll[t] - one) < 1e-13, "row %u: %.17g, expected %.17g", t, nll[t], one);
        want += one;
    }
    CHECK_MSG(fabs(sum - want) < 1e-12, "sum %.17g, expected %.17g", sum, want);
    rc_free();
}

/* ---- attention and convolution ---------------------------------------------------------- */

struct attention_case {
    struct ref_attention a;
    bool packed; /* the documents of rc_first */
    double *dy;
};
static double attention_loss(const void *ctx)
{
    const struct attention_case *c = ctx;
    uint64_t q = (uint64_t)c->a.n_head * c->a.head_dim, kv = c->a.n_kv_head * c->a.head_dim;
    double *y = ref_doubles(c->a.n_tok * q);
    for (uint32_t t = 0, n; t < c->a.n_tok; t += n) {
        struct ref_attention one = c->a;
        one.n_tok = n = c->packed ? rc_doc_length(t) : c->a.n_tok;
        one.q += t * q;
        one.k += t * kv;
        one.v += t * kv;
        one.gate = one.gate ? one.gate + t * q : NULL;
        one.head_gate = one.head_gate ? one.head_gate + t * one.n_head : NULL;
        ref_attention(&one, y + t * q);
    }
    return rc_weigh(c->dy, y, c->a.n_tok * q);
}

static void test_attention(uint32_t n_kv_head, uint32_t n_past, uint32_t window, bool gate,
                           bool head_gate, bool packed)
{
    enum { N_HEAD = 4, DIM = 6 };
    uint64_t n_tok = RC_TOK, nq = n_tok * N_HEAD * DIM, nkv = (n_past + n_tok) * n_kv_head * DIM;
    struct rng r = { 16 };
    double *q = rc_normals(&r, nq), *k = rc_normals(&r, nkv), *v = rc_normals(&r, nkv);
    double *z = rc_normals(&r, nq), *zh = rc_normals(&r, n_tok * N_HEAD);
    struct attention_case c = { .a = { .n_tok = RC_TOK,
                                       .n_past = n_past,
                                       .n_head = N_HEAD,
                                       .n_kv_head = n_kv_head,
                                       .head_dim = DIM,
                                       .q = q,
                                       .k = k,
                                       .v = v,
                                       .gate = gate ? z : NULL,
                                       .window = window,
                                       .head_gate = head_gate ? zh : NULL },
                                .packed = packed,
                                .dy = rc_normals(&r, nq) };
    struct ref_attention_grad g = { .dq = rc_start(nq),
                                    .dk = rc_start(nkv),
                                    .dv = rc_start(nkv),
                                    .dgate = gate ? rc_start(nq) : NULL,
                                    .dhead_gate = head_gate ? rc_start(n_tok * N_HEAD) : NULL };

    test_case("attention, %u KV heads, %u past, window %u%s%s%s (seed 16)", n_kv_head, n_past,
              window, gate ? ", gate" : "", head_gate ? ", head gate" : "",
              packed ? ", documents" : "");
    ref_attention_bwd(&c.a, packed ? rc_first : NULL, c.dy, &g);
    rc_check("dq", attention_loss, &c, q, nq, g.dq);
    rc_check("dk", attention_loss, &c, k, nkv, g.dk);
    rc_check("dv", attention_loss, &c, v, nkv, g.dv);
    if (gate)
        rc_check("dgate", attention_loss, &c, z, nq, g.dgate);
    if (head_gate)
        rc_check("dhead_gate", attention_loss, &c, zh, n_tok * N_HEAD, g.dhead_gate);
    rc_free();
}

struct conv_case {
    struct ref_conv c;
    bool packed;
    double *dy;
};
static double conv_loss(const void *ctx)
{
    const struct conv_case *c = ctx;
    uint64_t n_ch = c->c.n_ch, n = c->c.n_tok * n_ch, n_window = (c->c.conv_k - 1) * n_ch;
    double *y = ref_doubles(n), *window = ref_doubles(n_window);
    for (uint32_t t = 0, len; t < c->c.n_tok; t += len) {
        struct ref_conv one = c->c;
        one.n_tok = len = c->packed ? rc_doc_length(t) : c->c.n_tok;
        one.x += t * n_ch;
        one.window = window;
        if (c->packed)
            memset(window, 0, n_window * sizeof *window);
        else
            memcpy(window, c->c.window, n_window * sizeof *window);
        ref_conv_silu(&one, y + t * n_ch);
    }
    free(window);
    return rc_weigh(c->dy, y, n);
}

static void test_conv(uint32_t conv_k, bool bias, bool packed)
{
    enum { N_CH = 3 };
    uint64_t n = RC_TOK * N_CH, n_window = (conv_k - 1) * N_CH;
    struct rng r = { 17 };
    double *x = rc_normals(&r, n), *dx = rc_start(n), *dwindow = rc_start(n_window);
    struct conv_case c = { .c = { .n_tok = RC_TOK,
                                  .n_ch = N_CH,
                                  .conv_k = conv_k,
                                  .w = rc_floats(&r, N_CH * conv_k),
                                  .x = x,
                                  .window = rc_normals(&r, n_window),
                                  .bias = bias ? rc_floats(&r, N_CH) : NULL },
                           .packed = packed,
                           .dy = rc_normals(&r, n) };

    test_case("convolution of %u taps%s%s (seed 17)", conv_k, bias ? ", bias" : "",
              packed ? ", documents" : "");
    ref_conv_silu_bwd(&c.c, packed ? rc_first : NULL, c.dy, dx, packed ? NULL : dwindow);
    rc_check("dx", conv_loss, &c, x, n, dx);
    if (!packed && conv_k > 1)
        rc_check("dwindow", conv_loss, &c, c.c.window, n_window, dwindow);
    rc_free();
}

/* ---- feed-forward ----------------------------------------------------------------------- */

struct swiglu_case {
    double *gate, *up, *dy, limit;
    uint64_t n;
};
static double swiglu_loss(const void *ctx)
{
    const struct swiglu_case *c = ctx;
    double *y = ref_doubles(c->n);
    ref_swiglu_limit(c->gate, c->up, c->n, c->limit, y);
    return rc_weigh(c->dy, y, c->n);
}

static void test_swiglu(double limit)
{
    enum { N = 100 };
    struct rng r = { 18 };
    struct swiglu_case c = { rc_normals(&r, N), rc_normals(&r, N), rc_normals(&r, N), limit, N };
    double *dgate = rc_start(N), *dup = rc_start(N);
    uint32_t n_zero = 0;

    test_case("SwiGLU with limit %g (seed 18)", limit);
    ref_swiglu_limit_bwd(c.gate, c.up, N, limit, c.dy, dgate, dup);
    rc_check("dgate", swiglu_loss, &c, c.gate, N, dgate);
    rc_check("dup", swiglu_loss, &c, c.up, N, dup);
    for (uint32_t i = 0; i < N; i++)
        n_zero += (dgate[i] == START) + (dup[i] == START);
    CHECK_MSG((n_zero > 20) == (limit > 0), "%u gradients are zero", n_zero);
    rc_free();
}

struct ffn_case {
    struct ref_ffn f;
    struct ref_ffn_lora l;
    uint32_t n_tok;
    double *x, *dy;
};
static double ffn_loss(const void *ctx)
{
    const struct ffn_case *c = ctx;
    double *y = ref_doubles(c->n_tok * c->f.n_embd);
    ref_ffn_lora(&c->f, &c->l, c->x, c->n_tok, y);
    return rc_weigh(c->dy, y, c->n_tok * c->f.n_embd);
}

/* A random adapter of n experts, and the check of its A and B. */
static struct ref_lora adapter(struct rng *r, uint32_t n, uint32_t n_in, uint32_t n_out)
{
    enum { RANK = 2 };
    return (struct ref_lora){ .rank = RANK,
                              .scale = 0.5,
                              .a = rc_normals(r, n * RANK * n_in),
                              .b = rc_normals(r, n * RANK * n_out),
                              .da = rc_start(n * RANK * n_in),
                              .db = rc_start(n * RANK * n_out) };
}
static void check_adapter(const char *name, rc_loss *f, const void *ctx, const struct ref_lora *l,
                          uint32_t n, uint32_t n_in, uint32_t n_out)
{
    char what[64];
    snprintf(what, sizeof what, "%s A", name);
    rc_check(what, f, ctx, (double *)(uintptr_t)l->a, n * l->rank * n_in, l->da);
    snprintf(what, sizeof what, "%s B", name);
    rc_check(what, f, ctx, (double *)(uintptr_t)l->b, n * l->rank * n_out, l->db);
}

static void test_ffn(bool gated, double limit)
{
    enum { DIM = 5, N_FF = 7, N_TOK = 3 };
    struct rng r = { 19 };
    struct ffn_case c = { .f = { .n_embd = DIM,
                                 .n_ff = N_FF,
                                 .gate = gated ? rc_floats(&r, DIM * N_FF) : NULL,
                                 .up = rc_floats(&r, DIM * N_FF),
                                 .down = rc_floats(&r, DIM * N_FF),
                                 .limit = limit,
                                 .up_bias = rc_floats(&r, N_FF),
                                 .down_bias = rc_floats(&r, DIM) },
                          .l = { adapter(&r, 1, DIM, N_FF), adapter(&r, 1, DIM, N_FF),
                                 adapter(&r, 1, N_FF, DIM) },
                          .n_tok = N_TOK,
                          .x = rc_normals(&r, N_TOK * DIM),
                          .dy = rc_normals(&r, N_TOK * DIM) };
    double *dx = rc_start(N_TOK * DIM), want[N_TOK * DIM], got[N_TOK * DIM];

    test_case("MLP, %s, limit %g (seed 19)", gated ? "SwiGLU" : "relu2", limit);
    ref_ffn_bwd(&c.f, &c.l, c.x, N_TOK, c.dy, dx);
    rc_check("dx", ffn_loss, &c, c.x, N_TOK * DIM, dx);
    if (gated)
        check_adapter("gate", ffn_loss, &c, &c.l.gate, 1, DIM, N_FF);
    check_adapter("up", ffn_loss, &c, &c.l.up, 1, DIM, N_FF);
    check_adapter("down", ffn_loss, &c, &c.l.down, 1, N_FF, DIM);
    ref_ffn(&c.f, c.x, N_TOK, want);
    ref_ffn_lora(&c.f, NULL, c.x, N_TOK, got);
    CHECK(memcmp(got, want, sizeof want) == 0);
    rc_free();
}

enum { MOE_DIM = 6, MOE_FF = 5, MOE_SHARED = 4, MOE_E = 8, MOE_USED = 3, MOE_LOW = 4, MOE_TOK = 5 };
struct moe_case {
    struct ref_moe m;
    struct ref_moe_lora l;
    double *x, *dy;
};
static double moe_loss(const void *ctx)
{
    const struct moe_case *c = ctx;
    double *y = ref_doubles(MOE_TOK * MOE_DIM);
    ref_moe_lora(&c->m, &c->l, c->x, MOE_TOK, y);
    return rc_weigh(c->dy, y, MOE_TOK * MOE_DIM);
}

struct moe_kind {
    const char *name;
    bool gated, sigmoid, norm, grouped, latent, shared, shared_router;
    double limit;
};

static struct moe_case moe_create(struct rng *r, const struct moe_kind *k)
{
    uint32_t in = k->latent ? MOE_LOW : MOE_DIM, n = MOE_E * in * MOE_FF, e = MOE_E;
    uint32_t n_shared = MOE_DIM * MOE_SHARED;
    return (struct moe_case){
        .m = { .n_embd = MOE_DIM,
               .n_expert = MOE_E,
               .n_used = MOE_USED,
               .n_ff = MOE_FF,
               .n_ff_shared = MOE_SHARED,
               .router = rc_floats(r, MOE_E * MOE_DIM),
               .gate = k->gated ? rc_floats(r, n) : NULL,
               .up = rc_floats(r, n),
               .down = rc_floats(r, n),
               .shared_router = k->shared_router ? rc_floats(r, MOE_DIM) : NULL,
               .shared_gate = k->gated ? rc_floats(r, n_shared) : NULL,
               .shared_up = k->shared ? rc_floats(r, n_shared) : NULL,
               .shared_down = rc_floats(r, n_shared),
               .limit = k->limit,
               .shared_limit = 2 * k->limit,
               .n_latent = k->latent ? MOE_LOW : 0,
               .latent_down = rc_floats(r, MOE_DIM * MOE_LOW),
               .latent_up = rc_floats(r, MOE_DIM * MOE_LOW),
               .sigmoid = k->sigmoid,
               .router_bias = k->sigmoid ? rc_floats(r, MOE_E) : NULL,
               .n_group = k->grouped ? 4 : 1,
               .n_group_used = k->grouped ? 2 : 1,
               .norm = k->norm,
               .scale = 2.5 },
        .l = { .experts = { adapter(r, e, in, MOE_FF), adapter(r, e, in, MOE_FF),
                            adapter(r, e, MOE_FF, in) },
               .shared = { adapter(r, 1, MOE_DIM, MOE_SHARED), adapter(r, 1, MOE_DIM, MOE_SHARED),
                           adapter(r, 1, MOE_SHARED, MOE_DIM) },
               .latent_down = adapter(r, 1, MOE_DIM, MOE_LOW),
               .latent_up = adapter(r, 1, MOE_LOW, MOE_DIM),
               .router = adapter(r, 1, MOE_DIM, MOE_E),
               .shared_router = adapter(r, 1, MOE_DIM, 1) },
        .x = rc_normals(r, MOE_TOK * MOE_DIM),
        .dy = rc_normals(r, MOE_TOK * MOE_DIM),
    };
}

static void test_moe(const struct moe_kind *k)
{
    struct rng r = { 25 }; /* away from the kinks of the clamps */
    struct moe_case c = moe_create(&r, k);
    uint32_t in = k->latent ? MOE_LOW : MOE_DIM;
    double *dx = rc_start(MOE_TOK * MOE_DIM), want[MOE_TOK * MOE_DIM], got[MOE_TOK * MOE_DIM];
    const struct ref_ffn_lora *e = &c.l.experts, *s = &c.l.shared;

    test_case("MoE: %s (seed 25)", k->name);
    ref_moe_bwd(&c.m, &c.l, c.x, MOE_TOK, c.dy, dx);
    rc_check("dx", moe_loss, &c, c.x, MOE_TOK * MOE_DIM, dx);
    check_adapter("router", moe_loss, &c, &c.l.router, 1, MOE_DIM, MOE_E);
    check_adapter("up_exps", moe_loss, &c, &e->up, MOE_E, in, MOE_FF);
    check_adapter("down_exps", moe_loss, &c, &e->down, MOE_E, MOE_FF, in);
    if (k->gated)
        check_adapter("gate_exps", moe_loss, &c, &e->gate, MOE_E, in, MOE_FF);
    if (k->shared) {
        check_adapter("up_shexp", moe_loss, &c, &s->up, 1, MOE_DIM, MOE_SHARED);
        check_adapter("down_shexp", moe_loss, &c, &s->down, 1, MOE_SHARED, MOE_DIM);
    }
    if (k->shared && k->gated)
        check_adapter("gate_shexp", moe_loss, &c, &s->gate, 1, MOE_DIM, MOE_SHARED);
    if (k->shared_router)
        check_adapter("shared_router", moe_loss, &c, &c.l.shared_router, 1, MOE_DIM, 1);
    if (k->latent) {
        check_adapter("latent_down", moe_loss, &c, &c.l.latent_down, 1, MOE_DIM, MOE_LOW);
        check_adapter("latent_up", moe_loss, &c, &c.l.latent_up, 1, MOE_LOW, MOE_DIM);
    }
    ref_moe(&c.m, c.x, MOE_TOK, want);
    ref_moe_lora(&c.m, NULL, c.x, MOE_TOK, got);
    CHECK(memcmp(got, want, sizeof want) == 0);
    rc_free();
}

void test_ref_bwd(void)
{
    static const struct moe_kind moe[] = {
        { "softmax, SwiGLU, shared expert with gate", .gated = true, .shared = true,
          .shared_router = true },
        { "softmax, no shared expert", .gated = true },
        { "sigmoid, normalised, SwiGLU with limits, shared expert", .gated = true, .sigmoid = true,
          .norm = true, .shared = true, .limit = 0.5 },
        { "sigmoid, normalised, groups, relu2, latent, shared expert", .sigmoid = true,
          .norm = true, .grouped = true, .latent = true, .shared = true },
        { "sigmoid, not normalised, relu2", .sigmoid = true },
    };
    test_linear(7, 5, 3, 2);
    test_linear(1, 1, 1, 1);
    test_linear(4, 9, 2, 5);
    test_lora_forward();
    test_norm(RMS, 1, "RMSNorm");
    test_norm(RMS, 8, "RMSNorm");
    test_norm(L2, 8, "l2 norm");
    test_norm(GATED, 8, "gated norm");
    test_norm(GROUPED, 5, "grouped gated norm");
    test_rope();
    test_nll();
    test_attention(4, 0, 0, false, false, false);
    test_attention(2, 3, 0, true, false, false);
    test_attention(1, 2, 4, false, true, false);
    test_attention(2, 0, 0, true, false, true);
    test_attention(2, 0, 3, true, true, true);
    test_conv(4, false, false);
    test_conv(4, true, true);
    test_conv(1, true, false);
    test_swiglu(0);
    test_swiglu(0.4);
    test_ffn(true, 0);
    test_ffn(true, 0.5);
    test_ffn(false, 0);
    for (uint32_t i = 0; i < ARRAY_LEN(moe); i++)
        test_moe(&moe[i]);
}
