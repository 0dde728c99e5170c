/* chat_screen: see chat_screen.h. */
#include "chat_screen.h"

#include "chat_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char more_prompt[] = "... ";
enum { TAB = 8 };

/* ---- output ---------------------------------------------------------------------------------- */

void screen_put(struct screen *c, const char *s, size_t n) { ui_add(&c->out, s, n); }

static void put(struct screen *c, const char *s) { screen_put(c, s, strlen(s)); }

UI_PRINTF(2, 3) static void putf(struct screen *c, const char *fmt, ...)
{
    char s[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s, sizeof s, fmt, ap);
    va_end(ap);
    put(c, s);
}

/* To a row that was drawn, or to the one after the last. */
static void go_to(struct screen *c, uint32_t row)
{
    uint32_t last = c->n_row ? c->n_row - 1 : 0;
    if (row < c->at_row)
        putf(c, "\033[%uA", c->at_row - row);
    else if (row > c->at_row && ui_min_u32(row, last) > c->at_row)
        putf(c, "\033[%uB", ui_min_u32(row, last) - c->at_row);
    put(c, row > last ? "\r\n" : "\r");
    c->at_row = row;
    c->at_col = 0;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static void free_rows(struct row *row, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        ui_bytes_free(&row[i].text);
}

/* The rows of a message as they are laid out. */
struct layout {
    struct row *row;
    uint32_t n, cap;
    uint32_t at_row, at_col, at_byte; /* of the cursor; at_byte: in the row's bytes */
    unsigned cols;
    bool color, failed;
};

static void add(struct layout *l, const char *s, size_t n, unsigned width)
{
    struct row *r = &l->row[l->n - 1];
    l->failed = l->failed || !ui_add(&r->text, s, n);
    r->width += l->failed ? 0 : width;
}

static void add_prompt(struct layout *l, const char *prompt)
{
    size_t n = strlen(prompt);
    unsigned width = text_columns(prompt, n);
    if (l->cols < width + 4) /* there is no room for both */
        return;
    if (l->color)
        add(l, "\033[1;36m", 7, 0);
    add(l, prompt, n, width);
    if (l->color)
        add(l, "\033[0m", 4, 0);
}

static void new_row(struct layout *l)
{
    if (l->n == l->cap) {
        uint32_t cap = 2 * l->cap + 16;
        struct row *more = ui_grow(l->row, cap, sizeof *more);
        l->failed |= !more;
        if (!more)
            return;
        l->row = more;
        l->cap = cap;
    }
    l->row[l->n++] = (struct row){ 0 };
    add(l, "", 0, 0);
}

static void mark_cursor(struct layout *l)
{
    l->at_row = l->n - 1;
    l->at_col = l->row[l->n - 1].width;
    l->at_byte = (uint32_t)l->row[l->n - 1].text.n;
}

/* One cluster, on a new row where this one has no room for it. */
static void add_cluster(struct layout *l, const char *s, size_t n)
{
    static const char blanks[] = "        ";
    unsigned left = l->cols - l->row[l->n - 1].width;
    bool tab = n == 1 && *s == '\t';
    unsigned width = tab ? TAB - l->row[l->n - 1].width % TAB : text_columns(s, n);
    width = tab && width > left && left ? left : ui_min_u32(width, l->cols);
    if (width > left)
        new_row(l);
    if (!l->failed)
        add(l, tab ? blanks : s, tab ? width : n, width);
}

/* The cursor never stands after the last column: a terminal would show it in that one. */
static void lay_out(struct layout *l, const struct picture *p)
{
    new_row(l);
    if (!l->failed)
        add_prompt(l, p->prompt);
    for (size_t at = 0, next; at <= p->n && !l->failed; at = next) {
        bool end = at == p->n || p->s[at] == '\n';
        if (at == p->at) {
            if (l->row[l->n - 1].width == l->cols && end)
                new_row(l);
            if (l->failed)
                break;
            mark_cursor(l);
        }
        next = end ? at + 1 : text_next(p->s, p->n, at);
        if (at < p->at && p->at < next) /* between two characters that are one cluster together */
            next = p->at;
        if (at < p->n && end) {
            new_row(l);
            if (!l->failed)
                add_prompt(l, more_prompt);
        } else if (at < p->n) {
            uint32_t row = l->n;
            add_cluster(l, p->s + at, next - at);
            if (at == p->at && l->n > row && !l->failed) { /* it stands at what has moved down */
                l->at_row = l->n - 1;
                l->at_col = l->at_byte = 0;
            }
        }
    }
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* The rows that are in view: as many as the terminal has, with the cursor among them. */
static void choose_view(struct screen *c, const struct layout *l, bool whole, uint32_t *n)
{
    uint32_t most = whole || c->rows < 2 ? l->n : c->rows;
    most = ui_max_u32(most, 1);
    if (whole)
        c->top = 0;
    if (c->top > l->at_row)
        c->top = l->at_row;
    if (l->at_row >= c->top + most)
        c->top = l->at_row - most + 1;
    if (c->top + most > l->n)
        c->top = l->n > most ? l->n - most : 0;
    *n = ui_min_u32(l->n - c->top, most);
}

static bool keep_rows(struct screen *c, uint32_t n)
{
    if (n <= c->cap)
        return true;
    struct row *more = ui_grow(c->row, n, sizeof *more);
    if (!more)
        return false;
    memset(more + c->cap, 0, (n - c->cap) * sizeof *more);
    c->row = more;
    c->cap = n;
    return true;
}

/* Draws the rows that differ from those on the screen, and takes them over. */
static void draw_rows(struct screen *c, struct row *row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        bool there = i < c->n_row;
        if (!there || strcmp(row[i].text.s, c->row[i].text.s) != 0) {
            go_to(c, i);
            put(c, "\033[K"); /* first: at the last column it would erase what was just printed */
            screen_put(c, row[i].text.s, row[i].text.n);
        }
        if (there)
            ui_bytes_free(&c->row[i].text);
        c->row[i] = row[i];
        row[i].text = (struct ui_bytes){ 0 };
        c->n_row = ui_max_u32(c->n_row, i + 1);
    }
    if (c->n_row > n) {
        go_to(c, n);
        put(c, "\033[J");
        free_rows(c->row, n, c->n_row);
        c->n_row = n;
    }
}

void screen_draw(struct screen *c, const struct picture *p)
{
    struct layout l = { .cols = ui_max_u32(c->cols, 2), .color = c->color };
    uint32_t n;
    lay_out(&l, p);
    if (!l.failed) {
        choose_view(c, &l, p->whole, &n);
        if (keep_rows(c, n)) {
            draw_rows(c, l.row + c->top, n);
            uint32_t row = l.at_row - c->top;
            go_to(c, row);
            screen_put(c, c->row[row].text.s, l.at_byte);
            c->at_col = l.at_col;
        }
    }
    free_rows(l.row, 0, l.n);
    free(l.row);
}

void screen_forget(struct screen *c)
{
    free_rows(c->row, 0, c->n_row);
    c->n_row = c->at_row = c->at_col = c->top = 0;
}

void screen_leave(struct screen *c)
{
    if (c->n_row)
        go_to(c, c->n_row);
    screen_forget(c);
}

/* Rows that have become longer than the terminal stand on several now. */
void screen_resize(struct screen *c, unsigned cols, unsigned rows)
{
    uint32_t up = 0;
    cols = ui_max_u32(cols, 1);
    for (uint32_t i = 0; i < c->at_row; i++)
        up += c->row[i].width > cols ? (c->row[i].width + cols - 1) / cols : 1;
    up += c->at_col / cols;
    if (up)
        putf(c, "\033[%uA", up);
    put(c, "\r\033[J");
    screen_forget(c);
    c->cols = cols;
    c->rows = rows;
}

void screen_free(struct screen *c)
{
    screen_forget(c);
    free(c->row);
    ui_bytes_free(&c->out);
    *c = (struct screen){ 0 };
}
