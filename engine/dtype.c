/* dtype: the table of GGUF tensor types, and conversions for those hlm computes with. See dtype.h.
 *
 * The decoders follow models.md section 8. Their products are exact in f32: a scale has 11
 * significant bits, a sub-scale at most 7 and a code at most 5. So only the one addition of a
 * format with a minimum rounds, and contracting it to an fma changes nothing. Blocks are packed
 * without padding and may start anywhere, hence everything is read by bytes. */
#include "dtype.h"

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
    if (mag > 0x7f800000) /* nan: made quiet, or dropping its low bits could leave infinity */
        h = 0x7e00 | (mag >> 13 & 0x3ff);
    else if (mag >= 0x477ff000) /* from 65520, halfway past the largest f16 */
        h = 0x7c00;
    else if (mag < 0x38800000) /* below 2^-14: 0.5 has f16's subnormal unit as its last bit */
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

/* The fifth bits of all 32 codes stand in one word, element j at bit j. */
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

static void from_iq4_nl(const void *src, uint64_t n, float *dst)
{
    static const float value[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                     1, 13, 25, 38, 53, 69, 89, 113 };
    const uint8_t *b = src;
    for (; n; n -= 32, b += 18, dst += 32) {
        float d = f16_to_f32(le16(b));
        for (int i = 0; i < 16; i++) {
            dst[i] = d * value[b[2 + i] & 15];
            dst[i + 16] = d * value[b[2 + i] >> 4];
        }
    }
}

static void from_mxfp4(const void *src, uint64_t n, float *dst)
{
    /* E2M1 doubled, to be whole; hence the scale 2^(e-128), subnormal for e of 0 and 1. */
    static const float value[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };
    const uint8_t *b = src;
    for (; n; n -= 32, b += 17, dst += 32) {
        float d = float_of(b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23);
        for (int i = 0; i < 16; i++) {
            dst[i] = d * value[b[1 + i] & 15];
            dst[i + 16] = d * value[b[1 + i] >> 4];
        }
    }
}

/* --- Blocks of 256: a scale of scales, 6-bit or 8-bit scales of sub-blocks, then codes. --- */

/* Scale and minimum of sub-block g of Q4_K and Q5_K: 16 numbers of 6 bits. Those of g < 4 fill
 * the low bits of bytes 0..7, the others have 4 bits in bytes 8..11 and 2 more atop bytes 0..7. */
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

/* Ids absent here are retired or, like Q8_1 and Q8_K, never stand in files. */
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

    [Q2_K] = { "Q2_K", 256, 84, NULL },
    [Q3_K] = { "Q3_K", 256, 110, NULL },
    [IQ1_S] = { "IQ1_S", 256, 50, NULL },
    [IQ1_M] = { "IQ1_M", 256, 56, NULL },
    [IQ2_XXS] = { "IQ2_XXS", 256, 66, NULL },
    [IQ2_XS] = { "IQ2_XS", 256, 74, NULL },
    [IQ2_S] = { "IQ2_S", 256, 82, NULL },
    [IQ3_XXS] = { "IQ3_XXS", 256, 98, NULL },
    [IQ3_S] = { "IQ3_S", 256, 110, NULL },
    [IQ4_XS] = { "IQ4_XS", 256, 136, NULL },
    [TQ1_0] = { "TQ1_0", 256, 54, NULL },
    [TQ2_0] = { "TQ2_0", 256, 66, NULL },
    [NVFP4] = { "NVFP4", 64, 36, NULL },
    [Q1_0] = { "Q1_0", 128, 18, NULL },
    [Q2_0] = { "Q2_0", 64, 18, NULL },
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
