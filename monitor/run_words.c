/* run_words: what a run does and what is unusual about it, in plain words. */
#include "monitor/run.h"
#include "monitor/run_past.h"
#include "ui/common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_S 3.0      /* without a word of the engine: unusual from here on */
#define DEAF_S 2.0       /* without a sample, which are due every quarter of a second */
#define AMBER 0.9        /* of the budget */
#define EXPECTED 64      /* choices of an expert, on average, from which on none is unusual */
#define NEARLY_FULL 0.95 /* of the context */

typedef unsigned long long ull;

const char *run_state_word(const struct run *r)
{
    static const char *const word[] = { "idle",       "loading",  "reading",
                                        "generating", "training", "validating" };
    return r->life == RUN_DIED    ? "died"
           : r->life == RUN_ENDED ? "ended"
           : !r->known            ? "starting"
                                  : word[r->now.state];
}

static void training_headline(const struct run *r, char *out, uint64_t size)
{
    const struct hlm_counters *c = &r->now;
    snprintf(out, (size_t)size, "%s: step %llu of %llu",
             c->state == HLM_VALIDATING ? "validating" : "training", (ull)c->step, (ull)c->n_step);
}

void run_headline(const struct run *r, char *out, uint64_t size)
{
    const struct hlm_counters *c = &r->now;
    if (r->life == RUN_DIED)
        snprintf(out, (size_t)size, "died without a word");
    else if (r->life == RUN_ENDED && r->exit_code > 0)
        snprintf(out, (size_t)size, "ended with exit code %d", r->exit_code);
    else if (r->life == RUN_ENDED)
        snprintf(out, (size_t)size, "ended");
    else if (!r->known)
        snprintf(out, (size_t)size, "starting");
    else if (c->state == HLM_LOADING && c->total)
        snprintf(out, (size_t)size, "loading weights: %s of %s", num_bytes(c->done).s,
                 num_bytes(c->total).s);
    else if (c->state == HLM_READING && c->total)
        snprintf(out, (size_t)size, "reading: %llu of %llu tokens", (ull)c->done, (ull)c->total);
    else if (c->state == HLM_GENERATING)
        snprintf(out, (size_t)size, "generating: %llu of %llu positions taken", (ull)c->n_used,
                 (ull)c->n_ctx);
    else if (c->state == HLM_TRAINING || c->state == HLM_VALIDATING)
        training_headline(r, out, size);
    else
        snprintf(out, (size_t)size, "%s", run_state_word(r));
}

/* ---- what is unusual ------------------------------------------------------------------------- */

struct notices {
    struct run_notice *out;
    uint32_t n;
};

static void UI_PRINTF(3, 4) add(struct notices *l, enum run_level level, const char *fmt, ...)
{
    char text[sizeof l->out[0].text];
    va_list ap;
    if (l->n == RUN_MAX_NOTICE)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    /* A precision may have cut a character in two. */
    run_text(l->out[l->n].text, sizeof text, text, sizeof text, false);
    l->out[l->n++].level = level;
}

static void add_ends(const struct run *r, struct notices *l)
{
    if (r->life == RUN_DIED)
        add(l, RUN_BAD, "the process is gone, and it did not say that it would end");
    if (r->life == RUN_ENDED && r->exit_code > 0)
        add(l, r->exit_code == RC_INTERRUPTED ? RUN_NOTE : RUN_BAD,
            r->exit_code == RC_INTERRUPTED ? "it was interrupted (exit code %d)"
                                           : "it ended with exit code %d",
            r->exit_code);
}

static void add_broken(const struct run *r, struct notices *l)
{
    const struct hlm_counters *c = &r->now;
    uint32_t n = 0, first = 0;
    for (uint32_t i = HLM_MAX_LAYER; i-- > 0;)
        if (i < c->n_layer && r->infinite[i]) {
            n++;
            first = i;
        }
    if (r->loss_broken)
        add(l, RUN_BAD, "the loss of step %llu is no finite number", (ull)c->step);
    if (n == 1)
        add(l, RUN_BAD, "the state of layer %u holds a number that is not finite", first);
    if (n > 1)
        add(l, RUN_BAD, "the states of %u layers hold numbers that are not finite, the first is %u",
            n, first);
    if (c->n_error || c->error[0])
        add(l, RUN_BAD, c->n_error > 1 ? "%.150s (%llu errors)" : "%.150s",
            c->error[0] ? c->error : "an error was reported", (ull)c->n_error);
    if (c->n_validation)
        add(l, RUN_BAD, "%u message%s of Vulkan's validation layer", c->n_validation,
            c->n_validation > 1 ? "s" : "");
}

static void add_silence(const struct run *r, struct notices *l)
{
    if (r->life != RUN_ALIVE || r->from_log)
        return;
    if (r->unheard_s >= DEAF_S)
        add(l, RUN_BAD, "no sample for %s: the process is stopped, or dead",
            span_text(r->unheard_s).s);
    else if (r->silent_s >= QUIET_S)
        add(l, RUN_WARN, "the engine has said nothing for %s: it is in one long submission",
            span_text(r->silent_s).s);
}

static void add_memory(const struct run *r, struct notices *l)
{
    for (uint32_t i = 0; i < r->n_device; i++) {
        const struct run_device *d = &r->device[i];
        double part = d->budget ? (double)d->real / (double)d->budget : 0;
        if (part > AMBER)
            add(l, part > 1 ? RUN_BAD : RUN_WARN, "%.0f %% of the memory budget is taken: %s of %s",
                100 * part, num_bytes(d->real).s, num_bytes(d->budget).s);
    }
    if (r->n_evicted)
        add(l, RUN_NOTE, "%llu snapshot%s evicted: going back there reads tokens again",
            (ull)r->n_evicted, r->n_evicted > 1 ? "s were" : " was");
}

static void add_tokens(const struct run *r, struct notices *l)
{
    const struct hlm_counters *c = &r->now;
    if (c->n_reread)
        add(l, RUN_WARN, "%llu token%s read again%s%.150s", (ull)c->n_reread,
            c->n_reread > 1 ? "s were" : " was", r->why[0] ? ": " : "", r->why);
    if (c->n_ctx && (double)c->n_used > NEARLY_FULL * c->n_ctx)
        add(l, RUN_NOTE, "the context is nearly full: %u of %u positions", c->n_used, c->n_ctx);
}

static void add_experts(const struct run *r, struct notices *l)
{
    uint32_t n = 0, worst = 0, most = 0;
    for (uint32_t i = 0; i < r->now.n_layer; i++) {
        uint32_t dead = run_n_dead(r, i);
        n += dead;
        if (dead > most) {
            most = dead;
            worst = i;
        }
    }
    if (n)
        add(l, RUN_WARN, "%u expert%s never chosen, most of them in layer %u: %u of %u", n,
            n > 1 ? "s were" : " was", worst, most, r->now.layer[worst].n_expert);
}

static void add_rest(const struct run *r, struct notices *l)
{
    double last = run_newest(r, SERIES_VALID);
    if (r->n_valid > 1 && last > r->best_valid * 1.02)
        add(l, RUN_NOTE, "validation was better at step %llu: %.4f, now %.4f", (ull)r->best_step,
            r->best_valid, last);
    if (r->last_log[0])
        add(l, RUN_NOTE, "%.190s", r->last_log);
    if (r->n_skipped)
        add(l, RUN_NOTE, "%llu line%s of the log could not be understood", (ull)r->n_skipped,
            r->n_skipped > 1 ? "s" : "");
}

static int by_level(const void *a, const void *b)
{
    const struct run_notice *x = a, *y = b;
    return (int)y->level - (int)x->level;
}

uint32_t run_notices(const struct run *r, struct run_notice out[RUN_MAX_NOTICE])
{
    struct notices l = { .out = out };
    add_ends(r, &l);
    add_broken(r, &l);
    add_silence(r, &l);
    add_memory(r, &l);
    add_tokens(r, &l);
    add_experts(r, &l);
    add_rest(r, &l);
    /* Few, and those of one level stay in the order above: an insertion sort is stable. */
    for (uint32_t i = 1; i < l.n; i++)
        for (uint32_t k = i; k > 0 && by_level(&out[k - 1], &out[k]) > 0; k--) {
            struct run_notice swap = out[k];
            out[k] = out[k - 1];
            out[k - 1] = swap;
        }
    return l.n;
}

double run_expert_part(const struct run *r, uint32_t i_layer, uint32_t e)
{
    const struct hlm_layer_count *l = &r->now.layer[i_layer < HLM_MAX_LAYER ? i_layer : 0];
    return i_layer < r->now.n_layer && e < l->n_expert ? r->now.bar[l->bar_at + e] / 255.0 : 0;
}

uint32_t run_n_dead(const struct run *r, uint32_t i_layer)
{
    uint32_t n = 0;
    if (i_layer >= r->now.n_layer)
        return 0;
    const struct hlm_layer_count *l = &r->now.layer[i_layer];
    for (uint32_t e = 0; e < l->n_expert; e++)
        n += !r->now.bar[l->bar_at + e];
    return l->n_chosen >= (uint64_t)EXPECTED * l->n_expert ? n : 0;
}
