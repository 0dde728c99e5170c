/* train_update: the trained parameters, their gradients, AdamW's moments, and the update. Factors
 * are where the lora_set has them; gates are deltas in an arena of the trainer. */
#include "train/train_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A gate: its delta, and its value in the model's file. */
struct trained_gate {
    struct base_gate *base;
    char name[80];
    tensor delta, grad, was;
    uint32_t n;
};

/* A row of a parameter, and its bytes on the device; param n_lora + i is gate i. */
struct param_row {
    uint64_t at;
    uint32_t param, row;
};

struct updates {
    struct arena *grads, *gates, *gate_grads, *optimizer;
    uint64_t n_lora, n_gate;
    struct trained_gate *gate;
    uint64_t *first;      /* [n_lora + n_gate + 1]: rows of all params before this one */
    uint64_t *at;         /* [rows of factors]: bytes from the start of their arena */
    uint32_t *moment;     /* [rows]: numbers before its moments; UINT32_MAX: it is not trained */
    struct adam_row *row; /* of both parts, and their scales */
    float *scale;
    struct adam_part part[2]; /* factors, gates */
    uint32_t n_part;
    struct adam adam;
    struct cmd *cmd;
    bool ended;
};

/* ---- parameters --------------------------------------------------------------------------- */

static bool is_decay_gate(const struct trained_gate *g)
{
    size_t n = strlen(g->base->t->name);
    return n > 6 && !strcmp(g->base->t->name + n - 6, ".ssm_a");
}

uint64_t train_n_param(const struct trainer *t) { return t->u->n_lora + t->u->n_gate; }

struct train_param train_param(const struct trainer *t, uint64_t i)
{
    const struct updates *u = t->u;
    if (i >= u->n_lora) {
        const struct trained_gate *g = &u->gate[i - u->n_lora];
        return (struct train_param){ g->name, g->n, { g->n, 1, 1 }, 1, true };
    }
    struct lora_param p = lora_param(t->set, i);
    return (struct train_param){
        p.name, p.n * p.n_row, { p.dim[0], p.dim[1], p.dim[2] }, p.n_dim, false
    };
}

/* The layer of a tensor; n_layer for tensors outside the layers. */
static uint32_t param_layer(const struct trainer *t, const char *name)
{
    unsigned n;
    return sscanf(name, "blk.%u.", &n) == 1 ? min_u32(n, t->m->n_layer) : t->m->n_layer;
}

/* Finds all gates that are trained or that the adapter has changed. */
static bool find_gates(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u;
    struct lora_base *b = &t->m->base;
    u->gate = mem_alloc(b->n_gate + 1, sizeof *u->gate);
    if (!u->gate)
        return fail_memory(err, "out of memory: %" PRIu64 " gates", b->n_gate);
    for (uint64_t i = 0; i < b->n_gate; i++) {
        struct base_gate *from = &b->gate[i];
        float *delta = mem_alloc(from->t->n_elem, sizeof *delta);
        if (!delta)
            return fail_memory(err, "out of memory: a gate");
        bool moved = t->set && lora_gate_delta(t->set, from->t, delta);
        free(delta);
        if (!moved && !t->p.train_gates)
            continue;
        struct trained_gate *g = &u->gate[u->n_gate++];
        g->base = from;
        g->n = (uint32_t)from->t->n_elem;
        snprintf(g->name, sizeof g->name, "%s.delta", from->t->name);
        g->delta = arena_tensor(u->gates, F32, g->n, 1);
        g->was = arena_tensor(u->optimizer, F32, g->n, 1);
    }
    arena_take_like(u->gate_grads, u->gates);
    for (uint64_t i = 0; i < u->n_gate; i++) {
        u->gate[i].grad = u->gate[i].delta;
        u->gate[i].grad.arena = u->gate_grads;
    }
    return true;
}

static bool list_rows(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u;
    uint64_t n = u->n_lora + u->n_gate, k = 0;
    u->first = mem_alloc(n + 1, sizeof *u->first);
    if (!u->first)
        return fail_memory(err, "out of memory: %" PRIu64 " parameters", n);
    for (uint64_t i = 0; i < n; i++)
        u->first[i + 1] = u->first[i] + (i < u->n_lora ? lora_param(t->set, i).n_row : 1);
    u->at = mem_alloc(u->first[u->n_lora] + 1, sizeof *u->at);
    u->moment = mem_alloc(u->first[n] + 1, sizeof *u->moment);
    u->row = mem_alloc(u->first[n] + 1, sizeof *u->row);
    u->scale = mem_alloc(u->first[n] + 1, sizeof *u->scale);
    if (!u->at || !u->moment || !u->row || !u->scale)
        return fail_memory(err, "out of memory: %" PRIu64 " rows of factors", u->first[n]);
    for (uint64_t i = 0; i < u->n_lora; i++)
        for (uint64_t r = 0; r < lora_param(t->set, i).n_row; r++)
            u->at[k++] = lora_param_at(t->set, i, r);
    memset(u->moment, 0xff, u->first[n] * sizeof *u->moment);
    return true;
}

static int by_position(const void *a, const void *b)
{
    const struct param_row *p = a, *q = b;
    return p->at < q->at ? -1 : p->at > q->at;
}

/* Writes rows p[n] to the table, from row0 on, in the order of their bytes. Returns the number of
 * their moments. */
static uint64_t fill_rows(struct trainer *t, struct param_row *p, uint64_t n, uint64_t row0)
{
    struct updates *u = t->u;
    uint64_t moment = 0;
    qsort(p, n, sizeof *p, by_position);
    for (uint64_t i = 0; i < n; i++) {
        bool gate = p[i].param >= u->n_lora;
        struct lora_param lp =
            gate ? (struct lora_param){ .n = u->gate[p[i].param - u->n_lora].n, .scale = 1 }
                 : lora_param(t->set, p[i].param);
        u->row[row0 + i] = (struct adam_row){
            .at = (uint32_t)(p[i].at / 16), .n = lp.n, .moment = (uint32_t)moment, .gate = gate
        };
        u->scale[row0 + i] = lp.scale;
        u->moment[u->first[p[i].param] + p[i].row] = (uint32_t)moment;
        moment += lp.n;
    }
    return moment;
}

/* Makes params [from, to) a part of AdamW's work. */
static bool add_adam_part(struct trainer *t, uint64_t from, uint64_t to, struct arena *values,
                          struct arena *grads, uint64_t row0, struct hlm_err *err)
{
    struct updates *u = t->u;
    uint64_t n = u->first[to] - u->first[from], k = 0;
    struct param_row *p = mem_alloc(n + 1, sizeof *p);
    if (!p)
        return fail_memory(err, "out of memory: %" PRIu64 " rows of factors", n);
    for (uint64_t i = from; i < to; i++)
        for (uint64_t r = u->first[i]; r < u->first[i + 1]; r++)
            p[k++] =
                (struct param_row){ i < u->n_lora ? u->at[r] : u->gate[i - u->n_lora].delta.offset,
                                    (uint32_t)i, (uint32_t)(r - u->first[i]) };
    uint64_t n_moment = fill_rows(t, p, n, row0);
    free(p);
    if (n_moment >= UINT32_MAX || n >= UINT32_MAX)
        return fail_as(err, HLM_ERR_UNSUPPORTED, "%" PRIu64 " numbers to train are too many",
                       n_moment);
    struct adam_part *part = &u->part[u->n_part++];
    *part = (struct adam_part){
        .row = u->row + row0, .n_row = (uint32_t)n, .values = values, .grads = grads
    };
    part->rows = arena_tensor(u->optimizer, I32, 4, (uint32_t)n);
    part->scale = arena_tensor(u->optimizer, F32, (uint32_t)n, 1);
    part->m = arena_tensor(u->optimizer, F32, (uint32_t)n_moment, 1);
    part->v = arena_tensor(u->optimizer, F32, (uint32_t)n_moment, 1);
    return true;
}

bool updates_init(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u = mem_alloc(1, sizeof *u);
    if (!u)
        return fail_memory(err, "out of memory: a trainer");
    u->n_lora = t->set ? lora_n_param(t->set) : 0;
    bool lora = t->p.train_lora && u->n_lora;
    if (!(u->grads = arena_create(t->gpu, "gradients", MEM_DEVICE, err)) ||
        !(u->gate_grads = arena_create(t->gpu, "gradients", MEM_DEVICE, err)) ||
        !(u->gates = arena_create(t->gpu, "adapters", MEM_DEVICE, err)) ||
        !(u->optimizer = arena_create(t->gpu, "optimizer", MEM_DEVICE, err)))
        return false;
    if (lora)
        arena_take_like(u->grads, lora_arena(t->set));
    if (!find_gates(t, err) || !list_rows(t, err))
        return false;
    uint64_t n = u->n_lora + u->n_gate, row0 = lora ? u->first[u->n_lora] : 0;
    if ((lora && !add_adam_part(t, 0, u->n_lora, lora_arena(t->set), u->grads, 0, err)) ||
        (t->p.train_gates && u->n_gate &&
         !add_adam_part(t, u->n_lora, n, u->gates, u->gate_grads, row0, err)))
        return false;
    if (!u->n_part)
        return fail(err, "there is nothing to train");
    u->adam = (struct adam){ .part = u->part, .n_part = u->n_part };
    u->adam.norm = arena_tensor(u->optimizer, F32, 4, 1);
    u->adam.hyper = arena_tensor(u->optimizer, F32, sizeof(struct adam_hyper) / 4, 1);
    t->lowest = t->m->n_layer;
    for (uint64_t i = 0; i < n; i++)
        if (i < u->n_lora ? lora : t->p.train_gates)
            t->lowest = min_u32(t->lowest, param_layer(t, train_param(t, i).name));
    return true;
}

bool updates_tape(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u;
    if (t->p.train_lora && u->n_lora)
        tape_train(t->tape, lora_arena(t->set), u->grads);
    for (uint64_t i = 0; t->p.train_gates && i < u->n_gate; i++)
        if (!tape_train_vector(t->tape, u->gate[i].base->at, u->gate[i].grad, err))
            return false;
    return true;
}

/* ---- on the device --------------------------------------------------------------------------- */

static void record_gates(struct cmd *c, const struct updates *u)
{
    for (uint64_t i = 0; i < u->n_gate; i++) {
        const struct trained_gate *g = &u->gate[i];
        op_gate_delta(c, g->was, g->delta, is_decay_gate(g), g->base->at);
    }
}

bool updates_record(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u;
    u->cmd = cmd_create(t->gpu, "update", t->scratch, err);
    if (!u->cmd)
        return false;
    op_grad_norm(u->cmd, &u->adam);
    op_adam(u->cmd, &u->adam);
    if (t->p.train_gates)
        record_gates(u->cmd, u);
    return cmd_check(u->cmd, err);
}

/* Computes the gates from deltas that did not come from an update. */
static bool apply_gates(struct trainer *t, struct hlm_err *err)
{
    if (!t->u->n_gate)
        return true;
    struct cmd *c = cmd_create(t->gpu, "gates", t->scratch, err);
    if (c)
        record_gates(c, t->u);
    bool ok = c && cmd_end(c, err) && cmd_submit(c, err) && gpu_wait(t->gpu, err);
    cmd_destroy(c);
    return ok;
}

static bool upload_gates(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u;
    for (uint64_t i = 0; i < u->n_gate; i++) {
        struct trained_gate *g = &u->gate[i];
        float *v = mem_alloc(g->n, sizeof *v);
        if (!v)
            return fail_memory(err, "out of memory: a gate of %u values", g->n);
        dtype_to_f32(g->base->t->type, g->base->t->data, g->n, v);
        bool ok = gpu_write(t->gpu, g->was, 0, v, 4ull * g->n, err);
        memset(v, 0, 4ull * g->n);
        if (t->set)
            lora_gate_delta(t->set, g->base->t, v);
        ok = ok && gpu_write(t->gpu, g->delta, 0, v, 4ull * g->n, err);
        free(v);
        if (!ok)
            return false;
        g->base->moved = true; /* the next lora_set_use writes it again */
    }
    return apply_gates(t, err);
}

bool updates_commit(struct trainer *t, struct hlm_err *err)
{
    struct updates *u = t->u;
    const char *hint = "a smaller rank or fewer targets need less";
    if (!model_commit(u->grads, hint, err) || !model_commit(u->gate_grads, hint, err) ||
        !model_commit(u->gates, hint, err) || !model_commit(u->optimizer, hint, err))
        return false;
    if (gpu_is_dry(t->gpu))
        return true;
    for (uint32_t i = 0; i < u->n_part; i++) {
        const struct adam_part *p = &u->part[i];
        uint64_t at = (uint64_t)(p->row - u->row);
        if (!gpu_write(t->gpu, p->rows, 0, p->row, (uint64_t)p->n_row * sizeof *p->row, err) ||
            !gpu_write(t->gpu, p->scale, 0, u->scale + at, 4ull * p->n_row, err))
            return false;
    }
    return upload_gates(t, err) && cmd_end(u->cmd, err) && (u->ended = true);
}

bool train_update(struct trainer *t, const struct adam_update *by, double *norm,
                  struct hlm_err *err)
{
    struct updates *u = t->u;
    struct adam_hyper h;
    float report[4];
    adam_hyper(by, &h);
    if (!gpu_write(t->gpu, u->adam.hyper, 0, &h, sizeof h, err) || !cmd_submit(u->cmd, err) ||
        !gpu_read(t->gpu, u->adam.norm, 0, report, sizeof report, err))
        return false;
    *norm = (double)report[0];
    return report[2] != 0 ||
           fail(err,
                "step %" PRIu64 ": the gradient is not finite; nothing was "
                "changed (a lower learning rate, or a smaller limit on its norm, may help)",
                by->step);
}

bool train_gate_deltas(struct trainer *t, float *most, uint32_t n, struct hlm_err *err)
{
    struct updates *u = t->u;
    uint32_t words = (uint32_t)(arena_bytes(u->gates) / 4);
    tensor all = { .arena = u->gates, .dtype = F32, .n = words, .n_row = 1, .stride = words };
    memset(most, 0, n * sizeof *most);
    if (!u->n_gate)
        return true;
    float *v = mem_alloc(words, sizeof *v);
    bool ok = v ? gpu_read(t->gpu, all, 0, v, 4ull * words, err)
                : fail_memory(err, "out of memory: %u deltas of gates", words);
    for (uint64_t i = 0; ok && i < u->n_gate; i++) {
        const struct trained_gate *g = &u->gate[i];
        const float *delta = v + g->delta.offset / 4;
        unsigned layer = 0;
        if (sscanf(g->name, "blk.%u.", &layer) != 1 || layer >= n)
            continue;
        for (uint32_t k = 0; k < g->n; k++)
            most[layer] = fmaxf(most[layer], fabsf(delta[k]));
    }
    free(v);
    return ok;
}

void updates_finish(struct trainer *t)
{
    struct updates *u = t->u;
    if (!u)
        return;
    cmd_destroy(u->cmd);
    arena_destroy(u->grads);
    arena_destroy(u->gate_grads);
    arena_destroy(u->gates);
    arena_destroy(u->optimizer);
    free(u->gate);
    free(u->first);
    free(u->at);
    free(u->moment);
    free(u->row);
    free(u->scale);
    free(u);
    t->u = NULL;
}

/* ---- reading and writing --------------------------------------------------------------------- */

/* Where the numbers of a param are. A number in the file is the device's, multiplied by `times` and
 * divided by `divided_by`. */
struct param_at {
    struct arena *arena;
    uint64_t base, n_row; /* base: in bytes, for moments */
    uint32_t n;
    float times, divided_by;
    bool moments;
};

static struct param_at find_param(const struct trainer *t, enum train_what what, uint64_t i)
{
    const struct updates *u = t->u;
    bool gate = i >= u->n_lora, grad = what == TRAIN_GRAD;
    struct lora_param p =
        gate ? (struct lora_param){ .n = u->gate[i - u->n_lora].n, .n_row = 1, .scale = 1 }
             : lora_param(t->set, i);
    struct param_at w = { .n = p.n, .n_row = p.n_row, .times = 1, .divided_by = 1 };
    if (what == TRAIN_M || what == TRAIN_V) {
        const struct adam_part *part = &u->part[gate ? u->n_part - 1 : 0];
        tensor of = what == TRAIN_M ? part->m : part->v;
        w.arena = of.arena;
        w.base = of.offset;
        w.moments = true;
        return w;
    }
    w.times = grad ? p.scale : 1;
    w.divided_by = what == TRAIN_VALUE ? p.scale : 1;
    w.arena = gate ? (grad ? u->gate_grads : u->gates) : grad ? u->grads : lora_arena(t->set);
    return w;
}

static uint64_t param_row_at(const struct trainer *t, const struct param_at *w, uint64_t i,
                             uint64_t row)
{
    const struct updates *u = t->u;
    if (w->moments)
        return w->base + 4ull * u->moment[u->first[i] + row];
    return i >= u->n_lora ? u->gate[i - u->n_lora].delta.offset : u->at[u->first[i] + row];
}

/* Copies the rows of a param to or from the host. A run of rows that lie within this many bytes is
 * one copy. */
enum { RUN_BYTES = 8 << 20 };

static bool copy_param(struct trainer *t, enum train_what what, uint64_t i, float *to,
                       const float *from, struct hlm_err *err)
{
    struct param_at w = find_param(t, what, i);
    uint8_t *buf = mem_grow(NULL, RUN_BYTES + 4ull * w.n, 1); /* not zeroed, unlike mem_alloc */
    bool ok = buf || fail_memory(err, "out of memory: a parameter of %" PRIu64 " rows", w.n_row);
    for (uint64_t r = 0, end; ok && r < w.n_row; r = end) {
        uint64_t lo = param_row_at(t, &w, i, r), hi = lo + 4ull * w.n;
        for (end = r + 1; end < w.n_row; end++) { /* the rows of a run ascend */
            uint64_t at = param_row_at(t, &w, i, end);
            if (at < hi || at + 4ull * w.n - lo > RUN_BYTES)
                break;
            hi = at + 4ull * w.n;
        }
        tensor span = { .arena = w.arena,
                        .offset = lo,
                        .dtype = F32,
                        .n = (uint32_t)((hi - lo) / 4),
                        .n_row = 1,
                        .stride = (uint32_t)((hi - lo) / 4) };
        bool dense = hi - lo == 4ull * w.n * (end - r);
        if (to || !dense)
            ok = gpu_read(t->gpu, span, 0, buf, hi - lo, err);
        for (uint64_t k = r; ok && k < end; k++) {
            float *on = (float *)(void *)(buf + (param_row_at(t, &w, i, k) - lo));
            for (uint32_t j = 0; to && j < w.n; j++)
                to[k * w.n + j] = on[j] * w.times / w.divided_by;
            for (uint32_t j = 0; from && j < w.n; j++)
                on[j] = from[k * w.n + j] * w.divided_by / w.times;
        }
        if (from)
            ok = ok && gpu_write(t->gpu, span, 0, buf, hi - lo, err);
    }
    free(buf);
    return ok;
}

static bool has_numbers(const struct trainer *t, enum train_what what, uint64_t i)
{
    bool trained = i >= t->u->n_lora ? t->p.train_gates : t->p.train_lora;
    return trained || what == TRAIN_VALUE || what == TRAIN_DEVICE;
}

bool train_get(struct trainer *t, enum train_what what, uint64_t i, float *to, struct hlm_err *err)
{
    if (has_numbers(t, what, i))
        return copy_param(t, what, i, to, NULL, err);
    memset(to, 0, train_param(t, i).n * sizeof *to);
    return true;
}

bool train_put(struct trainer *t, enum train_what what, uint64_t i, const float *from,
               struct hlm_err *err)
{
    if (!has_numbers(t, what, i))
        return true;
    bool value = what == TRAIN_VALUE || what == TRAIN_DEVICE;
    return copy_param(t, what, i, NULL, from, err) &&
           (!value || i < t->u->n_lora || apply_gates(t, err));
}
