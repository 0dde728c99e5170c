/* test_programs: hlm-chat, hlm-eval and hlm-tune from outside, without a device - flags, exit
 * codes, what goes to which stream, tokens and prompts. */
#define _XOPEN_SOURCE 700
#include "gguf_build.h"
#include "run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_flags(void)
{
    static const struct {
        int rc;
        const char *says, *input, *command;
    } rows[] = {
        { 2, "no model", NULL, "hlm-chat" },
        { 2, "unknown flag '--nope'", NULL, "hlm-chat --nope" },
        { 2, "unexpected argument 'x'", NULL, "hlm-chat -m " DEMO " x" },
        { 2, "-n needs a value", NULL, "hlm-chat -m " DEMO " -n" },
        { 2, "--temp: '0.8x' is no number", NULL, "hlm-chat -m " DEMO " --temp 0.8x" },
        { 2, "--top-p: 1.5 is not from 0 to 1", NULL, "hlm-chat -m " DEMO " --top-p 1.5" },
        { 2, "-c: '1.5' is no whole number", NULL, "hlm-chat -m " DEMO " -c 1.5" },
        { 2, "-c: -1 is not from 0", NULL, "hlm-chat -m " DEMO " -c -1" },
        { 2, "-n: 3000000000 is not from", NULL, "hlm-chat -m " DEMO " -n 3000000000" },
        { 2, "-s: '-2' is no whole number", NULL, "hlm-chat -m " DEMO " -s -2" },
        { 2, "--snapshot-budget: '1X' is no size", NULL,
          "hlm-chat -m " DEMO " --snapshot-budget 1X" },
        { 2, "--snapshot-budget: '-1M' is no size", NULL,
          "hlm-chat -m " DEMO " --snapshot-budget -1M" },
        { 2, "--kv: 'q4_0' is none of f16|f32|q8_0", NULL, "hlm-chat -m " DEMO " --kv q4_0" },
        { 2, "--think: 'maybe' is none of on|off", NULL, "hlm-chat -m " DEMO " --think=maybe" },
        { 2, "--lines takes no value", NULL, "hlm-chat -m " DEMO " --lines=yes" },
        { 2, "--lines does not go with", NULL, "hlm-chat -m " DEMO " --lines -p x" },
        { 2, "--chat-format: 'x' is none of", NULL, "hlm-chat -m " DEMO " --chat-format x" },
        { 2, "--debug: 'nope' is none of", NULL, "hlm-chat -m " DEMO " --debug prof,nope" },
        { 2, "--debug: 'lose=x' is none of", NULL, "hlm-chat -m " DEMO " --debug lose=x" },
        { 2, "--memory: '4Q' is no size", NULL, "hlm-chat -m " DEMO " --memory 4Q" },
        { 2, "--memory: '1e3' is no size", NULL, "hlm-chat -m " DEMO " --memory 1e3" },
        { 2, "--memory: '0x10' is no size", NULL, "hlm-chat -m " DEMO " --memory 0x10" },
        { 1, "standard input is empty", NULL, "hlm-chat -m " DEMO },
        { 1, "/nowhere/x", NULL, "hlm-chat -m " DEMO " -f /nowhere/x" },
        { 1, "/nowhere/log", NULL, "hlm-chat -m " DEMO " -p x --log-json /nowhere/log" },
        { 1, "/nowhere/m", NULL, "hlm-chat -m /nowhere/m -p x" },

        { 2, "no model: -m", NULL, "hlm-tune" },
        { 2, "unexpected argument 'train'", NULL, "hlm-tune train" },
        { 2, "nothing to learn from", NULL, "hlm-tune -m " DEMO " -o x" },
        { 2, "do not go together", NULL, "hlm-tune -m " DEMO " -d x --ids-json y -o z" },
        { 2, "nowhere to write: -o", NULL, "hlm-tune -m " DEMO " -d x" },
        { 2, "--precision: 'bf16' is none of auto|f32|f16", NULL,
          "hlm-tune -m " DEMO " -d x -o y --precision bf16" },
        { 2, "--no-lora goes with --train-gates", NULL,
          "hlm-tune -m " DEMO " -d x -o y --no-lora" },
        { 2, "do not go with --init-lora", NULL,
          "hlm-tune -m " DEMO " -d x -o y --init-lora z --target attn" },
        { 2, "--dump-rows goes with -d", NULL, "hlm-tune -m " DEMO " --ids-json x --dump-rows y" },
        { 2, "--lr: '2e' is no number", NULL, "hlm-tune -m " DEMO " -d x -o y --lr 2e" },
        { 2, "--rank: 0 is not from 1", NULL, "hlm-tune -m " DEMO " -d x -o y --rank 0" },
        { 2, "--max-seq: 1 is not from 2", NULL, "hlm-tune -m " DEMO " -d x -o y --max-seq 1" },
        { 2, "--schedule: 'flat' is none of", NULL,
          "hlm-tune -m " DEMO " -d x -o y --schedule flat" },
        { 2, "--chat-format: 'x' is none of", NULL,
          "hlm-tune -m " DEMO " -d x -o y --chat-format x" },
        { 2, "none of prof, check", NULL, "hlm-tune -m " DEMO " -d x -o y --debug x" },
        { 1, "/nowhere/d", NULL, "hlm-tune -m " DEMO " -d /nowhere/d --dump-rows x" },
        { 1, "/nowhere/i", NULL, "hlm-tune -m " DEMO " --ids-json /nowhere/i -o x" },
        { 1, "not an ordinary file", NULL, "hlm-tune -m " DEMO " -d x -o /dev" },
        { 1, "/nowhere/m", NULL, "hlm-tune -m /nowhere/m -d x -o y" },
        { 1, "x: is also read", NULL, "hlm-tune -m " DEMO " -d x -o x" },
        { 1, "hlm-demo-q8_0.gguf: is also read", NULL,
          "hlm-tune -m " DEMO " -d x -o models/../" DEMO },
        { 1, "x-best.gguf: is also read", NULL,
          "hlm-tune -m " DEMO " --ids-json y --init-lora x-best.gguf -o x.gguf" },
        { 2, "no adapter", NULL, "hlm-tune info" },
        { 2, "no model", NULL, "hlm-tune merge" },
        { 2, "no adapter", NULL, "hlm-tune merge -m " DEMO },
        { 2, "nowhere to write", NULL, "hlm-tune merge -m " DEMO " --lora a" },
        { 2, "--gates-only takes", NULL,
          "hlm-tune merge -m " DEMO " --lora a --lora b -o c --gates-only d" },
        { 2, "no model", NULL, "hlm-tune export" },
        { 2, "no adapter", NULL, "hlm-tune export -m " DEMO },
        { 2, "nowhere to write", NULL, "hlm-tune export -m " DEMO " --lora a" },
        { 1, "general.type", NULL, "hlm-tune export -m " DEMO " --lora " DEMO " -o /nowhere/o" },
        { 1, "general.type", NULL, "hlm-tune info " DEMO },
        { 1, "/nowhere/a", NULL, "hlm-tune merge -m " DEMO " --lora /nowhere/a -o /nowhere/o" },
        { 1, "general.type", NULL, "hlm-tune merge -m " DEMO " --lora " DEMO " -o /nowhere/o" },

        { 2, "no model", NULL, "hlm-eval" },
        { 2, "one of --ids, --perplexity, --tokenize", NULL, "hlm-eval -m " DEMO },
        { 2, "one of --ids, --perplexity, --tokenize", NULL,
          "hlm-eval -m " DEMO " --tokenize --chat x" },
        { 2, "one of --ids, --perplexity", NULL,
          "hlm-eval -m " DEMO " --perplexity x --ids x --greedy 1" },
        { 2, "-c 1: a window", NULL, "hlm-eval -m " DEMO " --perplexity x -c 1" },
        { 2, "go with --ids", NULL, "hlm-eval -m " DEMO " --perplexity x --split 3" },
        { 1, "/nowhere/x", NULL, "hlm-eval -m " DEMO " --perplexity /nowhere/x" },
        { 2, "--ids needs", NULL, "hlm-eval -m " DEMO " --ids x" },
        { 2, "--greedy does not go with", NULL,
          "hlm-eval -m " DEMO " --ids x --greedy 1 --logits x" },
        { 2, "go with --ids", NULL, "hlm-eval -m " DEMO " --tokenize --greedy 3" },
        { 2, "go with --chat", NULL, "hlm-eval -m " DEMO " --tokenize --no-think" },
        { 2, "unknown flag '--lola'", NULL, "hlm-eval -m " DEMO " --lola x" },
        { 2, "--lora needs a value: FILE[:SCALE]", NULL, "hlm-eval -m " DEMO " --lora" },
        { 2, "--plan goes with --ids", NULL, "hlm-eval -m " DEMO " --perplexity x --plan" },
        { 2, "--lora goes with --ids and", NULL, "hlm-eval -m " DEMO " --tokenize --lora x" },
        { 1, "/nowhere/m", NULL, "hlm-eval -m /nowhere/m --tokenize" },
        { 1, "/nowhere/x", NULL, "hlm-eval -m " DEMO " --ids /nowhere/x --greedy 1" },
        { 1, "/nowhere/x", NULL, "hlm-eval -m " DEMO " --chat /nowhere/x" },
        { 1, "line 2 is not a JSON string", "\"\"\n[]\n", "hlm-eval -m " DEMO " --tokenize" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].rc == 2 || !rows[i].input)
            refuses(rows[i].rc, rows[i].says, rows[i].input, rows[i].command);

    test_case("--tokenize: what stands before a bad line is printed");
    struct ran r = run("\"\"\n[]\n", "hlm-eval -m " DEMO " --tokenize");
    CHECK_EQ(r.rc, 1);
    CHECK_STR(r.out, "\n");
    CHECK_MSG(strstr(r.err, "line 2 is not a JSON string"), "%s", r.err);
    ran_free(&r);
}

static void test_help(void)
{
    /* clang-format off */
    static const char *const chat[] = {
        "-m,", "-p,", "-f,", "-n,", "-c,", "-s,", "--temp", "--top-k", "--top-p", "--min-p",
        "--repeat-penalty", "--device", "--kv f16|f32", "--on-full drop|stop", "--think on|off",
        "--lines", "--plan", "--fit", "--memory BYTES", "--chat-format", "--log-json",
        "--list-devices", "--help", "--version", "-v,",
    };
    /* clang-format on */
    static const char *const eval[] = {
        "--ids",      "--logits",     "--hidden", "--decode-from", "--split", "--greedy",
        "--tokenize", "--perplexity", "--chat",   "--no-think",    "--fast",  "--kv",
        "--device",   "--log-json",   "--help",   "--version",
    };
    /* clang-format off */
    static const char *const tune[] = {
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
    static const char *const merge[] = {
        "-m,", "--lora FILE[:SCALE]", "-o,", "--merge-type TYPE", "--gates-only FILE",
    };
    static const char *const export[] = { "-m,", "--lora FILE ", "-o, --out FOLDER" };
    static const struct {
        const char *name, *flags, *const *say;
        uint32_t n;
    } help[] = {
        { "hlm-chat", "--help", chat, ARRAY_LEN(chat) },
        { "hlm-eval", "--help", eval, ARRAY_LEN(eval) },
        { "hlm-tune", "--help", tune, ARRAY_LEN(tune) },
        { "hlm-tune", "merge --help", merge, ARRAY_LEN(merge) },
        { "hlm-tune", "export --help", export, ARRAY_LEN(export) },
    };
    for (uint32_t p = 0; p < ARRAY_LEN(help); p++) {
        const char *name = help[p].name;
        test_case("%s %s and --version", name, help[p].flags);
        struct ran r = run(NULL, "%s %s", name, help[p].flags);
        CHECK_EQ(r.rc, 0);
        CHECK_STR(r.err, "");
        for (uint32_t i = 0; i < help[p].n; i++)
            CHECK_MSG(strstr(r.out, help[p].say[i]), "%s is not in it", help[p].say[i]);
        ran_free(&r);
        r = run(NULL, "%s --version", name);
        CHECK_EQ(r.rc, 0);
        CHECK_MSG(strncmp(r.out, name, strlen(name)) == 0 && n_lines(r.out) == 1, "%s", r.out);
        CHECK_STR(r.err, "");
        ran_free(&r);
    }
}

/* Every case of a tokenizer fixture in one run. */
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

/* Prompts of a file that has nothing but a template. */
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
    CHECK_MSG(strstr(r.err, "warning") && n_lines(r.err) == 1, "%s", r.err);
    ran_free(&r);
    gb_free(b);

    test_case("--chat: what a format has no form for is refused with the file's name");
    spill(file, "[{\"role\": \"tool\", \"content\": \"5\"}]");
    r = run(NULL, "hlm-eval -m " DEMO " --chat %s", file);
    CHECK_EQ(r.rc, 1);
    CHECK_MSG(strstr(r.err, "messages.json: message 1: ") && n_lines(r.err) == 1, "%s", r.err);
    CHECK_STR(r.out, "");
    ran_free(&r);
}

static void test_ids_file(void)
{
    static const struct {
        int rc;
        const char *ids, *flags, *says;
    } rows[] = {
        { 1, "", "", "there is no id in it" },
        { 1, "1 2\n3 x4\n", "", "line 2: 'x4' is no token id" },
        { 1, "1 -2", "", "line 1: '-2' is no token id" },
        { 1, "1 2.5", "", "line 1: '2.5' is no token id" },
        { 1, "1 99999999999999999999", "", "is no token id" },
        { 2, "1 2 3", " --split 2,2", "--split: the pieces have more than the 3 ids" },
        { 2, "1 2 3", " --split 2,", "--split: '2,' is no list" },
        { 2, "1 2 3", " --split 0,1", "--split: '0,1' is no list" },
        { 2, "1 2 3", " --split 2,1 --decode-from 2",
          "--split: the pieces have more than the 2 ids" },
        { 2, "1 2 3", " --decode-from 4", "--decode-from 4: there are only 3 ids" },
        { 2, "1 2 3", " -c 3", "-c 3: these ids need 4" },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        char command[512];
        spill(scratch("ids"), rows[i].ids);
        snprintf(command, sizeof command, "hlm-eval -m " DEMO " --ids %s --greedy 1%s",
                 scratch("ids"), rows[i].flags);
        refuses(rows[i].rc, rows[i].says, NULL, command);
    }
}

/* --dump-rows of the reference's documents gives the reference's rows. */
static void test_dump_rows(void)
{
    static const struct {
        const char *name, *model, *flags;
    } rows[] = {
        { "qwen35", "qwen35", "--no-pack" },
        { "step35", "step35", "--no-pack" },
        { "qwen35-packed", "qwen35", "--max-seq 192" },
        { "nemotron_h_moe-packed", "nemotron_h_moe", "--max-seq 640" },
    };
    static const char *const keys[] = { "ids",       "target_mask", "doc_starts", "doc_lengths",
                                        "doc_index", "positions",   "padding",    "documents" };
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
        CHECK(json_array_size(w) > 0 && json_array_size(w) == json_array_size(g));
        for (size_t k = 0; k < json_array_size(w); k++)
            for (uint32_t j = 0; j < ARRAY_LEN(keys); j++)
                CHECK_MSG(json_equal(json_object_get(json_array_get(w, k), keys[j]),
                                     json_object_get(json_array_get(g, k), keys[j])),
                          "row %zu: %s differs", k, keys[j]);
        json_decref(want);
        json_decref(got);
    }
}

/* hlm-tune on a training fixture: a line for each of its 31 matrices, and the file is there. */
static void test_tune(void)
{
    const char *lora = fixture("train/qwen35/init-lora.gguf"), *out = scratch("merged.gguf");
    test_case("hlm-tune info");
    struct ran r = run(NULL, "hlm-tune info %s", lora);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    CHECK_MSG(strstr(r.out, "alpha        8, rank 4, factor 2\n") &&
                  strstr(r.out, "31 matrices, 0 gates\n") &&
                  strstr(r.out, "  3  blk.N.attn_qkv.weight"),
              "%s", r.out);
    ran_free(&r);
    test_case("hlm-tune merge");
    r = run(NULL, "hlm-tune merge -m %s --lora %s:0.5 -o %s",
            fixture("train/qwen35/model-q8_0.gguf"), lora, out);
    CHECK_EQ(r.rc, 0);
    CHECK_STR(r.err, "");
    CHECK_EQ(n_lines(r.out), 31);
    CHECK_MSG(strstr(r.out, "blk.0.attn_qkv.weight                Q8_0: |D|/|W| 0.0"), "%s", r.out);
    ran_free(&r);
    struct hlm_err err = { 0 };
    struct gguf *g = gguf_open(out, &err);
    CHECK_MSG(g && gguf_n_tensor(g) == 56, "%s", err.msg);
    gguf_close(g);
    test_case("hlm-tune merge, a type that loses the adapter");
    r = run(NULL, "hlm-tune merge -m %s --lora %s:0.01 -o %s --merge-type q4_0",
            fixture("train/qwen35/model.gguf"), lora, out);
    CHECK_EQ(r.rc, 0);
    CHECK_MSG(strstr(r.err, "in 31 of 31 matrices rounding drowns") && n_lines(r.err) == 1, "%s",
              r.err);
    ran_free(&r);
}

void test_programs(void)
{
    static const char *const vocab[] = { "qwen2", "qwen35", "llama3", "tekken", "deepseek-v3" };
    test_flags();
    test_help();
    test_tune();
    test_dump_rows();
    for (uint32_t i = 0; i < ARRAY_LEN(vocab); i++)
        test_tokenize(vocab[i]);
    test_chat_prompts();
    test_ids_file();
}
