/* chat_show: see chat_show.h. */
#include "chat_show.h"

#include "chat_keep.h"
#include "common_counters.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the banner ------------------------------------------------------------------------------ */

/* Adds to a line of n columns at most; what has no room is cut. */
UI_PRINTF(3, 4) static void add_part(char *line, size_t n, const char *fmt, ...)
{
    size_t at = strlen(line);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + at, n - at, fmt, ap);
    va_end(ap);
}

void show_banner(hlm *m, const hlm_talk *t, const struct adapters *a)
{
    struct hlm_info i = hlm_get_info(m);
    char line[80] = "", device[80];
    add_part(line, sizeof line, "%.28s on %.24s, %u tokens of context", i.name,
             device_name(i.device, device, sizeof device), hlm_session_n_ctx(hlm_talk_session(t)));
    ui_note("%s", line);
    line[0] = 0;
    for (uint32_t k = 0; k < a->n && k < 2; k++) {
        const char *slash = strrchr(a->l[k].path, '/');
        add_part(line, sizeof line - 30, "%s%.24s",
                 k          ? ", "
                 : a->n > 1 ? "adapters "
                            : "adapter ",
                 slash ? slash + 1 : a->l[k].path);
        if (a->l[k].scale != 1)
            add_part(line, sizeof line - 30, ":%g", (double)a->l[k].scale);
    }
    if (a->n > 2)
        add_part(line, sizeof line, " ...");
    if (hlm_talk_system(t))
        add_part(line, sizeof line, "%sa system message", *line ? "; " : "");
    add_part(line, sizeof line, "%s/help lists the commands", *line ? "; " : "");
    ui_note("%s", line);
}

/* ---- text of the model ----------------------------------------------------------------------- */

static void put_answer(void *user, const char *s, size_t n)
{
    (void)user;
    fwrite(s, 1, n, stdout);
}

static void put_error(void *user, const char *s, size_t n)
{
    (void)user;
    fwrite(s, 1, n, stderr);
}

static void put_dim(void *user, const char *s, size_t n)
{
    (void)user;
    ui_dim(s, n);
}

/* How text is laid out on one of the standard streams, which is a terminal. */
static void begin_prose(struct prose *p, FILE *to, bool markdown)
{
    p->put = to == stdout ? put_answer : markdown ? put_error : put_dim;
    p->cols = ui_columns(to);
    p->markdown = markdown && ui.escapes;
    p->color = ui.color;
}

/* Whole characters: those that could move the cursor or colour the screen are left out. */
static void add_prose(struct prose *p, const char *text, uint64_t n)
{
    char *clean = ui_alloc(n + 1, 3);
    if (clean)
        prose_text(p, clean, ui_clean(text, (size_t)n, clean));
    free(clean);
}

/* ---- while it runs --------------------------------------------------------------------------- */

static void end_reasoning(struct show *s)
{
    if (s->reasoning && ui_notes()) {
        prose_end(&s->prose);
        ui_dim("\n\n", s->line_open ? 2 : 1);
    } else if (ui_has_line()) {
        fputs("\r\033[K", stderr);
    }
    ui_undim();
}

static void show_reasoning(struct show *s, const char *text, uint64_t n)
{
    while (n && s->at != SHOW_REASONING && *text == '\n') { /* what follows the tag */
        text++;
        n--;
    }
    if (!n)
        return;
    if (s->reasoning && ui.tty) {
        begin_prose(&s->prose, stderr, false);
        add_prose(&s->prose, text, n);
    } else if (s->reasoning && ui_notes()) {
        ui_dim(text, n);
    } else if (s->at != SHOW_REASONING && ui_has_line()) {
        ui_dim("thinking ...", 12);
    }
    s->at = SHOW_REASONING;
    s->line_open = text[n - 1] != '\n';
}

static void on_text(void *user, enum hlm_part part, const char *text, uint64_t n)
{
    struct show *s = user;
    if (s->json)
        return;
    if (part == HLM_PART_REASONING) {
        show_reasoning(s, text, n);
        return;
    }
    if (s->at == SHOW_REASONING)
        end_reasoning(s);
    bar_clear();
    s->at = SHOW_CONTENT;
    s->line_open = text[n - 1] != '\n';
    if (ui.out_tty) {
        begin_prose(&s->prose, stdout, !s->raw);
        add_prose(&s->prose, text, n);
    } else {
        ui_text(stdout, text, n);
    }
    fflush(stdout);
}

static bool on_reading(void *user, uint64_t done, uint64_t total)
{
    struct show *s = user;
    return bar_progress(&s->bar, done, total);
}

static bool on_stopped(void *user)
{
    (void)user;
    bar_clear();
    return ui_interrupted();
}

void show_hook(struct show *s, struct hlm_talk_options *o)
{
    o->text = on_text;
    o->reading = on_reading;
    o->stopped = on_stopped;
    o->user = s;
}

void show_begin(struct show *s)
{
    s->at = SHOW_NOTHING;
    s->line_open = true; /* an empty answer is a line too */
    s->bar = (struct bar){ .what = "reading", .unit = "tok" };
}

/* ---- at the end of a turn -------------------------------------------------------------------- */

static double per_s(uint64_t n, double s) { return s > 0 ? (double)n / s : 0; }

static const char *const end_words[] = { "done", "limit", "full", "stopped", "stop" };

/* The answer as an object of JSON, or what went wrong. */
static void print_json(hlm_talk *t, bool ok, const struct hlm_talk_turn *u,
                       const struct hlm_err *err)
{
    uint32_t n = hlm_talk_n_message(t);
    struct hlm_message m = ok ? hlm_talk_message(t, n - 1) : (struct hlm_message){ 0 };
    json_t *o =
        ok ? json_pack("{s:o, s:o, s:s}", "text", keep_json_text(m.content), "reasoning",
                       m.reasoning ? keep_json_text(m.reasoning) : json_null(), "stop_reason",
                       end_words[u->end])
           : json_pack("{s:s, s:s}", "error", hlm_error_name(err->kind), "message", err->msg);
    json_t *figures = json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:I, s:f, s:f, s:f}", "prompt", (int)u->n_prompt,
        "read", (json_int_t)u->n_read, "reused", (json_int_t)u->n_reused, "reread",
        (json_int_t)u->n_reread, "generated", (json_int_t)u->n_gen, "reasoning",
        (json_int_t)u->n_reasoning, "used", (int)u->n_used, "n_ctx", (int)u->n_ctx, "seed",
        (json_int_t)u->seed, "read_s", u->read_s, "gen_s", u->gen_s, "first_s", u->first_s);
    if (ok)
        json_object_set(o, "figures", figures);
    char *line = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    printf("%s\n", line ? line : "{\"error\":\"memory\"}");
    fflush(stdout);
    free(line);
    json_decref(figures);
    json_decref(o);
}

static void log_turn(const hlm_talk *t, const struct hlm_talk_turn *u)
{
    struct hlm_stats m = hlm_session_stats(hlm_talk_session(t));
    char why[160];
    hlm_talk_why(u, why, sizeof why);
    counters_why(u->n_reread ? why : "");
    ui_event("turn",
             "{s:i, s:s, s:b, s:i, s:I, s:I, s:I, s:s, s:I, s:I, s:I,"
             " s:I, s:I, s:i, s:i, s:i, s:i, s:I, s:f, s:f, s:f, s:f, s:f,"
             " s:{s:I, s:I, s:I, s:I, s:I, s:I}}",
             "turn", (int)hlm_talk_get_total(t).n_turn, "end", end_words[u->end], "think",
             (int)hlm_talk_thinks(t), "prompt", (int)u->n_prompt, "read", (json_int_t)u->n_read,
             "reused", (json_int_t)u->n_reused, "reread", (json_int_t)u->n_reread, "why", why,
             "held", (json_int_t)u->found.n_cached, "same", (json_int_t)u->found.n_same,
             "snapshots", (json_int_t)m.n_snapshot, "generated", (json_int_t)u->n_gen, "reasoning",
             (json_int_t)u->n_reasoning, "dropped_turns", (int)u->n_dropped_turns, "dropped",
             (int)u->n_dropped, "used", (int)u->n_used, "n_ctx", (int)u->n_ctx, "seed",
             (json_int_t)u->seed, "read_s", u->read_s, "gen_s", u->gen_s, "first_s", u->first_s,
             "read_per_s", per_s(u->n_read + u->n_reread, u->read_s), "gen_per_s",
             per_s(u->n_gen, u->gen_s), "memory", "weights", (json_int_t)m.weight_bytes, "kv",
             (json_int_t)m.kv_bytes, "state", (json_int_t)m.state_bytes, "scratch",
             (json_int_t)m.scratch_bytes, "snapshot", (json_int_t)m.snapshot_bytes, "other",
             (json_int_t)m.other_bytes);
}

static void note_turn(const struct hlm_talk_turn *u)
{
    char reused[64] = "", reread[64] = "";
    if (u->n_reused)
        snprintf(reused, sizeof reused, ", %llu reused", (unsigned long long)u->n_reused);
    if (u->n_reread)
        snprintf(reread, sizeof reread, ", %llu again", (unsigned long long)u->n_reread);
    ui_note("[%llu tokens, %.1f/s; read %llu%s%s, %.2f s to the first; context %u used, %u left]",
            (unsigned long long)u->n_gen, per_s(u->n_gen, u->gen_s), (unsigned long long)u->n_read,
            reused, reread, u->first_s, u->n_used, u->n_ctx - u->n_used);
}

void show_error(const struct hlm_err *err, const struct hlm_talk_options *o)
{
    const char *help = "";
    if (err->kind == HLM_ERR_STOPPED)
        return;
    if (err->kind == HLM_ERR_FULL)
        help = o->stop_on_full ? "; /undo, /clear or a larger -c make room"
                               : ": a larger -c makes room";
    else if (err->kind == HLM_ERR_DEVICE_LOST)
        help = " (-b, -c)";
    ui_error("%s%s", err->msg, help);
}

void show_end(struct show *s, hlm_talk *t, bool ok, const struct hlm_talk_turn *turn,
              const struct hlm_err *err)
{
    bar_clear();
    if (s->at == SHOW_REASONING) {
        end_reasoning(s);
        s->line_open = true;
    }
    if (s->at == SHOW_CONTENT)
        prose_end(&s->prose);
    if (s->json)
        print_json(t, ok, turn, err);
    else if ((ok || s->at == SHOW_CONTENT) && s->line_open)
        putchar('\n');
    fflush(stdout);
    if (turn->n_dropped_turns)
        ui_say("%s: the context was full: dropped the oldest %u turn%s (%u tokens), read %llu "
               "tokens anew",
               ui.program, turn->n_dropped_turns, ui_s(turn->n_dropped_turns), turn->n_dropped,
               (unsigned long long)(turn->n_read + turn->n_reread));
    const struct hlm_talk_options *o = hlm_talk_options(t);
    if (!ok) {
        show_error(err, o);
        if (err->kind == HLM_ERR_STOPPED)
            ui_say("%s: stopped%s", ui.program,
                   s->once ? "" : "; the message is not in the history");
        return;
    }
    if (turn->end == HLM_TALK_FULL)
        ui_say("%s: the context of %u tokens is full: the answer ends here%s", ui.program,
               turn->n_ctx, o->stop_on_full ? "" : "; the next message drops the oldest turns");
    if (turn->end == HLM_TALK_LIMIT)
        ui_note("[ended after %d tokens: -n]", o->n_predict);
    if (s->figures == FIGURES_ON)
        note_turn(turn);
    log_turn(t, turn);
}

/* ---- when asked ------------------------------------------------------------------------------ */

/* As it was typed at the prompt. */
static void show_typed(const char *text)
{
    for (const char *prompt = ">>> "; text; prompt = "... ") {
        size_t n = strcspn(text, "\n");
        fprintf(stderr, "%s%s%s", ui.color ? "\033[1;36m" : "", prompt, ui.color ? "\033[0m" : "");
        ui_text(stderr, text, n);
        fputc('\n', stderr);
        text = text[n] ? text + n + 1 : NULL;
    }
}

static void show_said(const struct show *s, const char *text)
{
    struct prose p = { 0 };
    if (ui.tty) {
        begin_prose(&p, stderr, !s->raw);
        p.put = put_error;
        add_prose(&p, text, strlen(text));
        prose_end(&p);
    } else {
        ui_text(stderr, text, strlen(text));
    }
    fputc('\n', stderr);
}

void show_messages(const struct show *s, const hlm_talk *t, uint32_t n_turn)
{
    uint32_t all = hlm_talk_n_turn(t), skip = all > n_turn ? all - n_turn : 0, turn = 0;
    fflush(stdout);
    for (uint32_t i = 0; i < hlm_talk_n_message(t); i++) {
        struct hlm_message m = hlm_talk_message(t, i);
        bool user = strcmp(m.role, "user") == 0, system = strcmp(m.role, "system") == 0;
        turn += user;
        if (turn <= skip && !(system && !skip))
            continue;
        if (system)
            fputs("system: ", stderr);
        if (user)
            show_typed(m.content);
        else
            show_said(s, m.content);
    }
}

/* What of the context the history takes. After an undo the session still holds more. */
static uint32_t tokens_used(hlm_talk *t)
{
    uint32_t n, held = hlm_session_n_past(hlm_talk_session(t));
    return hlm_talk_count(t, &n, NULL) ? ui_min_u32(n, held) : held;
}

void show_stats(const struct show *show, hlm_talk *t)
{
    struct hlm_info i = hlm_get_info(show->model);
    const hlm_session *session = hlm_talk_session(t);
    struct hlm_stats s = hlm_session_stats(session);
    const struct hlm_talk_total total = hlm_talk_get_total(t), *u = &total;
    const struct hlm_talk_turn *last = &u->last;
    uint32_t used = tokens_used(t), n_ctx = hlm_session_n_ctx(session);
    ui_say("model     %s (%s, %s parameters) on %s", i.name, i.arch, num_short(i.n_param).s,
           i.device);
    ui_say("turns     %u in the history, %llu answered; context %u used, %u left",
           hlm_talk_n_turn(t), (unsigned long long)u->n_turn, used, n_ctx - used);
    ui_say("read      %llu tokens, %.1f/s; reused %llu, read again %llu",
           (unsigned long long)u->n_read, per_s(u->n_read + u->n_reread, u->read_s),
           (unsigned long long)u->n_reused, (unsigned long long)u->n_reread);
    char why[160];
    hlm_talk_why(last, why, sizeof why);
    if (u->n_turn)
        ui_say("last turn %llu read, %llu reused, %llu again%s%s", (unsigned long long)last->n_read,
               (unsigned long long)last->n_reused, (unsigned long long)last->n_reread,
               *why ? ": " : "", why);
    ui_say("snapshots %llu of at most %llu", (unsigned long long)s.n_snapshot,
           (unsigned long long)s.snapshot_max);
    ui_say("made      %llu tokens, %.1f/s; of them reasoning %llu", (unsigned long long)u->n_gen,
           per_s(u->n_gen, u->gen_s), (unsigned long long)u->n_reasoning);
    if (u->n_dropped_turns)
        ui_say("dropped   %llu turns of %llu tokens, to make room",
               (unsigned long long)u->n_dropped_turns, (unsigned long long)u->n_dropped);
    ui_say("memory    weights %s, adapters %s, KV %s, state %s, scratch %s, snapshots %s, other %s",
           num_bytes(s.weight_bytes).s, num_bytes(s.adapter_bytes).s, num_bytes(s.kv_bytes).s,
           num_bytes(s.state_bytes).s, num_bytes(s.scratch_bytes).s, num_bytes(s.snapshot_bytes).s,
           num_bytes(s.other_bytes).s);
    ui_say("device    %llu submissions, %llu recordings, %llu pipelines",
           (unsigned long long)s.n_submit, (unsigned long long)s.n_record,
           (unsigned long long)s.n_pipeline);
    ui_event("stats", "{s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "turns", (int)u->n_turn,
             "used", (int)used, "read", (json_int_t)u->n_read, "reused", (json_int_t)u->n_reused,
             "reread", (json_int_t)u->n_reread, "generated", (json_int_t)u->n_gen, "reasoning",
             (json_int_t)u->n_reasoning, "submissions", (json_int_t)s.n_submit, "recordings",
             (json_int_t)s.n_record, "pipelines", (json_int_t)s.n_pipeline);
    struct hlm_counters c;
    counters_get(show->model, &c);
    ui_say("now       %.1f/s read, %.1f/s made; %llu errors so far", c.read_per_s, c.gen_per_s,
           (unsigned long long)c.n_error);
    if (c.n_kernel)
        ui_kernels(show->model);
}
