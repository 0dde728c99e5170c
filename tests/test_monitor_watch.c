/* test_monitor_watch: attaching to processes and files - by pid, by path, by following; ends,
 * deaths and new beginnings; logs that grow, are cut or begun anew; several monitors at once. */
#define _GNU_SOURCE
#include "monitor/watch.h"
#include "monitor_fake.h"
#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void nap(void) { nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL); }

/* A process with a ring of one sample, n_read. It ends well with SIGTERM, else dies. */
static pid_t process(uint64_t n_read)
{
    int up[2];
    char c;
    if (pipe(up) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        static struct hlm_counters counters;
        struct hlm_err err = { 0 };
        sigset_t term;
        int sig;
        sigemptyset(&term);
        sigaddset(&term, SIGTERM);
        sigprocmask(SIG_BLOCK, &term, NULL);
        struct ring *r = ring_create("hlm-fake", "--model\tm.gguf\n--seed\t7\n", 8, &err);
        counters.n_read = n_read;
        snprintf(counters.model, sizeof counters.model, "model-%llu", (unsigned long long)n_read);
        if (r)
            ring_publish(r, &counters);
        if (write(up[1], "x", 1) != 1)
            _exit(1);
        sigwait(&term, &sig);
        ring_destroy(r);
        _exit(0);
    }
    close(up[1]);
    bool there = read(up[0], &c, 1) == 1;
    close(up[0]);
    CHECK(there);
    return pid;
}

static void end(pid_t pid, int sig)
{
    kill(pid, sig);
    waitpid(pid, NULL, 0);
}

static const struct run *run_of(const struct watch *w, pid_t pid)
{
    const struct run *found = NULL;
    for (uint32_t i = 0; i < watch_n_run(w); i++)
        if (watch_get(w, i)->pid == (uint64_t)pid)
            found = watch_get(w, i);
    return found;
}

/* Polls until the run of pid is there and has this life. */
static bool becomes(struct watch *w, pid_t pid, enum run_life life)
{
    const struct run *r = NULL;
    for (double until = now_s() + 20; now_s() < until; nap()) {
        watch_poll(w);
        r = run_of(w, pid);
        if (r && r->life == life)
            return true;
    }
    return FAIL("process %d: %s", (int)pid, r ? "another life" : "not there");
}

static void test_follow(void)
{
    test_case("following: a new process is there by itself, ended ones stay");
    struct watch *w = watch_create();
    watch_follow(w, true);
    pid_t one = process(11);
    if (becomes(w, one, RUN_ALIVE)) {
        CHECK_EQ(run_of(w, one)->now.n_read, 11);
        CHECK_STR(run_of(w, one)->model, "model-11");
        CHECK_STR(run_of(w, one)->program, "hlm-fake");
        CHECK_STR(run_of(w, one)->version, HLM_VERSION);
        CHECK_EQ(run_of(w, one)->n_setting, 2);
        CHECK_STR(run_of(w, one)->setting[1].name, "--seed");
        CHECK_STR(run_of(w, one)->setting[1].value, "7");
    }
    end(one, SIGTERM);
    becomes(w, one, RUN_ENDED);
    pid_t two = process(22);
    becomes(w, two, RUN_ALIVE);
    CHECK(run_of(w, one) && run_of(w, one)->life == RUN_ENDED);
    const struct run *newest = watch_get(w, (uint32_t)watch_newest(w)); /* or somebody else's */
    CHECK(newest->life == RUN_ALIVE && newest->start_unix >= run_of(w, two)->start_unix);
    end(two, SIGKILL);
    becomes(w, two, RUN_DIED);
    watch_destroy(w);
}

static void test_quiet(void)
{
    struct hlm_err err = { 0 };
    test_case("where nothing is new there is nothing to draw");
    pid_t pid = process(3);
    struct watch *w = watch_create();
    CHECK_MSG(watch_add_pid(w, (uint64_t)pid, NULL, &err), "%s", err.msg);
    CHECK(watch_poll(w));
    CHECK(!watch_poll(w));
    end(pid, SIGKILL);
    CHECK(watch_poll(w));
    CHECK(!watch_poll(w));
    CHECK_EQ(watch_newest(w), 0); /* nobody else lives: the ended one is shown */
    watch_destroy(w);
}

static uint32_t n_mapping(void)
{
    uint32_t n = 0;
    char line[512];
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && fgets(line, sizeof line, f))
        n += strstr(line, "/dev/shm/hlm-") != NULL;
    if (f)
        fclose(f);
    return n;
}

static void test_attach_detach(void)
{
    test_case("attached and detached 200 times, by two monitors: nothing is left behind");
    pid_t pid = process(5);
    struct watch *other = watch_create(), *w = watch_create();
    struct hlm_err err = { 0 };
    uint32_t i, before = n_mapping();
    CHECK_MSG(watch_add_pid(other, (uint64_t)pid, NULL, &err), "%s", err.msg);
    for (uint32_t k = 0; k < 200; k++) {
        if (!CHECK_MSG(watch_add_pid(w, (uint64_t)pid, &i, &err), "%s", err.msg))
            break;
        watch_want(w, i, RING_TIME_KERNELS);
        watch_poll(w);
        CHECK_EQ(watch_get(w, i)->now.n_read, 5);
        watch_forget(w, i);
        CHECK_EQ(watch_n_run(w), 0);
    }
    CHECK_EQ(n_mapping(), before + 1);
    watch_poll(other);
    CHECK_EQ(watch_get(other, 0)->now.n_read, 5);
    CHECK_EQ(watch_get(other, 0)->life, RUN_ALIVE);
    watch_destroy(other);
    watch_destroy(w);
    CHECK_EQ(n_mapping(), before);
    end(pid, SIGTERM);
}

static void test_other_version(void)
{
    char name[64], says[64];
    struct hlm_err err = { 0 };
    test_case("a process of another version: one line names both");
    pid_t pid = process(5);
    snprintf(name, sizeof name, "/hlm-%lu-%d", (unsigned long)geteuid(), (int)pid);
    int fd = shm_open(name, O_RDWR, 0);
    uint32_t other = RING_VERSION + 7;
    CHECK(fd >= 0 && pwrite(fd, &other, 4, offsetof(struct ring_head, version)) == 4);
    close(fd);
    struct watch *w = watch_create();
    snprintf(says, sizeof says, "%d|version|%u.%d|%d.%d", (int)pid, other, HLM_COUNTERS_VERSION,
             RING_VERSION, HLM_COUNTERS_VERSION);
    CHECK_REFUSED(watch_add_pid(w, (uint64_t)pid, NULL, &err), err, says);
    CHECK_EQ(watch_n_run(w), 0);
    watch_follow(w, true);
    watch_poll(w);
    CHECK_SAYS(watch_refusal(w), "version");
    watch_destroy(w);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    shm_unlink(name);
}

static void test_list(void)
{
    char text[4096] = "", pid_text[32];
    test_case("--list names the process, its model and what it does");
    pid_t pid = process(9);
    FILE *f = fmemopen(text, sizeof text - 1, "w");
    CHECK_EQ(process_print_list(f), 0);
    fclose(f);
    snprintf(pid_text, sizeof pid_text, "%d|hlm-fake|model-9|idle", (int)pid);
    CHECK_SAYS(text, pid_text);
    end(pid, SIGKILL);
}

/* ---- files ----------------------------------------------------------------------------------- */

static const char *log_path(void)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/watched.jsonl", test_tmp());
    return path;
}

static void put(const char *mode, const char *text)
{
    FILE *f = fopen(log_path(), mode);
    CHECK(f && fputs(text, f) >= 0);
    if (f)
        fclose(f);
}

#define START "{\"event\":\"start\",\"t\":0,\"program\":\"hlm-tune\",\"version\":\"0.2.0\"}\n"
#define STEP(i) "{\"event\":\"step\",\"t\":" i ",\"step\":" i ",\"n_step\":9,\"loss\":2}\n"

static void test_growing(void)
{
    struct hlm_err err = { 0 };
    uint32_t i = 9;
    test_case("a log that grows while it is read, in pieces of lines");
    struct watch *w = watch_create();
    put("w", START STEP("1"));
    CHECK_MSG(watch_add(w, log_path(), &i, &err), "%s", err.msg);
    struct run *r = watch_get(w, i);
    CHECK_EQ(r->now.step, 1);
    CHECK_EQ(r->life, RUN_ALIVE);
    put("a", "{\"event\":\"step\",\"t\":2,\"st");
    watch_poll(w);
    CHECK_EQ(r->now.step, 1);
    CHECK_EQ(r->n_skipped, 0);
    put("a", "ep\":2,\"n_step\":9,\"loss\":1}\n\nnonsense\n" STEP("3"));
    CHECK(watch_poll(w));
    CHECK_EQ(r->now.step, 3);
    CHECK_EQ(r->n_skipped, 1);
    CHECK_EQ(r->series[SERIES_LOSS].n, 3);
    CHECK(!watch_poll(w));
    test_case("a log that is begun anew begins the run anew");
    put("w", START STEP("1"));
    watch_poll(w);
    CHECK_EQ(r->now.step, 1);
    CHECK_EQ(r->series[SERIES_LOSS].n, 1);
    CHECK_EQ(r->n_skipped, 0);
    test_case("a log that says that it ends has ended, and how");
    put("a", "{\"event\":\"end\",\"t\":5,\"exit\":1}\n");
    watch_poll(w);
    CHECK_EQ(r->life, RUN_ENDED);
    CHECK_EQ(r->exit_code, 1);
    test_case("the same file is watched once");
    CHECK(watch_add(w, log_path(), &i, &err));
    CHECK_EQ(watch_n_run(w), 1);
    watch_destroy(w);
}

static void test_dead_log(void)
{
    struct hlm_err err = { 0 };
    char text[256];
    test_case("a log without an end whose process is gone");
    pid_t pid = process(1);
    snprintf(text, sizeof text, "{\"event\":\"start\",\"t\":0,\"pid\":%d}\n" STEP("1"), (int)pid);
    put("w", text);
    struct watch *w = watch_create();
    CHECK_MSG(watch_add_file(w, log_path(), NULL, &err), "%s", err.msg);
    watch_poll(w);
    CHECK_EQ(watch_get(w, 0)->life, RUN_ALIVE);
    end(pid, SIGKILL);
    watch_poll(w);
    CHECK_EQ(watch_get(w, 0)->life, RUN_DIED);
    watch_destroy(w);
}

static void test_no_log(void)
{
    struct hlm_err err = { 0 };
    char path[600];
    struct watch *w = watch_create();
    test_case("what is no log is refused, with what was expected");
    CHECK_REFUSED(watch_add_file(w, "/nonexistent.jsonl", NULL, &err), err, "nonexistent.jsonl|No");
    CHECK_REFUSED(watch_add_file(w, test_tmp(), NULL, &err), err, "ordinary|log-json");
    put("w", "a,b\n1,2\n");
    CHECK_REFUSED(watch_add_file(w, log_path(), NULL, &err), err, "2 lines|no event|log-json");
    snprintf(path, sizeof path, "%s/watch-fifo", test_tmp());
    CHECK(mkfifo(path, 0600) == 0);
    CHECK_REFUSED(watch_add_file(w, path, NULL, &err), err, "ordinary");
    CHECK_REFUSED(watch_add(w, "999999999", NULL, &err), err, "hlm|999999999");
    CHECK_EQ(watch_n_run(w), 0);
    put("w", "");
    CHECK_MSG(watch_add_file(w, log_path(), NULL, &err), "an empty one is waited for: %s", err.msg);
    watch_destroy(w);
}

/* A line longer than any of hlm's takes no memory beyond its bound, and costs no other line. */
static void test_long_line(void)
{
    enum { N = 9 << 20 };
    struct hlm_err err = { 0 };
    test_case("a line of %d MiB is left out", N >> 20);
    char *text = malloc(N + 1);
    if (!CHECK(text))
        return;
    memset(text, 'x', N);
    text[N] = 0;
    put("w", START);
    put("a", text);
    put("a", "\n" STEP("4"));
    free(text);
    struct watch *w = watch_create();
    CHECK_MSG(watch_add_file(w, log_path(), NULL, &err), "%s", err.msg);
    for (uint32_t i = 0; i < 4; i++)
        watch_poll(w);
    CHECK_EQ(watch_get(w, 0)->n_skipped, 1);
    CHECK_EQ(watch_get(w, 0)->now.step, 4);
    watch_destroy(w);
}

void test_monitor_watch(void)
{
    struct hlm_err err = { 0 };
    test_case("shared memory is there");
    struct ring *r = ring_create("hlm-test", NULL, 2, &err);
    if (!r) {
        test_skip("%s", err.msg);
        return;
    }
    ring_destroy(r);
    test_follow();
    test_quiet();
    test_attach_detach();
    test_other_version();
    test_list();
    test_growing();
    test_dead_log();
    test_no_log();
    test_long_line();
}
