/* pack: how weight rows lie on the device. shaders/weight.glsl reads exactly what this writes.
 *
 * A GGUF block mixes quants and scales at odd offsets; loads on a GPU want 16 aligned bytes. A
 * packed row is whole 16-byte words: first the quants of all its 32-element blocks, then scales,
 * minima and high bits, as the file has them, only moved. n_in is rounded up to a multiple of 32
 * with zeros. */
#pragma once
#include "base/dtype.h"

/* Can kernels compute with this type? */
bool pack_supported(enum dtype type);
/* Bytes of one packed row, a multiple of 16. type must be supported. */
uint64_t pack_row_bytes(enum dtype type, uint32_t n_in);
/* Packs one row of the file's n_in elements (n_in a multiple of the type's block length) to dst. */
void pack_row(enum dtype type, const void *src, uint32_t n_in, void *dst);
/* Multiplies a packed row by a number that stands beside the matrix in the file; scale must be 1
 * unless the type is NVFP4, whose rows have room for it. */
void pack_scale(enum dtype type, uint32_t n_in, float scale, void *row);
