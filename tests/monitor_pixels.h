/* monitor_pixels: pictures of hlm-monitor's drawing layer in memory, and what is looked for in
 * them: pixels, areas, texts. */
#pragma once
#include "monitor/picture.h"
#include "test.h"

extern struct picture pic; /* the one that is drawn now */
static const SDL_Color black = { 0, 0, 0, 255 }, white = { 255, 255, 255, 255 };

bool pixels_begin(int w, int h, float scale); /* points; all black. False fails the case */
void pixels_end(void);
void pixels_show(void);           /* what was drawn is in the picture after this */
SDL_Color pixel_at(int x, int y); /* pixels */
static inline bool same_color(SDL_Color a, SDL_Color b)
{
    return a.r == b.r && a.g == b.g && a.b == b.b;
}

/* What is not black: the box around it, and the sum of its red, 1 for a white pixel. */
struct ink {
    int x0, y0, x1, y1; /* x1, y1: beyond it */
    double sum;
};
struct ink pixels_ink(void);
void check_pixels(int x0, int y0, int x1, int y1); /* that this is the box */

/* The longest stretch of one colour in a row of pixels, of rows y0 to y1 - 1. */
int longest_run(SDL_Color c, int y0, int y1);
/* Looks for a text by drawing the same, at every place. False: it is not there. Where it is goes to
 * *x and *y, in points, which may be NULL. */
bool find_text(enum face f, SDL_Color c, SDL_Color ground, const char *text, float *x, float *y);
