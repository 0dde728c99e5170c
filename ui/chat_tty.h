/* chat_tty: the modes of the terminal that standard input is, and the signals that change them.
 *
 * One process has one terminal, so this is a state of the process. Whatever ends or stops the
 * process, the terminal is left as it was found; after `fg` it is again as it was set here. */
#pragma once
#include <stdbool.h>

enum tty_mode {
    TTY_FOUND, /* as it was found: the system edits lines and shows them */
    TTY_QUIET, /* nothing is shown; what is typed waits to be read; Ctrl-C and Ctrl-Z are signals */
    TTY_RAW,   /* as QUIET, but every key is read */
};

/* Remembers the terminal and takes over its signals. False, and the other calls do nothing, when
 * standard input is no terminal. */
bool tty_open(void);
void tty_set(enum tty_mode mode);
void tty_close(void); /* leaves it as it was found */
/* The terminal of this file descriptor marks a paste as one, except as it was found; -1: none
 * does. To be called before tty_set. */
void tty_marks_pastes(int fd);
/* What has become of it since the last call. */
enum tty_change {
    TTY_SAME,
    TTY_RESIZED,
    TTY_CONTINUED, /* the process was stopped and goes on: others have written to it */
};
enum tty_change tty_changed(void);
/* Between these two the signals that end or change something wait, so that none can come between
 * looking whether one has come and waiting for the next. tty_wait is called in between: it lets
 * them through until there is input, or one of them came, or the time is over (ms < 0: never).
 * Returns whether there is input, or -1 where a signal came. */
void tty_hold_signals(void);
void tty_release_signals(void);
int tty_wait(int ms);
void tty_size(unsigned *cols, unsigned *rows); /* 80 and 24 where it is not known */
/* As Ctrl-Z and Ctrl-\ do in the other modes: stops, or ends, all programs in the foreground. */
void tty_stop(void);
void tty_quit(void);
