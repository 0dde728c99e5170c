/* watch: the runs that the monitor watches - processes of this user and log files. It attaches,
 * reads what is new, notices ends and new processes, and asks for more. One thread. */
#pragma once
#include "monitor/run.h"

#include <stdio.h>

struct watch;

enum { WATCH_MAX_RUN = 32 }; /* the run that ended first goes when there are more */

struct watch *watch_create(void);    /* NULL: no memory */
void watch_destroy(struct watch *w); /* detaches from all; takes NULL */

/* Adds one run; false with a reason: there is no such process or file, or it cannot be watched. A
 * run that is there already is no failure. *i (may be NULL): its index. */
bool watch_add_pid(struct watch *w, uint64_t pid, uint32_t *i, struct hlm_err *err);
bool watch_add_file(struct watch *w, const char *path, uint32_t *i, struct hlm_err *err);
/* A pid, or else the path of a file. */
bool watch_add(struct watch *w, const char *what, uint32_t *i, struct hlm_err *err);
/* From now on watch_poll adds every process of this user that can be watched. */
void watch_follow(struct watch *w, bool on);

/* Reads what is new. True: something that a picture shows may have changed. Never blocks. Ten times
 * a second is often enough. */
bool watch_poll(struct watch *w);

/* The runs, in the order in which they began; indices change when one is added or forgotten. */
uint32_t watch_n_run(const struct watch *w);
struct run *watch_get(const struct watch *w, uint32_t i);
/* The run to look at without another wish: the newest that lives, else the newest; -1: none. */
int watch_newest(const struct watch *w);
void watch_forget(struct watch *w, uint32_t i);
/* Why the newest process that was found could not be watched, in one line; "": there is none. */
const char *watch_refusal(const struct watch *w);

/* Asks the process for what costs it something, RING_TIME_KERNELS and RING_TELL_LAYERS. The wish
 * holds for two seconds; call it with every poll while such a panel is open. Does nothing for
 * logs and ended processes. */
void watch_want(struct watch *w, uint32_t i, uint32_t what);

/* --list: a table of the processes that can be watched, and a line for each that cannot, with the
 * reason. Returns the exit code. */
int process_print_list(FILE *to);
