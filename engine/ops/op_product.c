/* op_product: products as layers use them: several matrices side by side, with a norm before or a
 * residual after, with biases, adapters, dropout and gates. Each step pushes its own record. */
#include "ops/op_linear_parts.h"

/* Rows [row0, row0 + n) as a matrix; a binding may begin at row0. */
static linear rows_of(linear w, uint32_t row0, uint32_t n)
{
    w.offset += (uint64_t)row0 * w.row_q * 16;
    w.n_out = n;
    return w;
}

/* y = the rows [row0, row0 + n_out) of the run of matrices that begins with `first`, times x. */
struct product_rec {
    tensor x, y;
    const linear *first;
    uint32_t row0, n_out;
    bool f16; /* the forward took f16 operands */
};

static void product_bwd(struct cmd *c, const void *rec)
{
    const struct product_rec *r = rec;
    linear w = rows_of(*r->first, r->row0, r->n_out);
    tensor dy = grad(c, r->y), dx = grad(c, r->x), dw = grad(c, linear_rows(&w, 0, w.n_out));
    if (dx.arena)
        linear_bwd_by(c, linear_bwd_pick(c, dy.n_row, r->f16), &w, dy, dx);
    if (dw.arena)
        linear_outer(c, &w, r->x, dy, dw);
}

/* linear_by with a record on the tape, for rows from row0 on of the run of matrices that begins
 * with `first`. */
static void product_rows(struct cmd *c, const struct linear_path *path, const struct linear_args *a,
                         const linear *first, uint32_t row0)
{
    linear_by(c, path, a);
    struct product_rec rec = { a->x, a->y, first, row0, a->w->n_out, path->f16 };
    tape_push(c, product_bwd, &rec, sizeof rec);
}

static void product(struct cmd *c, const struct linear_path *path, const struct linear_args *a,
                    const linear *first)
{
    product_rows(c, path, a, first, 0);
}

void op_accumulate(struct cmd *c, tensor y, tensor x)
{
    if (cmd_failed(c))
        return;
    HLM_ASSERT(x.n == y.n && x.n_row == y.n_row);
    uint32_t quads = tensor_in_quads(x) && tensor_in_quads(y) && x.n % 4 == 0;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    struct push_add p = { .n = x.n,
                          .n_row = x.n_row,
                          .x_stride = x.stride,
                          .x_col = x.col,
                          .y_stride = y.stride,
                          .y_col = y.col };
    cmd_dispatch(c, K_add, row_grid(x.n / (quads ? 4 : 1), x.n_row, wg),
                 SPEC(.wg = wg, .aligned = quads), PUSH(p), USES(READ(x), BOTH(y)));
}

/* y = res + x, where another record has the x */
struct residual_rec {
    tensor res, y;
};

static void residual_bwd(struct cmd *c, const void *rec)
{
    const struct residual_rec *r = rec;
    tensor d = grad(c, r->res);
    if (d.arena)
        op_accumulate(c, d, grad(c, r->y));
}

/* ---- low-rank factors ------------------------------------------------------------------------ */

void linear_dropout(struct cmd *c, tensor x, uint32_t id, uint32_t n_used, tensor y, bool add)
{
    const struct dropout *d = tape_dropout(c);
    if (cmd_failed(c))
        return;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    struct push_dropout p = {
        .n = x.n,
        .n_row = y.n_row,
        .id = id,
        .below = (uint32_t)((double)d->p * 0x1p32),
        .scale = 1 / (1 - d->p),
        .n_used = n_used,
        .x_stride = x.stride,
        .x_col = x.col,
        .y_stride = y.stride,
        .y_col = y.col,
    };
    cmd_work(c, 30.0 * x.n * y.n_row);
    cmd_dispatch(c, K_dropout, row_grid(x.n / 4, y.n_row, wg), SPEC(.wg = wg, .add = add), PUSH(p),
                 USES(READ(x), BOTH(y), READ(d->key)));
}

struct dropout_rec {
    tensor x, y;
    uint32_t id; /* of the adapter */
};

static void dropout_bwd(struct cmd *c, const void *rec)
{
    const struct dropout_rec *r = rec;
    tensor dx = grad(c, r->x);
    if (dx.arena)
        linear_dropout(c, grad(c, r->y), r->id, 1, dx, true);
}

tensor linear_dropped(struct cmd *c, tensor x, const struct lora *l, uint32_t n_used)
{
    if (!tape_dropout(c))
        return x;
    tensor y = cmd_scratch(c, F32, x.n, x.n_row * n_used);
    linear_dropout(c, x, l->id, n_used, y, false);
    return y;
}

/* ---- products -------------------------------------------------------------------------------- */

/* True if b begins where a ends, so that both can be multiplied as one matrix. */
static bool follows(const linear *a, const linear *b)
{
    return a->arena == b->arena && a->dtype == b->dtype && a->n_in == b->n_in &&
           a->offset + (uint64_t)a->n_out * a->row_q * 16 == b->offset;
}

/* In a separate dispatch, because only older Nemotron-H files have biases. */
static void add_bias(struct cmd *c, tensor y, const linear *w)
{
    if (!w->bias.arena || cmd_failed(c))
        return;
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    struct push_bias p = { .n = y.n, .n_row = y.n_row, .y_stride = y.stride, .y_col = y.col };
    cmd_dispatch(c, K_bias, row_grid(y.n, y.n_row, wg), SPEC(.wg = wg), PUSH(p),
                 USES(BOTH(y), READ(w->bias)));
}

/* Adds B (A x), for every matrix that has an adapter, to the matrix's columns of y. gate: as in
 * struct linear_args. An A that several matrices share is multiplied once; B that lie one after
 * another share a dispatch. */
static void add_lora(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w, tensor y,
                     const tensor *gate)
{
    const struct linear_path *path = linear_pick(c, x.n_row, false);
    const struct lora *had = NULL;
    tensor t = x;
    for (uint32_t i = 0, col = 0; i < n_w;) {
        const struct lora *l = w[i]->lora;
        if (!l) {
            col += w[i++]->n_out;
            continue;
        }
        if (!had || had->a.offset != l->a.offset) {
            tensor in = linear_dropped(c, x, l, 1);
            struct dropout_rec rec = { x, in, l->id };
            if (tape_dropout(c))
                tape_push(c, dropout_bwd, &rec, sizeof rec);
            t = cmd_scratch(c, F32, l->a.n_out, x.n_row);
            product(c, path, &(struct linear_args){ .x = in, .w = &l->a, .y = t }, &l->a);
        }
        const linear *first = &l->b;
        linear run = l->b;
        had = l;
        for (i++; i < n_w && w[i]->lora; i++) {
            l = w[i]->lora;
            if (l->a.offset != had->a.offset || !follows(&run, &l->b))
                break;
            run.n_out += l->b.n_out;
        }
        tensor to = tensor_cols(y, col, run.n_out);
        product(c, path,
                &(struct linear_args){ .x = t, .w = &run, .y = to, .res = &to, .gate = gate },
                first);
        col += run.n_out;
    }
}

static bool any_lora(const linear *const *w, uint32_t n_w)
{
    for (uint32_t i = 0; i < n_w; i++)
        if (w[i]->lora)
            return true;
    return false;
}

/* True if w can be added to a run of matrices whose last n_f32_rows rows take f32 operands. Such
 * rows must stay the last of the run. Updates n_f32_rows if true. */
static bool joins_run(const linear *run, uint32_t *n_f32_rows, const linear *w)
{
    bool all = w->n_f32_rows == w->n_out;
    if (!follows(run, w) || (*n_f32_rows && !all))
        return false;
    *n_f32_rows = all ? *n_f32_rows + w->n_out : w->n_f32_rows;
    return true;
}

/* All W_i h side by side. Matrices that lie one after another are multiplied as one. in: x is h;
 * norm and eps, unless a matrix has an adapter. */
static tensor side_by_side(struct cmd *c, const struct linear_path *path,
                           const struct linear_args *in, const linear *const *w, uint32_t n_w)
{
    const struct gpu_caps *caps = gpu_caps(cmd_gpu(c));
    tensor h = in->x;
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n_w; i++)
        n_out += w[i]->n_out;
    tensor y = cmd_scratch(c, F32, n_out, h.n_row), halves = { 0 };
    for (uint32_t i = 0, col = 0; i < n_w;) {
        linear run = *w[i];
        uint32_t first = i++, n_f32_rows = run.n_f32_rows;
        while (i < n_w && (path->f16 ? joins_run(&run, &n_f32_rows, w[i]) : follows(&run, w[i])))
            run.n_out += w[i++]->n_out;
        if (path->f16 &&
            n_f32_rows) { /* and the rows before them back to one where a binding may begin */
            uint32_t unit = linear_row_unit(caps, &run),
                     all = (run.n_out - n_f32_rows) / unit * unit;
            linear tail = rows_of(run, all, run.n_out - all);
            product_rows(c, linear_pick(c, h.n_row, false),
                         &(struct linear_args){
                             .x = h, .w = &tail, .y = tensor_cols(y, col + all, tail.n_out) },
                         w[first], all);
            run.n_out = all;
        }
        if (run.n_out && path->f16 && !halves.arena)
            halves = linear_operand(c, path, h);
        if (run.n_out)
            product(c, path,
                    &(struct linear_args){ .x = h,
                                           .halves = path->f16 ? &halves : NULL,
                                           .w = &run,
                                           .norm = in->norm,
                                           .eps = in->eps,
                                           .y = tensor_cols(y, col, run.n_out) },
                    w[first]);
        for (; first < i; col += w[first++]->n_out)
            add_bias(c, tensor_cols(y, col, w[first]->n_out), w[first]);
    }
    add_lora(c, h, w, n_w, y, NULL);
    return y;
}

/* All W_i rms(x), or all W_i x where norm is NULL. */
static tensor norm_linear(struct cmd *c, tensor x, const tensor *norm, float eps,
                          const linear *const *w, uint32_t n_w)
{
    const struct linear_path *path = linear_pick(c, x.n_row, cmd_f16(c));
    struct linear_args in = { .x = x };
    if (norm && path->fuses && !any_lora(w, n_w) && !tape_trains(c)) {
        in.norm = norm;
        in.eps = eps;
    } else if (norm) {
        in.x = op_norm(c, x, *norm, eps);
    }
    return side_by_side(c, path, &in, w, n_w);
}

tensor op_norm_linear(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                      uint32_t n_w)
{
    return norm_linear(c, x, &norm, eps, w, n_w);
}

tensor op_linear(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w)
{
    return norm_linear(c, x, NULL, 0, w, n_w);
}

/* Can one product make all of them and their activation? Then run is the matrix. */
static bool act_fuses(struct cmd *c, const struct linear_path *path, const linear *const *w,
                      uint32_t n_w, linear *run)
{
    *run = *w[0];
    bool plain = path->fuses && !any_lora(w, n_w) && !tape_trains(c) && !run->bias.arena;
    for (uint32_t i = 1; plain && i < n_w; i++) {
        plain = follows(run, w[i]) && !w[i]->bias.arena;
        run->n_out += w[i]->n_out;
    }
    return plain && linear_slab_rows(gpu_caps(cmd_gpu(c)), run) == run->n_out;
}

static tensor linear_act(struct cmd *c, tensor x, const tensor *norm, float eps,
                         const linear *const *w, uint32_t n_w, struct act act)
{
    const struct linear_path *path = linear_pick(c, x.n_row, cmd_f16(c));
    linear run;
    if (!act_fuses(c, path, w, n_w, &run))
        return op_act(c, norm_linear(c, x, norm, eps, w, n_w), act);
    tensor y = cmd_scratch(c, F32, run.n_out / act_width(act), x.n_row);
    linear_by(
        c, path,
        &(struct linear_args){ .x = x, .w = &run, .y = y, .norm = norm, .eps = eps, .act = &act });
    return y;
}

tensor op_norm_linear_act(struct cmd *c, tensor x, tensor norm, float eps, const linear *const *w,
                          uint32_t n_w, struct act act)
{
    return linear_act(c, x, &norm, eps, w, n_w, act);
}

tensor op_linear_act(struct cmd *c, tensor x, const linear *const *w, uint32_t n_w, struct act act)
{
    return linear_act(c, x, NULL, 0, w, n_w, act);
}

struct gate_add_rec {
    tensor x, gate, y;
};

static void gate_add_bwd(struct cmd *c, const void *rec)
{
    const struct gate_add_rec *r = rec;
    tensor x = r->x, gate = r->gate, dy = grad(c, r->y), dx = grad(c, x);
    tensor dgate = grad(c, gate);
    if (cmd_failed(c))
        return;
    struct push_gate p = {
        .n = x.n,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .gate_stride = gate.stride,
        .gate_col = gate.col,
        .y_stride = dy.stride,
        .y_col = dy.col,
        .dx_stride = dx.stride,
        .dx_col = dx.col,
        .dgate_stride = dgate.stride,
        .dgate_col = dgate.col,
    };
    cmd_work(c, 4.0 * x.n * x.n_row);
    cmd_dispatch(c, K_gate_add_bwd, GRID(x.n_row, 1, 1),
                 SPEC(.wg = wg_size(gpu_caps(cmd_gpu(c)), 128)), PUSH(p),
                 USES(READ(x), READ(gate), READ(dy), BOTH(dx), BOTH(dgate)));
}

/* res + sigmoid(gate[t]) * x[t]. Without training a product does this as it stores its result; the
 * backward needs x. */
static tensor gate_add(struct cmd *c, tensor x, tensor gate, tensor res)
{
    tensor y = cmd_scratch(c, F32, x.n, x.n_row);
    uint32_t wg = wg_size(gpu_caps(cmd_gpu(c)), 128);
    if (cmd_failed(c))
        return y;
    struct push_gate p = {
        .n = x.n,
        .n_row = x.n_row,
        .x_stride = x.stride,
        .x_col = x.col,
        .gate_stride = gate.stride,
        .gate_col = gate.col,
        .y_stride = y.stride,
        .res_stride = res.stride,
        .res_col = res.col,
    };
    cmd_work(c, 2.0 * x.n * x.n_row);
    cmd_dispatch(c, K_gate_add, row_grid(x.n, x.n_row, wg), SPEC(.wg = wg), PUSH(p),
                 USES(READ(x), READ(gate), READ(res), WRITE(y)));
    struct gate_add_rec rec = { x, gate, y };
    tape_push(c, gate_add_bwd, &rec, sizeof rec);
    return y;
}

static tensor linear_add(struct cmd *c, tensor x, const linear *w, tensor res, const tensor *gate)
{
    const struct linear_path *path = linear_pick(c, x.n_row, cmd_f16(c));
    tensor y;
    if (gate && tape_trains(c)) {
        tensor wx = side_by_side(c, path, &(struct linear_args){ .x = x }, &w, 1);
        y = gate_add(c, wx, *gate, res);
    } else {
        y = cmd_scratch(c, F32, w->n_out, x.n_row);
        product(c, path, &(struct linear_args){ .x = x, .w = w, .y = y, .res = &res, .gate = gate },
                w);
        add_bias(c, y, w);
        add_lora(c, x, &w, 1, y, gate);
    }
    struct residual_rec rec = { res, y };
    tape_push(c, residual_bwd, &rec, sizeof rec);
    return y;
}

tensor op_linear_add(struct cmd *c, tensor x, const linear *w, tensor res)
{
    return linear_add(c, x, w, res, NULL);
}

tensor op_linear_add_gated(struct cmd *c, tensor x, const linear *w, tensor res, tensor gate)
{
    return linear_add(c, x, w, res, &gate);
}
