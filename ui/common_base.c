/* common_base: see common_base.h. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "common_base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <utf8proc.h>

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

/* ---- text ------------------------------------------------------------------------------------ */

bool ui_reserve(struct ui_bytes *b, size_t n)
{
    if (n < b->cap && b->n < b->cap - n)
        return true;
    if (n > SIZE_MAX / 4 - b->n)
        return false;
    size_t cap = 2 * (b->n + n) + 64;
    char *more = ui_grow(b->s, cap, 1);
    if (!more)
        return false;
    b->s = more;
    b->cap = cap;
    b->s[b->n] = 0;
    return true;
}

bool ui_add(struct ui_bytes *b, const char *s, size_t n)
{
    if (!ui_reserve(b, n))
        return false;
    if (n)
        memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
    return true;
}

void ui_drop(struct ui_bytes *b, size_t n)
{
    if (!n)
        return;
    memmove(b->s, b->s + n, b->n - n + 1);
    b->n -= n;
}

void ui_bytes_free(struct ui_bytes *b)
{
    free(b->s);
    *b = (struct ui_bytes){ 0 };
}

size_t ui_clean(const char *s, size_t n, char *to)
{
    size_t w = 0, len;
    for (size_t at = 0; at < n; at += len) {
        utf8proc_int32_t c;
        utf8proc_ssize_t got =
            utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &c);
        len = got > 0 ? (size_t)got : 1;
        if (s[at] == '\r' && at + 1 < n && s[at + 1] == '\n')
            continue;
        c = s[at] == '\r' ? '\n' : c;
        if (got <= 0) {
            memcpy(to + w, "\xef\xbf\xbd", 3);
            w += 3;
        } else if (c == '\n' || c == '\t') {
            to[w++] = (char)c;
        } else if (c >= 0x20 && (c < 0x7f || c >= 0xa0)) {
            memcpy(to + w, s + at, len);
            w += len;
        }
    }
    return w;
}

bool ui_is_clean(const char *s)
{
    size_t n = strlen(s);
    char *clean = ui_alloc(n + 1, 3);
    bool is = clean && ui_clean(s, n, clean) == n && memcmp(clean, s, n) == 0;
    free(clean);
    return is;
}

char *ui_joined(const char *a, const char *b)
{
    size_t n = a ? strlen(a) : 0, m = b ? strlen(b) : 0;
    char *out = ui_alloc(n + m + 3, 1);
    if (out)
        sprintf(out, "%s%s%s", n ? a : "", n && m ? "\n\n" : "", m ? b : "");
    return out;
}

bool ui_ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* ---- misspelt words -------------------------------------------------------------------------- */

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
    const char *best = NULL, *const *begin = list;
    uint32_t letters = (uint32_t)strlen(word + strspn(word, "-/"));
    uint32_t least = letters / 3 + 1; /* a longer word may have more mistakes */
    for (; *list; list++) {
        uint32_t d = distance(word, *list, least + 1);
        if (d <= least && (!best || d < least)) {
            best = *list;
            least = d;
        }
    }
    size_t n = strlen(word);
    for (; !best && n >= 2 && *begin; begin++) /* the beginning of a word is meant to be that */
        if (strncmp(*begin, word, n) == 0 && strspn(word, "-/") < n)
            best = *begin;
    return best;
}

double ui_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* To the end rather than by size: a pipe has none. What is more than `max` bytes before the end is
 * dropped on the way where `tail`, and else too much. */
static bool read_all(FILE *f, const char *path, uint64_t max, bool tail, struct ui_bytes *b,
                     struct hlm_err *err)
{
    enum { PIECE = 1 << 16 };
    for (size_t got = 1; got;) {
        if (!ui_reserve(b, PIECE))
            return ui_fail_memory(err, "%.300s: no memory to read it", path);
        got = fread(b->s + b->n, 1, PIECE, f);
        b->n += got;
        if (ferror(f))
            return ui_fail_system(err, "%.300s: %s", path, strerror(errno));
        if (b->n > max && !tail)
            return ui_fail(err, "%.300s: too large, expected at most %llu bytes", path,
                           (unsigned long long)max);
        if (b->n / 2 > max) /* seldom, so that each byte moves about once */
            ui_drop(b, (size_t)(b->n - max));
    }
    if (b->n > max)
        ui_drop(b, (size_t)(b->n - max));
    b->s[b->n] = 0;
    return true;
}

static char *read_file(const char *path, uint64_t max, bool tail, uint64_t *n, struct hlm_err *err)
{
    struct ui_bytes b = { 0 };
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f) {
        ui_fail_system(err, "%.300s: %s", path, strerror(errno));
        return NULL;
    }
    if (tail && fstat(fileno(f), &st) == 0 && st.st_size > 0 && (uint64_t)st.st_size > max)
        fseeko(f, (off_t)((uint64_t)st.st_size - max),
               SEEK_SET); /* a pipe is read from its begin */
    if (!read_all(f, path, max, tail, &b, err))
        ui_bytes_free(&b);
    fclose(f);
    *n = b.n;
    return b.s;
}

char *ui_read_file(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err)
{
    return read_file(path, max, false, n, err);
}

char *ui_read_tail(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err)
{
    return read_file(path, max, true, n, err);
}

char *ui_as_text(char *text, uint64_t *n, const char *from, struct hlm_err *err)
{
    if (!text)
        return NULL;
    bool is_text = strlen(text) == *n;
    while (*n && (text[*n - 1] == '\n' || text[*n - 1] == '\r'))
        text[--*n] = 0;
    if (is_text && *n)
        return text;
    ui_fail(err, "%.300s %s", from, is_text ? "is empty" : "holds a NUL byte: that is no text");
    free(text);
    return NULL;
}

static bool write_all(int fd, const char *s, uint64_t n)
{
    while (n) {
        ssize_t got = write(fd, s, (size_t)ui_min_u64(n, 1 << 30));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        s += got;
        n -= (uint64_t)got;
    }
    return true;
}

/* The new name is on disk only once its folder is. Not every file system can say so. */
static void sync_folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

static _Atomic(const char *) unfinished[8];

void ui_unfinished(const char *path, bool is)
{
    for (uint32_t i = 0; i < ARRAY_LEN(unfinished); i++) {
        const char *was = is ? NULL : path;
        if (atomic_compare_exchange_strong(&unfinished[i], &was, is ? path : NULL))
            return;
    }
}

void ui_drop_unfinished(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(unfinished); i++) {
        const char *path = atomic_load(&unfinished[i]);
        if (path)
            unlink(path);
    }
}

bool ui_replace_file(const char *path, unsigned mode, const void *bytes, uint64_t n,
                     struct hlm_err *err)
{
    char *real = realpath(path, NULL), *to = real ? real : ui_copy(path, strlen(path));
    size_t size = to ? strlen(to) + 32 : 0;
    char *beside = to ? ui_alloc(size, 1) : NULL;
    if (!beside) {
        free(to);
        return ui_fail_memory(err, "%.300s: no memory to write it", path);
    }
    snprintf(beside, size, "%s.%ld.part", to, (long)getpid());
    unlink(beside); /* of a process of the same number, long ended */
    ui_unfinished(beside, true);
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
    bool ok = fd >= 0 && write_all(fd, bytes, n) && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        why = errno;
        ok = false;
    }
    if (ok && rename(beside, to) != 0) {
        why = errno;
        ok = false;
    }
    if (ok)
        sync_folder_of(to);
    else if (fd >= 0)
        unlink(beside);
    ui_unfinished(beside, false);
    free(beside);
    free(to);
    return ok || ui_fail_system(err, "%.300s: cannot be written: %s", path, strerror(why));
}

/* ---- what may be replaced -------------------------------------------------------------------- */

static const struct {
    const char *a, *earlier, *begins; /* begins: what such a file begins with */
} file_kinds[] = {
    [FILE_TALK] = { "a saved conversation", "an earlier conversation", "hlmstate" },
    [FILE_TALK_JSON] = { "a conversation exported as JSON", "an earlier export", "{" },
    [FILE_TALK_TEXT] = { "a conversation exported as Markdown", "an earlier export", UI_TALK_MARK },
    [FILE_MODEL] = { "a model", "an earlier model", "GGUF" },
    [FILE_ADAPTER] = { "an adapter", "an earlier adapter", "GGUF" },
    [FILE_EXPORT] = { "an empty folder", "an empty folder", "" },
    [FILE_EVENTS] = { "a log of hlm", "an earlier log", "{\"event\":" },
    [FILE_ROWS] = { "a file of training rows", "earlier training rows",
                    "{\"version\": 2, \"case\":" },
    [FILE_PLOT] = { "a picture that hlm-tune drew", "an earlier picture", "\x89PNG\r\n" },
    [FILE_FIGURES] = { "a file of figures", "earlier figures", UI_FIGURES_MARK },
};

bool ui_exists(const char *path) { return access(path, F_OK) == 0; }

const char *ui_kind_name(enum file_kind kind) { return file_kinds[kind].earlier; }

bool ui_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool ui_begins_with(const char *path, const char *what)
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

/* The mark stands after the signature, the header, and its own length. */
static bool has_plot_mark(const char *path)
{
    enum { AT = 8 + 25 + 4 };
    char begin[AT + sizeof UI_PLOT_MARK - 1];
    FILE *f = fopen(path, "rb");
    bool is = f && fread(begin, 1, sizeof begin, f) == sizeof begin &&
              memcmp(begin + AT, UI_PLOT_MARK, sizeof begin - AT) == 0;
    if (f)
        fclose(f);
    return is;
}

static bool is_empty(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && st.st_size == 0;
}

static bool is_kind(const char *path, enum file_kind kind)
{
    if (is_empty(path)) /* nothing can be lost */
        return true;
    if (!ui_begins_with(path, file_kinds[kind].begins))
        return false;
    switch (kind) {
    case FILE_MODEL: return !is_adapter(path);
    case FILE_ADAPTER: return is_adapter(path);
    case FILE_TALK_JSON: return has_messages(path);
    case FILE_PLOT: return has_plot_mark(path);
    default: return true;
    }
}

static bool is_empty_folder(const char *path)
{
    DIR *d = opendir(path);
    uint32_t n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (d)
        closedir(d);
    return d && !n;
}

bool ui_may_replace(const char *path, enum file_kind kind, bool *replaces, struct hlm_err *err)
{
    struct stat st;
    bool is_there = stat(path, &st) == 0;
    if (!is_there && errno != ENOENT)
        return ui_fail_system(err, "%.300s: %s", path, strerror(errno));
    if (is_there && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && kind == FILE_EVENTS)
        is_there = false;
    if (is_there && kind == FILE_EXPORT && is_empty_folder(path))
        is_there = false;
    if (is_there && kind == FILE_EXPORT)
        return ui_fail(err, "%.300s: is there already, expected a new or an empty folder", path);
    if (is_there && !S_ISREG(st.st_mode))
        return ui_fail(err, "%.300s: is no ordinary file", path);
    if (is_there && !is_kind(path, kind))
        return ui_fail(err, "%.300s: is there already and is not %s: it would be lost", path,
                       file_kinds[kind].a);
    if (replaces)
        *replaces = is_there;
    return true;
}
