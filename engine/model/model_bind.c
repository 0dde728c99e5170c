/* model_bind: makes matrices and vectors on the device of named tensors. See arch.h. */
#include "model/binder.h"
#include "ops/pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *model_tensor_name(const char *fmt, uint32_t i_layer, char *buf, size_t n)
{
    const char *at = strstr(fmt, "%u");
    if (!at)
        snprintf(buf, n, "%s", fmt);
    else
        snprintf(buf, n, "%.*s%u%s", (int)(at - fmt), fmt, i_layer, at + 2);
    return buf;
}

bool model_has(struct binder *b, const char *name_fmt, uint32_t i_layer)
{
    char name[128];
    return gguf_tensor(b->m->file, model_tensor_name(name_fmt, i_layer, name, sizeof name)) != NULL;
}

/* The factors that an NVFP4 matrix has in another tensor; NULL: none. `<name without
 * .weight>.scale` multiplies the product, with one value for all or one for each expert.
 * `.input_scale` is for activations of that type, which hlm does not use. */
static const struct gguf_tensor *sidecar(const struct binder *b, const struct gguf_tensor *t,
                                         const char *what)
{
    char name[128];
    size_t n = strlen(t->name), cut = sizeof ".weight" - 1;
    if (n <= cut || strcmp(t->name + n - cut, ".weight") != 0)
        return NULL;
    snprintf(name, sizeof name, "%.*s.%s", (int)(n - cut), t->name, what);
    return gguf_tensor(b->m->file, name);
}

float bind_scale(const struct gguf_tensor *scale, uint64_t i)
{
    float v;
    memcpy(&v, scale->data + 4 * (scale->n_elem == 1 ? 0 : i), 4);
    return v;
}

/* Marks these tensors of t as used. False when they cannot be applied. */
static bool check_sidecars(struct binder *b, const struct gguf_tensor *t)
{
    const struct gguf_tensor *scale = sidecar(b, t, "scale"), *input = sidecar(b, t, "input_scale");
    uint64_t n_expert = t->n_dim > 2 ? t->dim[2] * t->dim[3] : 1;
    if (input && t->type == NVFP4)
        b->used[input->index] = true;
    if (!scale)
        return true;
    b->used[scale->index] = true;
    if (t->type != NVFP4)
        return fail(b->err, "%s: %s is a scale for %s, which is %s, expected NVFP4",
                    gguf_path(b->m->file), scale->name, t->name, dtype_info(t->type)->name);
    if (scale->type != F32 || (scale->n_elem != 1 && scale->n_elem != n_expert))
        return fail(b->err, "%s: %s is %s with %" PRIu64 " values, %s needs F32 with 1%s",
                    gguf_path(b->m->file), scale->name, dtype_info(scale->type)->name,
                    scale->n_elem, t->name, n_expert > 1 ? " or one for each expert" : "");
    for (uint64_t i = 0; i < scale->n_elem; i++)
        if (!isfinite(bind_scale(scale, i)))
            return fail(b->err, "%s: %s[%" PRIu64 "] is %g, %s needs finite scales",
                        gguf_path(b->m->file), scale->name, i, (double)bind_scale(scale, i),
                        t->name);
    return true;
}

/* The tensor with rows of n_in numbers, and n_row rows in all its dimensions. A vector may also be
 * a column in the file. */
static const struct gguf_tensor *find_tensor(struct binder *b, const char *name_fmt,
                                             uint32_t i_layer, uint32_t n_in, uint64_t n_row,
                                             bool vector)
{
    const struct gguf *g = b->m->file;
    char name[128];
    const struct gguf_tensor *t =
        gguf_tensor(g, model_tensor_name(name_fmt, i_layer, name, sizeof name));
    if (!t) {
        fail(b->err, "%s: tensor %s is missing", gguf_path(g), name);
        return NULL;
    }
    bool column = vector && n_row == 1 && t->dim[0] == 1 && t->n_elem == n_in;
    if (!column && (t->dim[0] != n_in || t->n_elem / t->dim[0] != n_row)) {
        fail(b->err, "%s: %s is %" PRIu64 " x %" PRIu64 ", %s needs %u x %" PRIu64, gguf_path(g),
             name, t->dim[0], t->n_elem / t->dim[0], b->prefix, n_in, n_row);
        return NULL;
    }
    const struct dtype_info *info = dtype_info(t->type);
    if (!info->to_f32 || !pack_supported(t->type)) {
        fail_as(b->err, HLM_ERR_UNSUPPORTED,
                "%s: %s has type %s, which this version of hlm cannot compute with", gguf_path(g),
                name, info->name);
        return NULL;
    }
    if (!check_sidecars(b, t))
        return NULL;
    b->used[t->index] = true;
    return t;
}

const struct gguf_tensor *bind_find(struct binder *b, const char *name_fmt, uint32_t i_layer,
                                    uint32_t n_in, uint64_t n_row)
{
    return find_tensor(b, name_fmt, i_layer, n_in, n_row, false);
}

bool model_vector(struct binder *b, const char *name, uint32_t n, float *v)
{
    const struct gguf_tensor *t = find_tensor(b, name, 0, n, 1, true);
    if (t)
        dtype_to_f32(t->type, t->data, n, v);
    return t != NULL;
}

/* ---- vectors --------------------------------------------------------------------------------- */

static void add_job(struct binder *b, struct upload_job j)
{
    if (j.t && j.t->type == NVFP4)
        j.scale = sidecar(b, j.t, "scale");
    if (!mem_reserve(&b->job, b->n_job + 1, &b->cap_job, sizeof *b->job)) {
        b->oom = true;
        return;
    }
    b->job[b->n_job++] = j;
}

/* The vector's tensor in the file; NULL with a reason. */
static const struct gguf_tensor *place_vector(struct binder *b, tensor *t, const char *name_fmt,
                                              uint32_t i_layer, uint32_t n, uint32_t n_row)
{
    const struct gguf_tensor *src = find_tensor(b, name_fmt, i_layer, n, n_row, true);
    if (!src)
        return NULL;
    *t = arena_tensor(b->m->weights, F32, n, n_row);
    b->m->n_param += src->n_elem;
    add_job(b, (struct upload_job){
                   .t = src, .offset = t->offset, .n_in = n, .n_row = n_row, .vector = true });
    return src;
}

bool bind_vector(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n,
                 uint32_t n_row)
{
    return place_vector(b, t, name_fmt, i_layer, n, n_row) != NULL;
}

bool bind_gate(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n)
{
    const struct gguf_tensor *src = place_vector(b, t, name_fmt, i_layer, n, 1);
    if (!src)
        return false;
    if (src->type != F32)
        log_msg(HLM_LOG_WARN, "%s: %s is stored as %s; gates belong in F32 and are converted",
                gguf_path(b->m->file), src->name, dtype_info(src->type)->name);
    b->oom |= !lora_base_gate(&b->m->base, *t, src);
    return true;
}

bool bind_bias(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer)
{
    return !model_has(b, name_fmt, i_layer) ||
           bind_vector(b, &w->bias, name_fmt, i_layer, w->n_out, 1);
}

bool bind_turns(struct binder *b, tensor *t, float theta, uint32_t n_rot, const float *factor)
{
    uint32_t *turn = mem_alloc(n_rot, sizeof *turn);
    if (!turn || !mem_reserve(&b->owned, b->n_owned + 1, &b->cap_owned, sizeof *b->owned)) {
        free(turn);
        return fail_memory(b->err, "out of memory: %u words", n_rot);
    }
    b->owned[b->n_owned++] = turn;
    rope_turns((double)theta, n_rot, factor, turn);
    *t = arena_tensor(b->m->weights, I32, n_rot, 1);
    add_job(b,
            (struct upload_job){ .words = turn, .offset = t->offset, .n_in = n_rot, .n_row = 1 });
    return true;
}

/* ---- matrices -------------------------------------------------------------------------------- */

/* Where the codebook of a type lies, which all matrices of the type share. 0: the type has none. */
static uint64_t place_codebook(struct binder *b, enum dtype dtype)
{
    uint32_t n = 0;
    const uint32_t *words = dtype_codebook(dtype, &n);
    if (words && !b->codebook[dtype]) {
        b->codebook[dtype] = arena_tensor(b->m->weights, I32, n, 1).offset;
        add_job(b, (struct upload_job){
                       .words = words, .offset = b->codebook[dtype], .n_in = n, .n_row = 1 });
    }
    return b->codebook[dtype];
}

void bind_begin(struct binder *b, linear *w, enum dtype dtype, struct matrix_size size,
                const linear *beside)
{
    HLM_ASSERT(!b->open && (!beside || beside == b->last));
    *w = (linear){ .arena = b->m->weights,
                   .dtype = dtype,
                   .n_in = size.n_in,
                   .n_out = size.n_out,
                   .n_expert = size.n_expert,
                   .row_q = (uint32_t)(pack_row_bytes(dtype, size.n_in) / 16) };
    b->oom |= !lora_base_matrix(&b->m->base, w, beside != NULL);
    bool joins = beside && beside->n_in == size.n_in && beside->dtype == dtype;
    uint64_t n_row = (uint64_t)size.n_out * size.n_expert;
    w->offset = arena_take(b->m->weights, n_row * w->row_q * 16, joins ? 16 : 0);
    /* after the matrix, so that no codebook has offset 0 */
    w->codebook = place_codebook(b, dtype);
    b->m->n_param += n_row * size.n_in;
    b->open = w;
    b->open_row = 0;
}

void bind_rows(struct binder *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n)
{
    HLM_ASSERT(b->open && t->type == b->open->dtype && t->dim[0] == b->open->n_in);
    add_job(b, (struct upload_job){ .t = t,
                                    .offset = b->open->offset + b->open_row * b->open->row_q * 16,
                                    .row0 = row0,
                                    .n_row = n,
                                    .n_in = b->open->n_in });
    b->oom = b->oom || !lora_base_rows(&b->m->base, t, row0, n);
    b->open_row += n;
}

void bind_end(struct binder *b)
{
    HLM_ASSERT(b->open && b->open_row == (uint64_t)b->open->n_out * b->open->n_expert);
    b->last = b->open;
    b->open = NULL;
}

/* A matrix that is one tensor of the file. */
static bool bind_whole(struct binder *b, linear *w, const struct gguf_tensor *t,
                       struct matrix_size size, const linear *beside)
{
    if (!t)
        return false;
    bind_begin(b, w, t->type, size, beside);
    bind_rows(b, t, 0, size.n_out * size.n_expert);
    bind_end(b);
    return true;
}

bool bind_experts(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer,
                  struct matrix_size size)
{
    uint64_t n_row = (uint64_t)size.n_out * size.n_expert;
    return bind_whole(b, w, bind_find(b, name_fmt, i_layer, size.n_in, n_row), size, NULL);
}

bool bind_linear(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out)
{
    return bind_experts(b, w, name_fmt, i_layer, (struct matrix_size){ n_in, n_out, 1 });
}

bool bind_group(struct binder *b, uint32_t i_layer, uint32_t n_in, const linear *beside,
                const struct bind_matrix *list, uint32_t n)
{
    for (const struct bind_matrix *m = list; m < list + n; beside = m++->w)
        if (!bind_whole(b, m->w, bind_find(b, m->name_fmt, i_layer, n_in, m->n_out),
                        (struct matrix_size){ n_in, m->n_out, 1 }, beside))
            return false;
    return true;
}

/* As in files with one tensor for both: the gate rows of an expert, then its up rows. */
bool bind_gate_up(struct binder *b, struct moe *m, uint32_t i_layer, uint32_t n_in)
{
    uint32_t ff = m->n_ff, n = m->n_expert;
    const struct matrix_size one = { n_in, ff, n }, both = { n_in, 2 * ff, n };
    if (model_has(b, "blk.%u.ffn_gate_up_exps.weight", i_layer))
        return bind_experts(b, &m->gate_up, "blk.%u.ffn_gate_up_exps.weight", i_layer, both);
    uint64_t n_row = (uint64_t)ff * n;
    const struct gguf_tensor *gate =
        bind_find(b, "blk.%u.ffn_gate_exps.weight", i_layer, n_in, n_row);
    const struct gguf_tensor *up =
        gate ? bind_find(b, "blk.%u.ffn_up_exps.weight", i_layer, n_in, n_row) : NULL;
    if (!up)
        return false;
    if (gate->type != up->type)
        return bind_whole(b, &m->gate, gate, one, NULL) && bind_whole(b, &m->up, up, one, NULL);
    bind_begin(b, &m->gate_up, gate->type, both, NULL);
    for (uint32_t e = 0; e < n; e++) {
        bind_rows(b, gate, (uint64_t)e * ff, ff);
        bind_rows(b, up, (uint64_t)e * ff, ff);
    }
    bind_end(b);
    return true;
}
