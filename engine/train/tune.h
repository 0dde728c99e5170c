/* tune: what the files of hlm_tune share. The calls are in hlm_train.h. */
#pragma once
#include "hlm_train.h"
#include "lora/lora_make.h"
#include "session/memory.h"
#include "train/train.h"

/* ---- rows in the order of training (tune_rows.c) ----------------------------------------- */

/* The next row: of which pass over the data, and which of its rows. */
struct cursor {
    uint64_t epoch;
    uint32_t i_row;
};

/* Packs each pass anew, as its number and the seed say, and holds one of them. */
struct stream {
    const struct data_set *set; /* NULL: the rows are always the same ones */
    const struct data_rows *fixed;
    struct data_rows rows; /* of the pass `epoch`, if `ready` and there is a set */
    uint32_t *order;       /* of documents or of rows; NULL: as they stand */
    uint32_t row_length;
    int32_t pad_id;
    uint64_t seed, epoch;
    bool shuffle, ready;
};
/* The row that c stands on, once it is moved to where there is one. NULL: no memory. */
const struct data_row *stream_row(struct stream *s, struct cursor *c, struct hlm_err *err);
/* The first pass from its start; NULL as above. */
const struct data_rows *stream_first(struct stream *s, struct hlm_err *err);
void stream_finish(struct stream *s);

/* Rows that the steps take, and over all of those the most slots and documents of one. */
struct extent {
    uint64_t n_row;
    uint32_t max_tok, max_doc;
};
bool stream_extent(struct stream *s, uint64_t n_row, struct extent *e, struct hlm_err *err);

/* ---- a checkpoint's state in a file (tune_state.c) --------------------------------------- */

enum { STATE_VERSION = 1, MAX_STATE_OPTION = 40 };

/* Everything that decides which numbers a run makes, by the names of hlm_train.h. */
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

/* Where a run stands behind a step. */
struct tune_place {
    uint64_t step, epoch, i_row;             /* done; of the next row */
    uint64_t valid_step, best_step, n_worse; /* last validation, the best, those since */
    double valid_loss, best_loss;
    uint64_t n_counted, n_tok; /* so far */
    double took_s;
};

/* The file's first bytes. Then the rows of struct state_param, then of each parameter its values as
 * the device has them, m and v, all F32, then the checksum of all before it. Texts are cut to fit
 * and need not be terminated. */
struct state_head {
    char magic[8];
    uint32_t version, n_param;
    uint64_t file_bytes;
    uint64_t model_hash[2], data_hash[2];
    struct tune_options options;
    struct tune_place place;
    char arch[32], name[64], device[128];
};
struct state_param {
    char name[64];
    uint64_t n;
};

/* What is trained, and the way to its numbers. */
struct state_want {
    struct state_head head; /* as it would be written now */
    const struct state_param *param;
    /* What the device has, and moments; to and from hold n numbers. */
    bool (*get)(void *user, enum train_what what, uint64_t i, float *to, struct hlm_err *err);
    bool (*put)(void *user, enum train_what what, uint64_t i, const float *from,
                struct hlm_err *err);
    void *user;
};
bool state_write(const char *path, struct state_want *w, struct hlm_err *err);
/* Head and parameters must be those of w, the file whole; *head is the file's. Nothing is put. */
bool state_check(const struct file_in *f, const struct state_want *w, struct state_head *head,
                 struct hlm_err *err);
/* Puts all of it, or the values alone; of a file that was checked. */
bool state_read(const struct file_in *f, const struct state_want *w, bool all, struct hlm_err *err);

/* ---- a run ----------------------------------------------------------------------------------- */

struct hlm_tune {
    hlm *m;                   /* its adapters in force are those that are trained */
    struct hlm_tune_params p; /* with the texts and the session of `own` */
    struct {
        char *data, *ids_json, *init_lora, *targets, *resume, *format;
        struct hlm_session_params sample;
    } own;
    struct hlm_train_options o; /* worked out */
    bool f16;                   /* likewise */
    struct data data;
    struct data_rows fixed, valid, test;
    struct stream stream;
    struct extent extent;
    uint64_t data_hash[2];
    uint64_t n_row, n_padding; /* of the first pass */
    uint32_t *doc_tok[3];      /* by enum hlm_tune_set: tokens of each document; NULL: ids_json */
    struct trainer *trainer;   /* NULL until hlm_tune_begin */
    bool begun;
    uint8_t *fresh;            /* the file that a new adapter was at first */
    float alpha;               /* of its file */
    struct state_param *param; /* as the trainer has them */
    uint32_t n_param;
    struct hlm_tune_target *target;
    uint64_t n_target, n_number, n_gate;
    struct hlm_plan plan;
    struct tune_place place;
    uint64_t saved_step; /* 1 + the step of the newest checkpoint; 0: none */
    char *from;          /* the checkpoint it goes on with */
    char *grads;         /* where the first step's go */
    bool grads_lost;     /* there was no memory for that name */
    bool unclear;        /* a step has failed on its way */
};

struct train_params tune_train_params(const hlm_tune *t, uint32_t max_tok);
/* Works out what total_steps 0 leaves open, for n_row rows in a pass. */
void tune_schedule(struct hlm_train_options *o, double epochs, double warmup, uint64_t n_row);
/* How the documents of p->data are read for this file's vocabulary. */
bool tune_reading(const struct hlm_tune_params *p, const struct hlm_vocab *v,
                  struct data_params *how, struct hlm_err *err);
/* The numbers of every set, for hlm_tune_set_info (tune_info.c). */
bool tune_count_sets(hlm_tune *t, struct hlm_err *err);
bool tune_begun(const hlm_tune *t, struct hlm_err *err); /* else HLM_ERR_STATE */
/* Finds and checks the checkpoint that p.resume means, into from. */
bool tune_find(hlm_tune *t, struct hlm_err *err);
/* The trainer becomes what it was. */
bool tune_resume(hlm_tune *t, struct hlm_err *err);
/* What of everything that is trained as an adapter file. */
bool tune_write(hlm_tune *t, enum train_what what, const char *path, struct hlm_err *err);
