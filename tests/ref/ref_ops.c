/* ref_ops: the operations of ref.h, one after the other. Formulas: models/README.md.
 *
 * Every sum runs in index order in one double. Slow and plain on purpose: do not optimise. */
#include "ref/ref_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double ref_sigmoid(double x) { return 1 / (1 + exp(-x)); }
double ref_silu(double x) { return x * ref_sigmoid(x); }
double ref_softplus(double x) { return x > 20 ? x : log1p(exp(x)); }
double ref_relu2(double x) { return x > 0 ? x * x : 0; }

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
        double scale = 1 / sqrt(ref_dot(in, in, dim) / dim + eps);
        for (uint32_t i = 0; i < dim; i++)
            y[r * dim + i] = in[i] * scale * (double)w[i];
    }
}

void ref_l2norm(double *x, uint32_t dim, uint32_t n_row, double scale)
{
    for (uint64_t r = 0; r < n_row; r++) {
        double *row = x + r * dim;
        double f = scale / sqrt(ref_dot(row, row, dim) + 1e-6);
        for (uint32_t i = 0; i < dim; i++)
            row[i] *= f;
    }
}

/* ---- attention -------------------------------------------------------------------------- */

void ref_rope_freq(double theta, uint32_t n_rot, const float *factor, float *freq)
{
    for (uint32_t i = 0; i < n_rot / 2; i++)
        freq[i] = (float)(pow(theta, -2.0 * i / n_rot) / (factor ? (double)factor[i] : 1));
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

void ref_attention(const struct ref_attention *a, double *y)
{
    uint64_t hd = a->head_dim, stride = a->n_kv_head * hd;
    double *score = ref_doubles((uint64_t)a->n_past + a->n_tok);

    for (uint32_t t = 0; t < a->n_tok; t++) {
        for (uint32_t h = 0; h < a->n_head; h++) {
            uint64_t at = ((uint64_t)t * a->n_head + h) * hd;
            uint32_t n_seen = a->n_past + t + 1, n_key = n_seen;
            if (a->window)
                n_key = min_u32(n_seen, a->window);
            uint64_t kv = h / (a->n_head / a->n_kv_head) * hd + (n_seen - n_key) * stride;
            ref_attend(&(struct ref_query){ .q = a->q + at,
                                            .k = a->k + kv,
                                            .v = a->v + kv,
                                            .stride = stride,
                                            .n_key = n_key,
                                            .dim = a->head_dim,
                                            .p = score },
                       y + at);
            for (uint64_t i = 0; a->gate && i < hd; i++)
                y[at + i] *= ref_sigmoid(a->gate[at + i]);
            for (uint64_t i = 0; a->head_gate && i < hd; i++)
                y[at + i] *= ref_sigmoid(a->head_gate[(uint64_t)t * a->n_head + h]);
        }
    }
    free(score);
}

/* ---- convolution and Gated DeltaNet ----------------------------------------------------- */

void ref_conv_silu(const struct ref_conv *c, double *y)
{
    uint64_t n_ch = c->n_ch, n_past = c->conv_k - 1, n_row = n_past + c->n_tok;
    double *row =
        ref_doubles(n_row * n_ch); /* the window, then x: token t sees rows t .. t + n_past */

    memcpy(row, c->window, n_past * n_ch * sizeof *row);
    memcpy(row + n_past * n_ch, c->x, c->n_tok * n_ch * sizeof *row);
    for (uint64_t t = 0; t < c->n_tok; t++) {
        for (uint64_t ch = 0; ch < n_ch; ch++) {
            double sum = c->bias ? (double)c->bias[ch] : 0;
            for (uint64_t j = 0; j < c->conv_k; j++)
                sum += (double)c->w[ch * c->conv_k + j] * row[(t + j) * n_ch + ch];
            y[t * n_ch + ch] = ref_silu(sum);
        }
    }
    memcpy(c->window, row + c->n_tok * n_ch, n_past * n_ch * sizeof *row);
    free(row);
}

void ref_delta_gates(const struct ref_delta *d, double *beta, double *g)
{
    for (uint64_t t = 0; t < d->n_tok; t++)
        for (uint64_t j = 0; j < d->n_v_head; j++)
            ref_delta_gate(d, t, j, &beta[t * d->n_v_head + j], &g[t * d->n_v_head + j]);
}

/* The inputs of both forms, for one V head: q (normed, scaled), k (normed) and v, [n_tok, dim]
 * each, and the gates, [n_tok]. */
struct delta_head {
    double *q, *k, *v, *beta, *g;
};

static struct delta_head delta_head_create(const struct ref_delta *d, uint32_t j)
{
    uint64_t dim = d->d_state, n_tok = d->n_tok, n_k = d->n_k_head, kh = ref_k_head(d, j);
    uint64_t width = (2 * n_k + d->n_v_head) * dim;
    struct delta_head h = { .q = ref_columns(d->qkv, width, kh * dim, dim, n_tok),
                            .k = ref_columns(d->qkv, width, (n_k + kh) * dim, dim, n_tok),
                            .v = ref_columns(d->qkv, width, (2 * n_k + j) * dim, dim, n_tok),
                            .beta = ref_doubles(n_tok),
                            .g = ref_doubles(n_tok) };

    for (uint64_t t = 0; t < n_tok; t++)
        ref_delta_gate(d, t, j, &h.beta[t], &h.g[t]);
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
    double *delta = ref_doubles(dim);

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

/* One chunk of n tokens of one V head, from token t0 on. Names as in models/README.md, "DeltaNet in
 * chunks": G the running sum of g, A the strictly lower (b K) K^T . D, Vn = U - W M. Rows of U and
 * W come by forward substitution of (I + A) [U W] = [b V, b e^G K], which is the recursion for Tm
 * applied to its right sides. */
static void delta_chunk(const struct ref_delta *d, const struct delta_head *h, uint64_t t0,
                        uint64_t n, double *m, double *o)
{
    uint64_t dim = d->d_state;
    uint32_t dim32 = d->d_state;
    const double *q = h->q + t0 * dim, *k = h->k + t0 * dim, *v = h->v + t0 * dim;
    double *run = ref_doubles(n), *u = ref_doubles(n * dim), *w = ref_doubles(n * dim),
           *read = ref_doubles(dim);

    for (uint64_t i = 0; i < n; i++) {
        run[i] = h->g[t0 + i] + (i ? run[i - 1] : 0);
        double b = h->beta[t0 + i];
        for (uint64_t c = 0; c < dim; c++) {
            u[i * dim + c] = b * v[i * dim + c];
            w[i * dim + c] = b * exp(run[i]) * k[i * dim + c];
        }
        for (uint64_t j = 0; j < i; j++) {
            double a = b * ref_dot(k + i * dim, k + j * dim, dim32) * exp(run[i] - run[j]);
            for (uint64_t c = 0; c < dim; c++) {
                u[i * dim + c] -= a * u[j * dim + c];
                w[i * dim + c] -= a * w[j * dim + c];
            }
        }
    }
    for (uint64_t i = 0; i < n; i++) { /* Vn replaces U */
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
            double p = ref_dot(q + i * dim, k + j * dim, dim32) * exp(run[i] - run[j]);
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

/* ---- Mamba2 ----------------------------------------------------------------------------- */

/* The inputs of both forms, for one head: B and C, [n_tok, d_state], x and dt x, [n_tok, head_dim],
 * and the logarithm of the decay, [n_tok]. */
struct mamba_head {
    double *b, *c, *x, *dt_x, *g;
};

static struct mamba_head mamba_head_create(const struct ref_mamba *m, uint32_t h)
{
    uint64_t n_tok = m->n_tok, dim = m->head_dim, ns = m->d_state;
    uint64_t inner = m->n_head * dim, width = inner + 2 * m->n_group * ns;
    uint64_t group = h / (m->n_head / m->n_group);
    struct mamba_head head = { .b = ref_doubles(n_tok * ns),
                               .c = ref_doubles(n_tok * ns),
                               .x = ref_doubles(n_tok * dim),
                               .dt_x = ref_doubles(n_tok * dim),
                               .g = ref_doubles(n_tok) };

    for (uint64_t t = 0; t < n_tok; t++) {
        const double *row = m->xbc + t * width;
        double dt = ref_softplus(m->dt[t * m->n_head + h] + (double)m->dt_bias[h]);
        memcpy(head.x + t * dim, row + h * dim, dim * sizeof *row);
        memcpy(head.b + t * ns, row + inner + group * ns, ns * sizeof *row);
        memcpy(head.c + t * ns, row + inner + (m->n_group + group) * ns, ns * sizeof *row);
        for (uint64_t p = 0; p < dim; p++)
            head.dt_x[t * dim + p] = dt * head.x[t * dim + p];
        head.g[t] = dt * (double)m->ssm_a[h];
    }
    return head;
}

static void mamba_head_destroy(struct mamba_head *h)
{
    free(h->b);
    free(h->c);
    free(h->x);
    free(h->dt_x);
    free(h->g);
}

void ref_mamba(const struct ref_mamba *m, double *y)
{
    uint64_t dim = m->head_dim, ns = m->d_state;

    for (uint32_t h = 0; h < m->n_head; h++) {
        struct mamba_head head = mamba_head_create(m, h);
        double *s = m->state + h * dim * ns;
        for (uint64_t t = 0; t < m->n_tok; t++) {
            const double *b = head.b + t * ns, *c = head.c + t * ns;
            double *out = y + (t * m->n_head + h) * dim, decay = exp(head.g[t]);
            for (uint64_t p = 0; p < dim; p++) {
                double *row = s + p * ns;
                for (uint64_t i = 0; i < ns; i++)
                    row[i] = decay * row[i] + head.dt_x[t * dim + p] * b[i];
                out[p] = ref_dot(row, c, m->d_state) + (double)m->d[h] * head.x[t * dim + p];
            }
        }
        mamba_head_destroy(&head);
    }
}

/* One chunk of n tokens of one head, from token t0 on. Names as in models/README.md, "Mamba2 in
 * chunks": c_i the running sum of dt A, L_ij = exp(c_i - c_j), X = dt x; y is Y_diag + Y_off. */
static void mamba_chunk(const struct ref_mamba *m, const struct mamba_head *h, uint64_t t0,
                        uint64_t n, double *s, double *y)
{
    uint64_t dim = m->head_dim, ns = m->d_state;
    const double *b = h->b + t0 * ns, *c = h->c + t0 * ns, *x = h->dt_x + t0 * dim;
    double *run = ref_doubles(n);

    for (uint64_t i = 0; i < n; i++) {
        double *out = y + (t0 + i) * m->n_head * dim;
        run[i] = h->g[t0 + i] + (i ? run[i - 1] : 0);
        for (uint64_t p = 0; p < dim; p++)
            out[p] = exp(run[i]) * ref_dot(s + p * ns, c + i * ns, m->d_state);
        for (uint64_t j = 0; j <= i; j++) {
            double f = ref_dot(c + i * ns, b + j * ns, m->d_state) * exp(run[i] - run[j]);
            for (uint64_t p = 0; p < dim; p++)
                out[p] += f * x[j * dim + p];
        }
    }
    for (uint64_t i = 0; i < dim * ns; i++)
        s[i] *= exp(run[n - 1]);
    for (uint64_t j = 0; j < n; j++) {
        double rest = exp(run[n - 1] - run[j]);
        for (uint64_t p = 0; p < dim; p++)
            for (uint64_t i = 0; i < ns; i++)
                s[p * ns + i] += x[j * dim + p] * rest * b[j * ns + i];
    }
    free(run);
}

void ref_mamba_chunked(const struct ref_mamba *m, uint32_t chunk, double *y)
{
    uint64_t dim = m->head_dim;
    for (uint32_t h = 0; h < m->n_head; h++) {
        struct mamba_head head = mamba_head_create(m, h);
        for (uint32_t t = 0; t < m->n_tok; t += chunk)
            mamba_chunk(m, &head, t, min_u32(chunk, m->n_tok - t), m->state + h * dim * m->d_state,
                        y + h * dim);
        for (uint64_t t = 0; t < m->n_tok; t++)
            for (uint64_t p = 0; p < dim; p++)
                y[(t * m->n_head + h) * dim + p] += (double)m->d[h] * head.x[t * dim + p];
        mamba_head_destroy(&head);
    }
}

void ref_mamba_norm(double *y, const double *z, const float *w, uint32_t n_tok, uint32_t n_group,
                    uint32_t group_dim, double eps)
{
    uint64_t row = (uint64_t)n_group * group_dim;
    for (uint64_t i = 0; i < n_tok * row; i++)
        y[i] *= ref_silu(z[i]);
    for (uint64_t t = 0; t < n_tok; t++)
        for (uint64_t at = 0; at < row; at += group_dim)
            ref_rmsnorm(y + t * row + at, w + at, group_dim, 1, eps, y + t * row + at);
}

/* ---- feed-forward ----------------------------------------------------------------------- */

void ref_swiglu(const double *gate, const double *up, uint64_t n, double *y)
{
    for (uint64_t i = 0; i < n; i++)
        y[i] = ref_silu(gate[i]) * up[i];
}

void ref_swiglu_limit(const double *gate, const double *up, uint64_t n, double limit, double *y)
{
    if (limit == 0) {
        ref_swiglu(gate, up, n, y);
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        y[i] = fmin(ref_silu(gate[i]), limit) * fmax(fmin(up[i], limit), -limit);
}

void ref_ffn(const struct ref_ffn *f, const double *x, uint32_t n_tok, double *y)
{
    uint64_t n = (uint64_t)n_tok * f->n_ff;
    double *up = ref_doubles(n);

    ref_linear(f->up, f->n_embd, f->n_ff, x, n_tok, up);
    ref_add_bias(f->up_bias, f->n_ff, n_tok, up);
    if (f->gate) {
        double *gate = ref_doubles(n);
        ref_linear(f->gate, f->n_embd, f->n_ff, x, n_tok, gate);
        ref_swiglu_limit(gate, up, n, f->limit, up);
        free(gate);
    } else {
        for (uint64_t i = 0; i < n; i++)
            up[i] = ref_relu2(up[i]);
    }
    ref_linear(f->down, f->n_ff, f->n_embd, up, n_tok, y);
    ref_add_bias(f->down_bias, f->n_embd, n_tok, y);
    free(up);
}

/* The n_used largest of score, the largest first, the lower index of equals. Their score becomes
 * -inf. */
static void take_top(double *score, uint32_t n, uint32_t n_used, uint32_t *id)
{
    for (uint32_t i = 0; i < n_used; i++) {
        id[i] = 0;
        for (uint32_t e = 1; e < n; e++)
            if (score[e] > score[id[i]])
                id[i] = e;
        score[id[i]] = -INFINITY;
    }
}

void ref_moe_route(const double *logits, uint32_t n_expert, uint32_t n_used, uint32_t *id,
                   double *weight)
{
    double *p = ref_doubles(2 * (uint64_t)n_expert), *score = p + n_expert;
    double top = -INFINITY, all = 0, chosen = 0;

    for (uint32_t e = 0; e < n_expert; e++)
        top = fmax(top, logits[e]);
    for (uint32_t e = 0; e < n_expert; e++)
        all += p[e] = exp(logits[e] - top);
    for (uint32_t e = 0; e < n_expert; e++)
        score[e] = p[e] /= all;
    take_top(score, n_expert, n_used, id);
    for (uint32_t i = 0; i < n_used; i++)
        chosen += weight[i] = p[id[i]];
    for (uint32_t i = 0; i < n_used; i++)
        weight[i] /= chosen;
    free(p);
}

/* Sets the scores of experts outside the n_used best groups to -inf. */
static void keep_groups(double *choice, uint32_t n_expert, uint32_t n_group, uint32_t n_used)
{
    uint32_t size = n_expert / n_group, *best = mem_alloc(n_used, sizeof *best);
    double *score = ref_doubles(n_group), *kept = ref_doubles(n_expert);
    HLM_ASSERT(best != NULL);

    for (uint32_t g = 0; g < n_group; g++) {
        double first = -INFINITY, second = -INFINITY;
        for (uint32_t e = g * size; e < (g + 1) * size; e++) {
            second = fmax(second, fmin(first, choice[e]));
            first = fmax(first, choice[e]);
        }
        score[g] = size > 1 ? first + second : first;
    }
    take_top(score, n_group, n_used, best);
    for (uint32_t e = 0; e < n_expert; e++)
        kept[e] = -INFINITY;
    for (uint32_t i = 0; i < n_used; i++)
        memcpy(kept + best[i] * size, choice + best[i] * size, size * sizeof *kept);
    memcpy(choice, kept, n_expert * sizeof *kept);
    free(best);
    free(score);
    free(kept);
}

void ref_moe_route_sigmoid(const double *logits, const float *bias, uint32_t n_expert,
                           uint32_t n_used, uint32_t n_group, uint32_t n_group_used, bool norm,
                           double scale, uint32_t *id, double *weight)
{
    double *choice = ref_doubles(n_expert), sum = 1e-20;

    for (uint32_t e = 0; e < n_expert; e++)
        choice[e] = ref_sigmoid(logits[e]) + (bias ? (double)bias[e] : 0);
    if (n_group > 1)
        keep_groups(choice, n_expert, n_group, n_group_used);
    take_top(choice, n_expert, n_used, id);
    for (uint32_t i = 0; i < n_used; i++)
        sum += weight[i] = ref_sigmoid(logits[id[i]]);
    for (uint32_t i = 0; i < n_used; i++)
        weight[i] *= norm ? scale / sum : scale;
    free(choice);
}

/* The routed experts of one token, summed. in and y [ref_moe_width()]. */
static void experts(const struct ref_moe *m, const uint32_t *id, const double *weight,
                    const double *in, double *y)
{
    uint32_t width = ref_moe_width(m);
    double *one = ref_doubles(width);

    memset(y, 0, width * sizeof *y);
    for (uint32_t i = 0; i < m->n_used; i++) {
        struct ref_ffn f = ref_moe_expert(m, id[i]);
        ref_ffn(&f, in, 1, one);
        for (uint32_t c = 0; c < width; c++)
            y[c] += weight[i] * one[c];
    }
    free(one);
}

static void add_shared(const struct ref_moe *m, const double *in, double *y)
{
    struct ref_ffn f = ref_moe_shared(m);
    double *one = ref_doubles(m->n_embd), share = 1;

    if (m->shared_router) {
        ref_linear(m->shared_router, m->n_embd, 1, in, 1, &share);
        share = ref_sigmoid(share);
    }
    ref_ffn(&f, in, 1, one);
    for (uint32_t c = 0; c < m->n_embd; c++)
        y[c] += share * one[c];
    free(one);
}

void ref_moe(const struct ref_moe *m, const double *x, uint32_t n_tok, double *y)
{
    double *logits = ref_doubles(m->n_expert), *weight = ref_doubles(m->n_used);
    double *low = ref_doubles(2 * (uint64_t)m->n_latent), *low_sum = low + m->n_latent;
    uint32_t *id = mem_alloc(m->n_used, sizeof *id);
    HLM_ASSERT(id != NULL);

    for (uint64_t t = 0; t < n_tok; t++) {
        const double *in = x + t * m->n_embd;
        double *out = y + t * m->n_embd;
        ref_linear(m->router, m->n_embd, m->n_expert, in, 1, logits);
        ref_moe_choose(m, logits, id, weight);
        for (uint32_t i = 0; m->load && i < m->n_used; i++)
            m->load[id[i]]++;
        if (m->n_latent) {
            ref_linear(m->latent_down, m->n_embd, m->n_latent, in, 1, low);
            experts(m, id, weight, low, low_sum);
            ref_linear(m->latent_up, m->n_latent, m->n_embd, low_sum, 1, out);
        } else {
            experts(m, id, weight, in, out);
        }
        if (m->shared_up)
            add_shared(m, in, out);
    }
    free(logits);
    free(weight);
    free(low);
    free(id);
}
