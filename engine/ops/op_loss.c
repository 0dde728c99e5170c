/* op_loss: from rows of logits to the negative log likelihoods of tokens. Four numbers per token
 * leave the device, whatever the size of the vocabulary. In training only counted tokens have
 * logits, a slice of them at a time, and the logits are overwritten by their gradient. */
#include "ops/op.h"

#include <math.h>

/* A CPU device gets one subgroup per row as long as that keeps the loops short
 * (gpu_caps.loop_budget). */
static uint32_t row_wg(const struct gpu_caps *caps, uint32_t n_vocab)
{
    uint32_t wg = wg_size(caps, 256);
    return n_vocab / wg > 8192 ? min_u32(1024, caps->max_invocations) : wg;
}

void op_nll(struct cmd *c, tensor logits, tensor parts, const struct batch *b, uint32_t row0)
{
    uint32_t wg = row_wg(gpu_caps(cmd_gpu(c)), logits.n);
    struct push_nll p = {
        .n_vocab = logits.n,
        .stride = logits.stride,
        .col = logits.col,
        .row0 = row0,
        .n_ids = b->ids.stride,
    };
    cmd_work(c, 16.0 * logits.n * logits.n_row);
    cmd_dispatch(c, K_nll, GRID(logits.n_row, 1, 1), SPEC(.wg = wg), PUSH(p),
                 USES(READ(logits), READ(b->step), READ(b->ids), WRITE(parts)));
}

double nll_from(const float parts[NLL_PARTS])
{
    double top = (double)parts[0], n_top = (double)parts[1], rest = (double)parts[2];
    return log1p(rest + (n_top - 1)) + (top - (double)parts[3]);
}

/* ---- tokens that count ----------------------------------------------------------------------- */

static struct push_gather gather_push(tensor x, tensor y, tensor rows)
{
    HLM_ASSERT(x.n % 4 == 0 && x.stride % 4 == 0 && x.col % 4 == 0 && y.n == x.n);
    HLM_ASSERT(y.stride % 4 == 0 && y.col % 4 == 0);
    return (struct push_gather){
        .n = x.n,
        .n_row = y.n_row,
        .n_list = rows.n,
        .n_x = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .y_col = y.col,
    };
}

struct gather_rec {
    tensor x, rows, slice, y;
};

static void gather_bwd(struct cmd *c, const void *rec)
{
    const struct gather_rec *r = rec;
    tensor dx = grad(c, r->x), dy = grad(c, r->y);
    if (cmd_failed(c) || !dx.arena)
        return;
    struct push_gather p = gather_push(dx, dy, r->rows);
    cmd_work(c, (double)dy.n * dy.n_row);
    cmd_dispatch(c, K_gather_bwd, GRID(dy.n_row, 1, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 64)), PUSH(p),
                 USES(BOTH(dx), READ(r->rows), READ(r->slice), READ(dy)));
}

tensor op_gather(struct cmd *c, tensor x, tensor rows, uint32_t n, tensor slice)
{
    tensor y = cmd_scratch(c, F32, x.n, n);
    if (cmd_failed(c))
        return y;
    struct push_gather p = gather_push(x, y, rows);
    cmd_work(c, (double)x.n * n);
    cmd_dispatch(c, K_gather, GRID(n, 1, 1), SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 64)), PUSH(p),
                 USES(READ(x), READ(rows), READ(slice), WRITE(y)));
    struct gather_rec rec = { x, rows, slice, y };
    tape_push(c, gather_bwd, &rec, sizeof rec);
    return y;
}

/* Pushes no record: the gradient replaces the logits, where the op that made them finds it. */
void op_nll_targets(struct cmd *c, tensor logits, tensor targets, tensor slice, tensor parts,
                    tensor weight)
{
    bool gradient = tape_runs(c);
    uint32_t wg = row_wg(gpu_caps(cmd_gpu(c)), logits.n);
    struct push_nll_targets p = { .n_vocab = logits.n,
                                  .stride = logits.stride,
                                  .col = logits.col,
                                  .n_row = logits.n_row,
                                  .n_target = targets.n };
    cmd_work(c, (gradient ? 32.0 : 16.0) * logits.n * logits.n_row);
    cmd_dispatch(c, K_nll_targets, GRID(logits.n_row, 1, 1), SPEC(.wg = wg, .gradient = gradient),
                 PUSH(p),
                 USES(BOTH(logits), READ(targets), READ(slice), WRITE(parts), READ(weight)));
    if (gradient)
        grad_is(c, logits, logits);
}

void op_next_slice(struct cmd *c, tensor slice)
{
    struct push_next_slice p = { .by = 1 };
    cmd_dispatch(c, K_next_slice, GRID(1, 1, 1), SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 32)),
                 PUSH(p), USES(BOTH(slice)));
}
