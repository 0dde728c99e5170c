/* test_chat: prompt texts compared with what Hugging Face renders from the published templates;
 * which format is detected for a template; and which text the spans mark as control tokens. */
#include "text/chat.h"
#include "gguf_build.h"
#include "json.h"

#include <stdio.h>

/* ---- helpers --------------------------------------------------------------------------------- */

/* Renders messages and tools from JSON into fresh memory; NULL with a reason when they are
 * refused. */
static char *render(const struct chat_format *f, const char *json, bool generate, bool think,
                    struct hlm_err *why)
{
    struct chat_prompt p;
    uint32_t n = 0;
    struct json_t *tools = NULL;
    struct chat_msg *msg =
        chat_from_json((struct hlm_str){ json, strlen(json) }, f, "chat.json", &n, &tools, why);
    struct chat_input in = { .msg = msg, .n = n, .tools = tools };
    char *text = NULL;
    if (msg && chat_render(f, &in, generate, think, &p, why)) {
        uint64_t at = 0;
        for (uint32_t i = 0; i < p.n_span; at += p.span[i++].len)
            CHECK(p.span[i].text == p.text + at);
        CHECK(at == p.len && strlen(p.text) == p.len && p.n_head <= p.n_span);
        text = p.text;
        p.text = NULL;
        chat_prompt_free(&p);
    }
    chat_free(msg, n, tools);
    return text;
}

static struct chat_format named(const char *name)
{
    struct chat_format f = { 0 };
    CHECK(chat_by_name(name, NULL, &f));
    return f;
}

static void renders(const char *format, bool think, const char *json, const char *want)
{
    struct chat_format f = named(format);
    struct hlm_err err = { 0 };
    char *got = render(&f, json, true, think, &err);
    if (CHECK_MSG(got, "%s", err.msg))
        CHECK_STR(got, want);
    free(got);
}

static void chat_refuses(const char *format, const char *json, const char *says)
{
    struct chat_format f = named(format);
    struct hlm_err err = { 0 };
    test_case("%s refuses: %s", format, says);
    CHECK_REFUSED(render(&f, json, true, true, &err), err, says);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void test_fixture(void)
{
    test_case("ChatML: all cases of the fixture");
    json_t *j = fixture_json("tokenizer/chat.json");
    const json_t *chats = json_object_get(j, "chats");
    struct chat_format f = named("chatml");
    CHECK(json_array_size(chats) >= 10);
    for (size_t i = 0; i < json_array_size(chats); i++) {
        const json_t *c = json_array_get(chats, i);
        struct hlm_err err = { 0 };
        char *msg = json_dumps(json_object_get(c, "messages"), 0);
        char *got =
            render(&f, msg, json_is_true(json_object_get(c, "add_generation_prompt")), i & 1, &err);
        if (CHECK_MSG(got, "%s", err.msg))
            CHECK_STR(got, json_string_value(json_object_get(c, "rendered")));
        free(got);
        free(msg);
    }
    json_decref(j);
}

#define U(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define S(text) "{\"role\":\"system\",\"content\":\"" text "\"}"
#define AR(reasoning, text)                                                                        \
    "{\"role\":\"assistant\",\"reasoning_content\":\"" reasoning "\",\"content\":\"" text "\"}"
#define TURN(role, text) "<|im_start|>" role "\n" text "<|im_end|>\n"
#define GO "<|im_start|>assistant\n"

static void test_qwen35(void)
{
    test_case("Qwen3.5: thinking on and off");
    renders("qwen35", true, "[" S("SYS") "," U("U1") "]",
            TURN("system", "SYS") TURN("user", "U1") GO "<think>\n");
    renders("qwen35", false, "[" U("U1") "]", TURN("user", "U1") GO "<think>\n\n</think>\n\n");

    test_case("Qwen3.5: contents are trimmed as Python does");
    renders("qwen35", true,
            "[" S(" \\n") "," U("\\t U1\\u3000\\u0085\\u001c\\n") "," A("\\u2028A1 ") "," U(
                "U2\\u200b") "]",
            TURN("system", "") TURN("user", "U1") TURN("assistant", "A1") TURN("user", "U2\u200b")
                GO "<think>\n");

    test_case("Qwen3.5: reasoning stays only after the last question");
    renders("qwen35", true, "[" U("U1") "," AR("R1", "A1") "," U("U2") "," AR(" R2\\n", "A2") "]",
            TURN("user", "U1") TURN("assistant", "A1") TURN("user", "U2")
                TURN("assistant", "<think>\nR2\n</think>\n\nA2") GO "<think>\n");
    renders("qwen35", true,
            "[" U("U1") "," A("<think>\\nR1\\n</think>\\n\\nA1") "," U("U2") "," A(
                "R2\\n</think>A2") "]",
            TURN("user", "U1") TURN("assistant", "A1") TURN("user", "U2")
                TURN("assistant", "<think>\nR2\n</think>\n\nA2") GO "<think>\n");

    test_case("Qwen3.5: a tool's answer is no question");
    renders("qwen35", false,
            "[" U("U1") "," AR("R1", "A1") "," U(" <tool_response>x</tool_response>\\n") "]",
            TURN("user", "U1") TURN("assistant", "<think>\nR1\n</think>\n\nA1")
                TURN("user", "<tool_response>x</tool_response>") GO "<think>\n\n</think>\n\n");

    chat_refuses("qwen35", "[]", "qwen35|user message");
    chat_refuses("qwen35", "[" S("x") "]", "qwen35|user message");
    chat_refuses("qwen35", "[" U("<tool_response></tool_response>") "]", "qwen35|user message");
    chat_refuses("qwen35", "[" U("x") "," S("y") "]", "message 2|qwen35|system|first");
}

static void test_qwen3(void)
{
    test_case("Qwen3: nothing is trimmed, thinking off closes the block");
    renders("qwen3", true, "[" S(" SYS\\n") "," U(" U1 ") "," A("A1\\n") "," U("U2") "]",
            TURN("system", " SYS\n") TURN("user", " U1 ") TURN("assistant", "A1\n")
                TURN("user", "U2") GO);
    renders("qwen3", false, "[" U("U1") "]", TURN("user", "U1") GO "<think>\n\n</think>\n\n");

    test_case("Qwen3: reasoning stays only after the last question");
    renders("qwen3", true,
            "[" U("U1") "," A("<think>\\nR1\\n</think>\\n\\nA1") "," U("U2") "," AR("\\nR2\\n",
                                                                                    "\\nA2") "]",
            TURN("user", "U1") TURN("assistant", "A1") TURN("user", "U2")
                TURN("assistant", "<think>\nR2\n</think>\n\nA2") GO);
}

static void test_nemotron(void)
{
    test_case("Nemotron 3: a system turn is always there, the person's text is not trimmed");
    renders("nemotron", true, "[" S("SYS ") "," U(" U1\\n") "]",
            TURN("system", "SYS ") TURN("user", " U1\n") GO "<think>\n");
    renders("nemotron", true, "[" U("U1") "]",
            TURN("system", "") TURN("user", "U1") GO "<think>\n");
    renders("nemotron", false, "[" U("U1") "," S("late") "]",
            TURN("system", "") TURN("user", "U1") TURN("system", "late") GO "<think></think>");

    test_case("Nemotron 3: an answer without reasoning");
    renders("nemotron", true,
            "[" U("U1") "," A("A1 \\n") "," U("U2") "," AR(" \\n", " A2\\u3000") "]",
            TURN("system", "") TURN("user", "U1") TURN("assistant", "<think></think>A1")
                TURN("user", "U2") TURN("assistant", "<think></think> A2") GO "<think>\n");

    test_case("Nemotron 3: reasoning stays only after the last message of the user");
    renders("nemotron", false,
            "[" S("SYS") "," U("U1") "," AR("R1", "A1") "," U("U2") "," AR("R2", "A2\\n") "," AR(
                "R3", " ") "]",
            TURN("system", "SYS") TURN("user", "U1") TURN("assistant", "<think></think>\nA1")
                TURN("user", "U2") TURN("assistant", "<think>\nR2\n</think>\nA2")
                    TURN("assistant", "<think>\nR3\n</think>") GO "<think></think>");
    renders("nemotron", true,
            "[" U("U1") "," AR("R1", "") "," U("<tool_response>x</tool_response>") "]",
            TURN("system", "") TURN("user", "U1") TURN("assistant", "<think></think>")
                TURN("user", "<tool_response>x</tool_response>") GO "<think>\n");
    renders("nemotron", true, "[" AR("R1", "A1") "]",
            TURN("system", "") TURN("assistant", "<think>\nR1\n</think>\nA1") GO "<think>\n");

    test_case("Nemotron 3: tags in an answer's text");
    renders("nemotron", true,
            "[" U("U1") "," A("<think>\\nR1\\n</think>\\n\\nA1 ") "," U("U2") "," A(
                " <think>R2</think> A2 ") "]",
            TURN("system", "") TURN("user", "U1") TURN("assistant", "<think></think>\n\nA1")
                TURN("user", "U2") TURN("assistant", "<think>R2</think> A2") GO "<think>\n");
    renders("nemotron", true,
            "[" U("U1") "," A(" R1</think>A1 ") "," U("U2") "," A("a<think>b</think>c") "]",
            TURN("system", "") TURN("user", "U1") TURN("assistant", "R1</think>A1")
                TURN("user", "U2") TURN("assistant", "a<think>b</think>c") GO "<think>\n");
}

static void test_step(void)
{
    static const char bos[] = "<s>";
    struct hlm_err err = { 0 };
    test_case("Step 3.5: nothing is trimmed, thinking has no switch, no system turn of its own");
    renders("step", true, "[" S(" SYS\\n") "," U(" U1 ") "," A("A1\\n") "," U("U2") "]",
            TURN("system", " SYS\n") TURN("user", " U1 ") TURN("assistant", "A1\n")
                TURN("user", "U2") GO "<think>\n");
    renders("step", false, "[" U("U1") "]", TURN("user", "U1") GO "<think>\n");

    test_case("Step 3.5: reasoning stays only after the last question");
    renders("step", true,
            "[" U("U1") "," AR("R1", "A1") "," U("U2") "," AR(" R2 ", "\\nA2") "," A("A3") "]",
            TURN("user", "U1") TURN("assistant", "A1") TURN("user", "U2")
                TURN("assistant", "<think>\n R2 \n</think>\n\nA2")
                    TURN("assistant", "<think>\n\n</think>\nA3") GO "<think>\n");
    renders("step", true,
            "[" U("U1") "," A("<think>\\nR1\\n</think>\\nA1") "," U("U2") "," A(
                "<think>\\nR2\\n</think>\\nA2") "]",
            TURN("user", "U1") TURN("assistant", "A1") TURN("user", "U2")
                TURN("assistant", "<think>\nR2\n</think>\nA2") GO "<think>\n");

    test_case("Step 3.5: the prompt begins with the bos text");
    struct chat_format f = named("step");
    f.bos = (struct hlm_str){ bos, strlen(bos) };
    char *got = render(&f, "[" U("U1") "]", true, true, &err);
    if (CHECK_MSG(got, "%s", err.msg))
        CHECK_STR(got, "<s>" TURN("user", "U1") GO "<think>\n");
    free(got);
}

#define P(text) "{\"type\":\"text\",\"text\":\"" text "\"}"
#define UP(parts) "{\"role\":\"user\",\"content\":[" parts "]}"

/* What clients of chat APIs send in the place of a text. */
static void test_parts(void)
{
    test_case("content as a list of parts");
    renders("qwen35", true, "[" UP(P("one") "," P(" two ")) "]",
            TURN("user", "one two") GO "<think>\n");
    renders("chatml", true,
            "[" UP("\"a\",{\"text\":\"b\"},{\"type\":\"text\",\"value\":\"c\"}") "]",
            TURN("user", "abc") GO);
    renders("chatml", true, "[" UP("") "]", TURN("user", "") GO);
    renders("step", true, "[" UP(P("one") "," P("two")) "]", TURN("user", "onetwo") GO "<think>\n");

    test_case("an answer without content");
    renders("qwen35", true, "[" U("a") ",{\"role\":\"assistant\",\"content\":null}," U("b") "]",
            TURN("user", "a") TURN("assistant", "") TURN("user", "b") GO "<think>\n");

    renders("qwen3", true,
            "[" U("a") ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}," U("b") "]",
            TURN("user", "a") TURN("assistant", "") TURN("user", "b") GO);

    chat_refuses("chatml", "[" UP(P("x") ",{\"type\":\"image_url\",\"image_url\":{}}") "]",
                 "chat.json|message 1|part 2|\"image_url\"|text");
    chat_refuses("chatml", "[" UP("{\"type\":\"text\"}") "]", "chat.json|message 1|part 1|text");
    chat_refuses("chatml", "[" UP("7") "]", "chat.json|message 1|part 1|unknown|text");
    chat_refuses("chatml", "[{\"role\":\"user\",\"content\":null}]",
                 "chat.json|message 1|content|string");
    chat_refuses("chatml", "[" U("x") ",{\"role\":\"assistant\"}]",
                 "chat.json|message 2|content|string");
}

static void test_errors(void)
{
    chat_refuses("chatml", "[{\"role\":\"function\",\"content\":\"x\"}]", "message 1|function");
    chat_refuses("qwen3", "[" U("x") ",{\"role\":\"\",\"content\":\"x\"}]", "message 2|\"\"");
    chat_refuses("chatml", "[{\"role\":\"a\\nb\\u001b[2J\",\"content\":\"x\"}]",
                 "message 1|a?b?[2J");
    chat_refuses("chatml", "{}", "chat.json|array|messages");
    chat_refuses("chatml", "[1]", "chat.json|message 1|object");
    chat_refuses("chatml", "[" U("x") ",{\"role\":\"user\"}]",
                 "chat.json|message 2|content|string");
    chat_refuses("chatml", "[{\"role\":7,\"content\":\"x\"}]", "chat.json|message 1|role|string");
    chat_refuses("chatml", "[{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":[]}]",
                 "chat.json|message 1|reasoning_content|string");
    chat_refuses("chatml", "[" U("a\\u0000b") "]", "chat.json|line 1");
    chat_refuses("chatml", "[" U("\xff") "]", "chat.json|line 1");
    chat_refuses("chatml", "[\n" U("x"), "chat.json|line 2");
    chat_refuses("chatml", "[\"a\\\n\"]", "chat.json|line|'\"a\\?'");
    chat_refuses("chatml", "", "chat.json|line");
    chat_refuses("chatml", "{\"messages\":{}}", "chat.json|array|messages");
}

/* ---- tools ----------------------------------------------------------------------------------- */

static void test_tools(void)
{
    static const char path[] = "chat/tools.json";
    if (!fixture_has(path)) {
        test_case("tools: the texts of the models' own templates");
        test_skip("no %s", path);
        return;
    }
    json_t *j = fixture_json(path);
    json_t *cases = json_object_get(j, "cases");
    CHECK(json_array_size(cases) >= 90);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *c = json_array_get(cases, i);
        struct hlm_err err = { 0 };
        struct chat_format f = named(json_str(c, "format"));
        char *input = json_dumps(json_object_get(c, "input"), 0);
        test_case("tools, %s: %s", f.name, json_str(c, "what"));
        char *got = render(&f, input, true, json_is_true(json_object_get(c, "think")), &err);
        if (CHECK_MSG(got, "%s", err.msg))
            CHECK_STR(got, json_string_value(json_object_get(c, "rendered")));
        free(got);
        free(input);
    }
    json_decref(j);
}

#define TOOL "{\"name\":\"f\"}"
#define CALLS(role, calls) "{\"role\":\"" role "\",\"content\":\"\",\"tool_calls\":" calls "}"
#define SAID(text) "{\"role\":\"tool\",\"content\":\"" text "\"}"

static void test_tool_errors(void)
{
    static const char *const no_tools[] = { "{\"messages\":[" U("x") "],\"tools\":null}",
                                            "{\"messages\":[" U("x") "],\"tools\":[]}",
                                            "[" U("x") "]" };
    for (uint32_t i = 0; i < ARRAY_LEN(no_tools); i++) {
        test_case("no tools, form %u", i);
        renders("chatml", true, no_tools[i], TURN("user", "x") GO);
    }
    chat_refuses("chatml", "{\"messages\":[" U("x") "],\"tools\":[" TOOL "]}",
                 "chatml|not support tools");
    chat_refuses("chatml", "[" SAID("x") "]", "message 1|tool|chatml|not support");
    chat_refuses("chatml", "[" U("x") "," CALLS("assistant", "[" TOOL "]") "]",
                 "message 2|tool calls|chatml|not support");
    chat_refuses("qwen35", "[" SAID("x") "," U("y") "]", "message 1|qwen35|first|tool");
    chat_refuses("nemotron", "[" S("x") "," SAID("y") "]", "message 2|nemotron|first|tool");

    chat_refuses("qwen3", "{\"messages\":[],\"tools\":{}}", "chat.json|tools|list");
    chat_refuses("qwen3", "{\"messages\":[],\"tools\":[" TOOL ",{\"function\":" TOOL "},1]}",
                 "chat.json|tool 3|object|name|function");
    chat_refuses("qwen3", "{\"messages\":[],\"tools\":[{\"function\":null,\"name\":\"f\"}]}",
                 "chat.json|tool 1|object|name");
    chat_refuses("qwen3", "{\"messages\":[],\"tools\":[{\"name\":7}]}",
                 "chat.json|tool 1|object|name");
    chat_refuses("qwen3", "{\"tools\":[]}", "chat.json|object|messages");
    chat_refuses("qwen3", "[" CALLS("user", "[" TOOL "]") "]",
                 "chat.json|message 1|tool_calls|assistant");
    chat_refuses("qwen3", "[" CALLS("assistant", "{}") "]", "chat.json|message 1|tool_calls|list");
    chat_refuses("qwen3", "[" CALLS("assistant", "[1]") "]", "chat.json|message 1|call 1|object");
    chat_refuses("qwen3", "[" CALLS("assistant", "[" TOOL ",{\"function\":[]}]") "]",
                 "chat.json|message 1|call 2|object");
    chat_refuses("qwen3", "[" CALLS("assistant", "[{\"function\":{}}]") "]",
                 "chat.json|message 1|call 1|name|string");
    chat_refuses("qwen3", "[" CALLS("assistant", "[{\"name\":\"f\",\"arguments\":[]}]") "]",
                 "chat.json|message 1|call 1|arguments|object");
    chat_refuses("qwen3", "[" CALLS("assistant", "[{\"name\":\"f\",\"arguments\":\"[]\"}]") "]",
                 "chat.json|message 1|call 1|arguments|object");
    chat_refuses("qwen3", "[" CALLS("assistant", "[{\"name\":\"f\",\"arguments\":\"{\\n\"}]") "]",
                 "chat.json|message 1|call 1|arguments|JSON");
    chat_refuses("qwen3",
                 "[" CALLS("assistant", "[{\"name\":\"f\",\"arguments\":{\"x\":1e999}}]") "]",
                 "chat.json|real number overflow");
    chat_refuses("qwen3",
                 "[" CALLS("assistant", "[{\"name\":\"f\",\"arguments\":{\"x\":"
                                        "9223372036854775808}}]") "]",
                 "chat.json|too big integer");
    chat_refuses("qwen3", "[{\"role\":\"assistant\",\"content\":1,\"tool_calls\":[" TOOL "]}]",
                 "chat.json|message 1|content|string");
}

/* Numbers as Python prints them. The first three are powers of two, whose shortest form is not the
 * nearest number with as many digits. */
static void test_numbers(void)
{
    /* clang-format off */
    static const char *const row[][2] = {
        { "6.4836180763765518e+178", "6.483618076376552e+178" },
        { "5.3169119831396635E36", "5.316911983139664e+36" },
        { "8.209073602596753e-289", "8.209073602596753e-289" },
        { "4e-324", "5e-324" }, { "1.7976931348623157e308", "1.7976931348623157e+308" },
        { "2.2250738585072014e-308", "2.2250738585072014e-308" },
        { "1e22", "1e+22" }, { "1.0e+23", "1e+23" }, { "1.5e16", "1.5e+16" }, { "1e16", "1e+16" },
        { "1e15", "1000000000000000.0" }, { "9999999999999998.0", "9999999999999998.0" },
        { "9007199254740993.0", "9007199254740992.0" },
        { "123456789012345.60", "123456789012345.6" },
        { "100.0", "100.0" }, { "1.0", "1.0" }, { "0.1", "0.1" }, { "1e-4", "0.0001" },
        { "0.00012345", "0.00012345" }, { "0.00001", "1e-05" }, { "-1.25e-7", "-1.25e-07" },
        { "0.0", "0.0" }, { "-0.0", "-0.0" }, { "0e5", "0.0" }, { "-2.5", "-2.5" },
        { "-0", "0" }, { "7", "7" }, { "-9223372036854775808", "-9223372036854775808" },
        { "9223372036854775807", "9223372036854775807" },
    };
    /* clang-format on */
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        char json[300], want[300];
        test_case("a number of a call: %s", row[i][0]);
        snprintf(json, sizeof json,
                 "[" U("x") "," CALLS("assistant",
                                      "[{\"name\":\"f\","
                                      "\"arguments\":{\"a\":[%s],\"b\":%s}}]") "," U("y") "]",
                 row[i][0], row[i][0]);
        snprintf(want, sizeof want,
                 TURN("user", "x")
                     TURN("assistant",
                          "<tool_call>\n"
                          "<function=f>\n<parameter=a>\n[%s]\n</parameter>\n<parameter=b>\n%s\n"
                          "</parameter>\n</function>\n</tool_call>") TURN("user", "y") GO
                 "<think>\n",
                 row[i][1], row[i][1]);
        renders("qwen35", true, json, want);
    }
}

/* Lists nested as deep as the JSON reader allows, in every place where a value may be. */
static void test_tool_depth(void)
{
    static const char *const format[] = { "qwen3", "qwen35", "nemotron", "step" };
    static const char *const place[] = {
        "{\"messages\":[" U("x") "],\"tools\":[{\"name\":\"f\",\"description\":%s}]}",
        "{\"messages\":[" U("x") "],\"tools\":[{\"name\":\"f\",\"parameters\":{\"properties\":"
                                 "{\"p\":{\"type\":%s}}}}]}",
        "{\"messages\":[" U("x") "," CALLS("assistant",
                                           "[{\"name\":\"f\",\"arguments\":{\"a\":%s}}]") "]}",
        "{\"messages\":[" U("x") "," CALLS(
            "assistant", "[{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":%s}\"}]") "]}",
    };
    enum { DEEP = 2000, ROOM = 2 * DEEP + 2000 };
    char *value = mem_alloc(2 * DEEP + 1, 1), *json = mem_alloc(ROOM, 1);
    HLM_ASSERT(value && json);
    memset(value, '[', DEEP);
    memset(value + DEEP, ']', DEEP);
    for (uint32_t i = 0; i < ARRAY_LEN(format) * ARRAY_LEN(place); i++) {
        struct chat_format f = named(format[i % ARRAY_LEN(format)]);
        struct hlm_err err = { 0 };
        test_case("%s: %d lists in each other, place %zu", f.name, DEEP, i / ARRAY_LEN(format));
        snprintf(json, ROOM, place[i / ARRAY_LEN(format)], value);
        char *got = render(&f, json, true, true, &err);
        CHECK_MSG(got, "%s", err.msg);
        CHECK(got && strstr(got, value));
        free(got);
    }
    free(value);
    free(json);
}

/* Whatever a tool is called and returns, its text never becomes a control token. */
static void test_tool_spans(void)
{
    static const char json[] = "{\"messages\":[" U(
        "<|x|>") ","
                 "{\"role\":\"assistant\",\"content\":\"<|x|>\",\"tool_calls\":[{\"name\":\"<|x|>"
                 "\","
                 "\"arguments\":{\"<|x|>\":\"<|x|>\",\"b\":[\"<|x|>\"]}}]},"
                 "{\"role\":\"tool\",\"content\":\"<|x|>\",\"name\":\"<|x|>\"}],\"tools\":[{"
                 "\"name\":"
                 "\"<|x|>\",\"description\":\"<|x|>\",\"<|x|>\":\"<|x|>\",\"parameters\":{"
                 "\"properties\":"
                 "{\"<|x|>\":{\"type\":[\"<|x|>\"],\"<|x|>\":0}},\"required\":[\"<|x|>\"]}}]}";
    static const char *const format[] = { "qwen3", "qwen35", "nemotron", "step" };
    for (uint32_t i = 0; i < ARRAY_LEN(format); i++) {
        struct chat_format f = named(format[i]);
        struct hlm_err err = { 0 };
        struct json_t *tools = NULL;
        struct chat_prompt p = { 0 };
        uint32_t n = 0, n_said = 0;
        test_case("%s: texts of tools are never special, and have a cut for each message", f.name);
        struct chat_msg *msg =
            chat_from_json((struct hlm_str){ json, sizeof json - 1 }, &f, "x", &n, &tools, &err);
        struct chat_input in = { .msg = msg, .n = n, .tools = tools };
        if (CHECK_MSG(msg && chat_render(&f, &in, true, true, &p, &err), "%s", err.msg)) {
            for (uint32_t k = 0; k < p.n_span; k++)
                for (uint64_t c = 0; c + 5 <= p.span[k].len; c++)
                    if (!memcmp(p.span[k].text + c, "<|x|>", 5)) {
                        CHECK(!p.span[k].special);
                        n_said++;
                    }
            CHECK(n_said >= 12);
            CHECK_EQ(p.n_cut, 4);
            for (uint32_t k = 0; k < 3; k++)
                CHECK(p.cut[k].begin < p.cut[k].text && p.cut[k].text < p.cut[k + 1].begin);
            CHECK(p.cut[0].begin > 0); /* after the tools */
        }
        chat_prompt_free(&p);
        chat_free(msg, n, tools);
    }
}

/* ---- spans ----------------------------------------------------------------------------------- */

static void test_spans(void)
{
    int32_t ids[] = { 1, 2, 3 };
    struct chat_format f = named("qwen35");
    struct chat_msg msg[] = {
        { .role = "user", .content = "<|im_end|>" },
        { .role = "assistant", .content = "A1", .ids = ids, .n_ids = 3 },
        { .role = "user", .content = "U2" },
        { .role = "assistant", .content = "A2\n", .ids = ids, .n_ids = 3 },
        { .role = "user", .content = "U3" },
    };
    struct chat_input all = { .msg = msg, .n = ARRAY_LEN(msg) }, one = { .msg = msg, .n = 1 };
    struct chat_prompt p;
    test_case("spans: contents are never special, sampled ids stand for what is unchanged");
    if (!CHECK(chat_render(&f, &all, true, true, &p, NULL)))
        return;
    uint32_t n_content = 0, n_ids = 0;
    for (uint32_t i = 0; i < p.n_span; i++) {
        n_content += !p.span[i].special;
        n_ids += p.span[i].ids != NULL;
        if (p.span[i].ids)
            CHECK(p.span[i].ids == ids && p.span[i].n_ids == 3 && !memcmp(p.span[i].text, "A1", 2));
    }
    CHECK_EQ(n_content, 5);
    CHECK_EQ(n_ids, 1); /* A2 was trimmed */
    CHECK(p.in_think);
    CHECK_EQ(p.n_head + 1, p.n_span);
    CHECK_STR(p.span[p.n_head].text, "<think>\n");
    chat_prompt_free(&p);

    test_case("spans: the end of the prompt");
    CHECK(chat_render(&f, &one, true, false, &p, NULL) && !p.in_think && p.n_head + 1 == p.n_span);
    chat_prompt_free(&p);
    CHECK(chat_render(&f, &one, false, true, &p, NULL) && !p.in_think && p.n_head == p.n_span);
    chat_prompt_free(&p);
    for (int think = 0; think < 2; think++) { /* a later turn has <think></think> there */
        f = named("nemotron");
        CHECK(chat_render(&f, &one, true, think, &p, NULL) && p.in_think == think &&
              p.n_head + think == p.n_span);
        CHECK_STR(p.span[p.n_head - 1].text, think ? "<think>\n" : "<think></think>");
        CHECK_STR(p.text + p.len - (think ? 1 : 8), think ? "\n" : "</think>");
        chat_prompt_free(&p);
    }
    f = named("step");
    CHECK(chat_render(&f, &one, true, false, &p, NULL) && p.in_think && p.n_head + 1 == p.n_span);
    CHECK_STR(p.span[p.n_head].text, "<think>\n");
    chat_prompt_free(&p);
    f = named("chatml");
    CHECK(chat_render(&f, &one, true, true, &p, NULL) && !p.in_think && p.n_head == p.n_span);
    chat_prompt_free(&p);
    CHECK(chat_render(&f, &(struct chat_input){ 0 }, false, true, &p, NULL) && p.len == 0 &&
          p.text && p.n_span == 0);
    chat_prompt_free(&p);
    CHECK(!chat_by_name("llama2", NULL, &f) && !chat_by_name("", NULL, &f));
}

/* ---- detection ------------------------------------------------------------------------------- */

#define LOOP                                                                                       \
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' "   \
    "}}{%- endfor %}"
#define GENERATE "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n"
#define TOOLS3 "<tool_call>\\n{\\\"name\\\": <function-name>"
#define NO_THINK                                                                                   \
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- "                        \
    "'<think>\\n\\n</think>\\n\\n' }}"

#define QWEN35                                                                                     \
    "<function=f>reasoning_content" LOOP GENERATE "' }}" NO_THINK                                  \
    "{%- else %}{{- '<think>\\n' }}{%- endif %}"

/* The parts that identify these two formats; the published texts have no longer ones. */
#define NEMOTRON                                                                                   \
    "{%- set truncate_history_thinking = true %}<function=f>{%- set c = '<think>\\n' ~ r ~ "       \
    "'\\n</think>\\n' ~ c %}{%- set c = '<think></think>' ~ c %}" LOOP GENERATE                    \
    "' }}{%- if enable_thinking %}{{- '<think>\\n' }}{%- else %}{{- '<think></think>' }}"          \
    "{%- endif %}{%- endif %}"
#define STEP                                                                                       \
    "You have access to the following functions in JSONSchema format:<function=f>" LOOP            \
    "{{- '<|im_start|>tool_response\\n' }}" GENERATE "<think>\\n' }}{%- endif %}"

/* A file with a template and three tokens; the second token is its bos. NULL: no template. */
static struct gguf *template_file(const char *template, bool has_bos, uint8_t **bytes)
{
    static const struct hlm_str tokens[] = { { "a", 1 }, { "<bos>", 5 }, { "b", 1 } };
    struct gguf_build *b = gb_new();
    struct hlm_err err = { 0 };
    uint64_t n;
    gb_str(b, "general.architecture", "none");
    if (template)
        gb_str(b, "tokenizer.chat_template", template);
    gb_strs(b, "tokenizer.ggml.tokens", ARRAY_LEN(tokens), tokens);
    if (has_bos)
        gb_u32(b, "tokenizer.ggml.bos_token_id", 1);
    *bytes = gb_bytes(b, &n);
    struct gguf *g = gguf_parse(*bytes, n, "template.gguf", &err);
    CHECK_MSG(g, "%s", err.msg);
    gb_free(b);
    return g;
}

/* Templates of one family that write arguments or empty thoughts differently. */
static void test_variants(void)
{
    static const char start[] = "<function=f>reasoning_content" LOOP GENERATE "' }}" NO_THINK
                                "{%- else %}{{- '<think>\\n' }}{%- endif %}";
    static const struct {
        const char *what, *marks, *value;
        bool empty;
    } row[] = {
        { "Python's words", "", "True", true },
        { "JSON's words", "args_value | string if args_value is string else args_value | tojson",
          "true", true },
        { "no empty thoughts", "loop.index0 > ns.last_query_index and reasoning_content", "True",
          false },
        { "no empty thoughts, patched", "loop.index0 > ns.last_query_index  and reasoning_content",
          "True", false },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        char template[2000], want[400];
        uint8_t *bytes;
        bool exact;
        struct hlm_err err = { 0 };
        test_case("Qwen3.5's template with %s", row[i].what);
        snprintf(template, sizeof template, "%s%s", start, row[i].marks);
        struct gguf *g = template_file(template, true, &bytes);
        if (g) {
            struct chat_format f = chat_detect(g, &exact);
            char *got = render(&f,
                               "[" U("x") "," CALLS(
                                   "assistant", "[{\"name\":\"f\","
                                                "\"arguments\":{\"a\":true,\"b\":\"true\"}}]") "]",
                               false, true, &err);
            snprintf(
                want, sizeof want,
                TURN("user",
                     "x") "<|im_start|>assistant\n%s<tool_call>\n"
                          "<function=f>\n<parameter=a>\n%s\n</parameter>\n<parameter=b>\ntrue\n"
                          "</parameter>\n</function>\n</tool_call><|im_end|>\n",
                row[i].empty ? "<think>\n\n</think>\n\n" : "", row[i].value);
            if (CHECK_MSG(got, "%s", err.msg))
                CHECK_STR(got, want);
            free(got);
        }
        gguf_close(g);
        free(bytes);
    }
}

/* Step 3.7 puts a space between parts. */
static void test_parts_template(void)
{
    uint8_t *bytes;
    bool known;
    struct hlm_err err = { 0 };
    test_case("a template that separates the parts of a content");
    struct gguf *g = template_file("{{ needs_text_separator }}" STEP, true, &bytes);
    if (g) {
        struct chat_format f = chat_detect(g, &known);
        char *got = render(&f, "[" UP(P("one") "," P("two")) "]", true, true, &err);
        if (CHECK_MSG(got, "%s", err.msg))
            CHECK_STR(got, TURN("user", "one two") GO "<think>\n");
        free(got);
    }
    gguf_close(g);
    free(bytes);
}

static void test_bos(void)
{
    static const struct {
        const char *what, *template, *name, *bos;
        bool has_bos;
    } row[] = {
        { "printed", "{{- bos_token }}" STEP, NULL, "<bos>", true },
        { "printed, and none in the file", "{{- bos_token }}" STEP, NULL, "", false },
        { "not printed", STEP, NULL, "", true },
        { "not printed by Nemotron", NEMOTRON, NULL, "", true },
        { "of a format asked for by name", NULL, "step", "<bos>", true },
        { "of a format asked for by name that has none", NULL, "nemotron", "", true },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        uint8_t *bytes;
        bool exact;
        struct chat_format f;
        test_case("bos text: %s", row[i].what);
        struct gguf *g = template_file(row[i].template, row[i].has_bos, &bytes);
        if (g && row[i].name)
            CHECK(chat_by_name(row[i].name, g, &f));
        else if (g)
            f = chat_detect(g, &exact);
        CHECK(g && f.bos.n == strlen(row[i].bos) && !memcmp(f.bos.p, row[i].bos, f.bos.n));
        gguf_close(g);
        free(bytes);
    }
}

/* What chat_detect makes of templates. */
static const struct {
    const char *what, *template, *name;
    bool exact, reasoning, think;
    enum chat_thinking thinking;
    const char *on;
} templates[] = {
    { "no template", NULL, "chatml", false, false, false, CHAT_NEVER_THINKS, "" },
    { "an empty template", "", "chatml", false, false, false, CHAT_NEVER_THINKS, "" },
    { "another family",
      "{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}", "chatml",
      false, false, false, CHAT_NEVER_THINKS, "" },
    { "a plain loop", LOOP GENERATE "' }}{%- endif %}", "chatml", true, false, false,
      CHAT_NEVER_THINKS, "" },
    { "a loop with a system text of its own", "<|im_start|>system\\nYou are Q.<|im_end|>" LOOP,
      "chatml", false, false, false, CHAT_NEVER_THINKS, "" },
    { "Qwen3-Next Instruct", TOOLS3 LOOP GENERATE "' }}{%- endif %}", "qwen3", true, false, false,
      CHAT_NEVER_THINKS, "" },
    { "Qwen3-Next Thinking", TOOLS3 "reasoning_content" LOOP GENERATE "<think>\\n' }}{%- endif %}",
      "qwen3", true, true, true, CHAT_ALWAYS_THINKS, "<think>\n" },
    { "Qwen3", TOOLS3 "reasoning_content" LOOP GENERATE "' }}" NO_THINK "{%- endif %}{%- endif %}",
      "qwen3", true, true, true, CHAT_MAY_THINK, "" },
    { "Qwen3.5", QWEN35 "{%- endif %}", "qwen35", true, true, true, CHAT_MAY_THINK, "<think>\n" },
    { "Qwen3.5, small",
      "<function=f>" LOOP GENERATE
      "' }}{%- if enable_thinking is defined and enable_thinking is true %}"
      "{{- '<think>\\n' }}{%- else %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
      "qwen35", true, true, false, CHAT_MAY_THINK, "<think>\n" },
    { "Qwen2.5", TOOLS3 "You are Qwen" LOOP, "chatml", false, false, false, CHAT_NEVER_THINKS, "" },
    { "Nemotron 3", NEMOTRON, "nemotron", true, true, true, CHAT_MAY_THINK, "<think>\n" },
    { "a Nemotron 3 that thinks only when asked",
      NEMOTRON "{%- set enable_thinking = enable_thinking if enable_thinking is defined else "
               "False %}",
      "nemotron", true, true, false, CHAT_MAY_THINK, "<think>\n" },
    { "a later Nemotron", NEMOTRON "{%- if '/no_think' in content %}", "nemotron", false, true,
      true, CHAT_MAY_THINK, "<think>\n" },
    { "Step 3.5", "{{- bos_token }}" STEP, "step", true, true, true, CHAT_ALWAYS_THINKS,
      "<think>\n" },
    { "Step 3.7", "{{- bos_token }}" STEP "{{- 'Reasoning: ' ~ reasoning_effort }}", "step", false,
      true, true, CHAT_ALWAYS_THINKS, "<think>\n" },
    { "Step 3.7, where no effort is said unless it is asked for",
      "{{- bos_token }}" STEP "{%- if reasoning_effort is defined %}{{- 'Reasoning: ' + "
      "reasoning_effort }}{%- endif %}",
      "step", true, true, true, CHAT_ALWAYS_THINKS, "<think>\n" },
    { "Qwen3.6, which keeps reasoning when asked",
      QWEN35 "{%- if preserve_thinking is defined and preserve_thinking is true or x %}", "qwen35",
      true, true, true, CHAT_MAY_THINK, "<think>\n" },
    { "Qwen3.8, which keeps reasoning unless asked not to",
      QWEN35 "{%- if preserve_thinking is undefined or preserve_thinking is true or x %}", "qwen35",
      false, true, true, CHAT_MAY_THINK, "<think>\n" },
    { "Qwen3.8, which says how much to think",
      "{%- if enable_thinking is undefined or enable_thinking is true %}"
      "{%- set e = reasoning_effort | default('xhigh') %}{%- endif %}" QWEN35,
      "qwen35", false, true, true, CHAT_MAY_THINK, "<think>\n" },
    { "an option that is on by itself",
      "{%- set terse = terse if terse is defined else True %}" NEMOTRON, "nemotron", false, true,
      true, CHAT_MAY_THINK, "<think>\n" },
    { "an option that is off by itself",
      "{%- set medium_effort = medium_effort if medium_effort is defined else False "
      "%}" NEMOTRON,
      "nemotron", true, true, true, CHAT_MAY_THINK, "<think>\n" },
    { "an option that is set where it is missing",
      "{%- if not terse is defined %}{%- set terse = true %}{%- endif %}" LOOP, "chatml", false,
      false, false, CHAT_NEVER_THINKS, "" },
    { "a generation prompt that is set where it is missing",
      "{%- if not add_generation_prompt is defined %}{%- set add_generation_prompt = false %}"
      "{%- endif %}" LOOP,
      "chatml", true, false, false, CHAT_NEVER_THINKS, "" },
    { "an option that is set to nothing where it is missing",
      "{% if date is not defined %}{% set date = none %}{% endif %}" LOOP, "chatml", true, false,
      false, CHAT_NEVER_THINKS, "" },
    { "a message's own keys", "{{ m.note is not defined }}{{ m.note | default('x') }}" LOOP,
      "chatml", true, false, false, CHAT_NEVER_THINKS, "" },
    { "tools of no known kind", "<function=f><think>" LOOP, "chatml", false, false, false,
      CHAT_NEVER_THINKS, "" },
};

static void test_detect(void)
{
    for (uint32_t i = 0; i < ARRAY_LEN(templates); i++) {
        uint8_t *bytes;
        bool exact;
        test_case("template of %s", templates[i].what);
        struct gguf *g = template_file(templates[i].template, true, &bytes);
        if (g) {
            struct chat_format f = chat_detect(g, &exact);
            CHECK_STR(f.name, templates[i].name);
            CHECK_STR(f.on, templates[i].on);
            CHECK_EQ(exact, templates[i].exact);
            CHECK_EQ(f.answer != CHAT_PLAIN, templates[i].reasoning);
            CHECK_EQ(f.think, templates[i].think);
            CHECK_EQ(f.thinking, templates[i].thinking);
        }
        gguf_close(g);
        free(bytes);
    }
}

void test_chat(void)
{
    test_fixture();
    test_qwen35();
    test_qwen3();
    test_nemotron();
    test_step();
    test_parts();
    test_errors();
    test_tools();
    test_tool_errors();
    test_numbers();
    test_tool_depth();
    test_tool_spans();
    test_spans();
    test_detect();
    test_variants();
    test_bos();
    test_parts_template();
}
