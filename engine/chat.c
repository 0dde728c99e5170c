/* chat: what the published templates render, without tools. See chat.h.
 *
 * The rules follow the templates' own text; where they use Python's string methods, white space
 * means Python's. Tool texts are not here. */
#include "chat.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char no_think[] = "<think>\n\n</think>\n\n", empty_think[] = "<think></think>";

static const struct chat_format chatml = {
    .name = "chatml", .on = "", .off = "", .past = "",
};
static const struct chat_format qwen3 = {
    .name = "qwen3", .answer = CHAT_QWEN, .empty = CHAT_EMPTY_LAST,
    .thinking = CHAT_MAY_THINK, .think = true,
    .on = "", .off = no_think, .past = "", /* the model opens <think> by itself */
};
static const struct chat_format qwen35 = {
    .name = "qwen35", .answer = CHAT_QWEN, .trim = true, .strict = true, .empty = CHAT_EMPTY_ALL,
    .thinking = CHAT_MAY_THINK, .think = true,
    .on = "<think>\n", .off = no_think, .past = "",
};
static const struct chat_format nemotron = {
    .name = "nemotron", .answer = CHAT_NEMOTRON, .trim_end = true, .system = true,
    .thinking = CHAT_MAY_THINK, .think = true,
    .on = "<think>\n", .off = empty_think, .past = empty_think,
};
static const struct chat_format step = {
    .name = "step", .answer = CHAT_STEP, .prints_bos = true,
    .thinking = CHAT_ALWAYS_THINKS, .think = true,
    .on = "<think>\n", .off = "<think>\n", .past = "",
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

static struct str strip_space(struct str s, int side)
{
    static const char *const set[] = {
        " ",      "\n",     "\t",       "\r",     "\v",     "\f",     "\x1c",   "\x1d",
        "\x1e",   "\x1f",   "\xc2\x85", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002",
        "\u2003", "\u2004", "\u2005",   "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
        "\u2028", "\u2029", "\u202f",   "\u205f", "\u3000",
    };
    return strip(s, side, set, ARRAY_LEN(set));
}

/* Text from outside for a message: cut to fit, no byte that breaks a line or moves a terminal. */
struct shown { char s[JSON_ERROR_TEXT_LENGTH]; };

static struct shown show(const char *text, uint32_t max)
{
    struct shown v = { "" };
    for (uint32_t i = 0; text[i] && i < max && i < sizeof v.s - 1; i++)
        v.s[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    return v;
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

/* The text of the bos token; empty when the file names none. */
static struct str bos_of(const struct gguf *g)
{
    const struct gguf_kv *list = gguf_kv(g, "tokenizer.ggml.tokens");
    uint32_t id = UINT32_MAX;
    struct str s = { "", 0 };
    if (!gguf_u32(g, "tokenizer.ggml.bos_token_id", OPTIONAL, &id, NULL) || !list ||
        list->type != GGUF_ARRAY || list->elem != GGUF_STRING || id >= list->n)
        return s;
    struct gguf_str_iter it = { list->data, list->n };
    for (uint64_t i = 0; i <= id; i++)
        gguf_next_str(&it, &s);
    return s;
}

/* The family that a template belongs to, with what is told by its text. */
static struct chat_format detect(struct str text, bool *exact)
{
    struct chat_format f;
    *exact = true;
    /* Its own: no other template has this option. Later ones write line ends around </think>
     * otherwise, take /no_think from what the user says, or tell how much to think. */
    if (has(text, "truncate_history_thinking")) {
        f = nemotron;
        f.think = !has(text, "enable_thinking is defined else False");
        *exact = has(text, empty_think) && has(text, "\\n</think>\\n") &&
                 has(text, "enable_thinking") && !has(text, "/no_think") && !has(text, "effort");
        return f;
    }
    /* A role of its own for what tools say, and its own words before their list. */
    if (has(text, "<|im_start|>tool_response") || has(text, "functions in JSONSchema format")) {
        f = step;
        *exact = has(text, "<think>\\n") && !has(text, "effort") && !has(text, "enable_thinking");
        return f;
    }
    if (has(text, "enable_thinking") && has(text, "<function=")) {
        f = qwen35;
        f.think = !has(text, "enable_thinking is true"); /* the small ones think only when asked */
        if (has(text, "last_query_index and reasoning_content"))
            f.empty = CHAT_EMPTY_NONE;
        return f;
    }
    /* Qwen2.5 has Qwen3's markers, and a system text of its own. */
    if (has(text, "<tool_call>") && (has(text, "{\"name\"") || has(text, "{\\\"name\\\"")) &&
        !has(text, "You are Qwen")) {
        f = qwen3;
        f.answer = has(text, "reasoning_content") ? CHAT_QWEN : CHAT_PLAIN;
        read_generation(&f, text);
        return f;
    }
    /* A plain loop over turns: nothing about tools or thinking, no system text of its own. */
    *exact = has(text, "<|im_start|>") && has(text, "for ") && !has(text, "<tool") &&
             !has(text, "think") && !has(text, "You are");
    return chatml;
}

struct chat_format chat_detect(const struct gguf *g, bool *exact)
{
    struct str text = { "", 0 };
    gguf_str(g, "tokenizer.chat_template", OPTIONAL, &text, NULL);
    struct chat_format f = detect(text, exact);
    f.prints_bos = has(text, "bos_token");
    f.bos = f.prints_bos ? bos_of(g) : (struct str){ "", 0 };
    return f;
}

bool chat_by_name(const char *name, const struct gguf *g, struct chat_format *fmt)
{
    static const struct chat_format *const all[] = { &chatml, &qwen3, &qwen35, &nemotron, &step };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(name, all[i]->name)) {
            *fmt = *all[i];
            fmt->bos = g && fmt->prints_bos ? bos_of(g) : (struct str){ "", 0 };
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

/* A message begins here; its header has ended here, and its text begins. */
static void begin_message(struct draft *d) { d->p->cut[d->p->n_cut++].begin = d->p->n_span; }
static void begin_text(struct draft *d) { d->p->cut[d->p->n_cut - 1].text = d->p->n_span; }

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

/* kept: the reasoning stays in the prompt, as it does after the last question. */
static void put_qwen(struct draft *d, const struct chat_format *f, const struct chat_msg *m,
                     struct str content, bool kept, bool last)
{
    struct str reasoning = { "", 0 };
    if (m->reasoning)
        reasoning = str_of(m->reasoning);
    else
        part_reasoning(&content, &reasoning);
    if (f->trim)
        reasoning = strip_space(reasoning, BOTH);

    bool empty_too = f->empty == CHAT_EMPTY_ALL || (f->empty == CHAT_EMPTY_LAST && last);
    if (kept && (reasoning.n || empty_too)) {
        put(d, "<think>\n");
        put_text(d, f->trim ? reasoning : strip_newlines(reasoning, BOTH));
        put(d, "\n</think>\n\n");
        content = f->trim ? content : strip_newlines(content, LEFT);
    }
    put_content(d, m, content);
}

static void put_step(struct draft *d, const struct chat_msg *m, struct str content, bool kept)
{
    struct str reasoning = { "", 0 };
    if (m->reasoning)
        reasoning = str_of(m->reasoning);
    else
        part_reasoning(&content, &reasoning);
    if (kept) {
        put(d, "<think>\n");
        put_text(d, reasoning);
        put(d, "\n</think>\n");
    }
    put_content(d, m, content);
}

/* An answer that has the tags in its text, as some clients send it back: told as it is, or, where
 * reasoning is cut and both tags are there, from the last </think> on. One block at its beginning
 * is a model's, so that its tags are meant. */
static void put_tagged(struct draft *d, struct str content, bool kept)
{
    struct str before, after, none, inside;
    bool closed = around(content, "</think>", &before, &after), opened = has(content, "<think>");
    if (opened && closed && !kept) {
        put(d, empty_think);
        put_text(d, after);
        return;
    }
    content = strip_space(content, LEFT);
    around(content, "</think>", &before, &after);
    around(before, "<think>", &none, &inside);
    if (closed && begins(content, "<think>") && inside.p == content.p + strlen("<think>") &&
        after.p == before.p + before.n + strlen("</think>")) {
        put(d, "<think>");
        put_text(d, inside);
        put(d, "</think>");
        put_text(d, after);
    } else {
        put_text(d, content);
    }
}

/* The line end after </think> is cut with the white space at the end when nothing follows it. */
static void put_nemotron(struct draft *d, const struct chat_msg *m, struct str content, bool kept)
{
    struct str none, after;
    if (m->reasoning && strip_space(str_of(m->reasoning), BOTH).n) {
        if (kept) {
            put(d, "<think>\n");
            put_text(d, str_of(m->reasoning));
            put(d, "\n</think>");
        } else {
            put(d, empty_think);
        }
        if (!kept && around(content, "</think>", &none, &after)) {
            put_text(d, after);
        } else if (content.n) {
            put(d, "\n");
            put_content(d, m, content);
        }
    } else if (has(content, "<think>") || has(content, "</think>")) {
        put_tagged(d, content, kept);
    } else {
        put(d, empty_think);
        put_content(d, m, content);
    }
}

static struct str content_of(const struct chat_format *f, const struct chat_msg *m)
{
    bool end = f->trim_end && !strcmp(m->role, "assistant");
    return f->trim || end ? strip_space(str_of(m->content), f->trim ? BOTH : RIGHT)
                          : str_of(m->content);
}

static void put_answer(struct draft *d, const struct chat_format *f, const struct chat_msg *m,
                       bool kept, bool last)
{
    struct str content = content_of(f, m);
    switch (f->answer) {
    case CHAT_PLAIN: put_content(d, m, content); break;
    case CHAT_QWEN: put_qwen(d, f, m, content, kept, last); break;
    case CHAT_NEMOTRON: put_nemotron(d, m, content, kept); break;
    case CHAT_STEP: put_step(d, m, content, kept); break;
    }
}

/* The first message whose reasoning is kept: what follows the last question, which is the last
 * message of the user - of those that are no tool's answer, where the format tells these apart. */
static uint32_t first_kept(const struct chat_format *f, const struct chat_msg *msg, uint32_t n,
                           bool *found)
{
    *found = true;
    for (uint32_t i = n; i-- > 0;) {
        struct str s = content_of(f, &msg[i]);
        bool tool = begins(s, "<tool_response>") && ends(s, "</tool_response>");
        if (!strcmp(msg[i].role, "user") && (f->answer == CHAT_NEMOTRON || !tool))
            return i + 1;
    }
    *found = false;
    return f->answer == CHAT_NEMOTRON ? 0 : n;
}

static bool check(const struct chat_format *f, const struct chat_msg *msg, uint32_t n,
                  bool question, struct err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        const char *role = msg[i].role;
        if (strcmp(role, "system") && strcmp(role, "user") && strcmp(role, "assistant"))
            return fail(err, "message %u: role \"%s\", known are system, user and assistant",
                        i + 1, show(role, 40).s);
        if (f->strict && i && !strcmp(role, "system"))
            return fail(err, "message %u: with chat format %s a system message must be the first",
                        i + 1, f->name);
    }
    if (f->strict && !question)
        return fail(err, "chat format %s needs a message of the user", f->name);
    return true;
}

/* What a later turn has at the place where this one thinks: both begin alike, or not at all. */
static void put_thinking(struct draft *d, const struct chat_format *f, bool think)
{
    const char *end = think ? f->on : f->off;
    uint64_t n = 0;
    while (end[n] && end[n] == f->past[n])
        n++;
    put_span(d, (struct tok_span){ .text = end, .len = n, .special = true });
    d->p->n_head = d->p->n_span;
    put(d, end + n);
    d->p->in_think = ends(str_of(end), "<think>\n");
}

bool chat_render(const struct chat_format *fmt, const struct chat_msg *msg, uint32_t n,
                 bool generate, bool think, struct chat_prompt *out, struct err *err)
{
    struct draft d = { .p = out };
    bool question;
    uint32_t i_kept = first_kept(fmt, msg, n, &question);
    *out = (struct chat_prompt){ 0 };
    if (!check(fmt, msg, n, question, err))
        return false;
    if (!(out->cut = mem_alloc(n + 1ull, sizeof *out->cut)))
        return fail(err, "out of memory: a prompt of %u messages", n);

    put_span(&d, (struct tok_span){ .text = fmt->bos.p, .len = fmt->bos.n, .special = true });
    if (fmt->system && (!n || strcmp(msg[0].role, "system")))
        put(&d, "<|im_start|>system\n<|im_end|>\n");
    for (uint32_t i = 0; i < n; i++) {
        begin_message(&d);
        put(&d, "<|im_start|>");
        put(&d, msg[i].role);
        put(&d, "\n");
        begin_text(&d);
        if (!strcmp(msg[i].role, "assistant"))
            put_answer(&d, fmt, &msg[i], i >= i_kept, i + 1 == n);
        else
            put_content(&d, &msg[i], content_of(fmt, &msg[i]));
        put(&d, "<|im_end|>\n");
    }
    out->n_head = out->n_span;
    if (generate) {
        begin_message(&d);
        put(&d, "<|im_start|>assistant\n");
        begin_text(&d);
        put_thinking(&d, fmt, think);
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
    free(p->cut);
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
        fail(&own, "%s: line %d: %s", name, e.line, show(e.text, sizeof e.text).s);
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
