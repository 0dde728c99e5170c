/* frame: the whole picture - the list of runs, the head, the tabs, the panel that is open, the list
 * of keys, short messages. It draws what it is given and reports what is asked of the program; it
 * neither reads processes nor opens a window. */
#pragma once
#include "panels.h"

enum { FRAME_MAX_PANEL = 16, FRAME_MAX_RUN = 64 };
#define FRAME_MIN_W 640 /* points; a smaller window is drawn as if it had these, and cut */
#define FRAME_MIN_H 400

struct frame_panel {
    struct graph_view view;
    struct scroll scroll;
    void *keep;
};

struct frame {
    struct gui gui;
    struct frame_panel panel[FRAME_MAX_PANEL];
    uint32_t open;            /* index of the panel */
    const struct run *chosen; /* NULL: the one to look at without another wish */
    bool by_hand;             /* a person chose it: it stays when another begins */
    bool paused, help;
    struct run *still[FRAME_MAX_RUN]; /* while paused: the runs as they were */
    uint32_t n_still, i_still;        /* i_still: the chosen one */
    struct scroll list;
    char note[240]; /* a short message ... */
    double note_end_s;
};

/* What there is to show. */
struct frame_in {
    struct run *const *run; /* newest last */
    uint32_t n_run;
    int newest;          /* index of the run to look at without another wish, -1: none */
    const char *refusal; /* why a process could not be watched; "" or NULL: there is none */
    float w, h;          /* of the picture, points */
    double now_s;
};

/* What a frame asks of the program. */
enum {
    FRAME_COPY = 1, /* the panel's data as CSV to the clipboard */
    FRAME_PNG = 2,  /* the picture to a file */
    FRAME_QUIT = 4,
    FRAME_LARGER = 8,
    FRAME_SMALLER = 16,
    FRAME_THEME = 32, /* the other theme */
};

struct frame *frame_create(struct draw *d, const struct theme *t); /* NULL: no memory */
void frame_destroy(struct frame *f);                               /* takes NULL; not draw's */
unsigned frame_draw(struct frame *f, const struct frame_in *in, const struct gui_input *input);
void frame_note(struct frame *f, double now_s, const char *fmt, ...) UI_PRINTF(3, 4);
/* The run that is shown; -1: none. */
int frame_chosen(const struct frame *f, const struct frame_in *in);
/* The open panel's data. False: there is no run. */
bool frame_csv(struct frame *f, const struct frame_in *in, FILE *to);
