/* nemotron_h: Nemotron-H and Nemotron 3 (nemotron_h_moe).
 *
 * A block is one norm and one mixer, and nothing else: Mamba2, attention, a relu^2 MLP or a mixture
 * of relu^2 experts. Two lists in the file, of key heads and of feed-forward widths, say which; 0
 * means that the block has none.
 *   - Attention knows no positions: no rotary, whatever the rope keys say, no q/k norm, no gate.
 *   - Mamba2 gates before it normalises, and normalises in groups.
 *   - The router is a sigmoid with a bias that only affects the choice; the shared expert has no
 *     gate. With a latent width (Super) the routed experts work between two more matrices.
 *   - A block with numbers in both lists is the folded draft block, the last block of the file:
 *     attention, then experts, each on a norm of its own.
 * Mamba2: Dao and Gu, arXiv 2405.21060. Storage: model cards of Nemotron-H and Nemotron 3. */
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

enum nemotron_kind { MAMBA, ATTENTION, MLP, MOE, DRAFT };

struct nemotron_layer {
    enum nemotron_kind kind;
    uint32_t n_kv_head, n_ff, n_used, n_ff_exp; /* as the file lists them */
    tensor norm, ffn_norm;                      /* ffn_norm: of a draft block */
    struct mamba mamba;
    linear in, out; /* in: rows of z, x, B, C, dt */
    struct attention attn;
    linear wq, wk, wv, wo;
    struct ffn ffn;
    struct moe moe;
};

struct nemotron {
    uint32_t n_head, head_dim;
    struct ssm_keys ssm;
    uint32_t n_expert, n_ff_shared, n_latent;
    struct moe moe;                /* what all blocks with experts have in common */
    struct nemotron_layer layer[]; /* by block of the file */
};

/* ---- keys ------------------------------------------------------------------------------------ */

static enum nemotron_kind nemotron_kind_of(const struct model *m, const struct nemotron *q,
                                           uint32_t i)
{
    const struct nemotron_layer *l = &q->layer[i];
    if (l->n_ff && l->n_kv_head)
        return DRAFT;
    if (l->n_ff)
        return m->arch == &arch_nemotron_h_moe ? MOE : MLP;
    return l->n_kv_head ? ATTENTION : MAMBA;
}

static bool nemotron_attention_keys(struct model *m, struct binder *b, struct nemotron *q)
{
    if (!model_u32(b, "attention.head_count", REQUIRED, &q->n_head) ||
        !model_range(b, "attention.head_count", q->n_head, 1, MAX_HEAD))
        return false;
    q->head_dim = m->n_embd / q->n_head;
    return model_head_dim(b, OPTIONAL, &q->head_dim);
}

static bool nemotron_block_keys(struct model *m, struct binder *b, struct nemotron *q)
{
    struct nemotron_layer *l = q->layer;
    if (!model_u32s(b, "attention.head_count_kv", REQUIRED, &l->n_kv_head, sizeof *l) ||
        !model_u32s(b, "feed_forward_length", REQUIRED, &l->n_ff, sizeof *l))
        return false;
    /* Where neither nextn_predict_layers nor a tensor says so, the lists show the draft block. */
    if (m->n_mtp == 0 && m->n_layer > 1 && nemotron_kind_of(m, q, m->n_layer - 1) == DRAFT)
        model_mtp(b, 1);
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++) {
        enum nemotron_kind k = l[i].kind = nemotron_kind_of(m, q, i);
        if (i >= m->n_layer && k != DRAFT)
            return model_refuse(b,
                                "block %u, a draft block, has %u key heads and a feed-forward "
                                "width of %u, expected both",
                                i, l[i].n_kv_head, l[i].n_ff);
        if (i < m->n_layer && k == DRAFT)
            return model_refuse(b,
                                "block %u has key heads and a feed-forward width, which only a "
                                "draft block after the last block may have",
                                i);
        if ((k == ATTENTION || k == DRAFT) && !model_kv_heads(b, i, q->n_head, l[i].n_kv_head))
            return false;
        if (k == MLP && !model_width(b, "feed_forward_length", l[i].n_ff))
            return false;
    }
    return true;
}

static bool nemotron_mamba_keys(struct binder *b, struct nemotron *q)
{
    const struct ssm_keys *s = &q->ssm;
    if (!model_ssm(b, 4096, &q->ssm))
        return false;
    uint32_t head_dim = s->inner / s->n_head;
    if (s->d_state % 4 || head_dim % 4 || head_dim > 256 || s->n_head % s->n_group ||
        head_dim * s->n_head != s->inner)
        return model_refuse(b,
                            "%u Mamba heads in %u groups, a state of %u and an inner size of %u "
                            "do not fit together",
                            s->n_head, s->n_group, s->d_state, s->inner);
    return true;
}

static bool nemotron_moe_keys(struct model *m, struct binder *b, struct nemotron *q)
{
    struct nemotron_layer *l = q->layer;
    uint32_t most = 0;
    if (m->arch != &arch_nemotron_h_moe)
        return true;
    if (!model_u32(b, "expert_count", REQUIRED, &q->n_expert) ||
        !model_range(b, "expert_count", q->n_expert, 1, MAX_EXPERT) ||
        !model_u32s(b, "expert_used_count", REQUIRED, &l->n_used, sizeof *l) ||
        !model_u32s(b, "expert_feed_forward_length", REQUIRED, &l->n_ff_exp, sizeof *l) ||
        !model_width_or_none(b, "expert_shared_feed_forward_length", "blk.%u.ffn_up_shexp.weight",
                             &q->n_ff_shared) ||
        !model_width_or_none(b, "moe_latent_size", "blk.%u.ffn_latent_down.weight", &q->n_latent))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++) {
        if (l[i].kind != MOE && l[i].kind != DRAFT)
            continue;
        if (!model_range(b, "expert_used_count", l[i].n_used, 1,
                         min_u32(q->n_expert, MAX_EXPERT_USED)) ||
            !model_width(b, "expert_feed_forward_length", l[i].n_ff_exp))
            return false;
        most = max_u32(most, l[i].n_used);
    }
    q->moe = (struct moe){ .n_expert = q->n_expert,
                           .act = { ACT_RELU2, 0 },
                           .sh_act = { ACT_RELU2, 0 } };
    return model_sigmoid_router(b, most, &q->moe);
}

/* ---- weights --------------------------------------------------------------------------------- */

static bool nemotron_bind_mamba(struct model *m, struct binder *b, struct nemotron *q, uint32_t i)
{
    struct nemotron_layer *l = &q->layer[i];
    const struct ssm_keys *s = &q->ssm;
    uint32_t d = m->n_embd, h = s->n_head, d_conv = s->inner + 2 * s->n_group * s->d_state;
    l->mamba = (struct mamba){ .n_head = h,
                               .head_dim = s->inner / h,
                               .n_group = s->n_group,
                               .d_state = s->d_state,
                               .conv_k = s->conv_k,
                               .eps = m->eps };
    return bind_linear(b, &l->in, "blk.%u.ssm_in.weight", i, d, s->inner + d_conv + h) &&
           bind_f32_rows(&l->in, h) && /* dt */
           bind_bias(b, &l->in, "blk.%u.ssm_in.bias", i) &&
           bind_vector(b, &l->mamba.conv, "blk.%u.ssm_conv1d.weight", i, s->conv_k, d_conv) &&
           bind_vector(b, &l->mamba.conv_bias, "blk.%u.ssm_conv1d.bias", i, d_conv, 1) &&
           bind_gate(b, &l->mamba.ssm_a, "blk.%u.ssm_a", i, h) &&
           bind_gate(b, &l->mamba.dt_bias, "blk.%u.ssm_dt.bias", i, h) &&
           bind_gate(b, &l->mamba.d, "blk.%u.ssm_d", i, h) &&
           bind_vector(b, &l->mamba.norm, "blk.%u.ssm_norm.weight", i, s->inner / s->n_group,
                       s->n_group) &&
           bind_linear(b, &l->out, "blk.%u.ssm_out.weight", i, s->inner, d) &&
           bind_bias(b, &l->out, "blk.%u.ssm_out.bias", i);
}

static bool nemotron_bind_attention(struct model *m, struct binder *b, struct nemotron *q,
                                    uint32_t i)
{
    struct nemotron_layer *l = &q->layer[i];
    uint32_t d = m->n_embd, hd = q->head_dim, n_kv = l->n_kv_head;
    l->attn = (struct attention){
        .n_head = q->n_head, .n_kv_head = n_kv, .head_dim = hd, .gate = GATE_NONE, .eps = m->eps
    };
    return bind_group(b, i, d, NULL,
                      MATRICES({ &l->wq, "blk.%u.attn_q.weight", hd * q->n_head },
                               { &l->wk, "blk.%u.attn_k.weight", hd * n_kv },
                               { &l->wv, "blk.%u.attn_v.weight", hd * n_kv })) &&
           bind_linear(b, &l->wo, "blk.%u.attn_output.weight", i, hd * q->n_head, d) &&
           bind_bias(b, &l->wq, "blk.%u.attn_q.bias", i) &&
           bind_bias(b, &l->wk, "blk.%u.attn_k.bias", i) &&
           bind_bias(b, &l->wv, "blk.%u.attn_v.bias", i) &&
           bind_bias(b, &l->wo, "blk.%u.attn_output.bias", i);
}

static bool nemotron_bind_mlp(struct model *m, struct binder *b, struct nemotron *q, uint32_t i)
{
    struct nemotron_layer *l = &q->layer[i];
    struct ffn *f = &l->ffn;
    f->act = (struct act){ ACT_RELU2, 0 };
    return bind_linear(b, &f->up, "blk.%u.ffn_up.weight", i, m->n_embd, l->n_ff) &&
           bind_linear(b, &f->down, "blk.%u.ffn_down.weight", i, l->n_ff, m->n_embd) &&
           bind_bias(b, &f->up, "blk.%u.ffn_up.bias", i) &&
           bind_bias(b, &f->down, "blk.%u.ffn_down.bias", i);
}

static bool nemotron_bind_moe(struct model *m, struct binder *b, struct nemotron *q, uint32_t i)
{
    struct nemotron_layer *l = &q->layer[i];
    struct moe *e = &l->moe;
    uint32_t d = m->n_embd, n = q->n_expert, ff = l->n_ff_exp, ffs = q->n_ff_shared;
    uint32_t in = q->n_latent ? q->n_latent : d;
    *e = q->moe;
    e->n_used = l->n_used;
    e->n_ff = ff;
    return bind_linear(b, &e->router, "blk.%u.ffn_gate_inp.weight", i, d, n) &&
           bind_f32_rows(&e->router, n) &&
           bind_vector(b, &e->bias, "blk.%u.exp_probs_b.bias", i, n, 1) &&
           bind_experts(b, &e->up, "blk.%u.ffn_up_exps.weight", i,
                        (struct matrix_size){ in, ff, n }) &&
           bind_experts(b, &e->down, "blk.%u.ffn_down_exps.weight", i,
                        (struct matrix_size){ ff, in, n }) &&
           (!q->n_latent ||
            (bind_linear(b, &e->latent_down, "blk.%u.ffn_latent_down.weight", i, d, in) &&
             bind_linear(b, &e->latent_up, "blk.%u.ffn_latent_up.weight", i, in, d))) &&
           (!ffs || (bind_linear(b, &e->sh_up, "blk.%u.ffn_up_shexp.weight", i, d, ffs) &&
                     bind_linear(b, &e->sh_down, "blk.%u.ffn_down_shexp.weight", i, ffs, d)));
}

static bool nemotron_bind_draft(struct model *m, struct binder *b, struct nemotron *q, uint32_t i)
{
    if (m->arch != &arch_nemotron_h_moe)
        return model_refuse(b, "block %u is a draft block, which is known only of nemotron_h_moe",
                            i);
    return bind_vector(b, &q->layer[i].ffn_norm, "blk.%u.post_attention_norm.weight", i, m->n_embd,
                       1) &&
           nemotron_bind_attention(m, b, q, i) && nemotron_bind_moe(m, b, q, i);
}

static bool nemotron_bind_layer(struct model *m, struct binder *b, struct nemotron *q, uint32_t i)
{
    struct nemotron_layer *l = &q->layer[i];
    if (!bind_vector(b, &l->norm, "blk.%u.attn_norm.weight", i, m->n_embd, 1))
        return false;
    switch (l->kind) {
    case MAMBA: return nemotron_bind_mamba(m, b, q, i);
    case ATTENTION: return nemotron_bind_attention(m, b, q, i);
    case MLP: return nemotron_bind_mlp(m, b, q, i);
    case MOE: return nemotron_bind_moe(m, b, q, i);
    case DRAFT: return nemotron_bind_draft(m, b, q, i);
    }
    return false;
}

static bool nemotron_load(struct model *m, struct binder *b)
{
    struct nemotron *q = model_own(b, sizeof *q, sizeof *q->layer);
    if (!q || !nemotron_attention_keys(m, b, q) || !nemotron_block_keys(m, b, q) ||
        !nemotron_mamba_keys(b, q) || !nemotron_moe_keys(m, b, q))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (!nemotron_bind_layer(m, b, q, i))
            return false;
    return true;
}

/* ---- the layer ------------------------------------------------------------------------------- */

static tensor nemotron_block(struct cmd *c, const struct model *m, uint32_t i_layer,
                             struct layer_cache *cache, const struct batch *b, tensor x)
{
    const struct nemotron_layer *l = &((const struct nemotron *)m->own)->layer[i_layer];
    if (l->kind == MLP)
        return op_ffn(c, x, l->norm, m->eps, &l->ffn);
    if (l->kind == MOE)
        return op_moe(c, (struct normed){ x, l->norm, m->eps }, &l->moe, &cache->moe, b);
    if (l->kind == MAMBA) {
        tensor p = op_norm_linear(c, x, l->norm, m->eps, LINEARS(&l->in));
        return op_linear_add(c, op_mamba(c, p, &l->mamba, &cache->recurrent, b), &l->out, x);
    }
    tensor p = op_norm_linear(c, x, l->norm, m->eps, LINEARS(&l->wq, &l->wk, &l->wv));
    x = op_linear_add(c, op_attention(c, p, &l->attn, &cache->kv, b), &l->wo, x);
    return l->kind == DRAFT
               ? op_moe(c, (struct normed){ x, l->ffn_norm, m->eps }, &l->moe, &cache->moe, b)
               : x;
}

static struct layer_shape nemotron_shape(const struct model *m, uint32_t i_layer)
{
    const struct nemotron *q = m->own;
    const struct nemotron_layer *l = &q->layer[i_layer];
    const struct ssm_keys *s = &q->ssm;
    if (l->kind == MAMBA)
        return (struct layer_shape){
            .recurrent = { .n_head = s->n_head,
                           .n_row = s->d_state,
                           .n = s->inner / s->n_head,
                           .d_conv = s->inner + 2 * s->n_group * s->d_state,
                           .conv_k = s->conv_k },
        };
    if (l->kind == ATTENTION || l->kind == DRAFT)
        return (struct layer_shape){ .n_kv_head = l->n_kv_head,
                                     .head_dim = q->head_dim,
                                     .n_expert = l->kind == DRAFT ? q->n_expert : 0 };
    return (struct layer_shape){ .n_expert = l->kind == MOE ? q->n_expert : 0 };
}

const struct arch arch_nemotron_h = {
    .name = "nemotron_h", .load = nemotron_load, .shape = nemotron_shape, .block = nemotron_block
};
const struct arch arch_nemotron_h_moe = { .name = "nemotron_h_moe",
                                          .load = nemotron_load,
                                          .shape = nemotron_shape,
                                          .block = nemotron_block };

/* ---- names in the checkpoint ----------------------------------------------------------------- */

static const struct hf_matrix nemotron_hf[] = {
    HF("ssm_in", "mixer.in_proj"),
    HF("ssm_out", "mixer.out_proj"),
    HF("attn_q", "mixer.q_proj"),
    HF("attn_k", "mixer.k_proj"),
    HF("attn_v", "mixer.v_proj"),
    HF("attn_output", "mixer.o_proj"),
    HF("ffn_up", "mixer.up_proj"),
    HF("ffn_down", "mixer.down_proj"),
    HF("ffn_gate_inp", "mixer.gate"),
    HF("ffn_up_exps", "mixer.experts.*.up_proj"),
    HF("ffn_down_exps", "mixer.experts.*.down_proj"),
    HF("ffn_latent_down", "mixer.fc1_latent_proj"),
    HF("ffn_latent_up", "mixer.fc2_latent_proj"),
    HF("ffn_up_shexp", "mixer.shared_experts.up_proj"),
    HF("ffn_down_shexp", "mixer.shared_experts.down_proj"),
    HF("nextn.eh_proj", "eh_proj"),
};

/* A draft block is two layers of the checkpoint: attention, then experts. */
static void nemotron_hf_draft(uint32_t i, const char *stem, char *name, size_t size)
{
    bool attention = !strncmp(stem, "attn_", 5) || !strcmp(stem, "nextn.eh_proj");
    snprintf(name, size, "mtp.layers.%u.", 2 * i + !attention);
}

const struct hf_names hf_nemotron_h = { .layers = "backbone.layers.",
                                        .mixer = "mixer",
                                        .draft = nemotron_hf_draft,
                                        .list = { HF_LIST(nemotron_hf) } };
const struct hf_names hf_nemotron_h_moe = { .layers = "backbone.layers.",
                                            .mixer = "mixer",
                                            .draft = nemotron_hf_draft,
                                            .list = { HF_LIST(nemotron_hf) } };
