/* op_attention: grouped-query attention over the cache, from the joint projection to
 * the gated heads.
 *
 * RMSNorm on every query and key head, rotary on the first n_rot elements, softmax in f32, and a
 * sigmoid gate per element or per head, each where the layer has it. A layer with a window keeps
 * its keys in a ring. Keys are cut in runs that bound a shader's loops and give a GPU enough
 * workgroups at decode; the runs are merged in a second dispatch. */
#include "op.h"

#include <math.h>

void rope_turns(double theta, uint32_t n_rot, const float *factor, uint32_t *turn)
{
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        /* The models round the frequency to f32; the angle is then exact (models.md 3.1). */
        double exact = 1.0 / pow(theta, 2.0 * i / n_rot);
        double freq = (float)(factor ? exact / (double)factor[i] : exact);
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

/* Where the parts of a row of p begin; gate: that of the first head. */
struct columns { uint32_t q, q_step, k, v, gate, end; };

static struct columns columns(const struct attention *a, uint32_t col)
{
    uint32_t hd = a->head_dim, step = a->gate == GATE_ELEM ? 2 * hd : hd;
    struct columns p = { .q = col, .q_step = step, .k = col + step * a->n_head };
    p.v = p.k + hd * a->n_kv_head;
    p.end = p.v + hd * a->n_kv_head;
    p.gate = a->gate == GATE_ELEM ? col + hd : p.end;
    p.end += a->gate == GATE_HEAD ? a->n_head : 0;
    return p;
}

/* Queries normed and rotated into q; keys, the same, and values into the cache. */
static void prepare(struct cmd *c, tensor p, const struct attention *a, const struct kv_layer *kv,
                    const struct batch *b, struct spec spec, tensor q)
{
    struct columns col = columns(a, p.col);
    struct push_attn_prep push = {
        .n_head = a->n_head, .n_kv_head = a->n_kv_head, .head_dim = a->head_dim, .n_rot = a->n_rot,
        .n_row = kv->k.n_row / a->n_kv_head, .p_stride = p.stride, .q_col = col.q, .k_col = col.k,
        .v_col = col.v, .q_step = col.q_step, .eps = a->eps,
    };
    spec.v[2] = a->norm;
    /* a binding that is not read is the step */
    cmd_work(c, 16.0 * (a->n_head + 2.0 * a->n_kv_head) * a->head_dim * b->n_tok);
    cmd_dispatch(c, K_attn_prep, GRID(a->n_head + 2 * a->n_kv_head, b->n_tok, 1), spec, PUSH(push),
                 USES(READ(p), READ(a->norm ? a->q_norm : b->step),
                      READ(a->norm ? a->k_norm : b->step), READ(a->n_rot ? a->turn : b->step),
                      READ(b->step), WRITE(q), WRITE(kv->k), WRITE(kv->v)));
}

tensor attention_by(struct cmd *c, enum attention_path path, tensor p, const struct attention *a,
                    const struct kv_layer *kv, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t hd = a->head_dim, n_tok = b->n_tok, wg = wg_size(caps, 64);
    bool cols = path == ATTENTION_COLS;
    if (cmd_failed(c))
        return p;
    struct columns col = columns(a, p.col);
    HLM_ASSERT(p.col + p.n == col.end && p.n_row == n_tok);
    struct spec spec = SPEC(wg, kv->k.dtype == F32 ? KV_F32 : kv->k.dtype == F16 ? KV_F16 : KV_Q8);
    spec.v[6] = a->window != 0;
    tensor q = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    prepare(c, p, a, kv, b, spec, q);

    /* A workgroup of attn_cols begins with the first key of its first token and ends with its last
     * token's own. */
    uint32_t n_row = kv->k.n_row / a->n_kv_head, tile = cols ? wg : 1;
    uint32_t n_key = a->window ? (uint32_t)min_u64(n_row, (uint64_t)a->window + tile - 1) : n_row;
    uint32_t len = run_len(caps, wg, hd, n_tok), n_split = div_up(n_key, len);
    tensor y = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    bool merge = n_split > 1 || cols;
    tensor part = merge ? cmd_scratch(c, F32, a->n_head * n_split * (hd + 4), n_tok) : y;
    struct push_attn push = {
        .n_tok = n_tok, .n_head = a->n_head, .n_kv_head = a->n_kv_head, .head_dim = hd,
        .n_row = n_row, .window = a->window, .n_split = n_split, .split_len = len, .tile = tile,
        .merge = merge, .p_stride = p.stride, .gate_col = col.gate,
        .scale = (float)(1.0 / sqrt(hd)),
    };
    /* both products, of a window or of half the causal square */
    cmd_work(c, (a->window ? 4.0 : 2.0) * a->n_head * hd * n_tok * n_key);
    spec.v[5] = merge ? GATE_NONE : a->gate;    /* who divides, gates */
    if (cols) {
        uint32_t heads = cols_heads(a);
        spec.v[2] = hd / 4;
        spec.v[3] = heads;
        cmd_dispatch(c, K_attn_cols, GRID(a->n_head / heads, div_up(n_tok, wg), n_split), spec,
                     PUSH(push), USES(READ(q), READ(kv->k), READ(kv->v), READ(b->step), READ(p),
                                      WRITE(part)));
    } else {
        spec.v[2] = div_up(hd / 4, wg);
        cmd_dispatch(c, K_attn, GRID(a->n_head, n_tok, n_split), spec, PUSH(push),
                     USES(READ(q), READ(kv->k), READ(kv->v), READ(b->step), READ(p), WRITE(part)));
    }
    if (merge) {
        spec.v[1] = spec.v[2] = spec.v[3] = 0;
        spec.v[5] = a->gate;
        cmd_dispatch(c, K_attn_merge, GRID(a->n_head, n_tok, 1), spec, PUSH(push),
                     USES(READ(part), READ(p), READ(b->step), WRITE(y)));
    }
    return y;
}
