/* test_log: sinks of several threads. One sink gets one message at a time; sinks do not wait for
 * each other, nor a sink for itself.
 *
 * Guards the log of base/base.c, whose one lock for all sinks once made models wait for each
 * other. */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <pthread.h>
#include <time.h>

/* What the sinks of a case share. */
struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t n_in, most_in; /* messages that are in a sink now; at most at one time */
    uint32_t n_message, n_done;
};
#define MEETING                                                                                    \
    {                                                                                              \
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER                     \
    }

struct sink {
    struct meeting *meeting;
    uint32_t until;     /* it waits until so many messages are in sinks ... */
    uint32_t most_ms;   /* ... or so long */
    struct sink *other; /* it causes a message to this one; NULL: to none */
};

static struct timespec in_ms(uint32_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += ms / 1000 + (t.tv_nsec + ms % 1000 * 1000000) / 1000000000;
    t.tv_nsec = (t.tv_nsec + ms % 1000 * 1000000) % 1000000000;
    return t;
}

static void on_message(void *user, enum hlm_log_level level, const char *msg)
{
    const struct sink *s = user;
    struct meeting *m = s->meeting;
    const struct timespec end = in_ms(s->most_ms);
    pthread_mutex_lock(&m->lock);
    m->n_message++;
    m->n_in++;
    m->most_in = max_u32(m->most_in, m->n_in);
    bool outermost = m->n_in == 1;
    pthread_cond_broadcast(&m->changed);
    while (m->most_in < s->until && !pthread_cond_timedwait(&m->changed, &m->lock, &end))
        ;
    pthread_mutex_unlock(&m->lock);
    if (s->other && outermost) { /* as a call on another model does */
        log_to(&(struct hlm_log){ on_message, s->other });
        log_msg(level, "%s", msg);
    }
    pthread_mutex_lock(&m->lock);
    m->n_in--;
    pthread_mutex_unlock(&m->lock);
}

enum { N_MESSAGE = 3 };

static void *log_some(void *user)
{
    struct sink *s = user;
    log_to(&(struct hlm_log){ on_message, s });
    for (int i = 0; i < N_MESSAGE; i++)
        log_msg(HLM_LOG_INFO, "message %d", i);
    pthread_mutex_lock(&s->meeting->lock);
    s->meeting->n_done++;
    pthread_cond_broadcast(&s->meeting->changed);
    pthread_mutex_unlock(&s->meeting->lock);
    return NULL;
}

/* A thread for each sink. Threads that do not end are abandoned, so that the case fails and does
 * not hang; what they use is static for that. */
static bool log_at_once(struct sink *const *sink, uint32_t n)
{
    struct meeting *m = sink[0]->meeting;
    const struct timespec end = in_ms(20000);
    pthread_t thread;
    for (uint32_t i = 0; i < n; i++) {
        HLM_ASSERT(!pthread_create(&thread, NULL, log_some, sink[i]));
        pthread_detach(thread);
    }
    pthread_mutex_lock(&m->lock);
    while (m->n_done < n && !pthread_cond_timedwait(&m->changed, &m->lock, &end))
        ;
    uint32_t n_done = m->n_done, n_message = m->n_message;
    pthread_mutex_unlock(&m->lock);
    return CHECK_MSG(n_done == n, "%u of %u threads have ended", n_done, n) &&
           CHECK_MSG(n_message >= n * N_MESSAGE, "%u messages", n_message);
}

void test_log_threads(void)
{
    static struct meeting two = MEETING, one = MEETING, chain = MEETING, self = MEETING;
    static struct sink a = { &two, 2, 5000, NULL }, b = { &two, 2, 5000, NULL };
    static struct sink shared = { &one, 2, 5, NULL };
    static struct sink last = { &chain, 0, 0, NULL }, first = { &chain, 0, 0, &last };
    static struct sink again = { &self, 0, 0, &again };
    static struct meeting cross = MEETING;
    static struct sink right, left = { &cross, 2, 5000, &right };
    right = (struct sink){ &cross, 2, 5000, &left };
    test_case("sinks of two threads are called at the same time");
    CHECK(log_at_once((struct sink *const[]){ &a, &b }, 2) && two.most_in == 2);
    test_case("one sink gets one message at a time, whatever the threads");
    CHECK(log_at_once((struct sink *const[]){ &shared, &shared, &shared }, 3) && one.most_in == 1);
    test_case("a sink may cause a message to another or to itself, and still gets its own");
    if (log_at_once((struct sink *const[]){ &first }, 1))
        CHECK_EQ(chain.n_message, 2 * N_MESSAGE);
    if (log_at_once((struct sink *const[]){ &again }, 1))
        CHECK_EQ(self.n_message, 2 * N_MESSAGE);
    test_case("two sinks that cause messages to each other do not wait for ever");
    CHECK(log_at_once((struct sink *const[]){ &left, &right }, 2));
}
