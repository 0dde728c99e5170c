/* widget_table: tables that are sorted by their heads. */
#include "widget.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_H = 24, HEAD_H = 26, PAD = 10 };

float widget_table_height(const struct gui *g, const struct table *t)
{
    (void)g;
    return HEAD_H + (float)ui_min_u32(t->n_row, TABLE_ROWS) * ROW_H;
}

/* ---- order ----------------------------------------------------------------------------------- */

struct entry {
    double sort;
    char text[24];
    uint16_t row;
    bool down;
};

static int compare(const void *pa, const void *pb)
{
    const struct entry *a = pa, *b = pb;
    bool na = isnan(a->sort), nb = isnan(b->sort); /* unknown ones are last either way */
    if (na != nb)
        return na ? 1 : -1;
    int c = na || a->sort == b->sort ? strcmp(a->text, b->text) : a->sort < b->sort ? -1 : 1;
    c = a->down ? -c : c;
    return c ? c : (a->row > b->row) - (a->row < b->row);
}

uint32_t table_order(const struct table *t, const struct table_state *s, uint16_t order[TABLE_ROWS])
{
    uint32_t n = ui_min_u32(t->n_row, TABLE_ROWS);
    for (uint32_t i = 0; i < n; i++)
        order[i] = (uint16_t)i;
    struct entry *e = s->sort && s->sort <= t->n_col ? ui_alloc(n, sizeof *e) : NULL;
    if (!e)
        return n;
    for (uint32_t i = 0; i < n; i++) {
        struct table_cell cell = { 0 };
        t->cell(t->of, i, s->sort - 1, &cell);
        e[i] = (struct entry){ .sort = cell.sort, .row = (uint16_t)i, .down = s->down };
        memcpy(e[i].text, cell.text, sizeof e[i].text - 1);
    }
    qsort(e, n, sizeof *e, compare);
    for (uint32_t i = 0; i < n; i++)
        order[i] = e[i].row;
    free(e);
    return n;
}

/* ---- drawing --------------------------------------------------------------------------------- */

static void columns(const struct table *t, float w, float out[TABLE_COLS])
{
    float fixed = 0;
    uint32_t n_free = 0;
    for (uint32_t i = 0; i < t->n_col && i < TABLE_COLS; i++) {
        fixed += t->col[i].width;
        n_free += t->col[i].width <= 0;
    }
    for (uint32_t i = 0; i < t->n_col && i < TABLE_COLS; i++)
        out[i] = t->col[i].width > 0 ? t->col[i].width : fmaxf((w - fixed) / (float)n_free, 40);
}

static void head(struct gui *g, uint64_t id, SDL_FRect r, const struct table *t,
                 struct table_state *s, const float *wide)
{
    float x = r.x;
    for (uint32_t i = 0; i < t->n_col && i < TABLE_COLS; x += wide[i++]) {
        SDL_FRect at = { x, r.y, wide[i], HEAD_H };
        const struct table_col *c = &t->col[i];
        bool by = s->sort == i + 1;
        unsigned did = gui_touch(g, gui_id(&t->col[i], (uint32_t)id), at);
        if (did & GUI_CLICK) {
            s->down = by ? !s->down : c->down;
            s->sort = i + 1;
            by = true;
            gui_again(g, 0);
        }
        SDL_FRect in = { at.x + PAD, at.y, at.w - 2 * PAD, at.h };
        SDL_Color col = by || did & GUI_HOVER ? g->t->text : g->t->faint;
        float w = draw_label(g->d, in, c->align, FACE_SMALL, col, c->name);
        if (by) {
            float ax = c->align == ALIGN_LEFT ? in.x + w + 7 : in.x + in.w - w - 7;
            float ay = in.y + in.h / 2, k = s->down ? 2.5f : -2.5f;
            SDL_FPoint p[3] = { { ax - 3.5f, ay - k }, { ax + 3.5f, ay - k }, { ax, ay + k } };
            draw_polygon(g->d, p, 3, g->t->accent);
        }
        if (did & GUI_FOCUS)
            widget_focus_ring(g, at, 4);
    }
    draw_rule(g->d, r.x, r.y + HEAD_H - 1, r.w, g->t->border);
}

static void row(struct gui *g, SDL_FRect r, const struct table *t, uint32_t i, const float *wide)
{
    float x = r.x;
    for (uint32_t c = 0; c < t->n_col && c < TABLE_COLS; x += wide[c++]) {
        struct table_cell cell = { 0 };
        t->cell(t->of, i, c, &cell);
        SDL_FRect in = { x + PAD, r.y, wide[c] - 2 * PAD, r.h };
        if (cell.bar > 0) {
            float w = in.w * fminf(cell.bar, 1);
            draw_round(g->d, (SDL_FRect){ in.x, r.y + r.h - 5, w, 3 }, 1.5f,
                       draw_alpha(g->t->accent, 0.75f));
        }
        if (cell.dot.a) {
            draw_disc(g->d, in.x + 5, r.y + r.h / 2, 4.5f, cell.dot);
            in.x += 16;
            in.w -= 16;
        }
        draw_label(g->d, in, t->col[c].align, FACE_TEXT, c ? g->t->text : g->t->text, cell.text);
    }
}

/* The rows are one place for the focus; within it the arrow keys choose a row, and leave at its
 * ends. */
static void row_keys(struct gui *g, uint64_t id, SDL_FRect body, const uint16_t *order, uint32_t n,
                     struct table_state *s)
{
    if (!(gui_touch(g, id, body) & GUI_FOCUS))
        return;
    widget_focus_ring(g, body, 4);
    int at = -1;
    for (uint32_t k = 0; k < n; k++)
        if (order[k] + 1u == s->chosen)
            at = (int)k;
    if (at + 1 < (int)n && gui_key(g, SDLK_DOWN))
        at++;
    else if (at > 0 && gui_key(g, SDLK_UP))
        at--;
    else
        return;
    float y = (float)at * ROW_H; /* into sight */
    s->chosen = order[at] + 1u;
    s->scroll.y = fminf(fmaxf(s->scroll.y, y + ROW_H - body.h), y);
    gui_again(g, 0);
}

int widget_table(struct gui *g, uint64_t id, SDL_FRect r, const struct table *t,
                 struct table_state *s)
{
    float wide[TABLE_COLS];
    uint16_t order[TABLE_ROWS];
    uint32_t n = table_order(t, s, order);
    int at = -1;
    SDL_FRect body = { r.x, r.y + HEAD_H, r.w, fmaxf(r.h - HEAD_H, 0) };
    draw_clip(g->d, r);
    columns(t, r.w - ((float)n * ROW_H > body.h ? 10 : 0), wide);
    head(g, id, r, t, s, wide);
    SDL_FRect in = widget_scroll_begin(g, id, body, &s->scroll);
    for (uint32_t k = 0; k < n; k++) {
        SDL_FRect line = { in.x, in.y + (float)k * ROW_H, in.w, ROW_H };
        if (line.y + ROW_H < body.y || line.y > body.y + body.h)
            continue;
        bool hover = gui_hover(g, line) && !g->active;
        if (hover)
            at = order[k];
        if (hover && g->in.pressed)
            s->chosen = s->chosen == order[k] + 1u ? 0 : order[k] + 1u;
        if (hover || s->chosen == order[k] + 1u)
            draw_round(g->d, line, 4, g->t->raised);
        row(g, line, t, order[k], wide);
    }
    widget_scroll_end(g, id, body, &s->scroll, (float)n * ROW_H);
    body.w = in.w; /* the bar is its own */
    row_keys(g, gui_id(t->col, ~(uint32_t)id), body, order, n, s);
    draw_unclip(g->d);
    return at;
}
