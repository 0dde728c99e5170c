/* chat_slash: see chat_slash.h. */
#define _POSIX_C_SOURCE 200809L
#include "chat_slash.h"

#include "chat_keep.h"
#include "chat_words.h"
#include "common.h"
#include "common_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void show_help(void);

/* ---- what commands have in common ------------------------------------------------------------ */

/* What a person got wrong is no error of the program's. */
static enum slash_got complain(const struct slash *s, const struct hlm_err *err)
{
    if (err->kind == HLM_ERR_INPUT || err->kind == HLM_ERR_STATE)
        ui_wrong("%s", err->msg);
    else
        show_error(err, s->options);
    return SLASH_FAILED;
}

static void replace_text(char **old, char *text)
{
    free(*old);
    *old = text;
}

void slash_free(struct slash *s)
{
    replace_text(&s->prefill, NULL);
    replace_text(&s->attached, NULL);
    replace_text(&s->say, NULL);
    replace_text(&s->saved, NULL);
}

char *slash_attach(const struct slash *s, const char *text) { return ui_joined(text, s->attached); }
void slash_detach(struct slash *s) { replace_text(&s->attached, NULL); }

/* The newest message of the user; NULL: there is none. */
static const char *last_message(const hlm_talk *t)
{
    for (uint32_t i = hlm_talk_n_message(t); i--;)
        if (strcmp(hlm_talk_message(t, i).role, "user") == 0)
            return hlm_talk_message(t, i).content;
    return NULL;
}

/* A path of the arguments; the caller frees it. NULL: which is missing is said. */
static char *path_of(const char *arg, const char *missing, struct hlm_err *err)
{
    char *path = word_rest(arg, dir_home());
    if (!path)
        ui_fail(err, "%s", missing);
    return path;
}

/* ---- the history ----------------------------------------------------------------------------- */

static enum slash_got do_clear(struct slash *s, const char *arg)
{
    (void)arg;
    hlm_talk_clear(s->talk);
    replace_text(&s->saved, NULL); /* the next one is another conversation */
    ui_note("forgot the conversation, also for --continue%s",
            hlm_talk_system(s->talk) ? "; the system message stays" : "");
    return SLASH_DONE;
}

static enum slash_got do_regen(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn turn = { 0 };
    (void)arg;
    show_begin(s->show);
    bool ok = hlm_talk_regenerate(s->talk, &turn, &err);
    if (err.kind == HLM_ERR_STATE) /* there is no answer yet */
        return complain(s, &err);
    show_end(s->show, s->talk, ok, &turn, &err);
    return ok || err.kind == HLM_ERR_STOPPED ? SLASH_DONE : SLASH_FAILED;
}

static enum slash_got do_undo(struct slash *s, const char *arg)
{
    const char *last = last_message(s->talk);
    char *text = last ? ui_copy(last, strlen(last)) : NULL;
    (void)arg;
    if (!hlm_talk_undo(s->talk)) {
        ui_wrong("there is no turn to undo");
        free(text);
        return SLASH_FAILED;
    }
    replace_text(&s->prefill, text);
    uint32_t n = hlm_talk_n_turn(s->talk);
    ui_note("forgot the last turn; %u %s left", n, n == 1 ? "is" : "are");
    return SLASH_DONE;
}

static enum slash_got do_edit(struct slash *s, const char *arg)
{
    const char *last = last_message(s->talk);
    if (!last) {
        ui_wrong("there is no message to edit");
        return SLASH_FAILED;
    }
    s->editing = true;
    if (*arg)
        replace_text(&s->say, ui_copy(arg, strlen(arg)));
    else
        replace_text(&s->prefill, ui_copy(last, strlen(last)));
    return SLASH_DONE;
}

static enum slash_got do_history(struct slash *s, const char *arg)
{
    (void)arg;
    if (!hlm_talk_n_message(s->talk))
        ui_say("nothing has been said yet");
    show_messages(s->show, s->talk, UINT32_MAX);
    return SLASH_DONE;
}

/* Puts a file's text after the next message, or after the text that follows the path. */
static enum slash_got do_file(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    uint64_t n = 0;
    if (strcmp(arg, "-") == 0) {
        ui_note("no file goes with the next message");
        slash_detach(s);
        return SLASH_DONE;
    }
    char *path = word_next(&arg, dir_home());
    arg += strspn(arg, " \t");
    char *text = path ? ui_as_text(ui_read_file(path, 1u << 28, &n, &err), &n, path, &err) : NULL;
    if (!path)
        ui_fail(&err, "/file: which file?");
    if (text) {
        replace_text(&s->attached, ui_joined(s->attached, text));
        replace_text(&s->say, *arg ? ui_copy(arg, strlen(arg)) : NULL);
        if (!*arg)
            ui_note("%s goes with the next message (%s)", path, num_bytes(n).s);
    }
    free(text);
    free(path);
    return err.kind ? complain(s, &err) : SLASH_DONE;
}

/* ---- settings -------------------------------------------------------------------------------- */

static enum slash_got do_system(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    const char *now = hlm_talk_system(s->talk);
    if (!*arg) {
        ui_say("system message: %s", now ? now : "(none)");
        return SLASH_DONE;
    }
    if (!hlm_talk_set_system(s->talk, strcmp(arg, "-") == 0 ? NULL : arg, &err))
        return complain(s, &err);
    ui_note("system message %s; the next turn reads the conversation anew",
            hlm_talk_system(s->talk) ? "set" : "removed");
    return SLASH_DONE;
}

static enum slash_got do_think(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    if (strcmp(arg, "show") == 0 || strcmp(arg, "hide") == 0) {
        s->show->reasoning = arg[0] == 's';
    } else if (strcmp(arg, "on") == 0 || strcmp(arg, "off") == 0) {
        if (!hlm_talk_set_think(s->talk, arg[1] == 'n', &err))
            return complain(s, &err);
    } else if (*arg) {
        ui_fail(&err, "/think takes on, off, show or hide");
        return complain(s, &err);
    }
    ui_say("thinking is %s, reasoning is %s", hlm_talk_thinks(s->talk) ? "on" : "off",
           s->show->reasoning ? "shown" : "hidden");
    return SLASH_DONE;
}

static bool lies_in(const struct flag *f, const void *begin, size_t size)
{
    uintptr_t at = (uintptr_t)f->to, from = (uintptr_t)begin;
    return f->type != FLAG_GROUP && at >= from && at - from < size;
}

/* Flags whose value lies inside the options, or says what is shown, may change between turns. */
static bool settable(const struct slash *s, const struct flag *f)
{
    return lies_in(f, s->options, sizeof *s->options) || lies_in(f, s->show, sizeof *s->show);
}

/* The first long name, with _ for -. */
static void setting_name(const struct flag *f, char *out, size_t size)
{
    const char *name = strstr(f->names, "--");
    snprintf(out, size, "%.*s", (int)strcspn(name + 2, " "), name + 2);
    for (char *c = out; *c; c++)
        *c = *c == '-' ? '_' : *c;
}

const struct flag *slash_setting(const struct slash *s, uint32_t i, char *name, size_t size)
{
    for (uint32_t k = 0; k < s->flags->n_flag; k++) {
        const struct flag *f = &s->flags->flag[k];
        if (!settable(s, f) || i--)
            continue;
        setting_name(f, name, size);
        return f;
    }
    return NULL;
}

/* The setting of this name, long or short, capitals or not. NULL with what may have been meant. */
static const struct flag *find_setting(const struct slash *s, const char *name, struct hlm_err *err)
{
    static char names[64][32];
    const char *list[ARRAY_LEN(names) + 1];
    char lower[32], dashed[34];
    uint32_t n = 0;
    snprintf(lower, sizeof lower, "%s", name);
    for (char *c = lower; *c; c++)
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
    const struct flag *f = flag_named(s->flags, lower);
    snprintf(dashed, sizeof dashed, "-%s ", lower);
    while (n + 1 < ARRAY_LEN(list)) {
        const struct flag *is = slash_setting(s, n, names[n], sizeof names[n]);
        if (!is)
            break;
        if (strncmp(is->names, dashed, strlen(dashed)) == 0)
            f = is;
        list[n] = names[n];
        n++;
    }
    list[n] = NULL;
    if (f && settable(s, f))
        return f;
    const char *near = ui_nearest(name, list);
    ui_fail(err, "/set: there is no '%s'%s%s; /set alone lists what there is", name,
            near ? ", perhaps you mean " : "", near ? near : "");
    return NULL;
}

static enum slash_got list_settings(const struct slash *s)
{
    char name[32], value[32];
    const struct flag *f;
    for (uint32_t i = 0; (f = slash_setting(s, i, name, sizeof name)); i++) {
        flag_print(f, value, sizeof value);
        ui_say("%-18s %s", name, value);
    }
    return SLASH_DONE;
}

static enum slash_got do_set(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    char name[32], value[32];
    if (!*arg)
        return list_settings(s);
    size_t n = strcspn(arg, " \t");
    snprintf(name, sizeof name, "%.*s", (int)n, arg);
    const char *to = arg + n + strspn(arg + n, " \t");
    const struct flag *f = find_setting(s, name, &err);
    if (f)
        setting_name(f, name, sizeof name);
    if (f && !*to)
        ui_fail(&err, "/set %s: which value?", name);
    else if (f)
        flag_value(f, name, to, &err);
    if (err.kind)
        return complain(s, &err);
    *hlm_talk_options(s->talk) = *s->options;
    flag_print(f, value, sizeof value);
    ui_note("%s is %s", name, value);
    return SLASH_DONE;
}

static void say_adapters(const struct adapters *a)
{
    if (!a->n)
        ui_say("no adapter is active");
    for (uint32_t i = 0; i < a->n; i++)
        ui_say("adapter %s, factor %g", a->l[i].path, (double)a->l[i].scale);
}

/* FILE[:SCALE] between blanks. */
static bool read_adapters(const char *arg, struct adapters *a, struct hlm_err *err)
{
    char *word[MAX_FLAG_LIST + 1];
    uint32_t n = 0;
    while (n < ARRAY_LEN(word) && (word[n] = word_next(&arg, dir_home())))
        n++;
    bool ok = adapters_read(a, (const char *const *)word, n, err);
    while (n)
        free(word[--n]);
    return ok;
}

static enum slash_got do_lora(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    struct adapters next = { 0 };
    if (!*arg) {
        say_adapters(s->adapters);
        return SLASH_DONE;
    }
    bool ok = strcmp(arg, "off") == 0 || read_adapters(arg, &next, &err);
    ok = ok && hlm_talk_set_lora(s->talk, next.l, next.n, &err);
    if (ok) {
        struct adapters old = *s->adapters;
        *s->adapters = next;
        next = old;
        adapters_log(s->adapters);
        say_adapters(s->adapters);
        ui_note("the next turn reads the conversation anew");
    }
    adapters_free(&next);
    if (ok)
        return SLASH_DONE;
    plan_explain(s->model, s->params, &err);
    complain(s, &err);
    return hlm_talk_session(s->talk) ? SLASH_FAILED : SLASH_LOST;
}

static enum slash_got do_stats(struct slash *s, const char *arg)
{
    (void)arg;
    show_stats(s->show, s->talk);
    return SLASH_DONE;
}

/* ---- files ----------------------------------------------------------------------------------- */

static const char *instead(bool replaces)
{
    return replaces ? ", in place of the conversation that was there" : "";
}

/* A name where nothing stands yet, from the date and the first words; the caller frees it. */
static char *new_name(const struct slash *s)
{
    char date[32], name[96], path[112];
    time_t now = time(NULL);
    struct tm tm;
    const char *text = "";
    for (uint32_t i = hlm_talk_n_message(s->talk); i--;)
        if (strcmp(hlm_talk_message(s->talk, i).role, "user") == 0)
            text = hlm_talk_message(s->talk, i).content;
    localtime_r(&now, &tm);
    strftime(date, sizeof date, "%Y-%m-%d", &tm);
    word_file_name(text, date, name, sizeof name);
    snprintf(path, sizeof path, "%s.hlm", name);
    for (uint32_t i = 2; access(path, F_OK) == 0 && i < 1000; i++)
        snprintf(path, sizeof path, "%s-%u.hlm", name, i);
    return ui_copy(path, strlen(path));
}

/* The path of the arguments; without one that of the last /save or /load, or a new name. */
static char *path_to_save(const struct slash *s, const char *arg, struct hlm_err *err)
{
    char *path = *arg       ? path_of(arg, "/save: to which file?", err)
                 : s->saved ? ui_copy(s->saved, strlen(s->saved))
                            : new_name(s);
    if (!path)
        ui_fail_memory(err, "/save: out of memory for the name");
    return path;
}

static enum slash_got do_save(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    bool replaces = false;
    if (!*arg && !hlm_talk_n_turn(s->talk)) {
        ui_wrong("/save: nothing has been said yet");
        return SLASH_FAILED;
    }
    char *path = path_to_save(s, arg, &err);
    mode_t mask = umask(077); /* what was said is nobody else's to read */
    bool ok = path && ui_may_replace(path, FILE_TALK, &replaces, &err) &&
              hlm_talk_save(s->talk, path, &err);
    umask(mask);
    if (!ok) {
        free(path);
        return complain(s, &err);
    }
    ui_note("saved %u turn%s, %u tokens to %s%s", hlm_talk_n_turn(s->talk),
            ui_s(hlm_talk_n_turn(s->talk)), hlm_session_n_past(hlm_talk_session(s->talk)), path,
            instead(replaces));
    replace_text(&s->saved, path);
    return SLASH_DONE;
}

static enum slash_got do_export(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    bool replaces = false;
    char *path = path_of(arg, "/export: to which file, .md or .json?", &err);
    bool ok = path && keep_export(s->talk, hlm_get_info(s->model).name, path, &replaces, &err);
    if (ok)
        ui_note("wrote %u message%s to %s%s", hlm_talk_n_message(s->talk),
                ui_s(hlm_talk_n_message(s->talk)), path, instead(replaces));
    free(path);
    return ok ? SLASH_DONE : complain(s, &err);
}

static enum slash_got do_load(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    char *path = path_of(arg, "/load: which file?", &err);
    bool json = path && keep_is_json(path);
    bool ok = path && (json ? keep_read_json : hlm_talk_load)(s->talk, path, &err);
    if (ok && !json)
        replace_text(&s->saved, ui_copy(path, strlen(path)));
    if (ok) {
        ui_note("loaded %u turn%s, %u tokens from %s; thinking is %s", hlm_talk_n_turn(s->talk),
                ui_s(hlm_talk_n_turn(s->talk)), hlm_session_n_past(hlm_talk_session(s->talk)), path,
                hlm_talk_thinks(s->talk) ? "on" : "off");
        if (ui_notes())
            show_messages(s->show, s->talk, 2);
    }
    free(path);
    if (!ok && err.kind == HLM_ERR_FULL)
        ui_error("%s (-c)", err.msg);
    else if (!ok)
        complain(s, &err);
    return ok ? SLASH_DONE : SLASH_FAILED;
}

/* ---- the table ------------------------------------------------------------------------------- */

static enum slash_got do_bye(struct slash *s, const char *arg)
{
    (void)s;
    (void)arg;
    return SLASH_BYE;
}

static enum slash_got do_help(struct slash *s, const char *arg)
{
    (void)s;
    (void)arg;
    show_help();
    return SLASH_DONE;
}

const struct slash_command slash_commands[] = {
    { "/help", "", "this list", ARG_NONE, do_help },
    { "/clear", "", "forget the conversation, also for --continue", ARG_NONE, do_clear },
    { "/history", "", "show what was said", ARG_NONE, do_history },
    { "/regen", "", "answer the last message again, with another seed", ARG_NONE, do_regen },
    { "/edit", "[TEXT]", "change the last message and answer it anew", ARG_TEXT, do_edit },
    { "/undo", "", "forget the last turn; its message stands in the line", ARG_NONE, do_undo },
    { "/file", "FILE|- [TEXT]", "put a file's text after the next message, or after TEXT", ARG_FILE,
      do_file },
    { "/save", "[FILE]", "write the conversation, with all that was read; to the last file",
      ARG_PATH, do_save },
    { "/load", "FILE", "go on with a saved one, or with an exported .json", ARG_PATH, do_load },
    { "/export", "FILE", "write what was said, as .md or .json", ARG_PATH, do_export },
    { "/system", "[TEXT|-]", "show, set or remove (-) the system message", ARG_TEXT, do_system },
    { "/think", "[on|off|show|hide]", "reason first or not; show the reasoning or not", ARG_WORD,
      do_think },
    { "/set", "[NAME VALUE]", "sampling and length, as in /set temp 0.2; alone: list", ARG_SETTING,
      do_set },
    { "/lora", "[FILE[:SCALE] ...|off]", "show, replace or drop the adapters", ARG_ADAPTERS,
      do_lora },
    { "/stats", "", "tokens read, reused and read again, speed, memory", ARG_NONE, do_stats },
    { "/exit", "", "leave (/quit, /bye and Ctrl-D do too)", ARG_NONE, do_bye },
    { "/quit", "", NULL, ARG_NONE, do_bye },
    { "/bye", "", NULL, ARG_NONE, do_bye },
    { "/?", "", NULL, ARG_NONE, do_help },
    { 0 },
};

static void show_help(void)
{
    static const char *const keys[][2] = {
        { "Alt-Enter Shift-Enter", "a new line of the message" },
        { "Ctrl-Left Ctrl-Right", "a word to the left, to the right (Alt-B Alt-F)" },
        { "Home End", "the ends of the line (Ctrl-A Ctrl-E)" },
        { "Up Down", "lines of the message, then earlier messages" },
        { "Ctrl-R", "search them; Ctrl-R goes on, Ctrl-G gives up" },
        { "Ctrl-W Alt-D Ctrl-U Ctrl-K", "cut a word, or up to an end; Ctrl-Y puts it back" },
        { "Tab", "complete; twice: list" },
        { "Ctrl-X Ctrl-E", "change the message in $VISUAL or $EDITOR" },
        { "Ctrl-C", "stop an answer, which stays; clear the line" },
    };
    for (const struct slash_command *c = slash_commands; c->name; c++)
        if (c->help)
            ui_say("%-8s %-18s %s", c->name, c->args, c->help);
    ui_say("%s", "");
    for (uint32_t i = 0; i < ARRAY_LEN(keys); i++)
        ui_say("%-27s %s", keys[i][0], keys[i][1]);
    ui_say("\n\"\"\" opens and closes a message of several lines; a paste is one message.\n"
           "A space in front of a slash makes it text.");
}

static enum slash_got unknown(const char *line, size_t n)
{
    const char *names[32], *near;
    char name[32];
    uint32_t n_name = 0;
    for (const struct slash_command *c = slash_commands; c->name; c++)
        if (n_name + 1 < ARRAY_LEN(names))
            names[n_name++] = c->name;
    names[n_name] = NULL;
    snprintf(name, sizeof name, "%.*s", (int)ui_min_u64(n, sizeof name - 1), line);
    near = ui_nearest(name, names);
    ui_wrong("unknown command '%s'%s%s; /help lists them", name, near ? ", perhaps you mean " : "",
             near ? near : "");
    return SLASH_FAILED;
}

enum slash_got slash_run(struct slash *s, const char *line)
{
    size_t n = strcspn(line, " \t\n");
    const char *arg = line + n + strspn(line + n, " \t\n");
    for (const struct slash_command *c = slash_commands; c->name; c++) {
        if (strlen(c->name) != n || memcmp(c->name, line, n) != 0)
            continue;
        if (*arg && !*c->args) {
            ui_wrong("%s takes nothing after it", c->name);
            return SLASH_FAILED;
        }
        return c->run(s, arg);
    }
    return unknown(line, n);
}
