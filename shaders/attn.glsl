// attn: how the attention kernels leave a head. With one run of keys it is divided and gated by
// sigmoid; with several it stays undivided, with its maximum and sum behind it, for attn_merge.
// Include after declaring p, proj and y.
const float NEVER = -1e30;      // finite: the difference of two of these must not be a NaN

vec4 gated(uint t, uint h, uint i, vec4 v)
{
    vec4 g = proj[(t * p.p_stride + p.q_col + (2 * h + 1) * p.head_dim) / 4 + i];
    return v * vec4(sigmoid(g.x), sigmoid(g.y), sigmoid(g.z), sigmoid(g.w));
}

uint run_at(uint t, uint h, uint run)
{
    return ((t * p.n_head + h) * p.n_split + run) * (p.head_dim / 4 + 1);
}

void store_head(uint t, uint h, uint run, uint i, vec4 o, float l)     // quad i
{
    if (p.n_split > 1)
        y[run_at(t, h, run) + i] = o;
    else
        y[(t * p.n_head + h) * p.head_dim / 4 + i] = gated(t, h, i, o / l);
}

void store_run(uint t, uint h, uint run, float m, float l)
{
    if (p.n_split > 1)
        y[run_at(t, h, run) + p.head_dim / 4] = vec4(m, l, 0, 0);
}
