/* chat_parts: shared by the chat*.c files. See chat.h. */
#pragma once
#include "text/chat.h"
#include "text/str.h"

#include <jansson.h>

#define CHAT_EMPTY_THINK "<think></think>"

/* How a family of templates renders tools. */
struct chat_tools {
    const char *list, *list_end; /* around the tools in the system turn */
    bool list_xml;               /* each tool as tags, from its schema; else as JSON */
    enum {
        SYSTEM_FIRST,
        SYSTEM_FIRST_IF_ANY,
        SYSTEM_LAST
    } system;          /* where the system message's own text goes */
    bool call_xml;     /* a call is tags, with a tag for each argument; else JSON */
    bool value_json;   /* an argument that is not a string becomes JSON; else Python's str() */
    const char *first; /* before a call that follows text */
    const char *next;  /* before a call that follows a call */
    const char *end;   /* after each call */
    const char *role;  /* the role of a turn in which tools answer */
    const char *open, *close, *between; /* around an answer, and between two */
    bool not_first;                     /* a tool's turn cannot be the first: it has no header */
};
extern const struct chat_tools chat_tools_qwen3, chat_tools_qwen35, chat_tools_qwen36,
    chat_tools_nemotron, chat_tools_step;

/* Puts the list of tools, with the instructions around it. */
void chat_put_tools(struct prompt_builder *b, const struct chat_tools *t, json_t *list);
/* Puts the calls of an answer. after_text: the answer has text before them. */
void chat_put_calls(struct prompt_builder *b, const struct chat_tools *t, const struct chat_msg *m,
                    bool after_text);
