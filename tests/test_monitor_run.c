/* test_monitor_run: what the monitor knows of a run - figures of rings and logs, series, progress,
 * what is unusual - and that nothing which a ring or a log may hold gets past its checks. */
#include "monitor/run.h"
#include "monitor_fake.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct run_point *point_at(const struct run *r, enum run_series_id id, double t)
{
    const struct run_series *s = &r->series[id];
    for (uint32_t i = 0; i < s->n; i++)
        if (fabs(s->p[i].t - t) < 1e-6)
            return &s->p[i];
    return NULL;
}

static bool near(double a, double b) { return fabs(a - b) <= 1e-5 * fmax(fabs(a), fabs(b)); }

/* Is there a notice of this level that says these parts? */
static bool notes(const struct run *r, enum run_level level, const char *parts)
{
    struct run_notice n[RUN_MAX_NOTICE];
    uint32_t count = run_notices(r, n);
    bool found = false;
    for (uint32_t i = 0; i < count; i++) {
        found |= n[i].level == level && test_has(n[i].text, parts);
        CHECK(i == 0 || n[i - 1].level >= n[i].level);
    }
    return found;
}

static void test_live(void)
{
    char text[128];
    test_case("a chat: who it is, what it does, its speeds over time");
    struct run *r = fake_chat();
    CHECK_STR(r->program, "hlm-chat");
    CHECK_STR(r->model, "Qwen3.5-0.8B");
    CHECK_EQ(r->pid, 4711);
    CHECK_EQ(r->life, RUN_ALIVE);
    CHECK_STR(run_state_word(r), "generating");
    run_headline(r, text, sizeof text);
    CHECK_SAYS(text, "generating|2548|8192");
    CHECK(near(r->t, 40));
    CHECK(near(run_newest(r, SERIES_GEN), FAKE_GEN_S));
    CHECK_EQ(run_newest(r, SERIES_READ), 0);
    const struct run_point *p = point_at(r, SERIES_READ, 14);
    CHECK(p && fabs((double)p->v - FAKE_READ_S) < 0.5); /* whole tokens */
    p = point_at(r, SERIES_GEN, 14);
    CHECK(p && p->v == 0);
    CHECK_EQ(run_newest(r, SERIES_CONTEXT), 2548);
    CHECK_EQ(r->n_device, 1);
    CHECK_STR(r->device[0].purpose[0].name, "weights");
    CHECK_EQ(r->device[0].real, 1156ull << 20);
    CHECK_STR(r->device[0].purpose[3].name, "scratch");
    CHECK_EQ(r->device[0].purpose[3].plan, 160u << 20);
    CHECK_EQ(r->device[0].budget, 15ull << 30);
    CHECK_EQ(r->device[0].left, 13ull << 30);
    CHECK(r->n_snapshot == 9 && r->n_snapshot_max == 26);
    CHECK_EQ(run_newest(r, SERIES_MEMORY), 1156ull << 20);
    struct run_notice n[RUN_MAX_NOTICE];
    CHECK_EQ(run_notices(r, n), 0);
    run_destroy(r);
}

static void test_silence(void)
{
    test_case("no word of the engine is one long submission, no sample is a dead process");
    static struct ring_sample s;
    struct run *r = fake_chat();
    s.c.state = HLM_READING;
    s.c.total = 100;
    s.c.done = 20;
    s.count_s = s.time_s = FAKE_CLOCK_S + 1;
    run_take_sample(r, &s, 0);
    s.time_s = FAKE_CLOCK_S + 9;
    run_take_sample(r, &s, 0);
    run_tick(r, FAKE_CLOCK_S + 9.2);
    CHECK(notes(r, RUN_WARN, "nothing|8.2 s|submission"));
    CHECK(!notes(r, RUN_BAD, "no sample"));
    run_tick(r, FAKE_CLOCK_S + 14);
    CHECK(notes(r, RUN_BAD, "no sample|5.0 s"));
    s.c.state = HLM_IDLE;
    s.time_s = s.count_s = FAKE_CLOCK_S + 15;
    run_take_sample(r, &s, 0);
    run_tick(r, FAKE_CLOCK_S + 90);
    CHECK(!notes(r, RUN_BAD, "no sample") && !notes(r, RUN_WARN, "submission"));
    CHECK(near(r->t, 130));
    run_end(r, RUN_DIED);
    CHECK(notes(r, RUN_BAD, "gone"));
    CHECK_STR(run_state_word(r), "died");
    run_destroy(r);
}

static void test_short(void)
{
    if (!test_case("the speed of an answer is its mean, not what its first token looked like"))
        return;
    struct run *r = run_create();
    struct ring_sample s = { .time_s = 100, .count_s = 100 };
    struct ring_head head = { .pid = 1 };
    run_is_ring(r, &head, 100);
    static const struct {
        double t, per_s;
        uint32_t state;
        uint64_t n_gen;
    } row[] = { { 100, 0, HLM_IDLE, 0 },         { 101, 4000, HLM_GENERATING, 1 },
                { 101.1, 134, HLM_IDLE, 12 },    { 103, 5000, HLM_GENERATING, 13 },
                { 105, 10, HLM_GENERATING, 33 }, { 105.5, 10, HLM_IDLE, 38 } };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        s.number = i;
        s.time_s = s.count_s = row[i].t;
        s.c.state = row[i].state;
        s.c.n_gen = row[i].n_gen;
        s.c.gen_per_s = row[i].per_s;
        run_take_sample(r, &s, 0);
    }
    const struct run_series *of = &r->series[SERIES_GEN];
    float short_one = 0, long_one = 0;
    for (uint32_t i = 0; i < of->n; i++)
        if (of->p[i].t < 2)
            short_one = of->p[i].v > short_one ? of->p[i].v : short_one;
        else
            long_one = of->p[i].v > long_one ? of->p[i].v : long_one;
    CHECK_EQ((int)short_one, 134);
    CHECK_EQ((int)long_one, 10);
    run_destroy(r);
}

static void test_progress(void)
{
    test_case("time left follows from what was done in this piece of work");
    static struct ring_sample s;
    struct run *r = fake_idle();
    s.c.state = HLM_LOADING;
    s.c.total = 1000;
    for (uint32_t i = 0; i <= 4; i++) { /* 100 a second: 600 are left after 4 s */
        s.c.done = 100 * i;
        s.time_s = s.count_s = FAKE_CLOCK_S + i;
        run_take_sample(r, &s, 0);
    }
    CHECK(near(r->part, 0.4));
    CHECK_MSG(near(r->left_s, 6), "%g s", r->left_s);
    s.c.state = HLM_READING;
    s.c.done = 0;
    run_take_sample(r, &s, 0);
    CHECK(r->part == 0 && r->left_s < 0);
    run_destroy(r);
}

static void test_training(void)
{
    test_case("a training's log: series, best validation, answers, checkpoints, settings");
    struct run *r = fake_train(200, 1);
    CHECK_EQ(r->n_skipped, 0);
    CHECK_STR(r->program, "hlm-tune");
    CHECK_STR(r->version, "0.2.0");
    CHECK_EQ(r->now.step, 200);
    CHECK_EQ(r->now.n_step, 250);
    CHECK_EQ(r->series[SERIES_LOSS].n, 200);
    for (uint32_t i = 0; i < r->series[SERIES_LOSS].n; i++) {
        const struct run_point *p = &r->series[SERIES_LOSS].p[i];
        if (!CHECK(p->step == i + 1 && near((double)p->v, fake_loss(i + 1, 1))))
            break;
    }
    CHECK(near(run_newest(r, SERIES_NORM), fake_norm(200)));
    CHECK(near(run_newest(r, SERIES_RATE), fake_rate(200, 1)));
    CHECK_EQ(r->n_valid, 10);
    CHECK_EQ(r->best_step, 120);
    CHECK(near(r->best_valid, fake_valid(120, 1)));
    CHECK(notes(r, RUN_NOTE, "validation|120"));
    CHECK_EQ(r->n_answer, 10);
    CHECK_STR(r->answer[9].text, "I am the answer of step 200.");
    CHECK_EQ(r->n_saved, 5);
    CHECK_EQ(r->saved[4].step, 200);
    CHECK(near(r->part, 0.8) && near(r->left_s, 50));
    CHECK_EQ(r->device[0].budget, 16ull << 30);
    bool lr = false;
    for (uint32_t i = 0; i < r->n_setting; i++)
        lr |= !strcmp(r->setting[i].name, "--lr") && !strcmp(r->setting[i].value, "0.0004");
    CHECK(lr);
    run_destroy(r);
}

/* A thinned series still shows all of the run, its peaks, and its newest points one by one. */
static void test_thinned(void)
{
    enum { N = 100000 };
    test_case("a series of %d points is thinned out, and keeps its mean and its peaks", N);
    static struct ring_sample s;
    struct run *r = fake_idle();
    s.c.n_step = N;
    s.c.state = HLM_TRAINING;
    for (uint32_t i = 1; i <= N; i++) {
        s.c.step = i;
        s.c.loss = i == 777 ? 50 : 1 + i % 2;
        s.time_s = s.count_s = FAKE_CLOCK_S + 0.1 * i;
        run_take_sample(r, &s, 0);
    }
    const struct run_series *l = &r->series[SERIES_LOSS];
    CHECK_MSG(l->n <= SERIES_MAX && l->n > SERIES_MAX / 3, "%u points", l->n);
    uint64_t n = 0;
    double sum = 0, most = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        const struct run_point *p = &l->p[i];
        n += p->n_point;
        sum += p->n_point * (double)p->v;
        most = fmax(most, (double)p->hi);
        CHECK(i == 0 || p->t >= p[-1].t);
        CHECK(i + SERIES_FRESH < l->n || p->n_point == 1);
        CHECK(p->n_point <= l->stride);
    }
    CHECK_EQ(n, N);
    CHECK_EQ(most, 50);
    CHECK_MSG(fabs(sum / N - 1.5) < 0.001, "mean %g", sum / N);
    run_destroy(r);
}

static void test_mixture(void)
{
    test_case("a mixture model: loads of experts, dead ones, kernels");
    struct run *r = fake_mixture();
    CHECK_EQ(r->now.n_layer, FAKE_LAYERS);
    CHECK_EQ(r->now.n_kernel, FAKE_KERNELS);
    CHECK(near(run_expert_part(r, 7, 9), fake_bar(7, 9) / 255.0));
    CHECK_EQ(run_expert_part(r, 7, FAKE_EXPERTS), 0);
    CHECK_EQ(run_expert_part(r, FAKE_LAYERS, 0), 0);
    CHECK_EQ(run_n_dead(r, 5), 4);
    CHECK_EQ(run_n_dead(r, 6), 0);
    CHECK(notes(r, RUN_WARN, "4 experts|layer 5|4 of 64"));
    run_destroy(r);
}

/* What a ring says of a training that began before the monitor did. */
static void test_marks(void)
{
    static struct ring_sample s;
    test_case("a ring's answers, checkpoints and best validation");
    struct run *r = fake_idle();
    for (uint32_t i = 1; i <= 3; i++) {
        s.c = (struct hlm_counters){ .state = HLM_TRAINING, .n_step = 90, .step = 10 * i };
        s.c.n_sample = s.c.n_saved = i;
        s.c.sample_step = s.c.saved_step = 10 * i;
        s.c.valid_loss = 3 - 0.1 * i;
        s.c.n_valid = 7 + i;
        s.c.best_step = 5;
        s.c.best_loss = 2.5;
        s.c.clip_norm = 1;
        snprintf(s.c.sample_prompt, sizeof s.c.sample_prompt, "Who?");
        snprintf(s.c.sample_text, sizeof s.c.sample_text, "two\nlines, %u", i);
        for (uint32_t k = 0; k < 2; k++) { /* the same again is no other */
            s.time_s = s.count_s = FAKE_CLOCK_S + i + 0.25 * k;
            run_take_sample(r, &s, 0);
        }
    }
    CHECK_EQ(r->n_answer, 3);
    CHECK_STR(r->answer[2].text, "two\nlines, 3");
    CHECK_EQ(r->answer[1].step, 20);
    CHECK_EQ(r->n_saved, 3);
    CHECK_EQ(r->saved[0].step, 10);
    CHECK_EQ(r->series[SERIES_VALID].n, 3);
    CHECK_EQ(r->n_valid, 10);
    CHECK(r->best_step == 5 && near(r->best_valid, 2.5) && r->clip_norm == 1);
    run_destroy(r);
}

/* A log has memory only now and then: what is taken is a level that holds. */
static void test_memory_of_log(void)
{
    static const char line[] = "{\"event\":\"counters\",\"t\":%d,\"device_memory\":{\"budget\":900,"
                               "\"by\":[{\"purpose\":\"kv\",\"plan\":%d,\"real\":%d}]}}";
    static const int real[] = { 100, 300, 300, 200 };
    test_case("the memory of a log is a level that holds until other is known");
    struct run *r = run_create();
    for (uint32_t i = 0; i < ARRAY_LEN(real); i++) {
        char text[300];
        int n = snprintf(text, sizeof text, line, 10 * (int)i, real[i], real[i]);
        CHECK(run_take_line(r, text, (uint64_t)n));
    }
    const struct run_series *s = &r->series[SERIES_MEMORY];
    static const float want[][2] = { { 0, 100 },  { 10, 100 }, { 10, 300 },
                                     { 20, 300 }, { 30, 300 }, { 30, 200 } };
    CHECK_EQ(s->n, ARRAY_LEN(want));
    for (uint32_t i = 0; i < s->n && i < ARRAY_LEN(want); i++)
        CHECK_MSG((float)s->p[i].t == want[i][0] && s->p[i].v == want[i][1], "%u: %g at %g", i,
                  (double)s->p[i].v, (double)s->p[i].t);
    static const char timed[] =
        "{\"event\":\"counters\",\"t\":40,\"layers\":[{\"layer\":1,\"us\":5.5}]}";
    CHECK(run_take_line(r, timed, sizeof timed - 1));
    CHECK(r->now.n_layer == 2 && r->now.layer[1].us == 5.5f);
    run_destroy(r);
}

static void test_unusual(void)
{
    static struct ring_sample s;
    test_case("what is unusual, in words");
    struct run *r = fake_idle();
    s.c = r->now;
    s.c.n_reread = 512;
    s.c.n_evicted = 3;
    snprintf(s.c.why, sizeof s.c.why, "the system message changed");
    s.c.n_error = 2;
    s.c.n_validation = 1;
    s.c.n_layer = 4;
    s.c.layer[2].n_head = s.c.layer[2].n_state = 1;
    s.c.layer[2].state_max = s.c.layer[2].state_rms = INFINITY;
    s.c.n_step = s.c.step = 3;
    s.c.loss = NAN;
    snprintf(s.c.error, sizeof s.c.error, "demo.gguf: disk full");
    s.time_s = s.count_s = FAKE_CLOCK_S;
    s.c.budget_bytes = 1200ull << 20;
    run_take_sample(r, &s, 0);
    CHECK(notes(r, RUN_WARN, "512 tokens|again|system message changed"));
    CHECK(notes(r, RUN_NOTE, "3 snapshots|evicted"));
    CHECK(notes(r, RUN_BAD, "disk full|2 errors"));
    CHECK(notes(r, RUN_BAD, "1 message|validation layer"));
    CHECK(notes(r, RUN_BAD, "layer 2|finite"));
    CHECK(notes(r, RUN_BAD, "loss|step 3|finite"));
    CHECK(notes(r, RUN_WARN, "96 %|budget|1.1 GiB|1.2 GiB"));
    CHECK_EQ(r->now.layer[2].state_max, 0);
    run_destroy(r);
}

/* ---- sources that lie ------------------------------------------------------------------------ */

static bool sound_series(const struct run *r)
{
    bool ok = true;
    for (uint32_t i = 0; i < N_SERIES; i++)
        for (uint32_t k = 0; k < r->series[i].n; k++) {
            const struct run_point *p = &r->series[i].p[k], *was = k ? p - 1 : p;
            ok &= isfinite(p->t) && isfinite(p->step) && isfinite(p->v) && p->lo >= 0 &&
                  p->lo <= p->v * 1.001f && p->v <= p->hi * 1.001f && isfinite(p->hi) &&
                  p->t >= was->t && p->step >= was->step;
        }
    return ok;
}

static bool sound_text(const char *s, uint64_t size)
{
    uint64_t n = 0;
    while (n < size && s[n])
        n++;
    for (uint64_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < ' ' || s[i] == 0x7f)
            return false;
    return n < size;
}

static bool sound_figures(const struct run *r)
{
    const struct hlm_counters *c = &r->now;
    bool ok = c->state <= HLM_VALIDATING && c->n_kernel <= HLM_MAX_COUNTED &&
              c->n_layer <= HLM_MAX_LAYER && c->done <= c->total && c->step <= c->n_step &&
              c->n_used <= c->n_ctx && r->part <= 1 && isfinite(r->left_s) && isfinite(r->t) &&
              isfinite(r->silent_s) && isfinite(c->loss) && isfinite(c->gen_per_s) &&
              c->gen_per_s >= 0 && c->weight_bytes <= 1000000000000000000u;
    for (uint32_t i = 0; i < r->n_device; i++)
        ok &= r->device[i].n_purpose <= RUN_MAX_PURPOSE &&
              r->device[i].real <= RUN_MAX_PURPOSE * 1000000000000000000u;
    for (uint32_t i = 0; i < r->n_answer; i++)
        ok &= strlen(r->answer[i].text) <= 4096;
    ok &= sound_text(c->model, sizeof c->model) && sound_text(c->error, sizeof c->error) &&
          sound_text(r->program, sizeof r->program);
    for (uint32_t i = 0; i < c->n_kernel; i++)
        ok &= isfinite(c->kernel[i].us) && c->kernel[i].us >= 0 &&
              sound_text(c->kernel[i].name, sizeof c->kernel[i].name);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const struct hlm_layer_count *l = &c->layer[i];
        ok &= l->bar_at <= HLM_MAX_BAR && l->n_expert <= HLM_MAX_BAR - l->bar_at && l->decay >= 0 &&
              l->decay <= 1 && isfinite(l->state_max) && l->load_even <= 1 && l->us >= 0 &&
              isfinite(l->us);
    }
    return ok;
}

static void test_lying(void)
{
    enum { SEEDS = 100, SAMPLES = 100 };
    test_case("%d samples of nonsense, seeded: all that is shown is in range", SEEDS * SAMPLES);
    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        char text[128];
        struct run_notice n[RUN_MAX_NOTICE];
        struct run *r = fake_lying(seed, SAMPLES);
        run_tick(r, FAKE_CLOCK_S);
        bool ok = CHECK_MSG(sound_figures(r), "figures, seed %u", seed) &&
                  CHECK_MSG(sound_series(r), "series, seed %u", seed);
        run_headline(r, text, sizeof text);
        for (uint32_t i = run_notices(r, n); i-- > 0;)
            ok &= CHECK(sound_text(n[i].text, sizeof n[i].text));
        for (uint32_t i = 0; i < HLM_MAX_LAYER + 2; i++)
            ok &= CHECK(run_expert_part(r, i, seed * 7) <= 1 && run_n_dead(r, i) <= HLM_MAX_BAR);
        run_destroy(r);
        if (!ok)
            return;
    }
}

static void test_lines_refused(void)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "7",
        "{\"event\":7,\"t\":1}",
        "{\"event\":\"step\"}",
        "{\"event\":\"step\",\"t\":-1,\"step\":9,\"loss\":1}",
        "{\"event\":\"step\",\"t\":1e300,\"step\":9,\"loss\":1}",
        "{\"event\":\"step\",\"t\":\"1\",\"step\":9,\"loss\":1}",
        "{\"event\":\"step\",\"t\":1,\"step\":\"9\",\"loss\":1}",
        "{\"event\":\"step\",\"t\":1,\"step\":-9,\"loss\":1}",
        "{\"event\":\"step\",\"t\":1,\"step\":9,\"loss\":[1]}",
        "{\"event\":\"step\",\"t\":1,\"step\":9,\"loss\":1,\"lr\":1",
        "{\"event\":\"valid\",\"t\":1,\"step\":9}",
        "{\"event\":\"valid\",\"t\":1,\"step\":9,\"valid_loss\":-1}",
        "{\"event\":\"sample\",\"t\":1,\"step\":9,\"prompt\":null,\"text\":\"a\"}",
        "{\"event\":\"saved\",\"t\":1,\"step\":9,\"folder\":3}",
        "{\"event\":\"start\",\"t\":1,\"flags\":{\"--lr\":3}}",
        "{\"event\":\"end\",\"t\":1,\"exit\":-4}",
        "{\"event\":\"counters\",\"t\":1,\"memory\":[]}",
        "{\"event\":\"counters\",\"t\":1,\"read\":\"many\"}",
        "{\"event\":\"counters\",\"t\":1,\"kernels\":[4]}",
        "{\"event\":\"counters\",\"t\":1,\"kernels\":[{\"name\":4}]}",
        "{\"event\":\"counters\",\"t\":1,\"layers\":[{\"layer\":0,\"experts\":{\"load\":[null]}}]}",
        "{\"event\":\"counters\",\"t\":1,\"layers\":[{\"layer\":-3}]}",
        "{\"event\":\"counters\",\"t\":1,\"training\":{\"loss\":\"low\"}}",
        "\xff\xfe",
    };
    test_case("lines that are cut, no JSON or of other types are skipped, counted, change nothing");
    struct run *r = fake_train(10, 0);
    struct hlm_counters before = r->now;
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        CHECK_MSG(!run_take_line(r, bad[i], strlen(bad[i])), "taken: %s", bad[i]);
        CHECK_EQ(r->n_skipped, i + 1);
    }
    CHECK(memcmp(&before, &r->now, sizeof before) == 0);
    CHECK_EQ(r->life, RUN_ALIVE);
    CHECK(notes(r, RUN_NOTE, "lines|understood"));
    static const char unknown[] = "{\"event\":\"of tomorrow\",\"t\":2,\"step\":[]}";
    CHECK(run_take_line(r, unknown, sizeof unknown - 1));
    run_destroy(r);
}

/* A line of each event, with single bytes changed, then cut. */
static void test_lines_changed(void)
{
    static const char *const whole[] = {
        "{\"event\":\"step\",\"t\":1,\"step\":9,\"loss\":1.5,\"loss_mtp\":null,\"lr\":1e-4}",
        "{\"event\":\"counters\",\"t\":3,\"state\":\"reading\",\"memory\":{\"kv\":5},\"layers\":"
        "[{\"layer\":1,\"experts\":{\"chosen\":9,\"load\":[1,2,3]},\"gates\":{\"heads\":2,"
        "\"decay\":0.5},\"state\":{\"rms\":1,\"max\":2,\"finite\":true}}]}",
        "{\"event\":\"turn\",\"t\":9,\"read_s\":1,\"gen_s\":2,\"read\":3,\"why\":\"x\"}",
        "{\"event\":\"sample\",\"t\":1,\"step\":9,\"prompt\":\"p\",\"text\":\"\\u00e4\\n\"}",
    };
    struct rng rng = { 4 };
    test_case("lines with changed bytes: what is shown stays in range");
    struct run *r = fake_train(5, 0);
    for (uint32_t i = 0; i < 4000; i++) {
        char text[512];
        const char *from = whole[i % ARRAY_LEN(whole)];
        uint64_t n = strlen(from);
        memcpy(text, from, n);
        for (uint64_t k = rng_u64(&rng) % 3 + 1; k-- > 0;)
            text[rng_u64(&rng) % n] = (char)(i % 2 ? rng_u64(&rng) : '0' + rng_u64(&rng) % 10);
        run_take_line(r, text, i % 5 ? n : rng_u64(&rng) % n);
    }
    CHECK(r->n_skipped > 1000);
    CHECK(sound_figures(r));
    CHECK(sound_series(r));
    CHECK(r->n_answer <= RUN_MAX_ANSWER);
    run_destroy(r);
}

void test_monitor_run(void)
{
    test_live();
    test_silence();
    test_short();
    test_progress();
    test_training();
    test_thinned();
    test_mixture();
    test_marks();
    test_memory_of_log();
    test_unusual();
    test_lying();
    test_lines_refused();
    test_lines_changed();
}
