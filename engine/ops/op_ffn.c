/* op_ffn: the dense feed-forward network of a layer. */
#include "ops/op.h"

tensor op_ffn(struct cmd *c, tensor x, tensor norm, float eps, const struct ffn *f)
{
    bool has_gate = f->act.kind == ACT_SWIGLU;
    tensor h = has_gate ? op_norm_linear_act(c, x, norm, eps, LINEARS(&f->gate, &f->up), f->act)
                        : op_norm_linear_act(c, x, norm, eps, LINEARS(&f->up), f->act);
    return op_linear_add(c, h, &f->down, x);
}
