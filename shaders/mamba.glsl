// mamba: shared by the kernels of Mamba2. Include after what conv.glsl needs, and after the buffer
// conv_b [d_conv]. The channels of the convolution are x [n_head][head_dim], B and C
// [n_group][d_state].
uint d_inner() { return p.n_head * p.head_dim; }
uint d_conv() { return d_inner() + 2 * p.n_group * p.d_state; }
uint conv_col() { return p.conv_col; }
float conv_bias(uint ch) { return conv_b[ch]; }
#include "conv.glsl"
