/* dtype: the table of tensor types as GGUF numbers them, and exact conversions to f32.
 *
 * Formulas: GGUF's quantised block formats, restated in models/README.md, "Tensor encodings". This
 * file knows bytes in files only; how a type lies on the device is pack.h. */
#pragma once
#include "base/base.h"

#include "shaders/enums.h"

struct dtype_info {
    const char *name;                                        /* "Q4_K" */
    uint32_t block_len;                                      /* elements in a block */
    uint32_t block_bytes;                                    /* bytes of a block in a file */
    void (*to_f32)(const void *src, uint64_t n, float *dst); /* NULL: hlm cannot compute with it */
};

/* NULL for an id that GGUF never had, has retired or keeps out of files. Types that hlm knows by
 * size but cannot compute with have to_f32 == NULL, so that a refusal can name them. */
const struct dtype_info *dtype_info(uint32_t id);

/* Exact: each value is the formula of its type, rounded to f32 once. n must be a multiple of the
 * block length, src may have any alignment. Requires to_f32 != NULL. */
void dtype_to_f32(enum dtype type, const void *src, uint64_t n, float *dst);

/* The codebook that a type's numbers point into (dtype_codebooks.h): n words; NULL, and n = 0, for
 * types that have none. */
const uint32_t *dtype_codebook(enum dtype type, uint32_t *n);

/* What the 16 codes of IQ4_NL and IQ4_XS mean, sorted; those of MXFP4 and NVFP4, doubled, the
 * negative ones behind. */
extern const float iq4_value[16], fp4_value[16];

/* Bytes of n elements in a file; n must be a multiple of the block length. false on overflow. */
bool dtype_bytes(enum dtype type, uint64_t n, uint64_t *bytes);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* round to nearest even, overflow to infinity */
float bf16_to_f32(uint16_t h);
