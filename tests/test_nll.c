/* test_nll: negative log likelihoods of whole models, compared with the reference in double
 * precision: at once, in pieces after cached tokens, and with a vocabulary whose logits do not fit
 * at once. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "ref/ref.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_ID = 150, N_CTX = 160 };

static void random_ids(int32_t *id, uint32_t n, uint32_t n_vocab)
{
    struct rng r = { 77 };
    for (uint32_t i = 0; i < n; i++)
        id[i] = (int32_t)(rng_u64(&r) % n_vocab);
}

static double likelihood(const double *l, uint32_t n, int32_t id)
{
    double top = l[0], sum = 0;
    for (uint32_t i = 0; i < n; i++)
        top = fmax(top, l[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(l[i] - top);
    return log(sum) + top - l[id];
}

/* The sum of likelihoods, relative; a token's, relative to the largest. Measured figures were not
 * recorded. */
static const struct bound sum_off = { .most = 1e-6 };
static const struct bound token_off = { .most = 1e-5 };

static void check_near(const char *what, const double *got, const double *want, uint32_t n)
{
    double sum_got = 0, sum_want = 0, worst = 0, top = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum_got += got[i];
        sum_want += want[i];
        worst = test_worse(worst, fabs(got[i] - want[i]));
        top = fmax(top, want[i]);
    }
    test_note("  %s", what);
    CHECK_WITHIN("sum", fabs(sum_got - sum_want) / sum_want, sum_off);
    CHECK_WITHIN("token", worst / top, token_off);
}

/* Reads id[0 .. N_ID) from an empty timeline: the first `from` by sync, then likelihoods in calls
 * of `step` ids, each of which begins with the last id of the one before. */
static bool read_nll(hlm_session *s, const int32_t *id, uint32_t from, uint32_t step, double *nll)
{
    struct hlm_err err = { 0 };
    hlm_session_reset(s);
    bool ok = !from || CHECK_OK(hlm_session_sync(s, id, from, NULL, 0, NULL, NULL, &err), err);
    for (uint32_t at = from; ok && at + 1 < N_ID; at += step - 1)
        ok = CHECK_OK(hlm_session_nll(s, id + at, min_u32(step, N_ID - at), nll + at, &err), err);
    return ok;
}

static void nll_model(const char *arch)
{
    struct hlm_err err = { 0 };
    int32_t id[N_ID];
    double nll[N_ID] = { 0 }, want[N_ID];
    test_case("%s: as the reference has them", arch);
    hlm *m = hlm_test_open(fixture("%s/base/model-f32.gguf", arch));
    if (!m)
        return;
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    struct hlm_session_params params = {
        .n_ctx = N_CTX, .n_batch = 64, .kv = HLM_KV_F32, .keep_nll = true
    };
    hlm_session *s = hlm_test_session(m, params);
    struct ref_model *ref = ref_model_open(hlm_test_file(m), &err);
    struct ref_state *state = CHECK_OK(ref != NULL, err) ? ref_state_create(ref) : NULL;
    double *logits = test_room((uint64_t)N_ID * n_vocab, sizeof *logits);
    random_ids(id, N_ID, n_vocab);
    if (s && state && CHECK(ref_forward(ref, state, id, N_ID, logits, NULL))) {
        for (uint32_t i = 0; i + 1 < N_ID; i++)
            want[i] = likelihood(logits + (uint64_t)i * n_vocab, n_vocab, id[i + 1]);
        if (read_nll(s, id, 0, N_ID, nll))
            check_near("at once", nll, want, N_ID - 1);
        if (read_nll(s, id, 20, 70, nll))
            check_near("in calls after what is cached", nll + 20, want + 20, N_ID - 21);
        if (read_nll(s, id, N_ID - 6, 2, nll))
            check_near("one by one", nll + N_ID - 6, want + N_ID - 6, 5);
    }
    ref_state_destroy(state);
    ref_model_close(ref);
    free(logits);
    hlm_session_destroy(s);
    hlm_test_close(m);
}

static void nll_limits(void)
{
    struct hlm_err err = { 0 };
    int32_t id[N_ID], next;
    double nll[N_ID];
    test_case("limits, and what is cached afterwards");
    hlm *m = hlm_test_open(fixture("qwen35/base/model-f32.gguf"));
    struct hlm_session_params params = { .n_ctx = 20, .kv = HLM_KV_F32, .keep_nll = true };
    hlm_session *s = m ? hlm_test_session(m, params) : NULL;
    random_ids(id, N_ID, 600);
    static const struct {
        uint32_t n;
        const char *says;
    } bad[] = {
        { 0, "2" },
        { 1, "2" },
        { 22, "21 tokens|20" },
    };
    for (uint32_t i = 0; s && i < ARRAY_LEN(bad); i++) {
        CHECK_REFUSED(hlm_session_nll(s, id, bad[i].n, nll, &err), err, bad[i].says);
        CHECK_EQ(hlm_session_n_past(s), 0);
    }
    if (s && CHECK_OK(hlm_session_nll(s, id, 21, nll, &err), err)) {
        struct hlm_sampling greedy = { .repeat_penalty = 1 };
        CHECK_EQ(hlm_session_n_past(s), 20);
        CHECK(!memcmp(hlm_session_ids(s), id, 20 * sizeof *id));
        CHECK(!hlm_session_next(s, &greedy, &next, &err));
        err = (struct hlm_err){ 0 };
        id[3] = 1 << 20;
        hlm_session_reset(s);
        CHECK_REFUSED(hlm_session_nll(s, id, 5, nll, &err), err, "token 3|1048576");
    }
    hlm_session_destroy(s);
    hlm_test_close(m);
}

/* 120000 logits of 150 tokens are 72 MB, more than a session keeps room for. */
static void test_slices(void)
{
    enum { BIG = 120000 };
    struct hlm_err err = { 0 };
    struct rng r = { 3 };
    char path[256];
    int32_t id[N_ID];
    double nll[N_ID], want[N_ID], *wide = test_room(BIG, sizeof *wide);
    test_case("a vocabulary of %u: logits in slices", BIG);
    hlm *m = hlm_test_open(fixture("qwen35/base/model-f32.gguf"));
    struct gguf_build *b = gb_from(fixture("qwen35/base/model-f32.gguf"), &err);
    uint64_t dim[2] = { m ? hlm_get_info(m).n_embd : 1, BIG };
    float *v = test_room(dim[0] * BIG, sizeof *v);
    hlm_test_close(m);
    for (uint64_t i = 0; i < dim[0] * BIG; i++)
        v[i] = (float)(rng_unit(&r) - 0.5);
    if (!b || !m)
        goto out;
    gb_u32(b, "qwen35.vocab_size", BIG);
    gb_tensor(b, "token_embd.weight", F32, 2, dim, v);
    gb_tensor(b, "output.weight", F32, 2, dim, v);
    snprintf(path, sizeof path, "%s/wide.gguf", test_tmp());
    bool written = CHECK_OK(gb_write(b, path, &err), err);
    m = written ? hlm_test_open(path) : NULL;
    struct hlm_session_params params = {
        .n_ctx = N_CTX, .kv = HLM_KV_F32, .keep_nll = true, .keep_logits = true
    };
    hlm_session *s = m ? hlm_test_session(m, params) : NULL;
    float *logits = test_room((uint64_t)N_ID * BIG, sizeof *logits);
    random_ids(id, N_ID, BIG);
    if (s && CHECK_OK(hlm_session_eval(s, id, N_ID, logits, NULL, &err), err) &&
        read_nll(s, id, 0, N_ID, nll)) {
        for (uint32_t i = 0; i + 1 < N_ID; i++) {
            for (uint32_t k = 0; k < BIG; k++)
                wide[k] = (double)logits[(uint64_t)i * BIG + k];
            want[i] = likelihood(wide, BIG, id[i + 1]);
        }
        check_near("as the logits have them", nll, want, N_ID - 1);
    }
    free(logits);
    hlm_session_destroy(s);
    hlm_test_close(m);
    remove(path);
out:
    gb_free(b);
    free(wide);
    free(v);
}

void test_nll(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    nll_model("qwen35");
    nll_model("nemotron_h_moe");
    nll_model("step35");
    nll_limits();
    test_slices();
}
