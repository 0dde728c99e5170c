/* chat_talk: a conversation - its messages, the prompt they make, the session that has read it, and
 * what a turn did. It knows no terminal: text, progress and the wish to stop go through hooks.
 *
 * A turn never reads again what was read before. The prompt is rendered and encoded whole each
 * time, with the sampled ids of earlier answers in it, and hlm_session_sync reads what the caches
 * lack. Snapshots stand where the text of each message begins, where the prompt will part from its
 * later self if the template drops reasoning from history, and at its end (chat_prompt.h). */
#pragma once
#include "hlm.h"

enum talk_part { TALK_REASONING, TALK_CONTENT };

struct talk_hooks {
    /* Whole UTF-8 characters of the answer as they come. */
    void (*text)(void *user, enum talk_part part, const char *s, uint64_t n);
    hlm_progress reading; /* tokens of the prompt */
    bool (*stopped)(void *user);
    void *user;
};

enum talk_end {
    TALK_DONE,    /* the model ended its answer */
    TALK_LIMIT,   /* n_predict tokens were made */
    TALK_FULL,    /* the context has no room left */
    TALK_STOPPED, /* the hook said so; what there is belongs to the history */
};

struct talk_turn { /* what one turn did; counts are tokens */
    enum talk_end end;
    uint32_t n_prompt; /* of the whole conversation, this message included */
    uint64_t n_read, n_reused, n_reread;
    struct hlm_found found; /* how the prompt began like what was held before */
    uint32_t i_msg;         /* the message in which it parted from that */
    uint64_t n_gen, n_reasoning;
    uint32_t n_dropped_turns, n_dropped; /* to make room */
    uint32_t n_used, n_ctx;              /* of the context, at the end */
    uint64_t seed;
    double read_s, gen_s, first_s; /* first_s: until the first token */
};

struct talk { /* the fields down to the line may be changed between turns */
    struct chat_format format;
    bool drop;         /* full: drop the oldest turns; false: refuse */
    int32_t n_predict; /* tokens of an answer at most; < 0: as many as there is room for */
    struct hlm_sampling sampling;
    struct talk_hooks hooks;
    /* --- */
    bool think; /* set by talk_think */
    bool known; /* the file's template is one that hlm knows */
    hlm *model;
    hlm_session *session;
    struct tok *tok;
    struct chat_msg *msg; /* system (if any), then user and assistant in turn */
    uint32_t n_msg, cap;
    uint32_t n_again;       /* /regen of this turn: each has a seed of its own */
    bool full;              /* the last turn ended for want of room */
    struct talk_turn total; /* sums over all turns: n_*, *_s */
    struct talk_turn last;
    uint32_t n_turn; /* answered ones, ever */
};

/* The session must be fresh; model and session stay the caller's. */
bool talk_init(struct talk *t, hlm *model, hlm_session *session, struct hlm_err *err);
/* A fresh session in place of the one before: the next turn reads the conversation anew. */
void talk_renew(struct talk *t, hlm_session *session);
void talk_finish(struct talk *t); /* takes a zeroed one */

/* Adds a message and answers it. False with err: it failed; false without: stopped before the
 * answer began. The message is then not in the history. */
bool talk_say(struct talk *t, const char *text, struct talk_turn *turn, struct hlm_err *err);
/* Answers the last message once more, with another seed. False as above: then the old answer stays.
 */
bool talk_regen(struct talk *t, struct talk_turn *turn, struct hlm_err *err);
/* Why the turn read more than the new message, in a few words: "" when it did not. */
void talk_why(const struct talk_turn *turn, char *out, uint64_t size);
bool talk_undo(struct talk *t);  /* forgets the last message and its answer; false: there is none */
void talk_clear(struct talk *t); /* forgets all but the system message */
bool talk_system(struct talk *t, const char *text, struct hlm_err *err); /* NULL or "": none */
const char *talk_get_system(const struct talk *t);                       /* NULL: none */
bool talk_think(struct talk *t, bool on, struct hlm_err *err); /* false: the format has no choice */
/* The conversation with the session's state, to a file and back (chat_save.c). A load replaces the
 * conversation; one that is refused leaves everything as it was. */
bool talk_save(const struct talk *t, const char *path, struct hlm_err *err);
bool talk_load(struct talk *t, const char *path, struct hlm_err *err);
uint32_t talk_n_turns(const struct talk *t); /* in the history */
