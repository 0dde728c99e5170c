/* events: see events.h. */
#include "events.h"

#include <math.h>

#define AWAY (-1e4f) /* of a pointer that is not in the window */

void events_init(struct events *e, struct frame *f, struct watch *w, float scale)
{
    *e = (struct events){
        .f = f, .w = w, .ratio = 1, .scale = scale, .in = { .x = AWAY, .y = AWAY }, .stale = true
    };
}

void events_seen(struct events *e)
{
    e->in.pressed = e->in.released = e->in.doubled = e->in.right = false;
    e->in.wheel = 0;
    e->in.key = 0;
}

void events_set_scale(struct events *e, float scale)
{
    e->scale = fminf(fmaxf(scale, 0.75f), 4);
    e->scaled = e->stale = true;
}

static void drop(struct events *e, const char *path)
{
    struct hlm_err err = { 0 };
    uint32_t i;
    if (watch_add_file(e->w, path, &i, &err)) {
        e->f->chosen = watch_get(e->w, i);
        e->f->by_hand = true;
    } else {
        frame_note(e->f, ui_now_s(), "%s", err.msg);
    }
}

static void pointer_at(struct events *e, int x, int y)
{
    float scale = draw_scale(e->f->gui.d);
    e->in.x = (float)x * e->ratio / scale;
    e->in.y = (float)y * e->ratio / scale;
}

/* Keys that make no character, and control characters. */
static bool is_plain_key(SDL_Keycode k)
{
    return k == SDLK_TAB || k == SDLK_RETURN || k == SDLK_KP_ENTER || k == SDLK_ESCAPE ||
           k == SDLK_LEFT || k == SDLK_RIGHT || k == SDLK_UP || k == SDLK_DOWN ||
           k == SDLK_PAGEUP || k == SDLK_PAGEDOWN || k == SDLK_HOME || k == SDLK_END;
}

static void take_window(struct events *e, Uint8 what)
{
    if (what == SDL_WINDOWEVENT_LEAVE)
        e->in.x = e->in.y = AWAY;
    if (what == SDL_WINDOWEVENT_HIDDEN || what == SDL_WINDOWEVENT_MINIMIZED)
        e->hidden = true;
    if (what == SDL_WINDOWEVENT_SHOWN || what == SDL_WINDOWEVENT_RESTORED ||
        what == SDL_WINDOWEVENT_EXPOSED)
        e->hidden = false;
}

static void take_button(struct events *e, const SDL_MouseButtonEvent *b, bool down)
{
    pointer_at(e, b->x, b->y);
    if (b->button == SDL_BUTTON_LEFT) {
        e->in.down = down;
        e->in.pressed |= down;
        e->in.released |= !down;
        e->in.doubled = down && b->clicks == 2;
    }
    e->in.right = down && b->button == SDL_BUTTON_RIGHT;
}

static void take_wheel(struct events *e, const SDL_MouseWheelEvent *w)
{
    float lines = (float)(w->y ? w->y : w->x); /* some desktops turn it sideways with Shift */
    if (SDL_GetModState() & KMOD_CTRL)
        events_set_scale(e, e->scale + (lines > 0 ? 0.25f : -0.25f));
    else
        e->in.wheel += lines;
    e->in.shift = SDL_GetModState() & KMOD_SHIFT;
}

/* The key goes to the next picture. False: it means nothing here. */
static bool take_key(struct events *e, int key, bool shift)
{
    if (!key)
        return false;
    e->in.key = key;
    e->in.shift = shift;
    return true;
}

static int key_of(const char *text) { return text[0] & 0x80 || (text[0] && text[1]) ? 0 : text[0]; }

bool events_take(struct events *e, const SDL_Event *ev)
{
    bool alone = false;
    switch (ev->type) {
    case SDL_QUIT: e->leave = true; return true;
    case SDL_WINDOWEVENT: take_window(e, ev->window.event); break;
    case SDL_RENDER_TARGETS_RESET:
    case SDL_RENDER_DEVICE_RESET: draw_forget_textures(e->f->gui.d); break;
    case SDL_MOUSEMOTION: pointer_at(e, ev->motion.x, ev->motion.y); break;
    case SDL_MOUSEBUTTONDOWN:
    case SDL_MOUSEBUTTONUP:
        take_button(e, &ev->button, ev->type == SDL_MOUSEBUTTONDOWN);
        alone = true;
        break;
    case SDL_MOUSEWHEEL: take_wheel(e, &ev->wheel); break;
    case SDL_KEYDOWN:
        if (!is_plain_key(ev->key.keysym.sym))
            return false;
        alone = take_key(e, ev->key.keysym.sym, ev->key.keysym.mod & KMOD_SHIFT);
        break;
    case SDL_TEXTINPUT:
        if (!(alone = take_key(e, key_of(ev->text.text), e->in.shift)))
            return false;
        break;
    case SDL_DROPFILE:
        drop(e, ev->drop.file);
        SDL_free(ev->drop.file);
        break;
    default: return false;
    }
    e->stale = true;
    return alone;
}
