/* kv_stats: see kv_stats.h. */
#include "model/kv_stats.h"

#include <stdlib.h>

/* Takes n words at the end, beginning where a binding may begin. */
static uint32_t take_words(uint64_t *n_word, uint32_t n, uint32_t align)
{
    uint64_t at = align_up(*n_word, align / 4);
    *n_word = at + n;
    return (uint32_t)at;
}

static tensor stats_view(const struct kv_stats *s, enum dtype dtype, uint32_t at, uint32_t n,
                         uint32_t n_row)
{
    return (tensor){ .arena = s->all.arena,
                     .offset = s->all.offset + 4ull * at,
                     .dtype = dtype,
                     .n = n,
                     .n_row = n_row,
                     .stride = n };
}

bool kv_stats_init(struct kv_stats *s, struct gpu *g, struct arena *a, const struct kv_layers *l,
                   struct hlm_err *err)
{
    uint32_t align = max_u32(gpu_caps(g)->align, 16);
    uint64_t n = 0;
    *s = (struct kv_stats){ .gpu = g, .n_layer = l->n };
    s->place = mem_alloc(l->n, sizeof *s->place);
    if (!s->place)
        return fail_memory(err, "out of memory: statistics of %u layers", l->n);
    for (uint32_t i = 0; i < l->n; i++) {
        struct stats_place *p = &s->place[i];
        p->n_expert = l->shape[i].n_expert;
        p->n_head = l->shape[i].recurrent.n_head;
        p->load = take_words(&n, p->n_expert, align);
        p->gates = take_words(&n, p->n_head * GATE_STATS, align);
        p->state = take_words(&n, p->n_head * STATE_STATS, align);
        s->has_gates |= p->n_head > 0;
    }
    if (!n)
        return true;
    s->all = arena_tensor(a, I32, (uint32_t)n, 1);
    s->now = mem_alloc(n, sizeof *s->now);
    s->was = mem_alloc(n, sizeof *s->was);
    if (!s->now || !s->was)
        return fail_memory(err, "out of memory: statistics of %u layers", l->n);
    for (uint32_t i = 0; i < l->n; i++) {
        const struct stats_place *p = &s->place[i];
        if (p->n_expert)
            l->cache[i].moe.load = stats_view(s, I32, p->load, p->n_expert, 1);
        if (p->n_head)
            l->cache[i].recurrent.stats =
                (struct gate_stats){ stats_view(s, F32, p->gates, GATE_STATS, p->n_head),
                                     stats_view(s, F32, p->state, STATE_STATS, p->n_head) };
    }
    return true;
}

bool kv_stats_states(struct kv_stats *s, const struct kv_layers *l, tensor step,
                     struct arena *scratch, struct hlm_err *err)
{
    if (!s->has_gates)
        return true;
    s->states = cmd_create(s->gpu, "statistics of states", scratch, err);
    for (uint32_t i = 0; s->states && i < s->n_layer; i++) {
        const struct recurrent_shape *r = &l->shape[i].recurrent;
        struct state_stats stats = {
            .states = l->cache[i].recurrent.state,
            .step = step,
            .n = r->n_row * r->n,
            .n_head = r->n_head,
            .to = l->cache[i].recurrent.stats.state,
        };
        if (r->n_head)
            op_state_stats(s->states, &stats);
    }
    return s->states && cmd_check(s->states, err);
}

bool kv_stats_read(struct kv_stats *s, struct hlm_err *err)
{
    uint32_t *was = s->was;
    if (!s->all.arena)
        return true;
    if (s->states && !cmd_submit(s->states, err))
        return false;
    if (!gpu_read(s->gpu, s->all, 0, was, tensor_bytes(s->all), err))
        return false;
    s->was = s->now;
    s->now = was;
    return true;
}

bool kv_stats_open(struct kv_stats *s, struct gpu *g, const struct kv_layers *l, tensor step,
                   struct arena *scratch, struct hlm_err *err)
{
    struct arena *own = arena_create(g, "statistics", MEM_DEVICE, err);
    bool ok = own && kv_stats_init(s, g, own, l, err);
    s->own = own;
    ok = ok && (!s->all.arena || arena_commit(own, err)) &&
         (!scratch || kv_stats_states(s, l, step, scratch, err)) &&
         (!s->states || cmd_end(s->states, err));
    if (!ok)
        kv_stats_close(s, l);
    return ok;
}

void kv_stats_close(struct kv_stats *s, const struct kv_layers *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        l->cache[i].moe.load = (tensor){ 0 };
        l->cache[i].recurrent.stats = (struct gate_stats){ { 0 }, { 0 } };
    }
    kv_stats_finish(s);
}

void kv_stats_finish(struct kv_stats *s)
{
    cmd_destroy(s->states);
    arena_destroy(s->own);
    free(s->place);
    free(s->now);
    free(s->was);
    *s = (struct kv_stats){ 0 };
}
