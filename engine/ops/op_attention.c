/* op_attention: grouped-query attention over the cache, from the joint projection to the gated
 * heads.
 *
 * A layer may have RMSNorm on every query and key head, rotary embedding of the first n_rot
 * elements, and a sigmoid gate per element or per head. Softmax is in f32. A layer with a window
 * keeps its keys in a ring. The keys are divided into runs, which bound the loops of a shader and
 * give a GPU enough workgroups in decoding; a second dispatch merges the runs.
 *
 * A training row (batch.docs) has kernels of its own. Keys and values go to scratch and are not
 * divided, so that the result of a token depends only on its document. The backward does not keep
 * the softmax weights: it computes them again from scores, maximum and sum. */
#include "ops/op.h"

#include <math.h>

void rope_turns(double theta, uint32_t n_rot, const float *factor, uint32_t *turn)
{
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        /* The models' own code rounds the frequency to f32. The angle is not rounded afterwards
         * (models/README.md, "Shared operations"). */
        double exact = 1.0 / pow(theta, 2.0 * i / n_rot);
        double freq = (float)(factor ? exact / (double)factor[i] : exact);
        double t = freq / 6.283185307179586476925287, hi = floor(ldexp(t, 32));
        turn[2 * i] = (uint32_t)hi;
        turn[2 * i + 1] = (uint32_t)ldexp(ldexp(t, 32) - hi, 32);
    }
}

/* The number of keys in a run. They are few enough that an invocation has fewer than 60000 rounds
 * of loops (wg keys take head_dim/4 rounds for the scores and wg rounds for the values). On a GPU
 * the runs are short in decoding, so that there are enough workgroups to fill it: of a workgroup's
 * keys, twice, but no more than 256 runs. */
static uint32_t run_len(const struct gpu_caps *caps, uint32_t wg, uint32_t head_dim, uint32_t n_tok,
                        uint32_t n_key)
{
    uint32_t rounds = head_dim / 4 + wg + wg / caps->subgroup * 4 + 4;
    uint32_t most = 60000 / rounds * wg;
    uint32_t few = max_u32(2, div_up(n_key, 256 * wg)) * wg;
    return caps->kind != GPU_CPU && n_tok <= 8 ? min_u32(most, few) : most;
}

/* The number of query heads in a workgroup of attn_cols: those that share a key head, within two
 * limits. Registers must hold 2 * heads * head_dim numbers of queries and sums per lane, and the
 * unrolled loop must not take long to compile. */
static uint32_t cols_heads(const struct attention *a)
{
    uint32_t shared = a->n_head / a->n_kv_head, most = 128 / a->head_dim;
    for (uint32_t n = min_u32(shared, most); n > 0; n--)
        if (shared % n == 0)
            return n;
    return 0;
}

static tensor attention_docs(struct cmd *c, bool wide, tensor p, const struct attention *a,
                             const struct batch *b);

tensor op_attention(struct cmd *c, tensor p, const struct attention *a, const struct kv_layer *kv,
                    const struct batch *b)
{
    bool cpu = gpu_caps(cmd_gpu(c))->kind == GPU_CPU;
    if (b->docs)
        return attention_by(c, cpu ? ATTENTION_DOCS : ATTENTION_DOCS_WIDE, p, a, kv, b);
    bool cols = cpu && !batch_decodes(b) && b->n_tok >= 4 && cols_heads(a);
    return attention_by(c, cols ? ATTENTION_COLS : ATTENTION_PLAIN, p, a, kv, b);
}

/* The columns at which the parts of a row of p begin; gate: the gate of the first head. */
struct columns {
    uint32_t q, q_step, k, v, gate, end;
};

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

/* Normalises and rotates queries and keys. Queries go to q; keys and values go to the cache or, for
 * a training row, to the scratch that replaces it. */
static void prepare(struct cmd *c, tensor p, const struct attention *a, const struct kv_layer *kv,
                    const struct batch *b, struct spec spec, tensor q)
{
    struct columns col = columns(a, p.col);
    struct push_attn_prep push = {
        .n_head = a->n_head,
        .n_kv_head = a->n_kv_head,
        .head_dim = a->head_dim,
        .n_rot = a->n_rot,
        .n_seg = b->n_seg,
        .n_row = kv->n_row,
        .p_stride = p.stride,
        .q_col = col.q,
        .k_col = col.k,
        .v_col = col.v,
        .q_step = col.q_step,
        .eps = a->eps,
    };
    tensor where = b->docs ? b->docs->first : b->step;
    spec.norm = a->norm;
    spec.docs = b->docs != NULL;
    /* A binding that the kernel does not read gets the tensor of the tokens' positions. */
    cmd_work(c, 16.0 * (a->n_head + 2.0 * a->n_kv_head) * a->head_dim * b->n_tok);
    cmd_dispatch(c, K_attn_prep, GRID(a->n_head + 2 * a->n_kv_head, b->n_tok, 1), spec, PUSH(push),
                 USES(READ(p), READ(a->norm ? a->q_norm : where), READ(a->norm ? a->k_norm : where),
                      READ(a->n_rot ? a->turn : where), READ(where), WRITE(q), WRITE(kv->k),
                      WRITE(kv->v)));
}

tensor attention_by(struct cmd *c, enum attention_path path, tensor p, const struct attention *a,
                    const struct kv_layer *kv, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t hd = a->head_dim, n_tok = b->n_tok, wg = wg_size(caps, 64);
    bool cols = path == ATTENTION_COLS;
    if (cmd_failed(c))
        return p;
    if (b->docs)
        return attention_docs(c, path == ATTENTION_DOCS_WIDE, p, a, b);
    struct columns col = columns(a, p.col);
    HLM_ASSERT(p.col + p.n == col.end && p.n_row == n_tok);
    struct spec spec = SPEC(.wg = wg, .kv_type = kv->k.dtype, .ring = a->window != 0);
    tensor q = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    prepare(c, p, a, kv, b, spec, q);

    /* A workgroup of attn_cols reads from the first key that its first token sees to the key of its
     * last token. */
    uint32_t n_row = kv->n_row, tile = cols ? wg : 1;
    uint32_t n_key = a->window ? (uint32_t)min_u64(n_row, (uint64_t)a->window + tile - 1) : n_row;
    uint32_t len = run_len(caps, wg, hd, batch_decodes(b) ? 1 : n_tok, n_key);
    uint32_t n_split = div_up(n_key, len);
    tensor y = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    bool merge = n_split > 1 || cols;
    tensor part = merge ? cmd_scratch(c, F32, a->n_head * n_split * (hd + 4), n_tok) : y;
    struct push_attn push = {
        .n_tok = n_tok,
        .n_seg = b->n_seg,
        .n_head = a->n_head,
        .n_kv_head = a->n_kv_head,
        .head_dim = hd,
        .n_row = n_row,
        .window = a->window,
        .n_split = n_split,
        .split_len = len,
        .tile = tile,
        .merge = merge,
        .p_stride = p.stride,
        .gate_col = col.gate,
        .scale = (float)(1.0 / sqrt(hd)),
    };
    /* two products, over the window or over half of the causal square */
    cmd_work(c, (a->window ? 4.0 : 2.0) * a->n_head * hd * n_tok * n_key);
    /* the dispatch that divides by the sum also applies the gate */
    spec.gate = merge ? GATE_NONE : a->gate;
    if (cols) {
        uint32_t heads = cols_heads(a);
        spec.quads = hd / 4;
        spec.heads = heads;
        cmd_dispatch(c, K_attn_cols, GRID(a->n_head / heads, div_up(n_tok, wg), n_split), spec,
                     PUSH(push),
                     USES(READ(q), READ(kv->k), READ(kv->v), READ(b->step), READ(p), WRITE(part)));
    } else {
        spec.quads = div_up(hd / 4, wg);
        cmd_dispatch(c, K_attn, GRID(a->n_head, n_tok, n_split), spec, PUSH(push),
                     USES(READ(q), READ(kv->k), READ(kv->v), READ(b->step), READ(p), WRITE(part)));
    }
    if (merge) {
        spec = SPEC(.wg = wg, .ring = a->window != 0, .gate = a->gate);
        cmd_dispatch(c, K_attn_merge, GRID(a->n_head, n_tok, 1), spec, PUSH(push),
                     USES(READ(part), READ(p), READ(b->step), WRITE(y)));
    }
    return y;
}

/* ---- a row of documents ---------------------------------------------------------------------- */

/* How attn_docs and its backward divide a head: into slices so narrow that a lane has few rounds of
 * loops and few numbers. A lane has several query heads or keys, which share what it loads.
 * Measured on lavapipe, in GFLOP/s per core, for the forward and the two backward kernels: heads of
 * 32: 13, 16, 18; of 64: 11, 11, 13; of 128: 8, 9, 6. More numbers in a lane would be faster, but
 * take long to compile. */
struct cut {
    uint32_t wg, quads, slices, heads, keys, round;
};
enum cut_of { CUT_FORWARD, CUT_BWD_Q, CUT_BWD_KV };

static struct cut cut_heads(const struct gpu_caps *caps, const struct attention *a, bool wide,
                            enum cut_of of)
{
    struct cut f = { .wg = wide ? 128 : caps->subgroup,
                     .quads = a->head_dim / 4,
                     .slices = 1,
                     .heads = 1,
                     .keys = 1,
                     .round = 1 };
    uint32_t shared = a->n_head / a->n_kv_head;
    uint32_t most = wide ? (of == CUT_FORWARD ? 16 : 8) : of == CUT_BWD_KV ? 16 : 32;
    uint32_t least = wide ? 16 : 18;
    for (; f.quads % 2 == 0 && f.quads >= least && f.slices < f.wg; f.quads /= 2)
        f.slices *= 2;
    for (uint32_t n = 2; of != CUT_BWD_KV && n <= 4 && n * f.quads <= most; n++)
        if (shared % n == 0)
            f.heads = n;
    if (of == CUT_BWD_KV)
        f.keys = min_u32(max_u32(most / f.quads, 1), 4);
    if (wide && f.slices > 1)
        f.round = 4;
    else if (of == CUT_BWD_KV)
        f.round = 2;
    return f;
}

static struct spec cut_spec(const struct cut *f, const struct attention *a)
{
    return SPEC(.wg = f->wg, .quads = f->quads, .slices = f->slices, .heads = f->heads,
                .round = f->round, .window = a->window != 0);
}

static struct push_attn_docs push_docs(const struct attention *a, tensor p, tensor dp)
{
    return (struct push_attn_docs){
        .n_head = a->n_head,
        .n_kv_head = a->n_kv_head,
        .head_dim = a->head_dim,
        .n_tok = p.n_row,
        .window = a->window,
        .p_stride = p.stride,
        .gate_col = columns(a, p.col).gate,
        .d_stride = dp.stride,
        .d_gate_col = columns(a, dp.col).gate,
        .scale = (float)(1.0 / sqrt(a->head_dim)),
    };
}

/* The most rounds of loops of an invocation; each token of a row takes one. */
static uint32_t max_rounds(const struct gpu_caps *caps)
{
    return caps->loop_budget ? 59000 : UINT32_MAX;
}

/* The multiplications of all queries with all their keys, as if the row were a single document. */
static double docs_work(const struct attention *a, uint32_t n_tok)
{
    double n_key = a->window ? min_u32(a->window, n_tok) : 0.5 * n_tok;
    return 2.0 * a->n_head * a->head_dim * n_tok * n_key;
}

struct attention_rec {
    const struct attention *a;
    bool wide;
    tensor p, q, k, v, first, stat, y;
};

static tape_bwd attention_bwd;

static tensor attention_docs(struct cmd *c, bool wide, tensor p, const struct attention *a,
                             const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t hd = a->head_dim, n_tok = b->n_tok;
    struct cut f = cut_heads(caps, a, wide, CUT_FORWARD);
    tensor first = b->docs->first;
    if (n_tok > max_rounds(caps))
        cmd_fail_as(c, HLM_ERR_WONT_FIT, "attention over a row of %u tokens: %s can do %u", n_tok,
                    caps->driver, max_rounds(caps));
    HLM_ASSERT(p.n == columns(a, 0).end && p.n_row == n_tok);
    tensor q = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    struct kv_layer kv = { .k = cmd_scratch(c, F32, hd, a->n_kv_head * n_tok),
                           .v = cmd_scratch(c, F32, hd, a->n_kv_head * n_tok),
                           .n_row = n_tok };
    tensor stat = cmd_scratch(c, F32, 4, a->n_head * n_tok);
    tensor y = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    prepare(c, p, a, &kv, b, SPEC(.wg = f.wg, .kv_type = F32), q);

    struct push_attn_docs push = push_docs(a, p, p);
    struct spec spec = cut_spec(&f, a);
    spec.gate = a->gate;
    cmd_work(c, 2 * docs_work(a, n_tok));
    cmd_dispatch(
        c, K_attn_docs, GRID(div_up(n_tok, f.wg / f.slices), a->n_head / f.heads, 1), spec,
        PUSH(push),
        USES(READ(q), READ(kv.k), READ(kv.v), READ(first), READ(p), WRITE(y), WRITE(stat)));
    struct attention_rec rec = { a, wide, p, q, kv.k, kv.v, first, stat, y };
    tape_push(c, attention_bwd, &rec, sizeof rec);
    return y;
}

/* The gradients of keys and values, for as many query heads at a time as the limit on loops
 * permits. */
static void bwd_kv(struct cmd *c, const struct attention_rec *r, tensor d_o, tensor dk, tensor dv)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct attention *a = r->a;
    uint32_t n_tok = r->p.n_row, shared = a->n_head / a->n_kv_head;
    uint32_t n_heads = max_u32(max_rounds(caps) / (n_tok + 1), 1);
    struct cut f = cut_heads(caps, a, r->wide, CUT_BWD_KV);
    struct push_attn_docs push = push_docs(a, r->p, r->p);
    uint32_t tile = f.wg / f.slices * f.keys;
    struct spec spec = cut_spec(&f, a);
    spec.keys = f.keys;
    for (uint32_t h = 0; h < shared; h += n_heads) {
        push.head0 = h;
        push.n_heads = min_u32(n_heads, shared - h);
        push.more = h > 0;
        cmd_work(c, 4 * docs_work(a, n_tok) * push.n_heads / shared);
        cmd_dispatch(
            c, K_attn_docs_bwd_kv, GRID(div_up(n_tok, tile), a->n_kv_head, 1), spec, PUSH(push),
            USES(READ(r->q), READ(r->k), READ(r->v), READ(r->stat), READ(d_o), BOTH(dk), BOTH(dv)));
    }
}

/* Adds the gradients of queries, keys and values to that of the projection. */
static void prepare_bwd(struct cmd *c, const struct attention_rec *r, tensor dq, tensor dk,
                        tensor dv, tensor dp)
{
    const struct attention *a = r->a;
    struct columns col = columns(a, 0);
    tensor p = r->p, first = r->first;
    struct push_attn_prep_bwd push = {
        .n_head = a->n_head,
        .n_kv_head = a->n_kv_head,
        .head_dim = a->head_dim,
        .n_rot = a->n_rot,
        .n_tok = p.n_row,
        .p_stride = p.stride,
        .p_col = p.col,
        .d_stride = dp.stride,
        .d_col = dp.col,
        .k_col = col.k,
        .v_col = col.v,
        .q_step = col.q_step,
        .eps = a->eps,
    };
    struct spec spec = SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 64), .norm = a->norm);
    cmd_work(c, 30.0 * (a->n_head + 2.0 * a->n_kv_head) * a->head_dim * p.n_row);
    cmd_dispatch(c, K_attn_prep_bwd, GRID(a->n_head + 2 * a->n_kv_head, p.n_row, 1), spec,
                 PUSH(push),
                 USES(READ(p), READ(a->norm ? a->q_norm : first), READ(a->norm ? a->k_norm : first),
                      READ(a->n_rot ? a->turn : first), READ(first), READ(dq), READ(dk), READ(dv),
                      BOTH(dp)));
}

static void attention_bwd(struct cmd *c, const void *rec)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct attention_rec *r = rec;
    const struct attention *a = r->a;
    tensor p = r->p, dp = grad(c, p), dy = grad(c, r->y);
    uint32_t hd = a->head_dim, n_tok = p.n_row;
    struct cut f = cut_heads(caps, a, r->wide, CUT_BWD_Q);
    if (cmd_failed(c) || !dp.arena)
        return;
    HLM_ASSERT(dy.col == 0 && dy.stride == a->n_head * hd);
    struct push_attn_docs push = push_docs(a, p, dp);
    tensor dq = cmd_scratch(c, F32, a->n_head * hd, n_tok), d_o = dy;
    tensor dk = cmd_scratch(c, F32, hd, a->n_kv_head * n_tok);
    tensor dv = cmd_scratch(c, F32, hd, a->n_kv_head * n_tok);
    if (a->gate != GATE_NONE)
        d_o = cmd_scratch(c, F32, a->n_head * hd, n_tok);
    if (cmd_failed(c))
        return;
    cmd_work(c, 10.0 * a->n_head * hd * n_tok);
    /* Without a gate nothing is added to dp. d_o is then not written, and dq is bound instead. */
    cmd_dispatch(c, K_attn_docs_bwd, GRID(a->n_head, n_tok, 1),
                 SPEC(.wg = wg_size(caps, 64), .gate = a->gate), PUSH(push),
                 USES(READ(dy), READ(r->y), READ(p), READ(r->first), BOTH(dp), BOTH(r->stat),
                      WRITE(a->gate == GATE_NONE ? dq : d_o)));
    cmd_work(c, 3 * docs_work(a, n_tok));
    cmd_dispatch(c, K_attn_docs_bwd_q, GRID(div_up(n_tok, f.wg / f.slices), a->n_head / f.heads, 1),
                 cut_spec(&f, a), PUSH(push),
                 USES(READ(r->q), READ(r->k), READ(r->v), READ(r->stat), READ(d_o), WRITE(dq)));
    bwd_kv(c, r, d_o, dk, dv);
    prepare_bwd(c, r, dq, dk, dv, dp);
}
