/* quant: numbers to GGUF's blocks, the other way of dtype.h, for those types that a merged file
 * needs: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4.
 *
 * Scales come from a least-squares search over plain squared error; the same input gives the same
 * bytes everywhere. */
#pragma once
#include "base/dtype.h"

bool quant_has(enum dtype type);

/* n numbers, whole blocks, into dst. old, where it is not NULL, are the blocks of this same type
 * that src is a small change of: one that still says what src says is kept to the byte, and else
 * its scales stay where they err no more than new ones. False: a number is not finite or too large
 * for the type, and dst holds anything. Requires quant_has. */
bool quant_from_f32(enum dtype type, const float *src, uint64_t n, const void *old, void *dst);
