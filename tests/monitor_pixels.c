/* monitor_pixels: see monitor_pixels.h. */
#include "monitor_pixels.h"

#include <math.h>
#include <stdlib.h>

struct picture pic;

bool pixels_begin(int w, int h, float scale)
{
    struct hlm_err err = { 0 };
    int pw = (int)((float)w * scale), ph = (int)((float)h * scale);
    /* Making one opens all fonts: the last is kept where it can be. */
    if (!pic.draw || pic.surface->w != pw || pic.surface->h != ph ||
        draw_scale(pic.draw) != scale) {
        picture_destroy(&pic);
        if (!CHECK_MSG(picture_create(&pic, pw, ph, scale, &err), "%s", err.msg))
            return false;
    }
    draw_clear(pic.draw, black);
    return true;
}

void pixels_end(void) { picture_destroy(&pic); }
void pixels_show(void) { SDL_RenderFlush(pic.renderer); }

static const Uint32 *row_of(const SDL_Surface *s, int y)
{
    return (const Uint32 *)(const void *)((const Uint8 *)s->pixels + (ptrdiff_t)y * s->pitch);
}

SDL_Color pixel_at(int x, int y)
{
    Uint32 v = row_of(pic.surface, y)[x];
    return (SDL_Color){ v >> 16 & 255, v >> 8 & 255, v & 255, 255 };
}

struct ink pixels_ink(void)
{
    struct ink k = { 1 << 20, 1 << 20, 0, 0, 0 };
    pixels_show();
    for (int y = 0; y < pic.surface->h; y++)
        for (int x = 0; x < pic.surface->w; x++) {
            SDL_Color c = pixel_at(x, y);
            if (same_color(c, black))
                continue;
            k.x0 = x < k.x0 ? x : k.x0;
            k.y0 = y < k.y0 ? y : k.y0;
            k.x1 = x + 1 > k.x1 ? x + 1 : k.x1;
            k.y1 = y + 1 > k.y1 ? y + 1 : k.y1;
            k.sum += c.r / 255.0;
        }
    return k;
}

void check_pixels(int x0, int y0, int x1, int y1)
{
    struct ink k = pixels_ink();
    CHECK_MSG(k.x0 == x0 && k.y0 == y0 && k.x1 == x1 && k.y1 == y1,
              "drawn from %d, %d to %d, %d, expected from %d, %d to %d, %d", k.x0, k.y0, k.x1, k.y1,
              x0, y0, x1, y1);
}

int longest_run(SDL_Color c, int y0, int y1)
{
    int best = 0;
    pixels_show();
    for (int y = y0; y < y1 && y < pic.surface->h; y++)
        for (int x = 0, n = 0; x < pic.surface->w; x++) {
            n = same_color(pixel_at(x, y), c) ? n + 1 : 0;
            best = n > best ? n : best;
        }
    return best;
}

/* Is the part of `of` in the box at (x, y) of the picture? */
static bool is_there(const SDL_Surface *of, SDL_Rect box, int x, int y)
{
    for (int dy = 0; dy < box.h; dy++) {
        const Uint32 *a = row_of(of, box.y + dy) + box.x, *b = row_of(pic.surface, y + dy) + x;
        for (int dx = 0; dx < box.w; dx++)
            if ((a[dx] ^ b[dx]) & 0xffffff)
                return false;
    }
    return true;
}

static SDL_Rect box_of(const SDL_Surface *s, Uint32 ground)
{
    SDL_Rect r = { s->w, s->h, 0, 0 };
    int x1 = 0, y1 = 0;
    for (int y = 0; y < s->h; y++)
        for (int x = 0; x < s->w; x++) {
            if (((row_of(s, y)[x] ^ ground) & 0xffffff) == 0)
                continue;
            r.x = x < r.x ? x : r.x;
            r.y = y < r.y ? y : r.y;
            x1 = x + 1 > x1 ? x + 1 : x1;
            y1 = y + 1;
        }
    r.w = x1 - r.x;
    r.h = y1 - r.y;
    return r;
}

bool find_text(enum face f, SDL_Color c, SDL_Color ground, const char *text, float *x, float *y)
{
    struct picture p;
    float s = draw_scale(pic.draw);
    int w = (int)(draw_text_width(pic.draw, f, text) * s) + 24, h = (int)(60 * s);
    pixels_show();
    if (!CHECK(picture_create(&p, w, h, s, NULL)))
        return false;
    bool found = false;
    draw_clear(p.draw, ground);
    draw_text(p.draw, f, c, 10 / s, (float)(int)(44 * s) / s, text);
    SDL_RenderFlush(p.renderer);
    SDL_Rect box = box_of(p.surface, (Uint32)(ground.r << 16 | ground.g << 8 | ground.b));
    for (int py = 0; py + box.h <= pic.surface->h && !found; py++)
        for (int px = 0; px + box.w <= pic.surface->w && !found; px++)
            if (is_there(p.surface, box, px, py)) {
                found = true;
                if (x)
                    *x = (float)px / s;
                if (y)
                    *y = (float)py / s;
            }
    picture_destroy(&p);
    return found;
}
