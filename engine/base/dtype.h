/* dtype: the table of tensor types, numbered as in GGUF, and their conversions to f32.
 *
 * The formulas are in models/README.md, "Tensor encodings". This file is about types in files;
 * ops/pack.h has their layout on the device. */
#pragma once
#include "base/base.h"

#include "shaders/enums.h"

struct dtype_info {
    const char *name;                                        /* "Q4_K" */
    uint32_t block_len;                                      /* elements in a block */
    uint32_t block_bytes;                                    /* bytes of a block in a file */
    void (*to_f32)(const void *src, uint64_t n, float *dst); /* NULL: hlm cannot compute with it */
};

/* NULL for an id that GGUF never had, has retired, or does not use in files. A type with to_f32 ==
 * NULL is one that hlm can name and measure, but with which it cannot compute. */
const struct dtype_info *dtype_info(uint32_t id);

/* Each value is the result of its type's formula, rounded to f32 once. n must be a multiple of the
 * block length; src may have any alignment. Requires to_f32 != NULL. */
void dtype_to_f32(enum dtype type, const void *src, uint64_t n, float *dst);

/* The codebook of a type (dtype_codebooks.h): *n words. NULL and *n = 0 for a type without one. */
const uint32_t *dtype_codebook(enum dtype type, uint32_t *n);

/* The values of the 16 codes. Of IQ4_NL and IQ4_XS: in ascending order. Of MXFP4 and NVFP4:
 * doubled, with the negative ones last. */
extern const float iq4_value[16], fp4_value[16];

/* The bytes of n elements in a file. n must be a multiple of the block length. False: overflow. */
bool dtype_bytes(enum dtype type, uint64_t n, uint64_t *bytes);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* round to nearest even, overflow to infinity */
float bf16_to_f32(uint16_t h);
