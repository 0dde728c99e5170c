/* pack: see pack.h. Each function writes what one branch of shaders/weight.glsl reads. Its comment
 * lists what it stores besides the quants, for each block of 32 elements or as the comment says. */
#include "ops/pack.h"

#include <string.h>

enum { QK = 32 };

/* The bits of a 32-element block for quants and for everything else (blocks may share a byte), and
 * the function that packs a row. */
struct pack_kind {
    uint32_t quant_bits, aux_bits;
    void (*row)(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux);
};

/* Packs 32 nibbles, which GGUF keeps in the low (or high) nibbles of 32 bytes, into 16 bytes:
 * element i in the low nibble of byte i, element 16 + i in the high one. */
static void split_nibbles(const uint8_t *src, bool high, uint8_t *dst)
{
    for (int i = 0; i < 16; i++) {
        uint32_t a = high ? src[i] >> 4 : src[i] & 15u;
        uint32_t b = high ? src[16 + i] >> 4 : src[16 + i] & 15u;
        dst[i] = (uint8_t)(a | b << 4);
    }
}

/* d in f16. */
static void row_q8_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 34) {
        memcpy(aux + 2 * b, src, 2);
        memcpy(quant + 32 * b, src + 2, 32);
    }
}

/* also for IQ4_NL */
static void row_q4_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 18) {
        memcpy(aux + 2 * b, src, 2);
        memcpy(quant + 16 * b, src + 2, 16);
    }
}

static void row_q4_1(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 20) {
        memcpy(aux + 4 * b, src, 4);
        memcpy(quant + 16 * b, src + 4, 16);
    }
}

static void row_q5_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 22) {
        memcpy(aux + 4 * b, src + 2, 4);
        memcpy(aux + 4 * n_block + 2 * b, src, 2);
        memcpy(quant + 16 * b, src + 6, 16);
    }
}

static void row_q5_1(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 24) {
        memcpy(aux + 4 * b, src + 4, 4);
        memcpy(aux + 4 * n_block + 4 * b, src, 4);
        memcpy(quant + 16 * b, src + 8, 16);
    }
}

static void row_mxfp4(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 17) {
        aux[b] = src[0];
        memcpy(quant + 16 * b, src + 1, 16);
    }
}

static void row_q4_k(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 144;
        if (b % 8 == 0)
            memcpy(aux + 2 * b, s, 16); /* d, dmin, 12 bytes of scales */
        split_nibbles(s + 16 + b % 8 / 2 * 32, b % 2, quant + 16 * b);
    }
}

static void row_q5_k(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 176;
        if (b % 8 == 0)
            memcpy(aux + 2 * b, s, 16);
        split_nibbles(s + 48 + b % 8 / 2 * 32, b % 2, quant + 16 * b);
        uint8_t *high = aux + 2 * n_block + 4 * b; /* bit g of every qh[l]: 32 bits per block */
        for (uint32_t l = 0; l < QK; l++)
            high[l / 8] |= (uint8_t)((s[16 + l] >> b % 8 & 1) << l % 8);
    }
}

static void row_q6_k(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 210;
        uint32_t h = b % 8 / 4, k = b % 4;
        split_nibbles(s + 64 * h + 32 * (k % 2), k >= 2, quant + 16 * b);
        uint8_t *high = aux + 8 * b;
        for (uint32_t l = 0; l < QK; l++)
            high[l / 4] |= (uint8_t)((s[128 + 32 * h + l] >> 2 * k & 3) << 2 * (l % 4));
        memcpy(aux + 8 * n_block + 2 * b, s + 192 + 2 * (b % 8), 2);
        if (b % 8 == 0)
            memcpy(aux + 10 * n_block + b / 4, s + 208, 2);
    }
}

/* The 2-bit codes of block k of the four that share 32 bytes: element i goes to bit 2 i. */
static void split_crumbs(const uint8_t *src, uint32_t k, uint8_t *dst)
{
    for (uint32_t l = 0; l < QK; l++)
        dst[l / 4] |= (uint8_t)((src[l] >> 2 * k & 3) << 2 * (l % 4));
}

/* For each 16 elements a byte with scale and minimum; d and dmin for eight blocks. */
static void row_q2_k(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 84;
        split_crumbs(s + 16 + b % 8 / 4 * 32, b % 4, quant + 8 * b);
        memcpy(aux + 2 * b, s + 2 * (b % 8), 2);
        if (b % 8 == 0)
            memcpy(aux + 2 * n_block + b / 2, s + 80, 4);
    }
}

/* A word of high bits; a byte with the low nibbles of the two 6-bit scales, and a nibble with their
 * other bits; d in f16 for eight blocks. */
static void row_q3_k(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 110, *sc = s + 96;
        uint8_t *high = aux + 4 * b, *low = aux + 4 * n_block + b, *top = aux + 5 * n_block + b / 2;
        split_crumbs(s + 32 + b % 8 / 4 * 32, b % 4, quant + 8 * b);
        for (uint32_t l = 0; l < QK; l++)
            high[l / 8] |= (uint8_t)((s[l] >> b % 8 & 1) << l % 8);
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t g = 2 * (b % 8) + h;
            *low |= (uint8_t)((sc[g % 8] >> 4 * (g / 8) & 15) << 4 * h);
            *top |= (uint8_t)((sc[8 + g % 4] >> 2 * (g / 4) & 3) << (4 * (b % 2) + 2 * h));
        }
        if (b % 8 == 0)
            memcpy(aux + 5 * n_block + n_block / 2 + b / 4, s + 108, 2);
    }
}

/* Two words for eight blocks, as in the file: d and the upper bits of the scales; their lower bits.
 */
static void row_iq4_xs(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 136) {
        memcpy(aux + b, src, 8);
        memcpy(quant + 16 * b, src + 8, 128);
    }
}

/* Four bytes of point numbers; a word with signs and scale; d in f16 for eight blocks. */
static void row_iq2_xxs(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 66;
        memcpy(quant + 4 * b, s + 2 + 8 * (b % 8), 4);
        memcpy(aux + 4 * b, s + 6 + 8 * (b % 8), 4);
        if (b % 8 == 0)
            memcpy(aux + 4 * n_block + b / 4, s, 2);
    }
}

/* Four times 16 bits with point number and signs; a byte with scales; d in f16 for eight blocks. */
static void row_iq2_xs(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 74) {
        memcpy(quant + 8 * b, src + 2, 64);
        memcpy(aux + b, src + 66, 8);
        memcpy(aux + n_block + b / 4, src, 2);
    }
}

/* Four bytes of point numbers; a word of signs; a byte with the upper bits of the numbers; a byte
 * with scales; d in f16 for eight blocks. */
static void row_iq2_s(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 82) {
        memcpy(quant + 4 * b, src + 2, 32);
        memcpy(aux + 4 * b, src + 34, 32);
        memcpy(aux + 4 * n_block + b, src + 66, 8);
        memcpy(aux + 5 * n_block + b, src + 74, 8);
        memcpy(aux + 6 * n_block + b / 4, src, 2);
    }
}

/* Eight bytes of point numbers; a word with signs and scale; d in f16 for eight blocks. */
static void row_iq3_xxs(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 98) {
        memcpy(quant + 8 * b, src + 2, 64);
        memcpy(aux + 4 * b, src + 66, 32);
        memcpy(aux + 4 * n_block + b / 4, src, 2);
    }
}

/* Eight bytes of point numbers; a word of signs; a byte with the ninth bits of the numbers; a
 * nibble of scale; d in f16 for eight blocks. */
static void row_iq3_s(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 110) {
        memcpy(quant + 8 * b, src + 2, 64);
        memcpy(aux + 4 * b, src + 74, 32);
        memcpy(aux + 4 * n_block + b, src + 66, 8);
        memcpy(aux + 5 * n_block + b / 2, src + 106, 4);
        memcpy(aux + 5 * n_block + n_block / 2 + b / 4, src, 2);
    }
}

/* Four bytes of point numbers; 16 bits with their upper bits, scale and sign; d in f16 for eight
 * blocks. */
static void row_iq1_s(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 50) {
        memcpy(quant + 4 * b, src + 2, 32);
        memcpy(aux + 2 * b, src + 34, 16);
        memcpy(aux + 2 * n_block + b / 4, src, 2);
    }
}

/* Four bytes of point numbers; 16 bits with their upper bits and signs; two words for eight blocks
 * with the scales and, in four nibbles, d. */
static void row_iq1_m(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 56) {
        memcpy(quant + 4 * b, src, 32);
        memcpy(aux + 2 * b, src + 32, 16);
        memcpy(aux + 2 * n_block + b, src + 48, 8);
    }
}

/* 13 words for eight blocks, as in the file; d in f16 for eight blocks. */
static void row_tq1_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 8, src += 54) {
        memcpy(quant + 13 * b / 2, src, 52);
        memcpy(aux + b / 4, src + 52, 2);
    }
}

static void row_tq2_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 8 * 66;
        split_crumbs(s + b % 8 / 4 * 32, b % 4, quant + 8 * b);
        if (b % 8 == 0)
            memcpy(aux + b / 4, s + 64, 2);
    }
}

/* The file spreads the nibbles of 16 elements over 8 bytes, the packed row those of 32 over 16
 * bytes. A byte of scale for each 16 elements, and after all of them the scale of the row
 * (pack_scale). */
static void row_nvfp4(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++) {
        const uint8_t *s = src + b / 2 * 36, *q = s + 4 + b % 2 * 16;
        for (uint32_t i = 0; i < 16; i++)
            quant[16 * b + i] =
                (uint8_t)((q[i % 8] >> 4 * (i / 8) & 15) | (q[8 + i % 8] >> 4 * (i / 8) & 15) << 4);
        memcpy(aux + 2 * b, s + b % 2 * 2, 2);
    }
}

/* d in f16 for four blocks. */
static void row_q1_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 4, src += 18) {
        memcpy(quant + 4 * b, src + 2, 16);
        memcpy(aux + b / 2, src, 2);
    }
}

/* d in f16 for two blocks. */
static void row_q2_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b += 2, src += 18) {
        memcpy(quant + 8 * b, src + 2, 16);
        memcpy(aux + b, src, 2);
    }
}

static const struct pack_kind *pack_kind_of(enum dtype type)
{
    static const struct pack_kind kinds[DTYPE_COUNT] = {
        [F32] = { 1024, 0, NULL },           [F16] = { 512, 0, NULL },
        [BF16] = { 512, 0, NULL },           [Q8_0] = { 256, 16, row_q8_0 },
        [Q4_0] = { 128, 16, row_q4_0 },      [Q4_1] = { 128, 32, row_q4_1 },
        [Q5_0] = { 128, 48, row_q5_0 },      [Q5_1] = { 128, 64, row_q5_1 },
        [IQ4_NL] = { 128, 16, row_q4_0 },    [MXFP4] = { 128, 8, row_mxfp4 },
        [Q4_K] = { 128, 16, row_q4_k },      [Q5_K] = { 128, 48, row_q5_k },
        [Q6_K] = { 128, 82, row_q6_k },      [Q2_K] = { 64, 20, row_q2_k },
        [Q3_K] = { 64, 46, row_q3_k },       [IQ4_XS] = { 128, 8, row_iq4_xs },
        [IQ1_S] = { 32, 18, row_iq1_s },     [IQ1_M] = { 32, 24, row_iq1_m },
        [IQ2_XXS] = { 32, 34, row_iq2_xxs }, [IQ2_XS] = { 64, 10, row_iq2_xs },
        [IQ2_S] = { 32, 50, row_iq2_s },     [IQ3_XXS] = { 64, 34, row_iq3_xxs },
        [IQ3_S] = { 64, 46, row_iq3_s },     [TQ1_0] = { 52, 2, row_tq1_0 },
        [TQ2_0] = { 64, 2, row_tq2_0 },      [NVFP4] = { 128, 16, row_nvfp4 },
        [Q1_0] = { 32, 4, row_q1_0 },        [Q2_0] = { 64, 8, row_q2_0 },
    };
    return (uint32_t)type < DTYPE_COUNT && kinds[type].quant_bits ? &kinds[type] : NULL;
}

bool pack_supported(enum dtype type) { return pack_kind_of(type) != NULL; }

uint64_t pack_row_bytes(enum dtype type, uint32_t n_in)
{
    const struct pack_kind *k = pack_kind_of(type);
    HLM_ASSERT(k);
    uint64_t bits = (uint64_t)div_up(n_in, QK) * (k->quant_bits + k->aux_bits);
    return align_up((bits + 7) / 8 + (type == NVFP4 ? sizeof(float) : 0), 16);
}

void pack_row(enum dtype type, const void *src, uint32_t n_in, void *dst)
{
    const struct pack_kind *k = pack_kind_of(type);
    HLM_ASSERT(k);
    uint32_t n_block = div_up(n_in, QK);
    memset(dst, 0, pack_row_bytes(type, n_in));
    if (!k->row)
        memcpy(dst, src, (uint64_t)n_in * (k->quant_bits / 8 / QK));
    else
        k->row(src, n_block, dst, (uint8_t *)dst + (uint64_t)n_block * k->quant_bits / 8);
    pack_scale(type, n_in, 1, dst);
}

void pack_scale(enum dtype type, uint32_t n_in, float scale, void *row)
{
    if (type == NVFP4) /* after 16 bytes of quants and two scales per block */
        memcpy((uint8_t *)row + 18ull * div_up(n_in, QK), &scale, sizeof scale);
    else
        HLM_ASSERT(scale == 1);
}
