/* tune_choose: what a run chooses by its data and its model where its parameters leave it open. See
 * hlm_train.h.
 *
 * A few lines must be seen about twenty times to be learnt, and need some hundred updates. Texts
 * need half as many passes again: every token of theirs counts, so those that matter count for
 * less. Of many lines three passes are enough, and more than a thousand updates gain less than
 * larger steps do.
 *
 * The rate is that of "LoRA Without Regret" (Schulman et al., 2025), 5e-4 (2000 / n_embd)^0.781 at
 * any rank. It was fitted to models at least that wide. The demo model is far less wide: higher
 * rates teach it a few facts in fewer passes, but it forgets more of what it knew. */
#include "train/tune.h"

#include <math.h>

enum {
    FEWEST_PASSES = 3,
    MOST_PASSES = 20,
    SEEN_LINES = 400, /* lines times passes */
    FEW_UPDATES = 100,
    MANY_UPDATES = 1000,
    MOST_STEP_ROWS = 8,
};
static const double MOST_RATE = 5e-4;

double tune_width_rate(uint32_t n_embd) { return MOST_RATE * fmin(1, pow(2000.0 / n_embd, 0.781)); }

static double clamp(double v, double least, double most) { return fmin(fmax(v, least), most); }

/* Rows are of max_seq tokens; 0: each document is one. */
static double rows_of_pass(const struct tune_size *s)
{
    return s->max_seq ? ceil((double)s->n_tok / s->max_seq) : s->n_doc;
}

static double passes(const struct tune_size *s)
{
    double texts = 2 * s->n_counted > s->n_tok ? 1.5 : 1;
    if (!s->n_doc)
        return FEWEST_PASSES;
    return floor(texts * clamp(floor((double)SEEN_LINES / s->n_doc), FEWEST_PASSES, MOST_PASSES));
}

void tune_choose(const struct tune_size *s, struct hlm_train_options *o, double *epochs,
                 struct tune_chosen *c)
{
    bool by_data = s->n_doc > 0; /* rows of ids are as someone else chose them */
    double usual = passes(s);
    *c = (struct tune_chosen){ .epochs = *epochs <= 0 && !o->steps,
                               .batch_rows = !o->batch_rows,
                               .lr = o->lr < 0 };
    if (c->epochs)
        *epochs = usual;
    /* Neither depends on the passes or steps that are given, so a run can be made longer. */
    if (c->batch_rows)
        o->batch_rows = by_data ? (uint32_t)clamp(rows_of_pass(s) * usual / MANY_UPDATES /
                                                      max_u32(o->accumulation, 1),
                                                  1, MOST_STEP_ROWS)
                                : 1;
    if (by_data)
        c->want_rows = (uint32_t)clamp(
            ceil((double)FEW_UPDATES * o->batch_rows * o->accumulation / usual), 0, s->n_doc);
    if (c->lr)
        o->lr = by_data ? tune_width_rate(s->n_embd) : 2e-4;
    if (o->peak < 0)
        o->peak = o->lr;
    if (o->final < 0)
        o->final = o->peak / 10;
}
