/* counters: what sessions and trainings report while they work. From these reports the engine
 * fills struct hlm_counters and calls the watcher. */
#pragma once
#include "hlm_counters.h"
#include "hlm_train.h"
#include "model/kv_stats.h"

#include <stdatomic.h>

/* Where statistics of layers come from: the session or the training that worked last. */
struct layer_source {
    struct kv_stats *stats; /* NULL: nothing works, or nothing that worked is left */
    /* Writes to most[n], for each layer, the largest magnitude of what training has added to its
     * gates. Waits for the device. NULL: there is no training. */
    bool (*gate_deltas)(void *user, float *most, uint32_t n, struct hlm_err *err);
    void *user;
};

enum { WISH_KERNELS = 1, WISH_LAYERS = 2 };

/* Part of struct hlm; its members are counters.c's, but for those marked. */
struct counting {
    struct hlm_counters counters;
    hlm_watch watch;
    hlm_progress progress;  /* of the upload of weights (open.c sets it) */
    hlm_progress preparing; /* of kernels */
    void *watch_user, *progress_user, *preparing_user;
    bool profile, layers; /* in force; session/ and train/ read layers */
    bool wants_kernels;   /* somebody wants times of kernels, perhaps of a part of the work */
    double timed_s, time_next_s; /* since when work is timed; when it may be again */
    uint32_t opened_with;        /* WISH_... of struct hlm_params */
    _Atomic uint32_t wish;       /* WISH_... of hlm_set_watched */
    double watched_s;            /* when watch was called last */
    double read_began_s;         /* when reading began */
    double gen_s;                /* seconds and ... */
    uint64_t n_gen;              /* ... tokens that were made before the current answer */
    hlm_session *session;        /* the one that worked last; NULL: it is gone */
    struct layer_source source;
    uint64_t *load;               /* [n_load][load_stride]: how often each expert was chosen */
    uint32_t n_load, load_stride; /* n_load: layers */
};

void count_open(hlm *m, const struct hlm_params *params);   /* before the weights are loaded */
void count_idle(hlm *m);                                    /* hlm_idle, within a public call */
bool count_load(void *m, uint64_t done, uint64_t total);    /* an hlm_progress of weights */
bool count_prepare(void *m, uint64_t done, uint64_t total); /* of kernels */

/* Reports of a session; s->stats already includes what is reported. */
void count_read(hlm_session *s, uint64_t done, uint64_t total); /* tokens of a prompt */
void count_gen(hlm_session *s);                                 /* one token more was made */
void count_end(hlm_session *s);                                 /* it will be destroyed */

/* Reports of a training: it begins, and takes this plan; `done` of `total` rows of a step or of a
 * validation have been run; one of n_step steps is done; the loss of a validation, and the best so
 * far; a checkpoint is written. */
void count_begin(hlm *m, const struct hlm_plan *plan, double clip_norm);
void count_train(hlm *m, const struct layer_source *source, enum hlm_state state, uint64_t done,
                 uint64_t total);
void count_step(hlm *m, const struct hlm_tune_step *s, uint64_t n_step);
void count_valid(hlm *m, double loss, double best, uint64_t best_step);
void count_saved(hlm *m, uint64_t step);

/* Takes up what hlm_set_watched was told, before a piece of work: a batch, a token, a row. */
void count_follow(hlm *m);
bool count_watched(const hlm *m); /* there is a watcher */
/* There is a watcher, and its next call is due: the next batch should report its gates. */
bool count_due(const hlm *m);
/* To be called before the statistics of a session or of a training go: adds the choices of experts
 * that are still on the device. */
void count_leave(hlm *m, struct kv_stats *s);
void count_close(hlm *m);
