/* run_copy: a run as it stands, for a picture that is to stay while the run goes on. */
#include "monitor/run.h"
#include "monitor/run_past.h"
#include "ui/common_base.h"

#include <stdlib.h>
#include <string.h>

struct run *run_copy(const struct run *of)
{
    struct run *r = ui_alloc(1, sizeof *r);
    struct run_past *past = ui_alloc(1, sizeof *past);
    if (!r || !past) {
        free(r);
        free(past);
        return NULL;
    }
    *r = *of;
    *past = *of->past;
    r->past = past;
    bool ok = true;
    for (uint32_t i = 0; i < N_SERIES; i++) {
        struct run_series *s = &r->series[i];
        s->p = ui_alloc(s->n ? s->n : 1, sizeof *s->p);
        s->cap = s->n ? s->n : 1;
        if (s->p && s->n)
            memcpy(s->p, of->series[i].p, s->n * sizeof *s->p);
        ok = ok && s->p;
    }
    for (uint32_t i = 0; i < r->n_answer; i++) {
        const struct run_answer *a = &of->answer[i];
        r->answer[i].prompt =
            ui_copy(a->prompt ? a->prompt : "", strlen(a->prompt ? a->prompt : ""));
        r->answer[i].text = ui_copy(a->text ? a->text : "", strlen(a->text ? a->text : ""));
        ok = ok && r->answer[i].prompt && r->answer[i].text;
    }
    if (ok)
        return r;
    run_destroy(r);
    return NULL;
}
