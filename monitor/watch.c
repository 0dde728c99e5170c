/* watch: see watch.h. */
#include "monitor/watch.h"
#include "monitor/process.h"
#include "monitor/source.h"
#include "ui/common_base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_S 0.4 /* between two looks for new processes */

struct watched {
    struct run *run;
    struct ring_source *ring; /* NULL: a log, or an ended process */
    struct log_source *log;
    uint64_t n_change; /* of the run, when the last poll ended */
};

struct watch {
    struct watched v[WATCH_MAX_RUN];
    uint32_t n;
    bool follows;
    double looked_s;
    char refusal[256];
};

struct watch *watch_create(void) { return ui_alloc(1, sizeof(struct watch)); }

static void close_one(struct watched *v)
{
    ring_source_close(v->ring);
    log_source_close(v->log);
    run_destroy(v->run);
}

void watch_destroy(struct watch *w)
{
    if (!w)
        return;
    for (uint32_t i = 0; i < w->n; i++)
        close_one(&w->v[i]);
    free(w);
}

void watch_forget(struct watch *w, uint32_t i)
{
    if (i >= w->n)
        return;
    close_one(&w->v[i]);
    memmove(&w->v[i], &w->v[i + 1], (--w->n - i) * sizeof w->v[0]);
}

/* Makes room for one more run. If the list is full, the oldest run that has ended is removed. */
static bool make_room(struct watch *w, struct hlm_err *err)
{
    if (w->n < WATCH_MAX_RUN)
        return true;
    for (uint32_t i = 0; i < w->n; i++)
        if (w->v[i].run->life != RUN_ALIVE) {
            watch_forget(w, i);
            return true;
        }
    return ui_fail(err, "%d runs are watched already: no more at once", WATCH_MAX_RUN);
}

/* After those that began before it. */
static uint32_t insert(struct watch *w, const struct watched *v)
{
    uint32_t at = w->n++;
    while (at && w->v[at - 1].run->start_unix > v->run->start_unix) {
        w->v[at] = w->v[at - 1];
        at--;
    }
    w->v[at] = *v;
    return at;
}

static bool add(struct watch *w, struct watched v, uint32_t *i, struct hlm_err *err)
{
    if ((!v.ring && !v.log) || !make_room(w, err)) {
        close_one(&v);
        return false;
    }
    uint32_t at = insert(w, &v);
    if (i)
        *i = at;
    return true;
}

bool watch_add_pid(struct watch *w, uint64_t pid, uint32_t *i, struct hlm_err *err)
{
    for (uint32_t k = 0; k < w->n; k++)
        if (w->v[k].ring && w->v[k].run->pid == pid) {
            if (i)
                *i = k;
            return true;
        }
    struct watched v = { .run = run_create() };
    if (!v.run)
        return ui_fail_memory(err, "process %llu: out of memory", (unsigned long long)pid);
    v.ring = ring_source_open(pid, v.run, err);
    return add(w, v, i, err);
}

bool watch_add_file(struct watch *w, const char *path, uint32_t *i, struct hlm_err *err)
{
    struct watched v = { .run = run_create() };
    if (!v.run)
        return ui_fail_memory(err, "%.300s: out of memory", path);
    v.log = log_source_open(path, v.run, err);
    for (uint32_t k = 0; v.log && k < w->n; k++)
        if (w->v[k].log && strcmp(w->v[k].run->path, v.run->path) == 0) {
            close_one(&v);
            if (i)
                *i = k;
            return true;
        }
    return add(w, v, i, err);
}

bool watch_add(struct watch *w, const char *what, uint32_t *i, struct hlm_err *err)
{
    char *end = NULL;
    unsigned long long pid = strtoull(what, &end, 10);
    bool is_pid = *what >= '0' && *what <= '9' && !*end;
    return is_pid ? watch_add_pid(w, pid, i, err) : watch_add_file(w, what, i, err);
}

void watch_follow(struct watch *w, bool on)
{
    w->follows = on;
    w->looked_s = 0;
}

/* Attaches to every process that is new. */
static bool look(struct watch *w)
{
    uint64_t pid[2 * WATCH_MAX_RUN];
    struct hlm_err err = { 0 };
    uint32_t n_before = w->n, n = ring_list(pid, ARRAY_LEN(pid));
    char refusal[sizeof w->refusal];
    for (uint32_t i = 0; i < n && i < ARRAY_LEN(pid); i++)
        watch_add_pid(w, pid[i], NULL, &err);
    process_refusal(refusal, sizeof refusal);
    bool news = w->n != n_before || strcmp(refusal, w->refusal) != 0;
    memcpy(w->refusal, refusal, sizeof refusal);
    w->looked_s = ui_now_s();
    return news;
}

bool watch_poll(struct watch *w)
{
    bool news = w->follows && ui_now_s() - w->looked_s >= LOOK_S && look(w);
    for (uint32_t i = 0; i < w->n; i++) {
        struct watched *v = &w->v[i];
        if (v->ring && !ring_source_poll(v->ring)) {
            ring_source_close(v->ring);
            v->ring = NULL;
        }
        if (v->log)
            log_source_poll(v->log);
        news |= v->n_change != v->run->n_change;
        v->n_change = v->run->n_change;
    }
    return news;
}

uint32_t watch_n_run(const struct watch *w) { return w->n; }
struct run *watch_get(const struct watch *w, uint32_t i) { return i < w->n ? w->v[i].run : NULL; }
const char *watch_refusal(const struct watch *w) { return w->refusal; }

int watch_newest(const struct watch *w)
{
    for (uint32_t i = w->n; i-- > 0;)
        if (w->v[i].run->life == RUN_ALIVE)
            return (int)i;
    return (int)w->n - 1;
}

void watch_want(struct watch *w, uint32_t i, uint32_t what)
{
    if (i < w->n && w->v[i].ring)
        ring_source_want(w->v[i].ring, what);
}
