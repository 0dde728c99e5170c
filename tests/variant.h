/* variant: makes, from the f32 file of a fixture, the same model written in another way or a model
 * with parts that no fixture has, as in old, pruned and large Nemotron-H files (models/README.md,
 * "Nemotron keys" and "Nemotron tensors"). */
#pragma once
#include "gguf_build.h"

enum variant {
    /* The same model, so the same logits: */
    VARIANT_EPS,       /* attention.layer_norm_epsilon is the only epsilon */
    VARIANT_UNCOUNTED, /* no nextn_predict_layers: a last block with both mixers is a draft block */
    VARIANT_ARRAYS,    /* expert counts and widths as arrays, two widths, the surplus zero */
    VARIANT_UNIT_LATENT, /* a latent as wide as the model between unit matrices */
    VARIANT_ZERO_BIASES, /* of attention, MLP and ssm_in; all zero */
    /* Other models: */
    VARIANT_BIASES, /* the same biases, not zero */
    VARIANT_LATENT, /* experts on a latent half as wide as the model */
    VARIANT_GROUPS, /* experts in three groups, the best two of them used */
    VARIANT_COUNT
};

/* The variant's name in a test case. */
const char *variant_name(enum variant v);
/* True if the variant changes files of this architecture. */
bool variant_fits(enum variant v, const char *arch);
/* NULL with a reason when path is not an f32 file of nemotron_h or nemotron_h_moe. Free it with
 * gb_free(). */
struct gguf_build *variant_build(const char *path, enum variant v, struct hlm_err *err);
