/* chat_detect: the formats, and which of them a file's template has. See chat.h. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/chat_parts.h"

#include <pcre2.h>
#include <string.h>

static const char no_think[] = "<think>\n\n</think>\n\n";

static const struct chat_format chatml = {
    .name = "chatml",
    .on = "",
    .off = "",
    .past = "",
};
static const struct chat_format qwen3 = {
    .name = "qwen3",
    .answer = CHAT_QWEN,
    .empty = CHAT_EMPTY_LAST,
    .tools = &chat_tools_qwen3,
    .thinking = CHAT_MAY_THINK,
    .think = true,
    .on = "",
    .off = no_think,
    .past = "", /* the model opens <think> by itself */
};
static const struct chat_format qwen35 = {
    .name = "qwen35",
    .answer = CHAT_QWEN,
    .trim = true,
    .strict = true,
    .empty = CHAT_EMPTY_ALL,
    .tools = &chat_tools_qwen35,
    .thinking = CHAT_MAY_THINK,
    .think = true,
    .on = "<think>\n",
    .off = no_think,
    .past = "",
};
static const struct chat_format nemotron = {
    .name = "nemotron",
    .answer = CHAT_NEMOTRON,
    .trim_end = true,
    .system = true,
    .tools = &chat_tools_nemotron,
    .thinking = CHAT_MAY_THINK,
    .think = true,
    .on = "<think>\n",
    .off = CHAT_EMPTY_THINK,
    .past = CHAT_EMPTY_THINK,
};
static const struct chat_format step = {
    .name = "step",
    .answer = CHAT_STEP,
    .prints_bos = true,
    .tools = &chat_tools_step,
    .thinking = CHAT_ALWAYS_THINKS,
    .think = true,
    .on = "<think>\n",
    .off = "<think>\n",
    .past = "",
};

/* ---- detection ------------------------------------------------------------------------------- */

/* Reads what follows the assistant's header in the template's generation prompt. A line end in it
 * is written as the two characters \n. */
static void read_generation(struct chat_format *f, struct hlm_str text)
{
    struct hlm_str before, tail;
    str_around(text, "add_generation_prompt", &before, &tail);
    bool opens = str_has(tail, "<think>\\n'") || str_has(tail, "<think>\\n\"");
    bool choice = str_has(tail, "enable_thinking");
    f->thinking = choice ? CHAT_MAY_THINK : opens ? CHAT_ALWAYS_THINKS : CHAT_NEVER_THINKS;
    f->think = choice || opens;
    f->on = opens ? "<think>\n" : "";
    f->off = choice ? no_think : f->on;
}

/* The text of the bos token; empty when the file has no bos. */
static struct hlm_str bos_of(const struct gguf *g)
{
    const struct gguf_kv *list = gguf_kv(g, "tokenizer.ggml.tokens");
    uint32_t id = UINT32_MAX;
    struct hlm_str s = { "", 0 };
    if (!gguf_u32(g, "tokenizer.ggml.bos_token_id", OPTIONAL, &id, NULL) || !list ||
        list->type != GGUF_ARRAY || list->elem != GGUF_STRING || id >= list->n)
        return s;
    struct gguf_str_iter it = { list->data, list->n };
    for (uint64_t i = 0; i <= id; i++)
        gguf_next_str(&it, &s);
    return s;
}

/* Finds an option of the template that changes the prompt even when it is not set; hlm would have
 * to know such an option. One whose default is absent, false or none is harmless. */
#define FALSY "(?:[Ff]alse|[Nn]one|''|\"\"|\\[\\]|\\{\\})"
#define UNSET "(?!\\s*+-?%\\}\\s*+\\{%-?\\s*+set\\s+\\1\\s*+=\\s*+" FALSY ")"
#define OPTION                                                                                     \
    "(?<![\\w.])((?!(?:messages?|tools|content|add_generation_prompt|enable_thinking|"             \
    "truncate_history_thinking|add_vision_id|bos_token|eos_token)\\b)[A-Za-z_]\\w*+)\\s*+"
static const char acts_unset[] =
    "(?|not\\s++" OPTION "is\\s+defined\\b" UNSET "|" OPTION
    "(?:is\\s+(?:undefined|not\\s+defined)\\b" UNSET "|\\|\\s*+default\\(\\s*+(?!" FALSY ")"
    "|is\\s+defined\\s+else\\s++(?!" FALSY ")))";
#undef FALSY
#undef UNSET
#undef OPTION

/* Also true when there is no memory or PCRE2 gives up, so that the template counts as unknown. */
static bool has_acting_option(struct hlm_str text)
{
    int e;
    PCRE2_SIZE at;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)acts_unset, PCRE2_ZERO_TERMINATED, 0, &e, &at, NULL);
    pcre2_match_data *match = pcre2_match_data_create(2, NULL);
    bool has =
        !code || !match ||
        pcre2_match(code, (PCRE2_SPTR)text.p, text.n, 0, 0, match, NULL) != PCRE2_ERROR_NOMATCH;
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    return has;
}

/* The small models of Qwen3.5 think only when asked. */
static bool thinks_if_asked(struct hlm_str text)
{
    struct hlm_str before, tail;
    str_around(text, "add_generation_prompt", &before, &tail);
    return str_has(tail, "enable_thinking is true");
}

/* The format of a template, with the variations that its text shows. */
static struct chat_format detect(struct hlm_str text, bool *known)
{
    struct chat_format f;
    *known = !has_acting_option(text);
    /* Only this template has the option. Later versions of it put other line ends around </think>,
     * or obey /no_think in the user's text. */
    if (str_has(text, "truncate_history_thinking")) {
        f = nemotron;
        f.think = !str_has(text, "enable_thinking is defined else False");
        *known = *known && str_has(text, CHAT_EMPTY_THINK) && str_has(text, "\\n</think>\\n") &&
                 str_has(text, "enable_thinking") && !str_has(text, "/no_think");
        return f;
    }
    /* This format has its own role for answers of tools and its own words before the list. */
    if (str_has(text, "<|im_start|>tool_response") ||
        str_has(text, "functions in JSONSchema format")) {
        f = step;
        f.between_parts = str_has(text, "needs_text_separator") ? " " : NULL; /* Step 3.7 */
        *known = *known && str_has(text, "<think>\\n") && !str_has(text, "enable_thinking") &&
                 (!str_has(text, "effort") || str_has(text, "effort is defined"));
        return f;
    }
    if (str_has(text, "enable_thinking") && str_has(text, "<function=")) {
        f = qwen35;
        f.think = !thinks_if_asked(text);
        if (str_has(text, "last_query_index and reasoning_content") ||
            str_has(text, "last_query_index  and reasoning_content"))
            f.empty = CHAT_EMPTY_NONE;
        if (str_has(text, "args_value is string else args_value | tojson"))
            f.tools = &chat_tools_qwen36;
        return f;
    }
    /* Qwen2.5 has Qwen3's markers, but adds its own system text. */
    if (str_has(text, "<tool_call>") &&
        (str_has(text, "{\"name\"") || str_has(text, "{\\\"name\\\"")) &&
        !str_has(text, "You are Qwen")) {
        f = qwen3;
        f.answer = str_has(text, "reasoning_content") ? CHAT_QWEN : CHAT_PLAIN;
        read_generation(&f, text);
        return f;
    }
    /* A plain loop over turns, without tools, thinking or a default system text. */
    *known = *known && str_has(text, "<|im_start|>") && str_has(text, "for ") &&
             !str_has(text, "<tool") && !str_has(text, "think") && !str_has(text, "You are");
    return chatml;
}

struct chat_format chat_detect(const struct gguf *g, bool *known)
{
    struct hlm_str text = { "", 0 };
    gguf_str(g, "tokenizer.chat_template", OPTIONAL, &text, NULL);
    struct chat_format f = detect(text, known);
    f.prints_bos = str_has(text, "bos_token");
    f.bos = f.prints_bos ? bos_of(g) : (struct hlm_str){ "", 0 };
    return f;
}

bool chat_by_name(const char *name, const struct gguf *g, struct chat_format *fmt)
{
    static const struct chat_format *const all[] = { &chatml, &qwen3, &qwen35, &nemotron, &step };
    for (uint32_t i = 0; i < ARRAY_LEN(all); i++)
        if (!strcmp(name, all[i]->name)) {
            *fmt = *all[i];
            fmt->bos = g && fmt->prints_bos ? bos_of(g) : (struct hlm_str){ "", 0 };
            return true;
        }
    return false;
}
