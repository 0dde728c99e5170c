// weight: the layout of packed weights, which no other shader knows. A matrix is rows of 16-byte
// words. A row has the quants of its 32-element blocks, then what belongs to them (scales, minima,
// high bits). engine/ops/pack.c writes what this reads, with the types in the same order. n_in is
// rounded up to blocks with zeros.
//
// Include after defining WEIGHT_BINDING and CODEBOOK_BINDING. Some types have a codebook
// (engine/base/dtype_codebooks.h); for the others any buffer may be bound there. W_TYPE is GGUF's
// type id, a constant that is folded when the pipeline is made.

layout(constant_id = SPEC_w_type) const uint W_TYPE = 0;

layout(set = 0, binding = WEIGHT_BINDING) readonly restrict buffer Weight4 { uvec4 w_quad[]; };
layout(set = 0, binding = WEIGHT_BINDING) readonly restrict buffer Weight1 { uint w_word[]; };
layout(set = 0, binding = CODEBOOK_BINDING) readonly restrict buffer Codebook
{
    uint codebook_word[];
};

// Two tables of sixteen signed bytes: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113,
// and E2M1 doubled, 0 1 2 3 4 6 8 12 and their negatives. They are words, because a table of floats
// would be put into memory.
const uvec4 NL = uvec4(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
const uvec4 FP4 = uvec4(0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);

float entry(uvec4 table, uint i)
{
    uint word = i < 8u ? (i < 4u ? table.x : table.y) : (i < 12u ? table.z : table.w);
    return float(int(word << (24u - 8u * (i & 3u))) >> 24);
}

// Whole bytes, which GPUs turn into floats in one instruction.
vec4 nib4(uint v)
{
    v &= 0x0f0f0f0fu;
    return vec4(v & 255u, (v >> 8) & 255u, (v >> 16) & 255u, v >> 24);
}
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
// f16 number i of a row of them that begins at word `at`
float half_at(uint at, uint i)
{
    vec2 h = unpackHalf2x16(w_word[at + (i >> 1)]);
    return (i & 1u) == 0u ? h.x : h.y;
}
uint byte_at(uint at, uint i) { return (w_word[at + (i >> 2)] >> (8u * (i & 3u))) & 255u; }
uint nibble_at(uint at, uint i) { return (w_word[at + (i >> 3)] >> (4u * (i & 7u))) & 15u; }
uint short_at(uint at, uint i) { return (w_word[at + (i >> 1)] >> (16u * (i & 1u))) & 0xffffu; }
// the four 2-bit numbers of the lowest byte
vec4 crumb4(uint v) { return vec4(v & 3u, (v >> 2) & 3u, (v >> 4) & 3u, (v >> 6) & 3u); }
// two 4-bit numbers, the low bits first
vec2 nib2(uint v) { return vec2(v & 15u, (v >> 4) & 15u); }

// Half the value of an unsigned E4M3; 0x7f is 0 (models/README.md, "Tensor encodings").
float half_e4m3(uint v)
{
    uint e = (v >> 3) & 15u, m = v & 7u;
    if (v == 0x7fu)
        return 0.0;
    return e == 0u ? float(m) * 0.0009765625 : uintBitsToFloat(((e + 119u) << 23) | (m << 20));
}

// Scale and minimum of sub-block g of a K-quant: 12 bytes of 6-bit numbers in three words
// (models/README.md, "Tensor encodings").
vec2 k_scale(uvec4 head, uint g)
{
    uint sh = 8u * (g & 3u), low_d = head.y >> sh, low_m = head.z >> sh, high = head.w >> sh;
    bool lower = g < 4u;
    uint s = lower ? low_d & 63u : (high & 15u) | (low_d & 0xc0u) >> 2;
    uint m = lower ? low_m & 63u : (high >> 4 & 15u) | (low_m & 0xc0u) >> 2;
    return unpackHalf2x16(head.x) * vec2(s, m);
}

// A weight is a quant times a scale, plus a minimum in types that have one. In a block of 32 the
// lower half is d.x q + m.x and the upper half d.y q + m.y. A product uses the minimum once per
// block, or once per half where they differ.
struct scales { vec2 d, m; };

const bool MIN_HALVES = W_TYPE == Q2_K;
const bool HAS_MIN = W_TYPE == Q4_0 || W_TYPE == Q4_1 || W_TYPE == Q5_0 ||
                     W_TYPE == Q5_1 || W_TYPE == Q4_K || W_TYPE == Q5_K || MIN_HALVES;

// Types whose quants are indices of points with eight coordinates, and with four.
const bool CODEBOOK_8 = W_TYPE == IQ1_S || W_TYPE == IQ1_M || W_TYPE == IQ2_XXS ||
                    W_TYPE == IQ2_XS || W_TYPE == IQ2_S;
const bool CODEBOOK_4 = W_TYPE == IQ3_XXS || W_TYPE == IQ3_S;

// The number of 32-bit words of quants in a block. Types with four words: byte i of 16 has element
// i in its low and element 16 + i in its high nibble. With two words: codes of 2 bits one after the
// other, or low bits of the indices of points. With one word: single bits, or low bits of indices.
// Only TQ1_0 differs: it has 13 words for eight blocks.
const uint QUANT_WORDS = W_TYPE == F32 ? 32 : W_TYPE == F16 || W_TYPE == BF16 ? 16 :
                         W_TYPE == Q8_0 ? 8 :
                         W_TYPE == Q2_K || W_TYPE == Q3_K || W_TYPE == TQ2_0 ||
                         W_TYPE == Q2_0 || W_TYPE == IQ2_XS || CODEBOOK_4 ? 2 :
                         W_TYPE == Q1_0 || CODEBOOK_8 ? 1 : 4;

// The first word after the row's quants.
uint aux_of(uint row, uint n_block)
{
    return 4u * row + (W_TYPE == TQ1_0 ? 13u * (n_block / 8u) : QUANT_WORDS * n_block);
}

scales weight_scales(uint row, uint n_block, uint b)
{
    uint aux = aux_of(row, n_block);
    scales s;
    s.d = vec2(1.0);
    s.m = vec2(0.0);
    if (W_TYPE == Q8_0 || W_TYPE == IQ4_NL) {
        s.d = vec2(half_at(aux, b));
    } else if (W_TYPE == Q4_0) {
        s.d = vec2(half_at(aux, b));
        s.m = -8.0 * s.d;
    } else if (W_TYPE == Q5_0) {
        s.d = vec2(half_at(aux + n_block, b));
        s.m = -16.0 * s.d;
    } else if (W_TYPE == Q4_1 || W_TYPE == Q5_1) {
        vec2 dm = unpackHalf2x16(w_word[aux + (W_TYPE == Q5_1 ? n_block : 0u) + b]);
        s.d = dm.xx;
        s.m = dm.yy;
    } else if (W_TYPE == MXFP4) {
        uint e = byte_at(aux, b);       // 2^(e - 128); the two smallest are denormal
        s.d = vec2(uintBitsToFloat(e < 2u ? 0x00200000u << e : (e - 1u) << 23));
    } else if (W_TYPE == Q4_K || W_TYPE == Q5_K) {
        vec2 dm = k_scale(w_quad[aux / 4u + b / 8u], b & 7u);
        s.d = dm.xx;
        s.m = -dm.yy;
    } else if (W_TYPE == Q6_K) {
        // after two words of high bits for each block: two 8-bit scales for each block, then d as
        // f16 for each eight blocks
        uint at = aux + 2u * n_block;
        int sc = int(short_at(at, b));
        s.d = half_at(at + n_block / 2u, b / 8u) * vec2((sc << 24) >> 24, (sc << 16) >> 24);
    } else if (W_TYPE == Q2_K) {
        uint sc = short_at(aux, b);
        vec2 dm = unpackHalf2x16(w_word[aux + n_block / 2u + b / 8u]);
        s.d = dm.x * vec2(sc & 15u, (sc >> 8) & 15u);
        s.m = -dm.y * vec2((sc >> 4) & 15u, sc >> 12);
    } else if (W_TYPE == Q3_K) {
        uint at = aux + n_block, top = nibble_at(at + n_block / 4u, b);
        vec2 sc = nib2(byte_at(at, b)) + 16.0 * vec2(top & 3u, top >> 2) - 32.0;
        s.d = half_at(at + n_block / 4u + n_block / 8u, b / 8u) * sc;
    } else if (W_TYPE == IQ4_XS) {
        uint at = aux + 2u * (b / 8u), g = b & 7u, head = w_word[at];
        uint sc = ((w_word[at + 1u] >> (4u * g)) & 15u) | (((head >> (16u + 2u * g)) & 3u) << 4);
        s.d = vec2(unpackHalf2x16(head).x * float(int(sc) - 32));
    } else if (W_TYPE == IQ2_XXS || W_TYPE == IQ3_XXS) {
        float half_scale = 0.5 * float(w_word[aux + b] >> 28) + 0.25;
        if (W_TYPE == IQ2_XXS)
            half_scale *= 0.5;
        s.d = vec2(half_at(aux + n_block, b / 8u) * half_scale);
    } else if (W_TYPE == IQ2_XS || W_TYPE == IQ2_S) {
        uint at = W_TYPE == IQ2_XS ? aux : aux + n_block + n_block / 4u;
        s.d = half_at(at + n_block / 4u, b / 8u) * (0.25 * nib2(byte_at(at, b)) + 0.125);
    } else if (W_TYPE == IQ3_S) {
        uint at = aux + n_block + n_block / 4u;
        s.d = vec2(half_at(at + n_block / 8u, b / 8u) * float(2u * nibble_at(at, b) + 1u));
    } else if (W_TYPE == IQ1_S) {
        uint sc = (short_at(aux, b) >> 12) & 7u;
        s.d = vec2(half_at(aux + n_block / 2u, b / 8u) * float(2u * sc + 1u));
    } else if (W_TYPE == IQ1_M) {
        // two words for eight blocks; the top nibbles of their four 16-bit halves are d
        uint at = aux + n_block / 2u + 2u * (b / 8u), lo = w_word[at], hi = w_word[at + 1u];
        uint d = ((lo >> 12) & 15u) | ((lo >> 24) & 0xf0u) | ((hi >> 4) & 0xf00u) |
                 ((hi >> 16) & 0xf000u);
        uint sc = ((b & 4u) == 0u ? lo : hi) >> (8u * (b & 2u) + 6u * (b & 1u));
        s.d = unpackHalf2x16(d).x * vec2(2u * (sc & 7u) + 1u, 2u * ((sc >> 3) & 7u) + 1u);
    } else if (W_TYPE == TQ1_0 || W_TYPE == TQ2_0) {
        s.d = vec2(half_at(aux, b / 8u));
    } else if (W_TYPE == NVFP4) {
        uint sc = short_at(aux, b);     // after all of these comes the scale of the row
        s.d = vec2(half_e4m3(sc & 255u), half_e4m3(sc >> 8)) *
              uintBitsToFloat(w_word[aux + n_block / 2u]);
    } else if (W_TYPE == Q1_0 || W_TYPE == Q2_0) {
        s.d = vec2(half_at(aux, W_TYPE == Q1_0 ? b / 4u : b / 2u));
    }
    return s;
}

// The high bits of a block's quants, and signs.
uvec2 weight_high(uint row, uint n_block, uint b)
{
    uint aux = aux_of(row, n_block);
    if (W_TYPE == Q5_0 || W_TYPE == Q5_1 || W_TYPE == Q3_K || W_TYPE == IQ2_XXS ||
        W_TYPE == IQ3_XXS)
        return uvec2(w_word[aux + b], 0u);
    if (W_TYPE == Q5_K)
        return uvec2(w_word[aux + n_block / 2u + b], 0u);
    if (W_TYPE == Q6_K)
        return uvec2(w_word[aux + 2u * b], w_word[aux + 2u * b + 1u]);
    if (W_TYPE == IQ2_S || W_TYPE == IQ3_S)
        return uvec2(w_word[aux + b], byte_at(aux + n_block, b));
    if (W_TYPE == IQ1_S || W_TYPE == IQ1_M)
        return uvec2(short_at(aux, b), 0u);
    return uvec2(0u);
}

// Signs as factors, from the eight bits for the coordinates of a point.
vec4 sign4(uint eight, uint g) { return 1.0 - 2.0 * bit4(eight, g & 1u); }
// Eight signs from a 7-bit code: the last makes the number of minus signs even.
uint even_signs(uint code)
{
    code &= 127u;
    return code | ((uint(bitCount(code)) & 1u) << 7);
}

// Quants 4g .. 4g+3 of the IQ types. code: the word with the low bits of the point's index.
vec4 point_quad(uint code, uvec2 high, uint g)
{
    uint k = g >> 1, i, point;
    if (CODEBOOK_4)
        i = (code >> (8u * (g & 3u))) & 255u;
    else if (W_TYPE == IQ2_XS)
        i = (code >> (16u * (k & 1u))) & 511u;
    else
        i = (code >> (8u * k)) & 255u;
    if (W_TYPE == IQ3_S)
        i |= ((high.y >> g) & 1u) << 8;
    if (W_TYPE == IQ2_S)
        i |= ((high.y >> (2u * k)) & 3u) << 8;
    if (W_TYPE == IQ1_S)
        i |= ((high.x >> (3u * k)) & 7u) << 8;
    if (W_TYPE == IQ1_M)
        i |= ((high.x >> (4u * k)) & 7u) << 8;
    point = codebook_word[i >> 1] >> (16u * (i & 1u));
    if (CODEBOOK_4) {
        vec4 c = vec4(point & 7u, (point >> 3) & 7u, (point >> 6) & 7u, (point >> 9) & 7u);
        if (W_TYPE == IQ3_S)
            return (2.0 * c + 1.0) * sign4(high.x >> (8u * k), g);
        c = 8.0 * c + 4.0 + 2.0 * max(c - 6.0, 0.0);    // 4 12 .. 52 62
        return c * sign4(even_signs(high.x >> (7u * k)), g);
    }
    vec4 c = crumb4(point >> (8u * (g & 1u)));
    if (W_TYPE == IQ1_S || W_TYPE == IQ1_M) {
        uint minus = W_TYPE == IQ1_S ? high.x >> 15 : (high.x >> (4u * k + 3u)) & 1u;
        return c - 0.875 - 0.25 * float(minus);
    }
    c = c * (0.5 * c + 16.5) + 8.0;                     // 8 25 43
    if (W_TYPE == IQ2_S)
        return c * sign4(high.x >> (8u * k), g);
    if (W_TYPE == IQ2_XS)
        return c * sign4(even_signs(code >> (16u * (k & 1u) + 9u)), g);
    return c * sign4(even_signs(high.x >> (7u * k)), g);
}

// Digit k of four bytes, each a fraction in base 3; less 1.
vec4 trit4(uint v, uint k)
{
    uint power = k < 4u ? (0x1b090301u >> (8u * k)) & 255u : 81u;
    uint even = (v & 0xff00ffu) * power, odd = ((v >> 8) & 0xff00ffu) * power;
    even = ((even & 0xff00ffu) * 3u) >> 8;
    odd = ((odd & 0xff00ffu) * 3u) >> 8;
    return vec4(even & 3u, odd & 3u, (even >> 16) & 3u, (odd >> 16) & 3u) - 1.0;
}

// The word of a row of TQ1_0 with quants 4g .. 4g+3 of block b, and the index of their digits: 8
// words have 160 elements, 4 words the next 80, one word the last 16.
uvec2 trit_place(uint b, uint g)
{
    uint i = b & 7u, n = 8u * i + g - 40u, at = 13u * (b / 8u);
    if (i < 5u)
        return uvec2(at + g, i);
    return n < 20u ? uvec2(at + 8u + (n & 3u), n >> 2) : uvec2(at + 12u, n - 20u);
}

// Quants 4g .. 4g+3 of a block from their words and their high bits. hi: for 16-bit types the
// second word, for TQ1_0 the index of the digit. Each call is copied inline before the type is
// folded, so fewer calls make a shader start sooner.
vec4 quad_of(uint lo, uint hi, uvec2 high, uint g)
{
    if (W_TYPE == TQ1_0)
        return trit4(lo, hi);
    if (W_TYPE == F16)
        return vec4(unpackHalf2x16(lo), unpackHalf2x16(hi));
    if (W_TYPE == BF16)
        return uintBitsToFloat(uvec4(lo << 16, lo & 0xffff0000u, hi << 16, hi & 0xffff0000u));
    if (W_TYPE == Q8_0)
        return s8x4(lo);
    if (CODEBOOK_8 || CODEBOOK_4)
        return point_quad(lo, high, g);
    if (W_TYPE == Q1_0)
        return 2.0 * bit4(lo, g) - 1.0;
    if (QUANT_WORDS == 2) {
        vec4 c = crumb4(lo >> (8u * (g & 3u)));
        if (W_TYPE == Q3_K)
            return c + 4.0 * bit4(high.x, g) - 4.0;
        if (W_TYPE == TQ2_0 || W_TYPE == Q2_0)
            return c - 1.0;
        return c;
    }
    vec4 q = nib4(lo >> (g < 4u ? 0u : 4u));
    if (W_TYPE == Q5_0 || W_TYPE == Q5_1 || W_TYPE == Q5_K)
        return q + 16.0 * bit4(high.x, g);
    if (W_TYPE == Q6_K)
        return q + 16.0 * crumb4((g < 4u ? high.x : high.y) >> (8u * (g & 3u))) - 32.0;
    // Two branches, because choosing between the tables would be a specialization-constant select
    // of a vector, which Mesa 22.3.6 gets wrong.
    uvec4 i = uvec4(q);
    if (W_TYPE == IQ4_NL || W_TYPE == IQ4_XS)
        return vec4(entry(NL, i.x), entry(NL, i.y), entry(NL, i.z), entry(NL, i.w));
    if (W_TYPE == MXFP4 || W_TYPE == NVFP4)
        return vec4(entry(FP4, i.x), entry(FP4, i.y), entry(FP4, i.z), entry(FP4, i.w));
    return q;
}

// Quants 4g .. 4g+3 of block b of the row that begins at 16-byte word `row`, read word by word: for
// loops over g that are not unrolled.
vec4 weight_quad(uint row, uvec2 high, uint b, uint g)
{
    if (W_TYPE == F32)
        return uintBitsToFloat(w_quad[row + 8u * b + g]);
    uint at = 4u * row + QUANT_WORDS * b, lo, hi = 0u;
    if (W_TYPE == TQ1_0) {
        uvec2 place = trit_place(b, g);
        lo = w_word[4u * row + place.x];
        hi = place.y;
    } else if (QUANT_WORDS == 16) {
        lo = w_word[at + 2u * g];
        hi = w_word[at + 2u * g + 1u];
    } else {
        lo = w_word[at + (QUANT_WORDS == 8 ? g : QUANT_WORDS == 4 ? g & 3u :
                          QUANT_WORDS == 2 ? g >> 2 : 0u)];
    }
    return quad_of(lo, hi, high, g);
}

// Weights 4g .. 4g+3 of a block, with the values of the file's format.
vec4 weight4(uint row, uint n_block, uint b, uint g)
{
    scales s = weight_scales(row, n_block, b);
    vec4 q = weight_quad(row, weight_high(row, n_block, b), b, g) * (g < 4u ? s.d.x : s.d.y);
    return HAS_MIN ? q + (g < 4u ? s.m.x : s.m.y) : q;
}

// Weights as f16 operands. An F32 weight is the sum of two operands, to keep its precision. Both
// are multiplied by a factor, so that the second is not below 2^-14, where a device may take it for
// zero.
const uint HALF_PARTS = W_TYPE == F32 ? 2 : 1;
const float HALF_FACTOR = W_TYPE == F32 ? 64.0 : 1.0;
uvec2 half_words(vec4 w) { return uvec2(packHalf2x16(w.xy), packHalf2x16(w.zw)); }
vec4 half_first(vec4 w)
{
    uvec2 h = half_words(w);
    return vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y));
}
vec4 half_operand(vec4 w)
{
    return HALF_PARTS == 1 ? w : clamp(HALF_FACTOR * w, vec4(-65504.0), vec4(65504.0));
}
// The sum of both parts.
vec4 half_sum(vec4 w)
{
    w = half_operand(w);
    vec4 first = half_first(w);
    return HALF_PARTS == 1 ? first : first + half_first(w - first);
}

// A whole block, read up to 16 bytes at a time.
struct quants { vec4 q[8]; vec2 d, m; };

quants weight_quants(uint row, uint n_block, uint b)
{
    quants w;
    scales s = weight_scales(row, n_block, b);
    uvec2 high = weight_high(row, n_block, b);
    uvec4 raw = uvec4(0u);
    w.d = s.d;
    w.m = s.m;
    [[unroll]] for (uint g = 0; g < 8; g++) {
        uint lo = 0u, hi = 0u;
        if (W_TYPE == F32) {
            w.q[g] = uintBitsToFloat(w_quad[row + 8u * b + g]);
            continue;
        }
        if (W_TYPE == TQ1_0) {
            uvec2 place = trit_place(b, g);
            lo = w_word[4u * row + place.x];
            hi = place.y;
        } else if (QUANT_WORDS == 16) {
            if (g % 2 == 0)
                raw = w_quad[row + 4u * b + g / 2];
            lo = g % 2 == 0 ? raw.x : raw.z;
            hi = g % 2 == 0 ? raw.y : raw.w;
        } else if (QUANT_WORDS >= 4) {
            if (g == 0 || (QUANT_WORDS == 8 && g == 4))
                raw = w_quad[row + (QUANT_WORDS == 8 ? 2u * b + g / 4 : b)];
            lo = raw[g % 4];
        } else if (g % 4 == 0 && (g == 0 || QUANT_WORDS == 2)) {
            raw.x = w_word[4u * row + QUANT_WORDS * b + g / 4];
            lo = raw.x;
        } else {
            lo = raw.x;
        }
        w.q[g] = quad_of(lo, hi, high, g);
    }
    return w;
}

// A block of weights, with the values of the file's format.
void weight_block(uint row, uint n_block, uint b, out vec4 w[8])
{
    quants u = weight_quants(row, n_block, b);
    [[unroll]] for (uint i = 0; i < 8; i++) {
        w[i] = u.q[i] * (i < 4 ? u.d.x : u.d.y);
        if (HAS_MIN)
            w[i] += i < 4 ? u.m.x : u.m.y;
    }
}

// What a block's minima add to its product. v_sum: the sums of the two halves of v.
float min_dot(vec2 m, vec2 v_sum)
{
    if (MIN_HALVES)
        return dot(m, v_sum);
    return HAS_MIN ? m.x * (v_sum.x + v_sum.y) : 0.0;
}

// k, but past the end of a row of n_in numbers the last four of them: what is multiplied by the
// zeros that pad a packed row may be any number, and no load has to wait for a branch.
uint clamp_in(uint k, uint n_in) { return min(k, (n_in - 1) & ~3u); }

// The sum of 32 weights times v[at .. at + 7]. v_sum: the sums of the lower and upper half of these
// elements, needed if HAS_MIN.
#define WEIGHT_DOT(w, v, at, v_sum) \
    (w.d.x * (dot(w.q[0], v[at]) + dot(w.q[1], v[at + 1]) + \
              dot(w.q[2], v[at + 2]) + dot(w.q[3], v[at + 3])) + \
     w.d.y * (dot(w.q[4], v[at + 4]) + dot(w.q[5], v[at + 5]) + \
              dot(w.q[6], v[at + 6]) + dot(w.q[7], v[at + 7])) + \
     min_dot(w.m, v_sum))
