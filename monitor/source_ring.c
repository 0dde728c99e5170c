/* source_ring: a run from the ring of a process. */
#include "monitor/source.h"
#include "ui/common_base.h"

#include <stdlib.h>
#include <time.h>

struct ring_source {
    struct ring_reader *reader;
    struct run *run;
    struct ring_sample sample;
    uint64_t n_lost;
};

/* What CLOCK_MONOTONIC showed at a time of CLOCK_REALTIME, as far as that is possible. */
static double clock_at(int64_t unix_s)
{
    double now = ui_now_s(), ago = difftime(time(NULL), (time_t)unix_s);
    return unix_s > 0 && ago >= 0 && ago <= now ? now - ago : now;
}

struct ring_source *ring_source_open(uint64_t pid, struct run *r, struct hlm_err *err)
{
    struct ring_source *s = ui_alloc(1, sizeof *s);
    if (!s) {
        ui_fail_memory(err, "process %llu: out of memory", (unsigned long long)pid);
        return NULL;
    }
    s->run = r;
    s->reader = ring_attach(pid, err);
    if (!s->reader) {
        free(s);
        return NULL;
    }
    const struct ring_head *h = ring_get_head(s->reader);
    run_is_ring(r, h, clock_at(h->start_unix));
    ring_source_poll(s);
    return s;
}

bool ring_source_poll(struct ring_source *s)
{
    enum ring_got got;
    uint32_t n = 0;
    /* A writer that is faster than we are must not keep us here. */
    while ((got = ring_next(s->reader, &s->sample, &s->n_lost)) == RING_SAMPLE && n++ < RING_SLOTS)
        run_take_sample(s->run, &s->sample, s->n_lost);
    if (got == RING_GONE) {
        const struct ring_head *h = ring_get_head(s->reader);
        run_end(s->run, atomic_load(&h->ended) ? RUN_ENDED : RUN_DIED);
        return false;
    }
    run_tick(s->run, ui_now_s());
    return true;
}

void ring_source_want(struct ring_source *s, uint32_t wishes)
{
    ring_want(s->reader, wishes, NULL); /* where it cannot be asked, its panels stay empty */
}

void ring_source_close(struct ring_source *s)
{
    if (s)
        ring_detach(s->reader);
    free(s);
}
