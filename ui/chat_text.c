/* chat_text: see chat_text.h. */
#include "chat_text.h"

#include <string.h>
#include <utf8proc.h>

/* The character at `at` and its length; -1 and 1 for a byte that is no UTF-8. */
static utf8proc_int32_t char_at(const char *s, size_t n, size_t at, size_t *len)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t got =
        utf8proc_iterate((const utf8proc_uint8_t *)s + at, (utf8proc_ssize_t)(n - at), &c);
    *len = got > 0 ? (size_t)got : 1;
    return got > 0 ? c : -1;
}

size_t text_next(const char *s, size_t n, size_t at)
{
    utf8proc_int32_t state = 0;
    size_t len;
    utf8proc_int32_t c = char_at(s, n, at, &len);
    for (at += len; at < n; at += len) {
        utf8proc_int32_t next = char_at(s, n, at, &len);
        if (c < 0 || next < 0 || utf8proc_grapheme_break_stateful(c, next, &state))
            break;
        c = next;
    }
    return at;
}

size_t text_prev(const char *s, size_t at)
{
    /* Where clusters end depends on what is before them, but on nothing before a line end. No
     * cluster that a person types is longer than this. */
    enum { LONGEST = 256 };
    size_t from = at - 1, least = at > LONGEST ? at - LONGEST : 0;
    while (from > least && s[from - 1] != '\n')
        from--;
    while (from < at - 1 && ((unsigned char)s[from] & 0xc0) == 0x80)
        from++;
    for (size_t next; (next = text_next(s, at, from)) < at;)
        from = next;
    return from;
}

unsigned text_columns(const char *s, size_t n)
{
    unsigned sum = 0;
    int w = 0;
    size_t len;
    for (size_t at = 0; at < n; at += len) {
        utf8proc_int32_t c = char_at(s, n, at, &len);
        /* VS16 asks for the picture, which is wide, of what may be a narrow character. */
        w = c == 0xfe0f ? w == 1 : c < 0 ? 1 : utf8proc_charwidth(c);
        sum += w > 0 ? (unsigned)w : 0;
    }
    return sum;
}

bool text_in_word(const char *s, size_t n, size_t at)
{
    size_t len;
    utf8proc_int32_t c = char_at(s, n, at, &len);
    utf8proc_category_t k = c < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NO;
}

bool text_is_blank(char c) { return c == ' ' || c == '\t' || c == '\n'; }
