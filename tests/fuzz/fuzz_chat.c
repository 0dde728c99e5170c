/* fuzz_chat: libFuzzer harness of chat formats: messages as JSON and, after a NUL, a template;
 * without a NUL the bytes are both. `make fuzz` runs it for long, test_fuzz.c on
 * tests/corpus/chat. */
#include "text/chat.h"
#include "gguf_build.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static uint32_t count_starts(const struct chat_prompt *p)
{
    static const char start[] = "<|im_start|>";
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_span; i++)
        n += p->span[i].special && p->span[i].len >= sizeof start - 1 &&
             !memcmp(p->span[i].text, start, sizeof start - 1);
    return n;
}

static bool is_role(const struct chat_input *in, uint32_t i, const char *role)
{
    return i < in->n && !strcmp(in->msg[i].role, role);
}

/* One prompt: its spans are the whole text, and there is a turn for each message except tool
 * messages that follow another. */
static void render(const struct chat_format *f, const struct chat_input *in, bool generate,
                   bool think)
{
    struct hlm_err err = { 0 };
    struct chat_prompt p;
    if (!chat_render(f, in, generate, think, &p, &err)) {
        HLM_ASSERT(err.kind && *err.msg && !strchr(err.msg, '\n') && !p.text && !p.span);
        return;
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < p.n_span; at += p.span[i++].len)
        HLM_ASSERT(p.span[i].text == p.text + at && p.span[i].len);
    HLM_ASSERT(at == p.len && strlen(p.text) == p.len && p.n_head <= p.n_span);
    HLM_ASSERT(!p.in_think || (generate && !strcmp(p.text + p.len - 8, "<think>\n")));
    uint32_t n = in->n + generate + ((f->system || in->tools) && !is_role(in, 0, "system"));
    for (uint32_t i = 1; i < in->n; i++)
        n -= is_role(in, i, "tool") && is_role(in, i - 1, "tool");
    bool bos = f->bos.n >= 12 && !memcmp(f->bos.p, "<|im_start|>", 12);
    HLM_ASSERT(count_starts(&p) == n + bos);
    HLM_ASSERT(p.n_cut == in->n + generate);
    for (uint32_t i = 0; i < p.n_cut; i++)
        HLM_ASSERT(p.cut[i].begin <= p.cut[i].text && p.cut[i].text <= p.n_span &&
                   (!i || p.cut[i - 1].text <= p.cut[i].begin));
    chat_prompt_free(&p);
}

static void render_all(const struct chat_format *f, const struct chat_input *in)
{
    for (uint32_t k = 0; k < 4; k++)
        render(f, in, k & 1, k & 2);
}

/* The chat format of a file with this template, and its prompts. */
static void with_template(const char *template, const struct chat_input *in)
{
    static const struct hlm_str tokens[] = { { "<|im_start|>", 12 }, { "<s>", 3 } };
    struct gguf_build *b = gb_new();
    uint64_t n_bytes;
    gb_str(b, "tokenizer.chat_template", template);
    gb_strs(b, "tokenizer.ggml.tokens", ARRAY_LEN(tokens), tokens);
    gb_u32(b, "tokenizer.ggml.bos_token_id", (uint32_t)(strlen(template) % 3)); /* 2: none */
    uint8_t *bytes = gb_bytes(b, &n_bytes);
    struct gguf *g = gguf_parse(bytes, n_bytes, "fuzz.gguf", NULL);
    HLM_ASSERT(g);
    bool exact;
    struct chat_format f = chat_detect(g, &exact), same;
    HLM_ASSERT(chat_by_name(f.name, g, &same));
    render_all(&f, in);
    gguf_close(g);
    free(bytes);
    gb_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const names[] = { "chatml", "qwen3", "qwen35", "nemotron", "step" };
    struct hlm_err err = { 0 };
    char *text = mem_alloc(n + 1, 1); /* with a NUL after it */
    HLM_ASSERT(text);
    if (n)
        memcpy(text, bytes, n);
    size_t n_json = strlen(text);
    uint32_t n_msg = 0;
    struct json_t *tools = NULL;
    struct chat_msg *msg =
        chat_from_json((struct hlm_str){ text, n_json }, &(struct chat_format){ 0 }, "fuzz.json",
                       &n_msg, &tools, &err);
    struct chat_input in = { .msg = msg, .n = n_msg, .tools = tools };
    HLM_ASSERT(msg || !tools);
    HLM_ASSERT(msg || (err.kind && !strncmp(err.msg, "fuzz.json: ", 11) && !strchr(err.msg, '\n')));
    for (uint32_t i = 0; i < ARRAY_LEN(names); i++) {
        struct chat_format f;
        HLM_ASSERT(chat_by_name(names[i], NULL, &f));
        render_all(&f, &in);
    }
    with_template(text + (n_json < n ? n_json + 1 : 0), &in);
    chat_free(msg, n_msg, tools);
    free(text);
    return 0;
}
