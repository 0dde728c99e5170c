/* vocab: the public calls on text. See hlm.h. */
#include "text/vocab.h"
#include "text/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening --------------------------------------------------------------------------------- */

struct hlm_vocab *vocab_of(struct gguf *file, const struct hlm_log *log, struct hlm_err *err)
{
    struct hlm_vocab *v = mem_alloc(1, sizeof *v);
    if (!v) {
        fail_memory(err, "%s: no memory for the vocabulary", gguf_path(file));
        return NULL;
    }
    v->file = file;
    v->log = log ? *log : (struct hlm_log){ 0 };
    v->tok = tok_create(file, &v->tok_err);
    v->format = chat_detect(file, &v->known);
    return v;
}

hlm_vocab *hlm_vocab_open(const char *path, const struct hlm_log *log, struct hlm_err *err)
{
    api_begin(log, err);
    struct gguf *file = gguf_open(path, err);
    struct hlm_vocab *v = file ? vocab_of(file, log, err) : NULL;
    if (v)
        v->owns_file = true;
    else
        gguf_close(file);
    return v;
}

void hlm_vocab_close(hlm_vocab *v)
{
    if (!v)
        return;
    tok_destroy(v->tok);
    if (v->owns_file)
        gguf_close(v->file);
    free(v);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

bool hlm_tokenize(hlm_vocab *v, const char *text, uint64_t n, bool special, struct hlm_ids *out,
                  struct hlm_err *err)
{
    api_begin(&v->log, err);
    return v->tok ? tok_encode_text(v->tok, text, n, special, out, err)
                  : fail_from(err, &v->tok_err, "");
}

bool hlm_add_bos(hlm_vocab *v, struct hlm_ids *out, struct hlm_err *err)
{
    api_begin(&v->log, err);
    return v->tok ? tok_lead_bos(v->tok, out, out->n, err) : fail_from(err, &v->tok_err, "");
}

struct hlm_str hlm_token_text(const hlm_vocab *v, int32_t id)
{
    return v->tok ? tok_bytes(v->tok, id) : (struct hlm_str){ "", 0 };
}

uint32_t hlm_n_vocab(const hlm_vocab *v) { return v->tok ? tok_n_vocab(v->tok) : 0; }

int32_t hlm_find_token(const hlm_vocab *v, const char *text)
{
    return v->tok ? tok_find(v->tok, text) : -1;
}

bool hlm_is_end(const hlm_vocab *v, int32_t id) { return v->tok && tok_is_eog(v->tok, id); }

bool hlm_is_control(const hlm_vocab *v, int32_t id) { return v->tok && tok_is_special(v->tok, id); }

/* ---- chat formats ---------------------------------------------------------------------------- */

bool hlm_is_chat_format(const char *name)
{
    struct chat_format format;
    return chat_by_name(name, NULL, &format);
}

const char *hlm_chat_format(const hlm_vocab *v, bool *known)
{
    if (known)
        *known = v->known;
    return v->format.name;
}

bool vocab_format(const struct hlm_vocab *v, const char *name, struct chat_format *format,
                  struct hlm_err *err)
{
    if (name)
        return chat_by_name(name, v->file, format) ||
               fail(err, "unknown chat format \"%s\", expected one of " HLM_CHAT_FORMATS,
                    show_text(name, strlen(name), 40).s);
    *format = v->format;
    return true;
}

/* Rendered messages, with everything that the prompt points into. */
struct rendered {
    struct chat_msg *msg;
    struct json_t *tools;
    struct chat_prompt prompt;
    uint32_t n_msg;
};

static void rendered_free(struct rendered *r)
{
    chat_prompt_free(&r->prompt);
    chat_free(r->msg, r->n_msg, r->tools);
}

/* *r must be freed even when this returns false. */
static bool render(const struct hlm_vocab *v, const struct hlm_render_params *p, struct rendered *r,
                   struct hlm_err *err)
{
    const char *name = p->name ? p->name : "messages";
    struct chat_format format;
    struct hlm_err why = { 0 };
    char where[164];
    *r = (struct rendered){ 0 };
    if (!vocab_format(v, p->format, &format, err) ||
        !(r->msg = chat_from_json((struct hlm_str){ p->json, p->n }, &format, name, &r->n_msg,
                                  &r->tools, err)))
        return false;
    struct chat_input in = { .msg = r->msg, .n = r->n_msg, .tools = r->tools };
    if (chat_render(&format, &in, !p->no_prompt, !p->no_think, &r->prompt, &why))
        return true;
    snprintf(where, sizeof where, "%.160s: ", name);
    return fail_from(err, &why, where);
}

char *hlm_render(hlm_vocab *v, const struct hlm_render_params *p, uint64_t *n, struct hlm_err *err)
{
    struct rendered r;
    char *text = NULL;
    api_begin(&v->log, err);
    if (render(v, p, &r, err)) {
        text = r.prompt.text;
        if (n)
            *n = r.prompt.len;
        r.prompt.text = NULL;
    }
    rendered_free(&r);
    return text;
}

bool hlm_render_ids(hlm_vocab *v, const struct hlm_render_params *p, struct hlm_ids *out,
                    struct hlm_err *err)
{
    struct rendered r;
    uint32_t at = out->n;
    api_begin(&v->log, err);
    if (!v->tok)
        return fail_from(err, &v->tok_err, "");
    bool ok = render(v, p, &r, err) &&
              tok_encode(v->tok, r.prompt.span, r.prompt.n_span, out, err) &&
              tok_lead_bos(v->tok, out, at, err);
    rendered_free(&r);
    return ok;
}
