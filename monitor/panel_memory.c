/* panel_memory: where the memory of each device goes - every purpose with what it takes, beside
 * what was planned - how it grew, and what snapshots keep. */
#include "panels.h"

#include <math.h>
#include <string.h>

#define BAR_H 26.0f
#define ROW_H 26.0f
#define NAME_W 128.0f  /* of a purpose */
#define VALUE_W 92.0f  /* of a number of bytes */
#define WIDE_W 560.0f  /* from which on there is room for the plan in numbers */
#define GRAPH_H 190.0f /* at least */

/* ---- tiles ----------------------------------------------------------------------------------- */

/* "1.13" and "GiB". */
static const char *split_unit(char *value)
{
    char *unit = strchr(value, ' ');
    if (unit)
        *unit++ = 0;
    return unit;
}

static float tiles(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    const struct run_device *d = &run->device[0];
    const struct theme *t = in->g->t;
    char v[4][32], below[4][64] = { { 0 } }, n[32];
    double full = d->budget ? (double)d->real / (double)d->budget : -1;
    double rest = d->heap && d->left <= d->heap ? (double)d->left / (double)d->heap : -1;
    double held = run->n_snapshot_max ? (double)run->n_snapshot / (double)run->n_snapshot_max : -1;
    show_bytes((double)d->real, v[0], sizeof v[0]);
    show_bytes((double)d->budget, n, sizeof n);
    SDL_snprintf(below[0], sizeof below[0], d->budget ? "of %s that it may use" : "on the device",
                 n);
    show_bytes(d->left ? (double)d->left : -1, v[1], sizeof v[1]);
    show_bytes((double)d->heap, n, sizeof n);
    if (d->heap)
        SDL_snprintf(below[1], sizeof below[1], "of the device's %s", n);
    SDL_snprintf(v[2], sizeof v[2], run->n_snapshot_max ? "%.0f" : "-", (double)run->n_snapshot);
    show_bytes((double)run->now.snapshot_bytes / fmax((double)run->n_snapshot_max, 1), n, sizeof n);
    SDL_snprintf(below[2], sizeof below[2],
                 run->n_snapshot_max ? "room for %.0f of %s" : "of conversations",
                 (double)run->n_snapshot_max, n);
    show_count((double)run->n_evicted, v[3], sizeof v[3]);
    struct tile tile[4] = {
        { "Taken", v[0], split_unit(v[0]), below[0], (float)full,
          full > 0.9   ? t->bad
          : full > 0.8 ? t->warn
                       : t->accent },
        { "Free", v[1], split_unit(v[1]), below[1], (float)rest, t->series[2] },
        { "Snapshots", v[2], run->n_snapshot_max ? "held" : NULL, below[2], (float)held,
          t->accent },
        { "Snapshots evicted",
          v[3],
          NULL,
          run->n_evicted ? "going back there reads again" : "nothing was given up",
          -1,
          { 0 } },
    };
    return panel_tiles(in, r, tile, 4);
}

/* ---- a device -------------------------------------------------------------------------------- */

/* The purposes, the largest first. */
static uint32_t by_size(const struct run_device *d, const struct run_purpose *out[RUN_MAX_PURPOSE])
{
    for (uint32_t i = 0; i < d->n_purpose; i++) {
        uint32_t at = i;
        while (at && out[at - 1]->real < d->purpose[i].real) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = &d->purpose[i];
    }
    return d->n_purpose;
}

static uint64_t most_of(const struct run_purpose *p) { return ui_max_u64(p->real, p->plan); }

static float device_height(const struct run_device *d)
{
    return panel_card_height(BAR_H + 14 + 20 + ROW_H * (float)d->n_purpose, true);
}

static void heads(const struct panel_in *in, SDL_FRect r, float bar_x, bool wide)
{
    struct gui *g = in->g;
    float x = r.x + r.w - VALUE_W;
    draw_label(g->d, (SDL_FRect){ r.x + 18, r.y, NAME_W, 16 }, ALIGN_LEFT, FACE_SMALL, g->t->faint,
               "purpose");
    if (wide) {
        draw_label(g->d, (SDL_FRect){ x, r.y, VALUE_W, 16 }, ALIGN_RIGHT, FACE_SMALL, g->t->faint,
                   "planned");
        x -= VALUE_W;
    }
    draw_label(g->d, (SDL_FRect){ x, r.y, VALUE_W, 16 }, ALIGN_RIGHT, FACE_SMALL, g->t->faint,
               "now");
    if (x - bar_x > 60)
        draw_label(g->d, (SDL_FRect){ bar_x, r.y, x - bar_x, 16 }, ALIGN_LEFT, FACE_SMALL,
                   g->t->faint, "framed: as planned");
}

/* Swatch, name, a bar with the plan as its frame, the numbers. */
static bool purpose_row(const struct panel_in *in, SDL_FRect r, const struct run_purpose *p,
                        double most, bool wide)
{
    struct gui *g = in->g;
    SDL_Color c = purpose_color(g->t, p->name);
    char now[32], plan[32];
    bool hover = gui_hover(g, r);
    if (hover)
        draw_round(g->d, (SDL_FRect){ r.x - 6, r.y, r.w + 12, r.h }, 4, g->t->raised);
    draw_round(g->d, (SDL_FRect){ r.x, r.y + r.h / 2 - 5, 10, 10 }, 2.5f, c);
    draw_label(g->d, (SDL_FRect){ r.x + 18, r.y, NAME_W - 18, r.h }, ALIGN_LEFT, FACE_TEXT,
               g->t->text, p->name);
    SDL_FRect bar = { r.x + NAME_W, r.y + 7, r.w - NAME_W - VALUE_W * (wide ? 2 : 1) - 8,
                      r.h - 14 };
    if (bar.w > 20) {
        SDL_FRect planned = bar, real = bar;
        planned.w = bar.w * (float)((double)p->plan / most);
        real.w = bar.w * (float)((double)p->real / most);
        if (p->plan > p->real)
            draw_framed(g->d, planned, 3, hover ? g->t->raised : g->t->card, draw_alpha(c, 0.6f));
        if (real.w >= 1)
            draw_round(g->d, real, 3, c);
    }
    show_bytes((double)p->real, now, sizeof now);
    show_bytes(p->plan ? (double)p->plan : -1, plan, sizeof plan);
    SDL_FRect value = { r.x + r.w - VALUE_W, r.y, VALUE_W, r.h };
    if (wide) {
        draw_label(g->d, value, ALIGN_RIGHT, FACE_TEXT,
                   p->plan && p->plan != p->real ? g->t->text : g->t->muted, plan);
        value.x -= VALUE_W;
    }
    draw_label(g->d, value, ALIGN_RIGHT, FACE_STRONG, g->t->text, now);
    return hover;
}

static void tip(const struct panel_in *in, const struct run_device *d, const struct run_purpose *p)
{
    char now[32], plan[32];
    show_bytes((double)p->real, now, sizeof now);
    show_bytes(p->plan ? (double)p->plan : -1, plan, sizeof plan);
    gui_tip(in->g, "%s\nnow\t%s\nplanned\t%s\nof all that is taken\t%.1f %%", p->name, now, plan,
            d->real ? 100 * (double)p->real / (double)d->real : 0);
}

/* All purposes in one bar, against the budget. */
static int one_bar(const struct panel_in *in, SDL_FRect r, const struct run_device *d,
                   const struct run_purpose *const *p, uint32_t n)
{
    struct segment s[RUN_MAX_PURPOSE];
    double whole = (double)ui_max_u64(d->budget ? d->budget : d->heap, d->real);
    for (uint32_t i = 0; i < n; i++)
        s[i] = (struct segment){ p[i]->name, "", whole > 0 ? (double)p[i]->real / whole : 0,
                                 purpose_color(in->g->t, p[i]->name), false };
    return widget_segments(in->g, r, s, n);
}

static float device_card(const struct panel_in *in, SDL_FRect r, const struct run_device *d)
{
    const struct run_purpose *p[RUN_MAX_PURPOSE];
    char title[160], right[128] = "", a[24], b[24];
    uint32_t n = by_size(d, p);
    double most = 1;
    bool wide = r.w >= WIDE_W;
    for (uint32_t i = 0; i < n; i++)
        most = fmax(most, (double)most_of(p[i]));
    show_bytes((double)d->real, a, sizeof a);
    show_bytes((double)d->budget, b, sizeof b);
    SDL_snprintf(right, sizeof right, d->budget ? "%s of the %s that it may use" : "%s", a, b);
    SDL_snprintf(title, sizeof title, "%s", d->name[0] ? d->name : "Device");
    float h = device_height(d);
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, title, right);
    int over = one_bar(in, (SDL_FRect){ at.x, at.y, at.w, BAR_H }, d, p, n);
    float y = at.y + BAR_H + 14;
    heads(in, (SDL_FRect){ at.x, y, at.w, 16 }, at.x + NAME_W, wide);
    y += 20;
    for (uint32_t i = 0; i < n; i++, y += ROW_H)
        if (purpose_row(in, (SDL_FRect){ at.x, y, at.w, ROW_H }, p[i], most, wide))
            over = (int)i;
    if (over >= 0)
        tip(in, d, p[over]);
    return h;
}

/* ---- over time ------------------------------------------------------------------------------- */

static struct graph_point scaled(const void *of, uint32_t i, float unit)
{
    const struct run_point *p = (const struct run_point *)of + i;
    return (
        struct graph_point){ .x = p->t, .y = p->v / unit, .lo = p->lo / unit, .hi = p->hi / unit };
}
static struct graph_point in_mib(const void *of, uint32_t i) { return scaled(of, i, 0x1p20f); }
static struct graph_point in_gib(const void *of, uint32_t i) { return scaled(of, i, 0x1p30f); }

static void curve(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    struct graph_series s =
        panel_series(run, SERIES_MEMORY, NULL, GRAPH_AREA, in->g->t->accent, false);
    bool large = run_newest(run, SERIES_MEMORY) >= 0x1p30; /* so that the axis has round numbers */
    s.at = large ? in_gib : in_mib;
    struct graph gr = { .title = "Taken on the device",
                        .unit = large ? "GiB" : "MiB",
                        .series = &s,
                        .n_series = 1,
                        .x_max = run->t,
                        .from_zero = true,
                        .empty = "The curve begins with the next sample" };
    SDL_FRect at = panel_card(in, r, NULL, NULL);
    widget_graph(in->g, gui_id(&panel_memory, 0), at, &gr, in->view);
}

/* ---- the panel ------------------------------------------------------------------------------- */

static float draw(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    bool any = false;
    for (uint32_t i = 0; i < run->n_device; i++)
        any |= run->device[i].n_purpose > 0;
    if (!any)
        return panel_empty(in, r, "No memory is taken yet",
                           "This fills when a model is opened and its weights\n"
                           "are on their way to the device.");
    float y = r.y;
    y += tiles(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;
    for (uint32_t i = 0; i < run->n_device; i++)
        if (run->device[i].n_purpose)
            y += device_card(in, (SDL_FRect){ r.x, y, r.w, 0 }, &run->device[i]) + PANEL_GAP;
    float high = fmaxf(r.y + r.h - y, GRAPH_H);
    curve(in, (SDL_FRect){ r.x, y, r.w, high });
    return y + high - r.y;
}

static void csv(const struct panel_in *in, FILE *to)
{
    fputs("device,purpose,bytes,planned_bytes\n", to);
    for (uint32_t i = 0; i < in->run->n_device; i++)
        for (uint32_t k = 0; k < in->run->device[i].n_purpose; k++) {
            const struct run_purpose *p = &in->run->device[i].purpose[k];
            csv_text(to, in->run->device[i].name);
            fputc(',', to);
            csv_text(to, p->name);
            fprintf(to, ",%llu,%llu\n", (unsigned long long)p->real, (unsigned long long)p->plan);
        }
}

const struct panel panel_memory = { .name = "memory", .title = "Memory", .draw = draw, .csv = csv };
