/* hlm-chat: a conversation with a model - at the terminal, from a pipe, or one question and out.
 *
 * Read main() first. The conversation is an hlm_talk, its look chat_show, the line editor
 * chat_term, the commands chat_slash; here are the flags and what feeds messages in. */
#define _POSIX_C_SOURCE 200809L
#include "chat_bias.h"
#include "chat_keep.h"
#include "chat_models.h"
#include "chat_slash.h"
#include "chat_term.h"
#include "chat_tty.h"
#include "common_config.h"
#include "common_counters.h"
#include "common_plan.h"
#include "hlm_test_hooks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct hlm_talk_options options; /* the talk's; flags and /set point into it */
static struct hlm_session_params params;
static struct adapters adapters;
static struct hlm_sampling biases; /* of it only these */
static struct show show = { .reasoning = true };

/* The value of --snapshot-budget when it is not given; 0 asks for none. */
#define DEFAULT_BUDGET UINT64_MAX

static struct {
    const char *model, *prompt, *file, *system, *format, *debug;
    int32_t n_ctx, n_batch;
    int kv, think, on_full;
    uint64_t snapshot_budget, memory;
    bool lines, plan, fit, go_on, json, print_config;
    int32_t fail, lose;     /* of --debug */
    bool profile, validate; /* of --debug */
    struct flag_list lora, stop, bias;
} o = { .think = -1, .snapshot_budget = DEFAULT_BUDGET };

static const struct flag flags[] = {
    { FLAG_GROUP, "Model and message", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0,
      "the model, a GGUF file, or the name of one that is on this machine; without it those are "
      "listed" },
    { FLAG_LIST, "--lora", "FILE[:SCALE]", &o.lora, 0, 0,
      "a LoRA adapter, a GGUF file; again for more, all active;\n"
      "SCALE is a factor on its own, 1 where it is left out" },
    { FLAG_TEXT, "-p --prompt", "TEXT", &o.prompt, 0, 0, "answer this and exit" },
    { FLAG_TEXT, "-f --file", "FILE", &o.file, 0, 0,
      "answer this file's text and exit (-: standard input);\n"
      "with -p too it follows that after an empty line" },
    { FLAG_SWITCH, "--lines", NULL, &o.lines, 0, 0,
      "every line of standard input is a turn of one conversation,\nslash commands included" },
    { FLAG_SWITCH, "--continue", NULL, &o.go_on, 0, 0,
      "go on with the last conversation, which is kept when you leave" },
    { FLAG_TEXT, "-sys --system --system-prompt", "TEXT", &o.system, 0, 0, "the system message" },
    { FLAG_CHOICE, "--think", "on|off", &o.think, 0, 0,
      "reason first, where the model can choose" },
    { FLAG_SWITCH, "--raw", NULL, &show.raw, 0, 0,
      "show Markdown as the model writes it, also at a terminal" },
    { FLAG_CHOICE, "--figures", "on|off", &show.figures, 0, 0,
      "tokens, speed and context after each turn at a terminal (on)" },
    { FLAG_SWITCH, "--json", NULL, &o.json, 0, 0,
      "an object of JSON on a line for each answer: text, reasoning, stop_reason and figures" },
    { FLAG_TEXT, "--chat-format", "NAME", &o.format, 0, 0,
      HLM_CHAT_FORMATS ":\nagainst the file's own template" },

    { FLAG_GROUP, "Context", 0, 0, 0, 0, 0 },
    { FLAG_INT, "-c --ctx-size", "N", &o.n_ctx, 0, INT32_MAX,
      "tokens of context; 0: as many as fit, up to what the model was\n"
      "trained for, and to 8192 where the device is the CPU (0)" },
    { FLAG_INT, "-n --predict --n-predict", "N", &options.n_predict, -1, INT32_MAX,
      "tokens of an answer at most; -1: as many as there is room" },
    { FLAG_LIST, "--stop", "TEXT", &o.stop, 0, 0,
      "an answer ends before this text, which is not shown; again for more; reasoning is not "
      "searched" },
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
    { FLAG_SEED, "-s --seed", "N", &options.sampling.seed, 0, 0,
      "the same seed gives the same text; -1: draw one (-1)" },
    { FLAG_FLOAT, "--temp --temperature", "X", &options.sampling.temp, 0, 100,
      "temperature; 0: always the likeliest (0.8)" },
    { FLAG_INT, "--top-k", "N", &options.sampling.top_k, 0, INT32_MAX,
      "only the N likeliest; 0: all (40)" },
    { FLAG_FLOAT, "--top-p", "X", &options.sampling.top_p, 0, 1,
      "only the likeliest that sum to X; 1: all (0.95)" },
    { FLAG_FLOAT, "--min-p", "X", &options.sampling.min_p, 0, 1,
      "only those at least X times as likely as the likeliest (0.05)" },
    { FLAG_FLOAT, "--repeat-penalty", "X", &options.sampling.repeat_penalty, 0.01, 100,
      "divides the logits of tokens seen lately; 1: off (1)" },
    { FLAG_FLOAT, "--presence-penalty", "X", &options.sampling.presence_penalty, -100, 100,
      "taken from those of tokens seen lately (0)" },
    { FLAG_FLOAT, "--frequency-penalty", "X", &options.sampling.frequency_penalty, -100, 100,
      "the same, for each time seen (0)" },
    { FLAG_INT, "--repeat-last-n", "N", &options.sampling.repeat_last_n, -1, INT32_MAX,
      "how many tokens are lately; -1: all, 0: none (64)" },
    { FLAG_LIST, "--logit-bias", "TOKEN=BIAS", &o.bias, 0, 0,
      "adds to the logit of a token, an id or the text of one; -inf: never; again for more" },

    { FLAG_GROUP, "Settings", 0, 0, 0, 0, 0 },
    { FLAG_SWITCH, "--print-config", NULL, &o.print_config, 0, 0,
      "print where the file of settings is and what it and these flags set, and exit; the file has "
      "lines such as temp = 0.6, with the names of flags; flags win" },

    { FLAG_GROUP, "For developers", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "--debug", "LIST", &o.debug, 0, 0,
      "prof: time per kernel at the end; check: validation layer;\n"
      "lose=N: the device is lost at the N-th submission or wait once\n"
      "the model is loaded; fail=N: so is the N-th piece of memory" },
};

static struct config config;

static const struct program program = {
    .name = "hlm-chat",
    .usage = "MODEL.gguf [-p TEXT | -f FILE | --lines] [flags]; --help lists them",
    .about = "Chat with a model. At a terminal: a prompt, where /help lists the commands.\n"
             "When standard input is no terminal, all of it is one message, or follows the text\n"
             "of -p, or with --lines each line is a turn. Standard output has the answers alone.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
    .config = &config,
};

/* ---- messages -------------------------------------------------------------------------------- */

/* One turn, with the files that are attached. The answer is on standard output; false: it failed,
 * or was stopped before it began. */
static bool turn(struct slash *s, const char *text)
{
    struct hlm_err err = { 0 };
    struct hlm_talk_turn got = { 0 };
    char *all = slash_attach(s, text);
    bool edits = s->editing, ok = false;
    s->editing = false;
    show_begin(s->show);
    if (!all)
        ui_fail_memory(&err, "out of memory for the message");
    else if (edits)
        ok = hlm_talk_edit(s->talk, hlm_talk_n_turn(s->talk) - 1, all, &got, &err);
    else
        ok = hlm_talk_say(s->talk, all, &got, &err);
    show_end(s->show, s->talk, ok, &got, &err);
    if (ok)
        slash_detach(s);
    else if (s->attached)
        ui_note("the file goes with the next message; /file - drops it");
    free(all);
    return ok;
}

/* A line that begins with a slash, and the message that the command may have for the model. */
static enum slash_got command(struct slash *s, const char *line)
{
    s->editing = false;
    enum slash_got got = slash_run(s, line);
    char *say = s->say;
    s->say = NULL;
    if (got == SLASH_DONE && say && !turn(s, say))
        got = SLASH_FAILED;
    free(say);
    return got;
}

/* Keeps the conversation for --continue. */
static void keep(struct slash *s)
{
    static bool failed;
    struct hlm_err err = { 0 };
    const char *path = keep_path();
    if (failed || !path)
        return;
    if (!hlm_talk_n_turn(s->talk)) { /* what was cleared is not to come back */
        keep_forget(path);
        return;
    }
    failed = !keep_last(s->talk, hlm_get_info(s->model).name, path, &err);
    if (failed)
        ui_warn("%s: this conversation is not kept", err.msg);
}

static int chat_once(struct slash *s, const char *text)
{
    s->show->once = true;
    bool ok = turn(s, text);
    if (o.go_on)
        keep(s);
    return ui_interrupted() ? RC_INTERRUPTED : ok ? RC_OK : RC_FAILED;
}

/* One line of standard input. *bye: it was the last. */
static bool take_line(struct slash *s, const char *line, size_t n, bool *bye)
{
    if (strlen(line) != n) {
        ui_error("a line of standard input holds a NUL byte: that is no text");
        return false;
    }
    if (line[0] == '/') {
        enum slash_got got = command(s, line);
        *bye = got == SLASH_BYE || got == SLASH_LOST;
        return got == SLASH_DONE || got == SLASH_BYE;
    }
    return n == 0 || turn(s, line);
}

/* A turn that fails is reported and the next line is read: the exit code remembers. */
static int chat_lines(struct slash *s)
{
    char *line = NULL;
    size_t cap = 0;
    int rc = RC_OK;
    bool bye = false;
    while (!bye && !ui_interrupted() && hlm_ok(s->model)) {
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0)
            break;
        while (n && strchr(" \t\r\n", line[n - 1]))
            line[--n] = 0;
        rc = take_line(s, line, (size_t)n, &bye) ? rc : RC_FAILED;
        if (o.go_on)
            keep(s);
    }
    if (ferror(stdin) && !ui_interrupted()) {
        ui_error("standard input: %s", strerror(errno));
        rc = RC_FAILED;
    }
    free(line);
    return ui_interrupted() ? RC_INTERRUPTED : rc;
}

/* The next message or command at the prompt. False: it was left. */
static bool read_prompt(struct slash *s, struct term *t, char **text, bool *quoted)
{
    for (;;) {
        ui_interrupt_clear();
        enum term_got got = term_read(t, s->editing ? "edit> " : ">>> ", s->prefill, text, quoted);
        free(s->prefill);
        s->prefill = NULL;
        if (got != TERM_CLEARED)
            return got == TERM_MESSAGE;
        s->editing = false;
    }
}

static int chat_terminal(struct slash *s, struct term *t)
{
    show_banner(s->model, s->talk, s->adapters);
    if (o.go_on && ui_notes())
        show_messages(s->show, s->talk, 2);
    char *text;
    bool quoted;
    while (read_prompt(s, t, &text, &quoted)) {
        enum slash_got got = SLASH_DONE;
        if (text[0] == '/' && !quoted)
            got = command(s, text);
        else
            turn(s, text);
        free(text);
        keep(s);
        if (got == SLASH_BYE)
            break;
        if (got == SLASH_LOST || !hlm_ok(s->model))
            return RC_FAILED;
    }
    if (hlm_talk_n_turn(s->talk) && keep_path())
        ui_note("(--continue goes on with this conversation)");
    return ui_terminated() ? RC_INTERRUPTED : RC_OK;
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
            return ui_fail(err, "--debug: '%.*s' is none of prof, check, lose=N, fail=N", (int)n,
                           p);
        p += n;
    }
    return true;
}

/* Is standard input open at all? */
static bool has_stdin(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0;
}

/* The text of -f or of a pipe, without line ends at its end. NULL: there is none, or with a
 * reason. */
static char *piped_text(struct hlm_err *err)
{
    uint64_t n = 0;
    bool by_file = o.file && strcmp(o.file, "-") != 0;
    if (!o.file && (o.lines || isatty(STDIN_FILENO) || (o.prompt && !has_stdin())))
        return NULL;
    char *text = by_file ? ui_read_file(o.file, 1u << 28, &n, err) : read_stdin(&n, err);
    if (text && !o.file && o.prompt &&
        strspn(text, "\r\n") == n) { /* a pipe beside -p may well be empty */
        free(text);
        return NULL;
    }
    return ui_as_text(text, &n, by_file ? o.file : "standard input", err);
}

/* The message that -p, -f and a pipe give together. NULL with a reason, or without one when the
 * program is to hold a conversation. */
static char *one_message(struct hlm_err *err)
{
    char *text = piped_text(err), *both = NULL;
    if ((o.prompt || text) && !err->kind && !(both = ui_joined(o.prompt, text)))
        ui_fail_memory(err, "out of memory for the message");
    free(text);
    return both;
}

static struct hlm_session_params session_params(void)
{
    uint64_t budget = o.snapshot_budget ? o.snapshot_budget : HLM_SNAPSHOT_NONE;
    return (struct hlm_session_params){ .n_ctx = (uint32_t)o.n_ctx,
                                        .n_batch = (uint32_t)o.n_batch,
                                        .snapshot_budget =
                                            o.snapshot_budget == DEFAULT_BUDGET ? 0 : budget,
                                        .kv = (enum hlm_kv)o.kv };
}

/* Reads the adapters and plans the session of a model that is dry: what does not fit is refused
 * before anything is loaded. Leaves the context that was chosen in o.n_ctx. */
static bool check_size(hlm *m, struct hlm_err *err)
{
    uint32_t trained = hlm_get_info(m).n_ctx_train;
    params = session_params();
    if (params.n_ctx > trained)
        ui_warn("-c %u: %s was trained for %u tokens of context; answers may get worse after them",
                params.n_ctx, o.model, trained);
    if (!adapters_read(&adapters, o.lora.v, o.lora.n, err) ||
        (adapters.n && !adapters_use(m, &adapters, err)))
        return false;
    struct hlm_plan plan;
    if (!hlm_session_plan(m, &params, &plan, err))
        return false;
    o.n_ctx = (int32_t)plan.n_ctx;
    return plan.fits || plan_refusal(m, &params, err);
}

/* The flags on top of the model's own defaults. */
static void set_options(hlm_talk *t, int argc, char **argv)
{
    options = *hlm_talk_options(t);
    for (uint32_t i = 0; i < ARRAY_LEN(flags); i++)
        if (flags[i].type == FLAG_SEED) /* drawn anew unless given */
            flag_value(&flags[i], "", "-1", NULL);
    flags_again(&program, argc, argv, NULL); /* the same words were read before */
    options.stop_on_full = o.on_full == 1;
    options.stop = o.stop.v;
    options.n_stop = o.stop.n;
    show.json = o.json;
    show_hook(&show, &options);
    memcpy(options.sampling.bias, biases.bias, sizeof biases.bias);
    options.sampling.n_bias = biases.n_bias;
    *hlm_talk_options(t) = options;
}

/* --continue */
static bool take_up(hlm_talk *t, struct hlm_err *err)
{
    const char *path = o.go_on ? keep_path() : NULL;
    if (o.go_on && !path)
        return ui_fail(err, "--continue: no conversation is kept: there is no HOME folder");
    if (path && access(path, F_OK) != 0)
        return ui_fail(err, "--continue: no conversation has been kept: there is no %.300s", path);
    if (!path)
        return true;
    keep_is_ours(path);
    return keep_read_json(t, path, err);
}

/* NULL with a reason. */
static hlm_talk *open_talk(hlm *m, struct hlm_err *err)
{
    bool known;
    params = session_params();
    hlm_talk *t =
        hlm_talk_open(m, &(struct hlm_talk_params){ .session = params, .format = o.format }, err);
    if (!t) {
        plan_explain(m, &params, err);
        return NULL;
    }
    hlm_chat_format(hlm_get_vocab(m, NULL), &known);
    if (!o.format && !known)
        ui_warn("%s: its chat template is of a kind that hlm does not know: using %s "
                "(--chat-format chooses)",
                o.model, hlm_talk_format(t));
    if (take_up(t, err) && (o.think < 0 || hlm_talk_set_think(t, o.think == 0, err)) &&
        (!o.system || hlm_talk_set_system(t, o.system, err)))
        return t;
    hlm_talk_close(t);
    return NULL;
}

static void log_talk(const hlm_talk *t)
{
    ui_event("session", "{s:i, s:s, s:s, s:b, s:I}", "n_ctx",
             (int)hlm_session_n_ctx(hlm_talk_session(t)), "kv", kv_name((enum hlm_kv)o.kv),
             "format", hlm_talk_format(t), "think", (int)hlm_talk_thinks(t), "seed",
             (long long)options.sampling.seed);
}

static int open_terminal(struct slash *s)
{
    struct hlm_err err = { 0 };
    char path[4200];
    const char *dir = dir_state();
    snprintf(path, sizeof path, "%s/chat_history", dir ? dir : "");
    struct term *term = term_open(&(struct term_params){ .history = dir ? path : NULL,
                                                         .editor = ui_editor(),
                                                         .folder = dir,
                                                         .complete = slash_complete,
                                                         .user = s },
                                  &err);
    if (!term) {
        ui_error("%s; --lines reads plain lines", err.msg);
        return RC_FAILED;
    }
    int rc = chat_terminal(s, term);
    term_close(term);
    return rc;
}

/* The four ways to be fed. text: the one message, if it is to be that. */
static int chat(hlm *m, hlm_talk *t, const char *text)
{
    struct slash s = { .model = m,
                       .talk = t,
                       .show = &show,
                       .flags = &program,
                       .options = &options,
                       .adapters = &adapters,
                       .params = &params };
    int rc = text ? chat_once(&s, text) : o.lines ? chat_lines(&s) : open_terminal(&s);
    slash_free(&s);
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
                                                .layers = ui.log_json != NULL,
                                                .dry = true },
                           &rc);
    if (m && adapters_open(m, &o.lora, &err) &&
        (o.fit ? plan_print_fit : plan_print)(m, &params, &err))
        rc = RC_OK;
    else if (m)
        rc = ui_failed(&err);
    hlm_close(m);
    return rc;
}

/* A model and a talk, from nothing to the end of the conversation: exit code. */
static int converse(const char *text, int argc, char **argv, struct hlm_err *err)
{
    int rc = RC_FAILED;
    hlm_talk *t = NULL;
    if (!text && !o.lines)
        term_hold();
    hlm *m = ui_open_model((struct hlm_params){ .model = o.model,
                                                .validate = o.validate,
                                                .profile = o.profile,
                                                .memory = o.memory,
                                                .layers = ui.log_json != NULL,
                                                .dry = true },
                           &rc);
    if (!m || !bias_read(hlm_get_vocab(m, NULL), &o.bias, &biases, err) || !check_size(m, err) ||
        !ui_load_model(m, &rc))
        goto out;
    hlm_test_lose((uint64_t)o.lose);
    hlm_test_fail((uint64_t)o.fail);
    show.model = m;
    if ((t = open_talk(m, err))) {
        set_options(t, argc, argv);
        log_talk(t);
        counters_log(m);
        rc = chat(m, t, text);
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
    tty_close();
    if (err->kind)
        show_error(err, &options);
    hlm_talk_close(t);
    adapters_free(&adapters);
    hlm_close(m);
    return rc;
}

/* ---- models on this machine ------------------------------------------------------------------ */

static struct found_models found;

static int no_model(void)
{
    models_find(&found);
    if (found.n)
        ui_say("Models on this machine, for -m NAME:");
    models_list(&found, o.memory);
    return ui_end(usage_error(&program, "no model: -m FILE%s", found.n ? " or -m NAME" : ""));
}

/* -m NAME: a model that no_model lists, where there is no file of that name. False: there is
 * neither. */
static bool find_by_name(struct hlm_err *err)
{
    if (ui_exists(o.model))
        return true;
    models_find(&found);
    const char *path = strchr(o.model, '/') ? NULL : models_path(&found, o.model);
    if (path) {
        o.model = path;
        return true;
    }
    const char **name = ui_alloc(found.n + 1ull, sizeof *name);
    for (uint32_t i = 0; name && i < found.n; i++)
        name[i] = found.v[i].name;
    const char *near = name ? ui_nearest(o.model, name) : NULL;
    ui_fail(err, "%s: No such file%s%s%s", o.model,
            strchr(o.model, '/') ? "" : ", and no model of that name on this machine",
            near ? "; perhaps you mean " : "; hlm-chat without -m lists those there are",
            near ? near : "");
    free(name);
    return false;
}

int main(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    if (!config_read(&program, &config, &err) || !flags_again(&program, argc, argv, &err))
        return ui_end(usage_error(&program, "%s", err.msg));
    ui_look(program.name); /* colours may be set */
    if (o.print_config) {
        config_print(&program, &config, argc, argv);
        return ui_end(RC_OK);
    }
    if (!o.model)
        return no_model();
    if (o.lines && (o.prompt || o.file))
        return usage_error(&program, "--lines does not go with -p and -f");
    if (o.json && !o.lines && !o.prompt && !o.file && isatty(STDIN_FILENO))
        return usage_error(&program, "--json goes with -p, -f, --lines or text on standard input");
    if (o.format && !hlm_is_chat_format(o.format))
        return usage_error(&program, "--chat-format: '%s' is none of " HLM_CHAT_FORMATS, o.format);
    if (!read_debug(&err))
        return usage_error(&program, "%s", err.msg);
    if (!find_by_name(&err))
        return ui_end(ui_failed(&err));
    if (o.plan || o.fit)
        return ui_end(print_plan());

    char *text = one_message(&err);
    if (err.kind || ui_interrupted())
        rc = err.kind ? ui_failed(&err) : RC_INTERRUPTED;
    else
        rc = converse(text, argc, argv, &err);
    free(text);
    return ui_end(rc);
}
