/* model: a GGUF's weights on the device, bound to the fields of one architecture.
 *
 * What an architecture is stands in models/<arch>.c: its keys, its weights, its block(). This file
 * is what they have in common, and the binder that turns tensor names into packed matrices and
 * vectors: it checks every shape before anything is allocated, computes the exact size, and then
 * brings the rows up. */
#pragma once
#include "file/file.h"
#include "model/kv.h"
#include "lora/lora.h"

struct binder;

/* A draft block (multi-token prediction; "nextn" in files): of the hidden state of a token and the
 * embedding of the one behind it, it foresees the one behind that. Its transformer block is layer
 * n_layer + i of the architecture; this is what stands around it. */
struct draft {
    tensor enorm, hnorm;               /* of the embedding, of the hidden state */
    linear eh_proj;                    /* columns for the embedding, then for the hidden state */
    tensor norm;                       /* before the head */
    const linear *token_embd, *output; /* the model's, or its own */
    linear own_embd, own_output;
};

struct model {
    const struct arch *arch;
    const struct gguf *file; /* the caller's; outlives the model */
    struct gpu *gpu;
    struct arena *weights;
    struct binder *binder; /* what model_upload has to bring; NULL behind it */
    uint32_t n_layer, n_embd, n_vocab, n_ctx_train;
    uint32_t n_mtp;      /* draft blocks behind the main ones of the file */
    uint32_t n_draft;    /* of them are here: all or none */
    struct draft *draft; /* [n_draft] */
    float eps;
    uint64_t n_param; /* weights bound */
    linear token_embd, output;
    tensor output_norm;
    struct lora_base base; /* what adapters may name; theirs to change */
    void *own;             /* the architecture's part */
};

struct arch {
    const char *name; /* general.architecture */
    /* Reads keys and binds weights: fills m->own and the common fields. */
    bool (*load)(struct model *m, struct binder *b, struct hlm_err *err);
    void (*unload)(struct model *m); /* frees m->own; takes a half-loaded model */
    struct layer_shape (*shape)(const struct model *m, uint32_t i_layer);
    /* The only description of the layer: prefill, decode and training run it.
     * x: [n_tok][n_embd]. */
    tensor (*block)(struct cmd *c, const struct model *m, uint32_t i_layer,
                    struct layer_cache *cache, const struct batch *b, tensor x);
    /* The first draft block reads the hidden state before the final norm, a further one what the
     * one before it gives before its norm; else both behind it. */
    bool draft_raw;
};
#define ARCH(name) extern const struct arch arch_##name;
#include "models/models.def"
#undef ARCH

/* The row of models.def for a file, NULL with a reason. Needs no device, so it is asked first. */
const struct arch *model_arch(const struct gguf *file, struct hlm_err *err);
/* Reads keys and shapes: the model's size on the device and its layers are known, nothing is
 * there yet. draft: with the draft blocks, where the file has any; else they are left out. */
struct model *model_load(struct gpu *g, const struct gguf *file, bool draft, struct hlm_err *err);
/* Allocates the weights and brings them up; false without err: progress wanted it to end. Once. */
bool model_upload(struct model *m, bool (*progress)(void *user, uint64_t done, uint64_t total),
                  void *user, struct hlm_err *err);
void model_unload(struct model *m); /* takes NULL */

/* arena_commit that says, where memory is short, what makes the arena smaller. */
bool model_commit(struct arena *a, const char *hint, struct hlm_err *err);

/* Embeds the batch, runs every layer, leaves the last output (before the final norm). hidden,
 * where it is not NULL, receives n_layer + 1 groups of n_tok rows: the embeddings and the output
 * of every layer. */
tensor model_forward(struct cmd *c, const struct model *m, struct kv *kv, const struct batch *b,
                     const tensor *hidden);
/* Final norm and head for rows of x: [n_row][n_vocab]. norm, where it is not NULL, receives the
 * normed rows. */
tensor model_head(struct cmd *c, const struct model *m, tensor x, const tensor *norm);
/* Draft block i for a batch: of the hidden states h (arch->draft_raw) and the embeddings e of the
 * tokens behind theirs. What it gives is for draft[i].norm and draft[i].output. */
tensor model_draft(struct cmd *c, const struct model *m, uint32_t i, struct layer_cache *cache,
                   const struct batch *b, tensor h, tensor e);
