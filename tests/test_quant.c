/* test_quant: numbers into blocks: the error, that blocks come back unchanged, and the edges.
 * dtype.c's decoders read the blocks; test_dtype.c checks those against the formulas. */
#include "base/quant.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_ROW = 24, N_COL = 512, MAX_BYTES = 4 * N_COL };

/* The types that are written, and the largest relative error (the root of the NMSE) of normal rows.
 * The bounds are what the quantisers of llama.cpp's library leave on the same kind of rows. */
static const struct quant_row {
    enum dtype type;
    struct bound error;
} rows[] = {
    { .type = F32, .error = { .most = 0 } },
    { .type = F16, .error = { .most = 2.2e-4 } },
    { .type = BF16, .error = { .most = 1.8e-3 } },
    { .type = Q8_0, .error = { .most = 0.0053, .measured = 0.0052 } },
    { .type = Q4_0, .error = { .most = 0.0859, .measured = 0.0808 } },
    { .type = Q4_1, .error = { .most = 0.0783, .measured = 0.0694 } },
    { .type = Q5_0, .error = { .most = 0.0427, .measured = 0.0400 } },
    { .type = Q5_1, .error = { .most = 0.0378, .measured = 0.0336 } },
    { .type = Q2_K, .error = { .most = 0.2965, .measured = 0.261 } },
    { .type = Q3_K, .error = { .most = 0.1510, .measured = 0.144 } },
    { .type = Q4_K, .error = { .most = 0.0713, .measured = 0.0700 } },
    { .type = Q5_K, .error = { .most = 0.0362, .measured = 0.0346 } },
    { .type = Q6_K, .error = { .most = 0.0178, .measured = 0.0173 } },
    { .type = IQ4_NL, .error = { .most = 0.0762, .measured = 0.0732 } },
    { .type = IQ4_XS, .error = { .most = 0.0767, .measured = 0.0739 } },
    { .type = MXFP4, .error = { .most = 0.1145, .measured = 0.112 } },
};

static float x[N_ROW * N_COL], y[N_ROW * N_COL], z[N_ROW * N_COL];
static uint8_t one[N_ROW * MAX_BYTES], two[N_ROW * MAX_BYTES];

static uint64_t bytes_of(enum dtype type)
{
    uint64_t n = 0;
    dtype_bytes(type, N_ROW * N_COL, &n);
    return n;
}

static const char *name(enum dtype type) { return dtype_info(type)->name; }

static void normals(uint64_t seed, double size)
{
    struct rng r = { seed };
    for (uint32_t i = 0; i < ARRAY_LEN(x); i++)
        x[i] = (float)(size * rng_normal(&r));
}

static bool pack(enum dtype type, const void *old, void *to)
{
    return CHECK_MSG(quant_from_f32(type, x, ARRAY_LEN(x), old, to), "%s was refused", name(type));
}

static double rms(const float *a, const float *b)
{
    return sqrt(diff_f32(a, b, N_ROW * N_COL).nmse);
}

static void test_error(const struct quant_row *r)
{
    test_case("%s: normal rows", name(r->type));
    for (int k = 0; k < 2; k++) { /* two sizes far apart: 16-bit scales have room for both */
        normals(1 + (uint64_t)k, k ? 30 : 0.02);
        if (!pack(r->type, NULL, one))
            return;
        dtype_to_f32(r->type, one, ARRAY_LEN(x), y);
        CHECK_WITHIN(name(r->type), rms(y, x), r->error);
    }
}

/* Values that were read from blocks go back to the same bytes, whatever made the blocks. */
static void test_same(const struct quant_row *r)
{
    uint64_t n = bytes_of(r->type);
    struct rng rng = { 7 };
    test_case("%s: what blocks said goes back to their bytes", name(r->type));
    normals(3, 0.02);
    if (!pack(r->type, NULL, one))
        return;
    dtype_to_f32(r->type, one, ARRAY_LEN(x), x);
    pack(r->type, one, two);
    CHECK(!memcmp(one, two, n));
    /* without the old blocks nearly so: the scales are found again, except for rounding */
    pack(r->type, NULL, two);
    dtype_to_f32(r->type, two, ARRAY_LEN(x), y);
    CHECK_MSG(rms(y, x) <= r->error.most / 4, "anew it is %.3g off", rms(y, x));

    test_case("%s: so do blocks of random bits", name(r->type));
    for (uint64_t i = 0; i < n; i++)
        one[i] = (uint8_t)rng_u64(&rng);
    dtype_to_f32(r->type, one, ARRAY_LEN(x), x);
    uint32_t len = dtype_info(r->type)->block_len, size = dtype_info(r->type)->block_bytes;
    uint32_t n_sound = 0;
    for (uint64_t i = 0; i < ARRAY_LEN(x) / len; i++) {
        bool sound = true;
        for (uint32_t k = 0; k < len; k++)
            sound = sound && isfinite(x[i * len + k]);
        if (!sound)
            continue;
        n_sound++;
        CHECK(quant_from_f32(r->type, x + i * len, len, one + i * size, two));
        CHECK_MSG(!memcmp(one + i * size, two, size), "block %llu", (unsigned long long)i);
    }
    CHECK(n_sound > ARRAY_LEN(x) / len / 2);
}

/* A small change: with the old blocks given, the result is never worse, neither a block nor a
 * row. */
static void test_change(const struct quant_row *r)
{
    struct rng rng = { 9 };
    uint32_t len = dtype_info(r->type)->block_len;
    test_case("%s: a small change of what is there", name(r->type));
    normals(4, 0.02);
    if (len == 1 || !pack(r->type, NULL, one))
        return;
    dtype_to_f32(r->type, one, ARRAY_LEN(x), x);
    for (uint32_t i = 0; i < ARRAY_LEN(x); i++)
        x[i] += (float)(1e-5 * rng_normal(&rng));
    pack(r->type, one, two);
    dtype_to_f32(r->type, two, ARRAY_LEN(x), y);
    pack(r->type, NULL, two);
    dtype_to_f32(r->type, two, ARRAY_LEN(x), z);
    for (uint64_t i = 0; i < ARRAY_LEN(x); i += len) {
        double with = diff_f32(y + i, x + i, len).nmse, without = diff_f32(z + i, x + i, len).nmse;
        CHECK_MSG(with <= without * (1 + 1e-6), "block %llu: %.3g with the old one, %.3g without",
                  (unsigned long long)(i / len), with, without);
    }
    CHECK_MSG(rms(y, x) < 2e-3, "%.3g off", rms(y, x));
}

static void test_edges(const struct quant_row *r)
{
    double least = r->type == F32 ? 0 : r->error.most * 1.3;
    test_case("%s: zeros, one value, spikes, all of a sign", name(r->type));
    for (int k = 0; k < 6; k++) {
        struct rng rng = { 11 };
        for (uint32_t i = 0; i < ARRAY_LEN(x); i++)
            x[i] = k == 0   ? 0
                   : k == 1 ? -0.75f
                   : k == 2 ? (i % 256 == 77 ? -3 : 0)
                   : k == 3 ? (float)rng_unit(&rng)
                   : k == 4 ? -(float)rng_unit(&rng)
                            : (i % 64 < 32 ? 0 : (float)rng_normal(&rng));
        if (!pack(r->type, NULL, one))
            return;
        dtype_to_f32(r->type, one, ARRAY_LEN(x), y);
        for (uint32_t i = 0; k == 0 && i < ARRAY_LEN(x); i++)
            if (!CHECK_MSG(y[i] == 0, "%g for 0", (double)y[i]))
                return;
        CHECK_MSG(k == 0 || rms(y, x) <= least, "row %d: %.4f off", k, rms(y, x));
    }
    test_case("%s: tiny and huge numbers, and none", name(r->type));
    static const float size[] = { 1e-44f, 1e-39f, 1e-25f, 1e-12f, 1e-7f };
    for (uint32_t k = 0; k < ARRAY_LEN(size); k++) {
        for (uint32_t i = 0; i < ARRAY_LEN(x); i++)
            x[i] = i % 3 ? size[k] : -size[k];
        pack(r->type, NULL, one);
        dtype_to_f32(r->type, one, ARRAY_LEN(x), y);
        for (uint32_t i = 0; i < ARRAY_LEN(x); i++) /* below one unit of f16 nothing is kept */
            if (!CHECK_MSG(fabsf(y[i] - x[i]) <= 5 * 0x1p-24f, "%g for %g", (double)y[i],
                           (double)x[i]))
                return;
    }
    bool wide = r->type == F32 || r->type == BF16 || r->type == MXFP4;
    for (int k = 0; k < 5; k++) {
        normals(12, 1);
        x[300] = k == 0 ? 1e38f : k == 1 ? NAN : k == 2 ? INFINITY : k == 3 ? -INFINITY : 3e38f;
        x[301] = k == 4 ? -3e38f : x[301];
        bool taken = quant_from_f32(r->type, x, 512, NULL, one);
        CHECK_MSG(taken == (k % 4 == 0 && wide), "%g was %s", (double)x[300],
                  taken ? "taken" : "refused");
    }
}

void test_quant(void)
{
    uint32_t n = 0;
    float most = 65519;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_error(&rows[i]);
        test_same(&rows[i]);
        test_change(&rows[i]);
        test_edges(&rows[i]);
    }
    test_case("these types and no others");
    for (uint32_t i = 0; i < DTYPE_COUNT; i++)
        n += quant_has((enum dtype)i);
    CHECK_EQ(n, ARRAY_LEN(rows));
    test_case("the end of F16");
    uint16_t h = 0;
    CHECK(quant_from_f32(F16, &most, 1, NULL, &h) && h == 0x7bff);
    most = 65520;
    CHECK(!quant_from_f32(F16, &most, 1, NULL, &h));
}
