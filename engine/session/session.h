/* session: one conversation - where its timeline stands, its caches, and the recorded lists of
 * dispatches that move it on. The public calls are in hlm.h. */
#pragma once
#include "gpu/recording.h"
#include "model/kv_stats.h"
#include "session/open.h"
#include "session/snapshot.h"

/* What a session has recordings for. */
enum session_recording {
    REC_READ,        /* n tokens into the caches */
    REC_READ_LAST,   /* the same, and the logits of the last token */
    REC_EVAL,        /* the same, and the logits of all tokens */
    REC_EVAL_HIDDEN, /* the same, and the hidden states */
    REC_NLL,         /* n tokens, and for each the parts of the next one's likelihood */
    REC_NEXT,        /* one token (the last of ids), its logits, and the token after it */
    REC_NEXT_STATS,  /* the same, and layers report their gates */
    REC_SAMPLE,      /* a token from the logits that are there */
};
enum { MAX_SESSION_RECORDING = 12, MAX_BATCH = 512 };

struct hlm_session {
    hlm *m;
    uint32_t n_ctx, n_batch, n_eval, n_nll; /* n_nll: rows whose logits are there at once */
    enum hlm_kv kv_type;
    bool keep_logits, keep_hidden; /* as asked for */
    struct kv kv;
    struct arena *scratch, *io, *host;
    tensor step, ids, logits, all_logits, hidden, nll_rows, nll_parts;
    struct kv_stats layers; /* zeros without params.layers */
    bool stats_off;         /* REC_NEXT_STATS could not be recorded: answers go without it */
    struct sampler sampler;
    struct hlm_sampling sampling; /* what the step holds */
    bool sampling_set;

    struct recordings recordings;

    int32_t *id;                        /* [n_ctx + 1]: what the rows of the caches are of, then at
                                           most one that is not read yet */
    uint32_t n_past, n_known, i_window; /* where the recurrent state stands */
    uint32_t n_row;                     /* rows of keys and values that are of id[]: n_past or, once
                                           the state was set back, more; read below it, a token is
                                           read again */
    bool has_logits;                    /* of id[n_past - 1] */
    bool unclear;                       /* a call failed on the way: what the recurrent state is of
                                           nobody knows */
    struct snapshots snaps;
    struct hlm_found found;
    struct hlm_stats stats, counted; /* counted: of stats, what the model's counters have */
};

/* Once the arenas are there, though not yet allocated. */
void session_init_recordings(hlm_session *s);
/* Records the largest list of each kind, so that the scratch arena becomes as large as they need.
 */
bool session_lay_out_recordings(hlm_session *s, struct hlm_err *err);
/* Ends the recordings that answers need; then no answer waits for a pipeline. The arenas must be
 * allocated. */
bool session_ready(hlm_session *s, struct hlm_err *err);

/* Forgets everything: zero state, empty caches (their contents do not matter, positions cut
 * them). */
bool session_clear(hlm_session *s, struct hlm_err *err);
/* Tells the device where the next batch begins. Sampling parameters stay as they are there. */
bool session_place(hlm_session *s, struct hlm_err *err);
