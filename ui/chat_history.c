/* chat_history: see chat_history.h. */
#define _DEFAULT_SOURCE /* flock */
#include "chat_history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ENTRY = 1000, MAX_FILE = 16 << 20 };
static const char first_line[] = "_HiStOrY_V2_\n";

/* ---- lines of the file ----------------------------------------------------------------------- */

/* A message as a line with its end; the caller frees it. */
static char *encode(const char *s, size_t *n)
{
    char *out = ui_alloc(strlen(s) + 1, 4);
    size_t w = 0;
    for (; out && *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c <= ' ' || c == 0x7f)
            w += (size_t)sprintf(out + w, "\\%03o", c);
        else if (c == '\\')
            w += (size_t)sprintf(out + w, "\\\\");
        else
            out[w++] = *s;
    }
    if (out)
        out[w++] = '\n';
    *n = w;
    return out;
}

static unsigned octal(const char *s)
{
    unsigned v = 0;
    for (int i = 0; i < 3; i++) {
        if (s[i] < '0' || s[i] > '7')
            return 256;
        v = v * 8 + (unsigned)(s[i] - '0');
    }
    return v;
}

/* Undoes vis(3): \ooo, \\, \s, \t, \n, \^C, \M-c and \M^C. In place. */
static void decode(char *s)
{
    char *w = s;
    while (*s) {
        unsigned v = *s == '\\' ? octal(s + 1) : 256;
        if (v < 256) {
            *w++ = (char)v;
            s += 4;
        } else if (s[0] == '\\' && s[1] == 'M' && s[2] == '-' && s[3]) {
            *w++ = (char)(s[3] | 0x80);
            s += 4;
        } else if (s[0] == '\\' && s[1] == 'M' && s[2] == '^' && s[3]) {
            *w++ = (char)((s[3] & 0x1f) | 0x80);
            s += 4;
        } else if (s[0] == '\\' && s[1] == '^' && s[2]) {
            *w++ = (char)(s[2] & 0x1f);
            s += 3;
        } else if (s[0] == '\\' && s[1]) {
            *w++ = (char)(s[1] == 's' ? ' ' : s[1] == 't' ? '\t' : s[1] == 'n' ? '\n' : s[1]);
            s += 2;
        } else {
            *w++ = *s++;
        }
    }
    *w = 0;
}

/* ---- in memory ------------------------------------------------------------------------------- */

static bool keep(struct history *h, const char *text)
{
    if (!*text || (h->n && strcmp(h->entry[h->n - 1], text) == 0))
        return true;
    if (h->n == h->cap) {
        uint32_t cap = h->cap ? 2 * h->cap : 256;
        char **more = ui_grow(h->entry, cap, sizeof *more);
        if (!more)
            return false;
        h->entry = more;
        h->cap = cap;
    }
    char *copy = ui_copy(text, strlen(text));
    if (copy)
        h->entry[h->n++] = copy;
    return copy != NULL;
}

void history_free(struct history *h)
{
    for (uint32_t i = 0; i < h->n; i++)
        free(h->entry[i]);
    free(h->entry);
    *h = (struct history){ 0 };
}

uint32_t history_find(const struct history *h, const char *text, uint32_t from, int step)
{
    for (uint32_t i = step < 0 ? from - 1 : from; i < h->n; i += (uint32_t)step)
        if (strstr(h->entry[i], text))
            return i;
    return h->n;
}

/* ---- the file -------------------------------------------------------------------------------- */

/* Opens the file to append, with the lock, where the file system has locks. -1: errno says why. */
static int open_locked(const char *path)
{
    for (;;) {
        struct stat mine, there;
        int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return -1;
        while (flock(fd, LOCK_EX) != 0 && errno == EINTR)
            ;
        if (fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_ino == there.st_ino &&
            mine.st_dev == there.st_dev)
            return fd;
        close(fd); /* while this one waited, another program has put a shorter file in its place */
    }
}

/* Adds the entry as a line of the file; to a file that is new, after the first line. */
static bool add_line(struct ui_bytes *to, bool is_new, const char *text)
{
    size_t n;
    char *line = encode(text, &n);
    bool ok =
        line && (!is_new || ui_add(to, first_line, sizeof first_line - 1)) && ui_add(to, line, n);
    free(line);
    return ok;
}

/* One write, as far as the system can: a reader under the lock sees whole lines. */
static bool append(int fd, const char *text)
{
    struct ui_bytes b = { 0 };
    struct stat st;
    bool ok = fstat(fd, &st) == 0 && add_line(&b, st.st_size == 0, text);
    for (size_t at = 0; ok && at < b.n;) {
        ssize_t got = write(fd, b.s + at, b.n - at);
        ok = got > 0 || (got < 0 && errno == EINTR);
        at += got > 0 ? (size_t)got : 0;
    }
    ui_bytes_free(&b);
    return ok;
}

/* Puts a file of the newest entries in the place of the one that is locked. */
static bool shorten(const struct history *h)
{
    struct ui_bytes b = { 0 };
    bool ok = true;
    for (uint32_t i = h->n > MAX_ENTRY ? h->n - MAX_ENTRY : 0; ok && i < h->n; i++)
        ok = add_line(&b, b.n == 0, h->entry[i]);
    ok = ok && b.n && ui_replace_file(h->path, 0600, b.s, b.n, NULL);
    ui_bytes_free(&b);
    return ok;
}

/* The first line and, of files that libedit cut to nothing, not even that. */
static bool is_history(int fd, uint64_t size)
{
    char begin[sizeof first_line - 1];
    return size == 0 || (pread(fd, begin, sizeof begin, 0) == (ssize_t)sizeof begin &&
                         memcmp(begin, first_line, sizeof begin) == 0);
}

/* The lines after the first one, which may be the rest of a line. */
static void read_entries(struct history *h, char *text, size_t n)
{
    char *line = memchr(text, '\n', n);
    for (char *end; line && *line && *++line; line = end) {
        end = line + strcspn(line, "\n");
        bool more = *end != 0;
        *end = 0;
        decode(line);
        keep(h, line);
        if (!more)
            break;
        *end = '\n';
    }
}

bool history_open(struct history *h, const char *path, struct hlm_err *err)
{
    uint64_t n = 0;
    struct stat st = { 0 };
    *h = (struct history){ .path = path };
    int fd = open_locked(path);
    if (fd < 0) {
        h->path = NULL;
        return ui_fail_system(err, "%.300s: %s", path, strerror(errno));
    }
    fstat(fd, &st);
    char *text = NULL;
    if (!is_history(fd, (uint64_t)st.st_size))
        ui_fail(err, "%.300s: is no history of hlm-chat, expected it to begin with %.12s", path,
                first_line);
    else
        text = ui_read_tail(path, MAX_FILE, &n, err);
    bool ok = text != NULL;
    if (ok) {
        read_entries(h, text, (size_t)n);
        fchmod(fd, 0600);
        if (h->n > 2 * MAX_ENTRY || st.st_size > MAX_FILE)
            shorten(h);
    } else {
        h->path = NULL;
    }
    free(text);
    close(fd);
    return ok;
}

bool history_add(struct history *h, const char *text, struct hlm_err *err)
{
    uint32_t n = h->n;
    if (!keep(h, text))
        return ui_fail_memory(err, "out of memory for the history");
    if (h->n == n || !h->path)
        return true;
    int fd = open_locked(h->path);
    bool ok = fd >= 0 && append(fd, text);
    if (!ok)
        ui_fail_system(err, "%.300s: %s", h->path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}
