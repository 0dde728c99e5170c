// conv: the short causal convolution with SiLU before a recurrent mixer. Include after declaring
// the push constants p, the buffers proj, conv_w [d_conv][CONV_K] (the last tap is the token
// itself) and window, and the functions d_conv() (channels), conv_col() (where in a row of proj
// they begin) and conv_bias(channel).
//
// The window keeps the last CONV_K - 1 inputs before the batch, [2][CONV_K - 1][d_conv]. There are
// two of them: a batch reads the one that step.i_window names and writes the other, so that nobody
// overwrites what a neighbour reads.
uint window_at(uint i_window, uint row, uint ch)
{
    return (i_window * (CONV_K - 1) + row) * d_conv() + ch;
}

// Input of channel ch at token t of this batch; below 0: before it.
float conv_in(uint i_window, int t, uint ch)
{
    return t >= 0 ? proj[uint(t) * p.p_stride + conv_col() + ch]
                  : window[window_at(i_window, uint(t + int(CONV_K) - 1), ch)];
}

float conv_silu(uint i_window, uint t, uint ch)
{
    float v = conv_bias(ch);
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        v += conv_w[ch * CONV_K + j] * conv_in(i_window, int(t + j) - int(CONV_K - 1), ch);
    return silu(v);
}

void keep_window(uint i_window, uint ch)
{
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        window[window_at(1 - i_window, j, ch)] =
            conv_in(i_window, int(p.n_tok + j) - int(CONV_K - 1), ch);
}
