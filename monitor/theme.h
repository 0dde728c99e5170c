/* theme: the colours, dark and light. Neighbours of `series` differ in lightness as well as in hue,
 * so that they tell apart for those who see no red or no green; states have words and shapes too.
 */
#pragma once
#include <SDL2/SDL.h>
#include <stdbool.h>

enum { N_SERIES_COLOR = 8 };

struct theme {
    bool dark;
    SDL_Color back, side;           /* of the window, of the list at its left */
    SDL_Color card, border, raised; /* raised: what lies on a card, or is pointed at */
    SDL_Color text, muted, faint;   /* of text, by weight; faint is for ticks and empty tracks */
    SDL_Color grid;
    SDL_Color accent, on_accent; /* on_accent: text on it */
    SDL_Color good, warn, bad;
    SDL_Color series[N_SERIES_COLOR];
};

const struct theme *theme_get(bool dark);
/* Of a heat map, part from 0 to 1: its lightness only rises, or in the light theme only falls. */
SDL_Color theme_heat(const struct theme *t, float part);
/* A colour as somebody sees it who lacks the green cones (Machado and others 2009, severity 1). */
SDL_Color theme_deuteranopia(SDL_Color c);
/* Contrast of two colours as WCAG 2 defines it: 1 to 21. */
double theme_contrast(SDL_Color a, SDL_Color b);
/* Distance in the colour space Oklab, in hundredths: 2 is just seen, side by side. */
double theme_distance(SDL_Color a, SDL_Color b);
