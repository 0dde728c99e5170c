/* frame: see frame.h. */
#define _POSIX_C_SOURCE 200809L
#include "frame.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SIDE_W 224.0f /* of the list of runs */
#define STRIP_W 48.0f /* the same, where there is little room: marks alone */
#define WIDE_W 800.0f /* from which on the list has its full width */
#define HEAD_H 100.0f /* of title and tabs */
#define MARGIN 20.0f

/* ---- making ---------------------------------------------------------------------------------- */

struct frame *frame_create(struct draw *d, const struct theme *t)
{
    struct frame *f = ui_alloc(1, sizeof *f);
    bool ok = f;
    for (uint32_t i = 0; ok && i < n_panel && i < FRAME_MAX_PANEL; i++)
        if (panel_table[i]->keep)
            ok = (f->panel[i].keep = ui_alloc(1, panel_table[i]->keep)) != NULL;
    if (!ok) {
        frame_destroy(f);
        return NULL;
    }
    f->gui.d = d;
    f->gui.t = t;
    return f;
}

static void forget_still(struct frame *f)
{
    for (uint32_t i = 0; i < f->n_still; i++)
        run_destroy(f->still[i]);
    f->n_still = 0;
}

void frame_destroy(struct frame *f)
{
    if (!f)
        return;
    forget_still(f);
    for (uint32_t i = 0; i < FRAME_MAX_PANEL; i++)
        free(f->panel[i].keep);
    free(f);
}

void frame_note(struct frame *f, double now_s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->note, sizeof f->note, fmt, ap);
    va_end(ap);
    f->note_end_s = now_s + 4;
}

/* ---- which run ------------------------------------------------------------------------------- */

int frame_chosen(const struct frame *f, const struct frame_in *in)
{
    for (uint32_t i = 0; i < in->n_run; i++)
        if (f->by_hand && in->run[i] == f->chosen)
            return (int)i;
    return in->newest < (int)in->n_run ? in->newest : -1;
}

static void choose(struct frame *f, const struct frame_in *in, uint32_t i)
{
    f->chosen = in->run[i];
    f->by_hand = true;
}

/* The newest first, as the list shows them. */
static uint32_t shown_at(const struct frame_in *in, uint32_t i) { return in->n_run - 1 - i; }

/* ---- the list at the left -------------------------------------------------------------------- */

static const char *model_of(const struct run *r)
{
    return r->model[0] ? r->model : r->now.model[0] ? r->now.model : "no model yet";
}

static void list_item(struct gui *g, SDL_FRect r, const struct run *run, bool chosen)
{
    const struct theme *t = g->t;
    bool gone = run->life != RUN_ALIVE;
    char since[32];
    float x = r.x + 34, w = r.w - 34 - 12;
    widget_mark(g, r.x + 18, r.y + 17, 10, state_mark(run), state_color(t, run));
    show_since(run->t, since, sizeof since);
    float sw = draw_label(g->d, (SDL_FRect){ x, r.y + 8, w, 18 }, ALIGN_RIGHT, FACE_SMALL, t->faint,
                          since);
    draw_label(g->d, (SDL_FRect){ x, r.y + 8, w - sw - 8, 18 }, ALIGN_LEFT, FACE_STRONG,
               gone ? t->muted : t->text, run->program[0] ? run->program : "a log");
    draw_label(g->d, (SDL_FRect){ x, r.y + 26, w, 16 }, ALIGN_LEFT, FACE_SMALL,
               gone     ? t->faint
               : chosen ? t->text
                        : t->muted,
               model_of(run));
    draw_label(g->d, (SDL_FRect){ x, r.y + 42, w, 16 }, ALIGN_LEFT, FACE_SMALL,
               gone ? t->faint : t->muted, run_state_word(run));
}

static void item_tip(struct gui *g, const struct run *run)
{
    char since[32], pid[32] = "";
    show_since(run->t, since, sizeof since);
    if (run->pid)
        SDL_snprintf(pid, sizeof pid, "\nprocess\t%llu", (unsigned long long)run->pid);
    gui_tip(g, "%s\nmodel\t%.60s\nstate\t%s\nfor\t%s%s", run->program, model_of(run),
            run_state_word(run), since, pid);
}

static void list(struct frame *f, const struct frame_in *in, SDL_FRect r, int chosen)
{
    struct gui *g = &f->gui;
    bool strip = r.w < 100;
    float item = strip ? 40 : 66, top = strip ? 12 : 56;
    draw_box(g->d, r, g->t->side);
    draw_post(g->d, r.x + r.w - 1, r.y, r.h, g->t->border);
    if (!strip) {
        draw_label(g->d, (SDL_FRect){ r.x + 18, r.y + 14, 100, 28 }, ALIGN_LEFT, FACE_TITLE,
                   g->t->text, "hlm");
        draw_label(g->d, (SDL_FRect){ r.x + 18, r.y + 16, r.w - 34, 28 }, ALIGN_RIGHT, FACE_SMALL,
                   g->t->faint, "? keys");
    }
    SDL_FRect body = { r.x, r.y + top, r.w - 1, r.h - top };
    uint64_t id = gui_id(f, 1);
    SDL_FRect at = widget_scroll_begin(g, id, body, &f->list);
    for (uint32_t k = 0; k < in->n_run; k++) {
        uint32_t i = shown_at(in, k);
        SDL_FRect line = { at.x + 6, at.y + (float)k * item, at.w - 12, item - 2 };
        unsigned did = gui_touch(g, gui_id(in->run[i], 0), line);
        bool is = (int)i == chosen;
        if (is || did & GUI_HOVER)
            draw_round(g->d, line, 7,
                       draw_alpha(g->t->dark ? g->t->raised : g->t->card, is ? 1 : 0.5f));
        if (is)
            draw_round(g->d, (SDL_FRect){ line.x, line.y + 10, 3, line.h - 20 }, 1.5f,
                       g->t->accent);
        if (strip)
            widget_mark(g, line.x + line.w / 2, line.y + line.h / 2, 12, state_mark(in->run[i]),
                        state_color(g->t, in->run[i]));
        else
            list_item(g, line, in->run[i], is);
        if (strip && did & GUI_HOVER)
            item_tip(g, in->run[i]);
        if (did & GUI_FOCUS)
            widget_focus_ring(g, line, 7);
        if (did & GUI_CLICK && !f->paused) {
            choose(f, in, i);
            gui_again(g, 0);
        }
    }
    widget_scroll_end(g, id, body, &f->list, (float)in->n_run * item + 8);
}

/* ---- the head -------------------------------------------------------------------------------- */

static void head(struct frame *f, SDL_FRect r, const struct run *run)
{
    struct gui *g = &f->gui;
    const struct theme *t = g->t;
    char sub[320], when[48] = "";
    float right = 0;
    if (f->paused) {
        SDL_FRect pill = { r.x + r.w - 78, r.y + 16, 78, 24 };
        draw_round(g->d, pill, 12, t->accent);
        draw_label(g->d, pill, ALIGN_CENTER, FACE_STRONG, t->on_accent, "Paused");
        right = 90;
    }
    draw_label(g->d, (SDL_FRect){ r.x, r.y + 12, r.w - right, 26 }, ALIGN_LEFT, FACE_TITLE, t->text,
               model_of(run));
    if (run->start_unix) {
        time_t at = (time_t)run->start_unix;
        struct tm tm;
        if (localtime_r(&at, &tm))
            strftime(when, sizeof when, "  \u00b7  since %H:%M", &tm);
    }
    SDL_snprintf(sub, sizeof sub, "%s%s%.100s%s", run->program[0] ? run->program : "a log",
                 run->now.device[0] ? "  \u00b7  " : "", run->now.device, when);
    if (run->pid)
        SDL_snprintf(sub + strlen(sub), sizeof sub - strlen(sub), "  \u00b7  process %llu",
                     (unsigned long long)run->pid);
    else if (run->path[0]) {
        const char *name = strrchr(run->path, '/');
        SDL_snprintf(sub + strlen(sub), sizeof sub - strlen(sub), "  \u00b7  %.120s",
                     name ? name + 1 : run->path);
    }
    draw_label(g->d, (SDL_FRect){ r.x, r.y + 38, r.w - right, 18 }, ALIGN_LEFT, FACE_TEXT, t->muted,
               sub);
}

static void tabs(struct frame *f, SDL_FRect r)
{
    struct gui *g = &f->gui;
    float need = 0, x = r.x - 10;
    draw_rule(g->d, r.x, r.y + r.h - 1, r.w, g->t->border);
    for (uint32_t i = 0; i < n_panel; i++)
        need += widget_tab_width(g, panel_table[i]->title);
    float squeeze = need > r.w + 20 ? (need - r.w - 20) / (float)n_panel : 0;
    for (uint32_t i = 0; i < n_panel; i++) {
        float w = widget_tab_width(g, panel_table[i]->title) - squeeze;
        SDL_FRect at = { x, r.y, w, r.h };
        if (widget_tab(g, gui_id(panel_table[i], 0), at, panel_table[i]->title, i == f->open) ||
            gui_key(g, SDLK_1 + (int)i)) {
            f->open = i;
            gui_again(g, 0);
        }
        x += w;
    }
}

/* ---- when nothing runs, and the list of keys ------------------------------------------------- */

static void command_line(struct gui *g, SDL_FRect r, const char *text, const char *what)
{
    draw_framed(g->d, r, 8, g->t->card, g->t->border);
    float w = draw_label(g->d, (SDL_FRect){ r.x + 16, r.y, r.w - 32, r.h }, ALIGN_LEFT, FACE_STRONG,
                         g->t->text, text);
    draw_label(g->d, (SDL_FRect){ r.x + 32 + w, r.y, r.w - w - 48, r.h }, ALIGN_RIGHT, FACE_SMALL,
               g->t->faint, what);
}

static void nothing(struct frame *f, const struct frame_in *in)
{
    struct gui *g = &f->gui;
    float w = fminf(in->w - 2 * MARGIN, 560), x = (in->w - w) / 2, y = in->h / 2 - 150;
    /* A curve at rest. */
    SDL_FPoint rest[41];
    for (int i = 0; i < 41; i++) {
        float u = ((float)i - 20) / 7;
        rest[i] = (SDL_FPoint){ in->w / 2 + ((float)i - 20) * 3, y + 40 - 26 * expf(-u * u) };
    }
    draw_area(g->d, rest, 41, y + 41, 0.1f, draw_alpha(g->t->accent, 0.3f));
    draw_line(g->d, rest, 41, 2, g->t->accent);
    y += 66;
    draw_label(g->d, (SDL_FRect){ x, y, w, 30 }, ALIGN_CENTER, FACE_FIGURE, g->t->text,
               "Nothing is running");
    y += 34;
    draw_label(g->d, (SDL_FRect){ x, y, w, 20 }, ALIGN_CENTER, FACE_TEXT, g->t->muted,
               "Start a program of hlm, and it appears here by itself");
    y += 40;
    command_line(g, (SDL_FRect){ x, y, w, 40 }, "hlm-chat -m model.gguf", "a conversation");
    y += 48;
    command_line(g, (SDL_FRect){ x, y, w, 40 }, "hlm-tune -m model.gguf -d data.jsonl -o out.gguf",
                 "a training");
    y += 56;
    draw_label(g->d, (SDL_FRect){ x, y, w, 20 }, ALIGN_CENTER, FACE_SMALL, g->t->faint,
               "or drop a file that --log-json has written on this window");
    if (in->refusal && *in->refusal)
        draw_label(g->d, (SDL_FRect){ MARGIN, in->h - 40, in->w - 2 * MARGIN, 20 }, ALIGN_CENTER,
                   FACE_SMALL, g->t->warn, in->refusal);
}

static const char *const key_help[][2] = {
    { "1 2 3 \u2026", "open a panel" },
    { "Tab  arrows  Enter", "move, and choose" },
    { "Space", "pause the picture" },
    { "drag  Shift+wheel", "zoom in time" },
    { "0  double click", "see all of the time" },
    { "+  \u2212  Ctrl+wheel", "larger, smaller" },
    { "c  right click", "copy the data as CSV" },
    { "p", "write the picture as PNG" },
    { "t", "dark or light" },
    { "n", "the newest run" },
    { "x", "in Runs: over steps or time" },
    { "?  Esc", "this list" },
    { "q", "leave" },
};

static void help(struct frame *f, const struct frame_in *in)
{
    struct gui *g = &f->gui;
    float line = 26, h = (float)ARRAY_LEN(key_help) * line + 64, w = fminf(in->w - 40, 400);
    SDL_FRect r = { (in->w - w) / 2, fmaxf((in->h - h) / 2, 8), w, fminf(h, in->h - 16) };
    draw_box(g->d, (SDL_FRect){ 0, 0, in->w, in->h }, draw_alpha(g->t->back, 0.75f));
    draw_framed(g->d, r, 10, g->t->card, g->t->border);
    line = (r.h - 64) / (float)ARRAY_LEN(key_help);
    draw_label(g->d, (SDL_FRect){ r.x + 24, r.y + 14, w, 28 }, ALIGN_LEFT, FACE_TITLE, g->t->text,
               "Keys");
    for (uint32_t i = 0; i < ARRAY_LEN(key_help); i++) {
        SDL_FRect at = { r.x + 24, r.y + 50 + (float)i * line, 150, line };
        draw_label(g->d, at, ALIGN_LEFT, FACE_STRONG, g->t->accent, key_help[i][0]);
        at.x += 158;
        at.w = w - 24 - 24 - 158;
        draw_label(g->d, at, ALIGN_LEFT, FACE_TEXT, g->t->text, key_help[i][1]);
    }
}

static void note(struct frame *f, const struct frame_in *in)
{
    struct gui *g = &f->gui;
    if (!f->note[0] || in->now_s >= f->note_end_s)
        return;
    float w = fminf(draw_text_width(g->d, FACE_TEXT, f->note) + 34, in->w - 40);
    SDL_FRect r = { (in->w - w) / 2, in->h - 56, w, 36 };
    draw_framed(g->d, r, 8, g->t->raised, g->t->border);
    draw_label(g->d, (SDL_FRect){ r.x + 16, r.y, r.w - 32, r.h }, ALIGN_CENTER, FACE_TEXT,
               g->t->text, f->note);
    gui_again(g, f->note_end_s - in->now_s);
}

/* ---- pausing --------------------------------------------------------------------------------- */

static void pause_or_go_on(struct frame *f, const struct frame_in *in, int chosen)
{
    f->paused = !f->paused;
    forget_still(f);
    if (!f->paused)
        return;
    for (uint32_t i = 0; i < in->n_run && i < FRAME_MAX_RUN; i++) {
        struct run *copy = run_copy(in->run[i]);
        if (!copy)
            break;
        f->still[f->n_still++] = copy;
    }
    f->i_still = chosen >= 0 ? (uint32_t)chosen : 0;
    if (chosen < 0 || f->i_still >= f->n_still) {
        forget_still(f);
        f->paused = false;
    }
}

/* ---- the picture ----------------------------------------------------------------------------- */

/* What is shown: while paused, the runs as they were. Returns the index of the chosen one. */
static int shown(const struct frame *f, const struct frame_in *in, struct frame_in *out)
{
    *out = *in;
    if (!f->paused)
        return frame_chosen(f, in);
    out->run = f->still;
    out->n_run = f->n_still;
    return (int)f->i_still;
}

static void panel_input(struct frame *f, const struct frame_in *in, int chosen,
                        struct run **newest_first, struct panel_in *out)
{
    uint32_t n = ui_min_u32(in->n_run, FRAME_MAX_RUN);
    for (uint32_t i = 0; i < n; i++)
        newest_first[i] = in->run[shown_at(in, i)];
    *out = (struct panel_in){ .g = &f->gui,
                              .run = in->run[chosen],
                              .all = newest_first,
                              .n_all = n,
                              .view = &f->panel[f->open].view,
                              .keep = f->panel[f->open].keep };
}

static void body(struct frame *f, const struct frame_in *in, SDL_FRect r, int chosen)
{
    struct run *newest_first[FRAME_MAX_RUN];
    struct gui *g = &f->gui;
    struct panel_in pi;
    panel_input(f, in, chosen, newest_first, &pi);
    SDL_FRect top = { r.x + MARGIN, r.y, r.w - 2 * MARGIN, HEAD_H };
    head(f, top, pi.run);
    tabs(f, (SDL_FRect){ top.x, r.y + 64, top.w, 36 });
    panel_input(f, in, chosen, newest_first, &pi); /* a tab may have been chosen */
    struct frame_panel *p = &f->panel[f->open];
    SDL_FRect area = { r.x, r.y + HEAD_H, r.w, r.h - HEAD_H };
    SDL_FRect at = widget_scroll_begin(g, gui_id(f, 100 + f->open), area, &p->scroll);
    SDL_FRect in_margin = { at.x + MARGIN, at.y + 16, at.w - 2 * MARGIN, area.h - 16 - MARGIN };
    float used = panel_table[f->open]->draw(&pi, in_margin);
    widget_scroll_end(g, gui_id(f, 100 + f->open), area, &p->scroll, used + 16 + MARGIN);
    graph_view_end(g, &p->view);
}

static unsigned keys(struct frame *f, const struct frame_in *in)
{
    static const struct {
        int key;
        unsigned did;
    } row[] = {
        { SDLK_c, FRAME_COPY },        { SDLK_p, FRAME_PNG },
        { SDLK_q, FRAME_QUIT },        { SDLK_PLUS, FRAME_LARGER },
        { SDLK_EQUALS, FRAME_LARGER }, { SDLK_KP_PLUS, FRAME_LARGER },
        { SDLK_MINUS, FRAME_SMALLER }, { SDLK_KP_MINUS, FRAME_SMALLER },
        { SDLK_t, FRAME_THEME },
    };
    struct gui *g = &f->gui;
    int chosen = frame_chosen(f, in);
    unsigned did = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++)
        if (gui_key(g, row[i].key))
            did |= row[i].did;
    if (g->in.right && (chosen >= 0 || f->paused))
        did |= FRAME_COPY;
    if (gui_key(g, SDLK_QUESTION) || (f->help && (gui_key(g, SDLK_ESCAPE) || g->in.pressed))) {
        f->help = !f->help;
        gui_again(g, 0);
    }
    if (gui_key(g, SDLK_SPACE)) {
        pause_or_go_on(f, in, chosen);
        gui_again(g, 0);
    }
    if (gui_key(g, SDLK_n)) {
        f->by_hand = false;
        gui_again(g, 0);
    }
    return did;
}

unsigned frame_draw(struct frame *f, const struct frame_in *in, const struct gui_input *input)
{
    struct gui *g = &f->gui;
    struct frame_in at = *in, now;
    at.w = fmaxf(in->w, FRAME_MIN_W);
    at.h = fmaxf(in->h, FRAME_MIN_H);
    in = &at;
    gui_begin(g, input, in->now_s);
    draw_clear(g->d, g->t->back);
    draw_clip(g->d, (SDL_FRect){ 0, 0, in->w, in->h });
    unsigned did = keys(f, in);
    int chosen = shown(f, in, &now);
    in = &now;
    if (chosen >= 0) {
        float side = in->w < WIDE_W ? STRIP_W : SIDE_W;
        list(f, in, (SDL_FRect){ 0, 0, side, in->h }, chosen);
        body(f, in, (SDL_FRect){ side, 0, in->w - side, in->h }, chosen);
    } else {
        nothing(f, in);
    }
    if (f->help)
        help(f, in);
    note(f, in);
    gui_end(g);
    draw_unclip(g->d);
    return did;
}

bool frame_csv(struct frame *f, const struct frame_in *in, FILE *to)
{
    struct run *newest_first[FRAME_MAX_RUN];
    struct panel_in pi;
    struct frame_in now;
    int chosen = shown(f, in, &now);
    if (chosen < 0)
        return false;
    panel_input(f, &now, chosen, newest_first, &pi);
    panel_table[f->open]->csv(&pi, to);
    return true;
}
