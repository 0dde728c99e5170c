/* model: loads a GGUF file's weights to the device, bound to the fields of an architecture, and
 * runs them.
 *
 * models/<arch>.c describes an architecture (its keys, its weights, its block()) with arch.h. This
 * file has what all architectures share. */
#pragma once
#include "file/file.h"
#include "model/kv.h"
#include "lora/lora.h"

struct binder;

/* A draft block (multi-token prediction; "nextn" in files). From the hidden state of a token and
 * the embedding of the next token it predicts the token after that. Its transformer block is layer
 * n_layer + i of the architecture; its other parts are here. */
struct draft {
    tensor enorm, hnorm;               /* of the embedding, of the hidden state */
    linear eh_proj;                    /* columns for the embedding, then for the hidden state */
    tensor norm;                       /* before the head */
    const linear *token_embd, *output; /* the model's, or the draft block's own below */
    linear own_embd, own_output;
};

struct model {
    const struct arch *arch;
    const struct gguf *file; /* the caller's; must outlive the model */
    struct gpu *gpu;
    struct arena *weights;
    struct binder *binder; /* what model_upload has to upload; NULL afterwards */
    uint32_t n_layer, n_embd, n_vocab, n_ctx_train;
    uint32_t n_mtp;      /* draft blocks of the file, which are its last blocks */
    uint32_t n_draft;    /* how many of those are loaded: all or none */
    struct draft *draft; /* [n_draft] */
    float eps;
    uint64_t n_param; /* numbers in all weights that are bound */
    linear token_embd, output;
    tensor output_norm;
    struct lora_base base; /* what adapters can change */
    void *own;             /* the architecture's part (arch.h: model_own) */
};

struct arch {
    const char *name; /* general.architecture */
    /* Reads keys and binds weights: fills m->own. The common fields of m are filled already. */
    bool (*load)(struct model *m, struct binder *b);
    struct layer_shape (*shape)(const struct model *m, uint32_t i_layer);
    /* The only description of a layer: prefill, decode and training run it. x and the result:
     * [n_tok][n_embd]. */
    tensor (*block)(struct cmd *c, const struct model *m, uint32_t i_layer,
                    struct layer_cache *cache, const struct batch *b, tensor x);
    /* Draft blocks read hidden states before the norm: the first block reads the model's, each
     * further block those of the block before it. False: they read them after the norm. */
    bool draft_raw;
};
#define ARCH(name) extern const struct arch arch_##name;
#include "models/models.def"
#undef ARCH

/* The architecture of a file; NULL with a reason. Needs no device. */
const struct arch *model_arch(const struct gguf *file, struct hlm_err *err);
/* Reads keys and shapes. Afterwards the model's layers and its size on the device are known, but
 * nothing is allocated there. draft: also loads draft blocks, if the file has any. NULL with a
 * reason. */
struct model *model_load(struct gpu *g, const struct gguf *file, bool draft, struct hlm_err *err);
/* Allocates and uploads the weights, once. HLM_ERR_STOPPED if progress returns false. */
bool model_upload(struct model *m, bool (*progress)(void *user, uint64_t done, uint64_t total),
                  void *user, struct hlm_err *err);
void model_unload(struct model *m); /* takes NULL */

/* Like arena_commit; a refusal ends with a hint at what would need less memory. */
bool model_commit(struct arena *a, const char *hint, struct hlm_err *err);

/* Embeds the batch and runs every layer. Returns the last layer's output, before the final norm.
 * hidden, if not NULL, gets n_layer + 1 groups of n_tok rows: the embeddings, and the output of
 * every layer. */
tensor model_forward(struct cmd *c, const struct model *m, struct kv *kv, const struct batch *b,
                     const tensor *hidden);
/* Final norm and head for rows of x: [n_row][n_vocab]. norm, if not NULL, gets the normed rows. */
tensor model_head(struct cmd *c, const struct model *m, tensor x, const tensor *norm);
/* Runs draft block i on a batch of hidden states h (arch->draft_raw says which) and the embeddings
 * e of the tokens that follow theirs. The result is for draft[i].norm and then draft[i].output. */
struct draft_input {
    tensor h, e;
};
tensor model_draft(struct cmd *c, const struct model *m, uint32_t i, struct layer_cache *cache,
                   const struct batch *b, struct draft_input in);
