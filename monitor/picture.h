/* picture: a frame without a window, and PNG files. */
#pragma once
#include "frame.h"

/* The frame in memory, drawn by SDL's software renderer. */
struct picture {
    SDL_Surface *surface;
    SDL_Renderer *renderer;
    struct draw *draw;
};
bool picture_create(struct picture *p, int w, int h, float scale, struct hlm_err *err); /* pixels */
void picture_destroy(struct picture *p); /* takes one that is zeroed or half made */

/* May FILE be written? Nothing is there, or another PNG file. */
bool picture_may_write(const char *path, struct hlm_err *err);
bool picture_write(SDL_Surface *s, const char *path, struct hlm_err *err);
/* To the first of hlm-monitor-1.png, -2 ... in the folder one is in that is not there yet. */
bool picture_write_next(SDL_Surface *s, char *path, size_t size, struct hlm_err *err);
