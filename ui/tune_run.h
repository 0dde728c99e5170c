/* tune_run: what the files of hlm-tune's training share - the flags, the doctor, the run. */
#pragma once
#include "common.h"
#include "common_flags.h"
#include "hlm_train.h"

/* ---- the flags of a run, beside its checkpoints (tune_again.c) ------------------------------- */

/* A line of flags: those of run.json, if there is one, then those of this call, which win. Texts
 * live in both. */
struct again {
    int argc;
    char **argv;
    bool known, finished; /* is there a run.json; has that run ended */
    void *root;
};
/* folder: of checkpoints, or one of them; NULL: none. Without run.json the line is this call's. */
bool again_read(const char *folder, int argc, char **argv, struct again *a, struct hlm_err *err);
/* Writes FOLDER/run.json: the flags of a->argv, paths from the root. */
bool again_write(const char *folder, const struct again *a, const struct program *p, bool finished,
                 struct hlm_err *err);
void again_free(struct again *a);
void again_remove(const char *folder); /* run.json, if it is there */

/* ---- the run ----------------------------------------------------------------------------------
 */

struct tune {
    struct hlm_tune_params p;
    const char *model, *out, *dump_rows, *dump_grads, *checkpoints, *debug;
    struct flag_list samples;
    int32_t n_sample;                                /* tokens */
    int32_t valid_every, save_every, keep, patience; /* 0: chosen; none */
    uint64_t memory;
    double lr_min; /* below 0: a tenth of the rate */
    double mtp;    /* --mtp-loss; below 0: not given */
    int loss_on, turns, precision;
    bool no_shuffle, no_lora, train_mtp, dry_run, plan, profile, validate;

    hlm *m;
    hlm_tune *t;
    hlm_session *session; /* for samples; NULL: none are wanted */
    hlm_vocab *vocab;     /* the model's; NULL: its tokenizer is not usable */
    char *folder;         /* of checkpoints */
    struct again again;   /* the flags that the run has */
    const struct program *program;
    bool saves;  /* on the way; else when it is interrupted alone */
    bool clears; /* the folder holds checkpoints of a run that has ended */
    struct hlm_session_params session_params;
};

/* ---- the doctor (tune_doctor.c) -------------------------------------------------------------- */

/* Matrices and gates by kind. */
void doctor_targets(struct tune *u, FILE *to);
/* Everything else that can be said before the first step; as an event too. */
void doctor_data(struct tune *u, FILE *to);
void doctor_plan(struct tune *u, FILE *to);
/* What it will take, from a measured row. */
void doctor_time(struct tune *u, double row_s, FILE *to);

/* ---- the run (tune_loop.c) ------------------------------------------------------------------- */

/* From the model's weights to the adapter on disk: the exit code. */
int tune_loop(struct tune *u, struct hlm_err *err);
/* Where the best adapter goes, beside the last: OUT-best.gguf. Fresh memory, or NULL. */
char *best_path(const char *out);
/* Text behind a prompt as the model is now, on standard output (tune_sample.c). */
bool print_samples(struct tune *u, uint64_t step, struct hlm_err *err);
