// act: what a feed-forward does between its matrices, four elements at a time. Limit L > 0 cuts
// silu(gate) from above and up on both sides (Step-3.5); relu2 has no gate.
const uint ACT_SWIGLU = 0, ACT_RELU2 = 1;

vec4 act_swiglu(vec4 gate, vec4 up, float limit)
{
    vec4 s = vec4(silu(gate.x), silu(gate.y), silu(gate.z), silu(gate.w));
    if (limit > 0.0) {
        s = min(s, limit);
        up = clamp(up, -limit, limit);
    }
    return s * up;
}
vec4 act_relu2(vec4 up)
{
    up = max(up, 0.0);
    return up * up;
}
