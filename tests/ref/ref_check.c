/* ref_check: central differences for the tests of ref_bwd.h. */
#include "ref/ref_check.h"

#include <math.h>

#define STEP 0x1p-13
#define UNIT 0x1p-12
/* |difference| over |gradient| */
static const struct bound slope_off = { .most = 1e-9, .measured = 1.1e-10 };

const uint32_t rc_first[RC_TOK] = { 0, 0, 0, 0, 0, 5, 6, 6, 6, 6, 6, 6, 6, 6 };

uint32_t rc_doc_length(uint32_t t)
{
    uint32_t n = 1;
    while (t + n < RC_TOK && rc_first[t + n] == t)
        n++;
    return n;
}

static void *owned[256];
static uint32_t n_owned;

static void *own(uint64_t n, uint64_t size)
{
    void *p = mem_alloc(n ? n : 1, size);
    HLM_ASSERT(p && n_owned < ARRAY_LEN(owned));
    return owned[n_owned++] = p;
}

void rc_free(void)
{
    while (n_owned)
        free(owned[--n_owned]);
}

double *rc_normals(struct rng *r, uint64_t n)
{
    double *x = own(n, sizeof *x);
    for (uint64_t i = 0; i < n; i++)
        x[i] = round(rng_normal(r) / UNIT) * UNIT;
    return x;
}

float *rc_floats(struct rng *r, uint64_t n)
{
    float *x = own(n, sizeof *x);
    for (uint64_t i = 0; i < n; i++)
        x[i] = (float)(round(rng_normal(r) / UNIT) * UNIT);
    return x;
}

double *rc_start(uint64_t n)
{
    double *x = own(n, sizeof *x);
    for (uint64_t i = 0; i < n; i++)
        x[i] = START;
    return x;
}

double rc_weigh(const double *dy, double *y, uint64_t n)
{
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += dy[i] * y[i];
    free(y);
    return sum;
}

/* The element that is varied, a double or a float. */
struct value {
    double *d;
    float *f;
};
static double at(const struct value *v, uint64_t i, double set, bool write)
{
    if (write && v->d)
        v->d[i] = set;
    else if (write)
        v->f[i] = (float)set;
    return v->d ? v->d[i] : (double)v->f[i];
}

static double slope(rc_loss *f, const void *ctx, const struct value *v, uint64_t i)
{
    static const double weight[4] = { 1, -8, 8, -1 }, step[4] = { -2, -1, 1, 2 };
    double middle = at(v, i, 0, false), sum = 0;
    for (uint32_t k = 0; k < 4; k++) {
        at(v, i, middle + step[k] * STEP, true);
        sum += weight[k] * f(ctx);
    }
    at(v, i, middle, true);
    return sum / (12 * STEP);
}

static void check(const char *what, rc_loss *f, const void *ctx, const struct value *v, uint64_t n,
                  const double *grad)
{
    struct rng r = { 1 };
    double off = 0, size = 0;
    for (uint64_t k = 0, i; k < min_u64(n, 150); k++) {
        i = n <= 150 ? k : rng_u64(&r) % n;
        double want = slope(f, ctx, v, i), d = grad[i] - START - want;
        off += d * d;
        size += want * want;
    }
    /* 1e-11: where nothing depends on the values, nothing may be added */
    test_note("  %s: %.3g of %.3g", what, sqrt(off), sqrt(size));
    CHECK_MSG(sqrt(off) <= slope_off.most * sqrt(size) + 1e-11,
              "%s: %.3g off of %.3g, relative %.3g", what, sqrt(off), sqrt(size), sqrt(off / size));
}

void rc_check(const char *what, rc_loss *f, const void *ctx, double *x, uint64_t n,
              const double *grad)
{
    check(what, f, ctx, &(struct value){ .d = x }, n, grad);
}

void rc_check_float(const char *what, rc_loss *f, const void *ctx, float *x, uint64_t n,
                    const double *grad)
{
    check(what, f, ctx, &(struct value){ .f = x }, n, grad);
}
