/* test_ops_sample: from logits to the next id, draw by draw compared with the distribution in
 * double.
 *
 * Each draw is predicted: the reference makes the distribution (penalties, top-k, top-p, min-p,
 * temperature, in the order of llama.cpp), computes the uniform number that the kernel hashes from
 * seed and position, and looks it up. Draws from the same distribution are also counted and
 * compared with the probabilities. */
#include "ops.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sample_row {
    const char *name;
    uint32_t n_vocab, n_draw;
    struct segment s;
    float spread, mean; /* of the logits */
    uint32_t n_unused;  /* every so many entries one is unused; 0: none */
    uint32_t n_odd;     /* how many of the largest logits become NaN, -inf or a tie, in turn */
    bool count;         /* all draws are from one distribution: their counts are compared with it */
    uint32_t n_bias;
    struct {
        int32_t id;
        float by;
    } bias[4];
};

/* ---- the reference ----------------------------------------------------------------------- */

static uint32_t pcg(uint32_t v)
{
    uint32_t s = v * 747796405u + 2891336453u, w = ((s >> ((s >> 28) + 4)) ^ s) * 277803737u;
    return w >> 22 ^ w;
}

static double uniform01(const struct segment *s, uint32_t pos)
{
    return ldexp(pcg(pcg(pcg(s->seed_lo) ^ s->seed_hi) ^ pos) >> 8, -24);
}

struct candidate {
    double logit, p;
    uint32_t id;
};

static int larger_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return x->logit < y->logit ? 1 : x->logit > y->logit ? -1 : x->id < y->id ? -1 : 1;
}

static int by_id(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return x->id < y->id ? -1 : 1;
}

/* How many of n sorted candidates stay when `last` is the last of them, together with its
 * equals. */
static uint32_t with_equals(const struct candidate *c, uint32_t n, uint32_t last)
{
    while (last + 1 < n && c[last + 1].logit == c[last].logit)
        last++;
    return last + 1;
}

static void softmax(struct candidate *c, uint32_t n, double temp)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += c[i].p = exp((c[i].logit - c[0].logit) / temp);
    for (uint32_t i = 0; i < n; i++)
        c[i].p /= sum;
}

/* Fills c with the candidates that are left and their probabilities, by id. Returns how many. The
 * history is ids[0 .. n_past). */
static uint32_t distribution(const float *logits, uint32_t n_vocab, const uint32_t *unused,
                             const struct segment *s, const int32_t *ids, uint32_t n_past,
                             uint32_t *count, struct candidate *c)
{
    uint32_t n = 0, keep = 1;
    memset(count, 0, n_vocab * sizeof *count);
    for (uint32_t i = n_past - min_u32(n_past, s->last_n); i < n_past; i++)
        if (ids[i] >= 0 && ids[i] < (int32_t)n_vocab)
            count[ids[i]]++;
    for (uint32_t i = 0; i < n_vocab; i++) {
        double v = (double)logits[i], repeat = (double)s->repeat;
        if (!(v > -1e30) || (!s->allow_unused && unused[i / 32] >> i % 32 & 1))
            continue;
        if (count[i]) {
            v = v <= 0 ? v * repeat : v / repeat;
            v -= count[i] * (double)s->frequency + (double)s->presence;
        }
        c[n++] = (struct candidate){ v, 0, i };
    }
    qsort(c, n, sizeof *c, larger_first);
    if (s->temp <= 0) {
        c[0].p = 1;
        return 1;
    }
    if (s->top_k > 0 && s->top_k < n)
        n = with_equals(c, n, s->top_k - 1);
    softmax(c, n, 1);
    double sum = c[0].p; /* among the first `keep` */
    while (keep < n && (s->top_p >= 1 || sum < (double)s->top_p))
        sum += c[keep++].p;
    n = with_equals(c, n, keep - 1);
    for (keep = 1; keep < n && c[keep].p >= (double)s->min_p * c[0].p; keep++)
        ;
    n = keep;
    softmax(c, n, (double)s->temp);
    qsort(c, n, sizeof *c, by_id);
    return n;
}

/* Is `got` what u picks, or a neighbour whose share begins or ends within the slack at u? */
static bool drawn(const struct candidate *c, uint32_t n, double u, int32_t got, int32_t *want)
{
    const double slack = 2e-5;
    double sum = 0;
    bool good = false;
    *want = (int32_t)c[n - 1].id;
    for (uint32_t i = 0; i < n; sum += c[i++].p) {
        if (u >= sum && u < sum + c[i].p)
            *want = (int32_t)c[i].id;
        if ((int32_t)c[i].id == got)
            good = u >= sum - slack && u < sum + c[i].p + slack;
    }
    return good;
}

/* ---- cases ------------------------------------------------------------------------------- */

enum { N_PROMPT = 12 };

/* Turns the largest logits into values that must not break a sampler. */
static void make_odd(float *logits, uint32_t n_vocab, uint32_t n_odd)
{
    for (uint32_t k = 0; k < n_odd; k++) {
        uint32_t top = 0;
        for (uint32_t i = 0; i < n_vocab; i++)
            if (isnan(logits[top]) || logits[i] > logits[top])
                top = i;
        if (k % 3 == 2) /* a tie, at the other end of the vocabulary */
            logits[(top + n_vocab / 2) % n_vocab] = logits[top];
        else
            logits[top] = k % 3 ? -INFINITY : NAN;
    }
}

/* Pearson's statistic of n_draw draws, with a bound far in the tail of its distribution. */
static void check_counts(const struct candidate *c, uint32_t n, const int32_t *got, uint32_t n_draw)
{
    double chi2 = 0;
    uint32_t dof = 0;
    for (uint32_t i = 0; i < n; i++) {
        double seen = 0, want = c[i].p * n_draw;
        for (uint32_t k = 0; k < n_draw; k++)
            seen += got[k] == (int32_t)c[i].id;
        if (want >= 5) {
            chi2 += (seen - want) * (seen - want) / want;
            dof++;
        }
    }
    CHECK_MSG(chi2 < dof + 5 * sqrt(2.0 * dof) + 10, "chi squared of %u shares is %.1f", dof, chi2);
}

/* A row of words as rows of one word. */
static tensor by_word(tensor t)
{
    t.n_row = t.n;
    t.n = t.stride = 1;
    return t;
}

static bool zeros(struct rig *r, tensor t)
{
    const uint8_t *at = r->back + t.offset;
    for (uint64_t i = 0; i < tensor_bytes(t); i++)
        if (at[i])
            return FAIL("count[%llu] is not back at zero", (unsigned long long)i / 4);
    return true;
}

static tensor bias_words(struct rig *r, const struct sample_row *c)
{
    uint32_t *word = rig_alloc(r, 1 + 2 * MAX_BIAS, sizeof *word);
    word[0] = c->n_bias;
    for (uint32_t i = 0; i < c->n_bias; i++)
        memcpy(&word[1 + 2 * i], &c->bias[i], 8);
    return rig_words(r, word, 1 + 2 * MAX_BIAS);
}

/* What the biases make of the logits, before anything else is done with them. */
static float *biased(struct rig *r, const struct sample_row *c, const float *logits)
{
    float *l = rig_alloc(r, c->n_vocab, sizeof *l);
    memcpy(l, logits, c->n_vocab * sizeof *l);
    for (uint32_t i = 0; i < c->n_bias; i++)
        l[c->bias[i].id] = c->bias[i].by <= -1e30f ? -INFINITY : l[c->bias[i].id] + c->bias[i].by;
    return l;
}

/* Draws n_draw times in one submission; each position is hashed anew. ids gets the draws, [N_PROMPT
 * + n_draw]. The history has room for one less than is drawn. */
static bool draw(struct rig *r, const struct sample_row *c, const float *logits,
                 const uint32_t *unused, int32_t *ids)
{
    uint32_t *zero = rig_alloc(r, c->n_vocab, sizeof *zero), n_ids = N_PROMPT + c->n_draw;
    struct segment seg = c->s;
    seg.pos = N_PROMPT - 1;
    seg.slot_out = 1; /* the submission that samples reads the last token of the prompt */
    struct sampler s = {
        .unused = rig_words(r, unused, div_up(c->n_vocab, 32)),
        .work = rig_view(r, F32, c->n_vocab, 1, c->n_vocab, 0),
        .count = rig_words(r, zero, c->n_vocab),
        .bias = bias_words(r, c),
        .chosen = rig_words(r, (const uint32_t[4]){ 0 }, 4),
    };
    tensor l = rig_view(r, F32, c->n_vocab, 1, (uint32_t)align_up(c->n_vocab, 4), 0);
    rig_put(r, l, logits);
    struct batch b = rig_batch(r, 1, &seg, ids, n_ids - 1, true);
    rig_writes(r, s.work);
    rig_writes(r, s.count);
    rig_writes(r, s.chosen);
    rig_writes_rows(r, by_word(b.ids), N_PROMPT, c->n_draw - 1);
    for (uint32_t i = 0; i < c->n_draw; i++)
        op_sample(r->c, l, &s, &b, 1);
    if (!rig_run(r) || !zeros(r, s.count))
        return false;
    memcpy(ids, r->back + b.ids.offset, 4ull * (n_ids - 1));
    const uint8_t *chosen = r->back + s.chosen.offset; /* [2 turns][2] */
    memcpy(ids + n_ids - 1, chosen + 8 * ((c->n_draw - 1) % 2), 4);
    uint32_t odd = 0, reported;
    for (uint32_t i = 0; i < c->n_vocab; i++)
        odd |= !isfinite(logits[i]) && (c->s.allow_unused || !(unused[i / 32] >> i % 32 & 1));
    memcpy(&reported, chosen + 8 * ((c->n_draw - 1) % 2) + 4, 4);
    CHECK_EQ(reported, odd);
    struct segment after = seg;
    after.pos += c->n_draw;
    after.slot_in = c->n_draw % 2;
    after.slot_out = 1 - after.slot_in;
    after.turn = c->n_draw % 2;
    return CHECK_MSG(memcmp(r->back + b.step.offset, &after, sizeof after) == 0,
                     "the segment is not what %u draws should make of it", c->n_draw);
}

static void sample_case(struct gpu *g, const struct sample_row *c)
{
    if (!test_case("sample %s, vocabulary %u, %u draws", c->name, c->n_vocab, c->n_draw))
        return;
    struct rig r = rig_open(g, "sample");
    float *logits = rig_normal(&r, c->n_vocab, (double)c->spread);
    uint32_t *unused = rig_alloc(&r, div_up(c->n_vocab, 32), sizeof *unused);
    uint32_t *count = rig_alloc(&r, c->n_vocab, sizeof *count);
    struct candidate *cand = rig_alloc(&r, c->n_vocab, sizeof *cand);
    int32_t *ids = rig_alloc(&r, N_PROMPT + c->n_draw, sizeof *ids), want;
    for (uint32_t i = 0; i < c->n_vocab; i++)
        logits[i] += c->mean;
    make_odd(logits, c->n_vocab, c->n_odd);
    for (uint32_t i = 0; c->n_unused && i < c->n_vocab; i += c->n_unused)
        unused[i / 32] |= 1u << i % 32;
    for (uint32_t i = 0; i < N_PROMPT; i++) /* some ids often, one of them outside */
        ids[i] = i == 3 ? INT32_MAX : (int32_t)(i * i % 7 * (c->n_vocab / 7) % c->n_vocab);
    bool good = draw(&r, c, logits, unused, ids);
    logits = biased(&r, c, logits);
    for (uint32_t i = N_PROMPT, n = 0; good && i < N_PROMPT + c->n_draw; i++) {
        if (n == 0 || c->s.last_n)
            n = distribution(logits, c->n_vocab, unused, &c->s, ids, i, count, cand);
        double u = uniform01(&c->s, i);
        good = drawn(cand, n, u, ids[i], &want) ||
               FAIL("draw %u is %d, expected %d of %u candidates (u %.6f)", i - N_PROMPT, ids[i],
                    want, n, u);
        if (good && c->count && i + 1 == N_PROMPT + c->n_draw)
            check_counts(cand, n, ids + N_PROMPT, c->n_draw);
    }
    if (good)
        rig_checked(&r);
    rig_close(&r);
}

#define OFF .top_p = 1, .repeat = 1 /* no cut, no penalty */

/* clang-format off */
static const struct sample_row rows[] = {
    { "greedy", 1, 2, { OFF }, 1, 0, 0, 0, .count = false },
    { "greedy", 77, 2, { OFF }, 3, 0, 0, 0, .count = false },
    { "greedy, odd", 5000, 2, { OFF, .top_k = 3 }, 3, 0, 3, 6, .count = false },
    { "greedy, penalties", 64, 30, { .top_p = 1, .repeat = 1.1f, .presence = 1, .last_n = 20 },
      3, 0, 0, 0, .count = false },
    { "all", 10, 1500, { OFF, .temp = 1, .seed_lo = 1 }, 1, 0, 0, 0, .count = true },
    { "cold", 50, 100, { OFF, .temp = 0.5f, .seed_lo = 2 }, 2, 0, 0, 0, .count = true },
    { "hot", 50, 100, { OFF, .temp = 1.7f, .seed_lo = 3, .seed_hi = 9 }, 2, 0, 0, 0,
      .count = true },
    { "top-k 1", 65, 5, { OFF, .temp = 1, .top_k = 1 }, 1, 0, 0, 0, .count = false },
    { "top-k 10", 300, 300, { OFF, .temp = 1, .top_k = 10, .seed_lo = 4 }, 2, 0, 0, 0,
      .count = true },
    { "top-k above n", 20, 100, { OFF, .temp = 1, .top_k = 50, .seed_lo = 5 }, 2, 0, 0, 0,
      .count = true },
    { "top-k 4, ties", 63, 100, { OFF, .temp = 1, .top_k = 4, .seed_lo = 6 }, 2, 0, 0, 3,
      .count = false },
    { "top-p 0", 65, 5, { .temp = 1, .repeat = 1 }, 1, 0, 0, 0, .count = false },
    { "top-p 0.9", 300, 300, { .temp = 1, .top_p = 0.9f, .repeat = 1 }, 3, 0, 0, 0, .count = true },
    { "top-p 0.5 of top-k 9", 300, 100, { .temp = 2, .top_k = 9, .top_p = 0.5f, .repeat = 1 },
      1, 0, 0, 0, .count = true },
    { "min-p 0.1", 300, 300, { OFF, .temp = 1, .min_p = 0.1f }, 2, 0, 0, 0, .count = true },
    { "min-p 1", 300, 5, { OFF, .temp = 1, .min_p = 1 }, 2, 0, 0, 0, .count = false },
    { "defaults", 1000, 100, { .temp = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f,
      .repeat = 1 }, 3, 0, 0, 0, .count = true },
    { "unused", 100, 100, { OFF, .temp = 1 }, 1, 0, 2, 3, .count = false },
    { "unused allowed", 100, 100, { OFF, .temp = 1, .allow_unused = 1 }, 1, 0, 2, 2,
      .count = false },
    { "repeat 1.3, all below 0", 20, 100, { .top_p = 1, .temp = 1, .repeat = 1.3f, .last_n = 16 },
      1, -5, 0, 0, .count = false },
    { "repeat 1.3 of 5", 40, 100, { .top_p = 1, .temp = 1, .repeat = 1.3f, .last_n = 5 },
      2, 0, 0, 0, .count = false },
    { "frequency 0.2, presence 0.5 of 64", 40, 100, { OFF, .temp = 1, .frequency = 0.2f,
      .presence = 0.5f, .last_n = 64 }, 2, 0, 0, 0, .count = false },
    { "penalties and cuts", 1000, 50, { .temp = 0.8f, .top_k = 40, .top_p = 0.95f,
      .min_p = 0.05f, .repeat = 1.2f, .frequency = 0.1f, .presence = 0.1f, .last_n = 32,
      .seed_lo = 8 }, 3, 0, 3, 2, .count = false },
    { "all", 4096, 20, { OFF, .temp = 1 }, 2, 0, 0, 0, .count = false },
    { "greedy", 2, 2, { OFF }, 3, 0, 0, 0, .count = false },
    { "top-k 40", 64, 50, { OFF, .temp = 1, .top_k = 40 }, 2, 0, 0, 0, .count = false },
    { "top-k 3, ties", 65, 50, { OFF, .temp = 1, .top_k = 3 }, 2, 0, 0, 3, .count = false },
    { "one token is left", 2, 5, { OFF, .temp = 1 }, 2, 0, 2, 0, .count = false },
    { "top-p of a flat distribution", 4096, 5, { .temp = 1, .top_p = 0.9f, .repeat = 1 },
      0.01f, 0, 0, 0, .count = false },
    { "all are equal", 3000, 20, { .temp = 1, .top_k = 40, .top_p = 0.5f, .repeat = 1 }, 0, 0, 0, 0,
      .count = false },
    { "top-p 0.9, nearly flat", 5000, 10, { .temp = 1, .top_p = 0.9f, .repeat = 1 }, 0.5f, 0, 0, 0,
      .count = false },
    { "top-p 0.9, a few of many", 5000, 10, { .temp = 1, .top_p = 0.9f, .repeat = 1 }, 5, 0, 0, 0,
      .count = false },
    { "top-k 700", 5000, 10, { OFF, .temp = 1, .top_k = 700 }, 1, 0, 0, 0, .count = false },
    { "top-k 700 and top-p 0.5", 5000, 10, { .temp = 1, .top_k = 700, .top_p = 0.5f, .repeat = 1 },
      1, 0, 0, 0, .count = false },
    { "min-p 0.2 of many", 20000, 10, { OFF, .temp = 1, .min_p = 0.2f }, 3, 0, 0, 0,
      .count = false },
    { "defaults", 248320, 2, { .temp = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f,
      .repeat = 1.1f, .last_n = 64 }, 3, 0, 5, 3, .count = false },
    { "biases", 30, 200, { OFF, .temp = 1, .seed_lo = 12 }, 1, 0, 7, 0, .count = true,
      .n_bias = 4, .bias = { { 1, 2.5f }, { 29, -1.25f }, { 14, 50 }, { 2, -FLT_MAX } } },
    { "biases before penalties and cuts", 100, 100, { .temp = 0.8f, .top_k = 10, .top_p = 0.9f,
      .repeat = 1.2f, .presence = 0.3f, .last_n = 32, .seed_lo = 13 }, 2, 0, 0, 0, .count = false,
      .n_bias = 3, .bias = { { 0, 3 }, { 64, 1 }, { 99, -FLT_MAX } } },
    { "top-k 40", 4097, 10, { OFF, .temp = 1, .top_k = 40 }, 2, 0, 0, 0, .count = false },
    { "defaults", 151936, 6, { .temp = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f,
      .repeat = 1 }, 3, 0, 9, 5, .count = false },
    { "top-p 0.95 and penalties", 151936, 4, { .temp = 1, .top_p = 0.95f, .repeat = 1.1f,
      .last_n = 64 }, 3, 0, 0, 0, .count = false },
    { "greedy", 248320, 2, { OFF }, 3, 0, 0, 2, .count = false },
};
/* clang-format on */

/* The same seed draws the same, another seed does not; a draw alone leaves the slots. */
static void test_same(struct gpu *g)
{
    int32_t ids[3][N_PROMPT + 64] = { { 0 } };
    uint32_t unused[32] = { 0 };
    test_case("sample: same seed, same draws");
    for (uint32_t i = 0; i < 3; i++) {
        struct sample_row c = { .n_vocab = 1000, .n_draw = 64, .s = { OFF, .temp = 1 } };
        c.s.seed_lo = 11 + i / 2;
        struct rig r = rig_open(g, "sample");
        float *logits = rig_normal(&r, c.n_vocab, 1);
        draw(&r, &c, logits, unused, ids[i]);
        rig_close(&r);
    }
    CHECK(memcmp(ids[0], ids[1], sizeof ids[0]) == 0);
    CHECK(memcmp(ids[0], ids[2], sizeof ids[0]) != 0);

    test_case("sample without advance, then advance");
    struct rig r = rig_open(g, "sample");
    uint32_t zero[8] = { 0 };
    int32_t history[4] = { 3, 2, -1, -1 };
    float logits[8] = { 0, 1, 2, 5, 4, 5, 3, 1 };
    struct segment seg = { .pos = 2, .slot_in = 1, OFF }, after = seg;
    struct batch b = rig_batch(&r, 5, &seg, history, 4, true);
    struct sampler s = { .unused = rig_words(&r, zero, 1),
                         .work = rig_view(&r, F32, 8, 1, 8, 0),
                         .count = rig_words(&r, zero, 8),
                         .bias = rig_words(&r, zero, 1),
                         .chosen = rig_words(&r, zero, 4) };
    rig_writes(&r, s.work);
    rig_writes(&r, s.count);
    rig_writes(&r, s.chosen);
    rig_writes_rows(&r, by_word(b.ids), 2, 1);
    op_sample(r.c, rig_dense(&r, logits, 8, 1), &s, &b, 0);
    op_advance(r.c, &b);
    if (rig_run(&r)) {
        int32_t got[2];
        memcpy(&got[0], r.back + s.chosen.offset, 4);
        memcpy(&got[1], r.back + b.ids.offset + 8, 4);
        CHECK_EQ(got[0], 3); /* of the two largest, the first */
        CHECK_EQ(got[1], 3);
        after.pos = 7;
        after.slot_in = 0;
        after.slot_out = after.turn = 1;
        CHECK(memcmp(r.back + b.step.offset, &after, sizeof after) == 0);
        rig_checked(&r);
    }
    rig_close(&r);
}

void test_ops_sample(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        sample_case(g, &rows[i]);
    test_same(g);
    ops_report(g);
}
