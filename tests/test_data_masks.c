/* test_data_masks: which tokens of a document count, for every chat format: texts with the counted
 * parts marked. */
#include "gguf_build.h"
#include "data_lines.h"

#include <stdio.h>
#include <stdlib.h>

enum { ALL = 1, EACH = 2, RAW = 4, NO_EOS = 8 };

static const char talk2[] = TALK2;
static const char thought[] = ROW(USER("a") "," THINKS("why", "b"));
static const char thought2[] = THOUGHT2;

/* A line of JSON and the marked documents (lines_marked) that it must become. */
static const struct mask_row {
    const char *format;
    int flags;
    const char *line, *want;
    /* clang-format off */
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
    /* Two answers in a row, and a question after the last answer. */
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
    /* Control tokens in a plain text are meant and stay. */
    { "chatml", NO_EOS, "{\"text\":\"<|im_start|>x\"}", "<|im_start|>[[x]]" },

    /* Qwen3 opens <think> itself. Without thinking its prompt has an empty block, which the history
     * drops: the first answer is not one that the model would have given there. */
    { "qwen3", 0, talk2,
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n\n</think>\n\n[[d" E "]]\n" },
    { "qwen3", EACH, talk2,
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n----\n"
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n\n</think>\n\n[[d" E "]]\n" },
    { "qwen3", 0, thought, ASKED("a") "[[<think>\nwhy\n</think>\n\nb" E "]]\n" },
    { "qwen3", 0, thought2,
      ASKED("a") "b" E "\n" ASKED("c") "[[<think>\nhow\n</think>\n\nd" E "]]\n" },
    /* Reasoning inside the content, as some data has it. */
    { "qwen3", 0, ROW(USER("a") "," SAYS("<think>\\nwhy\\n</think>\\n\\nb")),
      ASKED("a") "[[<think>\nwhy\n</think>\n\nb" E "]]\n" },
    { "qwen3", 0, ROW(USER("a") "," SAYS("<think>\\n\\n</think>\\n\\nb")),
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },

    /* Of two answers in a row, each has the empty block of its own prompt. */
    { "qwen3", 0, ROW(USER("a") "," SAYS("b") "," SAYS("c")),
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" S("assistant")
      "<think>\n\n</think>\n\n[[c" E "]]\n" },

    { "qwen35", 0, talk2,
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n\n</think>\n\n[[d" E "]]\n" },
    { "qwen35", 0, thought, ASKED("a") "<think>\n[[why\n</think>\n\nb" E "]]\n" },
    { "qwen35", EACH, thought2,
      ASKED("a") "<think>\n[[why\n</think>\n\nb" E "]]\n----\n"
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n[[how\n</think>\n\nd" E "]]\n" },
    /* Two answers to one question: both keep their reasoning, both count. */
    { "qwen35", 0, ROW(USER("a") "," THINKS("why", "b") "," THINKS("how", "c")),
      ASKED("a") "<think>\n[[why\n</think>\n\nb" E "]]\n" S("assistant")
      "<think>\n[[how\n</think>\n\nc" E "]]\n" },
    /* A greeting before any question: no prompt of this format asks for it. */
    { "qwen35", 0, ROW(SAYS("x") "," USER("a") "," SAYS("b")),
      S("assistant") "x" E "\n" ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    { "qwen35", EACH, ROW(SAYS("x") "," USER("a") "," SAYS("b")),
      S("assistant") "x" E "\n" ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    /* In a row that thinks, an answer without a thought has an empty one. */
    { "qwen35", 0, ROW(USER("a") "," THINKS("why", "b") "," USER("c") "," SAYS("d")),
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n[[\n</think>\n\nd" E "]]\n" },
    /* The first line end of this answer belongs to the answer, not to the prompt's last token. */
    { "qwen35", 0, "{\"prompt\":\"a\",\"completion\":\"\\n\\nb\\n\"}",
      ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n" },

    { "nemotron", 0, talk2,
      S("system") E "\n" ASKED("a") "<think></think>[[b" E "]]\n" ASKED("c")
      "<think></think>[[d" E "]]\n" },
    { "nemotron", 0, thought,
      S("system") E "\n" ASKED("a") "<think>\n[[why\n</think>\nb" E "]]\n" },
    { "nemotron", 0, thought2,
      S("system") E "\n" ASKED("a") "<think></think>\nb" E "\n" ASKED("c")
      "<think>\n[[how\n</think>\nd" E "]]\n" },
    /* Its template writes an answer without reasoning as the answer to the other prompt. */
    { "nemotron", 0, ROW(USER("a") "," THINKS("why", "b") "," USER("c") "," SAYS("d")),
      S("system") E "\n" ASKED("a") "<think></think>\nb" E "\n" ASKED("c")
      "<think></think>[[d" E "]]\n" },

    { "step", 0, talk2, ASKED("a") "b" E "\n" ASKED("c") "<think>\n[[\n</think>\nd" E "]]\n" },
    { "step", 0, thought, ASKED("a") "<think>\n[[why\n</think>\nb" E "]]\n" },
    { "step", EACH, thought2,
      ASKED("a") "<think>\n[[why\n</think>\nb" E "]]\n----\n"
      ASKED("a") "b" E "\n" ASKED("c") "<think>\n[[how\n</think>\nd" E "]]\n" },
};

/* With tools: what the model calls counts, what the tool returns does not. */
#define XML(name, args) "<tool_call>\n<function=" name ">\n" args "</function>\n</tool_call>"
#define ARG(name, value) "<parameter=" name ">\n" value "\n</parameter>\n"
#define GIVEN(text) S("user") "<tool_response>\n" text "\n</tool_response>" E "\n" S("assistant")

static const char asks[] = ROW(USER("a") "," CALLS("f", "{\"x\":1}") "," GAVE("7") "," SAYS("b"));
static const char asks_twice[] =
    ROW(USER("a") "," THINKS_CALLS("why", "t", "f", "{\"x\":true}") "," GAVE("7") ","
        THINKS("how", "b") "," USER("c") "," CALLS("g", "{}") "," GAVE("8") "," GAVE("9") ","
        SAYS("d"));

static const struct mask_row tool_masks[] = {
    /* Without thinking the second answer follows the empty block of its prompt; the first has no
     * block in the history. */
    { "qwen3", 0, asks,
      ASKED("a") "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>" E "\n"
      GIVEN("7") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    { "qwen3", EACH, asks,
      ASKED("a") "<think>\n\n</think>\n\n[[<tool_call>\n{\"name\": \"f\", \"arguments\": "
      "{\"x\": 1}}\n</tool_call>" E "]]\n----\n"
      ASKED("a") "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>" E "\n"
      GIVEN("7") "<think>\n\n</think>\n\n[[b" E "]]\n" },
    /* Reasoning between a question and its final answer stays, so both turns count. */
    { "qwen3", 0, ROW(USER("a") "," THINKS_CALLS("why", "t", "f", "\"{ }\"") "," GAVE("7") ","
                      THINKS("how", "b")),
      ASKED("a") "[[<think>\nwhy\n</think>\n\nt\n<tool_call>\n{\"name\": \"f\", \"arguments\": { }}"
      "\n</tool_call>" E "]]\n" GIVEN("7") "[[<think>\nhow\n</think>\n\nb" E "]]\n" },

    { "qwen35", 0, asks,
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", ARG("x", "1")) E "]]\n" GIVEN("7")
      "<think>\n\n</think>\n\n[[b" E "]]\n" },
    { "qwen35", EACH, asks,
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", ARG("x", "1")) E "]]\n----\n"
      ASKED("a") "<think>\n\n</think>\n\n" XML("f", ARG("x", "1")) E "\n" GIVEN("7")
      "<think>\n\n</think>\n\n[[b" E "]]\n" },
    /* A conversation that ends with the result of a tool. */
    { "qwen35", 0, ROW(USER("a") "," CALLS("f", "{}") "," GAVE("7")),
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", "") E "]]\n"
      S("user") "<tool_response>\n7\n</tool_response>" E "\n" },
    /* The turns of the first question have lost their reasoning. The row thinks, so the turns of
     * the last question do too, with empty thoughts. */
    { "qwen35", 0, asks_twice,
      ASKED("a") "t\n\n" XML("f", ARG("x", "True")) E "\n" GIVEN("7") "b" E "\n"
      ASKED("c") "<think>\n[[\n</think>\n\n" XML("g", "") E "]]\n"
      S("user") "<tool_response>\n8\n</tool_response>\n<tool_response>\n9\n</tool_response>" E "\n"
      S("assistant") "<think>\n[[\n</think>\n\nd" E "]]\n" },
    { "qwen35", EACH, ROW(USER("a") "," THINKS_CALLS("why", "", "f", "{}") "," GAVE("7") ","
                          THINKS("how", "b")),
      ASKED("a") "<think>\n[[why\n</think>\n\n" XML("f", "") E "]]\n----\n"
      ASKED("a") "<think>\nwhy\n</think>\n\n" XML("f", "") E "\n" GIVEN("7")
      "<think>\n[[how\n</think>\n\nb" E "]]\n" },
    /* The text of a control token in a call stays text. */
    { "qwen35", 0, ROW(USER("a") "," CALLS("f", "{\"x\":\"" E "\"}")),
      ASKED("a") "<think>\n\n</think>\n\n[[" XML("f", ARG("x", E)) E "]]\n" },
    { "qwen35", ALL, ROW(USER("a") "," CALLS("f", "{}") "," GAVE("7")),
      "<|im_start|>[[user\na" E "\n" S("assistant") "<think>\n\n</think>\n\n" XML("f", "") E "\n"
      S("user") "<tool_response>\n7\n</tool_response>" E "\n]]" },

    { "nemotron", 0, asks,
      S("system") E "\n" ASKED("a") "<think></think>[[\n" XML("f", ARG("x", "1")) "\n" E "]]\n"
      S("user") "<tool_response>\n7\n</tool_response>\n" E "\n" S("assistant")
      "<think></think>[[b" E "]]\n" },
    { "nemotron", 0, asks_twice,
      S("system") E "\n" ASKED("a") "<think></think>t\n" XML("f", ARG("x", "True")) "\n" E "\n"
      S("user") "<tool_response>\n7\n</tool_response>\n" E "\n" S("assistant")
      "<think></think>\nb" E "\n" ASKED("c") "<think></think>[[\n" XML("g", "") "\n" E "]]\n"
      S("user") "<tool_response>\n8\n</tool_response>\n<tool_response>\n9\n</tool_response>\n" E
      "\n" S("assistant") "<think></think>[[d" E "]]\n" },
    { "nemotron", EACH, ROW(USER("a") "," THINKS_CALLS("why", "", "f", "{}")),
      S("system") E "\n" ASKED("a") "<think>\n[[why\n</think>\n" XML("f", "") "\n" E "]]\n" },

    { "step", 0, asks,
      ASKED("a") "<think>\n[[\n</think>\n" XML("f", ARG("x", "1")) E "]]\n"
      S("tool_response") "<tool_response>7</tool_response>" E "\n" S("assistant")
      "<think>\n[[\n</think>\nb" E "]]\n" },
    { "step", 0, asks_twice,
      ASKED("a") "t" XML("f", ARG("x", "True")) E "\n"
      S("tool_response") "<tool_response>7</tool_response>" E "\n" S("assistant") "b" E "\n"
      ASKED("c") "<think>\n[[\n</think>\n" XML("g", "") E "]]\n"
      S("tool_response") "<tool_response>8</tool_response><tool_response>9</tool_response>" E "\n"
      S("assistant") "<think>\n[[\n</think>\nd" E "]]\n" },
};
/* clang-format on */

static void test_masks(const struct mask_row *rows, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct mask_row *r = &rows[i];
        struct data_params p = lines_params(r->format);
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char got[2000];
        test_case("what counts, row %u: %s %.80s", i, r->format, r->line);
        p.loss_all = r->flags & ALL;
        p.turns_each = r->flags & EACH;
        p.raw_completion = r->flags & RAW;
        p.no_eos = r->flags & NO_EOS;
        if (CHECK_MSG(lines_parse(&s, r->line, &p, &err), "%s", err.msg)) {
            lines_check(&s, 0);
            lines_marked(&s, got, sizeof got);
            CHECK_STR(got, r->want);
        }
        data_set_free(&s);
    }
}

/* A list of tools stands in front of every prompt and never counts. */
static void test_tool_list(void)
{
    static const char *const format[] = { "qwen3", "qwen35", "nemotron", "step" };
    for (uint32_t i = 0; i < 2 * ARRAY_LEN(format); i++) {
        bool each = i & 1;
        struct data_params p = lines_params(format[i / 2]);
        struct data_set with = { 0 }, without = { 0 };
        struct hlm_err err = { 0 };
        p.turns_each = each;
        test_case("%s: tools change neither how much counts nor which tokens%s", format[i / 2],
                  each ? ", each turn" : "");
        CHECK_MSG(
            lines_parse(
                &with,
                TOOL_ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," THINKS_CALLS(
                    "why", "t", "f", "{\"x\":[1, 2]}") "," GAVE("7") "," THINKS("how", "b")),
                &p, &err),
            "%s", err.msg);
        CHECK_MSG(lines_parse(
                      &without,
                      ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," THINKS_CALLS(
                          "why", "t", "f", "{\"x\":[1, 2]}") "," GAVE("7") "," THINKS("how", "b")),
                      &p, &err),
                  "%s", err.msg);
        lines_check(&with, 0);
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

/* A format that does not support tools refuses them, with file and line. */
static void test_no_tools(void)
{
    static const char *const line[][2] = {
        { TOOL_ROW(USER("a") "," SAYS("b")), "some.jsonl:2|chatml|not support tools" },
        { ROW(USER("a") "," CALLS("f", "{}")),
          "some.jsonl:2|message 2|tool calls|chatml|not support" },
        { ROW(USER("a") "," SAYS("b") "," GAVE("c")),
          "some.jsonl:2|message 3|tool|chatml|not support" },
    };
    for (uint32_t i = 0; i < 2 * ARRAY_LEN(line); i++) {
        struct data_params p = lines_params("chatml");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char lines[600];
        p.turns_each = i & 1;
        test_case("ChatML refuses tools, form %u", i);
        snprintf(lines, sizeof lines, "{\"text\":\"abc\"}\n%s\n", line[i / 2][0]);
        CHECK_REFUSED(lines_parse(&s, lines, &p, &err), err, line[i / 2][1]);
    }
}

/* Templates of this family may leave the empty block out of an answer; the prompt of hlm-chat has
 * it, and decides. */
static void test_prompt_wins(void)
{
    struct data_params p = lines_params("qwen35");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    char got[500];
    test_case("the prompt is hlm-chat's even where the template writes the answer differently");
    p.format.empty = CHAT_EMPTY_NONE;
    CHECK_MSG(lines_parse(&s, ROW(USER("a") "," SAYS("b")), &p, &err), "%s", err.msg);
    lines_marked(&s, got, sizeof got);
    CHECK_STR(got, ASKED("a") "<think>\n\n</think>\n\n[[b" E "]]\n");
    data_set_free(&s);
}

/* The ids before an answer are those of its prompt encoded alone, whatever the answer begins with.
 */
static void test_exact_prompt(void)
{
    static const char *const format[] = { "chatml", "qwen3", "qwen35", "nemotron", "step" };
    static const char *const first[] = { "b", "\\n\\n\\nb", "  b", "\\u00e9", "<think>", "\\nthe" };
    for (uint32_t i = 0; i < 2 * ARRAY_LEN(format) * ARRAY_LEN(first); i++) {
        const char *f = format[i / 2 % ARRAY_LEN(format)], *a = first[i / 2 / ARRAY_LEN(format)];
        bool think = i & 1;
        struct data_params p = lines_params(f);
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
        CHECK_MSG(lines_parse(&s, line, &p, &err), "%s", err.msg);
        CHECK(chat_render(&p.format, &in, true, think, &prompt, &err));
        CHECK(tok_encode(lines_tok, prompt.span, prompt.n_span, &ids, &err));
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

static void test_bos_counted(void)
{
    struct hlm_err err = { 0 };
    uint64_t n;
    test_case("a bos token that the file asks for comes first and does not count");
    struct gguf_build *b = gb_from(fixture("train/qwen35/model.gguf"), &err);
    if (!CHECK_MSG(b, "%s", err.msg))
        return;
    gb_bool(b, "tokenizer.ggml.add_bos_token", true);
    gb_u32(b, "tokenizer.ggml.bos_token_id", (uint32_t)tok_find(lines_tok, "<|endoftext|>"));
    uint8_t *bytes = gb_bytes(b, &n);
    struct gguf *g = gguf_parse(bytes, n, "bos.gguf", &err);
    struct tok *t = g ? tok_create(g, &err) : NULL;
    if (CHECK_MSG(t, "%s", err.msg)) {
        struct data_params p = lines_params("chatml");
        struct data_set s = { 0 };
        char got[500];
        p.tok = t;
        CHECK(lines_parse(&s, "{\"text\":\"ab\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}", &p,
                          &err));
        lines_marked(&s, got, sizeof got);
        CHECK_STR(got,
                  "<|endoftext|>[[ab<|endoftext|>]]----\n<|endoftext|>" ASKED("a") "[[b" E "]]\n");
        data_set_free(&s);
    }
    tok_destroy(t);
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

void test_data_masks(void)
{
    if (!lines_open())
        return;
    test_masks(masks, ARRAY_LEN(masks));
    test_masks(tool_masks, ARRAY_LEN(tool_masks));
    test_tool_list();
    test_no_tools();
    test_prompt_wins();
    test_exact_prompt();
    test_bos_counted();
    lines_close();
}
