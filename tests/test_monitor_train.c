/* test_monitor_train: the panels Training and Runs of hlm-monitor, drawn into memory from trainings
 * whose right picture is known. That they stay in their place is test_monitor_panels's. */
#define _POSIX_C_SOURCE 200809L
#include "monitor/smooth.h"
#include "monitor_fake.h"
#include "monitor_pixels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { W = 1000, H = 700, LOW = 1140, STEPS = 200 }; /* LOW: with what is below the graphs */

static struct gui gui;
static struct graph_view view;
static _Alignas(16) uint8_t keep[4096];
static const struct theme *t; /* of the picture */
static struct run *all[3];    /* newest first, as the frame gives them */
static uint32_t n_all;

static struct panel_in given(const struct run *r)
{
    return (struct panel_in){
        .g = &gui, .run = r, .all = all, .n_all = n_all, .view = &view, .keep = keep
    };
}

static void drawn(const struct panel *p, const struct run *r, struct gui_input in)
{
    CHECK(p->keep <= sizeof keep);
    draw_clear(pic.draw, black);
    gui.d = pic.draw;
    gui.t = t;
    gui_begin(&gui, &in, 1);
    const struct panel_in panel = given(r);
    p->draw(&panel, (SDL_FRect){ 0, 0, W, H });
    graph_view_end(&gui, &view);
    gui_end(&gui);
    pixels_show();
}

static const struct gui_input away = { .x = -9, .y = -9 };

static void has(enum face f, SDL_Color c, const char *text)
{
    CHECK_MSG(find_text(f, c, t->card, text, NULL, NULL), "there is no '%s'", text);
}

static char *csv_of(const struct panel *p, const struct run *r)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    const struct panel_in in = given(r);
    p->csv(&in, to);
    fclose(to);
    return text;
}

static bool begin(bool dark, float scale)
{
    t = theme_get(dark);
    memset(&view, 0, sizeof view);
    memset(keep, 0, sizeof keep);
    return pixels_begin(W, H, scale);
}

static void take(struct run *r, const char *line) { CHECK(run_take_line(r, line, strlen(line))); }

/* ---- smoothing ------------------------------------------------------------------------------- */

static void smoothing(void)
{
    enum { N = 400, EDGE = 300, HALF = 8 };
    struct run_point p[N];
    struct run_series of = { .p = p, .n = N };
    struct smooth s;
    if (!test_case("a smoothed curve: a step in it is half over after the given number of points"))
        return;
    for (uint32_t i = 0; i < N; i++) {
        float v = i < EDGE ? 1 : 3;
        p[i] = (struct run_point){ 2 * i, i + 1, v, v, v, 1 };
    }
    smooth_make(&s, &of, HALF, true);
    CHECK(s.n == N && s.p[0].x == 1 && s.p[0].y == 1); /* the short past does not pull it down */
    CHECK_MSG(fabsf(s.p[EDGE - 1].y - 1) < 1e-5f && fabsf(s.p[EDGE + HALF - 1].y - 2) < 1e-3f,
              "%g before the step, %g half-way", (double)s.p[EDGE - 1].y,
              (double)s.p[EDGE + HALF - 1].y);
    smooth_free(&s);
    smooth_make(&s, &of, 0, false);
    CHECK(s.n == N && s.p[EDGE].x == 2 * EDGE && s.p[EDGE].y == 3 && smooth_newest(&s) == 3);
    smooth_free(&s);
    smooth_above(&s, &of, 2);
    CHECK(s.n == N - EDGE && s.p[0].x == EDGE + 1);
    smooth_free(&s);
}

/* ---- training -------------------------------------------------------------------------------- */

/* Is the colour within r pixels of a place? */
static bool color_near(SDL_FPoint at, SDL_Color c, int r)
{
    float s = draw_scale(pic.draw);
    for (int y = (int)(at.y * s) - r; y <= (int)(at.y * s) + r; y++)
        for (int x = (int)(at.x * s) - r; x <= (int)(at.x * s) + r; x++)
            if (x >= 0 && y >= 0 && x < pic.surface->w && y < pic.surface->h &&
                same_color(pixel_at(x, y), c))
                return true;
    return false;
}

/* Where the loss card puts a value: the first below the tiles, and as wide as the panel. */
static struct graph_map loss_map(const struct run *r, const struct smooth *s)
{
    const float top = TILE_H + PANEL_GAP, high = H - top - 168 - PANEL_GAP;
    struct graph_series series[3] = {
        panel_series(r, SERIES_LOSS, "each step", GRAPH_FAINT, t->accent, true),
        smooth_series(s, "smoothed", GRAPH_LINE, t->accent),
        panel_series(r, SERIES_VALID, "validation", GRAPH_POINTS, t->series[1], true),
    };
    struct graph gr = { .title = "Loss", .series = series, .n_series = 3, .x_min = 1 };
    gr.x_max = STEPS + 0.01 * (STEPS - 1);
    SDL_FRect at = { PANEL_PAD, top + PANEL_PAD - 4, W - 2 * PANEL_PAD, high - 2 * PANEL_PAD + 8 };
    return graph_map(&gui, at, &gr, NULL);
}

static void check_curve(const struct run *r, bool dark, float scale)
{
    struct smooth s;
    if (!begin(dark, scale))
        return;
    drawn(&panel_training, r, away);
    smooth_make(&s, &r->series[SERIES_LOSS], (STEPS - 1) / 60.0, true);
    struct graph_map m = loss_map(r, &s);
    for (uint32_t step = 20; step < STEPS; step += 20) {
        SDL_FPoint at = graph_at(&m, step, fake_valid(step, 0));
        CHECK_MSG(same_color(pixel_at((int)(at.x * scale), (int)(at.y * scale)), t->series[1]),
                  "no validation of step %u at %g, %g, scale %g", step, (double)at.x, (double)at.y,
                  (double)scale);
    }
    for (uint32_t i = 5; i < STEPS; i += 13) {
        SDL_FPoint at = graph_at(&m, i + 1, (double)s.p[i].y);
        CHECK_MSG(color_near(at, t->accent, 2), "no smoothed loss of step %u at %g, %g", i + 1,
                  (double)at.x, (double)at.y);
    }
    SDL_FPoint best = graph_at(&m, 120, fake_valid(120, 0));
    best.x += 7;
    CHECK_MSG(color_near(best, t->good, 2), "no ring around the best, at %g, %g", (double)best.x,
              (double)best.y);
    SDL_FPoint foot = graph_at(&m, 80, m.y0); /* the second checkpoint */
    CHECK_MSG(color_near(foot, t->muted, 2), "no checkpoint at %g, %g", (double)foot.x,
              (double)foot.y);
    smooth_free(&s);
}

static void figures(struct run *train)
{
    if (!test_case("training: step, time left, the best validation, speed") || !begin(true, 1))
        return;
    char text[64];
    drawn(&panel_training, train, away);
    has(FACE_FIGURE, t->text, "200");
    has(FACE_SMALL, t->faint, "of 250, epoch 4");
    has(FACE_FIGURE, t->text, span_text(50).s);
    snprintf(text, sizeof text, "best %.3f at 120", fake_valid(120, 0));
    has(FACE_SMALL, t->faint, text);
    snprintf(text, sizeof text, "%.3f", fake_valid(STEPS, 0));
    has(FACE_FIGURE, t->text, text);
    has(FACE_SMALL, t->faint, "before clipping"); /* the limit is not known */
}

static void clipping(struct run *train)
{
    if (!test_case("training: the gradients that were clipped are counted and marked") ||
        !begin(true, 1))
        return;
    uint32_t want = 0;
    char text[64];
    for (uint32_t i = 1; i <= STEPS; i++)
        want += fake_norm(i) > 1;
    drawn(&panel_training, train, away);
    int before = longest_run(t->warn, 520, 700);
    take(train, "{\"event\":\"start\",\"t\":201,\"program\":\"hlm-tune\",\"flags\":"
                "{\"--clip\":\"1\"}}");
    drawn(&panel_training, train, away);
    snprintf(text, sizeof text, "%u of %d clipped", want, STEPS);
    has(FACE_SMALL, t->faint, text);
    int after = longest_run(t->warn, 520, 700);
    CHECK_MSG(before == 0 && after >= 4, "marks are %d wide without a limit, %d with one", before,
              after);
}

static void said(struct run *train)
{
    if (!test_case("training: answers newest first, or of the step pointed at; checkpoints") ||
        !begin(true, 1) || !pixels_begin(W, LOW, 1))
        return;
    drawn(&panel_training, train, away);
    has(FACE_TEXT, t->text, "I am the answer of step 200.");
    has(FACE_SMALL, t->muted, "Who are you?");
    has(FACE_STRONG, t->text, "MTP loss");
    has(FACE_TEXT, t->text, "run"); /* of the path, the end */
    has(FACE_TEXT, t->text, "checkpoint");
    view.has_cross = true;
    view.cross = 105;
    drawn(&panel_training, train, away);
    has(FACE_TEXT, t->text, "I am the answer of step 100.");
    CHECK(!find_text(FACE_TEXT, t->text, t->card, "I am the answer of step 200.", NULL, NULL));
}

static void empty(void)
{
    struct run *chat = fake_chat(), *first = run_create();
    if (test_case("training and runs without data say what would fill them") && begin(true, 1)) {
        n_all = 0;
        drawn(&panel_training, chat, away);
        has(FACE_TITLE, t->muted, "No training");
        drawn(&panel_runs, chat, away);
        has(FACE_TITLE, t->muted, "No training to compare");
        take(first, "{\"event\":\"counters\",\"t\":1,\"state\":\"training\",\"training\":"
                    "{\"step\":0,\"n_step\":9}}");
        drawn(&panel_training, first, away);
        has(FACE_TITLE, t->muted, "The first step is under way");
    }
    run_destroy(chat);
    run_destroy(first);
}

static void csv(const struct run *train)
{
    if (!test_case("training: CSV has the curves"))
        return;
    char want[96], *text = csv_of(&panel_training, train);
    snprintf(want, sizeof want, "\nloss,7.000,7,%.9g\n", (double)(float)fake_loss(7, 0));
    CHECK_MSG(strstr(text, want), "there is no '%s'", want + 1);
    snprintf(want, sizeof want, "\nvalid_loss,40.500,40,%.9g\n", (double)(float)fake_valid(40, 0));
    CHECK_MSG(strstr(text, want), "there is no '%s'", want + 1);
    CHECK(strstr(text, "\ngrad_norm,") && strstr(text, "\nlr,") && strstr(text, "\nloss_mtp,"));
    free(text);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void make_three(void)
{
    static const char *const path[] = { "/tmp/fast.jsonl", "/tmp/middle.jsonl", "/tmp/slow.jsonl" };
    n_all = 3;
    for (uint32_t i = 0; i < 3; i++) {
        all[i] = fake_train(i == 2 ? STEPS / 2 : STEPS, i);
        run_is_log(all[i], path[i]);
    }
    take(all[1], "{\"event\":\"step\",\"t\":400,\"step\":201,\"n_step\":250,\"loss\":1.5}");
}

static struct gui_input pointer(float x, float y) { return (struct gui_input){ .x = x, .y = y }; }

static struct gui_input key(int k)
{
    struct gui_input in = away;
    in.key = k;
    return in;
}

/* The validations of each run, the oldest with the first colour; the graph is the right half. */
static void check_runs(bool by_time)
{
    static const uint8_t color[3] = { 5, 1, 0 };
    struct graph_series line[3];
    struct graph gr = { .title = "Validation loss", .series = line, .n_series = 3 };
    gr.x_min = by_time ? 0 : 1;
    gr.x_max = by_time ? 400 : 201;
    gr.x_max += 0.01 * (gr.x_max - gr.x_min);
    for (uint32_t i = 0; i < 3; i++)
        line[i] = panel_series(all[i], SERIES_VALID, NULL, GRAPH_LINE, t->accent, !by_time);
    const float w = (W - PANEL_GAP) / 2, top = 28 + PANEL_GAP;
    const struct table table = { .n_row = 3 };
    float high = H - top - panel_card_height(widget_table_height(&gui, &table), true) - PANEL_GAP;
    SDL_FRect at = { w + PANEL_GAP + PANEL_PAD, top + PANEL_PAD - 4, w - 2 * PANEL_PAD,
                     high - 2 * PANEL_PAD + 8 };
    struct graph_map m = graph_map(&gui, at, &gr, NULL);
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t k = 1; k < (i == 2 ? 5 : 10); k++) {
            SDL_FPoint p = graph_at(&m, 20 * k + (by_time ? 0.5 : 0), fake_valid(20 * k, i));
            CHECK_MSG(same_color(pixel_at((int)p.x, (int)p.y), t->series[color[i]]),
                      "run %u has no validation of step %u at %g, %g", i, 20 * k, (double)p.x,
                      (double)p.y);
        }
}

static uint32_t pixels_of(SDL_Color c)
{
    uint32_t n = 0;
    for (int y = 0; y < 500; y++)
        for (int x = 0; x < W; x++)
            n += same_color(pixel_at(x, y), c);
    return n;
}

static void overlaid(void)
{
    if (test_case("runs: curves over steps, and over time after a key") && begin(true, 1)) {
        drawn(&panel_runs, all[0], away);
        check_runs(false);
        view.from = 10;
        view.to = 20;
        drawn(&panel_runs, all[0], key(SDLK_x));
        CHECK(view.from == view.to); /* a zoom to steps is none to seconds */
        drawn(&panel_runs, all[0], away);
        check_runs(true);
    }
    if (test_case("runs: pointing at a row of the table shows its curve before the others") &&
        begin(true, 1)) {
        float y = 0;
        drawn(&panel_runs, all[0], away);
        uint32_t before = pixels_of(t->series[1]), own = pixels_of(t->series[5]);
        CHECK(find_text(FACE_TEXT, t->text, t->card, "fast", NULL, &y));
        drawn(&panel_runs, all[0], pointer(60, y + 4));
        drawn(&panel_runs, all[0], pointer(60, y + 4));
        CHECK_MSG(pixels_of(t->series[1]) < before / 4 && pixels_of(t->series[5]) >= own,
                  "%u pixels of another, before it %u", pixels_of(t->series[1]), before);
    }
    if (test_case("runs: the slider makes the loss smoother") && begin(false, 1)) {
        drawn(&panel_runs, all[0], away);
        has(FACE_SMALL, t->muted, "slow");
        uint32_t rough = pixels_of(t->series[0]);
        struct gui_input right = pointer(W - 80, 14); /* the end of the slider */
        right.pressed = right.down = true;
        drawn(&panel_runs, all[0], right);
        drawn(&panel_runs, all[0], away);
        CHECK(find_text(FACE_SMALL, t->text, t->back, "144 steps", NULL, NULL) ||
              find_text(FACE_SMALL, t->text, black, "144 steps", NULL, NULL));
        CHECK(pixels_of(t->series[0]) != rough);
    }
}

static void settings(void)
{
    if (test_case("runs: the table has the settings that differ, and no others") &&
        begin(true, 1)) {
        drawn(&panel_runs, all[0], away);
        has(FACE_SMALL, t->faint, "lr");
        has(FACE_SMALL, t->faint, "rank");
        has(FACE_TEXT, t->text, "0.0006");
        has(FACE_TEXT, t->text, "16");
        CHECK(!find_text(FACE_SMALL, t->faint, t->card, "data", NULL, NULL));
        char best[32];
        snprintf(best, sizeof best, "%.3f", fake_valid(120, 1));
        has(FACE_TEXT, t->text, best);
    }
    if (test_case("runs: CSV has each run's curves and what differs")) {
        char *text = csv_of(&panel_runs, all[0]);
        CHECK(strncmp(text, "run,name,seconds,step,value\n", 28) == 0);
        CHECK(strstr(text, "\nfast,--lr,,,0.0002\n") && strstr(text, "\nslow,--rank,,,32\n"));
        CHECK(strstr(text, "\nmiddle,loss,400.000,201,1.5\n") && !strstr(text, "--data"));
        free(text);
    }
}

void test_monitor_train(void)
{
    SDL_SetHint(SDL_HINT_VIDEODRIVER, "dummy");
    struct run *train = fake_train(STEPS, 0);
    smoothing();
    if (test_case("training: losses, validations, the best, checkpoints at the right pixels"))
        check_curve(train, true, 1);
    if (test_case("training: the same at scale 2, in light colours"))
        check_curve(train, false, 2);
    figures(train);
    said(train);
    clipping(train);
    empty();
    csv(train);
    make_three();
    overlaid();
    settings();
    for (uint32_t i = 0; i < 3; i++)
        run_destroy(all[i]);
    run_destroy(train);
    pixels_end();
}
