/* test_ops_mamba_bwd: Mamba2 over training rows, whole mixers forward and backward. */
#include "ops.h"
#include "ref/ref_bwd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-5f

struct mamba_docs {
    uint32_t n_head, head_dim, n_group, d_state, conv_k;
    enum {
        USUAL,
        SLOW,
        FAST
    } decay; /* SLOW as in test_ops_mamba.c: states last over whole documents; FAST: little is left
                of them after one token, and that little is the gradient of A_log */
    uint32_t gates; /* bits: A_log, dt_bias, D are trained */
};

/* Lengths around every length of a chunk; the last one is padding. */
static const uint32_t lengths[] = { 1, 2, 15, 16, 17, 31, 32, 33, 53, 63, 64, 65, 101, 197, 7 };
enum { N_DOC = ARRAY_LEN(lengths), N_GATE = 3 };

/* A mixer's inputs as numbers, document by document in the order of `lengths`; dp: what its
 * gradient starts as. */
struct mamba_docs_in {
    uint32_t n_tok, d_inner, d_conv, n_p, first[N_DOC];
    float *p, *dp, *dy, *conv, *bias, *gate[N_GATE], *dgate[N_GATE], *norm;
};
/* The results, in the same order. */
struct mamba_docs_out {
    float *y, *dp, *dgate[N_GATE];
};

static struct mamba_docs_in docs_values(struct rig *r, const struct mamba_docs *c)
{
    struct mamba_docs_in v = { .d_inner = c->n_head * c->head_dim };
    v.d_conv = v.d_inner + 2 * c->n_group * c->d_state;
    v.n_p = v.d_inner + v.d_conv + c->n_head;
    for (uint32_t i = 0; i < N_DOC; i++) {
        v.first[i] = v.n_tok;
        v.n_tok += lengths[i];
    }
    v.p = rig_normal(r, (uint64_t)v.n_tok * v.n_p, 1.5);
    v.dp = rig_normal(r, (uint64_t)v.n_tok * v.n_p, 0.1);
    v.dy = rig_normal(r, (uint64_t)v.n_tok * v.d_inner, 1);
    v.conv = rig_normal(r, (uint64_t)v.d_conv * c->conv_k, 0.7);
    v.bias = rig_normal(r, v.d_conv, 0.5);
    v.norm = rig_normal(r, v.d_inner, 1);
    for (uint32_t i = 0; i < N_GATE; i++) {
        v.gate[i] = rig_normal(r, c->n_head, 1);
        v.dgate[i] = rig_normal(r, c->n_head, 1);
    }
    for (uint32_t i = 0; i < c->n_head; i++) {
        float a = v.gate[0][i];
        v.gate[0][i] = -expf(c->decay == SLOW   ? a * 0.5f - 3
                             : c->decay == FAST ? a * 0.5f + 2.5f
                                                : a * 1.5f - 1);
        v.gate[1][i] -= c->decay == SLOW ? 4 : 0;
    }
    return v;
}

/* ---- what is expected -------------------------------------------------------------------- */

static void columns_add(const struct mamba_docs_in *v, uint32_t col, uint32_t n, const double *from,
                        double *rows)
{
    for (uint64_t t = 0; t < v->n_tok; t++)
        for (uint64_t i = 0; i < n; i++)
            rows[t * v->n_p + col + i] += from[t * n + i];
}

struct mamba_docs_want {
    double *y, *dp, *dgate[N_GATE];
};

/* The first token of the document of each token. */
static const uint32_t *docs_first(struct rig *r, const struct mamba_docs_in *v)
{
    uint32_t *first = rig_alloc(r, v->n_tok, sizeof *first);
    for (uint32_t i = 0; i < N_DOC; i++)
        for (uint32_t t = 0; t < lengths[i]; t++)
            first[v->first[i] + t] = v->first[i];
    return first;
}

static struct ref_conv docs_conv(struct rig *r, const struct mamba_docs *c,
                                 const struct mamba_docs_in *v)
{
    return (struct ref_conv){
        .n_tok = v->n_tok,
        .n_ch = v->d_conv,
        .conv_k = c->conv_k,
        .w = v->conv,
        .bias = v->bias,
        .window = rig_doubles(r, NULL, (uint64_t)c->conv_k * v->d_conv),
    };
}

static struct mamba_docs_want docs_want(struct rig *r, const struct mamba_docs *c,
                                        const struct mamba_docs_in *v)
{
    uint64_t n = v->n_tok;
    const uint32_t *first = docs_first(r, v);
    const struct rig_rows rows = { v->p, v->n_p, v->n_tok };
    double *z = rig_columns(r, &rows, 0, v->d_inner),
           *x = rig_columns(r, &rows, v->d_inner, v->d_conv);
    double *dt = rig_columns(r, &rows, v->d_inner + v->d_conv, c->n_head);
    double *u = rig_doubles(r, NULL, n * v->d_conv), *o = rig_doubles(r, NULL, n * v->d_inner);
    double *state = rig_doubles(r, NULL, (uint64_t)v->d_inner * c->d_state);
    struct ref_conv conv = docs_conv(r, c, v);
    conv.x = x;
    struct ref_mamba ref = { .n_tok = v->n_tok,
                             .n_head = c->n_head,
                             .head_dim = c->head_dim,
                             .n_group = c->n_group,
                             .d_state = c->d_state,
                             .xbc = u,
                             .dt = dt,
                             .ssm_a = v->gate[0],
                             .dt_bias = v->gate[1],
                             .d = v->gate[2],
                             .state = state };
    for (uint32_t i = 0; i < N_DOC; i++) {
        struct ref_conv conv_i = conv;
        struct ref_mamba ref_i = ref;
        uint64_t t0 = v->first[i];
        memset(conv.window, 0, (c->conv_k - 1) * v->d_conv * sizeof *conv.window);
        memset(state, 0, (uint64_t)v->d_inner * c->d_state * sizeof *state);
        conv_i.n_tok = ref_i.n_tok = lengths[i];
        conv_i.x += t0 * v->d_conv;
        ref_i.xbc += t0 * v->d_conv;
        ref_i.dt += t0 * c->n_head;
        ref_conv_silu(&conv_i, u + t0 * v->d_conv);
        ref_mamba(&ref_i, o + t0 * v->d_inner);
    }
    struct mamba_docs_want w = { .y = rig_doubles(r, NULL, n * v->d_inner),
                                 .dp = rig_doubles(r, v->dp, n * v->n_p) };
    memcpy(w.y, o, n * v->d_inner * sizeof *o);
    uint32_t width = v->d_inner / c->n_group;
    ref_mamba_norm(w.y, z, v->norm, v->n_tok, c->n_group, width, (double)EPS);

    double *dz = rig_doubles(r, NULL, n * v->d_inner), *d_o = rig_doubles(r, NULL, n * v->d_inner);
    double *du = rig_doubles(r, NULL, n * v->d_conv), *dx = rig_doubles(r, NULL, n * v->d_conv);
    double *ddt = rig_doubles(r, NULL, n * c->n_head);
    for (uint32_t i = 0; i < N_GATE; i++)
        w.dgate[i] = rig_doubles(r, v->dgate[i], c->n_head);
    ref_mamba_norm_bwd(o, z, v->norm, v->n_tok, c->n_group, width, (double)EPS,
                       rig_doubles(r, v->dy, n * v->d_inner), d_o, dz);
    struct ref_mamba_grad g = {
        .dxbc = du, .ddt = ddt, .da_log = w.dgate[0], .ddt_bias = w.dgate[1], .dd = w.dgate[2]
    };
    ref_mamba_bwd(&ref, first, d_o, &g);
    ref_conv_silu_bwd(&conv, first, du, dx, NULL);
    columns_add(v, 0, v->d_inner, dz, w.dp);
    columns_add(v, v->d_inner, v->d_conv, dx, w.dp);
    columns_add(v, v->d_inner + v->d_conv, c->n_head, ddt, w.dp);
    return w;
}

/* ---- what comes -------------------------------------------------------------------------- */

/* The documents stand in the order of `order`. Copies rows from the order of `lengths` to that of
 * the training row, or back. */
static float *reordered(struct rig *r, const struct mamba_docs_in *v, const uint32_t *order,
                        const float *from, uint32_t n, bool back)
{
    float *to = rig_alloc(r, (uint64_t)v->n_tok * n, sizeof *to);
    for (uint64_t i = 0, at = 0; i < N_DOC; at += (uint64_t)lengths[order[i++]] * n) {
        uint64_t home = (uint64_t)v->first[order[i]] * n;
        memcpy(to + (back ? home : at), from + (back ? at : home),
               (uint64_t)lengths[order[i]] * n * sizeof *to);
    }
    return to;
}

/* The tables of a training row, with more entries than there are chunks, as in a recording. */
static struct docs docs_tables(struct rig *r, const struct mamba_docs_in *v, const uint32_t *order,
                               uint32_t chunk)
{
    uint32_t n_chunk = v->n_tok / chunk + N_DOC + 3, n = 0, at = 0;
    int32_t *first = rig_alloc(r, v->n_tok, sizeof *first);
    int32_t(*table)[4] = rig_alloc(r, n_chunk, sizeof *table);
    for (uint32_t i = 0; i < N_DOC; at += lengths[order[i++]]) {
        uint32_t len = lengths[order[i]];
        for (uint32_t k = 0; k < len; k++)
            first[at + k] = (int32_t)at;
        for (uint32_t k = 0; k < len; k += chunk, n++) {
            table[n][0] = (int32_t)(at + k);
            table[n][1] = (int32_t)(len - k < chunk ? len - k : chunk);
            table[n][2] = k == 0;
            table[n][3] = len - k <= chunk;
        }
    }
    HLM_ASSERT(n < n_chunk);
    struct docs d = { .first = rig_words(r, first, v->n_tok), .chunk = chunk, .n_chunk = n_chunk };
    d.chunks = rig_view(r, I32, 4, n_chunk, 4, 0);
    rig_put_words(r, d.chunks, table);
    return d;
}

/* Runs one training row, forward and back. False: the case failed. */
static bool docs_run(struct rig *r, const struct mamba_docs *c, const struct mamba_docs_in *v,
                     const uint32_t *order, uint32_t chunk, struct mamba_docs_out *got)
{
    struct mamba m = { .n_head = c->n_head,
                       .head_dim = c->head_dim,
                       .n_group = c->n_group,
                       .d_state = c->d_state,
                       .conv_k = c->conv_k,
                       .eps = EPS };
    m.conv = rig_dense(r, v->conv, c->conv_k, v->d_conv);
    m.conv_bias = rig_dense(r, v->bias, v->d_conv, 1);
    m.norm = rig_dense(r, v->norm, v->d_inner, 1);
    tensor *gate[N_GATE] = { &m.ssm_a, &m.dt_bias, &m.d }, dgate[N_GATE];
    struct tape *tape = tape_create(r->scratch, &(struct dropout){ 0 }, &r->err);
    HLM_ASSERT(tape);
    for (uint32_t i = 0; i < N_GATE; i++) {
        *gate[i] = rig_dense(r, v->gate[i], c->n_head, 1);
        dgate[i] = rig_dense(r, v->dgate[i], c->n_head, 1);
        if (c->gates >> i & 1) {
            rig_writes(r, dgate[i]);
            HLM_ASSERT(tape_train_vector(tape, *gate[i], dgate[i], &r->err));
        }
    }
    struct docs docs = docs_tables(r, v, order, chunk);
    struct batch b = rig_batch(r, v->n_tok, &(struct segment){ 0 }, NULL, 0, false);
    b.docs = &docs;
    tensor p = rig_strided(r, reordered(r, v, order, v->p, v->n_p, false), v->n_p, v->n_tok);
    tensor dp = rig_strided(r, reordered(r, v, order, v->dp, v->n_p, false), v->n_p, v->n_tok);
    tensor dy =
        rig_strided(r, reordered(r, v, order, v->dy, v->d_inner, false), v->d_inner, v->n_tok);
    rig_writes(r, dp);
    tensor base = p, dbase = dp;
    base.col = dbase.col = 0;
    base.n = dbase.n = p.stride;
    tape_attach(r->c, tape);
    tape_begin(r->c, base, dbase);
    tensor y = op_mamba(r->c, p, &m, &(struct recurrent){ 0 }, &b);
    tape_back(r->c, y, dy);
    tape_destroy(tape);
    cmd_set_tape(r->c, NULL);
    if (!rig_run(r))
        return false;
    got->y = reordered(r, v, order, rig_get(r, y), v->d_inner, true);
    got->dp = reordered(r, v, order, rig_get(r, dp), v->n_p, true);
    for (uint32_t i = 0; i < N_GATE; i++)
        got->dgate[i] = rig_get(r, dgate[i]);
    return true;
}

/* ---- cases ------------------------------------------------------------------------------- */

static const char *const decays[] = { "mamba documents", "mamba documents, slow",
                                      "mamba documents, fast" };

/* Compares some columns of dp. */
static bool near_columns(struct rig *r, const char *what, const struct mamba_docs_in *v,
                         uint32_t col, uint32_t n, const float *got, const double *want, double tol)
{
    float *a = rig_alloc(r, (uint64_t)v->n_tok * n, sizeof *a);
    double *b = rig_doubles(r, NULL, (uint64_t)v->n_tok * n);
    for (uint64_t t = 0; t < v->n_tok; t++)
        for (uint64_t i = 0; i < n; i++) {
            a[t * n + i] = got[t * v->n_p + col + i];
            b[t * n + i] = want[t * v->n_p + col + i];
        }
    return rig_near_values(r, what, a, b, n, v->n_tok, tol);
}

/* NMSE. Of fast heads the outputs are C . B alone; where that is near zero for a token, the norm
 * makes its error large. */
static const struct bound output_off = { .most = 2e-13, .measured = 2e-13 };
static const struct bound gradient_off = { .most = 1e-12, .measured = 5e-13 };
static const struct bound fast_bc_off = { .most = 1.5e-11, .measured = 9e-12 };

static void docs_case(struct gpu *g, const struct mamba_docs *c, uint32_t chunk)
{
    static const char *const name[N_GATE] = { "dA_log", "ddt_bias", "dD" };
    uint32_t order[N_DOC];
    if (!test_case("mamba documents, %u heads of %u, %u groups of %u, conv %u, chunks of %u%s",
                   c->n_head, c->head_dim, c->n_group, c->d_state, c->conv_k, chunk,
                   decays[c->decay] + strlen(decays[USUAL])))
        return;
    for (uint32_t i = 0; i < N_DOC; i++)
        order[i] = i;
    struct rig r = rig_open(g, decays[c->decay]);
    struct mamba_docs_in v = docs_values(&r, c);
    struct mamba_docs_want w = docs_want(&r, c, &v);
    struct mamba_docs_out got;
    uint32_t d_bc = v.d_conv - v.d_inner;
    double tol = gradient_off.most, tol_bc = c->decay == FAST ? fast_bc_off.most : tol;
    if (docs_run(&r, c, &v, order, chunk, &got)) {
        rig_near_values(&r, "y", got.y, w.y, v.d_inner, v.n_tok, output_off.most);
        near_columns(&r, "dz", &v, 0, v.d_inner, got.dp, w.dp, tol);
        near_columns(&r, "dx", &v, v.d_inner, v.d_inner, got.dp, w.dp, tol);
        near_columns(&r, "dB, dC", &v, 2 * v.d_inner, d_bc, got.dp, w.dp, tol_bc);
        near_columns(&r, "ddt", &v, v.d_inner + v.d_conv, c->n_head, got.dp, w.dp, tol);
        for (uint32_t i = 0; i < N_GATE; i++)
            if (c->gates >> i & 1)
                rig_near_values(&r, name[i], got.dgate[i], w.dgate[i], c->n_head, 1, tol);
    }
    rig_close(&r);
}

/* Documents change places and neighbours, but not their bits. */
static void places_case(struct gpu *g, const struct mamba_docs *c, uint32_t chunk)
{
    static const uint32_t order[2][N_DOC] = {
        { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 },
        { 13, 4, 0, 11, 2, 9, 1, 12, 10, 8, 3, 5, 7, 6, 14 },
    };
    if (!test_case("mamba documents in other places, chunks of %u", chunk))
        return;
    struct rig r[2];
    struct mamba_docs_in v = { 0 };
    struct mamba_docs_out got[2];
    bool good = true;
    for (uint32_t i = 0; i < 2; i++) {
        r[i] = rig_open(g, decays[c->decay]);
        v = docs_values(&r[i], c);
        good = docs_run(&r[i], c, &v, order[i], chunk, &got[i]) && good;
    }
    for (uint32_t i = 0; good && i < N_DOC; i++) {
        uint64_t y = (uint64_t)v.first[i] * v.d_inner, p = (uint64_t)v.first[i] * v.n_p;
        CHECK_MSG(memcmp(got[0].y + y, got[1].y + y, lengths[i] * v.d_inner * sizeof(float)) == 0,
                  "a document of %u tokens has other outputs", lengths[i]);
        CHECK_MSG(memcmp(got[0].dp + p, got[1].dp + p, lengths[i] * v.n_p * sizeof(float)) == 0,
                  "a document of %u tokens has another gradient", lengths[i]);
    }
    rig_close(&r[0]);
    rig_close(&r[1]);
}

/* Files may have heads that training's kernels cannot load four numbers at a time. */
static void odd_case(struct gpu *g)
{
    if (!test_case("mamba documents, heads of 6"))
        return;
    struct rig r = rig_open(g, "mamba documents");
    struct mamba m = { .n_head = 2, .head_dim = 6, .n_group = 1, .d_state = 4, .conv_k = 4 };
    struct docs docs = { .chunk = 16, .n_chunk = 1 };
    struct batch b = { .n_tok = 1, .docs = &docs };
    op_mamba(r.c, rig_view(&r, F32, 34, 1, 36, 0), &m, &(struct recurrent){ 0 }, &b);
    CHECK_REFUSED(cmd_check(r.c, &r.err), r.err, "heads|6|multiple|4");
    rig_close(&r);
}

void test_ops_mamba_bwd(void)
{
    static const struct mamba_docs rows[] = {
        { 4, 36, 2, 20, 4, USUAL, 7 },
        { 4, 36, 2, 20, 4, SLOW, 7 },
        { 4, 36, 2, 20, 4, FAST, 7 },
    };
    static const struct mamba_docs others[] = {
        { 9, 12, 3, 4, 3, USUAL, 5 },
        { 8, 24, 1, 44, 2, SLOW, 0 },
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t chunk = 16; chunk <= 64; chunk *= test_brief() ? 4 : 2)
        for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
            docs_case(g, &rows[i], chunk);
    for (uint32_t i = 0; i < ARRAY_LEN(others); i++)
        docs_case(g, &others[i], 32);
    places_case(g, &rows[USUAL], 16);
    places_case(g, &rows[SLOW], 64);
    odd_case(g);
    ops_report(g);
}
