/* ref_load_nemotron: keys and tensors of nemotron_h and nemotron_h_moe (models/README.md, "Nemotron
 * keys" and "Nemotron tensors").
 *
 * A block has one norm and one mixer: Mamba2, attention, MLP or MoE. An MTP block has attention and
 * MoE. Nothing is rotated, whatever the file says (trap "Nemotron has no rotary"). Read ref_model.h
 * first. */
#include "ref/ref_model.h"

/* ---- keys ------------------------------------------------------------------------------- */

/* The key has two names; a file has one or both ("Nemotron keys"). */
static bool read_eps(struct ref_loader *ld)
{
    static const char rms[] = "attention.layer_norm_rms_epsilon";
    static const char plain[] = "attention.layer_norm_epsilon";
    bool has_rms = gguf_kv(ld->g, ref_key(ld, rms)) != NULL;
    return ref_key_f32(ld, has_rms ? rms : plain, REQUIRED, &ld->m->c.eps);
}

/* The kind of each block, from two arrays ("Nemotron keys"). A last block with both kinds is an MTP
 * block, even where the file does not count it. */
static bool read_kinds(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t n_head, last = c->n_layer - 1;
    uint32_t *n_kv = ref_key_u32_each(ld, "attention.head_count_kv", REQUIRED, 0);
    uint32_t *n_ff = n_kv ? ref_key_u32_each(ld, "feed_forward_length", REQUIRED, 0) : NULL;

    if (!n_ff || !ref_key_u32(ld, "attention.head_count", REQUIRED, &n_head) ||
        !ref_read_head_dim(ld, n_head))
        return false;
    if (last > 0 && c->n_layer == ld->n_block && n_kv[last] && n_ff[last]) {
        c->n_layer--;
        ref_find_mtp(ld);
    }
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        struct ref_layer *l = &ld->m->layer[i];
        if ((n_kv[i] && n_ff[i]) != (i >= c->n_layer))
            return fail(ld->err, "%s: block %u has attention and MLP", gguf_path(ld->g), i);
        l->n_head = n_head;
        l->n_kv_head = n_kv[i];
        l->n_ff = n_ff[i];
        l->mixer = n_kv[i] ? MIXER_ATTENTION : n_ff[i] ? MIXER_NONE : MIXER_MAMBA;
        if (n_kv[i] && !ref_check_heads(ld, i))
            return false;
    }
    return true;
}

bool ref_nemotron_keys(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;

    if (!read_eps(ld) || !read_kinds(ld) || !ref_read_ssm(ld) || !ref_read_experts(ld))
        return false;
    return !c->n_expert || (ref_key_u32(ld, "moe_latent_size", OPTIONAL, &c->n_latent) &&
                            ref_read_sigmoid_router(ld));
}

/* ---- tensors ---------------------------------------------------------------------------- */

bool ref_nemotron_layer(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct ref_layer *l = &ld->m->layer[i_layer];
    float **norm = l->mixer == MIXER_NONE ? &l->ffn_norm : &l->attn_norm;
    bool mtp = i_layer >= c->n_layer;

    if (!ref_load(ld, ref_in_block(ld, i_layer, "attn_norm.weight"), REQUIRED, c->n_embd, 1, 1,
                  norm))
        return false;
    if (mtp && !ref_load(ld, ref_in_block(ld, i_layer, "post_attention_norm.weight"), REQUIRED,
                         c->n_embd, 1, 1, &l->ffn_norm))
        return false;
/* The lists of ref_model.h become loads, one statement each. */
#define LOAD(field, name, need, d0, d1, d2)                                                        \
    if (!ref_load(ld, ref_in_block(ld, i_layer, name), need, d0, d1, d2, &l->field))               \
        return false;
#define W(field, name, d0, d1, d2) LOAD(field, name, REQUIRED, d0, d1, d2)
#define B(field, name, d0, d1, d2) LOAD(field, name, OPTIONAL, d0, d1, d2)
    if (l->mixer == MIXER_MAMBA) {
        WEIGHTS_SSM(W) WEIGHTS_MAMBA(W) BIASES_MAMBA(B)
    } else if (l->mixer == MIXER_ATTENTION) {
        WEIGHTS_QUERY(W) WEIGHTS_ATTENTION(W) BIASES_ATTENTION(B)
    }
    if (l->mixer != MIXER_NONE && !mtp)
        return true;
    if (ref_has(ld, i_layer, "ffn_gate_inp.weight")) {
        l->ffn = FFN_MOE;
        WEIGHTS_MOE(W) BIASES_MOE(B) if (c->n_latent) { WEIGHTS_LATENT(W) }
        if (c->n_ff_shared) {
            WEIGHTS_SHARED(W)
        }
    } else {
        l->ffn = FFN_DENSE;
        WEIGHTS_DENSE(W) BIASES_DENSE(B)
    }
#undef B
#undef W
#undef LOAD
    return true;
}
