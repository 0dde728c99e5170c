/* draw_path: anti-aliased shapes. The exact share of each pixel that a shape covers is summed from
 * its edges: an edge adds, to each pixel of a row that it crosses, the area between it and the
 * pixel's right side, and the running sum along the row is the coverage. Shapes that are drawn
 * together turn the same way, so that where they overlap the sum is above 1 and is cut. */
#include "draw_in.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct draw_cover {
    float *sum; /* of the pixels in `at`, a row longer by one each, all zero between shapes */
    uint64_t n_sum;
    SDL_Rect at;
    SDL_Texture *tex;
    int w, h; /* of the texture */
};

struct draw_cover *cover_create(void) { return ui_alloc(1, sizeof(struct draw_cover)); }

void cover_forget(struct draw_cover *c)
{
    if (c->tex)
        SDL_DestroyTexture(c->tex);
    c->tex = NULL;
}

void cover_destroy(struct draw_cover *c)
{
    if (!c)
        return;
    cover_forget(c);
    free(c->sum);
    free(c);
}

/* ---- coverage -------------------------------------------------------------------------------- */

/* Begins shapes within the box, in points. False: nothing of it can be seen, or memory is short. */
static bool begin(struct draw *d, float x0, float y0, float x1, float y1)
{
    struct draw_cover *c = d->cover;
    float s = d->scale;
    if (!(x0 <= x1 && y0 <= y1)) /* also what is no number */
        return false;
    SDL_Rect clip = draw_clip_pixels(d);
    float left = fmaxf(floorf(x0 * s), (float)clip.x), top = fmaxf(floorf(y0 * s), (float)clip.y);
    float right = fminf(ceilf(x1 * s), (float)(clip.x + clip.w));
    float low = fminf(ceilf(y1 * s), (float)(clip.y + clip.h));
    if (right <= left || low <= top)
        return false;
    c->at = (SDL_Rect){ (int)left, (int)top, (int)(right - left), (int)(low - top) };
    uint64_t n = ((uint64_t)c->at.w + 1) * (uint64_t)c->at.h;
    if (n > c->n_sum) {
        free(c->sum);
        c->sum = ui_alloc(n, sizeof *c->sum);
        c->n_sum = c->sum ? n : 0;
    }
    return c->sum;
}

/* The part of an edge within one row: from (xa, ya) to (xb, yb), dir 1 or -1; x may be outside. */
static void edge_in_row(float *row, float w, float xa, float xb, float dy)
{
    xa = fminf(fmaxf(xa, 0), w);
    xb = fminf(fmaxf(xb, 0), w);
    float x0 = fminf(xa, xb), x1 = fmaxf(xa, xb);
    int first = (int)x0, last = (int)ceilf(x1) - 1;
    if (last <= first) { /* within one pixel, or upright */
        float mean = (x0 + x1) / 2 - (float)first;
        row[first] += dy * (1 - mean);
        if ((float)first < w)
            row[first + 1] += dy * mean;
        return;
    }
    /* Pixel by pixel: how much of dy has gone by at its right side, and the mean of that in it. */
    float slope = dy / (x1 - x0), done = 0, before = 0;
    for (int i = first; i <= last; i++) {
        float from = fmaxf(x0, (float)i), to = fminf(x1, (float)(i + 1));
        float here = slope * (to - from);
        float area = done + here * (1 - ((from + to) / 2 - (float)i));
        row[i] += area - before;
        done += here;
        before = area;
        if (i == last) {
            row[i + 1] += done - area;
            return;
        }
    }
}

static void edge(struct draw_cover *c, float s, SDL_FPoint a, SDL_FPoint b)
{
    float xa = a.x * s - (float)c->at.x, ya = a.y * s - (float)c->at.y;
    float xb = b.x * s - (float)c->at.x, yb = b.y * s - (float)c->at.y;
    float dir = 1;
    if (ya == yb || !isfinite(xa + ya + xb + yb))
        return;
    if (ya > yb) {
        float x = xa, y = ya;
        xa = xb, ya = yb, xb = x, yb = y;
        dir = -1;
    }
    float dxdy = (xb - xa) / (yb - ya), w = (float)c->at.w;
    float top = fmaxf(ya, 0), low = fminf(yb, (float)c->at.h);
    for (int y = (int)top; (float)y < low; y++) {
        float from = fmaxf(top, (float)y), to = fminf(low, (float)(y + 1));
        edge_in_row(c->sum + (uint64_t)y * ((uint64_t)c->at.w + 1), w, xa + (from - ya) * dxdy,
                    xa + (to - ya) * dxdy, dir * (to - from));
    }
}

static void closed(struct draw_cover *c, float s, const SDL_FPoint *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        edge(c, s, p[i], p[i + 1 < n ? i + 1 : 0]);
}

/* A texture that is large enough; it is kept. */
static SDL_Texture *texture(struct draw *d)
{
    struct draw_cover *c = d->cover;
    if (c->tex && c->w >= c->at.w && c->h >= c->at.h)
        return c->tex;
    c->w = c->tex && c->w > c->at.w ? c->w : (c->at.w + 127) & ~127;
    c->h = c->tex && c->h > c->at.h ? c->h : (c->at.h + 127) & ~127;
    cover_forget(c);
    c->tex =
        SDL_CreateTexture(d->to, SDL_PIXELFORMAT_ARGB8888, SDL_TEXTUREACCESS_STREAMING, c->w, c->h);
    if (c->tex)
        SDL_SetTextureBlendMode(c->tex, SDL_BLENDMODE_BLEND);
    return c->tex;
}

/* Draws what was summed, and clears it. Alpha is that of the colour at the level y_full and above,
 * and falls to `fade` of it at y_fade, both in pixels. */
static void end_faded(struct draw *d, SDL_Color col, float y_full, float y_fade, float fade)
{
    struct draw_cover *c = d->cover;
    SDL_Rect all = { 0, 0, c->at.w, c->at.h };
    SDL_Texture *tex = texture(d);
    void *pixels;
    int pitch;
    /* The colour is in the texture: SDL copies those that it must not change several times faster.
     */
    Uint32 rgb = (Uint32)col.r << 16 | (Uint32)col.g << 8 | col.b;
    bool there = tex && SDL_LockTexture(tex, &all, &pixels, &pitch) == 0;
    for (int y = 0; y < c->at.h; y++) {
        float *row = c->sum + (uint64_t)y * ((uint64_t)c->at.w + 1), sum = 0;
        float t = ((float)(c->at.y + y) + 0.5f - y_full) / fmaxf(y_fade - y_full, 1);
        float strong = (float)col.a * (1 - (1 - fade) * fminf(fmaxf(t, 0), 1));
        Uint32 *out = there ? (Uint32 *)(void *)((Uint8 *)pixels + (ptrdiff_t)y * pitch) : NULL;
        for (int x = 0; out && x < c->at.w; x++) {
            sum += row[x];
            out[x] = rgb | (Uint32)(fminf(fabsf(sum), 1) * strong + 0.5f) << 24;
        }
        memset(row, 0, ((size_t)c->at.w + 1) * sizeof *row);
    }
    if (!there)
        return;
    SDL_UnlockTexture(tex);
    SDL_RenderCopy(d->to, tex, &all, &c->at);
}

static void end(struct draw *d, SDL_Color c) { end_faded(d, c, 0, 1, 1); }

/* ---- shapes ---------------------------------------------------------------------------------- */

struct bounds {
    float x0, y0, x1, y1;
};

static struct bounds bounds_of(const SDL_FPoint *p, uint32_t n)
{
    struct bounds b = { INFINITY, INFINITY, -INFINITY, -INFINITY };
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(p[i].x) && isfinite(p[i].y))
            b = (struct bounds){ fminf(b.x0, p[i].x), fminf(b.y0, p[i].y), fmaxf(b.x1, p[i].x),
                                 fmaxf(b.y1, p[i].y) };
    return b;
}

void draw_polygon(struct draw *d, const SDL_FPoint *p, uint32_t n, SDL_Color c)
{
    struct bounds b = bounds_of(p, n);
    if (!c.a || !begin(d, b.x0, b.y0, b.x1, b.y1))
        return;
    closed(d->cover, d->scale, p, n);
    end(d, c);
}

static bool finite_at(const SDL_FPoint *p) { return isfinite(p->x) && isfinite(p->y); }

void draw_area(struct draw *d, const SDL_FPoint *p, uint32_t n, float y, float fade, SDL_Color c)
{
    struct bounds b = bounds_of(p, n);
    if (!c.a || !begin(d, b.x0, fminf(b.y0, y), b.x1, fmaxf(b.y1, y)))
        return;
    for (uint32_t i = 0; i + 1 < n; i++) {
        if (!finite_at(&p[i]) || !finite_at(&p[i + 1]))
            continue;
        SDL_FPoint q[4] = { { p[i].x, y }, p[i], p[i + 1], { p[i + 1].x, y } };
        closed(d->cover, d->scale, q, 4);
    }
    end_faded(d, c, b.y0 * d->scale, y * d->scale, fade);
}

enum { DISC = 16 };
static void disc(struct draw_cover *c, float s, SDL_FPoint at, float radius)
{
    SDL_FPoint p[DISC];
    for (int i = 0; i < DISC; i++) {
        float a = (float)i * DRAW_TURN / DISC;
        p[i] = (SDL_FPoint){ at.x + radius * cosf(a), at.y - radius * sinf(a) };
    }
    closed(c, s, p, DISC);
}

/* Joints are round; where a line hardly turns none is needed. */
static bool turns(const SDL_FPoint *a, const SDL_FPoint *b, const SDL_FPoint *c)
{
    float ux = b->x - a->x, uy = b->y - a->y, vx = c->x - b->x, vy = c->y - b->y;
    float dot = ux * vx + uy * vy;
    return !(dot > 0 && dot * dot > 0.96f * (ux * ux + uy * uy) * (vx * vx + vy * vy));
}

void draw_line(struct draw *d, const SDL_FPoint *p, uint32_t n, float width, SDL_Color c)
{
    struct bounds b = bounds_of(p, n);
    float r = fmaxf(width, 1 / d->scale) / 2;
    if (!c.a || !begin(d, b.x0 - r, b.y0 - r, b.x1 + r, b.y1 + r))
        return;
    for (uint32_t i = 0; i < n; i++) {
        bool here = finite_at(&p[i]);
        bool before = i > 0 && finite_at(&p[i - 1]), after = i + 1 < n && finite_at(&p[i + 1]);
        if (here && (!before || !after || turns(&p[i - 1], &p[i], &p[i + 1])))
            disc(d->cover, d->scale, p[i], r);
        if (!here || !after)
            continue;
        float dx = p[i + 1].x - p[i].x, dy = p[i + 1].y - p[i].y, len = hypotf(dx, dy);
        if (len <= 0)
            continue;
        float nx = -dy / len * r, ny = dx / len * r;
        SDL_FPoint q[4] = { { p[i].x + nx, p[i].y + ny },
                            { p[i + 1].x + nx, p[i + 1].y + ny },
                            { p[i + 1].x - nx, p[i + 1].y - ny },
                            { p[i].x - nx, p[i].y - ny } };
        closed(d->cover, d->scale, q, 4);
    }
    end(d, c);
}

enum { ROUND = 48 };
void draw_disc(struct draw *d, float x, float y, float radius, SDL_Color c)
{
    SDL_FPoint p[ROUND];
    for (int i = 0; i < ROUND; i++) {
        float a = (float)i * DRAW_TURN / ROUND;
        p[i] = (SDL_FPoint){ x + radius * cosf(a), y - radius * sinf(a) };
    }
    draw_polygon(d, p, ROUND, c);
}

void draw_arc(struct draw *d, SDL_FPoint at, float radius, float width, float a, float b,
              SDL_Color c)
{
    enum { STEPS = 64 };
    SDL_FPoint p[2 * STEPS + 2];
    for (int i = 0; i <= STEPS; i++) {
        float turn = (a + (b - a) * (float)i / STEPS) * DRAW_TURN;
        float x = sinf(turn), y = -cosf(turn);
        p[i] = (SDL_FPoint){ at.x + radius * x, at.y + radius * y };
        p[2 * STEPS + 1 - i] =
            (SDL_FPoint){ at.x + (radius - width) * x, at.y + (radius - width) * y };
    }
    draw_polygon(d, p, 2 * STEPS + 2, c);
}

void draw_ring(struct draw *d, float x, float y, float radius, float width, SDL_Color c)
{
    draw_arc(d, (SDL_FPoint){ x, y }, radius, width, 0, 1, c);
}
