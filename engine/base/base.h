/* base: what every other file of hlm builds on: errors, log, checked sizes, clock, memory of the
 * host.
 *
 * A mistake of our own stops the program (HLM_ASSERT). What a file, a device or a person can cause
 * is reported with fail(). A failure while recording sticks to the cmd and is reported when
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

/* Describes a failure in err, which may be NULL: the first message stays. Always false, so that a
 * function can `return fail(err, ...)`. fail() is for input that is not as it must be; the others
 * say another kind (enum hlm_error). */
bool fail(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);
bool fail_memory(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);
bool fail_system(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);
bool fail_as(struct hlm_err *err, enum hlm_error kind, const char *fmt, ...) HLM_PRINTF(3, 4);
/* A failure with its numbers: HLM_ERR_WONT_FIT and HLM_ERR_FULL. */
bool fail_size(struct hlm_err *err, enum hlm_error kind, const struct hlm_err *size,
               const char *fmt, ...) HLM_PRINTF(4, 5);
bool fail_stopped(struct hlm_err *err); /* a callback asked to stop */
/* The same failure in another err, after a prefix that says where ("%s: "); "" for none. */
bool fail_from(struct hlm_err *err, const struct hlm_err *why, const char *where);
void err_clear(struct hlm_err *err);

/* Aborts with file, line and the condition. On in every build. Never for input. */
#define HLM_ASSERT(cond) ((cond) ? (void)0 : hlm_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void hlm_assert_failed(const char *cond, const char *file, int line);

/* Messages go to the sink of the calling thread. Every public call sets the sink of its object at
 * its start; a helper thread sets the one of the thread that started it. Without a sink messages
 * are dropped. One message at a time reaches a sink, whatever the threads. */
void log_to(const struct hlm_log *log); /* NULL: nowhere. Copied */
struct hlm_log log_get(void);           /* the calling thread's, to hand to a helper thread */
/* Every public call that can fail begins with this: log is that of its object, NULL without one. */
void api_begin(const struct hlm_log *log, struct hlm_err *err);
void log_msg(enum hlm_log_level level, const char *fmt, ...) HLM_PRINTF(2, 3);

/* For sizes that come from files: false on overflow, and *out is then not changed. */
bool size_mul(uint64_t a, uint64_t b, uint64_t *out);
bool size_add(uint64_t a, uint64_t b, uint64_t *out);

static inline uint64_t align_up(uint64_t v, uint64_t a) { return (v + a - 1) / a * a; }
static inline uint32_t div_up(uint32_t v, uint32_t d) { return (v + d - 1) / d; }
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Makes text from outside fit for a message: every byte that would break the line or move a
 * terminal becomes '?'. */
void one_line(char *s);
/* A copy of n bytes of such text for a message, of at most max bytes (of 240): a longer one loses
 * its middle. */
struct shown {
    char s[256];
};
struct shown show_text(const char *text, uint64_t n, uint64_t max);
const char *bytes_text(char out[32], uint64_t bytes); /* "1.5 GiB"; small ones to the byte */

/* Monotonic seconds. */
double now_s(void);

/* Memory of the host. NULL when there is none, or when n * size overflows; the caller reports it
 * with fail_memory(). */
void *mem_alloc(uint64_t n, uint64_t size);           /* zeroed */
void *mem_grow(void *old, uint64_t n, uint64_t size); /* realloc; new bytes are not zeroed */
char *mem_text(const char *p, uint64_t n);            /* a copy of n bytes, terminated */
/* Room for n elements of an array that grows. array is the address of the pointer to it, *cap the
 * elements that it has room for; both start as NULL and 0. False when there is no memory: the array
 * is then as it was. */
bool mem_reserve(void *array, uint64_t n, uint64_t *cap, uint64_t size);
/* For tests: the n-th allocation from now fails, 1 being the next; 0: none does. After
 * mem_test_fail_from all later ones fail too. Both return how many allocations the failure that was
 * set before still had to go, 0 if it has happened. */
uint64_t mem_test_fail(uint64_t n);
uint64_t mem_test_fail_from(uint64_t n);

/* A generator of random numbers for tests and for choices of the host (splitmix64). Any s is a
 * seed. */
struct rng {
    uint64_t s;
};
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r); /* [0, 1) */
double rng_normal(struct rng *r);
