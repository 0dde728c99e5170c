/* hlm-bench: how fast a model is - llama-bench's tests and tables, and where the time goes.
 *
 * pp N reads N random ids at once; tg N makes N tokens one after the other, each one forward pass
 * and one sampling. Before either, D tokens are read that are not timed (depth). A test has a
 * session of its own, one run that is not timed (pipelines, plans), then -r timed ones from an
 * empty session. Rows come out as they are measured; the table of --kernels comes at the end. */
#include "ui/common.h"
#include "ui/common_flags.h"
#include "ui/common_lora.h"
#include "ui/common_plan.h"
#include "make.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 32, MAX_STREAM = 16, MAX_REP = 1000, MAX_KERNEL = 128, WARM_TOK = 16 };
enum report_format { MD, JSON, CSV };

static struct {
    const char *model, *pp, *tg, *depth, *batch, *streams;
    int32_t n_rep;
    int format, kv;
    bool exact, kernels, validate;
    struct flag_list lora;
    struct hlm_sampling how;
} o = { .pp = "512",
        .tg = "128",
        .depth = "0",
        .batch = "0",
        .streams = "1",
        .n_rep = 5,
        .how = { .top_p = 1, .repeat_penalty = 1, .repeat_last_n = 64, .allow_unused = true } };

static const struct flag flags[] = {
    { FLAG_GROUP, "What to measure", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0, "the model, a GGUF file; again for more" },
    { FLAG_LIST, "--lora", "FILE[:SCALE]", &o.lora, 0, 0,
      "a LoRA adapter, a GGUF file; again for more, all active;\n"
      "SCALE is a factor on its own, 1 where it is left out" },
    { FLAG_TEXT, "-p --n-prompt", "N,...", &o.pp, 0, 0, "prompts of N tokens, 0: none (512)" },
    { FLAG_TEXT, "-n --n-gen", "N,...", &o.tg, 0, 0, "N tokens made, 0: none (128)" },
    { FLAG_TEXT, "-s --streams", "N,...", &o.streams, 0, 0,
      "N conversations that make tokens together, 16 at most; the\n"
      "speed is that of all of them (1)" },
    { FLAG_TEXT, "-d --n-depth", "N,...", &o.depth, 0, 0, "after N tokens that are not timed (0)" },
    { FLAG_TEXT, "-b --batch-size", "N,...", &o.batch, 0, 0,
      "tokens of one prefill piece at most; 0: as the device likes" },
    { FLAG_FLOAT, "--temp --temperature", "X", &o.how.temp, 0, 100,
      "tokens are sampled; 0: the likeliest one (0)" },
    { FLAG_INT, "--top-k", "N", &o.how.top_k, 0, INT32_MAX, "of the N likeliest, 0: off (0)" },
    { FLAG_FLOAT, "--top-p", "X", &o.how.top_p, 0, 1, "of those with a mass of X, 1: off (1)" },
    { FLAG_FLOAT, "--min-p", "X", &o.how.min_p, 0, 1,
      "of those at least X times as likely as the likeliest (0)" },
    { FLAG_CHOICE, "--kv", "f16|f32|q8_0", &o.kv, 0, 0, "type of the KV cache (f16)" },
    { FLAG_SWITCH, "--exact", NULL, &o.exact, 0, 0, "the f32 paths of hlm-eval, not hlm-chat's" },
    { FLAG_INT, "-r --repetitions", "N", &o.n_rep, 1, MAX_REP, "timed runs of a test (5)" },

    { FLAG_GROUP, "Results", 0, 0, 0, 0, 0 },
    { FLAG_CHOICE, "-o --output", "md|json|csv", &o.format, 0, 0,
      "table for people or programs (md)" },
    { FLAG_SWITCH, "--kernels", NULL, &o.kernels, 0, 0,
      "time, bytes and operations of every kernel; the time\n"
      "stamps make all a little slower" },
    { FLAG_SWITCH, "--validate", NULL, &o.validate, 0, 0,
      "with the Vulkan validation layer: slow; fails on a message" },
};

static const struct program program = {
    .name = "hlm-bench",
    .usage = "-m MODEL.gguf [-m ...] [-p N,...] [-n N,...] [-d N,...] [-o md|json|csv] [flags]",
    .about = "How fast a model is: prompts read (pp), tokens made (tg), in tokens a second.\n"
             "`hlm-bench make` writes a model with random weights and true dimensions.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
    .commands = "make",
};

struct number_list {
    uint32_t v[MAX_LIST], n;
};

struct bench_test {
    uint32_t n_prompt, n_gen, n_depth, n_batch; /* one of the first two is 0 */
    uint32_t n_stream;                          /* conversations; 1 with n_prompt */
};

struct result {
    struct bench_test test;
    double s[MAX_REP]; /* of each repetition */
    uint32_t n_rep;
    uint64_t n_submit, n_record;          /* during the timed part of all of them */
    struct hlm_kernel kernel[MAX_KERNEL]; /* summed over them; most time first */
    uint32_t n_kernel;
};

struct bench_model {
    hlm *m;
    struct hlm_info info;
    char type[64]; /* "qwen35 Q8_0" */
    double open_s;
};

/* ---- the command line ----------------------------------------------------------------------- */

static bool read_list(const char *flag, const char *text, struct number_list *l,
                      struct hlm_err *err)
{
    *l = (struct number_list){ 0 };
    for (const char *s = text;;) {
        char *end;
        errno = 0;
        unsigned long v = strtoul(s, &end, 10);
        if (*s < '0' || *s > '9' || (*end && *end != ',') || errno || v > 1u << 24)
            return ui_fail(err, "%s: '%s' is no list of numbers from 0 to %u", flag, text,
                           1u << 24);
        if (l->n == MAX_LIST)
            return ui_fail(err, "%s: more than %d numbers", flag, MAX_LIST);
        l->v[l->n++] = (uint32_t)v;
        if (!*end)
            return true;
        s = end + 1;
    }
}

/* The flag table keeps the last model only. */
struct models {
    const char *path[MAX_LIST];
    uint32_t n;
};

static bool add_model(void *user, const struct flag *f, const char *who, const char *value,
                      struct hlm_err *err)
{
    struct models *m = user;
    (void)who;
    if (f->to != &o.model)
        return true;
    if (m->n == ARRAY_LEN(m->path))
        return ui_fail(err, "-m: more than %u models", m->n);
    m->path[m->n++] = value;
    return true;
}

/* In llama-bench's order: by depth, prompts before tokens. */
static struct bench_test *make_tests(uint32_t *n, struct hlm_err *err)
{
    struct number_list pp, tg, depth, batch, streams;
    if (!read_list("-p", o.pp, &pp, err) || !read_list("-n", o.tg, &tg, err) ||
        !read_list("-d", o.depth, &depth, err) || !read_list("-b", o.batch, &batch, err) ||
        !read_list("-s", o.streams, &streams, err))
        return NULL;
    for (uint32_t i = 0; i < streams.n; i++)
        if (!streams.v[i] || streams.v[i] > MAX_STREAM) {
            ui_fail(err, "-s: %u conversations, expected 1 to %d", streams.v[i], MAX_STREAM);
            return NULL;
        }
    uint64_t max = (uint64_t)batch.n * depth.n * (pp.n + tg.n * streams.n);
    struct bench_test *t = ui_alloc(max, sizeof *t);
    *n = 0;
    for (uint32_t b = 0; t && b < batch.n; b++)
        for (uint32_t d = 0; d < depth.n; d++)
            for (uint32_t i = 0; i < pp.n + tg.n * streams.n; i++) {
                struct bench_test one = { .n_depth = depth.v[d],
                                          .n_batch = batch.v[b],
                                          .n_stream = 1 };
                if (i < pp.n) {
                    one.n_prompt = pp.v[i];
                } else {
                    one.n_gen = tg.v[(i - pp.n) / streams.n];
                    one.n_stream = streams.v[(i - pp.n) % streams.n];
                }
                if (one.n_prompt || one.n_gen)
                    t[(*n)++] = one;
            }
    if (t && *n)
        return t;
    if (t)
        ui_fail(err, "-p and -n leave nothing to measure");
    else
        ui_fail_memory(err, "out of memory for the tests");
    free(t);
    return NULL;
}

/* ---- measuring ------------------------------------------------------------------------------ */

/* splitmix64 */
static uint64_t random_u64(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void random_ids(uint64_t *state, int32_t *id, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        id[i] = (int32_t)(random_u64(state) % n_vocab);
}

/* n tokens of each conversation; nothing ends them. */
static bool make_tokens(hlm_session *const *s, uint32_t n_stream, uint32_t n, struct hlm_err *err)
{
    struct hlm_next row[MAX_STREAM];
    for (uint32_t i = 0; i < n_stream; i++)
        row[i] = (struct hlm_next){ s[i], &o.how, 0 };
    for (uint32_t i = 0; i < n; i++)
        if ((ui_interrupted() && !ui_fail_stopped(err)) || !hlm_decode(row, n_stream, err))
            return false;
    return true;
}

/* An hlm_progress for what is not timed: with one, reading waits after every piece. */
static bool go_on(void *user, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    return !ui_interrupted();
}

/* Prompts of `before` tokens that are not timed, another one for each conversation. */
static bool read_depth(hlm *m, hlm_session *const *s, const struct bench_test *t, uint32_t before,
                       uint64_t *rng, int32_t *id, struct hlm_err *err)
{
    for (uint32_t i = 0; i < t->n_stream; i++) {
        random_ids(rng, id, before + t->n_prompt, hlm_get_info(m).n_vocab);
        hlm_session_reset(s[i]);
        if (before && !hlm_session_sync(s[i], id, before, NULL, 0, go_on, NULL, err))
            return false;
    }
    return !t->n_gen || make_tokens(s, t->n_stream, 1, err);
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct hlm_kernel *)a)->us, y = ((const struct hlm_kernel *)b)->us;
    return (x < y) - (x > y);
}

static void add_kernels(hlm *m, struct result *r)
{
    struct hlm_kernel k[MAX_KERNEL];
    uint32_t n = hlm_kernels(m, k, MAX_KERNEL);
    for (uint32_t i = 0, j; i < n; i++) {
        for (j = 0; j < r->n_kernel && strcmp(r->kernel[j].name, k[i].name); j++)
            ;
        struct hlm_kernel *to = &r->kernel[j];
        if (j == r->n_kernel) {
            *to = (struct hlm_kernel){ .name = k[i].name };
            r->n_kernel++;
        }
        to->n += k[i].n;
        to->us += k[i].us;
        to->bytes += k[i].bytes;
        to->flop += k[i].flop;
    }
    qsort(r->kernel, r->n_kernel, sizeof *r->kernel, by_time);
}

/* Once from an empty session. The token before the first timed one is sampled outside of the clock,
 * so that each timed one is a forward pass; without depth there is one token to go on from. */
static bool run_once(hlm *m, hlm_session *const *s, struct result *r, uint64_t *rng, int32_t *id,
                     bool timed, struct hlm_err *err)
{
    const struct bench_test *t = &r->test;
    uint32_t before = t->n_gen ? ui_max_u32(t->n_depth, 1) : t->n_depth;
    if (!read_depth(m, s, t, before, rng, id, err))
        return false;
    if (o.kernels)
        hlm_kernels_reset(m);
    struct hlm_stats at = hlm_session_stats(s[0]);
    double t0 = ui_now_s();
    uint32_t n_gen = timed ? t->n_gen : ui_min_u32(t->n_gen, WARM_TOK);
    bool ok = t->n_gen
                  ? make_tokens(s, t->n_stream, n_gen, err)
                  : hlm_session_sync(s[0], id, before + t->n_prompt, NULL, 0, go_on, NULL, err);
    double took = ui_now_s() - t0;
    struct hlm_stats now = hlm_session_stats(s[0]);
    if (!ok || !timed)
        return ok;
    r->s[r->n_rep++] = took;
    r->n_submit += now.n_submit - at.n_submit;
    r->n_record += now.n_record - at.n_record;
    if (o.kernels)
        add_kernels(m, r);
    return true;
}

struct text {
    char s[96];
};

static struct text test_name(const struct bench_test *t)
{
    struct text out;
    int n = snprintf(out.s, sizeof out.s, "%s%u", t->n_gen ? "tg" : "pp",
                     t->n_gen ? t->n_gen : t->n_prompt);
    if (t->n_stream > 1)
        n += snprintf(out.s + n, sizeof out.s - (size_t)n, " x%u", t->n_stream);
    if (t->n_gen && o.how.temp > 0)
        n += snprintf(out.s + n, sizeof out.s - (size_t)n, " temp %g", (double)o.how.temp);
    if (t->n_depth)
        n += snprintf(out.s + n, sizeof out.s - (size_t)n, " @ d%u", t->n_depth);
    if (t->n_batch)
        snprintf(out.s + n, sizeof out.s - (size_t)n, " b%u", t->n_batch);
    return out;
}

static bool run_test(hlm *m, struct result *r, struct hlm_err *err)
{
    const struct bench_test *t = &r->test;
    uint32_t n_ctx = t->n_gen ? ui_max_u32(t->n_depth, 1) + t->n_gen + 1 : t->n_depth + t->n_prompt;
    struct hlm_session_params p = { .n_ctx = n_ctx,
                                    .n_batch = t->n_batch,
                                    .kv = (enum hlm_kv)o.kv,
                                    .snapshot_budget = HLM_SNAPSHOT_NONE,
                                    .n_seq = t->n_stream };
    struct text name = test_name(t);
    struct bar bar = { .what = name.s, .unit = "tok", .lines = true };
    uint64_t per_run = (uint64_t)t->n_depth + t->n_prompt + t->n_gen;
    uint64_t rng = 1;
    int32_t *id = ui_alloc(n_ctx, sizeof *id);
    hlm_context *x = id ? plan_create_context(m, &p, err) : NULL;
    hlm_session *s[MAX_STREAM];
    bool ok = x || ui_fail_memory(err, "out of memory: %u ids", n_ctx);
    for (uint32_t i = 0; ok && i < t->n_stream; i++)
        ok = (s[i] = hlm_context_open(x, err)) != NULL;
    for (int32_t i = 0; ok && i <= o.n_rep; i++)
        ok = (bar_progress(&bar, (uint64_t)i * per_run, ((uint64_t)o.n_rep + 1) * per_run) ||
              ui_fail_stopped(err)) &&
             run_once(m, s, r, &rng, id, i > 0, err);
    bar_clear();
    hlm_context_destroy(x);
    free(id);
    return ok;
}

/* ---- results -------------------------------------------------------------------------------- */

struct speed {
    double mean, sd;
}; /* tokens a second over the repetitions; s as well */

static struct speed speed_of(const struct result *r, bool seconds)
{
    const struct bench_test *t = &r->test;
    double n_tok = t->n_gen ? (double)t->n_gen * t->n_stream : t->n_prompt, sum = 0, dev = 0;
    for (uint32_t i = 0; i < r->n_rep; i++)
        sum += seconds ? r->s[i] : n_tok / r->s[i];
    struct speed v = { .mean = sum / r->n_rep };
    for (uint32_t i = 0; i < r->n_rep; i++)
        dev += pow((seconds ? r->s[i] : n_tok / r->s[i]) - v.mean, 2);
    v.sd = r->n_rep > 1 ? sqrt(dev / (r->n_rep - 1)) : 0;
    return v;
}

static void csv_text(const char *s)
{
    putchar('"');
    for (; *s; s++)
        printf(*s == '"' ? "\"\"" : "%c", *s);
    fputs("\",", stdout);
}

/* Before the first row, so that a model that cannot be opened leaves an error alone. */
static void print_head(void)
{
    static bool printed;
    if (printed)
        return;
    printed = true;
    if (o.format == MD)
        puts("| model                |       size |     params | backend | device               "
             "          |            test |                  t/s |\n"
             "| -------------------- | ---------: | ---------: | ------- | ---------------------"
             "--------- | --------------: | -------------------: |");
    else if (o.format == CSV)
        puts("model_filename,model_type,model_size,model_n_params,device,driver,n_batch,type_kv,"
             "n_prompt,n_gen,n_depth,n_streams,temp,top_k,top_p,min_p,avg_ns,stddev_ns,avg_ts,"
             "stddev_ts");
}

static void print_row(const struct bench_model *m, const struct result *r)
{
    char device[80];
    struct speed ts = speed_of(r, false), s = speed_of(r, true);
    const struct bench_test *t = &r->test;
    print_head();
    if (o.format == MD) {
        char speed[48];
        struct num size = num_bytes(m->info.tensor_bytes), params = num_short(m->info.n_param);
        snprintf(speed, sizeof speed, "%.2f ± %.2f", ts.mean, ts.sd);
        printf("| %-20s | %10s | %10s | %-7s | %-30.30s | %15s | %21s |\n", m->type, size.s,
               params.s, "Vulkan", device_name(m->info.device, device, sizeof device),
               test_name(t).s, speed);
    } else if (o.format == CSV) {
        csv_text(m->info.path);
        csv_text(m->type);
        printf("%" PRIu64 ",%" PRIu64 ",", m->info.tensor_bytes, m->info.n_param);
        csv_text(m->info.device);
        csv_text(m->info.driver);
        printf("%u,%s,%u,%u,%u,%u,%g,%d,%g,%g,%.0f,%.0f,%.6f,%.6f\n", t->n_batch,
               kv_name((enum hlm_kv)o.kv), t->n_prompt, t->n_gen, t->n_depth, t->n_stream,
               (double)o.how.temp, o.how.top_k, (double)o.how.top_p, (double)o.how.min_p,
               s.mean * 1e9, s.sd * 1e9, ts.mean, ts.sd);
    }
    fflush(stdout);
    if (o.format != JSON && ui.verbose)
        ui_note("[%s: %.1f submissions and %.1f recordings a run]", test_name(t).s,
                (double)r->n_submit / r->n_rep, (double)r->n_record / r->n_rep);
}

/* Of one repetition. Bytes are those of the bindings: what a kernel may touch, which for a cache is
 * all of it. The last row is the time when no kernel ran: host, submission, waiting. */
static void kernel_table(const struct result *r)
{
    double wall = speed_of(r, true).mean, n = r->n_rep, rest = wall * 1e3;
    printf("\n%s: %.2f ms\n\n"
           "| kernel          |    calls |        ms |  share |    us/call |    GB/s | GFLOP/s |\n"
           "| --------------- | -------: | --------: | -----: | ---------: | ------: | ------: |\n",
           test_name(&r->test).s, wall * 1e3);
    for (const struct hlm_kernel *k = r->kernel; k < r->kernel + r->n_kernel; k++) {
        double ms = k->us / n * 1e-3, s = k->us > 0 ? k->us * 1e-6 : 1;
        printf("| %-15s | %8.0f | %9.3f | %5.1f%% | %10.1f | %7.2f | %7.2f |\n", k->name,
               (double)k->n / n, ms, ms / wall * 0.1, k->us / (double)k->n,
               (double)k->bytes / s * 1e-9, k->flop / s * 1e-9);
        rest -= ms;
    }
    printf("| %-15s | %8s | %9.3f | %5.1f%% | %10s | %7s | %7s |\n", "(no kernel)", "", rest,
           rest / wall * 0.1, "", "", "");
}

static json_t *result_json(const struct bench_model *m, const struct result *r)
{
    struct speed ts = speed_of(r, false), s = speed_of(r, true);
    const struct bench_test *t = &r->test;
    json_t *row =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:f}", "model_filename", m->info.path,
                  "model_name", m->info.name, "model_type", m->type, "model_size",
                  (json_int_t)m->info.tensor_bytes, "model_n_params", (json_int_t)m->info.n_param,
                  "device", m->info.device, "driver", m->info.driver, "open_s", m->open_s);
    json_t *more = json_pack(
        "{s:i, s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:I, s:I}", "n_batch", (int)t->n_batch,
        "type_kv", kv_name((enum hlm_kv)o.kv), "n_prompt", (int)t->n_prompt, "n_gen", (int)t->n_gen,
        "n_depth", (int)t->n_depth, "n_streams", (int)t->n_stream, "avg_ns", s.mean * 1e9,
        "stddev_ns", s.sd * 1e9, "avg_ts", ts.mean, "stddev_ts", ts.sd, "submissions",
        (json_int_t)r->n_submit, "recordings", (json_int_t)r->n_record);
    json_t *samples = json_array(), *kernels = json_array();
    for (uint32_t i = 0; i < r->n_rep; i++)
        json_array_append_new(samples, json_real(r->s[i] * 1e9));
    json_object_set_new(more, "samples_ns", samples);
    json_object_set_new(more, "sampling",
                        json_pack("{s:f, s:i, s:f, s:f}", "temp", (double)o.how.temp, "top_k",
                                  (int)o.how.top_k, "top_p", (double)o.how.top_p, "min_p",
                                  (double)o.how.min_p));
    for (const struct hlm_kernel *k = r->kernel; k < r->kernel + r->n_kernel; k++)
        json_array_append_new(kernels, json_pack("{s:s, s:I, s:f, s:I, s:f}", "name", k->name,
                                                 "calls", (json_int_t)k->n, "us", k->us, "bytes",
                                                 (json_int_t)k->bytes, "flop", k->flop));
    json_object_set_new(more, "kernels", kernels);
    json_object_update(row, more);
    json_decref(more);
    return row;
}

/* ---- models --------------------------------------------------------------------------------- */

static bool run_tests(const struct bench_model *m, const struct bench_test *test, uint32_t n,
                      json_t *all, struct hlm_err *err)
{
    struct result *r = ui_alloc(n, sizeof *r);
    bool ok = r || ui_fail_memory(err, "out of memory for %u results", n);
    uint32_t done = 0;
    for (; ok && done < n; done++) {
        r[done].test = test[done];
        if (!(ok = run_test(m->m, &r[done], err)))
            break;
        print_row(m, &r[done]);
        if (all)
            json_array_append_new(all, result_json(m, &r[done]));
    }
    for (uint32_t i = 0; o.kernels && o.format == MD && i < done; i++)
        kernel_table(&r[i]);
    free(r);
    return ok;
}

static int run_model(const char *path, const struct bench_test *test, uint32_t n, json_t *all,
                     struct hlm_err *err)
{
    int rc = RC_FAILED;
    double t0 = ui_now_s();
    struct hlm_params p = {
        .model = path, .f32_only = o.exact, .profile = o.kernels, .validate = o.validate
    };
    struct bench_model m = { .m = ui_open_model(p, &rc) };
    if (!m.m)
        return rc;
    m.open_s = ui_now_s() - t0;
    m.info = hlm_get_info(m.m);
    snprintf(m.type, sizeof m.type, "%.40s %s", m.info.arch, m.info.type);
    if (ui.verbose)
        ui_note("[%s: %s, %s, opened in %.2f s]", m.info.name, m.info.device, m.info.driver,
                m.open_s);
    bool ok = adapters_open(m.m, &o.lora, err) && run_tests(&m, test, n, all, err);
    uint32_t n_message = hlm_get_info(m.m).n_validation;
    if (ok && n_message)
        ok = ui_fail(err, "%u validation messages", n_message);
    hlm_close(m.m);
    return ok ? RC_OK : ui_failed(err);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "make"))
        return bench_make(argc - 1, argv + 1);
    struct hlm_err err = { 0 };
    struct models model = { 0 };
    uint32_t n_test = 0;
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    if (!flags_each(&program, argc, argv, add_model, &model, &err))
        return usage_error(&program, "%s", err.msg);
    if (!model.n)
        return usage_error(&program, "no model: -m FILE");
    if (o.kernels && o.format == CSV)
        return usage_error(&program, "--kernels goes with -o md and json");
    struct bench_test *test = make_tests(&n_test, &err);
    if (!test)
        return usage_error(&program, "%s", err.msg);
    json_t *all = o.format == JSON ? json_array() : NULL;
    rc = RC_OK;
    for (uint32_t i = 0; rc == RC_OK && i < model.n; i++)
        rc = run_model(model.path[i], test, n_test, all, &err);
    if (all && json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0)
        putchar('\n');
    json_decref(all);
    free(test);
    return ui_end(rc);
}
