/* widget: see widget.h. The frame, the focus, and the plain parts. */
#include "widget.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- the frame ------------------------------------------------------------------------------- */

void gui_begin(struct gui *g, const struct gui_input *in, double now_s)
{
    g->in = *in;
    g->now_s = now_s;
    g->key_taken = g->wheel_taken = false;
    g->again_s = -1;
    g->tip[0] = 0;
    memcpy(g->target[1], g->target[0], g->n_target[0] * sizeof g->target[0][0]);
    g->n_target[1] = g->n_target[0];
    g->n_target[0] = 0;
    if (in->pressed)
        g->show_focus = false;
}

void gui_again(struct gui *g, double in_s)
{
    if (g->again_s < 0 || in_s < g->again_s)
        g->again_s = in_s;
}

uint64_t gui_id(const void *of, uint32_t i)
{
    uint64_t h = (uint64_t)(uintptr_t)of * 0x9e3779b97f4a7c15u + i + 1;
    h = (h ^ h >> 31) * 0xbf58476d1ce4e5b9u;
    h ^= h >> 29;
    return h ? h : 1;
}

static bool inside(SDL_FRect r, float x, float y)
{
    return x >= r.x && y >= r.y && x < r.x + r.w && y < r.y + r.h;
}

bool gui_hover(const struct gui *g, SDL_FRect r)
{
    return inside(r, g->in.x, g->in.y) && inside(draw_clipped(g->d), g->in.x, g->in.y);
}

unsigned gui_touch(struct gui *g, uint64_t id, SDL_FRect r)
{
    unsigned did = 0;
    bool hover = gui_hover(g, r);
    if (g->n_target[0] < MAX_TARGET)
        g->target[0][g->n_target[0]++] = (struct gui_target){ id, r };
    if (hover && g->in.pressed) {
        g->active = g->focus = id;
        did |= GUI_CLICK;
    }
    if (hover && (!g->active || g->active == id))
        did |= GUI_HOVER;
    if (g->active == id && g->in.down)
        did |= GUI_DOWN;
    if (g->focus == id) {
        did |= GUI_FOCUS;
        if (gui_key(g, SDLK_RETURN) || gui_key(g, SDLK_KP_ENTER))
            did |= GUI_CLICK;
    }
    return did;
}

bool gui_key(struct gui *g, int key)
{
    if (g->key_taken || !key || g->in.key != key)
        return false;
    g->key_taken = true;
    return true;
}

void gui_tip(struct gui *g, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->tip, sizeof g->tip, fmt, ap);
    va_end(ap);
}

/* Lines of a tooltip; a tab sets the rest of a line to the right. */
static void draw_tip(struct gui *g)
{
    enum { LINES = 24 };
    SDL_FRect win = draw_clipped(g->d);
    float high = draw_line_height(g->d, FACE_SMALL), wide = 0;
    uint32_t n = 0;
    char text[MAX_TIP];
    char *line[LINES];
    memcpy(text, g->tip, sizeof text);
    for (char *p = text; p && *p && n < LINES;) {
        line[n++] = p;
        char *end = strchr(p, '\n');
        if (end)
            *end++ = 0;
        char *tab = strchr(p, '\t');
        float w = draw_text_width(g->d, n == 1 ? FACE_STRONG : FACE_SMALL, p) + (tab ? 16 : 0);
        wide = fmaxf(wide, w);
        p = end;
    }
    SDL_FRect r = { g->in.x + 14, g->in.y + 18, fminf(wide + 20, win.w - 8), (float)n * high + 12 };
    if (r.x + r.w > win.w - 4)
        r.x = fmaxf(4, g->in.x - r.w - 10);
    if (r.y + r.h > win.h - 4)
        r.y = fmaxf(4, g->in.y - r.h - 10);
    draw_framed(g->d, r, 6, g->t->raised, g->t->border);
    for (uint32_t i = 0; i < n; i++) {
        SDL_FRect at = { r.x + 10, r.y + 6 + (float)i * high, r.w - 20, high };
        char *tab = strchr(line[i], '\t');
        if (tab)
            *tab++ = 0;
        draw_label(g->d, at, ALIGN_LEFT, FACE_SMALL, i && tab ? g->t->muted : g->t->text, line[i]);
        if (tab)
            draw_label(g->d, at, ALIGN_RIGHT, FACE_SMALL, g->t->text, tab);
    }
}

/* ---- the focus ------------------------------------------------------------------------------- */

static int index_of_focus(const struct gui *g)
{
    for (uint32_t i = 0; i < g->n_target[0]; i++)
        if (g->target[0][i].id == g->focus)
            return (int)i;
    return -1;
}

/* The nearest in a direction: what is aside counts twice. */
static int nearest(const struct gui *g, int from, float dx, float dy)
{
    SDL_FRect a = g->target[0][from].r;
    float best = INFINITY;
    int found = from;
    for (uint32_t i = 0; i < g->n_target[0]; i++) {
        SDL_FRect b = g->target[0][i].r;
        float x = b.x + b.w / 2 - a.x - a.w / 2, y = b.y + b.h / 2 - a.y - a.h / 2;
        float along = x * dx + y * dy, aside = fabsf(x * dy) + fabsf(y * dx);
        if ((int)i != from && along > 1 && along + 2 * aside < best) {
            best = along + 2 * aside;
            found = (int)i;
        }
    }
    return found;
}

static void move_focus(struct gui *g)
{
    int n = (int)g->n_target[0], at = index_of_focus(g), to = -1;
    if (!n)
        return;
    if (gui_key(g, SDLK_TAB))
        to = at < 0 ? (g->in.shift ? n - 1 : 0) : (at + (g->in.shift ? n - 1 : 1)) % n;
    else if (gui_key(g, SDLK_LEFT))
        to = at < 0 ? 0 : nearest(g, at, -1, 0);
    else if (gui_key(g, SDLK_RIGHT))
        to = at < 0 ? 0 : nearest(g, at, 1, 0);
    else if (gui_key(g, SDLK_UP))
        to = at < 0 ? 0 : nearest(g, at, 0, -1);
    else if (gui_key(g, SDLK_DOWN))
        to = at < 0 ? 0 : nearest(g, at, 0, 1);
    if (to < 0)
        return;
    g->focus = g->target[0][to].id;
    g->show_focus = true;
    gui_again(g, 0);
}

void gui_end(struct gui *g)
{
    move_focus(g);
    if (g->tip[0] && !g->active)
        draw_tip(g);
    if (!g->in.down)
        g->active = 0;
}

void widget_focus_ring(struct gui *g, SDL_FRect r, float radius)
{
    if (!g->show_focus)
        return;
    float w = 1.5f;
    SDL_Color c = g->t->accent;
    draw_box(g->d, (SDL_FRect){ r.x + radius, r.y, r.w - 2 * radius, w }, c);
    draw_box(g->d, (SDL_FRect){ r.x + radius, r.y + r.h - w, r.w - 2 * radius, w }, c);
    draw_box(g->d, (SDL_FRect){ r.x, r.y + radius, w, r.h - 2 * radius }, c);
    draw_box(g->d, (SDL_FRect){ r.x + r.w - w, r.y + radius, w, r.h - 2 * radius }, c);
    for (int i = 0; i < 4; i++) {
        SDL_FPoint at = { i == 1 || i == 2 ? r.x + r.w - radius : r.x + radius,
                          i >= 2 ? r.y + r.h - radius : r.y + radius };
        float from = i == 0 ? 0.75f : i == 1 ? 0 : i == 2 ? 0.25f : 0.5f;
        draw_arc(g->d, at, radius, w, from, from + 0.25f, c);
    }
}

/* ---- plain parts ----------------------------------------------------------------------------- */

bool widget_button(struct gui *g, uint64_t id, SDL_FRect r, const char *label)
{
    unsigned did = gui_touch(g, id, r);
    draw_framed(g->d, r, 6, did & GUI_HOVER ? g->t->raised : g->t->card, g->t->border);
    draw_label(g->d, r, ALIGN_CENTER, FACE_TEXT, g->t->text, label);
    if (did & GUI_FOCUS)
        widget_focus_ring(g, r, 6);
    return did & GUI_CLICK;
}

float widget_tab_width(struct gui *g, const char *label)
{
    return ceilf(draw_text_width(g->d, FACE_STRONG, label)) + 20;
}

bool widget_tab(struct gui *g, uint64_t id, SDL_FRect r, const char *label, bool chosen)
{
    unsigned did = gui_touch(g, id, r);
    SDL_Color c = chosen ? g->t->text : did & GUI_HOVER ? g->t->text : g->t->muted;
    draw_label(g->d, r, ALIGN_CENTER, chosen ? FACE_STRONG : FACE_TEXT, c, label);
    if (chosen)
        draw_round(g->d, (SDL_FRect){ r.x + 10, r.y + r.h - 2, r.w - 20, 2 }, 1, g->t->accent);
    if (did & GUI_FOCUS)
        widget_focus_ring(g, (SDL_FRect){ r.x + 1, r.y + 3, r.w - 2, r.h - 7 }, 5);
    return did & GUI_CLICK;
}

bool widget_slider(struct gui *g, uint64_t id, SDL_FRect r, float *v, float min, float max)
{
    unsigned did = gui_touch(g, id, r);
    float knob = 7, old = *v, room = fmaxf(r.w - 2 * knob, 1), step = (max - min) / 20;
    if (did & GUI_DOWN)
        *v = min + (max - min) * (g->in.x - r.x - knob) / room;
    if (did & GUI_FOCUS)
        *v += step * ((float)gui_key(g, SDLK_RIGHT) - (float)gui_key(g, SDLK_LEFT));
    *v = fminf(fmaxf(*v, min), max);
    float x = r.x + knob + room * (*v - min) / (max - min), y = r.y + r.h / 2;
    draw_round(g->d, (SDL_FRect){ r.x, y - 2, r.w, 4 }, 2, g->t->border);
    draw_round(g->d, (SDL_FRect){ r.x, y - 2, x - r.x, 4 }, 2, g->t->accent);
    draw_disc(g->d, x, y, knob, did & (GUI_HOVER | GUI_DOWN) ? g->t->text : g->t->accent);
    if (did & GUI_FOCUS)
        widget_focus_ring(g, r, 4);
    return *v != old;
}

SDL_FRect widget_scroll_begin(struct gui *g, uint64_t id, SDL_FRect r, struct scroll *s)
{
    float most = fmaxf(s->high - r.h, 0), line = 40;
    bool has = g->focus == id;
    if (most > 0) {
        if (gui_hover(g, r) && g->in.wheel != 0 && !g->in.shift && !g->wheel_taken) {
            s->y -= g->in.wheel * line;
            g->wheel_taken = true;
        }
        if (gui_key(g, SDLK_PAGEDOWN) || (has && gui_key(g, SDLK_DOWN)))
            s->y += has ? line : r.h * 0.9f;
        if (gui_key(g, SDLK_PAGEUP) || (has && gui_key(g, SDLK_UP)))
            s->y -= has ? line : r.h * 0.9f;
        if (gui_key(g, SDLK_HOME))
            s->y = 0;
        if (gui_key(g, SDLK_END))
            s->y = most;
    }
    s->y = fminf(fmaxf(s->y, 0), most);
    draw_clip(g->d, r);
    return (SDL_FRect){ r.x, r.y - s->y, r.w - (most > 0 ? 10 : 0), r.h };
}

void widget_scroll_end(struct gui *g, uint64_t id, SDL_FRect r, struct scroll *s, float high)
{
    draw_unclip(g->d);
    if (fabsf(high - s->high) > 0.5f)
        gui_again(g, 0); /* only now is it known whether there is a bar */
    s->high = high;
    if (high <= r.h + 0.5f)
        return;
    SDL_FRect track = { r.x + r.w - 8, r.y, 8, r.h };
    float thumb = fmaxf(24, r.h * r.h / high), room = r.h - thumb;
    float y = r.y + room * s->y / (high - r.h);
    unsigned did = gui_touch(g, id, track);
    if (did & GUI_CLICK && g->in.pressed)
        g->grab =
            inside((SDL_FRect){ track.x, y, 8, thumb }, g->in.x, g->in.y) ? g->in.y - y : thumb / 2;
    if (did & GUI_DOWN) {
        s->y = fminf(fmaxf((g->in.y - g->grab - r.y) / room, 0), 1) * (high - r.h);
        y = r.y + room * s->y / (high - r.h);
    }
    draw_round(g->d, (SDL_FRect){ track.x + 2, y, 4, thumb }, 2,
               did & (GUI_HOVER | GUI_DOWN) ? g->t->muted : g->t->border);
    if (did & GUI_FOCUS)
        widget_focus_ring(g, (SDL_FRect){ track.x, y, 8, thumb }, 3);
}
