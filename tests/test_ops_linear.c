/* test_ops_linear: weights of every type as shaders read them, every way to multiply by them, and
 * matrices that a binding does not span. */
#include "ops.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EPS 1e-6f

/* NMSE of results without long sums. */
static const struct bound no_sum_off = { .most = 1e-13 };

/* ---- packing and unpacking --------------------------------------------------------------- */

/* Equal numbers, to the last bit. A device that flushes denormals may have zero for a denormal, or
 * for a product with one: the two smallest scales of MXFP4. */
static bool same_values(const float *got, const float *want, uint64_t n, uint32_t *n_flushed)
{
    for (uint64_t i = 0; i < n; i++) {
        if (got[i] == want[i])
            continue;
        if (got[i] != 0 || fabsf(want[i]) >= 16 * FLT_MIN)
            return FAIL("[%llu] is %.9g, expected %.9g (seed %u)", (unsigned long long)i,
                        (double)got[i], (double)want[i], OPS_SEED);
        ++*n_flushed;
    }
    return true;
}

/* op_embed of all rows is the dequantised matrix. n_past is the place of the rows in the
 * history. */
static void embed_case(struct gpu *g, enum dtype dtype, uint32_t n_in, uint32_t n_vocab,
                       uint32_t n_tok, uint32_t n_past)
{
    const struct dtype_info *info = dtype_info(dtype);
    uint32_t n_flushed = 0, n_row_block = n_in / info->block_len;
    if (!test_case("embed %s %u x %u at %u", info->name, n_in, n_vocab, n_past))
        return;
    struct rig r = rig_open(g, "embed");
    uint8_t *rows = rig_alloc(&r, (uint64_t)n_row_block * n_vocab, info->block_bytes);
    for (uint32_t i = 0; i < n_row_block * n_vocab; i++)
        random_block(&r.rng, dtype, 1, i % 4 != 0, rows + (uint64_t)i * info->block_bytes);
    struct weight w = rig_blocks(&r, dtype, n_in, n_vocab, 1, rows, false);

    int32_t *ids = rig_alloc(&r, n_past + n_tok, sizeof *ids);
    float *want = rig_alloc(&r, (uint64_t)n_tok * n_in, sizeof *want);
    for (uint32_t t = 0; t < n_past + n_tok; t++) /* all over the matrix, in no order */
        ids[t] = t < n_past ? -1 : (int32_t)(((t - n_past) * 37 + 5) % n_vocab);
    for (uint32_t t = 0; t < n_tok; t++)
        memcpy(want + (uint64_t)t * n_in, w.v + (uint64_t)ids[n_past + t] * n_in, 4ull * n_in);
    struct segment seg = { .pos = n_past };
    struct batch b = rig_batch(&r, n_tok, &seg, ids, n_past + n_tok, false);
    tensor y = op_embed(r.c, &w.w, &b);
    if (rig_run(&r) && same_values(rig_get(&r, y), want, (uint64_t)n_tok * n_in, &n_flushed))
        rig_checked(&r);
    if (n_flushed)
        test_note("%s: %u denormal results came as zero", info->name, n_flushed);
    rig_close(&r);
}

/* The types that are enough where a run looks at something other than how a type is unpacked:
 * another subgroup size (--brief), or a path of other devices. */
static bool stands_for_all(enum dtype dtype)
{
    return dtype == F32 || dtype == Q8_0 || dtype == Q5_K || dtype == MXFP4 || dtype == Q2_K ||
           dtype == IQ3_S;
}

static void test_embed(struct gpu *g)
{
    for (uint32_t i = 0; i < ARRAY_LEN(weight_types); i++) {
        if (test_brief() && !stands_for_all(weight_types[i]))
            continue;
        uint32_t block = dtype_info(weight_types[i])->block_len;
        embed_case(g, weight_types[i], max_u32(block, 32), 13, 26, 0);
        embed_case(g, weight_types[i], 768, 13, 13, 5);
        if (block == 1) {
            embed_case(g, weight_types[i], 4, 3, 5, 1);
            embed_case(g, weight_types[i], 36, 3, 5, 0);
        }
    }
}

/* ---- products ---------------------------------------------------------------------------- */

enum { STORE, ADD, ADD_GATED, N_EPILOGUE, SWIGLU = N_EPILOGUE, SWIGLU_CUT, RELU2 };
enum { PLAIN, NORM, N_INPUT };
#define LIMIT 0.4f

/* Weights [max_out][n_in], x [max_tok][n_in] and all their products in double, of which every shape
 * takes a part. */
struct product {
    struct weight w;
    const float *x, *norm_w;
    double *y[N_INPUT]; /* [max_tok][max_out] */
    uint32_t max_tok, max_out;
};

static struct product product_make(struct rig *r, const struct linear_path *path, enum dtype dtype,
                                   uint32_t n_in, uint32_t max_out, uint32_t max_tok, bool fused)
{
    struct product p = { .max_tok = max_tok, .max_out = max_out };
    p.w = rig_weight(r, dtype, n_in, max_out, 1, 1, false);
    if (path->f16)
        p.w = rig_f16_weight(r, p.w);
    p.x = rig_normal(r, (uint64_t)max_tok * n_in, 1.5);
    p.norm_w = rig_normal(r, n_in, 1);
    double *x = rig_doubles(r, NULL, (uint64_t)max_tok * n_in);
    const float *x_v = p.x;
    if (path->f16)
        x_v = rig_f16_rows(r, p.x, n_in, max_tok);
    for (uint32_t in = 0; in < (fused ? N_INPUT : 1); in++) {
        p.y[in] = rig_doubles(r, NULL, (uint64_t)max_tok * max_out);
        for (uint64_t i = 0; i < (uint64_t)max_tok * n_in; i++)
            x[i] = (double)x_v[i];
        if (in == NORM)
            ref_rmsnorm(x, p.norm_w, n_in, max_tok, (double)EPS, x);
        ref_linear(p.w.v, n_in, max_out, x, max_tok, p.y[in]);
    }
    return p;
}

struct linear_row { /* a product to take: the first n_out rows and n_tok tokens; with SwiGLU an
                       even number of rows */
    uint32_t n_out, n_tok, epilogue, input;
};

struct pending_product {
    tensor y;
    double *want;
    struct linear_row row;
};

/* Records one product with views of odd strides, and what it should give. */
static struct pending_product record(struct rig *r, const struct linear_path *path,
                                     const struct product *p, struct linear_row row)
{
    const struct act *act = row.epilogue == SWIGLU       ? &(struct act){ ACT_SWIGLU, 0 }
                            : row.epilogue == SWIGLU_CUT ? &(struct act){ ACT_SWIGLU, LIMIT }
                            : row.epilogue == RELU2      ? &(struct act){ ACT_RELU2, 0 }
                                                         : NULL;
    uint32_t n_in = p->w.w.n_in, n_tok = row.n_tok, n_out = row.n_out / (act ? act_width(*act) : 1);
    bool adds = row.epilogue == ADD || row.epilogue == ADD_GATED;
    uint64_t n = (uint64_t)n_out * n_tok;
    linear w = p->w.w;
    w.n_out = row.n_out;
    tensor x = rig_view(r, F32, n_in, n_tok, n_in + 12, 4);
    rig_put(r, x, p->x);
    tensor norm = rig_dense(r, p->norm_w, n_in, 1);
    float *res_v = rig_normal(r, n, 1), *gate_v = rig_normal(r, n_tok, 2);
    tensor res = rig_view(r, F32, n_out, n_tok, n_out + 7, 2);
    tensor gate = rig_strided(r, gate_v, 1, n_tok);
    rig_put(r, res, res_v);
    struct pending_product out = { .row = row, .want = rig_doubles(r, NULL, n) };
    out.y = rig_view(r, F32, n_out, n_tok, n_out + 5, 3);
    rig_writes(r, out.y);
    linear_by(r->c, path,
              &(struct linear_args){
                  .x = x,
                  .w = &w,
                  .y = out.y,
                  .norm = row.input == NORM ? &norm : NULL,
                  .eps = EPS,
                  .act = act,
                  .res = adds ? &res : NULL,
                  .gate = row.epilogue == ADD_GATED ? &gate : NULL,
              });
    for (uint32_t t = 0; t < n_tok; t++)
        for (uint32_t o = 0; o < n_out; o++) {
            double *y = &out.want[(uint64_t)t * n_out + o];
            const double *products = p->y[row.input] + (uint64_t)t * p->max_out;
            *y = products[o];
            if (row.epilogue == SWIGLU || row.epilogue == SWIGLU_CUT)
                ref_swiglu_limit(y, &products[n_out + o], 1, (double)act->limit, y);
            if (row.epilogue == RELU2)
                *y = ref_relu2(*y);
            if (row.epilogue == ADD_GATED)
                *y *= ref_sigmoid((double)gate_v[t]);
            if (adds)
                *y += (double)res_v[(uint64_t)t * n_out + o];
        }
    return out;
}

static void check_pending(struct rig *r, const struct linear_path *path, enum dtype dtype,
                          const struct pending_product *p, uint32_t n)
{
    bool good = rig_run(r);
    for (uint32_t i = 0; good && i < n; i++) {
        char what[96];
        snprintf(what, sizeof what, "%s, %s", path->name, dtype_info(dtype)->name);
        good = rig_near(r, what, p[i].y, p[i].want, 0) ||
               FAIL("that was n_out %u, n_tok %u, epilogue %u, input %u", p[i].row.n_out,
                    p[i].row.n_tok, p[i].row.epilogue, p[i].row.input);
    }
}

/* Tiles are 1, 2 or 4 (rows), 1, 2 or 4 subgroups (cols) and 16, 32 or 64 tokens (tile: below 24,
 * below 48, from there), by 2, 4, 8 or 128 rows. */
static const uint32_t some_tok[] = { 1,  2,  3,  4,  5,  7,  8,  9,  15, 16,
                                     17, 24, 31, 32, 33, 47, 48, 63, 64, 65 };
static const uint32_t some_out[] = { 1, 3, 4, 5, 7, 8, 9, 127, 128, 129 };
static const uint32_t some_in[] = { 4, 32, 36, 64, 256 };

/* Epilogues and inputs in the combinations of models. A software device takes seconds to compile a
 * large tile, so not every combination is tried with every tile; the other types cover the rest. */
static struct linear_row shape(const struct linear_path *path, uint32_t lanes, uint32_t i,
                               uint32_t n_tok, uint32_t n_out)
{
    static const uint32_t fused[5][2] = {
        { STORE, NORM }, { SWIGLU, NORM }, { SWIGLU, PLAIN }, { SWIGLU_CUT, NORM }, { RELU2, NORM }
    };
    struct linear_row row = { n_out, n_tok, i % 2 ? ADD_GATED : STORE, PLAIN };
    if (path->kernel == K_linear)
        row.epilogue = n_tok == 1 ? i % N_EPILOGUE : ADD;
    else if (path->kernel == K_linear_each || /* test_each has the other epilogues */
             n_tok > (path->kernel == K_linear_cols ? lanes : 23))
        row.epilogue = ADD;
    if (path->fuses) {
        const uint32_t *f = fused[n_tok == 1 ? i % 5 : n_tok > 3];
        row.epilogue = f[0];
        row.input = f[1];
        if (row.epilogue >= N_EPILOGUE)
            row.n_out = max_u32(n_out & ~1u, 2);
    }
    return row;
}

/* The paths that the device can run. Tiles through workgroup memory are the same for all subgroup
 * sizes. */
static bool takes(struct gpu *g, const struct linear_path *path)
{
    return linear_path_runs(gpu_caps(g), path) &&
           !(path->kernel == K_linear_tile && ops_brief_skips(K_linear_tile));
}

/* Tokens that are computed as if alone are compared with "rows" to the bit (test_each). */
static bool by_each(const struct linear_path *path) { return path->kernel == K_linear_each; }

/* f32 in all shapes: every path, also where the device itself would choose another. */
static void test_shapes(struct gpu *g)
{
    for (uint32_t i_path = 0; i_path < n_linear_path; i_path++) {
        const struct linear_path *path = &linear_paths[i_path];
        if (!takes(g, path))
            continue;
        for (uint32_t i_in = 0; i_in < ARRAY_LEN(some_in); i_in++) {
            struct pending_product p[ARRAY_LEN(some_tok) * ARRAY_LEN(some_out)];
            uint32_t n = 0;
            if (by_each(path) && some_in[i_in] != 36)
                continue;
            if (!test_case("linear by %s, F32, n_in %u, %zu shapes", path->name, some_in[i_in],
                           ARRAY_LEN(p)))
                continue;
            struct rig r = rig_open(g, "linear");
            struct product prod = product_make(&r, path, F32, some_in[i_in], 129, 65, path->fuses);
            for (uint32_t t = 0; t < ARRAY_LEN(some_tok); t++)
                for (uint32_t o = 0; o < ARRAY_LEN(some_out); o++, n++)
                    p[n] = record(&r, path, &prod,
                                  shape(path, gpu_caps(g)->subgroup, n, some_tok[t], some_out[o]));
            check_pending(&r, path, F32, p, n);
            rig_close(&r);
        }
    }
}

/* Would the device take the path by itself? */
static bool own_path(struct gpu *g, const struct linear_path *path)
{
    bool cpu = gpu_caps(g)->kind == GPU_CPU;
    return path->device == ANY_DEVICE || (path->device == CPU_ONLY) == cpu;
}

/* The other types: shapes that end within a tile, rows of one block and of several. */
static void test_types(struct gpu *g)
{
    const uint32_t lanes = gpu_caps(g)->subgroup;
    for (uint32_t i_path = 0; i_path < n_linear_path; i_path++) {
        const struct linear_path *path = &linear_paths[i_path];
        if (!takes(g, path) || by_each(path))
            continue;
        for (uint32_t i = 1; i < ARRAY_LEN(weight_types); i++) {
            enum dtype dtype = weight_types[i];
            uint32_t block = dtype_info(dtype)->block_len;
            if ((test_brief() || path->f16 || !own_path(g, path)) && !stands_for_all(dtype))
                continue;
            /* One pipeline for each type and path: by lanes, one token. */
            uint32_t n_tok = path->kernel == K_linear ? 1 : max_u32(lanes, 5) - 1;
            struct linear_row row = { 11, n_tok, ADD, PLAIN };
            struct pending_product p[3];
            if (!test_case("linear by %s, %s", path->name, dtype_info(dtype)->name))
                continue;
            struct rig r = rig_open(g, "linear");
            const uint32_t n_in[3] = { max_u32(block, 32), block == 1 ? 68 : 2 * block, 1024 };
            for (uint32_t k = 0; k < 3; k++) {
                struct product prod = product_make(&r, path, dtype, n_in[k], 11, n_tok, false);
                p[k] = record(&r, path, &prod, row);
            }
            check_pending(&r, path, dtype, p, 3);
            rig_close(&r);
        }
    }
}

/* The widest tile that matrix units have. */
static void test_wide(struct gpu *g)
{
    for (uint32_t i_path = 0; i_path < n_linear_path; i_path++) {
        const struct linear_path *path = &linear_paths[i_path];
        if (!path->f16 || !linear_path_runs(gpu_caps(g), path))
            continue;
        if (!test_case("linear by %s, Q8_0, 96 to 129 tokens", path->name))
            continue;
        struct rig r = rig_open(g, "linear");
        struct product prod = product_make(&r, path, Q8_0, 96, 129, 129, false);
        const struct pending_product p[2] = {
            record(&r, path, &prod, (struct linear_row){ 129, 129, ADD, PLAIN }),
            record(&r, path, &prod, (struct linear_row){ 5, 96, ADD, PLAIN }),
        };
        check_pending(&r, path, Q8_0, p, 2);
        rig_close(&r);
    }
}

/* A matrix of a real model. */
static void test_real(struct gpu *g)
{
    static const struct {
        enum dtype dtype;
        uint32_t n_tok, epilogue;
    } rows[] = {
        { Q4_K, 1, ADD },
        { Q8_0, 7, ADD },
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++)
        for (uint32_t i_path = 0; i_path < n_linear_path; i_path++) {
            const struct linear_path *path = &linear_paths[i_path];
            if (!takes(g, path) || by_each(path))
                continue;
            uint32_t n_tok = path->kernel == K_linear ? 1 : rows[i].n_tok;
            if (!test_case("linear by %s, %s, 1024 x 3584, %u tokens", path->name,
                           dtype_info(rows[i].dtype)->name, n_tok))
                continue;
            struct rig r = rig_open(g, "linear");
            bool fused = path->fuses && rows[i].dtype == Q4_K;
            struct product prod = product_make(&r, path, rows[i].dtype, 1024, 3584, n_tok, fused);
            uint32_t epilogue = fused ? SWIGLU : path->kernel == K_linear ? ADD : rows[i].epilogue;
            struct pending_product p =
                record(&r, path, &prod,
                       (struct linear_row){ 3584, n_tok, epilogue, fused ? NORM : PLAIN });
            check_pending(&r, path, rows[i].dtype, &p, 1);
            rig_close(&r);
        }
}

/* ---- ops --------------------------------------------------------------------------------- */

/* The matrices, the input and what else goes into the ops over linear_by. */
enum { N_IN = 64, N_A = 5, N_B = 8, N_C = 3, N_ABC = N_A + N_B + N_C, N_Y = 12 };
struct op_in {
    uint32_t n_tok;
    struct weight a, b, c, sq, up;
    float *x, *norm, *gate, *gu, *bias[2]; /* bias: of sq and of b */
};

static struct op_in op_values(struct rig *r, uint32_t n_tok)
{
    struct op_in v = { .n_tok = n_tok };
    v.a = rig_weight(r, Q8_0, N_IN, N_A, 1, 1, false);
    v.b = rig_weight(r, Q8_0, N_IN, N_B, 1, 1, true);
    v.c = rig_weight(r, F32, N_IN, N_C, 1, 1, true);
    v.sq = rig_weight(r, Q8_0, N_IN, N_IN, 1, 1, false);
    v.up = rig_weight(r, Q8_0, N_IN, N_IN, 1, 1, true); /* follows sq */
    v.x = rig_normal(r, n_tok * N_IN, 1);
    v.norm = rig_normal(r, N_IN, 1);
    v.gate = rig_normal(r, n_tok, 1);
    v.gu = rig_normal(r, n_tok * 2 * N_IN, 2);
    v.bias[0] = rig_normal(r, N_IN, 1);
    v.bias[1] = rig_normal(r, N_B, 1);
    return v;
}

/* In the order in which op_case calls the ops. */
static void op_want(struct rig *r, const struct op_in *v, double *want[N_Y])
{
    uint32_t n_tok = v->n_tok;
    double *in[2] = { rig_doubles(r, v->x, n_tok * N_IN), want[0] };
    double *sq_y[2], *up_y[2]; /* of x and of the normed x */
    ref_rmsnorm(in[0], v->norm, N_IN, n_tok, (double)EPS, want[0]);
    for (uint32_t k = 0; k < 2; k++) {
        sq_y[k] = rig_doubles(r, NULL, n_tok * N_IN);
        up_y[k] = rig_doubles(r, NULL, n_tok * N_IN);
        ref_linear(v->sq.v, N_IN, N_IN, in[k], n_tok, sq_y[k]);
        ref_linear(v->up.v, N_IN, N_IN, in[k], n_tok, up_y[k]);
    }
    for (uint32_t i = 0; i < n_tok * N_IN; i++) {
        const float *at = v->gu + i / N_IN * 2 * N_IN + i % N_IN;
        want[3][i] = sq_y[0][i] + in[0][i];
        want[4][i] = ref_silu((double)at[0]) * (double)at[N_IN];
        want[5][i] = ref_silu(sq_y[1][i]) * up_y[1][i];
        want[6][i] = sq_y[0][i] * ref_sigmoid((double)v->gate[i / N_IN]) + in[0][i];
        ref_swiglu_limit(&(double){ (double)at[0] }, &(double){ (double)at[N_IN] }, 1,
                         (double)LIMIT, &want[7][i]);
        want[8][i] = ref_relu2(in[0][i]);
        want[9][i] = ref_relu2(sq_y[0][i] + (double)v->bias[0][i % N_IN]);
        want[10][i] = ref_silu(up_y[0][i]) * sq_y[0][i];
        want[11][i] = ref_relu2(sq_y[0][i]);
    }
    for (uint32_t t = 0; t < n_tok; t++)
        for (uint32_t k = 0; k < 2; k++) {
            const double *h = in[k] + t * N_IN;
            double *y = want[1 + k] + t * N_ABC;
            ref_linear(v->a.v, N_IN, N_A, h, 1, y);
            ref_linear(v->b.v, N_IN, N_B, h, 1, y + N_A);
            ref_linear(v->c.v, N_IN, N_C, h, 1, y + N_A + N_B);
            for (uint32_t i = 0; i < N_B; i++)
                y[N_A + i] += (double)v->bias[1][i];
        }
}

/* The ops over linear_by, with the path that the device picks for n_tok: three matrices of which
 * two lie together, a residual, an activation before it and a gate after it, a bias. */
static void op_case(struct gpu *g, uint32_t n_tok)
{
    if (!test_case("ops over linear_by, %u tokens", n_tok))
        return;
    struct rig r = rig_open(g, "op_linear");
    struct op_in in = op_values(&r, n_tok);
    const linear *a = &in.a.w, *b = &in.b.w, *c = &in.c.w, *sq = &in.sq.w, *up = &in.up.w;
    tensor x = rig_strided(&r, in.x, N_IN, n_tok), norm = rig_dense(&r, in.norm, N_IN, 1);
    tensor gate = rig_strided(&r, in.gate, 1, n_tok);
    tensor gu = rig_view(&r, F32, 2 * N_IN, n_tok, 2 * N_IN + 4, 0);
    rig_put(&r, gu, in.gu);
    linear with_bias = in.sq.w;
    with_bias.bias = rig_dense(&r, in.bias[0], N_IN, 1);
    in.b.w.bias = rig_dense(&r, in.bias[1], N_B, 1);
    const struct act swiglu = { ACT_SWIGLU, 0 };
    const tensor y[N_Y] = {
        op_norm(r.c, x, norm, EPS),
        op_linear(r.c, x, LINEARS(a, b, c)),
        op_norm_linear(r.c, x, norm, EPS, LINEARS(a, b, c)),
        op_linear_add(r.c, x, sq, x),
        op_act(r.c, gu, swiglu),
        op_norm_linear_act(r.c, x, norm, EPS, LINEARS(sq, up), swiglu),
        op_linear_add_gated(r.c, x, sq, x, gate),
        op_act(r.c, gu, (struct act){ ACT_SWIGLU, LIMIT }),
        op_act(r.c, x, (struct act){ ACT_RELU2, 0 }),
        op_linear_act(r.c, x, LINEARS(&with_bias), (struct act){ ACT_RELU2, 0 }),
        op_linear_act(r.c, x, LINEARS(up, sq), swiglu),
        op_linear_act(r.c, x, LINEARS(sq), (struct act){ ACT_RELU2, 0 }),
    };
    double *want[N_Y];
    for (uint32_t i = 0; i < N_Y; i++)
        want[i] = rig_doubles(&r, NULL, n_tok * N_IN);
    op_want(&r, &in, want);
    /* clang-format off */
    static const char *const what[N_Y] = { "norm",   "linear", "norm_linear", "linear_add",
                                           "swiglu", "norm_linear_act", "linear_add_gated",
                                           "swiglu with a limit", "relu2", "relu2 after a bias",
                                           "swiglu of matrices apart", "linear_act with relu2" };
    /* clang-format on */
    bool good = rig_run(&r);
    for (uint32_t i = 0; good && i < N_Y; i++)
        good = rig_near(&r, what[i], y[i], want[i],
                        i == 0 || i == 4 || i == 7 || i == 8 ? no_sum_off.most : 0);
    rig_close(&r);
}

/* ---- tokens that are computed as if each were alone ------------------------------------------ */

enum { EACH_ADD, EACH_NORM, EACH_ACT, EACH_GATED, EACH_LORA, EACH_BIAS, N_EACH };
static const char *const each_name[N_EACH] = { "residual", "norm", "activation",
                                               "gate",     "lora", "bias" };

struct each_input {
    tensor x, res, gate, norm;
    linear w, beside, lora, bias;
};

static tensor each_op(struct cmd *c, uint32_t op, const struct each_input *in)
{
    const struct act swiglu = { ACT_SWIGLU, 0 }, relu2 = { ACT_RELU2, 0 };
    switch (op) {
    case EACH_NORM: return op_norm_linear(c, in->x, in->norm, EPS, LINEARS(&in->w, &in->beside));
    case EACH_ACT:
        return op_norm_linear_act(c, in->x, in->norm, EPS, LINEARS(&in->w, &in->beside), swiglu);
    case EACH_GATED: return op_linear_add_gated(c, in->x, &in->w, in->res, in->gate);
    case EACH_LORA: return op_linear_add(c, in->x, &in->lora, in->res);
    case EACH_BIAS: return op_linear_act(c, in->x, LINEARS(&in->bias), relu2);
    default: return op_linear_add(c, in->x, &in->w, in->res);
    }
}

/* Rows [row, row + n) of what has a row for each token. */
static struct each_input each_rows(struct each_input in, uint32_t row, uint32_t n)
{
    in.x = tensor_rows(in.x, row, n);
    in.res = tensor_rows(in.res, row, n);
    in.gate = tensor_rows(in.gate, row, n);
    return in;
}

/* Tokens together have the bits of each alone, also where every other token is not finite, or so
 * large that its sums are not. */
static void each_case(struct gpu *g, uint32_t op, enum dtype dtype, uint32_t n_in, uint32_t n_tok)
{
    enum { N_OUT = 44, STRIDE = 64 }; /* a binding can begin at every row */
    static const float bad[] = { NAN, INFINITY, 3e38f, -INFINITY };
    if (!test_case("each of %u tokens as if alone, %s, %s, n_in %u", n_tok, each_name[op],
                   dtype_info(dtype)->name, n_in))
        return;
    struct rig r = rig_open(g, "each");
    uint32_t stride = (uint32_t)align_up(n_in + 4, STRIDE);
    struct weight w = rig_weight(&r, dtype, n_in, N_OUT, 1, 1, false);
    struct each_input in[2] = { { .w = w.w, .bias = w.w } };
    if (op == EACH_NORM || op == EACH_ACT)
        in[0].beside = rig_weight(&r, dtype, n_in, N_OUT, 1, 1, true).w;
    if (op == EACH_LORA)
        in[0].lora = rig_lora(&r, w, 8, NULL).w;
    in[0].bias.bias = rig_dense(&r, rig_normal(&r, N_OUT, 1), N_OUT, 1);
    in[0].norm = rig_dense(&r, rig_normal(&r, n_in, 1), n_in, 1);
    in[1] = in[0];
    float *x = rig_normal(&r, (uint64_t)n_tok * n_in, 1.5);
    float *res = rig_normal(&r, (uint64_t)n_tok * N_OUT, 1), *gate = rig_normal(&r, n_tok, 2);
    for (uint32_t k = 0; k < 2; k++) {
        for (uint32_t i = 0; k && i < n_tok * n_in; i++)
            x[i] = i / n_in % 2 ? x[i] : bad[i / n_in / 2 % 4];
        in[k].x = rig_view(&r, F32, n_in, n_tok, stride, 4);
        in[k].res = rig_view(&r, F32, N_OUT, n_tok, STRIDE, 2);
        in[k].gate = rig_view(&r, F32, 1, n_tok, STRIDE, 1);
        rig_put(&r, in[k].x, x);
        rig_put(&r, in[k].res, res);
        rig_put(&r, in[k].gate, gate);
    }
    tensor all[2], alone[16];
    cmd_set_each(r.c, true);
    for (uint32_t k = 0; k < 2; k++)
        all[k] = each_op(r.c, op, &in[k]);
    cmd_set_each(r.c, false);
    for (uint32_t t = 0; t < n_tok; t++) {
        struct each_input one = each_rows(in[0], t, 1);
        alone[t] = each_op(r.c, op, &one);
    }
    bool good = rig_run(&r);
    for (uint32_t t = 0; good && t < n_tok; t++)
        for (uint32_t k = 0; good && k < (t % 2 ? 2 : 1); k++) {
            uint32_t n = all[k].n;
            const float *got = rig_get(&r, all[k]) + (uint64_t)t * n, *want = rig_get(&r, alone[t]);
            for (uint32_t i = 0; good && i < n; i++)
                good = memcmp(&got[i], &want[i], sizeof *got) == 0 ||
                       FAIL("token %u of %s has %.9g in column %u, alone %.9g", t,
                            k ? "tokens that are not all finite" : "all", (double)got[i], i,
                            (double)want[i]);
        }
    rig_close(&r);
}

/* A type's blocks are unpacked by the code of "rows", which test_types has for every type. An
 * ordinary run has one type for each way in which linear_each sums, and those that models are most
 * often quantised to. */
static bool each_takes(enum dtype dtype)
{
    bool common = dtype == Q4_0 || dtype == Q4_K || dtype == Q6_K;
    return test_all() || stands_for_all(dtype) || (common && !test_brief());
}

static void test_each(struct gpu *g)
{
    static const uint32_t n_tok[] = { 2, 3, 4, 7, 8, 9, 16 };
    for (uint32_t i = 0; i < ARRAY_LEN(weight_types); i++)
        if (each_takes(weight_types[i]))
            each_case(g, EACH_ADD, weight_types[i], 768, 5);
    for (uint32_t i = 0; i < ARRAY_LEN(n_tok); i++)
        each_case(g, EACH_ADD, i % 2 ? F32 : Q8_0, 768, n_tok[i]);
    for (uint32_t op = EACH_NORM; op < N_EACH; op++)
        each_case(g, op, Q8_0, 256, 2 + 5 * (op % 3));
    each_case(g, EACH_ADD, F32, 36, 16);
    each_case(g, EACH_ADD, Q2_K, 256, 11);
}

/* Rows whose sums are zero, very small and large; the width of one workgroup and more. */
static void norm_case(struct gpu *g, uint32_t n, uint32_t n_row)
{
    if (!test_case("norm %u x %u", n, n_row))
        return;
    struct rig r = rig_open(g, "norm");
    float *x_v = rig_normal(&r, (uint64_t)n * n_row, 1), *w_v = rig_normal(&r, n, 1);
    for (uint32_t row = 0; row < n_row; row++)
        for (uint32_t i = 0; i < n; i++)
            x_v[(uint64_t)row * n + i] *= row % 4 == 1 ? 0.0f : row % 4 == 2 ? 1e-4f : 1;
    tensor x = rig_strided(&r, x_v, n, n_row), w = rig_dense(&r, w_v, n, 1);
    tensor y = op_norm(r.c, x, w, EPS);
    double *want = rig_doubles(&r, x_v, (uint64_t)n * n_row);
    ref_rmsnorm(want, w_v, n, n_row, (double)EPS, want);
    if (rig_run(&r))
        rig_near(&r, "norm", y, want, 0);
    rig_close(&r);
}

/* ---- pieces ------------------------------------------------------------------------------ */

/* 129 rows of 256 f32 are 8 slabs of at most 16 rows (fewer where bindings must be aligned). */
static void pieces_linear(struct gpu *g)
{
    for (uint32_t i_path = 0; i_path < n_linear_path; i_path++) {
        const struct linear_path *path = &linear_paths[i_path];
        if (!takes(g, path))
            continue;
        struct pending_product p[2];
        if (!test_case("linear by %s in pieces", path->name))
            continue;
        struct rig r = rig_open(g, "linear in pieces");
        struct product prod = product_make(&r, path, F32, 256, 129, 2, false);
        p[0] = record(&r, path, &prod, (struct linear_row){ 129, 2, ADD, PLAIN });
        prod = product_make(&r, path, Q8_0, 288, 129, 1, false);
        p[1] = record(&r, path, &prod, (struct linear_row){ 129, 1, STORE, PLAIN });
        CHECK(linear_slab_rows(gpu_caps(g), &prod.w.w) < 129);
        check_pending(&r, path, F32, p, 2);
        rig_close(&r);
    }
}

static void pieces_refused(struct gpu *g)
{
    test_case("a row that no binding spans is refused");
    struct rig r = rig_open(g, "linear");
    struct product p = product_make(&r, &linear_paths[n_linear_path - 1], F32, 8192, 1, 1, false);
    tensor x = rig_view(&r, F32, 8192, 1, 8192, 0), y = rig_view(&r, F32, 1, 1, 4, 0);
    linear_by(r.c, &linear_paths[n_linear_path - 1],
              &(struct linear_args){ .x = x, .w = &p.w.w, .y = y });
    struct hlm_err err = { 0 };
    CHECK_REFUSED(cmd_end(r.c, &err), err, "binding");
    rig_close(&r);
}

void test_ops_linear(void)
{
    struct gpu *g = test_gpu();
    if (!g)
        return;
    test_embed(g);
    test_shapes(g);
    test_types(g);
    test_wide(g);
    test_real(g);
    op_case(g, 1);
    op_case(g, 7);
    test_each(g);
    static const uint32_t norm[][2] = { { 4, 1 },   { 4, 5 },     { 32, 3 },
                                        { 36, 5 },  { 252, 2 },   { 512, 1 },
                                        { 516, 5 }, { 1024, 17 }, { 5120, 3 } };
    for (uint32_t i = 0; i < ARRAY_LEN(norm); i++)
        norm_case(g, norm[i][0], norm[i][1]);
    ops_report(g);
}

void test_ops_pieces(void)
{
    struct gpu *g = ops_open_small(16384);
    if (!g)
        return;
    embed_case(g, Q6_K, 256, 200, 15, 3);
    embed_case(g, F32, 256, 17, 13, 0);
    embed_case(g, F32, 36, 257, 60, 0);
    pieces_linear(g);
    pieces_refused(g);
    ops_report(g);
    gpu_close(g);
}
