/* settings: see settings.h. */
#define _POSIX_C_SOURCE 200809L
#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const theme_word[] = { "system", "dark", "light" };

static const char *path_of(char *out, size_t size, const char *end)
{
    const char *dir = dir_config();
    int n = dir ? snprintf(out, size, "%s/monitor%s", dir, end) : -1;
    return n > 0 && (size_t)n < size ? out : NULL;
}

void settings_read(struct settings *s)
{
    char path[4096], line[128], word[16];
    *s = (struct settings){ 0 };
    FILE *f = path_of(path, sizeof path, "") ? fopen(path, "r") : NULL;
    while (f && fgets(line, sizeof line, f)) {
        int x, y, w, h;
        float scale;
        if (sscanf(line, "theme %15s", word) == 1) {
            for (int i = 0; i < (int)ARRAY_LEN(theme_word); i++)
                if (strcmp(word, theme_word[i]) == 0)
                    s->theme = i;
        } else if (sscanf(line, "scale %f", &scale) == 1 && scale >= 0.5f && scale <= 4) {
            s->scale = scale;
        } else if (sscanf(line, "window %d %d %d %d", &x, &y, &w, &h) == 4 && w >= 100 &&
                   h >= 100 && w < 20000 && h < 20000 && abs(x) < 100000 && abs(y) < 100000) {
            s->x = x, s->y = y, s->w = w, s->h = h;
        }
    }
    if (f)
        fclose(f);
}

void settings_write(const struct settings *s)
{
    char path[4096], other[4096];
    FILE *f = path_of(path, sizeof path, "") && path_of(other, sizeof other, ".new")
                  ? fopen(other, "w")
                  : NULL;
    if (!f)
        return; /* a window that is not remembered is no reason to complain */
    fprintf(f, "theme %s\n", theme_word[s->theme]);
    if (s->scale > 0)
        fprintf(f, "scale %g\n", (double)s->scale);
    if (s->w > 0)
        fprintf(f, "window %d %d %d %d\n", s->x, s->y, s->w, s->h);
    if (fclose(f) != 0 || rename(other, path) != 0)
        remove(other);
}

/* ---- the desktop ----------------------------------------------------------------------------- */

/* The value of a key of a file of the desktop's, beside hlm's own folder; "" where there is none.
 */
static void desktop_value(const char *file, const char *key, char *out, size_t size)
{
    char path[4096], line[512];
    const char *dir = dir_config();
    size_t n = strlen(key);
    *out = 0;
    if (!dir || (size_t)snprintf(path, sizeof path, "%s/../%s", dir, file) >= sizeof path)
        return;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0 && line[n] == '=')
            snprintf(out, size, "%.*s", (int)strcspn(line + n + 1, "\n"), line + n + 1);
    if (f)
        fclose(f);
}

bool settings_desktop_dark(void)
{
    static const char *const gtk[] = { "gtk-4.0/settings.ini", "gtk-3.0/settings.ini" };
    char v[128];
    for (uint32_t i = 0; i < ARRAY_LEN(gtk); i++) {
        desktop_value(gtk[i], "gtk-application-prefer-dark-theme", v, sizeof v);
        if (*v)
            return strcmp(v, "1") == 0 || strcmp(v, "true") == 0;
        desktop_value(gtk[i], "gtk-theme-name", v, sizeof v);
        if (*v)
            return strstr(v, "dark") || strstr(v, "Dark");
    }
    desktop_value("kdeglobals", "ColorScheme", v, sizeof v);
    return !*v || strstr(v, "Dark") || strstr(v, "dark");
}
