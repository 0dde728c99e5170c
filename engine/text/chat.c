/* chat: renders messages as the published templates do. See chat.h. Tools and calls are in
 * chat_tools.c. */
#include "text/chat_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- rendering ------------------------------------------------------------------------------- */

/* A message's content as the template leaves it. Unchanged content is given by its sampled ids. */
static void put_content(struct prompt_builder *b, const struct chat_msg *m, struct hlm_str content)
{
    bool whole = m->ids && content.p == m->content && content.n == strlen(m->content);
    prompt_span(b, (struct tok_span){ .text = content.p,
                                      .len = content.n,
                                      .ids = whole ? m->ids : NULL,
                                      .n_ids = whole ? m->n_ids : 0 });
}

/* Splits a model's raw text. The reasoning is what lies before the first </think>, from the last
 * <think> there on. The content follows the last </think>. */
static void part_reasoning(struct hlm_str *content, struct hlm_str *reasoning)
{
    struct hlm_str before, after, none;
    if (!str_around(*content, "</think>", &before, &after))
        return;
    str_around(str_strip_newlines(before, RIGHT), "<think>", &none, reasoning);
    *reasoning = str_strip_newlines(*reasoning, LEFT);
    *content = str_strip_newlines(after, LEFT);
}

/* kept: the reasoning stays in the prompt, as it does after the last question. */
static void put_qwen(struct prompt_builder *b, const struct chat_format *f,
                     const struct chat_msg *m, struct hlm_str content, bool kept, bool last)
{
    struct hlm_str reasoning = { "", 0 };
    if (m->reasoning)
        reasoning = str_of(m->reasoning);
    else
        part_reasoning(&content, &reasoning);
    if (f->trim)
        reasoning = str_strip(reasoning, BOTH);
    bool has_text = f->trim ? str_strip(content, BOTH).n : content.n;

    bool empty_too = f->empty == CHAT_EMPTY_ALL || (f->empty == CHAT_EMPTY_LAST && last);
    if (kept && (reasoning.n || empty_too)) {
        prompt_put(b, "<think>\n");
        prompt_text(b, f->trim ? reasoning : str_strip_newlines(reasoning, BOTH));
        prompt_put(b, "\n</think>\n\n");
        content = f->trim ? content : str_strip_newlines(content, LEFT);
    }
    put_content(b, m, content);
    chat_put_calls(b, f->tools, m, has_text);
}

static void put_step(struct prompt_builder *b, const struct chat_format *f,
                     const struct chat_msg *m, struct hlm_str content, bool kept)
{
    struct hlm_str reasoning = { "", 0 };
    if (m->reasoning)
        reasoning = str_of(m->reasoning);
    else
        part_reasoning(&content, &reasoning);
    if (kept) {
        prompt_put(b, "<think>\n");
        prompt_text(b, reasoning);
        prompt_put(b, "\n</think>\n");
    }
    put_content(b, m, content);
    chat_put_calls(b, f->tools, m, true);
}

/* An answer with the tags in its text, as some clients send it back. It is rendered as it is. Where
 * reasoning is dropped and both tags are there, only what follows the last </think> is rendered. A
 * block at the beginning was written by the model, so its tags become control tokens. */
static void put_tagged(struct prompt_builder *b, struct hlm_str content, bool kept)
{
    struct hlm_str before, after, none, inside;
    bool closed = str_around(content, "</think>", &before, &after),
         opened = str_has(content, "<think>");
    if (opened && closed && !kept) {
        prompt_put(b, CHAT_EMPTY_THINK);
        prompt_text(b, after);
        return;
    }
    content = str_strip(content, LEFT);
    str_around(content, "</think>", &before, &after);
    str_around(before, "<think>", &none, &inside);
    if (closed && str_begins(content, "<think>") && inside.p == content.p + strlen("<think>") &&
        after.p == before.p + before.n + strlen("</think>")) {
        prompt_put(b, "<think>");
        prompt_text(b, inside);
        prompt_put(b, "</think>");
        prompt_text(b, after);
    } else {
        prompt_text(b, content);
    }
}

/* Before calls, the template removes reasoning, whichever tags mark it, and white space at both
 * ends. */
static void put_cut_off(struct prompt_builder *b, const struct chat_msg *m, struct hlm_str content)
{
    struct hlm_str before, after, cut = content;
    if (str_around(content, "</think>", &before, &after))
        cut = after;
    else if (!m->reasoning || !str_strip(str_of(m->reasoning), BOTH).n)
        str_around(content, "<think>", &cut, &after);
    prompt_put(b, CHAT_EMPTY_THINK);
    put_content(b, m, str_strip(cut, BOTH));
}

/* When nothing follows </think>, its line end is removed with the white space at the end. */
static void put_nemotron(struct prompt_builder *b, const struct chat_msg *m, struct hlm_str content,
                         bool kept)
{
    struct hlm_str none, after;
    if (m->reasoning && str_strip(str_of(m->reasoning), BOTH).n) {
        if (kept) {
            prompt_put(b, "<think>\n");
            prompt_text(b, str_of(m->reasoning));
            prompt_put(b, "\n</think>");
        } else {
            prompt_put(b, CHAT_EMPTY_THINK);
        }
        if (!kept && str_around(content, "</think>", &none, &after)) {
            prompt_text(b, after);
        } else if (content.n) {
            prompt_put(b, "\n");
            put_content(b, m, content);
        }
    } else if (str_has(content, "<think>") || str_has(content, "</think>")) {
        put_tagged(b, content, kept);
    } else {
        prompt_put(b, CHAT_EMPTY_THINK);
        put_content(b, m, content);
    }
}

static struct hlm_str content_of(const struct chat_format *f, const struct chat_msg *m)
{
    bool end = f->trim_end && !strcmp(m->role, "assistant");
    return f->trim || end ? str_strip(str_of(m->content), f->trim ? BOTH : RIGHT)
                          : str_of(m->content);
}

static void put_answer(struct prompt_builder *b, const struct chat_format *f,
                       const struct chat_msg *m, bool kept, bool last)
{
    struct hlm_str content = content_of(f, m);
    switch (f->answer) {
    case CHAT_PLAIN:
        put_content(b, m, content);
        chat_put_calls(b, f->tools, m, content.n);
        break;
    case CHAT_QWEN: put_qwen(b, f, m, content, kept, last); break;
    case CHAT_NEMOTRON:
        if (m->n_call && !kept)
            put_cut_off(b, m, content);
        else
            put_nemotron(b, m, content, kept);
        chat_put_calls(b, f->tools, m, true);
        break;
    case CHAT_STEP: put_step(b, f, m, content, kept); break;
    }
}

/* The first message whose reasoning is kept: the one after the last question. The last question is
 * the user's last message; formats that mark the answers of tools do not count those. */
static uint32_t first_kept(const struct chat_format *f, const struct chat_msg *msg, uint32_t n,
                           bool *found)
{
    *found = true;
    for (uint32_t i = n; i-- > 0;) {
        struct hlm_str s = content_of(f, &msg[i]);
        bool tool = str_begins(s, "<tool_response>") && str_ends(s, "</tool_response>");
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
        return fail(err, "message %u: role \"%s\", expected system, user, assistant or tool", i + 1,
                    show_text(role, strlen(role), 40).s);
    if (!f->tools && (tool || in->msg[i].n_call))
        return fail(err, "message %u: %s, which chat format %s does not support", i + 1,
                    tool ? "role \"tool\"" : "tool calls", f->name);
    if (in->msg[i].n_call && !answer)
        return fail(err, "message %u: role \"%s\" has tool calls, only an assistant may", i + 1,
                    role);
    if (tool && f->tools->not_first &&
        (i == 0 || (f->system && i == 1 && is_role(in, 0, "system"))))
        return fail(err, "message %u: in chat format %s the first message cannot be a tool's",
                    i + 1, f->name);
    if (f->strict && i && is_role(in, i, "system"))
        return fail(err, "message %u: in chat format %s a system message must come first", i + 1,
                    f->name);
    return true;
}

static bool check(const struct chat_format *f, const struct chat_input *in, bool question,
                  struct hlm_err *err)
{
    if (in->tools && !f->tools)
        return fail(err, "chat format %s does not support tools", f->name);
    for (uint32_t i = 0; i < in->n; i++)
        if (!check_msg(f, in, i, err))
            return false;
    if (f->strict && !question)
        return fail(err, "chat format %s needs a user message", f->name);
    return true;
}

/* The system turn. m: its message, or NULL. */
static void put_system(struct prompt_builder *b, const struct chat_format *f,
                       const struct chat_input *in, const struct chat_msg *m)
{
    struct hlm_str content = m ? content_of(f, m) : (struct hlm_str){ "", 0 };
    bool last = in->tools && f->tools->system == SYSTEM_LAST;
    bool any = content.n || (m && in->tools && f->tools->system == SYSTEM_FIRST);
    if (m && !last)
        put_content(b, m, content);
    if (in->tools && !last && any)
        prompt_put(b, "\n\n");
    for (uint32_t i = 0; in->tools_text && i < in->tools_text->n_span; i++)
        prompt_span(b, in->tools_text->span[i]);
    if (in->tools && !in->tools_text)
        chat_put_tools(b, f->tools, in->tools);
    if (last && content.n) {
        prompt_put(b, "\n\n");
        put_content(b, m, content);
    }
}

/* Consecutive answers of tools share one turn. */
static void put_tool(struct prompt_builder *b, const struct chat_format *f,
                     const struct chat_input *in, uint32_t i)
{
    const struct chat_tools *t = f->tools;
    prompt_begin_message(b);
    if (i && is_role(in, i - 1, "tool")) {
        prompt_put(b, t->between);
    } else {
        prompt_put(b, "<|im_start|>");
        prompt_put(b, t->role);
        prompt_put(b, "\n");
    }
    prompt_end_header(b);
    prompt_put(b, t->open);
    put_content(b, &in->msg[i], content_of(f, &in->msg[i]));
    prompt_put(b, t->close);
    if (!is_role(in, i + 1, "tool"))
        prompt_put(b, "<|im_end|>\n");
}

static void put_turn(struct prompt_builder *b, const struct chat_format *f,
                     const struct chat_input *in, uint32_t i, bool kept)
{
    const struct chat_msg *m = &in->msg[i];
    bool system = is_role(in, i, "system");
    bool seen = f->answer == CHAT_STEP && system && i && m->name && !strcmp(m->name, "observation");
    prompt_begin_message(b);
    prompt_put(b, "<|im_start|>");
    prompt_put(b, seen ? m->name : m->role);
    prompt_put(b, "\n");
    prompt_end_header(b);
    if (is_role(in, i, "assistant"))
        put_answer(b, f, m, kept, i + 1 == in->n);
    else if (system && !i)
        put_system(b, f, in, m);
    else
        put_content(b, m, content_of(f, m));
    prompt_put(b, "<|im_end|>\n");
}

/* The end of the generation prompt. n_head marks the part that the same answer still begins with in
 * a later prompt, where its reasoning has been dropped. */
static void put_thinking(struct prompt_builder *b, const struct chat_format *f, bool think)
{
    const char *end = think ? f->on : f->off;
    uint64_t n = 0;
    while (end[n] && end[n] == f->past[n])
        n++;
    prompt_span(b, (struct tok_span){ .text = end, .len = n, .special = true });
    b->p->n_head = b->p->n_span;
    prompt_put(b, end + n);
    b->p->in_think = str_ends(str_of(end), "<think>\n");
}

bool chat_render_tools(const struct chat_format *fmt, json_t *tools, struct chat_prompt *out,
                       struct hlm_err *err)
{
    struct prompt_builder b = prompt_begin(out);
    if (fmt->tools)
        chat_put_tools(&b, fmt->tools, tools);
    return prompt_end(&b) || fail_memory(err, "no memory for a list of %llu tools",
                                         (unsigned long long)json_array_size(tools));
}

bool chat_render(const struct chat_format *fmt, const struct chat_input *in, bool generate,
                 bool think, struct chat_prompt *out, struct hlm_err *err)
{
    struct prompt_builder b = prompt_begin(out);
    bool question;
    uint32_t i_kept = first_kept(fmt, in->msg, in->n, &question);
    if (!check(fmt, in, question, err))
        return false;
    if (!(out->cut = mem_alloc(in->n + 1ull, sizeof *out->cut)))
        return fail_memory(err, "no memory for a prompt of %u messages", in->n);

    prompt_span(&b, (struct tok_span){ .text = fmt->bos.p, .len = fmt->bos.n, .special = true });
    if ((fmt->system || in->tools) && !is_role(in, 0, "system")) {
        prompt_put(&b, "<|im_start|>system\n");
        put_system(&b, fmt, in, NULL);
        prompt_put(&b, "<|im_end|>\n");
    }
    for (uint32_t i = 0; i < in->n; i++)
        if (is_role(in, i, "tool"))
            put_tool(&b, fmt, in, i);
        else
            put_turn(&b, fmt, in, i, i >= i_kept);
    out->n_head = out->n_span;
    if (generate) {
        prompt_begin_message(&b);
        prompt_put(&b, "<|im_start|>assistant\n");
        prompt_end_header(&b);
        put_thinking(&b, fmt, think);
    }
    return prompt_end(&b) || fail_memory(err, "no memory for a prompt of %u messages", in->n);
}
