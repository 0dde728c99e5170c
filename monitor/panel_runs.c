/* panel_runs: trainings beside one another - their losses over steps or over time, and of their
 * settings those that differ. */
#include "panels.h"
#include "smooth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = N_SERIES_COLOR, FIXED = 6, MOST_SETTING = TABLE_COLS - FIXED };
#define MOST_SMOOTH 12.0f /* of the slider; the weight halves every square of it steps */
#define SETTING_W 98.0f
#define NAME_W 150.0f
#define WIDE_W 640.0f   /* from which on the table has speed and time too */
#define HALVES_W 720.0f /* from which on the graphs stand side by side */
#define ROOM 28.0f      /* of the switches above the graphs */

struct keep {
    bool began, by_time;
    float smooth;
    uint32_t over; /* 1 + the run whose row was pointed at; 0: none */
    struct table_state table;
};

/* The trainings that are shown, and how they differ. */
struct runs {
    const struct run *run[MOST];
    char name[MOST][48];
    SDL_Color color[MOST];
    struct smooth loss[MOST];
    uint32_t n, n_more; /* n_more: trainings for which there is no room */
    const char *setting[MOST * RUN_MAX_SETTING];
    uint32_t n_setting;
    bool wide; /* the table has speed and time */
    uint32_t n_col_setting;
};

static bool is_training(const struct run *r) { return r->series[SERIES_LOSS].n > 0; }

/* Of a log its file's name; otherwise the program and its number. */
static void name_of(const struct run *r, char *out, size_t size)
{
    const char *base = strrchr(r->path, '/');
    base = base ? base + 1 : r->path;
    if (!*base) {
        SDL_snprintf(out, size, "%.24s %llu", r->program, (unsigned long long)r->pid);
        return;
    }
    SDL_snprintf(out, size, "%s", base);
    char *end = strstr(out, ".jsonl");
    if (end && end > out)
        *end = 0;
}

static const char *value_of(const struct run *r, const char *name)
{
    for (uint32_t i = 0; i < r->n_setting; i++)
        if (strcmp(r->setting[i].name, name) == 0)
            return r->setting[i].value;
    return "";
}

/* What files a run writes says nothing of the training. */
static bool differs(const struct runs *s, const char *name)
{
    if (strcmp(name, "--log-json") == 0 || strcmp(name, "--out") == 0)
        return false;
    for (uint32_t i = 1; i < s->n; i++)
        if (strcmp(value_of(s->run[0], name), value_of(s->run[i], name)) != 0)
            return true;
    return false;
}

static void find_settings(struct runs *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; k < s->run[i]->n_setting; k++) {
            const char *name = s->run[i]->setting[k].name;
            uint32_t at = 0;
            while (at < s->n_setting && strcmp(s->setting[at], name) != 0)
                at++;
            if (at == s->n_setting && differs(s, name))
                s->setting[s->n_setting++] = name;
        }
}

/* The newest ones. A colour belongs to a run's place among all trainings, the oldest first, so that
 * it stays when another begins. */
static void find_runs(const struct panel_in *in, struct runs *s)
{
    /* Neighbours differ most in lightness. */
    static const uint8_t order[N_SERIES_COLOR] = { 0, 1, 5, 4, 3, 6, 7, 2 };
    uint32_t n = 0;
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < in->n_all; i++)
        n += is_training(in->all[i]);
    for (uint32_t i = 0, k = 0; i < in->n_all; i++) {
        if (!is_training(in->all[i]))
            continue;
        if (s->n < MOST) {
            s->run[s->n] = in->all[i];
            s->color[s->n] = in->g->t->series[order[(n - 1 - k) % N_SERIES_COLOR]];
            name_of(in->all[i], s->name[s->n++], sizeof s->name[0]);
        }
        k++;
    }
    s->n_more = n - s->n;
    find_settings(s);
}

/* ---- switches -------------------------------------------------------------------------------- */

static void half_text(float smooth, char *out, size_t size)
{
    int n = (int)lroundf(smooth * smooth);
    if (n < 1)
        SDL_snprintf(out, size, "none");
    else
        SDL_snprintf(out, size, n == 1 ? "1 step" : "%d steps", n);
}

static void set_axis(const struct panel_in *in, bool by_time)
{
    struct keep *k = in->keep;
    if (k->by_time == by_time)
        return;
    k->by_time = by_time;
    in->view->from = in->view->to = 0; /* they were in the other's unit */
    in->view->has_cross = in->view->has_next = false;
    gui_again(in->g, 0);
}

static void switches(const struct panel_in *in, SDL_FRect r)
{
    struct gui *g = in->g;
    struct keep *k = in->keep;
    static const char *const name[2] = { "By step", "By time" };
    float x = r.x - 10;
    for (uint32_t i = 0; i < 2; i++) {
        float w = widget_tab_width(g, name[i]);
        if (widget_tab(g, gui_id(&panel_runs, 10 + i), (SDL_FRect){ x, r.y, w, ROOM }, name[i],
                       k->by_time == (i == 1)))
            set_axis(in, i == 1);
        x += w;
    }
    if (gui_key(g, SDLK_x))
        set_axis(in, !k->by_time);
    char text[32];
    half_text(k->smooth, text, sizeof text);
    float right = r.x + r.w, slider = fminf(150, r.w / 4);
    draw_label(g->d, (SDL_FRect){ right - 66, r.y, 66, ROOM }, ALIGN_RIGHT, FACE_SMALL, g->t->text,
               text);
    SDL_FRect at = { right - 76 - slider, r.y + 4, slider, ROOM - 8 };
    if (widget_slider(g, gui_id(&panel_runs, 12), at, &k->smooth, 0, MOST_SMOOTH))
        gui_again(g, 0);
    draw_label(g->d, (SDL_FRect){ at.x - 90, r.y, 80, ROOM }, ALIGN_RIGHT, FACE_SMALL, g->t->muted,
               "Smoothing");
}

/* ---- graphs ---------------------------------------------------------------------------------- */

static SDL_Color color_of(const struct keep *k, const struct runs *s, uint32_t i)
{
    bool other = k->over && k->over - 1 < s->n && k->over - 1 != i;
    return other ? draw_alpha(s->color[i], 0.25f) : s->color[i];
}

/* From the first step, or from the beginning, to the end of the longest. */
static void axis_of(const struct keep *k, const struct runs *s, struct graph *gr)
{
    gr->x_min = k->by_time ? 0 : INFINITY;
    gr->x_max = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        const struct run_series *of = &s->run[i]->series[SERIES_LOSS];
        const struct run_point *a = &of->p[0], *b = &of->p[of->n - 1];
        gr->x_min = fmin(gr->x_min, k->by_time ? 0 : a->step);
        gr->x_max = fmax(gr->x_max, k->by_time ? b->t : b->step);
    }
    if (gr->x_min >= gr->x_max)
        gr->x_min = gr->x_max - 1;
    gr->x_max += 0.01 * (gr->x_max - gr->x_min); /* the last point is whole */
    gr->show_x = k->by_time ? NULL : show_count;
}

/* The head has no room for the values of many. */
static void values_tip(const struct panel_in *in, SDL_FRect at, const struct graph_series *line,
                       const struct runs *s)
{
    const struct keep *k = in->keep;
    char tip[MAX_TIP], x[32];
    if (!in->view->has_cross || !gui_hover(in->g, at))
        return;
    (k->by_time ? show_clock : show_count)(in->view->cross, x, sizeof x);
    size_t n = (size_t)SDL_snprintf(tip, sizeof tip, k->by_time ? "%s" : "step %s", x);
    for (uint32_t i = 0; i < s->n && n + 80 < sizeof tip; i++) {
        struct graph_point p;
        if (graph_value(&line[i], in->view->cross, &p))
            n += (size_t)SDL_snprintf(tip + n, sizeof tip - n, "\n%s\t%.3f", s->name[i],
                                      (double)p.y);
    }
    gui_tip(in->g, "%s", tip);
}

static void loss_graph(const struct panel_in *in, SDL_FRect r, struct runs *s)
{
    struct keep *k = in->keep;
    struct graph_series line[2 * MOST];
    uint32_t n = 0;
    double half = (double)(k->smooth * k->smooth);
    for (uint32_t i = 0; i < s->n; i++)
        smooth_make(&s->loss[i], &s->run[i]->series[SERIES_LOSS], half, !k->by_time);
    for (uint32_t i = 0; half > 0 && i < s->n; i++) { /* as it was, below the others */
        line[n] = panel_series(s->run[i], SERIES_LOSS, NULL, GRAPH_FAINT,
                               draw_alpha(color_of(k, s, i), 0.5f), !k->by_time);
        line[n++].hidden = true;
    }
    for (uint32_t i = 0; i < s->n; i++)
        line[n++] = smooth_series(&s->loss[i], s->name[i], GRAPH_LINE, color_of(k, s, i));
    struct graph gr = { .title = "Training loss",
                        .unit = "nats",
                        .series = line,
                        .n_series = n,
                        .empty = "No loss was finite yet" };
    axis_of(k, s, &gr);
    SDL_FRect at = panel_card(in, r, NULL, NULL);
    widget_graph(in->g, gui_id(&panel_runs, 1), at, &gr, in->view);
    values_tip(in, at, line + n - s->n, s);
}

static void valid_graph(const struct panel_in *in, SDL_FRect r, const struct runs *s)
{
    struct keep *k = in->keep;
    struct graph_series line[2 * MOST];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        line[n++] = panel_series(s->run[i], SERIES_VALID, s->name[i], GRAPH_LINE, color_of(k, s, i),
                                 !k->by_time);
    for (uint32_t i = 0; i < s->n; i++) {
        line[n] = panel_series(s->run[i], SERIES_VALID, NULL, GRAPH_POINTS, color_of(k, s, i),
                               !k->by_time);
        line[n++].hidden = true;
    }
    struct graph gr = { .title = "Validation loss",
                        .unit = "nats",
                        .series = line,
                        .n_series = n,
                        .empty = "None of them was validated yet" };
    axis_of(k, s, &gr);
    SDL_FRect at = panel_card(in, r, NULL, NULL);
    widget_graph(in->g, gui_id(&panel_runs, 2), at, &gr, in->view);
    values_tip(in, at, line, s);
}

/* ---- the table ------------------------------------------------------------------------------- */

enum column { COL_NAME, COL_STEP, COL_LOSS, COL_VALID, COL_SPEED, COL_TIME, COL_SETTING };

/* What a column of the table shows; i_setting: which setting. */
static enum column column(const struct runs *s, uint32_t col, uint32_t *i_setting)
{
    if (col <= COL_VALID)
        return (enum column)col;
    *i_setting = col - COL_SPEED;
    if (*i_setting < s->n_col_setting)
        return COL_SETTING;
    return *i_setting == s->n_col_setting ? COL_SPEED : COL_TIME;
}

/* Numbers are compared as such, words by their letters. */
static void setting_cell(const char *value, struct table_cell *out)
{
    char *end;
    double v = SDL_strtod(value, &end);
    bool number = end != value && *end == 0 && isfinite(v);
    out->sort = number ? v : 0;
    SDL_strlcpy(out->text, *value ? value : "\u2013", sizeof out->text);
}

static void cell(const void *of, uint32_t row, uint32_t col, struct table_cell *out)
{
    const struct runs *s = of;
    const struct run *r = s->run[row];
    uint32_t i = 0;
    switch (column(s, col, &i)) {
    case COL_NAME:
        SDL_strlcpy(out->text, s->name[row], sizeof out->text);
        out->dot = s->color[row];
        break;
    case COL_STEP:
        out->sort = (double)r->now.step;
        show_count(out->sort, out->text, sizeof out->text);
        break;
    case COL_LOSS:
        out->sort = smooth_newest(&s->loss[row]);
        SDL_snprintf(out->text, sizeof out->text, "%.3f", out->sort);
        break;
    case COL_VALID:
        out->sort = r->n_valid ? r->best_valid : (double)NAN;
        SDL_snprintf(out->text, sizeof out->text, r->n_valid ? "%.3f" : "\u2013", out->sort);
        break;
    case COL_SPEED:
        out->sort = run_newest(r, SERIES_TRAIN);
        show_rate(out->sort, out->text, sizeof out->text);
        break;
    case COL_TIME:
        out->sort = r->t;
        show_clock(r->t, out->text, sizeof out->text);
        break;
    case COL_SETTING: setting_cell(value_of(r, s->setting[i]), out); break;
    }
}

static uint32_t columns(struct runs *s, float w, struct table_col *col)
{
    static const struct table_col first[] = { { "Run", 0, ALIGN_LEFT, false },
                                              { "Steps", 70, ALIGN_RIGHT, true },
                                              { "Loss", 74, ALIGN_RIGHT, false },
                                              { "Best valid.", 92, ALIGN_RIGHT, false } };
    static const struct table_col last[] = { { "tok/s", 76, ALIGN_RIGHT, true },
                                             { "Time", 84, ALIGN_RIGHT, true } };
    uint32_t n = ARRAY_LEN(first);
    float room = w - NAME_W - 70 - 74 - 92;
    s->wide = w >= WIDE_W;
    if (s->wide)
        room -= 76 + 84;
    memcpy(col, first, sizeof first);
    s->n_col_setting = room > 0 ? (uint32_t)(room / SETTING_W) : 0;
    s->n_col_setting = ui_min_u32(ui_min_u32(s->n_col_setting, s->n_setting), MOST_SETTING);
    for (uint32_t i = 0; i < s->n_col_setting; i++)
        col[n++] = (struct table_col){ s->setting[i] + strspn(s->setting[i], "-"), SETTING_W,
                                       ALIGN_RIGHT, false };
    if (s->wide) {
        memcpy(col + n, last, sizeof last);
        n += ARRAY_LEN(last);
    }
    return n;
}

/* A tooltip has every setting that differs, also those for which the table has no room. */
static void settings_tip(struct gui *g, const struct runs *s, uint32_t row)
{
    char tip[MAX_TIP];
    size_t n = (size_t)SDL_snprintf(tip, sizeof tip, "%s", s->name[row]);
    for (uint32_t i = 0; i < s->n_setting && n + 90 < sizeof tip; i++)
        n += (size_t)SDL_snprintf(tip + n, sizeof tip - n, "\n%.36s\t%.40s", s->setting[i],
                                  value_of(s->run[row], s->setting[i]));
    gui_tip(g, "%s", tip);
}

static float table_card(const struct panel_in *in, SDL_FRect r, struct runs *s)
{
    static struct table_col col[TABLE_COLS]; /* its heads are known by where they are */
    struct keep *k = in->keep;
    SDL_FRect at = { r.x + PANEL_PAD, r.y, r.w - 2 * PANEL_PAD + 20, 0 };
    struct table t = { .col = col, .n_row = s->n, .cell = cell, .of = s };
    t.n_col = columns(s, at.w, col);
    char right[96] = "";
    uint32_t more = s->n_setting - s->n_col_setting;
    if (s->n_more)
        SDL_snprintf(right, sizeof right, "the newest %u of %u", s->n, s->n + s->n_more);
    else if (s->n < 2)
        SDL_snprintf(right, sizeof right, "drop another log on the window to compare");
    else if (!s->n_setting)
        SDL_snprintf(right, sizeof right, "their settings are the same");
    else if (more)
        SDL_snprintf(right, sizeof right,
                     more == 1 ? "%u more setting differs: point at a row"
                               : "%u more settings differ: point at a row",
                     more);
    float h = fmaxf(r.h, panel_card_height(widget_table_height(in->g, &t), true));
    SDL_FRect inner = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h },
                                 s->n < 2 ? "Run" : "Runs, and what differs", right);
    int over = widget_table(in->g, gui_id(&panel_runs, 3),
                            (SDL_FRect){ inner.x - 10, inner.y, at.w, inner.h }, &t, &k->table);
    if (over >= 0)
        settings_tip(in->g, s, (uint32_t)over);
    uint32_t now = over >= 0 ? (uint32_t)over + 1 : k->table.chosen;
    if (now != k->over)
        gui_again(in->g, 0);
    k->over = now;
    return h;
}

/* ---- the panel ------------------------------------------------------------------------------- */

static float draw(const struct panel_in *in, SDL_FRect r)
{
    struct keep *k = in->keep;
    struct runs s;
    find_runs(in, &s);
    if (!s.n)
        return panel_empty(in, r, "No training to compare",
                           "This fills with each training that runs or has run: open the files\n"
                           "that --log-json has written, or drop them on this window.");
    if (!k->began)
        k->smooth = 3;
    k->began = true;
    float y = r.y;
    switches(in, (SDL_FRect){ r.x, y, r.w, ROOM });
    y += ROOM + PANEL_GAP;
    struct table all = { .n_row = s.n };
    float low = panel_card_height(widget_table_height(in->g, &all), true);
    bool halves = r.w >= HALVES_W;
    float high = fmaxf(r.y + r.h - y - low - PANEL_GAP, halves ? 260 : 460);
    float w = halves ? (r.w - PANEL_GAP) / 2 : r.w, h = halves ? high : (high - PANEL_GAP) / 2;
    loss_graph(in, (SDL_FRect){ r.x, y, w, h }, &s);
    valid_graph(
        in, (SDL_FRect){ halves ? r.x + w + PANEL_GAP : r.x, halves ? y : y + h + PANEL_GAP, w, h },
        &s);
    y += high + PANEL_GAP;
    y += table_card(in, (SDL_FRect){ r.x, y, r.w, 0 }, &s);
    for (uint32_t i = 0; i < s.n; i++)
        smooth_free(&s.loss[i]);
    return y - r.y;
}

static void csv_curve(FILE *to, const struct runs *s, uint32_t i, enum run_series_id id,
                      const char *name)
{
    const struct run_series *of = &s->run[i]->series[id];
    for (uint32_t k = 0; k < of->n; k++) {
        csv_text(to, s->name[i]);
        fprintf(to, ",%s,%.3f,%.0f,%.9g\n", name, of->p[k].t, of->p[k].step, (double)of->p[k].v);
    }
}

/* Settings that differ have no time and no step. */
static void csv(const struct panel_in *in, FILE *to)
{
    struct runs s;
    find_runs(in, &s);
    fputs("run,name,seconds,step,value\n", to);
    for (uint32_t i = 0; i < s.n; i++) {
        for (uint32_t k = 0; k < s.n_setting; k++) {
            csv_text(to, s.name[i]);
            fputc(',', to);
            csv_text(to, s.setting[k]);
            fputs(",,,", to);
            csv_text(to, value_of(s.run[i], s.setting[k]));
            fputc('\n', to);
        }
        csv_curve(to, &s, i, SERIES_LOSS, "loss");
        csv_curve(to, &s, i, SERIES_VALID, "valid_loss");
    }
}

const struct panel panel_runs = {
    .name = "runs", .title = "Runs", .keep = sizeof(struct keep), .draw = draw, .csv = csv
};
