/* base: see base.h. */
#define _POSIX_C_SOURCE 200809L
#include "base/base.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

/* ---- errors ---------------------------------------------------------------------------------- */

static bool describe(struct hlm_err *err, enum hlm_error kind, const char *fmt, va_list ap)
{
    if (err && !err->kind) {
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        one_line(err->msg); /* texts of files may be in it */
        err->kind = kind;
    }
    return false;
}

#define DESCRIBE(kind)                                                                             \
    va_list ap;                                                                                    \
    va_start(ap, fmt);                                                                             \
    describe(err, kind, fmt, ap);                                                                  \
    va_end(ap);                                                                                    \
    return false

bool fail(struct hlm_err *err, const char *fmt, ...) { DESCRIBE(HLM_ERR_INPUT); }
bool fail_memory(struct hlm_err *err, const char *fmt, ...) { DESCRIBE(HLM_ERR_MEMORY); }
bool fail_system(struct hlm_err *err, const char *fmt, ...) { DESCRIBE(HLM_ERR_SYSTEM); }

bool fail_as(struct hlm_err *err, enum hlm_error kind, const char *fmt, ...) { DESCRIBE(kind); }

bool fail_size(struct hlm_err *err, enum hlm_error kind, const struct hlm_err *size,
               const char *fmt, ...)
{
    if (err && !err->kind) {
        err->need = size->need;
        err->have = size->have;
        err->fits = size->fits;
    }
    DESCRIBE(kind);
}

bool fail_stopped(struct hlm_err *err) { return fail_as(err, HLM_ERR_STOPPED, "stopped"); }

bool fail_from(struct hlm_err *err, const struct hlm_err *why, const char *where)
{
    return fail_size(err, why->kind, why, "%.200s%s", where, why->msg);
}

void err_clear(struct hlm_err *err)
{
    if (err)
        *err = (struct hlm_err){ 0 };
}

const char *hlm_error_name(enum hlm_error kind)
{
    static const char *const name[] = {
        [HLM_OK] = "none",
        [HLM_ERR_INPUT] = "input",
        [HLM_ERR_STOPPED] = "stopped",
        [HLM_ERR_MEMORY] = "memory",
        [HLM_ERR_WONT_FIT] = "won't fit",
        [HLM_ERR_FULL] = "full",
        [HLM_ERR_SYSTEM] = "system",
        [HLM_ERR_UNSUPPORTED] = "unsupported",
        [HLM_ERR_DEVICE_LOST] = "device lost",
        [HLM_ERR_STATE] = "state",
    };
    return (unsigned)kind < ARRAY_LEN(name) ? name[kind] : "unknown";
}

const char *hlm_version(void) { return HLM_VERSION; }

_Noreturn void hlm_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "hlm: %s:%d: assertion failed: %s (this is a bug in hlm)\n", file, line, cond);
    abort();
}

/* ---- log ------------------------------------------------------------------------------------- */

static _Thread_local struct hlm_log sink;

/* A message on its way. A sink, which is a function and its user, has one at a time. A message from
 * inside a sink does not wait: it could wait for its own thread, or two threads for each other. */
struct delivery {
    struct hlm_log to;
    pthread_t by;
    struct delivery *next;
};
static struct delivery *deliveries;
static pthread_mutex_t deliveries_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t delivered = PTHREAD_COND_INITIALIZER;

void log_to(const struct hlm_log *log) { sink = log ? *log : (struct hlm_log){ 0 }; }

struct hlm_log log_get(void) { return sink; }

void api_begin(const struct hlm_log *log, struct hlm_err *err)
{
    log_to(log);
    err_clear(err);
}

static bool must_wait(const struct delivery *d)
{
    bool wait = false;
    for (const struct delivery *o = deliveries; o; o = o->next) {
        if (pthread_equal(o->by, d->by))
            return false;
        wait = wait || (o->to.fn == d->to.fn && o->to.user == d->to.user);
    }
    return wait;
}

static void deliver(enum hlm_log_level level, const char *msg)
{
    struct delivery d = { .to = sink, .by = pthread_self() }, **at = &deliveries;
    pthread_mutex_lock(&deliveries_lock);
    while (must_wait(&d))
        pthread_cond_wait(&delivered, &deliveries_lock);
    d.next = deliveries;
    deliveries = &d;
    pthread_mutex_unlock(&deliveries_lock);
    d.to.fn(d.to.user, level, msg);
    sink = d.to; /* the sink may have used another model */
    pthread_mutex_lock(&deliveries_lock);
    while (*at != &d)
        at = &(*at)->next;
    *at = d.next;
    pthread_cond_broadcast(&delivered);
    pthread_mutex_unlock(&deliveries_lock);
}

void log_msg(enum hlm_log_level level, const char *fmt, ...)
{
    if (!sink.fn)
        return;
    char msg[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    one_line(msg);
    deliver(level, msg);
}

/* ---- sizes, text, time, memory ----------------------------------------------------------------
 */

bool size_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    if (a && b > UINT64_MAX / a)
        return false;
    *out = a * b;
    return true;
}

bool size_add(uint64_t a, uint64_t b, uint64_t *out)
{
    if (b > UINT64_MAX - a)
        return false;
    *out = a + b;
    return true;
}

/* Moves a terminal, breaks a line, or turns the direction of the text around it. */
static bool is_control(utf8proc_int32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

void one_line(char *s)
{
    for (utf8proc_int32_t c = 0; *s;) {
        utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)s, -1, &c);
        if (n < 1 || is_control(c)) /* bytes that are no character may be a terminal's own codes */
            memset(s, '?', (size_t)(n = n < 1 ? 1 : n));
        s += n;
    }
}

struct shown show_text(const char *text, uint64_t n, uint64_t max)
{
    struct shown out;
    uint64_t len = 0;
    HLM_ASSERT(max <= 240);
    for (uint64_t i = 0; i < n; i++) {
        if (n > max && i == max / 2) {
            memcpy(out.s + len, "...", 3);
            len += 3;
            i = n - max / 2;
        }
        /* A zero would end the text early. */
        out.s[len++] = text[i] ? text[i] : '?';
    }
    out.s[len] = 0;
    one_line(out.s);
    return out;
}

const char *bytes_text(char out[32], uint64_t bytes)
{
    if (bytes < 1024)
        snprintf(out, 32, "%llu bytes", (unsigned long long)bytes);
    else if (bytes < 1ull << 20)
        snprintf(out, 32, "%.1f KiB", (double)bytes / 1024);
    else if (bytes < 1ull << 30)
        snprintf(out, 32, "%.1f MiB", (double)bytes / (1 << 20));
    else
        snprintf(out, 32, "%.1f GiB", (double)bytes / (1 << 30));
    return out;
}

bool all_finite(const float *v, uint64_t n)
{
    uint32_t odd = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &v[i], 4);
        odd |= (u & 0x7f800000) == 0x7f800000;
    }
    return !odd;
}

double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- host memory ----------------------------------------------------------------------------- */

static atomic_llong fail_in;   /* allocations until the one that a test makes fail */
static atomic_bool fail_later; /* and whether all later ones fail too */

static uint64_t fail_at(uint64_t n, bool later_too)
{
    atomic_store(&fail_later, later_too);
    long long left = atomic_exchange(&fail_in, (long long)n);
    return left > 0 ? (uint64_t)left : 0;
}

uint64_t mem_test_fail(uint64_t n) { return fail_at(n, false); }
uint64_t mem_test_fail_from(uint64_t n) { return fail_at(n, true); }

static bool alloc_strikes(void)
{
    static const long long struck = -1;
    long long at = atomic_load(&fail_in);
    if (at > 0)
        at = atomic_fetch_sub(&fail_in, 1);
    if (at != 1)
        return at == struck;
    atomic_store(&fail_in, atomic_load(&fail_later) ? struck : 0);
    return true;
}

static bool refused(uint64_t n, uint64_t size, uint64_t *bytes)
{
    return !size_mul(n, size, bytes) || *bytes > SIZE_MAX || alloc_strikes();
}

void *mem_alloc(uint64_t n, uint64_t size)
{
    uint64_t bytes;
    return refused(n, size, &bytes) ? NULL : calloc(1, bytes ? (size_t)bytes : 1);
}

void *mem_grow(void *old, uint64_t n, uint64_t size)
{
    uint64_t bytes;
    return refused(n, size, &bytes) ? NULL : realloc(old, bytes ? (size_t)bytes : 1);
}

void hlm_free(void *p) { free(p); }

char *mem_text(const char *p, uint64_t n)
{
    char *copy = n < UINT64_MAX ? mem_alloc(n + 1, 1) : NULL;
    if (copy && n)
        memcpy(copy, p, (size_t)n);
    return copy;
}

bool mem_reserve(void *array, uint64_t n, uint64_t *cap, uint64_t size)
{
    void *old, *grown;
    if (n <= *cap)
        return true;
    uint64_t want = n < UINT64_MAX / 4 ? 2 * n + 64 : n;
    memcpy(&old, array, sizeof old);
    if (!(grown = mem_grow(old, want, size)))
        return false;
    memcpy(array, &grown, sizeof grown);
    *cap = want;
    return true;
}

uint64_t rng_u64(struct rng *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double rng_unit(struct rng *r) { return (double)(rng_u64(r) >> 11) * 0x1p-53; }

double rng_normal(struct rng *r)
{
    double u = 1.0 - rng_unit(r), v = rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
