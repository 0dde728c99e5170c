/* test_ops_mamba: Mamba2, whole mixers in batches of any size. */
#include "ops.h"

#include <math.h>
#include <string.h>

#define EPS 1e-5f

struct mamba_row {
    uint32_t n_head, head_dim, n_group, d_state, conv_k;
    uint32_t slot;
    uint32_t piece[4];   /* tokens of the batches; 0 ends them */
    enum mamba_path one; /* for batches of one token */
    bool slow; /* steps of e^-4 and below, as models have them, and decays of about 0.999: the state
                  lasts over all tokens */
};

/* A mixer's inputs as numbers; p is [n_tok][d_inner + d_conv + n_head]. */
struct mamba_mixer {
    uint32_t n_tok, d_conv, d_inner, n_p;
    float *p, *conv, *bias, *ssm_a, *dt_bias, *d, *norm, *window, *state;
};

static struct mamba_mixer mamba_values(struct rig *r, const struct mamba_row *c)
{
    struct mamba_mixer m = { .d_inner = c->n_head * c->head_dim };
    m.d_conv = m.d_inner + 2 * c->n_group * c->d_state;
    m.n_p = m.d_inner + m.d_conv + c->n_head;
    for (uint32_t i = 0; i < ARRAY_LEN(c->piece); i++)
        m.n_tok += c->piece[i];
    m.p = rig_normal(r, (uint64_t)m.n_tok * m.n_p, 1.5);
    m.conv = rig_normal(r, (uint64_t)m.d_conv * c->conv_k, 0.7);
    m.bias = rig_normal(r, m.d_conv, 0.5);
    m.dt_bias = rig_normal(r, c->n_head, 1);
    m.d = rig_normal(r, c->n_head, 1);
    m.norm = rig_normal(r, m.d_inner, 1);
    m.ssm_a = rig_normal(r, c->n_head, c->slow ? 0.5 : 1.5);
    for (uint32_t i = 0; i < c->n_head; i++) {
        m.ssm_a[i] = -expf(m.ssm_a[i] - (c->slow ? 3 : 1));
        m.dt_bias[i] -= c->slow ? 4 : 0;
    }
    m.window = rig_normal(r, (uint64_t)(c->conv_k - 1) * m.d_conv, 1.5);
    m.state = rig_normal(r, (uint64_t)m.d_inner * c->d_state, 0.5);
    return m;
}

/* Transposes every head: [n_head][d_state][head_dim] of the device to or from the reference's
 * [n_head][head_dim][d_state]. */
static double *turned(struct rig *r, const double *v, uint64_t n_head, uint64_t n, uint64_t n_row)
{
    double *out = rig_doubles(r, NULL, n_head * n_row * n);
    for (uint64_t h = 0; h < n_head; h++)
        for (uint64_t row = 0; row < n_row; row++)
            for (uint64_t i = 0; i < n; i++)
                out[(h * n + i) * n_row + row] = v[(h * n_row + row) * n + i];
    return out;
}

/* Runs the whole sequence at once. window and state (in the device's order) are advanced. */
static double *mamba_want(struct rig *r, const struct mamba_row *c, const struct mamba_mixer *m,
                          double *window, double *state)
{
    const struct rig_rows rows = { m->p, m->n_p, m->n_tok };
    double *z = rig_columns(r, &rows, 0, m->d_inner),
           *x = rig_columns(r, &rows, m->d_inner, m->d_conv);
    double *dt = rig_columns(r, &rows, m->d_inner + m->d_conv, c->n_head);
    double *u = rig_doubles(r, NULL, (uint64_t)m->n_tok * m->d_conv);
    double *y = rig_doubles(r, NULL, (uint64_t)m->n_tok * m->d_inner);
    double *s = turned(r, state, c->n_head, c->head_dim, c->d_state);
    struct ref_conv conv = { .n_tok = m->n_tok,
                             .n_ch = m->d_conv,
                             .conv_k = c->conv_k,
                             .w = m->conv,
                             .bias = m->bias,
                             .x = x,
                             .window = window };
    ref_conv_silu(&conv, u);
    struct ref_mamba ref = { .n_tok = m->n_tok,
                             .n_head = c->n_head,
                             .head_dim = c->head_dim,
                             .n_group = c->n_group,
                             .d_state = c->d_state,
                             .xbc = u,
                             .dt = dt,
                             .ssm_a = m->ssm_a,
                             .dt_bias = m->dt_bias,
                             .d = m->d,
                             .state = s };
    ref_mamba(&ref, y);
    ref_mamba_norm(y, z, m->norm, m->n_tok, c->n_group, m->d_inner / c->n_group, (double)EPS);
    s = turned(r, s, c->n_head, c->d_state, c->head_dim);
    memcpy(state, s, (uint64_t)m->d_inner * c->d_state * sizeof *state);
    return y;
}

/* NMSE where a lane sums 18000 squares; every other row is at most 4e-13 off. */
static const struct bound wide_off = { .most = 1e-10, .measured = 4.5e-11 };

enum { N_SLOT = 3 }; /* state slots, of which the one in the middle is not used */

static struct mamba mamba_layer(struct rig *r, const struct mamba_row *c,
                                const struct mamba_mixer *v)
{
    return (struct mamba){ .n_head = c->n_head,
                           .head_dim = c->head_dim,
                           .n_group = c->n_group,
                           .d_state = c->d_state,
                           .conv_k = c->conv_k,
                           .eps = EPS,
                           .conv = rig_dense(r, v->conv, c->conv_k, v->d_conv),
                           .conv_bias = rig_dense(r, v->bias, v->d_conv, 1),
                           .ssm_a = rig_dense(r, v->ssm_a, c->n_head, 1),
                           .dt_bias = rig_dense(r, v->dt_bias, c->n_head, 1),
                           .d = rig_dense(r, v->d, c->n_head, 1),
                           .norm = rig_dense(r, v->norm, v->d_inner, 1) };
}

/* Several batches in one submission, op_advance after each: checks outputs, window, state and step.
 */
static void mamba_case(struct gpu *g, const struct mamba_row *c)
{
    static const char *const one[] = { "plain", "step", "wide step", "chunks" };
    if (!test_case(
            "mamba %u heads of %u, %u groups of %u, conv %u, tokens %u %u %u %u, slot %u, %s%s",
            c->n_head, c->head_dim, c->n_group, c->d_state, c->conv_k, c->piece[0], c->piece[1],
            c->piece[2], c->piece[3], c->slot, one[c->one], c->slow ? ", slow" : ""))
        return;
    struct rig r = rig_open(g, c->slow ? "mamba, slow" : "mamba");
    struct mamba_mixer v = mamba_values(&r, c);
    uint32_t n_window = c->conv_k - 1, n_row = c->n_head * c->d_state, n_piece = 0;
    while (n_piece < ARRAY_LEN(c->piece) && c->piece[n_piece])
        n_piece++;
    uint32_t in = c->slot ? 0 : 2, out = 2 - in, end = n_piece % 2 ? out : in;
    struct mamba m = mamba_layer(&r, c, &v);
    struct recurrent s = {
        .state = rig_view(&r, F32, c->head_dim, N_SLOT * n_row, c->head_dim, 0),
        .window = rig_view(&r, F32, v.d_conv, N_SLOT * n_window, v.d_conv, 0),
    };
    rig_put(&r, tensor_rows(s.window, in * n_window, n_window), v.window);
    rig_put(&r, tensor_rows(s.state, in * n_row, n_row), v.state);
    for (uint32_t i = 0; i < (n_piece > 1 ? 2 : 1); i++) {
        uint32_t slot = i ? in : out;
        rig_writes_rows(&r, s.state, slot * n_row, n_row);
        rig_writes_rows(&r, s.window, slot * n_window, n_window);
    }
    struct segment seg = {
        .pos = 100, .slot_in = in, .slot_out = out, .seed_lo = 7, .temp = 0.5f, .last_n = 3
    };
    struct batch b = rig_batch(&r, 0, &seg, NULL, 0, true);
    tensor y[ARRAY_LEN(c->piece)];
    for (uint32_t i = 0, at = 0; i < n_piece; at += c->piece[i++]) {
        tensor p = rig_strided(&r, v.p + (uint64_t)at * v.n_p, v.n_p, c->piece[i]);
        b.n_tok = c->piece[i];
        bool any = c->one != MAMBA_STEP && c->one != MAMBA_STEP_WIDE;
        y[i] = any || b.n_tok == 1 ? mamba_by(r.c, c->one, p, &m, &s, &b)
                                   : op_mamba(r.c, p, &m, &s, &b);
        op_advance(r.c, &b);
    }
    double *window = rig_doubles(&r, v.window, (uint64_t)n_window * v.d_conv);
    double *state = rig_doubles(&r, v.state, (uint64_t)v.d_inner * c->d_state);
    double *want = mamba_want(&r, c, &v, window, state);
    double tol = v.d_inner / c->n_group > 100000 ? wide_off.most : 0;
    bool good = rig_run(&r);
    for (uint32_t i = 0, at = 0; good && i < n_piece; at += c->piece[i++])
        good = rig_near(&r, c->piece[i] == 1 ? one[c->one] : "scan", y[i],
                        want + (uint64_t)at * v.d_inner, tol);
    good = good && rig_near(&r, "state", tensor_rows(s.state, end * n_row, n_row), state, 0) &&
           rig_near(&r, "window", tensor_rows(s.window, end * n_window, n_window), window, 0);
    if (good)
        rig_advanced(&r, &b, seg, v.n_tok, end);
    rig_close(&r);
}

/* The scratch memory that a batch takes. */
static uint64_t scratch_bytes(struct gpu *g, enum mamba_path path, uint32_t d_state, uint32_t n_tok)
{
    struct rig r = rig_open(g, "mamba");
    uint32_t d_inner = 64, d_conv = d_inner + 2 * d_state;
    struct mamba m = {
        .n_head = 2, .head_dim = 32, .n_group = 1, .d_state = d_state, .conv_k = 4, .eps = EPS
    };
    m.conv = rig_view(&r, F32, m.conv_k, d_conv, m.conv_k, 0);
    m.conv_bias = rig_view(&r, F32, d_conv, 1, d_conv, 0);
    m.ssm_a = m.dt_bias = m.d = rig_view(&r, F32, m.n_head, 1, m.n_head, 0);
    m.norm = rig_view(&r, F32, d_inner, 1, d_inner, 0);
    struct recurrent s = {
        .state = rig_view(&r, F32, m.head_dim, m.n_head * d_state, m.head_dim, 0),
        .window = rig_view(&r, F32, d_conv, 2 * (m.conv_k - 1), d_conv, 0),
    };
    struct batch b = rig_batch(&r, n_tok, &(struct segment){ .slot_out = 1 }, NULL, 0, true);
    uint32_t n_p = d_inner + d_conv + m.n_head, stride = (uint32_t)align_up(n_p, 4);
    mamba_by(r.c, path, rig_view(&r, F32, n_p, n_tok, stride, 0), &m, &s, &b);
    uint64_t bytes = arena_bytes(r.scratch);
    rig_close(&r);
    return bytes;
}

/* A session's scratch memory is sized by its largest batch. Fewer tokens must not take more, even
 * on another path. */
static void scratch_case(struct gpu *g, uint32_t d_state)
{
    static const uint32_t n_tok[] = { 64, 65, 128, 129, 1024, 1025, 1100 };
    test_case("scratch of chunks, state of %u", d_state);
    uint64_t last = scratch_bytes(g, MAMBA_PLAIN, d_state, 63);
    for (uint32_t i = 0; i < ARRAY_LEN(n_tok); i++) {
        uint64_t now = scratch_bytes(g, MAMBA_CHUNK, d_state, n_tok[i]);
        CHECK_MSG(now >= last, "%u tokens take %llu bytes, fewer take %llu", n_tok[i],
                  (unsigned long long)now, (unsigned long long)last);
        last = now;
    }
}

void test_ops_mamba(void)
{
    static const struct mamba_row rows[] = {
        { 1, 4, 1, 4, 4, 0, { 1 }, MAMBA_STEP, false },
        { 1, 4, 1, 4, 4, 1, { 1 }, MAMBA_STEP_WIDE, false },
        { 4, 6, 2, 12, 4, 1, { 3, 1, 2 }, MAMBA_STEP, false },
        { 4, 6, 2, 12, 4, 0, { 1, 1, 1, 3 }, MAMBA_PLAIN, false },
        { 4, 6, 2, 12, 4, 0, { 1, 1, 1, 3 }, MAMBA_STEP_WIDE, false },
        { 6, 10, 3, 20, 3, 1, { 1, 1, 2, 7 }, MAMBA_STEP, false },
        { 8, 24, 2, 32, 4, 0, { 7, 1 }, MAMBA_STEP, false }, /* the fixtures' shape */
        { 8, 24, 2, 32, 4, 1, { 1, 65, 2, 1 }, MAMBA_STEP_WIDE, false },
        { 3, 36, 3, 36, 2, 0, { 2, 1 }, MAMBA_STEP, false },  /* a group for each head */
        { 12, 40, 1, 64, 4, 1, { 1, 5 }, MAMBA_STEP, false }, /* one for all */
        { 12, 40, 1, 64, 4, 1, { 1, 5 }, MAMBA_STEP_WIDE, false },
        { 2, 136, 1, 68, 4, 0, { 3, 1 }, MAMBA_STEP_WIDE, false },
        { 2, 256, 2, 256, 4, 0, { 2, 1 }, MAMBA_STEP, false },
        { 2, 256, 2, 256, 4, 1, { 2, 1 }, MAMBA_STEP_WIDE, false },
        { 16, 64, 2, 128, 4, 1, { 65, 1, 1 }, MAMBA_STEP, false }, /* groups as in Nano */
        { 16, 64, 2, 128, 4, 0, { 1, 3 }, MAMBA_PLAIN, false },
        { 16, 64, 2, 128, 4, 0, { 1, 1, 3 }, MAMBA_STEP_WIDE, false },
        /* A group too wide for the loops of one subgroup (gpu_caps.loop_budget). */
        { 1152, 256, 1, 4, 2, 0, { 2 }, MAMBA_STEP, false },
        { 4, 16, 2, 16, 4, 0, { 200, 1, 130, 3 }, MAMBA_STEP, true },
        { 2, 64, 1, 128, 4, 1, { 310, 1, 1, 30 }, MAMBA_STEP_WIDE, true },
        { 1, 4, 1, 4, 4, 0, { 1, 2 }, MAMBA_CHUNK, false },
        { 4, 6, 2, 12, 4, 1, { 3, 1, 67 }, MAMBA_CHUNK, false },
        { 6, 10, 3, 20, 3, 1, { 1, 63, 64, 65 }, MAMBA_CHUNK, false },
        { 8, 24, 2, 32, 4, 0, { 197, 1, 2, 60 }, MAMBA_CHUNK, false },
        { 3, 36, 3, 36, 2, 0, { 65, 1 }, MAMBA_CHUNK, false },
        { 12, 40, 1, 64, 4, 1, { 1, 66 }, MAMBA_CHUNK, false },
        { 2, 136, 1, 68, 4, 0, { 70, 1 }, MAMBA_CHUNK, false },
        { 2, 256, 2, 256, 4, 0, { 65, 1 }, MAMBA_CHUNK, false },
        { 16, 64, 2, 128, 4, 1, { 66, 1 }, MAMBA_CHUNK, false },
        { 4, 16, 2, 16, 4, 0, { 1030, 1, 130, 3 }, MAMBA_CHUNK, true }, /* two runs */
        { 2, 64, 1, 128, 4, 1, { 300, 1, 1, 30 }, MAMBA_CHUNK, true },
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        mamba_case(g, &rows[i]);
    scratch_case(g, 16);
    scratch_case(g, 256);
    ops_report(g);
}
