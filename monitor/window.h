/* window: the frame in a window, until it is closed. */
#pragma once
#include "picture.h"
#include "settings.h"
#include "watch.h"

struct window_params {
    struct settings settings;
    uint32_t panel; /* which is open at first */
    int chosen;     /* index of the run to show; -1: the newest */
};
/* Returns the exit code. Reports its failures itself. */
int window_run(struct watch *w, const struct window_params *params);
/* The picture of that moment to a file, without a window. w, h: points. */
int window_shot(struct watch *w, const struct window_params *params, const char *path, int width,
                int height);
