/* hlm-chat: a conversation with a model - at the terminal, from a pipe, or one question and out.
 *
 * Read main() first. The conversation is chat_talk, its look chat_show, the line editor chat_term,
 * the commands chat_slash; here are the flags and what feeds messages in. */
#define _POSIX_C_SOURCE 200809L
#include "chat_slash.h"
#include "chat_term.h"
#include "common_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct talk talk;     /* static, so that flags can point into it; so does /set */
static hlm_session *session; /* /lora makes it anew */
static struct hlm_session_params params;
static struct adapters adapters;

static struct {
    const char *model, *prompt, *file, *system, *format, *debug;
    int32_t n_ctx, n_batch;
    int kv, think, on_full;
    uint64_t snapshot_budget, memory;
    bool lines, plan, fit;
    int32_t fail, lose;     /* of --debug */
    bool profile, validate; /* of --debug */
    struct flag_list lora;
} o = { .think = -1, .snapshot_budget = HLM_SNAPSHOT_DEFAULT };

static const struct flag flags[] = {
    { FLAG_GROUP, "Model and message", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0, "the model, a GGUF file" },
    { FLAG_LIST, "--lora", "FILE[:SCALE]", &o.lora, 0, 0,
      "a LoRA adapter, a GGUF file; again for more, all active;\n"
      "SCALE is a factor on its own (1)" },
    { FLAG_TEXT, "-p --prompt", "TEXT", &o.prompt, 0, 0, "answer this and exit" },
    { FLAG_TEXT, "-f --file", "FILE", &o.file, 0, 0,
      "answer this file's text and exit (-: standard input);\n"
      "with -p too it follows that after an empty line" },
    { FLAG_SWITCH, "--lines", NULL, &o.lines, 0, 0,
      "every line of standard input is a turn of one conversation,\nslash commands included" },
    { FLAG_TEXT, "-sys --system --system-prompt", "TEXT", &o.system, 0, 0, "the system message" },
    { FLAG_CHOICE, "--think", "on|off", &o.think, 0, 0,
      "reason first, where the model can choose" },
    { FLAG_TEXT, "--chat-format", "NAME", &o.format, 0, 0,
      HLM_CHAT_FORMATS ":\nagainst the file's own template" },

    { FLAG_GROUP, "Context", 0, 0, 0, 0, 0 },
    { FLAG_INT, "-c --ctx-size", "N", &o.n_ctx, 0, INT32_MAX,
      "tokens of context; 0: as many as fit, up to what the model was\n"
      "trained for (to 8192 where the device is the CPU)" },
    { FLAG_INT, "-n --predict --n-predict", "N", &talk.n_predict, -1, INT32_MAX,
      "tokens of an answer at most; -1: as many as there is room" },
    { FLAG_INT, "-b --batch-size", "N", &o.n_batch, 0, INT32_MAX,
      "tokens read at once at most; 0: chosen for the device" },
    { FLAG_CHOICE, "--on-full", "drop|stop", &o.on_full, 0, 0,
      "when the context is full, the next message drops the oldest\n"
      "turns until half is free, or is refused (drop)" },
    { FLAG_BYTES, "--snapshot-budget", "BYTES", &o.snapshot_budget, 0, 0x1p50,
      "for states to go back to, so that edited and repeated turns\n"
      "read only what differs; K, M, G; 0: none (512M, two at least)" },
    { FLAG_CHOICE, "--kv", "f16|f32|q8_0", &o.kv, 0, 0, "type of the KV cache (f16)" },

    { FLAG_BYTES, "--memory", "BYTES", &o.memory, 0, 0x1p60,
      "device memory that may be used; K, M, G; 0: what is free but\nfor a twentieth (0)" },
    { FLAG_SWITCH, "--plan", NULL, &o.plan, 0, 0,
      "print what all this takes of the device's memory, to the byte,\n"
      "and exit; nothing is allocated" },
    { FLAG_SWITCH, "--fit", NULL, &o.fit, 0, 0,
      "print what would take less, and what of it would fit, and exit" },

    { FLAG_GROUP, "Sampling (llama.cpp's defaults; the file's own before those)", 0, 0, 0, 0, 0 },
    { FLAG_SEED, "-s --seed", "N", &talk.sampling.seed, 0, 0,
      "the same seed gives the same text; -1: draw one (-1)" },
    { FLAG_FLOAT, "--temp --temperature", "X", &talk.sampling.temp, 0, 100,
      "temperature; 0: always the likeliest (0.8)" },
    { FLAG_INT, "--top-k", "N", &talk.sampling.top_k, 0, INT32_MAX,
      "only the N likeliest; 0: all (40)" },
    { FLAG_FLOAT, "--top-p", "X", &talk.sampling.top_p, 0, 1,
      "only the likeliest that sum to X; 1: all (0.95)" },
    { FLAG_FLOAT, "--min-p", "X", &talk.sampling.min_p, 0, 1,
      "only those at least X times as likely as the likeliest (0.05)" },
    { FLAG_FLOAT, "--repeat-penalty", "X", &talk.sampling.repeat_penalty, 0.01, 100,
      "divides the logits of tokens seen lately; 1: off (1)" },
    { FLAG_FLOAT, "--presence-penalty", "X", &talk.sampling.presence_penalty, -100, 100,
      "taken from those of tokens seen lately (0)" },
    { FLAG_FLOAT, "--frequency-penalty", "X", &talk.sampling.frequency_penalty, -100, 100,
      "the same, for each time seen (0)" },
    { FLAG_INT, "--repeat-last-n", "N", &talk.sampling.repeat_last_n, -1, INT32_MAX,
      "how many tokens are lately; -1: all, 0: none (64)" },

    { FLAG_GROUP, "For developers", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "--debug", "LIST", &o.debug, 0, 0,
      "prof: time per kernel at the end; check: validation layer;\n"
      "lose=N: the device is lost at the N-th submission or wait once\n"
      "the model is loaded; fail=N: so is the N-th piece of memory" },
};

static const struct program program = {
    .name = "hlm-chat",
    .usage = "-m MODEL.gguf [-p TEXT | -f FILE | --lines] [flags]; --help lists them",
    .about = "Chat with a model. At a terminal: a prompt, where /help lists the commands.\n"
             "When standard input is no terminal, all of it is one message, unless -p, -f or\n"
             "--lines is given. Standard output carries the answers alone.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
};

/* ---- messages -------------------------------------------------------------------------------- */

/* A lost device was told of once; there is nothing to go on with. */
static bool gone(void) { return !hlm_ok(talk.model); }

/* One turn. The answer is on standard output; false: it failed, or was stopped before it began. */
static bool turn(struct slash *s, const char *text)
{
    struct hlm_err err = { 0 };
    struct talk_turn got = { 0 };
    show_begin(s->show);
    bool ok = talk_say(s->talk, text, &got, &err);
    show_end(s->show, s->talk, ok, &got, &err);
    return ok;
}

static int chat_once(struct slash *s, const char *text)
{
    bool ok = turn(s, text);
    return ui_interrupted() ? RC_INTERRUPTED : ok ? RC_OK : RC_FAILED;
}

/* A turn that fails is reported and the next line is read: the exit code remembers. */
static int chat_lines(struct slash *s)
{
    char *line = NULL;
    size_t cap = 0;
    int rc = RC_OK;
    bool bye = false;
    while (!bye && !ui_interrupted() && !gone()) {
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        while (n && strchr(" \t\r\n", line[n - 1]))
            line[--n] = 0;
        bool ok = true;
        if (strlen(line) != (size_t)n) {
            ui_error("a line of standard input holds a NUL byte: that is no text");
            ok = false;
        } else if (line[0] == '/') {
            enum slash_got got = slash_run(s, line);
            ok = got != SLASH_FAILED;
            bye = got == SLASH_BYE || got == SLASH_LOST;
            ok = ok && got != SLASH_LOST;
        } else if (n) {
            ok = turn(s, line);
        }
        rc = ok ? rc : RC_FAILED;
    }
    if (ferror(stdin) && !ui_interrupted()) {
        ui_error("standard input: %s", strerror(errno));
        rc = RC_FAILED;
    }
    free(line);
    return ui_interrupted() ? RC_INTERRUPTED : rc;
}

static int chat_terminal(struct slash *s, struct term *t)
{
    struct hlm_info i = hlm_get_info(talk.model);
    ui_note("%s on %s, %u tokens of context; /help lists the commands", i.name, i.device,
            hlm_session_n_ctx(talk.session));
    for (;;) {
        char *text;
        bool quoted;
        ui_interrupt_clear();
        if (term_read(t, &text, &quoted) == TERM_LEFT)
            return ui_interrupted() ? RC_INTERRUPTED : RC_OK;
        enum slash_got got = SLASH_DONE;
        if (text[0] == '/' && !quoted)
            got = slash_run(s, text);
        else
            turn(s, text);
        free(text);
        if (got == SLASH_BYE || got == SLASH_LOST || gone())
            return got == SLASH_BYE ? RC_OK : RC_FAILED;
    }
}

/* ---- start ----------------------------------------------------------------------------------- */

static bool debug_number(const char *p, size_t n, const char *name, int32_t *to)
{
    size_t k = strlen(name), digits = n > k ? strspn(p + k, "0123456789") : 0;
    if (n <= k || memcmp(p, name, k) != 0 || digits != n - k || digits > 9)
        return false;
    *to = (int32_t)strtol(p + k, NULL, 10);
    return true;
}

static bool read_debug(struct hlm_err *err)
{
    for (const char *p = o.debug ? o.debug : ""; *p; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n == 4 && memcmp(p, "prof", 4) == 0)
            o.profile = true;
        else if (n == 5 && memcmp(p, "check", 5) == 0)
            o.validate = true;
        else if (!debug_number(p, n, "lose=", &o.lose) && !debug_number(p, n, "fail=", &o.fail))
            return fail(err, "--debug: '%.*s' is none of prof, check, lose=N, fail=N", (int)n, p);
        p += n;
    }
    return true;
}

/* What -p, -f and a pipe give together: NULL with a reason; with none, when it is to be a
 * conversation. */
static char *one_message(struct hlm_err *err)
{
    char *text = NULL, *both = NULL;
    uint64_t n = 0;
    bool piped = !o.prompt && !o.file && !o.lines && !isatty(STDIN_FILENO);
    if (piped || (o.file && strcmp(o.file, "-") == 0))
        text = read_stdin(&n, err);
    else if (o.file)
        text = file_read(o.file, 1u << 28, &n, err);
    else if (o.prompt)
        return text_copy(o.prompt, strlen(o.prompt));
    if (!text)
        return NULL;
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        text[--n] = 0;
    const char *first = o.prompt ? o.prompt : "";
    const char *from = o.file && !piped ? o.file : "standard input";
    if (strlen(text) != n)
        fail(err, "%s holds a NUL byte: that is no text", from);
    else if (n == 0)
        fail(err, "%s is empty: there is nothing to answer", from);
    else if (!(both = mem_alloc(strlen(first) + n + 3, 1)))
        fail(err, "out of memory for the message");
    else
        sprintf(both, "%s%s%s", first, *first ? "\n\n" : "", text);
    free(text);
    return both;
}

static struct hlm_session_params session_params(void)
{
    return (struct hlm_session_params){ .n_ctx = (uint32_t)o.n_ctx,
                                        .n_batch = (uint32_t)o.n_batch,
                                        .snapshot_budget = o.snapshot_budget,
                                        .kv = (enum hlm_kv)o.kv };
}

/* The adapters, and a session, of a model that is dry: what does not fit is refused before anything
 * is loaded. Leaves the context that was chosen in o.n_ctx. */
static bool check_size(hlm *m, struct hlm_err *err)
{
    params = session_params();
    if (!adapters_read(&adapters, o.lora.v, o.lora.n, err) ||
        (adapters.n && !adapters_use(m, &adapters, err)))
        return false;
    hlm_session *s = hlm_session_create(m, &params, err);
    if (s)
        o.n_ctx = (int32_t)hlm_session_n_ctx(s);
    hlm_session_destroy(s);
    return s != NULL;
}

/* The session and the talk, with the flags on top of the model's own defaults. */
static bool open_talk(hlm *m, int argc, char **argv, struct hlm_err *err)
{
    params = session_params();
    if (!(session = hlm_session_create(m, &params, err)) || !talk_init(&talk, m, session, err))
        return false;
    for (uint32_t i = 0; i < ARRAY_LEN(flags); i++)
        if (flags[i].type == FLAG_SEED) /* drawn anew unless given */
            flag_value(&flags[i], "", "-1", NULL);
    flags_again(&program, argc, argv);
    talk.drop = o.on_full == 0;
    if (o.format) {
        chat_by_name(o.format, hlm_file(m), &talk.format); /* main has seen that there is one */
        talk.think = talk.format.think;
    } else if (!talk.known) {
        log_msg(HLM_LOG_WARN,
                "%s: its chat template is of a kind that hlm does not know: using %s "
                "(--chat-format chooses)",
                o.model, talk.format.name);
    }
    if (o.think >= 0 && !talk_think(&talk, o.think == 0, err))
        return false;
    ui_event("session", "{s:i, s:s, s:s, s:b, s:I}", "n_ctx", (int)hlm_session_n_ctx(session), "kv",
             kv_name((enum hlm_kv)o.kv), "format", talk.format.name, "think", (int)talk.think,
             "seed", (long long)talk.sampling.seed);
    return talk_system(&talk, o.system, err);
}

/* The four ways to be fed. text: the one message, if it is to be that. */
static int chat(struct show *show, const char *text)
{
    struct slash s = { .talk = &talk,
                       .show = show,
                       .flags = &program,
                       .adapters = &adapters,
                       .session = &session,
                       .params = &params };
    struct hlm_err err = { 0 };
    if (text)
        return chat_once(&s, text);
    if (o.lines)
        return chat_lines(&s);
    char path[4200];
    const char *dir = dir_state();
    snprintf(path, sizeof path, "%s/chat_history", dir ? dir : "");
    struct term *t = term_open(dir ? path : NULL, slash_words(), &err);
    if (!t) {
        ui_error("%s; --lines reads plain lines", err.msg);
        return RC_FAILED;
    }
    int rc = chat_terminal(&s, t);
    term_close(t);
    return rc;
}

/* --plan and --fit: exit code. */
static int print_plan(void)
{
    struct hlm_err err = { 0 };
    int rc = RC_FAILED;
    params = session_params();
    hlm *m = ui_open_model((struct hlm_params){ .model = o.model,
                                                .validate = o.validate,
                                                .memory = o.memory,
                                                .layers = true,
                                                .dry = true },
                           &rc);
    if (m && adapters_open(m, &o.lora, &err) &&
        (o.fit ? plan_print_fit : plan_print)(m, &params, &err))
        rc = RC_OK;
    if (err.kind)
        ui_error("%s", err.msg);
    hlm_close(m);
    return rc;
}

int main(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    struct show show = { .reasoning = true };
    struct chat_format format;
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    if (!o.model)
        return usage_error(&program, "no model: -m FILE");
    if (o.lines && (o.prompt || o.file))
        return usage_error(&program, "--lines does not go with -p and -f");
    if (o.format && !chat_by_name(o.format, NULL, &format))
        return usage_error(&program, "--chat-format: '%s' is none of " HLM_CHAT_FORMATS, o.format);
    if (!read_debug(&err))
        return usage_error(&program, "%s", err.msg);
    if (o.plan || o.fit)
        return ui_end(print_plan());

    hlm *m = NULL;
    char *text = one_message(&err);
    rc = ui_interrupted() ? RC_INTERRUPTED : RC_FAILED;
    if (err.kind || ui_interrupted())
        goto out;
    m = ui_open_model((struct hlm_params){ .model = o.model,
                                           .validate = o.validate,
                                           .profile = o.profile,
                                           .memory = o.memory,
                                           .layers = true,
                                           .dry = true },
                      &rc);
    if (!m || !check_size(m, &err) || !ui_load_model(m, &rc))
        goto out;
    hlm_test_lose((uint64_t)o.lose);
    mem_test_fail((uint64_t)o.fail);
    if (open_talk(m, argc, argv, &err)) {
        talk.hooks = show_hooks(&show);
        rc = chat(&show, text);
    } else {
        rc = ui_interrupted() ? RC_INTERRUPTED : RC_FAILED;
    }
    if (o.profile)
        ui_kernels(m);
    if (o.validate && hlm_get_info(m).n_validation) {
        ui_error("%u messages of the validation layer", hlm_get_info(m).n_validation);
        rc = rc == RC_OK ? RC_FAILED : rc;
    }
out:
    if (err.kind)
        ui_error("%s", err.msg);
    free(text);
    talk_finish(&talk);
    adapters_free(&adapters);
    hlm_session_destroy(session);
    hlm_close(m);
    return ui_end(rc);
}
