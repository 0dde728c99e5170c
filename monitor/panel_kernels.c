/* panel_kernels: what the device spends its time on, kernel by kernel and layer by layer, and how
 * near each kernel comes to what the device can move and compute. The process times its kernels
 * while this panel is open. */
#include "panels.h"

#include <math.h>
#include <string.h>

enum { N_SHOWN = 7 }; /* kernels with a segment of their own; the rest are one */

struct keep {
    struct table_state table;
};

struct sums {
    double us, bytes, flop, calls;
    uint32_t most; /* the kernel that takes most time */
};

static struct sums sums_of(const struct run *r)
{
    struct sums s = { 0 };
    for (uint32_t i = 0; i < r->now.n_kernel; i++) {
        const struct hlm_kernel_count *k = &r->now.kernel[i];
        s.us += k->us;
        s.bytes += (double)k->bytes;
        s.flop += k->flop;
        s.calls += (double)k->n;
        if (k->us > r->now.kernel[s.most].us)
            s.most = i;
    }
    return s;
}

static double part(double v, double of) { return of > 0 ? v / of : 0; }
/* Bytes or operations in microseconds as 10^9 a second. NaN: there is no time. */
static double giga(double n, double us) { return us > 0 ? n / us * 1e-3 : (double)NAN; }

/* ---- above the table ------------------------------------------------------------------------- */

static float tiles(const struct panel_in *in, SDL_FRect r, const struct sums *s)
{
    const struct hlm_kernel_count *top = &in->run->now.kernel[s->most];
    char v[4][32], below[4][64], n[32];
    SDL_snprintf(v[0], sizeof v[0], "%s", span_text(s->us * 1e-6).s);
    char *unit = strchr(v[0], ' ');
    if (unit && !strchr(unit + 1, ' '))
        *unit++ = 0;
    else
        unit = NULL;
    show_count(s->calls, n, sizeof n);
    SDL_snprintf(below[0], sizeof below[0], "in %s calls of %u kernels", n,
                 (unsigned)in->run->now.n_kernel);
    SDL_snprintf(v[1], sizeof v[1], "%.0f", 100 * part(top->us, s->us));
    SDL_snprintf(below[1], sizeof below[1], "%s", top->name);
    show_rate(giga(s->bytes, s->us), v[2], sizeof v[2]);
    show_rate(giga(s->flop, s->us), v[3], sizeof v[3]);
    const struct tile t[4] = {
        { "Time in kernels", v[0], unit, below[0], -1, { 0 } },
        { "The busiest takes", v[1], "%", below[1], (float)part(top->us, s->us), { 0 } },
        { "Memory traffic", v[2], "GB/s", "of all kernels, on average", -1, { 0 } },
        { "Arithmetic", v[3], "GFLOP/s", "of all kernels, on average", -1, { 0 } },
    };
    return panel_tiles(in, r, t, 4);
}

/* The largest first; what has no segment of its own is the last. */
static float shares(const struct panel_in *in, SDL_FRect r, const struct sums *s)
{
    const struct hlm_counters *c = &in->run->now;
    struct gui *g = in->g;
    struct segment seg[N_SHOWN + 1];
    char text[N_SHOWN + 1][16];
    bool used[HLM_MAX_COUNTED] = { 0 };
    uint32_t n = 0;
    double rest = 1;
    for (; n < N_SHOWN && n < c->n_kernel; n++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t i = 0; i < c->n_kernel; i++)
            if (!used[i] && (best == UINT32_MAX || c->kernel[i].us > c->kernel[best].us))
                best = i;
        used[best] = true;
        double p = part(c->kernel[best].us, s->us);
        rest -= p;
        SDL_snprintf(text[n], sizeof text[n], "%.1f %%", 100 * p);
        seg[n] = (struct segment){ c->kernel[best].name, text[n], p, g->t->series[n], false };
    }
    if (c->n_kernel > n && rest > 0) {
        SDL_snprintf(text[n], sizeof text[n], "%.1f %%", 100 * rest);
        seg[n] = (struct segment){ "the others", text[n], rest, g->t->series[N_SERIES_COLOR - 1],
                                   false };
        n++;
    }
    float legend = widget_legend_height(g, r.w - 2 * PANEL_PAD, seg, n);
    float h = panel_card_height(22 + 10 + legend, true);
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, "Where the time goes",
                              in->run->life == RUN_ALIVE ? "since this panel was first opened"
                                                         : "as last seen");
    int over = widget_segments(g, (SDL_FRect){ at.x, at.y, at.w, 22 }, seg, n);
    widget_legend(g, (SDL_FRect){ at.x, at.y + 32, at.w, legend }, seg, n, over);
    if (over >= 0)
        gui_tip(g, "%s\nshare of the time\t%s", seg[over].name, seg[over].value);
    return h;
}

/* ---- layers ---------------------------------------------------------------------------------- */

#define LAYER_H 64.0f /* of the column of the busiest */

static void layer_column(const struct panel_in *in, SDL_FRect at, uint32_t i, double most,
                         double all)
{
    struct gui *g = in->g;
    double us = (double)in->run->now.layer[i].us;
    float high = fmaxf(LAYER_H * (float)part(us, most), us > 0 ? 1 : 0);
    float wide = fminf(fmaxf(at.w * 0.62f, 1), 24);
    bool over = gui_hover(g, at);
    draw_box(g->d, (SDL_FRect){ at.x + (at.w - wide) / 2, at.y + LAYER_H - high, wide, high },
             over ? g->t->text : g->t->accent);
    if (over)
        gui_tip(g, "layer %u\nshare of the time\t%.1f %%\nin its kernels\t%s", i,
                100 * part(us, all), span_text(us * 1e-6).s);
}

/* A column a layer. What no layer does, such as the head, is in none. Returns how high it is; 0:
 * layers were not timed. */
static float by_layer(const struct panel_in *in, SDL_FRect r, const struct sums *s)
{
    const struct hlm_counters *c = &in->run->now;
    struct gui *g = in->g;
    uint32_t busiest = 0;
    double sum = 0;
    char text[96];
    for (uint32_t i = 0; i < c->n_layer; i++) {
        busiest = c->layer[i].us > c->layer[busiest].us ? i : busiest;
        sum += (double)c->layer[i].us;
    }
    if (!(sum > 0))
        return 0;
    SDL_snprintf(text, sizeof text, "%.1f %% outside of layers",
                 100 * fmax(1 - part(sum, s->us), 0));
    float h = panel_card_height(LAYER_H + 18, true);
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, r.y, r.w, h }, "Time by layer", text);
    float wide = at.w / (float)c->n_layer;
    uint32_t step = (uint32_t)ceilf(26 / wide);
    draw_rule(g->d, at.x, at.y + LAYER_H, at.w, g->t->border);
    for (uint32_t i = 0; i < c->n_layer; i++) {
        SDL_FRect column = { at.x + (float)i * wide, at.y, wide, LAYER_H };
        layer_column(in, column, i, (double)c->layer[busiest].us, s->us);
        SDL_snprintf(text, sizeof text, "%u", i);
        if (i % step == 0)
            draw_label(g->d, (SDL_FRect){ column.x + wide / 2 - 15, at.y + LAYER_H + 3, 30, 16 },
                       ALIGN_CENTER, FACE_SMALL, g->t->faint, text);
    }
    return h;
}

/* ---- the table ------------------------------------------------------------------------------- */

struct rows {
    const struct run *run;
    double us;
};

enum { COL_NAME, COL_SHARE, COL_TIME, COL_CALLS, COL_EACH, COL_BYTES, COL_FLOP };

static const struct table_col wide_cols[] = {
    { "kernel", 0, ALIGN_LEFT, false },           { "share", 190, ALIGN_RIGHT, true },
    { "time, ms", 96, ALIGN_RIGHT, true },        { "calls", 88, ALIGN_RIGHT, true },
    { "a call, \u00b5s", 92, ALIGN_RIGHT, true }, { "GB/s", 84, ALIGN_RIGHT, true },
    { "GFLOP/s", 92, ALIGN_RIGHT, true },
};
static const struct table_col narrow_cols[] = {
    { "kernel", 0, ALIGN_LEFT, false },
    { "share", 120, ALIGN_RIGHT, true },
    { "time, ms", 84, ALIGN_RIGHT, true },
    { "calls", 76, ALIGN_RIGHT, true },
};

/* digits: of large numbers; small ones have two. */
static void number(double v, int digits, struct table_cell *out)
{
    digits = v < 10 ? 2 : digits;
    out->sort = v;
    if (isfinite(v))
        SDL_snprintf(out->text, sizeof out->text, "%.*f", digits, v);
    else
        SDL_snprintf(out->text, sizeof out->text, "-");
}

static void cell(const void *of, uint32_t row, uint32_t col, struct table_cell *out)
{
    const struct rows *t = of;
    const struct hlm_kernel_count *k = &t->run->now.kernel[row];
    double share = part(k->us, t->us);
    switch (col) {
    case COL_NAME: SDL_snprintf(out->text, sizeof out->text, "%s", k->name); break;
    case COL_SHARE:
        out->sort = share;
        SDL_snprintf(out->text, sizeof out->text, "%.1f %%", 100 * share);
        out->bar = (float)share; /* beneath figures, which reach no lower than the line */
        break;
    case COL_TIME: number(k->us * 1e-3, 1, out); break;
    case COL_CALLS:
        out->sort = (double)k->n;
        show_count((double)k->n, out->text, sizeof out->text);
        break;
    case COL_EACH: number(k->n ? k->us / (double)k->n : (double)NAN, 1, out); break;
    case COL_BYTES: number(k->bytes ? giga((double)k->bytes, k->us) : (double)NAN, 1, out); break;
    case COL_FLOP: number(k->flop > 0 ? giga(k->flop, k->us) : (double)NAN, 1, out); break;
    }
}

static void tip(const struct panel_in *in, const struct rows *t, uint32_t row)
{
    const struct hlm_kernel_count *k = &t->run->now.kernel[row];
    char calls[32], bytes[32];
    show_count((double)k->n, calls, sizeof calls);
    show_bytes(k->n ? (double)k->bytes / (double)k->n : -1, bytes, sizeof bytes);
    gui_tip(in->g, "%s\nshare of the time\t%.1f %%\ncalls\t%s\ntouched a call\t%s", k->name,
            100 * part(k->us, t->us), calls, bytes);
}

/* ---- the panel ------------------------------------------------------------------------------- */

static float draw(const struct panel_in *in, SDL_FRect r)
{
    const struct run *run = in->run;
    struct keep *keep = in->keep;
    if (!run->now.n_kernel) {
        if (run->life == RUN_ALIVE && !run->from_log)
            return panel_empty(
                in, r, "No kernel has been timed yet",
                "The process is asked to time its kernels while this panel is open.\n"
                "The table fills with the next tokens or rows that it works on.");
        return panel_empty(in, r, "No kernel was timed",
                           "Kernels are timed while this panel is open on a running process.\n"
                           "A log has them when it was open on the process that wrote the log.");
    }
    struct sums s = sums_of(run);
    float y = r.y;
    y += tiles(in, (SDL_FRect){ r.x, y, r.w, 0 }, &s) + PANEL_GAP;
    y += shares(in, (SDL_FRect){ r.x, y, r.w, 0 }, &s) + PANEL_GAP;
    float layers = by_layer(in, (SDL_FRect){ r.x, y, r.w, 0 }, &s);
    y += layers > 0 ? layers + PANEL_GAP : 0;
    bool wide = r.w > 680;
    struct rows of = { run, s.us };
    struct table t = { .col = wide ? wide_cols : narrow_cols,
                       .n_col = wide ? ARRAY_LEN(wide_cols) : ARRAY_LEN(narrow_cols),
                       .n_row = (uint32_t)run->now.n_kernel,
                       .cell = cell,
                       .of = &of };
    float all = panel_card_height(widget_table_height(in->g, &t), false);
    /* It scrolls by itself where that shows enough of it; else the panel does. */
    float room = r.y + r.h - y, high = room >= fminf(all, 260) ? room : all;
    SDL_FRect at = panel_card(in, (SDL_FRect){ r.x, y, r.w, high }, NULL, NULL);
    at.x -= 8;
    at.w += 16;
    int over = widget_table(in->g, gui_id(&panel_kernels, 0), at, &t, &keep->table);
    if (over >= 0)
        tip(in, &of, (uint32_t)over);
    return y + high - r.y;
}

static void csv(const struct panel_in *in, FILE *to)
{
    fputs("kernel,calls,us,bytes,flop\n", to);
    for (uint32_t i = 0; i < in->run->now.n_kernel; i++) {
        const struct hlm_kernel_count *k = &in->run->now.kernel[i];
        csv_text(to, k->name);
        fprintf(to, ",%llu,%.3f,%llu,%.6g\n", (unsigned long long)k->n, k->us,
                (unsigned long long)k->bytes, k->flop);
    }
    for (uint32_t i = 0; i < in->run->now.n_layer; i++)
        if (in->run->now.layer[i].us > 0)
            fprintf(to, "layer %u,,%.3f,,\n", i, (double)in->run->now.layer[i].us);
}

const struct panel panel_kernels = { .name = "kernels",
                                     .title = "Kernels",
                                     .keep = sizeof(struct keep),
                                     .want = RING_TIME_KERNELS,
                                     .draw = draw,
                                     .csv = csv };
