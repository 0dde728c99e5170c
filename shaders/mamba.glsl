// mamba: what the kernels of Mamba2 share; conv.glsl says what stands before it, and the buffer
// conv_b [d_conv]. Channels of the convolution: x [n_head][head_dim], B, C [n_group][d_state].
uint d_inner() { return p.n_head * p.head_dim; }
uint d_conv() { return d_inner() + 2 * p.n_group * p.d_state; }
uint conv_col() { return p.conv_col; }
float conv_bias(uint ch) { return conv_b[ch]; }
#include "conv.glsl"
