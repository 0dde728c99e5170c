/* op_ffn: the dense feed-forward half of a layer, SwiGLU (Shazeer, arXiv 2002.05202). */
#include "op.h"

tensor op_ffn(struct cmd *c, tensor x, tensor norm, float eps, const linear *gate, const linear *up,
              const linear *down)
{
    tensor h = op_norm_linear(c, x, norm, eps, LINEARS(gate, up));
    return op_swiglu_linear_add(c, h, down, x, NULL);
}
