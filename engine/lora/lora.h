/* lora: low-rank adapters (Hu et al., arXiv 2106.09685) beside the base's weights, never merged
 * into them.
 *
 * Owns the reading and checking of adapter files against a base, and the set of adapters that are
 * active together: for every matrix they reach one pair of stacked factors on the device, in an
 * arena of their own. What tensors the base has and which rows of them a matrix is made of, the
 * binder tells (struct lora_base). Adapter files are untrusted. Convention: llama.cpp's; gate
 * deltas (X.delta) are hlm's own. */
#pragma once
#include "file/file.h"
#include "ops/op.h"

/* Rows [row0, row0 + n) of a tensor of the file; a matrix's rows (of all experts) are such pieces,
 * one behind the other, this one from row `at` on. */
struct base_rows {
    const struct gguf_tensor *t;
    uint64_t row0, at;
    uint32_t n;
};
struct base_matrix {
    linear *w;
    uint64_t rows, n_rows; /* base.rows[rows ..] */
    bool beside;           /* some op multiplies it together with the one before */
};
struct base_gate {
    tensor at;                   /* on the device */
    const struct gguf_tensor *t; /* what it holds without adapters */
    bool moved;                  /* an adapter has changed it */
};

/* What an adapter may name. */
struct lora_base {
    const struct gguf *file;
    const char *arch;        /* general.architecture */
    uint32_t n_layer, n_mtp; /* of main blocks; of draft blocks behind them that are
                                left out */
    struct base_rows *rows;
    struct base_matrix *matrix;
    struct base_gate *gate;
    uint64_t n_rows, n_matrix, n_gate, cap_rows, cap_matrix, cap_gate;
};
/* Each false without memory. Rows go to the matrix added last. */
bool lora_base_matrix(struct lora_base *b, linear *w, bool beside);
bool lora_base_rows(struct lora_base *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n);
bool lora_base_gate(struct lora_base *b, tensor at, const struct gguf_tensor *t);
void lora_base_free(struct lora_base *b);

/* The base as its file alone shows it: each of its matrices in one piece, draft blocks included.
 * For work on files; there is no device. */
struct lora_file_base {
    struct lora_base base;
    char arch[64];
    linear *matrix; /* one for each tensor, most unused */
};
bool lora_file_base(struct lora_file_base *b, const struct gguf *file, struct hlm_err *err);
void lora_file_base_free(struct lora_file_base *b); /* takes a zeroed one */

/* ---- one adapter ----------------------------------------------------------------------------- */

struct lora_file;
/* Checks an open adapter file against the base and takes it; scale is the user's factor. Whatever
 * does not fit is refused in one line that names the file and the tensor or key. NULL: refused, and
 * g is closed; takes NULL. */
struct lora_file *lora_file_check(struct gguf *g, float scale, const struct lora_base *b,
                                  struct hlm_err *err);
void lora_file_close(struct lora_file *f); /* takes NULL */

/* ---- the active set -------------------------------------------------------------------------- */

struct lora_set;
/* Puts the adapters together and, where g is not NULL, brings them to the device; takes the files.
 * Nothing of the base is changed. train: of one adapter, its factor 1; see below. NULL with a
 * reason. */
struct lora_set *lora_set_create(struct gpu *g, const struct lora_base *b, struct lora_file **file,
                                 uint32_t n, bool train, struct hlm_err *err);
/* For a set that was made while its gpu was dry (lora_set_create does it elsewhere): allocates and
 * brings it up. It is to be put in force again. */
bool lora_set_upload(struct lora_set *s, struct gpu *g, struct hlm_err *err);
/* Makes the set the one in force, or none with NULL: the matrices of the base point to it, gates
 * are written, which of a set for training are those of the base. Nothing may be recorded that
 * uses the base. On failure (the device is lost) nothing is in force. */
bool lora_set_use(const struct lora_set *s, struct gpu *g, struct lora_base *b,
                  struct hlm_err *err);
void lora_set_destroy(struct lora_set *s);         /* takes NULL; must not be in force */
uint64_t lora_set_bytes(const struct lora_set *s); /* on the device; NULL: 0 */
/* Of the adapters' contents and factors, in their order; zero for none. */
struct lora_hash {
    uint64_t lo, hi;
};
struct lora_hash lora_set_hash(const struct lora_set *s);
/* Row r of the stacked A of matrix i (w->n_in numbers), or of its B (lora_rank numbers); rows of
 * all experts count on. For the upload, and for tests without a device. */
uint32_t lora_rank(const struct lora_set *s, uint64_t i); /* 0: nothing reaches the matrix */
void lora_row_a(const struct lora_set *s, uint64_t i, uint64_t r, float *out);
void lora_row_b(const struct lora_set *s, uint64_t i, uint64_t r, float *out);

/* ---- a set for training ---------------------------------------------------------------------- */

/* Every number of the adapter stands in exactly one place on the device, and a stack of A is shared
 * only where one pair reaches several matrices. What stands between (columns of B that belong to
 * another pair of the stack, filled up rows and columns) is zero and has to stay so. */
struct lora_param {
    const char *name;       /* X.lora_a or X.lora_b */
    uint32_t n;             /* numbers of a row */
    uint64_t n_row;         /* of all experts */
    float scale;            /* the device has scale times what the file has */
    uint32_t dim[3], n_dim; /* fastest first */
};
/* In the file's order, A before its B. */
uint64_t lora_n_param(const struct lora_set *s);
struct lora_param lora_param(const struct lora_set *s, uint64_t i);
/* Bytes from the start of the arena to a row's first number, a multiple of 16; the others follow
 * it. Rows of A of one expert follow each other at equal distances. */
uint64_t lora_param_at(const struct lora_set *s, uint64_t i, uint64_t row);
struct arena *lora_arena(const struct lora_set *s);
/* What the adapter's file adds to a gate, into delta[n_elem]; zeros, and false, where it has
 * none. */
bool lora_gate_delta(const struct lora_set *s, const struct gguf_tensor *gate, float *delta);
