/* hlm_counters: fills struct hlm_counters as work goes on, and shows it to whoever watches.
 *
 * Between two calls of the watcher this is a handful of additions and a look at the clock a token,
 * so that it can always be on. What has to be asked for - the device's counts, times of kernels,
 * what layers tell - is asked for only when the watcher is called.
 *
 * Layers that tell (params.layers) cost more, and are not on by themselves: with every batch the
 * device counts the choices of experts and, but for the single tokens between two looks, runs a
 * kernel for the gates of each recurrent layer; every look waits for it, runs one for the states of
 * each and reads all of that, and so does the end of a session or a training. */
#include "train/tune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVERY_S 0.25 /* between two looks at work that goes on */

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
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* The bars of a layer and what is drawn from all of its choices. */
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
        if (bar) /* what was chosen at all can be seen */
            bar[e] = most ? (uint8_t)ceil(255 * (double)load[e] / (double)most) : 0;
    }
    to->n_chosen = sum;
    to->load_max = sum ? (float)((double)most / (double)sum) : 0;
    to->load_unused = (float)unused / (float)n;
    to->load_even = n > 1 ? (float)(entropy / log(n)) : 1;
}

/* Heads to a layer; n_number: of a state. A batch that had no token, or no state to look at, leaves
 * what was known. */
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

static bool room_for_loads(hlm *m)
{
    const struct model *mod = m->model;
    uint32_t n = mod->n_layer + mod->n_draft;
    if (m->load || !n)
        return m->load != NULL;
    for (uint32_t i = 0; i < n; i++)
        m->load_stride = max_u32(m->load_stride, mod->arch->shape(mod, i).n_expert);
    m->load = mem_alloc((uint64_t)n * max_u32(m->load_stride, 1), sizeof *m->load);
    m->n_load = m->load ? n : 0;
    return m->load != NULL;
}

/* Reads what s has, and adds what was chosen since that was done last. A device that is lost is the
 * next call's to report. */
static bool take_loads(hlm *m, struct kv_stats *s)
{
    struct hlm_counters *c = &m->count;
    struct hlm_err err = { 0 };
    uint32_t bar_at = 0;
    if (!s->all.arena || !room_for_loads(m) || !kv_stats_read(s, &err))
        return false;
    for (uint32_t i = 0; i < s->n_layer; i++) {
        const struct stats_place *p = &s->place[i];
        uint64_t *load = m->load + (uint64_t)i * m->load_stride;
        for (uint32_t e = 0; e < p->n_expert; e++) /* the device's count may go round */
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
    struct kv_stats *s = m->telling;
    struct hlm_err err = { 0 };
    float delta[HLM_MAX_LAYER] = { 0 };
    struct trainer *t = m->tune ? m->tune->trainer : NULL;
    if (!take_loads(m, s) ||
        (t && s == train_layers(t) && !train_gate_deltas(t, delta, HLM_MAX_LAYER, &err)))
        return;
    for (uint32_t i = 0; i < s->n_layer && i < HLM_MAX_LAYER; i++) {
        const struct stats_place *p = &s->place[i];
        struct recurrent_shape r = m->model->arch->shape(m->model, i).recurrent;
        struct hlm_layer_count *to = &m->count.layer[i];
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
    struct layer_shape shape = { 0 };
    if (i_layer < m->n_load)
        shape = m->model->arch->shape(m->model, i_layer);
    *n = shape.n_expert;
    return *n ? m->load + (uint64_t)i_layer * m->load_stride : NULL;
}

/* At work from here on. */
static void tells(hlm *m, struct kv_stats *s)
{
    m->telling = s;
    s->ran = true;
}

void count_leave(hlm *m, struct kv_stats *s)
{
    if (s->ran && gpu_ok(m->gpu, NULL))
        take_loads(m, s);
    if (m->telling == s)
        m->telling = NULL;
}

bool count_due(const hlm *m) { return m->watch && now_s() - m->watched_s >= EVERY_S; }

void count_close(hlm *m)
{
    free(m->load);
    m->load = NULL;
}

/* ---- what goes on ---------------------------------------------------------------------------- */

static void fill(hlm *m)
{
    struct hlm_counters *c = &m->count;
    struct gpu_counts n = gpu_counts(m->gpu);
    c->n_submit = n.n_submit;
    c->n_record = n.n_record;
    c->n_pipeline = n.n_pipeline;
    c->n_validation = gpu_validation_count(m->gpu);
    if (m->profile && gpu_ok(m->gpu, NULL))
        fill_kernels(m, c);
    if (m->telling && gpu_ok(m->gpu, NULL))
        fill_layers(m);
}

static void now_at(hlm *m, enum hlm_state state, uint64_t done, uint64_t total)
{
    struct hlm_counters *c = &m->count;
    bool changed = c->state != state;
    double now = now_s();
    c->state = state;
    c->done = done;
    c->total = total;
    if (m->watch && (changed || count_due(m))) {
        fill(m);
        m->watched_s = now;
        m->watch(m->watch_user, m, c);
        log_to(&m->log);
    }
}

void count_open(hlm *m, const struct hlm_params *params)
{
    struct hlm_counters *c = &m->count;
    const struct gpu_caps *caps = gpu_caps(m->gpu);
    m->watch = params->watch;
    m->watch_user = params->watch_user;
    m->progress = params->progress;
    m->progress_user = params->progress_user;
    m->profile = params->profile;
    m->layers = params->layers;
    snprintf(c->model, sizeof c->model, "%s", m->name);
    snprintf(c->arch, sizeof c->arch, "%s", model_arch(m->file, NULL)->name);
    snprintf(c->device, sizeof c->device, "%.*s", (int)sizeof c->device - 1, caps->name);
    snprintf(c->driver, sizeof c->driver, "%.*s", (int)sizeof c->driver - 1, caps->driver);
}

bool count_load(void *user, uint64_t done, uint64_t total)
{
    hlm *m = user;
    now_at(m, HLM_LOADING, done, total);
    bool on = !m->progress || m->progress(m->progress_user, done, total);
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
    if (m->model)
        m->count.weight_bytes = arena_cost(m->model->weights);
    m->count.adapter_bytes = lora_set_bytes(m->adapters.set);
    now_at(m, HLM_IDLE, 0, 0);
}

/* What the session's own sums have grown by since they were last looked at. */
static void take_sums(hlm_session *s)
{
    struct hlm_counters *c = &s->m->count;
    const struct hlm_stats *now = &s->stats, *was = &s->counted;
    c->n_read += now->n_read - was->n_read;
    c->n_reused += now->n_reused - was->n_reused;
    c->n_reread += now->n_reread - was->n_reread;
    c->n_gen += now->n_gen - was->n_gen;
    c->read_s += now->read_s - was->read_s;
    c->gen_s += now->gen_s - was->gen_s;
    c->n_ctx = s->n_ctx;
    c->n_used = s->n_past;
    c->weight_bytes = now->weight_bytes;
    c->adapter_bytes = now->adapter_bytes;
    c->kv_bytes = now->kv_bytes;
    c->state_bytes = now->state_bytes;
    c->scratch_bytes = now->scratch_bytes;
    c->snapshot_bytes = now->snapshot_bytes;
    c->other_bytes = now->other_bytes;
    s->counted = *now;
    s->m->counted = s;
}

void count_read(hlm_session *s, uint64_t done, uint64_t total)
{
    hlm *m = s->m;
    struct hlm_counters *c = &m->count;
    take_sums(s);
    tells(m, &s->layers);
    if (done == 0)
        m->began_s = now_s();
    double took = now_s() - m->began_s;
    if (done && took > 0)
        c->read_per_s = (double)done / took;
    now_at(m, HLM_READING, done, total);
}

void count_gen(hlm_session *s)
{
    hlm *m = s->m;
    struct hlm_counters *c = &m->count;
    if (c->state != HLM_GENERATING) { /* an answer begins */
        m->began_gen = c->n_gen;
        m->began_gen_s = c->gen_s;
    }
    take_sums(s);
    tells(m, &s->layers);
    if (c->gen_s > m->began_gen_s)
        c->gen_per_s = (double)(c->n_gen - m->began_gen) / (c->gen_s - m->began_gen_s);
    now_at(m, HLM_GENERATING, 0, 0);
}

void count_begin(hlm *m, const struct hlm_plan *plan)
{
    struct hlm_counters *c = &m->count;
    count_idle(m);
    c->train_bytes = plan->device_bytes + plan->host_bytes - c->weight_bytes - c->adapter_bytes;
}

void count_train(hlm *m, enum hlm_state state, uint64_t done, uint64_t total)
{
    tells(m, train_layers(m->tune->trainer));
    now_at(m, state, done, total);
}

void count_step(hlm *m, const struct hlm_tune_step *s, uint64_t n_step)
{
    struct hlm_counters *c = &m->count;
    c->n_step = n_step;
    c->step = s->step;
    c->n_counted += s->n;
    c->loss = s->loss;
    c->loss_mtp = s->loss_mtp;
    c->lr = s->lr;
    c->grad_norm = s->grad_norm;
    c->train_per_s = s->took_s > 0 ? (double)s->n_tok / s->took_s : 0;
    now_at(m, HLM_TRAINING, 0, 0);
}

void count_valid(hlm *m, double loss) { m->count.valid_loss = loss; }

void count_end(hlm_session *s)
{
    hlm *m = s->m;
    struct hlm_counters *c = &m->count;
    if (m->counted != s)
        return;
    take_sums(s);
    count_idle(m);
    m->counted = NULL;
    c->n_ctx = c->n_used = 0;
    c->kv_bytes = c->state_bytes = c->scratch_bytes = c->snapshot_bytes = c->other_bytes = 0;
}

void hlm_get_counters(hlm *m, struct hlm_counters *out)
{
    log_to(&m->log);
    if (m->counted)
        take_sums(m->counted);
    fill(m);
    *out = m->count;
}
