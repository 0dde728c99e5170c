/* test_ops_mixer: Gated DeltaNet, whole mixers in batches of any size. */
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f
#define SLOW 2e-3f   /* what was written lasts for hundreds of tokens */
#define STRONG 20.0f /* for a few, most of it for one */

/* ---- Gated DeltaNet ---------------------------------------------------------------------- */

struct delta_row {
    uint32_t n_k_head, n_v_head, d_state, conv_k;
    bool tiled;
    uint32_t slot;
    uint32_t piece[4];                                 /* tokens of the batches; 0 ends them */
    enum { BEST, PLAIN, STEP_WIDE, CHUNKS, WIDE } how; /* as op_delta chooses, or all by one path */
    float rate; /* the decay of the first V head, of the i-th i times that; 0: random decays */
};

static const char *const hows[] = { "best path", "scan", "wide step", "chunks", "wide chunks" };

/* A mixer's inputs as numbers; p is [n_tok][d_conv + d_out + 2 n_v_head]. */
struct delta_mixer {
    uint32_t n_tok, d_conv, d_out, n_p;
    float *p, *conv, *ssm_a, *dt_bias, *norm, *window, *state;
};

static struct delta_mixer delta_values(struct rig *r, const struct delta_row *c)
{
    struct delta_mixer d = { .d_conv = (2 * c->n_k_head + c->n_v_head) * c->d_state,
                             .d_out = c->n_v_head * c->d_state };
    for (uint32_t i = 0; i < ARRAY_LEN(c->piece); i++)
        d.n_tok += c->piece[i];
    d.n_p = d.d_conv + d.d_out + 2 * c->n_v_head;
    d.p = rig_normal(r, (uint64_t)d.n_tok * d.n_p, 1.5);
    d.conv = rig_normal(r, (uint64_t)d.d_conv * c->conv_k, 0.7);
    d.dt_bias = rig_normal(r, c->n_v_head, 1);
    d.norm = rig_normal(r, c->d_state, 1);
    d.ssm_a = rig_normal(r, c->n_v_head, 1.5);
    for (uint32_t i = 0; i < c->n_v_head; i++)
        d.ssm_a[i] = c->rate > 0 ? -c->rate * (float)(i + 1) : -expf(d.ssm_a[i] - 1);
    d.window = rig_normal(r, (uint64_t)(c->conv_k - 1) * d.d_conv, 1.5);
    d.state = rig_normal(r, (uint64_t)d.d_out * c->d_state, 0.5);
    return d;
}

/* Runs the whole sequence at once. window and state are advanced. */
static double *delta_want(struct rig *r, const struct delta_row *c, const struct delta_mixer *d,
                          double *window, double *state)
{
    const struct rig_rows rows = { d->p, d->n_p, d->n_tok };
    double *x = rig_columns(r, &rows, 0, d->d_conv),
           *z = rig_columns(r, &rows, d->d_conv, d->d_out);
    double *b = rig_columns(r, &rows, d->d_conv + d->d_out, c->n_v_head);
    double *a = rig_columns(r, &rows, d->d_conv + d->d_out + c->n_v_head, c->n_v_head);
    double *u = rig_doubles(r, NULL, (uint64_t)d->n_tok * d->d_conv);
    double *o = rig_doubles(r, NULL, (uint64_t)d->n_tok * d->d_out);
    struct ref_conv conv = { .n_tok = d->n_tok,
                             .n_ch = d->d_conv,
                             .conv_k = c->conv_k,
                             .w = d->conv,
                             .x = x,
                             .window = window };
    ref_conv_silu(&conv, u);
    struct ref_delta ref = { .n_tok = d->n_tok,
                             .n_k_head = c->n_k_head,
                             .n_v_head = c->n_v_head,
                             .d_state = c->d_state,
                             .tiled = c->tiled,
                             .qkv = u,
                             .b = b,
                             .a = a,
                             .ssm_a = d->ssm_a,
                             .dt_bias = d->dt_bias,
                             .state = state };
    ref_delta(&ref, o);
    ref_gated_norm(o, z, d->norm, c->d_state, d->n_tok * c->n_v_head, (double)EPS);
    return o;
}

static uint32_t n_pieces(const struct delta_row *c)
{
    uint32_t n = 0;
    while (n < ARRAY_LEN(c->piece) && c->piece[n])
        n++;
    return n;
}

enum { N_SLOT = 3 }; /* state slots, of which the one in the middle is not used */

/* Several batches in one submission, op_advance after each: checks outputs, window, state and
 * step. */
static void delta_case(struct gpu *g, const struct delta_row *c)
{
    static const enum delta_path path[] = { [PLAIN] = DELTA_PLAIN,
                                            [STEP_WIDE] = DELTA_STEP_WIDE,
                                            [CHUNKS] = DELTA_CHUNK,
                                            [WIDE] = DELTA_CHUNK_WIDE };
    if (!test_case("delta %u/%u heads of %u, %s, conv %u, tokens %u %u %u %u, slot %u, %s, rate %g",
                   c->n_k_head, c->n_v_head, c->d_state, c->tiled ? "tiled" : "grouped", c->conv_k,
                   c->piece[0], c->piece[1], c->piece[2], c->piece[3], c->slot, hows[c->how],
                   (double)c->rate))
        return;
    struct rig r = rig_open(g, c->how >= CHUNKS ? "delta in chunks" : "delta");
    struct delta_mixer d = delta_values(&r, c);
    uint32_t n_window = c->conv_k - 1, n_row = d.d_out, n_piece = n_pieces(c);
    uint32_t in = c->slot ? 0 : 2, out = 2 - in, end = n_piece % 2 ? out : in;
    struct delta m = { .n_k_head = c->n_k_head,
                       .n_v_head = c->n_v_head,
                       .d_state = c->d_state,
                       .conv_k = c->conv_k,
                       .tiled = c->tiled,
                       .eps = EPS };
    m.conv = rig_dense(&r, d.conv, c->conv_k, d.d_conv);
    m.ssm_a = rig_dense(&r, d.ssm_a, c->n_v_head, 1);
    m.dt_bias = rig_dense(&r, d.dt_bias, c->n_v_head, 1);
    m.norm = rig_dense(&r, d.norm, c->d_state, 1);
    struct recurrent s = { .state = rig_view(&r, F32, c->d_state, N_SLOT * n_row, c->d_state, 0) };
    s.window = rig_view(&r, F32, d.d_conv, N_SLOT * n_window, d.d_conv, 0);
    rig_put(&r, tensor_rows(s.window, in * n_window, n_window), d.window);
    rig_put(&r, tensor_rows(s.state, in * n_row, n_row), d.state);
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
        tensor p = rig_strided(&r, d.p + (uint64_t)at * d.n_p, d.n_p, c->piece[i]);
        b.n_tok = c->piece[i];
        y[i] = c->how == BEST ? op_delta(r.c, p, &m, &s, &b)
                              : delta_by(r.c, path[c->how], p, &m, &s, &b);
        op_advance(r.c, &b);
    }
    double *window = rig_doubles(&r, d.window, (uint64_t)n_window * d.d_conv);
    double *state = rig_doubles(&r, d.state, (uint64_t)d.d_out * c->d_state);
    double *want = delta_want(&r, c, &d, window, state);
    bool good = rig_run(&r);
    for (uint32_t i = 0, at = 0; good && i < n_piece; at += c->piece[i++])
        good = rig_near(&r, c->piece[i] == 1 && c->how == BEST ? "step" : hows[c->how], y[i],
                        want + (uint64_t)at * d.d_out, 0);
    good = good && rig_near(&r, "state", tensor_rows(s.state, end * n_row, n_row), state, 0) &&
           rig_near(&r, "window", tensor_rows(s.window, end * n_window, n_window), window, 0);
    if (good)
        rig_advanced(&r, &b, seg, d.n_tok, end);
    rig_close(&r);
}

static void test_delta(struct gpu *g)
{
    static const struct delta_row rows[] = {
        { 1, 1, 16, 4, true, 0, { 1 }, BEST, 0 },
        { 2, 4, 16, 4, true, 1, { 5 }, BEST, 0 },
        { 2, 4, 16, 4, false, 0, { 1, 1, 2, 3 }, BEST, 0 },
        { 2, 6, 32, 4, true, 0, { 2, 1, 4 }, BEST, 0 },
        { 2, 6, 32, 4, false, 1, { 7 }, BEST, 0 },
        { 2, 2, 64, 4, true, 1, { 2, 66, 3 }, BEST, 0 },
        { 1, 3, 64, 4, false, 0, { 1, 2 }, PLAIN, 0 },
        { 2, 4, 128, 4, true, 0, { 1, 9 }, BEST, 0 },
        { 1, 2, 128, 4, false, 1, { 3, 1 }, BEST, 0 },
        { 2, 4, 16, 2, false, 0, { 2, 3 }, BEST, 0 },
        { 2, 4, 16, 4, true, 0, { 200, 57 }, BEST, 0 },
        { 2, 4, 16, 4, false, 0, { 300, 20 }, PLAIN, SLOW },
    };
    /* Two lanes a column, four, eight; the most of a workgroup; a width that allows only one. */
    static const struct delta_row steps[] = {
        { 1, 3, 12, 4, true, 1, { 1, 1 }, STEP_WIDE, 0 },
        { 2, 4, 32, 4, true, 0, { 1, 1, 1, 1 }, STEP_WIDE, 0 },
        { 2, 2, 64, 2, false, 1, { 1, 1, 1 }, STEP_WIDE, 0 },
        { 2, 4, 128, 4, true, 0, { 1, 1 }, STEP_WIDE, 0 },
        { 1, 2, 128, 4, false, 1, { 1, 1, 1 }, STEP_WIDE, SLOW },
        { 1, 1, 256, 4, true, 0, { 1 }, STEP_WIDE, 0 },
    };
    /* Lengths of a chunk, one less and one more, and several with a rest; widths that the
     * columns of workgroups do not divide; 128 over more tokens than one dispatch may walk
     * (loop_budget). */
    static const struct delta_row chunks[] = {
        { 2, 4, 16, 4, true, 0, { 31, 32, 33, 101 }, CHUNKS, 0 },
        { 2, 4, 16, 4, false, 1, { 63, 64, 65, 197 }, CHUNKS, 0 },
        { 1, 3, 12, 4, true, 1, { 130, 5 }, CHUNKS, 0 },
        { 2, 4, 32, 4, false, 0, { 300, 20 }, CHUNKS, SLOW },
        { 1, 2, 128, 4, false, 0, { 300 }, CHUNKS, 0 },
        { 1, 2, 128, 4, true, 0, { 97, 2100 }, CHUNKS, SLOW },
        { 1, 1, 256, 4, true, 0, { 70 }, CHUNKS, 0 },
        { 2, 4, 16, 4, true, 0, { 31, 32, 33, 101 }, WIDE, 0 },
        { 2, 4, 16, 4, false, 1, { 63, 64, 65, 197 }, WIDE, 0 },
        { 2, 4, 16, 4, false, 0, { 300, 20 }, WIDE, SLOW },
        { 1, 2, 36, 4, true, 0, { 70, 1 }, WIDE, 0 },
        { 1, 2, 128, 4, false, 0, { 300 }, WIDE, 0 },
        { 1, 2, 128, 4, true, 0, { 97, 200 }, WIDE, SLOW },
        { 2, 4, 16, 4, true, 0, { 200 }, CHUNKS, STRONG },
        { 2, 4, 16, 4, false, 0, { 200 }, WIDE, STRONG },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        delta_case(g, &rows[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(steps); i++)
        delta_case(g, &steps[i]);
    for (uint32_t i = 0; !test_brief() && i < ARRAY_LEN(rows); i++) {
        struct delta_row c = rows[i];
        c.how = CHUNKS;
        delta_case(g, &c);
    }
    /* workgroups of the wide ones are the same for all subgroup sizes, except what rows[] has
     * too */
    bool wide = !ops_brief_skips(K_delta_chunk) || !ops_brief_skips(K_delta_chunk_scan);
    for (uint32_t i = 0; i < ARRAY_LEN(chunks); i++)
        if (wide || chunks[i].how != WIDE)
            delta_case(g, &chunks[i]);
}

void test_ops_mixer(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    test_delta(g);
    ops_report(g);
}
