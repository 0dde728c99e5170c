/* base: see base.h. */
#define _POSIX_C_SOURCE 200809L
#include "base.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

bool fail(struct err *err, const char *fmt, ...)
{
    if (err && !err->set) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
        err->set = true;
    }
    return false;
}

_Noreturn void hlm_assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "hlm: %s:%d: assertion failed: %s (this is a bug in hlm)\n", file, line, cond);
    abort();
}

static struct {
    pthread_mutex_t lock;
    log_fn fn;
    void *user;
} sink = { .lock = PTHREAD_MUTEX_INITIALIZER };

void log_sink(log_fn fn, void *user)
{
    pthread_mutex_lock(&sink.lock);
    sink.fn = fn;
    sink.user = user;
    pthread_mutex_unlock(&sink.lock);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
    char msg[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&sink.lock);
    if (sink.fn)
        sink.fn(sink.user, level, msg);
    pthread_mutex_unlock(&sink.lock);
}

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

double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *mem_alloc(uint64_t n, uint64_t size)
{
    uint64_t bytes;
    if (!size_mul(n, size, &bytes) || bytes > SIZE_MAX)
        return NULL;
    return calloc(1, bytes ? (size_t)bytes : 1);
}

void *mem_grow(void *old, uint64_t n, uint64_t size)
{
    uint64_t bytes;
    if (!size_mul(n, size, &bytes) || bytes > SIZE_MAX)
        return NULL;
    return realloc(old, bytes ? (size_t)bytes : 1);
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
