/* source_log: a run from a --log-json file, also one that still grows. */
#define _POSIX_C_SOURCE 200809L
#include "monitor/source.h"
#include "ui/common_base.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_LINE = 4 << 20, PIECE = 1 << 16, PER_POLL = 4 << 20 };
#define OLD_S 60 /* a file without an end that has not been written to for this long */

struct log_source {
    char *path;
    struct run *run;
    int fd;
    dev_t dev;
    ino_t ino;
    uint64_t at; /* bytes read */
    char *line;  /* [n_line of room] the beginning of one that has no end yet */
    uint64_t n_line, room;
    bool too_long; /* the line is longer than any of hlm's: it is left out up to its end */
};

static bool open_file(struct log_source *s, struct hlm_err *err)
{
    struct stat st;
    s->fd = open(s->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (s->fd < 0 || fstat(s->fd, &st) != 0)
        return ui_fail_system(err, "%.300s: %s", s->path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return ui_fail(err, "%.300s: no ordinary file, expected one of --log-json", s->path);
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    s->at = s->n_line = 0;
    s->too_long = false;
    return true;
}

static bool reserve(struct log_source *s, uint64_t n)
{
    if (n <= s->room)
        return true;
    char *p = ui_grow(s->line, 2 * n, 1);
    if (p) {
        s->line = p;
        s->room = 2 * n;
    }
    return p != NULL;
}

static void end_line(struct log_source *s)
{
    if (s->too_long)
        run_take_line(s->run, "", 0); /* counts as one that was not understood */
    else if (s->n_line)
        run_take_line(s->run, s->line, s->n_line);
    s->too_long = false;
    s->n_line = 0;
}

static void take_bytes(struct log_source *s, const char *p, uint64_t n)
{
    while (n) {
        const char *end = memchr(p, '\n', (size_t)n);
        uint64_t len = end ? (uint64_t)(end - p) : n;
        s->too_long |=
            len > MAX_LINE - ui_min_u64(s->n_line, MAX_LINE) || !reserve(s, s->n_line + len + 1);
        if (!s->too_long && len) {
            memcpy(s->line + s->n_line, p, (size_t)len);
            s->n_line += len;
        }
        if (end)
            end_line(s);
        len += end != NULL;
        p += len;
        n -= len;
    }
}

/* Reads at most PER_POLL bytes. True: it was not all. */
static bool read_on(struct log_source *s)
{
    char piece[PIECE];
    for (uint64_t sum = 0; sum < PER_POLL;) {
        ssize_t n = pread(s->fd, piece, sizeof piece, (off_t)s->at);
        if (n <= 0)
            return false;
        s->at += (uint64_t)n;
        sum += (uint64_t)n;
        take_bytes(s, piece, (uint64_t)n);
    }
    return true;
}

struct log_source *log_source_open(const char *path, struct run *r, struct hlm_err *err)
{
    struct log_source *s = ui_alloc(1, sizeof *s);
    if (s)
        s->fd = -1;
    if (!s || !(s->path = ui_copy(path, strlen(path)))) {
        ui_fail_memory(err, "%.300s: out of memory", path);
        log_source_close(s);
        return NULL;
    }
    s->run = r;
    run_is_log(r, path);
    bool ok = open_file(s, err);
    if (ok) {
        read_on(s);
        ok = !r->n_skipped || r->n_sample ||
             ui_fail(err, "%.300s: %llu lines and no event, expected a file of --log-json", path,
                     (unsigned long long)r->n_skipped);
    }
    if (!ok) {
        log_source_close(s);
        return NULL;
    }
    return s;
}

/* Is another file by that name now, or is the file shorter than it was? */
static bool is_anew(const struct log_source *s)
{
    struct stat st;
    return stat(s->path, &st) == 0 && S_ISREG(st.st_mode) &&
           (st.st_dev != s->dev || st.st_ino != s->ino || (uint64_t)st.st_size < s->at);
}

static void begin_anew(struct log_source *s)
{
    if (s->fd >= 0)
        close(s->fd);
    run_reset(s->run);
    run_is_log(s->run, s->path);
    if (!open_file(s, NULL) && s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
}

/* A log without an end: does its process live, or, where it does not say which, was it written to
 * a moment ago? */
static bool lives(const struct log_source *s)
{
    struct stat st;
    if (s->run->pid && kill((pid_t)s->run->pid, 0) != 0 && errno == ESRCH)
        return false;
    return s->run->pid || (fstat(s->fd, &st) == 0 && time(NULL) - st.st_mtime < OLD_S);
}

bool log_source_poll(struct log_source *s)
{
    struct run *r = s->run;
    if (is_anew(s))
        begin_anew(s);
    if (s->fd >= 0 && read_on(s))
        return true;
    if (s->fd < 0 || r->exit_code >= 0) /* it has said how it ended */
        return false;
    enum run_life life = lives(s) ? RUN_ALIVE : r->pid ? RUN_DIED : RUN_ENDED;
    if (life != r->life)
        run_end(r, life);
    return false;
}

void log_source_close(struct log_source *s)
{
    if (s && s->fd >= 0)
        close(s->fd);
    if (s) {
        free(s->path);
        free(s->line);
    }
    free(s);
}
