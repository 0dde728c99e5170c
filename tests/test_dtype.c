/* test_dtype: scalar conversions exhaustively, every block format against its formula, and both
 * against files that another program wrote.
 *
 * The formulas below say, one element at a time and in double, what models.md section 8 says; they
 * share nothing with dtype.c. All of their sums and products are exact in double, so the decoders
 * have to match them to the last bit once rounded. */
#include "test.h"
#include "../engine/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double half_value(uint32_t h)
{
    int sign = h >> 15 ? -1 : 1, exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
    if (exponent == 31)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24));
}

static double half_at(const uint8_t *b, int at) { return half_value(b[at] | b[at + 1] << 8); }
static int bit(const uint8_t *b, int i) { return b[i / 8] >> i % 8 & 1; }
static int lo(int v) { return v & 15; }
static int hi(int v) { return v >> 4; }

/* Element j of 32 nibbles split over 16 bytes. */
static int nibble(const uint8_t *qs, int j) { return j < 16 ? lo(qs[j]) : hi(qs[j - 16]); }

static double f32_value(const uint8_t *b, int j)
{
    float f;
    (void)j;
    memcpy(&f, b, 4);
    return (double)f;
}

static double f16_value(const uint8_t *b, int j) { return half_at(b, 2 * j); }

static double bf16_value(const uint8_t *b, int j)
{
    return f32_value((const uint8_t[]){ 0, 0, b[2 * j], b[2 * j + 1] }, 0);
}

static double q8_0_value(const uint8_t *b, int j) { return half_at(b, 0) * (int8_t)b[2 + j]; }
static double q4_0_value(const uint8_t *b, int j) { return half_at(b, 0) * (nibble(b + 2, j) - 8); }

static double q4_1_value(const uint8_t *b, int j)
{
    return half_at(b, 0) * nibble(b + 4, j) + half_at(b, 2);
}

static double q5_0_value(const uint8_t *b, int j)
{
    return half_at(b, 0) * ((nibble(b + 6, j) + 16 * bit(b + 2, j)) - 16);
}

static double q5_1_value(const uint8_t *b, int j)
{
    return half_at(b, 0) * (nibble(b + 8, j) + 16 * bit(b + 4, j)) + half_at(b, 2);
}

static double iq4_nl_value(const uint8_t *b, int j)
{
    static const int nl[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                1, 13, 25, 38, 53, 69, 89, 113 };
    return half_at(b, 0) * nl[nibble(b + 2, j)];
}

/* From the meaning of E2M1 rather than from a table: sign, exponent of bias 1, one mantissa bit. */
static double mxfp4_value(const uint8_t *b, int j)
{
    int q = nibble(b + 1, j), exponent = q >> 1 & 3, mantissa = q & 1;
    double v = exponent ? ldexp(1 + 0.5 * mantissa, exponent - 1) : 0.5 * mantissa;
    return ldexp(q & 8 ? -v : v, b[0] - 127);
}

/* S (which = 0) or M (which = 4) of sub-block g. */
static int k_scale(const uint8_t *sc, int g, int which)
{
    if (g < 4)
        return sc[g + which] & 63;
    return (which ? hi(sc[g + 4]) : lo(sc[g + 4])) | (sc[g - 4 + which] >> 6) << 4;
}

static double q4_k_value(const uint8_t *b, int j)
{
    int g = j / 32, v = b[16 + 32 * (g / 2) + j % 32], q = g % 2 ? hi(v) : lo(v);
    return half_at(b, 0) * k_scale(b + 4, g, 0) * q - half_at(b, 2) * k_scale(b + 4, g, 4);
}

static double q5_k_value(const uint8_t *b, int j)
{
    int g = j / 32, v = b[48 + 32 * (g / 2) + j % 32], q = g % 2 ? hi(v) : lo(v);
    q += 16 * (b[16 + j % 32] >> g & 1);
    return half_at(b, 0) * k_scale(b + 4, g, 0) * q - half_at(b, 2) * k_scale(b + 4, g, 4);
}

static double q6_k_value(const uint8_t *b, int j)
{
    int h = j / 128, k = j % 128 / 32, l = j % 32, v = b[64 * h + l + 32 * (k % 2)];
    int a = k < 2 ? lo(v) : hi(v), t = b[128 + 32 * h + l] >> 2 * k & 3;
    return half_at(b, 208) * (int8_t)b[192 + j / 16] * ((a | t << 4) - 32);
}

/* Where a format keeps its f16 numbers: random bits there would mostly be huge, infinite or nan. */
static const struct format {
    enum dtype type;
    double (*value)(const uint8_t *block, int j);
    int half[2]; /* -1: none */
} formats[] = {
    { F32, f32_value, { -1, -1 } },       { F16, f16_value, { -1, -1 } },
    { BF16, bf16_value, { -1, -1 } },     { Q8_0, q8_0_value, { 0, -1 } },
    { Q4_0, q4_0_value, { 0, -1 } },      { Q4_1, q4_1_value, { 0, 2 } },
    { Q5_0, q5_0_value, { 0, -1 } },      { Q5_1, q5_1_value, { 0, 2 } },
    { IQ4_NL, iq4_nl_value, { 0, -1 } },  { MXFP4, mxfp4_value, { -1, -1 } },
    { Q4_K, q4_k_value, { 0, 2 } },       { Q5_K, q5_k_value, { 0, 2 } },
    { Q6_K, q6_k_value, { 208, -1 } },
};

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* The same number, where -0 and 0 are one and all nans are one. */
static bool same(float got, float want) { return got == want || (isnan(got) && isnan(want)); }

static void test_scalars(void)
{
    test_case("all f16 to f32 and back");
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h), want = (float)half_value(h);
        CHECK_MSG(same(f, want) && bits_of(f) >> 31 == h >> 15, "f16 %04x is %a, expected %a", h,
                  (double)f, (double)want);
        uint16_t back = f32_to_f16(f);
        CHECK_MSG(back == h || (isnan(f) && back == (h | 0x200)), "f16 %04x comes back as %04x", h,
                  back);
    }

    test_case("f32 to f16 rounds to nearest even");
    for (uint32_t h = 0; h < 0x7c00; h++) { /* between neighbours, the largest and infinity too */
        double low = half_value(h), high = h + 1 < 0x7c00 ? half_value(h + 1) : 65536;
        float mid = (float)((low + high) / 2); /* exact */
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        CHECK_MSG(f32_to_f16(mid) == even && f32_to_f16(-mid) == (even | 0x8000) &&
                      f32_to_f16(nextafterf(mid, 0)) == h &&
                      f32_to_f16(nextafterf(mid, INFINITY)) == h + 1,
                  "around %a, between f16 %04x and its neighbour", (double)mid, h);
    }
    CHECK_EQ(f32_to_f16(1e30f), 0x7c00);
    CHECK_EQ(f32_to_f16(0x1p-149f), 0);
    float nan_low_bit;
    memcpy(&nan_low_bit, &(uint32_t){ 0x7f800001 }, 4);
    CHECK_MSG((f32_to_f16(nan_low_bit) & 0x7fff) > 0x7c00, "a nan became infinity");

    test_case("bf16 to f32");
    for (uint32_t h = 0; h < 65536; h++)
        CHECK_MSG(bits_of(bf16_to_f32((uint16_t)h)) == h << 16, "bf16 %04x", h);
}

static void test_format(const struct format *f)
{
    enum { N_BLOCK = 64, ROUNDS = 50 };
    static uint8_t raw[N_BLOCK * 256 + 1];
    static float got[N_BLOCK * 256];
    const struct dtype_info *info = dtype_info(f->type);
    struct rng rng = { 1 };
    test_case("%s: blocks against the formula", info->name);
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *src = raw + round % 2; /* any alignment will do */
        for (uint32_t i = 0; i < N_BLOCK * info->block_bytes; i++)
            src[i] = (uint8_t)rng_u64(&rng);
        for (uint32_t i = 0; round % 4 && i < N_BLOCK; i++) /* mostly finite */
            for (int k = 0; k < 2 && f->half[k] >= 0; k++)
                if ((src[i * info->block_bytes + f->half[k] + 1] & 0x7c) == 0x7c)
                    src[i * info->block_bytes + f->half[k] + 1] ^= 0x40;
        uint32_t n = N_BLOCK * info->block_len;
        dtype_to_f32(f->type, src, n, got);
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *block = src + i / info->block_len * info->block_bytes;
            int j = (int)(i % info->block_len);
            double want = f->value(block, j);
            if (!same(got[i], (float)want)) {
                FAIL("element %d is %a, expected %a", j, (double)got[i], want);
                return;
            }
        }
    }
}

/* By hand, so that formula and decoder cannot be wrong in the same way. Each row: bytes of a block
 * at given places, and one element that follows from them. */
static void test_by_hand(void)
{
    static const struct {
        enum dtype type;
        struct { uint8_t at, v; } byte[6];
        uint32_t j;
        float want;
    } rows[] = {
        { Q8_0, { { 1, 0x3c }, { 2 + 31, 0x80 } }, 31, -128 },              /* 1 * -128 */
        { Q8_0, { { 0, 0x01 }, { 2 + 5, 3 } }, 5, 3 * 0x1p-24f },           /* subnormal scale */
        { Q4_0, { { 1, 0x38 }, { 2, 0xf1 } }, 0, -3.5f },                   /* 0.5 * (1 - 8) */
        { Q4_0, { { 1, 0x38 }, { 2, 0xf1 } }, 16, 3.5f },                   /* 0.5 * (15 - 8) */
        { Q4_1, { { 1, 0x40 }, { 3, 0xbc }, { 4 + 3, 0x90 } }, 19, 17 },    /* 2 * 9 - 1 */
        { Q5_0, { { 1, 0x3c }, { 2 + 3, 0x80 }, { 6 + 15, 0x70 } }, 31, 7 }, /* 7 + 16 - 16 */
        { Q5_0, { { 1, 0x3c }, { 6 + 15, 0x70 } }, 31, -9 },                /* 7 - 16 */
        { Q5_1, { { 1, 0x3c }, { 3, 0x3c }, { 4, 1 }, { 8, 2 } }, 0, 19 },  /* (2 + 16) + 1 */
        { IQ4_NL, { { 1, 0x3c }, { 2 + 7, 0x0f } }, 7, 113 },
        { IQ4_NL, { { 1, 0x3c }, { 2 + 7, 0x0f } }, 23, -127 },
        { MXFP4, { { 0, 127 }, { 1 + 2, 0xf1 } }, 2, 0.5f },
        { MXFP4, { { 0, 127 }, { 1 + 2, 0xf1 } }, 18, -6 },
        { MXFP4, { { 0, 0 }, { 1, 1 } }, 0, 0x1p-128f },
        { MXFP4, { { 0, 1 }, { 1, 1 } }, 0, 0x1p-127f },
        /* g = 1, l = 2: high nibble 5 of qs[2]; S = 3, M = 2: 1 * 3 * 5 - 0.5 * 2 */
        { Q4_K, { { 1, 0x3c }, { 3, 0x38 }, { 4 + 1, 3 }, { 4 + 5, 2 }, { 18, 0x50 } }, 34, 14 },
        /* g = 6: S = lo(sc[10]) | (sc[2] >> 6) << 4 = 17, q = 4 of qs[96 + 1] */
        { Q4_K, { { 1, 0x3c }, { 4 + 10, 1 }, { 4 + 2, 0x40 }, { 16 + 97, 4 } }, 193, 68 },
        /* g = 7, l = 0: M = hi(sc[11]) | (sc[7] >> 6) << 4 = 2 + 48 */
        { Q4_K, { { 3, 0x3c }, { 4 + 11, 0x20 }, { 4 + 7, 0xc0 } }, 224, -50 },
        /* g = 2, l = 9: q = 1 + 16, S = 2 */
        { Q5_K, { { 1, 0x3c }, { 4 + 2, 2 }, { 16 + 9, 4 }, { 48 + 41, 1 } }, 73, 34 },
        /* j = 200: h 1, k 2, l 8: hi(ql[72]) = 6, t = qh[40] >> 4 & 3 = 3; sc[12] = -2; 54 - 32 */
        { Q6_K, { { 72, 0x60 }, { 128 + 40, 0x30 }, { 192 + 12, 0xfe }, { 209, 0x3c } }, 200, -44 },
        { Q6_K, { { 192, 0x80 }, { 209, 0x3c } }, 0, 4096 },                /* -128 * -32 */
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint8_t block[256] = { 0 };
        float got[256];
        const struct dtype_info *info = dtype_info(rows[i].type);
        test_case("%s: element %u by hand (row %u)", info->name, rows[i].j, i);
        for (uint32_t k = 0; k < ARRAY_LEN(rows[i].byte); k++)
            if (rows[i].byte[k].v)
                block[rows[i].byte[k].at] = rows[i].byte[k].v;
        dtype_to_f32(rows[i].type, block, info->block_len, got);
        CHECK_MSG(got[rows[i].j] == rows[i].want, "is %a, expected %a", (double)got[rows[i].j],
                  (double)rows[i].want);
    }
}

static void test_table(void)
{
    test_case("known and unknown ids");
    static const uint32_t unknown[] = { 4, 5, 9, 15, 31, 32, 33, 36, 37, 38, 43, 1000, UINT32_MAX };
    for (uint32_t i = 0; i < ARRAY_LEN(unknown); i++)
        CHECK_MSG(!dtype_info(unknown[i]), "id %u is known", unknown[i]);
    uint32_t n_known = 0, n_computed = 0;
    for (uint32_t id = 0; id < DTYPE_COUNT; id++) {
        n_known += dtype_info(id) != NULL;
        n_computed += dtype_info(id) && dtype_info(id)->to_f32;
    }
    CHECK_EQ(n_known, 33);
    CHECK_EQ(n_computed, ARRAY_LEN(formats));

    test_case("sizes");
    uint64_t n = 7;
    CHECK(dtype_bytes(Q6_K, 512, &n) && n == 420);
    CHECK(dtype_bytes(F32, 0, &n) && n == 0);
    n = 7;
    CHECK(!dtype_bytes(F32, 1ull << 62, &n) && n == 7);
}

/* Reads a whole tensor as f32; NULL when it is not there. */
static float *read_tensor(const struct gguf *g, const char *name, uint64_t *n)
{
    const struct gguf_tensor *t = gguf_tensor(g, name);
    float *v = t ? mem_alloc(t->n_elem, sizeof *v) : NULL;
    if (v)
        dtype_to_f32(t->type, t->data, *n = t->n_elem, v);
    return v;
}

/* The same weights in two files: how far they may be apart is set by the coarser one. A wrong order
 * of elements, a wrong scale or sign gives errors near 1. */
static void compare_files(const char *fine, const char *coarse, double max_nmse)
{
    test_case("%s against %s", coarse, fine);
    struct err err = { 0 };
    struct gguf *a = gguf_open(fixture("%s", fine), &err);
    struct gguf *b = gguf_open(fixture("%s", coarse), &err);
    CHECK_MSG(a && b, "%s", err.msg);
    for (uint64_t i = 0; a && b && i < gguf_n_tensor(b); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(b, i);
        uint64_t n_want = 0, n_got = 0;
        float *want = read_tensor(a, t->name, &n_want), *got = read_tensor(b, t->name, &n_got);
        if (CHECK_MSG(want && got && n_want == n_got, "%s: not in both", t->name)) {
            double nmse = diff_f32(got, want, n_got).nmse;
            CHECK_MSG(nmse <= max_nmse, "%s (%s): nmse %g, expected at most %g", t->name,
                      dtype_info(t->type)->name, nmse, max_nmse);
        }
        free(want);
        free(got);
    }
    gguf_close(a);
    gguf_close(b);
}

/* Quantised by llama.cpp from one set of weights: the formats must agree with each other. */
static void test_files(void)
{
    static const struct { const char *fine, *coarse; double max_nmse; } rows[] = {
        { "base/model-f32.gguf", "base/model-f16.gguf", 1e-15 }, /* f16 rounds below 2^-14 */
        { "base/model-f32.gguf", "base/model-bf16.gguf", 0 },
        { "base/model-f32.gguf", "base/model-q8_0.gguf", 1e-4 },
        { "k256/model-q6_k.gguf", "k256/model-q5_k_m.gguf", 1e-2 },
        { "k256/model-q4_k_m.gguf", "k256/model-q5_k_m.gguf", 1e-2 },
        { "k256/model-q4_k_m.gguf", "k256/model-q6_k.gguf", 1e-2 },
        { "k256/model-q4_k_m.gguf", "k256/model-q4_0.gguf", 3e-2 },
        { "k256/model-q4_k_m.gguf", "k256/model-iq4_nl.gguf", 3e-2 },
        { "k256/model-q4_k_m.gguf", "k256/model-mxfp4_moe.gguf", 3e-2 },
    };
    static const char *const families[] = { "qwen35", "qwen35moe", "qwen3next", "nemotron_h",
                                            "nemotron_h_moe", "step35" };
    for (uint32_t f = 0; f < ARRAY_LEN(families); f++)
        for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
            char fine[100], coarse[100];
            snprintf(fine, sizeof fine, "%s/%s", families[f], rows[i].fine);
            snprintf(coarse, sizeof coarse, "%s/%s", families[f], rows[i].coarse);
            if (fixture_has("%s", fine) && fixture_has("%s", coarse)) /* a subset travels along */
                compare_files(fine, coarse, rows[i].max_nmse);
        }
}

void test_dtype(void)
{
    test_scalars();
    test_table();
    for (uint32_t i = 0; i < ARRAY_LEN(formats); i++)
        test_format(&formats[i]);
    test_by_hand();
    test_files();
}
