/* kv: see kv.h. */
#include "model/kv.h"

#include <stdlib.h>

bool kv_init(struct kv *kv, struct gpu *g, const struct kv_params *p, struct hlm_err *err)
{
    *kv = (struct kv){ .n_layer = p->n_layer, .n_ctx = p->n_ctx };
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
            uint32_t n_row = s->n_kv_head * (s->window ? (uint32_t)ring : p->n_ctx);
            struct arena *at = s->window ? kv->state : kv->kv;
            l->kv.k = arena_tensor(at, p->type, s->head_dim, n_row);
            l->kv.v = arena_tensor(at, p->type, s->head_dim, n_row);
        }
        if (r->n_head) {
            l->recurrent.state = arena_tensor(kv->state, F32, r->n, r->n_head * r->n_row);
            l->recurrent.window = arena_tensor(kv->state, F32, r->d_conv, 2 * (r->conv_k - 1));
        }
    }
    return true;
}

void kv_finish(struct kv *kv)
{
    arena_destroy(kv->kv);
    arena_destroy(kv->state);
    free(kv->layer);
    *kv = (struct kv){ 0 };
}
