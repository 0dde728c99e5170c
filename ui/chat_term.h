/* chat_term: messages typed at a terminal - line editing, history, pastes, several lines. The keys
 * are in chat_edit.
 *
 * A paste is one message whatever lines it has (bracketed paste); """ opens and closes a message of
 * several lines. Outside of term_read nothing that is typed is shown: it waits for the next one.
 * A terminal that takes no escapes (TERM=dumb) edits lines itself: there each line of a paste is a
 * message, and no text can stand in a line already. */
#pragma once
#include "chat_edit.h"

struct term;

struct term_params {
    const char *history; /* a file, or NULL */
    const char *editor;  /* the command of Ctrl-X Ctrl-E, or NULL */
    const char *folder;  /* private, for the file that it edits; or NULL */
    void (*complete)(void *user, const char *text, size_t at, struct choices *c); /* or NULL */
    void *user;
};
/* From now on nothing that is typed is shown: it waits for the first term_read. Does nothing where
 * standard input is no terminal. */
void term_hold(void);
/* Standard input must be a terminal. NULL with a reason: no line editing can be had here. */
struct term *term_open(const struct term_params *p, struct hlm_err *err);
void term_close(struct term *t); /* takes NULL */

enum term_got {
    TERM_MESSAGE,
    TERM_CLEARED, /* the line was cleared by Ctrl-C */
    TERM_LEFT,    /* end of input, or Ctrl-C once more after the notice */
};
/* Waits for a message that is not empty. prefill: text that stands in the line already, or NULL;
 * only where the terminal takes escapes. *text is the caller's; quoted: it came in """ or in
 * several lines, so it is no command. */
enum term_got term_read(struct term *t, const char *prompt, const char *prefill, char **text,
                        bool *quoted);
