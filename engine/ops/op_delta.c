/* op_delta: the Gated DeltaNet mixer, from the joint projection to the gated, normalised heads.
 *
 * The recurrence (Yang, Kautz, Hatamizadeh, "Gated Delta Networks", arXiv 2412.06464) is computed
 * token by token, or in chunks, where matrix products combine the tokens of a chunk. The state, the
 * decay and the write strength are f32; only shaders/gate.glsl computes them.
 *
 * A training row is always computed in chunks that begin and end with its documents, and only this
 * form has a backward (models/README.md, "DeltaNet backward"). */
#include "ops/op.h"

#define CHUNK_MIN 64                 /* chunks are faster from this many tokens on */
#define CHUNK_COLS 16                /* the most columns of the state in a workgroup */
#define MAX_CHUNK_BYTES (128u << 20) /* for each tensor that is kept of the chunks of documents */

static tensor delta_docs(struct cmd *c, tensor p, const struct delta *d, const struct recurrent *s,
                         const struct batch *b);

tensor op_delta(struct cmd *c, tensor p, const struct delta *d, const struct recurrent *s,
                const struct batch *b)
{
    if (b->docs)
        return delta_docs(c, p, d, s, b);
    /* A CPU device has no faster shared memory: there chunks take 20 % longer than single tokens
     * for 16 heads of 128, and nearly twice as long for 8 heads of 32. */
    bool cpu = gpu_caps(cmd_gpu(c))->kind == GPU_CPU;
    enum delta_path path = batch_decodes(b)                ? cpu ? DELTA_STEP : DELTA_STEP_WIDE
                           : b->n_tok >= CHUNK_MIN && !cpu ? DELTA_CHUNK
                                                           : DELTA_PLAIN;
    return delta_by(c, path, p, d, s, b);
}

/* The recurrence token by token, from u to o. */
static void delta_scan(struct cmd *c, tensor u, tensor p, tensor o, const struct delta *d,
                       const struct recurrent *s, const struct batch *b,
                       const struct push_delta *push)
{
    uint32_t n = d->d_state, wg = wg_size(gpu_caps(cmd_gpu(c)), min_u32(n, 64));
    cmd_work(c, 8.0 * o.n * n * push->n_tok);
    cmd_dispatch(c, K_delta_scan, GRID(d->n_v_head, div_up(n, wg), 1), SPEC(.wg = wg, .d_state = n),
                 PUSH(*push),
                 USES(READ(u), READ(p), READ(d->ssm_a), READ(d->dt_bias), BOTH(s->state), WRITE(o),
                      READ(b->step)));
}

/* ---- in chunks ------------------------------------------------------------------------------- */

/* Tensors for the chunks of some K heads with their V heads. A tensor has one row for each V head
 * and chunk; the rows of a head are adjacent. */
struct chunked {
    struct push_delta_chunk push;
    struct spec make, walk;
    uint32_t once;            /* the most chunks of one dispatch */
    uint32_t n_k_head, n_row; /* the K heads for which there is room at the same time; their rows */
    tensor uw, within, gates, state;
    tensor step; /* not of documents */
    tensor chunks, solve,
        states; /* of documents; states only if there is a backward; otherwise zero */
};

/* The most chunks that one dispatch may walk over (gpu_caps.loop_budget). */
static uint32_t chunks_at_once(const struct gpu_caps *caps, uint32_t chunk, uint32_t n_row,
                               uint32_t n)
{
    if (!caps->loop_budget)
        return UINT32_MAX;
    uint32_t rounds =
        div_up(chunk, n_row) * (n / 4 + chunk / 4 + 4) + div_up(n / 4, n_row) * (chunk + 4) + 3;
    return max_u32(1, 50000 / rounds);
}

/* docs NULL: the chunks are of tokens that continue what the caches hold. */
static struct chunked chunked_plan(const struct gpu_caps *caps, uint32_t chunk, uint32_t wg,
                                   const struct delta *d, const struct push_delta *from,
                                   const struct docs *docs)
{
    uint32_t n = d->d_state, cols = CHUNK_COLS, n_chunk = div_up(from->n_tok, chunk);
    while (cols > n || cols / 4 > wg)
        cols /= 2;
    bool cpu = caps->kind == GPU_CPU; /* there loads take most of the time */
    uint32_t rows = cpu ? 4 : 1, fours = cpu && n / 4 % 2 == 0 ? 2 : 1;
    if (docs)
        n_chunk = docs->n_chunk;
    struct chunked k = {
        .push = { .n_k_head = d->n_k_head,
                  .n_v_head = d->n_v_head,
                  .d_state = n,
                  .n_tok = from->n_tok,
                  .p_stride = from->p_stride,
                  .b_col = from->b_col,
                  .a_col = from->a_col,
                  .tiled = from->tiled,
                  .chunk = chunk,
                  .n_slot = n_chunk },
        .make = SPEC(.wg = wg, .d_state = n, .chunk = chunk, .docs = docs != NULL),
        .walk = SPEC(.wg = wg, .d_state = n, .chunk = chunk, .cols = cols, .rows = rows,
                     .fours = fours, .docs = docs != NULL),
        .once = chunks_at_once(caps, chunk, wg / (cols / 4), n),
        .n_k_head = d->n_k_head,
        .n_row = n_chunk * d->n_v_head,
    };
    if (docs) { /* more tokens never get fewer rows */
        uint64_t most = min_u64(MAX_CHUNK_BYTES, caps->max_range);
        uint64_t widest = 4ull * max_u32(n * n, 2 * chunk * max_u32(n, chunk));
        uint32_t of_k_head = k.n_row / d->n_k_head;
        k.n_row = (uint32_t)min_u64(k.n_row, max_u64(most / widest, of_k_head));
        k.n_k_head = k.n_row / of_k_head;
    }
    return k;
}

/* states: keeps the states with which the chunks of documents begin. */
static void chunked_take(struct cmd *c, struct chunked *k, const struct docs *docs, bool states)
{
    uint32_t n = k->push.d_state, chunk = k->push.chunk;
    tensor none = cmd_scratch(c, F32, 4, 1);
    k->uw = cmd_scratch(c, F32, 2 * chunk * n, k->n_row);
    k->within = cmd_scratch(c, F32, chunk * chunk, k->n_row);
    k->gates = cmd_scratch(c, F32, GATE_ROWS * chunk, k->n_row);
    k->chunks = docs ? docs->chunks : none;
    k->solve = docs ? cmd_scratch(c, F32, 2 * chunk * chunk, k->n_row) : none;
    k->states = states ? cmd_scratch(c, F32, n * n, k->n_row) : none;
    if (docs) {
        k->state = cmd_scratch(c, F32, n * n, k->push.n_v_head);
        k->step = none;
    }
}

/* For the K heads from k_head0 on, from u to o. */
static void chunked_run(struct cmd *c, struct chunked *k, uint32_t k_head0, tensor u, tensor p,
                        tensor o, const struct delta *d)
{
    uint32_t n = d->d_state, chunk = k->push.chunk, n_slot = k->push.n_slot;
    uint32_t n_head = min_u32(k->n_k_head, d->n_k_head - k_head0) * (d->n_v_head / d->n_k_head);
    k->push.k_head0 = k_head0;
    cmd_work(c, (4.0 * n + chunk) * chunk * chunk * n_slot * n_head);
    cmd_dispatch(c, K_delta_chunk, GRID(n_head, n_slot, 1), k->make, PUSH(k->push),
                 USES(READ(u), READ(p), READ(d->ssm_a), READ(d->dt_bias), READ(k->chunks),
                      WRITE(k->uw), WRITE(k->within), WRITE(k->gates), WRITE(k->solve)));
    for (k->push.chunk0 = 0; k->push.chunk0 < n_slot; k->push.chunk0 += k->push.n_chunk) {
        k->push.n_chunk = min_u32(k->once, n_slot - k->push.chunk0);
        cmd_work(c, (6.0 * n + chunk) * n * n_head * chunk * k->push.n_chunk);
        cmd_dispatch(c, K_delta_chunk_scan, GRID(n_head, div_up(n, k->walk.cols), 1), k->walk,
                     PUSH(k->push),
                     USES(READ(u), BOTH(k->uw), READ(k->within), READ(k->gates), READ(k->chunks),
                          BOTH(k->state), WRITE(o), WRITE(k->states), READ(k->step)));
    }
}

/* The recurrence in chunks, from u to o. */
static void delta_scan_chunks(struct cmd *c, bool wide, tensor u, tensor p, tensor o,
                              const struct delta *d, const struct recurrent *s,
                              const struct batch *b, const struct push_delta *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t chunk = wide ? 64 : 32, lanes = min_u32(4 * chunk, caps->max_invocations);
    struct chunked k =
        chunked_plan(caps, chunk, wide ? lanes : wg_size(caps, lanes), d, push, NULL);
    chunked_take(c, &k, NULL, false);
    k.state = s->state;
    k.step = b->step;
    chunked_run(c, &k, 0, u, p, o, d);
}

/* ---- the whole mixer ------------------------------------------------------------------------- */

static struct push_delta push_of(tensor p, const struct delta *d, uint32_t n_tok)
{
    uint32_t n = d->d_state, d_conv = (2 * d->n_k_head + d->n_v_head) * n, d_out = d->n_v_head * n;
    HLM_ASSERT(p.n == d_conv + d_out + 2 * d->n_v_head && p.n_row == n_tok);
    return (struct push_delta){
        .n_k_head = d->n_k_head,
        .n_v_head = d->n_v_head,
        .d_state = n,
        .n_tok = n_tok,
        .p_stride = p.stride,
        .qkv_col = p.col,
        .z_col = p.col + d_conv,
        .b_col = p.col + d_conv + d_out,
        .a_col = p.col + d_conv + d_out + d->n_v_head,
        .tiled = d->tiled,
        .eps = d->eps,
    };
}

/* A workgroup has a multiple of 32 lanes, so that its subgroups are complete. Mesa 22.3.6 computed
 * wrong sums with an incomplete one (subgroups of 8, workgroups of 12). */
static uint32_t head_wg(struct cmd *c, const struct delta *d)
{
    return wg_size(gpu_caps(cmd_gpu(c)), d->d_state > 32 ? 64 : 32);
}

/* Returns u: the heads of q, k and v. */
static tensor delta_conv(struct cmd *c, tensor p, const struct delta *d, const struct recurrent *s,
                         const struct batch *b, const struct push_delta *push)
{
    uint32_t n_head = 2 * d->n_k_head + d->n_v_head, d_conv = n_head * d->d_state;
    struct spec spec = SPEC(.wg = head_wg(c, d), .conv_k = d->conv_k);
    tensor u = cmd_scratch(c, F32, d_conv, b->n_tok);
    cmd_work(c, 2.0 * d_conv * (d->conv_k + 8) * b->n_tok);
    if (b->docs)
        cmd_dispatch(c, K_delta_conv_docs, GRID(n_head, div_up(b->n_tok, CONV_TOKENS), 1), spec,
                     PUSH(*push), USES(READ(p), READ(d->conv), READ(b->docs->first), BOTH(u)));
    else
        cmd_dispatch(c, K_delta_conv, GRID(n_head, b->n_tok, 1), spec, PUSH(*push),
                     USES(READ(p), READ(d->conv), BOTH(s->window), READ(b->step), WRITE(u)));
    return u;
}

static void delta_gate_stats(struct cmd *c, tensor p, const struct delta *d,
                             const struct recurrent *s, const struct batch *b,
                             const struct push_delta *push)
{
    const struct gate_input in = { p, d->ssm_a, d->dt_bias, push->a_col, push->b_col };
    if (b->stats && s->stats.gates.arena)
        op_gate_stats(c, &in, b, s->stats.gates);
}

static void delta_norm(struct cmd *c, tensor o, tensor p, tensor y, const struct delta *d,
                       const struct push_delta *push)
{
    cmd_work(c, 16.0 * y.n * y.n_row);
    cmd_dispatch(c, K_delta_norm, GRID(d->n_v_head, y.n_row, 1), SPEC(.wg = head_wg(c, d)),
                 PUSH(*push), USES(READ(o), READ(p), READ(d->norm), WRITE(y)));
}

/* How many lanes share a column of a head's state [n][n], with at least MIN_ROWS rows each. 1: the
 * device or n does not allow more. */
static uint32_t column_lanes(const struct gpu_caps *caps, uint32_t n)
{
    enum { MIN_ROWS = 16 };
    for (uint32_t lanes = n / MIN_ROWS; lanes > 1; lanes--)
        if (n % lanes == 0 && lanes * n % 32 == 0 && lanes * n <= caps->max_invocations)
            return lanes;
    return 1;
}

/* Segments of one token. wide: many lanes share a column of the state, as GPUs want it. */
static void delta_step(struct cmd *c, bool wide, tensor p, tensor y, const struct delta *d,
                       const struct recurrent *s, const struct batch *b,
                       const struct push_delta *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n = d->d_state, lanes = wide ? column_lanes(caps, n) : 1;
    uint32_t wg = lanes > 1 ? lanes * n : wg_size(caps, min_u32(max_u32(n, 32), 128));
    HLM_ASSERT(batch_decodes(b));
    cmd_work(c, (8.0 * y.n * n + 40.0 * (2 * d->n_k_head + d->n_v_head) * n) * b->n_tok);
    cmd_dispatch(c, K_delta_step, GRID(d->n_v_head, b->n_seg, 1),
                 SPEC(.wg = wg, .d_state = n, .conv_k = d->conv_k, .lanes = lanes), PUSH(*push),
                 USES(READ(p), READ(d->conv), BOTH(s->window), READ(b->step), READ(d->ssm_a),
                      READ(d->dt_bias), BOTH(s->state), READ(d->norm), WRITE(y)));
}

tensor delta_by(struct cmd *c, enum delta_path path, tensor p, const struct delta *d,
                const struct recurrent *s, const struct batch *b)
{
    uint32_t d_out = d->n_v_head * d->d_state;
    if (cmd_failed(c))
        return p;
    struct push_delta push = push_of(p, d, b->n_tok);
    tensor y = cmd_scratch(c, F32, d_out, b->n_tok);
    delta_gate_stats(c, p, d, s, b, &push);
    if (path == DELTA_STEP || path == DELTA_STEP_WIDE) {
        delta_step(c, path == DELTA_STEP_WIDE, p, y, d, s, b, &push);
        return y;
    }
    HLM_ASSERT(b->n_seg == 1);
    tensor u = delta_conv(c, p, d, s, b, &push);
    tensor o = cmd_scratch(c, F32, d_out, b->n_tok);
    if (path == DELTA_PLAIN)
        delta_scan(c, u, p, o, d, s, b, &push);
    else
        delta_scan_chunks(c, path == DELTA_CHUNK_WIDE, u, p, o, d, s, b, &push);
    delta_norm(c, o, p, y, d, &push);
    return y;
}

/* ---- documents ------------------------------------------------------------------------------- */

struct delta_docs_rec {
    const struct delta *d;
    struct docs docs;
    tensor p, u, o, y;
    struct chunked k; /* the forward's chunks */
};

static struct chunked docs_plan(struct cmd *c, const struct delta *d, const struct push_delta *push,
                                const struct docs *docs)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t lanes = min_u32(4 * docs->chunk, caps->max_invocations);
    return chunked_plan(caps, docs->chunk, wg_size(caps, lanes), d, push, docs);
}

static tape_bwd delta_docs_bwd;

/* Statistics of the states with which the chunks of some K heads begin. */
static void delta_state_stats(struct cmd *c, const struct chunked *k, uint32_t k_head0,
                              const struct recurrent *s, const struct docs *docs)
{
    uint32_t n_shared = k->push.n_v_head / k->push.n_k_head, n_slot = k->push.n_slot;
    struct state_stats stats = {
        .states = k->states,
        .n = k->push.d_state * k->push.d_state,
        .n_head = min_u32(k->n_k_head, k->push.n_k_head - k_head0) * n_shared,
        .docs = docs,
        .by_head = n_slot,
        .by_chunk = 1,
        .n_chunk = n_slot,
        .head0 = k_head0 * n_shared,
        .to = s->stats.state,
    };
    op_state_stats(c, &stats);
}

static tensor delta_docs(struct cmd *c, tensor p, const struct delta *d, const struct recurrent *s,
                         const struct batch *b)
{
    bool stats = b->stats && s->stats.state.arena;
    uint32_t d_out = d->n_v_head * d->d_state;
    if (cmd_failed(c))
        return p;
    struct push_delta push = push_of(p, d, b->n_tok);
    struct chunked k = docs_plan(c, d, &push, b->docs);
    tensor y = cmd_scratch(c, F32, d_out, b->n_tok), u = delta_conv(c, p, d, NULL, b, &push);
    tensor o = cmd_scratch(c, F32, d_out, b->n_tok);
    delta_gate_stats(c, p, d, s, b, &push);
    chunked_take(c, &k, b->docs, stats || tape_runs(c));
    if (cmd_failed(c))
        return p;
    /* If the heads do not all fit at the same time, their states are not kept, and the backward
     * computes them a second time. */
    k.push.keep = stats || (tape_runs(c) && k.n_k_head == d->n_k_head);
    for (uint32_t k_head = 0; k_head < d->n_k_head; k_head += k.n_k_head) {
        chunked_run(c, &k, k_head, u, p, o, d);
        if (stats)
            delta_state_stats(c, &k, k_head, s, b->docs);
    }
    delta_norm(c, o, p, y, d, &push);
    struct delta_docs_rec rec = { d, *b->docs, p, u, o, y, k };
    tape_push(c, delta_docs_bwd, &rec, sizeof rec);
    return y;
}

/* Tensors of the backward for the chunks of some K heads; rows are as in struct chunked. */
struct chunked_bwd {
    tensor d_o, du, dp, sums; /* of all heads */
    tensor dv, dr, dm, parts, pair;
};

static struct chunked_bwd bwd_take(struct cmd *c, const struct chunked *k)
{
    uint32_t n = k->push.d_state, chunk = k->push.chunk, n_tok = k->push.n_tok;
    uint32_t n_v_head = k->push.n_v_head, n_k_head = k->push.n_k_head;
    return (struct chunked_bwd){
        .d_o = cmd_scratch(c, F32, n_v_head * n, n_tok),
        .du = cmd_scratch(c, F32, (2 * n_k_head + n_v_head) * n, n_tok),
        .sums = cmd_scratch(c, F32, 2 * n_v_head * n_tok, 1),
        .dv = cmd_scratch(c, F32, chunk * n, k->n_row),
        .dr = cmd_scratch(c, F32, chunk * n, k->n_row),
        .dm = cmd_scratch(c, F32, n * n, k->n_row),
        .parts = cmd_scratch(c, F32, chunk * n, k->n_row),
        .pair = cmd_scratch(c, F32, 2 * chunk * chunk, k->n_row / (n_v_head / n_k_head) + 1),
    };
}

/* The walk over the gradients of the states, from the last chunk to the first. */
static void walk_bwd(struct cmd *c, struct chunked *k, uint32_t n_head, tensor u,
                     const struct chunked_bwd *g)
{
    uint32_t n = k->push.d_state, chunk = k->push.chunk;
    struct spec spec = k->walk;
    spec.docs = 0;
    for (uint32_t left = k->push.n_slot; left > 0; left -= k->push.n_chunk) {
        k->push.n_chunk = min_u32(k->once, left);
        k->push.chunk0 = left - k->push.n_chunk;
        cmd_work(c, 6.0 * n * n * n_head * chunk * k->push.n_chunk);
        cmd_dispatch(c, K_delta_chunk_scan_bwd, GRID(n_head, div_up(n, spec.cols), 1), spec,
                     PUSH(k->push),
                     USES(READ(u), READ(k->uw), READ(k->gates), READ(k->chunks), READ(g->d_o),
                          BOTH(g->dv), BOTH(k->state), WRITE(g->dm)));
    }
}

static void lower_bwd(struct cmd *c, struct chunked *k, uint32_t n_head, tensor u, bool solve,
                      const struct chunked_bwd *g)
{
    double n = k->push.d_state, chunk = k->push.chunk;
    k->push.by_slot = solve;
    cmd_work(c, n * chunk * chunk * k->push.n_slot * n_head);
    cmd_dispatch(c, K_delta_chunk_lower_bwd, GRID(n_head, k->push.n_slot, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 128)), PUSH(k->push),
                 USES(READ(solve ? k->solve : k->within), READ(solve ? g->dv : g->d_o),
                      READ(k->chunks), WRITE(solve ? g->dr : g->dv), READ(u), READ(k->gates),
                      WRITE(g->du), WRITE(g->parts)));
}

/* For the K heads whose forward is in k. */
static void chunked_run_bwd(struct cmd *c, struct chunked *k, tensor u, tensor p,
                            const struct delta *d, const struct chunked_bwd *g)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n_k = min_u32(k->n_k_head, d->n_k_head - k->push.k_head0), n_slot = k->push.n_slot;
    uint32_t n = d->d_state, chunk = k->push.chunk, n_head = n_k * (d->n_v_head / d->n_k_head);
    struct spec spec = SPEC(.wg = wg_size(caps, 128));
    double tokens = (double)chunk * n_slot * n_head;
    lower_bwd(c, k, n_head, u, false, g);
    walk_bwd(c, k, n_head, u, g);
    lower_bwd(c, k, n_head, u, true, g);
    cmd_work(c, 6.0 * n * n * tokens);
    cmd_dispatch(c, K_delta_chunk_state_bwd, GRID(n_k, n_slot, chunk / 8), spec, PUSH(k->push),
                 USES(READ(u), READ(k->uw), READ(k->gates), READ(k->chunks), READ(g->d_o),
                      READ(g->dr), READ(k->states), READ(g->dm), WRITE(g->du), WRITE(g->parts)));
    cmd_work(c, 2.0 * n * chunk * tokens);
    cmd_dispatch(c, K_delta_chunk_pair_bwd, GRID(n_k, n_slot, 1), spec, PUSH(k->push),
                 USES(READ(k->uw), BOTH(k->within), BOTH(k->solve), READ(k->gates), READ(k->chunks),
                      READ(g->d_o), READ(g->dr), WRITE(g->pair)));
    cmd_work(c, 4.0 * n * chunk * chunk * n_slot * n_k);
    cmd_dispatch(c, K_delta_chunk_key_bwd, GRID(n_k, n_slot, 1), spec, PUSH(k->push),
                 USES(READ(u), READ(g->pair), READ(k->chunks), BOTH(g->du)));
    cmd_work(c, 2.0 * (n + chunk) * tokens);
    cmd_dispatch(c, K_delta_chunk_gate_bwd, GRID(n_head, n_slot, 1),
                 SPEC(.wg = wg_size(caps, 64), .chunk = chunk), PUSH(k->push),
                 USES(READ(g->parts), READ(k->within), READ(k->solve), READ(k->gates),
                      READ(k->chunks), READ(k->states), READ(g->dm), READ(p), READ(d->ssm_a),
                      READ(d->dt_bias), BOTH(g->dp), WRITE(g->sums)));
}

/* The gradients of A_log and dt_bias, if these are trained. */
static void gate_sums(struct cmd *c, const struct delta *d, const struct chunked_bwd *g)
{
    tensor da = grad(c, d->ssm_a), dt = grad(c, d->dt_bias), none = cmd_scratch(c, F32, 4, 1);
    struct push_delta_gate_sum push = { .n_tok = g->d_o.n_row,
                                        .n_v_head = d->n_v_head,
                                        .a_log_col = da.col,
                                        .dt_col = dt.col,
                                        .a_log = da.arena != NULL,
                                        .dt = dt.arena != NULL };
    if (push.a_log || push.dt)
        cmd_dispatch(c, K_delta_gate_sum_bwd, GRID(d->n_v_head, 1, 1),
                     SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 128)), PUSH(push),
                     USES(READ(g->sums), BOTH(da.arena ? da : none), BOTH(dt.arena ? dt : none)));
}

static void delta_docs_bwd(struct cmd *c, const void *rec)
{
    const struct delta_docs_rec *r = rec;
    const struct delta *d = r->d;
    tensor p = r->p, u = r->u, o = r->o, dp = grad(c, p), dy = grad(c, r->y);
    if (cmd_failed(c) || !dp.arena)
        return;
    struct push_delta push = push_of(p, d, p.n_row);
    push.d_stride = dp.stride;
    push.d_col = dp.col;
    struct chunked k = r->k;
    k.push.d_stride = dp.stride;
    k.push.db_col = dp.col + (push.b_col - p.col);
    k.push.da_col = dp.col + (push.a_col - p.col);
    k.push.keep = 1;
    struct chunked_bwd g = bwd_take(c, &k);
    g.dp = dp;
    if (cmd_failed(c))
        return;

    uint32_t n_head = 2 * d->n_k_head + d->n_v_head, wg = head_wg(c, d);
    uint32_t n_run = div_up(u.n_row, CONV_TOKENS);
    cmd_work(c, 30.0 * o.n * o.n_row);
    cmd_dispatch(c, K_delta_norm_bwd, GRID(d->n_v_head, o.n_row, 1), SPEC(.wg = wg), PUSH(push),
                 USES(READ(o), READ(p), READ(d->norm), READ(dy), WRITE(g.d_o), BOTH(dp)));
    for (uint32_t k_head = 0; k_head < d->n_k_head; k_head += k.n_k_head) {
        if (k.n_k_head < d->n_k_head)
            chunked_run(c, &k, k_head, u, p, o, d);
        chunked_run_bwd(c, &k, u, p, d, &g);
    }
    cmd_work(c, 2.0 * u.n * (d->conv_k + 16) * u.n_row);
    cmd_dispatch(c, K_delta_conv_bwd, GRID(n_head, n_run, 1), SPEC(.wg = wg, .conv_k = d->conv_k),
                 PUSH(push), USES(READ(p), READ(d->conv), READ(r->docs.first), BOTH(g.du)));
    cmd_work(c, 2.0 * u.n * d->conv_k * u.n_row);
    cmd_dispatch(c, K_delta_tap_bwd, GRID(div_up(u.n, 64), n_run, 1),
                 SPEC(.wg = wg, .conv_k = d->conv_k), PUSH(push),
                 USES(READ(g.du), READ(d->conv), READ(r->docs.first), BOTH(dp)));
    gate_sums(c, d, &g);
}
