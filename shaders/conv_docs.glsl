// conv_docs: the convolution of conv.glsl over a row of documents, each of which begins with zeros.
// Include after what conv.glsl wants, but for the window, and the buffer first { int first[]; }: of
// each token, its document's first.

// What the SiLU is taken of.
float conv_docs(uint t, uint ch)
{
    float v = conv_bias(ch);
    int begin = first[t];
    [[unroll]] for (uint j = 0; j < CONV_K; j++) {
        int at = int(t + j) - int(CONV_K - 1);
        if (at >= begin)
            v += conv_w[ch * CONV_K + j] * proj[uint(at) * p.p_stride + conv_col() + ch];
    }
    return v;
}
