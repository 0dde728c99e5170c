/* window: see window.h.
 *
 * SDL's software renderer draws it: the GPU is being measured, or may be lost. The loop sleeps
 * until an event comes or it is time to look for samples, and draws when there is something new. */
#define _POSIX_C_SOURCE 200809L
#include "window.h"
#include "events.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define POLL_S 0.1  /* samples come every quarter of a second */
#define DRAW_S 0.24 /* pictures for new samples alone are not drawn more often */

struct window {
    SDL_Window *win;
    SDL_Renderer *to;
    struct draw *d;
    struct frame *f;
    struct watch *w;
    struct settings set;
    struct events e;
};

/* ---- what is shown --------------------------------------------------------------------------- */

static uint32_t runs_of(struct watch *w, struct run *out[WATCH_MAX_RUN])
{
    uint32_t n = watch_n_run(w);
    for (uint32_t i = 0; i < n; i++)
        out[i] = watch_get(w, i);
    return n;
}

static struct frame_in frame_in_of(struct watch *w, struct run *run[WATCH_MAX_RUN], float wide,
                                   float high)
{
    return (struct frame_in){ .run = run,
                              .n_run = runs_of(w, run),
                              .newest = watch_newest(w),
                              .refusal = watch_refusal(w),
                              .w = wide,
                              .h = high,
                              .now_s = ui_now_s() };
}

static const struct theme *theme_of(const struct settings *s)
{
    return theme_get(s->theme == THEME_SYSTEM ? settings_desktop_dark() : s->theme == THEME_DARK);
}

/* The open panel's wishes, as long as it is open. */
static void ask(struct frame *f, struct watch *w, const struct frame_in *in)
{
    int i = frame_chosen(f, in);
    if (i >= 0 && panel_table[f->open]->want)
        watch_want(w, (uint32_t)i, panel_table[f->open]->want);
}

/* ---- what a person asks for ------------------------------------------------------------------ */

static void copy_csv(struct window *w, const struct frame_in *in)
{
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    bool ok = to && frame_csv(w->f, in, to);
    if (to)
        fclose(to);
    if (ok && SDL_SetClipboardText(text) == 0)
        frame_note(w->f, in->now_s, "Copied the data of the panel as CSV: %s", num_bytes(n).s);
    else
        frame_note(w->f, in->now_s, "The data could not be copied");
    free(text);
}

static void write_picture(struct window *w, const struct frame_in *in)
{
    int wide, high;
    char path[64];
    struct hlm_err err = { 0 };
    SDL_GetRendererOutputSize(w->to, &wide, &high);
    SDL_Surface *s = SDL_CreateRGBSurfaceWithFormat(0, wide, high, 32, SDL_PIXELFORMAT_RGB888);
    if (s && SDL_RenderReadPixels(w->to, NULL, SDL_PIXELFORMAT_RGB888, s->pixels, s->pitch) == 0 &&
        picture_write_next(s, path, sizeof path, &err))
        frame_note(w->f, in->now_s, "Wrote %s", path);
    else
        frame_note(w->f, in->now_s, "%s", err.msg[0] ? err.msg : "The picture could not be read");
    SDL_FreeSurface(s);
}

/* ---- drawing --------------------------------------------------------------------------------- */

/* What does not fit is drawn smaller, in steps, for each opens the fonts anew. */
static void fit_scale(struct window *w, int wide, int high)
{
    float most = fminf((float)wide / FRAME_MIN_W, (float)high / FRAME_MIN_H);
    float scale = fmaxf(fminf(w->e.scale, floorf(most * 8) / 8), 0.75f);
    if (scale != draw_scale(w->d))
        draw_set_scale(w->d, scale, NULL); /* or it stays as it is */
}

static void size_of(struct window *w, int *wide, int *high)
{
    int units;
    SDL_GetRendererOutputSize(w->to, wide, high);
    SDL_GetWindowSize(w->win, &units, NULL);
    w->e.ratio = units > 0 ? (float)*wide / (float)units : 1;
}

static double draw_now(struct window *w)
{
    int wide, high;
    struct run *run[WATCH_MAX_RUN];
    size_of(w, &wide, &high);
    fit_scale(w, wide, high);
    float scale = draw_scale(w->d);
    struct frame_in in = frame_in_of(w->w, run, (float)wide / scale, (float)high / scale);
    unsigned did = frame_draw(w->f, &in, &w->e.in);
    if (did & FRAME_PNG)
        write_picture(w, &in); /* before a message lies on it */
    SDL_RenderPresent(w->to);
    events_seen(&w->e);
    w->e.stale = did != 0;
    if (did & FRAME_COPY)
        copy_csv(w, &in);
    if (did & (FRAME_LARGER | FRAME_SMALLER))
        events_set_scale(&w->e, w->e.scale + (did & FRAME_LARGER ? 0.25f : -0.25f));
    w->set.scale = w->e.scaled ? w->e.scale : w->set.scale;
    if (did & FRAME_THEME) {
        w->set.theme = w->f->gui.t->dark ? THEME_LIGHT : THEME_DARK;
        w->f->gui.t = theme_of(&w->set);
    }
    if (did & FRAME_QUIT)
        w->e.leave = true;
    ask(w->f, w->w, &in);
    return w->f->gui.again_s;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void loop(struct window *w)
{
    double poll_s = 0, drawn_s = 0, again_s = -1;
    bool fresh = false; /* there are new samples */
    w->e.stale = true;
    while (!w->e.leave && !ui_interrupted()) {
        double now = ui_now_s();
        if (now >= poll_s) {
            fresh |= watch_poll(w->w);
            poll_s = now + POLL_S;
        }
        bool due = (fresh && !w->f->paused && now >= drawn_s + DRAW_S) ||
                   (again_s >= 0 && now >= drawn_s + again_s);
        if (!w->e.hidden && (w->e.stale || due)) {
            again_s = draw_now(w);
            drawn_s = now;
            fresh = false;
        }
        double wait = poll_s - ui_now_s();
        if (again_s >= 0)
            wait = fmin(wait, drawn_s + again_s - ui_now_s());
        SDL_Event e;
        if (w->e.stale || !SDL_WaitEventTimeout(&e, wait > 0 ? (int)(wait * 1000) + 1 : 0))
            continue;
        while (!events_take(&w->e, &e) && SDL_PollEvent(&e))
            ;
    }
}

/* As the display asks for: 1, or 1.5 or 2 where its dots are small. */
static float display_scale(SDL_Window *win)
{
    float dpi = 96;
    int i = SDL_GetWindowDisplayIndex(win);
    if (i < 0 || SDL_GetDisplayDPI(i, &dpi, NULL, NULL) != 0)
        return 1;
    return dpi >= 180 ? 2 : dpi >= 140 ? 1.5f : 1;
}

static bool open_window(struct window *w, struct hlm_err *err)
{
    const struct settings *s = &w->set;
    SDL_SetHint(SDL_HINT_NO_SIGNAL_HANDLERS, "1");       /* ui_start has its own */
    SDL_SetHint(SDL_HINT_FRAMEBUFFER_ACCELERATION, "0"); /* the GPU is being measured */
    SDL_SetHint(SDL_HINT_VIDEO_ALLOW_SCREENSAVER, "1");
    SDL_SetHint(SDL_HINT_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR, "0");
    SDL_SetHint(SDL_HINT_MOUSE_FOCUS_CLICKTHROUGH, "1");
    SDL_SetHint(SDL_HINT_APP_NAME, "hlm-monitor");
    if (SDL_Init(SDL_INIT_VIDEO) != 0)
        return ui_fail_system(err, "no window can be opened: %s", SDL_GetError());
    int at = (int)SDL_WINDOWPOS_UNDEFINED;
    w->win = SDL_CreateWindow("hlm-monitor", s->w ? s->x : at, s->w ? s->y : at, s->w ? s->w : 1180,
                              s->w ? s->h : 780, SDL_WINDOW_RESIZABLE | SDL_WINDOW_ALLOW_HIGHDPI);
    if (!w->win)
        return ui_fail_system(err, "no window can be opened: %s", SDL_GetError());
    SDL_SetWindowMinimumSize(w->win, FRAME_MIN_W, FRAME_MIN_H);
    w->to = SDL_CreateRenderer(w->win, -1, SDL_RENDERER_SOFTWARE);
    if (!w->to)
        return ui_fail_system(err, "nothing can be drawn: %s", SDL_GetError());
    float scale = s->scale > 0 ? s->scale : display_scale(w->win);
    w->d = draw_create(w->to, scale, err);
    if (!w->d)
        return false;
    w->f = frame_create(w->d, theme_of(s));
    if (!w->f)
        return ui_fail_memory(err, "no memory for the window");
    events_init(&w->e, w->f, w->w, scale);
    SDL_StartTextInput();
    return true;
}

int window_run(struct watch *watch, const struct window_params *params)
{
    struct hlm_err err = { 0 };
    struct window w = { .w = watch, .set = params->settings };
    int rc = RC_OK;
    if (open_window(&w, &err)) {
        w.f->open = params->panel;
        if (params->chosen >= 0) {
            w.f->chosen = watch_get(watch, (uint32_t)params->chosen);
            w.f->by_hand = true;
        }
        loop(&w);
        SDL_GetWindowPosition(w.win, &w.set.x, &w.set.y);
        SDL_GetWindowSize(w.win, &w.set.w, &w.set.h);
        settings_write(&w.set);
        rc = ui_interrupted() ? RC_INTERRUPTED : RC_OK;
    } else {
        rc = ui_failed(&err);
    }
    frame_destroy(w.f);
    draw_destroy(w.d);
    if (w.to)
        SDL_DestroyRenderer(w.to);
    if (w.win)
        SDL_DestroyWindow(w.win);
    SDL_Quit();
    return rc;
}

/* ---- one picture ----------------------------------------------------------------------------- */

/* Reads what is there, and waits for what the panel asks of a process that runs. */
static void gather(struct watch *watch, struct frame *f, float wide, float high)
{
    enum { TRIES = 15 };
    for (int i = 0; i < TRIES && !ui_interrupted(); i++) {
        struct run *run[WATCH_MAX_RUN];
        watch_poll(watch);
        struct frame_in in = frame_in_of(watch, run, wide, high);
        ask(f, watch, &in);
        int chosen = frame_chosen(f, &in);
        bool lives = chosen >= 0 && in.run[chosen]->life == RUN_ALIVE && !in.run[chosen]->from_log;
        if (i > 0 && (!lives || (!panel_table[f->open]->want && in.run[chosen]->known)))
            return;
        SDL_Delay(100);
    }
}

int window_shot(struct watch *watch, const struct window_params *params, const char *path,
                int width, int height)
{
    struct hlm_err err = { 0 };
    struct picture p;
    float scale = params->settings.scale > 0 ? params->settings.scale : 1;
    struct frame *f = NULL;
    if (!picture_may_write(path, &err) ||
        !picture_create(&p, (int)((float)width * scale), (int)((float)height * scale), scale, &err))
        return ui_failed(&err);
    bool ok = (f = frame_create(p.draw, theme_of(&params->settings))) ||
              ui_fail_memory(&err, "no memory for the picture");
    if (ok) {
        struct run *run[WATCH_MAX_RUN];
        struct gui_input in = { .x = -1e4f, .y = -1e4f };
        f->open = params->panel;
        if (params->chosen >= 0) {
            f->chosen = watch_get(watch, (uint32_t)params->chosen);
            f->by_hand = true;
        }
        gather(watch, f, (float)width, (float)height);
        struct frame_in fi = frame_in_of(watch, run, (float)width, (float)height);
        for (int i = 0; i < 3; i++) /* what is scrolled is known only after the first */
            frame_draw(f, &fi, &in);
        SDL_RenderPresent(p.renderer);
        ok = picture_write(p.surface, path, &err);
    }
    frame_destroy(f);
    picture_destroy(&p);
    return ok ? RC_OK : ui_failed(&err);
}
