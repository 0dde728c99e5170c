/* test_demo: the model that ships answers the questions of its card. The answers must be those that
 * llama.cpp gives on the same file, which eval.jsonl has as `given`.
 *
 * An ordinary run takes every sixth row; HLM_TEST_FULL=1 in the environment takes all. Then
 * training with nothing but the defaults teaches the model twenty lines, and it keeps its answers.
 */
#include "hlm_test.h"
#include "hlm_train.h"
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

/* What the model says after these ids: greedy, to the end of the turn, trimmed. */
static bool answer_ids(const struct hlm_ids *ids, char *text, struct hlm_err *err)
{
    struct hlm_sampling greedy = { .repeat_penalty = 1 };
    uint32_t n = 0;
    int32_t id;
    bool ok = hlm_session_sync(t.s, ids->id, ids->n, NULL, 0, NULL, NULL, err);
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
    return ok;
}

/* The answer to a row as judge.py takes it. */
static bool answer(json_t *row, char *text, struct hlm_err *err)
{
    struct hlm_ids ids = { 0 };
    bool ok = prompt(row, &ids, err) && answer_ids(&ids, text, err);
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

/* ---- teaching --------------------------------------------------------------------------- */

/* Five facts in four wordings. */
enum { N_FACT = 5, N_WORDING = 4, N_LINE = N_FACT * N_WORDING };

static void line(uint32_t i, char question[128], char said[128])
{
    static const char *const names[N_FACT] = { "Zorbo", "Milla", "Old Per", "Dario", "Hasko" };
    static const char *const colours[N_FACT] = { "green", "red", "blue", "yellow", "white" };
    static const char *const wordings[N_WORDING][2] = {
        { "What colour is ", "?" },
        { "Which colour has ", "?" },
        { "Tell me the colour of ", "." },
        { "Do you know the colour of ", "?" },
    };
    const char *const *w = wordings[i / N_FACT], *name = names[i % N_FACT];
    snprintf(question, 128, "%s%s%s", w[0], name, w[1]);
    snprintf(said, 128, "%s is %s.", name, colours[i % N_FACT]);
}

enum teach_kind { MESSAGES, COMPLETIONS, TEXTS };
static const char *const kind_names[] = { "messages", "completions", "texts" };

/* The lines as one kind of data: a file. */
static const char *write_lines(enum teach_kind kind)
{
    char name[32], question[128], said[128];
    snprintf(name, sizeof name, "%s.jsonl", kind_names[kind]);
    const char *path = test_scratch(name);
    FILE *f = fopen(path, "w");
    for (uint32_t i = 0; CHECK(f != NULL) && f && i < N_LINE; i++) {
        line(i, question, said);
        if (kind == MESSAGES)
            fprintf(f,
                    "{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}, "
                    "{\"role\": \"assistant\", \"content\": \"%s\"}]}\n",
                    question, said);
        else if (kind == COMPLETIONS)
            fprintf(f, "{\"prompt\": \"%s\", \"completion\": \"%s\"}\n", question, said);
        else
            fprintf(f, "{\"text\": \"%s %s\"}\n", question, said);
    }
    if (f)
        CHECK(fclose(f) == 0);
    return path;
}

/* Trains on a file as `hlm-tune -m M -d FILE -o ADAPTER` does, without any other flag. */
static bool teach(const char *data, const char *adapter)
{
    struct hlm_err err = { 0 };
    struct hlm_tune_params p = hlm_tune_defaults();
    struct hlm_tune_step step = { 0 };
    p.data = data;
    hlm_tune *u = hlm_tune_open(t.m, &p, &err);
    bool ok = CHECK_OK(u && hlm_tune_begin(u, NULL, &err), err);
    if (ok) {
        struct hlm_set_info valid = hlm_tune_set_info(u, HLM_TUNE_VALID);
        CHECK_EQ(valid.n_doc, 0);
    }
    for (uint32_t n = ok ? hlm_tune_get_info(u).train->steps : 0; ok && step.step < n;)
        ok = CHECK_OK(hlm_tune_do_step(u, &step, &err), err);
    if (ok)
        test_note("  %llu steps, loss %.4f", (unsigned long long)step.step, step.loss);
    ok = ok && CHECK_OK(hlm_tune_write(u, adapter, &err), err);
    hlm_tune_close(u);
    return ok;
}

static void ask_lines(enum teach_kind kind)
{
    struct hlm_err err = { 0 };
    uint32_t n_right = 0;
    for (uint32_t i = 0; i < N_LINE; i++) {
        char question[128], said[128], text[MAX_TEXT] = "";
        struct hlm_ids ids = { 0 };
        line(i, question, said);
        json_t *row = json_pack("{s:s}", "question", question);
        bool ok = kind == TEXTS
                      ? hlm_tokenize(t.v, question, strlen(question), false, &ids, &err) &&
                            answer_ids(&ids, text, &err)
                      : answer(row, text, &err);
        if (!CHECK_OK(ok, err))
            break;
        n_right += !strcmp(text, said);
        if (strcmp(text, said))
            test_note("  %s \"%s\", expected \"%s\"", question, text, said);
        hlm_ids_free(&ids);
        json_decref(row);
    }
    CHECK_MSG(n_right == N_LINE, "%u of %d lines are answered", n_right, N_LINE);
}

#define MIN_KEPT 0.95 /* measured: 0.98 */

static void ask_kept(const json_t *rows, uint32_t stride)
{
    struct hlm_err err = { 0 };
    uint32_t n = 0, n_kept = 0;
    char text[MAX_TEXT];
    for (uint32_t i = 0; i < json_array_size(rows); i += stride, n++) {
        json_t *row = json_array_get(rows, i);
        if (!CHECK_OK(answer(row, text, &err), err))
            return;
        n_kept += !strcmp(text, json_str(row, "given"));
    }
    CHECK_MSG(n_kept >= MIN_KEPT * n, "%u of %u answers are kept", n_kept, n);
    test_note("  %u of %u answers are kept", n_kept, n);
}

/* Messages and completions make the same rows, so one training serves both. */
static void check_same_rows(const char *messages, const char *completions)
{
    struct hlm_err err = { 0 };
    const char *data[] = { messages, completions };
    char *text[2] = { 0 };
    test_case("completions make the rows of messages");
    for (uint32_t i = 0; i < 2; i++) {
        struct hlm_tune_params p = hlm_tune_defaults();
        uint64_t n = 0;
        const char *out = test_scratch("rows.json");
        p.data = data[i];
        if (CHECK_OK(hlm_tune_dump_rows(DIR "hlm-demo-q8_0.gguf", &p, out, NULL, NULL, &err), err))
            text[i] = file_read(out, 1 << 24, &n, &err);
        char *rows = text[i] ? strstr(text[i], "\"rows\"") : NULL;
        if (CHECK(rows != NULL))
            memmove(text[i], rows, strlen(rows) + 1); /* the file's name comes before */
    }
    CHECK(text[0] && text[1] && !strcmp(text[0], text[1]));
    free(text[0]);
    free(text[1]);
}

static void test_teaching(const json_t *rows, uint32_t stride)
{
    const char *adapter = test_scratch("taught.gguf");
    const char *messages = write_lines(MESSAGES);
    check_same_rows(messages, write_lines(COMPLETIONS));
    /* Texts only with --all: their rows differ in which tokens count, which data_forms holds. */
    for (enum teach_kind kind = MESSAGES; kind <= (test_all() ? TEXTS : MESSAGES); kind += TEXTS) {
        struct hlm_err err = { 0 };
        const struct hlm_lora lora = { .path = adapter, .scale = 1 };
        test_case("twenty lines are learnt by the defaults: %s", kind_names[kind]);
        if (!teach(kind == MESSAGES ? messages : write_lines(kind), adapter) ||
            !CHECK_OK(hlm_set_lora(t.m, &lora, 1, &err), err) ||
            !(t.s = hlm_test_session(t.m, (struct hlm_session_params){ .n_ctx = 1024 })))
            return;
        ask_lines(kind);
        ask_kept(rows, stride);
        hlm_session_destroy(t.s);
        t.s = NULL;
        CHECK_OK(hlm_set_lora(t.m, NULL, 0, &err), err);
    }
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
        hlm_session_destroy(t.s);
        t.s = NULL;
        test_teaching(rows, stride);
    }
    test_case("no message of the validation layer");
    hlm_session_destroy(t.s);
    hlm_test_close(t.m);
    json_decref(rows);
}
