/* step35: Step-3.5 and Step-3.7.
 *
 * Every layer is attention and a feed-forward, each on the normed residual. What is special:
 *   - Layers of two kinds, by the file's pattern: full attention, and a sliding window of 512.
 *     They differ in heads, rotary base and rotated width; frequency factors belong to full layers
 *     alone.
 *   - Query and key heads are normalised; each head's output has one gate, from the normed input.
 *   - SwiGLU with limits by layer, one for routed experts, one for the shared expert and the dense
 *     layers; 0 is none.
 *   - The router is a sigmoid with a bias that only chooses; the shared expert has no gate.
 * Storage and mathematics: model cards of Step-3.5-Flash and Step-3.7. */
#include "model/arch.h"

#include <math.h>
#include <stdlib.h>

struct layer {
    tensor attn_norm, ffn_norm;
    struct attention attn;
    linear wq, wk, wv, wg, wo; /* wg: a gate for each head */
    bool is_moe;
    struct ffn ffn;
    struct moe moe;
};

struct step35 {
    uint32_t n_head[512], n_kv_head[512], head_dim, window;
    bool slides[512];
    float theta, theta_sliding;
    tensor turn, turn_sliding;
    uint32_t n_ff[512], n_expert, n_used, n_ff_exp, n_ff_shared, n_dense;
    uint32_t n_group, n_group_used;
    bool renorm;
    float scale, limit[512], limit_shared[512];
    struct layer *layer;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static bool attention_keys(struct model *m, struct binder *b, struct step35 *q)
{
    q->theta = q->theta_sliding = 10000.0f;
    if (!model_u32s(b, "attention.head_count", REQUIRED, q->n_head) ||
        !model_u32s(b, "attention.head_count_kv", REQUIRED, q->n_kv_head) ||
        !model_u32(b, "attention.sliding_window", REQUIRED, &q->window) ||
        !model_range(b, "attention.sliding_window", q->window, 1, 1u << 20) ||
        !model_bools(b, "attention.sliding_window_pattern", REQUIRED, q->slides,
                     m->n_layer + m->n_mtp) ||
        !model_u32(b, "attention.key_length", REQUIRED, &q->head_dim) ||
        !model_range(b, "attention.key_length", q->head_dim, 4, 512) ||
        !model_f32(b, "rope.freq_base", OPTIONAL, &q->theta) ||
        !model_f32(b, "rope.freq_base_swa", OPTIONAL, &q->theta_sliding))
        return false;
    uint32_t v_len = q->head_dim;
    if (!model_u32(b, "attention.value_length", OPTIONAL, &v_len) ||
        !model_range(b, "attention.value_length", v_len, q->head_dim, q->head_dim))
        return false;
    if (q->head_dim % 4)
        return model_refuse(b, "heads of %u, expected a multiple of 4", q->head_dim);
    if (!(q->theta > 1) || !isfinite(q->theta) || !(q->theta_sliding > 1) ||
        !isfinite(q->theta_sliding))
        return model_refuse(b,
                            "step35.rope.freq_base is %g, freq_base_swa %g, expected numbers "
                            "above 1",
                            q->theta, q->theta_sliding);
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (!model_range(b, "attention.head_count", q->n_head[i], 1, 1024) ||
            !model_range(b, "attention.head_count_kv", q->n_kv_head[i], 1, q->n_head[i]) ||
            q->n_head[i] % q->n_kv_head[i])
            return model_refuse(b,
                                "block %u has %u query heads for %u key heads, expected a "
                                "multiple",
                                i, q->n_head[i], q->n_kv_head[i]);
    return true;
}

static bool ffn_keys(struct model *m, struct binder *b, struct step35 *q)
{
    uint32_t gating = 2, every = 1;
    q->n_group = q->n_group_used = 1;
    q->renorm = true;
    if (!model_u32s(b, "feed_forward_length", OPTIONAL, q->n_ff) ||
        !model_f32s(b, "swiglu_clamp_exp", OPTIONAL, q->limit) ||
        !model_f32s(b, "swiglu_clamp_shexp", OPTIONAL, q->limit_shared) ||
        !model_u32(b, "expert_count", OPTIONAL, &q->n_expert))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (q->limit[i] < 0 || q->limit_shared[i] < 0)
            return model_refuse(b,
                                "the SwiGLU limits of block %u are %g and %g, expected none "
                                "below 0",
                                i, q->limit[i], q->limit_shared[i]);
    if (!q->n_expert)
        return true;
    return model_range(b, "expert_count", q->n_expert, 1, 512) &&
           model_u32(b, "leading_dense_block_count", OPTIONAL, &q->n_dense) &&
           model_u32(b, "moe_every_n_layers", OPTIONAL, &every) &&
           model_range(b, "moe_every_n_layers", every, 1, 1) &&
           model_u32(b, "expert_used_count", REQUIRED, &q->n_used) &&
           model_range(b, "expert_used_count", q->n_used, 1, min_u32(q->n_expert, 64)) &&
           model_u32(b, "expert_feed_forward_length", REQUIRED, &q->n_ff_exp) &&
           model_width(b, "expert_feed_forward_length", q->n_ff_exp) &&
           model_u32(b, "expert_shared_feed_forward_length", OPTIONAL, &q->n_ff_shared) &&
           (!q->n_ff_shared ||
            model_width(b, "expert_shared_feed_forward_length", q->n_ff_shared)) &&
           model_u32(b, "expert_group_count", OPTIONAL, &q->n_group) &&
           model_u32(b, "expert_group_used_count", OPTIONAL, &q->n_group_used) &&
           model_groups(b, q->n_expert, q->n_used, &q->n_group, &q->n_group_used) &&
           model_bool(b, "expert_weights_norm", OPTIONAL, &q->renorm) &&
           model_expert_scale(b, &q->scale) &&
           model_u32(b, "expert_gating_func", OPTIONAL, &gating) &&
           model_range(b, "expert_gating_func", gating, 2, 2);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* clang-format off */
#define LAYER(W)                                                                  \
    W(linear, wq, "blk.%u.attn_q.weight", d, hd * h)                              \
    W(beside, wk, "blk.%u.attn_k.weight", d, hd * h_kv)                           \
    W(beside, wv, "blk.%u.attn_v.weight", d, hd * h_kv)                           \
    W(beside, wg, "blk.%u.attn_gate.weight", d, h)                                \
    W(linear, wo, "blk.%u.attn_output.weight", hd * h, d)                         \
    W(vector, attn.q_norm, "blk.%u.attn_q_norm.weight", hd, 1)                    \
    W(vector, attn.k_norm, "blk.%u.attn_k_norm.weight", hd, 1)                    \
    W(vector, attn_norm, "blk.%u.attn_norm.weight", d, 1)                         \
    W(vector, ffn_norm, "blk.%u.ffn_norm.weight", d, 1)
/* clang-format on */

#define DENSE(W)                                                                                   \
    W(linear, ffn.gate, "blk.%u.ffn_gate.weight", d, ff)                                           \
    W(beside, ffn.up, "blk.%u.ffn_up.weight", d, ff)                                               \
    W(linear, ffn.down, "blk.%u.ffn_down.weight", ff, d)

#define SHARED(W)                                                                                  \
    W(linear, moe.sh_gate, "blk.%u.ffn_gate_shexp.weight", d, ffs)                                 \
    W(beside, moe.sh_up, "blk.%u.ffn_up_shexp.weight", d, ffs)                                     \
    W(linear, moe.sh_down, "blk.%u.ffn_down_shexp.weight", ffs, d)

#define BIND(kind, field, name, n_in, n_out) &&bind_##kind(b, &l->field, name, i, n_in, n_out)

/* The rotary tables of both kinds of layers. */
static bool bind_turns(struct binder *b, struct step35 *q)
{
    uint32_t turn[512], hd = q->head_dim, n_full = hd / 2;
    float factor[256];
    bool has = model_has(b, "rope_freqs.weight", 0);
    if (has && !model_vector(b, "rope_freqs.weight", hd / 2, factor))
        return false;
    /* half of a head is rotated: of the file's divisors the rest is padding */
    for (uint32_t i = 0; has && i < n_full / 2; i++)
        if (!(factor[i] > 0) || !isfinite(factor[i]))
            return model_refuse(b, "rope_freqs.weight[%u] is %g, expected a positive number", i,
                                factor[i]);
    rope_turns(q->theta, n_full, has ? factor : NULL, turn);
    if (!bind_words(b, &q->turn, turn, n_full))
        return false;
    rope_turns(q->theta_sliding, hd, NULL, turn);
    return bind_words(b, &q->turn_sliding, turn, hd);
}

static bool bind_moe(struct model *m, struct binder *b, struct step35 *q, struct layer *l,
                     uint32_t i)
{
    uint32_t d = m->n_embd, n = q->n_expert, ffs = q->n_ff_shared;
    struct moe *e = &l->moe;
    *e = (struct moe){ .n_expert = n,
                       .n_used = q->n_used,
                       .n_ff = q->n_ff_exp,
                       .route = ROUTE_SIGMOID,
                       .n_group = q->n_group,
                       .n_group_used = q->n_group_used,
                       .renorm = q->renorm,
                       .scale = q->scale,
                       .act = { ACT_SWIGLU, q->limit[i] },
                       .sh_act = { ACT_SWIGLU, q->limit_shared[i] } };
    return bind_linear(b, &e->router, "blk.%u.ffn_gate_inp.weight", i, d, n) &&
           bind_exact(&e->router, n) &&
           bind_vector(b, &e->bias, "blk.%u.exp_probs_b.bias", i, n, 1) &&
           bind_gate_up(b, e, i, d) &&
           bind_experts(b, &e->down, "blk.%u.ffn_down_exps.weight", i, q->n_ff_exp, d, n) &&
           (!ffs || (true SHARED(BIND)));
}

static bool bind_layer(struct model *m, struct binder *b, struct step35 *q, uint32_t i)
{
    struct layer *l = &q->layer[i];
    uint32_t d = m->n_embd, hd = q->head_dim, h = q->n_head[i], h_kv = q->n_kv_head[i];
    uint32_t ff = q->n_ff[i];
    bool slides = q->slides[i];
    l->attn = (struct attention){ .n_head = h,
                                  .n_kv_head = h_kv,
                                  .head_dim = hd,
                                  .n_rot = slides ? hd : hd / 2,
                                  .turn = slides ? q->turn_sliding : q->turn,
                                  .window = slides ? q->window : 0,
                                  .gate = GATE_HEAD,
                                  .norm = true,
                                  .eps = m->eps };
    if (!(true LAYER(BIND)))
        return false;
    l->is_moe = model_has(b, "blk.%u.ffn_gate_inp.weight", i);
    if (l->is_moe && !q->n_expert)
        return model_refuse(b, "blk.%u has a router but step35.expert_count is 0 or missing", i);
    if (!l->is_moe && q->n_expert && i >= q->n_dense && i < m->n_layer)
        return model_refuse(b,
                            "tensor blk.%u.ffn_gate_inp.weight is missing, expected behind the "
                            "%u leading dense blocks",
                            i, q->n_dense);
    l->ffn.act = (struct act){ ACT_SWIGLU, q->limit_shared[i] };
    return l->is_moe ? bind_moe(m, b, q, l, i)
                     : model_width(b, "feed_forward_length", ff) DENSE(BIND);
}

static bool load(struct model *m, struct binder *b, struct hlm_err *err)
{
    struct step35 *q = m->own = mem_alloc(1, sizeof *q);
    if (!q)
        return fail(err, "out of memory");
    if (!attention_keys(m, b, q) || !ffn_keys(m, b, q) || !bind_turns(b, q))
        return false;
    uint32_t n = m->n_layer + m->n_draft;
    q->layer = mem_alloc(n, sizeof *q->layer);
    if (!q->layer)
        return fail(err, "out of memory: %u layers", n);
    for (uint32_t i = 0; i < n; i++)
        if (!bind_layer(m, b, q, i))
            return false;
    return true;
}

static void unload(struct model *m)
{
    struct step35 *q = m->own;
    if (q)
        free(q->layer);
    free(q);
}

/* ---- the layer ------------------------------------------------------------------------------- */

static tensor block(struct cmd *c, const struct model *m, uint32_t i_layer,
                    struct layer_cache *cache, const struct batch *b, tensor x)
{
    const struct layer *l = &((const struct step35 *)m->own)->layer[i_layer];
    tensor p = op_norm_linear(c, x, l->attn_norm, m->eps, LINEARS(&l->wq, &l->wk, &l->wv, &l->wg));
    x = op_linear_add(c, op_attention(c, p, &l->attn, &cache->kv, b), &l->wo, x);
    return l->is_moe ? op_moe(c, x, l->ffn_norm, m->eps, &l->moe, &cache->moe, b)
                     : op_ffn(c, x, l->ffn_norm, m->eps, &l->ffn);
}

static struct layer_shape shape(const struct model *m, uint32_t i_layer)
{
    const struct step35 *q = m->own;
    return (struct layer_shape){ .n_kv_head = q->n_kv_head[i_layer],
                                 .head_dim = q->head_dim,
                                 .window = q->slides[i_layer] ? q->window : 0,
                                 .n_expert = q->layer[i_layer].is_moe ? q->n_expert : 0 };
}

const struct arch arch_step35 = { "step35", load, unload, shape, block, true };
