/* test_tok: the tokenizer compared with what Hugging Face makes of the same text, and hostile files
 * and texts. */
#include "text/tok.h"
#include "gguf_build.h"
#include "json.h"

#include <stdio.h>

static const char *const kinds[] = { "qwen2", "qwen35", "llama3", "tekken", "deepseek-v3" };

static struct tok *open_tok(const char *path, struct hlm_err *err)
{
    struct gguf *g = gguf_open(path, err);
    struct tok *t = g ? tok_create(g, err) : NULL;
    gguf_close(g);
    return t;
}

/* ---- the fixtures' cases --------------------------------------------------------------------- */

static bool encode_split(struct tok *t, const char *text, uint64_t n, struct rng *rng,
                         struct hlm_ids *out)
{
    struct tok_span span[8];
    uint32_t n_span = 0;
    for (uint64_t at = 0; at < n;) {
        uint64_t len = n_span == ARRAY_LEN(span) - 1 ? n - at : rng_u64(rng) % (n - at + 1);
        span[n_span++] = (struct tok_span){ .text = text + at, .len = len, .special = true };
        at += len;
        if (n_span == ARRAY_LEN(span))
            break;
    }
    return tok_encode(t, span, n_span, out, NULL);
}

static void check_decoded(struct tok *t, const struct hlm_ids *ids, const char *want,
                          uint64_t n_want)
{
    uint64_t at = 0;
    bool equal = true;
    for (uint32_t i = 0; i < ids->n && equal; i++) {
        struct hlm_str s = tok_bytes(t, ids->id[i]);
        equal = s.n <= n_want - at && !memcmp(s.p, want + at, s.n);
        at += s.n;
    }
    CHECK_MSG(equal && at == n_want, "decoded text differs at byte %llu: %s",
              (unsigned long long)at, want);
}

static void test_case_of(struct tok *t, const json_t *c, bool tekken, struct rng *rng)
{
    const char *text = json_string_value(json_object_get(c, "text"));
    uint64_t n = json_string_length(json_object_get(c, "text"));
    const json_t *want = json_object_get(c, "ids"),
                 *plain = json_object_get(c, "llama_ids_no_special_parsing");
    const json_t *decoded = json_object_get(c, "decoded");
    struct hlm_ids ids = { 0 };
    CHECK(tok_encode_text(t, text, n, true, &ids, NULL));
    CHECK_MSG(json_ids_equal(want, ids.id, ids.n), "ids of \"%s\" differ", text);
    check_decoded(t, &ids, json_string_value(decoded), json_string_length(decoded));
    for (int i = 0; i < 8; i++) {
        ids.n = 0;
        CHECK(encode_split(t, text, n, rng, &ids));
        CHECK_MSG(json_ids_equal(want, ids.id, ids.n),
                  "ids of \"%s\" differ when it comes in spans", text);
    }
    /* llama.cpp has no NFC and another splitter for tekken; elsewhere its ids are a second
     * reference. */
    if (plain && !tekken && !json_object_get(c, "ids_without_nfc")) {
        ids.n = 0;
        CHECK(tok_encode_text(t, text, n, false, &ids, NULL));
        CHECK_MSG(json_ids_equal(plain, ids.id, ids.n),
                  "ids of \"%s\" differ without special tokens", text);
    }
    hlm_ids_free(&ids);
}

static void test_kind(const char *kind)
{
    struct rng rng = { 7 };
    struct hlm_err err = { 0 };
    test_case("%s: all cases of the fixture", kind);
    struct tok *t = open_tok(fixture("tokenizer/%s/vocab.gguf", kind), &err);
    char path[64];
    snprintf(path, sizeof path, "tokenizer/%s/cases.json", kind);
    json_t *j = fixture_json(path);
    const json_t *cases = json_object_get(j, "cases");
    if (CHECK_MSG(t, "%s", err.msg) && CHECK(json_array_size(cases) >= 200)) {
        CHECK_EQ(tok_n_vocab(t), json_integer_value(json_object_get(j, "rows")));
        for (size_t i = 0; i < json_array_size(cases); i++)
            test_case_of(t, json_array_get(cases, i), !strcmp(kind, "tekken"), &rng);
    }
    json_decref(j);
    tok_destroy(t);
}

/* ---- what a token is ------------------------------------------------------------------------- */

static void test_properties(struct tok *t)
{
    test_case("kinds of tokens");
    int32_t im_end = tok_find(t, "<|im_end|>"), think = tok_find(t, "<think>"), bos;
    int32_t last = (int32_t)tok_n_vocab(t) - 1;
    CHECK(im_end >= 0 && tok_is_eog(t, im_end) && tok_is_special(t, im_end) &&
          !tok_is_unused(t, im_end));
    CHECK(tok_is_eog(t, tok_find(t, "<|endoftext|>")));
    CHECK(think >= 0 && !tok_is_eog(t, think) && !tok_is_special(t, think));
    CHECK(!tok_is_eog(t, tok_find(t, "<|im_start|>")) &&
          tok_is_special(t, tok_find(t, "<|im_start|>")));
    CHECK(tok_is_unused(t, last) && tok_bytes(t, last).n == 0);
    CHECK(tok_bytes(t, -1).n == 0 && tok_bytes(t, last + 1).n == 0 && !tok_is_eog(t, -1) &&
          !tok_is_eog(t, last + 1));
    CHECK_EQ(tok_find(t, "no such token"), -1);
    CHECK_EQ(tok_find(t, ""), -1);
    CHECK(!tok_add_bos(t, &bos));
}

/* The tokens that end a turn, by key and by text, and the bos of each kind of tokenizer when the
 * file has no key. */
/* The control tokens of a template with other types than control; text may look like them. */
static void test_control_types(void)
{
    static const struct {
        const char *text;
        int32_t type;
        bool control;
    } added[] = {
        { "<|im_start|>", 1, true },
        { "<|im_end|>", 4, true },
        { "<|endoftext|>", 3, true },
        { "<think>", 4, false },
        { "<br>", 1, false },
        { "<fim>", 1, true },                /* eot */
        { "<|start_header_id|>", 5, false }, /* unused */
    };
    struct hlm_str token[300];
    int32_t type[300];
    char bytes[256][2];
    uint32_t n = 0;
    for (; n < ARRAY_LEN(added); n++) {
        token[n] = (struct hlm_str){ added[n].text, strlen(added[n].text) };
        type[n] = added[n].type;
    }
    for (uint32_t c = 33; c < 127; c++, n++) {
        bytes[c][0] = (char)c;
        token[n] = (struct hlm_str){ bytes[c], 1 };
        type[n] = 1;
    }
    struct gguf_build *b = gb_new();
    struct hlm_err err = { 0 };
    uint64_t n_bytes;
    gb_str(b, "tokenizer.ggml.model", "gpt2");
    gb_str(b, "tokenizer.ggml.pre", "qwen35");
    gb_strs(b, "tokenizer.ggml.tokens", n, token);
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, n, type);
    gb_strs(b, "tokenizer.ggml.merges", 0, NULL);
    gb_u32(b, "tokenizer.ggml.eos_token_id", 1);
    gb_u32(b, "tokenizer.ggml.eot_token_id", 5);
    uint8_t *file = gb_bytes(b, &n_bytes);
    struct gguf *g = gguf_parse(file, n_bytes, "types.gguf", &err);
    struct tok *t = g ? tok_create(g, &err) : NULL;
    test_case("control tokens that are stored with another type");
    if (CHECK_MSG(t, "%s", err.msg)) {
        struct hlm_ids ids = { 0 };
        for (uint32_t i = 0; i < ARRAY_LEN(added); i++)
            CHECK_MSG(tok_is_special(t, (int32_t)i) == added[i].control, "%s", added[i].text);
        CHECK(tok_is_eog(t, 1) && tok_is_eog(t, 5));
        CHECK(tok_encode_text(t, "<|im_start|>a<|im_end|>", 23, true, &ids, &err) && ids.n == 3);
        ids.n = 0; /* the same as text of a person */
        CHECK(tok_encode_text(t, "<|im_start|>a<|im_end|>", 23, false, &ids, &err) && ids.n == 23);
        hlm_ids_free(&ids);
    }
    tok_destroy(t);
    gguf_close(g);
    free(file);
    gb_free(b);
}

static void test_families(void)
{
    static const char add_bos[] = "tokenizer.ggml.add_bos_token";
    static const struct {
        const char *what, *pre, *end[3]; /* ends of turns; the first is that of the eos key */
        bool adds_bos;
    } row[] = {
        { "Nemotron 3", "pixtral", { "<|im_end|>", "</s>" }, true },
        { "Step 3.5",
          "deepseek-v3",
          { "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<|im_end|>" },
          false },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hlm_str token[260] = { { "<s>", 3 } };
        int32_t type[260] = { 3 }, bos;
        char bytes[256][3];
        uint32_t n = 1, n_end = 0;
        for (; n_end < 3 && row[i].end[n_end]; n_end++, n++)
            token[n] = (struct hlm_str){ row[i].end[n_end], strlen(row[i].end[n_end]) };
        for (uint32_t c = 'a'; c <= 'z'; c++, n++)
            token[n] = (struct hlm_str){ memcpy(bytes[c], (char[]){ (char)c, 0 }, 2), 1 };
        for (uint32_t k = 1; k < n; k++)
            type[k] = k <= n_end ? 3 : 1;
        struct gguf_build *b = gb_new();
        gb_str(b, "tokenizer.ggml.model", "gpt2");
        gb_str(b, "tokenizer.ggml.pre", row[i].pre);
        gb_strs(b, "tokenizer.ggml.tokens", n, token);
        gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, n, type);
        gb_strs(b, "tokenizer.ggml.merges", 0, NULL);
        gb_u32(b, "tokenizer.ggml.bos_token_id", 0);
        gb_u32(b, "tokenizer.ggml.eos_token_id", 1);
        for (int key = -1; key < 2; key++) {
            struct hlm_err err = { 0 };
            uint64_t n_bytes;
            test_case("%s: ends of a turn; add_bos_token %s", row[i].what,
                      key < 0 ? "absent"
                      : key   ? "true"
                              : "false");
            if (key >= 0)
                gb_bool(b, add_bos, key);
            uint8_t *file = gb_bytes(b, &n_bytes);
            struct gguf *g = gguf_parse(file, n_bytes, "family.gguf", &err);
            struct tok *t = g ? tok_create(g, &err) : NULL;
            if (CHECK_MSG(t, "%s", err.msg)) {
                for (uint32_t k = 0; k < n; k++)
                    CHECK_EQ(tok_is_eog(t, (int32_t)k), k && k <= n_end);
                CHECK_EQ(tok_add_bos(t, &bos), key < 0 ? row[i].adds_bos : key);
                CHECK_EQ(bos, 0);
            }
            tok_destroy(t);
            gguf_close(g);
            free(file);
        }
        gb_free(b);
    }
}

static void test_spans(struct tok *t)
{
    test_case("spans: a person's text makes no control token, ids go in as they are");
    int32_t start = tok_find(t, "<|im_start|>"), end = tok_find(t, "<|im_end|>"),
            own[] = { 5, end, 6 };
    struct tok_span span[] = {
        { "<|im_start|>", 12, true, NULL, 0 }, { "a<|im_end|><think>", 18, false, NULL, 0 },
        { "not looked at", 13, true, own, 3 }, { "<|im_", 5, false, NULL, 0 },
        { "end|>", 5, true, NULL, 0 },         { "<|im_end|>", 10, true, NULL, 0 },
    };
    struct hlm_ids ids = { 0 };
    CHECK(tok_encode(t, span, ARRAY_LEN(span), &ids, NULL));
    uint32_t n_start = 0, n_end = 0, n_think = 0, at = 0;
    for (uint32_t i = 0; i < ids.n; i++) {
        n_start += ids.id[i] == start;
        n_end += ids.id[i] == end;
        n_think += ids.id[i] == tok_find(t, "<think>");
        if (i + 3 <= ids.n && !memcmp(ids.id + i, own, sizeof own))
            at = i;
    }
    CHECK_EQ(ids.id[0], start);
    CHECK_EQ(n_start, 1);
    CHECK_EQ(n_end, 2);
    CHECK_EQ(n_think, 1);
    CHECK(at > 0);
    hlm_ids_free(&ids);
}

/* Any bytes come back from their tokens unchanged, including characters that are cut off at the
 * end. */
static void test_bytes(struct tok *t, struct rng *rng)
{
    test_case("any bytes survive");
    for (int round = 0; round < 2000; round++) {
        char text[40];
        uint64_t n = rng_u64(rng) % sizeof text;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t r = rng_u64(rng);
            text[i] =
                r & 0x100 ? "\xe6\xbc\xa2\xf0\x9f\x91\x8d <|\xff\xed\xa0\xc3 a"[r % 16] : (char)r;
        }
        struct hlm_ids ids = { 0 };
        CHECK(tok_encode_text(t, text, n, round & 1, &ids, NULL));
        check_decoded(t, &ids, text, n);
        hlm_ids_free(&ids);
    }
}

static void test_utf8_out(void)
{
    test_case("streaming UTF-8: whole characters over every split");
    static const char in[] = "aé漢👍\xff\xe6\xbc"
                             "b\xf0\x9f\x91\xc3\xa9\xed\xa0\x80\xc0\xaf\xf4\x90\xe2\x82";
    static const char want[] =
        "aé漢👍\ufffd\ufffdb\ufffdé\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd";
    const uint64_t n = sizeof in - 1;
    for (uint64_t a = 0; a <= n; a++)
        for (uint64_t b = a; b <= n; b++) {
            const uint64_t cut[] = { 0, a, b, n };
            struct hlm_utf8 u = { 0 };
            char out[3 * sizeof in + 12];
            uint64_t n_out = 0;
            for (int i = 0; i < 3; i++) {
                struct hlm_str s = { in + cut[i], cut[i + 1] - cut[i] };
                n_out += hlm_utf8_write(&u, s, i == 2, out + n_out);
                CHECK_MSG(!n_out || memcmp(out, want, n_out) == 0, "split at %llu and %llu",
                          (unsigned long long)a, (unsigned long long)b);
                CHECK(n_out == sizeof want - 1 || ((uint8_t)want[n_out] & 0xc0) != 0x80);
            }
            CHECK_EQ(n_out, sizeof want - 1);
            CHECK_EQ(u.n, 0);
        }
}

/* ---- files that mean harm -------------------------------------------------------------------- */

/* tok_create() must refuse the file with these parts. */
static void vocab_refused(struct gguf_build *b, const char *says)
{
    uint64_t n;
    uint8_t *bytes = gb_bytes(b, &n);
    struct hlm_err err = { 0 };
    test_case("vocabulary refused: %s", says);
    struct gguf *g = gguf_parse(bytes, n, "hostile.gguf", &err);
    if (CHECK_MSG(g, "%s", err.msg))
        CHECK_REFUSED(tok_create(g, &err), err, says);
    CHECK_SAYS(err.msg, "hostile.gguf");
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

#define STR(s)                                                                                     \
    {                                                                                              \
        (s), sizeof(s) - 1                                                                         \
    }

static struct gguf_build *vocab(void)
{
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture("tokenizer/qwen2/vocab.gguf"), &err);
    CHECK_MSG(b, "%s", err.msg);
    return b ? b : gb_new();
}

static void refused_str(const char *key, const char *value, const char *says)
{
    struct gguf_build *b = vocab();
    gb_str(b, key, value);
    vocab_refused(b, says);
}

static void refused_strs(const char *key, uint64_t n, const struct hlm_str *values,
                         const char *says)
{
    struct gguf_build *b = vocab();
    gb_strs(b, key, n, values);
    vocab_refused(b, says);
}

static void refused_without(const char *key)
{
    struct gguf_build *b = vocab();
    gb_drop_key(b, key);
    vocab_refused(b, key);
}

static void test_hostile(void)
{
    const char *tokens = "tokenizer.ggml.tokens", *merges = "tokenizer.ggml.merges",
               *type = "tokenizer.ggml.token_type";
    struct hlm_str pair = STR("a b"), no_space = STR("ab"), only_space = STR("a "), empty = STR(""),
                   odd = STR("zzzq\n \x1b[2J");
    struct gguf_build *b;
    int32_t types[1512];

    refused_str("tokenizer.ggml.pre", "gpt-2", "tokenizer.ggml.pre|gpt-2|qwen2|qwen35|pixtral");
    refused_str("tokenizer.ggml.pre", "qwen2 ", "tokenizer.ggml.pre|\"qwen2 \"");
    refused_str("tokenizer.ggml.model", "llama", "tokenizer.ggml.model|llama|gpt2");
    refused_without(tokens);
    refused_without(merges);
    refused_without("tokenizer.ggml.model");
    refused_strs(tokens, 0, NULL, "empty");
    refused_strs(tokens, 1, &pair, "1 tokens");
    refused_str(tokens, "x", "tokenizer.ggml.tokens|array of strings");
    refused_str(merges, "x", "tokenizer.ggml.merges|array of strings");
    refused_strs(merges, 1, &no_space, "tokenizer.ggml.merges|entry 0|pair");
    refused_strs(merges, 1, &only_space, "tokenizer.ggml.merges|entry 0|pair");
    refused_strs(merges, 1, &empty, "tokenizer.ggml.merges|entry 0|pair");
    refused_strs(merges, 1, &odd, "tokenizer.ggml.merges|entry 0|zzzq? ?[2J|token");

    b = vocab();
    gb_u32(b, "tokenizer.ggml.eos_token_id", 1512);
    vocab_refused(b, "tokenizer.ggml.eos_token_id|1512|1512");
    b = vocab();
    gb_u32(b, "tokenizer.ggml.bos_token_id", UINT32_MAX);
    vocab_refused(b, "tokenizer.ggml.bos_token_id|4294967295");
    b = vocab();
    gb_str(b, "tokenizer.ggml.eot_token_id", "x");
    vocab_refused(b, "tokenizer.ggml.eot_token_id");

    for (uint32_t i = 0; i < ARRAY_LEN(types); i++)
        types[i] = i == 77 ? 9 : 1;
    b = vocab();
    gb_array(b, type, GGUF_I32, ARRAY_LEN(types), types);
    vocab_refused(b, "token 77|type 9");
    types[77] = 0;
    b = vocab();
    gb_array(b, type, GGUF_I32, ARRAY_LEN(types), types);
    vocab_refused(b, "token 77|type 0");
    b = vocab();
    gb_array(b, type, GGUF_I32, 1511, types);
    vocab_refused(b, "1511|1512");
    b = vocab();
    gb_array(b, type, GGUF_U8, ARRAY_LEN(types), types);
    vocab_refused(b, "tokenizer.ggml.token_type|array of 32-bit integers");

    char longest[300];
    memset(longest, 'x', sizeof longest);
    struct hlm_str long_token[] = { { longest, sizeof longest } };
    int32_t user = 4;
    b = vocab();
    gb_strs(b, tokens, 1, long_token);
    gb_array(b, type, GGUF_I32, 1, &user);
    gb_strs(b, merges, 0, NULL);
    gb_drop_key(b, "tokenizer.ggml.bos_token_id");
    gb_drop_key(b, "tokenizer.ggml.eos_token_id");
    gb_drop_key(b, "tokenizer.ggml.padding_token_id");
    vocab_refused(b, "token 0|300 bytes");
}

/* ---- size and time --------------------------------------------------------------------------- */

enum { BIG_TOKENS = 248320, MEGABYTE = 1 << 20 };

/* A vocabulary as large as that of Qwen3.5: all bytes, and pairs and triples of printable ones. */
static struct gguf_build *big_vocab(void)
{
    struct hlm_str *tok = mem_alloc(BIG_TOKENS, sizeof *tok),
                   *merge = mem_alloc(BIG_TOKENS, sizeof *merge);
    char *text = mem_alloc(BIG_TOKENS, 32), *end = text;
    int32_t *type = mem_alloc(BIG_TOKENS, sizeof *type);
    uint32_t n = 0, n_merge = 0;
    HLM_ASSERT(tok && merge && text && type);
#define ADD(list, count, ...)                                                                      \
    (list[count].p = end, list[count].n = (uint64_t)snprintf(end, 32, __VA_ARGS__),                \
     end += list[count++].n)
    for (int c = 0; c < 324; c++)
        if (c < 128 ? c > 32 && c < 127 : c >= 256 || (c >= 161 && c != 173))
            c < 128 ? ADD(tok, n, "%c", c) : ADD(tok, n, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 63));
    HLM_ASSERT(n == 256);
    for (int a = 33; a < 127; a++)
        for (int c = 33; c < 127; c++) {
            ADD(tok, n, "%c%c", a, c);
            ADD(merge, n_merge, "%c %c", a, c);
        }
    for (int a = 33; a < 127; a++)
        for (int c = 33; c < 127; c++)
            for (int e = 33; e < 127 && n < BIG_TOKENS - 1; e++) {
                ADD(tok, n, "%c%c%c", a, c, e);
                ADD(merge, n_merge, "%c%c %c", a, c, e);
            }
    ADD(tok, n, "<|im_end|>");
#undef ADD
    for (uint32_t i = 0; i < n; i++)
        type[i] = i + 1 == n ? 3 : 1;
    struct gguf_build *b = gb_new();
    gb_str(b, "general.architecture", "none");
    gb_str(b, "tokenizer.ggml.model", "gpt2");
    gb_str(b, "tokenizer.ggml.pre", "qwen35");
    gb_strs(b, "tokenizer.ggml.tokens", n, tok);
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, n, type);
    gb_strs(b, "tokenizer.ggml.merges", n_merge, merge);
    free(tok);
    free(merge);
    free(text);
    free(type);
    return b;
}

/* Generous, for sanitizers on busy machines. Linear work takes a twentieth of this. */
static const double bound_s = 10;

static void check_speed(struct tok *t, const char *name, const char *unit)
{
    uint64_t n_unit = strlen(unit);
    char *text = mem_alloc(MEGABYTE, 1);
    struct hlm_ids ids = { 0 };
    HLM_ASSERT(text);
    for (uint64_t i = 0; i < MEGABYTE; i++)
        text[i] = unit[i % n_unit];
    double start = now_s();
    CHECK(tok_encode_text(t, text, MEGABYTE, true, &ids, NULL));
    double s = now_s() - start;
    test_note("1 MiB of %s: %.3f s, %u ids", name, s, ids.n);
    CHECK_MSG(s < bound_s, "1 MiB of %s takes %.1f s", name, s);
    hlm_ids_free(&ids);
    free(text);
}

static void test_speed(struct tok *t, const char *vocabulary)
{
    static const struct {
        const char *name, *unit;
    } input[] = {
        { "a letter", "a" },
        { "capitals", "A" },
        { "spaces", " " },
        { "newlines", "\n" },
        { "spaces and newlines", " \n" },
        { "tabs and a letter", "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\tx" },
        { "digits", "7" },
        { "punctuation", "=" },
        { "CJK", "漢字かな" },
        { "emoji", "👍🏽" },
        { "marks out of order", "\u0301\u0316" },
        { "marks", "\u0301" },
        { "Hangul parts", "\u1112\u1161\u11ab" },
        { "half characters", "\xe6\xbc" },
        { "control characters", "\x01" },
        { "beginnings of special tokens", "<" },
        { "nearly special tokens", "<|im_end|" },
        { "special tokens", "<|im_end|>" },
        { "prose", "The quick brown fox jumps over the lazy dog, which isn't amused; it's 1,234.5 "
                   "km away.\n" },
        { "code", "    for (int i = 0; i < n; i++) {\n        x[i] += y[i] * 0x1f;\n    }\n\n" },
    };
    test_case("1 MiB of anything, %s", vocabulary);
    for (uint32_t i = 0; i < ARRAY_LEN(input); i++)
        check_speed(t, input[i].name, input[i].unit);
}

static void test_big(void)
{
    struct gguf_build *b = big_vocab();
    struct hlm_err err = { 0 };
    uint64_t n;
    uint8_t *bytes = gb_bytes(b, &n);
    test_case("a vocabulary of %d tokens", BIG_TOKENS);
    struct gguf *g = gguf_parse(bytes, n, "big.gguf", &err);
    double start = now_s();
    struct tok *t = g ? tok_create(g, &err) : NULL;
    double s = now_s() - start;
    if (CHECK_MSG(t, "%s", err.msg)) {
        test_note("%d tokens: %.3f s", BIG_TOKENS, s);
        CHECK_MSG(s < bound_s, "loading takes %.1f s", s);
        test_speed(t, "large vocabulary");
    }
    tok_destroy(t);
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

void test_tok(void)
{
    struct rng rng = { 11 };
    struct hlm_err err = { 0 };
    for (uint32_t i = 0; i < ARRAY_LEN(kinds); i++)
        test_kind(kinds[i]);
    test_utf8_out();
    test_families();
    test_control_types();
    test_hostile();
    test_big();
    for (uint32_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct tok *t = open_tok(fixture("tokenizer/%s/vocab.gguf", kinds[i]), &err);
        if (!t)
            continue;
        if (i == 0) {
            test_properties(t);
            test_spans(t);
        }
        if (i > 1) /* NFC changes the text, so it cannot come back */
            test_bytes(t, &rng);
        if (i & 1) /* NFC, and both expressions that can backtrack far */
            test_speed(t, kinds[i]);
        tok_destroy(t);
    }
}
