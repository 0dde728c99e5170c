/* ops_nll: see ops_nll.h. */
#include "ops_nll.h"

#include <math.h>

const char *const logits_kinds[N_LOGITS_KIND] = {
    [LOGITS_PLAIN] = "plain", [LOGITS_LARGE] = "large", [LOGITS_SURE] = "sure",
    [LOGITS_TIES] = "ties",   [LOGITS_HOLES] = "holes", [LOGITS_EQUAL] = "equal",
};

static float logit(struct rig *r, enum logits_kind kind, uint32_t i)
{
    double v = rng_normal(&r->rng);
    switch (kind) {
    case LOGITS_PLAIN: return (float)(3 * v);
    case LOGITS_LARGE: return (float)(3e4 + 3 * v);
    case LOGITS_SURE: return (float)(i == 0 ? 31.7 : v - 9);
    case LOGITS_TIES: return (float)floor(2 * v);
    case LOGITS_HOLES: return i % 4 == 1 ? -1e30f : i % 4 == 3 ? -INFINITY : (float)v;
    case LOGITS_EQUAL: return -7.25f;
    case N_LOGITS_KIND: break;
    }
    return 0;
}

void logits_fill(struct rig *r, enum logits_kind kind, uint32_t n, uint32_t first, float *row)
{
    for (uint32_t i = 0; i < n; i++)
        row[(first + i) % n] = logit(r, kind, i);
}

double logits_nll(const float *row, uint32_t n, uint32_t id, double weight, double *d)
{
    long double rest = 0;
    uint32_t top = 0;
    for (uint32_t i = 0; i < n; i++)
        top = row[i] > row[top] ? i : top;
    for (uint32_t i = 0; i < n; i++)
        rest += i == top ? 0 : expl((long double)row[i] - (long double)row[top]);
    for (uint32_t i = 0; d && i < n; i++) {
        long double e = expl((long double)row[i] - (long double)row[top]);
        d[i] = weight * (double)((i != id ? e : id == top ? -rest : e - (1 + rest)) / (1 + rest));
    }
    return (double)(log1pl(rest) + ((long double)row[top] - (long double)row[id]));
}
