/* ops_moe: see ops_moe.h. */
#include "ops_moe.h"

#include <stdio.h>
#include <string.h>

/* The router, with equal rows where there are ties, followed by the shared expert's gate. */
static struct weight router_make(struct rig *r, const struct moe_row *c)
{
    uint64_t n = (uint64_t)c->n_expert * c->n_embd;
    float *rows = rig_normal(r, n, 1);
    for (uint32_t e = 0; c->tie && e < c->n_expert; e++)
        memcpy(rows + (uint64_t)e * c->n_embd, rows + (uint64_t)(e % c->tie) * c->n_embd,
               4ull * c->n_embd);
    for (uint64_t i = 0; i < n; i++)
        rows[i] *= 0.2f;
    return rig_blocks(r, F32, c->n_embd, c->n_expert, 1, rows, false);
}

/* Rows [first, first + n) of every expert, one after the other, as numbers. */
static const float *expert_rows(struct rig *r, const struct weight *w, const float *of,
                                uint32_t first, uint32_t n)
{
    uint64_t all = (uint64_t)w->w.n_out * w->w.n_in, part = (uint64_t)n * w->w.n_in;
    float *v = rig_alloc(r, part * w->w.n_expert, sizeof *v);
    for (uint32_t e = 0; e < w->w.n_expert; e++)
        memcpy(v + e * part, of + e * all + (uint64_t)first * w->w.n_in, part * sizeof *v);
    return v;
}

struct moe_pair moe_make(struct rig *r, const struct moe_row *c, bool merged)
{
    bool has_gate = c->act.kind == ACT_SWIGLU, has_shared = c->n_ff_shared != 0;
    bool joint = has_gate && c->gate == c->up;
    uint32_t n_in = c->n_latent ? c->n_latent : c->n_embd, n_sh = has_shared ? c->n_ff_shared : 4;
    struct weight router = router_make(r, c);
    struct weight sh_router = rig_weight(r, c->shared, c->n_embd, 1, 1, 1, c->shared == F32);
    struct weight gate =
        rig_weight(r, c->gate, n_in, joint ? 2 * c->n_ff : c->n_ff, c->n_expert, 2, false);
    struct weight up = joint ? gate : rig_weight(r, c->up, n_in, c->n_ff, c->n_expert, 2, false);
    struct weight down = rig_weight(r, c->down, c->n_ff, n_in, c->n_expert, 2, false);
    struct weight sh_gate = rig_weight(r, c->shared, c->n_embd, n_sh, 1, 2, false);
    struct weight sh_up = rig_weight(r, c->shared, c->n_embd, n_sh, 1, 1, true);
    struct weight sh_down =
        rig_weight(r, has_shared ? c->shared : F32, n_sh, c->n_embd, 1, 1, false);
    struct weight latent[2] = { 0 };
    if (c->n_latent) {
        latent[0] = rig_weight(r, F32, c->n_embd, c->n_latent, 1, 1, false);
        latent[1] = rig_weight(r, F32, c->n_latent, c->n_embd, 1, 1, false);
    }
    if (c->rank) {
        struct weight *all[] = { &gate, &down, &router, &sh_gate, &sh_down };
        for (uint32_t i = 0; i < (merged ? ARRAY_LEN(all) : 2); i++)
            *all[i] = rig_lora(r, *all[i], c->rank, NULL);
        up = joint ? gate : rig_lora(r, up, c->rank, NULL);
    }
    float *bias_v = rig_normal(r, c->n_expert, 0.2);
    bias_v[0] += c->pull;
    bias_v[c->n_expert - 1] -= c->pull;
    const float *gate_v = gate.v, *up_v = up.v, *down_v = down.v;
    if (c->rank && !merged)
        gate_v = gate.base, up_v = up.base, down_v = down.base;
    struct moe_pair pair = {
        .gate = gate,
        .up = up,
        .down = down,
        .m = { .n_expert = c->n_expert,
               .n_used = c->n_used,
               .n_ff = c->n_ff,
               .route = c->sigmoid ? ROUTE_SIGMOID : ROUTE_SOFTMAX,
               .bias = rig_dense(r, bias_v, c->n_expert, 1),
               .n_group = c->n_group,
               .n_group_used = c->n_group_used,
               .renorm = !c->raw,
               .scale = 2.5f,
               .act = c->act,
               .sh_act = { c->act.kind, 2 * c->act.limit },
               .latent_down = latent[0].w,
               .latent_up = latent[1].w,
               .router = router.w,
               .down = down.w },
        .ref = { .n_embd = c->n_embd,
                 .n_expert = c->n_expert,
                 .n_used = c->n_used,
                 .n_ff = c->n_ff,
                 .n_ff_shared = c->n_ff_shared,
                 .router = router.v,
                 .gate = has_gate ? expert_rows(r, &gate, gate_v, 0, c->n_ff) : NULL,
                 .up = expert_rows(r, &up, up_v, joint ? c->n_ff : 0, c->n_ff),
                 .down = down_v,
                 .limit = (double)c->act.limit,
                 .shared_limit = 2 * (double)c->act.limit,
                 .n_latent = c->n_latent,
                 .latent_down = latent[0].v,
                 .latent_up = latent[1].v,
                 .sigmoid = c->sigmoid,
                 .router_bias = bias_v,
                 .n_group = c->n_group,
                 .n_group_used = c->n_group_used,
                 .norm = !c->raw,
                 .scale = 2.5 },
    };
    struct moe *m = &pair.m;
    if (joint)
        m->gate_up = gate.w;
    else
        m->gate = has_gate ? gate.w : m->gate, m->up = up.w;
    if (!has_shared)
        return pair;
    m->sh_up = sh_up.w, m->sh_down = sh_down.w;
    pair.ref.shared_up = sh_up.v, pair.ref.shared_down = sh_down.v;
    if (has_gate)
        m->sh_gate = sh_gate.w, pair.ref.shared_gate = sh_gate.v;
    if (!c->sigmoid)
        m->shared_gate = sh_router.w, pair.ref.shared_router = sh_router.v;
    return pair;
}

const char *moe_text(const struct moe_row *c, char text[200])
{
    snprintf(text, 200,
             "%u of %u, %u x %u, shared %u, %s %s %s, tie %u, %u tokens%s%s%s, %u of "
             "%u groups, latent %u, limit %g, rank %u",
             c->n_used, c->n_expert, c->n_embd, c->n_ff, c->n_ff_shared, dtype_info(c->gate)->name,
             dtype_info(c->up)->name, dtype_info(c->down)->name, c->tie, c->n_tok,
             c->sigmoid ? ", sigmoid" : "", c->raw ? ", raw" : "",
             c->act.kind == ACT_SWIGLU ? "" : ", relu2", c->n_group_used, c->n_group, c->n_latent,
             (double)c->act.limit, c->rank);
    return text;
}
