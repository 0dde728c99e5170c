/* test_split: models in several files. A set of shards has the same tensors, keys and logits as the
 * whole model. Shards that do not belong together are refused with the name of the shard and the
 * reason. */
#define _POSIX_C_SOURCE 200809L
#include "file/gguf_parts.h"
#include "gguf_build.h"
#include "hlm_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL "qwen35/base/model-q8_0.gguf"

/* The string is overwritten by the fourth call from here. */
static const char *shard_path(const char *prefix, uint32_t i, uint32_t n)
{
    static char path[4][400];
    static uint32_t turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof *path, "%s/%s-%05u-of-%05u.gguf", test_tmp(), prefix, i + 1, n);
    return p;
}

/* Without fsync: the hundreds of files here need not survive a power cut. */
static void write_bytes(const char *path, const void *bytes, uint64_t n)
{
    FILE *f = fopen(path, "wb");
    CHECK_MSG(f && fwrite(bytes, 1, n, f) == n, "cannot write %s", path);
    if (f)
        fclose(f);
}

static void write_build(const struct gguf_build *b, const char *path)
{
    uint64_t n;
    uint8_t *bytes = gb_bytes(b, &n);
    write_bytes(path, bytes, n);
    free(bytes);
}

static void write_shards(const struct gguf_build *b, const char *prefix, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct gguf_build *shard = gb_shard(b, i, n);
        write_build(shard, shard_path(prefix, i, n));
        gb_free(shard);
    }
}

static void remove_shards(const char *prefix, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        unlink(shard_path(prefix, i, n));
}

static struct gguf_build *whole_model(void)
{
    struct hlm_err err = { 0 };
    struct gguf_build *b = gb_from(fixture(MODEL), &err);
    CHECK_MSG(b, "%s", err.msg);
    return b;
}

/* ---- good shards ------------------------------------------------------------------------------
 */

static void check_same(const struct gguf *got, const struct gguf *want)
{
    CHECK_EQ(gguf_n_tensor(got), gguf_n_tensor(want));
    CHECK_EQ(gguf_n_kv(got), gguf_n_kv(want) + 3);
    for (uint64_t i = 0; i < min_u64(gguf_n_tensor(got), gguf_n_tensor(want)); i++) {
        const struct gguf_tensor *a = gguf_tensor_at(got, i), *b = gguf_tensor_at(want, i);
        CHECK_STR(a->name, b->name);
        CHECK_MSG(a == gguf_tensor(got, b->name) && a->index == i && a->type == b->type &&
                      a->n_dim == b->n_dim && !memcmp(a->dim, b->dim, sizeof a->dim) &&
                      a->n_elem == b->n_elem && a->n_bytes == b->n_bytes &&
                      !memcmp(a->data, b->data, a->n_bytes),
                  "%s differs", b->name);
    }
    for (uint64_t i = 0; i < gguf_n_kv(want); i++) {
        const struct gguf_kv *b = gguf_kv_at(want, i), *a = gguf_kv(got, b->key);
        uint64_t n_scalar = b->type == GGUF_STRING ? b->n : 1;
        CHECK_MSG(a && a->type == b->type && a->elem == b->elem && a->n == b->n &&
                      !memcmp(a->data, b->data, b->type == GGUF_ARRAY ? b->n : n_scalar),
                  "%s differs", b->key);
    }
    CHECK(!gguf_tensor(got, "none"));
    gguf_touch(got);
}

static void test_good(void)
{
    static const uint32_t counts[] = { 1, 2, 3, 12,
                                       200 }; /* of 70 tensors, so some shards have none */
    struct hlm_err err = { 0 };
    struct gguf *want = gguf_open(fixture(MODEL), &err);
    struct gguf_build *b = want ? whole_model() : NULL;
    for (uint32_t c = 0; b && c < ARRAY_LEN(counts); c++) {
        uint32_t n = counts[c];
        uint64_t bytes = 0;
        test_case("a model in %u files", n);
        write_shards(b, "good", n);
        struct gguf *g = gguf_open(shard_path("good", 0, n), &err);
        if (CHECK_MSG(g, "%s", err.msg)) {
            check_same(g, want);
            CHECK_STR(gguf_path(g), shard_path("good", 0, n));
            for (uint32_t i = 0; i < n; i++) {
                struct stat st = { 0 };
                CHECK(!stat(shard_path("good", i, n), &st));
                bytes += (uint64_t)st.st_size;
            }
            CHECK_EQ(gguf_file_bytes(g), bytes);
        }
        gguf_close(g);
        remove_shards("good", n);
    }

    test_case("merged again: a count of 0 is one file of any name");
    char path[400];
    snprintf(path, sizeof path, "%s/merged.gguf", test_tmp());
    if (b) {
        gb_scalar(b, "split.no", GGUF_U16, &(uint16_t){ 0 });
        gb_scalar(b, "split.count", GGUF_U16, &(uint16_t){ 0 });
        gb_scalar(b, "split.tensors.count", GGUF_I32, &(int32_t){ 70 });
        write_build(b, path);
    }
    struct gguf *g = gguf_open(path, &err);
    if (CHECK_MSG(g, "%s", err.msg))
        check_same(g, want);
    gguf_close(g);
    unlink(path);
    gb_free(b);
    gguf_close(want);
}

/* Four tensors whose places a test can distinguish; each shard has its own alignment. */
static struct gguf_build *small(void)
{
    struct gguf_build *b = gb_new();
    gb_str(b, "general.architecture", "small");
    gb_u32(b, "general.alignment", 256);
    for (uint32_t i = 0; i < 4; i++) {
        char name[] = "t0";
        float value[5] = { (float)i, 1, 2, 3, 4 + (float)i };
        name[1] = (char)('0' + i);
        gb_tensor(b, name, F32, 1, (uint64_t[]){ 5 }, value);
    }
    return b;
}

static void test_alignment(void)
{
    test_case("each shard has its own data section and alignment");
    struct gguf_build *b = small();
    for (uint32_t i = 0; i < 2; i++) {
        struct gguf_build *shard = gb_shard(b, i, 2);
        if (i)
            gb_u32(shard, "general.alignment", 8);
        write_build(shard, shard_path("align", i, 2));
        gb_free(shard);
    }
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(shard_path("align", 0, 2), &err);
    for (uint32_t i = 0; CHECK_MSG(g, "%s", err.msg) && i < 4; i++) {
        float v[5];
        memcpy(v, gguf_tensor_at(g, i)->data, sizeof v);
        CHECK(v[0] == (float)i && v[4] == 4 + (float)i);
    }
    uint32_t alignment = 0;
    CHECK(g && gguf_u32(g, "general.alignment", REQUIRED, &alignment, NULL) && alignment == 256);
    gguf_close(g);
    remove_shards("align", 2);
    gb_free(b);
}

/* ---- shards that do not belong together -------------------------------------------------------
 */

/* Opens a path that must be refused with these parts and the name of a file among them. */
static void split_refused(const char *path, const char *file, const char *says)
{
    struct hlm_err err = { 0 };
    CHECK_REFUSED(gguf_open(path, &err), err, says);
    CHECK_SAYS(err.msg, file);
}

static const struct broken_shard {
    const char *what;
    uint32_t shard; /* 0, 1 or 2: the shard that is wrong */
    const char *key;
    enum gguf_type type; /* GGUF_TYPE_COUNT: the key is missing */
    uint64_t value;
    const char *says; /* besides the shard */
    /* clang-format off */
} broken[] = {
    { "no number in the first", 0, "split.no", GGUF_TYPE_COUNT, 0, "split.no|missing" },
    { "no total in the first", 0, "split.tensors.count", GGUF_TYPE_COUNT, 0,
      "split.tensors.count|missing" },
    { "no number in the second", 1, "split.no", GGUF_TYPE_COUNT, 0, "split.no|missing" },
    { "no count in the third", 2, "split.count", GGUF_TYPE_COUNT, 0,
      "split.count|missing" },
    { "no total in the third", 2, "split.tensors.count", GGUF_TYPE_COUNT, 0,
      "split.tensors.count|missing" },
    { "a count that is no integer", 0, "split.count", GGUF_F32, 0, "split.count|f32" },
    { "a negative number", 1, "split.no", GGUF_I16, 0xffff, "split.no|-1" },
    { "a number past the count", 0, "split.no", GGUF_U16, 3, "split.no|3|0|2" },
    { "a first that says it is the second", 0, "split.no", GGUF_U16, 1,
      "shard 2 of 3|first" },
    { "a second that says it is the first", 1, "split.no", GGUF_U16, 0, "split.no|0|1" },
    { "a third that says it is the second", 2, "split.no", GGUF_U16, 1, "split.no|1|2" },
    { "a count unlike the name's", 0, "split.count", GGUF_U16, 4,
      "split.count|4|-00001-of-00004.gguf" },
    { "a count that is too large", 0, "split.count", GGUF_U32, 65536,
      "split.count|65536|65535" },
    { "a shard of another count", 1, "split.count", GGUF_U16, 4, "split.count|4|3" },
    { "a shard of another total", 2, "split.tensors.count", GGUF_I32, 5,
      "split.tensors.count|5|4" },
    { "a tensor twice", 2, NULL, GGUF_TYPE_COUNT, 0, "t0|earlier" },
};
/* clang-format on */

/* Writes the three shards of the small model, one of them changed. */
static void write_broken(const struct broken_shard *c)
{
    struct gguf_build *b = small();
    for (uint32_t i = 0; i < 3; i++) {
        struct gguf_build *shard = gb_shard(b, i, 3);
        if (i == c->shard && !c->key)
            CHECK(gb_rename_tensor(shard, "t3", "t0"));
        else if (i == c->shard && c->type == GGUF_TYPE_COUNT)
            CHECK(gb_drop_key(shard, c->key));
        else if (i == c->shard)
            gb_scalar(shard, c->key, c->type, &c->value);
        write_build(shard, shard_path("bad", i, 3));
        gb_free(shard);
    }
    gb_free(b);
}

static void test_broken(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(broken); i++) {
        const struct broken_shard *c = &broken[i];
        test_case("split files refused: %s", c->what);
        write_broken(c);
        split_refused(shard_path("bad", 0, 3), shard_path("bad", c->shard, 3), c->says);
    }

    test_case("split files refused: a total that is wrong in every shard");
    struct gguf_build *b = small();
    for (uint32_t i = 0; i < 3; i++) {
        struct gguf_build *shard = gb_shard(b, i, 3);
        gb_scalar(shard, "split.tensors.count", GGUF_I32, &(int32_t){ 5 });
        write_build(shard, shard_path("bad", i, 3));
        gb_free(shard);
    }
    split_refused(shard_path("bad", 0, 3), shard_path("bad", 0, 3), "split.tensors.count|5|4");

    test_case("split files refused: a later shard is opened, and the first is named");
    write_shards(b, "bad", 3);
    split_refused(shard_path("bad", 1, 3), shard_path("bad", 1, 3),
                  "shard 2 of 3|bad-00001-of-00003.gguf");
    split_refused(shard_path("bad", 2, 3), shard_path("bad", 2, 3),
                  "shard 3 of 3|bad-00001-of-00003.gguf");

    test_case("split files refused: names that say nothing of the other shards");
    char other[400];
    snprintf(other, sizeof other, "%s/other.gguf", test_tmp());
    CHECK(!rename(shard_path("bad", 1, 3), other));
    split_refused(other, "other.gguf", "shard 2 of 3|*-00001-of-00003.gguf");
    CHECK(!rename(other, shard_path("bad", 1, 3)) && !rename(shard_path("bad", 0, 3), other));
    split_refused(other, "other.gguf", "split.count|-00001-of-00003.gguf");
    CHECK(
        !rename(other, shard_path("bad", 1, 3))); /* the first shard under the name of the second */
    split_refused(shard_path("bad", 1, 3), "bad-00002-of-00003.gguf",
                  "split.count|-00001-of-00003.gguf");
    gb_free(b);
    remove_shards("bad", 3);
}

/* Things in the place of the second shard that cannot be read. */
static void test_unreadable(void)
{
    struct gguf_build *b = small();
    const char *second = "bad-00002-of-00003.gguf";
    char path[400];
    write_shards(b, "bad", 3);
    snprintf(path, sizeof path, "%s", shard_path("bad", 1, 3));
    test_case("split files refused: the second shard is missing");
    unlink(path);
    split_refused(shard_path("bad", 0, 3), second, "No such file");
    test_case("split files refused: the second shard is a folder, a pipe, empty, or no GGUF file");
    CHECK(!mkdir(path, 0777));
    split_refused(shard_path("bad", 0, 3), second, "not a regular file");
    rmdir(path);
    CHECK(!mkfifo(path, 0777));
    split_refused(shard_path("bad", 0, 3), second, "not a regular file");
    unlink(path);
    write_bytes(path, "", 0);
    split_refused(shard_path("bad", 0, 3), second, "header|ends early");
    write_bytes(path, "GGML", 4);
    split_refused(shard_path("bad", 0, 3), second, "not a GGUF file");

    test_case("split files refused: the second shard is cut, at every byte");
    struct gguf_build *shard = gb_shard(b, 1, 3);
    uint64_t n;
    uint8_t *bytes = gb_bytes(shard, &n);
    for (uint64_t i = 0; i < n; i++) {
        write_bytes(path, bytes, i);
        split_refused(shard_path("bad", 0, 3), second, "");
    }
    free(bytes);
    gb_free(shard);
    gb_free(b);
    remove_shards("bad", 3);
}

void test_split(void)
{
    test_good();
    test_alignment();
    test_broken();
    test_unreadable();
}

/* ---- on the device --------------------------------------------------------------------------- */

static float *logits_of(const char *path, uint64_t *n)
{
    static const int32_t ids[] = { 5, 17, 3, 99, 120, 7, 7, 42, 11, 250, 31, 8, 64, 2, 19, 77 };
    struct hlm_err err = { 0 };
    hlm *m = hlm_test_open(path);
    hlm_session *s =
        m ? hlm_test_session(m, (struct hlm_session_params){ .n_ctx = 64, .keep_logits = true })
          : NULL;
    float *logits = NULL;
    if (s) {
        *n = (uint64_t)ARRAY_LEN(ids) * hlm_get_info(m).n_vocab;
        logits = mem_alloc(*n, sizeof *logits);
        HLM_ASSERT(logits != NULL);
        CHECK_OK(hlm_session_eval(s, ids, ARRAY_LEN(ids), logits, NULL, &err), err);
    }
    hlm_session_destroy(s);
    hlm_test_close(m);
    return logits;
}

void test_split_model(void)
{
    test_case("a model in three files gives the logits of the whole one, bit for bit");
    uint64_t n = 0, n_want = 1;
    float *want = logits_of(fixture(MODEL), &n_want), *got = NULL;
    struct gguf_build *b = want ? whole_model() : NULL;
    if (b) {
        write_shards(b, "model", 3);
        got = logits_of(shard_path("model", 0, 3), &n);
    }
    CHECK(got && want && n == n_want && !memcmp(got, want, n * sizeof *got));
    remove_shards("model", 3);
    gb_free(b);
    free(got);
    free(want);
}
