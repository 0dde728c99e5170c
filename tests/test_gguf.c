/* test_gguf: the GGUF reader on sound files, on more than 60 that are wrong in one place each, and
 * on thousands of mutated ones; then the helpers for small files. */
#define _POSIX_C_SOURCE 200809L
#include "gguf_build.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *tmp_path(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", test_tmp(), name);
    return path;
}

/* --- Good files. ---------------------------------------------------------------------------- */

/* One value of every scalar type. All bytes differ, and signed values are negative. */
static const struct scalar {
    const char *key;
    enum gguf_type type;
    uint8_t bytes[8];
    uint32_t n_bytes;
    const char *array; /* the key of an array of two such values */
} scalars[] = {
    { "s.u8", GGUF_U8, { 200 }, 1, "a.u8" },
    { "s.i8", GGUF_I8, { 0xfe }, 1, "a.i8" },
    { "s.u16", GGUF_U16, { 1, 0xff }, 2, "a.u16" },
    { "s.i16", GGUF_I16, { 0xfd, 0xff }, 2, "a.i16" },
    { "s.u32", GGUF_U32, { 1, 2, 3, 0xff }, 4, "a.u32" },
    { "s.i32", GGUF_I32, { 0xfc, 0xff, 0xff, 0xff }, 4, "a.i32" },
    { "s.f32", GGUF_F32, { 0, 0, 0xc0, 0xbf }, 4, "a.f32" },
    { "s.bool", GGUF_BOOL, { 1 }, 1, "a.bool" },
    { "s.u64", GGUF_U64, { 1, 2, 3, 4, 5, 6, 7, 0xff }, 8, "a.u64" },
    { "s.i64", GGUF_I64, { 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, 8, "a.i64" },
    { "s.f64", GGUF_F64, { 0, 0, 0, 0, 0, 0, 0x04, 0x40 }, 8, "a.f64" },
};

static const struct hlm_str strings[] = { { "alpha", 5 }, { "", 0 }, { "b\0\xff", 3 } };

/* A small file with every kind of key, tensors of 1 to 4 dimensions, and its own alignment. */
static struct gguf_build *sample(void)
{
    struct gguf_build *b = gb_new();
    gb_str(b, "general.architecture", "sample");
    gb_u32(b, "general.alignment", 64);
    for (uint32_t i = 0; i < ARRAY_LEN(scalars); i++) {
        const struct scalar *s = &scalars[i];
        uint8_t twice[16] = { 0 };
        memcpy(twice, s->bytes, s->n_bytes);
        memcpy(twice + s->n_bytes, s->bytes, s->n_bytes);
        gb_scalar(b, s->key, s->type, s->bytes);
        gb_array(b, s->array, s->type, 2, twice);
    }
    gb_strs(b, "a.string", ARRAY_LEN(strings), strings);
    gb_array(b, "a.none", GGUF_F32, 0, NULL);

    uint8_t data[600];
    for (uint32_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + 1);
    gb_tensor(b, "t.f32", F32, 2, (uint64_t[]){ 3, 2 }, data);
    gb_tensor(b, "t.q8", Q8_0, 2, (uint64_t[]){ 64, 2 }, data);
    gb_tensor(b, "t.q4k", Q4_K, 3, (uint64_t[]){ 256, 1, 2 }, data);
    gb_tensor(b, "t.f16", F16, 4, (uint64_t[]){ 1, 2, 1, 3 }, data);
    gb_tensor(b, "t.iq", IQ2_XS, 1, (uint64_t[]){ 256 }, data);
    return b;
}

static void check_sample(const struct gguf *g)
{
    CHECK_EQ(gguf_n_kv(g), 2 + 2 * ARRAY_LEN(scalars) + 2);
    CHECK_EQ(gguf_n_tensor(g), 5);
    CHECK_STR(gguf_kv_at(g, 0)->key, "general.architecture");
    for (uint32_t i = 0; i < ARRAY_LEN(scalars); i++) {
        const struct scalar *s = &scalars[i];
        const struct gguf_kv *one = gguf_kv(g, s->key), *two = gguf_kv(g, s->array);
        if (!CHECK_MSG(one && two, "%s or its array is missing", s->key))
            continue;
        CHECK_MSG(one->type == s->type && one->n == 1 && !memcmp(one->data, s->bytes, s->n_bytes),
                  "%s", s->key);
        CHECK_MSG(two->type == GGUF_ARRAY && two->elem == s->type && two->n == 2 &&
                      !memcmp(two->data, s->bytes, s->n_bytes) &&
                      !memcmp(two->data + s->n_bytes, s->bytes, s->n_bytes),
                  "%s", s->array);
    }
    const struct gguf_kv *kv = gguf_kv(g, "a.string");
    if (CHECK(kv && kv->type == GGUF_ARRAY && kv->elem == GGUF_STRING && kv->n == 3)) {
        struct gguf_str_iter it = { kv->data, kv->n };
        struct hlm_str s;
        for (uint32_t i = 0; i < 3; i++)
            CHECK(gguf_next_str(&it, &s) && s.n == strings[i].n && !memcmp(s.p, strings[i].p, s.n));
        CHECK(!gguf_next_str(&it, &s));
    }
    CHECK(gguf_kv(g, "a.none") && gguf_kv(g, "a.none")->n == 0);
    CHECK(!gguf_kv(g, "a.non") && !gguf_kv(g, "") && !gguf_tensor(g, "t.f3"));

    const struct gguf_tensor *t = gguf_tensor(g, "t.q4k");
    if (CHECK(t && t == gguf_tensor_at(g, 2))) {
        CHECK(t->type == Q4_K && t->n_dim == 3 && t->n_elem == 512 && t->n_bytes == 288);
        CHECK(t->dim[0] == 256 && t->dim[1] == 1 && t->dim[2] == 2 && t->dim[3] == 1);
        CHECK(t->data[0] == 1 && t->data[287] == (uint8_t)(287 * 7 + 1));
    }
    t = gguf_tensor(g, "t.f16");
    CHECK(t && t->n_dim == 4 && t->n_elem == 6 && t->n_bytes == 12 && t->data[11] == 78);
}

static void test_good(void)
{
    struct gguf_build *b = sample();
    for (uint32_t version = 2; version <= 3; version++) {
        test_case("every type of key and tensor, version %u", version);
        struct hlm_err err = { 0 };
        gb_version(b, version);
        CHECK_MSG(gb_write(b, tmp_path("good.gguf"), &err), "%s", err.msg);
        struct gguf *g = gguf_open(tmp_path("good.gguf"), &err);
        if (CHECK_MSG(g, "%s", err.msg)) {
            check_sample(g);
            CHECK_STR(gguf_path(g), tmp_path("good.gguf"));
            gguf_touch(g);
        }
        gguf_close(g);
    }
    gb_free(b);
    gguf_close(NULL);

    test_case("no keys, no tensors, no padding");
    uint64_t n;
    struct hlm_err err = { 0 };
    b = gb_new();
    uint8_t *bytes = gb_bytes(b, &n);
    struct gguf *g = gguf_parse(bytes, n, "empty", &err);
    CHECK_MSG(g && n == 24 && gguf_n_kv(g) == 0 && gguf_n_tensor(g) == 0, "%s", err.msg);
    CHECK(g && !gguf_kv(g, "a") && !gguf_tensor(g, "a"));
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

static void test_fixtures(void)
{
    static const char *const files[] = { "qwen35/base/model-q8_0.gguf",
                                         "qwen35moe/base/model-f32.gguf",
                                         "tokenizer/qwen35/vocab.gguf" };
    for (uint32_t i = 0; i < ARRAY_LEN(files); i++) {
        test_case("%s opens, and is rebuilt byte by byte", files[i]);
        struct hlm_err err = { 0 };
        uint64_t n_file, n;
        struct gguf *g = gguf_open(fixture("%s", files[i]), &err);
        struct gguf_build *b = gb_from(fixture("%s", files[i]), &err);
        uint8_t *file = fixture_read(&n_file, "%s", files[i]);
        if (CHECK_MSG(g && b, "%s", err.msg) && file) {
            gguf_touch(g);
            uint8_t *built = gb_bytes(b, &n);
            CHECK_EQ(n, n_file);
            CHECK(n == n_file && !memcmp(built, file, n));
            free(built);
        }
        free(file);
        gb_free(b);
        gguf_close(g);
    }
}

static void test_large_vocabulary(void)
{
    enum { N_TOKEN = 248320, N_MERGE = 270000 };
    test_case("%d tokens and %d merges open in an instant", N_TOKEN, N_MERGE);
    struct hlm_str *s = mem_alloc(N_MERGE, sizeof *s);
    HLM_ASSERT(s);
    for (uint32_t i = 0; i < N_MERGE; i++)
        s[i] = (struct hlm_str){ "abcdef ghijkl", 3 + i % 11 };
    struct gguf_build *b = gb_new();
    gb_strs(b, "tokenizer.ggml.tokens", N_TOKEN, s);
    gb_strs(b, "tokenizer.ggml.merges", N_MERGE, s);
    struct hlm_err err = { 0 };
    CHECK_MSG(gb_write(b, tmp_path("vocab.gguf"), &err), "%s", err.msg);
    double best = 1;
    for (int i = 0; i < 5; i++) {
        double start = now_s();
        struct gguf *g = gguf_open(tmp_path("vocab.gguf"), &err);
        double took = now_s() - start;
        CHECK_MSG(g, "%s", err.msg);
        gguf_close(g);
        best = took < best ? took : best;
    }
    CHECK_MSG(best < 0.1, "took %.1f ms",
              best * 1e3); /* 3 ms on an idle core; the rest is for sanitizers and busy machines */
    test_note("large vocabulary: %.2f ms", best * 1e3);
    unlink(tmp_path("vocab.gguf"));
    gb_free(b);
    free(s);
}

/* --- Typed readers. ------------------------------------------------------------------------- */

/* A file with numbers at the edges of their types. */
static struct gguf *readers_file(uint8_t **bytes)
{
    struct gguf_build *b = sample();
    gb_u32(b, "n", 7);
    gb_scalar(b, "big", GGUF_U64, &(uint64_t){ 1ull << 32 });
    gb_scalar(b, "fits", GGUF_I64, &(int64_t){ UINT32_MAX });
    gb_scalar(b, "huge", GGUF_F64, &(double){ 1e39 });
    gb_array(b, "layers", GGUF_I32, 3, (int32_t[]){ 4, 0, 2 });
    gb_array(b, "signed", GGUF_I16, 2, (int16_t[]){ 4, -300 });
    gb_array(b, "flags", GGUF_BOOL, 3, (uint8_t[]){ 1, 0, 1 });
    uint64_t n;
    struct hlm_err err = { 0 };
    *bytes = gb_bytes(b, &n);
    struct gguf *g = gguf_parse(*bytes, n, "readers.gguf", &err);
    gb_free(b);
    HLM_ASSERT(g);
    return g;
}

static void test_readers(void)
{
    uint8_t *bytes;
    struct gguf *g = readers_file(&bytes);
    struct hlm_err err = { 0 };
    uint32_t u = 5, each[3] = { 0 };
    float f = 2;
    bool flag = false, flags[3] = { false, true, false };
    struct hlm_str s = { 0 };
    test_case("values that fit");
    CHECK(gguf_u32(g, "none", OPTIONAL, &u, &err) && u == 5);
    CHECK(gguf_u32(g, "s.u8", REQUIRED, &u, &err) && u == 200);
    CHECK(gguf_u32(g, "s.u32", REQUIRED, &u, &err) && u == 0xff030201);
    CHECK(gguf_u32(g, "fits", REQUIRED, &u, &err) && u == UINT32_MAX);
    CHECK(gguf_u32(g, "a.u32", REQUIRED, &u, &err) && u == 0xff030201);
    CHECK(gguf_f32(g, "none", OPTIONAL, &f, &err) && f == 2);
    CHECK(gguf_f32(g, "s.f32", REQUIRED, &f, &err) && f == -1.5f);
    CHECK(gguf_f32(g, "s.f64", REQUIRED, &f, &err) && f == 2.5f);
    CHECK(gguf_f32(g, "a.f32", REQUIRED, &f, &err) && f == -1.5f);
    CHECK(gguf_bool(g, "a.bool", REQUIRED, &flag, &err) && flag);
    flag = false;
    CHECK(gguf_bool(g, "s.bool", REQUIRED, &flag, &err) && flag);
    CHECK(gguf_str(g, "general.architecture", REQUIRED, &s, &err) && s.n == 6 &&
          !memcmp(s.p, "sample", 6));
    CHECK(gguf_u32_each(g, "none", OPTIONAL, each, 3, &err) && each[2] == 0);
    CHECK(gguf_u32_each(g, "layers", REQUIRED, each, 3, &err) && each[0] == 4 && each[2] == 2);
    CHECK(gguf_u32_each(g, "n", REQUIRED, each, 3, &err) && each[0] == 7 && each[2] == 7);
    CHECK(gguf_bool_each(g, "flags", REQUIRED, flags, 3, &err) && flags[0] && !flags[1]);
    CHECK(gguf_bool_each(g, "s.bool", REQUIRED, flags, 3, &err) && flags[0] && flags[1]);
    CHECK_MSG(!err.kind, "%s", err.msg);
    gguf_close(g);
    free(bytes);
}

static void test_refused_values(void)
{
    uint8_t *bytes;
    struct gguf *g = readers_file(&bytes);
    struct hlm_err err = { 0 };
    uint32_t u, each[3];
    float f;
    bool flag, flags[3];
    struct hlm_str s;
    test_case("values that do not fit are refused by key, found and expected");
    CHECK_REFUSED(gguf_u32(g, "none", REQUIRED, &u, &err), err, "readers.gguf|none|missing");
    CHECK_REFUSED(gguf_u32(g, "s.i8", REQUIRED, &u, &err), err, "readers.gguf|s.i8|-2");
    CHECK_REFUSED(gguf_u32(g, "s.i64", REQUIRED, &u, &err), err, "readers.gguf|s.i64|-5");
    CHECK_REFUSED(gguf_u32(g, "big", REQUIRED, &u, &err), err,
                  "readers.gguf|big|4294967296|0|4294967295");
    CHECK_REFUSED(gguf_u32(g, "s.f32", REQUIRED, &u, &err), err, "readers.gguf|s.f32|f32|integer");
    CHECK_REFUSED(gguf_u32(g, "s.bool", REQUIRED, &u, &err), err,
                  "readers.gguf|s.bool|bool|integer");
    CHECK_REFUSED(gguf_u32(g, "layers", REQUIRED, &u, &err), err,
                  "readers.gguf|layers|array of i32|not all equal|one value");
    CHECK_REFUSED(gguf_f32(g, "a.none", OPTIONAL, &f, &err), err,
                  "readers.gguf|a.none|empty array of f32|one value");
    CHECK_REFUSED(gguf_f32(g, "huge", REQUIRED, &f, &err), err, "readers.gguf|huge|1e+39");
    CHECK_REFUSED(gguf_f32(g, "s.u32", OPTIONAL, &f, &err), err, "readers.gguf|s.u32|u32|f32");
    CHECK_REFUSED(gguf_bool(g, "s.u8", REQUIRED, &flag, &err), err, "readers.gguf|s.u8|u8|bool");
    CHECK_REFUSED(gguf_str(g, "s.u8", REQUIRED, &s, &err), err, "readers.gguf|s.u8|u8|string");
    CHECK_REFUSED(gguf_str(g, "a.string", REQUIRED, &s, &err), err,
                  "readers.gguf|a.string|array of string|one value");
    CHECK_REFUSED(gguf_u32_each(g, "layers", REQUIRED, each, 2, &err), err,
                  "readers.gguf|layers|3 elements|2");
    CHECK_REFUSED(gguf_u32_each(g, "signed", REQUIRED, each, 2, &err), err,
                  "readers.gguf|signed|-300");
    CHECK_REFUSED(gguf_u32_each(g, "flags", REQUIRED, each, 3, &err), err,
                  "readers.gguf|flags|array of bool|integer");
    CHECK_REFUSED(gguf_bool_each(g, "layers", REQUIRED, flags, 3, &err), err,
                  "readers.gguf|layers|array of i32|bool");
    gguf_close(g);
    free(bytes);
}

/* --- Broken files. -------------------------------------------------------------------------- */

/* Where a change is made: from the start of the file; from the length of a name, its text, or its
 * end. CUT ends the file at an offset from the end of a name or, without one, from the file's start
 * or (below 0) end. */
enum where { HEAD, LENGTH, NAME, AFTER, CUT };

/* One change of the sample: size bytes of value, or of text, are put there. The refusal must say
 * these parts. */
static const struct broken_gguf {
    const char *what;
    enum where where;
    const char *name; /* of the key or tensor */
    int64_t at;
    uint32_t size;
    uint64_t value;
    const char *text;
    const char *says;
    /* clang-format off */
} broken[] = {
    { "magic", HEAD, 0, 0, 4, 0, "GGML", "header|47 47 4d 4c" },
    { "version 0", HEAD, 0, 4, 4, 0, 0, "version 0|2|3" },
    { "version 1", HEAD, 0, 4, 4, 1, 0, "version 1|2|3" },
    { "version 4", HEAD, 0, 4, 4, 4, 0, "version 4|2|3" },
    { "big-endian", HEAD, 0, 4, 4, 3u << 24, 0, "big-endian|little-endian" },
    { "negative tensor count", HEAD, 0, 8, 8, UINT64_MAX, 0, "tensor count|-1|0" },
    { "huge tensor count", HEAD, 0, 8, 8, 1ull << 40, 0, "tensor count|1099511627776|0" },
    { "one tensor too many", HEAD, 0, 8, 8, 6, 0, "tensor 6 of 6|empty name" },
    { "negative key count", HEAD, 0, 16, 8, 1ull << 63, 0, "key count|-9223372036854775808|0" },
    { "huge key count", HEAD, 0, 16, 8, 70000, 0, "key count|70000|0" },
    { "one key too many", HEAD, 0, 16, 8, 27, 0, "tensor 1 of 5|name" },
    { "one key too few", HEAD, 0, 16, 8, 25, 0, "a.none|9 dimensions" },

    { "key without a name", LENGTH, "s.u8", 0, 8, 0, 0, "key 3 of 26|empty name" },
    { "key name past the end", LENGTH, "s.u8", 0, 8, 1ull << 63, 0,
      "key 3|length|9223372036854775808" },
    { "NUL in a key", NAME, "s.u8", 1, 1, 0, 0, "s?u8|NUL" },
    { "key twice", NAME, "s.u16", 0, 5, 0, "s.i16", "s.i16|twice" },
    { "control bytes in a name", NAME, "s.u16", 0, 9, 0, "s\n.\x1b.c\0\0",
      "s?.?.|control character 0x0a|none" },
    { "high bytes in a name", NAME, "s.u16", 0, 9, 0, "s\xc2.\x9b.c\0\0",
      "s?.?.|type 99" },
    { "value type 13", AFTER, "s.u8", 0, 4, 13, 0, "s.u8|type 13" },
    { "value type 2^32 - 1", AFTER, "s.u8", 0, 4, UINT32_MAX, 0, "s.u8|type 4294967295" },
    { "bool of 2", AFTER, "s.bool", 4, 1, 2, 0, "s.bool|2" },
    { "bool of 255 in an array", AFTER, "a.bool", 17, 1, 255, 0, "a.bool|1|255" },
    { "string past the end", AFTER, "general.architecture", 4, 8, 1 << 20, 0,
      "general.architecture|length 1048576" },
    { "string of 2^64 - 1", AFTER, "general.architecture", 4, 8, UINT64_MAX, 0,
      "general.architecture|length 18446744073709551615" },
    { "array of type 13", AFTER, "a.u16", 4, 4, 13, 0, "a.u16|array of type 13" },
    { "array of arrays", AFTER, "a.u16", 4, 4, GGUF_ARRAY, 0, "a.u16|array of arrays" },
    { "array past the end", AFTER, "a.u32", 8, 8, 1 << 20, 0, "a.u32|1048576 elements" },
    { "array whose bytes overflow", AFTER, "a.f64", 8, 8, 1ull << 61, 0,
      "a.f64|2305843009213693952 elements" },
    { "negative array count", AFTER, "a.u8", 8, 8, UINT64_MAX, 0, "a.u8|elements" },
    { "string array past the end", AFTER, "a.string", 8, 8, 1 << 20, 0,
      "a.string|1048576 elements" },
    { "string in an array past the end", AFTER, "a.string", 16, 8, 1 << 20, 0,
      "a.string|length 1048576" },
    { "alignment 0", AFTER, "general.alignment", 4, 4, 0, 0, "general.alignment|power" },
    { "alignment 48", AFTER, "general.alignment", 4, 4, 48, 0, "general.alignment|48|power" },
    { "alignment 2^31", AFTER, "general.alignment", 4, 4, 1u << 31, 0,
      "general.alignment|2147483648|power" },
    { "alignment as i32", AFTER, "general.alignment", 0, 4, GGUF_I32, 0,
      "general.alignment|i32|u32" },
    { "another alignment", AFTER, "general.alignment", 4, 4, 4096, 0, "t.q8|4096" },

    { "tensor without a name", LENGTH, "t.q8", 0, 8, 0, 0, "tensor 2 of 5|empty name" },
    { "tensor name of 64 bytes", LENGTH, "t.q8", 0, 8, 64, 0, "tensor 2 of 5|63" },
    { "NUL in a tensor name", NAME, "t.q8", 3, 1, 0, 0, "t.q?|NUL" },
    { "tensor twice", NAME, "t.q4k", 0, 5, 0, "t.f32", "t.f32|twice" },
    { "no dimensions", AFTER, "t.q8", 0, 4, 0, 0, "t.q8|0 dimensions" },
    { "five dimensions", AFTER, "t.q8", 0, 4, 5, 0, "t.q8|5 dimensions" },
    { "dimension 0", AFTER, "t.q8", 12, 8, 0, 0, "t.q8|dimension 1|0" },
    { "dimension -1", AFTER, "t.q8", 4, 8, UINT64_MAX, 0, "t.q8|dimension 0|-1" },
    { "2^63 elements", AFTER, "t.q8", 12, 8, 1ull << 57, 0, "t.q8|2^63 elements" },
    { "2^64 bytes", AFTER, "t.f32", 4, 8, 1ull << 61, 0, "t.f32|overflow" },
    { "retired type", AFTER, "t.q8", 20, 4, 4, 0, "t.q8|type 4" },
    { "type of activations", AFTER, "t.q8", 20, 4, 15, 0, "t.q8|type 15" },
    { "unknown type", AFTER, "t.q8", 20, 4, 43, 0, "t.q8|type 43" },
    { "negative type", AFTER, "t.q8", 20, 4, UINT32_MAX, 0, "t.q8|type 4294967295" },
    { "row of half a block", AFTER, "t.q8", 4, 8, 48, 0, "t.q8|48|32" },
    { "row too short for the type", AFTER, "t.q8", 20, 4, Q6_K, 0, "t.q8|64|Q6_K" },
    { "offset not aligned", AFTER, "t.q8", 24, 8, 65, 0, "t.q8|offset 65" },
    { "offset aligned to less", AFTER, "t.q8", 24, 8, 96, 0, "t.q8|alignment 64" },
    { "offset past the end", AFTER, "t.q8", 24, 8, 1 << 20, 0, "t.q8|past the end" },
    { "offset of 2^64 - 64", AFTER, "t.q8", 24, 8, -(uint64_t)64, 0, "t.q8|past the end" },
    { "tensor past the end", AFTER, "t.iq", 4, 8, 2560, 0, "t.iq|past the end" },
    { "two tensors at one place", AFTER, "t.q8", 24, 8, 0, 0, "overlaps|t.f32" },
    { "tensor that reaches into the next", AFTER, "t.q8", 12, 8, 4, 0, "t.q4k|overlaps" },
    { "tensor inside another", AFTER, "t.f16", 40, 8, 320, 0, "t.f16|t.q4k" },

    { "empty file", CUT, 0, 0, 0, 0, 0, "header|ends early" },
    { "cut in the magic", CUT, 0, 3, 0, 0, 0, "header|ends early" },
    { "cut in the counts", CUT, 0, 12, 0, 0, 0, "header|ends early" },
    { "cut before the keys", CUT, 0, 24, 0, 0, 0, "header|count" },
    { "cut in a key", CUT, "a.f64", -2, 0, 0, 0, "key 24 of 26|length 5" },
    { "cut in a value", CUT, "s.f64", 7, 0, 0, 0, "s.f64|ends early" },
    { "cut in a string", CUT, "a.string", 46, 0, 0, 0, "a.string|length 3" },
    { "cut in the tensor directory", CUT, "t.q4k", 12, 0, 0, 0, "t.q4k|ends early" },
    { "cut before the data", CUT, "t.iq", 24, 0, 0, 0, "t.f32|past the end" },
    { "cut by a byte", CUT, 0, -1, 0, 0, 0, "t.iq|past the end|incomplete download" },
};
/* clang-format on */

/* Where a name is. Its length is in front of it, which the same text in a value has not. */
static uint64_t find_name(const uint8_t *bytes, uint64_t n, const char *name)
{
    uint64_t len = strlen(name);
    for (uint64_t i = 8; i + len <= n; i++)
        if (!memcmp(bytes + i, name, len) && !memcmp(bytes + i - 8, &len, 8))
            return i;
    HLM_ASSERT(false);
    return 0;
}

static void break_it(const struct broken_gguf *c, uint8_t *bytes, uint64_t *n)
{
    uint64_t at = c->at < 0 && !c->name ? *n : 0;
    if (c->name)
        at = find_name(bytes, *n, c->name);
    if (c->where == LENGTH)
        at -= 8;
    else if (c->name && c->where != NAME)
        at += strlen(c->name);
    at += (uint64_t)c->at;
    HLM_ASSERT(at + c->size <= *n);
    if (c->where == CUT)
        *n = at;
    else
        memcpy(bytes + at, c->text ? (const void *)c->text : &c->value, c->size);
}

/* Opens a file that must be refused. */
static void refused_file(const char *name, const char *says)
{
    struct hlm_err err = { 0 };
    CHECK_REFUSED(gguf_open(tmp_path(name), &err), err, says);
    CHECK_SAYS(err.msg, name);
}

static void test_broken(void)
{
    struct gguf_build *b = sample();
    for (uint32_t i = 0; i < ARRAY_LEN(broken); i++) {
        test_case("broken: %s", broken[i].what);
        struct hlm_err err = { 0 };
        uint64_t n;
        uint8_t *bytes = gb_bytes(b, &n);
        break_it(&broken[i], bytes, &n);
        CHECK_MSG(file_write_atomic(tmp_path("broken.gguf"), bytes, n, &err), "%s", err.msg);
        refused_file("broken.gguf", broken[i].says);
        free(bytes);
    }

    test_case("broken: folded weights");
    struct hlm_err err = { 0 };
    gb_u32(b, "prism.hadamard.block", 1);
    CHECK_MSG(gb_write(b, tmp_path("broken.gguf"), &err), "%s", err.msg);
    refused_file("broken.gguf", "broken.gguf|prism.hadamard.block|Hadamard");
    unlink(tmp_path("broken.gguf"));
    gb_free(b);

    test_case("broken: not a file");
    refused_file("none.gguf", "none.gguf|No such file");
    CHECK(!mkdir(tmp_path("folder.gguf"), 0777));
    refused_file("folder.gguf", "folder.gguf|not a regular file");
    rmdir(tmp_path("folder.gguf"));
    CHECK(!mkfifo(tmp_path("fifo.gguf"), 0777));
    refused_file("fifo.gguf", "fifo.gguf|not a regular file");
    unlink(tmp_path("fifo.gguf"));

    test_case("broken: a path too long for the message keeps its end and the reason");
    char path[900];
    memset(path, 'x', sizeof path);
    memcpy(path + sizeof path - 9, "/no.gguf", 9);
    CHECK_REFUSED(gguf_open(path, &err), err, "...|no.gguf|too long");
}

/* --- Mutated files. ------------------------------------------------------------------------- */

/* Parses a copy of exactly this size, so that a sanitizer sees every access outside. */
static void parse_anything(const uint8_t *bytes, uint64_t n)
{
    uint8_t *exact = malloc(n ? n : 1);
    HLM_ASSERT(exact);
    memcpy(exact, bytes, n);
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_parse(exact, n, "mutated.gguf", &err);
    if (g)
        gguf_touch(g);
    else
        CHECK_MSG(err.kind && !strchr(err.msg, '\n') && test_has(err.msg, "mutated.gguf"), "%s",
                  err.msg);
    gguf_close(g);
    free(exact);
}

/* Makes one to four changes, nearly all of them before the data, where the reader looks. */
static uint64_t mutate(struct rng *r, uint8_t *bytes, uint64_t n, uint64_t n_head)
{
    static const uint64_t edges[] = { 0,          1,          8,         9,        13,
                                      63,         64,         255,       1u << 31, UINT32_MAX,
                                      1ull << 62, 1ull << 63, UINT64_MAX };
    for (uint64_t k = 1 + rng_u64(r) % 4; k; k--) {
        uint64_t most = rng_u64(r) % 16 ? min_u64(n_head, n) : n;
        if (most < 64)
            return most;
        uint64_t at = rng_u64(r) % (most - 40), from = rng_u64(r) % (most - 40);
        uint64_t len = 1 + rng_u64(r) % 32;
        switch (rng_u64(r) % 8) {
        case 0: n = rng_u64(r) % 4 ? n : at; break;            /* cut */
        case 1: memmove(bytes + at, bytes + from, len); break; /* copy one piece over another */
        case 2:
            memmove(bytes + at, bytes + at + len, n - at - len); /* take a piece out */
            n -= len;
            break;
        case 3: memmove(bytes + at + len, bytes + at, n - at - len); break; /* insert a piece */
        case 4: memcpy(bytes + at, &edges[rng_u64(r) % ARRAY_LEN(edges)], 8); break;
        case 5: memcpy(bytes + at, &edges[rng_u64(r) % ARRAY_LEN(edges)], 4); break;
        case 6: bytes[at] = (uint8_t)rng_u64(r); break;
        default: bytes[at] ^= (uint8_t)(1 << rng_u64(r) % 8); break;
        }
    }
    return n;
}

static void test_mutated(const char *what, const uint8_t *good, uint64_t n, uint64_t n_head,
                         uint32_t n_round)
{
    struct rng r = { 20240607 };
    uint8_t *bytes = malloc(n);
    HLM_ASSERT(bytes);
    test_case("%u mutations of %s, seed %llu", n_round, what, (unsigned long long)r.s);
    for (uint32_t i = 0; i < n_round; i++) {
        memcpy(bytes, good, n);
        parse_anything(bytes, mutate(&r, bytes, n, n_head));
    }
    free(bytes);
}

static void test_mutations(void)
{
    struct gguf_build *b = sample();
    uint64_t n;
    uint8_t *bytes = gb_bytes(b, &n);
    gb_free(b);
    test_mutated("the sample", bytes, n, find_name(bytes, n, "t.iq") + 28, 20000);
    test_case("every cut of the sample");
    for (uint64_t i = 0; i < n; i++)
        parse_anything(bytes, i);
    test_case("every byte of the sample set to 0, 1, 255, and turned over");
    for (uint64_t i = 0; i < n; i++)
        for (int k = 0; k < 4; k++) {
            uint8_t was = bytes[i];
            bytes[i] = (uint8_t[]){ 0, 1, 255, (uint8_t)~was }[k];
            parse_anything(bytes, n);
            bytes[i] = was;
        }
    free(bytes);

    static const char *const files[] = { "qwen35/base/model-q8_0.gguf",
                                         "tokenizer/qwen35/vocab.gguf" };
    for (uint32_t i = 0; i < ARRAY_LEN(files); i++) {
        bytes = fixture_read(&n, "%s", files[i]);
        if (bytes)
            test_mutated(files[i], bytes, n, min_u64(n, 48 << 10), 2000);
        free(bytes);
    }
}

/* --- Small files. --------------------------------------------------------------------------- */

static void test_small_files(void)
{
    struct hlm_err err = { 0 };
    uint64_t n;
    char home[300], path[320], other[340];
    snprintf(home, sizeof home, "%s", tmp_path("small"));
    snprintf(path, sizeof path, "%s/small.bin", home);

    test_case("files are written whole and read back");
    CHECK(!mkdir(home, 0777));
    static uint8_t big[200000];
    for (uint32_t i = 0; i < sizeof big; i++)
        big[i] = (uint8_t)(i * i >> 3);
    CHECK_MSG(file_write_atomic(path, "old", 3, &err), "%s", err.msg);
    CHECK_MSG(file_write_atomic(path, big, sizeof big, &err), "%s", err.msg);
    char *got = file_read(path, sizeof big, &n, &err);
    CHECK(got && n == sizeof big && !memcmp(got, big, n) && !got[n]);
    free(got);
    CHECK_MSG(file_write_atomic(path, NULL, 0, &err), "%s", err.msg);
    got = file_read(path, 0, &n, &err);
    CHECK(got && n == 0 && !got[0]);
    free(got);
    CHECK_MSG(!err.kind, "%s", err.msg);

    test_case("reading too much is refused");
    CHECK(file_write_atomic(path, big, 1001, &err));
    CHECK_REFUSED(file_read(path, 1000, &n, &err), err, "small.bin|1000 bytes");
    CHECK_REFUSED(file_read(tmp_path("none"), 1000, &n, &err), err, "none|No such file");
    CHECK_REFUSED(file_read(home, 1000, &n, &err), err, "directory");
    CHECK_SAYS(err.msg, home);

    test_case("a write that fails leaves the old file and nothing beside it");
    snprintf(other, sizeof other, "%s/x", path); /* path is a file, not a folder */
    CHECK_REFUSED(file_write_atomic(other, "new", 3, &err), err, "small.bin/x|cannot write");
    snprintf(other, sizeof other, "%s/folder", home);
    CHECK(!mkdir(other, 0777));
    CHECK_REFUSED(file_write_atomic(other, "new", 3, &err), err, "folder|cannot write");
    got = file_read(path, 2000, &n, NULL);
    CHECK(got && n == 1001);
    free(got);
    CHECK(!rmdir(other) && !unlink(path));
    CHECK_MSG(!rmdir(home), "something was left in %s", home);
}

void test_gguf(void)
{
    test_good();
    test_fixtures();
    test_large_vocabulary();
    test_readers();
    test_refused_values();
    test_broken();
    test_mutations();
    test_small_files();
}
