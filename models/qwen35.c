/* qwen35: Qwen3.5 dense, Qwen3.5 mixture-of-experts, and Qwen3-Next.
 *
 * A layer is a mixer and a feed-forward, each on the normed residual. Three of four mixers are
 * Gated DeltaNet, the fourth is attention with a gate on its output. The three architectures differ
 * so little that they share this file:
 *   - V heads: qwen3next keeps the checkpoint's order (V head j belongs to K head j / r); for the
 *     others the converter tiles them (K head j % nk). Nothing else in the family causes so many
 *     errors.
 *   - Write strength and decay: two matrices, or in qwen3next one (ssm_ba), whose rows are
 *     interleaved by K head.
 *   - Feed-forward: experts with a shared one where the layer has a router, else dense.
 * Old qwen3next files have q, k, v and z in one matrix (ssm_in), interleaved by K head.
 * Storage and mathematics: model cards of Qwen3-Next and Qwen3.5; Gated DeltaNet, arXiv
 * 2412.06464. */
#include "model/arch.h"

#include <stdio.h>
#include <string.h>

struct qwen35_layer {
    bool is_delta, is_moe;
    uint32_t n_kv_head; /* as the file lists it */
    tensor attn_norm, ffn_norm;
    struct attention attn;
    linear wq, wk, wv, wo; /* wq: rows of query and gate, interleaved by head */
    struct delta delta;
    linear qkv, z, b, a, out;
    struct ffn ffn;
    struct moe moe;
};

struct qwen35 {
    uint32_t n_head, n_kv_head, head_dim, n_rot;
    float theta;
    tensor turn;
    struct ssm_keys ssm; /* groups are K heads, heads are V heads */
    bool tiled;
    uint32_t n_ff, n_expert, n_used, n_ff_exp, n_ff_shared;
    struct qwen35_layer layer[]; /* by block of the file */
};

/* ---- keys ------------------------------------------------------------------------------------ */

static bool qwen35_attention_keys(struct model *m, struct binder *b, struct qwen35 *q)
{
    uint32_t n = model_n_block(m);
    if (!model_u32(b, "attention.head_count", REQUIRED, &q->n_head) ||
        !model_range(b, "attention.head_count", q->n_head, 1, MAX_HEAD))
        return false;
    /* One number for all layers. Third-party converters write a list with 0 for linear layers. */
    for (uint32_t i = 0; i < n; i++)
        q->layer[i].n_kv_head = q->n_head;
    if (!model_u32s(b, "attention.head_count_kv", OPTIONAL, &q->layer->n_kv_head, sizeof *q->layer))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (q->layer[i].n_kv_head)
            q->n_kv_head = q->layer[i].n_kv_head;
    q->head_dim = m->n_embd / q->n_head;
    if (!model_range(b, "attention.head_count_kv", q->n_kv_head, 1, q->n_head) ||
        !model_head_dim(b, OPTIONAL, &q->head_dim))
        return false;
    if (q->n_head % q->n_kv_head)
        return model_refuse(b, "%u query heads for %u key heads, expected a multiple", q->n_head,
                            q->n_kv_head);
    q->n_rot = q->head_dim;
    if (!model_u32(b, "rope.dimension_count", OPTIONAL, &q->n_rot) ||
        !model_range(b, "rope.dimension_count", q->n_rot, 2, q->head_dim))
        return false;
    if (q->n_rot % 2)
        return model_refuse(b, "%u rotated dimensions of a head, expected an even number",
                            q->n_rot);
    return model_rope_base(b, "rope.freq_base", &q->theta);
}

static bool qwen35_delta_keys(struct model *m, struct binder *b, struct qwen35 *q)
{
    uint32_t interval = 4;
    const struct ssm_keys *s = &q->ssm;
    if (!model_ssm(b, MAX_HEAD, &q->ssm))
        return false;
    if (s->d_state % 4 || s->n_head % s->n_group || s->n_head * s->d_state != s->inner)
        return model_refuse(b,
                            "%u value heads of %u for %u key heads and an inner size of %u "
                            "do not fit together",
                            s->n_head, s->d_state, s->n_group, s->inner);
    q->tiled = m->arch != &arch_qwen3next;
    if (!model_bool(b, "ssm.v_head_reordered", OPTIONAL, &q->tiled) ||
        !model_u32(b, "full_attention_interval", OPTIONAL, &interval) ||
        !model_range(b, "full_attention_interval", interval, 1, 512))
        return false;
    /* Where no key says which layers are linear, the tensors do. */
    bool said = model_has_key(b, "full_attention_interval");
    for (uint32_t i = 0; i < m->n_layer; i++)
        q->layer[i].is_delta =
            said ? (i + 1) % interval != 0 : model_has(b, "blk.%u.ssm_conv1d.weight", i);
    if (!model_bools(b, "attention.recurrent_layers", OPTIONAL, &q->layer->is_delta,
                     sizeof *q->layer))
        return false;
    for (uint32_t i = m->n_layer; i < model_n_block(m); i++)
        q->layer[i].is_delta = false; /* draft blocks are attention, whatever the list says */
    return true;
}

static bool qwen35_ffn_keys(struct binder *b, struct qwen35 *q)
{
    if (!model_u32(b, "feed_forward_length", OPTIONAL, &q->n_ff) ||
        !model_u32(b, "expert_count", OPTIONAL, &q->n_expert) ||
        !model_u32(b, "expert_used_count", OPTIONAL, &q->n_used) ||
        !model_u32(b, "expert_feed_forward_length", OPTIONAL, &q->n_ff_exp))
        return false;
    if (q->n_expert == 0)
        return true; /* each dense layer checks its width */
    if (!model_width_or_none(b, "expert_shared_feed_forward_length", "blk.%u.ffn_up_shexp.weight",
                             &q->n_ff_shared))
        return false;
    return model_range(b, "expert_count", q->n_expert, 1, MAX_EXPERT) &&
           model_range(b, "expert_used_count", q->n_used, 1,
                       min_u32(q->n_expert, MAX_EXPERT_USED)) &&
           model_width(b, "expert_feed_forward_length", q->n_ff_exp) &&
           model_width(b, "expert_shared_feed_forward_length", q->n_ff_shared);
}

/* ---- weights --------------------------------------------------------------------------------- */

static bool qwen35_bind_attention(struct model *m, struct binder *b, struct qwen35 *q, uint32_t i)
{
    struct qwen35_layer *l = &q->layer[i];
    uint32_t d = m->n_embd, hd = q->head_dim;
    l->attn = (struct attention){ .n_head = q->n_head,
                                  .n_kv_head = q->n_kv_head,
                                  .head_dim = hd,
                                  .n_rot = q->n_rot,
                                  .gate = GATE_ELEM,
                                  .norm = true,
                                  .turn = q->turn,
                                  .eps = m->eps };
    return bind_group(b, i, d, NULL,
                      MATRICES({ &l->wq, "blk.%u.attn_q.weight", 2 * hd * q->n_head },
                               { &l->wk, "blk.%u.attn_k.weight", hd * q->n_kv_head },
                               { &l->wv, "blk.%u.attn_v.weight", hd * q->n_kv_head })) &&
           bind_linear(b, &l->wo, "blk.%u.attn_output.weight", i, hd * q->n_head, d) &&
           bind_vector(b, &l->attn.q_norm, "blk.%u.attn_q_norm.weight", i, hd, 1) &&
           bind_vector(b, &l->attn.k_norm, "blk.%u.attn_k_norm.weight", i, hd, 1);
}

/* A tensor that has, for each K head, n_kind kinds of rows one after the other: of[k] rows of kind
 * k. */
struct qwen35_rows {
    const struct gguf_tensor *t;
    uint32_t n_k_head, n_kind, of[4];
};

/* Binds the rows of kinds [k0, k1) as one matrix, kind by kind. */
static void qwen35_bind_kinds(struct binder *b, linear *w, const struct qwen35_rows *r, uint32_t k0,
                              uint32_t k1, const linear *beside)
{
    uint32_t per_head = 0, first = 0;
    struct matrix_size size = { .n_in = (uint32_t)r->t->dim[0], .n_expert = 1 };
    for (uint32_t k = 0; k < r->n_kind; k++)
        per_head += r->of[k];
    for (uint32_t k = k0; k < k1; k++)
        size.n_out += r->of[k] * r->n_k_head;
    bind_begin(b, w, r->t->type, size, beside);
    for (uint32_t k = 0; k < k1; first += r->of[k++])
        for (uint32_t h = 0; k >= k0 && h < r->n_k_head; h++)
            bind_rows(b, r->t, h * per_head + first, r->of[k]);
    bind_end(b);
}

/* The matrices that read the normed residual: rows of q, k, v; of z; of b; of a. */
static bool qwen35_bind_delta_in(struct model *m, struct binder *b, struct qwen35 *q, uint32_t i)
{
    struct qwen35_layer *l = &q->layer[i];
    uint32_t d = m->n_embd, nk = q->ssm.n_group, nv = q->ssm.n_head, s = q->ssm.d_state;
    uint32_t kd = nk * s, vd = nv * s, r = nv / nk;
    static const struct {
        const char *name, *stem, *apart;
    } fused[] = {
        { "blk.%u.ssm_in.weight", "ssm_in", "attn_qkv.weight and attn_gate.weight" },
        { "blk.%u.ssm_ba.weight", "ssm_ba", "ssm_beta.weight and ssm_alpha.weight" },
    };
    for (uint32_t k = 0; k < ARRAY_LEN(fused) && m->arch != &arch_qwen3next; k++)
        if (model_has(b, fused[k].name, i))
            return model_refuse(b,
                                "blk.%u.%s.weight is there, whose order of rows is known of "
                                "qwen3next only; expected %s",
                                i, fused[k].stem, fused[k].apart);
    if (model_has(b, "blk.%u.ssm_in.weight", i)) {
        const struct qwen35_rows in = {
            bind_find(b, "blk.%u.ssm_in.weight", i, d, 2 * kd + 2 * vd),
            nk,
            4,
            { s, s, r * s, r * s }, /* q, k, v, z */
        };
        if (!in.t)
            return false;
        qwen35_bind_kinds(b, &l->qkv, &in, 0, 3, NULL);
        qwen35_bind_kinds(b, &l->z, &in, 3, 4, &l->qkv);
    } else if (!bind_group(b, i, d, NULL,
                           MATRICES({ &l->qkv, "blk.%u.attn_qkv.weight", 2 * kd + vd },
                                    { &l->z, "blk.%u.attn_gate.weight", vd }))) {
        return false;
    }
    if (model_has(b, "blk.%u.ssm_ba.weight", i)) {
        const struct qwen35_rows ba = {
            bind_find(b, "blk.%u.ssm_ba.weight", i, d, 2 * nv), nk, 2, { r, r }, /* b, a */
        };
        if (!ba.t)
            return false;
        qwen35_bind_kinds(b, &l->b, &ba, 0, 1, &l->z);
        qwen35_bind_kinds(b, &l->a, &ba, 1, 2, &l->b);
    } else if (!bind_group(b, i, d, &l->z,
                           MATRICES({ &l->b, "blk.%u.ssm_beta.weight", nv },
                                    { &l->a, "blk.%u.ssm_alpha.weight", nv }))) {
        return false;
    }
    return bind_f32_rows(&l->b, nv) && bind_f32_rows(&l->a, nv);
}

static bool qwen35_bind_delta(struct model *m, struct binder *b, struct qwen35 *q, uint32_t i)
{
    struct qwen35_layer *l = &q->layer[i];
    uint32_t nk = q->ssm.n_group, nv = q->ssm.n_head, s = q->ssm.d_state;
    l->delta = (struct delta){ .n_k_head = nk,
                               .n_v_head = nv,
                               .d_state = s,
                               .conv_k = q->ssm.conv_k,
                               .tiled = q->tiled,
                               .eps = m->eps };
    return qwen35_bind_delta_in(m, b, q, i) &&
           bind_gate(b, &l->delta.ssm_a, "blk.%u.ssm_a", i, nv) &&
           bind_gate(b, &l->delta.dt_bias, "blk.%u.ssm_dt.bias", i, nv) &&
           bind_linear(b, &l->out, "blk.%u.ssm_out.weight", i, nv * s, m->n_embd) &&
           bind_vector(b, &l->delta.conv, "blk.%u.ssm_conv1d.weight", i, q->ssm.conv_k,
                       (2 * nk + nv) * s) &&
           bind_vector(b, &l->delta.norm, "blk.%u.ssm_norm.weight", i, s, 1);
}

static bool qwen35_bind_dense(struct model *m, struct binder *b, struct qwen35 *q, uint32_t i)
{
    struct ffn *f = &q->layer[i].ffn;
    return model_width(b, "feed_forward_length", q->n_ff) &&
           bind_group(b, i, m->n_embd, NULL,
                      MATRICES({ &f->gate, "blk.%u.ffn_gate.weight", q->n_ff },
                               { &f->up, "blk.%u.ffn_up.weight", q->n_ff })) &&
           bind_linear(b, &f->down, "blk.%u.ffn_down.weight", i, q->n_ff, m->n_embd);
}

static bool qwen35_bind_moe(struct model *m, struct binder *b, struct qwen35 *q, uint32_t i)
{
    struct moe *e = &q->layer[i].moe;
    uint32_t d = m->n_embd, n = q->n_expert, ffs = q->n_ff_shared;
    *e = (struct moe){ .n_expert = n, .n_used = q->n_used, .n_ff = q->n_ff_exp };
    return bind_gate_up(b, e, i, d) &&
           bind_experts(b, &e->down, "blk.%u.ffn_down_exps.weight", i,
                        (struct matrix_size){ q->n_ff_exp, d, n }) &&
           bind_group(b, i, d, NULL,
                      MATRICES({ &e->router, "blk.%u.ffn_gate_inp.weight", n },
                               { &e->shared_gate, "blk.%u.ffn_gate_inp_shexp.weight", 1 })) &&
           bind_group(b, i, d, NULL,
                      MATRICES({ &e->sh_gate, "blk.%u.ffn_gate_shexp.weight", ffs },
                               { &e->sh_up, "blk.%u.ffn_up_shexp.weight", ffs })) &&
           bind_linear(b, &e->sh_down, "blk.%u.ffn_down_shexp.weight", i, ffs, d) &&
           bind_f32_rows(&e->router, n) && bind_f32_rows(&e->shared_gate, 1);
}

static bool qwen35_bind_layer(struct model *m, struct binder *b, struct qwen35 *q, uint32_t i)
{
    struct qwen35_layer *l = &q->layer[i];
    l->is_moe = model_has(b, "blk.%u.ffn_gate_inp.weight", i);
    if (l->is_moe && q->n_expert == 0)
        return model_refuse(b, "blk.%u has a router but %s.expert_count is 0 or missing", i,
                            m->arch->name);
    if (!l->is_moe && q->n_expert && !q->n_ff)
        return model_refuse(b,
                            "tensor blk.%u.ffn_gate_inp.weight is missing, and the layer is "
                            "not dense either: %s.feed_forward_length is 0 or missing",
                            i, m->arch->name);
    return bind_vector(b, &l->attn_norm, "blk.%u.attn_norm.weight", i, m->n_embd, 1) &&
           bind_vector(b, &l->ffn_norm, "blk.%u.post_attention_norm.weight", i, m->n_embd, 1) &&
           (l->is_delta ? qwen35_bind_delta(m, b, q, i) : qwen35_bind_attention(m, b, q, i)) &&
           (l->is_moe ? qwen35_bind_moe(m, b, q, i) : qwen35_bind_dense(m, b, q, i));
}

static bool qwen35_load(struct model *m, struct binder *b)
{
    struct qwen35 *q = model_own(b, sizeof *q, sizeof *q->layer);
    if (!q || !qwen35_attention_keys(m, b, q) || !qwen35_delta_keys(m, b, q) ||
        !qwen35_ffn_keys(b, q) || !bind_turns(b, &q->turn, q->theta, q->n_rot, NULL))
        return false;
    for (uint32_t i = 0; i < m->n_layer + m->n_draft; i++)
        if (!qwen35_bind_layer(m, b, q, i))
            return false;
    return true;
}

/* ---- the layer ------------------------------------------------------------------------------- */

static tensor qwen35_block(struct cmd *c, const struct model *m, uint32_t i_layer,
                           struct layer_cache *cache, const struct batch *b, tensor x)
{
    const struct qwen35_layer *l = &((const struct qwen35 *)m->own)->layer[i_layer];
    if (l->is_delta) {
        tensor p =
            op_norm_linear(c, x, l->attn_norm, m->eps, LINEARS(&l->qkv, &l->z, &l->b, &l->a));
        x = op_linear_add(c, op_delta(c, p, &l->delta, &cache->recurrent, b), &l->out, x);
    } else {
        tensor p = op_norm_linear(c, x, l->attn_norm, m->eps, LINEARS(&l->wq, &l->wk, &l->wv));
        x = op_linear_add(c, op_attention(c, p, &l->attn, &cache->kv, b), &l->wo, x);
    }
    return l->is_moe ? op_moe(c, (struct normed){ x, l->ffn_norm, m->eps }, &l->moe, &cache->moe, b)
                     : op_ffn(c, x, l->ffn_norm, m->eps, &l->ffn);
}

static struct layer_shape qwen35_shape(const struct model *m, uint32_t i_layer)
{
    const struct qwen35 *q = m->own;
    const struct ssm_keys *s = &q->ssm;
    uint32_t n_expert = q->layer[i_layer].is_moe ? q->n_expert : 0;
    if (!q->layer[i_layer].is_delta)
        return (struct layer_shape){ .n_kv_head = q->n_kv_head,
                                     .head_dim = q->head_dim,
                                     .n_expert = n_expert };
    return (struct layer_shape){
        .recurrent = { .n_head = s->n_head,
                       .n_row = s->d_state,
                       .n = s->d_state,
                       .d_conv = (2 * s->n_group + s->n_head) * s->d_state,
                       .conv_k = s->conv_k },
        .n_expert = n_expert,
    };
}

const struct arch arch_qwen3next = {
    .name = "qwen3next", .load = qwen35_load, .shape = qwen35_shape, .block = qwen35_block
};
const struct arch arch_qwen35 = {
    .name = "qwen35", .load = qwen35_load, .shape = qwen35_shape, .block = qwen35_block
};
const struct arch arch_qwen35moe = {
    .name = "qwen35moe", .load = qwen35_load, .shape = qwen35_shape, .block = qwen35_block
};

/* ---- names in the checkpoint ----------------------------------------------------------------- */

static const struct hf_matrix qwen35_hf_shared[] = {
    HF("attn_q", "self_attn.q_proj"),
    HF("attn_k", "self_attn.k_proj"),
    HF("attn_v", "self_attn.v_proj"),
    HF("attn_output", "self_attn.o_proj"),
    HF_ORDERED("ssm_out", "linear_attn.out_proj", HF_V_COLS),
    HF("ffn_gate", "mlp.gate_proj"),
    HF("ffn_up", "mlp.up_proj"),
    HF("ffn_down", "mlp.down_proj"),
    HF("ffn_gate_inp", "mlp.gate"),
    HF("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    HF("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    HF("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    HF("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    HF("ffn_down_exps", "mlp.experts.*.down_proj"),
    HF("nextn.eh_proj", "fc"), /* of mtp itself: qwen35_hf_draft */
};

static const struct hf_matrix qwen35_hf[] = {
    HF_ORDERED("attn_qkv", "linear_attn.in_proj_qkv", HF_QKV_ROWS),
    HF_ORDERED("attn_gate", "linear_attn.in_proj_z", HF_V_ROWS),
    HF_ORDERED("ssm_alpha", "linear_attn.in_proj_a", HF_V_ROWS),
    HF_ORDERED("ssm_beta", "linear_attn.in_proj_b", HF_V_ROWS),
    HF_FIRST("ffn_gate_exps", "mlp.experts.*.gate_up_proj", HF_APPENDED, "ffn_up_exps"),
    HF_SECOND("ffn_up_exps", "mlp.experts.*.gate_up_proj", HF_APPENDED, "ffn_gate_exps"),
    HF("ffn_gate_up_exps", "mlp.experts.*.gate_up_proj"),
};

static const struct hf_matrix qwen3next_hf[] = {
    HF_FIRST("attn_qkv", "linear_attn.in_proj_qkvz", HF_QKVZ_ROWS, "attn_gate"),
    HF_SECOND("attn_gate", "linear_attn.in_proj_qkvz", HF_QKVZ_ROWS, "attn_qkv"),
    HF("ssm_in", "linear_attn.in_proj_qkvz"),
    HF_FIRST("ssm_beta", "linear_attn.in_proj_ba", HF_BA_ROWS, "ssm_alpha"),
    HF_SECOND("ssm_alpha", "linear_attn.in_proj_ba", HF_BA_ROWS, "ssm_beta"),
    HF("ssm_ba", "linear_attn.in_proj_ba"),
    HF("ffn_gate_exps", "mlp.experts.*.gate_proj"),
    HF("ffn_up_exps", "mlp.experts.*.up_proj"),
    HF_ORDERED("ffn_gate_up_exps", "mlp.experts.*.gate_proj", HF_UPPER_HALF),
    HF_ORDERED("ffn_gate_up_exps", "mlp.experts.*.up_proj", HF_LOWER_HALF),
};

static void qwen35_hf_draft(uint32_t i, const char *stem, char *name, size_t size)
{
    if (!strcmp(stem, "nextn.eh_proj"))
        snprintf(name, size, "mtp.");
    else
        snprintf(name, size, "mtp.layers.%u.", i);
}

const struct hf_names hf_qwen3next = {
    .layers = "model.layers.",
    .mixer = "linear_attn",
    .v_heads = HF_V_BY_K_HEAD,
    .draft = qwen35_hf_draft,
    .list = { HF_LIST(qwen35_hf_shared), HF_LIST(qwen3next_hf) },
};
const struct hf_names hf_qwen35 = {
    .layers = "model.language_model.layers.",
    .mixer = "linear_attn",
    .v_heads = HF_V_TILED,
    .draft = qwen35_hf_draft,
    .list = { HF_LIST(qwen35_hf_shared), HF_LIST(qwen35_hf) },
};
const struct hf_names hf_qwen35moe = {
    .layers = "model.language_model.layers.",
    .mixer = "linear_attn",
    .v_heads = HF_V_TILED,
    .draft = qwen35_hf_draft,
    .list = { HF_LIST(qwen35_hf_shared), HF_LIST(qwen35_hf) },
};
