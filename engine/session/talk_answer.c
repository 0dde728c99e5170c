/* talk_answer: ids and text of an answer being generated. See talk.h. */
#include "session/talk.h"

#include <stdlib.h>
#include <string.h>

void talk_answer_free(struct talk_answer *a)
{
    hlm_ids_free(&a->ids);
    free(a->end);
    free(a->text);
}

static bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

bool talk_answer_push(const struct hlm_talk *t, struct talk_answer *a, int32_t id,
                      struct hlm_err *err)
{
    struct hlm_str s = tok_bytes(t->tok, id);
    /* Control tokens have no text, except the tags, which some files mark as control tokens. */
    if (tok_is_special(t->tok, id) && id != tok_find(t->tok, "<think>") &&
        id != tok_find(t->tok, "</think>"))
        s.n = 0;
    if (!mem_reserve(&a->text, a->n + s.n + 1, &a->cap_text, 1) ||
        !mem_reserve(&a->end, a->ids.n + 1ull, &a->cap_end, sizeof *a->end))
        return fail_memory(err, "out of memory for the answer");
    if (!tok_ids_push(&a->ids, &id, 1, err))
        return false;
    if (s.n)
        memcpy(a->text + a->n, s.p, (size_t)s.n);
    a->n += s.n;
    a->end[a->ids.n - 1] = a->n;
    return true;
}

/* Passes the bytes up to `to` to options.text as whole characters. flush: also an incomplete
 * character at the end. */
static void hand_out(const struct hlm_talk *t, struct talk_answer *a, enum hlm_part part,
                     uint64_t to, bool flush)
{
    char out[256];
    while (a->pos < to || flush) {
        uint64_t n = min_u64(to - a->pos, sizeof out / 3 - 8); /* a bad byte comes out as three */
        bool last = a->pos + n == to;
        uint64_t w =
            hlm_utf8_write(&a->utf8, (struct hlm_str){ a->text + a->pos, n }, flush && last, out);
        a->pos += n;
        if (w && t->options.text)
            t->options.text(t->options.user, part, out, w);
        if (last)
            break;
    }
}

/* How many bytes at the end of s could be the beginning of tag. */
static uint64_t tag_begun(const char *s, uint64_t n, const char *tag)
{
    uint64_t m = min_u64(n, strlen(tag) - 1);
    while (m && memcmp(s + n - m, tag, (size_t)m) != 0)
        m--;
    return m;
}

static const char *find_tag(const char *s, uint64_t n, const char *tag)
{
    uint64_t m = strlen(tag);
    for (uint64_t i = 0; i + m <= n; i++)
        if (memcmp(s + i, tag, (size_t)m) == 0)
            return s + i;
    return NULL;
}

/* Ends the answer at this byte: what comes after it is no part of it. */
static void cut(struct talk_answer *a, uint64_t at)
{
    a->n = at;
    while (a->ids.n && (a->ids.n > 1 ? a->end[a->ids.n - 2] : 0) >= at)
        a->ids.n--;
    a->stopped = true;
}

/* What may begin a stop text is not passed on, so the texts begin nowhere before a->pos. */
static void show_content(const struct hlm_talk *t, struct talk_answer *a, bool last)
{
    uint64_t n = a->n - a->pos, first = n, held = 0;
    for (uint32_t i = 0; i < t->options.n_stop; i++) {
        const char *stop = t->options.stop[i], *s = a->text + a->pos;
        const char *found = *stop ? find_tag(s, n, stop) : NULL;
        if (found)
            first = min_u64(first, (uint64_t)(found - s));
        else if (*stop)
            held = max_u64(held, tag_begun(s, n, stop));
    }
    if (first < n) {
        cut(a, a->pos + first);
        hand_out(t, a, HLM_PART_ANSWER, a->n, true);
    } else {
        hand_out(t, a, HLM_PART_ANSWER, last ? a->n : a->n - held, last);
    }
}

void talk_answer_show(const struct hlm_talk *t, struct talk_answer *a, bool last)
{
    static const char open_tag[] = "<think>", close_tag[] = "</think>";
    if (a->at == OPENING) {
        uint64_t p = a->pos;
        while (p < a->n && is_blank(a->text[p]))
            p++;
        uint64_t left = a->n - p, n_tag = sizeof open_tag - 1;
        if (!last && left < n_tag && memcmp(a->text + p, open_tag, (size_t)left) == 0)
            return;
        a->at = CONTENT;
        if (left >= n_tag && memcmp(a->text + p, open_tag, (size_t)n_tag) == 0) {
            a->at = REASONING;
            a->reasoning = a->pos = p + n_tag;
        }
    }
    if (a->at == REASONING) {
        const char *tag = find_tag(a->text + a->pos, a->n - a->pos, close_tag);
        uint64_t to = tag ? (uint64_t)(tag - a->text) : a->n;
        if (!tag && !last)
            to -= tag_begun(a->text + a->pos, a->n - a->pos, close_tag);
        hand_out(t, a, HLM_PART_REASONING, to, last || tag);
        a->n_reasoning = a->ids.n;
        a->reasoning_end = to;
        if (!tag) {
            a->content = a->n;
            return;
        }
        a->pos = to + sizeof close_tag - 1;
        a->at = BETWEEN;
    }
    if (a->at == BETWEEN) { /* line ends after the tag belong to the template, not to the answer */
        while (a->pos < a->n && is_blank(a->text[a->pos]))
            a->pos++;
        a->content = a->pos;
        if (a->pos < a->n)
            a->at = CONTENT;
    }
    if (a->at == CONTENT)
        show_content(t, a, last);
}

/* White space around the text is removed only where the template would remove it. */
bool talk_answer_msg(const struct hlm_talk *t, const struct talk_answer *a, struct chat_msg *m,
                     struct hlm_err *err)
{
    uint64_t from = a->content, to = a->n, i = 0, j = a->ids.n;
    while (t->format.trim && from < to && is_blank(a->text[from]))
        from++;
    while ((t->format.trim || t->format.trim_end) && to > from && is_blank(a->text[to - 1]))
        to--;
    while (i < j && from > 0 && (i ? a->end[i - 1] : 0) < from)
        i++;
    while (j > i && to < a->n && a->end[j - 1] > to)
        j--;
    bool whole = from < to && i < j && (i ? a->end[i - 1] : 0) == from && a->end[j - 1] == to;

    *m = (struct chat_msg){ .role = mem_text("assistant", 9),
                            .content = mem_text(a->text + from, to - from) };
    /* The line ends inside the tags belong to the template. */
    uint64_t think = a->reasoning, think_end = a->reasoning_end;
    think += think && think < think_end && a->text[think] == '\n';
    think_end -= think < think_end && a->text[think_end - 1] == '\n';
    if (think < think_end)
        m->reasoning = mem_text(a->text + think, think_end - think);
    if (whole && (m->ids = mem_alloc(j - i, sizeof *m->ids))) {
        memcpy(m->ids, a->ids.id + i, (size_t)(j - i) * sizeof *m->ids);
        m->n_ids = (uint32_t)(j - i);
    }
    if (m->role && m->content)
        return true;
    chat_msg_free(m);
    return fail_memory(err, "out of memory for the answer");
}
