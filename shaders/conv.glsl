// conv: the short causal convolution with SiLU before a recurrent mixer. Include after declaring
// the push constants p, the buffers proj, conv_w [d_conv][CONV_K] (the last tap is for the token
// itself) and window, and the functions d_conv() (channels), conv_col() (their first column in
// proj) and conv_bias(channel).
//
// The window has the last CONV_K - 1 inputs before the batch, [n_slot][CONV_K - 1][d_conv]. A batch
// reads that of a slot and writes that of another, so that no workgroup overwrites what another
// still reads. t is a token of a batch of one segment.
uint window_at(uint slot, uint row, uint ch)
{
    return (slot * (CONV_K - 1) + row) * d_conv() + ch;
}

// The input of channel ch at token t of this batch. t < 0: a token before the batch.
float conv_in(uint slot, int t, uint ch)
{
    return t >= 0 ? proj[uint(t) * p.p_stride + conv_col() + ch]
                  : window[window_at(slot, uint(t + int(CONV_K) - 1), ch)];
}

float conv_silu(uint slot, uint t, uint ch)
{
    float v = conv_bias(ch);
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        v += conv_w[ch * CONV_K + j] * conv_in(slot, int(t + j) - int(CONV_K - 1), ch);
    return silu(v);
}

void keep_window(uint slot_in, uint slot_out, uint ch)
{
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        window[window_at(slot_out, j, ch)] =
            conv_in(slot_in, int(p.n_tok + j) - int(CONV_K - 1), ch);
}

// The same for segments of one token, in parts. t: the token, whose segment has the slot. A driver
// cannot know that windows do not overlap, so a kernel that wants its loads to go out together puts
// all of them before its first store.
const uint MAX_CONV_K = 8;
struct conv_inputs { float tap[MAX_CONV_K]; };

void conv_load(uint slot, uint t, uint ch, out conv_inputs x)
{
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        x.tap[j] = window[window_at(slot, j, ch)];
    x.tap[CONV_K - 1] = proj[t * p.p_stride + conv_col() + ch];
}

float conv_sum(conv_inputs x, uint ch)
{
    float v = conv_bias(ch);
    [[unroll]] for (uint j = 0; j < CONV_K; j++)
        v += conv_w[ch * CONV_K + j] * x.tap[j];
    return silu(v);
}

void conv_keep(uint slot, conv_inputs x, uint ch)
{
    [[unroll]] for (uint j = 0; j + 1 < CONV_K; j++)
        window[window_at(slot, j, ch)] = x.tap[j + 1];
}
