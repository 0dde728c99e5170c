/* op_embed: the way into a model - ids to rows of the embedding - and on to the next batch. */
#include "op.h"

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
                     USES(READ(linear_rows(w, row, n)), READ(b->ids), READ(b->step), WRITE(y),
                          READ(linear_grid(w))));
    }
    return y;
}

void op_advance(struct cmd *c, const struct batch *b)
{
    struct push_advance p = { .n_tok = b->n_tok };
    cmd_dispatch(c, K_advance, GRID(1, 1, 1), SPEC(wg_size(gpu_caps(cmd_gpu(c)), 32)), PUSH(p),
                 USES(BOTH(b->step)));
}
