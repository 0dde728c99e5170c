/* quant: quantises numbers to GGUF's blocks, the reverse of dtype.h, for the types that a merged
 * file may have: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4.
 *
 * Scales are found by a search for the least squared error. The same input gives the same bytes on
 * every machine. */
#pragma once
#include "base/dtype.h"

bool quant_has(enum dtype type);

/* Writes n numbers, whole blocks, to dst. old is NULL, or the blocks of nearly the same numbers in
 * the same type. An old block that still represents src is kept byte for byte; otherwise its scales
 * are kept if they cause no larger error than new ones. False if a number is not finite or too
 * large for the type; the content of dst is then undefined. Requires quant_has. */
bool quant_from_f32(enum dtype type, const float *src, uint64_t n, const void *old, void *dst);
