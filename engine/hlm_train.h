/* hlm_train.h: training LoRA adapters and recurrent gates of an open model.
 *
 * The order of calls: a model, best one that is still dry; hlm_tune_open reads the data, says what
 * would be trained and what that takes; hlm_tune_begin loads what is missing, allocates, and goes
 * on with a checkpoint if there is one; then steps, validations and saves in any order. What a call
 * does to the run depends only on the calls before it, so a run that was stopped and resumed ends
 * with the same bits as one that was not.
 *
 * A step takes the next batch_rows * accumulation training rows, and goes on into the next pass at
 * the end of the data. With n the counted tokens of all of them, its loss is the sum of their
 * negative log likelihoods / n; the losses of draft blocks are added mtp_factor times.
 *
 * Errors, threads and parameters are as in hlm.h: a run is made from its model. */
#ifndef HLM_TRAIN_H
#define HLM_TRAIN_H

#include "hlm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hlm_tune hlm_tune;

/* How documents are read from files of training data. */
struct hlm_data_params {
    const char *format;  /* a name of HLM_CHAT_FORMATS; NULL: by the file's template */
    uint32_t max_seq;    /* tokens of a document, the rest is cut off, and of a packed row */
    double valid;        /* share of a single file's lines that goes to validation, below 1; below
                            0: 0.05 of 100 lines or more, none of fewer */
    bool loss_all;       /* every token after a document's first counts, not only answers */
    bool turns_each;     /* each answer of a conversation is a document of its own */
    bool raw_completion; /* prompt and completion are two texts, not two turns */
    bool no_eos;         /* no end of text after texts */
    bool skip_bad;       /* malformed lines are left out with a warning, else they fail */
};

enum hlm_schedule { HLM_CONSTANT, HLM_COSINE, HLM_LINEAR };

/* The hyper-parameters of a run. */
struct hlm_train_options {
    char run[32]; /* its name in a file of rows */
    uint32_t steps, batch_rows, accumulation, rank, warmup_steps, total_steps;
    bool shuffle, bias_correction, rslora, train_lora, train_gates;
    double lr, beta1, beta2, eps, weight_decay, weight_decay_gates, alpha, lora_dropout;
    double clip_norm, mtp_factor; /* 0: none */
    enum hlm_schedule schedule;
    double warmup_from, peak, final; /* learning rates */
};

enum hlm_precision { HLM_PRECISION_AUTO, HLM_PRECISION_F32, HLM_PRECISION_F16 };

/* Zero is not the default of every member: begin with hlm_tune_defaults(). */
struct hlm_tune_params {
    /* What is learnt from. One of these two is set. */
    const char *data;     /* JSON lines, a JSON list of objects, or columns (CSV): a file,
                             or a folder with train.jsonl and, if wanted, valid.jsonl and
                             test.jsonl; in a folder also .json, .csv and .tsv */
    const char *ids_json; /* training rows of ids, as hlm_tune_dump_rows writes them */
    const char *const *data_more, *const *data_valid; /* files after `data`; files of validation, in
                                                         place of read.valid. At most 64 of each */
    uint32_t n_data_more, n_data_valid;
    struct hlm_data_params read; /* of data */
    bool no_pack;                /* every document is a row of its own */

    /* What is trained. */
    const char *init_lora; /* goes on from this adapter, with everything it trains. NULL: a fresh
                              adapter, by rank, alpha, rslora and seed, on ... */
    const char *targets; /* ... these matrices: words and patterns with commas between; NULL: attn,
                            linear, ffn and shared, as far as the model has them */
    bool target_mtp;     /* and those of the draft blocks */

    /* How. With train.steps 0 `epochs` counts, also where total_steps is set. With
     * train.total_steps 0 the schedule covers all steps: warmup_steps (by `warmup`) and warmup_from
     * are worked out too. What is left open is chosen by the data's size and the model's width:
     * epochs 0, train.batch_rows 0, and train.lr below 0. A peak below 0 is lr, a final rate below
     * 0 a tenth of the peak. Rows are balanced, and there are as many of them in a pass as 100
     * updates need in the number of passes that would be chosen. */
    struct hlm_train_options train;
    double epochs, warmup; /* warmup: share of the steps */
    /* Operands of the model's products. Sums, activations between ops and everything that is
     * trained are f32 in any case. AUTO: f16 where the device has matrix units that take it, f32
     * for ids_json. */
    enum hlm_precision precision;
    uint64_t seed; /* of everything */

    const char *note; /* kept in the adapter: how it was made, say the program's flags and the date;
                         at most 2000 bytes. NULL: none */
    const struct hlm_session_params *sample; /* a session that the caller will create after
                                                hlm_tune_begin: its memory is part of the plan. It
                                                may be destroyed before the run or after. NULL:
                                                none */
    const char *resume; /* a checkpoint, or a folder of them: the newest. NULL: none. Everything but
                           the number of steps, with the rates that follow from it, must be as the
                           run was begun */
};
/* rank 16, alpha 32, cosine to a tenth after 3 % of warm-up, clipping at 1, documents of 2048
 * tokens; passes, rows a step, rate and validation are chosen. */
HLM_API struct hlm_tune_params hlm_tune_defaults(void);
/* The options that a file of rows holds, into *o, which stays as it is where the file has none. */
HLM_API bool hlm_tune_options(const char *ids_json, struct hlm_train_options *o,
                              struct hlm_err *err);
/* The learning rate of a step, from 1. */
HLM_API double hlm_tune_rate(const struct hlm_train_options *o, uint64_t step);
/* Writes the rows that would be trained on, in the file's order, as JSON for ids_json; needs no
 * device. out may be NULL. */
struct hlm_dump_sum {
    uint64_t n_row, n_doc, n_counted;
    uint64_t n_answer, n_unsaid; /* as in hlm_set_info */
};
HLM_API bool hlm_tune_dump_rows(const char *model, const struct hlm_tune_params *p,
                                const char *path, const struct hlm_log *log,
                                struct hlm_dump_sum *out, struct hlm_err *err);

/* Makes what is to be trained the active adapters, in place of those before; they cannot be changed
 * until hlm_tune_close. No session may be alive. Nothing is allocated on the device unless the
 * model is loaded (then the adapters are). What cannot fit fails with HLM_ERR_WONT_FIT. After a
 * failure the model is without adapters. */
HLM_API hlm_tune *hlm_tune_open(hlm *m, const struct hlm_tune_params *p, struct hlm_err *err);
/* Leaves the model without adapters, its gates as in the file. Sessions may outlive a run; they
 * read their tokens again (hlm_session_sync). */
HLM_API void hlm_tune_close(hlm_tune *t);

/* What is trained: a pair of factors beside one tensor, or what is added to a gate. */
struct hlm_tune_target {
    const char *name; /* of the model's tensor */
    uint64_t n_in, n_out, n_expert;
    uint32_t rank; /* 0: a gate of n_in values */
};

enum hlm_tune_set { HLM_TUNE_TRAIN, HLM_TUNE_VALID, HLM_TUNE_TEST };

/* The documents of one set and the rows that they make. What was cut, dropped or malformed in a
 * file that is split into training and validation is counted in training. */
struct hlm_set_info {
    uint64_t n_doc, n_tok, n_counted; /* counted: tokens whose loss counts */
    uint64_t n_cut, n_tok_cut;        /* documents longer than max_seq, and the tokens cut off */
    uint64_t n_dropped;               /* documents without a counted token */
    uint64_t n_bad;                   /* malformed lines */
    uint64_t longest;                 /* tokens of the longest document before it was cut */
    uint64_t n_row, n_padding;        /* rows of a pass; their slots without a token */
    uint32_t row_length;              /* 0: rows as long as their one document */
    bool packed;
    const uint32_t *doc_tok; /* [n_doc] tokens of each document; NULL with ids_json */
    uint64_t n_answer;       /* answers that are to be learnt */
    uint64_t n_unsaid;       /* of these: do not count, because the template shows an earlier answer
                                otherwise than the model says it. turns_each is the way out */
};
/* Rows are those of the first pass. Pointers are valid until hlm_tune_close. Zeros for a number
 * that is no set. */
HLM_API struct hlm_set_info hlm_tune_set_info(hlm_tune *t, enum hlm_tune_set set);

/* One training row: documents, then padding. */
struct hlm_row {
    uint32_t n, padding;
    const int32_t *ids;  /* [n] */
    const int32_t *doc;  /* [n] which document of the row, -1 on padding */
    const uint8_t *mask; /* [n] 1: the token's loss counts */
};
/* The i-th row of the first pass, until hlm_tune_begin. Valid until the next call. False: there is
 * none. */
HLM_API bool hlm_tune_row(hlm_tune *t, uint64_t i, struct hlm_row *out);

struct hlm_tune_info {
    const struct hlm_train_options *train;         /* as used, everything worked out */
    bool from_ids;                                 /* ids_json: there are no documents */
    bool f16;                                      /* operands of the products */
    uint32_t max_tok, max_doc;                     /* of a row: tokens, documents */
    uint64_t n_run_row;                            /* rows that all steps take */
    double epochs;                                 /* 0: steps were given */
    bool chose_epochs, chose_batch_rows, chose_lr; /* they were left open */
    const struct hlm_tune_target *target;
    uint64_t n_target, n_number, n_gate; /* targets, trained numbers, gates among the targets */
    uint64_t step;                       /* done */
    double best_loss, valid_loss;        /* of validation: the best, the last; infinity: none yet */
    uint64_t best_step, valid_step;
    uint64_t n_worse; /* validations since the best one */
    uint64_t n_tok;   /* tokens of all steps, and the time that they took */
    double took_s;
};
HLM_API struct hlm_tune_info hlm_tune_get_info(hlm_tune *t); /* pointers: until hlm_tune_close */
HLM_API struct hlm_plan hlm_tune_plan(const hlm_tune *t);    /* everything, by purpose */

/* Loads a dry model, allocates, brings up what is trained, and goes on with p->resume. *resumed
 * (may be NULL): the checkpoint that it goes on with, NULL: it starts anew; valid until
 * hlm_tune_close. */
HLM_API bool hlm_tune_begin(hlm_tune *t, const char **resumed, struct hlm_err *err);

struct hlm_tune_step {
    uint64_t step; /* from 1 */
    double loss, loss_main, loss_mtp, lr;
    double grad_norm; /* before clipping */
    bool has_mtp;
    uint64_t n, n_tok; /* counted tokens; tokens without padding */
    uint64_t epoch;    /* whole passes done */
    double took_s;
};
/* One more step. A failure with HLM_ERR_STATE changes nothing, nor does a lack of memory before the
 * first row. Every other failure ends the run, because its gradients are half made: one of memory
 * or of the device, of the file of gradients, or a loss or gradient that is not finite. Only the
 * checkpoints are valid then: steps, validations, saves and hlm_tune_write fail with HLM_ERR_STATE,
 * unless hlm_tune_take_best brings back the values of a checkpoint. To go on, open the run again
 * with `resume`. */
HLM_API bool hlm_tune_do_step(hlm_tune *t, struct hlm_tune_step *out, struct hlm_err *err);
/* Runs the first row forward and back twice, as a step would, without an update, and times the
 * second. For a run that ends with it: gradients are left over, and steps, validations, saves and
 * hlm_tune_write are refused afterwards. */
HLM_API bool hlm_tune_measure(hlm_tune *t, double *row_s, struct hlm_err *err);

struct hlm_tune_loss {
    double main, mtp; /* means over n counted tokens */
    uint64_t n;
};
/* The loss of a whole set; HLM_ERR_INPUT when no token of it counts. That of the validation set is
 * remembered in hlm_tune_info. progress counts rows. Also possible after hlm_tune_take_best. */
HLM_API bool hlm_tune_validate(hlm_tune *t, enum hlm_tune_set set, struct hlm_tune_loss *out,
                               hlm_progress progress, void *user, struct hlm_err *err);

/* Writes the checkpoint folder/step-N, whole or not at all; the folder is made. Then it removes the
 * older checkpoints, except the newest `keep` (0 counts as 1) and the one of the best validation.
 * What cannot be removed stays, and the call succeeds all the same. */
HLM_API bool hlm_tune_save(hlm_tune *t, const char *folder, uint32_t keep, struct hlm_err *err);
HLM_API bool hlm_tune_has_saved(const char *folder); /* are there checkpoints in it? */
/* Removes all checkpoints of a folder; what else is in it stays. */
HLM_API bool hlm_tune_remove_saved(const char *folder, struct hlm_err *err);
HLM_API bool hlm_tune_is_saved(const hlm_tune *t); /* is the run as it stands in one? */
/* What is trained becomes what the checkpoint of the best validation holds, if folder has that.
 * *found: the values are now the best ones; false: nothing was validated, or that checkpoint is not
 * there, and nothing has changed. Validations and hlm_tune_write then take these values; steps and
 * saves are refused, unless the best step is the last. A failure after the file was found sound
 * ends the run like that of a step. */
HLM_API bool hlm_tune_take_best(hlm_tune *t, const char *folder, bool *found, struct hlm_err *err);

/* Writes the adapter as a GGUF file and reads it back. HLM_ERR_STATE after a call that failed
 * part-way. */
HLM_API bool hlm_tune_write(hlm_tune *t, const char *path, struct hlm_err *err);
/* The first step writes its gradients, before clipping, to this file, tensors as in the adapter.
 * NULL: it does not. */
HLM_API void hlm_tune_dump_grads(hlm_tune *t, const char *path);

#ifdef __cplusplus
}
#endif
#endif
