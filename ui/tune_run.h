/* tune_run: shared by the files of hlm-tune's training: the flags, the doctor, the run. */
#pragma once
#include "common.h"
#include "common_flags.h"
#include "hlm_train.h"

/* ---- the flags of a run, beside its checkpoints (tune_again.c) ------------------------------- */

/* A command line: the flags of run.json, if there is one, then those of this call, which win. The
 * texts belong to the JSON and to this call. */
struct again {
    int argc;
    char **argv;
    bool known, finished; /* there is a run.json; that run has ended */
    void *root;
    char *words; /* of an adapter's note */
};
/* folder: of checkpoints, or one of them; NULL: none. Without run.json: only this call's flags. A
 * flag that may be repeated is not added to: those of this call replace those of the run. */
bool again_read(const char *folder, const struct program *p, int argc, char **argv, struct again *a,
                struct hlm_err *err);
/* The flags with which an adapter says that it was made, to train it further: without those that it
 * decides itself, and with --init-lora. */
bool again_more(const char *adapter, const struct program *p, int argc, char **argv,
                struct again *a, struct hlm_err *err);
/* Writes FOLDER/run.json: the flags of a->argv, with absolute paths. */
bool again_write(const char *folder, const struct again *a, const struct program *p, bool finished,
                 struct hlm_err *err);
void again_free(struct again *a);
/* "2026-11-30 --rank 8 ...": the day, and the flags that are no paths. */
void again_note(const struct again *a, const struct program *p, char *out, size_t room);
void again_remove(const char *folder); /* removes run.json, if there is one */

/* ---- the run --------------------------------------------------------------------------------- */

struct tune {
    struct hlm_tune_params p;
    const char *model, *out, *more, *dump_rows, *dump_grads, *checkpoints, *debug;
    struct flag_list data, valid_data, samples;
    int32_t n_sample;                                /* tokens */
    int32_t valid_every, save_every, keep, patience; /* 0: chosen; patience 0: never ends early */
    uint64_t memory;
    double lr_min; /* below 0: lr / 10 */
    double mtp;    /* --mtp-loss; below 0: not given */
    int loss_on, turns, precision;
    bool no_shuffle, no_lora, train_mtp, dry_run, plan, profile, validate;

    hlm *m;
    hlm_tune *t;
    hlm_session *session; /* for samples; NULL: no samples */
    hlm_vocab *vocab;     /* the model's; NULL: its tokenizer cannot be used */
    char *folder;         /* of checkpoints */
    struct again again;   /* the flags that the run has */
    const struct program *program;
    bool saves;  /* writes checkpoints during the run, not only when it is interrupted */
    bool clears; /* removes checkpoints of a run that has ended from the folder */
    struct hlm_session_params session_params;
};

/* ---- the doctor (tune_doctor.c) -------------------------------------------------------------- */

/* Prints matrices and gates by kind. */
void doctor_targets(struct tune *u, FILE *to);
/* Print the data, and the plan; as events too. */
void doctor_data(struct tune *u, FILE *to);
void doctor_plan(struct tune *u, FILE *to);
/* Prints the time of the run, from a measured row. */
void doctor_time(struct tune *u, double row_s, FILE *to);

/* ---- the run (tune_loop.c) ------------------------------------------------------------------- */

/* The whole run; the adapter is then on disk. Returns the exit code. */
int tune_loop(struct tune *u, struct hlm_err *err);
/* The path of the best adapter, OUT-best.gguf, in new memory; NULL: no memory. */
char *best_path(const char *out);
/* Prints the model's present answers to the prompts of --sample (tune_sample.c). */
bool print_samples(struct tune *u, uint64_t step, struct hlm_err *err);
