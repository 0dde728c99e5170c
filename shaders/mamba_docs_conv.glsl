// mamba_docs_conv: four channels of Mamba2's convolution along a row of documents, for the forward
// and the backward. The last tap is for the token itself.
layout(constant_id = SPEC_conv_k) const uint CONV_K = 4;
layout(constant_id = SPEC_channels) const uint CHANNELS = 64;
layout(constant_id = SPEC_toks) const uint TOKS = 16;
layout(binding = 0) readonly buffer First { uint first_of[]; };         // [n_tok]
layout(binding = 1) readonly buffer P { vec4 proj4[]; };
layout(binding = 2) readonly buffer W4 { vec4 conv_w4[]; };             // [d_conv][CONV_K]
layout(binding = 2) readonly buffer W1 { float conv_w[]; };
layout(binding = 3) readonly buffer Bias { vec4 conv_b4[]; };

uint d_inner() { return p.n_head * p.head_dim; }
uint d_conv() { return d_inner() + 2 * p.n_group * p.d_state; }
vec4 conv_in(uint ch, uint t) { return proj4[(t * p.p_stride + p.p_col + d_inner() + ch) / 4]; }
vec4 silu4(vec4 v) { return vec4(silu(v.x), silu(v.y), silu(v.z), silu(v.w)); }

void taps(uint ch, out vec4 w[CONV_K])
{
    if (CONV_K == 4) {
        mat4 m = transpose(mat4(conv_w4[ch], conv_w4[ch + 1], conv_w4[ch + 2], conv_w4[ch + 3]));
        [[unroll]] for (uint j = 0; j < CONV_K; j++)
            w[j] = m[j];
        return;
    }
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        [[unroll]] for (uint e = 0; e < 4; e++)
            w[j][e] = conv_w[(ch + e) * CONV_K + j];
}

// x: the inputs that the token before t reads and that t also reads, the newest last.
void inputs_before(uint ch, uint t, out vec4 x[CONV_K])
{
    uint n = t - first_of[t];
    [[unroll]] for (uint j = 0; j < CONV_K; j++) {
        x[j] = vec4(0.0);
        if (CONV_K - j <= n)
            x[j] = conv_in(ch, t - (CONV_K - j));
    }
}

// Advances x to token t and returns the sum before the SiLU.
vec4 next_input(uint ch, uint t, vec4 bias, vec4 w[CONV_K], inout vec4 x[CONV_K])
{
    vec4 v = bias;
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        x[j] = x[j + 1];
    if (first_of[t] == t)
        [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
            x[j] = vec4(0.0);
    x[CONV_K - 1] = conv_in(ch, t);
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        v += w[j] * x[j];
    return v;
}
