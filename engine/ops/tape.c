/* tape: see tape.h. A block pushes a few dozen records and asks for about as many gradients, so
 * both are lists that are walked. */
#include "ops/tape.h"

#include <stdlib.h>

struct gradient {
    tensor of, at;
}; /* bases: columns are not theirs */
struct kept {
    tensor t;
    bool taken;
};

struct tape {
    struct tape_rec *rec;
    struct gradient *live, *vector; /* of what the block made; of vectors that are trained */
    struct kept *kept;              /* by layer */
    uint64_t n_rec, cap_rec, n_live, cap_live, n_vector, cap_vector, n_kept, cap_kept;
    struct arena *keeps, *of, *to;
    struct dropout dropout;
    uint32_t i_layer;
    bool held, runs, keep_all; /* keep_all: no dropout */
};

static bool room(void *list, uint64_t n, uint64_t *cap, size_t size)
{
    void **at = list;
    if (n < *cap)
        return true;
    uint64_t want = 2 * *cap + 64;
    void *more = mem_grow(*at, want, size);
    if (!more)
        return false;
    *at = more;
    *cap = want;
    return true;
}

struct tape *tape_create(struct arena *kept, const struct dropout *d, struct hlm_err *err)
{
    struct tape *t = mem_alloc(1, sizeof *t);
    if (!t) {
        fail_memory(err, "out of memory: a tape");
        return NULL;
    }
    t->keeps = kept;
    t->dropout = *d;
    return t;
}

void tape_destroy(struct tape *t)
{
    if (!t)
        return;
    free(t->rec);
    free(t->live);
    free(t->vector);
    free(t->kept);
    free(t);
}

void tape_train(struct tape *t, struct arena *of, struct arena *to)
{
    t->of = of;
    t->to = to;
}

bool tape_train_vector(struct tape *t, tensor at, tensor to, struct hlm_err *err)
{
    if (!room(&t->vector, t->n_vector, &t->cap_vector, sizeof *t->vector))
        return fail_memory(err, "out of memory: %llu trained vectors",
                           (unsigned long long)t->n_vector);
    t->vector[t->n_vector++] = (struct gradient){ at, to };
    return true;
}

void tape_attach(struct cmd *c, struct tape *t) { cmd_set_tape(c, t); }
bool tape_trains(const struct cmd *c) { return cmd_tape(c) != NULL; }

const struct dropout *tape_dropout(const struct cmd *c)
{
    const struct tape *t = cmd_tape(c);
    return t && t->dropout.p > 0 && !t->keep_all ? &t->dropout : NULL;
}

void tape_drops(struct cmd *c, bool on) { cmd_tape(c)->keep_all = !on; }

bool tape_runs(const struct cmd *c) { return cmd_tape(c) && cmd_tape(c)->runs && !cmd_failed(c); }

void tape_begin(struct cmd *c, tensor x, tensor dx)
{
    struct tape *t = cmd_tape(c);
    HLM_ASSERT(t && !t->runs);
    t->n_rec = t->n_live = 0;
    t->runs = true;
    if (dx.arena)
        grad_is(c, x, dx);
}

void tape_push(struct cmd *c, struct tape_rec r)
{
    struct tape *t = cmd_tape(c);
    if (!tape_runs(c))
        return;
    if (room(&t->rec, t->n_rec, &t->cap_rec, sizeof *t->rec))
        t->rec[t->n_rec++] = r;
    else
        cmd_fail_as(c, HLM_ERR_MEMORY, "out of memory: a tape of %llu ops",
                    (unsigned long long)t->n_rec);
}

void tape_back(struct cmd *c, tensor y, tensor dy)
{
    struct tape *t = cmd_tape(c);
    HLM_ASSERT(t->runs);
    t->runs = false;
    grad_is(c, y, dy);
    for (uint64_t i = t->n_rec; i-- > 0 && !cmd_failed(c);)
        t->rec[i].bwd(c, &t->rec[i]);
}

/* ---- gradients ------------------------------------------------------------------------------- */

static bool same(tensor a, tensor b) { return a.arena == b.arena && a.offset == b.offset; }

static tensor as_viewed(tensor base, tensor t)
{
    base.col += t.col;
    base.n = t.n;
    return base;
}

void grad_is(struct cmd *c, tensor t, tensor dt)
{
    struct tape *tape = cmd_tape(c);
    if (cmd_failed(c)) /* an op's output is empty then */
        return;
    HLM_ASSERT(t.col == 0 && t.n == dt.n && t.n_row == dt.n_row);
    if (room(&tape->live, tape->n_live, &tape->cap_live, sizeof *tape->live))
        tape->live[tape->n_live++] = (struct gradient){ t, dt };
    else
        cmd_fail_as(c, HLM_ERR_MEMORY, "out of memory: %llu gradients",
                    (unsigned long long)tape->n_live);
}

tensor grad(struct cmd *c, tensor t)
{
    struct tape *tape = cmd_tape(c);
    const tensor none = { 0 };
    if (cmd_failed(c) || !t.arena)
        return none;
    for (uint64_t i = tape->n_live; i-- > 0;)
        if (same(tape->live[i].of, t))
            return as_viewed(tape->live[i].at, t);
    if (t.arena == tape->of) {
        t.arena = tape->to;
        return t;
    }
    for (uint64_t i = 0; i < tape->n_vector; i++)
        if (same(tape->vector[i].of, t))
            return as_viewed(tape->vector[i].at, t);
    if (t.arena != cmd_scratch_arena(c))
        return none;
    tensor base = t;
    base.col = 0;
    base.n = t.stride;
    tensor g = cmd_scratch(c, F32, base.n, base.n_row);
    cmd_fill(c, g, tensor_bytes(g), 0);
    grad_is(c, base, g);
    return as_viewed(g, t);
}

/* ---- choices --------------------------------------------------------------------------------- */

void tape_layer(struct cmd *c, uint32_t i_layer, bool held)
{
    struct tape *t = cmd_tape(c);
    t->i_layer = i_layer;
    t->held = held;
    for (; t->n_kept <= i_layer && !cmd_failed(c); t->n_kept++) {
        if (!room(&t->kept, t->n_kept, &t->cap_kept, sizeof *t->kept)) {
            cmd_fail_as(c, HLM_ERR_MEMORY, "out of memory: choices of %u layers", i_layer);
            return;
        }
        t->kept[t->n_kept] = (struct kept){ 0 };
    }
}

bool tape_keep(struct cmd *c, uint32_t n, uint32_t n_row, tensor *to)
{
    struct tape *t = cmd_tape(c);
    if (!t || cmd_failed(c)) {
        *to = cmd_scratch(c, I32, n, n_row);
        return false;
    }
    struct kept *k = &t->kept[t->i_layer];
    if (!k->taken) { /* the longest row comes first: it has room for all */
        k->t = arena_tensor(t->keeps, I32, (uint32_t)align_up(n, 4), n_row);
        k->taken = true;
    }
    HLM_ASSERT(k->t.stride >= n && k->t.n_row >= n_row);
    *to = k->t;
    to->n = n;
    to->n_row = n_row;
    return t->held;
}
