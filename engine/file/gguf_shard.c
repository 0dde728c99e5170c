/* gguf_shard: models in several files (models/README.md, "Split models"). See gguf_parts.h.
 *
 * Shards are called PREFIX-00001-of-00003.gguf and so on. Each is a whole GGUF file with a
 * directory and data of its own, and its keys say which shard of how many it is. Only the first has
 * the model's keys, so it is the one to open. The others must lie beside it and have its name with
 * another number, so that the content of a file never chooses a path. */
#include "file/gguf_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_NO "split.no"
#define KEY_COUNT "split.count"
#define KEY_TOTAL "split.tensors.count"
#define MAX_SHARDS 65535u /* the keys are u16 */
#define MAX_FIELD 99999u  /* names have five digits */

struct shard {          /* what a file says about itself */
    uint32_t no, count; /* no counts from 0 */
    uint32_t total;     /* tensors in all shards */
};

static bool read_shard(const struct gguf *g, struct shard *p, struct hlm_err *err)
{
    return gguf_u32(g, KEY_NO, REQUIRED, &p->no, err) &&
           gguf_u32(g, KEY_COUNT, REQUIRED, &p->count, err) &&
           gguf_u32(g, KEY_TOTAL, REQUIRED, &p->total, err);
}

/* The end of a shard's name: "-00002-of-00003.gguf" for i_shard 1. */
struct shard_ending {
    char s[32];
};
enum { N_DASH = 1, N_DIGIT = 5 };

static struct shard_ending ending_of(uint32_t i_shard, uint32_t count)
{
    struct shard_ending e;
    HLM_ASSERT(i_shard < MAX_FIELD && count <= MAX_FIELD);
    snprintf(e.s, sizeof e.s, "-%0*" PRIu32 "-of-%0*" PRIu32 ".gguf", N_DIGIT, i_shard + 1, N_DIGIT,
             count);
    return e;
}

/* The path of another shard: g's own with another number. The caller frees it. NULL: no memory, or
 * g is not named like a shard (*named is then false). */
static char *other_shard_path(const struct gguf *g, const struct shard *own, uint32_t i_shard,
                              bool *named)
{
    struct shard_ending e = ending_of(own->no, own->count);
    const char *path = gguf_path(g);
    uint64_t n = strlen(path), n_end = strlen(e.s);
    *named = n >= n_end && !strcmp(path + n - n_end, e.s);
    char *other = *named ? mem_alloc(n + 1, 1) : NULL;
    if (!other)
        return NULL;
    memcpy(other, path, n);
    memcpy(other + n - n_end + N_DASH, ending_of(i_shard, own->count).s + N_DASH, N_DIGIT);
    return other;
}

/* Refuses a shard that is not the first, and names the one to open. */
static bool refuse_later(const struct gguf *g, const struct shard *own, struct hlm_err *err)
{
    bool named;
    char *first = other_shard_path(g, own, 0, &named);
    const char *slash = first ? strrchr(first, '/') : NULL;
    gguf_refuse(g, KEY_NO, err,
                "this is shard %" PRIu32 " of %" PRIu32 ", expected the first: open %s%.200s",
                own->no + 1, own->count, first ? "" : "a file *",
                slash   ? slash + 1
                : first ? first
                        : ending_of(0, own->count).s);
    free(first);
    return false;
}

/* Checks that the open file can be a first shard. False with a reason. */
static bool check_first(const struct gguf *g, const struct shard *own, struct hlm_err *err)
{
    bool named;
    if (own->count > MAX_SHARDS)
        return gguf_refuse(g, KEY_COUNT, err, "is %" PRIu32 ", expected at most %u", own->count,
                           MAX_SHARDS);
    if (own->no >= own->count)
        return gguf_refuse(g, KEY_NO, err, "is %" PRIu32 ", expected 0 to %" PRIu32, own->no,
                           own->count - 1);
    if (own->no)
        return refuse_later(g, own, err);
    free(other_shard_path(g, own, 0, &named));
    return named || own->count == 1 ||
           gguf_refuse(
               g, KEY_COUNT, err,
               "is %" PRIu32
               ", expected a file name that ends in %s, by which the other shards are found",
               own->count, ending_of(0, own->count).s);
}

static bool check_shard(const struct gguf *g, const struct shard *first, uint32_t i_shard,
                        struct hlm_err *err)
{
    struct shard p;
    if (!read_shard(g, &p, err))
        return false;
    if (p.no != i_shard)
        return gguf_refuse(g, KEY_NO, err, "is %" PRIu32 ", expected %" PRIu32, p.no, i_shard);
    if (p.count != first->count)
        return gguf_refuse(g, KEY_COUNT, err,
                           "is %" PRIu32 ", expected %" PRIu32 " as in the first shard", p.count,
                           first->count);
    return p.total == first->total ||
           gguf_refuse(g, KEY_TOTAL, err,
                       "is %" PRIu32 ", expected %" PRIu32 " as in the first shard", p.total,
                       first->total);
}

/* Opens and checks shard i_shard; NULL with a reason. */
static struct gguf *open_shard(const struct gguf *g, const struct shard *first, uint32_t i_shard,
                               gguf_opener opener, void *user, struct hlm_err *err)
{
    bool named;
    char *path = other_shard_path(g, first, i_shard, &named);
    struct gguf *shard = NULL;
    if (!path)
        fail_memory(err, "%s: key '" KEY_COUNT "': no memory for the path of shard %" PRIu32,
                    gguf_path(g), i_shard + 1);
    else
        shard = opener(user, path, err);
    free(path);
    if (shard && !check_shard(shard, first, i_shard, err)) {
        gguf_close(shard);
        shard = NULL;
    }
    return shard;
}

static bool join_shards(struct gguf *g, const struct shard *first, gguf_opener opener, void *user,
                        struct hlm_err *err)
{
    uint32_t n = first->count - 1, n_open = 0;
    struct gguf **shard = mem_alloc(n, sizeof *shard);
    if (!shard)
        return fail_memory(err, "%s: key '" KEY_COUNT "': no memory for %" PRIu32 " shards",
                           gguf_path(g), n);
    while (n_open < n && (shard[n_open] = open_shard(g, first, n_open + 1, opener, user, err)))
        n_open++;
    if (!gguf_adopt(g, shard, n_open, err) || n_open < n)
        return false;
    return gguf_n_tensor(g) == first->total ||
           gguf_refuse(g, KEY_TOTAL, err,
                       "is %" PRIu32 ", expected %" PRIu64 ", as many as all shards have",
                       first->total, gguf_n_tensor(g));
}

struct gguf *gguf_join(struct gguf *g, gguf_opener opener, void *user, struct hlm_err *err)
{
    struct shard own = { 0 };
    bool ok = gguf_u32(g, KEY_COUNT, OPTIONAL, &own.count, err);
    if (ok && own.count) /* 0: the shards were merged into one file again */
        ok = read_shard(g, &own, err) && check_first(g, &own, err) &&
             join_shards(g, &own, opener, user, err);
    if (ok)
        return g;
    gguf_close(g);
    return NULL;
}
