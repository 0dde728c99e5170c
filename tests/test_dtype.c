/* test_dtype: scalar conversions exhaustively, every block format against its formula, and both
 * against files that another program wrote.
 *
 * The formulas below follow models/README.md, "Tensor encodings", one element at a time and in
 * double, and share nothing with dtype.c. All their sums and products are exact in double, so after
 * rounding the decoders have to match them to the last bit. */
#include "test.h"
#include "file/file.h"

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

/* Element j of 32 nibbles in 16 bytes. */
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

static const int iq4_code[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113 };

static double iq4_nl_value(const uint8_t *b, int j)
{
    return half_at(b, 0) * iq4_code[nibble(b + 2, j)];
}

/* E2M1 by its meaning rather than from a table: a sign, an exponent of bias 1, one mantissa bit. */
static double e2m1(int q)
{
    int exponent = q >> 1 & 3, mantissa = q & 1;
    double v = exponent ? ldexp(1 + 0.5 * mantissa, exponent - 1) : 0.5 * mantissa;
    return q & 8 ? -v : v;
}

static double mxfp4_value(const uint8_t *b, int j)
{
    return ldexp(e2m1(nibble(b + 1, j)), b[0] - 127);
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

/* Two bits of element j of 256, in the order of Q2_K, Q3_K and TQ2_0. */
static int two_bits(const uint8_t *qs, int j)
{
    int h = j / 128, s = j % 128 / 32, l = j % 32;
    return bit(qs + 32 * h + l, 2 * s) + 2 * bit(qs + 32 * h + l, 2 * s + 1);
}

static double q2_k_value(const uint8_t *b, int j)
{
    int c = b[j / 16];
    return half_at(b, 80) * lo(c) * two_bits(b + 16, j) - half_at(b, 82) * hi(c);
}

static double q3_k_value(const uint8_t *b, int j)
{
    const uint8_t *sc = b + 96;
    int g = j / 16, low = g < 8 ? lo(sc[g]) : hi(sc[g - 8]);
    int high = bit(sc + 8 + g % 4, g / 4 * 2) + 2 * bit(sc + 8 + g % 4, g / 4 * 2 + 1);
    int q = two_bits(b + 32, j) - (bit(b + j % 32, j / 32) ? 0 : 4);
    return half_at(b, 108) * (low + 16 * high - 32) * q;
}

static double iq4_xs_value(const uint8_t *b, int j)
{
    int g = j / 32, low = g % 2 ? hi(b[4 + g / 2]) : lo(b[4 + g / 2]);
    int c = low + 16 * bit(b + 2, 2 * g) + 32 * bit(b + 2, 2 * g + 1);
    return half_at(b, 0) * (c - 32) * iq4_code[nibble(b + 8 + 16 * g, j % 32)];
}

static double tq1_0_value(const uint8_t *b, int j)
{
    int k = j < 160 ? j / 32 : j < 240 ? (j - 160) / 16 : (j - 240) / 4;
    int x = j < 160 ? b[j % 32] : j < 240 ? b[32 + (j - 160) % 16] : b[48 + (j - 240) % 4];
    double t = x / 256.0; /* 0.t0 t1 t2 ... in base 3 */
    while (k--)
        t = 3 * t - floor(3 * t);
    return half_at(b, 52) * (floor(3 * t) - 1);
}

static double tq2_0_value(const uint8_t *b, int j) { return half_at(b, 64) * (two_bits(b, j) - 1); }

static double q1_0_value(const uint8_t *b, int j)
{
    return half_at(b, 0) * (bit(b + 2, j) ? 1 : -1);
}

static double q2_0_value(const uint8_t *b, int j)
{
    return half_at(b, 0) * (bit(b + 2, 2 * j) + 2 * bit(b + 2, 2 * j + 1) - 1);
}

/* E4M3 by its meaning: an exponent of bias 7, three mantissa bits. */
static double nvfp4_value(const uint8_t *b, int j)
{
    int s = j / 16, i = j % 16, exponent = b[s] >> 3 & 15, mantissa = b[s] & 7;
    double scale = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    int v = b[4 + 8 * s + i % 8];
    return (b[s] == 0x7f ? 0 : scale) * e2m1(i < 8 ? lo(v) : hi(v));
}

/* Coordinate e of point i of a codebook. */
static int coordinate(enum dtype type, uint32_t i, int e)
{
    static const int eight[3] = { 8, 25, 43 }, four[8] = { 4, 12, 20, 28, 36, 44, 52, 62 };
    uint32_t n, bits = type == IQ3_XXS || type == IQ3_S ? 3 : 2;
    const uint32_t *codebook = dtype_codebook(type, &n);
    HLM_ASSERT(i < 2 * n);
    uint32_t word = codebook[i >> 1], at = 16 * (i & 1) + bits * (uint32_t)e;
    uint32_t c = word >> at & ((1u << bits) - 1);
    return type == IQ3_S     ? (int)(2 * c + 1)
           : type == IQ3_XXS ? four[c]
           : type == IQ1_S   ? (int)c - 1
           : c < 3           ? eight[c]
                             : 0;
}

/* Sign e of a 7-bit code. The eighth sign makes the number of minus signs even. */
static int even_sign(uint32_t code, int e)
{
    int n_minus = 0;
    for (int k = 0; k < 7; k++)
        n_minus += code >> k & 1;
    return (e < 7 ? (int)(code >> e & 1) : n_minus % 2) ? -1 : 1;
}

static uint32_t le16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }
static uint32_t le32(const uint8_t *p) { return le16(p) | le16(p + 2) << 16; }

static double iq2_xxs_value(const uint8_t *b, int j)
{
    const uint8_t *q = b + 2 + 8 * (j / 32);
    uint32_t sign = le32(q + 4), k = (uint32_t)j % 32 / 8;
    return half_at(b, 0) * (0.5 + (sign >> 28)) / 4 * coordinate(IQ2_XXS, q[k], j % 8) *
           even_sign(sign >> 7 * k & 127, j % 8);
}

static double iq2_xs_value(const uint8_t *b, int j)
{
    uint32_t q = le16(b + 2 + 2 * (j / 8));
    int sc = b[66 + j / 32], c = j % 32 < 16 ? lo(sc) : hi(sc);
    return half_at(b, 0) * (0.5 + c) / 4 * coordinate(IQ2_XS, q & 511, j % 8) *
           even_sign(q >> 9, j % 8);
}

static double iq2_s_value(const uint8_t *b, int j)
{
    int k = j / 8, sc = b[74 + j / 32], c = j % 32 < 16 ? lo(sc) : hi(sc);
    uint32_t i = b[2 + k] + 256u * (uint32_t)(b[66 + k / 4] >> k % 4 * 2 & 3);
    return half_at(b, 0) * (0.5 + c) / 4 * coordinate(IQ2_S, i, j % 8) * (bit(b + 34, j) ? -1 : 1);
}

static double iq3_xxs_value(const uint8_t *b, int j)
{
    uint32_t sign = le32(b + 66 + 4 * (j / 32)), k = (uint32_t)j % 32 / 8;
    return half_at(b, 0) * (0.5 + (sign >> 28)) / 2 * coordinate(IQ3_XXS, b[2 + j / 4], j % 4) *
           even_sign(sign >> 7 * k & 127, j % 8);
}

static double iq3_s_value(const uint8_t *b, int j)
{
    int sc = b[106 + j / 64], c = j % 64 < 32 ? lo(sc) : hi(sc);
    uint32_t i = b[2 + j / 4] + 256u * (uint32_t)bit(b + 66, j / 4);
    return half_at(b, 0) * (1 + 2 * c) * coordinate(IQ3_S, i, j % 4) * (bit(b + 74, j) ? -1 : 1);
}

static double iq1_s_value(const uint8_t *b, int j)
{
    uint32_t qh = le16(b + 34 + 2 * (j / 32)), k = (uint32_t)j / 8;
    uint32_t i = b[2 + k] + 256 * (qh >> 3 * (k % 4) & 7);
    return half_at(b, 0) * (2 * (qh >> 12 & 7) + 1) *
           (coordinate(IQ1_S, i, j % 8) + (qh >> 15 ? -0.125 : 0.125));
}

/* The scale is in the top nibbles of bytes 49, 51, 53 and 55, the lowest first. */
static double iq1_m_value(const uint8_t *b, int j)
{
    uint32_t k = (uint32_t)j / 8, qh = b[32 + k / 2], g = (uint32_t)j / 16;
    uint32_t d = hi(b[49]) + 16 * hi(b[51]) + 256 * hi(b[53]) + 4096 * (uint32_t)hi(b[55]);
    qh = k % 2 ? hi(qh) : lo(qh);
    uint32_t c = le16(b + 48 + g / 4 * 2) >> 3 * (g % 4) & 7;
    return half_value(d) * (2 * c + 1) *
           (coordinate(IQ1_S, b[k] + 256 * (qh & 7), j % 8) + (qh & 8 ? -0.125 : 0.125));
}

/* Where a format keeps its f16 numbers. Random bits there would mostly be huge, infinite or NaN. */
static const struct format {
    enum dtype type;
    double (*value)(const uint8_t *block, int j);
    int half[2]; /* -1: none */
} formats[] = {
    { F32, f32_value, { -1, -1 } },        { F16, f16_value, { -1, -1 } },
    { BF16, bf16_value, { -1, -1 } },      { Q8_0, q8_0_value, { 0, -1 } },
    { Q4_0, q4_0_value, { 0, -1 } },       { Q4_1, q4_1_value, { 0, 2 } },
    { Q5_0, q5_0_value, { 0, -1 } },       { Q5_1, q5_1_value, { 0, 2 } },
    { IQ4_NL, iq4_nl_value, { 0, -1 } },   { MXFP4, mxfp4_value, { -1, -1 } },
    { Q4_K, q4_k_value, { 0, 2 } },        { Q5_K, q5_k_value, { 0, 2 } },
    { Q6_K, q6_k_value, { 208, -1 } },     { Q2_K, q2_k_value, { 80, 82 } },
    { Q3_K, q3_k_value, { 108, -1 } },     { IQ4_XS, iq4_xs_value, { 0, -1 } },
    { IQ1_S, iq1_s_value, { 0, -1 } },     { IQ1_M, iq1_m_value, { 54, -1 } },
    { IQ2_XXS, iq2_xxs_value, { 0, -1 } }, { IQ2_XS, iq2_xs_value, { 0, -1 } },
    { IQ2_S, iq2_s_value, { 0, -1 } },     { IQ3_XXS, iq3_xxs_value, { 0, -1 } },
    { IQ3_S, iq3_s_value, { 0, -1 } },     { TQ1_0, tq1_0_value, { 52, -1 } },
    { TQ2_0, tq2_0_value, { 64, -1 } },    { NVFP4, nvfp4_value, { -1, -1 } },
    { Q1_0, q1_0_value, { 0, -1 } },       { Q2_0, q2_0_value, { 0, -1 } },
};

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* Equal numbers. -0 equals 0, and all NaNs are equal. */
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
    for (uint32_t h = 0; h < 0x7c00;
         h++) { /* between neighbours, including the largest and infinity */
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

static uint64_t hash_bytes(const void *bytes, uint64_t n) /* FNV-1a */
{
    const uint8_t *p = bytes;
    uint64_t h = 0xcbf29ce484222325u;
    for (uint64_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* A hash of what ggml 0.27's to_float gives for 1024 random blocks. ggml has the formulas and the
 * codebooks from their author. Every point of a codebook occurs. */
static void test_same_as_ggml(void)
{
    enum { N_BLOCK = 1024 };
    static const struct {
        enum dtype type;
        uint64_t hash;
    } rows[] = {
        { Q4_0, 0x2ecc3a885803bc3fu },    { Q4_1, 0xbbfa79b9702847e1u },
        { Q5_0, 0xe1b8be472c016f3cu },    { Q5_1, 0x710c2a1ce78e8560u },
        { Q8_0, 0xb49be9dd8ea376feu },    { Q2_K, 0x7ae15d123fa81358u },
        { Q3_K, 0xa65c19b6965fc5d7u },    { Q4_K, 0x5b48105f9f4ce18cu },
        { Q5_K, 0x85c9db3073ca50a4u },    { Q6_K, 0x552a56f5bc831d4eu },
        { IQ2_XXS, 0x237686bec28422b7u }, { IQ2_XS, 0xc136ba11b6599ce4u },
        { IQ3_XXS, 0x8c85eaa55e052bddu }, { IQ1_S, 0xa25bf6bc87f89a03u },
        { IQ4_NL, 0xe455e9853abb2242u },  { IQ3_S, 0x51c68ba58297b129u },
        { IQ2_S, 0x3fe35056e840e918u },   { IQ4_XS, 0x7cb60d3b834f046eu },
        { IQ1_M, 0x617274e4b0d2dd98u },   { TQ1_0, 0xc884fb3b5ed4a4c0u },
        { TQ2_0, 0x65c98936d51ba10cu },   { MXFP4, 0x9d2341c0a579a3c4u },
        { NVFP4, 0x2130f41bef9faba8u },   { Q1_0, 0x4b024e6aaabe4ea5u },
        { Q2_0, 0xcc196fe648904dbfu },
    };
    static uint8_t raw[N_BLOCK * 256];
    static float got[N_BLOCK * 256];
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct dtype_info *info = dtype_info(rows[i].type);
        const struct format *f = formats;
        struct rng rng = { 7 };
        test_case("%s: the same bits as ggml", info->name);
        while (f->type != rows[i].type)
            f++;
        for (uint32_t k = 0; k < N_BLOCK * info->block_bytes; k++)
            raw[k] = (uint8_t)rng_u64(&rng);
        for (uint32_t k = 0; k < N_BLOCK; k++) /* finite */
            for (int h = 0; h < 2 && f->half[h] >= 0; h++)
                raw[k * info->block_bytes + (uint32_t)f->half[h] + 1] &= 0xbf;
        dtype_to_f32(rows[i].type, raw, N_BLOCK * info->block_len, got);
        for (uint32_t k = 0; k < N_BLOCK * info->block_len; k++)
            got[k] += 0.0f; /* -0 is 0 */
        uint64_t hash = hash_bytes(got, N_BLOCK * info->block_len * sizeof *got);
        CHECK_MSG(hash == rows[i].hash, "hash %016llx", (unsigned long long)hash);
    }
}

/* The points of a codebook: as many as there are codes, no two alike, in order, with coordinates
 * that exist. (The hashes above show that they are the right ones.) */
static void test_codebooks(void)
{
    static const struct {
        enum dtype type;
        uint32_t n, bits, below;
    } rows[] = {
        { IQ1_S, 2048, 2, 3 }, { IQ1_M, 2048, 2, 3 }, { IQ2_XXS, 256, 2, 3 },
        { IQ2_XS, 512, 2, 3 }, { IQ2_S, 1024, 2, 3 }, { IQ3_XXS, 256, 3, 8 },
        { IQ3_S, 512, 3, 8 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t n = 0, before = 0;
        const uint32_t *codebook = dtype_codebook(rows[i].type, &n);
        test_case("%s: the codebook", dtype_info(rows[i].type)->name);
        if (!CHECK(codebook != NULL) || !CHECK_EQ(2 * n, rows[i].n))
            continue;
        for (uint32_t k = 0; k < 2 * n; k++) {
            uint32_t p = codebook[k / 2] >> 16 * (k % 2) & 0xffff;
            CHECK_MSG(k == 0 || p > before, "point %u is %04x, before it %04x", k, p, before);
            for (uint32_t at = 0; at + rows[i].bits <= 16; at += rows[i].bits)
                CHECK_MSG((p >> at & ((1u << rows[i].bits) - 1)) < rows[i].below, "point %u: %04x",
                          k, p);
            before = p;
        }
    }
    uint32_t n = 1;
    CHECK(!dtype_codebook(Q8_0, &n) && n == 0);
}

/* Elements computed by hand, so that formula and decoder cannot be wrong in the same way. A row has
 * some bytes of a block and one element that follows from them. */
static void test_by_hand(void)
{
    static const struct {
        enum dtype type;
        struct {
            uint8_t at, v;
        } byte[6];
        uint32_t j;
        float want;
    } rows[] = {
        { Q8_0, { { 1, 0x3c }, { 2 + 31, 0x80 } }, 31, -128 },               /* 1 * -128 */
        { Q8_0, { { 0, 0x01 }, { 2 + 5, 3 } }, 5, 3 * 0x1p-24f },            /* subnormal scale */
        { Q4_0, { { 1, 0x38 }, { 2, 0xf1 } }, 0, -3.5f },                    /* 0.5 * (1 - 8) */
        { Q4_0, { { 1, 0x38 }, { 2, 0xf1 } }, 16, 3.5f },                    /* 0.5 * (15 - 8) */
        { Q4_1, { { 1, 0x40 }, { 3, 0xbc }, { 4 + 3, 0x90 } }, 19, 17 },     /* 2 * 9 - 1 */
        { Q5_0, { { 1, 0x3c }, { 2 + 3, 0x80 }, { 6 + 15, 0x70 } }, 31, 7 }, /* 7 + 16 - 16 */
        { Q5_0, { { 1, 0x3c }, { 6 + 15, 0x70 } }, 31, -9 },                 /* 7 - 16 */
        { Q5_1, { { 1, 0x3c }, { 3, 0x3c }, { 4, 1 }, { 8, 2 } }, 0, 19 },   /* (2 + 16) + 1 */
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
        { Q6_K, { { 192, 0x80 }, { 209, 0x3c } }, 0, 4096 }, /* -128 * -32 */
        /* j = 195: h 1, s 2, l 3: q = 3 of qs[35], sc[12] = 5 and 4: 5 * 3 - 0.5 * 4 */
        { Q2_K, { { 12, 0x45 }, { 16 + 35, 0x30 }, { 81, 0x3c }, { 83, 0x38 } }, 195, 13 },
        /* g = 9: c = hi(sc[1]) | (sc[9] >> 4 & 3) << 4 = 35; no third bit: q = 1 - 4 */
        { Q3_K, { { 97, 0x30 }, { 105, 0x20 }, { 32 + 32 + 16, 1 }, { 109, 0x3c } }, 144, -9 },
        /* g = 3: c = 1 + 48 - 32 */
        { IQ4_XS, { { 1, 0x3c }, { 2, 0xc0 }, { 5, 0x10 }, { 8 + 48, 0x0f } }, 96, 17 * 113 },
        { TQ1_0, { { 48 + 1, 0xff }, { 53, 0x3c } }, 241, 1 }, /* 255 / 256: 0.222 */
        { TQ2_0, { { 32 + 5, 0xc0 }, { 65, 0x3c } }, 128 + 96 + 5, 2 },
        { NVFP4, { { 1, 0x3c }, { 4 + 8 + 2, 0x50 } }, 26, 4.5f },  /* 1.5 * 3 */
        { NVFP4, { { 3, 0x01 }, { 4 + 24, 0x0a } }, 48, -0x1p-9f }, /* 2^-9 * -1 */
        { Q1_0, { { 1, 0x3c }, { 2 + 3, 0x80 } }, 31, 1 },
        { Q2_0, { { 1, 0x3c }, { 2 + 3, 0xc0 } }, 15, 2 },
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

/* Reads a whole tensor as f32; NULL when the file does not have it. */
static float *read_tensor(const struct gguf *g, const char *name, uint64_t *n)
{
    const struct gguf_tensor *t = gguf_tensor(g, name);
    float *v = t ? mem_alloc(t->n_elem, sizeof *v) : NULL;
    if (v)
        dtype_to_f32(t->type, t->data, *n = t->n_elem, v);
    return v;
}

/* Compares the same weights in two files. The coarser file sets how far apart they may be. A wrong
 * order of elements, scale or sign gives errors near 1. */
static void compare_files(const char *fine, const char *coarse, double max_nmse)
{
    test_case("%s against %s", coarse, fine);
    struct hlm_err err = { 0 };
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

/* Files that llama.cpp quantised from one set of weights: the formats must agree with each
 * other. */
static void test_files(void)
{
    static const struct {
        const char *fine, *coarse;
        double max_nmse;
    } rows[] = {
        { .fine = "base/model-f32.gguf",
          .coarse = "base/model-f16.gguf",
          .max_nmse = 1e-15 }, /* f16 rounds below 2^-14 */
        { .fine = "base/model-f32.gguf", .coarse = "base/model-bf16.gguf", .max_nmse = 0 },
        { .fine = "base/model-f32.gguf", .coarse = "base/model-q8_0.gguf", .max_nmse = 1e-4 },
        { .fine = "k256/model-q6_k.gguf", .coarse = "k256/model-q5_k_m.gguf", .max_nmse = 1e-2 },
        { .fine = "k256/model-q4_k_m.gguf", .coarse = "k256/model-q5_k_m.gguf", .max_nmse = 1e-2 },
        { .fine = "k256/model-q4_k_m.gguf", .coarse = "k256/model-q6_k.gguf", .max_nmse = 1e-2 },
        { .fine = "k256/model-q4_k_m.gguf", .coarse = "k256/model-q4_0.gguf", .max_nmse = 3e-2 },
        { .fine = "k256/model-q4_k_m.gguf", .coarse = "k256/model-iq4_nl.gguf", .max_nmse = 3e-2 },
        { .fine = "k256/model-q4_k_m.gguf",
          .coarse = "k256/model-mxfp4_moe.gguf",
          .max_nmse = 3e-2 },
    };
    static const char *const families[] = { "qwen35",     "qwen35moe",      "qwen3next",
                                            "nemotron_h", "nemotron_h_moe", "step35" };
    for (uint32_t f = 0; f < ARRAY_LEN(families); f++)
        for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
            char fine[100], coarse[100];
            snprintf(fine, sizeof fine, "%s/%s", families[f], rows[i].fine);
            snprintf(coarse, sizeof coarse, "%s/%s", families[f], rows[i].coarse);
            if (fixture_has("%s", fine) &&
                fixture_has("%s", coarse)) /* the repository has some of them */
                compare_files(fine, coarse, rows[i].max_nmse);
        }
}

void test_dtype(void)
{
    test_scalars();
    test_table();
    for (uint32_t i = 0; i < ARRAY_LEN(formats); i++)
        test_format(&formats[i]);
    test_same_as_ggml();
    test_codebooks();
    test_by_hand();
    test_files();
}
