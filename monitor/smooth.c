/* smooth: see smooth.h. */
#include "smooth.h"

#include <math.h>
#include <stdlib.h>

void smooth_make(struct smooth *s, const struct run_series *of, double half, bool by_step)
{
    double sum = 0, weight = 0;
    *s = (struct smooth){ .p = ui_alloc(of->n, sizeof *s->p) };
    for (uint32_t i = 0; s->p && i < of->n; i++) {
        const struct run_point *p = &of->p[i];
        double keep = half > 0 ? exp2(-(double)p->n_point / half) : 0;
        sum = keep * sum + (1 - keep) * (double)p->v;
        weight = keep * weight + 1 - keep; /* below 1 at first, when the past is short */
        float v = (float)(sum / weight);
        s->p[s->n++] =
            (struct graph_point){ .x = by_step ? p->step : p->t, .y = v, .lo = v, .hi = v };
    }
}

void smooth_above(struct smooth *s, const struct run_series *of, double level)
{
    *s = (struct smooth){ .p = ui_alloc(of->n, sizeof *s->p) };
    for (uint32_t i = 0; s->p && i < of->n; i++) {
        const struct run_point *p = &of->p[i];
        if ((double)p->hi > level)
            s->p[s->n++] =
                (struct graph_point){ .x = p->step, .y = p->hi, .lo = p->hi, .hi = p->hi };
    }
}

void smooth_free(struct smooth *s)
{
    free(s->p);
    *s = (struct smooth){ 0 };
}

static struct graph_point point_at(const void *of, uint32_t i)
{
    return ((const struct graph_point *)of)[i];
}

struct graph_series smooth_series(const struct smooth *s, const char *name, enum graph_style style,
                                  SDL_Color color)
{
    return (struct graph_series){
        .name = name, .style = style, .color = color, .n = s->n, .at = point_at, .of = s->p
    };
}

double smooth_newest(const struct smooth *s) { return s->n ? (double)s->p[s->n - 1].y : -1; }
