/* arch: for models/<arch>.c: readers of its keys, and the binder, which finds tensors by name and
 * makes packed matrices and vectors on the device of them.
 *
 * The binder checks the type and shape of every tensor and gives it a place among the weights, in
 * the order of the calls. Nothing is allocated or read yet; model_upload does that. Each call
 * returns false on failure, with the reason in the err of model_load. */
#pragma once
#include "lora/hf.h"
#include "model/model.h"

/* The limits of the kernels. */
enum { MAX_HEAD = 1024, MAX_HEAD_DIM = 512, MAX_EXPERT = 512, MAX_EXPERT_USED = 64 };

/* ---- keys ------------------------------------------------------------------------------------ */

/* Allocates the architecture's own part of m: `bytes`, followed by `block_bytes` for each block of
 * the file, draft blocks included, all zero. It becomes m->own, which model_unload frees. NULL
 * without memory. */
void *model_own(struct binder *b, uint64_t bytes, uint64_t block_bytes);
/* The number of blocks of the file, draft blocks included. */
static inline uint32_t model_n_block(const struct model *m) { return m->n_layer + m->n_mtp; }

/* A key is given without the architecture in front of it. A missing key leaves the value alone, and
 * is an error only if it is REQUIRED. */
bool model_has_key(struct binder *b, const char *key);
bool model_u32(struct binder *b, const char *key, enum gguf_need need, uint32_t *v);
bool model_f32(struct binder *b, const char *key, enum gguf_need need, float *v);
bool model_bool(struct binder *b, const char *key, enum gguf_need need, bool *v);
/* Reads a value for each block of the file, from a list, or from a scalar for all blocks. v points
 * to the value of the first block; the others follow at distances of `stride` bytes. Floats must be
 * finite. Bools may be integers, because some converters write them so. */
bool model_u32s(struct binder *b, const char *key, enum gguf_need need, uint32_t *v,
                uint64_t stride);
bool model_f32s(struct binder *b, const char *key, enum gguf_need need, float *v, uint64_t stride);
bool model_bools(struct binder *b, const char *key, enum gguf_need need, bool *v, uint64_t stride);

/* Refuses the file: its path, then the message. Returns false. */
bool model_refuse(struct binder *b, const char *fmt, ...) HLM_PRINTF(2, 3);
/* Checks that v, the value of key, is from min to max. The refusal names the key. */
bool model_range(struct binder *b, const char *key, uint32_t v, uint32_t min, uint32_t max);
/* Checks a width of activations: not 0, and a multiple of 4, since kernels take four at a time. */
bool model_width(struct binder *b, const char *key, uint32_t v);
/* Reads a width that may be 0, for none. `rows` names the tensors with that many rows (%u: the
 * block). If the key is missing, the first of them gives the width. If the key is 0 but there is
 * such a tensor, the file is refused. */
bool model_width_or_none(struct binder *b, const char *key, const char *rows, uint32_t *v);

/* Keys that several architectures share. */

/* Reads attention.key_length, and attention.value_length, which must be equal. If OPTIONAL, the
 * value of *head_dim is the default. */
bool model_head_dim(struct binder *b, enum gguf_need need, uint32_t *head_dim);
/* Checks that a block has the same number of query heads for each key head. */
bool model_kv_heads(struct binder *b, uint32_t i_block, uint32_t n_head, uint32_t n_kv_head);
/* Reads a rotary base frequency; 10000 if the key is missing. */
bool model_rope_base(struct binder *b, const char *key, float *theta);

/* Reads the keys ssm.*, all required. Gated DeltaNet has n_group K heads and n_head V heads; Mamba2
 * has groups and heads. */
struct ssm_keys {
    uint32_t conv_k, d_state, n_group, n_head, inner;
};
bool model_ssm(struct binder *b, uint32_t max_head, struct ssm_keys *k);

/* Reads the keys of a sigmoid router into the fields of m that begin with `route`. m->n_expert must
 * be set. n_used: the most experts that a token takes. */
bool model_sigmoid_router(struct binder *b, uint32_t n_used, struct moe *m);

/* Declares the last n blocks of the file as draft blocks. The layers to bind are then those before
 * n_layer + n_draft. */
void model_mtp(struct binder *b, uint32_t n);

/* ---- tensors --------------------------------------------------------------------------------- */

/* A name may contain one %u, which is replaced by i_layer. */
bool model_has(struct binder *b, const char *name_fmt, uint32_t i_layer);
/* The values of a vector that only the host needs. */
bool model_vector(struct binder *b, const char *name, uint32_t n, float *v);

/* A vector, or n_row vectors in one tensor. F32 on the device, whatever its type in the file. */
bool bind_vector(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n,
                 uint32_t n_row);
/* A vector of a recurrent gate. It should be F32 in the file; another type is converted, with a
 * warning. */
bool bind_gate(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n);
/* The turns of rotary positions (rope_turns in op.h), n_rot of them. */
bool bind_turns(struct binder *b, tensor *t, float theta, uint32_t n_rot, const float *factor);

bool bind_linear(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out);
/* The bias of a bound matrix, if the file has one. */
bool bind_bias(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer);
/* Declares that the last n_row rows of w make gates or choose experts, so that their products are
 * always f32. Returns true. */
static inline bool bind_f32_rows(linear *w, uint32_t n_row)
{
    w->n_f32_rows = n_row;
    return true;
}

/* Binds matrices that one op multiplies together. They lie one after another in the order of the
 * list, so that those of one type are one dispatch. beside: the matrix bound just before, whose
 * group the list continues; NULL: the list begins a group. */
struct bind_matrix {
    linear *w;
    const char *name_fmt;
    uint32_t n_out;
};
bool bind_group(struct binder *b, uint32_t i_layer, uint32_t n_in, const linear *beside,
                const struct bind_matrix *list, uint32_t n);
/* clang-format off */
#define MATRICES(...) (const struct bind_matrix[]){ __VA_ARGS__ }, \
                      (uint32_t)(sizeof((const struct bind_matrix[]){ __VA_ARGS__ }) / \
                                 sizeof(struct bind_matrix))
/* clang-format on */

/* Binds n_expert matrices of this size, one after the other. */
struct matrix_size {
    uint32_t n_in, n_out, n_expert;
};
bool bind_experts(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer,
                  struct matrix_size size);
/* Binds the gate and up matrices of m's experts; they become one matrix if both have one type. */
bool bind_gate_up(struct binder *b, struct moe *m, uint32_t i_layer, uint32_t n_in);

/* Builds a matrix from rows of tensors, for files that order rows in another way. bind_find returns
 * a tensor with rows of n_in numbers, and n_row rows in all its dimensions. Between bind_begin and
 * bind_end, bind_rows appends rows [row0, row0 + n) of a tensor. All rows must have the type given
 * to bind_begin; beside is as for bind_group. */
const struct gguf_tensor *bind_find(struct binder *b, const char *name_fmt, uint32_t i_layer,
                                    uint32_t n_in, uint64_t n_row);
void bind_begin(struct binder *b, linear *w, enum dtype dtype, struct matrix_size size,
                const linear *beside);
void bind_rows(struct binder *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n);
void bind_end(struct binder *b);
