/* smooth: the running mean of a noisy series, for panels. */
#pragma once
#include "monitor/run.h"
#include "widget.h"

/* A curve that a panel has made itself; zero: there is none. */
struct smooth {
    struct graph_point *p; /* [n] */
    uint32_t n;
};

/* Each point is the mean of those up to it, in which their weight halves every `half` steps; with 0
 * the series as it is. The values are the same over steps and over time. */
void smooth_make(struct smooth *s, const struct run_series *of, double half, bool by_step);
/* Its points that reached above `level`, at their highest, over steps. */
void smooth_above(struct smooth *s, const struct run_series *of, double level);
void smooth_free(struct smooth *s);
struct graph_series smooth_series(const struct smooth *s, const char *name, enum graph_style style,
                                  SDL_Color color);
/* The newest value; below 0: there is none. */
double smooth_newest(const struct smooth *s);
