/* test_ref_bwd_ssm: the backward of the Gated DeltaNet and of Mamba2, serial and in chunks,
 * compared with central differences of the serial forward and with each other. No GPU, no files.
 *
 * There is either one sequence between two states, and the loss also weighs the state that is left,
 * or a packed row of documents from zero states. Read test_ref_bwd.c first. */
#include "ref/ref_check.h"

#include <math.h>

/* chunk 0: serial. Longer than the row: one chunk a document. */
static const uint32_t chunks[] = { 0, 1, 3, 4, 64 };

/* The largest difference relative to the largest value. */
static void check_same(const char *what, const double *got, const double *want, uint64_t n)
{
    double off = 0, top = 0;
    for (uint64_t i = 0; i < n; i++) {
        off = fmax(off, fabs(got[i] - want[i]));
        top = fmax(top, fabs(want[i] - START));
    }
    CHECK_MSG(off <= 1e-12 * top, "%s: %.3g from the serial one's, of %.3g", what, off, top);
}

/* ---- Gated DeltaNet --------------------------------------------------------------------- */

enum { N_K = 2, N_V = 4, DIM = 3, DELTA_ROW = (2 * N_K + N_V) * DIM, N_STATE = N_V * DIM * DIM };
enum { N_QKV = RC_TOK * DELTA_ROW, N_GATE = RC_TOK * N_V, N_OUT = RC_TOK * N_V * DIM };

struct delta_check {
    struct ref_delta d;
    bool packed;
    double *dout, *dstate; /* the weights of the loss */
};

static double delta_loss(const void *ctx)
{
    const struct delta_check *c = ctx;
    double *y = ref_doubles(N_OUT), *state = ref_doubles(N_STATE), sum = 0;
    if (!c->packed)
        memcpy(state, c->d.state, N_STATE * sizeof *state);
    for (uint32_t t = 0, n; t < RC_TOK; t += n) {
        struct ref_delta one = c->d;
        one.n_tok = n = c->packed ? rc_doc_length(t) : RC_TOK;
        one.qkv += t * DELTA_ROW;
        one.b += t * N_V;
        one.a += t * N_V;
        one.state = state;
        if (c->packed)
            memset(state, 0, N_STATE * sizeof *state);
        ref_delta(&one, y + t * N_V * DIM);
    }
    for (uint32_t i = 0; !c->packed && i < N_STATE; i++)
        sum += c->dstate[i] * state[i];
    free(state);
    return sum + rc_weigh(c->dout, y, N_OUT);
}

struct delta_inputs {
    double *qkv, *b, *a, *state;
    float *dt_bias;
};
static void delta_run(const struct delta_check *c, uint32_t chunk, struct ref_delta_grad *g)
{
    const uint32_t *first = c->packed ? rc_first : NULL;
    *g = (struct ref_delta_grad){ .dqkv = rc_start(N_QKV),
                                  .db = rc_start(N_GATE),
                                  .da = rc_start(N_GATE),
                                  .da_log = rc_start(N_V),
                                  .ddt_bias = rc_start(N_V),
                                  .dstate = c->packed ? NULL : rc_start(N_STATE) };
    if (g->dstate)
        memcpy(g->dstate, c->dstate, N_STATE * sizeof *g->dstate);
    if (chunk)
        ref_delta_chunked_bwd(&c->d, first, chunk, c->dout, g);
    else
        ref_delta_bwd(&c->d, first, c->dout, g);
    for (uint32_t i = 0; g->dstate && i < N_STATE; i++) /* carried, not added to */
        g->dstate[i] += START;
}

static void delta_check(struct delta_check *c, const struct delta_inputs *in, float *ssm_a,
                        struct ref_delta_grad *g)
{
    rc_check("dqkv", delta_loss, c, in->qkv, N_QKV, g->dqkv);
    rc_check("db", delta_loss, c, in->b, N_GATE, g->db);
    rc_check("da", delta_loss, c, in->a, N_GATE, g->da);
    rc_check_float("ddt_bias", delta_loss, c, in->dt_bias, N_V, g->ddt_bias);
    if (g->dstate)
        rc_check("dstate", delta_loss, c, in->state, N_STATE, g->dstate);
    /* ssm_a = -exp(A_log), so d ssm_a = d A_log / ssm_a */
    double *da = rc_start(N_V);
    for (uint32_t j = 0; j < N_V; j++)
        da[j] += (g->da_log[j] - START) / (double)ssm_a[j];
    rc_check_float("da_log", delta_loss, c, ssm_a, N_V, da);
}

/* Decays from almost none to e^-20 a token; one input of the softplus is above its switch. */
static void test_delta(bool tiled, bool packed)
{
    struct rng r = { 21 };
    float ssm_a[N_V] = { -0.0078125f, -0.5f, -1, -16 };
    struct delta_inputs in = { .qkv = rc_normals(&r, N_QKV),
                               .b = rc_normals(&r, N_GATE),
                               .a = rc_normals(&r, N_GATE),
                               .state = rc_normals(&r, N_STATE),
                               .dt_bias = rc_floats(&r, N_V) };
    struct delta_check c = { .d = { .n_tok = RC_TOK,
                                    .n_k_head = N_K,
                                    .n_v_head = N_V,
                                    .d_state = DIM,
                                    .tiled = tiled,
                                    .qkv = in.qkv,
                                    .b = in.b,
                                    .a = in.a,
                                    .ssm_a = ssm_a,
                                    .dt_bias = in.dt_bias,
                                    .state = in.state },
                             .packed = packed,
                             .dout = rc_normals(&r, N_OUT),
                             .dstate = rc_normals(&r, N_STATE) };
    struct ref_delta_grad serial = { 0 }, g;

    in.a[N_V] = 25;
    for (uint32_t i = 0; i < ARRAY_LEN(chunks); i++) {
        test_case("delta net backward, %s heads, %s, chunk %u (seed 21)",
                  tiled ? "tiled" : "grouped", packed ? "documents" : "states", chunks[i]);
        delta_run(&c, chunks[i], &g);
        delta_check(&c, &in, ssm_a, &g);
        if (!chunks[i])
            serial = g;
        check_same("dqkv", g.dqkv, serial.dqkv, N_QKV);
        check_same("db", g.db, serial.db, N_GATE);
        check_same("da", g.da, serial.da, N_GATE);
        check_same("da_log", g.da_log, serial.da_log, N_V);
        check_same("ddt_bias", g.ddt_bias, serial.ddt_bias, N_V);
        if (!packed)
            check_same("dstate", g.dstate, serial.dstate, N_STATE);
    }
    rc_free();
}

/* ---- Mamba2 ----------------------------------------------------------------------------- */

enum { N_HEAD = 4, M_GROUP = 2, M_DIM = 3, NS = 2, M_INNER = N_HEAD * M_DIM };
enum { M_ROW = M_INNER + 2 * M_GROUP * NS, N_XBC = RC_TOK * M_ROW, N_DT = RC_TOK * N_HEAD };
enum { N_Y = RC_TOK * M_INNER, M_STATE = M_INNER * NS };

struct mamba_check {
    struct ref_mamba m;
    bool packed;
    double *dout, *dstate;
};

static double mamba_loss(const void *ctx)
{
    const struct mamba_check *c = ctx;
    double *y = ref_doubles(N_Y), *state = ref_doubles(M_STATE), sum = 0;
    if (!c->packed)
        memcpy(state, c->m.state, M_STATE * sizeof *state);
    for (uint32_t t = 0, n; t < RC_TOK; t += n) {
        struct ref_mamba one = c->m;
        one.n_tok = n = c->packed ? rc_doc_length(t) : RC_TOK;
        one.xbc += t * M_ROW;
        one.dt += t * N_HEAD;
        one.state = state;
        if (c->packed)
            memset(state, 0, M_STATE * sizeof *state);
        ref_mamba(&one, y + t * M_INNER);
    }
    for (uint32_t i = 0; !c->packed && i < M_STATE; i++)
        sum += c->dstate[i] * state[i];
    free(state);
    return sum + rc_weigh(c->dout, y, N_Y);
}

struct mamba_inputs {
    double *xbc, *dt, *state;
    float *dt_bias, *d;
};
static void mamba_run(const struct mamba_check *c, uint32_t chunk, struct ref_mamba_grad *g)
{
    const uint32_t *first = c->packed ? rc_first : NULL;
    *g = (struct ref_mamba_grad){ .dxbc = rc_start(N_XBC),
                                  .ddt = rc_start(N_DT),
                                  .da_log = rc_start(N_HEAD),
                                  .ddt_bias = rc_start(N_HEAD),
                                  .dd = rc_start(N_HEAD),
                                  .dstate = c->packed ? NULL : rc_start(M_STATE) };
    if (g->dstate)
        memcpy(g->dstate, c->dstate, M_STATE * sizeof *g->dstate);
    if (chunk)
        ref_mamba_chunked_bwd(&c->m, first, chunk, c->dout, g);
    else
        ref_mamba_bwd(&c->m, first, c->dout, g);
    for (uint32_t i = 0; g->dstate && i < M_STATE; i++)
        g->dstate[i] += START;
}

static void mamba_check(struct mamba_check *c, const struct mamba_inputs *in, float *ssm_a,
                        struct ref_mamba_grad *g)
{
    rc_check("dxbc", mamba_loss, c, in->xbc, N_XBC, g->dxbc);
    rc_check("ddt", mamba_loss, c, in->dt, N_DT, g->ddt);
    rc_check_float("ddt_bias", mamba_loss, c, in->dt_bias, N_HEAD, g->ddt_bias);
    rc_check_float("dd", mamba_loss, c, in->d, N_HEAD, g->dd);
    if (g->dstate)
        rc_check("dstate", mamba_loss, c, in->state, M_STATE, g->dstate);
    double *da = rc_start(N_HEAD);
    for (uint32_t h = 0; h < N_HEAD; h++)
        da[h] += (g->da_log[h] - START) / (double)ssm_a[h];
    rc_check_float("da_log", mamba_loss, c, ssm_a, N_HEAD, da);
}

static void test_mamba(bool packed)
{
    struct rng r = { 22 };
    float ssm_a[N_HEAD] = { -0.0078125f, -0.5f, -1, -16 };
    struct mamba_inputs in = { .xbc = rc_normals(&r, N_XBC),
                               .dt = rc_normals(&r, N_DT),
                               .state = rc_normals(&r, M_STATE),
                               .dt_bias = rc_floats(&r, N_HEAD),
                               .d = rc_floats(&r, N_HEAD) };
    struct mamba_check c = { .m = { .n_tok = RC_TOK,
                                    .n_head = N_HEAD,
                                    .head_dim = M_DIM,
                                    .n_group = M_GROUP,
                                    .d_state = NS,
                                    .xbc = in.xbc,
                                    .dt = in.dt,
                                    .ssm_a = ssm_a,
                                    .dt_bias = in.dt_bias,
                                    .d = in.d,
                                    .state = in.state },
                             .packed = packed,
                             .dout = rc_normals(&r, N_Y),
                             .dstate = rc_normals(&r, M_STATE) };
    struct ref_mamba_grad serial = { 0 }, g;

    in.dt[N_HEAD] = 25;
    for (uint32_t i = 0; i < ARRAY_LEN(chunks); i++) {
        test_case("Mamba2 backward, %s, chunk %u (seed 22)", packed ? "documents" : "states",
                  chunks[i]);
        mamba_run(&c, chunks[i], &g);
        mamba_check(&c, &in, ssm_a, &g);
        if (!chunks[i])
            serial = g;
        check_same("dxbc", g.dxbc, serial.dxbc, N_XBC);
        check_same("ddt", g.ddt, serial.ddt, N_DT);
        check_same("da_log", g.da_log, serial.da_log, N_HEAD);
        check_same("ddt_bias", g.ddt_bias, serial.ddt_bias, N_HEAD);
        check_same("dd", g.dd, serial.dd, N_HEAD);
        if (!packed)
            check_same("dstate", g.dstate, serial.dstate, M_STATE);
    }
    rc_free();
}

void test_ref_bwd_ssm(void)
{
    for (int packed = 0; packed < 2; packed++) {
        test_delta(false, packed);
        test_delta(true, packed);
        test_mamba(packed);
    }
}
