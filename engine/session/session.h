/* session: one conversation - where its timeline stands, its caches, and the recorded lists of
 * dispatches that move it on. The public calls are in hlm.h. */
#pragma once
#include "model/kv_stats.h"
#include "session/open.h"
#include "session/snapshot.h"

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

/* Everything of a session but its memory: its arenas have their sizes, for the largest plans are
 * recorded and have told how much scratch they need. Then all of it is allocated. */
hlm_session *session_lay_out(hlm *m, const struct hlm_session_params *params, uint32_t n_ctx,
                             struct hlm_err *err);
bool session_commit(hlm_session *s, struct hlm_err *err);
uint32_t session_n_batch(const hlm_session *s);
