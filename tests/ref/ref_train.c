/* ref_train: a training step of whole models in double precision: one document from zero state,
 * forward with adapters and gate deltas, then backward (tests/fixtures/train/README.md;
 * models/README.md, the blocks and "Draft loss").
 *
 * The residuals between layers are kept; when the backward reaches a layer, its forward is computed
 * again. A mixer is one function: without dy it returns y; with dy it adds to dx and to the
 * gradients of the params. Read ref_bwd.h and ref_model.c first. */
#include "ref/ref_bwd.h"
#include "ref/ref_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- trained parameters ----------------------------------------------------------------- */

static struct ref_param *add_param(struct ref_tune *t, const char *name, uint64_t n, uint32_t rank)
{
    t->param = mem_grow(t->param, t->n_param + 1, sizeof *t->param);
    HLM_ASSERT(t->param != NULL);
    struct ref_param *p = &t->param[t->n_param++];
    *p = (struct ref_param){ .n = n, .rank = rank };
    snprintf(p->name, sizeof p->name, "%s", name);
    p->value = mem_alloc(n, sizeof *p->value);
    p->grad = mem_alloc(n, sizeof *p->grad);
    p->m = mem_alloc(n, sizeof *p->m);
    p->v = mem_alloc(n, sizeof *p->v);
    HLM_ASSERT(p->value && p->grad && p->m && p->v);
    return p;
}

static void take_tensor(struct ref_tune *t, const struct gguf_tensor *from, uint32_t rank)
{
    struct ref_param *p = add_param(t, from->name, from->n_elem, rank);
    for (uint64_t i = 0; i < p->n; i++) {
        float v;
        memcpy(&v, from->data + i * sizeof v, sizeof v);
        p->value[i] = (double)v;
    }
}

static bool take_pair(struct ref_tune *t, const struct gguf *g, const struct gguf_tensor *a,
                      struct hlm_err *err)
{
    char name[96];
    int n_base = (int)(strlen(a->name) - strlen(".lora_a"));
    snprintf(name, sizeof name, "%.*s.lora_b", n_base, a->name);
    const struct gguf_tensor *b = gguf_tensor(g, name);

    if (!b || a->type != F32 || b->type != F32 || b->dim[0] != a->dim[1] ||
        a->dim[2] != b->dim[2] || strncmp(name, "blk.", 4))
        return fail(err, "%s: %s has no fitting %s", gguf_path(g), a->name, name);
    take_tensor(t, a, (uint32_t)a->dim[1]);
    take_tensor(t, b, (uint32_t)a->dim[1]);
    return true;
}

static void take_gates(struct ref_tune *t, uint32_t i_layer)
{
    const struct ref_layer *l = &t->m->layer[i_layer];
    struct {
        const char *name;
        const float *there;
    } gate[] = { { "ssm_a", l->ssm_a }, { "ssm_dt.bias", l->dt_bias }, { "ssm_d", l->ssm_d } };
    for (uint32_t i = 0; i < ARRAY_LEN(gate); i++) {
        char name[96];
        snprintf(name, sizeof name, "blk.%u.%s.delta", i_layer, gate[i].name);
        if (gate[i].there)
            add_param(t, name, t->m->c.n_ssm_head, 0);
    }
}

bool ref_tune_open(struct ref_tune *t, const struct ref_model *m, const struct gguf *adapter,
                   bool gates, struct hlm_err *err)
{
    float alpha;
    *t = (struct ref_tune){ .m = m };
    if (!gguf_f32(adapter, "adapter.lora.alpha", REQUIRED, &alpha, err))
        return false;
    t->alpha = (double)alpha;
    for (uint64_t i = 0; i < gguf_n_tensor(adapter); i++) {
        const struct gguf_tensor *a = gguf_tensor_at(adapter, i);
        size_t n = strlen(a->name);
        if (n > 7 && !strcmp(a->name + n - 7, ".lora_a") && !take_pair(t, adapter, a, err))
            return false;
    }
    for (uint32_t i = 0; gates && i < m->c.n_layer; i++)
        take_gates(t, i);
    return true;
}

void ref_tune_close(struct ref_tune *t)
{
    for (uint32_t i = 0; i < t->n_param; i++) {
        free(t->param[i].value);
        free(t->param[i].grad);
        free(t->param[i].m);
        free(t->param[i].v);
    }
    free(t->param);
    *t = (struct ref_tune){ 0 };
}

/* ---- one layer -------------------------------------------------------------------------- */

/* The computation of a layer, with its memory, which is zeroed and freed together. */
struct turn {
    const struct ref_tune *t;
    const struct ref_config *c;
    const struct ref_layer *l;
    uint32_t i_layer, n_tok, n_taken;
    void *taken[256];
};

static void *keep(struct turn *p, uint64_t n, uint64_t size)
{
    HLM_ASSERT(p->n_taken < ARRAY_LEN(p->taken));
    void *x = mem_alloc(n ? n : 1, size);
    HLM_ASSERT(x != NULL);
    return p->taken[p->n_taken++] = x;
}
static double *take(struct turn *p, uint64_t n) { return keep(p, n, sizeof(double)); }
static double *rows(struct turn *p, uint64_t width) /* [n_tok, width] */
{
    return take(p, p->n_tok * width);
}
static void release(struct turn *p)
{
    for (uint32_t i = 0; i < p->n_taken; i++)
        free(p->taken[i]);
    p->n_taken = 0;
}

/* The param of this layer that has this name and ending, or NULL. */
static struct ref_param *find(const struct turn *p, const char *name, const char *ending)
{
    char full[96];
    snprintf(full, sizeof full, "blk.%u.%s.%s", p->i_layer, name, ending);
    for (uint32_t i = 0; i < p->t->n_param; i++)
        if (!strcmp(p->t->param[i].name, full))
            return &p->t->param[i];
    return NULL;
}

static struct ref_lora adapter(const struct turn *p, const char *name, uint64_t n_in,
                               uint64_t n_out, uint64_t n_expert)
{
    struct ref_param *a = find(p, name, "lora_a"), *b = a ? a + 1 : NULL;
    if (!a)
        return (struct ref_lora){ 0 };
    HLM_ASSERT(a->n == n_expert * a->rank * n_in && b->n == n_expert * a->rank * n_out);
    return (struct ref_lora){ .rank = a->rank,
                              .scale = p->t->alpha / a->rank,
                              .a = a->value,
                              .b = b->value,
                              .da = a->grad,
                              .db = b->grad };
}

/* A gate of this layer with its delta, which is added, or multiplies as an exponent for A_log
 * (tests/fixtures/train/README.md). */
static const float *gate_value(struct turn *p, const char *name, const float *base, bool log)
{
    const struct ref_param *d = find(p, name, "delta");
    uint32_t n = p->c->n_ssm_head;
    if (!d)
        return base;
    float *v = keep(p, n, sizeof *v);
    for (uint32_t i = 0; i < n; i++)
        v[i] = (float)(log ? (double)base[i] * exp(d->value[i]) : (double)base[i] + d->value[i]);
    return v;
}
static double *gate_grad(const struct turn *p, const char *name)
{
    struct ref_param *d = find(p, name, "delta");
    return d ? d->grad : NULL;
}

struct matrix {
    const char *name;
    const float *w, *bias;
    uint32_t n_in, n_out;
};

static double *linear(struct turn *p, const struct matrix *m, const double *x)
{
    struct ref_lora l = adapter(p, m->name, m->n_in, m->n_out, 1);
    double *y = rows(p, m->n_out);
    ref_linear_lora(m->w, m->n_in, m->n_out, &l, x, p->n_tok, y);
    ref_add_bias(m->bias, m->n_out, p->n_tok, y);
    return y;
}
static void linear_bwd(struct turn *p, const struct matrix *m, const double *x, const double *dy,
                       double *dx)
{
    struct ref_lora l = adapter(p, m->name, m->n_in, m->n_out, 1);
    ref_linear_bwd(m->w, m->n_in, m->n_out, &l, x, p->n_tok, dy, dx);
}

/* Columns from .. from + n of rows [n_row, width], copied to memory of the turn. */
static double *part(struct turn *p, const double *x, uint64_t width, uint64_t from, uint64_t n,
                    uint64_t n_row)
{
    double *y = take(p, n_row * n);
    ref_put_columns(x, width, from, n, n_row, y);
    return y;
}

/* ---- attention -------------------------------------------------------------------------- */

static double *norm_rotate(struct turn *p, const float *norm, uint32_t n_head, const double *x)
{
    uint64_t row = (uint64_t)n_head * p->c->head_dim;
    double *y = rows(p, row);
    struct ref_heads of = { norm, n_head, p->n_tok, 0 };
    memcpy(y, x, p->n_tok * row * sizeof *y);
    ref_norm_rotate(p->c, p->l, &of, y);
    return y;
}
/* Rotates dy back in place. Returns the gradient of x. */
static double *norm_rotate_bwd(struct turn *p, const float *norm, uint32_t n_head, const double *x,
                               double *dy)
{
    uint32_t hd = p->c->head_dim;
    uint64_t row = (uint64_t)n_head * hd;
    for (uint32_t t = 0; p->l->n_rot && t < p->n_tok; t++)
        ref_rope_bwd(p->l->rope_freq, p->l->n_rot, t, n_head, hd, dy + t * row);
    if (!norm)
        return dy;
    double *dx = rows(p, row);
    ref_rmsnorm_bwd(x, norm, hd, p->n_tok * n_head, (double)p->c->eps, dy, dx);
    return dx;
}

static double *attention(struct turn *p, const double *x, const double *dy, double *dx)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    uint32_t hd = c->head_dim, nq = l->n_head * hd, nkv = l->n_kv_head * hd, dim = c->n_embd;
    bool gated = l->wq_gated != NULL;
    uint64_t n_row = (uint64_t)p->n_tok * l->n_head;
    struct matrix wq = { "attn_q.weight", gated ? l->wq_gated : l->wq, l->q_bias, dim,
                         gated ? 2 * nq : nq };
    struct matrix wk = { "attn_k.weight", l->wk, l->k_bias, dim, nkv };
    struct matrix wv = { "attn_v.weight", l->wv, l->v_bias, dim, nkv };
    struct matrix wo = { "attn_output.weight", l->wo, l->o_bias, nq, dim };
    struct matrix wg = { "attn_gate.weight", l->head_gate, NULL, dim, l->n_head };
    double *qg = linear(p, &wq, x), *kx = linear(p, &wk, x), *o = rows(p, nq);
    double *qx = gated ? part(p, qg, 2 * hd, 0, hd, n_row) : qg;
    struct ref_attention a = ref_layer_attention(c, l);
    a.n_tok = p->n_tok;
    a.q = norm_rotate(p, l->q_norm, l->n_head, qx);
    a.k = norm_rotate(p, l->k_norm, l->n_kv_head, kx);
    a.v = linear(p, &wv, x);
    a.gate = gated ? part(p, qg, 2 * hd, hd, hd, n_row) : NULL;
    a.head_gate = l->head_gate ? linear(p, &wg, x) : NULL;
    ref_attention(&a, o);
    if (!dy)
        return linear(p, &wo, o);

    double *d_o = rows(p, nq), *dqg = rows(p, 2 * nq);
    struct ref_attention_grad g = { .dq = rows(p, nq),
                                    .dk = rows(p, nkv),
                                    .dv = rows(p, nkv),
                                    .dgate = gated ? rows(p, nq) : NULL,
                                    .dhead_gate = l->head_gate ? rows(p, l->n_head) : NULL };
    linear_bwd(p, &wo, o, dy, d_o);
    ref_attention_bwd(&a, NULL, d_o, &g);
    double *dq = norm_rotate_bwd(p, l->q_norm, l->n_head, qx, g.dq);
    if (gated) {
        ref_add_columns(dq, 2 * hd, 0, hd, n_row, dqg);
        ref_add_columns(g.dgate, 2 * hd, hd, hd, n_row, dqg);
    }
    linear_bwd(p, &wq, x, gated ? dqg : dq, dx);
    linear_bwd(p, &wk, x, norm_rotate_bwd(p, l->k_norm, l->n_kv_head, kx, g.dk), dx);
    linear_bwd(p, &wv, x, g.dv, dx);
    if (l->head_gate)
        linear_bwd(p, &wg, x, g.dhead_gate, dx);
    return NULL;
}

/* ---- recurrent mixers ------------------------------------------------------------------- */

static struct ref_conv convolution(struct turn *p, const double *x)
{
    struct ref_conv conv = ref_layer_conv(p->c, p->l);
    conv.n_tok = p->n_tok;
    conv.x = x;
    conv.window = take(p, (uint64_t)(conv.conv_k - 1) * conv.n_ch);
    return conv;
}
/* The forward has changed its window; the backward needs the window before it, which is zero. */
static void convolution_bwd(struct turn *p, const double *x, const double *dy, double *dx)
{
    struct ref_conv c = convolution(p, x);
    ref_conv_silu_bwd(&c, NULL, dy, dx, NULL);
}

/* b and a come from two matrices, or from ssm_ba, which has for each K head r rows of b, then r of
 * a ("DeltaNet tensors"). The B of its adapter is split in the same way; both share A. */
struct gates_in {
    struct matrix w[2]; /* b, a */
    struct ref_lora lora[2], fused;
    uint64_t r;
};

static uint64_t fused_row(const struct gates_in *in, uint32_t which, uint64_t o)
{
    return o / in->r * 2 * in->r + which * in->r + o % in->r;
}

static struct gates_in gates_in(struct turn *p)
{
    const struct ref_config *c = p->c;
    uint32_t n = c->n_ssm_head, dim = c->n_embd;
    struct gates_in in = { .w = { { "ssm_beta.weight", p->l->wb, NULL, dim, n },
                                  { "ssm_alpha.weight", p->l->wa, NULL, dim, n } },
                           .fused = adapter(p, "ssm_ba.weight", dim, 2 * n, 1),
                           .r = n / c->n_group };
    uint64_t rank = in.fused.rank;

    for (uint32_t which = 0; which < 2; which++) {
        if (!rank) {
            in.lora[which] = adapter(p, in.w[which].name, dim, n, 1);
            continue;
        }
        double *b = take(p, n * rank);
        for (uint64_t o = 0; o < n; o++)
            memcpy(b + o * rank, in.fused.b + fused_row(&in, which, o) * rank, rank * sizeof *b);
        in.lora[which] = in.fused;
        in.lora[which].b = b;
        in.lora[which].db = take(p, n * rank);
    }
    return in;
}

static double *gates_linear(struct turn *p, const struct gates_in *in, uint32_t which,
                            const double *x)
{
    const struct matrix *m = &in->w[which];
    double *y = rows(p, m->n_out);
    ref_linear_lora(m->w, m->n_in, m->n_out, &in->lora[which], x, p->n_tok, y);
    return y;
}

static void gates_linear_bwd(struct turn *p, const struct gates_in *in, uint32_t which,
                             const double *x, const double *dy, double *dx)
{
    const struct matrix *m = &in->w[which];
    uint64_t rank = in->fused.rank;
    ref_linear_bwd(m->w, m->n_in, m->n_out, &in->lora[which], x, p->n_tok, dy, dx);
    for (uint64_t o = 0; rank && o < m->n_out; o++)
        for (uint64_t k = 0; k < rank; k++)
            in->fused.db[fused_row(in, which, o) * rank + k] += in->lora[which].db[o * rank + k];
}

static double *delta(struct turn *p, const double *x, const double *dy, double *dx)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    uint32_t inner = ref_inner(c), width = ref_conv_width(c), nh = c->n_ssm_head;
    struct matrix wqkv = { "attn_qkv.weight", l->wqkv, NULL, c->n_embd, width };
    struct matrix wz = { "attn_gate.weight", l->wz, NULL, c->n_embd, inner };
    struct matrix wo = { "ssm_out.weight", l->ssm_out, NULL, inner, c->n_embd };
    struct gates_in in = gates_in(p);
    double *qkv = linear(p, &wqkv, x), *z = linear(p, &wz, x), *u = rows(p, width);
    double *o = rows(p, inner), *y = rows(p, inner);
    struct ref_conv conv = convolution(p, qkv);
    struct ref_delta d = ref_layer_delta(c, l);
    d.n_tok = p->n_tok;
    d.qkv = u;
    d.b = gates_linear(p, &in, 0, x);
    d.a = gates_linear(p, &in, 1, x);
    d.ssm_a = gate_value(p, "ssm_a", l->ssm_a, true);
    d.dt_bias = gate_value(p, "ssm_dt.bias", l->dt_bias, false);
    d.state = take(p, (uint64_t)inner * c->d_state);
    ref_conv_silu(&conv, u);
    ref_delta(&d, o);
    memcpy(y, o, (uint64_t)p->n_tok * inner * sizeof *y);
    ref_gated_norm(y, z, l->delta_norm, c->d_state, p->n_tok * nh, (double)c->eps);
    if (!dy)
        return linear(p, &wo, y);

    double *dnormed = rows(p, inner), *d_o = rows(p, inner), *dz = rows(p, inner);
    double *dqkv = rows(p, width);
    struct ref_delta_grad g = { .dqkv = rows(p, width),
                                .db = rows(p, nh),
                                .da = rows(p, nh),
                                .da_log = gate_grad(p, "ssm_a"),
                                .ddt_bias = gate_grad(p, "ssm_dt.bias") };
    d.state = NULL;
    linear_bwd(p, &wo, y, dy, dnormed);
    ref_gated_norm_bwd(o, z, l->delta_norm, c->d_state, p->n_tok * nh, (double)c->eps, dnormed, d_o,
                       dz);
    if (p->t->chunk)
        ref_delta_chunked_bwd(&d, NULL, p->t->chunk, d_o, &g);
    else
        ref_delta_bwd(&d, NULL, d_o, &g);
    convolution_bwd(p, qkv, g.dqkv, dqkv);
    linear_bwd(p, &wqkv, x, dqkv, dx);
    linear_bwd(p, &wz, x, dz, dx);
    gates_linear_bwd(p, &in, 0, x, g.db, dx);
    gates_linear_bwd(p, &in, 1, x, g.da, dx);
    return NULL;
}

static double *mamba(struct turn *p, const double *x, const double *dy, double *dx)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    uint32_t inner = ref_inner(c), width = ref_conv_width(c), all = ref_mamba_in(c);
    uint32_t nh = c->n_ssm_head, group = inner / c->n_group;
    struct matrix win = { "ssm_in.weight", l->ssm_in, l->in_bias, c->n_embd, all };
    struct matrix wo = { "ssm_out.weight", l->ssm_out, l->out_bias, inner, c->n_embd };
    double *in = linear(p, &win, x), *z = part(p, in, all, 0, inner, p->n_tok), *u = rows(p, width);
    double *xbc = part(p, in, all, inner, width, p->n_tok), *o = rows(p, inner),
           *y = rows(p, inner);
    struct ref_conv conv = convolution(p, xbc);
    struct ref_mamba m = ref_layer_mamba(c, l);
    m.n_tok = p->n_tok;
    m.xbc = u;
    m.dt = part(p, in, all, inner + width, nh, p->n_tok);
    m.ssm_a = gate_value(p, "ssm_a", l->ssm_a, true);
    m.dt_bias = gate_value(p, "ssm_dt.bias", l->dt_bias, false);
    m.d = gate_value(p, "ssm_d", l->ssm_d, false);
    m.state = take(p, (uint64_t)inner * c->d_state);
    ref_conv_silu(&conv, u);
    ref_mamba(&m, o);
    memcpy(y, o, (uint64_t)p->n_tok * inner * sizeof *y);
    ref_mamba_norm(y, z, l->group_norm, p->n_tok, c->n_group, group, (double)c->eps);
    if (!dy)
        return linear(p, &wo, y);

    double *dnormed = rows(p, inner), *d_o = rows(p, inner), *dz = rows(p, inner);
    double *dxbc = rows(p, width), *din = rows(p, all);
    struct ref_mamba_grad g = { .dxbc = rows(p, width),
                                .ddt = rows(p, nh),
                                .da_log = gate_grad(p, "ssm_a"),
                                .ddt_bias = gate_grad(p, "ssm_dt.bias"),
                                .dd = gate_grad(p, "ssm_d") };
    m.state = NULL;
    linear_bwd(p, &wo, y, dy, dnormed);
    ref_mamba_norm_bwd(o, z, l->group_norm, p->n_tok, c->n_group, group, (double)c->eps, dnormed,
                       d_o, dz);
    if (p->t->chunk)
        ref_mamba_chunked_bwd(&m, NULL, p->t->chunk, d_o, &g);
    else
        ref_mamba_bwd(&m, NULL, d_o, &g);
    convolution_bwd(p, xbc, g.dxbc, dxbc);
    ref_add_columns(dz, all, 0, inner, p->n_tok, din);
    ref_add_columns(dxbc, all, inner, width, p->n_tok, din);
    ref_add_columns(g.ddt, all, inner + width, nh, p->n_tok, din);
    linear_bwd(p, &win, x, din, dx);
    return NULL;
}

/* ---- feed-forward ----------------------------------------------------------------------- */

static double *dense(struct turn *p, const double *x, const double *dy, double *dx)
{
    const struct ref_layer *l = p->l;
    uint32_t dim = p->c->n_embd, n_ff = l->n_ff;
    struct ref_ffn f = ref_layer_ffn(p->c, l);
    struct ref_ffn_lora lora = { adapter(p, "ffn_gate.weight", dim, n_ff, 1),
                                 adapter(p, "ffn_up.weight", dim, n_ff, 1),
                                 adapter(p, "ffn_down.weight", n_ff, dim, 1) };
    double *y = dy ? NULL : rows(p, dim);
    if (dy)
        ref_ffn_bwd(&f, &lora, x, p->n_tok, dy, dx);
    else
        ref_ffn_lora(&f, &lora, x, p->n_tok, y);
    return y;
}

static double *moe(struct turn *p, const double *x, const double *dy, double *dx)
{
    const struct ref_config *c = p->c;
    const struct ref_layer *l = p->l;
    uint32_t dim = c->n_embd, in = ref_expert_in(c), n_ff = l->n_ff_expert, ns = c->n_ff_shared;
    struct ref_moe m = ref_layer_moe(c, l);
    struct ref_moe_lora lora = {
        .experts = { adapter(p, "ffn_gate_exps.weight", in, n_ff, c->n_expert),
                     adapter(p, "ffn_up_exps.weight", in, n_ff, c->n_expert),
                     adapter(p, "ffn_down_exps.weight", n_ff, in, c->n_expert) },
        .shared = { adapter(p, "ffn_gate_shexp.weight", dim, ns, 1),
                    adapter(p, "ffn_up_shexp.weight", dim, ns, 1),
                    adapter(p, "ffn_down_shexp.weight", ns, dim, 1) },
        .latent_down = adapter(p, "ffn_latent_down.weight", dim, c->n_latent, 1),
        .latent_up = adapter(p, "ffn_latent_up.weight", c->n_latent, dim, 1),
        .router = adapter(p, "ffn_gate_inp.weight", dim, c->n_expert, 1),
        .shared_router = adapter(p, "ffn_gate_inp_shexp.weight", dim, 1, 1),
    };
    double *y = dy ? NULL : rows(p, dim);
    if (dy)
        ref_moe_bwd(&m, &lora, x, p->n_tok, dy, dx);
    else
        ref_moe_lora(&m, &lora, x, p->n_tok, y);
    return y;
}

/* ---- the model -------------------------------------------------------------------------- */

typedef double *part_fn(struct turn *p, const double *x, const double *dy, double *dx);
static part_fn *const mixers[] = {
    [MIXER_ATTENTION] = attention, [MIXER_DELTA] = delta, [MIXER_MAMBA] = mamba
};
static part_fn *const ffns[] = { [FFN_DENSE] = dense, [FFN_MOE] = moe };

/* h + f(rmsnorm(h)), or h if the layer has no such part (f NULL), in memory of the turn. */
static double *residual(struct turn *p, part_fn *f, const float *norm, const double *h)
{
    uint32_t dim = p->c->n_embd;
    uint64_t n = (uint64_t)p->n_tok * dim;
    double *out = take(p, n), *x = take(p, n);
    memcpy(out, h, n * sizeof *h);
    if (f) {
        ref_rmsnorm(h, norm, dim, p->n_tok, (double)p->c->eps, x);
        const double *y = f(p, x, NULL, NULL);
        for (uint64_t i = 0; i < n; i++)
            out[i] += y[i];
    }
    return out;
}

/* dh is the gradient of the sum, and becomes that of h. */
static void residual_bwd(struct turn *p, part_fn *f, const float *norm, const double *h, double *dh)
{
    uint32_t dim = p->c->n_embd;
    double *x = rows(p, dim), *dx = rows(p, dim);
    if (!f)
        return;
    ref_rmsnorm(h, norm, dim, p->n_tok, (double)p->c->eps, x);
    f(p, x, dh, dx);
    ref_rmsnorm_bwd(h, norm, dim, p->n_tok, (double)p->c->eps, dx, dh);
}

static struct turn turn(const struct ref_tune *t, uint32_t i_layer, uint32_t n_tok)
{
    return (struct turn){
        .t = t, .c = &t->m->c, .l = &t->m->layer[i_layer], .i_layer = i_layer, .n_tok = n_tok
    };
}

/* h [n_layer + 1, n_tok, n_embd]: the embeddings are given, the residuals are computed. */
static void forward(const struct ref_tune *t, uint32_t n_tok, double *h)
{
    uint64_t n = (uint64_t)n_tok * t->m->c.n_embd;
    for (uint32_t i = 0; i < t->m->c.n_layer; i++) {
        struct turn p = turn(t, i, n_tok);
        double *mid = residual(&p, mixers[p.l->mixer], p.l->attn_norm, h + i * n);
        double *out = residual(&p, ffns[p.l->ffn], p.l->ffn_norm, mid);
        memcpy(h + (i + 1) * n, out, n * sizeof *h);
        release(&p);
    }
}

static void backward(const struct ref_tune *t, uint32_t n_tok, const double *h, double *dh)
{
    uint64_t n = (uint64_t)n_tok * t->m->c.n_embd;
    for (uint32_t i = t->m->c.n_layer; i-- > 0;) {
        struct turn p = turn(t, i, n_tok);
        double *mid = residual(&p, mixers[p.l->mixer], p.l->attn_norm, h + i * n);
        residual_bwd(&p, ffns[p.l->ffn], p.l->ffn_norm, mid, dh);
        residual_bwd(&p, mixers[p.l->mixer], p.l->attn_norm, h + i * n, dh);
        release(&p);
    }
}

/* The sum of nll, from rows before the norm, over the rows whose target counts. The target is the
 * token `ahead` places later, by which nll is indexed. x gets the normed rows. dx, unless NULL,
 * gets their gradient times weight added. */
static double head_loss(struct turn *p, const float *norm, const struct matrix *output,
                        const double *h, const int32_t *ids, const uint8_t *mask, uint32_t ahead,
                        double weight, double *nll, double *x, double *dx)
{
    uint32_t dim = output->n_in, n_vocab = output->n_out;
    double *dlogits = rows(p, n_vocab);
    int32_t *target = keep(p, p->n_tok, sizeof *target);

    for (uint32_t i = 0; i < p->n_tok; i++)
        target[i] = mask[i + ahead] ? ids[i + ahead] : -1;
    ref_rmsnorm(h, norm, dim, p->n_tok, (double)p->t->m->c.eps, x);
    double sum = ref_nll(linear(p, output, x), target, p->n_tok, n_vocab, weight,
                         nll ? nll + ahead : NULL, dlogits);
    if (dx)
        linear_bwd(p, output, x, dlogits, dx);
    return sum;
}

/* ---- MTP -------------------------------------------------------------------------------- */

/* Depth k at slots 0 .. n_tok - 3 - k of a document: from token t + k + 1 and x_t it predicts token
 * t + k + 2 ("Draft blocks", "Draft loss"). x: rows of the trunk or of the depth before, after
 * their closing norm or, raw, before it. Their gradient goes to dx. */
struct depth {
    struct turn p;
    const struct ref_mtp *mtp;
    struct matrix proj, output;
    const double *x;
    double *dx, *cat, *u, *mid, *out, *dout, *v, *dv; /* v: out after its norm */
};

static void depth_forward(struct depth *d, const struct ref_tune *t, const int32_t *ids,
                          uint32_t n_tok, uint32_t k, const double *x, double *dx)
{
    const struct ref_model *m = t->m;
    uint32_t dim = m->c.n_embd;
    double eps = (double)m->c.eps;

    *d = (struct depth){
        .p = turn(t, m->c.n_layer + k, n_tok - 2 - k), .mtp = &m->mtp[k], .x = x, .dx = dx
    };
    struct turn *p = &d->p;
    d->proj = (struct matrix){ "nextn.eh_proj.weight", d->mtp->eh_proj, NULL, 2 * dim, dim };
    d->output =
        (struct matrix){ "nextn.shared_head_head.weight", d->mtp->output, NULL, dim, m->c.n_vocab };
    double *e = rows(p, dim), *hn = rows(p, dim);
    d->cat = rows(p, 2 * dim);
    d->dout = rows(p, dim);
    d->v = rows(p, dim);
    d->dv = rows(p, dim);
    ref_embed(m, ids + k + 1, p->n_tok, e);
    ref_rmsnorm(e, d->mtp->enorm, dim, p->n_tok, eps, e);
    ref_rmsnorm(x, d->mtp->hnorm, dim, p->n_tok, eps, hn);
    ref_add_columns(e, 2 * dim, 0, dim, p->n_tok, d->cat);
    ref_add_columns(hn, 2 * dim, dim, dim, p->n_tok, d->cat);
    d->u = linear(p, &d->proj, d->cat);
    d->mid = residual(p, mixers[p->l->mixer], p->l->attn_norm, d->u);
    d->out = residual(p, ffns[p->l->ffn], p->l->ffn_norm, d->mid);
}

/* The next depth has already added to dout or dv. */
static void depth_backward(struct depth *d)
{
    struct turn *p = &d->p;
    uint32_t dim = p->c->n_embd;
    double *dcat = rows(p, 2 * dim);

    ref_rmsnorm_bwd(d->out, d->mtp->head_norm, dim, p->n_tok, (double)p->c->eps, d->dv, d->dout);
    residual_bwd(p, ffns[p->l->ffn], p->l->ffn_norm, d->mid, d->dout);
    residual_bwd(p, mixers[p->l->mixer], p->l->attn_norm, d->u, d->dout);
    linear_bwd(p, &d->proj, d->cat, d->dout, dcat);
    ref_rmsnorm_bwd(d->x, d->mtp->hnorm, dim, p->n_tok, (double)p->c->eps,
                    part(p, dcat, 2 * dim, dim, dim, p->n_tok), d->dx);
}

/* The mean of the losses of the depths; a document of n tokens has room for n - 2 depths. Adds to
 * dx. */
static double mtp_loss(const struct ref_tune *t, const int32_t *ids, const uint8_t *mask,
                       uint32_t n_tok, double weight, double *nll, const double *x, double *dx)
{
    uint32_t n_mtp = t->m->c.n_mtp, n = n_tok - 2 < n_mtp ? n_tok - 2 : n_mtp;
    bool raw = t->m->mtp_raw;
    struct depth *d = mem_alloc(n, sizeof *d);
    double sum = 0;

    HLM_ASSERT(d != NULL);
    for (uint32_t k = 0; k < n; k++) {
        depth_forward(&d[k], t, ids, n_tok, k, x, dx);
        sum += head_loss(&d[k].p, d[k].mtp->head_norm, &d[k].output, d[k].out, ids, mask, k + 2,
                         weight / n_mtp, nll ? nll + (uint64_t)k * n_tok : NULL, d[k].v,
                         weight != 0 ? d[k].dv : NULL);
        x = raw ? d[k].out : d[k].v;
        dx = raw ? d[k].dout : d[k].dv;
    }
    for (uint32_t k = n; k-- > 0;) {
        if (weight != 0)
            depth_backward(&d[k]);
        release(&d[k].p);
    }
    free(d);
    return sum / n_mtp;
}

struct ref_sums ref_tune_document(const struct ref_tune *t, const int32_t *ids, const uint8_t *mask,
                                  uint32_t n_tok, double weight, double *nll, double *nll_mtp)
{
    const struct ref_config *c = &t->m->c;
    uint64_t n = (uint64_t)n_tok * c->n_embd;
    struct ref_sums sum = { 0 };
    struct turn p = { .t = t, .n_tok = n_tok };
    double *h = take(&p, (c->n_layer + 1) * n), *last = h + c->n_layer * n, *x = take(&p, n);
    double *dx = take(&p, n), *dh = take(&p, n);
    struct matrix output = { "output.weight", t->m->output, NULL, c->n_embd, c->n_vocab };

    ref_embed(t->m, ids, n_tok, h);
    if (nll)
        memset(nll, 0, n_tok * sizeof *nll);
    if (nll_mtp)
        memset(nll_mtp, 0, (uint64_t)c->n_mtp * n_tok * sizeof *nll_mtp);
    forward(t, n_tok, h);
    p.n_tok = n_tok ? n_tok - 1 : 0; /* the last row has no target */
    sum.main = head_loss(&p, t->m->output_norm, &output, last, ids, mask, 1, weight, nll, x, dx);
    if (t->mtp_factor != 0 && n_tok > 2) {
        bool raw = t->m->mtp_raw;
        HLM_ASSERT(c->n_mtp > 0);
        sum.mtp = mtp_loss(t, ids, mask, n_tok, weight * t->mtp_factor, nll_mtp, raw ? last : x,
                           raw ? dh : dx);
    }
    if (weight != 0) {
        ref_rmsnorm_bwd(last, t->m->output_norm, c->n_embd, p.n_tok, (double)c->eps, dx, dh);
        backward(t, n_tok, h, dh);
    }
    release(&p);
    return sum;
}

/* ---- the update ------------------------------------------------------------------------- */

/* AdamW after clip_grad_norm_, as in PyTorch (tests/fixtures/train/README.md). */
double ref_tune_update(struct ref_tune *t, const struct ref_adamw *o, uint32_t step)
{
    double norm = 0, clip = 1;
    double fix1 = 1 - pow(o->beta1, step), fix2 = 1 - pow(o->beta2, step);

    for (uint32_t i = 0; i < t->n_param; i++)
        for (uint64_t k = 0; k < t->param[i].n; k++)
            norm += t->param[i].grad[k] * t->param[i].grad[k];
    norm = sqrt(norm);
    if (o->clip_norm > 0)
        clip = fmin(1, o->clip_norm / (norm + 1e-6));
    for (uint32_t i = 0; i < t->n_param; i++) {
        struct ref_param *p = &t->param[i];
        for (uint64_t k = 0; k < p->n; k++) {
            double g = clip * p->grad[k];
            p->m[k] = o->beta1 * p->m[k] + (1 - o->beta1) * g;
            p->v[k] = o->beta2 * p->v[k] + (1 - o->beta2) * g * g;
            p->value[k] *= 1 - o->lr * (p->rank ? o->decay : o->decay_gates);
            p->value[k] -= o->lr * (p->m[k] / fix1) / (sqrt(p->v[k] / fix2) + o->eps);
            p->grad[k] = 0;
        }
    }
    return norm;
}
