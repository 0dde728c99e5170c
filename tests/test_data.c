/* test_data: documents, masks and rows of training data against the reference's own, against texts
 * with the counted parts marked, and against what malformed files do. */
#define _POSIX_C_SOURCE 200809L
#include "train/data.h"
#include "gguf_build.h"
#include "json.h"

#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#define LONG_S 3.0 /* for one line (test_long_tools) */

/* ---- helpers --------------------------------------------------------------------------------- */

static struct gguf *vocab; /* 256 bytes, some merges, ChatML's and Qwen's control tokens */
static struct tok *tok;

static struct data_params params(const char *format)
{
    struct data_params p = { .tok = tok, .eos = data_eos(vocab, tok) };
    CHECK(chat_by_name(format, vocab, &p.format));
    return p;
}

static bool parse(struct data_set *s, const char *lines, const struct data_params *p,
                  struct hlm_err *err)
{
    return data_parse(s, lines, strlen(lines), "some.jsonl", p, err);
}

/* The text of a set's documents, a line of dashes between them; what counts stands in [[ ]]. */
static void marked(const struct data_set *s, char *to, size_t room)
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
                k < d->n ? tok_bytes(tok, s->ids[d->at + k]) : (struct hlm_str){ "", 0 };
            if (is != was)
                ADD(is ? "[[" : "]]", 2);
            ADD(t.p, t.n);
            was = is;
        }
    }
#undef ADD
    HLM_ASSERT(n < room);
}

/* What a set says of itself holds together. */
static void check_set(const struct data_set *s, uint32_t max_seq)
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

/* ---- the reference's rows -------------------------------------------------------------------- */

#define SAME(a, b, n) ((n) == 0 || !memcmp((a), (b), (n) * sizeof *(a)))

static void same_rows(const struct data_rows *got, const struct data_rows *want)
{
    CHECK_EQ(got->n_row, want->n_row);
    CHECK_EQ(got->row_length, want->row_length);
    CHECK_EQ(got->packed, want->packed);
    CHECK_EQ(got->pad_id, want->pad_id);
    CHECK_EQ(got->n_counted, want->n_counted);
    for (uint32_t i = 0; i < got->n_row && i < want->n_row; i++) {
        const struct data_row *a = &got->row[i], *b = &want->row[i];
        if (!CHECK_EQ(a->n, b->n) || !CHECK_EQ(a->n_doc, b->n_doc))
            continue;
        CHECK_EQ(a->padding, b->padding);
        CHECK_EQ(a->n_counted, b->n_counted);
        CHECK(SAME(a->ids, b->ids, a->n));
        CHECK(SAME(a->mask, b->mask, a->n));
        CHECK(SAME(a->doc, b->doc, a->n));
        CHECK(SAME(a->pos, b->pos, a->n));
        CHECK(SAME(a->doc_start, b->doc_start, a->n_doc));
        CHECK(SAME(a->doc_len, b->doc_len, a->n_doc));
        CHECK(SAME(a->document, b->document, a->n_doc));
    }
}

/* The file's own text of a key's value, without blanks: numbers too must come out as they were. */
static void same_json(const json_t *a, const json_t *b, const char *key)
{
    char *x = json_dumps(json_object_get(a, key), JSON_ENCODE_ANY | JSON_SORT_KEYS);
    char *y = json_dumps(json_object_get(b, key), JSON_ENCODE_ANY | JSON_SORT_KEYS);
    CHECK_STR(x ? x : "none", y ? y : "none");
    free(x);
    free(y);
}

/* What is written of rows is the reference's file, but for the sentence it has about the loss. */
static void same_dump(const char *path, const struct data_rows *rows,
                      const struct hlm_train_options *o)
{
    struct hlm_err err = { 0 };
    char file[400];
    snprintf(file, sizeof file, "%s/rows.json", test_tmp());
    json_t *want = fixture_json(path);
    const char *kind = json_str(want, "kind"), *name = json_str(want, "case");
    CHECK_MSG(data_dump(file, rows, o, name, kind, &err), "%s", err.msg);
    json_error_t e;
    json_t *got = json_load_file(file, 0, &e);
    CHECK_MSG(got, "%s", e.text);
    json_object_del(json_object_get(want, "options"), "loss");
    static const char *const key[] = { "version",         "case",       "kind",
                                       "packed",          "row_length", "pad_id",
                                       "counted_targets", "options",    "rows" };
    for (uint32_t i = 0; i < ARRAY_LEN(key); i++)
        same_json(got, want, key[i]);
    CHECK_EQ(json_object_size(got), json_object_size(want));
    json_decref(want);
    json_decref(got);
}

static void reference(const char *name, const char *model, const char *rows)
{
    char path[200];
    struct hlm_err err = { 0 };
    struct data_rows got = { 0 }, want = { 0 };
    struct data_set s = { 0 };
    struct hlm_train_options o;
    bool has = false, exact;
    test_case("rows of %s/data.jsonl are those of %s", name, rows);
    if (!fixture_has("train/%s/data.jsonl", name)) {
        test_skip("no train/%s", name);
        return;
    }
    uint64_t n = 0;
    char *lines = fixture_read(&n, "train/%s/data.jsonl", name);
    struct gguf *g = gguf_open(fixture("train/%s/model.gguf", model), &err);
    struct tok *t = g ? tok_create(g, &err) : NULL;
    snprintf(path, sizeof path, "train/%s/%s", name, rows);
    if (CHECK_MSG(t, "%s", err.msg) &&
        CHECK_MSG(data_read(fixture("%s", path), tok_n_vocab(t), &want, &o, &has, &err), "%s",
                  err.msg)) {
        struct data_params p = { .tok = t,
                                 .format = chat_detect(g, &exact),
                                 .no_eos = true,
                                 .eos = data_eos(g, t),
                                 .max_seq = want.row_length };
        CHECK(exact && has);
        CHECK_MSG(data_parse(&s, lines, n, name, &p, &err), "%s", err.msg);
        check_set(&s, 0);
        CHECK_MSG(data_pack(&got, &s, NULL, want.row_length, data_pad(g, t), &err), "%s", err.msg);
        same_rows(&got, &want);
        same_dump(path, &got, &o);
    }
    data_rows_free(&got);
    data_rows_free(&want);
    data_set_free(&s);
    tok_destroy(t);
    gguf_close(g);
    free(lines);
}

/* The cases without a model here have the vocabulary of one that is. */
static void test_reference(void)
{
    static const char *const row[][3] = {
        { "qwen35", "qwen35", "data.json" },
        { "qwen35", "qwen35", "data-sched.json" },
        { "qwen3next", "qwen3next", "data.json" },
        { "nemotron_h_moe", "nemotron_h_moe", "data.json" },
        { "step35", "step35", "data.json" },
        { "qwen35moe-mtp", "qwen35", "data.json" },
        { "qwen35-packed", "qwen35", "data.json" },
        { "qwen35-packed", "qwen35", "data-separate.json" },
        { "nemotron_h_moe-packed", "nemotron_h_moe", "data.json" },
        { "nemotron_h_moe-packed", "nemotron_h_moe", "data-separate.json" },
        { "qwen35moe-mtp-packed", "qwen35", "data.json" },
        { "qwen35moe-mtp-packed", "qwen35", "data-separate.json" },
        { "step35-packed", "step35", "data.json" },
        { "step35-packed", "step35", "data-separate.json" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++)
        reference(row[i][0], row[i][1], row[i][2]);
}

/* ---- what counts ----------------------------------------------------------------------------- */

#define S(role) "<|im_start|>" role "\n"
#define E "<|im_end|>"
#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define SAYS(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define THINKS(why, text)                                                                          \
    "{\"role\":\"assistant\",\"reasoning_content\":\"" why "\",\"content\":\"" text "\"}"
#define ROW(...) "{\"messages\":[" __VA_ARGS__ "]}"
#define TOOL_ROW(...) "{\"tools\":[{\"name\":\"f\"}],\"messages\":[" __VA_ARGS__ "]}"
#define CALL(name, args) "{\"function\":{\"name\":\"" name "\",\"arguments\":" args "}}"
#define CALLS(name, args) "{\"role\":\"assistant\",\"tool_calls\":[" CALL(name, args) "]}"
#define THINKS_CALLS(why, text, name, args)                                                        \
    "{\"role\":\"assistant\",\"reasoning_content\":\"" why "\",\"content\":\"" text "\","          \
    "\"tool_calls\":[" CALL(name, args) "]}"
#define GAVE(text) "{\"role\":\"tool\",\"content\":\"" text "\"}"
#define ASKED(text) S("user") text E "\n" S("assistant")

enum { ALL = 1, EACH = 2, RAW = 4, NO_EOS = 8 };

static const char talk2[] = ROW(USER("a") "," SAYS("b") "," USER("c") "," SAYS("d"));
static const char thought[] = ROW(USER("a") "," THINKS("why", "b"));
static const char thought2[] =
    ROW(USER("a") "," THINKS("why", "b") "," USER("c") "," THINKS("how", "d"));

static const struct mask_row {
    const char *format;
    int flags;
    const char *line, *want;
} masks[] = {
    { "chatml", 0, ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," SAYS("b")),
      S("system") "s" E "\n" ASKED("a") "[[b" E "]]\n" },
    { "chatml", 0, talk2, ASKED("a") "[[b" E "]]\n" ASKED("c") "[[d" E "]]\n" },
    { "chatml", ALL, talk2,
      "<|im_start|>[[user\na" E "\n" S("assistant") "b" E "\n" ASKED("c") "d" E "\n]]" },
    { "chatml", EACH, talk2,
      ASKED("a") "[[b" E "]]\n----\n" ASKED("a") "b" E "\n" ASKED("c") "[[d" E "]]\n" },
    /* An empty answer is its end; one that says a control token's text does not say the token. */
    { "chatml", 0, ROW(USER("a") "," SAYS("")), ASKED("a") "[[" E "]]\n" },
    { "chatml", 0, ROW(USER("a") "," SAYS("x" E "y")), ASKED("a") "[[x" E "y" E "]]\n" },
    /* Answers in a row, and a question behind the last answer. */
    { "chatml", 0, ROW(USER("a") "," SAYS("b") "," SAYS("c") "," USER("d")),
      ASKED("a") "[[b" E "]]\n" S("assistant") "[[c" E "]]\n" S("user") "d" E "\n" },
    { "chatml", 0, "{\"prompt\":\"a\",\"completion\":\"b\"}", ASKED("a") "[[b" E "]]\n" },
    { "chatml", RAW, "{\"prompt\":\"a b\",\"completion\":\" c\"}", "a b[[ c<|endoftext|>]]" },
    { "chatml", RAW | NO_EOS, "{\"prompt\":\"a b\",\"completion\":\" c\"}", "a b[[ c]]" },
    { "chatml", RAW | ALL, "{\"prompt\":\"ab\",\"completion\":\"c\"}", "a[[bc<|endoftext|>]]" },
    { "chatml", RAW, "{\"prompt\":\"\",\"completion\":\"xyz\"}", "x[[yz<|endoftext|>]]" },
    { "chatml", 0, "{\"text\":\"xyz\"}", "x[[yz<|endoftext|>]]" },
    { "chatml", NO_EOS, "{\"text\":\"xyz\"}", "x[[yz]]" },
    { "chatml", NO_EOS, "{\"text\":\"x\"}", "x" },
    /* A text's template is meant: it stands as it is. */
    { "chatml", NO_EOS, "{\"text\":\"<|im_start|>x\"}", "<|im_start|>[[x]]" },

    /* Qwen3 opens <think> by itself; without thinking its prompt has an empty block, which is gone
     * from the history: the first answer there is none that it would have given. */
    { "qwen3", 0, talk2, ASKED("a") "b" E "\n" ASKED("c") "<think>\n\n</think>\n\n[[d" E "]]\n" },
    { "qwen3", EACH, talk2,
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n----\n" ASKED("a") "b" E "\n" ASKED(
          "c") "<think>\n\n</think>\n\n[[d" E "]]\n" },
    { "qwen3", 0, thought, ASKED("a") "[[<think>\nwhy\n</think>\n\nb" E "]]\n" },
    { "qwen3", 0, thought2,
      ASKED("a") "b" E "\n" ASKED("c") "[[<think>\nhow\n</think>\n\nd" E "]]\n" },
    /* Reasoning that is told in the content, as some data has it. */
    { "qwen3", 0, ROW(USER("a") "," SAYS("<think>\\nwhy\\n</think>\\n\\nb")),
      ASKED("a") "[[<think>\nwhy\n</think>\n\nb" E "]]\n" },
    { "qwen3", 0, ROW(USER("a") "," SAYS("<think>\\n\\n</think>\\n\\nb")),
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },

    /* The first of two answers in a row has the block as long as it is the last: the prompt's. */
    { "qwen3", 0, ROW(USER("a") "," SAYS("b") "," SAYS("c")),
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" S("assistant") "<think>\n\n</think>\n\n[[c" E
                                                                      "]]\n" },

    { "qwen35", 0, talk2, ASKED("a") "b" E "\n" ASKED("c") "<think>\n\n</think>\n\n[[d" E "]]\n" },
    { "qwen35", 0, thought, ASKED("a") "<think>\n[[why\n</think>\n\nb" E "]]\n" },
    { "qwen35", EACH, thought2,
      ASKED("a") "<think>\n[[why\n</think>\n\nb" E "]]\n----\n" ASKED("a") "b" E "\n" ASKED(
          "c") "<think>\n[[how\n</think>\n\nd" E "]]\n" },
    /* Two answers to one question: both keep their reasoning, both count. */
    { "qwen35", 0, ROW(USER("a") "," THINKS("why", "b") "," THINKS("how", "c")),
      ASKED("a") "<think>\n[[why\n</think>\n\nb" E
                 "]]\n" S("assistant") "<think>\n[[how\n</think>\n\nc" E "]]\n" },
    /* A greeting nobody asked for: no prompt of this format asks for it. */
    { "qwen35", 0, ROW(SAYS("x") "," USER("a") "," SAYS("b")),
      S("assistant") "x" E "\n" ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    { "qwen35", EACH, ROW(SAYS("x") "," USER("a") "," SAYS("b")),
      S("assistant") "x" E "\n" ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    /* Where a row thinks, an answer without a thought is one too. */
    { "qwen35", 0, ROW(USER("a") "," THINKS("why", "b") "," USER("c") "," SAYS("d")),
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n[[\n</think>\n\nd" E "]]\n" },
    /* The first line end of this answer is the model's, not a part of the prompt's last token. */
    { "qwen35", 0, "{\"prompt\":\"a\",\"completion\":\"\\n\\nb\\n\"}",
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },

    { "nemotron", 0, talk2,
      S("system") E "\n" ASKED("a") "<think></think>[[b" E "]]\n" ASKED("c") "<think></think>[[d" E
                                                                             "]]\n" },
    { "nemotron", 0, thought,
      S("system") E "\n" ASKED("a") "<think>\n[[why\n</think>\nb" E "]]\n" },
    { "nemotron", 0, thought2,
      S("system") E "\n" ASKED("a") "<think></think>\nb" E
                                    "\n" ASKED("c") "<think>\n[[how\n</think>\nd" E "]]\n" },
    /* Its template tells an answer without reasoning as one to the other prompt. */
    { "nemotron", 0, ROW(USER("a") "," THINKS("why", "b") "," USER("c") "," SAYS("d")),
      S("system") E "\n" ASKED("a") "<think></think>\nb" E "\n" ASKED("c") "<think></think>[[d" E
                                                                           "]]\n" },

    { "step", 0, talk2, ASKED("a") "b" E "\n" ASKED("c") "<think>\n[[\n</think>\nd" E "]]\n" },
    { "step", 0, thought, ASKED("a") "<think>\n[[why\n</think>\nb" E "]]\n" },
    { "step", EACH, thought2,
      ASKED("a") "<think>\n[[why\n</think>\nb" E "]]\n----\n" ASKED("a") "b" E "\n" ASKED(
          "c") "<think>\n[[how\n</think>\nd" E "]]\n" },
};

/* The same with tools: what a model calls counts, what it is given does not. */
#define XML(name, args) "<tool_call>\n<function=" name ">\n" args "</function>\n</tool_call>"
#define ARG(name, value) "<parameter=" name ">\n" value "\n</parameter>\n"
#define GIVEN(text) S("user") "<tool_response>\n" text "\n</tool_response>" E "\n" S("assistant")

static const char asks[] = ROW(USER("a") "," CALLS("f", "{\"x\":1}") "," GAVE("7") "," SAYS("b"));
static const char asks_twice[] =
    ROW(USER("a") "," THINKS_CALLS("why", "t", "f", "{\"x\":true}") "," GAVE("7") "," THINKS(
        "how", "b") "," USER("c") "," CALLS("g", "{}") "," GAVE("8") "," GAVE("9") "," SAYS("d"));

static const struct mask_row tool_masks[] = {
    /* Without thinking the second answer stands behind the empty block of its prompt; the first has
     * none in the history. */
    { "qwen3", 0, asks,
      ASKED("a") "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>" E
                 "\n" GIVEN("7") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    { "qwen3", EACH, asks,
      ASKED(
          "a") "<think>\n\n</think>\n\n[[<tool_call>\n{\"name\": \"f\", \"arguments\": "
               "{\"x\": 1}}\n</tool_call>" E "]]\n----\n" ASKED(
                   "a") "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>" E
                        "\n" GIVEN("7") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    /* Between a question and its answer reasoning stays: both turns are what was said. */
    { "qwen3", 0,
      ROW(USER("a") "," THINKS_CALLS("why", "t", "f", "\"{ }\"") "," GAVE("7") "," THINKS("how",
                                                                                          "b")),
      ASKED("a") "[[<think>\nwhy\n</think>\n\nt\n<tool_call>\n{\"name\": \"f\", \"arguments\": { }}"
                 "\n</tool_call>" E "]]\n" GIVEN("7") "[[<think>\nhow\n</think>\n\nb" E "]]\n" },

    { "qwen35", 0, asks,
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", ARG("x", "1")) E
      "]]\n" GIVEN("7") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    { "qwen35", EACH, asks,
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", ARG("x", "1")) E
      "]]\n----\n" ASKED("a") "<think>\n\n</think>\n\n" XML("f", ARG("x", "1")) E
      "\n" GIVEN("7") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    /* A talk that ends with what a tool gave. */
    { "qwen35", 0, ROW(USER("a") "," CALLS("f", "{}") "," GAVE("7")),
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", "") E
      "]]\n" S("user") "<tool_response>\n7\n</tool_response>" E "\n" },
    /* The first question's turns have lost their reasoning; the row thinks, and so does its last
     * question's, whose thoughts are empty. */
    { "qwen35", 0, asks_twice,
      ASKED("a") "t\n\n" XML("f", ARG("x", "True")) E
      "\n" GIVEN("7") "b" E "\n" ASKED("c") "<think>\n[[\n</think>\n\n" XML("g", "") E "]]\n" S(
          "user") "<tool_response>\n8\n</tool_response>\n<tool_response>\n9\n</tool_response>" E
                  "\n" S("assistant") "<think>\n[[\n</think>\n\nd" E "]]\n" },
    { "qwen35", EACH,
      ROW(USER("a") "," THINKS_CALLS("why", "", "f", "{}") "," GAVE("7") "," THINKS("how", "b")),
      ASKED("a") "<think>\n[[why\n</think>\n\n" XML("f", "") E
      "]]\n----\n" ASKED("a") "<think>\nwhy\n</think>\n\n" XML("f", "") E
      "\n" GIVEN("7") "<think>\n[[how\n</think>\n\nb" E "]]\n" },
    /* A control token's text in a call is only that. */
    { "qwen35", 0, ROW(USER("a") "," CALLS("f", "{\"x\":\"" E "\"}")),
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", ARG("x", E)) E "]]\n" },
    { "qwen35", ALL, ROW(USER("a") "," CALLS("f", "{}") "," GAVE("7")),
      "<|im_start|>[[user\na" E "\n" S("assistant") "<think>\n\n</think>\n\n" XML("f", "") E
      "\n" S("user") "<tool_response>\n7\n</tool_response>" E "\n]]" },

    { "nemotron", 0, asks,
      S("system") E "\n" ASKED("a") "<think></think>[[\n" XML("f", ARG("x", "1")) "\n" E "]]\n" S(
          "user") "<tool_response>\n7\n</tool_response>\n" E
                  "\n" S("assistant") "<think></think>[[b" E "]]\n" },
    { "nemotron", 0, asks_twice,
      S("system") E "\n" ASKED("a") "<think></think>t\n" XML("f", ARG("x", "True")) "\n" E "\n" S(
          "user") "<tool_response>\n7\n</tool_response>\n" E
                  "\n" S("assistant") "<think></think>\nb" E
                                      "\n" ASKED("c") "<think></think>[[\n" XML(
                                          "g",
                                          "") "\n" E
                                              "]]\n" S(
                                                  "user") "<tool_response>\n8\n</"
                                                          "tool_response>\n<tool_response>\n9\n</"
                                                          "tool_response>\n" E
                                                          "\n" S("assistant") "<think></think>[[d" E
                                                                              "]]\n" },
    { "nemotron", EACH, ROW(USER("a") "," THINKS_CALLS("why", "", "f", "{}")),
      S("system") E "\n" ASKED("a") "<think>\n[[why\n</think>\n" XML("f", "") "\n" E "]]\n" },

    { "step", 0, asks,
      ASKED("a") "<think>\n[[\n</think>\n" XML("f", ARG("x", "1")) E
      "]]\n" S("tool_response") "<tool_response>7</tool_response>" E
                                "\n" S("assistant") "<think>\n[[\n</think>\nb" E "]]\n" },
    { "step", 0, asks_twice,
      ASKED("a") "t" XML("f", ARG("x", "True")) E
      "\n" S("tool_response") "<tool_response>7</tool_response>" E "\n" S(
          "assistant") "b" E "\n" ASKED("c") "<think>\n[[\n</think>\n" XML("g", "") E
      "]]\n" S("tool_response") "<tool_response>8</tool_response><tool_response>9</tool_response>" E
                                "\n" S("assistant") "<think>\n[[\n</think>\nd" E "]]\n" },
};

/* With a list of tools in front, which never counts and is in every prompt. */
static void test_tool_list(void)
{
    static const char *const format[] = { "qwen3", "qwen35", "nemotron", "step" };
    for (uint32_t i = 0; i < 2 * ARRAY_LEN(format); i++) {
        bool each = i & 1;
        struct data_params p = params(format[i / 2]);
        struct data_set with = { 0 }, without = { 0 };
        struct hlm_err err = { 0 };
        p.turns_each = each;
        test_case("%s: tools in front change neither what counts nor what it is%s", format[i / 2],
                  each ? ", each turn" : "");
        CHECK_MSG(
            parse(&with,
                  TOOL_ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," THINKS_CALLS(
                      "why", "t", "f", "{\"x\":[1, 2]}") "," GAVE("7") "," THINKS("how", "b")),
                  &p, &err),
            "%s", err.msg);
        CHECK_MSG(
            parse(&without,
                  ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," THINKS_CALLS(
                      "why", "t", "f", "{\"x\":[1, 2]}") "," GAVE("7") "," THINKS("how", "b")),
                  &p, &err),
            "%s", err.msg);
        check_set(&with, 0);
        CHECK_EQ(with.n_doc, 1u + each);
        CHECK_EQ(without.n_doc, with.n_doc);
        CHECK(with.n_counted > 0);
        for (uint32_t k = 0; k < with.n_doc && k < without.n_doc; k++) {
            struct data_doc *a = &with.doc[k], *b = &without.doc[k];
            uint32_t i_a = 0, i_b = 0;
            CHECK(a->n > b->n + 30);
            CHECK_EQ(a->n_counted, b->n_counted);
            while (!with.mask[a->at + i_a])
                i_a++;
            while (!without.mask[b->at + i_b])
                i_b++;
            CHECK_EQ(a->n - i_a, b->n - i_b);
            CHECK(SAME(with.ids + a->at + i_a, without.ids + b->at + i_b, a->n - i_a));
            CHECK(SAME(with.mask + a->at + i_a, without.mask + b->at + i_b, a->n - i_a));
        }
        data_set_free(&with);
        data_set_free(&without);
    }
}

/* The format that has no form for tools says so, with file and line. */
static void test_no_tools(void)
{
    static const char *const line[][2] = {
        { TOOL_ROW(USER("a") "," SAYS("b")), "some.jsonl:2: tools, which chat format chatml has" },
        { ROW(USER("a") "," CALLS("f", "{}")), "some.jsonl:2: message 2: tool calls, which chat" },
        { ROW(USER("a") "," SAYS("b") "," GAVE("c")), "some.jsonl:2: message 3: role \"tool\"," },
    };
    for (uint32_t i = 0; i < 2 * ARRAY_LEN(line); i++) {
        struct data_params p = params("chatml");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char lines[600];
        p.turns_each = i & 1;
        test_case("ChatML refuses tools, form %u", i);
        snprintf(lines, sizeof lines, "{\"text\":\"abc\"}\n%s\n", line[i / 2][0]);
        CHECK(!parse(&s, lines, &p, &err));
        CHECK_MSG(!strncmp(err.msg, line[i / 2][1], strlen(line[i / 2][1])), "%s", err.msg);
    }
}

static void test_masks(const struct mask_row *rows, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct mask_row *r = &rows[i];
        struct data_params p = params(r->format);
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char got[2000];
        test_case("what counts, row %u: %s %.80s", i, r->format, r->line);
        p.loss_all = r->flags & ALL;
        p.turns_each = r->flags & EACH;
        p.raw_completion = r->flags & RAW;
        p.no_eos = r->flags & NO_EOS;
        if (CHECK_MSG(parse(&s, r->line, &p, &err), "%s", err.msg)) {
            check_set(&s, 0);
            marked(&s, got, sizeof got);
            CHECK_STR(got, r->want);
        }
        data_set_free(&s);
    }
}

/* Templates of the same family that tell an answer without the empty block of the prompt. */
static void test_prompt_wins(void)
{
    struct data_params p = params("qwen35");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    char got[500];
    test_case("the prompt is hlm-chat's also where the template would tell the answer otherwise");
    p.format.empty = CHAT_EMPTY_NONE;
    CHECK_MSG(parse(&s, ROW(USER("a") "," SAYS("b")), &p, &err), "%s", err.msg);
    marked(&s, got, sizeof got);
    CHECK_STR(got, ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n");
    data_set_free(&s);
}

/* The ids before an answer are the ids of its prompt, encoded alone, whatever the answer begins
 * with. */
static void test_exact_prompt(void)
{
    static const char *const format[] = { "chatml", "qwen3", "qwen35", "nemotron", "step" };
    static const char *const first[] = { "b", "\\n\\n\\nb", "  b", "\\u00e9", "<think>", "\\nthe" };
    for (uint32_t i = 0; i < 2 * ARRAY_LEN(format) * ARRAY_LEN(first); i++) {
        const char *f = format[i / 2 % ARRAY_LEN(format)], *a = first[i / 2 / ARRAY_LEN(format)];
        bool think = i & 1;
        struct data_params p = params(f);
        struct data_set s = { 0 };
        struct chat_prompt prompt = { 0 };
        struct hlm_ids ids = { 0 };
        struct hlm_err err = { 0 };
        char line[300], role[] = "user", question[] = "the water";
        struct chat_msg msg = { .role = role, .content = question };
        struct chat_input in = { .msg = &msg, .n = 1 };
        test_case("%s: the prompt's ids stand before an answer that begins with %s%s", f, a,
                  think ? ", thinking" : "");
        snprintf(line, sizeof line,
                 think ? ROW(USER("the water") "," THINKS("%s", "x"))
                       : ROW(USER("the water") "," SAYS("%s")),
                 a);
        CHECK_MSG(parse(&s, line, &p, &err), "%s", err.msg);
        CHECK(chat_render(&p.format, &in, true, think, &prompt, &err));
        CHECK(tok_encode(tok, prompt.span, prompt.n_span, &ids, &err));
        uint32_t at = 0;
        while (at < s.n_id && !s.mask[at])
            at++;
        CHECK_EQ(at, ids.n);
        CHECK(at == ids.n && SAME(s.ids, ids.id, at));
        chat_prompt_free(&prompt);
        hlm_ids_free(&ids);
        data_set_free(&s);
    }
}

/* ---- bos ------------------------------------------------------------------------------------- */

static void test_bos(void)
{
    struct hlm_err err = { 0 };
    uint64_t n;
    test_case("a bos that the file asks for stands in front and does not count");
    struct gguf_build *b = gb_from(fixture("train/qwen35/model.gguf"), &err);
    if (!CHECK_MSG(b, "%s", err.msg))
        return;
    gb_bool(b, "tokenizer.ggml.add_bos_token", true);
    gb_u32(b, "tokenizer.ggml.bos_token_id", (uint32_t)tok_find(tok, "<|endoftext|>"));
    uint8_t *bytes = gb_bytes(b, &n);
    struct gguf *g = gguf_parse(bytes, n, "bos.gguf", &err);
    struct tok *t = g ? tok_create(g, &err) : NULL;
    if (CHECK_MSG(t, "%s", err.msg)) {
        struct data_params p = params("chatml");
        struct data_set s = { 0 };
        char got[500];
        p.tok = t;
        CHECK(parse(&s, "{\"text\":\"ab\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}", &p, &err));
        marked(&s, got, sizeof got);
        CHECK_STR(got,
                  "<|endoftext|>[[ab<|endoftext|>]]----\n<|endoftext|>" ASKED("a") "[[b" E "]]\n");
        data_set_free(&s);
    }
    tok_destroy(t);
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

/* ---- lines that are none --------------------------------------------------------------------- */

static void test_malformed(void)
{
    static const struct {
        const char *line, *why;
    } row[] = {
        { "{", "some.jsonl:2: column " },
        { "{\"text\":\"a\"} x", "end of file expected" },
        { "[1]", "a JSON object is expected" },
        { "3", "column" },
        { "{}", "none of \"messages\", \"prompt\" and \"text\"" },
        { "{\"txt\":\"a\"}", "none of" },
        { "{\"text\":\"a\",\"messages\":[]}", "more than one of" },
        { "{\"text\":\"a\",\"completion\":\"b\"}", "more than one of" },
        { "{\"text\":\"a\",\"text\":\"b\"}", "duplicate" },
        { "{\"text\":3}", "\"text\" must be a string" },
        { "{\"text\":null}", "\"text\" must be a string" },
        { "{\"text\":\"\\u0000\"}", "\\u0000 is not allowed" },
        { "{\"text\":\"\xff\"}", "unable to decode byte 0xff" },
        { "{\"text\":\"\xed\xa0\x80\"}", "unable to decode byte 0xed" },
        { "{\"text\":\"\\ud800\"}", "Unicode" },
        { "{\"text\":\"a\tb\"}", "control character" },
        { "{\"prompt\":\"a\"}", "\"prompt\" and \"completion\" must both be strings" },
        { "{\"completion\":\"a\"}", "must both be strings" },
        { "{\"prompt\":[],\"completion\":\"a\"}", "must both be strings" },
        { "{\"messages\":{}}", "\"messages\" must be a list" },
        { "{\"messages\":[]}", "0 messages, 1 to 1024 are possible" },
        { "{\"messages\":[1]}", "message 1 is not an object" },
        { "{\"messages\":[{\"role\":\"user\"}]}", "\"content\" must be a string" },
        { ROW("{\"role\":\"function\",\"content\":\"x\"}"), "role \"function\", known are" },
        { ROW(GAVE("x") "," USER("a")), "message 1: with chat format qwen35 a tool cannot speak" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{}]}",
          "tool 1 must be an object with a \"name\"" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":{}}",
          "\"tools\" must be a list" },
        { "{\"prompt\":\"a\",\"completion\":\"b\",\"tools\":[{\"name\":\"f\"}]}",
          "\"tools\" without \"messages\"" },
        { ROW("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}"),
          "message 1: call 1: \"name\" must be a string" },
        { ROW("{\"role\":\"assistant\",\"content\":null}"), "\"content\" must be a string" },
        { ROW(USER("a") "," CALLS("1", "\"{'x': 1}\"")), "message 2: call 1: the text of \"argum" },
        { ROW(USER("a") "," CALLS("1", "\"{\\\"x\\\":1,\\\"x\\\":2}\"")), "no JSON: duplicate" },
    };
    static const char good[] = "{\"text\":\"abc\"}\n";
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_params p = params("qwen35");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char lines[400];
        test_case("malformed line %u: %s", i, row[i].why);
        snprintf(lines, sizeof lines, "%s%s\n%s", good, row[i].line, good);
        CHECK(!parse(&s, lines, &p, &err));
        CHECK_MSG(!strncmp(err.msg, "some.jsonl:2: ", 14) && strstr(err.msg, row[i].why) &&
                      !strchr(err.msg, '\n'),
                  "message: %s", err.msg);
        CHECK(!s.ids && !s.doc && !s.n_doc);
        p.skip_bad = true;
        err = (struct hlm_err){ 0 };
        CHECK_MSG(parse(&s, lines, &p, &err), "%s", err.msg);
        check_set(&s, 0);
        CHECK_EQ(s.n_doc, 2);
        CHECK_EQ(s.counts.n_bad, 1);
        CHECK_EQ(s.counts.bad_line, 2);
        CHECK_EQ(s.doc[1].line, 2);
        data_set_free(&s);
    }
    struct data_params p = params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    static const char nul[] = "{\"text\":\"a\0b\"}\n{\"text\":\"abc\"}";
    test_case("a NUL byte in a line; a byte order mark, empty lines, line ends of the other kind");
    CHECK(!data_parse(&s, nul, sizeof nul - 1, "some.jsonl", &p, &err));
    CHECK_MSG(strstr(err.msg, "some.jsonl:1: "), "%s", err.msg);
    err = (struct hlm_err){ 0 };
    CHECK(parse(&s, "\xef\xbb\xbf\r\n{\"text\":\"ab\"}\r\n \t\n\n{\"text\":\"cd\"}", &p, &err));
    CHECK_EQ(s.n_doc, 2);
    CHECK_EQ(s.counts.n_line, 2);
    CHECK_EQ(s.doc[1].line, 4);
    data_set_free(&s);
    test_case("nothing to learn from");
    CHECK(!parse(&s, "\n\n", &p, &err) && strstr(err.msg, "no document to learn from"));
    err = (struct hlm_err){ 0 };
    CHECK(!parse(&s, ROW(USER("a")), &p, &err) && strstr(err.msg, "1 without a token that counts"));
    p.skip_bad = true;
    err = (struct hlm_err){ 0 };
    CHECK(!parse(&s, "{", &p, &err) && strstr(err.msg, "1 malformed"));
}

/* Deep nesting, too many messages and a very long line are told or read, in no time. */
static void test_hostile(void)
{
    struct data_params p = params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    uint64_t n = 1 << 20;
    char *line = mem_alloc(n + 32, 1);
    HLM_ASSERT(line);
    test_case("a line of brackets, one of too many messages, one of a megabyte");
    memset(line, '[', n);
    CHECK(!data_parse(&s, line, n, "deep.jsonl", &p, &err));
    CHECK_MSG(strstr(err.msg, "deep.jsonl:1: ") && strstr(err.msg, "depth"), "%s", err.msg);
    err = (struct hlm_err){ 0 };
    uint64_t at = (uint64_t)sprintf(line, "{\"messages\":[");
    for (int i = 0; i < 1025; i++)
        at += (uint64_t)sprintf(line + at, "%s{}", i ? "," : "");
    at += (uint64_t)sprintf(line + at, "]}");
    CHECK(!data_parse(&s, line, at, "many.jsonl", &p, &err));
    CHECK_MSG(strstr(err.msg, "1025 messages, 1 to 1024 are possible"), "%s", err.msg);
    err = (struct hlm_err){ 0 };
    memset(line, 'a', n);
    memcpy(line, "{\"text\":\"", 9);
    memcpy(line + n, "\"}", 3);
    p.max_seq = 100;
    CHECK_MSG(data_parse(&s, line, n + 2, "long.jsonl", &p, &err), "%s", err.msg);
    check_set(&s, 100);
    CHECK(s.n_doc == 1 && s.doc[0].n == 100 && s.doc[0].n_counted == 99);
    CHECK(s.counts.n_cut == 1 && s.counts.longest == 100 + s.counts.n_ids_cut);
    data_set_free(&s);
    free(line);
}

/* A conversation of n_pair questions and answers; its one tool's description is text n times. */
static char *long_line(uint32_t n_pair, const char *text, uint32_t n)
{
    size_t n_text = strlen(text);
    char *line = mem_alloc(n_pair * 100ull + n * n_text + 100, 1);
    HLM_ASSERT(line);
    char *at = line + sprintf(line, "{\"messages\":[");
    for (uint32_t i = 0; i < n_pair; i++)
        at += sprintf(at, "%s" USER("a") "," SAYS("b"), i ? "," : "");
    at += sprintf(at, "],\"tools\":[{\"name\":\"f\",\"description\":\"");
    for (uint32_t i = 0; i < n; i++, at += n_text)
        memcpy(at, text, n_text);
    strcpy(at, "\"}]}");
    return line;
}

/* Every answer has the tools in its prompt: they are written once, and what goes on being copied is
 * bounded. Of the processor's time, so that what else the machine does is not in it; with a list
 * written for every prompt this line takes five times as long as it may. */
static void test_long_tools(void)
{
    struct data_params p = params("qwen3");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    test_case("512 answers behind a tool of half a megabyte, behind one of four");
    char *line = long_line(512, "\\\"x", 180000);
    clock_t began = clock();
    CHECK_MSG(parse(&s, line, &p, &err), "%s", err.msg);
    double took = (double)(clock() - began) / CLOCKS_PER_SEC;
    CHECK_MSG(took < LONG_S, "a line took %.3g s, expected less than %g", took, LONG_S);
    CHECK_EQ(s.n_doc, 1);
    data_set_free(&s);
    free(line);
    line = long_line(512, "\\\"x", 1440000);
    for (uint32_t i = 0; i < 2; i++) {
        p.turns_each = i;
        err = (struct hlm_err){ 0 };
        CHECK(!parse(&s, line, &p, &err));
        CHECK_MSG(!strncmp(err.msg, "some.jsonl:1: 512 answers in a conversation of 4", 48) &&
                      strstr(err.msg, "their product may be 1073741824 at most"),
                  "%s", err.msg);
    }
    free(line);
}

/* ---- cutting, dropping ----------------------------------------------------------------------- */

static void test_cut(void)
{
    static const struct {
        uint32_t max_seq;
        const char *want;
        uint64_t n_cut, lost, n_drop;
    } row[] = {
        { 0, "<|endoftext|>[[ab<|endoftext|>]]", 0, 0, 0 },
        { 4, "<|endoftext|>[[ab<|endoftext|>]]", 0, 0, 0 },
        { 3, "<|endoftext|>[[ab]]", 1, 1, 0 },
        { 2, "<|endoftext|>[[a]]", 1, 2, 0 },
        { 1, "", 1, 3, 1 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_params p = params("chatml");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char got[100];
        test_case("a text of four tokens where %u are possible", row[i].max_seq);
        p.max_seq = row[i].max_seq;
        bool ok = parse(&s, "\n{\"text\":\"<|endoftext|>ab\"}", &p, &err);
        CHECK_EQ(ok, row[i].n_drop == 0);
        if (ok) {
            check_set(&s, p.max_seq);
            marked(&s, got, sizeof got);
            CHECK_STR(got, row[i].want);
            CHECK_EQ(s.counts.n_cut, row[i].n_cut);
            CHECK_EQ(s.counts.cut_line, row[i].n_cut ? 2 : 0);
            CHECK_EQ(s.counts.n_ids_cut, row[i].lost);
            CHECK_EQ(s.counts.longest, 4);
        }
        data_set_free(&s);
    }
    struct data_params p = params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    char got[400];
    test_case("a talk whose answer is cut off is dropped, and one that nobody answers");
    p.max_seq = 40;
    CHECK(parse(&s,
                ROW(USER("a") "," SAYS("b")) "\n" ROW(
                    USER("0123456789012345678901234567890"
                         "123456789") "," SAYS("b")) "\n" ROW(USER("a")) "\n{\"text\":\"\"}",
                &p, &err));
    marked(&s, got, sizeof got);
    CHECK_EQ(s.n_doc, 1);
    CHECK_EQ(s.counts.n_dropped, 3);
    CHECK_EQ(s.counts.dropped_line, 2);
    CHECK_STR(got, ASKED("a") "[[b" E "]]\n");
    data_set_free(&s);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* A set of documents of these lengths, ids and masks by place. */
static void make_set(struct data_set *s, const uint32_t *len, uint32_t n)
{
    *s = (struct data_set){ .n_doc = n };
    s->doc = mem_alloc(n + 1ull, sizeof *s->doc);
    s->ids = mem_alloc(1000, sizeof *s->ids);
    s->mask = mem_alloc(1000, 1);
    HLM_ASSERT(s->doc && s->ids && s->mask);
    for (uint32_t i = 0; i < n; i++) {
        s->doc[i] = (struct data_doc){
            .at = s->n_id, .n = len[i], .n_counted = len[i] - 1, .line = 10 + i
        };
        for (uint32_t k = 0; k < len[i]; k++, s->n_id++) {
            HLM_ASSERT(s->n_id < 1000);
            s->ids[s->n_id] = (int32_t)(100 * i + k);
            s->mask[s->n_id] = k != 0;
        }
    }
}

static void test_pack(void)
{
    static const struct {
        uint32_t row_length, len[8];
        const char *want;
    } row[] = {
        { 0, { 3, 1, 2 }, "3 | 1 | 2" },
        { 8, { 8 }, "8" },
        { 8, { 1 }, "1 +7" },
        { 8, { 3, 5 }, "3 5" },
        { 8, { 3, 6 }, "3 +5 | 6 +2" },
        { 8, { 7, 1, 1, 7 }, "7 1 | 1 7" },
        { 8, { 8, 8 }, "8 | 8" },
        { 8, { 5, 4, 3, 1 }, "5 +3 | 4 3 1" }, /* the 3 is not taken out of turn */
        { 1, { 1, 1 }, "1 | 1" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_set s;
        struct data_rows r = { 0 };
        struct hlm_err err = { 0 };
        uint32_t n_doc = 0, doc = 0;
        char got[200] = "";
        test_case("packing into rows of %u: %s", row[i].row_length, row[i].want);
        while (n_doc < 8 && row[i].len[n_doc])
            n_doc++;
        make_set(&s, row[i].len, n_doc);
        CHECK_MSG(data_pack(&r, &s, NULL, row[i].row_length, 999, &err), "%s", err.msg);
        for (uint32_t k = 0; k < r.n_row; k++) {
            const struct data_row *w = &r.row[k];
            uint32_t at = 0, counted = 0;
            for (uint32_t j = 0; j < w->n_doc; j++, doc++) {
                sprintf(got + strlen(got), "%s%u", j ? " " : k ? " | " : "", w->doc_len[j]);
                CHECK_EQ(w->doc_start[j], at);
                CHECK_EQ(w->document[j], 10 + doc);
                for (uint32_t m = 0; m < w->doc_len[j]; m++, at++) {
                    CHECK_EQ(w->ids[at], 100 * doc + m);
                    CHECK_EQ(w->mask[at], m != 0);
                    CHECK_EQ(w->doc[at], j);
                    CHECK_EQ(w->pos[at], m);
                    counted += m != 0;
                }
            }
            CHECK_EQ(w->padding, w->n - at);
            CHECK_EQ(w->n_counted, counted);
            if (w->padding)
                sprintf(got + strlen(got), " +%u", w->padding);
            for (; at < w->n; at++)
                CHECK(w->ids[at] == 999 && !w->mask[at] && w->doc[at] == -1 && !w->pos[at]);
        }
        CHECK_STR(got, row[i].want);
        CHECK_EQ(doc, n_doc);
        data_rows_free(&r);
        data_set_free(&s);
    }
    struct data_set s;
    struct data_rows r = { 0 };
    struct hlm_err err = { 0 };
    static const uint32_t len[] = { 2, 9, 3 }, order[] = { 2, 0, 1 };
    test_case("a document longer than a row is refused; an order is obeyed");
    make_set(&s, len, 3);
    CHECK(!data_pack(&r, &s, NULL, 8, 0, &err) && !r.row && strstr(err.msg, "9 tokens"));
    CHECK(data_pack(&r, &s, order, 9, 0, &err) && r.n_row == 2 && r.row[0].n_doc == 2 &&
          r.row[0].document[0] == 12 && r.row[0].ids[3] == 0 && r.row[1].document[0] == 11);
    data_rows_free(&r);
    data_set_free(&s);
}

static void test_shuffle(void)
{
    enum { N = 50 };
    uint32_t a[N], b[N], place[8] = { 0 };
    test_case("shuffling is a permutation, the same for a seed and a pass, another for others");
    data_shuffle(a, N, 7, 0);
    data_shuffle(b, N, 7, 0);
    CHECK(!memcmp(a, b, sizeof a));
    uint8_t seen[N] = { 0 };
    for (uint32_t i = 0; i < N; i++)
        if (CHECK(a[i] < N))
            CHECK_EQ(seen[a[i]]++, 0);
    data_shuffle(b, N, 7, 1);
    CHECK(memcmp(a, b, sizeof a));
    data_shuffle(b, N, 8, 0);
    CHECK(memcmp(a, b, sizeof a));
    static const uint32_t pinned[8] = { 4, 2, 0, 5, 6, 1, 7, 3 };
    data_shuffle(b, 8, 1, 0); /* on every machine, in every version: a resumed run needs it */
    for (uint32_t i = 0; i < 8; i++)
        CHECK_EQ(b[i], pinned[i]);
    for (uint32_t i = 0; i < 8000; i++) {
        data_shuffle(b, 8, i, 3);
        for (uint32_t k = 0; k < 8; k++)
            place[k] += b[k] == 0;
    }
    for (uint32_t k = 0; k < 8; k++) /* 1000 each, six standard deviations */
        CHECK_MSG(place[k] > 820 && place[k] < 1180, "0 at place %u: %u times", k, place[k]);
    data_shuffle(b, 0, 1, 1);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void put_file(const char *path, const char *text)
{
    struct hlm_err err = { 0 };
    CHECK_MSG(file_write_atomic(path, text, strlen(text), &err), "%s", err.msg);
}

static void test_split(void)
{
    static const struct {
        uint32_t n;
        double share;
        uint32_t want;
    } row[] = {
        { 1, 0.05, 0 },  { 2, 0.05, 1 },   { 4, 0.05, 1 }, { 29, 0.05, 1 },
        { 30, 0.05, 2 }, { 100, 0.05, 5 }, { 100, 0, 0 },  { 3, 0.99, 2 },
    };
    char path[400], text[8000];
    snprintf(path, sizeof path, "%s/split.jsonl", test_tmp());
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct data_params p = params("chatml");
        struct data d, again;
        struct hlm_err err = { 0 };
        size_t at = 0;
        uint8_t seen[100] = { 0 };
        test_case("%u lines, %g of them for validation: %u", row[i].n, row[i].share, row[i].want);
        for (uint32_t k = 0; k < row[i].n; k++) /* the two documents of a talk stay together */
            at += (size_t)snprintf(text + at, sizeof text - at, "%s\n",
                                   row[i].n <= 30 ? talk2 : "{\"text\":\"abc\"}");
        put_file(path, text);
        p.valid = row[i].share;
        p.turns_each = true;
        p.seed = 5;
        if (!CHECK_MSG(data_load(&d, path, &p, &err), "%s", err.msg))
            continue;
        uint32_t each = row[i].n <= 30 ? 2 : 1;
        CHECK_EQ(d.valid.n_doc, each * row[i].want);
        CHECK_EQ(d.train.n_doc, each * (row[i].n - row[i].want));
        check_set(&d.train, 0);
        check_set(&d.valid, 0);
        for (uint32_t k = 0; k < d.train.n_doc; k++)
            seen[d.train.doc[k].line] |= 1;
        for (uint32_t k = 0; k < d.valid.n_doc; k++)
            seen[d.valid.doc[k].line] |= 2;
        for (uint32_t k = 0; k < row[i].n; k++)
            CHECK(seen[k] == 1 || seen[k] == 2);
        CHECK(data_load(&again, path, &p, &err) && again.valid.n_doc == d.valid.n_doc);
        for (uint32_t k = 0; k < d.valid.n_doc; k++)
            CHECK_EQ(again.valid.doc[k].line, d.valid.doc[k].line);
        data_free(&again);
        data_free(&d);
    }
    struct data_params p = params("chatml");
    struct data d;
    struct hlm_err err = { 0 };
    test_case("a share of one is none");
    p.valid = 1;
    CHECK(!data_load(&d, path, &p, &err) && strstr(err.msg, "a share of 1 for validation"));
    data_free(&d);
}

static void test_folder(void)
{
    char dir[400], path[500];
    struct data_params p = params("chatml");
    struct data d;
    struct hlm_err err = { 0 };
    test_case("a folder of three files, of one, of none; a file that is not there");
    p.valid = DATA_VALID;
    snprintf(dir, sizeof dir, "%s/data-folder", test_tmp());
    mkdir(dir, 0777);
    const char *const name[] = { "train.jsonl", "valid.jsonl", "test.jsonl" };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        remove(path);
    }
    CHECK(!data_load(&d, dir, &p, &err) && strstr(err.msg, "train.jsonl"));
    snprintf(path, sizeof path, "%s/train.jsonl", dir);
    put_file(path, "{\"text\":\"ab\"}\n{\"text\":\"abc\"}\n");
    err = (struct hlm_err){ 0 };
    CHECK_MSG(data_load(&d, dir, &p, &err), "%s", err.msg);
    CHECK(d.train.n_doc == 2 && !d.valid.n_doc && !d.test.n_doc); /* no share of a folder's */
    data_free(&d);
    for (int i = 1; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        put_file(path, i == 1 ? "{\"text\":\"v\"}" : "{\"text\":\"t\"}\n{\"text\":\"tt\"}\n\n");
    }
    CHECK_MSG(data_load(&d, dir, &p, &err), "%s", err.msg);
    CHECK(d.train.n_doc == 2 && d.valid.n_doc == 1 && d.test.n_doc == 2);
    data_free(&d);
    put_file(path, "{\"text\":\"t\"}\n{\n");
    CHECK(!data_load(&d, dir, &p, &err) && !d.train.ids && !d.valid.doc);
    CHECK_MSG(strstr(err.msg, "/test.jsonl:2: "), "%s", err.msg);
    err = (struct hlm_err){ 0 };
    snprintf(path, sizeof path, "%s/none.jsonl", dir);
    CHECK(!data_load(&d, path, &p, &err) && strstr(err.msg, "none.jsonl: No such file"));
}

/* ---- rows as a file -------------------------------------------------------------------------- */

/* One number or word of a small file changed: each such file is refused, and says why. */
static void test_read_bad(void)
{
    static const char whole[] =
        "{\"version\": 2, \"packed\": true, \"row_length\": 5, \"pad_id\": 7, "
        "\"counted_targets\": 2, \"options\": {\"lr\": 0.5, \"schedule\": {\"kind\": \"linear\"}},"
        "\"rows\": [{\"documents\": [0, 1], \"ids\": [1, 2, 3, 4, 7], "
        "\"target_mask\": [0, 1, 0, 1, 0], \"doc_index\": [0, 0, 1, 1, -1], "
        "\"positions\": [0, 1, 0, 1, 0], \"doc_starts\": [0, 2], \"doc_lengths\": [2, 2], "
        "\"padding\": 1}]}";
    static const struct {
        const char *from, *to, *why;
    } row[] = {
        { "\"version\": 2", "\"version\": 3", "\"version\" must be 2" },
        { "\"row_length\": 5", "\"row_length\": 0", "\"row_length\" must be null" },
        { "\"row_length\": 5", "\"row_length\": 6", "row 1: \"ids\" must be a list as long as" },
        { "\"pad_id\": 7", "\"pad_id\": 10", "\"pad_id\" is not in the vocabulary" },
        { "\"pad_id\": 7", "\"pad_id\": -1", "\"pad_id\" must be a whole number" },
        { "\"pad_id\": 7", "\"pad_id\": 8", "in the padding" },
        { "\"counted_targets\": 2", "\"counted_targets\": 3", "is not the sum" },
        { "\"packed\": true", "\"packed\": 1", "\"packed\" must be true or false" },
        { "0.5", "\"x\"", "\"lr\" must be a number from 0" },
        { "0.5", "-0.5", "\"lr\" must be a number from 0" },
        { "linear", "round", "\"schedule\" must be an object whose kind" },
        { "[1, 2, 3, 4, 7]", "[1, 2, 3, 10, 7]", "5 whole numbers from 0 to 9" },
        { "[1, 2, 3, 4, 7]", "[1, 2, 3, 4, 7.0]", "whole numbers" },
        { "[1, 2, 3, 4, 7]", "[]", "of one id at least" },
        { "[1, 2, 3, 4, 7]", "7", "of one id at least" },
        { "[0, 1, 0, 1, 0]", "[0, 1, 0, 2, 0]", "\"target_mask\" must be a list of 5" },
        { "[0, 1, 0, 1, 0]", "[0, 1, 0, 1]", "\"target_mask\" must be a list of 5" },
        { "[0, 1, 0, 1, 0]", "[1, 1, 0, 0, 0]", "counts padding or the first token" },
        { "[0, 1, 0, 1, 0]", "[0, 1, 0, 0, 1]", "counts padding or the first token" },
        { "[0, 0, 1, 1, -1]", "[0, 0, 0, 1, -1]", "\"doc_index\" is not what" },
        { "\"positions\": [0, 1, 0", "\"positions\": [0, 1, 2", "\"positions\" do not run" },
        { "[0, 2]", "[0, 3]", "\"doc_starts\" leave a gap" },
        { "[0, 2]", "[]", "\"doc_starts\" must be a list" },
        { "[2, 2]", "[2, 4]", "\"doc_lengths\" are more than" },
        { "[2, 2]", "[2, 0]", "whole numbers from 1" },
        { "[2, 2]", "[2]", "\"doc_lengths\" must be a list of 2" },
        { "\"padding\": 1", "\"padding\": 0", "\"padding\" and \"doc_lengths\"" },
        { "[{", "[3, {", "row 1 is not an object" },
        { "\"rows\"", "\"row\"", "\"rows\" must be a list" },
        { "}]}", "}]", "line 1: " },
    };
    struct data_rows r;
    struct hlm_train_options o;
    struct hlm_err err = { 0 };
    bool has;
    test_case("a small file of rows");
    CHECK_MSG(data_read_text(whole, sizeof whole - 1, "rows.json", 10, &r, &o, &has, &err), "%s",
              err.msg);
    CHECK(has && o.lr == 0.5 && o.peak == 0.5 && o.schedule == HLM_LINEAR && r.n_row == 1 &&
          o.beta2 == data_options_default().beta2 && r.n_counted == 2 && r.row[0].n_doc == 2);
    data_rows_free(&r);
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        char text[1000];
        test_case("rows with %s for %s: %s", row[i].to, row[i].from, row[i].why);
        const char *at = strstr(whole, row[i].from);
        if (!CHECK(at))
            continue;
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - whole), whole, row[i].to,
                 at + strlen(row[i].from));
        err = (struct hlm_err){ 0 };
        CHECK(!data_read_text(text, strlen(text), "rows.json", 10, &r, &o, &has, &err) && !r.row);
        CHECK_MSG(!strncmp(err.msg, "rows.json: ", 11) && strstr(err.msg, row[i].why),
                  "message: %s", err.msg);
    }
}

/* Every allocation fails once: told, nothing left behind, and never a line skipped for it. */
static void test_no_memory(void)
{
    char path[400];
    struct data_params p = params("qwen35");
    struct data d;
    struct data_rows r = { 0 };
    uint64_t n = 0, left = 0;
    test_case("no memory at any call");
    snprintf(path, sizeof path, "%s/memory.jsonl", test_tmp());
    char text[600];
    snprintf(text, sizeof text, "%s\n%s\n{\"text\":\"abc\"}\n", talk2, thought2);
    put_file(path, text);
    p.skip_bad = true;
    p.valid = 0.3;
    for (uint64_t i = 1; !left && i < 2000; i++) {
        struct hlm_err err = { 0 };
        char *dump = NULL;
        mem_test_fail(i);
        bool ok = data_load(&d, path, &p, &err) && data_pack(&r, &d.train, NULL, 200, 0, &err) &&
                  (dump = data_dump_text(&r, NULL, "x", "messages", &n, &err));
        left = mem_test_fail(0);
        CHECK_EQ(ok, left != 0);
        CHECK_MSG(ok || strstr(err.msg, "memory"), "call %llu: %s", (unsigned long long)i, err.msg);
        CHECK_EQ(d.train.counts.n_bad, 0);
        free(dump);
        data_rows_free(&r);
        data_free(&d);
    }
    CHECK(left);
}

void test_data(void)
{
    struct hlm_err err = { 0 };
    test_case("a vocabulary for the tests of data");
    vocab = gguf_open(fixture("train/qwen35/model.gguf"), &err);
    tok = vocab ? tok_create(vocab, &err) : NULL;
    if (!CHECK_MSG(tok, "%s", err.msg)) {
        gguf_close(vocab);
        return;
    }
    test_reference();
    test_masks(masks, ARRAY_LEN(masks));
    test_masks(tool_masks, ARRAY_LEN(tool_masks));
    test_tool_list();
    test_no_tools();
    test_prompt_wins();
    test_exact_prompt();
    test_bos();
    test_malformed();
    test_hostile();
    test_long_tools();
    test_cut();
    test_pack();
    test_shuffle();
    test_split();
    test_folder();
    test_read_bad();
    test_no_memory();
    tok_destroy(tok);
    gguf_close(vocab);
}
