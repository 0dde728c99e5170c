/* panels: see panels.h. */
#include "panels.h"

#include <math.h>
#include <string.h>

#define P(name) &panel_##name,
const struct panel *const panel_table[] = { PANELS(P) };
#undef P
const uint32_t n_panel = ARRAY_LEN(panel_table);

int panel_index(const char *name)
{
    for (uint32_t i = 0; i < n_panel; i++)
        if (strcmp(panel_table[i]->name, name) == 0)
            return (int)i;
    return -1;
}

/* ---- parts ----------------------------------------------------------------------------------- */

SDL_FRect panel_card(const struct panel_in *in, SDL_FRect r, const char *title, const char *right)
{
    struct gui *g = in->g;
    draw_framed(g->d, r, 8, g->t->card, g->t->border);
    SDL_FRect inner = { r.x + PANEL_PAD, r.y + PANEL_PAD - 4, r.w - 2 * PANEL_PAD,
                        r.h - 2 * PANEL_PAD + 8 };
    if (!title)
        return inner;
    SDL_FRect head = { inner.x, inner.y, inner.w, 20 };
    float w = draw_label(g->d, head, ALIGN_LEFT, FACE_STRONG, g->t->text, title);
    head.x += w + 12;
    head.w -= w + 12;
    if (right && head.w > 20)
        draw_label(g->d, head, ALIGN_RIGHT, FACE_SMALL, g->t->muted, right);
    inner.y += PANEL_HEAD + 4;
    inner.h -= PANEL_HEAD + 4;
    return inner;
}

float panel_card_height(float inner, bool titled)
{
    return inner + 2 * PANEL_PAD - 8 + (titled ? PANEL_HEAD + 4 : 0);
}

void panel_tile(const struct panel_in *in, SDL_FRect r, const struct tile *t)
{
    struct gui *g = in->g;
    SDL_FRect at = panel_card(in, r, NULL, NULL);
    draw_clip(g->d, at);
    draw_label(g->d, (SDL_FRect){ at.x, at.y, at.w, 16 }, ALIGN_LEFT, FACE_SMALL, g->t->muted,
               t->label);
    bool known = strcmp(t->value, "-") != 0;
    float w = draw_label(g->d, (SDL_FRect){ at.x, at.y + 17, at.w, 28 }, ALIGN_LEFT, FACE_FIGURE,
                         known ? g->t->text : g->t->faint, known ? t->value : "\u2013");
    if (t->unit && known) /* on the level on which the figure stands */
        draw_text(g->d, FACE_TEXT, g->t->muted, at.x + w + 6,
                  at.y + 31 + draw_cap_height(g->d, FACE_FIGURE) / 2, t->unit);
    if (t->below)
        draw_label(g->d, (SDL_FRect){ at.x, at.y + 46, at.w, 16 }, ALIGN_LEFT, FACE_SMALL,
                   g->t->faint, t->below);
    if (t->part >= 0)
        widget_bar(g, (SDL_FRect){ at.x, at.y + at.h - 4, at.w, 4 }, t->part,
                   t->color.a ? t->color : g->t->accent);
    draw_unclip(g->d);
}

float panel_tiles(const struct panel_in *in, SDL_FRect r, const struct tile *t, uint32_t n)
{
    uint32_t cols = (uint32_t)fmaxf((r.w + PANEL_GAP) / (124 + PANEL_GAP), 1);
    cols = ui_min_u32(cols, n);
    uint32_t rows = (n + cols - 1) / cols;
    cols = (n + rows - 1) / rows; /* rows as even as they can be */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t in_row = i / cols == rows - 1 ? n - cols * (rows - 1) : cols;
        float w = (r.w - PANEL_GAP * (float)(in_row - 1)) / (float)in_row;
        SDL_FRect at = { r.x + (float)(i % cols) * (w + PANEL_GAP),
                         r.y + (float)(i / cols) * (TILE_H + PANEL_GAP), w, TILE_H };
        panel_tile(in, at, &t[i]);
    }
    return (float)rows * (TILE_H + PANEL_GAP) - PANEL_GAP;
}

float panel_facts(const struct panel_in *in, SDL_FRect r, const char *title, const struct fact *f,
                  uint32_t n)
{
    struct gui *g = in->g;
    float line = draw_line_height(g->d, FACE_TEXT) + 6;
    uint32_t shown = 0;
    for (uint32_t i = 0; i < n; i++)
        shown += f[i].value && *f[i].value;
    r.h = fmaxf(r.h, panel_card_height((float)shown * line, true));
    SDL_FRect at = panel_card(in, r, title, NULL);
    at.h = line;
    for (uint32_t i = 0; i < n; i++) {
        if (!f[i].value || !*f[i].value)
            continue;
        float w = draw_label(g->d, at, ALIGN_RIGHT, FACE_TEXT, g->t->text, f[i].value);
        draw_label(g->d, (SDL_FRect){ at.x, at.y, at.w - w - 8, line }, ALIGN_LEFT, FACE_TEXT,
                   g->t->muted, f[i].name);
        at.y += line;
    }
    return r.h;
}

float panel_empty(const struct panel_in *in, SDL_FRect r, const char *why, const char *fill)
{
    struct gui *g = in->g;
    float w = fminf(r.w - 2 * PANEL_PAD, 440), h = fmaxf(r.h, 160);
    draw_framed(g->d, (SDL_FRect){ r.x, r.y, r.w, h }, 8, g->t->card, g->t->border);
    float x = r.x + (r.w - w) / 2, y = r.y + h / 2 - 34;
    draw_label(g->d, (SDL_FRect){ x, y, w, 24 }, ALIGN_CENTER, FACE_TITLE, g->t->muted, why);
    /* Each line is centred: broken by hand at line ends. */
    y += 32;
    for (const char *p = fill; *p;) {
        size_t n = strcspn(p, "\n");
        char line[160];
        SDL_snprintf(line, sizeof line, "%.*s", (int)n, p);
        draw_label(g->d, (SDL_FRect){ r.x + PANEL_PAD, y, r.w - 2 * PANEL_PAD, 20 }, ALIGN_CENTER,
                   FACE_TEXT, g->t->faint, line);
        y += 20;
        p += n + (p[n] == '\n');
    }
    return h;
}

/* ---- series ---------------------------------------------------------------------------------- */

static struct graph_point point(const struct run_point *p, double x)
{
    return (struct graph_point){ .x = x, .y = p->v, .lo = p->lo, .hi = p->hi };
}

static struct graph_point by_time(const void *of, uint32_t i)
{
    const struct run_point *p = (const struct run_point *)of + i;
    return point(p, p->t);
}

static struct graph_point by_step(const void *of, uint32_t i)
{
    const struct run_point *p = (const struct run_point *)of + i;
    return point(p, p->step);
}

/* What a process has not changed still holds: nothing is sampled while it is idle. */
static bool holds(const struct run *r, enum run_series_id id)
{
    bool measured_always =
        id == SERIES_READ || id == SERIES_GEN || id == SERIES_MEMORY || id == SERIES_CONTEXT;
    return measured_always && r->life == RUN_ALIVE && !r->from_log;
}

struct graph_series panel_series(const struct run *r, enum run_series_id id, const char *name,
                                 enum graph_style style, SDL_Color color, bool step)
{
    return (struct graph_series){ .name = name,
                                  .style = style,
                                  .color = color,
                                  .n = r->series[id].n,
                                  .at = step ? by_step : by_time,
                                  .of = r->series[id].p,
                                  .hold_to = holds(r, id) && !step ? r->t : 0 };
}

double panel_from(const struct run *r)
{
    double from = r->t;
    for (uint32_t i = 0; i < N_SERIES; i++)
        if (r->series[i].n && r->series[i].p[0].t < from)
            from = r->series[i].p[0].t;
    return from;
}

/* ---- states ---------------------------------------------------------------------------------- */

SDL_Color state_color(const struct theme *t, const struct run *r)
{
    if (r->life == RUN_DIED || (r->life == RUN_ENDED && r->exit_code > 0 && r->exit_code != 130))
        return t->bad;
    if (r->life == RUN_ENDED)
        return t->faint;
    if (r->unheard_s >= 2)
        return t->warn;
    return r->known && r->now.state == HLM_IDLE ? t->good : t->accent;
}

enum mark state_mark(const struct run *r)
{
    if (r->life == RUN_DIED || (r->life == RUN_ENDED && r->exit_code > 0 && r->exit_code != 130))
        return MARK_CROSS;
    if (r->life == RUN_ENDED)
        return MARK_SQUARE;
    if (r->unheard_s >= 2)
        return MARK_TRIANGLE;
    return r->known && r->now.state == HLM_IDLE ? MARK_RING : MARK_DISC;
}

SDL_Color purpose_color(const struct theme *t, const char *purpose)
{
    /* In the order of their segments, so that neighbours differ. */
    static const char *const known[N_SERIES_COLOR] = {
        "weights", "adapters", "kv", "state", "scratch", "snapshots", "training", "other"
    };
    static const struct {
        const char *name;
        uint32_t as; /* index in known */
    } kin[] = { { "rows", 6 }, { "layer inputs", 6 }, { "gradients", 2 }, { "optimizer", 3 },
                { "io", 7 },   { "host", 7 },         { "staging", 7 },   { "statistics", 7 } };
    uint32_t sum = 0;
    for (uint32_t i = 0; i < N_SERIES_COLOR; i++)
        if (strcmp(known[i], purpose) == 0)
            return t->series[i];
    for (uint32_t i = 0; i < ARRAY_LEN(kin); i++)
        if (strcmp(kin[i].name, purpose) == 0)
            return t->series[kin[i].as];
    for (const char *p = purpose; *p; p++)
        sum = sum * 31 + (unsigned char)*p;
    return t->series[sum % N_SERIES_COLOR];
}

/* ---- numbers --------------------------------------------------------------------------------- */

/* Three figures of v. */
static void three(double v, const char *unit, char *out, size_t size)
{
    SDL_snprintf(out, size, "%.*f%s", v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2, v, unit);
}

void show_rate(double v, char *out, size_t size)
{
    if (!(v >= 0))
        SDL_snprintf(out, size, "-");
    else if (v == 0)
        SDL_snprintf(out, size, "0");
    else if (v < 999.5)
        three(v, "", out, size);
    else if (v < 999.5e3)
        three(v / 1e3, " k", out, size);
    else
        three(v / 1e6, " M", out, size);
}

void show_count(double n, char *out, size_t size)
{
    if (!(n >= 0))
        SDL_snprintf(out, size, "-");
    else if (n < 9999.5)
        SDL_snprintf(out, size, "%.0f", n);
    else if (n < 999.5e3)
        SDL_snprintf(out, size, "%d\u2009%03d", (int)(n + 0.5) / 1000, (int)(n + 0.5) % 1000);
    else if (n < 999.5e6)
        three(n / 1e6, " M", out, size);
    else
        three(n / 1e9, " G", out, size);
}

void show_bytes(double v, char *out, size_t size)
{
    static const char *const unit[] = { " KiB", " MiB", " GiB", " TiB" };
    if (!(v >= 0)) {
        SDL_snprintf(out, size, "-");
        return;
    }
    if (v < 1023.5) {
        SDL_snprintf(out, size, "%.0f B", v);
        return;
    }
    uint32_t i = 0;
    for (v /= 1024; v >= 1023.5 && i + 1 < ARRAY_LEN(unit); i++)
        v /= 1024;
    three(v, unit[i], out, size);
}

void show_clock(double s, char *out, size_t size)
{
    long n = s > 0 && s < 1e9 ? (long)s : 0;
    if (n >= 3600)
        SDL_snprintf(out, size, "%ld:%02ld:%02ld", n / 3600, n / 60 % 60, n % 60);
    else
        SDL_snprintf(out, size, "%ld:%02ld", n / 60, n % 60);
}

void show_since(double s, char *out, size_t size)
{
    if (!(s >= 0))
        SDL_snprintf(out, size, "-");
    else if (s < 60)
        SDL_snprintf(out, size, "%.0f s", floor(s));
    else if (s < 3600)
        SDL_snprintf(out, size, "%.0f min", floor(s / 60));
    else if (s < 48 * 3600.0)
        SDL_snprintf(out, size, "%.0f h", floor(s / 3600));
    else
        SDL_snprintf(out, size, "%.0f days", floor(s / 86400));
}

/* ---- CSV ------------------------------------------------------------------------------------- */

void csv_text(FILE *to, const char *s)
{
    if (!strpbrk(s, ",\"\n\r")) {
        fputs(s, to);
        return;
    }
    fputc('"', to);
    for (; *s; s++) {
        if (*s == '"')
            fputc('"', to);
        fputc(*s, to);
    }
    fputc('"', to);
}

void csv_series(FILE *to, const struct run *r, const enum run_series_id *id,
                const char *const *name, uint32_t n)
{
    fputs("series,seconds,step,value\n", to);
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < r->series[id[k]].n; i++) {
            const struct run_point *p = &r->series[id[k]].p[i];
            csv_text(to, name[k]);
            fprintf(to, ",%.3f,%.0f,%.9g\n", p->t, p->step, (double)p->v);
        }
}
