// conv_docs: the convolution of conv.glsl over a row of documents, each of which begins with zeros,
// and its backward. A lane walks over CONV_TOKENS tokens of a channel, so that it loads an input
// only once. Include after CONV_K, the push constants p and the buffer first { int first[]; },
// which has the first token of each token's document.
#define MAX_CONV_K 8
struct conv_run {
    uint t0, n;                                 // the first token; the number of tokens
    int first[CONV_TOKENS + MAX_CONV_K - 1];    // of these and of the CONV_K - 1 tokens after them;
                                                // n_tok: no such token
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

// Replaces v[i], the input of token t0 + i - (CONV_K - 1), by the sums before the SiLU. w: the taps
// of a channel; the last one is for the token itself.
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

// Replaces v[i], the gradient of that sum for token t0 + i, by the gradients of inputs.
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
