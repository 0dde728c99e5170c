/* test_ops_segments: segments of one token in one batch. Each must get the bits that it gets alone:
 * its output, its keys and values, and the state in its slot. The other tests of ops compare such a
 * batch of one segment with the reference. */
#include "ops.h"

#include <string.h>

enum { N_SEG = 3, N_SLOT = 6, SEG_WORDS = sizeof(struct segment) / 4 };

/* In no order, so that a kernel that takes one number for another is found out. */
static const struct segment segments[N_SEG] = {
    { .pos = 70, .seq = 2, .slot_in = 4, .slot_out = 1 },
    { .pos = 0, .seq = 0, .slot_in = 0, .slot_out = 5 },
    { .pos = 9, .seq = 1, .slot_in = 3, .slot_out = 2 },
};

/* The batch of all segments, and those of each alone. */
struct batches {
    struct batch all, one[N_SEG];
};

static struct batches batches_make(struct rig *r)
{
    struct batches b = { .all = rig_batch(r, N_SEG, segments, NULL, 0, false) };
    b.all.n_seg = N_SEG;
    b.all.step = rig_words(r, segments, N_SEG * SEG_WORDS);
    for (uint32_t i = 0; i < N_SEG; i++)
        b.one[i] = rig_batch(r, 1, &segments[i], NULL, 0, false);
    return b;
}

/* The same values in two tensors, which the ops may write. */
static void put_twice(struct rig *r, tensor *a, tensor *b, enum dtype dtype, uint32_t n,
                      uint32_t n_row)
{
    const float *v = rig_normal(r, (uint64_t)n * n_row, 0.5);
    tensor *to[] = { a, b };
    for (uint32_t i = 0; i < 2; i++) {
        *to[i] = rig_view(r, dtype, n, n_row, n, 0);
        rig_put(r, *to[i], v);
        rig_writes(r, *to[i]);
    }
}

static void same_bits(struct rig *r, const char *what, tensor a, tensor b)
{
    CHECK_MSG(!memcmp(rig_get(r, a), rig_get(r, b), 4ull * a.n * a.n_row),
              "%s: other bits than alone", what);
}

static void rows_as_alone(struct rig *r, tensor y, const tensor one[N_SEG])
{
    const float *all = rig_get(r, y);
    for (uint32_t i = 0; i < N_SEG; i++)
        CHECK_MSG(!memcmp(all + (uint64_t)i * y.n, rig_get(r, one[i]), 4ull * y.n),
                  "segment %u: other bits than alone", i);
}

static tensor vector(struct rig *r, uint32_t n) { return rig_dense(r, rig_normal(r, n, 1), n, 1); }

/* The projections of all segments, and of each. */
static tensor projections(struct rig *r, uint32_t n, tensor one[N_SEG])
{
    const float *v = rig_normal(r, (uint64_t)N_SEG * n, 1);
    for (uint32_t i = 0; i < N_SEG; i++)
        one[i] = rig_strided(r, v + (uint64_t)i * n, n, 1);
    return rig_strided(r, v, n, N_SEG);
}

static void delta_case(struct gpu *g, bool wide)
{
    enum { N_K = 2, N_V = 4, D = 32, CONV_K = 4, D_CONV = (2 * N_K + N_V) * D, D_OUT = N_V * D };
    enum delta_path path = wide ? DELTA_STEP_WIDE : DELTA_STEP;
    if (!test_case("segments: delta, %s", wide ? "wide" : "narrow"))
        return;
    struct rig r = rig_open(g, "delta of segments");
    struct batches b = batches_make(&r);
    struct delta m = {
        .n_k_head = N_K, .n_v_head = N_V, .d_state = D, .conv_k = CONV_K, .eps = 1e-6f
    };
    struct recurrent s = { 0 }, alone = { 0 };
    tensor p[N_SEG], y[N_SEG], all = projections(&r, D_CONV + D_OUT + 2 * N_V, p);
    m.conv = rig_dense(&r, rig_normal(&r, CONV_K * D_CONV, 1), CONV_K, D_CONV);
    m.ssm_a = vector(&r, N_V);
    m.dt_bias = vector(&r, N_V);
    m.norm = vector(&r, D);
    put_twice(&r, &s.state, &alone.state, F32, D, N_SLOT * D_OUT);
    put_twice(&r, &s.window, &alone.window, F32, D_CONV, N_SLOT * (CONV_K - 1));
    tensor both = delta_by(r.c, path, all, &m, &s, &b.all);
    for (uint32_t i = 0; i < N_SEG; i++)
        y[i] = delta_by(r.c, path, p[i], &m, &alone, &b.one[i]);
    if (rig_run(&r)) {
        rows_as_alone(&r, both, y);
        same_bits(&r, "state", s.state, alone.state);
        same_bits(&r, "window", s.window, alone.window);
        rig_checked(&r);
    }
    rig_close(&r);
}

static void mamba_case(struct gpu *g, bool wide)
{
    enum { N_HEAD = 4, HD = 24, N_GROUP = 2, DS = 32, CONV_K = 4, D_INNER = N_HEAD * HD };
    enum { D_CONV = D_INNER + 2 * N_GROUP * DS };
    enum mamba_path path = wide ? MAMBA_STEP_WIDE : MAMBA_STEP;
    if (!test_case("segments: mamba, %s", wide ? "wide" : "narrow"))
        return;
    struct rig r = rig_open(g, "mamba of segments");
    struct batches b = batches_make(&r);
    struct mamba m = { .n_head = N_HEAD,
                       .head_dim = HD,
                       .n_group = N_GROUP,
                       .d_state = DS,
                       .conv_k = CONV_K,
                       .eps = 1e-6f };
    struct recurrent s = { 0 }, alone = { 0 };
    tensor p[N_SEG], y[N_SEG], all = projections(&r, D_INNER + D_CONV + N_HEAD, p);
    m.conv = rig_dense(&r, rig_normal(&r, CONV_K * D_CONV, 1), CONV_K, D_CONV);
    m.conv_bias = vector(&r, D_CONV);
    m.ssm_a = vector(&r, N_HEAD);
    m.dt_bias = vector(&r, N_HEAD);
    m.d = vector(&r, N_HEAD);
    m.norm = vector(&r, D_INNER);
    put_twice(&r, &s.state, &alone.state, F32, HD, N_SLOT * N_HEAD * DS);
    put_twice(&r, &s.window, &alone.window, F32, D_CONV, N_SLOT * (CONV_K - 1));
    tensor both = mamba_by(r.c, path, all, &m, &s, &b.all);
    for (uint32_t i = 0; i < N_SEG; i++)
        y[i] = mamba_by(r.c, path, p[i], &m, &alone, &b.one[i]);
    if (rig_run(&r)) {
        rows_as_alone(&r, both, y);
        same_bits(&r, "state", s.state, alone.state);
        same_bits(&r, "window", s.window, alone.window);
        rig_checked(&r);
    }
    rig_close(&r);
}

static void attention_case(struct gpu *g, enum dtype cache, uint32_t window)
{
    enum { N_HEAD = 4, N_KV = 2, HD = 32, N_ROW = 80 };
    if (!test_case("segments: attention, %s, window %u", dtype_info(cache)->name, window))
        return;
    struct rig r = rig_open(g, "attention of segments");
    struct batches b = batches_make(&r);
    struct attention a = { .n_head = N_HEAD,
                           .n_kv_head = N_KV,
                           .head_dim = HD,
                           .n_rot = HD,
                           .window = window,
                           .gate = GATE_ELEM,
                           .norm = true,
                           .eps = 1e-6f };
    uint32_t turns[HD];
    struct kv_layer kv = { .n_row = N_ROW }, alone = kv;
    tensor p[N_SEG], y[N_SEG], all = projections(&r, (2 * N_HEAD + 2 * N_KV) * HD, p);
    rope_turns(1e4, HD, NULL, turns);
    a.turn = rig_words(&r, turns, HD);
    a.q_norm = vector(&r, HD);
    a.k_norm = vector(&r, HD);
    put_twice(&r, &kv.k, &alone.k, cache, HD, N_SEG * N_KV * N_ROW);
    put_twice(&r, &kv.v, &alone.v, cache, HD, N_SEG * N_KV * N_ROW);
    tensor both = attention_by(r.c, ATTENTION_PLAIN, all, &a, &kv, &b.all);
    for (uint32_t i = 0; i < N_SEG; i++)
        y[i] = attention_by(r.c, ATTENTION_PLAIN, p[i], &a, &alone, &b.one[i]);
    if (rig_run(&r)) {
        rows_as_alone(&r, both, y);
        same_bits(&r, "keys", kv.k, alone.k);
        same_bits(&r, "values", kv.v, alone.v);
        rig_checked(&r);
    }
    rig_close(&r);
}

/* Logits go to the slots that are written, and come from those that are read. */
static void logits_case(struct gpu *g)
{
    enum { N = 1003, STRIDE = 1004 };
    if (!test_case("segments: logits and their slots"))
        return;
    struct rig r = rig_open(g, "logits of slots");
    struct batches b = batches_make(&r);
    const float *new = rig_normal(&r, N_SEG * N, 1), *old = rig_normal(&r, N_SLOT * N, 1);
    tensor rows = rig_view(&r, F32, N, N_SEG, STRIDE, 0);
    tensor slots = rig_view(&r, F32, N, N_SLOT, STRIDE, 0);
    rig_put(&r, rows, new);
    rig_put(&r, slots, old);
    for (uint32_t i = 0; i < N_SEG; i++)
        rig_writes_rows(&r, slots, segments[i].slot_out, 1);
    op_keep_logits(r.c, rows, slots, &b.all);
    tensor taken = op_kept_logits(r.c, slots, &b.all);
    if (rig_run(&r)) {
        const float *kept = rig_get(&r, slots), *got = rig_get(&r, taken);
        for (uint32_t i = 0; i < N_SEG; i++) {
            const struct segment *s = &segments[i];
            CHECK(!memcmp(kept + s->slot_out * N, new + i *N, 4ull * N));
            CHECK(!memcmp(got + i * N, old + s->slot_in * N, 4ull * N));
        }
        rig_checked(&r);
    }
    rig_close(&r);
}

/* Each segment with sampling, a history and biases of its own. */
static void sample_case(struct gpu *g, uint32_t n_vocab)
{
    enum { N_IDS = 72, BIAS = 3 };
    if (!test_case("segments: sampling from %u", n_vocab))
        return;
    struct segment how[N_SEG];
    struct rig r = rig_open(g, "samples of segments");
    uint32_t stride = (uint32_t)align_up(n_vocab, 4);
    uint32_t *zero = rig_alloc(&r, (uint64_t)N_SEG * n_vocab, 4);
    const float *logits = rig_normal(&r, (uint64_t)N_SEG * n_vocab, 2);
    int32_t ids[N_SEG][N_IDS];
    uint32_t bias[N_SEG][BIAS] = { { 1, 5, 0x40400000 }, { 0 }, { 1, 7, 0xc0400000 } };
    for (uint32_t i = 0; i < N_SEG; i++) {
        how[i] = segments[i];
        how[i].temp = 0.7f + 0.3f * (float)i;
        how[i].top_k = i == 1 ? 0 : 40;
        how[i].top_p = 0.9f;
        how[i].repeat = 1.2f;
        how[i].last_n = 64;
        how[i].seed_lo = 5 + i;
        for (uint32_t k = 0; k < N_IDS; k++)
            ids[i][k] = (int32_t)(rng_u64(&r.rng) % n_vocab);
    }
    /* the first run has all segments, the others have one each */
    tensor chosen[1 + N_SEG];
    for (uint32_t run = 0; run <= N_SEG; run++) {
        uint32_t first = run ? run - 1 : 0, n = run ? 1 : N_SEG;
        struct batch b = { .n_tok = n, .n_seg = n };
        b.step = rig_words(&r, &how[first], n * SEG_WORDS);
        b.ids = rig_view(&r, I32, N_IDS, N_SEG, N_IDS, 0);
        rig_put_words(&r, b.ids, ids);
        struct sampler s = { .unused = rig_words(&r, zero, div_up(n_vocab, 32)),
                             .work = rig_view(&r, F32, n_vocab, n, n_vocab, 0),
                             .count = rig_view(&r, I32, n_vocab, n, n_vocab, 0),
                             .bias = rig_view(&r, I32, BIAS, n, BIAS, 0),
                             .chosen = rig_view(&r, I32, 4, n, 4, 0) };
        rig_put_words(&r, s.count, zero);
        rig_put_words(&r, s.bias, bias[first]);
        rig_put_words(&r, s.chosen, zero);
        tensor rows = rig_view(&r, F32, n_vocab, n, stride, 0);
        rig_put(&r, rows, logits + (uint64_t)first * n_vocab);
        const tensor writes[] = { b.step, b.ids, s.work, s.count, s.chosen };
        for (uint32_t i = 0; i < ARRAY_LEN(writes); i++)
            rig_writes(&r, writes[i]);
        op_sample(r.c, rows, &s, &b, 1);
        chosen[run] = s.chosen;
    }
    if (rig_run(&r)) {
        for (uint32_t i = 0; i < N_SEG; i++)
            CHECK(!memcmp(r.back + chosen[0].offset + 16 * i, r.back + chosen[1 + i].offset, 16));
        rig_checked(&r);
    }
    rig_close(&r);
}

void test_ops_segments(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t wide = 0; wide < 2; wide++) {
        delta_case(g, wide);
        mamba_case(g, wide);
    }
    attention_case(g, F32, 0);
    attention_case(g, F16, 40);
    attention_case(g, Q8_0, 0);
    logits_case(g);
    sample_case(g, 600);
    sample_case(g, 5003);
}
