/* ref_model: whole models in double, on ref_ops.c - what a sequence keeps, and the forward pass
 * (models/README.md, "Qwen blocks", "Nemotron blocks", "Step blocks").
 *
 * One block() for all families: a layer says what it has (ref_model.h), nothing here asks for an
 * architecture. MTP blocks and images are not its business. */
#include "ref/ref_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- state ------------------------------------------------------------------------------ */

struct layer_state {
    double *k, *v;  /* attention: [pos, n_kv_head, head_dim], grown by every call */
    double *window; /* delta net, Mamba2: [conv_k - 1, conv_width] */
    double *ssm;    /* delta net: [n_ssm_head, d_state, ssm_dim], Mamba2: [.., ssm_dim, d_state] */
};

struct ref_state {
    uint32_t n_layer, pos;
    struct layer_state *layer;
    struct ref_told *told;
};

static double *doubles(uint64_t n)
{
    double *p = mem_alloc(n ? n : 1, sizeof *p);
    HLM_ASSERT(p != NULL);
    return p;
}

struct ref_state *ref_state_create(const struct ref_model *m)
{
    const struct ref_config *c = &m->c;
    struct ref_state *s = mem_alloc(1, sizeof *s);
    HLM_ASSERT(s != NULL);

    s->n_layer = c->n_layer;
    s->layer = mem_alloc(c->n_layer, sizeof *s->layer);
    HLM_ASSERT(s->layer != NULL);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        if (m->layer[i].mixer != MIXER_DELTA && m->layer[i].mixer != MIXER_MAMBA)
            continue;
        s->layer[i].window = doubles((uint64_t)(c->conv_k - 1) * ref_conv_width(c));
        s->layer[i].ssm = doubles((uint64_t)ref_inner(c) * c->d_state);
    }
    return s;
}

void ref_state_destroy(struct ref_state *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        free(s->layer[i].k);
        free(s->layer[i].v);
        free(s->layer[i].window);
        free(s->layer[i].ssm);
    }
    free(s->layer);
    free(s);
}

void ref_state_tell(struct ref_state *s, struct ref_told *told) { s->told = told; }

uint32_t ref_state_pos(const struct ref_state *s) { return s->pos; }

/* ---- mixers ----------------------------------------------------------------------------- */

/* What a block is given: the model, its layer and the layer's past. */
struct pass {
    const struct ref_config *c;
    const struct ref_layer *l;
    struct layer_state *past;
    struct ref_told *told;
    uint32_t n_tok, pos;
};

/* W x, plus a bias where there is one. */
static double *linear(const struct pass *p, const float *w, const float *bias, uint32_t n_in,
                      uint32_t n_out, const double *x)
{
    uint64_t n = (uint64_t)p->n_tok * n_out;
    double *y = doubles(n);
    ref_linear(w, n_in, n_out, x, p->n_tok, y);
    for (uint64_t i = 0; bias && i < n; i++)
        y[i] += (double)bias[i % n_out];
    return y;
}

/* Columns from .. from + n of x [n_tok, width], alone. */
static double *columns(const struct pass *p, const double *x, uint32_t width, uint32_t from,
                       uint32_t n)
{
    double *y = doubles((uint64_t)p->n_tok * n);
    for (uint64_t t = 0; t < p->n_tok; t++)
        memcpy(y + t * n, x + t * width + from, n * sizeof *y);
    return y;
}

/* The rows of attn_q are per head: head_dim of the query, then head_dim of its gate (trap
 * "interleaved query and gate"). */
static void split_query(const struct pass *p, const double *qg, double *q, double *gate)
{
    uint64_t hd = p->c->head_dim, n = (uint64_t)p->n_tok * p->l->n_head;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(q + i * hd, qg + 2 * i * hd, hd * sizeof *q);
        memcpy(gate + i * hd, qg + (2 * i + 1) * hd, hd * sizeof *q);
    }
}

static void norm_and_rotate(const struct pass *p, const float *norm, uint32_t n_head, double *x)
{
    uint32_t hd = p->c->head_dim;
    if (norm)
        ref_rmsnorm(x, norm, hd, p->n_tok * n_head, (double)p->c->eps, x);
    for (uint32_t t = 0; p->l->n_rot && t < p->n_tok; t++)
        ref_rope(p->l->rope_freq, p->l->n_rot, p->pos + t, n_head, hd,
                 x + (uint64_t)t * n_head * hd);
}

static double *append(double *rows, uint64_t n_old, const double *more, uint64_t n_more)
{
    rows = mem_grow(rows, n_old + n_more, sizeof *rows);
    HLM_ASSERT(rows != NULL);
    memcpy(rows + n_old, more, n_more * sizeof *rows);
    return rows;
}

static double *attention_mixer(const struct pass *p, const double *x)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    uint32_t q_dim = l->n_head * c->head_dim, kv_dim = l->n_kv_head * c->head_dim;
    double *k = linear(p, l->wk, l->k_bias, c->n_embd, kv_dim, x);
    double *v = linear(p, l->wv, l->v_bias, c->n_embd, kv_dim, x);
    double *o = doubles((uint64_t)p->n_tok * q_dim), *q, *gate = NULL, *head_gate = NULL;

    if (l->wq_gated) {
        double *qg = linear(p, l->wq_gated, NULL, c->n_embd, 2 * q_dim, x);
        q = doubles((uint64_t)p->n_tok * q_dim);
        gate = doubles((uint64_t)p->n_tok * q_dim);
        split_query(p, qg, q, gate);
        free(qg);
    } else {
        q = linear(p, l->wq, l->q_bias, c->n_embd, q_dim, x);
    }
    if (l->head_gate)
        head_gate = linear(p, l->head_gate, NULL, c->n_embd, l->n_head, x);
    norm_and_rotate(p, l->q_norm, l->n_head, q);
    norm_and_rotate(p, l->k_norm, l->n_kv_head, k);
    p->past->k = append(p->past->k, (uint64_t)p->pos * kv_dim, k, (uint64_t)p->n_tok * kv_dim);
    p->past->v = append(p->past->v, (uint64_t)p->pos * kv_dim, v, (uint64_t)p->n_tok * kv_dim);
    ref_attention(&(struct ref_attention){ .n_tok = p->n_tok,
                                           .n_past = p->pos,
                                           .n_head = l->n_head,
                                           .n_kv_head = l->n_kv_head,
                                           .head_dim = c->head_dim,
                                           .q = q,
                                           .k = p->past->k,
                                           .v = p->past->v,
                                           .gate = gate,
                                           .window = l->window,
                                           .head_gate = head_gate },
                  o);
    double *y = linear(p, l->wo, l->o_bias, q_dim, c->n_embd, o);
    free(k);
    free(v);
    free(q);
    free(gate);
    free(head_gate);
    free(o);
    return y;
}

static double *convolved(const struct pass *p, const double *x)
{
    double *u = doubles((uint64_t)p->n_tok * ref_conv_width(p->c));
    ref_conv_silu(&(struct ref_conv){ .n_tok = p->n_tok,
                                      .n_ch = ref_conv_width(p->c),
                                      .conv_k = p->c->conv_k,
                                      .w = p->l->conv,
                                      .x = x,
                                      .window = p->past->window,
                                      .bias = p->l->conv_bias },
                  u);
    return u;
}

static void tell_gate(const struct pass *p, double decay, double write)
{
    struct ref_told *t = p->told;
    t->least = t->n > 0 ? fmin(t->least, decay) : decay;
    t->most = t->n > 0 ? fmax(t->most, decay) : decay;
    t->decays += decay;
    t->writes += write;
    t->n++;
}

static void tell_delta(const struct pass *p, const struct ref_delta *d)
{
    uint64_t n = (uint64_t)d->n_tok * d->n_v_head;
    double *beta = doubles(2 * n), *g = beta + n;
    ref_delta_gates(d, beta, g);
    for (uint64_t i = 0; i < n; i++)
        tell_gate(p, exp(g[i]), beta[i]);
    free(beta);
}

static void tell_mamba(const struct pass *p, const double *dt)
{
    uint64_t n_head = p->c->n_ssm_head, n = p->n_tok * n_head;
    for (uint64_t i = 0; i < n; i++) {
        double step = ref_softplus(dt[i] + (double)p->l->dt_bias[i % n_head]);
        tell_gate(p, exp(step * (double)p->l->ssm_a[i % n_head]), step);
    }
}

static void tell_state(const struct pass *p)
{
    uint64_t n = (uint64_t)ref_inner(p->c) * p->c->d_state;
    if (!p->past->ssm)
        return;
    p->told->n_state += (double)n;
    for (uint64_t i = 0; i < n; i++) {
        p->told->squares += p->past->ssm[i] * p->past->ssm[i];
        p->told->peak = fmax(p->told->peak, fabs(p->past->ssm[i]));
    }
}

static double *delta_mixer(const struct pass *p, const double *x)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    double *qkv = linear(p, l->wqkv, NULL, c->n_embd, ref_conv_width(c), x);
    double *z = linear(p, l->wz, NULL, c->n_embd, ref_inner(c), x);
    double *b = linear(p, l->wb, NULL, c->n_embd, c->n_ssm_head, x);
    double *a = linear(p, l->wa, NULL, c->n_embd, c->n_ssm_head, x);
    double *u = convolved(p, qkv), *o = doubles((uint64_t)p->n_tok * ref_inner(c));

    struct ref_delta d = { .n_tok = p->n_tok,
                           .n_k_head = c->n_group,
                           .n_v_head = c->n_ssm_head,
                           .d_state = c->d_state,
                           .tiled = c->tiled,
                           .qkv = u,
                           .b = b,
                           .a = a,
                           .ssm_a = l->ssm_a,
                           .dt_bias = l->dt_bias,
                           .state = p->past->ssm };
    ref_delta(&d, o);
    if (p->told)
        tell_delta(p, &d);
    ref_gated_norm(o, z, l->delta_norm, c->d_state, p->n_tok * c->n_ssm_head, (double)c->eps);
    double *y = linear(p, l->ssm_out, NULL, ref_inner(c), c->n_embd, o);
    free(qkv);
    free(z);
    free(b);
    free(a);
    free(u);
    free(o);
    return y;
}

static double *mamba_mixer(const struct pass *p, const double *x)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    uint32_t inner = ref_inner(c), width = ref_mamba_in(c);
    double *in = linear(p, l->ssm_in, l->in_bias, c->n_embd, width, x);
    double *z = columns(p, in, width, 0, inner);
    double *xbc = columns(p, in, width, inner, ref_conv_width(c));
    double *dt = columns(p, in, width, width - c->n_ssm_head, c->n_ssm_head);
    double *u = convolved(p, xbc), *o = doubles((uint64_t)p->n_tok * inner);

    ref_mamba(&(struct ref_mamba){ .n_tok = p->n_tok,
                                   .n_head = c->n_ssm_head,
                                   .head_dim = c->ssm_dim,
                                   .n_group = c->n_group,
                                   .d_state = c->d_state,
                                   .xbc = u,
                                   .dt = dt,
                                   .ssm_a = l->ssm_a,
                                   .dt_bias = l->dt_bias,
                                   .d = l->ssm_d,
                                   .state = p->past->ssm },
              o);
    if (p->told)
        tell_mamba(p, dt);
    ref_mamba_norm(o, z, l->group_norm, p->n_tok, c->n_group, inner / c->n_group, (double)c->eps);
    double *y = linear(p, l->ssm_out, l->out_bias, inner, c->n_embd, o);
    free(in);
    free(z);
    free(xbc);
    free(dt);
    free(u);
    free(o);
    return y;
}

/* ---- feed-forward ----------------------------------------------------------------------- */

static double *dense_ffn(const struct pass *p, const double *x)
{
    const struct ref_layer *l = p->l;
    double *y = doubles((uint64_t)p->n_tok * p->c->n_embd);

    ref_ffn(&(struct ref_ffn){ .n_embd = p->c->n_embd,
                               .n_ff = l->n_ff,
                               .gate = l->gate,
                               .up = l->up,
                               .down = l->down,
                               .limit = (double)l->shared_limit,
                               .up_bias = l->up_bias,
                               .down_bias = l->down_bias },
            x, p->n_tok, y);
    return y;
}

static double *moe_ffn(const struct pass *p, const double *x)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    double *y = doubles((uint64_t)p->n_tok * c->n_embd);

    ref_moe(&(struct ref_moe){ .n_embd = c->n_embd,
                               .n_expert = c->n_expert,
                               .n_used = l->n_used,
                               .n_ff = l->n_ff_expert,
                               .n_ff_shared = c->n_ff_shared,
                               .router = l->router,
                               .gate = l->gate_exps,
                               .up = l->up_exps,
                               .down = l->down_exps,
                               .shared_router = l->shared_router,
                               .shared_gate = l->shared_gate,
                               .shared_up = l->shared_up,
                               .shared_down = l->shared_down,
                               .limit = (double)l->limit,
                               .shared_limit = (double)l->shared_limit,
                               .n_latent = c->n_latent,
                               .latent_down = l->latent_down,
                               .latent_up = l->latent_up,
                               .sigmoid = c->sigmoid,
                               .router_bias = l->router_bias,
                               .n_group = c->router_group,
                               .n_group_used = c->router_group_used,
                               .norm = c->norm,
                               .scale = (double)c->scale,
                               .load = p->told ? p->told->load : NULL },
            x, p->n_tok, y);
    return y;
}

/* ---- the model -------------------------------------------------------------------------- */

static void add(double *h, double *y, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        h[i] += y[i];
    free(y);
}

/* h += f(rmsnorm(h)), once or twice. */
static void block(const struct pass *p, double *h)
{
    static double *(*const mixer[])(const struct pass *, const double *) = {
        [MIXER_ATTENTION] = attention_mixer,
        [MIXER_DELTA] = delta_mixer,
        [MIXER_MAMBA] = mamba_mixer,
    };
    uint32_t dim = p->c->n_embd;
    uint64_t n = (uint64_t)p->n_tok * dim;
    double *x = doubles(n);

    if (p->l->mixer != MIXER_NONE) {
        ref_rmsnorm(h, p->l->attn_norm, dim, p->n_tok, (double)p->c->eps, x);
        add(h, mixer[p->l->mixer](p, x), n);
    }
    if (p->l->ffn != FFN_NONE) {
        ref_rmsnorm(h, p->l->ffn_norm, dim, p->n_tok, (double)p->c->eps, x);
        add(h, p->l->ffn == FFN_MOE ? moe_ffn(p, x) : dense_ffn(p, x), n);
    }
    free(x);
}

bool ref_forward(const struct ref_model *m, struct ref_state *s, const int32_t *ids, uint32_t n_tok,
                 double *logits, double *hidden)
{
    const struct ref_config *c = &m->c;
    uint64_t n = (uint64_t)n_tok * c->n_embd;
    double *h;

    for (uint32_t t = 0; t < n_tok; t++)
        if (ids[t] < 0 || (uint32_t)ids[t] >= c->n_vocab)
            return false;
    if (n_tok == 0)
        return true;
    h = doubles(n);
    for (uint64_t t = 0; t < n_tok; t++)
        for (uint64_t i = 0; i < c->n_embd; i++)
            h[t * c->n_embd + i] = (double)m->token_embd[(uint64_t)ids[t] * c->n_embd + i];
    if (hidden)
        memcpy(hidden, h, n * sizeof *h);

    for (uint32_t i = 0; i < c->n_layer; i++) {
        struct pass p = { .c = c,
                          .l = &m->layer[i],
                          .past = &s->layer[i],
                          .n_tok = n_tok,
                          .pos = s->pos,
                          .told = s->told ? &s->told[i] : NULL };
        block(&p, h);
        if (p.told)
            tell_state(&p);
        if (hidden)
            memcpy(hidden + (i + 1) * n, h, n * sizeof *h);
    }
    s->pos += n_tok;

    ref_rmsnorm(h, m->output_norm, c->n_embd, n_tok, (double)c->eps, h);
    if (hidden)
        memcpy(hidden + (c->n_layer + 1) * n, h, n * sizeof *h);
    if (logits)
        ref_linear(m->output, c->n_embd, c->n_vocab, h, n_tok, logits);
    free(h);
    return true;
}
