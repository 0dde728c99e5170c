/* data_doc: one line of training data to documents, with the tokens marked that count. See data.h.
 *
 * An answer counts if it stands in the document exactly as it would stand in a conversation: after
 * the ids of the very prompt that asks for it, as the text that the model then has to say. So a
 * prompt and its answer are encoded apart: no model is asked to predict what a tokenizer would
 * merge across that border. The templates decide what an answer is, by rendering a conversation
 * that ends with it. */
#include "train/data_parts.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MSG = 1024 };
/* Answers times the bytes of the whole conversation. For each answer everything before it is
 * rendered again, a few times. At this limit that takes a second of copying; ten seconds if the
 * bytes are arguments of calls, full of quotes to escape. */
#define MAX_RENDERED (1ull << 30)

/* ---- documents in a set ---------------------------------------------------------------------- */

bool data_bad(struct data_line *l, struct hlm_err *err, const char *why)
{
    return fail(err, "%s: %s", l->where, why);
}

bool data_no_memory(struct data_line *l, struct hlm_err *err)
{
    l->fatal = true;
    return fail_memory(err, "%s: no memory for this document", l->where);
}

static bool begin_doc(struct data_line *l, struct hlm_err *err)
{
    struct data_set *s = l->set;
    if (s->n_doc == UINT32_MAX ||
        !mem_reserve(&s->doc, s->n_doc + 1ull, &s->cap_doc, sizeof *s->doc))
        return data_no_memory(l, err);
    s->doc[s->n_doc++] = (struct data_doc){ .at = s->n_id, .line = l->line };
    return true;
}

/* Appends ids to the last document. */
static bool add_ids(struct data_line *l, const int32_t *id, uint32_t n, uint8_t mark,
                    struct hlm_err *err)
{
    struct data_set *s = l->set;
    struct data_doc *d = &s->doc[s->n_doc - 1];
    if (n > UINT32_MAX - d->n)
        return data_bad(l, err, "more tokens than a document can have");
    if (!mem_reserve(&s->ids, s->n_id + n, &s->cap_id, sizeof *s->ids) ||
        !mem_reserve(&s->mask, s->n_id + n, &s->cap_mask, 1))
        return data_no_memory(l, err);
    if (n) {
        memcpy(s->ids + s->n_id, id, n * sizeof *id);
        memset(s->mask + s->n_id, mark, n);
    }
    s->n_id += n;
    d->n += n;
    return true;
}

/* Encoding fails only for want of memory: any bytes are a text. */
static bool add_spans(struct data_line *l, const struct tok_span *span, uint32_t n, uint8_t mark,
                      struct hlm_err *err)
{
    l->scratch.n = 0;
    if (!tok_encode(l->p->tok, span, n, &l->scratch, err)) {
        l->fatal = true;
        return false;
    }
    return add_ids(l, l->scratch.id, l->scratch.n, mark, err);
}

static bool add_text(struct data_line *l, struct hlm_str s, uint8_t mark, struct hlm_err *err)
{
    struct tok_span span = { .text = s.p, .len = s.n, .special = true };
    return add_spans(l, &span, 1, mark, err);
}

/* Adds the bos if the file asks for one and the template has not printed it (`first` is the first
 * id), as hlm-chat does. */
static bool add_doc_bos(struct data_line *l, int32_t first, struct hlm_err *err)
{
    int32_t bos;
    return !tok_add_bos(l->p->tok, &bos) || bos == first || add_ids(l, &bos, 1, MARK_NO, err);
}

static bool add_eos(struct data_line *l, struct hlm_err *err)
{
    return l->p->no_eos || l->p->eos < 0 || add_ids(l, &l->p->eos, 1, MARK_COUNTS, err);
}

/* Counts a document that is left out because it would teach nothing. */
static void drop_doc(struct data_line *l)
{
    if (!l->set->counts.n_dropped++)
        l->set->counts.dropped_line = l->line + 1;
}

/* Ends a document: cuts it to its length, counts its targets, and drops it if it has none. With
 * stays_short, a document that was not cut stays even without a target: a text of a single token.
 */
static void end_doc(struct data_line *l, bool stays_short)
{
    struct data_set *s = l->set;
    struct data_doc *d = &s->doc[s->n_doc - 1];
    uint32_t max = l->p->max_seq ? l->p->max_seq : UINT32_MAX;
    s->counts.longest = max_u64(s->counts.longest, d->n);
    bool cut = d->n > max;
    if (cut) {
        if (!s->counts.n_cut++)
            s->counts.cut_line = l->line + 1;
        s->counts.n_ids_cut += d->n - max;
        s->n_id -= d->n - max;
        d->n = max;
    }
    if (d->n)
        s->mask[d->at] = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        uint8_t *mark = &s->mask[d->at + i];
        *mark = *mark == MARK_COUNTS || (*mark == MARK_NO && l->p->loss_all && i);
        d->n_counted += *mark;
    }
    s->n_counted += d->n_counted;
    if (!d->n || (!d->n_counted && (cut || !stays_short))) {
        drop_doc(l);
        s->n_id = d->at;
        s->n_doc--;
    }
}

/* ---- texts ----------------------------------------------------------------------------------- */

static bool text_doc(struct data_line *l, struct hlm_str text, struct hlm_err *err)
{
    if (!begin_doc(l, err) || !add_doc_bos(l, -1, err) || !add_text(l, text, MARK_COUNTS, err) ||
        !add_eos(l, err))
        return false;
    end_doc(l, text.n > 0);
    return true;
}

static bool raw_doc(struct data_line *l, struct hlm_str prompt, struct hlm_str completion,
                    struct hlm_err *err)
{
    if (!begin_doc(l, err) || !add_doc_bos(l, -1, err) || !add_text(l, prompt, MARK_NO, err) ||
        !add_text(l, completion, MARK_COUNTS, err) || !add_eos(l, err))
        return false;
    end_doc(l, false);
    return true;
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* An answer in its place. */
struct answer_turn {
    struct chat_prompt prompt; /* that asks for it */
    struct chat_prompt said;   /* the conversation up to the answer; from byte `from` on it is what
                                  the   model says, up to the line end after the closing token */
    uint64_t from;
    bool asked; /* some prompt asks for this answer */
};

static void turn_free(struct answer_turn *t)
{
    chat_prompt_free(&t->prompt);
    chat_prompt_free(&t->said);
}

/* What the model says, without that line end. */
static struct hlm_str answer_of(const struct answer_turn *t)
{
    return (struct hlm_str){ t->said.text + t->from, t->said.len - t->from - 1 };
}

static uint64_t bytes_before_span(const struct chat_prompt *p, uint32_t span)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < span; i++)
        n += p->span[i].len;
    return n;
}

/* False, with l->fatal unset, if the format refuses these messages: then there is no such prompt.
 */
static bool render_messages(struct data_line *l, const struct chat_msg *msg, uint32_t n,
                            bool generate, bool think, struct chat_prompt *out, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    struct chat_input in = {
        .msg = msg, .n = n, .tools = l->tools, .tools_text = l->tools ? &l->tools_text : NULL
    };
    if (chat_render(&l->p->format, &in, generate, think, out, &why))
        return true;
    l->fatal = l->fatal || why.kind == HLM_ERR_MEMORY;
    return fail_size(err, why.kind, &why, "%s: %s", l->where, why.msg);
}

/* Renders all messages; refuses them if rendering what comes before each answer would take too
 * long.
 */
static bool render_conversation(struct data_line *l, const struct chat_msg *msg, uint32_t n,
                                struct chat_prompt *out, struct hlm_err *err)
{
    uint64_t n_answer = 0;
    for (uint32_t i = 0; i < n; i++)
        n_answer += !strcmp(msg[i].role, "assistant");
    if (!render_messages(l, msg, n, false, false, out, err))
        return false;
    return n_answer * out->len <= MAX_RENDERED ||
           fail(err,
                "%s: %llu answers in a conversation of %llu bytes: their product may be %llu "
                "at most",
                l->where, (unsigned long long)n_answer, (unsigned long long)out->len,
                (unsigned long long)MAX_RENDERED);
}

/* The text after the header of message i. */
static struct hlm_str text_from(const struct chat_prompt *p, uint32_t i)
{
    uint64_t at = bytes_before_span(p, p->cut[i].text);
    return (struct hlm_str){ p->text + at, p->len - at };
}

/* How the n-th message, an answer, is asked for and said. The prompt opens a block of reasoning if
 * the document has reasoning (think). If the template then renders the answer without that block,
 * the answer can only have come from the prompt without one. If the template renders the answer
 * without the empty block of that prompt, or renders the history otherwise than the prompt does,
 * the prompt is what hlm-chat would send, and the answer is its own text. */
static bool turn_make(struct data_line *l, const struct chat_msg *msg, uint32_t n, bool think,
                      struct answer_turn *t, struct hlm_err *err)
{
    *t = (struct answer_turn){ 0 };
    if (!render_messages(l, msg, n, false, false, &t->said, NULL))
        return !l->fatal || data_no_memory(l, err);
    for (int k = think ? 0 : 1; k < 2 && !t->asked; k++) {
        chat_prompt_free(&t->prompt);
        if (!render_messages(l, msg, n - 1, true, k == 0, &t->prompt, NULL))
            return !l->fatal || data_no_memory(l, err);
        t->from = t->prompt.len;
        t->asked = t->said.len > t->prompt.len &&
                   !memcmp(t->said.text, t->prompt.text, (size_t)t->prompt.len);
    }
    if (!t->asked && !t->prompt.in_think) {
        struct hlm_str asks = text_from(&t->prompt, n - 1), says = text_from(&t->said, n - 1);
        bool both = says.n >= asks.n && !memcmp(says.p, asks.p, (size_t)asks.n);
        t->from = t->said.len - says.n + (both ? asks.n : 0);
        t->asked = t->from < t->said.len;
    }
    return true;
}

static bool is_blank_text(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", s[i]))
        i++;
    return i == n;
}

/* The reasoning is in a field of its own, or in the text between tags, if the format knows these.
 */
static bool has_reasoning(const struct chat_format *f, const struct chat_msg *m)
{
    if (strcmp(m->role, "assistant"))
        return false;
    if (m->reasoning)
        return !is_blank_text(m->reasoning, strlen(m->reasoning));
    const char *end = f->answer != CHAT_PLAIN ? strstr(m->content, "</think>") : NULL;
    const char *from = m->content;
    for (const char *p = from; end && (p = strstr(p, "<think>")) && p < end;)
        from = p += strlen("<think>");
    return end && !is_blank_text(from, (size_t)(end - from));
}

/* ---- conversations --------------------------------------------------------------------------- */

/* The text of a document: one or two rendered texts end to end, with their spans in one list. */
struct doc_text {
    struct hlm_str part[2];
    struct tok_span *span;
    uint32_t n_span;
    struct tok_span *some;          /* room for some of them */
    const struct chat_prompt *head; /* what part[0] is the text of */
};

/* Whether the text continues with s at byte `at`. */
static bool text_has(const struct doc_text *w, uint64_t at, struct hlm_str s)
{
    for (int i = 0; i < 2 && s.n; i++) {
        struct hlm_str p = w->part[i];
        uint64_t skip = min_u64(at, p.n), n = min_u64(p.n - skip, s.n);
        if (n && memcmp(p.p + skip, s.p, (size_t)n))
            return false;
        at -= skip;
        s.p += n;
        s.n -= n;
    }
    return !s.n;
}

/* Writes to out the spans, or their parts, that make up bytes [from, to). */
static uint32_t cut_spans(const struct tok_span *span, uint32_t n, uint64_t from, uint64_t to,
                          struct tok_span *out)
{
    uint32_t n_out = 0;
    uint64_t at = 0;
    for (uint32_t i = 0; i < n; at += span[i++].len) {
        uint64_t a = max_u64(at, from), b = min_u64(at + span[i].len, to);
        if (a < b) {
            out[n_out] = span[i];
            out[n_out].text += a - at;
            out[n_out++].len = b - a;
        }
    }
    return n_out;
}

static bool doc_text_make(struct data_line *l, const struct chat_prompt *history,
                          const struct answer_turn *t, struct doc_text *w, struct hlm_err *err)
{
    const struct chat_prompt *a = t->asked ? &t->prompt : history, *b = &t->said;
    uint64_t n = a->n_span + (t->asked ? (uint64_t)b->n_span : 0);
    *w = (struct doc_text){ .part[0] = { a->text, a->len }, .n_span = a->n_span, .head = a };
    w->span = mem_alloc(n + 1, sizeof *w->span);
    w->some = mem_alloc(n + 1, sizeof *w->some);
    if (!w->span || !w->some)
        return data_no_memory(l, err);
    if (a->n_span)
        memcpy(w->span, a->span, a->n_span * sizeof *a->span);
    if (t->asked) {
        w->part[1] = (struct hlm_str){ b->text + t->from, b->len - t->from };
        w->n_span += cut_spans(b->span, b->n_span, t->from, b->len, w->span + w->n_span);
    }
    return true;
}

static bool put_bytes(struct data_line *l, struct doc_text *w, uint64_t from, uint64_t to,
                      uint8_t mark, struct hlm_err *err)
{
    return add_spans(l, w->some, cut_spans(w->span, w->n_span, from, to, w->some), mark, err);
}

/* Bytes [0, to): whether a bos has to be added is seen from the first id. */
static bool put_first(struct data_line *l, struct doc_text *w, uint64_t to, struct hlm_err *err)
{
    uint32_t n = cut_spans(w->span, w->n_span, 0, to, w->some);
    l->scratch.n = 0;
    if (!tok_encode(l->p->tok, w->some, n, &l->scratch, err)) {
        l->fatal = true;
        return false;
    }
    return add_doc_bos(l, l->scratch.n ? l->scratch.id[0] : -1, err) &&
           add_ids(l, l->scratch.id, l->scratch.n, MARK_NO, err);
}

/* A stretch of the document's text. */
struct stretch {
    uint64_t begin, end;
};

/* Where message i stands, from after its header to the next one's. */
static struct stretch stretch_of(const struct doc_text *w, uint32_t i)
{
    const struct chat_prompt *a = w->head;
    uint64_t len = w->part[0].n + w->part[1].n;
    return (struct stretch){ i < a->n_cut ? bytes_before_span(a, a->cut[i].text) : len,
                             i + 1 < a->n_cut ? bytes_before_span(a, a->cut[i + 1].begin) : len };
}

/* Does the document have this answer after the prompt that asks for it, as the model would say
 * it? */
static bool find_answer(const struct doc_text *w, const struct answer_turn *t, uint64_t at,
                        struct stretch *s)
{
    *s = (struct stretch){ t->prompt.len, t->prompt.len };
    if (!t->asked || s->begin < at ||
        !text_has(w, 0, (struct hlm_str){ t->prompt.text, s->begin }) ||
        !text_has(w, s->begin, answer_of(t)))
        return false;
    s->end += answer_of(t).n;
    return true;
}

static void count_answer(struct data_line *l, bool found)
{
    struct data_counts *c = &l->set->counts;
    c->n_answer++;
    if (!found && !c->n_unsaid++)
        c->unsaid_line = l->line + 1;
}

static bool put_doc_text(struct data_line *l, struct doc_text *w, const struct chat_input *in,
                         bool think, const struct answer_turn *last, struct hlm_err *err)
{
    uint64_t at = 0, len = w->part[0].n + w->part[1].n;
    uint32_t n = in->n;
    bool ok = true;
    for (uint32_t i = l->p->turns_each ? n - 1 : 0; ok && i < n; i++) {
        bool skip = l->skip && l->skip[i], found;
        struct answer_turn own = { 0 };
        struct stretch s;
        if (strcmp(in->msg[i].role, "assistant") || (skip && !l->p->loss_all))
            continue;
        const struct answer_turn *t = i + 1 == n ? last : &own;
        ok = skip || t == last || turn_make(l, in->msg, i + 1, think, &own, err);
        if (skip)
            s = stretch_of(w, i);
        found = ok && (skip ? s.begin >= at && s.end <= len : find_answer(w, t, at, &s));
        if (ok && !skip)
            count_answer(l, found || l->p->loss_all);
        if (found) {
            ok =
                (at ? put_bytes(l, w, at, s.begin, MARK_NO, err) : put_first(l, w, s.begin, err)) &&
                put_bytes(l, w, s.begin, s.end, skip ? MARK_NEVER : MARK_COUNTS, err);
            at = s.end;
        }
        turn_free(&own);
    }
    return ok && (at ? put_bytes(l, w, at, len, MARK_NO, err) : put_first(l, w, len, err));
}

/* Makes n messages one document. With turns_each only the last of them, an answer, counts. */
static bool chat_doc(struct data_line *l, const struct chat_msg *msg, uint32_t n,
                     struct hlm_err *err)
{
    struct chat_prompt history = { 0 };
    struct answer_turn last = { 0 };
    struct doc_text w = { 0 };
    bool think = false, answer = n && !strcmp(msg[n - 1].role, "assistant");
    for (uint32_t i = l->p->turns_each && n ? n - 1 : 0; i < n; i++)
        think = think || has_reasoning(&l->p->format, &msg[i]);
    bool ok = render_conversation(l, msg, n, &history, err) &&
              (!answer || turn_make(l, msg, n, think, &last, err)) &&
              doc_text_make(l, &history, &last, &w, err) && begin_doc(l, err) &&
              put_doc_text(l, &w, &(struct chat_input){ .msg = msg, .n = n }, think, &last, err);
    if (ok)
        end_doc(l, false);
    free(w.span);
    free(w.some);
    turn_free(&last);
    chat_prompt_free(&history);
    return ok;
}

static bool chat_docs(struct data_line *l, const struct chat_msg *msg, uint32_t n,
                      struct hlm_err *err)
{
    struct chat_prompt text = { 0 };
    uint32_t n_answer = 0;
    if (!l->p->turns_each)
        return chat_doc(l, msg, n, err);
    bool ok = render_conversation(l, msg, n, &text, err);
    for (uint32_t i = 0; ok && i < n; i++) {
        if (strcmp(msg[i].role, "assistant") || (l->skip && l->skip[i]))
            continue;
        n_answer++;
        chat_prompt_free(&text);
        if (render_messages(l, msg, i + 1, false, false, &text, NULL))
            ok = chat_doc(l, msg, i + 1, err);
        else if (l->fatal)
            ok = data_no_memory(l, err);
        else /* the format has no such conversation: it begins with an answer, for example */
            drop_doc(l);
    }
    if (ok && !n_answer)
        drop_doc(l);
    chat_prompt_free(&text);
    return ok;
}

bool data_messages(struct data_line *l, json_t *list, json_t *tools, struct hlm_err *err)
{
    uint32_t n = 0;
    uint8_t skip[MAX_MSG];
    if (!json_array_size(list) || json_array_size(list) > MAX_MSG)
        return fail(err, "%s: %llu messages, expected 1 to %u", l->where,
                    (unsigned long long)json_array_size(list), MAX_MSG);
    if (!chat_tools_check(tools, l->where, &l->tools, err))
        return false;
    if (l->tools && !chat_render_tools(&l->p->format, l->tools, &l->tools_text, NULL))
        return data_no_memory(l, err);
    struct hlm_err why = { 0 };
    struct chat_msg *msg = chat_from_list(list, &l->p->format, l->where, &n, &why);
    l->fatal = l->fatal || why.kind == HLM_ERR_MEMORY;
    l->skip = msg && data_marks(l, list, skip) ? skip : NULL;
    bool ok = msg ? chat_docs(l, msg, n, err) : fail_from(err, &why, "");
    chat_free(msg, n, NULL);
    chat_prompt_free(&l->tools_text);
    l->tools = NULL;
    l->skip = NULL;
    return ok;
}

static bool pair_docs(struct data_line *l, const struct data_pair *p, struct hlm_err *err)
{
    static char roles[][16] = { "system", "user", "assistant" };
    const char *text[] = { p->system, p->question, p->answer };
    struct chat_msg msg[3] = { 0 };
    uint32_t n = 0;
    bool ok = true;
    for (uint32_t i = 0; i < ARRAY_LEN(text); i++)
        if (text[i]) {
            msg[n] = (struct chat_msg){ .role = roles[i],
                                        .content = mem_text(text[i], strlen(text[i])) };
            ok = ok && msg[n].content;
            n++;
        }
    ok = ok ? chat_docs(l, msg, n, err) : data_no_memory(l, err);
    for (uint32_t i = 0; i < n; i++)
        free(msg[i].content);
    return ok;
}

bool data_pair(struct data_line *l, const struct data_pair *p, struct hlm_err *err)
{
    struct hlm_str question = { p->question, strlen(p->question) },
                   answer = { p->answer, strlen(p->answer) };
    return l->p->raw_completion ? raw_doc(l, question, answer, err) : pair_docs(l, p, err);
}

bool data_text(struct data_line *l, const json_t *text, struct hlm_err *err)
{
    struct hlm_str s = { json_string_value(text), json_string_length(text) };
    return text_doc(l, s, err);
}

bool data_line(struct data_line *l, const char *json, uint64_t n, struct hlm_err *err)
{
    json_error_t e;
    json_t *j = json_loadb(json, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    if (!j && json_error_code(&e) == json_error_out_of_memory)
        return data_no_memory(l, err);
    if (!j) /* an object of a list may have several lines */
        return fail(err, "%.300s:%" PRIu64 ": column %d: %s", l->name,
                    l->line + (uint64_t)max_u32((uint32_t)e.line, 1), e.column, e.text);
    bool ok =
        json_is_object(j) ? data_object(l, j, err) : data_bad(l, err, "expected a JSON object");
    json_decref(j);
    return ok;
}
