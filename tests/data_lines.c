/* data_lines: see the header. */
#include "data_lines.h"

#include <stdio.h>

struct gguf *lines_vocab;
struct tok *lines_tok;

bool lines_open(void)
{
    struct hlm_err err = { 0 };
    test_case("a vocabulary for the tests of data");
    lines_vocab = gguf_open(fixture("train/qwen35/model.gguf"), &err);
    lines_tok = lines_vocab ? tok_create(lines_vocab, &err) : NULL;
    if (!CHECK_MSG(lines_tok, "%s", err.msg))
        lines_close();
    return lines_tok != NULL;
}

void lines_close(void)
{
    tok_destroy(lines_tok);
    gguf_close(lines_vocab);
    lines_tok = NULL;
    lines_vocab = NULL;
}

struct data_params lines_params(const char *format)
{
    struct data_params p = { .tok = lines_tok, .eos = data_eos(lines_vocab, lines_tok) };
    CHECK(chat_by_name(format, lines_vocab, &p.format));
    return p;
}

bool lines_parse(struct data_set *s, const char *lines, const struct data_params *p,
                 struct hlm_err *err)
{
    return data_parse(s, lines, strlen(lines), "some.jsonl", p, err);
}

void lines_marked(const struct data_set *s, char *to, size_t room)
{
    size_t n = 0;
    to[0] = 0;
#define ADD(p, len) n += (size_t)snprintf(to + n, room - n, "%.*s", (int)(len), p)
    for (uint32_t i = 0; i < s->n_doc; i++) {
        const struct data_doc *d = &s->doc[i];
        uint8_t was = 0;
        ADD("----\n", i ? 5 : 0);
        for (uint32_t k = 0; k <= d->n; k++) {
            uint8_t is = k < d->n ? s->mask[d->at + k] : 0;
            struct hlm_str t =
                k < d->n ? tok_bytes(lines_tok, s->ids[d->at + k]) : (struct hlm_str){ "", 0 };
            if (is != was)
                ADD(is ? "[[" : "]]", 2);
            ADD(t.p, t.n);
            was = is;
        }
    }
#undef ADD
    HLM_ASSERT(n < room);
}

void lines_check(const struct data_set *s, uint32_t max_seq)
{
    uint64_t at = 0, counted = 0;
    for (uint32_t i = 0; i < s->n_doc; i++) {
        const struct data_doc *d = &s->doc[i];
        uint32_t n = 0;
        CHECK_EQ(d->at, at);
        CHECK(d->n && (!max_seq || d->n <= max_seq) && !s->mask[d->at]);
        for (uint32_t k = 0; k < d->n; k++)
            n += s->mask[d->at + k];
        CHECK_EQ(n, d->n_counted);
        at += d->n;
        counted += n;
    }
    CHECK_EQ(s->n_id, at);
    CHECK_EQ(s->n_counted, counted);
}

void lines_file(const char *path, const char *text)
{
    struct hlm_err err = { 0 };
    CHECK_MSG(file_write_atomic(path, text, strlen(text), &err), "%s", err.msg);
}
