/* common_base: see common_base.h. */
#define _POSIX_C_SOURCE 200809L
#include "common_base.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static void describe(struct hlm_err *err, enum hlm_error kind, const char *fmt, va_list ap)
{
    if (!err || err->kind)
        return;
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    err->kind = kind;
}

#define DESCRIBE(kind)                                                                             \
    va_list ap;                                                                                    \
    va_start(ap, fmt);                                                                             \
    describe(err, kind, fmt, ap);                                                                  \
    va_end(ap);                                                                                    \
    return false

bool ui_fail(struct hlm_err *err, const char *fmt, ...) { DESCRIBE(HLM_ERR_INPUT); }
bool ui_fail_memory(struct hlm_err *err, const char *fmt, ...) { DESCRIBE(HLM_ERR_MEMORY); }
bool ui_fail_system(struct hlm_err *err, const char *fmt, ...) { DESCRIBE(HLM_ERR_SYSTEM); }

bool ui_fail_stopped(struct hlm_err *err)
{
    if (err && !err->kind)
        *err = (struct hlm_err){ .kind = HLM_ERR_STOPPED, .msg = "stopped" };
    return false;
}

void *ui_alloc(uint64_t n, uint64_t size)
{
    return n > SIZE_MAX || size > SIZE_MAX ? NULL
                                           : calloc(n ? (size_t)n : 1, size ? (size_t)size : 1);
}

void *ui_grow(void *old, uint64_t n, uint64_t size)
{
    if (size && n > SIZE_MAX / size)
        return NULL;
    return realloc(old, n && size ? (size_t)(n * size) : 1);
}

char *ui_copy(const char *s, uint64_t n)
{
    char *out = n < UINT64_MAX ? ui_alloc(n + 1, 1) : NULL;
    if (out && n)
        memcpy(out, s, (size_t)n);
    return out;
}

static char plain(char c) { return c == '_' ? '-' : c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

/* How many letters differ: one too many, one missing, another one, or two neighbours swapped
 * (optimal string alignment). `most` or more: most. */
static uint32_t distance(const char *a, const char *b, uint32_t most)
{
    enum { MAX = 32 };
    uint32_t row[3][MAX + 1], n_a = (uint32_t)strlen(a), n_b = (uint32_t)strlen(b);
    if (n_a > MAX || n_b > MAX)
        return most;
    for (uint32_t i = 0; i <= n_a; i++)
        for (uint32_t k = 0; k <= n_b; k++) {
            uint32_t *at = &row[i % 3][k], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
            bool same = i && k && plain(a[i - 1]) == plain(b[k - 1]);
            *at = i ? up[k] + 1 : k;
            if (k && i)
                *at = ui_min_u32(ui_min_u32(*at, at[-1] + 1), up[k - 1] + !same);
            if (i > 1 && k > 1 && plain(a[i - 1]) == plain(b[k - 2]) &&
                plain(a[i - 2]) == plain(b[k - 1]))
                *at = ui_min_u32(*at, up2[k - 2] + 1);
        }
    return ui_min_u32(row[n_a % 3][n_b], most);
}

const char *ui_nearest(const char *word, const char *const *list)
{
    const char *best = NULL;
    uint32_t least = (uint32_t)strlen(word) / 3 + 1; /* a longer word may have more mistakes */
    for (; *list; list++) {
        uint32_t d = distance(word, *list, least + 1);
        if (d <= least && (!best || d < least)) {
            best = *list;
            least = d;
        }
    }
    return best;
}

double ui_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

char *ui_read_file(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    uint64_t len = 0, room = 0;
    size_t got = 1;
    bool ok = f || ui_fail_system(err, "%.300s: %s", path, strerror(errno));
    while (ok && got && len <= max) { /* to the end rather than by size: a pipe has none */
        if (len == room) {
            room = room ? 2 * room : 1 << 16;
            char *more = ui_grow(text, room + 1, 1);
            if (!more) {
                ok = ui_fail_memory(err, "%.300s: no memory to read it", path);
                break;
            }
            text = more;
        }
        got = fread(text + len, 1, (size_t)(room - len), f);
        len += got;
        if (ferror(f))
            ok = ui_fail_system(err, "%.300s: %s", path, strerror(errno));
    }
    if (f)
        fclose(f);
    if (ok && len > max)
        ok = ui_fail(err, "%.300s: too large, expected at most %llu bytes", path,
                     (unsigned long long)max);
    if (!ok) {
        free(text);
        return NULL;
    }
    text[len] = 0;
    *n = len;
    return text;
}

/* ---- what may be replaced -------------------------------------------------------------------- */

static const struct {
    const char *a, *begins; /* with its article; what such a file begins with */
} file_kinds[] = {
    [FILE_TALK] = { "a saved conversation", "hlmstate" },
    [FILE_TALK_JSON] = { "a conversation exported as JSON", "{" },
    [FILE_TALK_TEXT] = { "a conversation exported as Markdown", UI_TALK_MARK },
    [FILE_MODEL] = { "a model", "GGUF" },
    [FILE_ADAPTER] = { "an adapter", "GGUF" },
};

static bool begins_with(const char *path, const char *what)
{
    char begin[64];
    size_t n = strlen(what);
    FILE *f = fopen(path, "rb");
    bool is = f && n <= sizeof begin && fread(begin, 1, n, f) == n && memcmp(begin, what, n) == 0;
    if (f)
        fclose(f);
    return is;
}

static bool is_adapter(const char *path)
{
    struct hlm_adapter_info info = { 0 };
    bool is = hlm_adapter_read(path, &info, NULL);
    hlm_adapter_info_free(&info);
    return is;
}

static bool has_messages(const char *path)
{
    json_t *j = json_load_file(path, 0, NULL);
    bool has = json_is_array(json_object_get(j, "messages"));
    json_decref(j);
    return has;
}

static bool is_kind(const char *path, enum file_kind kind)
{
    if (!begins_with(path, file_kinds[kind].begins))
        return false;
    switch (kind) {
    case FILE_MODEL: return !is_adapter(path);
    case FILE_ADAPTER: return is_adapter(path);
    case FILE_TALK_JSON: return has_messages(path);
    default: return true;
    }
}

bool ui_may_replace(const char *path, enum file_kind kind, bool *replaces, struct hlm_err *err)
{
    struct stat st;
    bool is_there = stat(path, &st) == 0;
    if (!is_there && errno != ENOENT)
        return ui_fail_system(err, "%.300s: %s", path, strerror(errno));
    if (is_there && !S_ISREG(st.st_mode))
        return ui_fail(err, "%.300s: is no ordinary file", path);
    if (is_there && !is_kind(path, kind))
        return ui_fail(err, "%.300s: is there already and is not %s: it would be lost", path,
                       file_kinds[kind].a);
    if (replaces)
        *replaces = is_there;
    return true;
}
