/* test_ops_delta_bwd: Gated DeltaNet over training rows, forward and backward, compared with the
 * serial reference; chunk lengths compared with each other; a document at different places of a
 * training row. */
#include "ops.h"
#include "ref/ref_bwd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f
#define SLOW 2e-3f /* as in test_ops_mixer.c */
#define STRONG 20.0f

enum { MAX_DOC = 16 };

struct delta_docs {
    uint32_t n_k_head, n_v_head, d_state, conv_k;
    bool tiled;
    uint32_t chunk;
    float rate;               /* the decay; 0: random decays */
    uint32_t length[MAX_DOC]; /* lengths of the documents, and of padding */
    bool turned;              /* they stand in the training row from the last to the first */
    bool frozen;              /* the gates are not trained */
};

/* Values by document in the order listed, wherever the documents stand. */
struct delta_docs_in {
    uint32_t n_doc, n_tok, d_conv, d_out, n_p;
    uint32_t at[MAX_DOC],
        place[MAX_DOC]; /* the first token, among the values and in the training row */
    uint32_t *first;    /* of the training row */
    float *p, *dp, *dy, *conv, *ssm_a, *dt_bias, *norm, *da_log, *ddt_bias;
};

/* The results by document in the order listed: [n_tok][d_out], [n_tok][n_p], [n_v_head] twice. */
struct delta_docs_out {
    float *y, *dp, *da_log, *ddt_bias;
};

static struct delta_docs_in docs_values(struct rig *r, const struct delta_docs *c)
{
    struct delta_docs_in d = { .d_conv = (2 * c->n_k_head + c->n_v_head) * c->d_state,
                               .d_out = c->n_v_head * c->d_state };
    for (; d.n_doc < MAX_DOC && c->length[d.n_doc]; d.n_tok += c->length[d.n_doc++])
        d.at[d.n_doc] = d.place[d.n_doc] = d.n_tok;
    d.first = rig_alloc(r, d.n_tok, sizeof *d.first);
    for (uint32_t i = 0; i < d.n_doc; i++) {
        if (c->turned)
            d.place[i] = d.n_tok - d.at[i] - c->length[i];
        for (uint32_t t = 0; t < c->length[i]; t++)
            d.first[d.place[i] + t] = d.place[i];
    }
    d.n_p = d.d_conv + d.d_out + 2 * c->n_v_head;
    d.p = rig_normal(r, (uint64_t)d.n_tok * d.n_p, 1.5);
    d.dp = rig_normal(r, (uint64_t)d.n_tok * d.n_p, 0.1);
    d.dy = rig_normal(r, (uint64_t)d.n_tok * d.d_out, 1);
    d.conv = rig_normal(r, (uint64_t)d.d_conv * c->conv_k, 0.7);
    d.dt_bias = rig_normal(r, c->n_v_head, 1);
    d.norm = rig_normal(r, c->d_state, 1);
    d.ssm_a = rig_normal(r, c->n_v_head, 1.5);
    for (uint32_t i = 0; i < c->n_v_head; i++)
        d.ssm_a[i] = c->rate > 0 ? -c->rate * (float)(i + 1) : -expf(d.ssm_a[i] - 1);
    d.da_log = rig_normal(r, c->n_v_head, 0.1);
    d.ddt_bias = rig_normal(r, c->n_v_head, 0.1);
    return d;
}

/* Moves rows [n_tok][n] between the order of the values and that of the training row. */
static float *moved(struct rig *r, const struct delta_docs *c, const struct delta_docs_in *d,
                    const float *v, uint32_t n, bool to_row)
{
    float *out = rig_alloc(r, (uint64_t)d->n_tok * n, sizeof *out);
    for (uint32_t i = 0; i < d->n_doc; i++) {
        uint64_t from = to_row ? d->at[i] : d->place[i], to = to_row ? d->place[i] : d->at[i];
        memcpy(out + to * n, v + from * n, (uint64_t)c->length[i] * n * sizeof *out);
    }
    return out;
}

/* ---- the reference --------------------------------------------------------------------------- */

struct delta_docs_want {
    double *y, *dp, *da_log, *ddt_bias;
};

/* Adds v to columns [col, col + n) of dp. */
static void columns_add(const struct delta_docs_in *d, const double *v, uint32_t col, uint32_t n,
                        double *dp)
{
    for (uint64_t t = 0; t < d->n_tok; t++)
        for (uint64_t i = 0; i < n; i++)
            dp[t * d->n_p + col + i] += v[t * n + i];
}

/* Runs the documents one by one from zero states, then backward over all; in the order of the
 * values. */
static struct delta_docs_want docs_want(struct rig *r, const struct delta_docs *c,
                                        const struct delta_docs_in *d)
{
    uint64_t n_u = (uint64_t)d->n_tok * d->d_conv, n_o = (uint64_t)d->n_tok * d->d_out;
    uint32_t n_v = c->n_v_head, b_col = d->d_conv + d->d_out, n_gate = d->n_tok * n_v;
    const struct rig_rows rows = { d->p, d->n_p, d->n_tok };
    double *x = rig_columns(r, &rows, 0, d->d_conv),
           *z = rig_columns(r, &rows, d->d_conv, d->d_out);
    double *b = rig_columns(r, &rows, b_col, n_v), *a = rig_columns(r, &rows, b_col + n_v, n_v);
    double *u = rig_doubles(r, NULL, n_u), *o = rig_doubles(r, NULL, n_o);
    uint32_t *first = rig_alloc(r, d->n_tok, sizeof *first);
    struct ref_conv conv = {
        .n_tok = d->n_tok, .n_ch = d->d_conv, .conv_k = c->conv_k, .w = d->conv, .x = x
    };
    struct ref_delta delta = { .n_tok = d->n_tok,
                               .n_k_head = c->n_k_head,
                               .n_v_head = n_v,
                               .d_state = c->d_state,
                               .tiled = c->tiled,
                               .qkv = u,
                               .b = b,
                               .a = a,
                               .ssm_a = d->ssm_a,
                               .dt_bias = d->dt_bias };
    for (uint32_t i = 0; i < d->n_doc; i++) {
        uint64_t at = d->at[i];
        struct ref_conv doc_conv = conv;
        struct ref_delta doc = delta;
        doc.n_tok = doc_conv.n_tok = c->length[i];
        doc_conv.x += at * d->d_conv;
        doc_conv.window = rig_doubles(r, NULL, (uint64_t)(c->conv_k - 1) * d->d_conv);
        ref_conv_silu(&doc_conv, u + at * d->d_conv);
        doc.qkv += at * d->d_conv;
        doc.b += at * n_v;
        doc.a += at * n_v;
        doc.state = rig_doubles(r, NULL, (uint64_t)d->d_out * c->d_state);
        ref_delta(&doc, o + at * d->d_out);
        for (uint32_t t = 0; t < c->length[i]; t++)
            first[at + t] = d->at[i];
    }
    struct delta_docs_want w = { .dp = rig_doubles(r, d->dp, (uint64_t)d->n_tok * d->n_p),
                                 .da_log = rig_doubles(r, d->da_log, n_v),
                                 .ddt_bias = rig_doubles(r, d->ddt_bias, n_v) };
    double *d_o = rig_doubles(r, NULL, n_o), *dz = rig_doubles(r, NULL, n_o);
    double *dx = rig_doubles(r, NULL, n_u);
    struct ref_delta_grad g = { .dqkv = rig_doubles(r, NULL, n_u),
                                .db = rig_doubles(r, NULL, n_gate),
                                .da = rig_doubles(r, NULL, n_gate),
                                .da_log = w.da_log,
                                .ddt_bias = w.ddt_bias };
    ref_gated_norm_bwd(o, z, d->norm, c->d_state, d->n_tok * n_v, (double)EPS,
                       rig_doubles(r, d->dy, n_o), d_o, dz);
    ref_delta_bwd(&delta, first, d_o, &g);
    ref_conv_silu_bwd(&conv, first, g.dqkv, dx, NULL);
    columns_add(d, dx, 0, d->d_conv, w.dp);
    columns_add(d, dz, d->d_conv, d->d_out, w.dp);
    columns_add(d, g.db, b_col, n_v, w.dp);
    columns_add(d, g.da, b_col + n_v, n_v, w.dp);
    w.y = o;
    ref_gated_norm(w.y, z, d->norm, c->d_state, d->n_tok * n_v, (double)EPS);
    return w;
}

/* ---- the op ---------------------------------------------------------------------------------- */

/* The tables of first tokens and of chunks; two entries are not in use. */
static struct docs docs_tables(struct rig *r, const struct delta_docs *c,
                               const struct delta_docs_in *d)
{
    uint32_t(*table)[4] = rig_alloc(r, d->n_tok + 2, sizeof *table), n = 0;
    for (uint32_t t = 0; t < d->n_tok; t += table[n++][1]) {
        uint32_t len = 1;
        while (len < c->chunk && t + len < d->n_tok && d->first[t + len] == d->first[t])
            len++;
        bool ends = t + len == d->n_tok || d->first[t + len] == t + len;
        memcpy(table[n], (uint32_t[]){ t, len, d->first[t] == t, ends }, sizeof table[n]);
    }
    struct docs docs = { .first = rig_words(r, d->first, d->n_tok),
                         .chunk = c->chunk,
                         .n_chunk = n + 2 };
    docs.chunks = rig_view(r, I32, 4, n + 2, 4, 0);
    rig_put_words(r, docs.chunks, table);
    return docs;
}

static tensor whole_rows(tensor t)
{
    t.n = t.stride;
    t.col = 0;
    return t;
}

/* Values that an op may write, or read and add to. */
static tensor sum_of(struct rig *r, const float *v, uint32_t n, uint32_t n_row)
{
    tensor t = n_row > 1 ? rig_strided(r, v, n, n_row) : rig_dense(r, v, n, n_row);
    rig_writes(r, t);
    return t;
}

static float *got(struct rig *r, const struct delta_docs *c, const struct delta_docs_in *d,
                  tensor t)
{
    return moved(r, c, d, rig_get(r, t), t.n, false);
}

static float *kept(const float *v, uint64_t n)
{
    float *copy = mem_alloc(n, sizeof *copy);
    HLM_ASSERT(copy);
    memcpy(copy, v, n * sizeof *copy);
    return copy;
}

static void docs_result_free(struct delta_docs_out *res)
{
    free(res->y);
    free(res->dp);
    free(res->da_log);
    free(res->ddt_bias);
    *res = (struct delta_docs_out){ 0 };
}

/* NMSE of outputs and of the gradient of what gates them; of gradients through the states. */
static const struct bound output_off = { .most = 1e-12 };
static const struct bound state_off = { .most = 1e-11 };

static void check_docs(struct rig *r, const struct delta_docs *c, const struct delta_docs_in *d,
                       const struct delta_docs_out *res)
{
    struct delta_docs_want w = docs_want(r, c, d);
    uint32_t n = d->n_tok, n_v = c->n_v_head;
    const struct {
        const char *name;
        uint32_t col, n;
        double tol;
    } part[] = {
        { .name = "dq, dk, dv", .col = 0, .n = d->d_conv, .tol = state_off.most },
        { .name = "dz", .col = d->d_conv, .n = d->d_out, .tol = output_off.most },
        { .name = "db", .col = d->d_conv + d->d_out, .n = n_v, .tol = state_off.most },
        { .name = "da", .col = d->d_conv + d->d_out + n_v, .n = n_v, .tol = state_off.most },
    };
    rig_near_values(r, "y", res->y, w.y, d->d_out, n, output_off.most);
    for (uint32_t i = 0; i < ARRAY_LEN(part); i++) {
        float *x = rig_alloc(r, (uint64_t)n * part[i].n, sizeof *x);
        double *want = rig_doubles(r, NULL, (uint64_t)n * part[i].n);
        for (uint64_t t = 0; t < n; t++)
            for (uint64_t k = 0; k < part[i].n; k++) {
                x[t * part[i].n + k] = res->dp[t * d->n_p + part[i].col + k];
                want[t * part[i].n + k] = w.dp[t * d->n_p + part[i].col + k];
            }
        rig_near_values(r, part[i].name, x, want, part[i].n, n, part[i].tol);
    }
    if (c->frozen)
        return;
    rig_near_values(r, "dA_log", res->da_log, w.da_log, n_v, 1, state_off.most);
    rig_near_values(r, "ddt_bias", res->ddt_bias, w.ddt_bias, n_v, 1, state_off.most);
}

/* alone: no other case uses the result, which is empty where --case leaves this one out. */
static struct delta_docs_out docs_case(struct gpu *g, const struct delta_docs *c, bool against_ref,
                                       bool alone)
{
    struct rig r = rig_open(g, "delta of documents");
    struct delta_docs_in d = docs_values(&r, c);
    if (!test_case(
            "delta of documents: %u/%u heads of %u, %s, conv %u, chunk %u, rate %g, %u tokens%s",
            c->n_k_head, c->n_v_head, c->d_state, c->tiled ? "tiled" : "grouped", c->conv_k,
            c->chunk, (double)c->rate, d.n_tok, c->turned ? ", turned" : "") &&
        alone) {
        rig_close(&r);
        return (struct delta_docs_out){ 0 };
    }
    struct delta m = { .n_k_head = c->n_k_head,
                       .n_v_head = c->n_v_head,
                       .d_state = c->d_state,
                       .conv_k = c->conv_k,
                       .tiled = c->tiled,
                       .eps = EPS };
    m.conv = rig_dense(&r, d.conv, c->conv_k, d.d_conv);
    m.ssm_a = rig_dense(&r, d.ssm_a, c->n_v_head, 1);
    m.dt_bias = rig_dense(&r, d.dt_bias, c->n_v_head, 1);
    m.norm = rig_dense(&r, d.norm, c->d_state, 1);
    tensor p = rig_strided(&r, moved(&r, c, &d, d.p, d.n_p, true), d.n_p, d.n_tok);
    tensor dp = sum_of(&r, moved(&r, c, &d, d.dp, d.n_p, true), d.n_p, d.n_tok);
    tensor dy = rig_dense(&r, moved(&r, c, &d, d.dy, d.d_out, true), d.d_out, d.n_tok);
    tensor da_log = sum_of(&r, d.da_log, c->n_v_head, 1);
    tensor ddt_bias = sum_of(&r, d.ddt_bias, c->n_v_head, 1);
    struct batch b = rig_batch(&r, d.n_tok, &(struct segment){ 0 }, NULL, 0, false);
    struct docs docs = docs_tables(&r, c, &d);
    b.docs = &docs;

    struct tape *tape = tape_create(NULL, &(struct dropout){ 0 }, &r.err);
    HLM_ASSERT(tape);
    HLM_ASSERT(c->frozen || (tape_train_vector(tape, m.ssm_a, da_log, &r.err) &&
                             tape_train_vector(tape, m.dt_bias, ddt_bias, &r.err)));
    tape_attach(r.c, tape);
    tape_begin(r.c, whole_rows(p), whole_rows(dp));
    tensor y = op_delta(r.c, p, &m, &(struct recurrent){ 0 }, &b);
    tape_back(r.c, y, dy);

    struct delta_docs_out res = { 0 };
    if (rig_run(&r)) {
        res.y = kept(got(&r, c, &d, y), (uint64_t)d.n_tok * d.d_out);
        res.dp = kept(got(&r, c, &d, dp), (uint64_t)d.n_tok * d.n_p);
        res.da_log = kept(rig_get(&r, da_log), c->n_v_head);
        res.ddt_bias = kept(rig_get(&r, ddt_bias), c->n_v_head);
        if (against_ref)
            check_docs(&r, c, &d, &res);
    }
    rig_close(&r);
    tape_destroy(tape);
    return res;
}

/* ---- cases ----------------------------------------------------------------------------------- */

/* Lengths around those of chunks; padding is one more document. */
#define LENGTHS                                                                                    \
    {                                                                                              \
        1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 197, 7                                           \
    }

static const struct delta_docs rows[] = {
    { 1, 3, 12, 2, true, 16, 0, { 1, 2, 15, 16, 17, 53, 7 }, false, true },
    { 2, 4, 16, 4, true, 16, STRONG, { 1, 2, 15, 16, 17, 53, 7 }, false, false },
    { 1, 1, 256, 4, false, 16, 0, { 53, 17, 1 }, false, false },
};

/* The largest NMSE of b's numbers against a's. */
static void check_agree(const struct delta_docs *c, const struct delta_docs_out *a,
                        const struct delta_docs_out *b, uint64_t n_y, uint64_t n_dp)
{
    double worst = 0;
    const float *const pair[][2] = {
        { a->y, b->y }, { a->dp, b->dp }, { a->da_log, b->da_log }, { a->ddt_bias, b->ddt_bias }
    };
    const uint64_t n[] = { n_y, n_dp, c->n_v_head, c->n_v_head };
    for (uint32_t i = 0; i < ARRAY_LEN(pair); i++) {
        double off = 0, all = 0;
        for (uint64_t k = 0; k < n[i]; k++) {
            double d = (double)pair[i][0][k] - (double)pair[i][1][k];
            off += d * d;
            all += (double)pair[i][0][k] * (double)pair[i][0][k];
        }
        worst = test_worse(worst, off / all);
    }
    char what[64];
    snprintf(what, sizeof what, "chunks of %u tokens against 16", c->chunk);
    CHECK_WITHIN(what, worst, state_off);
}

/* The same training row in chunks of all lengths (--brief: the shortest and the longest), and each
 * with its documents in another order, which may change no bit of a token's own results. */
static void test_chunks(struct gpu *g)
{
    struct delta_docs c = { 2, 6, 16, 4, false, 16, SLOW, LENGTHS, false, false };
    struct delta_docs_out by16 = { 0 };
    uint64_t n_tok = 0, d_out = 6 * 16, n_p = 10 * 16 + d_out + 12;
    for (uint32_t i = 0; c.length[i]; i++)
        n_tok += c.length[i];
    for (; c.chunk <= 64; c.chunk *= test_brief() ? 4 : 2) {
        c.turned = false;
        struct delta_docs_out a = docs_case(g, &c, true, false);
        c.turned = true;
        struct delta_docs_out b = docs_case(g, &c, false, false);
        if (CHECK(a.y && b.y)) {
            CHECK(memcmp(a.y, b.y, n_tok * d_out * sizeof *a.y) == 0);
            CHECK(memcmp(a.dp, b.dp, n_tok * n_p * sizeof *a.dp) == 0);
            if (by16.y)
                check_agree(&c, &by16, &a, n_tok * d_out, n_tok * n_p);
        }
        docs_result_free(&b);
        if (by16.y)
            docs_result_free(&a);
        else
            by16 = a;
    }
    docs_result_free(&by16);
}

/* A device whose bindings have room for the chunks of a single K head: the backward makes them
 * again. */
static void test_small(void)
{
    struct gpu *g = ops_open_small(128 << 10);
    if (!g)
        return;
    struct delta_docs c = { 2, 6, 16, 4, true, 16, SLOW, { 1, 33, 70, 7 }, false, false };
    struct delta_docs_out res = docs_case(g, &c, true, true);
    docs_result_free(&res);
    gpu_close(g);
}

void test_ops_delta_bwd(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    test_chunks(g);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct delta_docs_out res = docs_case(g, &rows[i], true, true);
        docs_result_free(&res);
    }
    test_small();
    ops_report(g);
}
