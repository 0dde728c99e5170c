/* hlm_tune: training LoRA adapters and recurrent gates of an open model. The part of hlm.h that is
 * about training; programs get it from there.
 *
 * The order of calls: a model, best one that is still dry; hlm_tune_open reads the data and says
 * what would be trained and what that costs; hlm_load; hlm_tune_begin takes the memory, and goes on
 * with a checkpoint if there is one; then steps, validations, saves, in any order. What a call does
 * to the run depends on what was done before alone, so that a run that was stopped and taken up
 * again ends with the same bits.
 *
 * A step takes the next batch_rows * accumulation rows, on beyond the end of the data into its next
 * pass; with n the counted targets of all of them, its loss is the sum of their negative log
 * likelihoods / n, and so for the draft blocks, which count mtp_factor times. */
#pragma once
#include "base/base.h"
#include "train/data.h"

typedef struct hlm hlm;
typedef struct hlm_tune hlm_tune;
struct hlm_plan;
struct hlm_session_params;

/* Strings must live as long as the run. */
struct hlm_tune_params {
    /* What is learnt from. One of these two is set. */
    const char *data;        /* JSONL: a file or a folder, as data_load takes them */
    const char *ids_json;    /* rows of ids, as data_read takes them; its options do not count
                                here, see hlm_tune_options */
    struct data_params read; /* of data; tok and eos are filled in, so is a format without name.
                                max_seq is the length of packed rows too */
    bool no_pack;            /* every document is a row of its own */

    /* What is trained. */
    const char *init_lora; /* goes on from this adapter, with all that it trains; NULL: a fresh
                              one, by o.rank, o.alpha, o.rslora and o's seed on ... */
    const char *targets;   /* ... these matrices: words and patterns with commas between; NULL:
                              attn, linear, ffn and shared, as far as there are any */
    bool target_mtp;       /* and those of the draft blocks */
    /* How. steps 0 means epochs; total_steps 0: it is worked out, and with it warmup_steps, by
     * warmup, and warmup_from. */
    struct data_options o;
    double epochs, warmup; /* warmup: share of the steps */
    /* Operands of the model's products; sums, activations between ops and all that is trained are
     * f32 in any case. By default f16 where the device has matrix units that take it, but for
     * ids_json. */
    enum hlm_tune_precision { HLM_TUNE_DEFAULT, HLM_TUNE_F32, HLM_TUNE_F16 } precision;
    uint64_t seed; /* of everything */

    const struct hlm_session_params *sample; /* a session that will live beside it; NULL: none */
    const char *resume; /* a checkpoint, or a folder of them: the newest; NULL: none */
};
/* rank 16, alpha 32, 3 epochs, 2e-4 after 3 % of warm-up, cosine to a tenth of it, clipping at 1,
 * documents of 2048 tokens, a row a step. */
struct hlm_tune_params hlm_tune_defaults(void);
/* The options that a file of rows holds, into *o; it stays as it is where there are none. */
bool hlm_tune_options(const char *ids_json, struct data_options *o, struct hlm_err *err);
/* Works out what total_steps 0 leaves open, for n_row rows a pass over the data. */
void hlm_tune_schedule(struct data_options *o, double epochs, double warmup, uint64_t n_row);
/* The rate of a step, from 1. */
double hlm_tune_rate(const struct data_options *o, uint64_t step);

/* Makes what is to be trained the adapters in force, in place of those before; they cannot be
 * changed until hlm_tune_close. Nothing is allocated on the device unless the model is loaded (then
 * the adapters are). What cannot fit is refused with the numbers and with the flag that would make
 * it fit. No session may be alive. */
hlm_tune *hlm_tune_open(hlm *m, const struct hlm_tune_params *p, struct hlm_err *err);
/* The model is without adapters then, and its gates are as in the file. Takes NULL. */
void hlm_tune_close(hlm_tune *t);

/* What is trained: a pair of factors beside one tensor, or what is added to a gate. */
struct hlm_tune_target {
    const char *name; /* of the model's tensor */
    uint64_t n_in, n_out, n_expert;
    uint32_t rank; /* 0: a gate of n_in values */
};
struct hlm_tune_info {
    const struct data *data;              /* the documents; NULL with ids_json */
    const struct data_rows *rows;         /* of the first pass, in its order; NULL once it began */
    const struct data_rows *valid, *test; /* n_row 0: there are none */
    const struct data_options *o;         /* as used, all worked out */
    bool f16;                             /* precision, likewise */
    uint32_t max_tok, max_doc;            /* of a row */
    uint64_t n_run_row;                   /* rows that all steps take, going round */
    const struct hlm_tune_target *target;
    uint64_t n_target, n_number, n_gate; /* numbers that are trained; gates among targets */
    uint64_t step;                       /* done */
    double best_loss, valid_loss; /* of validation, the latter the last; infinity: none yet */
    uint64_t best_step, valid_step, n_worse; /* n_worse: validations since the best one */
    uint64_t n_tok;                          /* tokens of all steps, and the time they took */
    double took_s;
};
/* Good until the next call. */
struct hlm_tune_info hlm_tune_get_info(hlm_tune *t);
/* What it all costs, by purpose. */
struct hlm_plan hlm_tune_plan(const hlm_tune *t);

/* Takes the memory, brings up what is trained, and goes on with p->resume. *resumed: the path that
 * it goes on with, NULL: from the start; good until hlm_tune_close. */
bool hlm_tune_begin(hlm_tune *t, const char **resumed, struct hlm_err *err);

struct hlm_tune_step {
    uint64_t step; /* from 1 */
    double loss, loss_main, loss_mtp, lr;
    double grad_norm; /* before clipping */
    bool has_mtp;
    uint64_t n, n_tok; /* counted targets; tokens, padding not counted */
    uint64_t epoch;    /* whole passes done */
    double took_s;
};
/* One more. False: nothing has changed but, where the device is lost or a loss is not finite, the
 * gradients; only what was saved is good then. */
bool hlm_tune_do_step(hlm_tune *t, struct hlm_tune_step *out, struct hlm_err *err);
/* The first row forward and back, as a step would, and no update; twice, the second is timed. Only
 * instead of steps: it leaves gradients behind. */
bool hlm_tune_measure(hlm_tune *t, double *row_s, struct hlm_err *err);

enum hlm_tune_set { HLM_TUNE_VALID, HLM_TUNE_TEST };
struct hlm_tune_loss {
    double main, mtp;
    uint64_t n;
}; /* means over n counted targets */
/* The whole set. What the set for validation gives is remembered: info's best_loss. False with err
 * unset: stopped by progress, which is told rows. */
bool hlm_tune_validate(hlm_tune *t, enum hlm_tune_set set, struct hlm_tune_loss *out,
                       bool (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                       struct hlm_err *err);

/* Writes folder/step-N, whole or not at all, and then removes the oldest but for the newest `keep`
 * and the one of the best validation. Removing never fails it. */
bool hlm_tune_save(hlm_tune *t, const char *folder, uint32_t keep, struct hlm_err *err);
/* Are there any checkpoints in folder? */
bool hlm_tune_has_saved(const char *folder);
/* Is the run as it stands in a checkpoint? */
bool hlm_tune_is_saved(const hlm_tune *t);
/* What is trained becomes what the checkpoint of the best validation holds, if that is in folder;
 * for testing and writing, not for further steps. *is: whether there was one. */
bool hlm_tune_take_best(hlm_tune *t, const char *folder, bool *is, struct hlm_err *err);

/* The adapter as a GGUF file, read back. */
bool hlm_tune_write(hlm_tune *t, const char *path, struct hlm_err *err);
/* From now on the first step writes its gradients, before clipping, to this file, tensors as in the
 * adapter. NULL: not. The string is kept. */
void hlm_tune_dump_grads(hlm_tune *t, const char *path);
