/* ref_bwd: backward of linear, norms, rotation, loss, attention and convolution.
 *
 * Each function recomputes what it needs of the forward. Read ref_bwd.h first. */
#include "ref/ref_bwd.h"
#include "ref/ref_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double ref_silu_bwd(double x)
{
    double s = ref_sigmoid(x);
    return s * (1 + x * (1 - s));
}
double ref_softplus_bwd(double x) { return x > 20 ? 1 : ref_sigmoid(x); }

/* ---- linear ----------------------------------------------------------------------------- */

/* y += f M x for M [n_out, n_in]; its transpose y += f M^T x; and the outer product
 * M += f x (x) y, M [n_x, n_y]. */
static void mul_add(const double *m, uint32_t n_in, uint32_t n_out, double f, const double *x,
                    double *y)
{
    for (uint64_t o = 0; o < n_out; o++)
        y[o] += f * ref_dot(m + o * n_in, x, n_in);
}
static void mul_add_t(const double *m, uint32_t n_in, uint32_t n_out, double f, const double *x,
                      double *y)
{
    for (uint64_t o = 0; o < n_out; o++)
        for (uint64_t i = 0; i < n_in; i++)
            y[i] += f * m[o * n_in + i] * x[o];
}
static void outer_add(double *m, double f, const double *x, uint32_t n_x, const double *y,
                      uint32_t n_y)
{
    for (uint64_t i = 0; m && i < n_x; i++)
        for (uint64_t j = 0; j < n_y; j++)
            m[i * n_y + j] += f * x[i] * y[j];
}

void ref_linear_lora(const float *w, uint32_t n_in, uint32_t n_out, const struct ref_lora *l,
                     const double *x, uint32_t n_tok, double *y)
{
    ref_linear(w, n_in, n_out, x, n_tok, y);
    if (!l || !l->rank)
        return;
    double *low = ref_doubles(l->rank);
    for (uint64_t t = 0; t < n_tok; t++) {
        memset(low, 0, l->rank * sizeof *low);
        mul_add(l->a, n_in, l->rank, 1, x + t * n_in, low);
        mul_add(l->b, l->rank, n_out, l->scale, low, y + t * n_out);
    }
    free(low);
}

void ref_linear_bwd(const float *w, uint32_t n_in, uint32_t n_out, const struct ref_lora *l,
                    const double *x, uint32_t n_tok, const double *dy, double *dx)
{
    for (uint64_t t = 0; dx && t < n_tok; t++)
        for (uint64_t o = 0; o < n_out; o++)
            for (uint64_t i = 0; i < n_in; i++)
                dx[t * n_in + i] += (double)w[o * n_in + i] * dy[t * n_out + o];
    if (!l || !l->rank)
        return;
    double *low = ref_doubles(2 * (uint64_t)l->rank), *dlow = low + l->rank;
    for (uint64_t t = 0; t < n_tok; t++) {
        memset(low, 0, 2 * l->rank * sizeof *low);
        mul_add(l->a, n_in, l->rank, 1, x + t * n_in, low);
        mul_add_t(l->b, l->rank, n_out, l->scale, dy + t * n_out, dlow);
        outer_add(l->db, l->scale, dy + t * n_out, n_out, low, l->rank);
        outer_add(l->da, 1, dlow, l->rank, x + t * n_in, n_in);
        if (dx)
            mul_add_t(l->a, n_in, l->rank, 1, dlow, dx + t * n_in);
    }
    free(low);
}

/* ---- norms ------------------------------------------------------------------------------ */

/* y_i = s x_i w_i with s = (mean x^2 + eps)^-1/2, so ds/dx_i = -s^3 x_i / dim. */
void ref_rmsnorm_bwd(const double *x, const float *w, uint32_t dim, uint32_t n_row, double eps,
                     const double *dy, double *dx)
{
    for (uint64_t r = 0; r < n_row; r++, x += dim, dy += dim, dx += dim) {
        double s = 1 / sqrt(ref_dot(x, x, dim) / dim + eps), along = 0;
        for (uint32_t i = 0; i < dim; i++)
            along += x[i] * (double)w[i] * dy[i];
        for (uint32_t i = 0; i < dim; i++)
            dx[i] += s * (double)w[i] * dy[i] - s * s * s / dim * x[i] * along;
    }
}

void ref_l2norm_bwd(const double *x, uint32_t dim, uint32_t n_row, double scale, const double *dy,
                    double *dx)
{
    for (uint64_t r = 0; r < n_row; r++, x += dim, dy += dim, dx += dim) {
        double s = 1 / sqrt(ref_dot(x, x, dim) + 1e-6), along = ref_dot(x, dy, dim);
        for (uint32_t i = 0; i < dim; i++)
            dx[i] += scale * (s * dy[i] - s * s * s * x[i] * along);
    }
}

void ref_gated_norm_bwd(const double *o, const double *z, const float *w, uint32_t dim,
                        uint32_t n_row, double eps, const double *dy, double *d_o, double *dz)
{
    uint64_t n = (uint64_t)n_row * dim;
    double *normed = ref_doubles(n), *dnormed = ref_doubles(n);

    ref_rmsnorm(o, w, dim, n_row, eps, normed);
    for (uint64_t i = 0; i < n; i++) {
        dnormed[i] = dy[i] * ref_silu(z[i]);
        if (dz)
            dz[i] += dy[i] * normed[i] * ref_silu_bwd(z[i]);
    }
    ref_rmsnorm_bwd(o, w, dim, n_row, eps, dnormed, d_o);
    free(normed);
    free(dnormed);
}

void ref_mamba_norm_bwd(const double *y, const double *z, const float *w, uint32_t n_tok,
                        uint32_t n_group, uint32_t group_dim, double eps, const double *dout,
                        double *dy, double *dz)
{
    uint64_t row = (uint64_t)n_group * group_dim, n = n_tok * row;
    double *gated = ref_doubles(n), *dgated = ref_doubles(n);

    for (uint64_t i = 0; i < n; i++)
        gated[i] = y[i] * ref_silu(z[i]);
    for (uint64_t at = 0; at < n; at += group_dim)
        ref_rmsnorm_bwd(gated + at, w + at % row, group_dim, 1, eps, dout + at, dgated + at);
    for (uint64_t i = 0; i < n; i++) {
        dy[i] += dgated[i] * ref_silu(z[i]);
        if (dz)
            dz[i] += dgated[i] * y[i] * ref_silu_bwd(z[i]);
    }
    free(gated);
    free(dgated);
}

void ref_rope_bwd(const float *freq, uint32_t n_rot, uint32_t pos, uint32_t n_head,
                  uint32_t head_dim, double *dx)
{
    uint32_t half = n_rot / 2;
    for (uint32_t h = 0; h < n_head; h++) {
        double *lo = dx + (uint64_t)h * head_dim, *hi = lo + half;
        for (uint32_t i = 0; i < half; i++) {
            double angle = (double)pos * (double)freq[i], c = cos(angle), s = sin(angle);
            double a = lo[i], b = hi[i];
            lo[i] = a * c + b * s;
            hi[i] = b * c - a * s;
        }
    }
}

/* ---- loss ------------------------------------------------------------------------------- */

double ref_nll(const double *logits, const int32_t *target, uint32_t n_tok, uint32_t n_vocab,
               double scale, double *nll, double *dlogits)
{
    double total = 0;
    for (uint64_t t = 0; t < n_tok; t++) {
        const double *row = logits + t * n_vocab;
        double top = -INFINITY, sum = 0;
        if (nll)
            nll[t] = 0;
        if (target[t] < 0)
            continue;
        for (uint32_t i = 0; i < n_vocab; i++)
            top = fmax(top, row[i]);
        for (uint32_t i = 0; i < n_vocab; i++)
            sum += exp(row[i] - top);
        double loss = log(sum) + top - row[target[t]];
        total += loss;
        if (nll)
            nll[t] = loss;
        for (uint32_t i = 0; dlogits && i < n_vocab; i++)
            dlogits[t * n_vocab + i] +=
                scale * (exp(row[i] - top) / sum - (i == (uint32_t)target[t]));
    }
    return total;
}

/* ---- attention -------------------------------------------------------------------------- */

/* dk and dv begin at the first key, as k and v do; dp: room for n_key. With o = sum p_j v_j and
 * p = softmax(s):  ds_j = p_j (do . v_j - sum_i p_i do . v_i). */
struct query_grad {
    double *dp, *dq, *dk, *dv;
};

static void attend_bwd(const struct ref_query *a, const double *d_o, const struct query_grad *g)
{
    double mean = 0;
    for (uint32_t j = 0; j < a->n_key; j++) {
        g->dp[j] = ref_dot(d_o, a->v + j * a->stride, a->dim);
        mean += a->p[j] * g->dp[j];
    }
    for (uint32_t j = 0; j < a->n_key; j++) {
        double ds = a->p[j] * (g->dp[j] - mean) / sqrt(a->dim);
        for (uint32_t i = 0; i < a->dim; i++) {
            if (g->dq)
                g->dq[i] += ds * a->k[j * a->stride + i];
            if (g->dk)
                g->dk[j * a->stride + i] += ds * a->q[i];
            if (g->dv)
                g->dv[j * a->stride + i] += a->p[j] * d_o[i];
        }
    }
}

/* Through the gates of head h of token t, y = o sigmoid(gate) sigmoid(head_gate): the gradient of o
 * goes to d_o. */
static void gates_bwd(const struct ref_attention *a, uint64_t head, const double *o,
                      const double *dy, const struct ref_attention_grad *g, double *d_o)
{
    uint64_t at = head * a->head_dim;
    double s_head = a->head_gate ? ref_sigmoid(a->head_gate[head]) : 1, along = 0;

    for (uint32_t i = 0; i < a->head_dim; i++) {
        double s = a->gate ? ref_sigmoid(a->gate[at + i]) : 1;
        d_o[i] = dy[at + i] * s * s_head;
        along += dy[at + i] * o[i] * s;
        if (g->dgate)
            g->dgate[at + i] += dy[at + i] * o[i] * s_head * s * (1 - s);
    }
    if (g->dhead_gate)
        g->dhead_gate[head] += along * s_head * (1 - s_head);
}

void ref_attention_bwd(const struct ref_attention *a, const uint32_t *first, const double *dy,
                       const struct ref_attention_grad *g)
{
    uint64_t hd = a->head_dim, n_all = (uint64_t)a->n_past + a->n_tok;
    double *p = ref_doubles(2 * n_all), *o = ref_doubles(2 * hd), *d_o = o + hd;

    HLM_ASSERT(!first || a->n_past == 0);
    for (uint32_t t = 0; t < a->n_tok; t++) {
        uint32_t end = a->n_past + t + 1, from = first ? first[t] : 0;
        if (a->window && end - from > a->window)
            from = end - a->window;
        for (uint64_t h = 0; h < a->n_head; h++) {
            uint64_t head = t * (uint64_t)a->n_head + h;
            uint64_t kv = (from * (uint64_t)a->n_kv_head + h / (a->n_head / a->n_kv_head)) * hd;
            struct ref_query q = { .q = a->q + head * hd,
                                   .k = a->k + kv,
                                   .v = a->v + kv,
                                   .stride = a->n_kv_head * hd,
                                   .n_key = end - from,
                                   .dim = a->head_dim,
                                   .p = p };
            struct query_grad d = { .dp = p + n_all,
                                    .dq = g->dq ? g->dq + head * hd : NULL,
                                    .dk = g->dk ? g->dk + kv : NULL,
                                    .dv = g->dv ? g->dv + kv : NULL };
            ref_attend(&q, o);
            gates_bwd(a, head, o, dy, g, d_o);
            attend_bwd(&q, d_o, &d);
        }
    }
    free(p);
    free(o);
}

/* ---- convolution ------------------------------------------------------------------------ */

void ref_conv_silu_bwd(const struct ref_conv *c, const uint32_t *first, const double *dy,
                       double *dx, double *dwindow)
{
    uint64_t n_ch = c->n_ch, n_past = c->conv_k - 1;

    for (uint64_t t = 0; t < c->n_tok; t++) {
        for (uint64_t ch = 0; ch < n_ch; ch++) {
            const float *w = c->w + ch * c->conv_k;
            double sum = c->bias ? (double)c->bias[ch] : 0;
            /* tap j reads row t + j of the window followed by x */
            uint64_t j0 = first && t - first[t] < n_past ? n_past - (t - first[t]) : 0;
            for (uint64_t j = j0, r = t + j0; j < c->conv_k; j++, r++)
                sum += (double)w[j] *
                       (r < n_past ? c->window[r * n_ch + ch] : c->x[(r - n_past) * n_ch + ch]);
            double dsum = dy[t * n_ch + ch] * ref_silu_bwd(sum);
            for (uint64_t j = j0, r = t + j0; j < c->conv_k; j++, r++) {
                if (r >= n_past)
                    dx[(r - n_past) * n_ch + ch] += (double)w[j] * dsum;
                else if (dwindow)
                    dwindow[r * n_ch + ch] += (double)w[j] * dsum;
            }
        }
    }
}
