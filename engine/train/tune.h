/* tune: shared by the tune*.c files, which make up a training run. The public calls are in
 * hlm_train.h. */
#pragma once
#include "hlm_train.h"
#include "lora/lora_make.h"
#include "session/memory.h"
#include "train/train.h"

/* ---- rows in the order of training (tune_rows.c) ----------------------------------------- */

/* A row of the run: the pass over the data, and the row in it; both from 0. */
struct cursor {
    uint64_t epoch;
    uint32_t i_row;
};

/* The rows of one pass at a time. Each pass is packed anew from the documents, in an order that
 * depends on the seed and the number of the pass. */
struct stream {
    const struct data_set *set; /* NULL: every pass has the `fixed` rows */
    const struct data_rows *fixed;
    struct data_rows rows; /* of the pass `epoch`, if `ready` and there is a set */
    uint32_t *order;       /* of documents or of rows; NULL: as in the file */
    uint32_t row_length;   /* at most; each pass has the length that balances its rows */
    uint32_t want_rows;    /* rows of a pass at least, as far as documents permit */
    int32_t pad_id;
    uint64_t seed, epoch;
    bool shuffle, ready;
};
/* The row at c. If the pass has no such row, c moves to the first row of the next pass. NULL: no
 * memory. */
const struct data_row *stream_row(struct stream *s, struct cursor *c, struct hlm_err *err);
/* All rows of the first pass; NULL as above. */
const struct data_rows *stream_first(struct stream *s, struct hlm_err *err);
void stream_finish(struct stream *s);

/* The number of rows that the steps take, and the most slots and documents of one row. */
struct extent {
    uint64_t n_row;
    uint32_t max_tok, max_doc;
};
bool stream_extent(struct stream *s, uint64_t n_row, struct extent *e, struct hlm_err *err);

/* ---- what is left open (tune_choose.c) --------------------------------------------------- */

struct HLM_NAMED tune_size {
    uint32_t n_doc; /* of training; 0: rows of ids */
    uint64_t n_tok, n_counted;
    uint32_t max_seq; /* of a packed row; 0: each document is a row */
    uint32_t n_embd;
};
struct tune_chosen {
    bool epochs, batch_rows, lr; /* which were left open */
    uint32_t want_rows; /* rows of a pass at least, so that the usual number of passes makes
                           enough updates */
};
/* Fills in what is left open: epochs 0 without steps, batch_rows 0, lr, peak and final below 0. */
void tune_choose(const struct tune_size *s, struct hlm_train_options *o, double *epochs,
                 struct tune_chosen *c);
double tune_width_rate(uint32_t n_embd); /* the rate of a model of this width */

/* ---- a checkpoint's state in a file (tune_state.c) --------------------------------------- */

enum { STATE_VERSION = 2, MAX_STATE_OPTION = 40 };

/* All options that change the numbers of a run, with the names of hlm_train.h. */
/* clang-format off */
#define TUNE_OPTIONS(U, F)                                                                     \
    U(seed) U(precision) U(no_pack) U(max_seq) U(no_shuffle) U(steps) U(batch_rows)            \
    U(accumulation) U(rank) U(rslora) U(train_gates) U(train_lora) U(bias_correction)          \
    U(schedule) U(warmup_steps) U(total_steps)                                                 \
    F(alpha) F(lr) F(peak) F(warmup_from) F(final) F(beta1) F(beta2) F(eps) F(weight_decay)    \
    F(weight_decay_gates) F(clip_norm) F(lora_dropout) F(mtp_factor)
/* clang-format on */

struct tune_options {
#define U(name) uint64_t name;
#define F(name) double name;
    TUNE_OPTIONS(U, F)
#undef F
#undef U
};

/* The position of a run between two steps. */
struct tune_position {
    uint64_t step;                           /* steps done */
    uint64_t epoch, i_row;                   /* the next row */
    uint64_t valid_step, best_step, n_worse; /* steps of the last and the best validation; number of
                                                validations after the best */
    double loss;                             /* of the last step; not known before the first */
    double valid_loss, best_loss;
    uint64_t n_counted, n_tok; /* of all steps so far; took_s is their time */
    double took_s;
};

/* The beginning of the file. A struct state_param for each parameter follows; then, for each
 * parameter, its values on the device, m and v, all F32; then a checksum of everything before it.
 * Texts are cut to fit; a text that fills its array has no zero at its end. */
struct state_head {
    char magic[8];
    uint32_t version, n_param;
    uint64_t file_bytes;
    uint64_t model_hash[2], data_hash[2];
    struct tune_options options;
    struct tune_position position;
    char arch[32], name[64], device[128];
};
struct state_param {
    char name[64];
    uint64_t n;
};

/* What a state file of this run must contain, and how to get and put the numbers on the device. */
struct state_want {
    struct state_head head; /* the head of a file written now */
    const struct state_param *param;
    /* TRAIN_DEVICE, TRAIN_M and TRAIN_V of parameter i; to and from have n numbers */
    bool (*get)(void *user, enum train_what what, uint64_t i, float *to, struct hlm_err *err);
    bool (*put)(void *user, enum train_what what, uint64_t i, const float *from,
                struct hlm_err *err);
    void *user;
};
bool state_write(const char *path, struct state_want *w, struct hlm_err *err);
/* Checks that the file is complete and that its head and its parameters are those of w; *head
 * becomes the file's. Puts nothing. */
bool state_check(const struct file_in *f, const struct state_want *w, struct state_head *head,
                 struct hlm_err *err);
/* Puts all numbers of a checked file, or only the values. */
bool state_read(const struct file_in *f, const struct state_want *w, bool all, struct hlm_err *err);

/* ---- files of data --------------------------------------------------------------------------- */

enum { TUNE_MAX_FILES = 64 };

struct tune_files {
    const char *train[1 + TUNE_MAX_FILES];
    struct data_files files;
};
/* The files that parameters name; f is valid as long as they are. */
bool tune_files(const struct hlm_tune_params *p, struct tune_files *f, struct hlm_err *err);

/* ---- a run ----------------------------------------------------------------------------------- */

struct hlm_tune {
    hlm *m;                   /* the trained adapter is in force there */
    struct hlm_tune_params p; /* its texts and its session are copies in `own` */
    struct {
        char *data, *ids_json, *init_lora, *targets, *resume, *format, *note;
        char *more[TUNE_MAX_FILES], *valid[TUNE_MAX_FILES]; /* further files of data */
        struct hlm_session_params sample;
    } own;
    struct hlm_train_options o; /* with no value left to choose */
    struct tune_chosen chosen;
    bool f16; /* products take f16 operands; from p.precision and the device */
    struct data data;
    struct data_rows fixed, valid, test;
    struct stream stream;
    struct extent extent;
    uint64_t data_hash[2];
    uint64_t n_row, n_padding; /* of the first pass */
    uint32_t *doc_tok[3];      /* by enum hlm_tune_set: tokens of each document; NULL: ids_json */
    struct trainer *trainer;   /* NULL until hlm_tune_begin */
    bool layers_off;           /* there was no memory for statistics of layers */
    bool begun;
    uint8_t *fresh;            /* the file of a new adapter; NULL: it is from init_lora */
    float alpha;               /* of the adapter's file */
    bool warned;               /* of an adapter of another file */
    bool rslora;               /* it says that alpha was given for a scale of alpha / sqrt(rank) */
    struct state_param *param; /* in the trainer's order */
    uint32_t n_param;
    struct hlm_tune_target *target;
    uint64_t n_target, n_number, n_gate;
    struct hlm_plan plan;
    struct tune_position position;
    uint64_t saved_step; /* 1 + the step of the newest checkpoint; 0: none */
    char *from;          /* the checkpoint that is resumed; NULL: none */
    char *grads;         /* the file for the first step's gradients; NULL: none */
    bool grads_lost;     /* there was no memory for that name */
    bool unclear;        /* a call failed part-way: gradients, moments and values are undefined */
    bool taken;          /* the values are those of an earlier step: hlm_tune_take_best */
};

struct tune_past {
    struct lora_text text[N_LORA_PAST + 1]; /* and the model's name */
    char room[N_LORA_PAST + 1][2048];
    uint32_t n;
};
/* The texts with which an adapter remembers its run (tune_past.c). */
bool tune_past(hlm_tune *t, struct tune_past *p, struct hlm_err *err);
struct train_params tune_train_params(const hlm_tune *t, uint32_t max_tok);
/* Computes steps and total_steps where they are 0, and what depends on them, for n_row rows in a
 * pass. */
void tune_schedule(struct hlm_train_options *o, double epochs, double warmup, uint64_t n_row);
/* Packs a whole set in the file's order. row_length: the longest row; rows are balanced, and there
 * are at least want_rows. row_length 0: each document is a row. An empty set makes no rows. */
bool tune_pack(struct data_rows *r, const struct data_set *s, uint32_t row_length,
               uint32_t want_rows, int32_t pad_id, struct hlm_err *err);
/* How the documents of p->data are read for this file's vocabulary. */
bool tune_reading(const struct hlm_tune_params *p, const struct hlm_vocab *v,
                  struct data_params *how, struct hlm_err *err);
/* The numbers of every set, for hlm_tune_set_info (tune_info.c). */
bool tune_count_sets(hlm_tune *t, struct hlm_err *err);
/* Each checks what the one before it does, and more. False with HLM_ERR_STATE. */
bool tune_begun(const hlm_tune *t, struct hlm_err *err);    /* the run has begun */
bool tune_sound(const hlm_tune *t, struct hlm_err *err);    /* its values are defined */
bool tune_may_step(const hlm_tune *t, struct hlm_err *err); /* they are those of the last step */
/* Finds the checkpoint for p.resume, checks it, and sets `from`. */
bool tune_find(hlm_tune *t, struct hlm_err *err);
/* Sets the trainer and the position to those of the checkpoint `from`. */
bool tune_resume(hlm_tune *t, struct hlm_err *err);
/* Writes these numbers of all parameters as an adapter file. */
bool tune_write(hlm_tune *t, enum train_what what, const char *path, struct hlm_err *err);
