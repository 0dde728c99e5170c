/* screen: a terminal in memory - what bytes that a program writes would show. It knows what
 * hlm-chat uses of xterm's sequences; any other is an error, so that none can be sent by accident.
 */
#pragma once
#include "test.h"

enum { SCREEN_CELL = 64 };
struct cell {
    char s[SCREEN_CELL]; /* empty: never written; the second half of a wide one too */
    unsigned width;
};
struct screen_mem {
    uint32_t cols, rows, x, y;
    bool joins;         /* an emoji of several parts is one picture of two columns, not its parts */
    bool wrap_next;     /* the last column was written: the next character begins a new row */
    bool pastes;        /* bracketed paste is on */
    uint32_t n_colored; /* sequences that asked for a colour or for dim */
    struct cell *cell;
    char part[256]; /* of a sequence or character that is not whole yet */
    size_t n_part;
    char bad[64]; /* the first sequence that it does not know */
};

void screen_mem_open(struct screen_mem *s, uint32_t cols, uint32_t rows);
void screen_mem_close(struct screen_mem *s);
void screen_mem_write(struct screen_mem *s, const char *bytes, size_t n);
/* As terminals do that break lines anew: rows that have become too long go on in the next. */
void screen_mem_resize(struct screen_mem *s, uint32_t cols);
/* The rows that have anything on them, each ended by a line end, the cursor as '|'. The caller
 * frees it. */
char *screen_mem_text(const struct screen_mem *s);
