/* variant: see the header. */
#include "variant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The file that is edited, and the name that is being built. */
struct work {
    struct gguf *g;
    struct gguf_build *b;
    struct rng rng;
    char arch[32];
    uint32_t n_block, n_embd;
    char name[96];
};

static const char *key(struct work *w, const char *name)
{
    snprintf(w->name, sizeof w->name, "%s.%s", w->arch, name);
    return w->name;
}

static const char *in_block(struct work *w, uint32_t i_block, const char *name)
{
    snprintf(w->name, sizeof w->name, "blk.%u.%s", i_block, name);
    return w->name;
}

static const struct gguf_tensor *tensor_of(struct work *w, uint32_t i_block, const char *name)
{
    return gguf_tensor(w->g, in_block(w, i_block, name));
}

/* n numbers of about 1 / sqrt(n_in), or zeros. */
static float *values(struct work *w, uint64_t n, uint64_t n_in)
{
    float *v = mem_alloc(n, sizeof *v);
    HLM_ASSERT(v != NULL);
    for (uint64_t i = 0; n_in && i < n; i++)
        v[i] = (float)(rng_normal(&w->rng) / sqrt((double)n_in));
    return v;
}

static void set_tensor(struct work *w, uint32_t i_block, const char *name, uint64_t d0, uint64_t d1,
                       uint64_t d2, float *v)
{
    gb_tensor(w->b, in_block(w, i_block, name), F32,
              d2 > 1   ? 3
              : d1 > 1 ? 2
                       : 1,
              (uint64_t[3]){ d0, d1, d2 }, v);
    free(v);
}

/* ---- biases ----------------------------------------------------------------------------- */

static void add_biases(struct work *w, bool zero)
{
    static const char *const part[] = { "attn_q",   "attn_k", "attn_v", "attn_output",
                                        "ffn_down", "ffn_up", "ssm_in" };
    for (uint32_t i = 0; i < w->n_block; i++) {
        for (uint32_t j = 0; j < ARRAY_LEN(part); j++) {
            char weight[32], bias[32];
            snprintf(weight, sizeof weight, "%s.weight", part[j]);
            snprintf(bias, sizeof bias, "%s.bias", part[j]);
            const struct gguf_tensor *t = tensor_of(w, i, weight);
            if (t)
                set_tensor(w, i, bias, t->dim[1], 1, 1, values(w, t->dim[1], zero ? 0 : 10));
        }
    }
}

/* ---- experts ---------------------------------------------------------------------------- */

/* Rows of n_in numbers, n rows an expert; each expert is followed by more - n rows of zeros. */
static float *padded_rows(const struct gguf_tensor *t, uint64_t more)
{
    uint64_t n = t->dim[0] * t->dim[1], wide = t->dim[0] * more;
    float *v = mem_alloc(wide * t->dim[2], sizeof *v);
    HLM_ASSERT(v != NULL);
    for (uint64_t e = 0; e < t->dim[2]; e++)
        memcpy(v + e * wide, t->data + e * n * sizeof *v, n * sizeof *v);
    return v;
}

/* Rows of `more` numbers that begin with those of the tensor. */
static float *padded_columns(const struct gguf_tensor *t, uint64_t more)
{
    uint64_t n_row = t->dim[1] * t->dim[2];
    float *v = mem_alloc(more * n_row, sizeof *v);
    HLM_ASSERT(v != NULL);
    for (uint64_t i = 0; i < n_row; i++)
        memcpy(v + i * more, t->data + i * t->dim[0] * sizeof *v, t->dim[0] * sizeof *v);
    return v;
}

static bool set_arrays(struct work *w, struct hlm_err *err)
{
    uint32_t *n_ff = mem_alloc(w->n_block, sizeof *n_ff), *n_used;
    uint32_t ff, used, n_moe = 0;
    n_used = mem_alloc(w->n_block, sizeof *n_used);
    HLM_ASSERT(n_ff && n_used);

    bool ok = gguf_u32(w->g, key(w, "expert_feed_forward_length"), REQUIRED, &ff, err) &&
              gguf_u32(w->g, key(w, "expert_used_count"), REQUIRED, &used, err);
    for (uint32_t i = 0; ok && i < w->n_block; i++) {
        const struct gguf_tensor *up = tensor_of(w, i, "ffn_up_exps.weight");
        const struct gguf_tensor *down = tensor_of(w, i, "ffn_down_exps.weight");
        if (!up || !down)
            continue;
        n_used[i] = used;
        n_ff[i] = n_moe++ % 2 ? ff + ff / 2 : ff;
        set_tensor(w, i, "ffn_up_exps.weight", up->dim[0], n_ff[i], up->dim[2],
                   padded_rows(up, n_ff[i]));
        set_tensor(w, i, "ffn_down_exps.weight", n_ff[i], down->dim[1], down->dim[2],
                   padded_columns(down, n_ff[i]));
    }
    if (ok) {
        gb_array(w->b, key(w, "expert_feed_forward_length"), GGUF_U32, w->n_block, n_ff);
        gb_array(w->b, key(w, "expert_used_count"), GGUF_U32, w->n_block, n_used);
    }
    free(n_ff);
    free(n_used);
    return ok;
}

static float *unit(uint64_t n)
{
    float *v = mem_alloc(n * n, sizeof *v);
    HLM_ASSERT(v != NULL);
    for (uint64_t i = 0; i < n; i++)
        v[i * n + i] = 1;
    return v;
}

static void set_latent(struct work *w, bool same)
{
    uint64_t dim = w->n_embd, n = same ? dim : dim / 2;

    gb_u32(w->b, key(w, "moe_latent_size"), (uint32_t)n);
    for (uint32_t i = 0; i < w->n_block; i++) {
        const struct gguf_tensor *up = tensor_of(w, i, "ffn_up_exps.weight");
        if (!up)
            continue;
        uint64_t ff = up->dim[1], n_expert = up->dim[2];
        set_tensor(w, i, "ffn_latent_down.weight", dim, n, 1,
                   same ? unit(n) : values(w, dim * n, dim));
        set_tensor(w, i, "ffn_latent_up.weight", n, dim, 1, same ? unit(n) : values(w, dim * n, n));
        if (same)
            continue;
        set_tensor(w, i, "ffn_up_exps.weight", n, ff, n_expert, values(w, n * ff * n_expert, n));
        set_tensor(w, i, "ffn_down_exps.weight", ff, n, n_expert, values(w, n * ff * n_expert, ff));
    }
}

/* ---- all -------------------------------------------------------------------------------- */

const char *variant_name(enum variant v)
{
    static const char *const name[VARIANT_COUNT] = {
        [VARIANT_EPS] = "the other name of epsilon",
        [VARIANT_UNCOUNTED] = "an MTP block that no key counts",
        [VARIANT_ARRAYS] = "experts of two widths",
        [VARIANT_UNIT_LATENT] = "a latent between unit matrices",
        [VARIANT_ZERO_BIASES] = "biases of zero",
        [VARIANT_BIASES] = "biases",
        [VARIANT_LATENT] = "experts on a latent",
        [VARIANT_GROUPS] = "experts in groups",
    };
    return name[v];
}

bool variant_fits(enum variant v, const char *arch)
{
    bool moe = strcmp(arch, "nemotron_h_moe") == 0;
    switch (v) {
    case VARIANT_UNCOUNTED:
    case VARIANT_ARRAYS:
    case VARIANT_UNIT_LATENT:
    case VARIANT_LATENT:
    case VARIANT_GROUPS: return moe;
    default: return moe || strcmp(arch, "nemotron_h") == 0;
    }
}

static bool apply(struct work *w, enum variant v, struct hlm_err *err)
{
    switch (v) {
    case VARIANT_EPS:
        gb_f32(w->b, key(w, "attention.layer_norm_epsilon"), 1e-5f);
        return gb_drop_key(w->b, key(w, "attention.layer_norm_rms_epsilon")) ||
               fail(err, "%s: no %s", gguf_path(w->g), w->name);
    case VARIANT_UNCOUNTED:
        return gb_drop_key(w->b, key(w, "nextn_predict_layers")) ||
               fail(err, "%s: no %s", gguf_path(w->g), w->name);
    case VARIANT_ARRAYS: return set_arrays(w, err);
    case VARIANT_GROUPS:
        gb_u32(w->b, key(w, "expert_group_count"), 3);
        gb_u32(w->b, key(w, "expert_group_used_count"), 2);
        return true;
    case VARIANT_LATENT:
    case VARIANT_UNIT_LATENT: set_latent(w, v == VARIANT_UNIT_LATENT); return true;
    default: add_biases(w, v == VARIANT_ZERO_BIASES); return true;
    }
}

struct gguf_build *variant_build(const char *path, enum variant v, struct hlm_err *err)
{
    struct hlm_str arch = { 0 };
    struct work w = { .g = gguf_open(path, err), .rng = { 11 } };
    bool ok = w.g && gguf_str(w.g, "general.architecture", REQUIRED, &arch, err);

    if (ok)
        snprintf(w.arch, sizeof w.arch, "%.*s", (int)arch.n, arch.p);
    ok = ok &&
         (variant_fits(v, w.arch) ||
          fail(err, "%s: %s has no variant of %s", path, w.arch, variant_name(v))) &&
         gguf_u32(w.g, key(&w, "block_count"), REQUIRED, &w.n_block, err) &&
         gguf_u32(w.g, key(&w, "embedding_length"), REQUIRED, &w.n_embd, err);
    const struct gguf_tensor *embd = ok ? gguf_tensor(w.g, "token_embd.weight") : NULL;
    if (ok && (!embd || embd->type != F32))
        ok = fail(err, "%s: no f32 file", path);
    w.b = ok ? gb_from(path, err) : NULL;
    ok = w.b && apply(&w, v, err);
    gguf_close(w.g);
    if (ok)
        return w.b;
    gb_free(w.b);
    return NULL;
}
