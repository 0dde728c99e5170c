/* file_split: models that come in several files (models.md 9.3); see file_parts.h.
 *
 * Parts are called PREFIX-00001-of-00003.gguf and so on; each is a whole GGUF file with a directory
 * and a data section of its own, and says in keys which part of how many it is. Only the first has
 * the model's keys, so that is the one to open. The others are looked for under its own name with
 * another number, and nowhere else: nothing inside a file chooses a path. */
#include "file/file_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_NO "split.no"
#define KEY_COUNT "split.count"
#define KEY_TOTAL "split.tensors.count"
#define MAX_PARTS 65535u /* the keys are u16 */
#define MAX_FIELD 99999u /* and the names have five digits */

struct part { /* what a file says of itself */
    uint32_t no, count, total;
};

static bool read_part(const struct gguf *g, struct part *p, struct hlm_err *err)
{
    return gguf_u32(g, KEY_NO, REQUIRED, &p->no, err) &&
           gguf_u32(g, KEY_COUNT, REQUIRED, &p->count, err) &&
           gguf_u32(g, KEY_TOTAL, REQUIRED, &p->total, err);
}

/* "-00002-of-00003.gguf" for i_part 1. */
struct ending {
    char s[32];
};
enum { N_DASH = 1, N_DIGIT = 5 };

static struct ending ending_of(uint32_t i_part, uint32_t count)
{
    struct ending e;
    HLM_ASSERT(i_part < MAX_FIELD && count <= MAX_FIELD);
    snprintf(e.s, sizeof e.s, "-%0*" PRIu32 "-of-%0*" PRIu32 ".gguf", N_DIGIT, i_part + 1, N_DIGIT,
             count);
    return e;
}

/* The path of another part in fresh memory: the part's own, with another number. NULL without a
 * reason when it is not called like a part. */
static char *path_of(const struct gguf *g, const struct part *own, uint32_t i_part, bool *named)
{
    struct ending e = ending_of(own->no, own->count);
    const char *path = gguf_path(g);
    uint64_t n = strlen(path), n_end = strlen(e.s);
    *named = n >= n_end && !strcmp(path + n - n_end, e.s);
    char *other = *named ? mem_alloc(n + 1, 1) : NULL;
    if (!other)
        return NULL;
    memcpy(other, path, n);
    memcpy(other + n - n_end + N_DASH, ending_of(i_part, own->count).s + N_DASH, N_DIGIT);
    return other;
}

/* A part that is not the first was opened: says which one to open. */
static bool refuse_later(const struct gguf *g, const struct part *own, struct hlm_err *err)
{
    bool named;
    char *first = path_of(g, own, 0, &named);
    const char *slash = first ? strrchr(first, '/') : NULL;
    gguf_refuse(g, KEY_NO, err,
                "this is part %" PRIu32 " of %" PRIu32 ", expected the first, %s%.200s",
                own->no + 1, own->count, first ? "" : "a file *",
                slash   ? slash + 1
                : first ? first
                        : ending_of(0, own->count).s);
    free(first);
    return false;
}

/* Whether the opened file is a first part; false with a reason when it cannot be one. */
static bool check_first(const struct gguf *g, const struct part *own, struct hlm_err *err)
{
    bool named;
    if (own->count > MAX_PARTS)
        return gguf_refuse(g, KEY_COUNT, err, "is %" PRIu32 ", expected at most %u", own->count,
                           MAX_PARTS);
    if (own->no >= own->count)
        return gguf_refuse(g, KEY_NO, err, "is %" PRIu32 ", expected 0 to %" PRIu32, own->no,
                           own->count - 1);
    if (own->no)
        return refuse_later(g, own, err);
    free(path_of(g, own, 0, &named));
    return named || own->count == 1 ||
           gguf_refuse(g, KEY_COUNT, err,
                       "is %" PRIu32
                       ", expected a name that ends in %s, by which the other parts are found",
                       own->count, ending_of(0, own->count).s);
}

static bool check_part(const struct gguf *g, const struct part *first, uint32_t i_part,
                       struct hlm_err *err)
{
    struct part p;
    if (!read_part(g, &p, err))
        return false;
    if (p.no != i_part)
        return gguf_refuse(g, KEY_NO, err, "is %" PRIu32 ", expected %" PRIu32, p.no, i_part);
    if (p.count != first->count)
        return gguf_refuse(g, KEY_COUNT, err,
                           "is %" PRIu32 ", expected %" PRIu32 " as in the first part", p.count,
                           first->count);
    return p.total == first->total ||
           gguf_refuse(g, KEY_TOTAL, err,
                       "is %" PRIu32 ", expected %" PRIu32 " as in the first part", p.total,
                       first->total);
}

/* Part i_part, opened and checked; NULL with a reason. */
static struct gguf *open_part(const struct gguf *g, const struct part *first, uint32_t i_part,
                              gguf_opener opener, void *user, struct hlm_err *err)
{
    bool named;
    char *path = path_of(g, first, i_part, &named);
    struct gguf *part = NULL;
    if (!path)
        fail_memory(err, "%s: key '" KEY_COUNT "': no memory for the path of part %" PRIu32,
                    gguf_path(g), i_part + 1);
    else
        part = opener(user, path, err);
    free(path);
    if (part && !check_part(part, first, i_part, err)) {
        gguf_close(part);
        part = NULL;
    }
    return part;
}

static bool join(struct gguf *g, const struct part *first, gguf_opener opener, void *user,
                 struct hlm_err *err)
{
    uint32_t n = first->count - 1, n_open = 0;
    struct gguf **part = mem_alloc(n, sizeof *part);
    if (!part)
        return fail_memory(err, "%s: key '" KEY_COUNT "': no memory for %" PRIu32 " parts",
                           gguf_path(g), n);
    while (n_open < n && (part[n_open] = open_part(g, first, n_open + 1, opener, user, err)))
        n_open++;
    if (!gguf_adopt(g, part, n_open, err) || n_open < n)
        return false;
    return gguf_n_tensor(g) == first->total ||
           gguf_refuse(g, KEY_TOTAL, err,
                       "is %" PRIu32 ", expected %" PRIu64 ", as many as there are in all parts",
                       first->total, gguf_n_tensor(g));
}

struct gguf *gguf_join(struct gguf *g, gguf_opener opener, void *user, struct hlm_err *err)
{
    struct part own = { 0 };
    bool ok = gguf_u32(g, KEY_COUNT, OPTIONAL, &own.count, err);
    if (ok && own.count) /* 0: parts that were merged into one file again */
        ok = read_part(g, &own, err) && check_first(g, &own, err) &&
             join(g, &own, opener, user, err);
    if (ok)
        return g;
    gguf_close(g);
    return NULL;
}
