/* panel_layers: what happens inside of each layer. Above one column a layer - its kind, how much of
 * its state the gates keep, how strongly they write, how large the state is; below, for mixtures of
 * experts, how often each expert is chosen. The process reports this while the panel is open. */
#include "panels.h"

#include <math.h>
#include <string.h>

#define GUTTER 128.0f /* words and scales at the left of the columns */
#define BAND_GAP 14.0f
#define EVEN_W 150.0f    /* beside the heat map: evenness, the busiest */
#define MIN_CELL_H 13.0f /* of a row with words beside it */
#define MAX_CELL_H 22.0f

typedef const struct hlm_layer_count *layer;

/* ---- bands ----------------------------------------------------------------------------------- */

struct bands {
    const struct panel_in *in;
    const struct run *run;
    SDL_FRect r; /* of the columns */
    uint32_t n;
    float wide; /* of a column */
    int over;   /* the column pointed at, or -1 */
};

static layer at_layer(const struct bands *b, uint32_t i) { return &b->run->now.layer[i]; }

/* Where a bar of column i lies; as wide as it may be without touching its neighbours. */
static SDL_FRect column(const struct bands *b, uint32_t i, float y, float h)
{
    float bar = fmaxf(fminf(b->wide * 0.62f, 24), 2);
    return (SDL_FRect){ b->r.x + ((float)i + 0.5f) * b->wide - bar / 2, y, bar, h };
}

static void band_head(const struct bands *b, float y, const char *name, const char *below)
{
    struct gui *g = b->in->g;
    SDL_FRect at = { b->r.x - GUTTER, y, GUTTER - 46, 18 };
    draw_label(g->d, at, ALIGN_LEFT, FACE_TEXT, g->t->text, name);
    at.y += 18;
    at.w += 20;
    draw_label(g->d, at, ALIGN_LEFT, FACE_SMALL, g->t->faint, below);
}

/* The level of a value, with its name, across all columns. */
static void level(const struct bands *b, float y, const char *name)
{
    struct gui *g = b->in->g;
    draw_rule(g->d, b->r.x, y, b->wide * (float)b->n, g->t->grid);
    draw_label(g->d, (SDL_FRect){ b->r.x - 56, y - 8, 48, 16 }, ALIGN_RIGHT, FACE_SMALL,
               g->t->faint, name);
}

/* What the gates keep at a token: from the least to the most a range, the mean a mark on it. */
static float decay_band(const struct bands *b, float y)
{
    struct gui *g = b->in->g;
    const float h = 84;
    band_head(b, y + 4, "Decay", "min, mean, max");
    level(b, y, "1");
    level(b, y + h / 2, "0.5");
    level(b, y + h, "0");
    bool any = false;
    for (uint32_t i = 0; i < b->n; i++) {
        layer l = at_layer(b, i);
        if (!l->n_head || !l->n_tok)
            continue;
        any = true;
        float lo = fminf(l->decay_min, l->decay_max), hi = fmaxf(l->decay_min, l->decay_max);
        SDL_FRect c = column(b, i, y + h * (1 - hi), fmaxf(h * (hi - lo), 1));
        draw_round(g->d, c, 2, draw_alpha(g->t->accent, 0.35f));
        float mean = fminf(fmaxf(l->decay, lo), hi);
        draw_box(g->d, (SDL_FRect){ c.x - 1, y + h * (1 - mean) - 1.5f, c.w + 2, 3 }, g->t->accent);
    }
    if (!any)
        draw_label(g->d, (SDL_FRect){ b->r.x, y + h / 2 - 21, b->r.w, 20 }, ALIGN_CENTER, FACE_TEXT,
                   g->t->faint, "Gates are looked at with the next tokens or rows");
    return h + BAND_GAP;
}

static float value_write(const struct bands *b, uint32_t i)
{
    layer l = at_layer(b, i);
    return l->n_head && l->n_tok ? l->write : -1;
}

static float value_delta(const struct bands *b, uint32_t i)
{
    layer l = at_layer(b, i);
    return l->n_head ? l->delta_max : -1;
}

static float most_of(const struct bands *b, float (*value)(const struct bands *, uint32_t))
{
    float most = 0;
    for (uint32_t i = 0; i < b->n; i++)
        most = fmaxf(most, value(b, i));
    return most;
}

/* Bars from zero, by the largest of them. */
static float bar_band(const struct bands *b, float y, const char *name, const char *below,
                      float (*value)(const struct bands *, uint32_t), SDL_Color c)
{
    struct gui *g = b->in->g;
    const float h = 48;
    float most = most_of(b, value);
    char text[24];
    SDL_snprintf(text, sizeof text, "%.3g", (double)most);
    band_head(b, y + 4, name, below);
    level(b, y, most > 0 ? text : "");
    level(b, y + h, "0");
    for (uint32_t i = 0; i < b->n && most > 0; i++) {
        float v = value(b, i);
        if (v > 0)
            draw_round(g->d, column(b, i, y + h * (1 - v / most), fmaxf(h * v / most, 1)), 2, c);
    }
    return h + BAND_GAP;
}

/* Root mean square and largest magnitude lie decades apart, and so do layers. */
static float state_band(const struct bands *b, float y)
{
    struct gui *g = b->in->g;
    const float h = 72;
    double least = INFINITY, most = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        layer l = at_layer(b, i);
        if (!l->n_head || !l->n_state || b->run->infinite[i] || l->state_rms <= 0)
            continue;
        least = fmin(least, (double)l->state_rms);
        most = fmax(most, fmax((double)l->state_max, (double)l->state_rms));
    }
    band_head(b, y + 4, "State", "rms, largest");
    double from = most > 0 ? floor(log10(least) - 0.1) : 0, to = most > 0 ? ceil(log10(most)) : 1;
    char text[2][24];
    SDL_snprintf(text[0], sizeof text[0], "%.3g", pow(10, from));
    SDL_snprintf(text[1], sizeof text[1], "%.3g", pow(10, to));
    level(b, y, most > 0 ? text[1] : "");
    level(b, y + h, most > 0 ? text[0] : "");
    for (uint32_t i = 0; i < b->n; i++) {
        layer l = at_layer(b, i);
        SDL_FRect c = column(b, i, y, h);
        if (b->run->infinite[i] && l->n_head) {
            widget_mark(g, c.x + c.w / 2, y + h / 2, fminf(c.w, 12), MARK_CROSS, g->t->bad);
            continue;
        }
        if (!l->n_head || !l->n_state || l->state_rms <= 0)
            continue;
        float rms = (float)((log10((double)l->state_rms) - from) / (to - from));
        float top = (float)((log10(fmax((double)l->state_max, 1e-30)) - from) / (to - from));
        top = fmaxf(top, rms);
        draw_round(g->d, (SDL_FRect){ c.x, y + h * (1 - rms), c.w, h * rms }, 2, g->t->series[2]);
        draw_box(g->d, (SDL_FRect){ c.x - 1, y + h * (1 - top) - 1, c.w + 2, 2 }, g->t->series[2]);
        draw_box(g->d, (SDL_FRect){ c.x + c.w / 2 - 0.5f, y + h * (1 - top), 1, h * (top - rms) },
                 draw_alpha(g->t->series[2], 0.5f));
    }
    return h + BAND_GAP;
}

/* A block for a recurrent layer, a ring for one that attends; numbers where there is room. */
static float kind_band(const struct bands *b, float y)
{
    struct gui *g = b->in->g;
    uint32_t every = b->wide >= 22 ? 1 : b->wide >= 11 ? 2 : b->wide >= 6 ? 4 : 8;
    band_head(b, y - 4, "Layer", "");
    for (uint32_t i = 0; i < b->n; i++) {
        SDL_FRect c = column(b, i, y, 12);
        float size = fminf(c.w, 10);
        char text[16];
        if (at_layer(b, i)->n_head)
            draw_round(g->d, (SDL_FRect){ c.x + (c.w - size) / 2, y, size, size }, 2, g->t->accent);
        else
            widget_mark(g, c.x + c.w / 2, y + size / 2, size, MARK_RING, g->t->series[1]);
        SDL_snprintf(text, sizeof text, "%u", i);
        if (i % every == 0)
            draw_label(g->d, (SDL_FRect){ c.x + c.w / 2 - 16, y + 13, 32, 16 }, ALIGN_CENTER,
                       FACE_SMALL, b->over == (int)i ? g->t->text : g->t->faint, text);
    }
    return 34;
}

static void layer_tip(const struct bands *b, uint32_t i)
{
    layer l = at_layer(b, i);
    char state[96] = "", experts[96] = "", gates[160] = "";
    if (l->n_head && l->n_tok)
        SDL_snprintf(gates, sizeof gates, "\ndecay\t%.3g  (%.3g to %.3g)\nwrite\t%.3g",
                     (double)l->decay, (double)l->decay_min, (double)l->decay_max,
                     (double)l->write);
    if (l->n_head && b->run->infinite[i])
        SDL_snprintf(state, sizeof state, "\nstate\tnot finite");
    else if (l->n_head && l->n_state)
        SDL_snprintf(state, sizeof state, "\nstate\t%.3g rms, at most %.3g", (double)l->state_rms,
                     (double)l->state_max);
    if (l->n_head && l->delta_max > 0)
        SDL_snprintf(state + strlen(state), sizeof state - strlen(state), "\ngate deltas\tto %.3g",
                     (double)l->delta_max);
    if (l->n_expert)
        SDL_snprintf(experts, sizeof experts, "\nexperts\t%u, evenness %.3f", l->n_expert,
                     (double)l->load_even);
    gui_tip(b->in->g, "layer %u\nkind\t%s%s%s%s", i,
            l->n_head ? "recurrent" : "attention or feed-forward", gates, state, experts);
}

static bool has_gates(const struct run *r)
{
    for (uint32_t i = 0; i < r->now.n_layer; i++)
        if (r->now.layer[i].n_head)
            return true;
    return false;
}

static bool has_deltas(const struct run *r)
{
    for (uint32_t i = 0; i < r->now.n_layer; i++)
        if (r->now.layer[i].delta_max > 0)
            return true;
    return false;
}

static float bands_height(const struct run *r)
{
    float h = 34 + (84 + BAND_GAP) + (48 + BAND_GAP) + (72 + BAND_GAP);
    return panel_card_height(h + (has_deltas(r) ? 48 + BAND_GAP : 0), true);
}

static float gates_card(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    struct gui *g = in->g;
    char right[96];
    uint32_t n_rec = 0;
    for (uint32_t i = 0; i < run->now.n_layer; i++)
        n_rec += run->now.layer[i].n_head > 0;
    SDL_snprintf(right, sizeof right, "recurrent (filled): %u, others (rings): %u", n_rec,
                 (unsigned)run->now.n_layer - n_rec);
    float h = bands_height(run);
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, "Gates and states", right);
    struct bands b = { .in = in, .run = run, .n = (uint32_t)run->now.n_layer, .over = -1 };
    b.r = (SDL_FRect){ at.x + GUTTER, at.y, at.w - GUTTER, at.h };
    b.wide = b.r.w / (float)b.n;
    float y = at.y + 6;
    for (uint32_t i = 0; i < b.n; i++) {
        SDL_FRect c = { b.r.x + (float)i * b.wide, at.y, b.wide, at.h };
        if (gui_hover(g, c)) {
            b.over = (int)i;
            draw_round(g->d, c, 3, g->t->raised);
            layer_tip(&b, i);
        }
    }
    y += decay_band(&b, y);
    y += bar_band(&b, y, "Write", "mean", value_write, g->t->series[1]);
    y += state_band(&b, y);
    if (has_deltas(run))
        y += bar_band(&b, y, "Trained", "largest delta", value_delta, g->t->series[3]);
    kind_band(&b, y);
    return h;
}

/* ---- experts --------------------------------------------------------------------------------- */

struct experts {
    const struct run *run;
    uint16_t layer[HLM_MAX_LAYER]; /* those that have experts */
    uint32_t n_layer, n_expert;    /* n_expert: the most that one has */
    uint32_t n_dead;
};

static void find_experts(const struct run *r, struct experts *e)
{
    *e = (struct experts){ .run = r };
    for (uint32_t i = 0; i < r->now.n_layer; i++) {
        if (!r->now.layer[i].n_expert)
            continue;
        e->layer[e->n_layer++] = (uint16_t)i;
        e->n_expert = ui_max_u32(e->n_expert, r->now.layer[i].n_expert);
        e->n_dead += run_n_dead(r, i);
    }
}

static float heat_part(const void *of, uint32_t row, uint32_t col)
{
    const struct experts *e = of;
    uint32_t i = e->layer[row];
    return col < e->run->now.layer[i].n_expert ? (float)run_expert_part(e->run, i, col) : -1;
}

static uint32_t busiest(const struct run *r, uint32_t i)
{
    for (uint32_t k = 0; k < r->now.layer[i].n_expert; k++)
        if (run_expert_part(r, i, k) >= 1)
            return k;
    return 0;
}

/* A ring on each expert that nobody chose, where that says something. */
static void mark_dead(const struct panel_in *in, SDL_FRect r, const struct heat *h,
                      const struct experts *e)
{
    struct gui *g = in->g;
    for (uint32_t row = 0; row < e->n_layer; row++) {
        if (!run_n_dead(e->run, e->layer[row]))
            continue;
        for (uint32_t k = 0; k < e->run->now.layer[e->layer[row]].n_expert; k++) {
            SDL_FRect c = widget_heat_cell(g, r, h, row, k);
            if (run_expert_part(e->run, e->layer[row], k) > 0 || c.w < 3)
                continue;
            widget_mark(g, c.x + c.w / 2, c.y + c.h / 2, fminf(fminf(c.w, c.h) * 0.7f, 9),
                        MARK_CROSS, g->t->bad);
        }
    }
}

/* Beside a row of the map: how evenly its experts were chosen, and which one most. */
static void row_words(const struct panel_in *in, SDL_FRect r, const struct experts *e, uint32_t row)
{
    struct gui *g = in->g;
    uint32_t i = e->layer[row];
    layer l = &e->run->now.layer[i];
    char text[48];
    SDL_snprintf(text, sizeof text, "%u", i);
    draw_label(g->d, (SDL_FRect){ r.x, r.y, 34, r.h }, ALIGN_RIGHT, FACE_SMALL, g->t->faint, text);
    if (!l->n_chosen || r.w < 300)
        return;
    float x = r.x + r.w - EVEN_W;
    widget_bar(g, (SDL_FRect){ x + 12, r.y + r.h / 2 - 2.5f, 38, 5 }, l->load_even,
               l->load_even < 0.7f ? g->t->warn : g->t->accent);
    SDL_snprintf(text, sizeof text, "%.2f", (double)l->load_even);
    draw_label(g->d, (SDL_FRect){ x + 52, r.y, 32, r.h }, ALIGN_RIGHT, FACE_SMALL, g->t->muted,
               text);
    SDL_snprintf(text, sizeof text, "e%u", busiest(e->run, i));
    draw_label(g->d, (SDL_FRect){ x + 90, r.y, EVEN_W - 90, r.h }, ALIGN_RIGHT, FACE_SMALL,
               g->t->muted, text);
}

static void expert_tip(const struct panel_in *in, const struct experts *e, struct heat_cell at)
{
    uint32_t i = e->layer[at.row];
    layer l = &e->run->now.layer[i];
    double p = run_expert_part(e->run, i, at.col), share = p * (double)l->load_max;
    gui_tip(in->g,
            "layer %u, expert %u\nof the layer's choices\t%.2f %%\nof the busiest one's\t"
            "%.0f %%\nif all were alike\t%.2f %%",
            i, at.col, 100 * share, 100 * p, 100.0 / l->n_expert);
}

/* From never to as often as the busiest. */
static void heat_scale(const struct panel_in *in, SDL_FRect r)
{
    struct gui *g = in->g;
    draw_label(g->d, (SDL_FRect){ r.x, r.y, 40, r.h }, ALIGN_LEFT, FACE_SMALL, g->t->faint,
               "never");
    for (int i = 0; i < 40; i++)
        draw_box(g->d, (SDL_FRect){ r.x + 42 + 3 * (float)i, r.y + 4, 3, r.h - 8 },
                 theme_heat(g->t, (float)i / 39));
    draw_label(g->d, (SDL_FRect){ r.x + 170, r.y, 200, r.h }, ALIGN_LEFT, FACE_SMALL, g->t->faint,
               "as often as the layer's busiest");
}

static float experts_card(const struct panel_in *in, SDL_FRect r, const struct experts *e,
                          float room)
{
    struct gui *g = in->g;
    char right[96];
    float fixed = panel_card_height(18 + 24, true);
    float cell = (room - fixed) / (float)e->n_layer;
    cell = fminf(fmaxf(cell, MIN_CELL_H), MAX_CELL_H);
    float h = fixed + cell * (float)e->n_layer;
    SDL_snprintf(right, sizeof right,
                 e->n_dead ? "%u layers of %u experts, %u never chosen (crosses)"
                           : "%u layers of %u experts",
                 e->n_layer, e->n_expert, e->n_dead);
    SDL_FRect at =
        panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, "How often each expert is chosen", right);
    bool words = at.w >= 300;
    SDL_FRect map = { at.x + 42, at.y + 18, at.w - 42 - (words ? EVEN_W : 0),
                      cell * (float)e->n_layer };
    if (words) {
        float x = at.x + at.w - EVEN_W;
        draw_label(g->d, (SDL_FRect){ x + 12, at.y, 72, 16 }, ALIGN_LEFT, FACE_SMALL, g->t->faint,
                   "evenness");
        draw_label(g->d, (SDL_FRect){ x + 84, at.y, EVEN_W - 84, 16 }, ALIGN_RIGHT, FACE_SMALL,
                   g->t->faint, "busiest");
    }
    draw_label(g->d, (SDL_FRect){ at.x, at.y, 34, 16 }, ALIGN_RIGHT, FACE_SMALL, g->t->faint,
               "layer");
    const struct heat heat = {
        .rows = e->n_layer, .cols = e->n_expert, .part = heat_part, .of = e
    };
    struct heat_cell over = widget_heat(g, map, &heat);
    mark_dead(in, map, &heat, e);
    for (uint32_t i = 0; i < e->n_layer; i++)
        row_words(in, (SDL_FRect){ at.x, map.y + (float)i * cell, at.w, cell }, e, i);
    heat_scale(in, (SDL_FRect){ map.x, map.y + map.h + 6, map.w, 16 });
    if (over.hit)
        expert_tip(in, e, over);
    return h;
}

/* ---- the panel ------------------------------------------------------------------------------- */

static float draw(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    struct experts e;
    find_experts(run, &e);
    bool gates = has_gates(run);
    if (!gates && !e.n_layer) {
        if (run->life == RUN_ALIVE && !run->from_log)
            return panel_empty(
                in, r, "No layer has reported yet",
                "The process is asked to look at its layers while this panel is open.\n"
                "It fills with the next tokens or rows, where the model has recurrent\n"
                "layers or experts.");
        return panel_empty(in, r, "Nothing is known of the layers",
                           "A process reports them while this panel is open,\n"
                           "and writes them to its log (--log-json).");
    }
    float y = r.y;
    if (gates)
        y += gates_card(in, (SDL_FRect){ r.x, y, r.w, 0 }) + PANEL_GAP;
    if (e.n_layer)
        y += experts_card(in, (SDL_FRect){ r.x, y, r.w, 0 }, &e, r.y + r.h - y) + PANEL_GAP;
    return y - PANEL_GAP - r.y;
}

static void csv(const struct panel_in *in, FILE *to)
{
    const struct run *r = in->run;
    fputs(
        "layer,heads,decay,decay_min,decay_max,write,state_rms,state_max,delta_max,experts,chosen,"
        "evenness,busiest,never_chosen\n",
        to);
    for (uint32_t i = 0; i < r->now.n_layer; i++) {
        layer l = &r->now.layer[i];
        fprintf(to, "%u,%u,%.6g,%.6g,%.6g,%.6g,", i, l->n_head, (double)l->decay,
                (double)l->decay_min, (double)l->decay_max, (double)l->write);
        if (r->infinite[i])
            fputs("inf,inf", to);
        else
            fprintf(to, "%.6g,%.6g", (double)l->state_rms, (double)l->state_max);
        fprintf(to, ",%.6g,%u,%llu,%.6g,%u,%u\n", (double)l->delta_max, l->n_expert,
                (unsigned long long)l->n_chosen, (double)l->load_even,
                l->n_expert ? busiest(r, i) : 0, run_n_dead(r, i));
    }
}

const struct panel panel_layers = {
    .name = "layers", .title = "Layers", .want = RING_TELL_LAYERS, .draw = draw, .csv = csv
};
