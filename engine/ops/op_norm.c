/* op_norm: RMSNorm (Zhang and Sennrich, arXiv 1910.07467), the activations between the matrices of
 * a feed-forward network, and the backward of both. */
#include "ops/op.h"

struct norm_rec {
    tensor x, w, y;
    float eps;
};

static void norm_bwd(struct cmd *c, const void *rec)
{
    const struct norm_rec *r = rec;
    tensor x = r->x, dy = grad(c, r->y), dx = grad(c, x);
    if (!dx.arena)
        return;
    struct push_norm_bwd p = {
        .n = x.n,
        .x_stride = x.stride,
        .x_col = x.col,
        .dy_stride = dy.stride,
        .dy_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .eps = r->eps,
    };
    cmd_work(c, 10.0 * x.n * x.n_row);
    cmd_dispatch(c, K_norm_bwd, GRID(x.n_row, 1, 1), SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 128)),
                 PUSH(p), USES(READ(x), READ(r->w), READ(dy), BOTH(dx)));
}

tensor op_norm(struct cmd *c, tensor x, tensor w, float eps)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor y = cmd_scratch(c, F32, x.n, x.n_row);
    struct push_norm p = {
        .n = x.n,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .eps = eps,
    };
    uint32_t wg = wg_size(caps, 128);
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_norm, GRID(x.n_row, 1, 1), SPEC(.wg = wg), PUSH(p),
                 USES(READ(x), READ(w), WRITE(y)));
    struct norm_rec rec = { x, w, y, eps };
    tape_push(c, norm_bwd, &rec, sizeof rec);
    return y;
}

struct act_rec {
    tensor x, y;
    struct act act;
};

static void act_bwd(struct cmd *c, const void *rec)
{
    const struct act_rec *r = rec;
    tensor x = r->x, dy = grad(c, r->y), dx = grad(c, x);
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    if (!dx.arena)
        return;
    struct push_act_bwd p = {
        .n_ff = dy.n,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .dy_stride = dy.stride,
        .dy_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .limit = r->act.limit,
    };
    cmd_work(c, 20.0 * dy.n * x.n_row);
    cmd_dispatch(c, K_act_bwd, row_grid(dy.n / 4, x.n_row, wg), SPEC(.wg = wg, .act = r->act.kind),
                 PUSH(p), USES(READ(x), READ(dy), BOTH(dx)));
}

tensor op_act(struct cmd *c, tensor x, struct act act)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n_ff = x.n / act_width(act), wg = wg_size(caps, 128);
    tensor y = cmd_scratch(c, F32, n_ff, x.n_row);
    struct push_act p = {
        .n_ff = n_ff,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .limit = act.limit,
    };
    cmd_work(c, 8.0 * n_ff * x.n_row);
    cmd_dispatch(c, K_act, row_grid(n_ff / 4, x.n_row, wg), SPEC(.wg = wg, .act = act.kind),
                 PUSH(p), USES(READ(x), WRITE(y)));
    struct act_rec rec = { x, y, act };
    tape_push(c, act_bwd, &rec, sizeof rec);
    return y;
}
