/* kv: see kv.h. */
#include "model/kv.h"

#include <stdlib.h>

bool kv_init(struct kv *kv, struct gpu *g, const struct kv_params *p, struct hlm_err *err)
{
    *kv = (struct kv){
        .n_layer = p->n_layer, .n_ctx = p->n_ctx, .n_seq = p->n_seq, .n_slot = p->n_slot
    };
    kv->layer = mem_alloc(p->n_layer, sizeof *kv->layer);
    if (!kv->layer)
        return fail_memory(err, "out of memory: %u layers of cache", p->n_layer);
    kv->kv = arena_create(g, "kv", MEM_DEVICE, err);
    kv->state = arena_create(g, "state", MEM_DEVICE, err);
    if (!kv->kv || !kv->state)
        return false;
    for (uint32_t i = 0; i < p->n_layer; i++) {
        const struct layer_shape *s = &p->shape[i];
        const struct recurrent_shape *r = &s->recurrent;
        struct layer_cache *l = &kv->layer[i];
        if (s->n_kv_head) {
            /* A batch writes all its keys before its first token reads any. */
            uint64_t ring = min_u64(p->n_ctx, (uint64_t)s->window + p->n_batch);
            l->kv.n_row = s->window ? (uint32_t)ring : p->n_ctx;
            uint64_t n_row = (uint64_t)p->n_seq * s->n_kv_head * l->kv.n_row;
            struct arena *at = s->window ? kv->state : kv->kv;
            if (n_row > UINT32_MAX)
                return fail_as(err, HLM_ERR_WONT_FIT,
                               "%u sequences of %u positions: layer %u would have %llu keys, "
                               "expected at most %u",
                               p->n_seq, p->n_ctx, i, (unsigned long long)n_row, UINT32_MAX);
            l->kv.k = arena_tensor(at, p->type, s->head_dim, (uint32_t)n_row);
            l->kv.v = arena_tensor(at, p->type, s->head_dim, (uint32_t)n_row);
        }
        if (r->n_head) {
            uint32_t n = p->n_slot;
            l->recurrent.state = arena_tensor(kv->state, F32, r->n, n * r->n_head * r->n_row);
            l->recurrent.window = arena_tensor(kv->state, F32, r->d_conv, n * (r->conv_k - 1));
        }
    }
    return true;
}

/* One of n equal parts of t. */
static struct kv_part part_of(tensor t, uint32_t i, uint32_t n)
{
    uint64_t bytes = tensor_bytes(t) / n;
    return (struct kv_part){ .t = t, .offset = i * bytes, .bytes = bytes };
}

bool kv_next_part(const struct kv *kv, uint32_t seq, uint32_t slot, uint32_t *at,
                  struct kv_part *part)
{
    for (; *at < 4 * kv->n_layer; ++*at) {
        const struct layer_cache *l = &kv->layer[*at / 4];
        const tensor all[] = { l->kv.k, l->kv.v, l->recurrent.state, l->recurrent.window };
        tensor t = all[*at % 4];
        bool ring = *at % 4 < 2;
        if (t.arena != kv->state)
            continue;
        *part = part_of(t, ring ? seq : slot, ring ? kv->n_seq : kv->n_slot);
        part->ring = ring;
        part->layer = (*at)++ / 4;
        return true;
    }
    return false;
}

uint64_t kv_part_bytes(const struct kv *kv)
{
    struct kv_part part;
    uint64_t n = 0;
    for (uint32_t at = 0; kv_next_part(kv, 0, 0, &at, &part);)
        n += part.bytes;
    return n;
}

void kv_finish(struct kv *kv)
{
    arena_destroy(kv->kv);
    arena_destroy(kv->state);
    free(kv->layer);
    *kv = (struct kv){ 0 };
}
