/* gguf: opens and reads GGUF files (models/README.md, "GGUF container"). See file.h. Models in
 * several files are in gguf_shard.c.
 *
 * The reader walks over the bytes once: the header, the keys, the directory of tensors. It moves
 * only by take_bytes(), which cannot leave the file. Tensors get their addresses last, when the
 * beginning of the data is known. Every fault is reported in one line by gguf_bad(), except one
 * that cannot be caught: a file that shrinks while it is mapped. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "file/gguf_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Limits far above any real file, but low enough that tables of this size cannot exhaust memory. */
#define MAX_KEYS 65536u
#define MAX_TENSORS (1u << 20)
#define MAX_KEY_BYTES 65535u
#define MAX_STRING_BYTES (1u << 30)
#define MAX_ELEMENTS (1u << 30)
#define MAX_ALIGNMENT (1u << 20)
#define MAX_NAME 63 /* of a tensor */

struct gguf_entry {
    struct gguf_tensor t;
    uint64_t offset; /* from the start of the data */
    char name[MAX_NAME + 1];
};

struct gguf {
    char *path;
    const uint8_t *bytes;
    uint64_t n_bytes;
    bool mapped;
    uint64_t alignment;
    uint64_t n_kv, n_tensor; /* those read so far */
    struct gguf_kv *kv;
    struct gguf_entry *tensor;
    struct gguf_index kv_index, tensor_index;
    struct gguf **shard; /* [n_shard] the other files, which have the bytes of some tensors */
    uint32_t n_shard;
};

/* ---- messages -------------------------------------------------------------------------------- */

static struct shown gguf_show_path(const char *path) { return show_text(path, strlen(path), 200); }

/* Names are ASCII in every format that we know. */
static struct shown gguf_show_name(struct hlm_str name)
{
    struct shown out = show_text(name.p, name.n, 80);
    for (char *c = out.s; *c; c++)
        if ((unsigned char)*c > 0x7f)
            *c = '?';
    return out;
}

static bool gguf_fail(const struct gguf_place *at, enum hlm_error kind, const char *fmt, va_list ap)
{
    char where[300], what[400];
    if (at->name.p)
        snprintf(where, sizeof where, "%s '%s'", at->kind, gguf_show_name(at->name).s);
    else if (at->n)
        snprintf(where, sizeof where, "%s %" PRIu64 " of %" PRIu64, at->kind, at->i, at->n);
    else
        snprintf(where, sizeof where, "%s", at->kind);
    vsnprintf(what, sizeof what, fmt, ap);
    return fail_as(at->err, kind, "%s: %s: %s", gguf_show_path(at->g->path).s, where, what);
}

bool gguf_bad(const struct gguf_place *at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    gguf_fail(at, HLM_ERR_INPUT, fmt, ap);
    va_end(ap);
    return false;
}

/* The same with another kind of error. */
static bool bad_as(const struct gguf_place *at, enum hlm_error kind, const char *fmt, ...)
    HLM_PRINTF(3, 4);
static bool bad_as(const struct gguf_place *at, enum hlm_error kind, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    gguf_fail(at, kind, fmt, ap);
    va_end(ap);
    return false;
}

bool gguf_refuse(const struct gguf *g, const char *key, struct hlm_err *err, const char *fmt, ...)
{
    struct gguf_place at = { .g = g, .err = err, .kind = "key", .name = { key, strlen(key) } };
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return gguf_bad(&at, "%s", what);
}

/* ---- reading --------------------------------------------------------------------------------- */

struct gguf_reader {
    struct gguf *g;
    uint64_t pos;
    struct gguf_place at;
};

/* The next n bytes, or NULL. All reading goes through this function. */
static const uint8_t *take_bytes(struct gguf_reader *r, uint64_t n)
{
    uint64_t left = r->g->n_bytes - r->pos;
    if (n > left) {
        gguf_bad(&r->at,
                 "the file ends early: byte %" PRIu64 " is followed by %" PRIu64
                 ", expected at least %" PRIu64,
                 r->pos, left, n);
        return NULL;
    }
    const uint8_t *p = r->g->bytes + r->pos;
    r->pos += n;
    return p;
}

static bool take_u32(struct gguf_reader *r, uint32_t *v)
{
    const uint8_t *p = take_bytes(r, 4);
    if (p)
        *v = (uint32_t)gguf_number(p, 4);
    return p;
}

static bool take_u64(struct gguf_reader *r, uint64_t *v)
{
    const uint8_t *p = take_bytes(r, 8);
    if (p)
        *v = gguf_number(p, 8);
    return p;
}

static bool take_str(struct gguf_reader *r, const char *what, uint64_t max, struct hlm_str *s)
{
    uint64_t start = r->pos;
    if (!take_u64(r, &s->n))
        return false;
    uint64_t left = r->g->n_bytes - r->pos;
    if (s->n > max || s->n > left)
        return gguf_bad(&r->at,
                        "%s at byte %" PRIu64 " has length %" PRIu64 ", expected at most %" PRIu64,
                        what, start, s->n, min_u64(max, left));
    s->p = (const char *)r->g->bytes + r->pos;
    r->pos += s->n;
    return true;
}

/* A name that can be a C string, and can be shown: not empty, and without control characters. */
static bool take_c_name(struct gguf_reader *r, uint64_t max)
{
    struct hlm_str name;
    if (!take_str(r, "name", max, &name))
        return false;
    if (!name.n)
        return gguf_bad(&r->at, "empty name, expected at least one byte");
    r->at.name = name;
    if (memchr(name.p, 0, name.n))
        return gguf_bad(&r->at, "a NUL byte in the name, expected none");
    for (uint64_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] < 0x20 || (unsigned char)name.p[i] == 0x7f)
            return gguf_bad(&r->at,
                            "byte %" PRIu64 " of the name is control character 0x%02x, "
                            "expected none",
                            i, (unsigned char)name.p[i]);
    return true;
}

/* A count from the header: at most max, and so that as many records fit into the file. */
static bool take_count(struct gguf_reader *r, const char *what, uint64_t record_bytes, uint64_t max,
                       uint64_t *n)
{
    if (!take_u64(r, n))
        return false;
    uint64_t most = min_u64(max, r->g->n_bytes / record_bytes);
    if (*n > most)
        return gguf_bad(&r->at,
                        "%s count %" PRId64 ", expected 0 to %" PRIu64 " in a file of %" PRIu64
                        " bytes",
                        what, (int64_t)*n, most, r->g->n_bytes);
    return true;
}

static bool read_header(struct gguf_reader *r, uint64_t *n_tensor, uint64_t *n_kv)
{
    r->at.kind = "header";
    const uint8_t *magic = take_bytes(r, 4);
    if (!magic)
        return false;
    if (memcmp(magic, "GGUF", 4))
        return gguf_bad(&r->at, "not a GGUF file: it starts %02x %02x %02x %02x, expected 'GGUF'",
                        magic[0], magic[1], magic[2], magic[3]);
    uint32_t version;
    if (!take_u32(r, &version))
        return false;
    if (version && !(version & 0xffff))
        return gguf_bad(&r->at,
                        "version bytes are swapped: a big-endian file, expected little-endian");
    if (version != 2 && version != 3)
        return gguf_bad(&r->at, "version %" PRIu32 ", expected 2 or 3", version);
    return take_count(r, "tensor", 8 + 1 + 4 + 8 + 4 + 8, MAX_TENSORS, n_tensor) &&
           take_count(r, "key", 8 + 1 + 4 + 1, MAX_KEYS, n_kv);
}

static bool check_bools(struct gguf_reader *r, const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1)
            return gguf_bad(&r->at, "bool %" PRIu64 " is %d, expected 0 or 1", i, p[i]);
    return true;
}

static bool read_array(struct gguf_reader *r, struct gguf_kv *kv)
{
    uint32_t elem;
    if (!take_u32(r, &elem) || !take_u64(r, &kv->n))
        return false;
    if (elem >= GGUF_TYPE_COUNT)
        return gguf_bad(&r->at, "array of type %" PRIu32 ", expected 0 to %d", elem,
                        GGUF_TYPE_COUNT - 1);
    if (elem == GGUF_ARRAY)
        return gguf_bad(&r->at, "array of arrays, expected scalars or strings in it");
    kv->elem = (enum gguf_type)elem;
    uint64_t bytes = gguf_types[elem].bytes, left = r->g->n_bytes - r->pos;
    uint64_t most = min_u64(MAX_ELEMENTS, left / (bytes ? bytes : 8));
    if (kv->n > most)
        return gguf_bad(&r->at,
                        "array of %" PRIu64 " elements, expected at most %" PRIu64 " with %" PRIu64
                        " bytes left",
                        kv->n, most, left);
    kv->data = r->g->bytes + r->pos;
    if (elem != GGUF_STRING)
        return take_bytes(r, kv->n * bytes) &&
               (elem != GGUF_BOOL || check_bools(r, kv->data, kv->n));
    struct hlm_str s;
    for (uint64_t i = 0; i < kv->n; i++)
        if (!take_str(r, "string", MAX_STRING_BYTES, &s))
            return false;
    return true;
}

static bool read_kv(struct gguf_reader *r, struct gguf_kv *kv)
{
    uint32_t type;
    if (!take_c_name(r, MAX_KEY_BYTES) || !take_u32(r, &type))
        return false;
    if (type >= GGUF_TYPE_COUNT)
        return gguf_bad(&r->at, "value of type %" PRIu32 ", expected 0 to %d", type,
                        GGUF_TYPE_COUNT - 1);
    kv->type = kv->elem = (enum gguf_type)type;
    if (type == GGUF_ARRAY)
        return read_array(r, kv);
    if (type == GGUF_STRING) {
        struct hlm_str s;
        if (!take_str(r, "string", MAX_STRING_BYTES, &s))
            return false;
        kv->n = s.n;
        kv->data = (const uint8_t *)s.p;
        return true;
    }
    kv->n = 1;
    kv->data = take_bytes(r, gguf_types[type].bytes);
    return kv->data && (type != GGUF_BOOL || check_bools(r, kv->data, 1));
}

static bool read_keys(struct gguf_reader *r, uint64_t n)
{
    struct gguf *g = r->g;
    g->kv = mem_alloc(n, sizeof *g->kv);
    if (!g->kv || !gguf_index_init(&g->kv_index, n))
        return bad_as(&r->at, HLM_ERR_MEMORY, "no memory for %" PRIu64 " keys", n);
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_kv *kv = &g->kv[i];
        r->at = (struct gguf_place){ .g = g, .err = r->at.err, .kind = "key", .i = i + 1, .n = n };
        if (!read_kv(r, kv))
            return false;
        char *key = mem_alloc(r->at.name.n + 1, 1);
        if (!key)
            return bad_as(&r->at, HLM_ERR_MEMORY, "no memory for its name");
        kv->key = memcpy(key, r->at.name.p, r->at.name.n);
        g->n_kv++;
        if (!gguf_index_add(&g->kv_index, key))
            return gguf_bad(&r->at, "appears twice, expected once");
        /* The weights are rotated; used without rotating them back they give plausible nonsense. */
        if (!strncmp(key, "prism.hadamard.", 15))
            return gguf_bad(
                &r->at, "the weights are rotated with a Hadamard transform, expected plain ones");
    }
    return true;
}

static bool read_alignment(struct gguf_reader *r)
{
    struct gguf *g = r->g;
    const struct gguf_kv *kv = gguf_kv(g, "general.alignment");
    g->alignment = 32;
    if (!kv)
        return true;
    r->at.name = (struct hlm_str){ kv->key, strlen(kv->key) };
    if (kv->type != GGUF_U32)
        return gguf_bad(&r->at, "%s, expected u32", gguf_types[kv->type].name);
    g->alignment = gguf_number(kv->data, 4);
    if (!g->alignment || g->alignment & (g->alignment - 1) || g->alignment > MAX_ALIGNMENT)
        return gguf_bad(&r->at, "%" PRIu64 ", expected a power of two up to %u", g->alignment,
                        MAX_ALIGNMENT);
    return true;
}

/* Other programs write these names for tensors (Ollama: Qwen3.5, Nemotron 3). They become the usual
 * ones here, so that nothing else has to know them. */
static void take_usual_name(struct gguf_entry *e)
{
    static const struct {
        const char *found, *usual;
    } row[] = {
        { ".ssm_dt", ".ssm_dt.bias" },
        { ".ffn_latent_in.weight", ".ffn_latent_down.weight" },
        { ".ffn_latent_out.weight", ".ffn_latent_up.weight" },
    };
    size_t n = strlen(e->name);
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        size_t tail = strlen(row[i].found), usual = strlen(row[i].usual);
        if (!strncmp(e->name, "blk.", 4) && n > tail && n - tail + usual <= MAX_NAME &&
            !strcmp(e->name + n - tail, row[i].found)) {
            memcpy(e->name + n - tail, row[i].usual, usual + 1);
            return;
        }
    }
}

static bool read_tensor_entry(struct gguf_reader *r, struct gguf_entry *e)
{
    struct gguf_tensor *t = &e->t;
    uint32_t type;
    if (!take_c_name(r, MAX_NAME) || !take_u32(r, &t->n_dim))
        return false;
    t->name = memcpy(e->name, r->at.name.p, r->at.name.n);
    take_usual_name(e);
    if (t->n_dim < 1 || t->n_dim > 4)
        return gguf_bad(&r->at, "%" PRIu32 " dimensions, expected 1 to 4", t->n_dim);
    t->n_elem = 1;
    for (uint32_t i = 0; i < 4; i++) {
        t->dim[i] = 1;
        if (i < t->n_dim && !take_u64(r, &t->dim[i]))
            return false;
        if (t->dim[i] < 1 || t->dim[i] > INT64_MAX)
            return gguf_bad(&r->at, "dimension %" PRIu32 " is %" PRId64 ", expected at least 1", i,
                            (int64_t)t->dim[i]);
        if (!size_mul(t->n_elem, t->dim[i], &t->n_elem) || t->n_elem > INT64_MAX)
            return gguf_bad(&r->at,
                            "its dimensions multiply to 2^63 elements or more, expected fewer");
    }
    if (!take_u32(r, &type) || !take_u64(r, &e->offset))
        return false;
    const struct dtype_info *info = dtype_info(type);
    if (!info)
        return bad_as(&r->at, HLM_ERR_UNSUPPORTED,
                      "type %" PRIu32 " is unknown or retired, expected one of GGUF's", type);
    t->type = (enum dtype)type;
    if (t->dim[0] % info->block_len)
        return gguf_bad(&r->at,
                        "row of %" PRIu64 " elements, expected a multiple of %" PRIu32
                        " (a block of %s)",
                        t->dim[0], info->block_len, info->name);
    if (!dtype_bytes(t->type, t->n_elem, &t->n_bytes))
        return gguf_bad(&r->at, "its bytes overflow 64 bits, expected less");
    if (e->offset & (r->g->alignment - 1))
        return gguf_bad(&r->at, "offset %" PRIu64 ", expected a multiple of the alignment %" PRIu64,
                        e->offset, r->g->alignment);
    return true;
}

static bool read_directory(struct gguf_reader *r, uint64_t n)
{
    struct gguf *g = r->g;
    r->at = (struct gguf_place){ .g = g, .err = r->at.err, .kind = "header" };
    g->tensor = mem_alloc(n, sizeof *g->tensor);
    if (!g->tensor || !gguf_index_init(&g->tensor_index, n))
        return bad_as(&r->at, HLM_ERR_MEMORY, "no memory for %" PRIu64 " tensors", n);
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_entry *e = &g->tensor[i];
        r->at =
            (struct gguf_place){ .g = g, .err = r->at.err, .kind = "tensor", .i = i + 1, .n = n };
        if (!read_tensor_entry(r, e))
            return false;
        e->t.index = g->n_tensor++;
        if (!gguf_index_add(&g->tensor_index, e->name))
            return gguf_bad(&r->at, "appears twice, expected once");
    }
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const struct gguf_entry *x = *(struct gguf_entry *const *)a,
                            *y = *(struct gguf_entry *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Points tensors to their bytes, which must lie in the file and not overlap. */
static bool place_tensors(struct gguf_reader *r)
{
    struct gguf *g = r->g;
    if (!g->n_tensor)
        return true; /* a file without tensors may end before the padding */
    uint64_t start = align_up(r->pos, g->alignment);
    uint64_t n_data = start < g->n_bytes ? g->n_bytes - start : 0;
    struct gguf_entry **order = mem_alloc(g->n_tensor, sizeof *order);
    bool ok = order || bad_as(&r->at, HLM_ERR_MEMORY, "no memory to sort tensors");
    for (uint64_t i = 0; ok && i < g->n_tensor; i++) {
        struct gguf_entry *e = order[i] = &g->tensor[i];
        r->at.name = (struct hlm_str){ e->name, strlen(e->name) };
        if (e->offset > n_data || e->t.n_bytes > n_data - e->offset)
            ok = gguf_bad(&r->at,
                          "%" PRIu64 " bytes at offset %" PRIu64
                          " reach past the end of the file, expected them within %" PRIu64
                          " bytes of data; the file is cut off, perhaps an incomplete download",
                          e->t.n_bytes, e->offset, n_data);
        else
            e->t.data = g->bytes + start + e->offset;
    }
    if (ok)
        qsort(order, g->n_tensor, sizeof *order, by_offset);
    for (uint64_t i = 1; ok && i < g->n_tensor; i++) {
        const struct gguf_entry *e = order[i], *before = order[i - 1];
        r->at.name = (struct hlm_str){ e->name, strlen(e->name) };
        if (e->offset < before->offset + before->t.n_bytes)
            ok = gguf_bad(&r->at,
                          "overlaps tensor '%s': starts at offset %" PRIu64 ", expected %" PRIu64
                          " or later",
                          gguf_show_name((struct hlm_str){ before->name, strlen(before->name) }).s,
                          e->offset, before->offset + before->t.n_bytes);
    }
    free(order);
    return ok;
}

/* Takes over the mapping, also on failure. */
static struct gguf *gguf_new(const char *path, const uint8_t *bytes, uint64_t n, bool mapped,
                             struct hlm_err *err)
{
    struct gguf *g = mem_alloc(1, sizeof *g);
    char *copy = mem_alloc(strlen(path) + 1, 1);
    if (!g || !copy) {
        if (mapped && n)
            munmap((void *)bytes, (size_t)n);
        free(g);
        free(copy);
        fail_memory(err, "%s: no memory", gguf_show_path(path).s);
        return NULL;
    }
    g->path = strcpy(copy, path);
    g->bytes = bytes;
    g->n_bytes = n;
    g->mapped = mapped;
    struct gguf_reader r = { .g = g, .at = { .g = g, .err = err } };
    uint64_t n_tensor = 0, n_kv = 0;
    if (read_header(&r, &n_tensor, &n_kv) && read_keys(&r, n_kv) && read_alignment(&r) &&
        read_directory(&r, n_tensor) && place_tensors(&r))
        return g;
    gguf_close(g);
    return NULL;
}

struct gguf *gguf_parse(const uint8_t *bytes, uint64_t n, const char *name, struct hlm_err *err)
{
    return gguf_new(name, bytes, n, false, err);
}

struct gguf *gguf_open_alone(const char *path, struct hlm_err *err)
{
    void *map = NULL;
    struct stat st;
    const char *why = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a FIFO must not block */
    enum hlm_error kind = HLM_ERR_INPUT;
    if (fd < 0 || fstat(fd, &st)) {
        why = strerror(errno);
        kind = HLM_ERR_SYSTEM;
    } else if (!S_ISREG(st.st_mode))
        why = "not a regular file, expected a GGUF file";
    else if ((uint64_t)st.st_size > SIZE_MAX)
        why = "larger than the address space";
    else if (st.st_size) {
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            why = strerror(errno);
            kind = errno == ENOMEM ? HLM_ERR_MEMORY : HLM_ERR_SYSTEM;
        }
    }
    if (fd >= 0)
        close(fd); /* the mapping stays */
    if (why) {
        fail_as(err, kind, "%s: %s", gguf_show_path(path).s, why);
        return NULL;
    }
    return gguf_new(path, map, (uint64_t)st.st_size, true, err);
}

static struct gguf *open_by_path(void *user, const char *path, struct hlm_err *err)
{
    (void)user;
    return gguf_open_alone(path, err);
}

struct gguf *gguf_open(const char *path, struct hlm_err *err)
{
    struct gguf *g = gguf_open_alone(path, err);
    return g ? gguf_join(g, open_by_path, NULL, err) : NULL;
}

static void drop_tensors(struct gguf *g)
{
    free(g->tensor);
    g->tensor = NULL;
    g->n_tensor = 0;
    gguf_index_finish(&g->tensor_index);
}

bool gguf_adopt(struct gguf *g, struct gguf **shard, uint32_t n, struct hlm_err *err)
{
    struct gguf_place at = { .g = g, .err = err, .kind = "header" };
    uint64_t n_tensor = g->n_tensor, i_all = 0;
    struct gguf_index index = { 0 };
    g->shard = shard;
    g->n_shard = n;
    for (uint32_t i = 0; i < n; i++)
        n_tensor += shard[i]->n_tensor;
    if (n_tensor > MAX_TENSORS)
        return gguf_bad(&at, "%" PRIu64 " tensors in all its shards, expected at most %u", n_tensor,
                        MAX_TENSORS);
    struct gguf_entry *all = mem_alloc(n_tensor, sizeof *all);
    bool ok = (all && gguf_index_init(&index, n_tensor)) ||
              bad_as(&at, HLM_ERR_MEMORY, "no memory for the %" PRIu64 " tensors of all its shards",
                     n_tensor);
    for (uint32_t i = 0; ok && i <= n; i++) {
        const struct gguf *from = i ? shard[i - 1] : g;
        for (uint64_t k = 0; ok && k < from->n_tensor; k++, i_all++) {
            struct gguf_entry *e = &all[i_all];
            *e = from->tensor[k];
            e->t.name = e->name;
            e->t.index = i_all;
            at = (struct gguf_place){ from, err, "tensor", 0, 0, { e->name, strlen(e->name) } };
            ok = gguf_index_add(&index, e->name) ||
                 gguf_bad(&at, "is also in an earlier shard, expected in one");
        }
    }
    if (!ok) {
        free(all);
        gguf_index_finish(&index);
        return false;
    }
    for (uint32_t i = 0; i < n; i++)
        drop_tensors(shard[i]);
    drop_tensors(g);
    g->tensor = all;
    g->n_tensor = n_tensor;
    g->tensor_index = index;
    return true;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_shard; i++)
        gguf_close(g->shard[i]); /* a shard has no shards itself */
    free(g->shard);
    for (uint64_t i = 0; i < g->n_kv; i++)
        free((char *)g->kv[i].key);
    free(g->kv);
    drop_tensors(g);
    gguf_index_finish(&g->kv_index);
    if (g->mapped && g->n_bytes)
        munmap((void *)g->bytes, (size_t)g->n_bytes);
    free(g->path);
    free(g);
}

/* ---- access ---------------------------------------------------------------------------------- */

const char *gguf_path(const struct gguf *g) { return g->path; }

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t n = g->n_bytes;
    for (uint32_t i = 0; i < g->n_shard; i++)
        n += g->shard[i]->n_bytes;
    return n;
}

uint64_t gguf_n_tensor(const struct gguf *g) { return g->n_tensor; }
uint64_t gguf_n_kv(const struct gguf *g) { return g->n_kv; }

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t i)
{
    HLM_ASSERT(i < g->n_tensor);
    return &g->tensor[i].t;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint64_t i)
{
    HLM_ASSERT(i < g->n_kv);
    return &g->kv[i];
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    uint32_t i = gguf_index_find(&g->tensor_index, name);
    return i ? &g->tensor[i - 1].t : NULL;
}

const struct gguf_kv *gguf_kv(const struct gguf *g, const char *key)
{
    uint32_t i = gguf_index_find(&g->kv_index, key);
    return i ? &g->kv[i - 1] : NULL;
}

bool gguf_next_str(struct gguf_str_iter *it, struct hlm_str *s)
{
    if (!it->left)
        return false;
    s->n = gguf_number(it->p, 8);
    s->p = (const char *)it->p + 8;
    it->p += 8 + s->n;
    it->left--;
    return true;
}
