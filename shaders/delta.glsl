// delta: shared by the kernels of Gated DeltaNet. Include after the push constants p; conv.glsl or
// conv_docs.glsl may follow.
uint d_conv() { return (2 * p.n_k_head + p.n_v_head) * p.d_state; }
uint conv_col() { return p.qkv_col; }
float conv_bias(uint ch) { return 0.0; }

uint k_head_of(uint v_head)
{
    return p.tiled != 0 ? v_head % p.n_k_head : v_head / (p.n_v_head / p.n_k_head);
}
