/* test_monitor_live: a real hlm-chat is watched, and asked for what costs it something. It gives
 * that while somebody wants it, and its answers keep every bit. */
#define _GNU_SOURCE
#include "monitor/watch.h"
#include "run.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PROMPT "Tell me a story about a dog.\n"

struct live {
    pid_t pid;
    int to; /* its standard input */
    struct watch *w, *other;
    uint32_t i;
};

static void nap(void) { nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL); }

static bool attach(struct live *l)
{
    for (double until = now_s() + 60; now_s() < until; nap())
        if (watch_add_pid(l->w, (uint64_t)l->pid, &l->i, NULL))
            return CHECK(watch_add_pid(l->other, (uint64_t)l->pid, NULL, NULL));
    return FAIL("no ring of hlm-chat");
}

/* Sends a line, and waits for the turn that follows to end. False: it did not. */
static bool turn(struct live *l, const char *line, uint64_t n_gen, uint32_t wishes)
{
    const struct run *r = watch_get(l->w, l->i);
    if (wishes)
        watch_want(l->w, l->i, wishes);
    if (write(l->to, line, strlen(line)) != (ssize_t)strlen(line))
        return FAIL("hlm-chat does not read");
    for (double until = now_s() + 60; now_s() < until; nap()) {
        if (wishes)
            watch_want(l->w, l->i, wishes);
        watch_poll(l->w);
        watch_poll(l->other);
        if (r->now.n_gen >= n_gen && r->now.state == HLM_IDLE)
            return true;
    }
    return FAIL("%llu tokens, expected %llu", (unsigned long long)r->now.n_gen,
                (unsigned long long)n_gen);
}

/* As if two seconds had gone by. */
static void let_lapse(pid_t pid)
{
    char name[64];
    const uint64_t never[RING_WISHES] = { 0 };
    snprintf(name, sizeof name, "/hlm-%lu-%d", (unsigned long)geteuid(), (int)pid);
    int fd = shm_open(name, O_RDWR, 0);
    CHECK(fd >= 0 && pwrite(fd, never, sizeof never, offsetof(struct ring_head, until)) ==
                         (ssize_t)sizeof never);
    close(fd);
}

static uint64_t n_dispatch(const struct run *r)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < r->now.n_kernel; i++)
        n += r->now.kernel[i].n;
    return n;
}

static void talk(struct live *l)
{
    const struct run *r = watch_get(l->w, l->i);
    if (!turn(l, PROMPT, 40, 0))
        return;
    CHECK_EQ(r->now.n_kernel, 0);
    CHECK_EQ(r->now.n_layer, 0);
    CHECK_STR(r->program, "hlm-chat");
    CHECK(r->device[0].real > 0 && r->device[0].budget > r->device[0].real);
    CHECK(r->n_snapshot > 0 && r->n_snapshot_max > 0);
    CHECK(run_newest(r, SERIES_MEMORY) > 0);
    if (!turn(l, "/clear\n" PROMPT, 80, RING_TIME_KERNELS | RING_TELL_LAYERS))
        return;
    uint64_t n = n_dispatch(r);
    CHECK_MSG(r->now.n_kernel > 5 && n > 20, "%llu kernels, %llu dispatches",
              (unsigned long long)r->now.n_kernel, (unsigned long long)n);
    CHECK(r->now.n_layer > 0 && r->now.layer[0].n_state > 0);
    CHECK_EQ(n_dispatch(watch_get(l->other, 0)), n);
    let_lapse(l->pid);
    if (!turn(l, "/clear\n" PROMPT, 120, 0))
        return;
    /* The look at the states that came with the last figures was timed after them. */
    CHECK_MSG(n_dispatch(r) <= n + r->now.n_layer, "%llu dispatches, %llu before",
              (unsigned long long)n_dispatch(r), (unsigned long long)n);
}

static void check_answers(const char *text)
{
    size_t n = strlen(text) / 3;
    CHECK_MSG(n > 40 && strlen(text) == 3 * n && !memcmp(text, text + n, n) &&
                  !memcmp(text, text + 2 * n, n),
              "three answers to one question: %s", text);
}

void test_monitor_live(void)
{
    char fifo[512];
    struct live l = { .w = watch_create(), .other = watch_create(), .to = -1 };
    test_case("hlm-chat times kernels and reports layers only while a monitor asks for it");
    if (!test_gpu())
        return;
    snprintf(fifo, sizeof fifo, "%s/live.in", test_tmp());
    CHECK(mkfifo(fifo, 0600) == 0);
    l.to = open(fifo, O_RDWR | O_CLOEXEC); /* does not wait for a reader */
    l.pid = start("hlm-chat -m " DEMO " --lines -n 40 --temp 0", fifo, scratch("live.out"),
                  scratch("live.err"));
    bool there = attach(&l);
    if (there)
        talk(&l);
    close(l.to);
    CHECK_EQ(finish(l.pid), 0);
    if (there) {
        test_case("an answer keeps every bit, whoever watches");
        char *text = slurp(scratch("live.out"));
        check_answers(text);
        free(text);
        test_case("the end of the process is seen, and its last figures stay");
        watch_poll(l.w);
        CHECK_EQ(watch_get(l.w, l.i)->life, RUN_ENDED);
        CHECK_EQ(watch_get(l.w, l.i)->now.n_gen, 120);
    }
    watch_destroy(l.w);
    watch_destroy(l.other);
}
