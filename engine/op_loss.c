/* op_loss: how well a token was foreseen - rows of logits to negative log likelihoods. Four numbers
 * a token leave the device, whatever the vocabulary. */
#include "op.h"

#include <math.h>

void op_nll(struct cmd *c, tensor logits, tensor parts, const struct batch *b, uint32_t row0)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    /* A CPU device gets one subgroup a row while its loops stay short (gpu_caps.loop_budget). */
    uint32_t wg = wg_size(caps, 256);
    if (logits.n / wg > 8192)
        wg = min_u32(1024, caps->max_invocations);
    struct push_nll p = { .n_vocab = logits.n, .stride = logits.stride,
                          .col = logits.col, .row0 = row0 };
    cmd_work(c, 16.0 * logits.n * logits.n_row);
    cmd_dispatch(c, K_nll, GRID(logits.n_row, 1, 1), SPEC(wg), PUSH(p),
                 USES(READ(logits), READ(b->step), READ(b->ids), WRITE(parts)));
}

double nll_from(const float parts[NLL_PARTS])
{
    double top = (double)parts[0], n_top = (double)parts[1], rest = (double)parts[2];
    return log1p(rest + (n_top - 1)) + (top - (double)parts[3]);
}
