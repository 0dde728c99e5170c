// delta: the short causal convolution, shared by the kernels of Gated DeltaNet. Include after
// declaring the push constants p, and the buffers proj, conv_w [d_conv][CONV_K] (the last tap is
// the token itself) and window.
//
// The window keeps the last CONV_K - 1 inputs before the batch, [2][CONV_K - 1][d_conv]. There are
// two of them: a batch reads the one that step.flip names and writes the other, so that nobody
// overwrites what a neighbour reads.
uint d_conv() { return (2 * p.n_k_head + p.n_v_head) * p.d_state; }
uint k_head_of(uint v_head)
{
    return p.tiled != 0 ? v_head % p.n_k_head : v_head / (p.n_v_head / p.n_k_head);
}

uint window_at(uint flip, uint row, uint ch) { return (flip * (CONV_K - 1) + row) * d_conv() + ch; }

// Input of channel ch at token t of this batch; below 0: before it.
float conv_in(uint flip, int t, uint ch)
{
    return t >= 0 ? proj[uint(t) * p.p_stride + p.qkv_col + ch]
                  : window[window_at(flip, uint(t + int(CONV_K) - 1), ch)];
}

float conv_silu(uint flip, uint t, uint ch)
{
    float v = 0.0;
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        v += conv_w[ch * CONV_K + j] * conv_in(flip, int(t + j) - int(CONV_K - 1), ch);
    return silu(v);
}

void keep_window(uint flip, uint ch)
{
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        window[window_at(1 - flip, j, ch)] = conv_in(flip, int(p.n_tok + j) - int(CONV_K - 1), ch);
}
