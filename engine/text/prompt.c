/* prompt: see prompt.h. */
#include "text/prompt.h"

#include <stdlib.h>
#include <string.h>

void chat_prompt_free(struct chat_prompt *p)
{
    free(p->text);
    free(p->span);
    free(p->cut);
    *p = (struct chat_prompt){ 0 };
}

struct prompt_builder prompt_begin(struct chat_prompt *out)
{
    *out = (struct chat_prompt){ 0 };
    return (struct prompt_builder){ .p = out };
}

bool prompt_end(struct prompt_builder *b)
{
    struct chat_prompt *p = b->p;
    if (!p->text && !b->full) /* an empty prompt has a text too */
        b->full = !(p->text = mem_alloc(1, 1));
    if (b->full) {
        chat_prompt_free(p);
        return false;
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < p->n_span; at += p->span[i++].len)
        p->span[i].text = p->text + at;
    return true;
}

/* Consecutive texts that are not from the template become one span. */
static bool joins(const struct chat_prompt *p, struct tok_span s)
{
    const struct tok_span *last = p->n_span ? &p->span[p->n_span - 1] : NULL;
    return last && !last->special && !last->ids && !s.special && !s.ids;
}

void prompt_span(struct prompt_builder *b, struct tok_span s)
{
    struct chat_prompt *p = b->p;
    if ((!s.len && !s.ids) || b->full)
        return;
    b->full = !mem_reserve(&p->span, p->n_span + 1ull, &b->span_cap, sizeof *p->span) ||
              !mem_reserve(&p->text, p->len + s.len + 1, &b->text_cap, 1);
    if (b->full)
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

void prompt_put(struct prompt_builder *b, const char *text)
{
    prompt_span(b, (struct tok_span){ .text = text, .len = strlen(text), .special = true });
}

void prompt_text(struct prompt_builder *b, struct hlm_str s)
{
    prompt_span(b, (struct tok_span){ .text = s.p, .len = s.n });
}

void prompt_begin_message(struct prompt_builder *b)
{
    b->p->cut[b->p->n_cut++].begin = b->p->n_span;
}

void prompt_end_header(struct prompt_builder *b) { b->p->cut[b->p->n_cut - 1].text = b->p->n_span; }
