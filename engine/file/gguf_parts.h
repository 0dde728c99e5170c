/* gguf_parts: shared by the gguf_*.c files. Otherwise only tests that join shards in memory include
 * it. */
#pragma once
#include "file/file.h"

struct gguf_type_info {
    const char *name;
    uint8_t bytes; /* of one value; 0: values have no fixed size */
};
extern const struct gguf_type_info gguf_types[GGUF_TYPE_COUNT];

/* A little-endian number of 1, 2, 4 or 8 bytes. */
uint64_t gguf_number(const uint8_t *p, uint32_t n_bytes);

/* ---- messages -------------------------------------------------------------------------------- */

/* The place that a message names: the file, and "key 'x'" or, while its name is unknown, "key 3 of
 * 9". */
struct gguf_place {
    const struct gguf *g;
    struct hlm_err *err;
    const char *kind; /* "header", "key", "tensor" */
    uint64_t i, n;    /* i counts from 1; n = 0: there is only one */
    struct hlm_str name;
};
/* Fails with one line: the file, the place, and the message, which says what was found and what was
 * expected. */
bool gguf_bad(const struct gguf_place *at, const char *fmt, ...) HLM_PRINTF(2, 3);
/* The same for a key. */
bool gguf_refuse(const struct gguf *g, const char *key, struct hlm_err *err, const char *fmt, ...)
    HLM_PRINTF(4, 5);

/* ---- names ----------------------------------------------------------------------------------- */

/* A hash table from names to their positions, with open addressing and at most half full. */
struct gguf_index {
    const char **name; /* [n], borrowed, in file order */
    uint32_t *slot;    /* [mask + 1]: 1 + the position; 0: free */
    uint32_t n, mask;
};
bool gguf_index_init(struct gguf_index *ix,
                     uint64_t n);              /* false without memory; finish it then too */
void gguf_index_finish(struct gguf_index *ix); /* takes a zeroed one */
/* Gives the name the next position. False: it has one already. */
bool gguf_index_add(struct gguf_index *ix, const char *name);
uint32_t gguf_index_find(const struct gguf_index *ix, const char *name); /* 1 + position, 0: none */

/* ---- shards ---------------------------------------------------------------------------------- */

/* Opens one file only, even if it is a shard. */
struct gguf *gguf_open_alone(const char *path, struct hlm_err *err);
/* Appends the tensors of n more files to g's directory. Takes over shard[n], which mem_alloc made,
 * and the files in it, also on failure. Afterwards their tensors are found in g only. */
bool gguf_adopt(struct gguf *g, struct gguf **shard, uint32_t n, struct hlm_err *err);

/* Opens the other shards of a model whose first shard is g, and joins them to it. A file that is
 * not a shard is returned unchanged. Takes over g, also on failure: NULL with a reason. */
typedef struct gguf *(*gguf_opener)(void *user, const char *path, struct hlm_err *err);
struct gguf *gguf_join(struct gguf *g, gguf_opener opener, void *user, struct hlm_err *err);
