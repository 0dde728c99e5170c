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

/* A session. Its ids are known up to n_known; the caches have read n_past of them. */
struct hlm_session {
    hlm *m;
    uint32_t n_ctx, n_batch;
    uint32_t n_eval, n_nll; /* tokens of a batch of hlm_session_eval, and of a slice of the logits
                               in hlm_session_nll; 0: the session has neither */
    enum hlm_kv kv_type;
    bool keep_logits, keep_hidden; /* as in the params */
    struct kv kv;
    struct arena *scratch, *io, *host;
    tensor step, ids, logits, all_logits, hidden, nll_rows, nll_parts;
    struct kv_stats layers; /* zeros while nobody wants layers */
    bool stats_off;         /* REC_NEXT_STATS could not be recorded: answers go without it */
    bool layers_off;        /* there was no room for statistics of layers that were asked for */
    struct sampler sampler;
    struct hlm_sampling sampling; /* as in the step buffer, if sampling_set */
    bool sampling_set;

    struct recordings recordings;

    int32_t *id; /* [n_ctx + 1]: the cached tokens, then at most one that is not read yet */
    uint32_t n_past, n_known;
    uint32_t i_window; /* which of the two windows of each convolution holds the past */
    uint32_t n_row; /* tokens whose keys and values are those of id[]: n_past or, when the state was
                       set back, more; reading a token below n_row is reading it again */
    bool has_logits; /* of id[n_past - 1] */
    bool unclear; /* a call failed part-way: which tokens the recurrent state has seen is unknown */
    uint64_t n_change; /* of the model, when the tokens were read */
    struct snapshots snaps;
    struct hlm_found found;
    struct hlm_stats stats, counted; /* counted: the part of stats that the model's counters have */
};

/* Reads n tokens, with the logits and hidden states of hlm_session_eval, finite or not. */
bool session_read_rows(hlm_session *s, const int32_t *id, uint32_t n, float *logits, float *hidden,
                       struct hlm_err *err);
/* Are the logits of all tokens finite? Rows of a matrix that pad the vocabulary may be anything. */
bool session_finite_logits(const hlm_session *s, const float *logits);
/* All that is cached counts as unread; the next sync reads it again. */
void session_forget(hlm_session *s);
/* After logits that are not finite: says which block is the first whose output is not, and forgets
 * what is cached. Always false (not_finite.c). */
bool session_not_finite(hlm_session *s, struct hlm_err *err);

/* Once the arenas are there, though not yet allocated. */
void session_init_recordings(hlm_session *s);
/* Records the largest list of each kind, so that the scratch arena becomes as large as they need.
 */
bool session_lay_out_recordings(hlm_session *s, struct hlm_err *err);
/* Ends the recordings that answers need; then no answer waits for a pipeline. The arenas must be
 * allocated. */
bool session_ready(hlm_session *s, struct hlm_err *err);

/* Statistics of layers that a model was not opened with: begins or ends them, and drops all
 * recordings. After a failure to begin there are none (memory.c). */
bool session_show_layers(hlm_session *s, bool on, struct hlm_err *err);

/* False, with a reason, where training has changed the model since the tokens were read, so that
 * only a new sync can go on. */
bool session_current(hlm_session *s, struct hlm_err *err);
/* Goes to the start: a zero state, and no tokens. The caches keep their contents, which no position
 * reaches. */
bool session_clear(hlm_session *s, struct hlm_err *err);
/* Writes to the step buffer where the next batch begins. Its sampling parameters stay. */
bool session_place(hlm_session *s, struct hlm_err *err);
