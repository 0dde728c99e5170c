/* ring: see ring.h. */
#define _GNU_SOURCE /* 64-bit offsets and POSIX at once */
#include "ring.h"
#include "common_base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct ring_sample) % 8 == 0, "a sample is copied as whole words");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock in shared memory would not be one");

enum { WORDS = sizeof(struct ring_sample) / 8, NAME = 64 };
#define BEAT_S 0.25

/* ---- names and processes --------------------------------------------------------------------- */

static void name_of(uint64_t pid, char name[NAME])
{
    snprintf(name, NAME, "/hlm-%lu-%llu", (unsigned long)geteuid(), (unsigned long long)pid);
}

/* Containers may share memory but not processes; the same pid is then another process. */
static uint64_t pid_space(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* The time when a process began, which with the pid identifies it for ever. 0: unknown. */
static uint64_t start_tick(uint64_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = 0;
    char *at = strrchr(text, ')'); /* a process may have any name, blanks too */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

/* True if the process that made this ring still exists, or may exist. */
static bool alive(const struct ring_head *h)
{
    if (h->pid_space != pid_space())
        return true; /* it cannot be known from here */
    if (kill((pid_t)h->pid, 0) != 0 && errno == ESRCH)
        return false;
    uint64_t tick = start_tick(h->pid);
    return !tick || !h->start_tick || tick == h->start_tick;
}

static uint64_t ring_bytes(uint32_t n_slot)
{
    return sizeof(struct ring_head) + (uint64_t)n_slot * sizeof(struct ring_slot);
}

static struct ring_slot *slot_of(struct ring_head *h, uint32_t n_slot, uint64_t number)
{
    return (struct ring_slot *)(void *)(h + 1) + number % n_slot;
}

/* ---- attaching ------------------------------------------------------------------------------- */

struct ring_reader {
    struct ring_head *head; /* mapped for reading */
    struct ring_head *wish; /* the head once more, for writing; NULL: nothing was asked for yet */
    uint64_t bytes, next;
    uint32_t n_slot; /* the checked value: the writer could change that of the head */
    char name[NAME];
};

static bool check_head(struct ring_reader *r, const char *name, struct hlm_err *err)
{
    const struct ring_head *h = r->head;
    uint64_t bytes = r->bytes;
    if (bytes < sizeof *h || atomic_load_explicit(&h->magic, memory_order_acquire) != RING_MAGIC)
        return ui_fail(err, "%s: no complete ring of an hlm program", name);
    r->n_slot = *(const volatile uint32_t *)&h->n_slot;
    if (h->version != RING_VERSION || h->counters_version != HLM_COUNTERS_VERSION)
        return ui_fail(err, "%s: a program of another version: its ring is %u.%u, expected %d.%d",
                       name, h->version, h->counters_version, RING_VERSION, HLM_COUNTERS_VERSION);
    if (h->head_bytes != sizeof *h || h->sample_bytes != sizeof(struct ring_sample) ||
        r->n_slot == 0 || bytes < ring_bytes(r->n_slot))
        return ui_fail(err, "%s: head of %u, samples of %u bytes in %llu, expected %zu and %zu",
                       name, h->head_bytes, h->sample_bytes, (unsigned long long)bytes, sizeof *h,
                       sizeof(struct ring_sample));
    return true;
}

/* Maps an object that is this user's alone, whatever is in it: all of it for reading, or with
 * `writes` its head for writing too. Anybody can put a FIFO by that name there, and opening one
 * must not wait. */
static struct ring_head *map_name(const char *name, bool writes, uint64_t *bytes,
                                  struct hlm_err *err)
{
    struct stat st = { 0 };
    void *at = MAP_FAILED;
    int fd = shm_open(name, (writes ? O_RDWR : O_RDONLY) | O_NONBLOCK, 0);
    if (fd < 0 || fstat(fd, &st) != 0)
        ui_fail_system(err, "%s: %s", name, strerror(errno));
    else if (st.st_uid != geteuid())
        ui_fail(err, "%s: belongs to user %lu, not to you", name, (unsigned long)st.st_uid);
    else if (st.st_mode & 077)
        ui_fail(err, "%s: mode %03o lets others in, expected 600", name, st.st_mode & 0777);
    else if (st.st_size < (off_t)sizeof(struct ring_head))
        ui_fail(err, "%s: no complete ring of an hlm program", name);
    else if ((at = mmap(NULL, writes ? sizeof(struct ring_head) : (size_t)st.st_size,
                        writes ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0)) ==
             MAP_FAILED)
        ui_fail_system(err, "%s: %s", name, strerror(errno));
    if (fd >= 0)
        close(fd);
    *bytes = at == MAP_FAILED ? 0 : (uint64_t)st.st_size;
    return at == MAP_FAILED ? NULL : at;
}

struct ring_reader *ring_attach(uint64_t pid, struct hlm_err *err)
{
    struct ring_reader *r = ui_alloc(1, sizeof *r);
    if (!r) {
        ui_fail_memory(err, "ring of process %llu: out of memory", (unsigned long long)pid);
        return NULL;
    }
    name_of(pid, r->name);
    r->head = map_name(r->name, false, &r->bytes, err);
    if (!r->head || !check_head(r, r->name, err)) {
        ring_detach(r);
        return NULL;
    }
    uint64_t n = atomic_load_explicit(&r->head->n_written, memory_order_acquire);
    r->next = n > r->n_slot ? n - r->n_slot : 0;
    return r;
}

void ring_detach(struct ring_reader *r)
{
    if (r && r->head)
        munmap(r->head, (size_t)r->bytes);
    if (r && r->wish)
        munmap(r->wish, sizeof *r->wish);
    free(r);
}

const struct ring_head *ring_get_head(const struct ring_reader *r) { return r->head; }

/* What another process wrote may be anything: texts end, and numbers index what there is. */
static void make_sound(struct hlm_counters *c)
{
    char *const text[] = { c->model, c->arch, c->device,        c->driver,
                           c->error, c->why,  c->sample_prompt, c->sample_text };
    const size_t size[] = { sizeof c->model,         sizeof c->arch,       sizeof c->device,
                            sizeof c->driver,        sizeof c->error,      sizeof c->why,
                            sizeof c->sample_prompt, sizeof c->sample_text };
    for (size_t i = 0; i < ARRAY_LEN(text); i++)
        text[i][size[i] - 1] = 0;
    if (c->state > HLM_VALIDATING)
        c->state = HLM_IDLE;
    c->n_memory = ui_min_u64(c->n_memory, HLM_MAX_PURPOSE);
    for (uint32_t i = 0; i < HLM_MAX_PURPOSE; i++)
        c->memory[i].purpose[sizeof c->memory[i].purpose - 1] = 0;
    c->n_kernel = ui_min_u64(c->n_kernel, HLM_MAX_COUNTED);
    for (uint32_t i = 0; i < HLM_MAX_COUNTED; i++)
        c->kernel[i].name[sizeof c->kernel[i].name - 1] = 0;
    c->n_layer = ui_min_u64(c->n_layer, HLM_MAX_LAYER);
    for (uint32_t i = 0; i < HLM_MAX_LAYER; i++) {
        struct hlm_layer_count *l = &c->layer[i];
        if (l->bar_at > HLM_MAX_BAR || l->n_expert > HLM_MAX_BAR - l->bar_at)
            l->n_expert = l->bar_at = 0;
    }
}

enum ring_got ring_next(struct ring_reader *r, struct ring_sample *out, uint64_t *lost)
{
    struct ring_head *h = r->head;
    for (;;) {
        bool ended = atomic_load_explicit(&h->ended, memory_order_acquire) != 0;
        uint64_t n = atomic_load_explicit(&h->n_written, memory_order_acquire);
        if (r->next >= n)
            return ended || !alive(h) ? RING_GONE : RING_NONE;
        struct ring_slot *s = slot_of(h, r->n_slot, r->next);
        uint64_t word[WORDS], seq = atomic_load_explicit(&s->seq, memory_order_acquire);
        if (seq == 2 * r->next + 2) {
            for (uint32_t i = 0; i < WORDS; i++)
                word[i] = atomic_load_explicit(&s->word[i], memory_order_relaxed);
            atomic_thread_fence(memory_order_acquire);
            if (atomic_load_explicit(&s->seq, memory_order_relaxed) == seq) {
                memcpy(out, word, sizeof *out);
                make_sound(&out->c);
                r->next++;
                return RING_SAMPLE;
            }
        }
        /* It is gone. What is in the middle of the ring now will stay for a while. */
        n = atomic_load_explicit(&h->n_written, memory_order_acquire);
        uint64_t to = ui_max_u64(r->next + 1, n - ui_min_u64(n, r->n_slot / 2 + 1));
        if (lost)
            *lost += to - r->next;
        r->next = to;
    }
}

/* ---- wishes ---------------------------------------------------------------------------------- */

static uint64_t now_ms(void) { return (uint64_t)(ui_now_s() * 1e3); }

/* By now the name may be another process's. */
static bool map_wishes(struct ring_reader *r, struct hlm_err *err)
{
    uint64_t bytes;
    struct ring_head *h = r->wish ? r->wish : map_name(r->name, true, &bytes, err);
    if (!h || r->wish)
        return h != NULL;
    if (h->pid != r->head->pid || h->start_tick != r->head->start_tick) {
        munmap(h, sizeof *h);
        return ui_fail(err, "%s: the ring of another process by now", r->name);
    }
    r->wish = h;
    return true;
}

bool ring_want(struct ring_reader *r, uint32_t wishes, struct hlm_err *err)
{
    uint64_t until = now_ms() + (uint64_t)(1e3 * RING_LEASE_S);
    if (!map_wishes(r, err))
        return false;
    for (uint32_t i = 0; i < RING_WISHES; i++)
        if (wishes >> i & 1)
            atomic_store_explicit(&r->wish->until[i], until, memory_order_relaxed);
    return true;
}

/* ---- all of a user --------------------------------------------------------------------------- */

/* Calls fn for every ring of this user. POSIX has no list of shared memory objects; Linux has them
 * in a folder. */
static void walk(void (*fn)(void *user, uint64_t pid, const char *name), void *user)
{
    char prefix[NAME], name[NAME];
    int n = snprintf(prefix, sizeof prefix, "hlm-%lu-", (unsigned long)geteuid());
    DIR *dir = opendir("/dev/shm");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char *end = NULL;
        if (strncmp(e->d_name, prefix, (size_t)n) != 0)
            continue;
        uint64_t pid = strtoull(e->d_name + n, &end, 10);
        name_of(pid, name);
        if (!*end && strcmp(name + 1, e->d_name) == 0)
            fn(user, pid, name);
    }
    if (dir)
        closedir(dir);
}

static void sweep_one(void *user, uint64_t pid, const char *name)
{
    struct hlm_err err = { 0 };
    uint64_t bytes;
    struct ring_head *h = map_name(name, false, &bytes, &err);
    bool is_ring = h && atomic_load_explicit(&h->magic, memory_order_acquire) == RING_MAGIC;
    /* One that never got its head says nothing about its maker but the pid in the name. */
    bool dead = is_ring && h->version == RING_VERSION && h->head_bytes == sizeof *h
                    ? !alive(h)
                    : kill((pid_t)pid, 0) != 0 && errno == ESRCH;
    (void)user;
    if (h)
        munmap(h, (size_t)bytes);
    if (dead)
        shm_unlink(name);
}

struct pid_list {
    uint64_t *pid;
    uint32_t n, max;
};

static void list_one(void *user, uint64_t pid, const char *name)
{
    struct pid_list *l = user;
    struct hlm_err err = { 0 };
    struct ring_reader *r = ring_attach(pid, &err);
    (void)name;
    if (r && alive(r->head)) {
        if (l->n < l->max)
            l->pid[l->n] = pid;
        l->n++;
    }
    ring_detach(r);
}

static void list_any(void *user, uint64_t pid, const char *name)
{
    struct pid_list *l = user;
    (void)name;
    if (l->n < l->max)
        l->pid[l->n] = pid;
    l->n++;
}

uint32_t ring_list(uint64_t *pid, uint32_t max)
{
    struct pid_list l = { .pid = pid, .max = max };
    walk(list_one, &l);
    return l.n;
}

uint32_t ring_pids(uint64_t *pid, uint32_t max)
{
    struct pid_list l = { .pid = pid, .max = max };
    walk(list_any, &l);
    return l.n;
}

/* ---- writing --------------------------------------------------------------------------------- */

struct ring {
    struct ring_head *head;
    uint64_t bytes;
    char name[NAME];
    pthread_mutex_t lock; /* between the program and the beat, for all below */
    pthread_cond_t wake;
    struct ring_sample last; /* the next one to write */
    bool started, stop;
    pthread_t beat;
};

/* With the lock held. */
static void write_sample(struct ring *r)
{
    struct ring_head *h = r->head;
    uint64_t n = atomic_load_explicit(&h->n_written, memory_order_relaxed), word[WORDS];
    struct ring_slot *s = slot_of(h, h->n_slot, n);
    r->last.number = n;
    r->last.time_s = ui_now_s();
    memcpy(word, &r->last, sizeof word);
    atomic_store_explicit(&s->seq, 2 * n + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (uint32_t i = 0; i < WORDS; i++)
        atomic_store_explicit(&s->word[i], word[i], memory_order_relaxed);
    atomic_store_explicit(&s->seq, 2 * n + 2, memory_order_release);
    atomic_store_explicit(&h->n_written, n + 1, memory_order_release);
}

/* Writes the last sample again while there is work and the program's thread has none to write. */
static void *beat(void *user)
{
    struct ring *r = user;
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        if (r->last.c.state == HLM_IDLE) {
            pthread_cond_wait(&r->wake, &r->lock);
            continue;
        }
        double at = r->last.time_s + BEAT_S;
        if (ui_now_s() >= at) {
            write_sample(r);
            continue;
        }
        struct timespec t = { .tv_sec = (time_t)at };
        t.tv_nsec = (long)((at - (double)t.tv_sec) * 1e9);
        pthread_cond_timedwait(&r->wake, &r->lock, &t);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* The beat takes no signals: a Ctrl-C must interrupt the read that the program waits in. */
static bool start_beat(struct ring *r)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r->started = pthread_create(&r->beat, NULL, beat, r) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r->started;
}

/* What has our name was a dead process's that had our pid - unless it is of another space, where
 * that process may well be alive. */
static bool take_name(const char *name)
{
    uint64_t bytes;
    struct ring_head *h = map_name(name, false, &bytes, NULL);
    bool theirs = h && atomic_load_explicit(&h->magic, memory_order_acquire) == RING_MAGIC &&
                  h->pid_space != pid_space();
    if (h)
        munmap(h, (size_t)bytes);
    return !theirs && shm_unlink(name) == 0;
}

static bool make(struct ring *r, uint32_t n_slot, struct hlm_err *err)
{
    int flags = O_RDWR | O_CREAT | O_EXCL, fd = shm_open(r->name, flags, 0600);
    if (fd < 0 && errno == EEXIST && take_name(r->name))
        fd = shm_open(r->name, flags, 0600);
    if (fd < 0)
        return ui_fail_system(err, "shared memory %s: %s", r->name, strerror(errno));
    r->bytes = ring_bytes(n_slot);
    /* Allocated now: memory that is short at the first write would be a SIGBUS. */
    int e = fchmod(fd, 0600) == 0 ? posix_fallocate(fd, 0, (off_t)r->bytes) : errno;
    void *at = MAP_FAILED;
    if (e == 0) {
        at = mmap(NULL, (size_t)r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        e = at == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (e != 0) {
        shm_unlink(r->name);
        return ui_fail_system(err, "shared memory %s: %s", r->name, strerror(e));
    }
    r->head = at;
    return true;
}

struct ring *ring_create(const char *program, const char *flags, uint32_t n_slot,
                         struct hlm_err *err)
{
    struct ring *r = ui_alloc(1, sizeof *r);
    if (!r) {
        ui_fail_memory(err, "out of memory");
        return NULL;
    }
    walk(sweep_one, NULL);
    name_of((uint64_t)getpid(), r->name);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, &attr);
    pthread_condattr_destroy(&attr);
    n_slot = n_slot ? n_slot : RING_SLOTS;
    if (!make(r, n_slot, err)) {
        ring_destroy(r);
        return NULL;
    }
    struct ring_head *h = r->head;
    h->version = RING_VERSION;
    h->counters_version = HLM_COUNTERS_VERSION;
    h->head_bytes = sizeof *h;
    h->sample_bytes = sizeof(struct ring_sample);
    h->n_slot = n_slot;
    h->uid = (uint32_t)geteuid();
    h->pid = (uint64_t)getpid();
    h->pid_space = pid_space();
    h->start_tick = start_tick(h->pid);
    h->start_unix = (int64_t)time(NULL);
    snprintf(h->program, sizeof h->program, "%s", program);
    snprintf(h->flags, sizeof h->flags, "%s", flags ? flags : "");
    snprintf(h->release, sizeof h->release, "%s", hlm_version());
    atomic_store_explicit(&h->magic, RING_MAGIC, memory_order_release);
    if (!start_beat(r)) {
        ui_fail(err, "shared memory %s: no thread for it", r->name);
        ring_destroy(r);
        return NULL;
    }
    return r;
}

void ring_publish(struct ring *r, const struct hlm_counters *c)
{
    pthread_mutex_lock(&r->lock);
    bool rested = r->last.c.state == HLM_IDLE;
    r->last.c = *c;
    r->last.count_s = ui_now_s();
    write_sample(r);
    if (rested && c->state != HLM_IDLE)
        pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

uint32_t ring_wanted(const struct ring *r)
{
    uint64_t now = now_ms(), most = now + (uint64_t)(1e3 * RING_LEASE_S);
    uint32_t wishes = 0;
    for (uint32_t i = 0; i < RING_WISHES; i++) {
        uint64_t until = atomic_load_explicit(&r->head->until[i], memory_order_relaxed);
        wishes |= until > now && until <= most ? 1u << i : 0;
    }
    return wishes;
}

void ring_destroy(struct ring *r)
{
    if (!r)
        return;
    if (r->started) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->wake);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->beat, NULL);
    }
    if (r->head) {
        atomic_store_explicit(&r->head->ended, 1, memory_order_release);
        shm_unlink(r->name);
        munmap(r->head, (size_t)r->bytes);
    }
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
