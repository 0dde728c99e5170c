/* test_demo: the model that ships answers the questions of its card. The answers must be those that
 * llama.cpp gives on the same file, which eval.jsonl has as `given`.
 *
 * An ordinary run takes every sixth row; HLM_TEST_FULL=1 in the environment takes all. */
#include "hlm_test.h"
#include "json.h"

#include <stdio.h>

#define DIR "models/demo/"
#define MIN_EQUAL 0.98 /* least share of answers equal to the noted ones; measured: 1 */

enum { STRIDE = 6, MAX_NEW = 160, MAX_SKILL = 16, MAX_TEXT = 4096 };

struct skill {
    const char *name;
    uint32_t n, right, noted, equal; /* noted: llama.cpp's answer is right */
};

static struct {
    hlm *m;
    hlm_session *s;
    hlm_vocab *v;
    struct skill skill[MAX_SKILL];
    uint32_t n_skill, n_tok;
} t;

/* ---- asking ----------------------------------------------------------------------------- */

static struct skill *skill_of(const char *name)
{
    for (uint32_t i = 0; i < t.n_skill; i++)
        if (!strcmp(t.skill[i].name, name))
            return &t.skill[i];
    HLM_ASSERT(t.n_skill < MAX_SKILL);
    t.skill[t.n_skill].name = name;
    return &t.skill[t.n_skill++];
}

/* The prompt of a row: a conversation, or one question. */
static bool prompt(json_t *row, struct hlm_ids *ids, struct hlm_err *err)
{
    json_t *list = json_object_get(row, "messages");
    list = list ? json_incref(list)
                : json_pack("[{s:s, s:s}]", "role", "user", "content", json_str(row, "question"));
    char *json = json_dumps(list, 0);
    struct hlm_render_params p = {
        .json = json, .n = strlen(json), .name = "eval.jsonl", .no_think = true
    };
    bool ok = hlm_render_ids(t.v, &p, ids, err);
    free(json);
    json_decref(list);
    return ok;
}

static void trim(char *s)
{
    size_t n = strlen(s), skip = strspn(s, " \n");
    while (n > skip && strchr(" \n", s[n - 1]))
        n--;
    memmove(s, s + skip, n - skip);
    s[n - skip] = 0;
}

/* The answer as judge.py takes it: greedy, to the end of the turn, trimmed. */
static bool answer(json_t *row, char *text, struct hlm_err *err)
{
    struct hlm_sampling greedy = { .repeat_penalty = 1 };
    struct hlm_ids ids = { 0 };
    uint32_t n = 0;
    int32_t id;
    bool ok =
        prompt(row, &ids, err) && hlm_session_sync(t.s, ids.id, ids.n, NULL, 0, NULL, NULL, err);
    for (uint32_t i = 0; ok && i < MAX_NEW; i++) {
        ok = hlm_session_next(t.s, &greedy, &id, err);
        t.n_tok++;
        if (!ok || hlm_is_end(t.v, id))
            break;
        struct hlm_str s = hlm_token_text(t.v, id);
        if (n + s.n < MAX_TEXT) {
            memcpy(text + n, s.p, s.n);
            n += (uint32_t)s.n;
        }
    }
    text[n] = 0;
    trim(text);
    hlm_ids_free(&ids);
    return ok;
}

static void ask(json_t *row)
{
    struct hlm_err err = { 0 };
    char text[MAX_TEXT];
    struct skill *skill = skill_of(json_str(row, "skill"));
    const char *given = json_str(row, "given"), *right = json_str(row, "answer");
    if (!CHECK_OK(answer(row, text, &err), err))
        return;
    skill->n++;
    skill->noted += !strcmp(given, right);
    skill->right += !strcmp(text, right);
    skill->equal += !strcmp(text, given);
    if (strcmp(text, given))
        test_note("  %s: \"%s\", llama.cpp says \"%s\"", skill->name, text, given);
}

/* ---- judging ---------------------------------------------------------------------------- */

static json_t *read_rows(void)
{
    struct hlm_err err = { 0 };
    uint64_t n;
    char *text = file_read(DIR "eval.jsonl", 1 << 24, &n, &err), *line = text;
    json_t *rows = json_array();
    CHECK_OK(text != NULL, err);
    while (line && *line) {
        size_t len = strcspn(line, "\n");
        json_error_t e;
        json_t *row = json_loadb(line, len, 0, &e);
        CHECK_MSG(row != NULL, DIR "eval.jsonl: %s", e.text);
        json_array_append_new(rows, row ? row : json_null());
        line += len + (line[len] == '\n');
    }
    free(text);
    return rows;
}

static void judge(uint32_t n_row)
{
    uint32_t n = 0, equal = 0;
    for (uint32_t i = 0; i < t.n_skill; i++) {
        const struct skill *k = &t.skill[i];
        test_case("%s: as often right as on the card", k->name);
        CHECK_MSG(k->right == k->noted, "%u of %u right, expected %u", k->right, k->n, k->noted);
        test_note("  %u of %u right, %u as llama.cpp", k->right, k->n, k->equal);
        n += k->n;
        equal += k->equal;
    }
    test_case("answers equal to llama.cpp's");
    CHECK_EQ(n, n_row);
    CHECK_MSG(equal >= MIN_EQUAL * n, "%u of %u", equal, n);
    test_note("  %u of %u, %u tokens", equal, n, t.n_tok);
}

/* The device can only limit decoding while a token costs one submission and no recording. */
static void test_submissions(void)
{
    struct hlm_sampling how = hlm_sampling_default(t.m);
    struct hlm_err err = { 0 };
    int32_t id = 1;
    test_case("a token is one submission; nothing is recorded");
    CHECK_OK(hlm_session_sync(t.s, &id, 1, NULL, 0, NULL, NULL, &err), err);
    struct hlm_stats was = { 0 }, now;
    for (uint32_t i = 0; i < 22; i++) {
        if (i == 2)
            was = hlm_session_stats(t.s);
        CHECK_OK(hlm_session_next(t.s, &how, &id, &err), err);
    }
    now = hlm_session_stats(t.s);
    CHECK_EQ(now.n_submit - was.n_submit, 20);
    CHECK_EQ(now.n_record - was.n_record, 0);
    CHECK_EQ(now.n_pipeline - was.n_pipeline, 0);
}

void test_demo(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    const char *full = getenv("HLM_TEST_FULL");
    uint32_t stride = full && strcmp(full, "0") ? 1 : STRIDE, n_row = 0;
    bool known;
    json_t *rows = read_rows();
    test_case("rows of eval.jsonl");
    if ((t.m = hlm_test_open(DIR "hlm-demo-q8_0.gguf")) &&
        CHECK((t.v = hlm_get_vocab(t.m, NULL)) != NULL) &&
        (t.s = hlm_test_session(t.m, (struct hlm_session_params){ .n_ctx = 1024 }))) {
        CHECK_STR(hlm_chat_format(t.v, &known), "chatml");
        CHECK(known);
        CHECK_EQ(json_array_size(rows), 360);
        for (uint32_t i = 0; i < json_array_size(rows); i += stride, n_row++)
            ask(json_array_get(rows, i));
        judge(n_row);
        test_submissions();
    }
    test_case("no message of the validation layer");
    hlm_session_destroy(t.s);
    hlm_test_close(t.m);
    json_decref(rows);
}
