/* file: a GGUF file as a read-only value - its metadata, its tensor directory, its mapped bytes.
 *
 * Nothing here knows a GPU or an architecture. The file is untrusted: every count, offset and size
 * is checked before it is used, so that a caller may read data[0 .. n_bytes) of any tensor it is
 * handed. Format: GGUF versions 2 and 3, little-endian; a model in several files, opened by the
 * first of them, reads as one. */
#pragma once
#include "base/dtype.h"

struct gguf; /* one open file; immutable, may be read from several threads */

enum gguf_type { /* metadata value types, GGUF's own numbers */
                 GGUF_U8,
                 GGUF_I8,
                 GGUF_U16,
                 GGUF_I16,
                 GGUF_U32,
                 GGUF_I32,
                 GGUF_F32,
                 GGUF_BOOL,
                 GGUF_STRING,
                 GGUF_ARRAY,
                 GGUF_U64,
                 GGUF_I64,
                 GGUF_F64,
                 GGUF_TYPE_COUNT
};

struct gguf_tensor {
    const char *name; /* terminated, below 64 bytes */
    uint32_t n_dim;
    uint64_t dim[4]; /* fastest first; unused ones are 1 */
    enum dtype type;
    uint64_t n_elem, n_bytes;
    uint64_t index;      /* gguf_tensor_at(index) is this one */
    const uint8_t *data; /* n_bytes inside the mapping of the file that holds it */
};

struct gguf_kv {
    const char *key;     /* terminated; may not contain NUL */
    enum gguf_type type; /* of the value, or GGUF_ARRAY */
    enum gguf_type elem; /* of an array's elements; else the same as type */
    uint64_t n;          /* array elements; string bytes; 1 for scalars */
    const uint8_t *data; /* scalar or array bytes, unaligned; string bytes, not terminated */
};

/* Opens, maps and checks a whole file, and with the first of several (its key split.count says so)
 * the others beside it, PREFIX-00002-of-0000N.gguf and up: their tensors follow its own, its keys
 * are those of the model. NULL with a reason: one line that names the file, the key or tensor, what
 * was found and what was expected. A file without tensors (a vocabulary) is valid. */
struct gguf *gguf_open(const char *path, struct hlm_err *err);
/* The same over bytes in memory that outlive the result, one file whatever its keys say; name is
 * for messages. */
struct gguf *gguf_parse(const uint8_t *bytes, uint64_t n, const char *name, struct hlm_err *err);
void gguf_close(struct gguf *g); /* takes NULL */

/* Lookups by name are O(1); NULL: there is none. */
const char *gguf_path(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g); /* of all files together */
uint64_t gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);
uint64_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint64_t i);
const struct gguf_kv *gguf_kv(const struct gguf *g, const char *key);

/* Typed readers. A missing key leaves *v as it was and returns true, unless REQUIRED. A key of the
 * wrong type or out of range is an error that names file, key, found and expected. Integers are
 * read from any integer type; floats from F32 and F64; bool from BOOL. */
enum gguf_need { OPTIONAL, REQUIRED };
bool gguf_u32(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
              struct hlm_err *err);
bool gguf_f32(const struct gguf *g, const char *key, enum gguf_need need, float *v,
              struct hlm_err *err);
bool gguf_bool(const struct gguf *g, const char *key, enum gguf_need need, bool *v,
               struct hlm_err *err);
bool gguf_str(const struct gguf *g, const char *key, enum gguf_need need, struct hlm_str *v,
              struct hlm_err *err);

/* Scalar-or-array keys: fills v[0..n). A scalar fills every entry, an array must have exactly n. On
 * failure v may be half filled. */
bool gguf_u32_each(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
                   uint64_t n, struct hlm_err *err);
bool gguf_f32_each(const struct gguf *g, const char *key, enum gguf_need need, float *v, uint64_t n,
                   struct hlm_err *err);
bool gguf_bool_each(const struct gguf *g, const char *key, enum gguf_need need, bool *v, uint64_t n,
                    struct hlm_err *err);

/* Strings of a string array, in order: start with { kv->data, kv->n }. False at the end. */
struct gguf_str_iter {
    const uint8_t *p;
    uint64_t left;
};
bool gguf_next_str(struct gguf_str_iter *it, struct hlm_str *s);

/* Fingerprint of a file's contents for telling models apart: all metadata, the tensor directory,
 * and the first and last 4096 bytes of every tensor. */
bool gguf_hash(const struct gguf *g, uint64_t hash[2], struct hlm_err *err);

/* The checksum of a stream (XXH3, 128 bits): against damage, not against malice. */
struct sum;
struct sum *sum_begin(struct hlm_err *err); /* NULL without memory */
void sum_add(struct sum *s, const void *p, uint64_t n);
void sum_end(struct sum *s, uint64_t hash[2]); /* s is gone */

/* A file in the making. It grows beside its target and takes its place when it is whole and on
 * disk: whatever fails, the target is the old file, and nothing is left beside it. */
struct file_out;
struct file_out *file_out_begin(const char *path, struct hlm_err *err);
/* False where file_out_begin would refuse the path: a device or a folder stands there, and renaming
 * onto it would take it away. */
bool file_may_write(const char *path, struct hlm_err *err);
/* Are both the same path, or the same file by two of its names? */
bool file_same(const char *a, const char *b);
/* The first failure sticks. */
bool file_out_put(struct file_out *f, const void *bytes, uint64_t n, struct hlm_err *err);
/* Where what was put so far can be read, until the end; NULL with a reason. */
const char *file_out_flush(struct file_out *f, struct hlm_err *err);
bool file_out_end(struct file_out *f, struct hlm_err *err); /* f is gone, either way */
void file_out_drop(struct file_out *f);                     /* as if never begun; takes NULL */
/* The same at once. */
bool file_write_atomic(const char *path, const void *bytes, uint64_t n, struct hlm_err *err);
/* For tests: of the calls to the system that write a file (open, write, sync, close, rename), the
 * nth from now finds the disk full; torn: having written half. 0: none. What is left of nth. */
void file_test_fault(uint32_t nth, bool torn);
uint32_t file_test_left(void);
/* The same, and syncs and removals of folders count too: the process is killed at the nth, having
 * written half. */
void file_test_kill(uint32_t nth);

/* A folder in the making: ordinary files are written into `tmp`, and it takes its place when they
 * all are on disk. There must be nothing at path yet. */
struct folder_out {
    char *tmp, *path;
};
bool folder_begin(struct folder_out *f, const char *path, struct hlm_err *err);
bool folder_end(struct folder_out *f, struct hlm_err *err); /* f is gone, either way */
void folder_drop(struct folder_out *f); /* with all that is in it; takes a zeroed one */
/* A path in a folder; fresh memory, NULL without. */
char *folder_path(const char *folder, const char *name);
bool folder_make(const char *path, struct hlm_err *err); /* unless it is there */
bool folder_is(const char *path);
/* Calls fn with the name of everything in it, in no order. False: it cannot be read. */
bool folder_each(const char *path, void (*fn)(void *user, const char *name), void *user,
                 struct hlm_err *err);
/* A folder of ordinary files, so that it is gone or whole under its name whenever that is cut off;
 * what is left then ends in ".tmp". False: it could not be. */
bool folder_remove(const char *path);

/* A GGUF file in the writing, front to back. What a call is given goes out at once; the first
 * failure sticks. */
struct gguf_out {
    bool (*put)(void *user, const void *bytes, uint64_t n, struct hlm_err *err);
    void *user;
    struct hlm_err *err;
    uint64_t alignment; /* 32 unless general.alignment says another */
    bool failed;
    uint64_t at;     /* bytes out */
    uint64_t offset; /* of the next tensor of the directory, from the first one's */
};
/* a put; user is a struct file_out */
bool gguf_out_to_file(void *user, const void *bytes, uint64_t n, struct hlm_err *err);
void gguf_out_begin(struct gguf_out *o, uint64_t n_tensor, uint64_t n_kv);
void gguf_out_kv(struct gguf_out *o, const struct gguf_kv *kv);
void gguf_out_str(struct gguf_out *o, const char *key, const char *value);
void gguf_out_f32(struct gguf_out *o, const char *key, float value);
/* The directory; then, in its order, the tensors' bytes, filled up behind the directory and behind
 * each. */
void gguf_out_tensor(struct gguf_out *o, const char *name, enum dtype type, uint32_t n_dim,
                     const uint64_t *dim);
bool gguf_out_bytes(struct gguf_out *o, const void *p, uint64_t n);
bool gguf_out_pad(struct gguf_out *o);
uint64_t gguf_kv_bytes(const struct gguf_kv *kv); /* of data */

/* A file read in pieces. With mem set (tests), those bytes are the file. */
struct file_in {
    const char *path;
    int fd;
    const uint8_t *mem;
    uint64_t bytes;
};
/* Keeps path. An ordinary file; its length is checked once more when it is read. */
bool file_in_open(struct file_in *f, const char *path, struct hlm_err *err);
bool file_in_read(const struct file_in *f, uint64_t at, void *to, uint64_t n, struct hlm_err *err);
void file_in_close(struct file_in *f); /* takes one that did not open */

/* Reads a whole file (at most max bytes) into fresh memory, a NUL behind it; NULL with a reason. */
char *file_read(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err);
