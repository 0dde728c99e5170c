/* arch: what models/<arch>.c is written with: readers of its keys, and the binder, which turns
 * names of tensors into packed matrices and vectors on the device.
 *
 * The binder checks the type and shape of every tensor and gives it a place among the weights, in
 * the order of the calls. Nothing is allocated or read at that time: the values follow in
 * model_upload. Each call returns false on failure, with the reason in the err that model_load was
 * given. */
#pragma once
#include "lora/hf.h"
#include "model/model.h"

/* What kernels take at most. */
enum { MAX_HEAD = 1024, MAX_HEAD_DIM = 512, MAX_EXPERT = 512, MAX_EXPERT_USED = 64 };

/* ---- keys ------------------------------------------------------------------------------------ */

/* The architecture's own part of m: zeroed memory of `bytes`, followed by `block_bytes` for each
 * block of the file, draft blocks included. It is m->own, which model_unload frees. NULL without
 * memory. */
void *model_own(struct binder *b, uint64_t bytes, uint64_t block_bytes);
/* Blocks of the file, draft blocks included. */
static inline uint32_t model_n_block(const struct model *m) { return m->n_layer + m->n_mtp; }

/* A key is named without the architecture in front of it. A missing key leaves the value alone,
 * and is an error only where it is REQUIRED. */
bool model_has_key(struct binder *b, const char *key);
bool model_u32(struct binder *b, const char *key, enum gguf_need need, uint32_t *v);
bool model_f32(struct binder *b, const char *key, enum gguf_need need, float *v);
bool model_bool(struct binder *b, const char *key, enum gguf_need need, bool *v);
/* A value for each block of the file, from a list, or from a scalar that stands for all. v points
 * to the first block's; the others follow at distances of `stride` bytes. Floats must be finite;
 * for bools integers will do, which some converters write. */
bool model_u32s(struct binder *b, const char *key, enum gguf_need need, uint32_t *v,
                uint64_t stride);
bool model_f32s(struct binder *b, const char *key, enum gguf_need need, float *v, uint64_t stride);
bool model_bools(struct binder *b, const char *key, enum gguf_need need, bool *v, uint64_t stride);

/* Refuses the file: its path, then the message. Returns false. */
bool model_refuse(struct binder *b, const char *fmt, ...) HLM_PRINTF(2, 3);
/* Is v, which key gave, from min to max? The refusal names the key. */
bool model_range(struct binder *b, const char *key, uint32_t v, uint32_t min, uint32_t max);
/* A width of activations: a multiple of 4 (kernels take four numbers at a time), and not 0. */
bool model_width(struct binder *b, const char *key, uint32_t v);
/* Reads a width that may be missing or 0, for none. `rows` names the tensors with so many rows (%u:
 * the block). Where the key is missing, the first of them decides; where the key is 0 and there is
 * one, the file is refused. */
bool model_width_or_none(struct binder *b, const char *key, const char *rows, uint32_t *v);

/* Keys that several architectures share. */

/* attention.key_length, and attention.value_length, which must be equal to it. Where OPTIONAL,
 * *head_dim is the default. */
bool model_head_dim(struct binder *b, enum gguf_need need, uint32_t *head_dim);
/* Do a block's query heads come in equal groups, one for each key head? */
bool model_kv_heads(struct binder *b, uint32_t i_block, uint32_t n_head, uint32_t n_kv_head);
/* A rotary base frequency; 10000 where the key is missing. */
bool model_rope_base(struct binder *b, const char *key, float *theta);

/* The keys ssm.*, all required. Gated DeltaNet: n_group K heads and n_head V heads; Mamba2: groups
 * and heads. */
struct ssm_keys {
    uint32_t conv_k, d_state, n_group, n_head, inner;
};
bool model_ssm(struct binder *b, uint32_t max_head, struct ssm_keys *k);

/* The keys of a sigmoid router, into the fields of m that begin with `route`. m->n_expert is set
 * already; n_used: the experts that a token takes at most. */
bool model_sigmoid_router(struct binder *b, uint32_t n_used, struct moe *m);

/* Says that the last n blocks of the file are draft blocks. Layers to bind are those before
 * n_layer + n_draft. */
void model_mtp(struct binder *b, uint32_t n);

/* ---- tensors --------------------------------------------------------------------------------- */

/* Names may hold one %u, which stands for i_layer. */
bool model_has(struct binder *b, const char *name_fmt, uint32_t i_layer);
/* Values of a vector that the host needs and the device does not. */
bool model_vector(struct binder *b, const char *name, uint32_t n, float *v);

/* A vector, or n_row of them in one: F32 on the device, whatever the file has. */
bool bind_vector(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n,
                 uint32_t n_row);
/* A vector of a recurrent gate. The file should have it in F32; another type is converted with a
 * warning. */
bool bind_gate(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n);
/* The turns of rotary positions (rope_turns in op.h), n_rot of them. */
bool bind_turns(struct binder *b, tensor *t, float theta, uint32_t n_rot, const float *factor);

bool bind_linear(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out);
/* The bias of a matrix that is bound; none where the file has none. */
bool bind_bias(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer);
/* The last n_row rows of w make gates or choose experts: their products are always f32. True. */
static inline bool bind_f32_rows(linear *w, uint32_t n_row)
{
    w->n_f32_rows = n_row;
    return true;
}

/* Matrices that one op multiplies together. They lie side by side in the order of the list, so that
 * those of one type are one dispatch. beside: the matrix bound just before, which the list
 * continues; NULL: it begins a group. */
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

/* n_expert matrices of this size, one after the other. */
struct matrix_size {
    uint32_t n_in, n_out, n_expert;
};
bool bind_experts(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer,
                  struct matrix_size size);
/* The gate and up matrices of m's experts: one matrix where both have one type. */
bool bind_gate_up(struct binder *b, struct moe *m, uint32_t i_layer, uint32_t n_in);

/* A matrix that is put together from rows of tensors, for files that order rows in another way.
 * bind_find returns a tensor with rows of n_in numbers, n_row of them in all its dimensions. Then,
 * between begin and end, bind_rows appends rows [row0, row0 + n) of a tensor. All of them must have
 * the type that bind_begin was given; beside is as for bind_group. */
const struct gguf_tensor *bind_find(struct binder *b, const char *name_fmt, uint32_t i_layer,
                                    uint32_t n_in, uint64_t n_row);
void bind_begin(struct binder *b, linear *w, enum dtype dtype, struct matrix_size size,
                const linear *beside);
void bind_rows(struct binder *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n);
void bind_end(struct binder *b);
