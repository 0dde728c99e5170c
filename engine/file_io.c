/* file_io: the small-file helpers of file.h, for files that hlm writes or reads whole. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool write_all(int fd, const uint8_t *p, uint64_t n)
{
    while (n) {
        ssize_t k = write(fd, p, (size_t)min_u64(n, 1u << 30));
        if (k < 0 && errno != EINTR)
            return false;
        if (k > 0) {
            p += k;
            n -= (uint64_t)k;
        }
    }
    return true;
}

/* Opens a new file beside path and leaves its name in tmp. */
static int open_beside(const char *path, char *tmp, size_t size)
{
    int fd = -1;
    errno = EEXIST;
    for (int i = 0; fd < 0 && errno == EEXIST && i < 100; i++) { /* a killed run leaves one */
        snprintf(tmp, size, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    return fd;
}

/* A rename is on disk once its folder is. Some file systems cannot sync a folder: not an error. */
static void sync_folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int fd = open(slash ? path : ".", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

bool file_write_atomic(const char *path, const void *bytes, uint64_t n, struct err *err)
{
    size_t size = strlen(path) + 48;
    char *tmp = mem_alloc(size, 1);
    if (!tmp)
        return fail(err, "%.300s: no memory to write it", path);
    int fd = open_beside(path, tmp, size), why = 0;
    if (fd < 0)
        why = errno;
    else if (!write_all(fd, bytes, n) || fsync(fd))
        why = errno;
    if (fd >= 0 && close(fd) && !why)
        why = errno;
    if (!why && rename(tmp, path))
        why = errno;
    if (!why)
        sync_folder_of(tmp);
    else if (fd >= 0)
        unlink(tmp);
    free(tmp);
    return !why || fail(err, "%.300s: cannot write: %s", path, strerror(why));
}

char *file_read(const char *path, uint64_t max, uint64_t *n, struct err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        fail(err, "%.300s: %s", path, strerror(errno));
        return NULL;
    }
    char *buf = NULL;
    uint64_t len = 0, room = 0;
    size_t k = 1;
    bool ok = true;
    while (ok && k && len <= max) { /* to the end rather than by size: a pipe has none */
        if (len == room) {
            room = room ? 2 * room : 1 << 16;
            char *grown = mem_grow(buf, room + 1, 1);
            if (!grown) {
                ok = fail(err, "%.300s: no memory to read it", path);
                break;
            }
            buf = grown;
        }
        k = fread(buf + len, 1, (size_t)(room - len), f);
        len += k;
        if (ferror(f))
            ok = fail(err, "%.300s: %s", path, strerror(errno));
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
