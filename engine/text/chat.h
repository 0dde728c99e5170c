/* chat: messages to prompt text, by format. The format is chosen by the text of the file's
 * template, never by the architecture; there is no template interpreter. */
#pragma once
#include "text/prompt.h"

struct json_t; /* jansson's */

enum chat_thinking { CHAT_NEVER_THINKS, CHAT_MAY_THINK, CHAT_ALWAYS_THINKS };
/* After the last question: which turns without reasoning still get an empty <think> block. */
enum chat_empty { CHAT_EMPTY_NONE, CHAT_EMPTY_LAST, CHAT_EMPTY_ALL };

/* How an earlier answer is rendered: as it is, or by the rules of a family of templates. */
enum chat_answer { CHAT_PLAIN, CHAT_QWEN, CHAT_NEMOTRON, CHAT_STEP };

/* A family of templates and where its members differ. A value: copy it, compare names. */
struct chat_format {
    const char *name;        /* one of HLM_CHAT_FORMATS */
    enum chat_answer answer; /* all but CHAT_PLAIN separate reasoning from content */
    bool trim, trim_end;     /* contents lose white space at both ends; answers do, at the end */
    bool strict;             /* a system message must be first, a user's message must be there */
    bool system;             /* a system turn comes first, an empty one if need be */
    enum chat_empty empty;
    const struct chat_tools *tools; /* how tools, calls and their answers are rendered; NULL: they
                                       have no form */
    enum chat_thinking thinking;
    bool think;           /* what the template does by default */
    const char *on, *off; /* what ends the generation prompt, thinking and not */
    const char *past;     /* what stands there once the reasoning has been dropped */
    bool prints_bos;
    struct hlm_str bos; /* the file's text of it, which must outlive the format; may be empty */
};

/* By markers in tokenizer.chat_template. *exact is false when the template is absent or of a kind
 * that hlm does not know; the nearest format, mostly ChatML, is then assumed. */
struct chat_format chat_detect(const struct gguf *g, bool *exact);
/* As published, with the bos of g where the format prints one; g may be NULL. False: no such name.
 */
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
    struct chat_call *call; /* of an assistant */
    uint32_t n_call;
    int32_t *ids;   /* what was sampled for content, NULL when not from this session */
    uint32_t n_ids; /* closing token not included */
};
void chat_msg_free(struct chat_msg *m); /* what it points to, not m itself */

/* What a prompt is made of; owns nothing. */
struct chat_input {
    const struct chat_msg *msg;
    uint32_t n;
    struct json_t *tools;                 /* NULL or a list that chat_tools_check() accepted */
    const struct chat_prompt *tools_text; /* NULL or what chat_render_tools() made of that list */
};

/* The text of a list of tools, once for many prompts with that list; empty where the format has no
 * form for tools. False: no memory. */
bool chat_render_tools(const struct chat_format *fmt, struct json_t *tools, struct chat_prompt *out,
                       struct hlm_err *err);
/* The prompt for these messages. generate: it ends with the generation prompt, thinking or not, as
 * far as the format has the choice. An unknown role is an error, and so are tools and calls where
 * the format has no form for them. A misplaced system message and a missing user message are errors
 * where the format's own template refuses them. Texts of tools and calls are no template text: they
 * never become a control token. */
bool chat_render(const struct chat_format *fmt, const struct chat_input *in, bool generate,
                 bool think, struct chat_prompt *out, struct hlm_err *err);

/* Messages as files have them: a list of {role, content[, reasoning_content, name, tool_calls]}.
 * Content may be null or missing beside tool_calls. A call is {name, arguments}, bare or as
 * {function: {...}}; the arguments are an object or its text. `name` is the file's, for messages.
 * Freed with chat_free(). NULL with a reason. */
struct chat_msg *chat_from_list(struct json_t *list, const char *name, uint32_t *n,
                                struct hlm_err *err);
/* The same from text: a list, or an object with "messages" and, if wanted, "tools". */
struct chat_msg *chat_from_json(const char *json, uint64_t len, const char *name, uint32_t *n,
                                struct json_t **tools, struct hlm_err *err);
/* Takes NULL. */
void chat_free(struct chat_msg *msg, uint32_t n, struct json_t *tools);
/* False with a reason unless j is a list of functions: {name, ...}, bare or as {function: {...}}.
 * *tools is j; NULL where the list is empty, j is JSON's null, or j is NULL. */
bool chat_tools_check(struct json_t *j, const char *name, struct json_t **tools,
                      struct hlm_err *err);
