/* base: the base of all other files: errors, log, checked sizes, clock, host memory.
 *
 * A mistake in hlm itself ends the process (HLM_ASSERT). What a file, a device or a person can
 * cause is reported with fail(). A failure while recording sticks to the cmd and is reported when
 * recording ends (gpu/gpu.h). */
#pragma once
#include "hlm.h"

#if defined(__GNUC__)
#define HLM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define HLM_PRINTF(fmt, args)
#endif

/* A struct whose members are always initialised by name: struct HLM_NAMED x { ... }. */
#if defined(__GNUC__) && !defined(__clang__)
#define HLM_NAMED __attribute__((designated_init))
#else
#define HLM_NAMED
#endif

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* Describes a failure in err, which may be NULL. The first message stays. Returns false, so that a
 * function can `return fail(err, ...)`. fail() is for bad input; the others are for the other kinds
 * of error (enum hlm_error). */
bool fail(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);
bool fail_memory(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);
bool fail_system(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);
bool fail_as(struct hlm_err *err, enum hlm_error kind, const char *fmt, ...) HLM_PRINTF(3, 4);
/* For the failures that have numbers: HLM_ERR_WONT_FIT and HLM_ERR_FULL. */
bool fail_size(struct hlm_err *err, enum hlm_error kind, const struct hlm_err *size,
               const char *fmt, ...) HLM_PRINTF(4, 5);
bool fail_stopped(struct hlm_err *err); /* a callback asked to stop */
/* Copies a failure to another err, with a prefix that says where ("%s: ") or "". */
bool fail_from(struct hlm_err *err, const struct hlm_err *why, const char *where);
void err_clear(struct hlm_err *err);

/* Prints file, line and the condition, and aborts. On in every build. Never used for input. */
#define HLM_ASSERT(cond) ((cond) ? (void)0 : hlm_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void hlm_assert_failed(const char *cond, const char *file, int line);

/* Messages go to the sink of the calling thread. Every public call begins by setting the sink of
 * its object; a helper thread sets that of the thread that started it. Without a sink messages are
 * dropped. A sink gets one message at a time, even from several threads; other sinks do not wait
 * for it. */
void log_to(const struct hlm_log *log); /* NULL: nowhere. Copied */
struct hlm_log log_get(void);           /* the calling thread's, for a helper thread */
/* Every public call that can fail begins with this. log: that of its object, or NULL. */
void api_begin(const struct hlm_log *log, struct hlm_err *err);
void log_msg(enum hlm_log_level level, const char *fmt, ...) HLM_PRINTF(2, 3);

/* For sizes that come from files. False on overflow; *out is then unchanged. */
bool size_mul(uint64_t a, uint64_t b, uint64_t *out);
bool size_add(uint64_t a, uint64_t b, uint64_t *out);

static inline uint64_t align_up(uint64_t v, uint64_t a) { return (v + a - 1) / a * a; }
static inline uint32_t div_up(uint32_t v, uint32_t d) { return (v + d - 1) / d; }
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Makes text from outside fit for a message: each byte becomes '?' of a character that would break
 * the line, move a terminal or reverse what is around it, and of what is no character. fail() and
 * log_msg() do this with every message. */
void one_line(char *s);
/* A copy of n bytes of text, made safe in the same way. The middle of a text longer than max bytes
 * (at most 240) is left out. */
struct shown {
    char s[256];
};
struct shown show_text(const char *text, uint64_t n, uint64_t max);
const char *bytes_text(char out[32], uint64_t bytes); /* "1.5 GiB"; small sizes in bytes */

/* Is none of these infinite or not a number? */
bool all_finite(const float *v, uint64_t n);

/* Monotonic seconds. */
double now_s(void);

/* Host memory. NULL when there is none left, or when n * size overflows; the caller reports it with
 * fail_memory(). */
void *mem_alloc(uint64_t n, uint64_t size);           /* zeroed */
void *mem_grow(void *old, uint64_t n, uint64_t size); /* realloc; new bytes are not zeroed */
char *mem_text(const char *p, uint64_t n);            /* a copy of n bytes and a zero */
/* Room for n elements of an array that grows. array is the address of the pointer to it, *cap the
 * elements that it has room for; both start as NULL and 0. False when there is no memory: the array
 * is then as it was. */
bool mem_reserve(void *array, uint64_t n, uint64_t *cap, uint64_t size);
/* For tests: the n-th allocation from now fails; 1: the next, 0: none. After mem_test_fail_from all
 * later ones fail too. The result is the number of allocations that were left before the previous
 * failure, 0 if it has happened. */
uint64_t mem_test_fail(uint64_t n);
uint64_t mem_test_fail_from(uint64_t n);

/* A generator of random numbers for tests and for the host (splitmix64). Any s is a seed. */
struct rng {
    uint64_t s;
};
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r); /* [0, 1) */
double rng_normal(struct rng *r);
