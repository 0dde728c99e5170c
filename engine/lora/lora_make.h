/* lora_make: which matrices of a base are to be adapted, fresh adapters for them, and adapters on
 * their way into files. */
#pragma once
#include "lora/lora.h"

/* ---- targets --------------------------------------------------------------------------------- */

/* Names for sets of matrices. */
struct lora_group {
    const char *name, *about;
};
extern const struct lora_group lora_groups[];
extern const uint32_t n_lora_group;

/* In the order of the base's file; t is freed by whoever asked. */
struct lora_targets {
    const struct gguf_tensor **t;
    uint64_t n;
};
/* Words with commas between, each a group; or what stands between block and ".weight" in names of
 * tensors (attn_q, ssm_ba); or a pattern for whole names, in which * is any text and ? any one
 * character (blk.1?.ffn_*.weight). Groups and short names mean the main blocks' matrices, the group
 * mtp the draft blocks'. A word that matches nothing is refused with what there is. words NULL:
 * attn, linear, ffn and shared, as far as there are any. */
bool lora_find_targets(const struct lora_base *b, const char *words, struct lora_targets *out,
                       struct hlm_err *err);

/* ---- fresh adapters -------------------------------------------------------------------------- */

struct lora_fresh {
    uint32_t rank;
    float alpha;
    bool rslora; /* scale alpha / sqrt(rank), arXiv 2312.03732, else alpha /
                    rank; the file's alpha says it */
    uint64_t seed;
};
/* A GGUF file in memory that gguf_parse and lora_file_check take; the caller frees it when they are
 * done. A is uniform within 1 / sqrt(n_in), as PyTorch begins linear layers (Kaiming uniform, arXiv
 * 1502.01852); B zero. A matrix gets the same numbers whatever the others are. NULL with a
 * reason. */
uint8_t *lora_make(const struct lora_base *b, const struct lora_targets *t,
                   const struct lora_fresh *how, uint64_t *n_bytes, struct hlm_err *err);

/* ---- files ----------------------------------------------------------------------------------- */

/* X.lora_a, X.lora_b or X.delta; dim fastest first, an unused one 1. */
struct lora_tensor {
    const char *name;
    uint32_t dim[3], n_dim;
};
struct lora_write {
    const char *arch;
    float alpha;
    const struct lora_tensor *tensor;
    uint64_t n_tensor;
    /* all numbers of tensor i */
    bool (*values)(void *user, uint64_t i, float *to, struct hlm_err *err);
    void *user;
};
/* Written beside its place, read back, and only then put there. */
bool lora_write(const char *path, const struct lora_write *w, struct hlm_err *err);
/* adapter.lora.alpha: what a file has to say for a scale of alpha / rank or alpha / sqrt(rank) */
float lora_file_alpha(float alpha, uint32_t rank, bool rslora);
