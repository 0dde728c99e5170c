/* test_data_lines: malformed and hostile lines of training data, very long ones, and documents that
 * are cut or dropped. */
#include "data_lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __SANITIZE_ADDRESS__ /* whose reallocations copy: the walk over lines is what counts */
#define LONG_S 30.0
#else
#define LONG_S 3.0 /* most seconds for one line (test_long_tools) */
#endif

/* ---- refused lines --------------------------------------------------------------------------- */

/* Lines that are refused, and what the refusal says besides file and line. */
static const struct {
    const char *line, *says;
} malformed[] = {
    { "{", "column" },
    { "{\"text\":\"a\"} x", "column|end of file" },
    { "[1]", "object" },
    { "3", "column" },
    { "{}", "messages|prompt|text" },
    { "{\"txt\":\"a\"}", "messages|prompt|text" },
    { "{\"text\":\"a\",\"messages\":[]}", "more than one" },
    { "{\"text\":\"a\",\"completion\":\"b\"}", "more than one" },
    { "{\"text\":\"a\",\"text\":\"b\"}", "duplicate" },
    { "{\"text\":3}", "text|string" },
    { "{\"text\":null}", "none of|found \"text\" (null)" },
    { "{\"text\":\"\\u0000\"}", "column|\\u0000" },
    { "{\"text\":\"\xff\"}", "column|byte 0xff" },
    { "{\"text\":\"\xed\xa0\x80\"}", "column|byte 0xed" },
    { "{\"text\":\"\\ud800\"}", "column|Unicode" },
    { "{\"text\":\"a\tb\"}", "column|control character" },
    { "{\"prompt\":\"a\"}", "there is \"prompt\" and no \"completion\"" },
    { "{\"completion\":\"a\"}", "there is \"completion\" and no \"prompt\"" },
    { "{\"prompt\":[],\"completion\":\"a\"}", "prompt|completion|strings" },
    { "{\"messages\":{}}", "messages|list" },
    { "{\"messages\":[]}", "0 messages|1|1024" },
    { "{\"messages\":[1]}", "message 1|object" },
    { "{\"messages\":[{\"role\":\"user\"}]}", "message 1|content|string" },
    { ROW("{\"role\":\"function\",\"content\":\"x\"}"), "message 1|function" },
    { ROW(GAVE("x") "," USER("a")), "message 1|qwen35|first|tool" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{}]}",
      "tool 1|object|name" },
    { "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":{}}", "tools|list" },
    { "{\"prompt\":\"a\",\"completion\":\"b\",\"tools\":[{\"name\":\"f\"}]}", "tools|messages" },
    { ROW("{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}"),
      "message 1|call 1|name|string" },
    { ROW("{\"role\":\"user\",\"content\":null}"), "message 1|content|string" },
    { ROW("{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}"),
      "message 1|part 1|image|text" },
    { ROW(USER("a") "," CALLS("1", "\"{'x': 1}\"")), "message 2|call 1|arguments|JSON" },
    { ROW(USER("a") "," CALLS("1", "\"{\\\"x\\\":1,\\\"x\\\":2}\"")),
      "message 2|call 1|arguments|duplicate" },
};

static void test_malformed(void)
{
    static const char good[] = "{\"text\":\"abc\"}\n";
    for (uint32_t i = 0; i < ARRAY_LEN(malformed); i++) {
        struct data_params p = lines_params("qwen35");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char lines[400];
        test_case("malformed line %u: %s", i, malformed[i].says);
        snprintf(lines, sizeof lines, "%s%s\n%s", good, malformed[i].line, good);
        CHECK_REFUSED(lines_parse(&s, lines, &p, &err), err, "some.jsonl:2");
        CHECK_SAYS(err.msg, malformed[i].says);
        CHECK(!s.ids && !s.doc && !s.n_doc);
        p.skip_bad = true;
        err = (struct hlm_err){ 0 };
        CHECK_MSG(lines_parse(&s, lines, &p, &err), "%s", err.msg);
        lines_check(&s, 0);
        CHECK_EQ(s.n_doc, 2);
        CHECK_EQ(s.counts.n_bad, 1);
        CHECK_EQ(s.counts.bad_line, 2);
        CHECK_EQ(s.doc[1].line, 2);
        data_set_free(&s);
    }
}

static void test_odd_lines(void)
{
    struct data_params p = lines_params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    static const char nul[] = "{\"text\":\"a\0b\"}\n{\"text\":\"abc\"}";
    test_case("a NUL byte in a line; a byte order mark, empty lines, CR LF");
    CHECK_REFUSED(data_parse(&s, nul, sizeof nul - 1, "some.jsonl", &p, &err), err, "some.jsonl:1");
    err = (struct hlm_err){ 0 };
    CHECK(
        lines_parse(&s, "\xef\xbb\xbf\r\n{\"text\":\"ab\"}\r\n \t\n\n{\"text\":\"cd\"}", &p, &err));
    CHECK_EQ(s.n_doc, 2);
    CHECK_EQ(s.counts.n_line, 2);
    CHECK_EQ(s.doc[1].line, 4);
    data_set_free(&s);
}

static void test_nothing_to_learn(void)
{
    struct data_params p = lines_params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    test_case("nothing to learn from");
    CHECK_REFUSED(lines_parse(&s, "\n\n", &p, &err), err, "some.jsonl|no document|0 lines");
    CHECK_REFUSED(lines_parse(&s, ROW(USER("a")), &p, &err), err,
                  "some.jsonl|no document|0 malformed|1 without");
    p.skip_bad = true;
    CHECK_REFUSED(lines_parse(&s, "{", &p, &err), err, "some.jsonl|no document|1 malformed");
}

/* Deep nesting, too many messages and a very long line are refused or read without delay. */
static void test_hostile(void)
{
    struct data_params p = lines_params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    uint64_t n = 1 << 20;
    char *line = mem_alloc(n + 32, 1);
    HLM_ASSERT(line);
    test_case("a line of brackets, one of too many messages, one of a megabyte");
    memset(line, '[', n);
    CHECK_REFUSED(data_parse(&s, line, n, "deep.json", &p, &err), err, "deep.json:1|does not end");
    err = (struct hlm_err){ 0 };
    memcpy(line, "{\"a\":", 5);
    CHECK_REFUSED(data_parse(&s, line, n, "deep.jsonl", &p, &err), err, "deep.jsonl:1|depth");
    err = (struct hlm_err){ 0 };
    uint64_t at = (uint64_t)sprintf(line, "{\"messages\":[");
    for (int i = 0; i < 1025; i++)
        at += (uint64_t)sprintf(line + at, "%s{}", i ? "," : "");
    at += (uint64_t)sprintf(line + at, "]}");
    CHECK_REFUSED(data_parse(&s, line, at, "many.jsonl", &p, &err), err,
                  "many.jsonl:1|1025 messages|1|1024");
    err = (struct hlm_err){ 0 };
    memset(line, 'a', n);
    memcpy(line, "{\"text\":\"", 9);
    memcpy(line + n, "\"}", 3);
    p.max_seq = 100;
    CHECK_MSG(data_parse(&s, line, n + 2, "long.jsonl", &p, &err), "%s", err.msg);
    lines_check(&s, 100);
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

/* Every answer has the tools in its prompt. They are written once, and what is copied is bounded.
 * The test takes processor time, which other work on the machine does not change. If the tools were
 * written for every prompt, this line would take five times as long as it may. */
static void test_long_tools(void)
{
    struct data_params p = lines_params("qwen3");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    test_case("512 answers with a tool of half a megabyte, and with one of four");
    char *line = long_line(512, "\\\"x", 180000);
    clock_t began = clock();
    CHECK_MSG(lines_parse(&s, line, &p, &err), "%s", err.msg);
    double took = (double)(clock() - began) / CLOCKS_PER_SEC;
    CHECK_MSG(took < LONG_S, "a line took %.3g s, expected less than %g", took, LONG_S);
    CHECK_EQ(s.n_doc, 1);
    data_set_free(&s);
    free(line);
    line = long_line(512, "\\\"x", 1440000);
    for (uint32_t i = 0; i < 2; i++) {
        p.turns_each = i;
        CHECK_REFUSED(lines_parse(&s, line, &p, &err), err, "some.jsonl:1|512 answers|1073741824");
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
        struct data_params p = lines_params("chatml");
        struct data_set s = { 0 };
        struct hlm_err err = { 0 };
        char got[100];
        test_case("a text of four tokens where %u are possible", row[i].max_seq);
        p.max_seq = row[i].max_seq;
        bool ok = lines_parse(&s, "\n{\"text\":\"<|endoftext|>ab\"}", &p, &err);
        CHECK_EQ(ok, row[i].n_drop == 0);
        if (ok) {
            lines_check(&s, p.max_seq);
            lines_marked(&s, got, sizeof got);
            CHECK_STR(got, row[i].want);
            CHECK_EQ(s.counts.n_cut, row[i].n_cut);
            CHECK_EQ(s.counts.cut_line, row[i].n_cut ? 2 : 0);
            CHECK_EQ(s.counts.n_ids_cut, row[i].lost);
            CHECK_EQ(s.counts.longest, 4);
        }
        data_set_free(&s);
    }
    struct data_params p = lines_params("chatml");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    char got[400];
    test_case("conversations whose answer is cut off, or that have none, are dropped");
    p.max_seq = 40;
    CHECK(lines_parse(&s,
                      ROW(USER("a") "," SAYS("b")) "\n" ROW(
                          USER("0123456789012345678901234567890"
                               "123456789") "," SAYS("b")) "\n" ROW(USER("a")) "\n{\"text\":\"\"}",
                      &p, &err));
    lines_marked(&s, got, sizeof got);
    CHECK_EQ(s.n_doc, 1);
    CHECK_EQ(s.counts.n_dropped, 3);
    CHECK_EQ(s.counts.dropped_line, 2);
    CHECK_STR(got, ASKED("a") "[[b" E "]]\n");
    data_set_free(&s);
}

void test_data_lines(void)
{
    if (!lines_open())
        return;
    test_malformed();
    test_odd_lines();
    test_nothing_to_learn();
    test_hostile();
    test_long_tools();
    test_cut();
    lines_close();
}
