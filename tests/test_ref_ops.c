/* test_ref_ops: the operations of the reference compared with themselves and with numbers computed
 * by hand. No GPU, no files.
 *
 * The serial recurrences equal their chunked forms, and what no fixture shows - groups of experts,
 * a latent, ties - has a case here. */
#include "ref/ref_parts.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_same_bits(const double *got, const double *want, uint64_t n)
{
    CHECK(memcmp(got, want, n * sizeof *got) == 0);
}

static double *normals(struct rng *r, uint64_t n)
{
    double *x = ref_doubles(n);
    for (uint64_t i = 0; i < n; i++)
        x[i] = rng_normal(r);
    return x;
}

static bool near(double got, double want)
{
    return CHECK_MSG(fabs(got - want) < 1e-12 * fmax(1, fabs(want)), "%.17g, expected %.17g", got,
                     want);
}

/* ---- the recurrences -------------------------------------------------------------------- */

/* models/README.md, "DeltaNet in chunks": any chunk length gives the outputs and state of the
 * recurrence, from a state that is not zero and with a last chunk that is not full. Gates from
 * almost no decay to e^-20 a token. */
static void test_chunked(bool tiled, uint32_t chunk)
{
    enum { N_TOK = 130, N_K = 2, N_V = 6, DIM = 8, N_STATE = N_V * DIM * DIM };
    static const float ssm_a[N_V] = { -0.001f, -0.05f, -0.5f, -1, -4, -16 };
    static const float dt_bias[N_V] = { 0, -1, 1, 0.5f, 0, 0 };
    struct rng r = { 7 };
    struct ref_delta d = { .n_tok = N_TOK,
                           .n_k_head = N_K,
                           .n_v_head = N_V,
                           .d_state = DIM,
                           .tiled = tiled,
                           .ssm_a = ssm_a,
                           .dt_bias = dt_bias };
    double *qkv = normals(&r, N_TOK * (2 * N_K + N_V) * DIM), *b = normals(&r, N_TOK * N_V);
    double *a = normals(&r, N_TOK * N_V), *serial = normals(&r, N_STATE),
           *chunked = ref_doubles(N_STATE);
    double *want = ref_doubles(N_TOK * N_V * DIM), *got = ref_doubles(N_TOK * N_V * DIM), worst = 0;

    test_case("delta net: serial and chunks of %u agree, %s heads (seed 7)", chunk,
              tiled ? "tiled" : "grouped");
    memcpy(chunked, serial, N_STATE * sizeof *serial);
    d.qkv = qkv;
    d.b = b;
    d.a = a;
    d.state = serial;
    ref_delta(&d, want);
    d.state = chunked;
    ref_delta_chunked(&d, chunk, got);
    for (uint32_t i = 0; i < N_TOK * N_V * DIM; i++)
        worst = fmax(worst, fabs(got[i] - want[i]));
    for (uint32_t i = 0; i < N_STATE; i++)
        worst = fmax(worst, fabs(chunked[i] - serial[i]));
    CHECK_MSG(worst <= 1e-13, "%.3g apart", worst);
    free(qkv);
    free(b);
    free(a);
    free(serial);
    free(chunked);
    free(want);
    free(got);
}

/* One token by hand: S = 1, so the l2 norm leaves the sign of k and q (up to 1e-6), and M is a
 * number. */
static void test_delta_by_hand(void)
{
    static const float ssm_a[1] = { -2 }, dt_bias[1] = { 0.25f };
    double qkv[3] = { 1000, -1000, 3 }, b = 0.5, a = -0.5, state = 5, o;
    double beta = 1 / (1 + exp(-0.5)), decayed = 5 * exp(-2 * log(1 + exp(-0.25)));

    test_case("delta net: one token of width 1 by hand");
    ref_delta(&(struct ref_delta){ .n_tok = 1,
                                   .n_k_head = 1,
                                   .n_v_head = 1,
                                   .d_state = 1,
                                   .qkv = qkv,
                                   .b = &b,
                                   .a = &a,
                                   .ssm_a = ssm_a,
                                   .dt_bias = dt_bias,
                                   .state = &state },
              &o);
    double want = decayed - beta * (3 + decayed); /* k = -1: M - beta (v + M) */
    CHECK_MSG(fabs(state - want) < 1e-11, "state %.17g, expected %.17g", state, want);
    CHECK_MSG(fabs(o - want) < 1e-11, "output %.17g, expected %.17g", o, want);
}

/* models/README.md, "Mamba2 in chunks": the same for Mamba2, with groups of heads and decays from
 * almost none to e^-20 a token. */
static void test_mamba_chunked(uint32_t chunk)
{
    enum { N_TOK = 130, N_HEAD = 6, N_GROUP = 2, DIM = 5, NS = 7, N_STATE = N_HEAD * DIM * NS };
    static const float ssm_a[N_HEAD] = { -0.001f, -0.05f, -0.5f, -1, -4, -16 };
    static const float dt_bias[N_HEAD] = { 0, -1, 1, 0.5f, 0, 0 };
    static const float d[N_HEAD] = { 1, 0, -2, 3, 1, 1 };
    struct rng r = { 8 };
    double *xbc = normals(&r, N_TOK * (N_HEAD * DIM + 2 * N_GROUP * NS));
    double *dt = normals(&r, N_TOK * N_HEAD), *serial = normals(&r, N_STATE),
           *chunked = ref_doubles(N_STATE);
    double *want = ref_doubles(N_TOK * N_HEAD * DIM), *got = ref_doubles(N_TOK * N_HEAD * DIM),
           worst = 0;
    struct ref_mamba m = { .n_tok = N_TOK,
                           .n_head = N_HEAD,
                           .head_dim = DIM,
                           .n_group = N_GROUP,
                           .d_state = NS,
                           .xbc = xbc,
                           .dt = dt,
                           .ssm_a = ssm_a,
                           .dt_bias = dt_bias,
                           .d = d };

    test_case("Mamba2: serial and chunks of %u agree (seed 8)", chunk);
    memcpy(chunked, serial, N_STATE * sizeof *serial);
    m.state = serial;
    ref_mamba(&m, want);
    m.state = chunked;
    ref_mamba_chunked(&m, chunk, got);
    for (uint32_t i = 0; i < N_TOK * N_HEAD * DIM; i++)
        worst = fmax(worst, fabs(got[i] - want[i]));
    for (uint32_t i = 0; i < N_STATE; i++)
        worst = fmax(worst, fabs(chunked[i] - serial[i]));
    CHECK_MSG(worst <= 1e-12, "%.3g apart", worst);
    free(xbc);
    free(dt);
    free(serial);
    free(chunked);
    free(want);
    free(got);
}

/* Two heads of width 1 in two groups of state 1: every number has its own place. */
static void test_mamba_by_hand(void)
{
    static const float ssm_a[2] = { -2, -0.5f }, dt_bias[2] = { 0.25f, 1 }, d[2] = { 10, 20 };
    double xbc[6] = { 3, 5, 7, 11, 13, 17 }, dt[2] = { -0.5, 2 }, state[2] = { 5, -4 }, y[2];
    double dt0 = log(1 + exp(-0.25)), dt1 = log(1 + exp(3));
    double s0 = 5 * exp(-2 * dt0) + dt0 * 3 * 7, s1 = -4 * exp(-0.5 * dt1) + dt1 * 5 * 11;

    test_case("Mamba2: one token of width 1 by hand");
    ref_mamba(&(struct ref_mamba){ .n_tok = 1,
                                   .n_head = 2,
                                   .head_dim = 1,
                                   .n_group = 2,
                                   .d_state = 1,
                                   .xbc = xbc,
                                   .dt = dt,
                                   .ssm_a = ssm_a,
                                   .dt_bias = dt_bias,
                                   .d = d,
                                   .state = state },
              y);
    near(state[0], s0);
    near(state[1], s1);
    near(y[0], s0 * 13 + 10 * 3);
    near(y[1], s1 * 17 + 20 * 5);

    test_case("Mamba2: gated norm of two groups by hand");
    static const float w[4] = { 1, 2, 3, 4 };
    double x[4] = { 1, 1, 100, 0 }, z[4] = { 30, 40, 50, 1 }; /* silu(z) = z except for the last */
    ref_mamba_norm(x, z, w, 1, 2, 2, 0);
    double rms = sqrt((30 * 30 + 40 * 40) / 2.0);
    CHECK(fabs(x[0] - 30 / rms) < 1e-9 && fabs(x[1] - 2 * 40 / rms) < 1e-9);
    CHECK(fabs(x[2] - 3 * sqrt(2)) < 1e-9 && x[3] == 0);

    test_case("convolution: bias before SiLU, by hand");
    static const float taps[2] = { 2, 3 }, bias[1] = { -4 };
    double in[2] = { 1, 5 }, window[1] = { 7 }, out[2];
    ref_conv_silu(&(struct ref_conv){ .n_tok = 2,
                                      .n_ch = 1,
                                      .conv_k = 2,
                                      .w = taps,
                                      .x = in,
                                      .window = window,
                                      .bias = bias },
                  out);
    near(out[0], ref_silu(2 * 7 + 3 * 1 - 4));
    near(out[1], ref_silu(2 * 1 + 3 * 5 - 4));
    near(window[0], 5);
}

/* ---- attention and feed-forward --------------------------------------------------------- */

/* A window is the whole attention over the keys that it leaves. A head's gate multiplies each of
 * its values. Factors divide. */
static void test_attention_parts(void)
{
    enum { N_PAST = 5, N_TOK = 4, N_KEY = N_PAST + N_TOK, N_HEAD = 4, N_KV = 2, HD = 3 };
    enum { WINDOW = 3 };
    struct rng r = { 9 };
    double *q = normals(&r, N_TOK * N_HEAD * HD), *k = normals(&r, N_KEY * N_KV * HD);
    double *v = normals(&r, N_KEY * N_KV * HD), *gate = normals(&r, N_TOK * N_HEAD);
    double *got = ref_doubles(N_TOK * N_HEAD * HD), *want = ref_doubles(N_HEAD * HD);
    struct ref_attention a = { .n_tok = N_TOK,
                               .n_past = N_PAST,
                               .n_head = N_HEAD,
                               .n_kv_head = N_KV,
                               .head_dim = HD,
                               .q = q,
                               .k = k,
                               .v = v,
                               .window = WINDOW,
                               .head_gate = gate };

    test_case("attention: a window of %u is attention over %u keys (seed 9)", WINDOW, WINDOW);
    ref_attention(&a, got);
    for (uint32_t t = 0; t < N_TOK; t++) {
        uint32_t first = N_PAST + t + 1 - WINDOW;
        struct ref_attention one = { .n_tok = 1,
                                     .n_past = WINDOW - 1,
                                     .n_head = N_HEAD,
                                     .n_kv_head = N_KV,
                                     .head_dim = HD,
                                     .q = q + t * N_HEAD * HD,
                                     .k = k + first * N_KV * HD,
                                     .v = v + first * N_KV * HD };
        ref_attention(&one, want);
        for (uint32_t i = 0; i < N_HEAD * HD; i++)
            near(got[t * N_HEAD * HD + i], want[i] * ref_sigmoid(gate[t * N_HEAD + i / HD]));
    }
    test_case("attention: a window that nothing falls out of changes no bit");
    a.head_gate = NULL;
    a.window = N_KEY;
    ref_attention(&a, got);
    double *whole = ref_doubles(N_TOK * N_HEAD * HD);
    a.window = 0;
    ref_attention(&a, whole);
    check_same_bits(got, whole, N_TOK * N_HEAD * HD);

    test_case("rotary frequencies are divided by their factors");
    static const float factor[2] = { 1, 8 };
    float freq[2];
    ref_rope_freq(100, 4, factor, freq);
    CHECK(freq[0] == 1 && freq[1] == 0.0125f);
    free(q);
    free(k);
    free(v);
    free(gate);
    free(got);
    free(want);
    free(whole);
}

static void test_swiglu_limit(void)
{
    static const double gate[4] = { 30, -30, 1, 30 }, up[4] = { -9, 9, 2, 2 };
    double y[4];

    test_case("SwiGLU: limits above on the gate, after SiLU, and on both sides of up");
    ref_swiglu_limit(gate, up, 4, 7, y);
    near(y[0], -49);
    near(y[1], ref_silu(-30) * 7);
    near(y[2], ref_silu(1) * 2);
    near(y[3], 14);
    ref_swiglu_limit(gate, up, 4, 0, y);
    near(y[0], ref_silu(30) * -9);
    near(ref_relu2(-3) + ref_relu2(3), 9);
}

static void test_route_sigmoid(void)
{
    static const double logits[6] = { 0, 2, -1, 1, 1, -3 };
    static const float bias[6] = { 0.5f, 0, 0, 0, 0, 0.9f };
    uint32_t id[3];
    double w[3], s[6];

    for (uint32_t e = 0; e < 6; e++)
        s[e] = ref_sigmoid(logits[e]);
    test_case("sigmoid routing: the bias selects, the weights are without it");
    ref_moe_route_sigmoid(logits, bias, 6, 3, 1, 1, true, 2.5, id, w); /* 1.0, 0.947, 0.881 */
    CHECK(id[0] == 0 && id[1] == 5 && id[2] == 1);
    near(w[0], 2.5 * s[0] / (s[0] + s[5] + s[1]));
    near(w[1], 2.5 * s[5] / (s[0] + s[5] + s[1]));
    near(w[2], 2.5 * s[1] / (s[0] + s[5] + s[1]));

    test_case("sigmoid routing: no bias, no norm; the lower expert wins a tie");
    ref_moe_route_sigmoid(logits, NULL, 6, 3, 0, 0, false, 3, id, w);
    CHECK(id[0] == 1 && id[1] == 3 && id[2] == 4);
    near(w[0], 3 * s[1]);
    near(w[1], 3 * s[3]);

    /* Of three groups {0,1} {2,3} {4,5} the sums are 1.88, 1.00, 1.68; without bias 1.38, 1.00,
     * 0.78. */
    test_case("sigmoid routing: only the best groups are looked at");
    ref_moe_route_sigmoid(logits, bias, 6, 2, 3, 1, true, 1, id, w);
    CHECK(id[0] == 0 && id[1] == 1);
    ref_moe_route_sigmoid(logits, bias, 6, 3, 3, 2, true, 1, id, w);
    CHECK(id[0] == 0 && id[1] == 5 && id[2] == 1);
    ref_moe_route_sigmoid(logits, NULL, 6, 3, 3, 2, true, 1, id, w);
    CHECK(id[0] == 1 && id[1] == 3 && id[2] == 0);
}

/* A latent of the whole width between unit matrices changes nothing; the router and the shared
 * expert are outside it. Scaled by 2 on its way in and by 3 on its way out, relu2 makes it 12 times
 * the routed part. */
static void test_latent(void)
{
    enum { DIM = 4, N_EXPERT = 3, FF = 5 };
    struct rng r = { 10 };
    double *x = normals(&r, DIM), plain[DIM], latent[DIM], shared[DIM];
    float w[3][N_EXPERT * FF * DIM], in[DIM * DIM] = { 0 }, out[DIM * DIM] = { 0 };

    test_case("MoE: the latent is the experts' alone (seed 10)");
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t j = 0; j < N_EXPERT * FF * DIM; j++)
            w[i][j] = (float)rng_normal(&r);
    for (uint32_t i = 0; i < DIM; i++)
        in[i * DIM + i] = 2, out[i * DIM + i] = 3;
    struct ref_moe m = { .n_embd = DIM,
                         .n_expert = N_EXPERT,
                         .n_used = 2,
                         .n_ff = FF,
                         .n_ff_shared = FF,
                         .router = w[2],
                         .up = w[0],
                         .down = w[1],
                         .shared_up = w[1],
                         .shared_down = w[0],
                         .sigmoid = true,
                         .scale = 2 };
    struct ref_ffn f = { .n_embd = DIM, .n_ff = FF, .up = w[1], .down = w[0] };
    ref_moe(&m, x, 1, plain);
    ref_ffn(&f, x, 1, shared);
    m.n_latent = DIM;
    m.latent_down = in;
    m.latent_up = out;
    ref_moe(&m, x, 1, latent);
    for (uint32_t i = 0; i < DIM; i++)
        near(latent[i] - shared[i], 12 * (plain[i] - shared[i]));
    free(x);
}

static void test_route(void)
{
    static const double logits[5] = { 1, 3, 2, 3, 2 };
    uint32_t id[3];
    double w[3], e = exp(-1);

    test_case("routing: the lower expert wins a tie, weights sum to one");
    ref_moe_route(logits, 5, 3, id, w);
    CHECK_EQ(id[0], 1);
    CHECK_EQ(id[1], 3);
    CHECK_EQ(id[2], 2);
    CHECK(fabs(w[0] - 1 / (2 + e)) < 1e-15 && fabs(w[2] - e / (2 + e)) < 1e-15);
}

void test_ref_ops(void)
{
    static const uint32_t chunk[] = { 1, 3, 64, 200 };

    test_delta_by_hand();
    test_mamba_by_hand();
    for (uint32_t i = 0; i < ARRAY_LEN(chunk); i++) {
        test_chunked(true, chunk[i]);
        test_chunked(false, chunk[i]);
        test_mamba_chunked(chunk[i]);
    }
    test_attention_parts();
    test_swiglu_limit();
    test_route();
    test_route_sigmoid();
    test_latent();
}
