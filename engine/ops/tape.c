/* tape: see tape.h. A block pushes a few dozen records and asks for about as many gradients, so
 * neither list has an index: each is searched entry by entry. The records lie one after another in
 * one array of bytes. */
#include "ops/tape.h"

#include <stdlib.h>
#include <string.h>

struct pushed {
    tape_bwd *bwd;
    uint64_t at; /* where the record is, in bytes */
};
struct gradient {
    tensor of, at;
}; /* whole rows, not views of columns */
struct kept {
    tensor t;
    bool taken;
};

struct tape {
    struct pushed *op;
    unsigned char *bytes;
    struct gradient *live, *vector; /* of the block's tensors; of vectors that are trained */
    struct kept *kept;              /* by layer */
    uint64_t n_op, cap_op, n_byte, cap_byte, n_live, cap_live;
    uint64_t n_vector, cap_vector, n_kept, cap_kept;
    struct arena *keeps, *of, *to;
    struct dropout dropout;
    uint32_t i_layer;
    bool again, runs, keep_all; /* keep_all: no dropout */
};

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
    free(t->op);
    free(t->bytes);
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
    if (!mem_reserve(&t->vector, t->n_vector + 1, &t->cap_vector, sizeof *t->vector))
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
    t->n_op = t->n_byte = t->n_live = 0;
    t->runs = true;
    if (dx.arena)
        grad_is(c, x, dx);
}

void tape_push(struct cmd *c, tape_bwd *bwd, const void *rec, size_t size)
{
    struct tape *t = cmd_tape(c);
    if (!tape_runs(c))
        return;
    uint64_t end = t->n_byte + align_up(size, _Alignof(max_align_t));
    if (!mem_reserve(&t->op, t->n_op + 1, &t->cap_op, sizeof *t->op) ||
        !mem_reserve(&t->bytes, end, &t->cap_byte, 1)) {
        cmd_fail_as(c, HLM_ERR_MEMORY, "out of memory: a tape of %llu ops",
                    (unsigned long long)t->n_op);
        return;
    }
    t->op[t->n_op++] = (struct pushed){ bwd, t->n_byte };
    memcpy(t->bytes + t->n_byte, rec, size);
    t->n_byte = end;
}

void tape_back(struct cmd *c, tensor y, tensor dy)
{
    struct tape *t = cmd_tape(c);
    HLM_ASSERT(t->runs);
    t->runs = false;
    grad_is(c, y, dy);
    for (uint64_t i = t->n_op; i-- > 0 && !cmd_failed(c);)
        t->op[i].bwd(c, t->bytes + t->op[i].at);
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
    if (cmd_failed(c)) /* the outputs of ops are then empty */
        return;
    HLM_ASSERT(t.col == 0 && t.n == dt.n && t.n_row == dt.n_row);
    if (mem_reserve(&tape->live, tape->n_live + 1, &tape->cap_live, sizeof *tape->live))
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

void tape_layer(struct cmd *c, uint32_t i_layer, bool again)
{
    struct tape *t = cmd_tape(c);
    t->i_layer = i_layer;
    t->again = again;
    for (; t->n_kept <= i_layer && !cmd_failed(c); t->n_kept++) {
        if (!mem_reserve(&t->kept, t->n_kept + 1, &t->cap_kept, sizeof *t->kept)) {
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
    if (!k->taken) { /* the longest row comes first, so all others fit */
        k->t = arena_tensor(t->keeps, I32, (uint32_t)align_up(n, 4), n_row);
        k->taken = true;
    }
    HLM_ASSERT(k->t.stride >= n && k->t.n_row >= n_row);
    *to = k->t;
    to->n = n;
    to->n_row = n_row;
    return t->again;
}
