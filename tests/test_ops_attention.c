/* test_ops_attention: attention over the cache in all its forms - with and without norms, rotation
 * and gates, over all keys and over a window in a ring, with caches of three types - and the
 * rotation alone. */
#include "model/kv.h"
#include "ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f
enum { MAX_HEAD = 512, MAX_PIECE = 256 };

struct attn_row {
    uint32_t head_dim, n_head, n_kv_head, n_rot;
    uint32_t n_row, n_past, n_tok; /* n_row: rows of the cache */
    enum dtype cache;
    float peak; /* size of the queries: above 1, a few keys take all the weight */
    enum attention_gate gate;
    bool norm;
    uint32_t window;
};

/* ---- what goes in and what comes out ----------------------------------------------------- */

/* The op's inputs as numbers; p is [n_tok][n_p]. */
struct attn_inputs {
    uint32_t n_p, step, gate; /* the step from one query to the next; where the gates begin */
    float *p, *q_norm, *k_norm, freq[MAX_HEAD / 2];
    struct attention a;
};

static struct attn_inputs inputs_make(struct rig *r, const struct attn_row *c, uint32_t n_tok)
{
    uint32_t hd = c->head_dim, turn[MAX_HEAD];
    struct attn_inputs in = { .step = c->gate == GATE_ELEM ? 2 * hd : hd };
    uint32_t n_qkv = in.step * c->n_head + 2 * hd * c->n_kv_head;
    in.gate = c->gate == GATE_ELEM ? hd : n_qkv;
    in.n_p = n_qkv + (c->gate == GATE_HEAD ? c->n_head : 0);
    in.p = rig_normal(r, (uint64_t)n_tok * in.n_p, 1.5);
    in.q_norm = rig_normal(r, hd, (double)c->peak);
    in.k_norm = rig_normal(r, hd, 1);
    rope_turns(1e7, c->n_rot, NULL, turn);
    ref_rope_freq(1e7, c->n_rot, NULL, in.freq);
    in.a = (struct attention){ .n_head = c->n_head,
                               .n_kv_head = c->n_kv_head,
                               .head_dim = hd,
                               .n_rot = c->n_rot,
                               .window = c->window,
                               .gate = c->gate,
                               .norm = c->norm,
                               .eps = EPS };
    if (c->norm) {
        in.a.q_norm = rig_dense(r, in.q_norm, hd, 1);
        in.a.k_norm = rig_dense(r, in.k_norm, hd, 1);
    }
    if (c->n_rot)
        in.a.turn = rig_words(r, turn, c->n_rot);
    return in;
}

/* Reads n_head rows of head_dim from p, `step` apart. Where there is a norm, they are normed and
 * rotated for position pos. */
static void heads_ref(const struct attn_row *c, const float *p, uint32_t step, uint32_t n_head,
                      const float *norm, const float *freq, uint32_t pos, double *out)
{
    for (uint32_t h = 0; h < n_head; h++)
        for (uint32_t i = 0; i < c->head_dim; i++)
            out[h * c->head_dim + i] = (double)p[(uint64_t)h * step + i];
    if (norm && c->norm)
        ref_rmsnorm(out, norm, c->head_dim, n_head, (double)EPS, out);
    if (norm)
        ref_rope(freq, c->n_rot, pos, n_head, c->head_dim, out);
}

/* Queries, keys, values and gates of every token, in double. */
struct attn_heads {
    double *q, *k, *v, *gate;
};

static struct attn_heads heads_make(struct rig *r, const struct attn_row *c,
                                    const struct attn_inputs *in, uint32_t n_past, uint32_t n_tok)
{
    uint32_t hd = c->head_dim, n_q = c->n_head * hd, n_kv = c->n_kv_head * hd;
    struct attn_heads h = { .q = rig_doubles(r, NULL, (uint64_t)n_tok * n_q),
                            .k = rig_doubles(r, NULL, (uint64_t)n_tok * n_kv),
                            .v = rig_doubles(r, NULL, (uint64_t)n_tok * n_kv),
                            .gate = rig_doubles(r, NULL, (uint64_t)n_tok * n_q) };
    for (uint32_t t = 0; t < n_tok; t++) {
        const float *row = in->p + (uint64_t)t * in->n_p, *k = row + c->n_head * in->step;
        double *gate = h.gate + (uint64_t)t * (c->gate == GATE_HEAD ? c->n_head : n_q);
        uint32_t pos = n_past + t;
        heads_ref(c, row, in->step, c->n_head, in->q_norm, in->freq, pos, h.q + (uint64_t)t * n_q);
        heads_ref(c, k, hd, c->n_kv_head, in->k_norm, in->freq, pos, h.k + (uint64_t)t * n_kv);
        heads_ref(c, k + n_kv, hd, c->n_kv_head, NULL, NULL, pos, h.v + (uint64_t)t * n_kv);
        if (c->gate == GATE_ELEM)
            heads_ref(c, row + in->gate, in->step, c->n_head, NULL, NULL, pos, gate);
        for (uint32_t i = 0; c->gate == GATE_HEAD && i < c->n_head; i++)
            gate[i] = (double)row[in->gate + i];
    }
    return h;
}

static uint32_t cache_row(const struct attn_row *c, uint32_t head, uint32_t pos)
{
    return head * c->n_row + (c->window ? pos % c->n_row : pos);
}

/* A cache filled with its past, as far as it has room. */
static tensor cache_make(struct rig *r, const struct attn_row *c)
{
    tensor t = rig_view(r, c->cache, c->head_dim, c->n_kv_head * c->n_row, c->head_dim, 0);
    uint32_t from = c->n_past > c->n_row ? c->n_past - c->n_row : 0, n = c->n_past - from;
    for (uint32_t h = 0; h < c->n_kv_head; h++) {
        float *v = rig_normal(r, (uint64_t)n * c->head_dim, 1);
        for (uint32_t i = 0; i < n; i++)
            rig_put(r, tensor_rows(t, cache_row(c, h, from + i), 1), v + (uint64_t)i * c->head_dim);
        for (uint32_t i = 0; i < c->n_tok; i++)
            rig_writes_rows(r, t, cache_row(c, h, c->n_past + i), 1);
    }
    return t;
}

/* The content of a cache after n positions, [n][n_kv_head][head_dim]; NaN where it has been
 * overwritten. */
static double *cache_read(struct rig *r, const struct attn_row *c, tensor t, uint32_t n)
{
    double *out = rig_doubles(r, NULL, (uint64_t)n * c->n_kv_head * c->head_dim);
    const float *v = rig_get(r, t);
    for (uint32_t h = 0; h < c->n_kv_head; h++)
        for (uint64_t j = 0; j < n; j++)
            for (uint64_t i = 0; i < c->head_dim; i++) {
                uint64_t at = (uint64_t)cache_row(c, h, (uint32_t)j) * c->head_dim + i;
                out[(j * c->n_kv_head + h) * c->head_dim + i] =
                    n > j + c->n_row ? (double)NAN : (double)v[at];
            }
    return out;
}

/* Rows of an 8-bit cache are within half a step of what they should be. */
static bool near_steps(const char *what, const float *got, const double *want, uint32_t head_dim,
                       uint64_t n_head)
{
    for (uint64_t h = 0; h < n_head; h++, got += head_dim, want += head_dim)
        for (uint32_t b = 0; b < head_dim; b += 32) {
            uint32_t end = min_u32(b + 32, head_dim);
            double top = 0;
            for (uint32_t i = b; i < end; i++)
                top = fmax(top, fabs(want[i]));
            for (uint32_t i = b; i < end; i++)
                if (!(fabs((double)got[i] - want[i]) <= 0.5006 * top / 127))
                    return FAIL("%s: head %llu, element %u is %.9g, expected %.9g within %.3g",
                                what, (unsigned long long)h, i, (double)got[i], want[i],
                                0.5006 * top / 127);
        }
    return true;
}

/* The new rows of the cache are right; values, which are only copied, are the nearest numbers. */
static bool check_cache(struct rig *r, const struct attn_row *c, const struct attn_heads *h,
                        const double *k, const double *v)
{
    uint32_t n_kv = c->n_kv_head * c->head_dim;
    uint64_t past = (uint64_t)c->n_past * n_kv, n = (uint64_t)c->n_tok * n_kv;
    float *got = rig_alloc(r, 2 * n, sizeof *got);
    double *near_v = rig_doubles(r, NULL, n);
    for (uint64_t i = 0; i < n; i++) {
        got[i] = (float)k[past + i];
        got[n + i] = (float)v[past + i];
        near_v[i] = c->cache == F16 ? (double)f16_to_f32(f32_to_f16((float)h->v[i])) : h->v[i];
    }
    if (c->cache == Q8_0)
        return near_steps("keys", got, h->k, c->head_dim, n / c->head_dim) &&
               near_steps("values", got + n, h->v, c->head_dim, n / c->head_dim);
    return rig_near_values(r, c->cache == F16 ? "cache f16" : "cache f32", got, h->k, n_kv,
                           c->n_tok, ops_tolerance(c->cache)) &&
           rig_near_values(r, "cache, values", got + n, near_v, n_kv, c->n_tok, 0);
}

static struct ref_attention ref_of(const struct attn_row *c, const struct attn_heads *h,
                                   const double *k, const double *v)
{
    return (struct ref_attention){ .n_head = c->n_head,
                                   .n_kv_head = c->n_kv_head,
                                   .head_dim = c->head_dim,
                                   .window = c->window,
                                   .q = h->q,
                                   .k = k,
                                   .v = v,
                                   .gate = c->gate == GATE_ELEM ? h->gate : NULL,
                                   .head_gate = c->gate == GATE_HEAD ? h->gate : NULL };
}

static const char *gate_name(const struct attn_row *c)
{
    static const char *const names[] = { "no gate", "gates", "gate a head" };
    return names[c->gate];
}

/* ---- one batch over a cache with a past --------------------------------------------------- */

/* NMSE of outputs from scores of 100 and more, whose error is that of the weights (3e-12 measured),
 * and of sums of thousands of values, which are small beside their terms (1.1e-11). */
static const struct bound hard_off = { .most = 3e-11, .measured = 1.1e-11 };

static void attn_case(struct gpu *g, const struct attn_row *c, enum attention_path path)
{
    const char *by = path == ATTENTION_COLS ? "attention by cols" : "attention";
    if (!test_case("%s, %u/%u heads of %u, %u rotated, %u + %u of %u, window %u, %s, %s%s, peak %g",
                   by, c->n_head, c->n_kv_head, c->head_dim, c->n_rot, c->n_past, c->n_tok,
                   c->n_row, c->window, dtype_info(c->cache)->name, gate_name(c),
                   c->norm ? "" : ", no norm", (double)c->peak))
        return;
    struct rig r = rig_open(g, by);
    struct attn_inputs in = inputs_make(&r, c, c->n_tok);
    tensor p = rig_strided(&r, in.p, in.n_p, c->n_tok);
    struct kv_layer kv = { .k = cache_make(&r, c) };
    kv.v = cache_make(&r, c);
    kv.n_row = c->n_row;
    struct segment seg = { .pos = c->n_past };
    struct batch b = rig_batch(&r, c->n_tok, &seg, NULL, 0, false);
    tensor y = attention_by(r.c, path, p, &in.a, &kv, &b);
    struct attn_heads h = heads_make(&r, c, &in, c->n_past, c->n_tok);
    double *want = rig_doubles(&r, NULL, (uint64_t)c->n_tok * c->n_head * c->head_dim);
    if (rig_run(&r)) {
        /* The expected output is made from what the cache holds, with its rounding. */
        double *k = cache_read(&r, c, kv.k, c->n_past + c->n_tok);
        double *v = cache_read(&r, c, kv.v, c->n_past + c->n_tok);
        bool hard = c->peak > 1 || c->n_past > 2000;
        struct ref_attention ref = ref_of(c, &h, k, v);
        ref.n_tok = c->n_tok;
        ref.n_past = c->n_past;
        ref_attention(&ref, want);
        (void)(check_cache(&r, c, &h, k, v) &&
               rig_near(&r, hard ? "output, hard" : "output", y, want, hard ? hard_off.most : 0));
    }
    rig_close(&r);
}

/* By cols from min_tok tokens on; not where another subgroup size changes nothing of it. */
static void attn_cases(struct gpu *g, const struct attn_row *row, uint32_t n, uint32_t min_tok)
{
    for (uint32_t i = 0; i < n; i++) {
        attn_case(g, &row[i], ATTENTION_PLAIN);
        if (row[i].head_dim <= 128 && row[i].n_tok >= min_tok && !ops_brief_skips(K_attn_cols))
            attn_case(g, &row[i], ATTENTION_COLS);
    }
}

#define QWEN GATE_ELEM, true
#define STEP GATE_HEAD, true
#define NEMOTRON GATE_NONE, false

static void test_attention(struct gpu *g)
{
    static const struct attn_row rows[] = {
        { 32, 1, 1, 32, 4, 0, 1, F32, 1, QWEN, 0 },
        { 32, 4, 2, 8, 64, 63, 1, F16, 1, QWEN, 0 },
        { 48, 2, 1, 16, 66, 63, 3, F32, 1, QWEN, 0 },
        { 64, 6, 2, 48, 40, 1, 5, F16, 1, QWEN, 0 },
        { 64, 4, 2, 64, 80, 0, 65, F32, 1, QWEN, 0 },
        { 64, 3, 1, 32, 80, 63, 17, F16, 6, QWEN, 0 },
        { 128, 2, 1, 64, 72, 63, 9, F16, 1, QWEN, 0 },
        { 256, 8, 2, 64, 72, 63, 2, F32, 1, QWEN, 0 },
        { 256, 8, 1, 64, 70, 1, 9, F16, 1, QWEN, 0 },
        { 256, 2, 1, 64, 17, 0, 17, F32, 8, QWEN, 0 },
        /* Runs of keys. On a CPU device they end here at 3156, 6000 and 10896 with 256 elements,
         * and at 8568, 15000 and 24000 with 64, by its subgroup size; on a GPU at 512 while tokens
         * are few. Part of several runs, exactly one run, all of them. */
        { 256, 2, 1, 64, 12000, 0, 3, F32, 1, QWEN, 0 },
        { 256, 2, 1, 64, 12000, 511, 3, F32, 1, QWEN, 0 },
        { 256, 2, 1, 64, 12000, 3154, 3, F32, 1, QWEN, 0 },
        { 256, 2, 1, 64, 12000, 5999, 1, F16, 1, QWEN, 0 },
        { 256, 2, 1, 64, 12000, 6000, 1, F16, 1, QWEN, 0 },
        { 256, 2, 1, 64, 12000, 10895, 3, F16, 1, QWEN, 0 },
        { 256, 2, 1, 64, 12000, 11991, 9, F32, 4, QWEN, 0 },
        { 64, 2, 1, 64, 25000, 8560, 20, F32, 1, QWEN, 0 },
        { 64, 2, 1, 64, 25000, 14985, 20, F32, 1, QWEN, 0 },
        { 64, 2, 1, 64, 25000, 24980, 20, F32, 1, QWEN, 0 },
    };
    attn_cases(g, rows, ARRAY_LEN(rows), 1);
}

/* Sorted by rows that have much in common, because making pipelines is what they cost. */
static void test_forms(struct gpu *g)
{
    static const struct attn_row rows[] = {
        { 16, 3, 1, 0, 20, 0, 9, F32, 1, NEMOTRON, 0 },
        { 20, 4, 1, 0, 40, 17, 5, F32, 1, NEMOTRON, 0 },
        { 16, 3, 1, 16, 20, 3, 11, F32, 1, STEP, 0 },
        { 48, 6, 3, 24, 70, 60, 6, F32, 1, STEP, 0 },
        { 112, 5, 1, 112, 70, 60, 1, F16, 1, STEP, 0 },
        { 200, 4, 2, 100, 70, 60, 3, F32, 1, STEP, 0 },
        /* a combination that no model has */
        { 32, 3, 3, 0, 40, 30, 4, F32, 1, GATE_HEAD, false, 0 },
        { 32, 4, 4, 32, 40, 30, 4, F32, 1, GATE_NONE, true, 0 },
        { 32, 2, 2, 0, 40, 30, 4, F32, 1, GATE_ELEM, false, 0 },
        /* Windows: the ring wrapped many times; a batch that just fits; a cache shorter than the
         * window; the window's first key at the start of the ring. */
        { 16, 3, 1, 16, 1, 1000, 1, F32, 1, STEP, 1 },
        { 16, 3, 1, 16, 17, 70000, 17, F32, 1, STEP, 1 },
        { 16, 3, 1, 16, 13, 100, 9, F32, 1, STEP, 5 },
        { 32, 3, 1, 16, 28, 27, 9, F16, 1, STEP, 20 },
        { 32, 3, 1, 16, 28, 47, 2, F16, 1, STEP, 20 },
        { 32, 3, 1, 16, 30, 12, 18, F16, 1, STEP, 512 },
        { 128, 6, 2, 128, 528, 1055, 16, F32, 1, STEP, 512 },
        { 16, 3, 1, 0, 40, 38, 3, F32, 1, NEMOTRON, 20 },
        { 16, 3, 1, 8, 40, 77, 3, F32, 1, QWEN, 20 },
        /* A window of several runs, which begin at the first key of each workgroup; they end at
         * 5452, 10000 and 17136 by the subgroup size of a CPU device. */
        { 128, 2, 1, 128, 11019, 50003, 20, F32, 1, STEP, 11000 },
    };
    attn_cases(g, rows, ARRAY_LEN(rows), 4);
}

/* Blocks of scales: one, a short last one, an odd and an even number. */
static void test_q8(struct gpu *g)
{
    static const struct attn_row rows[] = {
        { 16, 3, 1, 16, 20, 7, 9, Q8_0, 1, QWEN, 0 },
        { 32, 4, 2, 8, 64, 63, 1, Q8_0, 1, QWEN, 0 },
        { 80, 4, 2, 0, 40, 17, 5, Q8_0, 1, NEMOTRON, 0 },
        { 100, 2, 1, 0, 70, 60, 3, Q8_0, 1, NEMOTRON, 0 },
        { 128, 6, 2, 64, 72, 63, 3, Q8_0, 1, STEP, 0 },
        { 256, 8, 2, 64, 72, 63, 2, Q8_0, 1, QWEN, 0 },
        { 16, 3, 1, 16, 17, 70000, 17, Q8_0, 1, STEP, 1 },
    };
    attn_cases(g, rows, ARRAY_LEN(rows), 4);
}

/* ---- batch after batch over a ring -------------------------------------------------------- */

/* n_tok tokens in pieces of up to n_batch, many of one, all in one submission. The ring is as long
 * as kv_init makes it. A second cache keeps everything: it shows what keys and values were, and
 * gives attention without the window. */
struct ring_row {
    struct attn_row a; /* n_row is found, n_past is 0 */
    uint32_t n_batch;
};

struct ring_piece {
    uint32_t at, n;
    tensor ring, all;
};

/* NMSE of outputs over the window, and over all keys. */
static const struct bound window_off = { .most = 3e-12 };
static const struct bound all_keys_off = { .most = 1e-11 };

static uint32_t ring_cut(struct rig *r, const struct ring_row *c, struct ring_piece *piece)
{
    uint32_t n = 0;
    for (uint32_t at = 0; at < c->a.n_tok; at += piece[n++].n) {
        uint64_t any = rng_u64(&r->rng);
        uint32_t take = n == 0 ? c->n_batch : any % 2 ? 1 : (uint32_t)(any / 2 % c->n_batch) + 1;
        HLM_ASSERT(n < MAX_PIECE);
        piece[n] = (struct ring_piece){ .at = at, .n = min_u32(take, c->a.n_tok - at) };
    }
    return n;
}

static void ring_case(struct gpu *g, const struct ring_row *c)
{
    struct attn_row row = c->a, all = c->a;
    uint32_t n_q = row.n_head * row.head_dim;
    struct ring_piece piece[MAX_PIECE];
    if (!test_case("ring, %u/%u heads of %u, %u rotated, %u in batches of %u, window %u, %s, %s%s",
                   row.n_head, row.n_kv_head, row.head_dim, row.n_rot, row.n_tok, c->n_batch,
                   row.window, dtype_info(row.cache)->name, gate_name(&row),
                   row.norm ? "" : ", no norm"))
        return;
    struct rig r = rig_open(g, "ring");
    row.n_row = min_u32(row.window + c->n_batch, row.n_tok);
    all.n_row = row.n_tok;
    all.window = 0;
    struct attn_inputs in = inputs_make(&r, &row, row.n_tok);
    struct attention wide = in.a;
    wide.window = 0;
    struct kv_layer ring = { .k = cache_make(&r, &row) }, keep = { .k = cache_make(&r, &all) };
    ring.v = cache_make(&r, &row);
    keep.v = cache_make(&r, &all);
    ring.n_row = row.n_row;
    keep.n_row = all.n_row;
    struct batch b = rig_batch(&r, 0, &(struct segment){ 0 }, NULL, 0, true);
    uint32_t n_piece = ring_cut(&r, c, piece);
    for (struct ring_piece *s = piece; s < piece + n_piece; s++) {
        tensor p = rig_strided(&r, in.p + (uint64_t)s->at * in.n_p, in.n_p, s->n);
        enum attention_path path = rng_u64(&r.rng) % 2 ? ATTENTION_COLS : ATTENTION_PLAIN;
        b.n_tok = s->n;
        s->ring = attention_by(r.c, path, p, &in.a, &ring, &b);
        s->all = attention_by(r.c, path, p, &wide, &keep, &b);
        op_advance(r.c, &b);
    }
    struct attn_heads h = heads_make(&r, &row, &in, 0, row.n_tok);
    double *want = rig_doubles(&r, NULL, (uint64_t)row.n_tok * n_q);
    double *want_all = rig_doubles(&r, NULL, (uint64_t)row.n_tok * n_q);
    bool good = rig_run(&r);
    if (good) {
        double *k = cache_read(&r, &all, keep.k, row.n_tok);
        double *v = cache_read(&r, &all, keep.v, row.n_tok);
        double *ring_k = cache_read(&r, &row, ring.k, row.n_tok);
        double *ring_v = cache_read(&r, &row, ring.v, row.n_tok);
        uint32_t n_kv = row.n_kv_head * row.head_dim, lost = row.n_tok - row.n_row;
        uint64_t at = (uint64_t)lost * n_kv, bytes = (uint64_t)row.n_row * n_kv * sizeof *k;
        CHECK_MSG(!memcmp(ring_k + at, k + at, bytes) && !memcmp(ring_v + at, v + at, bytes),
                  "the ring holds other keys or values than the cache that keeps all");
        struct ref_attention ref = ref_of(&row, &h, k, v), ref_all = ref_of(&all, &h, k, v);
        ref.n_tok = ref_all.n_tok = row.n_tok;
        ref_attention(&ref, want);
        ref_attention(&ref_all, want_all);
        good = check_cache(&r, &all, &h, k, v);
    }
    for (struct ring_piece *s = piece; good && s < piece + n_piece; s++)
        good =
            rig_near(&r, "window", s->ring, want + (uint64_t)s->at * n_q, window_off.most) &&
            rig_near(&r, "all keys", s->all, want_all + (uint64_t)s->at * n_q, all_keys_off.most);
    rig_close(&r);
}

static void test_rings(struct gpu *g)
{
    static const struct ring_row rows[] = {
        { { 16, 3, 1, 16, 0, 0, 40, F32, 1, STEP, 1 }, 7 },
        { { 16, 3, 1, 16, 0, 0, 100, F32, 1, STEP, 5 }, 8 },
        { { 32, 3, 1, 16, 0, 0, 150, F16, 1, STEP, 20 }, 30 },
        { { 16, 3, 1, 16, 0, 0, 150, Q8_0, 1, STEP, 20 }, 30 },
        { { 16, 3, 1, 0, 0, 0, 60, F32, 1, NEMOTRON, 5 }, 1 },
        { { 16, 3, 1, 16, 0, 0, 1700, F32, 1, STEP, 512 }, 64 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        ring_case(g, &rows[i]);
}

/* ---- the cache's room ---------------------------------------------------------------------- */

static void test_room(struct gpu *g)
{
    enum { N_CTX = 1000, N_BATCH = 24 };
    static const struct {
        struct layer_shape shape;
        enum dtype type;
        uint32_t n_row, bytes;
    } rows[] = {
        /* bytes of a row */
        { { .n_kv_head = 2, .head_dim = 64 }, F16, N_CTX, 128 },
        { { .n_kv_head = 2, .head_dim = 64 }, Q8_0, N_CTX, 64 + 4 },
        { { .n_kv_head = 2, .head_dim = 128, .window = 1 }, Q8_0, 1 + N_BATCH, 128 + 8 },
        { { .n_kv_head = 1, .head_dim = 100, .window = 512 }, Q8_0, 512 + N_BATCH, 100 + 8 },
        { { .n_kv_head = 3, .head_dim = 16, .window = 975 }, F32, 975 + N_BATCH, 64 },
        { { .n_kv_head = 1, .head_dim = 96, .window = 977 }, Q8_0, N_CTX, 96 + 8 },
        { { .n_kv_head = 1, .head_dim = 16, .window = UINT32_MAX }, F32, N_CTX, 64 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct layer_shape *s = &rows[i].shape;
        struct hlm_err err = { 0 };
        struct kv kv;
        test_case("room of %u heads of %u, window %u, %s", s->n_kv_head, s->head_dim, s->window,
                  dtype_info(rows[i].type)->name);
        if (CHECK_MSG(kv_init(&kv, g,
                              &(struct kv_params){ 1, s, N_CTX, N_BATCH, 1, 2, rows[i].type },
                              &err),
                      "%s", err.msg)) {
            tensor k = kv.layer[0].kv.k, v = kv.layer[0].kv.v;
            uint64_t bytes = (uint64_t)rows[i].n_row * s->n_kv_head * rows[i].bytes;
            uint64_t a = gpu_caps(g)->align, all = align_up(align_up(bytes, a), 16) + bytes;
            CHECK_EQ(k.n_row, rows[i].n_row * s->n_kv_head);
            CHECK_EQ(v.n_row, k.n_row);
            CHECK_EQ(tensor_bytes(k), bytes);
            CHECK(k.arena == (s->window ? kv.state : kv.kv) && v.arena == k.arena);
            CHECK(k.offset + bytes <= v.offset);
            CHECK_EQ(arena_bytes(s->window ? kv.state : kv.kv), align_up(all, 16));
            CHECK_EQ(arena_bytes(s->window ? kv.kv : kv.state), 0);
        }
        kv_finish(&kv);
    }
}

/* ---- rotary ------------------------------------------------------------------------------ */

/* attn_prep with two query heads: one has ones in its first half, the other ones in the rest, so
 * that the results are cosines and sines. */
/* The largest difference of a rotated element. */
static const struct bound rope_max_abs = { .most = 1e-6 };

static void rope_case(struct gpu *g, double theta, uint32_t n_rot, bool factors, uint32_t pos)
{
    enum { HD = 64, N_HEAD = 2 };
    if (!test_case("rotary, theta %g, %u of %u%s, position %u", theta, n_rot, HD,
                   factors ? ", with factors" : "", pos))
        return;
    struct rig r = rig_open(g, "rotary");
    float p_v[N_HEAD * 2 * HD] = { 0 }, one[HD], freq[HD / 2], factor[HD / 2];
    double want[N_HEAD * HD] = { 0 };
    uint32_t turn[HD], half = n_rot / 2;
    float norm = 0.70710678f; /* half of all elements are 1 */
    for (uint32_t i = 0; i < HD; i++) {
        p_v[i] = i < half || i >= n_rot + (HD - n_rot) / 2;
        p_v[2 * HD + i] = (i >= half && i < n_rot) || i >= n_rot + (HD - n_rot) / 2;
        one[i] = norm;
        factor[i / 2] = i < half ? 1 + (float)rng_unit(&r.rng) : 8;
    }
    rope_turns(theta, n_rot, factors ? factor : NULL, turn);
    ref_rope_freq(theta, n_rot, factors ? factor : NULL, freq);
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
    struct segment seg = { .pos = pos };
    struct batch b = rig_batch(&r, 1, &seg, NULL, 0, false);
    struct push_attn_prep push = { .n_head = N_HEAD,
                                   .head_dim = HD,
                                   .n_rot = n_rot,
                                   .n_row = 1,
                                   .p_stride = p.stride,
                                   .q_step = 2 * HD,
                                   .eps = EPS };
    const struct gpu_caps *caps = gpu_caps(g);
    cmd_dispatch(r.c, K_attn_prep, GRID(N_HEAD, 1, 1),
                 SPEC(.wg = wg_size(caps, 64), .kv_type = F32, .norm = true), PUSH(push),
                 USES(READ(p), READ(w), READ(w), READ(turns), READ(b.step), WRITE(q), WRITE(none),
                      WRITE(none)));
    if (rig_run(&r) && rig_near(&r, "rotary", q, want, 0)) {
        struct diff d = diff_f64(rig_get(&r, q), want, N_HEAD * HD);
        CHECK_WITHIN("largest difference", d.max_abs, rope_max_abs);
    }
    rig_close(&r);
}

void test_ops_attention(void)
{
    static const uint32_t pos[] = { 0, 1, 4095, 65535, 100003, 262143 };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    test_attention(g);
    test_forms(g);
    test_q8(g);
    test_rings(g);
    test_room(g);
    for (uint32_t i = 0; i < ARRAY_LEN(pos); i++) {
        rope_case(g, 1e7, 64, false, pos[i]);
        rope_case(g, 1e4, 32, false, pos[i]);
        rope_case(g, 5e6, 32, true, pos[i]);
        rope_case(g, 1e4, 64, false, pos[i]);
    }
    ops_report(g);
}
