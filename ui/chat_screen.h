/* chat_screen: draws the message that is being typed, on as many rows as it takes, and draws anew
 * only the rows that have changed. What it draws is bytes in memory: it knows no terminal.
 *
 * Lines are broken here, not by the terminal, after at most as many columns as clusters may take
 * (text_columns). The cursor is put where it belongs by printing the row up to there once more, so
 * it is right however wide the terminal makes a cluster. */
#pragma once
#include "common_base.h"

struct row {              /* of the screen, as it was drawn */
    struct ui_bytes text; /* with the escapes of its prompt */
    unsigned width;
};

/* Set the size before the first call, zero the rest. */
struct screen {
    unsigned cols, rows; /* of the terminal */
    bool color;
    struct row *row; /* those drawn, from the first that is in view */
    uint32_t n_row, cap;
    uint32_t at_row, at_col; /* of the cursor, in them */
    uint32_t top;            /* rows of the message above the first that is in view */
    struct ui_bytes out;     /* what is to be written to the terminal */
};

struct picture {
    const char *prompt; /* of the first line; those after a line end have "... " */
    const char *s;
    size_t n, at;
    bool whole; /* all of it, also what does not fit on the screen: it is done */
};

void screen_free(struct screen *c);
/* Appends to out what makes the screen show this. Without memory the screen is left half drawn. */
void screen_draw(struct screen *c, const struct picture *p);
/* Moves the cursor to an empty row below the message; the next draw begins there. */
void screen_leave(struct screen *c);
/* Forgets what was drawn: the cursor stands at the beginning of an empty row. */
void screen_forget(struct screen *c);
/* The terminal has another size, and has broken longer rows anew: erases what was drawn. */
void screen_resize(struct screen *c, unsigned cols, unsigned rows);
void screen_put(struct screen *c, const char *s, size_t n); /* to out, as it is */
