/* dtype: the table of GGUF tensor types, and the conversions of those with which hlm computes. See
 * dtype.h.
 *
 * The decoders follow models/README.md, "Tensor encodings". Products are not rounded in f32: a
 * scale has 11 significant bits, and sub-scale and code together have at most 12. Only the addition
 * in formats with a minimum rounds, so a compiler that contracts it to an fma changes nothing.
 * Blocks follow each other without padding and may begin at any address, so everything is read by
 * bytes. */
#include "base/dtype.h"

#include "base/dtype_codebooks.h"

#include <string.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static uint16_t le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static uint32_t le32(const uint8_t *p) { return le16(p) | (uint32_t)le16(p + 2) << 16; }

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (h & 0x8000u) << 16, mag = h & 0x7fffu;
    if (mag < 0x0400) /* zero and subnormals count units of 2^-24 */
        return float_of(sign | bits_of((float)mag * 0x1p-24f));
    /* The exponent bias goes from 15 to 127; that of infinity and nan from 31 to 255. */
    return float_of(sign | ((mag << 13) + (mag < 0x7c00 ? 112u << 23 : 224u << 23)));
}

uint16_t f32_to_f16(float f)
{
    uint32_t sign = bits_of(f) >> 16 & 0x8000, mag = bits_of(f) & 0x7fffffff, h;
    if (mag > 0x7f800000) /* nan: made quiet, since losing its low bits could make it infinity */
        h = 0x7e00 | (mag >> 13 & 0x3ff);
    else if (mag >= 0x477ff000) /* from 65520, halfway past the largest f16 */
        h = 0x7c00;
    else if (mag <
             0x38800000) /* below 2^-14: the last bit of 0.5 is worth the subnormal unit of f16 */
        h = bits_of(float_of(mag) + 0.5f) - bits_of(0.5f);
    else
        h = (mag + 0xfff + (mag >> 13 & 1) - (112u << 23)) >> 13; /* ties to even */
    return (uint16_t)(sign | h);
}

float bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }

static void from_f32(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (uint64_t i = 0; i < n; i++)
        dst[i] = float_of(le32(b + 4 * i));
}

static void from_f16(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (uint64_t i = 0; i < n; i++)
        dst[i] = f16_to_f32(le16(b + 2 * i));
}

static void from_bf16(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (uint64_t i = 0; i < n; i++)
        dst[i] = bf16_to_f32(le16(b + 2 * i));
}

/* --- Blocks of 32: a scale, then codes. Byte i of 4-bit codes holds elements i and i + 16. --- */

static void from_q8_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 34, dst += 32) {
        float d = f16_to_f32(le16(b));
        for (int j = 0; j < 32; j++)
            dst[j] = d * (float)(int8_t)b[2 + j];
    }
}

static void from_q4_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 18, dst += 32) {
        float d = f16_to_f32(le16(b));
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((b[2 + i] & 15) - 8);
            dst[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
        }
    }
}

static void from_q4_1(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 20, dst += 32) {
        float d = f16_to_f32(le16(b)), m = f16_to_f32(le16(b + 2));
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)(b[4 + i] & 15) + m;
            dst[i + 16] = d * (float)(b[4 + i] >> 4) + m;
        }
    }
}

/* One word has the fifth bits of all 32 codes; bit j belongs to element j. */
static void from_q5_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 22, dst += 32) {
        float d = f16_to_f32(le16(b));
        uint32_t high = le32(b + 2);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
            dst[i + 16] = d * (float)((int)(b[6 + i] >> 4 | (high >> (i + 16) & 1) << 4) - 16);
        }
    }
}

static void from_q5_1(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 24, dst += 32) {
        float d = f16_to_f32(le16(b)), m = f16_to_f32(le16(b + 2));
        uint32_t high = le32(b + 4);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * (float)((b[8 + i] & 15) | (high >> i & 1) << 4) + m;
            dst[i + 16] = d * (float)(b[8 + i] >> 4 | (high >> (i + 16) & 1) << 4) + m;
        }
    }
}

const float iq4_value[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113 };
/* E2M1, doubled to make whole numbers; the scales are halved to match. */
const float fp4_value[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

static void from_iq4_nl(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 18, dst += 32) {
        float d = f16_to_f32(le16(b));
        for (int i = 0; i < 16; i++) {
            dst[i] = d * iq4_value[b[2 + i] & 15];
            dst[i + 16] = d * iq4_value[b[2 + i] >> 4];
        }
    }
}

/* The scale is 2^(e-128), subnormal for e of 0 and 1. */
static void from_mxfp4(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 32, b += 17, dst += 32) {
        float d = float_of(b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * fp4_value[b[1 + i] & 15];
            dst[i + 16] = d * fp4_value[b[1 + i] >> 4];
        }
    }
}

/* --- Other small blocks. --- */

/* Half of an unsigned E4M3 number. The format has no infinity; its nan counts as 0. */
static float half_e4m3(uint8_t u)
{
    uint32_t e = u >> 3 & 15, m = u & 7;
    if (u == 0x7f)
        return 0;
    return e ? float_of((e + 119) << 23 | m << 20) : (float)m * 0x1p-10f;
}

/* Four scales, then 8 bytes for each 16 elements: the first 8 low, the others high. */
static void from_nvfp4(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 64, b += 36, dst += 64)
        for (int j = 0; j < 64; j++) {
            int s = j / 16, i = j % 16;
            dst[j] = half_e4m3(b[s]) * fp4_value[b[4 + 8 * s + i % 8] >> 4 * (i / 8) & 15];
        }
}

static void from_q1_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 128, b += 18, dst += 128) {
        float d = f16_to_f32(le16(b));
        for (int j = 0; j < 128; j++)
            dst[j] = b[2 + j / 8] >> j % 8 & 1 ? d : -d;
    }
}

static void from_q2_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 64, b += 18, dst += 64) {
        float d = f16_to_f32(le16(b));
        for (int j = 0; j < 64; j++)
            dst[j] = d * (float)((b[2 + j / 4] >> 2 * (j % 4) & 3) - 1);
    }
}

/* --- Blocks of 256: a scale of scales, 6-bit or 8-bit scales of sub-blocks, then codes. --- */

/* Scale and minimum of sub-block g of Q4_K and Q5_K, 16 numbers of 6 bits in all. Those of g < 4
 * are the low bits of bytes 0..7; the others have 4 bits in bytes 8..11 and 2 in the high bits of
 * bytes 0..7. */
static void k_scale(const uint8_t *sc, int g, float *scale, float *min)
{
    if (g < 4) {
        *scale = (float)(sc[g] & 63);
        *min = (float)(sc[g + 4] & 63);
    } else {
        *scale = (float)((sc[g + 4] & 15) | (sc[g - 4] >> 6) << 4);
        *min = (float)(sc[g + 4] >> 4 | (sc[g] >> 6) << 4);
    }
}

/* Sub-blocks 2i and 2i + 1 share the 32 bytes qs[32 i ..]: low nibbles, then high ones. */
static void from_q4_k(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 144, dst += 256) {
        float d = f16_to_f32(le16(b)), m = f16_to_f32(le16(b + 2));
        for (int g = 0; g < 8; g++) {
            const uint8_t *qs = b + 16 + 32 * (g / 2);
            float scale, min;
            k_scale(b + 4, g, &scale, &min);
            for (int l = 0; l < 32; l++)
                dst[32 * g + l] = d * scale * (float)(qs[l] >> 4 * (g % 2) & 15) - m * min;
        }
    }
}

/* Q4_K with a fifth bit: bit g of qh[l]. */
static void from_q5_k(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 176, dst += 256) {
        float d = f16_to_f32(le16(b)), m = f16_to_f32(le16(b + 2));
        const uint8_t *qh = b + 16;
        for (int g = 0; g < 8; g++) {
            const uint8_t *qs = b + 48 + 32 * (g / 2);
            float scale, min;
            k_scale(b + 4, g, &scale, &min);
            for (int l = 0; l < 32; l++) {
                int q = (qs[l] >> 4 * (g % 2) & 15) | (qh[l] >> g & 1) << 4;
                dst[32 * g + l] = d * scale * (float)q - m * min;
            }
        }
    }
}

/* Each half of 128 is four runs of 32, k = 0..3: runs k and k + 2 share 32 bytes of low nibbles,
 * and all four share 32 bytes of upper 2 bits. A signed scale serves 16 elements. */
static void from_q6_k(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 210, dst += 256) {
        float d = f16_to_f32(le16(b + 208));
        for (int j = 0; j < 256; j++) {
            int half = j / 128, k = j % 128 / 32, l = j % 32;
            int low = b[64 * half + 32 * (k % 2) + l] >> 4 * (k / 2) & 15;
            int high = b[128 + 32 * half + l] >> 2 * k & 3;
            dst[j] = d * (float)(int8_t)b[192 + j / 16] * (float)((low | high << 4) - 32);
        }
    }
}

/* 64 bytes of 2-bit codes: each half of 128 is four runs of 32 that share 32 bytes. */
static int crumb(const uint8_t *qs, int j)
{
    return qs[32 * (j / 128) + j % 32] >> 2 * (j % 128 / 32) & 3;
}

static void from_q2_k(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 84, dst += 256) {
        float d = f16_to_f32(le16(b + 80)), m = f16_to_f32(le16(b + 82));
        for (int j = 0; j < 256; j++) {
            int c = b[j / 16];
            dst[j] = d * (float)(c & 15) * (float)crumb(b + 16, j) - m * (float)(c >> 4);
        }
    }
}

/* The third bit of element j is bit j / 32 of byte j % 32; if it is not set, the value is 4 less.
 * The scales are 16 numbers of 6 bits: their low nibbles in 8 bytes, their upper 2 bits in 4 more.
 */
static void from_q3_k(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 110, dst += 256) {
        const uint8_t *sc = b + 96;
        float d = f16_to_f32(le16(b + 108));
        for (int j = 0; j < 256; j++) {
            int g = j / 16, c = sc[g % 8] >> 4 * (g / 8) & 15;
            c |= (sc[8 + g % 4] >> 2 * (g / 4) & 3) << 4;
            int q = crumb(b + 32, j) - (b[j % 32] >> j / 32 & 1 ? 0 : 4);
            dst[j] = d * (float)(c - 32) * (float)q;
        }
    }
}

/* IQ4_NL with a 6-bit scale for every 32. */
static void from_iq4_xs(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 136, dst += 256) {
        float d = f16_to_f32(le16(b));
        for (int j = 0; j < 256; j++) {
            int g = j / 32, i = j % 32, c = b[4 + g / 2] >> 4 * (g % 2) & 15;
            c |= (le16(b + 2) >> 2 * g & 3) << 4;
            dst[j] = d * (float)(c - 32) * iq4_value[b[8 + 16 * g + i % 16] >> 4 * (i / 16) & 15];
        }
    }
}

/* A byte holds five ternary digits: x / 256 is a fraction in base 3. Digit k is the whole part of 3
 * times the fraction that remains after k multiplications by 3. */
static int trit(uint8_t x, int k)
{
    static const uint8_t power[5] = { 1, 3, 9, 27, 81 };
    return (uint8_t)(x * power[k]) * 3 >> 8;
}

/* 32 bytes hold 160 elements, 16 the next 80, and 4 the last 16. */
static void from_tq1_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 54, dst += 256) {
        float d = f16_to_f32(le16(b + 52));
        for (int j = 0; j < 256; j++) {
            int t = j < 160   ? trit(b[j % 32], j / 32)
                    : j < 240 ? trit(b[32 + j % 16], (j - 160) / 16)
                              : trit(b[48 + j % 4], (j - 240) / 4);
            dst[j] = d * (float)(t - 1);
        }
    }
}

static void from_tq2_0(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 66, dst += 256) {
        float d = f16_to_f32(le16(b + 64));
        for (int j = 0; j < 256; j++)
            dst[j] = d * (float)(crumb(b, j) - 1);
    }
}

/* --- Blocks of 256 numbered points of a codebook (dtype_codebooks.h), with scales, signs. --- */

static uint32_t point(const uint32_t *codebook, uint32_t i)
{
    return codebook[i / 2] >> 16 * (i % 2);
}

/* The 8 signs of a 7-bit code: the last one makes the number of minus signs even. */
static uint32_t even_signs(uint32_t code)
{
    uint32_t odd = code & 127;
    odd ^= odd >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return (code & 127) | (odd & 1) << 7;
}

/* Eight elements. */
static void put_iq2(float scale, uint32_t p, uint32_t signs, float *dst)
{
    static const float value[4] = { 8, 25, 43, 0 };
    for (int i = 0; i < 8; i++)
        dst[i] = (signs >> i & 1 ? -scale : scale) * value[p >> 2 * i & 3];
}

/* Four elements; the coordinate 7 means `last`. */
static void put_iq3(float scale, uint32_t p, uint32_t signs, int first, int step, int last,
                    float *dst)
{
    for (int i = 0; i < 4; i++) {
        int c = p >> 3 * i & 7;
        dst[i] = (signs >> i & 1 ? -scale : scale) * (float)(c == 7 ? last : first + step * c);
    }
}

/* Eight elements; `minus` is the sign of the shift by an eighth. */
static void put_iq1(float scale, uint32_t p, bool minus, float *dst)
{
    for (int i = 0; i < 8; i++)
        dst[i] = scale * ((float)(int)(p >> 2 * i & 3) - (minus ? 1.125f : 0.875f));
}

/* For each 32 elements four numbers of a byte, then four 7-bit sign codes and a 4-bit scale. */
static void from_iq2_xxs(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 66, dst += 256)
        for (int g = 0; g < 8; g++) {
            const uint8_t *qs = b + 2 + 8 * g;
            uint32_t sign = le32(qs + 4);
            float d = f16_to_f32(le16(b)) * ((float)(sign >> 28) + 0.5f) * 0.25f;
            for (int i = 0; i < 4; i++)
                put_iq2(d, point(codebook_iq2_xxs, qs[i]), even_signs(sign >> 7 * i),
                        dst + 32 * g + 8 * i);
        }
}

/* Nine bits of number and seven of signs for each 8 elements, a 4-bit scale for each 16. */
static void from_iq2_xs(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 74, dst += 256)
        for (int i = 0; i < 32; i++) {
            uint32_t q = le16(b + 2 + 2 * i), c = b[66 + i / 4] >> 4 * (i / 2 % 2) & 15;
            float d = f16_to_f32(le16(b)) * ((float)c + 0.5f) * 0.25f;
            put_iq2(d, point(codebook_iq2_xs, q & 511), even_signs(q >> 9), dst + 8 * i);
        }
}

/* Eight bits of number, two more in qh; signs as they are. */
static void from_iq2_s(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 82, dst += 256)
        for (int i = 0; i < 32; i++) {
            uint32_t q = b[2 + i] | (b[66 + i / 4] >> 2 * (i % 4) & 3u) << 8;
            uint32_t c = b[74 + i / 4] >> 4 * (i / 2 % 2) & 15;
            float d = f16_to_f32(le16(b)) * ((float)c + 0.5f) * 0.25f;
            put_iq2(d, point(codebook_iq2_s, q), b[34 + i], dst + 8 * i);
        }
}

/* Points have four coordinates; signs and scales are as in IQ2_XXS, after all point numbers. */
static void from_iq3_xxs(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 98, dst += 256)
        for (int i = 0; i < 64; i++) {
            uint32_t sign = le32(b + 66 + 4 * (i / 8)), eight = even_signs(sign >> 7 * (i / 2 % 4));
            float d = f16_to_f32(le16(b)) * ((float)(sign >> 28) + 0.5f) * 0.5f;
            put_iq3(d, point(codebook_iq3_xxs, b[2 + i]), eight >> 4 * (i % 2), 4, 8, 62,
                    dst + 4 * i);
        }
}

/* The ninth bit of a number in qh, signs as they are, a 4-bit scale for each 32. */
static void from_iq3_s(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 110, dst += 256)
        for (int i = 0; i < 64; i++) {
            uint32_t q = b[2 + i] | (b[66 + i / 8] >> i % 8 & 1u) << 8;
            uint32_t c = b[106 + i / 16] >> 4 * (i / 8 % 2) & 15;
            float d = f16_to_f32(le16(b)) * (float)(2 * c + 1);
            put_iq3(d, point(codebook_iq3_s, q), b[74 + i / 2] >> 4 * (i % 2), 1, 2, 15,
                    dst + 4 * i);
        }
}

/* Eight bits of number; for each 32 elements 16 bits: 3 more for each, a 3-bit scale, a sign. */
static void from_iq1_s(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 50, dst += 256)
        for (int i = 0; i < 32; i++) {
            uint32_t qh = le16(b + 34 + 2 * (i / 4)), q = b[2 + i] | (qh >> 3 * (i % 4) & 7) << 8;
            float d = f16_to_f32(le16(b)) * (float)(2 * (qh >> 12 & 7) + 1);
            put_iq1(d, point(codebook_iq1, q), qh >> 15, dst + 8 * i);
        }
}

/* Three more bits of number and a sign for each 8 elements, 3-bit scales for each 16; the f16 scale
 * is in the top nibbles of the four words of scales. */
static void from_iq1_m(const void *src, uint64_t n, float *dst)
{
    const uint8_t *b = src;
    for (; n; n -= 256, b += 56, dst += 256) {
        uint16_t d = 0;
        for (int i = 0; i < 4; i++)
            d |= (uint16_t)(b[48 + 2 * i + 1] >> 4 << 4 * i);
        for (int i = 0; i < 32; i++) {
            uint32_t qh = b[32 + i / 2] >> 4 * (i % 2) & 15u, q = b[i] | (qh & 7) << 8;
            uint32_t c = le16(b + 48 + 2 * (i / 8)) >> 3 * (i / 2 % 4) & 7;
            put_iq1(f16_to_f32(d) * (float)(2 * c + 1), point(codebook_iq1, q), qh >> 3,
                    dst + 8 * i);
        }
    }
}

/* Ids that are missing here are retired, or never used in files (Q8_1 and Q8_K). */
static const struct dtype_info table[DTYPE_COUNT] = {
    [F32] = { "F32", 1, 4, from_f32 },
    [F16] = { "F16", 1, 2, from_f16 },
    [BF16] = { "BF16", 1, 2, from_bf16 },
    [Q4_0] = { "Q4_0", 32, 18, from_q4_0 },
    [Q4_1] = { "Q4_1", 32, 20, from_q4_1 },
    [Q5_0] = { "Q5_0", 32, 22, from_q5_0 },
    [Q5_1] = { "Q5_1", 32, 24, from_q5_1 },
    [Q8_0] = { "Q8_0", 32, 34, from_q8_0 },
    [IQ4_NL] = { "IQ4_NL", 32, 18, from_iq4_nl },
    [MXFP4] = { "MXFP4", 32, 17, from_mxfp4 },
    [Q4_K] = { "Q4_K", 256, 144, from_q4_k },
    [Q5_K] = { "Q5_K", 256, 176, from_q5_k },
    [Q6_K] = { "Q6_K", 256, 210, from_q6_k },
    [Q2_K] = { "Q2_K", 256, 84, from_q2_k },
    [Q3_K] = { "Q3_K", 256, 110, from_q3_k },
    [IQ4_XS] = { "IQ4_XS", 256, 136, from_iq4_xs },
    [IQ1_S] = { "IQ1_S", 256, 50, from_iq1_s },
    [IQ1_M] = { "IQ1_M", 256, 56, from_iq1_m },
    [IQ2_XXS] = { "IQ2_XXS", 256, 66, from_iq2_xxs },
    [IQ2_XS] = { "IQ2_XS", 256, 74, from_iq2_xs },
    [IQ2_S] = { "IQ2_S", 256, 82, from_iq2_s },
    [IQ3_XXS] = { "IQ3_XXS", 256, 98, from_iq3_xxs },
    [IQ3_S] = { "IQ3_S", 256, 110, from_iq3_s },
    [TQ1_0] = { "TQ1_0", 256, 54, from_tq1_0 },
    [TQ2_0] = { "TQ2_0", 256, 66, from_tq2_0 },
    [NVFP4] = { "NVFP4", 64, 36, from_nvfp4 },
    [Q1_0] = { "Q1_0", 128, 18, from_q1_0 },
    [Q2_0] = { "Q2_0", 64, 18, from_q2_0 },

    [I8] = { "I8", 1, 1, NULL },
    [I16] = { "I16", 1, 2, NULL },
    [I32] = { "I32", 1, 4, NULL },
    [I64] = { "I64", 1, 8, NULL },
    [F64] = { "F64", 1, 8, NULL },
};

const struct dtype_info *dtype_info(uint32_t id)
{
    return id < DTYPE_COUNT && table[id].name ? &table[id] : NULL;
}

const uint32_t *dtype_codebook(enum dtype type, uint32_t *n)
{
    static const struct {
        const uint32_t *codebook;
        uint32_t n;
    } codebooks[DTYPE_COUNT] = {
        [IQ1_S] = { codebook_iq1, ARRAY_LEN(codebook_iq1) },
        [IQ1_M] = { codebook_iq1, ARRAY_LEN(codebook_iq1) },
        [IQ2_XXS] = { codebook_iq2_xxs, ARRAY_LEN(codebook_iq2_xxs) },
        [IQ2_XS] = { codebook_iq2_xs, ARRAY_LEN(codebook_iq2_xs) },
        [IQ2_S] = { codebook_iq2_s, ARRAY_LEN(codebook_iq2_s) },
        [IQ3_XXS] = { codebook_iq3_xxs, ARRAY_LEN(codebook_iq3_xxs) },
        [IQ3_S] = { codebook_iq3_s, ARRAY_LEN(codebook_iq3_s) },
    };
    HLM_ASSERT((uint32_t)type < DTYPE_COUNT);
    *n = codebooks[type].n;
    return codebooks[type].codebook;
}

void dtype_to_f32(enum dtype type, const void *src, uint64_t n, float *dst)
{
    const struct dtype_info *info = dtype_info(type);
    HLM_ASSERT(info && info->to_f32 && n % info->block_len == 0);
    info->to_f32(src, n, dst);
}

bool dtype_bytes(enum dtype type, uint64_t n, uint64_t *bytes)
{
    const struct dtype_info *info = dtype_info(type);
    HLM_ASSERT(info && n % info->block_len == 0);
    return size_mul(n / info->block_len, info->block_bytes, bytes);
}
