/* pty: a program at a terminal of its own - keys go in, and what is on the screen (screen.h) is
 * waited for. */
#pragma once
#include "screen.h"

#include <sys/types.h>

struct pty {
    int fd; /* the terminal's side */
    pid_t pid;
    struct screen_mem screen;
};

/* Forks. The child has the terminal as its streams and as its controlling one, calls run(user), and
 * ends with what that returns. */
void pty_start(struct pty *p, uint32_t cols, uint32_t rows, int (*run)(void *user), void *user);
void pty_type(struct pty *p, const char *bytes);
/* The screen becomes this (screen_mem_text), in ten seconds at most. */
#define CHECK_SHOWS(p, text) pty_shows_at(__FILE__, __LINE__, (p), (text))
bool pty_shows_at(const char *file, int line, struct pty *p, const char *text);
/* Somewhere on the screen this text comes to stand. */
#define CHECK_SHOWN(p, text) pty_shown_at(__FILE__, __LINE__, (p), (text))
bool pty_shown_at(const char *file, int line, struct pty *p, const char *text);
/* Gives the program what it may write in this time: for what must not be seen. */
void pty_wait(struct pty *p, int ms);
void pty_resize(struct pty *p, uint32_t cols);
bool pty_ended(const struct pty *p);
void pty_to_end(struct pty *p);   /* takes all that the program writes until it has ended */
bool pty_is_found(struct pty *p); /* lines are edited and shown by the system */
/* Waits for the end of the program, closes the terminal, and fails the case where sequences came
 * that the screen does not know. The exit status, 128 + signal when one ended it. */
int pty_end(struct pty *p);
