/* op_stats: statistics of the gates and states of recurrent layers, for people to watch. No other
 * dispatch waits for these small ones. op_moe.c counts chosen experts. */
#include "ops/op.h"

void op_gate_stats(struct cmd *c, const struct gate_input *in, const struct batch *b, tensor to)
{
    bool mamba = in->beta_col == NO_BETA, row = b->docs != NULL;
    struct push_gate_stats push = { .n_tok = b->n_tok,
                                    .p_stride = in->p.stride,
                                    .decay_col = in->decay_col,
                                    .beta_col = mamba ? 0 : in->beta_col };
    cmd_work(c, 60.0 * b->n_tok * to.n_row);
    cmd_dispatch(c, K_gate_stats, GRID(to.n_row, 1, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), b->n_tok > 32 ? 128 : 32), .mamba = mamba,
                      .docs = row),
                 PUSH(push),
                 USES(READ(in->p), READ(in->ssm_a), READ(in->dt_bias),
                      READ(row ? b->docs->real : in->p), WRITE(to)));
}

void op_state_stats(struct cmd *c, const struct state_stats *s)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t wg = wg_size(caps, 128), n_chunk = s->docs ? s->n_chunk : 1;
    uint32_t once = caps->loop_budget ? max_u32(1, 50000 / (div_up(s->n / 4, wg) + 1)) : n_chunk;
    HLM_ASSERT(s->n % 4 == 0);
    for (uint32_t at = 0, n; at < n_chunk; at += n) {
        n = min_u32(once, n_chunk - at);
        struct push_state_stats push = {
            .n = s->n,
            .by_head = s->docs ? s->by_head : 1,
            .by_chunk = s->by_chunk,
            .from = s->from + at,
            .chunk0 = s->chunk0 + at,
            .n_chunk = n,
            .head0 = s->head0,
        };
        cmd_work(c, 3.0 * s->n * n * s->n_head);
        cmd_dispatch(c, K_state_stats, GRID(s->n_head, 1, 1),
                     SPEC(.wg = wg, .docs = s->docs != NULL, .add = s->add || at > 0), PUSH(push),
                     USES(READ(s->states), READ(s->docs ? s->docs->chunks : s->step),
                          READ(s->docs ? s->docs->real : s->states), BOTH(s->to)));
    }
}
