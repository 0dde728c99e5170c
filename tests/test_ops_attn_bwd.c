/* test_ops_attn_bwd: attention over training rows, forward and backward, compared with the
 * reference with norms, rotation and gates around it. A document's results are the same bits
 * wherever it stands, and a recording made once serves training rows of other documents. */
#include "ops.h"
#include "ref/ref_bwd.h"

#include <string.h>

#define EPS 1e-6f
enum { MAX_HEAD = 512, MAX_DOC = 24 };

struct attn_docs {
    uint32_t head_dim, n_head, n_kv_head, n_rot;
    enum attention_gate gate;
    bool norm;
    uint32_t window;
    float peak;            /* size of the queries: above 1, a few keys take all the weight */
    uint32_t len[MAX_DOC]; /* lengths of the documents; 0 ends them */
};

#define QWEN GATE_ELEM, true
#define STEP GATE_HEAD, true
#define NEMOTRON GATE_NONE, false

/* ---- what goes in ------------------------------------------------------------------------- */

/* Columns of the projection as op.h has them. */
struct attn_columns {
    uint32_t n_tok, n_p, step, k, v, gate, n_q, n_kv;
};

static struct attn_columns shape_of(const struct attn_docs *c)
{
    struct attn_columns s = { .step = c->gate == GATE_ELEM ? 2 * c->head_dim : c->head_dim };
    for (const uint32_t *len = c->len; *len; len++)
        s.n_tok += *len;
    s.n_q = c->n_head * c->head_dim;
    s.n_kv = c->n_kv_head * c->head_dim;
    s.k = s.step * c->n_head;
    s.v = s.k + s.n_kv;
    s.n_p = s.v + s.n_kv;
    s.gate = c->gate == GATE_ELEM ? c->head_dim : s.n_p;
    s.n_p += c->gate == GATE_HEAD ? c->n_head : 0;
    return s;
}

/* An op with its weights, and one training row that it works on. */
struct attn_layer {
    struct attention a;
    float *q_norm, *k_norm, freq[MAX_HEAD / 2];
};
struct attn_train {
    uint32_t *first;
    float *p, *dy, *dp; /* dp: what the gradient starts as */
    tensor at_first, at_p, at_dy, at_dp, y;
    struct docs docs;
};

static struct attn_layer layer_make(struct rig *r, const struct attn_docs *c)
{
    uint32_t hd = c->head_dim, turn[MAX_HEAD];
    struct attn_layer l = { .q_norm = rig_normal(r, hd, (double)c->peak),
                            .k_norm = rig_normal(r, hd, 1) };
    rope_turns(1e7, c->n_rot, NULL, turn);
    ref_rope_freq(1e7, c->n_rot, NULL, l.freq);
    l.a = (struct attention){ .n_head = c->n_head,
                              .n_kv_head = c->n_kv_head,
                              .head_dim = hd,
                              .n_rot = c->n_rot,
                              .window = c->window,
                              .gate = c->gate,
                              .norm = c->norm,
                              .eps = EPS };
    if (c->norm) {
        l.a.q_norm = rig_dense(r, l.q_norm, hd, 1);
        l.a.k_norm = rig_dense(r, l.k_norm, hd, 1);
    }
    if (c->n_rot)
        l.a.turn = rig_words(r, turn, c->n_rot);
    return l;
}

static void firsts(const struct attn_docs *c, uint32_t *first)
{
    for (uint32_t d = 0, at = 0; c->len[d]; at += c->len[d++])
        for (uint32_t i = 0; i < c->len[d]; i++)
            first[at + i] = at;
}

/* All columns of the rows of a view. */
static tensor whole(tensor t)
{
    t.n = t.stride;
    t.col = 0;
    return t;
}

/* The tensors of the training row. The projection is some columns of something wider, and so is its
 * gradient. */
static struct attn_train row_make(struct rig *r, const struct attn_docs *c)
{
    struct attn_columns s = shape_of(c);
    uint64_t n = (uint64_t)s.n_tok * s.n_p;
    struct attn_train w = { .first = rig_alloc(r, s.n_tok, sizeof *w.first),
                            .p = rig_normal(r, n, 1.5),
                            .dy = rig_normal(r, (uint64_t)s.n_tok * s.n_q, 1),
                            .dp = rig_normal(r, n, 1) };
    firsts(c, w.first);
    w.at_first = rig_words(r, w.first, s.n_tok);
    w.at_p = rig_strided(r, w.p, s.n_p, s.n_tok);
    w.at_dy = rig_dense(r, w.dy, s.n_q, s.n_tok);
    w.at_dp = rig_view(r, F32, s.n_p, s.n_tok, w.at_p.stride + 8, 4);
    rig_put(r, w.at_dp, w.dp);
    rig_writes(r, w.at_dp);
    w.docs.first = w.at_first;
    return w;
}

/* Records the forward and backward of the training row; without a tape, the forward alone. */
static void row_record(struct rig *r, const struct attn_layer *l, struct attn_train *w,
                       enum attention_path path, bool train)
{
    struct batch b = { .n_tok = w->at_p.n_row, .docs = &w->docs };
    tensor dp = w->at_dp;
    dp.n = w->at_p.stride;
    dp.col = 0;
    if (train)
        tape_begin(r->c, whole(w->at_p), dp);
    const struct kv_layer none = { 0 };
    w->y = train ? attention_by(r->c, path, w->at_p, &l->a, &none, &b)
                 : op_attention(r->c, w->at_p, &l->a, &none, &b);
    if (train)
        tape_back(r->c, w->y, w->at_dy);
}

/* ---- the reference ------------------------------------------------------------------------ */

/* The heads of a training row in double, by token, or their gradients. */
struct train_heads {
    double *q, *k, *v, *gate;
};

static struct train_heads heads_make(struct rig *r, const struct attn_columns *s)
{
    return (struct train_heads){ rig_doubles(r, NULL, (uint64_t)s->n_tok * s->n_q),
                                 rig_doubles(r, NULL, (uint64_t)s->n_tok * s->n_kv),
                                 rig_doubles(r, NULL, (uint64_t)s->n_tok * s->n_kv),
                                 rig_doubles(r, NULL, (uint64_t)s->n_tok * s->n_q) };
}

static void copy_heads(const float *p, uint32_t step, uint32_t n_head, uint32_t hd, double *out)
{
    for (uint32_t h = 0; h < n_head; h++)
        for (uint32_t i = 0; i < hd; i++)
            out[h * hd + i] = (double)p[(uint64_t)h * step + i];
}

static void norm_rotate(const struct attn_docs *c, const struct attn_layer *l, const float *norm,
                        uint32_t n_head, uint32_t pos, double *x)
{
    if (c->norm)
        ref_rmsnorm(x, norm, c->head_dim, n_head, (double)EPS, x);
    ref_rope(l->freq, c->n_rot, pos, n_head, c->head_dim, x);
}

static void heads_fill(const struct attn_docs *c, const struct attn_layer *l,
                       const struct attn_train *w, const struct train_heads *h)
{
    struct attn_columns s = shape_of(c);
    for (uint32_t t = 0; t < s.n_tok; t++) {
        const float *p = w->p + (uint64_t)t * s.n_p;
        double *q = h->q + (uint64_t)t * s.n_q, *k = h->k + (uint64_t)t * s.n_kv;
        double *gate = h->gate + (uint64_t)t * (c->gate == GATE_HEAD ? c->n_head : s.n_q);
        uint32_t pos = t - w->first[t];
        copy_heads(p, s.step, c->n_head, c->head_dim, q);
        copy_heads(p + s.k, c->head_dim, c->n_kv_head, c->head_dim, k);
        copy_heads(p + s.v, c->head_dim, c->n_kv_head, c->head_dim, h->v + (uint64_t)t * s.n_kv);
        if (c->gate == GATE_ELEM)
            copy_heads(p + s.gate, s.step, c->n_head, c->head_dim, gate);
        for (uint32_t i = 0; c->gate == GATE_HEAD && i < c->n_head; i++)
            gate[i] = (double)p[s.gate + i];
        norm_rotate(c, l, l->q_norm, c->n_head, pos, q);
        norm_rotate(c, l, l->k_norm, c->n_kv_head, pos, k);
    }
}

static struct ref_attention ref_of(const struct attn_docs *c, const struct train_heads *h,
                                   uint64_t at, uint32_t n_tok)
{
    struct attn_columns s = shape_of(c);
    return (struct ref_attention){
        .n_tok = n_tok,
        .n_head = c->n_head,
        .n_kv_head = c->n_kv_head,
        .head_dim = c->head_dim,
        .window = c->window,
        .q = h->q + at * s.n_q,
        .k = h->k + at * s.n_kv,
        .v = h->v + at * s.n_kv,
        .gate = c->gate == GATE_ELEM ? h->gate + at * s.n_q : NULL,
        .head_gate = c->gate == GATE_HEAD ? h->gate + at * c->n_head : NULL,
    };
}

/* Adds to the gradient of p: from d, the gradient of a token's heads after norm and rotation. */
static void norm_rotate_bwd(const struct attn_docs *c, const struct attn_layer *l,
                            const float *norm, uint32_t n_head, uint32_t pos, const float *p,
                            uint32_t step, double *d, double *dp)
{
    double x[MAX_HEAD];
    uint32_t hd = c->head_dim;
    if (norm)
        ref_rope_bwd(l->freq, c->n_rot, pos, n_head, hd, d);
    for (uint32_t h = 0; h < n_head; h++, d += hd, p += step, dp += step) {
        copy_heads(p, 0, 1, hd, x);
        if (norm && c->norm)
            ref_rmsnorm_bwd(x, norm, hd, 1, (double)EPS, d, dp);
        else
            for (uint32_t i = 0; i < hd; i++)
                dp[i] += d[i];
    }
}

static void heads_bwd(const struct attn_docs *c, const struct attn_layer *l,
                      const struct attn_train *w, const struct train_heads *d, double *dp)
{
    struct attn_columns s = shape_of(c);
    for (uint32_t t = 0; t < s.n_tok; t++, dp += s.n_p) {
        const float *p = w->p + (uint64_t)t * s.n_p;
        double *gate = d->gate + (uint64_t)t * (c->gate == GATE_HEAD ? c->n_head : s.n_q);
        uint32_t pos = t - w->first[t], hd = c->head_dim;
        double *dq = d->q + (uint64_t)t * s.n_q, *dk = d->k + (uint64_t)t * s.n_kv;
        double *dv = d->v + (uint64_t)t * s.n_kv;
        norm_rotate_bwd(c, l, l->q_norm, c->n_head, pos, p, s.step, dq, dp);
        norm_rotate_bwd(c, l, l->k_norm, c->n_kv_head, pos, p + s.k, hd, dk, dp + s.k);
        norm_rotate_bwd(c, l, NULL, c->n_kv_head, pos, p + s.v, hd, dv, dp + s.v);
        if (c->gate == GATE_ELEM)
            norm_rotate_bwd(c, l, NULL, c->n_head, pos, p + s.gate, s.step, gate, dp + s.gate);
        for (uint32_t i = 0; c->gate == GATE_HEAD && i < c->n_head; i++)
            dp[s.gate + i] += gate[i];
    }
}

/* NMSE of outputs and gradients; `many`: of sums over tens of thousands of queries. */
static const struct bound output_off = { .most = 1e-13, .measured = 3e-14 };
static const struct bound output_many = { .most = 1e-12 };
static const struct bound gradient_off = { .most = 1e-13, .measured = 3e-14 };
static const struct bound gradient_many = { .most = 1e-11, .measured = 4e-12 };

/* Compares what was run with the reference. */
static bool row_check(struct rig *r, const struct attn_docs *c, const struct attn_layer *l,
                      const struct attn_train *w, bool train)
{
    struct attn_columns s = shape_of(c);
    struct train_heads h = heads_make(r, &s), d = heads_make(r, &s);
    double *y = rig_doubles(r, NULL, (uint64_t)s.n_tok * s.n_q);
    double *dp = rig_doubles(r, w->dp, (uint64_t)s.n_tok * s.n_p);
    heads_fill(c, l, w, &h);
    for (uint32_t at = 0, i = 0; c->len[i]; at += c->len[i++]) {
        struct ref_attention ref = ref_of(c, &h, at, c->len[i]);
        ref_attention(&ref, y + (uint64_t)at * s.n_q);
    }
    bool many = c->n_head > 8;
    if (!rig_near(r, many ? "output, many" : "output", w->y, y,
                  many ? output_many.most : output_off.most) ||
        !train)
        return false;
    struct ref_attention ref = ref_of(c, &h, 0, s.n_tok);
    ref_attention_bwd(&ref, w->first, rig_doubles(r, w->dy, (uint64_t)s.n_tok * s.n_q),
                      &(struct ref_attention_grad){ d.q, d.k, d.v,
                                                    c->gate == GATE_ELEM ? d.gate : NULL,
                                                    c->gate == GATE_HEAD ? d.gate : NULL });
    heads_bwd(c, l, w, &d, dp);
    return rig_near(r, many ? "gradient, many" : "gradient", w->at_dp, dp,
                    many ? gradient_many.most : gradient_off.most);
}

/* ---- cases -------------------------------------------------------------------------------- */

static struct tape *tape_of(struct rig *r)
{
    struct tape *t = tape_create(NULL, &(struct dropout){ 0 }, &r->err);
    HLM_ASSERT(t);
    tape_attach(r->c, t);
    return t;
}

static void docs_case(struct gpu *g, const struct attn_docs *c, enum attention_path path,
                      bool train)
{
    static const char *const gates[] = { "no gate", "gates", "gate a head" };
    if (!test_case("documents%s%s, %u/%u heads of %u, %u rotated, window %u, %s%s, peak %g",
                   path == ATTENTION_DOCS_WIDE ? ", wide" : "", train ? "" : ", forward alone",
                   c->n_head, c->n_kv_head, c->head_dim, c->n_rot, c->window, gates[c->gate],
                   c->norm ? "" : ", no norm", (double)c->peak))
        return;
    struct rig r = rig_open(g, "documents");
    struct tape *tape = train ? tape_of(&r) : NULL;
    struct attn_layer l = layer_make(&r, c);
    struct attn_train w = row_make(&r, c);
    row_record(&r, &l, &w, path, train);
    if (rig_run(&r))
        row_check(&r, c, &l, &w, train);
    rig_close(&r);
    tape_destroy(tape);
}

static const struct attn_docs rows[] = {
    { 32, 4, 2, 8, QWEN, 0, 1, { 1, 2, 17, 9, 33, 5 } },
    { 32, 4, 2, 32, STEP, 20, 1, { 50, 7, 19, 20, 21, 1, 3 } },
    { 64, 2, 1, 16, QWEN, 0, 1, { 65, 1, 13, 2 } },
    { 80, 2, 2, 40, GATE_NONE, true, 5, 1, { 4, 5, 6, 17 } },
    { 32, 4, 2, 32, STEP, 1, 1, { 9, 2 } },
    { 32, 4, 2, 8, QWEN, 0, 6, { 40 } },
    { 16, 3, 1, 0, NEMOTRON, 0, 1, { 3, 1, 1, 29, 16 } },
    { 20, 4, 1, 6, STEP, 0, 1, { 5, 30, 8 } },
    { 256, 2, 1, 64, QWEN, 0, 1, { 2, 19, 1 } },
    /* a combination that no model has */
    { 16, 3, 1, 16, GATE_ELEM, false, 0, 1, { 11, 4 } },
    /* Loops as long as a driver allows, in two dispatches: 58 heads of 60 at a time. */
    { 4, 60, 1, 0, NEMOTRON, 0, 1, { 1000 } },
};

/* ---- the same document elsewhere ---------------------------------------------------------- */

/* Tokens [from, from + n) of one training row get the values of those from `at` on of another. */
static void give(struct rig *r, const struct attn_docs *c, const struct attn_train *src,
                 uint32_t at, struct attn_train *dst, uint32_t from, uint32_t n)
{
    struct attn_columns s = shape_of(c);
    uint64_t n_p = (uint64_t)n * s.n_p * sizeof *src->p;
    memcpy(dst->p + (uint64_t)from * s.n_p, src->p + (uint64_t)at * s.n_p, n_p);
    memcpy(dst->dp + (uint64_t)from * s.n_p, src->dp + (uint64_t)at * s.n_p, n_p);
    memcpy(dst->dy + (uint64_t)from * s.n_q, src->dy + (uint64_t)at * s.n_q,
           (uint64_t)n * s.n_q * sizeof *src->dy);
    rig_put(r, dst->at_p, dst->p);
    rig_put(r, dst->at_dp, dst->dp);
    rig_put(r, dst->at_dy, dst->dy);
}

/* Rows [at, at + n) and [from, from + n) of two tensors have the same bits. */
static void check_same(struct rig *r, const char *what, tensor a, uint32_t at, tensor b,
                       uint32_t from, uint32_t n)
{
    const float *x = rig_get(r, a), *y = rig_get(r, b);
    for (uint64_t i = 0; i < (uint64_t)n * a.n; i++)
        if (memcmp(&x[at * (uint64_t)a.n + i], &y[from * (uint64_t)b.n + i], sizeof *x) != 0) {
            FAIL("%s: token %llu, [%llu] is %.9g at %u and %.9g at %u", what,
                 (unsigned long long)(i / a.n), (unsigned long long)(i % a.n),
                 (double)x[at * (uint64_t)a.n + i], at, (double)y[from * (uint64_t)b.n + i], from);
            return;
        }
}

static void places_case(struct gpu *g, const struct attn_docs *shape, enum attention_path path)
{
    enum { N = 37 };
    static const uint32_t alone[] = { N, 0 }, second[] = { 1, N, 5, 0 },
                          late[] = { 9, 2, 30, 3, N, 0 };
    static const struct {
        const uint32_t *len;
        uint32_t at;
    } in[] = { { alone, 0 }, { second, 1 }, { late, 44 } };
    if (!test_case("a document's place%s, %u/%u heads of %u, window %u",
                   path == ATTENTION_DOCS_WIDE ? ", wide" : "", shape->n_head, shape->n_kv_head,
                   shape->head_dim, shape->window))
        return;
    struct rig r = rig_open(g, "places");
    struct tape *tape = tape_of(&r);
    struct attn_layer l = layer_make(&r, shape);
    struct attn_train w[ARRAY_LEN(in)];
    for (uint32_t i = 0; i < ARRAY_LEN(in); i++) {
        struct attn_docs c = *shape;
        memset(c.len, 0, sizeof c.len);
        for (uint32_t d = 0; in[i].len[d]; d++)
            c.len[d] = in[i].len[d];
        w[i] = row_make(&r, &c);
        if (i > 0)
            give(&r, &c, &w[0], 0, &w[i], in[i].at, N);
        row_record(&r, &l, &w[i], path, true);
    }
    if (rig_run(&r))
        for (uint32_t i = 1; i < ARRAY_LEN(in); i++) {
            check_same(&r, "output", w[0].y, 0, w[i].y, in[i].at, N);
            check_same(&r, "gradient", w[0].at_dp, 0, w[i].at_dp, in[i].at, N);
        }
    rig_close(&r);
    tape_destroy(tape);
}

/* ---- other documents in a plan that is there ---------------------------------------------- */

static bool run_again(struct rig *r)
{
    tensor all = { .arena = r->mem, .dtype = I32, .n = 4, .n_row = 1, .stride = 4 };
    return CHECK_MSG(gpu_write(r->g, all, 0, r->image, r->n_image, &r->err) &&
                         cmd_submit(r->c, &r->err) && gpu_wait(r->g, &r->err) &&
                         gpu_read(r->g, all, 0, r->back, r->n_image, &r->err),
                     "%s", r->err.msg);
}

static void again_case(struct gpu *g, const struct attn_docs *shape)
{
    static const uint32_t other[][MAX_DOC] = { { 67 }, { 1, 1, 31, 34 } };
    struct attn_docs c = *shape;
    if (!test_case("one plan, other documents"))
        return;
    struct rig r = rig_open(g, "one plan");
    struct tape *tape = tape_of(&r);
    struct attn_layer l = layer_make(&r, &c);
    struct attn_train w = row_make(&r, &c);
    row_record(&r, &l, &w, ATTENTION_DOCS, true);
    bool good = rig_run(&r) && row_check(&r, &c, &l, &w, true);
    for (uint32_t i = 0; good && i < ARRAY_LEN(other); i++) {
        memcpy(c.len, other[i], sizeof c.len);
        HLM_ASSERT(shape_of(&c).n_tok == w.at_p.n_row);
        firsts(&c, w.first);
        rig_put_words(&r, w.at_first, w.first);
        good = run_again(&r) && row_check(&r, &c, &l, &w, true);
    }
    rig_close(&r);
    tape_destroy(tape);
}

void test_ops_attn_bwd(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        docs_case(g, &rows[i], ATTENTION_DOCS, true);
    docs_case(g, &rows[0], ATTENTION_DOCS, false);
    for (uint32_t i = 0; i < 4; i++)
        places_case(g, &rows[i], ATTENTION_DOCS);
    for (uint32_t i = 2; i < 4; i++) {
        docs_case(g, &rows[i], ATTENTION_DOCS_WIDE, true);
        places_case(g, &rows[i], ATTENTION_DOCS_WIDE);
    }
    again_case(g, &rows[0]);
    ops_report(g);
}
