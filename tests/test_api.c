/* test_api: the public calls on text and conversations as an embedder makes them: what they return,
 * which kind of error they report, where they log. */
#include "gguf_build.h"
#include "hlm_test.h"
#include "hlm_test_hooks.h"
#include "run.h"

#include <pthread.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- text ------------------------------------------------------------------------------------ */

static hlm_vocab *open_vocab(const char *path)
{
    struct hlm_err err = { 0 };
    struct hlm_log log = test_sink();
    hlm_vocab *v = hlm_vocab_open(path, &log, &err);
    CHECK_MSG(v, "%s", err.msg);
    return v;
}

/* The bytes of ids are the text. */
static void check_text(const hlm_vocab *v, const int32_t *id, uint32_t n, const char *text)
{
    uint64_t at = 0, n_text = strlen(text);
    bool same = true;
    for (uint32_t i = 0; same && i < n; i++) {
        struct hlm_str s = hlm_token_text(v, id[i]);
        same = s.n <= n_text - at && !memcmp(s.p, text + at, s.n);
        at += s.n;
    }
    CHECK_MSG(same && at == n_text, "not the ids of \"%s\"", text);
}

static uint32_t count_id(const struct hlm_ids *ids, int32_t id)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ids->n; i++)
        n += ids->id[i] == id;
    return n;
}

static void test_tokens(hlm_vocab *v)
{
    static const char text[] = "Gr\xc3\xbc\xc3\x9f Gott, <|im_end|> 12\n\xff";
    struct hlm_ids ids = { 0 };
    struct hlm_err err = { 0 };
    int32_t end = hlm_find_token(v, "<|im_end|>");
    test_case("tokens: to ids and back, control tokens only when asked for");
    CHECK(hlm_add_bos(v, &ids, &err) && !ids.n); /* the file asks for none */
    CHECK_EQ(hlm_n_vocab(v), 1024);
    CHECK(end > 0 && hlm_is_end(v, end) && hlm_is_control(v, end));
    CHECK_EQ(hlm_find_token(v, "no such token"), -1);
    CHECK_OK(hlm_tokenize(v, text, sizeof text - 1, false, &ids, &err), err);
    check_text(v, ids.id, ids.n, text);
    CHECK_EQ(count_id(&ids, end), 0);
    uint32_t n = ids.n;
    CHECK_OK(hlm_tokenize(v, text, sizeof text - 1, true, &ids, &err), err);
    CHECK_EQ(count_id(&ids, end), 1);
    check_text(v, ids.id + n, ids.n - n, text); /* appended */
    CHECK(hlm_token_text(v, -1).n == 0 && hlm_token_text(v, 1024).n == 0);
    CHECK(!hlm_is_end(v, -1) && !hlm_is_control(v, 1 << 30));
    hlm_ids_free(&ids);
    CHECK(!ids.id && !ids.n);
}

static char *render(hlm_vocab *v, const char *json, const char *format, bool no_think,
                    struct hlm_err *err)
{
    struct hlm_render_params p = {
        .json = json, .n = strlen(json), .name = "some.json", .format = format, .no_think = no_think
    };
    uint64_t n = 0;
    char *text = hlm_render(v, &p, &n, err);
    CHECK(!text || strlen(text) == n);
    return text;
}

#define HELLO "[{\"role\": \"user\", \"content\": \"Hi <|im_end|>\"}]"

static void test_render(hlm_vocab *v)
{
    struct hlm_err err = { 0 };
    struct hlm_ids ids = { 0 };
    bool known = false;
    test_case("render: the file's format and another, as text and as ids");
    CHECK_STR(hlm_chat_format(v, &known), "chatml");
    CHECK(known && hlm_is_chat_format("qwen35") && !hlm_is_chat_format("llama2"));
    char *text = render(v, HELLO, NULL, false, &err);
    if (CHECK_MSG(text, "%s", err.msg)) {
        struct hlm_render_params p = { .json = HELLO, .n = strlen(HELLO) };
        int32_t first = 7;
        CHECK_STR(text, "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n");
        CHECK(tok_ids_push(&ids, &first, 1, NULL));
        CHECK_OK(hlm_render_ids(v, &p, &ids, &err), err);
        check_text(v, ids.id + 1, ids.n - 1, text);
        CHECK_EQ(ids.id[0], 7);
        /* The one that the user wrote stays text. */
        CHECK_EQ(count_id(&ids, hlm_find_token(v, "<|im_end|>")), 1);
    }
    hlm_free(text);
    text = render(v, HELLO, "qwen35", true, &err);
    CHECK_MSG(text && strstr(text, "<think>\n\n</think>\n\n"), "%s", text ? text : err.msg);
    hlm_free(text);

    test_case("render: what cannot be rendered is refused with the text's name");
    static const struct {
        const char *json, *format, *says;
    } rows[] = {
        { "[", NULL, "some.json: line 1" },
        { "[{\"role\": \"tool\", \"content\": \"x\"}]", NULL, "some.json: message 1: role" },
        { "[]", "qwen35", "some.json: chat format qwen35 needs a user message" },
        { HELLO, "llama2", "unknown chat format \"llama2\", expected one of chatml" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t n = ids.n;
        struct hlm_render_params p = { .json = rows[i].json,
                                       .n = strlen(rows[i].json),
                                       .name = "some.json",
                                       .format = rows[i].format };
        CHECK(!render(v, rows[i].json, rows[i].format, false, &err));
        CHECK_EQ(err.kind, HLM_ERR_INPUT);
        CHECK_MSG(strstr(err.msg, rows[i].says) == err.msg, "%s", err.msg);
        CHECK(!hlm_render_ids(v, &p, &ids, &err) && ids.n == n);
        CHECK_MSG(strstr(err.msg, rows[i].says) == err.msg, "%s", err.msg);
    }
    hlm_ids_free(&ids);
}

/* Files with a bos, and a file with only a template. */
static void test_other_files(void)
{
    static const char add_bos[] = "tokenizer.ggml.add_bos_token";
    struct hlm_err err = { 0 };
    struct hlm_ids ids = { 0 };
    struct hlm_render_params p = { .json = HELLO, .n = strlen(HELLO) };
    const char *path = scratch("bos.gguf");
    test_case("render: the bos that a file asks for");
    struct gguf_build *b = gb_from(fixture("tokenizer/%s/vocab.gguf", "qwen2"), &err);
    if (!CHECK_MSG(b, "%s", err.msg))
        return;
    gb_bool(b, add_bos, true);
    gb_u32(b, "tokenizer.ggml.bos_token_id", 5);
    CHECK_MSG(gb_write(b, path, &err), "%s", err.msg);
    gb_free(b);
    hlm_vocab *v = open_vocab(path);
    if (v && CHECK_OK(hlm_render_ids(v, &p, &ids, &err), err))
        CHECK(ids.n > 2 && ids.id[0] == 5 && ids.id[1] == hlm_find_token(v, "<|im_start|>"));
    uint32_t n = ids.n;
    if (v && CHECK_OK(hlm_add_bos(v, &ids, &err), err))
        CHECK(ids.n == n + 1 && ids.id[n] == 5);
    hlm_ids_free(&ids);
    hlm_vocab_close(v);

    test_case("a file without a tokenizer: its format can be used, its tokens cannot");
    b = gb_new();
    gb_str(b, "general.architecture", "none");
    gb_str(b, "tokenizer.chat_template", "[INST] {{ messages }}");
    CHECK_MSG(gb_write(b, path, &err), "%s", err.msg);
    gb_free(b);
    if ((v = open_vocab(path))) {
        bool known = true;
        CHECK_STR(hlm_chat_format(v, &known), "chatml");
        CHECK(!known);
        char *text = render(v, HELLO, NULL, false, &err);
        CHECK_MSG(text, "%s", err.msg);
        hlm_free(text);
        CHECK(!hlm_tokenize(v, "x", 1, false, &ids, &err) && err.kind == HLM_ERR_INPUT);
        CHECK_MSG(strstr(err.msg, path), "%s", err.msg);
        CHECK(!hlm_render_ids(v, &p, &ids, &err) && err.kind == HLM_ERR_INPUT);
        CHECK(!hlm_add_bos(v, &ids, &err) && err.kind == HLM_ERR_INPUT && !ids.n);
        CHECK(hlm_n_vocab(v) == 0 && hlm_find_token(v, "x") == -1 && !hlm_token_text(v, 0).n);
        CHECK(!hlm_is_end(v, 0) && !hlm_is_control(v, 0));
    }
    hlm_vocab_close(v);
}

/* An error that is used again must neither stop a call nor outlive it. */
static void test_reused_err(hlm_vocab *v)
{
    static const struct hlm_err old = { .kind = HLM_ERR_FULL, .need = 3, .have = 2, .msg = "old" };
    struct hlm_ids ids = { 0 };
    struct hlm_err err = old;
    test_case("every call clears the error on entry");
    CHECK(hlm_tokenize(v, "x", 1, false, &ids, &err));
    CHECK(err.kind == HLM_OK && !*err.msg && !err.need && !err.have);
    err = old;
    hlm_vocab *same = hlm_vocab_open(DEMO, NULL, &err);
    CHECK(same && err.kind == HLM_OK && !*err.msg);
    hlm_vocab_close(same);
    err = old;
    CHECK(!hlm_vocab_open("/nowhere/m.gguf", NULL, &err));
    CHECK(err.kind == HLM_ERR_SYSTEM && strstr(err.msg, "/nowhere/m.gguf") && !err.need);
    err = old;
    CHECK(!render(v, "{}", NULL, false, &err));
    CHECK(err.kind == HLM_ERR_INPUT && !strstr(err.msg, "old"));
    CHECK(!hlm_vocab_open("/nowhere/m.gguf", NULL, NULL)); /* NULL will do */
    hlm_ids_free(&ids);
    CHECK_STR(hlm_error_name(HLM_ERR_STOPPED), "stopped");
    CHECK_STR(hlm_error_name((enum hlm_error)99), "unknown");
    CHECK_STR(hlm_version(), HLM_VERSION);
}

/* ---- threads --------------------------------------------------------------------------------- */

/* What one thread opens again and again, and what its sink receives. */
struct listener {
    const char *path; /* of a file, or of a model */
    uint32_t n_open, n_heard, n_foreign;
    struct hlm_err err;
};

static void hear(void *user, enum hlm_log_level level, const char *msg)
{
    struct listener *l = user;
    if (level != HLM_LOG_WARN)
        return;
    l->n_heard++;
    l->n_foreign += !strstr(msg, l->path);
}

static void *open_often(void *user)
{
    struct listener *l = user;
    struct hlm_log log = { hear, l };
    for (uint32_t i = 0; i < 20; i++) {
        hlm_vocab *v = hlm_vocab_open(l->path, &log, &l->err);
        l->n_open += v != NULL;
        hlm_vocab_close(v);
    }
    return NULL;
}

static void run_both(void *(*fn)(void *user), struct listener l[2])
{
    pthread_t thread[2];
    for (uint32_t i = 0; i < 2; i++)
        HLM_ASSERT(pthread_create(&thread[i], NULL, fn, &l[i]) == 0);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

/* A vocabulary that lacks bytes: the warning names the file. */
static const char *poor_vocab(const char *path)
{
    static const struct hlm_str tokens[] = { { "a", 1 }, { "b", 1 }, { "ab", 2 } },
                                merges[] = { { "a b", 3 } };
    struct gguf_build *b = gb_new();
    struct hlm_err err = { 0 };
    gb_str(b, "general.architecture", "none");
    gb_str(b, "tokenizer.ggml.model", "gpt2");
    gb_str(b, "tokenizer.ggml.pre", "qwen2");
    gb_strs(b, "tokenizer.ggml.tokens", ARRAY_LEN(tokens), tokens);
    gb_strs(b, "tokenizer.ggml.merges", ARRAY_LEN(merges), merges);
    CHECK_MSG(gb_write(b, path, &err), "%s", err.msg);
    gb_free(b);
    return path;
}

static void test_vocab_threads(void)
{
    struct listener l[2] = { { .path = poor_vocab(scratch("poor-1.gguf")) },
                             { .path = poor_vocab(scratch("poor-2.gguf")) } };
    test_case("vocabularies in two threads: each logs to its own sink");
    run_both(open_often, l);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_MSG(l[i].n_open == 20, "%s", l[i].err.msg);
        CHECK_EQ(l[i].n_heard, 20);
        CHECK_EQ(l[i].n_foreign, 0);
    }
}

void test_api(void)
{
    test_case("the demo model's vocabulary opens");
    hlm_vocab *v = open_vocab(DEMO);
    if (v) {
        test_tokens(v);
        test_render(v);
        test_reused_err(v);
    }
    hlm_vocab_close(v);
    hlm_vocab_close(NULL);
    test_other_files();
    test_vocab_threads();
}

/* ---- conversations --------------------------------------------------------------------------- */

/* What the callbacks of a conversation do. */
static struct {
    uint32_t n_token, stop_at; /* tokens asked for so far; the answer is stopped before this one */
    bool stop_reading;
    uint64_t n_text;
} asked;

static void on_text(void *user, enum hlm_part part, const char *s, uint64_t n)
{
    (void)user, (void)part, (void)s;
    asked.n_text += n;
}

static bool on_reading(void *user, uint64_t done, uint64_t total)
{
    (void)user, (void)done, (void)total;
    return !asked.stop_reading;
}

static bool on_stopped(void *user)
{
    (void)user;
    return asked.n_token++ >= asked.stop_at;
}

static void never_stop(void)
{
    asked.stop_reading = false;
    asked.n_token = 0;
    asked.stop_at = UINT32_MAX;
}

static hlm_talk *talk_of(hlm *m, uint32_t n_ctx)
{
    struct hlm_talk_params p = { .session = { .n_ctx = n_ctx } };
    struct hlm_err err = { 0 };
    hlm_talk *t = hlm_talk_open(m, &p, &err);
    if (!CHECK_MSG(t, "%s", err.msg))
        return NULL;
    struct hlm_talk_options *o = hlm_talk_options(t);
    o->sampling = (struct hlm_sampling){ .repeat_penalty = 1 };
    o->n_predict = 12;
    o->text = on_text;
    o->reading = on_reading;
    o->stopped = on_stopped;
    never_stop();
    return t;
}

/* The history as one text, to see whether it changed. */
static char *history(const hlm_talk *t)
{
    static char text[2][4096];
    static uint32_t k;
    char *out = text[k++ % 2];
    size_t n = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < hlm_talk_n_message(t) && n < sizeof text[0]; i++) {
        struct hlm_message m = hlm_talk_message(t, i);
        n += (size_t)snprintf(out + n, sizeof text[0] - n, "%s: %s%s\n", m.role, m.content,
                              m.reasoning ? m.reasoning : "");
    }
    return out;
}

static void say(hlm_talk *t, const char *text)
{
    struct hlm_err err = { 0 };
    CHECK_OK(hlm_talk_say(t, text, NULL, &err), err);
}

/* A conversation that was put in goes on as the one that it was taken from. */
static void test_set_messages(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_message msg[8];
    uint32_t n, n_before;
    test_case("a talk: its messages put into another one");
    hlm_talk *t = talk_of(m, 512), *other = talk_of(m, 512);
    if (!t || !other)
        return;
    CHECK(hlm_talk_count(t, &n, &err) && n == 0);
    CHECK_OK(hlm_talk_set_system(t, "Be kind.", &err), err);
    CHECK_OK(hlm_talk_count(t, &n_before, &err), err);
    say(t, "My name is Anna.");
    say(t, "Hello!");
    for (n = 0; n < hlm_talk_n_message(t); n++)
        msg[n] = hlm_talk_message(t, n);
    say(other, "Something else.");
    CHECK_OK(hlm_talk_set_messages(other, msg, n, &err), err);
    CHECK_STR(history(other), history(t));
    say(t, "What is my name?");
    say(other, "What is my name?");
    CHECK_STR(history(other), history(t));

    test_case("a talk: counted in tokens, less after an undo");
    uint32_t all, less;
    CHECK(hlm_talk_count(t, &all, &err) && all >= hlm_session_n_past(hlm_talk_session(t)));
    CHECK(hlm_talk_undo(t) && hlm_talk_count(t, &less, &err) && n_before < less && less < all);
    CHECK(hlm_talk_undo(t) && hlm_talk_undo(t) && hlm_talk_count(t, &less, &err));
    CHECK_EQ(less, n_before);

    test_case("a talk: messages out of order are refused, and the history stays");
    char was[4096];
    snprintf(was, sizeof was, "%s", history(other));
    for (uint32_t i = 0; i < n; i++)
        msg[i] = hlm_talk_message(other, i);
    CHECK_REFUSED(hlm_talk_set_messages(other, msg, n - 1, &err), err, "out of order|assistant");
    CHECK_REFUSED(hlm_talk_set_messages(other, msg + 2, n - 2, &err), err, "out of order");
    CHECK_STR(history(other), was);
    CHECK(hlm_talk_set_messages(other, NULL, 0, &err) && hlm_talk_n_message(other) == 0);
    hlm_talk_close(t);
    hlm_talk_close(other);
}

static void test_history(hlm *m)
{
    struct hlm_err err = { .kind = HLM_ERR_FULL, .msg = "old" };
    test_case("a talk: messages, the system message, undo, clear, sums");
    hlm_talk *t = talk_of(m, 512);
    if (!t)
        return;
    CHECK(hlm_talk_n_message(t) == 0 && !hlm_talk_undo(t) && !hlm_talk_system(t));
    CHECK(!hlm_talk_message(t, 0).role && hlm_talk_get_total(t).n_turn == 0);
    CHECK_STR(hlm_talk_format(t), "chatml");
    CHECK(hlm_talk_set_system(t, "Be kind.", &err) && err.kind == HLM_OK);
    CHECK_STR(hlm_talk_system(t), "Be kind.");
    CHECK(!hlm_talk_set_think(t, true, &err) && err.kind == HLM_ERR_INPUT && !hlm_talk_thinks(t));
    asked.n_text = 0;
    struct hlm_talk_turn turn = { 0 };
    CHECK_OK(hlm_talk_say(t, "Hello!", &turn, &err), err);
    struct hlm_message answer = hlm_talk_message(t, 2);
    CHECK(hlm_talk_n_message(t) == 3 && hlm_talk_n_turn(t) == 1);
    CHECK_STR(hlm_talk_message(t, 0).role, "system");
    CHECK_STR(hlm_talk_message(t, 1).content, "Hello!");
    CHECK_STR(answer.role, "assistant");
    CHECK(strlen(answer.content) == asked.n_text && !answer.reasoning);
    CHECK(turn.n_read == turn.n_prompt && turn.n_ctx == 512);
    struct hlm_talk_total sum = hlm_talk_get_total(t);
    CHECK(sum.n_turn == 1 && sum.n_read == turn.n_read && sum.n_gen == turn.n_gen &&
          sum.last.n_prompt == turn.n_prompt);
    CHECK_EQ(hlm_session_n_past(hlm_talk_session(t)), turn.n_used);
    say(t, "And you?");
    CHECK(hlm_talk_undo(t) && hlm_talk_n_message(t) == 3);
    hlm_talk_clear(t);
    CHECK(hlm_talk_n_message(t) == 1);
    CHECK(hlm_talk_set_system(t, NULL, &err) && hlm_talk_n_message(t) == 0);
    CHECK(!hlm_talk_regenerate(t, NULL, &err) && err.kind == HLM_ERR_STATE);
    hlm_talk_close(t);
    test_set_messages(m);

    test_case("a talk: an unknown format is refused");
    struct hlm_talk_params p = { .session = { .n_ctx = 64 }, .format = "llama2" };
    CHECK(!hlm_talk_open(m, &p, &err) && err.kind == HLM_ERR_INPUT);
    CHECK_MSG(strstr(err.msg, "llama2"), "%s", err.msg);
    hlm_talk_close(NULL);
}

static void test_edit(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn turn = { 0 };
    char was[4096];
    test_case("edit: what follows is forgotten, what comes before is not read again");
    hlm_talk *t = talk_of(m, 512), *other = talk_of(m, 512);
    if (!t || !other)
        return;
    say(t, "My name is Anna.");
    say(t, "What is two plus three?");
    say(t, "Hello!");
    uint64_t n_before = hlm_talk_get_total(t).last.n_prompt;
    CHECK_OK(hlm_talk_edit(t, 1, "What is my name?", &turn, &err), err);
    CHECK_EQ(hlm_talk_n_message(t), 4);
    CHECK_STR(hlm_talk_message(t, 2).content, "What is my name?");
    CHECK(turn.i_msg == 2 && turn.n_reused > 0 && turn.n_prompt < n_before);
    CHECK_EQ(turn.n_read + turn.n_reread, turn.n_prompt - turn.n_reused);
    say(other, "My name is Anna.");
    say(other, "What is my name?");
    CHECK_STR(history(t), history(other));

    test_case("edit: a failure leaves the history as it was");
    say(t, "Hello!");
    snprintf(was, sizeof was, "%s", history(t));
    CHECK(!hlm_talk_edit(t, 3, "x", &turn, &err) && err.kind == HLM_ERR_INPUT);
    CHECK(turn.n_prompt == 0 && turn.n_gen == 0); /* no turn began */
    CHECK_MSG(strstr(err.msg, "message 4"), "%s", err.msg);
    CHECK(!hlm_talk_edit(t, 0, NULL, &turn, &err) && err.kind == HLM_ERR_INPUT);
    CHECK(!hlm_talk_say(t, NULL, &turn, &err) && err.kind == HLM_ERR_INPUT);
    CHECK_STR(history(t), was);
    asked.stop_reading = true;
    CHECK(!hlm_talk_edit(t, 0, "Something else, long enough", &turn, &err));
    CHECK_EQ(err.kind, HLM_ERR_STOPPED);
    CHECK_STR(history(t), was);
    never_stop();
    for (uint64_t n = 1, left = 0; !left && n < 400; n += 7) {
        hlm_test_fail(n);
        bool ok = hlm_talk_edit(t, 0, "My name is Otto.", &turn, &err);
        left = hlm_test_fail(0);
        if (ok)
            break;
        CHECK_EQ(err.kind, HLM_ERR_MEMORY);
        CHECK_STR(history(t), was);
    }
    hlm_talk_close(t);
    hlm_talk_close(other);
}

static void test_stopped(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn turn = { 0 };
    char was[4096];
    test_case("stopped: before the answer nothing is kept, within it what there is");
    hlm_talk *t = talk_of(m, 512);
    if (!t)
        return;
    say(t, "Hello!");
    snprintf(was, sizeof was, "%s", history(t));
    asked.stop_reading = true;
    CHECK(!hlm_talk_say(t, "And you?", &turn, &err) && err.kind == HLM_ERR_STOPPED);
    CHECK_STR(history(t), was);
    CHECK(!hlm_talk_regenerate(t, &turn, &err) || turn.n_read + turn.n_reread == 0);
    never_stop();
    snprintf(was, sizeof was, "%s", history(t));
    asked.stop_at = 0;
    CHECK(!hlm_talk_say(t, "And you?", &turn, &err) && err.kind == HLM_ERR_STOPPED);
    CHECK_STR(history(t), was);
    never_stop();
    asked.stop_at = 3;
    CHECK_OK(hlm_talk_say(t, "And you?", &turn, &err), err);
    CHECK(turn.end == HLM_TALK_STOPPED && turn.n_gen == 3 && hlm_talk_n_turn(t) == 2);
    never_stop();
    hlm_talk_options(t)->n_predict = 2;
    CHECK_OK(hlm_talk_say(t, "Tell me a story.", &turn, &err), err);
    CHECK(turn.end == HLM_TALK_LIMIT && turn.n_gen == 2);
    hlm_talk_close(t);
}

static void take_answer(void *user, enum hlm_part part, const char *s, uint64_t n)
{
    (void)part;
    strncat(user, s, n);
}

/* The answer to a greeting, where one of these texts stops it. */
static const char *stopped_by(hlm_talk *t, const char *a, const char *b, struct hlm_talk_turn *turn)
{
    static char shown[512];
    const char *const stop[] = { a, b };
    struct hlm_talk_options *o = hlm_talk_options(t);
    struct hlm_err err = { 0 };
    shown[0] = 0;
    o->text = take_answer;
    o->user = shown;
    o->stop = stop;
    o->n_stop = b ? 2 : a ? 1 : 0;
    CHECK_OK(hlm_talk_say(t, "Hello!", turn, &err), err);
    o->n_stop = 0;
    CHECK_STR(hlm_talk_message(t, hlm_talk_n_message(t) - 1).content, shown);
    return shown;
}

static void test_stop_texts(hlm *m)
{
    struct hlm_talk_turn turn = { 0 };
    char all[512], want[512];
    test_case("stop texts: the answer ends before the first, wherever tokens end");
    hlm_talk *t = talk_of(m, 512);
    if (!t)
        return;
    snprintf(all, sizeof all, "%s", stopped_by(t, NULL, NULL, &turn));
    size_t n = strlen(all);
    uint64_t n_gen = turn.n_gen;
    CHECK(n > 12 && turn.end != HLM_TALK_STOP);
    for (size_t at = 0; at + 4 <= n; at += 5) {
        char text[5] = "";
        memcpy(text, all + at, 4);
        hlm_talk_clear(t);
        snprintf(want, sizeof want, "%.*s", (int)(strstr(all, text) - all), all);
        CHECK_STR(stopped_by(t, text, "never said", &turn), want);
        CHECK(turn.end == HLM_TALK_STOP && turn.n_gen <= n_gen);
    }
    hlm_talk_clear(t);
    snprintf(want, sizeof want, "%.5s", all);
    char late[3] = { all[8], all[9], 0 }, early[3] = { all[5], all[6], 0 };
    CHECK_STR(stopped_by(t, late, early, &turn), want);
    test_case("stop texts: what only begins like one is shown, and the next turn goes on");
    char begun[8];
    snprintf(begun, sizeof begun, "%s#", all + n - 3);
    hlm_talk_clear(t);
    CHECK_STR(stopped_by(t, begun, "", &turn), all);
    say(t, "And you?");
    CHECK_EQ(hlm_talk_n_turn(t), 2);
    hlm_talk_close(t);
}

static void test_bias(hlm *m)
{
    struct hlm_talk_turn turn = { 0 };
    struct hlm_err err = { 0 };
    char all[512], other[512];
    test_case("biases: 0 changes nothing, -infinity is never said, a large one always");
    hlm_talk *t = talk_of(m, 512);
    if (!t)
        return;
    struct hlm_sampling *s = &hlm_talk_options(t)->sampling;
    snprintf(all, sizeof all, "%s", stopped_by(t, NULL, NULL, &turn));
    int32_t first = hlm_session_ids(hlm_talk_session(t))[turn.n_prompt];
    struct hlm_str text = hlm_token_text(hlm_get_vocab(m, NULL), first);
    s->n_bias = 1;
    s->bias[0] = (struct hlm_bias){ first, 0 };
    hlm_talk_clear(t);
    CHECK_STR(stopped_by(t, NULL, NULL, &turn), all);
    s->bias[0].by = -INFINITY;
    for (int temp = 0; temp < 2; temp++) {
        s->temp = (float)temp * 3;
        s->top_p = 1;
        hlm_talk_clear(t);
        snprintf(other, sizeof other, "%s", stopped_by(t, NULL, NULL, &turn));
        const int32_t *id = hlm_session_ids(hlm_talk_session(t));
        for (uint32_t i = turn.n_prompt; i < turn.n_used; i++)
            CHECK(id[i] != first);
        CHECK_MSG(strcmp(other, all) != 0, "%s", other);
    }
    s->bias[0].by = 1000;
    hlm_talk_clear(t);
    stopped_by(t, NULL, NULL, &turn);
    const int32_t *id = hlm_session_ids(hlm_talk_session(t));
    for (uint32_t i = turn.n_prompt; i < turn.n_used; i++)
        CHECK_EQ(id[i], first);
    CHECK(text.n > 0);
    test_case("biases that cannot be are refused");
    s->bias[0] = (struct hlm_bias){ -1, 1 };
    CHECK_REFUSED(hlm_talk_say(t, "x", NULL, &err), err, "token -1");
    s->bias[0] = (struct hlm_bias){ 1024, 1 };
    CHECK_REFUSED(hlm_talk_say(t, "x", NULL, &err), err, "token 1024|1023");
    s->bias[0] = (struct hlm_bias){ 1, NAN };
    CHECK_REFUSED(hlm_talk_say(t, "x", NULL, &err), err, "token 1|nan");
    s->n_bias = HLM_MAX_BIAS + 1;
    CHECK_REFUSED(hlm_talk_say(t, "x", NULL, &err), err, "65 biases|64");
    hlm_talk_close(t);
}

/* Fills a short context. */
static void test_full(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn turn = { 0 };
    char was[4096];
    test_case("full: refused with numbers, or the oldest turns go, if the turn succeeds");
    hlm_talk *t = talk_of(m, 96);
    if (!t)
        return;
    struct hlm_talk_options *o = hlm_talk_options(t);
    o->n_predict = -1;
    o->stop_on_full = true;
    uint32_t n = 0;
    while (n < 9 && hlm_talk_say(t, "Tell me a story.", &turn, &err))
        n++;
    CHECK_MSG(err.kind == HLM_ERR_FULL && err.have == 96 && err.need > 96, "%s", err.msg);
    CHECK_MSG(!strchr(err.msg, '-') && !strchr(err.msg, '/'), "a flag: %s", err.msg);
    CHECK(n == hlm_talk_n_turn(t) && n >= 1);
    snprintf(was, sizeof was, "%s", history(t));
    o->stop_on_full = false;
    asked.stop_reading = true;
    CHECK(!hlm_talk_say(t, "Tell me another.", &turn, &err) && err.kind == HLM_ERR_STOPPED);
    CHECK_STR(history(t), was);
    CHECK(turn.n_dropped_turns == 0);
    never_stop();
    o->n_predict = 4;
    CHECK_OK(hlm_talk_say(t, "Tell me another.", &turn, &err), err);
    CHECK(turn.n_dropped_turns >= 1 && turn.n_dropped > 0 && turn.n_prompt <= 48);
    CHECK_EQ(hlm_talk_n_turn(t), n + 1 - turn.n_dropped_turns);
    CHECK_EQ(hlm_talk_get_total(t).n_dropped_turns, turn.n_dropped_turns);
    hlm_talk_close(t);
}

static void test_lora(hlm *m)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn turn = { 0 };
    char plain[4096], adapted[4096];
    struct hlm_lora l = { demo_adapter(scratch("talk-adapter")), 40 };
    test_case("adapters of a talk: set, refused, taken away");
    hlm_talk *t = talk_of(m, 256);
    if (!t)
        return;
    say(t, "Hello!");
    snprintf(plain, sizeof plain, "%s", history(t));
    CHECK_OK(hlm_talk_set_lora(t, &l, 1, &err), err);
    CHECK_OK(hlm_talk_regenerate(t, &turn, &err), err);
    snprintf(adapted, sizeof adapted, "%s", history(t));
    CHECK(turn.n_reused == 0 && strcmp(plain, adapted) != 0);

    struct hlm_lora bad = { "/nowhere/a.gguf", 1 };
    CHECK(!hlm_talk_set_lora(t, &bad, 1, &err) && err.kind == HLM_ERR_SYSTEM);
    CHECK_OK(hlm_talk_regenerate(t, &turn, &err), err);
    CHECK_EQ(turn.n_reused, turn.n_prompt); /* the session is the one before */
    hlm_talk *second = talk_of(m, 64);
    CHECK(!hlm_talk_set_lora(t, NULL, 0, &err) && err.kind == HLM_ERR_STATE);
    hlm_talk_close(second);

    test_case("adapters of a talk: where memory ends, those before stay");
    uint32_t n_failed = 0;
    for (uint64_t n = 1, left = 0; !left && n < 2000; n += 23) {
        hlm_test_fail(n);
        bool ok = hlm_talk_set_lora(t, NULL, 0, &err);
        left = hlm_test_fail(0);
        if (ok)
            break;
        n_failed++;
        CHECK_EQ(err.kind, HLM_ERR_MEMORY);
        if (!CHECK(hlm_talk_session(t) != NULL))
            break;
        CHECK_OK(hlm_talk_regenerate(t, &turn, &err), err);
        CHECK_STR(history(t), adapted);
    }
    CHECK(n_failed >= 2);
    CHECK_OK(hlm_talk_set_lora(t, NULL, 0, &err), err);
    CHECK_OK(hlm_talk_regenerate(t, &turn, &err), err);
    CHECK_STR(history(t), plain);
    hlm_talk_close(t);
}

static bool stop_loading(void *user, uint64_t done, uint64_t total)
{
    (void)user, (void)total;
    return done == 0;
}

/* The same for the calls below a conversation. */
static void test_stopped_below(hlm *m)
{
    struct hlm_err err = { 0 };
    int32_t id[40] = { 1, 2, 3 };
    test_case("stopped: loading, and reading");
    struct hlm_params p = { .model = DEMO, .progress = stop_loading, .log = test_sink() };
    hlm *none = hlm_open(&p, &err);
    CHECK(!none && err.kind == HLM_ERR_STOPPED);
    hlm_close(none);
    hlm_session *s = hlm_test_session(m, (struct hlm_session_params){ .n_ctx = 64 });
    asked.stop_reading = true;
    CHECK(!hlm_session_sync(s, id, ARRAY_LEN(id), NULL, 0, on_reading, NULL, &err));
    CHECK_EQ(err.kind, HLM_ERR_STOPPED);
    never_stop();
    CHECK_OK(hlm_session_sync(s, id, ARRAY_LEN(id), NULL, 0, on_reading, NULL, &err), err);
    CHECK_EQ(err.kind, HLM_OK);
    hlm_session_destroy(s);
}

/* A model of its own whose every session causes a warning: its budget is below one snapshot. */
static void *talk_often(void *user)
{
    struct listener *l = user;
    struct hlm_params params = { .model = l->path, .cache_dir = "build/cache", .log = { hear, l } };
    hlm *m = hlm_open(&params, &l->err);
    for (uint32_t i = 0; m && i < 4; i++) {
        struct hlm_talk_params p = { .session = { .n_ctx = 64, .snapshot_budget = 1 } };
        hlm_talk *t = hlm_talk_open(m, &p, &l->err);
        if (t) {
            hlm_talk_options(t)->n_predict = 4;
            l->n_open += hlm_talk_say(t, "Hello!", NULL, &l->err);
        }
        hlm_talk_close(t);
    }
    hlm_close(m);
    return NULL;
}

static void test_model_threads(void)
{
    struct listener l[2] = { { .path = DEMO },
                             { .path = "models/demo/../demo/hlm-demo-q8_0.gguf" } };
    test_case("two models in two threads: each logs to its own sink");
    run_both(talk_often, l);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_MSG(l[i].n_open == 4, "%s", l[i].err.msg);
        CHECK_EQ(l[i].n_heard, 4);
    }
}

/* What the callback on kernels received. */
static struct prepared {
    uint64_t done, total, n_call;
    bool stop, wrong;
} prepared;

static bool on_preparing(void *user, uint64_t done, uint64_t total)
{
    struct prepared *p = user;
    p->wrong |= done > total || (p->n_call && (total != p->total || done < p->done));
    *p = (struct prepared){ done, total, p->n_call + 1, p->stop, p->wrong };
    return !p->stop;
}

static void test_prepared(void)
{
    struct hlm_err err = { 0 };
    char folder[300];
    snprintf(folder, sizeof folder, "%s/pipelines", test_tmp());
    struct hlm_params params = {
        .model = DEMO, .cache_dir = folder, .preparing = on_preparing, .preparing_user = &prepared
    };
    struct hlm_session_params sp = { .n_ctx = 64 };
    test_case("kernels are prepared once: counted, stopped, gone on with");
    hlm *m = hlm_open(&params, &err);
    if (!CHECK_MSG(m, "%s", err.msg))
        return;
    prepared = (struct prepared){ .stop = true };
    hlm_session *s = hlm_session_create(m, &sp, &err);
    CHECK(!s && err.kind == HLM_ERR_STOPPED && prepared.n_call > 0);
    hlm_session_destroy(s);
    prepared = (struct prepared){ 0 };
    CHECK_OK((s = hlm_session_create(m, &sp, &err)) != NULL, err);
    CHECK_MSG(prepared.total > 5 && prepared.done == prepared.total && !prepared.wrong,
              "%llu of %llu", (unsigned long long)prepared.done,
              (unsigned long long)prepared.total);
    hlm_session_destroy(s);
    hlm_close(m);
    test_case("kernels that the cache has are not counted");
    prepared = (struct prepared){ 0 };
    CHECK_OK((m = hlm_open(&params, &err)) != NULL, err);
    s = m ? hlm_session_create(m, &sp, &err) : NULL;
    CHECK_MSG(s && prepared.n_call == 0, "%llu calls", (unsigned long long)prepared.n_call);
    hlm_session_destroy(s);
    hlm_close(m);
}

void test_api_talk(void)
{
    test_case("a device");
    if (!test_gpu())
        return;
    test_case("the demo model opens");
    hlm *m = hlm_test_open(DEMO);
    if (m) {
        test_history(m);
        test_edit(m);
        test_stopped(m);
        test_stop_texts(m);
        test_bias(m);
        test_full(m);
        test_lora(m);
        test_stopped_below(m);
    }
    test_case("no message of the validation layer");
    hlm_test_close(m);
    test_prepared();
    test_model_threads();
}
