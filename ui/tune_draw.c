/* tune_draw: a picture of losses by step, with Cairo. See tune_plot.h.
 *
 * The loss of single steps jumps about, so it is drawn faintly, and over it a line through it. A
 * validation is a point; the best has a label. */
#include "tune_plot.h"

#ifndef HLM_CAIRO

uint8_t *plot_draw(const struct plot_series *s, uint32_t n, uint64_t *n_bytes, struct hlm_err *err)
{
    (void)s, (void)n;
    *n_bytes = 0;
    ui_fail(err, "hlm-tune was built without Cairo, so it writes .csv but draws no .png: install "
                 "libcairo2-dev and pkg-config, and build it again");
    return NULL;
}

#else
#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In units of which two make a pixel of the file each way. */
enum { WIDTH = 840, HEIGHT = 500, LEFT = 64, RIGHT = 24, TOP = 46, BOTTOM = 52, SCALE = 2 };
enum { MAX_TICK = 12, N_COLOR = 8 };

static const uint32_t colors[N_COLOR] = { 0x2868b0, 0xd1495b, 0x2f9e72, 0xe0962a,
                                          0x7a51a5, 0x2aa3b8, 0x8c6d46, 0x5c6b73 };

struct chart {
    cairo_t *c;
    double x0, x1, y0, y1; /* steps and losses at the edges */
};

static double at_x(const struct chart *t, double step)
{
    return LEFT + (step - t->x0) / (t->x1 - t->x0) * (WIDTH - LEFT - RIGHT);
}

static double at_y(const struct chart *t, double loss)
{
    return HEIGHT - BOTTOM - (loss - t->y0) / (t->y1 - t->y0) * (HEIGHT - TOP - BOTTOM);
}

static void paint(cairo_t *c, uint32_t rgb, double alpha)
{
    cairo_set_source_rgba(c, (rgb >> 16 & 255) / 255.0, (rgb >> 8 & 255) / 255.0,
                          (rgb & 255) / 255.0, alpha);
}

/* ---- text ------------------------------------------------------------------------------------ */

enum align { ALIGN_LEFT, ALIGN_CENTER, ALIGN_RIGHT };

static double text_width(cairo_t *c, const char *s)
{
    cairo_text_extents_t e;
    cairo_text_extents(c, s, &e);
    return e.x_advance;
}

static void put_text(cairo_t *c, double x, double y, enum align a, const char *s)
{
    double w = text_width(c, s);
    cairo_move_to(c, x - (a == ALIGN_CENTER ? w / 2 : a == ALIGN_RIGHT ? w : 0), y);
    cairo_show_text(c, s);
    cairo_new_path(c); /* else a line would begin where the text ends */
}

static void font(cairo_t *c, double size, bool bold)
{
    cairo_select_font_face(c, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c, size);
}

/* ---- axes ------------------------------------------------------------------------------------ */

/* A distance of 1, 2 or 5 times a power of ten, of which about `n` fit. */
static double nice_step(double range, double n)
{
    double raw = range / n, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10);
}

static void widen(double v, double *lo, double *hi)
{
    *lo = fmin(*lo, v);
    *hi = fmax(*hi, v);
}

static void find_range(struct chart *t, const struct plot_series *s, uint32_t n)
{
    t->x0 = t->y0 = INFINITY;
    t->x1 = t->y1 = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        for (uint64_t k = 0; k < s[i].n_train; k++) {
            widen(s[i].train[k].step, &t->x0, &t->x1);
            widen(s[i].train[k].loss, &t->y0, &t->y1);
        }
        for (uint64_t k = 0; k < s[i].n_valid; k++) {
            widen(s[i].valid[k].step, &t->x0, &t->x1);
            widen(s[i].valid[k].loss, &t->y0, &t->y1);
        }
    }
    t->x0 = t->x0 <= 0.1 * t->x1 ? 0 : t->x0; /* a run that was continued begins where it does */
    if (t->x1 - t->x0 < 1)
        t->x1 = t->x0 + 1;
    if (t->y1 - t->y0 < 1e-9 * fabs(t->y1) + 1e-12) { /* all losses are the same */
        double room = fabs(t->y1) > 0 ? 0.1 * fabs(t->y1) : 1;
        t->y0 -= room;
        t->y1 += room;
    }
    double step = nice_step(t->y1 - t->y0, 6);
    t->y0 = t->y0 >= 0 && t->y0 < 0.35 * t->y1 ? 0 : floor(t->y0 / step - 0.25) * step;
    t->y1 = ceil(t->y1 / step + 0.1) * step;
}

static void draw_axes(const struct chart *t)
{
    cairo_t *c = t->c;
    char label[40];
    double dx = fmax(nice_step(t->x1 - t->x0, 8), 1), dy = nice_step(t->y1 - t->y0, 6);
    font(c, 11, false);
    cairo_set_line_width(c, 1);
    for (uint32_t i = 0; i <= 2 * MAX_TICK; i++) {
        double v = t->y0 + i * dy, y = floor(at_y(t, v)) + 0.5;
        if (v > t->y1 + 1e-6 * dy)
            break;
        paint(c, i ? 0xe8eaed : 0x9aa0a6, 1);
        cairo_move_to(c, LEFT, y);
        cairo_line_to(c, WIDTH - RIGHT, y);
        cairo_stroke(c);
        snprintf(label, sizeof label, "%.*f", dy < 1 ? (int)ceil(-log10(dy) - 1e-9) : 0, v);
        paint(c, 0x5f6368, 1);
        put_text(c, LEFT - 8, y + 4, ALIGN_RIGHT, label);
    }
    for (uint32_t i = 0; i <= 2 * MAX_TICK; i++) {
        double v = (ceil(t->x0 / dx - 1e-9) + i) * dx, x = floor(at_x(t, v)) + 0.5;
        if (v > t->x1 + 1e-6 * dx)
            break;
        paint(c, 0x9aa0a6, 1);
        cairo_move_to(c, x, HEIGHT - BOTTOM);
        cairo_line_to(c, x, HEIGHT - BOTTOM + 4);
        cairo_stroke(c);
        snprintf(label, sizeof label, "%.0f", v);
        paint(c, 0x5f6368, 1);
        put_text(c, x, HEIGHT - BOTTOM + 18, ALIGN_CENTER, label);
    }
    font(c, 12, false);
    paint(c, 0x3c4043, 1);
    put_text(c, LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - 12, ALIGN_CENTER, "step");
    cairo_save(c);
    cairo_translate(c, 18, TOP + (HEIGHT - TOP - BOTTOM) / 2.0);
    cairo_rotate(c, -acos(-1) / 2);
    put_text(c, 0, 0, ALIGN_CENTER, "loss (nats per token)");
    cairo_restore(c);
}

/* ---- curves ---------------------------------------------------------------------------------- */

/* The mean of the 2 w + 1 numbers around each, fewer at the ends. */
static void blur(const double *from, double *to, uint64_t n, uint64_t w)
{
    double sum = 0;
    for (uint64_t i = 0; i < n && i < w; i++)
        sum += from[i];
    for (uint64_t i = 0; i < n; i++) {
        uint64_t a = i > w ? i - w : 0, b = ui_min_u64(i + w, n - 1);
        sum += i + w < n ? from[i + w] : 0;
        to[i] = sum / (double)(b - a + 1);
        sum -= i >= w ? from[i - w] : 0;
    }
}

/* A line through the losses that follows what is wider than about a fortieth of the run. */
static double *smooth(const struct plot_series *s)
{
    uint64_t n = s->n_train, w = n / 80 + (n > 4);
    double *a = ui_alloc(2 * n + 1, sizeof *a), *b = a ? a + n : NULL;
    for (uint64_t i = 0; a && i < n; i++)
        a[i] = s->train[i].loss;
    for (uint32_t k = 0; a && k < 2; k++) { /* four means in a row are nearly a Gaussian */
        blur(a, b, n, w);
        blur(b, a, n, w);
    }
    return a;
}

/* Of a long run only so many points as the picture can show; none is left out that stands out. */
static void draw_line(const struct chart *t, const struct plot_series *s, const double *y)
{
    double last = -1, lo = 0, hi = 0;
    for (uint64_t i = 0; i < s->n_train; i++) {
        double x = at_x(t, s->train[i].step), v = at_y(t, y ? y[i] : s->train[i].loss);
        if (!i || x - last >= 0.5 || x < last) {
            cairo_line_to(t->c, x, v);
            last = x;
            lo = hi = v;
        } else if (v < lo || v > hi) {
            cairo_line_to(t->c, x, v);
            widen(v, &lo, &hi);
        }
    }
    cairo_stroke(t->c);
}

static void dot(cairo_t *c, double x, double y, uint32_t color, bool full)
{
    cairo_new_path(c);
    cairo_arc(c, x, y, full ? 5 : 3.5, 0, 2 * acos(-1));
    paint(c, full ? color : 0xffffff, 1);
    cairo_fill_preserve(c);
    paint(c, color, 1);
    cairo_set_line_width(c, 1.8);
    cairo_stroke(c);
}

static uint64_t best_of(const struct plot_series *s)
{
    uint64_t best = 0;
    for (uint64_t i = 1; i < s->n_valid; i++)
        best = s->valid[i].loss < s->valid[best].loss ? i : best;
    return best;
}

/* The best validation, with its loss; below: the label is under its point. */
static void draw_best(const struct chart *t, const struct plot_series *s, uint32_t color,
                      bool below)
{
    cairo_t *c = t->c;
    char label[80];
    if (!s->n_valid)
        return;
    const struct plot_point *p = &s->valid[best_of(s)];
    double x = at_x(t, p->step), y = at_y(t, p->loss);
    dot(c, x, y, color, true);
    snprintf(label, sizeof label, "best %.4f, step %.0f", p->loss, p->step);
    font(c, 11, true);
    double w = text_width(c, label), left = fmin(fmax(x - w / 2, LEFT + 4), WIDTH - RIGHT - w - 2);
    bool under = (below && y + 26 < HEIGHT - BOTTOM) || y - 34 < TOP;
    double base = under ? y + 21 : y - 12;
    paint(c, 0xffffff, 0.8); /* it stands on curves */
    cairo_rectangle(c, left - 3, base - 11, w + 6, 15);
    cairo_fill(c);
    paint(c, color, 1);
    put_text(c, left, base, ALIGN_LEFT, label);
}

static void draw_valid(const struct chart *t, const struct plot_series *s, uint32_t color)
{
    cairo_t *c = t->c;
    if (!s->n_valid)
        return;
    cairo_set_dash(c, (double[]){ 5, 4 }, 2, 0);
    cairo_set_line_width(c, 1.4);
    paint(c, color, 0.9);
    for (uint64_t i = 0; i < s->n_valid; i++)
        cairo_line_to(c, at_x(t, s->valid[i].step), at_y(t, s->valid[i].loss));
    cairo_stroke(c);
    cairo_set_dash(c, NULL, 0, 0);
    for (uint64_t i = 0; i < s->n_valid; i += s->n_valid / 60 + 1)
        dot(c, at_x(t, s->valid[i].step), at_y(t, s->valid[i].loss), color, false);
}

/* ---- what the lines mean --------------------------------------------------------------------- */

struct legend {
    const char *text;
    uint32_t color;
    enum { LINE_FAINT, LINE_FULL, LINE_POINTS } line;
};

static void draw_legend(cairo_t *c, const struct legend *l, uint32_t n)
{
    font(c, 11, false);
    double wide = 0, x, y = TOP + 8;
    for (uint32_t i = 0; i < n; i++)
        wide = fmax(wide, text_width(c, l[i].text));
    x = WIDTH - RIGHT - wide - 52;
    paint(c, 0xffffff, 0.88);
    cairo_rectangle(c, x - 8, y - 4, wide + 54, 17.0 * n + 8);
    cairo_fill(c);
    for (uint32_t i = 0; i < n; i++, y += 17) {
        cairo_set_line_width(c, l[i].line == LINE_FULL ? 2.2 : 1.4);
        cairo_set_dash(c, (double[]){ 5, 4 }, l[i].line == LINE_POINTS ? 2 : 0, 0);
        paint(c, l[i].color, l[i].line == LINE_FAINT ? 0.35 : 1);
        cairo_move_to(c, x, y + 8);
        cairo_line_to(c, x + 26, y + 8);
        cairo_stroke(c);
        cairo_set_dash(c, NULL, 0, 0);
        if (l[i].line == LINE_POINTS)
            dot(c, x + 13, y + 8, l[i].color, false);
        paint(c, 0x3c4043, 1);
        put_text(c, x + 34, y + 12, ALIGN_LEFT, l[i].text);
    }
}

/* Of one run its lines are named, of several the runs. */
static void draw_legends(cairo_t *c, const struct plot_series *s, uint32_t n)
{
    struct legend l[N_COLOR + 1];
    uint32_t k = 0;
    if (n == 1 && s->n_train) {
        l[k++] = (struct legend){ "training, each step", colors[0], LINE_FAINT };
        l[k++] = (struct legend){ "training, smoothed", colors[0], LINE_FULL };
    }
    if (n == 1 && s->n_valid)
        l[k++] = (struct legend){ "validation", colors[1], LINE_POINTS };
    for (uint32_t i = 0; n > 1 && i < n && i < N_COLOR; i++)
        l[k++] = (struct legend){ s[i].name, colors[i], LINE_FULL };
    draw_legend(c, l, k);
}

static bool draw(cairo_t *c, const struct plot_series *s, uint32_t n)
{
    struct chart t = { .c = c };
    bool ok = true;
    cairo_scale(c, SCALE, SCALE);
    paint(c, 0xffffff, 1);
    cairo_paint(c);
    cairo_set_line_join(c, CAIRO_LINE_JOIN_ROUND);
    cairo_set_line_cap(c, CAIRO_LINE_CAP_ROUND);
    find_range(&t, s, n);
    draw_axes(&t);
    font(c, 15, true);
    paint(c, 0x202124, 1);
    put_text(c, LEFT, 28, ALIGN_LEFT, n == 1 ? s->name : "Loss");
    for (uint32_t i = 0; i < n; i++) {
        cairo_set_line_width(c, 1);
        paint(c, colors[i % N_COLOR], n > 1 ? 0.18 : 0.32);
        draw_line(&t, &s[i], NULL);
    }
    for (uint32_t i = 0; ok && i < n; i++) {
        double *mean = smooth(&s[i]);
        ok = mean != NULL;
        cairo_set_line_width(c, 2.2);
        paint(c, colors[i % N_COLOR], 1);
        if (ok)
            draw_line(&t, &s[i], mean);
        free(mean);
    }
    for (uint32_t i = 0; i < n; i++)
        draw_valid(&t, &s[i], colors[n == 1 ? 1 : i % N_COLOR]);
    for (uint32_t i = 0; i < n; i++)
        draw_best(&t, &s[i], colors[n == 1 ? 1 : i % N_COLOR], i % 2);
    draw_legends(c, s, n);
    return ok;
}

/* ---- the file -------------------------------------------------------------------------------- */

static cairo_status_t take_bytes(void *user, const unsigned char *s, unsigned n)
{
    return ui_add(user, (const char *)s, n) ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_NO_MEMORY;
}

/* The checksum of a piece of a PNG file. */
static uint32_t crc_of(const uint8_t *s, size_t n)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= s[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* Puts a text after the header, by which the picture is known as one of hlm-tune's. */
static bool add_mark(struct ui_bytes *to, const struct ui_bytes *png)
{
    enum { HEADER = 33 };
    size_t n = sizeof UI_PLOT_MARK - 1; /* type and text */
    uint32_t crc = crc_of((const uint8_t *)UI_PLOT_MARK, n), len = (uint32_t)n - 4;
    char size[4], sum[4];
    for (int i = 0; i < 4; i++) {
        size[i] = (char)(len >> (24 - 8 * i));
        sum[i] = (char)(crc >> (24 - 8 * i));
    }
    return png->n > HEADER && ui_add(to, png->s, HEADER) && ui_add(to, size, 4) &&
           ui_add(to, UI_PLOT_MARK, n) && ui_add(to, sum, 4) &&
           ui_add(to, png->s + HEADER, png->n - HEADER);
}

uint8_t *plot_draw(const struct plot_series *s, uint32_t n, uint64_t *n_bytes, struct hlm_err *err)
{
    struct ui_bytes png = { 0 }, out = { 0 };
    cairo_surface_t *image =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, WIDTH * SCALE, HEIGHT * SCALE);
    cairo_t *c = cairo_create(image);
    bool ok = draw(c, s, n) && cairo_status(c) == CAIRO_STATUS_SUCCESS &&
              cairo_surface_write_to_png_stream(image, take_bytes, &png) == CAIRO_STATUS_SUCCESS &&
              add_mark(&out, &png);
    cairo_destroy(c);
    cairo_surface_destroy(image);
    ui_bytes_free(&png);
    if (!ok) {
        ui_bytes_free(&out);
        ui_fail_memory(err, "out of memory for a picture");
        return NULL;
    }
    *n_bytes = out.n;
    return (uint8_t *)out.s;
}
#endif
