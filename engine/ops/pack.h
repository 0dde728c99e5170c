/* pack: the layout of weight rows on the device. shaders/weight.glsl reads what pack.c writes.
 *
 * A GGUF block mixes quants and scales at odd offsets, but a GPU is fastest when it loads 16
 * aligned bytes at once. A packed row consists of whole 16-byte words: first the quants of all its
 * 32-element blocks, then the scales, minima and high bits. The bits are those of the file in
 * another order. n_in is rounded up to a multiple of 32 with zeros. */
#pragma once
#include "base/dtype.h"

/* True if kernels can compute with the type. */
bool pack_supported(enum dtype type);
/* The bytes of a packed row, a multiple of 16. The type must be supported. */
uint64_t pack_row_bytes(enum dtype type, uint32_t n_in);
/* Packs one row of a file, n_in elements, to dst. n_in must be a multiple of the type's block
 * length. */
void pack_row(enum dtype type, const void *src, uint32_t n_in, void *dst);
/* Multiplies a packed row by the factor that a file has beside the matrix. scale must be 1 unless
 * the type is NVFP4, whose rows have room for it. */
void pack_scale(enum dtype type, uint32_t n_in, float scale, void *row);
