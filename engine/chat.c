/* chat: what the published templates render, without tools. See chat.h.
 *
 * The rules follow the templates' own text; where they use Python's string methods, white space
 * means Python's. Tool texts are not here. */
#include "chat.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char no_think[] = "<think>\n\n</think>\n\n";

static const struct chat_format chatml = { .name = "chatml", .on = "", .off = "" };
static const struct chat_format qwen3 = {
    .name = "qwen3", .reasoning = true, .empty = CHAT_EMPTY_LAST,
    .thinking = CHAT_MAY_THINK, .think = true,
    .on = "", .off = no_think, /* the model opens <think> by itself */
};
static const struct chat_format qwen35 = {
    .name = "qwen35", .trim = true, .strict = true, .reasoning = true, .empty = CHAT_EMPTY_ALL,
    .thinking = CHAT_MAY_THINK, .think = true,
    .on = "<think>\n", .off = no_think,
};

/* ---- text ------------------------------------------------------------------------------------ */

static struct str str_of(const char *s) { return (struct str){ s, strlen(s) }; }

static bool begins(struct str s, const char *with)
{
    uint64_t n = strlen(with);
    return s.n >= n && !memcmp(s.p, with, n);
}

static bool ends(struct str s, const char *with)
{
    uint64_t n = strlen(with);
    return s.n >= n && !memcmp(s.p + s.n - n, with, n);
}

/* What stands before the first and after the last `mark`; false when there is none. */
static bool around(struct str s, const char *mark, struct str *before, struct str *after)
{
    uint64_t n = strlen(mark);
    bool found = false;
    *before = *after = s;
    for (uint64_t i = 0; i + n <= s.n; i++)
        if (s.p[i] == *mark && !memcmp(s.p + i, mark, n)) {
            if (!found)
                before->n = i;
            found = true;
            *after = (struct str){ s.p + i + n, s.n - i - n };
            i += n - 1;
        }
    return found;
}

static bool has(struct str s, const char *mark)
{
    return around(s, mark, &(struct str){ 0 }, &(struct str){ 0 });
}

enum { LEFT = 1, RIGHT = 2, BOTH = 3 };

static struct str strip(struct str s, int side, const char *const *set, uint32_t n_set)
{
    for (uint32_t i = 0; (side & LEFT) && i < n_set;)
        if (begins(s, set[i])) {
            s.p += strlen(set[i]);
            s.n -= strlen(set[i]);
            i = 0;
        } else {
            i++;
        }
    for (uint32_t i = 0; (side & RIGHT) && i < n_set;)
        if (ends(s, set[i])) {
            s.n -= strlen(set[i]);
            i = 0;
        } else {
            i++;
        }
    return s;
}

static struct str strip_newlines(struct str s, int side)
{
    static const char *const set[] = { "\n" };
    return strip(s, side, set, ARRAY_LEN(set));
}

static struct str strip_space(struct str s)
{
    static const char *const set[] = {
        " ",      "\n",     "\t",       "\r",     "\v",     "\f",     "\x1c",   "\x1d",
        "\x1e",   "\x1f",   "\xc2\x85", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002",
        "\u2003", "\u2004", "\u2005",   "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
        "\u2028", "\u2029", "\u202f",   "\u205f", "\u3000",
    };
    return strip(s, BOTH, set, ARRAY_LEN(set));
}

/* ---- detection ------------------------------------------------------------------------------- */

/* What follows the assistant's header in the template's generation prompt. Newlines in it are the
 * two characters \n. */
static void read_generation(struct chat_format *f, struct str text)
{
    struct str before, tail;
    around(text, "add_generation_prompt", &before, &tail);
    bool opens = has(tail, "<think>\\n'") || has(tail, "<think>\\n\"");
    bool choice = has(tail, "enable_thinking");
    f->thinking = choice ? CHAT_MAY_THINK : opens ? CHAT_ALWAYS_THINKS : CHAT_NEVER_THINKS;
    f->think = choice || opens;
    f->on = opens ? "<think>\n" : "";
    f->off = choice ? no_think : f->on;
}

struct chat_format chat_detect(const struct gguf *g, bool *exact)
{
    struct str text = { "", 0 };
    gguf_str(g, "tokenizer.chat_template", OPTIONAL, &text, NULL);
    *exact = true;

    /* Nemotron's template has Qwen3.5's markers too, and renders otherwise. */
    if (has(text, "enable_thinking") && has(text, "<function=") &&
        !has(text, "truncate_history_thinking")) {
        struct chat_format f = qwen35;
        f.think = !has(text, "enable_thinking is true"); /* the small ones think only when asked */
        if (has(text, "last_query_index and reasoning_content"))
            f.empty = CHAT_EMPTY_NONE;
        return f;
    }
    /* Qwen2.5 has Qwen3's markers, and a system text of its own. */
    if (has(text, "<tool_call>") && (has(text, "{\"name\"") || has(text, "{\\\"name\\\"")) &&
        !has(text, "You are Qwen")) {
        struct chat_format f = qwen3;
        f.reasoning = has(text, "reasoning_content");
        f.empty = f.reasoning ? CHAT_EMPTY_LAST : CHAT_EMPTY_NONE;
        read_generation(&f, text);
        return f;
    }
    /* A plain loop over turns: nothing about tools or thinking, no system text of its own. */
    *exact = has(text, "<|im_start|>") && has(text, "for ") && !has(text, "<tool") &&
             !has(text, "think") && !has(text, "You are");
    return chatml;
}

bool chat_by_name(const char *name, struct chat_format *fmt)
{
    static const struct chat_format *const all[] = { &chatml, &qwen3, &qwen35 };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(name, all[i]->name)) {
            *fmt = *all[i];
            return true;
        }
    return false;
}

/* ---- rendering ------------------------------------------------------------------------------- */

/* A prompt in the making. Spans lie end to end in the text, so that only their lengths are known
 * until it stands still. Running out of memory sticks. */
struct draft {
    struct chat_prompt *p;
    uint64_t text_cap;
    uint32_t span_cap;
    bool full;
};

static void put_span(struct draft *d, struct tok_span s)
{
    struct chat_prompt *p = d->p;
    if ((!s.len && !s.ids) || d->full)
        return;
    if (p->n_span == d->span_cap) {
        uint32_t cap = 2 * d->span_cap + 16;
        struct tok_span *more = mem_grow(p->span, cap, sizeof *more);
        d->full = !more;
        p->span = more ? more : p->span;
        d->span_cap = more ? cap : d->span_cap;
    }
    if (s.len + 1 > d->text_cap - p->len) {
        uint64_t cap = 2 * d->text_cap + s.len + 256;
        char *more = mem_grow(p->text, cap, 1);
        d->full = d->full || !more;
        p->text = more ? more : p->text;
        d->text_cap = more ? cap : d->text_cap;
    }
    if (d->full)
        return;
    if (s.len)
        memcpy(p->text + p->len, s.text, s.len);
    p->len += s.len;
    p->text[p->len] = 0;
    p->span[p->n_span++] = s;
}

/* Template text: control tokens in it are meant. */
static void put(struct draft *d, const char *text)
{
    put_span(d, (struct tok_span){ .text = text, .len = strlen(text), .special = true });
}

/* A person's or a model's text: never a control token, whatever it says. */
static void put_text(struct draft *d, struct str s)
{
    put_span(d, (struct tok_span){ .text = s.p, .len = s.n });
}

/* A message's content as the template leaves it; untouched, its sampled ids stand for it. */
static void put_content(struct draft *d, const struct chat_msg *m, struct str content)
{
    bool whole = m->ids && content.p == m->content && content.n == strlen(m->content);
    put_span(d, (struct tok_span){ .text = content.p,
                                   .len = content.n,
                                   .ids = whole ? m->ids : NULL,
                                   .n_ids = whole ? m->n_ids : 0 });
}

/* Reasoning from a model's raw text: what stands before the first </think>, after the last <think>;
 * the content is what stands behind the last </think>. */
static void part_reasoning(struct str *content, struct str *reasoning)
{
    struct str before, after, none;
    if (!around(*content, "</think>", &before, &after))
        return;
    around(strip_newlines(before, RIGHT), "<think>", &none, reasoning);
    *reasoning = strip_newlines(*reasoning, LEFT);
    *content = strip_newlines(after, LEFT);
}

/* since: after the last question, where reasoning stays in the prompt. */
static void put_answer(struct draft *d, const struct chat_format *f, const struct chat_msg *m,
                       struct str content, bool since, bool last)
{
    struct str reasoning = { "", 0 };
    if (f->reasoning && m->reasoning)
        reasoning = str_of(m->reasoning);
    else if (f->reasoning)
        part_reasoning(&content, &reasoning);
    if (f->trim)
        reasoning = strip_space(reasoning);

    bool empty_too = f->empty == CHAT_EMPTY_ALL || (f->empty == CHAT_EMPTY_LAST && last);
    if (f->reasoning && since && (reasoning.n || empty_too)) {
        put(d, "<think>\n");
        put_text(d, f->trim ? reasoning : strip_newlines(reasoning, BOTH));
        put(d, "\n</think>\n\n");
        content = f->trim ? content : strip_newlines(content, LEFT);
    }
    put_content(d, m, content);
}

static struct str content_of(const struct chat_format *f, const struct chat_msg *m)
{
    return f->trim ? strip_space(str_of(m->content)) : str_of(m->content);
}

/* Where the last question stands: the last message of the user that is no tool's answer. */
static uint32_t last_question(const struct chat_format *f, const struct chat_msg *msg, uint32_t n,
                              bool *found)
{
    *found = true;
    for (uint32_t i = n; i-- > 0;) {
        struct str s = content_of(f, &msg[i]);
        if (!strcmp(msg[i].role, "user") &&
            !(begins(s, "<tool_response>") && ends(s, "</tool_response>")))
            return i;
    }
    *found = false;
    return n ? n - 1 : 0;
}

static bool check(const struct chat_format *f, const struct chat_msg *msg, uint32_t n,
                  bool question, struct err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        const char *role = msg[i].role;
        if (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant"))
            return fail(err, "message %u: role \"%.40s\", known are system, user and assistant",
                        i + 1, role);
        if (f->strict && i && !strcmp(role, "system"))
            return fail(err, "message %u: with chat format %s a system message must be the first",
                        i + 1, f->name);
    }
    if (f->strict && !question)
        return fail(err, "chat format %s needs a message of the user", f->name);
    return true;
}

bool chat_render(const struct chat_format *fmt, const struct chat_msg *msg, uint32_t n,
                 bool generate, bool think, struct chat_prompt *out, struct err *err)
{
    struct draft d = { .p = out };
    bool question;
    uint32_t i_question = last_question(fmt, msg, n, &question);
    *out = (struct chat_prompt){ 0 };
    if (!check(fmt, msg, n, question, err))
        return false;

    for (uint32_t i = 0; i < n; i++) {
        struct str content = content_of(fmt, &msg[i]);
        put(&d, "<|im_start|>");
        put(&d, msg[i].role);
        put(&d, "\n");
        if (!strcmp(msg[i].role, "assistant"))
            put_answer(&d, fmt, &msg[i], content, i > i_question, i + 1 == n);
        else
            put_content(&d, &msg[i], content);
        put(&d, "<|im_end|>\n");
    }
    if (generate)
        put(&d, "<|im_start|>assistant\n");
    out->n_head = out->n_span;
    if (generate) {
        const char *end = think ? fmt->on : fmt->off;
        put(&d, end);
        out->in_think = ends(str_of(end), "<think>\n");
    }
    if (!out->text && !d.full) /* nothing to say is a text too */
        d.full = !(out->text = mem_alloc(1, 1));
    if (d.full) {
        chat_prompt_free(out);
        return fail(err, "no memory for a prompt of %u messages", n);
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < out->n_span; at += out->span[i++].len)
        out->span[i].text = out->text + at;
    return true;
}

void chat_prompt_free(struct chat_prompt *p)
{
    free(p->text);
    free(p->span);
    *p = (struct chat_prompt){ 0 };
}

/* ---- JSON ------------------------------------------------------------------------------------ */

void chat_msg_free(struct chat_msg *m)
{
    free(m->role);
    free(m->content);
    free(m->reasoning);
    free(m->ids);
    *m = (struct chat_msg){ 0 };
}

/* A copy of the string under key. NULL without a reason: not there, or null, and not needed. */
static char *take_string(const json_t *j, const char *key, enum gguf_need need, const char *name,
                         uint64_t i, struct err *err)
{
    const json_t *v = json_object_get(j, key);
    if (need == OPTIONAL && (!v || json_is_null(v)))
        return NULL;
    char *copy = json_is_string(v) ? mem_alloc(json_string_length(v) + 1, 1) : NULL;
    if (!json_is_string(v))
        fail(err, "%s: message %llu: \"%s\" must be a string", name, (unsigned long long)i + 1,
             key);
    else if (!copy)
        fail(err, "%s: no memory for message %llu", name, (unsigned long long)i + 1);
    else
        memcpy(copy, json_string_value(v), json_string_length(v));
    return copy;
}

struct chat_msg *chat_from_json(const char *json, uint64_t len, const char *name, uint32_t *n,
                                struct err *err)
{
    struct err own = { 0 };
    json_error_t e;
    json_t *list = json_loadb(json, len, 0, &e); /* refuses U+0000, which content cannot hold */
    uint64_t count = json_array_size(list);
    struct chat_msg *msg = NULL;
    if (!list)
        fail(&own, "%s: line %d: %s", name, e.line, e.text);
    else if (!json_is_array(list) || count > UINT32_MAX)
        fail(&own, "%s: a JSON array of messages is expected", name);
    else if (!(msg = mem_alloc(count, sizeof *msg)))
        fail(&own, "%s: no memory for %llu messages", name, (unsigned long long)count);
    for (uint64_t i = 0; !own.set && i < count; i++) {
        const json_t *j = json_array_get(list, i);
        if (!json_is_object(j))
            fail(&own, "%s: message %llu is not an object", name, (unsigned long long)i + 1);
        else if (json_array_size(json_object_get(j, "tool_calls")))
            fail(&own, "%s: message %llu has tool calls, which hlm does not render yet", name,
                 (unsigned long long)i + 1);
        msg[i].role = take_string(j, "role", REQUIRED, name, i, &own);
        msg[i].content = take_string(j, "content", REQUIRED, name, i, &own);
        msg[i].reasoning = take_string(j, "reasoning_content", OPTIONAL, name, i, &own);
    }
    json_decref(list);
    if (own.set) {
        fail(err, "%s", own.msg);
        for (uint64_t i = 0; msg && i < count; i++)
            chat_msg_free(&msg[i]);
        free(msg);
        return NULL;
    }
    *n = (uint32_t)count;
    return msg;
}
