/* common: see common.h. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"
#include "common_counters.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct ui ui;
static FILE *json_file;
static double start_s;
static bool bar_shown;

/* ---- messages -------------------------------------------------------------------------------- */

/* Both streams often are one terminal: what was written first must stand first. */
static void before_message(void)
{
    fflush(stdout);
    bar_clear();
}

/* Every message of the programs on its way to standard error: "hlm-chat: warning: ...". */
static void print_message(const char *word, const char *msg)
{
    before_message();
    fprintf(stderr, "%s: %s%s", ui.program, word, *word ? ": " : "");
    ui_text(stderr, msg, strlen(msg)); /* it may have names and texts of files in it */
    fputc('\n', stderr);
}

static void on_log(void *user, enum hlm_log_level level, const char *msg)
{
    static const char *const word[] = { "error", "warning", "info", "debug" };
    (void)user;
    if (level <= HLM_LOG_WARN || (ui.verbose && level == HLM_LOG_INFO))
        print_message(level == HLM_LOG_INFO ? "" : word[level], msg);
    ui_event("log", "{s:s, s:s}", "level", word[level], "message", msg);
}

struct hlm_log ui_log(void) { return (struct hlm_log){ .fn = on_log }; }

#define MESSAGE                                                                                    \
    char msg[1024];                                                                                \
    va_list ap;                                                                                    \
    va_start(ap, fmt);                                                                             \
    vsnprintf(msg, sizeof msg, fmt, ap);                                                           \
    va_end(ap)

void ui_warn(const char *fmt, ...)
{
    MESSAGE;
    on_log(NULL, HLM_LOG_WARN, msg);
}

void ui_info(const char *fmt, ...)
{
    MESSAGE;
    on_log(NULL, HLM_LOG_INFO, msg);
}

void ui_error(const char *fmt, ...)
{
    MESSAGE;
    print_message("", msg);
    counters_error(msg);
    ui_event("error", "{s:s}", "message", msg);
}

void ui_wrong(const char *fmt, ...)
{
    MESSAGE;
    print_message("", msg);
    ui_event("wrong", "{s:s}", "message", msg);
}

int ui_failed(const struct hlm_err *err)
{
    if (!err->kind || err->kind == HLM_ERR_STOPPED)
        return RC_INTERRUPTED;
    ui_error("%s", err->msg);
    return RC_FAILED;
}

bool ui_notes(void) { return ui.tty || ui.verbose; }

/* A message with texts of files in it, which may hold a terminal's own codes. */
static void say(const char *fmt, va_list ap)
{
    va_list twice;
    va_copy(twice, ap);
    int n = vsnprintf(NULL, 0, fmt, twice);
    va_end(twice);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (!text)
        return;
    vsnprintf(text, (size_t)n + 1, fmt, ap);
    ui_text(stderr, text, (uint64_t)n);
    free(text);
}

void ui_note(const char *fmt, ...)
{
    if (!ui_notes())
        return;
    before_message();
    va_list ap;
    va_start(ap, fmt);
    fputs(ui.color ? "\033[2m" : "", stderr);
    say(fmt, ap);
    fputs(ui.color ? "\033[0m\n" : "\n", stderr);
    va_end(ap);
}

void ui_say(const char *fmt, ...)
{
    before_message();
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

void ui_dim(const char *s, uint64_t n)
{
    before_message();
    if (ui.color)
        fputs("\033[2m", stderr);
    ui_text(stderr, s, n);
}

void ui_text(FILE *to, const char *s, uint64_t n)
{
    bool terminal = to == stderr ? ui.tty : ui.out_tty;
    char *clean = terminal ? ui_alloc(n + 1, 3) : NULL;
    if (clean)
        fwrite(clean, 1, ui_clean(s, (size_t)n, clean), to);
    else if (!terminal)
        fwrite(s, 1, (size_t)n, to);
    free(clean);
}

void ui_undim(void)
{
    if (ui.color)
        fputs("\033[0m", stderr);
}

void ui_event(const char *event, const char *fmt, ...)
{
    if (!json_file)
        return;
    json_error_t e;
    va_list ap;
    va_start(ap, fmt);
    json_t *o = json_pack("{s:s, s:f}", "event", event, "t", ui_now_s() - start_s);
    json_t *more = json_vpack_ex(&e, 0, fmt, ap);
    va_end(ap);
    if (o && more)
        json_object_update(o, more);
    /* One write a line: the log sink may be called from helper threads. */
    char *line = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (line)
        fprintf(json_file, "%s\n", line);
    fflush(json_file);
    free(line);
    json_decref(more);
    json_decref(o);
}

bool ui_may_write(const char *path, enum file_kind kind)
{
    struct hlm_err err = { 0 };
    bool replaces = false;
    if (!ui_may_replace(path, kind, &replaces, &err) && !(ui.force && ui_is_file(path))) {
        ui_wrong("%s%s", err.msg, ui_is_file(path) ? " (--force)" : "");
        return false;
    }
    bool often = kind == FILE_EVENTS || kind == FILE_ROWS; /* of scripts, again and again */
    if (replaces)
        (often ? ui_note : ui_say)("%s: replacing %s", path, ui_kind_name(kind));
    return true;
}

/* ---- signals --------------------------------------------------------------------------------- */

static volatile sig_atomic_t n_interrupt, terminated, patience = 2;
static void (*before_kill)(void);

/* What shells report of a process that the signal has ended. */
static int rc_of_signal(void) { return terminated ? 128 + (int)terminated : RC_INTERRUPTED; }

static void on_signal(int sig)
{
    if (sig != SIGINT)
        terminated = sig;
    n_interrupt = n_interrupt + 1;
    if (n_interrupt <= patience)
        return;
    if (before_kill)
        before_kill();
    ui_drop_unfinished();
    hlm_drop_unfinished();
    _exit(rc_of_signal());
}

void ui_before_kill(void (*fn)(void)) { before_kill = fn; }

bool ui_interrupted(void) { return n_interrupt > 0; }
bool ui_terminated(void) { return terminated != 0; }
void ui_interrupt_twice(void) { patience = 1; }

void ui_interrupt_clear(void)
{
    if (!terminated)
        n_interrupt = 0;
}

/* ---- start and end --------------------------------------------------------------------------- */

void ui_look(const char *program)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    ui.program = program;
    ui.tty = isatty(STDERR_FILENO);
    ui.out_tty = isatty(STDOUT_FILENO);
    ui.escapes = term && *term && strcmp(term, "dumb") != 0;
    bool wanted =
        ui.color_choice == COLOR_ON || (ui.color_choice == COLOR_AUTO && !(no_color && *no_color));
    ui.color = ui.tty && ui.escapes && wanted;
}

bool ui_start(const char *program)
{
    ui_look(program);
    start_s = ui_now_s();
    /* No SA_RESTART: a read at the prompt must come back. */
    struct sigaction act = { .sa_handler = on_signal };
    sigemptyset(&act.sa_mask);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file at the limit is to fail like a full disk */
    struct sigaction old;
    if (sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler != SIG_IGN) /* nohup */
        sigaction(SIGHUP, &act, NULL);

    bool to_stdout = ui.log_json && strcmp(ui.log_json, "-") == 0;
    if (to_stdout)
        json_file = stdout;
    else if (ui.log_json && !(json_file = fopen(ui.log_json, "w"))) {
        ui_error("%s: %s", ui.log_json, strerror(errno));
        return false;
    }
    return true;
}

int ui_end(int rc)
{
    counters_end();
    bar_clear();
    if (rc == RC_INTERRUPTED)
        rc = rc_of_signal();
    if (fflush(stdout) != 0 || ferror(stdout)) {
        ui_error("standard output: %s", strerror(errno));
        rc = rc == RC_OK ? RC_FAILED : rc;
    }
    ui_event("end", "{s:i}", "exit", rc);
    if (json_file) {
        bool bad = ferror(json_file) != 0;
        bad |= (json_file == stdout ? fflush(stdout) : fclose(json_file)) != 0;
        json_file = NULL;
        if (bad) {
            ui_error("%s: not all of the log could be written", ui.log_json);
            rc = rc == RC_OK ? RC_FAILED : rc;
        }
    }
    return rc;
}

/* ---- progress -------------------------------------------------------------------------------- */

bool ui_has_line(void) { return ui.tty && ui.escapes; }
static const char *dim(void) { return ui.color ? "\033[2m" : ""; }
static const char *undim(void) { return ui.color ? "\033[0m" : ""; }

unsigned ui_columns(FILE *of)
{
    struct winsize w;
    return ioctl(fileno(of), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static int screen_width(void) { return (int)ui_columns(stderr); }

#define FIRST_LINE_S 10.0 /* of work that reports in lines */
#define NEXT_LINE_S 30.0

/* "2048 / 4096, 412 tok/s, 5.0 s left" */
static void amounts(const struct bar *b, uint64_t done, uint64_t total, double now, char out[160])
{
    double per_s = (double)done / (now - b->start_s);
    struct num rate = num_bytes((uint64_t)per_s);
    int n;
    if (b->bytes)
        n = snprintf(out, 160, "%s / %s", num_bytes(done).s, num_bytes(total).s);
    else
        n = snprintf(out, 160, "%llu / %llu", (unsigned long long)done, (unsigned long long)total);
    if (!b->bytes)
        snprintf(rate.s, sizeof rate.s, per_s < 100 ? "%.1f" : "%.0f", per_s);
    if (done && done >= total / 20) /* before that the time left would be a guess */
        snprintf(out + n, 160 - (size_t)n, ", %s%s%s/s, %s left", rate.s, b->unit ? " " : "",
                 b->unit ? b->unit : "", span_text((double)(total - done) / per_s).s);
}

/* "reading ########........  50 %  2048 / 4096, 412 tok/s, 5.0 s left" */
static void draw_bar(const struct bar *b, uint64_t done, uint64_t total, double now)
{
    char bar[31], text[160];
    int width = screen_width() - 70;
    width = width > 30 ? 30 : width < 0 ? 0 : width;
    int full = (int)((double)width * (double)done / (double)total);
    for (int i = 0; i < width; i++)
        bar[i] = i < full ? '#' : '.';
    bar[width] = 0;
    amounts(b, done, total, now, text);
    ui_status("%s %s %3.0f %%  %s", b->what, bar, 100.0 * (double)done / (double)total, text);
}

bool bar_progress(void *user, uint64_t done, uint64_t total)
{
    struct bar *b = user;
    char text[160];
    double now = ui_now_s(), since = now - b->drawn_s;
    if (b->start_s == 0)
        b->start_s = now;
    double took = now - b->start_s;
    if (done >= total)
        return !ui_interrupted();
    /* Short work shows nothing, long work ten pictures a second. */
    if (ui_has_line() && took > 0.5 && since > 0.1) {
        draw_bar(b, done, total, now);
        b->drawn_s = now;
    } else if (!ui_has_line() && b->lines && took > FIRST_LINE_S && since > NEXT_LINE_S) {
        amounts(b, done, total, now, text);
        ui_say("%s: %.0f %%, %s", b->what, 100.0 * (double)done / (double)total, text);
        b->drawn_s = now;
    }
    return !ui_interrupted();
}

void ui_status(const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (!ui_has_line()) {
        if (ui.verbose)
            ui_note("%s", line);
        return;
    }
    fflush(stdout);
    fprintf(stderr, "\r%s%.*s%s\033[K", dim(), screen_width() - 1, line, undim());
    bar_shown = true;
}

void bar_clear(void)
{
    if (bar_shown)
        fputs("\r\033[K", stderr);
    bar_shown = false;
}

/* ---- models ---------------------------------------------------------------------------------- */

static struct bar loading; /* outlives hlm_open: hlm_load has the same progress */

/* The line stays until there is another: the first run of a kernel may take a while too. */
static bool on_preparing(void *user, uint64_t done, uint64_t total)
{
    static double began_s;
    (void)user;
    if (!done)
        began_s = ui_now_s();
    if (ui_has_line() && ui_now_s() - began_s > 0.1)
        ui_status("preparing kernels for this device, once: %llu of %llu", (unsigned long long)done,
                  (unsigned long long)total);
    return !ui_interrupted();
}

hlm *ui_open_model(struct hlm_params params, int *rc)
{
    struct hlm_err err = { 0 };
    loading = (struct bar){ .what = "loading", .bytes = true };
    params.device = ui.device;
    params.any_base = ui.force;
    params.cache_dir = dir_cache();
    params.log = ui_log();
    params.progress = bar_progress;
    params.progress_user = &loading;
    params.preparing = on_preparing;
    params.watch = counters_watch;
    double t0 = ui_now_s();
    hlm *m = hlm_open(&params, &err);
    bar_clear();
    if (!m) {
        *rc = ui_failed(&err);
        return NULL;
    }
    struct hlm_info i = hlm_get_info(m);
    ui_event("model", "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:f}", "path", i.path, "arch",
             i.arch, "name", i.name, "device", i.device, "driver", i.driver, "n_param",
             (json_int_t)i.n_param, "file_bytes", (json_int_t)i.file_bytes, "weight_bytes",
             (json_int_t)i.weight_bytes, "open_s", ui_now_s() - t0);
    return m;
}

bool ui_load_model(hlm *m, int *rc)
{
    struct hlm_err err = { 0 };
    double t0 = ui_now_s();
    loading = (struct bar){ .what = "loading", .bytes = true };
    bool ok = hlm_load(m, &err);
    bar_clear();
    if (!ok)
        *rc = ui_failed(&err);
    ui_event("loaded", "{s:f}", "load_s", ui_now_s() - t0);
    return ok;
}

int ui_list_devices(void)
{
    struct hlm_device dev[16];
    struct hlm_err err = { 0 };
    int n = hlm_devices(dev, (int)ARRAY_LEN(dev), &err);
    if (n < 0) {
        ui_error("%s", err.msg);
        return RC_FAILED;
    }
    if (n == 0) {
        ui_error(
            "no Vulkan device: install the vendor's driver, or mesa-vulkan-drivers and libvulkan1 "
            "(Debian, Ubuntu), which also bring one that runs on the CPU");
        return RC_FAILED;
    }
    for (int i = 0; i < n; i++) {
        struct num heap = num_bytes(dev[i].heap_bytes), left = num_bytes(dev[i].free_bytes);
        printf("%d: %s (%s)\n   driver %s\n   memory %s, %s free\n   %s\n", i, dev[i].name,
               dev[i].kind, dev[i].driver, heap.s, left.s, dev[i].features);
    }
    return RC_OK;
}

void ui_kernels(hlm *m)
{
    struct hlm_kernel k[256];
    uint32_t n = hlm_kernels(m, k, (uint32_t)ARRAY_LEN(k));
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += k[i].us;
    ui_say("%-28s %8s %11s %6s %9s %9s", "kernel", "times", "ms", "share", "GB/s", "GFLOP/s");
    for (uint32_t i = 0; i < n; i++)
        ui_say("%-28s %8llu %11.3f %5.1f%% %9.2f %9.2f", k[i].name, (unsigned long long)k[i].n,
               k[i].us * 1e-3, sum > 0 ? 100 * k[i].us / sum : 0,
               k[i].us > 0 ? (double)k[i].bytes / k[i].us * 1e-3 : 0,
               k[i].us > 0 ? k[i].flop / k[i].us * 1e-3 : 0);
}

/* ---- numbers, text, folders ------------------------------------------------------------------ */

static struct num scaled(uint64_t n, double step, const char *const *unit, int n_unit)
{
    struct num out;
    double v = (double)n;
    int u = 0;
    while (v >= step && u + 1 < n_unit) {
        v /= step;
        u++;
    }
    snprintf(out.s, sizeof out.s, u == 0 ? "%.0f%s%s" : "%.1f%s%s", v, *unit[u] ? " " : "",
             unit[u]);
    return out;
}

struct num num_bytes(uint64_t n)
{
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    return scaled(n, 1024, unit, (int)ARRAY_LEN(unit));
}

struct num num_short(uint64_t n)
{
    static const char *const unit[] = { "", "k", "M", "B" };
    return scaled(n, 1000, unit, (int)ARRAY_LEN(unit));
}

const char *device_name(const char *name, char *out, uint64_t size)
{
    snprintf(out, (size_t)size, "%.*s", (int)strcspn(name, "("), name);
    for (size_t n = strlen(out); n && out[n - 1] == ' ';)
        out[--n] = 0;
    return out;
}

struct num ui_day(void)
{
    struct num out = { "" };
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    time_t now = epoch && *epoch ? (time_t)strtoll(epoch, NULL, 10) : time(NULL);
    struct tm day;
    if (gmtime_r(&now, &day))
        strftime(out.s, sizeof out.s, "%Y-%m-%d", &day);
    return out;
}

struct span span_text(double s)
{
    struct span out;
    unsigned long long n = s > 0 ? (unsigned long long)(s + 0.5) : 0;
    if (s < 1)
        snprintf(out.s, sizeof out.s, "%.0f ms", 1000 * s);
    else if (n < 120)
        snprintf(out.s, sizeof out.s, n < 10 ? "%.1f s" : "%.0f s", s);
    else if (n < 7200)
        snprintf(out.s, sizeof out.s, "%llu min", (n + 30) / 60);
    else
        snprintf(out.s, sizeof out.s, "%llu h %llu min", n / 3600, n % 3600 / 60);
    return out;
}

char *read_stdin(uint64_t *n, struct hlm_err *err)
{
    enum { PIECE = 1 << 16 };
    struct ui_bytes b = { 0 };
    for (;;) {
        if (!ui_reserve(&b, PIECE)) {
            ui_fail_memory(err, "standard input: out of memory at %s", num_bytes(b.n).s);
            break;
        }
        ssize_t got = read(STDIN_FILENO, b.s + b.n, PIECE);
        if (got < 0 && errno == EINTR && !ui_interrupted())
            continue;
        if (got < 0 && errno == EINTR)
            ui_fail_stopped(err);
        else if (got < 0)
            ui_fail_system(err, "standard input: %s", strerror(errno));
        if (got < 0)
            break;
        b.n += (size_t)got;
        b.s[b.n] = 0;
        *n = b.n;
        if (got == 0)
            return b.s;
    }
    ui_bytes_free(&b);
    return NULL;
}

static bool make_dirs(char *path)
{
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0700);
            *p = '/';
        }
    struct stat st;
    mkdir(path, 0700);
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static const char *dir_of(const char *env, const char *under_home, char *out, size_t size)
{
    const char *base = getenv(env), *home = getenv("HOME");
    int n;
    if (base && base[0] == '/') /* the XDG rule: a relative one counts as unset */
        n = snprintf(out, size, "%s/hlm", base);
    else if (home && home[0] == '/')
        n = snprintf(out, size, "%s/%s/hlm", home, under_home);
    else
        return NULL;
    return n > 0 && (size_t)n < size && make_dirs(out) ? out : NULL;
}

const char *dir_cache(void)
{
    static char path[4096];
    return dir_of("XDG_CACHE_HOME", ".cache", path, sizeof path);
}

const char *dir_state(void)
{
    static char path[4096];
    return dir_of("XDG_STATE_HOME", ".local/state", path, sizeof path);
}

const char *dir_config(void)
{
    static char path[4096];
    return dir_of("XDG_CONFIG_HOME", ".config", path, sizeof path);
}

/* The i-th part of a list with colons; false: there is none. */
static bool part_of(const char *list, uint32_t i, char *out, size_t size)
{
    while (list && i--)
        list = strchr(list, ':') ? strchr(list, ':') + 1 : NULL;
    if (!list || !*list)
        return false;
    snprintf(out, size, "%.*s", (int)strcspn(list, ":"), list);
    return true;
}

bool models_folder(uint32_t i, char *out, uint64_t size, bool *ollama)
{
    static const struct {
        const char *env, *under_env, *under_home;
        bool ollama;
    } rows[] = {
        { "XDG_CACHE_HOME", "/hlm/models", "/.cache/hlm/models", false },
        { "LLAMA_CACHE", "", "/.cache/llama.cpp", false },
        { NULL, "", "/.lmstudio/models", false },
        { NULL, "", "/.cache/lm-studio/models", false },
        { "OLLAMA_MODELS", "", "/.ollama/models", true },
    };
    uint32_t n = 0;
    *ollama = false;
    for (; part_of(getenv("HLM_MODELS"), n, out, (size_t)size); n++)
        if (n == i)
            return true;
    i -= n;
    out[0] = 0;
    if (i > ARRAY_LEN(rows))
        return false;
    *ollama = i == ARRAY_LEN(rows) || rows[i].ollama;
    if (i == ARRAY_LEN(rows)) { /* where it runs as a service */
        snprintf(out, (size_t)size, "/usr/share/ollama/.ollama/models");
        return true;
    }
    const char *base = rows[i].env ? getenv(rows[i].env) : NULL, *home = getenv("HOME");
    if (base && base[0] == '/')
        snprintf(out, (size_t)size, "%s%s", base, rows[i].under_env);
    else if (home && home[0] == '/')
        snprintf(out, (size_t)size, "%s%s", home, rows[i].under_home);
    return true;
}

const char *config_path(void)
{
    static char path[4096];
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    bool by_base = base && base[0] == '/';
    if (!by_base && !(home && home[0] == '/'))
        return NULL;
    int n = snprintf(path, sizeof path, "%s%s/hlm/config", by_base ? base : home,
                     by_base ? "" : "/.config");
    return n > 0 && (size_t)n < sizeof path ? path : NULL;
}

const char *dir_home(void)
{
    const char *home = getenv("HOME");
    return home && *home ? home : NULL;
}

const char *ui_editor(void)
{
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    return visual && *visual ? visual : editor && *editor ? editor : NULL;
}
