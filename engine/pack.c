/* pack: see pack.h. Each function below is the mirror of one branch of shaders/weight.glsl. */
#include "pack.h"

#include <string.h>

enum { QK = 32, SUPER = 256 };

/* Bytes of quants and of everything else of one 32-element block, and the packer of a whole row.
 * aux_bits: K-quants share bytes between blocks, so it is counted per block in bits. */
struct pack_kind {
    uint32_t quant_bytes, aux_bits;
    void (*row)(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux);
};

/* The 16 bytes of one half of a pair of K-quant blocks: 32 nibbles that GGUF keeps in the low (or
 * high) halves of 32 bytes, brought to "element i low, element 16 + i high" of 16 bytes. */
static void split_nibbles(const uint8_t *src, bool high, uint8_t *dst)
{
    for (int i = 0; i < 16; i++) {
        uint32_t a = high ? src[i] >> 4 : src[i] & 15u;
        uint32_t b = high ? src[16 + i] >> 4 : src[16 + i] & 15u;
        dst[i] = (uint8_t)(a | b << 4);
    }
}

/* A 32-element block at offset `at` of `size` bytes: quants from q_at, and up to two fields
 * behind them. */
static void row_q8_0(const uint8_t *src, uint32_t n_block, uint8_t *quant, uint8_t *aux)
{
    for (uint32_t b = 0; b < n_block; b++, src += 34) {
        memcpy(aux + 2 * b, src, 2);
        memcpy(quant + 32 * b, src + 2, 32);
    }
}

/* and IQ4_NL */
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
            memcpy(aux + 2 * b, s, 16);                         /* d, dmin, 12 bytes of scales */
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
        uint8_t *high = aux + 2 * n_block + 4 * b;  /* bit g of qh[l], gathered: 32 bits a block */
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

static const struct pack_kind *kind_of(enum dtype type)
{
    static const struct pack_kind kinds[DTYPE_COUNT] = {
        [F32] = { 128, 0, NULL },        [F16] = { 64, 0, NULL },
        [BF16] = { 64, 0, NULL },        [Q8_0] = { 32, 16, row_q8_0 },
        [Q4_0] = { 16, 16, row_q4_0 },   [Q4_1] = { 16, 32, row_q4_1 },
        [Q5_0] = { 16, 48, row_q5_0 },   [Q5_1] = { 16, 64, row_q5_1 },
        [IQ4_NL] = { 16, 16, row_q4_0 }, [MXFP4] = { 16, 8, row_mxfp4 },
        [Q4_K] = { 16, 16, row_q4_k },   [Q5_K] = { 16, 48, row_q5_k },
        [Q6_K] = { 16, 82, row_q6_k },
    };
    return (uint32_t)type < DTYPE_COUNT && kinds[type].quant_bytes ? &kinds[type] : NULL;
}

bool pack_supported(enum dtype type) { return kind_of(type) != NULL; }

uint64_t pack_row_bytes(enum dtype type, uint32_t n_in)
{
    const struct pack_kind *k = kind_of(type);
    HLM_ASSERT(k);
    uint64_t n_block = div_up(n_in, QK);
    return n_block * k->quant_bytes + align_up((n_block * k->aux_bits + 7) / 8, 16);
}

void pack_row(enum dtype type, const void *src, uint32_t n_in, void *dst)
{
    const struct pack_kind *k = kind_of(type);
    HLM_ASSERT(k);
    uint32_t n_block = div_up(n_in, QK);
    memset(dst, 0, pack_row_bytes(type, n_in));
    if (!k->row)
        memcpy(dst, src, (uint64_t)n_in * (k->quant_bytes / QK));
    else
        k->row(src, n_block, dst, (uint8_t *)dst + (uint64_t)n_block * k->quant_bytes);
}
