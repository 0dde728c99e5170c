/* op_embed: the way into a model: looks up rows of the embedding, joins two kinds of rows, and
 * advances the step buffer. */
#include "ops/op_linear_parts.h"

tensor op_embed(struct cmd *c, const linear *w, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor y = cmd_scratch(c, F32, w->n_in, b->n_tok);
    for (struct slab s = slabs_of_rows(c, w, UINT32_MAX); slab_next(&s);) {
        struct push_embed p = {
            .n_embd = w->n_in, .row_q = w->row_q, .row0 = s.first, .n_vocab = s.n
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
    struct push_advance p = { .n_tok = b->n_tok };
    cmd_dispatch(c, K_advance, GRID(1, 1, 1), SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 32)),
                 PUSH(p), USES(BOTH(b->step)));
}
