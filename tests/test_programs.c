/* test_programs: hlm-chat, hlm-eval and hlm-tune run as programs, without a device: flags, exit
 * codes, what is written to which stream, tokens and prompts. */
#define _XOPEN_SOURCE 700
#include "gguf_build.h"
#include "run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHAT "hlm-chat -m " DEMO
#define TUNE "hlm-tune -m " DEMO
#define TUNE_MERGE "hlm-tune merge -m " DEMO
#define TUNE_EXPORT "hlm-tune export -m " DEMO
#define TUNE_IMPORT "hlm-tune import -m " DEMO
#define EVAL "hlm-eval -m " DEMO

/* Commands that must exit with rc and say these parts (CHECK_SAYS). */
static const struct {
    int rc;
    const char *command, *says;
} refused[] = {
    { 2, "hlm-chat", "no model|-m" },
    { 2, "hlm-chat --nope", "unknown|--nope" },
    { 2, CHAT " x", "unexpected|x" },
    { 2, CHAT " " DEMO, "unexpected|" DEMO "|the model is" },
    { 2, "hlm-chat none.gguf", "unexpected|none.gguf|no such file" },
    { 2, CHAT " --tempp 1", "unknown flag|--tempp|perhaps|--temp" },
    { 2, CHAT " --repeat-penalti=1", "unknown flag '--repeat-penalti'|perhaps|--repeat-penalty" },
    { 2, CHAT " -temp 1", "unknown flag|-temp|perhaps|--temp" },
    { 2, CHAT " --log_jsno x", "unknown flag|perhaps|--log-json" },
    { 2, "hlm-tune infoo", "infoo|perhaps|command info" },
    { 2, "hlm-tune merge --merge-typ x", "--merge-typ|perhaps|--merge-type" },
    { 2, EVAL " --perplexty x", "--perplexty|perhaps|--perplexity" },
    { 2, "hlm-bench mak", "mak|perhaps|command make" },
    { 2, "hlm-bench make qwen35-4x q8_0 x", "qwen35-4x|perhaps|qwen35-4b|known are|step35-flash" },
    { 2, "hlm-bench make qwen35-4b q8 x", "TYPE|q8|perhaps|q8_0|q4_k_m" },
    { 2, "hlm-bench make qwen35-4b", "three or four words" },
    { 1, "hlm-bench make qwen35-tiny q8_0 /nowhere/x", "/nowhere/x.part" },
    { 2, "hlm-bench --n-promt 3", "--n-promt|perhaps|--n-prompt" },
    { 2, CHAT " -n", "-n|needs" },
    { 2, CHAT " --temp 0.8x", "--temp|0.8x|number" },
    { 2, CHAT " --top-p 1.5", "--top-p|1.5|0|1" },
    { 2, CHAT " -c 1.5", "-c|1.5|whole number" },
    { 2, CHAT " -c -1", "-c|-1|0|2147483647" },
    { 2, CHAT " -n 3000000000", "-n|3000000000|-1|2147483647" },
    { 2, CHAT " -s -2", "-s|-2|whole number" },
    { 2, CHAT " --snapshot-budget 1X", "--snapshot-budget|1X|size" },
    { 2, CHAT " --snapshot-budget -1M", "--snapshot-budget|-1M|size" },
    { 2, CHAT " --kv q4_0", "--kv|q4_0|f16|f32|q8_0" },
    { 2, CHAT " --think=maybe", "--think|maybe|on|off" },
    { 2, CHAT " --lines=yes", "--lines|no value" },
    { 2, CHAT " --lines -p x", "--lines|-p|-f" },
    { 2, CHAT " --chat-format x", "--chat-format|x|chatml|qwen35" },
    { 2, CHAT " --debug prof,nope", "--debug|nope|prof|check" },
    { 2, CHAT " --debug lose=x", "--debug|lose=x|prof|check" },
    { 2, CHAT " --memory 4Q", "--memory|4Q|size" },
    { 2, CHAT " --memory 1e3", "--memory|1e3|size" },
    { 2, CHAT " --memory 0x10", "--memory|0x10|size" },
    { 1, CHAT, "standard input|empty" },
    { 1, CHAT " -f /nowhere/x", "/nowhere/x|No such file" },
    { 1, CHAT " -p x --log-json /nowhere/log", "/nowhere/log|No such file" },
    { 1, "hlm-chat -m /nowhere/m -p x", "/nowhere/m|No such file|without -m" },
    { 1, "hlm-chat -m nosuch -p x", "nosuch: No such file|no model of that name|without -m" },

    { 2, "hlm-tune", "no model|-m" },
    { 2, "hlm-tune train", "unexpected|train" },
    { 2, TUNE " -o x", "no training data|-d" },
    { 2, TUNE " -d x --ids-json y -o z", "-d|--ids-json|combined" },
    { 2, TUNE " -d x", "no output|-o" },
    { 2, TUNE " -d x -o y --precision bf16", "--precision|bf16|auto|f32|f16" },
    { 2, TUNE " -d x -o y --no-lora", "--no-lora|--train-gates" },
    { 2, TUNE " -d x -o y --init-lora z --target attn", "--target|--train-mtp|--init-lora" },
    { 2, TUNE " --ids-json x --dump-rows y", "--dump-rows|-d" },
    { 2, TUNE " -d x -o y --lr 2e", "--lr|2e|number" },
    { 2, TUNE " -d x -o y --rank 0", "--rank|0|1|2147483647" },
    { 2, TUNE " -d x -o y --max-seq 1", "--max-seq|1|2|2147483647" },
    { 2, TUNE " -d x -o y --schedule flat", "--schedule|flat|constant|cosine|linear" },
    { 2, TUNE " -d x -o y --chat-format x", "--chat-format|x|chatml|qwen35" },
    { 2, TUNE " -d x -o y --debug x", "--debug|prof|check" },
    { 1, TUNE " -d /nowhere/d --dump-rows x", "/nowhere/d|No such file" },
    { 1, TUNE " --ids-json /nowhere/i -o x", "/nowhere/i|No such file" },
    { 1, "hlm-tune -m /nowhere/m -d x -o y", "/nowhere/m|No such file" },
    { 1, TUNE " -d x -o x", "x|also an input" },
    { 1, TUNE " -d x -o models/../" DEMO, "hlm-demo-q8_0.gguf|also an input" },
    { 1, TUNE " --ids-json y --init-lora x-best.gguf -o x.gguf", "x-best.gguf|also an input" },
    { 2, "hlm-tune info", "no adapter|ADAPTER.gguf" },
    { 2, "hlm-tune merge", "no model|-m" },
    { 2, TUNE_MERGE, "no adapter|--lora" },
    { 2, TUNE_MERGE " --lora a", "no output|-o" },
    { 2, TUNE_MERGE " --lora a --lora b -o c --gates-only d",
      "--gates-only|one|--lora|--merge-type" },
    { 2, "hlm-tune export", "no model|-m" },
    { 2, TUNE_EXPORT, "no adapter|--lora" },
    { 2, TUNE_EXPORT " --lora a", "no output|-o" },
    { 1, TUNE_EXPORT " --lora " DEMO " -o /nowhere/o", DEMO "|general.type|model|adapter" },
    { 2, "hlm-tune import", "no model|-m" },
    { 2, TUNE_IMPORT, "no adapter|--peft" },
    { 2, TUNE_IMPORT " --peft a", "no output|-o" },
    { 1, TUNE_IMPORT " --peft /nowhere/p -o /nowhere/o",
      "/nowhere/p/adapter_config.json|No such file" },
    { 1, "hlm-tune info " DEMO, DEMO "|general.type|model|adapter" },
    { 1, TUNE_MERGE " --lora /nowhere/a -o /nowhere/o", "/nowhere/a|No such file" },
    { 1, TUNE_MERGE " --lora " DEMO " -o /nowhere/o", DEMO "|general.type|model|adapter" },

    { 2, "hlm-eval", "no model|-m" },
    { 2, EVAL, "--ids|--perplexity|--tokenize|--chat" },
    { 2, EVAL " --tokenize --chat x", "--ids|--perplexity|--tokenize|--chat" },
    { 2, EVAL " --perplexity x --ids x --greedy 1", "--ids|--perplexity|--tokenize|--chat" },
    { 2, EVAL " --perplexity x -c 1", "-c 1|perplexity|2" },
    { 2, EVAL " --perplexity x --split 3", "--split|--ids" },
    { 1, EVAL " --perplexity /nowhere/x", "/nowhere/x|No such file" },
    { 2, EVAL " --ids x", "--ids|needs|--logits|--hidden|--greedy" },
    { 2, EVAL " --ids x --greedy 1 --logits x", "--greedy|--logits|--hidden" },
    { 2, EVAL " --tokenize --greedy 3", "--greedy|--ids" },
    { 2, EVAL " --tokenize --no-think", "--no-think|--chat" },
    { 2, EVAL " --lola x", "unknown|--lola" },
    { 2, EVAL " --lora", "--lora|needs|FILE[:SCALE]" },
    { 2, EVAL " --perplexity x --plan", "--plan|--ids" },
    { 2, EVAL " --tokenize --lora x", "--lora|--ids|--perplexity" },
    { 1, "hlm-eval -m /nowhere/m --tokenize", "/nowhere/m|No such file" },
    { 1, EVAL " --ids /nowhere/x --greedy 1", "/nowhere/x|No such file" },
    { 1, EVAL " --chat /nowhere/x", "/nowhere/x|No such file" },
};

static void test_refused(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(refused); i++)
        run_refused(refused[i].rc, refused[i].command, refused[i].says);

    test_case("--tokenize: the lines before a bad one are printed");
    struct ran r = run("\"\"\n[]\n", EVAL " --tokenize");
    CHECK_EQ(r.rc, 1);
    CHECK_STR(r.out, "\n");
    CHECK_SAYS(r.err, "line 2|JSON string");
    ran_free(&r);
}

static const char flag_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789-";

/* Is it a flag of a program, by all that --help prints? */
static bool is_flag(const char *help, const char *flag)
{
    size_t n = strlen(flag);
    for (const char *at = help; (at = strstr(at, flag)); at++)
        if (!strchr(flag_chars, at[n]))
            return true;
    return false;
}

static void check_manual(const char *help)
{
    static const char *const page[] = { "README.md", "ui/README.md", "monitor/README.md" };
    uint32_t n = 0;
    test_case("every flag that the manual names is a flag");
    for (uint32_t i = 0; i < ARRAY_LEN(page); i++) {
        char *text = slurp(page[i]), flag[40];
        for (const char *at = text; (at = strstr(at, "--")); at += 2 + strspn(at, "-")) {
            snprintf(flag, sizeof flag, "%.*s", (int)strspn(at, flag_chars), at);
            if (strlen(flag) < 4 || flag[2] == '-')
                continue; /* a rule of a table */
            n++;
            CHECK_MSG(is_flag(help, flag), "%s: %s", page[i], flag);
        }
        free(text);
    }
    CHECK_MSG(n > 100, "%u flags", n);
}

/* What the texts of --help have in them. */
/* clang-format off */
static const char *const chat_help[] = {
    "-m,", "-p,", "-f,", "-n,", "-c,", "-s,", "--temp", "--top-k", "--top-p", "--min-p",
    "--repeat-penalty", "--device", "--kv f16|f32", "--on-full drop|stop", "--think on|off",
    "--lines", "--plan", "--fit", "--memory BYTES", "--chat-format", "--log-json",
    "--stop TEXT", "--logit-bias TOKEN=BIAS", "--json",
    "--list-devices", "--help", "--version", "-v,", "\nContext\n", "[default: 0.8]\n",
    "[default: f16]\n", "[default: 512M, two at least]\n", "[default: 0.95]\n",
};
/* clang-format on */
static const char *const eval_help[] = {
    "--ids",      "--logits",     "--hidden", "--decode-from", "--split", "--greedy",
    "--tokenize", "--perplexity", "--chat",   "--no-think",    "--fast",  "--kv",
    "--device",   "--log-json",   "--help",   "--version",
};
/* clang-format off */
static const char *const tune_help[] = {
    "info ", "merge ", "-m,", "-d,", "-o,", "--init-lora", "--resume DIR", "--ids-json FILE",
    "--max-seq N", "--loss-on answers|all", "--turns all|each", "--raw-completion", "--no-eos",
    "--skip-bad", "--no-pack", "--no-shuffle", "--valid", "--dump-rows FILE", "--target",
    "--rank N", "--alpha", "--rslora", "--dropout", "--train-gates", "--mtp-loss",
    "--train-mtp", "--epochs", "--steps", "--batch-rows", "--accumulation", "--lr", "--lr-min",
    "--schedule constant|cosine|linear", "--warmup", "--weight-decay", "--clip", "--seed",
    "--precision auto|f32|f16", "--valid-every", "--patience", "--sample TEXT", "--save-every",
    "--keep N", "--dry-run", "--plan", "--memory BYTES", "--dump-grads", "--log-json",
    "--version",
};
/* clang-format on */
static const char *const merge_help[] = {
    "-m,", "--lora FILE[:SCALE]", "-o,", "--merge-type TYPE", "--gates-only FILE",
};
static const char *const export_help[] = { "-m,", "--lora FILE ", "-o, --out FOLDER" };
static const char *const import_help[] = { "-m,", "--peft FOLDER", "-o, --out FILE" };

static void test_help(void)
{
    static const struct {
        const char *name, *flags, *const *say;
        uint32_t n;
    } help[] = {
        { "hlm-chat", "--help", chat_help, ARRAY_LEN(chat_help) },
        { "hlm-eval", "--help", eval_help, ARRAY_LEN(eval_help) },
        { "hlm-tune", "--help", tune_help, ARRAY_LEN(tune_help) },
        { "hlm-tune", "merge --help", merge_help, ARRAY_LEN(merge_help) },
        { "hlm-tune", "export --help", export_help, ARRAY_LEN(export_help) },
        { "hlm-tune", "import --help", import_help, ARRAY_LEN(import_help) },
        { "hlm-tune", "info --help", NULL, 0 },
        { "hlm-tune", "plot --help", NULL, 0 },
        { "hlm-bench", "--help", NULL, 0 },
        { "hlm-bench", "make --help", NULL, 0 },
        { "hlm-monitor", "--help", NULL, 0 }, /* built where SDL2 is there */
    };
    char *all = NULL;
    size_t n_all;
    FILE *to = open_memstream(&all, &n_all);
    bool every = true;
    for (uint32_t p = 0; p < ARRAY_LEN(help); p++) {
        const char *name = help[p].name;
        if (access(program_path(name), X_OK) != 0) {
            every = false;
            continue;
        }
        test_case("%s %s and --version", name, help[p].flags);
        struct ran r = run(NULL, "%s %s", name, help[p].flags);
        CHECK_EQ(r.rc, 0);
        CHECK_STR(r.err, "");
        for (uint32_t i = 0; i < help[p].n; i++)
            CHECK_MSG(strstr(r.out, help[p].say[i]), "%s is not in it", help[p].say[i]);
        uint32_t widest = 0;
        for (const char *line = r.out; *line; line += strcspn(line, "\n") + 1)
            widest = max_u32(widest, (uint32_t)strcspn(line, "\n"));
        CHECK_MSG(widest > 40 && widest <= 80, "the widest line has %u columns", widest);
        fputs(r.out, to);
        ran_free(&r);
        r = run(NULL, "%s --version", name);
        CHECK_EQ(r.rc, 0);
        CHECK_MSG(strncmp(r.out, name, strlen(name)) == 0 && n_lines(r.out) == 1, "%s", r.out);
        CHECK_STR(r.err, "");
        ran_free(&r);
    }
    fclose(to);
    if (every)
        check_manual(all);
    free(all);
}

static void test_config_used(const char *path)
{
    char want[600];
    test_case("settings are used: the model, and a path from the home folder");
    spill(path, "model = ~/none.gguf\n");
    struct ran r = run(NULL, "hlm-chat -p x");
    CHECK_EQ(r.rc, 1);
    snprintf(want, sizeof want, "%s/none.gguf|No such file", getenv("HOME") ? getenv("HOME") : "~");
    CHECK_SAYS(r.err, want);
    ran_free(&r);
    test_case("--help and --version do not need them");
    spill(path, "nope = 1\n");
    r = run(NULL, "hlm-chat --version");
    CHECK_EQ(r.rc, 0);
    ran_free(&r);
}

/* The file of settings, in a folder that the environment names. */
static void test_config(void)
{
    static const struct {
        const char *file, *flags;
        bool refused; /* with these words */
        const char *want;
    } rows[] = {
        { "", "", false, "" },
        { "# comment\n\n temp = 0.5 \ntop_k=3\n", "", false, "temp = 0.5\ntop-k = 3\n" },
        { "temp = 0.5\n", "--temp 0.25 --min-p 0", false, "temp = 0.25\nmin-p = 0\n" },
        { "stop = a\nstop = b\n", "", false, "stop = a\nstop = b\n" },
        { "system = \"two\\nlines \\\"q\\\"\"\nraw = on\n", "--raw=off", false,
          "system = \"two\\nlines \\\"q\\\"\"\nraw = off\n" },
        { "color = off\ndevice = 0\nkv = q8_0\n", "", false,
          "color = off\ndevice = 0\nkv = q8_0\n" },
        { "temp = 1\ntempp = 1\n", "", true,
          "hlm/config: line 2|unknown setting 'tempp'|mean temp" },
        { "\n\ntemp = 500\n", "", true, "hlm/config: line 3|temp|500|0 to 100" },
        { "raw = yes\n", "", true, "line 1|raw|yes|on" },
        { "kv = q4_0\n", "", true, "line 1|kv|q4_0|f16" },
        { "temp\n", "", true, "line 1|temp|NAME = VALUE" },
        { "system = \"open\n", "", true, "line 1|system|quote" },
        { "prompt = x\n", "", true, "line 1|prompt|no setting|one call" },
        { "log-json = x\n", "", true, "line 1|log-json|no setting" },
    };
    char folder[300], was[300], path[400], want[600];
    program_path("");
    snprintf(was, sizeof was, "%s", getenv("XDG_CONFIG_HOME"));
    HLM_ASSERT(realpath(test_tmp(), want));
    snprintf(folder, sizeof folder, "%.280s/settings", want);
    setenv("XDG_CONFIG_HOME", folder, 1);
    test_case("settings: there is no file");
    struct ran r = run(NULL, "hlm-chat --print-config");
    snprintf(want, sizeof want, "# %s/hlm/config: is not there\n", folder);
    CHECK_STR(r.out, want);
    ran_free(&r);
    HLM_ASSERT(mkdir(folder, 0700) == 0);
    snprintf(path, sizeof path, "%s/hlm", folder);
    HLM_ASSERT(mkdir(path, 0700) == 0);
    snprintf(path, sizeof path, "%s/hlm/config", folder);
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        char command[400];
        spill(path, rows[i].file);
        snprintf(command, sizeof command, "hlm-chat --print-config %s", rows[i].flags);
        if (rows[i].refused) {
            run_refused(2, command, rows[i].want);
            continue;
        }
        test_case("settings, row %u", i);
        r = run(NULL, "%s", command);
        CHECK_EQ(r.rc, 0);
        snprintf(want, sizeof want, "# %s\n%s", path, rows[i].want);
        CHECK_STR(r.out, want);
        ran_free(&r);
    }
    test_config_used(path);
    setenv("XDG_CONFIG_HOME", was, 1);
}

static void test_plurals(void)
{
    test_case("one document, one row");
    spill(scratch("one.jsonl"), "{\"text\": \"Hello, you.\"}\n");
    struct ran r =
        run(NULL, TUNE " -v -d %s --dump-rows %s", scratch("one.jsonl"), scratch("one.rows"));
    CHECK_SAYS(r.err, "one.rows: 1 row, 1 document, ");
    ran_free(&r);
}

static void test_log_to_stdout(void)
{
    test_case("--log-json -: standard output");
    struct ran r = run("\"a\"\n", "hlm-eval --tokenize --log-json - -m " DEMO);
    CHECK_EQ(r.rc, 0);
    CHECK_EQ(n_lines(r.out), 3); /* the start, the ids, the end */
    json_t *e = json_loads(r.out, JSON_DISABLE_EOF_CHECK, NULL);
    CHECK_STR(json_str(e, "event"), "start");
    CHECK_STR(json_str(e, "program"), "hlm-eval");
    CHECK_STR(json_str(e, "version"), HLM_VERSION);
    CHECK_STR(json_str(json_object_get(e, "flags"), "--model"), DEMO);
    CHECK_STR(json_str(json_object_get(e, "flags"), "--tokenize"), "yes");
    json_decref(e);
    char *last = strrchr(r.out, '{');
    e = last ? json_loads(last, 0, NULL) : NULL;
    CHECK_STR(json_str(e, "event"), "end");
    json_decref(e);
    ran_free(&r);
}

static void test_bare_model(void)
{
    test_case("a word without a flag is the model");
    struct ran r = run("\"a\"\n", "hlm-eval --tokenize " DEMO);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    CHECK_EQ(n_lines(r.out), 1);
    ran_free(&r);
}

/* All cases of a tokenizer fixture in one run. */
static void test_tokenize(const char *name)
{
    test_case("--tokenize: %s", name);
    char path[64], ids[32];
    snprintf(path, sizeof path, "tokenizer/%s/cases.json", name);
    json_t *j = fixture_json(path);
    const json_t *cases = json_object_get(j, "cases"), *c;
    size_t i, k;
    FILE *in = fopen(scratch("texts"), "w");
    HLM_ASSERT(in);
    json_array_foreach(cases, i, c)
    {
        json_dumpf(json_object_get(c, "text"), in, JSON_ENCODE_ANY);
        fputc('\n', in);
    }
    fclose(in);
    CHECK(json_array_size(cases) > 0);
    char *input = slurp(scratch("texts"));
    struct ran r =
        run(input, "hlm-eval -m %s --tokenize", fixture("tokenizer/%s/vocab.gguf", name));
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    const char *line = r.out;
    json_array_foreach(cases, i, c)
    {
        size_t n = strcspn(line, "\n"), w = 0;
        const json_t *id;
        char *want = mem_alloc(json_array_size(json_object_get(c, "ids")) * 12 + 1, 1);
        json_array_foreach(json_object_get(c, "ids"), k, id)
        {
            int m = snprintf(ids, sizeof ids, "%s%lld", k ? " " : "",
                             (long long)json_integer_value(id));
            memcpy(want + w, ids, (size_t)m);
            w += (size_t)m;
        }
        CHECK_MSG(line[n] == '\n' && n == w && memcmp(line, want, n) == 0,
                  "case %zu: \"%.*s\", expected \"%s\"", i, (int)n, line, want);
        free(want);
        line += n + (line[n] == '\n');
    }
    CHECK_STR(line, "");
    free(input);
    ran_free(&r);
    json_decref(j);
}

/* Prompts of a file that has only a template. */
static void test_chat_prompts(void)
{
    test_case("--chat: cases of the fixture");
    json_t *j = fixture_json("tokenizer/chat.json");
    const json_t *c;
    size_t i;
    struct hlm_err err = { 0 };
    const char *model = scratch("template.gguf"), *file = scratch("messages.json");
    struct gguf_build *b = gb_new();
    gb_str(b, "general.architecture", "none");
    gb_str(b, "tokenizer.chat_template", json_str(j, "template"));
    CHECK_MSG(gb_write(b, model, &err), "%s", err.msg);
    json_array_foreach(json_object_get(j, "chats"), i, c)
    {
        if (!json_is_true(json_object_get(c, "add_generation_prompt")))
            continue; /* the program always asks for an answer */
        json_dump_file(json_object_get(c, "messages"), file, 0);
        struct ran r = run(NULL, "hlm-eval -m %s --chat %s", model, file);
        CHECK_EQ(r.rc, 0);
        CHECK_STR(r.out, json_string_value(json_object_get(c, "rendered")));
        CHECK_STR(r.err, "");
        ran_free(&r);
    }
    json_decref(j);

    test_case("--chat: --no-think and --chat-format, and a template of no known kind");
    spill(file, "[{\"role\": \"user\", \"content\": \"Hi\"}]");
    struct ran r = run(NULL, "hlm-eval -m %s --chat %s --chat-format qwen35", model, file);
    CHECK_STR(r.out, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n");
    ran_free(&r);
    r = run(NULL, "hlm-eval -m %s --chat %s --chat-format qwen35 --no-think", model, file);
    CHECK_STR(r.out,
              "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
    ran_free(&r);
    gb_str(b, "tokenizer.chat_template", "[INST] {{ messages }}");
    CHECK_MSG(gb_write(b, model, &err), "%s", err.msg);
    r = run(NULL, "hlm-eval -m %s --chat %s", model, file);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.out, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    CHECK_SAYS(r.err, "warning");
    CHECK_EQ(n_lines(r.err), 1);
    ran_free(&r);
    gb_free(b);

    test_case("--chat: what a format does not support is refused with the file's name");
    spill(file, "[{\"role\": \"tool\", \"content\": \"5\"}]");
    r = run(NULL, "hlm-eval -m " DEMO " --chat %s", file);
    CHECK_EQ(r.rc, 1);
    CHECK_SAYS(r.err, "messages.json|message 1");
    CHECK_EQ(n_lines(r.err), 1);
    CHECK_STR(r.out, "");
    ran_free(&r);
}

static void test_ids_file(void)
{
    static const struct {
        int rc;
        const char *ids, *flags, *says;
    } rows[] = {
        { 1, "", "", "/ids|no id" },
        { 1, "1 2\n3 x4\n", "", "/ids|line 2|x4|token id" },
        { 1, "1 -2", "", "/ids|line 1|-2|token id" },
        { 1, "1 2.5", "", "/ids|line 1|2.5|token id" },
        { 1, "1 99999999999999999999", "", "/ids|line 1|99999999999999999999|token id" },
        { 2, "1 2 3", " --split 2,2", "--split|more|3" },
        { 2, "1 2 3", " --split 2,", "--split|2,|list" },
        { 2, "1 2 3", " --split 0,1", "--split|0,1|list" },
        { 2, "1 2 3", " --split 2,1 --decode-from 2", "--split|more|2" },
        { 2, "1 2 3", " --decode-from 4", "--decode-from|4|3" },
        { 2, "1 2 3", " -c 3", "-c|3|4" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        char command[512];
        spill(scratch("ids"), rows[i].ids);
        snprintf(command, sizeof command, "hlm-eval -m " DEMO " --ids %s --greedy 1%s",
                 scratch("ids"), rows[i].flags);
        run_refused(rows[i].rc, command, rows[i].says);
    }
}

/* One list of all rows; of what is by slot, without the padding. */
static json_t *all_rows(const json_t *rows, const char *key)
{
    json_t *all = json_array();
    const json_t *row, *v;
    size_t i, k;
    json_array_foreach(rows, i, row)
    {
        const json_t *list = json_object_get(row, key);
        size_t n = json_array_size(list), pad = 0;
        if (n == json_array_size(json_object_get(row, "ids")))
            pad = (size_t)json_integer_value(json_object_get(row, "padding"));
        json_array_foreach(list, k, v) if (k < n - pad) json_array_append(all, (json_t *)v);
    }
    return all;
}

/* --dump-rows of the reference's documents gives the reference's training rows; where balanced rows
 * are others than the reference's, the same documents in the same order. */
static void test_dump_rows(void)
{
    static const struct {
        const char *name, *model, *flags;
        bool balanced;
    } rows[] = {
        { "qwen35", "qwen35", "--no-pack", false },
        { "step35", "step35", "--no-pack", false },
        { "qwen35-packed", "qwen35", "--max-seq 192", true },
        { "nemotron_h_moe-packed", "nemotron_h_moe", "--max-seq 640", true },
    };
    static const char *const keys[] = { "ids",        "target_mask", "positions", "doc_lengths",
                                        "doc_starts", "doc_index",   "padding",   "documents" };
    enum { OF_DOCUMENTS = 4 }; /* of the keys, whatever the rows are */
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        char path[64];
        const char *out = scratch("rows.json");
        test_case("--dump-rows: %s", rows[i].name);
        struct ran r = run(NULL, "hlm-tune -m %s -d %s --no-eos --valid 0 %s --dump-rows %s",
                           fixture("train/%s/model.gguf", rows[i].model),
                           fixture("train/%s/data.jsonl", rows[i].name), rows[i].flags, out);
        CHECK_EQ(r.rc, 0);
        CHECK_STR(r.out, "");
        CHECK_STR(r.err, "");
        ran_free(&r);
        snprintf(path, sizeof path, "train/%s/data.json", rows[i].name);
        json_t *want = fixture_json(path), *got = json_load_file(out, 0, NULL);
        const json_t *w = json_object_get(want, "rows"), *g = json_object_get(got, "rows");
        CHECK(json_array_size(w) > 0 &&
              (rows[i].balanced || json_array_size(w) == json_array_size(g)));
        for (uint32_t j = 0; j < OF_DOCUMENTS; j++) {
            json_t *x = all_rows(w, keys[j]), *y = all_rows(g, keys[j]);
            CHECK_MSG(json_array_size(x) > 0 && json_equal(x, y), "%s differs", keys[j]);
            json_decref(x);
            json_decref(y);
        }
        for (size_t k = 0; !rows[i].balanced && k < json_array_size(w); k++)
            for (uint32_t j = 0; j < ARRAY_LEN(keys); j++)
                CHECK_MSG(json_equal(json_object_get(json_array_get(w, k), keys[j]),
                                     json_object_get(json_array_get(g, k), keys[j])),
                          "row %zu: %s differs", k, keys[j]);
        json_decref(want);
        json_decref(got);
    }
}

/* hlm-tune on a training fixture: it prints a line for each of the 31 matrices and writes the
 * file. */
static void test_unsaid_answers(void)
{
    test_case("--dump-rows: answers that do not count, and the flag with which they do");
    spill(
        scratch("turns.jsonl"),
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
        "\"b\"},{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\",\"content\":\"d\"}]"
        "}");
    struct ran r = run(NULL, TUNE " --chat-format qwen35 -d %s --dump-rows %s",
                       scratch("turns.jsonl"), scratch("turns.json"));
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "1 of 2 answers|--turns each");
    ran_free(&r);
    r = run(NULL, TUNE " --chat-format qwen35 -d %s --turns each --dump-rows %s",
            scratch("turns.jsonl"), scratch("turns.json"));
    CHECK_STR(r.err, "");
    ran_free(&r);
}

static void test_tune(void)
{
    const char *lora = fixture("train/qwen35/init-lora.gguf"), *out = scratch("merged.gguf");
    test_case("hlm-tune info");
    struct ran r = run(NULL, "hlm-tune info %s", lora);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    CHECK_SAYS(r.out, "alpha|8|rank 4|factor 2|31 matrices|0 gates|3  blk.N.attn_qkv.weight");
    ran_free(&r);
    test_case("hlm-tune merge");
    r = run(NULL, "hlm-tune merge -m %s --lora %s:0.5 -o %s",
            fixture("train/qwen35/model-q8_0.gguf"), lora, out);
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "merged.gguf|31 matrices and 0 gates of 56 tensors changed|verified");
    CHECK_EQ(n_lines(r.err), 1);
    CHECK_EQ(n_lines(r.out), 31);
    const char *line = strstr(r.out, "blk.0.attn_qkv.weight ");
    const char *share = line ? strstr(line, "|W| ") : NULL;
    CHECK_SAYS(line, "Q8_0|kept|noise");
    if (CHECK(share != NULL)) {
        double of_w = strtod(share + strlen("|W| "), NULL);
        CHECK_MSG(of_w > 0 && of_w < 0.1, "%s", line);
    }
    ran_free(&r);
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(out, &err);
    CHECK_MSG(g && gguf_n_tensor(g) == 56, "%s", err.msg);
    gguf_close(g);
    test_case("hlm-tune merge, a type that loses the adapter");
    remove(out); /* else it says that it replaces it */
    r = run(NULL, "hlm-tune merge -m %s --lora %s:0.01 -o %s --merge-type q4_0",
            fixture("train/qwen35/model.gguf"), lora, out);
    CHECK_EQ(r.rc, 0);
    CHECK_SAYS(r.err, "rounding|31 of 31|such as F16|31 matrices");
    CHECK_EQ(n_lines(r.err), 2);
    ran_free(&r);
}

void test_programs(void)
{
    static const char *const vocab[] = { "qwen2", "qwen35", "llama3", "tekken", "deepseek-v3" };
    test_refused();
    test_help();
    test_bare_model();
    test_log_to_stdout();
    test_plurals();
    test_config();
    test_tune();
    test_dump_rows();
    test_unsaid_answers();
    for (uint32_t i = 0; i < ARRAY_LEN(vocab); i++)
        test_tokenize(vocab[i]);
    test_chat_prompts();
    test_ids_file();
}
