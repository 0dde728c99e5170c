// conv: the short causal convolution with SiLU before a recurrent mixer. Include after declaring
// the push constants p, the buffers proj, conv_w [d_conv][CONV_K] (the last tap is for the token
// itself) and window, and the functions d_conv() (channels), conv_col() (their first column in
// proj) and conv_bias(channel).
//
// The window has the last CONV_K - 1 inputs before the batch, [2][CONV_K - 1][d_conv]. There are
// two copies: a batch reads the one given by step.i_window and writes the other, so that no
// workgroup overwrites what another still reads.
uint window_at(uint i_window, uint row, uint ch)
{
    return (i_window * (CONV_K - 1) + row) * d_conv() + ch;
}

// The input of channel ch at token t of this batch. t < 0: a token before the batch.
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

// The same for a batch of one token, in parts: a driver cannot know that windows do not overlap, so
// a kernel that wants its loads to go out together puts all of them before its first store.
const uint MAX_CONV_K = 8;
struct conv_inputs { float tap[MAX_CONV_K]; };

void conv_load(uint i_window, uint ch, out conv_inputs x)
{
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        x.tap[j] = conv_in(i_window, int(j) - int(CONV_K - 1), ch);
}

float conv_sum(conv_inputs x, uint ch)
{
    float v = conv_bias(ch);
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        v += conv_w[ch * CONV_K + j] * x.tap[j];
    return silu(v);
}

void conv_keep(uint i_window, conv_inputs x, uint ch)
{
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        window[window_at(1 - i_window, j, ch)] = x.tap[j + 1];
}
