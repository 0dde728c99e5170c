/* panels: what the frame shows beside the list of runs, one at a time. A panel is a file
 * panel_NAME.c that defines `const struct panel panel_NAME`, and its word in PANELS below
 * (README.md, "Add a panel"). It draws one run, or, as the comparison does, several. */
#pragma once
#include "monitor/run.h"
#include "ui/common.h"
#include "widget.h"

#include <stdio.h>

/* In the order of their tabs; the keys 1, 2, 3 ... choose them. */
#define PANELS(P)                                                                                  \
    P(overview)                                                                                    \
    P(tokens)                                                                                      \
    P(memory)                                                                                      \
    P(kernels)                                                                                     \
    P(layers)                                                                                      \
    P(training)                                                                                    \
    P(runs)

/* What a panel is drawn from. */
struct panel_in {
    struct gui *g;
    const struct run *run;  /* never NULL */
    struct run *const *all; /* every run, `run` too; newest first */
    uint32_t n_all;
    struct graph_view *view; /* the panel's own: zoom and crosshair */
    void *keep;              /* the panel's own, struct panel.keep bytes that were zero at first */
};

struct panel {
    const char *name;  /* of --panel */
    const char *title; /* of its tab */
    size_t keep;       /* bytes that it remembers */
    uint32_t want;     /* what the watched process is asked for while it is open: RING_... */
    /* Draws into r and returns the height that it has used. A panel fills r where it can, and takes
     * more when r is too low: the frame then scrolls. */
    float (*draw)(const struct panel_in *in, SDL_FRect r);
    void (*csv)(const struct panel_in *in, FILE *to); /* what it shows, with a row of names */
};

#define P(name) extern const struct panel panel_##name;
PANELS(P)
#undef P
extern const struct panel *const panel_table[];
extern const uint32_t n_panel;
int panel_index(const char *name); /* -1: there is none */

/* ---- parts that panels share ----------------------------------------------------------------- */

#define PANEL_GAP 12.0f  /* between cards */
#define PANEL_PAD 16.0f  /* within one */
#define PANEL_HEAD 24.0f /* of a card's title */

/* A card; returns what is inside. With a title that begins lower, and `right`, in lighter text, at
 * the title's right. Either may be NULL. */
SDL_FRect panel_card(const struct panel_in *in, SDL_FRect r, const char *title, const char *right);
/* What a card of this inner height is in all. */
float panel_card_height(float inner, bool titled);
/* A tile: a label, a large value with its unit, a line below. part: a thin bar at its foot, below
 * 0: none. */
struct tile {
    const char *label, *value, *unit, *below;
    float part;
    SDL_Color color; /* of the bar; alpha 0: the accent */
};
#define TILE_H 98.0f
void panel_tile(const struct panel_in *in, SDL_FRect r, const struct tile *t);
/* n tiles side by side, in rows when they would be too narrow. Returns the height. */
float panel_tiles(const struct panel_in *in, SDL_FRect r, const struct tile *t, uint32_t n);
/* A card of rows, each a name and a value: value NULL or "" leaves the row out. Returns the height,
 * which is r's where that is more. */
struct fact {
    const char *name, *value;
};
float panel_facts(const struct panel_in *in, SDL_FRect r, const char *title, const struct fact *f,
                  uint32_t n);
/* When there is nothing to show: why, and what would fill it. Returns the height. */
float panel_empty(const struct panel_in *in, SDL_FRect r, const char *why, const char *fill);

/* A series of the run over time, or, with by_step, over training steps. */
struct graph_series panel_series(const struct run *r, enum run_series_id id, const char *name,
                                 enum graph_style style, SDL_Color color, bool by_step);

/* The time of the first thing that is known of the run: graphs begin there, for the monitor may
 * have come late. */
double panel_from(const struct run *r);

/* Colours and marks of a run's state: the same everywhere. */
SDL_Color state_color(const struct theme *t, const struct run *r);
enum mark state_mark(const struct run *r);
SDL_Color purpose_color(const struct theme *t, const char *purpose);

/* Numbers as people read them. */
void show_rate(double per_s, char *out, size_t size);    /* "43.7", "1.36 k" */
void show_count(double n, char *out, size_t size);       /* "512", "20 480", "1.2 M" */
void show_bytes(double bytes, char *out, size_t size);   /* "1.5 GiB" */
void show_clock(double seconds, char *out, size_t size); /* "0:42", "1:03:20" */
void show_since(double seconds, char *out, size_t size); /* "12 s", "3 min", "2 h", "4 days" */
void csv_text(FILE *to, const char *s);                  /* quoted where it has to be */
/* Several series of a run, one row a point. */
void csv_series(FILE *to, const struct run *r, const enum run_series_id *id,
                const char *const *name, uint32_t n);
