/* file: the GGUF container (models.md section 9); see file.h. Models in several files:
 * file_split.c; small-file helpers: file_io.c.
 *
 * The reader walks the bytes once, from the header over the keys to the tensor directory, and moves
 * only by take(), which cannot leave the file. Tensors are placed last, when the start of the data
 * section is known. Whatever is wrong ends in one line from bad(): file, place, what was found,
 * what was expected. The one thing not guarded is a file that shrinks while it is mapped. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "file/file_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Far above any real file, low enough that tables sized by them cannot exhaust memory. */
#define MAX_KEYS 65536u
#define MAX_TENSORS (1u << 20)
#define MAX_KEY_BYTES 65535u
#define MAX_STRING_BYTES (1u << 30)
#define MAX_ELEMENTS (1u << 30)
#define MAX_ALIGNMENT (1u << 20)
#define MAX_NAME 63 /* of a tensor */

/* Names to places in an array: open addressing, at most half full. */
struct index {
    const char **name; /* [n], borrowed, in file order */
    uint32_t *slot;    /* [mask + 1], place + 1, 0 is free */
    uint32_t n, mask;
};

struct entry {
    struct gguf_tensor t;
    uint64_t offset; /* in the data section */
    char name[MAX_NAME + 1];
};

struct gguf {
    char *path;
    const uint8_t *bytes;
    uint64_t n_bytes;
    bool mapped;
    uint64_t alignment;
    uint64_t n_kv, n_tensor; /* read so far */
    struct gguf_kv *kv;
    struct entry *tensor;
    struct index kv_index, tensor_index;
    struct gguf **part; /* [n_part] further files, to whose bytes tensors point */
    uint32_t n_part;
};

static const struct {
    const char *name;
    uint8_t bytes; /* of one value; 0: not of fixed size */
} types[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = { "u8", 1 },       [GGUF_I8] = { "i8", 1 },     [GGUF_U16] = { "u16", 2 },
    [GGUF_I16] = { "i16", 2 },     [GGUF_U32] = { "u32", 4 },   [GGUF_I32] = { "i32", 4 },
    [GGUF_U64] = { "u64", 8 },     [GGUF_I64] = { "i64", 8 },   [GGUF_F32] = { "f32", 4 },
    [GGUF_F64] = { "f64", 8 },     [GGUF_BOOL] = { "bool", 1 }, [GGUF_STRING] = { "string", 0 },
    [GGUF_ARRAY] = { "array", 0 },
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they are");

/* A number of 1, 2, 4 or 8 bytes. */
static uint64_t load(const uint8_t *p, uint32_t n)
{
    uint64_t v = 0;
    memcpy(&v, p, n);
    return v;
}

/* --- Messages. ------------------------------------------------------------------------------ */

/* What a message is about: the file, and "key 'x'" or, before its name is known, "key 3 of 9". */
struct place {
    const struct gguf *g;
    struct hlm_err *err;
    const char *kind;
    uint64_t i, n; /* counted from 1; n = 0: there is only one */
    struct hlm_str name;
};

/* Text from outside, made fit for one line of a terminal. A long one loses its middle, so that
 * path, name and reason fit together into a struct hlm_err. */
struct shown {
    char s[256];
};

static struct shown show(const char *p, uint64_t n, uint64_t max, bool ascii)
{
    struct shown out;
    uint64_t len = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (n > max && i == max / 2) {
            memcpy(out.s + len, "...", 3);
            len += 3;
            i = n - max / 2;
        }
        unsigned char c = (unsigned char)p[i];
        out.s[len++] = c < 0x20 || c == 0x7f || (ascii && c > 0x7f) ? '?' : (char)c;
    }
    out.s[len] = 0;
    return out;
}

static struct shown show_path(const char *path) { return show(path, strlen(path), 200, false); }
static struct shown show_name(struct hlm_str s) { return show(s.p, s.n, 80, true); }

static bool refuse(const struct place *at, enum hlm_error kind, const char *fmt, va_list ap)
{
    char where[300], what[400];
    if (at->name.p)
        snprintf(where, sizeof where, "%s '%s'", at->kind, show_name(at->name).s);
    else if (at->n)
        snprintf(where, sizeof where, "%s %" PRIu64 " of %" PRIu64, at->kind, at->i, at->n);
    else
        snprintf(where, sizeof where, "%s", at->kind);
    vsnprintf(what, sizeof what, fmt, ap);
    return fail_as(at->err, kind, "%s: %s: %s", show_path(at->g->path).s, where, what);
}

static bool bad(const struct place *at, const char *fmt, ...) HLM_PRINTF(2, 3);
static bool bad(const struct place *at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    refuse(at, HLM_ERR_INPUT, fmt, ap);
    va_end(ap);
    return false;
}

static bool bad_memory(const struct place *at, const char *fmt, ...) HLM_PRINTF(2, 3);
static bool bad_memory(const struct place *at, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    refuse(at, HLM_ERR_MEMORY, fmt, ap);
    va_end(ap);
    return false;
}

bool gguf_refuse(const struct gguf *g, const char *key, struct hlm_err *err, const char *fmt, ...)
{
    struct place at = { .g = g, .err = err, .kind = "key", .name = { key, strlen(key) } };
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return bad(&at, "%s", what);
}

/* --- Index. --------------------------------------------------------------------------------- */

static bool index_init(struct index *ix, uint64_t n)
{
    uint32_t n_slot = 2;
    while (n_slot < 2 * n)
        n_slot *= 2;
    ix->name = mem_alloc(n, sizeof *ix->name);
    ix->slot = mem_alloc(n_slot, sizeof *ix->slot);
    ix->mask = n_slot - 1;
    return ix->name && ix->slot;
}

static void index_finish(struct index *ix)
{
    free(ix->name);
    free(ix->slot);
    *ix = (struct index){ 0 };
}

/* The slot that holds the name, or the free one where it belongs. */
static uint32_t *index_slot(const struct index *ix, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = name; *c; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    uint32_t i = (uint32_t)(h ^ h >> 32) & ix->mask;
    while (ix->slot[i] && strcmp(ix->name[ix->slot[i] - 1], name))
        i = (i + 1) & ix->mask;
    return &ix->slot[i];
}

/* False if the name is there already. */
static bool index_add(struct index *ix, const char *name)
{
    uint32_t *slot = index_slot(ix, name);
    if (*slot)
        return false;
    ix->name[ix->n++] = name;
    *slot = ix->n;
    return true;
}

/* --- Reading. ------------------------------------------------------------------------------- */

struct reader {
    struct gguf *g;
    uint64_t pos;
    struct place at;
};

/* The next n bytes, or NULL: the only way by which parsing moves on. */
static const uint8_t *take(struct reader *r, uint64_t n)
{
    uint64_t left = r->g->n_bytes - r->pos;
    if (n > left) {
        bad(&r->at,
            "the file ends early: byte %" PRIu64 " is followed by %" PRIu64
            ", expected at least %" PRIu64,
            r->pos, left, n);
        return NULL;
    }
    const uint8_t *p = r->g->bytes + r->pos;
    r->pos += n;
    return p;
}

static bool take_u32(struct reader *r, uint32_t *v)
{
    const uint8_t *p = take(r, 4);
    if (p)
        *v = (uint32_t)load(p, 4);
    return p;
}

static bool take_u64(struct reader *r, uint64_t *v)
{
    const uint8_t *p = take(r, 8);
    if (p)
        *v = load(p, 8);
    return p;
}

static bool take_str(struct reader *r, const char *what, uint64_t max, struct hlm_str *s)
{
    uint64_t start = r->pos;
    if (!take_u64(r, &s->n))
        return false;
    uint64_t left = r->g->n_bytes - r->pos;
    if (s->n > max || s->n > left)
        return bad(&r->at,
                   "%s at byte %" PRIu64 " has length %" PRIu64 ", expected at most %" PRIu64, what,
                   start, s->n, min_u64(max, left));
    s->p = (const char *)r->g->bytes + r->pos;
    r->pos += s->n;
    return true;
}

/* A name that can be handed out terminated: not empty, and without a NUL that would cut it. */
static bool take_name(struct reader *r, uint64_t max)
{
    struct hlm_str name;
    if (!take_str(r, "name", max, &name))
        return false;
    if (!name.n)
        return bad(&r->at, "empty name, expected at least one byte");
    r->at.name = name;
    if (memchr(name.p, 0, name.n))
        return bad(&r->at, "a NUL byte in the name, expected none");
    return true;
}

/* A count from the header: what it counts must fit into the file, and into reason. */
static bool take_count(struct reader *r, const char *what, uint64_t record_bytes, uint64_t max,
                       uint64_t *n)
{
    if (!take_u64(r, n))
        return false;
    uint64_t most = min_u64(max, r->g->n_bytes / record_bytes);
    if (*n > most)
        return bad(&r->at,
                   "%s count %" PRId64 ", expected 0 to %" PRIu64 " in a file of %" PRIu64 " bytes",
                   what, (int64_t)*n, most, r->g->n_bytes);
    return true;
}

static bool read_header(struct reader *r, uint64_t *n_tensor, uint64_t *n_kv)
{
    r->at.kind = "header";
    const uint8_t *magic = take(r, 4);
    if (!magic)
        return false;
    if (memcmp(magic, "GGUF", 4))
        return bad(&r->at, "not a GGUF file: it starts %02x %02x %02x %02x, expected 'GGUF'",
                   magic[0], magic[1], magic[2], magic[3]);
    uint32_t version;
    if (!take_u32(r, &version))
        return false;
    if (version && !(version & 0xffff))
        return bad(&r->at, "version bytes are swapped: a big-endian file, expected little-endian");
    if (version != 2 && version != 3)
        return bad(&r->at, "version %" PRIu32 ", expected 2 or 3", version);
    return take_count(r, "tensor", 8 + 1 + 4 + 8 + 4 + 8, MAX_TENSORS, n_tensor) &&
           take_count(r, "key", 8 + 1 + 4 + 1, MAX_KEYS, n_kv);
}

static bool check_bools(struct reader *r, const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1)
            return bad(&r->at, "bool %" PRIu64 " is %d, expected 0 or 1", i, p[i]);
    return true;
}

static bool read_array(struct reader *r, struct gguf_kv *kv)
{
    uint32_t elem;
    if (!take_u32(r, &elem) || !take_u64(r, &kv->n))
        return false;
    if (elem >= GGUF_TYPE_COUNT)
        return bad(&r->at, "array of type %" PRIu32 ", expected 0 to %d", elem,
                   GGUF_TYPE_COUNT - 1);
    if (elem == GGUF_ARRAY)
        return bad(&r->at, "array of arrays, expected scalars or strings in it");
    kv->elem = (enum gguf_type)elem;
    uint64_t bytes = types[elem].bytes, left = r->g->n_bytes - r->pos;
    uint64_t most = min_u64(MAX_ELEMENTS, left / (bytes ? bytes : 8));
    if (kv->n > most)
        return bad(&r->at,
                   "array of %" PRIu64 " elements, expected at most %" PRIu64 " with %" PRIu64
                   " bytes left",
                   kv->n, most, left);
    kv->data = r->g->bytes + r->pos;
    if (elem != GGUF_STRING)
        return take(r, kv->n * bytes) && (elem != GGUF_BOOL || check_bools(r, kv->data, kv->n));
    struct hlm_str s;
    for (uint64_t i = 0; i < kv->n; i++)
        if (!take_str(r, "string", MAX_STRING_BYTES, &s))
            return false;
    return true;
}

static bool read_kv(struct reader *r, struct gguf_kv *kv)
{
    uint32_t type;
    if (!take_name(r, MAX_KEY_BYTES) || !take_u32(r, &type))
        return false;
    if (type >= GGUF_TYPE_COUNT)
        return bad(&r->at, "value of type %" PRIu32 ", expected 0 to %d", type,
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
    kv->data = take(r, types[type].bytes);
    return kv->data && (type != GGUF_BOOL || check_bools(r, kv->data, 1));
}

static bool read_keys(struct reader *r, uint64_t n)
{
    struct gguf *g = r->g;
    g->kv = mem_alloc(n, sizeof *g->kv);
    if (!g->kv || !index_init(&g->kv_index, n))
        return bad_memory(&r->at, "no memory for %" PRIu64 " keys", n);
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_kv *kv = &g->kv[i];
        r->at = (struct place){ .g = g, .err = r->at.err, .kind = "key", .i = i + 1, .n = n };
        if (!read_kv(r, kv))
            return false;
        char *key = mem_alloc(r->at.name.n + 1, 1);
        if (!key)
            return bad_memory(&r->at, "no memory for its name");
        kv->key = memcpy(key, r->at.name.p, r->at.name.n);
        g->n_kv++;
        if (!index_add(&g->kv_index, key))
            return bad(&r->at, "appears twice, expected once");
        /* Weights stored rotated: computing with them as they are gives plausible nonsense. */
        if (!strncmp(key, "prism.hadamard.", 15))
            return bad(&r->at, "the weights are folded with a Hadamard transform, expected plain");
    }
    return true;
}

static bool read_alignment(struct reader *r)
{
    struct gguf *g = r->g;
    const struct gguf_kv *kv = gguf_kv(g, "general.alignment");
    g->alignment = 32;
    if (!kv)
        return true;
    r->at.name = (struct hlm_str){ kv->key, strlen(kv->key) };
    if (kv->type != GGUF_U32)
        return bad(&r->at, "%s, expected u32", types[kv->type].name);
    g->alignment = load(kv->data, 4);
    if (!g->alignment || g->alignment & (g->alignment - 1) || g->alignment > MAX_ALIGNMENT)
        return bad(&r->at, "%" PRIu64 ", expected a power of two up to %u", g->alignment,
                   MAX_ALIGNMENT);
    return true;
}

static bool read_tensor(struct reader *r, struct entry *e)
{
    struct gguf_tensor *t = &e->t;
    uint32_t type;
    if (!take_name(r, MAX_NAME) || !take_u32(r, &t->n_dim))
        return false;
    t->name = memcpy(e->name, r->at.name.p, r->at.name.n);
    if (t->n_dim < 1 || t->n_dim > 4)
        return bad(&r->at, "%" PRIu32 " dimensions, expected 1 to 4", t->n_dim);
    t->n_elem = 1;
    for (uint32_t i = 0; i < 4; i++) {
        t->dim[i] = 1;
        if (i < t->n_dim && !take_u64(r, &t->dim[i]))
            return false;
        if (t->dim[i] < 1 || t->dim[i] > INT64_MAX)
            return bad(&r->at, "dimension %" PRIu32 " is %" PRId64 ", expected at least 1", i,
                       (int64_t)t->dim[i]);
        if (!size_mul(t->n_elem, t->dim[i], &t->n_elem) || t->n_elem > INT64_MAX)
            return bad(&r->at, "its dimensions multiply to 2^63 elements or more, expected fewer");
    }
    if (!take_u32(r, &type) || !take_u64(r, &e->offset))
        return false;
    const struct dtype_info *info = dtype_info(type);
    if (!info)
        return bad(&r->at, "type %" PRIu32 " is unknown or retired, expected one of GGUF's", type);
    t->type = (enum dtype)type;
    if (t->dim[0] % info->block_len)
        return bad(&r->at,
                   "row of %" PRIu64 " elements, expected a multiple of %" PRIu32
                   " (a block of %s)",
                   t->dim[0], info->block_len, info->name);
    if (!dtype_bytes(t->type, t->n_elem, &t->n_bytes))
        return bad(&r->at, "its bytes overflow 64 bits, expected less");
    if (e->offset & (r->g->alignment - 1))
        return bad(&r->at, "offset %" PRIu64 ", expected a multiple of the alignment %" PRIu64,
                   e->offset, r->g->alignment);
    return true;
}

static bool read_tensors(struct reader *r, uint64_t n)
{
    struct gguf *g = r->g;
    r->at = (struct place){ .g = g, .err = r->at.err, .kind = "header" };
    g->tensor = mem_alloc(n, sizeof *g->tensor);
    if (!g->tensor || !index_init(&g->tensor_index, n))
        return bad_memory(&r->at, "no memory for %" PRIu64 " tensors", n);
    for (uint64_t i = 0; i < n; i++) {
        struct entry *e = &g->tensor[i];
        r->at = (struct place){ .g = g, .err = r->at.err, .kind = "tensor", .i = i + 1, .n = n };
        if (!read_tensor(r, e))
            return false;
        e->t.index = g->n_tensor++;
        if (!index_add(&g->tensor_index, e->name))
            return bad(&r->at, "appears twice, expected once");
    }
    return true;
}

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Points tensors at their bytes: inside the data section, and no byte belongs to two. */
static bool place_tensors(struct reader *r)
{
    struct gguf *g = r->g;
    if (!g->n_tensor)
        return true; /* a vocabulary may end before the padding */
    uint64_t start = align_up(r->pos, g->alignment);
    uint64_t n_data = start < g->n_bytes ? g->n_bytes - start : 0;
    struct entry **order = mem_alloc(g->n_tensor, sizeof *order);
    bool ok = order || bad_memory(&r->at, "no memory to sort tensors");
    for (uint64_t i = 0; ok && i < g->n_tensor; i++) {
        struct entry *e = order[i] = &g->tensor[i];
        r->at.name = (struct hlm_str){ e->name, strlen(e->name) };
        if (e->offset > n_data || e->t.n_bytes > n_data - e->offset)
            ok = bad(&r->at,
                     "%" PRIu64 " bytes at offset %" PRIu64
                     " reach past the end of the file, expected them within %" PRIu64
                     " bytes of data",
                     e->t.n_bytes, e->offset, n_data);
        else
            e->t.data = g->bytes + start + e->offset;
    }
    if (ok)
        qsort(order, g->n_tensor, sizeof *order, by_offset);
    for (uint64_t i = 1; ok && i < g->n_tensor; i++) {
        const struct entry *e = order[i], *before = order[i - 1];
        r->at.name = (struct hlm_str){ e->name, strlen(e->name) };
        if (e->offset < before->offset + before->t.n_bytes)
            ok = bad(&r->at,
                     "overlaps tensor '%s': starts at offset %" PRIu64 ", expected %" PRIu64
                     " or later",
                     show_name((struct hlm_str){ before->name, strlen(before->name) }).s, e->offset,
                     before->offset + before->t.n_bytes);
    }
    free(order);
    return ok;
}

/* Takes over the mapping, also when it fails. */
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
        fail_memory(err, "%s: no memory", show_path(path).s);
        return NULL;
    }
    g->path = strcpy(copy, path);
    g->bytes = bytes;
    g->n_bytes = n;
    g->mapped = mapped;
    struct reader r = { .g = g, .at = { .g = g, .err = err } };
    uint64_t n_tensor = 0, n_kv = 0;
    if (read_header(&r, &n_tensor, &n_kv) && read_keys(&r, n_kv) && read_alignment(&r) &&
        read_tensors(&r, n_tensor) && place_tensors(&r))
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
    enum hlm_error kind = HLM_ERR_INPUT;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
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
        fail_as(err, kind, "%s: %s", show_path(path).s, why);
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
    index_finish(&g->tensor_index);
}

bool gguf_adopt(struct gguf *g, struct gguf **part, uint32_t n, struct hlm_err *err)
{
    struct place at = { .g = g, .err = err, .kind = "header" };
    uint64_t n_tensor = g->n_tensor, i_all = 0;
    struct index index = { 0 };
    g->part = part;
    g->n_part = n;
    for (uint32_t i = 0; i < n; i++)
        n_tensor += part[i]->n_tensor;
    if (n_tensor > MAX_TENSORS)
        return bad(&at, "%" PRIu64 " tensors in all its parts, expected at most %u", n_tensor,
                   MAX_TENSORS);
    struct entry *all = mem_alloc(n_tensor, sizeof *all);
    bool ok = (all && index_init(&index, n_tensor)) ||
              bad_memory(&at, "no memory for the %" PRIu64 " tensors of all its parts", n_tensor);
    for (uint32_t i = 0; ok && i <= n; i++) {
        const struct gguf *from = i ? part[i - 1] : g;
        for (uint64_t k = 0; ok && k < from->n_tensor; k++, i_all++) {
            struct entry *e = &all[i_all];
            *e = from->tensor[k];
            e->t.name = e->name;
            e->t.index = i_all;
            at = (struct place){ from, err, "tensor", 0, 0, { e->name, strlen(e->name) } };
            ok = index_add(&index, e->name) ||
                 bad(&at, "is in an earlier part too, expected in one");
        }
    }
    if (!ok) {
        free(all);
        index_finish(&index);
        return false;
    }
    for (uint32_t i = 0; i < n; i++)
        drop_tensors(part[i]);
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
    for (uint32_t i = 0; i < g->n_part; i++)
        gguf_close(g->part[i]); /* a part has none itself */
    free(g->part);
    for (uint64_t i = 0; i < g->n_kv; i++)
        free((char *)g->kv[i].key);
    free(g->kv);
    drop_tensors(g);
    index_finish(&g->kv_index);
    if (g->mapped && g->n_bytes)
        munmap((void *)g->bytes, (size_t)g->n_bytes);
    free(g->path);
    free(g);
}

/* --- Access. -------------------------------------------------------------------------------- */

const char *gguf_path(const struct gguf *g) { return g->path; }

uint64_t gguf_file_bytes(const struct gguf *g)
{
    uint64_t n = g->n_bytes;
    for (uint32_t i = 0; i < g->n_part; i++)
        n += g->part[i]->n_bytes;
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
    uint32_t i = *index_slot(&g->tensor_index, name);
    return i ? &g->tensor[i - 1].t : NULL;
}

const struct gguf_kv *gguf_kv(const struct gguf *g, const char *key)
{
    uint32_t i = *index_slot(&g->kv_index, key);
    return i ? &g->kv[i - 1] : NULL;
}

bool gguf_next_str(struct gguf_str_iter *it, struct hlm_str *s)
{
    if (!it->left)
        return false;
    s->n = load(it->p, 8);
    s->p = (const char *)it->p + 8;
    it->p += 8 + s->n;
    it->left--;
    return true;
}

/* --- Typed readers. ------------------------------------------------------------------------- */

/* A key to be read. Without kv there is nothing to read, and ok says whether that is all right. */
struct wanted {
    const struct gguf_kv *kv;
    bool ok;
    struct place at;
};

#define ONE_VALUE UINT64_MAX /* as the length of an array: no array will do */

static struct wanted want(const struct gguf *g, const char *key, enum gguf_need need,
                          uint64_t array_len, struct hlm_err *err)
{
    struct wanted w = { gguf_kv(g, key),
                        true,
                        { .g = g, .err = err, .kind = "key", .name = { key, strlen(key) } } };
    if (!w.kv && need == REQUIRED)
        w.ok = bad(&w.at, "is missing, expected in this file");
    else if (w.kv && w.kv->type == GGUF_ARRAY && array_len == ONE_VALUE)
        w.ok = bad(&w.at, "is array of %s, expected one value", types[w.kv->elem].name);
    else if (w.kv && w.kv->type == GGUF_ARRAY && w.kv->n != array_len)
        w.ok = bad(&w.at, "has %" PRIu64 " elements, expected %" PRIu64, w.kv->n, array_len);
    if (!w.ok)
        w.kv = NULL;
    return w;
}

static bool wrong_type(const struct wanted *w, const char *expected)
{
    return bad(&w->at, "is %s%s, expected %s", w->kv->type == GGUF_ARRAY ? "array of " : "",
               types[w->kv->elem].name, expected);
}

/* Value i of the key; a scalar is the same for every i. */
static const uint8_t *value_at(const struct wanted *w, uint64_t i)
{
    return w->kv->data + (w->kv->type == GGUF_ARRAY ? i * types[w->kv->elem].bytes : 0);
}

static bool u32_at(const struct wanted *w, uint64_t i, uint32_t *v)
{
    enum gguf_type t = w->kv->elem;
    bool is_signed = t == GGUF_I8 || t == GGUF_I16 || t == GGUF_I32 || t == GGUF_I64;
    if (!is_signed && t != GGUF_U8 && t != GGUF_U16 && t != GGUF_U32 && t != GGUF_U64)
        return wrong_type(w, "an integer");
    uint64_t u = load(value_at(w, i), types[t].bytes), sign = 1ull << (8 * types[t].bytes - 1);
    if (is_signed && u & sign)
        return bad(&w->at, "is -%" PRIu64 ", expected 0 to %u", sign - (u & (sign - 1)),
                   UINT32_MAX);
    if (u > UINT32_MAX)
        return bad(&w->at, "is %" PRIu64 ", expected 0 to %u", u, UINT32_MAX);
    *v = (uint32_t)u;
    return true;
}

static bool bool_at(const struct wanted *w, uint64_t i, bool *v)
{
    if (w->kv->elem != GGUF_BOOL)
        return wrong_type(w, "bool");
    *v = *value_at(w, i);
    return true;
}

static bool f32_at(const struct wanted *w, uint64_t i, float *v)
{
    enum gguf_type t = w->kv->elem;
    if (t != GGUF_F32 && t != GGUF_F64)
        return wrong_type(w, "f32 or f64");
    uint64_t bits = load(value_at(w, i), types[t].bytes);
    if (t == GGUF_F32) {
        uint32_t u = (uint32_t)bits;
        memcpy(v, &u, 4);
        return true;
    }
    double d;
    memcpy(&d, &bits, 8);
    if (isfinite(d) && fabs(d) > FLT_MAX)
        return bad(&w->at, "is %g, expected at most %g", d, (double)FLT_MAX);
    *v = (float)d;
    return true;
}

bool gguf_u32(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
              struct hlm_err *err)
{
    struct wanted w = want(g, key, need, ONE_VALUE, err);
    return w.kv ? u32_at(&w, 0, v) : w.ok;
}

bool gguf_u32_each(const struct gguf *g, const char *key, enum gguf_need need, uint32_t *v,
                   uint64_t n, struct hlm_err *err)
{
    struct wanted w = want(g, key, need, n, err);
    for (uint64_t i = 0; w.kv && w.ok && i < n; i++)
        w.ok = u32_at(&w, i, &v[i]);
    return w.ok;
}

bool gguf_bool(const struct gguf *g, const char *key, enum gguf_need need, bool *v,
               struct hlm_err *err)
{
    struct wanted w = want(g, key, need, ONE_VALUE, err);
    return w.kv ? bool_at(&w, 0, v) : w.ok;
}

bool gguf_bool_each(const struct gguf *g, const char *key, enum gguf_need need, bool *v, uint64_t n,
                    struct hlm_err *err)
{
    struct wanted w = want(g, key, need, n, err);
    for (uint64_t i = 0; w.kv && w.ok && i < n; i++)
        w.ok = bool_at(&w, i, &v[i]);
    return w.ok;
}

bool gguf_f32(const struct gguf *g, const char *key, enum gguf_need need, float *v,
              struct hlm_err *err)
{
    struct wanted w = want(g, key, need, ONE_VALUE, err);
    return w.kv ? f32_at(&w, 0, v) : w.ok;
}

bool gguf_f32_each(const struct gguf *g, const char *key, enum gguf_need need, float *v, uint64_t n,
                   struct hlm_err *err)
{
    struct wanted w = want(g, key, need, n, err);
    for (uint64_t i = 0; w.kv && w.ok && i < n; i++)
        w.ok = f32_at(&w, i, &v[i]);
    return w.ok;
}

bool gguf_str(const struct gguf *g, const char *key, enum gguf_need need, struct hlm_str *v,
              struct hlm_err *err)
{
    struct wanted w = want(g, key, need, ONE_VALUE, err);
    if (!w.kv)
        return w.ok;
    if (w.kv->type != GGUF_STRING)
        return wrong_type(&w, "string");
    *v = (struct hlm_str){ (const char *)w.kv->data, w.kv->n };
    return true;
}
