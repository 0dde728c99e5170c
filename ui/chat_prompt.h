/* chat_prompt: a history as token ids with a generation prompt behind it, and the places in them
 * that a later prompt may part at - where snapshots belong. */
#pragma once
#include "hlm.h"

struct prompt {
    struct hlm_ids ids;
    uint32_t *begin, n_msg; /* ids before each message; the generation prompt is the last one */
    uint32_t *snap, n_snap; /* for hlm_session_sync: ascending */
    bool in_think;          /* the generation prompt has opened the reasoning itself */
};
void prompt_free(struct prompt *p); /* takes a zeroed one */

bool prompt_make(struct prompt *p, struct tok *tok, const struct chat_format *format,
                 const struct chat_msg *msg, uint32_t n_msg, bool think, struct hlm_err *err);
/* Which message the id at this place belongs to: its index, n for the generation prompt. */
uint32_t prompt_msg_at(const struct prompt *p, uint32_t at);

/* How many ids two lists begin with in common. */
uint32_t common_prefix(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b);
