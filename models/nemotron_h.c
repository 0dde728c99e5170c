/* nemotron_h: Nemotron-H and Nemotron 3 (nemotron_h_moe).
 *
 * A block is one norm and one mixer, nothing more: Mamba2, attention, a relu^2 MLP or a mixture of
 * relu^2 experts. Which one says the file, block by block, in two arrays: key heads and
 * feed-forward widths, 0 where there are none.
 *   - Attention knows no positions: no rotary whatever the rope keys say, no q/k norm, no gate.
 *   - Mamba2 gates before it normalises, and normalises in groups.
 *   - The router is a sigmoid with a bias that only chooses; the shared expert has no gate. With a
 *     latent width (Super) the routed experts work between two more matrices.
 *   - A block with both arrays non-zero is the folded draft block, the last one of the file:
 *     attention, then experts, each on a norm of its own.
 * Mamba2: Dao and Gu, arXiv 2405.21060. Storage: model cards of Nemotron-H and Nemotron 3. */
#include "model/arch.h"

#include <stdlib.h>

enum kind { MAMBA, ATTENTION, MLP, MOE, DRAFT };

struct layer {
    enum kind kind;
    tensor norm, ffn_norm; /* ffn_norm: of a draft block */
    struct mamba mamba;
    linear in, out; /* in: rows of z, x, B, C, dt */
    struct attention attn;
    linear wq, wk, wv, wo;
    struct ffn ffn;
    struct moe moe;
};

struct nemotron {
    uint32_t n_head, head_dim;
    uint32_t n_kv_head[512], n_ff[512]; /* by block; 0: it has none */
    uint32_t n_m_head, n_group, d_state, m_head_dim, conv_k;
    uint32_t n_expert, n_used[512], n_ff_exp[512], n_ff_shared, n_latent;
    uint32_t n_expert_group, n_group_used;
    bool renorm;
    float scale;
    struct layer *layer;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static enum kind kind_of(const struct model *m, const struct nemotron *q, uint32_t i)
{
    if (q->n_ff[i] && q->n_kv_head[i])
        return DRAFT;
    if (q->n_ff[i])
        return m->arch == &arch_nemotron_h_moe ? MOE : MLP;
    return q->n_kv_head[i] ? ATTENTION : MAMBA;
}

static bool block_keys(struct model *m, struct binder *b, struct nemotron *q)
{
    if (!model_u32s(b, "attention.head_count_kv", REQUIRED, q->n_kv_head) ||
        !model_u32s(b, "feed_forward_length", REQUIRED, q->n_ff))
        return false;
    /* the draft block tells itself where nextn_predict_layers is missing */
    if (m->n_mtp == 0 && m->n_layer > 1 && kind_of(m, q, m->n_layer - 1) == DRAFT)
        model_mtp(b, 1);
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++) {
        enum kind k = kind_of(m, q, i);
        if (i >= m->n_layer && k != DRAFT)
            return model_refuse(b,
                                "block %u, a draft block, has %u key heads and a feed-forward "
                                "width of %u, expected both",
                                i, q->n_kv_head[i], q->n_ff[i]);
        if (i < m->n_layer && k == DRAFT)
            return model_refuse(b,
                                "block %u has key heads and a feed-forward width, which only "
                                "the draft block behind the last one may have",
                                i);
        if ((k == ATTENTION || k == DRAFT) &&
            (!model_range(b, "attention.head_count_kv", q->n_kv_head[i], 1, q->n_head) ||
             q->n_head % q->n_kv_head[i]))
            return model_refuse(b,
                                "block %u has %u query heads for %u key heads, expected a "
                                "multiple",
                                i, q->n_head, q->n_kv_head[i]);
        if (k == MLP && !model_width(b, "feed_forward_length", q->n_ff[i]))
            return false;
    }
    return true;
}

static bool attention_keys(struct model *m, struct binder *b, struct nemotron *q)
{
    if (!model_u32(b, "attention.head_count", REQUIRED, &q->n_head) ||
        !model_range(b, "attention.head_count", q->n_head, 1, 1024))
        return false;
    q->head_dim = m->n_embd / q->n_head;
    if (!model_u32(b, "attention.key_length", OPTIONAL, &q->head_dim) ||
        !model_range(b, "attention.key_length", q->head_dim, 4, 512))
        return false;
    uint32_t v_len = q->head_dim;
    if (!model_u32(b, "attention.value_length", OPTIONAL, &v_len) ||
        !model_range(b, "attention.value_length", v_len, q->head_dim, q->head_dim))
        return false;
    return q->head_dim % 4 == 0 ||
           model_refuse(b, "heads of %u, expected a multiple of 4", q->head_dim);
}

static bool mamba_keys(struct binder *b, struct nemotron *q)
{
    uint32_t inner = 0;
    if (!model_u32(b, "ssm.conv_kernel", REQUIRED, &q->conv_k) ||
        !model_range(b, "ssm.conv_kernel", q->conv_k, 2, 8) ||
        !model_u32(b, "ssm.state_size", REQUIRED, &q->d_state) ||
        !model_range(b, "ssm.state_size", q->d_state, 4, 256) ||
        !model_u32(b, "ssm.group_count", REQUIRED, &q->n_group) ||
        !model_range(b, "ssm.group_count", q->n_group, 1, 1024) ||
        !model_u32(b, "ssm.time_step_rank", REQUIRED, &q->n_m_head) ||
        !model_range(b, "ssm.time_step_rank", q->n_m_head, 1, 4096) ||
        !model_u32(b, "ssm.inner_size", REQUIRED, &inner) ||
        !model_range(b, "ssm.inner_size", inner, 4, 1u << 20))
        return false;
    q->m_head_dim = inner / q->n_m_head;
    if (q->d_state % 4 || q->m_head_dim % 4 || q->m_head_dim > 256 || q->n_m_head % q->n_group ||
        q->m_head_dim * q->n_m_head != inner)
        return model_refuse(b,
                            "%u Mamba heads in %u groups, a state of %u and an inner size of %u "
                            "do not fit together",
                            q->n_m_head, q->n_group, q->d_state, inner);
    return true;
}

static bool moe_keys(struct model *m, struct binder *b, struct nemotron *q)
{
    uint32_t gating = 2;
    q->n_expert_group = q->n_group_used = 1;
    q->renorm = true;
    if (m->arch != &arch_nemotron_h_moe)
        return true;
    if (!model_u32(b, "expert_count", REQUIRED, &q->n_expert) ||
        !model_range(b, "expert_count", q->n_expert, 1, 512) ||
        !model_u32s(b, "expert_used_count", REQUIRED, q->n_used) ||
        !model_u32s(b, "expert_feed_forward_length", REQUIRED, q->n_ff_exp) ||
        !model_u32(b, "expert_shared_feed_forward_length", OPTIONAL, &q->n_ff_shared) ||
        !model_u32(b, "moe_latent_size", OPTIONAL, &q->n_latent) ||
        !model_u32(b, "expert_group_count", OPTIONAL, &q->n_expert_group) ||
        !model_u32(b, "expert_group_used_count", OPTIONAL, &q->n_group_used) ||
        !model_bool(b, "expert_weights_norm", OPTIONAL, &q->renorm) ||
        !model_expert_scale(b, &q->scale) ||
        !model_u32(b, "expert_gating_func", OPTIONAL, &gating) ||
        !model_range(b, "expert_gating_func", gating, 2, 2))
        return false;
    uint32_t most = 0;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++) {
        if (kind_of(m, q, i) != MOE && kind_of(m, q, i) != DRAFT)
            continue;
        if (!model_range(b, "expert_used_count", q->n_used[i], 1, min_u32(q->n_expert, 64)) ||
            !model_width(b, "expert_feed_forward_length", q->n_ff_exp[i]))
            return false;
        most = max_u32(most, q->n_used[i]);
    }
    return (!q->n_ff_shared ||
            model_width(b, "expert_shared_feed_forward_length", q->n_ff_shared)) &&
           (!q->n_latent || model_width(b, "moe_latent_size", q->n_latent)) &&
           model_groups(b, q->n_expert, most, &q->n_expert_group, &q->n_group_used);
}

/* ---- weights --------------------------------------------------------------------------------- */

static bool bind_mamba(struct model *m, struct binder *b, struct nemotron *q, struct layer *l,
                       uint32_t i)
{
    uint32_t d = m->n_embd, h = q->n_m_head, inner = h * q->m_head_dim;
    uint32_t d_conv = inner + 2 * q->n_group * q->d_state;
    l->mamba = (struct mamba){ .n_head = h,
                               .head_dim = q->m_head_dim,
                               .n_group = q->n_group,
                               .d_state = q->d_state,
                               .conv_k = q->conv_k,
                               .eps = m->eps };
    return bind_linear(b, &l->in, "blk.%u.ssm_in.weight", i, d, inner + d_conv + h) &&
           bind_exact(&l->in, h) && /* dt */
           bind_bias(b, &l->in, "blk.%u.ssm_in.bias", i) &&
           bind_vector(b, &l->mamba.conv, "blk.%u.ssm_conv1d.weight", i, q->conv_k, d_conv) &&
           bind_vector(b, &l->mamba.conv_bias, "blk.%u.ssm_conv1d.bias", i, d_conv, 1) &&
           bind_gate(b, &l->mamba.ssm_a, "blk.%u.ssm_a", i, h) &&
           bind_gate(b, &l->mamba.dt_bias, "blk.%u.ssm_dt.bias", i, h) &&
           bind_gate(b, &l->mamba.d, "blk.%u.ssm_d", i, h) &&
           bind_vector(b, &l->mamba.norm, "blk.%u.ssm_norm.weight", i, inner / q->n_group,
                       q->n_group) &&
           bind_linear(b, &l->out, "blk.%u.ssm_out.weight", i, inner, d) &&
           bind_bias(b, &l->out, "blk.%u.ssm_out.bias", i);
}

static bool bind_attention(struct model *m, struct binder *b, struct nemotron *q, struct layer *l,
                           uint32_t i)
{
    uint32_t d = m->n_embd, hd = q->head_dim, n_kv = q->n_kv_head[i];
    l->attn = (struct attention){
        .n_head = q->n_head, .n_kv_head = n_kv, .head_dim = hd, .gate = GATE_NONE, .eps = m->eps
    };
    return bind_linear(b, &l->wq, "blk.%u.attn_q.weight", i, d, hd * q->n_head) &&
           bind_beside(b, &l->wk, "blk.%u.attn_k.weight", i, d, hd * n_kv) &&
           bind_beside(b, &l->wv, "blk.%u.attn_v.weight", i, d, hd * n_kv) &&
           bind_linear(b, &l->wo, "blk.%u.attn_output.weight", i, hd * q->n_head, d) &&
           bind_bias(b, &l->wq, "blk.%u.attn_q.bias", i) &&
           bind_bias(b, &l->wk, "blk.%u.attn_k.bias", i) &&
           bind_bias(b, &l->wv, "blk.%u.attn_v.bias", i) &&
           bind_bias(b, &l->wo, "blk.%u.attn_output.bias", i);
}

static bool bind_mlp(struct model *m, struct binder *b, struct nemotron *q, struct layer *l,
                     uint32_t i)
{
    l->ffn.act = (struct act){ ACT_RELU2, 0 };
    return bind_linear(b, &l->ffn.up, "blk.%u.ffn_up.weight", i, m->n_embd, q->n_ff[i]) &&
           bind_linear(b, &l->ffn.down, "blk.%u.ffn_down.weight", i, q->n_ff[i], m->n_embd) &&
           bind_bias(b, &l->ffn.up, "blk.%u.ffn_up.bias", i) &&
           bind_bias(b, &l->ffn.down, "blk.%u.ffn_down.bias", i);
}

static bool bind_moe(struct model *m, struct binder *b, struct nemotron *q, struct layer *l,
                     uint32_t i)
{
    uint32_t d = m->n_embd, ff = q->n_ff_exp[i], n = q->n_expert, ffs = q->n_ff_shared;
    uint32_t in = q->n_latent ? q->n_latent : d;
    struct moe *e = &l->moe;
    *e = (struct moe){ .n_expert = n,
                       .n_used = q->n_used[i],
                       .n_ff = ff,
                       .route = ROUTE_SIGMOID,
                       .n_group = q->n_expert_group,
                       .n_group_used = q->n_group_used,
                       .renorm = q->renorm,
                       .scale = q->scale,
                       .act = { ACT_RELU2, 0 },
                       .sh_act = { ACT_RELU2, 0 } };
    return bind_linear(b, &e->router, "blk.%u.ffn_gate_inp.weight", i, d, n) &&
           bind_exact(&e->router, n) &&
           bind_vector(b, &e->bias, "blk.%u.exp_probs_b.bias", i, n, 1) &&
           bind_experts(b, &e->up, "blk.%u.ffn_up_exps.weight", i, in, ff, n) &&
           bind_experts(b, &e->down, "blk.%u.ffn_down_exps.weight", i, ff, in, n) &&
           (!q->n_latent ||
            (bind_linear(b, &e->latent_down, "blk.%u.ffn_latent_down.weight", i, d, in) &&
             bind_linear(b, &e->latent_up, "blk.%u.ffn_latent_up.weight", i, in, d))) &&
           (!ffs || (bind_linear(b, &e->sh_up, "blk.%u.ffn_up_shexp.weight", i, d, ffs) &&
                     bind_linear(b, &e->sh_down, "blk.%u.ffn_down_shexp.weight", i, ffs, d)));
}

static bool bind_draft(struct model *m, struct binder *b, struct nemotron *q, struct layer *l,
                       uint32_t i)
{
    if (m->arch != &arch_nemotron_h_moe)
        return model_refuse(b,
                            "block %u is a draft block, of which only nemotron_h_moe has known "
                            "ones",
                            i);
    return bind_vector(b, &l->ffn_norm, "blk.%u.post_attention_norm.weight", i, m->n_embd, 1) &&
           bind_attention(m, b, q, l, i) && bind_moe(m, b, q, l, i);
}

static bool load(struct model *m, struct binder *b, struct hlm_err *err)
{
    static bool (*const bind[])(struct model *, struct binder *, struct nemotron *, struct layer *,
                                uint32_t) = { bind_mamba, bind_attention, bind_mlp, bind_moe,
                                              bind_draft };
    struct nemotron *q = m->own = mem_alloc(1, sizeof *q);
    if (!q)
        return fail(err, "out of memory");
    if (!attention_keys(m, b, q) || !block_keys(m, b, q) || !mamba_keys(b, q) || !moe_keys(m, b, q))
        return false;
    uint32_t n = m->n_layer + m->n_draft;
    q->layer = mem_alloc(n, sizeof *q->layer);
    if (!q->layer)
        return fail(err, "out of memory: %u layers", n);
    for (uint32_t i = 0; i < n; i++) {
        struct layer *l = &q->layer[i];
        l->kind = kind_of(m, q, i);
        if (!bind_vector(b, &l->norm, "blk.%u.attn_norm.weight", i, m->n_embd, 1) ||
            !bind[l->kind](m, b, q, l, i))
            return false;
    }
    return true;
}

static void unload(struct model *m)
{
    struct nemotron *q = m->own;
    if (q)
        free(q->layer);
    free(q);
}

/* ---- the layer ------------------------------------------------------------------------------- */

static tensor block(struct cmd *c, const struct model *m, uint32_t i_layer,
                    struct layer_cache *cache, const struct batch *b, tensor x)
{
    const struct layer *l = &((const struct nemotron *)m->own)->layer[i_layer];
    if (l->kind == MLP)
        return op_ffn(c, x, l->norm, m->eps, &l->ffn);
    if (l->kind == MOE)
        return op_moe(c, x, l->norm, m->eps, &l->moe, &cache->moe, b);
    if (l->kind == MAMBA) {
        tensor p = op_norm_linear(c, x, l->norm, m->eps, LINEARS(&l->in));
        return op_linear_add(c, op_mamba(c, p, &l->mamba, &cache->recurrent, b), &l->out, x);
    }
    tensor p = op_norm_linear(c, x, l->norm, m->eps, LINEARS(&l->wq, &l->wk, &l->wv));
    x = op_linear_add(c, op_attention(c, p, &l->attn, &cache->kv, b), &l->wo, x);
    return l->kind == DRAFT ? op_moe(c, x, l->ffn_norm, m->eps, &l->moe, &cache->moe, b) : x;
}

static struct layer_shape shape(const struct model *m, uint32_t i_layer)
{
    const struct nemotron *q = m->own;
    enum kind k = q->layer[i_layer].kind;
    if (k == ATTENTION || k == DRAFT)
        return (struct layer_shape){ .n_kv_head = q->n_kv_head[i_layer],
                                     .head_dim = q->head_dim,
                                     .n_expert = k == DRAFT ? q->n_expert : 0 };
    if (k != MAMBA)
        return (struct layer_shape){ .n_expert = k == MOE ? q->n_expert : 0 };
    return (struct layer_shape){
        .recurrent = { .n_head = q->n_m_head,
                       .n_row = q->d_state,
                       .n = q->m_head_dim,
                       .d_conv = q->n_m_head * q->m_head_dim + 2 * q->n_group * q->d_state,
                       .conv_k = q->conv_k },
    };
}

const struct arch arch_nemotron_h = { "nemotron_h", load, unload, shape, block, false };
const struct arch arch_nemotron_h_moe = { "nemotron_h_moe", load, unload, shape, block, false };
