/* hlm-eval: what a model computes, in files and lines - logits, hidden states, greedy ids, token
 * ids, prompts, perplexity. The tool for tests and for judging. --tokenize and --chat open no
 * device.
 *
 * Ids are read by one list of pieces (--split, --decode-from), so that every result can be had over
 * every way of reading. Results are streamed to a file beside their target and renamed. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"
#include "common_flags.h"
#include "common_lora.h"
#include "common_plan.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    const char *model, *ids, *logits, *hidden, *split, *chat, *format, *perplexity;
    int32_t decode_from, greedy, n_ctx;
    int kv;
    bool tokenize, no_think, fast, plan;
    uint64_t memory;
    struct flag_list lora;
} o = { .decode_from = -1, .greedy = -1, .kv = 1 };

static const struct flag flags[] = {
    { FLAG_GROUP, "Ids through the model", 0, 0, 0, 0, 0 },
    { FLAG_TEXT, "-m --model", "FILE", &o.model, 0, 0, "the model, a GGUF file" },
    { FLAG_LIST, "--lora", "FILE[:SCALE]", &o.lora, 0, 0,
      "a LoRA adapter, a GGUF file; again for more, all active;\n"
      "SCALE is a factor on its own, 1 where it is left out" },
    { FLAG_TEXT, "--ids", "FILE", &o.ids, 0, 0, "decimal token ids separated by white space" },
    { FLAG_TEXT, "--logits", "OUT", &o.logits, 0, 0, "float32 little-endian [n_tok][n_vocab]" },
    { FLAG_TEXT, "--hidden", "OUT", &o.hidden, 0, 0,
      "float32 [n_layer+2][n_tok][n_embd]: embeddings, the output\nof every layer, final norm" },
    { FLAG_INT, "--greedy", "N", &o.greedy, 0, 1 << 24,
      "print N ids on one line: the largest logit each time,\nnothing masked, no stop" },
    { FLAG_INT, "--decode-from", "N", &o.decode_from, 0, INT32_MAX,
      "the first N ids by prefill, each later one by decode" },
    { FLAG_TEXT, "--split", "A,B,...", &o.split, 0, 0,
      "prefill in pieces of A, B, ... ids; the rest is one more" },
    { FLAG_TEXT, "--perplexity", "FILE", &o.perplexity, 0, 0,
      "of a text, in windows of -c tokens (512), each from zero\n"
      "state, its first token not counted: one line of JSON with\n"
      "the tokens counted, their mean nll and its exponential" },
    { FLAG_SWITCH, "--fast", NULL, &o.fast, 0, 0,
      "the paths that hlm-chat takes, not those in f32 only" },
    { FLAG_CHOICE, "--kv", "f16|f32|q8_0", &o.kv, 0, 0, "type of the KV cache (f32)" },
    { FLAG_INT, "-c --ctx-size", "N", &o.n_ctx, 0, INT32_MAX,
      "tokens of context; 0: what the ids need, 512 for a perplexity" },
    { FLAG_BYTES, "--memory", "BYTES", &o.memory, 0, 0x1p60,
      "device memory that may be used; K, M, G; 0: what is free but\nfor a twentieth (0)" },
    { FLAG_SWITCH, "--plan", NULL, &o.plan, 0, 0,
      "print what --ids would take of the device's memory, and exit" },

    { FLAG_GROUP, "Text, without a device", 0, 0, 0, 0, 0 },
    { FLAG_SWITCH, "--tokenize", NULL, &o.tokenize, 0, 0,
      "for each JSON string, one a line of standard input,\n"
      "a line of its ids; special tokens are parsed" },
    { FLAG_TEXT, "--chat", "FILE", &o.chat, 0, 0,
      "print the prompt of a JSON array of {role, content}, as a\nrow of training data has them "
      "(reasoning_content, tool_calls),\nor of {messages, tools}, with the generation prompt" },
    { FLAG_SWITCH, "--no-think", NULL, &o.no_think, 0, 0, "... that asks for no reasoning" },
    { FLAG_TEXT, "--chat-format", "NAME", &o.format, 0, 0,
      HLM_CHAT_FORMATS ":\nagainst the file's own template" },
};

static const struct program program = {
    .name = "hlm-eval",
    .usage = "-m MODEL.gguf (--ids FILE (--logits OUT | --hidden OUT | --greedy N) |"
             " --perplexity FILE | --tokenize | --chat FILE) [flags]; --help lists them",
    .about = "What a model computes: logits, hidden states, greedy ids, perplexity, token ids,\n"
             "prompts.",
    .flag = flags,
    .n_flag = ARRAY_LEN(flags),
};

/* ---- text ------------------------------------------------------------------------------------ */

static bool tokenize(hlm_vocab *v, struct hlm_err *err)
{
    struct hlm_ids ids = { 0 };
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = 0;
    bool ok = hlm_tokenize(v, "", 0, true, &ids, err); /* false without a tokenizer */
    for (uint64_t i = 1; ok && !ui_interrupted() && (n = getline(&line, &cap, stdin)) >= 0; i++) {
        json_error_t e;
        json_t *s = json_loadb(line, (size_t)n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
        ids.n = 0;
        if (!json_is_string(s))
            ok = ui_fail(err, "standard input: line %llu is not a JSON string%s%s",
                         (unsigned long long)i, s ? "" : ": ", s ? "" : e.text);
        else
            ok = hlm_tokenize(v, json_string_value(s), json_string_length(s), true, &ids, err);
        json_decref(s);
        for (uint32_t k = 0; ok && k < ids.n; k++)
            printf("%s%d", k ? " " : "", ids.id[k]);
        if (ok)
            putchar('\n');
    }
    if (ok && ferror(stdin) && !ui_interrupted())
        ok = ui_fail_system(err, "standard input: %s", strerror(errno));
    free(line);
    hlm_ids_free(&ids);
    return ok;
}

static bool print_prompt(hlm_vocab *v, struct hlm_err *err)
{
    uint64_t len, n = 0;
    bool known;
    const char *format = hlm_chat_format(v, &known);
    if (!o.format && !known)
        ui_warn("%s: its chat template is of a kind that hlm does not know: using %s "
                "(--chat-format chooses)",
                o.model, format);
    char *json = ui_read_file(o.chat, 1u << 28, &len, err);
    if (!json)
        return false;
    struct hlm_render_params p = {
        .json = json, .n = len, .name = o.chat, .format = o.format, .no_think = o.no_think
    };
    char *text = hlm_render(v, &p, &n, err);
    if (text)
        ui_text(stdout, text, n);
    hlm_free(text);
    free(json);
    return text != NULL;
}

/* ---- files of floats ------------------------------------------------------------------------- */

/* Written beside its target and renamed at the end; in place where that is no plain file. */
struct out {
    const char *path;
    char *beside; /* NULL: in place */
    FILE *f;
};

static bool out_open(struct out *f, const char *path, struct hlm_err *err)
{
    struct stat st;
    f->path = path;
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode)) {
        size_t n = strlen(path) + 32;
        if (!(f->beside = ui_alloc(n, 1)))
            return ui_fail_memory(err, "%s: out of memory", path);
        snprintf(f->beside, n, "%s.%ld.part", path, (long)getpid());
    }
    if (f->beside)
        ui_unfinished(f->beside, true);
    f->f = fopen(f->beside ? f->beside : path, "wb");
    return f->f || ui_fail_system(err, "%s: %s", path, strerror(errno));
}

/* n floats at float number `at`. The platform is little-endian, as GGUF is. */
static bool out_write(struct out *f, uint64_t at, const float *v, uint64_t n, struct hlm_err *err)
{
    if ((ftello(f->f) == (off_t)(at * sizeof *v) ||
         fseeko(f->f, (off_t)(at * sizeof *v), SEEK_SET) == 0) &&
        fwrite(v, sizeof *v, (size_t)n, f->f) == n)
        return true;
    return ui_fail_system(err, "%s: %s", f->path, strerror(errno));
}

static bool out_close(struct out *f, bool keep, struct hlm_err *err)
{
    bool ok = f->f != NULL;
    if (f->f && fclose(f->f) != 0 && keep)
        ok = ui_fail_system(err, "%s: %s", f->path, strerror(errno));
    if (ok && keep && f->beside && rename(f->beside, f->path) != 0)
        ok = ui_fail_system(err, "%s: %s", f->path, strerror(errno));
    if (f->beside && !(ok && keep))
        unlink(f->beside);
    if (f->beside)
        ui_unfinished(f->beside, false);
    free(f->beside);
    *f = (struct out){ 0 };
    return ok;
}

/* ---- ids ------------------------------------------------------------------------------------- */

struct id_list {
    int32_t *id;
    uint32_t *line; /* where it stands, for messages */
    uint32_t n;
};

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool read_ids(struct id_list *l, struct hlm_err *err)
{
    uint64_t len, cap = 0;
    uint32_t line = 1;
    char *text = ui_read_file(o.ids, 1u << 30, &len, err);
    bool ok = text != NULL;
    for (char *p = text; ok;) {
        while (p < text + len && is_space(*p))
            line += *p++ == '\n';
        if (p == text + len)
            break;
        char *end = p;
        int64_t v = 0;
        for (; *end >= '0' && *end <= '9' && v <= INT32_MAX; end++)
            v = 10 * v + (*end - '0');
        if (end == p || v > INT32_MAX || (end < text + len && !is_space(*end))) {
            int n_word = (int)strcspn(p, " \t\r\n\f\v");
            ok = ui_fail(err, "%s: line %u: '%.*s' is no token id", o.ids, line,
                         n_word < 32 ? n_word : 32, p);
            break;
        }
        if (l->n == cap) {
            cap = 2 * cap + 1024;
            int32_t *id = ui_grow(l->id, cap, sizeof *id);
            l->id = id ? id : l->id;
            uint32_t *at = ui_grow(l->line, cap, sizeof *at);
            l->line = at ? at : l->line;
            if (!id || !at || cap > INT32_MAX) {
                ok = ui_fail(err, "%s: too many ids", o.ids);
                break;
            }
        }
        l->id[l->n] = (int32_t)v;
        l->line[l->n++] = line;
        p = end;
    }
    free(text);
    return ok && (l->n || ui_fail(err, "%s: there is no id in it", o.ids));
}

/* Where the pieces end. The decoded ids are pieces of one. */
struct pieces {
    uint32_t *end, n;
};

static bool make_pieces(struct pieces *p, uint32_t n_ids, struct hlm_err *err)
{
    uint32_t n_prefill = o.decode_from < 0 ? n_ids : (uint32_t)o.decode_from, at = 0;
    if (n_prefill > n_ids)
        return ui_fail(err, "--decode-from %d: there are only %u ids", o.decode_from, n_ids);
    if (!(p->end = ui_alloc((uint64_t)n_ids + 1, sizeof *p->end)))
        return ui_fail_memory(err, "out of memory for the pieces");
    for (const char *s = o.split ? o.split : ""; *s;) {
        char *end;
        errno = 0;
        unsigned long long n = strtoull(s, &end, 10);
        if (*s < '0' || *s > '9' || (*end && *end != ',') || (*end == ',' && !end[1]) || n == 0 ||
            errno)
            return ui_fail(err, "--split: '%s' is no list of positive numbers", o.split);
        if (n > n_prefill - at)
            return ui_fail(err, "--split: the pieces have more than the %u ids to prefill",
                           n_prefill);
        p->end[p->n++] = at += (uint32_t)n;
        s = *end ? end + 1 : end;
    }
    if (at < n_prefill)
        p->end[p->n++] = at = n_prefill;
    while (at < n_ids)
        p->end[p->n++] = ++at;
    return true;
}

/* ---- the model ------------------------------------------------------------------------------- */

/* Results held at once: a longer piece is read in several calls. */
#define MAX_ROWS_BYTES (256u << 20)

static bool read_pieces(hlm *m, hlm_session *s, const struct id_list *l, const struct pieces *p,
                        struct hlm_err *err)
{
    struct hlm_info info = hlm_get_info(m);
    struct out logits = { 0 }, hidden = { 0 };
    uint64_t n_row = info.n_vocab, n_embd = info.n_embd, n_hidden = info.n_layer + 2;
    uint64_t per_tok =
        sizeof(float) * ((o.logits ? n_row : 0) + (o.hidden ? n_hidden * n_embd : 0));
    uint32_t most = per_tok ? (uint32_t)ui_max_u64(1, MAX_ROWS_BYTES / per_tok) : UINT32_MAX;
    uint32_t longest = 1;
    struct bar bar = { .what = "reading", .unit = "tok", .lines = true };
    float *row = NULL, *state = NULL;
    for (uint32_t i = 0, at = 0; i < p->n; at = p->end[i++])
        longest = ui_max_u32(longest, ui_min_u32(most, p->end[i] - at));
    bool ok = (!o.logits || ((row = ui_alloc(longest, n_row * sizeof *row)) &&
                             out_open(&logits, o.logits, err))) &&
              (!o.hidden || ((state = ui_alloc(longest, n_hidden * n_embd * sizeof *state)) &&
                             out_open(&hidden, o.hidden, err)));
    if (!ok)
        ui_fail_memory(err, "out of memory for %u rows of results", longest);

    for (uint32_t i = 0, at = 0; ok && i < p->n;) {
        uint32_t n = ui_min_u32(most, p->end[i] - at);
        ok = hlm_session_eval(s, l->id + at, n, row, state, err) &&
             (!row || out_write(&logits, at * n_row, row, n * n_row, err));
        for (uint64_t k = 0; ok && state && k < n_hidden; k++)
            ok = out_write(&hidden, (k * l->n + at) * n_embd, state + k * n * n_embd, n * n_embd,
                           err);
        at += n;
        i += at == p->end[i];
        ok = ok && (bar_progress(&bar, at, l->n) || ui_fail_stopped(err));
    }
    bar_clear();
    ok = (!o.logits || out_close(&logits, ok, err)) && ok;
    ok = (!o.hidden || out_close(&hidden, ok, err)) && ok;
    free(row);
    free(state);
    return ok;
}

static bool print_greedy(hlm_session *s, struct hlm_err *err)
{
    struct hlm_sampling greedy = {
        .temp = 0, .top_p = 1, .repeat_penalty = 1, .allow_unused = true
    };
    struct bar bar = { .what = "deciding", .unit = "tok", .lines = true };
    for (int32_t i = 0; i < o.greedy; i++) {
        int32_t id;
        if (!hlm_session_next(s, &greedy, &id, err))
            return false;
        printf("%s%d", i ? " " : "", id);
        if (!bar_progress(&bar, (uint64_t)i, (uint64_t)o.greedy))
            return ui_fail_stopped(err);
    }
    putchar('\n');
    return true;
}

static void note_session(const hlm_session *s)
{
    struct hlm_stats t = hlm_session_stats(s);
    ui_note("[read %llu tokens in %.2f s, made %llu in %.2f s]", (unsigned long long)t.n_read,
            t.read_s, (unsigned long long)t.n_gen, t.gen_s);
    ui_event("eval", "{s:I, s:f, s:I, s:f, s:I, s:I}", "read", (json_int_t)t.n_read, "read_s",
             t.read_s, "generated", (json_int_t)t.n_gen, "gen_s", t.gen_s, "submissions",
             (json_int_t)t.n_submit, "recordings", (json_int_t)t.n_record);
}

static int eval_ids(const struct id_list *l, const struct pieces *p, struct hlm_err *err)
{
    uint64_t need = l->n + (o.greedy > 0 ? (uint64_t)o.greedy : 0);
    if (o.n_ctx && (uint64_t)o.n_ctx < need)
        return usage_error(&program, "-c %d: these ids need %llu", o.n_ctx,
                           (unsigned long long)need);
    int rc = RC_FAILED;
    hlm *m = ui_open_model(
        (struct hlm_params){
            .model = o.model, .f32_only = !o.fast, .memory = o.memory, .dry = o.plan },
        &rc);
    if (!m)
        return rc;
    struct hlm_session_params params = {
        .n_ctx = o.n_ctx ? (uint32_t)o.n_ctx : (uint32_t)need,
        .kv = (enum hlm_kv)o.kv,
        .keep_logits = o.logits != NULL,
        .keep_hidden = o.hidden != NULL,
    };
    if (o.plan) {
        bool fits = adapters_open(m, &o.lora, err) && plan_print(m, &params, err);
        hlm_close(m);
        return fits ? RC_OK : RC_FAILED;
    }
    hlm_session *s = NULL;
    uint32_t n_vocab = hlm_get_info(m).n_vocab;
    bool ok = true;
    for (uint32_t i = 0; ok && i < l->n; i++)
        ok = (uint32_t)l->id[i] < n_vocab ||
             ui_fail(err, "%s: line %u: id %d is outside of the vocabulary of %u", o.ids,
                     l->line[i], l->id[i], n_vocab);
    ok = ok && adapters_open(m, &o.lora, err) && (s = plan_create(m, &params, err)) &&
         read_pieces(m, s, l, p, err) && (o.greedy < 0 || print_greedy(s, err));
    if (s)
        note_session(s);
    hlm_session_destroy(s);
    hlm_close(m);
    return ok ? RC_OK : RC_FAILED;
}

/* ---- perplexity ------------------------------------------------------------------------------ */

/* How far a perplexity is: with -v, and without a bar, a line now and then. */
enum { NOTE_S = 5 };
struct reading {
    struct bar bar;
    double noted_s, sum; /* sum: of n likelihoods */
    uint64_t n;
};

static bool note_progress(struct reading *r, uint64_t done, uint64_t total)
{
    double now = ui_now_s(), took = now - r->bar.start_s;
    if (!ui_has_line() && ui.verbose && now - r->noted_s > NOTE_S) {
        r->noted_s = now;
        ui_note("[%llu of %llu tokens, %.0f tok/s, %s left, perplexity so far %.4f]",
                (unsigned long long)done, (unsigned long long)total, (double)done / took,
                span_text((double)(total - done) * took / (double)done).s,
                exp(r->sum / (double)r->n));
    }
    return bar_progress(&r->bar, done, total);
}

static bool print_perplexity(hlm_session *s, const struct hlm_ids *ids, uint32_t window,
                             struct hlm_err *err)
{
    struct reading r = { .bar = { .what = "reading", .unit = "tok", .lines = !ui.verbose },
                         .noted_s = ui_now_s() };
    double *nll = ui_alloc(window, sizeof *nll);
    bool ok = nll || ui_fail_memory(err, "out of memory for a window of %u tokens", window);
    bar_progress(&r.bar, 0, ids->n); /* the first window counts too */
    for (uint32_t at = 0, take; ok && ids->n - at >= 2; at += take) {
        take = ui_min_u32(window, ids->n - at);
        hlm_session_reset(s);
        ok = hlm_session_nll(s, ids->id + at, take, nll, err);
        for (uint32_t i = 0; ok && i + 1 < take; i++)
            r.sum += nll[i];
        r.n += ok ? take - 1 : 0;
        ok = ok && (note_progress(&r, at + take, ids->n) || ui_fail_stopped(err));
    }
    bar_clear();
    free(nll);
    if (!ok)
        return false;
    json_t *line = json_pack("{s:I, s:f, s:f}", "tokens", (json_int_t)r.n, "nll",
                             r.sum / (double)r.n, "perplexity", exp(r.sum / (double)r.n));
    ok = line && json_dumpf(line, stdout, JSON_REAL_PRECISION(12)) == 0 && putchar('\n') != EOF;
    json_decref(line);
    return ok || ui_fail(err, "standard output: the result could not be written");
}

static bool encode_text(hlm *m, const char *text, uint64_t len, struct hlm_ids *ids,
                        struct hlm_err *err)
{
    hlm_vocab *v = hlm_get_vocab(m, err);
    return v && hlm_tokenize(v, text, len, true, ids, err) &&
           (ids->n >= 2 || ui_fail(err, "%s: %u token%s: a perplexity needs at least 2",
                                   o.perplexity, ids->n, ids->n == 1 ? "" : "s"));
}

static int eval_text(const char *text, uint64_t len, struct hlm_err *err)
{
    int rc = RC_FAILED;
    uint32_t window = o.n_ctx ? (uint32_t)o.n_ctx : 512;
    struct hlm_ids ids = { 0 };
    hlm_session *s = NULL;
    hlm *m = ui_open_model(
        (struct hlm_params){ .model = o.model, .f32_only = !o.fast, .memory = o.memory }, &rc);
    if (!m)
        return rc;
    uint32_t trained = hlm_get_info(m).n_ctx_train;
    bool ok =
        !o.n_ctx || window <= trained ||
        ui_fail(err, "-c %u: %s was trained for %u tokens of context", window, o.model, trained);
    if (ok && window > trained)
        ui_warn("%s was trained for %u tokens of context; windows have %u (-c)", o.model, trained,
                window);
    ok = ok && encode_text(m, text, len, &ids, err) && adapters_open(m, &o.lora, err);
    struct hlm_session_params params = { .n_ctx = ui_min_u32(window, ids.n),
                                         .kv = (enum hlm_kv)o.kv,
                                         .keep_nll = true };
    ok = ok && (s = plan_create(m, &params, err)) && print_perplexity(s, &ids, window, err);
    if (s)
        note_session(s);
    hlm_ids_free(&ids);
    hlm_session_destroy(s);
    hlm_close(m);
    return ok ? RC_OK : RC_FAILED;
}

/* ---- start ----------------------------------------------------------------------------------- */

static int run_ids(struct hlm_err *err)
{
    struct id_list l = { 0 };
    struct pieces p = { 0 };
    int rc = RC_FAILED;
    if (read_ids(&l, err)) {
        if (make_pieces(&p, l.n, err))
            rc = eval_ids(&l, &p, err);
        else
            rc = RC_USAGE;
    }
    free(l.id);
    free(l.line);
    free(p.end);
    return rc;
}

static int run_perplexity(struct hlm_err *err)
{
    uint64_t len;
    char *text = ui_read_file(o.perplexity, 1u << 30, &len, err);
    int rc = text ? eval_text(text, len, err) : RC_FAILED;
    free(text);
    return rc;
}

static int run_text(struct hlm_err *err)
{
    struct hlm_log log = ui_log();
    hlm_vocab *v = hlm_vocab_open(o.model, &log, err);
    bool ok = v && (o.tokenize ? tokenize(v, err) : print_prompt(v, err));
    hlm_vocab_close(v);
    return ok ? RC_OK : RC_FAILED;
}

int main(int argc, char **argv)
{
    struct hlm_err err = { 0 };
    int rc;
    if (!flags_read(&program, argc, argv, &rc))
        return rc;
    bool results = o.logits || o.hidden || o.greedy >= 0;
    if (!o.model)
        return usage_error(&program, "no model: -m FILE");
    if ((o.ids != NULL) + (o.perplexity != NULL) + o.tokenize + (o.chat != NULL) != 1)
        return usage_error(&program,
                           "one of --ids, --perplexity, --tokenize and --chat says what to do");
    if (o.perplexity && o.n_ctx == 1)
        return usage_error(&program, "-c 1: a window of a perplexity has at least 2 tokens");
    if (o.ids && !results)
        return usage_error(&program, "--ids needs --logits, --hidden or --greedy");
    if (o.greedy >= 0 && (o.logits || o.hidden))
        return usage_error(&program, "--greedy does not go with --logits and --hidden");
    if (!o.ids && (results || o.split || o.decode_from >= 0))
        return usage_error(&program, "--logits, --hidden, --greedy, --split and --decode-from go "
                                     "with --ids");
    if (!o.ids && o.plan)
        return usage_error(&program, "--plan goes with --ids");
    if (!o.ids && !o.perplexity && o.lora.n)
        return usage_error(&program, "--lora goes with --ids and --perplexity");
    if (!o.chat && (o.no_think || o.format))
        return usage_error(&program, "--no-think and --chat-format go with --chat");
    if (o.format && !hlm_is_chat_format(o.format))
        return usage_error(&program, "--chat-format: '%s' is none of " HLM_CHAT_FORMATS, o.format);

    rc = o.ids ? run_ids(&err) : o.perplexity ? run_perplexity(&err) : run_text(&err);
    if (rc == RC_USAGE && err.kind)
        usage_error(&program, "%s", err.msg);
    else if (err.kind)
        rc = ui_failed(&err);
    else if (rc == RC_FAILED && ui_interrupted()) /* while lines were read */
        rc = RC_INTERRUPTED;
    return ui_end(rc);
}
