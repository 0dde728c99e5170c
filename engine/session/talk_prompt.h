/* talk_prompt: a history as token ids that end with a generation prompt, and where snapshots are
 * taken in it. These are the places where a later prompt may begin to differ: where the text of
 * each message begins, where the template will drop reasoning from history, and the end. */
#pragma once
#include "text/chat.h"

struct talk_prompt {
    struct hlm_ids ids;
    uint32_t *begin, n_msg; /* ids before each message; the generation prompt is the last one */
    uint32_t *snap, n_snap; /* for hlm_session_sync: ascending */
    bool in_think;          /* the generation prompt ends inside <think> */
};
void talk_prompt_free(struct talk_prompt *p); /* takes a zeroed one */

/* Replaces the content of p. After a failure p can only be freed or made again. */
bool talk_prompt_make(struct talk_prompt *p, struct tok *tok, const struct chat_format *format,
                      const struct chat_input *history, bool think, struct hlm_err *err);
/* The index of the message that id number `at` belongs to. The generation prompt has the index
 * after the last message's. */
uint32_t talk_prompt_msg_at(const struct talk_prompt *p, uint32_t at);
