/* draw: see draw.h. The renderer, the clip and boxes; text and shapes have files of their own. */
#include "draw_in.h"

#include <math.h>
#include <stdlib.h>

struct draw *draw_create(SDL_Renderer *to, float scale, struct hlm_err *err)
{
    struct draw *d = ui_alloc(1, sizeof *d);
    if (!d) {
        ui_fail_memory(err, "no memory for drawing");
        return NULL;
    }
    d->to = to;
    d->cover = cover_create();
    d->text = text_create(err);
    if (!d->cover)
        ui_fail_memory(err, "no memory for drawing");
    if (!d->cover || !d->text || !draw_set_scale(d, scale, err)) {
        draw_destroy(d);
        return NULL;
    }
    SDL_SetRenderDrawBlendMode(to, SDL_BLENDMODE_BLEND);
    return d;
}

void draw_destroy(struct draw *d)
{
    if (!d)
        return;
    text_destroy(d->text);
    cover_destroy(d->cover);
    free(d);
}

bool draw_set_scale(struct draw *d, float scale, struct hlm_err *err)
{
    if (!text_set_scale(d->text, scale, err))
        return false;
    d->scale = scale;
    return true;
}

float draw_scale(const struct draw *d) { return d->scale; }
SDL_Renderer *draw_renderer(const struct draw *d) { return d->to; }

void draw_forget_textures(struct draw *d)
{
    text_forget(d->text);
    cover_forget(d->cover);
}

/* ---- the clip -------------------------------------------------------------------------------- */

static int to_pixel(float points, float scale)
{
    float p = roundf(points * scale);
    return p < -1e6f ? -1000000 : p > 1e6f ? 1000000 : (int)p; /* also for what is no number */
}

SDL_Rect draw_pixels(const struct draw *d, SDL_FRect r)
{
    int x = to_pixel(r.x, d->scale), y = to_pixel(r.y, d->scale);
    int w = to_pixel(r.x + r.w, d->scale) - x, h = to_pixel(r.y + r.h, d->scale) - y;
    return (SDL_Rect){ x, y, w > 0 ? w : 0, h > 0 ? h : 0 };
}

SDL_FRect draw_snap(const struct draw *d, SDL_FRect r)
{
    SDL_Rect p = draw_pixels(d, r);
    return (SDL_FRect){ (float)p.x / d->scale, (float)p.y / d->scale,
                        (float)(p.w ? p.w : 1) / d->scale, (float)(p.h ? p.h : 1) / d->scale };
}

SDL_Rect draw_clip_pixels(const struct draw *d)
{
    if (d->n_clip)
        return d->clip[d->n_clip - 1];
    SDL_Rect all = { 0 };
    SDL_GetRendererOutputSize(d->to, &all.w, &all.h);
    return all;
}

SDL_FRect draw_clipped(const struct draw *d)
{
    SDL_Rect r = draw_clip_pixels(d);
    return (SDL_FRect){ (float)r.x / d->scale, (float)r.y / d->scale, (float)r.w / d->scale,
                        (float)r.h / d->scale };
}

void draw_clip(struct draw *d, SDL_FRect r)
{
    SDL_Rect now = draw_clip_pixels(d), more = draw_pixels(d, r), both;
    if (!SDL_IntersectRect(&now, &more, &both))
        both = (SDL_Rect){ now.x, now.y, 0, 0 };
    if (d->n_clip == MAX_CLIP)
        abort(); /* a mistake of the caller's */
    d->clip[d->n_clip++] = both;
    SDL_RenderSetClipRect(d->to, &both);
}

void draw_unclip(struct draw *d)
{
    if (d->n_clip-- == 0)
        abort();
    SDL_RenderSetClipRect(d->to, d->n_clip ? &d->clip[d->n_clip - 1] : NULL);
}

/* ---- boxes ----------------------------------------------------------------------------------- */

static void fill(struct draw *d, SDL_Rect r, SDL_Color c)
{
    if (!c.a || r.w <= 0 || r.h <= 0)
        return;
    SDL_SetRenderDrawColor(d->to, c.r, c.g, c.b, c.a);
    SDL_RenderFillRect(d->to, &r);
}

void draw_clear(struct draw *d, SDL_Color c)
{
    SDL_SetRenderDrawColor(d->to, c.r, c.g, c.b, 255);
    SDL_RenderClear(d->to);
}

void draw_box(struct draw *d, SDL_FRect r, SDL_Color c) { fill(d, draw_pixels(d, r), c); }

static int hair(const struct draw *d)
{
    int w = (int)d->scale;
    return w > 1 ? w : 1;
}

void draw_rule(struct draw *d, float x, float y, float w, SDL_Color c)
{
    SDL_Rect r = draw_pixels(d, (SDL_FRect){ x, y, w, 0 });
    r.h = hair(d);
    fill(d, r, c);
}

void draw_post(struct draw *d, float x, float y, float h, SDL_Color c)
{
    SDL_Rect r = draw_pixels(d, (SDL_FRect){ x, y, 0, h });
    r.w = hair(d);
    fill(d, r, c);
}

/* The corners are polygons; what lies between them is boxes, which are faster and have sharp edges.
 */
void draw_round(struct draw *d, SDL_FRect r, float radius, SDL_Color c)
{
    enum { STEPS = 8 };
    r = draw_snap(d, r);
    radius = roundf(fminf(radius, fminf(r.w, r.h) / 2) * d->scale) / d->scale;
    if (radius <= 0) {
        draw_box(d, r, c);
        return;
    }
    draw_box(d, (SDL_FRect){ r.x + radius, r.y, r.w - 2 * radius, r.h }, c);
    draw_box(d, (SDL_FRect){ r.x, r.y + radius, radius, r.h - 2 * radius }, c);
    draw_box(d, (SDL_FRect){ r.x + r.w - radius, r.y + radius, radius, r.h - 2 * radius }, c);
    for (int corner = 0; corner < 4; corner++) {
        bool right = corner == 1 || corner == 2, low = corner >= 2;
        SDL_FPoint p[STEPS + 2] = { { right ? r.x + r.w - radius : r.x + radius,
                                      low ? r.y + r.h - radius : r.y + radius } };
        for (int i = 0; i <= STEPS; i++) {
            float a = (float)(corner * STEPS + i) * DRAW_TURN / 4 / STEPS;
            p[i + 1] = (SDL_FPoint){ p[0].x - radius * cosf(a), p[0].y - radius * sinf(a) };
        }
        draw_polygon(d, p, STEPS + 2, c);
    }
}

void draw_framed(struct draw *d, SDL_FRect r, float radius, SDL_Color inner, SDL_Color border)
{
    float w = (float)hair(d) / d->scale;
    r = draw_snap(d, r);
    draw_round(d, r, radius, border);
    draw_round(d, (SDL_FRect){ r.x + w, r.y + w, r.w - 2 * w, r.h - 2 * w }, radius - w, inner);
}
