/* kv_stats: see kv_stats.h. */
#include "model/kv_stats.h"

#include <stdlib.h>

/* Words behind what there is, where a binding may begin. */
static uint32_t take(uint64_t *n_word, uint32_t n, uint32_t align)
{
    uint64_t at = align_up(*n_word, align / 4);
    *n_word = at + n;
    return (uint32_t)at;
}

static tensor part(const struct kv_stats *s, enum dtype dtype, uint32_t at, uint32_t n,
                   uint32_t n_row)
{
    return (tensor){ .arena = s->all.arena,
                     .offset = s->all.offset + 4ull * at,
                     .dtype = dtype,
                     .n = n,
                     .n_row = n_row,
                     .stride = n };
}

bool kv_stats_init(struct kv_stats *s, struct gpu *g, struct arena *a, uint32_t n_layer,
                   const struct layer_shape *shape, struct layer_cache *layer, struct hlm_err *err)
{
    uint32_t align = max_u32(gpu_caps(g)->align, 16);
    uint64_t n = 0;
    *s = (struct kv_stats){ .gpu = g, .n_layer = n_layer };
    s->place = mem_alloc(n_layer, sizeof *s->place);
    if (!s->place)
        return fail_memory(err, "out of memory: statistics of %u layers", n_layer);
    for (uint32_t i = 0; i < n_layer; i++) {
        struct stats_place *p = &s->place[i];
        p->n_expert = shape[i].n_expert;
        p->n_head = shape[i].recurrent.n_head;
        p->load = take(&n, p->n_expert, align);
        p->gates = take(&n, p->n_head * GATE_STATS, align);
        p->state = take(&n, p->n_head * STATE_STATS, align);
        s->has_gates |= p->n_head > 0;
    }
    if (!n)
        return true;
    s->all = arena_tensor(a, I32, (uint32_t)n, 1);
    s->now = mem_alloc(n, sizeof *s->now);
    s->was = mem_alloc(n, sizeof *s->was);
    if (!s->now || !s->was)
        return fail_memory(err, "out of memory: statistics of %u layers", n_layer);
    for (uint32_t i = 0; i < n_layer; i++) {
        const struct stats_place *p = &s->place[i];
        if (p->n_expert)
            layer[i].moe.load = part(s, I32, p->load, p->n_expert, 1);
        if (p->n_head)
            layer[i].recurrent.stats =
                (struct gate_stats){ part(s, F32, p->gates, GATE_STATS, p->n_head),
                                     part(s, F32, p->state, STATE_STATS, p->n_head) };
    }
    return true;
}

bool kv_stats_states(struct kv_stats *s, const struct layer_shape *shape,
                     const struct layer_cache *layer, struct arena *scratch, struct hlm_err *err)
{
    if (!s->has_gates)
        return true;
    s->states = cmd_create(s->gpu, "statistics of states", scratch, err);
    for (uint32_t i = 0; s->states && i < s->n_layer; i++) {
        const struct recurrent_shape *r = &shape[i].recurrent;
        struct state_stats stats = {
            .states = layer[i].recurrent.state,
            .n = r->n_row * r->n,
            .n_head = r->n_head,
            .to = layer[i].recurrent.stats.state,
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

void kv_stats_finish(struct kv_stats *s)
{
    cmd_destroy(s->states);
    free(s->place);
    free(s->now);
    free(s->was);
    *s = (struct kv_stats){ 0 };
}
