/* chat_term: see chat_term.h. libedit edits; bytes come in through a reader of ours, so that
 * signals and pastes are seen, whatever libedit makes of them. */
#define _XOPEN_SOURCE 700
#include "chat_term.h"
#include "common.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

struct term {
    EditLine *el;
    History *history;
    const char *history_path;
    const char *const *words;
    FILE *out;
    const char *prompt;
    struct winsize size;
    char *text; /* the message so far */
    uint64_t n, cap;
};

static struct term *term_of(EditLine *el)
{
    void *t = NULL;
    el_get(el, EL_CLIENTDATA, &t);
    return t;
}

static char *show_prompt(EditLine *el)
{
    static char prompt[16];
    snprintf(prompt, sizeof prompt, "%s", term_of(el)->prompt);
    return prompt;
}

/* ---- input ----------------------------------------------------------------------------------- */

static bool read_byte(EditLine *el, unsigned char *b)
{
    struct term *t = term_of(el);
    for (;;) {
        ssize_t n = read(STDIN_FILENO, b, 1);
        if (n == 1)
            return true;
        if (n == 0 || errno != EINTR || ui_interrupted())
            return false;
        /* Another signal: most likely the window has a new size. */
        struct winsize now = t->size;
        if (ioctl(STDIN_FILENO, TIOCGWINSZ, &now) == 0 &&
            (now.ws_col != t->size.ws_col || now.ws_row != t->size.ws_row)) {
            t->size = now;
            el_resize(el);
        }
    }
}

/* One character of UTF-8; what is none becomes U+FFFD. Returns 1, or 0 at the end and on Ctrl-C. */
static int read_char(EditLine *el, wchar_t *out)
{
    unsigned char b;
    if (!read_byte(el, &b))
        return 0;
    int more = b >= 0xf0 && b < 0xf5 ? 3 : b >= 0xe0 ? 2 : b >= 0xc2 ? 1 : 0;
    uint32_t c = b < 0x80 ? b : more == 3 ? b & 7u : more == 2 ? b & 15u : b & 31u;
    bool good = b < 0x80 || (b >= 0xc2 && b < 0xf5);
    for (; good && more; more--) {
        if (!read_byte(el, &b))
            return 0;
        good = (b & 0xc0) == 0x80;
        c = c << 6 | (b & 63u);
    }
    *out = good && c <= 0x10ffff ? (wchar_t)c : 0xfffd;
    return 1;
}

/* ESC [ 2 0 0 ~ has come: everything up to ESC [ 2 0 1 ~ is text, line ends and all. */
static unsigned char on_paste(EditLine *el, wint_t key)
{
    static const char end[] = "\033[201~";
    char *text = NULL;
    uint64_t n = 0, cap = 0, n_end = sizeof end - 1;
    unsigned char b;
    (void)key;
    while (read_byte(el, &b)) {
        if (n + 2 > cap) {
            char *more = ui_grow(text, cap = 2 * cap + 256, 1);
            if (!more)
                break;
            text = more;
        }
        text[n++] = (char)b;
        if (n >= n_end && memcmp(text + n - n_end, end, (size_t)n_end) == 0) {
            n -= n_end;
            break;
        }
    }
    uint64_t w = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n')
            continue;
        char c = text[i] == '\r' ? '\n' : text[i];
        if ((unsigned char)c >= ' ' || c == '\n' || c == '\t') /* no other control characters */
            text[w++] = c;
    }
    while (w && text[w - 1] == '\n') /* Enter is the person's to press */
        w--;
    bool ok = w == 0;
    if (w) {
        text[w] = 0;
        ok = el_insertstr(el, text) == 0;
    }
    free(text);
    return ok ? CC_REFRESH : CC_ERROR;
}

static unsigned char on_newline(EditLine *el, wint_t key)
{
    (void)key;
    return el_insertstr(el, "\n") == 0 ? CC_REFRESH : CC_ERROR;
}

/* Completes the first word of the line as far as it is unique. */
static unsigned char on_tab(EditLine *el, wint_t key)
{
    struct term *t = term_of(el);
    const LineInfo *line = el_line(el);
    size_t n = (size_t)(line->cursor - line->buffer), common = 0;
    const char *found = NULL;
    (void)key;
    for (const char *const *w = t->words; w && *w && n; w++) {
        if (strncmp(*w, line->buffer, n) != 0)
            continue;
        size_t same = n;
        while (found && same < common && found[same] == (*w)[same])
            same++;
        common = found ? same : strlen(*w);
        found = *w;
    }
    if (!found || common == n)
        return CC_ERROR;
    char rest[32];
    snprintf(rest, sizeof rest, "%.*s", (int)(common - n), found + n);
    return el_insertstr(el, rest) == 0 ? CC_REFRESH : CC_ERROR;
}

/* ---- open and close -------------------------------------------------------------------------- */

/* libedit shows characters by the locale; text is UTF-8 whatever the locale is called. */
static void need_utf8(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0 && !setlocale(LC_CTYPE, "C.UTF-8"))
        setlocale(LC_CTYPE, "en_US.UTF-8");
}

struct term *term_open(const char *history_path, const char *const *words, struct hlm_err *err)
{
    need_utf8();
    struct term *t = ui_alloc(1, sizeof *t);
    HistEvent ev;
    if (!t)
        goto fail;
    t->words = words;
    t->prompt = ">>> ";
    /* Prompts are no answers: they leave by standard error where that is the terminal. */
    int fd = dup(isatty(STDERR_FILENO) ? STDERR_FILENO : STDOUT_FILENO);
    t->out = fd >= 0 ? fdopen(fd, "w") : NULL;
    t->el = t->out ? el_init(ui.program, stdin, t->out, t->out) : NULL;
    t->history = history_init();
    if (!t->el || !t->history)
        goto fail;
    el_set(t->el, EL_CLIENTDATA, t);
    el_set(t->el, EL_EDITOR, "emacs");
    el_set(t->el, EL_SIGNAL, 0);
    el_set(t->el, EL_PROMPT, show_prompt);
    el_set(t->el, EL_HIST, history, t->history);
    el_set(t->el, EL_ADDFN, "hlm-paste", "a paste", on_paste);
    el_set(t->el, EL_ADDFN, "hlm-newline", "a line end inside the message", on_newline);
    el_set(t->el, EL_ADDFN, "hlm-tab", "complete a command", on_tab);
    el_source(t->el, NULL); /* the person's ~/.editrc */
    el_set(t->el, EL_BIND, "\033[200~", "hlm-paste", NULL);
    el_set(t->el, EL_BIND, "\033\r", "hlm-newline", NULL);
    el_set(t->el, EL_BIND, "\t", "hlm-tab", NULL);
    el_set(t->el, EL_GETCFN, read_char);
    history(t->history, &ev, H_SETSIZE, 1000);
    history(t->history, &ev, H_SETUNIQUE, 1);
    if (history_path)
        history(t->history, &ev, H_LOAD, history_path); /* the first time there is none */
    t->history_path = history_path;
    return t;
fail:
    ui_fail(err, "no line editing on this terminal");
    term_close(t);
    return NULL;
}

/* Written beside and renamed: a second hlm-chat that ends now replaces it whole, or comes to
 * nothing. */
static void save_history(struct term *t)
{
    char beside[4200];
    HistEvent ev;
    int n = snprintf(beside, sizeof beside, "%s.%ld", t->history_path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof beside)
        return;
    if (history(t->history, &ev, H_SAVE, beside) < 0 || rename(beside, t->history_path) != 0) {
        ui_note("%s: the history could not be kept: %s", t->history_path, strerror(errno));
        unlink(beside);
    }
}

void term_close(struct term *t)
{
    if (!t)
        return;
    if (t->history && t->history_path)
        save_history(t);
    if (t->el)
        el_end(t->el);
    if (t->history)
        history_end(t->history);
    if (t->out)
        fclose(t->out);
    free(t->text);
    free(t);
}

/* ---- messages -------------------------------------------------------------------------------- */

static bool append(struct term *t, const char *s, size_t n)
{
    if (t->n + n + 1 > t->cap) {
        uint64_t cap = 2 * (t->n + n) + 256;
        char *more = ui_grow(t->text, cap, 1);
        if (!more)
            return false;
        t->text = more;
        t->cap = cap;
    }
    memcpy(t->text + t->n, s, n);
    t->n += n;
    t->text[t->n] = 0;
    return true;
}

/* One line without its end, NULL at the end of input and on Ctrl-C. Valid until the next one. */
static const char *edit_line(struct term *t, const char *prompt, size_t *n)
{
    int count = 0;
    t->prompt = prompt;
    ioctl(STDIN_FILENO, TIOCGWINSZ, &t->size);
    fputs(ui.color ? "\033[?2004h" : "", t->out);
    fflush(t->out);
    const char *line = el_gets(t->el, &count);
    fputs(ui.color ? "\033[?2004l" : "", t->out);
    fflush(t->out);
    *n = line && count > 0 ? (size_t)count : 0;
    while (*n && (line[*n - 1] == '\n' || line[*n - 1] == '\r'))
        (*n)--;
    return line && count > 0 ? line : NULL;
}

static size_t trimmed(const char *s, size_t n)
{
    while (n && strchr(" \t\n", s[n - 1]))
        n--;
    return n;
}

/* Adds a line to the message: true when that is now whole. open: inside """. */
static bool add_line(struct term *t, const char *s, size_t n, bool *open, bool *quoted)
{
    static const char quotes[] = "\"\"\"";
    size_t end = trimmed(s, n), begin = 0;
    if (!*open) {
        while (begin < end && (s[begin] == ' ' || s[begin] == '\t'))
            begin++;
        if (end - begin < 3 || memcmp(s + begin, quotes, 3) != 0) {
            *quoted = memchr(s, '\n', end) != NULL;
            append(t, s, end);
            return true;
        }
        *open = *quoted = true;
        s += begin + 3;
        n -= begin + 3;
        end -= begin + 3;
    }
    if (end >= 3 && memcmp(s + end - 3, quotes, 3) == 0) {
        append(t, s, end - 3);
        *open = false;
        return true;
    }
    if ((t->n || end) && append(t, s, n)) /* no empty line after the opening quotes */
        append(t, "\n", 1);
    return false;
}

enum term_got term_read(struct term *t, char **text, bool *quoted)
{
    bool open = false;
    int n_interrupt = 0;
    HistEvent ev;
    t->n = 0;
    *text = NULL;
    for (;;) {
        size_t n;
        const char *line = edit_line(t, open ? "... " : ">>> ", &n);
        if (!line) {
            const LineInfo *left = el_line(t->el);
            bool typed = open || left->lastchar > left->buffer;
            fputs(ui_interrupted() ? "^C\n" : "\n", t->out);
            fflush(t->out);
            n_interrupt = typed ? 1 : n_interrupt + 1;
            if (!ui_interrupted() || ui_terminated() || n_interrupt > 1)
                return TERM_LEFT;
            if (!typed)
                ui_note("(Ctrl-C once more, Ctrl-D or /bye to leave)");
            ui_interrupt_clear();
            open = false;
            t->n = 0;
            continue;
        }
        n_interrupt = 0;
        if (!add_line(t, line, n, &open, quoted) ||
            (t->n = trimmed(t->text ? t->text : "", t->n)) == 0) {
            t->n = open ? t->n : 0;
            continue;
        }
        t->text[t->n] = 0;
        history(t->history, &ev, H_ENTER, t->text);
        if ((*text = ui_copy(t->text, t->n)))
            return TERM_MESSAGE;
    }
}
