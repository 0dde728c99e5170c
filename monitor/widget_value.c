/* widget_value: marks, bars, bars in segments with their legends, heat maps. */
#include "widget.h"

#include <math.h>

#define LEGEND_GAP 24.0f

void widget_mark(struct gui *g, float x, float y, float size, enum mark m, SDL_Color c)
{
    float r = size / 2, w = fmaxf(size / 5, 1.4f);
    switch (m) {
    case MARK_DISC: draw_disc(g->d, x, y, r, c); return;
    case MARK_RING: draw_ring(g->d, x, y, r, w, c); return;
    case MARK_SQUARE:
        draw_round(g->d, (SDL_FRect){ x - r * 0.85f, y - r * 0.85f, r * 1.7f, r * 1.7f }, 1.5f, c);
        return;
    case MARK_TRIANGLE: {
        SDL_FPoint p[3] = { { x, y - r },
                            { x - r * 1.05f, y + r * 0.85f },
                            { x + r * 1.05f, y + r * 0.85f } };
        draw_polygon(g->d, p, 3, c);
        return;
    }
    case MARK_CROSS: {
        float k = r * 0.75f;
        draw_line(g->d, (SDL_FPoint[]){ { x - k, y - k }, { x + k, y + k } }, 2, w, c);
        draw_line(g->d, (SDL_FPoint[]){ { x - k, y + k }, { x + k, y - k } }, 2, w, c);
        return;
    }
    case MARK_CHECK:
        draw_line(g->d,
                  (SDL_FPoint[]){ { x - r * 0.8f, y },
                                  { x - r * 0.2f, y + r * 0.6f },
                                  { x + r * 0.85f, y - r * 0.6f } },
                  3, w, c);
    }
}

/* ---- bars ------------------------------------------------------------------------------------ */

static float share(double part) { return part > 0 ? (part < 1 ? (float)part : 1) : 0; }

void widget_bar(struct gui *g, SDL_FRect r, float part, SDL_Color c)
{
    float radius = fminf(r.h / 2, 4);
    draw_round(g->d, r, radius, g->t->raised);
    SDL_FRect full = r;
    full.w = r.w * share((double)part);
    if (full.w * draw_scale(g->d) >= 0.5f)
        draw_round(g->d, full, radius, c);
}

int widget_segments(struct gui *g, SDL_FRect r, const struct segment *s, uint32_t n)
{
    int at = -1;
    double done = 0;
    draw_round(g->d, r, 4, g->t->raised);
    for (uint32_t i = 0; i < n; i++) {
        double end = done + (double)share(s[i].part);
        end = end < 1 ? end : 1;
        SDL_FRect part = { r.x + (float)(done * (double)r.w), r.y,
                           (float)((end - done) * (double)r.w), r.h };
        bool last = end >= 1;
        done = end;
        if (part.w <= 0)
            continue;
        if (gui_hover(g, part))
            at = (int)i;
        float gap = part.w > 3 && !last ? 1 : 0;
        part.w -= gap;
        if (s[i].hollow)
            continue;
        SDL_Color c = at == (int)i ? draw_mix(s[i].color, g->t->text, 0.2f) : s[i].color;
        /* The ends of the bar are round, what is between is not. */
        if (part.x <= r.x + 0.01f || last)
            draw_round(g->d, part, 4, c);
        else
            draw_box(g->d, part, c);
        if (part.x <= r.x + 0.01f && !last && part.w > 8)
            draw_box(g->d, (SDL_FRect){ part.x + 5, part.y, part.w - 5, part.h }, c);
        if (part.x > r.x + 0.01f && last && part.w > 8)
            draw_box(g->d, (SDL_FRect){ part.x, part.y, part.w - 5, part.h }, c);
    }
    return at;
}

struct legend {
    uint32_t cols, rows;
    float wide, high; /* of an entry */
};

static struct legend legend_of(struct gui *g, float w, const struct segment *s, uint32_t n)
{
    struct legend l = { .high = draw_line_height(g->d, FACE_TEXT) + 2 };
    for (uint32_t i = 0; i < n; i++)
        l.wide = fmaxf(l.wide, draw_text_width(g->d, FACE_TEXT, s[i].name) +
                                   draw_text_width(g->d, FACE_STRONG, s[i].value) + 32);
    float most = fmaxf((w + LEGEND_GAP) / (l.wide + LEGEND_GAP), 1);
    l.cols = ui_max_u32(ui_min_u32((uint32_t)most, n), 1);
    /* As even as it goes: five in rows of three and two, not of four and one. */
    l.rows = (n + l.cols - 1) / l.cols;
    l.cols = l.rows ? (n + l.rows - 1) / l.rows : 1;
    l.wide = fminf(l.wide, w);
    return l;
}

float widget_legend_height(struct gui *g, float w, const struct segment *s, uint32_t n)
{
    struct legend l = legend_of(g, w, s, n);
    return (float)l.rows * l.high;
}

void widget_legend(struct gui *g, SDL_FRect r, const struct segment *s, uint32_t n, int strong)
{
    struct legend l = legend_of(g, r.w, s, n);
    for (uint32_t i = 0; i < n; i++) {
        SDL_FRect at = { r.x + (float)(i % l.cols) * (l.wide + LEGEND_GAP),
                         r.y + (float)(i / l.cols) * l.high, l.wide, l.high };
        SDL_FRect swatch = { at.x, at.y + l.high / 2 - 5, 10, 10 };
        if (s[i].hollow)
            draw_framed(g->d, swatch, 2.5f, g->t->card, g->t->faint);
        else
            draw_round(g->d, swatch, 2.5f, s[i].color);
        float vw = draw_label(g->d, (SDL_FRect){ at.x + 16, at.y, at.w - 16, l.high }, ALIGN_RIGHT,
                              strong == (int)i ? FACE_STRONG : FACE_TEXT, g->t->text, s[i].value);
        draw_label(g->d, (SDL_FRect){ at.x + 17, at.y, at.w - vw - 21, l.high }, ALIGN_LEFT,
                   FACE_TEXT, strong == (int)i ? g->t->text : g->t->muted, s[i].name);
    }
}

/* ---- heat maps ------------------------------------------------------------------------------- */

SDL_FRect widget_heat_cell(const struct gui *g, SDL_FRect r, const struct heat *h, uint32_t row,
                           uint32_t col)
{
    float s = draw_scale(g->d);
    float x0 = roundf((r.x + r.w * (float)col / (float)h->cols) * s);
    float x1 = roundf((r.x + r.w * (float)(col + 1) / (float)h->cols) * s);
    float y0 = roundf((r.y + r.h * (float)row / (float)h->rows) * s);
    float y1 = roundf((r.y + r.h * (float)(row + 1) / (float)h->rows) * s);
    /* A line between cells that are large enough for one. */
    float gx = x1 - x0 >= 5 * s ? floorf(s) : 0, gy = y1 - y0 >= 5 * s ? floorf(s) : 0;
    return (SDL_FRect){ x0 / s, y0 / s, (x1 - x0 - gx) / s, (y1 - y0 - gy) / s };
}

struct heat_cell widget_heat(struct gui *g, SDL_FRect r, const struct heat *h)
{
    struct heat_cell at = { 0 };
    draw_clip(g->d, r);
    for (uint32_t row = 0; row < h->rows; row++)
        for (uint32_t col = 0; col < h->cols; col++) {
            float v = h->part(h->of, row, col);
            SDL_FRect cell = widget_heat_cell(g, r, h, row, col);
            if (!(v >= 0) || cell.w <= 0 || cell.h <= 0)
                continue;
            draw_box(g->d, cell, theme_heat(g->t, v));
            if (gui_hover(g, cell)) {
                at = (struct heat_cell){ true, row, col };
            }
        }
    if (at.hit) {
        SDL_FRect c = widget_heat_cell(g, r, h, at.row, at.col);
        draw_rule(g->d, c.x, c.y, c.w, g->t->text);
        draw_rule(g->d, c.x, c.y + c.h - 1 / draw_scale(g->d), c.w, g->t->text);
        draw_post(g->d, c.x, c.y, c.h, g->t->text);
        draw_post(g->d, c.x + c.w - 1 / draw_scale(g->d), c.y, c.h, g->t->text);
    }
    draw_unclip(g->d);
    return at;
}
