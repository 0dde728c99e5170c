/* test_ops_nll: negative log likelihoods from rows of logits, compared with sums in long double.
 *
 * Errors are relative, not NMSE: the likelihoods of a sure model are tiny, and a perplexity is made
 * of all of them. Rows are of every kind that a model can give; the token that came is the
 * likeliest, an unlikely one, or any. */
#include "ops_nll.h"

#include <math.h>
#include <string.h>

static const struct bound nll_off = { .most = 2e-7 }; /* of a token, relative */

enum { N_PAST = 3 };

/* The worst relative error of n_tok rows, two of them in a call of their own. */
static double nll_case(struct gpu *g, uint32_t n_vocab, uint32_t n_tok, enum logits_kind kind)
{
    if (!test_case("nll, vocabulary %u, %u rows, %s", n_vocab, n_tok, logits_kinds[kind]))
        return 0;
    struct rig r = rig_open(g, "nll");
    struct segment seg = { .pos = N_PAST };
    uint32_t n_first = n_tok > 2 ? n_tok - 2 : n_tok;
    float *l = rig_alloc(&r, (uint64_t)n_tok * n_vocab, sizeof *l);
    int32_t *ids = rig_alloc(&r, N_PAST + n_tok + 1u, sizeof *ids);
    for (uint32_t t = 0; t < n_tok; t++) {
        uint32_t first = (uint32_t)(rng_u64(&r.rng) % n_vocab);
        logits_fill(&r, kind, n_vocab, first, l + (uint64_t)t * n_vocab);
        ids[N_PAST + 1 + t] =
            t % 2 ? (int32_t)first : (int32_t)((first + 2 * (rng_u64(&r.rng) % n_vocab)) % n_vocab);
        while (l[(uint64_t)t * n_vocab + (uint32_t)ids[N_PAST + 1 + t]] < -1e29f)
            ids[N_PAST + 1 + t] = (ids[N_PAST + 1 + t] + 1) % (int32_t)n_vocab;
    }
    tensor a = rig_strided(&r, l, n_vocab, n_first), b = a;
    if (n_first < n_tok)
        b = rig_strided(&r, l + (uint64_t)n_first * n_vocab, n_vocab, n_tok - n_first);
    tensor parts = rig_view(&r, F32, NLL_PARTS, n_tok, NLL_PARTS, 0);
    struct batch batch = rig_batch(&r, n_tok, &seg, ids, N_PAST + n_tok + 1, false);
    rig_writes(&r, parts);
    op_nll(r.c, a, parts, &batch, 0);
    if (n_first < n_tok)
        op_nll(r.c, b, parts, &batch, n_first);
    double worst = 0;
    if (rig_run(&r)) {
        const float *got = rig_get(&r, parts);
        for (uint32_t t = 0; t < n_tok; t++) {
            double v = nll_from(got + (uint64_t)NLL_PARTS * t);
            double want = logits_nll(l + (uint64_t)t * n_vocab, n_vocab,
                                     (uint32_t)ids[N_PAST + 1 + t], 0, NULL);
            double off = fabs(v - want) / (want + 1e-30);
            if (!CHECK_MSG(off <= nll_off.most, "row %u: %.17g, expected %.17g, %.3g off", t, v,
                           want, off))
                break;
            worst = fmax(worst, off);
        }
        rig_checked(&r);
    }
    rig_close(&r);
    return worst;
}

/* A logit that is not a number makes the likelihood of its row, and of no other, not a number. */
static void test_no_number(struct gpu *g)
{
    static const float odd[] = { NAN, INFINITY, -INFINITY };
    for (uint32_t k = 0; k < ARRAY_LEN(odd) + 1; k++) {
        bool whole = k == ARRAY_LEN(odd); /* a row of -inf alone */
        float x = whole ? -INFINITY : odd[k];
        if (!test_case("nll: %s of %g", whole ? "a row" : "a logit", (double)x))
            continue;
        struct rig r = rig_open(g, "nll");
        struct segment seg = { .pos = 0 };
        int32_t ids[4] = { 0, 5, 5, 5 };
        float *l = rig_normal(&r, 3 * 77, 2);
        for (uint32_t i = 0; i < 77; i++)
            l[77 + i] = whole || i == (k == 2 ? 5 : 50) ? x : l[77 + i];
        tensor parts = rig_view(&r, F32, NLL_PARTS, 3, NLL_PARTS, 0);
        struct batch batch = rig_batch(&r, 3, &seg, ids, 4, false);
        rig_writes(&r, parts);
        op_nll(r.c, rig_strided(&r, l, 77, 3), parts, &batch, 0);
        if (rig_run(&r)) {
            const float *got = rig_get(&r, parts);
            for (uint32_t t = 0; t < 3; t++) {
                double v = nll_from(got + NLL_PARTS * t);
                CHECK_MSG(isfinite(v) == (t != 1), "row %u gives %g", t, v);
            }
        }
        rig_close(&r);
    }
}

void test_ops_nll(void)
{
    static const struct {
        uint32_t n_vocab, n_tok;
    } rows[] = {
        { 1, 2 },     { 2, 3 },     { 7, 5 },      { 31, 4 },     { 32, 4 },
        { 33, 9 },    { 255, 4 },   { 257, 4 },    { 1024, 66 },  { 4097, 5 },
        { 32000, 3 }, { 65537, 3 }, { 151936, 3 }, { 248320, 4 }, { 300001, 3 },
    };
    struct gpu *g = test_gpu();
    if (!g)
        return;
    double worst = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        for (enum logits_kind k = 0; k < N_LOGITS_KIND; k++)
            if (rows[i].n_vocab < 100000 || k == LOGITS_PLAIN || k == LOGITS_SURE ||
                k == LOGITS_HOLES)
                worst = fmax(worst, nll_case(g, rows[i].n_vocab, rows[i].n_tok, k));
    test_note("  worst relative error %.3g", worst);
    test_no_number(g);
    ops_report(g);
}
