// linear_sum: how a block of 32 weights is added to a product: in one order, on every device and
// with any number of columns, so that each column of linear.comp and linear_each.comp has the bits
// that it has alone. Compilers would choose orders of their own, another for each shader: `precise`
// forbids it, and fma says which operations are one.

// The scale of both halves of a block, which then multiplies their sum, is one in most types.
const bool TWO_SCALES = W_TYPE == Q6_K || W_TYPE == Q2_K || W_TYPE == Q3_K || W_TYPE == IQ2_XS ||
                        W_TYPE == IQ2_S || W_TYPE == IQ1_M || W_TYPE == NVFP4;

// acc + the block's product. lo, hi: the products of the quants of both halves. v_sum: the sums of
// x there, needed if HAS_MIN.
float add_block(float acc, vec2 d, vec2 m, float lo, float hi, vec2 v_sum)
{
    precise float sum = TWO_SCALES ? fma(d.y, hi, fma(d.x, lo, acc)) : fma(d.x, lo + hi, acc);
    if (MIN_HALVES)
        sum = fma(m.y, v_sum.y, fma(m.x, v_sum.x, sum));
    else if (HAS_MIN)
        sum = fma(m.x, v_sum.x + v_sum.y, sum);
    return sum;
}
