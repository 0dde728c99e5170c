/* widget_graph: curves over time or steps, with axes, a crosshair that all graphs of a panel share,
 * and a zoom. */
#include "widget.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEAD = 32, FOOT = 20, GUTTER = 46, MAX_TICK = 12 };

/* ---- axes ------------------------------------------------------------------------------------ */

uint32_t graph_ticks(double min, double max, uint32_t max_n, double *out)
{
    if (!(max > min) || max_n < 2 || !isfinite(max - min))
        return 0;
    double raw = (max - min) / (max_n - 1), unit = pow(10, floor(log10(raw)));
    double step = raw <= unit       ? unit
                  : raw <= 2 * unit ? 2 * unit
                  : raw <= 5 * unit ? 5 * unit
                                    : 10 * unit;
    uint32_t n = 0;
    for (double k = ceil(min / step - 1e-9); k * step <= max + 1e-9 * step && n < max_n; k++)
        out[n++] = k * step + 0.0; /* never -0 */
    return n;
}

/* Times in steps that clocks have; of less than a second there is none to be read. */
uint32_t graph_time_ticks(double min, double max, uint32_t max_n, double *out)
{
    static const double nice[] = { 1,   2,   5,    10,   15,   30,    60,    120,   300,
                                   600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400 };
    for (uint32_t i = 0; i < ARRAY_LEN(nice); i++) {
        if ((max - min) / nice[i] > (double)(max_n - 1))
            continue;
        uint32_t n = 0;
        for (double k = ceil(min / nice[i]); k * nice[i] <= max && n < max_n; k++)
            out[n++] = k * nice[i];
        return n;
    }
    return graph_ticks(min, max, max_n, out);
}

static uint32_t log_ticks(double min, double max, uint32_t max_n, double *out)
{
    static const double in_decade[] = { 1, 2, 5 };
    bool fine = log10(max / min) < 1.5;
    uint32_t n = 0;
    for (double decade = pow(10, floor(log10(min))); decade <= max && n < max_n; decade *= 10)
        for (uint32_t i = 0; i < (fine ? 3 : 1) && n < max_n; i++)
            if (decade * in_decade[i] >= min && decade * in_decade[i] <= max)
                out[n++] = decade * in_decade[i];
    return n;
}

static void default_x(double x, char *out, size_t size)
{
    long s = (long)x;
    if (s >= 3600)
        snprintf(out, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, size, "%ld:%02ld", s / 60, s % 60);
}

static void default_y(double y, char *out, size_t size)
{
    double a = fabs(y);
    if (a != 0 && (a >= 1e5 || a < 1e-3))
        snprintf(out, size, "%.1e", y);
    else
        snprintf(out, size, "%.*f", a >= 100 ? 0 : a >= 10 ? 1 : a >= 1 ? 2 : 3, y);
}

/* Of an axis, whose steps are round: without the zeros that do not matter. */
static void tick_y(double y, char *out, size_t size) { snprintf(out, size, "%.4g", y); }

/* ---- what is shown --------------------------------------------------------------------------- */

/* The first point at or after x. */
static uint32_t first_at(const struct graph_series *s, double x)
{
    uint32_t lo = 0, hi = s->n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (s->at(s->of, mid).x < x)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool graph_value(const struct graph_series *s, double x, struct graph_point *out)
{
    uint32_t i = first_at(s, x);
    if (i < s->n && s->at(s->of, i).x <= x)
        i++;
    if (i == 0)
        return false;
    *out = s->at(s->of, i - 1);
    return isfinite(out->y);
}

static void range_x(const struct graph *gr, const struct graph_view *v, struct graph_map *m)
{
    double min = INFINITY, max = -INFINITY;
    for (uint32_t i = 0; i < gr->n_series; i++) {
        const struct graph_series *s = &gr->series[i];
        if (s->n) {
            min = fmin(min, s->at(s->of, 0).x);
            max = fmax(max, s->at(s->of, s->n - 1).x);
        }
    }
    if (gr->x_max > gr->x_min) {
        min = gr->x_min;
        max = gr->x_max;
    }
    if (v && v->to > v->from) {
        min = v->from;
        max = v->to;
    }
    if (!isfinite(min) || !isfinite(max))
        min = max = 0;
    m->x0 = min;
    m->x1 = max > min ? max : min + 1;
}

static void range_y(const struct graph *gr, struct graph_map *m)
{
    double min = INFINITY, max = -INFINITY;
    for (uint32_t i = 0; i < gr->n_series; i++) {
        const struct graph_series *s = &gr->series[i];
        uint32_t k = first_at(s, m->x0);
        for (k = k ? k - 1 : 0; k < s->n; k++) {
            struct graph_point p = s->at(s->of, k);
            if (isfinite(p.y) && (!m->log || p.y > 0)) {
                min = fmin(min, (double)p.y);
                max = fmax(max, (double)p.y);
                if (isfinite(p.hi) && p.hi > p.y)
                    max = fmax(max, (double)p.hi);
                if (isfinite(p.lo) && p.lo < p.y && (!m->log || p.lo > 0))
                    min = fmin(min, (double)p.lo);
            }
            if (p.x > m->x1)
                break;
        }
    }
    if (!(max >= min))
        min = 0, max = 1;
    if (gr->from_zero)
        min = fmin(min, 0);
    if (gr->y_max > gr->y_min)
        min = gr->y_min, max = gr->y_max;
    if (m->log) {
        m->y0 = min / 1.15;
        m->y1 = max * 1.15;
        return;
    }
    if (max <= min)
        max = min + (min != 0 ? fabs(min) : 1);
    /* Up to a round level above, and a little air. */
    double tick[MAX_TICK];
    uint32_t n = gr->y_max > gr->y_min ? 0 : graph_ticks(min, max, 5, tick);
    double step = n >= 2 ? tick[1] - tick[0] : 0;
    if (step > 0) {
        double air = 0.06 * (max - min);
        max = ceil((max + air) / step) * step;
        double low = floor((min - air) / step) * step;
        min = min >= 0 && (gr->from_zero || low < 0)
                  ? 0
                  : low; /* nothing is below 0: nor is the axis */
    }
    m->y0 = min;
    m->y1 = max;
}

struct graph_map graph_map(struct gui *g, SDL_FRect r, const struct graph *gr,
                           const struct graph_view *v)
{
    float top = gr->title || gr->unit ? HEAD : 8, foot = r.h > 90 ? FOOT : 4;
    struct graph_map m = {
        .plot = draw_snap(g->d, (SDL_FRect){ r.x + GUTTER, r.y + top, fmaxf(r.w - GUTTER - 4, 8),
                                             fmaxf(r.h - top - foot, 8) }),
        .log = gr->log,
    };
    range_x(gr, v, &m);
    range_y(gr, &m);
    return m;
}

SDL_FPoint graph_at(const struct graph_map *m, double x, double y)
{
    double fx = (x - m->x0) / (m->x1 - m->x0);
    double fy = m->log ? (y > 0 ? log(y / m->y0) / log(m->y1 / m->y0) : (double)NAN)
                       : (y - m->y0) / (m->y1 - m->y0);
    /* What is far outside would only lose precision. */
    fx = fmin(fmax(fx, -4), 5);
    fy = isnan(fy) ? fy : fmin(fmax(fy, -4), 5);
    return (SDL_FPoint){ m->plot.x + (float)(fx * (double)m->plot.w),
                         m->plot.y + m->plot.h - (float)(fy * (double)m->plot.h) };
}

/* ---- drawing --------------------------------------------------------------------------------- */

static void axes(struct gui *g, const struct graph *gr, const struct graph_map *m, SDL_FRect r)
{
    double tick[MAX_TICK];
    char text[32];
    uint32_t most = (uint32_t)fminf(fmaxf(m->plot.h / 34, 3), 6);
    uint32_t n = m->log ? log_ticks(m->y0, m->y1, MAX_TICK, tick) : 0;
    for (uint32_t k = most; !m->log && n < 2 && k <= MAX_TICK; k++) /* one level says nothing */
        n = graph_ticks(m->y0, m->y1, k, tick);
    for (uint32_t i = 0; i < n; i++) {
        float y = graph_at(m, m->x0, tick[i]).y;
        draw_rule(g->d, m->plot.x, y, m->plot.w,
                  tick[i] == 0 || (i == 0 && !m->log) ? g->t->border : g->t->grid);
        (gr->show_y ? gr->show_y : tick_y)(tick[i], text, sizeof text);
        draw_label(g->d, (SDL_FRect){ r.x, y - 7, GUTTER - 8, 14 }, ALIGN_RIGHT, FACE_SMALL,
                   g->t->faint, text);
    }
    if (r.h <= 90)
        return;
    most = (uint32_t)fminf(fmaxf(m->plot.w / 90, 2), MAX_TICK);
    n = (gr->show_x ? graph_ticks : graph_time_ticks)(m->x0, m->x1, most, tick);
    for (uint32_t i = 0; i < n; i++) {
        float x = graph_at(m, tick[i], m->y0).x;
        (gr->show_x ? gr->show_x : default_x)(tick[i], text, sizeof text);
        float w = draw_text_width(g->d, FACE_SMALL, text) + 2;
        float left = fminf(fmaxf(x - w / 2, m->plot.x), m->plot.x + m->plot.w - w);
        draw_label(g->d, (SDL_FRect){ left, m->plot.y + m->plot.h + 4, w, 14 }, ALIGN_CENTER,
                   FACE_SMALL, g->t->faint, text);
    }
}

/* The points of a series as they are drawn: where several share a column of pixels, their least and
 * most, so that no peak is lost. */
static uint32_t shown(const struct graph_series *s, const struct graph_map *m, float scale,
                      SDL_FPoint *out, uint32_t max)
{
    uint32_t i = first_at(s, m->x0), n = 0;
    i = i ? i - 1 : 0;
    int column = INT32_MIN;
    for (; i < s->n && n + 2 <= max; i++) {
        struct graph_point p = s->at(s->of, i);
        SDL_FPoint at = graph_at(m, p.x, (double)p.y);
        int c = (int)(at.x * scale);
        if (!isfinite(p.y)) {
            out[n++] = (SDL_FPoint){ NAN, NAN };
            column = INT32_MIN;
        } else if (c != column) {
            out[n++] = at;
            column = c;
        } else {
            /* The column has one point, or two whose order does not matter. */
            bool two = n >= 2 && out[n - 2].x == out[n - 1].x;
            SDL_FPoint *lo = &out[two ? n - 2 : n - 1], *hi = &out[n - 1];
            at.x = lo->x;
            if (!two)
                out[n++] = at;
            else if (at.y > fmaxf(lo->y, hi->y))
                *(lo->y > hi->y ? lo : hi) = at;
            else if (at.y < fminf(lo->y, hi->y))
                *(lo->y < hi->y ? lo : hi) = at;
        }
        if (p.x > m->x1)
            break;
    }
    if (i == s->n && n && n < max && s->hold_to > s->at(s->of, s->n - 1).x) {
        out[n] = out[n - 1];
        out[n++].x = graph_at(m, s->hold_to, m->y0).x;
    }
    return n;
}

static void points(struct gui *g, const SDL_FPoint *p, uint32_t n, SDL_Color c)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(p[i].x))
            continue;
        draw_disc(g->d, p[i].x, p[i].y, 4.5f, g->t->card);
        draw_disc(g->d, p[i].x, p[i].y, 3.2f, c);
    }
}

static void curves(struct gui *g, const struct graph *gr, const struct graph_map *m)
{
    float scale = draw_scale(g->d);
    uint32_t max = 2 * (uint32_t)(m->plot.w * scale) + 16;
    SDL_FPoint *p = ui_alloc(max, sizeof *p);
    SDL_FRect clip = { m->plot.x - 1, m->plot.y - 2, m->plot.w + 3, m->plot.h + 3 };
    draw_clip(g->d, clip);
    for (uint32_t i = 0; p && i < gr->n_series; i++) {
        const struct graph_series *s = &gr->series[i];
        uint32_t n = shown(s, m, scale, p, max);
        float base = graph_at(m, m->x0, m->log || m->y0 > 0 ? m->y0 : 0).y;
        switch (s->style) {
        case GRAPH_AREA:
            draw_area(g->d, p, n, base, 0.12f, draw_alpha(s->color, 0.30f));
            draw_line(g->d, p, n, 1.6f, s->color);
            break;
        case GRAPH_LINE: draw_line(g->d, p, n, 1.8f, s->color); break;
        case GRAPH_FAINT: draw_line(g->d, p, n, 1, draw_alpha(s->color, 0.38f)); break;
        case GRAPH_POINTS: points(g, p, n, s->color); break;
        }
    }
    draw_unclip(g->d);
    free(p);
}

static void marks(struct gui *g, const struct graph *gr, const struct graph_map *m)
{
    for (uint32_t i = 0; i < gr->n_mark; i++) {
        const struct graph_mark *k = &gr->mark[i];
        float x = graph_at(m, k->x, m->y0).x;
        if (x < m->plot.x || x > m->plot.x + m->plot.w)
            continue;
        draw_post(g->d, x, m->plot.y, m->plot.h, draw_alpha(k->color, 0.6f));
        float w = draw_text_width(g->d, FACE_SMALL, k->word) + 2;
        bool left = x + w + 6 > m->plot.x + m->plot.w;
        draw_label(g->d, (SDL_FRect){ left ? x - w - 4 : x + 4, m->plot.y, w, 14 }, ALIGN_LEFT,
                   FACE_SMALL, k->color, k->word);
    }
}

/* ---- the head: title, and each series with its value at the crosshair, or the newest --------- */

static float legend_item(struct gui *g, const struct graph *gr, const struct graph_series *s,
                         double x, SDL_FRect r, bool draw)
{
    char text[96], value[32] = "-";
    struct graph_point p;
    if (graph_value(s, x, &p))
        (gr->show_y ? gr->show_y : default_y)((double)p.y, value, sizeof value);
    snprintf(text, sizeof text, "%s", s->name ? s->name : "");
    float wn = *text ? draw_text_width(g->d, FACE_SMALL, text) + 5 : 0;
    float wv = draw_text_width(g->d, FACE_SMALL, value), w = 14 + wn + wv + 1;
    if (!draw)
        return w;
    float left = r.x + r.w - w;
    if (s->style == GRAPH_POINTS)
        draw_disc(g->d, left + 4, r.y + r.h / 2, 3.2f, s->color);
    else
        draw_round(g->d, (SDL_FRect){ left, r.y + r.h / 2 - 1.5f, 9, 3 }, 1.5f,
                   s->style == GRAPH_FAINT ? draw_alpha(s->color, 0.5f) : s->color);
    draw_label(g->d, (SDL_FRect){ left + 14, r.y, wn + 1, r.h }, ALIGN_LEFT, FACE_SMALL,
               g->t->muted, text);
    draw_label(g->d, (SDL_FRect){ left + 14 + wn, r.y, wv + 1, r.h }, ALIGN_LEFT, FACE_SMALL,
               g->t->text, value);
    return w;
}

static void graph_head(struct gui *g, const struct graph *gr, const struct graph_map *m,
                       const struct graph_view *v, SDL_FRect r)
{
    SDL_FRect at = { r.x, r.y, r.w - 4, 20 };
    float w = 0;
    if (gr->title)
        w = draw_label(g->d, at, ALIGN_LEFT, FACE_STRONG, g->t->text, gr->title);
    if (gr->unit)
        w += 6 + draw_label(g->d, (SDL_FRect){ at.x + w + 6, at.y, fmaxf(at.w - w - 6, 0), at.h },
                            ALIGN_LEFT, FACE_SMALL, g->t->faint, gr->unit);
    bool cross = v && v->has_cross;
    double x = cross ? v->cross : v && v->to > v->from ? v->to : INFINITY;
    SDL_FRect right = at;
    for (uint32_t i = gr->n_series; i-- > 0;) {
        const struct graph_series *s = &gr->series[i];
        if (s->hidden || !s->n)
            continue;
        float need = legend_item(g, gr, s, x, right, false);
        if (right.w - need < w + 16)
            return;
        legend_item(g, gr, s, x, right, true);
        right.w -= need + 14;
    }
    if (cross && v->cross >= m->x0 && v->cross <= m->x1) {
        char text[32];
        (gr->show_x ? gr->show_x : default_x)(v->cross, text, sizeof text);
        if (right.w - draw_text_width(g->d, FACE_SMALL, text) > w + 16)
            draw_label(g->d, right, ALIGN_RIGHT, FACE_SMALL, g->t->faint, text);
    }
}

/* ---- the pointer ----------------------------------------------------------------------------- */

static double x_of(const struct graph_map *m, float at)
{
    double f = (double)((at - m->plot.x) / m->plot.w);
    return m->x0 + fmin(fmax(f, 0), 1) * (m->x1 - m->x0);
}

static void zoom(struct graph_view *v, double from, double to, const struct graph_map *all)
{
    double least = (all->x1 - all->x0) * 1e-4;
    if (to - from < least)
        return;
    if (from <= all->x0 && to >= all->x1)
        v->from = v->to = 0;
    else {
        v->from = fmax(from, all->x0);
        v->to = fmin(to, all->x1);
    }
}

static void pointer(struct gui *g, uint64_t id, const struct graph *gr, const struct graph_map *m,
                    struct graph_view *v)
{
    struct graph_map all = *m;
    range_x(gr, NULL, &all);
    unsigned did = gui_touch(g, id, m->plot);
    double x = x_of(m, g->in.x);
    if (did & GUI_HOVER) {
        v->has_next = true;
        v->next = x;
        v->keyed = false;
        if (g->in.wheel != 0 && !g->wheel_taken) {
            double f = pow(0.8, (double)g->in.wheel);
            zoom(v, x - (x - m->x0) * f, x + (m->x1 - x) * f, &all);
            g->wheel_taken = true;
            gui_again(g, 0);
        }
        if (g->in.doubled) {
            v->from = v->to = 0;
            gui_again(g, 0);
        } else if (did & GUI_CLICK && g->in.pressed) {
            v->drag = id;
            v->drag_from = x;
        }
    }
    if (did & GUI_FOCUS && (g->in.key == SDLK_LEFT || g->in.key == SDLK_RIGHT)) {
        double step = (m->x1 - m->x0) / 50;
        double from = v->has_cross ? v->cross : m->x1;
        v->next = fmin(fmax(from + (gui_key(g, SDLK_RIGHT) ? step : -step), m->x0), m->x1);
        gui_key(g, SDLK_LEFT);
        v->has_next = v->keyed = true;
    }
    if (v->drag != id)
        return;
    float a = graph_at(m, v->drag_from, m->y0).x, b = graph_at(m, x, m->y0).x;
    SDL_FRect sel = { fminf(a, b), m->plot.y, fabsf(b - a), m->plot.h };
    if (sel.w > 3)
        draw_box(g->d, sel, draw_alpha(g->t->accent, 0.18f));
    if (!g->in.down) {
        v->drag = 0;
        if (sel.w > 3)
            zoom(v, fmin(v->drag_from, x), fmax(v->drag_from, x), &all);
        gui_again(g, 0);
    }
}

static void crosshair(struct gui *g, const struct graph *gr, const struct graph_map *m,
                      const struct graph_view *v)
{
    if (!v->has_cross || v->cross < m->x0 || v->cross > m->x1)
        return;
    float x = graph_at(m, v->cross, m->y0).x;
    draw_post(g->d, x, m->plot.y, m->plot.h, draw_alpha(g->t->muted, 0.7f));
    for (uint32_t i = 0; i < gr->n_series; i++) {
        struct graph_point p;
        if (gr->series[i].hidden || gr->series[i].style == GRAPH_FAINT ||
            !graph_value(&gr->series[i], v->cross, &p))
            continue;
        const struct graph_series *se = &gr->series[i];
        bool held = p.x == se->at(se->of, se->n - 1).x && se->hold_to > p.x;
        SDL_FPoint at = graph_at(m, held ? fmin(v->cross, se->hold_to) : p.x, (double)p.y);
        if (at.x < m->plot.x - 1 || !isfinite(at.y))
            at.x = m->plot.x;
        draw_disc(g->d, at.x, at.y, 4.5f, g->t->card);
        draw_disc(g->d, at.x, at.y, 3, gr->series[i].color);
    }
}

void widget_graph(struct gui *g, uint64_t id, SDL_FRect r, const struct graph *gr,
                  struct graph_view *v)
{
    struct graph_map m = graph_map(g, r, gr, v);
    uint32_t n = 0;
    for (uint32_t i = 0; i < gr->n_series; i++)
        n += gr->series[i].n;
    draw_clip(g->d, r);
    graph_head(g, gr, &m, v, r);
    if (n == 0) {
        draw_rule(g->d, m.plot.x, m.plot.y + m.plot.h, m.plot.w, g->t->border);
        draw_label(g->d, m.plot, ALIGN_CENTER, FACE_TEXT, g->t->faint, gr->empty ? gr->empty : "");
        draw_unclip(g->d);
        return;
    }
    axes(g, gr, &m, r);
    marks(g, gr, &m);
    curves(g, gr, &m);
    crosshair(g, gr, &m, v);
    pointer(g, id, gr, &m, v);
    if (g->focus == id)
        widget_focus_ring(g, m.plot, 3);
    draw_unclip(g->d);
}

bool graph_view_end(struct gui *g, struct graph_view *v)
{
    if (gui_key(g, SDLK_0) || gui_key(g, SDLK_KP_0))
        v->from = v->to = 0;
    if (v->keyed && !v->has_next) { /* stays where the keys have put it */
        v->has_next = v->has_cross;
        v->next = v->cross;
    }
    bool other = v->has_next != v->has_cross || (v->has_next && v->next != v->cross);
    v->has_cross = v->has_next;
    v->cross = v->next;
    v->has_next = false;
    if (other)
        gui_again(g, 0);
    return other;
}
