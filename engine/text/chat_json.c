/* chat_json: reads messages from JSON, for saved files and training data. See chat.h. */
#include "text/chat_parts.h"

#include <stdlib.h>
#include <string.h>

void chat_msg_free(struct chat_msg *m)
{
    for (uint32_t i = 0; i < m->n_call; i++) {
        free(m->call[i].name);
        free(m->call[i].args_text);
        json_decref(m->call[i].args);
    }
    free(m->call);
    free(m->role);
    free(m->content);
    free(m->reasoning);
    free(m->name);
    free(m->ids);
    *m = (struct chat_msg){ 0 };
}

void chat_free(struct chat_msg *msg, uint32_t n, json_t *tools)
{
    for (uint32_t i = 0; msg && i < n; i++)
        chat_msg_free(&msg[i]);
    free(msg);
    json_decref(tools);
}

/* A place in the file: message i and its call k, counted from 1. k is 0 for the message itself. */
struct place {
    const char *name, *join; /* join: between the parts of a content */
    unsigned long long i, k;
    struct hlm_err *err;
};

static bool wrong(const struct place *at, const char *key, const char *what)
{
    if (at->k)
        return fail(at->err, "%s: message %llu: call %llu: \"%s\" %s", at->name, at->i, at->k, key,
                    what);
    return fail(at->err, "%s: message %llu: \"%s\" %s", at->name, at->i, key, what);
}

static bool no_memory(const struct place *at)
{
    return fail_memory(at->err, "%s: no memory for message %llu", at->name, at->i);
}

static bool copy(const struct place *at, const json_t *j, char **to)
{
    size_t n = json_string_length(j);
    *to = mem_alloc(n + 1, 1);
    if (!*to)
        return no_memory(at);
    memcpy(*to, json_string_value(j), n);
    return true;
}

static bool take_string(const struct place *at, const json_t *j, const char *key, char **to)
{
    const json_t *v = json_object_get(j, key);
    return json_is_string(v) ? copy(at, v, to) : wrong(at, key, "must be a string");
}

/* The arguments of a call as JSON text, which some APIs send instead of the object. */
static bool parse_args(const struct place *at, const json_t *text, struct chat_call *c)
{
    json_error_t e;
    c->args =
        json_loadb(json_string_value(text), json_string_length(text), JSON_REJECT_DUPLICATES, &e);
    if (!c->args && json_error_code(&e) == json_error_out_of_memory)
        return no_memory(at);
    if (!c->args)
        return fail(at->err,
                    "%s: message %llu: call %llu: the text of \"arguments\" is not JSON: "
                    "%s",
                    at->name, at->i, at->k, e.text);
    if (!json_is_object(c->args))
        return wrong(at, "arguments", "must be an object, or the text of one");
    return copy(at, text, &c->args_text);
}

static bool take_call(const struct place *at, json_t *j, struct chat_call *c)
{
    json_t *function = json_object_get(j, "function"), *f = function ? function : j;
    json_t *args = json_object_get(f, "arguments");
    if (!json_is_object(f))
        return fail(at->err,
                    "%s: message %llu: call %llu is not an object with a function's "
                    "\"name\" and \"arguments\"",
                    at->name, at->i, at->k);
    if (!take_string(at, f, "name", &c->name))
        return false;
    if (json_is_string(args))
        return parse_args(at, args, c);
    if (args && !json_is_object(args))
        return wrong(at, "arguments", "must be an object, or the text of one");
    c->args = args ? json_incref(args) : json_object();
    return c->args || no_memory(at);
}

static bool take_calls(struct place *at, json_t *list, struct chat_msg *m)
{
    size_t i, n = json_array_size(list);
    json_t *call;
    if (list && !json_is_null(list) && !json_is_array(list))
        return wrong(at, "tool_calls", "must be a list");
    if (!n)
        return true;
    if (strcmp(m->role, "assistant"))
        return wrong(at, "tool_calls", "are only allowed for role \"assistant\"");
    if (n > UINT32_MAX || !(m->call = mem_alloc(n, sizeof *m->call)))
        return no_memory(at);
    m->n_call = (uint32_t)n;
    json_array_foreach(list, i, call)
    {
        at->k = i + 1;
        if (!take_call(at, call, &m->call[i]))
            return false;
    }
    at->k = 0;
    return true;
}

/* The text of part i of a content; NULL, and the reason, if it is no text. */
static const json_t *text_of_part(const struct place *at, const json_t *list, size_t i)
{
    const json_t *part = json_array_get(list, i), *type = json_object_get(part, "type"),
                 *text = json_object_get(part, "text");
    if (json_is_object(part) && !text)
        text = json_object_get(part, "value"); /* Step's name for it */
    if (json_is_string(part))
        return part;
    if (json_is_string(text) &&
        (!type || (json_is_string(type) && !strcmp(json_string_value(type), "text"))))
        return text;
    const char *is = json_is_string(type) ? json_string_value(type) : "unknown";
    fail(at->err,
         "%s: message %llu: part %llu of \"content\" has the type \"%s\", expected \"text\" with a "
         "text: only text can be read",
         at->name, at->i, (unsigned long long)i + 1, show_text(is, strlen(is), 40).s);
    return NULL;
}

/* A content that is a list of parts, as clients of chat APIs send it. */
static bool take_parts(const struct place *at, const json_t *list, char **to)
{
    uint64_t n = 1, join = strlen(at->join);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = text_of_part(at, list, i);
        if (!text)
            return false;
        n += json_string_length(text) + join;
    }
    char *p = *to = mem_alloc(n, 1);
    if (!p)
        return no_memory(at);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *text = text_of_part(at, list, i);
        memcpy(p, at->join, i ? join : 0);
        p += i ? join : 0;
        memcpy(p, json_string_value(text), json_string_length(text));
        p += json_string_length(text);
    }
    return true;
}

/* Text, a list of parts, or nothing, which an answer may have: it calls, or says nothing. */
static bool take_content(const struct place *at, const json_t *j, struct chat_msg *m)
{
    const json_t *content = json_object_get(j, "content");
    bool none = !content || json_is_null(content);
    if (json_is_array(content))
        return take_parts(at, content, &m->content);
    if (none && (m->n_call || (content && !strcmp(m->role, "assistant"))))
        return (m->content = mem_alloc(1, 1)) || no_memory(at);
    return json_is_string(content) ? copy(at, content, &m->content)
                                   : wrong(at, "content", "must be a string or a list of parts");
}

static bool take(struct place *at, json_t *j, struct chat_msg *m)
{
    json_t *reasoning = json_object_get(j, "reasoning_content"), *name = json_object_get(j, "name");
    if (!json_is_object(j))
        return fail(at->err, "%s: message %llu is not an object", at->name, at->i);
    if (!take_string(at, j, "role", &m->role) ||
        !take_calls(at, json_object_get(j, "tool_calls"), m) || !take_content(at, j, m))
        return false;
    if (reasoning && !json_is_null(reasoning) &&
        !take_string(at, j, "reasoning_content", &m->reasoning))
        return false;
    return !json_is_string(name) || copy(at, name, &m->name);
}

struct chat_msg *chat_from_list(json_t *list, const struct chat_format *f, const char *name,
                                uint32_t *n, struct hlm_err *err)
{
    struct hlm_err own = { 0 };
    uint64_t count = json_array_size(list);
    struct chat_msg *msg = NULL;
    *n = 0;
    if (!json_is_array(list) || count > UINT32_MAX)
        fail(&own, "%s: expected a JSON array of messages", name);
    else if (!(msg = mem_alloc(count, sizeof *msg)))
        fail_memory(&own, "%s: no memory for %llu messages", name, (unsigned long long)count);
    for (uint64_t i = 0; !own.kind && i < count; i++)
        take(&(struct place){ name, f->between_parts ? f->between_parts : "", i + 1, 0, &own },
             json_array_get(list, i), &msg[i]);
    if (own.kind) {
        fail_from(err, &own, "");
        chat_free(msg, (uint32_t)count, NULL);
        return NULL;
    }
    *n = (uint32_t)count;
    return msg;
}

struct chat_msg *chat_from_json(struct hlm_str json, const struct chat_format *f, const char *name,
                                uint32_t *n, json_t **tools, struct hlm_err *err)
{
    json_error_t e;
    json_t *j =
        json_loadb(json.p, (size_t)json.n, 0, &e); /* refuses U+0000, which content cannot hold */
    json_t *list = json_is_object(j) ? json_object_get(j, "messages") : j;
    struct chat_msg *msg = NULL;
    *tools = NULL;
    *n = 0;
    if (!j)
        fail(err, "%s: line %d: %s", name, e.line, e.text);
    else if (!list)
        fail(err, "%s: expected a JSON array of messages, or an object with \"messages\"", name);
    else if (chat_tools_check(json_object_get(j, "tools"), name, tools, err))
        msg = chat_from_list(list, f, name, n, err);
    *tools = msg && *tools ? json_incref(*tools) : NULL;
    json_decref(j);
    return msg;
}
