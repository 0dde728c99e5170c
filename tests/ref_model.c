/* ref_model: whole models in double - qwen35, qwen35moe, qwen3next - on ref_ops.c.
 *
 * Owns its reading of keys (models.md 1.1, 1.2), tensors (2.1-2.3, and the old ssm_in layout) and
 * blocks (3.2). MTP blocks, images and extended-context scaling are not its business; the last is
 * refused. */
#include "ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The weights, once: field, name inside the block, dimensions as GGUF has them (fastest first). */
// clang-format off
#define WEIGHTS_BLOCK(W)                                                                      \
    W(attn_norm,     "attn_norm.weight",           c->n_embd, 1, 1)                           \
    W(post_norm,     "post_attention_norm.weight", c->n_embd, 1, 1)
#define WEIGHTS_ATTENTION(W)                                                                  \
    W(wq,            "attn_q.weight",              c->n_embd, 2 * c->head_dim * c->n_head, 1) \
    W(wk,            "attn_k.weight",              c->n_embd, c->head_dim * l->n_kv_head, 1)  \
    W(wv,            "attn_v.weight",              c->n_embd, c->head_dim * l->n_kv_head, 1)  \
    W(wo,            "attn_output.weight",         c->head_dim * c->n_head, c->n_embd, 1)     \
    W(q_norm,        "attn_q_norm.weight",         c->head_dim, 1, 1)                         \
    W(k_norm,        "attn_k_norm.weight",         c->head_dim, 1, 1)
#define WEIGHTS_DELTA(W)                                                                      \
    W(conv,          "ssm_conv1d.weight",          c->conv_k, conv_width(c), 1)               \
    W(dt_bias,       "ssm_dt.bias",                c->n_v_head, 1, 1)                         \
    W(ssm_a,         "ssm_a",                      c->n_v_head, 1, 1)                         \
    W(ssm_norm,      "ssm_norm.weight",            c->d_state, 1, 1)                          \
    W(ssm_out,       "ssm_out.weight",             v_width(c), c->n_embd, 1)
#define WEIGHTS_DELTA_IN(W)                                                                   \
    W(wqkv,          "attn_qkv.weight",            c->n_embd, conv_width(c), 1)               \
    W(wz,            "attn_gate.weight",           c->n_embd, v_width(c), 1)
#define WEIGHTS_DELTA_GATES(W)                                                                \
    W(wb,            "ssm_beta.weight",            c->n_embd, c->n_v_head, 1)                 \
    W(wa,            "ssm_alpha.weight",           c->n_embd, c->n_v_head, 1)
#define WEIGHTS_DENSE(W)                                                                      \
    W(gate,          "ffn_gate.weight",            c->n_embd, c->n_ff, 1)                     \
    W(up,            "ffn_up.weight",              c->n_embd, c->n_ff, 1)                     \
    W(down,          "ffn_down.weight",            c->n_ff, c->n_embd, 1)
#define WEIGHTS_MOE(W)                                                                        \
    W(router,        "ffn_gate_inp.weight",        c->n_embd, c->n_expert, 1)                 \
    W(gate_exps,     "ffn_gate_exps.weight",       c->n_embd, c->n_ff_expert, c->n_expert)    \
    W(up_exps,       "ffn_up_exps.weight",         c->n_embd, c->n_ff_expert, c->n_expert)    \
    W(down_exps,     "ffn_down_exps.weight",       c->n_ff_expert, c->n_embd, c->n_expert)    \
    W(shared_router, "ffn_gate_inp_shexp.weight",  c->n_embd, 1, 1)                           \
    W(shared_gate,   "ffn_gate_shexp.weight",      c->n_embd, c->n_ff_shared, 1)              \
    W(shared_up,     "ffn_up_shexp.weight",        c->n_embd, c->n_ff_shared, 1)              \
    W(shared_down,   "ffn_down_shexp.weight",      c->n_ff_shared, c->n_embd, 1)

struct layer {
    bool delta, moe;
    uint32_t n_kv_head;
#define W(field, ...) float *field;
    WEIGHTS_BLOCK(W) WEIGHTS_ATTENTION(W)
    WEIGHTS_DELTA(W) WEIGHTS_DELTA_IN(W) WEIGHTS_DELTA_GATES(W)
    WEIGHTS_DENSE(W) WEIGHTS_MOE(W)
#undef W
};
// clang-format on

struct ref_model {
    struct ref_config c;
    struct layer *layer; /* [n_layer] */
    float *token_embd, *output_norm, *output;
    float *rope_freq; /* [n_rot / 2] */
    void **owned;     /* every float array above, once */
    uint64_t n_owned;
};

static uint32_t v_width(const struct ref_config *c)
{
    return c->n_v_head * c->d_state;
}
static uint32_t conv_width(const struct ref_config *c)
{
    return 2 * c->n_k_head * c->d_state + v_width(c);
}

/* ---- keys ------------------------------------------------------------------------------- */

struct loader {
    const struct gguf *g;
    struct ref_model *m;
    struct err *err;
    uint32_t n_block; /* with MTP blocks: the length of per-layer arrays */
    char key[96], name[96];
};

static const char *key(struct loader *ld, const char *name)
{
    snprintf(ld->key, sizeof ld->key, "%s.%s", ld->m->c.arch, name);
    return ld->key;
}

static bool key_u32(struct loader *ld, const char *name, enum gguf_need need, uint32_t *v)
{
    return gguf_u32(ld->g, key(ld, name), need, v, ld->err);
}

static bool read_arch(struct loader *ld)
{
    static const char *const known[] = { "qwen35", "qwen35moe", "qwen3next" };
    struct str s = { 0 };

    if (!gguf_str(ld->g, "general.architecture", REQUIRED, &s, ld->err))
        return false;
    for (uint32_t i = 0; i < ARRAY_LEN(known); i++) {
        if (s.n != strlen(known[i]) || memcmp(s.p, known[i], s.n))
            continue;
        memcpy(ld->m->c.arch, known[i], s.n + 1);
        return true;
    }
    return fail(ld->err, "%s: the reference has no architecture %.*s", gguf_path(ld->g), (int)s.n,
                s.p);
}

static bool read_attention(struct loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t value_length;
    struct str scaling = { "none", 4 };

    if (!key_u32(ld, "attention.head_count", REQUIRED, &c->n_head))
        return false;
    c->head_dim = c->n_head ? c->n_embd / c->n_head : 0;
    if (!key_u32(ld, "attention.key_length", OPTIONAL, &c->head_dim))
        return false;
    value_length = c->n_rot = c->head_dim;
    if (!key_u32(ld, "attention.value_length", OPTIONAL, &value_length) ||
        !key_u32(ld, "rope.dimension_count", OPTIONAL, &c->n_rot))
        return false;
    c->rope_theta = 10000;
    if (!gguf_f32(ld->g, key(ld, "rope.freq_base"), OPTIONAL, &c->rope_theta, ld->err) ||
        !gguf_f32(ld->g, key(ld, "attention.layer_norm_rms_epsilon"), REQUIRED, &c->eps, ld->err) ||
        !gguf_str(ld->g, key(ld, "rope.scaling.type"), OPTIONAL, &scaling, ld->err))
        return false;
    if (scaling.n != 4 || memcmp(scaling.p, "none", 4))
        return fail(ld->err, "%s: rope scaling is not in the reference", gguf_path(ld->g));
    if (!c->n_head || !c->head_dim || value_length != c->head_dim || c->n_rot % 2 ||
        c->n_rot > c->head_dim)
        return fail(ld->err, "%s: %u heads of %u and %u, %u of it rotated", gguf_path(ld->g),
                    c->n_head, c->head_dim, value_length, c->n_rot);
    return true;
}

static bool read_delta(struct loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t inner;

    if (!key_u32(ld, "ssm.conv_kernel", REQUIRED, &c->conv_k) ||
        !key_u32(ld, "ssm.state_size", REQUIRED, &c->d_state) ||
        !key_u32(ld, "ssm.group_count", REQUIRED, &c->n_k_head) ||
        !key_u32(ld, "ssm.time_step_rank", REQUIRED, &c->n_v_head) ||
        !key_u32(ld, "ssm.inner_size", REQUIRED, &inner))
        return false;
    if (!c->conv_k || !c->d_state || !c->n_k_head || !c->n_v_head || c->n_v_head % c->n_k_head ||
        inner != (uint64_t)c->n_v_head * c->d_state)
        return fail(ld->err, "%s: delta net of %u taps, %u and %u heads of %u, inner size %u",
                    gguf_path(ld->g), c->conv_k, c->n_k_head, c->n_v_head, c->d_state, inner);
    /* V-head order (2.2): the name decides, unless the file says it. */
    c->tiled = strcmp(c->arch, "qwen3next") != 0;
    return gguf_bool(ld->g, key(ld, "ssm.v_head_reordered"), OPTIONAL, &c->tiled, ld->err);
}

static bool read_ffn(struct loader *ld)
{
    struct ref_config *c = &ld->m->c;
    bool moe = strcmp(c->arch, "qwen35") != 0;

    if (!key_u32(ld, "feed_forward_length", moe ? OPTIONAL : REQUIRED, &c->n_ff))
        return false;
    if (!moe)
        return true;
    if (!key_u32(ld, "expert_count", REQUIRED, &c->n_expert) ||
        !key_u32(ld, "expert_used_count", REQUIRED, &c->n_used) ||
        !key_u32(ld, "expert_feed_forward_length", REQUIRED, &c->n_ff_expert) ||
        !key_u32(ld, "expert_shared_feed_forward_length", REQUIRED, &c->n_ff_shared))
        return false;
    if (!c->n_used || c->n_used > c->n_expert)
        return fail(ld->err, "%s: %u of %u experts", gguf_path(ld->g), c->n_used, c->n_expert);
    return true;
}

/* Which layers are recurrent, and the KV heads of the others. */
static bool read_kinds(struct loader *ld)
{
    struct ref_model *m = ld->m;
    uint32_t interval = 4, *n_kv = mem_alloc(ld->n_block, sizeof *n_kv);
    bool *delta = mem_alloc(ld->n_block, sizeof *delta), ok;
    HLM_ASSERT(n_kv && delta);

    for (uint32_t i = 0; i < ld->n_block; i++)
        n_kv[i] = m->c.n_head;
    ok = key_u32(ld, "full_attention_interval", OPTIONAL, &interval) &&
         (interval || fail(ld->err, "%s: full_attention_interval is 0", gguf_path(ld->g))) &&
         gguf_u32_each(ld->g, key(ld, "attention.head_count_kv"), OPTIONAL, n_kv, ld->n_block,
                       ld->err);
    for (uint32_t i = 0; ok && i < ld->n_block; i++)
        delta[i] = (i + 1) % interval != 0;
    ok = ok && gguf_bool_each(ld->g, key(ld, "attention.recurrent_layers"), OPTIONAL, delta,
                              ld->n_block, ld->err);
    for (uint32_t i = 0; ok && i < m->c.n_layer; i++) {
        m->layer[i].delta = delta[i];
        m->layer[i].n_kv_head = n_kv[i];
        if (!delta[i] && (!n_kv[i] || m->c.n_head % n_kv[i]))
            ok = fail(ld->err, "%s: layer %u has %u heads, %u KV heads", gguf_path(ld->g), i,
                      m->c.n_head, n_kv[i]);
    }
    free(n_kv);
    free(delta);
    return ok;
}

static bool read_config(struct loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t n_mtp = 0;

    if (!read_arch(ld) || !key_u32(ld, "block_count", REQUIRED, &ld->n_block) ||
        !key_u32(ld, "nextn_predict_layers", OPTIONAL, &n_mtp) ||
        !key_u32(ld, "embedding_length", REQUIRED, &c->n_embd))
        return false;
    if (n_mtp >= ld->n_block || ld->n_block > 4096)
        return fail(ld->err, "%s: %u blocks, %u of them MTP", gguf_path(ld->g), ld->n_block, n_mtp);
    c->n_layer = ld->n_block - n_mtp;
    ld->m->layer = mem_alloc(c->n_layer, sizeof *ld->m->layer);
    HLM_ASSERT(ld->m->layer != NULL);
    return read_attention(ld) && read_delta(ld) && read_ffn(ld) && read_kinds(ld);
}

/* ---- tensors ---------------------------------------------------------------------------- */

static float *take(struct ref_model *m, uint64_t n)
{
    float *p = mem_alloc(n, sizeof *p);
    void **owned = mem_grow(m->owned, m->n_owned + 1, sizeof *owned);
    HLM_ASSERT(p && owned);
    m->owned = owned;
    m->owned[m->n_owned++] = p;
    return p;
}

/* A tensor as floats: d0 the length of a row, d1 rows, d2 experts. */
static bool load(struct loader *ld, const char *name, uint64_t d0, uint64_t d1, uint64_t d2,
                 float **out)
{
    const struct gguf_tensor *t = gguf_tensor(ld->g, name);

    if (!t)
        return fail(ld->err, "%s: no tensor %s", gguf_path(ld->g), name);
    if (t->dim[0] != d0 || t->dim[1] != d1 || t->dim[2] != d2 || t->dim[3] != 1)
        return fail(ld->err, "%s: %s is %llu x %llu x %llu, expected %llu x %llu x %llu",
                    gguf_path(ld->g), name, (unsigned long long)t->dim[0],
                    (unsigned long long)t->dim[1], (unsigned long long)t->dim[2],
                    (unsigned long long)d0, (unsigned long long)d1, (unsigned long long)d2);
    if (!dtype_info(t->type)->to_f32)
        return fail(ld->err, "%s: %s is %s", gguf_path(ld->g), name, dtype_info(t->type)->name);
    *out = take(ld->m, t->n_elem);
    dtype_to_f32(t->type, t->data, t->n_elem, *out);
    return true;
}

static const char *in_block(struct loader *ld, uint32_t i_layer, const char *name)
{
    snprintf(ld->name, sizeof ld->name, "blk.%u.%s", i_layer, name);
    return ld->name;
}

/* ssm_ba (qwen3next): per K head r rows of b, then r rows of a (2.2, trap 11). */
static bool load_ba(struct loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct layer *l = &ld->m->layer[i_layer];
    uint64_t dim = c->n_embd, r = c->n_v_head / c->n_k_head;
    float *ba;

    if (!load(ld, in_block(ld, i_layer, "ssm_ba.weight"), dim, 2 * c->n_v_head, 1, &ba))
        return false;
    l->wb = take(ld->m, c->n_v_head * dim);
    l->wa = take(ld->m, c->n_v_head * dim);
    for (uint64_t head = 0; head < c->n_k_head; head++) {
        const float *from = ba + head * 2 * r * dim;
        memcpy(l->wb + head * r * dim, from, r * dim * sizeof *from);
        memcpy(l->wa + head * r * dim, from + r * dim, r * dim * sizeof *from);
    }
    return true;
}

/* ssm_in (old qwen3next): per K head S rows of q, S of k, r S of v, r S of z (2.2). */
static bool load_ssm_in(struct loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct layer *l = &ld->m->layer[i_layer];
    uint64_t n_k = c->n_k_head, k_part = (uint64_t)c->d_state * c->n_embd;
    uint64_t v_part = k_part * (c->n_v_head / n_k);
    float *from;

    if (!load(ld, in_block(ld, i_layer, "ssm_in.weight"), c->n_embd, conv_width(c) + v_width(c), 1,
              &from))
        return false;
    l->wqkv = take(ld->m, (uint64_t)conv_width(c) * c->n_embd);
    l->wz = take(ld->m, (uint64_t)v_width(c) * c->n_embd);
    for (uint64_t head = 0; head < n_k; head++) {
        memcpy(l->wqkv + head * k_part, from, k_part * sizeof *from);
        memcpy(l->wqkv + (n_k + head) * k_part, from + k_part, k_part * sizeof *from);
        memcpy(l->wqkv + 2 * n_k * k_part + head * v_part, from + 2 * k_part,
               v_part * sizeof *from);
        memcpy(l->wz + head * v_part, from + 2 * k_part + v_part, v_part * sizeof *from);
        from += 2 * k_part + 2 * v_part;
    }
    return true;
}

static bool load_layer(struct loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct layer *l = &ld->m->layer[i_layer];

#define W(field, name, d0, d1, d2)                                                                 \
    if (!load(ld, in_block(ld, i_layer, name), d0, d1, d2, &l->field))                             \
        return false;
    WEIGHTS_BLOCK(W)
    if (!l->delta) {
        WEIGHTS_ATTENTION(W)
    } else {
        WEIGHTS_DELTA(W)
        if (gguf_tensor(ld->g, in_block(ld, i_layer, "ssm_in.weight"))) {
            if (!load_ssm_in(ld, i_layer))
                return false;
        } else {
            WEIGHTS_DELTA_IN(W)
        }
        if (gguf_tensor(ld->g, in_block(ld, i_layer, "ssm_ba.weight"))) {
            if (!load_ba(ld, i_layer))
                return false;
        } else {
            WEIGHTS_DELTA_GATES(W)
        }
    }
    l->moe = gguf_tensor(ld->g, in_block(ld, i_layer, "ffn_gate_inp.weight")) != NULL;
    if (l->moe) {
        WEIGHTS_MOE(W)
    } else {
        WEIGHTS_DENSE(W)
    }
#undef W
    return true;
}

static bool load_all(struct loader *ld)
{
    struct ref_model *m = ld->m;
    struct ref_config *c = &m->c;
    const struct gguf_tensor *embd = gguf_tensor(ld->g, "token_embd.weight");

    if (!embd || !embd->dim[1] || embd->dim[1] > INT32_MAX)
        return fail(ld->err, "%s: no usable token_embd.weight", gguf_path(ld->g));
    c->n_vocab = (uint32_t)embd->dim[1];
    if (!load(ld, "token_embd.weight", c->n_embd, c->n_vocab, 1, &m->token_embd) ||
        !load(ld, "output_norm.weight", c->n_embd, 1, 1, &m->output_norm))
        return false;
    m->output = m->token_embd; /* tied (trap 28) */
    if (gguf_tensor(ld->g, "output.weight") &&
        !load(ld, "output.weight", c->n_embd, c->n_vocab, 1, &m->output))
        return false;
    for (uint32_t i = 0; i < c->n_layer; i++)
        if (!load_layer(ld, i))
            return false;
    m->rope_freq = take(m, c->n_rot / 2 + 1);
    ref_rope_freq((double)c->rope_theta, c->n_rot, NULL, m->rope_freq);
    return true;
}

struct ref_model *ref_model_open(const struct gguf *g, struct err *err)
{
    struct ref_model *m = mem_alloc(1, sizeof *m);
    HLM_ASSERT(m != NULL);
    struct loader ld = { .g = g, .m = m, .err = err };

    if (read_config(&ld) && load_all(&ld))
        return m;
    ref_model_close(m);
    return NULL;
}

void ref_model_close(struct ref_model *m)
{
    if (!m)
        return;
    for (uint64_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m->owned);
    free(m->layer);
    free(m);
}

const struct ref_config *ref_model_config(const struct ref_model *m)
{
    return &m->c;
}

/* ---- state ------------------------------------------------------------------------------ */

struct layer_state {
    double *k, *v;  /* attention: [pos, n_kv_head, head_dim], grown by every call */
    double *window; /* delta: [conv_k - 1, conv_width] */
    double *delta;  /* delta: [n_v_head, d_state of k, d_state of v] */
};

struct ref_state {
    uint32_t n_layer, pos;
    struct layer_state *layer;
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
        if (!m->layer[i].delta)
            continue;
        s->layer[i].window = doubles((uint64_t)(c->conv_k - 1) * conv_width(c));
        s->layer[i].delta = doubles((uint64_t)v_width(c) * c->d_state);
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
        free(s->layer[i].delta);
    }
    free(s->layer);
    free(s);
}

uint32_t ref_state_pos(const struct ref_state *s)
{
    return s->pos;
}

/* ---- blocks (3.2) ----------------------------------------------------------------------- */

/* What a block is given: the model, its layer and the layer's past. */
struct pass {
    const struct ref_model *m;
    const struct layer *l;
    struct layer_state *past;
    uint32_t n_tok, pos;
};

static double *linear(const struct pass *p, const float *w, uint32_t n_in, uint32_t n_out,
                      const double *x)
{
    double *y = doubles((uint64_t)p->n_tok * n_out);
    ref_linear(w, n_in, n_out, x, p->n_tok, y);
    return y;
}

/* The rows of attn_q are per head: head_dim of the query, then head_dim of its gate (trap 4). */
static void split_query(const struct pass *p, const double *qg, double *q, double *gate)
{
    uint64_t hd = p->m->c.head_dim, n = (uint64_t)p->n_tok * p->m->c.n_head;
    for (uint64_t i = 0; i < n; i++) {
        memcpy(q + i * hd, qg + 2 * i * hd, hd * sizeof *q);
        memcpy(gate + i * hd, qg + (2 * i + 1) * hd, hd * sizeof *q);
    }
}

static void norm_and_rotate(const struct pass *p, const float *norm, uint32_t n_head, double *x)
{
    const struct ref_config *c = &p->m->c;
    ref_rmsnorm(x, norm, c->head_dim, p->n_tok * n_head, (double)c->eps, x);
    for (uint32_t t = 0; t < p->n_tok; t++)
        ref_rope(p->m->rope_freq, c->n_rot, p->pos + t, n_head, c->head_dim,
                 x + (uint64_t)t * n_head * c->head_dim);
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
    const struct ref_config *c = &p->m->c;
    const struct layer *l = p->l;
    uint32_t q_dim = c->n_head * c->head_dim, kv_dim = l->n_kv_head * c->head_dim;
    double *qg = linear(p, l->wq, c->n_embd, 2 * q_dim, x);
    double *k = linear(p, l->wk, c->n_embd, kv_dim, x);
    double *v = linear(p, l->wv, c->n_embd, kv_dim, x);
    double *q = doubles((uint64_t)p->n_tok * q_dim), *gate = doubles((uint64_t)p->n_tok * q_dim);
    double *o = doubles((uint64_t)p->n_tok * q_dim);

    split_query(p, qg, q, gate);
    norm_and_rotate(p, l->q_norm, c->n_head, q);
    norm_and_rotate(p, l->k_norm, l->n_kv_head, k);
    p->past->k = append(p->past->k, (uint64_t)p->pos * kv_dim, k, (uint64_t)p->n_tok * kv_dim);
    p->past->v = append(p->past->v, (uint64_t)p->pos * kv_dim, v, (uint64_t)p->n_tok * kv_dim);
    ref_attention(&(struct ref_attention){ .n_tok = p->n_tok,
                                           .n_past = p->pos,
                                           .n_head = c->n_head,
                                           .n_kv_head = l->n_kv_head,
                                           .head_dim = c->head_dim,
                                           .q = q,
                                           .k = p->past->k,
                                           .v = p->past->v,
                                           .gate = gate },
                  o);
    double *y = linear(p, l->wo, q_dim, c->n_embd, o);
    free(qg);
    free(k);
    free(v);
    free(q);
    free(gate);
    free(o);
    return y;
}

static double *delta_mixer(const struct pass *p, const double *x)
{
    const struct ref_config *c = &p->m->c;
    const struct layer *l = p->l;
    double *qkv = linear(p, l->wqkv, c->n_embd, conv_width(c), x);
    double *z = linear(p, l->wz, c->n_embd, v_width(c), x);
    double *b = linear(p, l->wb, c->n_embd, c->n_v_head, x);
    double *a = linear(p, l->wa, c->n_embd, c->n_v_head, x);
    double *u = doubles((uint64_t)p->n_tok * conv_width(c));
    double *o = doubles((uint64_t)p->n_tok * v_width(c));

    ref_conv_silu(&(struct ref_conv){ .n_tok = p->n_tok,
                                      .n_ch = conv_width(c),
                                      .conv_k = c->conv_k,
                                      .w = l->conv,
                                      .x = qkv,
                                      .window = p->past->window },
                  u);
    ref_delta(&(struct ref_delta){ .n_tok = p->n_tok,
                                   .n_k_head = c->n_k_head,
                                   .n_v_head = c->n_v_head,
                                   .d_state = c->d_state,
                                   .tiled = c->tiled,
                                   .qkv = u,
                                   .b = b,
                                   .a = a,
                                   .ssm_a = l->ssm_a,
                                   .dt_bias = l->dt_bias,
                                   .state = p->past->delta },
              o);
    ref_gated_norm(o, z, l->ssm_norm, c->d_state, p->n_tok * c->n_v_head, (double)c->eps);
    double *y = linear(p, l->ssm_out, v_width(c), c->n_embd, o);
    free(qkv);
    free(z);
    free(b);
    free(a);
    free(u);
    free(o);
    return y;
}

static double *ffn(const struct pass *p, const double *x)
{
    const struct ref_config *c = &p->m->c;
    const struct layer *l = p->l;
    double *y = doubles((uint64_t)p->n_tok * c->n_embd);

    if (!l->moe) {
        ref_ffn(&(struct ref_ffn){ .n_embd = c->n_embd,
                                   .n_ff = c->n_ff,
                                   .gate = l->gate,
                                   .up = l->up,
                                   .down = l->down },
                x, p->n_tok, y);
        return y;
    }
    ref_moe(&(struct ref_moe){ .n_embd = c->n_embd,
                               .n_expert = c->n_expert,
                               .n_used = c->n_used,
                               .n_ff = c->n_ff_expert,
                               .n_ff_shared = c->n_ff_shared,
                               .router = l->router,
                               .gate = l->gate_exps,
                               .up = l->up_exps,
                               .down = l->down_exps,
                               .shared_router = l->shared_router,
                               .shared_gate = l->shared_gate,
                               .shared_up = l->shared_up,
                               .shared_down = l->shared_down },
            x, p->n_tok, y);
    return y;
}

/* h += f(rmsnorm(h)), twice. */
static void block(const struct pass *p, double *h)
{
    const struct ref_config *c = &p->m->c;
    uint64_t n = (uint64_t)p->n_tok * c->n_embd;
    double *x = doubles(n), *y;

    ref_rmsnorm(h, p->l->attn_norm, c->n_embd, p->n_tok, (double)c->eps, x);
    y = p->l->delta ? delta_mixer(p, x) : attention_mixer(p, x);
    for (uint64_t i = 0; i < n; i++)
        h[i] += y[i];
    free(y);

    ref_rmsnorm(h, p->l->post_norm, c->n_embd, p->n_tok, (double)c->eps, x);
    y = ffn(p, x);
    for (uint64_t i = 0; i < n; i++)
        h[i] += y[i];
    free(y);
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
        struct pass p = {
            .m = m, .l = &m->layer[i], .past = &s->layer[i], .n_tok = n_tok, .pos = s->pos
        };
        block(&p, h);
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
