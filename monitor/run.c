/* run: see run.h. Samples of rings, series, and the checks that everything passes; run_log.c reads
 * lines of logs, run_words.c puts into words. */
#include "monitor/run.h"
#include "monitor/run_past.h"
#include "ui/common_base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define RATE_S 1.5          /* speeds are means over this time */
#define MOST 1e18           /* no figure is larger ... */
#define MOST_S 1e9          /* ... and no run longer */
enum { MAX_ANSWER = 4096 }; /* bytes of a text that are kept */

/* ---- checks ---------------------------------------------------------------------------------- */

double run_sound(double v) { return v >= 0 && v <= MOST ? v : 0; }

static uint64_t sound_count(uint64_t v) { return v <= (uint64_t)MOST ? v : 0; }
static float sound_float(float v) { return (float)run_sound((double)v); }
static float sound_part(float v) { return v >= 0 && v <= 1 ? v : 0; }

void run_text(char *out, uint64_t size, const char *text, uint64_t n, bool lines)
{
    uint64_t at = 0;
    for (uint64_t i = 0; i < n && text[i] && at + 1 < size;) {
        utf8proc_int32_t c = -1;
        uint64_t left = ui_min_u64(n - i, 4);
        utf8proc_ssize_t len =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)left, &c);
        utf8proc_category_t kind = len > 0 ? utf8proc_category(c) : UTF8PROC_CATEGORY_CN;
        bool moves = kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
                     kind == UTF8PROC_CATEGORY_CN || kind == UTF8PROC_CATEGORY_CS ||
                     kind == UTF8PROC_CATEGORY_ZL || kind == UTF8PROC_CATEGORY_ZP;
        if (len <= 0 || (moves && !(lines && c == '\n'))) {
            out[at++] = '?';
            i += len > 0 ? (uint64_t)len : 1;
        } else if (at + (uint64_t)len < size) {
            memcpy(out + at, text + i, (size_t)len);
            at += (uint64_t)len;
            i += (uint64_t)len;
        } else {
            break;
        }
    }
    if (size)
        out[at] = 0;
}

/* In place, whether it ended or not. */
static void sound_text(char *s, uint64_t size)
{
    char old[256];
    uint64_t n = ui_min_u64(size, sizeof old);
    memcpy(old, s, (size_t)n);
    run_text(s, size, old, n - 1, false);
}

static void check_kernels(struct hlm_counters *c)
{
    c->n_kernel = ui_min_u64(c->n_kernel, HLM_MAX_COUNTED);
    for (uint32_t i = 0; i < c->n_kernel; i++) {
        struct hlm_kernel_count *k = &c->kernel[i];
        sound_text(k->name, sizeof k->name);
        k->n = sound_count(k->n);
        k->bytes = sound_count(k->bytes);
        k->us = run_sound(k->us);
        k->flop = run_sound(k->flop);
    }
}

static void check_layer(struct hlm_layer_count *l, bool *infinite)
{
    if (l->bar_at > HLM_MAX_BAR || l->n_expert > HLM_MAX_BAR - l->bar_at)
        l->n_expert = l->bar_at = 0;
    *infinite = l->n_head && l->n_state && !(isfinite(l->state_rms) && isfinite(l->state_max));
    l->n_chosen = sound_count(l->n_chosen);
    l->load_max = sound_part(l->load_max);
    l->load_unused = sound_part(l->load_unused);
    l->load_even = sound_part(l->load_even);
    l->decay = sound_part(l->decay);
    l->decay_min = sound_part(l->decay_min);
    l->decay_max = sound_part(l->decay_max);
    l->write = sound_float(l->write);
    l->state_rms = sound_float(l->state_rms);
    l->state_max = sound_float(l->state_max);
    l->delta_max = sound_float(l->delta_max);
    l->us = sound_float(l->us);
}

static void check_sums(struct hlm_counters *c)
{
    uint64_t *const count[] = {
        &c->done,         &c->total,         &c->n_read,         &c->n_reused,      &c->n_reread,
        &c->n_gen,        &c->n_step,        &c->step,           &c->n_counted,     &c->n_submit,
        &c->n_record,     &c->n_pipeline,    &c->weight_bytes,   &c->adapter_bytes, &c->kv_bytes,
        &c->state_bytes,  &c->scratch_bytes, &c->snapshot_bytes, &c->other_bytes,   &c->train_bytes,
        &c->n_error,      &c->budget_bytes,  &c->heap_bytes,     &c->free_bytes,    &c->n_snapshot,
        &c->snapshot_max, &c->n_evicted,     &c->best_step,      &c->n_valid,       &c->epoch,
        &c->n_saved,      &c->saved_step,    &c->sample_step,    &c->n_sample
    };
    double *const real[] = { &c->read_s,    &c->gen_s,       &c->read_per_s, &c->gen_per_s,
                             &c->loss,      &c->loss_mtp,    &c->valid_loss, &c->lr,
                             &c->grad_norm, &c->train_per_s, &c->clip_norm,  &c->best_loss };
    for (uint32_t i = 0; i < ARRAY_LEN(count); i++)
        *count[i] = sound_count(*count[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(real); i++)
        *real[i] = run_sound(*real[i]);
    if (c->state > HLM_VALIDATING)
        c->state = HLM_IDLE;
    c->done = c->total ? ui_min_u64(c->done, c->total) : 0;
    c->step = ui_min_u64(c->step, c->n_step);
    c->n_used = ui_min_u32(c->n_used, c->n_ctx);
}

static void check(struct run *r)
{
    struct hlm_counters *c = &r->now;
    r->loss_broken = c->n_step && c->step && !isfinite(c->loss);
    check_sums(c);
    sound_text(c->model, sizeof c->model);
    sound_text(c->arch, sizeof c->arch);
    sound_text(c->device, sizeof c->device);
    sound_text(c->driver, sizeof c->driver);
    sound_text(c->error, sizeof c->error);
    sound_text(c->why, sizeof c->why);
    c->sample_prompt[sizeof c->sample_prompt - 1] = 0;
    c->sample_text[sizeof c->sample_text - 1] = 0;
    c->n_memory = ui_min_u64(c->n_memory, HLM_MAX_PURPOSE);
    for (uint32_t i = 0; i < c->n_memory; i++) {
        struct hlm_memory_count *p = &c->memory[i];
        sound_text(p->purpose, sizeof p->purpose);
        p->plan = sound_count(p->plan);
        p->real = sound_count(p->real);
    }
    check_kernels(c);
    c->n_layer = ui_min_u64(c->n_layer, HLM_MAX_LAYER);
    for (uint32_t i = 0; i < HLM_MAX_LAYER; i++)
        check_layer(&c->layer[i], &r->infinite[i]);
}

/* ---- series ---------------------------------------------------------------------------------- */

/* Makes one point of two neighbours where that stands for no more than stride points. */
static void thin_out(struct run_series *s)
{
    uint32_t to = 0, end = s->n > SERIES_FRESH ? s->n - SERIES_FRESH : 0;
    s->stride = s->stride ? 2 * s->stride : 2;
    for (uint32_t i = 0; i < s->n; i++) {
        struct run_point *a = &s->p[to], b = s->p[i];
        struct run_point *last = to ? a - 1 : NULL;
        if (last && i < end && last->n_point + (uint64_t)b.n_point <= s->stride) {
            float n = (float)last->n_point, m = (float)b.n_point;
            last->v = last->v * (n / (n + m)) + b.v * (m / (n + m));
            last->lo = fminf(last->lo, b.lo);
            last->hi = fmaxf(last->hi, b.hi);
            last->n_point += b.n_point;
        } else {
            s->p[to++] = b;
        }
    }
    s->n = to;
}

static void push_at(struct run_series *s, double t, double step, double v)
{
    const struct run_point *last = s->n ? &s->p[s->n - 1] : NULL;
    if (!(isfinite(v) && v >= 0 && v <= MOST) || (last && (t < last->t || step < last->step)))
        return;
    if (s->n == SERIES_MAX)
        thin_out(s);
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? 2 * s->cap : 64;
        struct run_point *p = ui_grow(s->p, cap, sizeof *p);
        if (!p)
            return;
        s->p = p;
        s->cap = cap;
    }
    float f = (float)v;
    s->p[s->n++] =
        (struct run_point){ .t = t, .step = step, .v = f, .lo = f, .hi = f, .n_point = 1 };
}

void run_push(struct run *r, enum run_series_id id, double step, double v)
{
    push_at(&r->series[id], r->past->t, step, v);
}

double run_newest(const struct run *r, enum run_series_id id)
{
    const struct run_series *s = &r->series[id];
    return s->n ? (double)s->p[s->n - 1].v : -1;
}

void run_clear_training(struct run *r)
{
    static const enum run_series_id of[] = { SERIES_TRAIN, SERIES_LOSS, SERIES_LOSS_MTP,
                                             SERIES_VALID, SERIES_RATE, SERIES_NORM };
    for (uint32_t i = 0; i < ARRAY_LEN(of); i++)
        r->series[of[i]].n = r->series[of[i]].stride = 0;
    r->n_valid = r->best_step = 0;
    r->past->seen_step = 0;
}

/* ---- what follows from the figures ----------------------------------------------------------- */

/* Tokens a second over the last RATE_S of this state; the engine's own mean before that. */
static double rate_of(const struct run *r, bool gen, double own)
{
    const struct run_past *p = r->past;
    const struct mark *now = &p->mark[p->n_mark - 1], *from = now;
    while (from > p->mark && now->t - from->t < RATE_S)
        from--;
    double dt = now->t - from->t;
    uint64_t a = gen ? from->gen : from->read, b = gen ? now->gen : now->read;
    return dt >= 0.5 * RATE_S && b > a ? (double)(b - a) / dt : own;
}

static void keep_mark(struct run *r, bool anew)
{
    struct run_past *p = r->past;
    const struct hlm_counters *c = &r->now;
    if (anew) {
        p->n_mark = 0;
        p->settled = false;
    }
    if (p->n_mark == N_MARK)
        memmove(p->mark, p->mark + 1, --p->n_mark * sizeof *p->mark);
    p->mark[p->n_mark++] =
        (struct mark){ .t = p->t, .read = c->n_read + c->n_reread, .gen = c->n_gen };
}

/* The first tokens of a state say little of its speed: what was drawn of it so far becomes the mean
 * over more of it, as soon as that is known or the state is over. */
static void settle_speed(struct run *r, uint32_t state, bool over)
{
    struct run_past *p = r->past;
    bool gen = state == HLM_GENERATING;
    struct run_series *s = &r->series[gen ? SERIES_GEN : SERIES_READ];
    if ((!gen && state != HLM_READING) || !p->n_mark || p->settled)
        return;
    double from = p->mark[0].t, own = gen ? r->now.gen_per_s : r->now.read_per_s;
    bool enough = p->mark[p->n_mark - 1].t - from >= 0.5 * RATE_S;
    if (enough)
        own = rate_of(r, gen, own);
    if (!(enough || over) || own <= 0)
        return;
    for (uint32_t i = s->n; i > 0 && s->p[i - 1].t >= from && s->p[i - 1].n_point == 1; i--)
        if (s->p[i - 1].v > 0)
            s->p[i - 1].v = s->p[i - 1].lo = s->p[i - 1].hi = (float)own;
    p->settled = true;
}

static void push_speeds(struct run *r)
{
    const struct hlm_counters *c = &r->now;
    bool read = c->state == HLM_READING, gen = c->state == HLM_GENERATING;
    run_push(r, SERIES_READ, 0, read ? rate_of(r, false, c->read_per_s) : 0);
    run_push(r, SERIES_GEN, 0, gen ? rate_of(r, true, c->gen_per_s) : 0);
    if (c->n_ctx)
        run_push(r, SERIES_CONTEXT, 0, c->n_used);
}

static void push_step(struct run *r)
{
    const struct hlm_counters *c = &r->now;
    struct run_past *p = r->past;
    if (!c->n_step || !c->step || c->step == p->seen_step)
        return;
    if (c->step < p->seen_step)
        run_clear_training(r);
    if (!p->seen_step) {
        p->first_step = c->step;
        p->step_t = p->t;
    }
    p->seen_step = c->step;
    double step = (double)c->step;
    if (!r->loss_broken)
        run_push(r, SERIES_LOSS, step, c->loss);
    if (c->loss_mtp > 0)
        run_push(r, SERIES_LOSS_MTP, step, c->loss_mtp);
    run_push(r, SERIES_RATE, step, c->lr);
    run_push(r, SERIES_NORM, step, c->grad_norm);
    run_push(r, SERIES_TRAIN, step, c->train_per_s);
}

/* A ring shows a validation only as a loss that changed. */
static void push_valid(struct run *r)
{
    const struct hlm_counters *c = &r->now;
    double last = run_newest(r, SERIES_VALID);
    if (r->from_log || c->valid_loss <= 0 || (float)c->valid_loss == (float)last)
        return;
    run_push(r, SERIES_VALID, (double)c->step, c->valid_loss);
    if (!r->n_valid++ || c->valid_loss < r->best_valid) {
        r->best_valid = c->valid_loss;
        r->best_step = c->step;
    }
    if (c->n_valid) { /* the process knows of those before we came */
        r->n_valid = c->n_valid;
        r->best_valid = c->best_loss;
        r->best_step = c->best_step;
    }
}

/* What a ring shows of a training beside figures: the newest answer and checkpoint. */
static void take_marks(struct run *r)
{
    const struct hlm_counters *c = &r->now;
    struct run_past *p = r->past;
    if (c->n_sample > p->n_sample)
        run_add_answer(r, c->sample_step, c->sample_prompt, c->sample_text);
    if (c->n_saved > p->n_saved)
        run_add_saved(r, &(struct run_saved){ .step = c->saved_step, .t = p->t });
    p->n_sample = c->n_sample;
    p->n_saved = c->n_saved;
}

/* The same as the counters have, for panels. */
static void copy_figures(struct run *r)
{
    const struct hlm_counters *c = &r->now;
    memcpy(r->why, c->why, sizeof r->why);
    r->epoch = (double)c->epoch;
    r->clip_norm = c->clip_norm;
    r->n_snapshot = c->n_snapshot;
    r->n_snapshot_max = c->snapshot_max;
    r->n_evicted = c->n_evicted;
}

static void add_purpose(struct run_device *d, const char *name, uint64_t plan, uint64_t real)
{
    if ((!real && !plan) || d->n_purpose == RUN_MAX_PURPOSE)
        return;
    struct run_purpose *p = &d->purpose[d->n_purpose++];
    snprintf(p->name, sizeof p->name, "%s", name);
    p->plan = plan;
    p->real = real;
    d->real += real;
}

/* Of older figures, and of a run that says nothing by purpose. */
static void sums_by_purpose(const struct hlm_counters *c, struct run_device *d)
{
    add_purpose(d, "weights", 0, c->weight_bytes);
    add_purpose(d, "adapters", 0, c->adapter_bytes);
    add_purpose(d, "kv", 0, c->kv_bytes);
    add_purpose(d, "state", 0, c->state_bytes);
    add_purpose(d, "scratch", 0, c->scratch_bytes);
    add_purpose(d, "snapshots", 0, c->snapshot_bytes);
    add_purpose(d, "training", 0, c->train_bytes);
    add_purpose(d, "other", 0, c->other_bytes);
}

static void set_devices(struct run *r)
{
    const struct hlm_counters *c = &r->now;
    struct run_device *d = &r->device[0], *host = &r->device[1];
    *d = (struct run_device){ .budget = c->budget_bytes,
                              .left = c->free_bytes,
                              .heap = c->heap_bytes };
    *host = (struct run_device){ .name = "host memory" };
    snprintf(d->name, sizeof d->name, "%s", c->device);
    for (uint32_t i = 0; i < c->n_memory; i++) {
        const struct hlm_memory_count *p = &c->memory[i];
        add_purpose(p->on_host ? host : d, p->purpose, p->plan, p->real);
    }
    if (!c->n_memory)
        sums_by_purpose(c, d);
    r->n_device = host->n_purpose ? 2 : 1;
    if (!d->real)
        return;
    double was = run_newest(r, SERIES_MEMORY);
    if (was > 0 && was != (double)(float)d->real) /* what is taken stays until other is known */
        run_push(r, SERIES_MEMORY, 0, was);
    run_push(r, SERIES_MEMORY, 0, (double)d->real);
}

/* From how long the part that is done took. */
static double time_left(double part_done, double took_s)
{
    return part_done > 0.01 && took_s > 0.2 ? took_s * (1 - part_done) / part_done : -1;
}

static void set_progress(struct run *r, bool began)
{
    const struct hlm_counters *c = &r->now;
    struct run_past *p = r->past;
    if (began || c->done < p->began_done) {
        p->began_t = p->t;
        p->began_done = c->done;
    }
    r->part = r->left_s = -1;
    bool trains = c->state == HLM_TRAINING || c->state == HLM_VALIDATING;
    if (trains && c->n_step) {
        double steps = (double)(c->step > p->first_step ? c->step - p->first_step : 0);
        r->part = (double)c->step / (double)c->n_step;
        if (steps > 0)
            r->left_s = (p->t - p->step_t) / steps * (double)(c->n_step - c->step);
        if (r->from_log)
            r->left_s = p->log_left_s;
    } else if (c->state != HLM_IDLE && c->total) {
        r->part = (double)c->done / (double)c->total;
        uint64_t of = c->total - ui_min_u64(p->began_done, c->total);
        if (of && c->done >= p->began_done)
            r->left_s =
                time_left((double)(c->done - p->began_done) / (double)of, p->t - p->began_t);
    }
    r->left_s = r->left_s > MOST_S ? -1 : r->left_s;
}

void run_update(struct run *r, const struct hlm_counters *c)
{
    uint32_t before = r->now.state;
    bool began = !r->known;
    if (c != &r->now)
        r->now = *c;
    check(r);
    if (r->now.model[0])
        memcpy(r->model, r->now.model, sizeof r->model);
    r->known = true;
    began |= before != r->now.state;
    if (began && !r->from_log)
        settle_speed(r, before, true);
    push_step(r);
    push_valid(r);
    set_devices(r);
    copy_figures(r);
    set_progress(r, began);
    if (!r->from_log) {
        take_marks(r);
        keep_mark(r, began);
        settle_speed(r, r->now.state, false);
        push_speeds(r);
    }
    r->n_change++;
}

/* ---- from a ring ----------------------------------------------------------------------------- */

/* Lines of a name, a tab and a value. */
static void take_flags(struct run *r, const char *from, uint64_t size)
{
    char text[RING_FLAGS];
    uint64_t n = ui_min_u64(size, sizeof text);
    memcpy(text, from, (size_t)n);
    text[n - 1] = 0;
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = 0;
        char *tab = strchr(line, '\t');
        if (!tab)
            continue;
        *tab = 0;
        run_set(r, line, tab + 1);
    }
}

void run_is_ring(struct run *r, const struct ring_head *head, double clock_s)
{
    r->pid = head->pid;
    r->start_unix = head->start_unix > 0 ? head->start_unix : 0;
    run_text(r->program, sizeof r->program, head->program, sizeof head->program, false);
    run_text(r->version, sizeof r->version, head->release, sizeof head->release, false);
    take_flags(r, head->flags, sizeof head->flags);
    r->past->clock_s = clock_s;
}

void run_take_sample(struct run *r, const struct ring_sample *s, uint64_t n_lost)
{
    struct run_past *p = r->past;
    double t = s->time_s - p->clock_s, heard = s->count_s - p->clock_s;
    r->n_lost = n_lost;
    r->n_sample++;
    if (!(t >= p->t && t < MOST_S)) /* the clock of a liar does not turn back ours */
        t = p->t;
    if (r->known && r->now.state == HLM_IDLE) { /* rest is drawn as rest, up to now */
        p->t = t;
        run_push(r, SERIES_READ, 0, 0);
        run_push(r, SERIES_GEN, 0, 0);
    }
    p->t = t;
    p->heard_t = heard >= 0 && heard <= t ? heard : t;
    run_update(r, &s->c);
    run_tick(r, p->clock_s + t);
}

void run_tick(struct run *r, double clock_s)
{
    if (r->life != RUN_ALIVE || r->from_log || !r->known)
        return;
    double t = clock_s - r->past->clock_s;
    if (t > r->t && t < MOST_S)
        r->t = t;
    bool rests = r->now.state == HLM_IDLE;
    double silent = rests ? 0 : r->t - r->past->heard_t;
    r->n_change += (uint64_t)silent != (uint64_t)r->silent_s;
    r->silent_s = silent;
    r->unheard_s = rests ? 0 : r->t - r->past->t;
}

/* ---- making and ending ----------------------------------------------------------------------- */

void run_set(struct run *r, const char *name, const char *value)
{
    uint32_t i = 0;
    char clean[sizeof r->setting[0].name];
    run_text(clean, sizeof clean, name, strlen(name), false);
    while (i < r->n_setting && strcmp(r->setting[i].name, clean) != 0)
        i++;
    if (i == RUN_MAX_SETTING)
        return;
    r->n_setting = ui_max_u32(r->n_setting, i + 1);
    memcpy(r->setting[i].name, clean, sizeof clean);
    run_text(r->setting[i].value, sizeof r->setting[i].value, value, strlen(value), false);
}

void run_end(struct run *r, enum run_life life)
{
    r->life = life;
    r->silent_s = 0;
    r->left_s = -1;
    r->n_change++;
}

static char *copy_lines(const char *s)
{
    uint64_t n = ui_min_u64(strlen(s), MAX_ANSWER);
    char *out = ui_alloc(n + 1, 1);
    if (out)
        run_text(out, n + 1, s, n, true);
    return out;
}

void run_add_answer(struct run *r, uint64_t step, const char *prompt, const char *text)
{
    struct run_answer a = { .step = step, .t = r->past->t };
    a.prompt = copy_lines(prompt);
    a.text = copy_lines(text);
    if (!a.prompt || !a.text) {
        free(a.prompt);
        free(a.text);
        return;
    }
    if (r->n_answer == RUN_MAX_ANSWER) {
        free(r->answer[0].prompt);
        free(r->answer[0].text);
        memmove(r->answer, r->answer + 1, --r->n_answer * sizeof a);
    }
    r->answer[r->n_answer++] = a;
}

void run_add_saved(struct run *r, const struct run_saved *s)
{
    if (r->n_saved == RUN_MAX_SAVED) /* the first stays, as the newest do */
        memmove(&r->saved[1], &r->saved[2], (--r->n_saved - 1) * sizeof *s);
    r->saved[r->n_saved++] = *s;
}

static void init(struct run *r)
{
    r->exit_code = -1;
    r->part = r->left_s = r->test_loss = r->past->log_left_s = -1;
}

struct run *run_create(void)
{
    struct run *r = ui_alloc(1, sizeof *r);
    struct run_past *p = ui_alloc(1, sizeof *p);
    if (!r || !p) {
        free(r);
        free(p);
        return NULL;
    }
    r->past = p;
    init(r);
    return r;
}

static void empty(struct run *r)
{
    for (uint32_t i = 0; i < N_SERIES; i++)
        free(r->series[i].p);
    for (uint32_t i = 0; i < r->n_answer; i++) {
        free(r->answer[i].prompt);
        free(r->answer[i].text);
    }
}

void run_reset(struct run *r)
{
    struct run_past *p = r->past;
    uint64_t n_change = r->n_change + 1;
    empty(r);
    memset(p, 0, sizeof *p);
    memset(r, 0, sizeof *r);
    r->past = p;
    r->n_change = n_change;
    init(r);
}

void run_destroy(struct run *r)
{
    if (!r)
        return;
    empty(r);
    free(r->past);
    free(r);
}
