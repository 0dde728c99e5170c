// conv_docs: the convolution of conv.glsl over a row of documents, each of which begins with zeros,
// and its backward. A lane walks over CONV_TOKENS tokens of a channel, so that it loads an input
// once. Include after CONV_K, the push constants p and the buffer first { int first[]; }: of each
// token, its document's first.
#define MAX_CONV_K 8
struct conv_run {
    uint t0, n;                                 // the first token; how many there are
    int first[CONV_TOKENS + MAX_CONV_K - 1];    // of each and of the CONV_K - 1 behind; none: n_tok
};

conv_run conv_run_at(uint t0)
{
    conv_run r;
    r.t0 = t0;
    r.n = min(CONV_TOKENS, p.n_tok - t0);
    [[unroll]] for (uint i = 0; i < CONV_TOKENS + CONV_K - 1; i++)
        r.first[i] = t0 + i < p.n_tok ? first[min(t0 + i, p.n_tok - 1)] : int(p.n_tok);
    return r;
}

// v[i], input of token t0 + i - (CONV_K - 1), to the sums that the SiLU is taken of; w: a channel's
// taps, the last one the token's own.
void conv_docs(conv_run r, float w[MAX_CONV_K], float v[CONV_TOKENS + MAX_CONV_K - 1],
               out float sum[CONV_TOKENS])
{
    [[unroll]] for (uint i = 0; i < CONV_TOKENS; i++) {
        sum[i] = 0.0;
        [[unroll]] for (uint j = 0; j < CONV_K; j++)
            if (int(r.t0 + i + j) - int(CONV_K - 1) >= r.first[i])
                sum[i] += w[j] * v[i + j];
    }
}

// v[i], gradient of that sum of token t0 + i, to the gradients of inputs.
void conv_docs_bwd(conv_run r, float w[MAX_CONV_K], float v[CONV_TOKENS + MAX_CONV_K - 1],
                   out float sum[CONV_TOKENS])
{
    [[unroll]] for (uint i = 0; i < CONV_TOKENS; i++) {
        sum[i] = 0.0;
        [[unroll]] for (uint j = 0; j < CONV_K; j++)
            if (r.first[i + j] == r.first[i])
                sum[i] += w[CONV_K - 1 - j] * v[i + j];
    }
}
