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

/* ---- for models/<arch>.c ---- */

/* Key readers: fmt is the key without the architecture's prefix. False (and err set) on a bad or
 * missing key. */
bool model_u32(struct binder *b, const char *key, enum gguf_need need, uint32_t *v);
bool model_f32(struct binder *b, const char *key, enum gguf_need need, float *v);
bool model_bool(struct binder *b, const char *key, enum gguf_need need, bool *v);
bool model_bools(struct binder *b, const char *key, enum gguf_need need, bool *v, uint64_t n);
/* One for each block of the file, draft blocks too; a scalar stands for all. */
bool model_u32s(struct binder *b, const char *key, enum gguf_need need, uint32_t *v);
bool model_f32s(struct binder *b, const char *key, enum gguf_need need, float *v);
/* A range check that names the key. */
bool model_range(struct binder *b, const char *key, uint32_t v, uint32_t min, uint32_t max);
/* Groups of experts: none is 1 of 1. n_used: experts that a token takes at most. */
bool model_groups(struct binder *b, uint32_t n_expert, uint32_t n_used, uint32_t *n_group,
                  uint32_t *n_group_used);
/* The factor on the weights of routed experts: none, as 0, is 1. */
bool model_expert_scale(struct binder *b, float *scale);
/* Values of a vector that the host needs, not the device. */
bool model_vector(struct binder *b, const char *name, uint32_t n, float *v);
/* A width that kernels take four at a time. */
bool model_width(struct binder *b, const char *key, uint32_t v);
bool model_refuse(struct binder *b, const char *fmt, ...) HLM_PRINTF(2, 3);
bool model_has(struct binder *b, const char *name_fmt, uint32_t i_layer);
/* The last n blocks of the file are draft blocks. Layers to be bound: n_layer + n_draft. */
void model_mtp(struct binder *b, uint32_t n);

/* Weights; name_fmt may hold one %u, the layer. Each checks the shape and marks the
 * tensor as used. */
bool bind_vector(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n,
                 uint32_t n_row);
/* fp32 contract */
bool bind_gate(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n);
bool bind_linear(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out);
/* A matrix that one op multiplies together with the one bound just before: it is put right behind
 * it, and where their types agree the two are one dispatch. */
bool bind_beside(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out);
/* Its last rows make gates or choose experts: their product is f32 always. True. */
static inline bool bind_exact(linear *w, uint32_t n_row)
{
    w->n_exact = n_row;
    return true;
}
bool bind_experts(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer,
                  uint32_t n_in, uint32_t n_out, uint32_t n_expert);
/* Gate and up rows of m's experts, in one matrix where their type is one. */
bool bind_gate_up(struct binder *b, struct moe *m, uint32_t i_layer, uint32_t n_in);
/* The bias of a matrix that is bound, where the file has one. */
bool bind_bias(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer);
/* a table made on the host */
bool bind_words(struct binder *b, tensor *t, const uint32_t *words, uint32_t n);

/* A matrix put together from rows of tensors, for files that order them in another way. Between
 * begin and end, rows [row0, row0 + n) of a tensor go behind what is there; all tensors must
 * have one type. */
const struct gguf_tensor *bind_find(struct binder *b, const char *name_fmt, uint32_t i_layer,
                                    uint32_t n_in, uint64_t n_row);
void bind_begin(struct binder *b, linear *w, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                uint32_t n_expert);
void bind_rows(struct binder *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n);
void bind_end(struct binder *b);
void bind_beside_last(struct binder *b); /* before bind_begin: as bind_beside */
