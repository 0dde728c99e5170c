/* theme: see theme.h. */
#include "theme.h"

#include <math.h>

/* clang-format off */
#define RGB(x) { (x) >> 16 & 0xff, (x) >> 8 & 0xff, (x) & 0xff, 255 }
static const struct theme dark = {
    .dark = true,
    .back = RGB(0x0e1116), .side = RGB(0x0a0d11),
    .card = RGB(0x161a21), .border = RGB(0x262c36), .raised = RGB(0x212733),
    .text = RGB(0xe8ebf0), .muted = RGB(0x9aa4b2), .faint = RGB(0x6b7585),
    .grid = RGB(0x222832),
    .accent = RGB(0x4aa8ff), .on_accent = RGB(0x06131f),
    .good = RGB(0x4fd1a5), .warn = RGB(0xf2b84b), .bad = RGB(0xff6b5e),
    .series = { RGB(0x4aa8ff), RGB(0xf2b84b), RGB(0x255c99), RGB(0xf4e3b2),
                RGB(0x9065d6), RGB(0x58c9a7), RGB(0xb5523c), RGB(0xd3dae3) },
};
static const struct theme light = {
    .back = RGB(0xf4f5f7), .side = RGB(0xebedf0),
    .card = RGB(0xffffff), .border = RGB(0xdde1e6), .raised = RGB(0xeef1f5),
    .text = RGB(0x15191f), .muted = RGB(0x59636f), .faint = RGB(0x87909c),
    .grid = RGB(0xe9ecf0),
    .accent = RGB(0x0a6fd6), .on_accent = RGB(0xffffff),
    .good = RGB(0x0b8560), .warn = RGB(0xa86a00), .bad = RGB(0xc8321f),
    .series = { RGB(0x0a6fd6), RGB(0xe39a17), RGB(0x0b3a6e), RGB(0xf0cf7a),
                RGB(0x5b2fa6), RGB(0x229574), RGB(0x8e3a1f), RGB(0xaeb7c3) },
};
/* clang-format on */

const struct theme *theme_get(bool want_dark) { return want_dark ? &dark : &light; }

SDL_Color theme_heat(const struct theme *t, float part)
{
    /* Five stops between the card and the brightest, or darkest, blue. */
    static const SDL_Color stops[2][5] = {
        { RGB(0xeef3f9), RGB(0xb5d3f2), RGB(0x5ea3e6), RGB(0x1a66b8), RGB(0x08305e) },
        { RGB(0x1b212b), RGB(0x17406e), RGB(0x1f6fbf), RGB(0x62b4ff), RGB(0xe4f3ff) },
    };
    float at = part > 0 ? (part < 1 ? part : 1) * 4 : 0; /* also of what is no number */
    int i = (int)at < 3 ? (int)at : 3;
    const SDL_Color *a = &stops[t->dark][i], *b = a + 1;
    float f = at - (float)i;
    return (SDL_Color){ (Uint8)((float)a->r + f * (float)(b->r - a->r)),
                        (Uint8)((float)a->g + f * (float)(b->g - a->g)),
                        (Uint8)((float)a->b + f * (float)(b->b - a->b)), 255 };
}

/* ---- how colours are seen -------------------------------------------------------------------- */

static double linear(Uint8 v)
{
    double x = v / 255.0;
    return x <= 0.04045 ? x / 12.92 : pow((x + 0.055) / 1.055, 2.4);
}

static Uint8 encode(double x)
{
    x = x < 0 ? 0 : x > 1 ? 1 : x;
    return (Uint8)(255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * pow(x, 1 / 2.4) - 0.055) + 0.5);
}

SDL_Color theme_deuteranopia(SDL_Color c)
{
    double r = linear(c.r), g = linear(c.g), b = linear(c.b);
    return (SDL_Color){ encode(0.367322 * r + 0.860646 * g - 0.227968 * b),
                        encode(0.280085 * r + 0.672501 * g + 0.047413 * b),
                        encode(-0.011820 * r + 0.042940 * g + 0.968881 * b), c.a };
}

static double luminance(SDL_Color c)
{
    return 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b);
}

double theme_contrast(SDL_Color a, SDL_Color b)
{
    double x = luminance(a) + 0.05, y = luminance(b) + 0.05;
    return x > y ? x / y : y / x;
}

static void oklab(SDL_Color c, double out[3])
{
    double r = linear(c.r), g = linear(c.g), b = linear(c.b);
    double l = cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
    double m = cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
    double s = cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
    out[0] = 0.2104542553 * l + 0.7936177850 * m - 0.0040720468 * s;
    out[1] = 1.9779984951 * l - 2.4285922050 * m + 0.4505937099 * s;
    out[2] = 0.0259040371 * l + 0.7827717662 * m - 0.8086757660 * s;
}

double theme_distance(SDL_Color a, SDL_Color b)
{
    double x[3], y[3];
    oklab(a, x);
    oklab(b, y);
    return 100 * sqrt((x[0] - y[0]) * (x[0] - y[0]) + (x[1] - y[1]) * (x[1] - y[1]) +
                      (x[2] - y[2]) * (x[2] - y[2]));
}
