/* test_tune_run: training runs on the device, made as a program makes them. The plan equals what
 * the driver gives; a resumed run ends with the same bits; a full disk costs nothing. Then hlm-tune
 * itself: the call that external checks use, Ctrl-C, and an early end. */
#define _POSIX_C_SOURCE 200809L
#include "hlm_test.h"
#include "run.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TINY "tests/fixtures/train/qwen35/"

/* Whole documents of the fixture; one in four is for validation. */
static struct hlm_tune_params tiny(void)
{
    struct hlm_tune_params p = hlm_tune_defaults();
    p.data = TINY "data.jsonl";
    p.targets = "attn,ffn_down";
    p.read.max_seq = 96;
    p.read.valid = 0.25;
    p.no_pack = true;
    p.train.rank = 3;
    p.train.steps = 4;
    p.train.train_gates = true;
    p.train.lora_dropout = 0.1;
    return p;
}

static hlm *open_model(bool dry, uint64_t memory, struct hlm_err *err)
{
    struct hlm_params params = { .model = TINY "model.gguf",
                                 .cache_dir = "build/cache",
                                 .f32_only = true,
                                 .validate = true,
                                 .dry = dry,
                                 .memory = memory,
                                 .layers = true };
    hlm *m = hlm_open(&params, err);
    if (!m && strstr(err->msg, "validation layer")) { /* test_validation reports it */
        *err = (struct hlm_err){ 0 };
        params.validate = false;
        m = hlm_open(&params, err);
    }
    return m;
}

static bool steps(hlm_tune *t, uint32_t n, double *loss)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_step s = { 0 };
    for (uint32_t i = 0; i < n; i++)
        if (!CHECK_OK(hlm_tune_do_step(t, &s, &err), err))
            return false;
    *loss = s.loss;
    return true;
}

static double validate(hlm_tune *t)
{
    struct hlm_tune_loss v = { 0 };
    struct hlm_err err = { 0 };
    CHECK_OK(hlm_tune_validate(t, HLM_TUNE_VALID, &v, NULL, NULL, &err), err);
    return v.main;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The memory of a run and of a session for samples, compared with the plan. Returns its sum. */
static uint64_t test_plan(void)
{
    struct hlm_err err = { 0 };
    struct hlm_session_params sp = {
        .n_ctx = 64, .n_batch = 16, .kv = HLM_KV_F32, .snapshot_budget = HLM_SNAPSHOT_NONE
    };
    struct hlm_tune_params p = tiny();
    hlm_session *s = NULL;
    double loss;
    uint64_t all = 0;
    p.sample = &sp;
    test_case("a run's plan is what the driver gives");
    hlm *m = open_model(true, 0, &err);
    hlm_tune *t = m ? hlm_tune_open(m, &p, &err) : NULL;
    if (CHECK_MSG(t, "%s", err.msg)) {
        struct hlm_plan plan = hlm_tune_plan(t);
        all = plan.device_bytes;
        CHECK_EQ(hlm_allocated(m), 0);
        CHECK(!hlm_set_lora(m, NULL, 0, NULL) && !hlm_tune_open(m, &p, NULL));
        if (CHECK_OK(hlm_load(m, &err) && hlm_tune_begin(t, NULL, &err), err) &&
            CHECK_MSG((s = hlm_session_create(m, &sp, &err)), "%s", err.msg)) {
            uint64_t sum = plan.device_bytes + plan.host_bytes;
            CHECK_EQ(hlm_allocated(m), sum);
            int32_t ids[9] = { 5, 6, 7, 8, 9, 10, 11, 12, 13 };
            CHECK(steps(t, 1, &loss) && validate(t) > 0);
            CHECK_OK(hlm_session_sync(s, ids, 9, NULL, 0, NULL, NULL, &err), err);
            CHECK_EQ(hlm_allocated(m), sum);
        }
    }
    hlm_session_destroy(s);
    hlm_tune_close(t);
    hlm_test_close(m);
    return all;
}

/* Shorter rows also have fewer documents; otherwise no length would seem to fit. */
static void test_packed_budget(void)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = tiny();
    uint64_t need = 0;
    test_case("a refusal knows how many documents shorter rows have");
    p.data = "bench/lesson/train.jsonl";
    p.no_pack = false;
    p.read.max_seq = 128;
    for (uint32_t i = 0; i < 2; i++, p.read.max_seq = 1024) {
        hlm *m = open_model(true, need, &err);
        hlm_tune *t = m ? hlm_tune_open(m, &p, &err) : NULL;
        if (i)
            CHECK_MSG(!t && err.kind == HLM_ERR_WONT_FIT && err.fits, "%s", err.msg);
        else if (CHECK_MSG(t, "%s", err.msg))
            need = hlm_tune_plan(t).device_bytes;
        hlm_tune_close(t);
        hlm_test_close(m);
    }
}

static bool fits(uint64_t memory, uint32_t max_seq, struct hlm_err *err)
{
    struct hlm_session_params sp = {
        .n_ctx = 64, .n_batch = 16, .kv = HLM_KV_F32, .snapshot_budget = HLM_SNAPSHOT_NONE
    };
    struct hlm_tune_params p = tiny();
    *err = (struct hlm_err){ 0 };
    p.sample = &sp;
    p.read.max_seq = max_seq;
    hlm *m = open_model(true, memory, err);
    hlm_tune *t = m ? hlm_tune_open(m, &p, err) : NULL;
    bool ok = t != NULL;
    hlm_tune_close(t);
    hlm_test_close(m);
    return ok;
}

static void test_budget(uint64_t all)
{
    struct hlm_err err;
    test_case("a budget of exactly that will do, a byte less is refused with what would fit");
    CHECK_MSG(fits(all, 96, &err), "%s", err.msg);
    CHECK(!fits(all - 1, 96, &err));
    CHECK_SAYS(err.msg, "memory|optimizer");
    CHECK_EQ(err.kind, HLM_ERR_WONT_FIT);
    CHECK_EQ(err.need, all);
    CHECK_EQ(err.have, all - 1);
    uint32_t n = (uint32_t)err.fits;
    CHECK_MSG(n >= 32 && n < 96 && fits(all - 1, n, &err), "%u: %s", n, err.msg);
    CHECK(!fits(all / 4, 96, &err));
    CHECK_MSG(!err.fits, "%s", err.msg);
    CHECK_SAYS(err.msg, "smaller model");
}

/* ---- going on -------------------------------------------------------------------------------- */

/* Runs from the start, or from a checkpoint: it validates at steps 0 and 2, and saves at 2 and
 * 4. */
static char *run_to_end(hlm *m, const char *folder, const char *from, uint64_t *n, double best[2])
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = tiny();
    const char *resumed = NULL;
    double loss;
    char *bytes = NULL;
    p.resume = from;
    hlm_tune *t = hlm_tune_open(m, &p, &err);
    bool ok = CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, &resumed, &err), err) &&
              CHECK((resumed != NULL) == (from != NULL));
    if (ok && !from) {
        validate(t);
        ok = steps(t, 2, &loss) && validate(t) > 0 &&
             CHECK_OK(hlm_tune_save(t, folder, 9, &err), err) && CHECK(hlm_tune_is_saved(t));
    }
    ok = ok && CHECK_EQ(hlm_tune_get_info(t).step, 2) && steps(t, 2, &loss);
    if (ok) {
        const char *out = test_scratch("tune-out.gguf");
        struct hlm_tune_info i = hlm_tune_get_info(t);
        best[0] = i.best_loss;
        best[1] = (double)i.best_step;
        CHECK(!hlm_tune_is_saved(t));
        if (CHECK_OK(hlm_tune_write(t, out, &err), err))
            bytes = file_read(out, 1 << 26, n, &err);
        if (!from)
            CHECK_OK(hlm_tune_save(t, folder, 9, &err), err);
    }
    hlm_tune_close(t);
    return bytes;
}

static void test_resume(hlm *m, const char *folder)
{
    char two[256];
    uint64_t n_a = 0, n_b = 0;
    double best_a[2], best_b[2];
    test_case("a run that is taken up again ends with the same bits");
    snprintf(two, sizeof two, "%s/step-000002", folder);
    char *a = run_to_end(m, folder, NULL, &n_a, best_a);
    char *b = a ? run_to_end(m, folder, two, &n_b, best_b) : NULL;
    if (CHECK(a && b)) {
        CHECK(n_a == n_b && !memcmp(a, b, n_a));
        CHECK(!memcmp(best_a, best_b, sizeof best_a));
    }
    free(a);
    free(b);
}

static void test_refused(hlm *m, const char *folder)
{
    struct hlm_err err;
    char five[256];
    snprintf(five, sizeof five, "%s/nope", folder);
    for (uint32_t i = 0; i < 6; i++) {
        static const char *const says[] = {
            "rank|3|4",       "seed|0|1",     "other data",
            "trains|tensors", "No such file", "lora_dropout|0.1|0",
        };
        struct hlm_tune_params p = tiny();
        test_case("a run that is not the checkpoint's: %s", says[i]);
        p.resume = i == 4 ? five : folder;
        p.train.rank += i == 0;
        p.seed += i == 1;
        p.read.loss_all = i == 2;
        p.targets = i == 3 ? "attn" : p.targets;
        p.train.lora_dropout = i == 5 ? 0 : p.train.lora_dropout;
        CHECK_REFUSED(hlm_tune_open(m, &p, &err), err, says[i]);
        CHECK_MSG(strstr(err.msg, folder), "%s", err.msg);
    }
}

/* ---- a session beside a run ------------------------------------------------------------------ */

/* The parameters that a session beside a run reads with change at every step, and a file could not
 * say which they were. So such a session is not saved (it once was, as a session of the plain
 * model), and it does not load what the plain model has saved. */
static void test_session_beside(hlm *m)
{
    static const int32_t ids[9] = { 5, 6, 7, 8, 9, 10, 11, 12, 13 };
    static const char says[] = "saved|loaded|trained";
    const struct hlm_session_params sp = {
        .n_ctx = 64, .n_batch = 16, .kv = HLM_KV_F32, .snapshot_budget = HLM_SNAPSHOT_NONE
    };
    for (uint32_t gates = 0; gates < 2; gates++) {
        const char *path = scratch("beside.hlm");
        struct hlm_tune_params p = tiny();
        struct hlm_err err = { 0 };
        double loss;
        test_case("a session beside a run that trains %s has no file",
                  gates ? "gates alone" : "an adapter");
        p.sample = &sp;
        p.train.train_lora = !gates;
        p.train.lora_dropout = 0;
        hlm_session *s = hlm_session_create(m, &sp, &err);
        bool ok = CHECK_MSG(s, "%s", err.msg) &&
                  CHECK_OK(hlm_session_sync(s, ids, 9, NULL, 0, NULL, NULL, &err), err) &&
                  CHECK_OK(hlm_session_save(s, path, NULL, 0, &err), err);
        hlm_session_destroy(s);
        hlm_tune *t = ok ? hlm_tune_open(m, &p, &err) : NULL;
        ok = CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, NULL, &err), err) &&
             steps(t, 2, &loss);
        s = ok ? hlm_session_create(m, &sp, &err) : NULL;
        if (CHECK_MSG(s, "%s", err.msg)) {
            CHECK_OK(hlm_session_sync(s, ids, 9, NULL, 0, NULL, NULL, &err), err);
            CHECK_REFUSED(hlm_session_load(s, path, NULL, NULL, &err), err, says);
            CHECK_SAYS(err.msg, path);
            path = scratch("none.hlm");
            CHECK_REFUSED(hlm_session_save(s, path, NULL, 0, &err), err, says);
            CHECK_SAYS(err.msg, path);
            CHECK_MSG(access(path, F_OK), "%s was written", path);
            CHECK_EQ(hlm_session_n_past(s), 9);
        }
        hlm_session_destroy(s);
        hlm_tune_close(t);
    }
}

enum { N_BESIDE = 9 };
static const int32_t beside[N_BESIDE] = { 5, 6, 7, 8, 9, 10, 11, 12, 13 };

/* Syncs with all but the last token, from the `from`-th one on, and reads that one. */
static bool read_beside(hlm_session *s, uint32_t from, float *logits)
{
    static const uint32_t snap[] = { 4 };
    struct hlm_err err = { 0 };
    return CHECK_OK(hlm_session_sync(s, beside, N_BESIDE - 1, snap, 1, NULL, NULL, &err), err) &&
           CHECK_EQ(hlm_session_found(s).n_from, from) &&
           CHECK_OK(hlm_session_eval(s, &beside[N_BESIDE - 1], 1, logits, NULL, &err), err);
}

/* What would go on with what was read before is refused, and changes nothing. */
static void refuses_to_go_on(hlm_session *s, float *logits)
{
    static const char says[] = "trained|sync";
    struct hlm_sampling greedy = { .temp = 0, .repeat_penalty = 1 };
    struct hlm_err err = { 0 };
    int32_t id;
    double nll;
    CHECK_REFUSED(hlm_session_next(s, &greedy, &id, &err), err, says);
    CHECK_EQ(err.kind, HLM_ERR_STATE);
    CHECK_REFUSED(hlm_session_eval(s, beside, 1, logits, NULL, &err), err, says);
    CHECK_REFUSED(hlm_session_nll(s, beside, 2, &nll, &err), err, says);
    CHECK_REFUSED(hlm_session_save(s, scratch("old.hlm"), NULL, 0, &err), err, says);
    CHECK_EQ(hlm_session_n_past(s), N_BESIDE);
}

/* A session that lives across steps mixed keys and values of several of them: the model that it
 * answered with was none that there ever was. After the run it used an adapter that was gone. */
static void test_session_across(hlm *m)
{
    const struct hlm_session_params sp = {
        .n_ctx = 64, .n_batch = 16, .kv = HLM_KV_F32, .keep_logits = true, .keep_nll = true
    };
    struct hlm_tune_params p = tiny();
    struct hlm_err err = { 0 };
    double loss;
    uint64_t n = hlm_get_info(m).n_vocab, bytes = n * sizeof(float);
    float *plain = test_room(4 * n, sizeof *plain), *before = plain + n, *after = before + n,
          *fresh = after + n;
    test_case("a session that lives across a step and the end of a run reads its tokens again");
    p.sample = &sp;
    hlm_session *s = hlm_session_create(m, &sp, &err), *other = NULL;
    bool ok = CHECK_MSG(s, "%s", err.msg) && read_beside(s, 0, plain);
    hlm_session_destroy(s);
    s = NULL;
    hlm_tune *t = ok ? hlm_tune_open(m, &p, &err) : NULL;
    if (CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, NULL, &err), err) &&
        steps(t, 1, &loss) && CHECK_MSG((s = hlm_session_create(m, &sp, &err)), "%s", err.msg)) {
        CHECK(read_beside(s, 0, before) && steps(t, 1, &loss));
        refuses_to_go_on(s, after);
        CHECK(read_beside(s, 0, after) && memcmp(before, after, bytes) != 0);
        other = hlm_session_create(m, &sp, &err);
        CHECK_MSG(other && read_beside(other, 0, fresh), "%s", err.msg);
        CHECK(memcmp(after, fresh, bytes) == 0);
    }
    hlm_session_destroy(other);
    hlm_tune_close(t);
    if (s) {
        refuses_to_go_on(s, after);
        CHECK(read_beside(s, 0, after) && memcmp(plain, after, bytes) == 0);
    }
    hlm_session_destroy(s);
    free(plain);
}

/* ---- the best ------------------------------------------------------------------------------- */

/* A folder of all three files; the test data is the validation data. */
static void make_folder(const char *path)
{
    static const char *const names[] = { "train", "valid", "test" };
    char *text = slurp(TINY "data.jsonl"), file[256];
    CHECK(mkdir(path, 0700) == 0);
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(file, sizeof file, "%s/%s.jsonl", path, names[i]);
        spill(file, text);
    }
    free(text);
}

/* At a rate as high as this the second step makes the validation worse. */
static struct hlm_tune_params worsening(void)
{
    struct hlm_tune_params p = tiny();
    p.data = scratch("three");
    p.targets = "attn";
    p.train.rank = 2;
    p.train.rslora = true;
    p.train.lr = p.train.peak = 1;
    p.train.schedule = HLM_CONSTANT;
    p.train.train_gates = false;
    p.train.lora_dropout = 0;
    p.warmup = 0;
    return p;
}

/* The adapter of a run with rsLoRA says so. */
static void check_scaling(const char *path)
{
    struct hlm_err err = { 0 };
    struct hlm_adapter_info info = { 0 };
    bool is = false, loss = false;
    CHECK_OK(hlm_adapter_read(path, &info, &err), err);
    for (uint32_t i = 0; i < info.n_past; i++) {
        is = is ||
             (!strcmp(info.past[i].key, "lora.scaling") && !strcmp(info.past[i].text, "rslora"));
        loss = loss || !strcmp(info.past[i].key, "train.loss");
    }
    CHECK(is && !loss); /* the loss of the last step is not that of the best one */
    CHECK(fabs((double)info.alpha - 32 * sqrt(2)) < 1e-5);
    hlm_adapter_info_free(&info);
}

static void check_taken(hlm_tune *t, const char *folder, double best)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_loss v = { 0 };
    struct hlm_tune_step s;
    double row_s;
    bool found = false;
    CHECK_OK(hlm_tune_take_best(t, folder, &found, &err), err);
    CHECK(found && validate(t) == best && hlm_tune_get_info(t).best_loss == best);
    CHECK_OK(hlm_tune_validate(t, HLM_TUNE_TRAIN, &v, NULL, NULL, &err), err);
    const char *out = test_scratch("taken.gguf");
    CHECK_OK(hlm_tune_write(t, out, &err), err);
    check_scaling(out);
    CHECK(!hlm_tune_do_step(t, &s, &err) && err.kind == HLM_ERR_STATE);
    CHECK(!hlm_tune_save(t, folder, 1, &err) && err.kind == HLM_ERR_STATE);
    CHECK(!hlm_tune_measure(t, &row_s, &err) && err.kind == HLM_ERR_STATE);
}

/* Once, taking the best forbade all that came after, as a step that failed part-way does. */
static void test_best(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = worsening();
    struct hlm_tune_step s;
    const char *folder = test_scratch("tune-best");
    double loss, best = 0;
    bool found = true;
    test_case("the best is not the last: it is validated and written, and no step follows");
    hlm_tune *t = hlm_tune_open(m, &p, &err);
    if (CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, NULL, &err), err)) {
        CHECK(hlm_tune_take_best(t, folder, &found, &err) && !found); /* nothing was validated */
        CHECK(steps(t, 1, &loss) && (best = validate(t)) > 0);
        CHECK_OK(hlm_tune_save(t, folder, 1, &err), err);
        CHECK(steps(t, 1, &loss) && validate(t) > best);
        CHECK(hlm_tune_take_best(t, test_scratch("empty"), &found, &err) && !found);
        CHECK(steps(t, 1, &loss)); /* nothing was taken */
        check_taken(t, folder, best);
    }
    hlm_tune_close(t);

    test_case("a step that fails ends the run; its best can still be taken");
    t = hlm_tune_open(m, &p, &err);
    if (CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, NULL, &err), err)) {
        struct hlm_tune_loss v;
        best = validate(t);
        folder = test_scratch("tune-first");
        CHECK_OK(hlm_tune_save(t, folder, 0, &err), err); /* 0 keeps one */
        hlm_tune_dump_grads(t, "nowhere/x.gguf");
        CHECK(!hlm_tune_do_step(t, &s, &err) && err.kind == HLM_ERR_SYSTEM);
        CHECK(!hlm_tune_do_step(t, &s, &err) && err.kind == HLM_ERR_STATE);
        CHECK(!hlm_tune_save(t, folder, 1, &err) && err.kind == HLM_ERR_STATE);
        CHECK(!hlm_tune_write(t, test_scratch("unclear.gguf"), &err) && err.kind == HLM_ERR_STATE);
        CHECK(!hlm_tune_validate(t, HLM_TUNE_VALID, &v, NULL, NULL, &err));
        CHECK_EQ(err.kind, HLM_ERR_STATE);
        check_taken(t, folder, best);
    }
    hlm_tune_close(t);
}

/* ---- progress -------------------------------------------------------------------------------- */

struct validating {
    uint64_t n_call, total, stop_at; /* stop_at: rows at which to stop */
    bool in_order;
};

static bool on_row(void *user, uint64_t done, uint64_t total)
{
    struct validating *v = user;
    v->in_order = v->in_order && done == v->n_call;
    v->n_call++;
    v->total = total;
    return done != v->stop_at;
}

static void test_progress(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = tiny();
    struct hlm_tune_loss loss;
    test_case("progress of a validation: before the first row, after each; any call may stop it");
    hlm_tune *t = hlm_tune_open(m, &p, &err);
    if (CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, NULL, &err), err)) {
        uint64_t n = hlm_tune_set_info(t, HLM_TUNE_VALID).n_row;
        for (uint64_t stop_at = 0; stop_at <= n + 1; stop_at++) {
            struct validating v = { .stop_at = stop_at, .in_order = true };
            bool ok = hlm_tune_validate(t, HLM_TUNE_VALID, &loss, on_row, &v, &err);
            CHECK(ok == (stop_at > n) && (ok || err.kind == HLM_ERR_STOPPED));
            CHECK(v.in_order && v.n_call == min_u64(stop_at, n) + 1 && v.total == n);
            CHECK((hlm_tune_get_info(t).valid_loss < (double)INFINITY) == ok);
        }
        CHECK(!hlm_tune_validate(t, (enum hlm_tune_set)3, &loss, NULL, NULL, &err));
        CHECK(err.kind == HLM_ERR_INPUT && strstr(err.msg, "3"));
        CHECK(!hlm_tune_validate(t, HLM_TUNE_TEST, &loss, NULL, NULL, &err));
        CHECK_EQ(err.kind, HLM_ERR_INPUT);
    }
    hlm_tune_close(t);
}

/* ---- a full disk ----------------------------------------------------------------------------- */

static void test_full(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = tiny();
    const char *folder = test_scratch("tune-full");
    double loss;
    bool done = false;
    uint32_t nth = 0;
    test_case("a full disk at every call of a save: what was saved before stands");
    hlm_tune *t = hlm_tune_open(m, &p, &err);
    bool ok = CHECK_MSG(t, "%s", err.msg) && CHECK_OK(hlm_tune_begin(t, NULL, &err), err) &&
              steps(t, 1, &loss) && CHECK_OK(hlm_tune_save(t, folder, 1, &err), err) &&
              steps(t, 1, &loss);
    while (ok && !done && nth++ < 100) {
        err = (struct hlm_err){ 0 };
        file_test_fault(nth, nth % 2);
        done = hlm_tune_save(t, folder, 1, &err);
        file_test_fault(0, false);
        if (!done)
            CHECK_SAYS(err.msg, "tune-full/step-000002|No space left");
    }
    CHECK_MSG(done && nth > 10 && nth < 60, "%u calls", nth);
    hlm_tune_close(t);
    /* The newest checkpoint is complete; until it exists, so is the one before. */
    p.resume = folder;
    err = (struct hlm_err){ 0 };
    t = hlm_tune_open(m, &p, &err);
    CHECK_MSG(t, "%s", err.msg);
    hlm_tune_close(t);
}

/* ---- hlm-tune -------------------------------------------------------------------------------- */

/* The lines of an event; the caller drops the list. */
static json_t *events(const char *path, const char *event)
{
    json_t *list = json_array();
    char *text = slurp(path);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *j = json_loads(line, 0, NULL);
        CHECK_MSG(j, "no JSON: %s", line);
        if (j && !strcmp(json_str(j, "event"), event))
            json_array_append(list, j);
        json_decref(j);
    }
    free(text);
    return list;
}

static double number(const json_t *list, size_t i, const char *key)
{
    return json_number_value(json_object_get(json_array_get(list, i), key));
}

/* The call that external checks use, on a run with everything that a step can have. */
static void test_ids_json(void)
{
    test_case("--ids-json: log, gradients, adapter");
    const char *log = scratch("tune.json"), *grads = scratch("grads.gguf"),
               *out = scratch("tuned.gguf");
    struct ran r = run(NULL,
                       "hlm-tune -m " TINY "model.gguf --ids-json " TINY "data-sched.json "
                       "--init-lora " TINY "init-lora.gguf --no-shuffle --steps 4 "
                       "--log-json %s --dump-grads %s -o %s",
                       log, grads, out);
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "step 1/4|loss|try it: hlm-chat -m");
    CHECK_SAYS(r.out, "31 matrices|6 gates");
    CHECK_SAYS(r.out, "4 steps|loss");
    ran_free(&r);
    json_t *want = fixture_json("train/qwen35/expected.json"), *got = events(log, "step");
    const json_t *w =
        json_object_get(json_object_get(json_object_get(want, "runs"), "sched"), "steps");
    CHECK_EQ(json_array_size(got), 4);
    for (size_t i = 0; i < 4; i++) {
        static const char *const keys[] = { "loss", "loss_main", "grad_norm", "lr", "step", "n" };
        for (uint32_t k = 0; k < ARRAY_LEN(keys); k++)
            CHECK_MSG(fabs(number(got, i, keys[k]) / number(w, i, keys[k]) - 1) < 1e-5,
                      "step %zu: %s is %.9g, expected %.9g", i + 1, keys[k],
                      number(got, i, keys[k]), number(w, i, keys[k]));
        CHECK(json_is_null(json_object_get(json_array_get(got, i), "loss_mtp")));
    }
    json_decref(want);
    json_decref(got);
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(grads, &err), *o = gguf_open(out, &err);
    if (CHECK_MSG(g && o, "%s", err.msg)) {
        CHECK_EQ(gguf_n_tensor(o), 68);
        CHECK_EQ(gguf_n_tensor(g), 68);
        for (uint64_t i = 0; i < gguf_n_tensor(o); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(o, i), *d = gguf_tensor(g, t->name);
            CHECK_MSG(d && !memcmp(t->dim, d->dim, sizeof t->dim), "%s", t->name);
        }
        float alpha = 0;
        CHECK_OK(gguf_f32(o, "adapter.lora.alpha", REQUIRED, &alpha, &err), err);
        CHECK(alpha == 8);
    }
    gguf_close(g);
    gguf_close(o);
}

#define SMALL_ON "hlm-tune -m " TINY "model.gguf --no-pack --valid 0.25 --target attn --rank 2 -d "
#define SMALL SMALL_ON TINY "data.jsonl"

static void test_patience(void)
{
    test_case("--patience: no validation is better where nothing is learnt; --sample; test.jsonl");
    const char *out = scratch("early.gguf"), *log = scratch("early.json"), *dir = scratch("three");
    struct ran r = run(NULL,
                       SMALL_ON "%s --steps 50 --lr 0 --valid-every 1 --patience 2 -v -o %s "
                                "--sample Birds? --sample-tokens 3 --log-json %s",
                       dir, out, log);
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.out, "early.gguf|2 steps");
    CHECK_SAYS(r.out, "no validation");
    CHECK_SAYS(r.out, "step 0|Birds?|step 2|Birds?");
    CHECK_SAYS(r.out, "test loss");
    CHECK_SAYS(r.err, "--patience");
    CHECK_SAYS(r.err, "step 0|validation loss");
    CHECK_SAYS(r.err, "[[");
    CHECK_SAYS(r.err, "optimizer");
    ran_free(&r);
    json_t *valid = events(log, "valid");
    CHECK_EQ(json_array_size(valid), 3);
    json_t *tested = events(log, "test");
    CHECK(number(tested, 0, "test_loss") == number(valid, 0, "valid_loss"));
    json_decref(tested);
    for (size_t i = 0; i < 3; i++) /* the same bits, whatever was run between */
        CHECK(number(valid, i, "valid_loss") == number(valid, 0, "valid_loss"));
    json_decref(valid);
}

/* Once, the test at the end was refused whenever the best step was not the last. */
static void test_best_of_three(void)
{
    test_case("test.jsonl is tested with the best adapter, which is not the last");
    const char *out = scratch("worse.gguf"), *log = scratch("worse.json"), *dir = scratch("three");
    struct ran r = run(NULL,
                       SMALL_ON "%s --steps 3 --lr 1 --schedule constant --warmup 0"
                                " --valid-every 1 --log-json %s -o %s",
                       dir, log, out);
    CHECK_MSG(r.rc == 0, "%s", r.err);
    CHECK_SAYS(r.out, "worse-best.gguf|step 1|the best");
    CHECK_SAYS(r.out, "test loss|best adapter");
    ran_free(&r);
    json_t *valid = events(log, "valid"), *tested = events(log, "test");
    CHECK(number(tested, 0, "test_loss") == number(valid, 1, "valid_loss"));
    CHECK(number(valid, 3, "valid_loss") > number(valid, 1, "valid_loss"));
    json_decref(tested);
    json_decref(valid);
}

/* At every validation the log reports layers: experts with all their choices, gates as training has
 * changed them. */
static void test_layer_log(void)
{
    test_case("the log tells of layers");
    const char *log = scratch("layers.json"), *out = scratch("layers.gguf");
    struct ran r = run(NULL,
                       "hlm-tune -m tests/fixtures/train/qwen35moe-mtp/model.gguf -d "
                       "tests/fixtures/train/qwen35moe-mtp/data.jsonl --no-pack --valid 0.25 "
                       "--target attn --rank 2 --train-gates --steps 2 --valid-every 1 "
                       "--log-json %s -o %s",
                       log, out);
    CHECK_MSG(r.rc == 0, "%s", r.err);
    ran_free(&r);
    json_t *all = events(log, "counters");
    json_t *last = json_array_get(all, json_array_size(all) - 1), *layer;
    json_t *layers = json_object_get(last, "layers"), *load;
    size_t i, k;
    uint32_t n_moe = 0, n_gate = 0;
    CHECK(json_array_size(all) >= 3); /* before the first step, and after each of two */
    json_t *steps = events(log, "step"), *row;
    double first_s = json_number_value(json_object_get(json_array_get(steps, 0), "t"));
    bool planned = false; /* all memory is known before the first step */
    json_array_foreach(all, i, layer)
    {
        bool before = json_number_value(json_object_get(layer, "t")) < first_s;
        json_t *by = json_object_get(json_object_get(layer, "device_memory"), "by");
        json_array_foreach(by, k, row) planned |=
            before && !strcmp(json_string_value(json_object_get(row, "purpose")), "optimizer");
    }
    CHECK(planned);
    json_decref(steps);
    json_array_foreach(layers, i, layer)
    {
        json_t *experts = json_object_get(layer, "experts"), *gates;
        json_int_t sum = 0;
        json_array_foreach(json_object_get(experts, "load"), k, load) sum +=
            json_integer_value(load);
        CHECK_EQ(json_integer_value(json_object_get(experts, "chosen")), sum);
        n_moe += sum > 0;
        if (!(gates = json_object_get(layer, "gates")))
            continue;
        double decay = json_number_value(json_object_get(gates, "decay"));
        CHECK(decay > 0 && decay <= json_number_value(json_object_get(gates, "decay_max")) &&
              decay >= json_number_value(json_object_get(gates, "decay_min")));
        CHECK(json_number_value(json_object_get(gates, "write")) > 0);
        CHECK(json_number_value(json_object_get(gates, "delta_max")) > 0);
        CHECK(json_is_true(json_object_get(json_object_get(layer, "state"), "finite")));
        n_gate++;
    }
    CHECK_MSG(n_moe == json_array_size(layers) && n_gate > 0,
              "%zu layers, %u with experts, %u with gates", json_array_size(layers), n_moe, n_gate);
    json_decref(all);
}

/* A run that is interrupted once its first step is in the log, and resumed, equals one that was
 * not. */
static void test_interrupt(void)
{
    test_case("Ctrl-C finishes the step, saves, and the run goes on from there");
    char command[1024], ckpt[256];
    const char *log = scratch("int.json"), *a = scratch("int-a.gguf"), *b = scratch("int-b.gguf");
    snprintf(command, sizeof command, SMALL " --steps 16 --log-json %s -o %s", log, a);
    pid_t pid = start(command, "/dev/null", scratch("out"), scratch("err"));
    bool begun = false;
    for (double end_s = now_s() + TIMEOUT_S; !begun && now_s() < end_s;) {
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
        char *text = fixture_has("../../%s", log) ? slurp(log) : NULL;
        begun = text && strstr(text, "\"event\":\"step\"");
        free(text);
    }
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid), 130);
    char *err = slurp(scratch("err"));
    CHECK_SAYS(err, "stopped|step|--resume");
    free(err);
    snprintf(ckpt, sizeof ckpt, "%s.ckpt", a);
    struct ran r = run(NULL, SMALL " --steps 16 -o %s", a);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "checkpoints|another run");
    ran_free(&r);
    r = run(NULL, SMALL " --steps 16 -o %s --plan", a); /* reads no checkpoints and writes none */
    CHECK_EQ(r.rc, 0);
    ran_free(&r);
    r = run(NULL, "hlm-tune --resume %s --rank 5", ckpt);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "begun with rank 2|5");
    ran_free(&r);
    r = run(NULL, "hlm-tune --resume %s", ckpt); /* its flags are known */
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "continuing from|of 16");
    ran_free(&r);
    r = run(NULL, SMALL " --steps 16 -o %s", b);
    CHECK_EQ(r.rc, 0);
    ran_free(&r);
    uint64_t n_a = 0, n_b = 0;
    struct hlm_err why = { 0 };
    char *x = file_read(a, 1 << 26, &n_a, &why), *y = file_read(b, 1 << 26, &n_b, &why);
    CHECK_MSG(x && y && n_a == n_b && !memcmp(x, y, n_a), "%s", why.msg);
    free(x);
    free(y);
}

static void test_longer(void)
{
    test_case("a run whose rows were chosen is made longer");
    const char *longer = scratch("longer.gguf");
    struct ran r = run(NULL,
                       "hlm-tune -m " TINY "model.gguf -d " TINY
                       "data.jsonl --target attn --rank 2 --epochs 0.2"
                       " --save-every 1 -o %s",
                       longer);
    CHECK_MSG(r.rc == 0, "%s", r.err);
    ran_free(&r);
    r = run(NULL, "hlm-tune --resume %s.ckpt --epochs 0.4", longer);
    CHECK_MSG(r.rc == 0, "%s", r.err);
    CHECK_SAYS(r.err, "continuing from");
    ran_free(&r);
    r = run(NULL, "hlm-tune --resume %s.ckpt --steps 40 -d " TINY "data.jsonl", longer); /* once */
    CHECK_MSG(r.rc == 0, "%s", r.err);
    CHECK_SAYS(r.out, "40 steps");
    ran_free(&r);
}

/* Of the adapter that test_interrupt leaves. */
static void test_past(void)
{
    const char *a = scratch("int-a.gguf");
    test_case("an adapter says how it was made");
    struct ran r = run(NULL, "hlm-tune info %s", a);
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.out, "base file|trained on   data.jsonl|steps        16 of 16|loss|in step 16|"
                      "best         loss");
    CHECK_SAYS(r.out,
               "by hlm       " HLM_VERSION "|with         2026-09-21|--no-pack --valid 0.25");
    ran_free(&r);
    test_case("an adapter is trained further with its own flags; those that are given win");
    r = run(NULL, "hlm-tune -m " TINY "model.gguf -d " TINY "data.jsonl -o %s --more %s --steps 2",
            scratch("int-more.gguf"), a);
    CHECK_MSG(r.rc == 0, "%s", r.err);
    ran_free(&r);
    r = run(NULL, "hlm-tune info %s", scratch("int-more.gguf"));
    CHECK_SAYS(r.out, "rank 2|from         int-a.gguf|steps        2 of 2|--no-pack --valid 0.25");
    CHECK_MSG(!strstr(r.out, "--target") && !strstr(r.out, "--more"), "%s", r.out);
    ran_free(&r);
    test_case("an adapter on another file than its own is warned about");
    r = run(NULL, "hlm-bench -m " TINY "model.gguf --lora %s -p 8 -n 0 -r 1", a);
    CHECK_EQ(r.rc, 0);
    CHECK_MSG(!strstr(r.err, "another file"), "%s", r.err);
    r = run(NULL, "hlm-bench -m " TINY "model-q8_0.gguf --lora %s -p 8 -n 0 -r 1", a);
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "warning|int-a.gguf|trained on another file than|model-q8_0.gguf");
    ran_free(&r);
    r = run(NULL, "hlm-bench -m " TINY "model-q8_0.gguf --lora %s -p 8 -n 0 -r 1 --force", a);
    CHECK_EQ(r.rc, 0);
    CHECK_MSG(!strstr(r.err, "another file"), "%s", r.err);
    ran_free(&r);
    unsetenv("SOURCE_DATE_EPOCH");
}

void test_tune_run(void)
{
    struct hlm_err err = { 0 };
    if (!test_gpu())
        return;
    uint64_t all = test_plan();
    if (all)
        test_budget(all);
    test_packed_budget();
    test_case("a model to train");
    hlm *m = open_model(false, 0, &err);
    if (CHECK_MSG(m, "%s", err.msg)) {
        const char *folder = scratch("tune-saved");
        make_folder(scratch("three"));
        test_resume(m, folder);
        test_refused(m, folder);
        test_session_beside(m);
        test_session_across(m);
        test_best(m);
        test_progress(m);
        test_full(m);
    }
    hlm_test_close(m);
    test_ids_json();
    test_layer_log();
    test_patience();
    test_best_of_three();
    setenv("SOURCE_DATE_EPOCH", "1790000000", 1); /* adapters say the day: it may end meanwhile */
    test_interrupt();
    test_longer();
    test_past();
    unsetenv("SOURCE_DATE_EPOCH");
}
