/* tok_utf8: characters, NFC, and whole characters from a stream of bytes. */
#include "text/tok_parts.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

int utf8_next(const char *text, uint64_t n)
{
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return -1;
    int len = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    for (int i = 1; i < len; i++) {
        if ((uint64_t)i == n)
            return 0;
        /* The second byte excludes overlong forms, surrogates and code points past U+10FFFF. */
        uint8_t lo = i > 1 ? 0x80 : p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
        uint8_t hi = i > 1 ? 0xbf : p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
        if (p[i] < lo || p[i] > hi)
            return -i;
    }
    return len;
}

uint64_t hlm_utf8_write(struct hlm_utf8 *u, struct hlm_str s, bool flush, char *out)
{
    static const char replacement[3] = { '\xef', '\xbf', '\xbd' };
    uint64_t n_out = 0;
    for (uint64_t i = 0; i < s.n; i++) {
        u->hold[u->n++] = s.p[i];
        for (int len; u->n && (len = utf8_next(u->hold, u->n)) != 0;) {
            uint32_t used = (uint32_t)(len > 0 ? len : -len);
            memcpy(out + n_out, len > 0 ? u->hold : replacement,
                   len > 0 ? used : sizeof replacement);
            n_out += len > 0 ? used : sizeof replacement;
            u->n -= used;
            memmove(u->hold, u->hold + used, u->n);
        }
    }
    if (flush && u->n) {
        memcpy(out + n_out, replacement, sizeof replacement);
        n_out += sizeof replacement;
        u->n = 0;
    }
    return n_out;
}

bool tok_room(void **old, uint64_t *cap, uint64_t n, uint64_t size, struct hlm_err *err)
{
    return mem_reserve(old, n, cap, size) ||
           fail_memory(err, "tokenizer: no memory for %llu x %llu bytes", (unsigned long long)n,
                       (unsigned long long)size);
}

void nfc_finish(struct nfc *s)
{
    free(s->cp);
    free(s->sorted);
    free(s->out);
    *s = (struct nfc){ 0 };
}

static uint32_t combining_class(int32_t cp)
{
    return (uint32_t)utf8proc_get_property(cp)->combining_class;
}

/* Puts each run of combining marks into canonical order. utf8proc's own sort takes quadratic time,
 * which a hostile text with a long run could use; this is a counting sort. */
static bool order_marks(struct nfc *s, uint64_t n, struct hlm_err *err)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t from = i;
        bool ordered = true;
        uint32_t last = 0;
        for (uint32_t c; i < n && (c = combining_class(s->cp[i])) != 0; last = c, i++)
            ordered = ordered && c >= last;
        if (ordered)
            continue;
        if (!tok_room((void **)&s->sorted, &s->sorted_cap, i - from, sizeof *s->sorted, err))
            return false;
        uint64_t at[257] = { 0 };
        for (uint64_t k = from; k < i; k++)
            at[combining_class(s->cp[k]) + 1]++;
        for (int c = 0; c < 256; c++)
            at[c + 1] += at[c];
        for (uint64_t k = from; k < i; k++)
            s->sorted[at[combining_class(s->cp[k])]++] = s->cp[k];
        memcpy(s->cp + from, s->sorted, (i - from) * sizeof *s->cp);
    }
    return true;
}

bool nfc_apply(struct nfc *s, const char **text, uint64_t *n, struct hlm_err *err)
{
    enum { LONGEST = 32 }; /* more code points than one character can become */
    const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    const uint8_t *p = (const uint8_t *)*text, *end = p + *n;
    const uint8_t *q = p;
    while (q < end && *q < 0xcc) /* characters below U+0300 change only when a mark follows */
        q++;
    if (q == end)
        return true;

    uint64_t n_cp = 0;
    while (p < end) {
        if (!tok_room((void **)&s->cp, &s->cap, n_cp + LONGEST, sizeof *s->cp, err))
            return false;
        int32_t cp;
        p += utf8proc_iterate(p, end - p, &cp);
        utf8proc_ssize_t got = utf8proc_decompose_char(cp, s->cp + n_cp, LONGEST, how, NULL);
        HLM_ASSERT(got > 0 && got <= LONGEST);
        n_cp += (uint64_t)got;
    }
    if (!order_marks(s, n_cp, err))
        return false;
    n_cp = (uint64_t)utf8proc_normalize_utf32(s->cp, (utf8proc_ssize_t)n_cp, how);
    if (!tok_room((void **)&s->out, &s->out_cap, 4 * n_cp, 1, err))
        return false;
    uint64_t n_out = 0;
    for (uint64_t i = 0; i < n_cp; i++)
        n_out += (uint64_t)utf8proc_encode_char(s->cp[i], (uint8_t *)s->out + n_out);
    *text = s->out;
    *n = n_out;
    return true;
}
