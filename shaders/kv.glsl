// kv: elements of the key and value cache, [kv_head][row][head_dim], four at a time. Include after
// defining the bindings K_BINDING and V_BINDING.
//
// Q8: a row has its quants, four to a word, then a scale for each 32 elements, two f16 to a word.
// The last block of a row may be shorter, and the last f16 may be unused.
layout(constant_id = SPEC_kv_type) const uint KV_TYPE = F32;  // enum dtype: F32, F16 or Q8_0
#ifdef KV_WRITE
#define KV_ACCESS
#else
#define KV_ACCESS readonly
#endif
layout(set = 0, binding = K_BINDING) KV_ACCESS buffer K4 { uvec4 k_f32[]; };
layout(set = 0, binding = K_BINDING) KV_ACCESS buffer K2 { uvec2 k_f16[]; };
layout(set = 0, binding = K_BINDING) KV_ACCESS buffer K1 { uint k_q8[]; };
layout(set = 0, binding = V_BINDING) KV_ACCESS buffer V4 { uvec4 v_f32[]; };
layout(set = 0, binding = V_BINDING) KV_ACCESS buffer V2 { uvec2 v_f16[]; };
layout(set = 0, binding = V_BINDING) KV_ACCESS buffer V1 { uint v_q8[]; };

// Where a row begins, in the units of loads of the type; `quads`: those of a row's elements.
uint kv_at(uint row, uint quads)
{
    return row * (KV_TYPE == Q8_0 ? quads + (quads + 15) / 16 : quads);
}

vec4 half4(uvec2 h) { return vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y)); }
// Four quants, with their scale from a word of two; i: the quad that they are.
vec4 quant4(uint q, uint d, uint i)
{
    ivec4 v = ivec4(q << 24, q << 16, q << 8, q) >> 24;
    vec2 scale = unpackHalf2x16(d);
    return vec4(v) * ((i & 8u) == 0 ? scale.x : scale.y);
}
// Quad i of the row of `quads` that begins at `at`.
vec4 load_k(uint at, uint i, uint quads)
{
    if (KV_TYPE == Q8_0)
        return quant4(k_q8[at + i], k_q8[at + quads + i / 16], i);
    if (KV_TYPE == F16)
        return half4(k_f16[at + i]);
    return uintBitsToFloat(k_f32[at + i]);
}
vec4 load_v(uint at, uint i, uint quads)
{
    if (KV_TYPE == Q8_0)
        return quant4(v_q8[at + i], v_q8[at + quads + i / 16], i);
    if (KV_TYPE == F16)
        return half4(v_f16[at + i]);
    return uintBitsToFloat(v_f32[at + i]);
}
#ifdef KV_WRITE
// The bits of the nearest f16, ties to even, also for small numbers: packHalf2x16 may truncate.
uvec4 half_bits(vec4 v)
{
    uvec4 u = floatBitsToUint(v) & 0x7fffffffu;
    uvec4 h = (u + 0xfffu + ((u >> 13) & 1u) - 0x38000000u) >> 13;
    uvec4 small = floatBitsToUint(abs(v) + 0.5) - 0x3f000000u;  // 0.5 has the last bit of small f16
    h = mix(min(h, uvec4(0x7c00)), small, lessThan(u, uvec4(0x38800000)));
    return h | (floatBitsToUint(v) >> 16 & 0x8000u);
}
uvec2 to_half4(vec4 v)
{
    uvec4 h = half_bits(v);
    return h.xz | h.yw << 16;
}
void store_k(uint at, uint i, vec4 v)
{
    if (KV_TYPE == F16)
        k_f16[at + i] = to_half4(v);
    else
        k_f32[at + i] = floatBitsToUint(v);
}
void store_v(uint at, uint i, vec4 v)
{
    if (KV_TYPE == F16)
        v_f16[at + i] = to_half4(v);
    else
        v_f32[at + i] = floatBitsToUint(v);
}

uint quant_word(vec4 v, float d)
{
    ivec4 q = ivec4(0);
    if (d > 0.0)
        q = ivec4(clamp(roundEven(v / d), -127.0, 127.0)) & 255;
    return uint(q.x | q.y << 8 | q.z << 16 | q.w << 24);
}

const uint MAX_HEAD = 512;
shared vec4 q8_row[KV_TYPE == Q8_0 ? MAX_HEAD / 4 : 1];
shared uint q8_scale[MAX_HEAD / 32 + 1];
// Stores the row that all lanes have written to q8_row.
void store_q8(bool is_v, uint at, uint quads)
{
    uint n_block = (quads + 7) / 8;
    barrier();
    for (uint b = lane(); b < n_block + 1; b += WG) {
        float top = 0.0;
        [[dont_unroll]] for (uint i = 8 * b; i < min(8 * b + 8, quads); i++) {
            vec4 a = abs(q8_row[i]);
            top = max(top, max(max(a.x, a.y), max(a.z, a.w)));
        }
        q8_scale[b] = half_bits(vec4(min(top / 127.0, 65504.0))).x;
    }
    barrier();
    for (uint i = lane(); i < quads + (n_block + 1) / 2; i += WG) {
        uint b = 2 * (i - quads), word;
        if (i < quads)
            word = quant_word(q8_row[i], unpackHalf2x16(q8_scale[i / 8]).x);
        else
            word = q8_scale[b] | q8_scale[b + 1] << 16;
        if (is_v)
            v_q8[at + i] = word;
        else
            k_q8[at + i] = word;
    }
}
#endif
