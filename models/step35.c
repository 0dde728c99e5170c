/* step35: Step-3.5 and Step-3.7.
 *
 * Every layer is attention and a feed-forward, each on the normed residual. What is special:
 *   - The file's pattern says which layers have full attention and which a sliding window of 512.
 *     The two kinds differ in heads, rotary base and rotated width; only full layers have frequency
 *     factors.
 *   - Query and key heads are normed; the output of each head has one gate, made from the normed
 *     input.
 *   - SwiGLU with limits by layer: one for routed experts, one for the shared expert and for dense
 *     layers; 0 is no limit.
 *   - The router is a sigmoid with a bias that only affects the choice; the shared expert has no
 *     gate.
 * Storage and mathematics: model cards of Step-3.5-Flash and Step-3.7. */
#include "model/arch.h"

#include <math.h>

struct step35_layer {
    uint32_t n_head, n_kv_head;
    bool slides, is_moe;
    float limit, limit_shared; /* of SwiGLU; 0: none */
    uint32_t n_ff;
    tensor attn_norm, ffn_norm;
    struct attention attn;
    linear wq, wk, wv, wg, wo; /* wg: a gate for each head */
    struct ffn ffn;
    struct moe moe;
};

struct step35 {
    uint32_t head_dim, window;
    float theta, theta_sliding;
    tensor turn, turn_sliding;
    uint32_t n_expert, n_ff_shared, n_dense;
    struct moe moe;              /* what all layers with experts have in common */
    struct step35_layer layer[]; /* by block of the file */
};

/* ---- keys ------------------------------------------------------------------------------------ */

static bool step35_attention_keys(struct model *m, struct binder *b, struct step35 *q)
{
    struct step35_layer *l = q->layer;
    if (!model_u32s(b, "attention.head_count", REQUIRED, &l->n_head, sizeof *l) ||
        !model_u32s(b, "attention.head_count_kv", REQUIRED, &l->n_kv_head, sizeof *l) ||
        !model_u32(b, "attention.sliding_window", REQUIRED, &q->window) ||
        !model_range(b, "attention.sliding_window", q->window, 1, 1u << 20) ||
        !model_bools(b, "attention.sliding_window_pattern", REQUIRED, &l->slides, sizeof *l) ||
        !model_head_dim(b, REQUIRED, &q->head_dim) ||
        !model_rope_base(b, "rope.freq_base", &q->theta) ||
        !model_rope_base(b, "rope.freq_base_swa", &q->theta_sliding))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (!model_range(b, "attention.head_count", l[i].n_head, 1, MAX_HEAD) ||
            !model_kv_heads(b, i, l[i].n_head, l[i].n_kv_head))
            return false;
    return true;
}

static bool step35_moe_keys(struct binder *b, struct step35 *q)
{
    uint32_t every = 1;
    q->moe = (struct moe){ .n_expert = q->n_expert };
    return model_range(b, "expert_count", q->n_expert, 1, MAX_EXPERT) &&
           model_u32(b, "leading_dense_block_count", OPTIONAL, &q->n_dense) &&
           model_u32(b, "moe_every_n_layers", OPTIONAL, &every) &&
           model_range(b, "moe_every_n_layers", every, 1, 1) &&
           model_u32(b, "expert_used_count", REQUIRED, &q->moe.n_used) &&
           model_range(b, "expert_used_count", q->moe.n_used, 1,
                       min_u32(q->n_expert, MAX_EXPERT_USED)) &&
           model_u32(b, "expert_feed_forward_length", REQUIRED, &q->moe.n_ff) &&
           model_width(b, "expert_feed_forward_length", q->moe.n_ff) &&
           model_width_or_none(b, "expert_shared_feed_forward_length", "blk.%u.ffn_up_shexp.weight",
                               &q->n_ff_shared) &&
           model_sigmoid_router(b, q->moe.n_used, &q->moe);
}

static bool step35_ffn_keys(struct model *m, struct binder *b, struct step35 *q)
{
    struct step35_layer *l = q->layer;
    if (!model_u32s(b, "feed_forward_length", OPTIONAL, &l->n_ff, sizeof *l) ||
        !model_f32s(b, "swiglu_clamp_exp", OPTIONAL, &l->limit, sizeof *l) ||
        !model_f32s(b, "swiglu_clamp_shexp", OPTIONAL, &l->limit_shared, sizeof *l) ||
        !model_u32(b, "expert_count", OPTIONAL, &q->n_expert))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (l[i].limit < 0 || l[i].limit_shared < 0)
            return model_refuse(b,
                                "the SwiGLU limits of block %u are %g and %g, expected none "
                                "below 0",
                                i, l[i].limit, l[i].limit_shared);
    return !q->n_expert || step35_moe_keys(b, q);
}

/* ---- weights --------------------------------------------------------------------------------- */

/* The rotary tables of both kinds of layers. */
static bool step35_bind_turns(struct binder *b, struct step35 *q)
{
    uint32_t hd = q->head_dim, n_full = hd / 2; /* full layers rotate half of a head */
    float factor[MAX_HEAD_DIM / 2];
    bool has = model_has(b, "rope_freqs.weight", 0);
    if (has && !model_vector(b, "rope_freqs.weight", hd / 2, factor))
        return false;
    /* The file has divisors for the whole head; those past the rotated half are padding. */
    for (uint32_t i = 0; has && i < n_full / 2; i++)
        if (!(factor[i] > 0) || !isfinite(factor[i]))
            return model_refuse(b, "rope_freqs.weight[%u] is %g, expected a positive number", i,
                                factor[i]);
    return bind_turns(b, &q->turn, q->theta, n_full, has ? factor : NULL) &&
           bind_turns(b, &q->turn_sliding, q->theta_sliding, hd, NULL);
}

static bool step35_bind_attention(struct model *m, struct binder *b, struct step35 *q, uint32_t i)
{
    struct step35_layer *l = &q->layer[i];
    uint32_t d = m->n_embd, hd = q->head_dim, h = l->n_head, h_kv = l->n_kv_head;
    l->attn = (struct attention){ .n_head = h,
                                  .n_kv_head = h_kv,
                                  .head_dim = hd,
                                  .n_rot = l->slides ? hd : hd / 2,
                                  .turn = l->slides ? q->turn_sliding : q->turn,
                                  .window = l->slides ? q->window : 0,
                                  .gate = GATE_HEAD,
                                  .norm = true,
                                  .eps = m->eps };
    return bind_group(b, i, d, NULL,
                      MATRICES({ &l->wq, "blk.%u.attn_q.weight", hd * h },
                               { &l->wk, "blk.%u.attn_k.weight", hd * h_kv },
                               { &l->wv, "blk.%u.attn_v.weight", hd * h_kv },
                               { &l->wg, "blk.%u.attn_gate.weight", h })) &&
           bind_linear(b, &l->wo, "blk.%u.attn_output.weight", i, hd * h, d) &&
           bind_vector(b, &l->attn.q_norm, "blk.%u.attn_q_norm.weight", i, hd, 1) &&
           bind_vector(b, &l->attn.k_norm, "blk.%u.attn_k_norm.weight", i, hd, 1);
}

static bool step35_bind_dense(struct model *m, struct binder *b, struct step35 *q, uint32_t i)
{
    struct step35_layer *l = &q->layer[i];
    struct ffn *f = &l->ffn;
    f->act = (struct act){ ACT_SWIGLU, l->limit_shared };
    return model_width(b, "feed_forward_length", l->n_ff) &&
           bind_group(b, i, m->n_embd, NULL,
                      MATRICES({ &f->gate, "blk.%u.ffn_gate.weight", l->n_ff },
                               { &f->up, "blk.%u.ffn_up.weight", l->n_ff })) &&
           bind_linear(b, &f->down, "blk.%u.ffn_down.weight", i, l->n_ff, m->n_embd);
}

static bool step35_bind_moe(struct model *m, struct binder *b, struct step35 *q, uint32_t i)
{
    struct step35_layer *l = &q->layer[i];
    struct moe *e = &l->moe;
    uint32_t d = m->n_embd, n = q->n_expert, ffs = q->n_ff_shared;
    *e = q->moe;
    e->act = (struct act){ ACT_SWIGLU, l->limit };
    e->sh_act = (struct act){ ACT_SWIGLU, l->limit_shared };
    return bind_linear(b, &e->router, "blk.%u.ffn_gate_inp.weight", i, d, n) &&
           bind_f32_rows(&e->router, n) &&
           bind_vector(b, &e->bias, "blk.%u.exp_probs_b.bias", i, n, 1) &&
           bind_gate_up(b, e, i, d) &&
           bind_experts(b, &e->down, "blk.%u.ffn_down_exps.weight", i,
                        (struct matrix_size){ e->n_ff, d, n }) &&
           (!ffs || (bind_group(b, i, d, NULL,
                                MATRICES({ &e->sh_gate, "blk.%u.ffn_gate_shexp.weight", ffs },
                                         { &e->sh_up, "blk.%u.ffn_up_shexp.weight", ffs })) &&
                     bind_linear(b, &e->sh_down, "blk.%u.ffn_down_shexp.weight", i, ffs, d)));
}

static bool step35_bind_layer(struct model *m, struct binder *b, struct step35 *q, uint32_t i)
{
    struct step35_layer *l = &q->layer[i];
    l->is_moe = model_has(b, "blk.%u.ffn_gate_inp.weight", i);
    if (l->is_moe && !q->n_expert)
        return model_refuse(b, "blk.%u has a router but step35.expert_count is 0 or missing", i);
    if (!l->is_moe && q->n_expert && i >= q->n_dense && i < m->n_layer)
        return model_refuse(b,
                            "tensor blk.%u.ffn_gate_inp.weight is missing, expected after the "
                            "%u leading dense blocks",
                            i, q->n_dense);
    return step35_bind_attention(m, b, q, i) &&
           bind_vector(b, &l->attn_norm, "blk.%u.attn_norm.weight", i, m->n_embd, 1) &&
           bind_vector(b, &l->ffn_norm, "blk.%u.ffn_norm.weight", i, m->n_embd, 1) &&
           (l->is_moe ? step35_bind_moe(m, b, q, i) : step35_bind_dense(m, b, q, i));
}

static bool step35_load(struct model *m, struct binder *b)
{
    struct step35 *q = model_own(b, sizeof *q, sizeof *q->layer);
    if (!q || !step35_attention_keys(m, b, q) || !step35_ffn_keys(m, b, q) ||
        !step35_bind_turns(b, q))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (!step35_bind_layer(m, b, q, i))
            return false;
    return true;
}

/* ---- the layer ------------------------------------------------------------------------------- */

static tensor step35_block(struct cmd *c, const struct model *m, uint32_t i_layer,
                           struct layer_cache *cache, const struct batch *b, tensor x)
{
    const struct step35_layer *l = &((const struct step35 *)m->own)->layer[i_layer];
    tensor p = op_norm_linear(c, x, l->attn_norm, m->eps, LINEARS(&l->wq, &l->wk, &l->wv, &l->wg));
    x = op_linear_add(c, op_attention(c, p, &l->attn, &cache->kv, b), &l->wo, x);
    return l->is_moe ? op_moe(c, (struct normed){ x, l->ffn_norm, m->eps }, &l->moe, &cache->moe, b)
                     : op_ffn(c, x, l->ffn_norm, m->eps, &l->ffn);
}

static struct layer_shape step35_shape(const struct model *m, uint32_t i_layer)
{
    const struct step35 *q = m->own;
    const struct step35_layer *l = &q->layer[i_layer];
    return (struct layer_shape){ .n_kv_head = l->n_kv_head,
                                 .head_dim = q->head_dim,
                                 .window = l->slides ? q->window : 0,
                                 .n_expert = l->is_moe ? q->n_expert : 0 };
}

const struct arch arch_step35 = { .name = "step35",
                                  .load = step35_load,
                                  .shape = step35_shape,
                                  .block = step35_block,
                                  .draft_raw = true };

/* ---- names in the checkpoint ----------------------------------------------------------------- */

static const struct hf_matrix step35_hf[] = {
    HF("attn_q", "self_attn.q_proj"),
    HF("attn_k", "self_attn.k_proj"),
    HF("attn_v", "self_attn.v_proj"),
    HF("attn_output", "self_attn.o_proj"),
    HF("attn_gate", "self_attn.g_proj"),
    HF("ffn_gate", "mlp.gate_proj"),
    HF("ffn_up", "mlp.up_proj"),
    HF("ffn_down", "mlp.down_proj"),
    HF("ffn_gate_inp", "moe.gate"),
    HF("ffn_gate_exps", "moe.*.gate_proj"),
    HF("ffn_up_exps", "moe.*.up_proj"),
    HF_ORDERED("ffn_gate_up_exps", "moe.*.gate_proj", HF_UPPER_HALF),
    HF_ORDERED("ffn_gate_up_exps", "moe.*.up_proj", HF_LOWER_HALF),
    HF("ffn_down_exps", "moe.*.down_proj"),
    HF("ffn_gate_shexp", "share_expert.gate_proj"),
    HF("ffn_up_shexp", "share_expert.up_proj"),
    HF("ffn_down_shexp", "share_expert.down_proj"),
    HF("nextn.eh_proj", "eh_proj"),
    HF("nextn.shared_head_head", "transformer.shared_head.output"),
};

const struct hf_names hf_step35 = { .layers = "model.layers.",
                                    .mixer = "",
                                    .list = { HF_LIST(step35_hf) } };
