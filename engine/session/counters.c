/* counters: fills struct hlm_counters while the engine works, and shows it to the watcher.
 *
 * Between two calls of the watcher this costs a few additions a token and a look at the clock, so
 * it is always on. What takes longer - the device's counts, times of kernels, statistics of layers
 * - is done only when the watcher is called.
 *
 * Statistics of layers (params.layers, hlm_set_watched) cost more and are off by default. With
 * every batch the device counts the choices of experts and runs a kernel for the gates of each
 * recurrent layer; of the tokens of an answer, only one between two calls of the watcher does the
 * latter. Each call of the watcher waits for the device, runs a kernel for the states of each
 * recurrent layer and reads all of that back; so does the end of a session or of a training. */
#include "session/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVERY_S 0.25 /* between two calls of the watcher while work goes on */
#define UNTIMED 24   /* times as long as a timed piece of work, none is timed (hlm_set_watched) */

static void fill_kernels(hlm *m, struct hlm_counters *c)
{
    struct hlm_kernel k[HLM_MAX_COUNTED];
    c->n_kernel = hlm_kernels(m, k, ARRAY_LEN(k));
    for (uint32_t i = 0; i < c->n_kernel; i++) {
        struct hlm_kernel_count *to = &c->kernel[i];
        *to = (struct hlm_kernel_count){
            .n = k[i].n, .bytes = k[i].bytes, .us = k[i].us, .flop = k[i].flop
        };
        snprintf(to->name, sizeof to->name, "%s", k[i].name);
    }
    double us[HLM_MAX_LAYER];
    uint32_t n_layer = gpu_layer_times(m->gpu, us, HLM_MAX_LAYER);
    for (uint32_t i = 0; i < n_layer; i++)
        c->layer[i].us = (float)us[i];
    c->n_layer = max_u64(c->n_layer, n_layer);
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* How evenly a layer's n experts were chosen. bar[n]: for drawing; NULL: no bars are wanted. */
static void sum_loads(const uint64_t *load, uint32_t n, struct hlm_layer_count *to, uint8_t *bar)
{
    uint64_t sum = 0, most = 0;
    uint32_t unused = 0;
    double entropy = 0;
    for (uint32_t e = 0; e < n; e++) {
        sum += load[e];
        most = max_u64(most, load[e]);
        unused += !load[e];
    }
    for (uint32_t e = 0; e < n; e++) {
        double share = sum ? (double)load[e] / (double)sum : 0;
        entropy -= share > 0 ? share * log(share) : 0;
        if (bar) /* rounded up: an expert that was chosen at all has a visible bar */
            bar[e] = most ? (uint8_t)ceil(255 * (double)load[e] / (double)most) : 0;
    }
    to->n_chosen = sum;
    to->load_max = sum ? (float)((double)most / (double)sum) : 0;
    to->load_unused = (float)unused / (float)n;
    to->load_even = n > 1 ? (float)(entropy / log(n)) : 1;
}

/* Sums the statistics of a layer's heads; n_number: numbers in the state of a head. If the batch
 * had no token, or there was no state to look at, the values from before stay. */
static void sum_gates(const float *gates, const float *state, uint32_t n_head, uint64_t n_number,
                      struct hlm_layer_count *to)
{
    double n = 0, decays = 0, writes = 0, n_seen = 0, squares = 0;
    float least = INFINITY, most = -INFINITY, peak = 0;
    for (uint32_t h = 0; h < n_head; h++, gates += GATE_STATS, state += STATE_STATS) {
        n += (double)gates[0];
        decays += (double)gates[1];
        least = fminf(least, gates[2]);
        most = fmaxf(most, gates[3]);
        writes += (double)gates[4];
        n_seen += (double)state[0];
        squares += (double)state[1];
        peak = fmaxf(peak, state[2]);
    }
    if (n > 0) {
        to->n_tok = (uint32_t)(n / n_head);
        to->decay = (float)(decays / n);
        to->decay_min = least;
        to->decay_max = most;
        to->write = (float)(writes / n);
    }
    if (n_seen > 0) {
        bool finite = isfinite(squares);
        to->n_state = (uint32_t)n_seen;
        to->state_rms = finite ? (float)sqrt(squares / n_seen / (double)n_number) : INFINITY;
        to->state_max = finite ? peak : INFINITY;
    }
}

static bool make_loads(struct counting *n, const struct model *m)
{
    uint32_t n_layer = m->n_layer + m->n_draft;
    if (n->load || !n_layer)
        return n->load != NULL;
    for (uint32_t i = 0; i < n_layer; i++)
        n->load_stride = max_u32(n->load_stride, m->arch->shape(m, i).n_expert);
    n->load = mem_alloc((uint64_t)n_layer * max_u32(n->load_stride, 1), sizeof *n->load);
    n->n_load = n->load ? n_layer : 0;
    return n->load != NULL;
}

/* Reads the statistics from the device, and adds the choices of experts since the last time. A lost
 * device is reported by the next call of the API, not here. */
static bool take_loads(hlm *m, struct kv_stats *s)
{
    struct counting *n = &m->counting;
    struct hlm_counters *c = &n->counters;
    struct hlm_err err = { 0 };
    uint32_t bar_at = 0;
    if (!s->all.arena || !make_loads(n, m->model) || !kv_stats_read(s, &err))
        return false;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const struct stats_place *p = &s->place[i];
        uint64_t *load = n->load + (uint64_t)i * n->load_stride;
        for (uint32_t e = 0; e < p->n_expert; e++) /* 32-bit: the device's count may wrap */
            load[e] += s->now[p->load + e] - s->was[p->load + e];
        if (i >= HLM_MAX_LAYER)
            continue;
        struct hlm_layer_count *to = &c->layer[i];
        bool shown = p->n_expert <= HLM_MAX_BAR - bar_at;
        to->n_expert = shown ? p->n_expert : 0;
        to->bar_at = bar_at;
        if (p->n_expert && shown)
            sum_loads(load, p->n_expert, to, c->bar + bar_at);
        bar_at += to->n_expert;
    }
    c->n_layer = max_u64(c->n_layer, min_u32(s->n_layer, HLM_MAX_LAYER));
    return true;
}

static void fill_layers(hlm *m)
{
    const struct layer_source *from = &m->counting.source;
    struct kv_stats *s = from->stats;
    struct hlm_err err = { 0 };
    float delta[HLM_MAX_LAYER] = { 0 };
    if (!take_loads(m, s) ||
        (from->gate_deltas && !from->gate_deltas(from->user, delta, HLM_MAX_LAYER, &err)))
        return;
    for (uint32_t i = 0; i < s->n_layer && i < HLM_MAX_LAYER; i++) {
        const struct stats_place *p = &s->place[i];
        struct recurrent_shape r = m->model->arch->shape(m->model, i).recurrent;
        struct hlm_layer_count *to = &m->counting.counters.layer[i];
        to->n_head = p->n_head;
        to->delta_max = delta[i];
        if (p->n_head)
            sum_gates((const float *)(const void *)(s->now + p->gates),
                      (const float *)(const void *)(s->now + p->state), p->n_head,
                      (uint64_t)r.n_row * r.n, to);
    }
}

const uint64_t *hlm_expert_loads(const hlm *m, uint32_t i_layer, uint32_t *n)
{
    const struct counting *c = &m->counting;
    struct layer_shape shape = { 0 };
    if (i_layer < c->n_load)
        shape = m->model->arch->shape(m->model, i_layer);
    *n = shape.n_expert;
    return *n ? c->load + (uint64_t)i_layer * c->load_stride : NULL;
}

/* From here on the counters show these layers. */
static void show_layers(hlm *m, const struct layer_source *source)
{
    m->counting.source = *source;
    source->stats->ran = true;
}

void count_leave(hlm *m, struct kv_stats *s)
{
    if (s->ran && gpu_ok(m->gpu, NULL))
        take_loads(m, s);
    if (m->counting.source.stats == s)
        m->counting.source = (struct layer_source){ 0 };
}

void hlm_set_watched(const hlm *m, bool kernels, bool layers)
{
    /* An hlm is never constant; watch is given one that it must not call other things of. */
    struct counting *n = &((hlm *)m)->counting;
    atomic_store_explicit(&n->wish, (kernels ? WISH_KERNELS : 0) | (layers ? WISH_LAYERS : 0),
                          memory_order_relaxed);
}

bool count_watched(const hlm *m) { return m->counting.watch != NULL; }

bool count_due(const hlm *m)
{
    return count_watched(m) && now_s() - m->counting.watched_s >= EVERY_S;
}

void count_close(hlm *m)
{
    free(m->counting.load);
    m->counting.load = NULL;
}

/* ---- the state, the sums --------------------------------------------------------------------- */

static void fill_memory(hlm *m)
{
    struct hlm_counters *c = &m->counting.counters;
    struct gpu_memory row[HLM_MAX_PURPOSE];
    c->budget_bytes = gpu_budget(m->gpu);
    c->heap_bytes = gpu_caps(m->gpu)->heap_bytes;
    c->free_bytes = gpu_left(m->gpu);
    c->n_memory = min_u32(gpu_plan(m->gpu, row, ARRAY_LEN(row)), ARRAY_LEN(row));
    for (uint32_t i = 0; i < c->n_memory; i++) {
        struct hlm_memory_count *to = &c->memory[i];
        *to = (struct hlm_memory_count){ .plan = row[i].bytes,
                                         .real = gpu_allocated(m->gpu, row[i].purpose),
                                         .on_host = row[i].on_host };
        snprintf(to->purpose, sizeof to->purpose, "%.*s", (int)sizeof to->purpose - 1,
                 row[i].purpose);
    }
}

static void fill_counters(hlm *m)
{
    struct hlm_counters *c = &m->counting.counters;
    struct gpu_counts n = gpu_counts(m->gpu);
    c->n_submit = n.n_submit;
    c->n_record = n.n_record;
    c->n_pipeline = n.n_pipeline;
    c->n_validation = gpu_validation_count(m->gpu);
    if (!gpu_is_dry(m->gpu) && gpu_ok(m->gpu, NULL))
        fill_memory(m);
    if (m->counting.wants_kernels && gpu_ok(m->gpu, NULL))
        fill_kernels(m, c);
    if (m->counting.source.stats && gpu_ok(m->gpu, NULL))
        fill_layers(m);
}

/* Stamps cost some devices as much as the work between them, so that of work which somebody happens
 * to look at only a part is timed. */
static void time_work(hlm *m, bool on)
{
    struct counting *n = &m->counting;
    if (on == n->profile)
        return;
    if (on)
        n->timed_s = now_s();
    else
        n->time_next_s = now_s() + UNTIMED * (now_s() - n->timed_s);
    n->profile = on;
    gpu_set_profile(m->gpu, on);
}

static void count_state(hlm *m, enum hlm_state state, uint64_t done, uint64_t total)
{
    struct hlm_counters *c = &m->counting.counters;
    struct counting *n = &m->counting;
    bool changed = c->state != state;
    double now = now_s();
    c->state = state;
    c->done = done;
    c->total = total;
    if (n->profile && !(n->opened_with & WISH_KERNELS))
        time_work(m, false); /* the piece of work that was timed has ended */
    if (n->watch && (changed || count_due(m))) {
        fill_counters(m);
        n->watched_s = now;
        n->watch(n->watch_user, m, c);
        log_to(&m->log);
    }
}

void count_follow(hlm *m)
{
    struct counting *n = &m->counting;
    uint32_t wish = atomic_load_explicit(&n->wish, memory_order_relaxed) | n->opened_with;
    n->layers = wish & WISH_LAYERS;
    n->wants_kernels = wish & WISH_KERNELS;
    if (!(n->opened_with & WISH_KERNELS))
        time_work(m, n->wants_kernels && now_s() >= n->time_next_s);
}

void count_open(hlm *m, const struct hlm_params *params)
{
    struct hlm_counters *c = &m->counting.counters;
    const struct gpu_caps *caps = gpu_caps(m->gpu);
    m->counting.watch = params->watch;
    m->counting.watch_user = params->watch_user;
    m->counting.progress = params->progress;
    m->counting.progress_user = params->progress_user;
    m->counting.preparing = params->preparing;
    m->counting.preparing_user = params->preparing_user;
    m->counting.opened_with =
        (params->profile ? WISH_KERNELS : 0) | (params->layers ? WISH_LAYERS : 0);
    m->counting.profile = m->counting.wants_kernels = params->profile;
    m->counting.layers = params->layers;
    snprintf(c->model, sizeof c->model, "%s", m->name);
    snprintf(c->arch, sizeof c->arch, "%s", model_arch(m->file, NULL)->name);
    snprintf(c->device, sizeof c->device, "%.*s", (int)sizeof c->device - 1, caps->name);
    snprintf(c->driver, sizeof c->driver, "%.*s", (int)sizeof c->driver - 1, caps->driver);
}

bool count_load(void *user, uint64_t done, uint64_t total)
{
    hlm *m = user;
    const struct counting *n = &m->counting;
    count_state(m, HLM_LOADING, done, total);
    bool on = !n->progress || n->progress(n->progress_user, done, total);
    log_to(&m->log);
    return on;
}

bool count_prepare(void *user, uint64_t done, uint64_t total)
{
    hlm *m = user;
    const struct counting *n = &m->counting;
    bool on = !n->preparing || n->preparing(n->preparing_user, done, total);
    log_to(&m->log);
    return on;
}

void hlm_idle(hlm *m)
{
    log_to(&m->log);
    count_idle(m);
}

void count_idle(hlm *m)
{
    struct hlm_counters *c = &m->counting.counters;
    if (m->model)
        c->weight_bytes = arena_cost(m->model->weights);
    c->adapter_bytes = lora_set_bytes(m->adapters.set);
    count_state(m, HLM_IDLE, 0, 0);
}

/* Adds what the session's own sums have grown by since the last time. */
static void take_sums(hlm_session *s)
{
    struct hlm_counters *c = &s->m->counting.counters;
    const struct hlm_stats *now = &s->stats, *was = &s->counted;
    c->n_read += now->n_read - was->n_read;
    c->n_reused += now->n_reused - was->n_reused;
    c->n_reread += now->n_reread - was->n_reread;
    c->n_gen += now->n_gen - was->n_gen;
    c->read_s += now->read_s - was->read_s;
    c->gen_s += now->gen_s - was->gen_s;
    c->n_ctx = s->x->n_ctx;
    c->n_used = s->n_past;
    c->weight_bytes = now->weight_bytes;
    c->adapter_bytes = now->adapter_bytes;
    c->kv_bytes = now->kv_bytes;
    c->state_bytes = now->state_bytes;
    c->scratch_bytes = now->scratch_bytes;
    c->snapshot_bytes = now->snapshot_bytes;
    c->other_bytes = now->other_bytes;
    c->n_evicted += s->snaps.n_evicted - was->n_evicted;
    c->n_snapshot = snapshots_held(&s->snaps);
    c->snapshot_max = s->snaps.n_slot;
    s->counted = *now;
    s->counted.n_evicted = s->snaps.n_evicted;
    s->m->counting.session = s;
}

void count_read(hlm_session *s, uint64_t done, uint64_t total)
{
    hlm *m = s->m;
    struct hlm_counters *c = &m->counting.counters;
    take_sums(s);
    show_layers(m, &(struct layer_source){ .stats = &s->x->layers });
    if (done == 0)
        m->counting.read_began_s = now_s();
    double took = now_s() - m->counting.read_began_s;
    if (done && took > 0)
        c->read_per_s = (double)done / took;
    count_state(m, HLM_READING, done, total);
}

void count_gen(hlm_session *s)
{
    hlm *m = s->m;
    struct counting *n = &m->counting;
    struct hlm_counters *c = &n->counters;
    if (c->state != HLM_GENERATING) { /* an answer begins */
        n->n_gen = c->n_gen;
        n->gen_s = c->gen_s;
    }
    take_sums(s);
    show_layers(m, &(struct layer_source){ .stats = &s->x->layers });
    if (c->gen_s > n->gen_s)
        c->gen_per_s = (double)(c->n_gen - n->n_gen) / (c->gen_s - n->gen_s);
    count_state(m, HLM_GENERATING, 0, 0);
}

void count_begin(hlm *m, const struct hlm_plan *plan, double clip_norm)
{
    struct hlm_counters *c = &m->counting.counters;
    c->clip_norm = clip_norm;
    c->n_valid = c->best_step = 0;
    c->best_loss = 0;
    count_idle(m);
    c->train_bytes = plan->device_bytes + plan->host_bytes - c->weight_bytes - c->adapter_bytes;
}

void count_train(hlm *m, const struct layer_source *source, enum hlm_state state, uint64_t done,
                 uint64_t total)
{
    show_layers(m, source);
    count_state(m, state, done, total);
}

void count_step(hlm *m, const struct hlm_tune_step *s, uint64_t n_step)
{
    struct hlm_counters *c = &m->counting.counters;
    c->n_step = n_step;
    c->step = s->step;
    c->n_counted += s->n;
    c->epoch = s->epoch;
    c->loss = s->loss;
    c->loss_mtp = s->loss_mtp;
    c->lr = s->lr;
    c->grad_norm = s->grad_norm;
    c->train_per_s = s->took_s > 0 ? (double)s->n_tok / s->took_s : 0;
    count_state(m, HLM_TRAINING, 0, 0);
}

void count_valid(hlm *m, double loss, double best, uint64_t best_step)
{
    struct hlm_counters *c = &m->counting.counters;
    c->valid_loss = loss;
    c->best_loss = best;
    c->best_step = best_step;
    c->n_valid++;
}

void count_saved(hlm *m, uint64_t step)
{
    m->counting.counters.n_saved++;
    m->counting.counters.saved_step = step;
}

void count_end(hlm_session *s)
{
    hlm *m = s->m;
    struct hlm_counters *c = &m->counting.counters;
    if (m->counting.session != s)
        return;
    take_sums(s);
    count_idle(m);
    m->counting.session = NULL;
    c->n_ctx = c->n_used = 0;
    c->n_snapshot = c->snapshot_max = 0;
    c->kv_bytes = c->state_bytes = c->scratch_bytes = c->snapshot_bytes = c->other_bytes = 0;
}

void hlm_get_counters(hlm *m, struct hlm_counters *out)
{
    log_to(&m->log);
    if (m->counting.session)
        take_sums(m->counting.session);
    fill_counters(m);
    *out = m->counting.counters;
}
