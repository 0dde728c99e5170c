/* ref_bwd_ffn: MLPs and mixtures of experts with adapters, forward and backward (models/README.md,
 * "Shared operations" and the two routers).
 *
 * The forward of ref_ops.c has no adapters; this one has. Without any it gives the same bits
 * (test_ref_bwd.c). Read ref_bwd.h first. */
#include "ref/ref_bwd.h"
#include "ref/ref_parts.h"

#include <stdlib.h>
#include <string.h>

void ref_swiglu_limit_bwd(const double *gate, const double *up, uint64_t n, double limit,
                          const double *dy, double *dgate, double *dup)
{
    for (uint64_t i = 0; i < n; i++) {
        double g = ref_silu(gate[i]), u = up[i];
        bool g_free = limit == 0 || g <= limit, u_free = limit == 0 || (u <= limit && u >= -limit);
        if (g_free)
            dgate[i] += dy[i] * ref_silu_bwd(gate[i]) * (u_free ? u : u > 0 ? limit : -limit);
        if (u_free)
            dup[i] += dy[i] * (g_free ? g : limit);
    }
}

void ref_relu2_bwd(const double *x, uint64_t n, const double *dy, double *dx)
{
    for (uint64_t i = 0; i < n; i++)
        dx[i] += x[i] > 0 ? 2 * x[i] * dy[i] : 0;
}

/* ---- MLP -------------------------------------------------------------------------------- */

/* [n_tok, n_ff] each: gate x, up x, and what goes into down. gate is NULL for relu2. */
struct hidden {
    double *gate, *up, *act;
};

static struct hidden hidden_create(const struct ref_ffn *f, const struct ref_ffn_lora *lora,
                                   const double *x, uint32_t n_tok)
{
    uint64_t n = (uint64_t)n_tok * f->n_ff;
    struct hidden h = { .up = ref_doubles(n), .act = ref_doubles(n) };

    ref_linear_lora(f->up, f->n_embd, f->n_ff, lora ? &lora->up : NULL, x, n_tok, h.up);
    ref_add_bias(f->up_bias, f->n_ff, n_tok, h.up);
    if (f->gate) {
        h.gate = ref_doubles(n);
        ref_linear_lora(f->gate, f->n_embd, f->n_ff, lora ? &lora->gate : NULL, x, n_tok, h.gate);
        ref_swiglu_limit(h.gate, h.up, n, f->limit, h.act);
    } else {
        for (uint64_t i = 0; i < n; i++)
            h.act[i] = ref_relu2(h.up[i]);
    }
    return h;
}

static void hidden_destroy(struct hidden *h)
{
    free(h->gate);
    free(h->up);
    free(h->act);
}

void ref_ffn_lora(const struct ref_ffn *f, const struct ref_ffn_lora *lora, const double *x,
                  uint32_t n_tok, double *y)
{
    struct hidden h = hidden_create(f, lora, x, n_tok);
    ref_linear_lora(f->down, f->n_ff, f->n_embd, lora ? &lora->down : NULL, h.act, n_tok, y);
    ref_add_bias(f->down_bias, f->n_embd, n_tok, y);
    hidden_destroy(&h);
}

void ref_ffn_bwd(const struct ref_ffn *f, const struct ref_ffn_lora *lora, const double *x,
                 uint32_t n_tok, const double *dy, double *dx)
{
    uint64_t n = (uint64_t)n_tok * f->n_ff;
    struct hidden h = hidden_create(f, lora, x, n_tok);
    struct hidden d = { .gate = ref_doubles(n), .up = ref_doubles(n), .act = ref_doubles(n) };

    ref_linear_bwd(f->down, f->n_ff, f->n_embd, lora ? &lora->down : NULL, h.act, n_tok, dy, d.act);
    if (f->gate) {
        ref_swiglu_limit_bwd(h.gate, h.up, n, f->limit, d.act, d.gate, d.up);
        ref_linear_bwd(f->gate, f->n_embd, f->n_ff, lora ? &lora->gate : NULL, x, n_tok, d.gate,
                       dx);
    } else {
        ref_relu2_bwd(h.up, n, d.act, d.up);
    }
    ref_linear_bwd(f->up, f->n_embd, f->n_ff, lora ? &lora->up : NULL, x, n_tok, d.up, dx);
    hidden_destroy(&h);
    hidden_destroy(&d);
}

/* ---- routers ---------------------------------------------------------------------------- */

/* p / sum of the chosen p is the softmax of the chosen logits. */
void ref_moe_route_bwd(const double *weight, const uint32_t *id, uint32_t n_used,
                       const double *dweight, double *dlogits)
{
    double mean = 0;
    for (uint32_t i = 0; i < n_used; i++)
        mean += weight[i] * dweight[i];
    for (uint32_t i = 0; i < n_used; i++)
        dlogits[id[i]] += weight[i] * (dweight[i] - mean);
}

/* w_i = scale s_i / S with S = sum s + 1e-20 under norm, else scale s_i; s' = s (1 - s). */
void ref_moe_route_sigmoid_bwd(const double *logits, const uint32_t *id, uint32_t n_used, bool norm,
                               double scale, const double *dweight, double *dlogits)
{
    double sum = 1e-20, along = 0;
    for (uint32_t i = 0; i < n_used; i++) {
        double s = ref_sigmoid(logits[id[i]]);
        sum += s;
        along += dweight[i] * s;
    }
    for (uint32_t i = 0; i < n_used; i++) {
        double s = ref_sigmoid(logits[id[i]]);
        double ds = norm ? scale * (dweight[i] / sum - along / (sum * sum)) : scale * dweight[i];
        dlogits[id[i]] += ds * s * (1 - s);
    }
}

/* ---- mixture of experts ----------------------------------------------------------------- */

/* The adapter of one expert, from the stack. */
static struct ref_lora of_expert(const struct ref_lora *l, uint64_t e, uint32_t n_in,
                                 uint32_t n_out)
{
    uint64_t a = e * l->rank * n_in, b = e * l->rank * n_out;
    struct ref_lora one = *l;
    if (!l->rank)
        return one;
    one.a += a;
    one.b += b;
    one.da = l->da ? l->da + a : NULL;
    one.db = l->db ? l->db + b : NULL;
    return one;
}

/* One token after its experts are chosen: logits, ids and weights, what the experts read, the sum
 * of their outputs, and the factor of the shared expert. */
struct token {
    const struct ref_moe *m;
    const struct ref_moe_lora *lora;
    uint32_t n_in, *id;
    double *logits, *weight, *low, *sum, *one, share;
};

static struct token token_create(const struct ref_moe *m, const struct ref_moe_lora *lora)
{
    static const struct ref_moe_lora none = { 0 };
    uint32_t n_in = ref_moe_width(m);
    struct token k = { .m = m,
                       .lora = lora ? lora : &none,
                       .n_in = n_in,
                       .id = mem_alloc(m->n_used, sizeof *k.id),
                       .logits = ref_doubles(m->n_expert),
                       .weight = ref_doubles(m->n_used),
                       .low = ref_doubles(n_in),
                       .sum = ref_doubles(n_in),
                       .one = ref_doubles(m->n_embd > n_in ? m->n_embd : n_in) };
    HLM_ASSERT(k.id != NULL);
    return k;
}

static void token_destroy(struct token *k)
{
    free(k->id);
    free(k->logits);
    free(k->weight);
    free(k->low);
    free(k->sum);
    free(k->one);
}

static void token_route(struct token *k, const double *x)
{
    const struct ref_moe *m = k->m;

    ref_linear_lora(m->router, m->n_embd, m->n_expert, &k->lora->router, x, 1, k->logits);
    ref_moe_choose(m, k->logits, k->id, k->weight);
    if (m->n_latent)
        ref_linear_lora(m->latent_down, m->n_embd, m->n_latent, &k->lora->latent_down, x, 1,
                        k->low);
    else
        memcpy(k->low, x, m->n_embd * sizeof *x);
    k->share = 1;
    if (m->shared_router) {
        ref_linear_lora(m->shared_router, m->n_embd, 1, &k->lora->shared_router, x, 1, &k->share);
        k->share = ref_sigmoid(k->share);
    }
}

static struct ref_ffn expert(const struct token *k, uint64_t e, struct ref_ffn_lora *lora)
{
    const struct ref_moe *m = k->m;
    const struct ref_ffn_lora *all = &k->lora->experts;

    *lora = (struct ref_ffn_lora){ .gate = of_expert(&all->gate, e, k->n_in, m->n_ff),
                                   .up = of_expert(&all->up, e, k->n_in, m->n_ff),
                                   .down = of_expert(&all->down, e, m->n_ff, k->n_in) };
    return ref_moe_expert(m, e);
}

/* The chosen experts' weighted sum, in k->sum. */
static void token_experts(struct token *k)
{
    memset(k->sum, 0, k->n_in * sizeof *k->sum);
    for (uint32_t i = 0; i < k->m->n_used; i++) {
        struct ref_ffn_lora lora;
        struct ref_ffn f = expert(k, k->id[i], &lora);
        ref_ffn_lora(&f, &lora, k->low, 1, k->one);
        for (uint32_t c = 0; c < k->n_in; c++)
            k->sum[c] += k->weight[i] * k->one[c];
    }
}

void ref_moe_lora(const struct ref_moe *m, const struct ref_moe_lora *lora, const double *x,
                  uint32_t n_tok, double *y)
{
    struct token k = token_create(m, lora);

    for (uint64_t t = 0; t < n_tok; t++, x += m->n_embd, y += m->n_embd) {
        token_route(&k, x);
        token_experts(&k);
        if (m->n_latent)
            ref_linear_lora(m->latent_up, m->n_latent, m->n_embd, &k.lora->latent_up, k.sum, 1, y);
        else
            memcpy(y, k.sum, m->n_embd * sizeof *y);
        if (!m->shared_up)
            continue;
        struct ref_ffn f = ref_moe_shared(m);
        ref_ffn_lora(&f, &k.lora->shared, x, 1, k.one);
        for (uint32_t c = 0; c < m->n_embd; c++)
            y[c] += k.share * k.one[c];
    }
    token_destroy(&k);
}

/* dsum is the gradient of the sum of the experts. Adds to dlow, the gradient of what they read, and
 * through the router to dx. */
static void experts_bwd(struct token *k, const double *x, const double *dsum, double *dlow,
                        double *dx)
{
    const struct ref_moe *m = k->m;
    double *dweight = ref_doubles(m->n_used), *dlogits = ref_doubles(m->n_expert),
           *dy = ref_doubles(k->n_in);

    for (uint32_t i = 0; i < m->n_used; i++) {
        struct ref_ffn_lora lora;
        struct ref_ffn f = expert(k, k->id[i], &lora);
        ref_ffn_lora(&f, &lora, k->low, 1, k->one);
        for (uint32_t c = 0; c < k->n_in; c++) {
            dweight[i] += dsum[c] * k->one[c];
            dy[c] = k->weight[i] * dsum[c];
        }
        ref_ffn_bwd(&f, &lora, k->low, 1, dy, dlow);
    }
    if (m->sigmoid)
        ref_moe_route_sigmoid_bwd(k->logits, k->id, m->n_used, m->norm, m->scale, dweight, dlogits);
    else
        ref_moe_route_bwd(k->weight, k->id, m->n_used, dweight, dlogits);
    ref_linear_bwd(m->router, m->n_embd, m->n_expert, &k->lora->router, x, 1, dlogits, dx);
    free(dweight);
    free(dlogits);
    free(dy);
}

/* y += share * ffn(x), share = sigmoid(shared_router . x) or 1. */
static void shared_bwd(struct token *k, const double *x, const double *dy, double *dx)
{
    const struct ref_moe *m = k->m;
    struct ref_ffn f = ref_moe_shared(m);
    double *dout = ref_doubles(m->n_embd), dshare = 0;

    ref_ffn_lora(&f, &k->lora->shared, x, 1, k->one);
    for (uint32_t c = 0; c < m->n_embd; c++) {
        dshare += dy[c] * k->one[c];
        dout[c] = k->share * dy[c];
    }
    ref_ffn_bwd(&f, &k->lora->shared, x, 1, dout, dx);
    dshare *= k->share * (1 - k->share);
    if (m->shared_router)
        ref_linear_bwd(m->shared_router, m->n_embd, 1, &k->lora->shared_router, x, 1, &dshare, dx);
    free(dout);
}

void ref_moe_bwd(const struct ref_moe *m, const struct ref_moe_lora *lora, const double *x,
                 uint32_t n_tok, const double *dy, double *dx)
{
    struct token k = token_create(m, lora);
    double *dsum = ref_doubles(k.n_in), *dlow = ref_doubles(k.n_in);

    for (uint64_t t = 0; t < n_tok; t++, x += m->n_embd, dy += m->n_embd, dx += m->n_embd) {
        token_route(&k, x);
        if (m->n_latent) {
            token_experts(&k);
            memset(dsum, 0, k.n_in * sizeof *dsum);
            memset(dlow, 0, k.n_in * sizeof *dlow);
            ref_linear_bwd(m->latent_up, m->n_latent, m->n_embd, &k.lora->latent_up, k.sum, 1, dy,
                           dsum);
            experts_bwd(&k, x, dsum, dlow, dx);
            ref_linear_bwd(m->latent_down, m->n_embd, m->n_latent, &k.lora->latent_down, x, 1, dlow,
                           dx);
        } else {
            experts_bwd(&k, x, dy, dx, dx);
        }
        if (m->shared_up)
            shared_bwd(&k, x, dy, dx);
    }
    free(dsum);
    free(dlow);
    token_destroy(&k);
}
