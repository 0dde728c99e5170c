/* common_config: see common_config.h. */
#include "common_config.h"

#include "common.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG = 1 << 20 };

/* ---- which flags are settings ---------------------------------------------------------------- */

/* Those that belong to one call are none. */
static bool is_setting(const struct flag *f)
{
    static const char *const one_call[] = { "--prompt",      "--file",         "--lines",
                                            "--continue",    "--json",         "--plan",
                                            "--fit",         "--debug",        "--log-json",
                                            "--help",        "--list-devices", "--version",
                                            "--print-config" };
    for (uint32_t i = 0; i < ARRAY_LEN(one_call); i++)
        if (flag_has_name(f, one_call[i]))
            return false;
    return f->type != FLAG_GROUP && f->help;
}

static const struct flag *find_setting(const struct program *p, const char *name,
                                       struct hlm_err *err)
{
    char dashed[72];
    const struct flag *f = flag_named(p, name);
    if (f && is_setting(f))
        return f;
    snprintf(dashed, sizeof dashed, "--%s", name);
    if (f)
        ui_fail(err, "'%s' is no setting: it belongs to one call", name);
    else
        flag_unknown(p, "unknown setting", dashed, 2, err);
    return NULL;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static char *trim(char *s)
{
    size_t n;
    s += strspn(s, " \t");
    for (n = strlen(s); n && strchr(" \t\r", s[n - 1]); n--)
        ;
    s[n] = 0;
    return s;
}

/* "..." in place: what is in it. False: it does not end, or something follows it. */
static bool unquote(char *s)
{
    char *w = s, *r = s + 1;
    for (; *r && *r != '"'; r++) {
        if (*r == '\\' && r[1])
            *w++ = *++r == 'n' ? '\n' : *r;
        else
            *w++ = *r;
    }
    bool ends = *r == '"' && !r[1 + strspn(r + 1, " \t")];
    *w = 0;
    return ends;
}

/* The path from the home folder, in new memory that lives as long as the program; else itself. */
static const char *from_home(const struct flag *f, const char *value)
{
    const char *home = dir_home();
    bool is_path = f->arg && strstr(f->arg, "FILE");
    if (!is_path || !home || value[0] != '~' || value[1] != '/')
        return value;
    static struct ui_bytes kept[MAX_SETTING];
    static uint32_t n;
    struct ui_bytes *b = &kept[n];
    if (n == MAX_SETTING || !ui_add(b, home, strlen(home)) ||
        !ui_add(b, value + 1, strlen(value + 1)))
        return value;
    n++;
    return b->s;
}

/* One line, which is changed. */
static bool read_line(const struct program *p, struct config *c, char *line, struct hlm_err *err)
{
    line = trim(line);
    char *equals = strchr(line, '=');
    if (!*line || *line == '#')
        return true;
    if (!equals)
        return ui_fail(err, "'%.60s': expected NAME = VALUE", line);
    *equals = 0;
    char *name = trim(line), *value = trim(equals + 1);
    const struct flag *f = find_setting(p, name, err);
    if (!f)
        return false;
    if (*value == '"' && !unquote(value))
        return ui_fail(err, "%s: the value does not end with the quote that it begins with", name);
    if (c->n == MAX_SETTING)
        return ui_fail(err, "more than %u settings", (uint32_t)MAX_SETTING);
    struct setting s = { f, name, from_home(f, value) };
    if (!flag_value(f, name, s.value, err))
        return false;
    c->at[c->n++] = s;
    return true;
}

bool config_read(const struct program *p, struct config *c, struct hlm_err *err)
{
    uint64_t n = 0;
    struct hlm_err why = { 0 };
    *c = (struct config){ .path = config_path() };
    if (!c->path || !ui_exists(c->path))
        return true;
    if (!(c->text = ui_read_file(c->path, MAX_CONFIG, &n, err)))
        return false;
    if (strlen(c->text) != n)
        return ui_fail(err, "%.300s: holds a NUL byte: that is no text", c->path);
    uint32_t row = 1;
    for (char *line = c->text, *end; line; line = end, row++) {
        end = strchr(line, '\n');
        if (end)
            *end++ = 0;
        if (!read_line(p, c, line, &why))
            return ui_fail(err, "%.200s: line %u: %.250s", c->path, row, why.msg);
    }
    return true;
}

void config_free(struct config *c)
{
    free(c->text);
    *c = (struct config){ 0 };
}

/* ---- printing -------------------------------------------------------------------------------- */

/* What was given last of each flag, but for lists: all of them. */
struct given {
    struct setting at[2 * MAX_SETTING];
    uint32_t n;
};

static bool add_given(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    struct given *g = user;
    (void)err;
    (void)who;
    if (!is_setting(f) || g->n == ARRAY_LEN(g->at))
        return true;
    for (uint32_t i = 0; i < g->n && f->type != FLAG_LIST; i++)
        if (g->at[i].flag == f) {
            g->at[i].value = value;
            return true;
        }
    g->at[g->n++] = (struct setting){ f, flag_long_name(f), value };
    return true;
}

static void print_quoted(const char *s)
{
    putchar('"');
    for (; *s; s++)
        if (*s == '\n')
            fputs("\\n", stdout);
        else
            printf(*s == '"' || *s == '\\' ? "\\%c" : "%c", *s);
    putchar('"');
}

static void print_value(const char *s)
{
    size_t n = strlen(s);
    bool plain = n && s[0] != '"' && s[0] != ' ' && s[n - 1] != ' ' && !strpbrk(s, "\n\t\r");
    if (plain)
        fputs(s, stdout);
    else
        print_quoted(s);
}

void config_print(const struct program *p, const struct config *c, int argc, char **argv)
{
    struct given g = { 0 };
    for (uint32_t i = 0; i < c->n; i++)
        add_given(&g, c->at[i].flag, NULL, c->at[i].value, NULL);
    flags_each(p, argc, argv, add_given, &g, NULL);
    printf("# %s%s\n", c->path ? c->path : "no HOME folder",
           c->path && !c->text ? ": is not there" : "");
    for (uint32_t i = 0; i < g.n; i++) {
        printf("%.*s = ", (int)strcspn(g.at[i].who, " "), g.at[i].who);
        print_value(g.at[i].value ? g.at[i].value : "on");
        putchar('\n');
    }
}
