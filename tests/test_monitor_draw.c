/* test_monitor_draw: the drawing layer and the widgets of hlm-monitor, drawn into memory. What is
 * expected is computed, never a stored picture: another version of the font may come. */
#define _DEFAULT_SOURCE /* M_PI */
#include "monitor_pixels.h"

#include <math.h>
#include <string.h>

static void check_sum(double want, double within)
{
    double got = pixels_ink().sum;
    CHECK_MSG(fabs(got - want) <= within, "%.2f pixels are covered, expected %.2f", got, want);
}

/* ---- boxes and shapes ------------------------------------------------------------------------ */

static void boxes(void)
{
    static const float scales[] = { 1, 1.5f, 2 };
    for (uint32_t i = 0; i < ARRAY_LEN(scales); i++) {
        float s = scales[i];
        if (!test_case("a box has sharp edges at scale %g", (double)s) || !pixels_begin(60, 40, s))
            continue;
        draw_box(pic.draw, (SDL_FRect){ 10.2f, 5.1f, 20.1f, 10 }, white);
        check_pixels((int)roundf(10.2f * s), (int)roundf(5.1f * s), (int)roundf(30.3f * s),
                     (int)roundf(15.1f * s));
        struct ink k = pixels_ink();
        CHECK_EQ((int)k.sum, (k.x1 - k.x0) * (k.y1 - k.y0));
    }
    if (test_case("a rule is one pixel, and two at scale 2") && pixels_begin(60, 40, 1)) {
        draw_rule(pic.draw, 5, 7, 20, white);
        check_pixels(5, 7, 25, 8);
        pixels_begin(60, 40, 2);
        draw_post(pic.draw, 5, 7, 20, white);
        check_pixels(10, 14, 12, 54);
    }
    if (test_case("corners are round, sides are straight") && pixels_begin(60, 60, 1)) {
        draw_round(pic.draw, (SDL_FRect){ 10, 10, 40, 40 }, 8, white);
        check_pixels(10, 10, 50, 50);
        check_sum(40 * 40 - (4 - M_PI) * 64, 3);
        CHECK(same_color(pixel_at(10, 10), black) && same_color(pixel_at(10, 30), white));
    }
}

static void shapes(void)
{
    if (test_case("coverage is exact") && pixels_begin(40, 40, 1)) {
        const SDL_FPoint p[4] = { { 10.5f, 10.25f }, { 10.5f, 20 }, { 20, 20 }, { 20, 10.25f } };
        draw_polygon(pic.draw, p, 4, white);
        pixels_show();
        CHECK(abs(pixel_at(10, 15).r - 128) <= 1); /* blending rounds */
        CHECK(abs(pixel_at(15, 10).r - 191) <= 1);
        CHECK(abs(pixel_at(10, 10).r - 96) <= 1);
        CHECK_EQ(pixel_at(15, 15).r, 255);
        check_pixels(10, 10, 20, 20);
    }
    if (test_case("a slanted edge covers what it should") && pixels_begin(40, 40, 1)) {
        const SDL_FPoint p[3] = { { 3.3f, 2.1f }, { 36.7f, 13.9f }, { 9.4f, 37.2f } };
        double area = 0.5 * fabs((36.7 - 3.3) * (37.2 - 2.1) - (9.4 - 3.3) * (13.9 - 2.1));
        draw_polygon(pic.draw, p, 3, white);
        check_sum(area, 1);
    }
    if (test_case("a disc, a ring and an arc have their areas") && pixels_begin(60, 60, 2)) {
        draw_disc(pic.draw, 30, 30, 10, white);
        check_sum(M_PI * 400, 6);
        pixels_begin(60, 60, 2);
        draw_ring(pic.draw, 30, 30, 20, 5, white);
        check_sum(M_PI * (1600 - 900), 8);
        pixels_begin(60, 60, 2);
        draw_arc(pic.draw, (SDL_FPoint){ 30, 30 }, 20, 5, 0, 0.25f, white);
        check_sum(M_PI * (1600 - 900) / 4, 4);
        struct ink k = pixels_ink();
        CHECK(k.x0 == 60 && k.y1 == 60); /* a quarter from the top goes to the right */
    }
}

static void lines_and_areas(void)
{
    if (test_case("a line is as wide as it says") && pixels_begin(60, 40, 1)) {
        const SDL_FPoint p[3] = { { 10, 20 }, { 30, 20 }, { 50, 20 } };
        draw_line(pic.draw, p, 3, 2, white);
        pixels_show();
        CHECK(same_color(pixel_at(30, 19), white) && same_color(pixel_at(30, 20), white));
        CHECK(same_color(pixel_at(30, 18), black) && same_color(pixel_at(30, 21), black));
    }
    if (test_case("a line ends at a point that is none") && pixels_begin(60, 40, 1)) {
        const SDL_FPoint p[5] = { { 5, 20 }, { 15, 20 }, { NAN, 20 }, { 40, 20 }, { 50, 20 } };
        draw_line(pic.draw, p, 5, 2, white);
        pixels_show();
        CHECK(same_color(pixel_at(10, 20), white) && same_color(pixel_at(27, 20), black) &&
              same_color(pixel_at(45, 20), white));
    }
    if (test_case("an area reaches from the line to its level, and fades") &&
        pixels_begin(60, 60, 1)) {
        const SDL_FPoint p[3] = { { 10, 10 }, { 30, 30 }, { 50, 10 } };
        draw_area(pic.draw, p, 3, 50, 0.5f, white);
        pixels_show();
        check_pixels(10, 10, 50, 50);
        CHECK(same_color(pixel_at(30, 25), black) && pixel_at(30, 34).r > 150 &&
              pixel_at(30, 48).r < 145 && pixel_at(30, 48).r > 120);
    }
    if (test_case("what is no number, or far outside, draws nothing wrong") &&
        pixels_begin(40, 40, 1)) {
        const SDL_FPoint bad[4] = {
            { NAN, 3 }, { INFINITY, -INFINITY }, { 1e30f, 4 }, { 5, -1e30f }
        };
        draw_polygon(pic.draw, bad, 4, white);
        draw_line(pic.draw, bad, 4, 1, white);
        draw_area(pic.draw, bad, 4, NAN, 1, white);
        draw_disc(pic.draw, NAN, 4, 3, white);
        draw_box(pic.draw, (SDL_FRect){ NAN, 0, INFINITY, 4 }, black);
        draw_text(pic.draw, FACE_TEXT, white, NAN, 1e30f, "x");
        const SDL_FPoint wide[2] = { { -1e6f, 20 }, { 1e6f, 20 } };
        pixels_begin(40, 40, 1);
        draw_line(pic.draw, wide, 2, 2, white);
        check_pixels(0, 19, 40, 21);
    }
}

static void clips(void)
{
    if (!test_case("nothing is drawn outside of the clip, nor of the one before it") ||
        !pixels_begin(100, 100, 1))
        return;
    draw_clip(pic.draw, (SDL_FRect){ 20, 20, 60, 60 });
    draw_clip(pic.draw, (SDL_FRect){ 0, 40, 50, 60 });
    draw_box(pic.draw, (SDL_FRect){ 0, 0, 100, 100 }, white);
    draw_disc(pic.draw, 20, 40, 30, white);
    draw_text(pic.draw, FACE_HUGE, white, 10, 50, "WWWWWW");
    draw_line(pic.draw, (SDL_FPoint[]){ { 0, 0 }, { 100, 100 } }, 2, 9, white);
    check_pixels(20, 40, 50, 80);
    draw_clip(pic.draw, (SDL_FRect){ 90, 90, 5, 5 }); /* nothing of it is left */
    draw_box(pic.draw, (SDL_FRect){ 0, 0, 100, 100 }, white);
    draw_disc(pic.draw, 92, 92, 5, white);
    draw_text(pic.draw, FACE_HUGE, white, 80, 95, "WWWWWW");
    check_pixels(20, 40, 50, 80);
    draw_unclip(pic.draw);
    draw_unclip(pic.draw);
    draw_unclip(pic.draw);
    draw_box(pic.draw, (SDL_FRect){ 0, 0, 100, 100 }, white);
    check_pixels(0, 0, 100, 100);
}

/* ---- text ------------------------------------------------------------------------------------ */

static void texts(void)
{
    if (test_case("all figures are equally wide") && pixels_begin(200, 60, 1)) {
        for (int f = 0; f < N_FACE; f++)
            for (char c = '1'; c <= '9'; c++) {
                char s[4] = { c, c, c, 0 };
                float a = draw_text_width(pic.draw, (enum face)f, s);
                float b = draw_text_width(pic.draw, (enum face)f, "000");
                CHECK_MSG(a == b, "face %d: %s is %g wide, 000 is %g", f, s, (double)a, (double)b);
            }
    }
    if (test_case("the ink of a text is where its width says") && pixels_begin(300, 60, 2)) {
        float w = draw_text_width(pic.draw, FACE_FIGURE, "Harbour");
        draw_text(pic.draw, FACE_FIGURE, white, 10, 40, "Harbour");
        struct ink k = pixels_ink();
        CHECK_MSG(k.x0 >= 19 && k.x0 <= 26 && k.x1 <= (int)((10 + w) * 2) + 2 &&
                      k.x1 > (int)((10 + w) * 2) - 8,
                  "drawn from %d to %d, width %g at scale 2", k.x0, k.x1, (double)w);
        CHECK_EQ(k.y1 <= 82, true); /* it stands on 80; round letters reach a little below */
        CHECK_EQ(80 - k.y0 >= (int)(draw_cap_height(pic.draw, FACE_FIGURE) * 2), true);
    }
    if (test_case("at twice the scale a text is twice as wide") && pixels_begin(300, 60, 1)) {
        float a = draw_text_width(pic.draw, FACE_TEXT, "tokens per second");
        pixels_begin(300, 60, 2);
        float b = draw_text_width(pic.draw, FACE_TEXT, "tokens per second");
        CHECK_MSG(fabsf(a - b) < 0.02f * a, "%g and %g points", (double)a, (double)b);
    }
    if (test_case("a label too long for its box ends in an ellipsis, within the box") &&
        pixels_begin(200, 40, 1)) {
        SDL_FRect r = { 20, 10, 80, 20 };
        draw_label(pic.draw, r, ALIGN_LEFT, FACE_TEXT, white, "a label that is far too long");
        struct ink k = pixels_ink();
        CHECK(k.x0 >= 20 && k.x1 <= 100 && k.x1 > 80);
        pixels_begin(200, 40, 1);
        draw_label(pic.draw, (SDL_FRect){ 20, 10, 2, 20 }, ALIGN_LEFT, FACE_TEXT, white, "ab");
        CHECK(pixels_ink().sum == 0);
    }
    if (test_case("labels keep to their side") && pixels_begin(200, 40, 1)) {
        draw_label(pic.draw, (SDL_FRect){ 0, 0, 150, 40 }, ALIGN_RIGHT, FACE_TEXT, white, "H");
        struct ink k = pixels_ink();
        CHECK(k.x1 >= 146 && k.x1 <= 150);
        CHECK_MSG(abs((k.y0 + k.y1) - 40) <= 1, "a capital from %d to %d in 40", k.y0, k.y1);
        pixels_begin(200, 40, 1);
        draw_label(pic.draw, (SDL_FRect){ 0, 0, 150, 40 }, ALIGN_CENTER, FACE_TEXT, white, "H");
        k = pixels_ink();
        CHECK_MSG(abs((k.x0 + k.x1) - 150) <= 2, "drawn from %d to %d", k.x0, k.x1);
    }
}

static void odd_texts(void)
{
    if (test_case("what is no character, or moves others, is a question mark") &&
        pixels_begin(200, 40, 1)) {
        float one = draw_text_width(pic.draw, FACE_TEXT, "?");
        static const char *const bad[] = { "\xff", "\x1b", "\xe2\x80\xae", "\xc3" };
        for (uint32_t i = 0; i < ARRAY_LEN(bad); i++)
            CHECK_MSG(draw_text_width(pic.draw, FACE_TEXT, bad[i]) == one, "text %u", i);
    }
    if (test_case("prose is broken at blanks, and stays within its box") &&
        pixels_begin(200, 200, 1)) {
        const char *s = "one two three four five six seven eight nine ten";
        SDL_FRect r = { 10, 10, 90, 150 };
        float h = draw_prose(pic.draw, r, FACE_TEXT, white, s);
        struct ink k = pixels_ink();
        CHECK(k.x0 >= 10 && k.x1 <= 100 && k.y0 >= 10 && k.y1 <= 10 + (int)h);
        CHECK_EQ((int)(h / draw_line_height(pic.draw, FACE_TEXT)), 4);
        pixels_begin(200, 200, 1);
        CHECK(draw_prose(pic.draw, r, FACE_TEXT, (SDL_Color){ 0 }, s) == h &&
              pixels_ink().sum == 0);
        CHECK(draw_prose(pic.draw, (SDL_FRect){ 0, 0, 0, 90 }, FACE_TEXT, white, s) == 0);
    }
    if (test_case("the atlas takes more glyphs than it has room for") && pixels_begin(300, 60, 2)) {
        char s[8];
        for (uint32_t cp = 0x21; cp < 0x2000; cp += 3) {
            SDL_snprintf(s, sizeof s, "%s", "");
            size_t n = 0;
            if (cp < 0x80) {
                s[n++] = (char)cp;
            } else if (cp < 0x800) {
                s[n++] = (char)(0xc0 | cp >> 6);
                s[n++] = (char)(0x80 | (cp & 63));
            } else {
                s[n++] = (char)(0xe0 | cp >> 12);
                s[n++] = (char)(0x80 | (cp >> 6 & 63));
                s[n++] = (char)(0x80 | (cp & 63));
            }
            s[n] = 0;
            draw_text(pic.draw, FACE_HUGE, white, 10, 40, s);
        }
        pixels_begin(300, 60, 2);
        draw_text(pic.draw, FACE_HUGE, white, 10, 40, "H");
        CHECK(pixels_ink().sum > 100);
    }
}

/* ---- colours --------------------------------------------------------------------------------- */

static void colors(void)
{
    for (int dark = 0; dark < 2; dark++) {
        const struct theme *t = theme_get(dark);
        if (test_case("text can be read, %s", dark ? "dark" : "light")) {
            const SDL_Color ground[] = { t->back, t->side, t->card, t->raised };
            for (uint32_t i = 0; i < ARRAY_LEN(ground); i++) {
                CHECK(theme_contrast(t->text, ground[i]) >= 7);
                CHECK(theme_contrast(t->muted, ground[i]) >= 4.5);
                CHECK_MSG(theme_contrast(t->faint, ground[i]) >= 2.5, "faint on ground %u: %.2f", i,
                          theme_contrast(t->faint, ground[i]));
            }
            CHECK(theme_contrast(t->on_accent, t->accent) >= 4.5);
            const SDL_Color sign[] = { t->accent, t->good, t->warn, t->bad };
            for (uint32_t i = 0; i < ARRAY_LEN(sign); i++)
                CHECK_MSG(theme_contrast(sign[i], t->card) >= 3, "sign %u: %.2f", i,
                          theme_contrast(sign[i], t->card));
        }
        if (test_case("colours tell apart without green cones, %s", dark ? "dark" : "light")) {
            for (uint32_t i = 0; i < N_SERIES_COLOR; i++) {
                SDL_Color a = theme_deuteranopia(t->series[i]);
                SDL_Color next = theme_deuteranopia(t->series[(i + 1) % N_SERIES_COLOR]);
                CHECK_MSG(theme_distance(a, next) >= 12, "neighbours %u, %u: %.1f", i, i + 1,
                          theme_distance(a, next));
                for (uint32_t k = i + 1; k < N_SERIES_COLOR; k++) {
                    SDL_Color b = theme_deuteranopia(t->series[k]);
                    CHECK_MSG(theme_distance(a, b) >= 6, "%u and %u: %.1f", i, k,
                              theme_distance(a, b));
                }
            }
            CHECK(theme_distance(theme_deuteranopia(t->good), theme_deuteranopia(t->bad)) >= 8);
            CHECK(theme_distance(theme_deuteranopia(t->accent), theme_deuteranopia(t->warn)) >= 12);
        }
        if (test_case("a heat map's colours go one way, %s", dark ? "dark" : "light")) {
            double last = theme_contrast(theme_heat(t, 0), black);
            for (int i = 1; i <= 20; i++) {
                double now = theme_contrast(theme_heat(t, (float)i / 20), black);
                CHECK_MSG(dark ? now > last : now < last, "at %d of 20: %.2f after %.2f", i, now,
                          last);
                last = now;
            }
            CHECK(same_color(theme_heat(t, NAN), theme_heat(t, 0)));
            CHECK(same_color(theme_heat(t, 7), theme_heat(t, 1)));
        }
    }
    if (test_case("seeing without green cones is computed as published")) {
        /* A pure red turns to a dark olive, white stays. */
        SDL_Color red = theme_deuteranopia((SDL_Color){ 255, 0, 0, 255 });
        CHECK(abs(red.r - 163) <= 1 && abs(red.g - 144) <= 1 && red.b == 0);
        SDL_Color w = theme_deuteranopia(white);
        CHECK(w.r >= 254 && w.g >= 254 && w.b >= 254);
    }
}

/* ---- widgets --------------------------------------------------------------------------------- */

static struct gui gui;

static void frame_at(float x, float y)
{
    struct gui_input in = { .x = x, .y = y };
    gui.d = pic.draw;
    gui.t = theme_get(true);
    gui_begin(&gui, &in, 1);
}

static void frame_with(struct gui_input in)
{
    gui.d = pic.draw;
    gui.t = theme_get(true);
    gui_begin(&gui, &in, 1);
}

/* How many pixels of a row have a colour. */
static int run_of(SDL_Color c, int y)
{
    int n = 0;
    pixels_show();
    for (int x = 0; x < pic.surface->w; x++)
        n += same_color(pixel_at(x, y), c);
    return n;
}

/* The same of white, whose round ends cover part of a pixel. */
static void check_white(int y, double want)
{
    double n = 0, track = gui.t->raised.r / 255.0;
    pixels_show();
    for (int x = 0; x < pic.surface->w; x++)
        n += fmax(pixel_at(x, y).r / 255.0 - track, 0) / (1 - track);
    CHECK_MSG(fabs(n - want) <= 1, "%.2f pixels of row %d, expected %g", n, y, want);
}

static void bars(void)
{
    for (int s = 1; s <= 2; s++) {
        if (!test_case("bars have their lengths at scale %d", s) ||
            !pixels_begin(220, 60, (float)s))
            continue;
        frame_at(-100, -100);
        widget_bar(&gui, (SDL_FRect){ 10, 10, 200, 8 }, 0.4f, white);
        check_white(14 * s, 80 * s);
        widget_bar(&gui, (SDL_FRect){ 10, 30, 200, 8 }, NAN, white);
        widget_bar(&gui, (SDL_FRect){ 10, 30, 200, 8 }, -3, white);
        check_white(34 * s, 0);
        widget_bar(&gui, (SDL_FRect){ 10, 30, 200, 8 }, INFINITY, white);
        check_white(34 * s, 200 * s);
        gui_end(&gui);
    }
    if (test_case("segments have their lengths, and no bar grows over its end") &&
        pixels_begin(220, 60, 1)) {
        const struct segment seg[] = { { "a", "1", 0.25, { 255, 0, 0, 255 }, false },
                                       { "b", "2", 0.5, { 0, 255, 0, 255 }, false },
                                       { "c", "3", (double)NAN, { 0, 0, 255, 255 }, false },
                                       { "d", "4", 9, { 0, 255, 255, 255 }, false } };
        frame_at(80, 20);
        int over = widget_segments(&gui, (SDL_FRect){ 10, 10, 200, 20 }, seg, 4);
        CHECK_EQ(over, 1);
        CHECK_EQ(run_of(seg[0].color, 20), 49); /* and a gap */
        CHECK_EQ(run_of(seg[2].color, 20), 0);
        CHECK_EQ(run_of(seg[3].color, 20), 50);
        check_pixels(10, 10, 210, 30);
        gui_end(&gui);
    }
}

static float part_of(const void *of, uint32_t row, uint32_t col)
{
    return row == 1 && col == 2 ? -1 : (float)(row * 4 + col) / *(const float *)of;
}

static void heats(void)
{
    float most = 11;
    struct heat h = { .rows = 3, .cols = 4, .part = part_of, .of = &most };
    SDL_FRect r = { 10, 10, 80, 60 };
    for (int s = 1; s <= 2; s++) {
        if (!test_case("the cells of a heat map, at scale %d", s) ||
            !pixels_begin(100, 80, (float)s))
            continue;
        frame_at(10 + 20 * 1.5f, 10 + 20 * 2.5f);
        struct heat_cell c = widget_heat(&gui, r, &h);
        CHECK(c.hit && c.row == 2 && c.col == 1);
        pixels_show();
        for (uint32_t row = 0; row < 3; row++)
            for (uint32_t col = 0; col < 4; col++) {
                SDL_FRect cell = widget_heat_cell(&gui, r, &h, row, col);
                SDL_Color got = pixel_at((int)((cell.x + cell.w / 2) * (float)s),
                                         (int)((cell.y + cell.h / 2) * (float)s));
                SDL_Color want =
                    row == 1 && col == 2 ? black : theme_heat(gui.t, (float)(row * 4 + col) / most);
                CHECK_MSG(same_color(got, want), "cell %u, %u: %02x%02x%02x", row, col, got.r,
                          got.g, got.b);
            }
        struct ink k = pixels_ink();
        CHECK(k.x0 == 10 * s && k.y0 == 10 * s && k.x1 <= 90 * s && k.y1 <= 70 * s);
        gui_end(&gui);
    }
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void cell_of(const void *of, uint32_t row, uint32_t col, struct table_cell *out)
{
    static const double value[] = { 3, (double)NAN, 1, 2 };
    static const char *const name[] = { "c", "none", "a", "b" };
    (void)of;
    out->sort = col ? value[row] : 0;
    SDL_strlcpy(out->text, col ? "" : name[row], sizeof out->text);
}

static void check_order(const struct table *t, const struct table_state *s, const char *want)
{
    uint16_t order[TABLE_ROWS];
    char got[8] = "";
    uint32_t n = table_order(t, s, order);
    for (uint32_t i = 0; i < n; i++)
        got[i] = (char)('0' + order[i]);
    CHECK_STR(got, want);
}

static void tables(void)
{
    const struct table_col col[2] = { { "name", 0, ALIGN_LEFT, false },
                                      { "value", 80, ALIGN_RIGHT, true } };
    const struct table t = { col, 2, 4, cell_of, NULL };
    struct table_state s = { 0 };
    SDL_FRect r = { 0, 0, 300, 200 };
    if (!test_case("a table is sorted by a click on a head; what is unknown comes last") ||
        !pixels_begin(300, 200, 1))
        return;
    check_order(&t, &s, "0123");
    frame_with((struct gui_input){ .x = 280, .y = 10, .pressed = true, .down = true });
    widget_table(&gui, 1, r, &t, &s);
    gui_end(&gui);
    check_order(&t, &s, "0321"); /* values: the largest first */
    frame_with((struct gui_input){ .x = 280, .y = 10, .pressed = true });
    widget_table(&gui, 1, r, &t, &s);
    gui_end(&gui);
    check_order(&t, &s, "2301");
    frame_with((struct gui_input){ .x = 20, .y = 10, .pressed = true });
    widget_table(&gui, 1, r, &t, &s);
    gui_end(&gui);
    check_order(&t, &s, "2301"); /* names: a first */
    frame_at(50, 26 + 24 * 1.5f);
    CHECK_EQ(widget_table(&gui, 1, r, &t, &s), 3);
    gui_end(&gui);
    frame_with((struct gui_input){ .x = 50, .y = 26 + 24 * 1.5f, .pressed = true });
    widget_table(&gui, 1, r, &t, &s);
    gui_end(&gui);
    CHECK_EQ(s.chosen, 3 + 1);
    frame_with((struct gui_input){ .x = -9, .key = SDLK_DOWN }); /* the focus is on the rows now */
    widget_table(&gui, 1, r, &t, &s);
    gui_end(&gui);
    CHECK_EQ(s.chosen, 0 + 1);
    frame_with((struct gui_input){ .x = -9, .key = SDLK_UP });
    widget_table(&gui, 1, r, &t, &s);
    gui_end(&gui);
    CHECK_EQ(s.chosen, 3 + 1);
}

/* ---- what reacts ----------------------------------------------------------------------------- */

static void reactions(void)
{
    SDL_FRect a = { 10, 10, 60, 20 }, b = { 80, 10, 60, 20 }, c = { 10, 50, 60, 20 };
    if (test_case("a tab is chosen by a click and by Enter; Tab and arrows move the focus") &&
        pixels_begin(200, 100, 1)) {
        memset(&gui, 0, sizeof gui);
        static const struct {
            int key;
            bool shift;
            uint64_t focus;
        } step[] = { { SDLK_TAB, false, 1 },  { SDLK_TAB, false, 2 },   { SDLK_TAB, false, 3 },
                     { SDLK_TAB, false, 1 },  { SDLK_RIGHT, false, 2 }, { SDLK_LEFT, false, 1 },
                     { SDLK_DOWN, false, 3 }, { SDLK_UP, false, 1 },    { SDLK_TAB, true, 3 } };
        for (uint32_t i = 0; i < ARRAY_LEN(step); i++) {
            frame_with((struct gui_input){ .key = step[i].key, .shift = step[i].shift });
            widget_tab(&gui, 1, a, "a", false);
            widget_tab(&gui, 2, b, "b", false);
            widget_tab(&gui, 3, c, "c", false);
            gui_end(&gui);
            CHECK_MSG(gui.focus == step[i].focus, "step %u: the focus is on %d, expected %d", i,
                      (int)gui.focus, (int)step[i].focus);
        }
        frame_with((struct gui_input){ .key = SDLK_RETURN });
        CHECK(!widget_tab(&gui, 1, a, "a", false) && widget_tab(&gui, 3, c, "c", false));
        gui_end(&gui);
        frame_with((struct gui_input){ .x = 90, .y = 20, .pressed = true, .down = true });
        CHECK(!widget_tab(&gui, 1, a, "a", false) && widget_tab(&gui, 2, b, "b", false));
        gui_end(&gui);
        CHECK_EQ(gui.focus, 2);
    }
}

static void dragging(void)
{
    if (test_case("a slider is dragged, and moved by arrow keys; it keeps to its range") &&
        pixels_begin(200, 40, 1)) {
        float v = 0.5f;
        memset(&gui, 0, sizeof gui);
        SDL_FRect r = { 0, 0, 114, 20 };
        frame_with((struct gui_input){ .x = 32, .y = 10, .pressed = true, .down = true });
        CHECK(widget_slider(&gui, 5, r, &v, 0, 1) && fabsf(v - 0.25f) < 1e-5f);
        gui_end(&gui);
        frame_with((struct gui_input){ .x = 900, .y = 300, .down = true }); /* outside, dragging */
        CHECK(widget_slider(&gui, 5, r, &v, 0, 1) && v == 1);
        gui_end(&gui);
        frame_with((struct gui_input){ .key = SDLK_LEFT });
        CHECK(widget_slider(&gui, 5, r, &v, 0, 1) && fabsf(v - 0.95f) < 1e-5f);
        gui_end(&gui);
        frame_at(32, 10); /* not pressed */
        CHECK(!widget_slider(&gui, 5, r, &v, 0, 1));
        gui_end(&gui);
    }
    if (test_case("a scrolled area moves by wheel and keys, and no further than its end") &&
        pixels_begin(100, 100, 1)) {
        struct scroll s = { 0 };
        memset(&gui, 0, sizeof gui);
        SDL_FRect r = { 0, 0, 100, 100 };
        static const struct {
            float wheel;
            int key;
            float y;
        } step[] = { { 0, 0, 0 },         { -1, 0, 40 },
                     { -9, 0, 150 },      { 1, 0, 110 },
                     { 9, 0, 0 },         { 0, SDLK_END, 150 },
                     { 0, SDLK_HOME, 0 }, { 0, SDLK_PAGEDOWN, 90 } };
        for (uint32_t i = 0; i < ARRAY_LEN(step); i++) {
            frame_with(
                (struct gui_input){ .x = 50, .y = 50, .wheel = step[i].wheel, .key = step[i].key });
            SDL_FRect in = widget_scroll_begin(&gui, 9, r, &s);
            CHECK_MSG(s.y == step[i].y && in.y == -step[i].y, "step %u: at %g, expected %g", i,
                      (double)s.y, (double)step[i].y);
            draw_box(pic.draw, (SDL_FRect){ 0, -50, 300, 400 }, white);
            widget_scroll_end(&gui, 9, r, &s, 250);
            gui_end(&gui);
        }
    }
}

/* ---- graphs ---------------------------------------------------------------------------------- */

struct curve {
    uint32_t n;
    double x[4000];
    float y[4000];
};

static struct graph_point curve_at(const void *of, uint32_t i)
{
    const struct curve *c = of;
    return (struct graph_point){ c->x[i], c->y[i], c->y[i], c->y[i] };
}

static struct curve curve;

static struct graph_series series_of(enum graph_style style)
{
    return (struct graph_series){
        .name = "s", .style = style, .color = white, .n = curve.n, .at = curve_at, .of = &curve
    };
}

/* Draws a graph with the pointer somewhere; returns where values are. */
static struct graph_map draw_graph(struct graph *g, struct graph_view *v, struct gui_input in)
{
    SDL_FRect r = { 10, 10, 380, 180 };
    frame_with(in);
    draw_clear(pic.draw, black);
    struct graph_map m = graph_map(&gui, r, g, v);
    widget_graph(&gui, 77, r, g, v);
    graph_view_end(&gui, v);
    gui_end(&gui);
    pixels_show();
    return m;
}

static const struct gui_input away = { .x = -100, .y = -100 };

static void graph_pixels(void)
{
    for (int s = 1; s <= 2; s++) {
        if (!test_case("a curve goes through the pixels of its values at scale %d", s) ||
            !pixels_begin(400, 200, (float)s))
            continue;
        curve.n = 9;
        for (uint32_t i = 0; i < curve.n; i++) {
            curve.x[i] = i;
            curve.y[i] = (float)(i % 3) * 10;
        }
        struct graph_series se = series_of(GRAPH_LINE);
        struct graph g = { .series = &se, .n_series = 1, .from_zero = true };
        struct graph_view v = { 0 };
        struct graph_map m = draw_graph(&g, &v, away);
        CHECK(m.x0 == 0 && m.x1 == 8 && m.y0 == 0 && m.y1 >= 20 && m.y1 <= 30);
        for (uint32_t i = 1; i < 8; i++) {
            SDL_FPoint p = graph_at(&m, curve.x[i], (double)curve.y[i]);
            SDL_FPoint lin = { m.plot.x + m.plot.w * (float)i / 8,
                               m.plot.y + m.plot.h * (1 - curve.y[i] / (float)m.y1) };
            CHECK(fabsf(p.x - lin.x) < 0.01f && fabsf(p.y - lin.y) < 0.01f);
            int x = (int)(p.x * (float)s), y = (int)(p.y * (float)s);
            y -= curve.y[i] == 0; /* half of its width is below the plot's end */
            CHECK_MSG(pixel_at(x, y).r > 100, "point %u is not at %d, %d", i, x, y);
            CHECK_MSG(pixel_at(x, y - 12 * s).r < 100 || curve.y[i] < 20, "point %u: also above it",
                      i);
        }
    }
}

static void graph_gaps(void)
{
    if (test_case("the axis of what is never below 0 is not either") && pixels_begin(400, 200, 1)) {
        curve.n = 3;
        for (uint32_t i = 0; i < 3; i++) {
            curve.x[i] = i;
            curve.y[i] = (float)(2 - i);
        }
        struct graph_series se = series_of(GRAPH_LINE);
        struct graph g = { .series = &se, .n_series = 1 };
        struct graph_view v = { 0 };
        CHECK(draw_graph(&g, &v, away).y0 == 0);
        curve.y[0] = 1002;
        curve.y[1] = 1001;
        curve.y[2] = 1000;
        CHECK(draw_graph(&g, &v, away).y0 > 990);
    }
    if (test_case("a peak between many points is not lost") && pixels_begin(400, 200, 1)) {
        curve.n = 4000;
        for (uint32_t i = 0; i < curve.n; i++) {
            curve.x[i] = i;
            curve.y[i] = i == 2111 ? 100 : i == 3001 ? -100 : 0;
        }
        struct graph_series se = series_of(GRAPH_LINE);
        struct graph g = { .series = &se, .n_series = 1 };
        struct graph_view v = { 0 };
        struct graph_map m = draw_graph(&g, &v, away);
        SDL_FPoint hi = graph_at(&m, 2111, 100), lo = graph_at(&m, 3001, -100);
        int most = 0, least = 0;
        for (int dx = -1; dx <= 1; dx++) {
            most |= pixel_at((int)hi.x + dx, (int)hi.y + 1).r > 90;
            least |= pixel_at((int)lo.x + dx, (int)lo.y - 1).r > 90;
        }
        CHECK(most && least);
    }
    if (test_case("a gap in the values is a gap in the curve") && pixels_begin(400, 200, 1)) {
        curve.n = 5;
        for (uint32_t i = 0; i < 5; i++) {
            curve.x[i] = i;
            curve.y[i] = i == 2 ? NAN : 5;
        }
        struct graph_series se = series_of(GRAPH_LINE);
        struct graph g = { .series = &se, .n_series = 1, .y_min = 0, .y_max = 9 };
        struct graph_view v = { 0 };
        struct graph_map m = draw_graph(&g, &v, away);
        SDL_FPoint p = graph_at(&m, 2, 5), q = graph_at(&m, 0.5, 5);
        CHECK(pixel_at((int)p.x, (int)p.y).r < 100 && pixel_at((int)q.x, (int)q.y).r > 100);
    }
    if (test_case("a last value holds for as long as it is said to") && pixels_begin(400, 200, 1)) {
        curve.n = 2;
        for (uint32_t i = 0; i < 2; i++) {
            curve.x[i] = i;
            curve.y[i] = 5;
        }
        struct graph_series se = series_of(GRAPH_LINE);
        se.hold_to = 6;
        struct graph g = { .series = &se, .n_series = 1, .x_max = 8, .y_min = 0, .y_max = 9 };
        struct graph_view v = { 0 };
        struct graph_map m = draw_graph(&g, &v, away);
        SDL_FPoint p = graph_at(&m, 5, 5), q = graph_at(&m, 7, 5);
        CHECK(pixel_at((int)p.x, (int)p.y).r > 100 && pixel_at((int)q.x, (int)q.y).r < 100);
    }
}

static void graph_levels(void)
{
    if (test_case("levels may be logarithmic") && pixels_begin(400, 200, 1)) {
        curve.n = 3;
        for (uint32_t i = 0; i < 3; i++) {
            curve.x[i] = i;
            curve.y[i] = powf(10, (float)i);
        }
        struct graph_series se = series_of(GRAPH_LINE);
        struct graph g = { .series = &se, .n_series = 1, .log = true };
        struct graph_view v = { 0 };
        struct graph_map m = draw_graph(&g, &v, away);
        float y0 = graph_at(&m, 0, 1).y, y1 = graph_at(&m, 0, 10).y, y2 = graph_at(&m, 0, 100).y;
        CHECK(fabsf((y0 - y1) - (y1 - y2)) < 0.01f && y0 > y1);
        CHECK(isnan(graph_at(&m, 0, -1).y));
    }
    if (test_case("values that are none, infinite or huge stay within the graph") &&
        pixels_begin(400, 200, 1)) {
        static const float evil[] = { NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 0, 1e-40f };
        struct rng r = { 5 };
        for (int k = 0; k < 60; k++) {
            curve.n = 40;
            for (uint32_t i = 0; i < curve.n; i++) {
                curve.x[i] = i * (k % 3 ? 1.0 : 1e300);
                curve.y[i] = evil[rng_u64(&r) % ARRAY_LEN(evil)];
            }
            struct graph_series se = series_of((enum graph_style)(k % 4));
            struct graph g = { .series = &se, .n_series = 1, .title = "t", .log = k % 5 == 0 };
            struct graph_view v = { 0 };
            draw_graph(&g, &v, (struct gui_input){ .x = 200, .y = 100 });
            draw_graph(&g, &v, (struct gui_input){ .x = 200, .y = 100 });
            struct ink all = pixels_ink();
            if (!CHECK(all.x0 >= 10 && all.y0 >= 10 && all.x1 <= 390 && all.y1 <= 190))
                break;
        }
    }
}

static void graph_zoom(void)
{
    if (!test_case("a graph is zoomed by a drag and a wheel, and shown whole again") ||
        !pixels_begin(400, 200, 1))
        return;
    memset(&gui, 0, sizeof gui);
    curve.n = 101;
    for (uint32_t i = 0; i < curve.n; i++) {
        curve.x[i] = i;
        curve.y[i] = (float)i;
    }
    struct graph_series se = series_of(GRAPH_AREA);
    struct graph g = { .series = &se, .n_series = 1 };
    struct graph_view v = { 0 };
    struct graph_map m = draw_graph(&g, &v, away);
    float x = graph_at(&m, 20, 0).x, to = graph_at(&m, 60, 0).x, y = m.plot.y + 40;
    draw_graph(&g, &v, (struct gui_input){ .x = x, .y = y, .pressed = true, .down = true });
    draw_graph(&g, &v, (struct gui_input){ .x = to, .y = y, .down = true });
    CHECK(pixel_at((int)((x + to) / 2), (int)m.plot.y + 3).b >
          pixel_at((int)to + 20, (int)m.plot.y + 3).b);
    draw_graph(&g, &v, (struct gui_input){ .x = to, .y = y, .released = true });
    CHECK_MSG(fabs(v.from - 20) < 0.2 && fabs(v.to - 60) < 0.2, "from %g to %g", v.from, v.to);
    m = draw_graph(&g, &v, (struct gui_input){ .x = m.plot.x + m.plot.w / 2, .y = y, .wheel = 1 });
    CHECK(fabs(v.to - v.from - 32) < 0.5 && fabs(v.from + v.to - 80) < 0.5);
    draw_graph(&g, &v, (struct gui_input){ .x = x, .y = y, .pressed = true, .doubled = true });
    CHECK(v.from == v.to);
    v.from = 3;
    v.to = 4;
    draw_graph(&g, &v, (struct gui_input){ .x = -9, .y = -9, .key = SDLK_0 });
    CHECK(v.from == v.to);
}

static void graph_cross(void)
{
    if (!test_case("the crosshair is shared, and moved by keys") || !pixels_begin(400, 200, 1))
        return;
    memset(&gui, 0, sizeof gui);
    curve.n = 51;
    for (uint32_t i = 0; i < curve.n; i++) {
        curve.x[i] = 2 * i;
        curve.y[i] = (float)i;
    }
    struct graph_series se = series_of(GRAPH_LINE);
    struct graph g = { .series = &se, .n_series = 1 };
    struct graph_view v = { 0 };
    struct graph_map m = draw_graph(&g, &v, away);
    float x = graph_at(&m, 50, 0).x;
    draw_graph(&g, &v, (struct gui_input){ .x = x, .y = m.plot.y + 9 });
    CHECK(v.has_cross && fabs(v.cross - 50) < 0.3 && gui.again_s == 0);
    struct graph_point p;
    CHECK(graph_value(&se, v.cross + 0.5, &p) && p.y == 25);
    CHECK(!graph_value(&se, -1, &p));
    draw_graph(&g, &v, away);
    CHECK(!v.has_cross);
    gui.focus = 77;
    v.has_cross = true;
    v.cross = 50;
    draw_graph(&g, &v, (struct gui_input){ .x = -9, .y = -9, .key = SDLK_RIGHT });
    CHECK(v.has_cross && fabs(v.cross - 52) < 0.01);
    draw_graph(&g, &v, away);
    CHECK(v.has_cross && fabs(v.cross - 52) < 0.01); /* and stays */
}

static void ticks(void)
{
    if (!test_case("axes have round steps"))
        return;
    double t[8];
    CHECK(graph_ticks(0, 30, 4, t) == 4 && t[1] == 10 && t[3] == 30);
    CHECK(graph_ticks(0.1, 0.97, 6, t) == 4 && fabs(t[0] - 0.2) < 1e-9 && fabs(t[3] - 0.8) < 1e-9);
    CHECK(graph_ticks(-1, 1, 3, t) == 3 && !signbit(t[1]));
    CHECK_EQ(graph_ticks(5, 5, 6, t), 0);
    CHECK_EQ(graph_ticks((double)NAN, 5, 6, t), 0);
    CHECK(graph_ticks(-1e300, 1e300, 6, t) <= 6);
    CHECK(graph_time_ticks(0.2, 3.9, 8, t) == 3 && t[0] == 1 && t[1] == 2 && t[2] == 3);
    CHECK(graph_time_ticks(0, 200, 5, t) == 4 && t[1] == 60);
    CHECK_EQ(graph_time_ticks(4.1, 4.9, 8, t), 0);
}

void test_monitor_draw(void)
{
    SDL_SetHint(SDL_HINT_VIDEODRIVER, "dummy");
    boxes();
    shapes();
    lines_and_areas();
    clips();
    texts();
    odd_texts();
    colors();
    bars();
    heats();
    tables();
    reactions();
    dragging();
    graph_pixels();
    graph_gaps();
    graph_levels();
    graph_zoom();
    graph_cross();
    ticks();
    picture_destroy(&pic);
}
