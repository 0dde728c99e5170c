/* op_mamba: the Mamba2 mixer, from the joint projection to the gated, normed heads.
 *
 * Recurrence: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), in its serial form and, for
 * many tokens on a GPU, in chunks. The state, the step and the decay are f32; shaders/gate.glsl is
 * the one place that computes them. The norm is over groups of heads, so even a single token takes
 * a dispatch of its own for it: a workgroup for each group would leave most of a GPU idle while the
 * states are read and written. */
#include "op.h"

/* Tokens from which chunks are worth it on a GPU. On a CPU device they never are, as loads cost as
 * much as sums there: 512 tokens of 64 heads of 64, 8 groups of 128, take 1.5 times as long as in
 * the walk over tokens, and small models' heads 3 times. */
enum { MAMBA_CHUNK_MIN = 64 };

tensor op_mamba(struct cmd *c, tensor p, const struct mamba *m, const struct mamba_layer *s,
                const struct batch *b)
{
    bool cpu = gpu_caps(cmd_gpu(c))->kind == GPU_CPU;
    enum mamba_path path = b->n_tok == 1 ? cpu ? MAMBA_STEP : MAMBA_STEP_WIDE
                           : cpu || b->n_tok < MAMBA_CHUNK_MIN ? MAMBA_PLAIN : MAMBA_CHUNK;
    return mamba_by(c, path, p, m, s, b);
}

/* Columns that a lane of mamba_scan keeps: the largest multiple of 4 up to max that divides
 * d_state. */
static uint32_t scan_part(uint32_t d_state, uint32_t max)
{
    uint32_t n = min_u32(d_state, max) / 4 * 4;
    while (d_state % n)
        n -= 4;
    return n;
}

/* A lane goes n_part + 2 rounds for each of its elements of a group: see gpu_caps.loop_budget. */
static uint32_t norm_wg(const struct gpu_caps *caps, uint32_t n, uint32_t n_part)
{
    uint32_t wg = wg_size(caps, n > 256 ? 256 : 64);
    while (wg * 2 <= caps->max_invocations && div_up(n, wg) * (n_part + 2) > 60000)
        wg *= 2;
    return wg;
}

static tensor step(struct cmd *c, tensor p, const struct mamba *m, const struct mamba_layer *s,
                   const struct batch *b, bool wide, struct push_mamba *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim;
    uint32_t lanes = wide ? 32 : wg_size(caps, 64);     /* for a row each, of a workgroup's */
    uint32_t wg = wide ? min_u32(256, caps->max_invocations / lanes * lanes) : lanes;
    HLM_ASSERT(b->n_tok == 1);
    tensor o = cmd_scratch(c, F32, d_inner, 1);
    cmd_work(c, 5.0 * d_inner * m->d_state);
    cmd_dispatch(c, K_mamba_step, GRID(m->n_head, wide ? div_up(m->head_dim, lanes) : 1, 1),
                 SPEC(wg, m->conv_k, lanes), PUSH(*push),
                 USES(READ(p), READ(m->conv), READ(m->conv_bias), BOTH(s->window), READ(b->step),
                      READ(m->ssm_a), READ(m->dt_bias), READ(m->d), BOTH(s->state), WRITE(o)));
    return o;
}

/* u: what mamba_conv makes of each token. */
static tensor conv(struct cmd *c, tensor p, const struct mamba *m, const struct mamba_layer *s,
                   const struct batch *b, struct push_mamba *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim, d_conv = d_inner + 2 * m->n_group * m->d_state;
    uint32_t wg = wg_size(caps, 128), n_ch = caps->kind == GPU_CPU ? 256 : wg;
    tensor u = cmd_scratch(c, F32, d_conv + 2 * m->n_head, b->n_tok);
    push->u_stride = u.stride;
    cmd_work(c, 2.0 * d_conv * (m->conv_k + 8) * b->n_tok);
    cmd_dispatch(c, K_mamba_conv, GRID(div_up(d_conv + m->n_head, n_ch), div_up(b->n_tok, 16), 1),
                 SPEC(wg, m->conv_k, n_ch, 16), PUSH(*push),
                 USES(READ(p), READ(m->conv), READ(m->conv_bias), BOTH(s->window), READ(b->step),
                      READ(m->ssm_a), READ(m->dt_bias), WRITE(u)));
    return u;
}

static tensor scan(struct cmd *c, tensor p, const struct mamba *m, const struct mamba_layer *s,
                   const struct batch *b, uint32_t part, struct push_mamba *push)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t d_inner = m->n_head * m->head_dim;
    tensor u = conv(c, p, m, s, b, push);

    /* On a CPU device the loads of B and C are what costs: two rows share them. More of them would
     * make the kernel take seconds to compile. */
    uint32_t wg = wg_size(caps, m->head_dim > 32 ? 64 : 32);
    uint32_t rows = caps->kind == GPU_CPU ? min_u32(2, div_up(m->head_dim, wg)) : 1;
    tensor o = cmd_scratch(c, F32, d_inner, push->n_part * b->n_tok);
    cmd_work(c, 5.0 * d_inner * m->d_state * b->n_tok);
    cmd_dispatch(c, K_mamba_scan, GRID(m->n_head, div_up(m->head_dim, wg * rows), push->n_part),
                 SPEC(wg, part, rows), PUSH(*push),
                 USES(READ(u), READ(m->d), BOTH(s->state), WRITE(o)));
    return o;
}

/* The chunked form (models.md 3.3): matrices over chunks of Q tokens instead of a walk over tokens.
 * A run of chunks at a time, so that the states between them take a bounded part of the scratch. */
static tensor chunks(struct cmd *c, tensor p, const struct mamba *m, const struct mamba_layer *s,
                     const struct batch *b, uint32_t plain_part, struct push_mamba *push)
{
    enum { Q = 64, MAX_RUN = 16, WG = 128, LANES = 32, ROWS = 8, TILE = WG / LANES * ROWS };
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t hd = m->head_dim, ds = m->d_state, d_inner = m->n_head * hd;
    uint64_t state_bytes = (uint64_t)d_inner * ds * 4;
    uint32_t run = (uint32_t)max_u64(1, min_u64(MAX_RUN, caps->max_range / state_bytes));
    uint32_t cols = hd > LANES ? 2 : 1, wide = LANES * cols, n_wide = div_up(hd, wide);
    struct spec spec = SPEC(WG, Q, LANES, ROWS, cols);
    tensor u = conv(c, p, m, s, b, push);
    run = min_u32(run, div_up(b->n_tok, Q));
    tensor gram = cmd_scratch(c, F32, Q * Q, run * m->n_group);
    tensor sums = cmd_scratch(c, F32, 3 * Q, run * m->n_head);
    tensor states = cmd_scratch(c, F32, hd * ds, run * m->n_head);
    /* Scratch is sized for the largest batch: no fewer tokens may need more, on whichever path. */
    tensor o = cmd_scratch(c, F32, d_inner, max_u32(b->n_tok, MAMBA_CHUNK_MIN * plain_part));
    for (push->tok0 = 0; push->tok0 < b->n_tok; push->tok0 += run * Q) {
        uint32_t n = min_u32(run, div_up(b->n_tok - push->tok0, Q));
        push->n_chunk = n;
        cmd_work(c, 2.0 * n * Q * Q * m->n_group * ds);
        cmd_dispatch(c, K_mamba_chunk_gram, GRID(m->n_group, n, Q / TILE * div_up(Q, wide)),
                     spec, PUSH(*push), USES(READ(u), READ(m->ssm_a), WRITE(gram), WRITE(sums)));
        cmd_work(c, 2.0 * n * Q * d_inner * ds);
        cmd_dispatch(c, K_mamba_chunk_state, GRID(m->n_head, n, div_up(ds, TILE) * n_wide),
                     spec, PUSH(*push), USES(READ(u), READ(sums), WRITE(states)));
        cmd_work(c, 2.0 * n * d_inner * ds);
        cmd_dispatch(c, K_mamba_chunk_pass, GRID(div_up(hd * ds, WG), m->n_head, 1), SPEC(WG, Q),
                     PUSH(*push), USES(READ(sums), BOTH(states), BOTH(s->state)));
        cmd_work(c, 2.0 * n * Q * d_inner * (ds + Q / 2));
        cmd_dispatch(c, K_mamba_chunk_out, GRID(m->n_head, n, Q / TILE * n_wide),
                     spec, PUSH(*push), USES(READ(u), READ(gram), READ(sums), READ(states),
                                             READ(m->d), WRITE(o)));
    }
    return o;
}

tensor mamba_by(struct cmd *c, enum mamba_path path, tensor p, const struct mamba *m,
                const struct mamba_layer *s, const struct batch *b)
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
        .n_head = m->n_head, .head_dim = m->head_dim, .n_group = m->n_group,
        .d_state = m->d_state, .n_tok = b->n_tok, .p_stride = p.stride, .z_col = p.col,
        .conv_col = p.col + d_inner, .dt_col = p.col + d_inner + d_conv,
        .n_part = path == MAMBA_PLAIN ? m->d_state / part : 1, .eps = m->eps,
    };

    tensor y = cmd_scratch(c, F32, d_inner, b->n_tok);
    tensor o = path == MAMBA_PLAIN ? scan(c, p, m, s, b, part, &push)
               : path == MAMBA_CHUNK ? chunks(c, p, m, s, b, m->d_state / part, &push)
                                     : step(c, p, m, s, b, path == MAMBA_STEP_WIDE, &push);
    cmd_work(c, 10.0 * d_inner * b->n_tok);
    cmd_dispatch(c, K_mamba_norm, GRID(m->n_group, b->n_tok, 1),
                 SPEC(norm_wg(caps, d_inner / m->n_group, push.n_part)), PUSH(push),
                 USES(READ(o), READ(p), READ(m->norm), BOTH(y)));
    return y;
}
