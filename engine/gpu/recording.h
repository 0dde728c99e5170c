/* recording: lists of dispatches that are recorded once and submitted many times.
 *
 * A recording is a cmd that is kept under a key. struct recordings keeps a limited number of them:
 * when it is full, the recording that was used longest ago is destroyed to make room. The owner (a
 * session, a trainer) defines what a key means and records the list. */
#pragma once
#include "gpu/gpu.h"

struct recording_key {
    uint32_t kind;  /* an enum of the owner */
    uint32_t n_tok; /* tokens that the list works on; 0: not a part of the key */
    uint32_t index; /* which of several lists of one kind */
};

struct recording {
    struct cmd *cmd; /* NULL: the slot is empty */
    struct recording_key key;
    bool ended;    /* ready to be submitted */
    uint64_t used; /* the time of the last use, by a counter; 0: laid out, but never used */
};

enum { MAX_RECORDING = 64 };

struct recordings {
    struct gpu *gpu;
    struct arena *scratch;   /* of all lists, which never run at the same time */
    const char *const *name; /* of each kind, for messages */
    uint32_t n;              /* recordings that may be kept, MAX_RECORDING at most */
    /* Records the list of a key. Failures stick to c. slot is less than n and belongs to the
     * recording as long as it exists, so that the owner can keep data for it. */
    void (*record)(void *user, struct cmd *c, struct recording_key key, uint32_t slot);
    void *user;
    /* private to recording.c; zeros at first */
    struct recording at[MAX_RECORDING];
    uint64_t tick;
};

/* Records a list but does not end it. Afterwards the scratch memory that it needs is known. For
 * recordings that are made before their scratch arena is committed. */
bool recordings_lay_out(struct recordings *r, struct recording_key key, struct hlm_err *err);
/* The list of a key, ready to be submitted, and recorded if need be. Valid until the next call.
 * NULL on failure. */
struct cmd *recordings_get(struct recordings *r, struct recording_key key, struct hlm_err *err);
void recordings_finish(struct recordings *r); /* takes a zeroed one */
