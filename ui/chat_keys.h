/* chat_keys: the bytes that a terminal sends, as keys. A pure function, without a terminal.
 *
 * Every well-formed sequence is taken whole, whether or not it is a key of ours: one that is not is
 * KEY_NONE and does nothing. Read are the sequences of ECMA-48 (CSI), of the VT220 and xterm (SS3,
 * modifiers as a second number, modifyOtherKeys), of rxvt, of the Linux console, and the `u` form
 * of kitty's protocol. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum key_code {
    KEY_NONE, /* does nothing */
    KEY_CHAR, /* the character ch; with KEY_CTRL it is the small letter */
    KEY_ENTER,
    KEY_TAB,
    KEY_BACKSPACE,
    KEY_DELETE,
    KEY_ESCAPE,
    KEY_UP,
    KEY_DOWN,
    KEY_LEFT,
    KEY_RIGHT,
    KEY_HOME,
    KEY_END,
    KEY_PASTE, /* a pasted text follows, up to KEY_PASTE_END */
};
enum { KEY_SHIFT = 1, KEY_ALT = 2, KEY_CTRL = 4 };
#define KEY_PASTE_END "\033[201~"

struct key {
    enum key_code code;
    unsigned mods;
    uint32_t ch; /* a Unicode scalar value, never a control character */
};

/* Reads the key that s[0 .. n) begins with and returns how many bytes it has. 0: the key may be
 * longer than n bytes. That is never so when `last` says that nothing more follows at once, and n
 * is not 0: then the bytes of an escape sequence that was left unfinished are dropped. */
size_t key_read(const char *s, size_t n, bool last, struct key *key);
