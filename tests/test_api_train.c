/* test_api_train: the public calls on training and adapters as an embedder makes them: what a run
 * reports of its data and its training rows before it begins, training rows as a file, what an
 * adapter file holds. */
#include "hlm_test.h"
#include "hlm_train.h"

#include <stdio.h>
#include <stdlib.h>

#define TINY "train/qwen35/"
#define DATA "tests/fixtures/" TINY "data.jsonl"

static hlm *open_dry(void)
{
    struct hlm_err err = { 0 };
    hlm *m = hlm_test_try_as(
        (struct hlm_params){ .model = fixture(TINY "model.gguf"), .dry = true }, &err);
    CHECK_MSG(m, "%s", err.msg);
    return m;
}

static struct hlm_tune_params tiny_run(void)
{
    struct hlm_tune_params p = hlm_tune_defaults();
    p.data = DATA;
    p.targets = "attn";
    p.read.max_seq = 96;
    p.read.valid = 0.25;
    p.train.rank = 3;
    p.train.steps = 4;
    return p;
}

/* ---- data ------------------------------------------------------------------------------------ */

/* Compares sums of the training rows with what is reported of them. */
static void check_rows(hlm_tune *t, const struct hlm_set_info *s)
{
    struct hlm_row r;
    uint64_t n_counted = 0, n_padding = 0, n_tok = 0, n_doc = 0;
    for (uint64_t i = 0; i < s->n_row; i++) {
        if (!CHECK(hlm_tune_row(t, i, &r)))
            return;
        n_padding += r.padding;
        n_tok += r.n - r.padding;
        CHECK(!s->row_length || r.n == s->row_length);
        for (uint32_t k = 0; k < r.n; k++) {
            bool begins = !k || r.doc[k] != r.doc[k - 1];
            CHECK(r.ids[k] >= 0 && (r.doc[k] < 0) == (k >= r.n - r.padding));
            CHECK(!r.mask[k] || (r.doc[k] >= 0 && !begins));
            n_doc += begins && r.doc[k] >= 0;
            n_counted += r.mask[k];
        }
    }
    CHECK(!hlm_tune_row(t, s->n_row, &r));
    CHECK_EQ(n_counted, s->n_counted);
    CHECK_EQ(n_padding, s->n_padding);
    CHECK_EQ(n_tok, s->n_tok);
    CHECK_EQ(n_doc, s->n_doc);
}

static void check_lengths(const struct hlm_set_info *s)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; s->doc_tok && i < s->n_doc; i++) {
        CHECK(s->doc_tok[i] > 0 && s->doc_tok[i] <= s->longest);
        sum += s->doc_tok[i];
    }
    CHECK(s->doc_tok || !s->n_doc);
    CHECK_EQ(sum, s->n_tok);
}

static void test_sets(bool pack)
{
    struct hlm_err err;
    struct hlm_tune_params p = tiny_run();
    char data[] = DATA, targets[] = "attn";
    test_case("sets and rows of a run, %s", pack ? "packed" : "a row a document");
    p.no_pack = !pack;
    p.data = data;
    p.targets = targets;
    hlm *m = open_dry();
    hlm_tune *t = m ? hlm_tune_open(m, &p, &err) : NULL;
    if (CHECK_MSG(!m || t, "%s", err.msg) && t) {
        memset(data, 'x', sizeof data - 1); /* texts are copied */
        memset(targets, 'x', sizeof targets - 1);
        struct hlm_set_info train = hlm_tune_set_info(t, HLM_TUNE_TRAIN),
                            valid = hlm_tune_set_info(t, HLM_TUNE_VALID),
                            none = hlm_tune_set_info(t, HLM_TUNE_TEST);
        struct hlm_tune_info i = hlm_tune_get_info(t);
        CHECK(train.packed == pack && train.row_length == (pack ? 96u : 0u) && !i.from_ids);
        CHECK(train.n_doc > 0 && valid.n_doc > 0 && valid.n_row > 0 && !none.n_doc && !none.n_row);
        struct hlm_set_info no_set = hlm_tune_set_info(t, (enum hlm_tune_set)3);
        CHECK(!no_set.n_doc && !no_set.n_row && !no_set.doc_tok);
        CHECK(i.train->steps == 4 && i.n_target > 0 && i.max_tok <= 96 && i.step == 0);
        check_rows(t, &train);
        check_lengths(&train);
        check_lengths(&valid);
        CHECK_OK(hlm_load(m, &err) && hlm_tune_begin(t, NULL, &err), err);
        CHECK(!hlm_tune_row(t, 0, &(struct hlm_row){ 0 }));
    }
    hlm_tune_close(t);
    hlm_test_close(m);
}

/* Once, such a run had no step. */
static void test_given_schedule(void)
{
    struct hlm_err err;
    struct hlm_tune_params p = tiny_run();
    test_case("steps are worked out beside a schedule that is given");
    p.no_pack = true;
    p.epochs = 2;
    p.train.steps = 0;
    p.train.total_steps = 99;
    p.train.warmup_steps = 7;
    hlm *m = open_dry();
    hlm_tune *t = m ? hlm_tune_open(m, &p, &err) : NULL;
    if (CHECK_MSG(!m || t, "%s", err.msg) && t) {
        struct hlm_tune_info i = hlm_tune_get_info(t);
        CHECK_EQ(i.train->steps, 2 * hlm_tune_set_info(t, HLM_TUNE_TRAIN).n_row);
        CHECK(i.train->total_steps == 99 && i.train->warmup_steps == 7);
    }
    hlm_tune_close(t);
    hlm_test_close(m);
}

/* Training rows in a file are the run's own, in the order of the documents. */
static void test_dump(void)
{
    struct hlm_err err;
    struct hlm_dump_sum sum;
    struct hlm_tune_params p = tiny_run(), ids = tiny_run();
    const char *path = test_scratch("rows.json");
    test_case("rows are written without a device, and trained on");
    p.read.valid = 0;
    if (!CHECK_OK(hlm_tune_dump_rows(fixture(TINY "model.gguf"), &p, path, NULL, &sum, &err), err))
        return;
    ids.data = NULL;
    ids.ids_json = path;
    CHECK_OK(hlm_tune_options(path, &ids.train, &err), err);
    CHECK_EQ(ids.train.steps, 4);
    hlm *m = open_dry();
    hlm_tune *t = m ? hlm_tune_open(m, &ids, &err) : NULL;
    if (CHECK_MSG(!m || t, "%s", err.msg) && t) {
        struct hlm_set_info s = hlm_tune_set_info(t, HLM_TUNE_TRAIN);
        CHECK(hlm_tune_get_info(t).from_ids && !s.doc_tok);
        CHECK_EQ(s.n_row, sum.n_row);
        CHECK_EQ(s.n_doc, sum.n_doc);
        CHECK_EQ(s.n_counted, sum.n_counted);
        check_rows(t, &s);
    }
    hlm_tune_close(t);
    hlm_test_close(m);
    p.read.format = "chatlm";
    CHECK(!hlm_tune_dump_rows(fixture(TINY "model.gguf"), &p, path, NULL, NULL, &err));
    CHECK_EQ(err.kind, HLM_ERR_INPUT);
    p.data = NULL;
    CHECK(!hlm_tune_dump_rows(fixture(TINY "model.gguf"), &p, path, NULL, NULL, &err));
    CHECK_EQ(err.kind, HLM_ERR_INPUT);
}

/* ---- adapters -------------------------------------------------------------------------------- */

static void test_adapter(void)
{
    struct hlm_err err;
    struct hlm_adapter_info a;
    const char *path = fixture(TINY "init-lora.gguf");
    test_case("what an adapter file holds");
    struct gguf *g = gguf_open(path, &err);
    if (CHECK(g) && CHECK_OK(hlm_adapter_read(path, &a, &err), err)) {
        uint64_t bytes = 0, n_elem = 0, n_tensor = 0, kinds = 0;
        for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
            bytes += gguf_tensor_at(g, i)->n_bytes;
            n_elem += gguf_tensor_at(g, i)->n_elem;
        }
        for (uint32_t i = 0; i < a.n_kind; i++) {
            const struct hlm_adapter_kind *k = &a.kind[i];
            CHECK(k->a[0] && (!k->b[0] || k->b[0] == k->a[1]) && !strcmp(k->type_a, "F32"));
            n_tensor += k->n * (k->b[0] ? 2 : 1);
            kinds += k->bytes;
        }
        CHECK_STR(a.arch, "qwen35");
        CHECK(a.alpha == 8 && a.rank_min == a.rank_max);
        CHECK_EQ(a.bytes, bytes);
        CHECK_EQ(kinds, bytes);
        CHECK_EQ(a.n_param, n_elem);
        CHECK_EQ(n_tensor, gguf_n_tensor(g));
        CHECK_EQ(2 * a.n_matrix + a.n_gate, gguf_n_tensor(g));
        CHECK_EQ(a.file_bytes, gguf_file_bytes(g));
        hlm_adapter_info_free(&a);
        CHECK(!a.kind);
    }
    hlm_adapter_info_free(NULL);
    gguf_close(g);
}

static void test_info(void)
{
    test_case("a model's type is the one that most bytes are of");
    struct hlm_err err;
    hlm *m = hlm_test_try_as(
        (struct hlm_params){ .model = fixture(TINY "model-q8_0.gguf"), .dry = true }, &err);
    if (CHECK_MSG(m, "%s", err.msg)) {
        struct hlm_info i = hlm_get_info(m);
        CHECK_STR(i.type, "Q8_0");
        CHECK(i.tensor_bytes > 0 && i.tensor_bytes < i.file_bytes && !i.f16);
    }
    hlm_test_close(m);
}

void test_api_train(void)
{
    test_sets(true);
    test_sets(false);
    test_given_schedule();
    test_dump();
    test_adapter();
    test_info();
}
