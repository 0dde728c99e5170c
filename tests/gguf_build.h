/* gguf_build: composes GGUF files for tests, from nothing or from a file.
 *
 * A build holds copies of keys and tensors in writing order. It writes well-formed containers only:
 * what a model needs may be missing or misshapen, but a container that contradicts itself is made
 * by patching bytes (test_gguf.c). Nothing here fails; out of memory aborts. */
#pragma once
#include "file/file.h"

struct gguf_build;

struct gguf_build *gb_new(void);
struct gguf_build *gb_from(const char *path, struct hlm_err *err); /* NULL: gguf_open refused it */
void gb_free(struct gguf_build *b);                                /* takes NULL */
void gb_version(struct gguf_build *b, uint32_t version);           /* 3 by default */

/* Keys: replaces one of that name in its place, else appends. general.alignment is obeyed. */
void gb_scalar(struct gguf_build *b, const char *key, enum gguf_type type, const void *value);
void gb_array(struct gguf_build *b, const char *key, enum gguf_type elem, uint64_t n,
              const void *values); /* of scalars, packed */
void gb_str(struct gguf_build *b, const char *key, const char *value);
void gb_strs(struct gguf_build *b, const char *key, uint64_t n, const struct hlm_str *values);
void gb_u32(struct gguf_build *b, const char *key, uint32_t value);
void gb_f32(struct gguf_build *b, const char *key, float value);
void gb_bool(struct gguf_build *b, const char *key, bool value);
bool gb_drop_key(struct gguf_build *b, const char *key); /* false: not there */

/* Tensors: likewise. dim is fastest first; data NULL: zeros. A reshaped or retyped tensor keeps its
 * bytes as far as they go, followed by zeros. */
void gb_tensor(struct gguf_build *b, const char *name, enum dtype type, uint32_t n_dim,
               const uint64_t *dim, const void *data);
bool gb_reshape(struct gguf_build *b, const char *name, uint32_t n_dim, const uint64_t *dim);
bool gb_retype(struct gguf_build *b, const char *name, enum dtype type);
bool gb_rename_tensor(struct gguf_build *b, const char *name, const char *to);
bool gb_drop_tensor(struct gguf_build *b, const char *name);

uint8_t *gb_bytes(const struct gguf_build *b, uint64_t *n); /* caller frees */
bool gb_write(const struct gguf_build *b, const char *path, struct hlm_err *err);
/* Shard i of n of a split model: the keys (in the first only), the three keys of splitting, and its
 * share of the tensors. The caller frees it. */
struct gguf_build *gb_shard(const struct gguf_build *b, uint32_t i, uint32_t n);

/* Reads everything that an open file offers: names, every string and value, the typed readers, the
 * first and last byte and block of every tensor. For fuzzing; the sum keeps the reads alive. */
uint64_t gguf_touch(const struct gguf *g);
