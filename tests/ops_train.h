/* ops_train: an op in a cmd that trains, and back - what the test_ops_*_bwd.c are written with.
 *
 *     struct rig r = rig_open_train(g, "norm", NULL);
 *     struct grads dx = rig_grad(&r, x);           after rig_open_train, before the op
 *     tensor y = op_norm(r.c, x, w, eps);
 *     double *dy = rig_back(&r, y);
 *     ref_rmsnorm_bwd(x_d, w_v, n, n_tok, eps, dy, dx.want);
 *     if (rig_run(&r))
 *         rig_near_grad(&r, "dx", &dx, 0);
 *     rig_close(&r);
 *
 * Every gradient starts as random numbers, which `want` holds as well: the reference adds to them
 * as the op must. They lie in rows of odd strides between bands, so that what is written beside
 * them is seen. */
#pragma once
#include "ops.h"

/* A gradient: where it stands on the device, and what is to come of it, [n_row][n]. */
struct grads {
    tensor t;
    double *want;
};

/* rig_open with a tape that runs. d: NULL, or the probability of dropout and its key, four words in
 * memory of the caller. */
struct rig_dropout {
    float p;
    uint32_t key[4];
};
struct rig rig_open_train(struct gpu *g, const char *op, const struct rig_dropout *d);

/* The gradient of an input x is wanted. Without it x is frozen. */
struct grads rig_grad(struct rig *r, tensor x);
/* A vector [n] is trained: a gate's parameters. */
struct grads rig_grad_vector(struct rig *r, tensor v);
/* The rows of low-rank factors of all experts are: want is [n_out * n_expert][n_in]. */
struct grads rig_grad_factor(struct rig *r, const linear *w);

/* Ends the forward at y and records the way back from a random gradient of it. Returns that
 * gradient, [n_row][n]. */
double *rig_back(struct rig *r, tensor y);
bool rig_near_grad(struct rig *r, const char *what, const struct grads *g, double tol);
