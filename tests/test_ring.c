/* test_ring: counters in shared memory, between processes. No torn sample is ever taken for a whole
 * one; only the owner may read; damaged rings are refused; rings of dead processes are removed. */
#define _GNU_SOURCE
#include "ui/ring.h"
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

static void nap(double s)
{
    nanosleep(
        &(struct timespec){ .tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9) },
        NULL);
}

static void ring_name(uint64_t pid, char *name, size_t size)
{
    snprintf(name, size, "/hlm-%lu-%llu", (unsigned long)geteuid(), (unsigned long long)pid);
}

static bool exists(uint64_t pid)
{
    char name[64];
    ring_name(pid, name, sizeof name);
    int fd = shm_open(name, O_RDONLY, 0);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Fills a sample with numbers that all follow from i. */
static void make_counters(struct hlm_counters *c, uint64_t i)
{
    *c = (struct hlm_counters){
        .state = HLM_GENERATING, .n_read = i, .n_gen = 3 * i, .n_kernel = HLM_MAX_COUNTED
    };
    snprintf(c->model, sizeof c->model, "%llu", (unsigned long long)i);
    for (uint32_t k = 0; k < HLM_MAX_COUNTED; k++)
        c->kernel[k] = (struct hlm_kernel_count){ .n = i + k, .us = (double)(i ^ k) };
}

static bool is_whole(const struct hlm_counters *c)
{
    struct hlm_counters want;
    make_counters(&want, c->n_read);
    return memcmp(c, &want, sizeof want) == 0;
}

/* Starts a child with a ring of n_slot slots that writes as fast as it can until it is killed or,
 * with n above 0, has written n samples. Returns once the ring exists. */
static pid_t writer(uint32_t n_slot, uint64_t n)
{
    pid_t pid = fork();
    if (pid == 0) {
        static struct hlm_counters c;
        struct hlm_err err = { 0 };
        struct ring *r = ring_create("writer", NULL, n_slot, &err);
        for (uint64_t i = 1; r && (n == 0 || i <= n); i++) {
            make_counters(&c, i);
            ring_publish(r, &c);
        }
        ring_destroy(r);
        _exit(r ? 0 : 1);
    }
    for (double end_s = now_s() + 30; pid > 0 && now_s() < end_s; nap(0.001)) {
        struct ring_reader *r = ring_attach((uint64_t)pid, NULL);
        bool there = r && atomic_load(&ring_get_head(r)->n_written) > 0;
        ring_detach(r);
        int status;
        if (there || (n && waitpid(pid, &status, WNOHANG) == pid))
            break;
    }
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* With two slots the writer keeps overwriting the slot that is being read. Most copies are torn,
 * and only the sequence numbers show it. */
static void test_torn(uint32_t n_slot)
{
    test_case("a fast writer, %u slots: no torn sample", n_slot);
    pid_t pid = writer(n_slot, 0);
    struct hlm_err err = { 0 };
    struct ring_reader *r = ring_attach((uint64_t)pid, &err);
    static struct ring_sample s;
    uint64_t n = 0, lost = 0, torn = 0, last = 0, backwards = 0;
    CHECK_MSG(r, "%s", err.msg);
    double begin_s = now_s(); /* a busy machine rarely runs both at once */
    while (r && now_s() < begin_s + (n < 200 || (n_slot == 2 && !lost) ? 20 : 0.5)) {
        if (ring_next(r, &s, &lost) != RING_SAMPLE)
            continue;
        backwards += n && s.number <= last;
        last = s.number;
        torn += !is_whole(&s.c);
        n++;
    }
    CHECK_MSG(n >= 200, "%llu samples were read", (unsigned long long)n);
    CHECK_EQ(torn, 0);
    CHECK_EQ(backwards, 0);
    CHECK_MSG(n_slot > 2 || lost > 0, "the writer was not fast: the test shows nothing");
    test_note("  %llu samples read, %llu lost", (unsigned long long)n, (unsigned long long)lost);
    ring_detach(r);
    end_child(pid);
}

static void test_order(struct ring *w, struct ring_reader *r)
{
    static struct hlm_counters c;
    static struct ring_sample s;
    uint64_t lost = 0;
    test_case("one process: samples in order, lost ones are counted");
    CHECK_STR(ring_get_head(r)->program, "hlm-test");
    CHECK_EQ(ring_next(r, &s, &lost), RING_NONE);
    for (uint64_t i = 0; i < 5; i++) {
        make_counters(&c, i);
        c.state = HLM_IDLE; /* so that only what is published here is written */
        ring_publish(w, &c);
    }
    for (uint64_t i = 0; i < 5; i++) {
        CHECK_EQ(ring_next(r, &s, &lost), RING_SAMPLE);
        CHECK_EQ(s.number, i);
        CHECK_EQ(s.c.n_read, i);
    }
    CHECK_EQ(ring_next(r, &s, &lost), RING_NONE);
    CHECK_EQ(lost, 0);
    for (uint64_t i = 5; i < 25; i++) {
        c.n_read = i;
        ring_publish(w, &c);
    }
    uint64_t n = 0;
    while (ring_next(r, &s, &lost) == RING_SAMPLE)
        CHECK(++n + lost == s.number + 1 - 5 && s.c.n_read == s.number);
    CHECK_EQ(n + lost, 20);
    CHECK(n >= 4 && lost >= 12);
}

static void test_listed(void)
{
    struct stat st;
    char name[64], path[96];
    uint64_t pids[8];
    test_case("a ring is readable by its owner alone, and listed");
    ring_name((uint64_t)getpid(), name, sizeof name);
    snprintf(path, sizeof path, "/dev/shm%s", name);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600 && st.st_uid == geteuid());
    uint32_t n_list = ring_list(pids, ARRAY_LEN(pids)), mine = 0;
    for (uint32_t i = 0; i < n_list && i < ARRAY_LEN(pids); i++)
        mine += pids[i] == (uint64_t)getpid();
    CHECK_MSG(mine == 1 || n_list > ARRAY_LEN(pids), "%u of %u", mine, n_list);
}

static void test_repeated(struct ring *w, struct ring_reader *r)
{
    static struct hlm_counters c;
    static struct ring_sample s;
    uint64_t lost = 0, n = 0;
    test_case("a sample of work is repeated while the work lasts, an idle one is not");
    make_counters(&c, 25);
    nap(0.4);
    CHECK_EQ(ring_next(r, &s, &lost), RING_NONE);
    c.state = HLM_READING;
    ring_publish(w, &c);
    nap(1.1);
    while (ring_next(r, &s, &lost) == RING_SAMPLE)
        n++;
    CHECK_MSG(n >= 3, "%llu samples in 1.1 s", (unsigned long long)n);
    CHECK_MSG(n <= 2 + (uint64_t)(4 * (s.time_s - s.count_s)), "%llu samples in %.2f s",
              (unsigned long long)n, s.time_s - s.count_s);
    CHECK_MSG(s.time_s - s.count_s > 0.4, "%.2f s", s.time_s - s.count_s);
}

/* Ends both. */
static void test_end(struct ring *w, struct ring_reader *r)
{
    static struct hlm_counters c;
    static struct ring_sample s;
    struct hlm_err err = { 0 };
    uint64_t lost = 0;
    test_case("the end: the last sample can still be read, and the name is gone");
    make_counters(&c, 25);
    c.state = HLM_IDLE;
    c.n_read = 77;
    ring_publish(w, &c);
    ring_destroy(w);
    CHECK_EQ(ring_next(r, &s, &lost), RING_SAMPLE);
    CHECK_EQ(s.c.n_read, 77);
    CHECK_EQ(ring_next(r, &s, &lost), RING_GONE);
    ring_detach(r);
    CHECK(!exists((uint64_t)getpid()));
    CHECK_REFUSED(ring_attach((uint64_t)getpid(), &err), err, "hlm");
}

static void test_reading(void)
{
    struct hlm_err err = { 0 };
    test_case("one process writes and reads");
    struct ring *w = ring_create("hlm-test", NULL, 8, &err);
    struct ring_reader *r = w ? ring_attach((uint64_t)getpid(), &err) : NULL;
    if (!CHECK_MSG(r, "%s", err.msg)) {
        ring_destroy(w);
        return;
    }
    test_order(w, r);
    test_listed();
    test_repeated(w, r);
    test_end(w, r);
}

/* Values that must not be in the head of a ring. Each is written over the head of a whole one. */
static void test_ring_refused(void)
{
    static const struct {
        uint64_t at;
        uint32_t size;
        uint64_t value;
        const char *says;
    } bad[] = {
        { offsetof(struct ring_head, magic), 8, 7, "ring" },
        { offsetof(struct ring_head, version), 4, RING_VERSION + 1, "version|3.5|2.5" },
        { offsetof(struct ring_head, counters_version), 4, 9, "version|2.9|2.5" },
        { offsetof(struct ring_head, head_bytes), 4, 8, "head|8" },
        { offsetof(struct ring_head, sample_bytes), 4, 100, "samples|100" },
        { offsetof(struct ring_head, n_slot), 4, 0, "head of" },
        { offsetof(struct ring_head, n_slot), 4, UINT32_MAX, "head of" },
    };
    char name[64];
    struct hlm_err err = { 0 };
    ring_name((uint64_t)getpid(), name, sizeof name);
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        test_case("refused: %s", bad[i].says);
        struct ring *w = ring_create("hlm-test", NULL, 2, &err);
        int fd = shm_open(name, O_RDWR, 0);
        if (CHECK_MSG(w && fd >= 0, "%s", err.msg)) {
            CHECK_EQ(pwrite(fd, &bad[i].value, bad[i].size, (off_t)bad[i].at), bad[i].size);
            CHECK_REFUSED(ring_attach((uint64_t)getpid(), &err), err, bad[i].says);
            close(fd);
        }
        err = (struct hlm_err){ 0 };
        ring_destroy(w);
    }
}

static void test_changed_later(void)
{
    char name[64];
    struct hlm_err err = { 0 };
    ring_name((uint64_t)getpid(), name, sizeof name);
    test_case("the number of slots stays the one that was checked, whatever the head says later");
    static const struct hlm_counters rest = { .n_read = 5 };
    static struct ring_sample s;
    struct ring *own = ring_create("hlm-test", NULL, 2, &err);
    struct ring_reader *r = ring_attach((uint64_t)getpid(), &err);
    int head = shm_open(name, O_RDWR, 0);
    if (CHECK_MSG(own && r && head >= 0, "%s", err.msg)) {
        ring_publish(own, &rest);
        CHECK_EQ(pwrite(head, &(uint32_t){ 0 }, 4, offsetof(struct ring_head, n_slot)), 4);
        CHECK_EQ(ring_next(r, &s, NULL), RING_SAMPLE);
        CHECK_EQ(s.c.n_read, 5);
    }
    close(head);
    ring_detach(r);
    ring_destroy(own);
}

static void test_ring_cut(void)
{
    char name[64];
    struct hlm_err err = { 0 };
    ring_name((uint64_t)getpid(), name, sizeof name);
    test_case("refused: one that is cut short");
    struct ring *w = ring_create("hlm-test", NULL, 4, &err);
    int fd = shm_open(name, O_RDWR, 0);
    if (CHECK_MSG(w && fd >= 0, "%s", err.msg)) {
        for (off_t n = sizeof(struct ring_head) + 4 * sizeof(struct ring_slot) - 1; n >= 0;
             n = n > 1000 ? n / 2 : n - 333) {
            CHECK(ftruncate(fd, n) == 0);
            CHECK(!ring_attach((uint64_t)getpid(), &err));
            CHECK(err.kind);
            err = (struct hlm_err){ 0 };
        }
        close(fd);
    }
    ring_destroy(w);
}

/* The ring of a killed process is removed when the next process starts; that of a living one stays.
 */
static void test_killed(void)
{
    struct hlm_err err = { 0 };
    static struct ring_sample s;
    uint64_t pids[64];
    test_case("a ring whose process was killed is recognised, and removed");
    pid_t dead = writer(4, 0), living = writer(4, 0);
    struct ring_reader *r = ring_attach((uint64_t)dead, &err);
    CHECK_MSG(r, "%s", err.msg);
    end_child(dead);
    enum ring_got got = RING_SAMPLE;
    while (r && got == RING_SAMPLE)
        got = ring_next(r, &s, NULL);
    CHECK_EQ(got, RING_GONE);
    ring_detach(r);
    CHECK(exists((uint64_t)dead));
    uint32_t n = ring_list(pids, ARRAY_LEN(pids)), n_dead = 0, n_living = 0;
    for (uint32_t i = 0; i < n && i < ARRAY_LEN(pids); i++) {
        n_dead += pids[i] == (uint64_t)dead;
        n_living += pids[i] == (uint64_t)living;
    }
    CHECK_EQ(n_dead, 0);
    CHECK(n_living == 1 || n > ARRAY_LEN(pids));
    struct ring *w = ring_create("hlm-test", NULL, 0, &err);
    CHECK_MSG(w, "%s", err.msg);
    CHECK(!exists((uint64_t)dead));
    CHECK(exists((uint64_t)living));
    ring_destroy(w);
    end_child(living);
}

static void test_pid_reused(void)
{
    struct hlm_err err = { 0 };
    char name[64];
    test_case("the ring of a dead process whose pid another process has now");
    pid_t child = fork();
    if (child == 0) {
        for (;;)
            pause();
    }
    ring_name((uint64_t)child, name, sizeof name);
    struct ring *w = ring_create("hlm-test", NULL, 2, &err);
    if (CHECK_MSG(w, "%s", err.msg)) { /* our ring under the child's name: the start times differ */
        char mine[64], from[128], to[128];
        ring_name((uint64_t)getpid(), mine, sizeof mine);
        snprintf(from, sizeof from, "/dev/shm%s", mine);
        snprintf(to, sizeof to, "/dev/shm%s", name);
        CHECK(rename(from, to) == 0);
        int fd = shm_open(name, O_RDWR, 0);
        uint64_t pid = (uint64_t)child;
        CHECK(fd >= 0 && pwrite(fd, &pid, 8, offsetof(struct ring_head, pid)) == 8);
        uint64_t tick = 1;
        CHECK(pwrite(fd, &tick, 8, offsetof(struct ring_head, start_tick)) == 8);
        close(fd);
        struct ring *other = ring_create("hlm-test", NULL, 2, &err);
        CHECK_MSG(other, "%s", err.msg);
        CHECK(!exists((uint64_t)child));
        ring_destroy(other);
    }
    ring_destroy(w);
    end_child(child);
}

static void test_own_name(void)
{
    struct hlm_err err = { 0 };
    char name[64];
    test_case("our own name, left by a dead process, is taken over");
    ring_name((uint64_t)getpid(), name, sizeof name);
    int fd = shm_open(name, O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0 && pwrite(fd, "x", 1, 0) == 1);
    close(fd);
    struct ring *w = ring_create("hlm-test", NULL, 2, &err);
    CHECK_MSG(w, "%s", err.msg);
    struct ring_reader *r = ring_attach((uint64_t)getpid(), &err);
    CHECK_MSG(r, "%s", err.msg);
    ring_detach(r);
    ring_destroy(w);
    CHECK(!exists((uint64_t)getpid()));
}

static void test_ended(void)
{
    struct hlm_err err = { 0 };
    char name[64], fifo[96];
    test_case("a writer that ends removes its name");
    pid_t ended = writer(4, 100);
    waitpid(ended, NULL, 0);
    CHECK(!exists((uint64_t)ended));

    test_case("a FIFO with the name of a ring blocks no process");
    ring_name((uint64_t)ended, name, sizeof name);
    snprintf(fifo, sizeof fifo, "/dev/shm%s", name);
    if (CHECK(mkfifo(fifo, 0600) == 0)) {
        CHECK(!ring_attach((uint64_t)ended, &err));
        err = (struct hlm_err){ 0 };
        struct ring *w = ring_create("hlm-test", NULL, 2, &err);
        CHECK_MSG(w, "%s", err.msg);
        CHECK(!exists((uint64_t)ended));
        ring_destroy(w);
        unlink(fifo);
    }
}

/* Any process of this user may have written what a monitor reads. */
static void test_sound(void)
{
    static struct hlm_counters c;
    static struct ring_sample got;
    struct hlm_err err = { 0 };
    test_case("a sample of nonsense is read as terminated texts and indices in range");
    memset(&c, 0xff, sizeof c);
    struct ring *w = ring_create("hlm-test", NULL, 2, &err);
    CHECK_MSG(w, "%s", err.msg);
    struct ring_reader *r = ring_attach((uint64_t)getpid(), &err);
    CHECK_MSG(r, "%s", err.msg);
    if (w && r) {
        ring_publish(w, &c);
        CHECK_EQ(ring_next(r, &got, NULL), RING_SAMPLE);
        CHECK_EQ(strlen(got.c.model), sizeof c.model - 1);
        CHECK_EQ(strlen(got.c.error), sizeof c.error - 1);
        CHECK_EQ(strlen(got.c.kernel[HLM_MAX_COUNTED - 1].name), sizeof c.kernel[0].name - 1);
        CHECK_EQ(got.c.state, HLM_IDLE);
        CHECK_EQ(got.c.n_kernel, HLM_MAX_COUNTED);
        CHECK_EQ(got.c.n_layer, HLM_MAX_LAYER);
        CHECK(!got.c.layer[0].n_expert && !got.c.layer[HLM_MAX_LAYER - 1].bar_at);
    }
    ring_detach(r);
    ring_destroy(w);
}

/* What a monitor asks for holds for its lease, and nothing that another writes there is a wish. */
static void test_wishes(void)
{
    struct hlm_err err = { 0 };
    char name[64];
    test_case("wishes hold for their lease, and lapse");
    ring_name((uint64_t)getpid(), name, sizeof name);
    struct ring *w = ring_create("hlm-test", NULL, 2, &err);
    struct ring_reader *a = ring_attach((uint64_t)getpid(), &err);
    struct ring_reader *b = ring_attach((uint64_t)getpid(), &err);
    int fd = shm_open(name, O_RDWR, 0);
    if (CHECK_MSG(w && a && b && fd >= 0, "%s", err.msg)) {
        CHECK_EQ(ring_wanted(w), 0);
        CHECK_MSG(ring_want(a, RING_TIME_KERNELS, &err), "%s", err.msg);
        CHECK_EQ(ring_wanted(w), RING_TIME_KERNELS);
        CHECK_MSG(ring_want(b, RING_TELL_LAYERS | ~3u, &err), "%s", err.msg);
        CHECK_EQ(ring_wanted(w), RING_TIME_KERNELS | RING_TELL_LAYERS);
        uint64_t now = (uint64_t)(now_s() * 1e3), lease = (uint64_t)(1e3 * RING_LEASE_S);
        const struct {
            uint64_t until;
            uint32_t wanted;
        } row[] = { { now - 1, 0 },    { now + 1000, 1 },      { now + 2 * lease, 0 },
                    { UINT64_MAX, 0 }, { now + lease / 2, 1 }, { 0, 0 } };
        CHECK(pwrite(fd, &(uint64_t){ 0 }, 8, offsetof(struct ring_head, until[1])) == 8);
        for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
            CHECK(pwrite(fd, &row[i].until, 8, offsetof(struct ring_head, until)) == 8);
            CHECK_EQ(ring_wanted(w), row[i].wanted);
        }
        close(fd);
    }
    ring_detach(a);
    ring_detach(b);
    test_case("what has the name of a process that is gone is not asked");
    struct ring_reader *late = ring_attach((uint64_t)getpid(), &err);
    ring_destroy(w);
    CHECK_REFUSED(late && ring_want(late, RING_TIME_KERNELS, &err), err, "hlm");
    ring_detach(late);
}

static void test_open_to_others(void)
{
    struct hlm_err err = { 0 };
    char name[64];
    test_case("a ring that others may open is refused");
    ring_name((uint64_t)getpid(), name, sizeof name);
    struct ring *w = ring_create("hlm-test", NULL, 2, &err);
    int fd = shm_open(name, O_RDWR, 0);
    CHECK(w && fd >= 0 && fchmod(fd, 0644) == 0);
    CHECK_REFUSED(ring_attach((uint64_t)getpid(), &err), err, "mode|644|600");
    close(fd);
    ring_destroy(w);
}

/* A sample must cost far less than a token takes. */
static void test_cost(void)
{
    static struct hlm_counters c;
    struct hlm_err err = { 0 };
    test_case("a sample costs next to nothing");
    struct ring *w = ring_create("hlm-test", NULL, 0, &err);
    if (!CHECK_MSG(w, "%s", err.msg))
        return;
    make_counters(&c, 1);
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (uint32_t i = 0; i < 2000; i++)
        ring_publish(w, &c);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    double us = (double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) * 1e-3;
    us /= 2000;
    test_note("  %.2f us a sample of %zu bytes", us, sizeof(struct ring_sample));
    CHECK_MSG(us < 200, "%.2f us", us); /* there are 4 a second */
    ring_destroy(w);
}

void test_ring(void)
{
    struct hlm_err err = { 0 };
    test_case("shared memory is there");
    struct ring *w = ring_create("hlm-test", NULL, 0, &err);
    if (!w) {
        test_skip("%s", err.msg);
        return;
    }
    ring_destroy(w);
    test_torn(2);
    test_torn(16);
    test_reading();
    test_ring_refused();
    test_changed_later();
    test_ring_cut();
    test_killed();
    test_pid_reused();
    test_own_name();
    test_ended();
    test_sound();
    test_wishes();
    test_open_to_others();
    test_cost();
}
