/* chat_keep: see chat_keep.h. */
#define _POSIX_C_SOURCE 200809L
#include "chat_keep.h"

#include "chat_text.h"
#include "common.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_JSON = 1 << 30 };

/* ---- files ----------------------------------------------------------------------------------- */

const char *keep_path(void)
{
    static char path[4200];
    const char *dir = dir_state();
    snprintf(path, sizeof path, "%s/last.json", dir ? dir : "");
    return dir ? path : NULL;
}

/* The file that this process has kept, or gone on with. */
static struct stat kept;

static bool kept_by_us(const char *path, struct stat *is)
{
    return stat(path, is) == 0 && is->st_ino == kept.st_ino && is->st_dev == kept.st_dev &&
           is->st_mtim.tv_sec == kept.st_mtim.tv_sec && is->st_mtim.tv_nsec == kept.st_mtim.tv_nsec;
}

bool keep_last(hlm_talk *t, const char *model, const char *path, struct hlm_err *err)
{
    return keep_write_json(t, model, path, err) && (keep_is_ours(path), true);
}

void keep_is_ours(const char *path)
{
    if (stat(path, &kept) != 0)
        kept = (struct stat){ 0 };
}

bool keep_forget(const char *path)
{
    struct stat is;
    if (!kept_by_us(path, &is) || unlink(path) != 0)
        return false;
    kept = (struct stat){ 0 }; /* the next file may get the same number */
    return true;
}

bool keep_is_json(const char *path)
{
    FILE *f = fopen(path, "rb");
    int c = f ? getc(f) : EOF;
    if (f)
        fclose(f);
    return c == '{';
}

/* ---- JSON ------------------------------------------------------------------------------------ */

json_t *keep_json_text(const char *s)
{
    size_t n = strlen(s);
    json_t *v = json_stringn(s, n);
    char *clean = v ? NULL : ui_alloc(n + 1, 3);
    if (clean)
        v = json_stringn(clean, ui_clean(s, n, clean));
    free(clean);
    return v;
}

bool keep_write_json(hlm_talk *t, const char *model, const char *path, struct hlm_err *err)
{
    json_t *list = json_array();
    bool ok = true;
    for (uint32_t i = 0; ok && i < hlm_talk_n_message(t); i++) {
        struct hlm_message m = hlm_talk_message(t, i);
        json_t *o = json_object();
        ok = json_array_append_new(list, o) == 0 &&
             json_object_set_new(o, "role", json_string(m.role)) == 0 &&
             (!m.reasoning ||
              json_object_set_new(o, "reasoning_content", keep_json_text(m.reasoning)) == 0) &&
             json_object_set_new(o, "content", keep_json_text(m.content)) == 0;
    }
    json_t *all = json_pack("{s:o, s:b, s:o}", "model", keep_json_text(model), "think",
                            (int)hlm_talk_thinks(t), "messages", list);
    char *text = ok ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    if (!text)
        return ui_fail_memory(err, "%.300s: out of memory for the messages", path);
    size_t n = strlen(text);
    text[n] = '\n'; /* in the place of the NUL: a whole line */
    ok = ui_replace_file(path, 0600, text, n + 1, err);
    free(text);
    return ok;
}

/* Fills msg with texts of the JSON, of at most n messages. False: that is no list of messages. */
static bool read_messages(const json_t *list, struct hlm_message *msg)
{
    const json_t *o;
    size_t i;
    json_array_foreach(list, i, o)
    {
        const json_t *reasoning = json_object_get(o, "reasoning_content");
        msg[i] = (struct hlm_message){ json_string_value(json_object_get(o, "role")),
                                       json_string_value(json_object_get(o, "content")),
                                       json_string_value(reasoning) };
        if (!msg[i].role || !msg[i].content || (reasoning && !msg[i].reasoning))
            return false;
    }
    return true;
}

bool keep_read_json(hlm_talk *t, const char *path, struct hlm_err *err)
{
    json_error_t e;
    struct hlm_err why = { 0 };
    uint64_t n_text;
    char *text = ui_read_file(path, MAX_JSON, &n_text, err);
    json_t *j = text ? json_loadb(text, (size_t)n_text, 0, &e) : NULL;
    const json_t *list = json_object_get(j, "messages"), *think = json_object_get(j, "think");
    size_t n = json_array_size(list);
    struct hlm_message *msg = j ? ui_alloc(n, sizeof *msg) : NULL;
    bool ok = false;
    if (text && !j)
        ui_fail(err, "%.300s: line %d: %.100s", path, e.line, e.text);
    else if (j && !msg)
        ui_fail_memory(err, "%.300s: out of memory for the messages", path);
    else if (j && (!json_is_array(list) || n > UINT32_MAX || !read_messages(list, msg)))
        ui_fail(err,
                "%.300s: is no conversation: expected \"messages\", each with \"role\" and "
                "\"content\" as text",
                path);
    else if (j && !(ok = hlm_talk_set_messages(t, msg, (uint32_t)n, &why)))
        ui_fail(err, "%.200s: %.250s", path, why.msg);
    if (ok && json_is_boolean(think))
        hlm_talk_set_think(t, json_is_true(think), NULL); /* where this model has the choice */
    free(msg);
    json_decref(j);
    free(text);
    return ok;
}

/* ---- Markdown -------------------------------------------------------------------------------- */

static void quote(FILE *to, const char *s)
{
    for (bool more = true; more;) {
        size_t n = strcspn(s, "\n");
        fprintf(to, "> %.*s\n", (int)n, s);
        more = s[n] != 0;
        s += n + more;
    }
    fputc('\n', to);
}

bool keep_write_text(hlm_talk *t, const char *model, const char *path, struct hlm_err *err)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    if (!to)
        return ui_fail_memory(err, "%.300s: out of memory for the messages", path);
    fprintf(to, UI_TALK_MARK "# A conversation with %s\n\n", model);
    for (uint32_t i = 0; i < hlm_talk_n_message(t); i++) {
        struct hlm_message m = hlm_talk_message(t, i);
        fprintf(to, "## %s\n\n",
                strcmp(m.role, "system") == 0 ? "System message"
                : strcmp(m.role, "user") == 0 ? "User"
                                              : "Assistant");
        if (m.reasoning)
            quote(to, m.reasoning);
        fprintf(to, "%s\n\n", m.content);
    }
    bool ok = fclose(to) == 0;
    ok = ok ? ui_replace_file(path, 0600, text, n, err)
            : ui_fail_memory(err, "%.300s: out of memory for the messages", path);
    free(text);
    return ok;
}

bool keep_export(hlm_talk *t, const char *model, const char *path, bool *replaces,
                 struct hlm_err *err)
{
    bool json = ui_ends_with(path, ".json");
    if (!json && !ui_ends_with(path, ".md"))
        return ui_fail(err, "%.300s: expected a name that ends in .md or .json", path);
    return ui_may_replace(path, json ? FILE_TALK_JSON : FILE_TALK_TEXT, replaces, err) &&
           (json ? keep_write_json : keep_write_text)(t, model, path, err);
}
