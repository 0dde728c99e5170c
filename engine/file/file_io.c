/* file_io: writes and reads ordinary files, as file.h describes it. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "file/file_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- writing --------------------------------------------------------------------------------- */

enum { OUT_BYTES = 1 << 18 };

struct file_out {
    char *path, *tmp;
    int fd, why; /* why: errno of the first failure; it sticks */
    uint32_t n;
    uint8_t buf[OUT_BYTES];
};

/* For tests: at the nth call from now the disk is full or the process is killed. */
static struct {
    uint32_t nth;
    bool torn, kill;
} fault;

void file_test_fault(uint32_t nth, bool torn)
{
    fault.nth = nth;
    fault.torn = torn;
    fault.kill = false;
}

void file_test_kill(uint32_t nth)
{
    fault.nth = nth;
    fault.torn = fault.kill = true;
}

uint32_t file_test_left(void) { return fault.nth; }

static bool fault_is_due(void) { return fault.nth && !--fault.nth; }

bool file_is_faulty(void)
{
    if (!fault_is_due())
        return false;
    if (fault.kill)
        raise(SIGKILL);
    errno = ENOSPC;
    return true;
}

static bool write_fully(int fd, const uint8_t *p, uint64_t n)
{
    bool faulty = fault_is_due();
    if (faulty)
        n = fault.torn ? n / 2 : 0;
    while (n) {
        ssize_t k = write(fd, p, (size_t)min_u64(n, 1u << 30));
        if (k < 0 && errno != EINTR)
            return false;
        if (k > 0) {
            p += k;
            n -= (uint64_t)k;
        }
    }
    if (faulty && fault.kill)
        raise(SIGKILL);
    if (faulty)
        errno = ENOSPC;
    return !faulty;
}

/* Creates a temporary file beside path and writes its name to tmp. */
static int open_beside(const char *path, char *tmp, size_t size)
{
    int fd = -1;
    if (file_is_faulty())
        return -1;
    errno = EEXIST;
    for (int i = 0; fd < 0 && errno == EEXIST && i < 100; i++) { /* a killed run may leave one */
        snprintf(tmp, size, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    return fd;
}

void file_sync_folder(const char *path)
{
    if (fault.kill)
        file_is_faulty();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

void file_sync_folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    file_sync_folder(slash ? path : ".");
}

/* The temporary files that exist; those beyond are not removed by hlm_drop_unfinished. */
static _Atomic(char *) unfinished[8];

static void set_unfinished(char *was, char *is)
{
    for (uint32_t i = 0; i < ARRAY_LEN(unfinished); i++) {
        char *expected = was;
        if (atomic_compare_exchange_strong(&unfinished[i], &expected, is))
            return;
    }
}

void hlm_drop_unfinished(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(unfinished); i++) {
        const char *tmp = atomic_load(&unfinished[i]);
        if (tmp)
            unlink(tmp);
    }
}

static void out_free(struct file_out *f)
{
    set_unfinished(f->tmp, NULL);
    free(f->path);
    free(f->tmp);
    free(f);
}

bool file_may_write(const char *path, struct hlm_err *err)
{
    struct stat st;
    return stat(path, &st) != 0 || S_ISREG(st.st_mode) ||
           fail(err, "%.300s: cannot write: it is not an ordinary file", path);
}

bool file_same(const char *a, const char *b)
{
    struct stat x, y;
    return !strcmp(a, b) ||
           (!stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

struct file_out *file_out_begin(const char *path, struct hlm_err *err)
{
    if (!file_may_write(path, err))
        return NULL;
    struct file_out *f = mem_alloc(1, sizeof *f);
    size_t n = strlen(path) + 1, size = n + 48;
    if (f) {
        f->path = mem_alloc(n, 1);
        f->tmp = mem_alloc(size, 1);
    }
    if (!f || !f->path || !f->tmp) {
        fail_memory(err, "%.300s: no memory to write it", path);
        if (f)
            out_free(f);
        return NULL;
    }
    memcpy(f->path, path, n);
    f->fd = open_beside(path, f->tmp, size);
    if (f->fd < 0) {
        fail_system(err, "%.300s: cannot write: %s", path, strerror(errno));
        out_free(f);
        return NULL;
    }
    set_unfinished(NULL, f->tmp);
    return f;
}

static void out_flush_bytes(struct file_out *f, const uint8_t *p, uint64_t n)
{
    if (n && !f->why && !write_fully(f->fd, p, n))
        f->why = errno;
}

static bool out_failed(const struct file_out *f, struct hlm_err *err)
{
    return f->why && !fail_system(err, "%.300s: cannot write: %s", f->path, strerror(f->why));
}

bool file_out_put(struct file_out *f, const void *bytes, uint64_t n, struct hlm_err *err)
{
    if (n > OUT_BYTES - f->n) {
        out_flush_bytes(f, f->buf, f->n);
        f->n = 0;
    }
    if (n > OUT_BYTES) {
        out_flush_bytes(f, bytes, n);
    } else if (n) {
        memcpy(f->buf + f->n, bytes, n);
        f->n += (uint32_t)n;
    }
    return !out_failed(f, err);
}

const char *file_out_flush(struct file_out *f, struct hlm_err *err)
{
    out_flush_bytes(f, f->buf, f->n);
    f->n = 0;
    return out_failed(f, err) ? NULL : f->tmp;
}

bool file_out_end(struct file_out *f, struct hlm_err *err)
{
    out_flush_bytes(f, f->buf, f->n);
    if (!f->why && (file_is_faulty() || fsync(f->fd)))
        f->why = errno;
    bool faulty = !f->why && file_is_faulty();
    if ((close(f->fd) || faulty) && !f->why)
        f->why = faulty ? ENOSPC : errno;
    if (!f->why && (file_is_faulty() || rename(f->tmp, f->path)))
        f->why = errno;
    if (!f->why)
        file_sync_folder_of(f->tmp);
    else
        unlink(f->tmp);
    bool ok = !out_failed(f, err);
    out_free(f);
    return ok;
}

void file_out_drop(struct file_out *f)
{
    if (!f)
        return;
    close(f->fd);
    unlink(f->tmp);
    out_free(f);
}

bool file_write_atomic(const char *path, const void *bytes, uint64_t n, struct hlm_err *err)
{
    struct file_out *f = file_out_begin(path, err);
    if (!f)
        return false;
    file_out_put(f, bytes, n, NULL);
    return file_out_end(f, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

bool file_in_open(struct file_in *f, const char *path, struct hlm_err *err)
{
    struct stat st;
    *f = (struct file_in){ .path = path, .fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) };
    if (f->fd < 0 || fstat(f->fd, &st)) {
        fail_system(err, "%.300s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        fail(err, "%.300s: is not an ordinary file", path);
    } else {
        f->bytes = (uint64_t)st.st_size;
        return true;
    }
    file_in_close(f);
    return false;
}

bool file_in_read(const struct file_in *f, uint64_t at, void *to, uint64_t n, struct hlm_err *err)
{
    uint8_t *p = to;
    if (at > f->bytes || n > f->bytes - at)
        return fail(err,
                    "%.300s: ends after %" PRIu64 " bytes, expected %" PRIu64 " bytes at %" PRIu64,
                    f->path, f->bytes, n, at);
    if (f->mem) {
        memcpy(to, f->mem + at, n);
        return true;
    }
    while (n) {
        ssize_t k = pread(f->fd, p, (size_t)min_u64(n, 1u << 30), (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return fail_system(err, "%.300s: %s", f->path, strerror(errno));
        if (k == 0)
            return fail_system(err, "%.300s: became shorter while it was being read", f->path);
        p += k;
        at += (uint64_t)k;
        n -= (uint64_t)k;
    }
    return true;
}

void file_in_close(struct file_in *f)
{
    if (!f->mem && f->path && f->fd >= 0)
        close(f->fd);
    *f = (struct file_in){ .fd = -1 };
}

char *file_read(const char *path, uint64_t max, uint64_t *n, struct hlm_err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fail_system(err, "%.300s: %s", path, strerror(errno));
        return NULL;
    }
    char *buf = NULL;
    uint64_t len = 0, cap = 0;
    size_t k = 1;
    bool ok = true;
    while (ok && k && len <= max) { /* until the end, since a pipe has no size */
        if (!mem_reserve(&buf, len + (1 << 15), &cap, 1)) {
            ok = fail_memory(err, "%.300s: no memory to read it", path);
            break;
        }
        k = fread(buf + len, 1, (size_t)(cap - 1 - len), f);
        len += k;
        if (ferror(f))
            ok = fail_system(err, "%.300s: %s", path, strerror(errno));
    }
    fclose(f);
    if (ok && len > max)
        ok = fail(err, "%.300s: too large, expected at most %" PRIu64 " bytes", path, max);
    if (!ok) {
        free(buf);
        return NULL;
    }
    buf[len] = 0;
    *n = len;
    return buf;
}
