/* model: loading and running what all architectures have in common; see model.h. */
#define _POSIX_C_SOURCE 200809L
#include "model/model.h"

#include "ops/pack.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One piece of upload: rows of a tensor to packed rows, or values to f32, or words as they are. */
struct job {
    const struct gguf_tensor *t;
    const void *words; /* t == NULL: bytes to copy */
    uint64_t offset, row0;
    uint32_t n_row, n_in;
    bool vector;
    const struct gguf_tensor *scale; /* a number for t, or one for each of its experts; NULL:
                                        none */
};

struct binder {
    struct model *m;
    struct hlm_err *err;
    const char *prefix; /* general.architecture */
    struct job *job;
    uint64_t n_job, cap_job;
    bool *used;   /* by tensor index */
    void **owned; /* copies of words that jobs point to */
    uint32_t n_owned;
    linear *open; /* between bind_begin and bind_end */
    uint64_t open_row;
    linear last;                    /* the matrix bound before */
    bool beside;                    /* the next one belongs right behind it */
    bool draft;                     /* draft blocks are wanted */
    uint64_t codebook[DTYPE_COUNT]; /* where a type's codebook lies; 0: nowhere yet */
    bool oom;
};

/* ---- keys ------------------------------------------------------------------------------------ */

static const char *full_key(struct binder *b, const char *key, char *buf, size_t n)
{
    snprintf(buf, n, "%s.%s", b->prefix, key);
    return buf;
}

bool model_u32(struct binder *b, const char *key, enum gguf_need need, uint32_t *v)
{
    char k[256];
    return gguf_u32(b->m->file, full_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_f32(struct binder *b, const char *key, enum gguf_need need, float *v)
{
    char k[256];
    return gguf_f32(b->m->file, full_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_bools(struct binder *b, const char *key, enum gguf_need need, bool *v, uint64_t n)
{
    char k[256];
    const struct gguf_kv *kv = gguf_kv(b->m->file, full_key(b, key, k, sizeof k));
    uint32_t *each = kv && kv->elem != GGUF_BOOL ? mem_alloc(n, sizeof *each) : NULL;
    if (!each)
        return gguf_bool_each(b->m->file, k, need, v, n, b->err);
    /* some converters write integers */
    bool ok = gguf_u32_each(b->m->file, k, need, each, n, b->err);
    for (uint64_t i = 0; ok && i < n; i++)
        v[i] = each[i] != 0;
    free(each);
    return ok;
}

bool model_range(struct binder *b, const char *key, uint32_t v, uint32_t min, uint32_t max)
{
    if (v >= min && v <= max)
        return true;
    return fail(b->err, "%s: %s.%s is %u, expected %u to %u", gguf_path(b->m->file), b->prefix, key,
                v, min, max);
}

bool model_width(struct binder *b, const char *key, uint32_t v)
{
    if (!model_range(b, key, v, 4, 1u << 20))
        return false;
    return v % 4 == 0 ||
           model_refuse(b, "%s.%s is %u, expected a multiple of 4", b->prefix, key, v);
}

bool model_groups(struct binder *b, uint32_t n_expert, uint32_t n_used, uint32_t *n_group,
                  uint32_t *n_group_used)
{
    *n_group = max_u32(*n_group, 1);
    *n_group_used = max_u32(*n_group_used, 1);
    if (!model_range(b, "expert_group_count", *n_group, 1, 64) ||
        !model_range(b, "expert_group_used_count", *n_group_used, 1, *n_group))
        return false;
    return (n_expert % *n_group == 0 && n_used <= n_expert / *n_group * *n_group_used) ||
           model_refuse(b, "%u of %u experts from %u of %u groups do not fit together", n_used,
                        n_expert, *n_group_used, *n_group);
}

bool model_expert_scale(struct binder *b, float *scale)
{
    *scale = 0;
    if (!model_f32(b, "expert_weights_scale", OPTIONAL, scale))
        return false;
    if (!isfinite(*scale))
        return model_refuse(b, "%s.expert_weights_scale is %g, expected a finite number", b->prefix,
                            (double)*scale);
    *scale = *scale == 0 ? 1 : *scale;
    return true;
}

bool model_bool(struct binder *b, const char *key, enum gguf_need need, bool *v)
{
    char k[256];
    return gguf_bool(b->m->file, full_key(b, key, k, sizeof k), need, v, b->err);
}

bool model_u32s(struct binder *b, const char *key, enum gguf_need need, uint32_t *v)
{
    char k[256];
    return gguf_u32_each(b->m->file, full_key(b, key, k, sizeof k), need, v,
                         b->m->n_layer + b->m->n_mtp, b->err);
}

bool model_f32s(struct binder *b, const char *key, enum gguf_need need, float *v)
{
    char k[256];
    uint32_t n = b->m->n_layer + b->m->n_mtp;
    if (!gguf_f32_each(b->m->file, full_key(b, key, k, sizeof k), need, v, n, b->err))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return model_refuse(b, "%s[%u] is %g, expected a finite number", k, i, v[i]);
    return true;
}

bool model_refuse(struct binder *b, const char *fmt, ...)
{
    char msg[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return fail(b->err, "%s: %s", gguf_path(b->m->file), msg);
}

/* ---- binding --------------------------------------------------------------------------------- */

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

static float scale_value(const struct gguf_tensor *scale, uint64_t i)
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
        if (!isfinite(scale_value(scale, i)))
            return fail(b->err, "%s: %s[%" PRIu64 "] is %g, %s needs finite scales",
                        gguf_path(b->m->file), scale->name, i, (double)scale_value(scale, i),
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

/* Where the codebook of a type lies, once in the arena for all matrices; 0 for types without. */
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

/* ---- upload ---------------------------------------------------------------------------------- */

/* Bytes of a job on the device, per row. */
static uint64_t job_row_bytes(const struct job *j)
{
    return j->t && !j->vector ? pack_row_bytes(j->t->type, j->n_in) : 4ull * j->n_in;
}

/* Rows [row, row + n) of a job, written to dst. */
struct rows {
    const struct job *j;
    uint64_t row, n, row_bytes;
    uint8_t *dst;
};

static void *write_rows(void *arg)
{
    const struct rows *r = arg;
    const struct job *j = r->j;
    uint8_t *dst = r->dst;
    uint64_t src_row = 0;
    if (!j->t) {
        memcpy(dst, (const uint8_t *)j->words + r->row * r->row_bytes, r->n * r->row_bytes);
        return NULL;
    }
    dtype_bytes(j->t->type, j->n_in, &src_row);
    for (uint64_t i = 0; i < r->n; i++, dst += r->row_bytes) {
        uint64_t row = j->row0 + r->row + i;
        float scale = j->scale ? scale_value(j->scale, row / j->t->dim[1]) : 1;
        const uint8_t *src = j->t->data + row * src_row;
        if (!j->vector) {
            pack_row(j->t->type, src, j->n_in, dst);
            pack_scale(j->t->type, j->n_in, scale, dst);
            continue;
        }
        float *v = (float *)(void *)dst;
        dtype_to_f32(j->t->type, src, j->n_in, v);
        for (uint32_t k = 0; j->scale && k < j->n_in; k++)
            v[k] *= scale;
    }
    return NULL;
}

enum { MAX_THREAD = 16, THREAD_BYTES = 1 << 20 };

/* Packing is slower than the bus: big pieces are shared out over the processors. */
static void write_rows_parallel(struct rows all)
{
    struct rows part[MAX_THREAD];
    pthread_t thread[MAX_THREAD];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t n = min_u64(all.n * all.row_bytes / THREAD_BYTES + 1, cores > 0 ? (uint64_t)cores : 1);
    n = min_u64(min_u64(n, MAX_THREAD), all.n);
    uint64_t started = 0, each = (all.n + n - 1) / n;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t first = min_u64(i * each, all.n);
        part[i] = all;
        part[i].row += first;
        part[i].dst += first * all.row_bytes;
        part[i].n = min_u64(each, all.n - first);
        if (i + 1 < n && started == i && !pthread_create(&thread[i], NULL, write_rows, &part[i]))
            started++;
        else
            write_rows(&part[i]);
    }
    for (uint64_t i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
}

static bool run_job(struct binder *b, const struct job *j)
{
    struct gpu *g = b->m->gpu;
    uint64_t row_bytes = job_row_bytes(j), fit = gpu_stage_max(g) / row_bytes;
    if (fit == 0)
        return fail(b->err, "%s: a row of %s needs %" PRIu64 " bytes, more than the upload buffer",
                    gguf_path(b->m->file), j->t ? j->t->name : "a table", row_bytes);
    for (uint64_t row = 0; row < j->n_row; row += fit) {
        struct rows r = {
            .j = j, .row = row, .n = min_u64(fit, j->n_row - row), .row_bytes = row_bytes
        };
        r.dst = gpu_stage(g, b->m->weights, j->offset + row * row_bytes, r.n * row_bytes, b->err);
        if (!r.dst)
            return false;
        write_rows_parallel(r);
    }
    return true;
}

static bool upload(struct binder *b, bool (*progress)(void *, uint64_t, uint64_t), void *user)
{
    uint64_t done = 0, total = arena_bytes(b->m->weights);
    for (uint64_t i = 0; i < b->n_job; i++) {
        if (!run_job(b, &b->job[i]))
            return false;
        done += job_row_bytes(&b->job[i]) * b->job[i].n_row;
        if (progress && !progress(user, done, total))
            return false;
    }
    return gpu_stage_end(b->m->gpu, b->err);
}

bool model_commit(struct arena *a, const char *hint, struct hlm_err *err)
{
    struct hlm_err why = { 0 };
    return arena_commit(a, &why) || fail(err, "%s: %s", why.msg, hint);
}

/* ---- load ------------------------------------------------------------------------------------ */

static bool load_common(struct binder *b)
{
    struct model *m = b->m;
    uint32_t n_block = 0;
    const struct gguf_kv *tokens = gguf_kv(m->file, "tokenizer.ggml.tokens");
    bool listed = tokens && tokens->type == GGUF_ARRAY && tokens->n < UINT32_MAX;
    m->n_vocab = listed ? (uint32_t)tokens->n : 0;
    if (!model_u32(b, "block_count", REQUIRED, &n_block) ||
        !model_range(b, "block_count", n_block, 1, 512) ||
        !model_u32(b, "nextn_predict_layers", OPTIONAL, &m->n_mtp) ||
        !model_range(b, "nextn_predict_layers", m->n_mtp, 0, n_block - 1) ||
        !model_u32(b, "embedding_length", REQUIRED, &m->n_embd) ||
        !model_range(b, "embedding_length", m->n_embd, 4, 1u << 18) ||
        !model_u32(b, "context_length", REQUIRED, &m->n_ctx_train) ||
        !model_range(b, "context_length", m->n_ctx_train, 1, 1u << 28) ||
        !model_u32(b, "vocab_size", OPTIONAL, &m->n_vocab) ||
        !model_range(b, "vocab_size", m->n_vocab, 1, 1u << 24) ||
        !model_f32(b, "attention.layer_norm_epsilon", OPTIONAL, &m->eps) ||
        !model_f32(b, "attention.layer_norm_rms_epsilon", m->eps == 0 ? REQUIRED : OPTIONAL,
                   &m->eps))
        return false;
    if (m->n_embd % 4)
        return model_refuse(b, "%s.embedding_length is %u, expected a multiple of 4", b->prefix,
                            m->n_embd);
    if (!(m->eps > 0) || !isfinite(m->eps))
        return model_refuse(b,
                            "%s.attention.layer_norm_rms_epsilon is %g, "
                            "expected a positive number",
                            b->prefix, m->eps);
    m->n_layer = n_block - m->n_mtp;
    model_mtp(b, m->n_mtp);

    struct str scaling = { 0 };
    char key[256];
    full_key(b, "rope.scaling.type", key, sizeof key);
    if (!gguf_str(m->file, key, OPTIONAL, &scaling, b->err))
        return false;
    if (scaling.n && !(scaling.n == 4 && !memcmp(scaling.p, "none", 4)))
        return model_refuse(b, "%s is \"%.*s\": extended-context scaling is not supported", key,
                            (int)min_u64(scaling.n, 40), scaling.p);
    if (!bind_linear(b, &m->token_embd, "token_embd.weight", 0, m->n_embd, m->n_vocab) ||
        !bind_vector(b, &m->output_norm, "output_norm.weight", 0, m->n_embd, 1))
        return false;
    if (!model_has(b, "output.weight", 0)) {
        m->output = m->token_embd; /* tied */
        return true;
    }
    return bind_linear(b, &m->output, "output.weight", 0, m->n_embd, m->n_vocab);
}

/* A file may count draft blocks and not have them. */
void model_mtp(struct binder *b, uint32_t n)
{
    struct model *m = b->m;
    m->n_layer = m->n_layer + m->n_mtp - n;
    m->n_mtp = n;
    bool here = n && b->draft && model_has(b, "blk.%u.nextn.eh_proj.weight", m->n_layer);
    m->n_draft = here ? n : 0;
    m->base.n_layer = m->n_layer;
    m->base.n_mtp = n - m->n_draft;
}

static bool bind_draft(struct binder *b, struct draft *d, uint32_t i)
{
    struct model *m = b->m;
    d->token_embd = &m->token_embd;
    d->output = &m->output;
    d->norm = m->output_norm;
    if (!bind_linear(b, &d->eh_proj, "blk.%u.nextn.eh_proj.weight", i, 2 * m->n_embd, m->n_embd) ||
        !bind_vector(b, &d->enorm, "blk.%u.nextn.enorm.weight", i, m->n_embd, 1) ||
        !bind_vector(b, &d->hnorm, "blk.%u.nextn.hnorm.weight", i, m->n_embd, 1))
        return false;
    if (model_has(b, "blk.%u.nextn.shared_head_norm.weight", i) &&
        !bind_vector(b, &d->norm, "blk.%u.nextn.shared_head_norm.weight", i, m->n_embd, 1))
        return false;
    if (model_has(b, "blk.%u.nextn.embed_tokens.weight", i)) {
        d->token_embd = &d->own_embd;
        if (!bind_linear(b, &d->own_embd, "blk.%u.nextn.embed_tokens.weight", i, m->n_embd,
                         m->n_vocab))
            return false;
    }
    if (!model_has(b, "blk.%u.nextn.shared_head_head.weight", i))
        return true;
    d->output = &d->own_output;
    return bind_linear(b, &d->own_output, "blk.%u.nextn.shared_head_head.weight", i, m->n_embd,
                       m->n_vocab);
}

static bool bind_drafts(struct binder *b)
{
    struct model *m = b->m;
    m->draft = m->n_draft ? mem_alloc(m->n_draft, sizeof *m->draft) : NULL;
    if (m->n_draft && !m->draft)
        return fail(b->err, "out of memory: %u draft blocks", m->n_draft);
    for (uint32_t i = 0; i < m->n_draft; i++)
        if (!bind_draft(b, &m->draft[i], m->n_layer + i))
            return false;
    return true;
}

/* Draft blocks and the vision tower are known and left out; anything else unused
 * deserves a word. */
static void warn_unused(const struct binder *b)
{
    const struct gguf *g = b->m->file;
    uint64_t n = 0, first = 0;
    for (uint64_t i = 0; i < gguf_n_tensor(g); i++) {
        const char *name = gguf_tensor_at(g, i)->name;
        unsigned layer = 0;
        bool mtp = sscanf(name, "blk.%u.", &layer) == 1 && layer >= b->m->n_layer &&
                   layer < b->m->n_layer + b->m->n_mtp;
        if (b->used[i] || mtp || !strncmp(name, "v.", 2) || !strncmp(name, "mm.", 3))
            continue;
        if (n++ == 0)
            first = i;
    }
    if (n)
        log_msg(HLM_LOG_WARN, "%s: %" PRIu64 " tensor%s not used by %s, the first is %s",
                gguf_path(g), n, n == 1 ? " is" : "s are", b->prefix,
                gguf_tensor_at(g, first)->name);
}

const struct arch *model_arch(const struct gguf *g, struct hlm_err *err)
{
    static const struct arch *const archs[] = {
#define ARCH(name) &arch_##name,
#include "models/models.def"
#undef ARCH
    };
    struct str s = { 0 };
    if (!gguf_str(g, "general.architecture", REQUIRED, &s, err))
        return NULL;
    char known[256] = "";
    for (size_t i = 0; s.p && i < ARRAY_LEN(archs); i++) {
        if (strlen(archs[i]->name) == s.n && !memcmp(archs[i]->name, s.p, s.n))
            return archs[i];
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "",
                 archs[i]->name);
    }
    fail(err, "%s: architecture \"%.*s\" is not supported (known: %s)", gguf_path(g),
         (int)min_u64(s.n, 60), s.p ? s.p : "", known);
    return NULL;
}

static void binder_free(struct model *m)
{
    struct binder *b = m->binder;
    for (uint32_t i = 0; b && i < b->n_owned; i++)
        free(b->owned[i]);
    if (b) {
        free(b->owned);
        free(b->used);
        free(b->job);
    }
    free(b);
    m->binder = NULL;
}

struct model *model_load(struct gpu *g, const struct gguf *file, bool draft, struct hlm_err *err)
{
    const struct arch *arch = model_arch(file, err);
    struct model *m = arch ? mem_alloc(1, sizeof *m) : NULL;
    struct binder *b = mem_alloc(1, sizeof *b);
    bool ok = m && b;
    if (ok) {
        m->arch = arch;
        m->file = file;
        m->gpu = g;
        m->binder = b;
        m->base.file = file;
        m->base.arch = arch->name;
        *b = (struct binder){ .m = m, .err = err, .prefix = arch->name, .draft = draft };
        b->used = mem_alloc(gguf_n_tensor(file) + 1, sizeof *b->used);
        m->weights = arena_create(g, "weights", MEM_DEVICE, err);
        ok = b->used && m->weights && load_common(b) && arch->load(m, b, err) && bind_drafts(b) &&
             !b->oom;
    }
    if (!ok) {
        fail(err, "%s: out of memory while reading the tensor list", gguf_path(file));
        if (m && m->arch)
            model_unload(m);
        else
            free(m), free(b);
        return NULL;
    }
    return m;
}

bool model_upload(struct model *m, bool (*progress)(void *, uint64_t, uint64_t), void *user,
                  struct hlm_err *err)
{
    m->binder->err = err;
    bool ok = model_commit(m->weights, "a smaller quantisation of the model needs less", err) &&
              upload(m->binder, progress, user);
    if (ok)
        warn_unused(m->binder);
    binder_free(m);
    return ok;
}

void model_unload(struct model *m)
{
    if (!m)
        return;
    binder_free(m);
    arena_destroy(m->weights);
    lora_base_free(&m->base);
    m->arch->unload(m);
    free(m->draft);
    free(m);
}

/* ---- run ------------------------------------------------------------------------------------- */

static void keep_rows(struct cmd *c, const tensor *dst, uint32_t group, tensor x)
{
    if (dst)
        cmd_copy(c, tensor_rows(*dst, group * x.n_row, x.n_row), x, 4ull * x.n * x.n_row);
}

tensor model_forward(struct cmd *c, const struct model *m, struct kv *kv, const struct batch *b,
                     const tensor *hidden)
{
    cmd_half(c);
    tensor x = op_embed(c, &m->token_embd, b);
    keep_rows(c, hidden, 0, x);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        cmd_half(c);
        x = m->arch->block(c, m, i, &kv->layer[i], b, x);
        keep_rows(c, hidden, i + 1, x);
    }
    return x;
}

tensor model_head(struct cmd *c, const struct model *m, tensor x, const tensor *norm)
{
    cmd_half(c);
    if (!norm)
        return op_norm_linear(c, x, m->output_norm, m->eps, LINEARS(&m->output));
    tensor h = op_norm(c, x, m->output_norm, m->eps);
    keep_rows(c, norm, 0, h);
    return op_linear(c, h, LINEARS(&m->output));
}

tensor model_draft(struct cmd *c, const struct model *m, uint32_t i, struct layer_cache *cache,
                   const struct batch *b, tensor h, tensor e)
{
    const struct draft *d = &m->draft[i];
    tensor en = op_norm(c, e, d->enorm, m->eps);
    tensor hn = op_norm(c, h, d->hnorm, m->eps);
    tensor x = op_linear(c, op_beside(c, en, hn), LINEARS(&d->eh_proj));
    return m->arch->block(c, m, m->n_layer + i, cache, b, x);
}
