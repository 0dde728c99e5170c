/* chat: turns messages into the text of a prompt. There is no template interpreter: the text of the
 * file's template selects one of the formats that are built in. The architecture plays no part. */
#pragma once
#include "text/prompt.h"

struct json_t; /* jansson's */

enum chat_thinking { CHAT_NEVER_THINKS, CHAT_MAY_THINK, CHAT_ALWAYS_THINKS };
/* Which turns after the last question get an empty <think> block if they have no reasoning. */
enum chat_empty { CHAT_EMPTY_NONE, CHAT_EMPTY_LAST, CHAT_EMPTY_ALL };

/* How an earlier answer is rendered: as it is, or by the rules of a family of templates. */
enum chat_answer { CHAT_PLAIN, CHAT_QWEN, CHAT_NEMOTRON, CHAT_STEP };

/* A family of templates, with the points where its members differ. A value: it may be copied. */
struct chat_format {
    const char *name;        /* one of HLM_CHAT_FORMATS */
    enum chat_answer answer; /* all but CHAT_PLAIN separate reasoning from content */
    bool trim, trim_end;     /* strips contents at both ends; strips answers at the end */
    bool strict;             /* a system message must come first; a user message is required */
    bool system;             /* there is always a system turn, even an empty one */
    enum chat_empty empty;
    const struct chat_tools *tools; /* how tools, calls and their answers are rendered; NULL: not
                                       supported */
    enum chat_thinking thinking;
    bool think;                /* what the template does by default */
    const char *on, *off;      /* what ends the generation prompt, thinking and not */
    const char *past;          /* what replaces it once the reasoning has been dropped */
    const char *between_parts; /* of a content that is a list; NULL: nothing */
    bool prints_bos;
    struct hlm_str bos; /* its text in the file, which must outlive the format; may be empty */
};

/* Finds the format by markers in tokenizer.chat_template. *known is false when there is no template
 * or hlm does not know it; the nearest format, mostly ChatML, is then assumed. */
struct chat_format chat_detect(const struct gguf *g, bool *known);
/* The format of this name as published. It takes its bos, if it prints one, from g, which may be
 * NULL. False: no such name. */
bool chat_by_name(const char *name, const struct gguf *g, struct chat_format *fmt);

/* A function that an answer calls. */
struct chat_call {
    char *name;
    struct json_t *args; /* an object, in the order of the file; a reference */
    char *args_text;     /* the file's own text of it, if it came as text, else NULL */
};

struct chat_msg {
    char *role; /* "system" "user" "assistant" "tool" */
    char *content;
    char *reasoning;        /* NULL or text between <think> and </think> */
    char *name;             /* NULL or its author: Step 3.5 has a role for "observation" */
    struct chat_call *call; /* an assistant's tool calls */
    uint32_t n_call;
    int32_t *ids;   /* what was sampled for content; NULL when this session did not sample it */
    uint32_t n_ids; /* without the closing token */
};
void chat_msg_free(struct chat_msg *m); /* frees what it points to, not m itself */

/* What a prompt is made of. Owns nothing. */
struct chat_input {
    const struct chat_msg *msg;
    uint32_t n;
    struct json_t *tools;                 /* NULL or a list that chat_tools_check() accepted */
    const struct chat_prompt *tools_text; /* NULL or the result of chat_render_tools() for it */
};

/* Renders a list of tools once, for many prompts with that list. Empty when the format does not
 * support tools. False: no memory. */
bool chat_render_tools(const struct chat_format *fmt, struct json_t *tools, struct chat_prompt *out,
                       struct hlm_err *err);
/* Renders the prompt for these messages. generate: ends it with the generation prompt, thinking or
 * not, if the format has the choice. An unknown role is an error, and so are tools and calls that
 * the format does not support. A misplaced system message and a missing user message are errors
 * where the format's own template refuses them. Texts of tools and calls never become control
 * tokens. */
bool chat_render(const struct chat_format *fmt, const struct chat_input *in, bool generate,
                 bool think, struct chat_prompt *out, struct hlm_err *err);

/* Reads a list of messages: {role, content[, reasoning_content, name, tool_calls]}. Content is text
 * or a list of text parts, {type: "text", text}, which f joins. That of an answer may be null, and
 * missing when there are tool_calls. A call is {name, arguments}, bare or inside
 * {function: {...}}; its arguments are an object, or the JSON text of one. `name` is the file's
 * name for errors. The result is freed with chat_free(). NULL with a reason. */
struct chat_msg *chat_from_list(struct json_t *list, const struct chat_format *f, const char *name,
                                uint32_t *n, struct hlm_err *err);
/* The same from JSON text: a list, or an object with "messages" and perhaps "tools". */
struct chat_msg *chat_from_json(struct hlm_str json, const struct chat_format *f, const char *name,
                                uint32_t *n, struct json_t **tools, struct hlm_err *err);
/* Takes NULL. */
void chat_free(struct chat_msg *msg, uint32_t n, struct json_t *tools);
/* Checks that j is a list of functions: {name, ...}, bare or inside {function: {...}}. *tools
 * becomes j, or NULL when j is an empty list, JSON's null, or NULL. False with a reason. */
bool chat_tools_check(struct json_t *j, const char *name, struct json_t **tools,
                      struct hlm_err *err);
