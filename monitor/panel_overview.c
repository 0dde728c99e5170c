/* panel_overview: what the run does, how far it is, whether it is healthy, and where memory and
 * time go: all of it at one look. What needs a person's attention comes right after the state. */
#include "panels.h"

#include <math.h>
#include <string.h>

#define BAR_H 22.0f     /* of the memory */
#define HALVES_W 560.0f /* from which on two graphs stand side by side */

/* ---- state and progress ---------------------------------------------------------------------- */

static const char *state_text(const struct run *r)
{
    static const char *const word[] = { "Idle",       "Loading",  "Reading",
                                        "Generating", "Training", "Validating" };
    return r->life == RUN_DIED    ? "Died"
           : r->life == RUN_ENDED ? "Ended"
           : !r->known            ? "Starting"
                                  : word[r->now.state];
}

/* What stands beside the state: figures of the work. */
static void detail(const struct run *r, char *out, size_t size)
{
    const struct hlm_counters *c = &r->now;
    char a[32], b[32];
    *out = 0;
    if (!r->known)
        return;
    if (c->n_step) {
        SDL_snprintf(out, size, "step %llu of %llu", (unsigned long long)c->step,
                     (unsigned long long)c->n_step);
        if (r->n_epoch > 0)
            SDL_snprintf(out + strlen(out), size - strlen(out), "  \u00b7  epoch %.2f of %.3g",
                         r->epoch, r->n_epoch);
    } else if (c->state == HLM_LOADING && c->total && r->life == RUN_ALIVE) {
        show_bytes((double)c->done, a, sizeof a);
        show_bytes((double)c->total, b, sizeof b);
        SDL_snprintf(out, size, "%s of %s", a, b);
    } else if (c->state == HLM_READING && c->total && r->life == RUN_ALIVE) {
        show_count((double)c->done, a, sizeof a);
        show_count((double)c->total, b, sizeof b);
        SDL_snprintf(out, size, "%s of %s tokens", a, b);
    } else {
        show_count((double)c->n_gen, a, sizeof a);
        show_count((double)c->n_read, b, sizeof b);
        SDL_snprintf(out, size, "%s tokens generated, %s read", a, b);
    }
}

/* How far the work is; where that is not measured, how full the context is, or that a training has
 * run to its end. */
static void progress(const struct panel_in *in, SDL_FRect r, bool measured, SDL_Color c)
{
    struct gui *g = in->g;
    const struct run *run = in->run;
    double part = run->part;
    bool context = !measured && !run->now.n_step && run->now.n_ctx;
    if (context)
        part = (double)run->now.n_used / run->now.n_ctx;
    else if (!measured)
        part = run->now.n_step ? (double)run->now.step / (double)run->now.n_step : 0;
    char text[48];
    SDL_snprintf(text, sizeof text, context ? "%.0f\u2009%% of the context" : "%.0f\u2009%%",
                 measured ? floor(100 * part) : 100 * part);
    float w =
        draw_label(g->d, (SDL_FRect){ r.x, r.y - 6, r.w, 20 }, ALIGN_RIGHT,
                   measured ? FACE_STRONG : FACE_SMALL, measured ? g->t->text : g->t->muted, text);
    r.w -= w + 12;
    widget_bar(g, r, (float)part, measured ? c : g->t->faint);
}

static float state_card(const struct panel_in *in, SDL_FRect r)
{
    struct gui *g = in->g;
    const struct run *run = in->run;
    char text[160], left[64] = "", span[32];
    float h = 92;
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, NULL, NULL);
    SDL_Color c = state_color(g->t, run);
    widget_mark(g, at.x + 8, at.y + 16, 14, state_mark(run), c);
    float w = draw_label(g->d, (SDL_FRect){ at.x + 26, at.y, at.w - 26, 32 }, ALIGN_LEFT,
                         FACE_FIGURE, g->t->text, state_text(run));
    detail(run, text, sizeof text);
    bool measured = run->life == RUN_ALIVE && run->part >= 0;
    if (measured && run->left_s >= 0)
        SDL_snprintf(left, sizeof left, "%s left", span_text(run->left_s).s);
    else if (run->life != RUN_ALIVE) {
        show_clock(run->t, span, sizeof span);
        SDL_snprintf(left, sizeof left, "ran for %s", span);
    } else {
        show_clock(run->t, span, sizeof span);
        SDL_snprintf(left, sizeof left, "running for %s", span);
    }
    float lw = draw_label(g->d, (SDL_FRect){ at.x, at.y, at.w, 32 }, ALIGN_RIGHT, FACE_TITLE,
                          measured ? g->t->text : g->t->muted, left);
    float x = at.x + 26 + w + 14;
    draw_text(g->d, FACE_TEXT, g->t->muted, x, at.y + 16 + draw_cap_height(g->d, FACE_FIGURE) / 2,
              x + draw_text_width(g->d, FACE_TEXT, text) < at.x + at.w - lw - 12 ? text : "");
    progress(in, (SDL_FRect){ at.x, at.y + at.h - 18, at.w, 8 }, measured, c);
    return h;
}

/* ---- what is unusual ------------------------------------------------------------------------- */

/* A capital letter, unless the text begins with the name of a file, a program or a tensor. */
static void begin_sentence(char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyz");
    if (n && (text[n] == ' ' || !text[n]))
        *text = (char)(*text - 'a' + 'A');
}

static float notices_card(const struct panel_in *in, SDL_FRect r, const struct run_notice *n,
                          uint32_t n_notice)
{
    struct gui *g = in->g;
    float line = draw_line_height(g->d, FACE_TEXT), inner = 0;
    for (uint32_t i = 0; i < n_notice; i++)
        inner += draw_prose(g->d, (SDL_FRect){ 0, 0, r.w - 2 * PANEL_PAD - 26, 4 * line },
                            FACE_TEXT, (SDL_Color){ 0 }, n[i].text) +
                 4;
    if (!n_notice)
        inner = line + 4;
    float h = panel_card_height(inner, false) - 4;
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, NULL, NULL);
    if (!n_notice) {
        widget_mark(g, at.x + 7, at.y + line / 2, 11, MARK_CHECK, g->t->good);
        draw_label(g->d, (SDL_FRect){ at.x + 26, at.y, at.w - 26, line }, ALIGN_LEFT, FACE_TEXT,
                   g->t->muted, "Nothing unusual");
    }
    for (uint32_t i = 0; i < n_notice; i++) {
        char text[sizeof n->text];
        SDL_strlcpy(text, n[i].text, sizeof text);
        begin_sentence(text);
        SDL_Color c = n[i].level == RUN_BAD    ? g->t->bad
                      : n[i].level == RUN_WARN ? g->t->warn
                                               : g->t->muted;
        widget_mark(g, at.x + 7, at.y + line / 2, 12,
                    n[i].level == RUN_BAD    ? MARK_CROSS
                    : n[i].level == RUN_WARN ? MARK_TRIANGLE
                                             : MARK_DISC,
                    c);
        at.y += draw_prose(g->d, (SDL_FRect){ at.x + 26, at.y, at.w - 26, 4 * line }, FACE_TEXT,
                           n[i].level == RUN_NOTE ? g->t->muted : g->t->text, text) +
                4;
    }
    return h;
}

/* ---- figures --------------------------------------------------------------------------------- */

static float figures(const struct panel_in *in, SDL_FRect r)
{
    const struct hlm_counters *c = &in->run->now;
    bool train = c->n_step > 0;
    char v[4][32], below[4][64], n[32], m[32];
    struct tile t[4] = { 0 };
    if (train) {
        show_rate(run_newest(in->run, SERIES_TRAIN), v[0], sizeof v[0]);
        SDL_snprintf(below[0], sizeof below[0], "without padding");
        double loss = run_newest(in->run, SERIES_LOSS), valid = run_newest(in->run, SERIES_VALID);
        SDL_snprintf(v[1], sizeof v[1], loss >= 0 ? "%.3f" : "-", loss);
        SDL_snprintf(below[1], sizeof below[1],
                     valid >= 0 ? "validation %.3f" : "not validated yet", valid);
        t[0] = (struct tile){ "Training", v[0], "tok/s", below[0], -1, { 0 } };
        t[1] = (struct tile){ "Loss", v[1], NULL, below[1], -1, { 0 } };
        show_count((double)c->n_counted, v[2], sizeof v[2]);
        t[2] = (struct tile){ "Tokens", v[2], NULL, "whose loss counted", -1, { 0 } };
    } else {
        show_rate(c->gen_per_s > 0 ? c->gen_per_s : -1, v[0], sizeof v[0]);
        show_count((double)c->n_gen, n, sizeof n);
        SDL_snprintf(below[0], sizeof below[0], "%s tokens in all", n);
        show_rate(c->read_per_s > 0 ? c->read_per_s : -1, v[1], sizeof v[1]);
        show_count((double)c->n_read, n, sizeof n);
        show_count((double)c->n_reused, m, sizeof m);
        SDL_snprintf(below[1], sizeof below[1], "%s tokens, %s reused", n, m);
        t[0] = (struct tile){ "Generating", v[0], "tok/s", below[0], -1, { 0 } };
        t[1] = (struct tile){ "Reading", v[1], "tok/s", below[1], -1, { 0 } };
        double part = c->n_ctx ? (double)c->n_used / c->n_ctx : 0;
        SDL_snprintf(v[2], sizeof v[2], c->n_ctx ? "%.0f" : "-", 100 * part);
        show_count(c->n_used, n, sizeof n);
        show_count(c->n_ctx, m, sizeof m);
        SDL_snprintf(below[2], sizeof below[2], c->n_ctx ? "%s of %s positions" : "none yet", n, m);
        t[2] = (struct tile){ "Context",
                              v[2],
                              "% full",
                              below[2],
                              c->n_ctx ? (float)part : -1,
                              part > 0.95 ? in->g->t->warn : in->g->t->accent };
    }
    uint64_t bytes = 0, budget = 0;
    for (uint32_t i = 0; i < in->run->n_device; i++) {
        bytes += in->run->device[i].real;
        budget += in->run->device[i].budget;
    }
    show_bytes((double)bytes, v[3], sizeof v[3]);
    char *unit = strchr(v[3], ' ');
    if (unit)
        *unit++ = 0;
    show_bytes((double)budget, n, sizeof n);
    SDL_snprintf(below[3], sizeof below[3], budget ? "of %s" : "on the device", n);
    double full = budget ? (double)bytes / (double)budget : -1;
    t[3] = (struct tile){
        "Memory",    v[3],
        unit,        below[3],
        (float)full, full > 0.9 ? in->g->t->bad : full > 0.8 ? in->g->t->warn : in->g->t->accent
    };
    return panel_tiles(in, r, t, 4);
}

/* ---- curves ---------------------------------------------------------------------------------- */

/* Two graphs side by side, or, where that is too narrow, one above the other. */
static SDL_FRect half(SDL_FRect r, int i)
{
    if (r.w >= HALVES_W)
        return (SDL_FRect){ r.x + (float)i * (r.w + PANEL_GAP) / 2, r.y, (r.w - PANEL_GAP) / 2,
                            r.h };
    return (SDL_FRect){ r.x, r.y + (float)i * (r.h + PANEL_GAP) / 2, r.w, (r.h - PANEL_GAP) / 2 };
}

static void curve(const struct panel_in *in, SDL_FRect r, int i, const struct graph *gr)
{
    SDL_FRect at = panel_card(in, half(r, i), NULL, NULL);
    widget_graph(in->g, gui_id(&panel_overview, (uint32_t)i), at, gr, in->view);
}

static void training_curves(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    const struct theme *t = in->g->t;
    struct graph_series loss[2] = {
        panel_series(run, SERIES_LOSS, "training", GRAPH_LINE, t->accent, false),
        panel_series(run, SERIES_VALID, "validation", GRAPH_POINTS, t->series[1], false),
    };
    struct graph_series speed = panel_series(run, SERIES_TRAIN, NULL, GRAPH_AREA, t->accent, false);
    struct graph gr = { .title = "Loss",
                        .series = loss,
                        .n_series = run->series[SERIES_VALID].n ? 2 : 1,
                        .x_min = panel_from(run),
                        .x_max = run->t,
                        .empty = "The curve begins with the first step" };
    curve(in, r, 0, &gr);
    gr.title = "Training speed";
    gr.unit = "tok/s";
    gr.series = &speed;
    gr.n_series = 1;
    gr.from_zero = true;
    gr.show_y = show_rate;
    curve(in, r, 1, &gr);
}

/* Reading is many times as fast as making tokens, so each has a scale of its own. */
static void token_curves(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    const struct theme *t = in->g->t;
    struct graph_series made = panel_series(run, SERIES_GEN, NULL, GRAPH_AREA, t->accent, false);
    struct graph_series read =
        panel_series(run, SERIES_READ, NULL, GRAPH_AREA, t->series[1], false);
    struct graph gr = { .title = "Generating",
                        .unit = "tok/s",
                        .series = &made,
                        .n_series = 1,
                        .x_min = panel_from(run),
                        .x_max = run->t,
                        .from_zero = true,
                        .show_y = show_rate,
                        .empty = "The curve begins with the first answer" };
    curve(in, r, 0, &gr);
    gr.title = "Reading";
    gr.series = &read;
    gr.empty = "The curve begins with the first prompt";
    curve(in, r, 1, &gr);
}

/* ---- memory ---------------------------------------------------------------------------------- */

struct memory {
    struct segment s[RUN_MAX_PURPOSE + 1];
    char value[RUN_MAX_PURPOSE + 1][24];
    uint32_t n;
    uint64_t whole; /* what the bar is of */
};

static void segments_of(const struct theme *t, const struct run_device *d, struct memory *m)
{
    m->whole = ui_max_u64(d->budget ? d->budget : d->heap, d->real);
    m->n = 0;
    for (uint32_t i = 0; i < d->n_purpose; i++, m->n++) {
        const struct run_purpose *p = &d->purpose[i];
        show_bytes((double)p->real, m->value[m->n], sizeof m->value[0]);
        m->s[m->n] = (struct segment){ p->name, m->value[m->n],
                                       m->whole ? (double)p->real / (double)m->whole : 0,
                                       purpose_color(t, p->name), false };
    }
    if (m->whole <= d->real)
        return;
    show_bytes((double)(m->whole - d->real), m->value[m->n], sizeof m->value[0]);
    m->s[m->n] =
        (struct segment){ "not used", m->value[m->n],
                          (double)(m->whole - d->real) / (double)m->whole, t->faint, true };
    m->n++;
}

/* Without a renderer's work: how high it will be. */
static float memory_height(const struct panel_in *in, float w, const struct run_device *d)
{
    struct memory m;
    segments_of(in->g->t, d, &m);
    return panel_card_height(BAR_H + 10 + widget_legend_height(in->g, w - 2 * PANEL_PAD, m.s, m.n),
                             true);
}

static float memory_card(const struct panel_in *in, SDL_FRect r, const struct run_device *d)
{
    struct gui *g = in->g;
    struct memory m;
    char right[128], title[160], a[24], b[24];
    segments_of(g->t, d, &m);
    show_bytes((double)d->real, a, sizeof a);
    show_bytes((double)m.whole, b, sizeof b);
    SDL_snprintf(right, sizeof right, d->budget ? "%s of the %s that it may use" : "%s", a, b);
    if (d->left) {
        show_bytes((double)d->left, b, sizeof b);
        SDL_snprintf(right + strlen(right), sizeof right - strlen(right), "  \u00b7  %s free", b);
    }
    SDL_snprintf(title, sizeof title, "Memory of %s", d->name);
    float h = memory_height(in, r.w, d);
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, title, right);
    int over = widget_segments(g, (SDL_FRect){ at.x, at.y, at.w, BAR_H }, m.s, m.n);
    widget_legend(g, (SDL_FRect){ at.x, at.y + BAR_H + 10, at.w, at.h }, m.s, m.n, over);
    if (over < 0)
        return h;
    char plan[32] = "";
    if ((uint32_t)over < d->n_purpose && d->purpose[over].plan)
        show_bytes((double)d->purpose[over].plan, plan, sizeof plan);
    gui_tip(g, "%s\nnow\t%s\nshare\t%.1f %%%s%s", m.s[over].name, m.value[over],
            100 * m.s[over].part, *plan ? "\nplanned\t" : "", plan);
    return h;
}

/* ---- the panel ------------------------------------------------------------------------------- */

static float draw(const struct panel_in *in, SDL_FRect r)
{
    struct run_notice notice[RUN_MAX_NOTICE];
    uint32_t n = run_notices(in->run, notice);
    bool urgent = n && notice[0].level != RUN_NOTE;
    float y = r.y;
    y += state_card(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;
    if (urgent)
        y += notices_card(in, (SDL_FRect){ r.x, y, r.w, 0 }, notice, n) + PANEL_GAP;
    y += figures(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;

    float below = urgent ? 0 : panel_card_height(20, false) + PANEL_GAP;
    for (uint32_t i = 0; i < in->run->n_device; i++)
        below += memory_height(in, r.w, &in->run->device[i]) + PANEL_GAP;
    float high = fmaxf(r.y + r.h - y - below, r.w < HALVES_W ? 332 : 170);
    (in->run->now.n_step ? training_curves : token_curves)(in, (SDL_FRect){ r.x, y, r.w, high });
    y += high + PANEL_GAP;
    for (uint32_t i = 0; i < in->run->n_device; i++)
        y += memory_card(in, (SDL_FRect){ r.x, y, r.w, 0 }, &in->run->device[i]) + PANEL_GAP;
    if (!urgent)
        y += notices_card(in, (SDL_FRect){ r.x, y, r.w, 0 }, notice, n) + PANEL_GAP;
    return y - PANEL_GAP - r.y;
}

static void csv(const struct panel_in *in, FILE *to)
{
    static const enum run_series_id id[] = { SERIES_READ, SERIES_GEN, SERIES_TRAIN, SERIES_MEMORY };
    static const char *const name[] = { "read_per_s", "gen_per_s", "train_per_s", "memory_bytes" };
    csv_series(to, in->run, id, name, ARRAY_LEN(id));
}

const struct panel panel_overview = {
    .name = "overview", .title = "Overview", .draw = draw, .csv = csv
};
