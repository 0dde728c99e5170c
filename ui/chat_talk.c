/* chat_talk: see chat_talk.h. */
#include "chat_talk.h"
#include "chat_prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- history --------------------------------------------------------------------------------- */

static bool is_role(const struct chat_msg *m, const char *role)
{
    return strcmp(m->role, role) == 0;
}

static char *copy(const char *s, uint64_t n)
{
    char *out = mem_alloc(n + 1, 1);
    if (out && n)
        memcpy(out, s, (size_t)n);
    return out;
}

/* Inserts an owned message at i; frees it when there is no memory. */
static bool insert(struct talk *t, uint32_t i, struct chat_msg m, struct hlm_err *err)
{
    if (t->n_msg == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 16;
        struct chat_msg *more = mem_grow(t->msg, cap, sizeof *more);
        if (more) {
            t->msg = more;
            t->cap = cap;
        }
    }
    if (t->n_msg == t->cap || !m.role || !m.content) {
        chat_msg_free(&m);
        return fail(err, "out of memory for the history");
    }
    memmove(&t->msg[i + 1], &t->msg[i], (t->n_msg - i) * sizeof *t->msg);
    t->msg[i] = m;
    t->n_msg++;
    return true;
}

static bool add(struct talk *t, uint32_t i, const char *role, const char *text, struct hlm_err *err)
{
    struct chat_msg m = { .role = copy(role, strlen(role)), .content = copy(text, strlen(text)) };
    return insert(t, i, m, err);
}

static void forget(struct talk *t, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        chat_msg_free(&t->msg[i]);
    if (to < t->n_msg)
        memmove(&t->msg[from], &t->msg[to], (t->n_msg - to) * sizeof *t->msg);
    t->n_msg -= to - from;
}

static uint32_t n_system(const struct talk *t) { return t->n_msg && is_role(&t->msg[0], "system"); }

/* The oldest turn is [first, end): a message of the person and all up to the next one. */
static uint32_t oldest_end(const struct talk *t)
{
    uint32_t i = n_system(t) + 1;
    while (i < t->n_msg && !is_role(&t->msg[i], "user"))
        i++;
    return i;
}

bool talk_init(struct talk *t, hlm *model, hlm_session *session, struct hlm_err *err)
{
    *t = (struct talk){ .model = model, .session = session, .tok = hlm_tok(model) };
    t->format = chat_detect(hlm_file(model), &t->known);
    t->think = t->format.think;
    t->drop = true;
    t->n_predict = -1;
    t->sampling = hlm_sampling_default(model);
    return t->tok || fail(err, "%s", hlm_tok_err(model));
}

void talk_renew(struct talk *t, hlm_session *session) { t->session = session; }

void talk_finish(struct talk *t)
{
    forget(t, 0, t->n_msg);
    free(t->msg);
    *t = (struct talk){ 0 };
}

bool talk_undo(struct talk *t)
{
    uint32_t first = n_system(t), i = t->n_msg;
    while (i > first && !is_role(&t->msg[i - 1], "user"))
        i--;
    if (i == first)
        return false;
    forget(t, i - 1, t->n_msg);
    t->full = false;
    return true;
}

void talk_clear(struct talk *t)
{
    forget(t, n_system(t), t->n_msg);
    t->full = false;
}

bool talk_system(struct talk *t, const char *text, struct hlm_err *err)
{
    if (text && *text && !add(t, 0, "system", text, err))
        return false;
    uint32_t new = text &&*text;
    if (t->n_msg > new &&is_role(&t->msg[new], "system"))
        forget(t, new, new + 1);
    return true;
}

const char *talk_get_system(const struct talk *t) { return n_system(t) ? t->msg[0].content : NULL; }

bool talk_think(struct talk *t, bool on, struct hlm_err *err)
{
    if (on && t->format.thinking == CHAT_NEVER_THINKS)
        return fail(err, "the chat format of this model (%s) has no thinking", t->format.name);
    if (!on && t->format.thinking == CHAT_ALWAYS_THINKS)
        return fail(err, "this model's chat format (%s) always thinks", t->format.name);
    t->think = on;
    return true;
}

uint32_t talk_n_turns(const struct talk *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_msg; i++)
        n += is_role(&t->msg[i], "user");
    return n;
}

/* ---- prompt ---------------------------------------------------------------------------------- */

/* The ids of the history with a generation prompt behind it. */
static bool make_prompt(struct talk *t, struct prompt *p, struct hlm_err *err)
{
    return prompt_make(p, t->tok, &t->format, t->msg, t->n_msg, t->think, err);
}

/* The same of what never goes: the system message and the last one. */
static bool make_least(struct talk *t, struct prompt *p, struct hlm_err *err)
{
    struct chat_msg least[2];
    uint32_t n = n_system(t);
    least[0] = t->msg[0];
    least[n] = t->msg[t->n_msg - 1];
    return prompt_make(p, t->tok, &t->format, least, n + 1, t->think, err);
}

/* Makes the prompt fit. When the context is full - the last answer ended so, or this prompt leaves
 * no room for one - the oldest turns go until half of it is free. */
static bool fit_prompt(struct talk *t, struct prompt *p, struct talk_turn *turn,
                       struct hlm_err *err)
{
    uint32_t n_ctx = hlm_session_n_ctx(t->session), room = min_u32(64, n_ctx / 8);
    if (!make_prompt(t, p, err))
        return false;
    uint32_t n_before = p->ids.n;
    if (!t->full && n_before + room <= n_ctx)
        return true;
    if (!t->drop && n_before + room > n_ctx)
        return fail(err,
                    "the context is full: this prompt has %u tokens of %u; /undo, /clear or a "
                    "larger -c make room",
                    n_before, n_ctx);
    if (!make_least(t, p, err))
        return false;
    if (p->ids.n >= n_ctx) /* nothing that could go would help: all of it stays */
        return fail(err,
                    "this message and the system message have %u tokens, the context %u: a larger "
                    "-c makes room",
                    p->ids.n, n_ctx);
    if (!make_prompt(t, p, err))
        return false;
    while (t->drop && p->ids.n > n_ctx / 2 && oldest_end(t) < t->n_msg) {
        forget(t, n_system(t), oldest_end(t));
        turn->n_dropped_turns++;
        if (!make_prompt(t, p, err))
            return false;
    }
    turn->n_dropped = n_before - p->ids.n;
    return true;
}

/* ---- answer ---------------------------------------------------------------------------------- */

/* An answer as it is made. Ids and bytes grow side by side; the tags of reasoning are found in the
 * bytes, since a vocabulary need not have them as tokens. What might become a tag is held back
 * until it is clear. */
struct answer {
    struct hlm_ids ids;
    uint64_t *end, end_cap; /* bytes of the text up to and with each id */
    char *text;
    uint64_t n, cap;
    enum { OPENING, REASONING, BETWEEN, CONTENT } at;
    uint64_t pos; /* bytes shown or skipped */
    uint64_t reasoning, reasoning_end, content;
    uint32_t n_reasoning; /* ids up to the end of the reasoning */
    struct hlm_utf8 utf8;
};

static void answer_free(struct answer *a)
{
    hlm_ids_free(&a->ids);
    free(a->end);
    free(a->text);
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static bool answer_push(struct talk *t, struct answer *a, int32_t id, struct hlm_err *err)
{
    struct hlm_str s = tok_bytes(t->tok, id);
    /* Control tokens are no text, except the tags, which some files mark as such. */
    if (tok_is_special(t->tok, id) && id != tok_find(t->tok, "<think>") &&
        id != tok_find(t->tok, "</think>"))
        s.n = 0;
    if (a->n + s.n >= a->cap) {
        uint64_t cap = 2 * (a->n + s.n) + 256;
        char *text = mem_grow(a->text, cap, 1);
        if (!text)
            return fail(err, "out of memory for the answer");
        a->text = text;
        a->cap = cap;
    }
    if (a->ids.n == a->end_cap) {
        uint64_t cap = 2 * a->end_cap + 64;
        uint64_t *end = mem_grow(a->end, cap, sizeof *end);
        if (!end)
            return fail(err, "out of memory for the answer");
        a->end = end;
        a->end_cap = cap;
    }
    if (!tok_ids_push(&a->ids, &id, 1, err))
        return false;
    if (s.n)
        memcpy(a->text + a->n, s.p, (size_t)s.n);
    a->n += s.n;
    a->end[a->ids.n - 1] = a->n;
    return true;
}

static void give(struct talk *t, struct answer *a, enum talk_part part, uint64_t to, bool flush)
{
    char out[256];
    while (a->pos < to || flush) {
        uint64_t n = min_u64(to - a->pos, sizeof out / 3 - 8); /* a bad byte comes out as three */
        bool last = a->pos + n == to;
        uint64_t w = hlm_utf8_write(&a->utf8, (struct hlm_str){ a->text + a->pos, n }, flush && last, out);
        a->pos += n;
        if (w)
            t->hooks.text(t->hooks.user, part, out, w);
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

/* Shows what is certain by now; last: all of it. */
static void show(struct talk *t, struct answer *a, bool last)
{
    static const char open_tag[] = "<think>", close_tag[] = "</think>";
    if (a->at == OPENING) {
        uint64_t p = a->pos;
        while (p < a->n && is_space(a->text[p]))
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
        give(t, a, TALK_REASONING, to, last || tag);
        a->n_reasoning = a->ids.n;
        a->reasoning_end = to;
        if (!tag) {
            a->content = a->n;
            return;
        }
        a->pos = to + sizeof close_tag - 1;
        a->at = BETWEEN;
    }
    if (a->at == BETWEEN) { /* the line ends after the tag are the template's, not the answer's */
        while (a->pos < a->n && is_space(a->text[a->pos]))
            a->pos++;
        a->content = a->pos;
        if (a->pos < a->n)
            a->at = CONTENT;
    }
    if (a->at == CONTENT)
        give(t, a, TALK_CONTENT, a->n, last);
}

/* Turns the answer into a message. The ids stay with it if its text begins and ends between two of
 * them. White space around it is cut only where the template would cut it: elsewhere the ids stand
 * for it. */
static bool answer_msg(struct talk *t, const struct answer *a, struct chat_msg *m,
                       struct hlm_err *err)
{
    uint64_t from = a->content, to = a->n, i = 0, j = a->ids.n;
    while (t->format.trim && from < to && is_space(a->text[from]))
        from++;
    while ((t->format.trim || t->format.trim_end) && to > from && is_space(a->text[to - 1]))
        to--;
    while (i < j && from > 0 && (i ? a->end[i - 1] : 0) < from)
        i++;
    while (j > i && to < a->n && a->end[j - 1] > to)
        j--;
    bool whole = from < to && i < j && (i ? a->end[i - 1] : 0) == from && a->end[j - 1] == to;

    *m = (struct chat_msg){ .role = copy("assistant", 9),
                            .content = copy(a->text + from, to - from) };
    /* The line ends inside the tags are the template's. */
    uint64_t think = a->reasoning, think_end = a->reasoning_end;
    think += think && think < think_end && a->text[think] == '\n';
    think_end -= think < think_end && a->text[think_end - 1] == '\n';
    if (think < think_end)
        m->reasoning = copy(a->text + think, think_end - think);
    if (whole && (m->ids = mem_alloc(j - i, sizeof *m->ids))) {
        memcpy(m->ids, a->ids.id + i, (size_t)(j - i) * sizeof *m->ids);
        m->n_ids = (uint32_t)(j - i);
    }
    if (m->role && m->content)
        return true;
    chat_msg_free(m);
    return fail(err, "out of memory for the answer");
}

/* ---- turn ------------------------------------------------------------------------------------ */

static bool generate(struct talk *t, struct answer *a, struct talk_turn *turn, double start_s,
                     struct hlm_err *err)
{
    struct hlm_sampling sampling = t->sampling;
    sampling.seed = turn->seed;
    bool unread = false;
    for (turn->end = TALK_DONE;;) {
        if (t->hooks.stopped(t->hooks.user))
            turn->end = TALK_STOPPED;
        else if (t->n_predict >= 0 && a->ids.n >= (uint32_t)t->n_predict)
            turn->end = TALK_LIMIT;
        else if (hlm_session_n_past(t->session) + unread > hlm_session_n_ctx(t->session))
            turn->end = TALK_FULL;
        if (turn->end != TALK_DONE)
            break;
        int32_t id;
        if (!hlm_session_next(t->session, &sampling, &id, err))
            return false;
        unread = true;
        if (turn->first_s == 0)
            turn->first_s = now_s() - start_s;
        if (tok_is_eog(t->tok, id))
            break;
        if (!answer_push(t, a, id, err))
            return false;
        show(t, a, false);
    }
    return true;
}

static void count(struct talk *t, const struct hlm_stats *before, struct talk_turn *turn)
{
    struct hlm_stats s = hlm_session_stats(t->session);
    turn->n_read = s.n_read - before->n_read;
    turn->n_reused = s.n_reused - before->n_reused;
    turn->n_reread = s.n_reread - before->n_reread;
    turn->n_gen = s.n_gen - before->n_gen;
    turn->read_s = s.read_s - before->read_s;
    turn->gen_s = s.gen_s - before->gen_s;
    turn->n_used = hlm_session_n_past(t->session);
    turn->n_ctx = hlm_session_n_ctx(t->session);

    t->total.n_read += turn->n_read;
    t->total.n_reused += turn->n_reused;
    t->total.n_reread += turn->n_reread;
    t->total.n_gen += turn->n_gen;
    t->total.n_reasoning += turn->n_reasoning;
    t->total.n_dropped += turn->n_dropped;
    t->total.n_dropped_turns += turn->n_dropped_turns;
    t->total.read_s += turn->read_s;
    t->total.gen_s += turn->gen_s;
    t->last = *turn;
}

/* Answers the last message of the history. */
static bool answer_turn(struct talk *t, struct talk_turn *turn, struct hlm_err *err)
{
    struct prompt p = { 0 };
    struct answer a = { 0 };
    struct chat_msg m;
    struct hlm_stats before = hlm_session_stats(t->session);
    double start_s = now_s();
    bool ok = false;
    *turn = (struct talk_turn){ .seed = t->sampling.seed + t->n_again };

    if (!fit_prompt(t, &p, turn, err))
        goto out;
    turn->n_prompt = p.ids.n;
    bool read = hlm_session_sync(t->session, p.ids.id, p.ids.n, p.snap, p.n_snap, t->hooks.reading,
                                 t->hooks.user, err);
    turn->found = hlm_session_found(t->session);
    turn->i_msg = prompt_msg_at(&p, turn->found.n_same);
    if (!read)
        goto out;
    t->full = false;

    a.at = p.in_think ? REASONING : OPENING;
    bool made = generate(t, &a, turn, start_s, err);
    show(t, &a, true);
    turn->n_reasoning = a.n_reasoning;
    /* A failure in the middle of an answer loses the turn; what was shown is on the screen. */
    ok = made && answer_msg(t, &a, &m, err) && insert(t, t->n_msg, m, err);
    t->full = ok && turn->end == TALK_FULL;
    t->n_turn += ok;
out:
    count(t, &before, turn);
    hlm_idle(t->model);
    prompt_free(&p);
    answer_free(&a);
    return ok;
}

void talk_why(const struct talk_turn *turn, char *out, uint64_t size)
{
    const struct hlm_found *f = &turn->found;
    int n = 0;
    out[0] = 0;
    if (!f->n_held)
        n = snprintf(out, size, "first read");
    else if (f->n_same < f->n_held && f->n_same < turn->n_prompt)
        n = snprintf(out, size, "the prompt differs from token %u on (message %u)", f->n_same + 1,
                     turn->i_msg + 1);
    if (f->n_evicted && n >= 0 && (uint64_t)n < size)
        snprintf(out + n, size - (uint64_t)n, "%sthe snapshot at token %u was evicted",
                 n ? "; " : "", f->n_evicted);
}

bool talk_say(struct talk *t, const char *text, struct talk_turn *turn, struct hlm_err *err)
{
    if (!add(t, t->n_msg, "user", text, err))
        return false;
    t->n_again = 0;
    if (answer_turn(t, turn, err))
        return true;
    forget(t, t->n_msg - 1, t->n_msg);
    return false;
}

bool talk_regen(struct talk *t, struct talk_turn *turn, struct hlm_err *err)
{
    uint32_t last = t->n_msg;
    if (last < 2 || !is_role(&t->msg[last - 1], "assistant"))
        return fail(err, "there is no answer to make again");
    struct chat_msg old = t->msg[last - 1];
    t->n_msg--;
    t->n_again++;
    bool full = t->full;
    t->full = false; /* the same prompt had room before */
    if (answer_turn(t, turn, err)) {
        chat_msg_free(&old);
        return true;
    }
    t->full = full;
    return insert(t, t->n_msg, old, err) && false;
}
