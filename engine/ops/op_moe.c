/* op_moe: the feed-forward network of a layer as a mixture of experts: a router, the weighted sum
 * of the chosen experts, and a shared expert with or without a gate. With a latent width the routed
 * experts work between two more matrices (Nemotron 3 Super); the shared expert reads all of x.
 *
 * There are two ways to multiply. When there are few tokens, each reads the rows of its experts.
 * Many tokens are sorted by expert on the device, so that the rows of an expert are read once per
 * tile of tokens. Only the second way has a backward, so training uses it.
 *
 * The tape gets one record for the router's choice, and one each for the routed experts before and
 * after their activation. Norm, router, activation, shared expert and latent matrices are separate
 * ops, which push their own records. */
#include "ops/op_linear_parts.h"

/* [n_tok][n_used]: the experts of each token and their weights. */
struct chosen {
    tensor id, wt;
};

/* Products of every token with each of the experts that it chose: y[t][slot] = W x[t][slot]. */
struct expert_args {
    const linear *w;
    struct chosen ch;
    tensor x; /* a row for each token */
    uint32_t
        x_slot; /* from one slot's part of x's row to the next; 0: all slots read the whole row */
    uint32_t n_used; /* slots */
    uint32_t out;    /* OUT_SLOTS: stored; OUT_SLOTS_ADD: added to y; OUT_SUM: weighted and summed
                        over the slots; OUT_SUM_ADD: this sum, added to res; OUT_ACT: the
                        activation is stored, whose width y has */
    struct act act;  /* for OUT_ACT */
    tensor y;
    uint32_t y_slot; /* from one slot's part of y to the next; 0 for sums */
    tensor res;      /* for OUT_SUM_ADD */
};

static void expert_product(struct cmd *c, const struct expert_args *a)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    const linear *w = a->w;
    uint32_t rows = caps->kind == GPU_CPU ? 4 : 2, wg = wg_size(caps, 64), n_tok = a->x.n_row;
    bool sum = a->out == OUT_SUM || a->out == OUT_SUM_ADD;
    for (struct slab s = slabs_of_experts(c, w); slab_next(&s);) {
        struct push_expert p = {
            .n_in = w->n_in,
            .n_out = w->n_out,
            .n_used = a->n_used,
            .id_stride = a->ch.id.stride,
            .expert0 = s.first,
            .n_expert = s.n,
            .row_q = w->row_q,
            .x_stride = a->x.stride,
            .x_slot = a->x_slot,
            .y_stride = sum ? a->y.stride : a->y_slot * a->n_used,
            .y_slot = a->y_slot,
            .y_col = a->y.col,
            .limit = a->act.limit,
        };
        /* Sums of later slabs are added to those of the earlier ones. */
        uint32_t how = sum && s.first ? OUT_SUM_ADD : a->out;
        tensor from = how != OUT_SUM_ADD ? a->x : s.first ? a->y : a->res;
        cmd_work(c, 2.0 * w->n_in * w->n_out * a->n_used * n_tok * s.n / w->n_expert);
        cmd_dispatch(
            c, K_moe_linear, GRID(div_up(w->n_out, rows), sum ? 1 : a->n_used, n_tok),
            SPEC(.wg = wg, .w_type = w->dtype, .out = how, .act = a->act.kind, .rows = rows),
            PUSH(p),
            USES(READ(s.rows), READ(a->x), BOTH(a->y), READ(a->ch.id), READ(a->ch.wt), READ(from),
                 READ(linear_codebook(w))));
    }
}

/* The same, with the adapters of the experts. */
static void expert_linear(struct cmd *c, const struct expert_args *a)
{
    const struct lora *l = a->w->lora;
    expert_product(c, a);
    if (!l)
        return;
    tensor t = cmd_scratch(c, F32, l->a.n_out, a->x.n_row * a->n_used), t_tok = t;
    t_tok.n = t_tok.stride = t.stride * a->n_used;
    t_tok.n_row = a->x.n_row;
    struct expert_args down = *a, up = *a;
    down.w = &l->a;
    down.out = OUT_SLOTS;
    down.y = t;
    down.y_slot = t.stride;
    up.w = &l->b;
    up.x = t_tok;
    up.x_slot = t.stride;
    up.out = a->out == OUT_SLOTS ? OUT_SLOTS_ADD : OUT_SUM_ADD;
    up.res = a->y;
    expert_product(c, &down);
    expert_product(c, &up);
}

/* A lane of moe_sort walks over a chunk of entries for one expert, so a workgroup has a lane for
 * each of up to 512 experts. A chunk is long compared with the work that every workgroup repeats.
 */
enum { SORT_CHUNK = 1024 };
static uint32_t sort_wg(const struct gpu_caps *caps) { return min_u32(512, caps->max_invocations); }

/* The activation between the matrices of the routed experts, a row for each slot of each row of
 * a->x. One dispatch makes it where one matrix has all that it needs, without adapters. */
static tensor moe_hidden(struct cmd *c, const struct moe *m, struct expert_args *a)
{
    uint32_t width = act_width(m->act), n_row = a->x.n_row * m->n_used;
    const linear *all = m->gate_up.n_in ? &m->gate_up : &m->up;
    bool joint = m->gate_up.n_in || width == 1;
    if (joint && !all->lora) {
        a->w = all;
        a->y = cmd_scratch(c, F32, m->n_ff, n_row);
        a->y_slot = a->y.stride;
        a->out = OUT_ACT;
        a->act = m->act;
        expert_product(c, a);
        return a->y;
    }
    tensor in = cmd_scratch(c, F32, width * m->n_ff, n_row);
    a->y_slot = in.stride;
    a->out = OUT_SLOTS;
    const linear *const w[] = { joint ? all : &m->gate, &m->up };
    for (uint32_t i = 0, col = 0; i < (joint ? 1 : 2); col += w[i++]->n_out) {
        a->w = w[i];
        a->y = tensor_cols(in, col, w[i]->n_out);
        expert_linear(c, a);
    }
    return op_act(c, in, m->act);
}

/* The sum of the routed experts for rows h, plus res if it is not NULL: [n_tok][width of down]. */
static tensor moe_plain(struct cmd *c, const struct moe *m, tensor h, struct chosen ch,
                        const tensor *res)
{
    struct expert_args a = { .ch = ch, .x = h, .n_used = m->n_used };
    tensor act = moe_hidden(c, m, &a), out = cmd_scratch(c, F32, m->down.n_out, h.n_row);
    a.w = &m->down;
    a.x = act; /* a row for each token, with its slots side by side */
    a.x.n = a.x.stride = act.stride * m->n_used;
    a.x.n_row = h.n_row;
    a.x_slot = act.stride;
    a.out = res ? OUT_SUM_ADD : OUT_SUM;
    a.y = out;
    a.y_slot = 0;
    a.res = res ? *res : h;
    expert_linear(c, &a);
    return out;
}

/* The entries of a batch by expert. */
static struct grouping moe_group(struct cmd *c, const struct moe *m, tensor id)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    uint32_t n = id.n_row * m->n_used, n_row = n / m->n_expert;
    uint32_t tile = linear_group_tile(caps, n_row);
    struct grouping g = {
        .n_used = m->n_used,
        .n_row = n_row,
        .max_tile = n / tile + min_u32(n, m->n_expert),
        .tile = tile,
    };
    g.entries = cmd_scratch(c, I32, n, 1);
    /* Room for the smallest tiles, so that a shorter batch never needs more than a longer one. */
    g.tiles = cmd_scratch(c, I32, 1 + 3 * (n / 4 + min_u32(n, m->n_expert)), 1);
    struct push_moe_sort sort = { .n_expert = m->n_expert,
                                  .n_used = m->n_used,
                                  .n_tok = id.n_row,
                                  .id_stride = id.stride,
                                  .tile = tile,
                                  .chunk = SORT_CHUNK };
    cmd_dispatch(c, K_moe_sort, GRID(div_up(n, SORT_CHUNK), 1, 1), SPEC(.wg = sort_wg(caps)),
                 PUSH(sort), USES(READ(id), WRITE(g.entries), WRITE(g.tiles)));
    return g;
}

/* ---- grouped, in parts, each with its record ------------------------------------------------- */

/* The tensors of the routed experts for one batch, with its n_tok * n_used entries. */
struct routed {
    tensor h;           /* [n_tok] */
    tensor in, a, each; /* [entries]: before the activation, after it, the outputs */
    struct chosen ch;
    tensor out, res; /* [n_tok]: the weighted sum of `each`, with res added if there is one */
    struct grouping g;
};

/* Both records of the routed experts. */
struct experts_rec {
    const struct moe *m;
    struct routed r;
};

/* y[t] = the sum of the n_used rows of x from row t * n_used on, weighted by wt unless that is
 * NULL, plus res unless that is NULL. */
static void sum_slots(struct cmd *c, uint32_t n_used, tensor x, const tensor *wt, tensor y,
                      const tensor *res)
{
    tensor from = res ? *res : x, by = wt ? *wt : x;
    struct push_moe_sum p = {
        .n = y.n,
        .n_tok = y.n_row,
        .n_used = n_used,
        .wt_stride = by.stride,
        .x_stride = x.stride,
        .res_stride = from.stride,
        .y_stride = y.stride,
    };
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    cmd_work(c, 2.0 * x.n_row * x.n);
    cmd_dispatch(c, K_moe_sum, row_grid(y.n / 4, y.n_row, wg),
                 SPEC(.wg = wg, .add = res != NULL, .even = wt == NULL), PUSH(p),
                 USES(READ(x), READ(by), READ(from), WRITE(y)));
}

/* The products that read a row of h per token, and those that read a row of a per entry. */
static struct grouped_args by_token(const linear *w, const struct routed *r)
{
    return (struct grouped_args){ .w = w, .x = r->h, .g = &r->g };
}

static struct grouped_args by_entry(const linear *w, const struct routed *r)
{
    return (struct grouped_args){ .w = w, .x = r->a, .by_entry = true, .g = &r->g };
}

/* The products before the activation, from h to in. */
static void experts_in(struct cmd *c, const struct moe *m, const struct routed *r)
{
    uint32_t first = (act_width(m->act) - 1) * m->n_ff;
    tensor up = tensor_cols(r->in, first, m->n_ff);
    if (m->gate_up.n_in) {
        linear_grouped(c, by_token(&m->gate_up, r), r->in);
        return;
    }
    if (first)
        linear_grouped(c, by_token(&m->gate, r), tensor_cols(r->in, 0, m->n_ff));
    linear_grouped(c, by_token(&m->up, r), up);
}

/* Runs after experts_out_bwd, when `each` is no longer needed and can take the gradient of h for
 * each entry. */
static void experts_in_bwd(struct cmd *c, const void *rec)
{
    const struct moe *m = ((const struct experts_rec *)rec)->m;
    struct routed r = ((const struct experts_rec *)rec)->r;
    uint32_t first = (act_width(m->act) - 1) * m->n_ff;
    tensor din = grad(c, r.in), dh = grad(c, r.h), up = tensor_cols(din, first, m->n_ff);
    cmd_fill(c, r.each, tensor_bytes(r.each), 0);
    if (m->gate_up.n_in) {
        linear_grouped_bwd(c, by_token(&m->gate_up, &r), din, r.each);
    } else {
        linear_grouped_bwd(c, by_token(&m->up, &r), up, r.each);
        if (first)
            linear_grouped_bwd(c, by_token(&m->gate, &r), tensor_cols(din, 0, m->n_ff), r.each);
    }
    sum_slots(c, m->n_used, r.each, NULL, dh, &dh);
}

/* The products after the activation, from a to `each`, and their weighted sum in out. */
static void experts_out(struct cmd *c, const struct moe *m, const struct routed *r)
{
    linear_grouped(c, by_entry(&m->down, r), r->each);
    sum_slots(c, m->n_used, r->each, &r->ch.wt, r->out, r->res.arena ? &r->res : NULL);
}

static void experts_out_bwd(struct cmd *c, const void *rec)
{
    const struct moe *m = ((const struct experts_rec *)rec)->m;
    struct routed r = ((const struct experts_rec *)rec)->r;
    tensor dout = grad(c, r.out), dwt = grad(c, r.ch.wt), dres = grad(c, r.res);
    bool add = dres.arena;
    if (!add)
        dres = dwt;
    struct push_moe_sum p = {
        .n = dout.n,
        .n_tok = dout.n_row,
        .n_used = m->n_used,
        .wt_stride = r.ch.wt.stride,
        .x_stride = r.each.stride,
        .res_stride = dres.stride,
        .y_stride = dout.stride,
        .dwt_stride = dwt.stride,
    };
    cmd_work(c, 4.0 * r.each.n_row * r.each.n);
    cmd_dispatch(c, K_moe_sum_bwd, GRID(dout.n_row, m->n_used, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 128), .add = add), PUSH(p),
                 USES(BOTH(r.each), READ(r.ch.wt), READ(dout), BOTH(dwt), BOTH(dres)));
    linear_grouped_bwd(c, by_entry(&m->down, &r), r.each, grad(c, r.a));
}

static tensor moe_grouped(struct cmd *c, const struct moe *m, tensor h, struct chosen ch,
                          const tensor *res)
{
    uint32_t n = h.n_row * m->n_used;
    struct routed r = { .h = h, .ch = ch, .g = moe_group(c, m, ch.id) };
    r.in = cmd_scratch(c, F32, act_width(m->act) * m->n_ff, n);
    r.each = cmd_scratch(c, F32, m->down.n_out, n);
    r.out = cmd_scratch(c, F32, m->down.n_out, h.n_row);
    if (res)
        r.res = *res;
    experts_in(c, m, &r);
    tape_push(c, experts_in_bwd, &(struct experts_rec){ m, r }, sizeof(struct experts_rec));
    r.a = op_act(c, r.in, m->act);
    experts_out(c, m, &r);
    tape_push(c, experts_out_bwd, &(struct experts_rec){ m, r }, sizeof(struct experts_rec));
    return r.out;
}

/* ---- the router, the whole op ---------------------------------------------------------------- */

struct choose_rec {
    const struct moe *m;
    tensor logits;
    struct chosen ch;
};

static void choose_experts_bwd(struct cmd *c, const void *rec)
{
    const struct choose_rec *r = rec;
    const struct moe *m = r->m;
    tensor logits = r->logits, id = r->ch.id, wt = r->ch.wt;
    tensor dwt = grad(c, wt), dx = grad(c, logits);
    struct push_route_bwd p = {
        .n_tok = logits.n_row,
        .n_used = m->n_used,
        .id_stride = id.stride,
        .dwt_stride = dwt.stride,
        .x_stride = logits.stride,
        .x_col = logits.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .renorm = m->renorm,
        .scale = m->scale,
    };
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 64);
    cmd_dispatch(c, K_moe_route_bwd, GRID(div_up(logits.n_row, wg), 1, 1),
                 SPEC(.wg = wg, .route = m->route), PUSH(p),
                 USES(READ(logits), READ(id), READ(wt), READ(dwt), BOTH(dx)));
}

static struct chosen choose_experts(struct cmd *c, const struct moe *m, tensor logits,
                                    const struct moe_layer *s, const struct batch *b)
{
    struct chosen ch = { .wt = cmd_scratch(c, F32, m->n_used, logits.n_row) };
    bool known = tape_keep(c, m->n_used, logits.n_row, &ch.id);
    struct push_route p = {
        .n_expert = m->n_expert,
        .n_used = m->n_used,
        .id_stride = ch.id.stride,
        .x_stride = logits.stride,
        .x_col = logits.col,
        .n_group = m->n_group,
        .n_group_used = m->n_group_used,
        .renorm = m->renorm,
        .scale = m->scale,
    };
    HLM_ASSERT(cmd_failed(c) || ch.id.stride == ch.wt.stride);
    tensor bias = m->route == ROUTE_SIGMOID ? m->bias : logits;
    bool count = s->load.arena && !known, row = count && b->docs;
    cmd_dispatch(c, K_moe_route, GRID(logits.n_row, 1, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 64), .route = m->route, .routed = known,
                      .count = count, .docs = row),
                 PUSH(p),
                 USES(READ(logits), BOTH(ch.id), WRITE(ch.wt), READ(bias),
                      BOTH(count ? s->load : ch.id), READ(row ? b->docs->real : logits)));
    struct choose_rec rec = { m, logits, ch };
    tape_push(c, choose_experts_bwd, &rec, sizeof rec);
    return ch;
}

/* x + the output of the shared expert; x if there is none. r: the logits of the router, then the
 * gate of the shared expert. */
static tensor shared_expert(struct cmd *c, const struct moe *m, tensor x, tensor h, tensor r)
{
    if (!m->sh_up.n_in)
        return x;
    tensor a = m->sh_gate.n_in ? op_linear_act(c, h, LINEARS(&m->sh_gate, &m->sh_up), m->sh_act)
                               : op_linear_act(c, h, LINEARS(&m->sh_up), m->sh_act);
    return m->shared_gate.n_in
               ? op_linear_add_gated(c, a, &m->sh_down, x, tensor_cols(r, m->n_expert, 1))
               : op_linear_add(c, a, &m->sh_down, x);
}

tensor moe_by(struct cmd *c, enum moe_path path, struct normed in, const struct moe *m,
              const struct moe_layer *s, const struct batch *b)
{
    HLM_ASSERT(path == MOE_GROUPED || !tape_trains(c));
    tensor h = op_norm(c, in.x, in.w, in.eps);
    tensor r = m->shared_gate.n_in ? op_linear(c, h, LINEARS(&m->router, &m->shared_gate))
                                   : op_linear(c, h, LINEARS(&m->router));
    struct chosen ch = choose_experts(c, m, tensor_cols(r, 0, m->n_expert), s, b);
    /* The shared expert comes first, because the routed ones are added to its output. */
    tensor y = shared_expert(c, m, in.x, h, r);
    tensor (*routed)(struct cmd *, const struct moe *, tensor, struct chosen, const tensor *) =
        path == MOE_GROUPED ? moe_grouped : moe_plain;
    if (!m->latent_down.n_in)
        return routed(c, m, h, ch, &y);
    tensor low = op_linear(c, h, LINEARS(&m->latent_down));
    return op_linear_add(c, routed(c, m, low, ch, NULL), &m->latent_up, y);
}

tensor op_moe(struct cmd *c, struct normed in, const struct moe *m, const struct moe_layer *s,
              const struct batch *b)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    /* Chosen by size, not by speed: a shorter batch must not need more scratch than a longer. */
    bool can = linear_group_tile(caps, 1);
    bool group = (in.x.n_row > 8 && can && !cmd_each(c)) || tape_trains(c);
    if (tape_trains(c) && !can) {
        cmd_fail(c,
                 "training experts needs a kernel for which %s has too little workgroup memory (%u "
                 "bytes)",
                 caps->name, caps->max_shared);
        return (tensor){ 0 };
    }
    return moe_by(c, group ? MOE_GROUPED : MOE_PLAIN, in, m, s, b);
}
