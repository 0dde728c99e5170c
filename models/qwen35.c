/* qwen35: Qwen3.5 dense, Qwen3.5 mixture-of-experts, and Qwen3-Next.
 *
 * A layer is a mixer and a feed-forward, each on the normed residual. Three of four mixers are
 * Gated DeltaNet, the fourth is attention with a gate on its output. What differs between the three
 * architectures is small enough to stand in one file:
 *   - V heads: qwen3next keeps the checkpoint's order (V head j belongs to K head j / r); the
 *     others are tiled by the converter (K head j % nk). The most error-prone fact of the family.
 *   - write strength and decay: two matrices, or qwen3next's one (ssm_ba) with rows interleaved per
 *     K head.
 *   - feed-forward: dense, or experts with a shared one, told apart by the presence of the router.
 * Old qwen3next files have q, k, v and z in one matrix (ssm_in), interleaved per K head.
 * Storage and mathematics: model cards of Qwen3-Next and Qwen3.5; Gated DeltaNet, arXiv
 * 2412.06464. */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct layer {
    bool is_delta, is_moe;
    tensor attn_norm, ffn_norm;
    struct attention attn;
    linear wq, wk, wv, wo; /* wq: rows of query and gate, interleaved by head */
    struct delta delta;
    linear qkv, z, b, a, out;
    struct ffn ffn;
    struct moe moe;
};

struct qwen {
    uint32_t n_head, n_kv_head, head_dim, n_rot;
    float theta;
    uint32_t n_k_head, n_v_head, d_state, conv_k;
    bool tiled;
    uint32_t n_ff, n_expert, n_used, n_ff_exp, n_ff_shared;
    tensor turn;
    bool delta_at[512];
    struct layer *layer;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static bool attention_keys(struct model *m, struct binder *b, struct qwen *q)
{
    if (!model_u32(b, "attention.head_count", REQUIRED, &q->n_head) ||
        !model_range(b, "attention.head_count", q->n_head, 1, 1024))
        return false;
    q->n_kv_head = q->n_head;
    q->head_dim = m->n_embd / q->n_head;
    q->theta = 10000.0f;
    /* a scalar here; third-party converters write an array with 0 for linear layers, which the
     * layer kind covers */
    char key[64];
    snprintf(key, sizeof key, "%s.attention.head_count_kv", m->arch->name);
    const struct gguf_kv *kv = gguf_kv(m->file, key);
    if (kv && kv->type == GGUF_ARRAY) {
        uint32_t each[512], n = m->n_layer + m->n_mtp;
        if (!gguf_u32_each(m->file, key, REQUIRED, each, n, NULL))
            return model_refuse(b, "%s is not %u integers", key, n);
        for (uint32_t i = 0; i < n; i++)
            if (each[i])
                q->n_kv_head = each[i];
    } else if (!model_u32(b, "attention.head_count_kv", OPTIONAL, &q->n_kv_head)) {
        return false;
    }
    uint32_t v_len = 0;
    if (!model_range(b, "attention.head_count_kv", q->n_kv_head, 1, q->n_head) ||
        !model_u32(b, "attention.key_length", OPTIONAL, &q->head_dim) ||
        !model_range(b, "attention.key_length", q->head_dim, 4, 512))
        return false;
    v_len = q->n_rot = q->head_dim;
    if (!model_u32(b, "attention.value_length", OPTIONAL, &v_len) ||
        !model_range(b, "attention.value_length", v_len, q->head_dim, q->head_dim) ||
        !model_u32(b, "rope.dimension_count", OPTIONAL, &q->n_rot) ||
        !model_range(b, "rope.dimension_count", q->n_rot, 2, q->head_dim) ||
        !model_f32(b, "rope.freq_base", OPTIONAL, &q->theta))
        return false;
    if (q->n_head % q->n_kv_head || q->head_dim % 4 || q->n_rot % 2)
        return model_refuse(b,
                            "%u query heads of %u for %u key heads, %u rotated: expected a "
                            "multiple, of a multiple of 4, and an even number",
                            q->n_head, q->head_dim, q->n_kv_head, q->n_rot);
    if (!(q->theta > 1) || !isfinite(q->theta))
        return model_refuse(b, "%s.rope.freq_base is %g, expected a number above 1", m->arch->name,
                            q->theta);
    return true;
}

static bool delta_keys(struct model *m, struct binder *b, struct qwen *q)
{
    uint32_t inner = 0;
    if (!model_u32(b, "ssm.conv_kernel", REQUIRED, &q->conv_k) ||
        !model_range(b, "ssm.conv_kernel", q->conv_k, 2, 8) ||
        !model_u32(b, "ssm.state_size", REQUIRED, &q->d_state) ||
        !model_range(b, "ssm.state_size", q->d_state, 4, 256) ||
        !model_u32(b, "ssm.group_count", REQUIRED, &q->n_k_head) ||
        !model_range(b, "ssm.group_count", q->n_k_head, 1, 1024) ||
        !model_u32(b, "ssm.time_step_rank", REQUIRED, &q->n_v_head) ||
        !model_range(b, "ssm.time_step_rank", q->n_v_head, 1, 1024) ||
        !model_u32(b, "ssm.inner_size", REQUIRED, &inner))
        return false;
    if (q->d_state % 4 || q->n_v_head % q->n_k_head || (uint64_t)q->n_v_head * q->d_state != inner)
        return model_refuse(b,
                            "%u value heads of %u for %u key heads and an inner size of %u "
                            "do not fit together",
                            q->n_v_head, q->d_state, q->n_k_head, inner);

    q->tiled = m->arch != &arch_qwen3next;
    if (!gguf_bool(m->file, "ssm.v_head_reordered", OPTIONAL, &q->tiled, NULL))
        return model_refuse(b, "ssm.v_head_reordered is not a bool");
    uint32_t interval = 4;
    if (!model_u32(b, "full_attention_interval", OPTIONAL, &interval) ||
        !model_range(b, "full_attention_interval", interval, 1, 512))
        return false;
    for (uint32_t i = 0; i < m->n_layer; i++)
        q->delta_at[i] = (i + 1) % interval != 0;
    return model_bools(b, "attention.recurrent_layers", OPTIONAL, q->delta_at,
                       m->n_layer + m->n_mtp);
}

static bool ffn_keys(struct binder *b, struct qwen *q)
{
    if (!model_u32(b, "feed_forward_length", OPTIONAL, &q->n_ff) ||
        !model_u32(b, "expert_count", OPTIONAL, &q->n_expert) ||
        !model_u32(b, "expert_used_count", OPTIONAL, &q->n_used) ||
        !model_u32(b, "expert_feed_forward_length", OPTIONAL, &q->n_ff_exp) ||
        !model_u32(b, "expert_shared_feed_forward_length", OPTIONAL, &q->n_ff_shared))
        return false;
    if (q->n_expert == 0)
        return true; /* each dense layer asks for its width */
    return model_range(b, "expert_count", q->n_expert, 1, 512) &&
           model_range(b, "expert_used_count", q->n_used, 1, min_u32(q->n_expert, 64)) &&
           model_width(b, "expert_feed_forward_length", q->n_ff_exp) &&
           model_width(b, "expert_shared_feed_forward_length", q->n_ff_shared);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* W(kind, field, name, shape...): the weights of each half of a layer, in the order in which they
 * are brought up; matrices that one op multiplies stand together. */
#define ATTENTION(W)                                                                               \
    W(linear, wq, "blk.%u.attn_q.weight", d, 2 * hd * q->n_head)                                   \
    W(beside, wk, "blk.%u.attn_k.weight", d, hd * q->n_kv_head)                                    \
    W(beside, wv, "blk.%u.attn_v.weight", d, hd * q->n_kv_head)                                    \
    W(linear, wo, "blk.%u.attn_output.weight", hd * q->n_head, d)                                  \
    W(vector, attn.q_norm, "blk.%u.attn_q_norm.weight", hd, 1)                                     \
    W(vector, attn.k_norm, "blk.%u.attn_k_norm.weight", hd, 1)

#define DELTA(W)                                                                                   \
    W(linear, out, "blk.%u.ssm_out.weight", vd, d)                                                 \
    W(vector, delta.conv, "blk.%u.ssm_conv1d.weight", q->conv_k, 2 * kd + vd)                      \
    W(vector, delta.norm, "blk.%u.ssm_norm.weight", q->d_state, 1)

#define DENSE(W)                                                                                   \
    W(linear, ffn.gate, "blk.%u.ffn_gate.weight", d, q->n_ff)                                      \
    W(beside, ffn.up, "blk.%u.ffn_up.weight", d, q->n_ff)                                          \
    W(linear, ffn.down, "blk.%u.ffn_down.weight", q->n_ff, d)

#define MOE(W)                                                                                     \
    W(linear, moe.router, "blk.%u.ffn_gate_inp.weight", d, q->n_expert)                            \
    W(beside, moe.shared_gate, "blk.%u.ffn_gate_inp_shexp.weight", d, 1)                           \
    W(linear, moe.sh_gate, "blk.%u.ffn_gate_shexp.weight", d, q->n_ff_shared)                      \
    W(beside, moe.sh_up, "blk.%u.ffn_up_shexp.weight", d, q->n_ff_shared)                          \
    W(linear, moe.sh_down, "blk.%u.ffn_down_shexp.weight", q->n_ff_shared, d)

#define BIND(kind, field, name, n_in, n_out) &&bind_##kind(b, &l->field, name, i, n_in, n_out)

static bool bind_attention(struct model *m, struct binder *b, struct qwen *q, struct layer *l,
                           uint32_t i)
{
    uint32_t d = m->n_embd, hd = q->head_dim;
    l->attn = (struct attention){ .n_head = q->n_head,
                                  .n_kv_head = q->n_kv_head,
                                  .head_dim = hd,
                                  .n_rot = q->n_rot,
                                  .gate = GATE_ELEM,
                                  .norm = true,
                                  .turn = q->turn,
                                  .eps = m->eps };
    return true ATTENTION(BIND);
}

/* For each of nk K heads, `n` kinds of rows stand together in one tensor, of[k] rows of kind k.
 * Brings the rows of kinds [k0, k1) into w, kind by kind. */
static void bind_deinterleaved(struct binder *b, linear *w, const struct gguf_tensor *t,
                               uint32_t nk, const uint32_t *of, uint32_t n, uint32_t k0,
                               uint32_t k1)
{
    bind_beside_last(b);
    uint32_t per_head = 0, first = 0, n_out = 0;
    for (uint32_t k = 0; k < n; k++)
        per_head += of[k];
    for (uint32_t k = k0; k < k1; k++)
        n_out += of[k] * nk;
    bind_begin(b, w, t->type, (uint32_t)t->dim[0], n_out, 1);
    for (uint32_t k = 0; k < k1; first += of[k++])
        for (uint32_t g = 0; k >= k0 && g < nk; g++)
            bind_rows(b, t, g * per_head + first, of[k]);
    bind_end(b);
}

static bool bind_delta(struct model *m, struct binder *b, struct qwen *q, struct layer *l,
                       uint32_t i)
{
    uint32_t d = m->n_embd, nk = q->n_k_head, nv = q->n_v_head, s = q->d_state;
    uint32_t kd = nk * s, vd = nv * s, r = nv / nk;
    l->delta = (struct delta){ .n_k_head = nk,
                               .n_v_head = nv,
                               .d_state = s,
                               .conv_k = q->conv_k,
                               .tiled = q->tiled,
                               .eps = m->eps };
    if (model_has(b, "blk.%u.ssm_in.weight", i)) {
        const struct gguf_tensor *in = bind_find(b, "blk.%u.ssm_in.weight", i, d, 2 * kd + 2 * vd);
        if (!in)
            return false;
        const uint32_t of[] = { s, s, r * s, r * s }; /* q, k, v, z */
        bind_deinterleaved(b, &l->qkv, in, nk, of, 4, 0, 3);
        bind_deinterleaved(b, &l->z, in, nk, of, 4, 3, 4);
    } else if (!bind_linear(b, &l->qkv, "blk.%u.attn_qkv.weight", i, d, 2 * kd + vd) ||
               !bind_beside(b, &l->z, "blk.%u.attn_gate.weight", i, d, vd)) {
        return false;
    }
    if (model_has(b, "blk.%u.ssm_ba.weight", i)) {
        const struct gguf_tensor *ba = bind_find(b, "blk.%u.ssm_ba.weight", i, d, 2 * nv);
        if (!ba)
            return false;
        const uint32_t of[] = { r, r }; /* b, a */
        bind_deinterleaved(b, &l->b, ba, nk, of, 2, 0, 1);
        bind_deinterleaved(b, &l->a, ba, nk, of, 2, 1, 2);
    } else if (!bind_beside(b, &l->b, "blk.%u.ssm_beta.weight", i, d, nv) ||
               !bind_beside(b, &l->a, "blk.%u.ssm_alpha.weight", i, d, nv)) {
        return false;
    }
    return bind_exact(&l->b, nv) && bind_exact(&l->a, nv) &&
           bind_gate(b, &l->delta.ssm_a, "blk.%u.ssm_a", i, nv) &&
           bind_gate(b, &l->delta.dt_bias, "blk.%u.ssm_dt.bias", i, nv) DELTA(BIND);
}

static bool bind_moe(struct model *m, struct binder *b, struct qwen *q, struct layer *l, uint32_t i)
{
    uint32_t d = m->n_embd;
    l->moe = (struct moe){ .n_expert = q->n_expert, .n_used = q->n_used, .n_ff = q->n_ff_exp };
    return bind_gate_up(b, &l->moe, i, d) &&
           bind_experts(b, &l->moe.down, "blk.%u.ffn_down_exps.weight", i, q->n_ff_exp, d,
                        q->n_expert) MOE(BIND) &&
           bind_exact(&l->moe.router, q->n_expert) && bind_exact(&l->moe.shared_gate, 1);
}

static bool load(struct model *m, struct binder *b, struct hlm_err *err)
{
    struct qwen *q = m->own = mem_alloc(1, sizeof *q);
    if (!q)
        return fail(err, "out of memory");
    if (!attention_keys(m, b, q) || !delta_keys(m, b, q) || !ffn_keys(b, q))
        return false;
    uint32_t turn[512], d = m->n_embd;
    rope_turns(q->theta, q->n_rot, NULL, turn);
    uint32_t n = m->n_layer + m->n_draft;
    q->layer = mem_alloc(n, sizeof *q->layer);
    if (!q->layer)
        return fail(err, "out of memory: %u layers", n);
    if (!bind_words(b, &q->turn, turn, q->n_rot))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        struct layer *l = &q->layer[i];
        l->is_delta = i < m->n_layer && q->delta_at[i]; /* draft blocks are attention */
        l->is_moe = model_has(b, "blk.%u.ffn_gate_inp.weight", i);
        if (l->is_moe && q->n_expert == 0)
            return model_refuse(b, "blk.%u has a router but %s.expert_count is 0 or missing", i,
                                m->arch->name);
        if (!l->is_moe && q->n_expert && !q->n_ff)
            return model_refuse(b,
                                "tensor blk.%u.ffn_gate_inp.weight is missing, and the layer is "
                                "not dense either: %s.feed_forward_length is 0 or missing",
                                i, m->arch->name);
        if (!l->is_moe && !model_width(b, "feed_forward_length", q->n_ff))
            return false;
        if (!bind_vector(b, &l->attn_norm, "blk.%u.attn_norm.weight", i, d, 1) ||
            !bind_vector(b, &l->ffn_norm, "blk.%u.post_attention_norm.weight", i, d, 1) ||
            !(l->is_delta ? bind_delta(m, b, q, l, i) : bind_attention(m, b, q, l, i)))
            return false;
        bool ffn = l->is_moe ? bind_moe(m, b, q, l, i) : true DENSE(BIND);
        if (!ffn)
            return false;
    }
    return true;
}

static void unload(struct model *m)
{
    struct qwen *q = m->own;
    if (q)
        free(q->layer);
    free(q);
}

/* ---- the layer ------------------------------------------------------------------------------- */

static tensor block(struct cmd *c, const struct model *m, uint32_t i_layer,
                    struct layer_cache *cache, const struct batch *b, tensor x)
{
    const struct layer *l = &((const struct qwen *)m->own)->layer[i_layer];
    if (l->is_delta) {
        tensor p =
            op_norm_linear(c, x, l->attn_norm, m->eps, LINEARS(&l->qkv, &l->z, &l->b, &l->a));
        x = op_linear_add(c, op_delta(c, p, &l->delta, &cache->recurrent, b), &l->out, x);
    } else {
        tensor p = op_norm_linear(c, x, l->attn_norm, m->eps, LINEARS(&l->wq, &l->wk, &l->wv));
        x = op_linear_add(c, op_attention(c, p, &l->attn, &cache->kv, b), &l->wo, x);
    }
    return l->is_moe ? op_moe(c, x, l->ffn_norm, m->eps, &l->moe, &cache->moe, b)
                     : op_ffn(c, x, l->ffn_norm, m->eps, &l->ffn);
}

static struct layer_shape shape(const struct model *m, uint32_t i_layer)
{
    const struct qwen *q = m->own;
    uint32_t n_expert = q->layer[i_layer].is_moe ? q->n_expert : 0;
    if (!q->layer[i_layer].is_delta)
        return (struct layer_shape){ .n_kv_head = q->n_kv_head,
                                     .head_dim = q->head_dim,
                                     .n_expert = n_expert };
    return (struct layer_shape){
        .recurrent = { .n_head = q->n_v_head,
                       .n_row = q->d_state,
                       .n = q->d_state,
                       .d_conv = (2 * q->n_k_head + q->n_v_head) * q->d_state,
                       .conv_k = q->conv_k },
        .n_expert = n_expert,
    };
}

const struct arch arch_qwen3next = { "qwen3next", load, unload, shape, block, false };
const struct arch arch_qwen35 = { "qwen35", load, unload, shape, block, false };
const struct arch arch_qwen35moe = { "qwen35moe", load, unload, shape, block, false };
