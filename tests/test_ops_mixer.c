/* test_ops_mixer: attention over the cache, the rotary embedding alone, Gated DeltaNet.
 *
 * Kernels: attn_prep, attn, attn_cols, attn_merge, delta_conv, delta_scan, delta_norm, delta_step,
 * advance. */
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f

/* ---- attention --------------------------------------------------------------------------- */

struct attn_row {
    uint32_t head_dim, n_head, n_kv_head, n_rot;
    uint32_t n_ctx, n_past, n_tok;
    enum dtype cache;
    float peak;                 /* size of the queries: above 1 a few keys take it all */
};

/* A cache with its past filled; [n_kv_head][n_ctx][head_dim]. */
static tensor cache_make(struct rig *r, const struct attn_row *c)
{
    tensor t = rig_view(r, c->cache, c->head_dim, c->n_kv_head * c->n_ctx, c->head_dim, 0);
    for (uint32_t h = 0; h < c->n_kv_head; h++) {
        float *v = rig_normal(r, (uint64_t)c->n_past * c->head_dim, 1);
        rig_put(r, tensor_rows(t, h * c->n_ctx, c->n_past), v);
        rig_writes_rows(r, t, h * c->n_ctx + c->n_past, c->n_tok);
    }
    return t;
}

/* What a cache holds after the run, [n_past + n_tok][n_kv_head][head_dim]. */
static double *cache_read(struct rig *r, const struct attn_row *c, tensor t)
{
    uint32_t n = c->n_past + c->n_tok;
    double *out = rig_doubles(r, NULL, (uint64_t)n * c->n_kv_head * c->head_dim);
    for (uint32_t h = 0; h < c->n_kv_head; h++) {
        const float *v = rig_get(r, tensor_rows(t, h * c->n_ctx, n));
        for (uint64_t j = 0; j < n; j++)
            for (uint64_t i = 0; i < c->head_dim; i++)
                out[(j * c->n_kv_head + h) * c->head_dim + i] = (double)v[j * c->head_dim + i];
    }
    return out;
}

/* n_head rows of head_dim, normed, rotated for position pos; from p, `step` apart. */
static void heads_ref(const struct attn_row *c, const float *p, uint32_t step, uint32_t n_head,
                      const float *norm, const float *freq, uint32_t pos, double *out)
{
    for (uint32_t h = 0; h < n_head; h++)
        for (uint32_t i = 0; i < c->head_dim; i++)
            out[h * c->head_dim + i] = (double)p[(uint64_t)h * step + i];
    if (!norm)
        return;
    ref_rmsnorm(out, norm, c->head_dim, n_head, (double)EPS, out);
    ref_rope(freq, c->n_rot, pos, n_head, c->head_dim, out);
}

static void attn_case(struct gpu *g, const struct attn_row *c, enum attention_path path)
{
    uint32_t hd = c->head_dim, n_q = c->n_head * hd, n_kv = c->n_kv_head * hd;
    uint32_t n_p = 2 * (n_q + n_kv), n_tok = c->n_tok;
    uint32_t turn[256];
    float freq[256];
    const char *by = path == ATTENTION_COLS ? "attention by cols" : "attention";
    test_case("%s, %u/%u heads of %u, %u rotated, %u + %u of %u, %s, peak %g", by, c->n_head,
              c->n_kv_head, hd, c->n_rot, c->n_past, n_tok, c->n_ctx, dtype_info(c->cache)->name,
              (double)c->peak);
    struct rig r = rig_open(g, by);
    float *p_v = rig_normal(&r, (uint64_t)n_tok * n_p, 1.5);
    float *qn = rig_normal(&r, hd, (double)c->peak), *kn = rig_normal(&r, hd, 1);
    rope_turns(1e7, c->n_rot, turn);
    ref_rope_freq(1e7, c->n_rot, NULL, freq);
    struct attention a = { .n_head = c->n_head, .n_kv_head = c->n_kv_head, .head_dim = hd,
                           .n_rot = c->n_rot, .eps = EPS };
    a.q_norm = rig_dense(&r, qn, hd, 1);
    a.k_norm = rig_dense(&r, kn, hd, 1);
    a.turn = rig_words(&r, turn, c->n_rot);
    tensor p = rig_strided(&r, p_v, n_p, n_tok);
    struct kv_layer kv = { .k = cache_make(&r, c) };
    kv.v = cache_make(&r, c);
    struct step step = { .n_past = c->n_past };
    struct batch b = rig_batch(&r, n_tok, &step, NULL, 0, false);
    tensor y = attention_by(r.c, path, p, &a, &kv, &b);

    double *q = rig_doubles(&r, NULL, (uint64_t)n_tok * n_q);
    double *gate = rig_doubles(&r, NULL, (uint64_t)n_tok * n_q);
    double *k = rig_doubles(&r, NULL, (uint64_t)n_tok * n_kv);
    double *v = rig_doubles(&r, NULL, (uint64_t)n_tok * n_kv);
    double *want = rig_doubles(&r, NULL, (uint64_t)n_tok * n_q);
    for (uint32_t t = 0; t < n_tok; t++) {
        const float *row = p_v + (uint64_t)t * n_p;
        uint32_t pos = c->n_past + t;
        heads_ref(c, row, 2 * hd, c->n_head, qn, freq, pos, q + (uint64_t)t * n_q);
        heads_ref(c, row + hd, 2 * hd, c->n_head, NULL, NULL, pos, gate + (uint64_t)t * n_q);
        heads_ref(c, row + 2 * n_q, hd, c->n_kv_head, kn, freq, pos, k + (uint64_t)t * n_kv);
        heads_ref(c, row + 2 * n_q + n_kv, hd, c->n_kv_head, NULL, NULL, pos,
                  v + (uint64_t)t * n_kv);
    }
    if (rig_run(&r)) {
        /* New keys and values are near; values, which are only copied, the nearest there are. The
         * output comes from what the cache really holds. */
        double *all_k = cache_read(&r, c, kv.k), *all_v = cache_read(&r, c, kv.v);
        uint64_t past = (uint64_t)c->n_past * n_kv, n = (uint64_t)n_tok * n_kv;
        float *got = rig_alloc(&r, 2 * n, sizeof *got);
        for (uint64_t i = 0; i < n; i++) {
            got[i] = (float)all_k[past + i];
            got[n + i] = (float)all_v[past + i];
            if (c->cache == F16)
                v[i] = (double)f16_to_f32(f32_to_f16((float)v[i]));
        }
        double tol = ops_tolerance(c->cache);
        /* A weight's error is that of its score: with scores of 100 and more, 3e-12 measured. The
         * sum of thousands of values is small beside them: 1.1e-11. */
        bool hard = c->peak > 1 || c->n_past > 2000;
        const char *f16 = c->cache == F16 ? "cache f16" : "cache f32";
        struct ref_attention ref = { .n_tok = n_tok, .n_past = c->n_past, .n_head = c->n_head,
                                     .n_kv_head = c->n_kv_head, .head_dim = hd, .q = q,
                                     .k = all_k, .v = all_v, .gate = gate };
        ref_attention(&ref, want);
        (void)(rig_near_values(&r, f16, got, k, n_kv, n_tok, tol) &&
               rig_near_values(&r, "cache, values", got + n, v, n_kv, n_tok, 0) &&
               rig_near(&r, hard ? "output, hard" : "output", y, want, hard ? 3e-11 : 0));
    }
    rig_close(&r);
}

static void test_attention(struct gpu *g)
{
    static const struct attn_row rows[] = {
        { 32, 1, 1, 32, 4, 0, 1, F32, 1 },
        { 32, 4, 2, 8, 64, 63, 1, F16, 1 },
        { 48, 2, 1, 16, 66, 63, 3, F32, 1 },
        { 64, 6, 2, 48, 40, 1, 5, F16, 1 },
        { 64, 4, 2, 64, 80, 0, 65, F32, 1 },
        { 64, 3, 1, 32, 80, 63, 17, F16, 6 },
        { 128, 2, 1, 64, 72, 63, 9, F16, 1 },
        { 256, 8, 2, 64, 72, 63, 2, F32, 1 },
        { 256, 8, 1, 64, 70, 1, 9, F16, 1 },
        { 256, 2, 1, 64, 17, 0, 17, F32, 8 },
        /* Runs of keys: on a CPU device they end here at 3156, 6000 and 10896 with 256 elements, at
         * 8568, 15000 and 24000 with 64, by its subgroup; on a GPU at 512 while tokens are few. One
         * of several in use, the end of one, all. */
        { 256, 2, 1, 64, 12000, 0, 3, F32, 1 },
        { 256, 2, 1, 64, 12000, 511, 3, F32, 1 },
        { 256, 2, 1, 64, 12000, 3154, 3, F32, 1 },
        { 256, 2, 1, 64, 12000, 5999, 1, F16, 1 },
        { 256, 2, 1, 64, 12000, 6000, 1, F16, 1 },
        { 256, 2, 1, 64, 12000, 10895, 3, F16, 1 },
        { 256, 2, 1, 64, 12000, 11991, 9, F32, 4 },
        { 64, 2, 1, 64, 25000, 8560, 20, F32, 1 },
        { 64, 2, 1, 64, 25000, 14985, 20, F32, 1 },
        { 64, 2, 1, 64, 25000, 24980, 20, F32, 1 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        for (enum attention_path path = ATTENTION_PLAIN; path <= ATTENTION_COLS; path++)
            if (path == ATTENTION_PLAIN || (rows[i].head_dim <= 128 && rows[i].n_ctx > 4))
                attn_case(g, &rows[i], path);
}

/* ---- rotary ------------------------------------------------------------------------------ */

/* attn_prep with query heads only: one with ones in its first half, so that cosine and sine stand
 * in the result, one with ones in the other. */
static void rope_case(struct gpu *g, double theta, uint32_t n_rot, uint32_t pos)
{
    enum { HD = 64, N_HEAD = 2 };
    test_case("rotary, theta %g, %u of %u, position %u", theta, n_rot, HD, pos);
    struct rig r = rig_open(g, "rotary");
    float p_v[N_HEAD * 2 * HD] = { 0 }, one[HD], freq[HD / 2];
    double want[N_HEAD * HD] = { 0 };
    uint32_t turn[HD], half = n_rot / 2;
    float norm = 0.70710678f;   /* half of all elements are 1 */
    for (uint32_t i = 0; i < HD; i++) {
        p_v[i] = i < half || i >= n_rot + (HD - n_rot) / 2;
        p_v[2 * HD + i] = (i >= half && i < n_rot) || i >= n_rot + (HD - n_rot) / 2;
        one[i] = norm;
    }
    rope_turns(theta, n_rot, turn);
    ref_rope_freq(theta, n_rot, NULL, freq);
    for (uint32_t h = 0; h < N_HEAD; h++) {
        for (uint32_t i = 0; i < HD; i++)
            want[h * HD + i] = (double)p_v[h * 2 * HD + i];
        ref_rmsnorm(want + h * HD, one, HD, 1, (double)EPS, want + h * HD);
        ref_rope(freq, n_rot, pos, 1, HD, want + h * HD);
    }
    tensor p = rig_dense(&r, p_v, N_HEAD * 2 * HD, 1), w = rig_dense(&r, one, HD, 1);
    tensor q = rig_view(&r, F32, N_HEAD * HD, 1, N_HEAD * HD, 0);
    tensor none = rig_view(&r, F32, 4, 1, 4, 0);
    tensor turns = rig_words(&r, turn, n_rot);
    rig_writes(&r, q);
    struct step step = { .n_past = pos };
    struct batch b = rig_batch(&r, 1, &step, NULL, 0, false);
    struct push_attn_prep push = { .n_head = N_HEAD, .head_dim = HD, .n_rot = n_rot, .n_ctx = 1,
                                   .p_stride = p.stride, .eps = EPS };
    const struct gpu_caps *caps = gpu_caps(g);
    cmd_dispatch(r.c, K_attn_prep, GRID(N_HEAD, 1, 1),
                 SPEC(caps->kind == GPU_CPU ? caps->subgroup : 64, 0), PUSH(push),
                 USES(READ(p), READ(w), READ(w), READ(turns), READ(b.step), WRITE(q), WRITE(none),
                      WRITE(none)));
    if (rig_run(&r) && rig_near(&r, "rotary", q, want, 0)) {
        struct diff d = diff_f64(rig_get(&r, q), want, N_HEAD * HD);
        CHECK_MSG(d.max_abs <= 1e-6, "[%llu] is off by %.3g, at most 1e-6",
                  (unsigned long long)d.at, d.max_abs);
    }
    rig_close(&r);
}

/* ---- Gated DeltaNet ---------------------------------------------------------------------- */

struct delta_row {
    uint32_t n_k_head, n_v_head, d_state, conv_k;
    bool tiled;
    uint32_t flip;
    uint32_t piece[4];          /* tokens of the batches, 0 after the last */
    bool plain;                 /* never by delta_step */
};

/* What a mixer is given, as values; p is [n_tok][d_conv + d_out + 2 n_v_head]. */
struct delta_case {
    uint32_t n_tok, d_conv, d_out, n_p;
    float *p, *conv, *ssm_a, *dt_bias, *norm, *window, *state;
};

static struct delta_case delta_values(struct rig *r, const struct delta_row *c)
{
    struct delta_case d = { .d_conv = (2 * c->n_k_head + c->n_v_head) * c->d_state,
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
        d.ssm_a[i] = -expf(d.ssm_a[i] - 1);
    d.window = rig_normal(r, (uint64_t)(c->conv_k - 1) * d.d_conv, 1.5);
    d.state = rig_normal(r, (uint64_t)d.d_out * c->d_state, 0.5);
    return d;
}

/* Columns [col, col + n) of p as doubles. */
static double *columns(struct rig *r, const struct delta_case *d, uint32_t col, uint32_t n)
{
    double *out = rig_doubles(r, NULL, (uint64_t)d->n_tok * n);
    for (uint64_t t = 0; t < d->n_tok; t++)
        for (uint64_t i = 0; i < n; i++)
            out[t * n + i] = (double)d->p[t * d->n_p + col + i];
    return out;
}

/* The whole sequence at once. window and state are moved on. */
static double *delta_want(struct rig *r, const struct delta_row *c, const struct delta_case *d,
                          double *window, double *state)
{
    double *x = columns(r, d, 0, d->d_conv), *z = columns(r, d, d->d_conv, d->d_out);
    double *b = columns(r, d, d->d_conv + d->d_out, c->n_v_head);
    double *a = columns(r, d, d->d_conv + d->d_out + c->n_v_head, c->n_v_head);
    double *u = rig_doubles(r, NULL, (uint64_t)d->n_tok * d->d_conv);
    double *o = rig_doubles(r, NULL, (uint64_t)d->n_tok * d->d_out);
    struct ref_conv conv = { .n_tok = d->n_tok, .n_ch = d->d_conv, .conv_k = c->conv_k,
                             .w = d->conv, .x = x, .window = window };
    ref_conv_silu(&conv, u);
    struct ref_delta ref = { .n_tok = d->n_tok, .n_k_head = c->n_k_head, .n_v_head = c->n_v_head,
                             .d_state = c->d_state, .tiled = c->tiled, .qkv = u, .b = b, .a = a,
                             .ssm_a = d->ssm_a, .dt_bias = d->dt_bias, .state = state };
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

/* Batch after batch in one submission, op_advance between them; outputs, window, state and step. */
static void delta_case(struct gpu *g, const struct delta_row *c)
{
    test_case("delta %u/%u heads of %u, %s, conv %u, tokens %u %u %u %u, flip %u%s", c->n_k_head,
              c->n_v_head, c->d_state, c->tiled ? "tiled" : "grouped", c->conv_k, c->piece[0],
              c->piece[1], c->piece[2], c->piece[3], c->flip, c->plain ? ", plain" : "");
    struct rig r = rig_open(g, "delta");
    struct delta_case d = delta_values(&r, c);
    uint32_t n_window = c->conv_k - 1, n_piece = n_pieces(c);
    uint32_t end_flip = (c->flip + n_piece) % 2;
    struct delta m = { .n_k_head = c->n_k_head, .n_v_head = c->n_v_head, .d_state = c->d_state,
                       .conv_k = c->conv_k, .tiled = c->tiled, .eps = EPS };
    m.conv = rig_dense(&r, d.conv, c->conv_k, d.d_conv);
    m.ssm_a = rig_dense(&r, d.ssm_a, c->n_v_head, 1);
    m.dt_bias = rig_dense(&r, d.dt_bias, c->n_v_head, 1);
    m.norm = rig_dense(&r, d.norm, c->d_state, 1);
    struct delta_layer s = { .state = rig_dense(&r, d.state, c->d_state, d.d_out) };
    s.window = rig_view(&r, F32, d.d_conv, 2 * n_window, d.d_conv, 0);
    rig_put(&r, tensor_rows(s.window, c->flip * n_window, n_window), d.window);
    rig_writes(&r, s.state);
    rig_writes_rows(&r, s.window, (1 - c->flip) * n_window, n_window);
    if (n_piece > 1)
        rig_writes_rows(&r, s.window, c->flip * n_window, n_window);
    struct step step = { .n_past = 100, .flip = c->flip, .seed_lo = 7, .temp = 0.5f, .last_n = 3 };
    struct batch b = rig_batch(&r, 0, &step, NULL, 0, true);
    tensor y[ARRAY_LEN(c->piece)];
    for (uint32_t i = 0, at = 0; i < n_piece; at += c->piece[i++]) {
        tensor p = rig_strided(&r, d.p + (uint64_t)at * d.n_p, d.n_p, c->piece[i]);
        b.n_tok = c->piece[i];
        y[i] = c->plain ? delta_by(r.c, DELTA_PLAIN, p, &m, &s, &b) : op_delta(r.c, p, &m, &s, &b);
        op_advance(r.c, &b);
    }
    double *window = rig_doubles(&r, d.window, (uint64_t)n_window * d.d_conv);
    double *state = rig_doubles(&r, d.state, (uint64_t)d.d_out * c->d_state);
    double *want = delta_want(&r, c, &d, window, state);
    bool good = rig_run(&r);
    for (uint32_t i = 0, at = 0; good && i < n_piece; at += c->piece[i++])
        good = rig_near(&r, c->piece[i] == 1 && !c->plain ? "step" : "scan", y[i],
                        want + (uint64_t)at * d.d_out, 0);
    good = good && rig_near(&r, "state", s.state, state, 0) &&
           rig_near(&r, "window", tensor_rows(s.window, end_flip * n_window, n_window), window, 0);
    if (good) {
        struct step after = step;
        after.n_past += d.n_tok;
        after.flip = end_flip;
        CHECK_MSG(memcmp(r.back + b.step.offset, &after, sizeof after) == 0,
                  "the step is not what op_advance should make of it");
    }
    rig_close(&r);
}

static void test_delta(struct gpu *g)
{
    static const struct delta_row rows[] = {
        { 1, 1, 16, 4, true, 0, { 1 }, false },
        { 2, 4, 16, 4, true, 1, { 5 }, false },
        { 2, 4, 16, 4, false, 0, { 1, 1, 2, 3 }, false },
        { 2, 6, 32, 4, true, 0, { 2, 1, 4 }, false },
        { 2, 6, 32, 4, false, 1, { 7 }, false },
        { 2, 2, 64, 4, true, 1, { 2, 66, 3 }, false },
        { 1, 3, 64, 4, false, 0, { 1, 2 }, true },
        { 2, 4, 128, 4, true, 0, { 1, 9 }, false },
        { 1, 2, 128, 4, false, 1, { 3, 1 }, false },
        { 2, 4, 16, 2, false, 0, { 2, 3 }, false },
        { 2, 4, 16, 4, true, 0, { 200, 57 }, false },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        delta_case(g, &rows[i]);
}

void test_ops_mixer(void)
{
    static const uint32_t pos[] = { 0, 1, 4095, 65535, 262143 };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    test_attention(g);
    for (uint32_t i = 0; i < ARRAY_LEN(pos); i++) {
        rope_case(g, 1e7, 64, pos[i]);
        rope_case(g, 1e4, 32, pos[i]);
    }
    test_delta(g);
    ops_report(g);
}
