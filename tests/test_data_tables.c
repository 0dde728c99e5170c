/* test_data_tables: files of columns (CSV), JSON lists, and several files at once: the same
 * documents as the lines of JSON that they stand for, and errors that name the file and its line.
 */
#define _POSIX_C_SOURCE 200809L
#include "data_lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PAIR(q, a) "{\"prompt\":\"" q "\",\"completion\":\"" a "\"}\n"

static bool parse_as(struct data_set *s, const char *name, const char *text,
                     const struct data_params *p, struct hlm_err *err)
{
    return data_parse(s, text, strlen(text), name, p, err);
}

static const struct same_row {
    const char *what, *name, *text, *same;
    uint64_t last_line; /* in which the last document begins */
} same[] = {
    { "two columns", "a.csv", "prompt,completion\na,b\nc,d\n", PAIR("a", "b") PAIR("c", "d"), 3 },
    { "by its first line alone", "a.txt", "prompt,completion\na,b\n", PAIR("a", "b"), 2 },
    { "capitals, blanks, other columns and one without a name", "a.csv",
      ",Prompt , note,COMPLETION\n0,a,x,b\n", PAIR("a", "b"), 2 },
    { "a byte order mark, CRLF, blank lines", "a.csv",
      "\xef\xbb\xbfprompt,completion\r\n\r\na,b\r\n \r\nc,d", PAIR("a", "b") PAIR("c", "d"), 5 },
    { "semicolons", "a.csv", "prompt;completion\n\"a;a\";b,b\n", PAIR("a;a", "b,b"), 2 },
    { "tabs", "a.tsv", "prompt\tcompletion\na, a\tb\n\tc\n", PAIR("a, a", "b") "#", 3 },
    { "quotes, commas and line ends in quotes", "a.csv",
      "prompt,completion\n\"a \"\"b\"\",\nc\",\"d\"\n\"\"\"e\"\"\",f\"\"g\n",
      PAIR("a \\\"b\\\",\\nc", "d") PAIR("\\\"e\\\"", "f\\\"\\\"g"), 4 },
    { "a quote within a field is itself", "a.csv", "prompt,completion\nsix\" nails,5\" ones\n",
      PAIR("six\\\" nails", "5\\\" ones"), 2 },
    { "an empty field is no text, an empty text in quotes is one", "a.csv",
      "prompt,completion,text\na,b,\n,,c\n\"\",d,\n",
      PAIR("a", "b") "{\"text\":\"c\"}\n" PAIR("", "d"), 4 },
    { "question and answer, with a system message", "a.csv",
      "question,answer,system\na,b,s\nc,d,\n",
      "{\"prompt\":\"a\",\"completion\":\"b\",\"system\":\"s\"}\n" PAIR("c", "d"), 3 },
    { "one column of texts", "a.CSV", "text\nabc\n\"d\ne\"\n",
      "{\"text\":\"abc\"}\n{\"text\":\"d\\ne\"}\n", 3 },
    { "a list of objects", "a.json",
      "[\n " PAIR("a", "b") ",\n{\"text\": \"],\\\"[\"},{\"messages\":[" USER("a") "," SAYS(
          "b") "]}\n]\n",
      PAIR("a", "b") "{\"text\": \"],\\\"[\"}\n" ROW(USER("a") "," SAYS("b")), 4 },
    { "a list under the name of lines", "a.jsonl", "\n [{\"text\":\n\"abc\"}]",
      "{\"text\":\"abc\"}", 2 },
};

/* The lines that a table stands for; '#' in them: nothing, the row is one that is dropped. */
static void test_same(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(same); i++) {
        const struct same_row *r = &same[i];
        struct data_params p = lines_params("qwen35");
        struct data_set a = { 0 }, b = { 0 };
        struct hlm_err err = { 0 };
        char want[400];
        bool drop = strchr(r->same, '#') != NULL;
        test_case("table: %s", r->what);
        snprintf(want, sizeof want, "%.*s", (int)strcspn(r->same, "#"), r->same);
        p.skip_bad = drop;
        if (CHECK_MSG(parse_as(&a, r->name, r->text, &p, &err), "%s", err.msg) &&
            CHECK_MSG(lines_parse(&b, want, &p, &err), "%s", err.msg) && CHECK_EQ(a.n_id, b.n_id) &&
            CHECK_EQ(a.n_counted, b.n_counted)) {
            CHECK(SAME(a.ids, b.ids, a.n_id) && SAME(a.mask, b.mask, a.n_id));
            CHECK_EQ(a.doc[a.n_doc - 1].line + 1 + a.counts.n_bad, r->last_line);
            lines_check(&a, 0);
        }
        data_set_free(&a);
        data_set_free(&b);
    }
}

static void test_refused(void)
{
    static const struct {
        const char *name, *text, *says;
    } row[] = {
        { "a.csv", "prompt,completion\na,b\n\"c,d\ne,f\n", "a.csv:3|quote|not closed" },
        { "a.csv", "prompt,completion\n\"a\n\",\"c\ne,f\n", "a.csv:3|quote|not closed" },
        { "a.csv", "prompt,completion\n\"a\" b,c\n", "a.csv:2|field 1|closing quote" },
        { "a.csv", "prompt,completion\na,b\na,b,c\n", "a.csv:3|more fields|2 columns" },
        { "a.csv", "prompt,completion\na\n", "a.csv:2|found 1 field,|2 columns" },
        { "a.csv", "prompt,completion\na,\xff\n", "a.csv:2|field 2|UTF-8" },
        { "a.csv", "prompt,completion\na,\n", "a.csv:2|there is \"prompt\"|no \"completion\"" },
        { "a.csv", "prompt,Prompt\na,b\n", "a.csv:1|two columns|\"prompt\"" },
        { "a.csv", "foo,bar\na,b\n", "a.csv:1|none of|found \"foo\", \"bar\"" },
        { "a.csv", "prompt,completion\n", "a.csv|no document|0 rows" },
        { "a.csv", "\xff\xfep", "a.csv|UTF-16|UTF-8" },
        { "a.txt", "once upon a time, there was\n", "a.txt:1|column 4|expected" },
        { "a.json", "[{\"text\":\"a\"},\n{\"text\":\"b\"", "a.json:2|list does not end" },
        { "a.json", "[{\"text\":\"a\"}\n", "a.json:1|list does not end" },
        { "a.json", "[{\"text\":\"a\"},\n\n{\"text\":\n7}]", "a.json:3|text|string" },
        { "a.json", "[{\"text\":\"a\"},\n{\"text\":\n\"b\",}]", "a.json:3|column" },
        { "a.json", "[{\"text\":\"a\"},\n]", "a.json:2|column" },
        { "a.json", "[{\"text\":\"a\"}]\n\n{", "a.json:3|after the end" },
        { "a.json", "[]", "a.json|no document|0 rows" },
        { "a.json", "[7]", "a.json:1|column" },
        { "a.json", "{\n \"data\": []}", "a.json:1" },
        { "a.json", "{\"data\": []}", "a.json:1|found \"data\"" },
    };
    struct data_params p = lines_params("qwen35");
    struct data_set s = { 0 };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        struct hlm_err err = { 0 };
        test_case("refused: %s, %u", row[i].says, i);
        CHECK_REFUSED(parse_as(&s, row[i].name, row[i].text, &p, &err), err, row[i].says);
    }
    char *wide = malloc(2000);
    struct hlm_err err = { 0 };
    HLM_ASSERT(wide);
    test_case("a table of too many columns, a column of too long a name, a zero byte");
    memset(wide, ',', 1999);
    wide[1999] = 0;
    CHECK_REFUSED(parse_as(&s, "wide.csv", wide, &p, &err), err, "wide.csv:1|256 columns");
    err = (struct hlm_err){ 0 };
    memset(wide, 'a', 1999);
    CHECK_REFUSED(parse_as(&s, "wide.csv", wide, &p, &err), err, "wide.csv:1|1999 bytes|200");
    err = (struct hlm_err){ 0 };
    CHECK_REFUSED(data_parse(&s, "text,n\na\0b,1\n", 13, "zero.csv", &p, &err), err,
                  "zero.csv:2|field 1|zero");
    free(wide);
}

/* A row that is malformed is skipped alone; a quote that is not closed is never skipped, as all
 * rows after it would be. */
static void test_skipped(void)
{
    struct data_params p = lines_params("qwen35");
    struct data_set s = { 0 };
    struct hlm_err err = { 0 };
    test_case("malformed rows of a table and of a list are skipped");
    p.skip_bad = true;
    if (CHECK_MSG(parse_as(&s, "a.csv", "text\na\n\"b\"c\nd,e\nf\n", &p, &err), "%s", err.msg))
        CHECK(s.n_doc == 2 && s.counts.n_bad == 2 && s.counts.bad_line == 3 && s.doc[1].line == 4);
    data_set_free(&s);
    if (CHECK_MSG(parse_as(&s, "a.json", "[{\"text\":\"a\"},\n7,\n{\"text\":\"b\"}]", &p, &err),
                  "%s", err.msg))
        CHECK(s.n_doc == 2 && s.counts.n_bad == 1 && s.counts.bad_line == 2 && s.doc[1].line == 2);
    data_set_free(&s);
    CHECK_REFUSED(parse_as(&s, "a.csv", "text\na\n\"b\nc\n", &p, &err), err, "a.csv:3|not closed");
}

/* ---- several files --------------------------------------------------------------------------- */

static const char *in_tmp(const char *name)
{
    static char path[4][500];
    static uint32_t i;
    char *to = path[i++ % 4];
    snprintf(to, sizeof path[0], "%s/%s", test_tmp(), name);
    return to;
}

static void test_several(void)
{
    struct data_params p = lines_params("qwen35");
    struct data d;
    struct hlm_err err = { 0 };
    const char *a = in_tmp("several-a.csv"), *b = in_tmp("several-b.jsonl"),
               *c = in_tmp("several-c.json");
    test_case("several files, and files of validation");
    lines_file(a, "prompt,completion\na,b\nc,d\n");
    lines_file(b, "{\"text\":\"abc\"}\n");
    lines_file(c, "[{\"text\":\"v\"}, {\"text\":\"w\"}]");
    struct data_files f = {
        .train = (const char *[]){ a, b }, .n_train = 2, .valid = &c, .n_valid = 1
    };
    p.valid = -1;
    if (CHECK_MSG(data_load(&d, &f, &p, &err), "%s", err.msg)) {
        CHECK(d.train.n_doc == 3 && d.valid.n_doc == 2 && !d.test.n_doc);
        CHECK(d.train.doc[1].line == 2 && d.train.doc[2].line == 3); /* numbered through */
        CHECK(d.train.counts.n_line == 3 && d.valid.counts.n_line == 2);
        lines_check(&d.train, 0);
        data_free(&d);
    }
    f.n_valid = 0;
    p.valid = 0.34;
    if (CHECK_MSG(data_load(&d, &f, &p, &err), "%s", err.msg)) {
        CHECK(d.train.n_doc == 2 && d.valid.n_doc == 1); /* a share of all files */
        lines_check(&d.valid, 0);
        data_free(&d);
    }
    f.n_valid = 1;
    CHECK_REFUSED(data_load(&d, &f, &p, &err), err, "several-c.json|share of 0.34");
    err = (struct hlm_err){ 0 };
    p.valid = -1;
    lines_file(b, "{\"text\":\"abc\"}\n{\"text\":7}\n");
    CHECK_REFUSED(data_load(&d, &f, &p, &err), err, "several-b.jsonl:2|text|string");
    CHECK(!d.train.ids && !d.valid.ids);
    err = (struct hlm_err){ 0 };
    f.train = (const char *[]){ b, test_tmp() };
    CHECK_REFUSED(data_load(&d, &f, &p, &err), err, "folder cannot be combined");
}

static void test_folder_of_tables(void)
{
    struct data_params p = lines_params("qwen35");
    struct data d;
    struct hlm_err err = { 0 };
    const char *dir = in_tmp("tables"), *train = in_tmp("tables/train.csv"),
               *valid = in_tmp("tables/valid.json"), *both = in_tmp("tables/train.jsonl");
    test_case("a folder of a table and a list");
    mkdir(dir, 0777);
    remove(both);
    lines_file(train, "text\nabc\n");
    lines_file(valid, "[{\"text\":\"v\"}]");
    if (CHECK_MSG(data_load(&d, ONE(dir), &p, &err), "%s", err.msg))
        CHECK(d.train.n_doc == 1 && d.valid.n_doc == 1);
    data_free(&d);
    lines_file(both, "{\"text\":\"a\"}\n");
    CHECK_REFUSED(data_load(&d, ONE(dir), &p, &err), err, "tables/train.jsonl|also train.csv");
}

void test_data_tables(void)
{
    if (!lines_open())
        return;
    test_same();
    test_refused();
    test_skipped();
    test_several();
    test_folder_of_tables();
    lines_close();
}
