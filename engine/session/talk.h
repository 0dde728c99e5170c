/* talk: what a conversation is inside (hlm.h has its calls) - messages, the prompt that they make,
 * the session that has read it.
 *
 * A turn never reads again what an earlier one read. The prompt is rendered and encoded whole each
 * time, with the sampled ids of earlier answers in it, and hlm_session_sync reads what the caches
 * lack. Snapshots stand where the text of each message begins, where the prompt will differ from
 * its later self if the template drops reasoning from history, and at its end (talk_prompt.h). */
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
    uint32_t n_msg, cap;
    uint32_t n_again; /* how often this turn was regenerated: each time has its own seed */
    bool full;        /* the last turn ended for want of room */
    struct hlm_talk_total total;
};

/* ---- history (talk.c) ------------------------------------------------------------------------ */

bool msg_is(const struct chat_msg *m, const char *role);
uint32_t talk_n_system(const struct hlm_talk *t); /* messages before the first turn: 0 or 1 */
/* Inserts an owned message before message i; frees it when there is no memory. */
bool talk_insert(struct hlm_talk *t, uint32_t i, struct chat_msg m, struct hlm_err *err);
/* The same, with copies of these texts. */
bool talk_add(struct hlm_talk *t, uint32_t i, const char *role, const char *text,
              struct hlm_err *err);
void talk_forget(struct hlm_talk *t, uint32_t from, uint32_t to); /* messages [from, to) */
/* False where the talk has lost its session. */
bool talk_check(const struct hlm_talk *t, struct hlm_err *err);

/* ---- an answer (talk_answer.c) --------------------------------------------------------------- */

/* An answer as it is made. Ids and bytes grow side by side. The tags of reasoning are found in the
 * bytes, since a vocabulary need not have them as tokens. What might become a tag is held back
 * until it is clear. */
struct talk_answer {
    struct hlm_ids ids;
    uint64_t *end, end_cap; /* bytes of the text up to and with each id */
    char *text;
    uint64_t n, cap;
    enum { OPENING, REASONING, BETWEEN, CONTENT } at;
    uint64_t pos; /* bytes shown or skipped */
    uint64_t reasoning, reasoning_end, content;
    uint32_t n_reasoning; /* ids up to the end of the reasoning */
    struct hlm_utf8 utf8;
};
void talk_answer_free(struct talk_answer *a);
bool talk_answer_push(const struct hlm_talk *t, struct talk_answer *a, int32_t id,
                      struct hlm_err *err);
/* Hands what is certain by now to options.text; last: all of it. */
void talk_answer_show(const struct hlm_talk *t, struct talk_answer *a, bool last);
/* The answer as a message. The sampled ids stay with it if its text begins and ends between two of
 * them. */
bool talk_answer_msg(const struct hlm_talk *t, const struct talk_answer *a, struct chat_msg *m,
                     struct hlm_err *err);
