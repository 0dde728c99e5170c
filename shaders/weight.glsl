// weight: the only place that knows how packed weights lie. A matrix is rows of 16-byte words; a
// row is its 32-element blocks' quants, then what belongs to them (scales, minima, high bits);
// engine/pack.c writes what this reads, type by type in the same order. n_in is rounded up to
// blocks; padding is zero.
//
// Include after defining WEIGHT_BINDING. W_TYPE is GGUF's type id, folded when the
// pipeline is made.

layout(constant_id = 1) const uint W_TYPE = 0;

layout(set = 0, binding = WEIGHT_BINDING) readonly restrict buffer Weight4 { uvec4 w_quad[]; };
layout(set = 0, binding = WEIGHT_BINDING) readonly restrict buffer Weight1 { uint w_word[]; };

const uint T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q5_0 = 6, T_Q5_1 = 7, T_Q8_0 = 8,
           T_Q4_K = 12, T_Q5_K = 13, T_Q6_K = 14, T_IQ4_NL = 20, T_BF16 = 30, T_MXFP4 = 39;

// Sixteen signed bytes each: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, and E2M1
// doubled, 0 1 2 3 4 6 8 12 and their negatives. Bytes in words: a table of floats is memory.
const uvec4 NL = uvec4(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
const uvec4 FP4 = uvec4(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

float entry(uvec4 table, uint i)
{
    uint word = i < 8u ? (i < 4u ? table.x : table.y) : (i < 12u ? table.z : table.w);
    return float(int(word << (24u - 8u * (i & 3u))) >> 24);
}

vec4 nib4(uint v) { return vec4(v & 15u, (v >> 8) & 15u, (v >> 16) & 15u, (v >> 24) & 15u); }
vec4 s8x4(uint v)
{
    int i = int(v);
    return vec4((i << 24) >> 24, (i << 16) >> 24, (i << 8) >> 24, i >> 24);
}
// bits 4i .. 4i+3 of v as 0 or 1
vec4 bit4(uint v, uint i)
{
    v >>= 4u * i;
    return vec4(v & 1u, (v >> 1) & 1u, (v >> 2) & 1u, (v >> 3) & 1u);
}
// half number i of a row of halves that starts at word `at`
float half_at(uint at, uint i)
{
    vec2 h = unpackHalf2x16(w_word[at + (i >> 1)]);
    return (i & 1u) == 0u ? h.x : h.y;
}
uint byte_at(uint at, uint i) { return (w_word[at + (i >> 2)] >> (8u * (i & 3u))) & 255u; }

// Scale and minimum of sub-block g of a K-quant: 12 bytes of 6-bit numbers in three words
// (models.md 8).
vec2 k_scale(uvec4 head, uint g)
{
    uint s, m, i = g & 3u, sh = 8u * i;
    if (g < 4u) {
        s = (head.y >> sh) & 63u;
        m = (head.z >> sh) & 63u;
    } else {
        s = ((head.w >> sh) & 15u) | (((head.y >> sh) & 0xc0u) >> 2);
        m = ((head.w >> (sh + 4u)) & 15u) | (((head.z >> sh) & 0xc0u) >> 2);
    }
    return unpackHalf2x16(head.x) * vec2(s, m);
}

// A weight is a quant times a scale, plus, in types that have one, a minimum: of a block's 32,
// the lower half d.x q + m and the upper half d.y q + m. Products take both once a block.
struct scales { vec2 d; float m; };

const bool HAS_MIN = W_TYPE == T_Q4_0 || W_TYPE == T_Q4_1 || W_TYPE == T_Q5_0 ||
                     W_TYPE == T_Q5_1 || W_TYPE == T_Q4_K || W_TYPE == T_Q5_K;

// 32-bit words of quants in a block; in the types of four words, byte i of 16 holds element i
// (low half) and element 16 + i (high half).
const uint QUANT_WORDS = W_TYPE == T_F32 ? 32 : W_TYPE == T_F16 || W_TYPE == T_BF16 ? 16 :
                         W_TYPE == T_Q8_0 ? 8 : 4;

scales weight_scales(uint row, uint n_block, uint b)
{
    uint aux = 4u * row + QUANT_WORDS * n_block;    // the word behind the row's quants
    scales s;
    s.d = vec2(1.0);
    s.m = 0.0;
    if (W_TYPE == T_Q8_0 || W_TYPE == T_IQ4_NL) {
        s.d = vec2(half_at(aux, b));
    } else if (W_TYPE == T_Q4_0) {
        s.d = vec2(half_at(aux, b));
        s.m = -8.0 * s.d.x;
    } else if (W_TYPE == T_Q5_0) {
        s.d = vec2(half_at(aux + n_block, b));
        s.m = -16.0 * s.d.x;
    } else if (W_TYPE == T_Q4_1 || W_TYPE == T_Q5_1) {
        vec2 dm = unpackHalf2x16(w_word[aux + (W_TYPE == T_Q5_1 ? n_block : 0u) + b]);
        s.d = dm.xx;
        s.m = dm.y;
    } else if (W_TYPE == T_MXFP4) {
        uint e = byte_at(aux, b);       // 2^(e - 128); the two smallest are denormal
        s.d = vec2(uintBitsToFloat(e < 2u ? 0x00200000u << e : (e - 1u) << 23));
    } else if (W_TYPE == T_Q4_K || W_TYPE == T_Q5_K) {
        vec2 dm = k_scale(w_quad[aux / 4u + b / 8u], b & 7u);
        s.d = dm.xx;
        s.m = -dm.y;
    } else if (W_TYPE == T_Q6_K) {
        // behind two words of high bits a block: two 8-bit scales a block, a half of d for eight
        uint at = aux + 2u * n_block;
        int sc = int((w_word[at + (b >> 1)] >> (16u * (b & 1u))) & 0xffffu);
        s.d = half_at(at + n_block / 2u, b / 8u) * vec2((sc << 24) >> 24, (sc << 16) >> 24);
    }
    return s;
}

// High bits of a block's quants.
uvec2 weight_high(uint row, uint n_block, uint b)
{
    uint aux = 4u * row + QUANT_WORDS * n_block;
    if (W_TYPE == T_Q5_0 || W_TYPE == T_Q5_1)
        return uvec2(w_word[aux + b], 0u);
    if (W_TYPE == T_Q5_K)
        return uvec2(w_word[aux + n_block / 2u + b], 0u);
    if (W_TYPE == T_Q6_K)
        return uvec2(w_word[aux + 2u * b], w_word[aux + 2u * b + 1u]);
    return uvec2(0u);
}

// Quants 4g .. 4g+3 of a block from the words they lie in - `lo`, and for 16-bit types `hi` -
// and the high bits.
vec4 quad_of(uint lo, uint hi, uvec2 high, uint g)
{
    if (W_TYPE == T_F16)
        return vec4(unpackHalf2x16(lo), unpackHalf2x16(hi));
    if (W_TYPE == T_BF16)
        return uintBitsToFloat(uvec4(lo << 16, lo & 0xffff0000u, hi << 16, hi & 0xffff0000u));
    if (W_TYPE == T_Q8_0)
        return s8x4(lo);
    vec4 q = nib4(lo >> (g < 4u ? 0u : 4u));
    if (W_TYPE == T_Q5_0 || W_TYPE == T_Q5_1 || W_TYPE == T_Q5_K)
        return q + 16.0 * bit4(high.x, g);
    if (W_TYPE == T_Q6_K) {
        uint h = (g < 4u ? high.x : high.y) >> (8u * (g & 3u));
        return q + 16.0 * vec4(h & 3u, (h >> 2) & 3u, (h >> 4) & 3u, (h >> 6) & 3u) - 32.0;
    }
    // two branches, not a choice between the tables: that would be a specialization-constant select
    // of a vector, which Mesa 22.3.6 gets wrong
    uvec4 i = uvec4(q);
    if (W_TYPE == T_IQ4_NL)
        return vec4(entry(NL, i.x), entry(NL, i.y), entry(NL, i.z), entry(NL, i.w));
    if (W_TYPE == T_MXFP4)
        return vec4(entry(FP4, i.x), entry(FP4, i.y), entry(FP4, i.z), entry(FP4, i.w));
    return q;
}

// Quants 4g .. 4g+3 of block b of the row that starts at 16-byte word `row`, read word by word:
// for loops over g that are to stay loops.
vec4 weight_quad(uint row, uvec2 high, uint b, uint g)
{
    if (W_TYPE == T_F32)
        return uintBitsToFloat(w_quad[row + 8u * b + g]);
    uint at = 4u * row + QUANT_WORDS * b;
    if (QUANT_WORDS == 16)
        return quad_of(w_word[at + 2u * g], w_word[at + 2u * g + 1u], high, g);
    return quad_of(w_word[at + (QUANT_WORDS == 8 ? g : g & 3u)], 0u, high, g);
}

// A whole block, read 16 bytes at a time.
struct quants { vec4 q[8]; vec2 d; float m; };

quants weight_quants(uint row, uint n_block, uint b)
{
    quants w;
    scales s = weight_scales(row, n_block, b);
    uvec2 high = weight_high(row, n_block, b);
    uvec4 raw = uvec4(0u);
    w.d = s.d;
    w.m = s.m;
    [[unroll]] for (uint g = 0; g < 8; g++) {
        if (W_TYPE == T_F32) {
            w.q[g] = uintBitsToFloat(w_quad[row + 8u * b + g]);
        } else if (QUANT_WORDS == 16) {
            if (g % 2 == 0)
                raw = w_quad[row + 4u * b + g / 2];
            w.q[g] = g % 2 == 0 ? quad_of(raw.x, raw.y, high, g) : quad_of(raw.z, raw.w, high, g);
        } else {
            if (g == 0 || (QUANT_WORDS == 8 && g == 4))
                raw = w_quad[row + (QUANT_WORDS == 8 ? 2u * b + g / 4 : b)];
            w.q[g] = quad_of(raw[g % 4], 0u, high, g);
        }
    }
    return w;
}

// The weights themselves: exactly the values of the file's format.
void weight_block(uint row, uint n_block, uint b, out vec4 w[8])
{
    quants u = weight_quants(row, n_block, b);
    [[unroll]] for (uint i = 0; i < 8; i++)
        w[i] = HAS_MIN ? u.q[i] * (i < 4 ? u.d.x : u.d.y) + u.m : u.q[i] * (i < 4 ? u.d.x : u.d.y);
}

// Sum of 32 weights times v[at .. at + 7]; v_sum is the sum of those elements, needed
// where HAS_MIN.
#define WEIGHT_DOT(w, v, at, v_sum) \
    (w.d.x * (dot(w.q[0], v[at]) + dot(w.q[1], v[at + 1]) + \
              dot(w.q[2], v[at + 2]) + dot(w.q[3], v[at + 3])) + \
     w.d.y * (dot(w.q[4], v[at + 4]) + dot(w.q[5], v[at + 5]) + \
              dot(w.q[6], v[at + 6]) + dot(w.q[7], v[at + 7])) + \
     (HAS_MIN ? w.m * v_sum : 0.0))
