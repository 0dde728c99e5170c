/* ops_train: runs an op forward and backward in a cmd that trains, for the tests test_ops_*_bwd.c.
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
 * Every gradient begins as random numbers, which `want` has too: the reference adds to them, and so
 * must the op. They lie in rows of odd strides between bands, which show writes beside them. */
#pragma once
#include "ops.h"

/* A gradient: where it is on the device, and its expected result, [n_row][n]. */
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

/* Asks for the gradient of an input x; otherwise x is frozen. */
struct grads rig_grad(struct rig *r, tensor x);
/* Trains a vector [n]: the parameters of a gate. */
struct grads rig_grad_vector(struct rig *r, tensor v);
/* Trains the rows of low-rank factors of all experts; want is [n_out * n_expert][n_in]. */
struct grads rig_grad_factor(struct rig *r, const linear *w);

/* Ends the forward at y and records the backward from a random gradient of it. Returns that
 * gradient, [n_row][n]. */
double *rig_back(struct rig *r, tensor y);
bool rig_near_grad(struct rig *r, const char *what, const struct grads *g, double tol);
