/* recording: lists of dispatches that are recorded once and submitted many times.
 *
 * A recording is a cmd that is kept under a key. struct recordings keeps a limited number of them:
 * when it is full, the recording that was used longest ago is destroyed to make room. What a key
 * means, and how its list is recorded, is the owner's (a session, a trainer). */
#pragma once
#include "gpu/gpu.h"

struct recording_key {
    uint32_t kind;  /* an enum of the owner */
    uint32_t n_tok; /* tokens that the list works on; 0 where that does not differ */
    uint32_t index; /* which of several lists of one kind */
};

struct recording {
    struct cmd *cmd; /* NULL: the slot is empty */
    struct recording_key key;
    bool ended;    /* ready to be submitted */
    uint64_t used; /* counts up with every use; 0: it was laid out and never used */
};

enum { MAX_RECORDING = 64 };

struct recordings {
    struct gpu *gpu;
    struct arena *scratch;   /* of all lists, which never run at the same time */
    const char *const *name; /* of each kind, for messages */
    uint32_t n;              /* recordings that may be kept, MAX_RECORDING at most */
    /* Records what the key means. Failures stick to c. slot, less than n, stays the recording's as
     * long as there is one: the owner may keep something beside it. */
    void (*record)(void *user, struct cmd *c, struct recording_key key, uint32_t slot);
    void *user;
    /* from here on recording.c's; zeros at first */
    struct recording at[MAX_RECORDING];
    uint64_t tick;
};

/* Records a list but does not end it: its needs of scratch memory are then known. For recordings
 * that are made before their scratch arena is committed. */
bool recordings_lay_out(struct recordings *r, struct recording_key key, struct hlm_err *err);
/* The list, ready to be submitted; it is recorded first if it is not there. It stays valid until
 * the next call. NULL on failure. */
struct cmd *recordings_get(struct recordings *r, struct recording_key key, struct hlm_err *err);
void recordings_finish(struct recordings *r); /* takes a zeroed one */
