/* common_counters: what an engine tells of itself, as the event "counters" of --log-json and in the
 * shared memory that a monitor reads (ring.h). */
#pragma once
#include "hlm.h"

/* An hlm_watch, without a user: makes the ring at the first call. What there is no shared memory
 * for is a note with -v, and nothing else. */
void counters_watch(void *user, const hlm *m, const struct hlm_counters *c);
void counters_error(const char *message); /* one more, and this is the newest */
/* As they stand, errors included. */
void counters_get(hlm *m, struct hlm_counters *out);
void counters_log(hlm *m); /* the event, as they stand */
void counters_end(void);   /* the ring goes */
