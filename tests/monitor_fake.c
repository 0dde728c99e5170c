/* monitor_fake: see monitor_fake.h. */
#include "monitor_fake.h"
#include "base/base.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MIB (1024.0 * 1024.0)

/* ---- rings ----------------------------------------------------------------------------------- */

static struct run *ring_run(const char *program, double clock_s)
{
    struct ring_head head = { .pid = 4711, .start_unix = 1764556800 };
    struct run *r = run_create();
    HLM_ASSERT(r);
    snprintf(head.program, sizeof head.program, "%s", program);
    run_is_ring(r, &head, clock_s);
    return r;
}

static void model_of(struct hlm_counters *c, const char *model, const char *arch)
{
    snprintf(c->model, sizeof c->model, "%s", model);
    snprintf(c->arch, sizeof c->arch, "%s", arch);
    snprintf(c->device, sizeof c->device, "Radeon RX 7800 XT");
    snprintf(c->driver, sizeof c->driver, "radv 24.1");
    c->weight_bytes = (uint64_t)(812 * MIB);
    c->kv_bytes = (uint64_t)(96 * MIB);
    c->state_bytes = (uint64_t)(19 * MIB);
    c->scratch_bytes = (uint64_t)(141 * MIB);
    c->snapshot_bytes = (uint64_t)(76 * MIB);
    c->other_bytes = (uint64_t)(12 * MIB);
    c->budget_bytes = 15ull << 30;
    c->heap_bytes = 16ull << 30;
    c->free_bytes = 13ull << 30;
    c->n_snapshot = 9;
    c->snapshot_max = 26;
    const struct {
        const char *purpose;
        uint64_t real, plan;
    } row[] = {
        { "weights", c->weight_bytes, 0 },     { "kv", c->kv_bytes, 0 },
        { "state", c->state_bytes, 0 },        { "scratch", c->scratch_bytes, 160u << 20 },
        { "snapshots", c->snapshot_bytes, 0 }, { "io", c->other_bytes, 0 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hlm_memory_count *p = &c->memory[c->n_memory++];
        p->real = row[i].real;
        p->plan = row[i].plan ? row[i].plan : row[i].real;
        snprintf(p->purpose, sizeof p->purpose, "%s", row[i].purpose);
    }
}

static void take(struct run *r, struct ring_sample *s, double time_s)
{
    s->time_s = s->count_s = time_s;
    run_take_sample(r, s, 0);
    s->number++;
}

struct run *fake_chat(void)
{
    enum { READ = 20, GEN = 100 };
    static struct ring_sample s;
    double begin_s = FAKE_CLOCK_S - 0.25 * (READ + GEN) - 10;
    struct run *r = ring_run("hlm-chat", begin_s);
    struct hlm_counters *c = &s.c;
    memset(&s, 0, sizeof s);
    model_of(c, "Qwen3.5-0.8B", "qwen35");
    c->n_ctx = 8192;
    take(r, &s, begin_s + 10);
    c->state = HLM_READING;
    c->total = 2048;
    for (uint32_t i = 1; i <= READ; i++) {
        c->n_read = c->done = 2048ull * i / READ;
        c->n_used = (uint32_t)c->n_read;
        c->read_s = 0.25 * i;
        c->read_per_s = FAKE_READ_S;
        take(r, &s, begin_s + 10 + 0.25 * i);
    }
    c->state = HLM_GENERATING;
    c->done = c->total = 0;
    for (uint32_t i = 1; i <= GEN; i++) {
        c->n_gen = 5ull * i;
        c->n_used = 2048 + 5 * i;
        c->gen_s = 0.25 * i;
        c->gen_per_s = FAKE_GEN_S;
        c->n_submit += 5;
        take(r, &s, begin_s + 10 + 0.25 * (READ + i));
    }
    return r;
}

struct run *fake_idle(void)
{
    static struct ring_sample s;
    struct run *r = ring_run("hlm-chat", FAKE_CLOCK_S - 4);
    memset(&s, 0, sizeof s);
    model_of(&s.c, "hlm-demo", "qwen35");
    s.c.n_ctx = 4096;
    take(r, &s, FAKE_CLOCK_S - 1);
    return r;
}

struct run *fake_ended(void)
{
    struct run *r = fake_chat();
    run_end(r, RUN_ENDED);
    return r;
}

struct run *fake_died(void)
{
    struct run *r = fake_chat();
    run_end(r, RUN_DIED);
    return r;
}

uint8_t fake_bar(uint32_t layer, uint32_t expert)
{
    if (layer == 5 && expert % 16 == 3)
        return 0;
    return (uint8_t)(expert == (7 * layer + 1) % FAKE_EXPERTS
                         ? 255
                         : 20 + (expert * 37 + layer * 11) % 200);
}

static void mixture_layer(struct hlm_counters *c, uint32_t i)
{
    struct hlm_layer_count *l = &c->layer[i];
    uint32_t sum = 0, unused = 0;
    l->us = 1000 * (float)(20 + i);
    l->n_expert = FAKE_EXPERTS;
    l->bar_at = i * FAKE_EXPERTS;
    for (uint32_t e = 0; e < FAKE_EXPERTS; e++) {
        c->bar[l->bar_at + e] = fake_bar(i, e);
        sum += fake_bar(i, e);
        unused += !fake_bar(i, e);
    }
    l->n_chosen = 200000;
    l->load_max = 255.0f / (float)sum;
    l->load_unused = (float)unused / FAKE_EXPERTS;
    l->load_even = 0.9f + 0.004f * (float)(i % 10);
    if (i % 4 == 3)
        return;
    l->n_head = 16;
    l->n_tok = 1;
    l->decay_min = 0.2f + 0.01f * (float)i;
    l->decay = 0.7f + 0.01f * (float)i;
    l->decay_max = 0.999f;
    l->write = 0.5f + 0.01f * (float)i;
    l->n_state = 16;
    l->state_rms = 0.1f + 0.05f * (float)i;
    l->state_max = 4 + (float)i;
}

struct run *fake_mixture(void)
{
    static const char *const kernel[FAKE_KERNELS] = {
        "moe_gate_up_q4_k", "moe_down_q6_k", "linear_q4_k", "delta_step", "attn",  "attn_merge",
        "rmsnorm",          "delta_conv",    "moe_route",   "sample",     "embed", "act",
        "attn_prep",        "moe_combine",
    };
    static struct ring_sample s;
    struct run *r = ring_run("hlm-chat", FAKE_CLOCK_S - 60);
    memset(&s, 0, sizeof s);
    struct hlm_counters *c = &s.c;
    model_of(c, "Qwen3.5-35B-A3B", "qwen35moe");
    c->n_ctx = 16384;
    c->state = HLM_GENERATING;
    c->n_layer = FAKE_LAYERS;
    for (uint32_t i = 0; i < FAKE_LAYERS; i++)
        mixture_layer(c, i);
    c->n_kernel = FAKE_KERNELS;
    for (uint32_t i = 0; i < FAKE_KERNELS; i++) {
        struct hlm_kernel_count *k = &c->kernel[i];
        *k = (struct hlm_kernel_count){ .n = 24000 - 1000 * i, .us = 4e6 / (1 + i * i) };
        k->bytes = (uint64_t)(k->us * (300 - 15.0 * i) * 1e3);
        k->flop = k->us * (900 - 60.0 * i) * 1e3;
        snprintf(k->name, sizeof k->name, "%s", kernel[i]);
    }
    for (uint32_t i = 1; i <= 40; i++) {
        c->n_read = 1024;
        c->n_gen = 8 * i;
        c->n_used = 1024 + 8 * i;
        c->gen_s = 0.25 * i;
        c->gen_per_s = 32;
        take(r, &s, FAKE_CLOCK_S - 10 + 0.25 * i);
    }
    return r;
}

/* Floating point numbers that are more than bits: none, infinite, negative, huge. */
static void lie(struct hlm_counters *c, struct rng *rng)
{
    double *const real[] = { &c->read_per_s, &c->gen_per_s, &c->loss,     &c->loss_mtp,
                             &c->valid_loss, &c->lr,        &c->grad_norm };
    static const double value[] = { NAN, INFINITY, -INFINITY, -1, 1e308, 5e-324, 0, 1e17, 3.5 };
    for (uint32_t i = 0; i < ARRAY_LEN(real); i++)
        if (rng_u64(rng) % 2)
            *real[i] = value[rng_u64(rng) % ARRAY_LEN(value)];
    if (rng_u64(rng) % 2)
        c->state = (uint32_t)(rng_u64(rng) % 6);
    if (rng_u64(rng) % 2) {
        c->n_layer = rng_u64(rng) % 200;
        c->n_kernel = rng_u64(rng) % 100;
    }
    if (rng_u64(rng) % 2) {
        c->n_step = 1000;
        c->step = rng_u64(rng) % 1500;
    }
    for (uint32_t i = 0; i < HLM_MAX_LAYER && rng_u64(rng) % 4; i++) {
        c->layer[i].n_expert = (uint32_t)(rng_u64(rng) % 600);
        c->layer[i].bar_at = (uint32_t)(rng_u64(rng) % HLM_MAX_BAR);
        c->layer[i].state_max = (float)value[rng_u64(rng) % ARRAY_LEN(value)];
    }
}

struct run *fake_lying(uint64_t seed, uint32_t n)
{
    static struct ring_sample s;
    static const double step_s[] = { 0.25, -1, NAN, INFINITY, 1e300, 0 };
    struct rng rng = { seed };
    struct run *r = ring_run("\x1b[31mhlm\xff", FAKE_CLOCK_S - 100);
    double t = FAKE_CLOCK_S - 100;
    for (uint32_t i = 0; i < n; i++) {
        if (i % 8 == 0) { /* all of it is slow to make: other samples change parts */
            uint64_t word[sizeof s / 8];
            for (uint32_t k = 0; k < ARRAY_LEN(word); k++)
                word[k] = rng_u64(&rng);
            memcpy(&s, word, sizeof s);
        }
        lie(&s.c, &rng);
        s.time_s = t + step_s[rng_u64(&rng) % ARRAY_LEN(step_s)];
        s.count_s = s.time_s - step_s[rng_u64(&rng) % ARRAY_LEN(step_s)];
        t += 0.01;
        run_take_sample(r, &s, 0);
    }
    return r;
}

/* ---- a log of a training --------------------------------------------------------------------- */

static double noise(uint32_t step)
{
    struct rng rng = { step };
    return rng_unit(&rng) - 0.5;
}

double fake_loss(uint32_t step, uint32_t variant)
{
    return 1.2 + 0.1 * variant + 1.6 * exp(-(double)step / 60) + 0.3 * noise(step);
}

double fake_valid(uint32_t step, uint32_t variant)
{
    return 1.3 + 0.1 * variant + 1.5 * exp(-(double)step / 50) +
           (step > 120 ? 0.004 * (step - 120) : 0);
}

double fake_rate(uint32_t step, uint32_t variant)
{
    double warm = step < 10 ? step / 10.0 : 1;
    return 2e-4 * (1 + variant) * warm * (0.55 + 0.45 * cos((double)step / 120));
}

double fake_norm(uint32_t step) { return step % 17 == 0 ? 1.4 : 0.5 + 0.2 * noise(step + 7); }

static void HLM_PRINTF(2, 3) line(struct run *r, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    HLM_ASSERT(n > 0 && (size_t)n < sizeof text && run_take_line(r, text, (uint64_t)n));
}

static void train_head(struct run *r, uint32_t variant)
{
    run_is_log(r, "run.jsonl");
    line(r,
         "{\"event\":\"start\",\"t\":0,\"program\":\"hlm-tune\",\"version\":\"0.2.0\","
         "\"unix\":1764556800,\"pid\":%u,\"flags\":{\"--data\":\"lesson.jsonl\",\"--lr\":\"%g\","
         "\"--rank\":\"%u\"}}",
         800 + variant, 2e-4 * (1 + variant), 8u << variant);
    line(r, "{\"event\":\"model\",\"t\":0.5,\"path\":\"/m/demo.gguf\",\"arch\":\"qwen35\","
            "\"name\":\"hlm-demo\",\"device\":\"Radeon RX 7800 XT\",\"driver\":\"radv\","
            "\"weight_bytes\":851443712}");
    line(r, "{\"event\":\"data\",\"t\":0.6,\"set\":\"training\",\"documents\":240,\"tokens\":"
            "48000,\"counted\":21000,\"rows\":60,\"malformed\":0}");
    line(r, "{\"event\":\"plan\",\"t\":0.7,\"bytes_by\":{\"weights\":851443712,\"scratch\":"
            "268435456},\"device_bytes\":1119879168,\"host_bytes\":0,\"may_be_used\":17179869184}");
}

static void train_marks(struct run *r, uint32_t step, uint32_t variant)
{
    if (step % 20 == 0) {
        line(r,
             "{\"event\":\"valid\",\"t\":%u.5,\"step\":%u,\"valid_loss\":%.9g,\"n\":900,"
             "\"best\":%s}",
             step, step, fake_valid(step, variant), step <= 120 ? "true" : "false");
        line(r,
             "{\"event\":\"sample\",\"t\":%u.6,\"step\":%u,\"prompt\":\"Who are you?\","
             "\"text\":\"I am the answer of step %u.\"}",
             step, step, step);
    }
    if (step % 40 == 0)
        line(r,
             "{\"event\":\"saved\",\"t\":%u.7,\"step\":%u,\"folder\":\"out/run\",\"took_s\":0.1}",
             step, step);
}

struct run *fake_train(uint32_t n_step, uint32_t variant)
{
    struct run *r = run_create();
    HLM_ASSERT(r);
    train_head(r, variant);
    for (uint32_t i = 1; i <= n_step; i++) {
        line(r,
             "{\"event\":\"step\",\"t\":%u,\"step\":%u,\"n_step\":%u,\"loss\":%.9g,\"loss_main\":"
             "%.9g,\"loss_mtp\":%.9g,\"grad_norm\":%.9g,\"lr\":%.9g,\"n\":350,\"tokens\":800,"
             "\"epoch\":%u,\"step_s\":1,\"tokens_per_s\":%.9g,\"left_s\":%u}",
             i, i, n_step + n_step / 4, fake_loss(i, variant), fake_loss(i, variant),
             0.5 * fake_loss(i, variant), fake_norm(i), fake_rate(i, variant), i / 60,
             800 + 40 * noise(i + 3), n_step + n_step / 4 - i);
        train_marks(r, i, variant);
    }
    return r;
}
