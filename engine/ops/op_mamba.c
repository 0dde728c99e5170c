/* op_mamba: the Mamba2 mixer, from the joint projection to the gated, normalised heads.
 *
 * The recurrence (Dao and Gu, "Transformers are SSMs", arXiv 2405.21060) is computed token by token
 * or, for many tokens on a GPU, in chunks. The state, dt and the decay are f32; only
 * shaders/gate.glsl computes them. The norm is over groups of heads. It has a separate dispatch
 * even for a single token, because one workgroup per group would leave most of a GPU idle while the
 * states are read and written.
 *
 * A training row has its own kernels, mamba_docs_*, which work in chunks on every device: the
 * backward of a chunk needs only the state with which it begins, not the tokens before it. The
 * backward is derived in mamba_docs_pairs_bwd, mamba_docs_bc_bwd and mamba_docs_cross_bwd. It has
 * the matrices of the forward with B and C, x and dy, and the two directions exchanged, so most of
 * its kernels are those of the forward. */
#include "ops/op.h"

#include <string.h>

/* On a GPU chunks are faster from this many tokens on. On a CPU device they never are, because
 * loads take as long as sums: with 64 heads of 64 and 8 groups of 128, 512 tokens take 1.5 times as
 * long as in the walk over tokens, and with the heads of small models 3 times. */
enum { MAMBA_CHUNK_MIN = 64 };

static tensor docs(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                   const struct batch *b);

tensor op_mamba(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                const struct batch *b)
{
    bool cpu = gpu_caps(cmd_gpu(c))->kind == GPU_CPU;
    if (b->docs)
        return docs(c, p, m, s, b);
    enum mamba_path path = batch_decodes(b)                    ? cpu ? MAMBA_STEP : MAMBA_STEP_WIDE
                           : cpu || b->n_tok < MAMBA_CHUNK_MIN ? MAMBA_PLAIN
                                                               : MAMBA_CHUNK;
    return mamba_by(c, path, p, m, s, b);
}

/* The columns of the state that a lane of mamba_scan keeps: the largest multiple of 4, at most max,
 * that divides d_state. */
static uint32_t scan_part(uint32_t d_state, uint32_t max)
{
    uint32_t n = min_u32(d_state, max) / 4 * 4;
    while (d_state % n)
        n -= 4;
    return n;
}

/* A lane has n_part + 2 rounds of loops for each of its elements (gpu_caps.loop_budget). */
static uint32_t norm_wg(const struct gpu_caps *caps, uint32_t n, uint32_t n_part)
{
    uint32_t wg = wg_size(caps, n > 256 ? 256 : 64);
    while (wg * 2 <= caps->max_invocations && div_up(n, wg) * (n_part + 2) > 60000)
        wg *= 2;
    return wg;
}

static tensor mamba_step(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                         const struct batch *b, bool wide, struct push_mamba *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim;
    uint32_t lanes = wide ? 32 : wg_size(caps, 64); /* lanes of a workgroup that have a row each */
    uint32_t wg = wide ? min_u32(256, caps->max_invocations / lanes * lanes) : lanes;
    /* 128 columns over 8 lanes of a row: all of them at once */
    uint32_t fours = wide ? min_u32(4, div_up(m->d_state, 4 * (wg / lanes))) : 1;
    HLM_ASSERT(batch_decodes(b));
    tensor o = cmd_scratch(c, F32, d_inner, b->n_seg);
    cmd_work(c, 5.0 * d_inner * m->d_state * b->n_seg);
    cmd_dispatch(c, K_mamba_step, GRID(m->n_head, wide ? div_up(m->head_dim, lanes) : 1, b->n_seg),
                 SPEC(.wg = wg, .conv_k = m->conv_k, .lanes = lanes, .fours = fours), PUSH(*push),
                 USES(READ(p), READ(m->conv), READ(m->conv_bias), BOTH(s->window), READ(b->step),
                      READ(m->ssm_a), READ(m->dt_bias), READ(m->d), BOTH(s->state), WRITE(o)));
    return o;
}

/* Returns u, the output of mamba_conv for each token. */
static tensor mamba_conv(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                         const struct batch *b, struct push_mamba *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim, d_conv = d_inner + 2 * m->n_group * m->d_state;
    uint32_t wg = wg_size(caps, 128), n_ch = caps->kind == GPU_CPU ? 256 : wg;
    tensor u = cmd_scratch(c, F32, d_conv + 2 * m->n_head, b->n_tok);
    push->u_stride = u.stride;
    cmd_work(c, 2.0 * d_conv * (m->conv_k + 8) * b->n_tok);
    cmd_dispatch(c, K_mamba_conv, GRID(div_up(d_conv + m->n_head, n_ch), div_up(b->n_tok, 16), 1),
                 SPEC(.wg = wg, .conv_k = m->conv_k, .channels = n_ch, .toks = 16), PUSH(*push),
                 USES(READ(p), READ(m->conv), READ(m->conv_bias), BOTH(s->window), READ(b->step),
                      READ(m->ssm_a), READ(m->dt_bias), WRITE(u)));
    return u;
}

static tensor mamba_scan(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                         const struct batch *b, uint32_t part, struct push_mamba *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim;
    tensor u = mamba_conv(c, p, m, s, b, push);

    /* On a CPU device the loads of B and C take most of the time, so two rows share them. With more
     * rows the kernel would take seconds to compile. */
    uint32_t wg = wg_size(caps, m->head_dim > 32 ? 64 : 32);
    uint32_t rows = caps->kind == GPU_CPU ? min_u32(2, div_up(m->head_dim, wg)) : 1;
    tensor o = cmd_scratch(c, F32, d_inner, push->n_part * b->n_tok);
    cmd_work(c, 5.0 * d_inner * m->d_state * b->n_tok);
    cmd_dispatch(c, K_mamba_scan, GRID(m->n_head, div_up(m->head_dim, wg * rows), push->n_part),
                 SPEC(.wg = wg, .part = part, .rows = rows), PUSH(*push),
                 USES(READ(u), READ(m->d), BOTH(s->state), WRITE(o), READ(b->step)));
    return o;
}

/* The form in chunks (models/README.md, "Mamba2 in chunks"): matrix products over chunks of Q
 * tokens instead of a walk over tokens. Works on one run of chunks after another, so that the
 * states between them take a bounded part of the scratch. */
static tensor mamba_chunks(struct cmd *c, tensor p, const struct mamba *m,
                           const struct recurrent *s, const struct batch *b, uint32_t plain_part,
                           struct push_mamba *push)
{
    enum { Q = 64, MAX_RUN = 16, WG = 128, LANES = 32, ROWS = 8, TILE = WG / LANES * ROWS };
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t hd = m->head_dim, ds = m->d_state, d_inner = m->n_head * hd;
    uint64_t state_bytes = (uint64_t)d_inner * ds * 4;
    uint32_t run = (uint32_t)max_u64(1, min_u64(MAX_RUN, caps->max_range / state_bytes));
    uint32_t cols = hd > LANES ? 2 : 1, wide = LANES * cols, n_wide = div_up(hd, wide);
    struct spec spec = SPEC(.wg = WG, .q = Q, .lanes = LANES, .rows = ROWS, .cols = cols);
    tensor u = mamba_conv(c, p, m, s, b, push);
    run = min_u32(run, div_up(b->n_tok, Q));
    tensor gram = cmd_scratch(c, F32, Q * Q, run * m->n_group);
    tensor sums = cmd_scratch(c, F32, 3 * Q, run * m->n_head);
    tensor states = cmd_scratch(c, F32, hd * ds, run * m->n_head);
    /* Scratch is sized for the largest batch, so a smaller one must not need more, whatever its
     * path. */
    tensor o = cmd_scratch(c, F32, d_inner, max_u32(b->n_tok, MAMBA_CHUNK_MIN * plain_part));
    for (push->tok0 = 0; push->tok0 < b->n_tok; push->tok0 += run * Q) {
        uint32_t n = min_u32(run, div_up(b->n_tok - push->tok0, Q));
        push->n_chunk = n;
        cmd_work(c, 2.0 * n * Q * Q * m->n_group * ds);
        cmd_dispatch(c, K_mamba_chunk_gram, GRID(m->n_group, n, Q / TILE * div_up(Q, wide)), spec,
                     PUSH(*push), USES(READ(u), READ(m->ssm_a), WRITE(gram), WRITE(sums)));
        cmd_work(c, 2.0 * n * Q * d_inner * ds);
        cmd_dispatch(c, K_mamba_chunk_state, GRID(m->n_head, n, div_up(ds, TILE) * n_wide), spec,
                     PUSH(*push), USES(READ(u), READ(sums), WRITE(states)));
        cmd_work(c, 2.0 * n * d_inner * ds);
        cmd_dispatch(c, K_mamba_chunk_pass, GRID(div_up(hd * ds, WG), m->n_head, 1),
                     SPEC(.wg = WG, .q = Q), PUSH(*push),
                     USES(READ(sums), BOTH(states), BOTH(s->state), READ(b->step)));
        cmd_work(c, 2.0 * n * Q * d_inner * (ds + Q / 2));
        cmd_dispatch(c, K_mamba_chunk_out, GRID(m->n_head, n, Q / TILE * n_wide), spec, PUSH(*push),
                     USES(READ(u), READ(gram), READ(sums), READ(states), READ(m->d), WRITE(o)));
    }
    return o;
}

static void mamba_gate_stats(struct cmd *c, tensor p, const struct mamba *m,
                             const struct recurrent *s, const struct batch *b)
{
    const struct gate_input in = { p, m->ssm_a, m->dt_bias, p.col + p.n - m->n_head, NO_BETA };
    if (b->stats && s->stats.gates.arena)
        op_gate_stats(c, &in, b, s->stats.gates);
}

tensor mamba_by(struct cmd *c, enum mamba_path path, tensor p, const struct mamba *m,
                const struct recurrent *s, const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim, d_conv = d_inner + 2 * m->n_group * m->d_state;
    if (cmd_failed(c))
        return p;
    HLM_ASSERT(p.n == d_inner + d_conv + m->n_head && p.n_row == b->n_tok);
    HLM_ASSERT(d_inner % 4 == 0 && m->d_state % 4 == 0 && m->n_head % m->n_group == 0 &&
               m->d_state <= 256 && m->head_dim <= 256);
    uint32_t part = scan_part(m->d_state, 32);
    struct push_mamba push = {
        .n_head = m->n_head,
        .head_dim = m->head_dim,
        .n_group = m->n_group,
        .d_state = m->d_state,
        .n_tok = b->n_tok,
        .p_stride = p.stride,
        .z_col = p.col,
        .conv_col = p.col + d_inner,
        .dt_col = p.col + d_inner + d_conv,
        .n_part = path == MAMBA_PLAIN ? m->d_state / part : 1,
        .eps = m->eps,
    };

    HLM_ASSERT(b->n_seg == 1 || path == MAMBA_STEP || path == MAMBA_STEP_WIDE);
    mamba_gate_stats(c, p, m, s, b);
    tensor y = cmd_scratch(c, F32, d_inner, b->n_tok);
    tensor o = path == MAMBA_PLAIN   ? mamba_scan(c, p, m, s, b, part, &push)
               : path == MAMBA_CHUNK ? mamba_chunks(c, p, m, s, b, m->d_state / part, &push)
                                     : mamba_step(c, p, m, s, b, path == MAMBA_STEP_WIDE, &push);
    cmd_work(c, 10.0 * d_inner * b->n_tok);
    cmd_dispatch(c, K_mamba_norm, GRID(m->n_group, b->n_tok, 1),
                 SPEC(.wg = norm_wg(caps, d_inner / m->n_group, push.n_part)), PUSH(push),
                 USES(READ(o), READ(p), READ(m->norm), BOTH(y)));
    return y;
}

/* ---- rows of documents ----------------------------------------------------------------------- */

/* Tensors of the forward that the backward reads. */
struct docs_made {
    tensor p, y, u, o, sums, states, pairs, carry, first, chunks;
};
struct docs_pass {
    const struct mamba *m;
    struct docs_made t;
    uint32_t d_inner, d_conv, b_col, c_col, do_col; /* columns of u */
    uint32_t n_chunk;
    uint32_t run; /* chunks that are computed at the same time */
    struct push_mamba_docs push;
};

/* The number of chunks of a run: a multiple of 4, so that the tensors of a run begin where a
 * binding may begin. */
static uint32_t docs_run(const struct gpu_caps *caps, const struct mamba *m, const struct docs *d)
{
    enum { MAX_RUN = 16 };
    uint64_t pairs = (uint64_t)d->chunk * (d->chunk + 1);
    uint64_t chunk = 4 * m->n_head * max_u64(pairs, (uint64_t)m->head_dim * m->d_state);
    uint64_t run = max_u64(4, min_u64(MAX_RUN, caps->max_range / chunk / 4 * 4));
    return min_u32((uint32_t)run, d->n_chunk);
}

static struct docs_pass docs_pass(struct cmd *c, const struct mamba *m, tensor p, uint32_t n_tok,
                                  const struct docs *docs)
{
    struct docs_pass d = { .m = m, .d_inner = m->n_head * m->head_dim, .n_chunk = docs->n_chunk };
    d.b_col = d.d_inner;
    d.c_col = d.b_col + m->n_group * m->d_state;
    d.do_col = d.d_conv = d.c_col + m->n_group * m->d_state;
    d.run = docs_run(gpu_caps(cmd_gpu(c)), m, docs);
    d.t.p = p;
    d.t.first = docs->first;
    d.t.chunks = docs->chunks;
    d.push = (struct push_mamba_docs){
        .n_head = m->n_head,
        .head_dim = m->head_dim,
        .n_group = m->n_group,
        .d_state = m->d_state,
        .n_tok = n_tok,
        .q = docs->chunk,
        .p_stride = p.stride,
        .p_col = p.col,
        .u_stride = d.do_col + d.d_inner,
        .eps = m->eps,
    };
    return d;
}

/* The rows of t that belong to the run; each chunk has `per` rows. */
static tensor of_run(const struct docs_pass *d, tensor t, uint32_t per)
{
    return tensor_rows(t, d->push.chunk0 * per, d->push.n_chunk * per);
}
static tensor run_sums(const struct docs_pass *d) { return of_run(d, d->t.sums, d->m->n_head); }
static tensor run_states(const struct docs_pass *d)
{
    return of_run(d, d->t.states, d->m->n_head * d->m->d_state);
}

/* The tiles of a matrix, as mamba_docs.glsl divides it. */
struct tiling {
    struct spec spec;
    uint32_t n;
};
static struct tiling tiling(struct cmd *c, uint32_t n_row, uint32_t n_col)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    bool cpu = caps->kind == GPU_CPU;
    uint32_t max = cpu ? caps->subgroup : 16, rows = cpu ? 8 : 4, lanes = 1;
    while (lanes < max && lanes * 4 < n_col)
        lanes *= 2;
    uint32_t wg = cpu ? max : lanes * min_u32(8, div_up(n_row, rows));
    return (struct tiling){ SPEC(.wg = wg, .lanes = lanes, .rows = rows),
                            div_up(n_row, wg / lanes * rows) * div_up(n_col, lanes * 4) };
}

/* Computes the states with which the chunks of the run begin, from what each chunk adds. back:
 * computes the gradients of the states with which they end. */
static void docs_states(struct cmd *c, struct docs_pass *d, tensor states, bool back)
{
    const struct mamba *m = d->m;
    uint32_t n = m->d_state * m->head_dim, wg = wg_size(gpu_caps(cmd_gpu(c)), 64);
    struct tiling t = tiling(c, m->d_state, m->head_dim);
    struct push_mamba_docs *push = &d->push;
    push->back = back;
    push->own_col = back ? d->c_col : d->b_col;
    push->v_col = back ? d->do_col : 0;
    push->weight = back ? MAMBA_E : MAMBA_R_DT;
    cmd_work(c, 2.0 * push->n_chunk * push->q * m->n_head * n);
    cmd_dispatch(c, K_mamba_docs_state, GRID(m->n_head, push->n_chunk, t.n), t.spec, PUSH(*push),
                 USES(READ(d->t.chunks), READ(d->t.u), READ(run_sums(d)), WRITE(states)));
    cmd_work(c, 2.0 * push->n_chunk * m->n_head * n);
    cmd_dispatch(c, K_mamba_docs_pass, GRID(div_up(n / 4, wg), m->n_head, 1), SPEC(.wg = wg),
                 PUSH(*push),
                 USES(READ(d->t.chunks), READ(run_sums(d)), BOTH(states), BOTH(d->t.carry)));
}

/* Computes o into y, from x and the states with which chunks begin. back: computes dx, from dy and
 * the gradients of the states with which they end. */
static void docs_out(struct cmd *c, struct docs_pass *d, tensor states, tensor y, bool back)
{
    const struct mamba *m = d->m;
    struct tiling t = tiling(c, d->push.q, m->head_dim);
    struct push_mamba_docs *push = &d->push;
    push->back = back;
    push->own_col = back ? d->b_col : d->c_col;
    push->v_col = back ? d->do_col : 0;
    push->weight = back ? MAMBA_R_DT : MAMBA_E;
    push->y_stride = y.stride;
    push->y_col = y.col;
    cmd_work(c, 2.0 * push->n_chunk * push->q * d->d_inner * (m->d_state + push->q / 2));
    cmd_dispatch(c, K_mamba_docs_out, GRID(m->n_head, push->n_chunk, t.n), t.spec, PUSH(*push),
                 USES(READ(d->t.chunks), READ(d->t.u), READ(run_sums(d)), READ(d->t.pairs),
                      READ(states), WRITE(y)));
}

/* ---- their backward */

/* Tensors of one run of the backward. */
struct docs_grads {
    tensor dp, du, dstates, m, g, terms, part_c, part_b, d_a, d_dt, d_d;
};

/* Computes dC, from dy and the states with which chunks begin. back: computes dB, from x and the
 * gradients of the states with which they end. */
static void docs_bc_bwd(struct cmd *c, struct docs_pass *d, const struct docs_grads *g, bool back)
{
    const struct mamba *m = d->m;
    struct tiling t = tiling(c, d->push.q, m->d_state);
    struct push_mamba_docs *push = &d->push;
    push->back = back;
    push->own_col = back ? d->b_col : d->c_col;
    push->other_col = back ? d->c_col : d->b_col;
    push->v_col = back ? 0 : d->do_col;
    push->weight = back ? MAMBA_R_DT : MAMBA_E;
    push->y_stride = g->du.stride;
    push->y_col = g->du.col + push->own_col;
    tensor du = tensor_cols(g->du, push->own_col, m->n_group * m->d_state);
    cmd_work(c, 2.0 * push->n_chunk * push->q * m->d_state * (d->d_inner + m->n_group * push->q));
    cmd_dispatch(c, K_mamba_docs_bc_bwd, GRID(m->n_group, push->n_chunk, t.n), t.spec, PUSH(*push),
                 USES(READ(d->t.chunks), READ(d->t.u), READ(run_sums(d)),
                      READ(back ? g->dstates : run_states(d)), READ(g->g),
                      WRITE(back ? g->part_b : g->part_c), WRITE(du)));
}

/* The gradients of dt and of the gates. */
static void docs_dt_bwd(struct cmd *c, struct docs_pass *d, const struct docs_grads *g)
{
    const struct mamba *m = d->m;
    struct push_mamba_docs *push = &d->push;
    tensor sums = run_sums(d), chunks = d->t.chunks;
    uint32_t n = push->n_chunk, q = push->q, wg = wg_size(gpu_caps(cmd_gpu(c)), 64);
    struct spec spec = SPEC(.wg = wg);
    cmd_work(c, 2.0 * n * m->n_head * m->d_state * (m->head_dim + q / 2));
    cmd_dispatch(c, K_mamba_docs_edge_bwd, GRID(m->n_head, n, 1), spec, PUSH(*push),
                 USES(READ(chunks), READ(sums), READ(run_states(d)), READ(g->dstates),
                      READ(g->part_c), READ(g->part_b), WRITE(g->m), WRITE(g->terms)));
    cmd_work(c, 2.0 * n * m->n_head * q * q);
    cmd_dispatch(c, K_mamba_docs_cross_bwd, GRID(div_up(m->n_head * (q + 1), wg), n, 1), spec,
                 PUSH(*push), USES(READ(chunks), READ(sums), BOTH(g->m), BOTH(g->terms)));
    cmd_work(c, 1.0 * n * m->n_head * q * q);
    tensor dp = tensor_cols(g->dp, d->d_inner + d->d_conv, m->n_head);
    cmd_dispatch(c, K_mamba_docs_dt_bwd, GRID(div_up(m->n_head * q / 4, wg), n, 1), spec,
                 PUSH(*push),
                 USES(READ(chunks), READ(sums), READ(g->m), READ(d->t.p), READ(m->ssm_a),
                      READ(m->dt_bias), BOTH(g->terms), BOTH(dp)));
    if (!g->d_a.arena && !g->d_dt.arena && !g->d_d.arena)
        return;
    tensor none = cmd_scratch(c, F32, m->n_head, 1); /* for gradients that are not wanted */
    cmd_work(c, 3.0 * n * m->n_head * q);
    cmd_dispatch(c, K_mamba_docs_gates_bwd, GRID(m->n_head, 1, 1), spec, PUSH(*push),
                 USES(READ(chunks), READ(g->terms), BOTH(g->d_a.arena ? g->d_a : none),
                      BOTH(g->d_dt.arena ? g->d_dt : none), BOTH(g->d_d.arena ? g->d_d : none)));
}

static void docs_run_bwd(struct cmd *c, struct docs_pass *d, const struct docs_grads *g)
{
    const struct mamba *m = d->m;
    struct push_mamba_docs *push = &d->push;
    struct tiling t = tiling(c, push->q, push->q);
    push->v_col = d->do_col;
    cmd_work(c, 1.0 * push->n_chunk * push->q * push->q * (d->d_inner + m->n_group * m->d_state));
    cmd_dispatch(c, K_mamba_docs_pairs_bwd, GRID(m->n_group, push->n_chunk, t.n), t.spec,
                 PUSH(*push),
                 USES(READ(d->t.chunks), READ(d->t.u), READ(run_sums(d)), READ(m->d),
                      WRITE(d->t.pairs), WRITE(g->m), WRITE(g->g), WRITE(g->terms)));
    docs_states(c, d, g->dstates, true);
    docs_out(c, d, g->dstates, tensor_cols(g->du, 0, d->d_inner), true);
    docs_bc_bwd(c, d, g, false);
    docs_bc_bwd(c, d, g, true);
    docs_dt_bwd(c, d, g);
}

static void docs_norm_bwd(struct cmd *c, struct docs_pass *d, tensor dy, tensor dp)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const struct mamba *m = d->m;
    struct push_mamba_docs *push = &d->push;
    push->v_col = d->do_col;
    push->y_stride = dy.stride;
    push->y_col = dy.col;
    cmd_work(c, 30.0 * d->d_inner * push->n_tok);
    cmd_dispatch(c, K_mamba_norm_bwd, GRID(m->n_group, push->n_tok, 1),
                 SPEC(.wg = norm_wg(caps, d->d_inner / m->n_group / 4, 0)), PUSH(*push),
                 USES(READ(d->t.o), READ(d->t.p), READ(m->norm), READ(dy), WRITE(d->t.u),
                      BOTH(tensor_cols(dp, 0, d->d_inner))));
}

/* True if the loops of a lane over all heads of a group stay below the limit of some drivers. */
static bool docs_fit(struct cmd *c, const struct mamba *m)
{
    uint32_t n = m->n_head / m->n_group * (m->head_dim / 4 + 2);
    if (m->head_dim % 4 != 0)
        cmd_fail(c, "training: Mamba2 heads have dimension %u, expected a multiple of 4",
                 m->head_dim);
    else if (gpu_caps(cmd_gpu(c))->loop_budget && n > 59000)
        cmd_fail(
            c, "training: groups of %u Mamba2 heads of dimension %u are too large for this driver",
            m->n_head / m->n_group, m->head_dim);
    return !cmd_failed(c);
}

static struct spec conv_spec(struct cmd *c, const struct mamba *m, struct grid *grid,
                             const struct docs_pass *d)
{
    enum { CHANNELS = 256, TOKS = 16 };
    *grid = GRID(div_up(d->d_conv, CHANNELS), div_up(d->push.n_tok, TOKS), 1);
    return SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 64), .conv_k = m->conv_k, .channels = CHANNELS,
                .toks = TOKS);
}

struct mamba_docs_rec {
    const struct mamba *m;
    struct docs docs;
    struct docs_made t;
};

static void docs_bwd(struct cmd *c, const void *rec)
{
    const struct mamba_docs_rec *r = rec;
    const struct mamba *m = r->m;
    tensor dp = grad(c, r->t.p), dy = grad(c, r->t.y);
    if (cmd_failed(c) || !dp.arena)
        return;
    HLM_ASSERT(dp.stride % 4 == 0 && dp.col % 4 == 0 && dy.stride % 4 == 0 && dy.col % 4 == 0);
    struct docs_pass d = docs_pass(c, m, r->t.p, r->t.p.n_row, &r->docs);
    d.t = r->t;
    d.push.dp_stride = dp.stride;
    d.push.dp_col = dp.col;
    docs_norm_bwd(c, &d, dy, dp);

    uint32_t q = r->docs.chunk, n = d.run * m->n_head, n_tok = d.push.n_tok;
    struct docs_grads g = {
        .dp = dp, .d_a = grad(c, m->ssm_a), .d_dt = grad(c, m->dt_bias), .d_d = grad(c, m->d)
    };
    g.du = cmd_scratch(c, F32, d.d_conv, n_tok);
    g.dstates = cmd_scratch(c, F32, m->head_dim, n * m->d_state);
    g.m = cmd_scratch(c, F32, q * (q + 1), n);
    g.g = cmd_scratch(c, F32, 2 * q * q, d.run * m->n_group);
    g.terms = cmd_scratch(c, F32, MAMBA_TERMS * q, n);
    g.part_c = cmd_scratch(c, F32, q * m->d_state / 4, n);
    g.part_b = cmd_scratch(c, F32, q * m->d_state / 4, n);
    for (uint32_t i = div_up(d.n_chunk, d.run); i-- > 0;) {
        d.push.chunk0 = i * d.run;
        d.push.n_chunk = min_u32(d.run, d.n_chunk - d.push.chunk0);
        docs_run_bwd(c, &d, &g);
    }
    struct grid grid;
    struct spec spec = conv_spec(c, m, &grid, &d);
    d.push.y_stride = g.du.stride;
    cmd_work(c, 4.0 * d.d_conv * (m->conv_k + 8) * n_tok);
    cmd_dispatch(c, K_mamba_docs_conv_bwd, grid, spec, PUSH(d.push),
                 USES(READ(d.t.first), READ(d.t.p), READ(m->conv), READ(m->conv_bias), READ(g.du),
                      BOTH(tensor_cols(dp, d.d_inner, d.d_conv))));
}

/* ---- forward */

static void docs_run_fwd(struct cmd *c, struct docs_pass *d)
{
    const struct mamba *m = d->m;
    struct push_mamba_docs *push = &d->push;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 32);
    struct tiling t = tiling(c, push->q, push->q);
    cmd_work(c, 60.0 * push->n_chunk * push->q * m->n_head);
    cmd_dispatch(c, K_mamba_docs_sums, GRID(div_up(m->n_head, wg), push->n_chunk, 1),
                 SPEC(.wg = wg), PUSH(*push),
                 USES(READ(d->t.chunks), READ(d->t.p), READ(m->ssm_a), READ(m->dt_bias),
                      WRITE(run_sums(d))));
    cmd_work(c,
             1.0 * push->n_chunk * push->q * push->q * (m->n_group * m->d_state + 20 * m->n_head));
    cmd_dispatch(
        c, K_mamba_docs_pairs, GRID(m->n_group, push->n_chunk, t.n), t.spec, PUSH(*push),
        USES(READ(d->t.chunks), READ(d->t.u), READ(run_sums(d)), READ(m->d), WRITE(d->t.pairs)));
    docs_states(c, d, run_states(d), false);
    docs_out(c, d, run_states(d), d->t.o, false);
}

/* Statistics of the states with which the chunks of the run begin. */
static void mamba_state_stats(struct cmd *c, const struct docs_pass *d, const struct recurrent *s,
                              const struct docs *docs)
{
    const struct mamba *m = d->m;
    struct state_stats stats = {
        .states = run_states(d),
        .n = m->d_state * m->head_dim,
        .n_head = m->n_head,
        .docs = docs,
        .by_head = 1,
        .by_chunk = m->n_head,
        .chunk0 = d->push.chunk0,
        .n_chunk = d->push.n_chunk,
        .add = d->push.chunk0 > 0,
        .to = s->stats.state,
    };
    op_state_stats(c, &stats);
}

static tensor docs(struct cmd *c, tensor p, const struct mamba *m, const struct recurrent *s,
                   const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    if (cmd_failed(c) || !docs_fit(c, m))
        return p;
    struct docs_pass d = docs_pass(c, m, p, b->n_tok, b->docs);
    uint32_t q = b->docs->chunk, n_tok = b->n_tok;
    HLM_ASSERT(p.n == d.d_inner + d.d_conv + m->n_head && p.n_row == n_tok);
    HLM_ASSERT(p.col % 4 == 0 && p.stride % 4 == 0 && m->d_state % 4 == 0 && q % 16 == 0);
    d.t.y = cmd_scratch(c, F32, d.d_inner, n_tok);
    d.t.o = cmd_scratch(c, F32, d.d_inner, n_tok);
    d.t.u = cmd_scratch(c, F32, d.push.u_stride, n_tok);
    d.t.sums = cmd_scratch(c, F32, MAMBA_SUMS * q, d.n_chunk * m->n_head);
    d.t.states = cmd_scratch(c, F32, m->head_dim, d.n_chunk * m->n_head * m->d_state);
    d.t.pairs = cmd_scratch(c, F32, q * q, d.run * m->n_head);
    d.t.carry = cmd_scratch(c, F32, m->head_dim, m->n_head * m->d_state);

    mamba_gate_stats(c, p, m, s, b);
    struct grid grid;
    struct spec spec = conv_spec(c, m, &grid, &d);
    cmd_work(c, 2.0 * d.d_conv * (m->conv_k + 8) * n_tok);
    cmd_dispatch(c, K_mamba_docs_conv, grid, spec, PUSH(d.push),
                 USES(READ(d.t.first), READ(p), READ(m->conv), READ(m->conv_bias), WRITE(d.t.u)));
    for (d.push.chunk0 = 0; d.push.chunk0 < d.n_chunk; d.push.chunk0 += d.run) {
        d.push.n_chunk = min_u32(d.run, d.n_chunk - d.push.chunk0);
        docs_run_fwd(c, &d);
        if (b->stats && s->stats.state.arena)
            mamba_state_stats(c, &d, s, b->docs);
    }
    struct push_mamba push = { .n_head = m->n_head,
                               .head_dim = m->head_dim,
                               .n_group = m->n_group,
                               .n_tok = n_tok,
                               .p_stride = p.stride,
                               .z_col = p.col,
                               .n_part = 1,
                               .eps = m->eps };
    cmd_work(c, 10.0 * d.d_inner * n_tok);
    cmd_dispatch(c, K_mamba_norm, GRID(m->n_group, n_tok, 1),
                 SPEC(.wg = norm_wg(caps, d.d_inner / m->n_group, 1)), PUSH(push),
                 USES(READ(d.t.o), READ(p), READ(m->norm), BOTH(d.t.y)));
    struct mamba_docs_rec rec = { m, *b->docs, d.t };
    tape_push(c, docs_bwd, &rec, sizeof rec);
    return d.t.y;
}
