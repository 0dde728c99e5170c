/* ref_bwd_mamba: the backward of Mamba2, token by token and in chunks (models/README.md, "Mamba2
 * backward").
 *
 * As in ref_bwd_delta.c, both work on one head, after the softplus; head_create() and head_bwd() do
 * the rest. Read ref_bwd.h first. */
#include "ref/ref_bwd.h"
#include "ref/ref_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one head --------------------------------------------------------------------------- */

/* x, dy [n_tok, dim]; b, c [n_tok, ns]; dt [n_tok] after the softplus; gradients of the first,
 * third to fifth; the state's [dim, ns], carried backward. */
struct mamba_head_bwd {
    uint64_t dim, ns;
    double a, d, da, dd;
    double *x, *dy, *b, *c, *dt;
    double *dx, *db, *dc, *ddt, *ds;
};

static struct mamba_head_bwd head_create(const struct ref_mamba *m, uint64_t h, const double *dout,
                                         const double *dstate)
{
    uint64_t n_tok = m->n_tok, dim = m->head_dim, ns = m->d_state, inner = m->n_head * dim;
    uint64_t width = inner + 2 * m->n_group * ns, group = h / (m->n_head / m->n_group);
    struct mamba_head_bwd e = { .dim = dim,
                                .ns = ns,
                                .a = (double)m->ssm_a[h],
                                .d = (double)m->d[h],
                                .x = ref_columns(m->xbc, width, h * dim, dim, n_tok),
                                .dy = ref_columns(dout, inner, h * dim, dim, n_tok),
                                .b = ref_columns(m->xbc, width, inner + group * ns, ns, n_tok),
                                .c = ref_columns(m->xbc, width, inner + (m->n_group + group) * ns,
                                                 ns, n_tok),
                                .dt = ref_doubles(n_tok),
                                .dx = ref_doubles(n_tok * dim),
                                .db = ref_doubles(n_tok * ns),
                                .dc = ref_doubles(n_tok * ns),
                                .ddt = ref_doubles(n_tok),
                                .ds = ref_doubles(dim * ns) };

    for (uint64_t t = 0; t < n_tok; t++)
        e.dt[t] = ref_softplus(m->dt[t * m->n_head + h] + (double)m->dt_bias[h]);
    if (dstate)
        memcpy(e.ds, dstate + h * dim * ns, dim * ns * sizeof *e.ds);
    return e;
}

static void head_bwd(const struct ref_mamba *m, uint64_t h, const struct mamba_head_bwd *e,
                     const struct ref_mamba_grad *g)
{
    uint64_t n_tok = m->n_tok, dim = e->dim, ns = e->ns, inner = m->n_head * dim;
    uint64_t width = inner + 2 * m->n_group * ns, group = h / (m->n_head / m->n_group);

    if (g->dxbc) {
        ref_add_columns(e->dx, width, h * dim, dim, n_tok, g->dxbc);
        ref_add_columns(e->db, width, inner + group * ns, ns, n_tok, g->dxbc);
        ref_add_columns(e->dc, width, inner + (m->n_group + group) * ns, ns, n_tok, g->dxbc);
    }
    for (uint64_t t = 0; t < n_tok; t++) {
        uint64_t at = t * m->n_head + h;
        double raw = e->ddt[t] * ref_softplus_bwd(m->dt[at] + (double)m->dt_bias[h]);
        if (g->ddt)
            g->ddt[at] += raw;
        if (g->ddt_bias)
            g->ddt_bias[h] += raw;
    }
    if (g->da_log) /* ssm_a = -exp(A_log) */
        g->da_log[h] += e->da * e->a;
    if (g->dd)
        g->dd[h] += e->dd;
    if (g->dstate)
        memcpy(g->dstate + h * dim * ns, e->ds, dim * ns * sizeof *e->ds);
}

static void head_destroy(struct mamba_head_bwd *e)
{
    double *all[] = { e->x, e->dy, e->b, e->c, e->dt, e->dx, e->db, e->dc, e->ddt, e->ds };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* ---- serial ----------------------------------------------------------------------------- */

/* S = e^(dt A) S + dt x (x) B */
static void step(const struct mamba_head_bwd *e, uint64_t t, double *s)
{
    double decay = exp(e->dt[t] * e->a);
    for (uint64_t p = 0; p < e->dim; p++)
        for (uint64_t i = 0; i < e->ns; i++)
            s[p * e->ns + i] =
                decay * s[p * e->ns + i] + e->dt[t] * e->x[t * e->dim + p] * e->b[t * e->ns + i];
}

/* s and after are the state before and after token t. e->ds is the gradient of the latter from the
 * tokens after t, and becomes that of the former. y = S' C + D x. */
static void step_bwd(struct mamba_head_bwd *e, uint64_t t, const double *s, const double *after)
{
    uint64_t ns = e->ns;
    const double *b = e->b + t * ns, *c = e->c + t * ns;
    double dt = e->dt[t], decay = exp(dt * e->a), ddecay = 0;

    for (uint64_t p = 0; p < e->dim; p++) {
        double x = e->x[t * e->dim + p], dy = e->dy[t * e->dim + p], ds_b = 0;
        double *ds = e->ds + p * ns;
        for (uint64_t i = 0; i < ns; i++) {
            ds[i] += dy * c[i];
            e->dc[t * ns + i] += dy * after[p * ns + i];
            e->db[t * ns + i] += dt * x * ds[i];
            ds_b += ds[i] * b[i];
            ddecay += ds[i] * s[p * ns + i];
            ds[i] *= decay;
        }
        e->dx[t * e->dim + p] += dt * ds_b + e->d * dy;
        e->ddt[t] += x * ds_b;
        e->dd += x * dy;
    }
    e->ddt[t] += e->a * decay * ddecay;
    e->da += dt * decay * ddecay;
}

void ref_mamba_bwd(const struct ref_mamba *m, const uint32_t *first, const double *dout,
                   const struct ref_mamba_grad *g)
{
    uint64_t n = (uint64_t)m->head_dim * m->d_state;
    double *s = ref_doubles(m->n_tok * n), *after = ref_doubles(m->n_tok * n),
           *now = ref_doubles(n);

    for (uint64_t h = 0; h < m->n_head; h++) {
        struct mamba_head_bwd e = head_create(m, h, dout, g->dstate);
        for (uint64_t t = 0; t < m->n_tok; t++) {
            ref_start_state(first, t, m->state ? m->state + h * n : NULL, n, now);
            memcpy(s + t * n, now, n * sizeof *s);
            step(&e, t, now);
            memcpy(after + t * n, now, n * sizeof *s);
        }
        for (uint64_t t = m->n_tok; t-- > 0;) {
            step_bwd(&e, t, s + t * n, after + t * n);
            if (first && first[t] == t)
                memset(e.ds, 0, n * sizeof *s);
        }
        head_bwd(m, h, &e, g);
        head_destroy(&e);
    }
    free(s);
    free(after);
    free(now);
}

/* ---- chunked ---------------------------------------------------------------------------- */

/* The running sums c_i of dt A of the n tokens from t0 on (named run here: c is the matrix C). */
static double *running(const struct mamba_head_bwd *e, uint64_t t0, uint64_t n)
{
    double *run = ref_doubles(n);
    for (uint64_t i = 0; i < n; i++)
        run[i] = e->dt[t0 + i] * e->a + (i ? run[i - 1] : 0);
    return run;
}

/* S = e^(c_last) S + X^T (r Bm) with X = dt x, r = e^(c_last - c). */
static void chunk_state(const struct mamba_head_bwd *e, uint64_t t0, uint64_t n, double *s)
{
    double *run = running(e, t0, n);
    for (uint64_t p = 0; p < e->dim; p++) {
        for (uint64_t i = 0; i < e->ns; i++) {
            double sum = exp(run[n - 1]) * s[p * e->ns + i];
            for (uint64_t t = 0; t < n; t++)
                sum += e->dt[t0 + t] * e->x[(t0 + t) * e->dim + p] * exp(run[n - 1] - run[t]) *
                       e->b[(t0 + t) * e->ns + i];
            s[p * e->ns + i] = sum;
        }
    }
    free(run);
}

/* Inside the chunk: F = (Cm Bm^T) . L, Y_diag = F X; dF = dY X^T. Adds to dX (here big_dx [n,
 * dim]), dC, dB and drun. */
static void chunk_diag_bwd(const struct mamba_head_bwd *e, uint64_t t0, uint64_t n,
                           const double *run, double *big_dx, double *drun)
{
    uint64_t dim = e->dim, ns = e->ns;
    for (uint64_t i = 0; i < n; i++) {
        const double *c = e->c + (t0 + i) * ns, *dy = e->dy + (t0 + i) * dim;
        for (uint64_t j = 0; j <= i; j++) {
            const double *b = e->b + (t0 + j) * ns, *x = e->x + (t0 + j) * dim;
            double l = exp(run[i] - run[j]), f = ref_dot(c, b, ns) * l;
            double df = e->dt[t0 + j] * ref_dot(dy, x, dim);
            for (uint64_t p = 0; p < dim; p++)
                big_dx[j * dim + p] += f * dy[p];
            for (uint64_t s = 0; s < ns; s++) {
                e->dc[(t0 + i) * ns + s] += df * l * b[s];
                e->db[(t0 + j) * ns + s] += df * l * c[s];
            }
            drun[i] += df * f;
            drun[j] -= df * f;
        }
    }
}

/* Through the states: s is the state before the chunk; e->ds is the gradient of the state after it,
 * and becomes that of s. */
static void chunk_state_bwd(struct mamba_head_bwd *e, uint64_t t0, uint64_t n, const double *run,
                            const double *s, double *big_dx, double *drun)
{
    uint64_t dim = e->dim, ns = e->ns;
    double decay = exp(run[n - 1]), *ds = ref_doubles(dim * ns);

    drun[n - 1] += decay * ref_dot(s, e->ds, dim * ns);
    for (uint64_t i = 0; i < dim * ns; i++)
        ds[i] = decay * e->ds[i];
    for (uint64_t i = 0; i < n; i++) {
        const double *c = e->c + (t0 + i) * ns, *b = e->b + (t0 + i) * ns;
        double ei = exp(run[i]), r = exp(run[n - 1] - run[i]);
        for (uint64_t p = 0; p < dim; p++) {
            double dy = e->dy[(t0 + i) * dim + p];
            double x = e->dt[t0 + i] * e->x[(t0 + i) * dim + p];
            double read = r * ref_dot(e->ds + p * ns, b, ns);
            big_dx[i * dim + p] += read;
            drun[i] += dy * ei * ref_dot(s + p * ns, c, ns) - x * read;
            drun[n - 1] += x * read;
            for (uint64_t k = 0; k < ns; k++) {
                e->dc[(t0 + i) * ns + k] += ei * dy * s[p * ns + k];
                e->db[(t0 + i) * ns + k] += r * x * e->ds[p * ns + k];
                ds[p * ns + k] += ei * dy * c[k];
            }
        }
    }
    memcpy(e->ds, ds, dim * ns * sizeof *ds);
    free(ds);
}

static void chunk_bwd(struct mamba_head_bwd *e, uint64_t t0, uint64_t n, const double *s)
{
    uint64_t dim = e->dim;
    double *run = running(e, t0, n), *big_dx = ref_doubles(n * dim), *drun = ref_doubles(n),
           sfx = 0;

    chunk_diag_bwd(e, t0, n, run, big_dx, drun);
    chunk_state_bwd(e, t0, n, run, s, big_dx, drun);
    for (uint64_t i = n; i-- > 0;) {
        const double *x = e->x + (t0 + i) * dim, *dy = e->dy + (t0 + i) * dim;
        sfx += drun[i];
        e->ddt[t0 + i] += ref_dot(x, big_dx + i * dim, dim) + e->a * sfx;
        e->da += e->dt[t0 + i] * sfx;
        e->dd += ref_dot(x, dy, dim);
        for (uint64_t p = 0; p < dim; p++)
            e->dx[(t0 + i) * dim + p] += e->dt[t0 + i] * big_dx[i * dim + p] + e->d * dy[p];
    }
    free(run);
    free(big_dx);
    free(drun);
}

void ref_mamba_chunked_bwd(const struct ref_mamba *m, const uint32_t *first, uint32_t chunk,
                           const double *dout, const struct ref_mamba_grad *g)
{
    uint64_t n = (uint64_t)m->head_dim * m->d_state, n_tok = m->n_tok;
    uint64_t *length = mem_alloc(n_tok + 1, sizeof *length); /* of the chunk that ends there */
    double *s = ref_doubles(n_tok * n),
           *now = ref_doubles(n); /* s: states at chunk starts, by token */
    HLM_ASSERT(length != NULL);

    for (uint64_t h = 0; h < m->n_head; h++) {
        struct mamba_head_bwd e = head_create(m, h, dout, g->dstate);
        for (uint64_t t = 0, len; t < n_tok; t += len) {
            len = ref_chunk_length(first, n_tok, chunk, t);
            length[t + len] = len;
            ref_start_state(first, t, m->state ? m->state + h * n : NULL, n, now);
            memcpy(s + t * n, now, n * sizeof *s);
            chunk_state(&e, t, len, now);
        }
        for (uint64_t end = n_tok, t; end > 0; end = t) {
            t = end - length[end];
            chunk_bwd(&e, t, length[end], s + t * n);
            if (first && first[t] == t)
                memset(e.ds, 0, n * sizeof *s);
        }
        head_bwd(m, h, &e, g);
        head_destroy(&e);
    }
    free(s);
    free(now);
    free(length);
}
