/* op_delta: the Gated DeltaNet mixer, from the joint projection to the gated, normed heads.
 *
 * Recurrence: Yang, Kautz, Hatamizadeh, "Gated Delta Networks" (arXiv 2412.06464), in its serial
 * form. The state, the decay and the write strength are f32; shaders/gate.glsl is the one place
 * that computes them. */
#include "op.h"

tensor op_delta(struct cmd *c, tensor p, const struct delta *d, const struct delta_layer *s,
                const struct batch *b)
{
    return delta_by(c, b->n_tok == 1 ? DELTA_STEP : DELTA_PLAIN, p, d, s, b);
}

tensor delta_by(struct cmd *c, enum delta_path path, tensor p, const struct delta *d,
                const struct delta_layer *s, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n = d->d_state, d_conv = (2 * d->n_k_head + d->n_v_head) * n, d_out = d->n_v_head * n;
    uint32_t on_gpu = path == DELTA_STEP ? min_u32(max_u32(n, 32), 128) : min_u32(n, 64);
    uint32_t wg = wg_size(caps, on_gpu);
    if (cmd_failed(c))
        return p;
    HLM_ASSERT(p.n == d_conv + d_out + 2 * d->n_v_head && p.n_row == b->n_tok);
    struct push_delta push = {
        .n_k_head = d->n_k_head, .n_v_head = d->n_v_head, .d_state = n, .n_tok = b->n_tok,
        .p_stride = p.stride, .qkv_col = p.col, .z_col = p.col + d_conv,
        .b_col = p.col + d_conv + d_out, .a_col = p.col + d_conv + d_out + d->n_v_head,
        .tiled = d->tiled, .eps = d->eps,
    };

    tensor y = cmd_scratch(c, F32, d_out, b->n_tok);
    if (path == DELTA_STEP) {
        HLM_ASSERT(b->n_tok == 1);
        cmd_work(c, 8.0 * d_out * n + 40.0 * d_conv);
        cmd_dispatch(c, K_delta_step, GRID(d->n_v_head, 1, 1), SPEC(wg, n, d->conv_k), PUSH(push),
                     USES(READ(p), READ(d->conv), BOTH(s->window), READ(b->step), READ(d->ssm_a),
                          READ(d->dt_bias), BOTH(s->state), READ(d->norm), WRITE(y)));
        return y;
    }

    tensor u = cmd_scratch(c, F32, d_conv, b->n_tok);
    cmd_work(c, 2.0 * d_conv * (d->conv_k + 8) * b->n_tok);
    cmd_dispatch(c, K_delta_conv, GRID(2 * d->n_k_head + d->n_v_head, b->n_tok, 1),
                 SPEC(wg, d->conv_k), PUSH(push),
                 USES(READ(p), READ(d->conv), BOTH(s->window), READ(b->step), WRITE(u)));

    tensor o = cmd_scratch(c, F32, d_out, b->n_tok);
    cmd_work(c, 8.0 * d_out * n * b->n_tok);
    cmd_dispatch(c, K_delta_scan, GRID(d->n_v_head, div_up(n, wg), 1), SPEC(wg, n), PUSH(push),
                 USES(READ(u), READ(p), READ(d->ssm_a), READ(d->dt_bias), BOTH(s->state),
                      WRITE(o)));

    cmd_work(c, 16.0 * d_out * b->n_tok);
    cmd_dispatch(c, K_delta_norm, GRID(d->n_v_head, b->n_tok, 1), SPEC(wg), PUSH(push),
                 USES(READ(o), READ(p), READ(d->norm), WRITE(y)));
    return y;
}
