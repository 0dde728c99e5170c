/* ref_ops: the operations of ref.h, one after the other. Formulas: models.md 3.1 and 3.2.
 *
 * Every sum runs in index order in one double. Slow and plain on purpose; do not optimise. */
#include "ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *doubles(uint64_t n)
{
    double *p = mem_alloc(n ? n : 1, sizeof *p);
    HLM_ASSERT(p != NULL);
    return p;
}

static double dot(const double *a, const double *b, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

double ref_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}
double ref_silu(double x)
{
    return x * ref_sigmoid(x);
}
double ref_softplus(double x)
{
    return x > 20 ? x : log1p(exp(x));
}

void ref_linear(const float *w, uint32_t n_in, uint32_t n_out, const double *x, uint32_t n_tok,
                double *y)
{
    for (uint64_t t = 0; t < n_tok; t++) {
        for (uint64_t o = 0; o < n_out; o++) {
            double sum = 0;
            for (uint64_t i = 0; i < n_in; i++)
                sum += (double)w[o * n_in + i] * x[t * n_in + i];
            y[t * n_out + o] = sum;
        }
    }
}

void ref_rmsnorm(const double *x, const float *w, uint32_t dim, uint32_t n_row, double eps,
                 double *y)
{
    for (uint64_t r = 0; r < n_row; r++) {
        const double *in = x + r * dim;
        double scale = 1 / sqrt(dot(in, in, dim) / dim + eps);
        for (uint32_t i = 0; i < dim; i++)
            y[r * dim + i] = in[i] * scale * (double)w[i];
    }
}

void ref_l2norm(double *x, uint32_t dim, uint32_t n_row, double scale)
{
    for (uint64_t r = 0; r < n_row; r++) {
        double *row = x + r * dim;
        double f = scale / sqrt(dot(row, row, dim) + 1e-6);
        for (uint32_t i = 0; i < dim; i++)
            row[i] *= f;
    }
}

/* ---- attention -------------------------------------------------------------------------- */

void ref_rope_freq(double theta, uint32_t n_rot, float *freq)
{
    for (uint32_t i = 0; i < n_rot / 2; i++)
        freq[i] = (float)pow(theta, -2.0 * i / n_rot);
}

void ref_rope(const float *freq, uint32_t n_rot, uint32_t pos, uint32_t n_head, uint32_t head_dim,
              double *x)
{
    uint32_t half = n_rot / 2;
    for (uint32_t h = 0; h < n_head; h++) {
        double *lo = x + (uint64_t)h * head_dim, *hi = lo + half;
        for (uint32_t i = 0; i < half; i++) {
            double angle = (double)pos * (double)freq[i], c = cos(angle), s = sin(angle);
            double a = lo[i], b = hi[i];
            lo[i] = a * c - b * s;
            hi[i] = b * c + a * s;
        }
    }
}

/* One query against n_key keys of its KV head; stride is between keys. score is room for n_key. */
static void attend(const double *q, const double *k, const double *v, uint64_t stride,
                   uint32_t n_key, uint32_t dim, double *score, double *y)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < n_key; j++) {
        score[j] = dot(q, k + j * stride, dim) / sqrt(dim);
        top = fmax(top, score[j]);
    }
    for (uint32_t j = 0; j < n_key; j++)
        sum += score[j] = exp(score[j] - top);
    memset(y, 0, dim * sizeof *y);
    for (uint32_t j = 0; j < n_key; j++)
        for (uint32_t i = 0; i < dim; i++)
            y[i] += score[j] / sum * v[j * stride + i];
}

void ref_attention(const struct ref_attention *a, double *y)
{
    uint64_t hd = a->head_dim, stride = a->n_kv_head * hd;
    double *score = doubles((uint64_t)a->n_past + a->n_tok);

    for (uint32_t t = 0; t < a->n_tok; t++) {
        for (uint32_t h = 0; h < a->n_head; h++) {
            uint64_t at = ((uint64_t)t * a->n_head + h) * hd;
            uint64_t kv = h / (a->n_head / a->n_kv_head) * hd;
            attend(a->q + at, a->k + kv, a->v + kv, stride, a->n_past + t + 1, a->head_dim, score,
                   y + at);
            for (uint64_t i = 0; a->gate && i < hd; i++)
                y[at + i] *= ref_sigmoid(a->gate[at + i]);
        }
    }
    free(score);
}

/* ---- Gated DeltaNet --------------------------------------------------------------------- */

void ref_conv_silu(const struct ref_conv *c, double *y)
{
    uint64_t n_ch = c->n_ch, n_past = c->conv_k - 1, n_row = n_past + c->n_tok;
    double *row = doubles(n_row * n_ch); /* the window, then x: token t sees rows t .. t + n_past */

    memcpy(row, c->window, n_past * n_ch * sizeof *row);
    memcpy(row + n_past * n_ch, c->x, c->n_tok * n_ch * sizeof *row);
    for (uint64_t t = 0; t < c->n_tok; t++) {
        for (uint64_t ch = 0; ch < n_ch; ch++) {
            double sum = 0;
            for (uint64_t j = 0; j < c->conv_k; j++)
                sum += (double)c->w[ch * c->conv_k + j] * row[(t + j) * n_ch + ch];
            y[t * n_ch + ch] = ref_silu(sum);
        }
    }
    memcpy(c->window, row + c->n_tok * n_ch, n_past * n_ch * sizeof *row);
    free(row);
}

static void delta_gate(const struct ref_delta *d, uint64_t t, uint64_t j, double *beta, double *g)
{
    uint64_t at = t * d->n_v_head + j;
    *beta = ref_sigmoid(d->b[at]);
    *g = (double)d->ssm_a[j] * ref_softplus(d->a[at] + (double)d->dt_bias[j]);
}

void ref_delta_gates(const struct ref_delta *d, double *beta, double *g)
{
    for (uint64_t t = 0; t < d->n_tok; t++)
        for (uint64_t j = 0; j < d->n_v_head; j++)
            delta_gate(d, t, j, &beta[t * d->n_v_head + j], &g[t * d->n_v_head + j]);
}

/* What both forms start from: q (normed, scaled), k (normed) and v of one V head, [n_tok, dim]
 * each, and its gates, [n_tok]. */
struct delta_head {
    double *q, *k, *v, *beta, *g;
};

static struct delta_head delta_head_create(const struct ref_delta *d, uint32_t j)
{
    uint64_t dim = d->d_state, n_tok = d->n_tok, width = (2 * d->n_k_head + d->n_v_head) * dim;
    uint64_t k_head = d->tiled ? j % d->n_k_head : j / (d->n_v_head / d->n_k_head);
    struct delta_head h = { .q = doubles(n_tok * dim),
                            .k = doubles(n_tok * dim),
                            .v = doubles(n_tok * dim),
                            .beta = doubles(n_tok),
                            .g = doubles(n_tok) };

    for (uint64_t t = 0; t < n_tok; t++) {
        const double *row = d->qkv + t * width;
        memcpy(h.q + t * dim, row + k_head * dim, dim * sizeof *row);
        memcpy(h.k + t * dim, row + (d->n_k_head + k_head) * dim, dim * sizeof *row);
        memcpy(h.v + t * dim, row + (2 * d->n_k_head + j) * dim, dim * sizeof *row);
        delta_gate(d, t, j, &h.beta[t], &h.g[t]);
    }
    ref_l2norm(h.q, d->d_state, d->n_tok, 1 / sqrt(d->d_state));
    ref_l2norm(h.k, d->d_state, d->n_tok, 1);
    return h;
}

static void delta_head_destroy(struct delta_head *h)
{
    free(h->q);
    free(h->k);
    free(h->v);
    free(h->beta);
    free(h->g);
}

/* y = M^T x for M [dim, dim], x over its rows. */
static void state_read(const double *m, const double *x, uint64_t dim, double *y)
{
    memset(y, 0, dim * sizeof *y);
    for (uint64_t i = 0; i < dim; i++)
        for (uint64_t c = 0; c < dim; c++)
            y[c] += m[i * dim + c] * x[i];
}

void ref_delta(const struct ref_delta *d, double *o)
{
    uint64_t dim = d->d_state;
    double *delta = doubles(dim);

    for (uint32_t j = 0; j < d->n_v_head; j++) {
        struct delta_head h = delta_head_create(d, j);
        double *m = d->state + j * dim * dim;
        for (uint64_t t = 0; t < d->n_tok; t++) {
            const double *k = h.k + t * dim, *v = h.v + t * dim;
            double decay = exp(h.g[t]);
            for (uint64_t i = 0; i < dim * dim; i++)
                m[i] *= decay;
            state_read(m, k, dim, delta);
            for (uint64_t c = 0; c < dim; c++)
                delta[c] = h.beta[t] * (v[c] - delta[c]);
            for (uint64_t i = 0; i < dim; i++)
                for (uint64_t c = 0; c < dim; c++)
                    m[i * dim + c] += k[i] * delta[c];
            state_read(m, h.q + t * dim, dim, o + (t * d->n_v_head + j) * dim);
        }
        delta_head_destroy(&h);
    }
    free(delta);
}

/* One chunk of n tokens of one V head, from token t0 on. Names as in models.md 3.2: G the running
 * sum of g, A the strictly lower (b K) K^T . D, Vn = U - W M. Rows of U and W come by forward
 * substitution of (I + A) [U W] = [b V, b e^G K], which is the recursion for Tm applied to its
 * right sides. */
static void delta_chunk(const struct ref_delta *d, const struct delta_head *h, uint64_t t0,
                        uint64_t n, double *m, double *o)
{
    uint64_t dim = d->d_state;
    uint32_t dim32 = d->d_state;
    const double *q = h->q + t0 * dim, *k = h->k + t0 * dim, *v = h->v + t0 * dim;
    double *run = doubles(n), *u = doubles(n * dim), *w = doubles(n * dim), *read = doubles(dim);

    for (uint64_t i = 0; i < n; i++) {
        run[i] = h->g[t0 + i] + (i ? run[i - 1] : 0);
        double b = h->beta[t0 + i];
        for (uint64_t c = 0; c < dim; c++) {
            u[i * dim + c] = b * v[i * dim + c];
            w[i * dim + c] = b * exp(run[i]) * k[i * dim + c];
        }
        for (uint64_t j = 0; j < i; j++) {
            double a = b * dot(k + i * dim, k + j * dim, dim32) * exp(run[i] - run[j]);
            for (uint64_t c = 0; c < dim; c++) {
                u[i * dim + c] -= a * u[j * dim + c];
                w[i * dim + c] -= a * w[j * dim + c];
            }
        }
    }
    for (uint64_t i = 0; i < n; i++) { /* Vn takes the place of U */
        state_read(m, w + i * dim, dim, read);
        for (uint64_t c = 0; c < dim; c++)
            u[i * dim + c] -= read[c];
    }
    for (uint64_t i = 0; i < n; i++) {
        double *y = o + (t0 + i) * d->n_v_head * dim;
        state_read(m, q + i * dim, dim, read);
        for (uint64_t c = 0; c < dim; c++)
            y[c] = exp(run[i]) * read[c];
        for (uint64_t j = 0; j <= i; j++) {
            double p = dot(q + i * dim, k + j * dim, dim32) * exp(run[i] - run[j]);
            for (uint64_t c = 0; c < dim; c++)
                y[c] += p * u[j * dim + c];
        }
    }
    double decay = exp(run[n - 1]);
    for (uint64_t i = 0; i < dim * dim; i++)
        m[i] *= decay;
    for (uint64_t j = 0; j < n; j++) {
        double rest = exp(run[n - 1] - run[j]);
        for (uint64_t i = 0; i < dim; i++)
            for (uint64_t c = 0; c < dim; c++)
                m[i * dim + c] += k[j * dim + i] * rest * u[j * dim + c];
    }
    free(run);
    free(u);
    free(w);
    free(read);
}

void ref_delta_chunked(const struct ref_delta *d, uint32_t chunk, double *o)
{
    uint64_t dim = d->d_state;
    for (uint32_t j = 0; j < d->n_v_head; j++) {
        struct delta_head h = delta_head_create(d, j);
        for (uint32_t t = 0; t < d->n_tok; t += chunk)
            delta_chunk(d, &h, t, min_u32(chunk, d->n_tok - t), d->state + j * dim * dim,
                        o + j * dim);
        delta_head_destroy(&h);
    }
}

void ref_gated_norm(double *o, const double *z, const float *w, uint32_t dim, uint32_t n_row,
                    double eps)
{
    ref_rmsnorm(o, w, dim, n_row, eps, o);
    for (uint64_t i = 0; i < (uint64_t)n_row * dim; i++)
        o[i] *= ref_silu(z[i]);
}

/* ---- feed-forward ----------------------------------------------------------------------- */

void ref_swiglu(const double *gate, const double *up, uint64_t n, double *y)
{
    for (uint64_t i = 0; i < n; i++)
        y[i] = ref_silu(gate[i]) * up[i];
}

void ref_ffn(const struct ref_ffn *f, const double *x, uint32_t n_tok, double *y)
{
    uint64_t n = (uint64_t)n_tok * f->n_ff;
    double *gate = doubles(n), *up = doubles(n);

    ref_linear(f->gate, f->n_embd, f->n_ff, x, n_tok, gate);
    ref_linear(f->up, f->n_embd, f->n_ff, x, n_tok, up);
    ref_swiglu(gate, up, n, gate);
    ref_linear(f->down, f->n_ff, f->n_embd, gate, n_tok, y);
    free(gate);
    free(up);
}

void ref_moe_route(const double *logits, uint32_t n_expert, uint32_t n_used, uint32_t *id,
                   double *weight)
{
    double *p = doubles(n_expert), top = -INFINITY, all = 0, chosen = 0;

    for (uint32_t e = 0; e < n_expert; e++)
        top = fmax(top, logits[e]);
    for (uint32_t e = 0; e < n_expert; e++)
        all += p[e] = exp(logits[e] - top);
    for (uint32_t e = 0; e < n_expert; e++)
        p[e] /= all;
    for (uint32_t i = 0; i < n_used; i++) {
        id[i] = 0;
        for (uint32_t e = 1; e < n_expert; e++)
            if (p[e] > p[id[i]])
                id[i] = e;
        weight[i] = p[id[i]];
        chosen += weight[i];
        p[id[i]] = -1; /* taken: below every probability */
    }
    for (uint32_t i = 0; i < n_used; i++)
        weight[i] /= chosen;
    free(p);
}

void ref_moe(const struct ref_moe *m, const double *x, uint32_t n_tok, double *y)
{
    uint64_t dim = m->n_embd, expert = dim * m->n_ff;
    double *logits = doubles(m->n_expert), *weight = doubles(m->n_used), *one = doubles(dim);
    uint32_t *id = mem_alloc(m->n_used, sizeof *id);
    HLM_ASSERT(id != NULL);

    for (uint64_t t = 0; t < n_tok; t++) {
        const double *in = x + t * dim;
        double *out = y + t * dim;
        ref_linear(m->router, m->n_embd, m->n_expert, in, 1, logits);
        ref_moe_route(logits, m->n_expert, m->n_used, id, weight);
        memset(out, 0, dim * sizeof *out);
        for (uint32_t i = 0; i < m->n_used; i++) {
            uint64_t at = id[i] * expert;
            struct ref_ffn f = { m->n_embd, m->n_ff, m->gate + at, m->up + at, m->down + at };
            ref_ffn(&f, in, 1, one);
            for (uint64_t c = 0; c < dim; c++)
                out[c] += weight[i] * one[c];
        }
        if (!m->shared_router)
            continue;
        struct ref_ffn f = { m->n_embd, m->n_ff_shared, m->shared_gate, m->shared_up,
                             m->shared_down };
        double gate;
        ref_linear(m->shared_router, m->n_embd, 1, in, 1, &gate);
        ref_ffn(&f, in, 1, one);
        for (uint64_t c = 0; c < dim; c++)
            out[c] += ref_sigmoid(gate) * one[c];
    }
    free(logits);
    free(weight);
    free(one);
    free(id);
}
