/* source: where runs come from - the ring of a process, the file of a log. Shared by watch.c,
 * source_ring.c and source_log.c. */
#pragma once
#include "monitor/run.h"

/* ---- rings ----------------------------------------------------------------------------------- */

struct ring_source;

/* Attaches, and fills the run with what the ring still holds. NULL with a reason. The run is the
 * caller's and outlives the source. */
struct ring_source *ring_source_open(uint64_t pid, struct run *r, struct hlm_err *err);
/* Reads what is new. False: there will be no more, and the run says how it ended. */
bool ring_source_poll(struct ring_source *s);
void ring_source_want(struct ring_source *s, uint32_t wishes);
void ring_source_close(struct ring_source *s); /* takes NULL */

/* ---- logs ------------------------------------------------------------------------------------ */

struct log_source;

/* Refused: what is no ordinary file, and a file whose first lines are no events. */
struct log_source *log_source_open(const char *path, struct run *r, struct hlm_err *err);
/* Reads what was added since, a few MiB at most: true when there is more. A file that was begun
 * anew begins the run anew, also one that had ended. */
bool log_source_poll(struct log_source *s);
void log_source_close(struct log_source *s); /* takes NULL */
