/* screen: see screen.h. */
#include "screen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static struct cell *cell_at(const struct screen_mem *s, uint32_t x, uint32_t y)
{
    return &s->cell[(uint64_t)y * s->cols + x];
}

void screen_mem_open(struct screen_mem *s, uint32_t cols, uint32_t rows)
{
    *s = (struct screen_mem){ .cols = cols, .rows = rows };
    s->cell = mem_alloc((uint64_t)cols * rows, sizeof *s->cell);
    HLM_ASSERT(s->cell);
}

void screen_mem_close(struct screen_mem *s)
{
    free(s->cell);
    s->cell = NULL;
}

static void erase(struct screen_mem *s, uint32_t x, uint32_t y, uint32_t to_x, uint32_t to_y)
{
    for (uint64_t i = (uint64_t)y * s->cols + x; i < (uint64_t)to_y * s->cols + to_x; i++)
        s->cell[i] = (struct cell){ 0 };
}

static void line_feed(struct screen_mem *s)
{
    if (++s->y < s->rows)
        return;
    s->y = s->rows - 1;
    memmove(s->cell, s->cell + s->cols, (uint64_t)s->cols * s->y * sizeof *s->cell);
    erase(s, 0, s->y, 0, s->rows);
}

/* ---- characters ------------------------------------------------------------------------------ */

/* The cell before the cursor that has something in it. */
static struct cell *cell_before(const struct screen_mem *s)
{
    uint32_t x = s->x + (s->wrap_next ? 1 : 0);
    while (x && !cell_at(s, x - 1, s->y)->s[0])
        x--;
    return x ? cell_at(s, x - 1, s->y) : NULL;
}

/* Does the character belong to the cluster in the cell before? */
static bool joins_cell(const struct screen_mem *s, const struct cell *before, utf8proc_int32_t c)
{
    utf8proc_int32_t state = 0, last = -1, next;
    if (!before || !s->joins)
        return false;
    for (const char *p = before->s; *p;) {
        p += utf8proc_iterate((const utf8proc_uint8_t *)p, -1, &next);
        if (last >= 0)
            utf8proc_grapheme_break_stateful(last, next, &state);
        last = next;
    }
    return !utf8proc_grapheme_break_stateful(last, c, &state);
}

static void print(struct screen_mem *s, const char *bytes, size_t n, utf8proc_int32_t c)
{
    struct cell *before = cell_before(s);
    unsigned width = (unsigned)utf8proc_charwidth(c);
    if (before && (width == 0 || joins_cell(s, before, c))) {
        size_t have = strlen(before->s);
        HLM_ASSERT(have + n < SCREEN_CELL);
        memcpy(before->s + have, bytes, n);
        return;
    }
    if (s->wrap_next || s->x + width > s->cols) {
        s->x = 0;
        s->wrap_next = false;
        line_feed(s);
    }
    for (unsigned i = 0; i < width; i++)
        *cell_at(s, s->x + i, s->y) = (struct cell){ .width = i ? 0 : width };
    memcpy(cell_at(s, s->x, s->y)->s, bytes, n);
    s->wrap_next = s->x + width == s->cols;
    s->x = s->wrap_next ? s->cols - 1 : s->x + width;
}

/* ---- sequences ------------------------------------------------------------------------------- */

static void count_colors(struct screen_mem *s, const char *params)
{
    for (const char *p = params; *p; p += *p == ';') {
        char *end;
        long v = strtol(p, &end, 10);
        s->n_colored += v == 2 || (v >= 30 && v <= 49) || v >= 90;
        p = end;
    }
}

static void sequence(struct screen_mem *s, const char *params, char final)
{
    unsigned n = (unsigned)atoi(params), step = n ? n : 1;
    s->wrap_next &= final == 'm' || final == 'h' || final == 'l' || final == 'K';
    if (final == 'A')
        s->y -= min_u32(step, s->y);
    else if (final == 'B')
        s->y = min_u32(s->y + step, s->rows - 1);
    else if (final == 'H' && !*params)
        s->x = s->y = 0;
    else if (final == 'J' && !*params)
        erase(s, s->x, s->y, 0, s->rows);
    else if (final == 'J' && n == 2)
        erase(s, 0, 0, 0, s->rows);
    else if (final == 'K' && !*params)
        erase(s, s->x, s->y, s->cols, s->y);
    else if (final == 'm')
        count_colors(s, params);
    else if ((final == 'h' || final == 'l') && strcmp(params, "?2004") == 0)
        s->pastes = final == 'h';
    else if (!s->bad[0])
        snprintf(s->bad, sizeof s->bad, "ESC [ %.32s %c", params, final);
}

/* Whether the part is whole; then it has been done. */
static bool take_part(struct screen_mem *s)
{
    unsigned char c = (unsigned char)s->part[0], last = (unsigned char)s->part[s->n_part - 1];
    utf8proc_int32_t ch;
    s->part[s->n_part] = 0;
    if (c == 0x1b) {
        if (s->n_part < 3 || last < 0x40 || last > 0x7e)
            return s->n_part == 2 && last != '[' && snprintf(s->bad, sizeof s->bad, "ESC %c", last);
        s->part[s->n_part - 1] = 0;
        sequence(s, s->part + 2, (char)last);
    } else if (c == '\n') {
        s->wrap_next = false;
        line_feed(s);
    } else if (c == '\r') {
        s->wrap_next = false;
        s->x = 0;
    } else if (c == '\b') { /* the system's own editing */
        s->wrap_next = false;
        s->x -= s->x > 0;
    } else if (c < 0x20 || c == 0x7f) {
        snprintf(s->bad, sizeof s->bad, "control character %u", c);
    } else {
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)s->part, (utf8proc_ssize_t)s->n_part, &ch);
        if (n < 0 && s->n_part < 4)
            return false;
        if (n < 0)
            snprintf(s->bad, sizeof s->bad, "bytes that are no UTF-8");
        else
            print(s, s->part, (size_t)n, ch);
    }
    return true;
}

void screen_mem_write(struct screen_mem *s, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        HLM_ASSERT(s->n_part + 1 < sizeof s->part);
        s->part[s->n_part++] = bytes[i];
        if (take_part(s))
            s->n_part = 0;
    }
}

/* ---- size and text --------------------------------------------------------------------------- */

static uint32_t row_end(const struct screen_mem *s, uint32_t y)
{
    uint32_t n = s->cols;
    while (n && !cell_at(s, n - 1, y)->width && !(n > 1 && cell_at(s, n - 2, y)->width == 2))
        n--;
    return n;
}

void screen_mem_resize(struct screen_mem *s, uint32_t cols)
{
    struct screen_mem to;
    screen_mem_open(&to, cols, s->rows);
    uint32_t at_x = 0, at_y = 0, last = s->y;
    for (uint32_t y = 0; y < s->rows; y++)
        if (row_end(s, y))
            last = max_u32(last, y);
    for (uint32_t y = 0; y <= last; y++) {
        for (uint32_t x = 0; x < s->cols; x++) {
            const struct cell *c = cell_at(s, x, y);
            if (to.x + c->width > cols || (to.wrap_next && c->width)) {
                to.x = 0;
                to.wrap_next = false;
                line_feed(&to);
            }
            if (x == s->x && y == s->y) {
                at_x = to.x;
                at_y = to.y;
            }
            if (!c->width && x >= row_end(s, y))
                continue;
            if (!c->width) /* the second half of a wide one */
                continue;
            *cell_at(&to, to.x, to.y) = *c;
            to.wrap_next = to.x + c->width == cols;
            to.x = to.wrap_next ? cols - 1 : to.x + c->width;
        }
        to.x = 0;
        to.wrap_next = false;
        if (y < last)
            line_feed(&to);
    }
    free(s->cell);
    s->cell = to.cell;
    s->cols = cols;
    s->x = at_x;
    s->y = at_y;
    s->wrap_next = false;
}

char *screen_mem_text(const struct screen_mem *s)
{
    char *out = mem_alloc((uint64_t)s->rows * (s->cols + 2), SCREEN_CELL);
    size_t w = 0, end = 0;
    HLM_ASSERT(out);
    for (uint32_t y = 0; y < s->rows; y++) {
        uint32_t n = row_end(s, y);
        bool here = y == s->y;
        for (uint32_t x = 0; x < n || (here && x <= s->x); x++) {
            const struct cell *c = cell_at(s, x, y);
            if (here && x == s->x)
                out[w++] = '|';
            if (x < n && c->width)
                w += (size_t)sprintf(out + w, "%s", c->s);
            else if ((x < n && !(x && cell_at(s, x - 1, y)->width == 2)) || (x >= n && x < s->x))
                out[w++] = ' ';
        }
        out[w++] = '\n';
        if (n || here)
            end = w;
    }
    out[end] = 0;
    return out;
}
