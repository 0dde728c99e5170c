/* test_monitor_panels: the frame and every panel of hlm-monitor, drawn into memory from runs whose
 * right picture is known (monitor_fake.h), and from runs that lie. */
#define _POSIX_C_SOURCE 200809L
#include "monitor_fake.h"
#include "monitor_pixels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_RUN = 7 };
static struct run *chat, *train, *mixture, *idle, *ended, *died, *bare;
static struct run *all[N_RUN];

static void make_runs(void)
{
    all[0] = bare = run_create(); /* nothing is known of it yet */
    all[1] = ended = fake_ended();
    all[2] = died = fake_died();
    all[3] = idle = fake_idle();
    all[4] = train = fake_train(200, 0);
    all[5] = mixture = fake_mixture();
    all[6] = chat = fake_chat();
    for (int i = 0; i < N_RUN; i++)
        run_tick(all[i], FAKE_CLOCK_S);
}

/* ---- panels by themselves -------------------------------------------------------------------- */

static struct gui gui;
static struct graph_view view;
static uint8_t keep[1 << 16];

static struct panel_in panel_in_of(const struct run *r, const struct theme *t, float x, float y)
{
    struct gui_input in = { .x = x, .y = y };
    gui.d = pic.draw;
    gui.t = t;
    gui_begin(&gui, &in, 1);
    return (struct panel_in){
        .g = &gui, .run = r, .all = all, .n_all = N_RUN, .view = &view, .keep = keep
    };
}

/* Draws a panel, and checks that nothing is outside of what it says it uses. */
static void check_within(const struct panel *p, const struct run *r, SDL_FRect at, bool dark)
{
    float s = draw_scale(pic.draw);
    draw_clear(pic.draw, black);
    memset(&view, 0, sizeof view);
    memset(keep, 0, sizeof keep);
    struct panel_in in = panel_in_of(r, theme_get(dark), at.x + at.w / 3, at.y + at.h / 2);
    float used = p->draw(&in, at);
    graph_view_end(&gui, &view);
    gui.tip[0] = 0; /* a tooltip may lie anywhere */
    gui_end(&gui);
    if (!CHECK_MSG(used > 0 && used < 20000, "%s uses a height of %g", p->name, (double)used))
        return;
    struct ink k = pixels_ink();
    CHECK_MSG(k.x0 >= (int)(at.x * s) && k.y0 >= (int)(at.y * s) &&
                  k.x1 <= (int)ceilf((at.x + at.w) * s) &&
                  k.y1 <= (int)ceilf((at.y + used) * s) + 1,
              "%s of a run that is %s: drawn from %d, %d to %d, %d; it was given %g, %g, %g wide,"
              " and says that it is %g high",
              p->name, run_state_word(r), k.x0, k.y0, k.x1, k.y1, (double)at.x, (double)at.y,
              (double)at.w, (double)used);
}

static void every_panel(void)
{
    for (uint32_t i = 0; i < n_panel; i++) {
        const struct panel *p = panel_table[i];
        if (test_case("%s stays in its place, whatever the run is", p->name)) {
            CHECK(p->keep <= sizeof keep);
            pixels_begin(700, 1500, 1);
            for (int r = 0; r < N_RUN; r++)
                check_within(p, all[r], (SDL_FRect){ 30, 20, 640, 500 }, r % 2);
        }
        if (test_case("%s stays in its place when it is narrow, and at scale 2", p->name)) {
            pixels_begin(560, 1900, 1);
            check_within(p, mixture, (SDL_FRect){ 10, 20, 540, 300 }, true);
            pixels_begin(620, 900, 2);
            check_within(p, train, (SDL_FRect){ 10, 20, 600, 500 }, false);
        }
        if (test_case("%s of a ring that lies", p->name)) {
            pixels_begin(560, 1900, 1);
            for (uint64_t seed = 1; seed <= 5; seed++) {
                struct run *r = fake_lying(seed, 40);
                run_tick(r, FAKE_CLOCK_S);
                all[0] = r;
                check_within(p, r, (SDL_FRect){ 10, 20, 540, 400 }, true);
                all[0] = bare;
                run_destroy(r);
            }
        }
        if (test_case("%s gives its data as CSV, a row of names first", p->name)) {
            char *text = NULL;
            size_t n = 0;
            FILE *to = open_memstream(&text, &n);
            struct panel_in in = panel_in_of(chat, theme_get(true), -9, -9);
            p->csv(&in, to);
            fclose(to);
            size_t head = strcspn(text, "\n");
            CHECK(n > 0 && text[n - 1] == '\n' && head > 3 && memchr(text, ',', head));
            free(text);
            gui_end(&gui);
        }
    }
}

/* ---- the overview ---------------------------------------------------------------------------- */

static void overview_at(const struct run *r, float x, float y)
{
    pixels_begin(1000, 700, 1);
    draw_clear(pic.draw, black);
    for (int i = 0; i < 2; i++) { /* what is pointed at shows in the frame after */
        struct panel_in in = panel_in_of(r, theme_get(true), x, y);
        panel_overview.draw(&in, (SDL_FRect){ 0, 0, 1000, 700 });
        graph_view_end(&gui, &view);
        gui.tip[0] = 0;
        gui_end(&gui);
    }
}

static void check_text(enum face f, SDL_Color c, const char *text)
{
    CHECK_MSG(find_text(f, c, theme_get(true)->card, text, NULL, NULL), "there is no '%s'", text);
}

static void overview(void)
{
    const struct theme *t = theme_get(true);
    memset(&view, 0, sizeof view);
    if (test_case("a training: state, step, time left, and a bar of the right length")) {
        overview_at(train, -9, -9);
        check_text(FACE_FIGURE, t->text, "Training");
        char step[64];
        snprintf(step, sizeof step, "step %llu of %llu", (unsigned long long)train->now.step,
                 (unsigned long long)train->now.n_step);
        check_text(FACE_TEXT, t->muted, step);
        snprintf(step, sizeof step, "%s left", span_text(train->left_s).s);
        check_text(FACE_TITLE, t->text, step);
        snprintf(step, sizeof step, "%.0f\u2009%%", floor(100 * train->part));
        check_text(FACE_STRONG, t->text, step);
        float w = 1000 - 2 * PANEL_PAD - 12 - draw_text_width(pic.draw, FACE_STRONG, step);
        int got = longest_run(t->accent, 60, 72);
        CHECK_MSG(abs(got - (int)(w * train->part)) <= 3, "the bar is %d long, expected %g", got,
                  (double)w * train->part);
    }
    if (test_case("a chat: speeds, context, and the memory in segments")) {
        overview_at(chat, -9, -9);
        check_text(FACE_FIGURE, t->text, "Generating");
        check_text(FACE_FIGURE, t->text, "20.0");
        check_text(FACE_FIGURE, t->text, "410");
        const struct run_device *d = &chat->device[0];
        double whole = (double)(d->budget > d->real ? d->budget
                                : d->heap > d->real ? d->heap
                                                    : d->real);
        int y0 = 0;
        float y;
        if (CHECK(
                find_text(FACE_STRONG, t->text, t->card, "Memory of Radeon RX 7800 XT", NULL, &y)))
            y0 = (int)y + 20;
        for (uint32_t i = 0; i < d->n_purpose; i++) {
            double want = (1000 - 2 * (double)PANEL_PAD) * (double)d->purpose[i].real / whole;
            int got = longest_run(purpose_color(t, d->purpose[i].name), y0, y0 + 32);
            CHECK_MSG(fabs(got - want) <= 2.5, "%s is %d long, expected %.1f", d->purpose[i].name,
                      got, want);
        }
    }
}

static void overview_words(void)
{
    const struct theme *t = theme_get(true);
    if (test_case("what is not known yet is a dash, without a unit")) {
        overview_at(idle, -9, -9);
        check_text(FACE_FIGURE, t->faint, "\u2013");
        CHECK(!find_text(FACE_TEXT, t->muted, t->card, "tok/s", NULL, NULL));
    }
    if (test_case("the crosshair reads the value that the run has there")) {
        /* The left of the two graphs, in the middle: 20 s of 40, where tokens are made. */
        overview_at(chat, 16 + 46 + (494 - 32 - 50) / 2.0f, 300);
        CHECK(view.has_cross && fabs(view.cross - (panel_from(chat) + chat->t) / 2) < 1);
        char when[32];
        show_clock(view.cross, when, sizeof when);
        check_text(FACE_SMALL, t->faint, when);
        check_text(FACE_SMALL, t->text, "20.0");
        check_text(FACE_SMALL, t->text, "0"); /* while nothing is read */
        memset(&view, 0, sizeof view);
    }
    if (test_case("what is unusual stands in words, with a shape")) {
        overview_at(died, -9, -9);
        check_text(FACE_FIGURE, t->text, "Died");
        check_text(FACE_TEXT, t->text, "The process is gone, and it did not say that it would end");
        overview_at(chat, -9, -9);
        check_text(FACE_TEXT, t->muted, "Nothing unusual");
    }
    if (test_case("a sentence begins with a capital letter, the name of a file with its own")) {
        static struct ring_sample s;
        struct run *r = fake_idle();
        s.c = r->now;
        s.c.n_error = s.c.n_validation = 1;
        s.c.n_evicted = 2;
        s.time_s = s.count_s = FAKE_CLOCK_S;
        static const char *const said[][2] = {
            { "models/demo.gguf: disk full", "models/demo.gguf: disk full" },
            { "token_embd.weight is empty", "token_embd.weight is empty" },
            { "out of memory", "Out of memory" },
        };
        for (uint32_t i = 0; i < ARRAY_LEN(said); i++) {
            snprintf(s.c.error, sizeof s.c.error, "%s", said[i][0]);
            run_take_sample(r, &s, 0);
            overview_at(r, -9, -9);
            check_text(FACE_TEXT, t->text, said[i][1]);
        }
        check_text(FACE_TEXT, t->text, "1 message of Vulkan's validation layer");
        run_destroy(r);
    }
}

static void tokens(void)
{
    const struct theme *t = theme_get(true);
    if (!test_case("tokens: what was read and made, and their shares of one bar"))
        return;
    pixels_begin(1000, 700, 1);
    struct panel_in in = panel_in_of(chat, t, -9, -9);
    panel_tokens.draw(&in, (SDL_FRect){ 0, 0, 1000, 700 });
    gui_end(&gui);
    const struct hlm_counters *c = &chat->now;
    double sum = (double)(c->n_read + c->n_reused + c->n_reread + c->n_gen), w = 1000 - 2 * 16;
    int read = longest_run(t->series[1], 40, 62), made = longest_run(t->accent, 40, 62);
    CHECK_MSG(fabs(read - w * (double)c->n_read / sum) <= 2.5, "read: %d", read);
    CHECK_MSG(fabs(made - w * (double)c->n_gen / sum) <= 2.5, "made: %d", made);
    check_text(FACE_FIGURE, t->text, "50.0"); /* ms a token, at 20 a second */
    check_text(FACE_STRONG, t->text, "Context");
    pixels_begin(1000, 700, 1);
    in = panel_in_of(train, t, -9, -9);
    panel_tokens.draw(&in, (SDL_FRect){ 0, 0, 1000, 700 });
    gui_end(&gui);
    check_text(FACE_TITLE, t->muted, "A training reads rows, not prompts");
    pixels_begin(1000, 700, 1);
    in = panel_in_of(idle, t, -9, -9);
    panel_tokens.draw(&in, (SDL_FRect){ 0, 0, 1000, 700 });
    gui_end(&gui);
    check_text(FACE_TITLE, t->muted, "No tokens yet");
    check_text(FACE_TEXT, t->faint, "This fills with the first prompt that is read.");
}

/* ---- numbers --------------------------------------------------------------------------------- */

static void numbers(void)
{
    static const struct {
        void (*show)(double, char *, size_t);
        double v;
        const char *want;
    } row[] = {
        { show_rate, 0, "0" },
        { show_rate, 43.71, "43.7" },
        { show_rate, 999.4, "999" },
        { show_rate, 1357, "1.36 k" },
        { show_rate, -1, "-" },
        { show_rate, 9.996, "10.0" },
        { show_bytes, 512, "512 B" },
        { show_bytes, 1536, "1.50 KiB" },
        { show_bytes, 1023.9 * 1024, "1.00 MiB" },
        { show_bytes, 1.5 * (1 << 30), "1.50 GiB" },
        { show_count, 9999, "9999" },
        { show_count, 20480, "20\u2009480" },
        { show_count, 1.25e6, "1.25 M" },
        { show_clock, 42.9, "0:42" },
        { show_clock, 3800, "1:03:20" },
        { show_since, 59.9, "59 s" },
        { show_since, 3599, "59 min" },
        { show_since, 200000, "2 days" },
        { show_clock, (double)NAN, "0:00" },
        { show_since, (double)NAN, "-" },
        { show_bytes, (double)NAN, "-" },
    };
    if (!test_case("numbers are as people read them"))
        return;
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        char got[32];
        row[i].show(row[i].v, got, sizeof got);
        CHECK_STR(got, row[i].want);
    }
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    csv_text(to, "plain");
    csv_text(to, "a \"b\", c");
    fclose(to);
    CHECK_STR(text, "plain\"a \"\"b\"\", c\"");
    free(text);
}

/* ---- the frame ------------------------------------------------------------------------------- */

static struct frame *frame;
static struct frame_in fin;

static unsigned shown(struct gui_input in)
{
    unsigned did = frame_draw(frame, &fin, &in);
    pixels_show();
    return did;
}
static const struct gui_input away = { .x = -100, .y = -100 };

static struct gui_input key(int k)
{
    struct gui_input in = away;
    in.key = k;
    return in;
}

static struct gui_input click(float x, float y)
{
    return (struct gui_input){ .x = x, .y = y, .pressed = true };
}

static bool open_frame(int w, int h, float scale, bool dark)
{
    frame_destroy(frame);
    frame = NULL;
    if (!pixels_begin(w, h, scale))
        return false;
    frame = frame_create(pic.draw, theme_get(dark));
    fin = (struct frame_in){
        .run = all, .n_run = N_RUN, .newest = N_RUN - 1, .w = (float)w, .h = (float)h, .now_s = 1
    };
    return CHECK(frame);
}

static void sizes(void)
{
    static const struct {
        int w, h;
        float scale;
        bool dark;
    } row[] = { { 640, 400, 1, true }, { 640, 400, 2, false }, { 3840, 2160, 1, true } };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++) {
        if (!test_case("the whole picture, %d x %d at scale %g", row[i].w, row[i].h,
                       (double)row[i].scale) ||
            !open_frame(row[i].w, row[i].h, row[i].scale, row[i].dark))
            continue;
        uint32_t n = row[i].w > 2000 ? 2 : n_panel; /* large pictures take long */
        for (uint32_t k = 0; k < n; k++) {
            shown(key('1' + (int)k));
            CHECK_EQ(frame->open, k);
        }
        shown(key('1'));
        const struct theme *t = theme_get(row[i].dark);
        float x, y;
        CHECK(find_text(FACE_TITLE, t->text, t->back, "Qwen3.5-0.8B", &x, &y));
        CHECK_MSG(y < 40, "the model's name is at %g, %g", (double)x, (double)y);
    }
}

static void choosing(void)
{
    if (!test_case("runs and panels are chosen by clicks; another run does not take over") ||
        !open_frame(1200, 760, 1, true))
        return;
    shown(away);
    CHECK_EQ(frame_chosen(frame, &fin), N_RUN - 1);
    shown(click(100, 56 + 66 * 2.5f)); /* the third of the list: the newest first */
    CHECK_EQ(frame_chosen(frame, &fin), N_RUN - 3);
    shown(away);
    CHECK(find_text(FACE_TITLE, theme_get(true)->text, theme_get(true)->back, "hlm-demo", NULL,
                    NULL));
    fin.newest = 0;
    CHECK_EQ(frame_chosen(frame, &fin), N_RUN - 3);
    shown(key('n'));
    CHECK_EQ(frame_chosen(frame, &fin), 0);
    fin.newest = N_RUN - 1;
    float x, y;
    shown(away);
    if (CHECK(
            find_text(FACE_TEXT, theme_get(true)->muted, theme_get(true)->back, "Tokens", &x, &y)))
        shown(click(x + 5, y + 5));
    CHECK_EQ(frame->open, 1);
}

static bool same_picture(const SDL_Surface *a, const SDL_Surface *b)
{
    for (int y = 0; y < a->h; y++)
        if (memcmp((const Uint8 *)a->pixels + (ptrdiff_t)y * a->pitch,
                   (const Uint8 *)b->pixels + (ptrdiff_t)y * b->pitch, (size_t)a->w * 4) != 0)
            return false;
    return true;
}

static void pausing(void)
{
    if (!test_case("paused, the picture stands while the run goes on") ||
        !open_frame(800, 700, 1, true))
        return;
    struct run *r = fake_train(60, 1);
    struct run *const *one = (struct run *const *)&r;
    run_tick(r, FAKE_CLOCK_S);
    fin.run = one;
    fin.n_run = 1;
    fin.newest = 0;
    shown(key(' '));
    shown(away);
    SDL_Surface *before = SDL_ConvertSurface(pic.surface, pic.surface->format, 0);
    static const char line[] = "{\"event\": \"step\", \"t\": 61, \"step\": 61, \"loss\": 9.5}";
    run_take_line(r, line, sizeof line - 1);
    fin.n_run = 0; /* even when it is forgotten */
    fin.newest = -1;
    shown(away);
    CHECK(frame->paused && same_picture(before, pic.surface));
    fin.n_run = 1;
    fin.newest = 0;
    shown(key(' '));
    shown(away);
    CHECK(!frame->paused && !same_picture(before, pic.surface));
    SDL_FreeSurface(before);
    frame_destroy(frame);
    frame = NULL;
    run_destroy(r);
}

static void asking(void)
{
    if (!test_case("keys ask for what they say; ? lists them") || !open_frame(900, 600, 1, true))
        return;
    static const struct {
        int key;
        unsigned did;
    } row[] = { { 'c', FRAME_COPY },   { 'p', FRAME_PNG },
                { 'q', FRAME_QUIT },   { '+', FRAME_LARGER },
                { '=', FRAME_LARGER }, { '-', FRAME_SMALLER },
                { 't', FRAME_THEME },  { 'x', 0 } };
    for (uint32_t i = 0; i < ARRAY_LEN(row); i++)
        CHECK_EQ(shown(key(row[i].key)), row[i].did);
    CHECK_EQ(shown((struct gui_input){ .x = 500, .y = 300, .right = true }), FRAME_COPY);
    shown(key('?'));
    CHECK(frame->help);
    shown(away);
    check_text(FACE_TITLE, theme_get(true)->text, "Keys");
    shown(key(SDLK_ESCAPE));
    CHECK(!frame->help);
    frame_note(frame, 1, "Wrote %s", "a.png");
    shown(away);
    CHECK(find_text(FACE_TEXT, theme_get(true)->text, theme_get(true)->raised, "Wrote a.png", NULL,
                    NULL));
    CHECK(frame->gui.again_s > 0);
    fin.now_s = 9;
    shown(away);
    CHECK(!find_text(FACE_TEXT, theme_get(true)->text, theme_get(true)->raised, "Wrote a.png", NULL,
                     NULL));
    CHECK(frame->gui.again_s < 0); /* at rest */
}

static void nothing(void)
{
    const struct theme *t = theme_get(false);
    if (!test_case("when nothing runs the picture says how to start something") ||
        !open_frame(640, 400, 1, false))
        return;
    fin.n_run = 0;
    fin.newest = -1;
    fin.refusal = "a program of another version: its ring is 1.3, expected 2.3";
    shown(away);
    CHECK(find_text(FACE_FIGURE, t->text, t->back, "Nothing is running", NULL, NULL));
    CHECK(find_text(FACE_STRONG, t->text, t->card, "hlm-chat -m model.gguf", NULL, NULL));
    CHECK(find_text(FACE_SMALL, t->warn, t->back, fin.refusal, NULL, NULL));
    CHECK(!frame_csv(frame, &fin, stdout));
    shown(key(' '));
    CHECK(!frame->paused);
    CHECK(frame->gui.again_s < 0 || frame->gui.again_s == 0);
    fin.n_run = N_RUN;
    fin.newest = N_RUN - 1;
    shown(away);
    CHECK(find_text(FACE_TITLE, t->text, t->back, "Qwen3.5-0.8B", NULL, NULL));
}

static void files(void)
{
    char path[300], other[300];
    struct hlm_err err = { 0 };
    if (!test_case("a picture is written as PNG, and only over another"))
        return;
    snprintf(path, sizeof path, "%s/monitor.png", test_tmp());
    snprintf(other, sizeof other, "%s/monitor.txt", test_tmp());
    pixels_begin(64, 32, 1);
    draw_box(pic.draw, (SDL_FRect){ 3, 4, 5, 6 }, white);
    pixels_show();
    CHECK_MSG(picture_write(pic.surface, path, &err), "%s", err.msg);
    CHECK_MSG(picture_write(pic.surface, path, &err), "%s", err.msg); /* over it */
    FILE *f = fopen(path, "rb");
    unsigned char head[24] = { 0 };
    CHECK(f && fread(head, 1, sizeof head, f) == sizeof head);
    if (f)
        fclose(f);
    CHECK(memcmp(head, "\x89PNG", 4) == 0 && head[19] == 64 && head[23] == 32);
    f = fopen(other, "w");
    if (f) {
        fputs("somebody's work\n", f);
        fclose(f);
    }
    CHECK_REFUSED(picture_write(pic.surface, other, &err), err, "monitor.txt|PNG");
    CHECK_REFUSED(picture_write(pic.surface, "/nowhere/a.png", &err), err, "/nowhere/a.png");
}

void test_monitor_panels(void)
{
    SDL_SetHint(SDL_HINT_VIDEODRIVER, "dummy");
    make_runs();
    every_panel();
    overview();
    overview_words();
    tokens();
    numbers();
    sizes();
    choosing();
    pausing();
    asking();
    nothing();
    files();
    frame_destroy(frame);
    frame = NULL;
    for (int i = 0; i < N_RUN; i++)
        run_destroy(all[i]);
    pixels_end();
}
