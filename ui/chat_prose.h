/* chat_prose: text as it comes from a model, laid out for a terminal - lines broken between words,
 * Markdown shown as what it stands for. What comes out is bytes through `put`.
 *
 * Words appear once they are whole, and marked text (**bold**, *italic*, `code`) once its end has
 * come; marks that are never closed on their line are shown as they are, so nothing is lost. Known
 * are headings, lists, quotes, rules and fenced code; all else, tables too, is shown as it stands.
 * The text must be clean (text_clean). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Set the first members, zero the rest. */
struct prose {
    void (*put)(void *user, const char *s, size_t n);
    void *user;
    unsigned cols; /* of the terminal; 0: lines are not broken */
    bool markdown; /* the terminal takes escapes */
    bool color;    /* and colours */

    char *pend; /* of the line, what is not out: where it is undecided how it goes on */
    size_t n_pend, cap_pend;
    char *word; /* of the row, with escapes */
    size_t n_word, cap_word;
    unsigned word_cols, gap, col, indent;           /* gap: blanks before the word */
    unsigned style;                                 /* of the word at its end */
    enum { PROSE_BEGIN, PROSE_TEXT, PROSE_RAW } at; /* in the line */
    unsigned line_style;
    bool mute;      /* the line is a fence that is not shown */
    char last;      /* byte before what is pending; 0: the line begins */
    char fence;     /* of the code block that is open, or 0 */
    size_t n_fence; /* its length */
};

void prose_text(struct prose *p, const char *s, size_t n);
void prose_end(struct prose *p); /* all that is held back; frees; a new text may begin */
