/* session: what open.c, memory.c, session.c, snapshot.c and saved.c share. The
 * public calls are in hlm.h; this header is what they need to make them. */
#pragma once
#include "hlm.h"
#include "model/kv_stats.h"
#include "hlm_counters.h"
#include "hlm_train.h"
#include "model/model.h"
#include "session/adapters.h"
#include "text/vocab.h"

#include <assert.h>

struct hlm {
    struct gguf *file;
    struct gpu *gpu;
    struct model *model;
    struct hlm_vocab *vocab;
    struct hlm_log log;
    struct adapters adapters;    /* in force */
    struct hlm_lora *asked_lora; /* the adapters in force, as hlm_set_lora was asked for them */
    uint32_t n_asked_lora;
    uint32_t n_session;    /* alive */
    struct hlm_tune *tune; /* a training; NULL: none */
    char *path, *name;
    bool f16;         /* prompts may be read with f16 operands */
    uint32_t *unused; /* bit set of vocabulary entries that are no tokens */
    uint64_t hash[2]; /* of the file, once hashed */
    bool hashed;
    /* counters.c */
    struct hlm_counters count;
    hlm_watch watch;
    hlm_progress progress; /* of params: bytes of weights */
    void *watch_user, *progress_user;
    bool profile;
    double watched_s;            /* when watch was called last */
    double began_s, began_gen_s; /* when what is read began; seconds and tokens made ... */
    uint64_t began_gen;          /* ... before the answer at hand */
    hlm_session *counted;        /* the session at work, or last at work */
    bool layers;
    struct kv_stats *telling;     /* of whom was at work last: the session, the training */
    uint64_t *load;               /* [layers][load_stride]: choices of experts */
    uint32_t n_load, load_stride; /* n_load: layers */
};

/* hlm_load without clearing err. */
bool model_bring(hlm *m, struct hlm_err *err);

/* ---- adapters (open.c) ---------------------------------------------------------------------- */

/* hlm_set_lora without clearing err. */
bool set_lora(hlm *m, const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
/* A copy, paths included, freed with lora_copy_free. NULL without memory; not NULL for n 0. */
struct hlm_lora *lora_copy(const struct hlm_lora *l, uint32_t n, struct hlm_err *err);
void lora_copy_free(struct hlm_lora *l, uint32_t n); /* takes NULL */

/* ---- counters (counters.c) --------------------------------------------------------------- */

void count_open(hlm *m, const struct hlm_params *params); /* before the weights are loaded */
void count_idle(hlm *m);                                  /* hlm_idle, within a public call */
bool count_load(void *m, uint64_t done, uint64_t total);  /* an hlm_progress of weights */
/* Of total tokens, done are read; one more is made. s->stats has it already. */
void count_read(hlm_session *s, uint64_t done, uint64_t total);
void count_gen(hlm_session *s);
void count_end(hlm_session *s); /* before it is destroyed */
/* A training of this plan begins. */
void count_begin(hlm *m, const struct hlm_plan *plan);
/* Of total rows of a step or a set, done have been run; a step of n_step is done; a validation. */
void count_train(hlm *m, enum hlm_state state, uint64_t done, uint64_t total);
void count_step(hlm *m, const struct hlm_tune_step *s, uint64_t n_step);
void count_valid(hlm *m, double loss);
/* A look at the layers is due: the batch at hand is to tell of its gates. */
bool count_due(const hlm *m);
/* A session's, a training's, before it goes: the choices of experts that it counted stay. */
void count_leave(hlm *m, struct kv_stats *s);
void count_close(hlm *m);

/* ---- snapshots in memory (snapshot.c) ---------------------------------------------------- */

/* MAX_SLOT: copies at most, whatever the budget. WORTH: a copy that spares fewer tokens than this
 * over the one before it takes no other's place - reading so few costs one short submission. */
enum { MAX_SLOT = 128, MAX_SNAPSHOT = 256, NO_SLOT = MAX_SNAPSHOT, WORTH = 8 };

/* The state as it was behind n_past tokens of the history. Without a slot: one that was evicted,
 * remembered so that a re-read can be explained. */
struct snapshot {
    uint32_t n_past, flip, slot;
    bool has_logits;
};

/* All snapshots of a timeline, ascending, in slots of one size. They hold what a layer cannot get
 * back by itself; keys and values of full attention stay in their cache, so a snapshot is good only
 * while the ids below it are those of that cache. */
struct snapshots {
    struct gpu *gpu;
    struct arena *arena;
    tensor state, logits; /* the live ones, each as one range */
    uint64_t state_bytes, logits_bytes, slot_bytes;
    uint64_t slot_at[MAX_SLOT];
    uint32_t n_slot, n;
    struct snapshot at[MAX_SNAPSHOT];
    uint32_t want[MAX_SLOT + 1], n_want; /* where there are to be some: snapshots_aim */
    struct cmd *cmd;                     /* the newest copy; may still run */
};

/* Takes the slots that fit budget in an uncommitted arena. */
bool snapshots_init(struct snapshots *k, struct gpu *g, struct arena *state, tensor logits,
                    uint64_t budget, struct hlm_err *err);
void snapshots_finish(struct snapshots *k); /* takes a zeroed one */
/* Those of more than n_past tokens are void. */
void snapshots_cut(struct snapshots *k, uint32_t n_past);
/* The longest of at most `most` tokens from which n tokens can be reached: one of exactly n needs
 * its logits. NULL: there is none. */
const struct snapshot *snapshots_best(const struct snapshots *k, uint32_t most, uint32_t n);
/* Of more tokens than n_past and at most `most`, the longest that had to go; 0: none. */
uint32_t snapshots_evicted(const struct snapshots *k, uint32_t n_past, uint32_t most);
/* Chooses which of the places at[0 .. n), ascending, will be kept on the way from a timeline of
 * `from` tokens to one of `to`, and what makes room for them, so that reading is not cut for one
 * that would not stay. */
void snapshots_aim(struct snapshots *k, uint32_t from, uint32_t to, const uint32_t *at, uint32_t n);
/* The first chosen place behind n_past that is not held, `to` when there is none before it. */
uint32_t snapshots_stop(const struct snapshots *k, uint32_t n_past, uint32_t to);
bool snapshots_free(const struct snapshots *k); /* is there an empty slot? */
bool snapshots_wanted(const struct snapshots *k, uint32_t n_past, bool has_logits);
/* Copies the live state, and logits when they are at hand, to a slot, or back. Do not wait. */
bool snapshots_keep(struct snapshots *k, uint32_t n_past, uint32_t flip, bool has_logits,
                    struct arena *scratch, struct hlm_err *err);
bool snapshots_restore(struct snapshots *k, const struct snapshot *from, struct arena *scratch,
                       struct hlm_err *err);
/* A slot for a copy that comes from elsewhere; NULL when there is none. Its bytes are state, then
 * logits. */
struct snapshot *snapshots_add(struct snapshots *k, uint32_t n_past);
tensor snapshots_slot(const struct snapshots *k, const struct snapshot *s);

/* ---- session --------------------------------------------------------------------------------- */

enum { MAX_PLAN = 12 };

enum plan_kind {
    PLAN_READ,        /* n tokens into the caches */
    PLAN_READ_LAST,   /* the same, and the logits of the last one */
    PLAN_EVAL,        /* the same, logits of all */
    PLAN_EVAL_HIDDEN, /* the same, hidden states too */
    PLAN_NLL,         /* n tokens, and what each one's likelihood of the next is made of */
    PLAN_NEXT,        /* one token (the last of ids), its logits, the token after it */
    PLAN_NEXT_TELLS,  /* the same, and layers tell of their gates */
    PLAN_SAMPLE,      /* a token from the logits at hand */
};

struct plan {
    struct cmd *cmd;
    enum plan_kind kind;
    uint32_t n_tok;
    bool ended;    /* ready to be submitted; before, it only told how much scratch it needs */
    uint64_t used; /* when, for finding the oldest */
};

struct hlm_session {
    hlm *m;
    uint32_t n_ctx, n_batch, n_eval, n_nll; /* n_nll: rows whose logits are there at once */
    enum hlm_kv kv_type;
    bool keep_logits, keep_hidden; /* as asked for */
    struct kv kv;
    struct arena *scratch, *io, *host;
    tensor step, ids, logits, all_logits, hidden, nll_rows, nll_parts;
    struct kv_stats layers; /* zeros: nobody asks */
    bool mute;              /* no answer tells of its gates: its plan cannot be had */
    struct sampler sampler;
    struct hlm_sampling sampling; /* what the step holds */
    bool sampling_set;

    struct plan plan[MAX_PLAN];
    uint32_t n_plan;
    uint64_t tick;

    int32_t *id;                    /* [n_ctx + 1]: what the rows of the caches are of, then at
                                       most one that is not read yet */
    uint32_t n_past, n_known, flip; /* where the recurrent state stands */
    uint32_t n_row;                 /* rows of keys and values that are of id[]: n_past or, once
                                       the state was set back, more; read below it, a token is
                                       read again */
    bool has_logits;                /* of id[n_past - 1] */
    bool unclear;                   /* a call failed on the way: what the recurrent state is of
                                       nobody knows */
    struct snapshots snaps;
    struct hlm_found found;
    struct hlm_stats stats, counted; /* counted: of stats, what the model's counters have */
};

/* Forgets everything: zero state, empty caches (their contents do not matter, positions cut
 * them). */
bool session_clear(hlm_session *s, struct hlm_err *err);
/* Tells the device where the next batch begins. Sampling parameters stay as they are there. */
bool session_place(hlm_session *s, struct hlm_err *err);

/* ---- plans of memory (memory.c) ------------------------------------------------------------ */

/* Everything of a session but its memory: its arenas have their sizes, for the largest plans are
 * recorded and have told how much scratch they need. Then all of it is allocated. */
hlm_session *session_lay_out(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                             struct hlm_err *err);
bool session_commit(hlm_session *s, struct hlm_err *err);
uint32_t session_n_batch(const hlm_session *s);

/* What all arenas that there are cost. */
struct hlm_plan plan_of(const hlm *m, uint32_t n_ctx, uint32_t n_batch);
/* The context that a session with these params has: what fits where they leave it open, but one
 * token at least. 0 on failure. */
uint32_t plan_ctx(hlm *m, const struct hlm_session_params *params, struct hlm_err *err);
/* hlm_session_fit without clearing err. */
bool session_fit(hlm *m, const struct hlm_session_params *params, uint32_t *n_ctx,
                 struct hlm_err *err);
/* What the plan needs on the device and what there is: HLM_ERR_WONT_FIT, without what would fit.
 * Always false. */
bool plan_refuse(const hlm *m, const struct hlm_plan *plan, struct hlm_err *err);
const char *plan_parts(const struct hlm_plan *plan, char out[256]); /* its rows, in words */

/* ---- a session in a file (saved.c) ------------------------------------------------------- */

enum { SAVED_VERSION = 1 };

/* The file's first bytes. Texts are cut to fit and need not be terminated. */
struct saved_head {
    char magic[8];
    uint32_t version, kv_type;
    uint64_t file_bytes;
    uint64_t model_hash[2], lora_hash[2];
    uint32_t n_layer, n_vocab, n_past, n_known, flip, has_logits, n_snap, spare;
    uint64_t n_note;
    char arch[32], name[64];
};
static_assert(sizeof(struct saved_head) == 192, "as in the files that there are");

struct saved_snap {
    uint32_t n_past, flip, has_logits, spare;
};

/* What a file must be to fit a session. */
struct saved_want {
    const char *arch, *name;
    uint64_t model_hash[2], lora_hash[2];
    uint32_t n_layer, n_vocab, n_ctx;
    enum hlm_kv kv_type;
    /* bytes of the parts for so many tokens */
    uint64_t (*state_bytes)(const void *user, uint32_t n_past);
    uint64_t (*kv_bytes)(const void *user, uint32_t n_past);
    const void *user;
};

/* A file that has been checked: its small parts, and where the first large one lies. */
struct saved {
    struct saved_head head;
    struct saved_snap snap[MAX_SNAPSHOT];
    int32_t *id; /* [n_known] */
    char *note;  /* terminated */
    uint64_t logits_at;
    uint64_t sum[2];
};
/* False: s holds nothing. Needs no device. */
bool saved_open(struct saved *s, const struct file_in *f, const struct saved_want *w,
                struct hlm_err *err);
void saved_finish(struct saved *s); /* takes a zeroed one */
