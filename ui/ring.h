/* ring: the counters of a running program in shared memory, for a monitor to attach to.
 *
 * Name     a POSIX shared memory object "/hlm-<uid>-<pid>" (on Linux a file in /dev/shm), mode
 *          0600: only the owner can read it. It is made when a model is opened and its name is
 *          removed when the program ends. One that a crash has left belongs to a process that is
 *          not there any more, or not the one that made it; the next program of the same user
 *          removes it.
 * Layout   struct ring_head, then head.n_slot slots of struct ring_slot. head.magic is written
 *          last, so what has it is complete. Another version or another size of a part is refused:
 *          both sides must be built from the same headers.
 * Slots    sample number n (from 0) stands in slot n % n_slot. slot.seq is 2n + 1 while it is being
 *          written and 2n + 2 once it is there: a reader that sees the same even number before and
 *          after copying has sample n and no other. The writer never waits for anybody. A reader
 *          that is too slow loses the oldest samples and is told how many.
 * Times    a sample is written at every change of state and, while there is work, at least every
 *          quarter of a second - by a thread of its own when the engine does not come up for air
 *          that long, so that a slow device is not taken for a dead one.
 * Wishes   what costs the program something is off until a monitor asks for it: it writes into
 *          head.until, one word for each wish, the time until which it wants that, RING_LEASE_S
 * from now at most, and renews it while somebody looks. The program takes the wishes up between two
 * submissions. A time that is further away, or past, is no wish. Nothing else in a ring is written
 * by anybody but its maker. */
#pragma once
#include "hlm.h"
#include "hlm_counters.h"

#include <stdatomic.h>

enum { RING_VERSION = 2, RING_SLOTS = 64, RING_FLAGS = 2048 };
#define RING_MAGIC 0x31676e69726d6c68u /* "hlmring1" */

/* What a monitor may ask for, as bits. */
enum ring_wish { RING_TIME_KERNELS = 1, RING_TELL_LAYERS = 2 };
enum { RING_WISHES = 2 };
#define RING_LEASE_S 2.0

struct ring_sample {
    uint64_t number; /* 0, 1, 2, ... */
    double time_s;   /* CLOCK_MONOTONIC when it was written */
    double count_s;  /* when the engine last had something to say; far behind
                        time_s: it is busy with one long submission */
    struct hlm_counters c;
};

struct ring_head {
    _Atomic uint64_t magic;
    uint32_t version, counters_version;
    uint32_t head_bytes, sample_bytes, n_slot, uid;
    uint64_t pid, pid_space;       /* pid_space: which processes the pid is one of */
    uint64_t start_tick;           /* of the process: field 22 of its /proc stat; 0: unknown */
    int64_t start_unix;            /* seconds, when the ring was made */
    char program[32], release[16]; /* release: HLM_VERSION of the program */
    char flags[RING_FLAGS];        /* of its command line: lines of a name, a tab and a value */
    _Atomic uint64_t n_written;    /* samples so far */
    _Atomic uint64_t ended;        /* 1: there will be no more */
    _Atomic uint64_t until[RING_WISHES]; /* milliseconds of CLOCK_MONOTONIC; 0: never wanted */
};

struct ring_slot {
    _Atomic uint64_t seq;
    _Atomic uint64_t word[sizeof(struct ring_sample) / 8];
};

/* ---- writing --------------------------------------------------------------------------------- */

struct ring;

/* Removes what dead processes of this user have left, then makes this process's own. flags: as in
 * the head; NULL: none. n_slot 0: RING_SLOTS. NULL with a reason: there is no shared memory; the
 * program goes on without. */
struct ring *ring_create(const char *program, const char *flags, uint32_t n_slot,
                         struct hlm_err *err);
/* One more sample. */
void ring_publish(struct ring *r, const struct hlm_counters *c);
/* The wishes that hold now, as bits. */
uint32_t ring_wanted(const struct ring *r);
void ring_destroy(struct ring *r); /* takes NULL */

/* ---- reading --------------------------------------------------------------------------------- */

struct ring_reader;

/* The processes of this user that have a ring. Returns how many, at most max filled. */
uint32_t ring_list(uint64_t *pid, uint32_t max);
/* All names of rings of this user, whatever they are, dead processes' too. As ring_list. */
uint32_t ring_pids(uint64_t *pid, uint32_t max);
/* NULL with a reason: there is none, it is another user's or others may open it, another version's,
 * not complete. */
struct ring_reader *ring_attach(uint64_t pid, struct hlm_err *err);
void ring_detach(struct ring_reader *r); /* takes NULL */
const struct ring_head *ring_get_head(const struct ring_reader *r);

/* RING_NONE: nothing newer yet; RING_GONE: nor will there be, the program has ended or died. */
enum ring_got { RING_SAMPLE, RING_NONE, RING_GONE };
/* The next sample, beginning with the oldest that is there; its texts end and its indices are in
 * range, whoever wrote it. lost, where it is not NULL, grows by
 * those that were overwritten before they could be read. Never blocks. */
enum ring_got ring_next(struct ring_reader *r, struct ring_sample *out, uint64_t *lost);
/* Asks for these for RING_LEASE_S from now; one that is left out lapses. False, with a reason, when
 * the ring cannot be opened for writing. */
bool ring_want(struct ring_reader *r, uint32_t wishes, struct hlm_err *err);
