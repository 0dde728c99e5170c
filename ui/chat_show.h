/* chat_show: how turns look - the answer to standard output, everything else to standard error. */
#pragma once
#include "chat_prose.h"
#include "common.h"
#include "common_lora.h"

enum figures { FIGURES_ON, FIGURES_OFF }; /* in the order of the flag's words */

struct show {
    hlm *model;
    /* Flags and settings: */
    bool raw;       /* Markdown as it stands, also at a terminal */
    int figures;    /* an enum figures: a line of them after each turn */
    bool reasoning; /* show it, dimmed; else only that there is some */
    bool once;      /* one answer, and that is all: there is no history */
    bool json;      /* answers are objects of JSON */
    /* Of the turn that runs: */
    enum { SHOW_NOTHING, SHOW_REASONING, SHOW_CONTENT } at;
    bool line_open; /* the answer's last line has not ended */
    struct bar bar;
    struct prose prose; /* of the text that comes, at a terminal */
};

/* What talks with what, on lines of 80 columns. */
void show_banner(hlm *m, const hlm_talk *t, const struct adapters *a);

void show_hook(struct show *s, struct hlm_talk_options *o); /* sets the callbacks */
void show_begin(struct show *s);
/* Ends the answer's line, then reports on the turn. ok, turn, err: of hlm_talk_say. */
void show_end(struct show *s, hlm_talk *t, bool ok, const struct hlm_talk_turn *turn,
              const struct hlm_err *err);
/* A failure, with the flags and commands of this program that would help; silent about a stop. */
void show_error(const struct hlm_err *err, const struct hlm_talk_options *o);
/* The last n turns, and the system message where that is all; to standard error. */
void show_messages(const struct show *s, const hlm_talk *t, uint32_t n_turn);
void show_stats(const struct show *s, hlm_talk *t); /* /stats */
