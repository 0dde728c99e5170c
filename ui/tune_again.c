/* tune_again: keeps the flags of a run in run.json beside its checkpoints, so that resuming it
 * needs no flags. See tune_run.h. */
#define _POSIX_C_SOURCE 200809L
#include "tune_run.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* "FOLDER/run.json" in new memory. */
static char *file_in(const char *folder)
{
    size_t n = strlen(folder) + 12;
    char *path = ui_alloc(n, 1);
    if (path)
        snprintf(path, n, "%s/run.json", folder);
    return path;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Is it a flag of a run: one of the program's own, and not for one call? */
static bool is_of_the_run(const struct program *p, const struct flag *f)
{
    bool own = f >= p->flag && f < p->flag + p->n_flag;
    bool once = (f->type == FLAG_TEXT || f->type == FLAG_SWITCH) && f->min > 0;
    return own && !once && f->type != FLAG_GROUP;
}

static bool is_path(const struct flag *f)
{
    return f->arg && (strstr(f->arg, "FILE") || strstr(f->arg, "DIR"));
}

/* The absolute path in new memory, so that the run can be resumed from any folder. The file need
 * not exist. */
static char *from_root(const char *path)
{
    char *cwd = path[0] == '/' ? NULL : getcwd(NULL, 0);
    size_t n = strlen(path) + (cwd ? strlen(cwd) : 0) + 2;
    char *out = ui_alloc(n, 1);
    if (out)
        snprintf(out, n, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", path);
    free(cwd);
    return out;
}

struct list {
    const struct program *program;
    json_t *flags;
};

static bool keep_flag(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    struct list *l = user;
    if (!is_of_the_run(l->program, f))
        return true;
    char *path = value && is_path(f) ? from_root(value) : NULL;
    bool ok = !value || !is_path(f) || path;
    ok = ok && json_array_append_new(l->flags, json_string(who)) == 0 &&
         (!value || json_array_append_new(l->flags, json_string(path ? path : value)) == 0);
    free(path);
    return ok ||
           ui_fail_memory(err, "out of memory for the flags of a run, or not UTF-8: %.64s", who);
}

/* The old file stays until the new one is whole. */
static bool replace_file(const json_t *root, const char *path, struct hlm_err *err)
{
    size_t n = strlen(path) + 8;
    char *part = ui_alloc(n, 1);
    if (!part)
        return ui_fail_memory(err, "%.300s: no memory to write it", path);
    snprintf(part, n, "%s.part", path);
    bool ok = json_dump_file(root, part, JSON_INDENT(1)) == 0 && rename(part, path) == 0;
    if (!ok) {
        ui_fail_system(err, "%.300s: cannot write: %s", path, strerror(errno));
        unlink(part);
    }
    free(part);
    return ok;
}

bool again_write(const char *folder, const struct again *a, const struct program *p, bool finished,
                 struct hlm_err *err)
{
    struct list l = { p, json_array() };
    json_t *root = NULL;
    char *path = file_in(folder);
    bool ok = l.flags && path ? flags_each(p, a->argc, a->argv, keep_flag, &l, err)
                              : ui_fail_memory(err, "out of memory for the flags of a run");
    if (ok)
        root = json_pack("{s:i, s:s, s:O, s:b}", "version", 1, "program", "hlm-tune", "flags",
                         l.flags, "finished", (int)finished);
    if (ok && !root)
        ok = ui_fail_memory(err, "out of memory for the flags of a run");
    ok = ok && replace_file(root, path, err);
    json_decref(root);
    json_decref(l.flags);
    free(path);
    return ok;
}

struct note {
    const struct program *program;
    char *out;
    size_t n, room;
};

static bool note_flag(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    struct note *t = user;
    (void)err;
    if (is_path(f) || !is_of_the_run(t->program, f) || f->type == FLAG_LIST)
        return true; /* texts of --sample are no setting */
    int n = snprintf(t->out + t->n, t->room - t->n, "%s%s%s%s", t->n ? " " : "", who,
                     value ? " " : "", value ? value : "");
    t->n = n > 0 && t->n + (size_t)n < t->room ? t->n + (size_t)n : t->n;
    t->out[t->n] = 0; /* what does not fit is left out */
    return true;
}

void again_note(const struct again *a, const struct program *p, char *out, size_t room)
{
    struct note t = { .program = p, .out = out, .room = room };
    t.n = (size_t)snprintf(out, room, "%s", ui_day().s);
    flags_each(p, a->argc, a->argv, note_flag, &t, NULL);
}

void again_remove(const char *folder)
{
    char *path = file_in(folder);
    if (path)
        unlink(path);
    free(path);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Is it a checkpoint, FOLDER/step-N? */
static bool is_step_folder(const char *path)
{
    size_t end = strlen(path), at;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (at = end; at > 0 && path[at - 1] != '/';)
        at--;
    return end - at > 5 && !strncmp(path + at, "step-", 5) &&
           strspn(path + at + 5, "0123456789") == end - at - 5;
}

/* Loads FOLDER/run.json, where the path is FOLDER or FOLDER/step-N. NULL without an error when
 * there is none. */
static json_t *load(const char *folder, char **path, struct hlm_err *err)
{
    json_error_t why;
    for (uint32_t up = 0; up < 1u + is_step_folder(folder); up++) {
        size_t n = strlen(folder) + 4;
        char *at = ui_alloc(n, 1);
        if (at)
            snprintf(at, n, "%s%s", folder, up ? "/.." : "");
        free(*path);
        *path = at ? file_in(at) : NULL;
        free(at);
        if (!*path) {
            ui_fail_memory(err, "out of memory for the name of a file");
            return NULL;
        }
        if (access(*path, F_OK) != 0)
            continue;
        json_t *root = json_load_file(*path, JSON_REJECT_DUPLICATES, &why);
        if (!root)
            ui_fail(err, "%.300s: line %d: %.160s", *path, why.line, why.text);
        return root;
    }
    return NULL;
}

static bool check(const json_t *root, const char *path, struct hlm_err *err)
{
    const json_t *flags = json_object_get(root, "flags"), *f;
    size_t i;
    const char *program = json_string_value(json_object_get(root, "program"));
    if (!program || strcmp(program, "hlm-tune"))
        return ui_fail(err, "%.300s: is of %.40s, expected a run of hlm-tune", path,
                       program ? program : "no program");
    if (json_integer_value(json_object_get(root, "version")) != 1 || !json_is_array(flags) ||
        json_array_size(flags) > 1000)
        return ui_fail(err, "%.300s: expected version 1 and a list of flags", path);
    json_array_foreach(flags, i, f) if (!json_is_string(f)) return ui_fail(
        err, "%.300s: flag %zu is not a string", path, i + 1);
    return true;
}

/* Two command lines of which one is made. */
struct joining {
    struct again *a;
    char **word; /* of the run's line; word 0 is no flag */
    int at;      /* the next of its words */
    const struct flag *list[8];
    uint32_t n_list; /* flags that may be repeated, and that this call has */
};

static bool mark_list(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    struct joining *j = user;
    (void)who, (void)value, (void)err;
    if (f->type == FLAG_LIST && j->n_list < ARRAY_LEN(j->list))
        j->list[j->n_list++] = f;
    return true;
}

/* Takes a flag of the run, with the words that it has there. */
static bool take_kept(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    struct joining *j = user;
    int n = value && j->word[j->at + 1] == value ? 2 : 1;
    bool again = false;
    (void)who, (void)err;
    for (uint32_t i = 0; i < j->n_list; i++)
        again = again || j->list[i] == f;
    for (int i = 0; i < n && !again; i++)
        j->a->argv[j->a->argc++] = j->word[j->at + i];
    j->at += n;
    return true;
}

/* The flags of the run and then those of this call; a repeated one replaces what the run has. */
static bool join(const struct program *p, const json_t *flags, int argc, char **argv,
                 struct again *a, struct hlm_err *err)
{
    size_t n = json_array_size(flags);
    struct joining j = { .a = a, .at = 1, .word = ui_alloc(n + 2, sizeof *j.word) };
    a->argv = ui_alloc((size_t)argc + n + 1, sizeof *a->argv);
    bool ok = (a->argv && j.word) || ui_fail_memory(err, "out of memory for the flags of a run");
    for (size_t i = 0; ok && i < n; i++)
        j.word[1 + i] = (char *)json_string_value(json_array_get(flags, i));
    if (ok) {
        a->argv[a->argc++] = argv[0];
        ok = flags_each(p, argc, argv, mark_list, &j, err) &&
             flags_each(p, (int)n + 1, j.word, take_kept, &j, err);
    }
    for (int i = 1; ok && i < argc; i++)
        a->argv[a->argc++] = argv[i];
    free(j.word);
    return ok;
}

bool again_read(const char *folder, const struct program *p, int argc, char **argv, struct again *a,
                struct hlm_err *err)
{
    char *path = NULL;
    json_t *root = folder ? load(folder, &path, err) : NULL;
    *a = (struct again){ .root = root };
    bool ok = (root ? check(root, path, err) : !err->kind) &&
              join(p, json_object_get(root, "flags"), argc, argv, a, err);
    if (ok) {
        a->finished = json_is_true(json_object_get(root, "finished"));
        a->known = root != NULL;
    }
    free(path);
    return ok;
}

/* ---- further training ------------------------------------------------------------------------ */

/* What the adapter decides itself, and what was asked for with it. */
static bool is_of_the_adapter(const char *name)
{
    static const char *const names[] = { "-r",       "--rank",    "--alpha",    "--rslora",
                                         "--target", "--targets", "--train-mtp" };
    for (uint32_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(name, names[i]))
            return true;
    return false;
}

static bool take_noted(void *user, const struct flag *f, const char *who, const char *value,
                       struct hlm_err *err)
{
    struct joining *j = user;
    int n = value && j->word[j->at + 1] == value ? 2 : 1;
    (void)f, (void)err;
    if (!strcmp(who, "--train-mtp")) { /* its loss stays; what it trains is in the adapter */
        j->a->argv[j->a->argc++] = "--mtp-loss=0.1";
    } else if (!is_of_the_adapter(who)) {
        for (int i = 0; i < n; i++)
            j->a->argv[j->a->argc++] = j->word[j->at + i];
    }
    j->at += n;
    return true;
}

/* The note of an adapter in new memory: the day, and flags. */
static char *note_of(const char *adapter, struct hlm_err *err)
{
    struct hlm_adapter_info info;
    char *note = NULL;
    if (!hlm_adapter_read(adapter, &info, err))
        return NULL;
    for (uint32_t i = 0; i < info.n_past; i++)
        if (!strcmp(info.past[i].key, "train.note") &&
            !(note = ui_copy(info.past[i].text, strlen(info.past[i].text))))
            ui_fail_memory(err, "out of memory for the flags of a run");
    hlm_adapter_info_free(&info);
    if (!note)
        ui_fail(err, "%.300s: does not say how it was trained; --init-lora begins with it too",
                adapter);
    return note;
}

bool again_more(const char *adapter, const struct program *p, int argc, char **argv,
                struct again *a, struct hlm_err *err)
{
    *a = (struct again){ .words = note_of(adapter, err) };
    if (!a->words)
        return false;
    size_t n = 0, most = strlen(a->words) / 2 + 2;
    struct joining j = { .a = a, .at = 1, .word = ui_alloc(most + 1, sizeof *j.word) };
    a->argv = ui_alloc((size_t)argc + most + 3, sizeof *a->argv);
    bool ok = (a->argv && j.word) || ui_fail_memory(err, "out of memory for the flags of a run");
    for (char *w = ok ? strtok(a->words, " ") : NULL; w; w = strtok(NULL, " "))
        j.word[n++] = w; /* the first is the day */
    if (ok) {
        a->argv[a->argc++] = argv[0];
        ok = flags_each(p, (int)n, j.word, take_noted, &j, err);
        a->argv[a->argc++] = "--init-lora";
        a->argv[a->argc++] = (char *)(uintptr_t)adapter;
    }
    for (int i = 1; ok && i < argc; i++)
        a->argv[a->argc++] = argv[i];
    a->known = true;
    free(j.word);
    return ok;
}

void again_free(struct again *a)
{
    free(a->argv);
    free(a->words);
    json_decref(a->root);
    *a = (struct again){ 0 };
}
