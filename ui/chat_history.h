/* chat_history: the messages that were typed, in memory and in a file that several programs share.
 *
 * The file has the form of libedit's history files, which hlm-chat has always had: a line
 * "_HiStOrY_V2_", then a message a line, with blanks, line ends and backslashes as octal escapes.
 * A message is appended when it is entered, under a lock, so programs that run side by side lose
 * nothing of each other's. */
#pragma once
#include "common_base.h"

struct history {
    const char *path; /* NULL: there is no file */
    char **entry;     /* the oldest first */
    uint32_t n, cap;
};

/* Reads the file, which need not exist, and shortens it when it has grown past twice of what is
 * kept. Of a file above 16 MiB only the newest part is read. A file that is no history is left
 * alone: path is NULL then, and err says why. */
bool history_open(struct history *h, const char *path, struct hlm_err *err);
void history_free(struct history *h);
/* Adds a message, unless it is the same as the last one or empty. False: it is not in the file. */
bool history_add(struct history *h, const char *text, struct hlm_err *err);
/* The newest entry before `from` that contains the text, or with a step of 1 the oldest from there
 * on. Returns its index; h->n: none. */
uint32_t history_find(const struct history *h, const char *text, uint32_t from, int step);
