/* str: see str.h. */
#include "text/str.h"

#include <string.h>

struct hlm_str str_of(const char *s) { return (struct hlm_str){ s, strlen(s) }; }

bool str_begins(struct hlm_str s, const char *with)
{
    uint64_t n = strlen(with);
    return s.n >= n && !memcmp(s.p, with, n);
}

bool str_ends(struct hlm_str s, const char *with)
{
    uint64_t n = strlen(with);
    return s.n >= n && !memcmp(s.p + s.n - n, with, n);
}

bool str_around(struct hlm_str s, const char *mark, struct hlm_str *before, struct hlm_str *after)
{
    uint64_t n = strlen(mark);
    bool found = false;
    *before = *after = s;
    for (uint64_t i = 0; i + n <= s.n; i++)
        if (s.p[i] == *mark && !memcmp(s.p + i, mark, n)) {
            if (!found)
                before->n = i;
            found = true;
            *after = (struct hlm_str){ s.p + i + n, s.n - i - n };
            i += n - 1;
        }
    return found;
}

bool str_has(struct hlm_str s, const char *mark)
{
    return str_around(s, mark, &(struct hlm_str){ 0 }, &(struct hlm_str){ 0 });
}

static struct hlm_str strip(struct hlm_str s, enum side side, const char *const *set,
                            uint32_t n_set)
{
    for (uint32_t i = 0; (side & LEFT) && i < n_set;)
        if (str_begins(s, set[i])) {
            s.p += strlen(set[i]);
            s.n -= strlen(set[i]);
            i = 0;
        } else {
            i++;
        }
    for (uint32_t i = 0; (side & RIGHT) && i < n_set;)
        if (str_ends(s, set[i])) {
            s.n -= strlen(set[i]);
            i = 0;
        } else {
            i++;
        }
    return s;
}

struct hlm_str str_strip_newlines(struct hlm_str s, enum side side)
{
    static const char *const set[] = { "\n" };
    return strip(s, side, set, ARRAY_LEN(set));
}

struct hlm_str str_strip(struct hlm_str s, enum side side)
{
    static const char *const set[] = {
        " ",      "\n",     "\t",       "\r",     "\v",     "\f",     "\x1c",   "\x1d",
        "\x1e",   "\x1f",   "\xc2\x85", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002",
        "\u2003", "\u2004", "\u2005",   "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
        "\u2028", "\u2029", "\u202f",   "\u205f", "\u3000",
    };
    return strip(s, side, set, ARRAY_LEN(set));
}
