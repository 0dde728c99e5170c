/* test_ops_stats: statistics of recurrent heads: gates and states. */
#include "ops.h"

#include <math.h>
#include <string.h>

static const struct bound stat_off = { .most = 1e-5 }; /* relative */

/* Sums of some hundred numbers in single precision. */
static void near_told(const char *what, uint32_t head, uint32_t i, float got, double want)
{
    double off = fabs((double)got - want);
    CHECK_MSG(off <= stat_off.most * fabs(want) + 1e-9,
              "%s of head %u, number %u: %.9g, expected %.9g", what, head, i, (double)got, want);
}

struct gate_row {
    uint32_t n_head, n_tok;
    bool mamba, row;
};

static void gate_case(struct gpu *g, const struct gate_row *c)
{
    if (!test_case("gates of %u heads, %u tokens%s%s", c->n_head, c->n_tok,
                   c->mamba ? ", Mamba2" : "", c->row ? ", padding" : ""))
        return;
    struct rig r = rig_open(g, "gate_stats");
    uint32_t n = c->n_head, width = 2 * n + 3;
    float *p_v = rig_normal(&r, (uint64_t)c->n_tok * width, 2), *a_v = rig_normal(&r, n, 1);
    float *dt_v = rig_normal(&r, n, 1);
    uint32_t *real = rig_alloc(&r, c->n_tok, sizeof *real);
    for (uint32_t h = 0; h < n; h++)
        a_v[h] = -expf(a_v[h]);
    for (uint32_t t = 0; t < c->n_tok; t++)
        real[t] = t % 5 < 3;
    tensor p = rig_strided(&r, p_v, width, c->n_tok), a = rig_dense(&r, a_v, n, 1);
    tensor dt = rig_dense(&r, dt_v, n, 1), to = rig_view(&r, F32, GATE_STATS, n, GATE_STATS, 0);
    struct docs docs = { .real = rig_words(&r, real, c->n_tok) };
    struct batch b = { .n_tok = c->n_tok, .docs = c->row ? &docs : NULL };
    rig_writes(&r, to);
    const struct gate_input in = { p, a, dt, p.col + 1, c->mamba ? NO_BETA : p.col + n + 2 };
    op_gate_stats(r.c, &in, &b, to);
    const float *got = rig_run(&r) ? rig_get(&r, to) : NULL;
    for (uint32_t h = 0; got && h < n; h++) {
        double want[GATE_STATS] = { 0, 0, 2, -1, 0 };
        for (uint32_t t = 0; t < c->n_tok; t++) {
            const float *x = p_v + (uint64_t)t * width;
            double dt_x = ref_softplus((double)x[1 + h] + (double)dt_v[h]);
            double decay = exp((double)a_v[h] * dt_x);
            if (c->row && !real[t])
                continue;
            want[0]++;
            want[1] += decay;
            want[2] = fmin(want[2], decay);
            want[3] = fmax(want[3], decay);
            want[4] += c->mamba ? dt_x : ref_sigmoid((double)x[n + 2 + h]);
        }
        for (uint32_t i = 0; i < GATE_STATS; i++)
            near_told("gates", h, i, got[h * GATE_STATS + i], want[i]);
    }
    rig_checked(&r);
    rig_close(&r);
}

/* n_chunk 0: one state a head, no documents. by_chunk: heads are stored by chunk, else chunks by
 * head. */
struct state_row {
    uint32_t n, n_head, n_chunk;
    bool by_chunk;
    uint32_t begun;
};

/* A step buffer whose next batch reads a state slot. */
static tensor step_of_slot(struct rig *r, uint32_t slot)
{
    return rig_words(r, &(struct segment){ .slot_in = slot }, sizeof(struct segment) / 4);
}

enum { STATE_TOK = 4 };

/* Chunks of a training row, three for each document: some begin one, some are padding, the last are
 * not in use. */
static void fill_chunks(uint32_t *chunk, uint32_t *real, uint32_t n_chunk)
{
    for (uint32_t i = 0; i < n_chunk; i++) {
        bool used = i + 2 < n_chunk || n_chunk < 4;
        memcpy(chunk + 4 * i,
               (uint32_t[]){ STATE_TOK * i, used ? STATE_TOK : 0, i % 3 == 0, i % 3 == 2 }, 16);
        for (uint32_t t = 0; t < STATE_TOK; t++)
            real[STATE_TOK * i + t] = i % 9 < 6;
    }
}

/* The first `begun` chunks have been reported before. */
static void state_case(struct gpu *g, const struct state_row *c)
{
    if (!test_case("states of %u numbers, %u heads, %u chunks, %s, %u before", c->n, c->n_head,
                   c->n_chunk, c->by_chunk ? "by chunk" : "by head", c->begun))
        return;
    struct rig r = rig_open(g, "state_stats");
    uint32_t n_chunk = max_u32(c->n_chunk, 1), n_row = c->n_head * n_chunk;
    uint32_t *chunk = rig_alloc(&r, 4ull * n_chunk, 4),
             *real = rig_alloc(&r, STATE_TOK * n_chunk, 4);
    /* without documents the states are those of the slot after the first */
    uint32_t slot = c->n_chunk ? 0 : 1;
    float *v = rig_normal(&r, (slot + 1ull) * n_row * c->n, 1), *had;
    fill_chunks(chunk, real, n_chunk);
    had = rig_normal(&r, (uint64_t)STATE_STATS * (c->n_head + 1), 0.5);
    for (uint32_t i = 0; i < STATE_STATS * (c->n_head + 1); i++)
        had[i] = fabsf(had[i]);
    struct docs docs = { .chunks = rig_words(&r, chunk, 4 * n_chunk),
                         .real = rig_words(&r, real, STATE_TOK * n_chunk) };
    tensor to = rig_view(&r, F32, STATE_STATS, c->n_head + 1, STATE_STATS, 0);
    rig_put(&r, to, had);
    rig_writes_rows(&r, to, 1, c->n_head);
    struct state_stats s = {
        .states = rig_dense(&r, v, c->n, (slot + 1) * n_row),
        .step = step_of_slot(&r, slot),
        .n = c->n,
        .n_head = c->n_head,
        .docs = c->n_chunk ? &docs : NULL,
        .by_head = c->by_chunk ? 1 : n_chunk,
        .by_chunk = c->by_chunk ? c->n_head : 1,
        .from = c->begun,
        .chunk0 = c->begun,
        .n_chunk = n_chunk - c->begun,
        .head0 = 1,
        .add = c->begun > 0,
        .to = to,
    };
    op_state_stats(r.c, &s);
    const float *got = rig_run(&r) ? rig_get(&r, to) : NULL;
    for (uint32_t h = 0; got && h < c->n_head; h++) {
        double want[STATE_STATS] = { 0 };
        for (uint32_t i = 0; s.add && i < STATE_STATS; i++)
            want[i] = (double)had[(h + 1) * STATE_STATS + i];
        for (uint32_t i = c->begun; i < n_chunk; i++) {
            uint32_t row = slot * n_row + h * s.by_head + i * s.by_chunk;
            const float *x = v + (uint64_t)c->n * row;
            if (c->n_chunk && (!chunk[4 * i + 1] || chunk[4 * i + 2] || !real[STATE_TOK * i]))
                continue;
            want[0]++;
            for (uint32_t k = 0; k < c->n; k++) {
                want[1] += (double)x[k] * (double)x[k];
                want[2] = fmax(want[2], fabs((double)x[k]));
            }
        }
        for (uint32_t i = 0; i < STATE_STATS; i++)
            near_told("states", h, i, got[(h + 1) * STATE_STATS + i], want[i]);
    }
    rig_checked(&r);
    rig_close(&r);
}

/* A state that is not finite is reported so. */
static void broken_case(struct gpu *g)
{
    static const float bad[] = { INFINITY, NAN, 1e30f };
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (!test_case("a state with %g", (double)bad[i]))
            continue;
        struct rig r = rig_open(g, "state_stats");
        float *v = rig_normal(&r, 2 * 64, 1);
        v[64 + 37] = bad[i];
        struct state_stats s = { .states = rig_dense(&r, v, 64, 2),
                                 .step = step_of_slot(&r, 0),
                                 .n = 64,
                                 .n_head = 2,
                                 .to = rig_view(&r, F32, STATE_STATS, 2, STATE_STATS, 0) };
        rig_writes(&r, s.to);
        op_state_stats(r.c, &s);
        const float *got = rig_run(&r) ? rig_get(&r, s.to) : NULL;
        CHECK(got && isfinite(got[1]) && !isfinite(got[STATE_STATS + 1]));
        rig_close(&r);
    }
}

void test_ops_stats(void)
{
    static const struct gate_row gates[] = {
        { 1, 1, false, false },  { 4, 1, true, false },   { 6, 7, false, false },
        { 32, 65, true, false }, { 3, 300, false, true }, { 5, 129, true, true },
    };
    static const struct state_row states[] = {
        { 4, 1, 0, false, 0 },           { 256, 3, 0, false, 0 }, { 128 * 128, 4, 0, false, 0 },
        { 36, 2, 11, false, 0 },         { 64, 3, 20, true, 0 },  { 64, 3, 20, true, 8 },
        { 128 * 128, 1, 203, false, 0 }, /* more than one dispatch (loop_budget) */
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(gates); i++)
        gate_case(g, &gates[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(states); i++)
        state_case(g, &states[i]);
    broken_case(g);
    ops_report(g);
}
