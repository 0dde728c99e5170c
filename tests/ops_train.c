/* ops_train: see ops_train.h. */
#include "ops_train.h"

struct rig rig_open_train(struct gpu *g, const char *op, const struct rig_dropout *d)
{
    struct rig r = rig_open(g, op);
    struct dropout dropout = { 0 };
    if (d) {
        dropout.p = d->p;
        dropout.key = rig_words(&r, d->key, 4);
    }
    r.kept = arena_create(g, "kept", MEM_DEVICE, &r.err);
    HLM_ASSERT(r.kept);
    arena_take(r.kept, 16, 16); /* an empty one cannot be committed */
    r.tape = tape_create(r.kept, &dropout, &r.err);
    HLM_ASSERT(r.tape);
    tape_attach(r.c, r.tape);
    tape_begin(r.c, (tensor){ 0 }, (tensor){ 0 });
    return r;
}

/* Random numbers in t, which the op may change, and the same as doubles. */
static struct grads start(struct rig *r, tensor t)
{
    uint64_t n = (uint64_t)t.n * t.n_row;
    const float *v = rig_normal(r, n, 1);
    rig_put(r, t, v);
    rig_writes(r, t);
    return (struct grads){ t, rig_doubles(r, v, n) };
}

struct grads rig_grad(struct rig *r, tensor x)
{
    tensor base = x;
    base.col = 0;
    base.n = x.stride;
    tensor at = rig_view(r, F32, base.n, x.n_row, (uint32_t)align_up(base.n, 4) + 8, 0);
    grad_is(r->c, base, at);
    return start(r, tensor_cols(at, x.col, x.n));
}

static void trained(struct rig *r, tensor v, tensor to)
{
    bool done = tape_train_vector(r->tape, v, to, &r->err);
    HLM_ASSERT(done);
}

struct grads rig_grad_vector(struct rig *r, tensor v)
{
    tensor at = rig_view(r, F32, v.n, 1, v.n, 0);
    trained(r, v, at);
    return start(r, at);
}

struct grads rig_grad_factor(struct rig *r, const linear *w)
{
    tensor at = rig_view(r, F32, w->row_q * 4, w->n_out * w->n_expert, w->row_q * 4, 0);
    trained(r, linear_rows(w, 0, w->n_out * w->n_expert), at);
    return start(r, tensor_cols(at, 0, w->n_in));
}

double *rig_back(struct rig *r, tensor y)
{
    uint64_t n = (uint64_t)y.n * y.n_row;
    const float *v = rig_normal(r, n, 1);
    tensor dy = rig_view(r, F32, y.n, y.n_row, (uint32_t)align_up(y.n, 4) + 4, 0);
    rig_put(r, dy, v);
    tape_back(r->c, y, dy);
    return rig_doubles(r, v, n);
}

bool rig_near_grad(struct rig *r, const char *what, const struct grads *g, double tol)
{
    return rig_near(r, what, g->t, g->want, tol);
}
