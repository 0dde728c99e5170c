/* ref_bwd_delta: the backward of the Gated DeltaNet, token by token and in chunks
 * (models/README.md, "DeltaNet backward").
 *
 * Both work on one V head between the l2 norms and the output. head_create() and head_bwd() do the
 * rest: norms, gates, and the K heads that V heads share. The first form follows from the
 * recurrence, the second from the formulas of that section, so they check each other. Read
 * ref_bwd.h first. */
#include "ref/ref_bwd.h"
#include "ref/ref_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one V head ------------------------------------------------------------------------- */

/* q (normed, scaled), k (normed), v and the output's gradient [n_tok, dim], beta and g [n_tok];
 * gradients of the first five; the state's gradient [dim, dim], carried backward. */
struct delta_head_bwd {
    uint64_t dim;
    double *q, *k, *v, *d_o, *beta, *g;
    double *dq, *dk, *dv, *dbeta, *dg, *dm;
};

static struct delta_head_bwd head_create(const struct ref_delta *d, uint64_t j, const double *dout,
                                         const double *dstate)
{
    uint64_t n_tok = d->n_tok, dim = d->d_state, n = n_tok * dim, kh = ref_k_head(d, j);
    uint64_t n_k = d->n_k_head, width = (2 * n_k + d->n_v_head) * dim;
    struct delta_head_bwd h = { .dim = dim,
                                .q = ref_columns(d->qkv, width, kh * dim, dim, n_tok),
                                .k = ref_columns(d->qkv, width, (n_k + kh) * dim, dim, n_tok),
                                .v = ref_columns(d->qkv, width, (2 * n_k + j) * dim, dim, n_tok),
                                .d_o = ref_columns(dout, d->n_v_head * dim, j * dim, dim, n_tok),
                                .beta = ref_doubles(n_tok),
                                .g = ref_doubles(n_tok),
                                .dq = ref_doubles(n),
                                .dk = ref_doubles(n),
                                .dv = ref_doubles(n),
                                .dbeta = ref_doubles(n_tok),
                                .dg = ref_doubles(n_tok),
                                .dm = ref_doubles(dim * dim) };

    ref_l2norm(h.q, d->d_state, d->n_tok, 1 / sqrt(d->d_state));
    ref_l2norm(h.k, d->d_state, d->n_tok, 1);
    for (uint64_t t = 0; t < n_tok; t++)
        ref_delta_gate(d, t, j, &h.beta[t], &h.g[t]);
    if (dstate)
        memcpy(h.dm, dstate + j * dim * dim, dim * dim * sizeof *h.dm);
    return h;
}

/* From the gradients of the head to those of the inputs of the op. */
static void head_bwd(const struct ref_delta *d, uint64_t j, const struct delta_head_bwd *h,
                     const struct ref_delta_grad *g)
{
    uint64_t n_tok = d->n_tok, dim = h->dim, n_k = d->n_k_head, kh = ref_k_head(d, j);
    uint64_t width = (2 * n_k + d->n_v_head) * dim, q_at = kh * dim, k_at = (n_k + kh) * dim;

    if (g->dqkv) {
        double *q = ref_columns(d->qkv, width, q_at, dim, n_tok), *dq = ref_doubles(n_tok * dim);
        double *k = ref_columns(d->qkv, width, k_at, dim, n_tok), *dk = ref_doubles(n_tok * dim);
        ref_l2norm_bwd(q, d->d_state, d->n_tok, 1 / sqrt(d->d_state), h->dq, dq);
        ref_l2norm_bwd(k, d->d_state, d->n_tok, 1, h->dk, dk);
        ref_add_columns(dq, width, q_at, dim, n_tok, g->dqkv);
        ref_add_columns(dk, width, k_at, dim, n_tok, g->dqkv);
        ref_add_columns(h->dv, width, (2 * n_k + j) * dim, dim, n_tok, g->dqkv);
        free(q);
        free(k);
        free(dq);
        free(dk);
    }
    for (uint64_t t = 0; t < n_tok; t++) {
        uint64_t at = t * d->n_v_head + j;
        /* g = ssm_a softplus(a + dt_bias) and ssm_a = -exp(A_log): dg/dA_log = g */
        double da =
            h->dg[t] * (double)d->ssm_a[j] * ref_softplus_bwd(d->a[at] + (double)d->dt_bias[j]);
        if (g->db)
            g->db[at] += h->dbeta[t] * h->beta[t] * (1 - h->beta[t]);
        if (g->da)
            g->da[at] += da;
        if (g->ddt_bias)
            g->ddt_bias[j] += da;
        if (g->da_log)
            g->da_log[j] += h->dg[t] * h->g[t];
    }
    if (g->dstate)
        memcpy(g->dstate + j * dim * dim, h->dm, dim * dim * sizeof *h->dm);
}

static void head_destroy(struct delta_head_bwd *h)
{
    double *all[] = { h->q,  h->k,  h->v,  h->d_o,   h->beta, h->g,
                      h->dq, h->dk, h->dv, h->dbeta, h->dg,   h->dm };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* y += f op(a) op(b), y [n, m], inner k: a(i, l) = a[i * ai + l * al], b(l, j) likewise. */
struct mat {
    const double *p;
    uint64_t row, col;
};
static void mul_add(uint64_t n, uint64_t m, uint64_t k, double f, struct mat a, struct mat b,
                    double *y)
{
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t j = 0; j < m; j++) {
            double sum = 0;
            for (uint64_t l = 0; l < k; l++)
                sum += a.p[i * a.row + l * a.col] * b.p[l * b.row + j * b.col];
            y[i * m + j] += f * sum;
        }
}
/* p [.., width] as it is stored, and its transpose. */
static struct mat mat(const double *p, uint64_t width) { return (struct mat){ p, width, 1 }; }
static struct mat turned(const double *p, uint64_t width) { return (struct mat){ p, 1, width }; }

/* ---- serial ----------------------------------------------------------------------------- */

/* Token t:  N = e^g M;  u = v - N^T k;  delta = beta u;  M' = N + k (x) delta;  o = M'^T q. Leaves
 * M' in m and u. */
static void step(const struct delta_head_bwd *h, uint64_t t, double *m, double *u)
{
    uint64_t dim = h->dim;
    const double *k = h->k + t * dim;

    for (uint64_t i = 0; i < dim * dim; i++)
        m[i] *= exp(h->g[t]);
    memcpy(u, h->v + t * dim, dim * sizeof *u);
    mul_add(dim, 1, dim, -1, turned(m, dim), mat(k, 1), u);
    mul_add(dim, dim, 1, h->beta[t], mat(k, 1), mat(u, dim), m);
}

/* m is the state before token t; after and u are what step() left. h->dm is the gradient of M' from
 * the tokens after t, and becomes that of M. */
static void step_bwd(const struct delta_head_bwd *h, uint64_t t, const double *m,
                     const double *after, const double *u)
{
    uint64_t dim = h->dim;
    const double *q = h->q + t * dim, *k = h->k + t * dim, *d_o = h->d_o + t * dim;
    double *du = ref_doubles(2 * dim), *ddelta = du + dim, decay = exp(h->g[t]), b = h->beta[t];

    mul_add(dim, 1, dim, 1, mat(after, dim), mat(d_o, 1), h->dq + t * dim);
    mul_add(dim, dim, 1, 1, mat(q, 1), mat(d_o, dim), h->dm);
    mul_add(dim, 1, dim, 1, turned(h->dm, dim), mat(k, 1), ddelta);
    mul_add(dim, 1, dim, b, mat(h->dm, dim), mat(u, 1), h->dk + t * dim);
    h->dbeta[t] += ref_dot(ddelta, u, dim);
    for (uint64_t c = 0; c < dim; c++)
        h->dv[t * dim + c] += du[c] = b * ddelta[c];
    mul_add(dim, 1, dim, -decay, mat(m, dim), mat(du, 1), h->dk + t * dim); /* u = .. - N^T k */
    mul_add(dim, dim, 1, -1, mat(k, 1), mat(du, dim), h->dm);
    for (uint64_t i = 0; i < dim * dim; i++)
        h->dm[i] *= decay;
    h->dg[t] += ref_dot(h->dm, m, dim * dim);
    free(du);
}

void ref_delta_bwd(const struct ref_delta *d, const uint32_t *first, const double *dout,
                   const struct ref_delta_grad *g)
{
    uint64_t dim = d->d_state, n = dim * dim;
    double *m = ref_doubles(d->n_tok * n), *after = ref_doubles(d->n_tok * n),
           *now = ref_doubles(n);
    double *u = ref_doubles(d->n_tok * dim);

    for (uint64_t j = 0; j < d->n_v_head; j++) {
        struct delta_head_bwd h = head_create(d, j, dout, g->dstate);
        for (uint64_t t = 0; t < d->n_tok; t++) {
            ref_start_state(first, t, d->state ? d->state + j * n : NULL, n, now);
            memcpy(m + t * n, now, n * sizeof *m);
            step(&h, t, now, u + t * dim);
            memcpy(after + t * n, now, n * sizeof *m);
        }
        for (uint64_t t = d->n_tok; t-- > 0;) {
            step_bwd(&h, t, m + t * n, after + t * n, u + t * dim);
            if (first && first[t] == t)
                memset(h.dm, 0, n * sizeof *m);
        }
        head_bwd(d, j, &h, g);
        head_destroy(&h);
    }
    free(m);
    free(after);
    free(now);
    free(u);
}

/* ---- chunked ---------------------------------------------------------------------------- */

/* The n tokens from t0 on. Names as in "DeltaNet in chunks": G the running sum of g, D_ij = e^(G_i
 * - G_j) for j <= i, A the strictly lower (b K) K^T . D, Tm = (I + A)^-1, U = Tm (b V), W = Tm (b
 * e^G K), P = lower (Q K^T) . D, Vn = U - W M. All [n, n] or [n, dim]; q .. dg begin at t0. */
struct chunk {
    uint64_t n, dim;
    const double *q, *k, *v, *d_o, *beta;
    double *dq, *dk, *dv, *dbeta, *dg, *dm;
    double *run, *d, *a, *tm, *p, *u, *w, *vn;
};

static void chunk_matrices(struct chunk *c)
{
    uint64_t n = c->n, dim = c->dim;
    for (uint64_t i = 0; i < n; i++) {
        c->tm[i * n + i] = 1;
        for (uint64_t j = 0; j <= i; j++) {
            uint64_t at = i * n + j;
            const double *kj = c->k + j * dim;
            c->d[at] = exp(c->run[i] - c->run[j]);
            c->p[at] = ref_dot(c->q + i * dim, kj, dim) * c->d[at];
            if (j == i)
                continue;
            c->a[at] = c->beta[i] * ref_dot(c->k + i * dim, kj, dim) * c->d[at];
            for (uint64_t l = 0; l <= j; l++)
                c->tm[i * n + l] -= c->a[at] * c->tm[j * n + l];
        }
    }
}

static struct chunk chunk_create(const struct delta_head_bwd *h, uint64_t t0, uint64_t n,
                                 const double *m)
{
    uint64_t dim = h->dim, at = t0 * dim;
    struct chunk c = { n,
                       dim,
                       h->q + at,
                       h->k + at,
                       h->v + at,
                       h->d_o + at,
                       h->beta + t0,
                       h->dq + at,
                       h->dk + at,
                       h->dv + at,
                       h->dbeta + t0,
                       h->dg + t0,
                       h->dm,
                       .run = ref_doubles(n) };
    double *bv = ref_doubles(n * dim), *bk = ref_doubles(n * dim);

    c.d = ref_doubles(n * n);
    c.a = ref_doubles(n * n);
    c.tm = ref_doubles(n * n);
    c.p = ref_doubles(n * n);
    c.u = ref_doubles(n * dim);
    c.w = ref_doubles(n * dim);
    c.vn = ref_doubles(n * dim);
    for (uint64_t i = 0; i < n; i++) {
        c.run[i] = h->g[t0 + i] + (i ? c.run[i - 1] : 0);
        for (uint64_t e = i * dim; e < (i + 1) * dim; e++) {
            bv[e] = c.beta[i] * c.v[e];
            bk[e] = c.beta[i] * exp(c.run[i]) * c.k[e];
        }
    }
    chunk_matrices(&c);
    mul_add(n, dim, n, 1, mat(c.tm, n), mat(bv, dim), c.u);
    mul_add(n, dim, n, 1, mat(c.tm, n), mat(bk, dim), c.w);
    memcpy(c.vn, c.u, n * dim * sizeof *c.u);
    mul_add(n, dim, dim, -1, mat(c.w, dim), mat(m, dim), c.vn);
    free(bv);
    free(bk);
    return c;
}

static void chunk_destroy(struct chunk *c)
{
    double *all[] = { c->run, c->d, c->a, c->tm, c->p, c->u, c->w, c->vn };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* x with row i times f(i): r = e^(G_last - G), e = e^G. */
static double *decayed(const struct chunk *c, const double *x, bool rest)
{
    double *y = ref_doubles(c->n * c->dim);
    for (uint64_t i = 0; i < c->n; i++) {
        double f = exp(rest ? c->run[c->n - 1] - c->run[i] : c->run[i]);
        for (uint64_t e = i * c->dim; e < (i + 1) * c->dim; e++)
            y[e] = f * x[e];
    }
    return y;
}

/* M = e^G_last M + (r K)^T Vn */
static void chunk_state(const struct chunk *c, double *m)
{
    double *rk = decayed(c, c->k, true);
    for (uint64_t i = 0; i < c->dim * c->dim; i++)
        m[i] *= exp(c->run[c->n - 1]);
    mul_add(c->dim, c->dim, c->n, 1, turned(rk, c->dim), mat(c->vn, c->dim), m);
    free(rk);
}

/* The gradients that come from the two C x C matrices and the row scalings, once the products with
 * states are known: Y1, Y2, dP, dA [.., ..] as in "DeltaNet backward"; od = dO M^T, vd = Vn dM'^T
 * [n, dim]; last is the term of dG_last that comes from M. */
static void chunk_rows_bwd(const struct chunk *c, const double *y1, const double *y2,
                           const double *dp, const double *da, const double *od, const double *vd,
                           double last)
{
    uint64_t n = c->n, dim = c->dim;
    double *pd = ref_doubles(n * n), *z = ref_doubles(n * n), *bk = ref_doubles(n * dim);
    double *zk = ref_doubles(n * dim), *drun = ref_doubles(n);

    for (uint64_t i = 0; i < n * n; i++) {
        pd[i] = dp[i] * c->d[i];
        z[i] = da[i] * c->d[i];
    }
    for (uint64_t i = 0; i < n * dim; i++)
        bk[i] = c->beta[i / dim] * c->k[i];
    mul_add(n, dim, n, 1, mat(z, n), mat(c->k, dim), zk);
    mul_add(n, dim, n, 1, mat(pd, n), mat(c->k, dim), c->dq);
    mul_add(n, dim, n, 1, turned(pd, n), mat(c->q, dim), c->dk);
    mul_add(n, dim, n, 1, turned(z, n), mat(bk, dim), c->dk);
    for (uint64_t i = 0; i < n; i++) {
        double e = exp(c->run[i]), r = exp(c->run[n - 1] - c->run[i]), b = c->beta[i];
        for (uint64_t x = i * dim; x < (i + 1) * dim; x++) {
            c->dq[x] += e * od[x];
            c->dk[x] += r * vd[x] + b * e * y2[x] + b * zk[x];
            c->dv[x] += b * y1[x];
            c->dbeta[i] += y1[x] * c->v[x] + e * y2[x] * c->k[x] + zk[x] * c->k[x];
            drun[i] += e * od[x] * c->q[x] + b * e * y2[x] * c->k[x] - r * vd[x] * c->k[x];
            drun[n - 1] += r * vd[x] * c->k[x];
        }
        for (uint64_t j = 0; j <= i; j++) {
            double x = dp[i * n + j] * c->p[i * n + j] + da[i * n + j] * c->a[i * n + j];
            drun[i] += x;
            drun[j] -= x;
        }
    }
    drun[n - 1] += last;
    double sum = 0;
    for (uint64_t i = n; i-- > 0;)
        c->dg[i] += sum += drun[i];
    free(pd);
    free(z);
    free(bk);
    free(zk);
    free(drun);
}

/* m is the state before the chunk. c->dm is dM' and becomes dM. */
static void chunk_bwd(const struct chunk *c, const double *m)
{
    uint64_t n = c->n, dim = c->dim, size = n * dim;
    double *rk = decayed(c, c->k, true), *eq = decayed(c, c->q, false), *dvn = ref_doubles(size);
    double *dw = ref_doubles(size), *y1 = ref_doubles(size), *y2 = ref_doubles(size),
           *od = ref_doubles(size);
    double *vd = ref_doubles(size), *dp = ref_doubles(n * n), *da = ref_doubles(n * n);

    mul_add(n, dim, n, 1, turned(c->p, n), mat(c->d_o, dim), dvn);
    mul_add(n, dim, dim, 1, mat(rk, dim), mat(c->dm, dim), dvn);
    mul_add(n, dim, dim, -1, mat(dvn, dim), turned(m, dim), dw);
    mul_add(n, dim, n, 1, turned(c->tm, n), mat(dvn, dim), y1);
    mul_add(n, dim, n, 1, turned(c->tm, n), mat(dw, dim), y2);
    mul_add(n, n, dim, 1, mat(c->d_o, dim), turned(c->vn, dim), dp);
    mul_add(n, n, dim, -1, mat(y1, dim), turned(c->u, dim), da);
    mul_add(n, n, dim, -1, mat(y2, dim), turned(c->w, dim), da);
    for (uint64_t i = 0; i < n; i++) {
        da[i * n + i] = 0; /* strictly lower; lower */
        for (uint64_t j = i + 1; j < n; j++)
            da[i * n + j] = dp[i * n + j] = 0;
    }
    mul_add(n, dim, dim, 1, mat(c->d_o, dim), turned(m, dim), od);
    mul_add(n, dim, dim, 1, mat(c->vn, dim), turned(c->dm, dim), vd);
    double decay = exp(c->run[n - 1]);
    chunk_rows_bwd(c, y1, y2, dp, da, od, vd, decay * ref_dot(m, c->dm, dim * dim));
    for (uint64_t i = 0; i < dim * dim; i++)
        c->dm[i] *= decay;
    mul_add(dim, dim, n, 1, turned(eq, dim), mat(c->d_o, dim), c->dm);
    mul_add(dim, dim, n, -1, turned(c->w, dim), mat(dvn, dim), c->dm);
    double *all[] = { rk, eq, dvn, dw, y1, y2, od, vd, dp, da };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

void ref_delta_chunked_bwd(const struct ref_delta *d, const uint32_t *first, uint32_t chunk,
                           const double *dout, const struct ref_delta_grad *g)
{
    uint64_t n = (uint64_t)d->d_state * d->d_state, n_tok = d->n_tok, *length = NULL;
    double *m = ref_doubles(n_tok * n),
           *now = ref_doubles(n); /* m: states at chunk starts, by token */

    length = mem_alloc(n_tok + 1, sizeof *length); /* of the chunk that ends before a token */
    HLM_ASSERT(length != NULL);
    for (uint64_t j = 0; j < d->n_v_head; j++) {
        struct delta_head_bwd h = head_create(d, j, dout, g->dstate);
        for (uint64_t t = 0, len; t < n_tok; t += len) {
            len = ref_chunk_length(first, n_tok, chunk, t);
            length[t + len] = len;
            ref_start_state(first, t, d->state ? d->state + j * n : NULL, n, now);
            memcpy(m + t * n, now, n * sizeof *m);
            struct chunk c = chunk_create(&h, t, len, now);
            chunk_state(&c, now);
            chunk_destroy(&c);
        }
        for (uint64_t end = n_tok, t; end > 0; end = t) {
            t = end - length[end];
            struct chunk c = chunk_create(&h, t, length[end], m + t * n);
            chunk_bwd(&c, m + t * n);
            chunk_destroy(&c);
            if (first && first[t] == t)
                memset(h.dm, 0, n * sizeof *m);
        }
        head_bwd(d, j, &h, g);
        head_destroy(&h);
    }
    free(m);
    free(now);
    free(length);
}
