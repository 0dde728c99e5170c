/* test_ops_ffn: the feed-forward half of a layer, dense and as a mixture of experts.
 *
 * Kernels: swiglu, moe_route, moe_linear, moe_sort, moe_sum; and norm and the linear ones in their
 * company. */
#include "ops.h"

#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f

/* ---- dense ------------------------------------------------------------------------------- */

struct ffn_row {
    enum dtype gate, up, down;
    uint32_t n_embd, n_ff, n_tok;
};

static void ffn_case(struct gpu *g, const struct ffn_row *c)
{
    uint64_t n = (uint64_t)c->n_tok * c->n_embd;
    test_case("ffn %u x %u, %s %s %s, %u tokens", c->n_embd, c->n_ff, dtype_info(c->gate)->name,
              dtype_info(c->up)->name, dtype_info(c->down)->name, c->n_tok);
    struct rig r = rig_open(g, "ffn");
    struct weight gate = rig_weight(&r, c->gate, c->n_embd, c->n_ff, 1, 2, false);
    struct weight up = rig_weight(&r, c->up, c->n_embd, c->n_ff, 1, 1, c->up == c->gate);
    struct weight down = rig_weight(&r, c->down, c->n_ff, c->n_embd, 1, 1, false);
    float *x_v = rig_normal(&r, n, 1), *norm_v = rig_normal(&r, c->n_embd, 1);
    tensor x = rig_strided(&r, x_v, c->n_embd, c->n_tok);
    tensor norm = rig_dense(&r, norm_v, c->n_embd, 1);
    tensor y = op_ffn(r.c, x, norm, EPS, &gate.w, &up.w, &down.w);

    double *h = rig_doubles(&r, x_v, n), *want = rig_doubles(&r, NULL, n);
    ref_rmsnorm(h, norm_v, c->n_embd, c->n_tok, (double)EPS, h);
    struct ref_ffn f = { .n_embd = c->n_embd, .n_ff = c->n_ff, .gate = gate.v, .up = up.v,
                         .down = down.v };
    ref_ffn(&f, h, c->n_tok, want);
    for (uint64_t i = 0; i < n; i++)
        want[i] += (double)x_v[i];
    if (rig_run(&r))
        rig_near(&r, "ffn", y, want, 0);
    rig_close(&r);
}

/* ---- experts ----------------------------------------------------------------------------- */

struct moe_row {
    uint32_t n_expert, n_used, n_embd, n_ff, n_ff_shared, n_tok;
    enum dtype gate, up, down;  /* of the experts; gate and up are one matrix when of one type */
    enum dtype shared;          /* of the shared expert and its gate */
    uint32_t tie;               /* expert e has the router's row of expert e % tie; 0: its own */
};

/* The router, with equal rows where there are ties, and the shared expert's gate behind it. */
static struct weight router_make(struct rig *r, const struct moe_row *c)
{
    uint64_t n = (uint64_t)c->n_expert * c->n_embd;
    float *rows = rig_normal(r, n, 1);
    for (uint32_t e = 0; c->tie && e < c->n_expert; e++)
        memcpy(rows + (uint64_t)e * c->n_embd, rows + (uint64_t)(e % c->tie) * c->n_embd,
               4ull * c->n_embd);
    for (uint64_t i = 0; i < n; i++)
        rows[i] *= 0.2f;
    return rig_blocks(r, F32, c->n_embd, c->n_expert, 1, rows, false);
}

/* Rows [first, first + n) of every expert of w, behind each other. */
static const float *expert_rows(struct rig *r, const struct weight *w, uint32_t first, uint32_t n)
{
    uint64_t all = (uint64_t)w->w.n_out * w->w.n_in, part = (uint64_t)n * w->w.n_in;
    float *v = rig_alloc(r, part * w->w.n_expert, sizeof *v);
    for (uint32_t e = 0; e < w->w.n_expert; e++)
        memcpy(v + e * part, w->v + e * all + (uint64_t)first * w->w.n_in, part * sizeof *v);
    return v;
}

static void moe_case(struct gpu *g, const struct moe_row *c, enum moe_path path)
{
    uint64_t n = (uint64_t)c->n_tok * c->n_embd;
    bool joint = c->gate == c->up;
    test_case("moe%s %u of %u, %u x %u, %s %s %s, tie %u, %u tokens",
              path == MOE_GROUPED ? " grouped" : "", c->n_used, c->n_expert, c->n_embd, c->n_ff,
              dtype_info(c->gate)->name, dtype_info(c->up)->name, dtype_info(c->down)->name, c->tie,
              c->n_tok);
    struct rig r = rig_open(g, "moe");
    struct weight router = router_make(&r, c);
    struct weight sh_router = rig_weight(&r, c->shared, c->n_embd, 1, 1, 1, c->shared == F32);
    struct weight gate = rig_weight(&r, c->gate, c->n_embd, joint ? 2 * c->n_ff : c->n_ff,
                                    c->n_expert, 2, false);
    struct weight up = joint ? gate : rig_weight(&r, c->up, c->n_embd, c->n_ff, c->n_expert, 2,
                                                 false);
    struct weight down = rig_weight(&r, c->down, c->n_ff, c->n_embd, c->n_expert, 2, false);
    struct weight sh_gate = rig_weight(&r, c->shared, c->n_embd, c->n_ff_shared, 1, 2, false);
    struct weight sh_up = rig_weight(&r, c->shared, c->n_embd, c->n_ff_shared, 1, 1, true);
    struct weight sh_down = rig_weight(&r, c->shared, c->n_ff_shared, c->n_embd, 1, 1, false);
    struct moe m = { .n_expert = c->n_expert, .n_used = c->n_used, .n_ff = c->n_ff,
                     .router = router.w, .shared_gate = sh_router.w, .down = down.w,
                     .sh_gate = sh_gate.w, .sh_up = sh_up.w, .sh_down = sh_down.w };
    if (joint)
        m.gate_up = gate.w;
    else
        m.gate = gate.w, m.up = up.w;

    float *x_v = rig_normal(&r, n, 1), *norm_v = rig_normal(&r, c->n_embd, 1);
    tensor x = rig_dense(&r, x_v, c->n_embd, c->n_tok), norm = rig_dense(&r, norm_v, c->n_embd, 1);
    tensor y = moe_by(r.c, path, x, norm, EPS, &m);

    double *h = rig_doubles(&r, x_v, n), *want = rig_doubles(&r, NULL, n);
    ref_rmsnorm(h, norm_v, c->n_embd, c->n_tok, (double)EPS, h);
    struct ref_moe ref = {
        .n_embd = c->n_embd, .n_expert = c->n_expert, .n_used = c->n_used, .n_ff = c->n_ff,
        .n_ff_shared = c->n_ff_shared, .router = router.v,
        .gate = expert_rows(&r, &gate, 0, c->n_ff),
        .up = expert_rows(&r, &up, joint ? c->n_ff : 0, c->n_ff), .down = down.v,
        .shared_router = sh_router.v, .shared_gate = sh_gate.v, .shared_up = sh_up.v,
        .shared_down = sh_down.v,
    };
    ref_moe(&ref, h, c->n_tok, want);
    for (uint64_t i = 0; i < n; i++)
        want[i] += (double)x_v[i];
    if (rig_run(&r))
        rig_near(&r, path == MOE_GROUPED ? "grouped" : "plain", y, want, 0);
    rig_close(&r);
}

void test_ops_ffn(void)
{
    static const struct ffn_row ffn[] = {
        { F32, F32, F32, 32, 4, 1 },         { F32, F32, F32, 36, 68, 7 },
        { F32, Q8_0, F32, 64, 96, 1 },       { Q8_0, F32, Q8_0, 64, 96, 7 },
        { Q8_0, Q8_0, Q8_0, 1024, 3584, 1 }, { F32, F32, F32, 256, 64, 65 },
    };
    static const struct moe_row moe[] = {
        { 4, 1, 32, 32, 32, 1, F32, F32, F32, F32, 0 },
        { 4, 4, 36, 4, 8, 1, F32, F32, F32, F32, 0 },
        { 5, 2, 64, 36, 64, 7, F32, F32, F32, Q8_0, 0 },
        { 5, 3, 64, 32, 64, 7, F32, F32, F32, F32, 1 },         /* all equal: the first three */
        { 128, 8, 64, 32, 64, 7, F32, F32, F32, F32, 5 },       /* runs of equals, cut within */
        { 128, 8, 64, 64, 64, 1, Q8_0, Q8_0, Q8_0, Q8_0, 0 },
        { 128, 7, 256, 32, 64, 7, Q4_K, Q6_K, Q8_0, Q8_0, 0 },  /* gate and up apart */
        { 5, 2, 64, 64, 64, 1, Q8_0, Q8_0, MXFP4, F32, 0 },
        { 512, 10, 32, 32, 32, 7, F32, Q8_0, F32, F32, 0 },
        { 4, 2, 32, 32, 32, 65, F32, F32, F32, F32, 0 },        /* several tiles an expert */
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(ffn); i++)
        ffn_case(g, &ffn[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(moe); i++)
        for (enum moe_path path = MOE_PLAIN; path <= MOE_GROUPED; path++)
            moe_case(g, &moe[i], path);
    ops_report(g);
}

/* Experts in pieces of two (gate and up) and four (down): what is not bound adds nothing. */
void test_ops_moe(void)
{
    static const struct moe_row moe[] = {
        { 9, 4, 32, 32, 32, 7, F32, F32, F32, F32, 0 },
        { 9, 4, 32, 32, 32, 7, F32, Q8_0, F32, F32, 2 },
    };
    struct gpu *g = ops_open_small(16384);
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(moe); i++)
        for (enum moe_path path = MOE_PLAIN; path <= MOE_GROUPED; path++)
            moe_case(g, &moe[i], path);
    ops_report(g);
    gpu_close(g);
}
