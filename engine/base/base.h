/* base: what every file of hlm leans on - errors, log, checked sizes, clock, allocation.
 *
 * Errors come in three kinds (see style: our mistakes, the world, while recording). HLM_ASSERT is
 * for our mistakes only; whatever a file, a device or a person can cause goes through fail(). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* One reason why a call failed. Zero it before use; the first message wins. */
struct hlm_err {
    bool kind;
    char msg[512];
};

/* Keeps the first message in err (which may be NULL). Always false, so `return fail(err, ...)`. */
bool fail(struct hlm_err *err, const char *fmt, ...) HLM_PRINTF(2, 3);

/* Aborts with file, line and the condition. On in every build. Never for input. */
#define HLM_ASSERT(cond) ((cond) ? (void)0 : hlm_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void hlm_assert_failed(const char *cond, const char *file, int line);

/* The engine prints nothing by itself: a program installs a sink. Without one, messages are
 * dropped. The sink may be called from helper threads, one call at a time. */
enum hlm_log_level { HLM_LOG_ERROR, HLM_LOG_WARN, HLM_LOG_INFO, HLM_LOG_DEBUG };
typedef void (*hlm_log_fn)(void *user, enum hlm_log_level level, const char *msg);
void log_sink(hlm_log_fn fn, void *user);
void log_msg(enum hlm_log_level level, const char *fmt, ...) HLM_PRINTF(2, 3);

/* Sizes from files: false on overflow, and *out is then left alone. */
bool size_mul(uint64_t a, uint64_t b, uint64_t *out);
bool size_add(uint64_t a, uint64_t b, uint64_t *out);

static inline uint64_t align_up(uint64_t v, uint64_t a) { return (v + a - 1) / a * a; }
static inline uint32_t div_up(uint32_t v, uint32_t d) { return (v + d - 1) / d; }
static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Makes a library's or a file's text fit for one line: what would break it or move a terminal
 * becomes '?'. */
void one_line(char *s);
const char *bytes_text(char out[32], uint64_t bytes); /* "1.5 GiB"; small ones to the byte */

/* Monotonic seconds. */
double now_s(void);

/* Host memory. NULL when there is none: callers report it with fail(). n * size is checked. */
void *mem_alloc(uint64_t n, uint64_t size);           /* zeroed */
void *mem_grow(void *old, uint64_t n, uint64_t size); /* realloc; new bytes are not zeroed */
uint64_t mem_n_failed(void); /* allocations that could not be had, in this process */
/* For tests: the n-th allocation from now fails, 1 being the next; 0: none does. Returns how far
 * away the one asked for before still was: 0 when it has happened. The second lets all behind it
 * fail too. */
uint64_t mem_test_fail(uint64_t n);
uint64_t mem_test_fail_from(uint64_t n);

/* A counter-less generator for tests and host-side choices (splitmix64). */
struct rng {
    uint64_t s;
};
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r); /* [0, 1) */
double rng_normal(struct rng *r);
