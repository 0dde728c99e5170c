// attn: how the attention kernels leave a head: divided and gated by sigmoid, or, where
// attn_merge follows, undivided with its maximum and sum behind it.
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

void store_done(uint t, uint h, uint i, vec4 o, float l)    // quad i
{
    y[(t * p.n_head + h) * p.head_dim / 4 + i] = gated(t, h, i, o / l);
}

void store_part(uint t, uint h, uint run, uint i, vec4 o) { y[run_at(t, h, run) + i] = o; }

void store_run(uint t, uint h, uint run, float m, float l)
{
    y[run_at(t, h, run) + p.head_dim / 4] = vec4(m, l, 0, 0);
}
