/* hlm_counters: fills struct hlm_counters as work goes on, and shows it to whoever watches.
 *
 * Between two calls of the watcher this is a handful of additions and a look at the clock a token,
 * so that it can always be on. What has to be asked for - the device's counts, times of kernels -
 * is asked for only when the watcher is called. */
#include "hlm_parts.h"

#include <stdio.h>
#include <string.h>

#define EVERY_S 0.25            /* between two looks at work that goes on */

static void fill_kernels(hlm *m, struct hlm_counters *c)
{
    struct hlm_kernel k[HLM_MAX_COUNTED];
    c->n_kernel = hlm_kernels(m, k, ARRAY_LEN(k));
    for (uint32_t i = 0; i < c->n_kernel; i++) {
        struct hlm_kernel_count *to = &c->kernel[i];
        *to = (struct hlm_kernel_count){ .n = k[i].n, .bytes = k[i].bytes, .us = k[i].us,
                                         .flop = k[i].flop };
        snprintf(to->name, sizeof to->name, "%s", k[i].name);
    }
}

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
}

static void now_at(hlm *m, enum hlm_state state, uint64_t done, uint64_t total)
{
    struct hlm_counters *c = &m->count;
    bool changed = c->state != state;
    double now = now_s();
    c->state = state;
    c->done = done;
    c->total = total;
    if (m->watch && (changed || now - m->watched_s >= EVERY_S)) {
        fill(m);
        m->watched_s = now;
        m->watch(m->watch_user, c);
    }
}

void count_open(hlm *m, const struct hlm_params *params)
{
    struct hlm_counters *c = &m->count;
    const struct gpu_caps *caps = gpu_caps(m->gpu);
    m->watch = params->watch;
    m->watch_user = params->watch_user;
    m->progress = params->progress;
    m->progress_user = params->user;
    m->profile = params->profile;
    snprintf(c->model, sizeof c->model, "%s", m->name);
    snprintf(c->arch, sizeof c->arch, "%s", model_arch(m->file, NULL)->name);
    snprintf(c->device, sizeof c->device, "%.*s", (int)sizeof c->device - 1, caps->name);
    snprintf(c->driver, sizeof c->driver, "%.*s", (int)sizeof c->driver - 1, caps->driver);
}

bool count_load(void *user, uint64_t done, uint64_t total)
{
    hlm *m = user;
    now_at(m, HLM_LOADING, done, total);
    return !m->progress || m->progress(m->progress_user, done, total);
}

void hlm_idle(hlm *m)
{
    if (m->model)
        m->count.weight_bytes = arena_cost(m->model->weights);
    m->count.adapter_bytes = lora_set_bytes(m->lora);
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
    if (c->state != HLM_GENERATING) {   /* an answer begins */
        m->began_gen = c->n_gen;
        m->began_gen_s = c->gen_s;
    }
    take_sums(s);
    if (c->gen_s > m->began_gen_s)
        c->gen_per_s = (double)(c->n_gen - m->began_gen) / (c->gen_s - m->began_gen_s);
    now_at(m, HLM_GENERATING, 0, 0);
}

void count_begin(hlm *m, const struct hlm_plan *plan)
{
    struct hlm_counters *c = &m->count;
    hlm_idle(m);
    c->train_bytes = plan->device_bytes + plan->host_bytes - c->weight_bytes - c->adapter_bytes;
}

void count_train(hlm *m, enum hlm_state state, uint64_t done, uint64_t total)
{
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
    hlm_idle(m);
    m->counted = NULL;
    c->n_ctx = c->n_used = 0;
    c->kv_bytes = c->state_bytes = c->scratch_bytes = c->snapshot_bytes = c->other_bytes = 0;
}

void hlm_get_counters(hlm *m, struct hlm_counters *out)
{
    if (m->counted)
        take_sums(m->counted);
    fill(m);
    *out = m->count;
}
