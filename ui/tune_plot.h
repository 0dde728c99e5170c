/* tune_plot: shared by tune_plot.c, which reads logs and writes figures, and tune_draw.c, which
 * draws them. */
#pragma once
#include "common_base.h"

struct plot_point {
    double step, loss;
};
/* What one log has to draw. */
struct plot_series {
    const char *name;
    struct plot_point *train, *valid; /* by step */
    uint64_t n_train, n_valid, cap_train, cap_valid;
};
/* The picture as a PNG file in memory; freed with free. NULL with a reason, also where the program
 * was built without what draws. */
uint8_t *plot_draw(const struct plot_series *s, uint32_t n, uint64_t *n_bytes, struct hlm_err *err);
