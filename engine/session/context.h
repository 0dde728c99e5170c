/* context: what the sequences of one context share - caches, buffers, recorded lists of dispatches
 * - and how a batch of their tokens is submitted. A sequence is a session (session.h). The public
 * calls are in hlm.h. */
#pragma once
#include "gpu/recording.h"
#include "model/kv_stats.h"
#include "session/open.h"
#include "session/snapshot.h"

/* What a context has recordings for. */
enum context_recording {
    REC_READ,        /* n tokens of a sequence into the caches */
    REC_READ_LAST,   /* the same, and the logits of the last token */
    REC_EVAL,        /* the same, and the logits of all tokens */
    REC_EVAL_HIDDEN, /* the same, and the hidden states */
    REC_NLL,         /* n tokens, and for each the parts of the next one's likelihood */
    REC_NEXT,       /* one token (the last of ids) of each of n sequences, its logits, and the token
                       after it */
    REC_NEXT_STATS, /* the same, and layers report their gates */
    REC_SAMPLE,     /* a token of a sequence from the logits that are there */
};
enum { MAX_BATCH = 4096 };

struct hlm_context {
    hlm *m;
    uint64_t n_change; /* of the model, when the recordings were made (open.h) */
    uint32_t n_ctx, n_batch, n_seq;
    uint32_t n_eval, n_nll; /* tokens of a batch of hlm_session_eval, and of a slice of the logits
                               in hlm_session_nll; 0: there is neither */
    enum hlm_kv kv_type;
    bool keep_logits, keep_hidden; /* as in the params */
    bool of_session;               /* made by hlm_session_create: it goes with its only session */
    struct kv kv;
    struct arena *scratch, *io, *host;
    tensor step, ids, all_logits, hidden, nll_rows, nll_parts;
    tensor logits;          /* [n_slot][n_vocab], of each state slot */
    struct kv_stats layers; /* zeros while nobody wants layers */
    bool stats_off;         /* REC_NEXT_STATS could not be recorded: answers go without it */
    bool layers_off;        /* there was no room for statistics of layers that were asked for */
    struct sampler sampler;
    struct recordings recordings;
    /* What the device has, so that the host writes only what differs. */
    struct segment seg[MAX_SEGMENT]; /* the first n_seg rows of the step buffer */
    uint32_t n_seg;
    uint32_t bias[MAX_SEGMENT][1 + 2 * MAX_BIAS]; /* of the first n_bias rows */
    uint32_t n_bias;
    /* The step after the one whose token the host has read last, submitted before somebody asks for
     * it. It reads the state that its sessions are in and writes the other slots, so that it can be
     * dropped at no cost but its time. */
    struct {
        uint32_t n; /* its sessions; 0: there is none */
        hlm_session *s[MAX_SEGMENT];
        uint64_t submission;
    } ahead;
    bool
        goes_ahead; /* steps are submitted ahead. On a CPU device that gains nothing: the host waits
                       for it in any case, and the step that nobody asks for takes its time */
    bool flags_unclear;  /* a step that was dropped may have found logits that are not finite */
    bool counts_unclear; /* a failed submission may have left counts in sampler.count */

    hlm_session *seq; /* [n_seq], some of them open */
};

/* Two state slots for each sequence: a batch reads one and writes the other, so that a submission
 * that fails leaves the state that was. */
enum { SLOTS_OF_SEQ = 2 };

/* Once the arenas are there, though not yet allocated. */
void context_init_recordings(hlm_context *x);
/* Records the largest list of each kind, so that the scratch arena becomes as large as they need.
 */
bool context_lay_out_recordings(hlm_context *x, struct hlm_err *err);
/* Ends the recordings that answers need; then no answer waits for a pipeline. The arenas must be
 * allocated. */
bool context_ready(hlm_context *x, struct hlm_err *err);

/* Statistics of layers that a model was not opened with: begins or ends them, and drops all
 * recordings. After a failure to begin there are none (memory.c). */
bool context_show_layers(hlm_context *x, bool on, struct hlm_err *err);
/* Takes up what is wanted by now. Work goes on without statistics for which there is no room. */
void context_follow_watch(hlm_context *x);

/* The recording for n tokens, NULL with a reason. Of REC_NEXT the one that is due. */
struct cmd *context_recording(hlm_context *x, enum context_recording kind, uint32_t n,
                              struct hlm_err *err);
/* Submits a recording for these sessions, one segment each with n_tok tokens, after bringing step
 * buffer and sampler up to date. moves: the recording advances the step buffer; the state is then
 * in the sessions' spare slots. Does not wait, and does not change the sessions. */
bool context_submit(hlm_context *x, struct cmd *c, hlm_session *const *s, uint32_t n,
                    uint32_t n_tok, bool moves, struct hlm_err *err);

/* A step, submitted: one token of each of n sessions. */
struct context_step {
    uint64_t submission;
    uint32_t turn; /* of its sampler */
};
/* Submits a step, or finds that it has been submitted ahead; then submits the one after it, if the
 * context goes ahead. reads: with a token to read; otherwise from the logits that are there. */
bool context_submit_step(hlm_context *x, hlm_session *const *s, uint32_t n, bool reads,
                         struct context_step *step, struct hlm_err *err);
/* The sessions go another way than the step that was submitted ahead. */
void context_drop_ahead(hlm_context *x);
/* A session of the context that is not open; NULL: there is none. */
hlm_session *context_free_session(hlm_context *x);
