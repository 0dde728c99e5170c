/* talk_prompt: a history as token ids that end with a generation prompt, and the places in them
 * where a later prompt may begin to differ - where snapshots belong. */
#pragma once
#include "text/chat.h"

struct talk_prompt {
    struct hlm_ids ids;
    uint32_t *begin, n_msg; /* ids before each message; the generation prompt is the last one */
    uint32_t *snap, n_snap; /* for hlm_session_sync: ascending */
    bool in_think;          /* the generation prompt has opened the reasoning itself */
};
void talk_prompt_free(struct talk_prompt *p); /* takes a zeroed one */

/* Replaces what p held. On failure p can only be freed or made again. */
bool talk_prompt_make(struct talk_prompt *p, struct tok *tok, const struct chat_format *format,
                      const struct chat_input *history, bool think, struct hlm_err *err);
/* The index of the message that the id at this place belongs to; n of messages for the generation
 * prompt. */
uint32_t talk_prompt_msg_at(const struct talk_prompt *p, uint32_t at);
