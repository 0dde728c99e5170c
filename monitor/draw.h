/* draw: text, boxes, lines and filled shapes on SDL's renderer. It knows nothing of hlm.
 *
 * Lengths are in points; a point is `scale` pixels, and a position may be any fraction of one. The
 * edges of boxes are rounded to whole pixels, so that they are sharp at every scale. Lines, curves
 * and round corners are anti-aliased: their coverage is computed here and drawn as a texture, for
 * SDL's software renderer rounds the corners of SDL_RenderGeometry's triangles to whole pixels.
 *
 * Text is UTF-8 from anywhere: what is no character, or moves other text, is drawn as '?'. Figures
 * are tabular: all ten are equally wide, so that a number that changes does not move. */
#pragma once
#include "ui/common_base.h"

#include <SDL2/SDL.h>

struct draw;

/* scale: pixels a point. NULL with a reason: no font is there, no memory. The renderer stays the
 * caller's and must outlive it. */
struct draw *draw_create(SDL_Renderer *to, float scale, struct hlm_err *err);
void draw_destroy(struct draw *d); /* takes NULL */
/* Fonts are opened anew. False: it stays at the old scale. */
bool draw_set_scale(struct draw *d, float scale, struct hlm_err *err);
float draw_scale(const struct draw *d);
SDL_Renderer *draw_renderer(const struct draw *d);
/* The renderer has lost its textures (SDL_RENDER_TARGETS_RESET). */
void draw_forget_textures(struct draw *d);

/* ---- boxes ----------------------------------------------------------------------------------- */

SDL_FRect draw_snap(const struct draw *d, SDL_FRect r); /* to whole pixels, at least one */
void draw_clear(struct draw *d, SDL_Color c);
/* What follows is drawn inside of r alone; r is cut to the clip before it. At most 16 deep. */
void draw_clip(struct draw *d, SDL_FRect r);
void draw_unclip(struct draw *d);
SDL_FRect draw_clipped(const struct draw *d); /* the clip as it stands */
void draw_box(struct draw *d, SDL_FRect r, SDL_Color c);
void draw_round(struct draw *d, SDL_FRect r, float radius, SDL_Color c);
/* A round box with a border of one pixel, or thicker at a larger scale. */
void draw_framed(struct draw *d, SDL_FRect r, float radius, SDL_Color fill, SDL_Color border);
void draw_rule(struct draw *d, float x, float y, float w, SDL_Color c); /* level, a pixel thin */
void draw_post(struct draw *d, float x, float y, float h, SDL_Color c); /* upright, a pixel thin */

/* ---- shapes ---------------------------------------------------------------------------------- */

/* A line through n points. A point that is not finite ends it, and the next begins another. */
void draw_line(struct draw *d, const SDL_FPoint *p, uint32_t n, float width, SDL_Color c);
/* The area between the points and the level y, with the colour's alpha at the highest point,
 * falling to `fade` of that at y. */
void draw_area(struct draw *d, const SDL_FPoint *p, uint32_t n, float y, float fade, SDL_Color c);
void draw_polygon(struct draw *d, const SDL_FPoint *p, uint32_t n, SDL_Color c);
void draw_disc(struct draw *d, float x, float y, float radius, SDL_Color c);
void draw_ring(struct draw *d, float x, float y, float radius, float width, SDL_Color c);
/* Part of a ring, from angle a to b, in turns clockwise from the top. */
void draw_arc(struct draw *d, SDL_FPoint at, float radius, float width, float a, float b,
              SDL_Color c);

/* ---- text ------------------------------------------------------------------------------------ */

enum face { FACE_SMALL, FACE_TEXT, FACE_STRONG, FACE_TITLE, FACE_FIGURE, FACE_HUGE, N_FACE };
enum align { ALIGN_LEFT, ALIGN_CENTER, ALIGN_RIGHT };

/* Begins at x and stands on the level y. Returns its width. */
float draw_text(struct draw *d, enum face f, SDL_Color c, float x, float y, const char *s);
/* One line in a box, upright in its middle; what is too wide ends in an ellipsis. Returns the width
 * drawn. */
float draw_label(struct draw *d, SDL_FRect r, enum align a, enum face f, SDL_Color c,
                 const char *s);
/* As many lines as it takes, broken at blanks, at most as r is high. Returns the height. With
 * alpha 0 it only measures. */
float draw_prose(struct draw *d, SDL_FRect r, enum face f, SDL_Color c, const char *s);
float draw_text_width(struct draw *d, enum face f, const char *s);
float draw_line_height(const struct draw *d, enum face f);
float draw_cap_height(const struct draw *d, enum face f); /* of a capital */

/* Helps with colours. */
static inline SDL_Color draw_alpha(SDL_Color c, float a)
{
    c.a = (Uint8)((float)c.a * a + 0.5f);
    return c;
}
static inline SDL_Color draw_mix(SDL_Color a, SDL_Color b, float t) /* t 0: a, 1: b */
{
    return (SDL_Color){ (Uint8)((float)a.r + t * (float)(b.r - a.r) + 0.5f),
                        (Uint8)((float)a.g + t * (float)(b.g - a.g) + 0.5f),
                        (Uint8)((float)a.b + t * (float)(b.b - a.b) + 0.5f),
                        (Uint8)((float)a.a + t * (float)(b.a - a.a) + 0.5f) };
}
