/* common_counters: see common_counters.h. */
#include "common_counters.h"
#include "common.h"
#include "ring.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static struct {
    struct ring *ring;
    bool tried, known; /* known: last holds something */
    struct hlm_counters last;
} w;

static const char *const state_name[] = { "idle",       "loading",  "reading",
                                          "generating", "training", "validating" };

/* A number that may be none: not looked at yet, or no finite one. */
static json_t *real_or_null(bool known, double v)
{
    return known && isfinite(v) ? json_real(v) : json_null();
}

static json_t *experts_json(const hlm *m, uint32_t i_layer, const struct hlm_layer_count *l)
{
    uint32_t n;
    const uint64_t *load = hlm_expert_loads(m, i_layer, &n);
    json_t *loads = json_array();
    for (uint32_t e = 0; load && e < n; e++)
        json_array_append_new(loads, json_integer((json_int_t)load[e]));
    return json_pack("{s:I, s:f, s:f, s:f, s:o}", "chosen", (json_int_t)l->n_chosen, "max",
                     (double)l->load_max, "unused", (double)l->load_unused, "even",
                     (double)l->load_even, "load", loads);
}

/* The layers that have figures, and the last, so that it is known how many there are. */
static json_t *layers_json(const hlm *m, const struct hlm_counters *c)
{
    json_t *layers = json_array();
    for (uint32_t i = 0; i < c->n_layer; i++) {
        const struct hlm_layer_count *l = &c->layer[i];
        json_t *o = json_pack("{s:i}", "layer", (int)i);
        bool known = l->n_tok > 0, seen = l->n_state > 0;
        if (l->us > 0)
            json_object_set_new(o, "us", real_or_null(true, (double)l->us));
        if (l->n_expert)
            json_object_set_new(o, "experts", experts_json(m, i, l));
        if (l->n_head) {
            json_object_set_new(o, "gates",
                                json_pack("{s:i, s:i, s:o, s:o, s:o, s:o, s:o}", "heads",
                                          (int)l->n_head, "tokens", (int)l->n_tok, "decay",
                                          real_or_null(known, (double)l->decay), "decay_min",
                                          real_or_null(known, (double)l->decay_min), "decay_max",
                                          real_or_null(known, (double)l->decay_max), "write",
                                          real_or_null(known, (double)l->write), "delta_max",
                                          real_or_null(true, (double)l->delta_max)));
            json_object_set_new(o, "state",
                                json_pack("{s:o, s:o, s:b}", "rms",
                                          real_or_null(seen, (double)l->state_rms), "max",
                                          real_or_null(seen, (double)l->state_max), "finite",
                                          (int)isfinite(l->state_max)));
        }
        if (l->n_expert || l->n_head || l->us > 0 || i + 1 == c->n_layer)
            json_array_append_new(layers, o);
        else
            json_decref(o);
    }
    return layers;
}

static json_t *memory_json(const struct hlm_counters *c)
{
    json_t *by = json_array();
    for (uint64_t i = 0; i < c->n_memory; i++) {
        const struct hlm_memory_count *p = &c->memory[i];
        json_array_append_new(by, json_pack("{s:s, s:I, s:I, s:b}", "purpose", p->purpose, "plan",
                                            (json_int_t)p->plan, "real", (json_int_t)p->real,
                                            "on_host", (int)p->on_host));
    }
    return json_pack("{s:I, s:I, s:I, s:o, s:I, s:I, s:I}", "budget", (json_int_t)c->budget_bytes,
                     "heap", (json_int_t)c->heap_bytes, "free", (json_int_t)c->free_bytes, "by", by,
                     "snapshots", (json_int_t)c->n_snapshot, "snapshots_max",
                     (json_int_t)c->snapshot_max, "evicted", (json_int_t)c->n_evicted);
}

static json_t *to_json(const hlm *m, const struct hlm_counters *c)
{
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I, s:I,"
        " s:I, s:i, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}}",
        "state", state_name[c->state], "model", c->model, "arch", c->arch, "device", c->device,
        "n_ctx", (int)c->n_ctx, "used", (int)c->n_used, "read", (json_int_t)c->n_read, "reused",
        (json_int_t)c->n_reused, "reread", (json_int_t)c->n_reread, "generated",
        (json_int_t)c->n_gen, "read_s", c->read_s, "gen_s", c->gen_s, "read_per_s", c->read_per_s,
        "gen_per_s", c->gen_per_s, "submissions", (json_int_t)c->n_submit, "recordings",
        (json_int_t)c->n_record, "pipelines", (json_int_t)c->n_pipeline, "errors",
        (json_int_t)c->n_error, "validation", (int)c->n_validation, "memory", "weights",
        (json_int_t)c->weight_bytes, "adapters", (json_int_t)c->adapter_bytes, "kv",
        (json_int_t)c->kv_bytes, "state", (json_int_t)c->state_bytes, "scratch",
        (json_int_t)c->scratch_bytes, "snapshot", (json_int_t)c->snapshot_bytes, "other",
        (json_int_t)c->other_bytes);
    if (o && c->n_step)
        json_object_set_new(
            o, "training",
            json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:f, s:o, s:f, s:I, s:f}", "step",
                      (json_int_t)c->step, "n_step", (json_int_t)c->n_step, "counted",
                      (json_int_t)c->n_counted, "loss", real_or_null(true, c->loss), "loss_mtp",
                      real_or_null(true, c->loss_mtp), "valid_loss",
                      real_or_null(true, c->valid_loss), "lr", c->lr, "grad_norm",
                      real_or_null(true, c->grad_norm), "tokens_per_s", c->train_per_s, "bytes",
                      (json_int_t)c->train_bytes, "clip_norm", c->clip_norm));
    if (o && c->n_memory)
        json_object_set_new(o, "device_memory", memory_json(c));
    json_t *kernels = c->n_kernel ? json_array() : NULL;
    for (uint64_t i = 0; kernels && i < c->n_kernel; i++) {
        const struct hlm_kernel_count *k = &c->kernel[i];
        json_array_append_new(kernels, json_pack("{s:s, s:I, s:f, s:I, s:f}", "name", k->name,
                                                 "calls", (json_int_t)k->n, "us", k->us, "bytes",
                                                 (json_int_t)k->bytes, "flop", k->flop));
    }
    if (o && kernels)
        json_object_set_new(o, "kernels", kernels);
    else
        json_decref(kernels);
    if (o && c->n_layer)
        json_object_set_new(o, "layers", layers_json(m, c));
    return o;
}

/* Returns what monitors want, RING_... */
static uint32_t publish(void)
{
    struct hlm_err err = { 0 };
    if (!w.tried && !(w.ring = ring_create(ui.program, ui.flags, 0, &err)))
        ui_info("%s: no monitor can watch this process", err.msg);
    w.tried = true;
    if (!w.ring)
        return 0;
    ring_publish(w.ring, &w.last);
    return ring_wanted(w.ring);
}

/* What is the program's, not the engine's. */
static void with_ours(struct hlm_counters *c)
{
    c->n_error = w.last.n_error;
    memcpy(c->error, w.last.error, sizeof c->error);
    memcpy(c->why, w.last.why, sizeof c->why);
    c->sample_step = w.last.sample_step;
    c->n_sample = w.last.n_sample;
    memcpy(c->sample_prompt, w.last.sample_prompt, sizeof c->sample_prompt);
    memcpy(c->sample_text, w.last.sample_text, sizeof c->sample_text);
}

void counters_watch(void *user, const hlm *m, const struct hlm_counters *c)
{
    static struct hlm_counters now;
    bool done = c->state == HLM_IDLE && w.known && w.last.state != HLM_IDLE;
    (void)user;
    now = *c;
    with_ours(&now);
    w.last = now;
    w.known = true;
    uint32_t wanted = publish();
    hlm_set_watched(m, wanted & RING_TIME_KERNELS, wanted & RING_TELL_LAYERS);
    if (done)
        ui_event("counters", "o", to_json(m, &w.last));
}

void counters_get(hlm *m, struct hlm_counters *out)
{
    hlm_get_counters(m, out);
    with_ours(out);
}

void counters_log(hlm *m)
{
    static struct hlm_counters now;
    counters_get(m, &now);
    ui_event("counters", "o", to_json(m, &now));
}

void counters_error(const char *message)
{
    w.last.n_error++;
    snprintf(w.last.error, sizeof w.last.error, "%.*s", (int)sizeof w.last.error - 1, message);
    if (w.known)
        publish();
}

void counters_why(const char *why)
{
    snprintf(w.last.why, sizeof w.last.why, "%.*s", (int)sizeof w.last.why - 1, why);
    if (w.known)
        publish();
}

void counters_sample(uint64_t step, const char *prompt, const char *text)
{
    struct hlm_counters *c = &w.last;
    c->sample_step = step;
    c->n_sample++;
    snprintf(c->sample_prompt, sizeof c->sample_prompt, "%.*s", (int)sizeof c->sample_prompt - 1,
             prompt);
    snprintf(c->sample_text, sizeof c->sample_text, "%.*s", (int)sizeof c->sample_text - 1, text);
    if (w.known)
        publish();
}

void counters_end(void)
{
    ring_destroy(w.ring);
    w.ring = NULL;
    w.known = false;
}
