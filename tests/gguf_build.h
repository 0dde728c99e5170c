/* gguf_build: composes GGUF files for tests, from nothing or from a file.
 *
 * A build has copies of keys and tensors in the order of writing. It writes only valid containers,
 * although keys and tensors of the model may be missing or wrong. Broken containers are made by
 * patching bytes (test_gguf.c). Nothing here fails; running out of memory aborts. */
#pragma once
#include "file/file.h"

struct gguf_build;

struct gguf_build *gb_new(void);
struct gguf_build *gb_from(const char *path, struct hlm_err *err); /* NULL: gguf_open refused it */
void gb_free(struct gguf_build *b);                                /* takes NULL */
void gb_version(struct gguf_build *b, uint32_t version);           /* 3 by default */

/* Keys: replaces the key of that name in its place, or appends one. Obeys general.alignment. */
void gb_scalar(struct gguf_build *b, const char *key, enum gguf_type type, const void *value);
void gb_array(struct gguf_build *b, const char *key, enum gguf_type elem, uint64_t n,
              const void *values); /* of scalars, packed */
void gb_str(struct gguf_build *b, const char *key, const char *value);
void gb_strs(struct gguf_build *b, const char *key, uint64_t n, const struct hlm_str *values);
void gb_u32(struct gguf_build *b, const char *key, uint32_t value);
void gb_f32(struct gguf_build *b, const char *key, float value);
void gb_bool(struct gguf_build *b, const char *key, bool value);
bool gb_drop_key(struct gguf_build *b, const char *key); /* false: not there */

/* Tensors: the same. dim is fastest first; data NULL: zeros. A tensor that gets another shape or
 * type keeps as many of its bytes as fit, followed by zeros. */
void gb_tensor(struct gguf_build *b, const char *name, enum dtype type, uint32_t n_dim,
               const uint64_t *dim, const void *data);
bool gb_reshape(struct gguf_build *b, const char *name, uint32_t n_dim, const uint64_t *dim);
bool gb_retype(struct gguf_build *b, const char *name, enum dtype type);
bool gb_rename_tensor(struct gguf_build *b, const char *name, const char *to);
bool gb_drop_tensor(struct gguf_build *b, const char *name);

uint8_t *gb_bytes(const struct gguf_build *b, uint64_t *n); /* caller frees */
bool gb_write(const struct gguf_build *b, const char *path, struct hlm_err *err);
/* Shard i of n of a split model: the keys (only in the first), the three keys of splitting, and its
 * share of the tensors. The caller frees it. */
struct gguf_build *gb_shard(const struct gguf_build *b, uint32_t i, uint32_t n);

/* Reads everything in an open file: names, every string and value, with the typed readers, and the
 * first and last byte and block of every tensor. For fuzzing; the sum keeps the compiler from
 * removing the reads. */
uint64_t gguf_touch(const struct gguf *g);
