/* chat_term: messages typed at a terminal - line editing, history, pastes, several lines.
 *
 * A paste is one message whatever lines it has (bracketed paste); """ opens and closes a message of
 * several lines. The terminal is in its ordinary state whenever no call is running. */
#pragma once
#include "common_base.h"

struct term;

/* history: a file that is read now and written by term_close, or NULL. words: what Tab completes at
 * the beginning of a line, ended by NULL. NULL with a reason: no line editing can be had here. */
struct term *term_open(const char *history, const char *const *words, struct hlm_err *err);
void term_close(struct term *t); /* takes NULL */

enum term_got {
    TERM_MESSAGE,
    TERM_LEFT, /* end of input, or the second Ctrl-C in a row (then ui_interrupted) */
};
/* Waits for a message that is not empty. *text is the caller's; quoted: it came in """ or in
 * several lines, so it is no command. */
enum term_got term_read(struct term *t, char **text, bool *quoted);
