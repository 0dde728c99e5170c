/* test_data_files: training data in files and folders, the share for validation, and memory that
 * runs out. */
#define _POSIX_C_SOURCE 200809L
#include "data_lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static void test_share(void)
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
        struct data_params p = lines_params("chatml");
        struct data d, again;
        struct hlm_err err = { 0 };
        size_t at = 0;
        uint8_t seen[100] = { 0 };
        test_case("%u lines, %g of them for validation: %u", row[i].n, row[i].share, row[i].want);
        for (uint32_t k = 0; k < row[i].n;
             k++) /* the two documents of a conversation stay together */
            at += (size_t)snprintf(text + at, sizeof text - at, "%s\n",
                                   row[i].n <= 30 ? TALK2 : "{\"text\":\"abc\"}");
        lines_file(path, text);
        p.valid = row[i].share;
        p.turns_each = true;
        p.seed = 5;
        if (!CHECK_MSG(data_load(&d, ONE(path), &p, &err), "%s", err.msg))
            continue;
        uint32_t each = row[i].n <= 30 ? 2 : 1;
        CHECK_EQ(d.valid.n_doc, each * row[i].want);
        CHECK_EQ(d.train.n_doc, each * (row[i].n - row[i].want));
        lines_check(&d.train, 0);
        lines_check(&d.valid, 0);
        for (uint32_t k = 0; k < d.train.n_doc; k++)
            seen[d.train.doc[k].line] |= 1;
        for (uint32_t k = 0; k < d.valid.n_doc; k++)
            seen[d.valid.doc[k].line] |= 2;
        for (uint32_t k = 0; k < row[i].n; k++)
            CHECK(seen[k] == 1 || seen[k] == 2);
        CHECK(data_load(&again, ONE(path), &p, &err) && again.valid.n_doc == d.valid.n_doc);
        for (uint32_t k = 0; k < d.valid.n_doc; k++)
            CHECK_EQ(again.valid.doc[k].line, d.valid.doc[k].line);
        data_free(&again);
        data_free(&d);
    }
    struct data_params p = lines_params("chatml");
    struct data d;
    struct hlm_err err = { 0 };
    test_case("a share of one is none");
    p.valid = 1;
    CHECK_REFUSED(data_load(&d, ONE(path), &p, &err), err, "share|1|validation");
    data_free(&d);
}

static void test_folder(void)
{
    char dir[400], path[500];
    struct data_params p = lines_params("chatml");
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
    CHECK_REFUSED(data_load(&d, ONE(dir), &p, &err), err, "data-folder/train.jsonl|No such file");
    snprintf(path, sizeof path, "%s/train.jsonl", dir);
    lines_file(path, "{\"text\":\"ab\"}\n{\"text\":\"abc\"}\n");
    err = (struct hlm_err){ 0 };
    CHECK_MSG(data_load(&d, ONE(dir), &p, &err), "%s", err.msg);
    CHECK(d.train.n_doc == 2 && !d.valid.n_doc && !d.test.n_doc); /* a folder is not shared out */
    data_free(&d);
    for (int i = 1; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        lines_file(path, i == 1 ? "{\"text\":\"v\"}" : "{\"text\":\"t\"}\n{\"text\":\"tt\"}\n\n");
    }
    CHECK_MSG(data_load(&d, ONE(dir), &p, &err), "%s", err.msg);
    CHECK(d.train.n_doc == 2 && d.valid.n_doc == 1 && d.test.n_doc == 2);
    data_free(&d);
    lines_file(path, "{\"text\":\"t\"}\n{\n");
    CHECK_REFUSED(data_load(&d, ONE(dir), &p, &err), err, "data-folder/test.jsonl:2");
    CHECK(!d.train.ids && !d.valid.doc);
    snprintf(path, sizeof path, "%s/none.jsonl", dir);
    CHECK_REFUSED(data_load(&d, ONE(path), &p, &err), err, "none.jsonl|No such file");
}

/* Every allocation fails once. The failure is reported, nothing is leaked, and no line is skipped
 * because of it. */
static void test_no_memory(void)
{
    char path[400];
    struct data_params p = lines_params("qwen35");
    struct data d;
    struct data_rows r = { 0 };
    uint64_t n = 0, left = 0;
    test_case("no memory at any call");
    snprintf(path, sizeof path, "%s/memory.jsonl", test_tmp());
    char text[600];
    snprintf(text, sizeof text, "%s\n%s\n{\"text\":\"abc\"}\n", TALK2, THOUGHT2);
    lines_file(path, text);
    p.skip_bad = true;
    p.valid = 0.3;
    for (uint64_t i = 1; !left && i < 2000; i++) {
        struct hlm_err err = { 0 };
        char *dump = NULL;
        mem_test_fail(i);
        bool ok = data_load(&d, ONE(path), &p, &err) &&
                  data_pack(&r, &d.train, NULL, 200, 0, &err) &&
                  (dump = data_dump_text(&r, NULL, "x", "messages", &n, &err));
        left = mem_test_fail(0);
        CHECK_EQ(ok, left != 0);
        CHECK_MSG(ok || test_has(err.msg, "memory"), "call %llu: %s", (unsigned long long)i,
                  err.msg);
        CHECK_EQ(d.train.counts.n_bad, 0);
        free(dump);
        data_rows_free(&r);
        data_free(&d);
    }
    CHECK(left);
}

void test_data_files(void)
{
    if (!lines_open())
        return;
    test_share();
    test_folder();
    test_no_memory();
    lines_close();
}
