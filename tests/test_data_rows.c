/* test_data_rows: rows of documents: those of the reference, packing, shuffling, and rows read from
 * and written to files. */
#include "json.h"
#include "data_lines.h"

#include <stdio.h>
#include <sys/stat.h>

/* ---- the reference's rows -------------------------------------------------------------------- */

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

/* The value of a key is the same text in both, so that numbers are equal to the last digit. */
static void same_json(const json_t *a, const json_t *b, const char *key)
{
    char *x = json_dumps(json_object_get(a, key), JSON_ENCODE_ANY | JSON_SORT_KEYS);
    char *y = json_dumps(json_object_get(b, key), JSON_ENCODE_ANY | JSON_SORT_KEYS);
    CHECK_STR(x ? x : "none", y ? y : "none");
    free(x);
    free(y);
}

/* Rows are written as the reference writes them, except for a sentence about the loss. */
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

static void reference_rows(const char *name, const char *model, const char *rows)
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
        lines_check(&s, 0);
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

/* Cases whose model is not in the fixtures use a model with the same vocabulary. */
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
        reference_rows(row[i][0], row[i][1], row[i][2]);
}

/* ---- packing -----------------------------------------------------------------------------------
 */

/* A set of documents of these lengths; ids and masks follow from their places. */
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

/* Checks a row of documents that make_set made, and adds their lengths to text: "3 5 +2" for two
 * documents and two tokens of padding. *doc counts the documents so far. */
static void check_packed_row(const struct data_row *w, bool later, uint32_t *doc, char *text)
{
    uint32_t at = 0, counted = 0;
    for (uint32_t j = 0; j < w->n_doc; j++, ++*doc) {
        sprintf(text + strlen(text), "%s%u", j ? " " : later ? " | " : "", w->doc_len[j]);
        CHECK_EQ(w->doc_start[j], at);
        CHECK_EQ(w->document[j], 10 + *doc);
        for (uint32_t m = 0; m < w->doc_len[j]; m++, at++) {
            CHECK_EQ(w->ids[at], 100 * *doc + m);
            CHECK_EQ(w->mask[at], m != 0);
            CHECK_EQ(w->doc[at], j);
            CHECK_EQ(w->pos[at], m);
            counted += m != 0;
        }
    }
    CHECK_EQ(w->padding, w->n - at);
    CHECK_EQ(w->n_counted, counted);
    if (w->padding)
        sprintf(text + strlen(text), " +%u", w->padding);
    for (; at < w->n; at++)
        CHECK(w->ids[at] == 999 && !w->mask[at] && w->doc[at] == -1 && !w->pos[at]);
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
        { 8, { 5, 4, 3, 1 }, "5 +3 | 4 3 1" }, /* documents keep their order */
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
        for (uint32_t k = 0; k < r.n_row; k++)
            check_packed_row(&r.row[k], k > 0, &doc, got);
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
    CHECK_REFUSED(data_pack(&r, &s, NULL, 8, 0, &err), err, "9 tokens|8");
    CHECK(!r.row);
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
    data_shuffle(b, 8, 1,
                 0); /* fixed for every machine and version, since a resumed run depends on it */
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

/* ---- rows as a file -------------------------------------------------------------------------- */

/* A small file of rows with one number or word changed: it must be refused with these parts. */
static const char small_rows[] =
    "{\"version\": 2, \"packed\": true, \"row_length\": 5, \"pad_id\": 7, "
    "\"counted_targets\": 2, \"options\": {\"lr\": 0.5, \"schedule\": {\"kind\": \"linear\"}},"
    "\"rows\": [{\"documents\": [0, 1], \"ids\": [1, 2, 3, 4, 7], "
    "\"target_mask\": [0, 1, 0, 1, 0], \"doc_index\": [0, 0, 1, 1, -1], "
    "\"positions\": [0, 1, 0, 1, 0], \"doc_starts\": [0, 2], \"doc_lengths\": [2, 2], "
    "\"padding\": 1}]}";
static const struct {
    const char *from, *to, *says;
} bad_rows[] = {
    { "\"version\": 2", "\"version\": 3", "version|2" },
    { "\"row_length\": 5", "\"row_length\": 0", "row_length|null" },
    { "\"row_length\": 5", "\"row_length\": 6", "row 1|ids|list|row_length" },
    { "\"pad_id\": 7", "\"pad_id\": 10", "pad_id|vocabulary" },
    { "\"pad_id\": 7", "\"pad_id\": -1", "pad_id|whole number" },
    { "\"pad_id\": 7", "\"pad_id\": 8", "row 1|padding" },
    { "\"counted_targets\": 2", "\"counted_targets\": 3", "counted_targets|sum" },
    { "\"packed\": true", "\"packed\": 1", "packed|true or false" },
    { "0.5", "\"x\"", "lr|number|0" },
    { "0.5", "-0.5", "lr|number|0" },
    { "linear", "round", "schedule|kind" },
    { "[1, 2, 3, 4, 7]", "[1, 2, 3, 10, 7]", "row 1|ids|5 whole numbers|0|9" },
    { "[1, 2, 3, 4, 7]", "[1, 2, 3, 4, 7.0]", "row 1|ids|whole numbers" },
    { "[1, 2, 3, 4, 7]", "[]", "row 1|ids|one id" },
    { "[1, 2, 3, 4, 7]", "7", "row 1|ids|one id" },
    { "[0, 1, 0, 1, 0]", "[0, 1, 0, 2, 0]", "row 1|target_mask|5" },
    { "[0, 1, 0, 1, 0]", "[0, 1, 0, 1]", "row 1|target_mask|5" },
    { "[0, 1, 0, 1, 0]", "[1, 1, 0, 0, 0]", "row 1|target_mask|padding|first token" },
    { "[0, 1, 0, 1, 0]", "[0, 1, 0, 0, 1]", "row 1|target_mask|padding|first token" },
    { "[0, 0, 1, 1, -1]", "[0, 0, 0, 1, -1]", "row 1|doc_index" },
    { "\"positions\": [0, 1, 0", "\"positions\": [0, 1, 2", "row 1|positions" },
    { "[0, 2]", "[0, 3]", "row 1|doc_starts|gap" },
    { "[0, 2]", "[]", "row 1|doc_starts|list" },
    { "[2, 2]", "[2, 4]", "row 1|doc_lengths|more" },
    { "[2, 2]", "[2, 0]", "row 1|doc_lengths|whole numbers|1" },
    { "[2, 2]", "[2]", "row 1|doc_lengths|2" },
    { "\"padding\": 1", "\"padding\": 0", "row 1|padding|doc_lengths" },
    { "[{", "[3, {", "row 1|object" },
    { "\"rows\"", "\"row\"", "rows|list" },
    { "}]}", "}]", "line 1" },
};

static void test_read_bad(void)
{
    struct data_rows r;
    struct hlm_train_options o;
    struct hlm_err err = { 0 };
    bool has;
    test_case("a small file of rows");
    CHECK_MSG(
        data_read_text(small_rows, sizeof small_rows - 1, "rows.json", 10, &r, &o, &has, &err),
        "%s", err.msg);
    CHECK(has && o.lr == 0.5 && o.peak == 0.5 && o.schedule == HLM_LINEAR && r.n_row == 1 &&
          o.beta2 == data_options_default().beta2 && r.n_counted == 2 && r.row[0].n_doc == 2);
    data_rows_free(&r);
    for (uint32_t i = 0; i < ARRAY_LEN(bad_rows); i++) {
        char text[1000];
        test_case("rows with %s for %s: %s", bad_rows[i].to, bad_rows[i].from, bad_rows[i].says);
        const char *at = strstr(small_rows, bad_rows[i].from);
        if (!CHECK(at))
            continue;
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - small_rows), small_rows, bad_rows[i].to,
                 at + strlen(bad_rows[i].from));
        CHECK_REFUSED(data_read_text(text, strlen(text), "rows.json", 10, &r, &o, &has, &err), err,
                      "rows.json");
        CHECK_SAYS(err.msg, bad_rows[i].says);
        CHECK(!r.row);
    }
}

void test_data_rows(void)
{
    if (!lines_open())
        return;
    test_reference();
    test_pack();
    test_shuffle();
    test_read_bad();
    lines_close();
}
