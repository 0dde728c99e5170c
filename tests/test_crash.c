/* test_crash: a training run that is killed - at calls that write files, and at random instants -
 * and resumed ends with the adapter of a run that was not killed. Here at a few of all the places;
 * `make crash` takes every one of them, and ten instants. */
#define _POSIX_C_SOURCE 200809L
#include "crash.h"
#include "run.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

enum { N_STEP = 3, FAR = 1 << 30 };

/* ---- the run that is killed ------------------------------------------------------------------ */

bool crash_run(const char *folder, void (*begun)(void *user), void *user, struct hlm_err *err)
{
    char out[256];
    struct hlm_tune_params p = hlm_tune_defaults();
    struct hlm_params open = { .model = "tests/fixtures/train/qwen35/model.gguf",
                               .dry = true,
                               .cache_dir = "build/cache",
                               .f32_only = true };
    snprintf(out, sizeof out, "%s.gguf", folder);
    p.data = "tests/fixtures/train/qwen35/data.jsonl";
    p.targets = "attn,ffn_down";
    p.read.max_seq = 96;
    p.read.valid = 0.25;
    p.no_pack = true;
    p.train.rank = 3; /* alpha / rank is not a power of two */
    p.train.steps = N_STEP;
    p.train.lora_dropout = 0.1;
    p.train.train_gates = true;
    p.resume = hlm_tune_has_saved(folder) ? folder : NULL;
    hlm *m = hlm_open(&open, err);
    hlm_tune *t = m ? hlm_tune_open(m, &p, err) : NULL;
    bool ok = t && hlm_load(m, err) && hlm_tune_begin(t, NULL, err);
    if (ok && begun)
        begun(user);
    while (ok && hlm_tune_get_info(t).step < N_STEP) {
        struct hlm_tune_step s;
        ok = hlm_tune_do_step(t, &s, err) && hlm_tune_save(t, folder, 1, err);
    }
    ok = ok && hlm_tune_write(t, out, err);
    uint32_t left = file_test_left();
    file_test_fault(0, false); /* the pipeline cache is not part of the run */
    hlm_tune_close(t);
    hlm_close(m);
    file_test_fault(left, false);
    return ok;
}

static void arm(void *user) { file_test_kill(*(const uint32_t *)user); }

int crash_child(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    char path[256], text[32];
    uint32_t nth = argc == 4 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    if (!nth || !crash_run(argv[2], arm, &nth, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    snprintf(path, sizeof path, "%s.calls", argv[2]);
    snprintf(text, sizeof text, "%u", nth - file_test_left());
    file_test_fault(0, false);
    return file_write_atomic(path, text, strlen(text), &err) ? 0 : 1;
}

/* ---- killing --------------------------------------------------------------------------------- */

static int child(const char *folder, uint32_t nth, double kill_s)
{
    char command[256];
    snprintf(command, sizeof command, "tests --crash-child %s %u", folder, nth);
    pid_t pid = start(command, "/dev/null", scratch("crash.out"), scratch("crash.err"));
    if (kill_s > 0) {
        struct timespec t = { (time_t)kill_s, (long)((kill_s - floor(kill_s)) * 1e9) };
        nanosleep(&t, NULL);
        kill(pid, SIGKILL);
    }
    return finish(pid);
}

static char *read_out(const char *folder, uint64_t *n)
{
    char path[256];
    struct hlm_err err = { 0 };
    snprintf(path, sizeof path, "%s.gguf", folder);
    char *bytes = file_read(path, 1 << 26, n, &err);
    CHECK_MSG(bytes, "%s", err.msg);
    return bytes;
}

struct whole {
    char *out;
    uint64_t n;
    uint32_t n_call;
    double took_s;
};

/* A run without interruption. */
static bool undisturbed(struct whole *w)
{
    const char *folder = test_scratch("crash-whole");
    char path[256];
    double t0 = now_s();
    test_case("a training run that nobody disturbs");
    if (!CHECK_EQ(child(folder, FAR, 0), 0))
        return false;
    w->took_s = now_s() - t0;
    w->out = read_out(folder, &w->n);
    snprintf(path, sizeof path, "%s.calls", folder);
    char *calls = slurp(path);
    w->n_call = (uint32_t)strtoul(calls, NULL, 10);
    free(calls);
    return w->out && CHECK_MSG(w->n_call > 40 && w->n_call < 400, "%u calls", w->n_call);
}

/* A run that is killed, and then resumed to its end. */
static void disturbed(const struct whole *w, const char *name, uint32_t nth, double kill_s)
{
    const char *folder = test_scratch(name);
    uint64_t n = 0;
    int rc = child(folder, nth, kill_s);
    CHECK_MSG(rc == 128 + SIGKILL || (kill_s > 0 && rc == 0), "it ended with %d", rc);
    if (!CHECK_EQ(child(folder, FAR, 0), 0)) {
        char *say = slurp(scratch("crash.err"));
        FAIL("it does not go on: %s", say);
        free(say);
        return;
    }
    char *out = read_out(folder, &n);
    CHECK_MSG(out && n == w->n && !memcmp(out, w->out, n), "the adapter is another one");
    free(out);
}

void test_crash(void)
{
    struct whole w = { 0 };
    char name[32];
    if (!test_gpu())
        return;
    if (!undisturbed(&w)) {
        free(w.out);
        return;
    }
    uint32_t n = test_all() ? w.n_call : 4;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t nth = 1 + (uint32_t)((2ull * i + 1) * w.n_call / (2 * n));
        if (test_all())
            nth = i + 1;
        test_case("killed at call %u of %u", nth, w.n_call);
        snprintf(name, sizeof name, "crash-%u", nth);
        disturbed(&w, name, nth, 0);
    }
    struct rng r = { 20261121 };
    for (uint32_t i = 0; i < (test_all() ? 10 : 1); i++) {
        double s = w.took_s * (0.05 + 0.9 * rng_unit(&r));
        test_case("killed after %.2f s of %.2f", s, w.took_s);
        snprintf(name, sizeof name, "crash-at-%u", i);
        disturbed(&w, name, FAR, s);
    }
    free(w.out);
}
