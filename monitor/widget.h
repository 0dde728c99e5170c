/* widget: an immediate-mode layer of parts that react to the pointer and the keys: tabs, buttons,
 * sliders, scrolled areas, bars, heat maps, tables, graphs, tooltips. It knows nothing of hlm.
 *
 * A frame is gui_begin(), then calls that each draw a part and return what happened to it, then
 * gui_end(). Between frames a part keeps nothing here but the focus: what it needs to remember
 * (how far it is scrolled, by which column it is sorted) is in a struct of the caller's, zero at
 * first. */
#pragma once
#include "draw.h"
#include "theme.h"

struct gui_input {
    float x, y; /* the pointer, in points; far outside when it is not in the window */
    bool down;  /* its left button */
    bool pressed, released, doubled; /* since the last frame */
    bool right;                      /* its right button was pressed */
    float wheel;                     /* lines, up is above 0 */
    int key;                         /* SDL_Keycode of a key that was pressed, 0: none */
    bool shift;                      /* with the key or the wheel */
};

enum { MAX_TARGET = 512, MAX_TIP = 640 };

struct gui_target {
    uint64_t id;
    SDL_FRect r;
};

struct gui {
    struct draw *d;
    const struct theme *t;
    struct gui_input in;
    double now_s;    /* for animations */
    uint64_t focus;  /* 0: nothing has it */
    bool show_focus; /* it was moved by a key */
    uint64_t active; /* what the button was pressed on */
    float grab;      /* where on it */
    bool key_taken;  /* the key has been used */
    bool wheel_taken;
    double again_s; /* draw again in that many seconds for an animation; below 0: no need */
    struct gui_target target[2][MAX_TARGET]; /* what can have the focus: in this frame, the last */
    uint32_t n_target[2];
    char tip[MAX_TIP];
};

void gui_begin(struct gui *g, const struct gui_input *in, double now_s);
void gui_end(struct gui *g); /* draws the tooltip; moves the focus by keys that nobody took */

uint64_t gui_id(const void *of, uint32_t i);      /* of the i-th part of something; never 0 */
bool gui_hover(const struct gui *g, SDL_FRect r); /* is the pointer there, and can r be seen? */
enum { GUI_HOVER = 1, GUI_FOCUS = 2, GUI_CLICK = 4 /* or Enter on the focus */, GUI_DOWN = 8 };
unsigned gui_touch(struct gui *g, uint64_t id, SDL_FRect r); /* lets r have the focus too */
bool gui_key(struct gui *g, int key);       /* was it pressed, and is it still free? Takes it */
void gui_again(struct gui *g, double in_s); /* an animation is under way */
/* What is shown at the pointer when the frame ends; lines end with \n. The newest call counts. */
void gui_tip(struct gui *g, const char *fmt, ...) UI_PRINTF(2, 3);

/* ---- plain parts ----------------------------------------------------------------------------- */

bool widget_button(struct gui *g, uint64_t id, SDL_FRect r, const char *label);
bool widget_tab(struct gui *g, uint64_t id, SDL_FRect r, const char *label, bool chosen);
float widget_tab_width(struct gui *g, const char *label);
/* True when v has changed: by dragging, or by the arrow keys while it has the focus. */
bool widget_slider(struct gui *g, uint64_t id, SDL_FRect r, float *v, float min, float max);
void widget_focus_ring(struct gui *g, SDL_FRect r, float radius);

struct scroll {
    float y, high; /* how far, and how high the content was in the last frame */
};
/* What is drawn until the end is cut to r and moves with the wheel and the keys. Returns where the
 * content begins; its width leaves room for the bar. With Shift the wheel is the content's. */
SDL_FRect widget_scroll_begin(struct gui *g, uint64_t id, SDL_FRect r, struct scroll *s);
void widget_scroll_end(struct gui *g, uint64_t id, SDL_FRect r, struct scroll *s, float high);

/* ---- parts that show values ------------------------------------------------------------------ */

/* A mark of a state that has a shape of its own as well as a colour. */
enum mark { MARK_DISC, MARK_RING, MARK_TRIANGLE, MARK_CROSS, MARK_SQUARE, MARK_CHECK };
void widget_mark(struct gui *g, float x, float y, float size, enum mark m, SDL_Color c);

void widget_bar(struct gui *g, SDL_FRect r, float part, SDL_Color c); /* part: 0 to 1 */

struct segment {
    const char *name, *value; /* value: as people read it */
    double part;              /* of the whole bar; what is not finite or negative counts as 0 */
    SDL_Color color;
    bool hollow; /* of what is not used, only the track */
};
/* One bar in segments, a gap of a point between them. Returns the one pointed at, or -1. The bar
 * never grows over its end. */
int widget_segments(struct gui *g, SDL_FRect r, const struct segment *s, uint32_t n);
/* Swatch, name, value of each, in as many columns as fit. strong: one of them, or -1. */
void widget_legend(struct gui *g, SDL_FRect r, const struct segment *s, uint32_t n, int strong);
float widget_legend_height(struct gui *g, float w, const struct segment *s, uint32_t n);

struct heat {
    uint32_t rows, cols;
    float (*part)(const void *of, uint32_t row, uint32_t col); /* 0 to 1; below 0: no such cell */
    const void *of;
};
struct heat_cell {
    bool hit;
    uint32_t row, col;
};
SDL_FRect widget_heat_cell(const struct gui *g, SDL_FRect r, const struct heat *h, uint32_t row,
                           uint32_t col); /* where it is drawn */
struct heat_cell widget_heat(struct gui *g, SDL_FRect r, const struct heat *h); /* pointed at */

/* ---- tables ---------------------------------------------------------------------------------- */

struct table_col {
    const char *name;
    float width; /* points; 0: shares what is left with the others of 0 */
    enum align align;
    bool down; /* the first click sorts the largest to the top */
};
struct table_cell {
    char text[96];
    double sort;   /* what is compared; where all are equal the text is */
    float bar;     /* a bar beneath the text, 0 to 1; 0: none */
    SDL_Color dot; /* before the text, as of a curve; alpha 0: none */
};
struct table_state {
    uint32_t sort; /* 1 + column; 0: as the rows come */
    bool down;
    struct scroll scroll;
    uint32_t chosen; /* 1 + row as it comes; 0: none */
};
struct table {
    const struct table_col *col;
    uint32_t n_col, n_row; /* at most TABLE_COLS, TABLE_ROWS; what is more is not shown */
    void (*cell)(const void *of, uint32_t row, uint32_t col, struct table_cell *out);
    const void *of;
};
enum { TABLE_COLS = 16, TABLE_ROWS = 1024 };
float widget_table_height(const struct gui *g, const struct table *t); /* with all its rows */
/* Heads sort by a click; a row is chosen by one, or by the arrow keys. Returns the row that is
 * pointed at, as it comes, or -1. */
int widget_table(struct gui *g, uint64_t id, SDL_FRect r, const struct table *t,
                 struct table_state *s);
/* The order in which the rows are shown. */
uint32_t table_order(const struct table *t, const struct table_state *s,
                     uint16_t order[TABLE_ROWS]);

/* ---- graphs ---------------------------------------------------------------------------------- */

struct graph_point {
    double x;
    float y, lo, hi; /* lo, hi: where the point stands for several, their range */
};
enum graph_style { GRAPH_LINE, GRAPH_AREA, GRAPH_FAINT, GRAPH_POINTS };
struct graph_series {
    const char *name;
    enum graph_style style;
    SDL_Color color;
    uint32_t n;
    struct graph_point (*at)(const void *of, uint32_t i); /* x never goes back */
    const void *of;
    bool hidden;    /* from the legend's values at the pointer */
    double hold_to; /* the last value holds until there; 0: it ends where it is */
};
struct graph_mark { /* an upright line, with a word at its top */
    double x;
    const char *word;
    SDL_Color color;
};

/* What all graphs of a panel share; zero at first. */
struct graph_view {
    double from, to; /* what is shown; equal: everything */
    bool has_cross;  /* the pointer is on one of them: */
    double cross;
    bool has_next; /* the same as found in this frame, for the next */
    double next;
    uint64_t drag; /* the graph on which a drag goes on: */
    double drag_from;
    bool keyed; /* the crosshair was moved by keys, and stays */
};

struct graph {
    const char *title, *unit; /* either may be NULL */
    const struct graph_series *series;
    uint32_t n_series;
    const struct graph_mark *mark;
    uint32_t n_mark;
    double x_min, x_max; /* everything; equal: from the series */
    double y_min, y_max; /* equal: from the series */
    bool from_zero;      /* the level 0 is always shown */
    bool log;            /* levels are logarithmic; only where all values are above 0 */
    void (*show_x)(double x, char *out, size_t size); /* NULL: "1:05" */
    void (*show_y)(double y, char *out, size_t size); /* NULL: three figures */
    const char *empty;                                /* what would fill it */
};
/* Where a value is drawn. */
struct graph_map {
    SDL_FRect plot;
    double x0, x1, y0, y1;
    bool log;
};
SDL_FPoint graph_at(const struct graph_map *m, double x, double y);
struct graph_map graph_map(struct gui *g, SDL_FRect r, const struct graph *gr,
                           const struct graph_view *v);
void widget_graph(struct gui *g, uint64_t id, SDL_FRect r, const struct graph *gr,
                  struct graph_view *v);
/* After all graphs of a panel: what is pointed at now is the crosshair of the next frame. True when
 * it has changed, so that one more frame is to be drawn. */
bool graph_view_end(struct gui *g, struct graph_view *v);
/* Nice steps for an axis: returns how many of out were filled, at most max. */
uint32_t graph_ticks(double min, double max, uint32_t max_n, double *out);
uint32_t graph_time_ticks(double min, double max, uint32_t max_n, double *out); /* of a clock */
/* The newest value at or before x; false: there is none. */
bool graph_value(const struct graph_series *s, double x, struct graph_point *out);
