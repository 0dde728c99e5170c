/* ref_model: whole models in double precision, from the operations of ref_ops.c: the state of a
 * sequence, and the forward pass (models/README.md, "Qwen blocks", "Nemotron blocks", "Step
 * blocks").
 *
 * There is one block() for all architectures: a layer has fields for all that it may have
 * (ref_model.h). MTP blocks are in ref_train.c. */
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
    struct ref_stats *stats;
};

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
        s->layer[i].window = ref_doubles((uint64_t)(c->conv_k - 1) * ref_conv_width(c));
        s->layer[i].ssm = ref_doubles((uint64_t)ref_inner(c) * c->d_state);
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

void ref_state_watch(struct ref_state *s, struct ref_stats *stats) { s->stats = stats; }

uint32_t ref_state_pos(const struct ref_state *s) { return s->pos; }

/* ---- arguments of operations ------------------------------------------------------------ */

struct ref_attention ref_layer_attention(const struct ref_config *c, const struct ref_layer *l)
{
    return (struct ref_attention){
        .n_head = l->n_head, .n_kv_head = l->n_kv_head, .head_dim = c->head_dim, .window = l->window
    };
}

struct ref_conv ref_layer_conv(const struct ref_config *c, const struct ref_layer *l)
{
    return (struct ref_conv){
        .n_ch = ref_conv_width(c), .conv_k = c->conv_k, .w = l->conv, .bias = l->conv_bias
    };
}

struct ref_delta ref_layer_delta(const struct ref_config *c, const struct ref_layer *l)
{
    return (struct ref_delta){ .n_k_head = c->n_group,
                               .n_v_head = c->n_ssm_head,
                               .d_state = c->d_state,
                               .tiled = c->tiled,
                               .ssm_a = l->ssm_a,
                               .dt_bias = l->dt_bias };
}

struct ref_mamba ref_layer_mamba(const struct ref_config *c, const struct ref_layer *l)
{
    return (struct ref_mamba){ .n_head = c->n_ssm_head,
                               .head_dim = c->ssm_dim,
                               .n_group = c->n_group,
                               .d_state = c->d_state,
                               .ssm_a = l->ssm_a,
                               .dt_bias = l->dt_bias,
                               .d = l->ssm_d };
}

struct ref_ffn ref_layer_ffn(const struct ref_config *c, const struct ref_layer *l)
{
    return (struct ref_ffn){ .n_embd = c->n_embd,
                             .n_ff = l->n_ff,
                             .gate = l->gate,
                             .up = l->up,
                             .down = l->down,
                             .limit = (double)l->shared_limit,
                             .up_bias = l->up_bias,
                             .down_bias = l->down_bias };
}

struct ref_moe ref_layer_moe(const struct ref_config *c, const struct ref_layer *l)
{
    return (struct ref_moe){ .n_embd = c->n_embd,
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
                             .scale = (double)c->scale };
}

void ref_embed(const struct ref_model *m, const int32_t *ids, uint32_t n_tok, double *h)
{
    uint64_t dim = m->c.n_embd;
    for (uint64_t t = 0; t < n_tok; t++) {
        HLM_ASSERT(ids[t] >= 0 && (uint32_t)ids[t] < m->c.n_vocab);
        for (uint64_t i = 0; i < dim; i++)
            h[t * dim + i] = (double)m->token_embd[(uint64_t)ids[t] * dim + i];
    }
}

void ref_norm_rotate(const struct ref_config *c, const struct ref_layer *l,
                     const struct ref_heads *of, double *x)
{
    uint32_t n_head = of->n_head, hd = c->head_dim;
    if (of->norm)
        ref_rmsnorm(x, of->norm, hd, of->n_tok * n_head, (double)c->eps, x);
    for (uint32_t t = 0; l->n_rot && t < of->n_tok; t++)
        ref_rope(l->rope_freq, l->n_rot, of->pos + t, n_head, hd, x + (uint64_t)t * n_head * hd);
}

/* ---- mixers ----------------------------------------------------------------------------- */

/* The arguments of a block: the model, its layer and the past of the layer. */
struct pass {
    const struct ref_config *c;
    const struct ref_layer *l;
    struct layer_state *past;
    struct ref_stats *stats;
    uint32_t n_tok, pos;
};

/* W x, plus a bias where there is one. */
static double *linear(const struct pass *p, const float *w, const float *bias, uint32_t n_in,
                      uint32_t n_out, const double *x)
{
    double *y = ref_doubles((uint64_t)p->n_tok * n_out);
    ref_linear(w, n_in, n_out, x, p->n_tok, y);
    ref_add_bias(bias, n_out, p->n_tok, y);
    return y;
}

static void norm_rotate(const struct pass *p, const float *norm, uint32_t n_head, double *x)
{
    struct ref_heads of = { norm, n_head, p->n_tok, p->pos };
    ref_norm_rotate(p->c, p->l, &of, x);
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
    double *o = ref_doubles((uint64_t)p->n_tok * q_dim), *q, *gate = NULL, *head_gate = NULL;

    if (l->wq_gated) { /* rows by head (trap "interleaved query and gate") */
        uint64_t hd = c->head_dim, n = (uint64_t)p->n_tok * l->n_head;
        double *qg = linear(p, l->wq_gated, NULL, c->n_embd, 2 * q_dim, x);
        q = ref_columns(qg, 2 * hd, 0, hd, n);
        gate = ref_columns(qg, 2 * hd, hd, hd, n);
        free(qg);
    } else {
        q = linear(p, l->wq, l->q_bias, c->n_embd, q_dim, x);
    }
    if (l->head_gate)
        head_gate = linear(p, l->head_gate, NULL, c->n_embd, l->n_head, x);
    norm_rotate(p, l->q_norm, l->n_head, q);
    norm_rotate(p, l->k_norm, l->n_kv_head, k);
    p->past->k = append(p->past->k, (uint64_t)p->pos * kv_dim, k, (uint64_t)p->n_tok * kv_dim);
    p->past->v = append(p->past->v, (uint64_t)p->pos * kv_dim, v, (uint64_t)p->n_tok * kv_dim);
    struct ref_attention a = ref_layer_attention(c, l);
    a.n_tok = p->n_tok;
    a.n_past = p->pos;
    a.q = q;
    a.k = p->past->k;
    a.v = p->past->v;
    a.gate = gate;
    a.head_gate = head_gate;
    ref_attention(&a, o);
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
    double *u = ref_doubles((uint64_t)p->n_tok * ref_conv_width(p->c));
    struct ref_conv conv = ref_layer_conv(p->c, p->l);
    conv.n_tok = p->n_tok;
    conv.x = x;
    conv.window = p->past->window;
    ref_conv_silu(&conv, u);
    return u;
}

static void add_gate(const struct pass *p, double decay, double write)
{
    struct ref_stats *t = p->stats;
    t->least = t->n > 0 ? fmin(t->least, decay) : decay;
    t->most = t->n > 0 ? fmax(t->most, decay) : decay;
    t->decays += decay;
    t->writes += write;
    t->n++;
}

static void add_delta(const struct pass *p, const struct ref_delta *d)
{
    uint64_t n = (uint64_t)d->n_tok * d->n_v_head;
    double *beta = ref_doubles(2 * n), *g = beta + n;
    ref_delta_gates(d, beta, g);
    for (uint64_t i = 0; i < n; i++)
        add_gate(p, exp(g[i]), beta[i]);
    free(beta);
}

static void add_mamba(const struct pass *p, const double *dt)
{
    uint64_t n_head = p->c->n_ssm_head, n = p->n_tok * n_head;
    for (uint64_t i = 0; i < n; i++) {
        double step = ref_softplus(dt[i] + (double)p->l->dt_bias[i % n_head]);
        add_gate(p, exp(step * (double)p->l->ssm_a[i % n_head]), step);
    }
}

static void add_state(const struct pass *p)
{
    uint64_t n = (uint64_t)ref_inner(p->c) * p->c->d_state;
    if (!p->past->ssm)
        return;
    p->stats->n_state += (double)n;
    for (uint64_t i = 0; i < n; i++) {
        p->stats->squares += p->past->ssm[i] * p->past->ssm[i];
        p->stats->peak = fmax(p->stats->peak, fabs(p->past->ssm[i]));
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
    double *u = convolved(p, qkv), *o = ref_doubles((uint64_t)p->n_tok * ref_inner(c));

    struct ref_delta d = ref_layer_delta(c, l);
    d.n_tok = p->n_tok;
    d.qkv = u;
    d.b = b;
    d.a = a;
    d.state = p->past->ssm;
    ref_delta(&d, o);
    if (p->stats)
        add_delta(p, &d);
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
    double *z = ref_columns(in, width, 0, inner, p->n_tok);
    double *xbc = ref_columns(in, width, inner, ref_conv_width(c), p->n_tok);
    double *dt = ref_columns(in, width, width - c->n_ssm_head, c->n_ssm_head, p->n_tok);
    double *u = convolved(p, xbc), *o = ref_doubles((uint64_t)p->n_tok * inner);

    struct ref_mamba m = ref_layer_mamba(c, l);
    m.n_tok = p->n_tok;
    m.xbc = u;
    m.dt = dt;
    m.state = p->past->ssm;
    ref_mamba(&m, o);
    if (p->stats)
        add_mamba(p, dt);
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
    struct ref_ffn f = ref_layer_ffn(p->c, p->l);
    double *y = ref_doubles((uint64_t)p->n_tok * p->c->n_embd);
    ref_ffn(&f, x, p->n_tok, y);
    return y;
}

static double *moe_ffn(const struct pass *p, const double *x)
{
    struct ref_moe m = ref_layer_moe(p->c, p->l);
    double *y = ref_doubles((uint64_t)p->n_tok * p->c->n_embd);
    m.load = p->stats ? p->stats->load : NULL;
    ref_moe(&m, x, p->n_tok, y);
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
    double *x = ref_doubles(n);

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
    h = ref_doubles(n);
    ref_embed(m, ids, n_tok, h);
    if (hidden)
        memcpy(hidden, h, n * sizeof *h);

    for (uint32_t i = 0; i < c->n_layer; i++) {
        struct pass p = { .c = c,
                          .l = &m->layer[i],
                          .past = &s->layer[i],
                          .n_tok = n_tok,
                          .pos = s->pos,
                          .stats = s->stats ? &s->stats[i] : NULL };
        block(&p, h);
        if (p.stats)
            add_state(&p);
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
