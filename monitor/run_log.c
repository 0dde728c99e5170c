/* run_log: lines of --log-json. Each event has a function that reads all it needs, and only then
 * changes the run: a line with a value of another type changes nothing. */
#include "monitor/run.h"
#include "monitor/run_past.h"
#include "ui/common_base.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = 4 << 20 };

/* ---- values ---------------------------------------------------------------------------------- */

/* An event that is being read; bad once a value had another type than its name says. */
struct line {
    json_t *o;
    bool bad;
};

/* NaN: it is not there, or null. */
static double num(struct line *l, const char *key)
{
    json_t *v = json_object_get(l->o, key);
    if (!v || json_is_null(v))
        return NAN;
    l->bad |= !json_is_number(v);
    return json_number_value(v);
}

static uint64_t count(struct line *l, const char *key)
{
    double v = num(l, key);
    l->bad |= v < 0;
    return (uint64_t)run_sound(v);
}

static const char *text(struct line *l, const char *key)
{
    json_t *v = json_object_get(l->o, key);
    l->bad |= v && !json_is_null(v) && !json_is_string(v);
    return json_is_string(v) ? json_string_value(v) : NULL;
}

static bool flag(struct line *l, const char *key)
{
    json_t *v = json_object_get(l->o, key);
    l->bad |= v && !json_is_boolean(v);
    return json_is_true(v);
}

/* A part of the line that is an object; o is NULL where there is none. */
static struct line part(struct line *l, const char *key)
{
    json_t *v = json_object_get(l->o, key);
    l->bad |= v && !json_is_null(v) && !json_is_object(v);
    return (struct line){ .o = json_is_object(v) ? v : NULL };
}

static json_t *list(struct line *l, const char *key)
{
    json_t *v = json_object_get(l->o, key);
    l->bad |= v && !json_is_array(v);
    return json_is_array(v) ? v : NULL;
}

static void put_text(char *to, uint64_t size, const char *s)
{
    if (s)
        run_text(to, size, s, strlen(s), false);
}

/* ---- counters -------------------------------------------------------------------------------- */

static void read_sums(struct line *l, struct hlm_counters *c)
{
    static const char *const state[] = { "idle",       "loading",  "reading",
                                         "generating", "training", "validating" };
    const char *word = text(l, "state");
    for (uint32_t i = 0; word && i < ARRAY_LEN(state); i++)
        if (strcmp(word, state[i]) == 0)
            c->state = i;
    put_text(c->model, sizeof c->model, text(l, "model"));
    put_text(c->arch, sizeof c->arch, text(l, "arch"));
    put_text(c->device, sizeof c->device, text(l, "device"));
    c->n_ctx = (uint32_t)ui_min_u64(count(l, "n_ctx"), UINT32_MAX);
    c->n_used = (uint32_t)ui_min_u64(count(l, "used"), UINT32_MAX);
    c->n_read = count(l, "read");
    c->n_reused = count(l, "reused");
    c->n_reread = count(l, "reread");
    c->n_gen = count(l, "generated");
    c->read_s = num(l, "read_s");
    c->gen_s = num(l, "gen_s");
    c->read_per_s = num(l, "read_per_s");
    c->gen_per_s = num(l, "gen_per_s");
    c->n_submit = count(l, "submissions");
    c->n_record = count(l, "recordings");
    c->n_pipeline = count(l, "pipelines");
    c->n_error = count(l, "errors");
    c->n_validation = (uint32_t)ui_min_u64(count(l, "validation"), UINT32_MAX);
}

static void read_memory(struct line *l, struct hlm_counters *c)
{
    struct line m = part(l, "memory");
    c->weight_bytes = count(&m, "weights");
    c->adapter_bytes = count(&m, "adapters");
    c->kv_bytes = count(&m, "kv");
    c->state_bytes = count(&m, "state");
    c->scratch_bytes = count(&m, "scratch");
    c->snapshot_bytes = count(&m, "snapshot");
    c->other_bytes = count(&m, "other");
    l->bad |= m.bad;
}

static void read_device(struct line *l, struct hlm_counters *c)
{
    struct line d = part(l, "device_memory");
    size_t i;
    json_t *v, *by = d.o ? list(&d, "by") : NULL;
    c->budget_bytes = d.o ? count(&d, "budget") : c->budget_bytes;
    c->heap_bytes = count(&d, "heap");
    c->free_bytes = count(&d, "free");
    c->n_snapshot = count(&d, "snapshots");
    c->snapshot_max = count(&d, "snapshots_max");
    c->n_evicted = count(&d, "evicted");
    c->n_memory = 0;
    json_array_foreach(by, i, v)
    {
        struct line p = { .o = v, .bad = !json_is_object(v) };
        if (c->n_memory == HLM_MAX_PURPOSE)
            break;
        struct hlm_memory_count *to = &c->memory[c->n_memory++];
        *to = (struct hlm_memory_count){ .plan = count(&p, "plan"),
                                         .real = count(&p, "real"),
                                         .on_host = flag(&p, "on_host") };
        put_text(to->purpose, sizeof to->purpose, text(&p, "purpose"));
        d.bad |= p.bad;
    }
    l->bad |= d.bad;
}

static void read_training(struct line *l, struct hlm_counters *c)
{
    struct line t = part(l, "training");
    if (!t.o)
        return;
    c->step = count(&t, "step");
    c->n_step = count(&t, "n_step");
    c->n_counted = count(&t, "counted");
    c->loss = num(&t, "loss");
    c->loss_mtp = num(&t, "loss_mtp");
    c->valid_loss = num(&t, "valid_loss");
    c->lr = num(&t, "lr");
    c->grad_norm = num(&t, "grad_norm");
    c->train_per_s = num(&t, "tokens_per_s");
    c->train_bytes = count(&t, "bytes");
    c->clip_norm = num(&t, "clip_norm");
    l->bad |= t.bad;
}

static void read_kernels(struct line *l, struct hlm_counters *c)
{
    size_t i;
    json_t *v, *all = list(l, "kernels");
    c->n_kernel = 0;
    json_array_foreach(all, i, v)
    {
        struct line k = { .o = v, .bad = !json_is_object(v) };
        if (c->n_kernel == HLM_MAX_COUNTED)
            break;
        struct hlm_kernel_count *to = &c->kernel[c->n_kernel++];
        *to = (struct hlm_kernel_count){ .n = count(&k, "calls"),
                                         .us = num(&k, "us"),
                                         .bytes = count(&k, "bytes"),
                                         .flop = num(&k, "flop") };
        put_text(to->name, sizeof to->name, text(&k, "name"));
        l->bad |= k.bad;
    }
}

/* Choices of experts become bars, as a ring has them. */
static void read_experts(struct line *l, struct hlm_counters *c, struct hlm_layer_count *to,
                         uint32_t *bar_at)
{
    struct line e = part(l, "experts");
    json_t *v, *load = list(&e, "load");
    size_t i, n = json_array_size(load);
    double most = 0;
    if (e.o && n && n <= HLM_MAX_BAR - *bar_at) {
        json_array_foreach(load, i, v)
        {
            e.bad |= !json_is_integer(v);
            most = fmax(most, run_sound(json_number_value(v)));
        }
        json_array_foreach(load, i, v) c->bar[*bar_at + i] =
            most > 0 ? (uint8_t)ceil(255 * run_sound(json_number_value(v)) / most) : 0;
        to->bar_at = *bar_at;
        to->n_expert = (uint32_t)n;
        to->n_chosen = count(&e, "chosen");
        to->load_max = (float)num(&e, "max");
        to->load_unused = (float)num(&e, "unused");
        to->load_even = (float)num(&e, "even");
        *bar_at += (uint32_t)n;
    }
    l->bad |= e.bad;
}

static void read_gates(struct line *l, struct hlm_layer_count *to)
{
    struct line g = part(l, "gates"), s = part(l, "state");
    if (!g.o)
        return;
    to->n_head = (uint32_t)ui_min_u64(count(&g, "heads"), UINT32_MAX);
    to->n_tok = (uint32_t)ui_min_u64(count(&g, "tokens"), UINT32_MAX);
    to->decay = (float)num(&g, "decay");
    to->decay_min = (float)num(&g, "decay_min");
    to->decay_max = (float)num(&g, "decay_max");
    to->write = (float)num(&g, "write");
    to->delta_max = (float)num(&g, "delta_max");
    bool finite = !s.o || flag(&s, "finite");
    to->state_rms = finite ? (float)num(&s, "rms") : INFINITY;
    to->state_max = finite ? (float)num(&s, "max") : INFINITY;
    to->n_state = s.o && (!finite || isfinite(to->state_rms));
    if (finite && !to->n_state)
        to->state_rms = to->state_max = 0;
    l->bad |= g.bad || s.bad;
}

static void read_layers(struct line *l, struct hlm_counters *c)
{
    size_t i;
    uint32_t bar_at = 0;
    json_t *v, *all = list(l, "layers");
    if (!all)
        return;
    c->n_layer = 0;
    memset(c->layer, 0, sizeof c->layer);
    json_array_foreach(all, i, v)
    {
        struct line one = { .o = v, .bad = !json_is_object(v) };
        uint64_t at = count(&one, "layer");
        if (at < HLM_MAX_LAYER && !one.bad) {
            read_experts(&one, c, &c->layer[at], &bar_at);
            read_gates(&one, &c->layer[at]);
            c->layer[at].us = (float)num(&one, "us");
            c->n_layer = ui_max_u64(c->n_layer, at + 1);
        }
        l->bad |= one.bad;
    }
}

static bool on_counters(struct run *r, struct line *l)
{
    struct hlm_counters *c = ui_alloc(1, sizeof *c);
    if (!c)
        return false;
    *c = r->now;
    read_sums(l, c);
    read_memory(l, c);
    read_device(l, c);
    read_training(l, c);
    read_kernels(l, c);
    read_layers(l, c);
    if (!l->bad)
        run_update(r, c);
    free(c);
    return !l->bad;
}

/* ---- training -------------------------------------------------------------------------------- */

static bool on_step(struct run *r, struct line *l)
{
    uint64_t step = count(l, "step"), was = r->past->seen_step;
    double loss = num(l, "loss"), mtp = num(l, "loss_mtp"), norm = num(l, "grad_norm");
    double lr = num(l, "lr"), per_s = num(l, "tokens_per_s"), left = num(l, "left_s");
    double epoch = num(l, "epoch");
    double step_s = num(l, "step_s");
    uint64_t n = count(l, "n"), n_step = count(l, "n_step");
    if (l->bad || !step)
        return false;
    if (step < was)
        run_clear_training(r);
    struct hlm_counters *c = &r->now;
    c->state = HLM_TRAINING;
    c->step = step;
    if (!n_step && left >= 0 && step_s > 0) /* older logs do not say */
        n_step = step + (uint64_t)run_sound(left / step_s + 0.5);
    c->n_step = ui_max_u64(n_step ? n_step : c->n_step, step);
    c->n_counted += n;
    c->loss = loss;
    c->loss_mtp = mtp;
    c->grad_norm = norm;
    c->lr = lr;
    c->train_per_s = per_s;
    c->epoch = (uint64_t)run_sound(epoch);
    r->past->log_left_s = left >= 0 ? left : -1;
    run_update(r, c);
    return true;
}

static bool on_valid(struct run *r, struct line *l)
{
    uint64_t step = count(l, "step");
    double loss = num(l, "valid_loss");
    if (l->bad || !isfinite(loss) || loss < 0)
        return false;
    run_push(r, SERIES_VALID, (double)step, loss);
    r->now.valid_loss = loss;
    if (!r->n_valid++ || loss < r->best_valid) {
        r->best_valid = loss;
        r->best_step = step;
    }
    return true;
}

static bool on_file(struct run *r, struct line *l, const char *key, bool adapter)
{
    struct run_saved s = { .step = count(l, "step"), .t = r->past->t, .adapter = adapter };
    const char *path = text(l, key);
    s.best = flag(l, "best");
    if (l->bad || !path)
        return false;
    put_text(s.path, sizeof s.path, path);
    run_add_saved(r, &s);
    return true;
}

static bool on_saved(struct run *r, struct line *l) { return on_file(r, l, "folder", false); }
static bool on_written(struct run *r, struct line *l) { return on_file(r, l, "path", true); }

static bool on_test(struct run *r, struct line *l)
{
    double loss = num(l, "test_loss");
    if (l->bad || !isfinite(loss) || loss < 0)
        return false;
    r->test_loss = run_sound(loss);
    return true;
}

static bool on_sample(struct run *r, struct line *l)
{
    uint64_t step = count(l, "step");
    const char *prompt = text(l, "prompt"), *said = text(l, "text");
    if (l->bad || !prompt || !said)
        return false;
    run_add_answer(r, step, prompt, said);
    return true;
}

/* ---- what the run is ------------------------------------------------------------------------- */

static bool on_start(struct run *r, struct line *l)
{
    const char *program = text(l, "program"), *version = text(l, "version");
    uint64_t unix_s = count(l, "unix"), pid = count(l, "pid");
    struct line flags = part(l, "flags");
    const char *key;
    json_t *v;
    json_object_foreach(flags.o, key, v) l->bad |= !json_is_string(v);
    if (l->bad)
        return false;
    put_text(r->program, sizeof r->program, program);
    put_text(r->version, sizeof r->version, version);
    r->start_unix = (int64_t)unix_s;
    r->pid = pid;
    json_object_foreach(flags.o, key, v) run_set(r, key, json_string_value(v));
    return true;
}

static bool on_model(struct run *r, struct line *l)
{
    const char *name = text(l, "name"), *arch = text(l, "arch"), *device = text(l, "device");
    const char *driver = text(l, "driver");
    uint64_t weights = count(l, "weight_bytes");
    if (l->bad)
        return false;
    struct hlm_counters *c = &r->now;
    put_text(r->model, sizeof r->model, name);
    put_text(c->model, sizeof c->model, name);
    put_text(c->arch, sizeof c->arch, arch);
    put_text(c->device, sizeof c->device, device);
    put_text(c->driver, sizeof c->driver, driver);
    c->weight_bytes = weights;
    run_update(r, c);
    return true;
}

/* Every number of the event as a setting "training rows". */
static bool on_data(struct run *r, struct line *l)
{
    static const char *const key[] = { "documents", "tokens", "counted", "rows", "malformed" };
    const char *set = text(l, "set");
    uint64_t n[ARRAY_LEN(key)];
    for (uint32_t i = 0; i < ARRAY_LEN(key); i++)
        n[i] = count(l, key[i]);
    if (l->bad || !set)
        return false;
    for (uint32_t i = 0; i < ARRAY_LEN(key); i++) {
        char name[48], value[32];
        snprintf(name, sizeof name, "%.20s: %s", set, key[i]);
        snprintf(value, sizeof value, "%llu", (unsigned long long)n[i]);
        run_set(r, name, value);
    }
    return true;
}

static bool on_turn(struct run *r, struct line *l)
{
    double read = num(l, "read_per_s"), gen = num(l, "gen_per_s");
    double read_s = run_sound(num(l, "read_s")), gen_s = run_sound(num(l, "gen_s"));
    uint64_t n_ctx = count(l, "n_ctx"), used = count(l, "used"), held = count(l, "snapshots");
    uint64_t n[4] = { count(l, "read"), count(l, "reused"), count(l, "reread"),
                      count(l, "generated") };
    const char *why = text(l, "why");
    if (l->bad)
        return false;
    struct run_past *p = r->past;
    struct hlm_counters *c = &r->now;
    double end = p->t, at[] = { end - gen_s - read_s, end - gen_s, end };
    enum run_series_id of[] = { SERIES_READ, SERIES_GEN };
    for (uint32_t i = 0; i < 2; i++) { /* as a level, with rest before and after it */
        double v[] = { 0, i ? gen : read, i ? gen : read, 0 };
        for (uint32_t k = 0; k < 4; k++) {
            p->t = at[i + k / 2];
            run_push(r, of[i], 0, v[k]);
        }
    }
    p->t = end;
    c->n_ctx = (uint32_t)ui_min_u64(n_ctx, UINT32_MAX);
    c->n_used = (uint32_t)ui_min_u64(used, UINT32_MAX);
    c->n_read += n[0];
    c->n_reused += n[1];
    c->n_reread += n[2];
    c->n_gen += n[3];
    c->read_per_s = read;
    c->gen_per_s = gen;
    c->n_snapshot = held;
    run_push(r, SERIES_CONTEXT, 0, (double)used);
    c->why[0] = 0;
    put_text(c->why, sizeof c->why, n[2] ? why : NULL);
    run_update(r, c);
    return true;
}

static bool on_log(struct run *r, struct line *l)
{
    const char *level = text(l, "level"), *message = text(l, "message");
    if (l->bad || !level || !message)
        return false;
    if (strcmp(level, "warning") == 0)
        put_text(r->last_log, sizeof r->last_log, message);
    return true;
}

static bool on_error(struct run *r, struct line *l)
{
    const char *message = text(l, "message");
    if (l->bad || !message)
        return false;
    put_text(r->now.error, sizeof r->now.error, message);
    r->now.n_error++;
    return true;
}

static bool on_end(struct run *r, struct line *l)
{
    double code = num(l, "exit");
    if (l->bad || !(code >= 0 && code < 256))
        return false;
    r->exit_code = (int)code;
    r->now.state = HLM_IDLE;
    run_end(r, RUN_ENDED);
    return true;
}

static bool on_plan(struct run *r, struct line *l)
{
    uint64_t budget = count(l, "may_be_used");
    if (l->bad)
        return false;
    r->now.budget_bytes = budget;
    run_update(r, &r->now);
    return true;
}

static const struct {
    const char *name;
    bool (*fn)(struct run *r, struct line *l);
} events[] = {
    { "counters", on_counters }, { "step", on_step },       { "valid", on_valid },
    { "saved", on_saved },       { "written", on_written }, { "test", on_test },
    { "sample", on_sample },     { "start", on_start },     { "model", on_model },
    { "data", on_data },         { "turn", on_turn },       { "log", on_log },
    { "error", on_error },       { "end", on_end },         { "plan", on_plan },
};

bool run_take_line(struct run *r, const char *line, uint64_t n)
{
    json_t *o = n <= MAX_LINE ? json_loadb(line, (size_t)n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    struct line l = { .o = o, .bad = !json_is_object(o) };
    const char *event = text(&l, "event");
    double t = num(&l, "t");
    bool ok = !l.bad && event && t >= 0 && t < 1e9;
    if (ok)
        r->t = r->past->t = fmax(t, r->past->t);
    for (uint32_t i = 0; ok && i < ARRAY_LEN(events); i++)
        if (strcmp(event, events[i].name) == 0) {
            ok = events[i].fn(r, &l);
            break;
        }
    json_decref(o);
    r->n_skipped += !ok;
    r->n_sample += ok;
    r->known |= ok;
    r->n_change++;
    return ok;
}

void run_is_log(struct run *r, const char *path)
{
    r->from_log = true;
    run_text(r->path, sizeof r->path, path, strlen(path), false);
}
