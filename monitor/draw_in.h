/* draw_in: what the files of the drawing layer share; no one else includes it. */
#pragma once
#include "draw.h"

enum { MAX_CLIP = 16 };
#define DRAW_TURN 6.28318531f /* radians */

struct draw_text;
struct draw_cover;

struct draw {
    SDL_Renderer *to;
    float scale;
    SDL_Rect clip[MAX_CLIP]; /* pixels; the newest last */
    uint32_t n_clip;
    struct draw_text *text;
    struct draw_cover *cover;
};

SDL_Rect draw_pixels(const struct draw *d, SDL_FRect r); /* edges rounded; may be empty */
SDL_Rect draw_clip_pixels(const struct draw *d);

struct draw_text *text_create(struct hlm_err *err);
void text_destroy(struct draw_text *t);
bool text_set_scale(struct draw_text *t, float scale, struct hlm_err *err);
void text_forget(struct draw_text *t); /* its texture is gone */

struct draw_cover *cover_create(void);
void cover_destroy(struct draw_cover *c);
void cover_forget(struct draw_cover *c);
