/* op_moe: the feed-forward half of a layer as a mixture of experts - softmax router, the largest
 * few renormalised, and a shared expert behind a gate (the form of Qwen3-Next and Qwen3.5).
 *
 * Two ways to multiply: few tokens read their experts' rows themselves; many are sorted by expert
 * on the device, so that an expert's rows are read once a tile of tokens. */
#include "op.h"

/* Expert products of every (token, chosen expert): y[t][slot] = W_e x[t]; x_slot: from a slot's row
 * of x to the next, 0 when all slots read the token's own. With res, the slots are weighted and
 * summed onto it. */
static void expert_linear(struct cmd *c, const struct moe *m, const linear *w, tensor x,
                          uint32_t x_slot, tensor y, uint32_t y_slot, tensor id, tensor wt,
                          const tensor *res)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t rows = caps->kind == GPU_CPU ? 4 : 2, wg = wg_size(caps, 64), n_tok = x.n_row;
    linear all = *w;                    /* an expert is the unit of a piece */
    all.n_out = w->n_expert;
    all.row_q = w->row_q * w->n_out;
    uint32_t step = linear_piece(caps, &all);
    if (!step)
        cmd_fail(c, "an expert of %u bytes is larger than a binding of this device",
                 all.row_q * 16);
    for (uint32_t e = 0; step && e < w->n_expert; e += step) {
        uint32_t n = min_u32(step, w->n_expert - e);
        struct push_expert p = {
            .n_in = w->n_in, .n_out = w->n_out, .n_used = m->n_used, .id_stride = id.stride,
            .expert0 = e, .n_expert = n, .row_q = w->row_q, .x_stride = x.stride, .x_slot = x_slot,
            .y_stride = res ? y.stride : y_slot * m->n_used, .y_slot = y_slot, .y_col = y.col,
        };
        tensor from = res ? e ? y : *res : x;
        cmd_work(c, 2.0 * w->n_in * w->n_out * m->n_used * n_tok * n / w->n_expert);
        cmd_dispatch(c, K_moe_linear, GRID(div_up(w->n_out, rows), res ? 1 : m->n_used, n_tok),
                     SPEC(wg, w->dtype, res != NULL, rows), PUSH(p),
                     USES(READ(linear_rows(&all, e, n)), READ(x), BOTH(y), READ(id), READ(wt),
                          READ(from)));
    }
}

/* [n_tok][n_used]: the experts of each token and their weights. */
struct chosen { tensor id, wt; };

/* moe_sort's lanes walk all entries for each expert of their own: one for each of the 512 a model
 * may have, so that 64 slots of 512 tokens stay below the rounds of gpu_caps.loop_budget. */
static uint32_t sort_wg(const struct gpu_caps *caps) { return min_u32(512, caps->max_invocations); }

static tensor plain(struct cmd *c, const struct moe *m, tensor h, struct chosen ch, tensor res)
{
    tensor gu = cmd_scratch(c, F32, 2 * m->n_ff, h.n_row * m->n_used);
    if (m->gate_up.n_in) {
        expert_linear(c, m, &m->gate_up, h, 0, gu, gu.stride, ch.id, ch.wt, NULL);
    } else {
        tensor g = tensor_cols(gu, 0, m->n_ff), u = tensor_cols(gu, m->n_ff, m->n_ff);
        expert_linear(c, m, &m->gate, h, 0, g, gu.stride, ch.id, ch.wt, NULL);
        expert_linear(c, m, &m->up, h, 0, u, gu.stride, ch.id, ch.wt, NULL);
    }
    tensor a = op_swiglu(c, gu), out = cmd_scratch(c, F32, res.n, h.n_row);
    tensor a_tok = a;                   /* a row a token, its slots side by side */
    a_tok.n = a_tok.stride = a.stride * m->n_used;
    a_tok.n_row = h.n_row;
    expert_linear(c, m, &m->down, a_tok, a.stride, out, 0, ch.id, ch.wt, &res);
    return out;
}

static tensor grouped(struct cmd *c, const struct moe *m, tensor h, struct chosen ch, tensor res)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n = h.n_row * m->n_used, n_row = n / m->n_expert;
    uint32_t tile = linear_group_tile(caps, n_row);
    struct grouping g = {
        .n_used = m->n_used, .n_row = n_row, .max_tile = n / tile + min_u32(n, m->n_expert),
    };
    g.entries = cmd_scratch(c, I32, n, 1);
    /* room for the lowest tiles: what a shorter batch takes must not be more than a longer one's */
    g.tiles = cmd_scratch(c, I32, 1 + 3 * (n / 4 + min_u32(n, m->n_expert)), 1);
    struct push_moe_sort sort = { .n_expert = m->n_expert, .n_used = m->n_used, .n_tok = h.n_row,
                                  .id_stride = ch.id.stride, .tile = tile };
    cmd_dispatch(c, K_moe_sort, GRID(1, 1, 1), SPEC(sort_wg(caps)), PUSH(sort),
                 USES(READ(ch.id), WRITE(g.entries), WRITE(g.tiles)));

    tensor gu = cmd_scratch(c, F32, 2 * m->n_ff, n);
    if (m->gate_up.n_in) {
        linear_grouped(c, &m->gate_up, h, false, gu, &g);
    } else {
        linear_grouped(c, &m->gate, h, false, tensor_cols(gu, 0, m->n_ff), &g);
        linear_grouped(c, &m->up, h, false, tensor_cols(gu, m->n_ff, m->n_ff), &g);
    }
    tensor each = cmd_scratch(c, F32, res.n, n), out = cmd_scratch(c, F32, res.n, h.n_row);
    linear_grouped(c, &m->down, op_swiglu(c, gu), true, each, &g);
    struct push_moe_sum sum = {
        .n = res.n, .n_tok = h.n_row, .n_used = m->n_used, .wt_stride = ch.wt.stride,
        .x_stride = each.stride, .res_stride = res.stride, .y_stride = out.stride,
    };
    uint32_t wg = wg_size(caps, 128);
    cmd_work(c, 2.0 * n * res.n);
    cmd_dispatch(c, K_moe_sum, GRID(div_up(res.n / 4 * h.n_row, wg), 1, 1), SPEC(wg), PUSH(sum),
                 USES(READ(each), READ(ch.wt), READ(res), WRITE(out)));
    return out;
}

tensor moe_by(struct cmd *c, enum moe_path path, tensor x, tensor norm, float eps,
              const struct moe *m)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor h = op_norm(c, x, norm, eps);
    tensor r = op_linear(c, h, LINEARS(&m->router, &m->shared_gate));
    struct chosen ch = {
        cmd_scratch(c, I32, m->n_used, x.n_row), cmd_scratch(c, F32, m->n_used, x.n_row),
    };
    struct push_route route = {
        .n_expert = m->n_expert, .n_used = m->n_used, .id_stride = ch.id.stride,
        .x_stride = r.stride, .x_col = r.col,
    };
    uint32_t wg = wg_size(caps, 64);
    cmd_dispatch(c, K_moe_route, GRID(x.n_row, 1, 1), SPEC(wg), PUSH(route),
                 USES(READ(r), WRITE(ch.id), WRITE(ch.wt)));

    /* the shared expert first: its output is what the routed ones are added to */
    tensor shared = op_linear(c, h, LINEARS(&m->sh_gate, &m->sh_up));
    tensor gate = tensor_cols(r, m->n_expert, 1);
    tensor y = op_swiglu_linear_add(c, shared, &m->sh_down, x, &gate);
    return path == MOE_GROUPED ? grouped(c, m, h, ch, y) : plain(c, m, h, ch, y);
}

tensor op_moe(struct cmd *c, tensor x, tensor norm, float eps, const struct moe *m)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    /* By size alone, not by cost: a shorter batch must not need more scratch than a longer one. */
    bool group = x.n_row > 8 && linear_group_tile(caps, 1);
    return moe_by(c, group ? MOE_GROUPED : MOE_PLAIN, x, norm, eps, m);
}
