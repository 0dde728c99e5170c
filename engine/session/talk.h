/* talk: a conversation: its messages, and the session that has read the prompt made of them. Its
 * calls are in hlm.h.
 *
 * A turn never reads again what an earlier one read. Each turn renders and encodes the whole
 * prompt, with the sampled ids of earlier answers, and hlm_session_sync reads what the caches lack.
 * talk_prompt.h says where snapshots are taken. */
#pragma once
#include "session/session.h"
#include "text/vocab.h"

struct hlm_talk {
    hlm *m;
    hlm_session *session; /* NULL: hlm_talk_set_lora could not restore it */
    struct hlm_session_params params;
    struct hlm_talk_options options;
    struct tok *tok; /* the model's */
    struct chat_format format;
    bool think;
    struct chat_msg *msg; /* system (if any), then user and assistant in turn */
    uint32_t n_msg;
    uint64_t cap;     /* of msg */
    uint32_t n_again; /* how often this turn was regenerated: each time has its own seed */
    bool full;        /* the last turn ended because the context was full */
    struct hlm_talk_total total;
};

/* ---- history (talk.c) ------------------------------------------------------------------------ */

bool msg_is(const struct chat_msg *m, const char *role);
uint32_t talk_n_system(const struct hlm_talk *t); /* messages before the first turn: 0 or 1 */
/* Inserts a message before message i and takes what it owns; frees it when there is no memory. */
bool talk_insert(struct hlm_talk *t, uint32_t i, struct chat_msg m, struct hlm_err *err);
/* The same, with copies of these texts. */
bool talk_add(struct hlm_talk *t, uint32_t i, const char *role, const char *text,
              struct hlm_err *err);
void talk_forget(struct hlm_talk *t, uint32_t from, uint32_t to); /* messages [from, to) */
/* The order must be: perhaps a system message, then pairs of user and assistant. */
bool talk_right_order(const struct chat_msg *msg, uint32_t n);
void talk_free_msgs(struct chat_msg *msg, uint32_t n); /* the array too; takes NULL */
/* False with a reason when the talk has lost its session. */
bool talk_check(const struct hlm_talk *t, struct hlm_err *err);

/* ---- an answer (talk_answer.c) --------------------------------------------------------------- */

/* An answer being generated. Ids and bytes grow together. The tags of reasoning are found in the
 * bytes, because they are not tokens in every vocabulary. Bytes that may begin a tag are shown only
 * when it is clear that they do not. */
struct talk_answer {
    struct hlm_ids ids;
    uint64_t *end, cap_end; /* where the text of each id ends */
    char *text;
    uint64_t n, cap_text;
    enum { OPENING, REASONING, BETWEEN, CONTENT } at;
    uint64_t pos; /* bytes shown or skipped */
    uint64_t reasoning, reasoning_end, content;
    uint32_t n_reasoning; /* ids up to the end of the reasoning */
    bool stopped;         /* a stop text has come: what there is ends before it */
    struct hlm_utf8 utf8;
};
void talk_answer_free(struct talk_answer *a);
bool talk_answer_push(const struct hlm_talk *t, struct talk_answer *a, int32_t id,
                      struct hlm_err *err);
/* Passes new text to options.text, except what may begin a tag or a stop text; last: all of it. */
void talk_answer_show(const struct hlm_talk *t, struct talk_answer *a, bool last);
/* Makes a message of the answer. It has the sampled ids if its text begins and ends at the border
 * of an id. */
bool talk_answer_msg(const struct hlm_talk *t, const struct talk_answer *a, struct chat_msg *m,
                     struct hlm_err *err);
