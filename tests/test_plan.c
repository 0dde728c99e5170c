/* test_plan: a plan equals what the driver then gives, to the byte, in every family. A budget of
 * exactly that runs; one byte less is refused before anything is allocated. The context that is
 * chosen is the longest that fits. */
#include "gpu/gpu.h"
#include "hlm_test.h"

#include <stdio.h>

/* every family, and weights of many types */
static const char *const models[] = {
    "qwen35/base/model-f32.gguf",
    "qwen35moe/base/model-q8_0.gguf",
    "qwen3next/k256/model-q4_k_m.gguf",
    "nemotron_h/base/model-f16.gguf",
    "nemotron_h_moe/k256/model-mxfp4_moe.gguf",
    "step35/base/model-q8_0.gguf",
};

static hlm *open_with(const char *path, uint64_t memory, bool dry, struct hlm_err *err)
{
    struct hlm_params params = { .model = path,
                                 .cache_dir = "build/cache",
                                 .f32_only = true,
                                 .validate = true,
                                 .memory = memory,
                                 .dry = dry };
    hlm *m = hlm_open(&params, err);
    if (!m && strstr(err->msg, "validation layer")) { /* test_validation reports it */
        *err = (struct hlm_err){ 0 };
        params.validate = false;
        m = hlm_open(&params, err);
    }
    return m;
}

static hlm *open_dry(const char *path, uint64_t memory)
{
    struct hlm_err err = { 0 };
    hlm *m = open_with(path, memory, true, &err);
    CHECK_MSG(m != NULL, "%s", err.msg);
    return m;
}

static uint64_t sum(const struct hlm_plan *p) { return p->device_bytes + p->host_bytes; }

static uint64_t row(const struct hlm_plan *p, const char *purpose)
{
    for (uint32_t i = 0; i < p->n_row; i++)
        if (!strcmp(p->row[i].purpose, purpose))
            return p->row[i].bytes;
    return 0;
}

static struct hlm_plan plan_for(hlm *m, struct hlm_session_params params)
{
    struct hlm_plan plan = { 0 };
    struct hlm_err err = { 0 };
    CHECK_OK(hlm_session_plan(m, &params, &plan, &err), err);
    return plan;
}

/* Reads a prompt in pieces and generates tokens: nothing more may be needed on the way. */
static void use(hlm *m, hlm_session *s)
{
    struct hlm_sampling how = hlm_sampling_default(m);
    struct hlm_err err = { 0 };
    int32_t id[32], next;
    for (uint32_t i = 0; i < ARRAY_LEN(id); i++)
        id[i] = (int32_t)(i * 7 % 300);
    for (uint32_t i = 0; i < 2; i++)
        if (!CHECK_OK(hlm_session_sync(s, id, 32 - 16 * i, &(uint32_t){ 16 }, 1, NULL, NULL, &err),
                      err) ||
            !CHECK_OK(hlm_session_next(s, &how, &next, &err), err) ||
            !CHECK_OK(hlm_session_next(s, &how, &next, &err), err))
            return;
}

/* ---- plan and run ---------------------------------------------------------------------------- */

static void same_as_run(hlm *m, struct hlm_session_params params)
{
    struct hlm_err err = { 0 };
    struct hlm_plan plan = plan_for(m, params);
    uint64_t before = hlm_allocated(m);
    hlm_context *x = hlm_context_create(m, &params, &err);
    hlm_session *s = x ? hlm_context_open(x, &err) : NULL;
    if (!CHECK_MSG(s, "%s", err.msg)) {
        hlm_context_destroy(x);
        return;
    }
    CHECK_EQ(hlm_allocated(m), sum(&plan));
    CHECK_EQ(hlm_session_n_ctx(s), plan.n_ctx);
    struct hlm_stats st = hlm_session_stats(s);
    CHECK_EQ(st.weight_bytes, row(&plan, "weights"));
    CHECK_EQ(st.kv_bytes, row(&plan, "kv"));
    CHECK_EQ(st.state_bytes, row(&plan, "state"));
    CHECK_EQ(st.scratch_bytes, row(&plan, "scratch"));
    CHECK_EQ(st.snapshot_bytes, row(&plan, "snapshots"));
    if (plan.n_ctx == 77)
        use(m, s);
    CHECK_EQ(hlm_allocated(m), sum(&plan));
    hlm_context_destroy(x);
    CHECK_EQ(hlm_allocated(m), before);
}

/* What struct hlm_memory lists for a model and a session. */
static const char purposes[] = "weights adapters staging kv state scratch snapshots io host";

static void test_exact(const char *model)
{
    static const struct hlm_session_params rows[] = {
        { .n_ctx = 200, .n_batch = 16, .snapshot_budget = 3 << 20 },
        { .n_ctx = 77, .n_batch = 16, .kv = HLM_KV_F32, .snapshot_budget = 1 << 20 },
        { .n_ctx = 33, .n_batch = 1, .kv = HLM_KV_Q8_0, .snapshot_budget = HLM_SNAPSHOT_NONE },
        { .n_ctx = 1, .snapshot_budget = HLM_SNAPSHOT_NONE },
        { .n_ctx = 50, .n_batch = 16, .snapshot_budget = 5 << 20, .n_seq = 5 },
    };
    struct hlm_plan dry[ARRAY_LEN(rows)];
    struct hlm_err err = { 0 };
    test_case("%s: the plan is what the driver gives", model);
    hlm *m = open_dry(fixture("%s", model), 0);
    if (!m)
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        dry[i] = plan_for(m, rows[i]);
        CHECK(dry[i].fits && dry[i].n_row >= 5 && row(&dry[i], "weights") > 0);
        for (uint32_t k = 0; k < dry[i].n_row; k++)
            CHECK_MSG(test_has(purposes, dry[i].row[k].purpose), "\"%s\" is not in hlm.h",
                      dry[i].row[k].purpose);
    }
    CHECK_EQ(plan_for(m, (struct hlm_session_params){ .n_ctx = 5, .n_batch = 9999 }).n_batch, 5);
    CHECK_EQ(hlm_allocated(m), 0);
    if (CHECK_OK(hlm_load(m, &err), err)) {
        CHECK(hlm_allocated(m) >= row(&dry[0], "weights"));
        for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
            struct hlm_plan live = plan_for(m, rows[i]);
            CHECK_EQ(live.device_bytes, dry[i].device_bytes);
            CHECK_EQ(live.host_bytes, dry[i].host_bytes);
            same_as_run(m, rows[i]);
        }
    }
    hlm_test_close(m);
}

static void test_eval(const char *model)
{
    test_case("logits and hidden states of every token are in the plan");
    struct hlm_err err = { 0 };
    hlm *m = open_dry(fixture("%s", model), 0);
    if (m && CHECK_OK(hlm_load(m, &err), err)) {
        static float logits[9 * 2048], hidden[9 * 64 * 512];
        struct hlm_session_params params = {
            .n_ctx = 20,
            .n_batch = 9,
            .keep_logits = true,
            .keep_hidden = true,
            .snapshot_budget = HLM_SNAPSHOT_NONE,
        };
        struct hlm_info info = hlm_get_info(m);
        struct hlm_plan plan = plan_for(m, params);
        int32_t id[9] = { 5, 4, 3, 2, 1, 2, 3, 4, 5 };
        hlm_session *s = hlm_test_session(m, params);
        if (s && CHECK(info.n_vocab <= 2048 && info.n_embd <= 512 && info.n_layer + 2 <= 64)) {
            CHECK_OK(hlm_session_eval(s, id, 9, logits, hidden, &err), err);
            CHECK_OK(hlm_session_eval(s, id, 9, logits, NULL, &err), err);
        }
        CHECK_EQ(hlm_allocated(m), sum(&plan));
        hlm_session_destroy(s);
    }
    hlm_test_close(m);
}

/* ---- budget ---------------------------------------------------------------------------------- */

/* Opens a model with a budget and makes a session. NULL with the reason, and then nothing was
 * allocated. */
static bool runs(const char *path, uint64_t memory, struct hlm_session_params params,
                 uint32_t *n_ctx, struct hlm_err *err)
{
    hlm *m = open_dry(path, memory);
    hlm_session *s = m ? hlm_session_create(m, &params, err) : NULL; /* as programs do */
    hlm_session_destroy(s);
    if (s && CHECK_EQ(hlm_allocated(m), 0) && CHECK_OK(hlm_load(m, err), *err)) {
        s = hlm_session_create(m, &params, err);
        CHECK_MSG(s, "%s", err->msg);
        if (s)
            *n_ctx = hlm_session_n_ctx(s);
        hlm_session_destroy(s);
    }
    hlm_test_close(m);
    return s != NULL;
}

static void test_budget(const char *model)
{
    test_case("%s: the plan as a budget runs, a byte less is refused", model);
    const char *path = fixture("%s", model);
    struct hlm_session_params params = { .n_ctx = 150,
                                         .n_batch = 4,
                                         .snapshot_budget = HLM_SNAPSHOT_NONE };
    struct hlm_err err = { 0 };
    uint32_t n_ctx = 0;
    hlm *m = open_dry(path, 0);
    if (!m)
        return;
    struct hlm_plan plan = plan_for(m, params);
    hlm_test_close(m);
    CHECK_MSG(runs(path, plan.device_bytes, params, &n_ctx, &err), "%s", err.msg);
    CHECK_EQ(n_ctx, 150);
    CHECK(!runs(path, plan.device_bytes - 1, params, &n_ctx, &err));
    CHECK_SAYS(err.msg, "weights|kv");
    CHECK_EQ(err.kind, HLM_ERR_WONT_FIT);
    CHECK_EQ(err.need, plan.device_bytes);
    CHECK_EQ(err.have, plan.device_bytes - 1);

    test_case("%s: the refusal names the context that fits, and it is the longest", model);
    uint32_t n = (uint32_t)err.fits;
    if (CHECK_MSG(n >= 100 && n < 150, "%s: %u", err.msg, n)) {
        params.n_ctx = n;
        CHECK_MSG(runs(path, plan.device_bytes - 1, params, &n_ctx, &err), "%s", err.msg);
        params.n_ctx = n + 1;
        CHECK(!runs(path, plan.device_bytes - 1, params, &n_ctx, &err));
    }
    test_case("%s: the context left open is the longest that fits", model);
    err = (struct hlm_err){ 0 };
    params.n_ctx = 0;
    CHECK_MSG(runs(path, plan.device_bytes - 1, params, &n_ctx, &err), "%s", err.msg);
    CHECK_EQ(n_ctx, n);
}

static void test_too_small(const char *model)
{
    struct hlm_err err = { 0 };
    struct hlm_session_params params = { .snapshot_budget = HLM_SNAPSHOT_NONE };
    uint32_t n_ctx = 7;
    const char *path = fixture("%s", model);
    hlm *m = open_dry(path, 0);
    if (!m)
        return;
    struct hlm_plan one = plan_for(
        m, (struct hlm_session_params){ .n_ctx = 1, .snapshot_budget = HLM_SNAPSHOT_NONE });
    uint64_t weights = row(&one, "weights");
    hlm_test_close(m);

    test_case("no token fits: said so, with what each part needs");
    CHECK(!runs(path, weights + 1000, params, &n_ctx, &err));
    CHECK_MSG(err.kind == HLM_ERR_WONT_FIT && !err.fits && err.need > err.have, "%s", err.msg);
    m = open_dry(path, weights + 1000);
    if (m && CHECK_OK(hlm_session_fit(m, &params, &n_ctx, &err), err))
        CHECK_EQ(n_ctx, 0);
    hlm_test_close(m);

    test_case("the weights alone are too much: refused before they are brought up");
    err = (struct hlm_err){ 0 };
    m = open_with(path, weights - 1, false, &err);
    CHECK_SAYS(m ? "" : err.msg, "weights|smaller quantisation");
    CHECK_EQ(err.kind, HLM_ERR_WONT_FIT);
    hlm_close(m);

    test_case("a dry model computes nothing");
    err = (struct hlm_err){ 0 };
    m = open_dry(path, 0);
    hlm_session *s =
        m ? hlm_session_create(m, &(struct hlm_session_params){ .n_ctx = 9 }, &err) : NULL;
    int32_t id = 1;
    if (CHECK_OK(s != NULL, err))
        CHECK_REFUSED(hlm_session_sync(s, &id, 1, NULL, 0, NULL, NULL, &err), err, "dry run");
    hlm_session_destroy(s);
    hlm_test_close(m);
}

/* ---- the context that is left open ----------------------------------------------------------- */

static void test_default(void)
{
    test_case("the demo: as much as it was trained for, found quickly");
    hlm *m = open_dry("models/demo/hlm-demo-q8_0.gguf", 0);
    if (!m)
        return;
    struct hlm_session_params params = { .snapshot_budget = HLM_SNAPSHOT_NONE };
    struct hlm_plan plan = plan_for(m, params);
    uint32_t trained = hlm_get_info(m).n_ctx_train;
    CHECK_EQ(plan.n_ctx, trained);
    params.n_ctx = trained / 2;
    uint64_t budget = plan_for(m, params).device_bytes;
    hlm_test_close(m);

    m = open_dry("models/demo/hlm-demo-q8_0.gguf", budget);
    if (!m)
        return;
    params.n_ctx = 0;
    double t0 = now_s();
    plan = plan_for(m, params);
    double took = now_s() - t0;
    CHECK_MSG(took < 0.5, "the search took %.0f ms", took * 1e3); /* 10 ms on an idle core */
    CHECK(plan.fits && plan.n_ctx >= trained / 2 && plan.n_ctx < trained);
    params.n_ctx = plan.n_ctx + 1;
    CHECK(!plan_for(m, params).fits);
    hlm_test_close(m);
}

static void test_purposes(void)
{
    test_case("by purpose: what is taken, what the driver rounds it to, what is given");
    struct gpu *g = test_gpu();
    struct hlm_err err = { 0 };
    struct gpu_memory was[8], now[8];
    if (!g)
        return;
    uint32_t n = gpu_plan(g, was, ARRAY_LEN(was));
    struct arena *a = arena_create(g, "one", MEM_DEVICE, &err),
                 *b = arena_create(g, "two", MEM_DEVICE, &err),
                 *c = arena_create(g, "one", MEM_DEVICE, &err);
    arena_take(a, 1000, 0);
    arena_take(b, 1, 0);
    arena_take(c, 70000, 0);
    uint64_t cost[3] = { arena_cost(a), arena_cost(b), arena_cost(c) };
    CHECK(cost[0] >= 1000 && cost[1] >= 16 && cost[2] >= 70000);
    CHECK_EQ(gpu_plan(g, now, ARRAY_LEN(now)), n + 2);
    if (CHECK(n + 2 <= ARRAY_LEN(now))) {
        CHECK_STR(now[n].purpose, "one");
        CHECK_EQ(now[n].bytes, cost[0] + cost[2]);
        CHECK_STR(now[n + 1].purpose, "two");
        CHECK_EQ(now[n + 1].bytes, cost[1]);
    }
    CHECK_EQ(gpu_allocated(g, "one"), 0);
    uint64_t before = gpu_allocated(g, NULL);
    CHECK_OK(arena_commit(a, &err), err);
    CHECK_EQ(gpu_allocated(g, "one"), cost[0]);
    CHECK_OK(arena_commit(b, &err) && arena_commit(c, &err), err);
    CHECK_EQ(gpu_allocated(g, "one"), cost[0] + cost[2]);
    CHECK_EQ(gpu_allocated(g, NULL), before + cost[0] + cost[1] + cost[2]);
    arena_destroy(b);
    CHECK_EQ(gpu_allocated(g, "two"), 0);
    arena_destroy(a);
    arena_destroy(c);
    CHECK_EQ(gpu_allocated(g, NULL), before);
}

void test_plan(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    test_purposes();
    for (uint32_t i = 0; i < ARRAY_LEN(models); i++)
        test_exact(models[i]);
    gpu_test_staging(true); /* as on a card, where memory is staged */
    test_exact(models[0]);
    test_budget(models[1]);
    gpu_test_staging(false);
    test_eval(models[0]);
    test_budget(models[0]);
    test_budget(models[5]);
    test_too_small(models[0]);
    test_default();
}
