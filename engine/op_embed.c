/* op_embed: the two ends of a model - ids to rows of the embedding, logits to the next id. */
#include "op.h"

static uint32_t wg_size(const struct gpu_caps *caps, uint32_t gpu)
{
    return caps->kind == GPU_CPU ? caps->subgroup : gpu;
}

tensor op_embed(struct cmd *c, const linear *w, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor y = cmd_scratch(c, F32, w->n_in, b->n_tok);
    uint32_t step = linear_piece(caps, w);
    if (!step)
        cmd_fail(c, "an embedding of %u bytes is longer than a binding of this device",
                 w->row_q * 16);
    for (uint32_t row = 0; step && row < w->n_out; row += step) {
        uint32_t n = min_u32(step, w->n_out - row);
        struct push_embed p = { .n_embd = w->n_in, .row_q = w->row_q, .row0 = row, .n_vocab = n };
        cmd_work(c, (double)w->n_in * b->n_tok);
        cmd_dispatch(c, K_embed, GRID(b->n_tok, 1, 1), SPEC(wg_size(caps, 64), w->dtype), PUSH(p),
                     USES(READ(linear_rows(w, row, n)), READ(b->ids), READ(b->step), WRITE(y)));
    }
    return y;
}

void op_advance(struct cmd *c, const struct batch *b)
{
    struct push_advance p = { .n_tok = b->n_tok };
    cmd_dispatch(c, K_advance, GRID(1, 1, 1), SPEC(wg_size(gpu_caps(cmd_gpu(c)), 32)), PUSH(p),
                 USES(BOTH(b->step)));
}

void op_sample(struct cmd *c, tensor logits, const struct sampler *s, const struct batch *b,
               uint32_t advance)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    /* Every cut is found in up to 32 walks over the vocabulary; a big one takes all the lanes there
     * are (which also keeps a lane's loops short, see gpu_caps.loop_budget). */
    uint32_t wg = logits.n <= 4096 ? 64 : min_u32(1024, caps->max_invocations);
    struct push_sample p = { .n_vocab = logits.n, .n_ids = b->ids.n_row, .advance = advance };
    cmd_work(c, 64.0 * logits.n);
    cmd_dispatch(c, K_sample, GRID(1, 1, 1), SPEC(wg), PUSH(p),
                 USES(READ(logits), READ(s->unused), BOTH(b->step), BOTH(b->ids), BOTH(s->work),
                      BOTH(s->count), WRITE(s->chosen)));
}
