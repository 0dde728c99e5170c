/* lora_make: chooses the matrices of a base to train, makes new adapters for them, and writes
 * adapter files. */
#pragma once
#include "lora/lora.h"

/* ---- targets --------------------------------------------------------------------------------- */

/* A set of matrices that has a name. */
struct lora_group {
    const char *name, *about;
};
extern const struct lora_group lora_groups[];
extern const uint32_t n_lora_group;

/* In the order of the base's file. The caller frees t. */
struct lora_targets {
    const struct gguf_tensor **t;
    uint64_t n;
};
/* Selects matrices by words with commas between them. A word is a group, the short name of a matrix
 * (attn_q, ssm_ba: the part between the block and ".weight"), or a pattern for whole names such as
 * "blk.1?.ffn_*.weight", in which an asterisk is any text and ? any one character. Groups and short
 * names select matrices of the main blocks; only the group mtp selects those of draft blocks. A
 * word that matches nothing is refused with a list of what would match. words NULL: those of attn,
 * linear, ffn and shared that the base has. */
bool lora_find_targets(const struct lora_base *b, const char *words, struct lora_targets *out,
                       struct hlm_err *err);

/* ---- fresh adapters -------------------------------------------------------------------------- */

struct lora_fresh {
    uint32_t rank;
    float alpha;
    bool rslora; /* scale by alpha / sqrt(rank), arXiv 2312.03732, instead of alpha / rank; the
                    file then has another alpha, with the same effect */
    uint64_t seed;
};
/* Makes a new adapter as a GGUF file in memory, for gguf_parse and lora_file_check. The caller
 * closes those and then frees it. A is uniform within 1 / sqrt(n_in), as PyTorch initialises linear
 * layers (Kaiming uniform, arXiv 1502.01852); B is zero. The numbers of a matrix do not depend on
 * which others are adapted. NULL with a reason. */
uint8_t *lora_make(const struct lora_base *b, const struct lora_targets *t,
                   const struct lora_fresh *how, uint64_t *n_bytes, struct hlm_err *err);

/* ---- files ----------------------------------------------------------------------------------- */

/* X.lora_a, X.lora_b or X.delta. dim: the fastest first; unused ones are 1. */
struct lora_tensor {
    const char *name;
    uint32_t dim[3], n_dim;
};
/* A text of the file's metadata. */
struct lora_text {
    const char *key, *value;
};
struct lora_write {
    const char *arch;
    float alpha;
    const struct lora_tensor *tensor;
    uint64_t n_tensor;
    /* writes all numbers of tensor i */
    bool (*values)(void *user, uint64_t i, float *to, struct hlm_err *err);
    void *user;
    const struct lora_text *text; /* [n_text] what else the file says of itself */
    uint32_t n_text;
};
/* Writes a temporary file, reads it back, and renames it to its target. */
bool lora_write(const char *path, const struct lora_write *w, struct hlm_err *err);
/* The value of adapter.lora.alpha for a scale of alpha / rank, or of alpha / sqrt(rank). */
float lora_file_alpha(float alpha, uint32_t rank, bool rslora);
