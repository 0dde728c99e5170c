/* test_data_forms: the forms in which people have training data, each against the messages, pair or
 * text that it means; which answers a row says are not to be learnt; the keys that are passed over;
 * answers that do not count. */
#include "data_lines.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the same documents ---------------------------------------------------------------------- */

enum { RAW = 1 };

/* A row, and a row in hlm's own form that means the same. */
static const struct form_row {
    const char *what, *row, *same;
    int flags;
} forms[] = {
    { "prompt and response", "{\"prompt\":\"a\",\"response\":\"b\"}", ROW(USER("a") "," SAYS("b")),
      0 },
    { "prompt and response as texts", "{\"prompt\":\"a\",\"response\":\"b\"}",
      "{\"prompt\":\"a\",\"completion\":\"b\"}", RAW },
    { "question and answer", "{\"question\":\"a\",\"answer\":\"b\"}", ROW(USER("a") "," SAYS("b")),
      0 },
    { "input and output", "{\"input\":\"a\",\"output\":\"b\"}", ROW(USER("a") "," SAYS("b")), 0 },
    { "a system text beside a pair",
      "{\"system_prompt\":\"s\",\"question\":\"a\",\"response\":\"b\"}",
      ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," SAYS("b")), 0 },
    { "an empty system text", "{\"system\":\"\",\"prompt\":\"a\",\"response\":\"b\"}",
      ROW(USER("a") "," SAYS("b")), 0 },
    { "Alpaca", "{\"instruction\":\"a\",\"input\":\"in\",\"output\":\"b\"}",
      ROW(USER("a\\nin") "," SAYS("b")), 0 },
    { "Alpaca without input", "{\"instruction\":\"a\",\"input\":\"\",\"output\":\"b\",\"id\":7}",
      ROW(USER("a") "," SAYS("b")), 0 },
    { "ShareGPT",
      "{\"conversations\":[{\"from\":\"system\",\"value\":\"s\"},{\"from\":\"human\",\"value\":"
      "\"a\"},"
      "{\"from\":\"gpt\",\"value\":\"b\"},{\"from\":\"user\",\"value\":\"c\"},"
      "{\"from\":\"assistant\",\"value\":\"d\"}]}",
      ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," SAYS("b") "," USER("c") "," SAYS(
          "d")),
      0 },
    { "ShareGPT with a system text and calls",
      "{\"system\":\"s\",\"tools\":\"[{\\\"name\\\":\\\"f\\\"}]\",\"conversations\":["
      "{\"from\":\"human\",\"value\":\"a\"},"
      "{\"from\":\"function_call\",\"value\":\"{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{"
      "\\\"x\\\":1}}\"},"
      "{\"from\":\"observation\",\"value\":\"1\"},{\"from\":\"gpt\",\"value\":\"b\"}]}",
      TOOL_ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," CALLS(
          "f", "{\"x\":1}") "," GAVE("1") "," SAYS("b")),
      0 },
    { "conversations with roles", "{\"conversations\":[" USER("a") "," SAYS("b") "]}",
      ROW(USER("a") "," SAYS("b")), 0 },
    { "messages with from and value",
      "{\"messages\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"}]}",
      ROW(USER("a") "," SAYS("b")), 0 },
    { "content as parts",
      "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
      "{\"type\":\"text\",\"text\":\"c\"}]}," SAYS("b") "]}",
      ROW(USER("ac") "," SAYS("b")), 0 },
    { "messages beside their first question",
      "{\"prompt\":\"a\",\"answer\":\"x\",\"messages\":[" USER("a") "," SAYS("b") "]}",
      ROW(USER("a") "," SAYS("b")), 0 },
    { "a table with columns that a row does not use",
      "{\"messages\":[" USER("a") "," SAYS(
          "b") "],\"text\":null,\"prompt\":null,"
               "\"instruction\":null,\"completion\":null,\"tools\":null}",
      ROW(USER("a") "," SAYS("b")), 0 },
    { "empty tools and an empty system text before another",
      "{\"tools\":\"\",\"system\":\"\",\"system_prompt\":\"s\",\"prompt\":\"a\",\"response\":"
      "\"b\"}",
      ROW("{\"role\":\"system\",\"content\":\"s\"}," USER("a") "," SAYS("b")), 0 },
    { "a text beside other columns", "{\"text\":\"abc\",\"instruction\":\"a\",\"output\":\"b\"}",
      "{\"text\":\"abc\"}", 0 },
};

static void same_documents(const char *got, const char *want, const struct data_params *p,
                           const char *format)
{
    struct data_set a = { 0 }, b = { 0 };
    struct hlm_err err = { 0 };
    if (CHECK_MSG(lines_parse(&a, got, p, &err), "%s: %s", format, err.msg) &&
        CHECK_MSG(lines_parse(&b, want, p, &err), "%s: %s", format, err.msg) &&
        CHECK_EQ(a.n_id, b.n_id) && CHECK_EQ(a.n_counted, b.n_counted)) {
        CHECK(SAME(a.ids, b.ids, a.n_id));
        CHECK(SAME(a.mask, b.mask, a.n_id));
        lines_check(&a, 0);
    }
    data_set_free(&a);
    data_set_free(&b);
}

static void mute(void *user, enum hlm_log_level level, const char *msg)
{
    (void)level;
    if (user)
        snprintf(user, 1000, "%s", msg);
}

static void test_forms(void)
{
    static const char *const formats[] = { "qwen35", "qwen3" };
    test_log(mute, NULL);
    for (uint32_t i = 0; i < ARRAY_LEN(forms); i++) {
        test_case("form: %s", forms[i].what);
        for (uint32_t k = 0; k < ARRAY_LEN(formats); k++) {
            struct data_params p = lines_params(formats[k]);
            p.raw_completion = forms[i].flags & RAW;
            same_documents(forms[i].row, forms[i].same, &p, formats[k]);
        }
    }
    test_log(NULL, NULL);
}

static void test_refused_forms(void)
{
    static const struct {
        const char *row, *says;
    } rows[] = {
        { "{\"a\":1,\"b\\u001b\":2}",
          "none of|messages|conversations|instruction|text|found|\"a\", \"b?\"" },
        { "{}", "none of|found|no key" },
        { "{\"messages\":[],\"conversations\":[]}",
          "more than one|found|\"messages\", \"conversations\"" },
        { "{\"prompt\":\"a\",\"question\":\"b\",\"response\":\"c\"}",
          "more than one|found|\"question\"" },
        { "{\"prompt\":\"a\",\"completion\":\"b\",\"messages\":[]}", "more than one" },
        { "{\"instruction\":\"a\"}", "there is \"instruction\" and no \"output\"" },
        { "{\"instruction\":\"a\",\"input\":[],\"output\":\"b\"}",
          "instruction|output|input|strings" },
        { "{\"response\":\"a\"}", "there is \"response\" and no \"prompt\"" },
        { "{\"conversations\":{}}", "\"conversations\"|list" },
        { "{\"conversations\":[{\"from\":\"alien\",\"value\":\"x\"}]}",
          "message 1|from|alien|human, gpt" },
        { "{\"conversations\":[{\"from\":3,\"value\":\"x\"}]}", "message 1|from|no string|human" },
        { "{\"conversations\":[{\"from\":\"human\"}]}", "message 1|content|string" },
        { "{\"conversations\":[{\"from\":\"function_call\",\"value\":\"f()\"}]}",
          "message 1|value|function_call|name|arguments" },
        { "{\"system\":7,\"messages\":[" USER("a") "]}", "system|string" },
        { "{\"tools\":\"[\",\"messages\":[" USER("a") "]}", "tools|JSON" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct data_params p = lines_params("qwen35");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        test_case("refused: %s", rows[i].says);
        CHECK_REFUSED(lines_parse(&s, rows[i].row, &p, &err), err, rows[i].says);
        CHECK_SAYS(err.msg, "some.jsonl:1");
    }
}

/* ---- what is not to be learnt ---------------------------------------------------------------- */

#define MARKED(text, mark) "{\"role\":\"assistant\",\"content\":\"" text "\"," mark "}"

static void test_marks(void)
{
    static const struct {
        const char *mark;
        bool skips;
    } marks[] = {
        { "\"weight\":0", true },    { "\"weight\":0.0", true },  { "\"weight\":false", true },
        { "\"train\":false", true }, { "\"training\":0", true },  { "\"loss\":false", true },
        { "\"weight\":1", false },   { "\"train\":true", false }, { "\"loss\":null", false },
        { "\"weight\":0.5", false }, { "\"mask\":true", false },  { "\"train\":\"no\"", false },
    };
    char line[400], got[400];
    test_log(mute, NULL);
    for (uint32_t i = 0; i < ARRAY_LEN(marks); i++) {
        struct data_params p = lines_params("chatml");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        test_case("an answer with %s %s", marks[i].mark,
                  marks[i].skips ? "is not learnt" : "counts");
        snprintf(line, sizeof line,
                 "{\"messages\":[" USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",%s}," USER(
                     "c") "," SAYS("d") "]}",
                 marks[i].mark);
        if (!CHECK_MSG(lines_parse(&s, line, &p, &err), "%s", err.msg))
            continue;
        lines_marked(&s, got, sizeof got);
        CHECK_STR(got, marks[i].skips ? ASKED("a") "b" E "\n" ASKED("c") "[[d" E "]]\n"
                                      : ASKED("a") "[[b" E "]]\n" ASKED("c") "[[d" E "]]\n");
        data_set_free(&s);

        p.turns_each = true; /* then it has no document */
        if (CHECK_MSG(lines_parse(&s, line, &p, &err), "%s", err.msg))
            CHECK_EQ(s.n_doc, marks[i].skips ? 1 : 2);
        data_set_free(&s);

        p.turns_each = false;
        p.loss_all = true; /* not even then does it count */
        if (!CHECK_MSG(lines_parse(&s, line, &p, &err), "%s", err.msg))
            continue;
        lines_marked(&s, got, sizeof got);
        CHECK_STR(got, marks[i].skips ? "<|im_start|>[[user\na" E
                                        "\n" S("assistant") "]]b" E "\n[[" ASKED("c") "d" E "\n]]"
                                      : "<|im_start|>[[user\na" E
                                        "\n" S("assistant") "b" E "\n" ASKED("c") "d" E "\n]]");
        data_set_free(&s);
    }
    struct data_params p = lines_params("qwen35");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    test_case("the last answer is not learnt, the one before is");
    if (CHECK_MSG(
            lines_parse(&s, ROW(USER("a") "," SAYS("b") "," MARKED("c", "\"weight\":0")), &p, &err),
            "%s", err.msg)) {
        lines_marked(&s, got, sizeof got);
        CHECK(strstr(got, "[[b" E "]]") && !strstr(got, "[[c") && !strstr(got, "[[<think>"));
    }
    data_set_free(&s);
    test_case("a row of which nothing is to be learnt");
    CHECK_REFUSED(lines_parse(&s, ROW(USER("a") "," MARKED("c", "\"weight\":0")), &p, &err), err,
                  "no document|1 without");
    test_log(NULL, NULL);
}

static void test_passed_over(void)
{
    static const char lines[] =
        "{\"id\":1,\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"loss\":true},"
        "{\"role\":\"assistant\",\"content\":\"b\",\"mask\":1,\"id\":3,\"weight\":1}]}"
        "\n" ROW(USER("a") "," MARKED("b", "\"weight\":0.5")) "\n" ROW(
            USER("a") "," MARKED("b", "\"mask\":1")) "\n"
                                                     "{\"images\":[],\"text\":\"abc\"}\n";
    struct data_params p = lines_params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    char said[1000] = "";
    test_case("keys that other trainers obey are named once for each file");
    struct hlm_log was = log_get();
    log_to(&(struct hlm_log){ .fn = mute, .user = said });
    CHECK_MSG(lines_parse(&s, lines, &p, &err), "%s", err.msg);
    CHECK_STR(said,
              "some.jsonl: keys that are passed over: \"loss\" beside messages (first in line "
              "1), \"mask\" beside messages (first in line 1), \"weight\" beside messages "
              "(first in line 2), \"images\" in rows (first in line 4)");
    data_set_free(&s);
    *said = 0;
    CHECK_MSG(lines_parse(&s, TALK2, &p, &err), "%s", err.msg);
    CHECK_STR(said, "");
    log_to(&was);
    data_set_free(&s);
}

/* ---- answers that do not count --------------------------------------------------------------- */

static void test_unsaid(void)
{
    static const struct {
        const char *format;
        bool each, all;
        uint32_t n_unsaid;
    } rows[] = {
        { "chatml", false, false, 0 }, { "qwen35", false, false, 2 }, { "qwen3", false, false, 2 },
        { "step", false, false, 2 },   { "qwen35", true, false, 0 },  { "qwen35", false, true, 0 },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct data_params p = lines_params(rows[i].format);
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        test_case("%s%s%s: answers that do not count are counted", rows[i].format,
                  rows[i].each ? ", a document for each" : "",
                  rows[i].all ? ", every token counts" : "");
        p.turns_each = rows[i].each;
        p.loss_all = rows[i].all;
        if (CHECK_MSG(lines_parse(&s,
                                  "{\"text\":\"abc\"}\n" ROW(USER("a") "," SAYS("b") "," USER(
                                      "c") "," SAYS("d") "," USER("e") "," SAYS("f")),
                                  &p, &err),
                      "%s", err.msg)) {
            CHECK_EQ(s.counts.n_answer, 3);
            CHECK_EQ(s.counts.n_unsaid, rows[i].n_unsaid);
            CHECK_EQ(s.counts.unsaid_line, rows[i].n_unsaid ? 2 : 0);
        }
        data_set_free(&s);
    }
}

void test_data_forms(void)
{
    if (!lines_open())
        return;
    test_forms();
    test_refused_forms();
    test_marks();
    test_passed_over();
    test_unsaid();
    lines_close();
}
