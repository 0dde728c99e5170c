/* draw_text: glyphs are rendered once, into an atlas, and drawn from there.
 *
 * Upright they are hinted, so that they are sharp; level they may stand at any quarter of a pixel,
 * so that they are evenly spaced: a glyph is rendered four times as wide as it is, and each quarter
 * is a sum of four columns of that. Advances come from a font 16 times as large, for SDL_ttf rounds
 * them to whole pixels. */
#include "draw_in.h"

#include <SDL2/SDL_ttf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { WIDE = 4, FINE = 16, ATLAS = 1024, N_GLYPH = 4096, ELLIPSIS = 0x2026 };

struct glyph {
    uint32_t key;   /* 0: free; else 1 + what it is of */
    SDL_Rect at;    /* in the atlas; empty: nothing is drawn */
    int16_t dx, dy; /* from the pen to its left upper corner; pixels */
};

struct metric {
    uint32_t key;
    float advance, digit_dx; /* pixels; what moves a figure to the middle of its cell */
};

struct draw_text {
    bool ttf; /* TTF_Init is to be undone */
    float scale;
    TTF_Font *font[N_FACE], *fine[N_FACE];
    float ascent[N_FACE], height[N_FACE], cap[N_FACE], digit[N_FACE]; /* pixels */
    SDL_Texture *atlas;
    int x, y, row_h; /* where the next glyph goes */
    struct glyph glyph[N_GLYPH];
    uint32_t n_glyph;
    struct metric metric[N_GLYPH];
    uint32_t n_metric;
};

/* Points, and the file of each face. */
static const struct {
    float size;
    const char *file, *instead; /* instead: of DejaVu, where Inter is not there */
} faces[N_FACE] = {
    [FACE_SMALL] = { 11, "Inter-Regular.otf", "DejaVuSans.ttf" },
    [FACE_TEXT] = { 13, "Inter-Regular.otf", "DejaVuSans.ttf" },
    [FACE_STRONG] = { 13, "Inter-SemiBold.otf", "DejaVuSans-Bold.ttf" },
    [FACE_TITLE] = { 18, "InterDisplay-SemiBold.otf", "DejaVuSans-Bold.ttf" },
    [FACE_FIGURE] = { 22, "InterDisplay-SemiBold.otf", "DejaVuSans-Bold.ttf" },
    [FACE_HUGE] = { 34, "InterDisplay-SemiBold.otf", "DejaVuSans-Bold.ttf" },
};

/* Where distributions have them. */
static const char *const folders[] = {
    "/usr/share/fonts/opentype/inter",
    "/usr/share/fonts/inter",
    "/usr/share/fonts/rsms-inter-fonts",
    "/usr/share/fonts/OTF",
    "/usr/share/fonts/truetype/dejavu",
    "/usr/share/fonts/TTF",
    "/usr/share/fonts/dejavu-sans-fonts",
    "/usr/share/fonts/dejavu",
    "/usr/local/share/fonts",
};

/* ---- fonts ----------------------------------------------------------------------------------- */

static TTF_Font *open_file(const char *name, float pixels)
{
    char path[256];
    for (uint32_t i = 0; i < ARRAY_LEN(folders); i++) {
        SDL_snprintf(path, sizeof path, "%s/%s", folders[i], name);
        SDL_RWops *f = SDL_RWFromFile(path, "rb");
        if (!f)
            continue;
        /* 72 dots an inch: a point of the font is a pixel. */
        TTF_Font *font = TTF_OpenFontRW(f, 1, (int)(pixels + 0.5f));
        if (font)
            return font;
    }
    return NULL;
}

static TTF_Font *open_face(int f, float pixels)
{
    TTF_Font *font = open_file(faces[f].file, pixels);
    return font ? font : open_file(faces[f].instead, pixels);
}

static void close_fonts(struct draw_text *t)
{
    for (int f = 0; f < N_FACE; f++) {
        if (t->font[f])
            TTF_CloseFont(t->font[f]);
        if (t->fine[f])
            TTF_CloseFont(t->fine[f]);
        t->font[f] = t->fine[f] = NULL;
    }
}

struct draw_text *text_create(struct hlm_err *err)
{
    struct draw_text *t = ui_alloc(1, sizeof *t);
    if (!t) {
        ui_fail_memory(err, "no memory for text");
        return NULL;
    }
    if (TTF_Init() != 0) {
        ui_fail_system(err, "SDL_ttf does not start: %s", TTF_GetError());
        free(t);
        return NULL;
    }
    t->ttf = true;
    return t;
}

void text_forget(struct draw_text *t)
{
    if (t->atlas)
        SDL_DestroyTexture(t->atlas);
    t->atlas = NULL;
    memset(t->glyph, 0, sizeof t->glyph);
    t->n_glyph = 0;
    t->x = t->y = t->row_h = 0;
}

void text_destroy(struct draw_text *t)
{
    if (!t)
        return;
    text_forget(t);
    close_fonts(t);
    if (t->ttf)
        TTF_Quit();
    free(t);
}

static float fine_advance(TTF_Font *fine, uint32_t cp)
{
    int x0, x1, y0, y1, advance;
    return TTF_GlyphMetrics32(fine, cp, &x0, &x1, &y0, &y1, &advance) == 0 ? (float)advance / FINE
                                                                           : 0;
}

bool text_set_scale(struct draw_text *t, float scale, struct hlm_err *err)
{
    TTF_Font *font[N_FACE] = { 0 }, *fine[N_FACE] = { 0 };
    bool ok = true;
    for (int f = 0; f < N_FACE && ok; f++) {
        float px = roundf(faces[f].size * scale);
        font[f] = open_face(f, px);
        fine[f] = open_face(f, px * FINE);
        ok = font[f] && fine[f] && TTF_SetFontSizeDPI(font[f], (int)px, 72 * WIDE, 72) == 0;
    }
    struct draw_text old = *t;
    if (ok) {
        memcpy(t->font, font, sizeof font);
        memcpy(t->fine, fine, sizeof fine);
        close_fonts(&old);
    } else {
        memcpy(old.font, font, sizeof font);
        memcpy(old.fine, fine, sizeof fine);
        close_fonts(&old);
        return ui_fail(err,
                       "no font: neither %s nor %s is below /usr/share/fonts; "
                       "Debian's package is fonts-inter",
                       faces[0].file, faces[0].instead);
    }
    text_forget(t);
    t->n_metric = 0;
    memset(t->metric, 0, sizeof t->metric);
    t->scale = scale;
    for (int f = 0; f < N_FACE; f++) {
        int x0, x1, y0, y1, adv;
        TTF_SetFontHinting(t->font[f], TTF_HINTING_LIGHT);
        TTF_SetFontHinting(t->fine[f], TTF_HINTING_NONE);
        t->ascent[f] = (float)TTF_FontAscent(t->font[f]);
        t->height[f] = (float)TTF_FontHeight(t->font[f]);
        t->cap[f] = TTF_GlyphMetrics32(t->font[f], 'H', &x0, &x1, &y0, &y1, &adv) == 0
                        ? (float)y1
                        : t->ascent[f] * 0.75f;
        t->digit[f] = 0;
        for (uint32_t c = '0'; c <= '9'; c++)
            t->digit[f] = fmaxf(t->digit[f], fine_advance(t->fine[f], c));
    }
    return true;
}

/* ---- characters ------------------------------------------------------------------------------ */

/* The next character of a text, with what must not be drawn made '?'. */
static uint32_t next_char(const char **s)
{
    const char *p = *s;
    utf8proc_int32_t cp;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)p, -1, &cp); /* stops at NUL */
    *s = p + (n > 0 ? n : 1);
    if (n <= 0)
        return '?';
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return cp == '\t' || cp == '\n' ? ' ' : '?';
    default: return (uint32_t)cp;
    }
}

static uint32_t slot_of(uint32_t key) { return key * 2654435761u >> 20; } /* 12 bits */

static const struct metric *metric_of(struct draw_text *t, enum face f, uint32_t cp)
{
    uint32_t key = 1 + (cp << 3 | (uint32_t)f), i = slot_of(key);
    for (; t->metric[i].key; i = (i + 1) % N_GLYPH)
        if (t->metric[i].key == key)
            return &t->metric[i];
    if (t->n_metric >= N_GLYPH / 2) { /* nobody has that many; begin anew */
        memset(t->metric, 0, sizeof t->metric);
        t->n_metric = 0;
        i = slot_of(key);
    }
    t->n_metric++;
    float a = fine_advance(t->fine[f], cp);
    bool digit = cp >= '0' && cp <= '9';
    t->metric[i] = (struct metric){ .key = key,
                                    .advance = digit ? t->digit[f] : a,
                                    .digit_dx = digit ? (t->digit[f] - a) / 2 : 0 };
    return &t->metric[i];
}

/* One quarter's columns of a glyph that was rendered wide. */
static void narrow(const SDL_Surface *wide, int shift, Uint32 *out, int w)
{
    for (int y = 0; y < wide->h; y++) {
        const Uint32 *row = (const Uint32 *)(const void *)((const Uint8 *)wide->pixels +
                                                           (ptrdiff_t)y * wide->pitch);
        for (int x = 0; x < w; x++) {
            Uint32 sum = 0;
            for (int k = 0; k < WIDE; k++) {
                int from = x * WIDE + k - shift;
                sum += from >= 0 && from < wide->w ? row[from] >> 24 : 0;
            }
            out[(ptrdiff_t)y * w + x] = 0xffffffu | (sum + WIDE / 2) / WIDE << 24;
        }
    }
}

static bool atlas_room(struct draw_text *t, struct draw *d, int w, int h, SDL_Rect *at)
{
    int side = t->scale > 1.6f ? 2 * ATLAS : ATLAS;
    if (!t->atlas) {
        t->atlas = SDL_CreateTexture(d->to, SDL_PIXELFORMAT_ARGB8888, SDL_TEXTUREACCESS_STATIC,
                                     side, side);
        if (!t->atlas)
            return false;
        SDL_SetTextureBlendMode(t->atlas, SDL_BLENDMODE_BLEND);
    }
    if (t->x + w > side) {
        t->x = 0;
        t->y += t->row_h;
        t->row_h = 0;
    }
    if (w > side || t->y + h > side)
        return false;
    *at = (SDL_Rect){ t->x, t->y, w, h };
    t->x += w + 1;
    t->row_h = t->row_h > h + 1 ? t->row_h : h + 1;
    return true;
}

static void render(struct draw *d, enum face f, uint32_t cp, int quarter, struct glyph *g)
{
    struct draw_text *t = d->text;
    int x0, x1, y0, y1, advance;
    SDL_Surface *s = TTF_RenderGlyph32_Blended(t->font[f], cp, (SDL_Color){ 255, 255, 255, 255 });
    if (!s || TTF_GlyphMetrics32(t->font[f], cp, &x0, &x1, &y0, &y1, &advance) != 0) {
        SDL_FreeSurface(s);
        return;
    }
    /* The surface begins at the pen, or, where the glyph reaches to the left of it, there. */
    int left = x0 < 0 ? x0 : 0, shift = quarter + left;
    int cell = shift >= 0 ? shift / WIDE : -((WIDE - 1 - shift) / WIDE);
    shift -= cell * WIDE;
    int w = (s->w + shift + WIDE - 1) / WIDE;
    Uint32 *out = s->format->BytesPerPixel == 4 && w > 0 && s->h > 0
                      ? ui_alloc((uint64_t)w * (uint64_t)s->h, sizeof *out)
                      : NULL;
    SDL_Rect at;
    if (out && atlas_room(t, d, w, s->h, &at)) {
        narrow(s, shift, out, w);
        SDL_UpdateTexture(t->atlas, &at, out, w * (int)sizeof *out);
        g->at = at;
        g->dx = (int16_t)cell;
        g->dy = (int16_t)-t->ascent[f];
    }
    free(out);
    SDL_FreeSurface(s);
}

static const struct glyph *glyph_of(struct draw *d, enum face f, uint32_t cp, int quarter)
{
    struct draw_text *t = d->text;
    int side = t->scale > 1.6f ? 2 * ATLAS : ATLAS;
    if (t->n_glyph >= N_GLYPH / 2 || t->y > side - 3 * (int)t->height[f])
        text_forget(t); /* full; what is in use comes back */
    uint32_t key = 1 + ((cp << 3 | (uint32_t)f) << 2 | (uint32_t)quarter), i = slot_of(key);
    for (; t->glyph[i].key; i = (i + 1) % N_GLYPH)
        if (t->glyph[i].key == key)
            return &t->glyph[i];
    t->n_glyph++;
    t->glyph[i] = (struct glyph){ .key = key };
    render(d, f, cp, quarter, &t->glyph[i]);
    return &t->glyph[i];
}

/* ---- lines of text --------------------------------------------------------------------------- */

static float put(struct draw *d, enum face f, SDL_Color c, float x, int base, uint32_t cp)
{
    const struct metric *m = metric_of(d->text, f, cp);
    float at = x + m->digit_dx, whole = floorf(at + 0.125f);
    int quarter = (int)((at + 0.125f - whole) * WIDE);
    const struct glyph *g = cp == ' ' ? NULL : glyph_of(d, f, cp, quarter < WIDE ? quarter : 3);
    if (g && g->at.w && d->text->atlas) {
        SDL_Rect to = { (int)whole + g->dx, base + g->dy, g->at.w, g->at.h };
        SDL_SetTextureColorMod(d->text->atlas, c.r, c.g, c.b);
        SDL_SetTextureAlphaMod(d->text->atlas, c.a);
        SDL_RenderCopy(d->to, d->text->atlas, &g->at, &to);
    }
    return m->advance;
}

/* n bytes of s at most. Pixels in, pixels out. A line begins at a whole pixel: a text looks the
 * same wherever it stands. */
static float put_line(struct draw *d, enum face f, SDL_Color c, float x, int base, const char *s,
                      size_t n)
{
    float from = x = roundf(x);
    for (const char *end = s + n; s < end && *s;)
        x += put(d, f, c, x, base, next_char(&s));
    return x - from;
}

static float width_px(struct draw *d, enum face f, const char *s, size_t n)
{
    float w = 0;
    for (const char *end = s + n; s < end && *s;)
        w += metric_of(d->text, f, next_char(&s))->advance;
    return w;
}

float draw_text(struct draw *d, enum face f, SDL_Color c, float x, float y, const char *s)
{
    if (!isfinite(x) || !isfinite(y) || fabsf(x) > 1e5f || fabsf(y) > 1e5f)
        return 0;
    return put_line(d, f, c, x * d->scale, (int)roundf(y * d->scale), s, strlen(s)) / d->scale;
}

float draw_text_width(struct draw *d, enum face f, const char *s)
{
    return width_px(d, f, s, strlen(s)) / d->scale;
}

float draw_line_height(const struct draw *d, enum face f)
{
    return ceilf(faces[f].size * 1.4f * d->scale) / d->scale;
}

float draw_cap_height(const struct draw *d, enum face f) { return d->text->cap[f] / d->scale; }

/* Bytes of s that fit w, and whether all do. */
static size_t fitting(struct draw *d, enum face f, const char *s, float w, bool *all)
{
    const char *p = s;
    float x = 0;
    for (*all = true; *p;) {
        const char *next = p;
        x += metric_of(d->text, f, next_char(&next))->advance;
        if (x > w + 0.01f) {
            *all = false;
            break;
        }
        p = next;
    }
    return (size_t)(p - s);
}

float draw_label(struct draw *d, SDL_FRect r, enum align a, enum face f, SDL_Color c, const char *s)
{
    struct draw_text *t = d->text;
    float room = r.w * d->scale, dots = metric_of(t, f, ELLIPSIS)->advance;
    bool all;
    size_t n = fitting(d, f, s, room, &all);
    if (!all) {
        bool unused;
        n = fitting(d, f, s, room - dots, &unused);
        while (n && s[n - 1] == ' ')
            n--;
        if (dots > room)
            return 0;
    }
    float w = width_px(d, f, s, n) + (all ? 0 : dots);
    float x = r.x * d->scale + (a == ALIGN_LEFT ? 0 : (room - w) * (a == ALIGN_CENTER ? 0.5f : 1));
    int base = (int)roundf((r.y + r.h / 2) * d->scale + t->cap[f] / 2);
    float end = roundf(x) + put_line(d, f, c, x, base, s, n);
    if (!all)
        put(d, f, c, end, base, ELLIPSIS);
    return w / d->scale;
}

float draw_prose(struct draw *d, SDL_FRect r, enum face f, SDL_Color c, const char *s)
{
    float high = draw_line_height(d, f), y = r.y;
    while (*s) {
        if (y + high > r.y + r.h + 0.01f)
            break;
        bool all;
        size_t n = fitting(d, f, s, r.w * d->scale, &all), cut = n;
        const char *end = memchr(s, '\n', n);
        if (end)
            cut = (size_t)(end - s);
        else if (!all)
            while (cut > 0 && s[cut] != ' ')
                cut--;
        if (!cut && !end) /* one long word, or no room at all */
            cut = n;
        if (!cut && !end)
            break;
        if (c.a)
            put_line(d, f, c, r.x * d->scale,
                     (int)roundf((y + high / 2) * d->scale + d->text->cap[f] / 2), s, cut);
        s += cut;
        if (*s == ' ' || *s == '\n')
            s++;
        y += high;
    }
    return y - r.y;
}
