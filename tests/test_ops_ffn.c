/* test_ops_ffn: the feed-forward half of a layer, dense and as a mixture of experts.
 *
 * Kernels: act, moe_route, moe_linear, moe_sort, moe_sum; and norm and the linear ones in their
 * company. */
#include "ops.h"

#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f
#define SWIGLU { ACT_SWIGLU, 0 }
#define RELU2 { ACT_RELU2, 0 }
#define CUT { ACT_SWIGLU, 0.3f }

/* ---- dense ------------------------------------------------------------------------------- */

struct ffn_row {
    enum dtype gate, up, down;
    uint32_t n_embd, n_ff, n_tok;
    struct act act;
    uint32_t rank;              /* of adapters on all three, gate and up sharing A; 0: none */
};

static void ffn_case(struct gpu *g, const struct ffn_row *c)
{
    uint64_t n = (uint64_t)c->n_tok * c->n_embd;
    bool has_gate = c->act.kind == ACT_SWIGLU;
    test_case("ffn %u x %u, %s %s %s, %u tokens, %s %g, rank %u", c->n_embd, c->n_ff,
              dtype_info(c->gate)->name, dtype_info(c->up)->name, dtype_info(c->down)->name,
              c->n_tok, has_gate ? "SwiGLU" : "relu2", (double)c->act.limit, c->rank);
    struct rig r = rig_open(g, "ffn");
    struct weight gate = rig_weight(&r, c->gate, c->n_embd, c->n_ff, 1, 2, false);
    struct weight up = rig_weight(&r, c->up, c->n_embd, c->n_ff, 1, 1, c->up == c->gate);
    struct weight down = rig_weight(&r, c->down, c->n_ff, c->n_embd, 1, 1, false);
    if (c->rank) {
        gate = rig_lora(&r, gate, c->rank, NULL);
        up = rig_lora(&r, up, c->rank, has_gate ? &gate : NULL);
        down = rig_lora(&r, down, c->rank, NULL);
    }
    float *x_v = rig_normal(&r, n, 1), *norm_v = rig_normal(&r, c->n_embd, 1);
    tensor x = rig_strided(&r, x_v, c->n_embd, c->n_tok);
    tensor norm = rig_dense(&r, norm_v, c->n_embd, 1);
    struct ffn f = { c->act, gate.w, up.w, down.w };
    tensor y = op_ffn(r.c, x, norm, EPS, &f);

    double *h = rig_doubles(&r, x_v, n), *want = rig_doubles(&r, NULL, n);
    ref_rmsnorm(h, norm_v, c->n_embd, c->n_tok, (double)EPS, h);
    struct ref_ffn ref = { .n_embd = c->n_embd, .n_ff = c->n_ff, .gate = has_gate ? gate.v : NULL,
                           .up = up.v, .down = down.v, .limit = (double)c->act.limit };
    ref_ffn(&ref, h, c->n_tok, want);
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
    bool sigmoid;               /* with a bias, renormalised unless raw; without a shared gate */
    bool raw;
    uint32_t n_group, n_group_used, n_latent;
    struct act act;             /* the shared expert's limit is twice this one */
    uint32_t rank;              /* of adapters on the router and all experts; 0: none */
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
    bool has_gate = c->act.kind == ACT_SWIGLU;
    bool joint = has_gate && c->gate == c->up;
    uint32_t n_in = c->n_latent ? c->n_latent : c->n_embd;
    test_case("moe%s %u of %u, %u x %u, %s %s %s, tie %u, %u tokens%s%s, %u of %u groups, latent "
              "%u, limit %g, rank %u", path == MOE_GROUPED ? " grouped" : "", c->n_used,
              c->n_expert, c->n_embd, c->n_ff, dtype_info(c->gate)->name, dtype_info(c->up)->name,
              dtype_info(c->down)->name, c->tie, c->n_tok, c->sigmoid ? ", sigmoid" : "",
              has_gate ? "" : ", relu2", c->n_group_used, c->n_group, c->n_latent,
              (double)c->act.limit, c->rank);
    struct rig r = rig_open(g, "moe");
    struct weight router = router_make(&r, c);
    struct weight sh_router = rig_weight(&r, c->shared, c->n_embd, 1, 1, 1, c->shared == F32);
    struct weight gate = rig_weight(&r, c->gate, n_in, joint ? 2 * c->n_ff : c->n_ff,
                                    c->n_expert, 2, false);
    struct weight up = joint ? gate : rig_weight(&r, c->up, n_in, c->n_ff, c->n_expert, 2,
                                                 false);
    struct weight down = rig_weight(&r, c->down, c->n_ff, n_in, c->n_expert, 2, false);
    struct weight sh_gate = rig_weight(&r, c->shared, c->n_embd, c->n_ff_shared, 1, 2, false);
    struct weight sh_up = rig_weight(&r, c->shared, c->n_embd, c->n_ff_shared, 1, 1, true);
    struct weight sh_down = rig_weight(&r, c->shared, c->n_ff_shared, c->n_embd, 1, 1, false);
    struct weight latent[2] = { 0 };
    if (c->n_latent) {
        latent[0] = rig_weight(&r, F32, c->n_embd, c->n_latent, 1, 1, false);
        latent[1] = rig_weight(&r, F32, c->n_latent, c->n_embd, 1, 1, false);
    }
    if (c->rank) {
        struct weight *all[] = { &router, &gate, &down, &sh_gate, &sh_down };
        for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
            *all[i] = rig_lora(&r, *all[i], c->rank, NULL);
        up = joint ? gate : rig_lora(&r, up, c->rank, NULL);
    }
    float *bias_v = rig_normal(&r, c->n_expert, 0.2);
    struct moe m = { .n_expert = c->n_expert, .n_used = c->n_used, .n_ff = c->n_ff,
                     .route = c->sigmoid ? ROUTE_SIGMOID : ROUTE_SOFTMAX,
                     .bias = rig_dense(&r, bias_v, c->n_expert, 1), .n_group = c->n_group,
                     .n_group_used = c->n_group_used, .renorm = !c->raw, .scale = 2.5f,
                     .act = c->act, .sh_act = { c->act.kind, 2 * c->act.limit },
                     .latent_down = latent[0].w, .latent_up = latent[1].w,
                     .router = router.w, .down = down.w, .sh_up = sh_up.w, .sh_down = sh_down.w };
    if (!c->sigmoid)
        m.shared_gate = sh_router.w;
    if (has_gate)
        m.sh_gate = sh_gate.w;
    if (joint)
        m.gate_up = gate.w;
    else
        m.gate = has_gate ? gate.w : m.gate, m.up = up.w;

    float *x_v = rig_normal(&r, n, 1), *norm_v = rig_normal(&r, c->n_embd, 1);
    tensor x = rig_dense(&r, x_v, c->n_embd, c->n_tok), norm = rig_dense(&r, norm_v, c->n_embd, 1);
    tensor y = moe_by(r.c, path, x, norm, EPS, &m);

    double *h = rig_doubles(&r, x_v, n), *want = rig_doubles(&r, NULL, n);
    ref_rmsnorm(h, norm_v, c->n_embd, c->n_tok, (double)EPS, h);
    struct ref_moe ref = {
        .n_embd = c->n_embd, .n_expert = c->n_expert, .n_used = c->n_used, .n_ff = c->n_ff,
        .n_ff_shared = c->n_ff_shared, .router = router.v,
        .gate = has_gate ? expert_rows(&r, &gate, 0, c->n_ff) : NULL,
        .up = expert_rows(&r, &up, joint ? c->n_ff : 0, c->n_ff), .down = down.v,
        .shared_router = c->sigmoid ? NULL : sh_router.v,
        .shared_gate = has_gate ? sh_gate.v : NULL, .shared_up = sh_up.v,
        .shared_down = sh_down.v, .limit = (double)c->act.limit,
        .shared_limit = 2 * (double)c->act.limit, .n_latent = c->n_latent,
        .latent_down = latent[0].v, .latent_up = latent[1].v, .sigmoid = c->sigmoid,
        .router_bias = bias_v, .n_group = c->n_group, .n_group_used = c->n_group_used,
        .norm = !c->raw, .scale = 2.5,
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
        { F32, F32, F32, 32, 4, 1, .act = SWIGLU },
        { F32, F32, F32, 36, 68, 7, .act = SWIGLU },
        { F32, Q8_0, F32, 64, 96, 1, .act = SWIGLU },
        { Q8_0, F32, Q8_0, 64, 96, 7, .act = SWIGLU },
        { Q8_0, Q8_0, Q8_0, 1024, 3584, 1, .act = SWIGLU },
        { F32, F32, F32, 256, 64, 65, .act = SWIGLU },
        { F32, F32, F32, 36, 68, 1, .act = CUT },
        { F32, F32, F32, 36, 68, 7, .act = RELU2 },
        { Q8_0, Q8_0, Q8_0, 64, 96, 1, .act = RELU2 },
        { F32, F32, F32, 36, 68, 1, .act = SWIGLU, .rank = 4 },
        { F32, Q8_0, F32, 64, 96, 7, .act = SWIGLU, .rank = 36 },
        { F32, F32, F32, 64, 96, 65, .act = RELU2, .rank = 20 },
    };
    static const struct moe_row moe[] = {
        { 4, 1, 32, 32, 32, 1, F32, F32, F32, F32, .tie = 0 },
        { 4, 4, 36, 4, 8, 1, F32, F32, F32, F32, .tie = 0 },
        { 5, 2, 64, 36, 64, 7, F32, F32, F32, Q8_0, .tie = 0 },
        { 5, 3, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 1 },     /* all equal: the first three */
        { 128, 8, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 5 },   /* runs of equals, cut within */
        { 128, 8, 64, 64, 64, 1, Q8_0, Q8_0, Q8_0, Q8_0, .tie = 0 },
        { 128, 7, 256, 32, 64, 7, Q4_K, Q6_K, Q8_0, Q8_0, .tie = 0 },  /* gate, up apart */
        { 5, 2, 64, 64, 64, 1, Q8_0, Q8_0, MXFP4, F32, .tie = 0 },
        { 4, 2, 256, 256, 32, 7, Q2_K, IQ3_S, IQ1_M, F32, .tie = 0 },
        { 4, 2, 256, 256, 32, 7, TQ1_0, NVFP4, IQ2_XXS, F32, .tie = 0 },
        { 512, 10, 32, 32, 32, 7, F32, Q8_0, F32, F32, .tie = 0 },
        { 4, 2, 32, 32, 32, 65, F32, F32, F32, F32, .tie = 0 },    /* several tiles an expert */
        { 6, 2, 64, 32, 96, 7, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .act = RELU2 },
        { 6, 3, 36, 32, 64, 1, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .raw = true,
          .act = CUT },
        { 128, 6, 64, 32, 64, 7, F32, Q8_0, F32, F32, .tie = 0, .sigmoid = true,
          .act = SWIGLU },                                      /* gate, up apart */
        { 24, 6, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .n_group = 6,
          .n_group_used = 2, .act = RELU2 },
        { 24, 5, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 4, .sigmoid = true, .n_group = 4,
          .n_group_used = 3, .act = RELU2 },                    /* groups alike but for bias */
        { 9, 3, 64, 36, 32, 7, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .n_latent = 20,
          .act = RELU2 },
        { 9, 3, 64, 36, 32, 1, Q8_0, Q8_0, F32, F32, .tie = 0, .n_latent = 32, .act = CUT },
        { 5, 2, 64, 36, 64, 7, F32, F32, F32, Q8_0, .tie = 0, .rank = 4 },
        { 9, 3, 64, 32, 64, 65, F32, Q8_0, F32, F32, .tie = 0, .rank = 36 },
        { 6, 2, 64, 32, 96, 1, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .act = RELU2,
          .rank = 8 },
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
        { 9, 4, 32, 32, 32, 7, F32, F32, F32, F32, .tie = 0 },
        { 9, 4, 32, 32, 32, 7, F32, Q8_0, F32, F32, .tie = 2 },
        { 9, 4, 32, 32, 32, 7, F32, F32, F32, F32, .tie = 0, .rank = 36 },
        { 9, 4, 64, 32, 32, 7, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .n_latent = 32,
          .act = RELU2 },
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
