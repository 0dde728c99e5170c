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

const float NL[16] = float[](-127, -104, -83, -65, -49, -35, -22, -10,
                             1, 13, 25, 38, 53, 69, 89, 113);
const float FP4[16] = float[](0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

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

// A block of 32 weights as quants and what turns them into weights: weight i of the lower half
// is d.x q + m, of the upper half d.y q + m. A product takes the scales once a block instead of
// once a weight.
struct quants { vec4 q[8]; vec2 d; float m; };

const bool HAS_MIN = W_TYPE == T_Q4_0 || W_TYPE == T_Q4_1 || W_TYPE == T_Q5_0 ||
                     W_TYPE == T_Q5_1 || W_TYPE == T_Q4_K || W_TYPE == T_Q5_K;

// Block b (of n_block) of the row that starts at 16-byte word `row`; q[i] = elements 4i .. 4i+3.
quants weight_quants(uint row, uint n_block, uint b)
{
    quants w;
    w.d = vec2(1.0);
    w.m = 0.0;
    if (W_TYPE == T_F32) {
        [[unroll]] for (uint i = 0; i < 8; i++)
            w.q[i] = uintBitsToFloat(w_quad[row + 8u * b + i]);
    } else if (W_TYPE == T_F16 || W_TYPE == T_BF16) {
        [[unroll]] for (uint i = 0; i < 4; i++) {
            uvec4 h = w_quad[row + 4u * b + i];
            if (W_TYPE == T_F16) {
                w.q[2 * i] = vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y));
                w.q[2 * i + 1] = vec4(unpackHalf2x16(h.z), unpackHalf2x16(h.w));
            } else {
                w.q[2 * i] = uintBitsToFloat(uvec4(h.x << 16, h.x & 0xffff0000u,
                                                   h.y << 16, h.y & 0xffff0000u));
                w.q[2 * i + 1] = uintBitsToFloat(uvec4(h.z << 16, h.z & 0xffff0000u,
                                                       h.w << 16, h.w & 0xffff0000u));
            }
        }
    } else if (W_TYPE == T_Q8_0) {
        uvec4 q0 = w_quad[row + 2u * b], q1 = w_quad[row + 2u * b + 1u];
        w.d = vec2(half_at(4u * row + 8u * n_block, b));
        [[unroll]] for (uint i = 0; i < 4; i++) {
            w.q[i] = s8x4(q0[i]);
            w.q[4 + i] = s8x4(q1[i]);
        }
    } else {
        // What is left has 4-bit quants: byte i of the block's 16 holds element i (low) and element
        // 16 + i (high).
        uvec4 q = w_quad[row + b];
        uint aux = 4u * (row + n_block);
        [[unroll]] for (uint i = 0; i < 4; i++) {
            w.q[i] = nib4(q[i]);
            w.q[4 + i] = nib4(q[i] >> 4);
        }
        if (W_TYPE == T_Q4_0) {
            w.d = vec2(half_at(aux, b));
            w.m = -8.0 * w.d.x;
        } else if (W_TYPE == T_Q4_1) {
            vec2 dm = unpackHalf2x16(w_word[aux + b]);
            w.d = dm.xx;
            w.m = dm.y;
        } else if (W_TYPE == T_Q5_0 || W_TYPE == T_Q5_1) {
            uint qh = w_word[aux + b];
            [[unroll]] for (uint i = 0; i < 8; i++)
                w.q[i] += 16.0 * bit4(qh, i);
            if (W_TYPE == T_Q5_0) {
                w.d = vec2(half_at(aux + n_block, b));
                w.m = -16.0 * w.d.x;
            } else {
                vec2 dm = unpackHalf2x16(w_word[aux + n_block + b]);
                w.d = dm.xx;
                w.m = dm.y;
            }
        } else if (W_TYPE == T_IQ4_NL) {
            w.d = vec2(half_at(aux, b));
            [[unroll]] for (uint i = 0; i < 8; i++)
                w.q[i] = vec4(NL[uint(w.q[i].x)], NL[uint(w.q[i].y)],
                              NL[uint(w.q[i].z)], NL[uint(w.q[i].w)]);
        } else if (W_TYPE == T_MXFP4) {
            uint e = byte_at(aux, b);       // 2^(e - 128); the two smallest are denormal
            w.d = vec2(uintBitsToFloat(e < 2u ? 0x00200000u << e : (e - 1u) << 23));
            [[unroll]] for (uint i = 0; i < 8; i++)
                w.q[i] = vec4(FP4[uint(w.q[i].x)], FP4[uint(w.q[i].y)],
                              FP4[uint(w.q[i].z)], FP4[uint(w.q[i].w)]);
        } else if (W_TYPE == T_Q4_K || W_TYPE == T_Q5_K) {
            vec2 dm = k_scale(w_quad[row + n_block + b / 8u], b & 7u);
            w.d = dm.xx;
            w.m = -dm.y;
            if (W_TYPE == T_Q5_K) {
                uint qh = w_word[aux + n_block / 2u + b];
                [[unroll]] for (uint i = 0; i < 8; i++)
                    w.q[i] += 16.0 * bit4(qh, i);
            }
        } else if (W_TYPE == T_Q6_K) {
            // two words of high bits, two 8-bit scales in half a word, one half of d
            // for eight blocks
            uint h0 = w_word[aux + 2u * b], h1 = w_word[aux + 2u * b + 1u];
            uint at = aux + 2u * n_block;
            int sc = int((w_word[at + (b >> 1)] >> (16u * (b & 1u))) & 0xffffu);
            w.d = half_at(at + n_block / 2u, b / 8u) * vec2((sc << 24) >> 24, (sc << 16) >> 24);
            [[unroll]] for (uint i = 0; i < 8; i++) {
                uint h = (i < 4 ? h0 : h1) >> (8u * (i & 3u));
                w.q[i] += 16.0 * vec4(h & 3u, (h >> 2) & 3u, (h >> 4) & 3u, (h >> 6) & 3u) - 32.0;
            }
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
