/* op_delta: the Gated DeltaNet mixer, from the joint projection to the gated, normed heads.
 *
 * Recurrence: Yang, Kautz, Hatamizadeh, "Gated Delta Networks" (arXiv 2412.06464), token by token
 * or in chunks, whose tokens meet in matrix products. The state, the decay and the write strength
 * are f32; shaders/gate.glsl is the one place that computes them. */
#include "op.h"

#define CHUNK_MIN 64        /* tokens from which chunks are worth it */
#define CHUNK_COLS 16       /* of the state in a workgroup, at most */

tensor op_delta(struct cmd *c, tensor p, const struct delta *d, const struct delta_layer *s,
                const struct batch *b)
{
    /* On a CPU device, whose shared memory is memory like any other, chunks take a fifth more time
     * than tokens for 16 heads of 128, nearly twice as much for 8 of 32. */
    bool chunks = b->n_tok >= CHUNK_MIN && gpu_caps(cmd_gpu(c))->kind != GPU_CPU;
    enum delta_path path = b->n_tok == 1 ? DELTA_STEP : chunks ? DELTA_CHUNK : DELTA_PLAIN;
    return delta_by(c, path, p, d, s, b);
}

/* The recurrence alone, by tokens: o from u. */
static void scan(struct cmd *c, tensor u, tensor p, tensor o, const struct delta *d,
                 const struct delta_layer *s, const struct push_delta *push)
{
    uint32_t n = d->d_state, wg = wg_size(gpu_caps(cmd_gpu(c)), min_u32(n, 64));
    cmd_work(c, 8.0 * o.n * n * push->n_tok);
    cmd_dispatch(c, K_delta_scan, GRID(d->n_v_head, div_up(n, wg), 1), SPEC(wg, n), PUSH(*push),
                 USES(READ(u), READ(p), READ(d->ssm_a), READ(d->dt_bias), BOTH(s->state),
                      WRITE(o)));
}

/* Chunks that one dispatch may walk over: loop_budget. */
static uint32_t chunks_at_once(const struct gpu_caps *caps, uint32_t chunk, uint32_t n_row,
                               uint32_t n)
{
    if (!caps->loop_budget)
        return UINT32_MAX;
    uint32_t rounds = div_up(chunk, n_row) * (n / 4 + chunk / 4 + 4) +
                      div_up(n / 4, n_row) * (chunk + 1) + 1;
    return max_u32(1, 50000 / rounds);
}

/* The same by chunks. */
static void scan_chunks(struct cmd *c, bool wide, tensor u, tensor p, tensor o,
                        const struct delta *d, const struct delta_layer *s,
                        const struct push_delta *from)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n = d->d_state, chunk = wide ? 64 : 32, n_chunk = div_up(from->n_tok, chunk);
    uint32_t lanes = min_u32(4 * chunk, caps->max_invocations);
    uint32_t wg = wide ? lanes : wg_size(caps, lanes), cols = CHUNK_COLS;
    while (cols > n || cols / 4 > wg)
        cols /= 2;
    struct push_delta_chunk push = {
        .n_k_head = d->n_k_head, .n_v_head = d->n_v_head, .n_tok = from->n_tok,
        .p_stride = from->p_stride, .b_col = from->b_col, .a_col = from->a_col,
        .tiled = from->tiled, .n_chunk = n_chunk,
    };
    tensor uw = cmd_scratch(c, F32, 2 * chunk * n, n_chunk * d->n_v_head);
    tensor within = cmd_scratch(c, F32, chunk * chunk, n_chunk * d->n_v_head);
    tensor gates = cmd_scratch(c, F32, 2 * chunk, n_chunk * d->n_v_head);
    cmd_work(c, (4.0 * n + chunk) * chunk * chunk * n_chunk * d->n_v_head);
    cmd_dispatch(c, K_delta_chunk, GRID(d->n_v_head, n_chunk, 1), SPEC(wg, n, chunk), PUSH(push),
                 USES(READ(u), READ(p), READ(d->ssm_a), READ(d->dt_bias), WRITE(uw), WRITE(within),
                      WRITE(gates)));

    uint32_t once = chunks_at_once(caps, chunk, wg / (cols / 4), n);
    for (; push.chunk0 < n_chunk; push.chunk0 += push.n_chunk) {
        push.n_chunk = min_u32(once, n_chunk - push.chunk0);
        cmd_work(c, (6.0 * n + chunk) * o.n * chunk * push.n_chunk);
        cmd_dispatch(c, K_delta_chunk_scan, GRID(d->n_v_head, div_up(n, cols), 1),
                     SPEC(wg, n, chunk, cols), PUSH(push),
                     USES(READ(u), READ(uw), READ(within), READ(gates), BOTH(s->state), WRITE(o)));
    }
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
    if (path == DELTA_PLAIN)
        scan(c, u, p, o, d, s, &push);
    else
        scan_chunks(c, path == DELTA_CHUNK_WIDE, u, p, o, d, s, &push);

    cmd_work(c, 16.0 * d_out * b->n_tok);
    cmd_dispatch(c, K_delta_norm, GRID(d->n_v_head, b->n_tok, 1), SPEC(wg), PUSH(push),
                 USES(READ(o), READ(p), READ(d->norm), WRITE(y)));
    return y;
}
