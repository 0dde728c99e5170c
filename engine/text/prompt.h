/* prompt: the text of a prompt as spans that say who wrote what, and how it is built. */
#pragma once
#include "text/tok.h"

/* Where a message stands in a prompt: spans [begin, text) are its header, its text follows.
 * Answers of several tools in a row share a turn, whose header is the first one's. */
struct chat_cut {
    uint32_t begin, text;
};

/* A rendered prompt: spans point into text and into the messages' ids, which must outlive it. */
struct chat_prompt {
    char *text; /* the whole, terminated */
    uint64_t len;
    struct tok_span *span;
    uint32_t n_span;
    uint32_t n_head;      /* spans before the part of the generation prompt's thinking that is gone
                             in a later turn, in which reasoning is dropped */
    struct chat_cut *cut; /* one for each message, then the generation prompt's if there is one */
    uint32_t n_cut;
    bool in_think; /* the prompt ends inside <think>: what comes first is reasoning */
};
void chat_prompt_free(struct chat_prompt *p);

/* A prompt under construction. Spans lie end to end in the text, so that only their lengths are
 * known until the text stops moving. Running out of memory sticks. */
struct prompt_builder {
    struct chat_prompt *p;
    uint64_t text_cap, span_cap;
    bool full;
};

/* Zeroes *out, which the prompt is built in. */
struct prompt_builder prompt_begin(struct chat_prompt *out);
/* Points the spans into the text. False: memory ran out, and the prompt is freed. */
bool prompt_end(struct prompt_builder *b);

void prompt_span(struct prompt_builder *b, struct tok_span s);
/* Template text: control tokens in it are meant. */
void prompt_put(struct prompt_builder *b, const char *text);
/* A person's or a model's text: never a control token, whatever it says. */
void prompt_text(struct prompt_builder *b, struct hlm_str s);
/* A message begins here; its header ends here. The prompt's cut has room for it. */
void prompt_begin_message(struct prompt_builder *b);
void prompt_end_header(struct prompt_builder *b);
