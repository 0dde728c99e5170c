/* picture: see picture.h. */
#define _POSIX_C_SOURCE 200809L
#include "picture.h"

#include <errno.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool picture_create(struct picture *p, int w, int h, float scale, struct hlm_err *err)
{
    *p = (struct picture){ 0 };
    p->surface = SDL_CreateRGBSurfaceWithFormat(0, w, h, 32, SDL_PIXELFORMAT_RGB888);
    p->renderer = p->surface ? SDL_CreateSoftwareRenderer(p->surface) : NULL;
    if (!p->renderer) {
        ui_fail_memory(err, "no picture of %d x %d pixels: %s", w, h, SDL_GetError());
        picture_destroy(p);
        return false;
    }
    p->draw = draw_create(p->renderer, scale, err);
    if (!p->draw)
        picture_destroy(p);
    return p->draw;
}

void picture_destroy(struct picture *p)
{
    draw_destroy(p->draw);
    if (p->renderer)
        SDL_DestroyRenderer(p->renderer);
    SDL_FreeSurface(p->surface);
    *p = (struct picture){ 0 };
}

/* ---- PNG ------------------------------------------------------------------------------------- */

static bool write_png(SDL_Surface *s, FILE *f, const char *path, struct hlm_err *err)
{
    SDL_Surface *rgb = SDL_ConvertSurfaceFormat(s, SDL_PIXELFORMAT_RGB24, 0);
    png_image image = { .version = PNG_IMAGE_VERSION,
                        .width = (png_uint_32)s->w,
                        .height = (png_uint_32)s->h,
                        .format = PNG_FORMAT_RGB };
    bool ok = rgb != NULL;
    if (!ok)
        ui_fail_memory(err, "%s: no memory for the picture", path);
    else if (!png_image_write_to_stdio(&image, f, 0, rgb->pixels, rgb->pitch, NULL))
        ok = ui_fail_system(err, "%s: %s", path, image.message);
    if (fclose(f) != 0 && ok)
        ok = ui_fail_system(err, "%s: %s", path, strerror(errno));
    SDL_FreeSurface(rgb);
    return ok;
}

bool picture_may_write(const char *path, struct hlm_err *err)
{
    static const unsigned char png[8] = { 0x89, 'P', 'N', 'G', 13, 10, 26, 10 };
    struct stat st;
    unsigned char head[8] = { 0 };
    if (stat(path, &st) != 0)
        return errno == ENOENT || ui_fail_system(err, "%s: %s", path, strerror(errno));
    FILE *f = S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    size_t n = f ? fread(head, 1, sizeof head, f) : 0;
    if (f)
        fclose(f);
    if (n == sizeof head && memcmp(head, png, sizeof png) == 0)
        return true;
    return ui_fail(err, "%s: there is something else than a PNG file, which stays", path);
}

bool picture_write(SDL_Surface *s, const char *path, struct hlm_err *err)
{
    char other[4096];
    int n = snprintf(other, sizeof other, "%s.new", path);
    if (n < 0 || (size_t)n >= sizeof other)
        return ui_fail(err, "%.60s...: the name is too long", path);
    if (!picture_may_write(path, err))
        return false;
    FILE *f = fopen(other, "wb");
    if (!f)
        return ui_fail_system(err, "%s: %s", other, strerror(errno));
    if (!write_png(s, f, path, err)) {
        remove(other);
        return false;
    }
    return rename(other, path) == 0 || ui_fail_system(err, "%s: %s", path, strerror(errno));
}

bool picture_write_next(SDL_Surface *s, char *path, size_t size, struct hlm_err *err)
{
    for (int i = 1; i < 10000; i++) {
        snprintf(path, size, "hlm-monitor-%d.png", i);
        FILE *f = fopen(path, "wbx");
        if (f) {
            bool ok = write_png(s, f, path, err);
            if (!ok)
                remove(path);
            return ok;
        }
        if (errno != EEXIST)
            return ui_fail_system(err, "%s: %s", path, strerror(errno));
    }
    return ui_fail(err, "hlm-monitor-1.png to hlm-monitor-9999.png are there already");
}
