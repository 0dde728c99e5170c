/* prompt: builds the text of a prompt as spans, which separate template text from people's. */
#pragma once
#include "text/tok.h"

/* A message's place in a prompt: spans [begin, text) are its header, its text follows. Consecutive
 * answers of tools share one turn; its header belongs to the first. */
struct chat_cut {
    uint32_t begin, text;
};

/* A rendered prompt: spans point into text and into the messages' ids, which must outlive it. */
struct chat_prompt {
    char *text; /* all of it, with a zero at its end */
    uint64_t len;
    struct tok_span *span;
    uint32_t n_span;
    uint32_t n_head;      /* spans that a later prompt still has; the rest of the generation prompt
                             is lost when a later turn drops the reasoning */
    struct chat_cut *cut; /* one for each message, then the generation prompt's if there is one */
    uint32_t n_cut;
    bool in_think; /* the prompt ends inside <think>: the answer begins with reasoning */
};
void chat_prompt_free(struct chat_prompt *p);

/* A prompt under construction. Spans lie end to end in the text and have only lengths until
 * prompt_end(), because the text still moves as it grows. Running out of memory sticks. */
struct prompt_builder {
    struct chat_prompt *p;
    uint64_t text_cap, span_cap;
    bool full;
};

/* Zeroes *out and begins to build in it. */
struct prompt_builder prompt_begin(struct chat_prompt *out);
/* Points the spans into the text. False: memory ran out, and the prompt is freed. */
bool prompt_end(struct prompt_builder *b);

void prompt_span(struct prompt_builder *b, struct tok_span s);
/* Adds template text, in which control tokens are recognised. */
void prompt_put(struct prompt_builder *b, const char *text);
/* Adds a person's or a model's text, in which control tokens are not recognised. */
void prompt_text(struct prompt_builder *b, struct hlm_str s);
/* Mark where a message begins and where its header ends. The prompt's cut[] must have room. */
void prompt_begin_message(struct prompt_builder *b);
void prompt_end_header(struct prompt_builder *b);
