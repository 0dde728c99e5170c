/* op_attention: grouped-query attention over the cache, from the joint projection to
 * the gated heads.
 *
 * Qwen's form: RMSNorm on every query and key head, rotary on the first n_rot elements, softmax in
 * f32, and a sigmoid gate per element that comes with the query projection. Keys are cut in runs
 * that bound a shader's loops and give a GPU enough workgroups at decode; the runs are merged in a
 * second dispatch. */
#include "op.h"

#include <math.h>

void rope_turns(double theta, uint32_t n_rot, uint32_t *turn)
{
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        /* The models round the frequency to f32; the angle is then exact (models.md 3.1). */
        double freq = (float)(1.0 / pow(theta, 2.0 * i / n_rot));
        double t = freq / 6.283185307179586476925287, hi = floor(ldexp(t, 32));
        turn[2 * i] = (uint32_t)hi;
        turn[2 * i + 1] = (uint32_t)ldexp(ldexp(t, 32) - hi, 32);
    }
}

/* Keys of one run: at most what keeps an invocation's loop rounds below 60000 (a block of wg
 * keys takes head_dim/4 rounds for the scores and wg for the values), and on a GPU short at
 * decode, to fill it. */
static uint32_t run_len(const struct gpu_caps *caps, uint32_t wg, uint32_t head_dim, uint32_t n_tok)
{
    uint32_t rounds = head_dim / 4 + wg + wg / caps->subgroup * 4 + 4;
    uint32_t most = 60000 / rounds * wg;
    return caps->kind != GPU_CPU && n_tok <= 8 ? min_u32(most, 8 * wg) : most;
}

/* Query heads that a workgroup of attn_cols takes: those that share a key head, as far as a lane's
 * queries and sums (2 * heads * head_dim numbers) stay in reach of registers and the unrolled loop
 * compiles in bearable time. */
static uint32_t cols_heads(const struct attention *a)
{
    uint32_t shared = a->n_head / a->n_kv_head, most = 128 / a->head_dim;
    for (uint32_t n = min_u32(shared, most); n > 0; n--)
        if (shared % n == 0)
            return n;
    return 0;
}

tensor op_attention(struct cmd *c, tensor p, const struct attention *a, const struct kv_layer *kv,
                    const struct batch *b)
{
    bool cols = gpu_caps(cmd_gpu(c))->kind == GPU_CPU && b->n_tok >= 4 && cols_heads(a);
    return attention_by(c, cols ? ATTENTION_COLS : ATTENTION_PLAIN, p, a, kv, b);
}

tensor attention_by(struct cmd *c, enum attention_path path, tensor p, const struct attention *a,
                    const struct kv_layer *kv, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t hd = a->head_dim, n_ctx = kv->k.n_row / a->n_kv_head, f16 = kv->k.dtype == F16;
    uint32_t wg = wg_size(caps, 64);
    uint32_t q_col = p.col, k_col = q_col + 2 * hd * a->n_head, v_col = k_col + hd * a->n_kv_head;
    if (cmd_failed(c))
        return p;
    HLM_ASSERT(p.n == 2 * hd * (a->n_head + a->n_kv_head) && p.n_row == b->n_tok);

    tensor q = cmd_scratch(c, F32, a->n_head * hd, b->n_tok);
    struct push_attn_prep prep = {
        .n_head = a->n_head, .n_kv_head = a->n_kv_head, .head_dim = hd, .n_rot = a->n_rot,
        .n_ctx = n_ctx, .p_stride = p.stride, .q_col = q_col, .k_col = k_col, .v_col = v_col,
        .eps = a->eps,
    };
    cmd_work(c, 16.0 * (a->n_head + 2.0 * a->n_kv_head) * hd * b->n_tok);
    cmd_dispatch(c, K_attn_prep, GRID(a->n_head + 2 * a->n_kv_head, b->n_tok, 1), SPEC(wg, f16),
                 PUSH(prep),
                 USES(READ(p), READ(a->q_norm), READ(a->k_norm), READ(a->turn), READ(b->step),
                      WRITE(q), WRITE(kv->k), WRITE(kv->v)));

    uint32_t len = run_len(caps, wg, hd, b->n_tok), n_split = div_up(n_ctx, len);
    tensor y = cmd_scratch(c, F32, a->n_head * hd, b->n_tok);
    bool merge = n_split > 1 || path == ATTENTION_COLS;
    tensor part = merge ? cmd_scratch(c, F32, a->n_head * n_split * (hd + 4), b->n_tok) : y;
    struct push_attn push = {
        .n_tok = b->n_tok, .n_head = a->n_head, .n_kv_head = a->n_kv_head, .head_dim = hd,
        .n_ctx = n_ctx, .n_split = n_split, .split_len = len, .merge = merge,
        .p_stride = p.stride, .q_col = q_col,
        .scale = (float)(1.0 / sqrt(hd)),
    };
    /* half of the causal square, both products */
    cmd_work(c, 2.0 * a->n_head * hd * b->n_tok * n_ctx);
    uint32_t heads = path == ATTENTION_COLS ? cols_heads(a) : 1;
    if (path == ATTENTION_COLS)
        cmd_dispatch(c, K_attn_cols, GRID(a->n_head / heads, div_up(b->n_tok, wg), n_split),
                     SPEC(wg, f16, hd / 4, heads), PUSH(push),
                     USES(READ(q), READ(kv->k), READ(kv->v), READ(b->step), READ(p), WRITE(part)));
    else
        cmd_dispatch(c, K_attn, GRID(a->n_head, b->n_tok, n_split),
                     SPEC(wg, f16, div_up(hd / 4, wg)), PUSH(push),
                     USES(READ(q), READ(kv->k), READ(kv->v), READ(b->step), READ(p), WRITE(part)));
    if (merge)
        cmd_dispatch(c, K_attn_merge, GRID(a->n_head, b->n_tok, 1), SPEC(wg), PUSH(push),
                     USES(READ(part), READ(p), READ(b->step), WRITE(y)));
    return y;
}
