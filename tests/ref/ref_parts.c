/* ref_parts: see ref_parts.h. Sums run in index order, as everywhere in the reference. */
#include "ref/ref_parts.h"

#include <math.h>
#include <string.h>

double *ref_doubles(uint64_t n)
{
    double *p = mem_alloc(n ? n : 1, sizeof *p);
    HLM_ASSERT(p != NULL);
    return p;
}

double ref_dot(const double *a, const double *b, uint64_t n)
{
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

void ref_add_bias(const float *bias, uint32_t n, uint32_t n_row, double *y)
{
    for (uint64_t i = 0; bias && i < (uint64_t)n_row * n; i++)
        y[i] += (double)bias[i % n];
}

/* ---- columns ---------------------------------------------------------------------------- */

void ref_put_columns(const double *rows, uint64_t width, uint64_t from, uint64_t n, uint64_t n_row,
                     double *y)
{
    for (uint64_t r = 0; r < n_row; r++)
        memcpy(y + r * n, rows + r * width + from, n * sizeof *y);
}

double *ref_columns(const double *rows, uint64_t width, uint64_t from, uint64_t n, uint64_t n_row)
{
    double *y = ref_doubles(n_row * n);
    ref_put_columns(rows, width, from, n, n_row, y);
    return y;
}

void ref_add_columns(const double *y, uint64_t width, uint64_t from, uint64_t n, uint64_t n_row,
                     double *rows)
{
    for (uint64_t r = 0; r < n_row; r++)
        for (uint64_t i = 0; i < n; i++)
            rows[r * width + from + i] += y[r * n + i];
}

/* ---- mixers ----------------------------------------------------------------------------- */

void ref_attend(const struct ref_query *a, double *y)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < a->n_key; j++) {
        a->p[j] = ref_dot(a->q, a->k + j * a->stride, a->dim) / sqrt(a->dim);
        top = fmax(top, a->p[j]);
    }
    for (uint32_t j = 0; j < a->n_key; j++)
        sum += a->p[j] = exp(a->p[j] - top);
    memset(y, 0, a->dim * sizeof *y);
    for (uint32_t j = 0; j < a->n_key; j++) {
        a->p[j] /= sum;
        for (uint32_t i = 0; i < a->dim; i++)
            y[i] += a->p[j] * a->v[j * a->stride + i];
    }
}

uint64_t ref_k_head(const struct ref_delta *d, uint64_t j)
{
    return d->tiled ? j % d->n_k_head : j / (d->n_v_head / d->n_k_head);
}

void ref_delta_gate(const struct ref_delta *d, uint64_t t, uint64_t j, double *beta, double *g)
{
    uint64_t at = t * d->n_v_head + j;
    *beta = ref_sigmoid(d->b[at]);
    *g = (double)d->ssm_a[j] * ref_softplus(d->a[at] + (double)d->dt_bias[j]);
}

/* ---- experts ---------------------------------------------------------------------------- */

uint32_t ref_moe_width(const struct ref_moe *m) { return m->n_latent ? m->n_latent : m->n_embd; }

struct ref_ffn ref_moe_expert(const struct ref_moe *m, uint64_t e)
{
    uint32_t n_in = ref_moe_width(m);
    uint64_t at = e * n_in * m->n_ff;
    return (struct ref_ffn){ .n_embd = n_in,
                             .n_ff = m->n_ff,
                             .gate = m->gate ? m->gate + at : NULL,
                             .up = m->up + at,
                             .down = m->down + at,
                             .limit = m->limit };
}

struct ref_ffn ref_moe_shared(const struct ref_moe *m)
{
    return (struct ref_ffn){ .n_embd = m->n_embd,
                             .n_ff = m->n_ff_shared,
                             .gate = m->shared_gate,
                             .up = m->shared_up,
                             .down = m->shared_down,
                             .limit = m->shared_limit };
}

void ref_moe_choose(const struct ref_moe *m, const double *logits, uint32_t *id, double *weight)
{
    if (m->sigmoid)
        ref_moe_route_sigmoid(logits, m->router_bias, m->n_expert, m->n_used, m->n_group,
                              m->n_group_used, m->norm, m->scale, id, weight);
    else
        ref_moe_route(logits, m->n_expert, m->n_used, id, weight);
}

/* ---- documents and chunks --------------------------------------------------------------- */

void ref_start_state(const uint32_t *first, uint64_t t, const double *past, uint64_t n, double *s)
{
    if (first ? first[t] != t : t != 0)
        return;
    if (!first && past)
        memcpy(s, past, n * sizeof *s);
    else
        memset(s, 0, n * sizeof *s);
}

uint64_t ref_chunk_length(const uint32_t *first, uint64_t n_tok, uint64_t chunk, uint64_t t)
{
    uint64_t n = 1;
    while (n < chunk && t + n < n_tok && !(first && first[t + n] == t + n))
        n++;
    return n;
}
