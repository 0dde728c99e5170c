/* common_flags: see common_flags.h. */
#define _POSIX_C_SOURCE 200809L
#include "common_flags.h"
#include "common.h"
#include "common_config.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool want_help, want_version, want_devices, want_table;

static const struct flag common_flags[] = {
    { FLAG_GROUP, "Device and output", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-dev --device", "N|NAME", &ui.device, 0, 0,
      "a number of --list-devices, or part of a name" },
    { FLAG_SWITCH, "--list-devices", NULL, &want_devices, 0, 0, "list Vulkan devices and exit" },
    { FLAG_SWITCH, "-v --verbose", NULL, &ui.verbose, 0, 0,
      "statistics and messages, also off a terminal" },
    { FLAG_CHOICE, "--color", "auto|on|off", &ui.color_choice, 0, 0,
      "auto: unless NO_COLOR is set (auto)" },
    { FLAG_TEXT, "--log-json", "FILE", &ui.log_json, 0, 0,
      "events and statistics as lines of JSON; -: standard output" },
    { FLAG_SWITCH, "--force", NULL, &ui.force, 0, 0,
      "outputs replace any file, not only an earlier one of their kind;\n"
      "adapters of another model file give no warning" },
    { FLAG_SWITCH, "-h --help", NULL, &want_help, 0, 0, "this text" },
    { FLAG_SWITCH, "--version", NULL, &want_version, 0, 0, "the version" },
    { FLAG_SWITCH, "--print-flags", NULL, &want_table, 0, 0, NULL }, /* for tools/docs.sh */
};
enum { N_PLAIN = 3 }; /* the last ones, which programs without an engine have too */

static const struct flag *common_of(const struct program *p, uint32_t *n)
{
    uint32_t from = p->no_engine ? (uint32_t)ARRAY_LEN(common_flags) - N_PLAIN : 0;
    *n = (uint32_t)ARRAY_LEN(common_flags) - from;
    return common_flags + from;
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool has_name(const struct flag *f, const char *name, size_t len)
{
    if (f->type == FLAG_GROUP)
        return false;
    for (const char *p = f->names; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n == len && memcmp(p, name, n) == 0)
            return true;
        p += n;
    }
    return false;
}

static const struct flag *find(const struct program *p, const char *name, size_t len)
{
    for (uint32_t i = 0; i < p->n_flag; i++)
        if (has_name(&p->flag[i], name, len))
            return &p->flag[i];
    uint32_t n;
    const struct flag *common = common_of(p, &n);
    for (uint32_t i = 0; i < n; i++)
        if (has_name(&common[i], name, len))
            return &common[i];
    return NULL;
}

bool flag_has_name(const struct flag *f, const char *name)
{
    return has_name(f, name, strlen(name));
}

const char *flag_long_name(const struct flag *f)
{
    const char *name = strstr(f->names, "--");
    return name ? name + 2 : f->names;
}

const struct flag *flag_named(const struct program *p, const char *name)
{
    char dashed[64];
    int n = snprintf(dashed, sizeof dashed, "--%s", name);
    if (n < 0 || (size_t)n >= sizeof dashed)
        return NULL;
    for (char *c = dashed; *c; c++)
        *c = *c == '_' ? '-' : *c;
    return find(p, dashed, (size_t)n);
}

/* ---- values ---------------------------------------------------------------------------------- */

static bool read_choice(const struct flag *f, const char *who, const char *value,
                        struct hlm_err *err)
{
    size_t len = strlen(value);
    int i = 0;
    for (const char *p = f->arg;; i++) {
        size_t n = strcspn(p, "|");
        if (n == len && memcmp(p, value, n) == 0) {
            *(int *)f->to = i;
            return true;
        }
        if (!p[n])
            return ui_fail(err, "%s: '%s' is none of %s", who, value, f->arg);
        p += n + 1;
    }
}

static bool read_number(const struct flag *f, const char *who, const char *value,
                        struct hlm_err *err)
{
    char *end = NULL;
    bool whole = f->type == FLAG_INT;
    errno = 0;
    double v = whole ? (double)strtoll(value, &end, 10) : strtod(value, &end);
    if (end == value || *end || !isfinite(v))
        return ui_fail(err, "%s: '%s' is no %s", who, value, whole ? "whole number" : "number");
    if (errno == ERANGE || v < f->min || v > f->max)
        return ui_fail(err, "%s: %s is not from %.10g to %.10g", who, value, f->min, f->max);
    if (whole)
        *(int32_t *)f->to = (int32_t)v;
    else if (f->type == FLAG_REAL)
        *(double *)f->to = v;
    else
        *(float *)f->to = (float)v;
    return true;
}

/* splitmix64's step: every bit of the result depends on every bit of v. */
static uint64_t mix(uint64_t v)
{
    v += 0x9e3779b97f4a7c15u;
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9u;
    v = (v ^ (v >> 27)) * 0x94d049bb133111ebu;
    return v ^ (v >> 31);
}

static bool read_seed(const struct flag *f, const char *who, const char *value, struct hlm_err *err)
{
    uint64_t *to = f->to;
    if (strcmp(value, "-1") == 0) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        *to = mix((uint64_t)t.tv_nsec ^ (uint64_t)t.tv_sec << 30 ^ (uint64_t)getpid() << 48);
        *to >>= 32; /* short enough to type again */
        return true;
    }
    char *end = NULL;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno == ERANGE)
        return ui_fail(err, "%s: '%s' is no whole number (-1: draw one)", who, value);
    *to = v;
    return true;
}

static bool read_bytes(const struct flag *f, const char *who, const char *value,
                       struct hlm_err *err)
{
    static const char units[] = "KMG";
    char *end = NULL;
    errno = 0;
    double v = strtod(value, &end); /* which knows more numbers than a person means here */
    bool is = *value >= '0' && *value <= '9' && isfinite(v) &&
              end == value + strspn(value, "0123456789.");
    for (const char *u = units; is && *u; u++)
        if (*end && (*end & ~0x20) == *u) {
            v = ldexp(v, 10 * (int)(u - units + 1));
            end++;
            break;
        }
    if (!is || *end)
        return ui_fail(err, "%s: '%s' is no size, as in 800M or 2G", who, value);
    if (v > f->max)
        return ui_fail(err, "%s: %s is more than %.0f bytes", who, value, f->max);
    *(uint64_t *)f->to = (uint64_t)v;
    return true;
}

static bool add_to_list(const struct flag *f, const char *who, const char *value,
                        struct hlm_err *err)
{
    struct flag_list *l = f->to;
    if (l->n == ARRAY_LEN(l->v))
        return ui_fail(err, "%s: more than %u of them", who, (uint32_t)ARRAY_LEN(l->v));
    l->v[l->n++] = value;
    return true;
}

/* NULL, as on the command line: on. */
static bool read_switch(const struct flag *f, const char *who, const char *value,
                        struct hlm_err *err)
{
    bool on = !value || strcmp(value, "on") == 0;
    if (!on && strcmp(value, "off") != 0)
        return ui_fail(err, "%s: '%s' is none of on|off", who, value);
    *(bool *)f->to = on;
    return true;
}

bool flag_value(const struct flag *f, const char *who, const char *value, struct hlm_err *err)
{
    switch (f->type) {
    case FLAG_TEXT: *(const char **)f->to = value; return true;
    case FLAG_INT:
    case FLAG_FLOAT:
    case FLAG_REAL: return read_number(f, who, value, err);
    case FLAG_BYTES: return read_bytes(f, who, value, err);
    case FLAG_SEED: return read_seed(f, who, value, err);
    case FLAG_LIST: return add_to_list(f, who, value, err);
    case FLAG_CHOICE: return read_choice(f, who, value, err);
    case FLAG_SWITCH: return read_switch(f, who, value, err);
    case FLAG_GROUP: break;
    }
    return ui_fail(err, "%s takes no value", who);
}

static void print_choice(const struct flag *f, char *out, uint64_t size)
{
    const char *word = f->arg;
    for (int i = *(int *)f->to; i > 0; i--)
        word += strcspn(word, "|") + 1;
    snprintf(out, (size_t)size, "%.*s", (int)strcspn(word, "|"), word);
}

void flag_print(const struct flag *f, char *out, uint64_t size)
{
    switch (f->type) {
    case FLAG_INT: snprintf(out, (size_t)size, "%d", *(int32_t *)f->to); break;
    case FLAG_REAL: snprintf(out, (size_t)size, "%g", *(double *)f->to); break;
    case FLAG_FLOAT: snprintf(out, (size_t)size, "%g", (double)*(float *)f->to); break;
    case FLAG_BYTES:
    case FLAG_SEED:
        snprintf(out, (size_t)size, "%llu", (unsigned long long)*(uint64_t *)f->to);
        break;
    case FLAG_SWITCH: snprintf(out, (size_t)size, "%s", *(bool *)f->to ? "on" : "off"); break;
    case FLAG_CHOICE: print_choice(f, out, size); break;
    case FLAG_TEXT:
        snprintf(out, (size_t)size, "%s", *(const char **)f->to ? *(const char **)f->to : "");
        break;
    default: out[0] = 0; break;
    }
}

/* ---- the command line ------------------------------------------------------------------------ */

/* The names of a table, as words of their own, at most n. Returns how many. */
static uint32_t list_names(const struct flag *flag, uint32_t n_flag, char (*word)[48],
                           const char **list, uint32_t n)
{
    uint32_t k = 0;
    for (const struct flag *f = flag; f < flag + n_flag; f++)
        for (const char *p = f->type == FLAG_GROUP || !f->help ? "" : f->names; *p && k < n;
             p += strspn(p, " ")) {
            size_t len = strcspn(p, " ");
            snprintf(word[k], sizeof word[k], "%.*s", (int)len, p);
            list[k] = word[k];
            k++;
            p += len;
        }
    return k;
}

bool flag_unknown(const struct program *p, const char *what, const char *name, size_t skip,
                  struct hlm_err *err)
{
    enum { MAX = 160 };
    static char word[MAX][48];
    const char *list[MAX + 1];
    uint32_t n = list_names(p->flag, p->n_flag, word, list, MAX);
    uint32_t n_common;
    const struct flag *common = common_of(p, &n_common);
    n += list_names(common, n_common, word + n, list + n, MAX - n);
    list[n] = NULL;
    const char *near = ui_nearest(name, list);
    return ui_fail(err, "%s '%s'%s%s", what, name + skip, near ? ", perhaps you mean " : "",
                   near ? near + (strlen(near) > skip ? skip : 0) : "");
}

static bool unknown(const struct program *p, const char *arg, size_t len, struct hlm_err *err)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)len, arg);
    return flag_unknown(p, "unknown flag", name, 0, err);
}

static bool unknown_word(const struct program *p, const char *arg, struct hlm_err *err)
{
    char room[64];
    const char *list[8], *near;
    uint32_t n = 0;
    snprintf(room, sizeof room, "%s", p->commands ? p->commands : "");
    for (char *w = strtok(room, " "); w && n + 1 < ARRAY_LEN(list); w = strtok(NULL, " "))
        list[n++] = w;
    list[n] = NULL;
    near = ui_nearest(arg, list);
    return ui_fail(err, "unexpected argument '%.200s'%s%s", arg,
                   near ? ", perhaps you mean the command " : "", near ? near : "");
}

/* A word without a flag: the model, where it is a model file and there is none yet. */
static const struct flag *bare_model(const struct program *p, const char *arg, const char *model,
                                     struct hlm_err *err)
{
    const struct flag *f = find(p, "--model", strlen("--model"));
    bool gguf = ui_begins_with(arg, "GGUF");
    if (f && gguf && !model)
        return f;
    if (f && gguf)
        ui_fail(err, "unexpected argument '%.200s': the model is %.200s", arg, model);
    else if (f && access(arg, F_OK) != 0 && ui_ends_with(arg, ".gguf"))
        ui_fail(err, "unexpected argument '%.200s': there is no such file", arg);
    else
        unknown_word(p, arg, err);
    return NULL;
}

bool flags_each(const struct program *p, int argc, char **argv, flag_fn *fn, void *user,
                struct hlm_err *err)
{
    const char *model = NULL;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        size_t len = strncmp(arg, "--", 2) == 0 ? strcspn(arg, "=") : strlen(arg);
        const char *value = arg[len] ? arg + len + 1 : NULL;
        bool bare = arg[0] != '-';
        if (bare && p->words) {
            if (p->words->n == MAX_FLAG_LIST)
                return ui_fail(err, "more than %d words: '%s'", MAX_FLAG_LIST, arg);
            p->words->v[p->words->n++] = arg;
            continue;
        }
        const struct flag *f = bare ? bare_model(p, arg, model, err) : find(p, arg, len);
        if (!f)
            return bare ? false : unknown(p, arg, len, err);
        char who[64];
        snprintf(who, sizeof who, "%.*s", bare ? 7 : (int)len, bare ? "--model" : arg);
        if (bare)
            value = arg;
        bool is_word = value && (strcmp(value, "on") == 0 || strcmp(value, "off") == 0);
        if (f->type == FLAG_SWITCH && value && !is_word)
            return ui_fail(err, "%s takes no value", who);
        if (f->type != FLAG_SWITCH && !value) {
            if (i + 1 >= argc)
                return ui_fail(err, "%s needs a value: %s", who, f->arg);
            value = argv[++i];
        }
        if (has_name(f, "--model", strlen("--model")))
            model = value;
        if (!fn(user, f, who, value, err))
            return false;
    }
    return true;
}

/* A list that the line gives takes the place of the settings' one. */
struct taking {
    const struct flag *list[8];
    uint32_t n;
};

static bool take_value(void *user, const struct flag *f, const char *who, const char *value,
                       struct hlm_err *err)
{
    struct taking *t = user;
    uint32_t i = 0;
    while (i < t->n && t->list[i] != f)
        i++;
    if (f->type == FLAG_LIST && i == t->n && t->n < ARRAY_LEN(t->list)) {
        t->list[t->n++] = f;
        ((struct flag_list *)f->to)->n = 0;
    }
    return flag_value(f, who, value, err);
}

static bool read_all(const struct program *p, int argc, char **argv, struct hlm_err *err)
{
    struct taking t = { 0 };
    for (uint32_t i = 0; i < p->n_flag; i++)
        if (p->flag[i].type == FLAG_LIST) /* the line may be read again */
            ((struct flag_list *)p->flag[i].to)->n = 0;
    for (uint32_t i = 0; p->config && i < p->config->n; i++)
        flag_value(p->config->at[i].flag, p->config->at[i].who, p->config->at[i].value, NULL);
    return flags_each(p, argc, argv, take_value, &t, err);
}

/* ---- help ------------------------------------------------------------------------------------ */

enum { HELP_COLUMNS = 80, HELP_INDENT = 28 };

/* Puts a word on the line, which is broken where it has no room. *col: columns of it. */
static void put_word(const char *s, size_t n, unsigned indent, unsigned *col)
{
    if (*col > indent && *col + 1 + n > HELP_COLUMNS) {
        printf("\n%*s", (int)indent, "");
        *col = indent;
    } else if (*col > indent) {
        putchar(' ');
        ++*col;
    }
    printf("%.*s", (int)n, s);
    *col += (unsigned)n;
}

static void put_text(const char *s, size_t n, unsigned indent, unsigned *col)
{
    for (size_t at = 0, len; at < n; at += len) {
        at += strspn(s + at, " \n");
        len = ui_min_u64(strcspn(s + at, " \n"), n > at ? n - at : 0);
        if (len)
            put_word(s + at, len, indent, col);
    }
}

/* The length of a flag's help without the default that it ends with in brackets; the default is in
 * def. */
static size_t split_default(const char *help, char *def, size_t size)
{
    size_t n = strlen(help), open = n;
    def[0] = 0;
    if (!n || help[n - 1] != ')')
        return n;
    while (open && help[open - 1] != '(')
        open--;
    if (!open)
        return n;
    snprintf(def, size, "[default: %.*s]", (int)(n - open - 1), help + open);
    for (n = open - 1; n && (help[n - 1] == ' ' || help[n - 1] == '\n');)
        n--;
    return n;
}

static void help_row(const struct flag *f)
{
    char left[128], def[128];
    size_t w = (size_t)snprintf(left, sizeof left, "  ");
    for (const char *c = f->names; *c && w + 3 < sizeof left; c++) {
        if (*c == ' ')
            left[w++] = ',';
        left[w++] = *c;
    }
    left[w] = 0;
    if (f->arg)
        w += (size_t)snprintf(left + w, sizeof left - w, " %s", f->arg);
    unsigned col = HELP_INDENT;
    if (w + 2 > HELP_INDENT)
        printf("%s\n%*s", left, HELP_INDENT, "");
    else
        printf("%-*s", HELP_INDENT, left);
    put_text(f->help, split_default(f->help, def, sizeof def), HELP_INDENT, &col);
    if (*def && strlen(def) < HELP_COLUMNS - HELP_INDENT)
        put_word(def, strlen(def), HELP_INDENT, &col);
    else
        put_text(def, strlen(def), HELP_INDENT, &col);
    putchar('\n');
}

static void help_rows(const struct flag *flag, uint32_t n)
{
    for (const struct flag *f = flag; f < flag + n; f++)
        if (f->type == FLAG_GROUP)
            printf("\n%s\n", f->names);
        else if (f->help)
            help_row(f);
}

/* Lines flow, but for empty ones and those that begin with a blank. */
static void put_about(const char *s)
{
    unsigned col = 0;
    for (size_t n; *s; s += n + (s[n] != 0)) {
        n = strcspn(s, "\n");
        bool stays = !n || *s == ' ';
        if (stays && col)
            putchar('\n');
        if (stays)
            printf("%.*s\n", (int)n, s);
        else
            put_text(s, n, 0, &col);
        col = stays ? 0 : col;
    }
    puts("");
}

static void print_help(const struct program *p)
{
    unsigned col = 7 + (unsigned)strlen(p->name);
    printf("usage: %s", p->name);
    put_text(p->usage, strlen(p->usage), 7, &col);
    puts("\n");
    put_about(p->about);
    help_rows(p->flag, p->n_flag);
    uint32_t n_common;
    const struct flag *common = common_of(p, &n_common);
    help_rows(common, n_common);
    puts("\nExit codes: 0 done, 1 failed, 2 wrong flags, 128 + N ended by signal N (130:\n"
         "Ctrl-C).");
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Text as one field of a line. */
static void print_field(const char *s, char end)
{
    for (; s && *s; s++)
        putchar(*s == '\n' || *s == '\t' ? ' ' : *s);
    putchar(end);
}

static void table_rows(const struct flag *flag, uint32_t n)
{
    for (const struct flag *f = flag; f < flag + n; f++) {
        char def[128], help[1024] = "";
        if (f->type != FLAG_GROUP && !f->help)
            continue;
        if (f->type != FLAG_GROUP) {
            int len = (int)split_default(f->help, def, sizeof def);
            snprintf(help, sizeof help, "%.*s%s%s", len, f->help, *def ? " " : "", def);
        }
        print_field(f->type == FLAG_GROUP    ? "group"
                    : f->type == FLAG_CHOICE ? "choice"
                                             : "flag",
                    '\t');
        print_field(f->names, '\t');
        print_field(f->arg, '\t');
        print_field(help, '\n');
    }
}

/* The program as lines of fields between tabs, for man pages and completions (tools/docs.sh). */
static void print_table(const struct program *p)
{
    printf("version\t%s\n", HLM_VERSION);
    fputs("usage\t", stdout);
    print_field(p->usage, '\n');
    for (const char *line = p->about; line;
         line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        printf("about\t%.*s\n", (int)strcspn(line, "\n"), line);
    table_rows(p->flag, p->n_flag);
    uint32_t n_common;
    const struct flag *common = common_of(p, &n_common);
    table_rows(common, n_common);
}

/* ---- the run's own description --------------------------------------------------------------- */

/* Adds "--name", the longest of its names, and the value to a JSON object. */
static bool note_flag(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    const char *name = strrchr(f->names, ' ');
    json_t *at = json_object_get(user, name = name ? name + 1 : f->names);
    const char *had = json_string_value(at);
    (void)who;
    (void)err;
    /* Several values of one flag stand in one text. */
    json_object_set_new(user, name,
                        had && f->type == FLAG_LIST ? json_sprintf("%s, %s", had, value)
                                                    : json_string(value ? value : "yes"));
    return true;
}

/* The first line of --log-json says what runs and how; a ring has the flags too. */
static void note_start(const struct program *p, int argc, char **argv)
{
    json_t *flags = json_object(), *v;
    const char *name;
    size_t n = 0;
    flags_each(p, argc, argv, note_flag, flags, NULL);
    json_object_foreach(flags, name, v)
    {
        char line[256];
        int len = snprintf(line, sizeof line, "%s\t%.200s\n", name, json_string_value(v));
        for (char *c = strchr(line, '\t'); len > 0 && *++c && c < line + len - 1;)
            *c = *c == '\n' || *c == '\t' ? ' ' : *c;
        if (len > 0 && (size_t)len < sizeof line && n + (size_t)len < sizeof ui.flags) {
            memcpy(ui.flags + n, line, (size_t)len + 1);
            n += (size_t)len;
        }
    }
    ui_event("start", "{s:s, s:s, s:I, s:I, s:o}", "program", p->name, "version", hlm_version(),
             "unix", (json_int_t)time(NULL), "pid", (json_int_t)getpid(), "flags", flags);
    if (!ui.log_json)
        json_decref(flags);
}

bool flags_read(const struct program *p, int argc, char **argv, int *rc)
{
    struct hlm_err err = { 0 };
    ui_look(p->name);
    if (!read_all(p, argc, argv, &err)) {
        *rc = usage_error(p, "%s", err.msg);
        return false;
    }
    if (want_help) {
        print_help(p);
    } else if (want_table) {
        print_table(p);
    } else if (want_version) {
        printf("%s %s\n", p->name, hlm_version());
    } else {
        *rc = RC_USAGE;
        if (ui.log_json && !ui_may_write(ui.log_json, FILE_EVENTS))
            return false;
        *rc = RC_FAILED;
        if (!ui_start(p->name))
            return false;
        note_start(p, argc, argv);
        if (!want_devices)
            return true;
        *rc = ui_end(ui_list_devices());
        return false;
    }
    *rc = fflush(stdout) == 0 ? RC_OK : RC_FAILED;
    return false;
}

bool flags_again(const struct program *p, int argc, char **argv, struct hlm_err *err)
{
    return read_all(p, argc, argv, err);
}

int usage_error(const struct program *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char msg[1024];
    vsnprintf(msg, sizeof msg, fmt, ap);
    ui_look(p->name);
    fprintf(stderr, "%s: ", p->name);
    ui_text(stderr, msg, strlen(msg));
    fprintf(stderr, "\nusage: %s %s\n", p->name, p->usage);
    va_end(ap);
    return RC_USAGE;
}
