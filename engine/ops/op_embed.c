/* op_embed: the way into a model: looks up rows of the embedding, joins two kinds of rows,
 * advances the step buffer, and keeps logits in state slots. */
#include "ops/op_linear_parts.h"

tensor op_embed(struct cmd *c, const linear *w, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor y = cmd_scratch(c, F32, w->n_in, b->n_tok);
    for (struct slab s = slabs_of_rows(c, w, UINT32_MAX); slab_next(&s);) {
        struct push_embed p = {
            .n_embd = w->n_in,
            .row_q = w->row_q,
            .row0 = s.first,
            .n_vocab = s.n,
            .n_seg = b->n_seg,
            .n_ids = b->ids.stride,
        };
        cmd_work(c, (double)w->n_in * b->n_tok);
        cmd_dispatch(
            c, K_embed, GRID(b->n_tok, 1, 1), SPEC(.wg = wg_size(caps, 64), .w_type = w->dtype),
            PUSH(p),
            USES(READ(s.rows), READ(b->ids), READ(b->step), WRITE(y), READ(linear_codebook(w))));
    }
    return y;
}

struct beside_rec {
    tensor part[2], both;
};

static void beside_bwd(struct cmd *c, const void *rec)
{
    const struct beside_rec *r = rec;
    tensor d = grad(c, r->both);
    for (uint32_t k = 0, col = 0; k < 2; col += r->part[k++].n) {
        tensor to = grad(c, r->part[k]);
        if (to.arena)
            op_accumulate(c, to, tensor_cols(d, col, to.n));
    }
}

tensor op_beside(struct cmd *c, tensor x, tensor y)
{
    tensor both = cmd_scratch(c, F32, x.n + y.n, x.n_row);
    cmd_fill(c, both, tensor_bytes(both), 0);
    op_accumulate(c, tensor_cols(both, 0, x.n), x);
    op_accumulate(c, tensor_cols(both, x.n, y.n), y);
    struct beside_rec rec = { { x, y }, both };
    tape_push(c, beside_bwd, &rec, sizeof rec);
    return both;
}

void op_advance(struct cmd *c, const struct batch *b)
{
    struct push_advance p = { .n_tok = b->n_tok / b->n_seg, .n_seg = b->n_seg };
    cmd_dispatch(c, K_advance, GRID(1, 1, 1), SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 32)),
                 PUSH(p), USES(BOTH(b->step)));
}

/* Logits [n_seg][n_vocab] to or from the state slots. */
static void move_logits(struct cmd *c, enum kernel k, const struct use use[3],
                        const struct batch *b)
{
    tensor logits = use[0].t, slots = use[1].t;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 256);
    struct push_keep_logits p = { logits.n, logits.stride, slots.stride };
    if (cmd_failed(c))
        return;
    HLM_ASSERT(logits.n_row == b->n_seg && !logits.col && slots.n == logits.n);
    cmd_work(c, (double)logits.n * b->n_seg);
    cmd_dispatch(c, k, GRID(min_u32(64, div_up(logits.n, wg)), b->n_seg, 1), SPEC(.wg = wg),
                 PUSH(p), use, 3);
}

void op_keep_logits(struct cmd *c, tensor logits, tensor slots, const struct batch *b)
{
    move_logits(c, K_keep_logits, (const struct use[]){ READ(logits), WRITE(slots), READ(b->step) },
                b);
}

tensor op_kept_logits(struct cmd *c, tensor slots, const struct batch *b)
{
    tensor y = cmd_scratch(c, F32, slots.n, b->n_seg);
    move_logits(c, K_take_logits, (const struct use[]){ WRITE(y), READ(slots), READ(b->step) }, b);
    return y;
}
