/* chat_term: see chat_term.h. */
#define _XOPEN_SOURCE 700
#include "chat_term.h"

#include "chat_tty.h"
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ESCAPE_MS = 500,     /* a sequence that has paused so long is not going on */
    DELIBERATE_MS = 300, /* a Ctrl-C sooner than this after the last one is a held key */
};

struct term {
    struct term_params params;
    struct history history;
    struct edit edit;
    struct screen screen;
    int fd; /* what is drawn goes there */
    bool own_fd;
    struct ui_bytes in; /* that were read and are no keys yet */
    const char *prompt;
    double noticed_s; /* when it was said that Ctrl-C would leave; 0: it does not */
};

/* ---- bytes ----------------------------------------------------------------------------------- */

static void flush(struct term *t)
{
    const char *s = t->screen.out.s;
    for (size_t n = t->screen.out.n; n;) {
        ssize_t got = write(t->fd, s, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        s += got;
        n -= (size_t)got;
    }
    t->screen.out.n = 0;
}

static void draw(struct term *t, bool whole)
{
    char room[128];
    struct picture p = edit_picture(&t->edit, t->prompt, room, sizeof room);
    p.whole = whole;
    p.at = whole ? p.n : p.at;
    screen_draw(&t->screen, &p);
    flush(t);
}

static void draw_anew(struct term *t, enum tty_change why)
{
    unsigned cols, rows;
    if (why == TTY_SAME || !ui.escapes)
        return;
    if (why == TTY_CONTINUED)
        screen_forget(&t->screen);
    tty_size(&cols, &rows);
    screen_resize(&t->screen, cols, rows);
    draw(t, false);
}

enum read_got { READ_SOME, READ_PAUSE, READ_END };

/* Waits for more bytes, at most this long; < 0: as long as it takes. */
static enum read_got read_more(struct term *t, int wait_ms)
{
    if (!ui_reserve(&t->in, 4096))
        return READ_END;
    for (;;) {
        tty_hold_signals();
        draw_anew(t, tty_changed());
        int ready = ui_interrupted() ? -2 : tty_wait(wait_ms); /* Ctrl-C itself is a key here */
        tty_release_signals();
        if (ready == 0)
            return READ_PAUSE;
        ssize_t n = ready < 0 ? -1 : read(STDIN_FILENO, t->in.s + t->in.n, 4096);
        if (n > 0) {
            t->in.n += (size_t)n;
            t->in.s[t->in.n] = 0;
            return READ_SOME;
        }
        if (ready == -2 || n == 0 || errno != EINTR)
            return READ_END;
    }
}

/* The text of a paste, which begins the bytes at hand. False: reading ended in it, and what came of
 * it is dropped. */
static bool read_paste(struct term *t)
{
    static const size_t n_end = sizeof KEY_PASTE_END - 1;
    for (size_t at = 0;; at++) {
        while (at + n_end > t->in.n)
            if (read_more(t, -1) == READ_END) {
                t->in.n = 0;
                return false;
            }
        if (memcmp(t->in.s + at, KEY_PASTE_END, n_end) == 0) {
            edit_paste(&t->edit, t->in.s, at);
            ui_drop(&t->in, at + n_end);
            return true;
        }
    }
}

/* ---- what a key may ask for ------------------------------------------------------------------ */

/* The terminal as other programs expect it, the cursor below the message. */
static void leave(struct term *t)
{
    draw(t, true);
    screen_leave(&t->screen);
    flush(t);
}

static bool write_file(const char *path, const char *s, size_t n)
{
    FILE *f = fopen(path, "w");
    bool ok = f && fwrite(s, 1, n, f) == n;
    return (f ? fclose(f) == 0 : false) && ok;
}

/* Runs the editor on a file with the line's text, and takes what the file then holds. The shell is
 * given the path in a variable, so that no character of it matters. */
static bool run_editor(const struct term *t, const char *path, struct line *l, struct hlm_err *err)
{
    char command[1200];
    uint64_t n = 0;
    int len = snprintf(command, sizeof command, "%s \"$HLM_MESSAGE\"", t->params.editor);
    if (len < 0 || (size_t)len >= sizeof command)
        return ui_fail(err, "the command of the editor is too long: %.60s...", t->params.editor);
    if (!write_file(path, l->s, l->n) || setenv("HLM_MESSAGE", path, 1) != 0)
        return ui_fail_system(err, "%.300s: %s", path, strerror(errno));
    int rc = system(command);
    unsetenv("HLM_MESSAGE");
    if (rc != 0)
        return ui_fail(err, "%s: failed: the message is as it was", t->params.editor);
    char *text = ui_read_file(path, 1 << 26, &n, err);
    while (text && n && text[n - 1] == '\n')
        n--;
    bool ok = text != NULL;
    if (ok)
        line_set(l, text, n);
    free(text);
    return ok;
}

/* Lets the person's editor change the message: a file in a folder of its own, which only its owner
 * can read. */
static bool edit_outside(struct term *t, struct hlm_err *err)
{
    char folder[3000], path[3100];
    if (!t->params.editor || !t->params.folder)
        return ui_fail(err, "no editor: set VISUAL or EDITOR");
    snprintf(folder, sizeof folder, "%s/message-XXXXXX", t->params.folder); /* for mkdtemp */
    if (!mkdtemp(folder))
        return ui_fail_system(err, "%.300s: %s", folder, strerror(errno));
    snprintf(path, sizeof path, "%s/message.md", folder);
    bool ok = run_editor(t, path, &t->edit.line, err);
    unlink(path);
    rmdir(folder);
    return ok;
}

static void edit_and_return(struct term *t)
{
    struct hlm_err err = { 0 };
    leave(t);
    tty_set(TTY_FOUND);
    if (!edit_outside(t, &err))
        ui_wrong("%s", err.msg);
    tty_set(TTY_RAW);
    draw_anew(t, TTY_CONTINUED);
}

/* The choices of a completion, in columns below the message, which is then drawn again. */
static void show_list(struct term *t)
{
    enum { MOST = 200, GAP = 2 };
    const struct choices *c = &t->edit.list;
    uint32_t n = ui_min_u32(c->n, MOST);
    unsigned widest = 1;
    leave(t);
    for (uint32_t i = 0; i < n; i++) {
        const char *s = c->v[i].shown ? c->v[i].shown : c->v[i].text;
        widest = ui_max_u32(widest, text_columns(s, strlen(s)));
    }
    uint32_t per_row = ui_max_u32((t->screen.cols + GAP - 1) / (widest + GAP), 1);
    uint32_t n_row = (n + per_row - 1) / per_row;
    for (uint32_t row = 0; row < n_row; row++) {
        for (uint32_t i = row; i < n; i += n_row) {
            const char *s = c->v[i].shown ? c->v[i].shown : c->v[i].text;
            screen_put(&t->screen, s, strlen(s));
            for (unsigned w = text_columns(s, strlen(s)); i + n_row < n && w < widest + GAP; w++)
                screen_put(&t->screen, " ", 1);
        }
        screen_put(&t->screen, "\r\n", 2);
    }
    if (c->n > n)
        screen_put(&t->screen, "...\r\n", 5);
    choices_free(&t->edit.list);
}

/* Does what the key asks for besides changing the line. True: the message is at its end. */
static bool act(struct term *t, enum edit_did did)
{
    switch (did) {
    case EDIT_ON: return false;
    case EDIT_LIST: show_list(t); return false;
    case EDIT_WRITE: edit_and_return(t); return false;
    case EDIT_CLEAR:
        screen_put(&t->screen, "\033[H\033[2J", 7);
        screen_forget(&t->screen);
        return false;
    case EDIT_STOP:
    case EDIT_QUIT:
        leave(t);
        (did == EDIT_STOP ? tty_stop : tty_quit)();
        tty_changed();
        draw_anew(t, TTY_CONTINUED); /* here, where the cursor stands on an empty row */
        return false;
    default: return true;
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

/* What an end of reading is like: the key that leaves or, where another program sent SIGINT, the
 * one that clears the line. */
static enum edit_did why_ended(void)
{
    return ui_interrupted() && !ui_terminated() ? EDIT_CANCEL : EDIT_LEAVE;
}

/* Takes keys until one ends the message, or reading ends. */
static enum edit_did take_keys(struct term *t)
{
    for (bool last = false;;) {
        struct key key;
        size_t n = key_read(t->in.s, t->in.n, last, &key);
        last = false;
        if (!n) {
            draw(t, false);
            enum read_got got = read_more(t, t->in.n ? ESCAPE_MS : -1);
            if (got == READ_END)
                return why_ended();
            last = got == READ_PAUSE;
            continue;
        }
        ui_drop(&t->in, n);
        if (key.code == KEY_PASTE) {
            draw(t, false); /* a long paste takes a while */
            if (!read_paste(t))
                return why_ended();
            continue;
        }
        enum edit_did did = edit_key(&t->edit, &key);
        if (did != EDIT_CANCEL)
            t->noticed_s = 0;
        if (act(t, did))
            return did;
    }
}

/* Ctrl-C: clears a line; on an empty one says what the next one does, and that one leaves. One that
 * follows so fast that the key is held down, or pressed twice by habit, does not count. */
static bool leaves_by_interrupt(struct term *t, bool typed)
{
    double now = ui_now_s();
    if (typed || t->noticed_s == 0) {
        t->noticed_s = typed ? 0 : now;
        if (!typed)
            ui_note("(Ctrl-C once more, Ctrl-D or /exit to leave)");
        return false;
    }
    bool deliberate = now - t->noticed_s > DELIBERATE_MS * 1e-3;
    t->noticed_s = now;
    return deliberate;
}

static size_t trimmed(const char *s, size_t n)
{
    while (n && text_is_blank(s[n - 1]))
        n--;
    return n;
}

static const char quotes[] = "\"\"\"";

/* Where the text after opening quotes begins; 0: it does not begin with them. */
static size_t after_quotes(const char *s, size_t n)
{
    size_t at = 0;
    while (at < n && (s[at] == ' ' || s[at] == '\t'))
        at++;
    return n - at >= 3 && memcmp(s + at, quotes, 3) == 0 ? at + 3 : 0;
}

static bool closes_quotes(const char *s, size_t from, size_t n)
{
    return n >= from + 3 && memcmp(s + n - 3, quotes, 3) == 0;
}

static bool is_open(const char *s, size_t n)
{
    size_t from = after_quotes(s, n);
    return from && !closes_quotes(s, from, trimmed(s, n));
}

/* The message without its quotes and the blanks at its end; the caller frees it. */
static char *message_of(const char *s, size_t n, bool *quoted)
{
    size_t from = after_quotes(s, n), end = trimmed(s, n);
    *quoted = from || memchr(s, '\n', end) != NULL;
    if (from && closes_quotes(s, from, end))
        end = trimmed(s, end - 3);
    if (from && from < end && s[from] == '\n') /* no empty line after the opening quotes */
        from++;
    return ui_copy(s + from, end > from ? end - from : 0);
}

/* Where the terminal cannot move its cursor, it edits lines itself, one at a time. */
static enum edit_did take_plain_lines(struct term *t)
{
    struct line *l = &t->edit.line;
    tty_set(TTY_FOUND);
    do {
        const char *prompt = l->n ? "... " : t->prompt;
        screen_put(&t->screen, prompt, strlen(prompt));
        flush(t);
        for (char *end; !(end = t->in.n ? memchr(t->in.s, '\n', t->in.n) : NULL);)
            if (read_more(t, -1) == READ_END)
                return why_ended();
        size_t n = (size_t)((char *)memchr(t->in.s, '\n', t->in.n) - t->in.s);
        if (l->n)
            line_insert(l, "\n", 1);
        line_insert(l, t->in.s, n);
        ui_drop(&t->in, n + 1);
        t->noticed_s = 0;
    } while (l->n && is_open(l->s, l->n));
    return EDIT_DONE;
}

static enum edit_did take_message(struct term *t, const char *prefill)
{
    edit_begin(&t->edit, prefill && ui.escapes ? prefill : "");
    if (!ui.escapes)
        return take_plain_lines(t);
    tty_size(&t->screen.cols, &t->screen.rows);
    tty_set(TTY_RAW);
    enum edit_did did = take_keys(t);
    draw(t, true);
    if (did == EDIT_CANCEL)
        screen_put(&t->screen, "^C", 2);
    screen_leave(&t->screen);
    flush(t);
    tty_set(TTY_QUIET);
    return did;
}

static void remember(struct term *t, const char *text)
{
    struct hlm_err err = { 0 };
    if (history_add(&t->history, text, &err))
        return;
    ui_warn("%s: earlier messages are known until the program ends", err.msg);
    t->history.path = NULL;
}

enum term_got term_read(struct term *t, const char *prompt, const char *prefill, char **text,
                        bool *quoted)
{
    *text = NULL;
    t->prompt = prompt;
    for (;; prefill = NULL) {
        enum edit_did did = take_message(t, prefill);
        const struct line *l = &t->edit.line;
        if (did == EDIT_LEAVE)
            return TERM_LEFT;
        if (did == EDIT_CANCEL) {
            if (leaves_by_interrupt(t, l->n > 0))
                return TERM_LEFT;
            ui_interrupt_clear();
            if (l->n)
                return TERM_CLEARED;
            continue;
        }
        if (!(*text = message_of(l->s ? l->s : "", l->n, quoted)))
            return TERM_LEFT;
        if (**text) {
            remember(t, *text);
            return TERM_MESSAGE;
        }
        free(*text);
    }
}

/* ---- open and close -------------------------------------------------------------------------- */

void term_hold(void)
{
    if (!tty_open())
        return;
    tty_marks_pastes(!ui.escapes ? -1 : ui.tty ? STDERR_FILENO : ui.out_tty ? STDOUT_FILENO : -1);
    tty_set(TTY_QUIET);
}

/* Prompts are no answers: they leave by standard error where that is the terminal. */
static int open_output(bool *own)
{
    *own = !isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO);
    if (*own)
        return open("/dev/tty", O_WRONLY | O_CLOEXEC);
    return isatty(STDERR_FILENO) ? STDERR_FILENO : STDOUT_FILENO;
}

struct term *term_open(const struct term_params *p, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    struct term *t = ui_alloc(1, sizeof *t);
    if (!t) {
        ui_fail_memory(err, "out of memory for the line");
        return NULL;
    }
    t->params = *p;
    t->fd = open_output(&t->own_fd);
    term_hold();
    if (t->fd < 0 || !isatty(STDIN_FILENO)) {
        ui_fail(err, "standard input is no terminal that lines could be typed at");
        term_close(t);
        return NULL;
    }
    if (p->history && !history_open(&t->history, p->history, &why))
        ui_warn("%s: earlier messages are known until the program ends", why.msg);
    t->screen.color = ui.color;
    t->edit.history = &t->history;
    t->edit.hooks = (struct edit_hooks){ is_open, p->complete, p->user };
    return t;
}

void term_close(struct term *t)
{
    if (!t)
        return;
    tty_close();
    edit_free(&t->edit);
    history_free(&t->history);
    screen_free(&t->screen);
    if (t->own_fd && t->fd >= 0)
        close(t->fd);
    ui_bytes_free(&t->in);
    free(t);
}
