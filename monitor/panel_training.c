/* panel_training: how a training learns - loss, validation, rate, gradient norm, speed - and what
 * it has said and saved on the way. All graphs are over steps. */
#include "panels.h"
#include "smooth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WIDE_W 700.0f   /* from which on answers and checkpoints stand side by side */
#define GRAPH_W 270.0f  /* the least that a small graph needs */
#define SMALL_H 168.0f  /* of the card of a small graph */
#define LISTS_H 236.0f  /* of answers and checkpoints */
#define ANSWER_LINES 4  /* of one answer */
#define FOOT_MARKS 128u /* checkpoints that are marked below the loss */

struct keep {
    struct scroll answers;
    struct table_state saved;
};

/* Steps after which a point of the smoothed loss counts half: more in a long training, where more
 * steps share a pixel. */
static double half_of(const struct run *r)
{
    const struct run_series *s = &r->series[SERIES_LOSS];
    double steps = s->n ? s->p[s->n - 1].step - s->p[0].step : 0;
    return fmin(fmax(steps / 60, 2), 60);
}

/* The largest norm that a gradient keeps; 0: not known, or none. */
static double clip_of(const struct run *r)
{
    if (r->clip_norm > 0)
        return r->clip_norm;
    for (uint32_t i = 0; i < r->n_setting; i++)
        if (strcmp(r->setting[i].name, "--clip") == 0) {
            double v = SDL_strtod(r->setting[i].value, NULL);
            return v > 0 && v < 1e18 ? v : 0;
        }
    return 0;
}

/* ---- figures --------------------------------------------------------------------------------- */

/* Of the steps that are known one by one. */
static void clipped_text(const struct run *r, char *out, size_t size)
{
    const struct run_series *s = &r->series[SERIES_NORM];
    double clip = clip_of(r);
    uint32_t n = 0, above = 0;
    for (uint32_t i = s->n; i-- > 0 && s->p[i].n_point == 1; n++)
        above += (double)s->p[i].v > clip;
    if (clip <= 0)
        SDL_snprintf(out, size, "before clipping");
    else
        SDL_snprintf(out, size, n < s->n ? "%u of last %u clipped" : "%u of %u clipped", above, n);
}

static void progress_tiles(const struct panel_in *in, struct tile t[2], char text[4][48])
{
    const struct run *r = in->run;
    char all[32];
    show_count((double)r->now.step, text[0], sizeof text[0]);
    show_count((double)r->now.n_step, all, sizeof all);
    SDL_snprintf(text[1], sizeof text[1], "of %s", all);
    if (r->n_epoch > 0)
        SDL_snprintf(text[1], sizeof text[1], "of %s, epoch %.2f of %.3g", all, r->epoch,
                     r->n_epoch);
    else if (r->epoch > 0)
        SDL_snprintf(text[1], sizeof text[1], "of %s, epoch %.0f", all, floor(r->epoch) + 1);
    double part = r->now.n_step ? (double)r->now.step / (double)r->now.n_step : 0;
    t[0] = (struct tile){ "Step", text[0], NULL, text[1], (float)part, state_color(in->g->t, r) };
    bool left = r->life == RUN_ALIVE && r->left_s >= 0;
    char ran[32];
    show_clock(r->t, ran, sizeof ran);
    SDL_snprintf(text[2], sizeof text[2], "%s", left ? span_text(r->left_s).s : ran);
    SDL_snprintf(text[3], sizeof text[3], left ? "running for %s" : "%s",
                 left                   ? ran
                 : r->life == RUN_ALIVE ? "and running"
                                        : run_state_word(r));
    t[1] = (struct tile){ left ? "Time left" : "Time taken", text[2], NULL, text[3], -1, { 0 } };
}

static float figures(const struct panel_in *in, SDL_FRect r, double loss)
{
    const struct run *run = in->run;
    const struct hlm_counters *c = &run->now;
    char v[4][48], below[4][64], progress[4][48], n[32];
    struct tile t[6] = { 0 };
    progress_tiles(in, t, progress);
    double newest = run_newest(run, SERIES_LOSS), valid = run_newest(run, SERIES_VALID);
    SDL_snprintf(v[0], sizeof v[0], loss >= 0 ? "%.3f" : "-", loss);
    SDL_snprintf(below[0], sizeof below[0],
                 run->loss_broken ? "newest not finite" : "newest step %.3f", newest);
    t[2] = (struct tile){ "Smoothed loss", v[0], NULL, below[0], -1, { 0 } };
    SDL_snprintf(v[1], sizeof v[1], valid >= 0 ? "%.3f" : "-", valid);
    show_count((double)run->best_step, n, sizeof n);
    SDL_snprintf(below[1], sizeof below[1], run->n_valid ? "best %.3f at %s" : "none yet",
                 run->best_valid, n);
    t[3] = (struct tile){ "Validation loss", v[1], NULL, below[1], -1, { 0 } };
    SDL_snprintf(v[2], sizeof v[2], "%.3g", c->grad_norm);
    clipped_text(run, below[2], sizeof below[2]);
    t[4] = (struct tile){ "Gradient norm", v[2], NULL, below[2], -1, { 0 } };
    show_rate(run_newest(run, SERIES_TRAIN), v[3], sizeof v[3]);
    show_count((double)c->n_counted, n, sizeof n);
    SDL_snprintf(below[3], sizeof below[3], "learnt from %s", n);
    t[5] = (struct tile){ "Speed", v[3], "tok/s", below[3], -1, { 0 } };
    return panel_tiles(in, r, t, ARRAY_LEN(t));
}

/* ---- graphs ---------------------------------------------------------------------------------- */

/* The steps that any of the graphs shows, so that all have the same axis. */
static void steps_of(const struct run *r, struct graph *gr)
{
    static const enum run_series_id of[] = { SERIES_LOSS, SERIES_VALID, SERIES_NORM };
    gr->x_min = INFINITY;
    gr->x_max = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(of); i++) {
        const struct run_series *s = &r->series[of[i]];
        if (s->n) {
            gr->x_min = fmin(gr->x_min, s->p[0].step);
            gr->x_max = fmax(gr->x_max, s->p[s->n - 1].step);
        }
    }
    if (gr->x_min >= gr->x_max)
        gr->x_min = gr->x_max - 1;
    gr->x_max += 0.01 * (gr->x_max - gr->x_min); /* the last point is whole */
}

/* A ring around the best validation, and a square at the foot for each checkpoint. */
static void mark_loss(const struct panel_in *in, SDL_FRect at, const struct graph *gr)
{
    struct gui *g = in->g;
    const struct run *r = in->run;
    struct graph_map m = graph_map(g, at, gr, in->view);
    draw_clip(g->d, (SDL_FRect){ m.plot.x - 8, m.plot.y, m.plot.w + 16, m.plot.h + 5 });
    for (uint32_t i = r->n_saved - ui_min_u32(r->n_saved, FOOT_MARKS); i < r->n_saved; i++) {
        float x = graph_at(&m, (double)r->saved[i].step, m.y0).x;
        if (x >= m.plot.x - 1 && x <= m.plot.x + m.plot.w + 1)
            widget_mark(g, x, m.plot.y + m.plot.h, 7, MARK_SQUARE, g->t->muted);
    }
    if (r->n_valid) {
        SDL_FPoint p = graph_at(&m, (double)r->best_step, r->best_valid);
        if (p.x >= m.plot.x - 1 && p.x <= m.plot.x + m.plot.w + 1 && isfinite(p.y))
            draw_ring(g->d, p.x, p.y, 7.5f, 2, g->t->good);
    }
    draw_unclip(g->d);
}

static void loss_graph(const struct panel_in *in, SDL_FRect r, const struct smooth *smoothed)
{
    const struct run *run = in->run;
    const struct theme *t = in->g->t;
    struct graph_series s[3] = {
        panel_series(run, SERIES_LOSS, "each step", GRAPH_FAINT, t->accent, true),
        smooth_series(smoothed, "smoothed", GRAPH_LINE, t->accent),
        panel_series(run, SERIES_VALID, "validation", GRAPH_POINTS, t->series[1], true),
    };
    char word[48];
    SDL_snprintf(word, sizeof word, "best %.3f", run->best_valid);
    struct graph_mark best = { (double)run->best_step, word, t->good };
    struct graph gr = { .title = "Loss",
                        .unit = "nats a token, by step",
                        .series = s,
                        .n_series = ARRAY_LEN(s),
                        .mark = &best,
                        .n_mark = run->n_valid > 0,
                        .show_x = show_count,
                        .empty = "No loss was finite yet" };
    steps_of(run, &gr);
    SDL_FRect at = panel_card(in, r, NULL, NULL);
    widget_graph(in->g, gui_id(&panel_training, 0), at, &gr, in->view);
    if (run->series[SERIES_LOSS].n)
        mark_loss(in, at, &gr);
}

static void norm_graph(const struct panel_in *in, SDL_FRect at, struct graph *gr)
{
    const struct run *run = in->run;
    const struct theme *t = in->g->t;
    double clip = clip_of(run);
    struct graph_point end[2] = { { gr->x_min, (float)clip, (float)clip, (float)clip },
                                  { gr->x_max, (float)clip, (float)clip, (float)clip } };
    struct smooth above = { 0 }, level = { end, 2 };
    if (clip > 0)
        smooth_above(&above, &run->series[SERIES_NORM], clip);
    struct graph_series s[3] = {
        panel_series(run, SERIES_NORM, NULL, GRAPH_LINE, t->accent, true),
        smooth_series(&level, "limit", GRAPH_FAINT, t->warn),
        smooth_series(&above, "clipped", GRAPH_POINTS, t->warn),
    };
    s[2].hidden = true; /* its newest value may be long ago */
    gr->title = "Gradient norm";
    gr->series = s;
    gr->n_series = clip > 0 ? 3 : 1;
    gr->from_zero = true;
    widget_graph(in->g, gui_id(&panel_training, SERIES_NORM), at, gr, in->view);
    smooth_free(&above);
}

/* "1.5e-4", which is short enough for an axis. */
static void show_lr(double v, char *out, size_t size)
{
    int e = v > 0 ? (int)floor(log10(v) + 1e-9) : 0;
    if (v > 0 && (e < -2 || e > 3))
        SDL_snprintf(out, size, "%.3ge%d", v / pow(10, e), e);
    else
        SDL_snprintf(out, size, "%.3g", v);
}

static void small_graph(const struct panel_in *in, SDL_FRect r, enum run_series_id id)
{
    const struct run *run = in->run;
    const struct theme *t = in->g->t;
    SDL_FRect at = panel_card(in, r, NULL, NULL);
    struct graph gr = { .show_x = show_count, .empty = "Nothing is known of it yet" };
    steps_of(run, &gr);
    if (id == SERIES_NORM) {
        norm_graph(in, at, &gr);
        return;
    }
    struct graph_series s =
        panel_series(run, id, NULL, id == SERIES_LOSS_MTP ? GRAPH_LINE : GRAPH_AREA,
                     id == SERIES_LOSS_MTP ? t->series[4] : t->accent, true);
    gr.series = &s;
    gr.n_series = 1;
    gr.from_zero = id != SERIES_LOSS_MTP;
    gr.title = id == SERIES_RATE    ? "Learning rate"
               : id == SERIES_TRAIN ? "Training speed"
                                    : "MTP loss";
    gr.unit = id == SERIES_TRAIN ? "tok/s" : id == SERIES_LOSS_MTP ? "nats a token" : NULL;
    gr.show_y = id == SERIES_RATE ? show_lr : id == SERIES_TRAIN ? show_rate : NULL;
    widget_graph(in->g, gui_id(&panel_training, id), at, &gr, in->view);
}

/* As many beside one another as fit; the last row is as wide as the others. */
static float small_graphs(const struct panel_in *in, SDL_FRect r)
{
    static const enum run_series_id id[] = { SERIES_RATE, SERIES_NORM, SERIES_TRAIN,
                                             SERIES_LOSS_MTP };
    uint32_t n = in->run->series[SERIES_LOSS_MTP].n ? 4 : 3;
    uint32_t cols = ui_min_u32((uint32_t)fmaxf((r.w + PANEL_GAP) / (GRAPH_W + PANEL_GAP), 1), n);
    uint32_t rows = (n + cols - 1) / cols;
    cols = (n + rows - 1) / rows;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t in_row = i / cols == rows - 1 ? n - cols * (rows - 1) : cols;
        float w = (r.w - PANEL_GAP * (float)(in_row - 1)) / (float)in_row;
        small_graph(in,
                    (SDL_FRect){ r.x + (float)(i % cols) * (w + PANEL_GAP),
                                 r.y + (float)(i / cols) * (SMALL_H + PANEL_GAP), w, SMALL_H },
                    id[i]);
    }
    return (float)rows * (SMALL_H + PANEL_GAP) - PANEL_GAP;
}

/* ---- answers and checkpoints ----------------------------------------------------------------- */

static float answer(const struct panel_in *in, SDL_FRect r, const struct run_answer *a)
{
    struct gui *g = in->g;
    char step[48], n[32];
    float small = draw_line_height(g->d, FACE_SMALL), line = draw_line_height(g->d, FACE_TEXT);
    show_count((double)a->step, n, sizeof n);
    SDL_snprintf(step, sizeof step, "step %s", n);
    float w = draw_label(g->d, (SDL_FRect){ r.x, r.y, r.w, small }, ALIGN_RIGHT, FACE_SMALL,
                         g->t->faint, step);
    draw_label(g->d, (SDL_FRect){ r.x, r.y, r.w - w - 10, small }, ALIGN_LEFT, FACE_SMALL,
               g->t->muted, a->prompt);
    SDL_FRect text = { r.x, r.y + small + 1, r.w, ANSWER_LINES * line };
    return small + 1 + draw_prose(g->d, text, FACE_TEXT, g->t->text, a->text) + 10;
}

/* The newest first; while a graph is pointed at, from that step on back. */
static void answers_card(const struct panel_in *in, SDL_FRect r)
{
    struct gui *g = in->g;
    struct keep *k = in->keep;
    const struct run *run = in->run;
    uint64_t id = gui_id(&panel_training, 100);
    bool cross = in->view->has_cross;
    SDL_FRect at = panel_card(in, r, "Sample answers",
                              cross && run->n_answer ? "up to the step pointed at"
                              : run->n_answer        ? "newest first"
                                                     : NULL);
    if (!run->n_answer) {
        draw_prose(g->d, at, FACE_TEXT, g->t->faint,
                   "None yet. With --sample TEXT hlm-tune answers a prompt of yours at every "
                   "validation, so that you see what it has learnt.");
        return;
    }
    SDL_FRect in_at = widget_scroll_begin(g, id, at, &k->answers);
    float y = in_at.y;
    for (uint32_t i = run->n_answer; i-- > 0;)
        if (!cross || (double)run->answer[i].step <= in->view->cross)
            y += answer(in, (SDL_FRect){ in_at.x, y, in_at.w, 0 }, &run->answer[i]);
    widget_scroll_end(g, id, at, &k->answers, y - in_at.y);
}

static void saved_cell(const void *of, uint32_t row, uint32_t col, struct table_cell *out)
{
    const struct run *r = of;
    const struct run_saved *s = &r->saved[r->n_saved - 1 - row]; /* the newest first */
    if (col == 0) {
        show_count((double)s->step, out->text, sizeof out->text);
        out->sort = (double)s->step;
    } else if (col == 1) {
        show_clock(s->t, out->text, sizeof out->text);
        out->sort = s->t;
    } else if (col == 2) {
        SDL_snprintf(out->text, sizeof out->text, "%s",
                     !s->adapter ? "checkpoint"
                     : s->best   ? "best adapter"
                                 : "adapter");
    } else {
        const char *base = strrchr(s->path, '/');
        SDL_strlcpy(out->text, base ? base + 1 : s->path, sizeof out->text);
    }
}

static void saved_card(const struct panel_in *in, SDL_FRect r)
{
    static const struct table_col col[] = { { "Step", 76, ALIGN_RIGHT, true },
                                            { "After", 76, ALIGN_RIGHT, true },
                                            { "What", 106, ALIGN_LEFT, false },
                                            { "File", 0, ALIGN_LEFT, false } };
    struct gui *g = in->g;
    struct keep *k = in->keep;
    const struct run *run = in->run;
    SDL_FRect at = panel_card(in, r, "Checkpoints", NULL);
    if (!run->n_saved) {
        draw_prose(g->d, at, FACE_TEXT, g->t->faint,
                   "None yet. Each is written here as it is saved; the training goes on from the "
                   "newest when it is started again.");
        return;
    }
    struct table t = {
        .col = col, .n_col = ARRAY_LEN(col), .n_row = run->n_saved, .cell = saved_cell, .of = run
    };
    int over = widget_table(g, gui_id(&panel_training, 101),
                            (SDL_FRect){ at.x - 10, at.y - 4, at.w + 20, at.h + 4 }, &t, &k->saved);
    if (over >= 0)
        gui_tip(g, "%s", run->saved[run->n_saved - 1 - (uint32_t)over].path);
}

static float lists(const struct panel_in *in, SDL_FRect r)
{
    if (r.w >= WIDE_W) {
        float w = (r.w - PANEL_GAP) / 2, h = fmaxf(r.h, LISTS_H);
        answers_card(in, (SDL_FRect){ r.x, r.y, w, h });
        saved_card(in, (SDL_FRect){ r.x + w + PANEL_GAP, r.y, w, h });
        return h;
    }
    answers_card(in, (SDL_FRect){ r.x, r.y, r.w, LISTS_H });
    saved_card(in, (SDL_FRect){ r.x, r.y + LISTS_H + PANEL_GAP, r.w, LISTS_H });
    return 2 * LISTS_H + PANEL_GAP;
}

/* ---- the panel ------------------------------------------------------------------------------- */

static float draw(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    if (!run->series[SERIES_LOSS].n && !run->series[SERIES_NORM].n && !run->n_valid)
        return run->now.n_step
                   ? panel_empty(in, r, "The first step is under way",
                                 "Loss, learning rate, gradient norm and speed begin with it.")
                   : panel_empty(in, r, "No training",
                                 "This fills when hlm-tune trains, or from the file that its\n"
                                 "--log-json has written: loss, learning rate, gradient norm,\n"
                                 "speed, sample answers, checkpoints.");
    struct smooth smoothed;
    smooth_make(&smoothed, &run->series[SERIES_LOSS], half_of(run), true);
    float y = r.y;
    y += figures(in, (SDL_FRect){ r.x, y, r.w, 0 }, smooth_newest(&smoothed)) + PANEL_GAP;
    /* The first look has the curves; answers and checkpoints are below where it is low. */
    float high = fminf(fmaxf(r.y + r.h - y - SMALL_H - PANEL_GAP, 240), 420);
    loss_graph(in, (SDL_FRect){ r.x, y, r.w, high }, &smoothed);
    y += high + PANEL_GAP;
    y += small_graphs(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;
    y += lists(in, (SDL_FRect){ r.x, y, r.w, r.y + r.h - y });
    smooth_free(&smoothed);
    return y - r.y;
}

static void csv(const struct panel_in *in, FILE *to)
{
    static const enum run_series_id id[] = { SERIES_LOSS, SERIES_LOSS_MTP, SERIES_VALID,
                                             SERIES_RATE, SERIES_NORM,     SERIES_TRAIN };
    static const char *const name[] = { "loss", "loss_mtp",  "valid_loss",
                                        "lr",   "grad_norm", "train_per_s" };
    csv_series(to, in->run, id, name, ARRAY_LEN(id));
}

const struct panel panel_training = {
    .name = "training", .title = "Training", .keep = sizeof(struct keep), .draw = draw, .csv = csv
};
