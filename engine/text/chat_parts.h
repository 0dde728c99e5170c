/* chat_parts: what the files of chat share. See chat.h. */
#pragma once
#include "text/chat.h"
#include "text/str.h"

#include <jansson.h>

/* How a family of templates renders tools. */
struct chat_tools {
    const char *list, *list_end; /* around the tools in the system turn */
    bool list_xml;               /* each as tags, its schema taken apart; else as JSON */
    enum {
        SYSTEM_FIRST,
        SYSTEM_FIRST_IF_ANY,
        SYSTEM_LAST
    } system;          /* where that turn's own text
                          stands */
    bool call_xml;     /* as tags with a tag for each argument; else as JSON */
    bool value_json;   /* an argument that is no text becomes JSON, else Python's str() of it */
    const char *first; /* before a call that follows text */
    const char *next;  /* before a call that follows a call */
    const char *end;   /* after each call */
    const char *role;  /* whose turn it is when tools answer */
    const char *open, *close, *between; /* around an answer, and between two */
    bool not_first;                     /* that turn would have no header if it were the first */
};
extern const struct chat_tools chat_tools_qwen3, chat_tools_qwen35, chat_tools_qwen36,
    chat_tools_nemotron, chat_tools_step;

/* The tools with the words around them. */
void chat_put_tools(struct prompt_builder *b, const struct chat_tools *t, json_t *list);
/* The calls of an answer; after_text: text of its own stands before them. */
void chat_put_calls(struct prompt_builder *b, const struct chat_tools *t, const struct chat_msg *m,
                    bool after_text);
