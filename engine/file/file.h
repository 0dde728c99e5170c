/* file: a GGUF file as a read-only value (its metadata, its directory of tensors, its mapped
 * bytes), the writing of GGUF files, and files and folders that are either whole or not there.
 *
 * Nothing here depends on a GPU or an architecture. Files are not trusted: every count, offset and
 * size is checked before it is used, so a caller may read data[0 .. n_bytes) of any tensor. The
 * format is GGUF version 2 or 3, little-endian. A model in several files (shards) is opened by the
 * first of them and looks like one file. */
#pragma once
#include "base/dtype.h"

struct gguf; /* an open file; immutable, so several threads may read it */

enum gguf_type { /* types of metadata values, with GGUF's numbers */
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
    const char *name; /* ends with a zero; less than 64 bytes; a name that only other programs
                         write is replaced by the usual one */
    uint32_t n_dim;
    uint64_t dim[4]; /* the fastest first; unused ones are 1 */
    enum dtype type;
    uint64_t n_elem, n_bytes;
    uint64_t index;      /* gguf_tensor_at(index) is this tensor */
    const uint8_t *data; /* n_bytes inside the mapping of its file */
};

struct gguf_kv {
    const char *key;     /* ends with a zero; has no control character */
    enum gguf_type type; /* of the value, or GGUF_ARRAY */
    enum gguf_type elem; /* of an array's elements; otherwise equal to type */
    uint64_t n;          /* elements of an array, bytes of a string, 1 for scalars */
    const uint8_t *data; /* unaligned; strings do not end with a zero */
};

/* Opens, maps and checks a whole file. If its key split.count says that it is the first of several,
 * the others (PREFIX-00002-of-0000N.gguf and so on) are opened too: their tensors follow its own,
 * and the first file's keys are those of the model. A file without tensors (a vocabulary) is valid.
 * NULL with a reason: one line with the file, the key or tensor, what was found and what was
 * expected. */
struct gguf *gguf_open(const char *path, struct hlm_err *err);
/* The same for bytes in memory, which must outlive the result. They are always one file, even if
 * their keys say shard. name is for messages. */
struct gguf *gguf_parse(const uint8_t *bytes, uint64_t n, const char *name, struct hlm_err *err);
void gguf_close(struct gguf *g); /* takes NULL */

/* Lookups by name take constant time; NULL: there is no such tensor or key. */
const char *gguf_path(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g); /* of all shards together */
uint64_t gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);
uint64_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint64_t i);
const struct gguf_kv *gguf_kv(const struct gguf *g, const char *key);

/* Typed readers. A missing key leaves *v alone and returns true, unless it is REQUIRED. A key of
 * the wrong type or out of range is an error that names file, key, found and expected. Integers are
 * read from any integer type, floats from F32 and F64, bools from BOOL. A list of equal numbers is
 * that number: some converters write one for each block. */
enum gguf_need { OPTIONAL, REQUIRED };
bool gguf_u32(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
              struct hlm_err *err);
bool gguf_f32(const struct gguf *g, const char *key, enum gguf_need need, float *v,
              struct hlm_err *err);
bool gguf_bool(const struct gguf *g, const char *key, enum gguf_need need, bool *v,
               struct hlm_err *err);
bool gguf_str(const struct gguf *g, const char *key, enum gguf_need need, struct hlm_str *v,
              struct hlm_err *err);

/* Fills v[0..n) from a scalar, which becomes every entry, or from an array, which must have exactly
 * n elements. On failure v may be partly filled. */
bool gguf_u32_each(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
                   uint64_t n, struct hlm_err *err);
bool gguf_f32_each(const struct gguf *g, const char *key, enum gguf_need need, float *v, uint64_t n,
                   struct hlm_err *err);
bool gguf_bool_each(const struct gguf *g, const char *key, enum gguf_need need, bool *v, uint64_t n,
                    struct hlm_err *err);

/* Goes through the strings of an array, beginning with { kv->data, kv->n }. False at the end. */
struct gguf_str_iter {
    const uint8_t *p;
    uint64_t left;
};
bool gguf_next_str(struct gguf_str_iter *it, struct hlm_str *s);

/* A fingerprint of a file, which differs from that of any other model: a hash of all metadata, the
 * directory of tensors, and the first and last 4096 bytes of every tensor. */
bool gguf_hash(const struct gguf *g, uint64_t hash[2], struct hlm_err *err);
/* Such a hash as it is printed and written into files. */
struct hash_text {
    char s[33];
};
struct hash_text hash_text(const uint64_t hash[2]);

/* The checksum of a stream (XXH3, 128 bits). It detects damage, not malice. */
struct sum;
struct sum *sum_begin(struct hlm_err *err); /* NULL without memory */
void sum_add(struct sum *s, const void *p, uint64_t n);
void sum_end(struct sum *s, uint64_t hash[2]); /* frees s */

/* A file that is being written. It grows under a temporary name beside its target, and replaces the
 * target when it is complete and on disk. After a failure the target is unchanged and the temporary
 * file is gone. */
struct file_out;
struct file_out *file_out_begin(const char *path, struct hlm_err *err);
/* False if file_out_begin would refuse the path, because it is a device or a folder, which renaming
 * would remove. */
bool file_may_write(const char *path, struct hlm_err *err);
/* True if both are the same path, or two names of the same file. */
bool file_same(const char *a, const char *b);
/* After the first failure every call fails. */
bool file_out_put(struct file_out *f, const void *bytes, uint64_t n, struct hlm_err *err);
/* The path where everything put so far can be read until the end; NULL with a reason. */
const char *file_out_flush(struct file_out *f, struct hlm_err *err);
bool file_out_end(struct file_out *f, struct hlm_err *err); /* frees f in any case */
void file_out_drop(struct file_out *f); /* undoes everything and frees f; takes NULL */
/* Writes a whole file in one call. */
bool file_write_atomic(const char *path, const void *bytes, uint64_t n, struct hlm_err *err);
/* For tests: counts the system calls that write a file (open, write, sync, close, rename). The nth
 * from now fails because the disk is full; torn: after it has written half of the bytes. 0: none.
 * file_test_left returns how many calls are left before it. */
void file_test_fault(uint32_t nth, bool torn);
uint32_t file_test_left(void);
/* Also counts syncs and removals of folders. Kills the process at the nth call, after it has
 * written half of the bytes. */
void file_test_kill(uint32_t nth);

/* A folder that is being written. Ordinary files are put into `tmp`, which is renamed to `path`
 * when all of them are on disk. Nothing may exist at path. */
struct folder_out {
    char *tmp, *path;
};
bool folder_begin(struct folder_out *f, const char *path, struct hlm_err *err);
bool folder_end(struct folder_out *f, struct hlm_err *err); /* frees f in any case */
void folder_drop(struct folder_out *f); /* removes the folder and its files; takes a zeroed one */
/* The path of a name in a folder; the caller frees it. NULL without memory. */
char *folder_path(const char *folder, const char *name);
bool folder_make(const char *path, struct hlm_err *err); /* does nothing if it exists */
bool folder_is(const char *path);
/* Calls fn with each name in the folder, in no particular order. False: it cannot be read. */
bool folder_each(const char *path, void (*fn)(void *user, const char *name), void *user,
                 struct hlm_err *err);
/* Removes a folder of ordinary files. If this is interrupted at any point, the folder is either
 * gone or complete under its name; what remains of it has a name that ends in ".tmp". False: it was
 * not removed. */
bool folder_remove(const char *path);

/* A GGUF file that is being written from beginning to end. Each call passes its bytes on at once.
 * After the first failure calls do nothing. */
struct gguf_out {
    bool (*put)(void *user, const void *bytes, uint64_t n, struct hlm_err *err);
    void *user;
    struct hlm_err *err;
    uint64_t alignment; /* 32, or the value of the key general.alignment */
    bool failed;
    uint64_t at;     /* bytes written */
    uint64_t offset; /* of the directory's next tensor, from the first one */
};
/* A `put` function for struct gguf_out; user is a struct file_out. */
bool gguf_out_to_file(void *user, const void *bytes, uint64_t n, struct hlm_err *err);
void gguf_out_begin(struct gguf_out *o, uint64_t n_tensor, uint64_t n_kv);
void gguf_out_kv(struct gguf_out *o, const struct gguf_kv *kv);
void gguf_out_str(struct gguf_out *o, const char *key, const char *value);
void gguf_out_f32(struct gguf_out *o, const char *key, float value);
/* Writes one entry of the directory. The bytes of the tensors follow the directory in the same
 * order. gguf_out_pad must be called after the last entry and after the bytes of each tensor. */
void gguf_out_tensor(struct gguf_out *o, const char *name, enum dtype type, uint32_t n_dim,
                     const uint64_t *dim);
bool gguf_out_bytes(struct gguf_out *o, const void *p, uint64_t n);
bool gguf_out_pad(struct gguf_out *o);
uint64_t gguf_kv_bytes(const struct gguf_kv *kv); /* bytes at kv->data */

/* A file that is read in parts. Tests set mem, which is then the content of the file. */
struct file_in {
    const char *path;
    int fd;
    const uint8_t *mem;
    uint64_t bytes;
};
/* Opens an ordinary file. path must live as long as f. Every read checks that the file has not
 * become shorter. */
bool file_in_open(struct file_in *f, const char *path, struct hlm_err *err);
bool file_in_read(const struct file_in *f, uint64_t at, void *to, uint64_t n, struct hlm_err *err);
void file_in_close(struct file_in *f); /* may also be called when opening failed */

/* Reads a whole file (at most max bytes) into new memory and appends a zero; the caller frees it.
 * NULL with a reason. */
char *file_read(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err);
