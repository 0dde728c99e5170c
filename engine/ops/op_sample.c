/* op_sample: the way out of a model: samples the next id of each segment from its logits, on the
 * device. The rules of sampling are in shaders/sample.comp. */
#include "ops/op.h"

/* The entries of a block of the vocabulary. A GPU has many small blocks. On a CPU device each block
 * walks over the history for penalties, so there are fewer. */
static uint32_t block_entries(const struct gpu_caps *caps, uint32_t n_vocab)
{
    uint32_t n = 32, most = caps->kind == GPU_CPU ? 128 : 512;
    while (div_up(n_vocab, n) > most)
        n *= 2;
    return n;
}

void op_sample(struct cmd *c, tensor logits, const struct sampler *s, const struct batch *b,
               uint32_t advance)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n = logits.n, n_seg = logits.n_row, block = block_entries(caps, n);
    /* A walk over all logits is short enough with many lanes (gpu_caps.loop_budget). */
    uint32_t wg = n <= 4096 ? 64 : caps->loop_budget ? 1024 : 256;
    /* So is one over the history. */
    uint32_t prep = caps->loop_budget && b->ids.n > 65536 ? 64 : wg_size(caps, 256);
    struct push_sample p = { .n_vocab = n,
                             .stride = logits.stride,
                             .n_ids = b->ids.stride,
                             .advance = advance,
                             .block = block,
                             .n_block = div_up(n, block),
                             .bias_words = s->bias.stride };
    if (cmd_failed(c))
        return;
    HLM_ASSERT(n_seg == b->n_seg && !logits.col);
    tensor blocks = cmd_scratch(c, F32, 2 * p.n_block, n_seg);
    p.blocks_stride = blocks.stride / 2;
    cmd_work(c, 12.0 * n * n_seg);
    cmd_dispatch(c, K_sample_prep, GRID(p.n_block, n_seg, 1), SPEC(.wg = min_u32(block, prep)),
                 PUSH(p),
                 USES(READ(logits), READ(s->unused), READ(b->step), READ(b->ids), WRITE(s->work),
                      BOTH(s->count), WRITE(s->chosen), READ(s->bias), WRITE(blocks)));
    cmd_work(c, 4.0 * n * n_seg);
    cmd_dispatch(c, K_sample, GRID(1, n_seg, 1), SPEC(.wg = min_u32(wg, caps->max_invocations)),
                 PUSH(p),
                 USES(READ(s->work), READ(blocks), BOTH(b->step), WRITE(b->ids), WRITE(s->chosen)));
}
