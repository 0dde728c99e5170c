/* settings: how the window was left, in $XDG_CONFIG_HOME/hlm/monitor: one word and its values a
 * line. What cannot be read is as if it were not there. */
#pragma once
#include "ui/common.h"

enum theme_choice { THEME_SYSTEM, THEME_DARK, THEME_LIGHT };

struct settings {
    int theme;      /* enum theme_choice */
    float scale;    /* 0: as the display asks for */
    int x, y, w, h; /* of the window; w 0: not known */
};

void settings_read(struct settings *s);
void settings_write(const struct settings *s);
/* Whether the desktop is set to dark colours: GTK's and KDE's own settings say so. Dark where
 * neither is known. */
bool settings_desktop_dark(void);
