/* chat_slash: see chat_slash.h. */
#define _POSIX_C_SOURCE 200809L
#include "chat_slash.h"

#include "common.h"
#include "common_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct command {
    const char *name, *args, *help;
    enum slash_got (*run)(struct slash *s, const char *arg);
};

static enum slash_got do_help(struct slash *s, const char *arg);

static enum slash_got complain(const struct slash *s, const struct hlm_err *err)
{
    show_error(err, s->options);
    return SLASH_FAILED;
}

static enum slash_got do_clear(struct slash *s, const char *arg)
{
    (void)arg;
    hlm_talk_clear(s->talk);
    ui_note("forgot the conversation%s",
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
    show_end(s->show, s->talk, ok, &turn, &err);
    return ok || err.kind == HLM_ERR_STOPPED ? SLASH_DONE : SLASH_FAILED;
}

static enum slash_got do_undo(struct slash *s, const char *arg)
{
    (void)arg;
    if (!hlm_talk_undo(s->talk)) {
        ui_error("there is no turn to undo");
        return SLASH_FAILED;
    }
    ui_note("forgot the last turn; %u left", hlm_talk_n_turn(s->talk));
    return SLASH_DONE;
}

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

/* Flags whose value lies inside the options may change between turns. */
static bool settable(const struct slash *s, const struct flag *f)
{
    uintptr_t at = (uintptr_t)f->to, options = (uintptr_t)s->options;
    return f->type != FLAG_GROUP && at >= options && at - options < sizeof *s->options;
}

static void set_name(const struct flag *f, char *out, size_t size)
{
    const char *name = strstr(f->names, "--");
    snprintf(out, size, "%.*s", (int)strcspn(name + 2, " "), name + 2);
    for (char *c = out; *c; c++)
        *c = *c == '-' ? '_' : *c;
}

static enum slash_got do_set(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    char name[32], value[32];
    if (!*arg) {
        for (uint32_t i = 0; i < s->flags->n_flag; i++) {
            const struct flag *f = &s->flags->flag[i];
            if (!settable(s, f))
                continue;
            set_name(f, name, sizeof name);
            flag_print(f, value, sizeof value);
            ui_say("%-18s %s", name, value);
        }
        return SLASH_DONE;
    }
    size_t n = strcspn(arg, " \t");
    snprintf(name, sizeof name, "%.*s", (int)n, arg);
    const char *to = arg + n + strspn(arg + n, " \t");
    const struct flag *f = flag_named(s->flags, name);
    if (n >= sizeof name || !f || !settable(s, f))
        ui_fail(&err, "/set: there is no '%.*s'; /set alone lists what there is", (int)n, arg);
    else if (!*to)
        ui_fail(&err, "/set %s: which value?", name);
    else
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
    const char *word[MAX_FLAG_LIST + 1];
    uint32_t n = 0;
    char *text = ui_copy(arg, strlen(arg));
    if (!text)
        return ui_fail_memory(err, "out of memory");
    for (char *w = strtok(text, " \t"); w && n < ARRAY_LEN(word); w = strtok(NULL, " \t"))
        word[n++] = w;
    bool ok = adapters_read(a, word, n, err);
    free(text);
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

static enum slash_got do_save(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    bool replaces = false;
    if (!*arg)
        ui_fail(&err, "/save: to which file?");
    mode_t mask = umask(077); /* what was said is nobody else's to read */
    bool ok = !err.kind && ui_may_replace(arg, FILE_TALK, &replaces, &err) &&
              hlm_talk_save(s->talk, arg, &err);
    umask(mask);
    if (!ok)
        return complain(s, &err);
    ui_note("saved %u turns, %u tokens to %s%s", hlm_talk_n_turn(s->talk),
            hlm_session_n_past(hlm_talk_session(s->talk)), arg,
            replaces ? ", in place of the conversation that was there" : "");
    return SLASH_DONE;
}

static enum slash_got do_load(struct slash *s, const char *arg)
{
    struct hlm_err err = { 0 };
    if (!*arg)
        ui_fail(&err, "/load: which file?");
    if (err.kind || !hlm_talk_load(s->talk, arg, &err)) {
        ui_error("%s%s", err.msg, err.kind == HLM_ERR_FULL ? " (-c)" : "");
        return SLASH_FAILED;
    }
    ui_note("loaded %u turns, %u tokens from %s; thinking is %s", hlm_talk_n_turn(s->talk),
            hlm_session_n_past(hlm_talk_session(s->talk)), arg,
            hlm_talk_thinks(s->talk) ? "on" : "off");
    return SLASH_DONE;
}

static enum slash_got do_bye(struct slash *s, const char *arg)
{
    (void)s;
    (void)arg;
    return SLASH_BYE;
}

static const struct command commands[] = {
    { "/help", "", "this list", do_help },
    { "/clear", "", "forget the conversation; the system message stays", do_clear },
    { "/regen", "", "answer the last message again, with another seed", do_regen },
    { "/undo", "", "forget the last message and its answer", do_undo },
    { "/save", "FILE", "write the conversation to a file, with all that was read", do_save },
    { "/load", "FILE", "go on with a saved one; nothing is read again", do_load },
    { "/system", "[TEXT|-]", "show, set or remove (-) the system message", do_system },
    { "/think", "[on|off|show|hide]", "whether the model reasons first, and whether that is shown",
      do_think },
    { "/set", "[NAME VALUE]", "sampling and length, as in /set temp 0.2; alone: list them",
      do_set },
    { "/lora", "[FILE[:SCALE] ...|off]", "show, replace or drop the adapters", do_lora },
    { "/stats", "", "tokens read, reused and read again, speed, memory", do_stats },
    { "/bye", "", "leave (Ctrl-D does too)", do_bye },
};

void slash_complete(void *user, const char *text, size_t at, struct choices *c)
{
    (void)user;
    if (!at || text[0] != '/' || memchr(text, ' ', at))
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(commands); i++)
        if (strncmp(commands[i].name, text, at) == 0)
            choices_add(c, commands[i].name, NULL, true);
}

static enum slash_got do_help(struct slash *s, const char *arg)
{
    (void)s;
    (void)arg;
    for (const struct command *c = commands; c < commands + ARRAY_LEN(commands); c++)
        ui_say("%-8s %-23s %s", c->name, c->args, c->help);
    ui_say(
        "\nCtrl-C stops an answer, which stays in the history; at the prompt it clears the line.\n"
        "Alt-Enter or Shift-Enter begins a new line of the message, \"\"\" opens and closes one "
        "of\n"
        "several lines, a paste is one message. A space in front of a slash makes it text.\n"
        "\n"
        "Home End, Ctrl-A Ctrl-E          ends of the line\n"
        "Ctrl-Left Ctrl-Right, Alt-B Alt-F  a word to the left, to the right\n"
        "Up Down, Ctrl-P Ctrl-N           lines of the message, then messages before and after\n"
        "Ctrl-R                           search the messages before: Ctrl-R goes on, Ctrl-G gives "
        "up\n"
        "Ctrl-W Alt-Backspace Alt-D       cut a word: to the blank, to the left, to the right\n"
        "Ctrl-U Ctrl-K Ctrl-Y             cut to the beginning, to the end; put it back\n"
        "Ctrl-T Ctrl-L Tab                swap two letters; clear the screen; complete\n"
        "Ctrl-X Ctrl-E                    change the message in $VISUAL or $EDITOR");
    return SLASH_DONE;
}

enum slash_got slash_run(struct slash *s, const char *line)
{
    size_t n = strcspn(line, " \t");
    const char *arg = line + n + strspn(line + n, " \t");
    if (strcmp(line, "/?") == 0)
        return do_help(s, "");
    for (const struct command *c = commands; c < commands + ARRAY_LEN(commands); c++) {
        if (strlen(c->name) != n || memcmp(c->name, line, n) != 0)
            continue;
        if (*arg && !*c->args) {
            ui_error("%s takes nothing behind it", c->name);
            return SLASH_FAILED;
        }
        return c->run(s, arg);
    }
    char all[256] = "";
    for (uint32_t i = 0, w = 0; i < ARRAY_LEN(commands) && w < sizeof all; i++)
        w += (uint32_t)snprintf(all + w, sizeof all - w, " %s", commands[i].name);
    ui_error("unknown command '%.*s'; there are%s", (int)n, line, all);
    return SLASH_FAILED;
}
