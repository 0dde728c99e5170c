/* run: what the monitor knows of one run of an hlm program, live or ended.
 *
 * A run is filled from the samples of a ring (run_take_sample) or from the lines of a --log-json
 * file (run_take_line). Both may hold anything: whatever this header shows has been checked. Every
 * number is finite and not negative, every index is in range, every text is UTF-8 on one line
 * (those of sample answers may have line ends), times and steps of a series never go back. Memory
 * is bounded: long series are thinned out, long tables end. Nothing here draws. */
#pragma once
#include "ui/ring.h"

/* ---- series ---------------------------------------------------------------------------------- */

enum run_series_id {
    SERIES_READ,    /* tokens read a second; 0 while nothing is read */
    SERIES_GEN,     /* tokens made a second; 0 while nothing is made */
    SERIES_TRAIN,   /* tokens trained a second */
    SERIES_MEMORY,  /* bytes on the device, all purposes */
    SERIES_CONTEXT, /* positions taken */
    SERIES_LOSS,    /* of each step */
    SERIES_LOSS_MTP,
    SERIES_VALID, /* a point for each validation */
    SERIES_RATE,  /* learning rate */
    SERIES_NORM,  /* gradient norm before clipping */
    N_SERIES,
};

/* A long series is thinned out: neighbours become one point, its value their mean. The newest
 * SERIES_FRESH points are always as they came. */
enum { SERIES_MAX = 4096, SERIES_FRESH = 512 };
struct run_point {
    double t;         /* seconds since the run began */
    double step;      /* of training, 0: none */
    float v, lo, hi;  /* mean, least and most of the points that this one stands for */
    uint32_t n_point; /* how many they are */
};
struct run_series {
    struct run_point *p; /* [n], t and step never go back */
    uint32_t n, cap;
    uint32_t stride; /* the most points that one stands for */
};

/* ---- tables ---------------------------------------------------------------------------------- */

enum { RUN_MAX_SETTING = 96, RUN_MAX_ANSWER = 256, RUN_MAX_SAVED = 512, RUN_MAX_PURPOSE = 16 };

struct run_setting { /* a flag of the command line, or a figure of the data */
    char name[48], value[208];
};
struct run_answer { /* a sample answer of a training */
    uint64_t step;
    double t;
    char *prompt, *text;
};
struct run_saved { /* a file that the run wrote */
    uint64_t step;
    double t;
    bool adapter, best; /* false: a checkpoint; best: of the best validation */
    char path[208];
};
struct run_purpose {
    char name[32];
    uint64_t plan, real; /* bytes; plan 0: not known */
};
struct run_device {
    char name[128];
    uint64_t budget; /* bytes that the run may use; 0: not known, as is each of these */
    uint64_t left;   /* bytes that are free on it now, for anybody */
    uint64_t heap;   /* bytes that it has */
    uint64_t real;   /* sum of the purposes */
    uint32_t n_purpose;
    struct run_purpose purpose[RUN_MAX_PURPOSE];
};

/* ---- a run ----------------------------------------------------------------------------------- */

enum run_life {
    RUN_ALIVE, /* or a log without an end that still grows */
    RUN_ENDED, /* it said so */
    RUN_DIED,  /* the process is gone without having said so */
};

struct run {
    /* Who it is. */
    bool from_log;
    uint64_t pid;       /* 0: of a log that does not say */
    char path[256];     /* of the log; "" of a ring */
    char program[32];   /* "hlm-chat" */
    char version[32];   /* "" : not known */
    char model[128];    /* name */
    int64_t start_unix; /* seconds; 0: not known */

    /* How it is. */
    enum run_life life;
    int exit_code;    /* -1: not known */
    double t;         /* seconds since the run began: now, or of the newest line or sample */
    double silent_s;  /* for how long the engine has said nothing while it is at work ... */
    double unheard_s; /* ... and for how long there was no sample at all meanwhile */
    uint64_t n_sample, n_lost;    /* samples taken, samples overwritten before they could be read */
    uint64_t n_skipped;           /* lines that could not be understood */
    bool known;                   /* there is something in `now` */
    struct hlm_counters now;      /* newest figures, every one of them checked */
    bool infinite[HLM_MAX_LAYER]; /* the layer's state holds a number that is not finite */
    bool loss_broken;             /* the newest loss was not finite */

    /* Progress of the work under way. */
    double part;   /* 0 to 1; below 0: not measured */
    double left_s; /* seconds that are left; below 0: not known */

    /* What it says of itself beyond the counters. */
    char why[160];      /* why the newest turn read tokens again; "" : it did not */
    char last_log[192]; /* the newest warning */
    double epoch, n_epoch;
    double clip_norm; /* 0: not known or none */
    double best_valid;
    uint64_t best_step; /* best_valid holds if n_valid > 0 */
    uint64_t n_valid;
    uint64_t n_snapshot, n_snapshot_max; /* held, room for; n_snapshot_max 0: not known */
    uint64_t n_evicted;
    double test_loss; /* below 0: none */

    struct run_series series[N_SERIES];
    uint32_t n_setting, n_answer, n_saved, n_device;
    struct run_setting setting[RUN_MAX_SETTING];
    struct run_answer answer[RUN_MAX_ANSWER]; /* the newest last */
    struct run_saved saved[RUN_MAX_SAVED];
    struct run_device device[2]; /* the device, and its host where that gives memory too */

    uint64_t n_change; /* rises with every change: a picture of the same number is still right */

    /* run.c's own. */
    struct run_past *past;
};

struct run *run_create(void);    /* NULL: no memory */
void run_destroy(struct run *r); /* takes NULL */
void run_reset(struct run *r);   /* as it was made */
/* Another one, as it stands, that is never fed. NULL: no memory. */
struct run *run_copy(const struct run *r);

/* Who writes the ring. clock_s: what the run's clock, CLOCK_MONOTONIC, showed when it began. */
void run_is_ring(struct run *r, const struct ring_head *head, double clock_s);
void run_take_sample(struct run *r, const struct ring_sample *s, uint64_t n_lost);
/* A line of a log, without its end. False: it was skipped, and counted. */
bool run_take_line(struct run *r, const char *line, uint64_t n);
void run_is_log(struct run *r, const char *path);
/* It will not say more. */
void run_end(struct run *r, enum run_life life);
/* The time goes on without a sample. clock_s: CLOCK_MONOTONIC. */
void run_tick(struct run *r, double clock_s);

/* ---- in words -------------------------------------------------------------------------------- */

const char *run_state_word(const struct run *r); /* "generating", "ended", "died" */
/* One line on what it does now: "reading a prompt: 512 of 2048 tokens". */
void run_headline(const struct run *r, char *out, uint64_t size);

enum run_level { RUN_NOTE, RUN_WARN, RUN_BAD };
struct run_notice {
    enum run_level level;
    char text[208];
};
enum { RUN_MAX_NOTICE = 16 };
/* What is unusual, the worst first. Returns how many of out were filled. */
uint32_t run_notices(const struct run *r, struct run_notice out[RUN_MAX_NOTICE]);

/* The newest value of a series; below 0: there is none. */
double run_newest(const struct run *r, enum run_series_id id);
/* How often expert e of a layer was chosen, as a part of the busiest one's: 0 to 1. */
double run_expert_part(const struct run *r, uint32_t i_layer, uint32_t e);
/* Experts of the layer that were never chosen, when enough tokens went through it that each should
 * have been; 0 before that. */
uint32_t run_n_dead(const struct run *r, uint32_t i_layer);
