/* talk_prompt: see talk_prompt.h. */
#include "session/talk_prompt.h"

#include <stdlib.h>
#include <string.h>

void talk_prompt_free(struct talk_prompt *p)
{
    hlm_ids_free(&p->ids);
    free(p->begin);
    free(p->snap);
    *p = (struct talk_prompt){ 0 };
}

uint32_t talk_prompt_msg_at(const struct talk_prompt *p, uint32_t at)
{
    uint32_t i = p->n_msg;
    while (i > 1 && p->begin[i - 1] > at)
        i--;
    return i ? i - 1 : 0;
}

/* ---- ids ------------------------------------------------------------------------------------- */

/* The number of ids at the beginning of both lists. */
static uint32_t common_prefix(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t i = 0;
    while (i < n_a && i < n_b && a[i] == b[i])
        i++;
    return i;
}

static bool encode_spans(struct tok *tok, const struct tok_span *span, uint32_t n,
                         struct hlm_ids *out, struct hlm_err *err)
{
    out->n = 0;
    return tok_encode(tok, span, n, out, err);
}

/* ---- where snapshots go ---------------------------------------------------------------------- */

/* A prompt being made. */
struct making {
    struct talk_prompt *p;
    struct tok *tok;
    const struct chat_format *format;
    const struct chat_input *history;
    struct chat_prompt text;
    struct hlm_ids part; /* scratch */
    struct hlm_err *err;
};

/* *at: the number of ids that spans [0, end) give whatever follows them; at_from is this number for
 * [0, from). A text can give other ids at its end when it goes on, so only the ids that the part
 * and the whole prompt share are certain. Control tokens cut a text, so encoding [from, end) alone
 * is usually enough. */
static bool sure_ids(struct making *m, uint32_t from, uint32_t at_from, uint32_t end, uint32_t *at)
{
    const struct hlm_ids *ids = &m->p->ids;
    struct hlm_ids *part = &m->part;
    if (!encode_spans(m->tok, m->text.span + from, end - from, part, m->err))
        return false;
    *at = at_from + common_prefix(ids->id + at_from, ids->n - at_from, part->id, part->n);
    if (*at == at_from + part->n)
        return true;
    if (!encode_spans(m->tok, m->text.span, end, part, m->err) ||
        !tok_lead_bos(m->tok, part, 0, m->err))
        return false;
    *at = common_prefix(ids->id, ids->n, part->id, part->n);
    return true;
}

static uint64_t bytes_before(const struct chat_prompt *p, uint32_t span)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < span; i++)
        n += p->span[i].len;
    return n;
}

/* Finds where this prompt will differ from a later one that has an answer and another message after
 * it, because a template may then drop the reasoning. Any answer that is not empty will do. *at
 * comes in as the number of ids before the generation prompt. It stays so if earlier text changes
 * too. */
static bool later_prefix(struct making *m, uint32_t *at)
{
    static char assistant[] = "assistant", user[] = "user", some[] = "x";
    const struct hlm_ids *ids = &m->p->ids;
    struct chat_prompt later = { 0 };
    uint32_t n = m->history->n;
    struct chat_msg *all = mem_alloc(n + 2ull, sizeof *all);
    if (!all)
        return fail_memory(m->err, "out of memory for the prompt");
    if (n)
        memcpy(all, m->history->msg, n * sizeof *all);
    all[n] = (struct chat_msg){ .role = assistant,
                                .content = some,
                                .reasoning = m->p->in_think ? some : NULL };
    all[n + 1] = (struct chat_msg){ .role = user, .content = some };
    struct chat_input in = { .msg = all, .n = n + 2 };
    bool ok = chat_render(m->format, &in, false, false, &later, m->err);
    if (ok) {
        struct chat_cut was = m->text.cut[n], is = later.cut[n];
        uint64_t n_was = bytes_before(&m->text, was.begin), n_is = bytes_before(&later, is.begin);
        if (n_was == n_is && memcmp(m->text.text, later.text, (size_t)n_was) == 0) {
            uint32_t end = later.cut[n + 1].begin;
            ok = encode_spans(m->tok, later.span + is.begin, end - is.begin, &m->part, m->err);
            *at += common_prefix(ids->id + *at, ids->n - *at, m->part.id, m->part.n);
        }
    }
    chat_prompt_free(&later);
    free(all);
    return ok;
}

static void add_snap(struct talk_prompt *p, uint32_t at)
{
    if (!p->n_snap || at > p->snap[p->n_snap - 1])
        p->snap[p->n_snap++] = at;
}

/* Fills begin[] and snap[]. n_bos: ids before the text. */
static bool find_places(struct making *m, uint32_t n_bos)
{
    struct talk_prompt *p = m->p;
    uint32_t from = 0, at = n_bos, head, n_cut = m->text.n_cut;
    bool ok = true;
    p->begin = mem_alloc(n_cut, sizeof *p->begin);
    p->snap = mem_alloc(n_cut + 2ull, sizeof *p->snap);
    if (!p->begin || !p->snap)
        return fail_memory(m->err, "out of memory for the prompt");
    for (uint32_t i = 0; ok && i < n_cut; i++) {
        const struct chat_cut *c = &m->text.cut[i];
        ok = sure_ids(m, from, at, c->begin, &at);
        p->begin[p->n_msg++] = at;
        from = c->begin;
        ok = ok && sure_ids(m, from, at, c->text, &head);
        if (ok)
            add_snap(p, head);
    }
    ok = ok && later_prefix(m, &at);
    if (ok) {
        add_snap(p, at);
        add_snap(p, p->ids.n);
    }
    return ok;
}

bool talk_prompt_make(struct talk_prompt *p, struct tok *tok, const struct chat_format *format,
                      const struct chat_input *history, bool think, struct hlm_err *err)
{
    struct making m = { .p = p, .tok = tok, .format = format, .history = history, .err = err };
    talk_prompt_free(p);
    bool ok = chat_render(format, history, true, think, &m.text, err) &&
              encode_spans(tok, m.text.span, m.text.n_span, &p->ids, err);
    uint32_t n_raw = p->ids.n;
    p->in_think = m.text.in_think;
    ok = ok && tok_lead_bos(tok, &p->ids, 0, err) && find_places(&m, p->ids.n - n_raw);
    chat_prompt_free(&m.text);
    hlm_ids_free(&m.part);
    return ok;
}
