/* ref_load_qwen: keys and tensors of qwen3next, qwen35 and qwen35moe (models/README.md, "Qwen keys"
 * and the tensors of Qwen), with the old ssm_in layout. Read ref_model.h first. */
#include "ref/ref_model.h"

#include <string.h>

/* ---- keys ------------------------------------------------------------------------------- */

static bool read_delta(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;

    if (!ref_read_ssm(ld))
        return false;
    if (c->ssm_dim != c->d_state)
        return fail(ld->err, "%s: V heads of %u, K heads of %u", gguf_path(ld->g), c->ssm_dim,
                    c->d_state);
    /* The order of V heads ("DeltaNet tensors"): the architecture decides, unless the file says. */
    c->tiled = strcmp(c->arch, "qwen3next") != 0;
    return gguf_bool(ld->g, ref_key(ld, "ssm.v_head_reordered"), OPTIONAL, &c->tiled, ld->err);
}

/* Which layers are recurrent; heads and rotation of the others. */
static bool read_mixers(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t n_head, n_rot, interval = 4, *n_kv;
    float theta = 10000;
    bool *delta;

    if (!ref_key_u32(ld, "attention.head_count", REQUIRED, &n_head) ||
        !ref_read_head_dim(ld, n_head) || !ref_read_rope_scaling(ld))
        return false;
    n_rot = c->head_dim;
    if (!ref_key_u32(ld, "rope.dimension_count", OPTIONAL, &n_rot) ||
        !ref_key_f32(ld, "rope.freq_base", OPTIONAL, &theta) ||
        !ref_key_u32(ld, "full_attention_interval", OPTIONAL, &interval))
        return false;
    if (!interval)
        return fail(ld->err, "%s: full_attention_interval is 0", gguf_path(ld->g));
    n_kv = ref_key_u32_each(ld, "attention.head_count_kv", OPTIONAL, n_head);
    delta = n_kv ? ref_key_bool_each(ld, "attention.recurrent_layers", OPTIONAL) : NULL;
    if (!delta)
        return false;
    bool listed = gguf_kv(ld->g, ref_key(ld, "attention.recurrent_layers")) != NULL;
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        struct ref_layer *l = &ld->m->layer[i];
        l->n_head = n_head;
        l->n_kv_head = n_kv[i];
        if (i >= c->n_layer) {
            /* a draft block is an attention layer ("Qwen draft tensors") */
        } else if (listed ? delta[i] : (i + 1) % interval != 0) {
            l->mixer = MIXER_DELTA;
            continue;
        }
        l->mixer = MIXER_ATTENTION;
        if (!ref_check_heads(ld, i) || !ref_set_rope(ld, i, n_rot, theta, NULL))
            return false;
    }
    return true;
}

bool ref_qwen_keys(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    bool moe = strcmp(c->arch, "qwen35") != 0;
    uint32_t n_ff = 0;

    if (!ref_key_f32(ld, "attention.layer_norm_rms_epsilon", REQUIRED, &c->eps) ||
        !read_mixers(ld) || !read_delta(ld) || !ref_read_experts(ld) ||
        !ref_key_u32(ld, "feed_forward_length", moe ? OPTIONAL : REQUIRED, &n_ff))
        return false;
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++)
        ld->m->layer[i].n_ff = n_ff;
    return true;
}

/* ---- tensors ---------------------------------------------------------------------------- */

/* ssm_ba (qwen3next): for each K head r rows of b, then r rows of a (trap "interleaved ssm_ba"). */
static bool load_ba(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct ref_layer *l = &ld->m->layer[i_layer];
    uint64_t dim = c->n_embd, r = c->n_ssm_head / c->n_group;
    float *ba;

    if (!ref_load(ld, ref_in_block(ld, i_layer, "ssm_ba.weight"), REQUIRED, dim, 2 * c->n_ssm_head,
                  1, &ba))
        return false;
    l->wb = ref_take(ld->m, c->n_ssm_head * dim);
    l->wa = ref_take(ld->m, c->n_ssm_head * dim);
    for (uint64_t head = 0; head < c->n_group; head++) {
        const float *from = ba + head * 2 * r * dim;
        memcpy(l->wb + head * r * dim, from, r * dim * sizeof *from);
        memcpy(l->wa + head * r * dim, from + r * dim, r * dim * sizeof *from);
    }
    return true;
}

/* ssm_in (old qwen3next): for each K head S rows of q, S of k, r S of v, r S of z ("DeltaNet
 * tensors"). */
static bool load_ssm_in(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct ref_layer *l = &ld->m->layer[i_layer];
    uint64_t n_k = c->n_group, k_part = (uint64_t)c->d_state * c->n_embd;
    uint64_t v_part = k_part * (c->n_ssm_head / n_k);
    float *from;

    if (!ref_load(ld, ref_in_block(ld, i_layer, "ssm_in.weight"), REQUIRED, c->n_embd,
                  ref_conv_width(c) + ref_inner(c), 1, &from))
        return false;
    l->wqkv = ref_take(ld->m, (uint64_t)ref_conv_width(c) * c->n_embd);
    l->wz = ref_take(ld->m, (uint64_t)ref_inner(c) * c->n_embd);
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

bool ref_qwen_layer(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct ref_layer *l = &ld->m->layer[i_layer];

/* The lists of ref_model.h become loads, one statement each. */
#define W(field, name, d0, d1, d2)                                                                 \
    if (!ref_load(ld, ref_in_block(ld, i_layer, name), REQUIRED, d0, d1, d2, &l->field))           \
        return false;
    W(attn_norm, "attn_norm.weight", c->n_embd, 1, 1)
    W(ffn_norm, "post_attention_norm.weight", c->n_embd, 1, 1)
    if (l->mixer == MIXER_ATTENTION) {
        WEIGHTS_QUERY_GATED(W) WEIGHTS_ATTENTION(W) WEIGHTS_QK_NORM(W)
    } else {
        WEIGHTS_SSM(W) WEIGHTS_DELTA(W) if (ref_has(ld, i_layer, "ssm_in.weight"))
        {
            if (!load_ssm_in(ld, i_layer))
                return false;
        }
        else
        {
            WEIGHTS_DELTA_IN(W)
        }
        if (ref_has(ld, i_layer, "ssm_ba.weight")) {
            if (!load_ba(ld, i_layer))
                return false;
        } else {
            WEIGHTS_DELTA_GATES(W)
        }
    }
    if (ref_has(ld, i_layer, "ffn_gate_inp.weight")) {
        l->ffn = FFN_MOE;
        WEIGHTS_MOE(W)
        WEIGHTS_MOE_GATE(W) WEIGHTS_SHARED(W) WEIGHTS_SHARED_GATE(W) WEIGHTS_SHARED_ROUTER(W)
    } else {
        l->ffn = FFN_DENSE;
        WEIGHTS_DENSE(W) WEIGHTS_DENSE_GATE(W)
    }
#undef W
    return true;
}
