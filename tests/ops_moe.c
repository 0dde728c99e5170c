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

/* The matrices of a mixture; joint: gate and up are one. */
struct moe_weights {
    struct weight router, gate, up, down, sh_router, sh_gate, sh_up, sh_down, latent[2];
    float *bias;
    bool has_gate, has_shared, joint;
};

static struct moe_weights moe_weights(struct rig *r, const struct moe_row *c, bool merged)
{
    struct moe_weights w = { .has_gate = c->act.kind == ACT_SWIGLU,
                             .has_shared = c->n_ff_shared != 0 };
    uint32_t n_in = c->n_latent ? c->n_latent : c->n_embd, n_sh = w.has_shared ? c->n_ff_shared : 4;
    w.joint = w.has_gate && c->gate == c->up;
    w.router = router_make(r, c);
    w.sh_router = rig_weight(r, c->shared, c->n_embd, 1, 1, 1, c->shared == F32);
    w.gate = rig_weight(r, c->gate, n_in, w.joint ? 2 * c->n_ff : c->n_ff, c->n_expert, 2, false);
    w.up = w.joint ? w.gate : rig_weight(r, c->up, n_in, c->n_ff, c->n_expert, 2, false);
    w.down = rig_weight(r, c->down, c->n_ff, n_in, c->n_expert, 2, false);
    w.sh_gate = rig_weight(r, c->shared, c->n_embd, n_sh, 1, 2, false);
    w.sh_up = rig_weight(r, c->shared, c->n_embd, n_sh, 1, 1, true);
    w.sh_down = rig_weight(r, w.has_shared ? c->shared : F32, n_sh, c->n_embd, 1, 1, false);
    if (c->n_latent) {
        w.latent[0] = rig_weight(r, F32, c->n_embd, c->n_latent, 1, 1, false);
        w.latent[1] = rig_weight(r, F32, c->n_latent, c->n_embd, 1, 1, false);
    }
    if (c->rank) {
        struct weight *all[] = { &w.gate, &w.down, &w.router, &w.sh_gate, &w.sh_down };
        for (uint32_t i = 0; i < (merged ? ARRAY_LEN(all) : 2); i++)
            *all[i] = rig_lora(r, *all[i], c->rank, NULL);
        w.up = w.joint ? w.gate : rig_lora(r, w.up, c->rank, NULL);
    }
    w.bias = rig_normal(r, c->n_expert, 0.2);
    w.bias[0] += c->pull;
    w.bias[c->n_expert - 1] -= c->pull;
    return w;
}

static struct moe moe_device(struct rig *r, const struct moe_row *c, const struct moe_weights *w)
{
    struct moe m = { .n_expert = c->n_expert,
                     .n_used = c->n_used,
                     .n_ff = c->n_ff,
                     .route = c->sigmoid ? ROUTE_SIGMOID : ROUTE_SOFTMAX,
                     .bias = rig_dense(r, w->bias, c->n_expert, 1),
                     .n_group = c->n_group,
                     .n_group_used = c->n_group_used,
                     .renorm = !c->raw,
                     .scale = 2.5f,
                     .act = c->act,
                     .sh_act = { c->act.kind, 2 * c->act.limit },
                     .latent_down = w->latent[0].w,
                     .latent_up = w->latent[1].w,
                     .router = w->router.w,
                     .down = w->down.w };
    if (w->joint)
        m.gate_up = w->gate.w;
    else
        m.gate = w->has_gate ? w->gate.w : m.gate, m.up = w->up.w;
    if (!w->has_shared)
        return m;
    m.sh_up = w->sh_up.w, m.sh_down = w->sh_down.w;
    if (w->has_gate)
        m.sh_gate = w->sh_gate.w;
    if (!c->sigmoid)
        m.shared_gate = w->sh_router.w;
    return m;
}

struct moe_pair moe_make(struct rig *r, const struct moe_row *c, bool merged)
{
    struct moe_weights w = moe_weights(r, c, merged);
    bool base = c->rank && !merged;
    struct moe_pair pair = {
        .gate = w.gate,
        .up = w.up,
        .down = w.down,
        .m = moe_device(r, c, &w),
        .ref = { .n_embd = c->n_embd,
                 .n_expert = c->n_expert,
                 .n_used = c->n_used,
                 .n_ff = c->n_ff,
                 .n_ff_shared = c->n_ff_shared,
                 .router = w.router.v,
                 .down = base ? w.down.base : w.down.v,
                 .limit = (double)c->act.limit,
                 .shared_limit = 2 * (double)c->act.limit,
                 .n_latent = c->n_latent,
                 .latent_down = w.latent[0].v,
                 .latent_up = w.latent[1].v,
                 .sigmoid = c->sigmoid,
                 .router_bias = w.bias,
                 .n_group = c->n_group,
                 .n_group_used = c->n_group_used,
                 .norm = !c->raw,
                 .scale = 2.5 },
    };
    const float *gate = base ? w.gate.base : w.gate.v, *up = base ? w.up.base : w.up.v;
    if (w.has_gate)
        pair.ref.gate = expert_rows(r, &w.gate, gate, 0, c->n_ff);
    pair.ref.up = expert_rows(r, &w.up, up, w.joint ? c->n_ff : 0, c->n_ff);
    if (!w.has_shared)
        return pair;
    pair.ref.shared_up = w.sh_up.v, pair.ref.shared_down = w.sh_down.v;
    if (w.has_gate)
        pair.ref.shared_gate = w.sh_gate.v;
    if (!c->sigmoid)
        pair.ref.shared_router = w.sh_router.v;
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
