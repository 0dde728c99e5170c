/* ops: see ops.h. */
#include "ops.h"

#include "gpu/shaders.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BAND = 256 };                      /* bytes at least on either side of a tensor */
static const uint32_t GUARD = 0x7fc05a5a; /* a NaN; its halves are a NaN and a large number */

const enum dtype weight_types[N_WEIGHT_TYPE] = {
    F32,   F16,     BF16,  Q8_0,  Q4_0,  Q4_1,   Q5_0,  Q5_1,  Q4_K,    Q5_K,
    Q6_K,  IQ4_NL,  MXFP4, Q2_K,  Q3_K,  IQ4_XS, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS,
    IQ2_S, IQ3_XXS, IQ3_S, TQ1_0, TQ2_0, NVFP4,  Q1_0,  Q2_0,
};

/* ---- opening and closing ----------------------------------------------------------------- */

struct rig rig_open(struct gpu *g, const char *op)
{
    struct rig r = { .g = g, .op = op, .rng = { OPS_SEED } };
    r.mem = arena_create(g, op, MEM_DEVICE, &r.err);
    r.scratch = arena_create(g, "scratch", MEM_DEVICE, &r.err);
    HLM_ASSERT(r.mem && r.scratch);
    r.c = cmd_create(g, op, r.scratch, &r.err);
    HLM_ASSERT(r.c);
    r.head = cmd_scratch(r.c, I32, BAND / 4, 1);
    return r;
}

void rig_close(struct rig *r)
{
    cmd_destroy(r->c);
    tape_destroy(r->tape);
    arena_destroy(r->kept);
    arena_destroy(r->mem);
    arena_destroy(r->scratch);
    for (uint32_t i = 0; i < r->n_own; i++)
        free(r->own[i]);
    free(r->own);
    free(r->image);
    free(r->free);
    free(r->back);
}

void *rig_alloc(struct rig *r, uint64_t n, uint64_t size)
{
    void *p = mem_alloc(n ? n : 1, size);
    r->own = mem_grow(r->own, r->n_own + 1u, sizeof *r->own);
    HLM_ASSERT(p && r->own);
    return r->own[r->n_own++] = p;
}

struct gpu *ops_open_small(uint64_t max_range)
{
    test_case("a device that binds %llu KiB", (unsigned long long)(max_range >> 10));
    if (!test_gpu())
        return NULL;
    struct gpu_params params = { .cache_dir = "build/cache",
                                 .validate = true,
                                 .test_max_range = max_range };
    struct hlm_err err = { 0 };
    struct gpu *g = gpu_open(&params, &err);
    params.validate = false;
    if (!g && strstr(err.msg, "validation layer"))
        g = gpu_open(&params, &(struct hlm_err){ 0 });
    CHECK_MSG(g, "%s", err.msg);
    return g;
}

bool ops_brief_skips(enum kernel k)
{
    enum { HEADER = 5, OP_CAPABILITY = 17, GROUP_NON_UNIFORM = 61 };
    const uint32_t *w = hlm_shaders[k].words;
    bool has = false;
    if (!test_brief() || !w)
        return false;
    /* capabilities come first; an instruction's length is in the upper half of its word */
    for (uint32_t at = HEADER; (w[at] & 0xffff) == OP_CAPABILITY; at += w[at] >> 16)
        has = has || w[at + 1] == GROUP_NON_UNIFORM;
    return !has;
}

/* ---- what the op is given ---------------------------------------------------------------- */

static uint64_t take(struct rig *r, uint64_t bytes, uint64_t align)
{
    if (align == 0)
        arena_take(r->mem, BAND, 0);
    uint64_t at = arena_take(r->mem, bytes, align), end = align_up(at + bytes, 16) + BAND;
    end = max_u64(end, r->n_image);
    r->image = mem_grow(r->image, end, 1);
    r->free = mem_grow(r->free, end, 1);
    HLM_ASSERT(r->image && r->free);
    for (uint64_t i = r->n_image; i < end; i += 4)
        memcpy(r->image + i, &GUARD, 4);
    memset(r->free + r->n_image, 0, end - r->n_image);
    r->n_image = end;
    return at;
}

tensor rig_view(struct rig *r, enum dtype dtype, uint32_t n, uint32_t n_row, uint32_t stride,
                uint32_t col)
{
    tensor t = {
        .arena = r->mem, .dtype = dtype, .n = n, .n_row = n_row, .stride = stride, .col = col
    };
    HLM_ASSERT(col + n <= stride);
    t.offset = take(r, tensor_bytes(t), 0);
    return t;
}

static uint64_t place(tensor t, uint32_t row, uint32_t i)
{
    return t.offset + row * tensor_row_bytes(t) + ((uint64_t)t.col + i) * tensor_elem_bytes(t);
}

/* Rows of a cache of 8 bits (tensor.h): quants, then the scale of every 32 of them. */
static void q8_put(uint8_t *row, const float *v, uint32_t n)
{
    for (uint32_t b = 0; b < n; b += 32) {
        float top = 0;
        for (uint32_t i = b; i < n && i < b + 32; i++)
            top = fmaxf(top, fabsf(v[i]));
        uint16_t half = f32_to_f16(top / 127);
        float d = f16_to_f32(half);
        memcpy(row + n + b / 16, &half, 2);
        for (uint32_t i = b; i < n && i < b + 32; i++)
            row[i] = (uint8_t)(int8_t)(d > 0 ? fmaxf(-127, fminf(rintf(v[i] / d), 127)) : 0);
    }
    if (n % 64 - 1 < 32) /* an odd number of scales: the last half is zero */
        memset(row + n + (n + 31) / 32 * 2, 0, 2);
}

static void q8_get(const uint8_t *row, uint32_t n, float *v)
{
    for (uint32_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, row + n + i / 32 * 2, 2);
        v[i] = f16_to_f32(half) * (float)(int8_t)row[i];
    }
}

void rig_put(struct rig *r, tensor t, const float *v)
{
    for (uint32_t row = 0; t.dtype == Q8_0 && row < t.n_row; row++)
        q8_put(r->image + place(t, row, 0), v + (uint64_t)row * t.n, t.n);
    for (uint32_t row = 0; t.dtype != Q8_0 && row < t.n_row; row++)
        for (uint32_t i = 0; i < t.n; i++, v++) {
            uint16_t half = f32_to_f16(*v);
            if (t.dtype == F16)
                memcpy(r->image + place(t, row, i), &half, 2);
            else
                memcpy(r->image + place(t, row, i), v, 4);
        }
}

void rig_put_words(struct rig *r, tensor t, const void *words)
{
    memcpy(r->image + t.offset, words, tensor_bytes(t));
}

void rig_writes_rows(struct rig *r, tensor t, uint32_t row, uint32_t n)
{
    uint64_t bytes = t.dtype == Q8_0 ? tensor_row_bytes(t) : (uint64_t)t.n * tensor_elem_bytes(t);
    for (uint32_t i = row; i < row + n; i++)
        memset(r->free + place(t, i, 0), 1, bytes);
}

void rig_writes(struct rig *r, tensor t) { rig_writes_rows(r, t, 0, t.n_row); }

tensor rig_dense(struct rig *r, const float *v, uint32_t n, uint32_t n_row)
{
    tensor t = rig_view(r, F32, n, n_row, n, 0);
    rig_put(r, t, v);
    return t;
}

tensor rig_strided(struct rig *r, const float *v, uint32_t n, uint32_t n_row)
{
    tensor t = rig_view(r, F32, n, n_row, (uint32_t)align_up(n, 4) + 12, 4);
    rig_put(r, t, v);
    return t;
}

tensor rig_words(struct rig *r, const void *words, uint32_t n)
{
    tensor t = rig_view(r, I32, n, 1, n, 0);
    rig_put_words(r, t, words);
    return t;
}

struct batch rig_batch(struct rig *r, uint32_t n_tok, const struct segment *seg, const int32_t *ids,
                       uint32_t n_ids, bool moves)
{
    struct batch b = { .n_tok = n_tok, .n_seg = 1 };
    b.step = rig_words(r, seg, sizeof *seg / 4);
    b.ids = rig_view(r, I32, n_ids ? n_ids : 1, 1, n_ids ? n_ids : 1, 0);
    if (n_ids)
        rig_put_words(r, b.ids, ids);
    if (moves)
        rig_writes(r, b.step);
    return b;
}

float *rig_normal(struct rig *r, uint64_t n, double scale)
{
    float *v = rig_alloc(r, n, sizeof *v);
    for (uint64_t i = 0; i < n; i++)
        v[i] = (float)(rng_normal(&r->rng) * scale);
    return v;
}

double *rig_doubles(struct rig *r, const float *v, uint64_t n)
{
    double *d = rig_alloc(r, n, sizeof *d);
    for (uint64_t i = 0; v && i < n; i++)
        d[i] = (double)v[i];
    return d;
}

/* ---- weights ----------------------------------------------------------------------------- */

static void put16(uint8_t *at, uint16_t v) { memcpy(at, &v, 2); }

/* A scale: about `scale` with either sign; or zeros, denormals and the largest there are. */
static uint16_t random_half(struct rng *rng, double scale, bool extreme)
{
    static const uint16_t edge[] = {
        0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x3c00, 0x7bff, 0xfbff
    };
    uint16_t any = (uint16_t)rng_u64(rng);
    if (!extreme) {
        double v = scale * (0.5 + rng_unit(rng));
        return f32_to_f16((float)(any & 1 ? -v : v));
    }
    if (any % 3 == 0)
        return edge[rng_u64(rng) % ARRAY_LEN(edge)];
    return (any & 0x7c00) == 0x7c00 ? any & 0x87ff : any; /* finite */
}

/* Where a block has its halves, and what a code is about when the scale is 1. */
static const struct layout {
    int d, min;
    double code, min_code;
} layouts[DTYPE_COUNT] = {
    [Q2_K] = { 80, 82, 1.3 * 8.8, 1.5 }, [Q3_K] = { 108, -1, 2.3 * 18, 0 },
    [IQ4_XS] = { 0, -1, 67 * 18, 0 },    [IQ1_S] = { 0, -1, 0.8 * 9, 0 },
    [IQ1_M] = { -1, -1, 0.8 * 9, 0 },    [IQ2_XXS] = { 0, -1, 24 * 2.3, 0 },
    [IQ2_XS] = { 0, -1, 24 * 2.3, 0 },   [IQ2_S] = { 0, -1, 24 * 2.3, 0 },
    [IQ3_XXS] = { 0, -1, 25 * 4.6, 0 },  [IQ3_S] = { 0, -1, 7 * 18, 0 },
    [TQ1_0] = { 52, -1, 0.8, 0 },        [TQ2_0] = { 64, -1, 1.2, 0 },
    [NVFP4] = { -1, -1, 6, 0 },          [Q1_0] = { 0, -1, 1, 0 },
    [Q2_0] = { 0, -1, 1.2, 0 },          [Q8_0] = { 0, -1, 74, 0 },
    [Q4_0] = { 0, -1, 4.6, 0 },          [Q4_1] = { 0, 2, 4.6, 7.5 },
    [Q5_0] = { 0, -1, 9.2, 0 },          [Q5_1] = { 0, 2, 9.2, 15.5 },
    [IQ4_NL] = { 0, -1, 67, 0 },         [Q4_K] = { 0, 2, 4.6 * 36, 7.5 },
    [Q5_K] = { 0, 2, 9.2 * 36, 15.5 },   [Q6_K] = { 208, -1, 18.5 * 74, 0 },
};

static uint32_t random_bits(struct rng *rng, enum dtype dtype, double scale, bool extreme)
{
    uint32_t u = (uint32_t)rng_u64(rng);
    float f = (float)(rng_normal(rng) * scale);
    if (dtype == F16)
        return random_half(rng, fabs((double)f), extreme);
    if (!extreme)
        memcpy(&u, &f, 4);
    else if ((u & 0x7f800000) == 0x7f800000)
        u &= ~0x40000000u; /* finite */
    return dtype == BF16 ? u >> 16 : u;
}

void random_block(struct rng *rng, enum dtype dtype, double scale, bool extreme, uint8_t *block)
{
    uint32_t n = dtype_info(dtype)->block_bytes;
    const struct layout *l = &layouts[dtype];
    if (dtype == F32 || dtype == F16 || dtype == BF16) {
        uint32_t bits = random_bits(rng, dtype, scale, extreme);
        memcpy(block, &bits, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        block[i] = (uint8_t)rng_u64(rng);
    if (dtype == MXFP4) {
        int e = 127 + (int)lround(log2(scale / 3)) + block[0] % 2;
        block[0] = (uint8_t)(extreme ? block[0] % 253 : e);
        if (extreme && rng_u64(rng) % 4 == 0)
            block[0] %= 4; /* the denormal ones */
        return;
    }
    if (dtype == NVFP4) { /* E4M3; any code, or what is about the scale */
        for (int s = 0; s < 4 && !extreme; s++)
            block[s] = (uint8_t)(8 * (7 + (int)lround(log2(2 * scale / l->code))) + block[s] % 8);
        return;
    }
    uint16_t d = random_half(rng, scale / l->code, extreme);
    for (int i = 0; i < 4 && dtype == IQ1_M; i++) /* a nibble atop each word of scales */
        block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (d >> 4 * i & 15) << 4);
    if (l->d >= 0)
        put16(block + l->d, d);
    if (l->min >= 0) { /* codes about zero; K-quants subtract it, the others add it */
        float min = f16_to_f32(d) * (float)l->min_code;
        bool k = dtype == Q4_K || dtype == Q5_K || dtype == Q2_K;
        put16(block + l->min, extreme ? random_half(rng, 1, true) : f32_to_f16(k ? min : -min));
    }
}

struct weight rig_blocks(struct rig *r, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                         uint32_t n_expert, const void *rows, bool beside)
{
    uint64_t n_row = (uint64_t)n_out * n_expert, row_bytes, bytes = pack_row_bytes(dtype, n_in);
    float *v = rig_alloc(r, n_row * n_in, sizeof *v);
    HLM_ASSERT(dtype_bytes(dtype, n_in, &row_bytes));
    struct weight w = { .v = v };
    w.w = (linear){ .arena = r->mem,
                    .dtype = dtype,
                    .n_in = n_in,
                    .n_out = n_out,
                    .n_expert = n_expert,
                    .row_q = (uint32_t)(bytes / 16) };
    w.w.offset = take(r, n_row * bytes, beside ? 16 : 0);
    uint32_t n_word = 0;
    const uint32_t *codebook = dtype_codebook(dtype, &n_word);
    if (codebook) {
        w.w.codebook = take(r, 4ull * n_word, 0);
        memcpy(r->image + w.w.codebook, codebook, 4ull * n_word);
    }
    for (uint64_t i = 0; i < n_row; i++) {
        const uint8_t *src = (const uint8_t *)rows + i * row_bytes;
        pack_row(dtype, src, n_in, r->image + w.w.offset + i * bytes);
        dtype_to_f32(dtype, src, n_in, v + i * n_in);
    }
    return w;
}

struct weight rig_weight(struct rig *r, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                         uint32_t n_expert, double gain, bool beside)
{
    const struct dtype_info *info = dtype_info(dtype);
    uint64_t n = (uint64_t)n_out * n_expert * n_in / info->block_len;
    HLM_ASSERT(n_in % info->block_len == 0);
    uint8_t *rows = rig_alloc(r, n, info->block_bytes);
    for (uint64_t i = 0; i < n; i++)
        random_block(&r->rng, dtype, gain / sqrt(n_in), false, rows + i * info->block_bytes);
    return rig_blocks(r, dtype, n_in, n_out, n_expert, rows, beside);
}

struct weight rig_f16_weight(struct rig *r, struct weight w)
{
    uint64_t n = (uint64_t)w.w.n_expert * w.w.n_out * w.w.n_in;
    float *v = rig_alloc(r, n, sizeof *v);
    for (uint64_t i = 0; i < n; i++) {
        float by = w.w.dtype == F32 ? 64 : 1, first = f16_to_f32(f32_to_f16(by * w.v[i]));
        float rest = w.w.dtype == F32 ? by * w.v[i] - first : 0;
        v[i] = (first + f16_to_f32(f32_to_f16(rest))) / by;
    }
    w.v = v;
    return w;
}

float *rig_f16_rows(struct rig *r, const float *v, uint32_t n, uint32_t n_row)
{
    float *out = rig_alloc(r, (uint64_t)n * n_row, sizeof *out);
    for (uint32_t row = 0; row < n_row; row++) {
        const float *from = v + (uint64_t)row * n;
        float top = 0;
        int e;
        for (uint32_t i = 0; i < n; i++)
            top = fmaxf(top, fabsf(from[i]));
        frexpf(top, &e); /* top is in [2^(e-1), 2^e) */
        for (uint32_t i = 0; i < n; i++)
            out[(uint64_t)row * n + i] =
                ldexpf(f16_to_f32(f32_to_f16(ldexpf(from[i], 15 - e))), e - 15);
    }
    return out;
}

struct weight rig_lora(struct rig *r, struct weight w, uint32_t rank, const struct weight *share)
{
    uint64_t n_in = w.w.n_in, n_out = w.w.n_out, n_e = w.w.n_expert;
    struct lora *l = rig_alloc(r, 1, sizeof *l);
    float *v = rig_alloc(r, n_in * n_out * n_e, sizeof *v);
    struct weight a;
    if (share)
        a = (struct weight){ .w = share->w.lora->a, .v = share->lora_a };
    else
        a = rig_weight(r, F32, w.w.n_in, rank, w.w.n_expert, 1, false);
    struct weight b = rig_weight(r, F32, rank, w.w.n_out, w.w.n_expert, 1, share != NULL);
    for (uint64_t i = 0; i < n_e * n_out; i++)
        for (uint64_t j = 0; j < n_in; j++) {
            double sum = (double)w.v[i * n_in + j];
            for (uint64_t k = 0; k < rank; k++)
                sum += (double)b.v[i * rank + k] * (double)a.v[(i / n_out * rank + k) * n_in + j];
            v[i * n_in + j] = (float)sum;
        }
    *l =
        (struct lora){ .a = a.w, .b = b.w, .id = share ? share->w.lora->id : (uint32_t)b.w.offset };
    w.w.lora = l;
    w.base = w.v;
    w.v = v;
    w.lora_a = a.v;
    w.lora_b = b.v;
    return w;
}

/* ---- running ----------------------------------------------------------------------------- */

static bool ok(struct rig *r, bool result)
{
    return result || FAIL("%s", r->err.kind ? r->err.msg : "no reason given");
}

static bool is_guard(const void *at) { return memcmp(at, &GUARD, 4) == 0; }

static bool band_whole(struct rig *r, const char *which, tensor t)
{
    uint32_t word[BAND / 4];
    if (!ok(r, gpu_read(r->g, t, 0, word, sizeof word, &r->err)))
        return false;
    for (uint32_t i = 0; i < ARRAY_LEN(word); i++)
        if (!is_guard(&word[i]))
            return FAIL("%s: scratch: the band %s it was written at word %u: %08x", r->op, which, i,
                        word[i]);
    return true;
}

/* Scratch is given the guard's NaN by a cmd of its own. */
static bool fill_scratch(struct rig *r)
{
    struct cmd *c = cmd_create(r->g, "guards", NULL, &r->err);
    tensor all = r->head;
    all.n = all.stride = (uint32_t)((r->tail.offset - r->head.offset) / 4 + BAND / 4);
    cmd_fill(c, all, tensor_bytes(all), GUARD);
    bool done = cmd_end(c, &r->err) && cmd_submit(c, &r->err);
    cmd_destroy(c);
    return done;
}

static bool unchanged(struct rig *r)
{
    for (uint64_t i = 0; i < r->n_image; i++)
        if (r->back[i] != r->image[i] && !r->free[i])
            return FAIL("%s: byte %llu of the inputs and bands, which nothing may write, was "
                        "%02x and is %02x",
                        r->op, (unsigned long long)i, r->image[i], r->back[i]);
    return true;
}

bool rig_run(struct rig *r)
{
    struct hlm_err *err = &r->err;
    tensor all = { .arena = r->mem, .dtype = I32, .n = 4, .n_row = 1, .stride = 4 };
    r->tail = cmd_scratch(r->c, I32, BAND / 4, 1);
    arena_take(r->mem, BAND, 16);
    r->back = mem_alloc(r->n_image + 1, 1);
    HLM_ASSERT(r->back);
    r->ran = ok(r, arena_commit(r->mem, err) && arena_commit(r->scratch, err) &&
                       (!r->kept || arena_commit(r->kept, err)) &&
                       gpu_write(r->g, all, 0, r->image, r->n_image, err) && cmd_end(r->c, err) &&
                       fill_scratch(r) && cmd_submit(r->c, err) && gpu_wait(r->g, err) &&
                       gpu_read(r->g, all, 0, r->back, r->n_image, err)) &&
             band_whole(r, "before", r->head) && band_whole(r, "after", r->tail) && unchanged(r);
    return r->ran;
}

/* ---- comparing --------------------------------------------------------------------------- */

/* The rows of t as they lie, from the copy that came back or from the device. */
static uint8_t *raw(struct rig *r, tensor t)
{
    uint8_t *bytes = rig_alloc(r, tensor_bytes(t) + 1, 1);
    if (t.arena == r->mem)
        memcpy(bytes, r->back + t.offset, tensor_bytes(t));
    else
        ok(r, gpu_read(r->g, t, 0, bytes, tensor_bytes(t), &r->err));
    return bytes;
}

float *rig_get(struct rig *r, tensor t)
{
    uint8_t *bytes = raw(r, t);
    float *v = rig_alloc(r, (uint64_t)t.n * t.n_row, sizeof *v);
    for (uint32_t row = 0; t.dtype == Q8_0 && row < t.n_row; row++)
        q8_get(bytes + row * tensor_row_bytes(t), t.n, v + (uint64_t)row * t.n);
    for (uint32_t row = 0; t.dtype != Q8_0 && row < t.n_row; row++)
        for (uint32_t i = 0; i < t.stride; i++) {
            const uint8_t *at = bytes + ((uint64_t)row * t.stride + i) * tensor_elem_bytes(t);
            float *to = v + (uint64_t)row * t.n + (i - t.col);
            uint16_t half;
            memcpy(&half, at, 2);
            if (i < t.col || i >= t.col + t.n) {
                if (t.arena != r->mem && t.col == 0 && !is_guard(at))
                    FAIL("%s: row %u is written past its end, at %u", r->op, row, i);
            } else if (t.dtype == F16) {
                *to = f16_to_f32(half);
            } else {
                memcpy(to, at, 4);
            }
        }
    return v;
}

/* What checked cases have dispatched, by kernel: the op of the first such rig; the constants that
 * some of them gave. */
static struct checked {
    const char *op;
    uint64_t constants;
} checked[KERNEL_COUNT];

void rig_checked(struct rig *r)
{
    for (uint32_t k = 0; r->ran && !r->checked && k < KERNEL_COUNT; k++) {
        uint64_t given = cmd_constants(r->c, k);
        if (given && !checked[k].op)
            checked[k].op = r->op;
        checked[k].constants |= given;
    }
    r->checked = true;
}

/* Worst so far by op, for the log. */
static struct worst {
    const char *op;
    double nmse, max_abs;
} worst[64];

static void note(const char *op, const char *what, struct diff d)
{
    static char names[ARRAY_LEN(worst)][64];
    char name[64];
    snprintf(name, sizeof name, "%s: %s", op, what);
    uint32_t i = 0;
    while (i < ARRAY_LEN(worst) - 1 && worst[i].op && strcmp(worst[i].op, name) != 0)
        i++;
    if (!worst[i].op)
        worst[i].op = strcpy(names[i], name);
    worst[i].nmse = fmax(worst[i].nmse, d.nmse);
    worst[i].max_abs = fmax(worst[i].max_abs, d.max_abs);
}

double *rig_columns(struct rig *r, const struct rig_rows *p, uint32_t col, uint32_t n)
{
    double *out = rig_doubles(r, NULL, (uint64_t)p->n_row * n);
    for (uint64_t t = 0; t < p->n_row; t++)
        for (uint64_t i = 0; i < n; i++)
            out[t * n + i] = (double)p->v[t * p->n + col + i];
    return out;
}

double ops_tolerance(enum dtype dtype)
{
    /* Worst measured: f32 6e-13 (products of 1024 in one sum), f16 8e-8 (rounding to nearest). */
    return dtype == F16 ? 1.5e-7 : 1e-12;
}

bool rig_near_values(struct rig *r, const char *what, const float *got, const double *want,
                     uint32_t n, uint32_t n_row, double tol)
{
    struct diff d = diff_f64(got, want, (uint64_t)n * n_row);
    note(r->op, what, d);
    rig_checked(r);
    return d.nmse <= tol ||
           FAIL("%s: [%u, %u] is %.9g, expected %.9g; nmse %.2g, at most %.2g (seed %u)", what,
                (uint32_t)(d.at / n), (uint32_t)(d.at % n), (double)got[d.at], want[d.at], d.nmse,
                tol, OPS_SEED);
}

bool rig_near(struct rig *r, const char *what, tensor t, const double *want, double tol)
{
    return rig_near_values(r, what, rig_get(r, t), want, t.n, t.n_row,
                           tol > 0 ? tol : ops_tolerance(t.dtype));
}

void rig_advanced(struct rig *r, const struct batch *b, struct segment was, uint32_t n_tok,
                  uint32_t slot)
{
    was.pos += n_tok;
    was.slot_in = slot;
    was.slot_out = 2 - slot;
    CHECK_MSG(memcmp(r->back + b->step.offset, &was, sizeof was) == 0,
              "the segment is not what op_advance should make of it");
}

void ops_report(struct gpu *g)
{
    for (uint32_t i = 0; i < ARRAY_LEN(worst) && worst[i].op; i++)
        test_note("%s: worst nmse %.2g, max abs %.2g", worst[i].op, worst[i].nmse,
                  worst[i].max_abs);
    memset(worst, 0, sizeof worst);
    test_case("no message of the validation layer");
    CHECK_EQ(gpu_validation_count(g), 0);
}

/* ---- the ledger -------------------------------------------------------------------------- */

/* Of the products' kernels, whether one of their paths runs here; all others run everywhere. */
static bool device_runs(const struct gpu_caps *caps, enum kernel k)
{
    bool product = false, runs = false;
    for (uint32_t i = 0; i < n_linear_path + n_linear_bwd_path; i++) {
        const struct linear_path *p =
            i < n_linear_path ? &linear_paths[i] : &linear_bwd_paths[i - n_linear_path];
        product = product || p->kernel == k;
        runs = runs || (p->kernel == k && linear_path_runs(caps, p));
    }
    return !product || runs;
}

/* Names, one after the other, of what the ledger misses. */
struct missing {
    char names[4096];
    size_t n;
};

static void missing_add(struct missing *m, const char *kernel, const char *constant)
{
    size_t room = sizeof m->names - m->n;
    int n = snprintf(m->names + m->n, room, "%s%s%s%s", m->n ? ", " : "", kernel,
                     constant ? "'s " : "", constant ? constant : "");
    m->n = min_u64(m->n + (size_t)n, sizeof m->names - 1);
}

/* A choice that no case ever makes is one that C has no name for, or that nothing tests. What
 * subgroups a workgroup has is the device's matter. */
static void missing_choices(struct missing *m, enum kernel k)
{
    static const char *const name[N_CONSTANT] = {
#define CONSTANT(id, name) [id] = #name,
#include "shaders/spec.def"
#undef CONSTANT
    };
    const struct shader *s = &hlm_shaders[k];
    uint64_t never = s->constants & ~s->sizes & ~checked[k].constants;
    for (uint32_t id = 0; id < N_CONSTANT; id++)
        if (never >> id & 1 && id != offsetof(struct spec, one_subgroup) / 4)
            missing_add(m, kernel_table[k].name, name[id]);
}

/* Last of the group. K_test_axpy is the GPU layer's own, and checked there. */
void test_ops_ledger(void)
{
    struct missing kernels = { .n = 0 }, choices = { .n = 0 };
    struct gpu *g;
    if (test_brief())
        return;
    test_case("every kernel that the device runs is dispatched by a checked case");
    if (!test_whole_group()) {
        test_skip("not all of the group has run");
        return;
    }
    if (!(g = test_gpu()))
        return;
    for (uint32_t k = 0; k < KERNEL_COUNT; k++)
        if (checked[k].op) {
            log_msg(HLM_LOG_INFO, "%s: checked first in \"%s\"", kernel_table[k].name,
                    checked[k].op);
            missing_choices(&choices, k);
        } else if (k != K_test_axpy && device_runs(gpu_caps(g), k)) {
            missing_add(&kernels, kernel_table[k].name, NULL);
        }
    CHECK_MSG(!kernels.n, "no case dispatches and compares %s", kernels.names);
    test_case("every choice of these kernels is made by one");
    CHECK_MSG(!choices.n, "no checked case gives %s", choices.names);
}
