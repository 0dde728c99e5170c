/* chat_prose: text as it comes from a model, laid out for a terminal - lines broken between words,
 * Markdown shown as what it stands for. What comes out is bytes through `put`.
 *
 * Words appear once they are whole, and marked text (**bold**, *italic*, `code`) once its end has
 * come; marks that are never closed on their line are shown as they are, so nothing is lost. Known
 * are headings, lists, quotes, rules and fenced code; all else, tables too, is shown as it stands.
 * The text must be clean (ui_clean). */
#pragma once
#include "common_base.h"

/* Set the first members, zero the rest. */
struct prose {
    void (*put)(void *user, const char *s, size_t n);
    void *user;
    unsigned cols; /* of the terminal; 0: lines are not broken */
    bool markdown; /* the terminal takes escapes */
    bool color;    /* and colours */

    struct ui_bytes pend; /* of the line, what is not out: where it is undecided how it goes on */
    struct ui_bytes word; /* of the row, with escapes */
    unsigned word_cols, gap, col, indent;           /* gap: blanks before the word */
    unsigned style;                                 /* of the word at its end */
    enum { PROSE_BEGIN, PROSE_TEXT, PROSE_RAW } at; /* in the line */
    unsigned line_style;
    bool mute;      /* the line is a fence that is not shown */
    char last;      /* byte before what is pending; 0: the line begins */
    char fence;     /* of the code block that is open, or 0 */
    size_t n_fence; /* its length */
    size_t item;    /* bytes before the text of the list item that is open; 0: none */
};

void prose_text(struct prose *p, const char *s, size_t n);
void prose_end(struct prose *p); /* all that is held back; frees; a new text may begin */
