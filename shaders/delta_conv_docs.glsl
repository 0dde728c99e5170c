// delta_conv_docs: what delta_conv_docs and its backward share. Before it stand delta.glsl,
// conv_docs.glsl and the buffers proj and conv_w.
void conv_sums(conv_run r, uint ch, out float sum[CONV_TOKENS])
{
    float w[MAX_CONV_K], v[CONV_TOKENS + MAX_CONV_K - 1];
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        w[j] = conv_w[ch * CONV_K + j];
    [[unroll]] for (uint i = 0; i < CONV_TOKENS + CONV_K - 1; i++) {
        uint t = uint(clamp(int(r.t0 + i) - int(CONV_K - 1), 0, int(p.n_tok) - 1));
        v[i] = proj[t * p.p_stride + conv_col() + ch];
    }
    conv_docs(r, w, v, sum);
}

// What a head of q or k is multiplied by; xx: the sum of its squares, and what is added to it.
float l2_scale(uint head, float xx)
{
    float scale = 1.0 / sqrt(xx);
    if (head < p.n_k_head)
        scale /= sqrt(float(p.d_state));
    return scale;
}
