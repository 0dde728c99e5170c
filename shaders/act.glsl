// act: the activation between the matrices of a feed-forward network, four elements at a time. A
// limit L > 0 cuts silu(gate) from above and up on both sides (Step-3.5). relu2 has no gate.

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

// With s = sigmoid(gate): silu' = s (1 + gate (1 - s)).
void act_swiglu_bwd(vec4 gate, vec4 up, float limit, vec4 dy, out vec4 d_gate, out vec4 d_up)
{
    vec4 s = vec4(sigmoid(gate.x), sigmoid(gate.y), sigmoid(gate.z), sigmoid(gate.w));
    vec4 v = gate * s;
    d_gate = dy * s * (1.0 + gate * (1.0 - s));
    d_up = dy;
    if (limit > 0.0) {
        vec4 cut = clamp(up, -limit, limit);
        [[unroll]] for (uint e = 0; e < 4; e++) {
            if (v[e] > limit)
                d_gate[e] = 0.0;
            if (cut[e] != up[e])
                d_up[e] = 0.0;
        }
        v = min(v, limit);
        up = cut;
    }
    d_gate *= up;
    d_up *= v;
}
