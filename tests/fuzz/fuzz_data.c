/* fuzz_data: libFuzzer harness of training data: two letters that choose options and chat format,
 * then JSONL, a JSON list or CSV, which is also read as a file of training rows. `make fuzz` runs
 * it for long, test_fuzz.c on tests/corpus/data. */
#include "train/data.h"
#include "gguf_build.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { N_VOCAB = 256 + 6 };

/* A vocabulary of all bytes, in the letters that stand for bytes in such files, and six control
 * tokens. */
static struct tok *make_tok(void)
{
    static const char *const special[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                           "<think>",       "</think>",     "<|x|>" };
    static char text[256][3];
    struct hlm_str tokens[N_VOCAB], merge = { "t h", 3 };
    int32_t type[N_VOCAB];
    uint32_t other = 256;
    for (uint32_t i = 0; i < 256; i++) {
        bool own = (i > 32 && i < 127) || (i > 160 && i != 173);
        uint32_t c = own ? i : other++;
        text[i][0] = c < 128 ? (char)c : (char)(0xc0 | c >> 6);
        text[i][1] = c < 128 ? 0 : (char)(0x80 | (c & 63));
        tokens[i] = (struct hlm_str){ text[i], c < 128 ? 1 : 2 };
        type[i] = 1;
    }
    for (uint32_t i = 0; i < ARRAY_LEN(special); i++) {
        tokens[256 + i] = (struct hlm_str){ special[i], strlen(special[i]) };
        type[256 + i] = 3;
    }
    tokens[N_VOCAB - 1] = (struct hlm_str){ "th", 2 };
    type[N_VOCAB - 1] = 1;
    struct gguf_build *b = gb_new();
    uint64_t n;
    gb_str(b, "tokenizer.ggml.model", "gpt2");
    gb_str(b, "tokenizer.ggml.pre", "qwen2");
    gb_strs(b, "tokenizer.ggml.tokens", N_VOCAB, tokens);
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, N_VOCAB, type);
    gb_strs(b, "tokenizer.ggml.merges", 1, &merge);
    gb_u32(b, "tokenizer.ggml.eos_token_id", 256);
    uint8_t *bytes = gb_bytes(b, &n);
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_parse(bytes, n, "fuzz.gguf", &err);
    struct tok *t = g ? tok_create(g, &err) : NULL;
    HLM_ASSERT(t && data_eos(g, t) == 256 && data_pad(g, t) == 256);
    gguf_close(g);
    free(bytes);
    gb_free(b);
    return t;
}

static void check_set(const struct data_set *s, uint32_t max_seq)
{
    uint64_t at = 0, counted = 0;
    for (uint32_t i = 0; i < s->n_doc; i++) {
        const struct data_doc *d = &s->doc[i];
        uint32_t n = 0;
        HLM_ASSERT(d->at == at && d->n && (!max_seq || d->n <= max_seq) && !s->mask[at]);
        for (uint32_t k = 0; k < d->n; k++, at++) {
            HLM_ASSERT(s->ids[at] >= 0 && s->ids[at] < N_VOCAB && s->mask[at] <= 1);
            n += s->mask[at];
        }
        HLM_ASSERT(n == d->n_counted);
        counted += n;
    }
    HLM_ASSERT(at == s->n_id && counted == s->n_counted);
}

static bool is_one_line(const struct hlm_err *err, const char *name)
{
    return err->kind && !strncmp(err->msg, name, strlen(name)) && !strchr(err->msg, '\n');
}

/* Training rows that are written and read again give the same text. */
static void round_trip(const struct data_rows *r)
{
    uint64_t n = 0, n_again = 0;
    struct hlm_train_options o = data_options_default(), back;
    struct data_rows again;
    bool has = false;
    char *text = data_dump_text(r, &o, "fuzz", "text", &n, NULL);
    HLM_ASSERT(text && data_read_text(text, n, "rows", N_VOCAB, &again, &back, &has, NULL) && has);
    char *same = data_dump_text(&again, &back, "fuzz", "text", &n_again, NULL);
    HLM_ASSERT(same && n == n_again && !memcmp(text, same, n));
    data_rows_free(&again);
    free(same);
    free(text);
}

static void rows_of(const struct data_set *s, uint32_t row_length)
{
    struct data_rows r;
    uint64_t n = 0;
    if (!data_pack(&r, s, NULL, row_length, 256, NULL))
        return;
    for (uint32_t i = 0; i < r.n_row; i++)
        n += r.row[i].n - r.row[i].padding;
    HLM_ASSERT(n == s->n_id && r.n_counted == s->n_counted);
    if (r.n_row)
        round_trip(&r);
    data_rows_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const names[] = { "chatml", "qwen3", "qwen35", "nemotron", "step" };
    static struct tok *tok;
    struct data_params p = { .eos = 256 };
    struct data_set s;
    struct hlm_err err = { 0 };
    if (n < 2)
        return 0;
    tok = tok ? tok : make_tok();
    p.tok = tok;
    p.loss_all = bytes[0] & 1;
    p.turns_each = bytes[0] & 2;
    p.raw_completion = bytes[0] & 4;
    p.no_eos = bytes[0] & 8;
    p.skip_bad = bytes[0] & 16;
    const char *name = bytes[0] & 32 ? "fuzz.csv" : "fuzz.jsonl";
    p.max_seq = bytes[1] / ARRAY_LEN(names) % 8 * 6;
    HLM_ASSERT(chat_by_name(names[bytes[1] % ARRAY_LEN(names)], NULL, &p.format));
    if (data_parse(&s, (const char *)bytes + 2, n - 2, name, &p, &err)) {
        check_set(&s, p.max_seq);
        rows_of(&s, 0);
        rows_of(&s, p.max_seq ? p.max_seq : 500);
    } else {
        HLM_ASSERT(is_one_line(&err, name) && !s.ids && !s.doc);
    }
    data_set_free(&s);

    struct data_rows r;
    struct hlm_train_options o;
    bool has;
    err = (struct hlm_err){ 0 };
    if (data_read_text((const char *)bytes + 2, n - 2, "rows.json", N_VOCAB, &r, &o, &has, &err))
        round_trip(&r);
    else
        HLM_ASSERT(is_one_line(&err, "rows.json: ") && !r.row);
    data_rows_free(&r);
    return 0;
}
