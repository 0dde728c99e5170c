/* test_monitor_inside: the panels Memory, Kernels and Layers of hlm-monitor, drawn into memory from
 * runs whose right picture is known. That they stay in their place is test_monitor_panels's. */
#define _POSIX_C_SOURCE 200809L
#include "monitor_fake.h"
#include "monitor_pixels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define W 1000
#define H 1000

static struct gui gui;
static struct graph_view view;
static uint8_t keep[4096];
static const struct theme *t; /* of the picture */

/* Draws a panel with the pointer at x, y. */
static float drawn(const struct panel *p, const struct run *r, float x, float y, bool pressed)
{
    struct gui_input in = { .x = x, .y = y, .pressed = pressed };
    CHECK(p->keep <= sizeof keep);
    draw_clear(pic.draw, black);
    gui.d = pic.draw;
    gui.t = t;
    gui_begin(&gui, &in, 1);
    const struct panel_in panel = { .g = &gui, .run = r, .view = &view, .keep = keep };
    float used = p->draw(&panel, (SDL_FRect){ 0, 0, W, H });
    graph_view_end(&gui, &view);
    return used;
}

static void still(const struct panel *p, const struct run *r)
{
    drawn(p, r, -9, -9, false);
    gui_end(&gui);
    pixels_show();
}

static void has(enum face f, SDL_Color c, const char *text)
{
    CHECK_MSG(find_text(f, c, t->card, text, NULL, NULL), "there is no '%s'", text);
}

static void says(const struct panel *p, const struct run *r, const char *parts)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    const struct panel_in in = { .g = &gui, .run = r, .view = &view, .keep = keep };
    p->csv(&in, to);
    fclose(to);
    CHECK_SAYS(text, parts);
    free(text);
}

static bool begin(bool dark)
{
    t = theme_get(dark);
    memset(&view, 0, sizeof view);
    memset(keep, 0, sizeof keep);
    return pixels_begin(W, H, 1);
}

/* ---- empty ----------------------------------------------------------------------------------- */

static void empty(void)
{
    struct run *bare = run_create(), *chat = fake_chat(), *ended = fake_ended();
    if (test_case("a panel without data says what would fill it") && begin(true)) {
        still(&panel_memory, bare);
        has(FACE_TITLE, t->muted, "No memory is taken yet");
        still(&panel_kernels, chat);
        has(FACE_TITLE, t->muted, "No kernel has been timed yet");
        has(FACE_TEXT, t->faint,
            "The process is asked to time its kernels while this panel is open.");
        still(&panel_kernels, ended);
        has(FACE_TITLE, t->muted, "No kernel was timed");
        still(&panel_layers, chat);
        has(FACE_TITLE, t->muted, "No layer has reported yet");
        still(&panel_layers, ended);
        has(FACE_TITLE, t->muted, "Nothing is known of the layers");
    }
    CHECK_EQ(panel_kernels.want, RING_TIME_KERNELS);
    CHECK_EQ(panel_layers.want, RING_TELL_LAYERS);
    run_destroy(bare);
    run_destroy(chat);
    run_destroy(ended);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void memory(bool dark)
{
    struct run *r = fake_chat();
    const struct run_device *d = &r->device[0];
    if (test_case("memory: bars of the right length, plan beside real, %s",
                  dark ? "dark" : "light") &&
        begin(dark)) {
        still(&panel_memory, r);
        has(FACE_STRONG, t->text, "Radeon RX 7800 XT");
        has(FACE_STRONG, t->text, "812 MiB");
        has(FACE_TEXT, t->text, "160 MiB"); /* planned, more than the 141 that are taken */
        has(FACE_SMALL, t->faint, "room for 26 of 2.92 MiB");
        float x = 0, y = 0, most = W - 2 * PANEL_PAD - 128 - 2 * 92 - 8;
        for (uint32_t i = 0; i < d->n_purpose; i++) {
            const struct run_purpose *p = &d->purpose[i];
            if (!CHECK(find_text(FACE_TEXT, t->text, t->card, p->name, &x, &y)))
                continue;
            float want = most * (float)((double)p->real / (double)d->purpose[0].real);
            int got = longest_run(purpose_color(t, p->name), (int)y + 6, (int)y + 10);
            CHECK_MSG(fabsf((float)got - want) <= 3, "%s is %d long, expected %.1f", p->name, got,
                      (double)want);
        }
        drawn(&panel_memory, r, x + 20, y + 6, false);
        CHECK_SAYS(gui.tip, "io|now|12.0 MiB|planned|12.0 MiB|1.0 %");
        gui_end(&gui);
        says(&panel_memory, r, "device,purpose|Radeon RX 7800 XT,weights,851443712,851443712");
    }
    run_destroy(r);
}

/* Memory of the host has a card of its own, and does not count as the device's. */
static void memory_of_host(void)
{
    static struct ring_sample s;
    struct run *r = fake_idle();
    if (test_case("memory: what lies on the host is the host's") && begin(true)) {
        s.c = r->now;
        s.c.memory[4].on_host = 1;
        s.time_s = s.count_s = FAKE_CLOCK_S;
        run_take_sample(r, &s, 0);
        still(&panel_memory, r);
        has(FACE_STRONG, t->text, "host memory");
        CHECK_EQ(r->n_device, 2);
        CHECK_EQ(r->device[0].real, (1156ull - 76) << 20);
        says(&panel_memory, r, "host memory,snapshots,79691776");
    }
    run_destroy(r);
}

/* ---- kernels --------------------------------------------------------------------------------- */

static void kernels(void)
{
    struct run *r = fake_mixture();
    double us = 0;
    float first, second;
    char text[32];
    for (uint32_t i = 0; i < FAKE_KERNELS; i++)
        us += r->now.kernel[i].us;
    if (test_case("kernels: shares of the whole, and a table that is sorted by its heads") &&
        begin(true)) {
        still(&panel_kernels, r);
        int got = longest_run(t->accent, 150, 170); /* the bar of shares: the busiest */
        double want = (W - 2 * PANEL_PAD) * r->now.kernel[0].us / us;
        CHECK_MSG(fabs(got - want) <= 3, "the busiest is %d long, expected %.1f", got, want);
        has(FACE_TEXT, t->text, "300.0"); /* GB/s of the first */
        has(FACE_TEXT, t->text, "900.0"); /* GFLOP/s */
        snprintf(text, sizeof text, "%.1f %%", 100 * r->now.kernel[0].us / us);
        has(FACE_TEXT, t->text, text);
        CHECK(find_text(FACE_TEXT, t->text, t->card, "moe_down_q6_k", NULL, &first));
        CHECK(find_text(FACE_TEXT, t->text, t->card, "moe_combine", NULL, &second));
        CHECK(first < second);
        float x, y;
        if (CHECK(find_text(FACE_SMALL, t->faint, t->card, "calls", &x, &y))) {
            drawn(&panel_kernels, r, x + 4, y + 4, true);
            gui_end(&gui);
            drawn(&panel_kernels, r, x + 4, y + 4, true); /* the least calls on top */
            gui_end(&gui);
            still(&panel_kernels, r);
            CHECK(find_text(FACE_TEXT, t->text, t->card, "moe_down_q6_k", NULL, &first));
            CHECK(find_text(FACE_TEXT, t->text, t->card, "moe_combine", NULL, &second));
            CHECK_MSG(first > second, "at %g and %g", (double)first, (double)second);
        }
        says(&panel_kernels, r,
             "kernel,calls,us,bytes,flop|moe_gate_up_q4_k,24000,4000000.000|layer 23,,43000.000,,");
    }
    if (test_case("kernels: a column a layer, as high as its share of the busiest") &&
        begin(true)) {
        still(&panel_kernels, r);
        float y, wide = (W - 2 * PANEL_PAD) / (float)FAKE_LAYERS;
        if (!CHECK(find_text(FACE_STRONG, t->text, t->card, "Time by layer", NULL, &y)))
            goto out;
        for (uint32_t i = 0; i < FAKE_LAYERS; i += 23) {
            int x = (int)(PANEL_PAD + wide * ((float)i + 0.5f)), n = 0;
            for (int at = (int)y + 12; at < (int)y + 110; at++)
                n += same_color(pixel_at(x, at), t->accent);
            float want = 64 * (float)(20 + i) / 43;
            CHECK_MSG(fabsf((float)n - want) <= 1, "layer %u is %d high, expected %.1f", i, n,
                      (double)want);
        }
        drawn(&panel_kernels, r, PANEL_PAD + wide * 23.5f, y + 40, false);
        CHECK_SAYS(gui.tip, "layer 23|share of the time|in its kernels|43 ms");
        gui_end(&gui);
    }
out:
    run_destroy(r);
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* Where the heat map lies: below the head of its card. */
static bool find_map(SDL_FRect *out)
{
    float x, y;
    if (!CHECK(find_text(FACE_STRONG, t->text, t->card, "How often each expert is chosen", &x, &y)))
        return false;
    float top = y - 6 - (20 - draw_line_height(pic.draw, FACE_STRONG)) / 2;
    (void)top;
    float sx, sy;
    if (!CHECK(find_text(FACE_SMALL, t->faint, t->card, "never", &sx, &sy)))
        return false;
    *out = (SDL_FRect){ sx, y, W - PANEL_PAD - 150 - sx, sy - y };
    return true;
}

static void layers(void)
{
    struct run *r = fake_mixture();
    if (test_case("layers: every cell of the heat map has its colour") && begin(true)) {
        still(&panel_layers, r);
        has(FACE_STRONG, t->text, "Gates and states");
        has(FACE_SMALL, t->muted, "recurrent (filled): 18, others (rings): 6");
        has(FACE_SMALL, t->muted, "24 layers of 64 experts, 4 never chosen (crosses)");
        SDL_FRect map;
        if (!find_map(&map))
            goto out;
        /* Its rows: the busiest expert of layer 0 is the lightest cell of the topmost row. */
        SDL_Color top = theme_heat(t, 1);
        float cw = map.w / FAKE_EXPERTS;
        int x1 = (int)(map.x + cw * 1.5f), y0 = -1;
        for (int y = (int)map.y; y < (int)(map.y + map.h) && y0 < 0; y++)
            if (same_color(pixel_at(x1, y), top))
                y0 = y;
        if (!CHECK_MSG(y0 > 0, "no cell of expert 1 of layer 0"))
            goto out;
        float ch = 0;
        for (int y = y0; y < y0 + 60 && ch == 0; y++) /* layer 1: expert 8 */
            if (same_color(pixel_at((int)(map.x + cw * 8.5f), y), top))
                ch = (float)(y - y0);
        CHECK_MSG(ch >= 13 && ch <= 22, "rows are %g high", (double)ch);
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < FAKE_LAYERS; i++)
            for (uint32_t e = 0; e < FAKE_EXPERTS; e++) {
                if (!fake_bar(i, e))
                    continue; /* a cross lies on it */
                SDL_Color got = pixel_at((int)(map.x + cw * ((float)e + 0.5f)),
                                         (int)((float)y0 + ch * ((float)i + 0.5f)));
                wrong += !same_color(got, theme_heat(t, (float)fake_bar(i, e) / 255.0f));
            }
        CHECK_EQ(wrong, 0);
        test_case("layers: what is pointed at is named");
        drawn(&panel_layers, r, map.x + cw * 12.5f, (float)y0 + ch * 5.5f, false);
        CHECK_SAYS(gui.tip, "layer 5, expert 12|of the layer's choices|if all were alike|1.56 %");
        gui_end(&gui);
        drawn(&panel_layers, r, 16 + 128 + 35 * 4.5f, 120, false);
        CHECK_SAYS(gui.tip, "layer 4|recurrent|decay|0.74|write|0.54|state|0.3 rms|at most 8");
        gui_end(&gui);
        says(&panel_layers, r, "layer,heads|5,16,0.75|64,200000|36,4");
    }
out:
    run_destroy(r);
}

/* A state that is not finite is a cross in its column, and stretches no scale. */
static void infinite(void)
{
    static struct ring_sample s;
    struct run *r = fake_mixture();
    if (test_case("layers: a state that is not finite is marked") && begin(true)) {
        s.c = r->now;
        s.c.layer[4].state_rms = s.c.layer[4].state_max = INFINITY;
        s.time_s = s.count_s = FAKE_CLOCK_S + 1;
        run_take_sample(r, &s, 0);
        still(&panel_layers, r);
        bool cross = false;
        float x = 16 + 128 + 35 * 4.5f;
        for (int y = 180; y < 320; y++)
            cross |= same_color(pixel_at((int)x, y), t->bad);
        CHECK_MSG(cross, "no cross in the column of layer 4");
        has(FACE_SMALL, t->faint, "100"); /* the scale is still that of the others */
        drawn(&panel_layers, r, x, 120, false);
        CHECK_SAYS(gui.tip, "layer 4|state|not finite");
        gui_end(&gui);
        says(&panel_layers, r, "4,16|inf,inf");
    }
    run_destroy(r);
}

void test_monitor_inside(void)
{
    empty();
    memory(true);
    memory(false);
    memory_of_host();
    kernels();
    layers();
    infinite();
    pixels_end();
}
