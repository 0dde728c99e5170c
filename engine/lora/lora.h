/* lora: low-rank adapters (Hu et al., arXiv 2106.09685) that run beside the base's weights and are
 * never merged into them.
 *
 * Reads adapter files, checks them against a base, and owns the set of adapters in force. The set
 * has one pair of stacked factors on the device for every matrix that an adapter changes, in its
 * own arena. The binder says which tensors the base has and which of their rows make a matrix
 * (struct lora_base). Adapter files are not trusted. Names in them follow llama.cpp, except those
 * of gate deltas (X.delta), which only hlm has. */
#pragma once
#include "file/file.h"
#include "ops/op.h"

/* What adapters say of themselves beside llama.cpp's keys: texts, in the order in which they are
 * shown. base_hash: of the file that the adapter was trained on, gguf_hash. scaling: LORA_RSLORA
 * where the scale was given as alpha / sqrt(rank). */
/* clang-format off */
#define LORA_PAST(X)                                                                               \
    X(BASE_HASH, "base.hash") X(SCALING, "lora.scaling") X(DATA, "train.data")                     \
    X(VALID, "train.valid") X(DATA_HASH, "train.data_hash") X(INIT, "train.init")                  \
    X(STEPS, "train.steps") X(LOSS, "train.loss") X(BEST, "train.best_validation")                 \
    X(LAST, "train.last_validation") X(VERSION, "version") X(NOTE, "train.note")
/* clang-format on */
enum lora_past {
#define PAST(name, key) LORA_##name,
    LORA_PAST(PAST)
#undef PAST
        N_LORA_PAST
};
const char *lora_past_key(enum lora_past k); /* with "hlm." before it */
#define LORA_RSLORA "rslora"

/* Rows [row0, row0 + n) of a tensor of the file are rows [at, at + n) of a matrix. A list of these
 * covers all rows of a matrix, with those of all its experts. */
struct base_rows {
    const struct gguf_tensor *t;
    uint64_t row0, at;
    uint32_t n;
};
struct base_matrix {
    linear *w;
    uint64_t rows, n_rows; /* base.rows[rows .. rows + n_rows) */
    bool beside;           /* an op multiplies it together with the matrix before it */
};
struct base_gate {
    tensor at;                   /* on the device */
    const struct gguf_tensor *t; /* its value without adapters */
    bool moved;                  /* the value on the device is changed by an adapter */
};

/* The tensors and matrices that an adapter can change. */
struct lora_base {
    const struct gguf *file;
    const char *arch; /* general.architecture */
    uint32_t n_layer; /* blocks that are not draft blocks */
    uint32_t n_mtp;   /* draft blocks after them that are not loaded */
    struct base_rows *rows;
    struct base_matrix *matrix;
    struct base_gate *gate;
    uint64_t n_rows, n_matrix, n_gate, cap_rows, cap_matrix, cap_gate;
};
/* These return false without memory. Rows are added to the last matrix. */
bool lora_base_matrix(struct lora_base *b, linear *w, bool beside);
bool lora_base_rows(struct lora_base *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n);
bool lora_base_gate(struct lora_base *b, tensor at, const struct gguf_tensor *t);
void lora_base_free(struct lora_base *b);

/* A base made from a file without a device, for work on files. Each matrix is one tensor, and draft
 * blocks are included. */
struct lora_file_base {
    struct lora_base base;
    char arch[64];
    linear *matrix; /* one for each tensor of the file, most of them unused */
};
bool lora_file_base(struct lora_file_base *b, const struct gguf *file, struct hlm_err *err);
void lora_file_base_free(struct lora_file_base *b); /* takes a zeroed one */

/* ---- one adapter ----------------------------------------------------------------------------- */

struct lora_file;
/* Checks an open adapter file against the base and takes it over; scale is the user's factor. NULL
 * with a reason that names the file and the tensor or key; g is then closed. g may be NULL, when
 * opening it has failed. */
struct lora_file *lora_file_check(struct gguf *g, float scale, const struct lora_base *b,
                                  struct hlm_err *err);
void lora_file_close(struct lora_file *f); /* takes NULL */
const struct gguf *lora_file_gguf(const struct lora_file *f);
/* An adapter that hlm made knows on which file. Another one of the same shape takes it and may
 * answer wrongly; if it is another quantisation of the same model, it does not. */
void lora_warn_of_base(const struct gguf *g, const char *path, const uint64_t hash[2]);
bool lora_is_rslora(const struct gguf *g); /* does it say so with LORA_SCALING? */

/* ---- sets of adapters ------------------------------------------------------------------------ */

struct lora_set;
/* Makes a set of the adapters and takes over their files, also on failure. Copies their numbers to
 * the device unless g is NULL. Does not change the base. train: the set is for training (see below)
 * and must be one adapter with a factor of 1. NULL with a reason. */
struct lora_set *lora_set_create(struct gpu *g, const struct lora_base *b, struct lora_file **file,
                                 uint32_t n, bool train, struct hlm_err *err);
/* For a set that was made while its gpu was dry: allocates its memory and copies its numbers to the
 * device. Afterwards the set must be put in force again. */
bool lora_set_upload(struct lora_set *s, struct gpu *g, struct hlm_err *err);
/* Puts the set in force; NULL: no set. The base's matrices then point to its factors, and its gates
 * are written to the device; a set for training does not change gates. No recording that uses the
 * base may exist. On failure (of the device or of memory) no set is in force, but some gates may be
 * those of this set until another call writes them again. */
bool lora_set_use(const struct lora_set *s, struct gpu *g, struct lora_base *b,
                  struct hlm_err *err);
void lora_set_destroy(struct lora_set *s);         /* takes NULL; it must not be in force */
uint64_t lora_set_bytes(const struct lora_set *s); /* on the device; NULL: 0 */
/* A hash of the adapters' contents and factors, in their order; zero without adapters. */
struct lora_hash {
    uint64_t lo, hi;
};
struct lora_hash lora_set_hash(const struct lora_set *s);
/* The rank of the stack of matrix i of the base; 0: no adapter changes the matrix. Then row r of
 * its stacked A (w->n_in numbers) or B (lora_rank numbers), for the upload and for tests without a
 * device. Rows of all experts are numbered consecutively. */
uint32_t lora_rank(const struct lora_set *s, uint64_t i);
void lora_row_a(const struct lora_set *s, uint64_t i, uint64_t r, float *out);
void lora_row_b(const struct lora_set *s, uint64_t i, uint64_t r, float *out);

/* ---- a set for training ---------------------------------------------------------------------- */

/* In a set for training every number of the adapter is in exactly one place on the device: matrices
 * share a stack of A only if one pair of factors changes several of them. All other numbers
 * (padding of rows and columns, columns of B that belong to another pair of the stack) are zero and
 * must stay zero. */
struct lora_param {
    const char *name;       /* X.lora_a or X.lora_b */
    uint32_t n;             /* numbers of a row */
    uint64_t n_row;         /* of all experts */
    float scale;            /* numbers on the device are those of the file times scale */
    uint32_t dim[3], n_dim; /* the fastest first */
};
/* In the order of the file, A before its B. */
uint64_t lora_n_param(const struct lora_set *s);
struct lora_param lora_param(const struct lora_set *s, uint64_t i);
/* Bytes from the start of the arena to the first number of a row, a multiple of 16; the others
 * follow. Rows of A of one expert are at equal distances. */
uint64_t lora_param_at(const struct lora_set *s, uint64_t i, uint64_t row);
struct arena *lora_arena(const struct lora_set *s);
/* Writes the adapter's delta of a gate to delta[n_elem]. Without one it writes zeros and returns
 * false. */
bool lora_gate_delta(const struct lora_set *s, const struct gguf_tensor *gate, float *delta);
