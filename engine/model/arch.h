/* arch: what models/<arch>.c is written with - readers of its keys, and the binder that turns
 * tensor names into packed matrices and vectors. The binder checks every shape before anything is
 * allocated and computes the exact size; the rows are brought up later (model_upload). */
#pragma once
#include "model/model.h"

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
