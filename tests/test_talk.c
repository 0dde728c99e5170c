/* test_talk: hlm-chat and hlm-eval run as programs, on a device: what a conversation reads and
 * says, slash commands, saved conversations, adapters, plans, results in files, and being
 * watched. */
#define _XOPEN_SOURCE 700
#include "ui/ring.h"
#include "gguf_build.h"
#include "run.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- conversations --------------------------------------------------------------------------- */

/* A conversation over --lines: its output and the turn events of its log. */
struct talked {
    struct ran r;
    json_t *turn[16];
    uint32_t n_turn;
};

static struct talked converse(int rc, const char *lines, const char *flags)
{
    struct talked t = { 0 };
    const char *log = scratch("log.json");
    t.r = run(lines, "hlm-chat --lines --log-json %s %s", log, flags);
    CHECK_MSG(t.r.rc == rc, "exit code %d, expected %d: %s", t.r.rc, rc, t.r.err);
    char *text = slurp(log);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *e = json_loads(line, 0, NULL);
        CHECK_MSG(e, "not JSON: %s", line);
        const char *event = json_string_value(json_object_get(e, "event"));
        if (event && strcmp(event, "turn") == 0 && t.n_turn < ARRAY_LEN(t.turn))
            t.turn[t.n_turn++] = e;
        else
            json_decref(e);
    }
    free(text);
    return t;
}

static void talked_free(struct talked *t)
{
    for (uint32_t i = 0; i < t->n_turn; i++)
        json_decref(t->turn[i]);
    ran_free(&t->r);
    *t = (struct talked){ 0 };
}

static long long num(const struct talked *t, uint32_t i, const char *key)
{
    return i < t->n_turn ? json_integer_value(json_object_get(t->turn[i], key)) : -1;
}

/* The i-th answer, while every answer is one line. */
static const char *answer(const struct talked *t, uint32_t i, char *out, size_t size)
{
    const char *s = t->r.out;
    for (; i && *s; i--)
        s += strcspn(s, "\n") + (s[strcspn(s, "\n")] == '\n');
    snprintf(out, size, "%.*s", (int)strcspn(s, "\n"), s);
    return out;
}

static void test_second_turn(void)
{
    char a[256], b[256];
    test_case("ChatML: the second turn goes on where the first ended");
    struct talked t = converse(0, "Hello!\nWhat is two plus three?\n/regen\n", "--temp 0 -m " DEMO);
    CHECK_EQ(t.n_turn, 3);
    CHECK_STR(t.r.err, "");
    CHECK_EQ(n_lines(t.r.out), 3);
    CHECK_EQ(num(&t, 0, "read"), num(&t, 0, "prompt"));
    CHECK_EQ(num(&t, 1, "reused"), num(&t, 0, "used"));
    CHECK_EQ(num(&t, 1, "read"), num(&t, 1, "prompt") - num(&t, 0, "used"));
    CHECK_EQ(num(&t, 1, "reread"), 0);
    CHECK_EQ(num(&t, 2, "reused"), num(&t, 1, "prompt"));
    CHECK_EQ(num(&t, 2, "read") + num(&t, 2, "reread"), 0);
    CHECK_STR(answer(&t, 2, a, sizeof a), answer(&t, 1, b, sizeof b)); /* greedy */
    talked_free(&t);

    test_case("/undo: what follows is as if the turn had not been");
    t = converse(0, "My name is Anna.\nWhat is my name?\n/undo\nWhat is my name?\n",
                 "--temp 0 -m " DEMO);
    CHECK_STR(answer(&t, 2, a, sizeof a), answer(&t, 1, b, sizeof b));
    CHECK_SAYS(a, "name is");
    CHECK_EQ(num(&t, 2, "prompt"), num(&t, 1, "prompt"));
    CHECK_EQ(num(&t, 2, "read") + num(&t, 2, "reused") + num(&t, 2, "reread"),
             num(&t, 2, "prompt"));
    talked_free(&t);

    test_case("/undo: an earlier state is gone back to, and without a budget it is read again");
    for (int budget = 0; budget < 2; budget++) {
        t = converse(0, "My name is Anna.\nHello!\n/undo\nWhat is two plus three?\n",
                     budget ? "--temp 0 -m " DEMO : "--snapshot-budget 0 --temp 0 -m " DEMO);
        const char *why = json_string_value(json_object_get(t.turn[2], "why"));
        CHECK_SAYS(why, "differs|token|message 3");
        CHECK_EQ(num(&t, 2, "reused"), budget ? num(&t, 2, "same") : 0);
        CHECK_EQ(num(&t, 2, "reread"), budget ? 0 : num(&t, 2, "same"));
        talked_free(&t);
    }

    test_case("/clear: nothing is left");
    t = converse(0, "My name is Anna.\n/clear\nMy name is Anna.\n/bye\nnever read\n",
                 "--temp 0 -m " DEMO);
    CHECK_EQ(t.n_turn, 2);
    CHECK_EQ(num(&t, 1, "prompt"), num(&t, 0, "prompt"));
    CHECK_STR(answer(&t, 1, a, sizeof a), answer(&t, 0, b, sizeof b));
    talked_free(&t);
}

/* A conversation that is left and resumed reads nothing again, and continues as it would have. */
static void test_save(void)
{
    static const char first[] = "My name is Anna.\nWhat is two plus three?\n";
    char a[256], b[256], lines[512];
    const char *file = scratch("talk.hlm"), *other = scratch("other.hlm");
    test_case("/save and /load: as if the program had not been left");
    struct talked t = converse(0, "My name is Anna.\nWhat is two plus three?\nWhat is my name?\n",
                               "--temp 0 -sys Be_kind. -m " DEMO);
    answer(&t, 2, a, sizeof a);
    long long used = num(&t, 1, "used"), prompt = num(&t, 2, "prompt");
    talked_free(&t);
    snprintf(lines, sizeof lines, "%s/save %s\n", first, file);
    t = converse(0, lines, "--temp 0 -sys Be_kind. -m " DEMO);
    CHECK_STR(t.r.err, "");
    struct stat st;
    CHECK(stat(file, &st) == 0 && (st.st_mode & 07777) == 0600);
    talked_free(&t);
    snprintf(lines, sizeof lines, "Hello!\n/load %s\nWhat is my name?\n/undo\n/undo\nBye.\n", file);
    t = converse(0, lines, "--temp 0 -c 777 -m " DEMO);
    CHECK_EQ(t.n_turn, 3);
    CHECK_STR(answer(&t, 1, b, sizeof b), a);
    CHECK_EQ(num(&t, 1, "prompt"), prompt);
    CHECK_EQ(num(&t, 1, "reused"), used);
    CHECK_EQ(num(&t, 1, "read"), prompt - used);
    CHECK_EQ(num(&t, 1, "reread"), 0);
    CHECK_EQ(num(&t, 2, "reused"), num(&t, 2, "same")); /* a snapshot of the file */
    CHECK_MSG(num(&t, 2, "reused") > 0, "nothing was reused");
    talked_free(&t);

    test_case("/load: a file that does not fit leaves the conversation as it was");
    uint64_t n = 0;
    char *bytes = file_read(file, 1 << 28, &n, NULL);
    if (!CHECK(bytes && n > 1000))
        return;
    bytes[n / 2] ^= 1;
    CHECK(file_write_atomic(other, bytes, n, NULL));
    free(bytes);
    snprintf(lines, sizeof lines, "My name is Anna.\n/load %s\nWhat is my name?\n", other);
    t = converse(1, lines, "--temp 0 -m " DEMO);
    CHECK_EQ(n_lines(t.r.err), 1);
    CHECK_SAYS(t.r.err, "checksum");
    CHECK_EQ(num(&t, 1, "reused"), num(&t, 0, "used"));
    talked_free(&t);
    snprintf(lines, sizeof lines, "/load %s\n", file);
    t = converse(1, lines, "-c 32 -m " DEMO);
    CHECK_EQ(n_lines(t.r.err), 1);
    CHECK_SAYS(t.r.err, "talk.hlm|tokens|context|32|-c");
    talked_free(&t);
}

/* /save replaces an earlier conversation, and nothing else that may stand there. */
static void test_save_over(void)
{
    char lines[512];
    const char *file = scratch("over.hlm"), *notes = scratch("notes.md"),
               *model = scratch("m.gguf");
    test_case("/save: an earlier conversation is replaced, and that is said");
    snprintf(lines, sizeof lines, "Hello!\n/save %s\nHello!\n/save %s\n", file, file);
    struct talked t = converse(0, lines, "-n 4 -v -m " DEMO);
    CHECK_SAYS(t.r.err, "saved 1 turn|over.hlm|saved 2 turns|over.hlm|in place");
    talked_free(&t);

    test_case("/save: a file that is no conversation stays, the loaded model above all");
    uint64_t n = 0, n_after = 0;
    char *bytes = file_read(DEMO, 1u << 28, &n, NULL);
    CHECK(bytes && file_write_atomic(model, bytes, n, NULL));
    free(bytes);
    spill(notes, "mine\n");
    snprintf(lines, sizeof lines, "Hello!\n/save %s\n/save %s\n/save %s\n", model, notes,
             test_tmp());
    char flags[256];
    snprintf(flags, sizeof flags, "-n 4 -m %s", model);
    t = converse(1, lines, flags);
    CHECK_EQ(n_lines(t.r.err), 3);
    CHECK_SAYS(t.r.err,
               "m.gguf|is there already|not a saved conversation|notes.md|no ordinary file");
    talked_free(&t);
    bytes = file_read(model, 1u << 28, &n_after, NULL);
    CHECK_EQ(n_after, n);
    free(bytes);
    bytes = slurp(notes);
    CHECK_STR(bytes, "mine\n");
    free(bytes);
}

/* Templates that drop reasoning from the history and write a block into the prompt themselves. The
 * snapshot is where a later prompt differs from this one, and the rewritten answer is read after
 * it. lost: how many tokens of a prompt are not part of the next one. */
static const struct thinking {
    const char *name, *template;
    bool think;
    long long lost;
} thinkings[] = {
    { "qwen35", "{{ '<function=' }} enable_thinking", true, 2 },
    { "qwen35", "{{ '<function=' }} enable_thinking", false, 6 },
    { "nemotron", "truncate_history_thinking enable_thinking <think></think> \\n</think>\\n", true,
      1 },
    { "nemotron", "truncate_history_thinking enable_thinking <think></think> \\n</think>\\n", false,
      0 },
    { "step", "{{- bos_token }}<|im_start|>tool_response <think>\\n", true, 2 },
};

static void test_thinking(void)
{
    const char *model = scratch("thinking.gguf");
    for (uint32_t k = 0; k < ARRAY_LEN(thinkings); k++) {
        const struct thinking *th = &thinkings[k];
        struct hlm_err err = { 0 };
        char flags[512];
        test_case("the template of %s, thinking %s", th->name, th->think ? "on" : "off");
        struct gguf_build *b = gb_from(DEMO, &err);
        if (!CHECK_MSG(b, "%s", err.msg))
            return;
        gb_str(b, "tokenizer.chat_template", th->template);
        CHECK_MSG(gb_write(b, model, &err), "%s", err.msg);
        gb_free(b);
        snprintf(flags, sizeof flags, "--temp 0 -n 24 -c 512 --think %s -m %s",
                 th->think ? "on" : "off", model);
        struct talked t =
            converse(0, "Hello!\nWhat is two plus three?\nAnd one plus one?\n/regen\n", flags);
        CHECK_EQ(t.n_turn, 4);
        CHECK_STR(t.r.err, "");
        for (uint32_t i = 0; i < t.n_turn; i++)
            CHECK_EQ(json_is_true(json_object_get(t.turn[i], "think")), th->think);
        CHECK_EQ(num(&t, 0, "read"), num(&t, 0, "prompt"));
        for (uint32_t i = 1; i < 3; i++) {
            CHECK_EQ(num(&t, i, "reread"), 0);
            CHECK_EQ(num(&t, i, "read") + num(&t, i, "reused"), num(&t, i, "prompt"));
            CHECK_EQ(num(&t, i, "reused"), num(&t, i, "same"));
            const char *why = json_string_value(json_object_get(t.turn[i], "why"));
            if (th->lost) { /* all of the earlier prompt except its thinking part */
                CHECK_EQ(num(&t, i, "reused"), num(&t, i - 1, "prompt") - th->lost);
                CHECK_SAYS(why, "differs|token");
            } else { /* and the answer too */
                CHECK_EQ(num(&t, i, "reused"), num(&t, i - 1, "used"));
            }
        }
        CHECK_EQ(num(&t, 3, "prompt"), num(&t, 2, "prompt"));
        CHECK_EQ(num(&t, 3, "read") + num(&t, 3, "reread"), 0);
        talked_free(&t);
    }

    test_case("a format that always thinks has no switch");
    struct talked t = converse(1, "Hello!\n", "--chat-format step --think off -m " DEMO);
    CHECK_SAYS(t.r.err, "step|always thinks");
    talked_free(&t);
}

static void test_full(void)
{
    static const char lines[] =
        "Tell me a story.\nTell me a story.\nTell me a story.\nTell me a story.\nHello!\n";
    test_case("a full context drops the oldest turns until half is free");
    struct talked t = converse(0, lines, "--temp 0 -c 128 -sys Be_kind. -m " DEMO);
    long long dropped = 0;
    for (uint32_t i = 0; i < t.n_turn; i++) {
        dropped += num(&t, i, "dropped_turns");
        CHECK_MSG(num(&t, i, "prompt") < 128, "turn %u: a prompt of %lld", i, num(&t, i, "prompt"));
        CHECK_MSG(num(&t, i, "dropped_turns") == 0 || num(&t, i, "prompt") <= 64,
                  "turn %u: a prompt of %lld after dropping", i, num(&t, i, "prompt"));
    }
    CHECK_EQ(t.n_turn, 5);
    CHECK_MSG(dropped > 0, "no turn was dropped");
    CHECK_SAYS(t.r.err, "dropped|oldest");
    talked_free(&t);

    test_case("--on-full stop refuses");
    t = converse(1, lines, "--temp 0 -c 128 --on-full stop -m " DEMO);
    CHECK(t.n_turn < 5);
    CHECK_SAYS(t.r.err, "context|full");
    talked_free(&t);

    test_case("a message longer than the context leaves the conversation as it was");
    t = converse(1, "Hi\none two three four five six seven eight nine ten eleven twelve\n/regen\n",
                 "-n 3 -c 24 -m " DEMO);
    CHECK_SAYS(t.r.err, "larger -c");
    CHECK_MSG(!test_has(t.r.err, "dropped"), "%s", t.r.err);
    CHECK_EQ(t.n_turn, 2);
    talked_free(&t);
}

static void test_commands(void)
{
    static const struct {
        const char *line, *says;
    } rows[] = {
        { "/nope x", "unknown|/nope|/help" },
        { "/histroy", "unknown|/histroy|perhaps|/history" },
        { "/save", "/save|nothing has been said" },
        { "/save /nowhere/x", "/nowhere/x|write|No such file" },
        { "/load", "/load|file" },
        { "/load /nowhere/x", "/nowhere/x|No such file" },
        { "/load " DEMO, DEMO "|no saved conversation|hlmstate" },
        { "/undo", "no turn|undo" },
        { "/regen", "no answer" },
        { "/think on", "no thinking" },
        { "/think x", "/think|on|off|show|hide" },
        { "/edit", "no message" },
        { "/export", "/export|file|.md|.json" },
        { "/export /tmp/x.txt", "/tmp/x.txt|.md|.json" },
        { "/export README.md", "README.md|is there already|exported" },
        { "/file", "/file|which" },
        { "/file /nowhere/x", "/nowhere/x|No such file" },
        { "/file " DEMO " what?", DEMO "|NUL" },
        { "/set nope 1", "/set|nope" },
        { "/set tempp 1", "/set|tempp|perhaps|temp" },
        { "/set temp", "/set temp|value" },
        { "/set top_k x", "top_k|x|whole number" },
        { "/clear x", "/clear|nothing" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("%s", rows[i].line);
        struct ran r = run(rows[i].line, "hlm-chat --lines -m " DEMO);
        CHECK_EQ(r.rc, 1);
        CHECK_STR(r.out, "");
        CHECK_SAYS(r.err, rows[i].says);
        ran_free(&r);
    }
    test_case("/set takes capitals and short names; typing errors are no errors");
    struct ran w = run("/nope\n/set NOPE 1\n/set temp x\n/undo\n/load README.md\n/set TEMP 0.125\n"
                       "/set n 3\n/set\n/stats\n/quit\nnever read\n",
                       "hlm-chat --lines -m " DEMO);
    CHECK_SAYS(w.err, "predict|3|temp|0.125");
    CHECK_SAYS(w.err, "0 errors so far");
    CHECK_STR(w.out, "");
    ran_free(&w);
    test_case("/set, /system and /stats");
    struct ran r = run("/set temp 0.25\n/set\n/system Be kind.\n/system\nHello!\n/stats\n",
                       "hlm-chat --lines -m " DEMO);
    CHECK_EQ(r.rc, 0);
    CHECK_EQ(n_lines(r.out), 1);
    CHECK_SAYS(r.err, "temp|0.25");
    CHECK_SAYS(r.err, "repeat_last_n");
    CHECK_SAYS(r.err, "system message|Be kind.");
    CHECK_SAYS(r.err, "reused");
    CHECK_SAYS(r.err, "adapters|0 B");
    CHECK_SAYS(r.err, "/s|0 errors");
    ran_free(&r);
}

static void test_load_broken(const char *json)
{
    static const char *const broken[][2] = {
        { "{\"messages\": 3}", "talk.json|no conversation|messages" },
        { "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}",
          "talk.json|out of order|assistant" },
        { "{\"messages\": [{\"role\": \"user\"}]}", "talk.json|no conversation|content" },
        { "{\"messages\": ", "talk.json|line 1" },
    };
    char lines[300];
    snprintf(lines, sizeof lines, "/load %s\n", json);
    for (uint32_t i = 0; i < ARRAY_LEN(broken); i++) {
        test_case("/load: %s", broken[i][0]);
        spill(json, broken[i][0]);
        struct ran r = run(lines, "hlm-chat --lines -m " DEMO);
        CHECK_EQ(r.rc, 1);
        CHECK_SAYS(r.err, broken[i][1]);
        CHECK_EQ(n_lines(r.err), 1);
        ran_free(&r);
    }
}

/* What of the history commands show, change and write. */
static void test_history_commands(void)
{
    char lines[1024], a[256], b[256];
    const char *json = scratch("talk.json"), *md = scratch("talk.md"),
               *file = scratch("a file.txt");
    test_case("/history, and /stats after /undo");
    struct talked t = converse(0, "Hello!\nMy name is Anna.\n/undo\n/history\n/undo\n/stats\n",
                               "--temp 0 -sys Be_kind. -m " DEMO);
    CHECK_SAYS(t.r.err, "system: Be_kind.|>>> Hello!");
    CHECK_MSG(!test_has(t.r.err, "Anna"), "%s", t.r.err);
    CHECK_SAYS(t.r.err, "0 in the history|2 answered");
    const char *context = strstr(t.r.err, "context ");
    long used = context ? strtol(context + 8, NULL, 10) : -1;
    CHECK_MSG(used > 0 && used < num(&t, 0, "prompt"), "%ld used, %lld before the message", used,
              num(&t, 0, "prompt")); /* the system message */
    talked_free(&t);

    test_case("/edit: the last message is another one, what is before stays");
    t = converse(0, "My name is Anna.\nHello!\n/edit What is my name?\n", "--temp 0 -m " DEMO);
    struct talked u = converse(0, "My name is Anna.\nWhat is my name?\n", "--temp 0 -m " DEMO);
    CHECK_STR(answer(&t, 2, a, sizeof a), answer(&u, 1, b, sizeof b));
    CHECK_EQ(num(&t, 2, "prompt"), num(&u, 1, "prompt"));
    talked_free(&u);

    test_case("/file: before a message, and with one; /file - drops it");
    spill(file, "My name is Anna.\n\n");
    snprintf(lines, sizeof lines,
             "/file \"%s\"\nHello!\n/clear\n/file \"%s\" Hello!\n/clear\n"
             "/file \"%s\"\n/file -\nHello!\n",
             file, file, file);
    talked_free(&t);
    t = converse(0, lines, "--temp 0 -n 4 -m " DEMO);
    CHECK_EQ(num(&t, 0, "prompt"), num(&t, 1, "prompt"));
    CHECK_MSG(num(&t, 2, "prompt") + 5 < num(&t, 1, "prompt"), "%lld and %lld tokens",
              num(&t, 2, "prompt"), num(&t, 1, "prompt"));
    talked_free(&t);

    test_case("/export: JSON that /load reads, Markdown; an earlier one is replaced");
    snprintf(lines, sizeof lines,
             "My name is Anna.\n/export %s\n/export %s\nHello!\n/export %s\n/undo\n"
             "What is my name?\n",
             json, md, md);
    t = converse(0, lines, "--temp 0 -v -m " DEMO);
    CHECK_SAYS(t.r.err, "wrote 2 messages|wrote 4 messages|talk.md|in place");
    char *text = slurp(md);
    CHECK_SAYS(text, "# A conversation with hlm-demo|## User|My name is Anna.|## Assistant|Hello!");
    free(text);
    snprintf(lines, sizeof lines, "/load %s\nWhat is my name?\n", json);
    u = converse(0, lines, "--temp 0 -m " DEMO);
    CHECK_STR(answer(&u, 0, a, sizeof a), answer(&t, 2, b, sizeof b));
    CHECK_EQ(num(&u, 0, "prompt"), num(&t, 2, "prompt"));
    talked_free(&t);
    talked_free(&u);

    test_load_broken(json);
}

static void test_found_models(void)
{
    test_case("models that are found are listed, and taken by name");
    char folder[PATH_MAX], path[PATH_MAX + 32], demo[PATH_MAX];
    HLM_ASSERT(realpath(test_tmp(), folder) && realpath(DEMO, demo));
    strncat(folder, "/models", sizeof folder - strlen(folder) - 1);
    HLM_ASSERT(mkdir(folder, 0700) == 0);
    snprintf(path, sizeof path, "%s/Small.gguf", folder);
    HLM_ASSERT(symlink(demo, path) == 0);
    snprintf(path, sizeof path, "%s/Other.gguf", folder);
    spill(path, "GGUF, but no more");
    setenv("HLM_MODELS", folder, 1);
    struct ran a = run(NULL, "hlm-chat");
    CHECK_EQ(a.rc, 2);
    CHECK_SAYS(
        a.err,
        "Models on this machine|Other|cannot be opened|Small|4.3 MiB|qwen35|fits|no model|-m NAME");
    ran_free(&a);
    a = run(NULL, "hlm-chat -m small --temp 0 -n 1 -p Hello!");
    CHECK_EQ(a.rc, 0);
    CHECK_STR(a.out, "Hello\n");
    ran_free(&a);
    unsetenv("HLM_MODELS");
}

static void test_json_answers(void)
{
    test_case(
        "--json: an object for each answer; --stop, --logit-bias; a turn that fails is one too");
    struct ran a = run(
        "Hello!\n/nope\nMy name is Anna.\n",
        "hlm-chat --lines --json --temp 0 --stop lo! --stop never --logit-bias Nice=-inf -m " DEMO);
    CHECK_EQ(a.rc, 1);
    CHECK_SAYS(a.err, "/nope");
    CHECK_EQ(n_lines(a.out), 2);
    json_t *one = json_loadb(a.out, strcspn(a.out, "\n"), 0, NULL);
    json_t *two = json_loads(a.out + strcspn(a.out, "\n"), 0, NULL);
    CHECK_STR(json_str(one, "text"), "Hel");
    CHECK_STR(json_str(one, "stop_reason"), "stop");
    CHECK(json_is_null(json_object_get(one, "reasoning")));
    CHECK(json_integer_value(json_object_get(json_object_get(one, "figures"), "generated")) > 0);
    CHECK_STR(json_str(two, "stop_reason"), "done");
    CHECK(strncmp(json_str(two, "text"), "Nice", 4) != 0);
    json_decref(one);
    json_decref(two);
    ran_free(&a);
    run_refused(1, "hlm-chat -p x --logit-bias 1024=1 -m " DEMO, "--logit-bias|1024|1023");
    run_refused(1, "hlm-chat -p x --logit-bias Hellothere=1 -m " DEMO, "--logit-bias|tokens|one");
    run_refused(1, "hlm-chat -p x --logit-bias Hello=x -m " DEMO,
                "--logit-bias|Hello=x|TOKEN=BIAS");
}

static void test_interrupted(void)
{
    test_case("SIGINT while the program waits for a line: 130");
    const char *fifo = scratch("fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    int hold = open(fifo, O_RDWR); /* a writer that writes one question and never closes */
    pid_t pid = start("hlm-chat --lines --temp 0 -m " DEMO, fifo, scratch("out"), scratch("err"));
    CHECK(write(hold, "Hello!\n", 7) == 7);
    for (double end_s = now_s() + TIMEOUT_S; now_s() < end_s;) {
        struct stat st;
        if (stat(scratch("out"), &st) == 0 && st.st_size > 0)
            break;
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    }
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid), 130);
    close(hold);
}

static void test_one_turn(void)
{
    test_case("the same seed gives the same text, by -p, by -f and by a pipe");
    spill(scratch("question"), "Hello!\n");
    struct ran a = run(NULL, "hlm-chat -s 7 --temp 1.5 -p Hello! -m " DEMO);
    struct ran b = run(NULL, "hlm-chat -s 7 --temp 1.5 -f %s -m " DEMO, scratch("question"));
    struct ran c = run("Hello!\n", "hlm-chat -s 7 --temp 1.5 -m " DEMO);
    CHECK_EQ(a.rc + b.rc + c.rc, 0);
    CHECK_STR(a.err, "");
    CHECK_STR(b.out, a.out);
    CHECK_STR(c.out, a.out);
    CHECK(n_lines(a.out) >= 1);
    ran_free(&a);
    ran_free(&b);
    ran_free(&c);

    test_case("-p: text on standard input follows it, as -f does");
    spill(scratch("question"), "My name is Anna.\n");
    a = run("My name is Anna.\n", "hlm-chat -s 7 -n 24 -p Hello! -m " DEMO);
    b = run("not read", "hlm-chat -s 7 -n 24 -p Hello! -f %s -m " DEMO, scratch("question"));
    c = run("", "hlm-chat -s 7 -n 24 -p Hello! -m " DEMO);
    CHECK_EQ(a.rc + b.rc + c.rc, 0);
    CHECK_STR(a.out, b.out);
    CHECK_MSG(strcmp(a.out, c.out) != 0, "standard input makes no difference: %s", a.out);
    ran_free(&a);
    ran_free(&b);
    ran_free(&c);

    test_case("--debug=prof,check: a table, and nothing from the validation layer");
    a = run(NULL, "hlm-chat --temp 0 -n 8 -p Hello! --debug=prof,check -m " DEMO);
    if (a.rc == 1 && test_has(a.err, "not installed"))
        test_skip("%s", a.err);
    else if (CHECK_EQ(a.rc, 0))
        CHECK_SAYS(a.err, "GFLOP/s");
    ran_free(&a);
}

/* Files that hlm-eval writes: either the whole new one, or the old one. */
static void test_results(void)
{
    struct stat st;
    const char *ids = scratch("ids"), *out = scratch("logits");
    spill(ids, "1 2 3\n4 5\n");
    spill(out, "old");
    test_case("an id outside of the vocabulary, and what stood there before");
    spill(scratch("bad"), "1\n2\n1000000\n");
    struct ran r = run(NULL, "hlm-eval -m " DEMO " --ids %s --logits %s", scratch("bad"), out);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "line 3|1000000|1024");
    CHECK(stat(out, &st) == 0 && st.st_size == 3);
    ran_free(&r);

    test_case("logits and hidden states have their size, in pieces too");
    r = run(NULL, "hlm-eval -m " DEMO " --ids %s --logits %s --hidden %s --split 2 --decode-from 4",
            ids, out, scratch("hidden"));
    CHECK_MSG(r.rc == 0, "%s", r.err);
    CHECK(stat(out, &st) == 0 && st.st_size == 5 * 1024 * 4);
    CHECK(stat(scratch("hidden"), &st) == 0 && st.st_size == (6 + 2) * 5 * 256 * 4);
    CHECK_STR(r.out, "");
    CHECK_STR(r.err, "");
    ran_free(&r);

    test_case("greedy ids are the same however the first ones were read");
    struct ran a = run(NULL, "hlm-eval -m " DEMO " --ids %s --greedy 8", ids);
    struct ran b =
        run(NULL, "hlm-eval -m " DEMO " --ids %s --greedy 8 --split 1,3 --decode-from 4", ids);
    CHECK_EQ(a.rc + b.rc, 0);
    CHECK_STR(b.out, a.out);
    CHECK_EQ(n_lines(a.out), 1);
    ran_free(&a);
    ran_free(&b);

    test_case("a device that is full");
    r = run(NULL, "hlm-eval -m " DEMO " --ids %s --logits /dev/full", ids);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "/dev/full");
    ran_free(&r);
}

/* The likelihoods that --logits give for a short text, in windows of `window` tokens. */
static void logits_perplexity(const char *ids, uint32_t window, uint32_t n_vocab, double *sum,
                              uint32_t *n)
{
    int32_t id[256];
    uint32_t n_id = 0;
    char text[2048], *end;
    snprintf(text, sizeof text, "%s", ids);
    for (char *at = text; n_id < ARRAY_LEN(id) && *at && *at != '\n'; at = end)
        id[n_id++] = (int32_t)strtol(at, &end, 10);
    *sum = *n = 0;
    for (uint32_t from = 0; from + 2 <= n_id; from += window) {
        uint32_t n_win = min_u32(window, n_id - from);
        char line[2048];
        for (uint32_t i = 0, w = 0; i < n_win; i++)
            w += (uint32_t)snprintf(line + w, sizeof line - w, "%d\n", id[from + i]);
        spill(scratch("ids"), line);
        struct ran r = run(NULL, "hlm-eval -m " DEMO " --ids %s --logits %s", scratch("ids"),
                           scratch("logits"));
        CHECK_MSG(r.rc == 0, "%s", r.err);
        ran_free(&r);
        struct hlm_err err = { 0 };
        uint64_t n_bytes;
        char *bytes = file_read(scratch("logits"), 1u << 28, &n_bytes, &err);
        if (!CHECK(bytes && n_bytes == 4ull * n_win * n_vocab))
            return;
        for (uint32_t i = 0; i + 1 < n_win; i++, ++*n) {
            double e = 0, l = 0;
            for (uint32_t k = 0; k < n_vocab; k++) {
                float v;
                memcpy(&v, bytes + 4ull * (i * n_vocab + k), 4);
                e += exp((double)v);
                l = k == (uint32_t)id[from + i + 1] ? (double)v : l;
            }
            *sum += log(e) - l;
        }
        free(bytes);
    }
}

/* What a reader has seen in the shared memory of a conversation. */
struct watch {
    struct ring_sample last;
    uint64_t n, lost;
    uint64_t n_done; /* how often work ended, and the conversation was idle again */
    uint64_t n_busy; /* samples during work */
    double busy_s;   /* how long that took */
    bool seen[HLM_GENERATING + 1];
};

static void watch_sample(struct watch *w, const struct ring_sample *s)
{
    const struct hlm_counters *c = &s->c, *b = &w->last.c;
    CHECK(c->state <= HLM_GENERATING);
    w->seen[c->state <= HLM_GENERATING ? c->state : 0] = true;
    if (w->n) {
        CHECK_MSG(s->number == w->last.number + 1 && s->time_s >= w->last.time_s &&
                      c->n_read >= b->n_read && c->n_gen >= b->n_gen &&
                      c->n_submit >= b->n_submit && c->n_error >= b->n_error,
                  "sample %llu goes back", (unsigned long long)s->number);
        w->n_done += c->state == HLM_IDLE && b->state != HLM_IDLE;
        if (b->state != HLM_IDLE) {
            w->busy_s += s->time_s - w->last.time_s;
            w->n_busy++;
        }
    }
    CHECK(c->done <= c->total && c->n_used <= c->n_ctx + 1);
    w->last = *s;
    w->n++;
}

/* Watches the process from loading to its end. */
static void watch_all(struct watch *w, pid_t pid, const char *shm_path)
{
    static struct ring_sample s;
    struct ring_reader *r = NULL;
    struct stat st;
    enum ring_got got = RING_NONE;
    for (double end_s = now_s() + TIMEOUT_S; now_s() < end_s && got != RING_GONE;) {
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
        if (!r && (r = ring_attach((uint64_t)pid, NULL)))
            CHECK(stat(shm_path, &st) == 0 && (st.st_mode & 07777) == 0600);
        while (r && (got = ring_next(r, &s, &w->lost)) == RING_SAMPLE)
            watch_sample(w, &s);
    }
    CHECK(r != NULL);
    ring_detach(r);
}

/* The last sample of a conversation of two turns, an unknown command and a failed one. */
static void check_last_sample(const struct hlm_counters *c)
{
    CHECK_STR(c->model, "hlm-demo");
    CHECK_STR(c->arch, "qwen35");
    CHECK(c->device[0] && c->driver[0] && c->n_ctx == 4096);
    CHECK_MSG(c->n_read > 10 && c->n_gen > 10 && c->n_reused > 10, "%llu %llu %llu",
              (unsigned long long)c->n_read, (unsigned long long)c->n_gen,
              (unsigned long long)c->n_reused);
    CHECK(c->read_per_s > 0 && c->gen_per_s > 0 && c->read_s > 0 && c->gen_s > 0);
    CHECK(c->weight_bytes > 3u << 20 && c->kv_bytes && c->state_bytes && c->scratch_bytes &&
          c->other_bytes);
    CHECK(c->n_submit > c->n_gen && c->n_record && c->n_pipeline);
    CHECK_EQ(c->n_error, 1);
    CHECK_SAYS(c->error, "/nowhere/x");
}

/* The last counters in the log are those of the last sample; there is at least one event a turn. */
static void check_counters_log(const char *log, const struct hlm_counters *want)
{
    char *text = slurp(log);
    json_t *last = NULL;
    uint32_t n_event = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *e = json_loads(line, 0, NULL);
        const char *event = json_string_value(json_object_get(e, "event"));
        bool is_it = event && strcmp(event, "counters") == 0;
        json_decref(is_it ? last : e);
        last = is_it ? e : last;
        n_event += is_it;
    }
    CHECK_MSG(n_event >= 2, "%u events", n_event);
    CHECK_STR(json_string_value(json_object_get(last, "state")), "idle");
    CHECK_EQ(json_integer_value(json_object_get(last, "read")), want->n_read);
    CHECK_EQ(json_integer_value(json_object_get(last, "generated")), want->n_gen);
    CHECK_EQ(json_integer_value(json_object_get(json_object_get(last, "memory"), "weights")),
             want->weight_bytes);
    json_t *layers = json_object_get(last, "layers"), *layer;
    size_t i;
    CHECK_MSG(want->n_layer && json_array_size(layers), "%llu layers",
              (unsigned long long)want->n_layer);
    json_array_foreach(layers, i, layer)
    {
        json_int_t at = json_integer_value(json_object_get(layer, "layer"));
        const struct hlm_layer_count *l = &want->layer[at];
        json_t *gates = json_object_get(layer, "gates"), *state = json_object_get(layer, "state");
        if (!l->n_head) { /* it stands for how many there are */
            CHECK_EQ(at + 1, want->n_layer);
            continue;
        }
        double decay = json_real_value(json_object_get(gates, "decay"));
        double rms = json_real_value(json_object_get(state, "rms"));
        CHECK_EQ(json_integer_value(json_object_get(gates, "heads")), l->n_head);
        CHECK_MSG(decay > 0 && fabs(decay / (double)l->decay - 1) < 1e-6 && rms > 0 &&
                      fabs(rms / (double)l->state_rms - 1) < 1e-6,
                  "layer %zu: decay %g, state %g", i, decay, rms);
    }
    json_decref(last);
    free(text);
}

static void test_watched(void)
{
    static struct watch w;
    char command[256], shm_path[256];
    test_case("a chat is watched: states, counts, memory");
    const char *fifo = scratch("fifo_watched"), *log = scratch("log.json");
    CHECK(mkfifo(fifo, 0600) == 0);
    int hold = open(fifo, O_RDWR);
    snprintf(command, sizeof command, "hlm-chat --lines --temp 0 -n 60 --log-json %s -m " DEMO,
             log);
    pid_t pid = start(command, fifo, scratch("out"), scratch("err"));
    snprintf(shm_path, sizeof shm_path, "/dev/shm/hlm-%lu-%ld", (unsigned long)geteuid(),
             (long)pid);
    static const char lines[] = "Tell me a story.\nHello!\n/nope\n/save /nowhere/x\n/bye\n";
    CHECK(write(hold, lines, sizeof lines - 1) == sizeof lines - 1);
    watch_all(&w, pid, shm_path);
    CHECK_EQ(finish(pid), 1); /* because of the commands that failed */
    close(hold);
    CHECK_MSG(w.n >= 8 && w.lost == 0, "%llu samples, %llu lost", (unsigned long long)w.n,
              (unsigned long long)w.lost);
    CHECK_MSG((double)w.n_busy >= 2 * w.busy_s, "%llu samples in %.1f s of work",
              (unsigned long long)w.n_busy, w.busy_s);
    CHECK_MSG(w.n_done >= 3, "idle after work %llu times", (unsigned long long)w.n_done);
    CHECK_EQ(w.last.c.state, HLM_IDLE);
    for (enum hlm_state k = HLM_IDLE; k <= HLM_GENERATING; k++)
        CHECK_MSG(w.seen[k], "state %d was never shown", (int)k);
    check_last_sample(&w.last.c);
    CHECK(access(shm_path, F_OK) != 0);

    test_case("--log-json has the counters as they were shown");
    check_counters_log(log, &w.last.c);
}

/* -p has no history that a message could be left out of. */
static void test_interrupted_once(void)
{
    static struct ring_sample s;
    struct ring_reader *r = NULL;
    char command[512];
    uint64_t lost;
    const char *text = scratch("long_question"), *err = scratch("err");
    test_case("Ctrl-C while -p reads: 130, and no word about a history");
    FILE *f = fopen(text, "w");
    HLM_ASSERT(f);
    for (int i = 0; i < 400; i++)
        fputs("The dog sat on the boat. ", f);
    fclose(f);
    snprintf(command, sizeof command, "hlm-chat -m " DEMO " -b 8 -f %s", text);
    pid_t pid = start(command, "/dev/null", scratch("out"), err);
    for (double end_s = now_s() + TIMEOUT_S; now_s() < end_s;) {
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
        if (!r)
            r = ring_attach((uint64_t)pid, NULL);
        enum ring_got got = r ? ring_next(r, &s, &lost) : RING_NONE;
        if (got == RING_GONE || (got == RING_SAMPLE && s.c.state == HLM_READING && s.c.done))
            break;
    }
    kill(pid, SIGINT);
    CHECK_EQ(finish(pid), 130);
    ring_detach(r);
    char *said = slurp(err);
    CHECK_STR(said, "hlm-chat: stopped\n");
    free(said);
}

static void test_perplexity(void)
{
    static const char text[] = "Hello! What is two plus three? Two plus three is five.\n"
                               "<|im_start|>user\nHi<|im_end|>\n";
    static const uint32_t windows[] = { 0, 16 };
    const char *file = scratch("text");
    spill(scratch("json"), "\"Hello! What is two plus three? Two plus three is five.\\n"
                           "<|im_start|>user\\nHi<|im_end|>\\n\"\n");
    char *json = slurp(scratch("json"));
    struct ran ids = run(json, "hlm-eval -m " DEMO " --tokenize");
    free(json);
    spill(file, text);
    for (uint32_t i = 0; i < ARRAY_LEN(windows); i++) {
        test_case("--perplexity in windows of %u: what --logits give", windows[i]);
        double sum;
        uint32_t n;
        logits_perplexity(ids.out, windows[i] ? windows[i] : 512, 1024, &sum, &n);
        struct ran r = run(NULL, "hlm-eval -m " DEMO " --perplexity %s -c %u", file, windows[i]);
        CHECK_EQ(r.rc, 0);
        CHECK_STR(r.err, "");
        CHECK_EQ(n_lines(r.out), 1);
        json_t *j = json_loads(r.out, 0, NULL);
        double nll = json_real_value(json_object_get(j, "nll"));
        CHECK_EQ(json_integer_value(json_object_get(j, "tokens")), n);
        CHECK_MSG(n > 10 && fabs(nll * n / sum - 1) < 1e-6, "nll %.12g, expected %.12g", nll,
                  sum / n);
        CHECK(fabs(json_real_value(json_object_get(j, "perplexity")) / exp(nll) - 1) < 1e-9);
        json_decref(j);
        ran_free(&r);
    }
    ran_free(&ids);

    static const struct {
        const char *text, *flags, *says;
    } bad[] = {
        { "", "", "0 tokens|perplexity|2" },
        { "a", "", "1 token|perplexity|2" },
        { "Hello there!", "-c 5000", "trained|4096" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        char command[512];
        spill(file, bad[i].text);
        snprintf(command, sizeof command, "hlm-eval -m " DEMO " --perplexity %s %s", file,
                 bad[i].flags);
        run_refused(1, command, bad[i].says);
    }
}

/* The logits of a few ids with these flags, as bytes. */
static char *logits_with(const char *flags)
{
    uint64_t n;
    const char *out = scratch("logits");
    spill(scratch("ids"), "1 2 3\n4 5\n");
    struct ran r =
        run(NULL, "hlm-eval -m " DEMO " --ids %s --logits %s%s", scratch("ids"), out, flags);
    CHECK_MSG(r.rc == 0, "%s: %s", flags, r.err);
    ran_free(&r);
    char *bits = file_read(out, 1u << 20, &n, NULL);
    HLM_ASSERT(bits && n == 5 * 1024 * 4);
    return bits;
}

static void test_adapters(void)
{
    static const struct {
        const char *flags; /* %s: the adapter */
        int like;          /* the row that gives the same */
    } rows[] = {
        { "", 0 },
        { " --lora %s", 1 },
        { " --lora=%s:0", 0 },
        { " --lora %s:0.5", 3 },
        { " --lora %s:0.25 --lora %s:0.75", 4 },
        { " --lora %s:1", 1 }, /* beside a file of that name */
    };
    const char *path = demo_adapter(scratch("adapter"));
    char flags[512], colon[160], *bits[ARRAY_LEN(rows)];
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        test_case("hlm-eval%s", rows[i].flags);
        snprintf(colon, sizeof colon, "%s:1", path);
        if (i + 1 == ARRAY_LEN(rows))
            spill(colon, "no adapter");
        const char *first = strstr(rows[i].flags, "%s"), *rest = first ? first + 2 : "";
        const char *second = strstr(rest, "%s");
        snprintf(flags, sizeof flags, "%.*s%s%.*s%s%s", first ? (int)(first - rows[i].flags) : 0,
                 rows[i].flags, first ? path : "", second ? (int)(second - rest) : 64, rest,
                 second ? path : "", second ? second + 2 : "");
        bits[i] = logits_with(flags);
        for (int k = 0; k <= (int)i; k++)
            CHECK_MSG(!memcmp(bits[i], bits[k], 5 * 1024 * 4) == (k == (int)i || k == rows[i].like),
                      "%s: %s bits of row %d", flags, k == rows[i].like ? "other" : "the", k);
    }
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        free(bits[i]);
    unlink(colon);

    char a[256], b[256], lines[1024];
    test_case("/lora: replaced, refused, dropped, shown");
    snprintf(lines, sizeof lines,
             "Hello!\n/lora %s:0\n/regen\n/lora %s:0 %s:40\n/regen\n"
             "/lora " DEMO "\n/regen\n/lora\n/lora off\n/regen\n/lora\n",
             path, path, path);
    struct talked t = converse(1, lines, "--temp 0 -n 12 -m " DEMO);
    if (CHECK_EQ(t.n_turn, 5)) {
        CHECK_STR(answer(&t, 1, a, sizeof a), answer(&t, 0, b, sizeof b));
        CHECK_EQ(num(&t, 1, "read"), num(&t, 1, "prompt"));
        CHECK_MSG(strcmp(answer(&t, 2, a, sizeof a), b) != 0, "the adapter does nothing: %s", a);
        CHECK_STR(answer(&t, 3, b, sizeof b), a);
        CHECK_EQ(num(&t, 3, "reused"), num(&t, 3, "prompt")); /* the session is the one before */
        CHECK_STR(answer(&t, 4, a, sizeof a), answer(&t, 0, b, sizeof b));
    }
    CHECK_SAYS(t.r.err, "general.type|model|adapter|factor 40|no adapter");
    talked_free(&t);

    test_case("an adapter that is refused ends the program");
    struct ran r = run(NULL, "hlm-chat -m " DEMO " -p Hello! --lora /nowhere/a.gguf:0.5");
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "/nowhere/a.gguf|No such file");
    CHECK_EQ(n_lines(r.err), 1);
    ran_free(&r);
}

/* ---- memory and a lost device ---------------------------------------------------------------- */

/* The number after a word at the start of a line; 0 when there is no such line. */
static unsigned long long number_at(const char *text, const char *word)
{
    char begin[64];
    snprintf(begin, sizeof begin, "\n  %s ", word);
    const char *at = strstr(text, begin);
    return at ? strtoull(at + strlen(begin), NULL, 10) : 0;
}

static void test_plan_output(void)
{
    static const char *const parts[] = { "weights", "kv",   "state",    "scratch",
                                         "io",      "host", "snapshots" };
    test_case("--plan: every byte by purpose, and that is what runs");
    struct ran r = run(NULL, "hlm-chat --plan -c 300 -b 16 --snapshot-budget 1M -m " DEMO);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    CHECK_SAYS(r.out, "context 300|batch 16|cache f16");
    unsigned long long sum = 0, all = number_at(r.out, "all");
    bool unified =
        !strstr(r.out, "of the host"); /* on other devices a second table has some of it */
    for (uint32_t i = 0; i < ARRAY_LEN(parts); i++)
        sum += number_at(r.out, parts[i]);
    CHECK_MSG(all > 0 && (sum == all || !unified), "%llu are not %llu in %s", sum, all, r.out);
    ran_free(&r);
    r = run(NULL,
            "hlm-chat -p Hello! -n 1 -c 300 -b 16 --snapshot-budget 1M --memory %llu -m " DEMO,
            all);
    CHECK_MSG(r.rc == 0 && !*r.err, "%d, %s", r.rc, r.err);
    ran_free(&r);

    test_case("--memory: a byte less is refused with the context that fits");
    r = run(NULL,
            "hlm-chat -p Hello! -n 1 -c 300 -b 16 --snapshot-budget 1M --memory %llu -m " DEMO,
            all - 1);
    CHECK_EQ(r.rc, 1);
    CHECK_STR(r.out, "");
    CHECK_EQ(n_lines(r.err), 1);
    CHECK_SAYS(r.err, "context|300|context|-c|fit");
    ran_free(&r);
    r = run(NULL, "hlm-chat --plan -c 300 -b 16 --snapshot-budget 1M --memory %llu -m " DEMO,
            all - 1);
    CHECK_EQ(r.rc, 1);
    CHECK_EQ(number_at(r.out, "all"), all);
    CHECK_EQ(n_lines(r.err), 1);
    ran_free(&r);

    test_case("--fit: what would take less, and whether it fits");
    r = run(NULL, "hlm-chat --fit -c 4096 --memory 12M -m " DEMO);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    CHECK_SAYS(r.out, "as asked|no|-c|all of these|yes");
    CHECK_SAYS(r.out, "-c 1024");
    ran_free(&r);
}

static void test_lost(void)
{
    static const int at[] = { 1, 6, 9, 14 };
    for (uint32_t i = 0; i < ARRAY_LEN(at); i++) {
        test_case("a device lost at submission or wait %d: one line, 1", at[i]);
        struct ran r =
            run("Hello!\nAnd you?\n", "hlm-chat --lines --temp 0 --debug lose=%d -m " DEMO, at[i]);
        CHECK_EQ(r.rc, 1);
        CHECK_EQ(n_lines(r.err), 1);
        CHECK_SAYS(r.err, "lost|while running");
        ran_free(&r);
    }
    for (int n = 1; n < 60; n += 11) {
        test_case("no memory at allocation %d: one line and 1, or nothing of it is seen", n);
        struct ran r =
            run("Hello!\n", "hlm-chat --lines --temp 0 -n 8 --debug fail=%d -m " DEMO, n);
        CHECK_MSG((r.rc == 0 && !*r.err) || (r.rc == 1 && n_lines(r.err) == 1), "%d, %s", r.rc,
                  r.err);
        ran_free(&r);
    }
}

struct gpu;

void test_talk(void)
{
    test_case("a device is there");
    if (!test_gpu())
        return;
    test_case("--list-devices");
    struct ran r = run(NULL, "hlm-chat --list-devices");
    CHECK_EQ(r.rc, 0);
    CHECK_MSG(strncmp(r.out, "0: ", 3) == 0, "%s", r.out);
    ran_free(&r);
    test_second_turn();
    test_save();
    test_save_over();
    test_thinking();
    test_full();
    test_commands();
    test_history_commands();
    test_one_turn();
    test_found_models();
    test_json_answers();
    test_interrupted();
    test_results();
    test_perplexity();
    test_adapters();
    test_watched();
    test_interrupted_once();
    test_plan_output();
    test_lost();
}
