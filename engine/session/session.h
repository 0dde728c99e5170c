/* session: one sequence of a context - where its timeline stands, and which state it has. The
 * public calls are in hlm.h. */
#pragma once
#include "session/context.h"

/* A session. Its ids are known up to n_known; the caches have read n_past of them. */
struct hlm_session {
    hlm *m;
    hlm_context *x;
    uint32_t seq;    /* which sequence of the context */
    bool open, used; /* used: it has been open, so its slot has a state */
    uint32_t slot;   /* which of its two slots has the present state */
    /* How it samples: words of struct segment, those that say where it stands left 0, and the row
     * of biases for the sampler. Made from `sampling`, if sampling_set. */
    struct segment sampler;
    uint32_t bias[1 + 2 * MAX_BIAS];
    struct hlm_sampling sampling;
    bool sampling_set;

    int32_t *id; /* [n_ctx + 1]: the cached tokens, then at most one that is not read yet */
    uint32_t n_past, n_known;
    uint32_t n_row; /* tokens whose keys and values are those of id[]: n_past or, when the state was
                       set back, more; reading a token below n_row is reading it again */
    bool has_logits;   /* of id[n_past - 1] */
    bool unclear;      /* what it has cached is void, or not known: only a sync can go on */
    uint64_t n_change; /* of the model, when the tokens were read */
    struct snapshots snaps;
    struct hlm_found found;
    struct hlm_stats stats, counted; /* counted: the part of stats that the model's counters have */
};

/* The state slot that it reads next, and the one that is then written. */
static inline uint32_t session_slot(const hlm_session *s)
{
    return SLOTS_OF_SEQ * s->seq + s->slot;
}
static inline uint32_t session_spare_slot(const hlm_session *s) { return session_slot(s) ^ 1; }
/* Where its ids lie in the context's, as the index of a word. */
static inline uint64_t session_id_at(const hlm_session *s, uint32_t pos)
{
    return (uint64_t)s->seq * (s->x->n_ctx + 1) + pos;
}
/* Its segment of the next batch. */
struct segment session_segment(const hlm_session *s);

/* Makes ready a session that context_free_session has found, with no tokens. */
bool session_open(hlm_session *s, struct hlm_err *err);
/* Ends it: the sequence is free again. Takes one that is not open. */
void session_close(hlm_session *s);

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

/* False, with a reason, where training has changed the model since the tokens were read, so that
 * only a new sync can go on. */
bool session_current(hlm_session *s, struct hlm_err *err);
/* Goes to the start: a zero state, and no tokens. The caches keep their contents, which no position
 * reaches. */
bool session_clear(hlm_session *s, struct hlm_err *err);
/* More tokens than there are positions. Always false. */
bool session_full(const hlm_session *s, uint64_t need, struct hlm_err *err);
/* Sets the id at a position. If it was another id, the keys and values from there on are those of
 * another text, and so are the snapshots of longer prefixes. */
void session_set_id(hlm_session *s, uint32_t at, int32_t id);
/* After a submission has failed: the state of n_past tokens is in its slot, but keys and values of
 * later positions may be those of any tokens. Always false. */
bool session_keep_position(hlm_session *s);
/* Whether a call may work on n sessions together: 1 to MAX_SEGMENT of them; of one context, all
 * open, none twice. */
bool sessions_count(uint32_t n, struct hlm_err *err);
bool sessions_together(hlm_session *const *s, uint32_t n, struct hlm_err *err);
/* Takes over how to sample. */
bool session_set_sampling(hlm_session *s, const struct hlm_sampling *p, struct hlm_err *err);
