/* chat_prompt: see chat_prompt.h. */
#include "chat_prompt.h"

#include <stdlib.h>
#include <string.h>

void prompt_free(struct prompt *p)
{
    hlm_ids_free(&p->ids);
    free(p->begin);
    free(p->snap);
    *p = (struct prompt){ 0 };
}

uint32_t prompt_msg_at(const struct prompt *p, uint32_t at)
{
    uint32_t i = p->n_msg;
    while (i > 1 && p->begin[i - 1] > at)
        i--;
    return i ? i - 1 : 0;
}

uint32_t common_prefix(const int32_t *a, uint32_t n_a, const int32_t *b, uint32_t n_b)
{
    uint32_t i = 0;
    while (i < n_a && i < n_b && a[i] == b[i])
        i++;
    return i;
}

/* ---- ids ------------------------------------------------------------------------------------- */

static bool encode(struct tok *tok, const struct tok_span *span, uint32_t n, struct hlm_ids *out,
                   struct hlm_err *err)
{
    out->n = 0;
    return tok_encode(tok, span, n, out, err);
}

/* In front of the ids, where the file asks for one and the template has not printed it. */
static bool add_bos(struct tok *tok, struct hlm_ids *ids, struct hlm_err *err)
{
    int32_t bos;
    if (!tok_add_bos(tok, &bos) || (ids->n && ids->id[0] == bos))
        return true;
    if (!tok_ids_push(ids, &bos, 1, err))
        return false;
    memmove(ids->id + 1, ids->id, (ids->n - 1) * sizeof *ids->id);
    ids->id[0] = bos;
    return true;
}

/* ---- places ---------------------------------------------------------------------------------- */

/* How many ids of the prompt spans [0, end) make whatever follows them, knowing that spans
 * [0, from) make at_from. A part of a text may tokenise otherwise than inside the whole; what they
 * share is safe. Control tokens cut a text, so that mostly the part behind `from` alone tells. */
static bool place(const struct prompt *p, struct tok *tok, const struct chat_prompt *text,
                  uint32_t from, uint32_t at_from, uint32_t end, struct hlm_ids *part, uint32_t *at,
                  struct hlm_err *err)
{
    if (!encode(tok, text->span + from, end - from, part, err))
        return false;
    *at = at_from + common_prefix(p->ids.id + at_from, p->ids.n - at_from, part->id, part->n);
    if (*at == at_from + part->n)
        return true;
    if (!encode(tok, text->span, end, part, err) || !add_bos(tok, part, err))
        return false;
    *at = common_prefix(p->ids.id, p->ids.n, part->id, part->n);
    return true;
}

static uint64_t bytes_before(const struct chat_prompt *p, uint32_t span)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < span; i++)
        n += p->span[i].len;
    return n;
}

/* Where this prompt parts from its later self with an answer and another message behind it: a
 * template may leave out the reasoning then. Nothing of the answer is known yet but that it is not
 * empty. `at`: ids before the generation prompt; left alone if what is before it changes too. */
static bool part_later(const struct prompt *p, struct tok *tok, const struct chat_format *format,
                       const struct chat_msg *msg, uint32_t n_msg, const struct chat_prompt *now,
                       struct hlm_ids *part, uint32_t *at, struct hlm_err *err)
{
    static char assistant[] = "assistant", user[] = "user", some[] = "x";
    struct chat_prompt later = { 0 };
    struct chat_msg *all = mem_alloc(n_msg + 2ull, sizeof *all);
    if (!all)
        return fail(err, "out of memory for the prompt");
    if (n_msg)
        memcpy(all, msg, n_msg * sizeof *msg);
    all[n_msg] = (struct chat_msg){ .role = assistant,
                                    .content = some,
                                    .reasoning = p->in_think ? some : NULL };
    all[n_msg + 1] = (struct chat_msg){ .role = user, .content = some };
    struct chat_input in = { .msg = all, .n = n_msg + 2 };
    bool ok = chat_render(format, &in, false, false, &later, err);
    if (ok) {
        struct chat_cut was = now->cut[n_msg], is = later.cut[n_msg];
        uint64_t n_was = bytes_before(now, was.begin), n_is = bytes_before(&later, is.begin);
        if (n_was == n_is && memcmp(now->text, later.text, (size_t)n_was) == 0) {
            uint32_t end = later.cut[n_msg + 1].begin;
            ok = encode(tok, later.span + is.begin, end - is.begin, part, err);
            *at += common_prefix(p->ids.id + *at, p->ids.n - *at, part->id, part->n);
        }
    }
    chat_prompt_free(&later);
    free(all);
    return ok;
}

static void add_snap(struct prompt *p, uint32_t at)
{
    if (!p->n_snap || at > p->snap[p->n_snap - 1])
        p->snap[p->n_snap++] = at;
}

static bool find_places(struct prompt *p, struct tok *tok, const struct chat_format *format,
                        const struct chat_msg *msg, uint32_t n_msg, const struct chat_prompt *text,
                        uint32_t n_bos, struct hlm_err *err)
{
    struct hlm_ids part = { 0 };
    uint32_t from = 0, at = n_bos, head, n_cut = text->n_cut;
    bool ok = true;
    p->begin = mem_alloc(n_cut, sizeof *p->begin);
    p->snap = mem_alloc(n_cut + 2ull, sizeof *p->snap);
    if (!p->begin || !p->snap)
        return fail(err, "out of memory for the prompt");
    for (uint32_t i = 0; ok && i < n_cut; i++) {
        const struct chat_cut *c = &text->cut[i];
        ok = place(p, tok, text, from, at, c->begin, &part, &at, err);
        p->begin[p->n_msg++] = at;
        from = c->begin;
        ok = ok && place(p, tok, text, from, at, c->text, &part, &head, err);
        if (ok)
            add_snap(p, head);
    }
    ok = ok && part_later(p, tok, format, msg, n_msg, text, &part, &at, err);
    if (ok) {
        add_snap(p, at);
        add_snap(p, p->ids.n);
    }
    hlm_ids_free(&part);
    return ok;
}

bool prompt_make(struct prompt *p, struct tok *tok, const struct chat_format *format,
                 const struct chat_msg *msg, uint32_t n_msg, bool think, struct hlm_err *err)
{
    struct chat_prompt text = { 0 };
    prompt_free(p);
    struct chat_input in = { .msg = msg, .n = n_msg };
    bool ok = chat_render(format, &in, true, think, &text, err) &&
              encode(tok, text.span, text.n_span, &p->ids, err);
    uint32_t n_raw = p->ids.n;
    p->in_think = text.in_think;
    ok = ok && add_bos(tok, &p->ids, err) &&
         find_places(p, tok, format, msg, n_msg, &text, p->ids.n - n_raw, err);
    chat_prompt_free(&text);
    return ok;
}
