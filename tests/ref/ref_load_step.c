/* ref_load_step: keys and tensors of step35 (models/README.md, "Step keys" and "Step tensors").
 *
 * Heads, window and rotation differ by layer. Sliding layers rotate the whole head, with another
 * base. Full layers rotate half of it, with frequency factors if the file has them (trap "Step
 * differs by layer"). Read ref_model.h first. */
#include "ref/ref_model.h"

/* ---- keys ------------------------------------------------------------------------------- */

static bool read_heads(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t *n_head = ref_key_u32_each(ld, "attention.head_count", REQUIRED, 0);
    uint32_t *n_kv = n_head ? ref_key_u32_each(ld, "attention.head_count_kv", REQUIRED, 0) : NULL;

    if (!n_kv || !ref_read_head_dim(ld, n_head[0]))
        return false;
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        ld->m->layer[i].mixer = MIXER_ATTENTION;
        ld->m->layer[i].n_head = n_head[i];
        ld->m->layer[i].n_kv_head = n_kv[i];
        if (!ref_check_heads(ld, i))
            return false;
    }
    return true;
}

static bool read_windows(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    float theta = 10000, theta_sliding = 10000, *factor = NULL;
    uint32_t window;
    bool *sliding = ref_key_bool_each(ld, "attention.sliding_window_pattern", REQUIRED);

    if (!sliding || !ref_read_rope_scaling(ld) ||
        !ref_key_u32(ld, "attention.sliding_window", REQUIRED, &window) ||
        !ref_key_f32(ld, "rope.freq_base", OPTIONAL, &theta) ||
        !ref_key_f32(ld, "rope.freq_base_swa", OPTIONAL, &theta_sliding) ||
        !ref_load(ld, "rope_freqs.weight", OPTIONAL, c->head_dim / 2, 1, 1, &factor))
        return false;
    if (!window)
        return fail(ld->err, "%s: the sliding window is 0", gguf_path(ld->g));
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        if (sliding[i])
            ld->m->layer[i].window = window;
        if (!(sliding[i] ? ref_set_rope(ld, i, c->head_dim, theta_sliding, NULL)
                         : ref_set_rope(ld, i, c->head_dim / 2, theta, factor)))
            return false;
    }
    return true;
}

static bool read_ffn(struct ref_loader *ld)
{
    const struct ref_config *c = &ld->m->c;
    uint32_t *n_ff = ref_key_u32_each(ld, "feed_forward_length", REQUIRED, 0);
    float *limit = n_ff ? ref_key_f32_each(ld, "swiglu_clamp_exp", 0) : NULL;
    float *shared_limit = limit ? ref_key_f32_each(ld, "swiglu_clamp_shexp", 0) : NULL;

    if (!shared_limit)
        return false;
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        ld->m->layer[i].n_ff = n_ff[i];
        ld->m->layer[i].limit = limit[i];
        ld->m->layer[i].shared_limit = shared_limit[i];
        if (!(limit[i] >= 0) || !(shared_limit[i] >= 0))
            return fail(ld->err, "%s: block %u has SwiGLU limits %g and %g", gguf_path(ld->g), i,
                        (double)limit[i], (double)shared_limit[i]);
    }
    return ref_read_experts(ld) && (!c->n_expert || ref_read_sigmoid_router(ld));
}

bool ref_step_keys(struct ref_loader *ld)
{
    ld->m->mtp_raw = true;
    return ref_key_f32(ld, "attention.layer_norm_rms_epsilon", REQUIRED, &ld->m->c.eps) &&
           read_heads(ld) && read_windows(ld) && read_ffn(ld);
}

/* ---- tensors ---------------------------------------------------------------------------- */

bool ref_step_layer(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct ref_layer *l = &ld->m->layer[i_layer];

/* The lists of ref_model.h become loads, one statement each. */
#define LOAD(field, name, need, d0, d1, d2)                                                        \
    if (!ref_load(ld, ref_in_block(ld, i_layer, name), need, d0, d1, d2, &l->field))               \
        return false;
#define W(field, name, d0, d1, d2) LOAD(field, name, REQUIRED, d0, d1, d2)
#define B(field, name, d0, d1, d2) LOAD(field, name, OPTIONAL, d0, d1, d2)
    W(attn_norm, "attn_norm.weight", c->n_embd, 1, 1)
    W(ffn_norm, "ffn_norm.weight", c->n_embd, 1, 1)
    WEIGHTS_QUERY(W)
    WEIGHTS_ATTENTION(W)
    WEIGHTS_QK_NORM(W) WEIGHTS_HEAD_GATE(W) if (ref_has(ld, i_layer, "ffn_gate_inp.weight"))
    {
        l->ffn = FFN_MOE;
        WEIGHTS_MOE(W) WEIGHTS_MOE_GATE(W) BIASES_MOE(B) if (c->n_ff_shared)
        {
            WEIGHTS_SHARED(W) WEIGHTS_SHARED_GATE(W)
        }
    }
    else
    {
        l->ffn = FFN_DENSE;
        WEIGHTS_DENSE(W) WEIGHTS_DENSE_GATE(W)
    }
#undef B
#undef W
#undef LOAD
    return true;
}
