/* quant: see quant.h. It writes the layouts that dtype.c reads (models/README.md, "Tensor
 * encodings").
 *
 * All formats but MXFP4 have one form. A block has groups, and an element of a group is a*c + b
 * with a code c from a small set. a is the block's d, multiplied by the group's own whole number if
 * the format has groups; b comes from m in the same way. So there is one search, and a format is a
 * few numbers and two functions for its layout. */
#include "base/quant.h"

#include <math.h>
#include <string.h>

enum { MAX_LEN = 256, MAX_GROUP = 16 };

struct block { /* the contents of a block, unpacked */
    float d, m;
    int sc[MAX_GROUP], mn[MAX_GROUP];
    uint8_t q[MAX_LEN]; /* codes, the lowest being 0 */
};

struct form {
    int len, group;     /* elements of a block, of a group */
    int lo, hi;         /* the range of codes; with a table, 0 and 15 */
    const float *table; /* the values of codes; NULL: a code is its own value */
    bool has_min;
    int sc_lo, sc_hi, mn_hi; /* the ranges of a group's whole numbers; sc_hi 0: there are none, a is
                                d and b is m */
    int n_try;               /* the number of scales to try above and below the obvious one */
    float step;              /* the distance between them, in codes */
    void (*get)(const uint8_t *p, struct block *b); /* reads and writes the scales */
    void (*put)(const struct block *b, uint8_t *p);
};

/* ---- layouts --------------------------------------------------------------------------------- */

static void put_f16(float f, uint8_t *p)
{
    uint16_t h = f32_to_f16(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static float get_f16(const uint8_t *p) { return f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

static void get_d(const uint8_t *p, struct block *b) { b->d = get_f16(p); }

static void get_dm(const uint8_t *p, struct block *b)
{
    b->d = get_f16(p);
    b->m = get_f16(p + 2);
}

static void put_q8_0(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    for (int i = 0; i < 32; i++)
        p[2 + i] = (uint8_t)(b->q[i] - 127);
}

static void put_nibbles(const uint8_t *q, uint8_t *p)
{
    for (int i = 0; i < 16; i++)
        p[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void put_fifth(const uint8_t *q, uint8_t *p)
{
    memset(p, 0, 4);
    for (int i = 0; i < 32; i++)
        p[i / 8] |= (uint8_t)((q[i] >> 4) << i % 8);
}

static void put_q4_0(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    put_nibbles(b->q, p + 2);
}

static void put_q4_1(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    put_f16(b->m, p + 2);
    put_nibbles(b->q, p + 4);
}

static void put_q5_0(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    put_fifth(b->q, p + 2);
    put_nibbles(b->q, p + 6);
}

static void put_q5_1(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    put_f16(b->m, p + 2);
    put_fifth(b->q, p + 4);
    put_nibbles(b->q, p + 8);
}

/* Codes of 2 bits, four runs of 32 in each half. */
static void put_crumbs(const uint8_t *q, int shift, uint8_t *p)
{
    memset(p, 0, 64);
    for (int j = 0; j < 256; j++)
        p[32 * (j / 128) + j % 32] |= (uint8_t)((q[j] >> shift & 3) << 2 * (j % 128 / 32));
}

static void get_q2_k(const uint8_t *p, struct block *b)
{
    get_dm(p + 80, b);
    for (int g = 0; g < 16; g++) {
        b->sc[g] = p[g] & 15;
        b->mn[g] = p[g] >> 4;
    }
}

static void put_q2_k(const struct block *b, uint8_t *p)
{
    for (int g = 0; g < 16; g++)
        p[g] = (uint8_t)(b->sc[g] | b->mn[g] << 4);
    put_crumbs(b->q, 0, p + 16);
    put_f16(b->d, p + 80);
    put_f16(b->m, p + 82);
}

static void get_q3_k(const uint8_t *p, struct block *b)
{
    b->d = get_f16(p + 108);
    for (int g = 0; g < 16; g++)
        b->sc[g] =
            ((p[96 + g % 8] >> 4 * (g / 8) & 15) | (p[104 + g % 4] >> 2 * (g / 4) & 3) << 4) - 32;
}

static void put_q3_k(const struct block *b, uint8_t *p)
{
    memset(p, 0, 110);
    for (int j = 0; j < 256; j++)
        p[j % 32] |= (uint8_t)((b->q[j] >> 2) << j / 32);
    put_crumbs(b->q, 0, p + 32);
    for (int g = 0; g < 16; g++) {
        int c = b->sc[g] + 32;
        p[96 + g % 8] |= (uint8_t)((c & 15) << 4 * (g / 8));
        p[104 + g % 4] |= (uint8_t)((c >> 4) << 2 * (g / 4));
    }
    put_f16(b->d, p + 108);
}

/* Sixteen numbers of 6 bits: the first four pairs are the low bits of 8 bytes; the others have
 * their low nibbles in 4 more bytes and the rest in the high bits of the first 8. */
static void get_k(const uint8_t *p, struct block *b)
{
    get_dm(p, b);
    for (int g = 0; g < 4; g++) {
        b->sc[g] = p[4 + g] & 63;
        b->mn[g] = p[8 + g] & 63;
        b->sc[g + 4] = (p[12 + g] & 15) | (p[4 + g] >> 6) << 4;
        b->mn[g + 4] = p[12 + g] >> 4 | (p[8 + g] >> 6) << 4;
    }
}

static void put_k(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    put_f16(b->m, p + 2);
    for (int g = 0; g < 4; g++) {
        p[4 + g] = (uint8_t)(b->sc[g] | (b->sc[g + 4] >> 4) << 6);
        p[8 + g] = (uint8_t)(b->mn[g] | (b->mn[g + 4] >> 4) << 6);
        p[12 + g] = (uint8_t)((b->sc[g + 4] & 15) | (b->mn[g + 4] & 15) << 4);
    }
}

/* Runs 2i and 2i + 1 of 32 codes share 32 bytes. */
static void put_runs(const uint8_t *q, uint8_t *p)
{
    for (int j = 0; j < 128; j++) {
        const uint8_t *at = q + 64 * (j / 32) + j % 32;
        p[j] = (uint8_t)((at[0] & 15) | (at[32] & 15) << 4);
    }
}

static void put_q4_k(const struct block *b, uint8_t *p)
{
    put_k(b, p);
    put_runs(b->q, p + 16);
}

static void put_q5_k(const struct block *b, uint8_t *p)
{
    put_k(b, p);
    memset(p + 16, 0, 32);
    for (int j = 0; j < 256; j++)
        p[16 + j % 32] |= (uint8_t)((b->q[j] >> 4) << j / 32);
    put_runs(b->q, p + 48);
}

static void get_q6_k(const uint8_t *p, struct block *b)
{
    b->d = get_f16(p + 208);
    for (int g = 0; g < 16; g++)
        b->sc[g] = (int8_t)p[192 + g];
}

static void put_q6_k(const struct block *b, uint8_t *p)
{
    memset(p, 0, 192);
    for (int j = 0; j < 256; j++) {
        int half = j / 128, k = j % 128 / 32, l = j % 32;
        p[64 * half + 32 * (k % 2) + l] |= (uint8_t)((b->q[j] & 15) << 4 * (k / 2));
        p[128 + 32 * half + l] |= (uint8_t)((b->q[j] >> 4) << 2 * k);
    }
    for (int g = 0; g < 16; g++)
        p[192 + g] = (uint8_t)b->sc[g];
    put_f16(b->d, p + 208);
}

static void get_iq4_xs(const uint8_t *p, struct block *b)
{
    b->d = get_f16(p);
    for (int g = 0; g < 8; g++)
        b->sc[g] =
            ((p[4 + g / 2] >> 4 * (g % 2) & 15) | ((p[2 + g / 4] >> 2 * (g % 4)) & 3) << 4) - 32;
}

static void put_iq4_xs(const struct block *b, uint8_t *p)
{
    put_f16(b->d, p);
    memset(p + 2, 0, 6);
    for (int g = 0; g < 8; g++) {
        int c = b->sc[g] + 32;
        p[4 + g / 2] |= (uint8_t)((c & 15) << 4 * (g % 2));
        p[2 + g / 4] |= (uint8_t)((c >> 4) << 2 * (g % 4));
        put_nibbles(b->q + 32 * g, p + 8 + 16 * g);
    }
}

static const struct form forms[DTYPE_COUNT] = {
    [Q8_0] = { 32, 32, -127, 127, NULL, false, 0, 0, 0, 0, 0, get_d, put_q8_0 },
    [Q4_0] = { 32, 32, -8, 7, NULL, false, 0, 0, 0, 14, 0.1f, get_d, put_q4_0 },
    [Q5_0] = { 32, 32, -16, 15, NULL, false, 0, 0, 0, 10, 0.15f, get_d, put_q5_0 },
    [Q4_1] = { 32, 32, 0, 15, NULL, true, 0, 0, 0, 14, 0.1f, get_dm, put_q4_1 },
    [Q5_1] = { 32, 32, 0, 31, NULL, true, 0, 0, 0, 10, 0.15f, get_dm, put_q5_1 },
    [Q2_K] = { 256, 16, 0, 3, NULL, true, 0, 15, 15, 14, 0.08f, get_q2_k, put_q2_k },
    [Q3_K] = { 256, 16, -4, 3, NULL, false, -32, 31, 0, 10, 0.1f, get_q3_k, put_q3_k },
    [Q4_K] = { 256, 32, 0, 15, NULL, true, 0, 63, 63, 12, 0.1f, get_k, put_q4_k },
    [Q5_K] = { 256, 32, 0, 31, NULL, true, 0, 63, 63, 8, 0.15f, get_k, put_q5_k },
    [Q6_K] = { 256, 16, -32, 31, NULL, false, -128, 127, 0, 6, 0.15f, get_q6_k, put_q6_k },
    [IQ4_NL] = { 32, 32, 0, 15, iq4_value, false, 0, 0, 0, 14, 2, get_d, put_q4_0 },
    [IQ4_XS] = { 256, 32, 0, 15, iq4_value, false, -32, 31, 0, 14, 2, get_iq4_xs, put_iq4_xs },
};

/* ---- one group ------------------------------------------------------------------------------- */

/* Smaller scales are 0 in f16, and 1/x may be infinite. */
#define TINY 1e-20f

/* v rounded to the nearest whole number and limited to lo..hi. A nan gives lo. */
static inline int whole(float v, int lo, int hi)
{
    v = v > (float)lo ? v : (float)lo;
    v = v < (float)hi ? v : (float)hi;
    return (int)((v + 12582912.0f) - 12582912.0f); /* 1.5 * 2^23, where the last bit is worth one */
}

/* The index of the value nearest to v in a sorted table of 16. */
static inline int nearest(const float *t, float v)
{
    int i = 0;
    for (int half = 8; half; half /= 2)
        i += v > t[i + half] ? half : 0;
    return i < 15 && v - t[i] > t[i + 1] - v ? i + 1 : i;
}

static inline int code(const struct form *f, float v)
{
    return f->table ? nearest(f->table, v) : whole(v, f->lo, f->hi);
}

static inline float value(const struct form *f, int c) { return f->table ? f->table[c] : (float)c; }

/* Sums over a group for the line x = a c + b. */
struct sums {
    double c, cc, x, xc;
};

/* Most of the time is spent here, so it has four independent sums and no branches. */
static struct sums add_whole(const struct form *f, const float *x, float inverse, float b)
{
    float lo = (float)f->lo, hi = (float)f->hi;
    double part[4] = { 0 };
    int32_t c[MAX_LEN], sum = 0, squares = 0;
    for (int i = 0; i < f->group; i++) {
        float v = (x[i] - b) * inverse;
        v = v > lo ? v : lo; /* as in whole() */
        v = v < hi ? v : hi;
        c[i] = (int32_t)((v + 12582912.0f) - 12582912.0f);
    }
    for (int i = 0; i < f->group; i++) {
        sum += c[i];
        squares += c[i] * c[i];
    }
    for (int i = 0; i < f->group; i += 4)
        for (int k = 0; k < 4; k++)
            part[k] += (double)x[i + k] * (double)c[i + k];
    return (
        struct sums){ .c = sum, .cc = squares, .xc = (part[0] + part[1]) + (part[2] + part[3]) };
}

static struct sums add_table(const struct form *f, const float *x, float inverse)
{
    struct sums s = { 0 };
    for (int i = 0; i < f->group; i++) {
        double c = (double)f->table[nearest(f->table, x[i] * inverse)];
        s.c += c;
        s.cc += c * c;
        s.xc += (double)x[i] * c;
    }
    return s;
}

struct line {
    double a, b, gain;
}; /* gain: the squared error is sum x^2 minus this */

/* The line of least squares through these points. If all offsets of a block have one sign, b is at
 * most 0. */
static struct line best_line(const struct form *f, const struct sums *s)
{
    struct line l = { 0 };
    double n = f->group, det = n * s->cc - s->c * s->c;
    if (f->has_min && det > 0) {
        l.a = (n * s->xc - s->c * s->x) / det;
        l.b = (s->cc * s->x - s->c * s->xc) / det;
        if (l.a >= 0 && (l.b <= 0 || !f->sc_hi)) {
            l.gain = l.a * s->xc + l.b * s->x;
            return l;
        }
    }
    l.b = 0;
    l.a = s->cc > 0 ? s->xc / s->cc : 0;
    l.gain = l.a * s->xc;
    return l;
}

struct all {
    double x, xx;
}; /* sums of x and x^2 */

static void try_line(const struct form *f, const float *x, float inverse, float b,
                     const struct all *all, struct line *best)
{
    for (int again = 0; again < 2; again++) { /* the codes of a line give a better line */
        struct sums s = f->table ? add_table(f, x, inverse) : add_whole(f, x, inverse, b);
        s.x = all->x;
        struct line l = best_line(f, &s);
        if (l.gain > best->gain)
            *best = l;
        if (fabs(l.a) < (double)TINY || all->xx - l.gain > 1.25 * (all->xx - best->gain))
            return; /* too far from the best so far */
        inverse = (float)(1 / l.a);
        b = (float)l.b;
    }
}

static struct line fit_group(const struct form *f, const float *x)
{
    struct line best = { 0 };
    float lo = x[0], hi = x[0];
    struct all all = { 0 };
    for (int i = 0; i < f->group; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        all.x += (double)x[i];
        all.xx += (double)x[i] * (double)x[i];
    }
    if (f->has_min) {
        lo = f->sc_hi && lo > 0 ? 0 : lo;
        best.b = (double)lo;
        if (hi - lo < TINY)
            return best;
        for (int k = -f->n_try; k <= f->n_try / 2; k++)
            try_line(f, x, ((float)f->hi - (float)k * f->step) / (hi - lo), lo, &all, &best);
        return best;
    }
    float most = hi > -lo ? hi : lo;
    if (fabsf(most) < TINY)
        return best;
    /* The end of the codes with the larger magnitude represents the largest number, unless the
     * opposite sign fits better. */
    float ends[2] = { f->table ? f->table[0] : (float)f->lo,
                      f->table ? f->table[15] : (float)f->hi };
    for (int e = 0; e < (f->hi < 16 ? 2 : 1); e++)
        for (int k = -f->n_try; k <= f->n_try; k++)
            try_line(f, x, (ends[e] + (float)k * f->step) / most, 0, &all, &best);
    return best;
}

/* ---- one block ------------------------------------------------------------------------------- */

/* The line of a group, exactly as the decoder computes it. */
static void line_of(const struct form *f, const struct block *b, int g, float *a, float *off)
{
    *a = f->sc_hi ? b->d * (float)b->sc[g] : b->d;
    *off = f->mn_hi ? -(b->m * (float)b->mn[g]) : f->has_min ? b->m : 0;
}

/* Finds the codes of a group for its scales; returns the squared error. */
static double set_codes(const struct form *f, const float *x, struct block *b, int g)
{
    float a, off;
    double sum = 0;
    line_of(f, b, g, &a, &off);
    float inverse = fabsf(a) < TINY ? 0 : 1 / a;
    for (int i = g * f->group; i < (g + 1) * f->group; i++) {
        int c = code(f, (x[i] - off) * inverse);
        double e = (double)(a * value(f, c) + off) - (double)x[i];
        b->q[i] = (uint8_t)(c - f->lo);
        sum += e * e;
    }
    return sum;
}

static double set_all(const struct form *f, const float *x, struct block *b)
{
    double sum = 0;
    for (int g = 0; g < f->len / f->group; g++)
        sum += set_codes(f, x, b, g);
    return sum;
}

/* Tries whole numbers of the group that are one more and one less. */
static void settle(const struct form *f, const float *x, struct block *b, int g)
{
    struct block best = *b;
    double least = INFINITY;
    int sc = b->sc[g], mn = b->mn[g], wide = f->mn_hi ? 1 : 0;
    for (int i = -1; i <= 1; i++)
        for (int k = -wide; k <= wide; k++) {
            b->sc[g] = whole((float)(sc + i), f->sc_lo, f->sc_hi);
            b->mn[g] = whole((float)(mn + k), 0, f->mn_hi);
            double e = set_codes(f, x, b, g);
            if (e < least) {
                least = e;
                best = *b;
            }
        }
    *b = best;
}

/* Computes d and m again for the present codes, and keeps them if the error is smaller. */
static void refit(const struct form *f, const float *x, struct block *b, double *error)
{
    double uu = 0, vv = 0, uv = 0, xu = 0, xv = 0, d, m = 0;
    for (int i = 0; i < f->len; i++) {
        int g = i / f->group;
        double u = (double)value(f, b->q[i] + f->lo) * b->sc[g], v = -b->mn[g], y = (double)x[i];
        uu += u * u;
        uv += u * v;
        xu += y * u;
        if (f->mn_hi) {
            vv += v * v;
            xv += y * v;
        }
    }
    double det = uu * vv - uv * uv;
    if (f->mn_hi && det > 0) {
        d = (xu * vv - xv * uv) / det;
        m = (uu * xv - uv * xu) / det;
    } else if (uu > 0) {
        d = (xu + (double)b->m * uv) / uu;
        m = (double)b->m;
    } else {
        return;
    }
    struct block other = *b;
    other.d = f16_to_f32(f32_to_f16((float)d));
    other.m = f16_to_f32(f32_to_f16((float)m));
    double e = set_all(f, x, &other);
    if (e < *error) {
        *b = other;
        *error = e;
    }
}

/* Fills b with the best block found for x. False if a number is too large. */
static bool fit_block(const struct form *f, const float *x, struct block *b, double *error)
{
    struct line l[MAX_GROUP];
    int n = f->len / f->group;
    double most = 0, deepest = 0;
    for (int g = 0; g < n; g++) {
        l[g] = fit_group(f, x + g * f->group);
        most = fabs(l[g].a) > fabs(most) ? l[g].a : most;
        deepest = l[g].b < deepest ? l[g].b : deepest;
    }
    double d = f->sc_hi ? most / (f->sc_lo < 0 ? f->sc_lo : f->sc_hi) : most;
    double m = f->mn_hi ? -deepest / f->mn_hi : l[0].b;
    b->d = f16_to_f32(f32_to_f16((float)d));
    b->m = f16_to_f32(f32_to_f16((float)m));
    if (!isfinite(b->d) || !isfinite(b->m))
        return false;
    for (int g = 0; f->sc_hi && g < n; g++) {
        b->sc[g] = b->d != 0 ? whole((float)(l[g].a / (double)b->d), f->sc_lo, f->sc_hi) : 0;
        b->mn[g] = b->m != 0 ? whole((float)(-l[g].b / (double)b->m), 0, f->mn_hi) : 0;
        settle(f, x, b, g);
    }
    *error = set_all(f, x, b);
    for (int again = 0; f->sc_hi && again < 2; again++)
        refit(f, x, b, error);
    return true;
}

static bool put_block(const struct form *f, const float *x, const uint8_t *old, uint8_t *dst)
{
    struct block b = { 0 }, before = { 0 };
    double error = 0;
    bool fits = fit_block(f, x, &b, &error);
    if (old) {
        f->get(old, &before);
        if (isfinite(before.d) && isfinite(before.m) &&
            (set_all(f, x, &before) <= error || !fits)) {
            fits = true;
            b = before;
        }
    }
    if (fits)
        f->put(&b, dst);
    return fits;
}

/* ---- MXFP4 ----------------------------------------------------------------------------------- */

/* A power of two, 2^(e - 128), for halves of fp4_value's numbers doubled. */
static double mxfp4_codes(const float *x, int e, uint8_t *q)
{
    double sum = 0, unit = ldexp(1, e - 128);
    for (int i = 0; i < 32; i++) {
        double v = fabs((double)x[i]) / unit;
        int c = 0;
        while (c < 7 && v - (double)fp4_value[c] > (double)fp4_value[c + 1] - v)
            c++;
        double off = (v - (double)fp4_value[c]) * unit;
        q[i] = (uint8_t)(x[i] < 0 && c ? c + 8 : c);
        sum += off * off;
    }
    return sum;
}

static bool put_mxfp4(const float *x, uint8_t *dst)
{
    uint8_t q[32], best[32];
    double least = INFINITY;
    float most = 0;
    int e = 0, at = 0;
    for (int i = 0; i < 32; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    frexp((double)most, &e);
    e = most == 0 ? 1 : e + 124; /* the largest number lies in [8, 16) units; otherwise in [4, 8) */
    for (int k = e - 1; k <= e + 1; k++) {
        double error = k < 0 || k > 254 ? INFINITY : mxfp4_codes(x, k, q);
        if (error < least) {
            least = error;
            at = k;
            memcpy(best, q, sizeof q);
        }
    }
    if (!isfinite(least)) /* all numbers are below the smallest scale */
        mxfp4_codes(x, 0, best);
    dst[0] = (uint8_t)at;
    put_nibbles(best, dst + 1);
    return true;
}

/* ---- the calls ------------------------------------------------------------------------------- */

bool quant_has(enum dtype type)
{
    return type == F32 || type == F16 || type == BF16 || type == MXFP4 ||
           ((uint32_t)type < DTYPE_COUNT && forms[type].put);
}

static uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static bool put_plain(enum dtype type, const float *x, uint8_t *dst)
{
    uint16_t h = type == F16 ? f32_to_f16(*x) : to_bf16(*x);
    if (type == F32) {
        memcpy(dst, x, 4);
        return true;
    }
    memcpy(dst, &h, 2);
    return (h & 0x7fff) < (type == F16 ? 0x7c00 : 0x7f80);
}

/* True if the block decodes to these numbers. */
static bool says(enum dtype type, const void *block, const float *x, uint32_t n)
{
    float v[MAX_LEN];
    dtype_to_f32(type, block, n, v);
    for (uint32_t i = 0; i < n; i++)
        if (!(v[i] == x[i]))
            return false;
    return true;
}

bool quant_from_f32(enum dtype type, const float *src, uint64_t n, const void *old, void *dst)
{
    HLM_ASSERT(quant_has(type));
    const struct dtype_info *info = dtype_info(type);
    uint32_t len = info->block_len, bytes = info->block_bytes;
    const uint8_t *from = old;
    uint8_t *to = dst;
    HLM_ASSERT(n % len == 0);
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(src[i]))
            return false;
    for (uint64_t i = 0; i < n; i += len, to += bytes, from = from ? from + bytes : NULL) {
        if (from && len > 1 && says(type, from, src + i, len))
            memcpy(to, from, bytes);
        else if (!(len == 1        ? put_plain(type, src + i, to)
                   : type == MXFP4 ? put_mxfp4(src + i, to)
                                   : put_block(&forms[type], src + i, from, to)))
            return false;
    }
    return true;
}
