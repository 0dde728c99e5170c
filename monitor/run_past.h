/* run_past: shared by the files of run.*: what a run keeps of its past to work out rates and time
 * left, and how points and texts get in. */
#pragma once
#include "monitor/run.h"

enum { N_MARK = 32 };
struct run_past {
    double clock_s; /* what the writer's clock showed when the run began */
    double t;       /* of the newest sample or line, since the run began */
    double heard_t; /* when the engine last had something to say */
    struct mark {   /* of samples in the same state, the newest at n_mark - 1 */
        double t;
        uint64_t read, gen;
    } mark[N_MARK];
    uint32_t n_mark;
    bool settled;   /* the speeds drawn of this state are means over enough of it */
    double began_t; /* when the work under way began, and how much was done then */
    uint64_t began_done;
    uint64_t seen_step; /* the newest step that is in the series */
    double step_t;      /* of the first step that is in them */
    uint64_t first_step;
    double log_left_s;          /* as the log says; below 0: it does not */
    uint64_t n_sample, n_saved; /* of the counters, that are in the tables */
};

/* Everything that is no finite number from 0 to 1e18 becomes 0. */
double run_sound(double v);
/* Copies text: one line of whole UTF-8 characters, '?' for what is none. lines: line ends stay. */
void run_text(char *out, uint64_t size, const char *text, uint64_t n, bool lines);
/* Adds a point, unless it is no finite number or goes back in time or steps. */
void run_push(struct run *r, enum run_series_id id, double step, double v);
void run_clear_training(struct run *r); /* another training begins */
/* Takes new figures, perhaps r->now itself, changed: checks them, adds to the series, works out
 * progress and devices. */
void run_update(struct run *r, const struct hlm_counters *c);
/* A sample answer, a file that was written: the newest. */
void run_add_answer(struct run *r, uint64_t step, const char *prompt, const char *text);
void run_add_saved(struct run *r, const struct run_saved *s);
void run_set(struct run *r, const char *name, const char *value); /* a setting, new or changed */
