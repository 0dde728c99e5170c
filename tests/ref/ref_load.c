/* ref_load: the part of loading that all architectures share: their table, keys that are scalars or
 * arrays, tensors as floats (models/README.md, "Common keys" and "Tensors").
 *
 * Extended-context scaling is refused. Read ref_model.h first. */
#include "ref/ref_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct ref_family families[] = {
    { "qwen35", ref_qwen_keys, ref_qwen_layer },
    { "qwen35moe", ref_qwen_keys, ref_qwen_layer },
    { "qwen3next", ref_qwen_keys, ref_qwen_layer },
    { "nemotron_h", ref_nemotron_keys, ref_nemotron_layer },
    { "nemotron_h_moe", ref_nemotron_keys, ref_nemotron_layer },
    { "step35", ref_step_keys, ref_step_layer },
};

/* ---- keys ------------------------------------------------------------------------------- */

const char *ref_key(struct ref_loader *ld, const char *name)
{
    snprintf(ld->key, sizeof ld->key, "%s.%s", ld->m->c.arch, name);
    return ld->key;
}

bool ref_key_u32(struct ref_loader *ld, const char *name, enum gguf_need need, uint32_t *v)
{
    return gguf_u32(ld->g, ref_key(ld, name), need, v, ld->err);
}

bool ref_key_f32(struct ref_loader *ld, const char *name, enum gguf_need need, float *v)
{
    return gguf_f32(ld->g, ref_key(ld, name), need, v, ld->err);
}

static void *own(struct ref_model *m, uint64_t n, uint64_t size)
{
    void *p = mem_alloc(n ? n : 1, size), **owned = mem_grow(m->owned, m->n_owned + 1, sizeof p);
    HLM_ASSERT(p && owned);
    m->owned = owned;
    return m->owned[m->n_owned++] = p;
}

float *ref_take(struct ref_model *m, uint64_t n) { return own(m, n, sizeof(float)); }

uint32_t *ref_key_u32_each(struct ref_loader *ld, const char *name, enum gguf_need need,
                           uint32_t absent)
{
    uint32_t *v = own(ld->m, ld->n_block, sizeof *v);
    for (uint32_t i = 0; i < ld->n_block; i++)
        v[i] = absent;
    return gguf_u32_each(ld->g, ref_key(ld, name), need, v, ld->n_block, ld->err) ? v : NULL;
}

bool *ref_key_bool_each(struct ref_loader *ld, const char *name, enum gguf_need need)
{
    bool *v = own(ld->m, ld->n_block, sizeof *v);
    return gguf_bool_each(ld->g, ref_key(ld, name), need, v, ld->n_block, ld->err) ? v : NULL;
}

float *ref_key_f32_each(struct ref_loader *ld, const char *name, float absent)
{
    const struct gguf_kv *kv = gguf_kv(ld->g, ref_key(ld, name));
    float *v = ref_take(ld->m, ld->n_block);

    if (kv && (kv->elem != GGUF_F32 || (kv->type == GGUF_ARRAY && kv->n != ld->n_block))) {
        fail(ld->err, "%s: %s is not a float or an array of %u", gguf_path(ld->g), ld->key,
             ld->n_block);
        return NULL;
    }
    for (uint64_t i = 0; i < ld->n_block; i++) {
        v[i] = absent;
        if (kv)
            memcpy(&v[i], kv->data + (kv->type == GGUF_ARRAY ? i : 0) * sizeof *v, sizeof *v);
    }
    return v;
}

bool ref_read_head_dim(struct ref_loader *ld, uint32_t n_head)
{
    struct ref_config *c = &ld->m->c;
    uint32_t value_length;

    c->head_dim = n_head ? c->n_embd / n_head : 0;
    if (!ref_key_u32(ld, "attention.key_length", OPTIONAL, &c->head_dim))
        return false;
    value_length = c->head_dim;
    if (!ref_key_u32(ld, "attention.value_length", OPTIONAL, &value_length))
        return false;
    if (!c->head_dim || value_length != c->head_dim)
        return fail(ld->err, "%s: heads of %u and %u", gguf_path(ld->g), c->head_dim, value_length);
    return true;
}

bool ref_read_rope_scaling(struct ref_loader *ld)
{
    struct hlm_str scaling = { "none", 4 };
    if (!gguf_str(ld->g, ref_key(ld, "rope.scaling.type"), OPTIONAL, &scaling, ld->err))
        return false;
    return (scaling.n == 4 && memcmp(scaling.p, "none", 4) == 0) ||
           fail(ld->err, "%s: rope scaling is not in the reference", gguf_path(ld->g));
}

bool ref_read_ssm(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t inner;

    if (!ref_key_u32(ld, "ssm.conv_kernel", REQUIRED, &c->conv_k) ||
        !ref_key_u32(ld, "ssm.state_size", REQUIRED, &c->d_state) ||
        !ref_key_u32(ld, "ssm.group_count", REQUIRED, &c->n_group) ||
        !ref_key_u32(ld, "ssm.time_step_rank", REQUIRED, &c->n_ssm_head) ||
        !ref_key_u32(ld, "ssm.inner_size", REQUIRED, &inner))
        return false;
    if (!c->conv_k || !c->d_state || !c->n_group || !c->n_ssm_head || !inner ||
        c->n_ssm_head % c->n_group || inner % c->n_ssm_head)
        return fail(ld->err, "%s: ssm of %u taps, state %u, %u groups, %u heads, inner size %u",
                    gguf_path(ld->g), c->conv_k, c->d_state, c->n_group, c->n_ssm_head, inner);
    c->ssm_dim = inner / c->n_ssm_head;
    return true;
}

bool ref_read_experts(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t *n_used, *n_ff;

    if (!ref_key_u32(ld, "expert_count", OPTIONAL, &c->n_expert))
        return false;
    if (!c->n_expert)
        return true;
    n_used = ref_key_u32_each(ld, "expert_used_count", REQUIRED, 0);
    n_ff = n_used ? ref_key_u32_each(ld, "expert_feed_forward_length", REQUIRED, 0) : NULL;
    if (!n_ff || !ref_key_u32(ld, "expert_shared_feed_forward_length", OPTIONAL, &c->n_ff_shared))
        return false;
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++) {
        ld->m->layer[i].n_used = n_used[i];
        ld->m->layer[i].n_ff_expert = n_ff[i];
        if (n_used[i] > c->n_expert)
            return fail(ld->err, "%s: layer %u uses %u of %u experts", gguf_path(ld->g), i,
                        n_used[i], c->n_expert);
    }
    return true;
}

bool ref_read_sigmoid_router(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    uint32_t gating = 2;

    c->sigmoid = true;
    c->router_group = c->router_group_used = 1;
    c->scale = 0;
    if (!ref_key_u32(ld, "expert_gating_func", OPTIONAL, &gating) ||
        !ref_key_u32(ld, "expert_group_count", OPTIONAL, &c->router_group) ||
        !ref_key_u32(ld, "expert_group_used_count", OPTIONAL, &c->router_group_used) ||
        !ref_key_f32(ld, "expert_weights_scale", OPTIONAL, &c->scale) ||
        !gguf_bool(ld->g, ref_key(ld, "expert_weights_norm"), REQUIRED, &c->norm, ld->err))
        return false;
    if (c->scale == 0) /* absent or 0 ("Common keys") */
        c->scale = 1;
    if (c->router_group < 2) /* off ("Common keys") */
        c->router_group = c->router_group_used = 1;
    if (gating != 2 || c->n_expert % c->router_group || c->router_group_used == 0 ||
        c->router_group_used > c->router_group)
        return fail(ld->err, "%s: %u experts in %u of %u groups, gating function %u",
                    gguf_path(ld->g), c->n_expert, c->router_group_used, c->router_group, gating);
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++)
        if (ld->m->layer[i].n_used > c->n_expert / c->router_group * c->router_group_used)
            return fail(ld->err, "%s: layer %u uses more experts than its groups have",
                        gguf_path(ld->g), i);
    return true;
}

bool ref_check_heads(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_layer *l = &ld->m->layer[i_layer];
    return (l->n_head && l->n_kv_head && l->n_head % l->n_kv_head == 0) ||
           fail(ld->err, "%s: layer %u has %u heads, %u KV heads", gguf_path(ld->g), i_layer,
                l->n_head, l->n_kv_head);
}

bool ref_set_rope(struct ref_loader *ld, uint32_t i_layer, uint32_t n_rot, float theta,
                  const float *factor)
{
    struct ref_layer *l = &ld->m->layer[i_layer];

    if (n_rot % 2 || n_rot > ld->m->c.head_dim)
        return fail(ld->err, "%s: layer %u rotates %u dimensions of %u", gguf_path(ld->g), i_layer,
                    n_rot, ld->m->c.head_dim);
    l->n_rot = n_rot;
    l->rope_freq = ref_take(ld->m, n_rot / 2);
    ref_rope_freq((double)theta, n_rot, factor, l->rope_freq);
    return true;
}

/* ---- tensors ---------------------------------------------------------------------------- */

/* Dimensions of 1 do not count: ssm_a may be a vector or a column (trap "dimensions of one"). */
static bool same_shape(const struct gguf_tensor *t, const uint64_t want[3])
{
    uint32_t i = 0, j = 0;
    for (;;) {
        while (i < 4 && t->dim[i] == 1)
            i++;
        while (j < 3 && want[j] == 1)
            j++;
        if (i == 4 || j == 3)
            return i == 4 && j == 3;
        if (t->dim[i++] != want[j++])
            return false;
    }
}

bool ref_load(struct ref_loader *ld, const char *name, enum gguf_need need, uint64_t d0,
              uint64_t d1, uint64_t d2, float **out)
{
    const struct gguf_tensor *t = gguf_tensor(ld->g, name);

    if (!t)
        return need == OPTIONAL || fail(ld->err, "%s: no tensor %s", gguf_path(ld->g), name);
    if (!same_shape(t, (uint64_t[3]){ d0, d1, d2 }))
        return fail(ld->err, "%s: %s is %llu x %llu x %llu, expected %llu x %llu x %llu",
                    gguf_path(ld->g), name, (unsigned long long)t->dim[0],
                    (unsigned long long)t->dim[1], (unsigned long long)t->dim[2],
                    (unsigned long long)d0, (unsigned long long)d1, (unsigned long long)d2);
    if (!dtype_info(t->type)->to_f32)
        return fail(ld->err, "%s: %s is %s", gguf_path(ld->g), name, dtype_info(t->type)->name);
    *out = ref_take(ld->m, t->n_elem);
    dtype_to_f32(t->type, t->data, t->n_elem, *out);
    return true;
}

const char *ref_in_block(struct ref_loader *ld, uint32_t i_layer, const char *name)
{
    snprintf(ld->name, sizeof ld->name, "blk.%u.%s", i_layer, name);
    return ld->name;
}

bool ref_has(struct ref_loader *ld, uint32_t i_layer, const char *name)
{
    return gguf_tensor(ld->g, ref_in_block(ld, i_layer, name)) != NULL;
}

/* ---- a whole model ---------------------------------------------------------------------- */

static const struct ref_family *read_arch(struct ref_loader *ld)
{
    struct hlm_str s = { 0 };

    if (!gguf_str(ld->g, "general.architecture", REQUIRED, &s, ld->err))
        return NULL;
    for (uint32_t i = 0; i < ARRAY_LEN(families); i++) {
        const char *arch = families[i].arch;
        if (s.n != strlen(arch) || memcmp(s.p, arch, s.n))
            continue;
        memcpy(ld->m->c.arch, arch, s.n + 1);
        return &families[i];
    }
    fail(ld->err, "%s: the reference has no architecture %.*s", gguf_path(ld->g), (int)s.n, s.p);
    return NULL;
}

static bool read_common(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    const struct gguf_tensor *embd = gguf_tensor(ld->g, "token_embd.weight");
    uint32_t n_mtp = 0;

    if (!ref_key_u32(ld, "block_count", REQUIRED, &ld->n_block) ||
        !ref_key_u32(ld, "nextn_predict_layers", OPTIONAL, &n_mtp) ||
        !ref_key_u32(ld, "embedding_length", REQUIRED, &c->n_embd))
        return false;
    if (n_mtp >= ld->n_block || ld->n_block > 4096)
        return fail(ld->err, "%s: %u blocks, %u of them MTP", gguf_path(ld->g), ld->n_block, n_mtp);
    if (!embd || !embd->dim[1] || embd->dim[1] > INT32_MAX)
        return fail(ld->err, "%s: no usable token_embd.weight", gguf_path(ld->g));
    c->n_vocab = (uint32_t)embd->dim[1];
    c->n_layer = ld->n_block - n_mtp;
    ref_find_mtp(ld);
    ld->m->layer = mem_alloc(ld->n_block, sizeof *ld->m->layer);
    HLM_ASSERT(ld->m->layer != NULL);
    return true;
}

void ref_find_mtp(struct ref_loader *ld)
{
    struct ref_config *c = &ld->m->c;
    bool there = c->n_layer < ld->n_block && ref_has(ld, c->n_layer, "nextn.eh_proj.weight");
    c->n_mtp = there ? ld->n_block - c->n_layer : 0;
}

/* An MTP block with its own embedding would be another model ("Draft blocks"). */
static bool load_mtp(struct ref_loader *ld, uint32_t i_layer)
{
    const struct ref_config *c = &ld->m->c;
    struct ref_mtp *mtp = &ld->m->mtp[i_layer - c->n_layer];

    if (ref_has(ld, i_layer, "nextn.embed_tokens.weight"))
        return fail(ld->err, "%s: the MTP block has an embedding of its own", gguf_path(ld->g));
#define W(field, name, d0, d1, d2)                                                                 \
    if (!ref_load(ld, ref_in_block(ld, i_layer, name), REQUIRED, d0, d1, d2, &mtp->field))         \
        return false;
    WEIGHTS_MTP(W)
#undef W
    mtp->head_norm = ld->m->output_norm;
    mtp->output = ld->m->output;
    return ref_load(ld, ref_in_block(ld, i_layer, "nextn.shared_head_norm.weight"), OPTIONAL,
                    c->n_embd, 1, 1, &mtp->head_norm) &&
           ref_load(ld, ref_in_block(ld, i_layer, "nextn.shared_head_head.weight"), OPTIONAL,
                    c->n_embd, c->n_vocab, 1, &mtp->output);
}

static bool load_all(struct ref_loader *ld, const struct ref_family *family)
{
    struct ref_model *m = ld->m;
    const struct ref_config *c = &m->c;

    if (!ref_load(ld, "token_embd.weight", REQUIRED, c->n_embd, c->n_vocab, 1, &m->token_embd) ||
        !ref_load(ld, "output_norm.weight", REQUIRED, c->n_embd, 1, 1, &m->output_norm))
        return false;
    m->output = m->token_embd; /* tied (trap "tied embeddings") */
    if (!ref_load(ld, "output.weight", OPTIONAL, c->n_embd, c->n_vocab, 1, &m->output))
        return false;
    m->mtp = mem_alloc(c->n_mtp + 1u, sizeof *m->mtp);
    HLM_ASSERT(m->mtp != NULL);
    for (uint32_t i = 0; i < c->n_layer + c->n_mtp; i++)
        if (!family->layer(ld, i) || (i >= c->n_layer && !load_mtp(ld, i)))
            return false;
    return true;
}

struct ref_model *ref_model_open(const struct gguf *g, struct hlm_err *err)
{
    struct ref_model *m = mem_alloc(1, sizeof *m);
    HLM_ASSERT(m != NULL);
    struct ref_loader ld = { .g = g, .m = m, .err = err };
    const struct ref_family *family = read_arch(&ld);

    if (family && read_common(&ld) && family->keys(&ld) && load_all(&ld, family))
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
    free(m->mtp);
    free(m);
}

const struct ref_config *ref_model_config(const struct ref_model *m) { return &m->c; }
