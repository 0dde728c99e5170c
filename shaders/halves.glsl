// halves: how rows of f16 operands lie (halves.comp): numbers by twos in words, zeros up to a
// multiple of 64 numbers, then a word with what products of the row are multiplied by, and three
// that nobody reads. To read some, include after defining HALVES_BINDING; a row is where it starts,
// in words.
uint halves_words(uint n) { return (n + 63) / 64 * 32; }

#ifdef HALVES_BINDING
layout(set = 0, binding = HALVES_BINDING) readonly restrict buffer Halves { uvec4 half_quad[]; };

// Numbers k .. k+7 of a row as they lie, k a multiple of 8; k .. k+3 as f32, k a multiple of 4.
uvec4 half8(uint row, uint k) { return half_quad[row / 4 + k / 8]; }
vec4 half4(uint row, uint k)
{
    uvec4 q = half8(row, k);
    uvec2 w = (k & 4u) == 0u ? q.xy : q.zw;
    return vec4(unpackHalf2x16(w.x), unpackHalf2x16(w.y));
}
float half_scale(uint row, uint n) { return uintBitsToFloat(half8(row, 2 * halves_words(n)).x); }
#endif
