/* chat_line: see chat_line.h. */
#include "chat_line.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void line_free(struct line *l)
{
    free(l->s);
    free(l->killed);
    *l = (struct line){ 0 };
}

void line_move(struct line *l, size_t at)
{
    l->at = at;
    l->killing = false;
}

/* ---- changes --------------------------------------------------------------------------------- */

static bool reserve(struct line *l, size_t n)
{
    if (n < l->cap)
        return true;
    size_t cap = 2 * n + 64;
    char *more = ui_grow(l->s, cap, 1);
    if (!more)
        return false;
    l->s = more;
    l->cap = cap;
    l->s[l->n] = 0;
    return true;
}

bool line_insert(struct line *l, const char *s, size_t n)
{
    char *clean = ui_alloc(n + 1, 3);
    if (!clean)
        return false;
    size_t m = ui_clean(s, n, clean);
    bool ok = reserve(l, l->n + m);
    if (ok) {
        memmove(l->s + l->at + m, l->s + l->at, l->n - l->at + 1);
        memcpy(l->s + l->at, clean, m);
        l->n += m;
        l->at += m;
        l->killing = false;
    }
    free(clean);
    return ok;
}

bool line_type(struct line *l, uint32_t ch)
{
    utf8proc_uint8_t s[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)ch, s);
    return line_insert(l, (const char *)s, (size_t)n);
}

bool line_set(struct line *l, const char *s, size_t n)
{
    l->n = l->at = 0;
    if (!reserve(l, 0))
        return false;
    l->s[0] = 0;
    return line_insert(l, s, n);
}

void line_delete(struct line *l, size_t from, size_t to)
{
    l->killing = false;
    if (from >= to)
        return;
    memmove(l->s + from, l->s + to, l->n - to + 1);
    l->n -= to - from;
    l->at = from;
}

void line_kill(struct line *l, size_t from, size_t to)
{
    size_t n_old = l->killing ? strlen(l->killed) : 0, n = to - from;
    char *all = from < to ? ui_alloc(n_old + n + 1, 1) : NULL;
    if (!all)
        return;
    bool before = from < l->at; /* cut to the left: it goes in front */
    memcpy(all + (before ? 0 : n_old), l->s + from, n);
    if (n_old)
        memcpy(all + (before ? n : 0), l->killed, n_old);
    free(l->killed);
    l->killed = all;
    line_delete(l, from, to);
    l->killing = true;
}

void line_yank(struct line *l)
{
    if (l->killed)
        line_insert(l, l->killed, strlen(l->killed));
}

void line_transpose(struct line *l)
{
    l->killing = false;
    if (l->at == l->n) /* at the end: the two before it */
        l->at = line_left(l);
    size_t from = line_left(l), to = line_right(l), n = l->at - from;
    char *left = from < l->at && l->at < to ? ui_copy(l->s + from, n) : NULL;
    if (left) {
        memmove(l->s + from, l->s + l->at, to - l->at);
        memcpy(l->s + to - n, left, n);
        l->at = to;
    }
    free(left);
}

/* ---- places ---------------------------------------------------------------------------------- */

static size_t begin_of(const struct line *l, size_t at)
{
    while (at && l->s[at - 1] != '\n')
        at--;
    return at;
}

size_t line_begin(const struct line *l) { return begin_of(l, l->at); }

size_t line_end(const struct line *l)
{
    size_t at = l->at;
    while (at < l->n && l->s[at] != '\n')
        at++;
    return at;
}

size_t line_left(const struct line *l) { return l->at ? text_prev(l->s, l->at) : 0; }
size_t line_right(const struct line *l)
{
    return l->at < l->n ? text_next(l->s, l->n, l->at) : l->n;
}

size_t line_word_left(const struct line *l)
{
    size_t at = l->at;
    for (int inside = 0; at;) {
        size_t to = text_prev(l->s, at);
        bool word = text_in_word(l->s, l->n, to);
        if (inside && !word)
            break;
        inside |= word;
        at = to;
    }
    return at;
}

size_t line_word_right(const struct line *l)
{
    size_t at = l->at;
    while (at < l->n && !text_in_word(l->s, l->n, at))
        at = text_next(l->s, l->n, at);
    while (at < l->n && text_in_word(l->s, l->n, at))
        at = text_next(l->s, l->n, at);
    return at;
}

size_t line_big_word_left(const struct line *l)
{
    size_t at = l->at;
    while (at && text_is_blank(l->s[at - 1]))
        at--;
    while (at && !text_is_blank(l->s[at - 1]))
        at--;
    return at;
}

static size_t columns_before(const struct line *l)
{
    size_t sum = 0, next;
    for (size_t at = line_begin(l); at < l->at; at = next) {
        next = text_next(l->s, l->n, at);
        sum += text_columns(l->s + at, next - at);
    }
    return sum;
}

/* The place in the line that begins at `at`, `columns` from its beginning or at its end. */
static size_t place_in(const struct line *l, size_t at, size_t columns)
{
    size_t sum = 0;
    while (at < l->n && l->s[at] != '\n') {
        size_t next = text_next(l->s, l->n, at);
        sum += text_columns(l->s + at, next - at);
        if (sum > columns)
            break;
        at = next;
    }
    return at;
}

bool line_above(const struct line *l, size_t *at)
{
    size_t begin = line_begin(l);
    if (!begin)
        return false;
    *at = place_in(l, begin_of(l, begin - 1), columns_before(l));
    return true;
}

bool line_below(const struct line *l, size_t *at)
{
    size_t end = line_end(l);
    if (end == l->n)
        return false;
    *at = place_in(l, end + 1, columns_before(l));
    return true;
}
