/* test_monitor_events: SDL's events - keys, buttons, the wheel, files that are dropped - as the
 * window gets them, and what the next picture makes of them. */
#include "monitor/events.h"
#include "monitor_fake.h"
#include "monitor_pixels.h"
#include "run.h"

#include <math.h>
#include <string.h>

#define W 900
#define H 600

static struct events ev;
static struct run *train;

/* A picture with all that has been taken since the last. Returns what it asks for. */
static unsigned picture(void)
{
    struct run *run[WATCH_MAX_RUN] = { train };
    uint32_t n = watch_n_run(ev.w);
    for (uint32_t i = 0; i < n; i++)
        run[i + 1] = watch_get(ev.w, i);
    const struct frame_in in = { .run = run, .n_run = n + 1, .w = W, .h = H, .now_s = ui_now_s() };
    unsigned did = frame_draw(ev.f, &in, &ev.in);
    pixels_show();
    events_seen(&ev);
    ev.stale = false;
    return did;
}

static bool send(SDL_Event e) { return events_take(&ev, &e); }

static bool send_button(Uint32 type, Uint8 button, int x, int y, Uint8 clicks)
{
    return send((SDL_Event){
        .button = { .type = type, .button = button, .x = x, .y = y, .clicks = clicks } });
}

static void move(int x, int y)
{
    CHECK(!send((SDL_Event){ .motion = { .type = SDL_MOUSEMOTION, .x = x, .y = y } }));
}

static void click(int x, int y)
{
    CHECK(send_button(SDL_MOUSEBUTTONDOWN, SDL_BUTTON_LEFT, x, y, 1));
    picture();
    CHECK(send_button(SDL_MOUSEBUTTONUP, SDL_BUTTON_LEFT, x, y, 1));
    picture();
}

static void wheel(int lines, SDL_Keymod mod)
{
    SDL_SetModState(mod);
    CHECK(!send((SDL_Event){ .wheel = { .type = SDL_MOUSEWHEEL, .y = lines } }));
    CHECK(ev.stale);
    SDL_SetModState(KMOD_NONE);
}

static bool type(const char *text)
{
    SDL_Event e = { .text = { .type = SDL_TEXTINPUT } };
    snprintf(e.text.text, sizeof e.text.text, "%s", text);
    return send(e);
}

static void drop(const char *path)
{
    CHECK(!send((SDL_Event){ .drop = { .type = SDL_DROPFILE, .file = SDL_strdup(path) } }));
    CHECK(ev.stale);
}

static bool is_shown(enum face f, SDL_Color c, SDL_Color ground, const char *text)
{
    return find_text(f, c, ground, text, NULL, NULL);
}

static uint32_t panel_at(const char *name)
{
    uint32_t i = 0;
    while (i + 1 < n_panel && strcmp(panel_table[i]->name, name) != 0)
        i++;
    return i;
}

/* ---- files ----------------------------------------------------------------------------------- */

static void dropping(void)
{
    const struct theme *t = theme_get(true);
    test_case("a log that is dropped on the window is shown");
    const char *log = scratch("dropped.jsonl");
    spill(log, "{\"event\": \"start\", \"t\": 0, \"program\": \"hlm-tune\", \"unix\": 7}\n"
               "{\"event\": \"model\", \"t\": 0.1, \"name\": \"dropped-model\"}\n"
               "{\"event\": \"step\", \"t\": 1.0, \"step\": 1, \"loss\": 2.5}\n");
    picture();
    CHECK(!is_shown(FACE_TITLE, t->text, t->back, "dropped-model"));
    drop(log);
    watch_poll(ev.w);
    picture();
    CHECK_EQ(watch_n_run(ev.w), 1);
    CHECK(is_shown(FACE_TITLE, t->text, t->back, "dropped-model"));
    drop(log); /* again: it is watched already */
    CHECK_EQ(watch_n_run(ev.w), 1);

    test_case("what is no log is refused by name, and what was shown stays");
    spill(scratch("letter.txt"), "Dear Sir,\n");
    drop(scratch("letter.txt"));
    picture();
    CHECK_EQ(watch_n_run(ev.w), 1);
    CHECK_SAYS(ev.f->note, "letter.txt|--log-json");
    CHECK(is_shown(FACE_TITLE, t->text, t->back, "dropped-model"));
    drop("/nowhere/a.jsonl");
    CHECK_SAYS(ev.f->note, "/nowhere/a.jsonl");
}

/* ---- the wheel ------------------------------------------------------------------------------- */

static void wheels(void)
{
    struct frame_panel *p;
    test_case("the wheel scrolls the panel, with Shift it zooms, with Ctrl it makes all larger");
    CHECK(type("1"));
    ev.f->by_hand = false;
    picture();
    CHECK(type("6"));
    picture();
    CHECK_EQ(ev.f->open, panel_at("training"));
    p = &ev.f->panel[ev.f->open];
    move(500, 450); /* on the graph of the loss */
    picture();
    CHECK(p->scroll.high > H);
    wheel(-2, KMOD_NONE);
    picture();
    CHECK_EQ(p->scroll.y, 80);
    CHECK(p->view.to == 0);
    wheel(1, KMOD_NONE);
    wheel(1, KMOD_NONE); /* both before the next picture */
    picture();
    CHECK_EQ(p->scroll.y, 0);
    wheel(3, KMOD_LSHIFT);
    picture();
    CHECK_EQ(p->scroll.y, 0);
    double from = p->view.from, to = p->view.to;
    CHECK_MSG(from > 0 && to > from && to < train->t, "from %g to %g of %g", from, to, train->t);
    CHECK_EQ(ev.scale, 1);
    wheel(1, KMOD_LCTRL);
    CHECK_EQ(ev.scale, 1.25);
    wheel(-1, KMOD_RCTRL);
    CHECK_EQ(ev.scale, 1);
    for (int i = 0; i < 30; i++)
        wheel(1, KMOD_LCTRL);
    CHECK_EQ(ev.scale, 4);
    picture();
    CHECK(p->view.from == from && p->view.to == to);
    events_set_scale(&ev, 1);

    test_case("a double click shows all of the time again");
    CHECK(send_button(SDL_MOUSEBUTTONDOWN, SDL_BUTTON_LEFT, 500, 450, 2));
    picture();
    CHECK(p->view.from == 0 && p->view.to == 0);
    send_button(SDL_MOUSEBUTTONUP, SDL_BUTTON_LEFT, 500, 450, 2);
    picture();
    test_case("a drag zooms to what it covers");
    send_button(SDL_MOUSEBUTTONDOWN, SDL_BUTTON_LEFT, 400, 450, 1);
    picture();
    move(600, 450);
    picture();
    send_button(SDL_MOUSEBUTTONUP, SDL_BUTTON_LEFT, 600, 450, 1);
    picture();
    CHECK(p->view.to > p->view.from);
}

/* ---- buttons and keys ------------------------------------------------------------------------ */

static void buttons(void)
{
    test_case("a right click asks for the panel's data, once");
    CHECK(send_button(SDL_MOUSEBUTTONDOWN, SDL_BUTTON_RIGHT, 500, 300, 1));
    CHECK_EQ(picture(), FRAME_COPY);
    CHECK(send_button(SDL_MOUSEBUTTONUP, SDL_BUTTON_RIGHT, 500, 300, 1));
    CHECK_EQ(picture(), 0);

    test_case("where a window's unit is two pixels, a click is at half the distance");
    float x, y;
    const struct theme *t = theme_get(true);
    move(700, 590);
    picture();
    if (CHECK(find_text(FACE_TEXT, t->muted, t->back, "Memory", &x, &y))) {
        ev.ratio = 2;
        click((int)(x + 6) / 2, (int)(y + 6) / 2);
        ev.ratio = 1;
        CHECK_EQ(ev.f->open, panel_at("memory"));
    }

    test_case("a pointer that has left the window points at nothing");
    move(500, 300);
    picture();
    SDL_Event left = { .window = { .type = SDL_WINDOWEVENT, .event = SDL_WINDOWEVENT_LEAVE } };
    CHECK(!send(left));
    CHECK(ev.in.x < 0 && ev.in.y < 0);
    CHECK(!ev.hidden);
    left.window.event = SDL_WINDOWEVENT_MINIMIZED;
    send(left);
    CHECK(ev.hidden);
    left.window.event = SDL_WINDOWEVENT_RESTORED;
    send(left);
    CHECK(!ev.hidden);
}

static bool press(SDL_Keycode k, Uint16 mod)
{
    return send((SDL_Event){ .key = { .type = SDL_KEYDOWN, .keysym = { .sym = k, .mod = mod } } });
}

static void keys(void)
{
    test_case("keys: each has a picture of its own; what is bound to nothing draws nothing");
    CHECK(type("c"));
    CHECK_EQ(picture(), FRAME_COPY);
    CHECK_EQ(picture(), 0);
    CHECK(type("p"));
    CHECK_EQ(picture(), FRAME_PNG);
    CHECK(press(SDLK_TAB, KMOD_LSHIFT));
    CHECK(ev.in.shift);
    picture();
    CHECK(ev.f->gui.focus && ev.f->gui.show_focus);
    CHECK(!type("\xc3\xa4") && !type("ab") && !type("") && !press(SDLK_F5, 0) && !press(SDLK_c, 0));
    CHECK(!ev.stale);
    CHECK(!send((SDL_Event){ .type = SDL_CLIPBOARDUPDATE }) && !ev.stale);
    CHECK(send((SDL_Event){ .type = SDL_QUIT }) && ev.leave);
}

void test_monitor_events(void)
{
    SDL_SetHint(SDL_HINT_VIDEODRIVER, "dummy");
    test_case("a frame for events");
    if (!pixels_begin(W, H, 1))
        return;
    train = fake_train(200, 0);
    run_tick(train, FAKE_CLOCK_S);
    struct watch *w = watch_create();
    struct frame *f = frame_create(pic.draw, theme_get(true));
    if (CHECK(w && f)) {
        events_init(&ev, f, w, 1);
        dropping();
        wheels();
        buttons();
        keys();
    }
    frame_destroy(f);
    watch_destroy(w);
    run_destroy(train);
    pixels_end();
}
