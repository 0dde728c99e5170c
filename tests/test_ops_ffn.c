/* test_ops_ffn: the feed-forward half of a layer, dense and as a mixture of experts. */
#include "ops_moe.h"

#include <math.h>
#include <string.h>

#define EPS 1e-6f

/* ---- dense ------------------------------------------------------------------------------- */

struct ffn_row {
    enum dtype gate, up, down;
    uint32_t n_embd, n_ff, n_tok;
    struct act act;
    uint32_t rank; /* rank of adapters on all three, gate and up sharing A; 0: none */
};

static void ffn_case(struct gpu *g, const struct ffn_row *c)
{
    uint64_t n = (uint64_t)c->n_tok * c->n_embd;
    bool has_gate = c->act.kind == ACT_SWIGLU;
    if (!test_case("ffn %u x %u, %s %s %s, %u tokens, %s %g, rank %u", c->n_embd, c->n_ff,
                   dtype_info(c->gate)->name, dtype_info(c->up)->name, dtype_info(c->down)->name,
                   c->n_tok, has_gate ? "SwiGLU" : "relu2", (double)c->act.limit, c->rank))
        return;
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
    struct ref_ffn ref = { .n_embd = c->n_embd,
                           .n_ff = c->n_ff,
                           .gate = has_gate ? gate.v : NULL,
                           .up = up.v,
                           .down = down.v,
                           .limit = (double)c->act.limit };
    ref_ffn(&ref, h, c->n_tok, want);
    for (uint64_t i = 0; i < n; i++)
        want[i] += (double)x_v[i];
    if (rig_run(&r))
        rig_near(&r, "ffn", y, want, 0);
    rig_close(&r);
}

/* ---- experts ----------------------------------------------------------------------------- */

/* row: some tokens are padding, which is not counted. */
static void moe_case(struct gpu *g, const struct moe_row *c, enum moe_path path, bool row)
{
    uint64_t n = (uint64_t)c->n_tok * c->n_embd;
    char text[200];
    if (!test_case("moe%s %s", path == MOE_GROUPED ? " grouped" : "", moe_text(c, text)))
        return;
    struct rig r = rig_open(g, "moe");
    struct moe_pair pair = moe_make(&r, c, true);
    float *x_v = rig_normal(&r, n, 1), *norm_v = rig_normal(&r, c->n_embd, 1);
    tensor x = rig_dense(&r, x_v, c->n_embd, c->n_tok), norm = rig_dense(&r, norm_v, c->n_embd, 1);
    uint64_t *load = rig_alloc(&r, c->n_expert, sizeof *load);
    uint32_t *had = rig_alloc(&r, c->n_expert, sizeof *had);
    uint32_t *real = rig_alloc(&r, c->n_tok, sizeof *real);
    for (uint32_t e = 0; e < c->n_expert; e++)
        had[e] = 3 * e;
    for (uint32_t t = 0; t < c->n_tok; t++)
        real[t] = t % 3 != 1;
    struct moe_layer s = { rig_words(&r, had, c->n_expert) };
    struct docs docs = { .real = rig_words(&r, real, c->n_tok) };
    struct batch b = { .docs = row ? &docs : NULL };
    rig_writes(&r, s.load);
    tensor y = moe_by(r.c, path, (struct normed){ x, norm, MOE_EPS }, &pair.m, &s, &b);

    double *h = rig_doubles(&r, x_v, n), *want = rig_doubles(&r, NULL, n);
    ref_rmsnorm(h, norm_v, c->n_embd, c->n_tok, (double)MOE_EPS, h);
    for (uint32_t t = 0; t < c->n_tok; t++) {
        pair.ref.load = row && !real[t] ? NULL : load;
        ref_moe(&pair.ref, h + (uint64_t)t * c->n_embd, 1, want + (uint64_t)t * c->n_embd);
    }
    for (uint64_t i = 0; i < n; i++)
        want[i] += (double)x_v[i];
    if (rig_run(&r)) {
        rig_near(&r, path == MOE_GROUPED ? "grouped" : "plain", y, want, 0);
        uint32_t *got = (uint32_t *)(void *)rig_get(&r, s.load);
        for (uint32_t e = 0; e < c->n_expert; e++)
            if (!CHECK_EQ(got[e], had[e] + load[e]))
                break;
    }
    rig_close(&r);
}

/* Tokens together, more than would be sorted by expert, have the bits of each alone. */
static void moe_each_case(struct gpu *g, const struct moe_row *c)
{
    char text[200];
    if (!test_case("moe, each of %u tokens as if alone, %s", c->n_tok, moe_text(c, text)))
        return;
    struct rig r = rig_open(g, "moe each");
    struct moe_pair pair = moe_make(&r, c, true);
    float *x_v = rig_normal(&r, (uint64_t)c->n_tok * c->n_embd, 1);
    for (uint32_t i = 0; i < 2 * c->n_embd; i++)
        x_v[i] = i < c->n_embd ? NAN : 3e38f;
    tensor x = rig_dense(&r, x_v, c->n_embd, c->n_tok);
    tensor norm = rig_dense(&r, rig_normal(&r, c->n_embd, 1), c->n_embd, 1), alone[16];
    struct moe_layer s = { .load = { 0 } };
    struct batch b = { 0 };
    cmd_set_each(r.c, true);
    tensor y = op_moe(r.c, (struct normed){ x, norm, MOE_EPS }, &pair.m, &s, &b);
    cmd_set_each(r.c, false);
    for (uint32_t t = 2; t < c->n_tok; t++)
        alone[t] =
            op_moe(r.c, (struct normed){ tensor_rows(x, t, 1), norm, MOE_EPS }, &pair.m, &s, &b);
    bool good = rig_run(&r);
    for (uint32_t t = 2; good && t < c->n_tok; t++)
        good = memcmp(rig_get(&r, y) + (uint64_t)t * c->n_embd, rig_get(&r, alone[t]),
                      c->n_embd * sizeof(float)) == 0 ||
               FAIL("token %u has other bits than alone", t);
    rig_close(&r);
}

/* ---- entries by expert ----------------------------------------------------------------------- */

/* Guards against one walk over all entries of a long batch: Mesa before 23 limits what an
 * invocation may do, and the rest was left out. */
static void sort_case(struct gpu *g, uint32_t n_expert, uint32_t n_used, uint32_t n_tok)
{
    if (!test_case("sort %u of %u experts, %u tokens", n_used, n_expert, n_tok))
        return;
    enum { TILE = 16, CHUNK = 1024 };
    struct rig r = rig_open(g, "moe_sort");
    uint32_t stride = (uint32_t)align_up(n_used, 4), n = n_tok * n_used, at = 0, n_tile = 0;
    uint32_t *id = rig_alloc(&r, (uint64_t)stride * n_tok, sizeof *id);
    for (uint32_t i = 0; i < stride * n_tok; i++)
        id[i] = (uint32_t)(rng_u64(&r.rng) % n_expert) / 2 * 2; /* every other expert has none */
    tensor ids = rig_words(&r, id, stride * n_tok), entries = cmd_scratch(r.c, I32, n, 1);
    tensor tiles = cmd_scratch(r.c, I32, 1 + 3 * (n / TILE + n_expert), 1);
    struct push_moe_sort p = { .n_expert = n_expert,
                               .n_used = n_used,
                               .n_tok = n_tok,
                               .id_stride = stride,
                               .tile = TILE,
                               .chunk = CHUNK };
    cmd_dispatch(r.c, K_moe_sort, GRID(div_up(n, CHUNK), 1, 1),
                 SPEC(.wg = min_u32(512, gpu_caps(g)->max_invocations)), PUSH(p),
                 USES(READ(ids), WRITE(entries), WRITE(tiles)));
    if (rig_run(&r)) {
        const float *got_f = rig_get(&r, entries), *tile_f = rig_get(&r, tiles);
        uint32_t *got = rig_alloc(&r, n, 4), *tile = rig_alloc(&r, tiles.n, 4);
        memcpy(got, got_f, 4ull * n);
        memcpy(tile, tile_f, 4ull * tiles.n);
        for (uint32_t e = 0; e < n_expert; e++) {
            uint32_t first = at;
            for (uint32_t i = 0; i < n; i++)
                if (id[i / n_used * stride + i % n_used] == e && !CHECK_EQ(got[at++], i))
                    break;
            for (uint32_t from = first; from < at; from += TILE, n_tile++) {
                CHECK_EQ(tile[1 + 3 * n_tile], e);
                CHECK_EQ(tile[2 + 3 * n_tile], from);
                CHECK_EQ(tile[3 + 3 * n_tile], min_u32(TILE, at - from));
            }
        }
        CHECK_EQ(tile[0], n_tile);
    }
    rig_close(&r);
}

static void ffn_cases(struct gpu *g)
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
    for (uint32_t i = 0; i < ARRAY_LEN(ffn); i++)
        ffn_case(g, &ffn[i]);
}

void test_ops_ffn(void)
{
    static const struct moe_row moe[] = {
        { 4, 1, 32, 32, 32, 1, F32, F32, F32, F32, .tie = 0 },
        { 4, 4, 36, 4, 8, 1, F32, F32, F32, F32, .tie = 0 },
        { 5, 2, 64, 36, 64, 7, F32, F32, F32, Q8_0, .tie = 0 },
        { 5, 3, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 1 },   /* all equal: the first three */
        { 128, 8, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 5 }, /* runs of equals, cut inside */
        { 128, 8, 64, 64, 64, 1, Q8_0, Q8_0, Q8_0, Q8_0, .tie = 0 },
        { 128, 7, 256, 32, 64, 7, Q4_K, Q6_K, Q8_0, Q8_0, .tie = 0 }, /* gate and up apart */
        { 5, 2, 64, 64, 64, 1, Q8_0, Q8_0, MXFP4, F32, .tie = 0 },
        { 4, 2, 256, 256, 32, 7, Q2_K, IQ3_S, IQ1_M, F32, .tie = 0 },
        { 4, 2, 256, 256, 32, 7, TQ1_0, NVFP4, IQ2_XXS, F32, .tie = 0 },
        { 512, 10, 32, 32, 32, 7, F32, Q8_0, F32, F32, .tie = 0 },
        { 4, 2, 32, 32, 32, 65, F32, F32, F32, F32, .tie = 0 }, /* several tiles an expert */
        { 6, 2, 64, 32, 96, 7, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .act = RELU2 },
        { 6, 3, 36, 32, 64, 1, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .raw = true,
          .act = CUT },
        { 128, 6, 64, 32, 64, 7, F32, Q8_0, F32, F32, .tie = 0, .sigmoid = true,
          .act = SWIGLU }, /* gate and up apart */
        { 24, 6, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 0, .sigmoid = true, .n_group = 6,
          .n_group_used = 2, .act = RELU2 },
        { 24, 5, 64, 32, 64, 7, F32, F32, F32, F32, .tie = 4, .sigmoid = true, .n_group = 4,
          .n_group_used = 3, .act = RELU2 }, /* groups that differ only in bias */
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
    ffn_cases(g);
    for (uint32_t i = 0; i < ARRAY_LEN(moe); i++)
        for (enum moe_path path = MOE_PLAIN; path <= MOE_GROUPED; path++)
            moe_case(g, &moe[i], path, (i + path) % 2);
    static const struct moe_row each[] = {
        { 9, 4, 64, 32, 32, 13, Q8_0, Q8_0, Q8_0, Q8_0, .rank = 4 },
        { 9, 4, 64, 32, 32, 16, F32, F32, F32, F32, .sigmoid = true, .n_latent = 32, .act = RELU2 },
        { 9, 4, 64, 32, 32, 10, Q8_0, F32, Q8_0, F32, .act = CUT },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(each); i++)
        moe_each_case(g, &each[i]);
    sort_case(g, 5, 3, 11);
    sort_case(g, 128, 8, 8200);
    ops_report(g);
}

/* Experts in slabs of two (gate and up) and four (down): what is not bound adds nothing. */
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
            moe_case(g, &moe[i], path, false);
    ops_report(g);
    gpu_close(g);
}
