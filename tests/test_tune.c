/* test_tune: training runs without a device: learning rates, the order of training rows, the state
 * file of a checkpoint with everything that can be wrong with it, and folders that are complete or
 * absent whenever the process is killed or the disk is full. */
#define _POSIX_C_SOURCE 200809L
#include "train/tune.h"
#include "hlm_test.h"
#include "json.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- rates ----------------------------------------------------------------------------------- */

static struct hlm_train_options run_options(uint32_t batch_rows)
{
    struct hlm_train_options o = hlm_tune_defaults().train;
    o.batch_rows = batch_rows;
    o.lr = o.peak = 2e-4;
    o.final = 2e-5;
    return o;
}

static void test_rates(void)
{
    struct hlm_train_options o;
    struct hlm_err err = { 0 };
    test_case("rates of the reference's schedule");
    json_t *want = fixture_json("train/qwen35/expected.json");
    const json_t *steps = json_object_get(json_object_get(json_object_get(want, "runs"), "sched"),
                                          "steps"),
                 *s;
    CHECK_OK(hlm_tune_options(fixture("train/qwen35/data-sched.json"), &o, &err), err);
    CHECK_EQ(o.total_steps, 20);
    CHECK_EQ(json_array_size(steps), 20);
    size_t i;
    json_array_foreach(steps, i, s) CHECK_MSG(
        fabs(hlm_tune_rate(&o, i + 1) / json_number_value(json_object_get(s, "lr")) - 1) < 1e-12,
        "step %zu: %.17g", i + 1, hlm_tune_rate(&o, i + 1));
    json_decref(want);

    test_case("rates of a run that is worked out");
    o = run_options(1);
    tune_schedule(&o, 3, 0.03, 100);
    CHECK_EQ(o.steps, 300);
    CHECK_EQ(o.warmup_steps, 9);
    CHECK(fabs(hlm_tune_rate(&o, 1) / 2e-5 - 1) < 1e-12);
    CHECK(fabs(hlm_tune_rate(&o, 10) / 2e-4 - 1) < 1e-12);
    CHECK(hlm_tune_rate(&o, 11) < 2e-4 && hlm_tune_rate(&o, 300) > 2e-5);
    CHECK(fabs(hlm_tune_rate(&o, 301) / 2e-5 - 1) < 1e-12);
    CHECK(fabs(hlm_tune_rate(&o, 900) / 2e-5 - 1) < 1e-12);
    o.schedule = HLM_LINEAR;
    CHECK(fabs(hlm_tune_rate(&o, 10 + 97) / (2e-5 + 1.8e-4 * (1 - 97.0 / 291)) - 1) < 1e-12);
    o.schedule = HLM_CONSTANT;
    CHECK(fabs(hlm_tune_rate(&o, 5) / 1e-4 - 1) < 1e-12 && hlm_tune_rate(&o, 200) == o.peak);

    o = run_options(3);
    o.accumulation = 2;
    tune_schedule(&o, 0.5, 0, 100);
    CHECK_EQ(o.steps, 9); /* 50 training rows in batches of 6 */
    CHECK_EQ(o.warmup_steps, 0);
    o = run_options(1);
    tune_schedule(&o, 1e-6, 1, 1);
    CHECK_EQ(o.steps, 1);
    CHECK(o.warmup_steps == 0 && hlm_tune_rate(&o, 1) == o.peak);
}

/* ---- what a run chooses ---------------------------------------------------------------------- */

#define SIZE(doc, tok, counted, seq, embd)                                                         \
    {                                                                                              \
        .n_doc = doc, .n_tok = tok, .n_counted = counted, .max_seq = seq, .n_embd = embd           \
    }

static void test_choices(void)
{
    const struct {
        const char *what;
        struct tune_size size;
        double given_epochs, epochs;
        uint32_t steps, batch_rows, want_rows;
    } row[] = {
        { "20 lines", SIZE(20, 500, 166, 2048, 4096), 0, 20, 0, 1, 5 },
        { "20 texts", SIZE(20, 500, 480, 2048, 4096), 0, 30, 0, 1, 4 },
        { "one line", SIZE(1, 30, 10, 2048, 4096), 0, 20, 0, 1, 1 },
        { "100 lines", SIZE(100, 10000, 3333, 2048, 4096), 0, 4, 0, 1, 25 },
        { "a million tokens", SIZE(5000, 1000000, 333333, 2048, 4096), 0, 3, 0, 1, 34 },
        { "ten million tokens", SIZE(50000, 10000000, 3333333, 2048, 4096), 0, 3, 0, 8, 267 },
        { "ten million, a row each", SIZE(50000, 10000000, 3333333, 0, 4096), 0, 3, 0, 8, 267 },
        { "passes are given", SIZE(20, 500, 166, 2048, 4096), 25, 25, 0, 1, 5 },
        { "steps are given", SIZE(20, 500, 166, 2048, 4096), 0, 0, 7, 1, 5 },
        { "steps are given, much data", SIZE(50000, 10000000, 3333333, 2048, 4096), 0, 0, 500, 8,
          267 },
        { "rows of ids", SIZE(0, 0, 0, 0, 0), 0, 3, 0, 1, 0 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hlm_train_options o = hlm_tune_defaults().train;
        double epochs = row[i].given_epochs;
        struct tune_chosen c;
        test_case("what a run chooses: %s", row[i].what);
        o.steps = row[i].steps;
        tune_choose(&row[i].size, &o, &epochs, &c);
        CHECK_MSG(!(epochs < row[i].epochs || epochs > row[i].epochs), "%g passes", epochs);
        CHECK_EQ(o.batch_rows, row[i].batch_rows);
        CHECK_EQ(c.want_rows, row[i].want_rows);
        CHECK(c.lr && c.batch_rows && c.epochs == (row[i].given_epochs <= 0 && !row[i].steps));
        CHECK(fabs(o.lr / (row[i].size.n_doc ? 2.855e-4 : 2e-4) - 1) < 1e-3);
        CHECK(o.peak == o.lr && fabs(o.final / o.lr - 0.1) < 1e-12);
    }
    test_case("what is given stays");
    struct hlm_train_options o = run_options(5);
    double epochs = 2;
    struct tune_chosen c;
    tune_choose(&row[0].size, &o, &epochs, &c);
    CHECK(!c.lr && !c.batch_rows && !c.epochs && o.batch_rows == 5);
    CHECK(fabs(o.lr - 2e-4) < 1e-12 && fabs(o.final - 2e-5) < 1e-12);
    test_case("the rate by the model's width");
    CHECK(fabs(tune_width_rate(2000) / 5e-4 - 1) < 1e-12);
    CHECK(tune_width_rate(4096) < 2.9e-4 && tune_width_rate(192) >= 5e-4 &&
          tune_width_rate(192) <= 5e-4);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* n documents of 1 to 7 ids; every id is the number of its document. */
static void make_set(struct data_set *s, uint32_t n)
{
    *s = (struct data_set){ .doc = test_room(n, sizeof *s->doc), .n_doc = n };
    s->ids = test_room(8ull * n, sizeof *s->ids);
    s->mask = test_room(8ull * n, 1);
    for (uint32_t i = 0; i < n; i++) {
        struct data_doc *d = &s->doc[i];
        *d = (struct data_doc){ .at = s->n_id, .n = 1 + i % 7, .n_counted = i % 7, .line = i };
        for (uint32_t k = 0; k < d->n; k++) {
            s->ids[s->n_id] = (int32_t)i;
            s->mask[s->n_id++] = k > 0;
        }
    }
}

/* Rows are about equally full, and never more than with the longest rows. */
static void test_row_length(void)
{
    enum { N = 600 };
    struct data_set set;
    struct data_rows r;
    struct hlm_err err = { 0 };
    uint32_t order[N];
    make_set(&set, N);
    uint64_t n_tok = set.n_id;
    for (uint32_t most = 32; most <= 4096; most = most * 3 / 2 + 1)
        for (uint32_t want = 0; want < 40; want += 13) {
            test_case("rows of at most %u tokens, at least %u of them", most, want);
            data_shuffle(order, N, most, want);
            uint32_t length = data_row_length(&set, order, most, want), at_most;
            CHECK_OK(data_pack(&r, &set, order, most, 0, &err), err);
            at_most = max_u32(r.n_row, want);
            data_rows_free(&r);
            CHECK_OK(data_pack(&r, &set, order, length, 0, &err), err);
            CHECK_MSG(r.n_row <= at_most, "%u rows of %u, at most %u", r.n_row, length, at_most);
            CHECK_MSG(length <= most && length < n_tok / at_most + 6 + 32, "rows of %u", length);
            CHECK(length == most || length % 32 == 0);
            data_rows_free(&r);
            if (length > 32) { /* shorter rows would be more */
                CHECK_OK(data_pack(&r, &set, order, (length - 1) / 32 * 32, 0, &err), err);
                CHECK(r.n_row > at_most);
                data_rows_free(&r);
            }
        }
    data_set_free(&set);
}

static void test_rows(void)
{
    enum { N = 41 };
    struct data_set set;
    struct hlm_err err = { 0 };
    struct extent e;
    make_set(&set, N);
    for (uint32_t shuffle = 0; shuffle < 2; shuffle++) {
        test_case("rows of three passes, %s", shuffle ? "shuffled" : "as they stand");
        struct stream a = { .set = &set, .row_length = 16, .seed = 5, .shuffle = shuffle }, b = a;
        struct cursor c = { 0 }, at;
        uint32_t seen[3][N] = { { 0 } }, n_row = 0;
        int32_t order[3] = { 0 };
        for (const struct data_row *r; (r = stream_row(&a, &c, &err)) && c.epoch < 3; c.i_row++) {
            if (!c.i_row)
                order[c.epoch] = r->ids[0];
            for (uint32_t k = 0; k < r->n_doc; k++)
                seen[c.epoch][r->document[k]]++;
            CHECK(r->n == 16 && r->n_doc > 0);
            at = c; /* any position can be reached at once */
            const struct data_row *same = stream_row(&b, &at, &err);
            CHECK(same && at.i_row == c.i_row && at.epoch == c.epoch &&
                  !memcmp(same->ids, r->ids, r->n * sizeof *r->ids));
            if (n_row++ % 3 == 0) { /* ... also from another pass over the data */
                stream_finish(&b);
                b = (struct stream){ .set = &set, .row_length = 16, .seed = 5, .shuffle = shuffle };
            }
        }
        for (uint32_t i = 0; i < 3 * N; i++)
            CHECK_EQ(seen[i / N][i % N], 1);
        CHECK((order[0] != order[1] || order[1] != order[2]) == shuffle);
        CHECK_OK(stream_extent(&a, n_row, &e, &err), err);
        CHECK(e.max_tok == 16 && e.max_doc >= 4 && e.max_doc < 16);
        stream_finish(&a);
        stream_finish(&b);
    }
    test_case("rows that are given go round");
    struct data_rows fixed;
    CHECK_OK(data_pack(&fixed, &set, NULL, 0, 0, &err), err);
    struct stream s = { .fixed = &fixed };
    struct cursor c = { 0, N - 1 };
    const struct data_row *r = stream_row(&s, &c, &err);
    CHECK(r == &fixed.row[N - 1]);
    c.i_row++;
    CHECK(stream_row(&s, &c, &err) == &fixed.row[0] && c.epoch == 1 && c.i_row == 0);
    CHECK_OK(stream_extent(&s, 1u << 30, &e, &err), err);
    CHECK(e.max_tok == 7 && e.max_doc == 1);
    stream_finish(&s);
    data_rows_free(&fixed);
    data_set_free(&set);
}

/* ---- the state file -------------------------------------------------------------------------- */

enum { N_PARAM = 3 };
static const struct state_param params[N_PARAM] = {
    { "blk.0.ffn_up.weight.lora_a", 12 },
    { "blk.0.ffn_up.weight.lora_b", 20 },
    { "blk.0.ssm_a.delta", 5 },
};
struct numbers {
    float v[5][N_PARAM][20];
}; /* by enum train_what */

static bool get(void *user, enum train_what what, uint64_t i, float *to, struct hlm_err *err)
{
    const struct numbers *x = user;
    (void)err;
    memcpy(to, x->v[what][i], params[i].n * sizeof *to);
    return true;
}

static bool put(void *user, enum train_what what, uint64_t i, const float *from,
                struct hlm_err *err)
{
    struct numbers *x = user;
    (void)err;
    memcpy(x->v[what][i], from, params[i].n * sizeof *from);
    return true;
}

static void fill(struct numbers *x, uint64_t seed)
{
    struct rng r = { seed };
    for (uint32_t i = 0; i < sizeof x->v / sizeof(float); i++)
        (&x->v[0][0][0])[i] = (float)rng_normal(&r);
}

static struct state_want want_of(struct numbers *x, uint64_t step)
{
    struct state_want w = { .param = params, .get = get, .put = put, .user = x };
    w.head = (struct state_head){
        .n_param = N_PARAM,
        .model_hash = { 1, 2 },
        .data_hash = { 3, 4 },
        .options = { .seed = 7, .steps = 9, .batch_rows = 1, .lr = 2e-4, .clip_norm = 1 },
        .position = { .step = step, .epoch = 1, .i_row = 3, .best_loss = 2.5 },
        .arch = "qwen35",
        .name = "a model",
        .device = "a device",
    };
    return w;
}

static bool same_numbers(const struct numbers *a, const struct numbers *b)
{
    static const enum train_what kept[] = { TRAIN_DEVICE, TRAIN_M, TRAIN_V };
    for (uint32_t k = 0; k < ARRAY_LEN(kept); k++)
        for (uint32_t i = 0; i < N_PARAM; i++)
            if (memcmp(a->v[kept[k]][i], b->v[kept[k]][i], params[i].n * 4))
                return false;
    return true;
}

/* Reads all of these bytes as a state file. */
static bool state_takes(const uint8_t *p, uint64_t n, const struct state_want *w,
                        struct hlm_err *err)
{
    struct file_in f = { .path = "x/state.bin", .mem = p, .bytes = n };
    struct state_head head;
    *err = (struct hlm_err){ 0 };
    bool ok = state_check(&f, w, &head, err) && state_read(&f, w, true, err);
    CHECK_MSG(ok == !err->kind, "%s", err->msg);
    CHECK_MSG(ok || (!strncmp(err->msg, "x/state.bin: ", 13) && !strchr(err->msg, '\n')), "%s",
              err->msg);
    return ok;
}

/* A state of another run is refused, and the message names the difference. */
static void test_other_runs(const uint8_t *p, uint64_t n)
{
    struct numbers x;
    const struct state_want w = want_of(&x, 0);
    struct hlm_err err;
    /* clang-format off */
    struct { const char *says; struct state_want w; } rows[] = {
        { "another model", w }, { "another model|a model (qwen35)|b (qwen35)", w },
        { "seed|7|8", w }, { "lr|0.0002|0.0003", w },
        { "has done 4 steps|at most 3", w }, { "other data", w },
        { "3 tensors|2", w },
        { "blk.0.ssm_a.delta|5|blk.0.ssm_a.delta|6", w },
    };
    /* clang-format on */
    struct state_param other[N_PARAM];
    memcpy(other, params, sizeof other);
    other[2].n = 6;
    rows[0].w.head.model_hash[1] = 9;
    rows[1].w.head.model_hash[0] = 9;
    memcpy(rows[1].w.head.name, "b", 2);
    rows[2].w.head.options.seed = 8;
    rows[3].w.head.options.lr = 3e-4;
    rows[4].w.head.options.steps = 3;
    rows[5].w.head.data_hash[0] = 9;
    rows[6].w.head.n_param = 2;
    rows[7].w.param = other;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("a state of another run: %s", rows[i].says);
        CHECK_REFUSED(state_takes(p, n, &rows[i].w, &err), err, rows[i].says);
    }
    test_case("a run may be made longer");
    struct state_want longer = w;
    longer.head.options.steps = longer.head.options.total_steps = 90;
    CHECK_OK(state_takes(p, n, &longer, &err), err);
}

static void test_state(void)
{
    struct numbers x, y = { 0 };
    struct hlm_err err = { 0 };
    const char *path = test_scratch("state.bin");
    uint64_t n = 0;
    test_case("a state comes back");
    fill(&x, 1);
    struct state_want w = want_of(&x, 4), into = want_of(&y, 0);
    CHECK_OK(state_write(path, &w, &err), err);
    uint8_t *p = (uint8_t *)file_read(path, 1 << 20, &n, &err), *broken = test_room(n, 1);
    CHECK_MSG(p && state_takes(p, n, &into, &err), "%s", err.msg);
    CHECK(same_numbers(&x, &y));
    test_other_runs(p, n);

    test_case("a state that is cut short or damaged");
    for (uint64_t i = 0; i < n; i += 1 + i / 40)
        CHECK(!state_takes(p, i, &into, &err));
    for (uint64_t i = 0; i < 8 * n; i += 1 + i / 300) {
        memcpy(broken, p, n);
        broken[i / 8] ^= (uint8_t)(1 << i % 8);
        CHECK_MSG(!state_takes(broken, n, &into, &err), "bit %llu", (unsigned long long)i);
    }
    test_case("a state that nobody wrote");
    memcpy(broken, p, n);
    memcpy(broken, "GGUF", 4);
    CHECK_REFUSED(state_takes(broken, n, &into, &err), err, "not a checkpoint");
    memcpy(broken, p, n);
    broken[8] = 9;
    CHECK_REFUSED(state_takes(broken, n, &into, &err), err, "version|9|2");
    free(broken);
    free(p);
}

/* ---- folders --------------------------------------------------------------------------------- */

/* Saves the two files of a checkpoint as hlm_tune_save does. */
static bool save(const char *folder, struct numbers *x, uint64_t step, struct hlm_err *err)
{
    char name[32];
    struct folder_out f = { 0 };
    struct state_want w = want_of(x, step);
    snprintf(name, sizeof name, "step-%06llu", (unsigned long long)step);
    char *path = folder_path(folder, name), *state, *adapter;
    bool ok = folder_make(folder, err) && folder_begin(&f, path, err);
    state = ok ? folder_path(f.tmp, "state.bin") : NULL;
    adapter = ok ? folder_path(f.tmp, "adapter.gguf") : NULL;
    ok = ok && file_write_atomic(adapter, x, sizeof *x, err) && state_write(state, &w, err);
    if (ok)
        ok = folder_end(&f, err);
    else
        folder_drop(&f);
    free(adapter);
    free(state);
    free(path);
    return ok;
}

static bool good(const char *folder, uint64_t step)
{
    char path[256];
    struct numbers want, have = { 0 };
    struct state_want w = want_of(&have, 0);
    struct state_head head;
    struct file_in f;
    struct hlm_err err = { 0 };
    snprintf(path, sizeof path, "%s/step-%06llu/state.bin", folder, (unsigned long long)step);
    if (!file_in_open(&f, path, NULL))
        return false;
    fill(&want, step);
    bool ok = CHECK_OK(state_check(&f, &w, &head, &err) && state_read(&f, &w, true, &err), err) &&
              CHECK(head.position.step == step && same_numbers(&want, &have));
    file_in_close(&f);
    snprintf(path, sizeof path, "%s/step-%06llu/adapter.gguf", folder, (unsigned long long)step);
    uint64_t n = 0;
    char *bytes = file_read(path, 1 << 20, &n, &err);
    ok = CHECK(bytes && n == sizeof want && !memcmp(bytes, &want, n)) && ok;
    free(bytes);
    return ok;
}

struct rest {
    uint32_t n_tmp, n_step;
};
static void count(void *user, const char *name)
{
    struct rest *r = user;
    r->n_tmp += test_has_tail(name, ".tmp");
    r->n_step += !strncmp(name, "step-", 5) && !test_has_tail(name, ".tmp");
}

/* Runs in a child that is killed at the nth call that writes a file. It saves step 1, saves step 2,
 * and removes step 1. True: it reached its end. */
static bool save_until(const char *folder, uint32_t nth)
{
    pid_t pid = fork();
    if (!pid) {
        struct numbers x;
        char one[256];
        snprintf(one, sizeof one, "%s/step-000001", folder);
        fill(&x, 2);
        file_test_kill(nth);
        bool ok = save(folder, &x, 2, NULL) && folder_remove(one);
        raise(ok ? SIGUSR1 : SIGUSR2);
    }
    int status = 0;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGUSR1);
    return WTERMSIG(status) == SIGUSR1;
}

static void test_kill(void)
{
    bool done = false;
    struct numbers x;
    struct hlm_err err = { 0 };
    uint32_t n_first = 0, n_both = 0, n_second = 0, nth = 0;
    test_case("killed at every write, sync, rename and removal: a good checkpoint is there");
    while (!done && nth < 200) {
        char name[32];
        snprintf(name, sizeof name, "kill-%u", ++nth);
        const char *folder = test_scratch(name);
        fill(&x, 1);
        CHECK_OK(save(folder, &x, 1, &err), err);
        done = save_until(folder, nth);
        bool one = good(folder, 1), two = good(folder, 2);
        struct rest r = { 0 };
        CHECK_OK(folder_each(folder, count, &r, &err), err);
        CHECK_MSG(one || two, "killed at call %u: neither", nth);
        CHECK_EQ(r.n_step, one + two); /* only temporary files have such a name */
        CHECK_MSG(!done || (two && !one && !r.n_tmp), "not as it should be at the end");
        n_first += one && !two;
        n_both += one && two;
        n_second += !one && two;
    }
    CHECK_MSG(done && n_first >= 15 && n_both >= 1 && n_second >= 3, "%u, %u, %u of %u calls",
              n_first, n_both, n_second, nth);
}

static void test_full(void)
{
    bool done = false;
    struct numbers x;
    uint32_t nth = 0;
    test_case("a full disk at every call: the old checkpoint stands and nothing is left");
    const char *folder = test_scratch("full");
    struct hlm_err err = { 0 };
    fill(&x, 1);
    CHECK_OK(save(folder, &x, 1, &err), err);
    fill(&x, 2);
    while (!done && nth++ < 200) {
        struct rest r = { 0 };
        err = (struct hlm_err){ 0 };
        file_test_fault(nth, nth % 2);
        done = save(folder, &x, 2, &err);
        CHECK_MSG(done == (file_test_left() > 0), "call %u", nth);
        file_test_fault(0, false);
        CHECK_OK(folder_each(folder, count, &r, NULL), err);
        CHECK(good(folder, 1) && good(folder, 2) == done && r.n_step == 1u + done && !r.n_tmp);
        if (!done)
            CHECK_SAYS(err.msg, "full/step-000002|No space left");
    }
    CHECK_MSG(done && nth > 10, "%u calls", nth);
}

void test_tune(void)
{
    test_rates();
    test_choices();
    test_row_length();
    test_rows();
    test_state();
    test_kill();
    test_full();
}
