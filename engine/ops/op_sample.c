/* op_sample: the way out of a model: samples the next id from the logits, on the device. The rules
 * of sampling are in shaders/sample.comp. */
#include "ops/op.h"

void op_sample(struct cmd *c, tensor logits, const struct sampler *s, const struct batch *b,
               uint32_t advance)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    /* Every threshold is found in up to 32 walks over the vocabulary. A large vocabulary gets as
     * many lanes as the device has, which also keeps the loops of a lane short
     * (gpu_caps.loop_budget). */
    uint32_t wg = logits.n <= 4096 ? 64 : min_u32(1024, caps->max_invocations);
    struct push_sample p = {
        .n_vocab = logits.n, .stride = logits.stride, .n_ids = b->ids.n, .advance = advance
    };
    cmd_work(c, 64.0 * logits.n);
    cmd_dispatch(c, K_sample, GRID(logits.n_row, 1, 1), SPEC(.wg = wg), PUSH(p),
                 USES(READ(logits), READ(s->unused), BOTH(b->step), BOTH(b->ids), BOTH(s->work),
                      BOTH(s->count), WRITE(s->chosen), READ(s->bias)));
}
