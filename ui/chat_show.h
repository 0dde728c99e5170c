/* chat_show: how turns look - the answer to standard output, everything else to standard error. */
#pragma once
#include "chat_talk.h"
#include "common.h"

struct show {
    bool reasoning; /* show it, dimmed; else only that there is some */
    /* Of the turn that runs: */
    enum { SHOW_NOTHING, SHOW_REASONING, SHOW_CONTENT } at;
    bool line_open; /* the answer's last line has not ended */
    struct bar bar;
};

struct talk_hooks show_hooks(struct show *s);
void show_begin(struct show *s);
/* Ends the answer's line, then says what is to be said about the turn. ok, turn, err: of talk_say.
 */
void show_end(struct show *s, struct talk *t, bool ok, const struct talk_turn *turn,
              const struct hlm_err *err);
void show_stats(const struct talk *t); /* /stats */
