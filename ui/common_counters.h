/* common_counters: the figures of an engine, as the event "counters" of --log-json and in the
 * shared memory that a monitor reads (ring.h). */
#pragma once
#include "hlm_counters.h"

#include "hlm.h"

/* An hlm_watch, without a user: makes the ring at the first call. Without shared memory there is a
 * message with -v, and nothing else happens. */
void counters_watch(void *user, const hlm *m, const struct hlm_counters *c);
void counters_error(const char *message); /* one more, and this is the newest */
void counters_why(const char *why); /* why the newest turn read tokens again; "": it did not */
/* The newest sample answer of a training. */
void counters_sample(uint64_t step, const char *prompt, const char *text);
/* As they stand, errors included. */
void counters_get(hlm *m, struct hlm_counters *out);
void counters_log(hlm *m); /* the event, as they stand */
void counters_end(void);   /* the ring goes */
