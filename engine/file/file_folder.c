/* file_folder: writes, lists and removes folders, as file.h describes it. */
#define _POSIX_C_SOURCE 200809L
#include "file/file_parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *folder_path(const char *folder, const char *name)
{
    size_t n = strlen(folder), size = n + strlen(name) + 2;
    char *path = mem_alloc(size, 1);
    if (path)
        snprintf(path, size, "%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", name);
    return path;
}

bool folder_is(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool folder_make(const char *path, struct hlm_err *err)
{
    if (folder_is(path))
        return true;
    if (file_is_faulty() || mkdir(path, 0777))
        return fail_system(err, "%.300s: cannot make the folder: %s", path, strerror(errno));
    char *copy = folder_path(path, ".."); /* syncing the parent folder brings the name to disk */
    if (copy)
        file_sync_folder(copy);
    free(copy);
    return true;
}

bool folder_each(const char *path, void (*fn)(void *user, const char *name), void *user,
                 struct hlm_err *err)
{
    DIR *d = opendir(path);
    if (!d)
        return fail_system(err, "%.300s: %s", path, strerror(errno));
    for (const struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            fn(user, e->d_name);
    closedir(d);
    return true;
}

/* ---- removing -------------------------------------------------------------------------------- */

static void remove_file(void *user, const char *name)
{
    char *path = folder_path(user, name);
    if (path && !file_is_faulty())
        unlink(path);
    free(path);
}

static bool empty_and_remove(char *path)
{
    folder_each(path, remove_file, path, NULL);
    return !file_is_faulty() && rmdir(path) == 0;
}

bool folder_remove(const char *path)
{
    size_t n = strlen(path), size = n + 48;
    char *tmp = mem_alloc(size, 1);
    bool ok = tmp != NULL;
    if (ok && n > 4 && !strcmp(path + n - 4, ".tmp")) {
        memcpy(tmp, path, n);
    } else if (ok) {
        snprintf(tmp, size, "%s.%ld-old.tmp", path, (long)getpid());
        ok = !file_is_faulty() && rename(path, tmp) == 0;
    }
    ok = ok && empty_and_remove(tmp);
    free(tmp);
    return ok;
}

/* ---- making ---------------------------------------------------------------------------------- */

static void folder_out_finish(struct folder_out *f)
{
    free(f->tmp);
    free(f->path);
    *f = (struct folder_out){ 0 };
}

bool folder_begin(struct folder_out *f, const char *path, struct hlm_err *err)
{
    size_t n = strlen(path) + 1, size = n + 48;
    *f = (struct folder_out){ mem_alloc(size, 1), mem_alloc(n, 1) };
    if (!f->tmp || !f->path) {
        folder_out_finish(f);
        return fail_memory(err, "%.300s: no memory to write it", path);
    }
    memcpy(f->path, path, n);
    bool ok = !file_is_faulty();
    int e = ok ? EEXIST : errno;
    for (int i = 0; ok && e == EEXIST && i < 100; i++) { /* a killed run may have left a folder */
        snprintf(f->tmp, size, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        e = mkdir(f->tmp, 0777) ? errno : 0;
    }
    if (e) {
        folder_out_finish(f);
        return fail_system(err, "%.300s: cannot make the folder: %s", path, strerror(e));
    }
    return true;
}

bool folder_end(struct folder_out *f, struct hlm_err *err)
{
    file_sync_folder(f->tmp);
    if (file_is_faulty() || rename(f->tmp, f->path)) {
        fail_system(err, "%.300s: cannot rename it into place: %s", f->path, strerror(errno));
        folder_drop(f);
        return false;
    }
    file_sync_folder_of(f->path);
    folder_out_finish(f);
    return true;
}

void folder_drop(struct folder_out *f)
{
    if (f->tmp)
        empty_and_remove(f->tmp);
    folder_out_finish(f);
}
