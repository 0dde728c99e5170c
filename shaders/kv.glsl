// kv: elements of the key and value cache, [kv_head][n_ctx][head_dim], four at a time; KV_F16 says
// what they are stored as. Include after defining the bindings K_BINDING and V_BINDING.
layout(constant_id = 1) const uint KV_F16 = 0;
#ifdef KV_WRITE
#define KV_ACCESS
#else
#define KV_ACCESS readonly
#endif
layout(set = 0, binding = K_BINDING) KV_ACCESS buffer K4 { uvec4 k_f32[]; };
layout(set = 0, binding = K_BINDING) KV_ACCESS buffer K2 { uvec2 k_f16[]; };
layout(set = 0, binding = V_BINDING) KV_ACCESS buffer V4 { uvec4 v_f32[]; };
layout(set = 0, binding = V_BINDING) KV_ACCESS buffer V2 { uvec2 v_f16[]; };

vec4 half4(uvec2 h) { return vec4(unpackHalf2x16(h.x), unpackHalf2x16(h.y)); }
vec4 load_k(uint quad) { return KV_F16 != 0 ? half4(k_f16[quad]) : uintBitsToFloat(k_f32[quad]); }
vec4 load_v(uint quad) { return KV_F16 != 0 ? half4(v_f16[quad]) : uintBitsToFloat(v_f32[quad]); }
#ifdef KV_WRITE
// To the nearest half, ties to even: packHalf2x16 alone may cut on some devices.
vec4 half_near(vec4 v)
{
    uvec4 u = floatBitsToUint(v);
    return uintBitsToFloat((u + 0xfffu + ((u >> 13) & 1u)) & 0xffffe000u);
}
uvec2 to_half4(vec4 v)
{
    v = half_near(v);
    return uvec2(packHalf2x16(v.xy), packHalf2x16(v.zw));
}
void store_k(uint quad, vec4 v)
{
    if (KV_F16 != 0)
        k_f16[quad] = to_half4(v);
    else
        k_f32[quad] = floatBitsToUint(v);
}
void store_v(uint quad, vec4 v)
{
    if (KV_F16 != 0)
        v_f16[quad] = to_half4(v);
    else
        v_f32[quad] = floatBitsToUint(v);
}
#endif
