/* events: what a person does at the window - pointer, keys, wheel, files dropped on it - as input
 * of the next picture. It needs no window, so that tests can send it events. */
#pragma once
#include "frame.h"
#include "watch.h"

struct events {
    struct frame *f;
    struct watch *w; /* gets the files that are dropped */
    float ratio;     /* pixels a unit of the window */
    float scale;     /* pixels a point, as it is wanted; a small window has fewer */
    struct gui_input in;
    bool scaled; /* by hand */
    bool stale;  /* there is something new to draw */
    bool hidden, leave;
};

void events_init(struct events *e, struct frame *f, struct watch *w, float scale);
/* True when a picture must see the event before the next one is taken: two keys cannot share one.
 */
bool events_take(struct events *e, const SDL_Event *ev);
/* After a picture: what happened only once is gone. */
void events_seen(struct events *e);
void events_set_scale(struct events *e, float scale); /* within what makes sense */
