/* chat: what the published templates render. See chat.h.
 *
 * The rules follow the templates' own text; where they use Python's string methods, white space
 * means Python's. What they say of tools is in chat_tools.c. */
#include "text/chat_parts.h"

#include <stdlib.h>
#include <string.h>

static const char no_think[] = "<think>\n\n</think>\n\n", empty_think[] = "<think></think>";

static const struct chat_format chatml = {
    .name = "chatml",
    .on = "",
    .off = "",
    .past = "",
};
static const struct chat_format qwen3 = {
    .name = "qwen3",
    .answer = CHAT_QWEN,
    .empty = CHAT_EMPTY_LAST,
    .tools = &chat_tools_qwen3,
    .thinking = CHAT_MAY_THINK,
    .think = true,
    .on = "",
    .off = no_think,
    .past = "", /* the model opens <think> by itself */
};
static const struct chat_format qwen35 = {
    .name = "qwen35",
    .answer = CHAT_QWEN,
    .trim = true,
    .strict = true,
    .empty = CHAT_EMPTY_ALL,
    .tools = &chat_tools_qwen35,
    .thinking = CHAT_MAY_THINK,
    .think = true,
    .on = "<think>\n",
    .off = no_think,
    .past = "",
};
static const struct chat_format nemotron = {
    .name = "nemotron",
    .answer = CHAT_NEMOTRON,
    .trim_end = true,
    .system = true,
    .tools = &chat_tools_nemotron,
    .thinking = CHAT_MAY_THINK,
    .think = true,
    .on = "<think>\n",
    .off = empty_think,
    .past = empty_think,
};
static const struct chat_format step = {
    .name = "step",
    .answer = CHAT_STEP,
    .prints_bos = true,
    .tools = &chat_tools_step,
    .thinking = CHAT_ALWAYS_THINKS,
    .think = true,
    .on = "<think>\n",
    .off = "<think>\n",
    .past = "",
};

/* ---- text ------------------------------------------------------------------------------------ */

struct hlm_str chat_str(const char *s) { return (struct hlm_str){ s, strlen(s) }; }

static bool begins(struct hlm_str s, const char *with)
{
    uint64_t n = strlen(with);
    return s.n >= n && !memcmp(s.p, with, n);
}

static bool ends(struct hlm_str s, const char *with)
{
    uint64_t n = strlen(with);
    return s.n >= n && !memcmp(s.p + s.n - n, with, n);
}

/* What stands before the first and after the last `mark`; false when there is none. */
static bool around(struct hlm_str s, const char *mark, struct hlm_str *before, struct hlm_str *after)
{
    uint64_t n = strlen(mark);
    bool found = false;
    *before = *after = s;
    for (uint64_t i = 0; i + n <= s.n; i++)
        if (s.p[i] == *mark && !memcmp(s.p + i, mark, n)) {
            if (!found)
                before->n = i;
            found = true;
            *after = (struct hlm_str){ s.p + i + n, s.n - i - n };
            i += n - 1;
        }
    return found;
}

static bool has(struct hlm_str s, const char *mark)
{
    return around(s, mark, &(struct hlm_str){ 0 }, &(struct hlm_str){ 0 });
}

enum { LEFT = 1, RIGHT = 2, BOTH = 3 };

static struct hlm_str strip(struct hlm_str s, int side, const char *const *set, uint32_t n_set)
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

static struct hlm_str strip_newlines(struct hlm_str s, int side)
{
    static const char *const set[] = { "\n" };
    return strip(s, side, set, ARRAY_LEN(set));
}

static struct hlm_str strip_space(struct hlm_str s, int side)
{
    static const char *const set[] = {
        " ",      "\n",     "\t",       "\r",     "\v",     "\f",     "\x1c",   "\x1d",
        "\x1e",   "\x1f",   "\xc2\x85", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002",
        "\u2003", "\u2004", "\u2005",   "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
        "\u2028", "\u2029", "\u202f",   "\u205f", "\u3000",
    };
    return strip(s, side, set, ARRAY_LEN(set));
}

struct shown chat_show(const char *text, uint32_t max)
{
    struct shown v = { "" };
    for (uint32_t i = 0; text[i] && i < max && i < sizeof v.s - 1; i++)
        v.s[i] = text[i];
    one_line(v.s);
    return v;
}

struct hlm_str chat_trim(struct hlm_str s) { return strip_space(s, BOTH); }

/* ---- detection ------------------------------------------------------------------------------- */

/* What follows the assistant's header in the template's generation prompt. Newlines in it are the
 * two characters \n. */
static void read_generation(struct chat_format *f, struct hlm_str text)
{
    struct hlm_str before, tail;
    around(text, "add_generation_prompt", &before, &tail);
    bool opens = has(tail, "<think>\\n'") || has(tail, "<think>\\n\"");
    bool choice = has(tail, "enable_thinking");
    f->thinking = choice ? CHAT_MAY_THINK : opens ? CHAT_ALWAYS_THINKS : CHAT_NEVER_THINKS;
    f->think = choice || opens;
    f->on = opens ? "<think>\n" : "";
    f->off = choice ? no_think : f->on;
}

/* The text of the bos token; empty when the file names none. */
static struct hlm_str bos_of(const struct gguf *g)
{
    const struct gguf_kv *list = gguf_kv(g, "tokenizer.ggml.tokens");
    uint32_t id = UINT32_MAX;
    struct hlm_str s = { "", 0 };
    if (!gguf_u32(g, "tokenizer.ggml.bos_token_id", OPTIONAL, &id, NULL) || !list ||
        list->type != GGUF_ARRAY || list->elem != GGUF_STRING || id >= list->n)
        return s;
    struct gguf_str_iter it = { list->data, list->n };
    for (uint64_t i = 0; i <= id; i++)
        gguf_next_str(&it, &s);
    return s;
}

/* The family that a template belongs to, with what is told by its text. */
static struct chat_format detect(struct hlm_str text, bool *exact)
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
        if (has(text, "last_query_index and reasoning_content") ||
            has(text, "last_query_index  and reasoning_content"))
            f.empty = CHAT_EMPTY_NONE;
        if (has(text, "args_value is string else args_value | tojson"))
            f.tools = &chat_tools_qwen36;
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
    struct hlm_str text = { "", 0 };
    gguf_str(g, "tokenizer.chat_template", OPTIONAL, &text, NULL);
    struct chat_format f = detect(text, exact);
    f.prints_bos = has(text, "bos_token");
    f.bos = f.prints_bos ? bos_of(g) : (struct hlm_str){ "", 0 };
    return f;
}

bool chat_by_name(const char *name, const struct gguf *g, struct chat_format *fmt)
{
    static const struct chat_format *const all[] = { &chatml, &qwen3, &qwen35, &nemotron, &step };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(name, all[i]->name)) {
            *fmt = *all[i];
            fmt->bos = g && fmt->prints_bos ? bos_of(g) : (struct hlm_str){ "", 0 };
            return true;
        }
    return false;
}

/* ---- rendering ------------------------------------------------------------------------------- */

/* Someone's texts side by side are one span. */
static bool joins(const struct chat_prompt *p, struct tok_span s)
{
    const struct tok_span *last = p->n_span ? &p->span[p->n_span - 1] : NULL;
    return last && !last->special && !last->ids && !s.special && !s.ids;
}

void draft_span(struct draft *d, struct tok_span s)
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
    if (joins(p, s))
        p->span[p->n_span - 1].len += s.len;
    else
        p->span[p->n_span++] = s;
}

/* A message begins here; its header has ended here, and its text begins. */
static void begin_message(struct draft *d) { d->p->cut[d->p->n_cut++].begin = d->p->n_span; }
static void begin_text(struct draft *d) { d->p->cut[d->p->n_cut - 1].text = d->p->n_span; }

void draft_put(struct draft *d, const char *text)
{
    draft_span(d, (struct tok_span){ .text = text, .len = strlen(text), .special = true });
}

void draft_text(struct draft *d, struct hlm_str s)
{
    draft_span(d, (struct tok_span){ .text = s.p, .len = s.n });
}

/* A message's content as the template leaves it; untouched, its sampled ids stand for it. */
static void put_content(struct draft *d, const struct chat_msg *m, struct hlm_str content)
{
    bool whole = m->ids && content.p == m->content && content.n == strlen(m->content);
    draft_span(d, (struct tok_span){ .text = content.p,
                                     .len = content.n,
                                     .ids = whole ? m->ids : NULL,
                                     .n_ids = whole ? m->n_ids : 0 });
}

/* Reasoning from a model's raw text: what stands before the first </think>, after the last <think>;
 * the content is what stands behind the last </think>. */
static void part_reasoning(struct hlm_str *content, struct hlm_str *reasoning)
{
    struct hlm_str before, after, none;
    if (!around(*content, "</think>", &before, &after))
        return;
    around(strip_newlines(before, RIGHT), "<think>", &none, reasoning);
    *reasoning = strip_newlines(*reasoning, LEFT);
    *content = strip_newlines(after, LEFT);
}

/* kept: the reasoning stays in the prompt, as it does after the last question. */
static void put_qwen(struct draft *d, const struct chat_format *f, const struct chat_msg *m,
                     struct hlm_str content, bool kept, bool last)
{
    struct hlm_str reasoning = { "", 0 };
    if (m->reasoning)
        reasoning = chat_str(m->reasoning);
    else
        part_reasoning(&content, &reasoning);
    if (f->trim)
        reasoning = strip_space(reasoning, BOTH);
    bool told = f->trim ? strip_space(content, BOTH).n : content.n;

    bool empty_too = f->empty == CHAT_EMPTY_ALL || (f->empty == CHAT_EMPTY_LAST && last);
    if (kept && (reasoning.n || empty_too)) {
        draft_put(d, "<think>\n");
        draft_text(d, f->trim ? reasoning : strip_newlines(reasoning, BOTH));
        draft_put(d, "\n</think>\n\n");
        content = f->trim ? content : strip_newlines(content, LEFT);
    }
    put_content(d, m, content);
    draft_calls(d, f->tools, m, told);
}

static void put_step(struct draft *d, const struct chat_format *f, const struct chat_msg *m,
                     struct hlm_str content, bool kept)
{
    struct hlm_str reasoning = { "", 0 };
    if (m->reasoning)
        reasoning = chat_str(m->reasoning);
    else
        part_reasoning(&content, &reasoning);
    if (kept) {
        draft_put(d, "<think>\n");
        draft_text(d, reasoning);
        draft_put(d, "\n</think>\n");
    }
    put_content(d, m, content);
    draft_calls(d, f->tools, m, true);
}

/* An answer that has the tags in its text, as some clients send it back: told as it is, or, where
 * reasoning is cut and both tags are there, from the last </think> on. One block at its beginning
 * is a model's, so that its tags are meant. */
static void put_tagged(struct draft *d, struct hlm_str content, bool kept)
{
    struct hlm_str before, after, none, inside;
    bool closed = around(content, "</think>", &before, &after), opened = has(content, "<think>");
    if (opened && closed && !kept) {
        draft_put(d, empty_think);
        draft_text(d, after);
        return;
    }
    content = strip_space(content, LEFT);
    around(content, "</think>", &before, &after);
    around(before, "<think>", &none, &inside);
    if (closed && begins(content, "<think>") && inside.p == content.p + strlen("<think>") &&
        after.p == before.p + before.n + strlen("</think>")) {
        draft_put(d, "<think>");
        draft_text(d, inside);
        draft_put(d, "</think>");
        draft_text(d, after);
    } else {
        draft_text(d, content);
    }
}

/* Before calls reasoning is cut off whatever tags tell it, and white space at both ends with it. */
static void put_cut_off(struct draft *d, const struct chat_msg *m, struct hlm_str content)
{
    struct hlm_str before, after, cut = content;
    if (around(content, "</think>", &before, &after))
        cut = after;
    else if (!m->reasoning || !chat_trim(chat_str(m->reasoning)).n)
        around(content, "<think>", &cut, &after);
    draft_put(d, empty_think);
    put_content(d, m, chat_trim(cut));
}

/* The line end after </think> is cut with the white space at the end when nothing follows it. */
static void put_nemotron(struct draft *d, const struct chat_msg *m, struct hlm_str content, bool kept)
{
    struct hlm_str none, after;
    if (m->reasoning && strip_space(chat_str(m->reasoning), BOTH).n) {
        if (kept) {
            draft_put(d, "<think>\n");
            draft_text(d, chat_str(m->reasoning));
            draft_put(d, "\n</think>");
        } else {
            draft_put(d, empty_think);
        }
        if (!kept && around(content, "</think>", &none, &after)) {
            draft_text(d, after);
        } else if (content.n) {
            draft_put(d, "\n");
            put_content(d, m, content);
        }
    } else if (has(content, "<think>") || has(content, "</think>")) {
        put_tagged(d, content, kept);
    } else {
        draft_put(d, empty_think);
        put_content(d, m, content);
    }
}

static struct hlm_str content_of(const struct chat_format *f, const struct chat_msg *m)
{
    bool end = f->trim_end && !strcmp(m->role, "assistant");
    return f->trim || end ? strip_space(chat_str(m->content), f->trim ? BOTH : RIGHT)
                          : chat_str(m->content);
}

static void put_answer(struct draft *d, const struct chat_format *f, const struct chat_msg *m,
                       bool kept, bool last)
{
    struct hlm_str content = content_of(f, m);
    switch (f->answer) {
    case CHAT_PLAIN:
        put_content(d, m, content);
        draft_calls(d, f->tools, m, content.n);
        break;
    case CHAT_QWEN: put_qwen(d, f, m, content, kept, last); break;
    case CHAT_NEMOTRON:
        if (m->n_call && !kept)
            put_cut_off(d, m, content);
        else
            put_nemotron(d, m, content, kept);
        draft_calls(d, f->tools, m, true);
        break;
    case CHAT_STEP: put_step(d, f, m, content, kept); break;
    }
}

/* The first message whose reasoning is kept: what follows the last question, which is the last
 * message of the user - of those that are no tool's answer, where the format tells these apart. */
static uint32_t first_kept(const struct chat_format *f, const struct chat_msg *msg, uint32_t n,
                           bool *found)
{
    *found = true;
    for (uint32_t i = n; i-- > 0;) {
        struct hlm_str s = content_of(f, &msg[i]);
        bool tool = begins(s, "<tool_response>") && ends(s, "</tool_response>");
        if (!strcmp(msg[i].role, "user") && (f->answer == CHAT_NEMOTRON || !tool))
            return i + 1;
    }
    *found = false;
    return f->answer == CHAT_NEMOTRON ? 0 : n;
}

static bool is_role(const struct chat_input *in, uint32_t i, const char *role)
{
    return i < in->n && !strcmp(in->msg[i].role, role);
}

static bool check_msg(const struct chat_format *f, const struct chat_input *in, uint32_t i,
                      struct hlm_err *err)
{
    const char *role = in->msg[i].role;
    bool tool = is_role(in, i, "tool"), answer = is_role(in, i, "assistant");
    if (!tool && !answer && !is_role(in, i, "system") && !is_role(in, i, "user"))
        return fail(err, "message %u: role \"%s\", known are system, user, assistant and tool",
                    i + 1, chat_show(role, 40).s);
    if (!f->tools && (tool || in->msg[i].n_call))
        return fail(err, "message %u: %s, which chat format %s has no form for", i + 1,
                    tool ? "role \"tool\"" : "tool calls", f->name);
    if (in->msg[i].n_call && !answer)
        return fail(err, "message %u: tool calls are for an assistant, not for role \"%s\"", i + 1,
                    role);
    if (tool && f->tools->not_first &&
        (i == 0 || (f->system && i == 1 && is_role(in, 0, "system"))))
        return fail(err, "message %u: with chat format %s a tool cannot speak first", i + 1,
                    f->name);
    if (f->strict && i && is_role(in, i, "system"))
        return fail(err, "message %u: with chat format %s a system message must be the first",
                    i + 1, f->name);
    return true;
}

static bool check(const struct chat_format *f, const struct chat_input *in, bool question,
                  struct hlm_err *err)
{
    if (in->tools && !f->tools)
        return fail(err, "tools, which chat format %s has no form for", f->name);
    for (uint32_t i = 0; i < in->n; i++)
        if (!check_msg(f, in, i, err))
            return false;
    if (f->strict && !question)
        return fail(err, "chat format %s needs a message of the user", f->name);
    return true;
}

/* The text of the first turn, a system's: m is its message, or NULL where there is none. */
static void put_system(struct draft *d, const struct chat_format *f, const struct chat_input *in,
                       const struct chat_msg *m)
{
    struct hlm_str content = m ? content_of(f, m) : (struct hlm_str){ "", 0 };
    bool last = in->tools && f->tools->system == SYSTEM_LAST;
    bool any = content.n || (m && in->tools && f->tools->system == SYSTEM_FIRST);
    if (m && !last)
        put_content(d, m, content);
    if (in->tools && !last && any)
        draft_put(d, "\n\n");
    for (uint32_t i = 0; in->told && i < in->told->n_span; i++)
        draft_span(d, in->told->span[i]);
    if (in->tools && !in->told)
        draft_tools(d, f->tools, in->tools);
    if (last && content.n) {
        draft_put(d, "\n\n");
        put_content(d, m, content);
    }
}

/* Answers of tools side by side are one turn. */
static void put_tool(struct draft *d, const struct chat_format *f, const struct chat_input *in,
                     uint32_t i)
{
    const struct chat_tools *t = f->tools;
    begin_message(d);
    if (i && is_role(in, i - 1, "tool")) {
        draft_put(d, t->between);
    } else {
        draft_put(d, "<|im_start|>");
        draft_put(d, t->role);
        draft_put(d, "\n");
    }
    begin_text(d);
    draft_put(d, t->open);
    put_content(d, &in->msg[i], content_of(f, &in->msg[i]));
    draft_put(d, t->close);
    if (!is_role(in, i + 1, "tool"))
        draft_put(d, "<|im_end|>\n");
}

static void put_turn(struct draft *d, const struct chat_format *f, const struct chat_input *in,
                     uint32_t i, bool kept)
{
    const struct chat_msg *m = &in->msg[i];
    bool system = is_role(in, i, "system");
    bool seen = f->answer == CHAT_STEP && system && i && m->name && !strcmp(m->name, "observation");
    begin_message(d);
    draft_put(d, "<|im_start|>");
    draft_put(d, seen ? m->name : m->role);
    draft_put(d, "\n");
    begin_text(d);
    if (is_role(in, i, "assistant"))
        put_answer(d, f, m, kept, i + 1 == in->n);
    else if (system && !i)
        put_system(d, f, in, m);
    else
        put_content(d, m, content_of(f, m));
    draft_put(d, "<|im_end|>\n");
}

/* What a later turn has at the place where this one thinks: both begin alike, or not at all. */
static void put_thinking(struct draft *d, const struct chat_format *f, bool think)
{
    const char *end = think ? f->on : f->off;
    uint64_t n = 0;
    while (end[n] && end[n] == f->past[n])
        n++;
    draft_span(d, (struct tok_span){ .text = end, .len = n, .special = true });
    d->p->n_head = d->p->n_span;
    draft_put(d, end + n);
    d->p->in_think = ends(chat_str(end), "<think>\n");
}

/* The text stands still: spans find theirs. False when memory ran out on the way. */
static bool finish(struct draft *d)
{
    struct chat_prompt *p = d->p;
    if (!p->text && !d->full) /* nothing to say is a text too */
        d->full = !(p->text = mem_alloc(1, 1));
    if (d->full) {
        chat_prompt_free(p);
        return false;
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < p->n_span; at += p->span[i++].len)
        p->span[i].text = p->text + at;
    return true;
}

bool chat_tell_tools(const struct chat_format *fmt, json_t *tools, struct chat_prompt *out,
                     struct hlm_err *err)
{
    struct draft d = { .p = out };
    *out = (struct chat_prompt){ 0 };
    if (fmt->tools)
        draft_tools(&d, fmt->tools, tools);
    return finish(&d) || fail_memory(err, "no memory for a list of %llu tools",
                              (unsigned long long)json_array_size(tools));
}

bool chat_render(const struct chat_format *fmt, const struct chat_input *in, bool generate,
                 bool think, struct chat_prompt *out, struct hlm_err *err)
{
    struct draft d = { .p = out };
    bool question;
    uint32_t i_kept = first_kept(fmt, in->msg, in->n, &question);
    *out = (struct chat_prompt){ 0 };
    if (!check(fmt, in, question, err))
        return false;
    if (!(out->cut = mem_alloc(in->n + 1ull, sizeof *out->cut)))
        return fail_memory(err, "out of memory: a prompt of %u messages", in->n);

    draft_span(&d, (struct tok_span){ .text = fmt->bos.p, .len = fmt->bos.n, .special = true });
    if ((fmt->system || in->tools) && !is_role(in, 0, "system")) {
        draft_put(&d, "<|im_start|>system\n");
        put_system(&d, fmt, in, NULL);
        draft_put(&d, "<|im_end|>\n");
    }
    for (uint32_t i = 0; i < in->n; i++)
        if (is_role(in, i, "tool"))
            put_tool(&d, fmt, in, i);
        else
            put_turn(&d, fmt, in, i, i >= i_kept);
    out->n_head = out->n_span;
    if (generate) {
        begin_message(&d);
        draft_put(&d, "<|im_start|>assistant\n");
        begin_text(&d);
        put_thinking(&d, fmt, think);
    }
    return finish(&d) || fail_memory(err, "no memory for a prompt of %u messages", in->n);
}

void chat_prompt_free(struct chat_prompt *p)
{
    free(p->text);
    free(p->span);
    free(p->cut);
    *p = (struct chat_prompt){ 0 };
}
