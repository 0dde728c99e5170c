/* chat_parts: what the files of chat share. See chat.h. */
#pragma once
#include "text/chat.h"

#include <jansson.h>

/* A prompt in the making. Spans lie end to end in the text, so that only their lengths are known
 * until it stands still. Running out of memory sticks. */
struct draft {
    struct chat_prompt *p;
    uint64_t text_cap;
    uint32_t span_cap;
    bool full;
};

void draft_span(struct draft *d, struct tok_span s);
/* Template text: control tokens in it are meant. */
void draft_put(struct draft *d, const char *text);
/* A person's or a model's text: never a control token, whatever it says. */
void draft_text(struct draft *d, struct hlm_str s);

struct hlm_str chat_str(const char *s);
/* Without what Python's str.strip() takes away at both ends. */
struct hlm_str chat_trim(struct hlm_str s);

/* Text from outside for a message: cut to fit, no byte that breaks a line or moves a terminal. */
struct shown {
    char s[JSON_ERROR_TEXT_LENGTH];
};
struct shown chat_show(const char *text, uint32_t max);

/* How a family of templates tells of tools. */
struct chat_tools {
    const char *list, *list_end; /* around the tools in the system turn */
    bool list_xml;               /* each as tags, its schema taken apart; else as JSON */
    enum { SYSTEM_FIRST, SYSTEM_FIRST_IF_ANY, SYSTEM_LAST } system; /* and that turn's own text */
    bool call_xml;                  /* as tags with a tag for each argument; else as JSON */
    bool value_json;                /* an argument that is no text is told as JSON, else Python's */
    const char *first, *next, *end; /* before a call behind text, behind a call; behind each call */
    const char *role;               /* whose turn it is when tools answer */
    const char *open, *close, *between; /* around an answer, and between two */
    bool not_first;                     /* that turn would have no header if it were the first */
};
extern const struct chat_tools chat_tools_qwen3, chat_tools_qwen35, chat_tools_qwen36,
    chat_tools_nemotron, chat_tools_step;

/* The tools with the words around them. */
void draft_tools(struct draft *d, const struct chat_tools *t, json_t *list);
/* The calls of an answer; told: text of its own stands before them. */
void draft_calls(struct draft *d, const struct chat_tools *t, const struct chat_msg *m, bool told);
