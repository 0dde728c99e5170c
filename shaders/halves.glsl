// halves: the layout of rows of f16 operands (halves.comp): the numbers, two to a word; zeros up to
// a multiple of 64 numbers; a word with the factor for products of the row; and three unused words.
// To read rows, include this after defining HALVES_BINDING. A row is given by its first word.
uint halves_words(uint n) { return (n + 63) / 64 * 32; }

#ifdef HALVES_BINDING
layout(set = 0, binding = HALVES_BINDING) readonly restrict buffer Halves { uvec4 half_quad[]; };

// Numbers k .. k+7 of a row as stored, k a multiple of 8; k .. k+3 as f32, k a multiple of 4.
uvec4 half8(uint row, uint k) { return half_quad[row / 4 + k / 8]; }
vec4 half4(uint row, uint k)
{
    uvec4 q = half8(row, k);
    uvec2 w = (k & 4u) == 0u ? q.xy : q.zw;
    return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
}
float half_scale(uint row, uint n) { return uintBitsToFloat(half8(row, 2 * halves_words(n)).x); }
#endif
