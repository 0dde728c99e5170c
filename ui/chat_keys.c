/* chat_keys: see chat_keys.h. */
#include "chat_keys.h"

#include <utf8proc.h>

enum { ESC = 0x1b, MAX_PARAM = 4, MAX_SUB = 3 };

static const struct key none = { KEY_NONE, 0, 0 };

/* ---- characters ------------------------------------------------------------------------------ */

/* A character as a keyboard may send it; others do nothing. Function keys of kitty's protocol are
 * in the private area. */
static struct key char_key(uint32_t ch, unsigned mods)
{
    switch (ch) {
    case '\r':
    case '\n': return (struct key){ KEY_ENTER, mods, 0 };
    case '\t': return mods ? none : (struct key){ KEY_TAB, mods, 0 };
    case 0x08:
    case 0x7f: return (struct key){ KEY_BACKSPACE, mods, 0 };
    case ESC: return (struct key){ KEY_ESCAPE, mods, 0 };
    default: break;
    }
    if (ch >= 1 && ch <= 26)
        return (struct key){ KEY_CHAR, mods | KEY_CTRL, ch + 'a' - 1 };
    if (ch >= 28 && ch <= 31)
        return (struct key){ KEY_CHAR, mods | KEY_CTRL, ch + '\\' - 28 };
    if (ch < 0x20 || (ch >= 0x80 && ch < 0xa0) || (ch >= 0xe000 && ch < 0xf900) || ch > 0x10ffff)
        return none;
    return (struct key){ KEY_CHAR, mods, ch };
}

/* One character of UTF-8; what is none becomes U+FFFD, a byte at a time. */
static size_t read_char(const char *s, size_t n, bool last, struct key *key)
{
    unsigned char b = (unsigned char)s[0];
    size_t want = b < 0xc2 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 1, have = 1;
    utf8proc_int32_t ch;
    while (have < want && have < n && ((unsigned char)s[have] & 0xc0) == 0x80)
        have++;
    if (have < want && have == n && !last)
        return 0;
    utf8proc_ssize_t got = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &ch);
    *key = char_key(got > 0 ? (uint32_t)ch : 0xfffd, 0);
    return got > 0 ? (size_t)got : 1;
}

/* ---- sequences ------------------------------------------------------------------------------- */

/* The numbers of a sequence: "1;5" or, with parts of their own, "97:65;2:1". Missing ones are 0. */
struct params {
    uint32_t v[MAX_PARAM][MAX_SUB];
    bool is_private; /* begins with one of < = > ?: an answer of the terminal, no key */
};

static struct params read_params(const char *s, size_t n)
{
    struct params p = { 0 };
    uint32_t i = 0, k = 0;
    for (size_t at = 0; at < n; at++) {
        if (s[at] >= '0' && s[at] <= '9' && i < MAX_PARAM && k < MAX_SUB &&
            p.v[i][k] < UINT32_MAX / 16)
            p.v[i][k] = p.v[i][k] * 10 + (uint32_t)(s[at] - '0');
        else if (s[at] == ';')
            i++, k = 0;
        else if (s[at] == ':')
            k++;
        else if (s[at] >= '<')
            p.is_private = true;
    }
    return p;
}

/* Shift, Alt and Ctrl of the second number, which is one more than their sum. Lock keys are left
 * out. False: a key of Super and the like is held, or the key was released. */
static bool read_mods(const struct params *p, uint32_t at, unsigned *mods)
{
    uint32_t sum = p->v[at][0] ? p->v[at][0] - 1 : 0;
    *mods = sum & 7;
    return !(sum & (8 | 16 | 32)) && p->v[at][1] != 3;
}

/* The key that a letter at the end of CSI and SS3 stands for. */
static enum key_code letter_code(char final)
{
    switch (final) {
    case 'A': return KEY_UP;
    case 'B': return KEY_DOWN;
    case 'C': return KEY_RIGHT;
    case 'D': return KEY_LEFT;
    case 'H': return KEY_HOME;
    case 'F': return KEY_END;
    default: return KEY_NONE;
    }
}

/* A key of modifyOtherKeys and of the `u` form: a character with the keys that are held. */
static struct key modified_char(const struct params *p, uint32_t at, unsigned mods)
{
    uint32_t ch = p->v[at][0], shifted = p->v[at][1], text = p->v[2][0];
    bool is_form_u = at == 0;
    if (ch < 0x20 || ch == 0x7f) {
        struct key k = char_key(ch, mods);
        return k.code == KEY_CHAR ? none : k;
    }
    if (mods & KEY_CTRL)
        return char_key(ch >= 'A' && ch <= 'Z' ? ch + 32 : ch, mods & ~(unsigned)KEY_SHIFT);
    if (is_form_u && text)
        ch = text;
    else if (mods & KEY_SHIFT)
        ch = is_form_u && shifted ? shifted : ch >= 'a' && ch <= 'z' ? ch - 32 : ch;
    return char_key(ch, mods & ~(unsigned)KEY_SHIFT);
}

/* CSI with its numbers and its last character. */
static struct key csi_key(const char *s, size_t n, char final)
{
    static const enum key_code numbered[] = {
        [1] = KEY_HOME, [3] = KEY_DELETE, [4] = KEY_END, [7] = KEY_HOME, [8] = KEY_END
    };
    struct params p = read_params(s, n);
    struct key k = none;
    uint32_t v = p.v[0][0];
    bool xterm = final == '~' && v == 27;
    if (p.is_private || !read_mods(&p, 1, &k.mods))
        return none;
    if (final == 'u' || xterm)
        return modified_char(&p, xterm ? 2 : 0, k.mods);
    if (final == '~' && v == 200)
        k.code = KEY_PASTE;
    else if (final == '~' || final == '$' || final == '^' || final == '@') {
        k.code = v < sizeof numbered / sizeof *numbered ? numbered[v] : KEY_NONE;
        k.mods |= final == '$' ? KEY_SHIFT : final == '^' ? KEY_CTRL : 0; /* rxvt */
        k.mods |= final == '@' ? KEY_SHIFT | KEY_CTRL : 0;
    } else if (n && final >= 'a' && final <= 'd') {
        return none;
    } else if (final >= 'a' && final <= 'd') { /* rxvt */
        k.code = letter_code((char)(final - 32));
        k.mods = KEY_SHIFT;
    } else {
        k.code = letter_code(final);
    }
    return k.code == KEY_NONE ? none : k;
}

/* ESC [ parameters, intermediates, one final character. */
static size_t read_csi(const char *s, size_t n, bool last, struct key *key)
{
    size_t at = 2;
    if (n > 2 && s[2] == '[') { /* the Linux console's F1 to F5 */
        *key = none;
        return n > 3 ? 4 : last ? 3 : 0;
    }
    while (at < n && s[at] >= 0x30 && s[at] <= 0x3f)
        at++;
    size_t n_param = at - 2;
    bool rxvt = at < n && s[at] == '$' && n_param && s[2] >= '0' && s[2] <= '9';
    while (!rxvt && at < n && s[at] >= 0x20 && s[at] <= 0x2f)
        at++;
    *key = none;
    if (at == n)
        return last ? n : 0;
    if (!rxvt && (s[at] < 0x40 || s[at] > 0x7e)) /* no sequence: what breaks it off is read anew */
        return at;
    *key = at == 2 + n_param ? csi_key(s + 2, n_param, s[at]) : *key;
    return at + 1;
}

/* ESC O, numbers of older terminals, one character. */
static size_t read_ss3(const char *s, size_t n, bool last, struct key *key)
{
    size_t at = 2;
    while (at < n && ((s[at] >= '0' && s[at] <= '9') || s[at] == ';'))
        at++;
    *key = none;
    if (at == n)
        return last ? n : 0;
    if (s[at] < 0x20 || s[at] > 0x7e)
        return at;
    struct params p = read_params(s + 2, at - 2);
    struct key k = { letter_code(s[at]), 0, 0 };
    if (s[at] >= 'a' && s[at] <= 'd') { /* rxvt */
        k.code = letter_code((char)(s[at] - 32));
        k.mods = KEY_CTRL;
    } else if (s[at] == 'M') { /* of the number block */
        k.code = KEY_ENTER;
    } else if (!read_mods(&p, p.v[1][0] ? 1 : 0, &k.mods)) {
        k.code = KEY_NONE;
    }
    if (k.code != KEY_NONE)
        *key = k;
    return at + 1;
}

/* An answer of the terminal: ESC and one of ] P _ ^ X, up to BEL or ESC backslash. */
static size_t read_string(const char *s, size_t n, bool last, struct key *key)
{
    *key = none;
    for (size_t at = 2; at < n; at++) {
        if (s[at] == 7)
            return at + 1;
        if (s[at] == ESC && at + 1 < n && s[at + 1] == '\\')
            return at + 2;
    }
    return last ? 2 : 0; /* it was Alt and that character */
}

static size_t read_escape(const char *s, size_t n, bool last, struct key *key)
{
    *key = (struct key){ KEY_ESCAPE, 0, 0 };
    if (n == 1)
        return last ? 1 : 0;
    if (s[1] == ESC) { /* Alt and a sequence, or Escape alone */
        if (n == 2)
            return last ? 1 : 0;
        if (s[2] != '[' && s[2] != 'O')
            return 1;
    }
    switch (s[1]) {
    case '[': return read_csi(s, n, last, key);
    case 'O': return read_ss3(s, n, last, key);
    case ']':
    case 'P':
    case '_':
    case '^':
    case 'X': return read_string(s, n, last, key);
    default: break;
    }
    size_t got = key_read(s + 1, n - 1, last, key); /* the key, with Alt */
    if (got && key->code != KEY_NONE && key->code != KEY_PASTE && key->code != KEY_ESCAPE)
        key->mods |= KEY_ALT;
    return got ? got + 1 : 0;
}

size_t key_read(const char *s, size_t n, bool last, struct key *key)
{
    *key = none;
    if (!n)
        return 0;
    if (s[0] == ESC)
        return read_escape(s, n, last, key);
    return read_char(s, n, last, key);
}
