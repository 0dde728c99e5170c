/* model_bind: turning names of tensors into matrices and vectors on the device; see arch.h. */
#include "model/binder.h"
#include "ops/pack.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *tensor_name(const char *fmt, uint32_t i_layer, char *buf, size_t n)
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
    return gguf_tensor(b->m->file, tensor_name(name_fmt, i_layer, name, sizeof name)) != NULL;
}

/* NVFP4 keeps numbers beside a matrix: `<name without .weight>.scale` multiplies the product, one
 * value or one an expert; `.input_scale` would be for activations of the same type. NULL: there is
 * none. */
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

/* Marks what stands beside t; false when it cannot be applied. */
static bool find_sidecars(struct binder *b, const struct gguf_tensor *t)
{
    const struct gguf_tensor *scale = sidecar(b, t, "scale"), *input = sidecar(b, t, "input_scale");
    uint64_t n_expert = t->n_dim > 2 ? t->dim[2] * t->dim[3] : 1;
    if (input && t->type == NVFP4)
        b->used[input->index] = true;
    if (!scale)
        return true;
    b->used[scale->index] = true;
    if (t->type != NVFP4)
        return fail(b->err, "%s: %s is a scale for %s, which is %s; expected NVFP4",
                    gguf_path(b->m->file), scale->name, t->name, dtype_info(t->type)->name);
    if (scale->type != F32 || (scale->n_elem != 1 && scale->n_elem != n_expert))
        return fail(b->err, "%s: %s is %s with %" PRIu64 " values, %s needs F32 with 1%s",
                    gguf_path(b->m->file), scale->name, dtype_info(scale->type)->name,
                    scale->n_elem, t->name, n_expert > 1 ? " or one an expert" : "");
    for (uint64_t i = 0; i < scale->n_elem; i++)
        if (!isfinite(bind_scale(scale, i)))
            return fail(b->err, "%s: %s[%" PRIu64 "] is %g, %s needs finite scales",
                        gguf_path(b->m->file), scale->name, i, (double)bind_scale(scale, i),
                        t->name);
    return true;
}

/* A vector may also stand in its file as a column. */
static const struct gguf_tensor *find(struct binder *b, const char *name_fmt, uint32_t i_layer,
                                      uint32_t n_in, uint64_t n_row, bool vector)
{
    const struct gguf *g = b->m->file;
    char name[128];
    const struct gguf_tensor *t = gguf_tensor(g, tensor_name(name_fmt, i_layer, name, sizeof name));
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
        fail(b->err, "%s: %s has type %s, which this version of hlm cannot compute with",
             gguf_path(g), name, info->name);
        return NULL;
    }
    if (!find_sidecars(b, t))
        return NULL;
    b->used[t->index] = true;
    return t;
}

/* The tensor with this row length and number of rows, whatever dimensions the rows are
 * spread over. */
const struct gguf_tensor *bind_find(struct binder *b, const char *name_fmt, uint32_t i_layer,
                                    uint32_t n_in, uint64_t n_row)
{
    return find(b, name_fmt, i_layer, n_in, n_row, false);
}

bool model_vector(struct binder *b, const char *name, uint32_t n, float *v)
{
    const struct gguf_tensor *t = find(b, name, 0, n, 1, true);
    if (t)
        dtype_to_f32(t->type, t->data, n, v);
    return t != NULL;
}

static void add_job(struct binder *b, struct job j)
{
    if (j.t && j.t->type == NVFP4)
        j.scale = sidecar(b, j.t, "scale");
    if (b->n_job == b->cap_job) {
        uint64_t cap = b->cap_job ? 2 * b->cap_job : 256;
        struct job *grown = mem_grow(b->job, cap, sizeof *grown);
        if (!grown) {
            b->oom = true;
            return;
        }
        b->job = grown;
        b->cap_job = cap;
    }
    b->job[b->n_job++] = j;
}

bool bind_vector(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n,
                 uint32_t n_row)
{
    const struct gguf_tensor *src = find(b, name_fmt, i_layer, n, n_row, true);
    if (!src)
        return false;
    *t = arena_tensor(b->m->weights, F32, n, n_row);
    b->m->n_param += src->n_elem;
    add_job(b, (struct job){
                   .t = src, .offset = t->offset, .n_in = n, .n_row = n_row, .vector = true });
    return true;
}

bool bind_gate(struct binder *b, tensor *t, const char *name_fmt, uint32_t i_layer, uint32_t n)
{
    if (!bind_vector(b, t, name_fmt, i_layer, n, 1))
        return false;
    const struct gguf_tensor *src = b->job[b->n_job - 1].t;
    if (src->type != F32)
        log_msg(HLM_LOG_WARN, "%s: %s is stored as %s; gates belong in F32 and are converted",
                gguf_path(b->m->file), src->name, dtype_info(src->type)->name);
    b->oom |= !lora_base_gate(&b->m->base, *t, src);
    return true;
}

bool bind_words(struct binder *b, tensor *t, const uint32_t *words, uint32_t n)
{
    void **owned = mem_grow(b->owned, b->n_owned + 1u, sizeof *owned);
    uint32_t *copy = mem_alloc(n, sizeof *copy);
    if (owned)
        b->owned = owned;
    if (!owned || !copy) {
        free(copy);
        return fail(b->err, "out of memory: %u words", n);
    }
    b->owned[b->n_owned++] = copy;
    memcpy(copy, words, n * sizeof *copy);
    *t = arena_tensor(b->m->weights, I32, n, 1);
    add_job(b, (struct job){ .words = copy, .offset = t->offset, .n_in = n, .n_row = 1 });
    return true;
}

/* Where the lattice of a type lies, once in the arena for all matrices; 0 for types without. */
static uint64_t codebook_place(struct binder *b, enum dtype dtype)
{
    uint32_t n = 0;
    const uint32_t *words = dtype_codebook(dtype, &n);
    if (words && !b->codebook[dtype]) {
        b->codebook[dtype] = arena_tensor(b->m->weights, I32, n, 1).offset;
        add_job(
            b, (struct job){ .words = words, .offset = b->codebook[dtype], .n_in = n, .n_row = 1 });
    }
    return b->codebook[dtype];
}

void bind_begin(struct binder *b, linear *w, enum dtype dtype, uint32_t n_in, uint32_t n_out,
                uint32_t n_expert)
{
    *w = (linear){ .arena = b->m->weights,
                   .dtype = dtype,
                   .n_in = n_in,
                   .n_out = n_out,
                   .n_expert = n_expert,
                   .row_q = (uint32_t)(pack_row_bytes(dtype, n_in) / 16) };
    b->oom |= !lora_base_matrix(&b->m->base, w, b->beside);
    bool joins = b->beside && b->last.n_in == n_in && b->last.dtype == dtype;
    b->beside = false;
    uint64_t bytes = (uint64_t)n_out * n_expert * w->row_q * 16;
    w->offset = arena_take(b->m->weights, bytes, joins ? 16 : 0);
    w->codebook = codebook_place(b, dtype); /* behind it: the arena's first byte is a matrix' */
    b->m->n_param += (uint64_t)n_in * n_out * n_expert;
    b->open = w;
    b->open_row = 0;
}

void bind_beside_last(struct binder *b) { b->beside = true; }

void bind_rows(struct binder *b, const struct gguf_tensor *t, uint64_t row0, uint32_t n)
{
    HLM_ASSERT(b->open && t->type == b->open->dtype && t->dim[0] == b->open->n_in);
    add_job(b, (struct job){ .t = t,
                             .offset = b->open->offset + b->open_row * b->open->row_q * 16,
                             .row0 = row0,
                             .n_row = n,
                             .n_in = b->open->n_in });
    b->oom |= b->oom || !lora_base_rows(&b->m->base, t, row0, n);
    b->open_row += n;
}

void bind_end(struct binder *b)
{
    HLM_ASSERT(b->open && b->open_row == (uint64_t)b->open->n_out * b->open->n_expert);
    b->last = *b->open;
    b->open = NULL;
}

bool bind_experts(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer,
                  uint32_t n_in, uint32_t n_out, uint32_t n_expert)
{
    const struct gguf_tensor *t = bind_find(b, name_fmt, i_layer, n_in, (uint64_t)n_out * n_expert);
    if (!t)
        return false;
    bind_begin(b, w, t->type, n_in, n_out, n_expert);
    bind_rows(b, t, 0, n_out * n_expert);
    bind_end(b);
    return true;
}

bool bind_linear(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out)
{
    return bind_experts(b, w, name_fmt, i_layer, n_in, n_out, 1);
}

bool bind_beside(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer, uint32_t n_in,
                 uint32_t n_out)
{
    bind_beside_last(b);
    return bind_linear(b, w, name_fmt, i_layer, n_in, n_out);
}

bool bind_bias(struct binder *b, linear *w, const char *name_fmt, uint32_t i_layer)
{
    return !model_has(b, name_fmt, i_layer) ||
           bind_vector(b, &w->bias, name_fmt, i_layer, w->n_out, 1);
}

/* As the fused form of the file has them: gate rows, then up rows, expert by expert. */
bool bind_gate_up(struct binder *b, struct moe *m, uint32_t i_layer, uint32_t n_in)
{
    uint32_t ff = m->n_ff, n = m->n_expert;
    if (model_has(b, "blk.%u.ffn_gate_up_exps.weight", i_layer))
        return bind_experts(b, &m->gate_up, "blk.%u.ffn_gate_up_exps.weight", i_layer, n_in, 2 * ff,
                            n);
    uint64_t n_row = (uint64_t)ff * n;
    const struct gguf_tensor *gate =
        bind_find(b, "blk.%u.ffn_gate_exps.weight", i_layer, n_in, n_row);
    const struct gguf_tensor *up =
        gate ? bind_find(b, "blk.%u.ffn_up_exps.weight", i_layer, n_in, n_row) : NULL;
    if (!up)
        return false;
    if (gate->type != up->type)
        return bind_experts(b, &m->gate, "blk.%u.ffn_gate_exps.weight", i_layer, n_in, ff, n) &&
               bind_experts(b, &m->up, "blk.%u.ffn_up_exps.weight", i_layer, n_in, ff, n);
    bind_begin(b, &m->gate_up, gate->type, n_in, 2 * ff, n);
    for (uint32_t e = 0; e < n; e++) {
        bind_rows(b, gate, (uint64_t)e * ff, ff);
        bind_rows(b, up, (uint64_t)e * ff, ff);
    }
    bind_end(b);
    return true;
}
